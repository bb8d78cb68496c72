"""Distances between two domains' distributions in a kernel's space (MMD and kin), and association."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fedtl.losses.moments import one_of, positive, same_width

Bandwidths = Literal["median", "mean"] | Sequence[float]
Over = Literal["distinct", "all", "source"]
Combination = Literal["mean", "sum"]
Estimator = Literal["biased", "unbiased", "linear", "circular"]

DAN = tuple(2 ** (k / 2 - 1) for k in range(-16, 17))
"""Multipliers for DAN's kernels exp(-d²/γ), γ from 2⁻⁸ to 2⁸ times the median d² in steps of √2."""

DSAN = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Multipliers for exp(-d²/b), b from ¼ to 4 times the mean d² in steps of 2, as DSAN's authors and TLlib have them."""


def mmd(
    source: Tensor,
    target: Tensor,
    *,
    bandwidths: Bandwidths = "median",
    multipliers: Sequence[float] = DAN,
    estimator: Estimator = "biased",
    kernels: Combination = "mean",
    over: Over = "distinct",
    kernel: Literal["gaussian", "linear", "quadratic"] = "gaussian",
    diagonal_constant: bool = False,
) -> Tensor:
    """Squared maximum mean discrepancy (Gretton et al. 2012), by default with DAN's kernels (Long et al. 2015).

    A kernel is k(x, y) = exp(-‖x - y‖² / (2σ²)).

    Args:
        source: features ``[n, d]``.
        target: features ``[m, d]``.
        bandwidths: the σs; or the statistic of d² = ‖x - y‖² that σ² is a multiple of, without gradient.
        multipliers: of the statistic: σ_u² = multiplier_u · statistic. (1,) is Gretton's heuristic.
        estimator: ``"biased"`` (Gretton's eq. 5), ``"unbiased"`` (eq. 3), ``"linear"`` (lemma 14, over pairs
            (1, 2), (3, 4), …; n = m), ``"circular"`` (TLlib's linear one: pairs (i, i + 1 mod n); n = m).
        kernels: several kernels' mean (DAN: Σβ_u = 1; the scale does not grow with their number) or sum.
        over: which pairs the statistic is of: ``"distinct"`` pairs of the pooled batch; ``"all"`` (n + m)² pairs,
            each sample with itself among them (TLlib); ``"source"``: all n² pairs of it (pytorch-adapt).
        kernel: ``"linear"`` ⟨x, y⟩ (biased: ‖µ_s - µ_t‖²) or ``"quadratic"`` ⟨x, y⟩²; neither has a bandwidth.
        diagonal_constant: add 1/(n-1) + 1/(m-1), as TLlib does to keep its unbiased estimate positive.

    Returns:
        A scalar.
    """
    one_of("mmd: kernel", kernel, "gaussian", "linear", "quadratic")
    same_width("mmd", source, target)
    pooled = torch.cat([source, target])
    if kernel == "gaussian":
        values = _gaussian("mmd", pooled, len(source), bandwidths, multipliers, kernels, over)
    else:
        values = pooled @ pooled.mT
        values = values if kernel == "linear" else values.square()
    return _estimate("mmd", values, len(source), estimator, diagonal_constant)


def joint_mmd(
    source_layers: Sequence[Tensor],
    target_layers: Sequence[Tensor],
    *,
    bandwidths: Literal["median", "mean"] | Sequence[Bandwidths] = "median",
    multipliers: Sequence[Sequence[float]] | None = None,
    estimator: Estimator = "biased",
    kernels: Combination = "mean",
    over: Over = "distinct",
    diagonal_constant: bool = False,
) -> Tensor:
    """Joint MMD: the kernel of a sample is the product of its layers' kernels (Long et al. 2017, JAN).

    Args:
        source_layers: activations ``[n, d_l]``, one a layer.
        target_layers: activations ``[m, d_l]``.
        bandwidths: one for all layers, or one a layer; see :func:`mmd`.
        multipliers: one sequence a layer; without, (½,): JAN's exp(-d²/b) with b the median d².
        estimator: see :func:`mmd`; so for the rest.
        kernels: how several kernels of one layer combine.
        over: which pairs the statistic is of.
        diagonal_constant: TLlib's constant.

    Returns:
        A scalar.
    """
    layers = len(source_layers)
    widths: Sequence[Bandwidths] = [bandwidths] * layers if isinstance(bandwidths, str) else bandwidths
    multiples = [(0.5,)] * layers if multipliers is None else multipliers
    if not layers or not layers == len(target_layers) == len(widths) == len(multiples):
        raise ValueError(
            f"joint_mmd: {layers} source layers, {len(target_layers)} target layers, {len(widths)} bandwidths and "
            f"{len(multiples)} multipliers must be as many, and at least 1"
        )
    values = None
    for source, target, width, multiple in zip(source_layers, target_layers, widths, multiples):
        same_width("joint_mmd", source, target)
        if (len(source), len(target)) != (len(source_layers[0]), len(target_layers[0])):
            raise ValueError("joint_mmd: all layers must have the same samples")
        layer = _gaussian("joint_mmd", torch.cat([source, target]), len(source), width, multiple, kernels, over)
        values = layer if values is None else values * layer
    assert values is not None
    return _estimate("joint_mmd", values, len(source_layers[0]), estimator, diagonal_constant)


def local_mmd(
    source: Tensor,
    target: Tensor,
    source_labels: Tensor,
    target_logits: Tensor,
    *,
    bandwidths: Bandwidths = "mean",
    multipliers: Sequence[float] = DSAN,
    kernels: Combination = "sum",
    over: Over = "distinct",
) -> Tensor:
    """Local MMD: the mean over classes of the MMD within a class (Zhu et al. 2021, DSAN).

    Source samples weigh by their labels, target samples by their predicted probabilities, without gradient. The
    weights of a class without samples are 0/0 in the paper; as in the authors' code, the mean is over the classes
    that the batch has among the source's labels and the target's predicted classes; 0 if there is none. The
    kernels, too, are those of the authors' code, as the paper leaves them open.

    Args:
        source: features ``[n, d]``.
        target: features ``[m, d]``.
        source_labels: ``[n]``.
        target_logits: ``[m, k]``.
        bandwidths: see :func:`mmd`; so for the rest.
        multipliers: of the statistic.
        kernels: how several combine.
        over: which pairs the statistic is of.

    Returns:
        A scalar, not multiplied by a schedule.
    """
    same_width("local_mmd", source, target)
    n, classes = len(source), target_logits.shape[-1]
    if source_labels.shape != (n,) or target_logits.shape != (len(target), classes):
        raise ValueError(
            f"local_mmd: features {list(source.shape)} and {list(target.shape)} need labels [{n}] and logits "
            f"[{len(target)}, k], not {list(source_labels.shape)} and {list(target_logits.shape)}"
        )
    logits = target_logits.detach()
    names = torch.arange(classes, device=logits.device)
    labels = (source_labels.unsqueeze(-1) == names).to(source.dtype)
    predicted = (logits.argmax(-1, keepdim=True) == names).to(source.dtype)
    present = (labels.sum(0) * predicted.sum(0) > 0).to(source.dtype)
    weights = torch.cat([_shares(labels), -_shares(logits.softmax(-1).to(source.dtype))]) * present
    values = _gaussian("local_mmd", torch.cat([source, target]), n, bandwidths, multipliers, kernels, over)
    return (weights @ weights.mT * values).sum() / present.sum().clamp_min(1)


def associative(
    source: Tensor,
    target: Tensor,
    labels: Tensor,
    *,
    walker: float = 1.0,
    visit: float = 1.0,
    eps: float = 1e-8,
    divergence: Literal["cross_entropy", "kl"] = "cross_entropy",
) -> Tensor:
    """Association (Haeusser et al. 2017): a walk source -> target -> source ends in the class it began in.

    Args:
        source: embeddings ``[n, d]``.
        target: embeddings ``[m, d]``.
        labels: the source's, ``[n]``.
        walker: weight of the walk's cross-entropy.
        visit: weight of the cross-entropy that has each target visited equally often.
        eps: is added to probabilities before the logarithm, as in the authors' code.
        divergence: ``"kl"`` subtracts the entropies of what is wanted, constants, as salad does.

    Returns:
        A scalar.
    """
    one_of("associative: divergence", divergence, "cross_entropy", "kl")
    same_width("associative", source, target)
    if labels.shape != source.shape[:1]:
        raise ValueError(f"associative: features {list(source.shape)} need labels [n], not {list(labels.shape)}")
    similarities = source @ target.mT
    there = similarities.softmax(1)
    back = there @ similarities.mT.softmax(1)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)).to(source.dtype)
    ends = same / same.sum(1, keepdim=True)
    visits = torch.full_like(there[0], 1 / len(target))
    value = -walker * (ends * (back + eps).log()).sum(1).mean() - visit * (visits * (there.mean(0) + eps).log()).sum()
    if divergence == "kl":
        value = value + walker * torch.xlogy(ends, ends).sum(1).mean() + visit * torch.xlogy(visits, visits).sum()
    return value


def _shares(weights: Tensor) -> Tensor:
    """``[n, k]`` with each column divided by its sum; a column of zeros stays."""
    total = weights.sum(0)
    return weights / torch.where(total > 0, total, 1)


def _gaussian(
    loss: str,
    pooled: Tensor,
    n: int,
    bandwidths: Bandwidths,
    multipliers: Sequence[float],
    kernels: Combination,
    over: Over,
) -> Tensor:
    """The kernels' mean or sum at each pair of the pooled batch, of which n come from the source: ``[n+m, n+m]``."""
    one_of(f"{loss}: kernels", kernels, "mean", "sum")
    one_of(f"{loss}: over", over, "distinct", "all", "source")
    # Distances do not depend on the origin; about the mean, the squares below lose the fewest digits.
    centred = pooled - pooled.mean(0).detach()
    squares = centred.square().sum(1)
    d2 = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * centred @ centred.mT
    others = 1 - torch.eye(len(pooled), dtype=d2.dtype, device=d2.device)
    d2 = d2.clamp_min(0) * others
    if isinstance(bandwidths, str):
        one_of(f"{loss}: bandwidths", bandwidths, "median", "mean")
        variances = _statistic(d2.detach(), n, bandwidths, over) * _numbers(f"{loss}: multipliers", multipliers, d2)
    else:
        variances = _numbers(f"{loss}: bandwidths", bandwidths, d2).square()
    values = torch.exp(d2 / (-2 * variances.view(-1, 1, 1)))
    return values.mean(0) if kernels == "mean" else values.sum(0)


def _statistic(d2: Tensor, n: int, statistic: str, over: Over) -> Tensor:
    """The mean or (lower) median d²; 1 where that is 0, so that samples that all coincide have finite kernels."""
    if over == "distinct":
        i, j = torch.triu_indices(len(d2), len(d2), 1, device=d2.device)
        values = d2[i, j]
    else:
        values = d2.flatten() if over == "all" else d2[:n, :n].flatten()
    bandwidth = values.mean() if statistic == "mean" else values.median(-1).values
    return torch.where(bandwidth > torch.finfo(d2.dtype).tiny ** 0.5, bandwidth, 1)


def _numbers(option: str, values: Sequence[float], like: Tensor) -> Tensor:
    """``[u]``; all must be positive."""
    if not values:
        raise ValueError(f"{option} must name one number or more")
    for value in values:
        positive(option, value)
    return torch.tensor(list(values), dtype=like.dtype, device=like.device)


def _estimate(loss: str, values: Tensor, n: int, estimator: Estimator, diagonal_constant: bool) -> Tensor:
    """E k(s, s') + E k(t, t') - 2 E k(s, t), from the kernel at each pair of the pooled batch."""
    one_of(f"{loss}: estimator", estimator, "biased", "unbiased", "linear", "circular")
    m = len(values) - n
    if estimator in ("linear", "circular") and n != m:
        raise ValueError(f"{loss}: estimator = {estimator!r} needs batches of equal size, not {n} and {m}")
    if min(n, m) < 2 and (estimator != "biased" or diagonal_constant):
        raise ValueError(f"{loss}: estimator = {estimator!r} needs batches of 2 or more, not {n} and {m}")
    ss, tt, st = values[:n, :n], values[n:, n:], values[:n, n:]
    if estimator == "biased":
        value = ss.mean() + tt.mean() - 2 * st.mean()
    elif estimator == "unbiased":
        within = (ss.sum() - ss.trace()) / (n * (n - 1)) + (tt.sum() - tt.trace()) / (m * (m - 1))
        value = within - 2 * st.mean()
    else:
        value = (
            _pairs(ss, estimator) + _pairs(tt, estimator) - _pairs(st, estimator) - _pairs(st.mT, estimator)
        ).mean()
    return value + (1 / (n - 1) + 1 / (m - 1)) if diagonal_constant else value


def _pairs(values: Tensor, estimator: str) -> Tensor:
    """``[n, n]`` at (1, 2), (3, 4), …, or at (i, i + 1 mod n)."""
    if estimator == "circular":
        return values.roll(-1, 1).diagonal()
    even = len(values) // 2 * 2
    return values[0:even:2, 1:even:2].diagonal()
