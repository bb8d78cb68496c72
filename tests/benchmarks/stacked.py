"""When stacking pays: recorded steps of 16 clients, stacked against one by one, on one CPU thread.

    python -m tests.benchmarks.stacked [--repeats 9] [--out results/benchmarks/stacked.md]

Models of growing size, clients of 30 mini-batches of 20 samples, FedAvg and pFedMe (K = 5). Both ways train the
same clients in turn; the ratio of their times is taken pair by pair, and its median printed: below 1, stacking
is faster. ``fedtl.engine.choice.STACK_BELOW`` is read off this table.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedtl.clients.contract import ClientUpdate
from fedtl.data.federation import Federation, Shards
from fedtl.data.samples import Samples
from fedtl.engine import Engine, OneByOne, Stacked, Task, Trained
from fedtl.losses.objective import Objective, read_objective
from fedtl.models import build_model, read_model
from fedtl.models.vector import Layout
from fedtl.strategies import read_strategy, strategy_type
from tests.parts import train_cohort

CLIENTS, SAMPLES = 16, 600
MODELS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((20,), {"name": "logistic"}),
    ((60,), {"name": "logistic"}),
    ((60,), {"name": "mlp", "hidden": [20]}),
    ((1, 8, 8), {"name": "mlp", "hidden": [32]}),
    ((1, 8, 8), {"name": "mlp", "hidden": [64]}),
    ((1, 16, 16), {"name": "logistic"}),
    ((1, 28, 28), {"name": "logistic"}),
    ((1, 28, 28), {"name": "mlp", "hidden": [20]}),
    ((1, 28, 28), {"name": "mlp", "hidden": [100]}),
]
METHODS: list[dict[str, Any]] = [
    {"name": "fedavg", "lr": 0.01},
    {"name": "pfedme", "lr": 0.01, "lam": 15.0, "inner_lr": 0.01, "inner_steps": 5},
]


def federation(shape: tuple[int, ...]) -> Federation:
    """Random samples: every client trains on as many."""
    rng = np.random.default_rng(0)
    n = CLIENTS * SAMPLES
    x = rng.integers(256, size=(n, *shape), dtype=np.uint8)
    scale = np.full((1,) * len(shape), 1 / 255, np.float32)
    none = Shards.from_sizes(np.arange(0), np.zeros(CLIENTS, np.int64))
    train = Shards.from_sizes(np.arange(n), np.full(CLIENTS, SAMPLES))
    return Federation(x, rng.integers(10, size=n), 10, scale, 0 * scale, train, none, np.arange(0))


def timed(engine: Engine, update: ClientUpdate[Any], w: torch.Tensor, round: int) -> float:
    """CPU seconds of one cohort."""
    start = time.thread_time()
    outcomes = train_cohort(engine, update, w, range(CLIENTS), [{}] * CLIENTS, round)
    seconds = time.thread_time() - start
    assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
    return seconds


def measure(shape: tuple[int, ...], model: dict[str, Any], method: dict[str, Any], repeats: int) -> tuple[Any, ...]:
    """Parameters, milliseconds a client one by one, and stacked over one by one: median, least, most."""
    data = federation(shape)
    engines = []
    for kind in (OneByOne, Stacked):
        module = build_model(read_model(model), shape, 10, 0)
        samples = Samples(data, torch.device("cpu"))
        engines.append(kind(Task(module, Layout.of(module), Objective(read_objective([])), samples, 0), traced=True))
    settings = read_strategy(method)
    update = strategy_type(settings.name).client_update(settings)
    w = engines[0].task.layout.flatten(engines[0].task.module)
    pairs = [[timed(engine, update, w, round) for engine in engines] for round in range(repeats + 2)][2:]
    ratios = [stacked / one for one, stacked in pairs]
    return (
        len(w),
        statistics.median(one for one, _ in pairs) / CLIENTS * 1e3,
        statistics.median(ratios),
        *sorted(ratios)[:: len(ratios) - 1],
    )


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        "| method | model | parameters | one by one, ms a client | stacked / one by one |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method in METHODS:
        for shape, model in MODELS:
            P, ms, ratio, least, most = measure(shape, model, method, asked.repeats)
            what = f"{model['name']} {'-'.join(str(k) for k in (int(np.prod(shape)), *model.get('hidden', ()), 10))}"
            rows.append(f"| {method['name']} | {what} | {P:,} | {ms:.2f} | {ratio:.2f} ({least:.2f} to {most:.2f}) |")
            print(rows[-1], flush=True)
    text = (
        f"""# Stacked against one by one, on a CPU

`python -m tests.benchmarks.stacked --repeats {asked.repeats}`
torch {torch.__version__}, {platform.machine()}, one thread.
Recorded steps; 16 clients of 30 mini-batches of 20 samples; medians of paired ratios of CPU time (least to most).
Below 1, stacking is faster.

"""
        + "\n".join(rows)
        + "\n"
    )
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
