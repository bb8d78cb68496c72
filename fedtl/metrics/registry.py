"""Metrics by name, and all of a config's at once."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, Registry, resolve
from fedtl.metrics.contract import Labels, Metric, Probabilities, Table, Values
from fedtl.metrics.own import Own
from fedtl.metrics.tokens import OfLoss

METRICS: Registry = {
    "auc": "fedtl.metrics.ranking:AUC",
    "average_precision": "fedtl.metrics.ranking:AveragePrecision",
    "balanced_accuracy": "fedtl.metrics.by_class:BalancedAccuracy",
    "brier": "fedtl.metrics.probabilities:Brier",
    "ece": "fedtl.metrics.probabilities:CalibrationError",
    "log_loss": "fedtl.metrics.probabilities:LogLoss",
    "macro_f1": "fedtl.metrics.by_class:MacroF1",
    "macro_precision": "fedtl.metrics.by_class:MacroPrecision",
    "precision_by_class": "fedtl.metrics.by_class:PrecisionByClass",
    "recall_by_class": "fedtl.metrics.by_class:RecallByClass",
    "weighted_f1": "fedtl.metrics.by_class:WeightedF1",
}

MULTILABEL: Registry = {
    "hamming_loss": "fedtl.metrics.multilabel:HammingLoss",
    "macro_auc": "fedtl.metrics.multilabel:MacroAUC",
    "macro_average_precision": "fedtl.metrics.multilabel:MacroAveragePrecision",
    "macro_f1": "fedtl.metrics.multilabel:MacroF1",
    "micro_f1": "fedtl.metrics.multilabel:MicroF1",
    "subset_accuracy": "fedtl.metrics.multilabel:SubsetAccuracy",
}

REGRESSION: Registry = {
    "mae": "fedtl.metrics.numbers:MeanAbsoluteError",
    "mse": "fedtl.metrics.numbers:MeanSquaredError",
    "r2": "fedtl.metrics.numbers:R2",
    "rmse": "fedtl.metrics.numbers:RootMeanSquaredError",
}

BY_TASK: Mapping[str, Registry] = {
    "classification": METRICS,
    "binary": METRICS,
    "multilabel": MULTILABEL,
    "regression": REGRESSION,
    "next_token": {"perplexity": "fedtl.metrics.tokens:Perplexity"},
    "survival": {"c_index": "fedtl.metrics.numbers:ConcordanceIndex"},
}
"""The metrics that there are for a task, by its name."""

ALWAYS = ("accuracy", "loss")
"""What every score has, asked for or not; where a prediction is neither right nor wrong, the loss alone."""

SMALLER_IS_BETTER = frozenset(
    {"loss", "cross_entropy", "brier", "ece", "log_loss", "hamming_loss", "mae", "mse", "rmse", "perplexity"}
)
KEY = "evaluate.metrics"
NOT_POOLED = "clients keep their predictions"


def read_metrics(names: Sequence[str], task: str = "classification") -> Metrics:
    """Metrics by the names that a config lists; those that every score has are left out.

    Args:
        names: as the config has them.
        task: what is predicted.

    Raises:
        ConfigError: there is no such metric, or two are of one name.
    """
    metrics: dict[str, Metric] = {}
    known = BY_TASK.get(task, {})
    taken = {*ALWAYS, *(name for rows in BY_TASK.values() for name in rows)}
    for path in names:
        if path in ALWAYS:
            continue
        if path not in known and (others := [name for name, row in BY_TASK.items() if path in row]):
            raise ConfigError(
                f"{KEY} = {path!r}: it is a metric of {', '.join(others)}; data.task is {task!r}, of which there are "
                f"{', '.join(known)}"
            )
        part = resolve({**known, **dict.fromkeys(ALWAYS, "")}, path, KEY)
        name = path.rpartition(":")[2]
        if isinstance(part, type) and issubclass(part, Metric):
            metric = part()
        elif callable(part):
            metric = Own(part, path)
        else:
            raise ConfigError(f"{KEY} = {path!r}: it is neither a function nor a subclass of fedtl.metrics.Metric")
        if name in metrics or (":" in path and name in taken):
            raise ConfigError(f"{KEY} = {path!r}: there is another metric {name!r}; give this one another name")
        metrics[name] = metric
    return Metrics(metrics)


@dataclass(frozen=True)
class Metrics:
    """All of a config's metrics besides accuracy and loss.

    Attributes:
        by_name: in the config's order.
    """

    by_name: Mapping[str, Metric] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_name)

    @property
    def tables(self) -> dict[str, type[Table]]:
        """The tables out of which they follow, by name."""
        tables = (metric.table for metric in self.by_name.values())
        return {table.__name__: table for table in tables if table is not None}

    @property
    def of_predictions(self) -> bool:
        """Whether any looks at predictions themselves."""
        return any(not isinstance(metric, OfLoss) for metric in self.by_name.values())

    def of_loss(self, loss: float) -> dict[str, float]:
        """Those that follow from the mean loss."""
        return {n: metric.of_loss(loss) for n, metric in self.by_name.items() if isinstance(metric, OfLoss)}

    def without_predictions(self) -> Metrics:
        """Those that are pooled exactly without predictions."""
        return Metrics({name: metric for name, metric in self.by_name.items() if metric.exact})

    def of(self, labels: Labels, probabilities: Probabilities) -> dict[str, float]:
        """Every metric of n ≥ 1 samples' predictions; one that each class has is named ``"recall_by_class/3"``.

        None is defined where a prediction is no number.
        """
        if not np.isfinite(probabilities).all():
            return dict.fromkeys(self.names(probabilities.shape[1]), np.nan)
        tables = self.without_predictions().tabulate(labels, probabilities)
        values: dict[str, float] = {}
        for name, metric in self.by_name.items():
            if isinstance(metric, OfLoss):
                continue
            if metric.exact and metric.table is not None:
                values |= _named(name, metric, metric.of_table(tables[metric.table.__name__]))
            else:
                values |= _named(name, metric, metric.of(labels, probabilities))
        return values

    def check_one(self, key: str, asked: str, classes: int | None = None) -> None:
        """Check that a metric by which something is chosen is one number of a score.

        Args:
            key: the config's, that asks for it.
            asked: its name, as ``"macro_f1"``, ``"loss"`` or ``"recall_by_class/3"``.
            classes: how many numbers metrics see of a prediction; None where the data are not read yet.

        Raises:
            ConfigError: it is a number of each class and names none of these, or is none and names one.
        """
        name, of_class, number = asked.partition("/")
        by_class = name in self.by_name and self.by_name[name].by_class
        if of_class and not by_class:
            raise ConfigError(f"{key} = {asked!r}: {name} is one number of all classes together; give {name!r}")
        if by_class and not (number.isascii() and number.isdigit() and str(int(number)) == number):
            raise ConfigError(f"{key} = {asked!r}: {name} is a number of each class; name one, as '{name}/0'")
        if by_class and classes is not None and int(number) >= classes:
            raise ConfigError(f"{key} = {asked!r}: there is no such class; they go from 0 to {classes - 1}")

    def names(self, classes: int) -> list[str]:
        """The names of all values."""
        return [
            each
            for name, metric in self.by_name.items()
            for each in ([f"{name}/{c}" for c in range(classes)] if metric.by_class else [name])
        ]

    def shapes(self, classes: int, labelled: bool = True) -> dict[str, tuple[int, ...]]:
        """The tables' shapes, by name, where a prediction is so many numbers, of one label or of as many."""
        one = np.zeros((1,) if labelled else (1, max(classes, 1)), np.int64), np.full((1, max(classes, 1)), 1.0)
        return {name: table.shape for name, table in self.tabulate(*one).items()}

    def tabulate(self, labels: Labels, probabilities: Probabilities) -> dict[str, NDArray[Any]]:
        """The tables of some samples, without those of which a prediction is no number."""
        numbers = np.isfinite(probabilities).all(1)
        if not numbers.all():
            labels, probabilities = labels[numbers], probabilities[numbers]
        return {name: table().of(labels, probabilities) for name, table in self.tables.items()}

    def pooled(
        self,
        tables: Mapping[str, NDArray[Any]],
        predictions: tuple[Labels, Probabilities] | None,
        loss: float = np.nan,
    ) -> dict[str, dict[str, Any]]:
        """Every metric of all clients' samples together that is no mean over samples, as the record has it.

        Args:
            tables: those of all clients joined, of metrics that follow from these.
            predictions: of all samples; None where clients keep theirs, and what needs them follows from a histogram.
                Samples of which a prediction is no number are left out.
            loss: the mean over all samples.

        Returns:
            By name ``"pooled"``, and ``"bins"`` where the histogram has so many; ``"not_pooled"``, why there is no
            number, of one that needs predictions where there are none.
        """
        if predictions is not None:
            numbers = np.isfinite(predictions[1]).all(1)
            predictions = predictions[0][numbers], predictions[1][numbers]
        pooled: dict[str, dict[str, Any]] = {n: {"pooled": value} for n, value in self.of_loss(loss).items()}
        for name, metric in self.by_name.items():
            bins = {}
            if predictions is not None and not metric.exact:
                values = metric.of(*predictions) if len(predictions[0]) else np.asarray(np.nan)
            elif metric.table is not None:
                with np.errstate(invalid="ignore"):  # of no samples nothing is defined
                    values = metric.of_table(tables[metric.table.__name__])
                bins = {"bins": metric.table.bins} if metric.table.bins else {}
            else:
                if not metric.exact:
                    pooled[name] = {"pooled": None, "not_pooled": NOT_POOLED}
                continue
            pooled |= {each: {"pooled": value, **bins} for each, value in _named(name, metric, values).items()}
        return pooled


def headline(asked: Sequence[str], recorded: Container[str]) -> str:
    """The metric that a run is shown by: the first asked for that is recorded as one number, else accuracy, or loss."""
    shown = next((name for path in asked if (name := path.rpartition(":")[2]) in recorded), "accuracy")
    return "loss" if shown not in recorded and "loss" in recorded else shown


def _named(name: str, metric: Metric, values: Values) -> dict[str, float]:
    """A metric's value, or one for each class, by name."""
    if not metric.by_class:
        return {name: float(values)}
    return {f"{name}/{c}": float(value) for c, value in enumerate(values)}
