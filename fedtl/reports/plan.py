"""What was asked, and what became of it: the study's plan, and its failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedtl.comparison.groups import unfinished
from fedtl.comparison.naming import short_keys, shown
from fedtl.reports import words
from fedtl.reports.layout import Setting
from fedtl.reports.material import Material
from fedtl.reports.tables import Table, plain
from fedtl.runs.history import Run
from fedtl.studies import Planned, Study
from fedtl.studies.record import State

OTHER_STATES: tuple[State, ...] = ("failed", "running", "waiting", "pruned")
MOST_FAILURES = 200
"""Rows of failures; of more, the rest is counted."""


def asked(material: Material, settings: Sequence[Setting]) -> str:
    """Methods × settings × seeds, in a sentence."""
    study = material.study
    if study is None:
        methods = {method.label for setting in settings for method in setting.methods}
        seeds = {run.seed for run in material.runs}
        parts = [words.count(len(methods), "method")] * bool(methods)
        parts += [words.count(len(settings), "setting")] * (len(settings) > 1)
        return f"{' × '.join([*parts, words.count(len(seeds), 'seed')])}: {words.count(len(material.runs), 'run')}."
    parts = [words.count(len(study.variants), "method")]
    short = short_keys(set(study.axes))
    parts += [f"{words.count(len(values), 'value')} of {short[key]}" for key, values in study.axes.items()]
    parts.append(words.count(len(study.seeds), "seed"))
    return f"{' × '.join(parts)}: {words.count(len(study.finals), 'run')}."


def became(material: Material) -> tuple[str, bool]:
    """How many runs finished, in a sentence; and whether all did."""
    if material.study is None:
        late = sum(unfinished(run) for run in material.runs)
        of = words.count(len(material.runs), "run")
        return (f"{late} of {of} {'is' if late == 1 else 'are'} unfinished.", False) if late else (f"{of} read.", True)
    states = Counter(run.state for run in material.study.finals)
    finished, planned = states["finished"], len(material.study.finals)
    if planned and finished == planned:
        return f"All {planned} runs finished.", True
    others = [f"{states[state]} {state}" for state in OTHER_STATES if states[state]]
    rest = f" ({', '.join(others)})" if others else ""
    alone = " What follows is of those alone." if finished else ""
    return f"{finished} of {planned} runs finished{rest}.{alone}", False


def asked_facts(study: Study) -> list[tuple[str, str]]:
    """The plan, key by key."""
    facts = [("methods", ", ".join(study.variants))]
    facts += [(key, ", ".join(map(shown, values))) for key, values in study.axes.items()]
    facts.append(("seeds", ", ".join(map(str, study.seeds))))
    return facts


def failures(material: Material) -> tuple[Table, ...]:
    """Runs and trials that failed, and clients that failed within runs."""
    tables = []
    if material.study is not None and material.study.failed:
        rows = [
            (run.cell, _which(run), run.failure or "no sentence was recorded", run.folder)
            for run in material.study.failed
        ]
        tables.append(_failures("Runs that failed", ("cell", "run", "why", "folder"), rows))
    rows = [row for run in material.runs for row in _of_clients(run)]
    if rows:
        tables.append(_failures("Clients that failed within runs", ("run", "clients", "rounds", "message"), rows))
    return tuple(tables)


def _failures(caption: str, header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    more = f" (the first {MOST_FAILURES} of {len(rows)})" * (len(rows) > MOST_FAILURES)
    return plain(f"{caption}{more}", header, rows[:MOST_FAILURES])


def _which(run: Planned) -> str:
    return f"seed {run.seed}" if run.trial is None else f"trial {run.trial}"


def _of_clients(run: Run) -> list[tuple[str, str, str, str]]:
    """A run's failures, those with one message together."""
    by_message: dict[str, tuple[set[int], set[int]]] = {}
    for record in run.rounds:
        for failure in record.get("failures") or ():
            clients, rounds = by_message.setdefault(str(failure["message"]), (set(), set()))
            clients.add(int(failure["client"]))
            rounds.add(int(record["round"]))
    return [
        (str(run.path), _span(clients), _span(rounds), message) for message, (clients, rounds) in by_message.items()
    ]


def _span(numbers: set[int]) -> str:
    ordered = sorted(numbers)
    if len(ordered) <= 6:
        return ", ".join(map(str, ordered))
    return f"{len(ordered)} from {ordered[0]} to {ordered[-1]}"
