"""Small parts that many tests are made of."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtl.assemble.network import with_modules
from fedtl.choice import part_type
from fedtl.clients.contract import ClientUpdate, Memory
from fedtl.data.federation import Federation, Shards
from fedtl.data.samples import Samples
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Engine, OneByOne, Stacked, Task
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.task import Outcome, RoundContext
from fedtl.losses.objective import TERMS, Objective, read_objective
from fedtl.losses.term import Term, TermContext
from fedtl.models.composite import Composite
from fedtl.models.sharing import Sharing
from fedtl.models.vector import Layout
from fedtl.strategies import strategy_type
from fedtl.wire.worker import Worker, WorkerPhase


def federation_of(
    sizes: Sequence[int],
    *,
    shape: tuple[int, ...] = (6,),
    classes: int = 3,
    test: int = 4,
    seed: int = 0,
) -> Federation:
    """Random float samples; client i trains on ``sizes[i]`` of them and is tested on ``test``."""
    rng = np.random.default_rng(seed)
    n = sum(sizes) + test * len(sizes)
    x = rng.normal(size=(n, *shape)).astype(np.float32)
    y = rng.integers(classes, size=n)
    order = rng.permutation(n)
    train = Shards.from_sizes(order[: sum(sizes)], np.array(sizes))
    tests = Shards.from_sizes(order[sum(sizes) :], np.full(len(sizes), test))
    one = np.ones((), np.float32)
    return Federation(x, y, classes, one, 0 * one, train, tests, np.empty(0, np.int64))


def small_module(classes: int = 3, inputs: int = 6, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, classes))


OF_CLASSES = [
    name for name in TERMS if "classification" in (part_type(Term, TERMS, name, "term").tasks or {"classification"})
]
"""The terms that are for labelled samples, or for any; tests/contract/test_tasks.py has the losses of other tasks."""


def engine_of(
    federation: Federation,
    module: nn.Module,
    kind: Callable[[Task], Engine] = OneByOne,
    objective: Sequence[Mapping[str, Any]] | Sequence[Term] = (),
    seed: int = 0,
    device: str = "cpu",
) -> Engine:
    place = torch.device(device)
    module = module.to(place)
    terms = tuple(objective) if objective and isinstance(objective[0], Term) else read_objective(objective)  # type: ignore[arg-type]
    return kind(Task(module, Layout.of(module), Objective(terms), Samples(federation, place), seed))  # type: ignore[arg-type]


def engine_for(
    method: str,
    federation: Federation,
    module: nn.Module,
    kind: Callable[[Task], Engine] = OneByOne,
    device: str = "cpu",
    **options: Any,
) -> Engine:
    """An engine whose model has the modules that a method's own terms bring along, where they bring any."""
    strategy = strategy_type(method)
    settings = strategy.settings_type(name=method, **{**METHODS[method], **options})
    terms = strategy.client_update.objective(settings, read_objective(()))
    module, frozen, private = with_modules(module, federation, terms, 0)
    if not isinstance(module, Composite):
        return engine_of(federation, module, kind, device=device)
    task = engine_of(federation, module, OneByOne, terms, device=device).task
    layout = Layout.of(module)
    sharing = Sharing.of(module, layout, {*settings.private, *private}, settings.frozen)
    initial = layout.flatten(module)
    return kind(replace(task, sharing=sharing and sharing.to(initial.device), initial=initial, frozen=frozen))


def worker_of(engine: Engine, update: ClientUpdate[Any], folder: Path | None = None) -> Worker:
    initial = engine.task.layout.flatten(engine.task.module)
    return Worker([WorkerPhase(engine, update)], store_in(folder), initial)


def store_in(folder: Path | None) -> MemoryStore:
    """Clients' memories in ``folder``, or in one that goes with the store."""
    if folder:
        return MemoryStore(folder)
    store = MemoryStore(Path(tempfile.mkdtemp()))
    weakref.finalize(store, shutil.rmtree, store.folder, ignore_errors=True)
    return store


NO_LAYOUT = Layout((), 0, 0)
"""For local training that looks at no part of its model."""


def update_of(name: str, layout: Layout = NO_LAYOUT, **options: Any) -> ClientUpdate[Any]:
    method = strategy_type(name)
    return method.client_update(method.settings_type(name=name, **options), layout)


def receive_first(engine: Engine, name: str, **options: Any) -> Engine:
    """Let the engine's clients receive what a method's server sends in the first round besides the model."""
    method, layout = strategy_type(name), engine.task.layout
    sharing = engine.task.sharing
    server = method(
        method.settings_type(name=name, **options),
        seed=0,
        clients=100,
        parameters=sharing.parameters if sharing else layout.parameters,
        layout=layout,
        classes=engine.task.samples.federation.classes,
    )
    received = server.first_download(engine.task.sent(layout.flatten(engine.task.module))[: server.parameters])
    device = engine.task.samples.device
    object.__setattr__(engine.task, "received", {key: tensor.to(device) for key, tensor in received.items()})
    return engine


def train_cohort(
    engine: Engine,
    update: ClientUpdate[Any],
    w: torch.Tensor,
    clients: Sequence[int],
    memories: Sequence[Memory],
    round: int,
    context: RoundContext | None = None,
) -> list[Outcome]:
    """What comes of a cohort that receives one model, and besides what is sent in the first round."""
    received = Received({**engine.task.received, "w": w})
    return engine.train(Assignment(update, received, clients, memories, round, context or RoundContext()))


# Every way to train, by name.
EngineKind = Callable[[Task], Engine]
ENGINES: dict[str, EngineKind] = {
    "one by one": OneByOne,
    "one by one, traced": functools.partial(OneByOne, traced=True),
    "stacked": Stacked,
    "stacked, traced": functools.partial(Stacked, traced=True),
}

EACH_ENGINE = pytest.mark.parametrize("kind", ENGINES.values(), ids=ENGINES.keys())
"""For a test of every engine, which takes it as ``kind``."""

# The options that each registered method needs for a short test.
METHODS: dict[str, dict[str, Any]] = {
    "afl": {"lr": 0.1, "mixture_lr": 0.1},
    "apfl": {"lr": 0.1, "alpha": 0.3, "adaptive": True},
    "central": {"lr": 0.1},
    "ditto": {"lr": 0.1, "lam": 0.5},
    # By the default τ the server divides rounding errors in what should not move at all.
    "fedadagrad": {"lr": 0.1, "server": {"tau": 0.1}},
    "fedadam": {"lr": 0.1, "server": {"tau": 0.1}},
    "fedavg": {"lr": 0.1},
    "fedavg-finetune": {"lr": 0.1, "finetune_steps": 2},
    "fedavgm": {"lr": 0.1},
    "fedbabu": {"lr": 0.1, "finetune_steps": 2},
    "fedbn": {"lr": 0.1, "last_batch": "merge"},  # batch-norm cannot train on one sample
    "feddbe": {"lr": 0.1, "kappa": 0.5, "mu": 0.6},
    "feddc": {"lr": 0.1, "alpha": 0.3},
    "feddf": {"lr": 0.1, "distill_steps": 0},  # there are no public data
    "feddyn": {"lr": 0.1, "alpha": 0.3, "mean_samples": 20.0},
    "fednova": {"lr": 0.1, "mu": 0.3},
    "fedpac": {"lr": 0.1, "head_lr": 0.2},
    "fedper": {"lr": 0.1},
    "fedcp": {"lr": 0.1, "lam": 0.5},
    "fedlc": {"lr": 0.1, "tau": 0.5},
    "fedntd": {"lr": 0.1, "beta": 0.5},
    "fedprox": {"lr": 0.1, "mu": 0.3},
    "fedrep": {"lr": 0.1, "head_epochs": 2},
    "fedrod": {"lr": 0.1},
    "fedrod-hyper": {"lr": 0.1, "hyper_hidden": 4},
    "fedyogi": {"lr": 0.1, "server": {"tau": 0.1}},
    "gpfl": {"lr": 0.1},
    "lg-fedavg": {"lr": 0.1},
    "fedsam": {"lr": 0.1, "rho": 0.1},
    "local": {"lr": 0.1},
    "moon": {"lr": 0.1, "mu": 0.5},
    "per-fedavg": {"lr": 0.1, "alpha": 0.05},
    "pfedme": {"lr": 0.05, "lam": 3.0, "inner_steps": 3, "inner_lr": 0.1},
    "qfedavg": {"lr": 0.1, "q": 1.0},
    "scaffold": {"lr": 0.1, "option": "I"},
}

ALIKE_AT_CLIENTS = ("fedavgm", "fedadagrad", "fedyogi")
"""Methods that differ from ``fedadam`` at the server alone: what clients do need not be tried with each."""

CLIENT_METHODS = tuple(method for method in METHODS if method not in ALIKE_AT_CLIENTS)

MODELS_OF: dict[str, dict[str, Any]] = {"fedbn": {"name": "cnn-bn", "channels": [2], "hidden": [4]}}
"""The ``[model]`` tables of methods that not every model suits."""


def strategy_of(method: str) -> list[str]:
    """A method and its options, as the command line takes them."""
    return [f"strategy.{line}" for line in toml_lines({"name": method, **METHODS[method]})]


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """A table's keys and values, a line each, as TOML has them."""
    return [f"{key}={json.dumps(value, separators=(',', '='))}" for key, value in table.items()]


def overrides_of(method: str) -> list[str]:
    """A method, its options and a model that suits it, as the command line takes them."""
    return [*strategy_of(method), *(f"model.{k}={v}" for k, v in MODELS_OF.get(method, {}).items())]


class Quadratic(nn.Module):
    """f_i(θ) = ½‖θ - a_i‖², where a_i is the client's only sample; for the term :class:`QuadraticTerm`."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.theta


class QuadraticTerm(Term):
    def value(self, context: TermContext) -> Tensor:
        return context.mean(0.5 * context.logits.square().sum(1))


def quadratic(targets: NDArray[np.float32], kind: Callable[[Task], Engine] = OneByOne) -> Engine:
    """An engine whose client i has f_i(θ) = ½‖θ - targets[i]‖²."""
    clients, d = targets.shape
    index = np.arange(clients)
    one = np.ones((), np.float32)
    each = Shards.from_sizes(index, np.ones(clients, np.int64))
    none = Shards.from_sizes(index[:0], np.zeros(clients, np.int64))
    federation = Federation(targets, np.zeros(clients, np.int64), d, one, 0 * one, each, none, index[:0])
    return engine_of(federation, Quadratic(d), kind, [QuadraticTerm(term="quadratic")])


SUITED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "cnn1d": ({"channels": [3, 4], "kernel": 3, "hidden": [5]}, (2, 7)),
    "gru": ({"hidden": 4, "layers": 2}, (2, 5)),
    "lstm": ({"hidden": 4, "width": 3, "vocabulary": 9, "padding": 0}, (5,)),
    "tabular-mlp": ({"categorical": {"1": 9, "4": 9}, "width": 3, "hidden": [5]}, (5,)),
    "textcnn": ({"vocabulary": 9, "padding": 0, "width": 3, "channels": 4, "widths": [2, 3]}, (5,)),
    "transformer": ({"vocabulary": 9, "padding": 0, "width": 8, "heads": 2, "layers": 1}, (5,)),
}
"""Models that take no images: small options of theirs and a sample's shape; of rank 1, whole numbers below 9."""


def federation_suited(name: str, sizes: Sequence[int], classes: int = 3) -> Federation:
    """Samples that one of these models takes."""
    federation = federation_of(sizes, shape=SUITED[name][1], classes=classes)
    return federation if len(federation.shape) > 1 else whole_numbers(federation, 9)


def whole_numbers(federation: Federation, count: int) -> Federation:
    """The same with whole numbers below ``count`` for samples."""
    rng = np.random.default_rng(1)
    return replace(federation, x=rng.integers(0, count, federation.x.shape).astype(np.float32))
