"""A run's progress on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from fedtl.config.schema import Config
from fedtl.metrics.registry import headline
from fedtl.server.report import Round
from fedtl.server.scores import Coverage, marked
from fedtl.wire.messages import HELD_OUT

SHORT = {
    "global/clients": "global",
    "personal/clients": "personal",
    "global/target-clients": "global on target",
    "personal/target-clients": "personal on target",
    "global/unseen-clients": "global on unseen",
    "personal/unseen-clients": "personal on unseen",
}
"""What the bar has room for, besides domains that no client has; the server's test set is in the record."""


class Progress:
    """Knows where a run is, and prints nothing."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        """The run's; None before it has one."""

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """Remember where the run is."""
        self.folder = folder

    def round(self, report: Round) -> None:
        """Nothing: the run's folder says how far it is."""

    def note(self, text: str) -> None:
        """Nothing: it is recorded."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class ProgressBar(Progress):
    """Rounds, loss, accuracies, clients per second and the time left; failures as lines above it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._bar = rich.progress.Progress(
            BarColumn(bar_width=6, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            # Where the terminal is too narrow, this one takes a second line.
            TextColumn("{task.fields[status]}", markup=False, table_column=Column()),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
        )
        self._metrics: Sequence[str] = ()
        self._scores = ""
        self._busy = 0.0
        self._clients = 0

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """Say what runs where, and start the bar."""
        place = about["grid"] if about["actors"] is None else f"{about['actors']} Ray actors"
        if about["actors"] == "auto":
            place = "as many Ray actors as the cluster has room for"
        super().begin(config, folder, first_round, about)
        self._metrics = config.evaluate.metrics
        self._console.print(
            f"{config.name}: {config.strategy.name}, {config.model.name} ({about['parameters']:,} numbers), "
            f"{config.data.name}{_target(config)} at {about['clients']} clients, seed {config.seed}; "
            f"{place}, {about['device']}, {about['engine']} ({about['engine_because']})",
            markup=False,
        )
        for note in about.get("notes", ()):
            self._console.print(note, markup=False, soft_wrap=True)
        self._bar.start()
        finished = first_round - 1
        total = finished if "stopped" in about else config.rounds
        status = "starting" if finished < total else ""
        self._task = self._bar.add_task(config.strategy.name, total=total, completed=finished, status=status)

    def round(self, report: Round) -> None:
        """Move on by a round."""
        super().round(report)
        self._busy += report.seconds - report.seconds_scoring
        self._clients += len(report.clients)
        for client, text in report.failures:
            self._bar.console.print(
                f"round {report.round}: client {client} failed: {text}", markup=False, soft_wrap=True
            )
        parts = [
            _marked(f"{short} {score_text(s, self._metrics, 1)}", coverage_of(s, self._metrics))
            for n, s in report.scores.items()
            if (short := _short(n))
        ]
        self._scores = "  ".join(parts) or self._scores
        loss = f"loss {sum(report.train.values()):.3f}" if len(report.train) == 1 else _terms(report.train)
        if report.trained is not None:
            loss = _marked(loss, Coverage(report.trained, len(report.clients)))
        rate = self._clients / max(self._busy, 1e-9)
        self._bar.update(self._task, completed=report.round, status=f"{loss}  {self._scores}  {rate:.0f} clients/s")
        if report.ends:
            self._bar.update(self._task, total=report.round)

    def note(self, text: str) -> None:
        """Say it above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def _short(score: str) -> str:
    """What the bar calls a score; empty where it has no room for that."""
    domain = score.removeprefix(f"global/{HELD_OUT}")
    return SHORT.get(score, "") if domain == score else f"global on held-out {domain}"


def _target(config: Config) -> str:
    """The other domain, and who holds it if others do."""
    target = config.data.target
    if target is None:
        return ""
    return f" -> {target.name}" + (f" (the last {target.clients} of them)" if target.clients else "")


def _marked(text: str, coverage: Coverage | None) -> str:
    """A mean with the mark that it needs, as short as the bar is."""
    return marked(text, coverage).replace(" clients)", ")")


def _terms(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())


def coverage_of(score: Mapping[str, Any], asked: Sequence[str]) -> Coverage | None:
    """Over which part of the clients the number of :func:`score_text` is."""
    return Coverage.of_row(score, headline(asked, score))


def score_text(score: Mapping[str, Any], asked: Sequence[str], digits: int) -> str:
    """A score by the metric that its run is shown by; over clients the mean weighted by their test samples.

    Args:
        score: as the record has it.
        asked: ``evaluate.metrics``.
        digits: behind the point of a percentage; others have two more.
    """
    metric = headline(asked, score)
    value = score[metric]
    mean = float(value["weighted_mean"] if isinstance(value, Mapping) else value)
    return f"{100 * mean:.{digits}f} %" if metric == "accuracy" else f"{metric} {mean:.{digits + 2}f}"
