"""The clients' half of a method: local training between a download and an upload, as a paper writes it per client.

Shapes are those of one client. A stacked cohort of C clients has ``[C, …]`` in their place, and the same code serves
both, as its arithmetic is elementwise over the last dimensions. P is the number of trainable parameters.
"""

from __future__ import annotations

import copy
import functools
import inspect
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.clients.settings import Counted, Settings
from fedtl.data.batches import Budget
from fedtl.losses.batch import Batch
from fedtl.losses.context import Layers
from fedtl.losses.term import Term
from fedtl.models.vector import Layout
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.optimizers.stepper import Stepper

Vectors = dict[str, Tensor]
"""Named tensors: what is received, uploaded or remembered."""

State = Vectors
"""Named tensors that change from step to step, each in memory of its own."""

Memory = Vectors
"""Named tensors that stay on the client between rounds and never travel."""


class Gradient(Protocol):
    """``grad(w, batch)``: the local objective's gradient at ``w`` ``[P]``, of the same shape, in memory of its own."""

    def __call__(self, w: Tensor, batch: Batch, /) -> Tensor:
        """The gradient."""

    def own(self, v: Tensor, batch: Batch, /) -> Tensor:
        """The gradient at the client's own model, of which batch-norm has running statistics apart from the others'."""

    def shifted(self, w: Tensor, batch: Batch, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient where ``shift`` ``[k]`` is added to the logits of all samples, and the one at ``shift``.

        The latter is not the one at the bias of the model's head, which terms on parameters have a share in.
        """

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        """The model's logits ``[B, k]`` at ``w``, without gradient; running statistics stay as they are."""

    def features(self, w: Tensor, batch: Batch) -> Tensor:
        """What the model's head receives ``[B, f]``, likewise."""


OfSamples = Callable[[Tensor, Tensor], Tensor]
"""What is added up over samples, of features ``[B, f]`` and labels ``[B]``; a vector of any length."""


class Ensemble(NamedTuple):
    """A predictor whose logits are a weighted mean of several models'.

    Attributes:
        models: ``[k, P]``; the client's own first, with the running statistics that stay with it, and others with those
            of the received model.
        weights: ``[k]``.
    """

    models: Tensor
    weights: Tensor


Weighting = Literal["samples", "uniform", "settings"]
"""How clients count in a sum: by their training samples, all alike, or as ``strategy.weighting`` says."""

S = TypeVar("S", bound=Settings)

ARGUMENTS = {"start": "received, memory, probe", "finish": "state, count", "personal": "received, memory"}
"""The arguments of those methods whose signatures have changed since the first contract."""


Step = Callable[[State, Batch, Gradient], State]
"""Trains on one mini-batch."""


class Loop(NamedTuple):
    """Steps over mini-batches: a round of local training is a sequence of such loops.

    Attributes:
        step: trains on one mini-batch.
        budget: how many mini-batches, and of which size.
        then: the steps of the next mini-batches, where a method looks at several in turn; the budget's ``multiple``
            must then be ``1 + len(then)``.
    """

    step: Step
    budget: Budget
    then: tuple[Step, ...] = ()

    @property
    def turns(self) -> tuple[Loop, ...]:
        """A loop of one kind of step for each of them."""
        return tuple(Loop(step, self.budget) for step in (self.step, *self.then))


class Count(NamedTuple):
    """How much a client has trained in a round.

    Attributes:
        samples: n_i, how many training samples it holds, ``[1]``.
        steps: mini-batches, all loops together.
        of_loops: mini-batches of each loop.
    """

    samples: Tensor
    steps: int
    of_loops: tuple[int, ...]


class Probe(NamedTuple):
    """A look at the client's own samples before training.

    Attributes:
        loss: the mean of the task's loss (cross-entropy, squared error, …), without the objective's terms, of models
            ``[P]`` or ``[k, P]`` on the client's validation share, or on its training samples where the config keeps no
            such share: a number, or ``[k]``. A loss that compares samples, as survival's, is of all of them together.
            No gradient flows through it.
        training_loss: the same on its training samples, whatever the config.
        samples: n_i, how many training samples it holds, ``[1]``.
        label_counts: gives how many labelled training samples it holds of each class, ``[k]`` float32.
        sums: ``sums(w, of)`` is the sum over its labelled training samples, taken some at a time, of what
            ``of(features, labels)`` is for them: a vector, of the features ``[B, f]`` that the model ``w`` ``[P]`` in
            evaluation gives its head, and of labels ``[B]``.
    """

    loss: Callable[[Tensor], Tensor]
    training_loss: Callable[[Tensor], Tensor]
    samples: Tensor
    label_counts: Callable[[], Tensor]
    sums: Callable[[Tensor, OfSamples], Tensor]

    @classmethod
    def of_trial(cls, samples: Tensor, classes: int, features: Callable[[], int]) -> Probe:
        """One to try a method out with: all losses are 0, there is a sample of each class, and its features are 0.

        Args:
            samples: their number, ``[..., 1]``.
            classes: k.
            features: gives f, of the model.
        """
        lead = samples.shape[:-1]

        def loss(models: Tensor) -> Tensor:
            return models.new_zeros(models.shape[:-1])

        def sums(w: Tensor, of: OfSamples) -> Tensor:
            labels = torch.arange(classes, device=samples.device)
            one = of(samples.new_zeros(classes, features()), labels)
            return one.expand(*lead, *one.shape).clone()

        return cls(loss, loss, samples, lambda: samples.expand(*lead, classes).clone(), sums)


class ClientUpdate(ABC, Generic[S]):
    """Local training of one client, or of a stacked cohort; SGD from the global model unless a subclass says otherwise.

    The tensors in a state belong to it, each in memory of its own, so a step may change them in place: what ``start``
    returns under several names, or of the memory, is copied. A state in which one is called x, y, mask, more, labelled
    or buffers, or as a further stream of the batch is, is not traced. What is received and remembered may be shared,
    and is not changed in place; only ``received["w"]`` is the client's own copy. A step is a function of its state, its
    mini-batch and ``grad``: what it kept on ``self`` would be the same for every client once the step is traced, and is
    refused then. Only trainable parameters are seen here; batch-norm statistics follow the forward passes and are kept
    by the engine, in two sets where ``own_statistics`` says so.

    Args:
        settings: the method's options.
        layout: of the model's vector; names its parts.
    """

    sums: ClassVar[Mapping[str, Weighting]] = {"w": "settings"}
    """The uploads that reach the server as sums over clients, and how clients count in each."""

    rows: ClassVar[tuple[str, ...]] = ()
    """The uploads that reach the server client by client; they are in no sum."""

    layers: ClassVar[tuple[str, ...]] = ("features",)
    """The layers that ``answer`` reads besides the logits."""

    tasks: ClassVar[frozenset[str] | None] = None
    """The tasks for which the method is defined, by name; None: all."""

    personalises: ClassVar[bool] = False
    """Whether the method gives each client a model of its own to be scored with."""

    goes_on: ClassVar[bool] = False
    """Whether training goes on from the client's own model, not from the download."""

    needs_whole_model: ClassVar[bool] = False
    """Whether its local training makes sense only where no part of the model stays at the client."""

    serves_untrained: bool = False
    """Whether a client that has never trained is served by what it begins with: by the first values of the parts that
    stay at it, or by the model that ``personal`` makes of its ``first_memory``; else it counts as one without a model
    of its own."""

    own_statistics: Literal["initial", "received"] | None = None
    """Whether the client's own model has batch-norm statistics of its own, which ``grad.own`` moves and which stay
    beside the memory: where they begin, with those of the run's initial (a restart's) or of the received model. None:
    the own model's are those of the model that travels, and what ``grad.own`` moves is forgotten after the round."""

    settings_type: ClassVar[type[Settings]] = Settings
    """The class of its options, where a registry row names the client update alone."""

    _epochs: int | None = None

    def __init__(self, settings: S, layout: Layout) -> None:
        self.settings, self.layout = settings, layout
        chosen = settings if isinstance(settings, OptimizerSettings) else OptimizerSettings()
        self.optimizer = Stepper(chosen, self.driven_lr(settings), layout)
        """What ``strategy.optimizer`` and its companions ask for; a method that has these options steps by it."""
        self.budget = settings.budget
        self.stragglers = settings.stragglers
        """The probability that a client stops early in a round."""

    def __init_subclass__(cls) -> None:
        """Refuse a method with other arguments than the contract's, in a sentence: it may be written for the first one.

        Raises:
            ConfigError: it is.
        """
        super().__init_subclass__()
        for name, arguments in ARGUMENTS.items():
            method = cls.__dict__.get(name)
            if method is not None and len(inspect.signature(method).parameters) != 1 + len(arguments.split(", ")):
                raise ConfigError(
                    f"{cls.__name__}.{name}{inspect.signature(method)}: it is {name}(self, {arguments}) now; "
                    "CHANGELOG.md says what has moved"
                )

    @classmethod
    def counts(cls, settings: Settings) -> dict[str, Counted]:
        """How clients count in each sum under these settings; a method may have options for some."""
        return {name: settings.weighting if how == "settings" else how for name, how in cls.sums.items()}

    @classmethod
    def objective(cls, settings: Settings, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """The terms of the local objective, out of those that the config asks for: a method may add its own."""
        return terms

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """Options of these settings that do nothing, each with the reason: who asks for one is told so."""
        return {}

    @classmethod
    def idle_under(cls, settings: Settings, terms: tuple[Term, ...]) -> str | None:
        """Why these terms leave it nothing to do of what distinguishes it from plain averaging; None where they do."""
        return None

    def driven_lr(self, settings: S) -> float:
        """The method's own learning rate of the steps that the optimiser drives."""
        return settings.lr

    def first_memory(self, received: Vectors) -> Memory:
        """The memory of a client that has not trained yet, of which this is the first download.

        Here alone, ``received["initial"]`` is the run's initial model ``[P]``, or that of the last restart.
        It names all tensors that ``finish`` keeps, as clients with and without a memory train in one stack; a method
        that does otherwise is refused before the first round.
        """
        return {}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """Begin a round from the download and the client's memory; never traced, so it may choose and gather."""
        return {"w": received["w"], **self.optimizer.init(received["w"])}

    def loops(self) -> Sequence[Loop]:
        """The round's loops; none for a method that only chooses among models."""
        return (Loop(self.step, self.budget),)

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """Train on one mini-batch: w ← w - η ∇f_i(w; batch)."""
        return self.optimizer.step(state, grad(state["w"], batch))

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """End the round: the uploads, by the names of ``sums`` and ``rows``, and the memory to keep."""
        return {"w": state["w"]}, {}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """The client's own model ``[P]``, out of a download and a memory that ``finish`` gave."""
        raise NotImplementedError(f"{type(self).__name__} has no personalised model")

    def only_uploads(self, received: Vectors) -> bool:
        """Whether a round that begins with this download is for its uploads' sake alone.

        What ``finish`` keeps is kept; but optimisers, batch-norm statistics of one's own and the model that terms
        remember are afterwards what they were before, and clients send no statistics for terms.
        """
        return False

    def ensemble(self, received: Vectors, memory: Memory) -> Ensemble | None:
        """The models whose logits together are the client's own; None where ``personal`` alone is its model."""
        return None

    def answer(self, seen: Layers, own: Layers, labels: Tensor) -> Tensor:
        """The logits of a client's own predictor that is no vector of parameters, as one with nearest neighbours.

        Args:
            seen: what the personalised model makes of ``B`` samples.
            own: what it makes of the client's ``n`` training samples.
            labels: of those, ``[n]``.

        Returns:
            ``[B, classes]``; the logarithms of probabilities are logits.
        """
        return seen["logits"]

    def for_scoring(self) -> ClientUpdate[Any]:
        """The update that makes a personalised model out of the present download: mostly this one."""
        return self

    def for_unseen(self) -> ClientUpdate[Any]:
        """The update by which a client that never trains with the others makes a model of its own when it is scored.

        It begins without a memory, trains on the client's own training samples, and its ``personal`` makes the model
        of what it keeps. Mostly the one of ``for_scoring``. Where parts of the model stay at clients and the method
        gives them no other model, those parts alone are trained, whatever else a step moves.
        """
        return self.for_scoring()

    @classmethod
    def trains_unseen(cls, settings: Settings) -> bool:
        """Whether that update has steps, of which there can be more or fewer."""
        return True

    @classmethod
    def unmoved(cls, settings: Settings) -> tuple[str, ...]:
        """Parts of the model that rounds leave as they began: they do not travel, as everybody has them.

        Unlike ``strategy.frozen``, ``for_scoring`` may train them. That no step moves them is for the method to see to.
        """
        return ()

    # Derived from the above.

    @functools.cached_property
    def round_loops(self) -> tuple[Loop, ...]:
        """The loops, made once: a trace belongs to a step."""
        return tuple(self.loops())

    @functools.cached_property
    def upload_names(self) -> frozenset[str]:
        """The names that ``finish`` uploads."""
        return frozenset((*self.sums, *self.rows))

    @classmethod
    def uploads(cls) -> bool:
        """Whether anything reaches the server."""
        return bool(cls.sums or cls.rows)

    @classmethod
    def more_than_a_model(cls) -> str:
        """What is uploaded besides a sum of models, in words; empty if nothing is."""
        sums, rows = [repr(name) for name in cls.sums if name != "w"], [repr(name) for name in cls.rows]
        summed = f"the sum{'s' * (len(sums) > 1)} of {' and '.join(sums)}" if sums else ""
        single = f"{' and '.join(rows)} client by client" if rows else ""
        return ", and ".join(filter(None, (summed, single)))

    @classmethod
    def makes_for_scoring(cls) -> bool:
        """Whether a model of one's own is made when it is scored, and by no round of training."""
        return cls.for_scoring is not ClientUpdate.for_scoring

    @classmethod
    def answers(cls) -> bool:
        """Whether the client's own predictor is more than a model's vector."""
        return cls.answer is not ClientUpdate.answer

    def of_epochs(self, epochs: int) -> ClientUpdate[S]:
        """The same local training, of so many passes over the client's samples in each loop."""
        other = copy.copy(self)
        loops = tuple(loop._replace(budget=loop.budget.of_epochs(epochs)) for loop in self.round_loops)
        other.__dict__["round_loops"] = loops
        other._epochs = epochs
        return other

    def without_stragglers(self) -> ClientUpdate[S]:
        """The same local training, which no client stops early."""
        if not self.stragglers:
            return self  # with its traces
        other = copy.copy(self)
        other.stragglers = 0.0
        return other

    def of_part(self, part: Tensor) -> ClientUpdate[S]:
        """The same local training of a part of the model, the numbers at which ``part`` ``[P]`` is 1.

        All others keep their bits, and no gradient reaches them.
        """

        @functools.cache
        def on(device: torch.device) -> tuple[Tensor, Tensor]:
            mask = part.to(device)
            return mask, mask.bool()

        def of_step(inner: Step) -> Step:
            def step(state: State, batch: Batch, grad: Gradient) -> State:
                mask, moves = on(state["w"].device)
                before = state["w"].clone()
                state = inner(state, batch, _GradientOfPart(grad, mask))
                return {**state, "w": torch.where(moves, state["w"], before)}

            return step

        other = copy.copy(self)
        other.__dict__["round_loops"] = tuple(
            Loop(of_step(loop.step), loop.budget, tuple(map(of_step, loop.then))) for loop in self.round_loops
        )
        return other

    def shortened(self, steps: int) -> ClientUpdate[S]:
        """The same local training, of so many steps in each loop."""
        short = copy.copy(self)
        loops = tuple(loop._replace(budget=loop.budget.of_steps(steps)) for loop in self.round_loops)
        short.__dict__["round_loops"] = loops
        return short

    def with_layout(self, layout: Layout) -> ClientUpdate[S]:
        """The same local training of another model."""
        update = type(self)(self.settings, layout)
        update.stragglers = self.stragglers
        return update if self._epochs is None else update.of_epochs(self._epochs)


class _GradientOfPart(NamedTuple):
    """A gradient of which only a part of the model's numbers is not 0.

    Attributes:
        whole: the gradient.
        part: 1 for those, else 0, ``[P]``.
    """

    whole: Gradient
    part: Tensor

    def __call__(self, w: Tensor, batch: Batch, /) -> Tensor:
        return self.whole(w, batch).mul_(self.part)

    def own(self, v: Tensor, batch: Batch, /) -> Tensor:
        return self.whole.own(v, batch).mul_(self.part)

    def shifted(self, w: Tensor, batch: Batch, shift: Tensor) -> tuple[Tensor, Tensor]:
        of_w, of_shift = self.whole.shifted(w, batch, shift)
        return of_w.mul_(self.part), of_shift

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        return self.whole.logits(w, batch)

    def features(self, w: Tensor, batch: Batch) -> Tensor:
        return self.whole.features(w, batch)
