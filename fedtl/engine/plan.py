"""Which samples a client trains on in a round: by (seed, round, client) alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.data.batches import Budget, equal_batches
from fedtl.data.federation import Federation
from fedtl.losses.objective import Objective
from fedtl.random import Purpose, derived_seed, stream

Index = NDArray[np.int64]


class Where(NamedTuple):
    """Which loop of which round of which client a plan is for.

    Attributes:
        round: its number.
        client: its id.
        loop: its place in the round.
        steps: mini-batches of the round's earlier loops.
    """

    round: int
    client: int
    loop: int = 0
    steps: int = 0


class Plan(NamedTuple):
    """A loop of a client's round.

    Attributes:
        order: its samples in order, one after another for all mini-batches.
        sizes: the mini-batches' sizes.
        samples: how many samples it holds of those.
        labelled: whether they are its labelled source samples, else its target's.
        more: samples of further streams by name, ``[T, B']`` each.
        views: of which samples random views are made: of a stream in ``more``, of these (``"x"``), or of none.
        seed: of torch's random numbers.
        budget: of the client, which may stop early.
        steps: mini-batches of the round's earlier loops.
    """

    order: Index
    sizes: Index
    samples: int
    labelled: bool
    more: dict[str, Index]
    views: str | None
    seed: int
    budget: Budget
    steps: int = 0

    def numbers(self, steps: range) -> range:
        """The places in the whole round of some of the loop's mini-batches."""
        return range(self.steps + steps.start, self.steps + steps.stop)

    @property
    def kind(self) -> tuple[object, ...]:
        """What clients that train stacked must have in common besides the sizes of their mini-batches."""
        return self.labelled, self.views, *((name, index.shape[1]) for name, index in self.more.items())


def make_plan(
    federation: Federation,
    objective: Objective,
    budget: Budget,
    seed: int,
    where: Where,
    replayed: Index | None = None,
) -> Plan:
    """Plan a loop of a client's round.

    Its labelled source samples say how many mini-batches there are, where it holds any that a term trains on; other
    streams are gone through at their side. Else its target samples do. ``replayed`` are the places of synthesised
    samples that it goes through besides.

    Raises:
        ValueError: it holds no samples that the objective can use.
    """
    round, client, *_ = where
    again = (where.loop,) if where.loop else ()
    source = federation.train[client]
    target = federation.target.train[client] if federation.target is not None else source[:0]
    labelled = len(source) > 0 and ("source" in objective.trained or not len(target))
    own = source if labelled else target
    if not len(own):
        raise ValueError("it holds no training samples")
    order, sizes = budget.order(len(own), stream(seed, Purpose.SAMPLE_ORDER, round, client, *again))
    more: dict[str, Index] = {}
    needs, steps, views = objective.needs, len(sizes), None
    beside = labelled and len(target) and needs & {"target", "unlabelled", "views"}
    if beside:
        rng = stream(seed, Purpose.TARGET_ORDER, round, client, *again)
        more["target"] = target[equal_batches(len(target), budget.batch_size, steps, rng)]
    if "views" in needs:
        views = "target" if beside else "x"
    if "public" in needs and len(federation.public):
        rng = stream(seed, Purpose.PUBLIC_ORDER, round, *again)  # the same for all clients
        more["public"] = equal_batches(len(federation.public), budget.batch_size, steps, rng)
    if replayed is not None and len(replayed):
        rng = stream(seed, Purpose.REPLAY_ORDER, round, client, *again)
        more["replay"] = replayed[equal_batches(len(replayed), budget.batch_size, steps, rng)]
    torch_seed = derived_seed(seed, Purpose.TORCH, round, client)
    return Plan(own[order], sizes, len(own), labelled, more, views, torch_seed, budget, where.steps)


def gone_through(source: Index, target: Index, objective: Objective) -> Index:
    """How many samples clients go through in an epoch, of so many labelled source samples and target samples."""
    if "source" in objective.trained:
        return np.where(source > 0, source, target)
    return np.where(target > 0, target, source)


def samples_gone_through(federation: Federation, objective: Objective) -> Index:
    """How many samples each client goes through in an epoch, as :func:`make_plan` takes them, ``[clients]``."""
    source = federation.train.sizes
    return gone_through(source, 0 * source if federation.target is None else federation.target.train.sizes, objective)


def share_of_work(stragglers: float, seed: int, round: int, client: int) -> float:
    """How much of a round's training a client goes through, in (0, 1]: all, or what is drawn where it stops early.

    Args:
        stragglers: the probability of that.
        seed: the run's.
        round: from 1.
        client: its id.
    """
    if not stragglers:
        return 1.0
    late, left_out = stream(seed, Purpose.STRAGGLERS, round, client).random(2)
    return float(1 - left_out) if late < stragglers else 1.0


def view_seeds(seed: int, round: int, client: int, steps: range, which: int) -> list[int]:
    """Seeds of the random views of some of a client's mini-batches."""
    return [derived_seed(seed, Purpose.VIEWS, round, client, step, which) for step in steps]


def trains(federation: Federation, objective: Objective) -> Index | None:
    """Clients that take part in training, ascending: those that can and are not unseen; None where all do."""
    able = eligible(federation, objective)
    if not len(federation.unseen):
        return able
    return federation.seen if able is None else np.setdiff1d(able, federation.unseen)


def eligible(federation: Federation, objective: Objective) -> Index | None:
    """Clients that hold what a term trains on, ascending; None where all do."""
    if federation.target is None:
        return None
    source, target = federation.train.sizes > 0, federation.target.train.sizes > 0
    more = [need for need in ("views", "public") if need in objective.needs]
    kinds = {(s, t): objective.trains_on(*["source"] * s, *["target"] * t, *more) for s in (0, 1) for t in (0, 1)}
    can = np.zeros(federation.clients, np.bool_)
    for (s, t), trains in kinds.items():
        if trains and (s or t):
            can |= (source == bool(s)) & (target == bool(t))
    return None if can.all() else np.flatnonzero(can)
