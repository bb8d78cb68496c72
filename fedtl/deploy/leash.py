"""A leash between a program and what started it: a pipe, of which each holds an end.

However the starter ends, by ``kill -9`` too, the system closes its end, and the program sees that. It is the program's
standard input, so whatever the program starts has it as well.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable

LEASH = "FEDTL_LEASH"
"""Environment variable that says that the standard input is one."""


def leashed() -> bool:
    """Whether this process is on a leash."""
    return LEASH in os.environ


def follow(hear: Callable[[str], None]) -> None:
    """Hear what the starter says, line by line, and end with it, together with all of this process group."""

    def listen() -> None:
        heard = b""
        try:
            while piece := os.read(stdin, 2**10):  # not by sys.stdin, whose lock Python wants when it ends
                *words, heard = (heard + piece).split(b"\n")
                for word in words:
                    hear(word.decode())
        finally:
            os.killpg(0, signal.SIGKILL)

    stdin = sys.stdin.fileno()
    threading.Thread(target=listen, daemon=True).start()


def end_with_starter() -> None:
    """End this process when the starter does, however; what it says is somebody else's to hear."""

    def look() -> None:
        poll = select.poll()
        poll.register(sys.stdin.fileno(), 0)  # an end that was closed is always told
        while not poll.poll():
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()
