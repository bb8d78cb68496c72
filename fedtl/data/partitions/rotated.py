"""Feature shift: each client's images stand at its own angle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.dataset import Samples, chunks
from fedtl.data.federation import Shards
from fedtl.data.partitions.on_top import OnTop


class Rotated(OnTop):
    """Each client's images are rotated counter-clockwise by its angle.

    Multiples of 90 degrees are exact; between them pixels are interpolated bilinearly, and what comes from
    outside the image is 0.

    Attributes:
        angles: in degrees; client i has ``angles[i mod len(angles)]``. [0, 90, 180, 270] gives the four
            groups of Ghosh et al. 2020 (IFCA, arXiv 2006.04088).
        max_angle: where no angles are given, client i has ``max_angle * i / (N - 1)``.
    """

    name: str = "rotated"
    angles: tuple[float, ...] = ()
    max_angle: float = Field(90.0, ge=-360, le=360)

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {"max_angle": "angles gives each client's"} if self.angles else {}

    def shift(self, x: Samples, shards: Shards, seed: int) -> Samples:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        x = self.base.shift(x, shards, seed)
        if x.ndim != 4:
            raise ConfigError(
                f"data.partition.name = {self.name!r}: only images [channels, height, width] can be rotated, "
                f"but a sample has shape {list(x.shape[1:])}"
            )
        angle_of = self.angles_of(len(shards))[shards.client_of] % 360
        result = x.copy()
        by_angle = np.argsort(angle_of, kind="stable")
        angles, starts = np.unique(angle_of[by_angle], return_index=True)
        for angle, entries in zip(angles, np.split(by_angle, starts[1:]), strict=True):
            for rows in chunks(shards.order[entries]):
                result[rows] = rotate(x[rows], float(angle))
        return result

    def angles_of(self, clients: int) -> NDArray[np.float64]:
        """Each client's angle in degrees."""
        if self.angles:
            return np.resize(np.array(self.angles, np.float64), clients)
        return np.linspace(0, self.max_angle, clients)


def rotate(images: Samples, degrees: float) -> Samples:
    """Rotate ``[..., height, width]`` counter-clockwise about its centre; height and width stay."""
    height, width = images.shape[-2:]
    quarters, rest = divmod(degrees, 90)
    if rest == 0 and (height == width or quarters % 2 == 0):
        turned: Samples = np.rot90(images, int(quarters), axes=(-2, -1))
        return turned
    flat = images.reshape(*images.shape[:-2], height * width)
    result = np.zeros(flat.shape, np.float32)
    for source, weight in _corners(height, width, np.deg2rad(degrees)):
        result += weight * flat[..., source]
    result = result.reshape(images.shape)
    return np.rint(result).astype(np.uint8) if images.dtype == np.uint8 else result


def _corners(height: int, width: int, angle: float) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The four pixels that each pixel of the rotated image mixes: flat indices and weights."""
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    row, column = np.mgrid[:height, :width].reshape(2, -1)
    up, right = middle_row - row, column - middle_column
    # Where the pixel came from: turned back by the angle.
    from_row = middle_row - (np.cos(angle) * up - np.sin(angle) * right)
    from_column = middle_column + np.cos(angle) * right + np.sin(angle) * up
    top, left = np.floor(from_row).astype(np.int64), np.floor(from_column).astype(np.int64)
    corners = []
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - abs(from_row - r)) * (1 - abs(from_column - c))
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        source = np.clip(r, 0, height - 1) * width + np.clip(c, 0, width - 1)
        corners.append((source, np.where(inside, weight, 0).astype(np.float32)))
    return corners
