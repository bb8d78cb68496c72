"""Random numbers that a model may draw: torch's, NumPy's, Python's, and those of generators that it keeps itself."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

Generators = Sequence[Any]
"""``numpy.random.Generator`` and ``RandomState``, ``random.Random``, ``torch.Generator``."""

KINDS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)


DEPTH = 4
"""So far within a module's attributes generators are looked for."""


def generators_of(module: nn.Module) -> list[Any]:
    """The generators that a module or a part of it keeps: as attributes, in lists and dicts, in objects of its own."""
    generators: list[Any] = []
    seen: set[int] = set()
    for part in module.modules():
        for value in vars(part).values():
            _collect(value, generators, seen, DEPTH)
    return generators


def _collect(value: Any, generators: list[Any], seen: set[int], depth: int) -> None:
    """Add the generators in ``value``, in an order that is the same in any process, so that each has its seed."""
    if value is None or isinstance(value, (str, bytes, int, float, nn.Module, torch.Tensor, np.ndarray, type)):
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, KINDS):
        generators.append(value)
        return
    if depth == 0 or isinstance(value, ModuleType):
        return
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value.values()]
    elif isinstance(value, (list, tuple)):
        inner = [*value]
    elif isinstance(value, (MethodType, BuiltinMethodType)):  # as rng.normal
        inner = [value.__self__]
    elif hasattr(value, "__dict__"):
        inner = [*vars(value).values()]
    for each in inner:
        _collect(each, generators, seen, depth - 1)


def seed_elsewhere(seed: int, own: Generators = ()) -> None:
    """Seed what is not torch's: NumPy's and Python's global generators, and a model's ``own``."""
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that a model's np.random.rand draws from
    random.seed(seed)
    seed_own(seed, own)


def seed_own(seed: int, own: Generators) -> None:
    """Seed a model's own generators, each in its own way."""
    for place, generator in enumerate(own):
        one = seed + place + 1
        if isinstance(generator, torch.Generator):
            generator.manual_seed(one)
        elif isinstance(generator, random.Random):
            generator.seed(one)
        elif isinstance(generator, np.random.RandomState):
            generator.seed(one % 2**32)
        else:
            bits = generator.bit_generator
            bits.state = type(bits)(one).state


@contextmanager
def kept_elsewhere() -> Iterator[None]:
    """After the ``with`` block NumPy's and Python's global generators are as they were before it."""
    numbers, python = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(python)


@contextmanager
def seeded(seed: int, own: Generators = (), device: torch.device | None = None) -> Iterator[None]:
    """In the ``with`` block all random numbers depend on ``seed`` alone; the caller's generators stay as they were.

    Args:
        seed: 0 or more.
        own: generators of a model, which are seeded too, and left where they are then.
        device: a GPU whose generator is seeded too; others are left alone, as asking them would start CUDA.
    """
    gpu = device if device is not None and device.type == "cuda" else None
    with torch.random.fork_rng([gpu.index or 0] if gpu else []), kept_elsewhere():
        # Not torch.manual_seed: without a GPU it keeps a formatted traceback of each call.
        torch.default_generator.manual_seed(seed)
        if gpu:
            torch.cuda.default_generators[gpu.index or 0].manual_seed(seed)
        seed_elsewhere(seed, own)
        yield


def seed_again(seed: int) -> None:
    """Go back to the beginning of a :func:`seeded` block without generators of its own."""
    torch.default_generator.manual_seed(seed)
    seed_elsewhere(seed)


def state_elsewhere(own: Generators = ()) -> tuple[Any, ...]:
    """Where NumPy's and Python's global generators and ``own`` are: another value once a number was drawn."""
    numbers = np.random.get_state(legacy=False)  # noqa: NPY002
    return (pickle.dumps(numbers), random.getstate(), *map(_comparable, own))


def state(own: Generators = (), device: torch.device | None = None) -> tuple[Any, ...]:
    """The same with torch's generator, and that of a GPU."""
    torchs = [torch.default_generator]
    if device is not None and device.type == "cuda":
        torchs.append(torch.cuda.default_generators[device.index or 0])
    return (*state_elsewhere(own), *map(_comparable, torchs))


def _comparable(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return pickle.dumps(generator.get_state(legacy=False))
    return pickle.dumps(generator.bit_generator.state)
