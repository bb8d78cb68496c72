"""A config's parts, each made in one place: tasks, engines, worker, strategy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtl.assemble.kept import KeptMemories, counts_from, optimizers_from
from fedtl.assemble.network import build_module, drawn_anew
from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate
from fedtl.config.read import build
from fedtl.config.schema import Config, Tables
from fedtl.data.federation import Federation
from fedtl.data.samples import FewSamples, Samples
from fedtl.disk.memories import MemoryStore
from fedtl.distill.impressions import check_synthesis
from fedtl.engine import Engine, Task, choose_engine
from fedtl.engine.choice import Choices
from fedtl.engine.first_memory import check_first_memory, check_travels
from fedtl.engine.mixed import Mixed
from fedtl.engine.plan import trains
from fedtl.engine.single_samples import check_single_samples
from fedtl.losses.objective import Objective
from fedtl.models.composite import layer_sizes, model_of
from fedtl.models.sharing import Sharing
from fedtl.models.trial import taken_by
from fedtl.models.vector import Layout
from fedtl.random import Purpose, derived_seed
from fedtl.server.phase import Phase
from fedtl.server.rounds import Evaluation
from fedtl.strategies import strategy_type
from fedtl.strategies.contract import Strategy
from fedtl.wire import messages as m
from fedtl.wire.worker import Worker, WorkerPhase

KEPT_NUMBERS = 2**23
"""So many numbers of clients' first private parts are kept, as it takes a whole network to draw them."""

FEDERATION = 1
"""Which of :func:`make_worker`'s arguments is the federation."""


@dataclass(frozen=True)
class Assembly:
    """What a process makes of a config, once.

    Attributes:
        config: the experiment.
        tasks: see :func:`make_tasks`.
        updates: each task's local training, to be tried out; workers make their own.
        strategy: the method's server, before the first round.
    """

    config: Config
    tasks: Sequence[Task]
    updates: Sequence[ClientUpdate[Any]]
    strategy: Strategy

    @property
    def federation(self) -> Federation:
        """What clients hold."""
        return self.tasks[0].samples.federation

    def check(self) -> list[Task]:
        """Check what no engine could train, as far as it shows without samples: also where clients are elsewhere.

        Returns:
            Copies of the tasks on which it was tried out, which leaves its traces: counts of batches, modes, random
            numbers drawn.

        Raises:
            ConfigError: the method does not suit the model or the objective, or names other vectors than it keeps.
        """
        tried = [task.on(task.samples) for task in self.tasks]
        for task, update in zip(tried, self.updates):
            check_travels(task, update)
            check_first_memory(task, update)
            if "replay" in task.objective.needs:
                shape = task.samples.federation.shape
                check_synthesis(model_of(task.module), shape, "replay", "leave out the table, and the terms of it")
        return tried

    def choose_engines(self, device: str) -> Choices:
        """For each task the engine that trains it on a device, after checks of what no engine could train."""
        config, sampled = self.config, sampled_of(self.config, self.federation)
        tasks = self.check()
        for task, update in zip(tasks, self.updates):
            for round in (*(stage.first for stage in self.federation.later), 0):  # last as it is at the beginning
                task.samples.enter(round)
                check_single_samples(task, update, config.max_failures)
        asked = config.simulation
        return tuple(
            choose_engine(asked.stacked, asked.traced, task, update, device, sampled)
            for task, update in zip(tasks, self.updates)
        )

    def kept_memories(self) -> KeptMemories:
        """What clients keep between rounds."""
        return KeptMemories(self.config, self.tasks, self.updates)

    def row_widths(self) -> dict[str, int]:
        """How many numbers the server keeps of each client, by the tables' names."""
        return {name: table.width for name, table in self.strategy.tables.items()}


def assemble(config: Config, federation: Federation) -> Assembly:
    """Make what trains, and the method's server."""
    tasks = make_tasks(config, federation)
    first, layout = tasks[0], tasks[0].layout
    strategy = make_strategy(config, federation.clients, layout.parameters, tasks)
    received = strategy.first_download(first.sent(layout.flatten(first.module))[: strategy.parameters])
    strategy.check_unseen(first.sent(layout.flatten(first.module))[: strategy.parameters])
    tasks = [replace(task, received={name: tensor.clone() for name, tensor in received.items()}) for task in tasks]
    return Assembly(config, tasks, client_updates(config, tasks), strategy)


def make_engines(config: Config, tasks: Sequence[Task], device: str, choices: Choices) -> list[Engine]:
    """For each phase an engine on a device; each trains a copy of its task's model."""
    engines, phases, place = list[Engine](), len(config.stages()), torch.device(device)
    for start in range(0, len(tasks), phases):  # one of the clients' models after another
        own, chosen = tasks[start : start + phases], choices[start : start + phases]
        seen, stacked = own[0].samples, any(choice.stacked for choice in chosen)
        channels_last = seen.channels_last and place.type == "cpu" and not stacked
        samples = Samples(seen.federation, place, channels_last, seen.view)
        engines += [choice.make(task.on(samples)) for choice, task in zip(chosen, own)]
    return by_phase(config, engines)


def by_phase(config: Config, engines: Sequence[Engine]) -> list[Engine]:
    """One engine for each phase, out of one for each model and phase, all of a model's one after another."""
    phases = len(config.stages())
    each = [engines[phase::phases] for phase in range(phases)]
    return [own[0] if len(own) == 1 else Mixed(own) for own in each]


def check_widths(config: Config, tasks: Sequence[Task]) -> None:
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
    experiment: Config | Tables, federation: Federation, memories: str, device: str, choices: Choices | None = None
) -> Worker:
    """A worker of its own, in whichever process this is called.

    Args:
        experiment: a config, or its tables where it comes from another process.
        federation: what clients hold.
        memories: the folder of what they keep between rounds.
        device: where they train.
        choices: of engines; without, it makes its own.
    """
    if device == "cpu":
        torch.set_num_threads(1)
    config = experiment if isinstance(experiment, Config) else build(experiment)
    if choices is None:
        assembly = assemble(config, federation)
        tasks, choices = assembly.tasks, assembly.choose_engines(device)
    else:
        tasks = make_tasks(config, federation)
    return worker_of(config, make_engines(config, tasks, device, choices), MemoryStore(Path(memories)))


def sampled_of(config: Config, federation: Federation) -> int:
    """How many clients train in a round."""
    there_are = len(federation.seen)
    return min(config.strategy.clients_per_round or there_are, there_are)


def check_sampled(config: Config, federation: Federation) -> None:
    """Check that as many clients can train in a round as are asked for.

    Raises:
        ConfigError: there are not so many.
    """
    asked, there_are = config.strategy.clients_per_round, len(federation.seen)
    if asked is not None and asked > there_are:
        raise ConfigError(f"strategy.clients_per_round = {asked}: there are only {there_are} clients")


def check_classes(config: Config, federation: Federation) -> None:
    """Check that the classes exist whose metrics choose a round.

    Raises:
        ConfigError: one does not.
    """
    for key, metric in config.chosen_by.items():
        config.metrics.check_one(key, metric, federation.predicted)


def most_at_once(config: Config, federation: Federation) -> int:
    """How many clients train in a round, at most."""
    method, most = strategy_type(config.strategy.name), 1
    for stage in config.stages():
        there = trains(federation, Objective(stage.objective, method.statistics(stage.strategy)))
        there_are = federation.clients if there is None else len(there)
        most = max(most, min(stage.strategy.clients_per_round or there_are, there_are))
    return most


def client_updates(config: Config, tasks: Sequence[Task]) -> list[ClientUpdate[Any]]:
    """The method's local training for tasks that are, for each model, those of the phases one after another.

    Raises:
        ConfigError: it cannot train such a model, which some methods see when they make their loops.
    """
    settings, method = [stage.strategy for stage in config.stages()], strategy_type(config.strategy.name)
    updates = [method.client_update(settings[i % len(settings)], task.layout) for i, task in enumerate(tasks)]
    for update in updates:
        for each in (update, update.for_scoring()):
            _ = each.round_loops
    return [update.without_stragglers() if method.pools else update for update in updates]


def make_tasks(config: Config, federation: Federation) -> list[Task]:
    """What clients train in each phase, for each of their models, all of a model's one after another.

    They are on the CPU, and their modules, which a model's phases share, stay as they were built: whoever changes one
    takes a copy, :meth:`Task.on`.
    """
    return [task for own in config.architectures() for task in _tasks_of(own, federation)]


def _tasks_of(config: Config, federation: Federation) -> list[Task]:
    """Of clients that have all the same model."""
    method = strategy_type(config.strategy.name)
    if method.pools:
        federation = federation.pooled()
    objectives = [Objective(stage.objective, method.statistics(stage.strategy)) for stage in config.stages()]
    terms = [term for objective in objectives for term in objective.terms]
    module, frozen, private = build_module(config, federation, terms)
    layout = Layout.of(module)
    still = {*config.strategy.frozen, *method.client_update.unmoved(config.strategy)}
    sharing = Sharing.of(module, layout, {*config.strategy.private, *private}, still)
    images = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    views = config.views if any("views" in objective.needs for objective in objectives) else None
    view = views.make(federation.shape, torch.from_numpy(federation.x[:0]).dtype) if views else None
    samples, initial = Samples(federation, torch.device("cpu"), images, view), layout.flatten(module)
    task = Task(
        module,
        layout,
        objectives[0],
        samples,
        config.seed,
        sharing,
        frozen,
        initial,
        config.replay,
        metrics=config.metrics,
        first_private=_first_private(config, federation, module, layout, sharing),
    )
    tasks, begun = list[Task](), None
    for i, (stage, objective) in enumerate(zip(config.stages(), objectives)):
        if stage.restart and method.has_global_model():
            begun = task.whole(_restarted(config, task, i), initial)
        tasks.append(replace(task, objective=objective, begun=begun))
    return tasks


def _restarted(config: Config, task: Task, phase: int) -> Tensor:
    """What travels of the global model with which a phase begins anew."""
    seed = derived_seed(config.seed, Purpose.RESTART, phase) % 2**32
    return task.sent(drawn_anew(config.model, task.samples.federation, task.module, task.layout, seed))


def _first_private(
    config: Config, federation: Federation, module: nn.Module, layout: Layout, sharing: Sharing | None
) -> Callable[[int], Tensor] | None:
    """Gives what a client's private parts begin with; None where all clients' begin as the module's."""
    o = config.strategy
    if sharing is None or not o.private or o.private_start == "common" or config.model.pretrained is not None:
        return None

    @functools.lru_cache(maxsize=max(1, KEPT_NUMBERS // max(1, len(sharing.private))))
    def first_private(client: int) -> Tensor:
        seed = derived_seed(config.seed, Purpose.PRIVATE_START, client) % 2**32
        return drawn_anew(config.model, federation, module, layout, seed)[sharing.private]

    return first_private


def worker_of(config: Config, engines: Sequence[Engine], store: MemoryStore) -> Worker:
    """What answers clients' messages in this process, made of engines that are there."""
    task = engines[0].task
    updates = client_updates(config, [engine.task for engine in engines])
    epochs = config.evaluate.unseen_epochs
    phases = zip(engines, updates, counts_from(config), optimizers_from(config))
    stages = [WorkerPhase(engine, update, epochs, *since) for engine, update, *since in phases]
    return Worker(stages, store, task.layout.flatten(task.module))


def make_strategy(config: Config, clients: int, parameters: int, tasks: Sequence[Task] = ()) -> Strategy:
    """The method's server; ``tasks`` are the phases'."""
    evaluate, sharing = config.evaluate, tasks[0].sharing if tasks else None
    return strategy_type(config.strategy.name)(
        config.strategy,
        seed=config.seed,
        clients=clients,
        evaluation=Evaluation(evaluate.every, evaluate.personal, evaluate.clients, config.metrics, config.always),
        max_failures=config.max_failures,
        parameters=sharing.parameters if sharing else parameters,
        phases=_phases(config, tasks),
        private=_keeps_own(tasks),
        whole=sharing is None or sharing.whole,
        layout=tasks[0].layout if tasks else None,
        classes=tasks[0].samples.federation.classes if tasks else 0,
        unseen=tasks[0].samples.federation.unseen.tolist() if tasks else (),
    )


def _keeps_own(tasks: Sequence[Task]) -> bool:
    """Whether clients have models of their own: the global one with private parts of it, or of a term's modules."""
    sharing = tasks[0].sharing if tasks else None
    if sharing is None or not len(sharing.private):
        return False
    return not sharing.whole or any(task.objective.personal or task.objective.predictor for task in tasks)


def _phases(config: Config, tasks: Sequence[Task]) -> list[Phase]:
    """The run's phases as the server sees them."""
    phases = list[Phase]()
    pools = strategy_type(config.strategy.name).pools
    for i, (stage, task) in enumerate(zip(config.stages(), tasks)):
        objective, federation = task.objective, task.samples.federation
        restart = None
        if stage.restart:
            anew = _restarted(config, task, i) if task.begun is None else task.sent(task.begun)
            restart = anew.cpu().numpy()
        phases.append(
            Phase(
                stage.strategy,
                stage.first,
                stage.last,
                federation.seen[:1] if pools else _who_trains(federation, objective, i),
                objective.statistics,
                m.PHASE_START in objective.needs,
                restart,
                config.replay if any("replay" in each.objective.needs for each in tasks) else None,
            )
        )
    return phases


def _who_trains(federation: Federation, objective: Objective, phase: int) -> NDArray[np.int64] | None:
    """The clients that can take part in a phase; None for all.

    Raises:
        ConfigError: all that could are held out.
    """
    there = trains(federation, objective)
    if there is not None and len(federation.unseen) and not len(there) and federation.train.sizes.any():
        raise ConfigError(
            f"data.held_out_clients: no client remains that holds what the objective of phase {phase + 1} trains on; "
            "hold out fewer, or name others"
        )
    return there


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
