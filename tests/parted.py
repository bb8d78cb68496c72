"""Runs of methods that leave a part of the model at clients, through server, messages, worker and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from flwr.app import MessageType, RecordDict
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.assemble.parts import assemble, worker_of
from fedtl.clients.contract import Memory
from fedtl.config.read import build
from fedtl.data.federation import Federation
from fedtl.engine import Failed, OneByOne
from fedtl.engine.task import PRIVATE
from fedtl.grid.in_process import InProcessGrid
from fedtl.models.composite import model_of
from fedtl.server.scoring import Evaluation
from fedtl.wire import messages as m
from tests.parts import EngineKind, store_in


class Net(nn.Module):
    """A body and a head, with batch-norm between them where it is asked for."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, norm: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(input_shape[0], 4)
        self.norm: nn.Module = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.norm(self.body(x))))
        return logits


class Parted:
    """A run of some clients.

    Args:
        strategy: the ``[strategy]`` table.
        federation: what clients hold.
        sampled: the clients of each round.
        kind: of engine.
        model: options of :class:`Net`, or another ``[model]`` table.
        objective: the ``[[objective]]`` tables.
        data: more of the ``[data]`` table; the samples are the federation's.
        path: for the clients' memories.
        more: other tables of the config.
    """

    def __init__(
        self,
        strategy: Mapping[str, Any],
        federation: Federation,
        sampled: Sequence[Sequence[int]],
        kind: EngineKind = OneByOne,
        model: Mapping[str, Any] | None = None,
        objective: Sequence[Mapping[str, Any]] = (),
        data: Mapping[str, Any] | None = None,
        path: Path | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        tables: dict[str, Any] = {
            "name": "parted",
            "rounds": len(sampled),
            "data": {
                "name": "digits",
                "clients": federation.clients,
                **(data or {}),
            },  # in its place comes the federation
            "model": {"name": "tests.parted:Net", **(model or {})},
            "strategy": {"batch_size": 0, "lr": 0.2, **strategy},
            **(more or {}),
        }
        if objective:
            tables["objective"] = [*objective]
        assembly = assemble(build(tables), federation)
        self.federation, self.sampled = federation, sampled
        self.task, self.server = assembly.tasks[0], assembly.strategy
        self.initial = self.task.layout.flatten(self.task.module)
        self.store = store_in(path)
        engines = [kind(task) for task in assembly.tasks]  # one for each phase
        self.engine = engines[0]
        self.worker = worker_of(assembly.config, engines, self.store)
        self.worker.initial = self.initial
        self.server.sample = lambda round: [*sampled[round - 1]]  # type: ignore[method-assign]
        self.server.max_failures, self.server.evaluation = 0.0, Evaluation(clients=0)
        self.losses: list[Mapping[str, float]] = []
        """Each round's mean losses by term."""

    def rounds(self) -> list[Tensor]:
        """What travels of the global model after each round."""
        seen: list[Tensor] = []

        def note(report: Any, w: Any) -> None:
            seen.append(torch.tensor(w))
            self.losses.append(report.train)

        grid, sent = InProcessGrid(self.worker, self.federation.clients), self.task.sent(self.initial).numpy()
        self.server.start(grid, m.pack(sent), len(self.sampled), on_round=note)
        return seen

    def memory(self, client: int) -> Memory:
        """What a client remembers after the last round."""
        return self.store.load(client, 10**6)

    def served(self, client: int) -> nn.Module:
        """The model that serves a client after the last round."""
        number = len(self.sampled)
        content = self.server.about_scoring([client], number)
        (vector,) = self.worker.personal_models(content, [client], number, self.server.which_personal())
        assert vector is not None
        assert not isinstance(vector, Failed), vector
        return self.module(vector)

    def score_of(self, client: int) -> dict[str, float]:
        """The sums of losses and the numbers of right answers that the last round's model scores at a client."""
        number = len(self.sampled)
        (reply,) = self.worker.handle(MessageType.EVALUATE, self.server.about_scoring([client], number), [client])
        assert isinstance(reply.content, RecordDict)
        metrics = m.metrics_of(reply.content)
        return {name: rows[0] for name, rows in metrics.items() if "/" in name}  # type: ignore[index,misc]

    def extra(self, vector: Tensor, name: str) -> list[Tensor]:
        """The numbers of a term's own module in a model ``[d]``, in the order of its parameters."""
        module = deepcopy(self.task.module)
        self.task.layout.load(module, vector)
        return [p.detach() for p in module.get_submodule(f"extras.{name}").parameters()]

    def own(self, client: int, sent: Tensor) -> Tensor:
        """The global model ``[d]``, of what travelled, with the parts that a client has kept."""
        whole, memory, sharing = self.task.whole(sent, self.initial), self.memory(client), self.task.sharing
        if sharing is not None and PRIVATE in memory:
            whole[sharing.private] = memory[PRIVATE]
        return whole

    def module(self, vector: Tensor) -> nn.Module:
        """A model of its own that has these numbers ``[d]``."""
        module = deepcopy(self.task.module)
        self.task.layout.load(module, vector)
        return model_of(module)

    def begun(self, client: int = 0) -> nn.Module:
        """The model that a client begins with: all with the same one, but for private parts of their own."""
        first, sharing = self.task.first_private, self.task.sharing
        whole = self.initial.clone()
        if first is not None and sharing is not None:
            whole[sharing.private] = first(client)
        return self.module(whole)

    def global_model(self, sent: Tensor) -> nn.Module:
        """The global model of what travelled; the rest as it began."""
        return self.module(self.task.whole(sent, self.initial))

    def samples(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's training samples and labels."""
        index = self.federation.train[client]
        return torch.from_numpy(self.federation.x[index]), torch.from_numpy(self.federation.y[index])


def descend(module: nn.Module, part: Sequence[nn.Parameter], x: Tensor, y: Tensor, lr: float) -> None:
    """One full-batch step of gradient descent on the cross-entropy, of some parameters."""
    gradients = torch.autograd.grad(F.cross_entropy(module(x), y), [*part])
    with torch.no_grad():
        for parameter, gradient in zip(part, gradients):
            parameter -= lr * gradient


def mean(parts: Sequence[nn.Module], weights: Sequence[float]) -> list[Tensor]:
    """The weighted mean of modules' parameters."""
    total = sum(weights)
    rows = zip(*(part.parameters() for part in parts))
    return [torch.stack([w * p.detach() for w, p in zip(weights, row)]).sum(0) / total for row in rows]


def assert_same(ours: nn.Module, theirs: nn.Module | Sequence[Tensor], exactly: bool = False) -> None:
    """Two modules' parameters, to the bit or to float32's rounding."""
    expected = [*theirs.parameters()] if isinstance(theirs, nn.Module) else theirs
    tolerance = {"rtol": 0.0, "atol": 0.0} if exactly else {"rtol": 1e-5, "atol": 1e-6}
    for a, b in zip(ours.parameters(), expected, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), **tolerance)
