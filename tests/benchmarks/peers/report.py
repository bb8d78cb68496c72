"""Tables and bars of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from fedtl.plot.style import COLOURS, RC, save
from tests.benchmarks.peers.contestants import CONTESTANTS, LIMIT, OURS, PFEDME
from tests.benchmarks.peers.race import Run
from tests.benchmarks.peers.work import make_model

MODELS = {"logistic": "logistic 784-10", "mlp": "MLP 784-100-10", "cnn": "CNN (16, 32 of 5×5; 64)"}
COLUMNS = (
    "",
    "client-steps/s",
    "ours ÷ it",
    "of the peak",
    "peak PSS, MiB",
    "processes",
    "round 1 after, s",
    "accuracy",
)
SAME_WORK = 0.02
"""Accuracies further from ours than this are pointed out; seeds alone move them by about 0.01."""

Results = dict[str, Any]


def line(run: Run) -> str:
    """One run, as it ends."""
    head = f"{run.repeat}  {run.model:9} {run.contestant:16}"
    if run.failure is not None:
        return f"{head} failed: {run.failure}"
    if run.memory is not None:
        return f"{head} {run.memory:9,.0f} MiB in {run.processes} processes"
    return f"{head} {run.speed:9,.0f}/s  round 1 after {run.first_round:5.1f} s  accuracy {run.accuracy:.4f}"


def of(runs: Sequence[Run], model: str, contestant: str) -> list[Run]:
    """A contestant's timed runs that came to their end."""
    return [r for r in _all_of(runs, model, contestant) if r.memory is None]


def memory(runs: Sequence[Run], model: str, contestant: str) -> tuple[str, str]:
    """A contestant's memory in MiB, and its processes."""
    own = [r for r in _all_of(runs, model, contestant) if r.memory is not None]
    return (f"{max(r.memory or 0 for r in own):,.0f}", f"{max(r.processes for r in own)}") if own else ("–", "–")


def _all_of(runs: Sequence[Run], model: str, contestant: str) -> list[Run]:
    return [r for r in runs if r.model == model and r.contestant == contestant and r.failure is None]


def ratios(runs: Sequence[Run], model: str, above: str, below: str) -> list[float]:
    """Speeds of one contestant over another's, repeat by repeat."""
    over = {r.repeat: r.speed for r in of(runs, model, above)}
    return [over[r.repeat] / r.speed for r in of(runs, model, below) if r.repeat in over]


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The median, and between which values it lies."""
    if not values:
        return "–"
    return f"{form(median(values))} [{form(min(values))}, {form(max(values))}]"


def flops(model: str, batch: int = 20) -> int:
    """Floating-point operations of a step of SGD: the products of forward and backward pass, nothing else."""
    network = make_model(model, 0)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(batch, 1, 28, 28)).logsumexp(1).sum().backward()
    return int(counter.get_total_flops())


def rows(runs: Sequence[Run], model: str, peak: float | None = None) -> list[tuple[str, ...]]:
    """A model's table: the contestants that do FedAvg, in their order in the list.

    Args:
        runs: all.
        model: which.
        peak: the machine's GFLOP/s; None where it was not measured.
    """
    table = []
    reference = of(runs, model, OURS)
    for name, contestant in CONTESTANTS.items():
        own = of(runs, model, name)
        if name == PFEDME or not any(r.model == model and r.contestant == name for r in runs):
            continue
        if not own:
            why = next((r.failure for r in runs if r.model == model and r.contestant == name and r.failure), "")
            table.append((contestant.label, f"failed: {why}", *[""] * (len(COLUMNS) - 2)))
            continue
        accuracy = median(r.accuracy for r in own)
        differs = bool(reference) and abs(accuracy - median(r.accuracy for r in reference)) > SAME_WORK
        table.append(
            (
                contestant.label,
                f"{median(r.speed for r in own):,.0f}",
                "" if name == OURS else spread(ratios(runs, model, OURS, name), _two),
                f"{median(r.speed for r in own) * flops(model) / peak / 1e7:.0f} %" if peak else "–",
                *memory(runs, model, name),
                f"{median(r.first_round for r in own):.1f}",
                spread([100 * r.accuracy for r in own], lambda a: f"{a:.1f}") + (" (!)" if differs else ""),
            )
        )
    return table


def pfedme_rows(runs: Sequence[Run], models: Sequence[str]) -> list[tuple[str, ...]]:
    """Per model: gradients per second of FedAvg and pFedMe, and their ratio."""
    return [
        (
            MODELS[model],
            f"{median(r.speed for r in of(runs, model, OURS)):,.0f}",
            f"{median(r.speed for r in of(runs, model, PFEDME)):,.0f}",
            spread(ratios(runs, model, PFEDME, OURS), _two),
        )
        for model in models
        if of(runs, model, OURS) and of(runs, model, PFEDME)
    ]


def between_rounds(runs: Sequence[Run]) -> str:
    """What ours takes beyond the seconds that its own record gives for the rounds."""
    overheads = []
    for model, title in MODELS.items():
        if beyond := [1000 * (t - own) for r in of(runs, model, OURS) for t, own in zip(r.seconds, r.inside)]:
            overheads.append(f"{median(beyond):.1f} ms ({title})")
    return (
        f"Of ours, record and checkpoint take, per round and included above: {', '.join(overheads)}."
        if overheads
        else ""
    )


PFEDME_COLUMNS = ("", "FedAvg, gradients/s", "pFedMe, gradients/s", "pFedMe ÷ FedAvg")


def show(console: Console, results: Results, runs: Sequence[Run]) -> None:
    """Print the tables."""
    for title, columns, table in _tables(results, runs):
        printed = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
        for i, column in enumerate(columns):
            printed.add_column(column, justify="right" if i else "left", no_wrap=True)
        for row in table:
            printed.add_row(*row)
        console.print(printed)


def markdown(results: Results, runs: Sequence[Run]) -> str:
    """The tables with what a reader needs to know about them."""
    about, work = results["about"], results["work"]
    rounds = ", ".join(f"{n} ({model})" for model, n in work["rounds"].items())
    parts = [
        "# Speed: ours, the peers, and the machine's limit",
        "",
        "![Client-steps per second](speed.png)",
        "",
        f"`{about['command']}`, {about['date']}, on {about['processor']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB, {about['system']}; load average before it began {about['load_before']}.",
        "",
        "FedAvg on Fashion-MNIST: 100 clients of 600 samples (IID), 20 a round, one epoch of batches of 20 (30 steps "
        f"of plain SGD a client), lr {work['lr']}, nothing scored within the timed rounds. Medians of "
        f"{work['repeats']} repeats; a repeat runs every contestant once, the order rotates, and ratios are taken "
        f"within a repeat: median [least, greatest]. Timed rounds: {rounds}, after {work['warm_up']} of warm-up; "
        "start-up is apart. Memory is the peak, from start to end, of the proportional set sizes of the whole tree of "
        "processes. Accuracy, in per cent of the 10,000 test images, after the last round, shows that the work is the "
        f"same; (!) marks one more than {100 * SAME_WORK:.0f} points from ours. Of the peak: the arithmetic of the "
        "products in forward and backward pass as a share of what two processes reach together in products of 512 x "
        f"512 matrices, {about.get('peak_gflops', '–')} GFLOP/s ({about.get('capability', 'not noted')}).",
    ]
    for title, columns, table in _tables(results, runs):
        parts += ["", f"## {title}", "", _md(columns), _md(["---"] + ["---:"] * (len(columns) - 1)), *map(_md, table)]
    if between := between_rounds(runs):
        parts += ["", between]
    parts += ["", "## What ran", ""]
    for what, labels in _what_ran(results, runs).items():
        parts.append(f"- {'; '.join(labels)}: {what}")
    return "\n".join(parts) + "\n"


def draw(path: Path, results: Results, runs: Sequence[Run]) -> None:
    """A panel per model, a bar per contestant; whiskers from the slowest repeat to the fastest."""
    models = [model for model in results["work"]["rounds"] if any(r.model == model for r in runs)]
    names = [n for n in CONTESTANTS if n != PFEDME and any(of(runs, m, n) for m in models)]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(3.4 * len(models) + 2.4, 0.36 * len(names) + 1.3), layout="constrained")
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for panel, model in zip(panels, models):
            for y, name in enumerate(names):
                speeds = [r.speed for r in of(runs, model, name)]
                if not speeds:
                    continue
                middle = median(speeds)
                whiskers = [[middle - min(speeds)], [max(speeds) - middle]]
                panel.barh(y, middle, 0.7, color=_colour(name), xerr=whiskers, error_kw={"ecolor": "#444444"})
                panel.text(max(speeds), y, f" {middle:,.0f}", va="center", fontsize=9)
            panel.set_title(MODELS[model])
            panel.set_xlabel("client-steps per second")
            panel.margins(x=0.22)
            panel.set_xlim(left=0)
            panel.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            panel.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
            panel.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(names)), [CONTESTANTS[name].label for name in names])
        panels[0].invert_yaxis()
        save(figure, path)


def _tables(results: Results, runs: Sequence[Run]) -> list[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    models = list(results["work"]["rounds"])
    tables: list[tuple[str, Sequence[str], list[tuple[str, ...]]]] = [
        (MODELS[model], COLUMNS, table)
        for model in models
        if (table := rows(runs, model, results["about"].get("peak_gflops")))
    ]
    if pfedme := pfedme_rows(runs, models):
        tables.append(("pFedMe (R = 20, K = 5) through fedtl run, RayGrid, 2 actors", PFEDME_COLUMNS, pfedme))
    return tables


def _what_ran(results: Results, runs: Sequence[Run]) -> dict[str, list[str]]:
    """Versions, or why there are none: of which contestants."""
    by_what: dict[str, list[str]] = {}
    for name, contestant in CONTESTANTS.items():
        what = results["absent"].get(name)
        if done := next((r for r in runs if r.contestant == name and r.failure is None), None):
            what = ", ".join(f"{package} {version}" for package, version in done.versions.items() if version)
            what += f"; {contestant.remark}" if contestant.remark else ""
        if what:
            by_what.setdefault(what, []).append(contestant.label)
    return by_what


def _colour(name: str) -> str:
    if name.startswith(OURS):
        return COLOURS[0]
    if name == LIMIT:
        return COLOURS[4]
    return "#8c8c8c" if CONTESTANTS[name].peer else "#c4c4c4"


def _md(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _two(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}"
