"""The server's own model and public samples, for methods whose server trains."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtl.data.samples import Samples
from fedtl.models.composite import model_of
from fedtl.models.vector import Layout


class Bench:
    """A model to train at the server, and what it may train on.

    Args:
        module: the model; it is not changed.
        layout: of its vector.
        samples: all of the run's.
        whole: fills a vector of what travels up to the whole model ``[d]``.
        sent: what of a whole model ``[d]`` travels.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        samples: Samples,
        whole: Callable[[Tensor], Tensor],
        sent: Callable[[Tensor], Tensor],
    ) -> None:
        self._module, self._layout, self._samples = module, layout, samples
        self._whole, self._sent = whole, sent

    @property
    def public(self) -> NDArray[np.int64]:
        """The public samples."""
        return self._samples.federation.public

    @property
    def device(self) -> torch.device:
        """Where the model trains."""
        return self._samples.device

    def inputs(self, places: NDArray[np.int64]) -> Tensor:
        """Model inputs of the public samples at some places, ``[n, *shape]``."""
        return self._samples.batch(self.public[places])[0]

    def trained(self, state: dict[str, Tensor], train: Callable[[nn.Module], None]) -> dict[str, Tensor]:
        """The global model after ``train`` has changed it in place.

        Args:
            state: the server's, with the model's ``"w"``, and its ``"buffers"`` if it has any.
            train: gets the model as a module that gives logits.

        Returns:
            The state with the new model in it.
        """
        w, buffers = state["w"], state.get("buffers", state["w"][:0])
        student = deepcopy(self._module)
        self._layout.load(student, self._whole(torch.cat([w, buffers])))
        train(model_of(student))
        vector = self._sent(self._layout.flatten(student)).cpu()
        parts = {"w": vector[: len(w)], "buffers": vector[len(w) :]}
        return {**state, **{name: parts[name] for name in parts if name in state}}
