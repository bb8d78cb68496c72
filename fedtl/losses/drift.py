"""What keeps a client near the others: in parameters, in representations, in prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.moments import norm, one_of, positive, same_width, unit

Parameters = Tensor | Sequence[Tensor]
"""One tensor of any shape, or several."""


def proximal(w: Parameters, anchor: Parameters, mu: float, *, variant: Literal["paper", "root"] = "paper") -> Tensor:
    """FedProx's term: µ/2 · ‖w - w⁰‖² (Li et al. 2020, eq. 2).

    Args:
        w: parameters, a tensor or several.
        anchor: w⁰, what the server sent, in the same shapes.
        mu: µ.
        variant: ``"root"``: µ/2 · ‖w - w⁰‖, as PersonalizedFL computes it; gradient 0 at w⁰.

    Returns:
        A scalar.
    """
    one_of("proximal: variant", variant, "paper", "root")
    difference = _difference("proximal", w, anchor)
    return mu / 2 * (difference.square().sum() if variant == "paper" else norm(difference))


def l2_sp(
    w: Parameters, anchor: Parameters, alpha: float, *, head: Parameters | None = None, beta: float = 0.0
) -> Tensor:
    """α/2 · ‖w_S - w_S⁰‖² + β/2 · ‖w_head‖²: fine-tuning that stays near its start (Li et al. 2018, L²-SP, eq. 2).

    Args:
        w: w_S, the parameters that the pretrained model has too, a tensor or several.
        anchor: w_S⁰, the pretrained ones, in the same shapes.
        alpha: α.
        head: the parameters that are new in this task.
        beta: β.

    Returns:
        A scalar.
    """
    value = alpha / 2 * _difference("l2_sp", w, anchor).square().sum()
    return value if head is None else value + beta / 2 * _flat(head).square().sum()


def moon(z: Tensor, z_global: Tensor, z_previous: Tensor, *, tau: float = 0.5) -> Tensor:
    """MOON's contrast: like the global model's representation, unlike one's own last one (Li et al. 2021).

    Args:
        z: representations by the model in training, ``[n, d]``.
        z_global: of the same samples by the global model, ``[n, d]``.
        z_previous: by the client's last model, ``[n, d]``.
        tau: temperature of the cosine similarities.

    Returns:
        A scalar, the mean over the batch. Gradients flow to all three unless detached.
    """
    same_width("moon", z, z_global, equal=True)
    same_width("moon", z, z_previous, equal=True)
    positive("moon: tau", tau)
    directions = unit(z)
    alike, before = (directions * unit(z_global)).sum(1), (directions * unit(z_previous)).sum(1)
    return F.softplus((before - alike) / tau).mean()


def prototype(z: Tensor, prototypes: Tensor, labels: Tensor, *, seen: Tensor | None = None) -> Tensor:
    """Mean squared distance to the prototype of one's class, over batch and features (Tan et al. 2022, FedProto).

    The paper's regulariser is the distance of a client's own class means to the global ones; this is the authors' code,
    which moves each sample.

    Args:
        z: representations, ``[n, d]``.
        prototypes: one a class, ``[k, d]``.
        labels: ``[n]``.
        seen: ``[k]``, whether a class has a prototype. Samples of the others count 0, and stay in the mean.

    Returns:
        A scalar.
    """
    same_width("prototype", z, prototypes)
    if labels.shape != z.shape[:1] or (seen is not None and seen.shape != prototypes.shape[:1]):
        raise ValueError(
            f"prototype: {len(z)} samples and {len(prototypes)} prototypes need labels [{len(z)}] and seen "
            f"[{len(prototypes)}], not {list(labels.shape)} and {None if seen is None else list(seen.shape)}"
        )
    difference = z - prototypes[labels]
    if seen is not None:  # not a product: the prototype of an unseen class may be NaN
        difference = torch.where(seen[labels].bool().unsqueeze(1), difference, 0)
    return difference.square().mean()


def _difference(loss: str, w: Parameters, anchor: Parameters) -> Tensor:
    """What parameters are off their anchor, as one vector."""
    ours, theirs = ([x] if isinstance(x, Tensor) else list(x) for x in (w, anchor))
    if not ours or [x.shape for x in ours] != [x.shape for x in theirs]:
        raise ValueError(
            f"{loss}: parameters and anchor must have the same shapes, "
            f"not {[list(x.shape) for x in ours]} and {[list(x.shape) for x in theirs]}"
        )
    return _flat(ours) - _flat(theirs)


def _flat(tensors: Parameters) -> Tensor:
    return tensors.flatten() if isinstance(tensors, Tensor) else torch.cat([x.flatten() for x in tensors])
