"""Metrics by name, and all of a config's at once."""

from fedtl.metrics.contract import Labels, Metric, Predictions, Probabilities, Table, Truth, Values
from fedtl.metrics.registry import METRICS, SMALLER_IS_BETTER, Metrics, read_metrics

__all__ = [
    "METRICS",
    "SMALLER_IS_BETTER",
    "Labels",
    "Metric",
    "Metrics",
    "Predictions",
    "Probabilities",
    "Table",
    "Truth",
    "Values",
    "read_metrics",
]
