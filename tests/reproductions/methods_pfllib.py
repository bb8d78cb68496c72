"""Every method of the registry in PFLlib's default setting, on the very split that its authors published.

    FEDTL_DATA=... python -m tests.reproductions.methods_pfllib [--seeds 3] [--jobs 2]

Fashion-MNIST, 20 clients, Dirichlet(0.1), 75 % / 25 %, all clients in each of 25 rounds, one epoch of mini-batches of
10, η = 0.005, pixels in [-1, 1], an MLP 784-100-10. Runs what is missing below RAW, a whole seed before the next, and
writes the table into OUT/pfllib.md, between its two marks, and adds to OUT/pfllib.csv, a line a run and score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fedtl
from fedtl.strategies import STRATEGIES
from tests.reproductions.curves import add_curves, curves_of
from tests.reproductions.experiments import Experiment, arguments, header, row, runs_for, spread, write_between_marks

SETTINGS: dict[str, dict[str, Any]] = {
    "afl": {"mixture_lr": 0.01, "output": "last"},
    "apfl": {"alpha": 1.0, "adaptive": True},
    "ditto": {"lam": 1.0},
    "fedavg-finetune": {"finetune_epochs": 1},
    "fedadagrad": {"server": {"lr": 0.01}},
    "fedadam": {"server": {"lr": 0.01}},
    "fedavgm": {"server": {"lr": 1.0, "momentum": 0.9}},
    "fedbabu": {"finetune_epochs": 1},
    "feddc": {"alpha": 1.0},  # at 0.1 it diverges here
    "feddyn": {"alpha": 0.1},
    "fedper": {"private_start": "common"},  # as in PFLlib
    "fedprox": {"mu": 0.01},
    "fedrep": {"head_epochs": 1},
    "fedyogi": {"server": {"lr": 0.01}},
    "per-fedavg": {"alpha": 0.005},
    "pfedme": {"lr": 0.005, "lam": 15.0, "inner_steps": 5, "inner_lr": 0.01},
    "qfedavg": {"q": 0.1},
}
"""What a method needs besides the common settings, near its authors' or PFLlib's defaults, and not tuned."""

LEFT_OUT = {
    "fedbn": "the MLP has no batch-norm",
    "feddf": "there are no public data",
}
BY_CLIENTS = ("scaffold", "feddyn", "feddc")
"""Methods whose own equations take the plain mean over clients; PFLlib weights all others by samples, and so do we."""

SCORES = ("global/clients", "personal/clients")


def config(method: str, seed: int) -> dict[str, Any]:
    """A run's config."""
    local = {"local_epochs": 1, "batch_size": 10}
    return {
        "name": method,
        "seed": seed,
        "rounds": 25,
        "data": {
            "name": "fashion-mnist",
            "pool": "all",
            "normalise": {"mean": 0.5, "std": 0.5},
            "partition": {"name": "file", "path": "splits/fashion-mnist-dirichlet-0.1-20.npz"},
        },
        "model": {"name": "mlp", "hidden": [100]},
        "strategy": {"name": method, "lr": 0.005, **weighting(method), **local, **SETTINGS.get(method, {})},
        "evaluate": {"every": 5},  # to score a personalised model of the present global one takes training
    }


def weighting(method: str) -> dict[str, str]:
    """By samples, where a method can and its equations do not say otherwise."""
    from fedtl.strategies import strategy_type

    known = "weighting" in strategy_type(method).settings_type.model_fields
    return {"weighting": "samples"} if known and method not in BY_CLIENTS else {}


def table(runs: Sequence[fedtl.Run]) -> str:
    """Markdown: a row per method and scored model."""
    lines = header(
        "method", "model", "last round", "best round", "worst decile, last", "mean loss, last", "seeds", "seconds a run"
    )
    for method in sorted(STRATEGIES):
        mine = [run for run in runs if run.method == method]
        for score in SCORES:
            scored = [run for run in mine if score in run.last()]
            if scored:
                lines.append(row(method, score, *cells(scored, score)))
    return "\n".join(lines) + "\n"


def cells(runs: Sequence[fedtl.Run], score: str) -> list[str]:
    """A row's numbers; accuracies in per cent, as sample-weighted means over clients."""
    percent = [
        [100 * run.last()[score].value for run in runs],
        [100 * run.best()[score].value for run in runs],
        [100 * run.last(statistic="worst_decile")[score].value for run in runs],
    ]
    losses = [run.last("loss")[score].value for run in runs]
    seconds = [run.rounds[-1]["elapsed"] for run in runs]
    return [*map(spread, percent), spread(losses, 3), str(len(runs)), spread(seconds, 0)]


def main() -> None:
    """Run and tabulate."""
    parser = arguments(__doc__, "results/methods", "results/methods/raw/pfllib")
    parser.add_argument("--methods", nargs="+", default=[name for name in sorted(STRATEGIES) if name not in LEFT_OUT])
    options = parser.parse_args()
    experiments = [
        Experiment(options.raw / f"{method}-{seed}", config(method, seed))
        for seed in range(options.seeds)
        for method in options.methods
    ]
    runs = runs_for(experiments, parser, options)
    text = table(runs)
    write_between_marks(text, options.out / "pfllib.md", "Every method in PFLlib's default setting")
    add_curves(curves_of(runs, SCORES), options.out / "pfllib.csv")
    print(text)


if __name__ == "__main__":
    main()
