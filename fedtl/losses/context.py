"""What a term sees of one client's mini-batch: streams of samples through the model, each run once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from fedtl.losses.batch import OFFSET, PARAMETERS, SCALE, SHIFT, Batch, offset_of
from fedtl.models.vector import Slot
from fedtl.tasks.contract import as_column

Layers = dict[str, Tensor]
"""A model's outputs for a batch by layer: ``"logits"``, ``"features"``, a submodule's name; ``[B, ...]``."""


class Net(Protocol):
    """A model as a term's context uses it; an engine provides it."""

    def run(self, x: Tensor) -> Layers:
        """The model that is being trained."""

    def run_under(self, vector: Tensor, x: Tensor) -> Layers:
        """The same network with the parameters of another vector ``[d]``, in evaluation mode, without gradient."""

    def module(self, name: str) -> nn.Module:
        """A term's own module, or a frozen one."""

    def head(self) -> nn.Module:
        """What makes the model's logits of its features."""

    def slots(self, part: str) -> Mapping[str, Slot]:
        """Where the tensors of ``"model"``, its ``"head"``, or a term's own module stand in a model's vector."""

    def parameters_vector(self) -> Tensor:
        """The trainable parameters ``[P]``, attached to the gradient."""

    def evaluating(self) -> AbstractContextManager[None]:
        """A block in which the model is in evaluation mode."""


class Stream:
    """Samples of one kind, and what models make of them; each model runs when it is first asked for, once.

    Attributes:
        x: model inputs ``[B, *shape]``.
        mask: ``[B]`` 1 for a sample, 0 for padding; None where all are samples.
    """

    def __init__(
        self,
        x: Tensor,
        mask: Tensor | None,
        run: Callable[[Tensor], Layers],
        context: TermContext,
        y: Tensor | None = None,
    ) -> None:
        self.x, self.mask, self._run, self._context, self._y = x, mask, run, context, y
        self._found: Layers | None = None
        self._observed: Layers | None = None
        self._under: dict[str, Stream] = {}

    @property
    def y(self) -> Tensor:
        """What is to be predicted of its samples: labels ``[B]``, or numbers ``[B, m]``, of one each ``[B]``.

        The source has it, and the replay; :attr:`TermContext.labels` is the same with a dimension of one left in.
        """
        if self._y is None:
            raise RuntimeError(
                "a term reads y of samples without labels; let it need 'source', and read context.source.y"
            )
        return as_column(self._y) if self._y.is_floating_point() else self._y

    @property
    def logits(self) -> Tensor:
        """Model outputs ``[B, k]``."""
        return self._layers()["logits"]

    @property
    def features(self) -> Tensor:
        """The head's inputs ``[B, f]``; a term that reads them says so in ``needs``."""
        return self.layer("features")

    def layer(self, name: str) -> Tensor:
        """A layer's output ``[B, n]``: ``"features"``, ``"logits"``, ``"probabilities"``, a submodule's name."""
        layers = self._layers()
        if name == "probabilities":
            return layers["logits"].softmax(-1)
        if name not in layers:
            raise RuntimeError(f"a term reads {name!r} without naming it in its needs")
        return layers[name]

    def under(self, model: str) -> Stream:
        """The same samples through another model, without gradient; a term names it as ``"model:..."``.

        ``"global"``: the one that the client received; ``"previous"``: what it had trained when it last took
        part, since the global one last began anew; ``"before"``: that, or the model that it began with, the run's first
        one or a restart's; ``"phase"``: the global one when the phase began; ``"initial"``: the run's first one.
        """
        if model not in self._under:
            vector, net = self._context.external(f"model:{model}"), self._context.net
            self._under[model] = Stream(self.x, self.mask, lambda x: net.run_under(vector, x), self._context, self._y)
        return self._under[model]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of per-sample ``values`` ``[B]`` over the samples that are not padding."""
        if self.mask is None:
            return values.mean()
        return (values * self.mask).sum() / self.mask.sum()

    def _layers(self) -> Layers:
        if self._found is not None:
            return self._found
        if self._context.observed:  # for a term that trains nothing: leave batch-norm and random numbers alone
            if self._observed is None:
                with self._context.net.evaluating():
                    self._observed = self._run(self.x)
            return self._observed
        self._found = self._run(self.x)
        return self._found


class TermContext:
    """What a term sees of one client's mini-batch.

    Attributes:
        net: the model.
        observed: whether a term is being evaluated that trains nothing.
    """

    def __init__(self, net: Net, batch: Batch, external: Mapping[str, Tensor]) -> None:
        self.net, self.observed = net, False
        self._batch, self._external = batch, external
        self._streams: dict[str, Stream] = {}

    def has(self, need: str) -> bool:
        """Whether the client's mini-batch offers something, as terms name their needs."""
        if need.startswith(("model:", "statistic:")):
            return need in self._external
        if need == "source":
            return self._batch.labelled
        if need == "target":
            return "target" in self._batch.more or not self._batch.labelled
        if need == "views":
            return "view_a" in self._batch.more
        return need in self._batch.more

    def stream(self, name: str) -> Stream:
        """A stream by name: ``"source"``, ``"target"``, ``"view_a"``, ``"view_b"``, ``"public"``.

        ``"samples"`` is what the client trains on, whatever it is: its source, or its target if it has no source;
        ``"unlabelled"`` its target, or its source's samples if it has no target.
        """
        batch = self._batch
        if name == "samples" or (name == "unlabelled" and "target" not in batch.more):
            name = "source" if batch.labelled else "target"
        elif name == "unlabelled":
            name = "target"
        if name not in self._streams:
            if name == ("source" if batch.labelled else "target"):
                known = batch.y if batch.labelled else None
                samples = Stream(batch.x, batch.mask, partial(self._run, OFFSET), self, known)
            elif name in batch.more:
                known = batch.more.get(f"{name}_y")
                samples = Stream(batch.more[name], None, partial(self._run, offset_of(name)), self, known)
            else:
                raise RuntimeError(f"a term reads the stream {name!r} without naming it in its needs")
            self._streams[name] = samples
        return self._streams[name]

    def _run(self, offset: str, x: Tensor) -> Layers:
        """The model's layers for samples, with the logits that the mini-batch asks for.

        Args:
            offset: what the offset of those samples' logits is called, where they have one.
            x: the samples.
        """
        layers, more = self.net.run(x), self._batch.more
        if SHIFT in more:
            layers = {**layers, "logits": layers["logits"] + more[SHIFT]}
        if offset in more:
            layers = {**layers, "logits": more[SCALE] * layers["logits"] + more[offset]}
        return layers

    def tensor(self, name: str) -> Tensor:
        """What a stream brings besides samples, as ``"replay_y"``, the labels of ``"replay"``."""
        return self._batch.more[name]

    def external(self, name: str) -> Tensor:
        """A tensor from outside: another model's vector ``[d]``, or a statistic; a term names it in its needs."""
        if name not in self._external:
            raise RuntimeError(f"a term reads {name!r} without naming it in its needs")
        return self._external[name]

    def module(self, name: str) -> nn.Module:
        """A module of the term's own."""
        return self.net.module(name)

    @property
    def labels(self) -> Tensor:
        """Of the source, ``[B]`` int64."""
        if not self._batch.labelled:
            raise RuntimeError("a term reads labels of unlabelled samples; let it need 'source'")
        return self._batch.y

    @property
    def source(self) -> Stream:
        """The client's labelled samples."""
        return self.stream("source")

    @property
    def target(self) -> Stream:
        """The client's unlabelled samples."""
        return self.stream("target")

    @property
    def progress(self) -> Tensor:
        """p, from 0 in the first round (of the phase) to 1 in the last; a scalar."""
        return self.external("progress")

    @property
    def w(self) -> Tensor:
        """The model's trainable parameters ``[P]``; or what the mini-batch has in their place, without gradient."""
        own, more = self.net.parameters_vector(), self._batch.more
        return more[PARAMETERS] + 0 * own if PARAMETERS in more else own  # an objective of nothing else has a gradient

    @property
    def mask(self) -> Tensor | None:
        """Of the source: ``[B]`` 1 for a sample, 0 for padding; None where all are samples."""
        return self._batch.mask

    @property
    def logits(self) -> Tensor:
        """Of the source, ``[B, k]``."""
        return self.stream("samples").logits

    @property
    def features(self) -> Tensor:
        """Of the source, ``[B, f]``."""
        return self.stream("samples").features

    def mean(self, values: Tensor) -> Tensor:
        """Mean of per-sample ``values`` ``[B]`` over the source's samples that are not padding."""
        return self.stream("samples").mean(values)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """A block in which what is evaluated trains nothing."""
        self.observed = True
        try:
            with torch.no_grad():
                yield
        finally:
            self.observed = False
