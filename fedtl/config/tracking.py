"""Trackers: other places that a run's numbers are written to, and the contract for one of your own."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from fedtl.choice import MAIN, Choice, ConfigError, Registry, read_choice

TRACKERS: Registry = {
    "mlflow": "fedtl.tracking.mlflow:MLflow",
    "tensorboard": "fedtl.tracking.tensorboard:TensorBoard",
    "wandb": "fedtl.tracking.wandb:WeightsAndBiases",
}

End = Literal["finished", "failed", "killed"]


class TrackedRun(NamedTuple):
    """A run as a tracker sees it.

    Attributes:
        folder: the run's.
        id: 32 hexadecimal digits, the same when the run is resumed, even if it is killed at any instant.
        config: the resolved config, as plain tables.
    """

    folder: Path
    id: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def parameters(self) -> dict[str, Any]:
        """The config as one level of keys, as ``"strategy.lr"`` and ``"objective.0.term"``."""
        return _flat({key: value for key, value in self.config.items() if key != "tracking"})


class Writer(Protocol):
    """What writes one run's numbers to a tracker."""

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        """Write a round's numbers, so that whoever reads the tracker sees them.

        Args:
            round: its number, the tracker's step.
            numbers: by the names of the columns of :meth:`fedtl.Run.table`; NaN for what was no finite number.
        """

    def close(self, end: End) -> None:
        """The run has ended: no round follows until it is resumed."""


class Tracker(Choice):
    """A tracker that a config names; its fields are its options.

    It runs in a process of its own, beside the run. When a run is resumed, :meth:`open` is called again and all rounds
    of the record are written again, from the first on: a tracker replaces what it has of them, or leaves it.
    """

    package: ClassVar[str | None] = None
    """The package that must be installed, which is also the name of fedtl's extra."""

    def open(self, run: TrackedRun) -> Writer:
        """Open or create what this tracker has of a run."""
        raise NotImplementedError


def read_tracker(table: Mapping[str, Any], key: str) -> Tracker:
    """Read one entry of ``tracking``, without asking whether its package is there.

    Raises:
        ConfigError: the name is unknown, or an option is wrong.
    """
    name = table.get("name")
    if isinstance(name, str) and name.startswith(f"{MAIN}:"):
        raise ConfigError(
            f"{key}.name = {name!r}: a tracker runs in a process of its own; put the class in a .py file and give "
            f"'file:{name.partition(':')[2]}'"
        )
    return read_choice(Tracker, TRACKERS, table, key, "{ name = 'mlflow' }")


def check_trackers(tables: tuple[Mapping[str, Any], ...]) -> None:
    """Check the entries of ``tracking`` before a run begins.

    Raises:
        ConfigError: one is unknown, has a wrong option, or needs a package that is not installed.
    """
    for i, table in enumerate(tables):
        tracker = read_tracker(table, f"tracking[{i}]")
        package = tracker.package
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"tracking[{i}].name = {tracker.name!r}: {package} is not installed: pip install 'fedtl[{package}]'"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(each, Mapping) for each in value):
        pairs = {str(i): each for i, each in enumerate(value)}.items()
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in pairs:
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
