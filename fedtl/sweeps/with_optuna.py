"""A search by Optuna's samplers and pruners, which repeats itself."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedtl.choice import ConfigError, cause, nearest
from fedtl.metrics.registry import SMALLER_IS_BETTER
from fedtl.random import derived_seed
from fedtl.studies import Planned
from fedtl.sweeps.file import Search
from fedtl.sweeps.plan import Trial
from fedtl.sweeps.space import Axis, Listed, Space, Values, points

FILE = "optuna.sqlite3"
"""In the study's folder ``search``: every ended trial, for Optuna's own tools."""

SAMPLER, PRUNER = "TPESampler", "NopPruner"

SEQUENCES = ("QMCSampler", "GridSampler")
"""Samplers that go through a sequence, trial by trial: all must have the same."""


class OptunaSearch:
    """The search of one cell.

    Trials are asked for one after another, of a study in memory with all trials that have ended, by a sampler with a
    seed of the trial's own. So a search that goes on after a crash makes the same trials as one that was left alone.

    Args:
        search: what is asked for.
        cell: its name.
        space: what is searched.
        folder: of the study's searches.
        ended: the trials that have ended, in order.
    """

    in_turn = True

    def __init__(self, search: Search, cell: str, space: Space, folder: Path, ended: Sequence[Planned]) -> None:
        self._search, self._cell, self._space = search, cell, space
        self._trials: dict[int, Any] = {}
        self._storage = f"sqlite:///{(folder / FILE).absolute()}"
        self._study = _in_memory(direction=_direction(search), study_name=cell, pruner=make_pruner(search))
        self._kept = self._opened()
        there = self._kept.get_trials()
        for run in ended:
            of_record = self._of_record(run)
            self._study.add_trial(next((trial for trial in there if _same(trial, of_record)), of_record))
        self._keep()

    def begin(self, trial: Trial) -> Values:
        """A trial's values: those that Optuna suggests."""
        self._study.sampler = make_sampler(
            self._search, self._space, derived_seed(self._search.seed, self._cell, trial.number)
        )
        if trial.number not in self._trials:  # else its process was lost, and another one goes on
            self._trials[trial.number] = self._study.ask()
        asked = self._trials[trial.number]
        return {key: _suggested(asked, key, axis) for key, axis in self._space.items()}

    def goes_on(self, number: int, round: int, value: float) -> bool:
        """Whether the pruner lets it."""
        asked = self._trials[number]
        if round not in self._study.get_trials(deepcopy=False)[asked.number].intermediate_values:
            asked.report(value, round)
        return not asked.should_prune()

    def ended(self, run: Planned) -> None:
        """Tell Optuna, and keep the trial in its file."""
        optuna = _optuna()
        state = _state(run)
        value = run.value if state == optuna.trial.TrialState.COMPLETE else None
        self._study.tell(self._trials.pop(run.trial or 0), value, state=state)
        self._keep()

    def _opened(self) -> Any:
        """The study in Optuna's file."""
        return _optuna().create_study(
            study_name=self._cell, storage=self._storage, direction=_direction(self._search), load_if_exists=True
        )

    def _keep(self) -> None:
        """Let the file have the trials that have ended; it may be one ahead of the record, which then follows."""
        ended = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]
        there = self._kept.get_trials(deepcopy=False)
        if not all(map(_same, there, ended)):  # it has what was tried again since
            _optuna().delete_study(study_name=self._cell, storage=self._storage)
            self._kept, there = self._opened(), []
        for trial in ended[len(there) :]:
            self._kept.add_trial(trial)

    def _of_record(self, run: Planned) -> Any:
        """A trial that Optuna's file lacks."""
        optuna = _optuna()
        state = _state(run)
        return optuna.trial.create_trial(
            state=state,
            params={key: _stored(axis, run.values[key]) for key, axis in self._space.items()},
            distributions={key: _distribution(axis) for key, axis in self._space.items()},
            value=run.value if state == optuna.trial.TrialState.COMPLETE else None,
        )


def check(search: Search, space: Space) -> None:
    """Check that Optuna is there, and that it knows the sampler and the pruner with their options.

    Raises:
        ConfigError: in one sentence.
    """
    sampler = make_sampler(search, space, 0)
    make_pruner(search)
    try:
        study = _in_memory(sampler=sampler)
        for _ in range(2):  # some begin with random values
            trial = study.ask()
            for key, axis in space.items():
                _suggested(trial, key, axis)
            study.tell(trial, 0.0)
    except Exception as error:  # whatever a sampler raises that has another idea of a space
        kind = type(sampler).__name__
        raise ConfigError(f"search.sampler: {kind} cannot choose from this space: {cause(error)}") from error


def make_sampler(search: Search, space: Space, seed: int) -> Any:
    """The sampler that is asked for; see :class:`OptunaSearch`."""
    table = {"name": SAMPLER, **(search.sampler or {})}
    kind = _kind("sampler", str(table.pop("name")))
    known = inspect.signature(kind).parameters
    if "seed" in known:
        # What is no sequence of independent numbers goes on with the same ones.
        table.setdefault("seed", (search.seed if kind.__name__ in SEQUENCES else seed) % 2**32)
    if "search_space" in known:
        points(space, "space")
        table.setdefault("search_space", {key: list(_categories(axis)) for key, axis in space.items()})
    return _made("sampler", kind, table)


def make_pruner(search: Search) -> Any:
    """The pruner that is asked for."""
    table = {"name": PRUNER, **(search.pruner or {})}
    return _made("pruner", _kind("pruner", str(table.pop("name"))), table)


def _in_memory(**options: Any) -> Any:
    study = _optuna().create_study(**options)
    # Samplers that have tried everything call it, and it would raise outside of Optuna's own loop.
    study.stop = lambda: None
    return study


def _kind(what: str, name: str) -> Any:
    module = getattr(_optuna(), f"{what}s")
    ending = what.capitalize()
    known = [each for each in dir(module) if each.endswith(ending) and not each.startswith("Base")]
    if name not in known:
        raise ConfigError(f"search.{what} = {name!r} is unknown to Optuna: {nearest(name, known)}")
    return getattr(module, name)


def _made(what: str, kind: Any, options: Mapping[str, Any]) -> Any:
    known = inspect.signature(kind).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"search.{what}.{option} is no option of {kind.__name__}: {nearest(option, known)}")
    try:
        return kind(**options)
    except Exception as error:
        raise ConfigError(f"search.{what}: {kind.__name__} cannot be made: {cause(error)}") from error


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("search.by = 'optuna': optuna is not installed: pip install 'fedtl[optuna]'") from error
    logging.getLogger("optuna").setLevel(logging.ERROR)
    return optuna


def _same(one: Any, other: Any) -> bool:
    """Whether two trials tried the same, and came to the same end; of one that was pruned Optuna has its own value."""
    counts = one.state == _states()["finished"]
    return bool((one.state, one.params) == (other.state, other.params) and (not counts or one.value == other.value))


def _state(run: Planned) -> Any:
    """How a trial ended, in Optuna's words.

    One from whose value clients are missing counts as pruned there, with what it scored on the way: such trials rank
    behind all that are complete, and a sampler that looks at the pruned ones still learns of them.
    """
    return _states()["pruned" if run.state == "finished" and run.part else run.state]


def _states() -> dict[str, Any]:
    state = _optuna().trial.TrialState
    return {"finished": state.COMPLETE, "pruned": state.PRUNED, "failed": state.FAIL}


def _direction(search: Search) -> str:
    return "minimize" if (search.metric or "") in SMALLER_IS_BETTER else "maximize"


def _suggested(trial: Any, key: str, axis: Axis) -> Any:
    if isinstance(axis, Listed):
        return axis.values[_categories(axis).index(trial.suggest_categorical(key, _categories(axis)))]
    if axis.log and axis.step:
        return trial.suggest_categorical(key, _categories(axis))
    suggest = trial.suggest_int if axis.whole else trial.suggest_float
    return suggest(key, axis.low, axis.high, log=axis.log, **({"step": axis.step} if axis.step else {}))


def _distribution(axis: Axis) -> Any:
    distributions = _optuna().distributions
    if isinstance(axis, Listed) or (axis.log and axis.step):
        return distributions.CategoricalDistribution(_categories(axis))
    kind = distributions.IntDistribution if axis.whole else distributions.FloatDistribution
    return kind(axis.low, axis.high, log=axis.log, **({"step": axis.step} if axis.step else {}))


def _categories(axis: Axis) -> tuple[Any, ...]:
    """A list's values, or words for them where Optuna does not know their kind."""
    values = axis.numbers() or ()
    if all(isinstance(each, (bool, int, float, str)) for each in values):
        return values
    return tuple(map(str, values))


def _stored(axis: Axis, value: Any) -> Any:
    if isinstance(axis, Listed):
        return _categories(axis)[axis.values.index(value)]
    return value
