"""Columns that do not vary, or hardly: what they are normalised with, in a simulation and out of clients' sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.dataset import channel_statistics, moments
from fedtl.data.federate import federate
from fedtl.data.own.read import read_own
from fedtl.data.own.statistics import normaliser, statistics

F32 = np.float32
EPS = float(np.finfo(F32).eps)
ROWS = 1000


def columns(*values: Any) -> NDArray[np.float32]:
    """Columns of :data:`ROWS` float32 numbers; a shorter one is repeated."""
    return np.stack([np.resize(np.asarray(value, F32), ROWS) for value in values], axis=1)


def next_after(value: float, steps: int = 1) -> np.float32:
    result = F32(value)
    for _ in range(steps):
        result = np.nextafter(result, F32(np.inf))
    return result


@pytest.mark.parametrize("value", [0, 1.5, 1.57, 14.62, -0.1, 1000.1, 1.7e9, 1e-30, 1e-42, 1e30, -3e38])
@pytest.mark.parametrize("samples", [1, 2, 3, 999, 9001])
def test_a_constant_has_the_standard_deviation_one(value: float, samples: int) -> None:
    mean, std = channel_statistics(np.full((samples, 2), value, F32))
    assert std.tolist() == [1, 1]
    assert mean == pytest.approx(np.full(2, F32(value)), rel=2 * EPS)


def test_a_whole_image_may_be_constant() -> None:
    for images in (np.full((40, 3, 7, 5), 0.3, F32), np.full((40, 3, 7, 5), 77, np.uint8)):
        mean, std = channel_statistics(images)
        assert std.tolist() == [[[1]]] * 3
        assert mean.shape == std.shape


@pytest.mark.parametrize(
    "pair",
    [
        (1, 1 + 1e-7),
        (1.57, next_after(1.57)),
        (1.7e9, next_after(1.7e9)),
        (14.62, next_after(14.62, 4)),
        (1e-40, 3e-40),
    ],
)
def test_what_differs_by_its_rounding_alone_is_constant(pair: tuple[float, float]) -> None:
    _, std = channel_statistics(columns(pair))
    assert std.tolist() == [1]


@pytest.mark.parametrize(
    "pair",
    [
        (1, 1 + 1e-5),
        (1000, 1000.001),
        (999.999, 1000.001),
        (1.7e9, 1.7e9 + 1024),
        (1e-30, 2e-30),
        (-1e-6, 1e-6),
        (1e30, 1.0001e30),
        (-3e38, 3e38),
    ],
)
def test_what_differs_by_more_varies(pair: tuple[float, float]) -> None:
    x = columns(pair)
    mean, std = channel_statistics(x)
    assert std == pytest.approx(x.std(axis=0, dtype=np.float64), rel=1e-6)
    assert mean == pytest.approx(x.mean(axis=0, dtype=np.float64), rel=1e-6, abs=1e-6 * float(std[0]))


@pytest.mark.parametrize("far", [0, 1e5, -1e9])
def test_the_first_sample_may_be_unlike_all_others(far: float) -> None:
    """Differences are taken from it."""
    x = np.random.default_rng(0).normal(20, 0.5, (9001, 1)).astype(F32)
    x[0] = far
    mean, std = moments(x, np.arange(len(x)), (0,))
    assert mean == pytest.approx(x.mean(axis=0, dtype=np.float64), rel=1e-12)
    assert std == pytest.approx(x.std(axis=0, dtype=np.float64), rel=1e-9)


def save(file: Path, **arrays: Any) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)
    return str(file)


def simulated(tmp_path: Path, x: NDArray[Any], kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    path = save(tmp_path / "all.npz", x=x, y=np.arange(len(x)) % 2)
    table = {"name": "npz", "path": path, "clients": 4, "partition": "iid", "server_test_share": 0}
    federation = federate(read_data({**table, "normalise": kind}), 0)
    return federation.scale, federation.shift


def deployed(tmp_path: Path, parts: list[NDArray[Any]], kind: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    each = []
    for i, part in enumerate(parts):
        save(tmp_path / f"{i}/train.npz", x=part, y=np.arange(len(part)) % 2)
        each.append(statistics(read_own(str(tmp_path / str(i))), kind))
    return normaliser(kind, each, parts[0].shape[1:], F32)


VARIED = columns(
    1.57,  # constant everywhere
    [1.57] * 700 + [1.58] * 300,  # constant at all clients but one or two
    np.repeat([3.0, 5.0, 7.0, 9.0], 250),  # constant at each client, and another constant at each
    (1, 1 + 1e-7),
    (1000, 1000.001),
    1.7e9 + 1024 * np.arange(8),
    np.random.default_rng(0).normal(size=ROWS),
    1e30,
)


@pytest.mark.parametrize("kind", ["dataset", "pixel"])
def test_clients_sums_say_what_a_simulation_says(tmp_path: Path, kind: str) -> None:
    parts = np.split(VARIED, 4)
    scale, shift = simulated(tmp_path, VARIED, kind)
    for order in (parts, parts[::-1], [VARIED[:1], VARIED[1:2], VARIED[2:]]):
        other_scale, other_shift = deployed(tmp_path / str(len(order)) / str(order[0][0, 2]), order, kind)
        assert other_scale == pytest.approx(scale, rel=1e-6)
        assert other_shift == pytest.approx(shift, rel=1e-6)
    constant = 1 if kind == "dataset" else 1000
    assert scale[[0, 3, 7]] == pytest.approx([constant] * 3)
    exact = VARIED[:, [1, 2, 4, 5, 6]].std(axis=0, dtype=np.float64) + (0 if kind == "dataset" else 0.001)
    assert scale[[1, 2, 4, 5, 6]] == pytest.approx(1 / exact, rel=1e-5)
    inputs = VARIED[:, [0, 3, 7]] * scale[[0, 3, 7]] + shift[[0, 3, 7]]
    assert np.abs(inputs[:, [0, 2]]).max() <= 1e-3 * constant  # what was constant is 0, or nearly
    assert np.abs(inputs).max() < 1


def test_times_keep_their_spread_in_clients_sums(tmp_path: Path) -> None:
    """A sum of squares of such numbers has no digit left for it."""
    x = (1.7e9 + 128 * np.arange(40)).astype(F32)[:, None]
    scale, _ = deployed(tmp_path, [x[:15], x[15:30], x[30:]], "dataset")
    assert scale == pytest.approx(1 / x.std(axis=0, dtype=np.float64), rel=1e-5)


def test_a_constant_that_is_too_large_by_pixel_is_an_error(tmp_path: Path) -> None:
    message = "data.normalise = 'pixel': a mean of 1e.36, divided by .* is too large for float32; use 'dataset'"
    with pytest.raises(ConfigError, match=message):
        simulated(tmp_path, np.full((20, 2), 1e36), "pixel")


def test_bytes_are_summed_exactly(tmp_path: Path) -> None:
    """Bytes that differ in one place among many vary."""
    x = np.full((100_000, 1), 254, np.uint8)
    x[77] = 255
    mean, std = channel_statistics(x)
    assert mean * 255 == pytest.approx(254.00001, rel=1e-6)
    assert std * 255 == pytest.approx(x.std(axis=0, dtype=np.float64), rel=1e-4)
