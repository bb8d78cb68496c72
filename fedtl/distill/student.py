"""Training a student on what a teacher says of samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fedtl.distill.method import Job, Method, last_or_every

Batches = Callable[[int], tuple[Tensor, Tensor | None]]
"""From a step to model inputs ``[n, *shape]`` and labels ``[n]``, or None where no labels are known."""


def softened(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over the batch.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015: T² keeps the gradient's size.

    Args:
        logits: the student's, ``[n, k]``.
        teacher_logits: ``[n, k]``.
        temperature: T.
    """
    log_p, log_q = (logits / temperature).log_softmax(1), (teacher_logits / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def fit(job: Job, method: Method, batches: Batches, *, temperature: float, hard: float = 0.0) -> None:
    """Train the job's student by Adam on (1 - hard) · T² KL + hard · cross-entropy of the labels.

    Args:
        job: whose student, and whose teacher.
        method: gives steps, learning rate, and when to score.
        batches: the samples; the teacher is asked for each batch anew, so they may be augmented.
        temperature: T.
        hard: weight of the labels.
    """
    optimizer = torch.optim.Adam(job.student.parameters(), method.lr)
    for step in range(1, method.steps + 1):
        x, y = batches(step)
        with torch.no_grad():
            targets = job.teacher(x)
        logits = job.student.train()(x)
        losses = {"kd": softened(logits, targets, temperature)}
        total = losses["kd"]
        if hard and y is not None:
            losses["cross_entropy"] = F.cross_entropy(logits, y)
            total = (1 - hard) * total + hard * losses["cross_entropy"]
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        job.watch.step("student", step, method.steps, losses)
        if last_or_every(step, method.every, method.steps):
            job.watch.score(step, losses)
