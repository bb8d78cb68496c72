"""What a worker's reply says of scores besides accuracy and loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedtl.engine.task import Score
from fedtl.metrics import Metrics
from fedtl.wire import messages as m


class FurtherScores:
    """Every client's own values, and what its clients' samples together need to be scored.

    Args:
        metrics: the config's.
        shows_predictions: whether predictions themselves travel, where a metric needs them.
    """

    def __init__(self, metrics: Metrics, shows_predictions: bool) -> None:
        without = metrics.without_predictions()
        self._shows = shows_predictions and len(without.by_name) < len(metrics.by_name)
        self._tabulated = without if self._shows else metrics
        self._tables: dict[str, NDArray[Any]] = {}
        self._predictions: dict[str, list[NDArray[Any]]] = {}

    def add(self, rows: dict[str, list[Any]], name: str, score: Score) -> None:
        """Add a client's score.

        Args:
            rows: the reply's metrics, to which the client's values are added.
            name: of domain and model.
            score: of the client's samples.
        """
        for metric, value in score.values.items():
            rows.setdefault(f"{name}{m.METRIC}{metric}", []).append(value)
        if score.labels is None or score.probabilities is None:
            return
        tables = self._tabulated.tables
        for table, more in self._tabulated.tabulate(score.labels, score.probabilities).items():
            key = f"{name}/{table}"
            self._tables[key] = tables[table]().joined([self._tables[key], more]) if key in self._tables else more
        if self._shows:
            self._predictions.setdefault(name, []).append(score.probabilities)

    def add_labels(self, domain: str, score: Score) -> None:
        """Add a client's labels, which all models are scored by."""
        if self._shows and score.labels is not None:
            self._predictions.setdefault(f"{domain}{m.LABELS}", []).append(score.labels)

    def records(self) -> Mapping[str, ArrayRecord]:
        """The reply's further records, none where nothing was added."""
        records = {}
        if self._tables:
            records[m.TABLES] = m.pack_all(self._tables)
        if self._predictions:
            joined = {name: np.concatenate(parts) for name, parts in self._predictions.items()}
            records[m.PREDICTIONS] = m.pack_all(joined)
        return records
