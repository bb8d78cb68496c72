"""``fedtl export`` and ``fedtl predict``: a run's model for use elsewhere, and its use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fedtl.export.predict import Numbers, Predictions

# Everything else is imported by the commands, as in fedtl/cli/commands.py.

SAFETENSORS, ONNX = ".safetensors", ".onnx"


def export(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", hidden=True)],
    client: Annotated[
        str | None,
        typer.Option(
            "--client", metavar="CLIENT", help="Whose own model: an id from 0, or a name; global if not given."
        ),
    ] = None,
    personal: Annotated[
        str | None,
        typer.Option(
            "--personal",
            metavar="WHICH",
            help="Of a client's: adapted, or stored, the one it kept; as the run if not given.",
        ),
    ] = None,
    round: Annotated[
        str,
        typer.Option(
            "--round",
            metavar="ROUND",
            show_default=False,
            help="After which: last, if not given, or best by validation.",
        ),
    ] = "last",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help=".safetensors or .onnx; model.safetensors if not given."),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX, which takes samples as they are stored.")] = False,
) -> None:
    """Write a run's model as one file, for use elsewhere.

    RUN is a run's folder, finished or not, of fedtl run or of fedtl deploy, on the server or at a client; or a client's
    whole folder. Of several runs of one experiment it is the newest. The model is the global one, or with --client that
    client's personalised one; the file says what it takes and answers. Models of the best round are kept by runs with
    evaluate.keep_best = true.
    """
    from fedtl.choice import ConfigError
    from fedtl.cli import printing
    from fedtl.runs.record import EXTRAS
    from fedtl.runs.resume import BEST, MODEL

    folder = _one_run(folders)
    file = output or Path(f"model{ONNX if onnx else SAFETENSORS}")
    kind = file.suffix.lower()
    if kind not in (SAFETENSORS, ONNX):
        raise ConfigError(f"--output = {str(file)!r}: give a name that ends in {SAFETENSORS} or {ONNX}")
    if onnx and kind != ONNX:
        raise ConfigError(f"--output = {str(file)!r}: with --onnx its name ends in {ONNX}; leave one of them out")
    if file.resolve() in {(folder / name).resolve() for name in (MODEL, BEST, EXTRAS)}:
        raise ConfigError(f"--output = {str(file)!r} is the run's own file; choose another name")
    if kind == ONNX:  # what is missing is better said at once
        from fedtl.export.file import check_onnx

        check_onnx()
    from fedtl.export.file import write_onnx, write_safetensors
    from fedtl.export.of_run import model_of_run

    exported = model_of_run(folder, client, personal, round)  # type: ignore[arg-type]
    (write_onnx if kind == ONNX else write_safetensors)(exported, file)
    printing.out.print(f"{exported.about}", markup=False, soft_wrap=True)
    printing.out.print(f"{file}", markup=False, soft_wrap=True)


def _one_run(named: Sequence[Path]) -> Path:
    """The run that is meant: the newest, as ``results/quickstart/*-pfedme`` names two after a while.

    Args:
        named: runs' folders, or a client's, whose studies' runs are meant.

    Raises:
        ConfigError: they are runs of different experiments, or none.
    """
    from fedtl.choice import ConfigError
    from fedtl.cli import printing
    from fedtl.runs.history import Run, load

    folders = [run for folder in named for run in _runs_in(folder)]
    if len(folders) == 1:
        return folders[0]

    def started(run: Run) -> float:
        """By its own word, as a folder may have been copied."""
        try:
            return datetime.fromisoformat(str(run.environment.get("started"))).timestamp()
        except ValueError:
            return 0.0

    runs = sorted(map(load, folders), key=started)
    choices = ", ".join(str(run.path) for run in runs)
    kinds = {(run.config.get("name"), run.config["strategy"]["name"]) for run in runs}
    if len(kinds) > 1:
        raise ConfigError(f"{len(runs)} runs of different experiments or methods: give one of {choices}")
    with_model = [run for run in runs if (run.path / "checkpoint" / "checkpoint.json").is_file()] or runs
    printing.err.print(f"the newest of {len(runs)} runs: {with_model[-1].path}", markup=False, soft_wrap=True)
    return with_model[-1].path


def _runs_in(folder: Path) -> list[Path]:
    """Of a client's folder its studies'; else this one's own.

    Raises:
        ConfigError: the client keeps none.
    """
    from fedtl.choice import ConfigError

    if not (folder / "client.toml").is_file():
        return [folder]
    studies = sorted(file.parent for file in (folder / "studies").glob("*/config.toml"))
    if not studies:
        raise ConfigError(f"{folder} keeps nothing of any study yet")
    return studies


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", hidden=True)],
    data: Annotated[Path, typer.Argument(metavar="DATA", hidden=True)],
    output: Annotated[
        Path, typer.Option("-o", "--output", show_default=False, help="predictions.csv if not given.")
    ] = Path("predictions.csv"),
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="The column of a table that is the class.")
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Make images the size that the model takes.")] = False,
) -> None:
    """Let an exported model predict what it was trained for.

    MODEL is a file of fedtl export, .safetensors or .onnx.

    DATA is an .npz file with x, a .csv or .parquet file, an image, or a folder of images. Where it says the classes (y,
    the column label, a folder for each class), the accuracy is printed too, or other metrics of what is predicted. A
    table's columns are found by the names that they had in training.
    """
    from fedtl.cli import printing
    from fedtl.export.predict import Predictions, open_model, predict, read_samples

    opened = open_model(model)
    samples = read_samples(data, opened.frame, label, resize)
    for note in samples.notes:
        printing.err.print(note, markup=False, soft_wrap=True)
    predictions = predict(opened, samples)
    predictions.write(output)
    printing.out.print(f"{opened.about}", markup=False, soft_wrap=True)
    n = len(predictions.samples.x)
    summary = f"{n} sample{'s' if n > 1 else ''}"
    if not isinstance(predictions, Predictions):
        printing.print_whole(table_of_numbers(predictions))
        summary += "".join(f", {name} {value:.4g}" for name, value in predictions.scores.items())
    else:
        printing.print_whole(table(predictions))
        if predictions.accuracy is not None:
            summary += f", accuracy {100 * predictions.accuracy:.2f} %"
    printing.out.print(summary, markup=False)
    printing.out.print(f"{output}", markup=False, soft_wrap=True)


def table_of_numbers(predictions: Numbers) -> Table:
    """Of each number the smallest, the mean and the largest."""
    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("predicted", "smallest", "mean", "largest"):
        shown.add_column(column, justify="left" if column == "predicted" else "right", no_wrap=True)
    for name, values in zip(predictions.columns, predictions.values.T):
        shown.add_row(Text(name), *(f"{number:.4g}" for number in (values.min(), values.mean(), values.max())))
    return shown


def table(predictions: Predictions) -> Table:
    """How often each class is said, those that are."""
    import numpy as np

    counts = np.bincount(predictions.classes, minlength=len(predictions.labels))
    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("predicted", "samples", "in %"):
        shown.add_column(column, justify="left" if column == "predicted" else "right", no_wrap=True)
    for place in np.flatnonzero(counts):
        shown.add_row(
            Text(predictions.labels[place]),
            str(counts[place]),
            f"{100 * counts[place] / len(predictions.probabilities):.2f}",
        )
    return shown
