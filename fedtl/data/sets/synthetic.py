"""Synthetic(α, β): logistic regression problems that differ from client to client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from fedtl.data.arrays import MOST_CLASSES
from fedtl.data.dataset import CHUNK, Dataset, chunks
from fedtl.data.memory import need_memory
from fedtl.data.settings import DataChoice


class Synthetic(DataChoice):
    """Synthetic(α, β) of FedProx (Li et al. 2020, arXiv 1812.06127), also used by pFedMe (arXiv 2006.08848).

    Client k draws, with d features and c classes,

    - its model: u_k ~ N(0, α), then every entry of W_k [d, c] and b_k [c] from N(u_k, 1);
    - its inputs: B_k ~ N(0, β), v_k [d] ~ N(B_k, 1), then x ~ N(v_k, Σ) with Σ = diag(j^-1.2), j = 1..d;
    - its labels: y = argmax(x W_k + b_k), without noise;
    - its size: 50 + floor(LogNormal(4, 2)); pFedMe takes five times that.

    α and β are standard deviations here, as in both papers' code; the papers' notation makes them variances
    (there is no difference at 0 and 1, which FedProx uses besides 0.5). α is how much the models differ, β the
    inputs. Inputs are not normalised.

    Attributes:
        clients: number of clients; FedProx has 30, pFedMe 100.
        alpha, beta: as above.
        dimension: d.
        classes: c.
        sizes: "fedprox" or "pfedme"; or a whole number, the size of every client: such clients are drawn thousands
            at a time and in float32, so that a million of them take seconds.
        iid: all clients share one W and b, and v_k = (B_k, ..., B_k): with β = 0 the papers' IID data.
        seed: of the data; the run's seed only decides how they are split.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "natural"}

    name: str = "synthetic"
    clients: int = Field(100, gt=0)
    alpha: float = Field(0.5, ge=0, le=1e9)
    beta: float = Field(0.5, ge=0, le=1e9)
    dimension: int = Field(60, ge=1)
    classes: int = Field(10, ge=2, le=MOST_CLASSES)
    sizes: Literal["fedprox", "pfedme"] | PositiveInt = "fedprox"
    iid: bool = False
    seed: int = Field(0, ge=0)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        # The papers call their IID data those of α = 0.
        return {"alpha": "with iid = true all clients share one model"} if self.iid and self.alpha else {}

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        alike = isinstance(self.sizes, int)
        least = self.sizes if isinstance(self.sizes, int) else 50  # samples of a client
        at_once = min(self.clients, CHUNK) if alike and not self.iid else 1
        need_memory(
            f"data.clients = {self.clients}, of {least} samples or more, data.dimension = {self.dimension}, "
            f"data.classes = {self.classes}",
            self.clients * least * (4 * self.dimension + 8) + 4 * at_once * self.classes * (self.dimension + least),
        )
        rng = np.random.default_rng(self.seed)
        sizes = self.draw_sizes(rng)
        x = np.empty((sizes.sum(), self.dimension), np.float32)
        y = np.empty(len(x), np.int64)
        if isinstance(self.sizes, int):
            self._draw_alike(self.sizes, x, y, rng)
        else:
            self._draw_each(sizes, x, y, rng)
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        return Dataset(x, y, self.classes, zero, one, owner=np.repeat(np.arange(self.clients), sizes))

    def draw_sizes(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Number of samples of each client."""
        if isinstance(self.sizes, int):
            return np.full(self.clients, self.sizes, np.int64)
        sizes = rng.lognormal(4, 2, self.clients).astype(np.int64) + 50
        return sizes * 5 if self.sizes == "pfedme" else sizes

    def _draw_each(
        self, sizes: NDArray[np.int64], x: NDArray[np.float32], y: NDArray[np.int64], rng: np.random.Generator
    ) -> None:
        """Fill ``x`` and ``y``, one client after another."""
        ends = np.cumsum(sizes)
        std = self._deviations()
        weights, bias = self._model(0.0, rng)
        for size, end in zip(sizes, ends, strict=True):
            if not self.iid:
                weights, bias = self._model(self.alpha * rng.standard_normal(), rng)
            centre = self.beta * rng.standard_normal() * np.ones(self.dimension)
            if not self.iid:
                centre += rng.standard_normal(self.dimension)
            mine = slice(end - size, end)
            x[mine] = centre + std * rng.standard_normal((size, self.dimension))
            y[mine] = np.argmax(x[mine] @ weights + bias, axis=1)

    def _draw_alike(self, size: int, x: NDArray[np.float32], y: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Fill ``x`` and ``y`` for clients of one size, :data:`~fedtl.data.dataset.CHUNK` of them at a time."""
        d, c, f32 = self.dimension, self.classes, np.float32

        def normal(*shape: int) -> NDArray[np.float32]:
            return rng.standard_normal(shape, f32)

        std = self._deviations().astype(f32)
        shared = normal(1, d, c), normal(1, 1, c)
        for clients in chunks(np.arange(self.clients)):
            n, rows = len(clients), slice(int(clients[0]) * size, (int(clients[-1]) + 1) * size)
            centre = f32(self.beta) * normal(n, 1, 1)
            weights, bias = shared
            if not self.iid:
                mean = f32(self.alpha) * normal(n, 1, 1)
                weights, bias = mean + normal(n, d, c), mean + normal(n, 1, c)
                centre = centre + normal(n, 1, d)
            inputs = centre + std * normal(n, size, d)
            x[rows] = inputs.reshape(-1, d)
            y[rows] = np.argmax(inputs @ weights + bias, axis=2).ravel()

    def _deviations(self) -> NDArray[np.float64]:
        """Standard deviations of an input's features, ``[d]``."""
        return np.power(np.arange(1, self.dimension + 1, dtype=np.float64), -1.2 / 2)

    def _model(self, mean: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return rng.normal(mean, 1, (self.dimension, self.classes)), rng.normal(mean, 1, self.classes)
