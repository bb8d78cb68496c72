"""Signals end a command as Ctrl-C does, once, and whatever they are raised in."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from fedtl.cli import signals
from fedtl.cli.signals import ended_by_signals, of_a_run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_as_a_key_does(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        os.kill(os.getpid(), number)
        signal.pause()
    assert signal.getsignal(number) == before


class Loses:
    """Loses what is raised while it is forgotten, as Python does with whatever is raised while it forks."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_comes_where_nothing_can_be_raised_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "NOTICED_WITHIN", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    lost = list[object]()
    monkeypatch.setattr(sys, "unraisablehook", lambda about: lost.append(about.exc_type))
    handled = False
    with ended_by_signals():
        try:
            Loses()
            assert lost == [KeyboardInterrupt]
            signal.pause()
        except KeyboardInterrupt:
            threading.Event().wait(0.2)  # the time of an orderly end is not cut short
            handled = True
    assert handled
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_second_signal_does_not_disturb_an_orderly_end() -> None:
    ended = list[str]()
    with ended_by_signals():
        try:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.pause()
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                ended.append("in order")
        except KeyboardInterrupt:
            ended.append("once")
    assert ended == ["in order", "once"]


def test_an_exception_that_compiled_code_makes_of_a_signals_is_the_signals() -> None:
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except KeyboardInterrupt:
            raise ValueError("a call back failed") from None
    with pytest.raises(ValueError, match="nobody sent a signal"), ended_by_signals():
        raise ValueError("nobody sent a signal")


def test_a_run_ends_by_the_keys_unless_they_are_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert set(of_a_run()) == {signal.SIGTERM, signal.SIGINT}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert set(of_a_run()) == {signal.SIGTERM}
    finally:
        signal.signal(signal.SIGINT, before)
