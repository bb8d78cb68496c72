from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fedtl
from tests.interrupted import ROUNDS, contents, tables


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    known: dict[tuple[str, int], dict[str, Any]] = {}

    def run(method: str = "pfedme", rounds: int = ROUNDS) -> dict[str, Any]:
        if (method, rounds) not in known:
            folder = tmp_path_factory.mktemp("uninterrupted") / "run"
            fedtl.run(tables(method, rounds), out=folder)
            known[method, rounds] = contents(folder)
        return known[method, rounds]

    return run
