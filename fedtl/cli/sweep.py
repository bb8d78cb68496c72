"""``fedtl sweep``: a study's runs, several at once, as often as it takes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtl.cli import printing
from fedtl.cli.printing import INTERRUPTED, RUN_ERROR
from fedtl.cli.signals import ended_by_signals, of_a_run

if TYPE_CHECKING:
    from fedtl.studies import Study
    from fedtl.sweeps.file import Asked
    from fedtl.sweeps.plan import Plan


def sweep(
    study: Annotated[str, typer.Argument(metavar="STUDY", hidden=True)],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE,...]...", hidden=True)] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The study's folder; studies/NAME if not given.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Runs at once; by cores and memory if not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the folder.")] = False,
) -> None:
    """Run a study: methods in every setting under every seed.

    STUDY is a study's file, the name of one that ships (see fedtl list studies), a study's folder, or any config.

    KEY=VALUE is for all runs; KEY=A,B makes a setting of each value, strategy.name=A,B compares methods, and seed=0:5
    gives five seeds.

    The same command goes on with a study that was interrupted, and tries again what failed.
    """
    folder = None
    try:
        with ended_by_signals(of_a_run()):
            from fedtl.sweeps.file import read_study
            from fedtl.sweeps.study import folder_of

            asked = read_study(study, words or ())
            folder = folder_of(asked, out_dir)
            if dry_run:
                from fedtl.sweeps.plan import make_plan

                _print_plan(make_plan(asked), folder)
                return
            done = _run(asked, folder, jobs, quiet)
    except KeyboardInterrupt:
        printing.err.print(_stopped(folder), markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        _print_result(done)
    printing.out.print(f"{done.folder}", markup=False, soft_wrap=True)
    if any(run.trial is None for run in done.failed):
        raise typer.Exit(RUN_ERROR)


def _run(asked: Asked, folder: Path, jobs: int | None, quiet: bool) -> Study:
    from fedtl.sweeps.conductor import Unwatched
    from fedtl.sweeps.progress import watch
    from fedtl.sweeps.study import sweep_asked

    return sweep_asked(asked, folder, jobs, Unwatched() if quiet else watch(printing.out))


def _print_plan(plan: Plan, folder: Path) -> None:
    """What would run."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for header in ("", "trials", "runs", "rounds each", "differs in"):
        table.add_column(header, no_wrap=True, justify="left" if header in ("", "differs in") else "right")
    for each in plan.cells:
        differs = " ".join(f"{key}={value}" for key, value in each.cell.overrides.items())
        tuned = "".join(f" {key}=?" for key in each.space)
        table.add_row(
            Text(each.cell.name),
            str(len(each.trials)),
            str(len(plan.seeds)),
            str(each.config.rounds),
            Text(differs + tuned),
        )
    printing.print_whole(table)
    trials = sum(len(each.trials) for each in plan.cells)
    runs = len(plan.cells) * len(plan.seeds)
    printing.out.print(
        f"{len(plan.cells)} cells, {trials} trials, {runs} runs with seeds {', '.join(map(str, plan.seeds))}: at most "
        f"{plan.rounds:,} rounds, into {folder}",
        markup=False,
        soft_wrap=True,
    )
    for note in plan.notes:
        printing.out.print(f"- {note}", markup=False, soft_wrap=True)


def _print_result(study: Study) -> None:
    """The table of methods, what failed, and what could be done next."""
    from fedtl.choice import ConfigError
    from fedtl.cli.compare import show
    from fedtl.comparison import compare

    try:
        show(compare(study.folder))
    except ConfigError as error:
        printing.out.print(f"There is nothing to compare: {error}", markup=False, soft_wrap=True)
    for cell in study.cells:
        if cell.chosen is not None:
            values = ", ".join(f"{key} = {value}" for key, value in cell.chosen.items())
            printing.out.print(f"- Chosen for {cell.name}: {values}.", markup=False, soft_wrap=True)
    for note in study.notes:
        printing.out.print(f"- {note}", markup=False, soft_wrap=True)
    failed = [run for run in study.failed if run.trial is None]
    for run in failed:
        printing.err.print(f"{run.folder} failed: {run.failure}", markup=False, soft_wrap=True)
    if failed:
        printing.err.print(f"The same command tries them again: {_command(study.folder)}", markup=False, soft_wrap=True)
    printing.out.print()
    place = shlex.quote(str(study.folder))
    for command in (f"fedtl compare {place}", f"fedtl table {place}", f"fedtl report {place}"):
        printing.out.print(command, markup=False, soft_wrap=True)


def _stopped(folder: Path | None) -> str:
    if folder is None or not (folder / "study.json").is_file():
        return "stopped before the first run began"
    from fedtl.studies import Study

    finals = Study.load(folder).finals
    finished = sum(run.state == "finished" for run in finals)
    return f"stopped after {finished} of {len(finals)} runs; to go on: {_command(folder)}"


def _command(folder: Path) -> str:
    return f"fedtl sweep {shlex.quote(str(folder))}"
