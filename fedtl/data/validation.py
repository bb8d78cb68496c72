"""Which of a client's training samples are its validation samples: by (seed, client) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.federation import Shards
from fedtl.random import Purpose, stream


def drawn_for_validation(samples: int, share: float, seed: int, client: int) -> NDArray[np.bool_]:
    """Which of a client's training samples are for validation, ``[samples]``.

    They are ``share`` of them, rounded, but at least one, and at least one remains to train with. Nothing else than
    the client's own number of samples is used, so that a client by itself draws the same as a simulation does.

    Args:
        samples: n, how many training samples with labels the client has; of none, none is drawn.
        share: more than 0, less than 1.
        seed: the run's.
        client: its id.

    Raises:
        ConfigError: n is 1.
    """
    chosen = np.zeros(samples, np.bool_)
    if samples == 1:
        raise ConfigError(
            f"data.validation_share = {share:g}: client {client} has 1 training sample with a label, and needs 2, one "
            "to train with and one for validation; give it more, have fewer clients, or leave the share out"
        )
    if samples:
        drawn = min(max(round(samples * share), 1), samples - 1)
        chosen[stream(seed, Purpose.VALIDATION, client).permutation(samples)[:drawn]] = True
    return chosen


def split_validation(train: Shards, share: float, seed: int) -> tuple[Shards, Shards]:
    """What each client still trains with, and its validation samples, both in the order of ``train``.

    Raises:
        ConfigError: a client has a single training sample.
    """
    sizes = train.sizes
    chosen = np.zeros(len(train.order), np.bool_)
    for client, (start, end) in enumerate(zip(train.offsets[:-1].tolist(), train.offsets[1:].tolist())):
        chosen[start:end] = drawn_for_validation(end - start, share, seed, client)
    drawn = np.bincount(train.client_of[chosen], minlength=len(train))
    return Shards.from_sizes(train.order[~chosen], sizes - drawn), Shards.from_sizes(train.order[chosen], drawn)
