"""Methods compared by the records of their runs: over seeds, paired over clients, with what cannot be concluded.

:func:`compare` gives a :class:`Comparison`; :mod:`fedtl.comparison.formats` writes it as a table.
"""

from fedtl.comparison.compare import compare
from fedtl.comparison.result import Comparison, Difference, Reached, Summary, Transfer

__all__ = ["Comparison", "Difference", "Reached", "Summary", "Transfer", "compare"]
