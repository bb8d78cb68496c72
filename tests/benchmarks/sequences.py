"""A client's step of networks for sequences, traced beside eager, and stacked beside one by one.

    python -m tests.benchmarks.sequences [--repeats 12] [--stacked]

Each pair trains the same clients, by turns in one process and on one thread; a ratio is of processor time, taken within
a turn. Above 1 the traced step is faster, with ``--stacked`` the stacked one, both traced.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedtl.clients.contract import ClientUpdate
from fedtl.data.federation import Federation
from fedtl.engine import Engine, OneByOne, Stacked
from fedtl.models import build_model, read_model
from tests.parts import engine_of, federation_of, train_cohort, update_of, whole_numbers

BATCH, STEPS, CLASSES, WORDS = 20, 10, 4, 10_000


class TorchRecurrent(nn.Module):
    """One of torch's recurrent layers, as anybody would use it."""

    def __init__(self, kind: type[nn.RNNBase], hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.cells, self.head = kind(6, hidden, layers, batch_first=True), nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of series ``[n, 6, T]``."""
        logits: Tensor = self.head(self.cells(x.transpose(1, 2))[0][:, -1])
        return logits


class TorchTransformer(nn.Module):
    """Torch's encoder, with a causal mask if asked for."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True)
        self.into, self.causal = nn.Linear(6, width), causal
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of series ``[n, 6, T]``."""
        h = self.into(x.transpose(1, 2))
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1]) if self.causal else None
        logits: Tensor = self.head(self.encoder(h, mask=mask, is_causal=self.causal).mean(1))
        return logits


class TorchWords(nn.Module):
    """The mean of a text's word vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of token ids ``[n, T]``."""
        logits: Tensor = self.head(self.words(x.long()).mean(1))
        return logits


def shipped(shape: tuple[int, ...], name: str, **options: object) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    """One of fedtl's models."""
    return lambda: build_model(read_model({"name": name, **options}), shape, CLASSES, 0), shape


SERIES, TEXT = (6, 30), (30,)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "`gru`, 32 wide": shipped(SERIES, "gru", hidden=32),
    "`gru`, 64 wide": shipped(SERIES, "gru"),
    "`gru`, 64 wide, 100 measurements": shipped((6, 100), "gru"),
    "`lstm`, 32 wide": shipped(SERIES, "lstm", hidden=32),
    "`lstm`, 64 wide": shipped(SERIES, "lstm"),
    "`lstm`, 64 wide, 2 layers": shipped(SERIES, "lstm", layers=2),
    "`transformer`, 64 wide, 2 layers": shipped(SERIES, "transformer"),
    "`transformer`, 64 wide, 2 layers, tokens with padding": shipped(TEXT, "transformer", vocabulary=50, padding=0),
    "`transformer`, 256 wide, 2 layers": shipped(SERIES, "transformer", width=256),
    "`textcnn`": shipped(TEXT, "textcnn", vocabulary=50),
    "`cnn1d`": shipped(SERIES, "cnn1d"),
    "torch's GRU, 64 wide": (lambda: TorchRecurrent(nn.GRU, 64), SERIES),
    "torch's GRU, 256 wide": (lambda: TorchRecurrent(nn.GRU, 256), SERIES),
    "torch's LSTM, 64 wide": (lambda: TorchRecurrent(nn.LSTM, 64), SERIES),
    "torch's LSTM, 64 wide, 2 layers": (lambda: TorchRecurrent(nn.LSTM, 64, 2), SERIES),
    "torch's LSTM, 256 wide": (lambda: TorchRecurrent(nn.LSTM, 256), SERIES),
    "torch's transformer, 64 wide, 2 layers": (lambda: TorchTransformer(64, False), SERIES),
    "torch's transformer, 64 wide, 2 layers, causal mask": (lambda: TorchTransformer(64, True), SERIES),
    "torch's transformer, 256 wide, 2 layers": (lambda: TorchTransformer(256, False), SERIES),
    f"torch's embedding, {WORDS:,} words": (lambda: TorchWords(64), TEXT),
}
"""Models and their samples' shapes; texts have 50 words, whatever the table has."""

STACKED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "`gru`, 8 wide": shipped(SERIES, "gru", hidden=8),
    "`gru`, 32 wide": shipped(SERIES, "gru", hidden=32),
    "`gru`, 64 wide": shipped(SERIES, "gru", hidden=64),
    "`lstm`, 8 wide": shipped(SERIES, "lstm", hidden=8),
    "`lstm`, 32 wide": shipped(SERIES, "lstm", hidden=32),
    "`transformer`, 16 wide, 2 layers": shipped(SERIES, "transformer", width=16),
    "`transformer`, 32 wide, 2 layers": shipped(SERIES, "transformer", width=32),
    "`tabular-mlp`": shipped((8,), "tabular-mlp", categorical={"0": 50, "1": 50}),
}


class Contestant:
    """One way to train, with its steps traced already."""

    def __init__(self, federation: Federation, module: nn.Module, kind: Callable[..., Engine], traced: bool) -> None:
        self.engine = engine_of(federation, copy.deepcopy(module), lambda task: kind(task, traced))
        self.w = self.engine.task.layout.flatten(self.engine.task.module)
        self.clients = range(len(federation.train))
        self.update: ClientUpdate[object] = update_of("fedavg", lr=0.1, batch_size=BATCH, local_steps=STEPS)
        self.seconds()
        assert self.engine.tracer is None or self.engine.tracer.replays_all

    def seconds(self) -> float:
        """Of the processor, a client's step."""
        began = time.process_time()
        train_cohort(self.engine, self.update, self.w, self.clients, [{} for _ in self.clients], 1)
        return (time.process_time() - began) / (len(self.clients) * STEPS)


def row(name: str, first: Contestant, second: Contestant, repeats: int) -> str:
    """A table's row: the least times, and the median of the ratios with its standard error."""
    turns = []
    for turn in range(repeats):
        order = (first, second) if turn % 2 else (second, first)
        times = {id(one): one.seconds() for one in order}
        turns.append((times[id(first)], times[id(second)]))
    ratios = [one / other for one, other in turns]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    least = " | ".join(f"{1e3 * min(times):.2f}" for times in zip(*turns))
    return f"| {name} | {least} | {statistics.median(ratios):.2f} ± {error:.2f} |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--stacked", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name has this")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ways = ("one by one, ms", "stacked, ms") if options.stacked else ("eager, ms", "traced, ms")
    print(f"| | {ways[0]} | {ways[1]} | ratio |\n| --- | ---: | ---: | ---: |")
    for name, (make, shape) in (STACKED if options.stacked else CASES).items():
        if options.only not in name:
            continue
        federation = federation_of([100] * (16 if options.stacked else 2), shape=shape, classes=CLASSES)
        if len(shape) == 1:
            federation = whole_numbers(federation, 50)
        torch.manual_seed(0)
        module = make()
        if options.stacked:
            pair = Contestant(federation, module, OneByOne, True), Contestant(federation, module, Stacked, True)
        else:
            pair = Contestant(federation, module, OneByOne, False), Contestant(federation, module, OneByOne, True)
        print(row(name, *pair, options.repeats), flush=True)


if __name__ == "__main__":
    main()
