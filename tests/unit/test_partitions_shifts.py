"""Concept and feature shift on top of a partition: other labels, other places, common corruptions."""

from __future__ import annotations

from math import factorial
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.federation import Federation, Shards
from fedtl.data.partitions import read_partition
from fedtl.data.partitions.corrupted import Corrupted
from fedtl.data.partitions.permuted_labels import PermutedLabels
from fedtl.data.partitions.swapped_features import SwappedFeatures
from fedtl.data.views.corruptions import CONSTANTS, Corruption, corrupt

RNG = np.random.default_rng(0)
COLOURED = RNG.integers(0, 256, (6, 3, 32, 32), np.uint8)


def digits(partition: Any, seed: int = 0, **options: Any) -> Federation:
    return federate(read_data({"name": "digits", "clients": 8, "partition": partition, **options}), seed)


def one_each(n: int) -> Shards:
    return Shards.of([np.array([i]) for i in range(n)])


# --- labels ---


def test_a_group_calls_the_classes_by_other_labels_in_training_and_in_test_data() -> None:
    partition = {"name": "permuted-labels", "groups": 3, "base": {"name": "dirichlet", "alpha": 0.5}}
    plain, permuted = digits(partition["base"]), digits(partition)
    orders = PermutedLabels(groups=3).orders(10, 0)
    for shards, others in ((plain.train, permuted.train), (plain.test, permuted.test)):
        for client in range(8):
            assert np.array_equal(shards[client], others[client])
            assert np.array_equal(permuted.y[others[client]], orders[client % 3][plain.y[shards[client]]])
    assert np.array_equal(permuted.y[permuted.server_test], plain.y[plain.server_test])
    assert permuted.fingerprint() != plain.fingerprint()
    assert np.array_equal(digits(partition, seed=1).x, permuted.x)
    assert not np.array_equal(PermutedLabels(groups=3).orders(10, 1), orders)


@pytest.mark.parametrize("moved", [2, 3, 10])
def test_no_two_groups_have_the_same_order_and_the_first_has_the_data_sets(moved: int) -> None:
    groups = min(factorial(moved), 24)
    orders = PermutedLabels(groups=groups, classes=moved).orders(10, 7)
    assert len({tuple(order) for order in orders.tolist()}) == groups
    assert orders[0].tolist() == list(range(10))
    assert (np.sort(orders) == np.arange(10)).all()
    assert (orders[:, moved:] == np.arange(moved, 10)).all()


def test_orders_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"data\.partition\.classes = 11: there are only 10 classes"):
        digits({"name": "permuted-labels", "classes": 11})
    with pytest.raises(ConfigError, match=r"data\.partition\.groups = 7: 3 labels have only 6 orders"):
        digits({"name": "permuted-labels", "classes": 3, "groups": 7})


def test_wrong_labels_come_on_top_of_a_groups_own() -> None:
    """With pairs flipped at every training sample a label is the next one after what the group calls it."""
    partition = {"name": "label-noise", "share": 1, "kind": "pair", "base": {"name": "permuted-labels", "groups": 2}}
    plain, noisy = digits("iid"), digits(partition)
    orders = PermutedLabels(groups=2).orders(10, 0)
    for client in range(8):
        called = orders[client % 2]
        train, test = noisy.train[client], noisy.test[client]
        assert np.array_equal(noisy.y[train], (called[plain.y[train]] + 1) % 10)
        assert np.array_equal(noisy.y[test], called[plain.y[test]])


# --- places ---


@pytest.mark.parametrize("shape", [(9,), (4, 5), (3, 6, 5)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_swapped_features_are_a_groups_own_pairs(shape: tuple[int, ...], share: float) -> None:
    x = RNG.random((6, *shape)).astype(np.float32)
    partition = SwappedFeatures(groups=3, share=share)
    seen = partition.shift(x, one_each(6), 5)
    features = {1: 9, 2: 4, 3: 30}[len(shape)]
    orders = partition.orders(features, 5)
    for client in range(6):
        order = orders[client % 3]
        flat, other = (each[client].reshape(-1, features).T if len(shape) == 3 else each[client] for each in (x, seen))
        assert np.array_equal(other, flat[order])
        assert np.array_equal(order[order], np.arange(features))  # they swap in pairs
        moved = int((order != np.arange(features)).sum())
        assert moved == (0 if client % 3 == 0 else 2 * round(share * features / 2 - 1e-9))
    if share == 1:
        assert not np.array_equal(orders[1], orders[2])
    assert np.array_equal(x[0], seen[0])


# --- corruptions ---


def test_the_constants_are_those_of_cifar_10_c() -> None:
    """By make_cifar_c.py of hendrycks/robustness at ca36008."""
    assert CONSTANTS == {
        "gaussian-noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "gaussian-blur": (0.4, 0.6, 0.7, 0.8, 1),
        "defocus-blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    }


def by_their_words(image: np.ndarray, kind: str, constant: Any) -> np.ndarray:
    """What the paper's code does, out of SciPy, Pillow and colorsys, ``[height, width, 3]`` from 0 to 1."""
    import colorsys

    x = image.transpose(1, 2, 0) / 255
    if kind == "gaussian-blur":
        x = gaussian_filter(x, (constant, constant, 0), mode="nearest")
    elif kind == "defocus-blur":  # OpenCV's filters mirror the image without its last pixel, as SciPy's "mirror"
        radius, sigma = constant
        place = np.arange(-8, 9)
        disk = (place**2 + place[:, None] ** 2 <= radius**2).astype(float)
        taps = np.exp(-np.array([1, 0, 1]) / (2 * sigma**2))
        kernel = convolve(disk / disk.sum(), np.outer(taps, taps) / taps.sum() ** 2, mode="mirror")
        x = convolve(x, kernel[..., None], mode="mirror")
    elif kind == "contrast":
        x = (x - x.mean(axis=(0, 1))) * constant + x.mean(axis=(0, 1))
    elif kind == "brightness":
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3)]
        x = np.array([colorsys.hsv_to_rgb(h, s, min(v + constant, 1)) for h, s, v in hsv]).reshape(x.shape)
    elif kind == "pixelate":
        small = (int(32 * constant), int(32 * constant))
        picture = Image.fromarray(image.transpose(1, 2, 0)).resize(small, Image.Resampling.BOX)
        x = np.asarray(picture.resize((32, 32), Image.Resampling.BOX)) / 255
    return np.clip(x, 0, 1).transpose(2, 0, 1) * 255


@pytest.mark.parametrize("strength", [1, 3, 5])
@pytest.mark.parametrize("kind", [kind for kind in get_args(Corruption) if kind != "gaussian-noise"])
def test_corruptions_are_the_papers(kind: Any, strength: int) -> None:
    images = COLOURED.copy()
    images[0, :, :4] = 0  # black has no hue
    images[1, :, :4] = 255
    seen = corrupt(images, kind, strength, RNG)
    for image, other in zip(images[:2], seen):
        expected = by_their_words(image, kind, CONSTANTS[kind][strength - 1])
        assert abs(other - expected).max() <= 0.5 + 1e-6  # rounded, where they cut off
    assert seen.dtype == np.uint8
    assert (seen != images).any()


def test_a_partition_that_names_no_kinds_has_those_of_before() -> None:
    """Runs keep their bits when a kind is added."""
    before = ("gaussian-noise", "gaussian-blur", "contrast", "brightness", "pixelate")
    assert Corrupted().kinds == before


def test_noise_has_the_papers_deviation_and_stays_within_a_byte() -> None:
    grey = np.full((40, 1, 32, 32), 128, np.uint8)
    for strength, sigma in enumerate(CONSTANTS["gaussian-noise"], 1):
        noise = corrupt(grey, "gaussian-noise", strength, np.random.default_rng(1)).astype(float) - 128
        assert noise.std() == pytest.approx(255 * sigma, rel=0.02)
    black = corrupt(np.zeros((4, 1, 32, 32), np.uint8), "gaussian-noise", 5, np.random.default_rng(1))
    assert black.max() < 255 * 0.1 * 6  # without the bounds it would wrap round


def test_each_client_has_a_corruption_and_a_strength_of_its_own() -> None:
    partition = Corrupted(kinds=("none", "contrast", "pixelate"), strengths=(1, 5))
    kinds, strengths = partition.of_clients(7)
    assert kinds.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert strengths.tolist() == [1, 1, 1, 5, 5, 5, 1]
    x = np.concatenate([COLOURED, COLOURED[:1]])
    seen = partition.shift(x, one_each(7), 0)
    for client in range(7):
        kind = partition.kinds[kinds[client]]
        one = x[client : client + 1]
        expected = one if kind == "none" else corrupt(one, kind, int(strengths[client]), RNG)
        assert np.array_equal(seen[client : client + 1], expected)


def test_images_that_are_no_bytes_go_from_the_smallest_to_the_largest_number() -> None:
    """As bytes, but for their rounding, of numbers from -2 to 2."""
    others = ("gaussian-noise", "pixelate")  # the one is drawn, and for the other Pillow rounds bytes twice
    kinds = tuple(kind for kind in get_args(Corruption) if kind not in others)
    bytes = COLOURED.copy()
    bytes[0, 0, 0, :2] = 0, 255
    partition = Corrupted(kinds=kinds)
    expected = partition.shift(bytes, one_each(6), 0).astype(np.float64)
    seen = partition.shift((bytes / 255 * 4 - 2).astype(np.float32), one_each(6), 0)
    assert seen.dtype == np.float32
    assert abs((seen + 2) / 4 * 255 - expected).max() <= 0.5 + 1e-3


def test_tokens_that_are_predicted_stay_in_their_places() -> None:
    data = {"name": "made", "clients": 4, "task": "next_token", "partition": {"name": "swapped-features"}}
    with pytest.raises(ConfigError, match=r"it changes samples, of which data\.task = 'next_token' predicts their own"):
        federate(read_data(data), 0)


def test_what_cannot_be_corrupted_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"only images .* can be corrupted, but a sample has shape \[60\]"):
        federate(read_data({"name": "synthetic", "clients": 3, "partition": "corrupted"}), 0)
    with pytest.raises(ConfigError, match=r"data\.partition\.strengths\.0 = 6: "):
        read_partition({"name": "corrupted", "strengths": [6]})
    with pytest.raises(ConfigError, match=r"data\.partition\.kinds"):
        read_partition({"name": "corrupted", "kinds": ["fog"]})
