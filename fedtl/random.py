"""All streams of random numbers: by what they are for, and by (seed, round, client) alone."""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for: a stream of its own for each, so that adding one never shifts another.

    A value is part of what a seed means: it is never given to another purpose.
    """

    SAMPLE_CLIENTS = 101
    SAMPLE_ORDER = 102
    TORCH = 103
    TARGET_ORDER = 104
    PUBLIC_ORDER = 105
    VIEWS = 106
    MODULES = 107
    RESTART = 108
    REPLAY = 109
    REPLAY_ORDER = 110
    ENSEMBLE = 111
    SCORING = 112
    STRAGGLERS = 113
    PRIVATE_START = 114
    HYPERNETWORK = 115
    SERVER_TEST = 201
    ASSIGN = 202
    CLIENT_TEST = 203
    NOISE = 204
    LABELLED = 205
    SAMPLES = 206
    PATCHES = 207  # of the look "photographs"; a part of the data, so the run's seed is not in it
    VALIDATION = 208
    LABEL_NOISE = 209
    CONCEPT = 210
    SWAPS = 211
    CORRUPTION = 212
    TEXTURES = 213  # behind images; a part of the data, as PATCHES
    HELD_OUT_CLIENTS = 220
    DISTILL_ORDER = 1101
    PROBE_DRAW = 1201
    DOMAIN_DRAW = 1202

    __repr__ = int.__repr__  # derived seeds are made of what numbers read as


def stream(seed: int, purpose: int, *where: int) -> np.random.Generator:
    """Random numbers that depend on the run's seed, what they are for, and where (round, client) alone."""
    return np.random.default_rng([seed, purpose, *where])


def derived_seed(*where: int | str) -> int:
    """A seed for a generator that is not numpy's, as well mixed and much cheaper to make than a stream."""
    return int.from_bytes(blake2b(repr(where).encode(), digest_size=7).digest(), "big")
