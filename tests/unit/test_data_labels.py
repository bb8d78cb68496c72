"""Labels that are not 0, 1, ..., k - 1: taken for what they can only mean, or one sentence on what to save."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

import fedtl
from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.own.read import read_own
from fedtl.deploy.deployed_grid import Described
from fedtl.deploy.serverapp import doubtful_classes
from fedtl.runs.progress import ProgressBar

N = 40
YES = np.arange(N) % 4 == 1


def save(file: Path, y: Any, **more: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng([*file.name.encode()]).normal(size=(len(y), 3))  # no two files hold the same samples
    np.savez(file, x=x, y=y, **more)
    return file


def simulated(file: Path, **options: Any) -> Federation:
    table = {"name": "npz", "path": str(file), "clients": 2, "partition": "iid", "server_test_share": 0}
    return federate(read_data({**table, **options}), 0)


def sentence(file: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        simulated(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def own_sentence(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_own(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "y",
    [
        YES,
        YES.astype(np.float32),
        YES.astype(np.float64)[:, None],
        YES.astype(np.uint8)[:, None],
        YES.astype(np.uint64),
        YES.astype(np.float16),
    ],
    ids=lambda y: f"{y.dtype} {y.shape}",
)
def test_what_can_only_mean_whole_numbers(tmp_path: Path, y: NDArray[Any]) -> None:
    file = save(tmp_path / "train.npz", y)
    federation = simulated(file)
    assert (federation.y.tolist(), federation.classes, federation.notes) == (YES.astype(int).tolist(), 2, ())
    own = read_own(str(tmp_path))
    assert (own.y.tolist(), own.names, own.notes) == (YES.astype(int).tolist(), None, ())


@pytest.mark.parametrize("y", [np.where(YES, "yes", "no"), np.where(YES, b"yes", b"no")], ids=["str", "bytes"])
def test_words_are_numbered_in_their_order(tmp_path: Path, y: NDArray[Any]) -> None:
    file = save(tmp_path / "train.npz", y)
    for federation in (simulated(file), simulated(file, classes=2)):
        assert (federation.y.tolist(), federation.classes) == (YES.astype(int).tolist(), 2)
        assert (federation.label_names, federation.notes) == (("no", "yes"), ())
    own = read_own(str(tmp_path))
    assert (own.y.tolist(), own.names) == (YES.astype(int).tolist(), ("no", "yes"))
    assert sentence(file, classes=5) == (f"data.classes = 5: the labels in {file} are 2 different words; leave it out")


def test_words_of_several_files_are_numbered_together(tmp_path: Path) -> None:
    save(tmp_path / "0.npz", np.array(["cat", "dog"]))
    save(tmp_path / "1.npz", np.array(["ant", "dog"]))
    federation = federate(read_data({"name": "npz", "path": str(tmp_path), "test_share": 0, "server_test_share": 0}), 0)
    assert federation.label_names == ("ant", "cat", "dog")
    assert [federation.y[part].tolist() for part in (federation.train[0], federation.train[1])] == [[1, 2], [0, 2]]
    save(tmp_path / "1.npz", np.array([0, 1]))
    with pytest.raises(ConfigError, match=r"1\.npz: its labels are whole numbers, but words in .*0\.npz"):
        federate(read_data({"name": "npz", "path": str(tmp_path)}), 0)


ONE_HOT = np.eye(3, dtype=np.int64)[np.arange(N) % 3]


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (ONE_HOT, "is one-hot, shape [40, 3]: save y.argmax(1)"),
        (ONE_HOT.astype(bool), "is one-hot, shape [40, 3]: save y.argmax(1)"),
        (ONE_HOT.astype(np.float32), "is one-hot, shape [40, 3]: save y.argmax(1)"),
        (ONE_HOT * 0.8 + 0.2 / 3, "holds probabilities, shape [40, 3]; a sample has one class: save y.argmax(1)"),
        (1 - ONE_HOT, "marks several classes a sample, or none, shape [40, 3]; each sample needs one class, [40]"),
        (ONE_HOT * 7, "has shape [40, 3]; a sample has one label, so the 40 samples of its x need [40]"),
        (YES + 0.25, "holds float64, as 0.25; labels are whole numbers from 0, or words; numbers are predicted by"),
        (np.where(YES, np.nan, 1), ": 10 labels, the first at 1, are NaN or infinite; leave these samples out"),
        (np.where(YES, np.inf, 1), ": 10 labels, the first at 1, are NaN or infinite; leave these samples out"),
        (YES * 1j, "holds complex128; labels are whole numbers from 0, or words"),
        (np.where(YES, "nan", "a"), ": 10 samples, the first at 1, have no label but 'nan'; give each one, or leave"),
        (np.where(YES, "a", " "), ": 30 samples, the first at 0, have no label but ' '; give each one, or leave"),
        (
            np.full(N, "2024-01-01", "M8[D]"),
            "holds datetime64[D]; labels are whole numbers from 0, or words: save them",
        ),
    ],
)
def test_what_are_no_labels_is_one_sentence(tmp_path: Path, y: NDArray[Any], expected: str) -> None:
    file = save(tmp_path / "train.npz", y)
    begin = f"{file}: y{'' if expected.startswith(':') else ' '}{expected}"
    assert sentence(file).startswith(begin)
    assert own_sentence(tmp_path).startswith(begin)


def test_plus_and_minus_one(tmp_path: Path) -> None:
    for kind in (np.int64, np.float32):
        file = save(tmp_path / "train.npz", np.where(YES, 1, -1).astype(kind))
        assert sentence(file) == f"{file}: y holds -1 and 1; labels begin at 0: save (y + 1) // 2"
        own = read_own(str(tmp_path))  # there a training sample may be without a label
        assert own.notes == (
            f"{file}: y holds -1 and 1, and -1 is a sample without a label; if not, save (y + 1) // 2",
        )


def test_plus_and_minus_one_in_a_table(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    for others, also in (("1", "; -1 is read as no label: where -1 and 1 are the labels, write 0 and 1"), ("2", "")):
        rows = [f"{i},{'-1' if i % 2 else others if i % 3 else '1'},{i % 2}" for i in range(20)]
        file.write_text("\n".join(["a,label,owner", *rows]))
        data = {"name": "files", "path": str(file), "label": "label", "owner": "owner"}
        with pytest.raises(ConfigError) as caught:
            federate(read_data(data), 0)
        assert str(caught.value).endswith(f"in a simulation data.labelled_fraction gives such{also}")


def test_classes_without_a_sample_are_a_note(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", YES + 1)
    federation = simulated(file)
    assert federation.classes == 3
    assert federation.notes == (
        f"{file}: y: only 2 of 3 classes have a sample (the labels 1, 2); if there are no others, save y - 1, or "
        "words, y.astype(str), which are numbered in their order",
    )
    assert simulated(file, classes=3).notes == simulated(file, classes=10).notes == ()
    file = save(tmp_path / "b.npz", np.where(YES, 255, 0))
    assert simulated(file).classes == 256
    assert (
        simulated(file)
        .notes[0]
        .startswith(
            f"{file}: y: only 2 of 256 classes have a sample (the labels 0, 255); if there are no others, save words"
        )
    )
    assert simulated(save(tmp_path / "c.npz", np.arange(N) % 7)).notes == ()


def test_many_classes_need_as_many_samples(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", np.where(YES, 1000, 7))
    text = f"{file}: y: only 2 of 1,001 classes have a sample (the labels 7, 1000)"
    assert sentence(file) == (
        f"{text}, and there are 40 samples; labels are 0, 1, 2, ...: save them as words, y.astype(str), which are "
        "numbered in their order"
    )
    assert simulated(file, classes=1001).classes == 1001  # it was said
    file = save(tmp_path / "b.npz", np.tile([1000, 7], 1000))
    (note,) = simulated(file).notes
    assert "only 2 of 1,001 classes have a sample" in note


@pytest.mark.parametrize("largest", [100_000, 20240101, 2_000_000_000, 2**40, 2**63])
def test_dates_and_ids_are_no_classes(tmp_path: Path, largest: int) -> None:
    file = save(tmp_path / "train.npz", np.where(YES, np.uint64(largest), np.uint64(3)))
    expected = (
        f"{file}: y has the label {largest}; labels are 0, 1, 2, ..., and 100,000 classes are the most; if these "
        "numbers are names, save them as words, y.astype(str), which are numbered in their order"
    )
    assert sentence(file) == expected
    assert sentence(file, classes=100_000) == expected
    assert own_sentence(tmp_path) == expected
    with pytest.raises(ConfigError, match=r"data\.classes = \d+: should be (less than or equal to|no larger than)"):
        simulated(file, classes=largest + 1)


def test_tables_labels_have_the_same_bound(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("label,a\n20240101,1\n20240102,2\n")
    assert own_sentence(tmp_path).startswith(f"{file} has the label 20240102; labels are 0, 1, 2, ...")


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ("np.array(['a', 'b'], object)", ("a", "b")),
        ("np.array([1, 0], object)", None),
        ("np.array(['a', None], object)", ": 1 labels, the first at 1, are missing; leave these out"),
        ("np.array([float('nan'), 1], object)", ": 1 labels, the first at 0, are missing; leave these out"),
        ("np.array([(), 1], object)", " holds objects of Python; labels are whole numbers from 0, or words"),
        ("np.array([2**70, 1], object)", " holds objects of Python; labels are whole numbers from 0, or words"),
        ("np.ma.array([0, 1], mask=[0, 1])", "y has masked values; fill them in, or leave these samples out"),
    ],
)
def test_labels_that_a_function_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, y: str, expected: str | tuple[str, str] | None
) -> None:
    name = f"labels_{abs(hash((str(tmp_path), y)))}"
    (tmp_path / f"{name}.py").write_text(f"import numpy as np\ndef load():\n    return dict(x=[[1], [2]], y={y})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    if isinstance(expected, str):
        assert own_sentence(Path(f"{name}:load")).endswith(expected)
        return
    own = read_own(f"{name}:load")
    assert (own.names, own.y.tolist()) == (expected, [1, 0] if expected is None else [0, 1])


ONE = Described(10, 0, 5, 0, 0, (3,), "float32", 2, None, (0, 1, 2))


def _told(**clients: Any) -> dict[str, Described]:
    """Descriptions by client's name, of each what is other than of :data:`ONE`; words as they are."""
    return {
        name: replace(
            ONE, **({"largest_label": None, "names": tuple(what), "labels": ()} if isinstance(what, str) else what)
        )
        for name, what in clients.items()
    }


def test_a_server_counts_what_all_clients_have() -> None:
    assert doubtful_classes(_told(a={}, b={})) == ()
    assert doubtful_classes(_told(a={"labels": (0, 2)}, b={"labels": (1,)})) == ()
    assert doubtful_classes(_told(a="pq")) == ()
    (note,) = doubtful_classes(_told(a={"labels": (7,)}, b={"labels": (9, 7)}))
    assert note.startswith("the clients' y: only 2 of 10 classes have a sample (the labels 7, 9); if there are no")
    with pytest.raises(ConfigError, match=r"only 2 of 75,001 classes have a sample .* and there are 30 samples"):
        doubtful_classes(_told(a={"labels": (7,)}, b={"labels": (75_000,)}))


def test_a_server_hears_of_words_that_may_mean_the_same() -> None:
    assert doubtful_classes(_told(a="pq", b="qr", c="p")) == ()
    (note,) = doubtful_classes(_told(a="pq", b="PQ", c="pq"))
    assert note == "the labels 'P' and 'p' are 2 classes, and so are 1 others; write alike what means the same"
    (note,) = doubtful_classes(_told(a="pq", b="pq", c="xyz"))
    assert note.startswith("the labels of c are no other participant's, as 'x', 'y', 'z' of c: they are classes of")
    assert doubtful_classes(_told(a="p", b="q", c="r")) == ()  # each client has one class, as in a skewed federation


def test_words_of_owners_that_share_none(tmp_path: Path) -> None:
    who = np.arange(N) // 20
    words = np.where(who, np.where(YES, "yes", "no"), np.where(YES, "ill", "well"))
    save(tmp_path / "both.npz", words, user=who)
    for client, name in enumerate(("0", "1")):
        save(tmp_path / "each" / f"{name}.npz", words[who == client])
    for path in ("both.npz", "each"):
        notes = simulated(tmp_path / path, partition="natural").notes
        (note,) = (note for note in notes if "no other participant's" in note)
        assert note.startswith("the labels of client 0")
    shared = save(tmp_path / "shared.npz", np.where(YES, "yes", "no"), user=who)
    assert simulated(shared, partition="natural").notes == ()


def test_a_target_has_the_same_classes_in_the_same_order(tmp_path: Path) -> None:
    def target(y: NDArray[Any]) -> dict[str, Any]:
        return {"name": "npz", "path": str(save(tmp_path / "target.npz", y)), "partition": "iid"}

    source = save(tmp_path / "source.npz", np.where(YES, "cat", "dog"))
    assert simulated(source, target=target(np.where(YES, "dog", "cat"))).notes == ()
    assert sentence(source, target=target(np.where(YES, "dog", "eel"))) == (
        "data.target: the class 'dog' is number 0 there, but 1 in [data]; both need the same classes in the same order"
    )
    same = "a class is taken to be the one of the same number"
    federation = simulated(source, target=target(np.where(YES, "dog", "ant")))
    assert federation.notes == (f"data.target: its class 0 is 'ant', but 'cat' in [data]; {same}",)
    assert simulated(source, target=target(YES)).notes == (f"data.target: its classes have no names; {same}",)
    numbers = save(tmp_path / "numbers.npz", YES)
    federation = simulated(numbers, target=target(np.where(YES, "dog", "ant")))
    assert federation.notes == (f"data.target: its classes have names, but not those of [data]; {same}",)


def test_notes_are_printed_recorded_and_explain_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "from torch import nn\ndef two(input_shape): return nn.Linear(input_shape[0], 2)\n"
    (tmp_path / "two_outputs.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = save(tmp_path / "a.npz", YES + 1)
    tables = {
        "name": "notes",
        "rounds": 1,
        "data": {"name": "npz", "path": str(file), "clients": 2, "partition": "iid"},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1},
        "simulation": {"grid": "in-process", "traced": False},
    }
    watcher = ProgressBar(Console(width=500))
    done = fedtl.run(tables, out=tmp_path / "run", listener=watcher)
    watcher.close()
    (note,) = json.loads((done.path / "environment.json").read_text())["notes"]
    assert note.startswith(f"{file}: y: only 2 of 3 classes have a sample")
    assert note in capsys.readouterr().out
    with pytest.raises(ConfigError) as caught:
        fedtl.run(tables | {"model": {"name": "two_outputs:two"}}, out=tmp_path / "other")
    assert "the labels need [2, 3]" in str(caught.value)
    assert str(caught.value).endswith(f"({note})")
