"""FedDBE (Zhang et al. 2023): clients' biases in representation space, and features held to a common mean."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.assemble.parts import assemble
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.models.vector import Layout
from fedtl.strategies.contract import Uploads
from tests.parted import Parted, assert_same, mean
from tests.parts import EACH_ENGINE, ENGINES, EngineKind, federation_of, update_of
from tests.unit.test_fedrod import TwoLayers

SIZES = [4, 6, 9]
EVERYBODY = [0, 1, 2]
LR, OWN_LR, KAPPA, MU = 0.2, 0.4, 3.0, 0.6
TABLE = {"name": "feddbe", "kappa": KAPPA, "mu": MU, "personal_lr": OWN_LR, "local_epochs": 2}


class ByHand:
    """FedAvg with DBE in torch's own words, on all of a client's samples at once."""

    def __init__(self, run: Parted) -> None:
        self.run, self.shared = run, run.begun()
        self.own = [torch.zeros(4) for _ in SIZES]
        self.consensus: Tensor | None = None

    def train(self, client: int) -> tuple[nn.Module, Tensor]:
        """Two steps; the trained model, and the running mean."""
        module, (x, y), running = deepcopy(self.shared), self.run.samples(client), torch.zeros(4)
        for _ in range(2):
            own = self.own[client].clone().requires_grad_()
            z = torch.tanh(module.body(x))  # type: ignore[operator]
            now = (1 - MU) * running + MU * z.mean(0)
            loss = F.cross_entropy(module.head(z if self.consensus is None else z + own), y)  # type: ignore[operator]
            if self.consensus is not None:
                loss = loss + KAPPA * (0.5 * (now - self.consensus).square()).mean()
            *of_model, of_own = torch.autograd.grad(loss, [*module.parameters(), own], materialize_grads=True)
            with torch.no_grad():
                for parameter, gradient in zip(module.parameters(), of_model):
                    parameter -= LR * gradient
            self.own[client] = self.own[client] - OWN_LR * of_own
            running = now.detach()
        return module, running

    def initial_round(self) -> None:
        means = torch.stack([self.train(client)[1] for client in EVERYBODY])
        self.consensus = (torch.tensor(SIZES)[:, None] * means).sum(0) / sum(SIZES)

    def round(self, clients: list[int]) -> None:
        trained = [self.train(client)[0] for client in clients]
        with torch.no_grad():
            for parameter, value in zip(self.shared.parameters(), mean(trained, [SIZES[c] for c in clients])):
                parameter.copy_(value)


@EACH_ENGINE
def test_rounds_worked_out_by_hand(kind: EngineKind) -> None:
    rounds = [[0, 1], [1, 2]]
    run = Parted(TABLE, federation_of(SIZES), [EVERYBODY, *rounds], kind)
    sent = run.rounds()[-1]
    expected = ByHand(run)
    expected.initial_round()
    torch.testing.assert_close(run.server.state["consensus"], expected.consensus)
    for clients in rounds:
        expected.round(clients)
    assert_same(run.global_model(sent), expected.shared)
    x = run.samples(0)[0]
    for client, own in enumerate(expected.own):
        torch.testing.assert_close(run.memory(client)["own"], own, rtol=1e-5, atol=1e-6)
        z = torch.tanh(expected.shared.body(x))  # type: ignore[operator]
        logits = expected.shared.head(z + own)  # type: ignore[operator]
        torch.testing.assert_close(run.served(client)(x), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_the_initial_round_leaves_all_but_the_consensus_as_it_was(norm: bool) -> None:
    """Batch-norm's statistics too."""
    run = Parted(TABLE, federation_of(SIZES), [EVERYBODY], model={"norm": norm})
    (sent,) = run.rounds()
    assert torch.equal(sent, run.task.sent(run.initial))
    assert run.server.state["consensus"].all()
    assert not any(run.memory(client)["own"].any() for client in EVERYBODY)


@EACH_ENGINE
def test_nothing_else_of_the_initial_round_is_kept(kind: EngineKind) -> None:
    """Neither momentum, nor the model that a term remembers, nor the statistics that another one asks for."""
    table = {"name": "feddbe", "local_steps": 2, "optimizer": {"name": "sgd", "momentum": 0.9, "keep": True}}
    objective = [{"term": "cross_entropy"}, {"term": "moon", "weight": 0.5}, {"term": "class_logits", "weight": 0.5}]
    rounds, small = [[0, 1], [1, 2]], 1e-9  # times which the consensus counts
    each = [
        Parted({**table, **more}, federation_of(SIZES), sampled, kind, {"norm": True}, objective)
        for more, sampled in (({"kappa": small}, [EVERYBODY, *rounds]), ({"kappa": 0.0}, rounds))
    ]
    (initial, *ours), theirs = (run.rounds() for run in each)
    assert torch.equal(initial, each[0].task.sent(each[0].initial))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for client in EVERYBODY:
        one, other = (run.memory(client) for run in each)
        assert one.keys() == other.keys()
        for name, kept in one.items():
            torch.testing.assert_close(kept, other[name], rtol=1e-5, atol=1e-6)


def strategy_of(**options: Any) -> Any:
    tables = {
        "name": "drawn",
        "rounds": 3,
        "data": {"name": "digits", "clients": 3},
        "model": {"name": "tests.parted:Net"},
        "strategy": {"name": "feddbe", "lr": LR, "clients_per_round": 1, **options},
    }
    return assemble(build(tables), federation_of(SIZES)).strategy


@pytest.mark.parametrize(
    ("options", "first"), [({}, 3), ({"initial_clients": "sampled"}, 1), ({"kappa": 0.0}, 1)], ids=str
)
def test_all_clients_take_part_in_the_initial_round(options: dict[str, Any], first: int) -> None:
    strategy = strategy_of(**options)
    assert len(strategy.sample(1)) == first
    w = torch.ones(5)
    state = strategy.first_state(w)
    sums = {"w": torch.zeros(5, dtype=torch.float64), "mean": torch.full((4,), 2.0, dtype=torch.float64)}
    for round in (1, 2):
        uploads = Uploads(sums, {"w": 1, "mean": 1}, {}, EVERYBODY, SIZES)
        strategy._memory.state = state
        state = strategy.update(state, uploads, round)
    strategy._memory.state = state
    assert len(strategy.sample(3)) == 1
    assert not state["w"].any()
    assert bool(state["consensus"].any()) == ("kappa" not in options)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_own_vectors_and_consensus_it_is_fedavg(engine: str) -> None:
    """To the bit, as zeros that are added change nothing; traced to rounding, as what is fused is another sum then."""
    kind, tolerance = (
        ENGINES[engine],
        {"rtol": 1e-5, "atol": 1e-6} if "traced" in engine else {"rtol": 0.0, "atol": 0.0},
    )
    common = {"momentum": 0.5, "local_epochs": 2, "batch_size": 4}
    rounds = [
        Parted({**table, **common}, federation_of(SIZES), [[0, 1], [1, 2]], kind).rounds()
        for table in ({"name": "feddbe", "kappa": 0.0, "personal_lr": 0.0}, {"name": "fedavg"})
    ]
    for ours, theirs in zip(*rounds):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_who_has_never_trained_is_served_by_the_global_model() -> None:
    run = Parted({**TABLE, "kappa": 0.0}, federation_of(SIZES), [[0, 2]])
    (sent,) = run.rounds()
    assert_same(run.served(1), run.global_model(sent), exactly=True)
    assert run.memory(0)["own"].all()


def test_every_engine_agrees_on_batches_that_are_padded() -> None:
    """Padding counts neither in the running mean nor in what is held to the consensus."""
    table = {**TABLE, "batch_size": 4, "kappa": 10.0}
    sizes = [33, 34, 35]
    first: list[Tensor] | None = None
    for kind in ENGINES.values():
        run = Parted(table, federation_of(sizes), [EVERYBODY, EVERYBODY], kind)
        numbers = [*run.rounds(), run.server.state["consensus"], *(run.memory(i)["own"] for i in EVERYBODY)]
        assert run.engine.tracer is None or run.engine.tracer.replays_all, "a step ran eagerly"
        first = first or numbers
        for ours, theirs in zip(numbers, first):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@EACH_ENGINE
def test_an_optimiser_steps_both(kind: EngineKind) -> None:
    own = {"optimizer": {"name": "adam", "lr": 0.01}, "personal_lr": 0.05, "lr_scale": {"head": 0.1}}
    run = Parted({**TABLE, **own, "clip_norm": 1.0}, federation_of(SIZES), [EVERYBODY, [0]], kind)
    run.rounds()
    assert float(run.memory(0)["own"].abs().max()) == pytest.approx(2 * 0.05, rel=0.2)  # Adam's first steps


class WithoutBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(6, 4), nn.Linear(4, 3, bias=False)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (WithoutBias(), "clients' own vectors go into its head's bias, and the model's head has none; give it one"),
        (TwoLayers(), "clients' own vectors go into its head's bias, and the model's head has tensors of shapes"),
    ],
)
def test_a_head_that_is_no_linear_layer_with_a_bias_is_refused(module: nn.Module, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _ = update_of("feddbe", Layout.of(module), lr=0.1).head  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ({"private": ["body"]}, r"private = \['body'\]: FedDBE's own vectors stay already; leave it out"),
        ({"frozen": ["head"]}, "no parameter of the part 'head' trains: strategy.frozen or model.adapter freezes it"),
    ],
)
def test_what_does_not_go_together(strategy: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Parted({"name": "feddbe", **strategy}, federation_of(SIZES), [[0]])
