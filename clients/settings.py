"""The options that every method has: the ``[strategy]`` table's common keys."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fedtl.choice import Choice, shown


class Settings(Choice):
    """Options common to all methods; a method's own class adds its own.

    Attributes:
        clients_per_round: S, how many clients are sampled each round; all if not given.
        local_epochs: passes over the client's samples in a round; 1 if neither this nor local_steps is given.
        local_steps: R, mini-batches in a round, instead of epochs.
        batch_size: samples in a mini-batch; 0 for all of the client's. An epoch's last may be smaller.
        last_batch: what becomes of a last one that is smaller: it is trained on ("keep"), its samples sit out the
            epoch ("drop"), or join the mini-batch before ("merge"). The only one that a client has is always kept.
        lr: η, the local learning rate.
        weighting: how the server averages: by the clients' numbers of training samples, or all alike.
        private: parts of the model that stay at each client and are scored as its own: "head", "features",
            "batch-norm", or a submodule's name.
        frozen: parts that neither train nor travel, likewise.
    """

    clients_per_round: PositiveInt | None = None
    local_epochs: PositiveInt | None = None
    local_steps: PositiveInt | None = None
    batch_size: NonNegativeInt = 20
    last_batch: Literal["keep", "drop", "merge"] = "keep"
    lr: float = Field(gt=0)
    weighting: Literal["samples", "uniform"] = "samples"
    private: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, table: Any) -> Any:
        if isinstance(table, dict):
            epochs, steps = table.get("local_epochs"), table.get("local_steps")
            if epochs is not None and steps is not None:
                raise ValueError(
                    f"local_epochs = {shown(epochs)} and local_steps = {shown(steps)} exclude each other: "
                    f"remove one (on the command line: strategy.local_steps=none)"
                )
            if epochs is None and steps is None:
                return {**table, "local_epochs": 1}
        return table
