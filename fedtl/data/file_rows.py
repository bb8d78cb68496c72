"""Where samples stand in the files that they are read from, which is what a split of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FileRows:
    """Of samples that need not stand as their files have them, where they stand there.

    The order of samples may follow from options: rows are drawn for testing, put together by their owner, or left out
    for their gaps. Their places in the files do not.

    Attributes:
        place: of each sample among the rows of all files, one after another, ``[n]``; no two the same.
        total: how many rows these are, with those that became no sample.
        drawn: whether samples may be drawn for testing out of a file's rows, so that they stand after the others.
    """

    place: NDArray[np.int64]
    total: int
    drawn: bool

    @property
    def in_order(self) -> bool:
        """Whether the samples are all rows, in the files' order."""
        return len(self.place) == self.total and bool((self.place == np.arange(self.total)).all())

    def part(self, rows: NDArray[np.int64] | slice) -> FileRows:
        """Those of some of the samples."""
        return replace(self, place=self.place[rows])

    def samples(self) -> NDArray[np.int64]:
        """Which sample each row is, ``[total]``; -1 for rows that became none."""
        samples = np.full(self.total, -1)
        samples[self.place] = np.arange(len(self.place))
        return samples


def one_after_another(each: Sequence[tuple[FileRows | None, int]]) -> FileRows | None:
    """Those of several data sets, of each its rows and the number of its samples; None where none has any."""
    if all(rows is None for rows, _ in each):
        return None
    filled = [FileRows(np.arange(n), n, drawn=False) if rows is None else rows for rows, n in each]
    starts = np.cumsum([0, *(rows.total for rows in filled)])
    places = [rows.place + start for rows, start in zip(filled, starts)]
    return FileRows(np.concatenate(places), int(starts[-1]), any(rows.drawn for rows in filled))


Lines = Sequence[tuple[str, NDArray[np.int64]]]
"""Of pieces of files the file, and the line of each of their rows there."""


def rows_by_lines(files: Lines, samples: Lines, *, drawn: bool) -> FileRows:
    """Where samples stand in their files.

    Args:
        files: all rows of all files, in the files' order.
        samples: those that became samples, in the samples' order.
        drawn: as of :class:`FileRows`.
    """
    lines: dict[str, NDArray[np.int64]] = {}
    for file, own in files:
        lines[file] = np.concatenate([lines[file], own]) if file in lines else own
    starts, total = dict[str, int](), 0
    for file, own in lines.items():
        lines[file], starts[file] = np.sort(own), total
        total += len(own)
    places = [starts[file] + np.searchsorted(lines[file], own) for file, own in samples]
    return FileRows(np.concatenate(places).astype(np.int64), total, drawn)
