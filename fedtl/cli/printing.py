"""What commands print: scores and tables, and what their arguments and exit codes are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fedtl.runs.history import Point, Run

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

USAGE_ERROR, RUN_ERROR, INTERRUPTED = 2, 1, 130

# Arguments are explained in the commands' docstrings: whether their own help is printed depends on the
# versions of typer and click, which also print "[default: ...]" with a stray backslash.
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", hidden=True)]
OverridesArgument = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", hidden=True)]


def print_scores(runs: Sequence[Run], metric: str | None = None) -> None:
    """Print runs' scores as a table, by a metric or, without one, by the one that all are shown by, else accuracy."""
    from fedtl.runs.history import over_same_clients, shared_metric

    metric = metric or shared_metric(runs)
    unit = " in %" if metric == "accuracy" else ""
    out.print(f"{metric}{unit}; clients: mean weighted by test samples, and the worst tenth's")
    print_whole(summary_table(runs, metric))
    for one in runs:
        if one.stopped is not None:
            which = f"{one.label}, seed {one.seed}: " if len(runs) > 1 else ""
            out.print(f"{which}{one.stopped}", markup=False, soft_wrap=True)
    if len(runs) > 1 and not over_same_clients(runs, metric):
        out.print(
            "Not all of these means are over the same clients, so they do not compare as they stand.", soft_wrap=True
        )


def print_whole(table: Table) -> None:
    """Print a table as wide as it is."""
    # On a narrow terminal lines are longer than it rather than cut.
    width = max(out.width, table.__rich_measure__(out, out.options.update(max_width=1000)).maximum)
    out.print(Segments(out.render(table, out.options.update(width=width))), end="", crop=False, soft_wrap=True)


def summary_table(runs: Sequence[Run], metric: str = "accuracy") -> Table:
    """Each run's scores: which model on which data, its last value and its best, and in which round.

    Where there are scores on validation samples, the best by validation is a score's value in the round that was best
    on them; the best on test is chosen on the data that it reports. A mean over fewer clients than should have been
    scored says so: ``84.29 (7 of 10 clients)``.
    """
    from fedtl.runs.history import BY_VALIDATION, ON_TEST, mean_over_clients

    def as_text(value: float) -> str:
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f}" if metric == "accuracy" else f"{value:.4f}"

    def mark(one: Run, name: str, at: Point) -> str:
        return str(one.coverage(name, at.round, metric) or "")

    def point(one: Run, name: str, at: Point | None) -> tuple[str, str, str]:
        """A value, the mark that it needs, and its round."""
        return ("", "", "") if at is None else (as_text(at.value), mark(one, name, at), str(at.round))

    def chosen(one: Run, name: str, at: Point | None) -> tuple[str, str, str]:
        """The same of the best round, which there is not where no score is a number."""
        return ("-", mark(one, name, at), "-") if at is not None and math.isnan(at.value) else point(one, name, at)

    rows: list[tuple[str, ...]] = []
    for one in runs:
        last, worst = one.last(metric), one.last(metric, "worst_decile")
        by_validation, on_test = one.bests(metric).values()
        goes_on = not one.rounds or one.rounds[-1]["round"] < one.config["rounds"]
        unscored = ": no scored round" + (" yet" if goes_on else "")
        rows.append((f"{one.label}, seed {one.seed}" + ("" if last else unscored), *[""] * 10))
        for name, at in last.items():
            rows.append(
                (
                    "  " + name + (_which_personal(one, name) if name.startswith("personal") else ""),
                    *point(one, name, at),
                    as_text(worst[name].value) if mean_over_clients(name) else "",
                    *chosen(one, name, by_validation.get(name)),
                    *chosen(one, name, on_test.get(name)),
                )
            )
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    names, *numbers = zip(*rows) if rows else [()] * 11
    table.add_column("method", no_wrap=True)
    columns = [
        add_numbers(table, "last", *numbers[:2]),
        add_numbers(table, "round", numbers[2]),
        add_numbers(table, "worst 10 %", numbers[3]),
    ]
    for header, (values, marks, rounds) in zip((BY_VALIDATION, ON_TEST), (numbers[4:7], numbers[7:])):
        if any(values):
            columns += [add_numbers(table, header, values, marks), add_numbers(table, "round", rounds)]
    for name, *cells in zip(names, *columns):
        table.add_row(Text(name), *cells)
    return table


def add_numbers(table: Table, header: str, values: Sequence[str], marks: Sequence[str] = ()) -> Sequence[str]:
    """Add a column to a table: numbers below each other, with a mark in brackets behind those that need one.

    Returns:
        Its cells.
    """
    if not any(marks):
        table.add_column(header, justify="right", no_wrap=True)
        return values
    width = max(map(len, values))
    table.add_column(header.rjust(width), no_wrap=True)
    return [value.rjust(width) + (f" ({mark})" if mark else "") for value, mark in zip(values, marks)]


def _which_personal(one: Run, name: str) -> str:
    from fedtl.clients.serving import Serving

    scored = [record["scores"] for record in one.rounds if name in (record.get("scores") or {})]
    score = scored[-1][name]
    without = f", {score['clients_without']} without" if score.get("clients_without") else ""
    return f" ({Serving(score['model'])}{without})" if "model" in score else ""
