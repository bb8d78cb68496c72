"""The command line: ``fedtl run``, ``fedtl compare`` and the others, each of a file of its own."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from fedtl.cli import printing
from fedtl.cli.compare import compare
from fedtl.cli.deploy import deploy
from fedtl.cli.distill import distill
from fedtl.cli.export import export, predict
from fedtl.cli.listing import list_parts
from fedtl.cli.partition import partition
from fedtl.cli.plot import plot
from fedtl.cli.printing import INTERRUPTED, RUN_ERROR, USAGE_ERROR
from fedtl.cli.probe import probe
from fedtl.cli.report import report
from fedtl.cli.run import run, show_profile
from fedtl.cli.sweep import sweep
from fedtl.cli.table import table

# Everything else is imported by the command that needs it: torch alone takes longer than --help may.

app = typer.Typer(
    help="Federated personalised and transfer learning, simulated and deployed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command(name="profile")(show_profile)
app.command()(sweep)
app.command()(plot)
app.command()(compare)
app.command()(report)
app.command()(table)
app.command()(partition)
app.command()(distill)
app.command()(probe)
app.add_typer(deploy, name="deploy")
app.command()(export)
app.command()(predict)
app.command(name="list")(list_parts)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from fedtl import __version__

        printing.out.print(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; what the user got wrong is one sentence and exit code 2."""
    try:
        app()
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        message = " ".join(str(error).split())
        if isinstance(error, MemoryError):
            message = f"there is not enough memory for it{': ' * bool(message)}{message}"
        printing.err.print(f"fedtl: {message}", markup=False, soft_wrap=True)
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
