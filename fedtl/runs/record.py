"""Writing a run's folder, so that it can be read while the run goes on and resumed after any crash."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from fedtl.config.schema import Config
from fedtl.disk import durable
from fedtl.disk.durable import Settler, put, settle
from fedtl.disk.memories import MemoryStore
from fedtl.disk.tensors import DamagedError, save_tensors
from fedtl.failure import OutputError
from fedtl.runs.best import BestRound, Point, Stopped
from fedtl.runs.checkpoint import (
    CHECKPOINT,
    LATEST,
    SETTLED,
    Checkpoint,
    CheckpointHeader,
    Extent,
    Vector,
    read_header,
    tensors_of,
    tidy,
    write_checkpoint,
    write_mark,
)
from fedtl.runs.lock import RunLock
from fedtl.runs.resume import BEST, CLIENTS, CONFIG, MEMORIES, MODEL, RECORDS, ROUNDS, TABLES, check_new, cut, digest
from fedtl.server.report import Round

ENVIRONMENT, EXTRAS, OPERATIONS = "environment.json", "extras.safetensors", "operations.json"

FINAL = (MODEL, EXTRAS, BEST)
"""Written once all rounds are finished, and there only then: readers take their presence for it."""

STOPPED = "stopped"
"""In ``environment.json``: how the run ended before its last round."""


class Recorder:
    """Writes one run.

    ``rounds.jsonl`` and ``clients.jsonl`` are appended to, then ``checkpoint.json`` is renamed into place; what a
    crash left behind the last checkpoint is cut off when the run goes on. Nothing is pickled.

    Args:
        folder: the run's.
        durable: wait until the disk has each round, as real clients' runs do. A simulated run waits beside its
            training, now and then, and once it is finished: what a power cut takes of it can be computed again.
        lock: the right to write the folder, which is released with :meth:`close`; None where one process alone knows
            of the folder.
    """

    def __init__(self, folder: Path, durable: bool = False, lock: RunLock | None = None) -> None:
        self.folder, self.durable = folder, durable
        self.elapsed = 0.0
        self.settled: tuple[int, ...] = ()
        """Rounds whose memories a run needs after a power cut: of the checkpoint that the disk has, and of the next."""
        self.best: BestRound | None = None
        """Which round's models are kept besides the last one's; it knows the rounds so far. None for no such round."""
        self._lock = lock
        self._digest: str | None = None
        self._extents = dict.fromkeys(RECORDS, Extent())
        self._settler = None if durable else Settler()
        self._noting = Lock()

    @property
    def memories(self) -> Path:
        """Where clients' memories are."""
        return self.folder / MEMORIES

    @property
    def kept(self) -> tuple[int, ...]:
        """Rounds whose checkpoints and memories stay besides the last one's: settled ones, and the best as of each."""
        return tuple(sorted({*self.settled, *self._best_until(None, *self.settled)}))

    def _best_until(self, *rounds: int | None) -> set[int]:
        """The best rounds as of some rounds, None for the last one; of a run that keeps none, nothing."""
        points = [] if self.best is None else [self.best.until(round) for round in rounds]
        return {point.round for point in points if point is not None}

    def begin(self, config: Config, environment: Mapping[str, Any]) -> None:
        """Make the folder of a new run.

        Raises:
            ConfigError: it holds a run already.
        """
        check_new(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._describe(config, environment)
            for name in RECORDS:
                (self.folder / name).touch()

    def resume(self, config: Config, environment: Mapping[str, Any], mark: CheckpointHeader | None) -> None:
        """Go back to a checkpoint: cut off what was written after it; to the beginning if there is none."""
        self.elapsed = mark.elapsed if mark else 0.0
        with writing(self.folder):
            self._extents = cut(self.folder, mark)
            for left in (*self.folder.glob("*.unfinished"), *self.folder.glob(f"{CHECKPOINT}/*.unfinished")):
                left.unlink(missing_ok=True)
            if STOPPED not in environment and (mark.round if mark else 0) < config.rounds:
                for name in FINAL:  # of a run that was finished with fewer rounds, whose models the checkpoint has too
                    (self.folder / name).unlink(missing_ok=True)
            settled = self._settled_before(mark)
            self._describe_anew(config, environment)
            if mark is not None and settled is None and self._settler is not None:
                # Else a power cut could take all rounds, now that the last checkpoint is about to be replaced.
                settled = replace(mark, config=self._digest, records=dict(self._extents))
                self._settle(settled)
        self.settled = () if settled is None else (settled.round,)

    def _settled_before(self, mark: CheckpointHeader | None) -> CheckpointHeader | None:
        """The checkpoint that the disk has for sure, of no later round than the one that the run goes on from."""
        settled = self._mark(SETTLED)
        if mark is None or settled is None or settled.round > mark.round:
            (self.folder / CHECKPOINT / SETTLED).unlink(missing_ok=True)
            return None
        return settled

    def _describe_anew(self, config: Config, environment: Mapping[str, Any]) -> None:
        """Replace the description of a run that goes on, which another version of fedtl may put in other words.

        A checkpoint says which description it belongs to. It says nothing while the two change, so that the run can be
        resumed at every instant.
        """
        place, new = self.folder / CHECKPOINT, digest(config.tables())
        stale = {
            name: mark for name in (LATEST, SETTLED) if (mark := self._mark(name)) and mark.config not in (None, new)
        }
        for name, mark in stale.items():
            write_mark(place / name, replace(mark, config=None))
        self._describe(config, environment)
        for name, mark in stale.items():
            write_mark(place / name, replace(mark, config=new))

    def _mark(self, name: str) -> CheckpointHeader | None:
        try:
            return read_header(self.folder, name)
        except DamagedError:
            return None

    def _describe(self, config: Config, environment: Mapping[str, Any]) -> None:
        self._digest = digest(config.tables())
        self._replace(ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
        self._replace(CONFIG, config.toml())

    def round(self, report: Round, w: Vector, state: Mapping[str, Vector]) -> None:
        """Write a finished round, and then that it is finished."""
        self.elapsed += report.seconds
        line = {
            "round": report.round,
            "seconds": report.seconds,
            "seconds_scoring": report.seconds_scoring,
            "elapsed": self.elapsed,
            "clients": report.clients,
            "failures": [{"client": client, "message": text} for client, text in report.failures],
            "bytes_down": report.bytes_down,
            "bytes_up": report.bytes_up,
            "steps": report.steps,
            "trained": report.trained,
            "train": report.train,
        }
        if report.sends_more_than_a_model:
            line["bytes"] = report.bytes_by_name
        if report.scores:
            line["scores"] = report.scores
        if report.profile:
            line["profile"] = report.profile
        with writing(self.folder):
            if self._lock is not None:
                self._lock.check()
            if report.client_scores:
                first, *others = report.client_scores
                line_of_clients = {"round": report.round, **first.by_client()}
                for scores in others:
                    line_of_clients[scores.data.removesuffix("-clients")] = scores.by_client()
                self._append(CLIENTS, line_of_clients)
            self._append(ROUNDS, line)
            if self.best is not None:
                self.best.add(report.round, report.scores)
            self.checkpoint(Checkpoint(report.round, w, dict(state), self.elapsed))

    def finish(
        self, tensors: Mapping[str, NDArray[Any]], name: str = MODEL, about: Mapping[str, str] | None = None
    ) -> None:
        """Write a global model under the module's own names, or what goes with it; ``about`` is metadata."""
        with writing(self.folder):
            self._replace_tensors(name, dict(tensors), about)

    def about_best(self, point: Point) -> dict[str, str]:
        """Of which round the best model is, and by which score, as its file says it."""
        assert self.best is not None
        followed = self.best.followed
        lacking = self.best.lacking.get(point.round)
        return {
            "round": str(point.round),
            "score": followed.score,
            "metric": followed.metric,
            "value": repr(point.value),
            **({} if lacking is None else {"over": str(lacking)}),
        }

    def stopped(self, environment: Mapping[str, Any], how: Stopped) -> None:
        """Write that the run has ended before its last round."""
        with writing(self.folder):
            self._replace(ENVIRONMENT, json.dumps({**environment, STOPPED: how._asdict()}, indent=2) + "\n")

    def note(self, text: str) -> None:
        """Add a sentence to what is to be known of the run."""
        with writing(self.folder), self._noting:
            environment = json.loads((self.folder / ENVIRONMENT).read_text(encoding="utf-8"))
            environment["notes"] = [*environment.get("notes", ()), text]
            self._replace(ENVIRONMENT, json.dumps(environment, indent=2) + "\n")

    def operations(self, profile: Mapping[str, Any]) -> None:
        """Write what recorded steps consist of."""
        with writing(self.folder):
            self._replace(OPERATIONS, _json(profile))

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write where the run stands, in place of what stood there before."""
        mark = write_checkpoint(self.folder, checkpoint, self._digest, self._extents, self.durable)
        if self._settler is not None and self._settler.due:
            self.settled = (*self.settled[-1:], mark.round)
            self._settler.submit(lambda: self._settle(mark))
        tidy(self.folder, {mark.tensors, *map(tensors_of, self.kept)}, marks=())

    def __enter__(self) -> Recorder:
        """Write until the ``with`` block's end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait until the disk has all that was written, unless the run has failed; let others write the folder."""
        try:
            if self._settler is not None:
                with suppress(OSError) if error else writing(self.folder):
                    self._settler.close()
                    if not error:
                        self._settle_at_the_end()
        finally:
            if self._lock is not None:
                self._lock.release()

    @property
    def _keeps_rows(self) -> bool:
        """Whether clients' memories or the server's rows lie in the folder, in files of their own."""
        return self.memories.exists() or (self.folder / TABLES).exists()

    def _settle(self, mark: CheckpointHeader) -> None:
        """Wait until the disk has the run up to a checkpoint, and then say so."""
        if self._keeps_rows:
            durable.settle_all(self.folder)
        else:
            tensors = {mark.tensors, *map(tensors_of, self._best_until(mark.round))}
            for name in (*RECORDS, *(f"{CHECKPOINT}/{each}" for each in tensors), "", CHECKPOINT):
                settle(self.folder / name)
        write_mark(self.folder / CHECKPOINT / SETTLED, mark, durable=True)

    def _settle_at_the_end(self) -> None:
        """The last checkpoint is then what the disk has for sure, and needs no other beside it."""
        place = self.folder / CHECKPOINT
        if self._keeps_rows:
            durable.settle_all(self.folder)
        else:
            ours = (*RECORDS, CONFIG, ENVIRONMENT, MODEL, BEST, EXTRAS, OPERATIONS)
            for file in (*(self.folder / name for name in ours), *place.glob("*.safetensors"), place / LATEST):
                if file.is_file():
                    settle(file)
            for folder in (place, self.folder):
                if folder.is_dir():
                    settle(folder)
        (place / SETTLED).unlink(missing_ok=True)
        best = self._best_until(None)
        if place.exists():
            tidy(self.folder, {*map(tensors_of, best)})
        if self.settled or self.best is not None:
            for rows in (self.memories, self.folder / TABLES):
                MemoryStore(rows).forget_kept([*best])
            self.settled = ()

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        data = _json(line).encode()
        with (self.folder / name).open("r+b") as file:  # not "a", which would make a deleted file anew
            file.seek(self._extents[name].size)
            file.write(data)
        self._extents[name] = self._extents[name].and_then(data)
        if self.durable:
            settle(self.folder / name)

    def _replace(self, name: str, text: str) -> None:
        unfinished = self.folder / f"{name}.unfinished"
        unfinished.write_text(text, encoding="utf-8")
        put(unfinished, self.folder / name, self.durable)

    def _replace_tensors(
        self, name: str, tensors: dict[str, NDArray[Any]], about: Mapping[str, str] | None = None
    ) -> None:
        unfinished = self.folder / f"{name}.unfinished"
        save_tensors(unfinished, tensors, about=about)
        put(unfinished, self.folder / name, self.durable)


@contextmanager
def behind(write: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """What writes a round while the next one runs, one at a time and in order; all is written at the end.

    What a write raises is raised by the next one, or at the end.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="fedtl-record") as pool:
        last: Future[None] | None = None

        def later(*arguments: Any) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = pool.submit(write, *arguments)

        try:
            yield later
        finally:
            if last is not None:
                last.result()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable folder into one sentence.

    Raises:
        OutputError: with that sentence.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error


def new_folder(root: Path, config: Config) -> Path:
    """Make a folder for a new run, ``root/<name>/<time>-<seed>``, that no other run has."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.seed}"
    folder, again = root / config.name / stem, 1
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                folder, again = root / config.name / f"{stem}.{again}", again + 1


def environment(**about: Any) -> dict[str, Any]:
    """What a run's numbers may depend on besides its config."""
    packages = ("fedtl", "flwr", "ray", "torch", "torchvision", "numpy", "scikit-learn")
    return {
        "command": sys.argv,
        "started": datetime.now().astimezone().isoformat(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {name: _version(name) for name in packages},
        "commit": _commit(),
        **about,
    }


@functools.cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache  # what a process has imported stays as it was
def _commit() -> str | None:
    """The commit of fedtl's own checkout, with ``+`` where files differ from it; None for an installed package."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=5, check=True).stdout

    try:
        if not git("ls-files", "--", "record.py"):
            return None  # installed into somebody else's checkout
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _json(line: Mapping[str, Any]) -> str:
    return json.dumps(_finite(line), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not a number becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
