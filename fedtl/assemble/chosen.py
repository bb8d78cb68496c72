"""The rules by which a run's rounds are chosen: when it ends early, and which round's models are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.config.schema import Config
from fedtl.data.federation import Federation
from fedtl.runs.best import EarlyStop, Followed, Stopped, best_by, early_stop
from fedtl.server.scores import UNSEEN, UNSEEN_DATA, on_validation
from fedtl.strategies.contract import Strategy
from fedtl.wire.messages import DOMAINS, HELD_OUT


class Rules(NamedTuple):
    """What chooses rounds by their scores.

    Attributes:
        stop: whether the run ends early; None where the config does not ask for it.
        best: the score whose best round's models are kept; None likewise.
    """

    stop: EarlyStop | None
    best: Followed | None

    @classmethod
    def of(cls, config: Config, scores: Collection[str]) -> Rules:
        """The rules of a config, before any round.

        Args:
            config: the experiment.
            scores: the names of those that the run will have.

        Raises:
            ConfigError: the one that decides is not among them.
        """
        first = config.rounds - config.stages()[-1].rounds + 1
        stop = None if config.stop is None else early_stop(config.stop, scores, first)
        keep = config.evaluate.keep_best
        return cls(stop, None if keep is None else best_by(keep, scores))

    def stopped(self, config: Config, folder: Path, last: int) -> Stopped | None:
        """How a run that is resumed has ended early already; None if it has not.

        Args:
            config: the experiment.
            folder: the run's.
            last: its last finished round; the rules have seen all up to this one.

        Raises:
            ConfigError: it has gone on since.
        """
        how = None if self.stop is None else self.stop.before(config.rounds)
        if how is not None and how.round < last:
            raise ConfigError(
                f"stop: with it the run in {folder} would have ended after round {how.round}, and it has finished "
                f"{last} already; raise stop.patience, or give stop=none"
            )
        return how


def names_of_scores(strategy: Strategy, federation: Federation, data: Collection[str]) -> set[str]:
    """The scores that a run will have.

    Args:
        strategy: its method.
        federation: what the server itself holds.
        data: on which of clients' samples they are scored, as ``"validation-clients"``.
    """
    models = ["global"] * strategy.scores_global + ["personal"] * strategy.personalises
    target = federation.target
    tests = {"server-test": federation.server_test, "target-server-test": target.server_test if target else ()}
    tests |= {f"{HELD_OUT}{name}": rows for name, rows in federation.held_out.items()}
    at_server = {f"global/{name}" for name, test in tests.items() if len(test) and strategy.scores_global}
    return at_server | {f"{model}/{each}" for model in models for each in data}


def holders_of_tests(federation: Federation) -> dict[str, NDArray[np.int64]]:
    """Which clients hold samples to score on, by the data's name in scores; unseen ones by names of their own."""
    tests = {"clients": federation.test} | ({"target-clients": target.test} if (target := federation.target) else {})
    if federation.validation is not None:
        tests["validation-clients"] = federation.validation
    holders = {data: np.flatnonzero(test.sizes) for data, test in tests.items()}
    return seen_and_unseen(holders, federation.unseen)


def seen_and_unseen(
    holders: Mapping[str, NDArray[np.int64]], unseen: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """Holders of samples to score on, those that never train by themselves; their validation samples are not scored."""
    if not len(unseen):
        return dict(holders)
    seen = {data: np.setdiff1d(clients, unseen) for data, clients in holders.items()}
    apart = {f"{UNSEEN}{data}": np.intersect1d(clients, unseen) for data, clients in holders.items()}
    return seen | {data: clients for data, clients in apart.items() if data in UNSEEN_DATA}


def scored_data(federation: Federation, elsewhere: bool) -> list[str]:
    """On which of clients' samples models are scored: of those that are elsewhere it may be all kinds."""
    if elsewhere:
        return [*DOMAINS, *(UNSEEN_DATA if len(federation.unseen) else ())]
    return [data for data, holders in holders_of_tests(federation).items() if len(holders)]


def unscored_domains(strategy: Strategy, federation: Federation) -> list[str]:
    """A line for a run that no model is scored of on domains that are held out."""
    if not federation.held_out or strategy.scores_global:
        return []
    return [
        f"data.held_out: nothing is scored on {', '.join(federation.held_out)}, as strategy.name = "
        f"{strategy.settings.name!r} has no model but the clients' own here, and no client has this domain"
    ]


def chosen_on_test(config: Config) -> list[str]:
    """A line for a run whose end is chosen on test data."""
    if config.stop is None or config.stop.score is None or on_validation(config.stop.score):
        return []
    return [
        f"stop.score = {config.stop.score!r} is on test data: the last round is chosen on the data that it is "
        "reported on"
    ]
