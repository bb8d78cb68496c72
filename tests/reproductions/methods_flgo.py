"""FLGo-Bench's MNIST table (github.com/WwZzz/FLGo-Bench): three methods where most clients hold one label.

    FEDTL_DATA=... python -m tests.reproductions.methods_flgo [--rounds 100] [--seeds 1] [--jobs 1]

100 clients of 600 samples each, whose labels are drawn from Dir(0.1 p), 20 of them in each round of 5 epochs,
mini-batches of 50, a CNN with 32 and 64 channels of 5×5 and a hidden layer of 512, weight decay 1e-3, η times 0.9998 a
round; a tenth of each client's samples is for validation and a tenth for testing. η and α are those that FLGo-Bench
chose for each method by validation. The global model is scored on the official test set every 5 rounds. FLGo-Bench
has 1,000 rounds; a run is lengthened if ``--rounds`` is raised. All methods get a quarter of the rounds before any gets
the next. Runs what is missing below RAW, and writes the table into OUT/flgo.md, between its two marks.

Differs from FLGo (0.3.20 and later were read): the clients of a round are drawn without replacement, which FLGo does
for SCAFFOLD alone; who holds what is drawn by each seed, by the rule of the one split that FLGo-Bench has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fedtl
from tests.reproductions.experiments import (
    Experiment,
    arguments,
    complete,
    header,
    row,
    runs_of,
    spread,
    write_between_marks,
)

METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"lr": 0.05, "clip_norm": 10.0},
    # In FLGo c_i is the mean of whole steps, weight decay included, and the corrected gradient is clipped: the same as
    # this while no norm exceeds 10.
    "scaffold": {"lr": 0.01, "corrects": "step"},
    "feddyn": {"lr": 0.05, "alpha": 0.1, "clip_norm": 10.0},
}
PUBLISHED = {"fedavg": "98.31 ± 0.06", "scaffold": "99.11 ± 0.02", "feddyn": "98.89 ± 0.04"}
"""After at most 1,000 rounds, in the round that is best on the clients' validation samples, over five seeds."""

SCORE, VALIDATION = "global/server-test", "global/validation-clients"
EVERY = 5


def config(method: str, seed: int, rounds: int) -> dict[str, Any]:
    """A run's config."""
    return {
        "name": "flgo-mnist",
        "seed": seed,
        "rounds": rounds,
        "data": {
            "name": "mnist",
            "clients": 100,
            "normalise": {"mean": 0.1307, "std": 0.3081},
            "test_share": 0.1,
            "validation_share": 1 / 9,  # of the other nine tenths
            "partition": {"name": "client-dirichlet", "alpha": 0.1},
        },
        "model": {"name": "cnn", "channels": [32, 64], "padding": "same", "hidden": [512]},
        "strategy": {
            "name": method,
            "clients_per_round": 20,
            "local_epochs": 5,
            "batch_size": 50,
            "weight_decay": 1e-3,
            "schedule": {"name": "exponential", "gamma": 0.9998},
            **METHODS[method],
        },
        "evaluate": {"every": EVERY},
    }


def experiments(raw: Path, seeds: int, rounds: int) -> list[Experiment]:
    """The runs, whole seeds one after another."""
    return [
        Experiment(raw / f"{method}-{seed}", config(method, seed, rounds), rounds=rounds)
        for seed in range(seeds)
        for method in METHODS
    ]


def quarters(rounds: int) -> list[int]:
    """So many rounds all methods get before any gets more."""
    return sorted({EVERY * max(1, round(rounds * quarter / 4 / EVERY)) for quarter in (1, 2, 3)} | {rounds})


def by_validation(run: fedtl.Run) -> float:
    """The score in the round that is best on validation samples."""
    rounds, values = run.scores()[VALIDATION]
    tested, scores = run.scores()[SCORE]
    return float(scores[np.flatnonzero(tested == rounds[int(np.argmax(values))])[0]])


def table(runs: Sequence[fedtl.Run]) -> str:
    """Markdown: a row per method."""
    lines = header(
        "method",
        "η",
        "published, 1,000 rounds",
        "rounds here",
        "best by validation",
        "last",
        "best",
        "clients' worst decile, last",
        "seeds",
        "seconds a run",
    )
    for method, published in PUBLISHED.items():
        mine = [run for run in runs if run.method == method]
        if not mine:
            continue
        chosen = [100 * by_validation(run) for run in mine]
        last, best = ([100 * each[SCORE].value for each in points] for points in _last_and_best(mine))
        decile = [100 * run.last(statistic="worst_decile")["global/clients"].value for run in mine]
        columns = ", ".join(sorted({str(len(run.rounds)) for run in mine}))
        seconds = spread([run.rounds[-1]["elapsed"] for run in mine], 0)
        numbers = (spread(chosen), spread(last), spread(best), spread(decile))
        lines.append(row(method, METHODS[method]["lr"], published, columns, *numbers, len(mine), seconds))
    return "\n".join(lines) + "\n"


def _last_and_best(runs: Sequence[fedtl.Run]) -> tuple[list[Any], list[Any]]:
    return [run.last() for run in runs], [run.best() for run in runs]


def main() -> None:
    """Run and tabulate."""
    parser = arguments(__doc__, "results/methods", "results/methods/raw/flgo", seeds=1)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    if not options.only_finished:
        for seeds in range(1, options.seeds + 1):
            for rounds in quarters(options.rounds):
                complete(experiments(options.raw, seeds, rounds), options.jobs)
    runs = runs_of(experiments(options.raw, options.seeds, 0))
    if not runs:
        parser.error(f"no run below {options.raw} is finished")
    text = table(runs)
    write_between_marks(text, options.out / "flgo.md", "FLGo-Bench's MNIST table")
    print(text)


if __name__ == "__main__":
    main()
