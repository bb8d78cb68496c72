"""DAFL: a generator against a frozen teacher, and the student beside it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.distill.generator import Generator
from fedtl.distill.method import Job, Method, by_pixel, generator, last_or_every
from fedtl.distill.student import softened
from fedtl.losses.data_free import dafl_generator_loss, dafl_generator_losses
from fedtl.models.head import features_and_logits


class DAFL(Method):
    """DAFL: a generator of samples that excite the teacher, trained together with the student.

    Chen et al., "Data-Free Learning of Student Networks", ICCV 2019; the defaults are their code's for MNIST: 200
    epochs of 120 steps, batch 512. In each step the generator descends on its three losses and the student on the KL
    from the teacher, both on the same samples, which the student's loss does not push. The features are the head's
    inputs; their LeNet-5 takes those of its last convolution.

    Attributes:
        lr_generator: of the generator's Adam.
        latent: length of the noise.
        hidden: channels of the generator; fewer are faster.
        oh, a, ie: weights of the generator's losses.
        losses: "authors" (log10, means: what oh, a and ie were chosen for), "datafree" (natural logarithm), or
            "paper" (sums over features, entropy over k).
        temperature: of the student's loss.
    """

    name: str = "dafl"
    steps: PositiveInt = 24_000
    batch_size: PositiveInt = Field(512, ge=2)
    lr: PositiveFloat = 2e-3
    lr_generator: PositiveFloat = 0.2
    latent: PositiveInt = 100
    hidden: PositiveInt = 128
    oh: NonNegativeFloat = 1.0
    a: NonNegativeFloat = 0.1
    ie: NonNegativeFloat = 5.0
    losses: Literal["authors", "datafree", "paper"] = "authors"
    temperature: PositiveFloat = 1.0

    def train(self, job: Job) -> None:
        """See :class:`~fedtl.distill.method.Method`."""
        if len(job.shape) != 3:
            raise ConfigError(
                f"method.name = {self.name!r}: it generates images [channels, height, width], but a sample has shape "
                f"{list(job.shape)}; 'class-impressions' and 'zskd' take any shape"
            )
        channels, height, width = job.shape
        rng = generator(job.seed)
        generates = Generator((channels, height, width), self.latent, self.hidden).to(job.device)
        by_generator = torch.optim.Adam(generates.parameters(), self.lr_generator)
        by_student = torch.optim.Adam(job.student.parameters(), self.lr)
        reduction: Literal["paper", "mean"] = "paper" if self.losses == "paper" else "mean"
        log: Literal["natural", "log10"] = "log10" if self.losses == "authors" else "natural"
        for step in range(1, self.steps + 1):
            x = by_pixel(generates(torch.randn(self.batch_size, self.latent, generator=rng).to(job.device)))
            features, logits = features_and_logits(job.teacher, x)
            parts = dafl_generator_losses(logits, features, log=log, reduction=reduction)
            kd = softened(job.student.train()(x.detach()), logits.detach(), self.temperature)
            by_generator.zero_grad()
            by_student.zero_grad()
            # One pass for both: their parameters are disjoint.
            (dafl_generator_loss(parts, oh=self.oh, a=self.a, ie=self.ie) + kd).backward()  # type: ignore[no-untyped-call]
            by_generator.step()
            by_student.step()
            losses: dict[str, Tensor] = {"kd": kd, **parts._asdict()}
            job.watch.step("student", step, self.steps, losses)
            if last_or_every(step, self.every, self.steps):
                job.watch.score(step, losses)
        job.watch.samples(x.detach(), logits.argmax(1))
