"""Clients' memories on disk: which version is found, and which ones a retry and a resume still need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from fedtl.disk import memories
from fedtl.disk.memories import DamagedMemoryError, MemoryStore


def memory(value: float) -> dict[str, torch.Tensor]:
    return {"theta": torch.full((3,), value), "control": torch.tensor([value, -value])}


def rounds_kept(store: MemoryStore, client: int) -> list[int]:
    return sorted(int(file.stem.split("-")[1]) for file in store.folder.glob(f"*/{client}-*.safetensors"))


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "memories")


def test_what_is_saved_is_loaded(store: MemoryStore) -> None:
    saved = memory(0.1)
    store.save(5, 3, saved)
    loaded = store.load(5, before=4)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert loaded["theta"].dtype == torch.float32


def test_nobody_remembers_anything_at_first(store: MemoryStore) -> None:
    assert store.load(0, before=1) == {}
    assert store.clients() == []
    store.forget_after(0)  # nor is there anything to delete


def test_the_newest_before_the_round_is_found(store: MemoryStore) -> None:
    for round in (2, 7):
        store.save(1, round, memory(round))
    assert store.load(1, before=2) == {}
    for before, expected in ((3, 2), (7, 2), (8, 7), (100, 7)):
        assert store.load(1, before)["theta"][0] == expected


def test_rounds_are_numbers_not_words(store: MemoryStore) -> None:
    store.save(1, 9, memory(9))
    store.save(1, 10, memory(10))
    assert store.load(1, before=11)["theta"][0] == 10
    store.save(1, 100, memory(100))
    assert rounds_kept(store, 1) == [10, 100]


def test_clients_whose_ids_begin_alike_are_not_mixed_up(store: MemoryStore) -> None:
    for client in (1, 11, 12):
        store.save(client, 1, memory(client))
    for client in (1, 11, 12):
        assert store.load(client, 2)["theta"][0] == client
    store.save(1, 2, memory(0))
    store.save(1, 3, memory(0))
    assert rounds_kept(store, 11) == rounds_kept(store, 12) == [1]


def test_a_client_that_is_trained_again_begins_where_it_began(store: MemoryStore) -> None:
    """A worker dies after it has saved a client's memory of the round: the second try must not see it."""
    store.save(0, 1, memory(1))
    store.save(0, 4, memory(4))
    assert store.load(0, before=4)["theta"][0] == 1
    store.save(0, 4, memory(4))
    assert store.load(0, before=4)["theta"][0] == 1
    assert rounds_kept(store, 0) == [1, 4]


@pytest.mark.parametrize("rounds", [(1, 2, 3, 4, 5), (1, 4, 5, 9)])
def test_two_versions_are_kept_the_new_one_and_the_checkpointed_one(store: MemoryStore, rounds: tuple[int]) -> None:
    """While round t is trained, only t - 1 is certain to be checkpointed, and a resume begins there."""
    for round in rounds:
        before = rounds_kept(store, 0)
        store.save(0, round, memory(round))
        assert rounds_kept(store, 0) == [*before, round][-2:]
        assert not before or store.load(0, before=round)["theta"][0] == before[-1]


def test_resume_goes_back_to_the_checkpoint(store: MemoryStore) -> None:
    store.save(0, 1, memory(1))
    store.save(0, 3, memory(3))
    store.save(7, 3, memory(3))
    store.save(70, 2, memory(2))
    store.forget_after(2)
    assert rounds_kept(store, 0) == [1]
    assert rounds_kept(store, 7) == []
    assert rounds_kept(store, 70) == [2]
    assert store.clients() == [0, 70]
    store.forget_after(0)
    assert store.clients() == []


def test_an_empty_memory_is_no_file(store: MemoryStore) -> None:
    store.save(0, 1, {})
    assert not store.folder.exists()


def test_buckets(store: MemoryStore) -> None:
    for client in (0, 63, 64, 6400):
        store.save(client, 2, memory(client))
    files = {str(file.relative_to(store.folder)) for file in store.folder.rglob("*") if file.is_file()}
    assert files == {
        "000000/0-2.safetensors",
        "000000/63-2.safetensors",
        "000001/64-2.safetensors",
        "000100/6400-2.safetensors",
    }
    assert store.clients() == [0, 63, 64, 6400]


class Crash(Exception):
    pass


WRITE = os.writev


def half(file: int, parts: list[memoryview]) -> int:
    """Write half of it, and crash."""
    whole = b"".join(parts)
    WRITE(file, [whole[: len(whole) // 2]])
    raise Crash


def crash(*_: object) -> None:
    raise Crash


def test_a_crash_while_writing_leaves_the_version_before(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(0, 1, memory(1))

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, "writev", half)
        store.save(0, 2, memory(2))
    assert len(list(store.folder.rglob("*-2*"))) == 1  # the crash left something behind
    assert store.load(0, before=3)["theta"][0] == 1
    assert store.clients() == [0]
    # It is no version, is not deleted as one, and is gone when the run goes on.
    store.save(0, 2, memory(2))
    assert store.load(0, before=3)["theta"][0] == 2
    store.forget_after(2)
    assert rounds_kept(store, 0) == [1, 2]
    assert {file.suffix for file in store.folder.rglob("*") if file.is_file()} == {".safetensors"}


def test_vectors_that_share_memory_are_stored_each(store: MemoryStore) -> None:
    whole = torch.arange(6.0)
    store.save(0, 1, {"first": whole[:3], "second": whole[3:], "every_other": whole[::2]})
    loaded = store.load(0, 2)
    assert loaded["first"].tolist() == [0, 1, 2]
    assert loaded["second"].tolist() == [3, 4, 5]
    assert loaded["every_other"].tolist() == [0, 2, 4]


def test_many_clients_at_once(store: MemoryStore) -> None:
    """Workers save clients of their own into the same folders."""
    from concurrent.futures import ThreadPoolExecutor

    def several_rounds(client: int) -> None:
        for round in (1, 2, 3):
            MemoryStore(store.folder).save(client, round, memory(client + round))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(several_rounds, range(80)))
    assert store.clients() == list(range(80))
    assert all(store.load(client, 9)["theta"][0] == client + 3 for client in range(80))


# A version that is given up becomes the file of the new one.


def test_memories_of_any_size_are_written_over_older_ones(store: MemoryStore) -> None:
    for round, numbers in enumerate((4, 1000, 3, 0, 70000, 1, 9), start=1):
        store.save(0, round, {"c": torch.arange(float(numbers)), "is": torch.tensor([True, False])})
        loaded = store.load(0, round + 1)
        assert loaded["c"].tolist() == [*range(numbers)]
        assert loaded["is"].tolist() == [True, False]
        store.verify({0: round}, round, lambda client, round, c=numbers: {"c": c, "is": 2})


def test_no_new_file_is_made_where_one_is_given_up(store: MemoryStore) -> None:
    for round in (1, 2):
        store.save(0, round, memory(round))
    before = {file.stat().st_ino for file in store.folder.glob("*/*")}
    for round in (5, 6, 9):
        store.load(0, round)
        store.save(0, round, memory(round))
    assert {file.stat().st_ino for file in store.folder.glob("*/*")} == before
    assert rounds_kept(store, 0) == [6, 9]


@pytest.mark.parametrize(
    ("call", "stopping"), [("rename", crash), ("fstat", crash), ("writev", half), ("close", crash), ("replace", crash)]
)
def test_a_crash_while_a_version_is_written_over_leaves_the_others(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, call: str, stopping: object
) -> None:
    for round in (1, 4):
        store.save(0, round, memory(round))
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, call, stopping)
        store.save(0, 6, memory(6))
    again = MemoryStore(store.folder)
    again.verify({0: 4}, 5, lambda client, round: {"theta": 3, "control": 2})
    assert again.load(0, before=6)["theta"][0] == 4
    again.forget_after(5)
    assert {file.suffix for file in store.folder.glob("*/*")} == {".safetensors"}
    again.save(0, 6, memory(6))
    assert rounds_kept(again, 0) == [4, 6]
    assert again.load(0, before=7)["theta"][0] == 6


def test_a_second_try_may_have_given_a_version_up(store: MemoryStore) -> None:
    for round in (1, 2):
        store.save(0, round, memory(round))
    store.load(0, before=3)
    other = MemoryStore(store.folder)
    other.load(0, before=3)
    other.save(0, 3, memory(3))
    store.save(0, 3, memory(3))
    assert rounds_kept(store, 0) == [2, 3]
    assert store.load(0, before=4)["theta"][0] == 3


def test_what_another_worker_saved_since_is_found(store: MemoryStore) -> None:
    store.save(0, 1, memory(1))
    store.load(0, before=2)
    other = MemoryStore(store.folder)
    for round in (2, 3):
        other.save(0, round, memory(round))
    assert store.load(0, before=4)["theta"][0] == 3
    store.save(0, 4, memory(4))
    assert rounds_kept(store, 0) == [3, 4]


def test_what_is_written_over_while_it_is_read_is_missing(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by an export of a run that goes on."""
    store.save(0, 1, memory(1))
    read = memories.load_tensors

    def slowly(file: Path, of: str, check: bool) -> object:
        tensors = read(file, of, check)
        for round in (2, 3):
            MemoryStore(store.folder).save(0, round, memory(round))
        return tensors

    monkeypatch.setattr(memories, "load_tensors", slowly)
    with pytest.raises(DamagedMemoryError, match=r"0-1.safetensors is missing"):
        store.load(0, before=2)


def test_a_copy_made_with_hard_links_stays_as_it_is(store: MemoryStore) -> None:
    for round in (1, 2):
        store.save(0, round, memory(round))
    copy = MemoryStore(store.folder.with_name("copy"))
    shutil.copytree(store.folder, copy.folder, copy_function=os.link)
    for round in (3, 4):
        store.save(0, round, memory(round))
    copy.verify({0: 2}, 2, lambda client, round: {"theta": 3, "control": 2})
    assert [copy.load(0, before)["theta"][0] for before in (2, 3)] == [1, 2]
    assert store.load(0, 5)["theta"][0] == 4
