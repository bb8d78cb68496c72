"""Options that commands share which compare runs."""

from __future__ import annotations

from typing import Annotated

import typer

ScoreOption = Annotated[
    str | None,
    typer.Option(
        "--score",
        help="As global/clients, or data alone, as unseen-clients; the model that serves each client if not given.",
    ),
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", help="A method, or key=value as alpha=0.1; repeatable.")
]
MetricOption = Annotated[
    str | None, typer.Option("--metric", help="As loss; the first of evaluate.metrics, or accuracy, if not given.")
]
StatisticOption = Annotated[
    str, typer.Option("--statistic", show_default=False, help="Over clients: weighted_mean, if not given, or mean.")
]
AgainstOption = Annotated[
    str | None, typer.Option("--against", metavar="METHOD", help="Compare all with this one; each pair if not given.")
]
AtOption = Annotated[
    str, typer.Option("--at", show_default=False, help="The last round, if not given, or the best by validation.")
]
TargetOption = Annotated[
    float | None, typer.Option("--target", help="Also say what it took to reach this score, as 0.9.")
]
