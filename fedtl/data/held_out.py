"""Which clients are held out: they never train, and are scored as clients that join after training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, shown
from fedtl.random import Purpose, stream

HeldOut = int | float | tuple[int, ...]
"""A number of clients, a share of them, or their ids."""

KEY = "data.held_out_clients"


def check_held_out(asked: HeldOut) -> None:
    """Check what can be known before the clients are counted.

    Raises:
        ValueError: it is no share, no number of clients and no list of ids.
    """
    if isinstance(asked, tuple):
        if asked and min(asked) < 0:
            raise ValueError("clients' ids begin at 0")
        if len(set(asked)) < len(asked):
            raise ValueError("a client is named twice")
    elif asked < 0 or (isinstance(asked, float) and asked >= 1):
        raise ValueError("should be a share from 0 to below 1, a whole number of clients, or a list of their ids")


def count_held_out(asked: HeldOut, clients: int) -> int:
    """How many of so many clients are held out; of a share above 0 one at least.

    Raises:
        ConfigError: there are not so many, or nobody would train.
    """
    if isinstance(asked, tuple):
        if asked and max(asked) >= clients:
            raise ConfigError(f"{KEY} = {shown([*asked])}: ids are 0 to {clients - 1}")
        count = len(asked)
    elif isinstance(asked, float):
        count = max(round(asked * clients), 1) if asked else 0
    else:
        count = asked
    if count and count >= clients:
        named = [*asked] if isinstance(asked, tuple) else asked
        raise ConfigError(f"{KEY} = {shown(named)}: there are {clients} clients, and one must remain to train")
    return count


def held_out(asked: HeldOut, clients: int, seed: int) -> NDArray[np.int64]:
    """The ids of the clients that are held out, ascending; drawn by (seed, clients) where none are named.

    Raises:
        ConfigError: as :func:`count_held_out`.
    """
    count = count_held_out(asked, clients)
    if isinstance(asked, tuple):
        return np.array(sorted(asked), np.int64)
    if not count:
        return np.empty(0, np.int64)
    return np.sort(stream(seed, Purpose.HELD_OUT_CLIENTS).choice(clients, count, replace=False)).astype(np.int64)
