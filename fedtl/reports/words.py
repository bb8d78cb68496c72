"""Numbers of a comparison in words, and names one after another."""

from __future__ import annotations

from collections.abc import Sequence

from fedtl.comparison import Comparison
from fedtl.comparison.statistics import Spread

DATA = {
    "clients": "the clients' own test samples",
    "server-test": "the server's test samples",
    "target-clients": "the clients' own test samples of the target",
    "target-server-test": "the server's test samples of the target",
}
MODELS = {"global": "the global model", "personal": "each client's personalised model"}
MOST_NAMED = 4


def is_share(comparison: Comparison) -> bool:
    """Whether scores are shown in per cent."""
    return comparison.metric == "accuracy"


def value(comparison: Comparison, number: float) -> str:
    """A score of a comparison."""
    return score(comparison.metric, number)


def score(metric: str, number: float) -> str:
    """A score."""
    return f"{100 * number:.2f} %" if metric == "accuracy" else f"{number:.4f}"


def spread(comparison: Comparison, number: Spread) -> str:
    """A score over seeds."""
    if number.deviation is None:
        return value(comparison, number.mean)
    if is_share(comparison):
        return f"{100 * number.mean:.2f} ± {100 * number.deviation:.2f} %"
    return f"{number.mean:.4f} ± {number.deviation:.4f}"


def change(comparison: Comparison, number: float) -> str:
    """A difference of scores, without its unit."""
    return f"{100 * number:+.2f}" if is_share(comparison) else f"{number:+.4f}"


def p_value(number: float) -> str:
    """With the sign that it needs."""
    return "p < 0.0001" if number < 1e-4 else f"p = {number:.4f}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them; of many the first ones, and how many more there are."""
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def shortened(name: str, most: int) -> str:
    """The beginning of a name, in at most so many letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def count(number: int, word: str, several: str = "") -> str:
    """A number of things, as ``"1 run"`` and ``"2 runs"``."""
    return f"{number:,} {word if number == 1 else several or word + 's'}"


def what_is_scored(comparison: Comparison) -> str:
    """Which model on which data, and what stands for all clients."""
    scores = dict.fromkeys(group.score for group in comparison.groups)
    models = dict.fromkeys(score.partition("/")[0] for score in scores)
    data = listed([DATA.get(each, each) for each in dict.fromkeys(score.partition("/")[2] for score in scores)])
    if len(models) > 1:
        model = "the model that serves each client (its personalised one where a method has one, else the global one)"
    else:
        model = MODELS.get(next(iter(models)), next(iter(models)))
    mean = ""
    if any(group.clients for group in comparison.groups):
        weights = "weighted by their samples" if comparison.statistic == "weighted_mean" else "each counted once"
        mean = f", as a mean over clients, {weights}"
    when = "after the last scored round" if comparison.at == "last" else "after the round that validation chose"
    return f"{comparison.metric} of {model} on {data}{mean}, {when}"
