"""Fine-tuning: a few local steps from the global model before scoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Memory, State, Vectors, Weighting
from fedtl.clients.settings import Settings, one_length
from fedtl.clients.sgd import SGD, SGDSettings
from fedtl.models.vector import Layout
from fedtl.optimizers.schedules import Constant


class FineTuneSettings(SGDSettings):
    """FedAvg's options, and how the global model is fine-tuned.

    Attributes:
        finetune_steps: k, mini-batches of local SGD between the global model and its scoring; 10 if neither this nor
            finetune_epochs is given.
        finetune_epochs: passes over the client's samples, instead of steps.
        finetune_lr: their learning rate; ``lr`` if not given. No schedule changes it, and the optimiser begins anew.
    """

    default_finetune: ClassVar[dict[str, int]] = {"finetune_steps": 10}
    """How long, where nothing is said."""

    never_cut: ClassVar[tuple[str, ...]] = ("finetune_steps", "finetune_epochs")
    one_of: ClassVar[tuple[tuple[str, str], ...]] = (*SGDSettings.one_of, ("finetune_steps", "finetune_epochs"))

    finetune_steps: PositiveInt | None = None
    finetune_epochs: PositiveInt | None = None
    finetune_lr: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, table: Any) -> Any:
        return one_length(table, "finetune_steps", "finetune_epochs", cls.default_finetune)


class FineTune(SGD):
    """FedAvg's client; its personalised model is the global one after k local steps.

    The baseline that meta-learning and personalisation papers compare with (e.g. Jiang et al. 2019,
    arXiv 1909.12488, section 4.2).
    """

    settings_type: ClassVar[type[Settings]] = FineTuneSettings
    personalises: ClassVar[bool] = True
    settings: FineTuneSettings

    def for_scoring(self) -> ClientUpdate[SGDSettings]:
        """SGD for k steps from the global model."""
        return fine_tuned(self.settings, self.layout)


def fine_tuned(o: FineTuneSettings, layout: Layout) -> FineTuned:
    """What makes a client's own model of the global one."""
    length = {"local_epochs": o.finetune_epochs, "local_steps": o.finetune_steps, "lr": o.finetune_lr or o.lr}
    fresh = o.optimizer.model_copy(update={"keep": False, **({"lr": None} if o.finetune_lr else {})})
    once = {"optimizer": fresh, "schedule": Constant(name="constant")}
    return FineTuned(o.model_copy(update={**length, **once}), layout)


class FineTuned(SGD):
    """The k steps themselves."""

    sums: ClassVar[Mapping[str, Weighting]] = {}
    personalises: ClassVar[bool] = True

    def first_memory(self, received: Vectors) -> Memory:
        """The global model."""
        return {"w": received["w"].clone()}

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Keep the fine-tuned model."""
        return {}, {"w": state["w"]}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The fine-tuned model."""
        return memory["w"]
