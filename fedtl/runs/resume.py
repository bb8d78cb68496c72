"""What an interrupted run is resumed from, checked to be whole before a number is computed from it."""

from __future__ import annotations

import hashlib
import json
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from fedtl.choice import ConfigError
from fedtl.config.earlier import completed
from fedtl.config.overrides import dotted
from fedtl.config.read import build, load_tables
from fedtl.config.schema import Config, Tables
from fedtl.disk.memories import MemoryStore, Sizes
from fedtl.disk.tensors import DamagedError, unreadable
from fedtl.losses.objective import Objective
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.runs.best import BestRound, Followed, Rule
from fedtl.runs.checkpoint import (
    CHECKPOINT,
    LATEST,
    SETTLED,
    Checkpoint,
    CheckpointHeader,
    Extent,
    at_round,
    load_checkpoint,
    read_header,
)

R = TypeVar("R", bound=Rule)

BY_ROUND_ALONE = ("constant", "exponential", "step")
"""Schedules that do not look at how many rounds there are."""

CONFIG, MEMORIES, TABLES = "config.toml", "memories", "tables"
MODEL, BEST = "model.safetensors", "best.safetensors"
ROUNDS, CLIENTS = "rounds.jsonl", "clients.jsonl"

WEIGHTS = "weights"
"""In environment.json: what says of the weights to begin with whether they have changed."""

RECORDS = (CLIENTS, ROUNDS)
"""Files with a line per (scored) round, in the order in which they are written."""


@dataclass(frozen=True)
class Remaining:
    """What of a run is on disk and whole.

    Attributes:
        checkpoint: where the run goes on; None to begin with round 1.
        mark: what its JSON says.
        notes: what was lost and is computed again.
    """

    checkpoint: Checkpoint | None
    mark: CheckpointHeader | None
    notes: tuple[str, ...] = ()


def begun(folder: Path) -> bool:
    """Whether a folder holds a run, or what is left of one."""
    if (folder / CONFIG).exists() or (folder / CHECKPOINT).exists() or (folder / MEMORIES).exists():
        return True
    return any((folder / name).exists() and (folder / name).stat().st_size > 0 for name in RECORDS)


def newest_run(root: Path, config: Config) -> Path | None:
    """The run of this experiment below ``root/<name>`` that was begun or resumed last; None if there is none.

    One that ends early by the same rule comes before one that does by another.
    """
    runs = [file.parent for file in (root / config.name).glob(f"*/{CONFIG}") if same_experiment(file.parent, config)]
    same = [run for run in runs if (read := _config_of(run)) is not None and read.stop == config.stop]
    return max(same or runs, key=_started, default=None)


def unreadable_runs(root: Path, config: Config) -> list[Path]:
    """Runs below ``root/<name>`` of which nobody can tell whether they are of this experiment."""
    return [file.parent for file in sorted((root / config.name).glob(f"*/{CONFIG}")) if _config_of(file.parent) is None]


def _config_of(folder: Path) -> Config | None:
    """A run's config; None if it cannot be read."""
    try:
        return build(load_tables(folder))
    except ConfigError:
        return None


def _started(folder: Path) -> tuple[float, str]:
    """When a run was begun or resumed, in seconds since 1970; its name decides where nobody can tell."""
    try:
        started = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["started"]
        return datetime.fromisoformat(started).timestamp(), folder.name
    except (OSError, ValueError, KeyError, TypeError):
        return (folder / CONFIG).stat().st_mtime, folder.name


def check_split(folder: Path, split: str | None) -> None:
    """Check that clients hold what they held when the run began.

    Args:
        folder: the run's.
        split: the federation's fingerprint; None where clients are elsewhere.

    Raises:
        ConfigError: they hold something else.
    """
    there = _recorded(folder, "split")
    if split is not None and there not in (None, split):
        raise ConfigError(
            f"clients hold other samples than when the run in {folder} began: its data, or the file of its split, have "
            "changed; restore them, or begin a new run"
        )


def check_weights(folder: Path, weights: list[str] | None) -> None:
    """Check that the weights to begin with are what they were when the run began.

    What does not travel, as a network with an adapter in it, is read from them again.

    Args:
        folder: the run's.
        weights: digests of what ``model.pretrained`` names; None where it names nothing.

    Raises:
        ConfigError: they are others.
    """
    there = _recorded(folder, WEIGHTS)
    if weights is not None and there not in (None, weights):
        raise ConfigError(
            f"model.pretrained: the weights that it names are others than when the run in {folder} began; restore "
            "them, or begin a new run"
        )


def _recorded(folder: Path, key: str) -> Any:
    """What ``environment.json`` says; None where it cannot be read, as nothing is computed from it."""
    try:
        return json.loads((folder / "environment.json").read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError, AttributeError):
        return None


def same_experiment(folder: Path, config: Config) -> bool:
    """Whether a folder's config asks for the same numbers; see :func:`alike`."""
    there = _config_of(folder)
    return there is not None and alike(there, config)


def alike(one: Config, other: Config) -> bool:
    """Whether two configs ask for the same numbers.

    Only the rounds, when they end, where clients live, how they are waited for and where numbers are also written to
    may differ.
    Where a term's weight follows the rounds' progress, the number of rounds counts too.
    """
    return one.model_copy(update=_free(one, other)) == other.model_copy(update=_free(one, other))


def _free(one: Config, other: Config) -> dict[str, Any]:
    """What may differ between two configs of one run, made alike."""
    free: dict[str, Any] = {key: getattr(other, key) for key in ("simulation", "device", "stop", "tracking")}
    if not any(Objective(stage.objective).ramps or _follows_rounds(stage.strategy) for stage in other.stages()):
        free["rounds"] = 1
    if one.deploy.privacy == other.deploy.privacy:
        free["deploy"] = other.deploy
    return free


def _follows_rounds(options: object) -> bool:
    """Whether clients' learning rates depend on how many rounds there are in all."""
    return isinstance(options, OptimizerSettings) and options.schedule.follows_rounds


def digest(tables: Tables) -> str:
    """What says whether a config as it was written still asks for the same numbers."""
    free = {"simulation", "device", "deploy", "stop", "tracking"} | ({"rounds"} if not _ramps(tables) else set())
    kept = {key: value for key, value in tables.items() if key not in free}
    deploy = tables.get("deploy")
    kept["privacy"] = deploy.get("privacy") if isinstance(deploy, Mapping) else deploy
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _ramps(value: Any) -> bool:
    """Whether a term's weight or a learning rate follows the rounds' progress, in a config as it was written."""
    if isinstance(value, Mapping):
        schedule = value.get("schedule")
        name = schedule.get("name") if isinstance(schedule, Mapping) else schedule
        whole = isinstance(name, str) and name not in BY_ROUND_ALONE and not _rounds_of(schedule)
        return "ramp" in value or whole or any(_ramps(inner) for inner in value.values())
    return isinstance(value, (list, tuple)) and any(_ramps(inner) for inner in value)


def _rounds_of(schedule: object) -> bool:
    return isinstance(schedule, Mapping) and schedule.get("rounds") is not None


def check_config(folder: Path, config: Config, named: bool) -> tuple[str, ...]:
    """Check that a run's folder is one of this experiment, as it was begun.

    Args:
        folder: the run's.
        config: of the run that is to be resumed.
        named: whether the config came from elsewhere than this folder, and so can replace a damaged one.

    Returns:
        Notes of what is written anew.

    Raises:
        ConfigError: it is a run of another experiment, and the first key that differs.
        DamagedError: its config is not what was written.
    """
    written, file = _digest_of_run(folder), folder / CONFIG
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        intact = written is None or written == digest(tables)
    except PermissionError as error:
        raise unreadable(file, error) from error
    except (OSError, ValueError):
        tables, intact = {}, False
    if not intact:
        if named and written == digest(config.tables()):
            return (f"{file} is not what the run began with: written anew",)
        raise DamagedError(file, "is missing" if not file.exists() else "is not what the run was begun with")
    try:
        before = build(completed(tables))
    except ConfigError as error:
        raise ConfigError(f"--resume: {file} is no config that this version of fedtl can read: {error}") from error
    if not alike(before, config):
        key, old, new = _first_difference(before, config)
        raise ConfigError(
            f"--resume: {folder} is a run of another config: {key} is {old} there and {new} here; only rounds (where "
            "no weight follows them), stop, simulation, device and tracking may change"
        )
    return ()


def _digest_of_run(folder: Path) -> str | None:
    """What the last whole checkpoint says of the config."""
    for name in (LATEST, SETTLED):
        try:
            mark = read_header(folder, name)
        except DamagedError:
            continue
        if mark is not None:
            return mark.config
    return None


def _first_difference(one: Config, other: Config) -> tuple[str, str, str]:
    """The first key in which two configs differ, and its values."""
    free = _free(one, other)
    pairs = [dotted(each.model_copy(update=free).tables()) for each in (one, other)]
    for key in {**pairs[0], **pairs[1]}:
        values = [pair.get(key, "not given") for pair in pairs]
        if values[0] != values[1]:
            return key, *(str(value) if value == "not given" else repr(value) for value in values)  # type: ignore[return-value]
    raise AssertionError("they are alike")


def find(
    folder: Path, numbers: int, sizes: Sizes | None = None, rows: Sizes | None = None, best: Followed | None = None
) -> Remaining:
    """Where a run can go on: at its last checkpoint, or at the one before it if that alone is whole.

    Args:
        folder: the run's.
        numbers: how many of the model travel.
        sizes: what clients keep; None where their memories are elsewhere.
        rows: what the server keeps of each client that has trained; None where it keeps nothing.
        best: the score whose best round's models are kept besides; None where none are.

    Raises:
        DamagedError: no checkpoint is whole; the error is of the last one.
    """
    damage: DamagedError | None = None
    for name in (LATEST, SETTLED):
        try:
            mark = read_header(folder, name)
            if mark is None:
                continue
            checkpoint = load_checkpoint(folder, mark, numbers)
            check_records(folder, mark)
            marks = [mark, *_mark_of_best(folder, mark, best)]
            for each in marks[1:]:
                load_checkpoint(folder, each, numbers)
            for each, (place, kept) in product(marks, ((MEMORIES, sizes), (TABLES, rows))):
                if kept is not None:
                    MemoryStore(folder / place).verify(last_trained(folder, each, kept), each.round, kept)
        except DamagedError as error:
            damage = damage or error
            continue
        if name == SETTLED and damage is None:
            damage = DamagedError(folder / CHECKPOINT / LATEST, "is missing")
        return Remaining(checkpoint, mark, _notes(damage, mark))
    if damage is not None:
        raise damage
    _check_nothing_finished(folder)
    return Remaining(None, None)


def _mark_of_best(folder: Path, mark: CheckpointHeader, best: Followed | None) -> list[CheckpointHeader]:
    """The mark of the best round up to a checkpoint's, where that is an earlier one and kept."""
    point = None if best is None else follow(BestRound(best), folder, mark).until()
    return [] if point is None or point.round == mark.round else [at_round(mark, point.round)]


def follow(rule: R, folder: Path, mark: CheckpointHeader) -> R:
    """Let a rule see the scores of the rounds up to a checkpoint's; gives the rule.

    Raises:
        DamagedError: the record is no longer whole.
    """
    for line in lines(folder / ROUNDS, None if mark.records is None else mark.records[ROUNDS].size):
        if line["round"] <= mark.round:
            rule.add(line["round"], line.get("scores") or {})
    return rule


def _notes(damage: DamagedError | None, mark: CheckpointHeader) -> tuple[str, ...]:
    if damage is None:
        return ()
    return (
        f"{damage.file} {damage.what}: going back to round {mark.round}, the last one that is whole on disk; later "
        "rounds are computed again",
    )


def _check_nothing_finished(folder: Path) -> None:
    """Check that a run without a checkpoint has lost none: one round may have been written when it ended."""
    file = folder / ROUNDS
    if file.exists() and file.read_bytes().count(b"\n") > 1:
        raise DamagedError(folder / CHECKPOINT / LATEST, f"is missing, though {ROUNDS} has finished rounds")


def check_records(folder: Path, mark: CheckpointHeader) -> None:
    """Check that the record files hold all rounds up to a checkpoint's, as they were written.

    Raises:
        DamagedError: they do not.
    """
    if mark.records is None:  # of an older version
        written = {line["round"] for line in lines(folder / ROUNDS)}
        missing = sorted({*range(1, mark.round + 1)} - written)
        if missing:
            raise DamagedError(folder / ROUNDS, f"has no line for round {missing[0]}")
        return
    for name, extent in mark.records.items():
        file = folder / name
        try:
            data = file.read_bytes()
        except FileNotFoundError as error:
            if not extent.size:
                continue
            raise DamagedError(file, "is missing") from error
        except IsADirectoryError as error:
            raise DamagedError(file, "is a folder") from error
        except OSError as error:
            raise unreadable(file, error) from error
        if len(data) < extent.size:
            raise DamagedError(file, f"is cut off: its lines end before those of round {mark.round}, the last finished")
        if zlib.crc32(data[: extent.size]) != extent.crc:
            raise DamagedError(file, f"is not what was written up to round {mark.round}")


def last_trained(folder: Path, mark: CheckpointHeader, sizes: Sizes) -> dict[int, int]:
    """For each client that keeps a memory, the last round up to a checkpoint's in which it trained.

    Raises:
        DamagedError: the record does not say.
    """
    file, last = folder / ROUNDS, dict[int, int]()
    for line in lines(file, None if mark.records is None else mark.records[ROUNDS].size):
        round = line["round"]
        if round > mark.round:
            break
        try:
            failed = {each["client"] for each in line["failures"] if not each["message"].startswith("scoring:")}
            last |= {client: round for client in line["clients"] if client not in failed and sizes(client, round)}
        except (KeyError, TypeError, AttributeError) as error:  # another record, or one that was edited
            raise DamagedError(file, f"does not say who trained in round {round}") from error
    return last


def lines(file: Path, size: int | None = None) -> Iterator[dict[str, Any]]:
    """The complete lines of a record file whose last one a crash may have cut off.

    Args:
        file: the record.
        size: how many of its bytes count; all if None.

    Raises:
        DamagedError: the file is missing, or another line is no record of a round.
    """
    try:
        *complete, _ = file.read_bytes()[:size].split(b"\n")
    except FileNotFoundError as error:
        raise DamagedError(file, "is missing") from error
    except IsADirectoryError as error:
        raise DamagedError(file, "is a folder") from error
    except OSError as error:
        raise unreadable(file, error) from error
    for number, text in enumerate(complete, start=1):
        try:
            line = json.loads(text)
            line["round"] = int(line["round"])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            if number == len(complete):
                return  # what a power cut left of a block
            raise DamagedError(file, f"has no record of a round in line {number}") from error
        yield line


def cut(folder: Path, mark: CheckpointHeader | None) -> dict[str, Extent]:
    """Cut off what was recorded after a checkpoint; gives what is left of each record file."""
    extents = {}
    for name in RECORDS:
        file = folder / name
        if mark is not None and mark.records is not None:
            extent = mark.records.get(name, Extent())
        else:
            extent = _lines_until(file, 0 if mark is None else mark.round)
        file.touch()
        with file.open("r+b") as opened:
            opened.truncate(extent.size)
        extents[name] = extent
    return extents


def _lines_until(file: Path, round: int) -> Extent:
    """The lines of rounds up to this one, which stand before all others."""
    extent = Extent()
    if round and file.exists():
        for text in file.read_bytes().splitlines(keepends=True):
            try:
                if not text.endswith(b"\n") or json.loads(text)["round"] > round:
                    break
            except (ValueError, TypeError, KeyError):
                break
            extent = extent.and_then(text)
    return extent


def check_new(folder: Path) -> None:
    """Check that a folder is free for a new run.

    Raises:
        ConfigError: it holds a run already.
    """
    if begun(folder):
        raise ConfigError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out")
