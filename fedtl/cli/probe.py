"""``fedtl probe``: what a trained model's features are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedtl.export.probe import Result

# Everything else is imported by the command, as in fedtl/cli/commands.py.

RESULTS = "probe.jsonl"


def probe(
    folder: Annotated[Path, typer.Argument(metavar="RUN", hidden=True)],
    labels: Annotated[
        list[float] | None,
        typer.Option(
            "--labels", metavar="SHARE", help="Of the training labels, as 0.01; repeatable; all if not given."
        ),
    ] = None,
    kind: Annotated[str, typer.Option("--kind", show_default=False, help="linear, if not given, or knn.")] = "linear",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the draw of labels; the run's if not given.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Where results are appended; RUN/probe.jsonl if not given.")
    ] = None,
) -> None:
    """Score a simple classifier on a trained model's features.

    RUN is the folder of a finished run. The features are what the head of its final global model receives; the
    classifier is trained with all of the labels or with some.
    """
    import json
    from dataclasses import asdict

    from fedtl.cli import printing
    from fedtl.export import probe as probes
    from fedtl.runs.history import load
    from fedtl.runs.record import writing

    results = probes.probe(load(folder), labels or [1.0], kind, seed)  # type: ignore[arg-type]
    file = out_file or folder / RESULTS
    with writing(file.parent), file.open("a", encoding="utf-8") as lines:
        for result in results:
            about = {"run": str(folder), "features": "global", "name": result.name}
            lines.write(json.dumps(about | asdict(result)) + "\n")
    printing.out.print("accuracy in %; clients: mean weighted by test samples, and the worst tenth's")
    printing.out.print("labels used: of each class the share that is asked for, but at least one")
    printing.print_whole(table(results))
    printing.out.print(f"{file}", markup=False, soft_wrap=True)


def table(results: Sequence[Result]) -> Table:
    """A row per result: which classifier on which features, trained and tested on what."""
    from fedtl.cli.printing import add_numbers

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("probe", no_wrap=True)
    worst = [result.over_clients.get("worst_decile") for result in results]
    marks = [str(result.coverage) for result in results]
    columns = [
        add_numbers(table, "accuracy", [f"{100 * result.accuracy:.2f}" for result in results], marks),
        add_numbers(table, "worst 10 %", ["" if value is None else f"{100 * value:.2f}" for value in worst]),
        add_numbers(table, "labels used", [str(result.train_samples) for result in results]),
    ]
    for result, *cells in zip(results, *columns):
        table.add_row(result.name + (f" ({result.remark})" if result.remark else ""), *cells)
    return table
