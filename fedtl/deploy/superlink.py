"""Flower's ``flower-superlink`` with a limit on the size of messages, and on a leash.

Flower accepts gRPC messages of up to 2 GiB, and reads one before it checks who sent it. Flower itself sends nothing
larger than a piece of an array, 5 MiB.

A SuperLink that ``fedtl deploy server`` started ends with it, however that ends, and so does all that it started. It
opens the port for clients only once their keys are registered: before that Flower would refuse their keys as unknown.
"""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

from fedtl.deploy.leash import follow, leashed

LARGEST_MESSAGE = 32 * 2**20

DRAINS_WITHIN = 2
"""Seconds that a stopping SuperLink waits for open connections."""

OPEN = "open"
"""The line on its leash by which clients may connect."""


def main() -> None:
    """``flower-superlink``; its options are Flower's."""
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)  # it has a line for each poll for a reply
    module: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    # From flwr 1.40 on SuperNodes speak HTTP, and there is no such limit here.
    if hasattr(module, "GRPC_MAX_MESSAGE_LENGTH"):
        module.GRPC_MAX_MESSAGE_LENGTH = LARGEST_MESSAGE
    if leashed():
        _put_on_leash(module)
    module.flower_superlink()


def _put_on_leash(module: Any) -> None:
    # A run in progress never closes its connections.
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
