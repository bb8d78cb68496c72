"""Samples that are not as they seem: channels last, token ids, numbers that float32 does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.arrays import check_layout
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.federate import federate
from fedtl.data.own.read import read_own
from fedtl.data.settings import DataChoice


def save(folder: Path, x: NDArray[Any]) -> Path:
    file = folder / "train.npz"
    np.savez(file, x=x, y=np.arange(len(x)) % 2)
    return file


def notes(file: Path, **options: Any) -> tuple[str, ...]:
    table = {"name": "npz", "path": str(file), "clients": 2, "partition": "iid"}
    return of_layout(federate(read_data({**table, **options}), 0).notes)


def of_layout(notes: tuple[str, ...]) -> tuple[str, ...]:
    """Without the warning that clients hold equal samples: here many are."""
    return tuple(note for note in notes if not note.startswith("warning: "))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 16, 4), (8, 8, 3), (48, 64, 3)])
def test_channels_last_are_refused(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(dtype)
    file = save(tmp_path, images)
    seen = f"x looks like [n, height, width, channels] = [n, {', '.join(map(str, shape))}]"
    message = f"{file}: {seen}; transpose it to [n, channels, height, width], by x.transpose(0, 3, 1, 2)"
    for read in (lambda: notes(file), lambda: notes(file, size=8), lambda: read_own(str(tmp_path))):
        with pytest.raises(ConfigError) as caught:
            read()
        assert str(caught.value) == message
    save(tmp_path, images.transpose(0, 3, 1, 2))
    assert [note for note in notes(file, normalise="none") if "looks like" in note] == []
    assert read_own(str(tmp_path)).x.shape == (20, shape[2], *shape[:2])


@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 16, 4)])
@pytest.mark.parametrize("scaled", [lambda x: 2 * x - 1, lambda x: (x - 0.47) / 0.2, lambda x: 1000 * x - 500])
def test_squares_with_channels_last_are_refused_whatever_their_values(scaled: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="transpose it"):
        check_layout("x", scaled(np.random.default_rng(0).random((4, *shape), np.float32)))


@pytest.mark.parametrize(
    "shape",
    [(3, 32, 32), (1, 4, 4), (3, 3, 3), (64, 4, 4), (1, 28, 28), (3, 32, 2), (9, 1, 128), (2, 64, 64), (3, 1, 1)],
)
def test_channels_first_are_taken_without_a_word(shape: tuple[int, ...]) -> None:
    assert check_layout("x", np.zeros((2, *shape), np.uint8)) is None


def test_grey_images_are_seen_by_their_bytes(tmp_path: Path) -> None:
    file = save(tmp_path, np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1)).astype(np.uint8))
    with pytest.raises(ConfigError, match="channels] = \\[n, 28, 28, 1\\]; transpose it to"):
        notes(file)
    save(tmp_path, np.random.default_rng(0).random((20, 28, 28, 1)).astype(np.float32))
    (note,) = notes(file)
    assert "is taken as 28 channels of 28 x 1" in note


@pytest.mark.parametrize(
    "shape", [(22, 50, 1), (64, 25, 3), (9, 10, 4), (16, 8, 4), (28, 28, 1), (21, 25, 3), (8, 8, 3)]
)
def test_sensors_joints_and_frequencies_are_a_note(shape: tuple[int, ...], tmp_path: Path) -> None:
    file = save(tmp_path, np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32))
    (note,) = notes(file)
    assert f"is taken as {shape[0]} channels of {shape[1]} x {shape[2]}; if it is not, transpose" in note
    assert read_own(str(tmp_path)).x.shape == (20, *shape)


@pytest.mark.parametrize(
    "shape",
    [(3, 32, 3), (3, 32, 1), (9, 128, 1), (6, 64, 3), (64, 2, 1), (2, 2, 3), (4, 28, 1), (5, 5, 3), (16, 8, 4)],
)
def test_what_may_be_either_is_a_note(shape: tuple[int, ...]) -> None:
    a, b, c = shape
    assert check_layout("here: x", np.zeros((2, *shape), np.uint8)) == (
        f"here: x looks like [n, height, width, channels] = [n, {a}, {b}, {c}], and is taken as {a} channels of "
        f"{b} x {c}; if it is not, transpose it to [n, channels, height, width], by x.transpose(0, 3, 1, 2)"
    )


def test_other_numbers_of_axes_are_none_of_its_business() -> None:
    for shape in ((3,), (32, 3), (8, 32, 32, 3)):
        assert check_layout("x", np.zeros((2, *shape), np.uint8)) is None


class ChannelsLast(DataChoice):
    """A user's own data set."""

    name: str = "mine"
    clients: int = 2

    def load(self) -> Dataset:
        x = np.zeros((20, 8, 8, 3), np.uint8)
        return Dataset(x, np.arange(20) % 2, 2, *channel_statistics(x))


def test_a_data_set_of_ones_own_is_seen_too() -> None:
    with pytest.raises(ConfigError, match=r"^data\.name = 'mine': x looks like \[n, height, width, channels\]"):
        federate(ChannelsLast(), 0)


TOKENS = np.random.default_rng(0).integers(0, 50, (20, 6))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint16, np.uint32])
def test_whole_numbers_may_be_token_ids(tmp_path: Path, dtype: Any) -> None:
    file = save(tmp_path, TOKENS.astype(dtype))
    for kind in ("dataset", "pixel"):
        assert notes(file, normalise=kind) == (
            "data: x holds whole numbers; token ids need data.normalise = 'none', and x.long() in the model, where "
            f"data.normalise is {kind!r}",
        )
    assert notes(file, normalise="none") == ()
    assert read_own(str(tmp_path)).notes == (
        f"{file}: x holds whole numbers; token ids need data.normalise = 'none', and x.long() in the model",
    )


def test_bytes_in_rows_may_be_token_ids(tmp_path: Path) -> None:
    file = save(tmp_path, TOKENS.astype(np.uint8))
    for all_notes in (notes(file), notes(file, normalise="none"), read_own(str(tmp_path)).notes):
        (note,) = all_notes
        assert note.startswith(f"{file}: x holds bytes, which are divided by 255 as those of images are; if these are")


def test_numbers_and_images_are_taken_without_a_word(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for x in (
        rng.normal(size=(20, 6)),
        rng.normal(1000, 1, size=(20, 6)),
        np.full((20, 2), 0.1 + 0.2) - np.arange(20)[:, None] * 1e-17,  # a constant but for float64's rounding
        np.full((20, 2), 1.57),
        rng.integers(0, 256, (20, 8, 8)).astype(np.uint8),
        rng.normal(size=(20, 3, 5)).astype(np.float32),
    ):
        file = save(tmp_path, x)
        assert notes(file) == read_own(str(tmp_path)).notes == ()


@pytest.mark.parametrize("first", [2**24 + 1, 1_700_000_001, -(2**24) - 1, 2**53 + 1])
def test_whole_numbers_that_float32_has_not(tmp_path: Path, first: int) -> None:
    x = np.column_stack([np.full(20, first), np.arange(20)])
    note = notes(save(tmp_path, x))[0]
    assert note.startswith(
        f"{tmp_path / 'train.npz'}: x: 20 whole numbers beyond 2**24 are rounded to float32, as {first} to "
        f"{int(np.float32(first))}; subtract"
    )
    assert read_own(str(tmp_path)).notes[0] == note
    x[:, 0] = 2**24 if first > 0 else -(2**24)
    assert len(notes(save(tmp_path, x))) == 1  # that they may be token ids


@pytest.mark.parametrize(("low", "high"), [(1.7e9, 1.7e9 + 2), (1000.0, 1000.001), (-1e6, -1e6 + 0.5)])
def test_numbers_that_float32_does_not_tell_apart(tmp_path: Path, low: float, high: float) -> None:
    x = np.column_stack([np.random.default_rng(0).normal(size=20), np.linspace(low, high, 20)])
    (note,) = notes(save(tmp_path, x))
    assert note == (
        f"{tmp_path / 'train.npz'}: x: number 1 of a sample goes from {low!r} to {high!r}, which float32 hardly tells "
        f"apart; subtract {low:g} first"
    )
    x[:, 1] -= low
    assert notes(save(tmp_path, x)) == ()


def test_many_files_say_it_once(tmp_path: Path) -> None:
    for i in range(5):
        np.savez(tmp_path / f"{i}.npz", x=np.full((6, 2), 2**24 + 1 + 2 * i), y=np.arange(6) % 2)
    all_notes = of_layout(federate(read_data({"name": "npz", "path": str(tmp_path)}), 0).notes)
    assert len(all_notes) == 3
    assert all_notes[0].startswith(f"{tmp_path / '0.npz'}: x: 12 whole numbers beyond 2**24")
    assert all_notes[1] == f"{tmp_path}: the like is true of 4 other arrays"


def test_a_targets_notes_name_it(tmp_path: Path) -> None:
    file = save(tmp_path, np.random.default_rng(0).normal(size=(20, 6)))
    other = tmp_path / "other.npz"
    np.savez(other, x=TOKENS, y=np.arange(20) % 3 % 2 + 0)
    np.savez(tmp_path / "gap.npz", x=TOKENS / 1, y=np.arange(20) % 2 * 2)
    table = {"name": "npz", "path": str(other), "partition": "iid"}
    assert notes(file, target=table) == ()
    gap = {**table, "path": str(tmp_path / "gap.npz")}
    (note,) = notes(file, classes=3, target=gap)
    assert note.startswith(f"data.target: {tmp_path / 'gap.npz'}: y: only 2 of 3 classes have a sample")
