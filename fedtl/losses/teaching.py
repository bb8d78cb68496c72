"""One model learns from another's predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from fedtl.losses.moments import positive

NEVER = -1e30
"""A logit of what is out of the question: its probability is 0, and unlike -∞ it leaves differences and products 0."""


def distillation(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, scale_t2: bool = True
) -> Tensor:
    """T² KL(teacher ‖ student) of the softened predictions, mean over the batch (Hinton et al. 2015, §2).

    KL in place of the paper's cross-entropy: it is 0 at agreement and its gradient to the student is the same.

    Args:
        student_logits: ``[n, k]``.
        teacher_logits: ``[n, k]``; gradients flow to them too, unless they are detached.
        temperature: T. Near T = 1000, float32 keeps one or two digits of the value; its gradient is fine.
        scale_t2: whether the factor T² is there, which keeps gradients of one size; TLlib has it not.

    Returns:
        A scalar.
    """
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"distillation: two sets of logits [n, k] are needed, "
            f"not {list(student_logits.shape)} and {list(teacher_logits.shape)}"
        )
    positive("distillation: temperature", temperature)
    student = (student_logits / temperature).log_softmax(1)
    teacher = (teacher_logits / temperature).log_softmax(1)
    value = (teacher.exp() * (teacher - student)).sum() / len(student)
    return value * temperature**2 if scale_t2 else value


def without_use_of(temperature: float) -> dict[str, str]:
    """The option of a distillation that does nothing at a temperature, with why."""
    return {"scale_t2": "T² is 1 at temperature = 1"} if temperature == 1 else {}


def not_true_distillation(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, scale_t2: bool = True
) -> Tensor:
    """T² KL(teacher ‖ student) over the classes that a sample is not of (Lee et al. 2022, FedNTD).

    Args:
        student_logits: ``[n, k]``.
        teacher_logits: ``[n, k]``.
        labels: ``[n]``.
        temperature: T.
        scale_t2: whether the factor T² is there.

    Returns:
        A scalar, the mean over the batch; 0 for two classes.
    """
    student, teacher = (without_own_class(logits, labels) for logits in (student_logits, teacher_logits))
    return distillation(student, teacher, temperature=temperature, scale_t2=scale_t2)


def without_own_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits ``[..., k]`` of samples with labels ``[...]``, each sample's own class out of the question."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill(labels.unsqueeze(-1) == classes, NEVER)
