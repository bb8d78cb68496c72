"""Flower's ``flower-superlink``, with a bound on what it reads.

Flower lets a gRPC message have 2 GiB, and reads it before it looks who sent it. Nothing that it sends itself is larger
than a piece of an array, 5 MiB.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

LARGEST_MESSAGE = 32 * 2**20


def main() -> None:
    """``flower-superlink``; its options are Flower's."""
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)  # a line for each look for a reply
    module: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    # From flwr 1.40 on SuperNodes speak HTTP, and there is nothing to bound here.
    if hasattr(module, "GRPC_MAX_MESSAGE_LENGTH"):
        module.GRPC_MAX_MESSAGE_LENGTH = LARGEST_MESSAGE
    module.flower_superlink()


if __name__ == "__main__":
    main()
