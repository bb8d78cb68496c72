"""Wrong labels: some of each client's training samples have another label."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.data.partitions.on_top import OnTop
from fedtl.random import Purpose, stream


class LabelNoise(OnTop):
    """Wrong labels on a share of each client's training samples; test data keep theirs.

    With ``clients_share``, ``least`` and ``kind = "uniform"`` the noise of FedCorr (Xu et al. 2022, arXiv 2204.04677),
    whose rho is ``clients_share`` and tau ``least``, with ``share = 1``: a client is noisy with probability rho, and
    then at a level drawn uniformly from [tau, 1]. Validation samples that ``data.validation_share`` draws are training
    samples before, and have the noise too, also in a stage of ``drift``; those that the data name have none.

    Attributes:
        share: of a noisy client's training samples; of n samples ``share * n``, rounded, get another label.
        least: each noisy client has a share of its own, drawn uniformly from ``least`` to ``share``; all have ``share``
            if not given.
        clients_share: the probability that a client is noisy.
        kind: "symmetric": any other label, all as likely; "uniform": any label, the right one included; "pair": the
            next one, and the first after the last.
    """

    name: str = "label-noise"
    share: float = Field(0.2, ge=0, le=1)
    least: float | None = Field(None, ge=0, le=1)
    clients_share: float = Field(1.0, ge=0, le=1)
    kind: Literal["symmetric", "uniform", "pair"] = "symmetric"

    @field_validator("least")
    @classmethod
    def _is_less(cls, least: float | None, info: ValidationInfo) -> float | None:
        share = info.data.get("share")
        if least is not None and share is not None and least > share:
            raise ValueError(f"should be at most share = {share:g}")
        return least

    def relabel(self, y: NDArray[np.int64], classes: int, train: Shards, seed: int) -> NDArray[np.int64]:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        y = self.base.relabel(y, classes, train, seed)
        if classes < 2:
            raise ConfigError(f"data.partition.name = {self.name!r}: there is one class, so no label is wrong")
        rng = stream(seed, Purpose.LABEL_NOISE)
        n, clients = len(train.order), len(train)
        noisy = rng.random(clients) < self.clients_share
        least = self.share if self.least is None else self.least
        share = noisy * (least + (self.share - least) * rng.random(clients))
        wrong = np.rint(share * train.sizes).astype(np.int64)
        by_draw = np.lexsort((rng.random(n), train.client_of))
        place = np.arange(n) - np.repeat(train.offsets[:-1], train.sizes)
        rows = train.order[by_draw[place < np.repeat(wrong, train.sizes)]]
        result = y.copy()
        if self.kind == "uniform":
            result[rows] = rng.integers(0, classes, len(rows))
        else:
            step = 1 if self.kind == "pair" else rng.integers(1, classes, len(rows))
            result[rows] = (y[rows] + step) % classes
        return result
