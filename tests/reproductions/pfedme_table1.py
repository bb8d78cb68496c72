"""Table 1 of the pFedMe paper (arXiv 2006.08848), ours beside the paper's.

    FEDTL_DATA=... python -m tests.reproductions.pfedme_table1 [--tables paper-split disjoint synthetic] [--seeds 3]

Runs what is missing below RAW, then writes each table into OUT/README.md, between its two marks, and a picture per
experiment. ``paper-split`` is MNIST as the authors published it, where a sample may be at several clients;
``disjoint`` is a split of the paper's description in which each sample has one owner; ``synthetic`` is
Synthetic(0.5, 0.5) with the authors' 90/10 shares, a draw per seed.

``--tables leaked`` runs the paper's split once more, with the test samples that no other client trains on as validation
samples, so that they are scored apart from those that leaked. It trains on the same samples in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fedtl
from fedtl import plot
from fedtl.choice import ConfigError
from fedtl.config.read import load_tables
from fedtl.data import read_data
from fedtl.data.federation import Shards
from fedtl.data.overlap import identities, trained_elsewhere
from fedtl.data.split import read_split
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

FEDAVG_LR = {"mnist-logistic": 0.02, "mnist-mlp": 0.02, "synthetic-logistic": 0.02, "synthetic-mlp": 0.03}
# Accuracies in per cent: FedAvg, pFedMe's global model, pFedMe's personalised models.
PAPER = {
    "mnist-logistic": (93.96, 94.18, 95.62),
    "mnist-mlp": (98.79, 99.16, 99.46),
    "synthetic-logistic": (77.62, 78.65, 83.20),
    "synthetic-mlp": (83.64, 84.17, 86.36),
}
SCORES = (("fedavg", "global/clients"), ("pfedme", "global/clients"), ("pfedme", "personal/clients"))
SPLIT_SUFFIX = "-paper"
TABLES = {
    "paper-split": ("mnist-logistic-paper", "mnist-mlp-paper"),
    "disjoint": ("mnist-logistic", "mnist-mlp"),
    "synthetic": ("synthetic-logistic", "synthetic-mlp"),
}


def experiments(table: str, raw: Path, seeds: int) -> list[Experiment]:
    """A table's runs, a whole seed before the next."""
    return [
        Experiment(raw / f"{name}-{method}-{seed}", f"pfedme/{name}", overrides(name, method, seed))
        for seed in range(seeds)
        for name in TABLES[table]
        for method in ("fedavg", "pfedme")
    ]


def overrides(name: str, method: str, seed: int) -> tuple[str, ...]:
    """What a run changes in its config."""
    changes = [f"seed={seed}"]
    if method == "fedavg":
        changes += ["strategy.name=fedavg", f"strategy.lr={FEDAVG_LR[name.removesuffix(SPLIT_SUFFIX)]}"]
    if name.startswith("synthetic"):
        changes += ["data.test_share=0.1", f"data.seed={seed}"]
    return tuple(changes)


def leaked_apart(folder: Path) -> Path:
    """The paper's split, with the test samples that no other client trains on as validation samples."""
    tables = load_tables("pfedme/mnist-logistic-paper")["data"]
    data = read_data(tables)
    split = read_split(data.partition.place())  # type: ignore[attr-defined]
    x = data.load().x
    order = np.argsort(split.client, kind="stable")
    assert split.test is not None

    def shards(test: bool) -> tuple[Shards, np.ndarray]:
        entries = order[split.test[order] == test]  # type: ignore[index]
        sizes = np.bincount(split.client[entries], minlength=split.clients)
        return Shards.from_sizes(split.sample[entries], sizes), entries

    (train, _), (test, entries) = shards(False), shards(True)
    clean = np.zeros(len(split.client), np.bool_)
    clean[entries[~trained_elsewhere(identities(x), test, [train])]] = True
    file = folder / "mnist-pfedme-paper-20-leaked-apart.npz"
    folder.mkdir(parents=True, exist_ok=True)
    label = {} if split.label is None else {"label": split.label}
    np.savez(file, sample=split.sample, client=split.client, test=split.test & ~clean, validation=clean, **label)
    return file


def leaked_experiments(raw: Path) -> list[Experiment]:
    """The paper's split with the first seed, leaked and clean test samples scored apart."""
    file = leaked_apart(raw)
    return [
        Experiment(
            raw / f"{name}-{method}-leaked",
            f"pfedme/{name}",
            (*overrides(name, method, 0), f"data.partition.path={file.resolve()}"),
        )
        for name in TABLES["paper-split"]
        for method in ("fedavg", "pfedme")
    ]


def of(runs: Sequence[fedtl.Run], name: str, method: str) -> list[fedtl.Run]:
    """One experiment's runs with one method."""
    return [run for run in runs if run.method == method and run.name == f"pfedme-{name}"]


def table(runs: Sequence[fedtl.Run], names: Sequence[str]) -> str:
    """Markdown: for each experiment the paper's number, ours in the last round (mean ± std), and our best."""
    lines = header(
        "experiment", "score", "paper", "ours, last round", "ours, best round", "worst decile", "seeds", "seconds a run"
    )
    for name in names:
        for (method, score), theirs in zip(SCORES, PAPER[name.removesuffix(SPLIT_SUFFIX)]):
            mine = of(runs, name, method)
            last = [100 * run.last()[score].value for run in mine]
            best = [100 * run.best()[score].value for run in mine]
            decile = [100 * run.last(statistic="worst_decile")[score].value for run in mine]
            seconds = spread([run.rounds[-1]["elapsed"] for run in mine], 0)
            columns = (f"{method} {score}", f"{theirs:.2f}", spread(last), spread(best), spread(decile))
            lines.append(row(name, *columns, len(mine), seconds))
    return "\n".join(lines) + "\n"


def leaked_table(runs: Sequence[fedtl.Run], names: Sequence[str]) -> str:
    """Markdown: the last round's scores on test samples that another client trains on, and on the others."""
    lines = header("experiment", "score", "all test samples", "leaked", "clean")
    for name in names:
        for method, score in SCORES:
            for run in of(runs, name, method):
                kind = score.partition("/")[0]
                leaked, clean = (run.last()[f"{kind}/{on}"].value for on in ("clients", "validation-clients"))
                clients = run.client_table("numpy")
                sizes = [np.nansum(clients[column]) for column in ("samples", "validation-clients/samples")]
                both = np.average([leaked, clean], weights=sizes)
                lines.append(row(name, f"{method} {score}", *(f"{100 * each:.2f}" for each in (both, leaked, clean))))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, tabulate, draw."""
    parser = arguments(__doc__, "results/pfedme-table1", "results/pfedme-table1/raw")
    parser.add_argument("--tables", nargs="+", choices=(*TABLES, "leaked"), default=[*TABLES, "leaked"])
    options = parser.parse_args()
    for name in options.tables:
        leaked = name == "leaked"
        try:
            all_runs = leaked_experiments(options.raw) if leaked else experiments(name, options.raw, options.seeds)
        except ConfigError as error:
            print(f"{name}: {error}")
            continue
        if not options.only_finished:
            complete(all_runs, options.jobs)
        runs = runs_of(all_runs)
        if not runs:
            print(f"{name}: no run is finished")
            continue
        names = TABLES["paper-split" if leaked else name]
        text = (leaked_table if leaked else table)(runs, names)
        write_between_marks(text, options.out / "README.md", "Table 1 of the pFedMe paper", name)
        print(text)
        for each in () if leaked else names:
            figure = plot.compare([run for method in ("fedavg", "pfedme") for run in of(runs, each, method)])
            plot.save(figure, options.out / f"{each}.png")


if __name__ == "__main__":
    main()
