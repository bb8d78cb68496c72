"""FedBABU: the body alone is trained and shared; the head stays as it began until a client fine-tunes its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import model_validator

from fedtl.choice import shown
from fedtl.clients.contract import ClientUpdate, Loop, Memory, Probe, State, Vectors
from fedtl.clients.finetune import FineTuneSettings, fine_tuned
from fedtl.clients.parts import PartSteps
from fedtl.clients.settings import Settings
from fedtl.clients.sgd import SGDSettings


class FedBABUSettings(FineTuneSettings):
    """FedAvg's options, what does not move, and how a client fine-tunes.

    Attributes:
        fixed: the parts that keep their first values in every round, and therefore do not travel.
        finetune_steps: mini-batches of fine-tuning, instead of finetune_epochs.
        finetune_epochs: passes over the client's samples, between the global model and its scoring, that train all of
            the model; 5 as in the paper, if neither this nor finetune_steps is given.
    """

    default_finetune: ClassVar[dict[str, int]] = {"finetune_epochs": 5}
    same_in_phases: ClassVar[tuple[str, ...]] = (*FineTuneSettings.same_in_phases, "fixed")

    fixed: tuple[str, ...] = ("head",)

    @model_validator(mode="after")
    def _fixed_alone(self) -> FedBABUSettings:
        for key, parts in (("private", self.private), ("frozen", self.frozen)):
            if both := next((part for part in parts if part in self.fixed), None):
                raise ValueError(
                    f"{key} = {shown([*parts])}: {both!r} is in fixed already, which keeps its first values in every "
                    "round and lets clients fine-tune it; leave it out of one of the two"
                )
        return self


class FedBABU(PartSteps):
    """SGD on the body (Oh et al. 2022, arXiv 2106.06042, Algorithm 1): θ_ext ← θ_ext - η ∇_ext f_i(θ_ext, θ_cls).

    The head θ_cls keeps its first, random values; the server's mean is Σ_i n_i / n θ_ext,i. A client's own model is the
    global one after some epochs of SGD on body and head.

    Differs from the paper: not at all by default. Its authors' code takes the plain mean, ``weighting = "uniform"``,
    and fine-tunes at 0.001, which their schedule makes of 0.1 in the last quarter of training: ``finetune_lr``.
    """

    settings_type: ClassVar[type[Settings]] = FedBABUSettings
    personalises: ClassVar[bool] = True
    settings: FedBABUSettings

    @classmethod
    def unmoved(cls, settings: Settings) -> tuple[str, ...]:
        """The head."""
        assert isinstance(settings, FedBABUSettings)
        return settings.fixed

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin with the global model."""
        return self.start_parts(received, "body") if self.settings.fixed else super().start(received, memory, probe)

    def loops(self) -> Sequence[Loop]:
        """Steps of the body alone."""
        if not self.settings.fixed:
            return super().loops()
        return (Loop(self.step_of("body", 1 - self.mask_of(self.settings.fixed)), self.budget),)

    def for_scoring(self) -> ClientUpdate[SGDSettings]:
        """SGD on body and head, from the global model."""
        return fine_tuned(self.settings, self.layout)
