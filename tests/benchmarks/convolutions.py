"""What the CNN's convolutions cost as torch computes them, and as one matrix product over patches, in GFLOP/s.

``python -m tests.benchmarks.convolutions [--repeats 200]`` prints a table for the machine at hand, one thread, in CPU
time; each entry is the best of many repeats. A product counts without and with the gathering of its patches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

aten, LAST, BATCH, SIDE = torch.ops.aten, torch.channels_last, 20, 5


@dataclass(frozen=True)
class Layer:
    """A 5 x 5 convolution without padding: ``size`` x ``size`` images of ``inputs`` channels."""

    name: str
    inputs: int
    outputs: int
    size: int

    @property
    def out(self) -> int:
        """The side of its output."""
        return self.size - SIDE + 1

    @property
    def flops(self) -> float:
        """Of each of its three products."""
        return 2.0 * BATCH * self.out**2 * self.outputs * self.inputs * SIDE**2


LAYERS = (Layer("first, 1 to 16 channels, 28×28", 1, 16, 28), Layer("second, 16 to 32 channels, 12×12", 16, 32, 12))


def calls(layer: Layer) -> dict[str, Callable[[], object]]:
    """Each way of computing forward pass, weight gradient and input gradient."""
    n, size, out, k = layer.inputs, layer.size, layer.out, layer.outputs
    pixels = torch.randn(BATCH, size, size, n)
    x = pixels.permute(0, 3, 1, 2).as_strided((BATCH, n, size, size), (size * size * n, 1, size * n, n))
    plain = x.contiguous()
    weight, bias = torch.randn(k, n, SIDE, SIDE), torch.randn(k)
    w = weight.contiguous(memory_format=LAST)
    g = torch.randn(BATCH, out, out, k).permute(0, 3, 1, 2)
    rows = g.permute(0, 2, 3, 1).reshape(-1, k)

    def patches() -> Tensor:
        shape, stride = (BATCH, out, out, SIDE, SIDE * n), (size * size * n, size * n, n, size * n, 1)
        return pixels.as_strided(shape, stride).reshape(-1, SIDE * SIDE * n)

    gathered = patches()
    matrix = w.permute(2, 3, 1, 0).reshape(-1, k).contiguous()
    product = torch.addmm(bias, gathered, matrix).view(BATCH, out, out, k).permute(0, 3, 1, 2)
    torch.testing.assert_close(product, torch.conv2d(x, w, bias), rtol=1e-3, atol=1e-3)

    def backward(inputs: Tensor, grad: Tensor, of: Tensor, mask: tuple[bool, bool, bool]) -> Callable[[], object]:
        one, none = (1, 1), (0, 0)
        return lambda: aten.convolution_backward(grad, inputs, of, (k,), one, none, one, False, none, 1, mask)

    contiguous = g.contiguous()
    return {
        "forward, channels last": lambda: torch.conv2d(x, w, bias),
        "forward, channels first": lambda: torch.conv2d(plain, weight, bias),
        "forward, product": lambda: torch.addmm(bias, gathered, matrix),
        "forward, patches and product": lambda: torch.addmm(bias, patches(), matrix),
        "weight gradient, channels last": backward(x, g, w, (False, True, False)),
        "weight gradient, channels first": backward(plain, contiguous, weight, (False, True, False)),
        "weight gradient, product": lambda: torch.mm(gathered.t(), rows),
        "input gradient, channels last": backward(x, g, w, (True, False, False)),
        "input gradient, channels first": backward(plain, contiguous, weight, (True, False, False)),
        "input gradient, product (of patches)": lambda: torch.mm(rows, matrix.t()),
    }


def best(call: Callable[[], object], repeats: int) -> float:
    """Seconds of CPU time."""
    seconds = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        call()
        seconds = min(seconds, time.process_time() - began)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}; batch {BATCH}\n")
    print("| | " + " | ".join(layer.name for layer in LAYERS) + " |\n| --- | ---: | ---: |")
    with torch.inference_mode():
        ways = [calls(layer) for layer in LAYERS]
        for name in ways[0]:
            rates = [f"{layer.flops / best(way[name], options.repeats) / 1e9:.0f}" for layer, way in zip(LAYERS, ways)]
            print(f"| {name} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
