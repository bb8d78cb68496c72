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
    from fedtl.runs.history import Run

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

USAGE_ERROR, RUN_ERROR, INTERRUPTED = 2, 1, 130

# Arguments are explained in the commands' docstrings: whether their own help is printed depends on the
# versions of typer and click, which also print "[default: ...]" with a stray backslash.
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", hidden=True)]
OverridesArgument = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", hidden=True)]


def print_scores(runs: Sequence[Run], metric: str | None = None) -> None:
    """Print runs' scores as a table, by a metric or, without one, by that of the first run's config."""
    metric = metric or runs[0].metric
    from fedtl.runs.history import over_same_clients

    unit = " in %" if metric == "accuracy" else ""
    out.print(f"{metric}{unit}; clients: mean weighted by test samples, and the worst tenth's")
    print_whole(summary_table(runs, metric))
    if len(runs) > 1 and not over_same_clients(runs):
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

    A mean over fewer clients than should have been scored says so: ``84.29 (7 of 10 clients)``.
    """

    def as_text(value: float) -> str:
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f}" if metric == "accuracy" else f"{value:.4f}"

    rows: list[tuple[str, ...]] = []
    for one in runs:
        last, worst, best = one.last(metric), one.last(metric, "worst_decile"), one.best(metric)
        rows.append((f"{one.label}, seed {one.seed}" + ("" if last else ": no scored round yet"), *[""] * 7))
        for name, (round, value) in last.items():
            most = best[name]
            rows.append(
                (
                    "  " + name + (_which_personal(one, name) if name.startswith("personal") else ""),
                    as_text(value),
                    str(one.coverage(name, round) or ""),
                    str(round),
                    as_text(worst[name].value) if name.endswith("clients") else "",
                    as_text(most.value),
                    str(one.coverage(name, most.round) or ""),
                    "-" if math.isnan(most.value) else str(most.round),
                )
            )
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    names, *numbers = zip(*rows) if rows else [()] * 8
    table.add_column("method", no_wrap=True)
    last_values, last_marks, last_rounds, worst_values, best_values, best_marks, best_rounds = numbers
    columns = [
        add_numbers(table, "last", last_values, last_marks),
        add_numbers(table, "round", last_rounds),
        add_numbers(table, "worst 10 %", worst_values),
        add_numbers(table, "best", best_values, best_marks),
        add_numbers(table, "round", best_rounds),
    ]
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
