"""FedRep: each client fits its head, then takes steps of the shared representation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import model_validator

from fedtl.clients.contract import ClientUpdate, Loop, Probe, State, Vectors
from fedtl.clients.parts import HeadFirst, HeadFirstSettings
from fedtl.clients.settings import Counted, Settings


class FedRepSettings(HeadFirstSettings):
    """Options of FedRep; ``local_epochs`` or ``local_steps`` are those of the representation.

    Attributes:
        private: h_i, what stays at each client and trains first.
        head_epochs: τ, passes over the client's samples that fit h_i; 10 as in the paper's experiments, if neither this
            nor head_steps is given. With 0 it never moves, as in FedBABU's rounds.
        head_steps: τ in mini-batches, instead of epochs.
        weighting: the paper takes the plain mean of the sampled clients ("uniform").
    """

    default_head: ClassVar[dict[str, int]] = {"head_epochs": 10}

    private: tuple[str, ...] = ("head",)
    weighting: Counted = "uniform"

    @model_validator(mode="after")
    def _has_a_head(self) -> FedRepSettings:
        if not self.private:
            raise ValueError("private = []: FedRep fits what stays at a client before all else; name it, as ['head']")
        return self


class FedRep(HeadFirst):
    """A client's part of Algorithm 1 of Collins et al. 2021 (arXiv 2102.07078): head h_i, then representation φ.

    h_i ← h_i - η ∇_h f_i(h_i, φ), τ times, while φ stands still; then φ_i ← φ_i - η ∇_φ f_i(h_i, φ_i), while h_i does.
    The server receives φ_i alone: φ ← 1/|S| Σ_i φ_i over the sampled clients. A client's own model is the present φ
    with its own h_i.

    Differs from the paper: not at all by default. Its h_1⁰, …, h_n⁰ are all the same, as in its authors' code, unless
    ``private_start = "own"``; they are the heads of clients until they have trained. In that code a client that trains
    late begins with the mean head of the last round instead, which has to travel for that; the mean of φ is weighted by
    samples on FEMNIST and Sent140 alone, ``weighting = "samples"``; its scripts have a momentum of 0.5 and a weight
    decay of 0.0001 of weights, not of biases: ``optimizer = { name = "sgd", momentum = 0.5, weight_decay = 0.0001,
    decayed = "weights" }``; and after the last round, which they report apart, every client fits its head for ten
    epochs.
    """

    settings_type: ClassVar[type[Settings]] = FedRepSettings
    serves_untrained = True
    settings: FedRepSettings

    def start(self, received: Vectors, memory: Vectors, probe: Probe) -> State:
        """Begin with the present φ and the client's own h_i."""
        return self.start_parts(received, "head", "body")

    def loops(self) -> Sequence[Loop]:
        """The head's τ steps, then the representation's: everything that is not private."""
        return self.head_then_body(self.mask_of(self.settings.private))

    def for_unseen(self) -> ClientUpdate[Any]:
        """The head's τ steps alone."""
        return _Joining(self.settings, self.layout)


class _Joining(FedRep):
    """Of a client that joins after training."""

    def loops(self) -> Sequence[Loop]:
        return super().loops()[:-1]
