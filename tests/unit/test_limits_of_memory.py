"""How much memory a process may have: the least of what the machine, a container and the process are limited to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.data import memory
from fedtl.data.arrays import labels
from fedtl.data.memory import need_memory


@pytest.mark.parametrize(("text", "refused"), [("1048576\n", True), ("max\n", False), (None, False)])
def test_a_container_has_less_than_its_machine(
    text: str | None, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CONTAINER", tmp_path / "memory.max")
    monkeypatch.setattr(memory, "resource", None)  # as where nothing says what a process may have
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    if not refused:
        need_memory("data", 2**21)
        return
    with pytest.raises(ConfigError, match=r"this machine has 0\.0 GiB"):
        need_memory("data", 2**21)


def test_a_process_may_have_less(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, resource.RLIM_INFINITY))
    with pytest.raises(ConfigError, match=r"this machine has 0\.0 GiB"):
        need_memory("data", 2**21)


@pytest.mark.parametrize("label", [1e300, -1e300])
def test_a_label_of_300_digits_is_told_in_few(label: float) -> None:
    with pytest.raises(ConfigError) as refused:
        labels("y", np.array([0.0, label]), 2)
    assert f"has the label {label:g};" in str(refused.value)
