"""Two classes a client on MNIST: what holds against forgetting, and what serves a client that knows two classes.

    FEDTL_DATA=... python -m tests.reproductions.transfer_label_skew [--seeds 3] [--out results/transfer/label-skew]

Runs what is missing below RAW, seed by seed (a run that was interrupted goes on), then writes the
table into OUT/README.md, between its two marks, each run's last scores (runs.csv), and a picture.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fedtl
from fedtl import plot
from tests.reproductions.experiments import Experiment, arguments, runs_for, spread, write_between_marks

CE = {"term": "cross_entropy"}
FEDAVG = {"name": "fedavg", "lr": 0.05}
# A row per method: its name in the table, and what is added to the common config.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "fedavg": ("FedAvg", {}),
    "distillation": (
        "FedAvg + distillation from the global model",
        {"objective": [CE, {"term": "distillation", "teacher": "global", "temperature": 2.0}]},
    ),
    "moon": ("FedAvg + MOON", {"objective": [CE, {"term": "moon", "weight": 1.0}]}),
    "replay": (
        "FedAvg + replay of class impressions",
        {"objective": [CE, {"term": "replay"}], "replay": {"after": 5}},
    ),
    "fedproto": (
        "FedProto (models stay at the clients)",
        {"strategy": {"name": "local"}, "objective": [CE, {"term": "prototype"}]},
    ),
    "local": ("local training", {"strategy": {"name": "local"}}),
}
ALONE = ("fedproto", "local")
"""Methods for which it does not matter who else trains."""

# Who trains in a round and for how long, by the run's name, and what the table calls it.
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "label-skew": ("5 of 10 clients a round, 2 epochs each", {"clients_per_round": 5, "local_epochs": 2}),
    "label-skew-few": ("2 of 10 clients a round, 5 epochs each", {"clients_per_round": 2, "local_epochs": 5}),
}
SCORES = ("global/server-test", "global/clients", "personal/clients")


def config(setting: str, method: str, seed: int) -> dict[str, Any]:
    """A run's config."""
    more = {**METHODS[method][1]}
    strategy = {**FEDAVG, **more.pop("strategy", {}), **SETTINGS[setting][1], "batch_size": 32}
    return {
        "name": f"{setting}-{method}",
        "seed": seed,
        "rounds": 40,
        "data": {
            "name": "mnist",
            "samples": 4000,
            "clients": 10,
            "partition": {"name": "pathological", "classes_per_client": 2},
        },
        "model": {"name": "lenet5"},
        "strategy": strategy,
        "objective": [CE],
        "evaluate": {"every": 2},
        "simulation": {"grid": "in-process"},
        **more,
    }


def experiments(raw: Path, seeds: int) -> list[Experiment]:
    """All runs, a whole seed before the next."""
    pairs = [(setting, method) for setting in SETTINGS for method in METHODS]
    return [
        Experiment(raw / f"{setting}-{method}-{seed}", config(setting, method, seed))
        for seed in range(seeds)
        for setting, method in pairs
        if setting == "label-skew" or method not in ALONE
    ]


def late(run: fedtl.Run, score: str) -> float | None:
    """A score's mean over the last five scored rounds, in per cent: with two classes a client, single ones jump."""
    curve = run.scores().get(score)
    return None if curve is None else 100 * float(curve.values[-5:].mean())


def table(results: Sequence[fedtl.Run], setting: str) -> str:
    """Markdown: a row per method."""
    lines = [
        f"| {SETTINGS[setting][0]} | global model, server's test | global model, clients' test "
        "| personalised models, clients' test | bytes up a round | seconds a run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method, (name, _) in METHODS.items():
        mine = [run for run in results if run.name == f"{setting}-{method}"]
        if not mine:
            continue
        scores = [[value for run in mine if (value := late(run, score)) is not None] for score in SCORES]
        columns = [name, *(spread(values, 1) for values in scores)]
        columns.append(f"{mine[0].rounds[-1]['bytes_up']:,}")
        columns.append(f"{sum(run.rounds[-1]['elapsed'] for run in mine) / len(mine):.0f}")
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def write_runs(results: Sequence[fedtl.Run], path: Path) -> None:
    """A line per run, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["config", "seed", "rounds", *SCORES])
        for run in results:
            values = [late(run, score) for score in SCORES]
            cells = ["" if value is None else f"{value / 100:.4f}" for value in values]
            lines.writerow([run.name, run.seed, run.rounds[-1]["round"], *cells])


def main() -> None:
    """Run, tabulate, draw."""
    parser = arguments(__doc__, "results/transfer/label-skew", "results/transfer/raw", jobs=1)
    options = parser.parse_args()
    all_runs = experiments(options.raw, options.seeds)
    results = runs_for(all_runs, parser, options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_runs(results, options.out / "runs.csv")
    text = "\n".join(table(results, setting) for setting in SETTINGS)
    write_between_marks(text, options.out / "README.md", "Two classes a client, on MNIST")
    few = [run for run in results if run.name.startswith("label-skew-few-")]
    if few:
        plot.save(plot.convergence(few, score=SCORES[0]), options.out / "few.png")
    print(text)


if __name__ == "__main__":
    main()
