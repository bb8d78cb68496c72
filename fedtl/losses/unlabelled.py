"""What can be asked of predictions without labels. Logits are ``[n, k]``, P = softmax(logits)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedtl.losses.moments import one_of, positive


def entropy(logits: Tensor, *, eps: float = 0.0) -> Tensor:
    """Mean entropy of the predictions (Grandvalet & Bengio 2004), in nats.

    Args:
        logits: ``[n, k]``.
        eps: is added to probabilities within the logarithm; 1e-5 in TLlib.

    Returns:
        A scalar.
    """
    return entropies(logits, eps).mean()


def entropies(logits: Tensor, eps: float = 0.0) -> Tensor:
    """-Σ_j P_j log(P_j + eps), ``[n, k] -> [n]``."""
    _matrix("entropy", logits)
    p = logits.softmax(-1)
    logs = (p + eps).log() if eps else logits.log_softmax(-1)
    return -(p * logs).sum(-1)


def bnm(logits: Tensor, *, variant: Literal["paper", "mean"] = "paper") -> Tensor:
    """Batch nuclear-norm maximisation (Cui et al. 2020): -‖P‖_* / n.

    Args:
        logits: ``[n, k]``.
        variant: ``"mean"`` is minus the mean of the singular values, -‖P‖_* / min(n, k), as in DeepDA.

    Returns:
        A scalar.
    """
    one_of("bnm: variant", variant, "paper", "mean")
    _matrix("bnm", logits)
    values: Tensor = torch.linalg.svdvals(logits.softmax(1))
    return -values.mean() if variant == "mean" else -values.sum() / len(logits)


def mcc(logits: Tensor, *, temperature: float = 2.5, eps: float = 0.0) -> Tensor:
    """Minimum class confusion (Jin et al. 2020, §3).

    Args:
        logits: ``[n, k]``.
        temperature: T of the probabilities softmax(logits / T).
        eps: is added within the logarithm of the samples' entropies; 1e-5 in TLlib.

    Returns:
        A scalar: the mean share of the confusion that leaves a class. The samples' weights, by how certain they
        are, are constants. A class that no sample has any probability of counts 0.
    """
    _matrix("mcc", logits)
    positive("mcc: temperature", temperature)
    scaled = logits / temperature
    p = scaled.softmax(1)
    weights = 1 + torch.exp(-entropies(scaled.detach(), eps))
    weights = weights * (len(logits) / weights.sum())
    confusion = (p * weights.unsqueeze(1)).mT @ p
    total = confusion.sum(1, keepdim=True)
    shares = confusion / torch.where(total > torch.finfo(p.dtype).tiny ** 0.5, total, 1)
    return (shares.sum() - shares.trace()) / logits.shape[1]


def generalized_cross_entropy(logits: Tensor, q: float = 0.8, labels: Tensor | None = None) -> Tensor:
    """Mean of (1 - p_y^q) / q, robust against wrong labels (Zhang & Sabuncu 2018, eq. 6).

    Args:
        logits: ``[n, k]``.
        q: from near 0 (cross-entropy) to 1 (mean absolute error).
        labels: ``[n]``; without, each sample's most probable class, as in robust pseudo-labelling (Rusak et al.
            2021).

    Returns:
        A scalar.
    """
    _matrix("generalized_cross_entropy", logits)
    if not 0 < q <= 1:
        raise ValueError(f"generalized_cross_entropy: q = {q!r} must be above 0 and at most 1")
    if labels is None:
        labels = logits.detach().argmax(1)
    elif labels.shape != logits.shape[:1]:
        raise ValueError(
            f"generalized_cross_entropy: logits {list(logits.shape)} need labels [n], not {list(labels.shape)}"
        )
    chosen = logits.log_softmax(1).gather(1, labels.unsqueeze(1))
    return (1 - torch.exp(q * chosen)).mean() / q


def _matrix(loss: str, logits: Tensor) -> None:
    if logits.dim() != 2:
        raise ValueError(f"{loss}: logits [n, k] are needed, not {list(logits.shape)}")
