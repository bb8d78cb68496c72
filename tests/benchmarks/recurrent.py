"""Whether LSTM, attention and embedding would gain by weights that lie as [in, out], as linear layers' do.

    python -m tests.benchmarks.recurrent

One thread; a training step's forward and backward pass with each weight as torch has it and as a view of its transpose.
Processor-seconds, the least of interleaved repeats, so that other work on the machine does not decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

REPEATS = 25


class Attention(nn.Module):
    """Self-attention alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.of = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.of(x, x, x, need_weights=False)[0]
        return out


class Recurrent(nn.Module):
    """An LSTM's outputs."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.of = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.of(x)[0]
        return out


CASES: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear 784 to 100, batch 20": (lambda: nn.Linear(784, 100), lambda: torch.randn(20, 784)),
    "LSTM 8 to 100, batch 20, 80 steps": (lambda: Recurrent(8, 100), lambda: torch.randn(20, 80, 8)),
    "LSTM 8 to 256, batch 20, 80 steps": (lambda: Recurrent(8, 256), lambda: torch.randn(20, 80, 8)),
    "LSTM 64 to 64, batch 10, 30 steps": (lambda: Recurrent(64, 64), lambda: torch.randn(10, 30, 64)),
    "attention 64 wide, 4 heads, batch 20, 30 tokens": (lambda: Attention(64, 4), lambda: torch.randn(20, 30, 64)),
    "attention 256 wide, 4 heads, batch 20, 30 tokens": (lambda: Attention(256, 4), lambda: torch.randn(20, 30, 256)),
    "attention 64 wide, 4 heads, batch 20, 1 token": (lambda: Attention(64, 4), lambda: torch.randn(20, 1, 64)),
    "embedding 10,000 words to 64, batch 20, 30 tokens": (
        lambda: nn.Embedding(10_000, 64),
        lambda: torch.randint(10_000, (20, 30)),
    ),
}


def step(module: nn.Module, weights: dict[str, Tensor], turned: frozenset[str], x: Tensor) -> None:
    """A step's two passes, down to the gradients of what is stored."""
    views = {name: weight.t() if name in turned else weight for name, weight in weights.items()}
    torch.autograd.grad(functional_call(module, views, (x,)).sum(), list(weights.values()))


def seconds(module: nn.Module, turned: frozenset[str], x: Tensor) -> Callable[[], float]:
    """What times a few steps, per step."""
    weights = {
        name: (p.detach().t().contiguous() if name in turned else p.detach().clone()).requires_grad_()
        for name, p in module.named_parameters()
    }

    def once(n: int = 8) -> float:
        began = time.process_time()
        for _ in range(n):
            step(module, weights, turned, x)
        return (time.process_time() - began) / n

    once()
    return once


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| | [out, in], ms | [in, out], ms | as fast |\n| --- | ---: | ---: | ---: |")
    for name, (make, inputs) in CASES.items():
        module, x = make(), inputs()
        matrices = frozenset(name for name, p in module.named_parameters() if p.dim() == 2)
        timers = [seconds(module, turned, x) for turned in (frozenset[str](), matrices)]
        usual, other = (min(times) for times in zip(*([timer() for timer in timers] for _ in range(REPEATS))))
        print(f"| {name} | {1e3 * usual:.3f} | {1e3 * other:.3f} | {usual / other:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
