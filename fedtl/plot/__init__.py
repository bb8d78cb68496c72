"""Pictures from records alone: how methods converge, which method serves each client, who holds what.

Every function returns a matplotlib ``Figure`` that no pyplot state knows of; :func:`save` writes it.
"""

from fedtl.plot.holdings import partition
from fedtl.plot.scores import compare, convergence, per_client, terms
from fedtl.plot.style import save

__all__ = ["compare", "convergence", "partition", "per_client", "save", "terms"]
