"""Why our MNIST numbers are below the pFedMe paper's: the split that its authors' script makes.

    FEDTL_DATA=... python -m tests.reproductions.pfedme_authors_split [--out results/pfedme-table1]

The script (data/Mnist/generate_niid_20users.py in the authors' repository) is meant to divide each label among
its holders. As it stands it draws 20 sizes for the labels 0 and 1 alone, each uniform between 1/21 and 1/2 of
what is left of 6,903 and 7,877, so that they shrink geometrically; hands them out to all users in turn; and
leaves a user without a label whose samples are used up. Two or three users hold most of what is used. Written
anew here from that description; the samples go out as .npz files, as anybody's own data would.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import fedtl
from fedtl.config.read import load_tables
from fedtl.data import read_data

USERS = 20


def sizes_of(total: int, rng: np.random.Generator) -> list[int]:
    """Twenty sizes that shrink with what is left."""
    sizes = []
    for _ in range(USERS - 1):
        sizes.append(int(rng.integers(total // (USERS + 1), max(total // 2, total // (USERS + 1) + 1))))
        total -= sizes[-1]
    return [*sizes, total]


def write_clients(folder: Path, seed: int) -> list[int]:
    """One .npz per user; the numbers of samples."""
    mnist = read_data({"name": "mnist", "clients": USERS}).load()
    rng = np.random.default_rng(seed)
    of_label = [np.flatnonzero(mnist.y == label) for label in range(10)]
    drawn = [sizes_of(len(of_label[0]), rng), sizes_of(len(of_label[1]), rng)]
    used, sizes = [0] * 10, []
    for user in range(USERS):
        own = []
        for j in range(2):
            label, size = (user + j) % 10, drawn[j][user]
            if used[label] + size < len(of_label[label]):
                own.append(of_label[label][used[label] : used[label] + size])
                used[label] += size
        index = np.concatenate(own) if own else np.empty(0, np.int64)
        if len(index) >= 8:  # the script would crash on fewer
            np.savez(folder / f"user{user:02d}.npz", x=mnist.x[index], y=mnist.y[index])
            sizes.append(len(index))
    return sizes


def main() -> None:
    """Split, run FedAvg and pFedMe, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/pfedme-table1"))
    options = parser.parse_args()
    lines = ["| experiment | method | score | last round | best round |", "| --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as data:
        sizes = write_clients(Path(data), seed=1)
        for name in ("mnist-logistic", "mnist-mlp"):
            for method in ("fedavg", "pfedme"):
                tables = load_tables(f"pfedme/{name}")
                tables["data"] = {"name": "npz", "path": data, "normalise": "pixel", "test_share": 0.25}
                tables["data"]["server_test_share"] = 0.0
                extra = ["strategy.name=fedavg", "strategy.lr=0.02"] if method == "fedavg" else []
                run = fedtl.run(
                    tables, [*extra, "simulation.grid=in-process"], out=options.out / "raw" / f"authors-{name}-{method}"
                )
                best = run.best()
                lines += [
                    f"| {name} | {method} | {score} | {100 * value:.2f} | {100 * best[score].value:.2f} |"
                    for score, (_, value) in run.last().items()
                ]
                text = f"Samples of the {len(sizes)} users: {sizes}.\n\n" + "\n".join(lines) + "\n"
                (options.out / "authors-split.md").write_text(text)
                print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
