"""A study, or runs, as one page that can be sent to somebody: what was asked, what is shown, how to check it.

The page is one HTML file that loads nothing. :func:`report` writes it; the rooms below say what stands on it.
"""

from fedtl.reports.write import report

__all__ = ["report"]
