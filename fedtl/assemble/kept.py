"""What each client keeps between rounds, told from the method and the model before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedtl.clients.contract import ClientUpdate
from fedtl.config.schema import Config
from fedtl.engine.first_memory import after_one_step, first_memory
from fedtl.engine.task import BUFFERS, PREVIOUS, PRIVATE, Task
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.strategies import strategy_type


class KeptMemories:
    """The vectors that a run's clients keep.

    Args:
        config: the experiment.
        tasks: of each of the clients' models and each phase, all of a model's one after another.
        updates: the method's local training in each phase.
    """

    def __init__(self, config: Config, tasks: Sequence[Task], updates: Sequence[ClientUpdate[Any]]) -> None:
        self._tasks, self._updates = tasks, updates
        self._models = len(config.architectures())
        self._sizes: dict[tuple[int, int], Mapping[str, int]] = {}
        self._last = [stage.last for stage in config.stages()]

    @property
    def any(self) -> bool:
        """Whether clients keep anything in any phase."""
        return any(self._of(model, phase) for model in range(self._models) for phase in range(len(self._last)))

    def sizes(self, client: int, round: int) -> Mapping[str, int] | None:
        """How many numbers each vector has that a client keeps of a round, by name; None if it keeps none."""
        phase = next((i for i, last in enumerate(self._last) if round <= last), len(self._last) - 1)
        return self._of(client % self._models, phase) or None

    def _of(self, model: int, phase: int) -> Mapping[str, int]:
        if (model, phase) not in self._sizes:
            self._sizes[model, phase] = _sizes(self._tasks[model * len(self._last) + phase], self._updates[phase])
        return self._sizes[model, phase]


def counts_from(config: Config) -> list[int]:
    """For each phase the round from which on memories are of the model that it trains: the first, or a restart's."""
    since, rounds = 0, list[int]()
    for stage in config.stages():
        if stage.restart and strategy_type(config.strategy.name).has_global_model():
            since = stage.first
        rounds.append(since)
    return rounds


def optimizers_from(config: Config) -> list[int]:
    """For each phase the first round of the kind of optimiser that its clients have: another's state is none of it."""
    since, kind, rounds = 0, None, list[int]()
    for stage in config.stages():
        options: object = stage.strategy
        own = type(options.optimizer) if isinstance(options, OptimizerSettings) else None
        if own is not kind and rounds:
            since = stage.first
        kind = own
        rounds.append(since)
    return rounds


def _sizes(task: Task, update: ClientUpdate[Any]) -> Mapping[str, int]:
    try:
        _, (_, memory) = after_one_step(task, update)
    except Exception:  # its step needs real samples
        memory = first_memory(task, update)
    sizes = {name: vector.numel() for name, vector in memory.items()}
    if sizes and task.remembered_buffers:
        sizes[BUFFERS] = task.remembered_buffers
    if "w" in update.sums and task.sharing is not None and len(task.sharing.private):
        sizes[PRIVATE] = len(task.sharing.private)
    if task.objective.remembers:
        sizes[PREVIOUS] = task.layout.size
    return sizes
