"""How often ``fedtl compare`` finds a difference where there is none: FedAvg against itself.

    python -m tests.benchmarks.null_study

FedAvg is trained under many seeds on one split of digits. Two disjoint draws of these runs are one method under two
names. Of 1000 such studies it counts those in which Wilcoxon's p-value over clients is below 0.05, those whose
intervals, over clients and over seeds, hold zero, and those in which one name is called better than the other. A second
table has how often Friedman's test rejects where each setting ranks the methods at random.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import fedtl
from fedtl.comparison.bootstrap import Stratum, interval
from fedtl.comparison.friedman import iman_davenport
from fedtl.comparison.statistics import interval_over_seeds, signed_rank
from fedtl.config.read import read_config
from fedtl.data.federate import federate_with_divisions
from fedtl.data.split import write_split

RUNS, STUDIES, SEEDS = 40, 1000, (1, 2, 3, 5)
SCORE = "global/clients"
METHODS, SETTINGS, DRAWS = (3, 4, 6, 10), (5, 6, 8, 12), 20000


def train(folder: Path) -> list[fedtl.Run]:
    """FedAvg under each seed, all on the split of seed 0."""
    config, _ = read_config("quickstart", [])
    _, divisions = federate_with_divisions(config.data, config.seed)
    write_split(divisions.source.split(), folder / "split.npz")
    overrides = [
        "strategy.name=fedavg",
        "rounds=20",
        "evaluate.every=20",
        f'data.partition={{name="file", path="{folder / "split.npz"}"}}',
        "simulation.grid=in-process",
    ]
    return [fedtl.run("quickstart", [*overrides, f"seed={seed}"], out=folder / str(seed)) for seed in range(RUNS)]


def ranks_at_random() -> None:
    """Print how often Friedman's test rejects at 0.05 where no method is better."""
    print("| methods | " + " | ".join(f"{n} settings" for n in SETTINGS) + " |")
    print("| --: |" + " --: |" * len(SETTINGS))
    generator = np.random.default_rng(0)
    for k in METHODS:
        cells = []
        for n in SETTINGS:
            means = (generator.random((DRAWS, n, k)).argsort(-1).argsort(-1) + 1.0).mean(1)
            cells.append(f"{100 * np.mean([iman_davenport(ranks, n)[2] < 0.05 for ranks in means]):.1f} %")
        print(f"| {k} | {' | '.join(cells)} |")


def main() -> None:
    """Train, draw, print tables."""
    ranks_at_random()
    with tempfile.TemporaryDirectory() as folder:
        runs = train(Path(folder))
        values = np.array([run.client_scores()[SCORE] for run in runs])
        samples = np.asarray(runs[0].clients[-1]["samples"], np.float64)
    means = values @ samples / samples.sum()
    print(f"{RUNS} runs: accuracy {means.mean():.4f} ± {means.std(ddof=1):.4f}")
    columns = ("seeds", "p < 0.05 over clients", "interval over clients holds 0", "over seeds", "called better")
    print(f"| {' | '.join(columns)} |")
    print("| --: " * len(columns) + "|")
    generator = np.random.default_rng(0)
    for seeds in SEEDS:
        outcomes = np.zeros((STUDIES, 4), bool)
        for study in range(STUDIES):
            drawn = generator.permutation(RUNS)
            first, second = drawn[:seeds], drawn[seeds : 2 * seeds]
            differences = (values[first] - values[second]).mean(0)
            over_clients = interval([Stratum(differences, samples)], 0.95, 999, 0) or (0.0, 0.0)
            over_seeds = interval_over_seeds((means[first] - means[second]).tolist(), 0.95) or (1.0, 0.0)
            test = signed_rank(differences)
            outcomes[study] = (
                test.p < 0.05,
                over_clients[0] <= 0 <= over_clients[1],
                over_seeds[0] <= 0 <= over_seeds[1],
                # As fedtl.comparison.compare decides.
                test.p < 0.05 and seeds > 1 and all(end * test.effect > 0 for end in over_seeds),
            )
        rejected, clients, by_seeds, better = 100 * outcomes.mean(0)
        zero_within = f"{by_seeds:.0f} %" if seeds > 1 else "-"
        print(f"| {seeds} | {rejected:.0f} % | {clients:.0f} % | {zero_within} | {better:.1f} % |")


if __name__ == "__main__":
    main()
