"""One run of a sweep, wherever it is trained."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedtl.assemble.driver import Silent
from fedtl.assemble.parts import check_classes, check_sampled
from fedtl.choice import ConfigError, cause
from fedtl.config.read import build
from fedtl.config.schema import Config
from fedtl.data.federate import federate
from fedtl.experiment import Place, run_at
from fedtl.failure import RunError
from fedtl.runs import resume
from fedtl.runs.best import over_clients
from fedtl.runs.progress import coverage_of
from fedtl.server.report import Round
from fedtl.sweeps.pool import Ended, Job, Observer, Scored

Heard = Callable[[Scored], bool]
"""Observer of each round; says whether the run is to go on."""


class PrunedError(Exception):
    """A run was told to stop."""


class _Listener(Silent):
    """Passes on what a run has done."""

    def __init__(self, job: Job, heard: Heard) -> None:
        self._job, self._heard = job, heard

    def round(self, report: Round) -> None:
        """Pass on a round."""
        asked = (self._job.config.get("evaluate") or {}).get("metrics") or ()
        news = Scored(self._job.key, report.round, scores_of(report.scores), marks_of(report.scores, asked))
        if not self._heard(news) and self._job.asks:
            raise PrunedError


def scores_of(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Each score's metrics, over clients their mean weighted by samples."""
    return {  # what is no such number is no metric, as that of the clients
        name: {metric: mean for metric, value in row.items() if isinstance(mean := over_clients(value), float)}
        for name, row in scores.items()
    }


def marks_of(scores: Mapping[str, Any], asked: Sequence[str]) -> dict[str, str]:
    """Over which part of the clients the means are that are shown, of those that need a mark.

    Args:
        scores: of a round.
        asked: ``evaluate.metrics``.
    """
    return {name: mark for name, row in scores.items() if (mark := str(coverage_of(row, asked) or ""))}


def work_on(job: Job, heard: Heard) -> Ended:
    """Train a run to its end, from where it stands."""
    began = time.monotonic()
    pruned, failure = False, ""
    try:
        place = Place(job.folder, resume=resume.begun(job.folder))
        run_at(build(dict(job.config)), place, False, _Listener(job, heard))
    except PrunedError:
        pruned = True
    except (ConfigError, RunError) as error:
        failure = " ".join(str(error).split())
    except MemoryError as error:
        failure = f"there is not enough memory for it ({cause(error)})"
    except Exception as error:
        failure = cause(error)
        print(f"{job.key}:", flush=True)  # for whoever reads the log
        traceback.print_exc()
    return Ended(job.key, time.monotonic() - began, failure, pruned)


def check_data(name: str, config: Config, chosen_by: str | None) -> None:
    """Read the data of one of a cell's runs, and divide them.

    Args:
        name: the cell's.
        config: of the run.
        chosen_by: the metric by which a search chooses; None where there is none.

    Raises:
        ConfigError: it cannot be had, or not be divided as asked; ``name`` begins the message.
    """
    try:
        federation = federate(config.data, config.seed)
        check_sampled(config, federation)
        check_classes(config, federation)
        if chosen_by is not None:
            config.metrics.check_one("search.metric", chosen_by, federation.predicted)
    except ConfigError as error:
        raise ConfigError(f"{name}, seed {config.seed}: {error}") from error
    if chosen_by is not None and federation.validation is None:
        raise no_validation(name)


def no_validation(cell: str) -> ConfigError:
    """What a search lacks that has no validation samples."""
    return ConfigError(
        f"{cell}: a search chooses by validation samples, and data.validation_share = 0: set it, as "
        '"data.validation_share" = 0.2'
    )


class Here:
    """A pool that trains one run after another, in this process."""

    size = 1

    def __init__(self) -> None:
        self._job: Job | None = None

    @property
    def free(self) -> int:
        """Whether it has nothing to do."""
        return int(self._job is None)

    def fitted(self, config: Config) -> Config:
        """As it is."""
        return config

    def start(self, job: Job) -> None:
        """Take a run, which begins when somebody waits for it."""
        self._job = job

    def wait(self, timeout: float, observer: Observer) -> None:
        """Train it to its end."""
        job, self._job = self._job, None
        if job is not None:
            observer.ended(work_on(job, observer.scored))

    def close(self) -> None:
        """Nothing is left."""
