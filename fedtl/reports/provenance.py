"""On what, with what and by which commands the runs were made."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedtl.comparison.naming import flatten
from fedtl.reports import words
from fedtl.reports.material import Asked, Material
from fedtl.runs.history import Run

ABOUT = (
    "versions.fedtl",
    "commit",
    "python",
    "versions",
    "platform",
    "cores",
    "device",
    "gpu",
    "grid",
    "actors",
    "engine",
    "engine_because",
    "clients",
    "parameters",
)
"""Keys of a run's environment that are shown, in this order; of a table all of its keys."""
MOST_VALUES = 3
MOST_COMMANDS = 40


def environment(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Versions, hardware and engines: one value, or how many runs had which."""
    flat = [flatten(run.environment) for run in runs]
    known = list(dict.fromkeys(key for each in flat for key in each))
    facts: list[tuple[str, str]] = []
    for word in ABOUT:
        for key in known:
            if (key == word or key.startswith(f"{word}.")) and key not in dict(facts):
                facts.append((key, _values([_text(each.get(key, "not recorded")) for each in flat])))
    return [(key.removeprefix("versions.").replace("_", " "), value) for key, value in facts]


def when(runs: Sequence[Run]) -> str:
    """From when to when runs began, as their records say; empty where they do not."""
    days = sorted(str(run.environment["started"])[:10] for run in runs if run.environment.get("started"))
    if not days:
        return ""
    return f"Runs began on {days[0]}." if days[0] == days[-1] else f"Runs began from {days[0]} to {days[-1]}."


def remarks(runs: Sequence[Run]) -> list[str]:
    """What runs noted when they began, each once."""
    notes = Counter(str(note) for run in runs for note in run.environment.get("notes") or ())
    return [f"{note} ({words.count(n, 'run')})" if len(runs) > 1 else note for note, n in notes.items()]


def comparing(material: Material) -> str:
    """The command that gives the tables and sentences of the report again."""
    asked, plain = material.asked, Asked()
    arguments = list(material.sources)
    for key in ("score", "metric", "statistic", "against", "target", "at"):
        value = getattr(asked, key)
        if value != getattr(plain, key):
            arguments += [f"--{key}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(["fedtl", "compare", *arguments])


def commands(material: Material) -> list[str]:
    """What the runs were made with: the study's command, or each run's own."""
    if material.study is not None:
        return [_typed(material.study.command)] if material.study.command else []
    made = dict.fromkeys(_command(run) for run in material.runs)
    return [each for each in made if each][:MOST_COMMANDS]


def _command(run: Run) -> str:
    """As it was typed; of a run that Python code began the one that repeats it."""
    words = [str(word) for word in run.environment.get("command") or ()]
    if words and Path(words[0]).name == "fedtl":
        return _typed(words)
    return shlex.join(["fedtl", "run", str(run.path / "config.toml")])


def _typed(command: Sequence[str]) -> str:
    """A command without the place where fedtl is installed."""
    return shlex.join([Path(command[0]).name, *command[1:]])


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def _values(values: Sequence[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return values[0]
    shown = [f"{value} ({words.count(n, 'run')})" for value, n in counts.most_common(MOST_VALUES)]
    more = f" and {len(counts) - MOST_VALUES} other values" * (len(counts) > MOST_VALUES)
    return f"{', '.join(shown)}{more}"
