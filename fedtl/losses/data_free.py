"""What data-free distillation and synthesis optimise: pure functions of a trained model's outputs.

All are scalars to be minimised unless they say otherwise, work in any float type, and go through ``torch.func``'s
``vmap`` and ``grad``. Where a paper and its authors' code differ, the paper is the default.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class GeneratorLosses(NamedTuple):
    """DAFL's three losses of the generator, scalars.

    Attributes:
        one_hot: L_oh, small where the teacher is sure of each sample.
        activation: L_a, small where samples excite the teacher's features.
        information_entropy: L_ie, small where a batch's classes are balanced.
    """

    one_hot: Tensor
    activation: Tensor
    information_entropy: Tensor


def dafl_generator_losses(
    logits: Tensor,
    features: Tensor,
    *,
    log: Literal["natural", "log10"] = "natural",
    reduction: Literal["paper", "mean"] = "paper",
) -> GeneratorLosses:
    """What a generator's samples should make a frozen teacher say.

    Chen et al., "Data-Free Learning of Student Networks" (DAFL), ICCV 2019, with p = softmax(logits):

    - eq. 2: L_oh = 1/n Σ_i CE(p_i, argmax p_i);
    - eq. 3: L_a = -1/n Σ_i ‖f_i‖₁;
    - eq. 4: L_ie = -H(p̄) with p̄ = 1/n Σ_i p_i and H(p) = -1/k Σ_j p_j log p_j.

    Args:
        logits: the teacher's, on generated samples, ``[n, k]``.
        features: the teacher's, on the same samples, ``[n, f]``.
        log: the logarithm in L_ie; the authors' code has "log10".
        reduction: "paper" as above; "mean": the mean of |f| over samples *and* features in L_a, and no 1/k in L_ie.

    Returns:
        The three losses. The authors' code is ``log="log10", reduction="mean"``; DataFree's ``class_balance`` is the
        last one with ``log="natural", reduction="mean"``.
    """
    log_p = logits.log_softmax(1)
    one_hot = -log_p.max(1).values.mean()
    # The logarithm of the mean without a logarithm of zero, whose gradient would be infinite.
    log_mean = log_p.logsumexp(0) - math.log(len(logits))
    negative_entropy = (log_mean.exp() * log_mean).sum()
    if log == "log10":
        negative_entropy = negative_entropy / math.log(10)
    if reduction == "mean":
        return GeneratorLosses(one_hot, -features.abs().mean(), negative_entropy)
    return GeneratorLosses(one_hot, -features.abs().flatten(1).sum(1).mean(), negative_entropy / logits.shape[1])


def dafl_generator_loss(losses: GeneratorLosses, *, oh: float = 1.0, a: float = 0.1, ie: float = 5.0) -> Tensor:
    """The generator's objective, DAFL's eq. 5: oh · L_oh + a · L_a + ie · L_ie.

    The weights are the authors' for MNIST (α = 0.1, β = 5); their code applies them to losses of
    ``log="log10", reduction="mean"``.
    """
    return oh * losses.one_hot + a * losses.activation + ie * losses.information_entropy


def zskd_concentration(
    head_weight: Tensor,
    *,
    beta: float,
    classes: Literal["rows", "columns"] = "rows",
    convention: Literal["paper", "authors"] = "paper",
    eps: float = 1e-4,
) -> Tensor:
    """The Dirichlet concentration of each class's soft targets, from the similarity of the head's classes.

    Nayak et al., "Zero-Shot Knowledge Distillation in Deep Networks", ICML 2019: the similarity of classes i and j
    is the cosine of their weight vectors, scaled to 0..1 over all pairs, and class i's soft targets are drawn
    from Dir(β · similarity_i). A small β gives targets with one large entry, β = 1 blurred ones.

    Args:
        head_weight: of the layer that makes the logits; ``[k, f]`` as in ``nn.Linear``, or ``[f, k]``.
        beta: β > 0.
        classes: whether head_weight's rows or columns stand for the classes.
        convention: "paper" as above, where the least similar pair has 0; "authors": their code scales every row to
            0..1 once more and adds eps, so that β has no effect.
        eps: of the authors' convention alone.

    Returns:
        ``[k, k]``: row i is class i's concentration.
    """
    rows = head_weight if classes == "rows" else head_weight.transpose(-1, -2)
    rows = rows / rows.norm(dim=1, keepdim=True)
    similarity = rows @ rows.transpose(-1, -2)
    low, high = similarity.amin(), similarity.amax()
    concentration: Tensor = beta * (similarity - low) / (high - low)
    if convention == "paper":
        return concentration
    low, high = concentration.amin(1, keepdim=True), concentration.amax(1, keepdim=True)
    again: Tensor = (concentration - low) / (high - low) + eps
    return again


def class_impression_objective(
    logits: Tensor,
    labels: Tensor,
    *,
    x: Tensor | None = None,
    activation: Literal["logit", "softmax"] = "logit",
    l2: float = 0.0,
    tv: float = 0.0,
) -> Tensor:
    """Minus how strongly samples excite the classes that are asked for: minimise it over the samples.

    Mopuri, Uppala and Babu, "Ask, Acquire, and Attack: Data-free UAP Generation using Class Impressions", ECCV 2018:
    a class impression maximises the activation of its class *before* the softmax, after Simonyan et al., "Deep Inside
    Convolutional Networks", 2014: the softmax can also grow by making other classes small.

    Args:
        logits: ``[n, k]``.
        labels: the classes asked for, ``[n]`` int64.
        x: the samples ``[n, *shape]``, where l2 or tv is not 0.
        activation: "logit", or "softmax": the class's probability.
        l2: weight of ‖x‖² per sample (Simonyan's regulariser).
        tv: weight of the total variation per sample, Σ|∂x| along every axis but a sample's first.

    Returns:
        The mean over the n samples, a scalar.
    """
    asked = logits if activation == "logit" else logits.softmax(1)
    value = -asked.gather(1, labels[:, None]).mean()
    if (l2 or tv) and x is None:
        raise ValueError("l2 and tv need the samples: give x")
    if l2 and x is not None:
        value = value + l2 * x.square().flatten(1).sum(1).mean()
    if tv and x is not None:
        for axis in range(2, x.ndim):
            value = value + tv * torch.diff(x, dim=axis).abs().flatten(1).sum(1).mean()
    return value


def fedgen_diversity(noise: Tensor, generated: Tensor) -> Tensor:
    """Small where different noise makes different samples: the generator's loss against mode collapse.

    Zhu, Hong and Zhou, "Data-Free Knowledge Distillation for Heterogeneous Federated Learning" (FedGen), ICML 2021,
    as in the authors' code: exp(-1/n² Σ_ij d₂(z_i, z_j) · d₁(g_i, g_j)) with d₁ the mean absolute and d₂ the mean
    squared difference.

    Args:
        noise: z, ``[n, d]``.
        generated: g, what was made of it, ``[n, *shape]``.

    Returns:
        A scalar in 0..1.
    """
    flat = generated.flatten(1)
    apart = (flat[:, None] - flat[None]).abs().mean(2)
    return torch.exp(-((noise[:, None] - noise[None]).square().mean(2) * apart).mean())
