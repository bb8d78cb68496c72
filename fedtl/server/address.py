"""The way down: which clients are asked, what a message says of the round, and what it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedtl.clients.serving import Serving
from fedtl.random import Purpose, stream
from fedtl.server.phase import Phase
from fedtl.wire import messages as m

Vector = NDArray[np.float32]


def draw(
    eligible: Sequence[int] | NDArray[np.int64],
    count: int | None,
    seed: int,
    round: int,
    to_score: int = 0,
    weights: NDArray[np.float64] | None = None,
) -> list[int]:
    """Draw clients by (seed, round), and their weights, alone.

    Args:
        eligible: of whom, ascending ids.
        count: how many; all if None, or if there are no more.
        seed: the run's.
        round: from 1.
        to_score: 0 if they are drawn to train in the round, 1 to be scored after it, 2 likewise of unseen clients.
        weights: of all clients, by id: the next one drawn is any that is left with a probability in proportion to its
            weight, and never one without any. None, or all without any: all alike.

    Returns:
        Ascending ids.
    """
    places: Sequence[int] = range(len(eligible))
    if count is not None and count < len(eligible):
        rng = stream(seed, Purpose.SAMPLE_CLIENTS, round, to_score)
        p = None if weights is None else weights[np.asarray(eligible)]
        if p is not None and p.any():
            count, p = min(count, int(np.count_nonzero(p))), p / p.sum()
        else:
            p = None
        places = sorted(rng.choice(len(eligible), count, replace=False, p=p).tolist())
    return [int(eligible[place]) for place in places]


def about_training(phase: Phase, place: int, round: int, keep: Sequence[int]) -> dict[str, Any]:
    """What a train message says of its round.

    Args:
        phase: the round's.
        place: of the phase among the run's.
        round: from 1.
        keep: rounds whose memories clients are to keep besides the last one's.
    """
    about = {m.ROUND: round, m.PHASE: place, m.PROGRESS: phase.progress(round), **_lr_factor(phase, round)}
    return about | ({m.KEEP: list(keep)} if keep else {})


def about_scoring(
    phase: Phase, place: int, round: int, keep: Sequence[int], scores_global: bool, personal: Serving
) -> dict[str, Any]:
    """What a message says that asks for scores after a round; see :func:`about_training`.

    Args:
        phase: the round's.
        place: of the phase among the run's.
        round: from 1.
        keep: as there.
        scores_global: whether the global model is scored.
        personal: which of a client's own models is.
    """
    # A personal model that is adapted to be scored is what the client would have after the next round.
    coming = {m.PROGRESS: phase.progress(min(round + 1, phase.last)), **_lr_factor(phase, round + 1)}
    about = {**about_training(phase, place, round, keep), **coming}
    return {**about, m.SCORE_GLOBAL: scores_global, m.SCORE_PERSONAL: personal.value}


def _lr_factor(phase: Phase, round: int) -> dict[str, Any]:
    factor = phase.lr_factor(round)
    return {} if factor is None else {m.LR_FACTOR: factor}


def context_of(phase: Phase, context: Mapping[str, Vector]) -> dict[str, Vector]:
    """What a phase's terms ask for, of all that the server has for terms."""
    wanted = {m.STATISTIC + statistic.name for statistic in phase.statistics}
    wanted |= {m.REPLAYED, *[m.PHASE_START] * phase.keeps_start}
    return {name: vector for name, vector in context.items() if name in wanted}


def content_of(
    config: Mapping[str, Any], shared: Mapping[str, Vector], each: Mapping[str, Vector], context: Mapping[str, Vector]
) -> RecordDict:
    """The content of a message; a part that is empty is left out.

    Args:
        config: what it says of the round.
        shared: the download's vectors for all clients.
        each: the download's rows, one for each client that is asked.
        context: what terms ask for.
    """
    content = RecordDict({m.CONFIG: ConfigRecord({**config})})
    for key, vectors in ((m.ARRAYS, shared), (m.EACH, each), (m.CONTEXT, context)):
        if vectors:
            content[key] = m.pack_all(vectors)
    return content
