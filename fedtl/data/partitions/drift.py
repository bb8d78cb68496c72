"""Drift: what clients hold changes while the run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from fedtl.choice import ConfigError, Options
from fedtl.data.partitions import read_partition
from fedtl.data.partitions.contract import Partition
from fedtl.data.partitions.on_top import OnTop


class Stage(Options):
    """What comes in place of a partition.

    Attributes:
        after: the last round of what was before.
        partition: what the clients hold from then on.
    """

    after: int = Field(ge=1)
    partition: SerializeAsAny[Partition]


class Drift(OnTop):
    """Clients hold what ``base`` gives them, and after some rounds what other partitions give them.

    With the same rule in it, such as ``rotated`` on the same ``base``, clients keep their samples and see them
    differently; with another one they hold other samples. A sample that is for testing, or for validation, stays so at
    whoever holds it, so nobody trains on what was a test sample before. Scores after a round are on the test data of
    that round. Samples are normalised, and classes weighted, as at the beginning. For simulations: real clients' own
    files change by themselves.

    Attributes:
        stages: tables with ``after``, the last round before the change, and ``partition``; in the order of the rounds.
            Without any, nothing changes.
    """

    name: str = "drift"
    stages: tuple[Stage, ...] = ()

    @field_validator("stages", mode="before")
    @classmethod
    def _read_partitions(cls, value: Any, info: ValidationInfo) -> Any:
        """Read the stages' partitions here, where their place in the config is known."""
        own = info.context["key"] if info.context else "data.partition"
        if not isinstance(value, (list, tuple)):
            return value
        return [_with_partition(each, f"{own}.stages[{place}].partition") for place, each in enumerate(value)]

    @field_validator("stages")
    @classmethod
    def _one_after_another(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        for before, stage in pairwise(stages):
            if stage.after <= before.after:
                raise ValueError(f"should be in the order of rounds, but {stage.after} comes after {before.after}")
        return stages

    @property
    def later(self) -> Sequence[tuple[int, Partition]]:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return [(stage.after + 1, stage.partition) for stage in self.stages]


def _with_partition(stage: Any, key: str) -> Any:
    """A stage's table with its partition read.

    Raises:
        ConfigError: it is no rule that divides samples; ``key`` begins the message.
    """
    if not isinstance(stage, Mapping) or "partition" not in stage:
        return stage
    partition = read_partition(stage["partition"], key)
    if partition.later or (partition.counts_clients and not partition.by_owner):
        raise ConfigError(f"{key}.name = {partition.name!r}: a stage is a rule that divides samples; give another one")
    return {**stage, "partition": partition}
