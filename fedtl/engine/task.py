"""What a cohort trains, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from fedtl.clients.contract import Memory, Vectors
from fedtl.data.replay import Replay
from fedtl.data.samples import Samples
from fedtl.losses.objective import Objective
from fedtl.metrics import Metrics, Predictions, Truth
from fedtl.models.sharing import Sharing
from fedtl.models.vector import Layout
from fedtl.optimizers.stepper import PREFIX

BUFFERS = "not trained"
"""In a memory: the client's own buffers (batch-norm statistics)."""

PRIVATE = "private parts"
"""In a memory: the part of the model that stays at the client."""

PREVIOUS = "previous model"
"""In a memory: the model ``[d]`` that the client had trained when it last took part, where a term asks for it."""

REPLAYED = "model:replay"
"""In ``RoundContext.vectors``: the model ``[d]`` that replayed samples are synthesised from, where it is not the
received one."""

OURS = frozenset({BUFFERS, PRIVATE, PREVIOUS})
"""What engines keep in a memory besides the method's own vectors, and what optimisers remember."""

OUTLASTS = frozenset({PRIVATE})
"""What a client goes on with where the global model begins anew: all else in a memory is of the old model."""


def of_method(memory: Memory) -> Memory:
    """What the method itself keeps in a memory."""
    return {name: tensor for name, tensor in memory.items() if name not in OURS and not name.startswith(PREFIX)}


@dataclass(frozen=True)
class RoundContext:
    """What a round's training is given besides the model and the samples.

    Attributes:
        progress: p, from 0 in the (phase's) first round to 1 in its last.
        lr_factor: the schedule's factor of clients' learning rates in this round.
        vectors: by the names under which terms ask for them: ``"model:phase"`` ``[d]``, ``"statistic:NAME"``.
    """

    progress: float = 0.0
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    lr_factor: float = 1.0


@dataclass(frozen=True)
class Task:
    """What every client trains: a model, an objective and samples, on one device.

    Attributes:
        module: the model, with the modules that terms bring along.
        layout: of its vector.
        objective: the local objective.
        samples: everybody's.
        seed: the run's.
        sharing: which numbers travel; None if all do.
        frozen: modules that terms use and that never change, by name.
        initial: the run's first model ``[d]``, where a term asks for it.
        replay: how samples are synthesised, where a term asks for them.
        received: what a client receives in the first round besides the model, where the method sends more.
        metrics: that are scored besides accuracy and loss.
        first_private: gives what a client's private parts begin with, by its id, in the order of ``sharing.private``;
            None if all clients' begin as the module's.
        begun: the model ``[d]`` with which clients begin that remember nothing, where the global one has begun anew
            since; None if it is the run's first.
    """

    module: nn.Module
    layout: Layout
    objective: Objective
    samples: Samples
    seed: int
    sharing: Sharing | None = None
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    initial: Tensor | None = None
    replay: Replay | None = None
    received: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    first_private: Callable[[int], Tensor] | None = None
    begun: Tensor | None = None

    def sent(self, vector: Tensor) -> Tensor:
        """What of a model ``[d]`` travels."""
        return vector if self.sharing is None else vector[self.sharing.travels]

    def whole(self, received: Tensor, initial: Tensor) -> Tensor:
        """The model ``[d]`` of which only what travels was received; the rest is as in ``initial`` ``[d]``."""
        if self.sharing is None:
            return received
        whole = initial.clone()
        whole[self.sharing.travels] = received
        return whole

    def on(self, samples: Samples) -> Task:
        """A copy with modules of its own, which somebody may train or try out, where ``samples`` are."""
        device = samples.device
        return replace(
            self,
            module=deepcopy(self.module).to(device),
            samples=samples,
            sharing=None if self.sharing is None else self.sharing.to(device),
            frozen={name: deepcopy(part).to(device) for name, part in self.frozen.items()},
            initial=None if self.initial is None else self.initial.to(device),
            begun=None if self.begun is None else self.begun.to(device),
            received={name: tensor.to(device) for name, tensor in self.received.items()},
        )

    @property
    def buffers(self) -> int:
        """Q, how many numbers of the model's vector are buffers."""
        return self.layout.size - self.layout.parameters

    @property
    def remembered_buffers(self) -> int:
        """How many of them a client keeps in its memory: all, or none where none ever changes."""
        return 0 if self.sharing is not None and self.sharing.still else self.buffers


@dataclass(frozen=True)
class Trained:
    """What a client's local training gave.

    Attributes:
        client: its id.
        samples: how many training samples it holds.
        uploads: by name; a summed ``"w"`` is a whole model ``[d]``.
        memory: what the client keeps.
        losses: each term's mean over the round's gradient evaluations, where each was evaluated and found something,
            ``[terms]``; not a number where it never did.
        steps: mini-batches trained on.
        statistics: the sums that terms ask for, one vector each.
    """

    client: int
    samples: int
    uploads: Vectors
    memory: Memory
    losses: tuple[float, ...]
    steps: int
    statistics: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A client whose training, or the making of whose own model, raised, and what it said."""

    client: int
    message: str

    @classmethod
    def by(cls, client: int, error: BaseException) -> Failed:
        """A client that ``error`` was raised of."""
        return cls(client, reason(error))


@dataclass(frozen=True)
class Score:
    """How a model does on n samples.

    Attributes:
        samples: n; of tokens, how many of these.
        correct: how many it predicts correctly; None where a prediction is neither right nor wrong.
        loss_sum: the sum of their losses.
        labels: what is to be predicted, as metrics see it, ``[n, ...]``; None where nobody asks for more than sums.
        probabilities: what it predicts ``[n, k]``; likewise.
        values: of the task's further metrics, by name.
    """

    samples: int
    correct: int | None
    loss_sum: float
    labels: Truth | None = None
    probabilities: Predictions | None = None
    values: Mapping[str, float] = field(default_factory=dict)


Outcome = Trained | Failed


def reason(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
