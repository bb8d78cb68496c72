"""MNIST -> USPS and USPS -> MNIST at ten clients: each method of adaptation beside training on the source alone.

    FEDTL_DATA=... python -m tests.reproductions.transfer_domains [--seeds 3] [--out results/transfer/domains]

Runs what is missing below RAW, seed by seed in this process (a run that was interrupted goes on), then writes below
OUT each run's last scores (runs.csv), a picture per direction, and the table into README.md, between its two marks.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import fedtl
from fedtl import plot

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
BEGIN, END = "<!-- written by the script: begin -->\n", "<!-- end -->\n"


def runs(raw: Path, seeds: int, methods: Sequence[str], only_finished: bool) -> Iterator[fedtl.Run]:
    """All runs, a whole seed before the next; each is run where its last round is not on disk."""
    for seed in range(seeds):
        for method in methods:
            for direction in DIRECTIONS:
                folder = raw / f"{direction}-{method}-{seed}"
                if (folder / "model.safetensors").exists():  # written last
                    yield fedtl.load(folder)
                elif not only_finished:
                    print(f"{direction} {method} seed {seed}", flush=True)
                    begun = (folder / "config.toml").exists()
                    overrides = [f"seed={seed}", "simulation.grid=in-process"]
                    yield fedtl.run(f"transfer/{direction}-{method}", overrides, out=folder, resume=begun)


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
            spread(target),
            "–" if method == "source-only" or not gains else f"+{spread(gains)}".replace("+-", "-"),
            ", ".join(f"{value:.1f}" for value in target),
            spread([last(run, "target clients") for run in mine]),
            spread([last(run, "source") for run in mine]),
            published.get(direction, "–"),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def write_runs(results: Sequence[fedtl.Run], path: Path) -> None:
    """A line per run with what it scored after its last round, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["config", "seed", "rounds", *SCORES.values()])
        for run in results:
            scores = [f"{last(run, score) / 100:.4f}" for score in SCORES]
            lines.writerow([f"transfer/{run.name}", run.seed, run.rounds[-1]["round"], *scores])


def write_tables(text: str, readme: Path, title: str = "Adaptation between MNIST and USPS, federated") -> None:
    """Put the tables between the marks of README.md, which is begun if there is none."""
    before, after = f"# {title}\n\n", ""
    if readme.exists():
        before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("results/transfer/domains"))
    parser.add_argument("--raw", type=Path, default=Path("results/transfer/raw"), help="where the runs' folders lie")
    parser.add_argument("--only-finished", action="store_true", help="run nothing; tabulate what is there")
    options = parser.parse_args()
    results = list(runs(options.raw, options.seeds, options.methods, options.only_finished))
    if not results:
        parser.error(f"no run below {options.raw} is finished")
    options.out.mkdir(parents=True, exist_ok=True)
    write_runs(results, options.out / "runs.csv")
    text = "\n".join(table(results, direction) for direction in DIRECTIONS)
    write_tables(text, options.out / "README.md")
    for direction in DIRECTIONS:
        chosen = [run for method in METHODS for run in of(results, direction, method)]
        if chosen:
            figure = plot.convergence(chosen, score=[SCORES["target"], SCORES["source"]])
            plot.save(figure, options.out / f"{direction}.png")
    print(text)


if __name__ == "__main__":
    main()
