"""Generated textures, for more backgrounds than there are photographs at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedtl.random import Purpose

SIDE = 128
"""Pixels."""
LEAVES = 300
"""Disks that lie over each other."""
LARGEST = 60.0
"""Pixels of the largest radius."""


def texture(number: int) -> NDArray[np.uint8]:
    """One of any number of textures, always the same, ``[3, SIDE, SIDE]``.

    Dead leaves, disks that hide each other and whose radii have a density like r^-3, have the edges of photographs
    (Lee, Mumford and Huang 2001), and noise whose spectrum falls like a power of the frequency their shades; networks
    learn from such images what they learn from photographs (Baradad et al. 2021, arXiv 2106.05963). How coarse, how
    coloured and how shaded a texture is, is drawn too.
    """
    rng = np.random.default_rng((Purpose.TEXTURES, number))
    centre = rng.uniform(40, 215) + 30 * rng.standard_normal(3)
    smallest, spread = rng.uniform(2, 6), rng.uniform(10, 50)
    places = rng.uniform(0, SIDE, (LEAVES, 2))
    share = rng.random(LEAVES)
    radii = 1 / np.sqrt(share / smallest**2 + (1 - share) / LARGEST**2)
    colours = centre + spread * rng.standard_normal((LEAVES, 3)) + 20 * rng.standard_normal((LEAVES, 1))
    leaves = np.broadcast_to(centre[:, None, None], (3, SIDE, SIDE)).copy()
    for place, radius, colour in zip(places, radii, colours):
        rows, columns = (np.arange(max(0, int(p - radius)), min(SIDE, int(p + radius) + 1)) for p in place.tolist())
        inside = (rows[:, None] - place[0]) ** 2 + (columns - place[1]) ** 2 <= radius**2
        leaves[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][:, inside] = colour[:, None]
    light = rng.uniform(5, 30) * _noise(rng, rng.uniform(0.8, 1.6), 1)
    tint = rng.uniform(0, 15) * _noise(rng, rng.uniform(0.8, 1.6), 3)
    return np.clip(np.rint(leaves + light + tint), 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, power: float, channels: int) -> NDArray[np.float64]:
    """Gaussian noise of deviation 1 whose amplitude falls like ``frequency^-power``, ``[channels, SIDE, SIDE]``."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((channels, SIDE, SIDE))) / frequency**power
    noise = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
    return np.asarray(noise / noise.std(axis=(1, 2), keepdims=True))
