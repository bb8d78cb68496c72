"""Data-free losses against their authors' code (values, gradients), and against closed forms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtl.losses.data_free import (
    class_impression_objective,
    dafl_generator_loss,
    dafl_generator_losses,
    fedgen_diversity,
    zskd_concentration,
)

REFERENCE = json.loads((Path(__file__).parent / "transfer_losses.json").read_text(encoding="utf-8"))
AUTHORS: Any = {"log": "log10", "reduction": "mean"}


def tensor(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(REFERENCE["inputs"][name], dtype=dtype)


def check(case: str, loss: Callable[..., Tensor]) -> None:
    """Value and gradients as in the case, by autograd, by func.grad, and under vmap."""
    reference = REFERENCE["cases"][case]
    names, outputs = reference["inputs"], reference["outputs"]
    tolerance = {"rtol": reference["rtol"], "atol": reference["atol"]}
    inputs = tuple(tensor(name) for name in names)
    torch.testing.assert_close(loss(*inputs), torch.tensor(outputs["loss"], dtype=torch.float64), **tolerance)
    stacked = tuple(torch.stack([each, each.flip(0)]) for each in inputs)
    torch.testing.assert_close(torch.func.vmap(loss)(*stacked)[0], loss(*inputs))
    single = loss(*(each.float() for each in inputs))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), loss(*inputs), rtol=1e-4, atol=1e-5)
    for i, name in enumerate(names):
        expected = outputs.get(f"grad_{name}")
        if expected is not None:
            gradient = torch.func.grad(loss, i)(*inputs)
            torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), **tolerance)
            mapped = torch.func.vmap(torch.func.grad(loss, i))(*stacked)
            torch.testing.assert_close(mapped[0], gradient)


@pytest.mark.parametrize("part", ["one_hot", "activation", "information_entropy"])
def test_dafl_as_in_the_authors_code(part: str) -> None:
    check(
        f"dafl.loss_{part}", lambda logits, features: getattr(dafl_generator_losses(logits, features, **AUTHORS), part)
    )


def test_dafl_combined_as_in_the_authors_code() -> None:
    check("dafl.loss", lambda logits, features: dafl_generator_loss(dafl_generator_losses(logits, features, **AUTHORS)))


def test_datafree_class_balance() -> None:
    features = torch.zeros(8, 1, dtype=torch.float64)
    check(
        "datafree.class_balance",
        lambda logits: dafl_generator_losses(logits, features.to(logits), reduction="mean").information_entropy,
    )


def test_dafl_as_in_the_paper() -> None:
    logits, features = tensor("logits_t"), tensor("g_feat")
    paper, authors = dafl_generator_losses(logits, features), dafl_generator_losses(logits, features, **AUTHORS)
    torch.testing.assert_close(paper.one_hot, authors.one_hot)
    torch.testing.assert_close(paper.activation, authors.activation * features.shape[1])
    scale = math.log(10) / logits.shape[1]
    torch.testing.assert_close(paper.information_entropy, authors.information_entropy * scale)
    # Equal classes: H = log(k) / k; a batch of one class alone: 0.
    flat = dafl_generator_losses(torch.zeros(4, 5), torch.ones(4, 3))
    assert flat.information_entropy.item() == pytest.approx(-math.log(5) / 5)
    assert flat.one_hot.item() == pytest.approx(math.log(5))
    assert flat.activation.item() == -3
    sure = torch.zeros(4, 5).index_fill(1, torch.tensor([2]), 200.0).requires_grad_()
    value = dafl_generator_losses(sure, torch.ones(4, 3)).information_entropy
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.autograd.grad(value, sure)[0].isfinite().all()


def test_zskd_concentration() -> None:
    reference = REFERENCE["cases"]["zskd.concentration"]
    expected = torch.tensor(reference["outputs"]["concentration"], dtype=torch.float64)
    normalised = torch.tensor(reference["outputs"]["normalised"], dtype=torch.float64)
    tolerance = {"rtol": reference["rtol"], "atol": reference["atol"]}
    w, k = tensor("W"), expected.shape[1]
    for beta, rows in ((1.0, expected[:k]), (0.1, expected[k:])):
        authors = zskd_concentration(w, beta=beta, classes="columns", convention="authors")
        torch.testing.assert_close(authors, rows, **tolerance)
        paper = zskd_concentration(w, beta=beta, classes="columns")
        torch.testing.assert_close(paper, beta * normalised, **tolerance)
        torch.testing.assert_close(zskd_concentration(w.T, beta=beta), paper)
    mapped = torch.func.vmap(lambda each: zskd_concentration(each, beta=0.1))(torch.stack([w.T, 2 * w.T]))
    torch.testing.assert_close(mapped[0], mapped[1])


def test_fedgen_diversity() -> None:
    reference = REFERENCE["cases"]["fedgen.diversity"]
    assert reference["inputs"] == ["noise", "gen"]
    check("fedgen.diversity", fedgen_diversity)
    images = tensor("gen").reshape(8, 1, 2, 3)
    torch.testing.assert_close(
        fedgen_diversity(tensor("noise"), images), fedgen_diversity(tensor("noise"), tensor("gen"))
    )


def test_class_impressions() -> None:
    logits, labels = tensor("logits_s"), torch.tensor(REFERENCE["inputs"]["y_s"])
    by_hand = -sum(logits[i, label] for i, label in enumerate(labels)) / len(labels)
    torch.testing.assert_close(class_impression_objective(logits, labels), by_hand)
    softmax = class_impression_objective(logits, labels, activation="softmax")
    torch.testing.assert_close(softmax, -logits.softmax(1)[range(8), labels].mean())
    gradient = torch.func.grad(class_impression_objective)(logits, labels)
    assert int(gradient.count_nonzero()) == 8  # a logit's own class alone
    mapped = torch.func.vmap(class_impression_objective)(logits[None], labels[None])
    torch.testing.assert_close(mapped[0], by_hand)

    x = torch.tensor([[[0.0, 1.0], [3.0, 3.0]]])[None]  # one sample, one channel
    zero, label = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    assert class_impression_objective(zero, label, x=x, l2=0.5).item() == 0.5 * (1 + 9 + 9)
    assert class_impression_objective(zero, label, x=x, tv=2.0).item() == 2.0 * (1 + 0 + 3 + 2)
    with pytest.raises(ValueError, match="give x"):
        class_impression_objective(zero, label, tv=1.0)
