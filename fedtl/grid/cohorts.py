"""How a round's clients are cut into cohorts, so that actors end it together after few messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORTH = 0.02
"""Seconds of work below which a cohort is not worth a message of its own (which costs about 1 ms of CPU)."""

SHARES = ((1.0,), (0.75, 0.25), (0.625, 0.25, 0.125), (0.5, 0.25, 0.125, 0.0625, 0.0625))
"""How an actor's share of a round may be handed out: in one piece, or in pieces that get smaller.

All actors get pieces of the first size, then of the second, and so on; who is slower gets fewer small ones.
"""


@dataclass
class Cohort:
    """Clients of consecutive places in a round, trained by one actor.

    Attributes:
        first: the place of the first of them.
        clients: their ids.
        work: theirs together, in any unit.
        deaths: how many actors died of it.
    """

    first: int
    clients: tuple[int, ...]
    work: float
    deaths: int = 0

    def alone(self) -> list[Cohort]:
        """A cohort for each of the clients."""
        work = self.work / len(self.clients)
        return [Cohort(self.first + i, (client,), work, self.deaths) for i, client in enumerate(self.clients)]


def cut(
    clients: tuple[int, ...],
    actors: int,
    work: Sequence[float] | NDArray[np.generic] | None = None,
    seconds: float | None = None,
    in_one_piece: bool = False,
) -> list[Cohort]:
    """Cut a round's clients.

    Args:
        clients: their ids, in the order of their places.
        actors: how many share them.
        work: each client's, in any unit; equal if None.
        seconds: what the round takes each actor, as far as is known; a short round is cut into few pieces.
        in_one_piece: one cohort for each actor.

    Returns:
        Cohorts in the order in which they should be handed out. Which these are does not show in a round's
        result, as sums go along a fixed tree of places.
    """
    each = np.ones(len(clients)) if work is None else np.asarray(work, np.float64)
    done = np.cumsum(each)
    if not clients:
        return []
    shares = SHARES[0] if in_one_piece else _shares(seconds)
    ends, covered = list[int](), 0.0
    for share in shares:
        aims = (covered + share * (np.arange(actors) + 1) / actors) * done[-1]
        # The client in whose work the aim lies belongs to whichever side it lies more on.
        places = np.searchsorted(done - each / 2, aims)
        # A piece that begins where the sum's tree has a large node comes back as few sums.
        even = 1 if len(shares) == 1 else _power_of_two(share * len(clients) / actors / 4)
        ends += [int(place) for place in (places + even // 2) // even * even]
        covered += share
    ends[-1] = len(clients)
    cohorts, first = [], 0
    for end in ends:
        if first < end <= len(clients):
            cohorts.append(Cohort(first, clients[first:end], float(each[first:end].sum())))
            first = end
    return cohorts


def _shares(seconds: float | None) -> tuple[float, ...]:
    """As many pieces as there may be without one that is not worth it."""
    if seconds is None:
        return SHARES[-1]
    return next((shares for shares in reversed(SHARES) if shares[-1] * seconds >= WORTH), SHARES[0])


def _power_of_two(most: float) -> int:
    """The largest power of two that is at most ``most``, and at least 1."""
    return 1 << max(0, int(most).bit_length() - 1)
