"""Hyperparameters, and how they were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedtl.comparison.naming import OPTIONS, flatten, shown
from fedtl.reports import words
from fedtl.reports.layout import Setting
from fedtl.reports.material import Material
from fedtl.reports.tables import Table, plain
from fedtl.runs.history import Run
from fedtl.studies import Study

METHODS_KEYS = (OPTIONS, "objective", "phases")
MOST_TRIALS = 600
"""Rows of trials; of more, the rest is counted."""


def how_chosen(study: Study | None) -> str:
    """Whether hyperparameters were tuned, in a sentence."""
    if study is None:
        return "These are runs without a study's file, which does not say how their hyperparameters were chosen."
    trials = [run for run in study.runs if run.trial is not None]
    if not study.search and not trials:
        return "Hyperparameters were not tuned: they stand in the study's file or are defaults."
    tuned = [cell for cell in study.cells if study.trials(cell.name)]
    counts = {len(study.trials(cell.name)) for cell in tuned} or {0}
    if len(counts) == 1:
        each = f"{words.count(max(counts), 'trial')} for each method in each setting"
    else:
        each = f"{min(counts)} to {max(counts)} trials for a method in a setting: the budgets are not equal"
    waiting, without = sum(cell.chosen is None for cell in tuned), len(study.cells) - len(tuned)
    more = f" {without} of {len(study.cells)} had nothing to tune." * bool(without)
    more += f" For {waiting} of {len(tuned)} nothing is chosen yet." * bool(waiting)
    return f"Hyperparameters were searched for, with {each}.{more}"


def search_facts(study: Study | None) -> list[tuple[str, str]]:
    """What the study's file says of the search, key by key."""
    return [] if study is None else [(key, _text(value)) for key, value in flatten(study.search).items()]


def chosen(study: Study | None) -> Table | None:
    """What the search chose in each cell, and out of how many trials."""
    if study is None or not any(cell.chosen is not None or study.trials(cell.name) for cell in study.cells):
        return None
    rows = []
    for cell in study.cells:
        trials = study.trials(cell.name)
        states = [run.state for run in trials]
        counts = (len(trials), states.count("finished"), states.count("pruned"), states.count("failed"))
        values = [run.value for run in trials if run.value is not None]
        rows.append(
            (
                cell.name,
                (_pairs(cell.chosen) or "no key") if cell.chosen is not None else "nothing yet" if trials else "no key",
                *map(str, counts),
                f"{min(values):.4g} to {max(values):.4g}" if values else "-",
            )
        )
    numbers = ("trials", "finished", "pruned", "failed", "scores on validation")
    return plain("What the search chose", ("cell", "chosen", *numbers), rows, numbers)


def trials(study: Study | None) -> Table | None:
    """Every trial."""
    rows = [] if study is None else [run for run in study.runs if run.trial is not None]
    if not rows:
        return None
    more = f" (the first {MOST_TRIALS} of {len(rows)})" * (len(rows) > MOST_TRIALS)
    cells = [
        (
            run.cell,
            str(run.trial),
            _pairs(run.values),
            run.state,
            "-" if run.value is None else f"{run.value:.6g}" + (f" ({run.part})" if run.part else ""),
            f"{run.seconds:.1f}",
        )
        for run in rows[:MOST_TRIALS]
    ]
    numbers = ("trial", "score on validation", "seconds")
    header = ("cell", "trial", "values", "state", "score on validation", "seconds")
    return plain(f"All trials{more}", header, cells, numbers)


def options(settings: Sequence[Setting]) -> tuple[Table | None, list[tuple[str, str]]]:
    """Options of the methods that not all of them share, as a table; and those that all share."""
    flat: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for setting in settings:
        for method in setting.methods:
            run = next(iter(method.runs.values()))
            flat.setdefault(method.label, []).append((setting.name, _own(run)))
    if not flat:
        return None, []
    configs = [config for each in flat.values() for _, config in each]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    shared = [key for key in keys if len({repr(config.get(key)) for config in configs}) == 1]
    rows = [
        (key.removeprefix(OPTIONS), *(_values(key, each) for each in flat.values()))
        for key in keys
        if key not in shared
    ]
    table = plain("Options in which methods differ", ("option", *flat), rows) if rows else None
    return table, [(key, _text(configs[0][key])) for key in shared]


def base_config(material: Material) -> tuple[str, str]:
    """A config to start from as TOML, and whose it is."""
    import tomli_w

    if material.study is not None and material.study.base:
        return tomli_w.dumps(_without_none(material.study.base)), "The config that all runs start from"
    if material.runs:
        first = material.runs[0]
        return tomli_w.dumps(_without_none(first.config)), f"The config of {first.path}"
    return "", ""


def _own(run: Run) -> dict[str, Any]:
    return {key: value for key, value in flatten(run.config).items() if key.startswith(METHODS_KEYS)}


def _values(key: str, by_setting: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """One value, or that of each setting where they differ."""
    values: dict[str, list[str]] = {}
    for name, config in by_setting:
        values.setdefault(_text(config[key]) if key in config else "-", []).append(name)
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({words.listed(names)})" for value, names in values.items())


def _pairs(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key} = {_text(value)}" for key, value in (values or {}).items())


def _text(value: Any) -> str:
    """A config's value, of a list all parts."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return value if isinstance(value, str) else shown(value)


def _without_none(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(inner) for inner in value if inner is not None]
    return value
