"""A small study that has been run: what reads studies is tested on it."""

from __future__ import annotations

import itertools
from pathlib import Path

import fedtl
from fedtl.studies import Cell, Planned, Study

ALPHA = "data.partition.alpha"
VARIANTS = ("fedavg", "pfedme", "local")
ALPHAS = (0.1, 1.0)
SEEDS = (0, 1)
OVERRIDES = (
    "rounds=2",
    "data.clients=4",
    "data.validation_share=0.2",
    "strategy.clients_per_round=4",
    "evaluate.every=1",
    "simulation.grid=in-process",
)


def small_study(folder: Path) -> Study:
    """Three methods × two α × two seeds on digits, two rounds each; the last run failed."""
    cells = []
    runs = []
    for variant, alpha in itertools.product(VARIANTS, ALPHAS):
        name = f"{variant} alpha={alpha:g}"
        overrides = {"strategy.name": variant, ALPHA: alpha}
        cells.append(Cell(name, variant, {ALPHA: alpha}, overrides))
        for seed in SEEDS:
            place = f"runs/{variant}-{alpha:g}-{seed}"
            if (variant, alpha, seed) == (VARIANTS[-1], ALPHAS[-1], SEEDS[-1]):
                runs.append(Planned(place, name, seed, "failed", failure="the disk is full"))
                continue
            pairs = [f"{key}={value}" for key, value in overrides.items()]
            run = fedtl.run("quickstart", [*OVERRIDES, *pairs, f"seed={seed}"], out=folder / place)
            runs.append(Planned(place, name, seed, "finished", seconds=run.rounds[-1]["elapsed"]))
    study = Study(
        folder=folder,
        name="small",
        question="Does personalisation help where labels are skewed?",
        command=("fedtl", "sweep", "small.toml"),
        base=dict(run.config),
        variants=VARIANTS,
        axes={ALPHA: ALPHAS},
        seeds=SEEDS,
        cells=tuple(cells),
        runs=tuple(runs),
    )
    study.save()
    return study
