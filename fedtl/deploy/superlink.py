"""Flower's ``flower-superlink``, with a bound on what it reads, and on a leash.

Flower lets a gRPC message have 2 GiB, and reads it before it looks who sent it. Nothing that it sends itself is larger
than a piece of an array, 5 MiB.

Started by ``fedtl deploy server`` it ends when that does, however, with all that it has started; and lets clients
connect only when it is told that their keys are registered: one that came before would be told that its key is unknown.
"""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

from fedtl.deploy.leash import follow, leashed

LARGEST_MESSAGE = 32 * 2**20

DRAINS_WITHIN = 2
"""Seconds that a SuperLink which is told to stop waits for open connections."""

OPEN = "open"
"""What it is told on its leash when clients may connect."""


def main() -> None:
    """``flower-superlink``; its options are Flower's."""
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)  # a line for each look for a reply
    module: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    # From flwr 1.40 on SuperNodes speak HTTP, and there is nothing to bound here.
    if hasattr(module, "GRPC_MAX_MESSAGE_LENGTH"):
        module.GRPC_MAX_MESSAGE_LENGTH = LARGEST_MESSAGE
    if leashed():
        _put_on_leash(module)
    module.flower_superlink()


def _put_on_leash(module: Any) -> None:
    # A run that goes on never closes its connections.
    module.uvicorn.run = functools.partial(module.uvicorn.run, timeout_graceful_shutdown=DRAINS_WITHIN)
    module.get_popen_detach_kwargs = dict  # its SuperExec stays in this process group, and ends with it
    lifespan = module.SuperLinkLifespan
    begin, waiting = lifespan._start_fleet_api, list[Any]()
    lifespan._start_fleet_api = lambda self: waiting.append(self)

    def hear(word: str) -> None:
        if word == OPEN:
            begin(waiting.pop())

    follow(hear)


if __name__ == "__main__":
    main()
