"""How much hyperparameters matter: every trial of a search, its value against its score on validation samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedtl.choice import ConfigError
from fedtl.comparison.layout import key_of
from fedtl.comparison.naming import DATA_WORDS, MODEL_WORDS, setting_labels, shown
from fedtl.plot.panels import are_numbers, far_apart, grid_of_panels, label_outer, legend, plain_log, title
from fedtl.plot.style import DARK, handle, look, styled
from fedtl.studies import Cell, Planned, Study

MOST_PANELS = 24


class Panel(NamedTuple):
    """One hyperparameter of one method, in all settings.

    Attributes:
        variant: the method.
        key: dotted.
        cells: the method's, with their trials.
    """

    variant: str
    key: str
    cells: tuple[tuple[Cell, tuple[Planned, ...]], ...]


@styled
def sensitivity(study: Study, *, width: float | None = None) -> Figure:
    """A panel for each method and hyperparameter, a point for each trial; a ring is what the search chose.

    Args:
        study: with a search.
        width: of the picture, in inches; by itself if None.

    Raises:
        ConfigError: nothing was searched, or no trial has a score yet.
    """
    panels = _panels(study)
    settings = [cell.setting for cell in study.cells]
    unique = list({key_of(setting): dict(setting) for setting in settings}.values())
    figure, all_axes = grid_of_panels(len(panels), width, (3.0, 2.5), sharey=True)
    for axes, panel in zip(all_axes, panels):
        place = _axis(axes, panel)
        for cell, trials in panel.cells:
            _draw_trials(axes, panel.key, trials, cell, unique.index(dict(cell.setting)), place)
        title(axes, panel.variant)
        axes.set_xlabel(panel.key.rpartition(".")[2])
        axes.set_ylabel(_metric(study))
    label_outer(all_axes, below=False)
    handles = [handle(index, label, linestyle="") for index, label in enumerate(setting_labels(unique)) if label]
    circle: dict[str, Any] = {"linestyle": "", "marker": "o"}
    marks = [Line2D([], [], color=DARK, markerfacecolor="none", markersize=8, label="chosen", **circle)]
    if any(trial.state == "pruned" for panel in panels for _, each in panel.cells for trial in each):
        marks.append(Line2D([], [], color="#777777", markerfacecolor="white", label="given up", **circle))
    legend(figure, [handles, marks], _notes(study))
    return figure


def _panels(study: Study) -> list[Panel]:
    searched = [(cell, study.trials(cell.name)) for cell in study.cells]
    searched = [(cell, trials) for cell, trials in searched if trials]
    if not searched:
        raise ConfigError(f"--kind sensitivity: the study {study.name!r} has searched no hyperparameters")
    scored = [(cell, tuple(t for t in trials if t.value is not None)) for cell, trials in searched]
    if not any(trials for _, trials in scored):
        raise ConfigError(f"--kind sensitivity: no trial of the study {study.name!r} has a score yet")
    panels = []
    for variant in study.variants:
        cells = tuple((cell, trials) for cell, trials in scored if cell.variant == variant and trials)
        keys = list(dict.fromkeys(key for _, trials in cells for trial in trials for key in trial.values))
        panels += [Panel(variant, key, cells) for key in keys]
    if len(panels) > MOST_PANELS:
        raise ConfigError(
            f"--kind sensitivity: {len(panels)} hyperparameters are more than {MOST_PANELS} panels; choose methods "
            "with --only"
        )
    return panels


def _axis(axes: Axes, panel: Panel) -> dict[Any, float] | None:
    """Set up the axis of a hyperparameter.

    Returns:
        Where each word lies; None of numbers, which lie where they are.
    """
    values = [trial.values[panel.key] for _, trials in panel.cells for trial in trials if panel.key in trial.values]
    if are_numbers(values):
        if far_apart(values):
            plain_log(axes, "x")
        return None
    words = sorted({shown(value) for value in values})
    axes.set_xticks(range(len(words)), words)
    axes.set_xlim(-0.5, len(words) - 0.5)
    return {word: float(place) for place, word in enumerate(words)}


def _draw_trials(
    axes: Axes, key: str, trials: Sequence[Planned], cell: Cell, index: int, place: dict[Any, float] | None
) -> None:
    style = look(index)
    having = [trial for trial in trials if key in trial.values]
    values = [trial.values[key] for trial in having]
    x = np.array([float(value) if place is None else place[shown(value)] for value in values])
    y = np.array([np.nan if trial.value is None else trial.value for trial in having])
    pruned = np.array([trial.state == "pruned" for trial in having], bool)
    common: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": "", "alpha": 0.85}
    axes.plot(x[~pruned], y[~pruned], **common)
    axes.plot(x[pruned], y[pruned], markerfacecolor="white", **common)
    chosen = dict(cell.chosen or {})
    for trial, one, score in zip(having, x, y):
        if chosen and all(chosen.get(name) == value for name, value in trial.values.items()):
            axes.plot(one, score, marker="o", markersize=9, markerfacecolor="none", color=DARK, markeredgewidth=1.0)


def _metric(study: Study) -> str:
    """What trials are compared by."""
    return str(study.search.get("metric") or "accuracy")


def _scored_in_words(study: Study) -> str:
    """Which model of a trial is scored on whom, and in which round."""
    model, _, data = str(study.search.get("score") or "/validation-clients").partition("/")
    word = MODEL_WORDS.get(model, "personalised model (the global one where a method has none)")
    which = "best" if study.search.get("at") == "best" else "last"
    return f"the {word} {DATA_WORDS[data]}, in the {which} scored round"


def _notes(study: Study) -> list[str]:
    trials = [run for run in study.runs if run.trial is not None]
    notes = [f"{_metric(study)} of {_scored_in_words(study)}"]
    notes.append("each point is a trial, in which the other hyperparameters differ too")
    failed = sum(trial.state == "failed" for trial in trials)
    without = sum(trial.value is None for trial in trials) - failed
    lacking = sum(bool(trial.part) for trial in trials)
    if lacking:
        notes.append(f"clients are missing from the scores of {lacking} of {len(trials)} trials")
    if failed:
        notes.append(f"{failed} of {len(trials)} trials failed")
    if without > 0:
        notes.append(f"{without} have no score yet")
    return notes
