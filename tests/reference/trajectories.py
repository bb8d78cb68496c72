"""Run the cases of a file of reference trajectories through the methods here.

    python -m tests.reference.trajectories FILE

prints a line a case: method, variant, the greatest relative error over all that was recorded, and whether it agrees.
It ends with ``N of M agree``, M being all cases of the file. The exit status is 0 if none disagrees.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from tests.parts import ENGINES
from tests.reference.adapter import Pair
from tests.reference.adapters import adapter_of
from tests.reference.cases import Case, NotApplicableError, read_cases

AGREES, DISAGREES, NOT_YET, NOT_APPLICABLE = "agrees", "disagrees", "not yet", "not applicable"


class Verdict(NamedTuple):
    """What comes of a case.

    Attributes:
        case: which.
        word: one of the four above.
        error: the greatest relative error; None where nothing was run.
        reason: why it disagrees or was not run, or what else there is to say.
    """

    case: Case
    word: str
    error: float | None = None
    reason: str = ""

    def line(self) -> str:
        """As it is printed."""
        error = "" if self.error is None else f"{self.error:.1e}"
        reason = f": {self.reason}" if self.word in (DISAGREES, NOT_APPLICABLE) else f" ({self.reason})"
        return f"{self.case.method:<20} {self.case.variant:<24} {error:>8}  {self.word}{reason if self.reason else ''}"


def judge(case: Case, engines: Iterable[str]) -> Verdict:
    """Run a case by engines, by their names in ``tests.parts.ENGINES``."""
    adapter = adapter_of(case.name)
    if adapter is None:
        return Verdict(case, NOT_YET)
    worst: tuple[float, int, str, str] = (-1.0, 0, "", "")
    try:
        for engine in engines:
            for round, pair in adapter.pairs(case, ENGINES[engine]):
                worst = max(worst, (pair.error, round, pair.name, engine))
    except NotApplicableError as error:
        return Verdict(case, NOT_APPLICABLE if adapter.shipped else NOT_YET, None, str(error))
    except Exception as error:  # one case's: the others count
        return Verdict(case, DISAGREES, None, f"{type(error).__name__}: {error}")
    error, round, name, engine = worst
    if error < 0:
        return Verdict(case, DISAGREES, None, "nothing was compared")
    if error > adapter.tolerance:
        return Verdict(case, DISAGREES, error, f"{name} of round {round}, {engine}; {adapter.tolerance:.0e} is allowed")
    if not adapter.shipped:
        return Verdict(case, NOT_YET, error, "a test method agrees")
    return Verdict(case, AGREES, error)


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
    o = parser.parse_args(arguments)
    words = Counter[str]()
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, case in read_cases(o.file).items():
            if not name.startswith(o.only):
                continue
            verdict = judge(case, [o.engine] if o.engine else ENGINES)
            words[verdict.word] += 1
            print(verdict.line(), flush=True)
    print(", ".join(f"{words[word]} {word}" for word in (AGREES, DISAGREES, NOT_YET, NOT_APPLICABLE)))
    print(f"{words[AGREES]} of {words.total()} agree")
    return int(words[DISAGREES] > 0)


__all__ = ["Pair", "judge", "main"]

if __name__ == "__main__":
    sys.exit(main())
