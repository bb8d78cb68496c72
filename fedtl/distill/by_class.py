"""Distillation on class impressions."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from fedtl.distill.impressions import check_synthesis, class_impressions
from fedtl.distill.method import Job, Method
from fedtl.distill.zskd import on_samples


class ClassImpressions(Method):
    """Class impressions: noise that is optimised until the teacher is sure of a class, and learnt from.

    Mopuri et al., "Ask, Acquire, and Attack", ECCV 2018, for the impressions, which were made for attacks there; see
    :func:`~fedtl.distill.impressions.class_impressions`. Their use for distillation is ZSKD's baseline.

    Attributes:
        per_class: impressions of each class.
        sample_steps, sample_lr: of each impression's Adam, at most.
        least, most: how sure the teacher must be; drawn for each impression between these.
        sample_noise: uniform noise while an impression is optimised, in model inputs, as one of the changes of augment.
        temperature: T of the student's loss.
        augment: whether impressions are turned, scaled and given noise, as they are optimised and as the student sees
            them (there shifted too).
        chunk: impressions that are optimised together.
    """

    name: str = "class-impressions"
    per_class: PositiveInt = 2400
    sample_steps: PositiveInt = 200
    sample_lr: PositiveFloat = 0.05
    least: float = Field(0.55, gt=0, lt=1)
    most: float = Field(0.99, gt=0, lt=1)
    sample_noise: NonNegativeFloat = 0.1
    temperature: PositiveFloat = 20.0
    augment: bool = True
    chunk: PositiveInt = 200

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Options`."""
        return {} if self.augment else {"sample_noise": "augment = false"}

    @model_validator(mode="after")
    def _in_order(self) -> ClassImpressions:
        if self.least > self.most:
            raise ValueError(f"least = {self.least:g} is above most = {self.most:g}; give it at most {self.most:g}")
        return self

    def train(self, job: Job) -> None:
        """See :class:`~fedtl.distill.method.Method`."""
        check_synthesis(job.teacher, job.shape, f"method.name = {self.name!r}", "'data' takes any teacher")
        x, labels = class_impressions(
            job.teacher,
            job.classes,
            self.per_class,
            job.shape,
            self.sample_steps,
            self.sample_lr,
            job.seed,
            confidence=(self.least, self.most),
            augment=self.augment,
            noise=self.sample_noise,
            bounds=job.bounds,
            chunk=self.chunk,
            watch=job.watch,
        )
        job.watch.samples(x, labels)
        on_samples(job, self, x, self.temperature, self.augment)
