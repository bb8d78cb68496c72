"""ZSKD: distillation on data impressions."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from fedtl.distill.augment import jitter
from fedtl.distill.impressions import check_synthesis, data_impressions
from fedtl.distill.method import Job, Method, by_pixel, generator
from fedtl.distill.student import fit


class ZSKD(Method):
    """ZSKD: inputs whose softened outputs are drawn from a Dirichlet that the head's weights tell.

    Nayak et al., "Zero-Shot Knowledge Distillation in Deep Networks", ICML 2019; see
    :func:`~fedtl.distill.impressions.data_impressions`. The student then learns what the teacher says of them, at the
    same temperature.

    Attributes:
        per_class: impressions of each class, divided among the betas.
        sample_steps, sample_lr: of each impression's Adam.
        betas: scales of the concentrations.
        temperature: T, of the targets and of the student's loss.
        convention: "paper", or "authors", whose code lets the betas have no effect.
        augment: whether the student sees the impressions turned, scaled, shifted and with noise (images).
        chunk: impressions that are optimised together.
    """

    name: str = "zskd"
    per_class: PositiveInt = 2400
    sample_steps: PositiveInt = 1500
    sample_lr: PositiveFloat = 0.05
    betas: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 0.1)
    temperature: PositiveFloat = 20.0
    convention: Literal["paper", "authors"] = "paper"
    augment: bool = True
    chunk: PositiveInt = 200

    def train(self, job: Job) -> None:
        """See :class:`~fedtl.distill.method.Method`."""
        check_synthesis(job.teacher, job.shape, f"method.name = {self.name!r}", "'data' takes any teacher")
        x, targets = data_impressions(
            job.teacher,
            self.per_class,
            job.shape,
            self.sample_steps,
            self.sample_lr,
            job.seed,
            betas=self.betas,
            temperature=self.temperature,
            convention=self.convention,
            bounds=job.bounds,
            chunk=self.chunk,
            watch=job.watch,
        )
        job.watch.samples(x, targets.argmax(1))
        on_samples(job, self, x, self.temperature, self.augment)


def on_samples(job: Job, method: Method, x: Tensor, temperature: float, augment: bool) -> None:
    """Train the job's student on random batches of synthesised samples ``[n, *shape]``."""
    rng = generator(job.seed + 1)

    def batch(_: int) -> tuple[Tensor, None]:
        drawn = x[torch.randint(len(x), (method.batch_size,), generator=rng).to(x.device)]
        if augment:
            drawn = jitter(drawn, rng, degrees=10.0, scales=(0.9, 1.0, 1.1), shift=0.1, noise=0.1)
        return by_pixel(drawn), None

    fit(job, method, batch, temperature=temperature)
