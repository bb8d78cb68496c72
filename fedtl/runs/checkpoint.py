"""Where a run stands: its last finished round, and the last one that a power cut leaves whole.

``checkpoint/checkpoint.json`` names the tensors of the last finished round. It is renamed into place after each round,
so a killed process loses none. Waiting for the disk after each round would take longer than many rounds do: that
happens now and then, beside the training, and ``checkpoint/settled.json`` names the round that the disk has for sure.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.disk.durable import put
from fedtl.disk.tensors import CHECKSUM, DamagedError, load_tensors, save_tensors, unreadable

Vector = NDArray[np.float32]

CHECKPOINT = "checkpoint"
LATEST, SETTLED = "checkpoint.json", "settled.json"

ORDER = 2
"""Of the numbers in a model's vector; 1, of older versions, has linear layers' weights as ``[out, in]``."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: its last finished round, the global model, what the strategy remembers."""

    round: int
    w: Vector
    state: dict[str, Vector]
    elapsed: float


class Extent(NamedTuple):
    """How much of a file that grows belongs to a round: its first ``size`` bytes, and their CRC-32."""

    size: int = 0
    crc: int = 0

    def and_then(self, data: bytes) -> Extent:
        """The file's extent once ``data`` is appended."""
        return Extent(self.size + len(data), zlib.crc32(data, self.crc))


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint's JSON says.

    Attributes:
        round: the last finished one.
        tensors: the file with the global model and the strategy's state.
        elapsed: seconds that the rounds took.
        config: a digest of the experiment; None in a checkpoint of an older version.
        records: what of each record file belongs to the rounds so far; None likewise.
        order: of the numbers in models' vectors, here and in clients' memories.
    """

    round: int
    tensors: str
    elapsed: float
    config: str | None = None
    records: Mapping[str, Extent] | None = None
    order: int = ORDER


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, config: str | None, records: Mapping[str, Extent], durable: bool = False
) -> CheckpointHeader:
    """Write where a run stands, in place of what stood there before.

    Args:
        folder: the run's.
        checkpoint: where it stands.
        config: a digest of the experiment.
        records: what of each record file belongs to the rounds so far.
        durable: wait until the disk has it.
    """
    place = folder / CHECKPOINT
    place.mkdir(exist_ok=True)
    mark = CheckpointHeader(checkpoint.round, tensors_of(checkpoint.round), checkpoint.elapsed, config, dict(records))
    unfinished = place / f"{mark.tensors}.unfinished"
    tensors = {"w": checkpoint.w, **{f"state.{k}": v for k, v in checkpoint.state.items()}}
    save_tensors(unfinished, tensors, mark.tensors)
    put(unfinished, place / mark.tensors, durable)
    write_mark(place / LATEST, mark, durable)
    return mark


def write_mark(file: Path, mark: CheckpointHeader, durable: bool = False) -> None:
    """Write a checkpoint's JSON, with a checksum of what it says."""
    table: dict[str, Any] = {"round": mark.round, "tensors": mark.tensors, "elapsed": mark.elapsed, "order": mark.order}
    if mark.config is not None:
        table["config"] = mark.config
    if mark.records is not None:
        table["records"] = {name: list(extent) for name, extent in mark.records.items()}
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(json.dumps({**table, CHECKSUM: _checksum(table)}) + "\n", encoding="utf-8")
    put(unfinished, file, durable)


def tensors_of(round: int) -> str:
    """The name of the file with the tensors of a round's checkpoint."""
    return f"{round}.safetensors"


def tidy(folder: Path, needed: Collection[str] = (), marks: Collection[str] = (LATEST, SETTLED)) -> None:
    """Delete the tensors of checkpoints that are no more.

    Args:
        folder: the run's.
        needed: which are to stay.
        marks: checkpoints' JSON files; what they name stays too.
    """
    place = folder / CHECKPOINT
    named = set(needed)
    for name in marks:
        mark = read_header(folder, name)
        named |= {mark.tensors} if mark else set()
    for old in place.glob("*.safetensors"):
        if old.name not in named:
            old.unlink(missing_ok=True)


def read_header(folder: Path, name: str = LATEST) -> CheckpointHeader | None:
    """What a checkpoint's JSON says; None if there is none yet.

    Raises:
        DamagedError: it is not what was written.
    """
    file = folder / CHECKPOINT / name
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise DamagedError(file, "is a folder") from error
    except OSError as error:
        raise unreadable(file, error) from error
    except ValueError as error:
        raise DamagedError(file, "is no whole JSON file") from error
    try:
        written = table.pop(CHECKSUM, None)
        if written is not None and written != _checksum(table):
            raise DamagedError(file, "is damaged, as what it says does not match its checksum")
        records = table.get("records")
        return CheckpointHeader(
            int(table["round"]),
            str(table["tensors"]),
            float(table["elapsed"]),
            table.get("config"),
            None if records is None else {key: Extent(*map(int, extent)) for key, extent in records.items()},
            int(table.get("order", 1)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(file, "does not say where the run stands") from error


def load_checkpoint(folder: Path, mark: CheckpointHeader, numbers: int | None = None) -> Checkpoint:
    """The checkpoint that a mark names.

    Args:
        folder: the run's.
        mark: of which one.
        numbers: how many the global model's vector should have, if that is known.

    Raises:
        ConfigError: an older version wrote it, whose vectors have another order.
        DamagedError: its tensors are not what was written.
    """
    if mark.order != ORDER:
        raise ConfigError(
            f"{folder} is a run of another version of fedtl, whose models' vectors have another order: use that "
            "version to resume or export it, or begin a new run"
        )
    file = folder / CHECKPOINT / mark.tensors
    try:
        tensors = load_tensors(file, mark.tensors)
    except FileNotFoundError as error:
        raise DamagedError(file, "is missing") from error
    if "w" not in tensors or tensors["w"].ndim != 1:
        raise DamagedError(file, "holds no model's vector")
    if numbers is not None and len(tensors["w"]) != numbers:
        raise DamagedError(file, f"holds a model of {len(tensors['w'])} numbers, and this run's has {numbers}")
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    return Checkpoint(mark.round, tensors["w"], state, mark.elapsed)


def at_round(mark: CheckpointHeader, round: int) -> CheckpointHeader:
    """What the mark of an earlier round would say whose tensors are still there."""
    return mark if round == mark.round else replace(mark, round=round, tensors=tensors_of(round))


def read_checkpoint(folder: Path, choose: Callable[[int], int] = lambda last: last) -> Checkpoint | None:
    """A checkpoint of a run, which may be going on; None if it has none yet.

    Args:
        folder: the run's.
        choose: gives the round whose checkpoint is read, which is kept, out of the last finished one.

    Raises:
        DamagedError: it is not what was written.
    """
    while (mark := read_header(folder)) is not None:
        try:
            return load_checkpoint(folder, at_round(mark, choose(mark.round)))
        except DamagedError:
            if read_header(folder) == mark:  # else a run that goes on has just replaced it
                raise
    return None


def last_round(folder: Path) -> int:
    """A run's last finished round; 0 before it has one.

    Raises:
        DamagedError: its checkpoint does not say.
    """
    mark = read_header(folder)
    return mark.round if mark else 0


def _checksum(table: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(table, sort_keys=True).encode())
