"""Losses against other people's code: transfer_losses.json names sources, inputs, values and gradients.

The paper's convention is a default here; a library's is the options that its case names below.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtl import losses

FILE = json.loads(Path(__file__).with_name("transfer_losses.json").read_text(encoding="utf-8"))
CASES: dict[str, dict[str, Any]] = FILE["cases"]

Inputs = dict[str, Tensor]
Call = Callable[[Inputs], Tensor]


def tensors() -> Inputs:
    """The file's, in float64; labels stay whole numbers."""
    return {
        name: torch.tensor(x) if name == "y_s" else torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for name, x in FILE["inputs"].items()
    }


def domains(function: Callable[..., Tensor], **options: Any) -> Call:
    return lambda x: function(x["f_s"], x["f_t"], **options)


def views(function: Callable[..., Tensor], **options: Any) -> Call:
    return lambda x: function(x["z_a"], x["z_b"], **options)


def target(function: Callable[..., Tensor], **options: Any) -> Call:
    return lambda x: function(x["logits_t"], **options)


def discriminate(x: Inputs, features: str) -> Tensor:
    return x[features] @ x["d_w"] + x["d_b"]


def dann(lam: float) -> Call:
    def call(x: Inputs) -> Tensor:
        reversed_ = {name: losses.gradient_reversal(x[name], lam) for name in ("f_s", "f_t")}
        logits = [discriminate(x | reversed_, name) for name in ("f_s", "f_t")]
        return losses.domain_adversarial(logits[0], logits[1], source_label=1, reduction="mean")

    return call


def adda(**options: Any) -> Call:
    return lambda x: losses.adda_discriminator(discriminate(x, "f_s"), discriminate(x, "f_t"), **options)


def distil(temperature: float, **options: Any) -> Call:
    return lambda x: losses.distillation(x["logits_s"], x["logits_t"], temperature=temperature, **options)


def halves(**options: Any) -> Call:
    return lambda x: losses.invariant_spreading(x["e"][:8], x["e"][8:], **options)


def drifted(x: Inputs, function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    return function([x["w1"], x["b1"]], [x["w0"], x["b0"]], *arguments, **options)


TLLIB_MMD: dict[str, Any] = {
    "bandwidths": "mean",
    "multipliers": (0.125, 0.25, 0.5, 1.0, 2.0),
    "over": "all",
    "kernels": "sum",
    "diagonal_constant": True,
}
PYTORCH_ADAPT_MMD: dict[str, Any] = {
    "multipliers": [1 / (2 * scale) for scale in (0.25, 0.5, 1, 2, 4)],  # theirs: exp(-scale · d² / median)
    "over": "source",
}
GAMMAS = (0.001, 0.01, 0.1, 1, 10, 100, 1000)  # exp(-γ d²): σ² = 1 / 2γ

CALLS: dict[str, Call] = {
    "mmd.tllib_quadratic": domains(losses.mmd, estimator="unbiased", **TLLIB_MMD),
    "mmd.tllib_linear": domains(losses.mmd, estimator="circular", **TLLIB_MMD),
    "mmd.tllib_fixed_sigma": domains(
        losses.mmd, bandwidths=(1.0, 2.0), estimator="unbiased", kernels="sum", diagonal_constant=True
    ),
    "mmd.deepda_rbf": domains(losses.mmd, bandwidths="mean", multipliers=(0.125, 0.25, 0.5, 1.0, 2.0), kernels="sum"),
    "mmd.deepda_linear": domains(losses.mmd, kernel="linear"),
    "mmd.deepdg_gaussian": domains(losses.mmd, bandwidths=[(2 * gamma) ** -0.5 for gamma in GAMMAS], kernels="sum"),
    "mmd.pytorch_adapt_quadratic": domains(losses.mmd, estimator="unbiased", **PYTORCH_ADAPT_MMD),
    "mmd.pytorch_adapt_linear": domains(losses.mmd, estimator="linear", **PYTORCH_ADAPT_MMD),
    "jmmd.tllib": lambda x: losses.joint_mmd(
        [x["f_s"], x["logits_s"].softmax(1)],
        [x["f_t"], x["logits_t"].softmax(1)],
        bandwidths=["mean", (0.92,)],
        multipliers=[(0.125, 0.25, 0.5, 1.0, 2.0), (1.0,)],
        estimator="unbiased",
        kernels="sum",
        over="all",
        diagonal_constant=True,
    ),
    "lmmd.deepda_unscaled": lambda x: losses.local_mmd(x["f_s"], x["f_t"], x["y_s"], x["logits_t"]),
    # The schedule is the caller's.
    "lmmd.deepda_iter0": lambda x: (
        losses.dann_lambda(0.0, gamma=1) * losses.local_mmd(x["f_s"], x["f_t"], x["y_s"], x["logits_t"])
    ),
    "lmmd.deepda_iter500": lambda x: (
        losses.dann_lambda(0.5, gamma=1) * losses.local_mmd(x["f_s"], x["f_t"], x["y_s"], x["logits_t"])
    ),
    "coral.deepda": domains(losses.coral),
    "coral.pytorch_adapt": domains(losses.coral),
    "coral.tllib": domains(losses.coral, variant="mean"),
    "coral.deepdg": domains(losses.coral, variant="mean"),
    "cmd.official_k5": lambda x: losses.cmd(x["f_s"].sigmoid(), x["f_t"].sigmoid()),
    "bnm.deepda": target(losses.bnm, variant="mean"),
    "bnm.pytorch_adapt": target(losses.bnm),
    "mcc.tllib": target(losses.mcc, eps=1e-5),
    **{
        f"dann.tllib_alpha{gamma}_iter{done}": dann(losses.dann_lambda(done / 1000, gamma))
        for gamma in (1, 10)
        for done in (0, 100, 500, 1000)
    },
    "adda.tllib_source": lambda x: losses.adda_mapping(discriminate(x, "f_s")),  # a source's label alone
    "adda.tllib_target": lambda x: losses.adda_mapping(discriminate(x, "f_t"), source_label=0),
    "adda.official_adversary": adda(source_label=0, reduction="pooled"),
    "adda.official_mapping": lambda x: losses.adda_mapping(
        discriminate(x, "f_t"), source_label=0, source_logits=discriminate(x, "f_s")
    ),
    **{f"kd.tllib_T{t}": distil(t, scale_t2=False) for t in (1, 4, 20)},
    **{f"kd.hinton_T{t}": distil(t) for t in (1, 4, 20, 1000)},
    "barlow.paper": views(losses.barlow_twins),
    "barlow.official": views(losses.barlow_twins, eps=1e-5),
    "barlow.lightly_0.0051": views(losses.barlow_twins, eps=1e-5),
    "barlow.lightly_0.005": views(losses.barlow_twins, lam=0.005, eps=1e-5),
    "ntxent.lightly_tau0.5": views(losses.nt_xent),
    "ntxent.lightly_tau0.1": views(losses.nt_xent, tau=0.1),
    "vicreg.lightly": views(losses.vicreg, variant="authors"),
    "negcos.lightly": views(losses.negative_cosine),
    "isif.paper_tau0.1": halves(),
    "isif.paper_tau0.5": halves(tau=0.5),
    "isif.official_tau0.1": halves(variant="authors"),
    "isif.official_tau0.5": halves(tau=0.5, variant="authors"),
    "moon.con": lambda x: losses.moon(x["z_a"], x["glob"], x["prev"]),
    # The case gives each sample's prototype.
    "fedproto.mse": lambda x: losses.prototype(x["z_a"], x["glob"], torch.arange(8)),
    "prox.paper": lambda x: drifted(x, losses.proximal, 0.1),
    "prox.personalizedfl": lambda x: drifted(x, losses.proximal, 0.1, variant="root"),
    "robusta.gce": target(losses.generalized_cross_entropy),
    "robusta.entropy": target(losses.entropy),
    "entropy.tllib": target(losses.entropy, eps=1e-5),
    "assoc.salad": lambda x: losses.associative(x["f_s"], x["f_t"], x["y_s"], divergence="kl"),
}

OWN_TESTS = {"mmd.numpy_distance", "dann.lambda_schedule", "kd.hinton_high_T_limit"}
"""Cases of another form, below."""

NOT_APPLICABLE = {
    "daan.deepda_labels": "a defect of DeepDA, kept to be avoided: both domains get one label",
    "robusta.EntropyLoss_module": "broken as shipped: it raises AttributeError",
}

DATA_FREE = ("dafl.", "datafree.", "zskd.", "fedgen.")
"""Whose cases are in test_data_free.py."""


def test_every_case_has_a_test_or_a_reason() -> None:
    elsewhere = {name for name in CASES if name.startswith(DATA_FREE)}
    assert CALLS.keys() | OWN_TESTS | NOT_APPLICABLE.keys() | elsewhere == CASES.keys()
    assert len(CALLS) + len(OWN_TESTS) + len(NOT_APPLICABLE) + len(elsewhere) == len(CASES)


@pytest.mark.parametrize("name", CALLS)
def test_the_value_and_the_gradients_are_theirs(name: str) -> None:
    case, inputs = CASES[name], tensors()
    loss = CALLS[name](inputs)
    expected = case["outputs"]
    close = {"rtol": case["rtol"], "atol": case["atol"]}
    torch.testing.assert_close(loss, torch.tensor(expected["loss"], dtype=torch.float64), **close)
    wanted = [key.removeprefix("grad_") for key in expected if key.startswith("grad_")]
    gradients = torch.autograd.grad(loss, [inputs[key] for key in wanted]) if wanted else ()
    for key, gradient in zip(wanted, gradients):
        theirs = torch.tensor(expected[f"grad_{key}"], dtype=torch.float64)
        torch.testing.assert_close(gradient, theirs, **close, msg=lambda text, key=key: f"gradient of {key}: {text}")


def test_the_repositorys_numpy_distances_between_batches_of_unequal_size() -> None:
    case = CASES["mmd.numpy_distance"]
    theirs = case["outputs"]
    a, b = (torch.tensor(theirs[key], dtype=torch.float64) for key in "ab")
    ours = {
        "linear": losses.mmd(a, b, kernel="linear"),
        "rbf": losses.mmd(a, b, bandwidths=(0.5**0.5,)),
        "poly": losses.mmd(a, b, kernel="quadratic"),
    }
    for key, value in ours.items():
        assert value.item() == pytest.approx(theirs[key], rel=case["rtol"])


@pytest.mark.parametrize(("key", "gamma"), [("gamma1", 1), ("gamma10", 10), ("deepda_gamma1", 1)])
def test_the_schedule_of_lambda(key: str, gamma: float) -> None:
    case = CASES["dann.lambda_schedule"]["outputs"]
    assert [losses.dann_lambda(p, gamma) for p in case["p"]] == pytest.approx(case[key], rel=1e-6)
    if gamma == 10:  # the paper's, and so the default
        assert losses.dann_lambda(torch.tensor(case["p"])).tolist() == pytest.approx(case[key], rel=1e-6)


def test_a_high_temperature_matches_logits() -> None:
    case, inputs = CASES["kd.hinton_high_T_limit"]["outputs"], tensors()
    loss = distil(1000.0)(inputs)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-3)
    theirs = torch.tensor(case["grad_logits_s"], dtype=torch.float64)
    torch.testing.assert_close(inputs["logits_s"].grad, theirs, rtol=5e-3, atol=1e-3)
