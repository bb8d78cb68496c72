"""The server of a study, started by Flower's SuperLink: it runs as in a simulation, with clients elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedtl.assemble.chosen import Rules, names_of_scores, seen_and_unseen
from fedtl.assemble.driver import Server
from fedtl.assemble.parts import client_updates
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Config
from fedtl.data.arrays import check_classes
from fedtl.data.federation import Domain, Federation, Shards
from fedtl.data.held_out import held_out
from fedtl.data.own.columns import ColumnRules
from fedtl.data.own.lines import difference
from fedtl.data.own.part import FRAME
from fedtl.data.own.read import Own, read_own
from fedtl.data.own.rules import class_names
from fedtl.data.own.statistics import normaliser
from fedtl.data.own.words import doubtful_words
from fedtl.data.schema import DataSchema
from fedtl.data.sets.files import Files
from fedtl.data.views.normalise import needs_statistics
from fedtl.deploy.columns import (
    First,
    check_columns,
    check_kinds,
    decided_columns,
    names_in,
    of_numbers,
    of_server,
    that_fit,
)
from fedtl.deploy.deployed_grid import Client, DeployedGrid, Described, OutcomesKind
from fedtl.deploy.flower import SERVER_FOLDER, STUDY
from fedtl.deploy.folders import ServerFolder, read_server
from fedtl.deploy.leash import end_with_starter, leashed
from fedtl.deploy.process import alone
from fedtl.deploy.study import Study
from fedtl.deploy.validator import Expected
from fedtl.deploy.weights import pretrained_of, sketches
from fedtl.engine.first_memory import after_one_step
from fedtl.engine.plan import gone_through, trains
from fedtl.experiment import Place, open_run
from fedtl.failure import RunError
from fedtl.losses.objective import NEEDS, Objective, needs_of
from fedtl.losses.term import Term
from fedtl.runs import record
from fedtl.runs.best import Stopped
from fedtl.runs.progress import coverage_of, score_text
from fedtl.runs.resume import begun
from fedtl.server.report import Round
from fedtl.server.scores import marked
from fedtl.strategies import strategy_type
from fedtl.tasks import LearningTask, Outcomes

ENDS_WITHIN = 30.0
"""Seconds that an earlier run of a study may take to notice that it, or its server, was stopped."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run config names."""
    if leashed():
        end_with_starter()  # Flower may take a minute to notice
    folder = read_server(os.environ[SERVER_FOLDER])
    study = str(context.run_config[STUDY])
    order = RunRequest.read(folder, study)
    try:
        with order.alone(folder, ENDS_WITHIN):
            order = RunRequest.read(folder, study)  # it may have changed while this run waited
            if order.withdrawn:
                raise RunError("the run was withdrawn before it began")
            _serve_to_the_end(order, folder, grid)
    except RunError as error:  # how the run ended is not recorded: the other run records its own end
        say(str(error))
        raise SystemExit(1) from None


def _serve_to_the_end(order: RunRequest, folder: ServerFolder, grid: Grid) -> None:
    """Run a study, and record how it ended."""
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
class RunRequest:
    """The order of ``fedtl deploy run`` to the server: a file in the server's folder, which clients never see.

    Attributes:
        study: its name at the clients.
        experiment: the resolved config.
        run: the run's folder.
        data: the server's own data; None if there are none.
        resume: whether the run is resumed.
        command: as it was typed.
        withdrawn: whether the order was withdrawn; the file then only says what the study is.
    """

    study: str
    experiment: Mapping[str, Any]
    run: str
    data: str | None
    resume: bool
    command: Sequence[str]
    withdrawn: bool = False

    def write(self, folder: ServerFolder) -> None:
        """Write the file, and delete the record of how an earlier run of the study ended."""
        folder.studies.mkdir(exist_ok=True)
        with record.writing(folder.studies):
            _end(folder, self.study).unlink(missing_ok=True)
            _replace(folder.studies / f"{self.study}.json", json.dumps(vars(self)))

    def alone(self, folder: ServerFolder, patience: float = 0.0) -> AbstractContextManager[None]:
        """Lock the study, of which one run at a time may be in progress.

        Raises:
            RunError: another run is.
        """
        file = folder.studies / f"{self.study}.lock"
        return alone(file, f"the run in {self.run} is already in progress: fedtl deploy status {folder.path}", patience)

    def goes_on(self, folder: ServerFolder) -> bool:
        """Whether a run of the study is in progress."""
        try:
            with self.alone(folder):
                return False
        except RunError:
            return True

    def withdraw(self, folder: ServerFolder) -> None:
        """Withdraw the order, so that no run starts by it. A study that had begun before can still be resumed."""
        if self.resume:
            replace(self, withdrawn=True).write(folder)
        else:
            (folder.studies / f"{self.study}.json").unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: ServerFolder, study: str) -> RunRequest:
        """Read the file.

        Raises:
            ConfigError: this server knows no such study.
        """
        try:
            return cls(**json.loads((folder.studies / f"{study}.json").read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ConfigError(f"{folder.path} knows no study {study!r}: it was another server's") from error

    def ended(self, folder: ServerFolder, how: Mapping[str, Any]) -> None:
        """Record how the run ended: with an ``error``, or empty if well."""
        _replace(_end(folder, self.study), json.dumps(how))

    def end(self, folder: ServerFolder) -> dict[str, Any] | None:
        """How the run ended; None if it has not."""
        try:
            end: dict[str, Any] = json.loads(_end(folder, self.study).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return end


def _end(folder: ServerFolder, study: str) -> Path:
    return folder.studies / f"{study}.end.json"


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def serve(order: RunRequest, folder: ServerFolder, grid: Grid) -> None:
    """Run a study on the clients of a SuperLink, to its end.

    Raises:
        ConfigError: the clients' data, the server's data and the config do not fit together.
        RunError: too few clients connected, or too many failed.
    """
    config = build(dict(order.experiment))
    clients = [Client(name, node_key(folder, name)) for name in folder.clients]
    # Where the server tracks is none of the clients' business; the place may even hold a password.
    sent = config.model_copy(update={"tracking": ()})
    study = Study(order.study, json.dumps(sent.tables()), len(clients))
    deployed = DeployedGrid(grid, clients, study, config.deploy, say)
    expected = [i for i, name in enumerate(folder.clients) if name in folder.admitted]
    least = config.deploy.min_clients or 1
    frame = _known_frame(order, config)
    own = server_data(order.data, config) if order.data else None
    kind = config.data.normalise
    statistics_of = kind if frame is None and needs_statistics(kind) else "none"
    outcome_sums = frame is None and config.data.task.summed
    rules = config.data.rules.columns if isinstance(config.data, Files) else ColumnRules()
    if config.deploy.privacy is not None:
        say(str(config.deploy.privacy))
        _check_no_sums(statistics_of, outcome_sums, frame is None and rules.together)
    deployed.wait_for(expected, len(expected), least)
    unseen = held_out(config.data.held_out_clients, len(clients), config.seed).tolist()
    training = [i for i in expected if i not in unseen]  # of the others no sums are needed, and so none are asked for
    columns, notes = None if frame is None else frame.columns, list[str]()
    if frame is None and rules.together:
        columns = decided_columns(deployed, {i: clients[i].name for i in training}, rules, notes)
    if own is not None and own.undecided is not None:
        own = of_server(own, columns)
    said = "" if columns is None else json.dumps(columns.to_list())
    without = deployed.describe(training, statistics_of, outcome_sums, said)
    without |= deployed.describe(set(expected) - {*training}, columns=said)
    missing = [f"{clients[i].name}: {why}" for i, why in sorted(without.items())]
    for line in missing:
        say(line)
    if len(deployed.described) < least:
        raise RunError(
            f"only {len(deployed.described)} of {len(clients)} clients described their data, {least} must"
            + "".join(f"; {line}" for line in missing[:1])
        )
    by_name = {clients[i].name: each for i, each in sorted(deployed.described.items())}
    doubts = doubtful_classes(by_name) if frame is None else ()
    tables = [First(name, each.columns, each.boolean) for name, each in by_name.items()]
    if own is not None:
        tables.insert(0, First("the server", own.columns, own.table.boolean if own.table is not None else ()))
    like = next((table for table in tables if table.columns), None)
    for name, each in by_name.items():
        check_columns(name, each, like)
    frame = frame or common_frame(by_name, config, [clients[i].name for i in unseen])
    frame = replace(frame, columns=that_fit(columns, frame) or of_numbers(like, frame))
    deployed.frame = frame.to_json()
    federation = _seen_by_server(own, frame, config, len(clients))
    federation = replace(federation, notes=(*(own.notes if own else ()), *doubts, *notes))
    federation = with_domains(federation, deployed.described)

    def check_fits(name: str, description: Described) -> None:
        _check_fits(name, description, frame, federation)
        check_columns(name, description, like)

    deployed.check_fits = check_fits
    for i, description in sorted(deployed.described.items()):
        deployed.check_fits(clients[i].name, description)
    _check_public(config, federation)
    about = {
        "command": list(order.command),
        "grid": "deployed",
        "actors": None,
        "study": order.study,
        "names": list(folder.clients),
    }
    place = Place(Path(order.run), resume=order.resume and begun(Path(order.run)))
    server = open_run(config, federation, place, RoundLines(folder.clients), about, elsewhere=True)
    try:
        _prepare(server, deployed, frame)
    except BaseException as error:
        server.recorder.__exit__(type(error), error, None)
        raise
    server.run_on(deployed)


def _check_no_sums(statistics_of: str, outcome_sums: bool, of_columns: bool) -> None:
    """Check that clients need send no sums.

    Raises:
        ConfigError: they need; it says how they need not.
    """
    needed = {"for the normalisation": "data.normalise = 'none'"} if needs_statistics(statistics_of) else {}
    if outcome_sums:
        needed["of what is predicted"] = "standardise = false in data.task"
    if of_columns:
        needed["of columns"] = "data.missing = 'drop', with no data.categorical"
    if needed:
        raise ConfigError(
            f"deploy.privacy: clients' sums {' and '.join(needed)} would travel without noise; give the server a "
            f"frame.json with --data, or set {' and '.join(needed.values())}"
        )


def _prepare(server: Server, deployed: DeployedGrid, frame: DataSchema) -> None:
    """Set up what a run on real clients needs in addition to a simulated run's parts."""
    config = server.config
    if config.deploy.privacy is not None and server.engine.task.remembered_buffers:
        raise ConfigError("deploy.privacy: the noise could make a batch-norm's variance negative; use a model without")
    frame.write(server.recorder.folder / FRAME)
    server.strategy.min_clients = config.deploy.min_clients
    clients = range(server.federation.clients)
    first = [sketches(config, server.engines, client) for client in range(len(config.models) or 1)]
    weights = [first[client % len(first)] for client in clients]
    if any(weights):
        deployed.compare_weights(weights, [pretrained_of(config, client) for client in clients])
    deployed.expected = _expected(server)
    deployed.on_described = lambda: restrict_sampling(server, deployed.described)
    deployed.on_described()
    tested = [data for data, holders in server.strategy.tested.items() if len(holders)]
    Rules.of(config, names_of_scores(server.strategy, server.federation, tested))


def node_key(folder: ServerFolder, name: str) -> bytes:
    """A client's public key in Flower's format; empty if it was revoked."""
    if name not in folder.admitted:
        return b""
    key = load_ssh_public_key(folder.public_key(name).read_bytes())
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def server_data(path: str, config: Config) -> Own:
    """What the server holds, read as the experiment says.

    Raises:
        ConfigError: it is not what it should be.
    """
    if isinstance(config.data, Files):
        return config.data.own(path, server=True)
    return read_own(path, server=True, task=config.data.task)


def _known_frame(order: RunRequest, config: Config) -> DataSchema | None:
    """The data schema of a resumed run, or the one in the server's data; None if neither has one.

    Raises:
        ConfigError: it is of another task.
    """
    files = [Path(order.run) / FRAME] if order.resume else []
    files += [Path(order.data) / FRAME] if order.data else []
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    frame, task = DataSchema.read(file), config.data.task
    if frame.task.labelled and task.labelled:
        task.outputs(frame.classes)  # which says whether so many classes are not what it is for
        return replace(frame, task=task)
    if frame.task != task:
        raise ConfigError(
            f"{file} is of data.task = {frame.task.name!r} or of other options, and this experiment's is "
            f"{task.name!r}; fedtl partition --export writes it for this one"
        )
    return frame


def common_frame(descriptions: Mapping[str, Described], config: Config, unseen: Collection[str] = ()) -> DataSchema:
    """The data schema that all clients' descriptions share.

    Args:
        descriptions: by client's name.
        config: says how samples are normalised: by the statistics of all these clients' training samples.
        unseen: clients whose statistics do not count, as they never train.

    Raises:
        ConfigError: the clients' samples or labels differ in kind.
    """
    (first, one), *others = descriptions.items()
    for name, other in others:
        if (other.shape, other.dtype) != (one.shape, one.dtype):
            raise ConfigError(
                f"a sample of {name} is {other.dtype} {list(other.shape)}, and one of {first} {one.dtype} "
                f"{list(one.shape)}; all clients must have samples of one shape and type"
            )
    sums = [each.sums for name, each in descriptions.items() if each.sums is not None and name not in unseen]
    dtype: Literal["uint8", "float32"] = "uint8" if one.dtype == "uint8" else "float32"
    if not config.data.task.labelled:
        outcomes = common_outcomes(descriptions, config.data.task, unseen)
        if isinstance(config.data, Files) and any(each.columns for each in descriptions.values()):
            outcomes = outcomes.called(config.data.predicted)
        scale, shift = normaliser(config.data.normalise, sums, one.shape, one.dtype)
        return DataSchema(one.shape, dtype, 1, (), scale, shift, config.data.task, outcomes)
    numbers = {name: each.largest_label for name, each in descriptions.items() if each.names is None}
    largest = max((-1 if label is None else label for label in numbers.values()), default=-1)
    labels = tuple(sorted({word for each in descriptions.values() for word in each.names or ()}))
    if labels and largest >= 0:
        words = next(name for name, each in descriptions.items() if each.names is not None)
        number = max(numbers, key=lambda name: numbers[name] or 0)
        raise ConfigError(f"labels are words at {words} and numbers at {number}; all clients must use one kind")
    classes = len(labels) or largest + 1
    if not classes:
        raise ConfigError("no client has a label, so the classes are unknown: give a frame.json with --data")
    if not labels and classes == 2 and isinstance(config.data, Files) and config.data.positive:
        told = [each.others for each in descriptions.values() if each.largest_label is not None]
        of_no = sorted({word for each in told for word in each or ()})
        if of_no and None not in told:  # arrays, and older clients, do not tell
            labels = class_names(of_no, config.data.positive)
    config.data.task.outputs(classes)  # which says whether so many classes are not what it is for
    scale, shift = normaliser(config.data.normalise, sums, one.shape, one.dtype)
    return DataSchema(one.shape, dtype, classes, labels, scale, shift, config.data.task)


def common_outcomes(
    descriptions: Mapping[str, Described], task: LearningTask, unseen: Collection[str] = ()
) -> Outcomes:
    """Of which kind it is what is predicted, by all clients' descriptions, and how it is standardised.

    Args:
        descriptions: by client's name.
        task: says what is predicted.
        unseen: clients that never train, and by whose sums nothing is standardised.

    Raises:
        ConfigError: it differs in kind, or no client says.
    """
    kinds = {name: each.outcomes for name, each in descriptions.items() if each.outcomes is not None}
    if not kinds:
        raise ConfigError(f"no client has a sample of which data.task = {task.name!r} predicts anything")
    (first, one), *others = kinds.items()
    for name, other in others:
        if other[:2] != one[:2]:
            raise ConfigError(
                f"what is predicted of a sample of {name} is {other.dtype} {list(other.shape)}, and of {first} "
                f"{one.dtype} {list(one.shape)}; all clients must have outcomes of one shape and type"
            )
    for name, kind in kinds.items():
        _check_outputs(name, kind, task)
    nothing: Any = np.empty((0, *one.shape), one.dtype)
    outcomes = Outcomes(nothing, max(kind.outputs for kind in kinds.values()))
    if not task.summed:
        return outcomes
    sums = [each.outcome_sums for name, each in descriptions.items() if each.outcome_sums and name not in unseen]
    return task.with_sums(outcomes, sums)


def _check_outputs(name: str, kind: OutcomesKind, task: LearningTask) -> None:
    """Check that a client needs as many of a model's outputs as the task has of such outcomes.

    Raises:
        ConfigError: it says another number, or the task has no such outcomes.
    """
    whose = f"what is predicted of a sample of {name}"
    needs = task.outcomes(whose, np.ones((1, *kind.shape), kind.dtype), 1).outputs
    if needs != kind.outputs and not (task.per_token and getattr(task, "vocabulary", None) is None):
        raise ConfigError(
            f"{name} says that it needs {kind.outputs} outputs; data.task = {task.name!r} has {needs} here"
        )


def doubtful_classes(descriptions: Mapping[str, Described]) -> tuple[str, ...]:
    """Notes if the classes are inferred from numeric labels that skip some, or from words that may mean the same.

    Args:
        descriptions: by client's name.

    Raises:
        ConfigError: there would be many classes, and more than samples.
    """
    notes = doubtful_words({name: each.names for name, each in descriptions.items() if each.names})
    present = sorted({label for each in descriptions.values() for label in each.labels})
    if not present:
        return notes
    samples = sum(each.train + each.unlabelled + each.test + each.validation for each in descriptions.values())
    note = check_classes("the clients' y", present, samples)
    return notes if note is None else (*notes, note)


def _check_fits(name: str, data: Described, frame: DataSchema, federation: Federation) -> None:
    """Refuse a client whose data would make every round fail."""
    if (data.shape, data.dtype) != (frame.shape, frame.dtype):
        raise ConfigError(
            f"a sample of {name} is {data.dtype} {list(data.shape)}; this study's are {frame.dtype} {list(frame.shape)}"
        )
    if frame.columns is not None and data.columns:
        if (names := names_in(data.columns)) != frame.columns.names:
            raise ConfigError(f"the table of {name}: {difference(names, frame.columns.names)} in this study")
        check_kinds(name, data, frame.columns.boolean, "this study")
    if data.largest_label is not None and data.largest_label >= frame.classes:
        raise ConfigError(f"{name} has the label {data.largest_label}; this study has {frame.classes} classes from 0")
    if data.train + data.test + data.validation and (data.outcomes is None) != (frame.outcomes is None):
        raise ConfigError(
            f"{name} has read its data for another task than data.task = {frame.task.name!r}; it can be started with "
            f"--task {frame.task.name}"
        )
    if data.outcomes is not None and frame.outcomes is not None:
        kind = frame.outcomes.values
        if (data.outcomes.shape, data.outcomes.dtype) != (kind.shape[1:], str(kind.dtype)):
            raise ConfigError(
                f"what is predicted of a sample of {name} is {data.outcomes.dtype} {list(data.outcomes.shape)}; in "
                f"this study it is {kind.dtype} {list(kind.shape[1:])}"
            )
        if data.outcomes.outputs > frame.outcomes.outputs:
            raise ConfigError(
                f"{name} needs {data.outcomes.outputs} outputs; this study's model has {frame.outcomes.outputs}"
            )
    unknown = sorted(set(data.names or ()) - set(frame.labels)) if frame.labels else []
    if unknown:
        raise ConfigError(
            f"{name} has the label {unknown[0]!r}, which is none of this study's: {', '.join(frame.labels)}"
        )
    if len(federation.public) and data.public != len(federation.public):
        raise ConfigError(f"{name} has {data.public} public samples, and the server {len(federation.public)}")


def _seen_by_server(own: Own | None, frame: DataSchema, config: Config, clients: int) -> Federation:
    """The federation as the server sees it, with at most a test set and public samples."""
    federation = frame.without_samples(clients) if own is None else own.as_federation(frame, 0, clients)
    nobody, none = Shards.none(clients), np.arange(0)
    federation = replace(federation, unseen=held_out(config.data.held_out_clients, clients, config.seed))
    if federation.target is None and (config.data.target is not None or config.data.labelled_fraction < 1):
        return replace(federation, target=Domain(nobody, nobody, none))
    return federation


def _check_public(config: Config, federation: Federation) -> None:
    """Check that the server has public samples if it learns from them, or from statistics of them."""
    method = strategy_type(config.strategy.name)
    for stage in config.stages():
        for statistic in Objective(stage.objective, method.statistics(stage.strategy)).statistics:
            if statistic.on == "public" and not len(federation.public):
                raise ConfigError(
                    f"{statistic.name!r} is about public samples, which the server must have too: give it those with "
                    "--data, a folder with public.npz"
                )


def _expected(server: Server) -> tuple[Expected, ...]:
    """The form of the replies in each phase."""
    updates = client_updates(server.config, [engine.of(0).task for engine in server.engines])
    replies = []
    for engine, update in zip(server.engines, updates):
        one = engine.of(0)
        _, (uploads, _) = after_one_step(one.task, update)
        shapes = {name: tuple(tensor.shape) for name, tensor in uploads.items()}
        if "w" in update.sums:
            shapes["w"] = (len(server.w),)
        counts = update.counts(update.settings)
        sizes = tuple(len(part) for part in one.statistics(server.initial, 0))
        sums = {name: (how, shapes[name]) for name, how in counts.items()}
        rows = {name: shapes[name] for name in update.rows}
        federation = one.task.samples.federation
        task, outcomes = federation.task, federation.outcomes
        tokens = outcomes.values.shape[1] if outcomes is not None and task.per_token else 1
        names = one.task.objective.names
        replies.append(Expected(sums, rows, names, sizes, one.task.metrics, federation.predicted, tokens, task))
    return tuple(replies)


def restrict_sampling(server: Server, described: Mapping[int, Described]) -> None:
    """Let the strategy sample only clients that have the samples a phase trains on, as in a simulation.

    A client that has not described its data counts as having some of each kind. The strategy also learns which clients
    have test samples, which have validation samples, how many each trains on, and of which domain each is.
    """

    def sizes(kind: str) -> Shards:
        # 0 or 1: only whether there are any matters, and a client that lies must not make the server allocate memory.
        each = [min(getattr(described[i], kind), 1) if i in described else 1 for i in range(server.federation.clients)]
        return Shards.from_sizes(np.zeros(sum(each), np.int64), np.array(each, np.int64))

    federation = server.federation
    if federation.target is not None:
        federation = replace(federation, target=replace(federation.target, train=sizes("unlabelled")))
    federation = replace(federation, train=sizes("train"))
    pairs = zip(server.strategy.phases, server.engines)
    phases = [replace(phase, clients=trains(federation, engine.task.objective)) for phase, engine in pairs]
    for phase in phases:
        if phase.clients is not None and not len(phase.clients):
            raise ConfigError(
                f"no client holds what the objective of the rounds {phase.first} to {phase.last} trains on"
            )
    for engine in server.engines:
        for term in engine.task.objective.terms:
            _check_held(term, federation)
    server.strategy.phases = tuple(phases)
    # A client that was never connected is assumed to have a kind of test samples that another one has.
    scored = {"clients": "test", "target-clients": "target_test", "validation-clients": "validation"}
    for data, kind in scored.items():
        any_samples = sizes(kind).sizes
        known = any(any_samples[i] for i in described)
        server.strategy.tested[data] = np.flatnonzero(any_samples) if known else np.arange(0)
    seen = {data: server.strategy.tested[data] for data in scored}
    server.strategy.tested |= seen_and_unseen(seen, federation.unseen)
    server.strategy.domains = with_domains(federation, described).clients_of_domains
    clients, told = federation.clients, dict(described)
    server.strategy.sizes = lambda round, phase: _numbers_of_samples(
        clients, told, server.engines[phase].task.objective
    )


def _numbers_of_samples(clients: int, described: Mapping[int, Described], objective: Objective) -> NDArray[np.float64]:
    """How many samples each client trains on, as it says; one that has not described its data, as many as the mean."""
    if not described:
        return np.ones(clients)
    source, target = np.array([(each.train, each.unlabelled) for each in described.values()]).T
    told = gone_through(source, target, objective)
    numbers = np.full(clients, told.mean())
    numbers[[*described]] = told
    return numbers


def with_domains(federation: Federation, described: Mapping[int, Described]) -> Federation:
    """The federation with the domains that clients say they are of; as it is where none does."""
    names = [*dict.fromkeys(each.domain for _, each in sorted(described.items()) if each.domain)]
    if not names:
        return federation
    domain_of = np.full(federation.clients, -1)
    for client, each in described.items():
        domain_of[client] = names.index(each.domain) if each.domain else -1
    return replace(federation, domains=tuple(names), domain_of=domain_of)


def _check_held(term: Term, federation: Federation) -> None:
    """Check that some client holds all that a term needs: else it would be skipped everywhere, without a word.

    In a simulation the config says so; here the clients bring what they hold.
    """
    needs = sorted(needs_of(term) & {"source", "target"})
    target = np.zeros(federation.clients) if federation.target is None else federation.target.train.sizes
    sizes = {"source": federation.train.sizes, "target": target}
    if needs and term.weight and not np.logical_and.reduce([sizes[need] > 0 for need in needs]).any():
        hint = "; a client brings target data as target/train, or as training samples with the label -1"
        raise ConfigError(
            f"no client holds {' and '.join(NEEDS[need] for need in needs)}, which the term {term.key!r} trains on"
            + (hint if "target" in needs else "")
        )


class RoundLines:
    """Prints a line for each round; the grid has already said why a client is missing."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._rounds = names, 0
        self._metrics: Sequence[str] = ()

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """The run's parts are ready."""
        self._rounds, self._metrics = config.rounds, config.evaluate.metrics
        resumed = f", resumed at round {first_round}" if first_round > 1 else ""
        if first_round > config.rounds or "stopped" in about:
            resumed = f", already finished with round {first_round - 1}"
        say(f"{config.strategy.name}, {config.rounds} rounds{resumed}, in {folder}")
        for note in about.get("notes", ()):
            say(note)

    def note(self, text: str) -> None:
        """A sentence that is recorded too."""
        say(text)

    def round(self, report: Round) -> None:
        """A round is finished and on disk."""
        scores = [
            marked(f"{name} {score_text(score, self._metrics, 2)}", coverage_of(score, self._metrics))
            for name, score in report.scores.items()
        ]
        untrained = {client for client, why in report.failures if not why.startswith("scoring:")}
        say(
            f"round {report.round}/{self._rounds}: {report.seconds:.1f} s, "
            f"{len(report.clients) - len(untrained)} of {len(report.clients)} clients"
            + (f" (not {', '.join(self._names[client] for client in sorted(untrained))})" if untrained else "")
            + "".join(f"; {each}" for each in scores)
        )
        if report.ends:
            say(str(Stopped(report.round, report.ends)))


def say(text: str) -> None:
    """Print a line that ``fedtl deploy run`` shows."""
    print(f"fedtl: {text}", flush=True)
