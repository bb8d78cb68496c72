"""A study's settings as an axis: which key runs along it, where its values lie, and which key makes panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.comparison.layout import Layout, Setting, key_of
from fedtl.comparison.naming import is_called, setting_labels, short_keys, shown
from fedtl.plot.panels import are_numbers, far_apart


@dataclass(frozen=True)
class SettingAxis:
    """One key of the settings along x, panels for what the other keys are.

    Attributes:
        key: dotted.
        values: in order; None of settings that lack the key, as an IID split has no alpha.
        panels: the other keys' values, an empty mapping where there is none.
    """

    key: str
    values: tuple[Any, ...]
    panels: tuple[Setting, ...]

    @classmethod
    def of(cls, layout: Layout, wanted: str | None) -> SettingAxis:
        """Choose the axis: the key that is wanted, else the one with the most numbers.

        Raises:
            ConfigError: there is one setting alone, or no such key.
        """
        keys = list(dict.fromkeys(key for setting in layout.settings for key in setting))
        if len(layout.settings) < 2:
            raise ConfigError("--kind settings: all runs are of one setting; two at least make an axis, as two α do")
        if wanted is not None:
            fitting = [key for key in keys if is_called(key, wanted)]
            if not fitting:
                raise ConfigError(f"--x = {wanted!r}: the settings do not differ in it: {nearest(wanted, keys)}")
            key = fitting[0]
        else:
            values = {key: _values(layout, key) for key in keys}
            key = max(keys, key=lambda each: (len(values[each]) > 1 and are_numbers(values[each]), len(values[each])))
        others = [_without(setting, key) for setting in layout.settings]
        panels = {key_of(other): other for other in others}
        return cls(key, tuple(_values(layout, key)), tuple(panels.values()))

    def setting(self, layout: Layout, panel: Setting, value: Any) -> Setting | None:
        """The setting of a panel at one value; None where there is none."""
        fitting = [each for each in layout.settings if each.get(self.key) == value]
        return next((each for each in fitting if _without(each, self.key) == panel), None)

    @property
    def label(self) -> str:
        """Of the axis: the key's ending that no other one has."""
        return short_keys({self.key, *(key for panel in self.panels for key in panel)})[self.key]

    @property
    def titles(self) -> list[str]:
        """Of the panels."""
        return setting_labels(list(self.panels))

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, which lie where they are; words lie side by side."""
        return are_numbers(self.values)

    @property
    def logarithmic(self) -> bool:
        """Whether the axis is."""
        return self.numeric and far_apart(self.values)

    def places(self) -> NDArray[np.float64]:
        """Where the values lie, ``[values]``."""
        if not self.numeric:
            return np.arange(len(self.values), dtype=np.float64)
        return np.log10(self.values) if self.logarithmic else np.asarray(self.values, np.float64)

    def prepare(self, axes: Axes) -> None:
        """Ticks and limits, in the units of :meth:`places`."""
        places = self.places()
        margin = 0.1 * float(np.ptp(places)) if self.numeric else 0.5
        axes.set_xlim(places.min() - margin, places.max() + margin)
        words = [shown(value) for value in self.values]
        axes.set_xticks(places, words)
        if not self.numeric and max(map(len, words)) * len(words) > 30:
            axes.tick_params(axis="x", labelrotation=30)
        axes.set_xlabel(self.label)


def _values(layout: Layout, key: str) -> list[Any]:
    each = [setting.get(key) for setting in layout.settings]
    values = list({repr(value): value for value in each}.values())  # a list, as of widths, is no key
    return sorted(values) if are_numbers(values) else values


def _without(setting: Setting, key: str) -> Setting:
    return {name: value for name, value in setting.items() if name != key}


def ticks_of(settings: Sequence[Setting], labels: Sequence[str]) -> tuple[str, list[str]]:
    """An axis's label and a tick for each setting, whose values stand below each other where all have the same keys."""
    keys = list(settings[0])
    if not keys or any(list(setting) != keys for setting in settings):
        return "", [label.replace(" ", "\n") for label in labels]
    ticks = ["\n".join(shown(value) for value in setting.values()) for setting in settings]
    short = short_keys(set(keys))
    return ", ".join(short[key] for key in keys), ticks
