"""FedNTD: its loss beside the formula with the label's column taken out, and FedAvg at β = 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import fedtl
from fedtl import losses
from fedtl.config.read import build, read_config
from tests import linear
from tests.parts import EACH_ENGINE, EngineKind


def by_hand(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """As the paper writes it: softmax over the other classes' logits."""
    others = torch.stack([torch.tensor([c for c in range(student.shape[1]) if c != y]) for y in labels.tolist()])
    q_l, q_g = (F.log_softmax(logits.gather(1, others) / temperature, 1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(q_l, q_g, log_target=True, reduction="batchmean")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_loss_and_its_gradient(temperature: float, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    student, teacher = (3 * torch.randn(2, 7, classes, generator=generator, dtype=torch.float64)).unbind()
    labels = torch.randint(classes, (7,), generator=generator)
    grads = []
    for loss in (losses.not_true_distillation, by_hand):
        leaf = student.clone().requires_grad_()
        value = loss(leaf, teacher, labels, temperature=temperature)
        grads.append(torch.cat([value.detach()[None], *torch.autograd.grad(value, leaf)[0]]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-12)
    assert (classes == 2) == (grads[0].abs().max() < 1e-12)
    own = F.one_hot(labels, classes).bool()
    assert not grads[0][1:].view(7, classes)[own].any(), "the label's own logit is left alone"


def tables(**strategy: Any) -> dict[str, Any]:
    return linear.tables("fedntd", 0.5, rounds=2, **{"lr": 0.2, "batch_size": 16, "clients_per_round": 3, **strategy})


def model(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    return load_file(fedtl.run(config, out=folder).path / "model.safetensors")


@EACH_ENGINE
def test_steps_by_hand(kind: EngineKind) -> None:
    """The teacher stays at the received model."""
    beta, tau = 0.6, 2.0

    def loss(logits: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) + beta * by_hand(logits, teacher, y, tau)

    linear.assert_steps(tables(lr=0.3, beta=beta, tau=tau, batch_size=0, local_steps=2), kind, loss, spread=0.3)


def test_without_beta_it_is_fedavg_and_else_its_term_bit_for_bit(tmp_path: Path) -> None:
    ours = model(tmp_path / "a", tables(beta=0.7, tau=2.0))
    term = {"term": "not_true_distillation", "weight": 0.7, "temperature": 2.0}
    theirs = model(tmp_path / "b", {**tables(name="fedavg"), "objective": [{"term": "cross_entropy"}, term]})
    without = model(tmp_path / "c", tables(beta=0.0))
    fedavg = model(tmp_path / "d", tables(name="fedavg"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(without[name], fedavg[name]) for name in fedavg)
    assert not all(torch.equal(ours[name], fedavg[name]) for name in fedavg)


def test_the_factor_of_the_temperature_can_be_left_out(tmp_path: Path) -> None:
    """β τ² KL with β / τ² is β KL: no other numbers, but for rounding."""
    without = model(tmp_path / "a", tables(beta=0.8, tau=2.0, scale_t2=False))
    scaled = model(tmp_path / "b", tables(beta=0.2, tau=2.0))
    other = model(tmp_path / "c", tables(beta=0.8, tau=2.0))
    for name in without:
        torch.testing.assert_close(without[name], scaled[name], rtol=1e-4, atol=1e-6)
    assert not all(torch.allclose(without[name], other[name], rtol=1e-4, atol=1e-6) for name in without)
    notes = [read_config(tables(tau=tau, scale_t2=False))[1] for tau in (1.0, 2.0)]
    assert notes == [["strategy.scale_t2 has no effect: τ² is 1 at tau = 1"], []]


def test_its_term_stands_beside_others() -> None:
    config = {**tables(), "objective": [{"term": "cross_entropy"}, {"term": "l2", "weight": 0.1}]}
    stages = build(config).stages()
    assert [term.key for term in stages[0].objective] == ["cross_entropy", "l2", "not_true_distillation"]
