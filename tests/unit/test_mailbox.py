"""Messages whose arrays lie in memory that two processes share."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

from fedtl.grid.mailbox import SLOT, WORTH, Address, Mailbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has memory files")

LARGE = np.arange(WORTH, dtype=np.float64)


def answer(address: Address, letter: object, connection: object) -> None:
    """In another process: read what was sent, and lay an answer into the second slot."""
    box = Mailbox.open(address)
    assert box is not None
    words, vector = box.get(letter, copy=False)  # type: ignore[arg-type]
    assert not vector.flags.writeable
    connection.send(box.put({"words": words, "twice": 2 * vector, "half": vector[: WORTH // 2].astype(np.float32)}, 1))  # type: ignore[attr-defined]


def test_two_processes_exchange_arrays() -> None:
    box = Mailbox.make(2)
    assert box is not None
    letter = box.put(("hello", LARGE), 0)
    assert letter is not None
    assert len(letter.head) < 1000
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=answer, args=(box.address, letter, there))
    process.start()
    assert here.poll(60)
    reply = here.recv()
    process.join(60)
    content = box.get(reply, copy=True)
    assert content["words"] == "hello"
    np.testing.assert_array_equal(content["twice"], 2 * LARGE)
    np.testing.assert_array_equal(content["half"], LARGE[: WORTH // 2].astype(np.float32))
    box.put(("again", 0 * LARGE), 1)
    np.testing.assert_array_equal(content["twice"], 2 * LARGE)  # a copy, which a later letter does not change
    content["twice"][0] = 1  # and which may be changed


def test_slots_are_apart() -> None:
    box = Mailbox.make(2)
    assert box is not None
    first, second = box.put(LARGE, 0), box.put(-LARGE, 1)
    assert first
    assert second
    np.testing.assert_array_equal(box.get(first, copy=False), LARGE)
    np.testing.assert_array_equal(box.get(second, copy=False), -LARGE)


def test_what_is_small_or_too_large_is_not_taken() -> None:
    box = Mailbox.make(1)
    assert box is not None
    assert box.put({"a": 1, "b": np.zeros(3)}, 0) is None
    assert box.put(np.zeros(SLOT // 8 + 1), 0) is None
    assert box.put(np.zeros(SLOT // 8 - 8), 0) is not None


def test_another_machines_mailbox_is_not_to_be_seen(tmp_path: Path) -> None:
    box = Mailbox.make(1)
    assert box is not None
    assert Mailbox.open(box.address._replace(process=2**22 + 1)) is None  # no such process here
    assert Mailbox.open(box.address._replace(token=b"somebody else's")) is None
    with (tmp_path / "file").open("w+b") as other:  # the same number of another process's file, of whatever length
        assert Mailbox.open(box.address._replace(file=other.fileno())) is None
