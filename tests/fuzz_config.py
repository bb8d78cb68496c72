"""Configs with something wrong in them: each is refused in one sentence, or runs and gives finite numbers.

``python -m tests.fuzz_config --count 600 --seed 0`` mutates configs at random places by random values, and prints what
is neither; ``--only 17`` is that one alone, with its traceback. A mutation is made by (seed, its number) alone.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import datetime
import io
import itertools
import json
import math
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomli_w
from pydantic import BaseModel
from safetensors.numpy import load_file

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build, load_tables, read_config, shipped_configs
from fedtl.config.schema import Config
from fedtl.data.partitions import PARTITIONS
from fedtl.failure import RunError
from fedtl.losses.objective import TERMS
from fedtl.optimizers import SERVER_OPTIMIZERS
from tests.parts import METHODS, OF_CLASSES

Tables = dict[str, Any]
Path_ = tuple[str | int, ...]

SECONDS = 60
"""After which a run counts as one that hangs."""

# What a mutated config is made of.

TINY: Tables = {
    "name": "fuzz",
    "rounds": 1,
    "device": "cpu",
    "data": {"name": "digits", "clients": 3, "samples": 150},
    "model": {"name": "mlp", "hidden": [8]},
    "strategy": {"name": "fedavg", "lr": 0.05, "local_steps": 2, "batch_size": 8},
    "simulation": {"grid": "in-process"},
}
FULL: Tables = {
    "data": {
        **TINY["data"],
        "target": {"name": "digits", "samples": 120, "transform": {"invert": True}},
        "public": {"name": "digits", "samples": 40},
    },
    "views": {},
    "replay": {"classes": "all", "per_class": 2, "steps": 2, "after": 0},
}
PRIVACY = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5}


def without(key: str) -> Tables:
    return {other: value for other, value in TINY.items() if other != key}


def bases() -> list[Tables]:
    """Valid configs: those that ship, and a small one for each of fedtl's parts."""
    configs = [load_tables(name) for name in shipped_configs()]
    for method, options in METHODS.items():
        strategy = {"name": method, "batch_size": 8, "clients_per_round": 2, "local_steps": 2, **options}
        if method == "feddf":
            strategy |= {"distill_steps": 2}
        configs.append({**TINY, "data": FULL["data"], "strategy": strategy})
    configs += [
        {**TINY, **FULL, "objective": [{"term": "cross_entropy"}, {"term": term, "name": "it", "weight": 0.1}]}
        for term in OF_CLASSES
    ]
    many = {**TINY["data"], "clients": 10, "samples": 600}
    configs += [
        {**TINY, "data": {**many, "partition": {"name": partition}}}
        for partition in PARTITIONS
        if partition not in ("natural", "file", "flwr-datasets")  # of data that say it, of a file, and of an extra
    ]
    configs += [{**TINY, "strategy": {**TINY["strategy"], "server": {"name": name}}} for name in SERVER_OPTIMIZERS]
    configs += [{**TINY, "model": {"name": name}} for name in ("logistic", "mlp", "cnn", "lenet5", "resnet18-gn")]
    validated = {**TINY["data"], "validation_share": 0.2}
    stop = {"patience": 1, "metric": "loss", "min_delta": 0.1, "score": "global/validation-clients"}
    phase = {"rounds": 1, "objective": [{"term": "cross_entropy"}]}
    later = {**phase, "name": "b", "strategy": {"lr": 0.01}, "restart": True}
    configs += [
        {**without("rounds"), "phases": [phase, later]},
        {**TINY, "data": {"name": "synthetic", "clients": 3, "dimension": 5, "classes": 3, "sizes": 12}},
        {**without("model"), "strategy": {**METHODS["local"], "name": "local"}, "models": [{"name": "mlp"}] * 2},
        {**TINY, "deploy": {"privacy": PRIVACY, "min_clients": 2}},
        {**TINY, "data": {**TINY["data"], "transform": {"rotate": 10.0}, "size": 8, "channels": 1}},
        {**TINY, "data": {**TINY["data"], "labelled_fraction": 0.5}},
        {**TINY, "strategy": {**TINY["strategy"], "private": ["head"], "frozen": []}},
        {**TINY, "views": {"transforms": [{"name": "RandomHorizontalFlip"}], "per_image": False}},
        {**TINY, "objective": [{"term": "cross_entropy", "ramp": {"shape": "linear", "start": 0.1}}]},
        {**TINY, "evaluate": {"every": 1, "personal": "stored", "clients": 2}},
        {**TINY, "rounds": 3, "data": validated, "stop": stop, "evaluate": {"keep_best": "loss"}},
    ]
    return configs


class Date(NamedTuple):
    """TOML's kinds of time."""

    day: datetime.date = datetime.date(2024, 2, 29)
    moment: datetime.datetime = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    time: datetime.time = datetime.time(12)


VALUES: list[Any] = [
    *(0, -1, 1, 2, 7, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**64), 10**9, 10**30),
    *(0.0, -0.0, 0.5, 1.0, 1.5, 3.0, 1e-300, 1e-45, 1e-8, 1e5, 1e39, 1e300, -1e300),
    *(math.nan, math.inf, -math.inf, True, False),
    *("", " ", "a b", "auto", "none", "None", "true", "1", "0.5", "nan", "1e3", "ünï☃", "a\nb", "\x00", "x" * 5000),
    *("head", "features", "batch-norm", "../../etc", "/", "-", ".", "fedavg", "mlp", "iid", "cross_entropy", "adam"),
    *(
        "no.such:Thing",
        "os:path",
        "json:loads",
        "fedtl.config.schema:Config",
        ":",
        "a:",
        ":a",
        "a:b:c",
        "..:x",
        "__main__:X",
    ),
    *("tests.broken.exits:X", "tests.broken.raises:X"),
    *(f"tests.broken.parts:{name}" for name in ("number", "function", "returns_none", "exits", "Nothing", "lazy.x")),
    *(f"tests.broken.parts:{name}" for name in ("NoValue", "RaisesWhenRead", "Absent")),
    *([], [1], [0], [-1], [[]], [{}], ["a"], [True], [1.5], [None], ["head", "head"], [2**64], [math.nan], [""]),
    *([0] * 3000, ["x"] * 3000, [[1, [2, [3]]]], [{"name": "x"}], [{"term": 1}], [{"rounds": 1}]),
    *({}, {"name": 5}, {"name": ""}, {"name": []}, {"name": {}}, {"name": "x"}, {"a": {"b": {"c": []}}}, {"": 1}),
    *({"name": "momentum", "lr": 1e39}, {"term": "l2"}, {"rounds": 1}, {"shape": "dann"}, {"name": "digits"}),
    *Date(),
]
WORDS = sorted(
    {"auto", "none", "ray", "cpu", "all", "train", "server", "client", "uniform", "samples", "fresh", "last", "pixel"}
    | {"dataset", "linear", "step", "dann", "paper", "mean", "sum", "features", "logits", "probabilities", "target"}
    | {
        "biased",
        "unbiased",
        "circular",
        "median",
        "global",
        "previous",
        "phase",
        "initial",
        "authors",
        "labels",
        "soft",
    }
    | {"tanh", "sigmoid", "mae", "mse", "kl", "cosine", "constant", "public", "source", "w", "theta", "local", "kept"}
    | {*METHODS, *TERMS, *PARTITIONS, *SERVER_OPTIMIZERS, "mlp", "logistic", "cnn", "digits", "synthetic"}
)
STRANGE_KEYS = ("", " ", "x", "name ", "NAME", "ünï", "a.b", "0", "__class__", "model_config", "term", "name")


def places(config: Config) -> list[Path_]:
    """Every key that a config has or may have."""

    def below(value: Any, at: Path_) -> Iterator[Path_]:
        if isinstance(value, BaseModel):
            for name in type(value).model_fields:
                yield (*at, name)
                yield from below(getattr(value, name), (*at, name))
        elif isinstance(value, (list, tuple)):
            for i, inner in enumerate(value):
                yield (*at, i)
                yield from below(inner, (*at, i))

    return list(below(config, ()))


def mutated(all_of_them: list[Tables], seed: int, number: int) -> tuple[Tables, list[str], list[Path_]]:
    """One of the configs, with something changed in one place or two; overrides of it; and where they change it."""
    rng = random.Random(f"{seed}:{number}")
    tables = copy.deepcopy(rng.choice(all_of_them))
    config = build(tables)
    there, resolved, changed, overrides = places(config), config.tables(), list[Path_](), list[str]()
    for _ in range(1 + (rng.random() < 0.25)):
        path, kind = rng.choice(there), rng.random()
        if kind < 0.08:
            path = (*path[:-1], rng.choice(STRANGE_KEYS))
        value = rng.choice(VALUES) if kind < 0.6 else like(value_at(resolved, path), rng)
        value = None if 0.08 <= kind < 0.12 else value
        if rng.random() < 0.3 and all(isinstance(part, str) for part in path):
            overrides.append(f"{'.'.join(map(str, path))}={as_typed(value)}")
        else:
            put(tables, path, copy.deepcopy(value))
        changed.append(path)
    return tables, overrides, changed


def as_typed(value: Any) -> str:
    """A value as somebody types it on the command line."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    try:
        return tomli_w.dumps({"it": value}).removeprefix("it = ").strip()
    except TypeError:  # a list with None in it
        return "[none]"


def like(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind, which may well be valid."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([0, 1, 2, 3, 5, value + 1, 2 * value, 10 * value, 1000 * value, -value, float(value)])
    if isinstance(value, float):
        return rng.choice([0.0, 1.0, value / 1e6, value / 3, 2 * value, 100 * value, 1e9 * value, 1e38, 1e-38, -value])
    if isinstance(value, str):
        return rng.choice(WORDS)
    if isinstance(value, list):
        return rng.choice([[], value[:1], 2 * value, [*value, 3], [8, 4], ["head"], ["features"]])
    return rng.choice([1, 2, 0.3, 0.5, 8])


def put(tables: Tables, path: Path_, value: Any) -> None:
    """Set a value in nested tables, which are made where there are none; None takes it away."""
    at: Any = tables
    for part, following in itertools.pairwise(path):
        if isinstance(at, dict):
            if not isinstance(at.get(part), (dict, list)):  # as data.partition = "iid"
                at[part] = [] if isinstance(following, int) else {}
            at = at[part]
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        else:
            return
    last = path[-1]
    if isinstance(at, dict):
        if value is None:
            at.pop(last, None)
        else:
            at[last] = value
    elif isinstance(at, list) and isinstance(last, int):
        at[last : last + 1] = [] if value is None else [value]


# What becomes of it.


class Outcome(NamedTuple):
    """What a config came to.

    Attributes:
        kind: "refused", "ran", "read" (too much work to run it here), or what is wrong.
        text: the sentence, or the traceback.
    """

    kind: str
    text: str = ""

    @property
    def fine(self) -> bool:
        return self.kind in ("refused", "ran", "read", "ended")


def outcome_of(tables: Tables, overrides: list[str], changed: list[Path_], run: bool = True) -> Outcome:
    """Read a config, and run it where that takes little."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), alarm(SECONDS):
            config, _ = read_config(tables, overrides)
            if build(config.tables()) != config:
                return Outcome("reads as another config", repr(changed))
            if not run or not small(config):
                return Outcome("read")
            folder = Path(tempfile.mkdtemp(prefix="fedtl-fuzz-"))
            try:
                fedtl.run(config, out=folder / "run")
                return _finite(folder / "run") or Outcome("ran")
            finally:
                shutil.rmtree(folder)
    except (ConfigError, RunError) as error:
        kind = "refused" if isinstance(error, ConfigError) else "ended"
        return _sentence(str(error), changed, kind)
    except (TimeoutError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome("hangs", traceback.format_exc())
    except BaseException as error:  # SystemExit is a fault as well
        return Outcome(f"{type(error).__name__}", traceback.format_exc())


def _sentence(text: str, changed: list[Path_], kind: str) -> Outcome:
    if not text or "\n" in text or "For further information" in text or "Traceback" in text:
        return Outcome("no sentence", text)
    if len(text) > 700:
        return Outcome("too long a sentence", text)
    words = {word for path in changed for part in path if isinstance(part, str) for word in part.split(".")}
    if kind == "refused" and not any(word in text for word in words):
        return Outcome("names no key", text)
    return Outcome(kind, text)


def _finite(folder: Path) -> Outcome | None:
    for line in (folder / "rounds.jsonl").read_text().splitlines():
        for where, value in numbers(json.loads(line), ""):
            if not math.isfinite(value):
                return Outcome("not finite", f"{where} = {value}")
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not np.isfinite(tensor).all():
            return Outcome("not finite", name)
    return None


def numbers(value: Any, at: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{at}[{i}]")
    elif isinstance(value, float):
        yield at, value


MUCH = {
    "rounds": 3, "local_epochs": 5, "local_steps": 30, "inner_steps": 30, "finetune_steps": 30, "distill_steps": 30,
    "steps": 30, "per_class": 30, "clients": 20, "dimension": 1000, "size": 64, "classes": 1000, "projector": 1000,
    "moments": 30, "width": 8, "groups": 100, "samples": 3000, "kernel": 50, "finetune_epochs": 5, "head_epochs": 5,
    "head_steps": 30,
}  # fmt: skip
"""Above these a run takes long, as it should."""


def small(config: Config) -> bool:
    """Whether a run of a config takes little."""

    def much(value: Any, name: str) -> bool:
        if isinstance(value, dict):
            return any(much(inner, key) for key, inner in value.items())
        if isinstance(value, list):
            return len(value) > 100 or any(much(inner, name) for inner in value)
        if isinstance(value, (int, float)) and name in ("hidden", "channels", "projector"):
            return value > 1000
        return isinstance(value, (int, float)) and name in MUCH and value > MUCH[name]

    tables = config.tables()
    names = {tables["data"]["name"]} | {
        tables["data"].get(part, {}).get("name", "digits") for part in ("target", "public")
    }
    few = names <= {"digits", "synthetic"} and config.simulation.grid == "in-process"
    return few and config.model.name != "resnet18-gn" and not much(tables, "")


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def rings(signum: int, frame: object) -> None:
        raise TimeoutError(f"{seconds} s")

    before = signal.signal(signal.SIGALRM, rings)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--read-only", action="store_true", help="run none")
    options = parser.parse_args()
    all_of_them, counts = bases(), collections.Counter[str]()
    for number in range(options.count) if options.only is None else [options.only]:
        tables, overrides, changed = mutated(all_of_them, options.seed, number)
        outcome = outcome_of(tables, overrides, changed, not options.read_only)
        counts[outcome.kind] += 1
        if not outcome.fine or options.only is not None:
            values = [repr(value_at(tables, path))[:60] for path in changed]
            where = (
                "; ".join(f"{'.'.join(map(str, path))} = {value}" for path, value in zip(changed, values))
                + f" {overrides}"[:200]
            )
            text = (
                outcome.text.strip()
                if options.only is not None
                else (outcome.text.strip().splitlines() or [""])[-1][:200]
            )
            print(f"{number}: {outcome.kind}: {where}: {text}", flush=True)
    print(dict(sorted(counts.items())))
    sys.exit(any(not Outcome(kind).fine for kind in counts))


def value_at(tables: Tables, path: Path_) -> Any:
    """What stands there; None if nothing does."""
    at: Any = tables
    for part in path:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            return None
    return at


if __name__ == "__main__":
    main()
