"""``fedtl run | profile``: an experiment, and where its time went."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedtl.cli import printing
from fedtl.cli.printing import INTERRUPTED, ConfigArgument, OverridesArgument, print_scores, print_whole
from fedtl.cli.signals import ended_by_signals, of_a_run

if TYPE_CHECKING:
    from fedtl.runs.history import Run


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
            from fedtl.config.read import is_run, read_config
            from fedtl.runs.baselines import FOLDER as BASELINES
            from fedtl.runs.baselines import baselines as compared_with
            from fedtl.runs.progress import Progress, ProgressBar

            read, notes = read_config(config, overrides or ())
            if not quiet:
                for note in notes:
                    printing.out.print(note, markup=False)
                if read.deploy.privacy is not None:
                    printing.out.print(
                        "deploy.privacy has no effect: a simulation adds no noise; fedtl deploy run does"
                    )
            beside = compared_with(read) if baselines else {}  # what is wrong is better said at once
            watcher = Progress() if quiet else ProgressBar(printing.out)
            done = experiment.run_at(read, experiment.place_of(config, read, out_dir, resume), profile, watcher)
            others: dict[str, Run] = {}
            for name, other in beside.items():
                watcher.close()
                watcher = Progress() if quiet else ProgressBar(printing.out)
                folder = done.path / BASELINES / name
                place = experiment.place_of(other, other, folder, is_run(folder))
                others[name] = experiment.run_at(other, place, False, watcher)
    except KeyboardInterrupt:
        if watcher:
            watcher.close()
        printing.err.print(_stopped(watcher.folder if watcher else None), markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if watcher:
            watcher.close()
    if not quiet:
        print_scores([done, *others.values()])
        _print_gains(done, others)
        if profile and done.profiled:  # a finished run that was resumed has had no round
            _print_profile(done)
    printing.out.print(f"{done.path}", markup=False, soft_wrap=True)


def show_profile(folder: Annotated[Path, typer.Argument(metavar="RUN", hidden=True)]) -> None:
    """Show where the time of a run's rounds went.

    RUN is the folder of a run that was made with fedtl run --profile.
    """
    from fedtl.runs.history import load

    _print_profile(load(folder))


def _print_gains(run: Run, others: Mapping[str, Run]) -> None:
    """How much better a run is than its baselines; below 0, transfer did harm."""
    from fedtl.runs.baselines import SOURCE_ONLY, gains

    rows = gains(run, dict(others))
    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    in_points = rows[0].metric == "accuracy"
    for column in ("score", "against", "gain in points of accuracy" if in_points else f"gain in {rows[0].metric}"):
        table.add_column(column, justify="right" if column.startswith("gain") else "left", no_wrap=True)
    for gain in rows:
        harm = ", negative transfer" if gain.value < 0 and gain.baseline == SOURCE_ONLY else ""
        over = "" if gain.clients is None else f" (over the {gain.clients} clients that both scored)"
        value = "-" if math.isnan(gain.value) else f"{100 * gain.value:+.2f}" if in_points else f"{gain.value:+.4f}"
        table.add_row(gain.score, f"{gain.baseline}, {gain.against}{harm}{over}", value)
    printing.out.print()
    print_whole(table)


def _print_profile(one: Run) -> None:
    from fedtl.runs.profile_tables import tables

    for table in tables(one):
        printing.out.print()
        print_whole(table)


def _stopped(folder: Path | None) -> str:
    if folder is None:
        return "stopped before the run began"
    from fedtl.runs.checkpoint import last_round

    round = last_round(folder)  # what is on disk, of which a listener may not have heard yet
    so_far = f"stopped after round {round}" if round else "stopped in the first round"
    return f"{so_far}; to go on: fedtl run {shlex.quote(str(folder))} --resume"
