"""What the machinery costs: RayGrid against a bare loop in as many processes, on the same work.

    python -m tests.benchmarks.overhead [--rounds 9] [--actors 2]

100 clients of 600 samples (28 x 28 bytes, random), 20 a round, batch 20, 30 steps a client, no scoring. The
bare loop is hand-written: each process binds the model to one flat vector, gathers its clients' batches and
averages; it has no messages, no records and no memories. Rounds of both alternate in one run and the ratio is
taken pair by pair. Then rounds with nothing to compute, and a population of 10,000 against one of 100.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from fedtl.assemble.parts import make_strategy, make_worker
from fedtl.config.read import build
from fedtl.data.federation import Federation, Shards
from fedtl.grid.ray import RayGrid
from fedtl.models import build_model, read_model
from fedtl.models.vector import Layout
from fedtl.wire import messages as m

SHAPE, CLASSES, SAMPLES, BATCH, LR = (1, 28, 28), 10, 600, 20, 0.02
MODELS: dict[str, dict[str, Any]] = {
    "logistic": {"name": "logistic"},
    "mlp": {"name": "mlp", "hidden": [100]},
    "cnn": {"name": "cnn"},
}


def federation(clients: int, samples: int = SAMPLES) -> Federation:
    """Random images: every client trains on ``samples`` of them."""
    rng = np.random.default_rng(0)
    pool = min(clients, 100) * samples
    x = rng.integers(256, size=(pool, *SHAPE), dtype=np.uint8)
    y = rng.integers(CLASSES, size=pool)
    order = np.resize(np.arange(pool), clients * samples)
    scale, shift = np.full((1, 1, 1), 1 / 255 / 0.35, np.float32), np.full((1, 1, 1), -0.29 / 0.35, np.float32)
    none = Shards.from_sizes(order[:0], np.zeros(clients, np.int64))
    train = Shards.from_sizes(order, np.full(clients, samples))
    return Federation(x, y, CLASSES, scale, shift, train, none, order[:0])


def bare_worker(pipe: Connection, data: Federation, model: dict[str, Any]) -> None:
    """One process of the bare loop: train the clients it is sent, send back the sum of their vectors."""
    torch.set_num_threads(1)
    module = build_model(read_model(model), SHAPE, CLASSES, 0)
    parameters = list(module.parameters())
    vector, gradient = torch.cat([p.detach().reshape(-1) for p in parameters]), torch.zeros(Layout.of(module).size)
    start = 0
    for p in parameters:
        p.data = vector[start : start + p.numel()].view(p.shape)
        p.grad = gradient[start : start + p.numel()].view(p.shape)
        start += p.numel()
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    scale, shift = torch.from_numpy(data.scale), torch.from_numpy(data.shift)
    while True:
        message = pipe.recv()
        if message is None:
            return
        w, clients, seed = message
        w, total = torch.from_numpy(w), torch.zeros(len(vector), dtype=torch.float64)
        for client in clients:
            vector.copy_(w)
            own = data.train[client]
            order = torch.from_numpy(own[np.random.default_rng([seed, client]).permutation(len(own))])
            xs, ys = x[order].to(torch.float32).mul_(scale).add_(shift), y[order]
            for bx, by in zip(xs.split(BATCH), ys.split(BATCH)):
                gradient.zero_()
                F.cross_entropy(module(bx), by).backward()
                vector.sub_(gradient, alpha=LR)
            total.add_(vector)
        pipe.send(total.numpy())


class BareLoop:
    """FedAvg without anything else."""

    def __init__(self, data: Federation, model: dict[str, Any], processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(processes)]
        self.pipes = [ours for ours, _ in pairs]
        self.processes = [
            context.Process(target=bare_worker, args=(theirs, data, model), daemon=True) for _, theirs in pairs
        ]
        for process in self.processes:
            process.start()
        module = build_model(read_model(model), SHAPE, CLASSES, 0)
        self.w = Layout.of(module).flatten(module).numpy()

    def round(self, seed: int, sampled: int, clients: int) -> float:
        """One round; its seconds."""
        began = time.perf_counter()
        chosen = np.random.default_rng(seed).choice(clients, sampled, replace=False).tolist()
        for i, pipe in enumerate(self.pipes):
            pipe.send((self.w, chosen[i :: len(self.pipes)], seed))
        self.w = (sum(pipe.recv() for pipe in self.pipes) / sampled).astype(np.float32)
        return time.perf_counter() - began

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


class Ours:
    """The same through messages, strategy and RayGrid."""

    def __init__(self, data: Federation, model: dict[str, Any], actors: int, sampled: int, memories: Path) -> None:
        tables = {
            "name": "overhead",
            "rounds": 10**6,
            "data": {"name": "digits", "clients": 100},
            "model": model,
            "strategy": {"name": "fedavg", "lr": LR, "batch_size": BATCH, "clients_per_round": sampled},
            "evaluate": {"every": 10**6},
        }
        config = build(tables)
        module = build_model(config.model, SHAPE, CLASSES, 0)
        layout = Layout.of(module)
        self.w = layout.flatten(module).numpy()
        self.grid = RayGrid(make_worker, (tables, data, str(memories), "cpu"), data.clients, actors=actors)
        self.grid.processes()
        self.strategy = make_strategy(config, data.clients, layout.parameters)

    def rounds(self, first: int, last: int) -> list[float]:
        """Seconds of each round; ``num_rounds`` beyond ``last`` keeps the last one unscored."""
        seconds: list[float] = []

        class Done(Exception):
            pass

        def on_round(report: Any, w: Any) -> None:
            seconds.append(report.seconds)
            self.w = w
            if report.round == last:
                raise Done

        with contextlib.suppress(Done):
            self.strategy.start(self.grid, m.pack(self.w), 10**6, first_round=first, on_round=on_round)
        return seconds


def against_the_bare_loop(rounds: int, actors: int) -> None:
    data, sampled = federation(100), 20
    steps = sampled * SAMPLES // BATCH
    print(f"\n{'model':10}{'bare, steps/s':>16}{'RayGrid, steps/s':>18}{'ratio (median of pairs)':>26}   of all pairs")
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            bare, ours = BareLoop(data, model, actors), Ours(data, model, actors, sampled, Path(folder))
            bare.round(0, sampled, 100)
            ours.rounds(1, 1)
            pairs = [(bare.round(r, sampled, 100), ours.rounds(r, r)[0]) for r in range(2, rounds + 2)]
            bare.close()
            ours.grid.close()
        ratios = sorted(a / b for a, b in pairs)
        speeds = [steps / statistics.median(column) for column in zip(*pairs)]
        print(
            f"{name:10}{speeds[0]:16,.0f}{speeds[1]:18,.0f}{statistics.median(ratios):26.3f}"
            f"   {ratios[0]:.2f} .. {ratios[-1]:.2f}"
        )


def nothing_to_compute(actors: int) -> None:
    """One sample a client, so that a round is all overhead."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(federation(100, 1), MODELS["logistic"], actors, 20, Path(folder))
        seconds = ours.rounds(1, 60)[10:]
        ours.grid.close()
    print(f"\nround of 20 clients with one sample each: median {1000 * statistics.median(seconds):.1f} ms")


def populations(actors: int) -> None:
    """50 clients a round out of 100, and out of 10,000."""
    results = {}
    for clients in (100, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            ours = Ours(federation(clients), MODELS["mlp"], actors, 50, Path(folder))
            seconds = ours.rounds(1, 12)[2:]
            memory = sum(resident(pid) for pid in [os.getpid(), *ours.grid.processes()])
            ours.grid.close()
        results[clients] = (statistics.median(seconds), memory)
    (t1, m1), (t2, m2) = results.values()
    print(
        f"\n50 clients a round (mlp), of 100: {t1:.3f} s, {m1:.0f} MiB; of 10,000: {t2:.3f} s, {m2:.0f} MiB; "
        f"ratios {t2 / t1:.2f} and {m2 / m1:.2f}"
    )


def resident(pid: int) -> float:
    """Proportional set size in MiB: shared memory counts once, in shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as `fedtl run` has it
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {options.actors} processes, {options.rounds} pairs")
    against_the_bare_loop(options.rounds, options.actors)
    nothing_to_compute(options.actors)
    populations(options.actors)
    print(f"peak memory of the driver: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
