"""What clients' models have that nobody sends: weights out of a file, or drawn by the seed, which must be everybody's.

A client with another file of the same name would train on another backbone, without an error. Server and client tell
each tensor by two numbers, which are compared as numbers: what a seed draws may differ in its last bits from one
processor to another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.config.schema import Config
from fedtl.engine import Engine, Task
from fedtl.losses.terms.classification import Numbers

WEIGHTS = "weights"
"""Key of a query that asks for them, and of the record in its reply."""

FROZEN, PRETRAINED = "frozen", "pretrained"
"""How the names begin of tensors that never change, and of all of a model's where it begins with weights of a file."""

NEAR = 1e-5
"""How far two tensors' numbers may be apart, in parts of the norm; rounding to float32 moves them by a hundredth."""

Sketch = tuple[float, float]
"""Of a tensor: its norm, and the sum of its numbers with signs that depend on their places alone."""


def sketches(config: Config, engines: Sequence[Engine], client: int) -> dict[str, Sketch]:
    """What of a client's model nobody sends, by name.

    Args:
        config: the experiment.
        engines: of its phases, before they have trained anything.
        client: its number, as clients may have unlike models.
    """
    pretrained = pretrained_of(config, client) is not None
    named = (each for engine in engines for each in _unsent(engine.of(client).task, pretrained))
    first = dict[str, Tensor]()
    for name, tensor in named:  # of phases, which share most of it
        first.setdefault(name, tensor)
    return {name: _sketch(tensor) for name, tensor in first.items()}


def pretrained_of(config: Config, client: int) -> str | None:
    """The weights that a client's model begins with; None if these are drawn by the seed."""
    models = config.models or (config.model,)
    return models[client % len(models)].pretrained


def _unsent(task: Task, pretrained: bool) -> Iterator[tuple[str, Tensor]]:
    """Tensors with names; of a model from a file all, as parts of it may stay at the client."""
    vector, sharing = task.layout.flatten(task.module).cpu(), task.sharing
    moves = torch.zeros(len(vector), dtype=torch.bool)
    if sharing is not None:
        moves[sharing.travels.cpu()] = moves[sharing.private.cpu()] = True
    for slot in task.layout.slots:
        frozen = sharing is not None and not moves[slot.start : slot.stop].any()
        if frozen or pretrained:
            yield f"{PRETRAINED if pretrained else FROZEN}/{slot.name}", vector[slot.start : slot.stop]
    for name, module in task.frozen.items():
        if isinstance(module, Numbers):  # which the experiment itself says
            continue
        for part, tensor in module.state_dict().items():
            yield f"{name}/{part}", tensor.cpu()


def _sketch(tensor: Tensor) -> Sketch:
    numbers = tensor.detach().reshape(-1).double()
    signs = 1 - 2 * ((torch.arange(len(numbers)) * 2654435761 >> 16) & 1)  # as in Knuth's multiplicative hash
    return float(numbers.norm()), float((numbers * signs).sum())


def packed(each: Mapping[str, Sketch]) -> ConfigRecord:
    """A part of a reply, of which :func:`unpacked` makes the same."""
    return ConfigRecord({WEIGHTS: json.dumps(each)})


def unpacked(reply: RecordDict) -> dict[str, Sketch]:
    """What a client says of its weights; any error where that is none."""
    record = reply[WEIGHTS]
    assert isinstance(record, ConfigRecord)
    each = json.loads(str(record[WEIGHTS]))
    return {str(name): (float(norm), float(total)) for name, (norm, total) in each.items()}


def check_same(mine: Mapping[str, Sketch], theirs: Mapping[str, Sketch], name: str, source: str | None) -> None:
    """Check that a client's weights are the server's.

    Args:
        mine: the server's.
        theirs: the client's, by the same names.
        name: the client's.
        source: the file that models begin with; None for none.

    Raises:
        ConfigError: one of its tensors is another, or it does not say.
    """
    for key, (norm, total) in mine.items():
        part, _, tensor = key.partition("/")
        its_norm, its_total = theirs.get(key, (math.nan, math.nan))
        if abs(norm - its_norm) <= NEAR * norm and abs(total - its_total) <= NEAR * norm:  # neither is so of NaN
            continue
        what, same = f"{part!r}, which a term uses and nobody trains,", "give both the same file"
        if part == PRETRAINED:
            what = f"model.pretrained = {source!r}"
        elif part == FROZEN:
            what, same = "the frozen part of the model", "install the same versions at both"
        raise ConfigError(f"{what} has other weights at {name} than at the server, as in {tensor!r}; {same}")
