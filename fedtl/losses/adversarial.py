"""A discriminator tells the domains apart and the features learn to deceive it: DANN, CDAN, ADDA.

Logits of a discriminator are ``[n]`` or ``[n, 1]``; a positive one says label 1.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.moments import one_of
from fedtl.losses.unlabelled import entropies

Reduction = Literal["sum", "mean", "pooled"]


def domain_adversarial(
    source_logits: Tensor,
    target_logits: Tensor,
    *,
    source_label: Literal[0, 1] = 0,
    reduction: Reduction = "sum",
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """The domain classifier's loss (Ganin et al. 2016, eq. 9): its mean on the source plus its mean on the target.

    The discriminator minimises it; features that passed :func:`gradient_reversal` maximise it.

    Args:
        source_logits: ``[n]`` or ``[n, 1]``.
        target_logits: ``[m]`` or ``[m, 1]``.
        source_label: the paper's source is 0, TLlib's 1.
        reduction: ``"sum"`` of the two means (the paper); their ``"mean"`` (TLlib: half of it); or ``"pooled"``,
            the mean over all n + m samples.
        source_weights: ``[n]``, factors of the samples' losses, such as CDAN's :func:`entropy_weights`.
        target_weights: ``[m]``.

    Returns:
        A scalar.
    """
    loss = "domain_adversarial"
    one_of(f"{loss}: reduction", reduction, "sum", "mean", "pooled")
    source = _losses(loss, source_logits, source_label, source_weights)
    target = _losses(loss, target_logits, 1 - source_label, target_weights)
    if reduction == "pooled":
        return torch.cat([source, target]).mean()
    value = source.mean() + target.mean()
    return value if reduction == "sum" else value / 2


def gradient_reversal(x: Tensor, lam: float | Tensor) -> Tensor:
    """The same x, but its gradient is multiplied by -lam (Ganin et al. 2016).

    Args:
        x: of any shape.
        lam: λ; may be a tensor without dimensions.

    Returns:
        x.
    """
    still = x.detach()
    # The difference is 0 and has slope 1: plain operations, which vmap, grad and a trace all follow.
    return (x - still) * -lam + still


@overload
def dann_lambda(progress: float, gamma: float = 10.0) -> float: ...
@overload
def dann_lambda(progress: Tensor, gamma: float = 10.0) -> Tensor: ...
def dann_lambda(progress: float | Tensor, gamma: float = 10.0) -> float | Tensor:
    """DANN's schedule 2 / (1 + exp(-gamma · p)) - 1 (Ganin et al. 2016), as tanh(gamma · p / 2).

    Args:
        progress: p, from 0 to 1.
        gamma: 10 in the paper. TLlib and DeepDA have 1, with which λ ends at 0.46.

    Returns:
        λ, a tensor if ``progress`` is one.
    """
    if isinstance(progress, Tensor):
        return torch.tanh(progress * (gamma / 2))
    return math.tanh(progress * gamma / 2)


def conditioned(features: Tensor, logits: Tensor) -> Tensor:
    """CDAN's input of the discriminator: f ⊗ softmax(g), flattened (Long et al. 2018).

    Args:
        features: ``[n, d]``.
        logits: the classifier's, ``[n, k]``; detach them to have CDAN's code.

    Returns:
        ``[n, d·k]``; entry i·k + j is feature i times the probability of class j.
    """
    if features.dim() != 2 or logits.dim() != 2 or len(features) != len(logits):
        raise ValueError(
            f"conditioned: features [n, d] and logits [n, k] are needed, "
            f"not {list(features.shape)} and {list(logits.shape)}"
        )
    return (features.unsqueeze(2) * logits.softmax(1).unsqueeze(1)).flatten(1)


def entropy_weights(logits: Tensor) -> Tensor:
    """CDAN+E's weights 1 + exp(-H(softmax(logits))), ``[n, k] -> [n]``: certain samples count more (Long et al. 2018).

    They carry gradients, which a model in the game has reversed as those of its features; their mean is not 1.
    """
    return 1 + torch.exp(-entropies(logits))


def adda_discriminator(
    source_logits: Tensor,
    target_logits: Tensor,
    *,
    source_label: Literal[0, 1] = 1,
    reduction: Reduction = "sum",
) -> Tensor:
    """ADDA's loss of the discriminator (Tzeng et al. 2017, eq. 7): -E_s log D - E_t log(1 - D).

    Args:
        source_logits: ``[n]`` or ``[n, 1]``.
        target_logits: ``[m]`` or ``[m, 1]``.
        source_label: 1 in the paper and TLlib, 0 in the authors' code.
        reduction: see :func:`domain_adversarial`; the authors' code has ``"pooled"``.

    Returns:
        A scalar.
    """
    return domain_adversarial(source_logits, target_logits, source_label=source_label, reduction=reduction)


def adda_mapping(
    target_logits: Tensor,
    *,
    source_label: Literal[0, 1] = 1,
    source_logits: Tensor | None = None,
) -> Tensor:
    """ADDA's loss of the target's encoder (Tzeng et al. 2017, eq. 9): -E_t log D, the labels being inverted.

    Args:
        target_logits: ``[m]`` or ``[m, 1]``.
        source_label: what the discriminator learns to call the source: 1 in the paper, 0 in the authors' code.
        source_logits: with them the loss is the mean over both batches, all labels inverted, as in the authors'
            code; to the target's encoder the source's part is a constant.

    Returns:
        A scalar.
    """
    losses = _losses("adda_mapping", target_logits, source_label, None)
    if source_logits is None:
        return losses.mean()
    return torch.cat([_losses("adda_mapping", source_logits, 1 - source_label, None), losses]).mean()


def _losses(loss: str, logits: Tensor, label: int, weights: Tensor | None) -> Tensor:
    """Binary cross-entropies ``[n]`` of a label that all samples share."""
    if label not in (0, 1):
        raise ValueError(f"{loss}: a label = {label!r} must be 0 or 1")
    if logits.dim() not in (1, 2) or (logits.dim() == 2 and logits.shape[1] != 1):
        raise ValueError(f"{loss}: a discriminator's logits are [n] or [n, 1], not {list(logits.shape)}")
    losses = F.softplus(-logits if label else logits).flatten()
    if weights is None:
        return losses
    if weights.shape != losses.shape:
        raise ValueError(f"{loss}: {len(losses)} logits need weights [{len(losses)}], not {list(weights.shape)}")
    return losses * weights
