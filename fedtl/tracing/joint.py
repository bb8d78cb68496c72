"""Several traced steps as one loop, for steps of several kinds that follow one another.

Most data sets do not divide by the size of a mini-batch, so each epoch ends with one of another shape; and a method's
steps may take turns. To call a program costs as much as two to four steps of a small model: its views are made, and its
values added up. So a round's programs are joined, and the round is one call.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedtl.tracing.program import Program, separate
from fedtl.tracing.source import NAME, Compiled, added_up, compiled, indented, interpret
from fedtl.tracing.tape import UntraceableError


@dataclass(frozen=True)
class JointProgram:
    """Programs of one method on one state, joined.

    Attributes:
        programs: what was joined, each for one kind of step and mini-batches of one shape.
        source: the TorchScript function, to read.
    """

    programs: tuple[Program, ...]
    source: str
    each: tuple[tuple[int, ...], ...]
    """By term whose values wait until after the loop, how many do in each step, by program."""
    _function: Compiled = field(repr=False)
    _constants: tuple[Tensor, ...] = field(repr=False)

    def run(
        self,
        stretches: Sequence[tuple[int, Sequence[Tensor]]],
        losses: Tensor,
        buffers: Tensor,
        state: dict[str, Tensor],
    ) -> None:
        """Train on mini-batches, one after another; the same as to run the programs one after another.

        Args:
            stretches: mini-batches that follow one another and are one program's: which it is, and its inputs, each
                with the steps as its first dimension.
            losses: as :meth:`~fedtl.tracing.program.Program.run` takes them.
            buffers: likewise.
            state: likewise.
        """
        separate(state)
        vectors = [state[name] for name in self.programs[0].state]
        kinds = [kind for kind, _ in stretches]
        inputs = [list(lot) for lot in zip(*(lots for _, lots in stretches))]
        steps = tuple((kind, len(lots[0])) for kind, lots in stretches)
        places = [_places(steps, each).to(losses.device) for each in self.each]
        interpret(self._function, kinds, *inputs, places, losses, buffers, *vectors, *self._constants)


def joined(programs: Sequence[Program]) -> JointProgram:
    """Join programs of one method on one state.

    Raises:
        UntraceableError: they do not keep the same values until after the loop.
    """
    pieces = [program.lines(f"p{kind}_") for kind, program in enumerate(programs)]
    first, waiting = pieces[0], sorted({term for piece in pieces for term in piece.means})
    if any(term in piece.added for piece in pieces for term in waiting):
        raise UntraceableError("a term's values wait in one kind of step, and do not in another")
    shared = (*first.losses, first.buffers, *first.vectors)
    constants = [(name, constant) for piece in pieces for name, constant in piece.constants.items()]
    lots = [f"lots_{name}" for name in first.inputs]
    lists = ", ".join(f"{name}: List[Tensor]" for name in lots)
    others = ", ".join(f"{name}: Tensor" for name in (*shared, *(name for name, _ in constants)))
    body = [
        f"{name} = {common}"
        for piece in pieces[1:]
        for name, common in zip((*piece.losses, piece.buffers, *piece.vectors), shared)
    ]
    body += [line for piece in pieces for line in piece.before]
    body.append(f"for kind, {', '.join(f'lot_{name}' for name in first.inputs)} in zip(kinds, {', '.join(lots)}):")
    for kind, piece in enumerate(pieces):
        body += indented([f"if kind == {kind}:", *indented(piece.loop([f"lot_{name}" for name in first.inputs]))])
    body += [line for piece in pieces for line in piece.after]
    for number, term in enumerate(waiting):
        together = f"torch.cat([{', '.join(piece.means[term] for piece in pieces if term in piece.means)}], -1)"
        body += added_up(first.losses[0], term, f"{together}.index_select(-1, places[{number}])", "sums")
    head = f"def {NAME}(kinds: List[int], {lists}, places: List[Tensor], {others}):"
    source = "\n".join([head, *indented(body)]) + "\n"
    each = tuple(tuple(piece.each.get(term, 0) for piece in pieces) for term in waiting)
    return JointProgram(tuple(programs), source, each, compiled(source), tuple(constant for _, constant in constants))


@functools.lru_cache(maxsize=256)
def _places(stretches: tuple[tuple[int, int], ...], each: tuple[int, ...]) -> Tensor:
    """Where each value is among those of all steps of the first kind, then of the second, and so on.

    Args:
        stretches: by stretch the kind and the number of its steps.
        each: by kind, how many values a step has.
    """
    counts = torch.tensor([steps * each[kind] for kind, steps in stretches])
    kinds = torch.tensor([kind for kind, _ in stretches]).repeat_interleave(counts)
    return kinds.argsort(stable=True).argsort()
