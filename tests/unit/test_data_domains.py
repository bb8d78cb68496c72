"""Several domains in one federation: another domain, few labels, public samples, and how images are made alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.data import read_data
from fedtl.data.dataset import channel_statistics
from fedtl.data.federate import federate, split_labelled
from fedtl.data.federation import Domain, Federation, Shards
from fedtl.data.partitions.rotated import rotate
from fedtl.data.sets.digits import Digits
from fedtl.data.views.images import resize, with_channels
from fedtl.data.views.textures import SIDE, texture
from fedtl.data.views.transform import ImageTransform
from fedtl.random import Purpose

needs_data = pytest.mark.skipif(not os.environ.get("FEDTL_DATA"), reason="FEDTL_DATA is not set")

DIGITS = Digits(clients=1).load()
N = len(DIGITS.x)
INVERTED = {"name": "digits", "transform": {"invert": True}}


def digits(seed: int = 0, **options: Any) -> Federation:
    return federate(read_data({"name": "digits", "clients": 10, **options}), seed)


def target_of(federation: Federation) -> Domain:
    assert federation.target is not None
    return federation.target


def covers(domain: Federation | Domain, first: int, n: int) -> bool:
    """Whether each of ``n`` samples from ``first`` on is at one client, for training or testing, or at the server."""
    parts = np.concatenate([domain.train.order, domain.test.order, domain.server_test])
    return np.array_equal(np.sort(parts), np.arange(first, first + n))


def same(a: Shards, b: Shards) -> bool:
    return np.array_equal(a.order, b.order) and np.array_equal(a.offsets, b.offsets)


def save(path: Path, x: np.ndarray, classes: int = 10) -> dict[str, Any]:
    np.savez(path, x=x, y=np.arange(len(x)) % classes)
    return {"name": "npz", "path": str(path), "partition": "iid"}


# --- who holds a target ---


def test_the_same_clients_hold_both_domains():
    federation, alone = digits(target=INVERTED), digits()
    target = target_of(federation)
    assert federation.clients == len(target.train) == len(target.test) == 10
    assert covers(federation, 0, N)
    assert covers(target, N, N)
    assert np.array_equal(federation.x[N:], 255 - DIGITS.x)
    assert np.array_equal(federation.y[N:], DIGITS.y)
    assert target.train.sizes.min() > 0
    assert target.test.sizes.min() > 0
    for a, b in ((federation.train, alone.train), (federation.test, alone.test)):
        assert same(a, b)  # the source is as it would be alone
    assert np.array_equal(federation.x[:N], alone.x)
    assert np.array_equal(federation.scale, alone.scale)
    assert np.array_equal(federation.shift, alone.shift)


def test_further_clients_hold_the_target_and_nothing_else():
    choice = read_data({"name": "digits", "clients": 10, "target": {**INVERTED, "clients": 4, "partition": "shards"}})
    assert choice.holders == 14
    federation = federate(choice, 0)
    target = target_of(federation)
    assert federation.clients == len(federation.test) == len(target.train) == len(target.test) == 14
    for mine, theirs in ((federation.train, target.train), (federation.test, target.test)):
        assert (mine.sizes[:10] > 0).all()
        assert (mine.sizes[10:] == 0).all()
        assert (theirs.sizes[:10] == 0).all()
        assert (theirs.sizes[10:] > 0).all()
    assert covers(federation, 0, N)
    assert covers(target, N, N)
    assert same(Shards(federation.train.order, federation.train.offsets[:11]), digits().train)


def test_holders():
    assert read_data({"name": "digits", "clients": 3, "target": "digits"}).holders == 3
    assert read_data({"name": "digits", "clients": 3}).holders == 3
    assert read_data({"name": "watch"}).holders is None
    assert read_data({"name": "watch", "target": {"name": "watch", "clients": 10}}).holders is None


def test_a_target_is_divided_by_its_own_options():
    alone = digits(partition={"name": "dirichlet", "alpha": 0.1, "min_size": 1}, test_share=0.5, server_test_share=0.1)
    options = {"partition": {"name": "dirichlet", "alpha": 0.1, "min_size": 1}, "test_share": 0.5}
    target = target_of(digits(target={**INVERTED, **options, "server_test_share": 0.1}))
    assert same(target.train.moved(-N), alone.train)
    assert same(target.test.moved(-N), alone.test)
    assert np.array_equal(target.server_test - N, alone.server_test)


def test_of_two_looks_of_one_data_set_an_image_is_test_data_of_both_or_of_neither():
    federation = digits(target=INVERTED, partition="shards")
    assert np.array_equal(target_of(federation).server_test - N, federation.server_test)
    alike = digits(target=INVERTED)
    assert same(target_of(alike).test.moved(-N), alike.test)


def test_a_target_of_owners_goes_to_as_many_clients():
    watch = {"name": "watch"}
    federation = federate(read_data({**watch, "target": watch}), 0)
    target, n = target_of(federation), len(federation.x) // 2
    assert federation.clients == len(target.train) == 10
    assert covers(target, n, n)
    further = federate(read_data({**watch, "target": {**watch, "clients": 10}}), 0)
    assert further.clients == 20
    with pytest.raises(ConfigError) as caught:
        federate(read_data({**watch, "clients": 5, "partition": "iid", "target": watch}), 0)
    assert str(caught.value) == ("data.clients = 5 for data.target: the data have 10 owners; say 10 or leave it out")


def test_same_seed_same_bits_and_another_seed_others():
    options: dict[str, Any] = {
        "target": {"name": "digits", "transform": {"photographs": True}, "partition": {"name": "noisy"}},
        "public": {"name": "digits", "samples": 40},
    }
    first, again, other = digits(**options), digits(**options), digits(1, **options)
    assert np.array_equal(first.x, again.x)
    assert np.array_equal(first.public, again.public)
    assert same(target_of(first).train, target_of(again).train)
    assert not np.array_equal(target_of(first).train.order, target_of(other).train.order)
    assert not np.array_equal(first.x[first.public], other.x[other.public])


def test_label_counts_of_the_target():
    federation = digits(target={**INVERTED, "clients": 4})
    counts = federation.label_counts(target=True)
    assert counts.shape == (14, 10)
    assert (counts[:10] == 0).all()
    rest = np.bincount(DIGITS.y) - np.bincount(federation.y[target_of(federation).server_test])
    assert np.array_equal(counts.sum(axis=0), rest)
    assert np.array_equal(federation.label_counts(12, target=True), counts[:12])
    assert (federation.label_counts()[10:] == 0).all()
    assert digits().label_counts(target=True).sum() == 0


def test_who_is_the_first_to_hold_a_target():
    assert digits().first_of_target == 10
    assert digits(target=INVERTED).first_of_target == 0
    assert digits(target={**INVERTED, "clients": 4}).first_of_target == 10
    assert digits(labelled_fraction=0).first_of_target == 0


@pytest.mark.parametrize("further", [None, 4])
def test_the_picture_shows_the_target_below(further):
    from fedtl import plot

    federation = digits(target={**INVERTED, "clients": further})
    figure = plot.partition(federation)
    assert len(figure.axes) == 4
    heights = [[bar.get_height() for bar in axes.patches] for axes in (figure.axes[1], figure.axes[3])]
    first = 10 if further else 0
    assert heights[0] == federation.label_counts()[:10].sum(axis=1).tolist()
    assert heights[1] == federation.label_counts(target=True)[first:].sum(axis=1).tolist()
    assert figure.axes[1].get_title("left") == "Who holds what: 10 clients"
    title = "Who holds the target: 4 clients" if further else "What they hold of the target"
    assert figure.axes[3].get_title("left") == title
    few = plot.partition(digits(labelled_fraction=0.1))
    assert few.axes[3].get_title("left") == "What they hold without labels"
    low, high = figure.axes[2].get_xlim()
    assert (low, high) == pytest.approx((first - 0.7, first + len(heights[1]) - 0.3))
    first_two = plot.partition(federation, max_clients=2)
    assert [len(axes.patches) for axes in (first_two.axes[1], first_two.axes[3])] == [2, 2]


def test_the_partition_command_tells_of_the_target(tmp_path, capsys):
    from fedtl.cli.partition import partition

    def lines(*overrides: str) -> list[str]:
        partition("quickstart", ["data.name=digits", "data.clients=12", *overrides], tmp_path / "p.svg", rows=2)
        return capsys.readouterr().out.splitlines()

    alone = lines()
    note, warning, *further = lines(
        "data.target=digits", "data.target.clients=3", "data.public=digits", "data.public.samples=50"
    )
    assert warning.startswith("warning: ")  # the target's clients have the very samples of the others
    assert note == "data.public has no effect: no term needs public data"
    assert further[: len(alone) - 1] == alone[:-1]  # the last line is the picture's
    assert "target: digits, 3 clients, iid" in further
    assert [line.split()[:3] for line in further if line.strip().startswith(("12 ", "13 "))] == [
        ["12", "360", "120"],
        ["13", "359", "120"],
    ]
    assert further.count("and 1 more clients") == 1
    assert "training samples: 1078, 359 to 360 a client" in further
    assert "public samples: 50" in further
    few = lines("data.labelled_fraction=0.1", "data.partition=iid")
    assert any(line.split() == ["client", "train", "unlabelled", "test", "labels", "(samples)"] for line in few)
    assert [line.split()[:4] for line in few if line.strip().startswith("0 ")] == [["0", "9", "90", "30"]]
    assert "training samples: 108, 9 to 9 a client" in few
    assert "unlabelled training samples: 1078, 89 to 90 a client" in few


# --- few labels ---


def test_a_client_keeps_the_labels_of_a_part_and_holds_all_without():
    part, whole = digits(labelled_fraction=0.1), digits()
    target = target_of(part)
    assert same(target.train, whole.train)
    assert same(part.test, whole.test)
    assert len(part.x) == N
    assert target.test.sizes.tolist() == [0] * 10
    assert len(target.server_test) == 0
    assert part.train.sizes.tolist() == np.rint(whole.train.sizes * 0.1).tolist()
    for client in range(10):
        mine = whole.train[client]
        assert np.array_equal(part.train[client], mine[np.isin(mine, part.train[client])])  # a part, in order


def test_all_labels_change_nothing_and_none_leave_none():
    whole, all_of_them, none = digits(), digits(labelled_fraction=1), digits(labelled_fraction=0)
    assert all_of_them.target is None
    assert same(whole.train, all_of_them.train)
    assert none.train.sizes.tolist() == [0] * 10
    assert same(target_of(none).train, whole.train)
    assert same(none.test, whole.test)
    assert len(none.public) == 0


@settings(max_examples=60, deadline=None)
@given(
    clients=st.integers(1, 30),
    classes=st.integers(1, 8),
    fraction=st.floats(0.001, 1),
    seed=st.integers(0, 1000),
)
def test_a_part_is_stratified_and_nobody_is_left_without(clients, classes, fraction, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, clients)
    train = Shards.from_sizes(rng.permutation(sizes.sum()), sizes)
    labels = rng.integers(0, classes, len(train.order))
    shards = split_labelled(train, labels, fraction, seed)
    take = np.maximum(np.rint(sizes * fraction), 1).astype(int)
    assert shards.sizes.tolist() == take.tolist()
    for client in range(clients):
        assert set(shards[client]) <= set(train[client])
        fair = np.bincount(labels[train[client]], minlength=classes) * take[client] / sizes[client]
        assert (abs(np.bincount(labels[shards[client]], minlength=classes) - fair) < 1).all()


def test_every_sample_is_as_likely_to_keep_its_label_and_labels_are_rounded_up_independently():
    clients, each = 4000, 8  # two of each of four labels at every client, of which two samples keep theirs
    train = Shards.from_sizes(np.arange(clients * each), np.full(clients, each))
    labels = np.tile(np.repeat(np.arange(4), 2), clients)
    shards = split_labelled(train, labels, 0.25, 3)
    times = np.bincount(shards.order % each, minlength=each)
    assert abs(times - clients / 4).max() < 5 * np.sqrt(clients * 3 / 16)
    pairs = np.sort(labels[shards.order].reshape(clients, 2), axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(kinds) == 6  # any two of the four, none twice
    assert abs(counts - clients / 6).max() < 5 * np.sqrt(clients * 5 / 36)


def test_which_labels_stay_is_the_seeds():
    first, again, other = (digits(seed, labelled_fraction=0.2) for seed in (0, 0, 1))
    assert same(first.train, again.train)
    assert not np.array_equal(first.train.order, other.train.order)


# --- public samples ---


def test_public_samples_are_the_training_pools_and_have_no_labels():
    federation, alone = digits(public=INVERTED), digits()
    assert np.array_equal(federation.public, np.arange(N, len(federation.x)))
    pool = np.setdiff1d(np.arange(N), alone.server_test)
    assert np.array_equal(federation.x[federation.public], 255 - DIGITS.x[pool])
    assert (federation.y[federation.public] == 0).all()
    assert same(federation.train, alone.train)
    assert np.array_equal(federation.scale, alone.scale)


def test_so_many_public_samples(tmp_path):
    other = save(tmp_path / "other.npz", np.arange(50 * 12 * 12, dtype=np.uint8).reshape(50, 12, 12), classes=25)
    del other["partition"]
    federation = digits(public={**other, "samples": 7, "server_test_share": 0}, target=INVERTED)
    assert federation.public.tolist() == list(range(2 * N, 2 * N + 7))
    assert federation.x.shape == (2 * N + 7, 1, 8, 8)
    assert federation.classes == 10  # the other's 25 mean nothing


def test_public_samples_are_nobodys_test_data(tmp_path):
    rows = np.arange(12, dtype=np.uint8)
    x, user = np.broadcast_to(rows[:, None, None], (12, 8, 8)), rows % 3
    test = {"x_test": x[8:], "y_test": rows[8:], "user_test": user[8:]}
    np.savez(tmp_path / "a.npz", x=x[:8], y=rows[:8], user=user[:8], **test)
    federation = digits(public={"name": "npz", "path": str(tmp_path / "a.npz")})
    assert federation.x[federation.public, 0, 0, 0].tolist() == list(range(8))
    every = digits(public={"name": "npz", "path": str(tmp_path / "a.npz"), "pool": "all"})
    assert len(every.public) == 12


def test_coloured_public_samples_make_all_coloured():
    federation = digits(public={"name": "digits", "transform": {"photographs": True}}, target=INVERTED)
    assert federation.shape == (3, 8, 8)
    assert np.array_equal(federation.x[:N], np.repeat(DIGITS.x, 3, axis=1))
    assert np.array_equal(federation.x[N : 2 * N, 2], 255 - DIGITS.x[:, 0])


def test_only_so_many_samples_are_divided():
    federation = digits(samples=300, server_test_share=0.1)
    rows = np.concatenate([federation.train.order, federation.test.order])
    assert len(np.unique(rows)) == len(rows) == 300
    assert not np.isin(rows, federation.server_test).any()


# --- images ---


@pytest.mark.parametrize("size", [(16, 16), (7, 20), (28, 28), (40, 13)])
def test_images_are_resized_as_torch_does_it(size):
    import torch

    x = np.random.default_rng(0).integers(0, 256, (5, 3, 28, 28)).astype(np.uint8)
    expected = torch.nn.functional.interpolate(torch.tensor(x).double(), size, mode="bilinear", antialias=True).numpy()
    resized = resize(x, *size)
    assert resized.dtype == np.uint8
    assert abs(resized - expected).max() < 0.51  # rounded once
    floats = resize(x.astype(np.float32), *size)
    assert floats.dtype == np.float32
    assert np.allclose(floats, expected, atol=0.02)


def test_resizing_keeps_a_plain_image_and_leaves_its_input():
    plain = np.full((2, 1, 9, 9), 255, np.uint8)
    assert (resize(plain, 31, 4) == 255).all()
    assert resize(plain, 9, 9) is plain


def test_channels_are_converted_as_pillow_does_it():
    from PIL import Image

    x = np.random.default_rng(0).integers(0, 256, (3, 3, 20, 20)).astype(np.uint8)
    grey = with_channels(x, 1)
    for i in range(3):
        assert np.array_equal(grey[i, 0], np.asarray(Image.fromarray(x[i].transpose(1, 2, 0)).convert("L")))
    assert abs(with_channels(x.astype(np.float32), 1) - grey).max() < 0.51
    assert np.array_equal(with_channels(grey, 3), np.concatenate([grey] * 3, axis=1))
    assert np.array_equal(with_channels(with_channels(grey, 3), 1), grey)


def test_options_change_the_images_and_their_statistics():
    federation = digits(size=12, channels=3, transform={"invert": True, "rotate": 30.0})
    expected = rotate(255 - resize(DIGITS.x, 12, 12), 30.0)
    assert np.array_equal(federation.x, np.repeat(expected, 3, axis=1))
    mean, std = channel_statistics(federation.x)
    assert np.allclose(federation.scale, 1 / (255 * std))
    assert np.allclose(federation.shift, -mean / std)


def test_statistics_leave_the_official_test_set_out(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 6, 6)).astype(np.uint8)
    np.savez(
        tmp_path / "a.npz", x=x, y=np.arange(30) % 3, x_test=np.zeros((9, 6, 6), np.uint8), y_test=np.arange(9) % 3
    )
    table = {"name": "npz", "path": str(tmp_path / "a.npz"), "partition": "iid", "clients": 3}
    federation = federate(read_data({**table, "transform": {"invert": True}}), 0)
    assert 1 / (255 * federation.scale.item()) == pytest.approx(x.std() / 255, rel=1e-4)
    assert -federation.shift.item() / federation.scale.item() == pytest.approx(255 - x.mean(), rel=1e-4)


def test_photographs():
    images = np.zeros((400, 1, 28, 28), np.uint8)
    images[:, :, 10:18, 10:18] = 255
    transform = ImageTransform(photographs=True)
    output = transform.apply(images)
    assert output.shape == (400, 3, 28, 28)
    assert output.dtype == np.uint8
    background = transform.apply(np.zeros_like(images))  # of a black image the patch itself is left
    assert np.array_equal(output, np.where(images == 255, 255 - background, background))
    assert np.array_equal(transform.apply(images[:7]), output[:7])  # a sample's patch is its own
    assert len(np.unique(background.reshape(400, -1), axis=0)) == 400
    assert not np.array_equal(background[:, 0], background[:, 2])


def test_a_patch_is_a_piece_of_a_photograph():
    from sklearn.datasets import load_sample_images

    patch = ImageTransform(photographs=True).apply(np.zeros((1, 1, 8, 8), np.uint8))[0].transpose(1, 2, 0)
    windows = (np.lib.stride_tricks.sliding_window_view(photo[..., 0], (8, 8)) for photo in load_sample_images().images)
    assert any((view == patch[..., 0]).all(axis=(2, 3)).any() for view in windows)


def test_half_of_the_patches_are_of_textures_where_there_are_such():
    black = np.zeros((400, 1, 8, 8), np.uint8)
    photographs, both = (ImageTransform(photographs=True, textures=n).apply(black) for n in (0, 3))
    windows = [
        np.lib.stride_tricks.sliding_window_view(texture(number), (8, 8), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
        for number in range(3)
    ]
    of = [[(view == patch).all(axis=(2, 3, 4)).any() for view in windows] for patch in both[:20]]
    assert {sum(row) for row in of} == {0, 1}
    assert np.any(of, axis=0).all()  # of each of them
    draws = np.random.default_rng(Purpose.PATCHES).random((400, 3))[:20, 0]
    assert np.any(of, axis=1).tolist() == (draws >= 0.5).tolist()
    assert not np.array_equal(both, photographs)
    assert np.array_equal(ImageTransform(photographs=True, textures=3).apply(black[:7]), both[:7])


def test_textures_differ_and_are_always_the_same():
    each = [texture(number) for number in range(5)]
    assert all(np.array_equal(one, texture(number)) for number, one in enumerate(each))
    assert len({one.tobytes() for one in each}) == 5
    assert all(one.shape == (3, SIDE, SIDE) and one.std() > 5 for one in each)


def test_the_looks_of_a_target_come_after_it_has_the_sources_size():
    federation = digits(size=16, target={"name": "digits", "transform": {"photographs": True}})
    assert federation.shape == (3, 16, 16)
    assert np.array_equal(federation.x[:N], np.repeat(resize(DIGITS.x, 16, 16), 3, axis=1))
    assert np.array_equal(federation.x[N:], ImageTransform(photographs=True).apply(resize(DIGITS.x, 16, 16)))


def test_a_grey_target_of_a_coloured_source_and_another_size(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 10, 6)).astype(np.uint8)
    source = save(tmp_path / "a.npz", x)
    federation = federate(read_data({**source, "clients": 2, "target": "digits"}), 0)
    assert np.array_equal(federation.x[:60], x)
    assert np.array_equal(federation.x[60:], np.repeat(resize(DIGITS.x, 10, 6), 3, axis=1))


@needs_data
@pytest.mark.data
def test_mnist_and_usps():
    target = {"name": "usps", "partition": {"name": "dirichlet", "alpha": 0.5}, "clients": 5}
    federation = federate(read_data({"name": "mnist", "clients": 20, "target": target}), 0)
    usps = read_data({"name": "usps", "clients": 1}).load()
    other = target_of(federation)
    assert federation.x.shape == (70_000 + len(usps.x), 1, 28, 28)
    assert federation.clients == 25
    assert covers(federation, 0, 70_000)
    assert covers(other, 70_000, len(usps.x))
    assert np.array_equal(other.server_test, np.arange(70_000 + (usps.official_test or 0), len(federation.x)))
    assert np.array_equal(federation.y[70_000:], usps.y)
    assert federation.x[70_000:].mean() == pytest.approx(usps.x.mean(), rel=0.01)
    assert federation.scale.item() == pytest.approx(1 / (255 * 0.3081), rel=1e-3)


# --- reading ---

WHOLE = {
    "name": "digits",
    "clients": 5,
    "size": 16,
    "channels": 3,
    "transform": {"rotate": 45},
    "target": {
        "name": "digits",
        "clients": 3,
        "partition": {"name": "noisy", "base": {"name": "dirichlet", "alpha": 2}},
        "transform": {"invert": True, "photographs": True},
    },
    "public": {"name": "digits", "samples": 9},
}


def test_a_choice_reads_back_equal_from_its_own_dump():
    choice = read_data(WHOLE)
    assert choice.target is not None
    assert choice.target.transform == ImageTransform(invert=True, photographs=True)
    for dump in (
        choice.model_dump(),
        choice.model_dump(mode="json"),
        choice.model_dump(mode="json", exclude_none=True),
    ):
        assert read_data(dump) == choice
    assert Digits(**{key: value for key, value in WHOLE.items() if key != "name"}) == choice


def config(*overrides: str, **data: Any) -> Any:
    tables = {
        "name": "x",
        "rounds": 1,
        "data": {"name": "digits", "clients": 4, **data},
        "model": {"name": "mlp"},
        "strategy": {"name": "fedavg", "local_steps": 1, "batch_size": 5, "lr": 0.1},
    }
    return read_config(tables, overrides)


def test_overrides():
    settings, _ = config(
        "data.target.name=usps", "data.target.partition.name=dirichlet", "data.target.partition.alpha=0.1"
    )
    assert (settings.data.target.name, settings.data.target.partition.alpha) == ("usps", 0.1)
    assert read_config(settings)[0] == settings
    settings, _ = config(
        "data.target=digits", "data.target.transform.invert=true", "data.public=usps", "data.public.samples=7"
    )
    assert settings.data.target.transform.invert
    assert (settings.data.public.name, settings.data.public.samples) == ("usps", 7)
    assert config("data.target=none", target=INVERTED)[0].data.target is None
    target = {"name": "usps", "root": "here", "partition": {"name": "dirichlet", "alpha": 0.1}}
    settings, notes = config("data.target.name=digits", "data.target.partition.name=iid", target=target)
    assert "data.target.name=digits: dropped root of usps" in notes
    assert "data.target.partition.name=iid: dropped alpha of dirichlet" in notes
    assert settings.data.target == config(target="digits")[0].data.target


def test_further_clients_may_be_sampled_too():
    assert config("strategy.clients_per_round=7", target={**INVERTED, "clients": 3})[0].data.holders == 7
    with pytest.raises(ConfigError) as caught:
        config("strategy.clients_per_round=8", target={**INVERTED, "clients": 3})
    assert str(caught.value) == (
        "strategy.clients_per_round = 8: there are only data.clients = 4 and data.target.clients = 3"
    )


READING = [
    ({"target": {}}, "data.target.name = None: give one of "),
    ({"target": 5}, "data.target = 5: give a table, as [data.target] name = 'usps', or a name"),
    ({"target": "usp"}, "data.target.name = 'usp' is unknown: did you mean 'usps'?"),
    ({"target": {"name": "digits", "clients": 0}}, "data.target.clients = 0: should be greater than 0"),
    ({"target": {"name": "npz"}}, "data.target.path is missing"),
    ({"public": {"name": "digits", "sample": 3}}, "data.public.sample is not a key here: did you mean 'samples'?"),
    (
        {"target": {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0}}},
        "data.target.partition.alpha = 0: should be greater than 0",
    ),
    ({"transform": {"rotat": 3}}, "data.transform.rotat is not a key here: did you mean 'rotate'?"),
    (
        {"target": {"name": "digits", "transform": {"rotate": "x"}}},
        "data.target.transform.rotate = 'x': should be a valid number",
    ),
    ({"channels": 2}, "data.channels = 2: should be 1 or 3"),
    ({"size": 0}, "data.size = 0: should be greater than 0"),
    ({"labelled_fraction": 1.5}, "data.labelled_fraction = 1.5: should be less than or equal to 1"),
    (
        {"target": {"name": "digits", "target": "usps"}},
        "data.target.target.name = 'usps': only [data] itself has a target; give it as [data.target]",
    ),
    (
        {"target": {"name": "digits", "public": "usps"}},
        "data.target.public.name = 'usps': only [data] itself has a public; give it as [data.public]",
    ),
    (
        {"target": {"name": "digits", "normalise": "pixel"}},
        "data.target.normalise = 'pixel': all samples are normalised as data.normalise says; leave it out",
    ),
    (
        {"target": {"name": "digits", "labelled_fraction": 0.5}},
        "data.target.labelled_fraction = 0.5: these samples have no labels for training anyway; leave it out",
    ),
    *(
        (
            {kind: {"name": "digits", "validation_share": 0.5}},
            f"data.{kind}.validation_share = 0.5: validation samples are of the clients' own labelled training "
            "samples, data.validation_share; leave it out",
        )
        for kind in ("target", "public")
    ),
    (
        {"public": {"name": "digits", "clients": 4}},
        "data.public.clients = 4: public samples are everybody's; leave it out",
    ),
    (
        {"public": {"name": "digits", "partition": "shards"}},
        "data.public.partition.name = 'shards': public samples are not divided; leave it out",
    ),
    (
        {"public": {"name": "digits", "test_share": 0.5}},
        "data.public.test_share = 0.5: public samples are not for testing; leave it out",
    ),
    (
        {"labelled_fraction": 0.1, "target": "digits"},
        "data: labelled_fraction = 0.1 does not go with a target, whose samples are the unlabelled ones; leave one of "
        "them out",
    ),
    (
        {"target": {"name": "digits", "channels": 1, "transform": {"photographs": True}}},
        "data.target: channels = 1 does not go with transform.photographs, which has 3; leave one of them out",
    ),
]

FEDERATING = [
    (
        {"target": {"name": "digits", "clients": 2000}},
        "data.target.clients = 2000: there are only 1438 samples to divide",
    ),
    (
        {"clients": 1000, "target": {"name": "digits", "samples": 900}},
        "data.clients = 1000 for data.target: there are only 900 samples to divide",
    ),
    (
        {"target": {"name": "digits", "partition": {"name": "pathological", "classes_per_client": 11}}},
        "data.target.partition.classes_per_client = 11: there are only 10 classes",
    ),
    (
        {"public": {"name": "digits", "samples": 1500}},
        "data.public.samples = 1500: there are only 1438 samples to draw",
    ),
    ({"samples": 1500}, "data.samples = 1500: there are only 1438 samples to draw from"),
    (
        {"target": "watch"},
        "data.target.name = 'watch': it has 7 classes, but [data] has 10; both must have the same labels",
    ),
    (
        {"public": "watch"},
        "data.public.name = 'watch': its samples are float32, but uint8 in [data]; both must be bytes, or neither",
    ),
    (
        {"name": "watch", "size": 8},
        "data.size = 8: only images [channels, height, width] can be changed so, but a sample has shape "
        "[6, 100]; "
        "leave it out",
    ),
    (
        {"name": "watch", "public": {"name": "watch", "transform": {"invert": True}}},
        "data.public.transform: only images [channels, height, width] can be changed so, but a sample has shape "
        "[6, 100]; "
        "leave it out",
    ),
    (
        {"name": "watch", "target": {"name": "watch", "window": 50}},
        "data.target.name = 'watch': a sample has shape [6, 50], but [6, 100] in [data]; both must be images of 1 or 3 "
        "channels, or of the same shape",
    ),
]


@pytest.mark.parametrize(("options", "message"), [*READING, *FEDERATING])
def test_an_error_is_one_sentence_that_names_the_key(options, message):
    if options.get("name") == "watch":
        options = {"partition": "natural", "clients": None, **options}
    with pytest.raises(ConfigError) as caught:
        digits(**options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_images_of_two_channels_or_of_numbers_cannot_be_changed_in_every_way(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 2, 8, 8))

    def error(table: dict[str, Any], **options: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            federate(read_data({**table, "clients": 2, **options}), 0)
        return str(caught.value)

    two = save(tmp_path / "two.npz", x.astype(np.uint8))
    reason = "only images with 1 or 3 channels"
    assert error(two, channels=3) == f"data.channels = 3: {reason} have others, but a sample has 2"
    assert error(two, transform={"photographs": True}).startswith(
        f"data.transform.photographs = true: {reason} can be changed so"
    )
    numbers = save(tmp_path / "numbers.npz", x.astype(np.float32))
    assert error(numbers, transform={"invert": True}) == (
        "data.transform.invert = true: only bytes can be changed so, but images are float32"
    )
    assert error(two, target="digits") == (
        "data.target.name = 'digits': a sample has shape [1, 8, 8], but [2, 8, 8] in [data]; both must be images of 1 "
        "or 3 channels, or of the same shape"
    )
    with pytest.raises(ConfigError) as caught:
        ImageTransform(photographs=True).apply(np.zeros((1, 1, 500, 500), np.uint8))
    assert str(caught.value) == (
        "data.transform.photographs = true: an image is 500 x 500, but the photographs 427 x 640"
    )
    with pytest.raises(ConfigError) as caught:
        ImageTransform(photographs=True, textures=2).apply(np.zeros((1, 1, 200, 200), np.uint8))
    assert str(caught.value) == (
        "data.transform.textures = 2: an image is 200 x 200, but a texture 128 x 128; leave it out"
    )
    assert error(two, transform={"textures": 3}) == (
        "data.transform: textures = 3 are taken besides photographs; set photographs = true"
    )
    missing = {"name": "npz", "path": str(tmp_path / "data.clients.npz"), "partition": "iid"}
    assert error(two, target=missing) == (
        f"data.target.path = {missing['path']!r}: there is no such file or folder"  # a path is left as it is
    )
