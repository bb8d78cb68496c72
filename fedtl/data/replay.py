"""Samples that are synthesised out of the global model and replayed: options of ``[replay]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from fedtl.choice import Options


class Replay(Options):
    """Class impressions of the global model, for clients to train on beside their own samples.

    The synthesis is that of Mopuri et al., "Ask, Acquire, and Attack", ECCV 2018 (see
    :func:`fedtl.distill.class_impressions`); to replay classes that a client has never seen is the use made of it
    here, not the paper's.

    Attributes:
        per_class: samples of each class.
        classes: which of them a client replays: "missing": those of which it holds no labelled sample; or "all".
        by: "server": one set of all classes in each synthesis, which all clients share. As it is a function of the
            model, the seed and the round, each worker makes it by itself and nothing more travels. "client": each
            client makes its own, of its classes alone; that costs a synthesis for every client.
        steps, lr: of each sample's Adam, at most.
        least, most: how sure the model must be of a sample; drawn for each between these.
        noise: uniform noise while a sample is optimised, in model inputs, as one of the changes of augment.
        augment: whether samples are changed at random while they are optimised.
        after: rounds without replay at the beginning, while the model knows nothing yet.
        every: rounds between syntheses; where a phase restarts the model, there is one more. Where more than 1, the
            model of the last synthesis is sent along in each round, so that clients that did not take part in it can
            make the samples.
    """

    per_class: PositiveInt = 20
    classes: Literal["missing", "all"] = "missing"
    by: Literal["server", "client"] = "server"
    steps: PositiveInt = 50
    lr: PositiveFloat = 0.05
    least: float = Field(0.55, gt=0, lt=1)
    most: float = Field(0.99, gt=0, lt=1)
    noise: NonNegativeFloat = 0.1
    augment: bool = True
    after: NonNegativeInt = 1
    every: PositiveInt = 1

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Options`."""
        return {} if self.augment else {"noise": "augment = false"}

    @model_validator(mode="after")
    def _in_order(self) -> Replay:
        if self.least > self.most:
            raise ValueError(f"least = {self.least:g} is above most = {self.most:g}; give it at most {self.most:g}")
        return self

    def made_in(self, round: int) -> int | None:
        """The round of whose model the samples of ``round`` are made; None where there are none yet."""
        return None if round <= self.after else round - (round - self.after - 1) % self.every
