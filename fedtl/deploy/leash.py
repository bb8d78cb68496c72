"""A leash between a program and its starter: a pipe from the starter to the program's standard input.

However the starter ends, even by ``kill -9``, the system closes its end of the pipe, and the program notices. What the
program starts inherits the standard input, and so the leash.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable

LEASH = "FEDTL_LEASH"
"""Environment variable that is set if the standard input is a leash."""


def leashed() -> bool:
    """Whether this process is on a leash."""
    return LEASH in os.environ


def follow(hear: Callable[[str], None]) -> None:
    """Pass on what the starter writes, line by line, and kill this process group when the starter ends."""

    def listen() -> None:
        heard = b""
        try:
            while piece := os.read(stdin, 2**10):  # not sys.stdin, whose lock Python takes at exit
                *words, heard = (heard + piece).split(b"\n")
                for word in words:
                    hear(word.decode())
        finally:
            os.killpg(0, signal.SIGKILL)

    stdin = sys.stdin.fileno()
    threading.Thread(target=listen, daemon=True).start()


def end_with_starter() -> None:
    """Kill this process when the starter ends; what the starter writes is left for another process to read."""

    def look() -> None:
        poll = select.poll()
        poll.register(sys.stdin.fileno(), 0)  # a closed end is always reported
        while not poll.poll():
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()
