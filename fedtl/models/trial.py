"""A model tried out on a few samples before anybody trains it: what it takes, what it gives, what it does besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedtl.choice import ConfigError
from fedtl.models.modes import in_evaluation
from fedtl.randomness import generators_of, seeded
from fedtl.samples import FewSamples

aten: Any = torch.ops.aten

SEED = 0
"""Of what a model draws while it is tried out; no number of it is kept."""


def try_out(
    module: nn.Module, name: str, shape: tuple[int, ...], classes: int, few: FewSamples | None, own: bool
) -> None:
    """Check that a model maps two samples to ``[2, classes]``, and for a user's ``own`` how it comes to that.

    A model that changes its input in place is given a copy from now on, as terms, teachers and further gradients look
    at the same samples.

    Args:
        module: as it was built; its numbers and modes stay.
        name: as ``model.name`` has it.
        shape: a sample's.
        classes: number of labels.
        few: of the data; None where none are at hand, and made-up ones have to do.
        own: whether it is a user's own model, and not one of ours or of torchvision's.

    Raises:
        ConfigError: it does not fit the data, or no two calls of it give the same.
    """
    x = _accepted(module, name, shape, few, own)
    output = _output(module, x)
    _check_output(name, output, classes)
    if not own:
        return
    _check_repeatable(module, name, x)
    if changes_input(module, _inputs(x, few)):
        module.register_forward_pre_hook(_copy_of_input)


def _output(module: nn.Module, x: Tensor) -> Any:
    # As it is scored; in training the samples would enter batch-norm's statistics.
    with seeded(SEED, generators_of(module)), in_evaluation(module), torch.no_grad():
        return module(x.clone())


def _accepted(module: nn.Module, name: str, shape: tuple[int, ...], few: FewSamples | None, own: bool) -> Tensor:
    """Two samples that the model takes, ``[2, *shape]``."""
    tried = [few.take(2)] if few is not None else list(_made_up(shape))
    failure: Exception | None = None
    for x in tried:
        with _whole_numbers_made() as made:
            try:
                _output(module, x)
                failed = None
            except Exception as error:
                failed = failure = failure or error
        if own and few is not None:
            _check_whole_numbers(module, name, few, made, failed)
        if failed is None:
            return x
    assert failure is not None
    raise ConfigError(
        f"model.name = {name!r} does not take samples of shape {list(shape)}: {_cause(failure)}"
    ) from failure


def taken_by(module: nn.Module, shape: tuple[int, ...], few: FewSamples | None) -> Tensor:
    """Two samples ``[2, *shape]`` that a model takes, of the data or made up; without any, of zeros."""
    if few is not None:
        return few.take(2)
    for x in _made_up(shape):
        try:
            _output(module, x)
        except Exception:
            continue
        return x
    return torch.zeros(2, *shape)


def _made_up(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Samples where none are at hand; whole numbers, which may also be a word's number or a mask's."""
    yield torch.zeros(2, *shape)
    yield torch.ones(2, *shape)
    yield torch.arange(2 * torch.Size(shape).numel()).remainder(2).float().view(2, *shape)


def _check_whole_numbers(
    module: nn.Module, name: str, few: FewSamples, made: Sequence[Tensor], failed: Exception | None
) -> None:
    """Check that a model that looks words up by number sees the numbers that the data have."""
    stored, x = few.stored, few.x
    if not torch.equal(stored, stored.round()):
        return
    remedy = "begin its forward with x = x.long() and set data.normalise = 'none'"
    if few.bytes:
        remedy += ", and store them as int64, as bytes are divided by 255"
    seen = torch.cat([x.reshape(-1), x.round().reshape(-1)])
    if not torch.equal(x, stored) and any(len(t) and bool(torch.isin(t, seen).all()) for t in made):
        raise ConfigError(
            f"model.name = {name!r}: it makes whole numbers of its input, which is no longer whole once it is "
            f"normalised; to look samples up by number, {remedy}"
        )
    if failed is not None and isinstance(failed, (RuntimeError, IndexError, TypeError)):
        try:
            _output(module, stored[:2].long())
        except Exception:
            pass
        else:
            raise ConfigError(
                f"model.name = {name!r} takes whole numbers, and samples come to it as float32: {remedy}"
            ) from failed
    if failed is None and made:
        try:  # the largest and the smallest number that there are
            _output(module, few.extremes())
        except Exception as error:
            low, high = few.range()
            raise ConfigError(
                f"model.name = {name!r} does not take all of the data's numbers, which go from {low:g} to {high:g}: "
                f"{_cause(error)}"
            ) from error


class _WholeNumbersMade(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what is made an integer."""

    def __init__(self, made: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made = made

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note what it is given if it makes integers of it."""
        result = func(*args, **(kwargs or {}))
        if func is aten._to_copy.default and args[0].is_floating_point() and not result.is_floating_point():
            self.made.append(args[0].detach().reshape(-1).clone())
        return result


@contextmanager
def _whole_numbers_made() -> Iterator[list[Tensor]]:
    """A block in which it is noted which numbers a model makes integers of, ``[n]`` each."""
    made: list[Tensor] = []
    with _WholeNumbersMade(made):
        yield made


def _check_output(name: str, output: object, classes: int) -> None:
    if not isinstance(output, Tensor):
        hint = (
            "; return the logits alone" if isinstance(output, (tuple, list, dict)) or hasattr(output, "logits") else ""
        )
        raise ConfigError(
            f"model.name = {name!r}: its output is a {type(output).__name__}; "
            f"the labels need a tensor of shape [2, {classes}]{hint}"
        )
    shape = list(output.shape)
    if shape == [2, classes]:
        if not output.is_floating_point():
            raise ConfigError(
                f"model.name = {name!r}: its output is {output.dtype}; give it logits, {classes} float32 numbers for "
                "each sample"
            )
        return
    told = f"model.name = {name!r}: its output has shape {shape}; the labels need [2, {classes}]"
    if shape in ([2], [2, 1]):
        said = "yes or no" if classes == 2 else f"{classes} classes"
        raise ConfigError(
            f"{told}: one number a sample is not enough for {said}; give it {classes} outputs, a logit for each "
            "class (a single logit or a regression is no task yet)"
        )
    if len(shape) == 2 and shape[0] == 2:
        raise ConfigError(f"{told}: give it {classes} outputs, a logit for each class that the data have")
    raise ConfigError(f"{told}: give one row for each sample, with a logit for each class")


def _check_repeatable(module: nn.Module, name: str, x: Tensor) -> None:
    """Check that training passes of two copies from the same seeds give the same."""
    found = []
    for copy in (deepcopy(module), deepcopy(module)):
        with seeded(SEED, generators_of(copy)):
            copy.train()
            try:
                found.append(copy(x.clone()).detach())
            except Exception:
                return  # whatever it is, training shows it
    if not torch.equal(found[0].nan_to_num(), found[1].nan_to_num()):
        raise ConfigError(
            f"model.name = {name!r}: of the same samples, numbers and seeds it makes something else each time, so no "
            "run could be repeated; let it draw from torch, numpy.random or random, or from a generator that is an "
            "attribute of the module"
        )


def changes_input(module: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether a model changes its input in place, in training or in evaluation, on any of these ``[n, *shape]``."""
    return any(_changes(module, x, mode) for x in inputs for mode in (nn.Module.train, nn.Module.eval))


def _changes(module: nn.Module, x: Tensor, mode: Callable[[nn.Module], Any]) -> bool:
    copy, given = deepcopy(module), x.clone()
    before = given._version
    mode(copy)
    with seeded(SEED, generators_of(copy)), suppress(Exception):  # it may have changed it before it raised
        copy(given)
    # By the count of changes, as one may leave the numbers as they are; by the numbers, as x.data is not counted.
    return given._version != before or not torch.equal(given.nan_to_num(), x.nan_to_num())


def _inputs(x: Tensor, few: FewSamples | None) -> list[Tensor]:
    """What shows branches that depend on the samples: those at hand, and such as are far from all others."""
    found = [x] if few is None else [x, few.x]
    return [*found, torch.zeros_like(x), torch.full_like(x, 3.0), torch.full_like(x, -3.0)]


def _copy_of_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].clone(), *inputs[1:]) if inputs else inputs


def _cause(error: BaseException) -> str:
    """An exception as the end of a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
