"""Splits as files: what they say is what clients hold, bit for bit; and test samples that others train on."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import read_config
from fedtl.data import read_data
from fedtl.data.dataset import Dataset
from fedtl.data.export import export
from fedtl.data.federate import federate, federate_with_divisions
from fedtl.data.federation import Domain, Federation, Shards
from fedtl.data.overlap import identities, trained_elsewhere
from fedtl.data.own.read import read_own
from fedtl.data.partitions import PARTITIONS, read_partition
from fedtl.data.partitions.on_top import OnTop
from fedtl.data.schema import DataSchema
from fedtl.data.settings import DataChoice
from fedtl.data.split import Split, read_split, write_split

N = 60
X = np.random.default_rng(0).integers(0, 256, (N, 1, 4, 4)).astype(np.uint8)
Y = (np.arange(N) % 3).astype(np.int64)


class Small(DataChoice):
    """Sixty images; the last 20 are an official test set if asked for."""

    name: str = "small"
    official: bool = False
    held_out: bool = False
    owners: bool = False

    def load(self) -> Dataset:
        half = np.full(1, 0.5, np.float32).reshape(1, 1, 1)
        owner = np.arange(N) % 4 if self.owners else None
        places = np.arange(N)
        held_out, validation = (places % 5 == 0, places % 5 == 1) if self.held_out else (None, None)
        first = 40 if self.official else None
        return Dataset(X, Y, 3, half, half, owner, first, held_out, validation=validation)


def small(seed: int = 0, **options: Any) -> Federation:
    return federate(Small(**options), seed)


def from_file(file: Path, seed: int = 0, **options: Any) -> Federation:
    return small(seed, partition={"name": "file", "path": str(file)}, **options)


def saved(file: Path, seed: int = 0, **options: Any) -> Federation:
    federation, divisions = federate_with_divisions(Small(**options), seed)
    write_split(divisions.source.split(), file)
    return federation


def npz(folder: Path, **arrays: Any) -> Path:
    file = folder / "split.npz"
    np.savez(file, **arrays)
    return file


def sentence(file: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        from_file(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def arrays_of(federation: Federation) -> dict[str, NDArray[Any]]:
    result: dict[str, NDArray[Any]] = {}

    def add(prefix: str, part: object) -> None:
        for field in dataclasses.fields(part):  # type: ignore[arg-type]
            value = getattr(part, field.name)
            if isinstance(value, (Shards, Domain)):
                add(f"{prefix}{field.name}.", value)
            elif isinstance(value, np.ndarray):
                result[prefix + field.name] = value

    add("", federation)
    return result


def assert_same(one: Federation, other: Federation) -> None:
    mine, others = arrays_of(one), arrays_of(other)
    assert mine.keys() == others.keys()
    for name, array in mine.items():
        assert array.dtype == others[name].dtype, name
        assert np.array_equal(array, others[name]), name
    assert one.fingerprint() == other.fingerprint()


ROUND_TRIPS: dict[str, dict[str, Any]] = {
    "iid": {"clients": 5},
    "official test set": {"clients": 5, "official": True},
    "nothing at the server": {"clients": 5, "official": True, "pool": "all"},
    "some samples": {"clients": 4, "samples": 30},
    "pixel": {"clients": 4, "normalise": "pixel"},
    "validation and few labels": {"clients": 4, "validation_share": 0.2, "labelled_fraction": 0.5},
    "no test data": {"clients": 4, "test_share": 0},
    "pathological": {"clients": 6, "partition": "pathological"},
    "wrong labels": {"clients": 4, "partition": {"name": "label-noise", "share": 0.5}},
    "the data's own": {"owners": True, "held_out": True, "partition": "natural"},
}


@pytest.mark.parametrize("ending", ["npz", "csv"])
@pytest.mark.parametrize("options", ROUND_TRIPS.values(), ids=ROUND_TRIPS.keys())
def test_a_round_trip_gives_the_same_federation(tmp_path: Path, options: dict[str, Any], ending: str) -> None:
    file = tmp_path / f"split.{ending}"
    federation = saved(file, **options)
    again = from_file(file, **{key: value for key, value in options.items() if key != "partition"})
    assert_same(federation, again)
    if "validation_share" not in options:  # of which the seed draws
        assert_same(federation, from_file(file, seed=7, **{k: v for k, v in options.items() if k != "partition"}))


def test_the_file_says_how_many_clients_there_are_and_which_samples_are_for_testing(tmp_path: Path) -> None:
    client, test = np.arange(N) % 4, np.arange(N) < 8
    federation = from_file(npz(tmp_path, client=client, test=test), test_share=0.5)
    assert federation.clients == 4
    for i in range(4):
        assert federation.train[i].tolist() == np.flatnonzero((client == i) & ~test).tolist()
        assert federation.test[i].tolist() == np.flatnonzero((client == i) & test).tolist()
    assert len(federation.server_test) == 0
    assert federation.notes == ("data.test_share = 0.5 has no effect: the file says which samples are for testing",)
    drawn = from_file(npz(tmp_path, client=client), test_share=0.2)
    assert drawn.test.sizes.tolist() == [3] * 4


def test_the_order_of_a_list_is_the_clients_order(tmp_path: Path) -> None:
    file = npz(tmp_path, sample=[9, 3, 7, 1], client=[1, 0, 1, 0], test=[0, 0, 0, 1])
    federation = from_file(file)
    assert [federation.train[i].tolist() for i in (0, 1)] == [[3], [9, 7]]
    assert [federation.test[i].tolist() for i in (0, 1)] == [[1], []]


def test_columns_in_any_order_with_words_for_flags(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    file.write_text("test;client;sample\nfalse;0;4\nTrue;0;5\n0;1;6\n1;server;9\n")
    federation = from_file(file)
    assert (federation.train.order.tolist(), federation.test.order.tolist()) == ([4, 6], [5])
    assert federation.server_test.tolist() == [9]
    file.write_text("client,test\n" + "".join(f"{i % 2},{int(i < 6)}\n" for i in range(N)))
    assert from_file(file).train.sizes.tolist() == [27, 27]


def test_a_sample_at_several_clients_with_labels_of_their_own(tmp_path: Path) -> None:
    sample, client = [0, 1, 2, 0, 1, 3], [0, 0, 0, 1, 1, 1]
    label = [Y[0], 2, 0, Y[0], 0, Y[3]]  # of 1 two that are not its own (1), of 2 one (it is 2), of 0 its own
    file = npz(tmp_path, sample=sample, client=client, test=[0, 0, 0, 1, 0, 0], label=label)
    federation = from_file(file)
    of_client = {i: [*federation.train[i], *federation.test[i]] for i in (0, 1)}
    assert [federation.y[row] for row in of_client[0]] == [0, 2, 0]
    assert [federation.y[row] for row in of_client[1]] == [0, 0, 0]  # samples 1, 3, 0
    for rows, samples in ((of_client[0], [0, 1, 2]), (of_client[1], [1, 3, 0])):
        assert np.array_equal(federation.x[rows], X[samples])
    assert len(federation.x) == N + 2  # one row is all that entries need which agree
    assert Y[2] == 2  # the data set's own array is not written to
    assert any("3 of its 6 labels are not those of 'small'" in note for note in federation.notes)
    _, divisions = federate_with_divisions(Small(partition={"name": "file", "path": str(file)}), 0)
    write_split(divisions.source.split(), again := tmp_path / "again.csv")
    assert_same(federation, from_file(again))


@pytest.mark.parametrize("name", ["rotated", "noisy"])
def test_each_client_sees_a_shared_sample_in_its_own_way(tmp_path: Path, name: str) -> None:
    file = npz(tmp_path, sample=[0, 1, 0, 2], client=[0, 0, 1, 1], test=[0, 0, 0, 0])
    base = {"name": "file", "path": str(file)}
    options: dict[str, Any] = {"angles": [0, 90]} if name == "rotated" else {"sigma": 0.5}
    federation = small(partition={"name": name, "base": base, **options})
    first, second = (federation.x[federation.train[i][0]] for i in (0, 1))
    assert np.array_equal(first, X[0])
    assert not np.array_equal(second, X[0])
    if name == "rotated":
        assert np.array_equal(second, np.rot90(X[0], axes=(1, 2)))


def test_labelled_and_validation_shares_are_drawn_from_what_a_file_lists(tmp_path: Path) -> None:
    file = tmp_path / "split.npz"
    saved(file, clients=3)
    federation = from_file(file, validation_share=0.25, labelled_fraction=0.5)
    assert federation.validation is not None
    assert federation.validation.sizes.min() >= 1
    assert federation.target is not None


BASE: dict[str, Any] = {"sample": [0, 1, 2, 3], "client": [0, 0, 1, 1], "test": [0, 1, 0, 1]}
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "other length": ({"client": [0, 1], "sample": [0, 1], "test": [0]}, {}, "test has 1 elements, but client 2"),
    "other data": ({"client": np.zeros(70)}, {}, "client holds float64; a split is whole numbers"),
    "other data's": ({"client": [0] * 70}, {}, "client has 70 elements, but 'small' has 60 samples"),
    "other total": ({**BASE, "total": 99}, {}, "is a split of 99 samples, but 'small' has 60"),
    "array": ({**BASE, "tests": [0]}, {}, "'tests' is no array of a split: did you mean 'test'?"),
    "no client": ({"sample": [0]}, {}, "it has no 'client'"),
    "gap": ({**BASE, "client": [0, 0, 3, 3]}, {}, "client 1 holds nothing, but client 3 does"),
    "out of range": ({**BASE, "sample": [0, 1, 2, 60]}, {}, "sample has 60, at place 3, but 'small' has 60 samples"),
    "negative sample": ({**BASE, "sample": [0, 1, 2, -1]}, {}, "sample has -1, at place 3; numbers begin at 0"),
    "negative client": ({**BASE, "client": [0, 0, 1, -1]}, {}, "client has -1, at place 3; numbers begin at 0"),
    "twice": ({**BASE, "sample": [0, 0, 2, 3]}, {}, "sample 0 stands twice at client 0"),
    "flag": ({**BASE, "test": [0, 1, 2, 1]}, {}, "test has 2; it should be 0 or 1"),
    "label": ({**BASE, "label": [0, 1, 2, 3]}, {}, "label has 3, at place 3, but there are 3 classes"),
    "tests only": ({**BASE, "test": [0, 1, 1, 1]}, {}, "client 1 has no training sample"),
    "empty": ({"client": np.zeros(0, int)}, {}, "has no entry"),
    "two axes": ({"client": [[0, 1]]}, {}, "client has shape [1, 2]"),
    "huge": ({**BASE, "sample": np.array([0, 1, 2, 2**63], np.uint64)}, {}, "sample has 9223372036854775808"),
    "server's": ({**BASE, "server_test": [3]}, {}, "sample 3 is in the server's test set and at a client"),
    "server's twice": ({**BASE, "server_test": [9, 9]}, {}, "a sample stands twice in the server's test set"),
    "clients": (BASE, {"clients": 3}, "data.clients = 3: "),
    "samples": (BASE, {"samples": 3}, "data.samples = 3: "),
    "share": (BASE, {"server_test_share": 0.1}, "data.server_test_share = 0.1: "),
    "pool": ({"client": [0] * N}, {"official": True}, "set data.pool = 'all'"),
}


@pytest.mark.parametrize(("arrays", "options", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_in_a_sentence(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    assert message in sentence(npz(tmp_path, **arrays), **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample,client,tset\n0,0,0\n", "'tset' is no column of a split: did you mean 'test'?"),
        ("sample,client,test\n0,0\n", "line 2 has 2 cells, but the header 3"),
        ("sample,client,test\n0,a,0\n", "line 2, column 'client': 'a' is no whole number"),
        ("client,client\n0,0\n", "two columns have the name 'client'"),
        ("client,test\nserver,1\n", "only a list with a column 'sample' or 'row' may have 'server'"),
        ("sample,client\n", "has no entry"),
        ("", "its first line names none of a split's columns"),
        ("0,0,1\n", "its first line names none of a split's columns"),
        ("sample,test\n0,1\n", "it has no 'client'"),
    ],
)
def test_what_is_wrong_in_a_table(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "split.csv"
    file.write_text(text)
    assert message in sentence(file)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDTL_DATA", str(tmp_path))
    assert sentence(Path("none.npz")) == (
        f"data.partition.path = 'none.npz': there is no such file and no such file in FEDTL_DATA = {str(tmp_path)!r}"
    )
    text = tmp_path / "split.txt"
    text.touch()
    assert sentence(text) == f"{text}: a split is a .npz or a .csv file; give a name that ends so"
    broken = tmp_path / "split.npz"
    broken.write_bytes(b"no archive")
    assert sentence(broken).startswith(f"{broken} is not an .npz file that NumPy can read")
    np.savez(broken, client=np.array([{}], object))
    assert "never unpickled" in sentence(broken)


def test_where_a_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the config, then in the working directory, then under FEDTL_DATA."""
    folders = {name: tmp_path / name for name in ("paper", "here", "data")}
    tables = {"name": "a", "rounds": 1, "model": {"name": "logistic"}, "strategy": {"name": "fedavg", "lr": 0.1}}
    tables["data"] = {"name": "digits", "partition": {"name": "file", "path": "split.csv"}}
    for number, folder in enumerate(folders.values(), 1):
        folder.mkdir()
        rows = [f"{i},{i % number}" for i in range(12)]
        (folder / "split.csv").write_text("sample,client\n" + "\n".join(rows) + "\n")
    config = folders["paper"] / "config-a.toml"
    text = 'name = "a"\nrounds = 1\nmodel.name = "logistic"\nstrategy = { name = "fedavg", lr = 0.1 }\n'
    text += (
        'data.partition = { name = "rotated", base = { name = "file", path = "split.csv" } }\ndata.name = "digits"\n'
    )
    config.write_text(text)
    monkeypatch.chdir(folders["here"])
    monkeypatch.setenv("FEDTL_DATA", str(folders["data"]))

    def clients(source: Any) -> int:
        return federate(read_config(source)[0].data, 0).clients

    assert clients(config) == 1
    assert clients(tables) == 2
    (folders["here"] / "split.csv").unlink()
    assert clients(tables) == 3
    resolved = read_config(config)[0].tables()
    assert clients(resolved) == 1  # a run's record finds the file from anywhere


def test_a_run_and_its_clients_folders_have_what_the_file_says(tmp_path: Path) -> None:
    sample = np.arange(100).repeat(2)
    client, label = np.tile([0, 1], 100), np.arange(200) % 10
    np.savez(tmp_path / "split.npz", sample=sample, client=client, test=(sample + client) % 4 == 0, label=label)
    tables: dict[str, Any] = {"name": "a", "rounds": 1, "model": {"name": "logistic"}}
    tables |= {"strategy": {"name": "fedavg", "lr": 0.1}, "simulation": {"grid": "in-process"}}
    tables["data"] = {"name": "digits", "partition": {"name": "file", "path": str(tmp_path / "split.npz")}}
    run = fedtl.run(tables, out=tmp_path / "run")
    assert run.environment["tests_trained_elsewhere"] == 1.0
    assert any(
        note.startswith("warning: 100.0 % of the clients' test samples (50 of 50)") for note in run.environment["notes"]
    )
    federation = federate(read_config(tables)[0].data, 0)
    assert run.environment["split"] == federation.fingerprint()
    export(federation, tmp_path / "out")
    frame = DataSchema.read(tmp_path / "out" / "server" / "frame.json")
    for i in range(2):
        mine = read_own(str(tmp_path / "out" / str(i))).as_federation(frame, i, 2)
        assert np.array_equal(mine.y[mine.train[i]], federation.y[federation.train[i]])
        assert np.array_equal(mine.x[mine.test[i]], federation.x[federation.test[i]])


def test_a_run_is_not_resumed_on_another_split(tmp_path: Path) -> None:
    file = tmp_path / "split.npz"
    tables: dict[str, Any] = {"name": "a", "rounds": 1, "model": {"name": "logistic"}}
    tables |= {"strategy": {"name": "fedavg", "lr": 0.1}, "simulation": {"grid": "in-process"}}
    tables["data"] = {"name": "digits", "partition": {"name": "file", "path": str(file)}}
    np.savez(file, sample=np.arange(40), client=np.arange(40) % 2, test=np.arange(40) < 10)
    fedtl.run(tables, out=tmp_path / "run")
    assert fedtl.run({**tables, "rounds": 2}, out=tmp_path / "run", resume=True).rounds[-1]["round"] == 2
    np.savez(file, sample=np.arange(40), client=np.arange(40) % 2, test=np.arange(40) < 12)
    with pytest.raises(ConfigError, match="clients hold other samples than when the run in"):
        fedtl.run({**tables, "rounds": 3}, out=tmp_path / "run", resume=True)


# --- test samples that others train on ---


def test_they_are_found_by_what_they_are_and_not_by_who_else_holds_them() -> None:
    x = np.array([[1], [2], [3], [1], [2], [3], [3]], np.float32)
    numbers = identities(x)
    train = Shards.of([np.array([0, 2]), np.array([3]), np.array([1])])
    test = Shards.of([np.array([4]), np.array([6, 5]), np.empty(0, np.int64)])
    assert trained_elsewhere(numbers, test, [train]).tolist() == [True, True, True]
    own = Shards.of([np.array([5, 3]), np.array([6]), np.array([4])])  # 3 at its own client alone; 1 at the next, too
    assert trained_elsewhere(numbers, own, [train]).tolist() == [False, True, True, False]
    nowhere = Shards.none(3)
    assert trained_elsewhere(numbers, own, [nowhere]).tolist() == [False] * 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
def test_numbers_that_are_equal_are_one_sample(dtype: Any) -> None:
    x = np.array([[0, 1], [0, 1], [1, 0], [0, 2]], dtype)
    if x.dtype.kind == "f":
        x[1, 0] = -0.0
    before = x.tobytes()
    first, second, *others = identities(x).tolist()
    assert first == second
    assert len({first, *others}) == 3
    assert x.tobytes() == before


def test_equal_samples_of_a_users_own_data_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trains, tests = rng.normal(size=(3, 20, 4)), rng.normal(size=(3, 10, 4))
    tests[2, :3] = trains[0, :3]
    for client, (x, x_test) in enumerate(zip(trains, tests)):
        y, y_test = np.arange(20) % 2, np.arange(10) % 2
        np.savez(tmp_path / f"{client}.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    federation = federate(read_data({"name": "npz", "path": str(tmp_path)}), 0)
    assert federation.trained_elsewhere is not None
    assert federation.trained_elsewhere.tolist() == [False] * 20 + [True] * 3 + [False] * 7
    assert federation.share_trained_elsewhere == 0.1
    assert federation.notes == (
        "warning: 10.0 % of the clients' test samples (3 of 30) are equal to training samples of another client, so a "
        "global model has seen them",
    )


def test_what_is_trained_without_labels_counts_and_rotation_does_not_hide_it(tmp_path: Path) -> None:
    file = npz(tmp_path, sample=[0, 1, 2, 0, 3, 4], client=[0, 0, 0, 1, 1, 1], test=[0, 0, 0, 1, 0, 0])
    base = {"name": "file", "path": str(file)}
    for partition in (base, {"name": "rotated", "angles": [0, 90], "base": base}):
        federation = small(partition=partition, labelled_fraction=0.4)
        assert federation.trained_elsewhere is not None
        assert federation.trained_elsewhere.tolist() == [True]


def test_who_never_trains_has_shown_a_model_nothing(tmp_path: Path) -> None:
    file = npz(tmp_path, sample=[0, 1, 2, 0, 3, 4, 2], client=[0, 0, 0, 1, 1, 1, 2], test=[0, 0, 1, 1, 0, 0, 0])
    everybody, without_0, without_1, without_2 = (
        from_file(file, held_out_clients=unseen) for unseen in (0, [0], [1], [2])
    )
    for federation, leaked in ((everybody, 2), (without_0, 1), (without_1, 2), (without_2, 1)):
        assert federation.share_trained_elsewhere == leaked / 2
        assert sum(f"({leaked} of 2) are equal to training" in note for note in federation.notes) == 1
    neither = from_file(file, held_out_clients=[0, 2])
    assert (neither.trained_elsewhere, neither.notes) == (None, ())


TERM = {"term": "cross_entropy"}


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({}, False),
        ({"objective": [TERM, {"term": "mmd", "weight": 0.1}]}, True),
        ({"objective": [TERM, {"term": "mmd", "weight": 0}]}, False),
        ({"objective": [TERM, {"term": "entropy", "weight": 0.1}]}, True),
        ({"phases": [{"rounds": 1}, {"rounds": 1, "objective": [TERM, {"term": "mmd"}]}]}, True),
    ],
)
def test_samples_without_labels_are_trained_on_where_a_term_reads_them(
    tmp_path: Path, changes: dict[str, Any], read: bool
) -> None:
    """Of 30 training samples at each client three keep their labels, and all are the other client's test samples."""
    rows = np.arange(120)
    file = npz(tmp_path, sample=rows % 60, client=rows // 60, test=(rows % 60 < 30) == (rows < 60))
    data = {"name": "digits", "partition": {"name": "file", "path": str(file)}, "labelled_fraction": 0.1}
    tables = {"name": "a", "data": data, "model": {"name": "mlp"}, "strategy": {"name": "fedavg", "lr": 0.1}}
    config = read_config({**tables, **({} if "phases" in changes else {"rounds": 1}), **changes})[0]
    assert config.trains_unlabelled == read
    federation = federate(config.data, 0, config.trains_unlabelled)
    assert federation.share_trained_elsewhere == (1.0 if read else 0.1)


def test_an_ordinary_split_has_none() -> None:
    federation = small(clients=5)
    assert federation.trained_elsewhere is None
    assert federation.share_trained_elsewhere == 0
    assert federation.notes == ()


# --- published splits ---

PUBLISHED = Path(os.environ.get("FEDTL_DATA", "")) / "splits"
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="FEDTL_DATA names no folder with splits/")


@pytest.mark.data
@published
@pytest.mark.parametrize("data", ["mnist", "fashion-mnist"])
def test_pfllibs_splits(data: str) -> None:
    file = f"splits/{data}-dirichlet-0.1-20.npz"
    choice = read_data({"name": data, "pool": "all", "partition": {"name": "file", "path": file}})
    federation = federate(choice, 0)
    with np.load(PUBLISHED.parent / file) as archive:
        client, test = archive["client"], archive["test"]
    assert federation.clients == 20
    assert np.array_equal(np.sort(np.concatenate([federation.train.order, federation.test.order])), np.arange(70_000))
    for i in range(20):
        assert np.array_equal(federation.train[i], np.flatnonzero((client == i) & ~test))
    assert abs(len(federation.test.order) / 70_000 - 0.25) < 0.001
    assert federation.notes == ()
    with pytest.raises(ConfigError, match=r"^data\.pool = 'train': .* set data\.pool = 'all'"):
        federate(choice.model_copy(update={"pool": "train"}), 0)
    with pytest.raises(ConfigError, match="client has 70000 elements, but 'usps' has 9298 samples"):
        federate(read_data({"name": "usps", "partition": {"name": "file", "path": file}}), 0)


@pytest.mark.data
@published
def test_pfedmes_split(tmp_path: Path) -> None:
    file = "splits/mnist-pfedme-paper-20.npz"
    choice = read_data({"name": "mnist", "pool": "all", "partition": {"name": "file", "path": file}})
    federation, divisions = federate_with_divisions(choice, 0)
    sizes = federation.train.sizes
    assert (sizes.min(), sizes.max(), sizes.sum(), len(federation.test.order)) == (1165, 3834, 52_470, 17_499)
    assert f"{100 * federation.share_trained_elsewhere:.1f}" == "89.1"
    assert any("19 of its 69969 labels are not those of 'mnist'" in note for note in federation.notes)
    write_split(divisions.source.split(), tmp_path / "again.npz")
    written, original = read_split(tmp_path / "again.npz"), read_split(PUBLISHED.parent / file)
    assert original.label is not None
    assert written.label is not None

    def entries(split: Any) -> NDArray[np.int64]:
        return np.array(sorted(zip(split.client, split.sample, split.test, split.label)))

    assert np.array_equal(entries(written), entries(original))
    path = str(tmp_path / "again.npz")
    again = read_data({"name": "mnist", "pool": "all", "partition": {"name": "file", "path": path}})
    assert_same(federation, federate(again, 0))


ON_TOP = sorted(
    name
    for name in PARTITIONS
    if name not in ("file", "flwr-datasets") and isinstance(one := read_partition(name), OnTop) and one.shifting
)


@pytest.mark.parametrize("ending", ["npz", "csv"])
@pytest.mark.parametrize("name", ON_TOP)
@pytest.mark.parametrize("of_domains", [False, True])
def test_on_top_of_its_file_a_partition_does_the_same_to_samples(
    tmp_path: Path, name: str, ending: str, of_domains: bool
) -> None:
    """Whatever it draws, and in whichever order: the file's is that of training and test samples."""
    data: dict[str, Any] = {"name": "digits", "clients": 5, "samples": 300, "validation_share": 0.2}
    if of_domains:
        data = {**data, "name": "domains", "domains": {"a": {"name": "digits"}, "b": {"name": "digits"}}}
    file = tmp_path / f"split.{ending}"

    def divided(base: Any, **options: Any) -> tuple[Federation, Split]:
        choice = {**data, "partition": {"name": name, "base": base}, **options}
        federation, divisions = federate_with_divisions(read_data(choice), 3)
        return federation, divisions.source.split()

    of_rule, split = divided("iid")
    write_split(split, file)
    unclear = {"clients": None, "samples": None}
    of_file, again = divided({"name": "file", "path": str(file)}, **unclear)
    assert_same(of_file, of_rule)
    for one, other in ((split.sample, again.sample), (split.turn, again.turn)):
        assert one is not None
        assert other is not None
        assert np.array_equal(one, other)


def test_turns(tmp_path: Path) -> None:
    """Without any, as in older files, the order is that of the entries."""
    entries = [(i, i % 2, int(i > 30), i // 2) for i in range(40)]

    def noisy(columns: int, turned: bool = False) -> NDArray[Any]:
        rows = [(s, c, t, 19 - turn if turned else turn)[:columns] for s, c, t, turn in entries]
        header = ",".join(("sample", "client", "test", "turn")[:columns])
        (tmp_path / "split.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
        file = {"name": "file", "path": str(tmp_path / "split.csv")}
        return small(partition={"name": "noisy", "sigma": 0.5, "base": file}).x

    assert np.array_equal(noisy(3), noisy(4))
    assert not np.array_equal(noisy(3), noisy(4, turned=True))
    (tmp_path / "split.csv").write_text("sample,client,turn\n0,0,1\n1,1,0\n2,0,1\n")
    assert "turn 1 stands twice at client 0" in sentence(tmp_path / "split.csv")


def test_a_split_of_a_rule_alone_has_no_turns(tmp_path: Path) -> None:
    saved(tmp_path / "split.csv", clients=3)
    assert (tmp_path / "split.csv").read_text().startswith("sample,client,test\n")
