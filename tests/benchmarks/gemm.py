"""What a linear layer's three products cost with its weight stored ``[in, out]`` and ``[out, in]``, in GFLOP/s.

``python -m tests.benchmarks.gemm [--repeats 40] [--shapes 20x784x100 …]`` prints a table for the machine at hand, one
thread; each entry is the best of many interleaved repeats, so that whatever else the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

Call = Callable[[], object]
Pairs = dict[str, tuple[Call, Call]]
"""By product: with the weight as ``[out, in]``, and as ``[in, out]``."""

SHAPES = ("20x64x100", "20x784x100", "20x784x10", "20x100x10", "20x512x64", "32x784x128", "10x784x100", "64x512x512")
"""Batch x in x out."""


def products(batch: int, inputs: int, outputs: int) -> Pairs:
    """Each product with the weight as ``[out, in]``, and as ``[in, out]``, as the traced step computes them."""
    x, g = torch.randn(batch, inputs), torch.randn(batch, outputs)
    b, w = torch.randn(outputs), torch.randn(outputs, inputs)
    v = w.t().contiguous()
    return {
        "forward": (lambda: torch.addmm(b, x, w.t()), lambda: torch.addmm(b, x, v)),
        "weight gradient": (lambda: w.addmm_(g.t(), x, alpha=-1e-9), lambda: v.addmm_(x.t(), g, alpha=-1e-9)),
        "input gradient": (lambda: torch.mm(g, w), lambda: torch.mm(g, v.t())),
    }


def stacked_products(clients: int, batch: int, inputs: int, outputs: int) -> Pairs:
    """The same for a stack of clients."""
    x, g = torch.randn(clients, batch, inputs), torch.randn(clients, batch, outputs)
    b, w = torch.randn(clients, 1, outputs), torch.randn(clients, outputs, inputs)
    v = w.mT.contiguous()
    return {
        "forward": (lambda: torch.baddbmm(b, x, w.mT), lambda: torch.baddbmm(b, x, v)),
        "weight gradient": (lambda: w.baddbmm_(g.mT, x, alpha=-1e-9), lambda: v.baddbmm_(x.mT, g, alpha=-1e-9)),
        "input gradient": (lambda: torch.bmm(g, w), lambda: torch.bmm(g, v.mT)),
    }


def best(calls: list[Call], repeats: int) -> list[float]:
    """Seconds of each call, the best of ``repeats`` turns of some milliseconds."""
    seconds = [float("inf")] * len(calls)
    times = [max(1, int(2e-4 / max(_once(call, 3), 1e-7))) for call in calls]
    for _ in range(repeats):
        for i, call in enumerate(calls):
            seconds[i] = min(seconds[i], _once(call, times[i]))
    return seconds


def _once(call: Call, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def _table(
    of: Callable[..., Pairs],
    shapes: list[tuple[int, ...]],
    repeats: int,
) -> None:
    names = [*of(*shapes[0])]
    print("| " + " | ".join(["", *(f"{name}, [out, in] / [in, out]" for name in names), "step, ratio"]) + " |")
    print("| --- |" + " ---: |" * (len(names) + 1))
    for shape in shapes:
        pairs = of(*shape)
        seconds = best([call for pair in pairs.values() for call in pair], repeats)
        work = 2.0
        for size in shape:
            work *= size
        rates = [work / s / 1e9 for s in seconds]
        cells = [f"{a:.0f} / {b:.0f}" for a, b in zip(rates[::2], rates[1::2])]
        print(
            f"| {'×'.join(map(str, shape))} | {' | '.join(cells)} | {sum(seconds[::2]) / sum(seconds[1::2]):.2f} |",
            flush=True,
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="batch x in x out, as 20x784x100")
    parser.add_argument("--clients", type=int, default=10, help="of a stack")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes]
    with torch.inference_mode():
        _table(products, shapes, options.repeats)
        print()
        _table(stacked_products, [(options.clients, *shape) for shape in shapes], options.repeats)


if __name__ == "__main__":
    main()
