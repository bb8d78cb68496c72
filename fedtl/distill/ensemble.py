"""A model learns what an ensemble says of unlabelled samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtl.data.batches import equal_batches
from fedtl.losses.teaching import distillation
from fedtl.models.generators import generators_of, seeded


@dataclass(frozen=True)
class FromEnsemble:
    """How a student learns from an ensemble.

    Attributes:
        steps: of Adam.
        lr: its learning rate.
        batch_size: samples in a mini-batch.
        temperature: T, of the softened predictions.
        cosine: whether the learning rate falls to 0 along half a cosine.
    """

    steps: int
    lr: float
    batch_size: int
    temperature: float
    cosine: bool


def learn(
    student: nn.Module, samples: Callable[[NDArray[np.int64]], Tensor], teacher: Tensor, how: FromEnsemble, seed: int
) -> None:
    """Train a student in place, in training mode; the caller's random state stays as it was.

    Args:
        student: gives logits ``[B, k]``.
        samples: model inputs of the samples at some places.
        teacher: the ensemble's logits of all samples, ``[n, k]``.
        how: for how long.
        seed: of the samples' order, and of dropout.
    """
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], how.lr)
    order = equal_batches(len(teacher), how.batch_size, how.steps, np.random.default_rng(seed))
    student.train()
    with seeded(seed, generators_of(student)):  # a GPU's is not saved, as that would start CUDA everywhere
        for step, places in enumerate(order):
            if how.cosine:
                optimizer.param_groups[0]["lr"] = how.lr * (1 + math.cos(math.pi * step / how.steps)) / 2
            logits = teacher[torch.from_numpy(places).to(teacher.device)]
            loss = distillation(student(samples(places)), logits, temperature=how.temperature)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
