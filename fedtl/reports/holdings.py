"""Who holds what: the federation of a run, made again from its config and checked by its record's fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import as_recorded
from fedtl.comparison.pairs import client_names
from fedtl.reports import words
from fedtl.reports.curves import Mark
from fedtl.reports.layout import Setting
from fedtl.reports.scale import Scale, Tick, over, place, thinned
from fedtl.reports.tables import Table, plain
from fedtl.runs.history import Run

if TYPE_CHECKING:
    from fedtl.data.federation import Federation
    from fedtl.data.settings import DataChoice

WIDTH = 380.0
LEFT, RIGHT, TOP, BARS, GAP, BOTTOM = 46.0, 8.0, 6.0, 44.0, 8.0, 34.0
ROW = 15.0
MOST_ROWS_HEIGHT = 330.0
MOST_CLIENTS, MOST_CELLS = 50, 1500
"""Of more clients the first ones are shown, and the title says so."""
MOST_NAMES = 25
"""Labels that are named beside the picture; of more only some are."""
SHORT = 7
SAMPLES, TEST_SAMPLES = ("sample", "samples"), ("test sample", "test samples")
OF_TARGET = ("sample of the target", "samples of the target")
UNLABELLED = ("sample without its label", "samples without their labels")
"""One of them, and several."""


@dataclass(frozen=True)
class Bubble(Mark):
    """A client's samples of one label."""

    r: str


@dataclass(frozen=True)
class Bar(Mark):
    """A client's size."""

    width: str
    height: str


@dataclass(frozen=True)
class Holding:
    """One federation's picture, in its own coordinates, and its numbers.

    Attributes:
        title: whose it is.
        summary: in words.
        checked: a sentence on how it is known.
        bubbles: of each client and label; empty where labels are not known.
        bars: each client's samples.
        numbers: the same as a table.
    """

    title: str
    summary: str
    checked: str
    bubbles: tuple[Bubble, ...]
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bar_ticks: tuple[Tick, ...]
    numbers: Table
    height: float
    width: float = WIDTH
    left: float = LEFT
    right: float = WIDTH - RIGHT


@dataclass(frozen=True)
class _Known:
    """What clients hold, from client ``start`` on or those of ``names``: samples of each label, or test samples alone.

    ``when`` says in which rounds; it is empty where it is in all.
    """

    counts: NDArray[np.int64]
    labels: tuple[str, ...]
    clients: int
    samples: tuple[str, str]
    checked: str
    start: int = 0
    when: str = ""
    names: tuple[str, ...] = ()

    def name(self, row: int) -> str:
        """Of the client of a row."""
        return self.names[row] if self.names else str(self.start + row)


def holdings(settings: Sequence[Setting], read_data: bool) -> tuple[Holding, ...]:
    """A picture for each federation that differs.

    Args:
        settings: of which the first seed is drawn.
        read_data: make federations again from the data sets, which has to read them; else, and where that cannot be
            done, clients' numbers of test samples are drawn, as records have them.
    """
    by_split: dict[str, tuple[Run, list[Setting]]] = {}
    for setting in settings:
        run = _first_run(setting)
        by_split.setdefault(str(run.environment.get("split") or _data(run)), (run, []))[1].append(setting)
    pictures = []
    for run, same in by_split.values():
        seeds = {
            seed: each.environment.get("split") for method in same[0].methods for seed, each in method.runs.items()
        }
        names = [setting.name for setting in same if setting.name]
        where = words.listed(names) if 0 < len(names) < len(settings) else ""
        if len(seeds) > 1:
            alike = len(set(seeds.values())) == 1 and None not in seeds.values()
            where += f"{', ' * bool(where)}{'all seeds' if alike else f'seed {run.seed}; other seeds divide anew'}"
        pictures += [_picture(known, where) for known in _known(run, read_data)]
    return tuple(pictures)


def _first_run(setting: Setting) -> Run:
    """The run of the smallest seed."""
    return min((run for method in setting.methods for run in method.runs.values()), key=lambda run: run.seed)


def _data(run: Run) -> str:
    return json.dumps([run.config.get("data"), run.seed], sort_keys=True, default=str)


def _known(run: Run, read_data: bool) -> list[_Known]:
    """What is known of a run's clients, of each domain."""
    if not read_data:
        return _by_record(run, "The data were not read; these are the numbers of test samples that the records have.")
    recorded = run.environment.get("split")
    if recorded is None:
        return _by_record(run, "Clients were elsewhere, so nobody here knows what they hold but their test samples.")
    try:
        federation = _federation(run.config, run.seed)
    except Exception as error:
        # A data set may be a user's own class, which may raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        return _by_record(run, f"The data could not be read here ({reason}); these are the numbers of test samples.")
    if federation.fingerprint() != recorded:
        return _by_record(
            run,
            "The data that are here give another split than the record's fingerprint says, so labels are not shown; "
            "these are the numbers of test samples that the records have.",
        )
    checked = f"Made again from the config; its fingerprint is the record's, {recorded[:12]}…"
    names = federation.label_names or tuple(str(k) for k in range(federation.classes))
    first = federation.first_of_target or federation.clients
    reached = max((int(line["round"]) for line in run.rounds), default=0)  # which may be fewer than were asked for
    later = [stage for stage in federation.later if stage.first <= reached]
    until = f"until round {later[0].first - 1}" if later else ""
    rows = [_Known(federation.label_counts(first), names, first, SAMPLES, checked, when=until)]
    for stage in later:
        counts = federation.at(stage.first).label_counts(first)
        when = f"from round {stage.first} on ({stage.because})"
        rows.append(_Known(counts, names, first, SAMPLES, checked, when=when))
    if federation.target is not None:
        start = first if first < federation.clients else 0
        counts = federation.label_counts(target=True)[start:]
        scored = len(federation.target.test.order) + len(federation.target.server_test)
        rows.append(_Known(counts, names, len(counts), OF_TARGET if scored else UNLABELLED, checked, start))
    return rows


def _federation(config: Mapping[str, Any], seed: int) -> Federation:
    from fedtl.data import read_data
    from fedtl.data.federate import federate

    with as_recorded():
        data = read_data(config["data"])
    return federate(without_download(data), seed)


def without_download(data: DataChoice) -> DataChoice:
    """The same data, of which no part is fetched from elsewhere."""
    changed: dict[str, Any] = {
        part: without_download(choice)
        for part, choice in (("target", data.target), ("public", data.public))
        if choice is not None
    }
    if (domains := getattr(data, "domains", None)) is not None:
        changed["domains"] = {name: without_download(choice) for name, choice in domains.items()}
    if "download" in type(data).model_fields:
        changed["download"] = False
    return data.model_copy(update=changed)


def _by_record(run: Run, why: str) -> list[_Known]:
    """Numbers of test samples by client, where they were scored."""
    record = next((each for each in reversed(run.clients) if each.get("samples")), None)
    if record is None or not record["samples"]:
        return []
    counts = np.array(record["samples"], np.int64)[:, None]
    names = client_names(run, record["clients"])
    everybody = max(int(run.environment.get("clients") or 0), len(counts))
    return [_Known(counts, (), everybody, TEST_SAMPLES, why, names=tuple(names))]


def _picture(known: _Known, where: str) -> Holding:
    labels = len(known.labels)
    shown = min(len(known.counts), MOST_CLIENTS, max(1, MOST_CELLS // max(labels, 1)))
    counts = known.counts[:shown]
    row = min(ROW, MOST_ROWS_HEIGHT / max(labels, 1))
    top = TOP + BARS + GAP
    bottom = top + row * labels if labels else TOP + BARS
    x = Scale(-0.5, shown - 0.5, LEFT, WIDTH - RIGHT)
    column = (WIDTH - RIGHT - LEFT) / shown
    totals = counts.sum(axis=1)
    what = "" if known.samples == SAMPLES else f", {known.samples[1]}"
    when = f", {known.when}" * bool(known.when)
    size = replace(over([0.0, float(totals.max(initial=1))], TOP + BARS, TOP, margin=0.02), low=0.0)
    bars = tuple(
        Bar(
            x=place(float(x(c)) - 0.35 * column),
            y=size(n),
            text=f"client {known.name(c)}: {words.count(int(n), *known.samples)}",
            width=place(0.7 * column),
            height=place(TOP + BARS - float(size(n))),
        )
        for c, n in enumerate(totals.tolist())
    )
    which = words.count(shown, "client")
    if shown < known.clients:
        which = f"{'the first ' * (shown < len(known.counts))}{shown} of {known.clients:,} clients"
    spread = f"{int(totals.min()):,} to {int(totals.max()):,} {known.samples[1]} a client"
    held = (counts > 0).sum(axis=1)
    classes = f", of {int(held.min())} to {int(held.max())} of {labels} labels" if labels else ""
    return Holding(
        title=f"{which[0].upper()}{which[1:]}{what}{when}{f' ({where})' * bool(where)}",
        summary=f"{which[0].upper()}{which[1:]}{when}: {spread}{classes}.",
        checked=known.checked,
        bubbles=_bubbles(known, counts, x, top, row, column),
        bars=bars,
        x_ticks=tuple(Tick(x(c), words.shortened(known.name(c), SHORT)) for c in range(0, shown, -(-shown // 12))),
        y_ticks=tuple(
            Tick(place(bottom - (k + 0.5) * row), words.shortened(known.labels[k], SHORT))
            for k in thinned(labels, MOST_NAMES)
        ),
        bar_ticks=size.ticks(2, whole=True),
        numbers=plain(
            f"What each client holds{when}{f', {where}' * bool(where)}",
            ("client", "samples", *(("labels (samples)",) if labels else ())),
            [_row(known.name(c), known.labels, each) for c, each in enumerate(counts.tolist())],
            ("client", "samples"),
        ),
        height=bottom + BOTTOM,
    )


def _bubbles(
    known: _Known, counts: NDArray[np.int64], x: Scale, top: float, row: float, column: float
) -> tuple[Bubble, ...]:
    """A circle's area is its samples; the largest one nearly fills its cell."""
    labels = len(known.labels)
    if not labels:
        return ()
    largest = 0.48 * max(min(column, row), 5.0) / float(np.sqrt(max(int(counts.max(initial=1)), 1)))
    clients, classes = np.nonzero(counts)
    return tuple(
        Bubble(
            x=x(c),
            y=place(top + row * (labels - k - 0.5)),
            text=f"client {known.name(c)}, label {known.labels[k]}: {words.count(int(counts[c, k]), *known.samples)}",
            r=f"{max(0.6, largest * float(np.sqrt(counts[c, k]))):.2f}",
        )
        for c, k in zip(clients.tolist(), classes.tolist())
    )


def _row(client: str, labels: Sequence[str], counts: Sequence[int]) -> tuple[str, ...]:
    held = ", ".join(f"{name} ({n})" for name, n in zip(labels, counts) if n)
    return (client, str(sum(counts)), *((held,) if labels else ()))
