"""Distances between the moments of two domains: CORAL, CMD; and against moments that came from elsewhere."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def coral(source: Tensor, target: Tensor, *, variant: Literal["paper", "mean"] = "paper") -> Tensor:
    """Deep CORAL: the distance of the two domains' covariances (Sun & Saenko 2016, eq. 1-3).

    Args:
        source: features ``[n, d]``, n >= 2.
        target: features ``[m, d]``, m >= 2.
        variant: ``"paper"``: ‖C_s - C_t‖²_F / (4d²). ``"mean"``: mean((µ_s - µ_t)²) + mean((C_s - C_t)²), as
            TLlib and DomainBed compute it.

    Returns:
        A scalar.
    """
    same_width("coral", source, target, least=2)
    return coral_to_moments(target, *mean_and_covariance(source), variant=variant)


def coral_to_moments(
    target_features: Tensor, mean: Tensor, covariance: Tensor, *, variant: Literal["paper", "mean"] = "paper"
) -> Tensor:
    """CORAL where the source is known by its moments alone, such as another client's.

    Args:
        target_features: ``[m, d]``, m >= 2.
        mean: ``[d]``; read by the variant ``"mean"`` only.
        covariance: ``[d, d]``, its sums divided by n - 1.
        variant: see :func:`coral`.

    Returns:
        A scalar.
    """
    one_of("coral: variant", variant, "paper", "mean")
    d = target_features.shape[-1]
    if mean.shape != (d,) or covariance.shape != (d, d):
        raise ValueError(
            f"coral: features [m, {d}] need a mean [{d}] and a covariance [{d}, {d}], "
            f"not {list(mean.shape)} and {list(covariance.shape)}"
        )
    own_mean, own = mean_and_covariance(target_features)
    if variant == "paper":
        return (covariance - own).square().sum() / (4 * d**2)
    return (mean - own_mean).square().mean() + (covariance - own).square().mean()


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[d]`` and covariance ``[d, d]`` (sums divided by n - 1) of features ``[n, d]``, n >= 2."""
    same_width("covariance", features, features, least=2)
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.mT @ centred / (len(features) - 1)


def cmd(source: Tensor, target: Tensor, *, moments: int = 5, interval: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Central moment discrepancy (Zellinger et al. 2017, def. 2).

    ‖µ_s - µ_t‖ / |b - a| + Σ_{k=2..K} ‖c_k(s) - c_k(t)‖ / |b - a|^k, c_k the k-th central moment of each feature.

    Args:
        source: features ``[n, d]`` in the interval, such as a sigmoid's outputs.
        target: features ``[m, d]``.
        moments: K.
        interval: (a, b).

    Returns:
        A scalar; where two moments agree exactly, their distance has gradient 0.
    """
    same_width("cmd", source, target)
    return cmd_to_moments(target, central_moments(source, moments), interval=interval)


def cmd_to_moments(features: Tensor, moments: Tensor, *, interval: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """CMD to moments that came from elsewhere.

    Args:
        features: ``[n, d]``.
        moments: ``[K, d]``, as :func:`central_moments` gives them.
        interval: (a, b), in which features lie.

    Returns:
        A scalar.
    """
    if moments.dim() != 2 or moments.shape[-1] != features.shape[-1]:
        raise ValueError(f"cmd: features {list(features.shape)} need moments [K, d], not {list(moments.shape)}")
    width = interval[1] - interval[0]
    if not width > 0:
        raise ValueError(f"cmd: interval = {interval!r} must be (a, b) with a < b")
    distances = norm(moments - central_moments(features, len(moments)))
    return sum((distances[k] / width ** (k + 1) for k in range(1, len(moments))), distances[0] / width)


def central_moments(features: Tensor, moments: int) -> Tensor:
    """The mean, then the central moments of order 2 to ``moments``, of each feature: ``[n, d] -> [moments, d]``."""
    if moments < 1:
        raise ValueError(f"cmd: moments = {moments!r} must be 1 or more")
    mean = features.mean(0)
    centred = features - mean
    return torch.stack([mean, *((centred**k).mean(0) for k in range(2, moments + 1))])


# What the other losses share.


def norm(x: Tensor) -> Tensor:
    """‖x‖ over the last dimension, with gradient 0 at 0, where the root has none."""
    squares = x.square().sum(-1)
    positive = squares > 0
    # Both where: the root's infinite slope, times 0, would be NaN in the gradient.
    return torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)


def unit(x: Tensor) -> Tensor:
    """Scale to length 1 over the last dimension; 0 stays 0."""
    length = norm(x).unsqueeze(-1)
    return x / torch.where(length > 0, length, 1)


def one_of(option: str, value: str, *choices: str) -> None:
    """Refuse an option's value that is no choice."""
    if value not in choices:
        raise ValueError(f"{option} = {value!r} must be one of {', '.join(map(repr, choices))}")


def positive(option: str, value: float) -> None:
    """Refuse an option's value that is not positive."""
    if not value > 0:
        raise ValueError(f"{option} = {value!r} must be positive")


def same_width(loss: str, a: Tensor, b: Tensor, *, least: int = 1, equal: bool = False) -> None:
    """Refuse what is not ``[n, d]`` and ``[m, d]`` with n, m >= ``least``, and n = m where ``equal``."""
    shapes = f"not {list(a.shape)} and {list(b.shape)}"
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"{loss}: two matrices [n, d] and [m, d] with the same d are needed, {shapes}")
    if equal and len(a) != len(b):
        raise ValueError(f"{loss}: two batches of equal size are needed, {shapes}")
    if min(len(a), len(b)) < least:
        raise ValueError(f"{loss}: batches of {least} or more are needed, {shapes}")
