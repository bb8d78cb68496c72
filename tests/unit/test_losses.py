"""Losses by themselves: mapped over clients, in both precisions, recorded, at their edges, and by closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import normalize

import fedtl.losses
from fedtl.losses import (
    adda_discriminator,
    adda_mapping,
    associative,
    barlow_twins,
    bnm,
    central_moments,
    cmd,
    cmd_to_moments,
    conditioned,
    coral,
    coral_to_moments,
    dann_lambda,
    distillation,
    domain_adversarial,
    entropy,
    entropy_weights,
    generalized_cross_entropy,
    gradient_reversal,
    invariant_spreading,
    joint_mmd,
    l2_sp,
    local_mmd,
    mcc,
    mean_and_covariance,
    mmd,
    moon,
    negative_cosine,
    not_true_distillation,
    nt_xent,
    prototype,
    proximal,
    vicreg,
)
from fedtl.tracing.tape import trace
from tests.unit.test_tracing import evaluate


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Case(NamedTuple):
    """A loss and the shapes of what it is of; ``classes`` where labels ``[n]`` are the last argument."""

    loss: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    classes: int = 0
    labels: int = 0


D = ((6, 4), (5, 4))  # two domains' features, of unequal size
E = ((6, 4), (6, 4))
K = ((6, 3),)
L = ((6, 1), (5,))  # a discriminator's logits

CASES: dict[str, Case] = {
    "mmd": Case(mmd, D),
    "mmd mean": Case(lambda s, t: mmd(s, t, bandwidths="mean", multipliers=(1, 2), over="all", kernels="sum"), D),
    "mmd source": Case(lambda s, t: mmd(s, t, over="source", estimator="unbiased"), D),
    "mmd fixed": Case(lambda s, t: mmd(s, t, bandwidths=(1.0, 2.0), estimator="unbiased", diagonal_constant=True), D),
    "mmd linear": Case(lambda s, t: mmd(s, t, estimator="linear"), ((5, 4), (5, 4))),
    "mmd circular": Case(lambda s, t: mmd(s, t, estimator="circular"), ((5, 4), (5, 4))),
    "mmd linear kernel": Case(lambda s, t: mmd(s, t, kernel="linear"), D),
    "mmd quadratic kernel": Case(lambda s, t: mmd(s, t, kernel="quadratic"), D),
    "joint_mmd": Case(lambda a, b, c, d: joint_mmd([a, b], [c, d]), ((6, 4), (6, 3), (5, 4), (5, 3))),
    "local_mmd": Case(lambda s, t, g, y: local_mmd(s, t, y, g), (*D, (5, 3)), classes=3, labels=6),
    "associative": Case(associative, D, classes=3, labels=6),
    "associative kl": Case(lambda s, t, y: associative(s, t, y, divergence="kl"), D, classes=3, labels=6),
    "coral": Case(coral, D),
    "coral mean": Case(lambda s, t: coral(s, t, variant="mean"), D),
    "coral_to_moments": Case(
        lambda t, m, c: coral_to_moments(t, m, c) + coral_to_moments(t, m, c, variant="mean"), ((5, 4), (4,), (4, 4))
    ),
    "mean_and_covariance": Case(lambda x: torch.cat([y.flatten() for y in mean_and_covariance(x)]).norm(), ((5, 4),)),
    "cmd": Case(lambda s, t: cmd(s.sigmoid(), t.sigmoid()), D),
    "cmd_to_moments": Case(lambda t, m: cmd_to_moments(t, m, interval=(-1, 1)), ((5, 4), (3, 4))),
    "central_moments": Case(lambda x: central_moments(x, 4).square().sum(), ((5, 4),)),
    "domain_adversarial": Case(domain_adversarial, L),
    "domain_adversarial pooled": Case(
        lambda s, t: domain_adversarial(s, t, source_label=1, reduction="pooled", source_weights=s.squeeze(1)), L
    ),
    "gradient_reversal": Case(lambda x, lam: gradient_reversal(x, lam).square().sum(), ((6, 4), ())),
    "dann_lambda": Case(dann_lambda, ((),)),
    "conditioned": Case(lambda f, g: conditioned(f, g).square().sum(), ((6, 4), (6, 3))),
    "entropy_weights": Case(lambda g: entropy_weights(g).square().sum(), K),
    "adda_discriminator": Case(adda_discriminator, L),
    "adda_mapping": Case(adda_mapping, L[:1]),
    "adda_mapping both": Case(lambda s, t: adda_mapping(t, source_logits=s, source_label=0), L),
    "bnm": Case(bnm, K),
    "bnm mean": Case(lambda g: bnm(g, variant="mean"), ((3, 6),)),
    "mcc": Case(mcc, K),
    "entropy": Case(entropy, K),
    "entropy eps": Case(lambda g: entropy(g, eps=1e-5), K),
    "generalized_cross_entropy": Case(generalized_cross_entropy, K),
    "generalized_cross_entropy labels": Case(lambda g, y: generalized_cross_entropy(g, 0.5, y), K, classes=3, labels=6),
    "distillation": Case(lambda s, t: distillation(s, t, temperature=3), ((6, 3), (6, 3))),
    "not_true_distillation": Case(
        lambda s, t: not_true_distillation(s, t, torch.arange(6) % 3, temperature=3), ((6, 3), (6, 3))
    ),
    "barlow_twins": Case(barlow_twins, E),
    "nt_xent": Case(nt_xent, E),
    # Its views are of length 1; with longer ones it subtracts what is nearly 1 from 1.
    "invariant_spreading": Case(lambda a, b: invariant_spreading(normalize(a), normalize(b)), E),
    "invariant_spreading authors": Case(
        lambda a, b: invariant_spreading(normalize(a), normalize(b), tau=2, variant="authors"), E
    ),
    "vicreg": Case(vicreg, E),
    "negative_cosine": Case(negative_cosine, E),
    "moon": Case(moon, (*E, (6, 4))),
    "prototype": Case(prototype, ((6, 4), (3, 4)), classes=3, labels=6),
    "prototype seen": Case(
        lambda z, p, y: prototype(z, p, y, seen=torch.tensor([True, False, True])), ((6, 4), (3, 4)), 3, 6
    ),
    "proximal": Case(lambda w, a: proximal(w, a, 0.3), E),
    "proximal several": Case(lambda w, v, a, b: proximal([w, v], (a, b), 0.3, variant="root"), ((6, 4), (2,)) * 2),
    "l2_sp": Case(lambda w, a, h: l2_sp(w, a, 0.3, head=[h], beta=0.2), (*E, (3,))),
}


def inputs_of(case: Case, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    inputs = [numbers(seed + 7 * i, *shape, dtype=dtype) for i, shape in enumerate(case.shapes)]
    if case.labels:
        inputs.append(torch.randint(case.classes, (case.labels,), generator=torch.Generator().manual_seed(seed)))
    return inputs


def differentiated(case: Case) -> Callable[..., tuple[Tensor, ...]]:
    return grad(case.loss, argnums=tuple(range(len(case.shapes))))


def test_every_public_loss_is_tried() -> None:
    elsewhere = {"class_impression_objective", "dafl_generator_losses", "zskd_concentration"}
    assert {name.split()[0] for name in CASES} | elsewhere == set(fedtl.losses.__all__)


def value_and_gradients(case: Case, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [case.loss(*inputs), *differentiated(case)(*inputs)]


def rounding(case: Case, inputs: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """By how much single precision may be off, for the value and each gradient, from the condition of each.

    Rounding an input changes it by a relative 2^-24 at most. By how much that moves a result is seen in double
    precision, with changes large enough to measure. The operations in between round as well, in an order that is
    the processor's, each at most like a rounding of what it is given: they are taken for 64 roundings of the inputs.
    """
    change, most = 1e-6, [0.0] * len(exact)
    for seed in range(4):
        moved = [
            x * (1 + change * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).double() - 1))
            if x.is_floating_point()
            else x
            for x in inputs
        ]
        for i, (a, b) in enumerate(zip(value_and_gradients(case, moved), exact)):
            most[i] = max(most[i], float((a - b).abs().max()) / change)
    return [64 * 2**-24 * each for each in most]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_mapped_over_clients_each_has_its_own_value_and_gradients(name: str, dtype: torch.dtype) -> None:
    """Mapped, by functional and by plain autograd, in both precisions: what double precision gives."""
    case = CASES[name]
    clients = [inputs_of(case, seed, dtype) for seed in (1, 100, 200)]
    stacked = [torch.stack(inputs) for inputs in zip(*clients)]
    mapped = [vmap(case.loss)(*stacked), *vmap(differentiated(case))(*stacked)]
    for i, inputs in enumerate(clients):
        wide = [x.double() if x.is_floating_point() else x for x in inputs]
        exact = value_and_gradients(case, wide)
        # Sums of numbers near 1 that cancel are off by some 2^-24 too: the absolute part of assert_close's default.
        limits = [1e-5 + off for off in rounding(case, wide, exact)] if dtype == torch.float32 else [1e-7] * len(exact)
        leaves = [x.requires_grad_() if x.is_floating_point() else x for x in map(torch.clone, inputs)]
        value = case.loss(*leaves)
        wanted = leaves[: len(case.shapes)]
        slopes = torch.autograd.grad(value, wanted, allow_unused=True)
        plain = [torch.zeros_like(x) if slope is None else slope for x, slope in zip(wanted, slopes)]
        for results in ([each[i] for each in mapped], value_and_gradients(case, inputs), [value.detach(), *plain]):
            for each, right, limit in zip(results, exact, limits, strict=True):
                assert each.dtype == dtype
                rtol = torch.finfo(dtype).eps * 16
                torch.testing.assert_close(each.double(), right, rtol=rtol, atol=limit)


CONSTANT_PARTS = {"local_mmd", "mcc", "mmd", "mmd mean", "mmd source", "mmd linear", "mmd circular", "joint_mmd"}
REVERSED = {"gradient_reversal", "invariant_spreading authors"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - CONSTANT_PARTS - REVERSED))
def test_gradients_are_the_slopes(name: str) -> None:
    case = CASES[name]
    inputs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs_of(case, 5)]
    assert torch.autograd.gradcheck(case.loss, inputs)


@pytest.mark.parametrize("name", CASES)
def test_a_recording_of_the_mapped_gradient_holds_for_other_numbers(name: str) -> None:
    case = CASES[name]
    first, second = ([torch.stack(x) for x in zip(inputs_of(case, s), inputs_of(case, s + 50))] for s in (1, 300))

    def function(**inputs: Tensor) -> Any:
        leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs.values()]
        values = vmap(case.loss)(*leaves)
        wanted = leaves[: len(case.shapes)]
        gradients = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
        return values.detach(), [g for g in gradients if g is not None]

    def named(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return {f"x{i}": x for i, x in enumerate(tensors)}

    graph = trace(function, named(first))
    values, gradients = function(**named(second))
    torch.testing.assert_close(evaluate(graph, named(second)), [values, *gradients])


# Edges.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["zeros", "equal rows", "equal arguments", "large", "one class", "one feature"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_finite_at_the_edges(name: str, kind: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    inputs = inputs_of(case, 9, dtype)
    floats = range(len(case.shapes))
    if kind == "zeros":
        inputs = [torch.zeros_like(x) for x in inputs]
    elif kind == "equal rows":
        inputs = [x[:1].expand_as(x).clone() if x.dim() and i in floats else x for i, x in enumerate(inputs)]
    elif kind == "equal arguments":
        inputs = [numbers(9, *x.shape, dtype=dtype) if i in floats else x for i, x in enumerate(inputs)]
    elif kind == "large":
        inputs = [x * 1e4 if i in floats else x for i, x in enumerate(inputs)]
    elif kind == "one class":
        inputs = [x if i in floats else torch.zeros_like(x) for i, x in enumerate(inputs)]
        if case.shapes[-1][-1:] == (3,):
            inputs[len(case.shapes) - 1][..., 1:] -= 1e4
    else:
        for i in floats:
            if inputs[i].dim():
                inputs[i][..., 1:] = 0  # dead, as after a ReLU
    assert case.loss(*inputs).isfinite()
    for gradient in differentiated(case)(*inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_domains_are_at_distance_0(dtype: torch.dtype) -> None:
    x, labels, logits = numbers(1, 6, 4, dtype=dtype), torch.arange(6) % 3, numbers(2, 6, 3, dtype=dtype)
    values = [
        mmd(x, x),
        mmd(x, x, bandwidths=[(2 * gamma) ** -0.5 for gamma in (0.001, 1, 1000)]),
        mmd(x, x, kernel="linear"),
        joint_mmd([x, x], [x, x]),
        local_mmd(x, x, labels, 1e3 * torch.eye(3, dtype=dtype)[labels]),
        coral(x, x),
        coral(x, x, variant="mean"),
        cmd(x, x),
        distillation(logits, logits, temperature=2),
        proximal(x, x, 1),
        proximal(x, x, 1, variant="root"),
        l2_sp(x, x, 1),
        prototype(x, x, torch.arange(6)),
    ]
    for value in values:
        assert value.item() == pytest.approx(0, abs=2e-5 if dtype == torch.float32 else 1e-12)


def test_distances_of_zero_have_gradient_zero() -> None:
    x = numbers(1, 6, 4)
    for loss in (lambda y: cmd(y, x), lambda y: proximal(y, x, 1, variant="root"), lambda y: coral(y, x)):
        assert grad(loss)(x).abs().max() < 1e-14


def test_a_class_without_samples_or_a_prototype_counts_nothing() -> None:
    s, t, labels = numbers(1, 4, 2), numbers(2, 3, 2), torch.tensor([0, 0, 0, 0])
    logits = torch.tensor([[0.0, 50, 0]] * 3, dtype=torch.float64)  # the target predicts another class
    assert local_mmd(s, t, labels, logits) == 0
    prototypes = torch.stack([s[0] + 1, torch.full((2,), math.nan)])
    seen = torch.tensor([True, False])
    rows = torch.tensor([0, 1, 1, 1])
    assert prototype(s, prototypes, rows, seen=seen).item() == pytest.approx(0.25)
    gradient = grad(lambda z: prototype(z, prototypes, rows, seen=seen))(s)
    torch.testing.assert_close(gradient[0], torch.full((2,), -0.25, dtype=torch.float64))
    assert (gradient[1:] == 0).all()


# Closed forms.


def test_mmd_of_two_points() -> None:
    a, b = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert mmd(a, b, bandwidths=(5.0,)).item() == pytest.approx(2 - 2 * math.exp(-0.5))
    assert mmd(a, b, multipliers=(1,)).item() == pytest.approx(2 - 2 * math.exp(-0.5))  # σ: the median distance, 5
    mixed = mmd(a, b, bandwidths=(5.0, 10.0))
    assert mixed.item() == pytest.approx(2 - math.exp(-0.5) - math.exp(-1 / 8))
    assert mmd(a, b, bandwidths=(5.0, 10.0), kernels="sum").item() == pytest.approx(2 * mixed.item())
    assert mmd(a, b, kernel="linear").item() == pytest.approx(25)
    assert joint_mmd([a, a], [b, b]).item() == pytest.approx(2 - 2 * math.exp(-2))  # JAN: exp(-d²/median d²) twice


def test_the_unbiased_estimate_leaves_out_each_sample_with_itself() -> None:
    s, t = numbers(1, 5, 3), numbers(2, 4, 3)

    def k(x: Tensor, y: Tensor) -> float:
        return math.exp(-(x - y).square().sum().item() / 8)

    ss = sum(k(s[i], s[j]) for i in range(5) for j in range(5) if i != j) / 20
    tt = sum(k(t[i], t[j]) for i in range(4) for j in range(4) if i != j) / 12
    st = sum(k(x, y) for x in s for y in t) / 20
    assert mmd(s, t, bandwidths=(2.0,), estimator="unbiased").item() == pytest.approx(ss + tt - 2 * st)


def test_mmd_does_not_depend_on_the_origin() -> None:
    s, t = numbers(1, 5, 3, dtype=torch.float32), numbers(2, 4, 3, dtype=torch.float32)
    assert mmd(s + 1000, t + 1000).item() == pytest.approx(mmd(s, t).item(), rel=1e-3)


def test_moments_that_came_from_elsewhere_stand_for_a_domain() -> None:
    s, t = numbers(1, 6, 4), numbers(2, 5, 4)
    mean, covariance = mean_and_covariance(s)
    torch.testing.assert_close(covariance, torch.cov(s.T))
    torch.testing.assert_close(coral_to_moments(t, mean, covariance, variant="mean"), coral(s, t, variant="mean"))
    torch.testing.assert_close(cmd_to_moments(t, central_moments(s, 5)), cmd(s, t))
    twice = cmd(2 * s, 2 * t, interval=(0, 2))  # in units of the interval it is the same
    torch.testing.assert_close(twice, cmd(s, t))


def test_the_domain_classifiers_loss_is_the_sum_of_two_means() -> None:
    s, t = torch.tensor([[0.0], [2.0]]), torch.tensor([-1.0])

    def wrong(z: float) -> float:
        return math.log1p(math.exp(z))

    expected = (wrong(0) + wrong(2)) / 2 + wrong(1)  # the source is 0
    assert domain_adversarial(s, t).item() == pytest.approx(expected)
    assert domain_adversarial(s, t, reduction="mean").item() == pytest.approx(expected / 2)
    pooled = (wrong(0) + wrong(2) + wrong(1)) / 3
    assert domain_adversarial(s, t, reduction="pooled").item() == pytest.approx(pooled)
    weighted = domain_adversarial(s, t, source_weights=torch.tensor([2.0, 0.0]), target_weights=torch.tensor([3.0]))
    assert weighted.item() == pytest.approx(wrong(0) + 3 * wrong(1))
    assert adda_discriminator(-s, -t).item() == pytest.approx(expected)  # the source is 1
    assert adda_mapping(t).item() == pytest.approx(wrong(1))  # and so the target is to be called
    assert adda_mapping(t, source_label=0).item() == pytest.approx(wrong(-1))


@pytest.mark.parametrize("lam", [0.0, 0.3, torch.tensor(2.0)])
def test_gradient_reversal_changes_the_gradient_alone(lam: float | Tensor) -> None:
    x = numbers(1, 7, 3, dtype=torch.float32) * 1e5
    assert torch.equal(gradient_reversal(x, lam), x)
    torch.testing.assert_close(grad(lambda x: (3 * gradient_reversal(x, lam)).sum())(x), torch.ones(7, 3) * -3 * lam)


def test_conditioned_is_the_outer_product() -> None:
    f, g = numbers(1, 2, 3), numbers(2, 2, 4)
    torch.testing.assert_close(conditioned(f, g)[1], torch.outer(f[1], g[1].softmax(0)).flatten())


def test_certain_and_uncertain_predictions() -> None:
    even, certain = torch.zeros(4, 4), 1e4 * torch.eye(4)
    assert entropy(even).item() == pytest.approx(math.log(4))
    assert entropy(certain).item() == 0
    assert entropy_weights(even).tolist() == pytest.approx([1.25] * 4)
    assert entropy_weights(certain).tolist() == [2] * 4
    assert bnm(certain).item() == pytest.approx(-1)
    assert bnm(certain[:2]).item() == pytest.approx(-1)
    assert bnm(even).item() == pytest.approx(-1 / 4)
    assert mcc(certain).item() == pytest.approx(0)
    assert mcc(even).item() == pytest.approx(3 / 4)
    assert generalized_cross_entropy(even, 0.5).item() == pytest.approx((1 - 0.25**0.5) / 0.5)
    labels = torch.tensor([1, 0, 0, 0])
    assert generalized_cross_entropy(certain, 1.0, labels).item() == pytest.approx(1)


def test_distillation_of_certain_teachers_is_cross_entropy() -> None:
    logits, labels = numbers(1, 5, 3), torch.tensor([0, 2, 1, 1, 0])
    teacher = 1e4 * torch.eye(3, dtype=torch.float64)[labels]
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(distillation(logits, teacher, temperature=1), expected)


def test_two_equal_views() -> None:
    eye = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    eye = eye - eye.mean(0)
    assert barlow_twins(eye, eye).item() == pytest.approx(0)  # its features are uncorrelated
    assert barlow_twins(eye, -eye).item() == pytest.approx(3 * 4)
    assert negative_cosine(eye, 5 * eye).item() == pytest.approx(-1)
    assert moon(eye, eye, -eye, tau=0.5).item() == pytest.approx(math.log1p(math.exp(-4)))
    assert nt_xent(eye[:2], eye[:2], tau=1).item() == pytest.approx(math.log(1 + 2 / math.e))
    one = eye[:1]
    assert invariant_spreading(one, one).item() == pytest.approx(0)
    assert invariant_spreading(one, one, variant="authors").item() == pytest.approx(0)
    assert vicreg(eye, eye, mu=0, nu=0).item() == 0
    shifted = vicreg(eye, eye + 2, mu=0, nu=0)
    assert shifted.item() == pytest.approx(25 * 3 * 4)
    assert vicreg(eye, eye + 2, mu=0, nu=0, variant="authors").item() == pytest.approx(25 * 4)


def test_the_proximal_terms() -> None:
    w, anchor = [torch.tensor([3.0]), torch.tensor([[4.0]])], [torch.zeros(1), torch.zeros(1, 1)]
    assert proximal(w, anchor, 0.2).item() == pytest.approx(2.5)
    assert proximal(w, anchor, 0.2, variant="root").item() == pytest.approx(0.5)
    assert l2_sp(w, anchor, 0.2).item() == pytest.approx(2.5)
    assert l2_sp(w, anchor, 0.2, head=torch.tensor([2.0]), beta=3).item() == pytest.approx(8.5)
    grads = grad(lambda w: proximal(w, anchor, 0.2))(w)
    assert [g.item() for g in grads] == pytest.approx([0.6, 0.8])


# Refusals.

X, Y, G, ONE = numbers(1, 6, 4), numbers(2, 5, 4), numbers(3, 6, 3), numbers(4, 1, 4)
WRONG = numbers(5, 6, 3)
LABELS = torch.zeros(6, dtype=torch.int64)
ANY: Any = "other"

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "mmd estimator": (lambda: mmd(X, Y, estimator=ANY), "estimator = 'other' must be one of 'biased'"),
    "mmd bandwidths": (lambda: mmd(X, Y, bandwidths=ANY), "bandwidths = 'other' must be one of 'median'"),
    "mmd kernels": (lambda: mmd(X, Y, kernels=ANY), "kernels = 'other'"),
    "mmd over": (lambda: mmd(X, Y, over=ANY), "over = 'other'"),
    "mmd kernel": (lambda: mmd(X, Y, kernel=ANY), "kernel = 'other'"),
    "mmd negative": (lambda: mmd(X, Y, bandwidths=(1.0, -1.0)), "bandwidths = -1.0 must be positive"),
    "mmd none": (lambda: mmd(X, Y, multipliers=()), "multipliers must name one number or more"),
    "mmd unequal": (lambda: mmd(X, Y, estimator="linear"), "needs batches of equal size, not 6 and 5"),
    "mmd single": (lambda: mmd(X, ONE, estimator="unbiased"), "needs batches of 2 or more, not 6 and 1"),
    "mmd shape": (lambda: mmd(X, WRONG), r"not \[6, 4\] and \[6, 3\]"),
    "mmd dims": (lambda: mmd(X[0], X), r"two matrices \[n, d\] and \[m, d\]"),
    "joint layers": (lambda: joint_mmd([X, X], [Y]), "2 source layers, 1 target layers"),
    "joint samples": (lambda: joint_mmd([X, Y], [X, X]), "all layers must have the same samples"),
    "local labels": (lambda: local_mmd(X, Y, LABELS[:2], numbers(1, 5, 3)), r"need labels \[6\] and logits \[5, k\]"),
    "associative labels": (lambda: associative(X, Y, LABELS[:2]), r"need labels \[n\]"),
    "associative": (lambda: associative(X, Y, LABELS, divergence=ANY), "divergence = 'other'"),
    "coral variant": (lambda: coral(X, Y, variant=ANY), "variant = 'other' must be one of 'paper', 'mean'"),
    "coral single": (lambda: coral(X, ONE), "batches of 2 or more"),
    "coral moments": (lambda: coral_to_moments(X, X[0], X), r"a mean \[4\] and a covariance \[4, 4\]"),
    "cmd moments": (lambda: cmd(X, Y, moments=0), "moments = 0 must be 1 or more"),
    "cmd interval": (lambda: cmd(X, Y, interval=(1, 0)), r"must be \(a, b\) with a < b"),
    "cmd shape": (lambda: cmd_to_moments(X, WRONG), r"need moments \[K, d\]"),
    "dann reduction": (lambda: domain_adversarial(X[:, 0], Y[:, 0], reduction=ANY), "reduction = 'other'"),
    "dann label": (lambda: domain_adversarial(X[:, 0], Y[:, 0], source_label=ANY), "label = 'other' must be 0 or 1"),
    "dann logits": (lambda: domain_adversarial(X, Y), r"logits are \[n\] or \[n, 1\], not \[6, 4\]"),
    "dann weights": (lambda: domain_adversarial(X[:, 0], Y[:, 0], source_weights=Y[:, 0]), r"need weights \[6\]"),
    "conditioned": (lambda: conditioned(Y, G), r"features \[n, d\] and logits \[n, k\]"),
    "bnm": (lambda: bnm(G, variant=ANY), "variant = 'other'"),
    "mcc": (lambda: mcc(G, temperature=0), "temperature = 0 must be positive"),
    "entropy": (lambda: entropy(G[0]), r"logits \[n, k\] are needed"),
    "gce q": (lambda: generalized_cross_entropy(G, 0), "q = 0 must be above 0"),
    "gce labels": (lambda: generalized_cross_entropy(G, labels=LABELS[:2]), r"need labels \[n\]"),
    "distillation": (lambda: distillation(G, X, temperature=1), r"not \[6, 3\] and \[6, 4\]"),
    "temperature": (lambda: distillation(G, G, temperature=0), "temperature = 0 must be positive"),
    "barlow": (lambda: barlow_twins(X, Y), "two batches of equal size"),
    "isif": (lambda: invariant_spreading(X, X, variant=ANY), "variant = 'other'"),
    "vicreg": (lambda: vicreg(X, X, variant=ANY), "variant = 'other'"),
    "nt_xent": (lambda: nt_xent(X, X, tau=0), "tau = 0 must be positive"),
    "moon": (lambda: moon(X, X, Y), "two batches of equal size"),
    "prototype": (lambda: prototype(X, WRONG, LABELS), r"with the same d"),
    "prototype labels": (lambda: prototype(X, Y, LABELS[:2]), r"need labels \[6\]"),
    "proximal": (lambda: proximal(X, Y, 1), "must have the same shapes"),
    "proximal variant": (lambda: proximal(X, X, 1, variant=ANY), "variant = 'other'"),
    "l2_sp": (lambda: l2_sp([X], [X, Y], 1), "must have the same shapes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
