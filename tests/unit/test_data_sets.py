"""The data sets themselves."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.sets.digits import Digits
from fedtl.data.sets.npz import Npz
from fedtl.data.sets.synthetic import Synthetic
from fedtl.data.sets.vision import CIFAR10, EMNIST, MNIST, SVHN, USPS, FashionMNIST, Vision
from fedtl.data.sets.watch import Watch

needs_data = pytest.mark.skipif(not os.environ.get("FEDTL_DATA"), reason="FEDTL_DATA is not set")


# --- digits ---


def test_digits():
    from sklearn.datasets import load_digits

    data = Digits(clients=5).load()
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.x.dtype == np.uint8
    assert np.array_equal(data.x[:, 0] / 15, load_digits().images)  # exactly
    assert np.array_equal(data.y, load_digits().target)
    assert data.official_test is None


def test_digits_federate():
    federation = federate(Digits(clients=20), 0)
    assert federation.clients == 20
    assert federation.shape == (1, 8, 8)
    x = federation.x * federation.scale + federation.shift
    assert x.mean() == pytest.approx(0, abs=1e-5)
    assert x.std() == pytest.approx(1, abs=1e-5)


# --- synthetic ---


def test_synthetic_has_the_papers_form():
    data = Synthetic(clients=30).load()
    sizes = np.bincount(data.owner)
    assert data.x.shape == (sizes.sum(), 60)
    assert data.x.dtype == np.float32
    assert data.classes == 10
    assert len(sizes) == 30
    assert sizes.min() >= 50


def test_synthetic_sizes_are_log_normal():
    sizes = Synthetic(clients=20_000).draw_sizes(np.random.default_rng(0)) - 50
    logs = np.log(sizes[sizes > 20])  # far from where whole numbers are coarse
    assert np.median(sizes) == pytest.approx(np.exp(4), rel=0.05)
    assert np.quantile(logs, 0.975) - np.log(np.median(sizes)) > 2 * 1.8
    five = Synthetic(clients=20_000, sizes="pfedme").draw_sizes(np.random.default_rng(0))
    assert np.array_equal(five, 5 * (sizes + 50))
    assert np.quantile(np.log(sizes[sizes > 0]), 0.84) == pytest.approx(4 + 2, rel=0.03)


def test_synthetic_inputs_have_covariance_j_to_the_minus_1_2():
    data = Synthetic(clients=20, sizes="pfedme", seed=1).load()
    means = np.array([data.x[data.owner == k].mean(axis=0) for k in range(20)])
    inner = data.x - means[data.owner]
    expected = np.arange(1, 61) ** -1.2
    assert inner.var(axis=0) == pytest.approx(expected, rel=0.1)
    correlation = np.corrcoef(inner.T)
    assert abs(correlation - np.eye(60)).max() < 0.1


def test_beta_moves_the_clients_inputs_apart():
    def spread(**options: Any) -> float:
        """Standard deviation over clients of a client's mean input, averaged over the features."""
        data = Synthetic(clients=100, **options).load()
        return float(np.std([data.x[data.owner == k].mean() for k in range(100)]))

    # v_k's entries scatter with 1 about B_k, which adds 1/60 to the variance of their mean.
    assert spread(beta=0.0) == pytest.approx(np.sqrt(1 / 60), rel=0.3)
    assert spread(beta=3.0) == pytest.approx(3, rel=0.3)
    assert spread(beta=0.0, iid=True) < 0.05


def agreement(data: Any) -> float:
    """How well the best linear model of client 0 predicts the labels of the others."""
    from sklearn.linear_model import LogisticRegression

    mine = data.owner == 0
    model = LogisticRegression(max_iter=200).fit(data.x[mine], data.y[mine])
    return float(model.score(data.x[~mine], data.y[~mine]))


def test_iid_clients_share_one_labelling_rule_and_others_do_not():
    # The first client's size must suffice to learn the rule.
    seed = next(s for s in range(100) if Synthetic(seed=s).draw_sizes(np.random.default_rng(s))[0] > 1000)
    assert agreement(Synthetic(clients=10, beta=0, iid=True, seed=seed).load()) > 0.7
    assert agreement(Synthetic(clients=10, alpha=1, beta=1, seed=seed).load()) < 0.5


def test_synthetic_is_deterministic_and_natural():
    first, again, other = Synthetic().load(), Synthetic().load(), Synthetic(seed=1).load()
    assert np.array_equal(first.x, again.x)
    assert np.array_equal(first.y, again.y)
    assert first.x.shape != other.x.shape
    federation = federate(Synthetic(clients=15, pool="all"), 0)
    assert federation.clients == 15
    assert np.array_equal(federation.x * federation.scale + federation.shift, federation.x)


def test_synthetic_of_one_size_follows_the_same_law():
    options: dict[str, Any] = {"clients": 5000, "dimension": 8, "classes": 5, "beta": 0.7}
    data = Synthetic(**options, sizes=20).load()
    assert np.bincount(data.owner).tolist() == [20] * 5000
    assert np.array_equal(data.x, Synthetic(**options, sizes=20).load().x)
    assert not np.array_equal(data.x, Synthetic(**options, sizes=20, seed=1).load().x)
    x = data.x.reshape(5000, 20, 8).astype(np.float64)
    centres = x.mean(axis=1)
    variances = np.arange(1, 9) ** -1.2
    assert x.var(axis=1, ddof=1).mean(axis=0) == pytest.approx(variances, rel=0.05)
    # A centre's entries share B_k, of variance beta^2, and have 1 each of their own.
    covariance = np.cov(centres.T)
    assert covariance[~np.eye(8, dtype=bool)] == pytest.approx(0.7**2, abs=0.08)
    assert np.diag(covariance) == pytest.approx(0.7**2 + 1 + variances / 20, rel=0.08)
    # The labels are a client's own linear rule: with many samples of few clients one can be learnt from half.
    many = Synthetic(clients=3, sizes=2000, dimension=8, classes=5).load()
    for client in range(3):
        mine = many.owner == client
        assert linear_rule(many.x[mine], many.y[mine]) > 0.85
    shared = Synthetic(clients=100, sizes=40, dimension=8, classes=5, iid=True).load()
    assert linear_rule(shared.x, shared.y) > 0.85
    assert linear_rule(data.x, data.y) < 0.6


def linear_rule(x: Any, y: Any) -> float:
    """How well a linear model of the first half's labels predicts the other's."""
    from sklearn.linear_model import LogisticRegression

    half = len(x) // 2
    if half == 0 or len(set(y[:half])) < 2:
        return 1.0
    return float(LogisticRegression(max_iter=300).fit(x[:half], y[:half]).score(x[half:], y[half:]))


# --- watch ---


def test_watch():
    pytest.importorskip("seglearn")
    data = Watch().load()
    assert data.x.shape[1:] == (6, 100)
    assert data.x.dtype == np.float32
    assert np.array_equal(np.unique(data.owner), np.arange(10))
    assert np.array_equal(np.unique(data.y), np.arange(7))
    assert data.label_names[0] == "PEN"
    federation = federate(Watch(), 0)
    assert federation.clients == 10
    x = federation.x * federation.scale + federation.shift
    assert x.std(axis=(0, 2)) == pytest.approx(1, abs=1e-3)


def test_watch_windows_follow_one_another():
    pytest.importorskip("seglearn")
    half, whole = Watch(window=100, step=50).load(), Watch(window=100, step=100).load()
    assert 1.8 * len(whole.x) < len(half.x) < 2 * len(whole.x)
    assert np.array_equal(half.x[0], whole.x[0])
    assert np.array_equal(half.x[2], whole.x[1])
    assert np.array_equal(half.x[0][:, 50:], half.x[1][:, :50])
    with pytest.raises(ConfigError, match=r"^data\.window = 100000: the longest recording has "):
        Watch(window=100_000).load()


def test_watch_windows_keep_their_recordings_label_and_person():
    pytest.importorskip("seglearn")
    raw = __import__("seglearn.datasets", fromlist=["load_watch"]).load_watch()
    data = Watch(window=900, step=10_000).load()  # one window a recording
    assert len(data.x) == 140
    assert np.array_equal(data.y, raw["y"])
    assert np.array_equal(data.owner, raw["subject"] - 1)
    assert np.allclose(data.x[77], raw["X"][77][:900].T)


def test_watch_without_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        Watch().load()
    assert str(caught.value) == "data.name = 'watch' needs the package seglearn: pip install 'fedtl[watch]'"


# --- npz ---

RNG = np.random.default_rng(0)


def arrays(n: int = 6, **more: Any) -> dict[str, Any]:
    return {"x": RNG.random((n, 3)), "y": np.arange(n) % 3, **more}


def test_npz_folder_has_a_client_per_file(tmp_path):
    for i in (1, 0, 2):
        np.savez(tmp_path / f"client-{i}.npz", **arrays(4 + i))
    data = Npz(path=str(tmp_path)).load()
    assert data.x.dtype == np.float32
    assert np.bincount(data.owner).tolist() == [4, 5, 6]
    assert data.classes == 3
    assert federate(Npz(path=str(tmp_path), pool="all"), 0).clients == 3


def test_npz_folder_keeps_each_clients_own_test_data(tmp_path):
    for i in range(3):
        own = arrays(5, x_test=np.full((2, 3), float(i)), y_test=np.array([0, 1]))
        np.savez(tmp_path / f"{i}.npz", **own)
    federation = federate(Npz(path=str(tmp_path)), 0)
    assert federation.train.sizes.tolist() == [5, 5, 5]
    assert federation.test.sizes.tolist() == [2, 2, 2]
    assert all((federation.x[federation.test[i]] == i).all() for i in range(3))
    assert len(federation.server_test) == 0


def test_npz_file_with_users_by_name(tmp_path):
    np.savez(tmp_path / "all.npz", **arrays(6, user=np.array(["b", "a", "b", "c", "c", "c"])))
    data = Npz(path=str(tmp_path / "all.npz")).load()
    assert data.owner.tolist() == [1, 0, 1, 2, 2, 2]


def test_npz_file_without_users_needs_a_partition(tmp_path):
    path = str(tmp_path / "all.npz")
    np.savez(path, **arrays(30))
    with pytest.raises(ConfigError, match="do not say who owns which sample"):
        federate(Npz(path=path), 0)
    assert federate(Npz(path=path, clients=4, partition="iid"), 0).clients == 4  # type: ignore[arg-type]


def test_npz_file_with_an_official_test_set_or_the_users_own(tmp_path):
    path = str(tmp_path / "all.npz")
    tests = {"user": np.array([0, 0, 1, 1, 1, 1]), "x_test": np.ones((4, 3)), "y_test": np.array([0, 1, 2, 0])}
    np.savez(path, **arrays(6, **tests))
    official = federate(Npz(path=path), 0)
    assert official.server_test.tolist() == [6, 7, 8, 9]
    with pytest.raises(ConfigError, match="4 of the samples to be divided have no owner"):
        federate(Npz(path=path, pool="all"), 0)
    np.savez(path, **arrays(6, **tests, user_test=np.array([1, 0, 0, 0])))
    own = federate(Npz(path=path), 0)
    assert own.test.sizes.tolist() == [3, 1]
    assert own.test[1].tolist() == [6]


def test_npz_images_may_leave_the_one_channel_out(tmp_path):
    x = RNG.integers(0, 256, (6, 5, 4)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(6))
    data = Npz(path=str(tmp_path / "a.npz")).load()
    assert data.x.dtype == np.uint8
    assert np.array_equal(data.x[:, 0], x)


def test_npz_statistics_are_of_the_training_data_per_feature(tmp_path):
    whole = arrays(50, x_test=np.full((5, 3), 1e6), y_test=np.zeros(5, int))
    np.savez(tmp_path / "a.npz", **whole)
    data = Npz(path=str(tmp_path / "a.npz")).load()
    assert data.mean == pytest.approx(whole["x"].mean(axis=0), rel=1e-5)
    assert data.std == pytest.approx(whole["x"].std(axis=0), rel=1e-4)


NAN = RNG.random((6, 3))
NAN[2, 1] = np.nan


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"y": np.arange(6)}, "has no array 'x'"),
        (arrays(x=np.zeros((0, 3)), y=np.zeros(0, int)), "x is empty, shape [0, 3]"),
        (arrays(x=np.zeros(6)), "x has shape [6]; samples need [n, ...]"),
        (arrays(y=np.arange(5)), "y has shape [5]; the 6 samples of its x need [6]"),
        (arrays(y=np.arange(6) / 2), "y holds float64, as 0.5; labels are whole numbers from 0"),
        (arrays(y=np.arange(6) - 1), "y has the label -1; labels begin at 0"),
        (arrays(y=np.arange(6) + 2), "data.classes = 5: "),
        (arrays(x=NAN), "x: 1 samples, the first at 2, have values that are NaN or infinite"),
        (arrays(x=np.full((6, 3), 1e300)), "x: 6 samples, the first at 0, have values that are NaN or infinite"),
        (arrays(x=np.full((6, 3), "a")), "x holds <U1; samples are numbers"),
        (arrays(x=np.full((6, 3), {}, object)), "x cannot be read as numbers; an array of Python objects is never"),
        (arrays(x_test=np.zeros((2, 3))), "x_test and y_test come together"),
        (
            arrays(x_test=np.zeros((2, 4)), y_test=np.zeros(2, int)),
            "a sample of x_test is float32 [4], but float32 [3]",
        ),
        (arrays(x_test=np.zeros((2, 3), np.uint8), y_test=np.zeros(2, int)), "a sample of x_test is uint8 [3]"),
        (arrays(user=np.zeros(5)), "user has shape [5]; its samples need [6]"),
        (arrays(user_test=np.zeros(5)), "user_test says whose the samples of x_test are"),
        (
            arrays(user=np.zeros(6), x_test=np.zeros((1, 3)), y_test=np.zeros(1, int), user_test=np.array([7.0])),
            "user 7.0 has test samples only",
        ),
    ],
)
def test_npz_errors_are_one_sentence_with_the_file(tmp_path, content, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **content)
    with pytest.raises(ConfigError) as caught:
        Npz(path=str(path), classes=5).load()
    assert message in str(caught.value)
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_npz_errors_of_files_and_folders(tmp_path):
    def error(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            Npz(path=str(path)).load()
        return str(caught.value)

    assert "there is no such file or folder" in error(tmp_path / "absent")
    assert "the folder has no .npz file" in error(tmp_path)
    (tmp_path / "a.csv").write_text("x,label\n1,0\n")
    assert error(tmp_path).endswith("the folder has no .npz file; data.name = 'files' reads those that are there")
    (tmp_path / "text.npz").write_text("hello")
    assert "is not an .npz file" in error(tmp_path / "text.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    assert "is not an .npz file" in error(tmp_path / "cut.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    assert "holds a single array" in error(tmp_path / "single.npy")
    folder = tmp_path / "clients"
    folder.mkdir()
    np.savez(folder / "0.npz", **arrays())
    np.savez(folder / "1.npz", **arrays(x=np.zeros((6, 4))))
    assert "1.npz: a sample of x is float32 [4], but float32 [3] in x of 0.npz" in error(folder)
    np.savez(folder / "1.npz", **arrays(x_test=np.zeros((1, 3)), y_test=np.zeros(1, int)))
    assert "either all files have x_test and y_test or none" in error(folder)


def test_npz_never_unpickles(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "exploded", "x"))

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], object), y=np.zeros(1, int))
    with pytest.raises(ConfigError):
        Npz(path=str(tmp_path / "a.npz")).load()
    assert not (tmp_path / "exploded").exists()


# --- torchvision's ---


def idx(path: Path, values: np.ndarray) -> None:
    """Write a file in MNIST's format."""
    head = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
    raw = head + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_mnist_like(folder: Path, prefix: str = "", ending: str = "", first_label: int = 0) -> tuple[Any, Any]:
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28)).astype(np.uint8)
    labels = np.arange(30) % 10 + first_label
    for part, rows in (("train", slice(20)), ("test" if prefix else "t10k", slice(20, None))):
        idx(folder / f"{prefix}{part}-images-idx3-ubyte{ending}", images[rows])
        idx(folder / f"{prefix}{part}-labels-idx1-ubyte{ending}", labels[rows])
    return images, labels


def test_mnist_files_are_read_in_bulk(tmp_path):
    images, labels = write_mnist_like(tmp_path / "MNIST/raw")
    data = MNIST(clients=2, root=str(tmp_path)).load()
    assert np.array_equal(data.x[:, 0], images)
    assert np.array_equal(data.y, labels)
    assert data.official_test == 20
    assert data.mean.item() == pytest.approx(images[:20].mean() / 255, rel=1e-5)
    assert data.std.item() == pytest.approx(images[:20].std() / 255, rel=1e-5)


def test_files_in_mnists_format_need_no_torchvision(tmp_path, monkeypatch):
    """Which is imported to say what is wrong with them."""

    def imported():
        raise RuntimeError("torchvision is imported")

    monkeypatch.setattr("fedtl.data.torchvision_ops.import_torchvision", imported)
    for kind in (MNIST, FashionMNIST):
        folder = tmp_path / kind.place
        images, _ = write_mnist_like(folder)
        assert np.array_equal(kind(clients=2, root=str(tmp_path)).load().x[:, 0], images)
        labels = (folder / "train-labels-idx1-ubyte").read_bytes()
        for broken in (labels[:-1], b"nothing", b""):
            (folder / "train-labels-idx1-ubyte").write_bytes(broken)
            with pytest.raises(RuntimeError, match="torchvision is imported"):
                kind(clients=2, root=str(tmp_path)).load()
        (folder / "train-labels-idx1-ubyte").write_bytes(labels)
        (folder / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(RuntimeError, match="torchvision is imported"):
            kind(clients=2, root=str(tmp_path)).load()


def test_emnist_letters_stand_upright_and_count_from_zero(tmp_path):
    images, _ = write_mnist_like(tmp_path / "EMNIST/raw", prefix="emnist-letters-", first_label=1)
    data = EMNIST(clients=2, root=str(tmp_path), split="letters").load()
    assert np.array_equal(data.x[:, 0], images.transpose(0, 2, 1))
    assert data.y.min() == 0
    assert data.classes == 26
    assert data.label_names[0] == "a"


def test_fashion_mnist_of_debian(tmp_path, monkeypatch):
    images, labels = write_mnist_like(tmp_path, ending=".gz")
    monkeypatch.delenv("FEDTL_DATA", raising=False)
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path)
    data = FashionMNIST(clients=2).load()
    assert np.array_equal(data.x[:, 0], images)
    assert np.array_equal(data.y, labels)
    assert data.label_names[9] == "Ankle boot"
    write_mnist_like(tmp_path / "own/FashionMNIST/raw")
    idx(tmp_path / "own/FashionMNIST/raw/train-labels-idx1-ubyte", np.full(20, 3))
    own = FashionMNIST(clients=2, root=str(tmp_path / "own")).load()  # the root's own files come first
    assert set(own.y[:20]) == {3}
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        FashionMNIST(clients=2).load()


def test_cifar_and_svhn_have_their_channels_first(monkeypatch):
    photos = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    cifar = SimpleNamespace(data=photos, targets=[0, 1, 2, 3, 0, 1], classes=["p", "q", "r", "s"])
    monkeypatch.setattr(CIFAR10, "open", lambda self, train: cifar)
    data = CIFAR10(clients=2).load()
    assert data.x.shape == (12, 3, 32, 32)
    assert np.array_equal(data.x[1, 2], photos[1, :, :, 2])
    assert data.label_names == ("p", "q", "r", "s")
    svhn = SimpleNamespace(data=photos.transpose(0, 3, 1, 2), labels=np.arange(6))
    monkeypatch.setattr(SVHN, "open", lambda self, train: svhn)
    assert np.array_equal(SVHN(clients=2).load().x, data.x)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "emnist", "usps", "svhn", "cifar10", "cifar100"])
def test_missing_images_say_where_they_were_looked_for(name, tmp_path, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "absent")
    monkeypatch.setenv("FEDTL_DATA", str(tmp_path))
    choice = read_data({"name": name, "clients": 2})
    assert isinstance(choice, Vision)
    with pytest.raises(ConfigError) as caught:
        choice.load()
    message = str(caught.value)
    assert message.startswith(f"data.name = {name!r}: {tmp_path / choice.place} is not there or cannot be read (")
    assert message.endswith("; set data.download = true, or data.root or FEDTL_DATA to the folder that has it")
    assert "\n" not in message
    monkeypatch.delenv("FEDTL_DATA")
    with pytest.raises(ConfigError, match=r"set data\.root or the environment variable FEDTL_DATA"):
        choice.load()


@needs_data
@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "mean", "std", "names"),
    [(MNIST, 0.1307, 0.3081, ("0", "1")), (FashionMNIST, 0.2860, 0.3530, ("T-shirt/top", "Trouser"))],
)
def test_real_images_have_the_published_statistics(kind, mean, std, names):
    data = kind(clients=20).load()
    assert data.x.shape == (70_000, 1, 28, 28)
    assert data.official_test == 60_000
    assert data.mean.item() == pytest.approx(mean, abs=5e-5)
    assert data.std.item() == pytest.approx(std, abs=5e-5)
    assert data.label_names[:2] == names
    assert np.bincount(data.y[60_000:]).min() > 800


@needs_data
@pytest.mark.data
def test_real_usps():
    data = USPS(clients=20).load()
    assert data.x.shape == (9298, 1, 16, 16)
    assert data.x.dtype == np.uint8
    assert (data.x.min(), data.x.max()) == (0, 255)
    assert np.array_equal(np.unique(data.y), np.arange(10))
    assert data.official_test in (7291, 4649)  # the usual split, or the resampled one
