"""What a reader of a comparison must know and cannot see, a sentence each: above all what cannot be concluded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedtl.comparison.formats import parts_in_words
from fedtl.comparison.groups import Group, planned_rounds
from fedtl.comparison.naming import listed
from fedtl.comparison.pairs import Runs, pair
from fedtl.comparison.ranking import ENOUGH
from fedtl.comparison.result import Comparison
from fedtl.comparison.statistics import holm, smallest_p

MACHINE = ("device", "gpu", "cores", "grid", "actors")
"""Of a run's environment, what its speed depends on."""
FEW = 10
"""Clients below which a bootstrap interval is known to be too narrow."""
NOT_PAIRED = "Not paired, as "
"""How the sentences on pairs that are refused begin."""


def of(comparison: Comparison, groups: Sequence[Group], rounds: Mapping[str, Runs]) -> list[str]:
    """All sentences about a comparison.

    Args:
        comparison: without its notes.
        groups: that are compared.
        rounds: their runs, each with the round that is compared.
    """
    return [
        *_nothing_to_compare(comparison),
        *_shown(comparison),
        *_rounds_differ(groups),
        *_not_a_number(rounds),
        *_machines(comparison, rounds),
        *_coverage(comparison),
        *_chosen_among_fewer(rounds),
        *_scores_differ(comparison),
        *_best_on_test(comparison),
        *_single_seeds(comparison),
        *_refused(comparison),
        *_partly_paired(comparison, rounds),
        *_too_few(comparison),
        *_only_these_seeds(comparison),
        *_ranking(comparison),
    ]


def _nothing_to_compare(comparison: Comparison) -> Iterator[str]:
    if len(comparison.groups) == 1:
        yield f"All runs are of one method, {comparison.groups[0].group}: there is none to compare it with."


def _shown(comparison: Comparison) -> Iterator[str]:
    better: dict[str, list[str]] = {"seeds": [], "clients": []}
    for each in comparison.differences:
        if each.shown is not None and each.test is not None:
            winner, loser = comparison.winner(each)
            better[each.shown].append(f"{winner} than {loser}")
    if better["seeds"]:
        yield (
            f"Better at {comparison.alpha:g}, by the clients' test and the seeds' interval alike: "
            f"{listed(better['seeds'])}."
        )
    if better["clients"]:
        yield (
            f"Better at {comparison.alpha:g} by the test over the clients of these seeds, which is not shown for other "
            f"seeds: {listed(better['clients'])}."
        )
    if any(each.test for each in comparison.differences) and not any(better.values()):
        yield f"No difference is shown at {comparison.alpha:g}."


def _not_a_number(rounds: Mapping[str, Runs]) -> Iterator[str]:
    for runs in rounds.values():
        for one, _ in runs.values():
            if one.skipped is not None:
                yield (
                    f"{one.run.path}: {one.score} is not a number in round {one.skipped}, its last scored one; round "
                    f"{one.last_round} counts as its last."
                )


def _machines(comparison: Comparison, rounds: Mapping[str, Runs]) -> Iterator[str]:
    runs = [one.run for each in rounds.values() for one, _ in each.values()]
    differing = [key for key in MACHINE if len({str(run.environment.get(key)) for run in runs}) > 1]
    if comparison.target is not None and differing:
        yield f"Seconds do not compare as they stand: the runs differ in {listed(differing)}."


def _rounds_differ(groups: Sequence[Group]) -> Iterator[str]:
    # Their names say how many.
    if len({planned_rounds(run) for group in groups for run in group.runs.values()}) > 1:
        yield "The groups were not trained for equally many rounds."


def _coverage(comparison: Comparison) -> Iterator[str]:
    for group in comparison.groups:
        if group.coverage:
            yield f"{group.group}: means are over {parts_in_words(group.coverage)}."


def _chosen_among_fewer(rounds: Mapping[str, Runs]) -> Iterator[str]:
    for name, runs in rounds.items():
        if any(one.chosen_among_fewer for one, _ in runs.values()):
            yield f"{name}: no round has the scores of all clients, so its best ones are chosen by means over fewer."


def _scores_differ(comparison: Comparison) -> Iterator[str]:
    scores = {group.score for group in comparison.groups}
    if len(scores) > 1:
        yield "Each group is scored with the model that serves its clients: the personalised one where there is one."


def _best_on_test(comparison: Comparison) -> Iterator[str]:
    lacking = [group.group for group in comparison.groups if group.by_validation is None]
    if lacking:
        which = "" if len(lacking) == len(comparison.groups) else f" ({listed(lacking)})"
        yield (
            f'Without validation samples{which} no round can be chosen fairly: "best on test" is chosen on the data '
            "that it reports, and is too good; data.validation_share sets some aside."
        )
    else:
        yield '"Best on test" is chosen on the data that it reports, and is too good.'


def _single_seeds(comparison: Comparison) -> Iterator[str]:
    single = [group.group for group in comparison.groups if group.last.seeds == 1]
    if len(single) == len(comparison.groups):
        yield "There is one seed, so there is no deviation, and nothing can be said about other seeds."
    elif single:
        yield f"There is one seed of {listed(single)}, so there is no deviation."


def _refused(comparison: Comparison) -> Iterator[str]:
    by_reason: dict[str, dict[str, list[str]]] = {}
    for each in comparison.differences:
        if each.refused is not None:
            by_reason.setdefault(each.refused, {}).setdefault(each.first, []).append(each.second)
    for reason, pairs in by_reason.items():
        which = "; ".join(f"{first} with {listed(others)}" for first, others in pairs.items())
        yield not_paired(reason, which)
    if any(each.refused is None and not each.clients for each in comparison.differences):
        yield "Scores of the server are one number a run: nothing can be paired over clients, and nothing is tested."


def not_paired(reason: str, pairs: str) -> str:
    """That pairs are refused."""
    return f"{NOT_PAIRED}{reason}: {pairs}."


def _partly_paired(comparison: Comparison, rounds: Mapping[str, Runs]) -> Iterator[str]:
    lacking: dict[str, list[str]] = {}
    for each in comparison.differences:
        if each.refused is not None:
            continue
        paired = pair(rounds[each.first], rounds[each.second])
        for seed, reason in paired.refused.items():
            yield f"{each.first} and {each.second} are not paired under seed {seed}, as {reason}."
        if paired.unpaired:
            seeds = f"seed{'s' * (len(paired.unpaired) > 1)} {', '.join(map(str, paired.unpaired))}"
            lacking.setdefault(seeds, []).append(f"{each.first} and {each.second}")
    for seeds, pairs in lacking.items():
        yield f"Only one of the two has {seeds}, left out of their difference: {'; '.join(pairs)}."


def _too_few(comparison: Comparison) -> Iterator[str]:
    tested = [(each, each.test) for each in comparison.differences if each.test is not None]
    least = [smallest_p(test.pairs) for _, test in tested]
    by_clients: dict[int, list[str]] = {}
    by_family: dict[int, list[str]] = {}
    # No p-values lead to smaller ones after Holm's correction than when each test has its own smallest one.
    for (each, test), alone, corrected in zip(tested, least, holm(least)):
        if test.pairs and corrected > comparison.alpha:
            rows = by_clients if alone > comparison.alpha else by_family
            rows.setdefault(test.pairs, []).append(f"{each.first} and {each.second}")
    for pairs, names in sorted(by_clients.items()):
        yield (
            f"{pairs} client{'s' * (pairs > 1)} with a difference cannot give a p-value below {smallest_p(pairs):.2g} "
            f"(2^(1-n)), so no difference can be shown at {comparison.alpha:g}: {'; '.join(names)}."
        )
    for pairs, names in sorted(by_family.items()):
        yield (
            f"{pairs} clients with a difference cannot give a p-value below {smallest_p(pairs):.2g} (2^(1-n)), which "
            f"Holm's correction for {len(tested)} comparisons raises above {comparison.alpha:g}: {'; '.join(names)}."
        )
    same = [f"{each.first} and {each.second}" for each, test in tested if not test.pairs]
    if same:
        yield f"No client's score differs: {'; '.join(same)}."
    fewest = min((each.clients for each, _ in tested), default=FEW)
    if fewest < FEW:
        yield (
            f"Intervals over as few as {fewest} clients are rough, and tend to be too narrow."
            if fewest > 1
            else ("Of a single client there is no interval.")
        )


def _only_these_seeds(comparison: Comparison) -> Iterator[str]:
    tested = [each for each in comparison.differences if each.test is not None and each.by_seed]
    if not tested:
        return
    fewest = min(len(each.by_seed or ()) for each in tested)
    sentence = "Tests and intervals over clients hold for the models of these very seeds"
    if fewest == 1:
        yield f"{sentence}: they do not say what training under another seed would give."
    else:
        yield (
            f"{sentence}; the interval over seeds says what others would give. {fewest} seeds agree in sign by chance "
            f"alone with probability {smallest_p(fewest):.2g}."
        )


def _ranking(comparison: Comparison) -> Iterator[str]:
    ranking = comparison.ranking
    if ranking is None:
        return
    settings = len(ranking.settings)
    if ranking.left_out:
        yield f"Not ranked, as they did not run in all settings: {listed(ranking.left_out)}."
    if ranking.without_seed:
        yield f"Left out of the ranks, as the methods have no seed in common there: {listed(ranking.without_seed)}."
    if settings < ENOUGH:
        yield f"{settings} settings are too few to conclude anything from ranks: {ENOUGH} at least are tested."
        return
    if ranking.two is not None:
        shown = "differ" if ranking.two.p < comparison.alpha else "are not shown to differ"
        yield (
            f"Over the {settings} settings {ranking.methods[0]} and {ranking.methods[1]} {shown} at "
            f"{comparison.alpha:g} (Wilcoxon's signed-rank test, p = {ranking.two.p:.2g})."
        )
    elif ranking.p is not None and ranking.p >= comparison.alpha:
        yield f"Friedman's test shows no difference over the {settings} settings at {comparison.alpha:g}."
    if ranking.data_sets < settings:
        sets = f"{ranking.data_sets} data set{'s' * (ranking.data_sets > 1)}"
        yield (
            f"Tests over settings take these for independent; the {settings} settings are of {sets}, so they say "
            "little about other data."
        )
