"""The options that every method has: the ``[strategy]`` table's common keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fedtl.choice import Choice, shown
from fedtl.data.batches import Budget

Counted = Literal["samples", "uniform"]
"""How clients count in a sum, or in the draw of a round's clients: by their training samples, or all alike."""


class Settings(Choice):
    """Options common to all methods; a method's own class adds its own.

    Attributes:
        clients_per_round: S, how many clients are sampled each round; all if not given.
        sampling: how they are drawn, without replacement: all alike, or each with a probability in proportion to its
            number of training samples.
        local_epochs: passes over the client's samples in a round; 1 if neither this nor local_steps is given.
        local_steps: R, mini-batches in a round, instead of epochs.
        stragglers: the probability that a client stops early in a round, after a share of its epochs (or steps) that is
            drawn for it: of E epochs after any number from 1 to E, all alike. Where a round has several loops, it is
            the same share of each.
        batch_size: samples in a mini-batch; 0 for all of the client's. An epoch's last may be smaller.
        last_batch: what becomes of a last one that is smaller: it is trained on ("keep"), its samples sit out the
            epoch ("drop"), or join the mini-batch before ("merge"). The only one that a client has is always kept.
        lr: η, the local learning rate.
        weighting: how the server averages: by the clients' numbers of training samples, or all alike.
        private: parts of the model that stay at each client and are scored as its own: "head", "features",
            "batch-norm", or a submodule's name.
        private_start: what they begin with: the same values at all clients ("common"), or values that each client draws
            for itself ("own"), as its model's initialisation does. With model.pretrained all begin alike.
        frozen: parts that neither train nor travel, likewise.
    """

    never_cut: ClassVar[tuple[str, ...]] = ()
    """Lengths that stragglers do not cut."""

    same_in_phases: ClassVar[tuple[str, ...]] = ("name", "private", "private_start", "frozen")
    """Options that no phase changes, as what travels, or what server and clients remember, follows from them."""

    one_of: ClassVar[tuple[tuple[str, str], ...]] = (("local_epochs", "local_steps"),)
    """Pairs of options of which at most one is given, as :func:`one_length` checks; a phase may give the other one."""

    clients_per_round: PositiveInt | None = None
    sampling: Counted = "uniform"
    local_epochs: PositiveInt | None = None
    local_steps: PositiveInt | None = None
    stragglers: float = Field(0.0, ge=0, le=1)
    batch_size: NonNegativeInt = 20
    last_batch: Literal["keep", "drop", "merge"] = "keep"
    lr: float = Field(gt=0)
    weighting: Counted = "samples"
    private: tuple[str, ...] = ()
    private_start: Literal["common", "own"] = "common"
    frozen: tuple[str, ...] = ()

    @property
    def budget(self) -> Budget:
        """How much a client trains in a round."""
        return Budget(self.batch_size, self.local_steps, self.local_epochs, self.last_batch)

    def no_private(self) -> str:
        """Why no part of the model can stay at clients under the method with these options; empty where parts may."""
        return ""

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, table: Any) -> Any:
        return one_length(table, "local_epochs", "local_steps", {"local_epochs": 1})

    @model_validator(mode="after")
    def _may_be_private(self) -> Self:
        if self.private and (why := self.no_private()):
            raise ValueError(f"private = {shown([*self.private])}: {why}; leave it out")
        return self


def one_length(table: Any, one: str, other: str, default: Mapping[str, int]) -> Any:
    """A table in which at most one of two options says how long a loop is, in epochs or in steps.

    Args:
        table: as pydantic's validators have it.
        one: the name of the option that a message names first.
        other: of the second.
        default: what is put in where neither is there.

    Raises:
        ValueError: both are there.
    """
    if not isinstance(table, dict):
        return table
    both = {name: table[name] for name in (one, other) if table.get(name) is not None}
    if len(both) > 1:
        asked = " and ".join(f"{name} = {shown(value)}" for name, value in both.items())
        either = " or ".join(f"strategy.{name}=none" for name in both)
        raise ValueError(f"{asked} exclude each other: remove one (on the command line: {either})")
    return table if both else {**table, **default}
