"""Every engine gives every method's numbers: the same client code, one by one and stacked."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate, Gradient, State
from fedtl.clients.sgd import SGD
from fedtl.data.federation import Federation
from fedtl.engine import BUFFERS, Engine, Failed, OneByOne, Trained, choose_engine, refusal
from fedtl.engine.assignment import Assignment
from fedtl.engine.task import Outcome, of_method
from fedtl.grid.in_process import InProcessGrid
from fedtl.losses.batch import Batch
from fedtl.models import MODELS, build_model, read_model
from fedtl.server.scoring import Evaluation
from fedtl.strategies import STRATEGIES, read_strategy, strategy_type
from fedtl.wire import messages as m
from tests.parts import (
    CLIENT_METHODS,
    EACH_ENGINE,
    ENGINES,
    METHODS,
    NO_LAYOUT,
    SUITED,
    EngineKind,
    engine_for,
    engine_of,
    federation_of,
    federation_suited,
    receive_first,
    small_module,
    train_cohort,
    update_of,
    worker_of,
)

SIZES = [7, 23, 40, 20, 23]  # several batches, one, none full; two alike
IMAGES = (1, 12, 12)
ROUNDS = 2  # in the second, memories and the server's state are used again


def test_every_registered_method_is_tested_here() -> None:
    assert METHODS.keys() == STRATEGIES.keys()


def several_rounds(engine: Engine, method: str, **options: object) -> tuple[torch.Tensor, list[Trained]]:
    """Rounds of a method with its own server: the last model, and what came of the last training."""
    settings = read_strategy({"name": method, **METHODS[method], "batch_size": 10, **options})
    kind, layout, clients = strategy_type(method), engine.task.layout, len(SIZES)
    task = engine.task
    parameters = task.sharing.parameters if task.sharing else layout.parameters
    own = {"parameters": parameters, "layout": layout, "classes": task.samples.federation.classes}
    server = kind(settings, seed=0, clients=clients, evaluation=Evaluation(clients=0), **own)  # type: ignore[arg-type]
    server.scores_global, server.max_failures = False, 0.0
    receive_first(engine, **settings.model_dump(exclude_unset=True))
    outcomes: list[Outcome] = []
    train = engine.train  # what it gives is summed in place

    def noted(assignment: Assignment) -> list[Outcome]:
        outcomes[:] = train(assignment)
        return [replace(o, uploads=copy.deepcopy(o.uploads)) if isinstance(o, Trained) else o for o in outcomes]

    engine.train = noted  # type: ignore[method-assign]
    w = task.sent(layout.flatten(task.module))
    grid, models = InProcessGrid(worker_of(engine, kind.client_update(settings, layout)), clients), list[Any]()
    server.start(grid, m.pack(w.cpu().numpy()), ROUNDS, on_round=lambda _, model: models.append(model.copy()))
    return torch.from_numpy(models[-1]), outcomes  # type: ignore[return-value]


def assert_agree(federation: Federation, module_of: object, method: str, **options: object) -> list[Trained]:
    """Give what came of the last training one by one."""
    w1, one = several_rounds(engine_for(method, federation, module_of(), **options), method, **options)  # type: ignore[operator]
    for name, kind in ENGINES.items():
        if kind is OneByOne:
            continue  # that was it
        engine = engine_for(method, federation, module_of(), kind, **options)  # type: ignore[operator]
        w2, other = several_rounds(engine, method, **options)
        assert (engine.tracer is not None) == ("traced" in name)
        assert engine.tracer is None or engine.tracer.replays_all, "a step ran eagerly"
        torch.testing.assert_close(w1, w2, rtol=1e-4, atol=2e-6)
        for a, b in zip(one, other):
            assert (a.client, a.samples, a.steps) == (b.client, b.samples, b.steps)
            # A discrepancy is a small difference of means of kernels, which are numbers around 1.
            np.testing.assert_allclose(a.losses, b.losses, rtol=1e-4, atol=1e-6)
            assert a.memory.keys() == b.memory.keys()
            for vector in a.memory:  # it may be a difference of models divided by lr, and its rounding errors too
                torch.testing.assert_close(a.memory[vector], b.memory[vector], rtol=1e-4, atol=2e-5)
    return one


@pytest.mark.parametrize("budget", [{"local_steps": 5}, {"local_epochs": 1, "batch_size": 0}])
@pytest.mark.parametrize("method", ["fedavg", "pfedme", "scaffold", "fedrep", "per-fedavg", "fedpac", "fedcp", "ditto"])
def test_budgets_agree(method: str, budget: dict[str, int]) -> None:
    """Under methods of one loop and of several, of mini-batches in turn, and with a look before."""
    assert_agree(federation_of(SIZES), small_module, method, **budget)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"resnet18-gn", "cnn-bn", *SUITED}))
def test_models_agree(name: str) -> None:
    federation = federation_of(SIZES, shape=IMAGES, classes=4)
    assert_agree(
        federation, lambda: build_model(read_model({"name": name}), IMAGES, 4, seed=1), "pfedme", local_steps=2
    )


@pytest.mark.parametrize("name", SUITED)
def test_models_of_sequences_and_tables_agree(name: str) -> None:
    options, shape = SUITED[name]
    choice = read_model({"name": name, **options})
    assert_agree(federation_suited(name, SIZES), lambda: build_model(choice, shape, 3, seed=1), "fedrep", lr=0.02)


@pytest.mark.parametrize(("name", "sizes"), [("resnet18-gn", [2, 3]), ("cnn-bn", [8, 9])])
def test_a_larger_model_agrees(name: str, sizes: list[int]) -> None:
    """One step of two clients.

    A ResNet's eleven million parameters are slow to train here, and slowest in a recorded stack; what it is made of is
    recorded in stacks elsewhere. After batch-norm many numbers lie near 0, where a ReLU makes one step's rounding a
    difference of the next.
    """
    federation = federation_of(sizes, shape=(1, 8, 8), classes=4)
    uploads = []
    for kind in (ENGINES[name] for name in ("one by one", "one by one, traced", "stacked")):
        engine = engine_of(federation, build_model(read_model({"name": name}), (1, 8, 8), 4, seed=1), kind)
        w = engine.task.layout.flatten(engine.task.module)
        outcomes = train_cohort(engine, update_of("fedavg", lr=0.01), w, [0, 1], [{}, {}], 1)
        uploads.append(torch.stack([outcome.uploads.get("w") for outcome in outcomes]))  # type: ignore[union-attr,misc]
    for other in uploads[1:]:
        torch.testing.assert_close(uploads[0], other, rtol=1e-4, atol=1e-5)


class BatchNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def batch_norm_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BatchNormNet()


NO_BATCH_OF_ONE = [7, 25, 40, 27, 25]
"""Sizes like the others, for batch-norm, which refuses one sample."""


@pytest.mark.parametrize("method", CLIENT_METHODS)
def test_methods_agree_and_batch_norm_statistics_travel(method: str) -> None:
    federation = federation_of(NO_BATCH_OF_ONE)
    outcomes = assert_agree(federation, batch_norm_net, method, local_epochs=1)
    engine = engine_of(federation, batch_norm_net())
    layout = engine.task.layout
    assert (layout.parameters, layout.size) == (6 * 8 + 8 + 16 + 27, 6 * 8 + 8 + 16 + 27 + 16)
    before = layout.flatten(engine.task.module)[layout.parameters :].clone()
    layout = engine_for(method, federation, batch_norm_net(), local_epochs=1).task.layout
    for outcome in outcomes:
        buffers = (
            outcome.uploads.get("w")[layout.parameters :]
            if outcome.uploads.get("w") is not None
            else outcome.memory[BUFFERS]
        )
        assert not torch.equal(buffers, before)
        assert BUFFERS in outcome.memory or not of_method(outcome.memory)


def test_statistics_of_a_first_step_that_is_not_traced_are_kept() -> None:
    """Momentum adds a vector to the state, so a round's first step runs eagerly and the others traced."""
    assert_agree(federation_of(NO_BATCH_OF_ONE), batch_norm_net, "fedavg", local_epochs=1, momentum=0.5)


def test_objective_with_several_terms_agrees() -> None:
    rows = [{"term": "cross_entropy", "label_smoothing": 0.1}, {"term": "l2", "weight": 0.01}]
    federation, results = federation_of(SIZES), []
    for kind in ENGINES.values():
        engine = engine_of(federation, small_module(), kind, rows)
        results.append(several_rounds(engine, "fedavg", local_epochs=1))
    for other in results[1:]:
        torch.testing.assert_close(results[0][0], other[0], rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(results[0][1][0].losses, other[1][0].losses, rtol=1e-4)
    assert len(results[0][1][0].losses) == 2


def test_features_reach_a_term_under_both_engines() -> None:
    from fedtl.losses.term import Term, TermContext

    class SmallFeatures(Term):
        needs = frozenset({"features"})

        def value(self, context: TermContext) -> torch.Tensor:
            assert context.features.shape[-1] == 5
            return context.mean(context.features.square().sum(1))

    federation, vectors = federation_of(SIZES), []
    for kind in ENGINES.values():
        engine = engine_of(federation, small_module(), kind, [SmallFeatures(term="small")])
        vectors.append(several_rounds(engine, "fedavg", local_epochs=1)[0])
    for other in vectors[1:]:
        torch.testing.assert_close(vectors[0], other, rtol=1e-4, atol=2e-6)


@EACH_ENGINE
def test_a_clients_numbers_do_not_depend_on_its_company(kind: EngineKind) -> None:
    """To the bit one by one. In a stack of narrow matrices that is the processor's affair: see below."""
    federation = federation_of(SIZES)
    engine = engine_of(federation, small_module(), kind)
    w = engine.task.layout.flatten(engine.task.module)
    update = update_of("pfedme", **METHODS["pfedme"], batch_size=10)
    together = train_cohort(engine, update, w, [0, 1, 2, 3], [{}] * 4, 5)
    alone = [train_cohort(engine, update, w, [c], [{}], 5)[0] for c in (3, 1)]
    close = {"rtol": 1e-4, "atol": 2e-6} if engine.stacks else {"rtol": 0, "atol": 0}
    for one, client in zip(alone, (3, 1)):
        other = together[client]
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        torch.testing.assert_close(one.uploads.get("w"), other.uploads.get("w"), **close)
        np.testing.assert_allclose(one.losses, other.losses, rtol=close["rtol"])


def nine_alike(hidden: int) -> tuple[Engine, ClientUpdate[Any]]:
    """Clients whom the rules would stack, of a model so wide."""
    federation = federation_of([30] * 9, shape=(1, 8, 8), classes=10)
    module = build_model(read_model({"name": "mlp", "hidden": [hidden]}), (1, 8, 8), 10, 0)
    return engine_of(federation, module), update_of("fedavg", lr=0.1, batch_size=10)


@pytest.mark.parametrize("hidden", [3, 8, 16, 32])
def test_the_engine_that_is_chosen_keeps_a_clients_bits_in_any_company(hidden: int) -> None:
    """Stacked or not: whether stacked products of narrow matrices keep them depends on the processor."""
    plain, update = nine_alike(hidden)
    chosen = choose_engine("auto", "auto", plain.task, update, "cpu", 9)
    assert chosen.stacked or "would depend on the stack" in chosen.because
    engine, w = chosen.make(plain.task), plain.task.layout.flatten(plain.task.module)

    def of_client(company: list[int]) -> torch.Tensor:
        outcomes = train_cohort(engine, update, w, company, [{}] * len(company), 1)
        return outcomes[company.index(4)].uploads.get("w")  # type: ignore[union-attr,return-value]

    for few in ([4], [4, 5], [3, 4], [2, 3, 4, 5]):
        assert torch.equal(of_client([*range(9)]), of_client(few))


class OfItsCompany(SGD):
    """Its step is wider the more clients share a stack."""

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        w = state["w"]
        w.sub_(grad(w, batch), alpha=self.settings.lr * (len(w) if w.dim() == 2 else 1))
        return {"w": w}


class OfItsPlace(SGD):
    """Its step is wider the further back a client stands in its stack."""

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        w = state["w"]
        place = 1 + torch.arange(len(w))[:, None] if w.dim() == 2 else torch.ones(())
        return {"w": w - self.settings.lr * place * grad(w, batch)}


@pytest.mark.parametrize("kind", [OfItsCompany, OfItsPlace])
def test_clients_whose_bits_depend_on_their_company_are_not_stacked(kind: type[SGD]) -> None:
    plain, update = nine_alike(32)
    chosen = choose_engine("auto", "auto", plain.task, kind(update.settings, NO_LAYOUT), "cpu", 9)
    assert (chosen.stacked, chosen.traced) == (False, True)
    assert "would depend on the stack" in chosen.because
    assert choose_engine(
        True, "auto", plain.task, kind(update.settings, NO_LAYOUT), "cpu", 9
    ).stacked  # who asks for it gets it


@EACH_ENGINE
def test_a_client_that_raises_fails_alone(kind: EngineKind) -> None:
    class Raises(type(update_of("fedavg", lr=0.1))):  # type: ignore[misc]
        def step(self, state, batch, grad):  # type: ignore[no-untyped-def]
            if (batch.y == 2).any():
                raise RuntimeError("cannot learn a 2")
            return super().step(state, batch, grad)

    federation = federation_of([10, 10, 10, 10])
    for client in range(4):
        federation.y[federation.train[client]] = 2 if client == 2 else 1
    engine = engine_of(federation, small_module(), kind)
    w = engine.task.layout.flatten(engine.task.module)
    outcomes = train_cohort(engine, Raises(update_of("fedavg", lr=0.1).settings, NO_LAYOUT), w, range(4), [{}] * 4, 1)
    assert [type(o) for o in outcomes] == [Trained, Trained, Failed, Trained]
    assert outcomes[2] == Failed(2, "RuntimeError: cannot learn a 2")
    expected = train_cohort(engine, update_of("fedavg", lr=0.1), w, [3], [{}], 1)[0]
    torch.testing.assert_close(outcomes[3].uploads.get("w"), expected.uploads.get("w"))  # type: ignore[union-attr]


class Dropout(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))


class Branches(nn.Module):
    """What it computes depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) if x.sum() > 0 else self.head(-x)


class Counts(nn.Module):
    """It changes a tensor that is no buffer of its."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.calls = nn.Linear(6, 3), [torch.zeros(())]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls[0].add_(1)
        return self.head(x) * self.calls[0]


def test_models_that_cannot_train_stacked() -> None:
    dropout = Dropout()
    assert "dropout" in (refusal(dropout, (6,)) or "")
    assert "vmap" in (refusal(Branches(), (6,)) or "")
    assert refusal(small_module(), (6,)) is None
    assert refusal(batch_norm_net(), (6,)) is None


@pytest.mark.parametrize(
    ("module", "asked", "device", "chosen", "because"),
    [
        (small_module, ("auto", "auto"), "cpu", (True, True), "fewer than"),
        (small_module, ("auto", False), "cpu", (False, False), "not traced"),
        (small_module, (False, "auto"), "cpu", (False, True), "simulation.stacked = false"),
        (small_module, ("auto", "auto"), "cuda", (True, False), "on a GPU"),
        (Dropout, ("auto", "auto"), "cuda", (False, False), "dropout"),
        (Dropout, ("auto", "auto"), "cpu", (False, True), "dropout"),
        (Branches, ("auto", "auto"), "cpu", (False, False), "depends on a tensor's values"),
        (Counts, (False, "auto"), "cpu", (False, False), "changes something that it was not given"),
    ],
)
def test_the_choice_of_an_engine(
    module: Callable[[], nn.Module],
    asked: tuple[bool | str, bool | str],
    device: str,
    chosen: tuple[bool, bool],
    because: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whether it does is the processor's matter; here the rules are tested.
    monkeypatch.setattr("fedtl.engine.choice.depends_on_stack", lambda task, update: False)
    task = engine_of(federation_of(SIZES), module()).task
    choice = choose_engine(*asked, task, update_of("fedavg", lr=0.1, momentum=0.9), device, 40)
    assert (choice.stacked, choice.traced) == chosen
    assert because in choice.because


def test_what_is_asked_for_and_cannot_be_is_an_error() -> None:
    update = update_of("fedavg", lr=0.1)
    with pytest.raises(ConfigError, match=r"simulation\.stacked = true: .*dropout"):
        choose_engine(True, "auto", engine_of(federation_of(SIZES), Dropout()).task, update, "cpu", 40)
    with pytest.raises(ConfigError, match=r"simulation\.traced = true: .*depends on a tensor's values"):
        choose_engine("auto", True, engine_of(federation_of(SIZES), Branches()).task, update, "cpu", 40)


@pytest.mark.parametrize("recorded", [False, True])
def test_dropout_is_the_same_again_one_by_one(recorded: bool) -> None:
    kind = functools.partial(OneByOne, traced=recorded)

    def uploads() -> list[torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))
        engine = engine_of(federation_of(SIZES), module, kind)
        w = engine.task.layout.flatten(engine.task.module)
        return [o.uploads.get("w") for o in train_cohort(engine, update_of("fedavg", lr=0.1), w, range(5), [{}] * 5, 1)]  # type: ignore[union-attr,misc]

    torch.manual_seed(1)
    first = uploads()
    torch.manual_seed(2)
    for a, b in zip(first, uploads()):
        assert torch.equal(a, b)
    state = torch.get_rng_state()
    uploads()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.gpu
@EACH_ENGINE
@pytest.mark.parametrize("method", STRATEGIES)
def test_a_gpu_gives_the_cpus_numbers(method: str, kind: EngineKind) -> None:
    federation = federation_of(SIZES)
    cpu = several_rounds(engine_for(method, federation, small_module()), method, local_epochs=1)[0]
    gpu = several_rounds(engine_for(method, federation, small_module(), kind, "cuda"), method, local_epochs=1)[0]
    torch.testing.assert_close(cpu, gpu.cpu(), rtol=1e-3, atol=1e-5)
