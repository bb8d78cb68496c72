"""``fedtl table``: a study's scores, methods by settings, as a paper prints them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import AtOption, MetricOption, OnlyOption, ScoreOption, StatisticOption


def table(
    runs: Annotated[list[Path], typer.Argument(metavar="STUDY|RUN...", hidden=True)],
    form: Annotated[
        str, typer.Option("--format", show_default=False, help="text, if not given, markdown, latex, or csv.")
    ] = "text",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write it into this file; printed if not given.")
    ] = None,
    at: AtOption = "last",
    score: ScoreOption = None,
    only: OnlyOption = None,
    metric: MetricOption = None,
    statistic: StatisticOption = "weighted_mean",
) -> None:
    """Write a study's scores as a table.

    Methods are rows, settings are columns.

    STUDY is a study's folder, RUN a run's folder or one that holds runs. The best of each column and its ties are
    marked, as fedtl compare decides.
    """
    from fedtl.choice import ConfigError, nearest
    from fedtl.cli import printing
    from fedtl.comparison import compare
    from fedtl.comparison.find import load_all
    from fedtl.comparison.only import only_study
    from fedtl.comparison.table import score_table
    from fedtl.comparison.table_formats import FORMATS, formatted
    from fedtl.disk.durable import replacing

    if form not in FORMATS:
        raise ConfigError(f"--format = {form!r} is unknown: {nearest(form, FORMATS)}")
    loaded = load_all(runs)
    comparison = compare(
        loaded,
        score=score,
        only=only or (),
        metric=metric,
        statistic=statistic,
        at=at,  # type: ignore[arg-type]  # which is checked there
        resamples=0,
    )
    study = None if loaded.study is None else only_study(loaded.study, only or (), loaded.runs)
    text = formatted(score_table(comparison, study), form)
    if output is None:
        typer.echo(text)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as unfinished:
            unfinished.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output = {str(output)!r}: it cannot be written: {error.strerror or error}") from error
    printing.out.print(f"{output}", markup=False, soft_wrap=True)
