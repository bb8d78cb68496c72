"""Federated self-supervision on MNIST: features learnt without labels, probed with few, beside supervision with as few.

    FEDTL_DATA=... python -m tests.reproductions.transfer_self_supervised [--seeds 3] [--out FOLDER]

Runs what is missing below RAW, seed by seed in this process (a run that was interrupted goes on), probes what is
trained, then writes OUT/scores.jsonl, OUT/scores.png, and the table into OUT/README.md, between its two marks.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

import fedtl
from fedtl import plot
from fedtl.export.probe import probe
from fedtl.plot.style import COLOURS, MARKERS, RC
from tests.reproductions.experiments import Experiment, complete, spread, write_between_marks

SHARES = (0.01, 0.1)
MNIST = (
    "data.name=mnist",
    "data.samples=12000",
    "data.test_share=0.2",
    "data.partition.min_size=64",
    "simulation.grid=in-process",
)
WITHOUT_LABELS = ("rounds=40", "evaluate.every=40", "strategy.batch_size=64")
SUPERVISED = (
    "objective=none",
    "views=none",
    "rounds=40",
    "evaluate.every=2",
    "strategy.batch_size=20",
    "strategy.local_epochs=5",
    "strategy.lr=0.01",
)
# The config that each run begins with, and what is changed in it.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "barlow-twins": ("transfer/barlow-twins", (*MNIST, *WITHOUT_LABELS, "strategy.lr=0.02")),
    "invariant-spreading": ("transfer/invariant-spreading", (*MNIST, *WITHOUT_LABELS)),
    "untrained": (
        "transfer/barlow-twins",
        (*MNIST, *WITHOUT_LABELS, "rounds=1", 'strategy.frozen=["features"]'),
    ),
    **{
        f"supervised-{share:g}": ("transfer/barlow-twins", (*MNIST, *SUPERVISED, f"data.labelled_fraction={share:g}"))
        for share in SHARES
    },
}
NAMES = {
    "supervised": "FedAvg, supervised",
    "barlow-twins linear": "Barlow Twins, linear probe",
    "barlow-twins knn": "Barlow Twins, kNN",
    "invariant-spreading linear": "invariant and spreading, linear probe",
    "invariant-spreading knn": "invariant and spreading, kNN",
    "untrained linear": "untrained network, linear probe",
    "untrained knn": "untrained network, kNN",
}
TESTS = {"server test": "MNIST's test set", "clients": "clients' test samples", "own": "each client's own labels"}
Row = dict[str, Any]


def run(name: str, seed: int, raw: Path) -> fedtl.Run:
    """One run; a finished one is read."""
    config, overrides = RUNS[name]
    experiment = Experiment(raw / f"{name}-{seed}", config, (f"seed={seed}", *overrides))
    complete([experiment], 1)
    return fedtl.load(experiment.folder)


def rows_of(name: str, run: fedtl.Run) -> list[Row]:
    """A run's accuracies, a row each."""
    about: Row = {"seed": run.seed, "seconds": round(run.rounds[-1]["elapsed"])}
    if name.startswith("supervised"):
        share = run.config["data"]["labelled_fraction"]
        scores = {"server test": "global/server-test", "clients": "global/clients"}
        last, best = run.last(), run.best()
        return [
            about
            | {"method": "supervised", "share": share, "test": test}
            | {"accuracy": last[score].value, "best": best[score].value, "labels": labels_of(run)}
            for test, score in scores.items()
        ]
    rows = []
    for kind in ("linear", "knn"):
        for result in probe(run, SHARES, kind):
            test = "own" if result.train == "own" else result.test.replace("-", " ")
            row = {"method": f"{name} {kind}", "share": result.share, "test": test, "accuracy": result.accuracy}
            rows.append(about | row | {"labels": result.train_samples, "remark": result.remark})
    return rows


def labels_of(run: fedtl.Run) -> int:
    """How many labels a supervised run trains with."""
    from fedtl.config.read import build
    from fedtl.data.federate import federate

    config = build(dict(run.config))
    return len(federate(config.data, config.seed).train.order)


def chosen(rows: Sequence[Row], method: str, share: float, test: str) -> list[Row]:
    """The rows of one cell, a seed each."""
    return [row for row in rows if (row["method"], row["share"], row["test"]) == (method, share, test)]


def in_percent(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    return spread([100 * value for value in values], 1)


def over(rows: Sequence[Row], method: str, share: float) -> str:
    """How far a method's probe is above supervision with as many labels, seed by seed, on the server's test set."""
    bare = {row["seed"]: row["accuracy"] for row in chosen(rows, "supervised", share, "server test")}
    mine = chosen(rows, method, share, "server test")
    gains = [100 * (row["accuracy"] - bare[row["seed"]]) for row in mine if row["seed"] in bare]
    if method == "supervised" or not gains:
        return ""
    return f"{statistics.mean(gains):+.1f}; better in {sum(gain > 0 for gain in gains)} of {len(gains)}"


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row per method, for each share of the labels."""
    parts = []
    for share in SHARES:
        lines = [
            f"| {100 * share:g} % of the labels | {' | '.join(TESTS.values())} | labels | over supervised | seeds |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for method, name in NAMES.items():
            cells = []
            for test in TESTS:
                accuracies = [row["accuracy"] for row in chosen(rows, method, share, test)]
                cells.append(in_percent(accuracies) if accuracies else "")
            server = chosen(rows, method, share, "server test")
            if not server:
                continue
            labels = " ".join(str(row["labels"]) for row in server)
            each = " ".join(f"{100 * row['accuracy']:.1f}" for row in server)
            lines.append(f"| {name} | {' | '.join(cells)} | {labels} | {over(rows, method, share)} | {each} |")
        parts.append("\n".join(lines))
    best = [
        f"{100 * share:g} %: {in_percent([row['best'] for row in chosen(rows, 'supervised', share, 'server test')])}"
        for share in SHARES
        if chosen(rows, "supervised", share, "server test")
    ]
    seconds: dict[str, list[int]] = {}
    for row in rows:
        if row["test"] == "server test":
            seconds.setdefault(row["method"].split()[0], []).append(row["seconds"])
    durations = ", ".join(f"{name} {statistics.mean(each):.0f}" for name, each in seconds.items())
    parts.append(f"Supervised FedAvg's best scored round, which nobody would know to choose: {'; '.join(best)}.")
    parts.append(f"Seconds a run, on shared cores: {durations}.")
    return "\n\n".join(parts) + "\n"


@mpl.rc_context(RC)
def picture(rows: Sequence[Row]) -> Figure:
    """Each method's mean over seeds on the server's test set, and each seed, for each share of the labels."""
    figure = Figure((7.2, 3.4), layout="constrained")
    for i, (share, axes) in enumerate(zip(SHARES, figure.subplots(1, len(SHARES), sharey=True))):
        for place, method in enumerate(reversed(NAMES)):
            values = [100 * row["accuracy"] for row in chosen(rows, method, share, "server test")]
            colour = COLOURS[[*NAMES].index(method) % len(COLOURS)]
            axes.plot(values, [place] * len(values), MARKERS[0], color=colour, alpha=0.4, mew=0)
            if values:
                axes.plot(statistics.mean(values), place, "|", color=colour, ms=16, mew=2)
        axes.set_yticks(range(len(NAMES)), [*reversed(NAMES.values())])
        axes.set_title(f"{100 * share:g} % of the labels")
        axes.set_xlabel("accuracy on MNIST's test set in %" if not i else "accuracy in %")
    return figure


def publish(rows: Sequence[Row], out: Path) -> None:
    """Write what there is so far."""
    write_between_marks(table(rows), out / "README.md", "Self-supervision, federated")
    plot.save(picture(rows), out / "scores.png")


def main() -> None:
    """Run, probe, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/transfer/self-supervised"))
    parser.add_argument(
        "--raw", type=Path, default=Path("results/transfer/raw/self-supervised"), help="where the runs' folders lie"
    )
    parser.add_argument("--only-scores", action="store_true", help="run nothing; tabulate OUT/scores.jsonl")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "scores.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in () if options.only_scores else range(options.seeds):
        for name in RUNS:
            if any((row["run"], row["seed"]) == (name, seed) for row in rows):
                continue
            rows += [{"run": name} | row for row in rows_of(name, run(name, seed, options.raw))]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            publish(rows, options.out)
    publish(rows, options.out)
    print(table(rows))


if __name__ == "__main__":
    main()
