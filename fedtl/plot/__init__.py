"""Pictures from records alone: how methods converge, which method serves each client, who holds what.

Every function returns a matplotlib ``Figure`` that no pyplot state knows of; :func:`save` writes it. All take a
``width`` in inches. Those of a study are drawn from a :class:`fedtl.comparison.Comparison`.
"""

from fedtl.plot.client_gains import gains
from fedtl.plot.client_similarity import similarity
from fedtl.plot.costs import pareto
from fedtl.plot.critical_difference import ranks
from fedtl.plot.domain_features import features
from fedtl.plot.heterogeneity import heat, settings
from fedtl.plot.holdings import partition
from fedtl.plot.own_models import personal_global
from fedtl.plot.scores import compare, convergence, per_client, terms
from fedtl.plot.style import save
from fedtl.plot.trials import sensitivity

__all__ = [
    "compare",
    "convergence",
    "features",
    "gains",
    "heat",
    "pareto",
    "partition",
    "per_client",
    "personal_global",
    "ranks",
    "save",
    "sensitivity",
    "settings",
    "similarity",
    "terms",
]
