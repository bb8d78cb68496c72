"""NIID-Bench's Table 3 as Flower's reproduction has it (baselines/niid_bench): four methods on label skew.

    FEDTL_DATA=... python -m tests.reproductions.methods_niid_bench [--seeds 1] [--jobs 2] [--data mnist ...]

10 clients, all in each of 50 rounds of 10 epochs, mini-batches of 64, η = 0.01, momentum 0.9, weight decay 1e-5,
bytes divided by 255, a CNN with 6 and 16 channels and hidden layers of 120 and 84; the global model is scored on the
official test set. Who holds what is the reproduction's, sample by sample, in every run. A run takes half an hour of a
core, so each that is finished gets a line of OUT/niid-bench.csv, and what has a line is not run again. Runs what is
missing, the settings with fewest labels a client first, and writes the table into OUT/niid-bench.md, between its two
marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedtl.data import read_data
from fedtl.data.split import write_split
from tests.reproductions.curves import Curve, add_curves, curves_of, read_curves
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
from tests.reproductions.flower_splits import flower_split

CLIENTS = 10
PARTITIONS: dict[str, tuple[str, int]] = {
    "2-labels": ("label_quantity", 2),
    "dirichlet": ("dirichlet", 0),
    "3-labels": ("label_quantity", 3),
    "iid": ("iid", 0),
}
"""By name in the table, the rule and its labels a client."""

METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    # Flower adds c - c_i to a step of momentum, not to the gradient, and takes all means by samples.
    "scaffold": {"corrects": "step", "weighting": "samples", "control_weighting": "samples"},
    "fednova": {},
    "fedprox": {},
}

MU = 0.01
"""FedProx's µ, the reproduction's default; its table has the best of this and the others."""

OTHER_MU = (0.001, 0.1, 1.0)

PUBLISHED = {
    ("mnist", "iid"): ("99.09 ± 0.05", "99.06 ± 0.15", "99.05 ± 0.06", "99.16 ± 0.04"),
    ("mnist", "dirichlet"): ("98.89 ± 0.07", "99.07 ± 0.06", "98.03 ± 0.06", "99.02 ± 0.02"),
    ("mnist", "2-labels"): ("96.86 ± 0.30", "96.92 ± 0.52", "96.65 ± 0.39", "96.85 ± 0.15"),
    ("mnist", "3-labels"): ("97.86 ± 0.34", "97.91 ± 0.10", "97.62 ± 0.07", "97.85 ± 0.06"),
    ("fashion-mnist", "iid"): ("89.23 ± 0.45", "89.33 ± 0.27", "89.36 ± 0.09", "89.42 ± 0.09"),
    ("fashion-mnist", "dirichlet"): ("88.09 ± 0.29", "88.44 ± 0.25", "88.22 ± 0.12", "88.15 ± 0.42"),
    ("fashion-mnist", "2-labels"): ("78.10 ± 2.51", "33.80 ± 41.22", "71.67 ± 2.34", "78.05 ± 0.99"),
    ("fashion-mnist", "3-labels"): ("82.43 ± 1.52", "80.32 ± 5.03", "81.97 ± 1.34", "82.99 ± 0.48"),
}
"""Best round of three runs, in per cent, in the order of METHODS."""

DATA = ("fashion-mnist", "mnist")
SCORE = "global/server-test"


def split_file(raw: Path, data: str, partition: str, write: bool) -> Path:
    """The file of who holds what, which is written, if that is asked for, where there is none."""
    path = raw / "splits" / f"{data}-{partition}.npz"
    if write and not path.exists():
        dataset = read_data({"name": data, "clients": CLIENTS, "partition": {"name": "iid"}}).load()
        rule, labels_per_client = PARTITIONS[partition]
        write_split(flower_split(dataset.y[: dataset.official_test], CLIENTS, rule, labels_per_client), path)
    return path.resolve()


def run_name(data: str, partition: str, mu: float = MU) -> str:
    """What a run is called, and which µ it has, where that is not the default."""
    return f"{data}-{partition}" + (f"-mu-{mu:g}" if mu != MU else "")


def config(data: str, partition: str, method: str, mu: float, seed: int, split: Path) -> dict[str, Any]:
    """A run's config."""
    local: dict[str, Any] = {"local_epochs": 10, "batch_size": 64, "lr": 0.01}
    sgd = {"momentum": 0.9, "weight_decay": 1e-5}
    local |= {"mu": mu, "optimizer": {"name": "sgd", **sgd}} if method == "fedprox" else sgd
    return {
        "name": run_name(data, partition, mu),
        "seed": seed,
        "rounds": 50,
        "data": {
            "name": data,
            "clients": CLIENTS,
            "normalise": "none",
            "test_share": 0.0,
            "partition": {"name": "file", "path": str(split)},
        },
        "model": {"name": "cnn", "channels": [6, 16], "hidden": [120, 84]},
        "strategy": {"name": method, **local, **METHODS[method]},
        "evaluate": {"every": 1},
    }


def table(curves: Sequence[Curve]) -> str:
    """Markdown: a row per setting and method."""
    lines = header("data", "split", "method", "published, best", "ours, best", "ours, last", "seeds", "seconds a run")
    for (data, partition), published in PUBLISHED.items():
        rows = [(method, MU, theirs) for method, theirs in zip(METHODS, published)]
        rows += [("fedprox", mu, published[-1]) for mu in OTHER_MU]
        for method, mu, theirs in rows:
            run = run_name(data, partition, mu)
            mine = [curve for curve in curves if curve.run == run and curve.method == method]
            if mine:
                best, last = [100 * curve.best for curve in mine], [100 * curve.last for curve in mine]
                seconds = spread([curve.seconds for curve in mine if curve.seconds is not None], 0)
                name = f"{method}, µ = {mu:g}" if method == "fedprox" else method
                lines.append(row(data, partition, name, theirs, spread(best), spread(last), len(mine), seconds))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run and tabulate."""
    parser = arguments(__doc__, "results/methods", "results/methods/raw/niid-bench", seeds=1)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--partitions", nargs="+", choices=PARTITIONS, default=list(PARTITIONS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--mu", nargs="+", type=float, choices=(MU, *OTHER_MU), default=[MU], help="of FedProx")
    options = parser.parse_args()
    record = options.out / "niid-bench.csv"
    kept = {(curve.run, curve.method, curve.seed) for curve in read_curves(record)}
    experiments = [
        Experiment(
            options.raw / f"{run_name(data, partition, mu)}-{method}-{seed}",
            config(
                data, partition, method, mu, seed, split_file(options.raw, data, partition, not options.only_finished)
            ),
        )
        for seed in range(options.seeds)
        for partition in options.partitions
        for data in options.data
        for method in options.methods
        for mu in (options.mu if method == "fedprox" else [MU])
        if (run_name(data, partition, mu), method, seed) not in kept
    ]
    if not options.only_finished:
        complete(experiments, options.jobs)
    text = table(add_curves(curves_of(runs_of(experiments), [SCORE]), record))
    write_between_marks(text, options.out / "niid-bench.md", "NIID-Bench's Table 3")
    print(text)


if __name__ == "__main__":
    main()
