"""A study's server, as Flower's SuperLink starts it: the run of a simulation, but for where its clients are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtl.assemble.driver import Server
from fedtl.assemble.parts import client_updates
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Config
from fedtl.data.arrays import check_classes
from fedtl.data.federation import Domain, Federation, Shards
from fedtl.data.own.read import FRAME, Own, read_own
from fedtl.data.own.statistics import normaliser
from fedtl.data.schema import DataSchema
from fedtl.deploy.deployed_grid import Client, DeployedGrid, Described
from fedtl.deploy.flower import SERVER_FOLDER, STUDY
from fedtl.deploy.folders import ServerFolder, read_server
from fedtl.deploy.leash import end_with_starter, leashed
from fedtl.deploy.process import alone
from fedtl.deploy.study import Study
from fedtl.deploy.validator import Expected
from fedtl.engine.first_memory import after_one_step
from fedtl.engine.plan import eligible
from fedtl.experiment import Place, open_run
from fedtl.failure import RunError
from fedtl.losses.objective import Objective
from fedtl.runs import record
from fedtl.runs.progress import accuracy
from fedtl.runs.resume import begun
from fedtl.server.report import Round
from fedtl.server.scores import Coverage, marked
from fedtl.strategies import strategy_type

ENDS_WITHIN = 30.0
"""Seconds that an earlier run of a study may take to notice that it was stopped, or that its server was."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run config names."""
    if leashed():
        end_with_starter()  # not only when Flower notices, which may take it a minute
    folder = read_server(os.environ[SERVER_FOLDER])
    study = str(context.run_config[STUDY])
    order = Order.read(folder, study)
    try:
        with order.alone(folder, ENDS_WITHIN):
            order = Order.read(folder, study)  # as it is now
            if order.withdrawn:
                raise RunError("the run was taken back before it began")
            _serve_to_the_end(order, folder, grid)
    except RunError as error:  # the other run says itself how it ends
        say(str(error))
        raise SystemExit(1) from None


def _serve_to_the_end(order: Order, folder: ServerFolder, grid: Grid) -> None:
    """Run a study, and leave word of how it ended."""
    try:
        serve(order, folder, grid)
    except (ConfigError, RunError) as error:
        order.ended(folder, {"error": str(error), "wrong": isinstance(error, ConfigError)})
        say(f"the run ended: {error}")
        raise SystemExit(1) from None
    except Exception as error:
        order.ended(folder, {"error": f"{type(error).__name__}: {error}", "wrong": False})
        raise
    order.ended(folder, {})


@dataclass(frozen=True)
class Order:
    """What ``fedtl deploy run`` asks for; a file in the server's folder, which clients never see.

    Attributes:
        study: its name at the clients.
        experiment: the resolved config.
        run: the run's folder.
        data: the server's own data; none if None.
        resume: whether the run is gone on with.
        command: as it was typed.
        withdrawn: whether it was taken back; what the study was remains known.
    """

    study: str
    experiment: Mapping[str, Any]
    run: str
    data: str | None
    resume: bool
    command: Sequence[str]
    withdrawn: bool = False

    def write(self, folder: ServerFolder) -> None:
        """Leave it for the server; how an earlier run of the study ended is forgotten."""
        folder.studies.mkdir(exist_ok=True)
        with record.writing(folder.studies):
            _end(folder, self.study).unlink(missing_ok=True)
            _replace(folder.studies / f"{self.study}.json", json.dumps(vars(self)))

    def alone(self, folder: ServerFolder, patience: float = 0.0) -> AbstractContextManager[None]:
        """Hold the study, of which one run at a time may go on.

        Raises:
            RunError: another one does.
        """
        file = folder.studies / f"{self.study}.lock"
        return alone(file, f"the run in {self.run} is going on already: fedtl deploy status {folder.path}", patience)

    def goes_on(self, folder: ServerFolder) -> bool:
        """Whether a run of the study holds it."""
        try:
            with self.alone(folder):
                return False
        except RunError:
            return True

    def withdraw(self, folder: ServerFolder) -> None:
        """Take it back: nothing begins by it any more. A study that had begun before can still be gone on with."""
        if self.resume:
            replace(self, withdrawn=True).write(folder)
        else:
            (folder.studies / f"{self.study}.json").unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: ServerFolder, study: str) -> Order:
        """Take it up.

        Raises:
            ConfigError: this server knows no such study.
        """
        try:
            return cls(**json.loads((folder.studies / f"{study}.json").read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ConfigError(f"{folder.path} knows no study {study!r}: it was another server's") from error

    def ended(self, folder: ServerFolder, how: Mapping[str, Any]) -> None:
        """Say how the run ended: with an ``error`` or well."""
        _replace(_end(folder, self.study), json.dumps(how))

    def end(self, folder: ServerFolder) -> dict[str, Any] | None:
        """How the run ended; None if it has not."""
        try:
            found: dict[str, Any] = json.loads(_end(folder, self.study).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found


def _end(folder: ServerFolder, study: str) -> Path:
    return folder.studies / f"{study}.end.json"


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def serve(order: Order, folder: ServerFolder, grid: Grid) -> None:
    """Run a study on the clients of a SuperLink, to its end.

    Raises:
        ConfigError: clients' data, the server's and the config do not go together.
        RunError: too few clients connected, or too many failed.
    """
    config = build(dict(order.experiment))
    clients = [Client(name, node_key(folder, name)) for name in folder.clients]
    link = DeployedGrid(
        grid, clients, Study(order.study, json.dumps(config.tables()), len(clients)), config.deploy, say
    )
    expected = [i for i, name in enumerate(folder.clients) if name in folder.admitted]
    least = config.deploy.min_clients or 1
    own = read_own(order.data, server=True) if order.data else None
    frame = _known_frame(order)
    if config.deploy.privacy is not None:
        say(str(config.deploy.privacy))
        if frame is None and config.data.normalise != "none":
            raise ConfigError(
                "deploy.privacy: clients' sums for the normalisation would travel without noise; give the server a "
                "frame.json with --data, or set data.normalise = 'none'"
            )
    link.wait_for(expected, len(expected), least)
    for client, why in link.describe(expected, "none" if frame else config.data.normalise).items():
        say(f"{clients[client].name}: {why}")
    if len(link.described) < least:
        raise RunError(f"only {len(link.described)} of {len(clients)} clients said what they hold, {least} must")
    doubt = doubtful_classes(link.described.values()) if frame is None else None
    frame = frame or common_frame({clients[i].name: told for i, told in sorted(link.described.items())}, config)
    link.frame = frame.to_json()
    federation = _seen_by_server(own, frame, config, len(clients))
    federation = replace(federation, notes=(*(own.notes if own else ()), *([doubt] if doubt else [])))
    link.fits = lambda name, told: _check_fits(name, told, frame, federation)
    for i, told in sorted(link.described.items()):
        link.fits(clients[i].name, told)
    _check_public(config, federation)
    about = {
        "command": list(order.command),
        "grid": "deployed",
        "actors": None,
        "study": order.study,
        "names": list(folder.clients),
    }
    place = Place(Path(order.run), resume=order.resume and begun(Path(order.run)))
    server = open_run(config, federation, place, Progress(folder.clients), about, elsewhere=True)
    try:
        _prepare(server, link, frame)
    except BaseException as error:
        server.recorder.__exit__(type(error), error, None)
        raise
    server.run_on(link)


def _prepare(server: Server, link: DeployedGrid, frame: DataSchema) -> None:
    """What a run on real clients needs besides a simulated one's parts."""
    config = server.config
    if config.deploy.privacy is not None and server.engine.task.rest:
        raise ConfigError("deploy.privacy: the noise could make a batch-norm's variance negative; use a model without")
    frame.write(server.recorder.folder / FRAME)
    server.strategy.min_clients = config.deploy.min_clients
    link.expected = _expected(server)
    link.came = lambda: let_sample_who_can(server, link.described)
    link.came()


def node_key(folder: ServerFolder, name: str) -> bytes:
    """A client's public key as Flower's nodes have it; nobody's, if it was revoked."""
    if name not in folder.admitted:
        return b""
    key = load_ssh_public_key(folder.public_key(name).read_bytes())
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _known_frame(order: Order) -> DataSchema | None:
    """What a run that is gone on with was told of its samples, or what the server's data say of everybody's."""
    if order.resume and (Path(order.run) / FRAME).exists():
        return DataSchema.read(Path(order.run) / FRAME)
    if order.data and (Path(order.data) / FRAME).is_file():
        return DataSchema.read(Path(order.data) / FRAME)
    return None


def common_frame(told: Mapping[str, Described], config: Config) -> DataSchema:
    """What the clients' descriptions have in common.

    Args:
        told: by client's name.
        config: says how samples are normalised: by the statistics of all these clients' training samples.

    Raises:
        ConfigError: they differ.
    """
    (first, one), *others = told.items()
    for name, other in others:
        if (other.shape, other.dtype) != (one.shape, one.dtype):
            raise ConfigError(
                f"a sample of {name} is {other.dtype} {list(other.shape)}, and one of {first} {one.dtype} "
                f"{list(one.shape)}; all clients must have samples of one shape and type"
            )
    numbers = {name: each.largest_label for name, each in told.items() if each.names is None}
    largest = max((-1 if label is None else label for label in numbers.values()), default=-1)
    labels = tuple(sorted({word for each in told.values() for word in each.names or ()}))
    if labels and largest >= 0:
        words = next(name for name, each in told.items() if each.names is not None)
        number = max(numbers, key=lambda name: numbers[name] or 0)
        raise ConfigError(f"labels are words at {words} and numbers at {number}; all clients must use one kind")
    classes = len(labels) or largest + 1
    if not classes:
        raise ConfigError(
            "no client has a label, so nobody says which classes there are: give a frame.json with --data"
        )
    sums = [each.sums for each in told.values() if each.sums is not None]
    scale, shift = normaliser(config.data.normalise, sums, one.shape, one.dtype)
    return DataSchema(one.shape, "uint8" if one.dtype == "uint8" else "float32", classes, labels, scale, shift)


def doubtful_classes(told: Iterable[Described]) -> str | None:
    """A note where the clients' labels are numbers that alone say how many classes there are, and leave some out.

    Raises:
        ConfigError: there would be many classes, and more than samples.
    """
    told = list(told)
    present = sorted({label for each in told for label in each.labels})
    if not present:
        return None
    return check_classes(
        "the clients' y", present, sum(each.train + each.unlabelled + each.test + each.validation for each in told)
    )


def _check_fits(name: str, told: Described, frame: DataSchema, federation: Federation) -> None:
    """Say at once what each client would fail with in every round."""
    if (told.shape, told.dtype) != (frame.shape, frame.dtype):
        raise ConfigError(
            f"a sample of {name} is {told.dtype} {list(told.shape)}; this study's are {frame.dtype} {list(frame.shape)}"
        )
    if told.largest_label is not None and told.largest_label >= frame.classes:
        raise ConfigError(f"{name} has the label {told.largest_label}; this study has {frame.classes} classes from 0")
    unknown = sorted(set(told.names or ()) - set(frame.labels)) if frame.labels else []
    if unknown:
        raise ConfigError(
            f"{name} has the label {unknown[0]!r}, which is none of this study's: {', '.join(frame.labels)}"
        )
    if len(federation.public) and told.public != len(federation.public):
        raise ConfigError(f"{name} has {told.public} public samples, and the server {len(federation.public)}")


def _seen_by_server(own: Own | None, frame: DataSchema, config: Config, clients: int) -> Federation:
    """The federation of which the server holds at most a test set and public samples."""
    found = frame.without_samples(clients) if own is None else own.as_federation(frame, 0, clients)
    nobody, none = Shards.none(clients), np.arange(0)
    if found.target is None and (config.data.target is not None or config.data.labelled_fraction < 1):
        return replace(found, target=Domain(nobody, nobody, none))
    return found


def _check_public(config: Config, federation: Federation) -> None:
    """Check that the server has the public samples that it learns from, or that clients tell it of."""
    method = strategy_type(config.strategy.name)
    for stage in config.stages():
        for statistic in Objective(stage.objective, method.statistics(stage.strategy)).statistics:
            if statistic.on == "public" and not len(federation.public):
                raise ConfigError(
                    f"{statistic.name!r} is about public samples, which the server must have too: give it those with "
                    "--data, a folder with public.npz"
                )


def _expected(server: Server) -> tuple[Expected, ...]:
    """What replies look like in each phase."""
    updates = client_updates(server.config, [engine.of(0).task for engine in server.engines])
    replies = []
    for engine, update in zip(server.engines, updates):
        one = engine.of(0)
        _, (uploads, _) = after_one_step(one.task, update)
        shapes = {name: tuple(tensor.shape) for name, tensor in uploads.items()}
        if "w" in update.sums:
            shapes["w"] = (len(server.w),)
        counts = {name: update.settings.weighting if how == "settings" else how for name, how in update.sums.items()}
        sizes = tuple(len(part) for part in one.statistics(server.initial, 0))
        sums = {name: (how, shapes[name]) for name, how in counts.items()}
        rows = {name: shapes[name] for name in update.rows}
        replies.append(Expected(sums, rows, one.task.objective.names, sizes))
    return tuple(replies)


def let_sample_who_can(server: Server, told: Mapping[int, Described]) -> None:
    """Let the strategy sample only those who hold what a phase trains on, as in a simulation; who is not known may.

    It also learns who holds test samples, and validation samples.
    """

    def sizes(held: str, unknown: int = 1) -> Shards:
        # Whether it holds any is all that matters; a client that lies should not make room for what it says.
        each = [min(getattr(told[i], held), 1) if i in told else unknown for i in range(server.federation.clients)]
        return Shards.from_sizes(np.zeros(sum(each), np.int64), np.array(each, np.int64))

    held = server.federation
    if held.target is not None:
        held = replace(held, target=replace(held.target, train=sizes("unlabelled")))
    held = replace(held, train=sizes("train"))
    phases = zip(server.strategy.phases, server.engines)
    found = [replace(phase, clients=eligible(held, engine.task.objective)) for phase, engine in phases]
    for phase in found:
        if phase.clients is not None and not len(phase.clients):
            raise ConfigError(
                f"no client holds what the objective of the rounds {phase.first} to {phase.last} trains on"
            )
    server.strategy.phases = tuple(found)
    # Who has never been there may hold such samples too, of a kind that others hold.
    scored = {"clients": "test", "target-clients": "target_test", "validation-clients": "validation"}
    for data, kind in scored.items():
        holds = sizes(kind).sizes
        known = any(holds[i] for i in told)
        server.strategy.tested[data] = np.flatnonzero(holds) if known else np.arange(0)


class Progress:
    """Prints a line for each round; why a client is missing the link has said."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._rounds = names, 0

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """The run's parts are ready."""
        self._rounds = config.rounds
        gone_on = f", going on with round {first_round}" if first_round > 1 else ""
        if first_round > config.rounds:
            gone_on = f", finished already with round {first_round - 1}"
        say(f"{config.strategy.name}, {config.rounds} rounds{gone_on}, in {folder}")
        for note in about.get("notes", ()):
            say(note)

    def round(self, report: Round) -> None:
        """A round is finished and on disk."""
        scores = [
            marked(f"{name} {100 * accuracy(score):.2f} %", Coverage.of_row(score))
            for name, score in report.scores.items()
        ]
        untrained = {client for client, why in report.failures if not why.startswith("scoring:")}
        say(
            f"round {report.round}/{self._rounds}: {report.seconds:.1f} s, "
            f"{len(report.clients) - len(untrained)} of {len(report.clients)} clients"
            + (f" (not {', '.join(self._names[client] for client in sorted(untrained))})" if untrained else "")
            + "".join(f"; {each}" for each in scores)
        )


def say(text: str) -> None:
    """Print a line for whoever started the run."""
    print(f"fedtl: {text}", flush=True)
