"""Methods ranked over settings, and tested: Friedman's test with Nemenyi's after it, or Wilcoxon's of two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedtl.comparison.friedman import cliques, friedman
from fedtl.comparison.groups import Group
from fedtl.comparison.layout import Layout, Setting
from fedtl.comparison.measure import Question
from fedtl.comparison.result import Ranking, Summary
from fedtl.comparison.statistics import DIGITS, Values, signed_rank

ENOUGH = 5
"""Settings below which nothing is tested: even the F statistic's level is off, and hardly any order is surprising."""


def rank_methods(groups: Sequence[Group], summaries: Sequence[Summary], question: Question) -> Ranking | None:
    """Rank the methods that ran in all settings, by their means over the seeds that they share in each.

    Args:
        groups: with their runs.
        summaries: of the same groups.
        question: which scores are better, and the level.

    Returns:
        None where fewer than two methods ran in at least two settings.
    """
    layout = Layout.of(summaries)
    by_variant = {each: [layout.group(each, setting) for setting in layout.settings] for each in layout.variants}
    whole = {each: [one for one in row if one is not None] for each, row in by_variant.items() if None not in row}
    if len(layout.settings) < 2 or len(whole) < 2:
        return None
    values, without_seed = _means(layout, whole)
    kept = [(setting, label) for setting, label in zip(layout.settings, layout.labels) if label not in without_seed]
    if len(kept) < 2:
        return None
    plain = Ranking(
        methods=(),
        settings=tuple(label for _, label in kept),
        ranks=(),
        left_out=tuple(each for each in layout.variants if each not in whole),
        without_seed=tuple(without_seed),
        data_sets=_data_sets(groups, [setting for setting, _ in kept]),
    )
    return _tested(plain, list(whole), values, question)


def _means(layout: Layout, whole: Mapping[str, Sequence[Summary]]) -> tuple[Values, list[str]]:
    """Each method's mean in each setting, ``[settings, methods]``, and the settings that lack a common seed."""
    rows, without_seed = [], []
    for place, label in enumerate(layout.labels):
        compared = [whole[variant][place].compared for variant in whole]
        seeds = sorted(set.intersection(*(set(each) for each in compared)))
        if seeds:
            rows.append([np.mean([each[seed] for seed in seeds]) for each in compared])
        else:
            without_seed.append(label)
    return np.array(rows, np.float64), without_seed


def _tested(plain: Ranking, methods: Sequence[str], values: Values, question: Question) -> Ranking:
    from scipy.stats import rankdata

    better = np.round(question.better(values), DIGITS)
    ranks = rankdata(-better, axis=1).mean(axis=0)
    order = np.argsort(ranks, kind="stable")
    ranked = replace(plain, methods=tuple(methods[i] for i in order), ranks=tuple(ranks[order].tolist()))
    if len(values) < ENOUGH:
        return ranked
    if len(methods) == 2:
        first, second = order
        return replace(ranked, two=signed_rank(better[:, first] - better[:, second]))
    result = friedman(values[:, order], question.alpha, question.smaller_is_better)
    alike = cliques(result.ranks, result.critical_difference) if result.p < question.alpha else [np.arange(len(order))]
    return replace(
        ranked,
        chi_square=result.chi_square,
        f=result.f,
        p=result.p,
        critical_difference=result.critical_difference,
        nemenyi=tuple(tuple(row) for row in result.nemenyi.tolist()),
        cliques=tuple(tuple(ranked.methods[i] for i in clique) for clique in alike),
    )


def _data_sets(groups: Sequence[Group], settings: Sequence[Setting]) -> int:
    """How many different data sets the groups of these settings are of."""
    names = set()
    for group in groups:
        if group.setting in settings:
            config = next(iter(group.runs.values())).config
            data = config.get("data") or {}
            names.add((str(data.get("name")), str((data.get("target") or {}).get("name"))))
    return len(names)
