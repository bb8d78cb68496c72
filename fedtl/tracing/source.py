"""The text of a loop over traced steps, as TorchScript reads it, and its interpreter."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedtl.tracing.tape import UntraceableError

NAME = "steps"
"""What the TorchScript function is called, as a profiler sees it."""


@dataclass(frozen=True)
class Lines:
    """The source of a traced step's loop, in parts.

    Attributes:
        inputs: the variables that are new in each step, in the order of the program's inputs.
        losses, buffers, vectors, constants: the function's further parameters; no losses for a function that gives
            something.
        before: what is done once, before the first step.
        step: what is done in each.
        after: what is done once, after the last.
        means: by term, the variable that then has its values ``[..., T * each]``, for terms whose values wait until
            then; they are still to be added up.
        each: by such a term, how many of its values wait in each step.
        added: the terms that a step itself adds values to.
        names: of all variables.
    """

    inputs: tuple[str, ...]
    losses: tuple[str, ...]
    buffers: str
    vectors: tuple[str, ...]
    constants: Mapping[str, Tensor]
    before: tuple[str, ...]
    step: tuple[str, ...]
    after: tuple[str, ...]
    means: Mapping[int, str]
    each: Mapping[int, int]
    added: Set[int]
    names: Set[str]

    @property
    def parameters(self) -> tuple[str, ...]:
        """All but the inputs."""
        return (*self.losses, self.buffers, *self.vectors, *self.constants)

    def loop(self, lots: Sequence[str]) -> list[str]:
        """The loop over the variables ``lots``, which have all steps' inputs."""
        streams = ", ".join(f"{lot}.unbind(0)" for lot in lots)
        each = f"for {', '.join(self.inputs)} in {f'zip({streams})' if len(lots) > 1 else streams}:"
        return [each, *indented(self.step or ("pass",))]


def indented(lines: Iterable[str]) -> list[str]:
    """Lines of a block."""
    return [f"    {line}" for line in lines]


def added_up(losses: str, term: int, means: str, sums: str) -> list[str]:
    """Lines that add a term's values ``[..., T]`` to its losses; ``sums`` is a variable for them to use.

    Step by step: no bit may depend on how many steps or clients there are at once.
    """
    total = f"torch.ops.aten.select({losses}, -1, {term})"
    return [
        f"{sums} = torch.cat([{total}.unsqueeze(-1), {means}], -1).cumsum(-1)",
        f"{total}.copy_({sums}.select(-1, -1))",
    ]


def function_source(lines: Lines) -> str:
    """The TorchScript function :data:`NAME` that goes through the steps of one traced step."""
    taken = set(lines.names)
    lots = [unused(f"{name}_s", taken) for name in lines.inputs]
    many = ", ".join(f"{name}: Tensor" for name in (*lots, *lines.parameters))
    sums = unused("sums", taken)
    adding = [line for term, means in lines.means.items() for line in added_up(lines.losses[0], term, means, sums)]
    body = [*lines.before, *lines.loop(lots), *lines.after, *adding]
    return "\n".join([f"def {NAME}({many}):", *indented(body)]) + "\n"


def unused(name: str, taken: set[str]) -> str:
    """A name that no other variable has; from now on it is taken. A method may call its vectors anything."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


KEEPS_FOR_BACKWARD = "mkldnn_rnn_layer_backward"
"""The operation whose forward one gives what it needs in grad mode alone."""


@dataclass(frozen=True)
class Compiled:
    """A TorchScript function.

    Attributes:
        function: it.
        grad_mode: whether it runs as if there were gradients, although no operation of it is differentiated.
    """

    function: Any
    grad_mode: bool


@functools.lru_cache(maxsize=256)
def compiled(source: str) -> Compiled:
    """TorchScript's function :data:`NAME`.

    Kept for later runs in this process: with another seed their steps are the same text.

    Raises:
        UntraceableError: an operation that TorchScript does not know.
    """
    try:
        return Compiled(getattr(torch.jit.CompilationUnit(source), NAME), KEEPS_FOR_BACKWARD in source)
    except RuntimeError as error:
        raise UntraceableError(f"TorchScript: {str(error).strip().splitlines()[0]}") from error


def interpret(compiled: Compiled, *arguments: Any) -> Any:
    """Run a TorchScript function."""
    mode = torch.enable_grad() if compiled.grad_mode else nullcontext()
    # TorchScript's own optimiser would fuse operations after a few runs, and so change the bits.
    with torch.inference_mode(), mode, torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        try:
            return compiled.function(*arguments)
        except RuntimeError as error:  # many lines of source, and what happened in the last
            last = str(error).strip().splitlines()[-1]
            raise RuntimeError(last.removeprefix("RuntimeError: ")) from error
