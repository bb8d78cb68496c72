"""A config's parts, each made in one place: tasks, engines, worker, strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedtl.assemble.kept import KeptMemories
from fedtl.assemble.network import build_module
from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate
from fedtl.config.read import build
from fedtl.config.schema import Config, Tables
from fedtl.data.federation import Federation
from fedtl.data.samples import FewSamples, Samples
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Engine, EngineChoice, Task, choose_engine
from fedtl.engine.choice import Choices
from fedtl.engine.first_memory import check_travels
from fedtl.engine.mixed import Mixed
from fedtl.engine.plan import eligible
from fedtl.engine.single_samples import check_single_samples
from fedtl.losses.objective import Objective
from fedtl.models import build_model
from fedtl.models.composite import layer_sizes, model_of
from fedtl.models.settings import ModelChoice
from fedtl.models.sharing import Sharing, freeze
from fedtl.models.trial import taken_by
from fedtl.models.vector import Layout
from fedtl.random import Purpose, derived_seed
from fedtl.server.phase import Phase
from fedtl.server.rounds import Evaluation
from fedtl.strategies import strategy_type
from fedtl.strategies.contract import Strategy
from fedtl.wire import messages as m
from fedtl.wire.worker import Stage, Worker

FEDERATION = 1
"""Which of :func:`make_worker`'s arguments is the federation."""


def make_engines(config: Config, federation: Federation, device: str, choices: Choices) -> list[Engine]:
    """For each phase an engine with a model, an objective and samples, on a device."""
    engines, phases = list[Engine](), len(config.stages())
    for i, own in enumerate(config.architectures()):
        chosen = choices[i * phases : (i + 1) * phases]
        tasks = make_tasks(own, federation, device, stacked=any(choice.stacked for choice in chosen))
        engines += [choice.make(task) for choice, task in zip(chosen, tasks)]
    return by_phase(config, engines)


def by_phase(config: Config, engines: Sequence[Engine]) -> list[Engine]:
    """One engine for each phase, out of one for each model and phase, all of a model's one after another."""
    phases = len(config.stages())
    each = [engines[phase::phases] for phase in range(phases)]
    return [own[0] if len(own) == 1 else Mixed(own) for own in each]


def all_tasks(config: Config, federation: Federation, device: str) -> list[Task]:
    """What clients train in each phase, for each of their models, all of a model's one after another."""
    return [task for own in config.architectures() for task in make_tasks(own, federation, device)]


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
    tables: Tables, federation: Federation, memories: str, device: str, choices: Choices | None = None
) -> Worker:
    """A worker of its own, in whichever process this is called; without a choice of engines it makes its own."""
    if device == "cpu":
        torch.set_num_threads(1)
    config = build(tables)
    if choices is None:
        choices = choose_engines(config, all_tasks(config, federation, "cpu"), device)
    return worker_of(config, make_engines(config, federation, device, choices), MemoryStore(Path(memories)))


def choose_engines(config: Config, tasks: Sequence[Task], device: str) -> tuple[EngineChoice, ...]:
    """For each task the engine that trains it, after checks of what no engine could train."""
    simulation = config.simulation
    updates = client_updates(config, tasks)
    for task, update in zip(tasks, updates):
        check_travels(task, update)
        check_single_samples(task, update, config.max_failures)
    return tuple(
        choose_engine(
            simulation.stacked, simulation.recorded, task, update, device, sampled_of(config, task.samples.federation)
        )
        for task, update in zip(tasks, updates)
    )


def kept_memories(config: Config, federation: Federation) -> KeptMemories:
    """What clients keep between rounds."""
    tasks = all_tasks(config, federation, "cpu")
    return KeptMemories(config, tasks, client_updates(config, tasks))


def sampled_of(config: Config, federation: Federation) -> int:
    """How many clients train in a round."""
    return min(config.strategy.clients_per_round or federation.clients, federation.clients)


def most_at_once(config: Config, federation: Federation) -> int:
    """How many clients train in a round, at most."""
    method, most = strategy_type(config.strategy.name), 1
    for stage in config.stages():
        there = eligible(federation, Objective(stage.objective, method.statistics(stage.strategy)))
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


def worker_of(config: Config, engines: Sequence[Engine], store: MemoryStore) -> Worker:
    """What answers clients' messages in this process, made of engines that are there."""
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
            seed = derived_seed(config.seed, Purpose.RESTART, i) % 2**32
            few = FewSamples.of(federation)
            module = build_model(untrained(config.model), federation.shape, federation.classes, seed, few)
            fresh, layout = deepcopy(task.module), task.layout
            model_of(fresh).load_state_dict(module.state_dict())
            restart = task.sent(layout.flatten(fresh)).cpu().numpy()
        phases.append(
            Phase(
                stage.strategy,
                first,
                first + stage.rounds - 1,
                eligible(federation, objective),
                objective.statistics,
                m.PHASE_START in objective.needs,
                restart,
                config.replay if any("replay" in each.objective.needs for each in tasks) else None,
            )
        )
        first += stage.rounds
    return phases


def untrained(model: ModelChoice) -> ModelChoice:
    """The network without the weights that the run began with."""
    return model.model_copy(update={"pretrained": None})


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
