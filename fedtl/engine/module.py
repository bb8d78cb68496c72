"""A model and its objective as engines call them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedtl.losses.batch import Batch
from fedtl.losses.context import Layers, TermContext
from fedtl.losses.objective import Objective
from fedtl.models.composite import Composite, model_of
from fedtl.models.head import head_name, layer_outputs
from fedtl.models.vector import Layout, Slot


class ClientObjective(nn.Module):
    """What a client differentiates: a mini-batch's objective, as a function of ``model.…``'s parameters and buffers.

    Args:
        module: the model, with the modules of terms.
        layout: of its vector.
        objective: of a client.
        frozen: modules that terms use and that never change, by name.
    """

    def __init__(
        self, module: nn.Module, layout: Layout, objective: Objective, frozen: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.model, self.objective = module, objective
        self._layout, self._frozen = layout, dict(frozen or {})
        self._layers = sorted(objective.layers - {"logits", "probabilities"})
        # In lists, as a module's own attributes are slow, and the model is not to be registered twice.
        self._inner = [model_of(module)]
        self.watches_input = True
        """Whether a pass is refused whose samples an earlier pass has changed; not under vmap."""
        self._changed: dict[int, int] = {}
        self._vector: list[Callable[[], Tensor]] = [
            lambda: layout.flat(p for p in module.parameters() if p.requires_grad)
        ]

    def forward(
        self, batch: Batch, external: Mapping[str, Tensor], parameters: Callable[[], Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The objective of one client's mini-batch, and its terms' values.

        Args:
            batch: of one client.
            external: tensors from outside, as :class:`~fedtl.losses.context.TermContext` takes them.
            parameters: gives the trainable parameters ``[P]``, attached to the gradient.
        """
        self._vector[0] = parameters
        return self.objective(TermContext(self, batch, external))

    def run(self, x: Tensor) -> Layers:
        """See :class:`~fedtl.losses.context.Net`."""
        return self.layers(x, self._layers)

    def layers(self, x: Tensor, layers: Sequence[str]) -> Layers:
        """The logits of samples and the outputs of these layers."""
        if self.objective.predictor is not None:
            layers = sorted({*layers, *self._layers} - {"logits"})  # those that it is made of
        if not self.watches_input:
            return self._predicted(layer_outputs(self._inner[0], x, layers))
        self._refuse_changed(x)
        before = _changes(x)
        outputs = layer_outputs(self._inner[0], x, layers)
        if before is not None and x._version != before:
            self._changed = {x.data_ptr(): x._version}
        return self._predicted(outputs)

    def predict(self, x: Tensor) -> Tensor:
        """The logits ``[B, k]`` of the client's own predictor, where a term makes it; see :meth:`Term.logits`."""
        return self._predicted(layer_outputs(self._inner[0], x, self._layers))["logits"]

    def layer_under(self, numbers: Mapping[str, Tensor], x: Tensor, layer: str) -> Tensor:
        """What training sees of a layer with these numbers in place of the model's, by their names in it."""
        if self.objective.predictor is None or layer != "logits":
            return layer_of(self.model, numbers, x, layer)
        names = {f"local.model.{name}": tensor for name, tensor in numbers.items()}
        predicted: Tensor = functional_call(_Predictor(self), names, (x,))
        return predicted

    def _predicted(self, layers: Layers) -> Layers:
        """The model's layers with the logits of the client's own predictor."""
        predictor = self.objective.predictor
        logits = None if predictor is None else predictor.logits(self, layers)
        return layers if logits is None else {**layers, "logits": logits}

    def _refuse_changed(self, x: Tensor) -> None:
        """Raise if an earlier pass has changed these very samples.

        A model that is seen to do so when it is built is given copies; this is for one that does so now and then.
        """
        if self._changed and _changes(x) is not None and self._changed.get(x.data_ptr()) == x._version:
            raise RuntimeError(
                "the model has changed its input in place, and the same samples are looked at again; let its forward "
                "begin with x = x.clone()"
            )

    def run_under(self, vector: Tensor, x: Tensor, layers: Sequence[str] | None = None) -> Layers:
        """See :class:`~fedtl.losses.context.Net`; the objective's layers, or these."""
        if self.watches_input:
            self._refuse_changed(x)
        P = self._layout.parameters
        tensors = self._layout.views(vector[:P]) | self._layout.buffer_views(vector[P:])
        outputs = _Outputs(self.model, self._layers if layers is None else layers)
        with torch.no_grad(), self.evaluating():
            seen: Layers = functional_call(outputs, {f"model.{name}": t for name, t in tensors.items()}, (x,))
        return seen

    def module(self, name: str) -> nn.Module:
        """See :class:`~fedtl.losses.context.Net`."""
        if name in self._frozen:
            return self._frozen[name]
        assert isinstance(self.model, Composite)
        return self.model.extras[name]

    def head(self) -> nn.Module:
        """See :class:`~fedtl.losses.context.Net`."""
        model = model_of(self.model)
        return model.get_submodule(head_name(model))

    def slots(self, part: str) -> dict[str, Slot]:
        """See :class:`~fedtl.losses.context.Net`."""
        own = "model." if isinstance(self.model, Composite) else ""
        if part == "head":
            prefix = f"{own}{head_name(model_of(self.model))}."
        else:
            prefix = own if part == "model" else f"extras.{part}."
        return {s.name.removeprefix(prefix): s for s in self._layout.slots if s.name.startswith(prefix)}

    def parameters_vector(self) -> Tensor:
        """See :class:`~fedtl.losses.context.Net`."""
        return self._vector[0]()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """See :class:`~fedtl.losses.context.Net`."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)


class _Predictor(nn.Module):
    def __init__(self, local: ClientObjective) -> None:
        super().__init__()
        self.local = local

    def forward(self, x: Tensor) -> Tensor:
        return self.local.predict(x)


class LocalGradient(NamedTuple):
    """A client's gradient, and what its model makes of samples; see :class:`~fedtl.clients.contract.Gradient`.

    Attributes:
        gradients: gives, at a model and a mini-batch, the model's gradient and those of further leaves, if any.
        gradients_of_own: the same at the client's own model, with the second set of buffers.
        layer: the outputs of a layer, by its name.
    """

    gradients: Callable[..., tuple[Tensor, ...]]
    gradients_of_own: Callable[..., tuple[Tensor, ...]]
    layer: Callable[[Tensor, Batch, str], Tensor]

    def __call__(self, w: Tensor, batch: Batch, /) -> Tensor:
        """The gradient."""
        return self.gradients(w, batch)[0]

    def own(self, v: Tensor, batch: Batch, /) -> Tensor:
        """The gradient at the client's own model."""
        return self.gradients_of_own(v, batch)[0]

    def shifted(self, w: Tensor, batch: Batch, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient under shifted logits, and the one at the shift."""
        leaf = shift.detach().requires_grad_()
        of_model, of_shift = self.gradients(w, batch.shifted(leaf), leaf)
        return of_model, of_shift

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        """The model's logits."""
        return self.layer(w, batch, "logits")

    def features(self, w: Tensor, batch: Batch) -> Tensor:
        """What its head receives."""
        return self.layer(w, batch, "features")


def layer_of(module: nn.Module, numbers: Mapping[str, Tensor], x: Tensor, layer: str) -> Tensor:
    """A layer's outputs, ``"logits"`` or ``"features"``, of a module that has other parameters and buffers.

    Args:
        module: the model, with the modules of terms.
        numbers: by the module's own names.
        x: samples.
        layer: its name.
    """
    if layer == "logits":
        logits: Tensor = functional_call(module, dict(numbers), (x,))
        return logits
    named = {f"model.{name}": tensor for name, tensor in numbers.items()}
    layers: Layers = functional_call(_Outputs(module, [layer]), named, (x,))
    return layers[layer]


def _changes(x: Tensor) -> int | None:
    """How often a tensor has been changed in place; None of one of inference mode, which does not count it."""
    return None if x.is_inference() else x._version


class _Outputs(nn.Module):
    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, x: Tensor) -> Layers:
        return layer_outputs(model_of(self.model), x, self.layers)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generator that a device's dropout draws from.

    Not ``torch.manual_seed``: without a GPU it keeps a formatted traceback of each call, for a CUDA that may
    yet be initialised, which takes longer than a training step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def forked_rng(device: torch.device) -> AbstractContextManager[None]:
    """In the ``with`` block random numbers are drawn from copies of the generators that a device uses."""
    return torch.random.fork_rng([device.index or 0] if device.type == "cuda" else [])
