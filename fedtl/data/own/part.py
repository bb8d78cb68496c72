"""The parts that a participant's own data consist of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtl.data.arrays import Labels
from fedtl.data.columns import Columns
from fedtl.data.dataset import Samples
from fedtl.data.own.cells import CellTable
from fedtl.tasks.outcomes import Outcomes

TRAIN, TEST, TARGET_TRAIN, TARGET_TEST, PUBLIC = "train", "test", "target/train", "target/test", "public"
VALIDATION = "validation"

PARTS = (TRAIN, TEST, TARGET_TRAIN, TARGET_TEST, PUBLIC, VALIDATION)
"""In the order in which they stand in ``Own.x``; also their names on disk."""

LABELLED = (TRAIN, TEST, TARGET_TEST, VALIDATION)
"""Those of which labels are read."""

HELD_OUT = "held-out/"
"""Before the name of a domain that no client has, in the server's parts: one part for each."""

DOMAIN = "domain.txt"
"""The file of a client's folder with the name of its domain."""

FRAME = "frame.json"
"""What the server's folder may say of everybody's samples."""


def has_labels(part: str) -> bool:
    """Whether labels of a part are read."""
    return part in LABELLED or part.startswith(HELD_OUT)


@dataclass(frozen=True)
class Part:
    """One part's samples.

    Attributes:
        where: the file or folder that they are from, for messages.
        x: ``[n, ...]``.
        y: ``[n]``, or None in a part of which no labels are read.
        notes: sentences on what may not be meant as it was read.
        outcomes: what is predicted, where that is no label; ``y`` is then 0 for all.
        columns: of a table, what its columns are called, and after an empty word several columns that are predicted.
        table: of a table, what its columns have become.
        undecided: of a table whose columns become numbers only when all participants' are known, its rows; ``x`` has no
            numbers then, ``[n, 0]``.
        others: of a table, the labels that are class 0 as ``data.positive`` names others; None where it names none.
        places: of samples that were drawn out of a folder, where they stand among all of its samples, ``[n]``.
    """

    where: str
    x: Samples
    y: Labels | None = None
    notes: tuple[str, ...] = ()
    outcomes: Outcomes | None = None
    columns: tuple[str, ...] = ()
    table: Columns | None = None
    undecided: CellTable | None = None
    others: tuple[str, ...] | None = None
    places: NDArray[np.int64] | None = None
