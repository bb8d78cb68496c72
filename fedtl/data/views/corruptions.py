"""Common corruptions of images, as in CIFAR-10-C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedtl.data.dataset import Samples

Corruption = Literal["gaussian-noise", "gaussian-blur", "defocus-blur", "contrast", "brightness", "pixelate"]

STRENGTHS = 5

CONSTANTS: dict[str, tuple[Any, ...]] = {
    "gaussian-noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "gaussian-blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "defocus-blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
}
"""What each takes at its five strengths, as Hendrycks and Dietterich 2019 (arXiv 1903.12261) made CIFAR-10-C, by their
``make_cifar_c.py`` at commit ca36008. Standard deviations are of images from 0 to 1 and in pixels, as there; a
defocus has the radius of its disk and the standard deviation by which that is smoothed."""

TRUNCATE = 4.0
"""Standard deviations after which a blur ends, as in SciPy and scikit-image."""


def corrupt(images: Samples, kind: Corruption, strength: int, rng: np.random.Generator) -> Samples:
    """Corrupted images, from 0 to 255; bytes are rounded, where the authors cut off what is behind the point.

    Args:
        images: ``[n, channels, height, width]`` from 0 to 255, bytes or other numbers.
        kind: what is done to them.
        strength: 1 to 5.
        rng: of noise.
    """
    constant = CONSTANTS[kind][strength - 1]
    changed = np.clip(_MAKE[kind](images, constant, rng), 0, 255)
    if images.dtype == np.uint8:
        return np.asarray(np.rint(changed), np.uint8)
    return np.asarray(changed, np.float32)


def _gaussian_noise(images: Samples, sigma: float, rng: np.random.Generator) -> NDArray[Any]:
    """Noise of standard deviation ``sigma``, drawn for every number."""
    noise = rng.standard_normal(images.shape, np.float32)
    return images + noise * np.float32(255 * sigma)


def _gaussian_blur(images: Samples, sigma: float, rng: np.random.Generator) -> NDArray[Any]:
    """A Gaussian of ``sigma`` pixels over height and width; beyond the border the last pixel goes on."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    values = images.astype(np.float64)
    for axis in (2, 3):
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        padded, length = np.pad(values, pad, mode="edge"), images.shape[axis]
        values = sum(
            weight / weights.sum() * np.take(padded, range(start, start + length), axis)
            for start, weight in enumerate(weights)
        )
    return values


def _defocus_blur(images: Samples, lens: tuple[float, float], rng: np.random.Generator) -> NDArray[Any]:
    """The mean over a smoothed disk; beyond the border the image is mirrored, its last pixel not repeated."""
    kernel = defocus_kernel(*lens)
    reach = len(kernel) // 2
    padded = np.pad(images.astype(np.float64), [(0, 0), (0, 0), (reach, reach), (reach, reach)], mode="reflect")
    height, width = images.shape[2:]
    values = np.zeros(images.shape)
    for (row, column), weight in np.ndenumerate(kernel):
        if weight:
            values += weight * padded[:, :, row : row + height, column : column + width]
    return values


def defocus_kernel(radius: float, sigma: float) -> NDArray[np.float64]:
    """A disk of so many pixels, smoothed by three pixels of a Gaussian each way, ``[odd, odd]``; its sum is 1."""
    reach = int(radius) + 1
    place = np.arange(-reach, reach + 1)
    disk = (place**2 + place[:, None] ** 2 <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * (np.arange(-1, 2) / sigma) ** 2)
    smooth = np.pad(disk / disk.sum(), 1)
    for axis in (0, 1):
        smooth = sum(tap / taps.sum() * np.roll(smooth, shift, axis) for tap, shift in zip(taps, (-1, 0, 1)))
    return np.asarray(smooth[1:-1, 1:-1])


def _contrast(images: Samples, factor: float, rng: np.random.Generator) -> NDArray[Any]:
    """Differences from an image's mean, of each channel, times ``factor``."""
    mean = images.mean(axis=(2, 3), keepdims=True)
    return np.asarray((images - mean) * factor + mean)


def _brightness(images: Samples, more: float, rng: np.random.Generator) -> NDArray[Any]:
    """The value, as HSV has it, by ``more`` higher, at most 1; hue and saturation stay."""
    value = images.max(axis=1, keepdims=True).astype(np.float64)
    bright = np.minimum(value + 255 * more, 255)
    # Black has no hue, and becomes grey.
    return np.asarray(np.where(value > 0, images * (bright / np.where(value > 0, value, 1)), bright))


def _pixelate(images: Samples, factor: float, rng: np.random.Generator) -> NDArray[Any]:
    """Smaller by ``factor``, and as large as before again, by Pillow's box filter."""
    from PIL import Image

    height, width = images.shape[2:]
    small = max(1, int(width * factor)), max(1, int(height * factor))
    result = np.empty_like(images)
    for place in np.ndindex(images.shape[:2]):
        image = Image.fromarray(np.ascontiguousarray(images[place])).resize(small, Image.Resampling.BOX)
        result[place] = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    return result


_MAKE: dict[str, Callable[[Samples, Any, np.random.Generator], NDArray[Any]]] = {
    "gaussian-noise": _gaussian_noise,
    "gaussian-blur": _gaussian_blur,
    "defocus-blur": _defocus_blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
}
