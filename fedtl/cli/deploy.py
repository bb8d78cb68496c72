"""``fedtl deploy init | server | client | run | status | revoke``: an experiment on real clients."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fedtl.config.schema import Config
    from fedtl.deploy.status import StudyState

# Everything else is imported by the command that needs it.

deploy = typer.Typer(
    help="Run an experiment on real clients, over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

INTERRUPTED = 130

NOT_RUNNING = 3
"""Exit code of a status that finds nothing running, as for ``systemctl``."""

DirArgument = Annotated[Path, typer.Argument(metavar="DIR", hidden=True)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print Flower's command.")]


def say(text: str) -> None:
    """Print a line and flush it, as a service's output is read from its log."""
    out.print(text, markup=False, soft_wrap=True)
    sys.stdout.flush()


@deploy.command()
def init(
    folder: DirArgument,
    clients: Annotated[
        str, typer.Option("--clients", show_default=False, help="Their names, separated by commas, as a,b,c.")
    ] = "",
    server: Annotated[
        str | None, typer.Option("--server", help="The host name or IP address by which clients reach the server.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", show_default=False, help="To which clients connect; 9092 if not given.")
    ] = 9092,
    control_port: Annotated[
        int,
        typer.Option(
            "--control-port",
            show_default=False,
            help="By which runs are started, on the server's machine alone; 9093 if not given.",
        ),
    ] = 9093,
    days: Annotated[
        int,
        typer.Option(
            "--days", show_default=False, help="How long the server's certificate is valid; 825 if not given."
        ),
    ] = 825,
    renew: Annotated[
        bool, typer.Option("--renew", help="Make a new certificate for the server of an existing DIR.")
    ] = False,
) -> None:
    """Make keys, certificates, and a folder for each participant.

    DIR is a new folder. Copy DIR/server to the server and DIR/NAME to each client; DIR/authority stays where it is, for
    fedtl deploy init DIR --renew.
    """
    from fedtl.choice import ConfigError
    from fedtl.deploy import folders

    if renew:
        if clients:
            raise ConfigError("--clients: the clients of a deployment stay as they are; leave it out with --renew")
        folders.renew(folder, days=days, host=server)
        say(f"{folder / 'server'}: a new certificate, for {days} days")
        say("copy server.pem and server.key to the server, and start it again")
        if server is not None:
            say(f'and set server = "{server}:PORT" in each client\'s client.toml')
        return
    if server is None:
        raise ConfigError("--server is missing: give the host name or IP address by which clients reach the server")
    names = [name.strip() for name in clients.split(",") if name.strip()]
    if not names:
        raise ConfigError("--clients is missing: give the clients' names, as --clients a,b,c")
    folders.create(folder, names, server, port=port, control_port=control_port, days=days)
    say(f"{folder / 'server'}: for the server, which runs: fedtl deploy server server")
    for name in names:
        say(f"{folder / name}: for {name}, who runs: fedtl deploy client {name} --data PATH")
    say(f"{folder / 'authority'}: keep it here; whoever has it can pass for the server")


@deploy.command()
def server(
    folder: DirArgument,
    host: Annotated[
        str, typer.Option("--host", show_default=False, help="This machine's address for clients; all if not given.")
    ] = "0.0.0.0",
    dry_run: DryRun = False,
) -> None:
    """Run the server, until Ctrl-C or SIGTERM.

    DIR is the server's folder.
    """
    from fedtl.cli.signals import ended_by_signals
    from fedtl.deploy import flower
    from fedtl.deploy.folders import read_server

    flower.check_version()
    server_folder = read_server(folder)
    if dry_run:
        return say(str(flower.superlink(server_folder, host)))
    from fedtl.deploy.server import serve

    with ended_by_signals():
        try:
            serve(server_folder, host, say)
        except KeyboardInterrupt:
            say("stopped")


@deploy.command()
def client(
    folder: DirArgument,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            show_default=False,
            help="The client's own data: a folder with train.npz and test.npz, with train.csv and test.csv, or with "
            "images as train/CLASS/*.png; a .csv or .parquet file; or package.module:function.",
        ),
    ],
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            metavar="CONFIG",
            help="Read the data as this config's [data] says: its task, label, positive, missing, categorical, "
            "leave_out; as --config's if not given.",
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Take part only in this experiment, as agreed.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", show_default=False, help="What is predicted (fedtl list tasks): classes, if not given."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="The column with the class, in tables; of another task perhaps a,b."),
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="Resize images to this height and width.")] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="1 for grey images, 3 for coloured ones.")] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            "--test-share",
            show_default=False,
            help="Share for testing, if the data have no test set; 0.25 if not given.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", show_default=False, help="auto, cpu or cuda; auto if not given.")
    ] = "auto",
    dry_run: DryRun = False,
) -> None:
    """Take part as one client, until Ctrl-C or SIGTERM.

    DIR is the client's folder. The data stay where they are; the client's memories of studies are in DIR/studies.
    """
    from fedtl.choice import ConfigError
    from fedtl.cli.signals import ended_by_signals
    from fedtl.config.read import read_config
    from fedtl.deploy import flower
    from fedtl.deploy.folders import read_client
    from fedtl.deploy.reading import Reading

    flower.check_version()
    client_folder = read_client(folder)
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device = {device!r}: give auto, cpu or cuda")
    if channels not in (None, 1, 3):
        raise ConfigError(f"--channels = {channels}: give 1 or 3")
    approved = read_config(config)[0] if config else None
    by = approved if rules is None else read_config(rules)[0]
    own = Reading(task, label, size, channels, test_share).own(data, None if by is None else by.data)  # type: ignore[arg-type]
    about = own.describe()
    validation = f", {about['validation']} validation" if about["validation"] else ""
    say(
        f"{client_folder.name}: {about['train']} training{validation} and {about['test']} test samples, "
        f"{_numbers(about)}; {_predicted(about)}"
    )
    for note in own.notes:
        say(note)
    if dry_run:
        return say(str(flower.supernode(client_folder, 9094, client_folder.flower_home / "bin")))
    import torch

    from fedtl.deploy.agent import ClientAgent
    from fedtl.deploy.client import take_part

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device = 'cuda': no CUDA device is at hand here; use auto or cpu")
    where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if approved is not None:  # an error is better shown here than in the log
        own.with_validation(approved.data.validation_share, approved.seed, client_folder.client)
    with ended_by_signals():
        try:
            take_part(client_folder, ClientAgent(own, client_folder, where, approved), say)
        except KeyboardInterrupt:
            say("stopped")


def _numbers(about: dict[str, Any]) -> str:
    """What a client's samples are, by its description of them."""
    if about["shape"] == [0]:  # of a table whose columns are not numbers yet
        return "numbers by what all clients say of their columns"
    return f"{about['dtype']} {about['shape']}"


def _predicted(about: dict[str, Any]) -> str:
    """What is predicted of a client's samples, by its description of them."""
    if outcomes := about.get("outcomes"):
        return f"to be predicted {outcomes['dtype']} {outcomes['shape']}, by {outcomes['outputs']} outputs"
    return f"labels {', '.join(about['names'])}" if about["names"] else f"labels to {about['largest_label']}"


@deploy.command()
def revoke(
    folder: DirArgument,
    name: Annotated[str, typer.Argument(metavar="CLIENT", hidden=True)],
) -> None:
    """Revoke a client's key, so that it cannot connect any more.

    DIR is the server's folder, and CLIENT the client's name. Studies continue without it.
    """
    from fedtl.deploy.folders import read_server
    from fedtl.deploy.server import revoke as revoked

    revoked(read_server(folder), name)
    say(f"{name} cannot connect any more")


@deploy.command(name="run")
def run_study(
    config: Annotated[str, typer.Argument(metavar="CONFIG", hidden=True)],
    folder: DirArgument,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", hidden=True)] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="The server's own: test.npz, public.npz, frame.json, each of which may be missing."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The run's folder; results/NAME/TIME-SEED if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the folder.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Start an experiment on the clients of the server that runs on this machine, and watch it.

    CONFIG is a TOML file, a run's folder, or the name of a config that ships (see fedtl list configs).

    DIR is the server's folder. KEY=VALUE overrides a key of the config.
    """
    from fedtl.cli.signals import ended_by_signals
    from fedtl.config.read import read_config
    from fedtl.deploy import flower
    from fedtl.deploy.folders import read_server

    flower.check_version()
    server_folder = read_server(folder)
    read, notes = read_config(config, overrides or ())
    if dry_run:
        return say(str(flower.run(server_folder, server_folder.flower_home / "app", "STUDY")))
    from fedtl.choice import ConfigError
    from fedtl.data.held_out import count_held_out
    from fedtl.deploy import run as runs
    from fedtl.deploy.serverapp import server_data
    from fedtl.experiment import place_of
    from fedtl.runs.checkpoint import last_round
    from fedtl.runs.history import load
    from fedtl.runs.record import new_folder
    from fedtl.runs.resume import check_config, check_new

    clients = len(server_folder.clients)
    training = clients - (apart := count_held_out(read.data.held_out_clients, clients))
    there = f"{clients}, of which data.held_out_clients leaves {training} to train" if apart else f"{clients}"
    if (read.strategy.clients_per_round or 0) > training:
        raise ConfigError(f"strategy.clients_per_round = {read.strategy.clients_per_round}: there are only {there}")
    if (read.deploy.min_clients or 0) > training:
        raise ConfigError(f"deploy.min_clients = {read.deploy.min_clients}: there are only {there}")
    tell = (lambda _: None) if quiet else say
    if data is not None:
        for note in server_data(str(data), read).notes:  # errors and doubts are better shown at once
            tell(note)
    for note in notes:
        tell(note)
    place = place_of(config, read, out_dir, resume)
    for note in place.notes:
        tell(note)
    if place.folder is not None and place.resume:
        check_config(place.folder, read, not place.named)
    elif place.folder is not None:
        check_new(place.folder)
    if read.data.holders not in (None, clients):
        tell(f"data.clients = {read.data.holders} has no effect: the deployment has {clients} clients")
    if read.deploy.min_clients is not None and _max_failures_were_asked_for(config, read, overrides or ()):
        tell("max_failures has no effect: deploy.min_clients says how many clients must not fail")
    if place.folder is None:
        runs.check_runs(server_folder)  # otherwise there would be a folder without a run
    where = place.folder or new_folder(Path("results"), read)
    order = runs.order_for(server_folder, read, where, data, place.resume)
    with ended_by_signals(), runs.alone(server_folder, order):
        number = None
        try:
            number = runs.start(server_folder, order, tell)
            runs.watch(server_folder, order, number, tell)
        except KeyboardInterrupt:
            unheard = (
                "" if number is None or runs.stop(server_folder, number) else ", which the server has not confirmed yet"
            )
            done = last_round(where)
            begun = (where / "config.toml").exists()
            early = "stopped in the first round" if begun else "stopped before the run began"
            so_far = f"stopped after round {done}" if done else early
            hint = f"; to go on: add --resume --out {where}" if begun else ""
            err.print(so_far + unheard + hint, markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        from fedtl.cli.printing import print_scores

        print_scores([load(where)])
    say(str(where))


def _max_failures_were_asked_for(config: str, read: Config, overrides: Sequence[str]) -> bool:
    """Whether somebody set ``max_failures``; a run's own config has every key, so a default there means nothing."""
    from fedtl.config.read import is_run

    if any(text.partition("=")[0].strip() == "max_failures" for text in overrides):
        return "max_failures" in read.model_fields_set  # not if it was removed
    default = type(read).model_fields["max_failures"].default
    return "max_failures" in read.model_fields_set and (not is_run(config) or read.max_failures != default)


@deploy.command()
def status(folder: DirArgument) -> None:
    """Show who is connected, and how far studies are; the exit code is 3 if the server or client does not run.

    DIR is the server's folder, or a client's.
    """
    from fedtl.deploy import status as states
    from fedtl.deploy.folders import read_client, read_server

    if (folder / "client.toml").is_file():
        mine = read_client(folder)
        here = states.of_client(mine)
        say(f"{mine.name} {'takes part' if here.runs else 'does not run'}; its server is {mine.server}")
        runs, studies = here.runs, here.studies
    else:
        there = states.of_server(read_server(folder))
        runs, studies = there.runs, there.studies
        say(f"the server {'runs' if runs else 'does not run'}; its certificate is valid until {there.expires:%Y-%m-%d}")
        if runs:
            table = Table(box=SIMPLE_HEAD, show_edge=False)
            for column in ("client", "state", "since"):
                table.add_column(column, no_wrap=True)
            for row in there.clients:
                table.add_row(*row)
            out.print(table)
    _print_studies(studies)
    if not runs:
        raise typer.Exit(NOT_RUNNING)


def _print_studies(studies: Sequence[StudyState]) -> None:
    if not studies:
        return
    from fedtl.cli.printing import print_whole

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for column in ("study", "last round", "state", "folder"):
        table.add_column(column, justify="right" if column == "last round" else "left", no_wrap=True)
    for each in studies:
        table.add_row(each.name, str(each.round), Text(each.state), Text(str(each.folder)))
    print_whole(table)
