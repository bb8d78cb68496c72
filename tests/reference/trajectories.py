"""Run the cases of a file of reference trajectories through the methods here.

    python -m tests.reference.trajectories FILE

prints a line a case: method, variant, the greatest relative error over all that was recorded, in float64 and in the
float32 that fedtl trains in, and whether it agrees. float64 decides whether the equations are the same, as closely as
the case's own tolerance allows; in float32, where rounding may be magnified, a case may be off by a thousandth.
A method that fedtl does not ship counts as not yet, whatever comes of it. The command ends with ``N of M agree``, M
being all cases of the file; the exit status is 0 if none disagrees, 2 if the file cannot be read as cases.

What a case does not say, or says in a way that nothing here knows, makes it not applicable, with the reason. Numbers
that differ disagree, and so does what is recorded under a name that nobody knows.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch

from fedtl.strategies import STRATEGIES
from tests.parts import ENGINES
from tests.reference.adapter import FLOAT64, MAGNIFIED, Adapter, Pair
from tests.reference.adapters import adapter_of
from tests.reference.cases import Case, NotApplicableError, read_cases
from tests.reference.precision import in_float64

AGREES, DISAGREES, NOT_YET, NOT_APPLICABLE = "agrees", "disagrees", "not yet", "not applicable"
PRECISIONS = ("float64", "float32")
A_TEST_METHOD_DOES_NOT = "a test method does not agree"
READ = {"global", "clients", "server", "sampled", "client", "after"}
"""What adapters and cases read of a recorded round."""


class Verdict(NamedTuple):
    """What comes of a case.

    Attributes:
        case: which.
        word: one of the four above.
        error: the greatest relative error in float64; None where nothing was compared so.
        single: the same in float32.
        reason: why it disagrees or was not run, or what else there is to say.
    """

    case: Case
    word: str
    error: float | None = None
    single: float | None = None
    reason: str = ""

    def line(self) -> str:
        """As it is printed."""
        errors = " ".join(f"{'' if error is None else f'{error:.1e}':>8}" for error in (self.error, self.single))
        reason = f": {self.reason}" if self.word in (DISAGREES, NOT_APPLICABLE) else f" ({self.reason})"
        return f"{self.case.method:<20} {self.case.variant:<24} {errors}  {self.word}{reason if self.reason else ''}"


class Worst(NamedTuple):
    """The pair of a case that is furthest apart."""

    error: float
    round: int
    name: str
    engine: str


def judge(case: Case, engines: Collection[str], precisions: Collection[str] = PRECISIONS) -> Verdict:
    """Run a case.

    Args:
        case: which.
        engines: by their names in ``tests.parts.ENGINES``.
        precisions: which of :data:`PRECISIONS`; float64 is not for a process that has anything else to do.
    """
    adapter = adapter_of(case.name)
    if adapter is None:
        if case.method in STRATEGIES:
            return Verdict(case, NOT_APPLICABLE, reason="no adapter knows how a file records this method")
        return Verdict(case, NOT_YET)
    verdict = _judge(adapter, case, engines, precisions)
    if adapter.shipped:
        return verdict
    reasons = {AGREES: "a test method agrees", DISAGREES: f"{A_TEST_METHOD_DOES_NOT}: {verdict.reason}"}
    return verdict._replace(word=NOT_YET, reason=reasons.get(verdict.word, verdict.reason))


def _judge(adapter: Adapter, case: Case, engines: Collection[str], precisions: Collection[str]) -> Verdict:
    worst, not_applicable = dict[str, Worst](), ""
    for precision in sorted(precisions):  # float32 first: what is imported for it is to know it by its name
        try:
            with in_float64() if precision == "float64" else nullcontext():
                for each in _compare(adapter, case, engines):
                    worst[precision] = max(worst.get(precision, each), each, key=lambda each: each.error)
        except NotApplicableError as error:  # what was compared before it counts
            not_applicable = str(error)
        except Exception as error:  # one case's: the others count
            return Verdict(case, DISAGREES, reason=f"{type(error).__name__}: {error}")
    errors = [each.error if (each := worst.get(precision)) else None for precision in PRECISIONS]
    allowed = {
        "float64": max(FLOAT64, case.record.get("rtol") or 0.0),
        "float32": max(adapter.tolerance, MAGNIFIED if "float64" in precisions else 0.0),
    }
    for precision in (each for each in PRECISIONS if each in worst):
        error, round, name, engine = worst[precision]
        if error > allowed[precision]:
            why = f"{name} of round {round}, {precision}, {engine}; {allowed[precision]:.0e} is allowed"
            return Verdict(case, DISAGREES, *errors, why)
    if not_applicable:
        return Verdict(case, NOT_APPLICABLE, *errors, not_applicable)
    if not worst:
        return Verdict(case, DISAGREES, reason="nothing was compared")
    return Verdict(case, AGREES, *errors, "; ".join(filter(None, [adapter.left_out(case), _passed_over(case)])))


def _passed_over(case: Case) -> str:
    """What the rounds hold that no adapter looks at, as a sentence; empty if there is nothing."""
    others = {name for record in case.rounds for name in record} - READ
    return f"but for {', '.join(sorted(others))} of the rounds" if others else ""


def _compare(adapter: Adapter, case: Case, engines: Iterable[str]) -> Iterator[Worst]:
    for engine in engines:
        for round, pair in adapter.pairs(case, ENGINES[engine]):
            yield Worst(pair.error, round, pair.name, engine)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log below an error, and one thread, in the ``with`` block."""
    logs, threads = logging.root.manager.disable, torch.get_num_threads()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        logging.disable(logs)
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.reference.trajectories", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=Path(__file__).with_name("personalised.json"))
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--engine", choices=ENGINES, help="one engine alone; all by default")
    parser.add_argument("--precision", choices=PRECISIONS, help="one alone; both by default")
    o = parser.parse_args(arguments)
    words = Counter[str]()
    try:
        cases = read_cases(o.file)
    except (OSError, ValueError) as error:
        parser.error(f"{o.file}: {error}")
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, case in cases.items():
            if not name.startswith(o.only):
                continue
            verdict = judge(case, [o.engine] if o.engine else ENGINES, [o.precision] if o.precision else PRECISIONS)
            words[verdict.word] += 1
            print(verdict.line(), flush=True)
    print(", ".join(f"{words[word]} {word}" for word in (AGREES, DISAGREES, NOT_YET, NOT_APPLICABLE)))
    print(f"{words[AGREES]} of {words.total()} agree")
    return int(words[DISAGREES] > 0)


__all__ = ["Pair", "judge", "main"]

if __name__ == "__main__":
    sys.exit(main())
