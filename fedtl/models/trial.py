"""A model tried out on a few samples before anybody trains it: what it takes, what it gives, what it does besides."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError, cause
from fedtl.data.samples import FewSamples
from fedtl.models.generators import generators_of, seed_own, seeded
from fedtl.models.input_casts import InputCasts
from fedtl.models.modes import in_evaluation
from fedtl.models.settings import ModelChoice
from fedtl.tasks import CLASSIFICATION, LearningTask

SEED = 0
"""Of what a model draws while it is tried out; no number of it is kept."""

REMEMBERED = 64
"""So many trials' results are kept: a process builds a model again for each phase, engine and restart."""

TRIED: dict[Hashable, bool] = {}
"""Whether models that this process has tried change their input."""


def try_out(
    module: nn.Module,
    choice: ModelChoice,
    shape: tuple[int, ...],
    classes: int,
    few: FewSamples | None,
    task: LearningTask = CLASSIFICATION,
) -> None:
    """Check that a model maps two samples to ``[2, classes]``, and for a user's own how it comes to that.

    The first pass draws from torch's generator as the caller left it: lazy layers begin with what they draw there. A
    model that changes its input in place is given a copy from now on, as terms, teachers and further gradients look at
    the same samples.

    Args:
        module: as it was built; its numbers and modes stay.
        choice: what it was built from; it is a user's own model if its name is a dotted path.
        shape: a sample's.
        classes: how many numbers it is to give for a sample, one for each label.
        task: what it is to predict; where that is tokens, ``[2, T, classes]``.
        few: of the data; None where none are at hand, and made-up ones have to do.

    Raises:
        ConfigError: it does not fit the data, cannot be copied, or no two calls of it give the same.
    """
    name, own = choice.name, ":" in choice.name
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ConfigError(
            f"model.name = {name!r} gives a TorchScript module, whose parts nobody can look at; give the "
            "module that it was made of"
        )
    if few is not None:
        choice.check_samples(few, classes)
    x = _accepted(module, name, shape, few, own)
    _check_output(name, _output(module, x), task.output_shape(2, shape, classes), task)
    if not own:
        return
    _check_hooks(module, name)
    key = _key(module, choice, shape, classes, few)
    if key not in TRIED:
        copy = _copied(module, name)
        _check_repeatable(copy, name, x)
        if len(TRIED) >= REMEMBERED:
            TRIED.clear()
        TRIED[key] = changes_input(copy, _inputs(x, few))
    if TRIED[key]:
        module.register_forward_pre_hook(_copy_of_input)


def _key(
    module: nn.Module, choice: ModelChoice, shape: tuple[int, ...], classes: int, few: FewSamples | None
) -> Hashable:
    """What a trial's result depends on; a notebook's cell may define a class of the same name anew."""
    code = tuple((type(part), getattr(type(part), "forward", None)) for part in module.modules())
    return repr(choice), shape, classes, code, None if few is None else hash(few.x.numpy().tobytes())


def _output(module: nn.Module, x: Tensor) -> Any:
    with seeded(SEED, generators_of(module)):
        return _first_output(module, x.clone())


def _first_output(module: nn.Module, x: Tensor) -> Any:
    """The output from wherever torch's generator is, as lazy layers draw their first numbers from it."""
    # As it is scored; in training the samples would enter batch-norm's statistics.
    with in_evaluation(module), torch.no_grad():
        return module(x)


def _accepted(module: nn.Module, name: str, shape: tuple[int, ...], few: FewSamples | None, own: bool) -> Tensor:
    """Two samples that the model takes, ``[2, *shape]``."""
    failure: Exception | None = None
    seed_own(SEED, generators_of(module))
    for x in [few.take(2)] if few is not None else _made_up(shape):
        raised: Exception | None = None
        casts = InputCasts() if own and few is not None else None
        try:
            with casts or nullcontext():
                _first_output(module, x.clone() if casts is None else casts.watched(x))
        except Exception as error:
            raised = failure = failure or error
        if casts is not None and few is not None:
            _check_whole_numbers(module, name, few, casts, raised)
        if raised is None:
            return x
    assert failure is not None
    raise ConfigError(
        f"model.name = {name!r} does not take samples of shape {list(shape)}: {cause(failure)}"
    ) from failure


def outputs_differ(one: nn.Module, other: nn.Module, shape: tuple[int, ...], few: FewSamples | None) -> bool:
    """Whether two modules, in evaluation and from the same seeds, make something else of the same samples.

    Args:
        one: a module; what it counts while it is called is kept.
        other: likewise.
        shape: a sample's.
        few: samples; made-up ones if None, of which those that the modules do not take show nothing.
    """
    for x in [few.x] if few is not None else _made_up(shape):
        try:
            ours, theirs = _output(one, x), _output(other, x)
        except Exception:
            continue
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True):
            return True
    return False


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
    module: nn.Module, name: str, few: FewSamples, casts: InputCasts, raised: Exception | None
) -> None:
    """Check that a model that looks words up by number sees the numbers that the data have."""
    stored = few.stored
    if not torch.equal(stored, stored.round()):
        return
    remedy = "begin its forward with x = x.long() and set data.normalise = 'none'"
    if few.bytes:
        remedy += ", and store them as int64, as bytes are divided by 255"
    if casts.of_fractions:
        raise ConfigError(
            f"model.name = {name!r}: it makes whole numbers of its input, which is no longer whole once it is "
            f"normalised; to look samples up by number, {remedy}"
        )
    if raised is not None and isinstance(raised, (RuntimeError, IndexError, TypeError)):
        try:
            _output(module, stored[:2].long())
        except Exception:
            pass
        else:
            raise ConfigError(
                f"model.name = {name!r} takes whole numbers, and samples come to it as float32: {remedy}"
            ) from raised
    if raised is None and casts.any:
        try:  # the largest and the smallest number that there are
            _output(module, few.extremes())
        except Exception as error:
            low, high = few.range()
            raise ConfigError(
                f"model.name = {name!r} does not take all of the data's numbers, which go from {low:g} to {high:g}: "
                f"{cause(error)}"
            ) from error


def _check_output(name: str, output: object, expected: tuple[int, ...], task: LearningTask) -> None:
    classes, needed = expected[-1], list(expected)
    if not isinstance(output, Tensor):
        hint = (
            "; return the logits alone" if isinstance(output, (tuple, list, dict)) or hasattr(output, "logits") else ""
        )
        raise ConfigError(
            f"model.name = {name!r}: its output is a {type(output).__name__}; "
            f"{_of_what(task)} a tensor of shape {needed}{hint}"
        )
    shape = list(output.shape)
    if shape == needed:
        if not output.is_floating_point():
            raise ConfigError(
                f"model.name = {name!r}: its output is {output.dtype}; give it logits, {classes} float32 numbers for "
                "each sample"
            )
        return
    text = f"model.name = {name!r}: its output has shape {shape}; {_of_what(task)} {needed}"
    if task.per_token:
        raise ConfigError(f"{text}: give logits for each of a sample's {needed[1]} tokens")
    if not task.labelled or classes == 1:
        raise ConfigError(f"{text}: give it {classes} {'output' if classes == 1 else 'outputs'}")
    if shape in ([2], [2, 1]):
        labels = "yes or no" if classes == 2 else f"{classes} classes"
        raise ConfigError(
            f"{text}: one number a sample is not enough for {labels}; give it {classes} outputs, a logit for each "
            "class (data.task = 'binary' takes one logit for yes or no, and 'regression' predicts numbers)"
        )
    if len(shape) == 2 and shape[0] == 2:
        raise ConfigError(f"{text}: give it {classes} outputs, a logit for each class that the data have")
    raise ConfigError(f"{text}: give one row for each sample, with a logit for each class")


def _of_what(task: LearningTask) -> str:
    return "the labels need" if task.kind == "classification" else f"data.task = {task.name!r} needs"


def _copied(module: nn.Module, name: str) -> nn.Module:
    try:
        return deepcopy(module)
    except Exception as error:
        raise ConfigError(
            f"model.name = {name!r}: it cannot be copied, as each client's training needs: {cause(error)}"
        ) from error


def _check_hooks(module: nn.Module, name: str) -> None:
    """Refuse hooks of gradients, which no copy of the model has, and no model with other numbers in its place."""
    for parameter, tensor in module.named_parameters():
        if tensor._backward_hooks or tensor._post_accumulate_grad_hooks:
            raise ConfigError(
                f"model.name = {name!r}: its parameter {parameter!r} has a hook for its gradient, which training would "
                "leave out; multiply by a mask in forward instead, or name the part in strategy.frozen or "
                "strategy.lr_scale"
            )


def _check_repeatable(module: nn.Module, name: str, x: Tensor) -> None:
    """Check that two calls of one module give the same, from the same seeds and the same numbers of its vector.

    Not of two copies: these would agree in whatever else a module keeps, which it would carry from client to client.
    """
    for mode in (nn.Module.train, nn.Module.eval):
        mode(module)
        outputs, rebound = [], list[str]()
        for _ in range(2):
            rebound.clear()  # in the first call a buffer may be filled once and for all
            with _numbers_restored(module, rebound), seeded(SEED, generators_of(module)), torch.no_grad():
                try:
                    outputs.append(module(x.clone()).clone())
                except Exception:
                    return  # whatever it is, training shows it
        if rebound:
            raise ConfigError(
                f"model.name = {name!r}: each call assigns its buffer {rebound[0]!r} anew, so its numbers would not be "
                f"sent and would pass from client to client; change it in place, by self.{rebound[0]}.copy_(...)"
            )
        if not torch.equal(outputs[0].nan_to_num(), outputs[1].nan_to_num()):
            raise ConfigError(
                f"model.name = {name!r}: of the same samples, numbers and seeds it makes something else each time, so "
                "no run could be repeated; let it draw from torch, numpy.random or random, or from a generator that is "
                "an attribute of the module, and keep what lasts from one call to the next in a buffer of float32"
            )


@contextmanager
def _numbers_restored(module: nn.Module, rebound: list[str]) -> Iterator[None]:
    """After the ``with`` block a module has the parameters back that engines set for each client, and only these.

    Engines set them in the tensors that a module is built with. Buffers that are other tensors after the block, with
    other numbers, are added to ``rebound``.
    """
    before: list[tuple[dict[str, Any], str, Tensor, Tensor]] = [
        (tensors, key, tensor, tensor.detach().clone())
        for part in module.modules()
        for tensors in (part._parameters, part._buffers)
        for key, tensor in tensors.items()
        if tensor is not None and (isinstance(tensor, nn.Parameter) or tensor.is_floating_point())
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensors, key, tensor, numbers in before:
                after = tensors[key]
                if after is not tensor and (after is None or not torch.equal(after, numbers)):
                    rebound.append(key)
                tensor.copy_(numbers)


def changes_input(module: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether a model changes its input in place, in training or in evaluation, on any of these ``[n, *shape]``.

    Args:
        module: a copy, as its numbers and modes change.
        inputs: what it is called with.
    """
    return any(_changes(module, x, mode) for x in inputs for mode in (nn.Module.train, nn.Module.eval))


def _changes(module: nn.Module, x: Tensor, mode: Callable[[nn.Module], Any]) -> bool:
    mode(module)
    samples = x.clone()
    before = samples._version
    # It may have changed them before it raised.
    with seeded(SEED, generators_of(module)), torch.no_grad(), suppress(Exception):
        module(samples)
    # By the count of changes, as one may leave the numbers as they are; by the numbers, as x.data is not counted.
    return samples._version != before or not torch.equal(samples.nan_to_num(), x.nan_to_num())


def _inputs(x: Tensor, few: FewSamples | None) -> list[Tensor]:
    """What shows branches that depend on the samples: those at hand, and such as are far from all others."""
    at_hand = [x] if few is None else [x, few.x]
    return [*at_hand, torch.zeros_like(x), torch.full_like(x, 3.0), torch.full_like(x, -3.0)]


def _copy_of_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].clone(), *inputs[1:]) if inputs else inputs
