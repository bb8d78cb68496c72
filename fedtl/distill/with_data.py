"""Distillation with data, the yardstick of what can do without."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field, PositiveFloat
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.distill.method import Job, Method
from fedtl.distill.student import fit
from fedtl.random import Purpose, stream


class WithData(Method):
    """Distillation with the teacher's own training data: what data-free methods are held against.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Attributes:
        temperature: T.
        hard: the labels' weight; 1 - hard is the teacher's.
    """

    name: str = "data"
    temperature: PositiveFloat = 4.0
    hard: float = Field(0.1, ge=0, le=1)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Options`."""
        return {"temperature": "hard = 1 leaves the teacher out"} if self.hard == 1 else {}

    def train(self, job: Job) -> None:
        """See :class:`~fedtl.distill.method.Method`."""
        if job.data is None or not len(job.data[1]):
            raise ConfigError(f"method.name = {self.name!r}: it needs training data; the other methods need none")
        samples, rows = job.data
        rng = stream(job.seed, Purpose.DISTILL_ORDER)
        order = np.empty(0, np.int64)

        def batch(_: int) -> tuple[Tensor, Tensor]:
            nonlocal order
            while len(order) < self.batch_size:
                order = np.concatenate([order, rng.permutation(rows)])
            now, order = order[: self.batch_size], order[self.batch_size :]
            return samples.batch(now)

        fit(job, self, batch, temperature=self.temperature, hard=self.hard)
