"""Differences of two groups, paired over seeds and over clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fedtl.comparison.bootstrap import Ends, Stratum, intervals
from fedtl.comparison.measure import ClientValues, Measured, Question
from fedtl.comparison.naming import flatten
from fedtl.comparison.result import ClientGain, Difference, Transfer
from fedtl.comparison.statistics import DIGITS, interval_over_seeds, signed_rank, spread
from fedtl.runs.history import Run

Runs = Mapping[int, tuple[Measured, int]]
"""A group's runs by seed, each with the round that is compared."""

Name = tuple[str, int | None]
"""A client's, and the seed where each seed has clients of its own."""

MOST_NAMED = 6


class Paired(NamedTuple):
    """Two groups' clients side by side.

    Attributes:
        names: of the pairs, each with its seed where a seed has clients of its own.
        strata: clients that bootstraps draw from together: of each seed, or all where seeds share their clients.
        same_clients: whether they do.
        by_seed: the difference of the two runs of each seed.
        refused: why seeds are not paired, a sentence's end each.
        unpaired: seeds that one of the groups lacks.
    """

    names: list[Name]
    strata: list[Stratum]
    same_clients: bool
    by_seed: dict[int, float]
    refused: dict[int, str]
    unpaired: list[int]


def pair(first: Runs, second: Runs) -> Paired:
    """Pair two groups seed by seed, and within a seed client by client."""
    by_seed: dict[int, float] = {}
    refused: dict[int, str] = {}
    each: dict[int, tuple[Run, ClientValues, Stratum]] = {}
    for seed in sorted(first.keys() & second.keys()):
        (one, round), (other, its_round) = first[seed], second[seed]
        reason = _other_data(one.run, other.run)
        here, there = one.clients(round), other.clients(its_round)
        if reason is None and here is not None and there is not None:
            reason = _other_clients(one.run, here, there)
        if reason is not None:
            refused[seed] = reason
            continue
        by_seed[seed] = one.at(round) - other.at(its_round)
        if here is not None and there is not None:
            each[seed] = (one.run, here, Stratum(here.values - there.values, here.samples))
    shared = len(each) > 1 and _share_clients([run for run, _, _ in each.values()])
    names, strata = _averaged(each) if shared else _by_seed(each)
    return Paired(names, strata, shared, by_seed, refused, sorted(first.keys() ^ second.keys()))


def intervals_over_clients(paired: Sequence[Paired], question: Question) -> list[Ends | None]:
    """The bootstrap interval of each; None where nothing is paired over clients, or no draws are asked for."""
    drawn = [at for at, each in enumerate(paired) if each.strata and question.resamples]
    found = intervals([paired[at].strata for at in drawn], question.level, question.resamples, question.seed)
    by_place = dict(zip(drawn, found))
    return [by_place.get(at) for at in range(len(paired))]


def difference(first: str, second: str, paired: Paired, over_clients: Ends | None, question: Question) -> Difference:
    """The difference of two groups out of their pairs and their interval over clients, before Holm's correction."""
    if not paired.by_seed:
        return Difference(first, second, refused=_refusal(paired))
    values = list(paired.by_seed.values())
    seeds_low, seeds_high = interval_over_seeds(values, question.level) or (None, None)
    plain = Difference(
        first,
        second,
        by_seed=paired.by_seed,
        over_seeds=spread(values),
        seeds_low=seeds_low,
        seeds_high=seeds_high,
    )
    if not paired.strata:
        return plain
    differences = np.concatenate([each.differences for each in paired.strata])
    low, high = over_clients or (None, None)
    signs = np.sign(np.round(question.better(differences), DIGITS))
    return replace(
        plain,
        clients=len(differences),
        same_clients=paired.same_clients,
        low=low,
        high=high,
        test=signed_rank(differences),
        better=int((signs > 0).sum()),
        equal=int((signs == 0).sum()),
        worse=int((signs < 0).sum()),
    )


def transfer(group: str, baseline: str, paired: Paired, question: Question) -> Transfer | None:
    """Whom a group serves better and worse than a baseline; None where nothing is paired."""
    if not paired.strata:
        return None
    differences = np.concatenate([each.differences for each in paired.strata])
    gains = np.round(question.better(differences), DIGITS).tolist()
    rows = [ClientGain(name, seed, gain) for (name, seed), gain in zip(paired.names, gains)]
    return Transfer(group, baseline, tuple(sorted(rows, key=lambda row: row.gain)))


def _refusal(paired: Paired) -> str:
    if paired.refused:
        return next(iter(paired.refused.values()))
    return "they have no seed in common"


def _other_data(one: Run, other: Run) -> str | None:
    """Why clients of two runs of one seed are not the same; None if they are."""
    here, there = one.environment.get("split"), other.environment.get("split")
    if here and there:
        return None if here == there else "their clients hold different samples (the fingerprints of the split differ)"
    mine, theirs = (
        flatten({"data": run.config.get("data") or {}, "names": run.environment.get("names")}) for run in (one, other)
    )
    differing = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    if not differing:
        return None
    return f"no fingerprint says that their clients hold the same samples, and {', '.join(differing)} differ"


def _other_clients(run: Run, here: ClientValues, there: ClientValues) -> str | None:
    """Why the scored clients are not the same; None if they are."""
    if np.array_equal(here.clients, there.clients):
        return None if len(here.clients) else "no client is scored"
    alone = sorted(set(here.clients.tolist()) ^ set(there.clients.tolist()))
    names = client_names(run, alone[:MOST_NAMED])
    more = f" and {len(alone) - MOST_NAMED} more" if len(alone) > MOST_NAMED else ""
    return f"they are not scored on the same clients: only one of the two has client {', '.join(names)}{more}"


def client_names(run: Run, clients: list[int]) -> list[str]:
    """Clients by their names, where the run's clients have any, else by their numbers."""
    names = run.environment.get("names") or []
    return [str(names[client]) if client < len(names) else str(client) for client in clients]


def _share_clients(runs: list[Run]) -> bool:
    """Whether runs of several seeds are over the same clients, with the same samples."""
    splits = {run.environment.get("split") for run in runs}
    if None in splits:  # real clients, who stay where they are, or a record that does not say
        names = runs[0].environment.get("names")
        return bool(names) and all(run.environment.get("names") == names for run in runs)
    return len(splits) == 1


def _averaged(
    each: Mapping[int, tuple[Run, ClientValues, Stratum]],
) -> tuple[list[Name], list[Stratum]]:
    """Every client once, its differences averaged over the seeds."""
    rows: dict[int, list[tuple[float, float]]] = {}
    for _, values, stratum in each.values():
        for client, value, weight in zip(values.clients.tolist(), stratum.differences, stratum.weights):
            rows.setdefault(client, []).append((float(value), float(weight)))
    clients = sorted(rows)
    means = np.array([np.mean([value for value, _ in rows[client]]) for client in clients])
    weights = np.array([np.mean([weight for _, weight in rows[client]]) for client in clients])
    run = next(iter(each.values()))[0]
    return [(name, None) for name in client_names(run, clients)], [Stratum(means, weights)]


def _by_seed(
    each: Mapping[int, tuple[Run, ClientValues, Stratum]],
) -> tuple[list[Name], list[Stratum]]:
    """Every seed's clients on their own."""
    names = [
        (name, seed if len(each) > 1 else None)
        for seed, (run, values, _) in each.items()
        for name in client_names(run, values.clients.tolist())
    ]
    return names, [stratum for _, _, stratum in each.values()]
