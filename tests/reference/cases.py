"""A file of reference trajectories: what other people's code does on small inputs, round by round.

The format is explained in ``personalised.md``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedtl.data.federation import Federation, Shards


class NotApplicableError(Exception):
    """A case asks for what this project does not have; the message says what."""


class MissingError(NotApplicableError, KeyError):
    """A case does not say what its adapter asks for."""

    __str__ = Exception.__str__  # not the quoted one of KeyError


class Table(dict[str, Any]):
    """A table of the file: what an adapter asks for and the file does not say is no fault of the method."""

    def __missing__(self, name: str) -> Any:
        raise MissingError(f"there is no {name!r} beside {', '.join(map(repr, self)) or 'nothing'}")


class Hyperparameters(Mapping[str, Any]):
    """A case's hyperparameters, and which of them an adapter has looked at: none may be passed over."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values, self._seen = values, set[str]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise MissingError(f"hyperparameters has no {name!r}")
        self._seen.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def expect(self, **values: Any) -> None:
        """Check hyperparameters that have no counterpart here: each is absent or has this value.

        Raises:
            NotApplicableError: one has another.
        """
        for name, value in values.items():
            if name in self and self[name] != value:
                raise NotApplicableError(f"{name} = {self[name]!r} has no counterpart")

    def check_all_seen(self) -> None:
        """Raise if a hyperparameter has not been looked at."""
        if left := [name for name in self if name not in self._seen]:
            raise NotApplicableError(f"{left[0]} = {self[left[0]]!r} has no counterpart")


class Case(NamedTuple):
    """One trajectory.

    Attributes:
        name: ``"method"`` or ``"method.variant"``.
        record: as the file has it.
        hyper: its hyperparameters.
        inputs: the file's.
    """

    name: str
    record: Mapping[str, Any]
    hyper: Hyperparameters
    inputs: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The file's name of the method."""
        return self.name.partition(".")[0]

    @property
    def variant(self) -> str:
        """What comes after it."""
        return self.name.partition(".")[2]

    @property
    def source(self) -> str:
        """Whose code was run, as ``"owner/name@commit file"``."""
        return str(self.record.get("source", ""))

    @property
    def rounds(self) -> Sequence[Mapping[str, Any]]:
        """What was recorded after each.

        Raises:
            NotApplicableError: there is none.
        """
        if not self.record["rounds"]:
            raise NotApplicableError("no round is recorded")
        return self.record["rounds"]  # type: ignore[no-any-return]

    @property
    def sizes(self) -> list[int]:
        """The clients' numbers of training samples."""
        return [client["n"] for client in self.inputs["clients"]]

    @property
    def init(self) -> Mapping[str, Any]:
        """What the case begins with besides the model that the file has for all."""
        return self.record.get("init") or {}

    def initial(self) -> Any:
        """The model that all clients begin at, flat.

        Raises:
            NotApplicableError: there is none.
        """
        model = self.record["model"]
        flat = self.init.get("model", self.inputs["init"].get(model))
        if flat is None:
            raise NotApplicableError(f"model = {model!r} has no numbers to begin with")
        return flat

    def sampled(self, round: int) -> list[int]:
        """The clients of a round, from 1."""
        recorded, participation = self.rounds[round - 1], self.record["participation"]
        if "sampled" in recorded:
            return list(recorded["sampled"])
        if "client" in recorded:
            return [int(recorded["client"])]
        sampled = self.inputs["sampled"].get(participation)
        if sampled is None and participation in ("all", "full"):
            return [*range(len(self.sizes))]
        if sampled is None or round > len(sampled):
            raise NotApplicableError(f"participation = {participation!r} does not say who takes part in round {round}")
        return list(sampled[round - 1])

    def epoch(self, client: int) -> list[list[int]] | None:
        """The mini-batches of an epoch in their order; None where it is one of all samples."""
        batches = self.record["batches"]
        if batches not in ("full", "mini"):
            raise NotApplicableError(f"batches = {batches!r}")
        return None if batches == "full" else self.inputs["batches"]["mini"][client]

    def steps(self, client: int, count: int) -> list[list[int]]:
        """As many mini-batches as that, epoch after epoch."""
        return [*islice(cycle(self.epoch(client) or [[*range(self.sizes[client])]]), count)]


def read_cases(path: Path) -> dict[str, Case]:
    """The cases of a file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, has no cases, or has two entries of one name in a table: JSON lets the last win.
    """
    file = json.loads(path.read_text(), object_pairs_hook=_table)
    cases = file.get("cases") if isinstance(file, Table) else None
    if not isinstance(cases, Table) or not all(isinstance(case, Table) for case in cases.values()):
        raise ValueError("'cases' is to be a table of cases by name")
    inputs = file.get("inputs", Table())
    return {
        name: Case(name, case, Hyperparameters(case.get("hyperparameters") or {}), inputs)
        for name, case in cases.items()
    }


def _table(pairs: list[tuple[str, Any]]) -> Table:
    table = Table(pairs)
    if len(table) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} is there twice in a table")
    return table


def federation_of(inputs: Mapping[str, Any]) -> Federation:
    """The clients' samples in the order that the file lists them, which its mini-batches refer to.

    Test samples are not trained on: a file may do without.
    """
    clients, dim = inputs["clients"], inputs["dim"]
    x = np.concatenate([np.reshape([*c["x"], *c.get("x_test", ())], (-1, dim)) for c in clients]).astype(np.float32)
    y = np.concatenate([[*c["y"], *c.get("y_test", ())] for c in clients]).astype(np.int64)
    train, test, start = list[Any](), list[Any](), 0
    for client in clients:
        middle, stop = start + client["n"], start + client["n"] + len(client.get("y_test", ()))
        train.append(np.arange(start, middle))
        test.append(np.arange(middle, stop))
        start = stop
    one = np.ones((), np.float32)
    return Federation(x, y, inputs["classes"], one, 0 * one, _shards(train), _shards(test), np.empty(0, np.int64))


def _shards(parts: Sequence[Any]) -> Shards:
    return Shards.from_sizes(np.concatenate(parts), np.array([len(part) for part in parts]))
