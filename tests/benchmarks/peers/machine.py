"""What the numbers were measured on."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

import torch


def describe() -> dict[str, object]:
    """Processor, cores that may be used, memory, kernel, date, and how busy the machine was before."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "peak_gflops": round(peak()),
    }


def peak(processes: int = 2) -> float:
    """GFLOP/s of float32 that so many processes of one thread reach together, at work at the same time.

    Each multiplies matrices of 512 x 512, which its cache holds; of many repeats the best counts.
    """
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return sum(pool.map(_rate, [512] * processes, chunksize=1))


def _rate(size: int) -> float:
    torch.set_num_threads(1)
    a, b, c = (torch.randn(size, size) for _ in range(3))
    best, until = float("inf"), time.perf_counter() + 2
    while time.perf_counter() < until:
        began = time.perf_counter()
        torch.mm(a, b, out=c)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


def processor() -> str:
    """The model, as the kernel names it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
