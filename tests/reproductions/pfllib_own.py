"""PFLlib's own code in the setting of its default table, to be laid beside ours.

    FEDTL_DATA=... python -m tests.reproductions.pfllib_own CHECKOUT [METHOD ...] [--seeds 1] [--jobs 1]

CHECKOUT is a copy of github.com/TsingZ0/PFLlib (commit d832e76 was used); scikit-learn, and for FedPAC cvxpy, have to
be installed. Its methods train on the same split with the options of :mod:`tests.reproductions.methods_pfllib`, and are
scored every fifth round. Each run adds its lines to OUT/pfllib-own.csv, what has lines is not run again, and
OUT/pfllib.md gets a second table, of both.

PFLlib's code runs as it is, but for its MLP and three conveniences. The MLP ends in a log-softmax. Where a model is cut
into base and head, that stays in the base: the head sees the log-softmax of the hidden layer. So the MLP's forward
pass is replaced by one without, which is the same for all methods that do not cut (``--as-it-is`` leaves it). Clients'
files are read once, training losses are not evaluated, and ``--seeds`` adds to the seed 0 that is written in its code.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import random
import runpy
import sys
import time
import types
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from fedtl.data import read_data
from tests.reproductions.curves import Curve, add_curves, read_curves
from tests.reproductions.experiments import header, row, spread, write_between_marks
from tests.reproductions.methods_pfllib import config

EVERY, ROUNDS = 5, 25
DATASET = "FashionMNIST"
GLOBAL, PERSONAL = "global/clients", "personal/clients"


@dataclass(frozen=True)
class Theirs:
    """A method of PFLlib.

    Attributes:
        name: PFLlib's.
        scores: what its successive accuracies are of, in turns.
        options: of its command line.
        differs: where its equations are not ours, in a few words.
    """

    name: str
    scores: tuple[str, ...]
    options: tuple[str, ...] = ()
    differs: str = ""


METHODS = {
    "fedavg": Theirs("FedAvg", (GLOBAL,)),
    "fedprox": Theirs("FedProx", (GLOBAL,), ("-mu", "0.01")),
    "scaffold": Theirs("SCAFFOLD", (GLOBAL,)),
    "feddyn": Theirs("FedDyn", (GLOBAL,), ("-al", "0.1")),
    "fedntd": Theirs("FedNTD", (GLOBAL,), ("-bt", "1", "-tau", "1"), "PFLlib takes the plain mean of the clients"),
    "fedlc": Theirs("FedLC", (GLOBAL,), ("-tau", "1"), "PFLlib counts the classes of all clients together"),
    "moon": Theirs("MOON", (GLOBAL,), ("-mu", "1", "-tau", "0.5")),
    "local": Theirs("Local", (PERSONAL,)),
    "fedper": Theirs("FedPer", (PERSONAL,)),
    "fedrep": Theirs("FedRep", (PERSONAL,), ("-pls", "1")),
    "lg-fedavg": Theirs("LG-FedAvg", (PERSONAL,)),
    "fedbabu": Theirs("FedBABU", (GLOBAL,), ("-fte", "1")),
    "fedrod": Theirs("FedROD", (PERSONAL,)),
    "ditto": Theirs("Ditto", (GLOBAL, PERSONAL), ("-mu", "1", "-pls", "1")),
    "apfl": Theirs("APFL", (PERSONAL,), ("-al", "1"), "PFLlib's v_i becomes the mixture after each round"),
    "fedcp": Theirs("FedCP", (PERSONAL,), ("-lam", "5")),
    "gpfl": Theirs(
        "GPFL", (PERSONAL,), ("-lam", "0.01", "-mu", "0.1"), "a norm over the mini-batch, inputs of the round before"
    ),
    "feddbe": Theirs("FedDBE", (PERSONAL,), ("-klw", "50", "-mo", "1")),
    "fedpac": Theirs("FedPAC", (PERSONAL,), ("-lam", "1"), "PFLlib gives weights to other clients' heads"),
    "pfedme": Theirs(
        "pFedMe",
        (GLOBAL,),
        ("-bt", "1", "-lam", "15", "-K", "5", "-lrp", "0.01"),
        "what PFLlib scores as personal is what clients have just received",
    ),
    "per-fedavg": Theirs("PerAvg", (PERSONAL,), (), "first order, and two passes over the samples a round"),
}


class _Missing(types.ModuleType):
    """What PFLlib imports and these methods on this MLP never use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        """Nothing was opened."""


def write_files(folder: Path) -> None:
    """The clients' samples as PFLlib reads them: FOLDER/{train,test}/CLIENT.npz."""
    tables = config("fedavg", 0)["data"]
    dataset = read_data({**tables, "partition": {"name": "iid"}, "clients": 20}).load()
    x = (dataset.x.astype(np.float32) / 255 - 0.5) / 0.5
    split = np.load(Path(os.environ["FEDTL_DATA"]) / tables["partition"]["path"])
    for part, test in (("train", False), ("test", True)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for client in range(20):
            own = (split["client"] == client) & (split["test"] == test)
            samples = np.array({"x": x[own], "y": dataset.y[own]}, dtype=object)
            np.savez(folder / part / f"{client}.npz", data=samples)


def run(checkout: Path, folder: Path, method: str, seed: int, as_it_is: bool) -> list[Curve]:
    """Run one of PFLlib's methods in this process, which is spoilt by it; its accuracies."""
    theirs, servers = METHODS[method], list[Any]()
    torch.set_num_threads(1)
    home = folder / "system"
    home.mkdir(exist_ok=True)
    os.chdir(home)  # it reads ../dataset
    sys.path.insert(0, str(checkout / "system"))
    for name in ("torchvision", "torchvision.models", "torchvision.transforms", "h5py", "calmsize"):
        sys.modules.setdefault(name, _Missing(name))
    if theirs.name != "FedPAC":
        sys.modules.setdefault("cvxpy", _Missing("cvxpy"))

    reads: Any = importlib.import_module("utils.data_utils")
    reads.read_client_data = functools.cache(reads.read_client_data)
    results: Any = importlib.import_module("utils.result_utils")
    results.average_data = lambda **_: None
    memory: Any = importlib.import_module("utils.mem_utils")
    memory.MemReporter = _Missing("MemReporter")
    server = importlib.import_module("flcore.servers.serverbase").Server
    first = server.__init__

    def begin(self: Any, *arguments: Any) -> None:
        first(self, *arguments)
        servers.append(self)

    server.__init__ = begin
    server.train_metrics = lambda _: ([0], [1], [0])
    server.save_global_model = server.save_results = lambda _: None
    if not as_it_is:
        mlp = importlib.import_module("flcore.trainmodel.models").DNN
        mlp.forward = lambda self, x: self.fc(functional.relu(self.fc1(torch.flatten(x, 1))))
    library: Any = torch
    seeded = torch.manual_seed
    library.manual_seed = lambda number: seeded(number + seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - PFLlib samples from the global generator

    began = time.monotonic()
    plain = ["-data", DATASET, "-m", "DNN", "-dev", "cpu", "-gr", str(ROUNDS), "-eg", str(EVERY)]
    sys.argv = ["main.py", "-algo", theirs.name, *plain, *theirs.options]
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        runpy.run_path(str(checkout / "system" / "main.py"), run_name="__main__")
    values = getattr(servers[0], "rs_test_acc_per", None) or servers[0].rs_test_acc
    kinds, seconds = len(theirs.scores), time.monotonic() - began
    return [
        Curve(method, theirs.name, seed, score, seconds, _after(values[place::kinds]))
        for place, score in enumerate(theirs.scores)
    ]


def _after(values: Sequence[float]) -> dict[int, float]:
    """By round; the first is of the initial model."""
    return {EVERY * place: round(float(value), 4) for place, value in enumerate(values) if 0 < place <= ROUNDS // EVERY}


def table(theirs: Sequence[Curve], ours: Sequence[Curve]) -> str:
    """Markdown: a row per method and score."""
    shown = (EVERY, 3 * EVERY, ROUNDS)
    lines = header("method", "model", *(f"PFLlib, ours: round {t}" for t in shown), "seeds", "what differs")
    for method, about in METHODS.items():
        for score in about.scores:
            here, there = (
                [curve for curve in curves if (curve.run, curve.score) == (method, score)] for curves in (ours, theirs)
            )
            if here and there:
                cells = [f"{_spread(there, t)}, {_spread(here, t)}" for t in shown]
                lines.append(row(method, score, *cells, f"{len(there)}, {len(here)}", about.differs))
    return "\n".join(lines) + "\n"


def _spread(curves: Sequence[Curve], t: int) -> str:
    return spread([100 * curve.values[t] for curve in curves], 1)


def main() -> None:
    """Run what has no lines yet, and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a copy of PFLlib")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="of ours; all if none is given")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--out", type=Path, default=Path("results/methods"))
    parser.add_argument(
        "--raw", type=Path, default=Path("results/methods/raw/pfllib-own"), help="of the clients' files"
    )
    parser.add_argument("--as-it-is", action="store_true", help="leave its MLP as it is; prints, and writes nothing")
    options = parser.parse_args()
    if unknown := sorted(set(options.methods) - set(METHODS)):
        parser.error(f"no METHOD is called {', '.join(unknown)}: {', '.join(METHODS)}")
    if not (options.checkout / "system" / "main.py").exists():
        parser.error(f"{options.checkout} is no copy of PFLlib: it has no system/main.py")
    record = options.out / "pfllib-own.csv"
    kept = set() if options.as_it_is else {(curve.run, curve.seed) for curve in read_curves(record)}
    missing = [
        (method, seed)
        for seed in range(options.seeds)
        for method in (options.methods or METHODS)
        if (method, seed) not in kept
    ]
    raw: Path = options.raw.resolve()
    if missing:
        write_files(raw / "dataset" / DATASET)
    # Each in a process of its own, which its patches spoil.
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = [
            pool.submit(run, options.checkout.resolve(), raw, method, seed, options.as_it_is)
            for method, seed in missing
        ]
        for each in runs:
            try:
                curves = each.result()
            except Exception as error:  # whatever their code raises; the other methods go on
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                continue
            print(*curves, sep="\n", flush=True)
            if not options.as_it_is:
                add_curves(curves, record)
    if not options.as_it_is:
        text = table(read_curves(record), read_curves(options.out / "pfllib.csv"))
        page = options.out / "pfllib.md"
        write_between_marks(text, page, "Every method in PFLlib's default setting", "beside PFLlib's own code")
        print(text)


if __name__ == "__main__":
    main()
