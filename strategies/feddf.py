"""FedDF."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from fedtl.clients.settings import Settings
from fedtl.distill.ensemble import FromEnsemble, learn
from fedtl.losses.aggregate import ClientAggregate
from fedtl.losses.terms.public import PublicLogits
from fedtl.random import Purpose, derived_seed
from fedtl.strategies.contract import Uploads, Vectors
from fedtl.strategies.fedavg import FedAvg, FedAvgSettings

LOGITS = PublicLogits("ensemble of the clients")


class FedDFSettings(FedAvgSettings):
    """Options of FedDF: FedAvg's, and those of the distillation.

    Attributes:
        distill_steps: of Adam, in each round; 0 is FedAvg. The paper takes up to 10,000, and stops when a validation
            set shows no gain.
        distill_lr: its learning rate.
        distill_schedule: whether that falls to 0 within the round, along half a cosine as in the paper.
        distill_batch_size: public samples in a mini-batch.
        temperature: T of the predictions; the paper has none.
    """

    never_cut: ClassVar[tuple[str, ...]] = ("distill_steps",)

    distill_steps: NonNegativeInt = 200
    distill_lr: PositiveFloat = 1e-3
    distill_schedule: Literal["cosine", "constant"] = "cosine"
    distill_batch_size: PositiveInt = 128
    temperature: PositiveFloat = 1.0

    def no_private(self) -> str:
        """The server needs the whole model, where it trains."""
        return "the server distils the whole model" if self.distill_steps else ""


class FedDF(FedAvg):
    """FedDF: FedAvg's mean, then ensemble distillation at the server on public samples (Lin et al. 2020).

    "Ensemble Distillation for Robust Model Fusion in Federated Learning", NeurIPS 2020 (arXiv 2006.07242), Algorithm
    1: the student begins as the mean of the uploads, the teacher's logits are the mean over the round's clients, and
    Adam minimises KL(softmax(teacher) ‖ softmax(student)) on ``[data.public]``.

    The paper's server computes the logits from the uploaded models. Here clients send those of all public samples
    with their models: the same numbers, computed where the models are, as a server that receives sums has none of
    them by itself; the record counts them as bytes sent. Differs from the paper: a fixed number of steps, no
    validation set, and one architecture.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    settings_type: ClassVar[type[Settings]] = FedDFSettings
    settings: FedDFSettings

    @classmethod
    def statistics(cls, settings: Settings) -> tuple[ClientAggregate, ...]:
        """The clients' logits of public samples."""
        assert isinstance(settings, FedDFSettings)
        return (LOGITS,) if settings.distill_steps else ()

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """Without steps, whatever says how they are taken."""
        assert isinstance(settings, FedDFSettings)
        how = ("distill_lr", "distill_schedule", "distill_batch_size", "temperature")
        without = {} if settings.distill_steps else dict.fromkeys(how, "there are no steps: distill_steps = 0")
        return {**super().unused(settings), **without}

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The mean, taught by the ensemble; nobody but the server keeps what the ensemble says, and not for long."""
        mean, teacher = super().update(state, uploads, round), self.take_statistic(LOGITS.name)
        if teacher is None:  # no steps
            return mean
        assert self.bench is not None
        o, bench = self.settings, self.bench
        logits, seed = (
            teacher.view(len(bench.public), -1).to(bench.device),
            derived_seed(self.seed, Purpose.ENSEMBLE, round),
        )
        how = FromEnsemble(
            o.distill_steps, o.distill_lr, o.distill_batch_size, o.temperature, o.distill_schedule == "cosine"
        )
        return bench.trained(mean, lambda student: learn(student, bench.inputs, logits, how, seed))
