"""Runs that end before their time, and what is compared of them: times apart, everything, to the bit."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import fedtl
from fedtl.disk.memories import MemoryStore
from fedtl.runs.checkpoint import read_checkpoint
from fedtl.runs.record import Recorder
from tests.methods import OPEN_METHODS
from tests.parts import METHODS as REGISTERED
from tests.parts import MODELS_OF

CLIENTS, ROUNDS = 8, 6
TIMES = {"seconds", "seconds_scoring", "elapsed"}

METHODS: dict[str, dict[str, Any]] = {
    "pfedme": {"name": "pfedme", "lr": 0.05, "lam": 15.0, "inner_steps": 2, "inner_lr": 0.05},
    "momentum": {"name": "fedavg", "lr": 0.05, "server": {"name": "momentum"}},
    "adam": {"name": "fedavg", "lr": 0.05, "server": {"name": "adam", "lr": 0.01}},
    "local": {"name": "local", "lr": 0.05},
    "fedrep": {"name": "fedrep", "lr": 0.05, "head_epochs": 2},
    "feddbe": {"name": "feddbe", "lr": 0.05, "kappa": 2.0},
    "fedpac": {"name": "fedpac", "lr": 0.05, "head_lr": 0.1},
    **OPEN_METHODS,
}
METHODS |= {name: {"name": name, **options} for name, options in REGISTERED.items() if name not in METHODS}

SHALLOW = {"pfedme", "momentum", "adam", "local"}
"""Those that have a model of nothing but a head."""


def tables(method: str = "pfedme", rounds: int = ROUNDS, **other: Any) -> dict[str, Any]:
    """Fewer clients than there are each round, so that what they remember is of different ages."""
    personal = "stored" if method in ("pfedme", "local", "fedamp", "hypernetwork") else "adapted"
    return {
        "name": "resume",
        "seed": 1,
        "rounds": rounds,
        "device": "cpu",
        "data": {"name": "digits", "clients": CLIENTS, "partition": {"name": "dirichlet", "alpha": 1.0}},
        "model": MODELS_OF.get(method, {"name": "logistic"} if method in SHALLOW else {"name": "mlp", "hidden": [8]}),
        "strategy": {"clients_per_round": 3, "local_steps": 2, "batch_size": 10, **METHODS[method]},
        "evaluate": {"every": 2, "personal": personal},
        "simulation": {"grid": "in-process"},
        **other,
    }


def contents(folder: Path) -> dict[str, Any]:
    """All that a run leaves but times: records, the final model and what clients remember, to the bit."""
    snapshot: dict[str, Any] = {}
    for name in ("rounds.jsonl", "clients.jsonl"):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        snapshot[name] = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    last = len(snapshot["rounds.jsonl"])
    store = MemoryStore(folder / "memories")
    # What a client remembers as of any round that is still to be found: the newest, and the one before.
    tables = MemoryStore(folder / "tables")
    for what, rows in (("client", store), ("row", tables)):
        for client in rows.clients():
            for before in (last, last + 1):
                snapshot[f"{what} {client} before {before}"] = bits(rows.load(client, before))
    last_checkpoint = read_checkpoint(folder)
    assert last_checkpoint is not None
    snapshot["checkpoint"] = last_checkpoint.round, bits(last_checkpoint.state | {"w": last_checkpoint.w})
    snapshot["model"] = bits(load_file(folder / "model.safetensors"))
    return snapshot


def bits(tensors: Mapping[str, Any]) -> dict[str, bytes]:
    return {key: np.asarray(value).tobytes() for key, value in sorted(tensors.items())}


class Killed(BaseException):
    """As sudden as a signal: nobody catches it."""


def stop_at(patch: pytest.MonkeyPatch, owner: object, name: str, call: int, *, after: bool) -> None:
    """Let ``owner.name``'s call number ``call`` be the run's end, before or after it has done its work."""
    original, calls = getattr(owner, name), [0]

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and not after:
            raise Killed
        result = original(*arguments, **options)
        if calls[0] == call:
            raise Killed
        return result

    patch.setattr(owner, name, stopping)


def stopped_and_resumed(
    config: dict[str, Any],
    folder: Path,
    call: int,
    owner: object = Recorder,
    name: str = "checkpoint",
    *,
    after: bool = True,
) -> fedtl.Run:
    """A run that ended as :func:`stop_at` says, by default after so many checkpoints, and was resumed to its end."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, owner, name, call, after=after)
        fedtl.run(config, out=folder)
    return fedtl.run(config, out=folder, resume=True)


def run_slowly(config: dict[str, Any], folder: Path, resume: bool, tells: Connection) -> None:
    """Run in a process of its own, so slowly that a kill finds the run at work, not done; tell when it begins."""
    save = MemoryStore.save

    def slowly(self: MemoryStore, *what: Any) -> None:
        time.sleep(0.01)
        save(self, *what)
        time.sleep(0.01)

    MemoryStore.save = slowly  # type: ignore[method-assign]
    tells.send("ready")
    fedtl.run(config, out=folder, resume=resume)
