"""``fedtl compare``: methods by the records of their runs, with what the numbers can and cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtl.cli.options import (
    AgainstOption,
    AtOption,
    MetricOption,
    OnlyOption,
    ScoreOption,
    StatisticOption,
    TargetOption,
)

if TYPE_CHECKING:
    from fedtl.comparison import Comparison
    from fedtl.comparison.formats import Section

FORMATS = ("table", "markdown", "latex", "json")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", hidden=True)],
    score: ScoreOption = None,
    only: OnlyOption = None,
    metric: MetricOption = None,
    statistic: StatisticOption = "weighted_mean",
    against: AgainstOption = None,
    at: AtOption = "last",
    target: TargetOption = None,
    form: Annotated[
        str, typer.Option("--format", show_default=False, help="table, if not given, markdown, latex, or json.")
    ] = "table",
) -> None:
    """Compare methods over seeds and clients, out of runs' records.

    RUN is a run's folder, or a folder that holds runs; runs that differ in their seed alone are one method.
    """
    from fedtl.choice import ConfigError, nearest
    from fedtl.comparison import compare as compare_runs
    from fedtl.comparison import formats

    if form not in FORMATS:
        raise ConfigError(f"--format = {form!r} is unknown: {nearest(form, FORMATS)}")
    comparison = compare_runs(
        runs,
        score=score,
        only=only or (),
        metric=metric,
        statistic=statistic,
        against=against,
        at=at,  # type: ignore[arg-type]  # which is checked there
        target=target,
    )
    if form == "table":
        show(comparison)
        return
    text = {"json": formats.as_json, "markdown": formats.markdown, "latex": formats.latex}[form](comparison)
    typer.echo(text)


def show(comparison: Comparison) -> None:
    """Print a comparison as tables and sentences."""
    from fedtl.cli import printing
    from fedtl.comparison import formats

    for section in formats.sections(comparison):
        printing.out.print(section.title, markup=False, soft_wrap=True)
        _print(section)
        printing.out.print()
    for note in comparison.notes:
        printing.out.print(f"- {note}", markup=False, soft_wrap=True)


def _print(section: Section) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from fedtl.cli import printing

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    columns = []
    for number, (header, cells) in enumerate(zip(section.header, zip(*section.rows))):
        words = section.is_words(number)
        table.add_column(header, justify="left" if words else "right", no_wrap=True)
        columns.append(cells if words else _aligned(cells))
    for row in zip(*columns):
        table.add_row(*map(Text, row))
    printing.print_whole(table)


def _aligned(cells: Sequence[str]) -> list[str]:
    """Numbers below each other, whether or not they have a deviation."""
    from fedtl.comparison.formats import PLUS_MINUS

    parts = [cell.partition(PLUS_MINUS) for cell in cells]
    width = max(len(after) for _, _, after in parts)
    return [
        f"{mean}{sign}{after.rjust(width)}" if sign else f"{mean}{' ' * (len(PLUS_MINUS) + width) if width else ''}"
        for mean, sign, after in parts
    ]
