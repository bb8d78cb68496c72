"""Two views of the same samples, ``z_a`` and ``z_b`` ``[n, d]``, row by row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedtl.losses.moments import one_of, positive, same_width, unit


def barlow_twins(z_a: Tensor, z_b: Tensor, *, lam: float = 0.0051, eps: float = 0.0) -> Tensor:
    """Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij², C the views' cross-correlation (Zbontar et al. 2021, eq. 1-2).

    Args:
        z_a: ``[n, d]``, n >= 2.
        z_b: ``[n, d]``.
        lam: λ.
        eps: is added to variances; 1e-5 in the authors' code, which has a batch-norm there.

    Returns:
        A scalar. A feature that is constant has correlation 0.
    """
    same_width("barlow_twins", z_a, z_b, least=2, equal=True)
    c = _standardised(z_a, eps).mT @ _standardised(z_b, eps) / len(z_a)
    diagonal = c.diagonal()
    # What is off the diagonal is masked, not subtracted: near a perfect match the difference would be rounding.
    others = c * (1 - torch.eye(len(c), dtype=c.dtype, device=c.device))
    return (1 - diagonal).square().sum() + lam * others.square().sum()


def nt_xent(z_a: Tensor, z_b: Tensor, *, tau: float = 0.5) -> Tensor:
    """SimCLR's loss: among the 2n - 1 other views, find one's partner (Chen et al. 2020, eq. 1).

    Args:
        z_a: ``[n, d]``.
        z_b: ``[n, d]``.
        tau: temperature of the cosine similarities.

    Returns:
        A scalar, the mean over the 2n views.
    """
    same_width("nt_xent", z_a, z_b, equal=True)
    positive("nt_xent: tau", tau)
    z = unit(torch.cat([z_a, z_b]))
    similarities = z @ z.mT / tau
    n = len(z_a)
    partners = similarities.roll(-n, 1).diagonal()
    return (_without_self(similarities).logsumexp(1) - partners).mean()


def invariant_spreading(
    features: Tensor, augmented: Tensor, *, tau: float = 0.1, variant: Literal["paper", "authors"] = "paper"
) -> Tensor:
    """A view is recognised as its sample, and other samples are not (Ye et al. 2019, eq. 6-10).

    With P(i|x) = exp(f_i·f(x)/τ) / Σ_k exp(f_k·f(x)/τ):
    -Σ_i log P(i|x̂_i) - Σ_i Σ_{j≠i} log(1 - P(i|x_j)).

    Args:
        features: f, rows of length 1, ``[n, d]``.
        augmented: f̂ of the same samples, rows of length 1, ``[n, d]``.
        tau: τ.
        variant: ``"authors"`` is their code: each of the 2n views is recognised among the 2n - 1 others, its
            partner being right, and the others are a constant to the gradient; mean over the 2n views.

    Returns:
        A scalar; the paper's is a sum over the batch.
    """
    one_of("invariant_spreading: variant", variant, "paper", "authors")
    same_width("invariant_spreading", features, augmented, equal=True)
    positive("invariant_spreading: tau", tau)
    n = len(features)
    if variant == "authors":
        views = torch.cat([features, augmented])
        log_p = _without_self(views @ views.detach().mT / tau).log_softmax(1)  # row: who is to be recognised
        likelihood = log_p.roll(-n, 1).diagonal().sum()
        partner = torch.eye(2 * n, dtype=log_p.dtype, device=log_p.device).roll(n, 1)
        own = torch.eye(2 * n, dtype=log_p.dtype, device=log_p.device)
        return -(likelihood + (_log_complement(log_p) * (1 - partner - own)).sum()) / (2 * n)
    likelihood = (augmented @ features.mT / tau).log_softmax(1).diagonal().sum()
    log_p = (features @ features.mT / tau).log_softmax(1)  # row j, column i: log P(i|x_j)
    others = 1 - torch.eye(n, dtype=log_p.dtype, device=log_p.device)
    return -likelihood - (_log_complement(log_p) * others).sum()


def vicreg(
    z_a: Tensor,
    z_b: Tensor,
    *,
    lam: float = 25.0,
    mu: float = 25.0,
    nu: float = 1.0,
    eps: float = 1e-4,
    variant: Literal["paper", "authors"] = "paper",
) -> Tensor:
    """Variance, invariance, covariance (Bardes et al. 2022, eq. 1-6).

    λ·s + µ·(v(z_a) + v(z_b)) + ν·(c(z_a) + c(z_b)): s the mean ‖z_a - z_b‖², v the mean of max(0, 1 - std), c the
    sum of squared covariances of different features, divided by d.

    Args:
        z_a: ``[n, d]``, n >= 2.
        z_b: ``[n, d]``.
        lam: λ.
        mu: µ.
        nu: ν.
        eps: is added to variances.
        variant: ``"authors"`` is their code, and lightly's: s is divided by d, too, and v by 2.

    Returns:
        A scalar.
    """
    one_of("vicreg: variant", variant, "paper", "authors")
    positive("vicreg: eps", eps)
    same_width("vicreg", z_a, z_b, least=2, equal=True)
    n, d = z_a.shape
    invariance = (z_a - z_b).square().sum() / n
    variance, covariance = z_a.new_zeros(()), z_a.new_zeros(())
    for z in (z_a, z_b):
        c = (z - z.mean(0)).mT @ (z - z.mean(0)) / (n - 1)
        others = c * (1 - torch.eye(d, dtype=c.dtype, device=c.device))
        variance = variance + (1 - (c.diagonal() + eps).sqrt()).relu().mean()
        covariance = covariance + others.square().sum() / d
    if variant == "authors":
        invariance, variance = invariance / d, variance / 2
    return lam * invariance + mu * variance + nu * covariance


def negative_cosine(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Minus the views' mean cosine similarity (Chen & He 2021, SimSiam, eq. 1).

    SimSiam's loss is ½ negative_cosine(p_a, z_b.detach()) + ½ negative_cosine(p_b, z_a.detach()).

    Args:
        z_a: ``[n, d]``.
        z_b: ``[n, d]``.

    Returns:
        A scalar; a row of zeros has similarity 0.
    """
    same_width("negative_cosine", z_a, z_b, equal=True)
    return -(unit(z_a) * unit(z_b)).sum(1).mean()


def _standardised(z: Tensor, eps: float) -> Tensor:
    """``[n, d]`` with mean 0 and variance 1 (sums divided by n) in each feature."""
    centred = z - z.mean(0)
    variance = centred.square().mean(0) + eps
    return centred / torch.where(variance > 0, variance, 1).sqrt()


def _without_self(similarities: Tensor) -> Tensor:
    """``[n, n]`` with a diagonal so low that a softmax gives it 0 (-inf would be NaN in some gradients)."""
    own = torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    return similarities.masked_fill(own, torch.finfo(similarities.dtype).min / 2)


def _log_complement(log_p: Tensor) -> Tensor:
    """log(1 - p), finite also where p is 1 in floating point."""
    return torch.log1p(-log_p.exp().clamp_max(1 - torch.finfo(log_p.dtype).eps))
