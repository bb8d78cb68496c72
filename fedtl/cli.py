"""The command line: ``fedtl run | profile | plot | partition | distill | probe | export | predict | deploy | list``."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from fedtl.cli_deploy import deploy
from fedtl.cli_distill import distill
from fedtl.cli_export import export, predict
from fedtl.cli_probe import probe
from fedtl.signals import ended_by_signals, of_a_run

if TYPE_CHECKING:
    from fedtl.data.federation import Domain, Federation
    from fedtl.data.settings import DataChoice
    from fedtl.history import Run

# Everything else is imported by the command that needs it: torch alone takes longer than --help may.

app = typer.Typer(
    help="Federated personalised and transfer learning, simulated and deployed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

USAGE_ERROR, RUN_ERROR, INTERRUPTED = 2, 1, 130

# Arguments are explained in the commands' docstrings: whether their own help is printed depends on the
# versions of typer and click, which also print "[default: ...]" with a stray backslash.
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", hidden=True)]
OverridesArgument = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", hidden=True)]


@app.command()
def run(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The run's folder; results/NAME/TIME-SEED if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run, or with a finished one for more rounds.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also record where each round's time goes, and print it as tables.")
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also run it without transfer and without federation, and show the gain."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the folder.")] = False,
) -> None:
    """Run an experiment: train, score, record.

    CONFIG is a TOML file, a run's folder, or the name of a config that ships (see fedtl list configs).

    KEY=VALUE overrides a key of it, as strategy.lr=0.1; none as the value removes the key.
    """
    watcher = None
    try:
        with ended_by_signals(of_a_run()):
            from fedtl import experiment
            from fedtl.baselines import FOLDER as BASELINES
            from fedtl.baselines import baselines as compared_with
            from fedtl.config import is_run, read_config
            from fedtl.progress import Progress, ProgressBar

            read, notes = read_config(config, overrides or ())
            if not quiet:
                for note in notes:
                    out.print(note, markup=False)
                if read.deploy.privacy is not None:
                    out.print("deploy.privacy has no effect: a simulation adds no noise; fedtl deploy run does")
            beside = compared_with(read) if baselines else {}  # what is wrong is better said at once
            watcher = Progress() if quiet else ProgressBar(out)
            if is_run(config):
                done = experiment.run(
                    config, overrides or (), out=out_dir, resume=resume, profile=profile, listener=watcher
                )
            else:
                done = experiment.run(read, out=out_dir, resume=resume, profile=profile, listener=watcher)
            others: dict[str, Run] = {}
            for name, other in beside.items():
                watcher.close()
                watcher = Progress() if quiet else ProgressBar(out)
                folder = done.path / BASELINES / name
                others[name] = experiment.run(other, out=folder, resume=is_run(folder), listener=watcher)
    except KeyboardInterrupt:
        if watcher:
            watcher.close()
        err.print(_stopped(watcher.folder if watcher else None), markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if watcher:
            watcher.close()
    if not quiet:
        print_scores([done, *others.values()])
        _print_gains(done, others)
        if profile and done.profiled:  # a finished run that was gone on with has had no round
            _print_profile(done)
    out.print(f"{done.path}", markup=False, soft_wrap=True)


@app.command(name="profile")
def show_profile(folder: Annotated[Path, typer.Argument(metavar="RUN", hidden=True)]) -> None:
    """Show where the time of a run's rounds went.

    RUN is the folder of a run that was made with fedtl run --profile.
    """
    from fedtl.history import load

    _print_profile(load(folder))


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", hidden=True)],
    output: Annotated[
        Path, typer.Option("-o", "--output", show_default=False, help="PNG or SVG; convergence.png if not given.")
    ] = Path("convergence.png"),
    kind: Annotated[
        str,
        typer.Option(
            "--kind", show_default=False, help="compare (convergence and clients), convergence, clients, or terms."
        ),
    ] = "compare",
    metric: Annotated[
        str, typer.Option("--metric", show_default=False, help="accuracy, if not given, or loss.")
    ] = "accuracy",
    axis: Annotated[
        str, typer.Option("--axis", show_default=False, help="rounds, if not given, bytes, or seconds.")
    ] = "rounds",
    score: Annotated[
        list[str] | None, typer.Option("--score", help="Which scores to draw, as global/server-test; repeatable.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the picture's path.")] = False,
) -> None:
    """Draw how runs converge and serve each client.

    RUN is a run's folder; runs that differ in their seed alone become one line. The runs' scores are printed.
    """
    from fedtl import plot as pictures
    from fedtl.choice import ConfigError
    from fedtl.history import load

    loaded = [load(folder) for folder in runs]
    if axis not in ("rounds", "bytes", "seconds"):
        raise ConfigError(f"--axis = {axis!r}: give rounds, bytes or seconds")
    if kind == "compare":
        figure = pictures.compare(loaded, metric, axis, score=score)  # type: ignore[arg-type]
    elif kind == "convergence":
        figure = pictures.convergence(loaded, metric, axis, score=score)  # type: ignore[arg-type]
    elif kind == "clients":
        figure = pictures.per_client(loaded, metric)
    elif kind == "terms":
        figure = pictures.terms(loaded, axis)  # type: ignore[arg-type]
    else:
        raise ConfigError(f"--kind = {kind!r}: give compare, convergence, clients or terms")
    written = pictures.save(figure, output)
    if not quiet:
        print_scores(loaded, metric)
    out.print(f"{written}", markup=False, soft_wrap=True)


@app.command()
def partition(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", show_default=False, help="PNG or SVG; partition.png if not given.")
    ] = Path("partition.png"),
    rows: Annotated[
        int, typer.Option("--rows", show_default=False, help="Clients in the table; 20 if not given.")
    ] = 20,
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write what each client and the server hold, as .npz files.")
    ] = None,
    clients: Annotated[
        str | None, typer.Option("--names", help="With --export: the clients' folders, as a,b,c; 0,1,2 if not given.")
    ] = None,
) -> None:
    """Show who holds what: a table and a picture.

    CONFIG is a TOML file, a run's folder, or the name of a config that ships (see fedtl list configs).

    KEY=VALUE overrides a key of it, as data.partition.name=dirichlet.
    """
    import numpy as np

    from fedtl import plot as pictures
    from fedtl.choice import ConfigError
    from fedtl.config import read_config
    from fedtl.data.export import check_empty, size_of
    from fedtl.data.export import export as write
    from fedtl.data.federate import federate

    read, notes = read_config(config, overrides or ())
    for note in notes:
        out.print(note, markup=False)
    if export is not None:
        check_empty(export)
    elif clients is not None:
        raise ConfigError(f"--names = {clients!r}: they name the folders of --export; add that, or leave them out")
    held = federate(read.data, read.seed)
    for note in held.notes:
        out.print(note, markup=False, soft_wrap=True)
    names = held.label_names or tuple(str(k) for k in range(held.classes))

    def show(data: DataChoice, of: Federation | Domain, first: int, last: int, prefix: str = "") -> None:
        """What clients first..last-1 hold; ``prefix`` says of which domain."""
        counts = held.label_counts(min(first + rows, last), target=of is held.target)
        table = Table(box=SIMPLE_HEAD, show_edge=False)
        unlabelled = held.target if read.data.target is None else None
        parts = {"train": of.train, "unlabelled": unlabelled.train if unlabelled else None}
        parts |= {"validation": held.validation if of is held else None, "test": of.test}
        shown = {word: part for word, part in parts.items() if part is not None}
        for column in ("client", *shown, "labels (samples)"):
            table.add_column(column, justify="left" if column.startswith("labels") else "right")
        for client in range(first, len(counts)):
            labels = "  ".join(f"{names[k]} ({counts[client, k]})" for k in np.flatnonzero(counts[client]))
            sizes = [part[client].size for part in shown.values()]
            table.add_row(str(client), *map(str, sizes), Text(labels))
        out.print(f"{prefix}{data.name}, {last - first} clients, {data.partition.name}", markup=False)
        out.print(table)
        if last - first > rows:
            out.print(f"and {last - first - rows} more clients")
        kinds = {"train": "training", "unlabelled": "unlabelled training", "validation": "validation"}
        for word, kind in kinds.items():
            if word in shown:
                each = shown[word].sizes[first:last]
                out.print(f"{kind} samples: {each.sum()}, {each.min()} to {each.max()} a client")
        out.print(f"test samples: {of.test.sizes.sum()} at the clients, {len(of.server_test)} at the server")

    first = held.first_of_target
    show(read.data, held, 0, first or held.clients)
    if read.data.target is not None and held.target is not None:
        out.print()
        show(read.data.target, held.target, first, held.clients, "target: ")
    if len(held.public):
        out.print(f"public samples: {len(held.public)}")
    out.print(f"{pictures.save(pictures.partition(held), output)}", markup=False, soft_wrap=True)
    if export is not None:
        write(held, export, None if clients is None else [name.strip() for name in clients.split(",")])
        out.print(
            f"{export}: {held.clients} clients and the server, {decimal(size_of(export))}", markup=False, soft_wrap=True
        )


app.command()(distill)
app.command()(probe)
app.add_typer(deploy, name="deploy")
app.command()(export)
app.command()(predict)


@app.command(name="list")
def list_parts(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", hidden=True)] = None,
) -> None:
    """List what a config can name.

    KIND is configs, strategies, optimizers, server-optimizers, schedules, partitions, datasets, models or terms; all if
    not given.
    """
    from fedtl.choice import ConfigError, first_line, load_object, nearest
    from fedtl.config import shipped_configs
    from fedtl.data import DATASETS, PARTITIONS
    from fedtl.losses.objective import TERMS
    from fedtl.models import MODELS
    from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
    from fedtl.strategies import STRATEGIES

    registries: dict[str, Mapping[str, str]] = {
        "strategies": STRATEGIES,
        "optimizers": OPTIMIZERS,
        "server-optimizers": SERVER_OPTIMIZERS,
        "schedules": SCHEDULES,
        "partitions": PARTITIONS,
        "datasets": DATASETS,
        "models": MODELS,
        "terms": TERMS,
    }
    kinds = ["configs", *registries]
    if kind is not None and kind not in kinds:
        raise ConfigError(f"{kind!r} is no kind of part: {nearest(kind, kinds)}")
    for i, each in enumerate([kind] if kind else kinds):
        if kind is None:
            out.print(f"{chr(10) if i else ''}[bold]{each}[/]")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        if each == "configs":
            for name in shipped_configs():
                table.add_row(name, Text(_headline(name)))
        else:
            for name, path in sorted(registries[each].items()):
                table.add_row(name, Text(first_line(load_object(path, each))))
        if each == "models":
            table.add_row("resnet18, vgg11, …", "Any of torchvision's classification networks, by its name there.")
        out.print(table)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from fedtl import __version__

        out.print(__version__)
        raise typer.Exit


def print_scores(runs: Sequence[Run], metric: str = "accuracy") -> None:
    """Print runs' scores as a table."""
    from fedtl.history import over_same_clients

    unit = " in %" if metric == "accuracy" else ""
    out.print(f"{metric}{unit}; clients: mean weighted by test samples, and the worst tenth's")
    print_whole(summary_table(runs, metric))
    if len(runs) > 1 and not over_same_clients(runs):
        out.print(
            "Not all of these means are over the same clients, so they do not compare as they stand.", soft_wrap=True
        )


def _print_gains(run: Run, others: Mapping[str, Run]) -> None:
    """How much better a run is than its baselines; below 0, transfer did harm."""
    from fedtl.baselines import SOURCE_ONLY, gains

    found = gains(run, dict(others))
    if not found:
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("score", "against", "gain in points of accuracy"):
        table.add_column(column, justify="right" if column.startswith("gain") else "left", no_wrap=True)
    for gain in found:
        harm = ", negative transfer" if gain.value < 0 and gain.baseline == SOURCE_ONLY else ""
        over = "" if gain.clients is None else f" (over the {gain.clients} clients that both scored)"
        value = "-" if math.isnan(gain.value) else f"{100 * gain.value:+.2f}"
        table.add_row(gain.score, f"{gain.baseline}, {gain.against}{harm}{over}", value)
    out.print()
    print_whole(table)


def _print_profile(one: Run) -> None:
    from fedtl.profile_tables import tables

    for table in tables(one):
        out.print()
        print_whole(table)


def print_whole(table: Table) -> None:
    """Print a table as wide as it is."""
    # On a narrow terminal lines are longer than it rather than cut.
    width = max(out.width, table.__rich_measure__(out, out.options.update(max_width=1000)).maximum)
    out.print(Segments(out.render(table, out.options.update(width=width))), end="", crop=False, soft_wrap=True)


def summary_table(runs: Sequence[Run], metric: str = "accuracy") -> Table:
    """Each run's scores: which model on which data, its last value and its best, and in which round.

    A mean over fewer clients than should have been scored says so: ``84.29 (7 of 10 clients)``.
    """

    def told(value: float) -> str:
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
                    told(value),
                    str(one.coverage(name, round) or ""),
                    str(round),
                    told(worst[name].value) if name.endswith("clients") else "",
                    told(most.value),
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
    scored = [record["scores"] for record in one.rounds if name in (record.get("scores") or {})]
    found = scored[-1][name]
    without = f", {found['clients_without']} without" if found.get("clients_without") else ""
    return f" ({found.get('model')}{without})"


def _headline(config: str) -> str:
    """What a config that ships says of itself: its comment's first sentence that is not its command."""
    from importlib import resources

    text = resources.files("fedtl.configs").joinpath(f"{config}.toml").read_text(encoding="utf-8")
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    said = " ".join(line for line in lines if line and not line.startswith(("fedtl ", "FEDTL_DATA=")))
    return re.split(r"(?<=\.)(?<!al\.)\s", said, maxsplit=1)[0]


def _stopped(folder: Path | None) -> str:
    if folder is None:
        return "stopped before the run began"
    from fedtl.checkpoint import last_round

    round = last_round(folder)  # what is on disk, of which a listener may not have heard yet
    so_far = f"stopped after round {round}" if round else "stopped in the first round"
    return f"{so_far}; to go on: fedtl run {shlex.quote(str(folder))} --resume"


def main() -> NoReturn:
    """Run the command line; what the user got wrong is one sentence and exit code 2."""
    try:
        app()
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        said = " ".join(str(error).split())
        if isinstance(error, MemoryError):
            said = f"there is not enough memory for it{': ' * bool(said)}{said}"
        err.print(f"fedtl: {said}", markup=False, soft_wrap=True)
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _code(error: Exception) -> int | None:
    """The exit code of an error that is a sentence of ours; None for any other."""
    from fedtl.choice import ConfigError

    if isinstance(error, ConfigError):
        return USAGE_ERROR
    failure = sys.modules.get("fedtl.failure")
    expected = isinstance(error, MemoryError) or (failure and isinstance(error, failure.RunError))
    return RUN_ERROR if expected else None
