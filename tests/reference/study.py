"""A reference case, run through server, messages, worker and engine as any other run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from fedtl.assemble.parts import assemble, worker_of
from fedtl.clients.contract import ClientUpdate, Memory
from fedtl.config.read import build
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Trained
from fedtl.engine.plan import Plan
from fedtl.engine.task import PRIVATE
from fedtl.grid.in_process import InProcessGrid
from fedtl.models.composite import model_of
from fedtl.server.scoring import Evaluation
from fedtl.wire import messages as m
from tests.parts import EngineKind
from tests.reference.cases import Case, NotApplicableError, federation_of
from tests.reference.networks import NETWORKS

Batches = Callable[[int, int], Sequence[Sequence[int]] | None]
"""``batches(client, loop)``: the mini-batches of a loop of a client's round, or None for what the config says."""


@dataclass(frozen=True)
class After:
    """What there is after a round.

    Attributes:
        round: its number.
        before: the global model before it, as it travels.
        w: the global model after it.
        state: the server's.
        tables: the server's rows ``[N, …]`` by name.
        memories: each client's; empty for one that has never trained.
        trained: what came of the training of the round's clients.
        statistics: what the server has for terms, by the terms' names.
    """

    round: int
    before: Tensor
    w: Tensor
    state: Mapping[str, Tensor]
    tables: Mapping[str, Tensor]
    memories: Sequence[Memory]
    trained: Mapping[int, Trained]
    statistics: Mapping[str, Tensor]


class Study:
    """A case's run.

    Args:
        case: what is run.
        kind: of engine.
        folder: for the clients' memories.
        strategy: the ``[strategy]`` table.
        objective: the ``[[objective]]`` tables.
        batches: of each client's round, where the config cannot say them.
        rounds: how many; as many as were recorded if None.
        modules: the first numbers of terms' modules, flat in the modules' own order, by their names.
    """

    def __init__(
        self,
        case: Case,
        kind: EngineKind,
        folder: Path,
        strategy: Mapping[str, Any],
        objective: Sequence[Mapping[str, Any]] = (),
        batches: Batches | None = None,
        rounds: int | None = None,
        modules: Mapping[str, Any] | None = None,
    ) -> None:
        self.case, self.number, self.clients = case, rounds or len(case.rounds), len(case.sizes)
        network = NETWORKS.get(case.record["model"])
        if network is None:
            raise NotApplicableError(f"model = {case.record['model']!r} is no network that is known")
        model: dict[str, Any] = {"name": f"{network.__module__}:{network.__name__}"}
        if case.record["model"] != "logistic":
            model["hidden"] = case.inputs["hidden"]
        tables: dict[str, Any] = {
            "name": "trajectory",
            "rounds": self.number,
            "data": {"name": "digits", "clients": self.clients},  # in its place come the file's own samples
            "model": model,
            "strategy": {"batch_size": 0, **strategy},
        }
        if objective:
            tables["objective"] = [*objective]
        assembly = assemble(build(tables), federation_of(case.inputs))
        task, self.server = assembly.tasks[0], assembly.strategy
        self.task, self.layout = task, task.layout
        for name, flat in (modules or {}).items():
            own = task.module.get_submodule(f"extras.{name}")
            vector_to_parameters(torch.as_tensor(flat, dtype=torch.float32).reshape(-1), own.parameters())
        self.initial = self.ours(case.initial())
        self.layout.load(task.module, self.initial)
        self.task = task = replace(task, initial=self.initial)
        engine = kind(task)
        if batches is not None:
            _go_through(engine, batches)
        self.store = MemoryStore(folder)
        self.worker = worker_of(assembly.config, [engine], self.store)
        self.server.sample = case.sampled  # type: ignore[method-assign]
        self.server.evaluation, self.server.scores_global = Evaluation(clients=0), False
        self.server.max_failures = 0.0

    @property
    def update(self) -> ClientUpdate[Any]:
        """The method's local training."""
        return self.worker.update

    def ours(self, flat: Any) -> Tensor:
        """A model ``[d]`` as this project lays it out, of the file's numbers, which are the trained parameters.

        What else lies in the same order, as an update or a gradient, is converted alike.
        """
        module = model_of(self.task.module)
        vector_to_parameters(torch.as_tensor(flat, dtype=torch.float32).reshape(-1), module.parameters())
        return self.layout.flatten(self.task.module)

    def theirs(self, vector: Tensor, part: str | None = None) -> NDArray[np.float32]:
        """A vector's numbers in the order of the file: the module's parameters, one after another.

        Args:
            vector: what is laid out as a model: ``[d]``, its trainable parameters ``[P]``, or what of it travels.
            part: of the network's first level, as ``"base"``; all if None.
        """
        P, module = self.layout.parameters, model_of(self.task.module)
        if len(vector) < P:  # only a part travels
            vector = self.task.whole(vector, self.initial)
        if len(vector) == P:
            vector = torch.cat([vector, self.initial[P:]])
        self.layout.load(self.task.module, vector)
        return _flat(module if part is None else module.get_submodule(part))

    def of_module(self, vector: Tensor, name: str) -> NDArray[np.float32]:
        """The numbers of a term's module in a model ``[d]``, in the order of its parameters."""
        self.layout.load(self.task.module, vector)
        return _flat(self.task.module.get_submodule(f"extras.{name}"))

    def own_model(self, after: After, client: int) -> Tensor:
        """The model ``[d]`` that is a client's own: the global one with the client's private part."""
        whole = self.task.whole(after.w, self.initial)
        if PRIVATE in after.memories[client]:
            assert self.task.sharing is not None
            whole[self.task.sharing.private] = after.memories[client][PRIVATE]
        return whole

    def served(self, after: After, client: int) -> Tensor:
        """The model ``[d]`` that serves a client after the last round."""
        content = self.server.about_scoring([client], after.round)
        which = self.server.which_personal()
        (model,) = self.worker.personal_models(content, [client], after.round, which)
        assert isinstance(model, Tensor), model
        return model

    def rounds(self) -> list[After]:
        """Run them all."""
        grid, seen, trained = InProcessGrid(self.worker, self.clients), list[After](), dict[int, Trained]()
        engine = self.worker.engine
        train = engine.train

        def noted(assignment: Any) -> Any:
            outcomes = train(assignment)
            for outcome in outcomes:
                if isinstance(outcome, Trained):  # its uploads are summed in place
                    uploads = {name: tensor.clone() for name, tensor in outcome.uploads.items()}
                    trained[outcome.client] = replace(outcome, uploads=uploads)
            return outcomes

        engine.train = noted  # type: ignore[method-assign]

        sent = self.task.sent(self.initial).numpy()

        def note(report: Any, w: NDArray[np.float32]) -> None:
            state = {name: tensor.clone() for name, tensor in self.server.state.items()}
            tables = {name: table.rows(range(self.clients)) for name, table in self.server.tables.items()}
            memories = self.store.load_all(range(self.clients), report.round + 1)
            before = seen[-1].w if seen else torch.from_numpy(sent)
            statistics = {
                name.removeprefix(m.STATISTIC): torch.tensor(vector)
                for name, vector in self.server.remembered().items()
                if name.startswith(m.STATISTIC)
            }
            after = After(report.round, before, torch.tensor(w), state, tables, memories, dict(trained), statistics)
            seen.append(after)
            trained.clear()

        self.server.start(grid, m.pack(sent), self.number, on_round=note)
        engine.train = train  # type: ignore[method-assign]
        return seen


def _flat(module: nn.Module) -> NDArray[np.float32]:
    """A module's parameters one after another; torch's own function refuses wide layers, which lie turned."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]).numpy()


def _go_through(engine: Any, batches: Batches) -> None:
    """Let an engine's clients go through the mini-batches that a case lists, in place of ones that are drawn."""
    drawn = engine.plans
    # No padding: how much there is, a stack reads off the config's budget, which knows nothing of these.
    engine._counts_batch = True

    def plans(update: ClientUpdate[Any], client: int, round: int) -> tuple[Plan, ...]:
        own, steps, listed = engine.task.samples.federation.train[client], 0, list[Plan]()
        for number, plan in enumerate(drawn(update, client, round)):
            if (index := batches(client, number)) is not None:
                order = own[[sample for batch in index for sample in batch]]
                sizes = np.array([len(batch) for batch in index], np.int64)
                plan = plan._replace(order=order, sizes=sizes)
            listed.append(plan._replace(steps=steps))
            steps += len(plan.sizes)
        return tuple(listed)

    engine.plans = plans
