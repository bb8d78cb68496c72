"""What a transfer result is held against: the same run without transfer, and clients that train alone.

Transfer may do harm. It shows beside two runs with the same data, model, seed and budget: ``source-only``, the same
method with the labelled source's cross-entropy alone, and ``local-only``, without any federation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Config
from fedtl.losses.objective import needs_of
from fedtl.losses.term import Term
from fedtl.runs.history import SMALLER_IS_BETTER, Run, of_everybody, on_validation
from fedtl.strategies import strategy_type

FOLDER = "baselines"
"""In a run's folder: theirs."""

SOURCE_ONLY, LOCAL_ONLY = "source-only", "local-only"

LOCAL = "local"
"""The method without federation."""

SUPERVISED = frozenset({"source", "samples"})


def baselines(config: Config) -> dict[str, Config]:
    """The configs of a run's baselines; one that would be the run itself is left out.

    Raises:
        ConfigError: clients have no labelled data to train on.
    """
    if config.data.labelled_fraction == 0:
        raise ConfigError("--baselines: they train on labels; raise data.labelled_fraction above 0")
    tables = config.tables()
    for key in ("objective", "phases"):
        tables.pop(key, None)
    tables["evaluate"].pop("keep_best", None)  # only their scores are asked for
    if "stop" in tables:  # each by the model that serves its own clients, or not at all
        tables["stop"].pop("score", None)
        if not config.data.validation_share:
            del tables["stop"]
    terms = [term for stage in config.stages() for term in stage.objective if _supervised(term)]
    kept = {term.key: term.model_dump(mode="json", exclude_none=True) for term in terms}
    if not any("source" in needs_of(term) for term in terms):
        own = config.data.task.term
        kept[own] = {"term": own}
    rows = list(kept.values())
    strategy = tables["strategy"]
    known = strategy_type(LOCAL).settings_type.model_fields
    alone = {key: value for key, value in strategy.items() if key in known} | {"name": LOCAL}
    alone.pop("private", None)  # all of the model is
    scores = {}
    if config.phases or any(not _supervised(term) for term in config.objective):
        scores[SOURCE_ONLY] = build({**tables, "objective": rows})
    if config.strategy.name != LOCAL:
        scores[LOCAL_ONLY] = build({**tables, "objective": rows, "strategy": alone})
    return scores


def _supervised(term: Term) -> bool:
    """Whether it is a loss of the labelled source alone, and brings nothing of another model or client."""
    return needs_of(term) <= SUPERVISED and (term.constant or not term.brings())


class Gain(NamedTuple):
    """How much better a run is than a baseline, in accuracy, or where there is none in what the run is shown by.

    Attributes:
        baseline: its name.
        score: of the run, as ``"global/target-clients"``.
        against: of the baseline: where it has no global model, its clients' own.
        value: how much better the run's last value is; below 0 transfer did harm. Where the two are not over the
            same clients, that of their means over the clients that both scored; NaN where there is none.
        clients: in that case, how many these are; else None.
        metric: of both.
    """

    baseline: str
    score: str
    against: str
    value: float
    clients: int | None = None
    metric: str = "accuracy"


def gains(run: Run, others: dict[str, Run]) -> list[Gain]:
    """The run's last scores on test data against its baselines', each on the same data."""
    metric, rows = run.usual, []
    own, sign = run.last(metric), -1 if metric in SMALLER_IS_BETTER else 1
    for name, other in others.items():
        theirs = other.last(metric)
        for score, point in own.items():
            if on_validation(score):
                continue
            data = score.partition("/")[2]
            same = [candidate for candidate in (score, f"personal/{data}", f"global/{data}") if candidate in theirs]
            if not same:
                continue
            here, there = _by_client(run, score, metric), _by_client(other, same[0], metric)
            value, clients = point.value - theirs[same[0]].value, None
            if here.keys() != there.keys():
                both = sorted(here.keys() & there.keys())
                value, clients = _mean(here, both) - _mean(there, both), len(both)
            rows.append(Gain(name, score, same[0], sign * value, clients, metric))
    return rows


def _by_client(run: Run, score: str, metric: str) -> dict[int, tuple[float, float]]:
    """Each scored client's own value and number of test samples; none where the score is not over clients."""
    table, (whole, domain) = run.client_table("numpy"), of_everybody(score)
    column, data = f"{whole}/{metric}", whole.partition("/")[2]
    samples = "samples" if data == "clients" else f"{data}/samples"
    names = table.dtype.names or ()
    if not {column, samples, *(["domain"] if domain else [])} <= {*names}:
        return {}
    if domain:
        table = table[table["domain"] == domain]
    rows = zip(table["client"].tolist(), table[column].tolist(), table[samples].tolist())
    return {client: (value, weight) for client, value, weight in rows if not math.isnan(value)}


def _mean(scored: Mapping[int, tuple[float, float]], clients: Sequence[int]) -> float:
    """Their mean, weighted by their test samples; NaN of nobody."""
    weight = sum(scored[client][1] for client in clients)
    return sum(scored[client][0] * scored[client][1] for client in clients) / weight if clients else math.nan
