from __future__ import annotations

import sys

import pytest

from fedtl.cli import commands, printing
from fedtl.config import read


@pytest.mark.parametrize(("text", "reason"), [("Unable to allocate\n16 TiB", ": Unable to allocate 16 TiB"), ("", "")])
def test_what_does_not_fit_into_memory_is_a_sentence(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_config(*arguments: object) -> None:
        raise MemoryError(text)

    monkeypatch.setattr(read, "read_config", read_config)
    monkeypatch.setattr(sys, "argv", ["fedtl", "run", "quickstart"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == printing.RUN_ERROR
    assert capsys.readouterr().err == f"fedtl: there is not enough memory for it{reason}\n"
