"""Writing a run's folder, so that it can be read while the run goes on and gone on with after any crash."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fedtl.choice import ConfigError
from fedtl.config import Config
from fedtl.durable import put, settle
from fedtl.failure import RunError
from fedtl.losses.objective import Objective
from fedtl.strategies.strategy import Round

CHECKPOINT, ROUNDS, CLIENTS, MEMORIES, MODEL, EXTRAS, OPERATIONS = (
    "checkpoint",
    "rounds.jsonl",
    "clients.jsonl",
    "memories",
    "model.safetensors",
    "extras.safetensors",
    "operations.json",
)

Vector = NDArray[np.float32]


class OutputError(RunError):
    """The run's folder cannot be written."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: its last finished round, the global model, what the strategy remembers."""

    round: int
    w: Vector
    state: dict[str, Vector]
    elapsed: float


class Recorder:
    """Writes one run.

    ``rounds.jsonl`` and ``clients.jsonl`` are appended to, then ``checkpoint/`` is renamed into place; what a
    crash left behind the last checkpoint is cut off when the run goes on. Nothing is pickled.

    Args:
        folder: the run's.
        durable: wait until the disk has what is written, so that a power cut loses no finished round either.
    """

    def __init__(self, folder: Path, durable: bool = False) -> None:
        self.folder, self.durable = folder, durable
        self.elapsed = 0.0

    @property
    def memories(self) -> Path:
        """Where clients' memories are."""
        return self.folder / MEMORIES

    def begin(self, config: Config, environment: Mapping[str, Any]) -> None:
        """Make the folder of a new run.

        Raises:
            ConfigError: it holds a run already.
        """
        check_new(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._replace("environment.json", json.dumps(environment, indent=2) + "\n")
            self._replace("config.toml", config.toml())
            (self.folder / ROUNDS).touch()
            (self.folder / CLIENTS).touch()

    def resume(self, config: Config, environment: Mapping[str, Any]) -> Checkpoint | None:
        """Go back to the last checkpoint: cut off what was written after it. None if there is none yet."""
        found = read_checkpoint(self.folder)
        last = found.round if found else 0
        self.elapsed = found.elapsed if found else 0.0
        with writing(self.folder):
            for name in (ROUNDS, CLIENTS):
                file = self.folder / name
                kept = [line for line in _lines(file) if line["round"] <= last] if file.exists() else []
                self._replace(name, "".join(_json(line) for line in kept))
            self._replace("environment.json", json.dumps(environment, indent=2) + "\n")
            self._replace("config.toml", config.toml())
        return found

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
            "train": report.train,
        }
        if report.scores:
            line["scores"] = report.scores
        if report.profile:
            line["profile"] = report.profile
        with writing(self.folder):
            if report.client_scores:
                own, *target = (scores.by_client() for scores in report.client_scores)
                line_of_clients = {"round": report.round, **own}
                if target:
                    line_of_clients["target"] = target[0]
                self._append(CLIENTS, line_of_clients)
            self._append(ROUNDS, line)
            self.checkpoint(Checkpoint(report.round, w, dict(state), self.elapsed))

    def finish(self, tensors: Mapping[str, NDArray[Any]], name: str = MODEL) -> None:
        """Write the final global model under the module's own names, or what goes with it."""
        with writing(self.folder):
            self._replace_tensors(name, dict(tensors))

    def operations(self, found: Mapping[str, Any]) -> None:
        """Write what recorded steps consist of."""
        with writing(self.folder):
            self._replace(OPERATIONS, _json(found))

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write where the run stands, in place of what stood there before."""
        folder = self.folder / CHECKPOINT
        folder.mkdir(exist_ok=True)
        name = f"{checkpoint.round}.safetensors"
        self._replace_tensors(
            f"{CHECKPOINT}/{name}", {"w": checkpoint.w, **{f"state.{k}": v for k, v in checkpoint.state.items()}}
        )
        self._replace(
            f"{CHECKPOINT}/checkpoint.json",
            json.dumps({"round": checkpoint.round, "tensors": name, "elapsed": checkpoint.elapsed}) + "\n",
        )
        for old in folder.glob("*.safetensors"):
            if old.name != name:
                old.unlink()

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(_json(line))
        if self.durable:
            settle(self.folder / name)

    def _replace(self, name: str, text: str) -> None:
        unfinished = self.folder / f"{name}.unfinished"
        unfinished.write_text(text, encoding="utf-8")
        put(unfinished, self.folder / name, self.durable)

    def _replace_tensors(self, name: str, tensors: dict[str, NDArray[Any]]) -> None:
        unfinished = self.folder / f"{name}.unfinished"
        save_file({key: np.asarray(value, order="C") for key, value in tensors.items()}, unfinished)
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


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The last checkpoint of a run, or None if it has none yet."""
    try:
        about = json.loads((folder / CHECKPOINT / "checkpoint.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    tensors = load_file(folder / CHECKPOINT / about["tensors"])
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    return Checkpoint(int(about["round"]), tensors["w"], state, float(about["elapsed"]))


def check_new(folder: Path) -> None:
    """Check that a folder is free for a new run.

    Raises:
        ConfigError: it holds a run already.
    """
    if (folder / "config.toml").exists():
        raise ConfigError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out")


def last_round(folder: Path) -> int:
    """A run's last finished round; 0 before it has one."""
    try:
        about = json.loads((folder / CHECKPOINT / "checkpoint.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0
    return int(about["round"])


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
    except Exception as error:  # safetensors wraps the system's errors in its own
        if type(error).__name__ == "SafetensorError":
            raise OutputError(f"{folder} cannot be written: {error}") from error
        raise


def new_folder(root: Path, config: Config) -> Path:
    """A folder for a new run: ``root/<name>/<time>-<seed>``."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.seed}"
    folder, again = root / config.name / stem, 1
    while folder.exists():
        folder, again = root / config.name / f"{stem}.{again}", again + 1
    return folder


def find_unfinished(root: Path, config: Config) -> Path:
    """The newest run of this config that can be gone on with.

    Raises:
        ConfigError: there is none.
    """
    folders = sorted((root / config.name).glob(f"*-{config.seed}*"), reverse=True)
    for folder in folders:
        if (folder / "config.toml").is_file() and same_experiment(folder, config):
            return folder
    raise ConfigError(
        f"--resume: {root / config.name} holds no run of this config with seed {config.seed}; leave --resume away"
    )


def same_experiment(folder: Path, config: Config) -> bool:
    """Whether a folder's config asks for the same numbers; see :func:`alike`."""
    from fedtl.config import build, load_tables

    try:
        return alike(build(load_tables(folder)), config)
    except ConfigError:
        return False


def alike(one: Config, other: Config) -> bool:
    """Whether two configs ask for the same numbers.

    Only the rounds, where clients live and how they are waited for may differ.
    Where a term's weight follows the rounds' progress, the number of rounds counts too.
    """
    free: dict[str, Any] = {"simulation": other.simulation, "device": other.device}
    if not any(Objective(stage.objective).ramps for stage in other.stages()):
        free["rounds"] = 1
    if one.deploy.privacy == other.deploy.privacy:
        free["deploy"] = other.deploy
    return one.model_copy(update=free) == other.model_copy(update=free)


def environment(**about: Any) -> dict[str, Any]:
    """What a run's numbers may depend on besides its config."""
    packages = ("fedtl", "flwr", "ray", "torch", "torchvision", "numpy", "scikit-learn")
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {name: _version(name) for name in packages},
        "commit": _commit(),
        **about,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a file whose last one a crash may have cut off."""
    *complete, _ = file.read_bytes().split(b"\n")
    for line in complete:
        yield json.loads(line)


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
