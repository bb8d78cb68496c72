"""The composition root: a config becomes parts, and the parts a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import nn

from fedtl import messages as m
from fedtl import record, resume
from fedtl.checkpoint import Checkpoint
from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate
from fedtl.config import Config, Tables, build, is_run, read_config
from fedtl.data.batches import RESTART, derived_seed
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.engine import Engine, EngineChoice, Task, choose_engine
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.choice import Choices
from fedtl.engine.first_memory import check_buffers
from fedtl.engine.mixed import Mixed
from fedtl.engine.operations import operations
from fedtl.engine.plan import able
from fedtl.engine.single_samples import check_single_samples
from fedtl.engine.stacked import MOST_ON_CPU
from fedtl.grid.in_process import InProcessGrid
from fedtl.grid.simulated import SimulatedGrid
from fedtl.history import Run
from fedtl.kept import KeptMemories
from fedtl.lock import RunLock
from fedtl.losses.objective import Objective
from fedtl.models import build_model
from fedtl.models.composite import Composite, layer_sizes, model_of
from fedtl.models.settings import ModelChoice
from fedtl.models.trial import taken_by
from fedtl.network import build_module
from fedtl.node import Stage, Worker
from fedtl.profile import RECORD, Profiler
from fedtl.samples import FewSamples, Samples
from fedtl.server.bench import Bench
from fedtl.server.phase import Phase
from fedtl.server.rounds import Evaluation, Round
from fedtl.server.table import TableStore
from fedtl.sharing import Sharing, freeze
from fedtl.store import MemoryStore, Sizes
from fedtl.strategies import strategy_type
from fedtl.strategies.contract import Strategy
from fedtl.vector import Layout

FEDERATION = 1
"""Which of :func:`make_worker`'s arguments is the federation."""


class Listener(Protocol):
    """Somebody who watches a run; the CLI's progress bar is one."""

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """The run's parts are ready; ``about`` is what ``environment.json`` says, with what is to be known as notes."""

    def round(self, report: Round) -> None:
        """A round is finished and on disk."""


class Silent:
    """Watches nothing."""

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """Nothing."""

    def round(self, report: Round) -> None:
        """Nothing."""


def run(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    profile: bool = False,
    listener: Listener | None = None,
) -> Run:
    """Run an experiment to its end, or to an exception, which loses no finished round.

    Args:
        config: a TOML file, the name of a config that ships, a run's folder, tables, or a config.
        overrides: as on the command line, ``"strategy.lr=0.1"``.
        out: the run's folder; ``results/<name>/<time>-<seed>`` if not given.
        resume: go on with a run that was interrupted: the one in ``out``, in the run's folder that ``config``
            names, or the newest of this config and seed. Where none has begun yet, one begins.
        profile: also record where each round's time goes, for :meth:`Run.profile`; no bit of the result changes.
        listener: is told of each round.

    Returns:
        The run's records.

    Raises:
        ConfigError: the config is wrong, in one sentence.
        RunError: the run cannot go on: too many clients failed, or the disk is full.
    """
    read, _ = read_config(config, overrides)
    if profile and read.simulation.grid == "flower":
        raise ConfigError("--profile: simulation.grid = 'flower' cannot be profiled; use 'ray' or 'in-process'")
    where = place_of(config, read, out, resume)
    server = open_run(read, federate(read.data, read.seed), where, listener or Silent())
    server.profiled = profile
    with one_thread(server.resources.driver_device):
        server.run()
    return Run(server.recorder.folder)


def serve(config: Config, grid: Grid) -> Run:
    """Run an experiment on a grid that somebody else made: Flower's own runtimes."""
    # The process's own command line is Flower's, and holds a token.
    about = {"command": ["flwr", "run"], "grid": "flower", "actors": None}
    server = open_run(config, federate(config.data, config.seed), Place(None), Silent(), about)
    server.run_on(grid)
    return Run(server.recorder.folder)


@dataclass(frozen=True)
class Place:
    """Where a run is written.

    Attributes:
        folder: the run's; None for a new one, ``results/<name>/<time>-<seed>``.
        resume: whether what is there is to be gone on with.
        named: whether the folder itself is where the config was read from.
        notes: what whoever asked for it should know.
    """

    folder: Path | None
    resume: bool = False
    named: bool = False
    notes: tuple[str, ...] = ()


def open_run(
    config: Config,
    federation: Federation,
    place: Place,
    listener: Listener,
    about: Mapping[str, Any] | None = None,
    elsewhere: bool = False,
) -> Server:
    """Make a run's parts, and its folder or what of it is to be gone on with.

    Args:
        config: the experiment.
        federation: what clients hold, as far as it is known here.
        place: where the run is written.
        listener: is told of each round.
        about: recorded besides what is found here.
        elsewhere: clients and their samples are on other machines; this one only scores.

    Raises:
        ConfigError: the config is wrong, another process writes the run, or what is there is damaged.
    """
    sampled = _sampled(config, federation)
    if sampled < (config.strategy.clients_per_round or 0):
        raise ConfigError(
            f"strategy.clients_per_round = {config.strategy.clients_per_round}: there are only {sampled} clients"
        )
    resources = Resources.of(_scoring_only(config) if elsewhere else config, _most_at_once(config, federation))
    with federation.noted():
        tasks = _all_tasks(config, federation, "cpu")
    _check_widths(config, tasks)
    if elsewhere:
        choices: Choices = (EngineChoice(False, False, "clients choose their own"),) * len(tasks)
    else:
        choices = _choose_engines(config, tasks, resources.worker_device)
    layout = tasks[0].layout
    found_here = {
        "device": resources.worker_device,
        "gpu": torch.cuda.get_device_name() if resources.worker_device == "cuda" else None,
        "grid": config.simulation.grid,
        "actors": ("auto" if resources.elastic else resources.actors) if config.simulation.grid == "ray" else None,
        "engine": "; then ".join(dict.fromkeys(choice.name for choice in choices)),
        "engine_because": "; then ".join(dict.fromkeys(choice.because for choice in choices)),
        "clients": federation.clients,
        "parameters": layout.size,
        "notes": [*federation.notes, *resources.notes, *_idle_terms(tasks)],
    }
    about = record.environment(**found_here | dict(about or {}))
    numbers = len(tasks[0].sent(layout.flatten(tasks[0].module)))
    memories = None if elsewhere else KeptMemories(config, tasks, client_updates(config, tasks))
    first = tasks[0].sent(layout.flatten(tasks[0].module))
    strategy = make_strategy(config, federation.clients, layout.parameters, tasks)
    row = strategy.row_sizes(first[: strategy.parameters])
    keeps = Keeps(numbers, memories.sizes if memories else None, (lambda client, round: row) if row else None)
    recorder, checkpoint, about = _open_record(config, place, about, keeps, elsewhere)
    try:
        server = Server(config, federation, resources, choices, recorder, checkpoint, listener, about)
        server.remembers = bool(row) or (memories is not None and memories.any)
        with record.writing(recorder.folder):
            last = checkpoint.round if checkpoint else 0
            server.store.forget_after(last)
            server.rows.forget_after(last)
    except BaseException as error:
        recorder.__exit__(type(error), error, None)
        raise
    return server


class Keeps(NamedTuple):
    """What a run keeps between rounds.

    Attributes:
        numbers: how many of the model travel.
        memories: what clients keep here; None where they are elsewhere.
        rows: what the server keeps of each client; None for nothing.
    """

    numbers: int
    memories: Sizes | None
    rows: Sizes | None


def _open_record(
    config: Config,
    place: Place,
    about: Mapping[str, Any],
    keeps: Keeps,
    durable: bool,
) -> tuple[record.Recorder, Checkpoint | None, Mapping[str, Any]]:
    """Take a run's folder, and begin its record or go back to its last checkpoint; says what is recorded about it."""
    folder = place.folder or record.new_folder(Path("results"), config)
    recorder = record.Recorder(folder, durable, RunLock(folder))
    try:
        if not place.resume:
            about = {**about, "notes": [*about["notes"], *place.notes]}
            recorder.begin(config, about)
            return recorder, None, about
        notes = resume.check_config(folder, config, not place.named)
        there = resume.find(folder, keeps.numbers, keeps.memories, keeps.rows)
        if there.checkpoint is not None and config.rounds < there.checkpoint.round:
            raise ConfigError(
                f"rounds = {config.rounds}: the run in {folder} has finished {there.checkpoint.round} already; give as "
                "many, or more"
            )
        about = {**about, "notes": [*about["notes"], *place.notes, *notes, *there.notes]}
        recorder.resume(config, about, there.mark)
        return recorder, there.checkpoint, about
    except BaseException as error:
        recorder.__exit__(type(error), error, None)
        raise


def _idle_terms(tasks: Sequence[Task]) -> list[str]:
    """A line for each term that can do nothing to the model that it is asked for with."""
    found = ((term.key, term.idle(model_of(task.module.train()))) for task in tasks for term in task.objective.terms)
    return list(dict.fromkeys(f"the term {key!r} has no effect: {why}" for key, why in found if why))


def _scoring_only(config: Config) -> Config:
    """The same experiment as a machine without clients sees it, which need not have the GPU that they have."""
    simulation = config.simulation.model_copy(update={"grid": "in-process"})
    return config.model_copy(update={"simulation": simulation, "device": "cpu" if config.device == "cpu" else "auto"})


def place_of(config: object, read: Config, out: str | Path | None, again: bool) -> Place:
    """Where a run is to be written, or gone on with: see :func:`run`.

    Args:
        config: as it was named.
        read: what was read there.
        out: the run's folder, if it was given.
        again: whether a run is to be gone on with, if there is one.
    """
    named = isinstance(config, (str, Path)) and is_run(config)
    if out is not None:
        folder: Path | None = Path(out)
    elif again and named:
        folder = Path(str(config))
    else:
        folder = resume.newest_run(Path("results"), read) if again else None
    if not again:
        return Place(folder)
    if folder is None or not resume.begun(folder):
        where = f" in {folder}" if folder else ""
        notes = [f"--resume: no run of this config has begun yet{where}, so one begins"]
        if folder is None:
            notes += [
                f"{unread}/config.toml cannot be read; --resume --out {unread} goes on with that run"
                for unread in resume.unreadable_runs(Path("results"), read)
            ]
        return Place(folder, notes=tuple(notes))
    same = named and folder.resolve() == Path(str(config)).resolve()
    return Place(folder, resume=True, named=same)


@dataclass(frozen=True)
class Resources:
    """What a run works with, decided from its config and the machine or cluster at hand.

    Attributes:
        actors: how many Ray actors, at most.
        elastic: whether there are only as many of them as a cluster has room for at the moment.
        num_cpus, num_gpus: what each asks for.
        worker_device, driver_device: where clients train, and where the server scores.
        notes: what is otherwise than it was asked for.
    """

    actors: int
    elastic: bool
    num_cpus: float
    num_gpus: float
    worker_device: str
    driver_device: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config, busy: int) -> Resources:
        """Decide; ``busy`` is how many clients train in a round, at most, so that no actor is idle.

        Raises:
            ConfigError: the config asks for what neither this machine nor a cluster that is joined can have.
        """
        simulation, gpus = config.simulation, torch.cuda.device_count() if torch.cuda.is_available() else 0
        on_ray = simulation.grid == "ray"
        joins = on_ray and _joins_a_cluster(simulation.address)
        if config.device == "cuda" and not gpus and not joins:
            raise ConfigError("device = 'cuda': no CUDA device is at hand here; use 'auto' or 'cpu'")
        if simulation.grid != "in-process":
            _check_can_be_had(config, gpus, joins if on_ray else _joins_a_cluster(None))
        if config.device == "cpu":
            gpus = 0
        driver = "cuda" if gpus else "cpu"
        if not on_ray:
            return cls(1, False, 1, 0, driver, driver)
        if joins and config.device != "cpu":
            gpus = _gpus_of_cluster(simulation.address)
        elastic = joins and simulation.actors == "auto"
        actors, notes = min(busy if joins else gpus or _cores(), busy), list[str]()
        if simulation.actors != "auto":
            actors = min(simulation.actors, busy)
            if actors < simulation.actors:
                train = "1 client trains" if busy == 1 else f"{busy} clients train"
                there = "is 1 actor" if actors == 1 else f"are {actors} actors"
                notes.append(f"simulation.actors = {simulation.actors}: at most {train} in a round, so there {there}")
        if simulation.num_gpus != "auto":
            share = simulation.num_gpus
        elif gpus:
            share = min(1.0, gpus if elastic else gpus / actors)
        else:  # on a cluster, a GPU may still come
            share = 1.0 if config.device == "cuda" else 0.0
        device = "cuda" if share > 0 else "cpu"
        return cls(actors, elastic, simulation.num_cpus, share, device, driver, tuple(notes))


def _check_can_be_had(config: Config, gpus: int, joins: bool) -> None:
    """Check what each actor asks for; a cluster that is joined may yet get it."""
    num_cpus, num_gpus = config.simulation.num_cpus, config.simulation.num_gpus
    if num_gpus != "auto":
        if num_gpus and config.device == "cpu":
            raise ConfigError(
                f"simulation.num_gpus = {num_gpus:g}: with device = 'cpu' no client trains on a GPU; leave one of "
                "them out"
            )
        if not num_gpus and config.device == "cuda" and config.simulation.grid == "ray":
            raise ConfigError(
                "simulation.num_gpus = 0: with device = 'cuda' each actor needs a GPU or a share of one; leave one of "
                "them out"
            )
        if num_gpus > gpus and not joins:
            there = "is no GPU here" if not gpus else f"{'is' if gpus == 1 else 'are'} only {gpus} here"
            raise ConfigError(f"simulation.num_gpus = {num_gpus:g}: there {there}; leave it out")
    if num_cpus > _cores() and not joins:
        raise ConfigError(
            f"simulation.num_cpus = {num_cpus:g}: there {'is' if _cores() == 1 else 'are'} only {_cores()} here, too "
            "few for a single actor"
        )


def _joins_a_cluster(address: str | None) -> bool:
    """Whether Ray actors would run on a Ray that runs already."""
    try:
        from fedtl.grid import cluster
    except ModuleNotFoundError:
        return False  # without Ray; whoever needs it will say so
    return cluster.joins(address)


def _gpus_of_cluster(address: str | None) -> int:
    from fedtl.grid import cluster

    with cluster.connected(address):
        return int(cluster.gpus())


class Server:
    """One run of a strategy, on whichever grid."""

    def __init__(
        self,
        config: Config,
        federation: Federation,
        resources: Resources,
        choices: Choices,
        recorder: record.Recorder,
        found: Checkpoint | None,
        listener: Listener,
        about: Mapping[str, Any],
    ) -> None:
        self.config, self.federation, self.resources, self.choices = config, federation, resources, choices
        self.recorder, self.listener, self.about = recorder, listener, about
        self.store, self.rows = MemoryStore(recorder.memories), TableStore(recorder.folder / resume.TABLES)
        self.engines = make_engines(config, federation, resources.driver_device, choices)
        task = self.engines[0].task
        self.initial = task.layout.flatten(task.module)
        # As it was built: at the end nothing need be built again, out of files that may be gone.
        self._blank = deepcopy(task.module).cpu()
        self.strategy = make_strategy(
            config, federation.clients, task.layout.parameters, [e.task for e in self.engines]
        )
        self.w = found.w if found else task.sent(self.initial).cpu().numpy()
        if found:
            self.strategy.resume(found.w, found.state)
            self.rows.restore(self.strategy.tables, found.round)
        tests = {"clients": federation.test} | (
            {"target-clients": target.test} if (target := federation.target) else {}
        )
        if federation.validation is not None:
            tests["validation-clients"] = federation.validation
        self.strategy.tested = {data: np.flatnonzero(test.sizes) for data, test in tests.items()}
        self.strategy.bench = self._bench()
        self.first_round = found.round + 1 if found else 1
        self.profiled = False
        self.remembers = False
        """Whether clients keep something between rounds, here or on other machines that see the run's folder."""

    @property
    def engine(self) -> Engine:
        """The first phase's."""
        return self.engines[0]

    def hold(self, federation: Federation) -> None:
        """Use another copy of the same data, so that the first one can go."""
        self.federation = federation
        olds = {id(task.samples): task.samples for task in self._tasks()}
        news = {key: Samples(federation, old.device, old.channels_last, old.view) for key, old in olds.items()}
        tasks = [replace(task, samples=news[id(task.samples)]) for task in self._tasks()]
        self.engines = _by_phase(self.config, [choice.make(task) for choice, task in zip(self.choices, tasks)])
        self.strategy.bench = self._bench()

    def _bench(self) -> Bench:
        """What a method's server may train."""
        task, initial = self.engine.task, self.initial
        return Bench(
            task.module, task.layout, task.samples, lambda w: task.whole(w.to(initial.device), initial), task.sent
        )

    def _tasks(self) -> list[Task]:
        """Of all engines, in the order of the choices."""
        each = [engine.engines if isinstance(engine, Mixed) else (engine,) for engine in self.engines]
        return [engine.task for model in zip(*each) for engine in model]

    def whole(self, w: np.ndarray[Any, np.dtype[np.float32]]) -> torch.Tensor:
        """The model ``[d]`` of which ``w`` is what travels."""
        return self.engine.task.whole(torch.tensor(w, device=self.initial.device), self.initial)

    def run_on(self, grid: Grid) -> None:
        """Run the remaining rounds on a grid that somebody else made, and write the final model."""
        with self.recorder, one_thread(self.resources.driver_device):
            self.listener.begin(self.config, self.recorder.folder, self.first_round, self.about)
            if self.first_round <= self.config.rounds:
                self.rounds(grid)
            self.finish()

    def run(self) -> None:
        """Run the remaining rounds on the config's own grid, and write the final model."""
        with self.recorder:
            self.listener.begin(self.config, self.recorder.folder, self.first_round, self.about)
            if self.first_round <= self.config.rounds:
                with make_grid(self) as go:
                    go(self.rounds)
            self.finish()

    def finish(self) -> None:
        """Write the final global model under the module's own names, and beside it the modules of terms."""
        self.engine.task.layout.load(self._blank, self.whole(self.w).cpu())
        self.recorder.finish({name: tensor.numpy() for name, tensor in model_of(self._blank).state_dict().items()})
        if isinstance(self._blank, Composite):
            extras = self._blank.extras.state_dict()
            self.recorder.finish({name: tensor.numpy() for name, tensor in extras.items()}, record.EXTRAS)

    def rounds(self, grid: Grid) -> None:
        """Run the remaining rounds on a grid."""
        profiler = Profiler(self.strategy, grid) if self.profiled and isinstance(grid, SimulatedGrid) else None
        asked = ConfigRecord({m.PROFILE: True}) if profiler else None
        trained: list[int] = []

        def on_round(report: Round, w: np.ndarray[Any, np.dtype[np.float32]]) -> None:
            self.w = w
            if profiler:
                profiler.round(report)
                failed = {client for client, _ in report.failures}
                trained[:] = [client for client in report.clients if client not in failed]
            with self.strategy.clock.part(RECORD), record.writing(self.recorder.folder):
                self.rows.save(self.strategy.tables, report.round, self.strategy.keep)
            with self.strategy.clock.part(RECORD):
                write(report, w, self.strategy.remembered())
            self.strategy.keep = self.recorder.settled
            self.listener.round(report)

        self.strategy.keep = self.recorder.settled
        # Clients' memories of a round must not be older than its checkpoint, so with them nothing is put off.
        with nullcontext(self.recorder.round) if self.remembers else record.behind(self.recorder.round) as write:
            self.strategy.start(
                grid,
                m.pack(self.w),
                num_rounds=self.config.rounds,
                train_config=asked,
                evaluate_config=asked,
                evaluate_fn=self.score if self._tests() else None,
                first_round=self.first_round,
                on_round=on_round,
            )
        if trained and not self.config.models and self.choices[-1].recorded and self.resources.driver_device == "cpu":
            self._look_at_operations(trained)

    def _look_at_operations(self, clients: Sequence[int]) -> None:
        """Record what recorded steps consist of: train one of the clients, or one stack of them, once more here."""
        task, cohort_of = self.engines[-1].task, MOST_ON_CPU if self.choices[-1].stacked else 1
        update = client_updates(self.config, [task])[-1]
        cohort, after = clients[:cohort_of], self.config.rounds + 1
        memories = [self.store.load(client, after) for client in cohort]
        received = Received({**task.received, "w": self.whole(self.w)})
        steps, found = operations(self.engines[-1], Assignment(update, received, cohort, memories, after))
        if steps:
            self.recorder.operations({"steps": steps, "operations": [asdict(each) for each in found]})

    def _tests(self) -> dict[str, NDArray[np.int64]]:
        """The server's own test sets, by the prefix of their scores."""
        target = self.federation.target
        tests = {"": self.federation.server_test, m.TARGET: target.server_test if target else np.arange(0)}
        return {prefix: test for prefix, test in tests.items() if len(test)}

    def score(self, round: int, arrays: ArrayRecord) -> MetricRecord:
        """The global model on the server's own test sets."""
        vector, found = self.whole(arrays[m.VECTOR].numpy()), dict[str, float]()
        for prefix, test in self._tests().items():
            score = self.engine.score(vector, test)
            found[f"{prefix}accuracy"] = score.correct / score.samples
            found[f"{prefix}loss"] = score.loss_sum / score.samples
        return MetricRecord({**found})


def make_engines(config: Config, federation: Federation, device: str, choices: Choices) -> list[Engine]:
    """For each phase an engine with a model, an objective and samples, on a device."""
    engines, phases = list[Engine](), len(config.stages())
    for i, own in enumerate(config.architectures()):
        chosen = choices[i * phases : (i + 1) * phases]
        tasks = make_tasks(own, federation, device, stacked=any(choice.stacked for choice in chosen))
        engines += [choice.make(task) for choice, task in zip(chosen, tasks)]
    return _by_phase(config, engines)


def _by_phase(config: Config, engines: Sequence[Engine]) -> list[Engine]:
    """One engine for each phase, out of one for each model and phase, all of a model's one after another."""
    phases = len(config.stages())
    each = [engines[phase::phases] for phase in range(phases)]
    return [own[0] if len(own) == 1 else Mixed(own) for own in each]


def _all_tasks(config: Config, federation: Federation, device: str) -> list[Task]:
    """What clients train in each phase, for each of their models, all of a model's one after another."""
    return [task for own in config.architectures() for task in make_tasks(own, federation, device)]


def _check_widths(config: Config, tasks: Sequence[Task]) -> None:
    """Check that what clients' unlike models send can be added up."""
    phases = len(config.stages())
    for place, task in enumerate(tasks[phases:], phases):
        first, shape = tasks[place % phases], task.samples.federation.shape
        few = FewSamples.of(task.samples.federation)
        for term in task.objective.terms if first.objective.statistics else ():
            if term.statistic() is None:
                continue
            models = [model_of(t.module) for t in (task, first)]
            here, there = (layer_sizes(model, taken_by(model, shape, few), term.layers()) for model in models)
            for layer in term.layers():
                if here[layer] != there[layer]:
                    raise ConfigError(
                        f"models[{place // phases}]: the term {term.key!r} adds up {layer!r} over clients, and this "
                        f"model has {here[layer]} numbers there where models[0] has {there[layer]}; give all as many"
                    )


def make_worker(
    tables: Tables, federation: Federation, memories: str, device: str, choices: Choices | None = None
) -> Worker:
    """A worker of its own, in whichever process this is called; without a choice of engines it makes its own."""
    if device == "cpu":
        torch.set_num_threads(1)
    config = build(tables)
    if choices is None:
        choices = _choose_engines(config, _all_tasks(config, federation, "cpu"), device)
    return _worker(config, make_engines(config, federation, device, choices), MemoryStore(Path(memories)))


def _choose_engines(config: Config, tasks: Sequence[Task], device: str) -> tuple[EngineChoice, ...]:
    simulation = config.simulation
    updates = client_updates(config, tasks)
    for task, update in zip(tasks, updates):
        check_buffers(task, update)
        check_single_samples(task, update, config.max_failures)
    return tuple(
        choose_engine(
            simulation.stacked, simulation.recorded, task, update, device, _sampled(config, task.samples.federation)
        )
        for task, update in zip(tasks, updates)
    )


def kept_memories(config: Config, federation: Federation) -> KeptMemories:
    """What clients keep between rounds."""
    tasks = _all_tasks(config, federation, "cpu")
    return KeptMemories(config, tasks, client_updates(config, tasks))


def _sampled(config: Config, federation: Federation) -> int:
    """How many clients train in a round."""
    return min(config.strategy.clients_per_round or federation.clients, federation.clients)


def _most_at_once(config: Config, federation: Federation) -> int:
    """How many clients train in a round, at most."""
    method, most = strategy_type(config.strategy.name), 1
    for stage in config.stages():
        there = able(federation, Objective(stage.objective, method.statistics(stage.strategy)))
        there_are = federation.clients if there is None else len(there)
        most = max(most, min(stage.strategy.clients_per_round or there_are, there_are))
    return most


def client_updates(config: Config, tasks: Sequence[Task]) -> list[ClientUpdate[Any]]:
    """The method's local training for tasks that are, for each model, those of the phases one after another."""
    settings, kind = [stage.strategy for stage in config.stages()], strategy_type(config.strategy.name).client_update
    return [kind(settings[i % len(settings)], task.layout) for i, task in enumerate(tasks)]


def make_tasks(config: Config, federation: Federation, device: str, stacked: bool = False) -> list[Task]:
    """What clients train in each phase: the same model, and the same samples."""
    place = torch.device(device)
    method = strategy_type(config.strategy.name)
    objectives = [Objective(stage.objective, method.statistics(stage.strategy)) for stage in config.stages()]
    terms = [term for objective in objectives for term in objective.terms]
    module, frozen, private = build_module(config, federation, terms)
    layout = Layout.of(module)
    sharing = Sharing.of(module, layout, {*config.strategy.private, *private}, config.strategy.frozen)
    images = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    views = config.views if any("views" in objective.needs for objective in objectives) else None
    view = views.make(federation.shape, torch.from_numpy(federation.x[:0]).dtype) if views else None
    samples = Samples(federation, place, images and place.type == "cpu" and not stacked, view)
    initial = layout.flatten(module).to(place)
    bare = Task(module, layout, objectives[0], samples, config.seed, sharing)
    server = method(
        config.strategy,
        seed=config.seed,
        clients=federation.clients,
        parameters=sharing.parameters if sharing else layout.parameters,
    )
    received = server.first_download(bare.sent(layout.flatten(module))[: server.parameters])
    received = {name: tensor.to(place) for name, tensor in received.items()}
    tasks = []
    for objective in objectives:
        own = deepcopy(module).to(place)  # an engine binds it to vectors of its own
        freeze(own, config.strategy.frozen)
        there = {name: deepcopy(part).to(place) for name, part in frozen.items()}
        sharing_there = sharing.to(place) if sharing else None
        seed, replay = config.seed, config.replay
        tasks.append(Task(own, layout, objective, samples, seed, sharing_there, there, initial, replay, received))
    return tasks


def _worker(config: Config, engines: Sequence[Engine], store: MemoryStore) -> Worker:
    task = engines[0].task
    updates = client_updates(config, [engine.task for engine in engines])
    stages = [Stage(engine, update) for engine, update in zip(engines, updates)]
    return Worker(stages, store, task.layout.flatten(task.module))


def make_strategy(config: Config, clients: int, parameters: int, tasks: Sequence[Task] = ()) -> Strategy:
    """The method's server; ``tasks`` are the phases'."""
    evaluate, sharing = config.evaluate, tasks[0].sharing if tasks else None
    return strategy_type(config.strategy.name)(
        config.strategy,
        seed=config.seed,
        clients=clients,
        evaluation=Evaluation(evaluate.every, evaluate.personal, evaluate.clients),
        max_failures=config.max_failures,
        parameters=sharing.parameters if sharing else parameters,
        phases=_phases(config, tasks),
        private=_keeps_own(tasks),
        whole=sharing is None or sharing.whole,
    )


def _keeps_own(tasks: Sequence[Task]) -> bool:
    """Whether clients have models of their own: the global one with private parts of it, or a term's module."""
    sharing = tasks[0].sharing if tasks else None
    if sharing is None or not len(sharing.private):
        return False
    return not sharing.whole or any(task.objective.personal for task in tasks)


def _phases(config: Config, tasks: Sequence[Task]) -> list[Phase]:
    """The run's phases as the server sees them."""
    phases, first = [], 1
    for i, (stage, task) in enumerate(zip(config.stages(), tasks)):
        objective, federation = task.objective, task.samples.federation
        restart = None
        if stage.restart:
            seed = derived_seed(config.seed, RESTART, i) % 2**32
            few = FewSamples.of(federation)
            module = build_model(_untrained(config.model), federation.shape, federation.classes, seed, few)
            fresh, layout = deepcopy(task.module), task.layout
            model_of(fresh).load_state_dict(module.state_dict())
            restart = task.sent(layout.flatten(fresh)).cpu().numpy()
        phases.append(
            Phase(
                stage.strategy,
                first,
                first + stage.rounds - 1,
                able(federation, objective),
                objective.statistics,
                m.PHASE_START in objective.needs,
                restart,
                config.replay if any("replay" in each.objective.needs for each in tasks) else None,
            )
        )
        first += stage.rounds
    return phases


@contextmanager
def make_grid(server: Server) -> Iterator[Callable[[Callable[[Grid], None]], None]]:
    """What calls a ServerApp's main function with the grid that the config asks for."""
    config, clients, memories = server.config, server.federation.clients, str(server.store.folder.resolve())
    if config.simulation.grid == "in-process":
        grid = InProcessGrid(_worker(config, server.engines, server.store), clients)
        yield lambda main: main(grid)
    elif config.simulation.grid == "ray":
        try:
            from fedtl.grid.notebook import definitions, with_definitions
            from fedtl.grid.ray import RayGrid
        except ModuleNotFoundError as error:
            raise ConfigError("simulation.grid = 'ray' needs the package ray; use 'in-process'") from error
        resources, tables = server.resources, config.tables()
        on_ray = RayGrid(
            with_definitions(make_worker, definitions(tables)),
            # In the order of make_worker's arguments.
            (tables, server.federation, memories, resources.worker_device, server.choices),
            clients,
            actors=resources.actors,
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            address=config.simulation.address,
            elastic=resources.elastic,
            patience=config.simulation.patience,
            shared=server.store.folder.resolve() if server.remembers else None,
            # Steps are epochs over a client's samples, or the same number for all.
            work=None if config.strategy.local_steps else _work(server.federation),
            large_cohorts=any(choice.stacked for choice in server.choices),
        )
        try:
            server.hold(on_ray.shared(FEDERATION))
            on_ray.processes()  # their start is none of the first round's time
            yield lambda main: main(on_ray)
        finally:
            on_ray.close()
    else:
        from fedtl.app import simulate_with_flower

        yield lambda main: simulate_with_flower(main, config, clients, memories, tuple(server.choices))


def _work(federation: Federation) -> NDArray[np.int64]:
    """How many samples each client goes through in an epoch, about."""
    sizes = federation.train.sizes
    return sizes if federation.target is None else np.where(sizes > 0, sizes, federation.target.train.sizes)


def _untrained(model: ModelChoice) -> ModelChoice:
    """The network without the weights that the run began with."""
    return model.model_copy(update={"pretrained": None})


def load_model(run: Run) -> nn.Module:
    """The final global model of a run, in evaluation mode.

    Raises:
        ConfigError: the run's method trains no model for all clients.
    """
    config = build(dict(run.config))
    if not strategy_type(config.strategy.name).has_global_model():
        raise ConfigError(f"{run.path} is a run of {config.strategy.name!r}, which trains no global model to load")
    federation = federate(config.data, config.seed)
    few = FewSamples.of(federation)
    module = build_model(_untrained(config.model), federation.shape, federation.classes, config.seed, few)
    module.load_state_dict(run.state_dict())
    return module.eval()


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """On a CPU, one torch thread: the order of sums, and so every bit, is the same as in an actor."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
