"""MNIST -> USPS and USPS -> MNIST at ten clients: each method of adaptation beside training on the source alone.

    FEDTL_DATA=... python -m tests.reproductions.transfer_domains [--seeds 3] [--out results/transfer/domains]

Runs what is missing below RAW, seed by seed (a run that was interrupted goes on), then writes below OUT each run's
last scores (runs.csv), a picture per direction, and the table into README.md, between its two marks.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import fedtl
from fedtl import plot
from tests.reproductions.experiments import Experiment, arguments, runs_for, spread, write_between_marks

DIRECTIONS = {"mnist-usps": "MNIST → USPS", "usps-mnist": "USPS → MNIST"}
# A row per method: its name in the table, and what others report for it in each direction, in per cent.
METHODS = {
    "source-only": ("source only", {"mnist-usps": "75 to 82", "usps-mnist": "49 to 57"}),
    "mmd": ("MMD", {}),
    "coral": ("CORAL", {}),
    "dann": ("DANN", {"mnist-usps": "85 to 89", "usps-mnist": "up to 95.7"}),
    "adda": ("ADDA", {"mnist-usps": "89.4 ± 0.2", "usps-mnist": "90.1 ± 0.8"}),
}
# The scores by what the tables call them.
SCORES = {
    "target": "global/target-server-test",
    "target clients": "global/target-clients",
    "source": "global/server-test",
    "source clients": "global/clients",
}


def experiments(raw: Path, seeds: int, methods: Sequence[str]) -> list[Experiment]:
    """All runs, a whole seed before the next."""
    return [
        Experiment(raw / f"{direction}-{method}-{seed}", f"transfer/{direction}-{method}", (f"seed={seed}",))
        for seed in range(seeds)
        for method in methods
        for direction in DIRECTIONS
    ]


def of(results: Sequence[fedtl.Run], direction: str, method: str) -> list[fedtl.Run]:
    """One config's runs, a seed each."""
    return [run for run in results if run.name == f"{direction}-{method}"]


def last(run: fedtl.Run, score: str) -> float:
    """A score after the last round, in per cent."""
    return 100 * run.last()[SCORES[score]].value


def table(results: Sequence[fedtl.Run], direction: str) -> str:
    """Markdown: a row per method."""
    lines = [
        f"| {DIRECTIONS[direction]} | target test | over source only | each seed | target clients | source test "
        "| published |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    bare = {run.seed: last(run, "target") for run in of(results, direction, "source-only")}
    for method, (name, published) in METHODS.items():
        mine = of(results, direction, method)
        if not mine:
            continue
        target = [last(run, "target") for run in mine]
        gains = [last(run, "target") - bare[run.seed] for run in mine if run.seed in bare]
        columns = [
            name,
            spread(target, 1),
            "–" if method == "source-only" or not gains else f"+{spread(gains, 1)}".replace("+-", "-"),
            ", ".join(f"{value:.1f}" for value in target),
            spread([last(run, "target clients") for run in mine], 1),
            spread([last(run, "source") for run in mine], 1),
            published.get(direction, "–"),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def write_runs(results: Sequence[fedtl.Run], path: Path) -> None:
    """A line per run with what it scored after its last round, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["config", "seed", "rounds", *SCORES.values()])
        for run in results:
            scores = [f"{last(run, score) / 100:.4f}" for score in SCORES]
            lines.writerow([f"transfer/{run.name}", run.seed, run.rounds[-1]["round"], *scores])


def main() -> None:
    """Run, tabulate, draw."""
    parser = arguments(__doc__, "results/transfer/domains", "results/transfer/raw", jobs=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    all_runs = experiments(options.raw, options.seeds, options.methods)
    results = runs_for(all_runs, parser, options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_runs(results, options.out / "runs.csv")
    text = "\n".join(table(results, direction) for direction in DIRECTIONS)
    write_between_marks(text, options.out / "README.md", "Adaptation between MNIST and USPS, federated")
    for direction in DIRECTIONS:
        chosen = [run for method in METHODS for run in of(results, direction, method)]
        if chosen:
            figure = plot.convergence(chosen, score=[SCORES["target"], SCORES["source"]])
            plot.save(figure, options.out / f"{direction}.png")
    print(text)


if __name__ == "__main__":
    main()
