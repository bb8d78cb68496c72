"""Table 1 of the pFedMe paper (arXiv 2006.08848), ours beside the paper's.

    FEDTL_DATA=... python -m tests.reproductions.pfedme_table1 [--seeds 3] [--out results/pfedme-table1]

Runs what is missing below OUT/raw (a run that was interrupted goes on), then writes OUT/table.md and
OUT/convergence.png from the records.
"""

from __future__ import annotations

import argparse
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path

import fedtl
from fedtl import plot
from fedtl.config.read import load_tables

FEDAVG_LR = {"mnist-logistic": 0.02, "mnist-mlp": 0.02, "synthetic-logistic": 0.02, "synthetic-mlp": 0.03}
# Accuracies in per cent: FedAvg, pFedMe's global model, pFedMe's personalised models.
PAPER = {
    "mnist-logistic": (93.96, 94.18, 95.62),
    "mnist-mlp": (98.79, 99.16, 99.46),
    "synthetic-logistic": (77.62, 78.65, 83.20),
    "synthetic-mlp": (83.64, 84.17, 86.36),
}
SCORES = (("fedavg", "global/clients"), ("pfedme", "global/clients"), ("pfedme", "personal/clients"))


def runs(out: Path, seeds: int, only_finished: bool) -> Iterator[fedtl.Run]:
    """All runs, seed by seed; each is run where its last round is not on disk."""
    for seed in range(seeds):
        for experiment, lr in FEDAVG_LR.items():
            for method in ("fedavg", "pfedme"):
                folder = out / "raw" / f"{experiment}-{method}-{seed}"
                overrides = [f"seed={seed}", "simulation.grid=in-process"]
                overrides += [f"strategy.name={method}", f"strategy.lr={lr}"] if method == "fedavg" else []
                if finished(folder, experiment):
                    yield fedtl.load(folder)
                    continue
                if only_finished:
                    continue
                print(f"{experiment} {method} seed {seed}", flush=True)
                begun = (folder / "config.toml").exists()
                yield fedtl.run(f"pfedme/{experiment}", overrides, out=folder, resume=begun)


def finished(folder: Path, experiment: str) -> bool:
    """Whether a folder holds the whole run."""
    return (folder / "model.safetensors").exists() and (
        tomllib.loads((folder / "config.toml").read_text())["rounds"] == load_tables(f"pfedme/{experiment}")["rounds"]
    )


def table(results: list[fedtl.Run]) -> str:
    """Markdown: for each experiment the paper's number, ours in the last round (mean ± std), and our best."""
    lines = [
        "| experiment | score | paper | ours, last round | ours, best round | seeds | seconds a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for experiment, paper in PAPER.items():
        for (method, score), theirs in zip(SCORES, paper):
            mine = [r for r in results if r.method == method and r.name == f"pfedme-{experiment}"]
            last = [100 * r.last()[score].value for r in mine]
            best = [100 * r.best()[score].value for r in mine]
            seconds = statistics.mean(r.rounds[-1]["elapsed"] for r in mine)
            lines.append(
                f"| {experiment} | {method} {score} | {theirs:.2f} | {spread(last)} | {spread(best)} "
                f"| {len(mine)} | {seconds:.0f} |"
            )
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}"


def main() -> None:
    """Run, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/pfedme-table1"))
    parser.add_argument("--only-finished", action="store_true", help="run nothing; tabulate what is there")
    options = parser.parse_args()
    results = list(runs(options.out, options.seeds, options.only_finished))
    text = table(results)
    (options.out / "table.md").write_text(text)
    for experiment in PAPER:
        chosen = [r for r in results if r.name == f"pfedme-{experiment}"]
        plot.save(plot.compare(chosen), options.out / f"{experiment}.png")
    print(text)


if __name__ == "__main__":
    main()
