"""``fedtl report``: a study, or runs, as one page that can be sent to somebody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli import printing
from fedtl.cli.options import AgainstOption, AtOption, MetricOption, ScoreOption, StatisticOption, TargetOption


def report(
    sources: Annotated[list[Path], typer.Argument(metavar="STUDY|RUN...", hidden=True)],
    output: Annotated[
        Path, typer.Option("-o", "--output", show_default=False, help="The page; report.html if not given.")
    ] = Path("report.html"),
    score: ScoreOption = None,
    metric: MetricOption = None,
    statistic: StatisticOption = "weighted_mean",
    against: AgainstOption = None,
    at: AtOption = "last",
    target: TargetOption = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Read no data set: draw clients' sizes, not which labels they hold.")
    ] = False,
    made: Annotated[
        str,
        typer.Option("--made", metavar="WORDS", show_default=False, help="When or by whom, if it is to stand there."),
    ] = "",
) -> None:
    """Write a study, or runs, as one HTML page.

    The page loads nothing. It has the answer, pictures, tables, and how to repeat it.

    STUDY is a study's folder; RUN is a run's folder, or a folder that holds runs. Only records are read, and the data
    sets, for who holds what.
    """
    from fedtl.reports import report as write

    written = write(
        sources,
        output,
        score=score,
        metric=metric,
        statistic=statistic,
        against=against,
        target=target,
        at=at,  # type: ignore[arg-type]  # which is checked there
        read_data=not no_data,
        made=made,
    )
    printing.out.print(f"{written}", markup=False, soft_wrap=True)
