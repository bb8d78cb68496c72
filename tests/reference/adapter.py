"""Between a reference case and a method here: the case's hyperparameters as options, our state as what it records."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from fedtl.strategies import strategy_type
from tests.parts import EngineKind
from tests.reference.cases import Case, NotApplicableError
from tests.reference.study import After, Study

FLOAT32 = 2e-5
"""The greatest relative error that rounding explains.

The cases were computed in float64, and the engines train in float32, whose unit roundoff is u = 6e-8. A round is a few
tens of steps, each of which rounds some ten times, and control variates and drifts are differences of models divided by
a step length that is smaller than 1: errors of some 10 to 100 u, and 300 u is the bound. A wrong term, weight or number
of steps shows as 1e-3 and more in these cases.
"""

DECAY = "1e-4 on weights, 0 on biases"
"""A ``weight_decay``, as the file has it."""

SMALL = 1e-3
"""Vectors whose largest number is smaller than this are compared with it, as their rounding errors are those of the
models, with numbers around 0.1 to 1, that they are differences of."""


class Pair(NamedTuple):
    """A recorded quantity beside ours; ours in the file's order."""

    name: str
    ours: Any
    theirs: Any

    @property
    def error(self) -> float:
        """The greatest difference relative to the greatest recorded number; infinite where ours is not finite."""
        theirs = np.asarray(self.theirs, np.float64).reshape(-1)
        ours = np.asarray(self.ours, np.float64).reshape(-1)
        if ours.shape != theirs.shape:
            raise ValueError(f"{self.name}: {len(ours)} numbers, and {len(theirs)} are recorded")
        if not len(theirs):
            return 0.0
        error = float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), SMALL))
        return error if np.isfinite(error) else float("inf")


MAGNIFIED = 1e-3
"""The same where float64 has shown the equations to be those of the case: what is left is rounding, which a case may
magnify, by a step length near 0 that differences are divided by, or a sample near the kink of a ReLU."""

FLOAT64 = 1e-8
"""The greatest relative error in float64, where a case does not allow more: its numbers have 12 digits."""


class Adapter:
    """How the cases of a method are run here; a subclass in ``adapters/`` is found by its ``cases``."""

    cases: ClassVar[tuple[str, ...]]
    """Names of cases, or of methods as the file spells them: the longest that a case's name begins with counts."""

    strategy: ClassVar[str]
    """``strategy.name``."""

    shipped: ClassVar[bool] = True
    """Whether the method is one of fedtl's, not of ``tests/methods``."""

    tolerance: ClassVar[float] = FLOAT32
    """The greatest relative error."""

    leaves_out: ClassVar[Mapping[str, str]] = {}
    """Recorded names that are not compared, with the reason."""

    def options(self, case: Case) -> dict[str, Any]:
        """The ``[strategy]`` table but for its name; every hyperparameter is looked at.

        Raises:
            NotApplicableError: the case asks for what the method here does not have.
        """
        raise NotImplementedError

    def objective(self, case: Case) -> Sequence[Mapping[str, Any]]:
        """The ``[[objective]]`` tables; the cross-entropy alone if empty."""
        return ()

    def modules(self, case: Case) -> Mapping[str, Any]:
        """The first numbers of terms' modules, flat, by their names; their own if they are not named."""
        return {}

    def epochs(self, case: Case, client: int, loop: int) -> int:
        """Passes over the samples, or over the mini-batches that the file lists, of a loop of a client's round."""
        return int(case.hyper["local_epochs"])

    def batches(self, case: Case, client: int, loop: int) -> Sequence[Sequence[int]] | None:
        """The mini-batches of a loop of a client's round; None for what the options say."""
        epoch = case.epoch(client)
        return None if epoch is None else epoch * self.epochs(case, client, loop)

    def rounds(self, case: Case) -> int:
        """How many rounds of training the case has."""
        return len(case.rounds)

    def prepare(self, study: Study) -> None:
        """Let the server, or the clients, begin as the case's ``init`` says."""

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        """What is recorded of a client under a name, in the file's order."""
        raise NotImplementedError

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        """What is recorded of the server under a name; with a client where the name has a table of clients."""
        raise NotImplementedError

    def of_global(self, study: Study, after: After) -> Any:
        """What is recorded as the global model."""
        return study.theirs(after.w)

    def compared(self, study: Study, after: After, record: Mapping[str, Any]) -> Iterator[Pair]:
        """All that is recorded of a round, beside ours."""
        if record.get("global") is not None:
            yield Pair("global", self.of_global(study, after), record["global"])
        for client, names in (record.get("clients") or {}).items():
            for name, theirs in names.items():
                if name not in self.leaves_out:
                    with known(where := f"clients.{client}.{name}"):
                        ours = self.of_client(study, after, int(client), name)
                    yield Pair(where, ours, theirs)
        for name, theirs in (record.get("server") or {}).items():
            if name in self.leaves_out:
                continue
            each = theirs.items() if isinstance(theirs, Mapping) else [(None, theirs)]
            for client, own in each:
                with known(where := f"server.{name}" + ("" if client is None else f".{client}")):
                    ours = self.of_server(study, after, name, None if client is None else int(client))
                yield Pair(where, ours, own)

    def left_out(self, case: Case) -> str:
        """What the case has that is not compared, as a sentence; empty if there is nothing."""
        return ""

    def study(self, case: Case, kind: EngineKind, folder: Path) -> Study:
        """The case, ready to be run."""
        strategy = {"name": self.strategy, **self.options(case)}
        listed = [self.batches(case, client, 0) for client in range(len(case.sizes))]

        def batches(client: int, loop: int) -> Sequence[Sequence[int]] | None:
            return self.batches(case, client, loop)

        as_listed = batches if any(each is not None for each in listed) else None
        own = self.modules(case)
        study = Study(case, kind, folder, strategy, self.objective(case), as_listed, self.rounds(case), own)
        self.prepare(study)
        return study

    def pairs(self, case: Case, kind: EngineKind) -> Iterator[tuple[int, Pair]]:
        """The case's rounds run by an engine: for each round all that was recorded of it."""
        with tempfile.TemporaryDirectory() as folder:
            study = self.study(case, kind, Path(folder))
            case.hyper.check_all_seen()
            for after, record in zip(study.rounds(), case.rounds):
                for pair in self.compared(study, after, record):
                    yield after.round, pair


@contextmanager
def known(where: str) -> Iterator[None]:
    """Say in a sentence that there is no such thing here, where an adapter has looked it up in vain."""
    try:
        yield
    except (KeyError, NotImplementedError) as error:
        if isinstance(error, NotApplicableError):
            raise
        raise LookupError(f"{where} is recorded, and has no counterpart that is known") from error


def local_sgd(case: Case, strategy: str) -> dict[str, Any]:
    """The options of a case's ``momentum`` and ``weight_decay`` of local steps, as the method spells them.

    Raises:
        NotApplicableError: one is no number.
    """
    options = {name: case.hyper[name] for name in ("momentum", "weight_decay") if name in case.hyper}
    if words := [value for value in options.values() if isinstance(value, str)]:
        if words[0] == DECAY:
            weights = {"weight_decay": 1e-4, "decayed": "weights"}
            return {"optimizer": {"name": "sgd", **options, **weights}}
        raise NotApplicableError(f"weight_decay = {words[0]!r} has no counterpart")
    options = {name: value for name, value in options.items() if value}
    if options.keys() <= strategy_type(strategy).settings_type.model_fields.keys():
        return options
    return {"optimizer": {"name": "sgd", **options}}


def weighting(case: Case, otherwise: str = "samples") -> dict[str, str]:
    """The option of the case's weights, where they are a plain ``"samples"`` or ``"uniform"``."""
    value = case.hyper.get("weighting", otherwise)
    if value not in ("samples", "uniform"):
        raise NotApplicableError(f"weighting = {value!r}")
    return {"weighting": value}


def memory(after: After, client: int, name: str, otherwise: Tensor) -> Tensor:
    """What a client remembers under a name; ``otherwise`` of one that has never trained."""
    return after.memories[client].get(name, otherwise)
