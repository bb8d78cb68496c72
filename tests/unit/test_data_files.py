"""Clients' own files in a simulation: what becomes of gaps, words and labels, and the same draw as a deployment's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.columns import Columns
from fedtl.data.dataset import Dataset
from fedtl.data.domains import forget_data_sets, keep_data_sets
from fedtl.data.federate import federate
from fedtl.data.own.read import read_own
from fedtl.data.sets.files import Files
from fedtl.data.sets.heart import HOSPITALS

Write = Callable[..., Path]

BERN = "age;smoker;ward;sick\n40;yes;A;0\n50;no;B;1\n;no;A;0\n70;yes;?;1\n"
BASEL = "age;smoker;ward;sick\n30;no;C;1\n35;NA;A;0\n45;yes;A;0\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def call(**files: str) -> Path:
        for name, text in files.items():
            file = tmp_path / (name.replace("__", "/") + ".csv")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return call


def load(path: Path, **options: object) -> Dataset:
    return read_data({"name": "files", "path": str(path), "label": "sick", "test_share": 0.0, **options}).load()


def test_codes_are_the_same_with_and_without_decimals(write: Write) -> None:
    """As pandas writes whole numbers of a column that has a gap."""
    folder = write(a="ward;sick\n1.0;1.0\n2.0;0.0\n;1.0\n1.50;2.0\n", b="ward;sick\n1;1\n2;0\n10;1\n1;2\n")
    dataset = load(folder, missing="mean", categorical=["ward"], positive=["1", "2.0"])
    assert dataset.columns is not None
    assert dataset.columns.each[0].words == ("1", "1.50", "10", "2")
    assert dataset.x.argmax(axis=1).tolist() == [0, 3, 0, 1, 0, 3, 2, 0]
    assert dataset.y.tolist() == [1, 0, 1, 1, 1, 0, 1, 1]
    rules = read_data({"name": "files", "path": str(folder), "label": "sick", "positive": ["1", "2.0"]}).rules  # type: ignore[attr-defined]
    assert rules.classes(np.array(["1.0", "0.0", "2", "1"])).tolist() == [1, 0, 1, 1]


def test_whose_a_row_is_is_nothing_to_learn_from(write: Write) -> None:
    """Nor where a client has its rows of a table in a file of its own."""
    header, a, b = "who;v;sick\n", "1;5;0\n1;6;1\n", "2;7;0\n2;8;1\n"
    folder = write(all=header + a + b, mine=header + a, without="v;sick\n5;0\n6;1\n")
    data = read_data({"name": "files", "path": str(folder / "all.csv"), "label": "sick", "owner": "who"})
    assert isinstance(data, Files)
    assert data.load().columns == Columns.of_numbers(["v"])
    for name in ("mine", "without"):
        own = data.own(str(folder / f"{name}.csv"))
        assert (own.columns, sorted(own.x.tolist())) == (("v",), [[5.0], [6.0]])


@pytest.mark.parametrize("how", ["domains", "target", "public"])
def test_tables_of_several_data_sets_mean_the_same(write: Write, how: str) -> None:
    """What one column becomes is decided for each data set by itself."""
    header = "age;ward;sick\n"
    tables = {
        "one": header + "1;A;1\n2;B;0\n3;A;1\n4;B;0\n",
        "words": header + "1;C;1\n2;D;0\n3;C;1\n4;D;0\n",
        "order": "ward;age;sick\nA;1;1\nB;2;0\nA;3;1\nB;4;0\n",
        "named": "years;ward;sick\n1;A;1\n2;B;0\n3;A;1\n4;B;0\n",
    }
    folder = write(**{f"{name}__{client}": text for name, text in tables.items() for client in "ab"})

    def joined(other: str) -> object:
        one, further = (
            {"name": "files", "path": str(folder / name), "label": "sick", "categorical": ["ward"]}
            for name in ("one", other)
        )
        data = {**one, how: further}
        if how == "domains":
            data = {"name": "domains", "partition": "natural", "domains": {"one": one, "other": further}}
        return federate(read_data(data), 0)

    with pytest.raises(ConfigError, match=r"the column 'ward' has the words C, D, and in .* A, B; the same number"):
        joined("words")
    with pytest.raises(ConfigError, match=r"the column 'ward' is another number of a sample than in"):
        joined("order")
    assert joined("named")
    assert joined("one")


def test_words_of_held_out_clients_alone(write: Write) -> None:
    """In a deployment they decide no column."""
    folder = write(a="v;ward;sick\n1;A;1\n2;B;0\n", b="v;ward;sick\n1;A;1\n2;Z;0\n3;Y;1\n")
    data = {"name": "files", "path": str(folder), "label": "sick", "categorical": ["ward"], "test_share": 0.0}
    data["server_test_share"] = 0.0
    (note,) = (n for n in federate(read_data({**data, "held_out_clients": [1]}), 0).notes if "never train" in n)
    assert "of the column 'ward' only clients that never train have 'Y', 'Z'; real" in note
    (note,) = (n for n in federate(read_data({**data, "held_out_clients": [0]}), 0).notes if "never train" in n)
    assert "only clients that never train have 'B';" in note
    assert not [n for n in federate(read_data(data), 0).notes if "never train" in n]


def test_columns_are_known_by_their_names(write: Write) -> None:
    folder = write(a="u;v;sick\n1;2;0\n3;4;1\n", b="sick;v;u\n1;6;5\n0;8;7\n")
    dataset = load(folder)
    assert dataset.x.reshape(len(dataset.x), -1).tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert dataset.y.tolist() == [0, 1, 1, 0]
    assert f"{folder / 'b.csv'}: its columns are put in the order of {folder / 'a.csv'}" in dataset.notes
    write(b="sick;v\n1;6\n")
    with pytest.raises(ConfigError, match=r"b\.csv: it has no column 'u', which is in .*a\.csv$"):
        load(folder)


def test_who_is_which_number_is_said(write: Write, tmp_path: Path) -> None:
    said = "owners in the order of their names: 0 is basel, 1 is bern"
    assert said in load(write(bern=BERN, basel=BASEL), missing="drop", categorical=["ward"]).notes
    one = tmp_path / "one" / "all.csv"
    one.parent.mkdir()
    one.write_text("at;v;sick\nbern;1;0\nbasel;2;1\nbern;3;1\nbasel;4;0\n")
    assert said in load(one, owner="at").notes


def test_gaps_get_the_mean_of_all_clients_rows(write: Write) -> None:
    folder = write(bern=BERN, basel=BASEL)
    dataset = load(folder, missing="mean", indicators=True, categorical=["ward"])
    # Clients in the order of their files' names. Columns: age, its gaps; smoker, its gaps; wards A, B, C, their gaps.
    age, smoker = np.mean([30, 35, 45, 40, 50, 70]), np.mean([0, 1, 1, 0, 0, 1])
    np.testing.assert_allclose(
        dataset.x,
        np.array(
            [
                [30, 0, 0, 0, 0, 0, 1, 0],
                [35, 0, smoker, 1, 1, 0, 0, 0],
                [45, 0, 1, 0, 1, 0, 0, 0],
                [40, 0, 1, 0, 1, 0, 0, 0],
                [50, 0, 0, 0, 0, 1, 0, 0],
                [age, 1, 0, 0, 1, 0, 0, 0],
                [70, 0, 1, 0, 1, 0, 0, 1],  # A is the most frequent ward
            ],
            np.float32,
        ),
    )
    assert dataset.y.tolist() == [1, 0, 0, 0, 1, 0, 1]
    assert dataset.owner is not None
    assert dataset.owner.tolist() == [0] * 3 + [1] * 4
    assert any("semicolons" in note for note in dataset.notes)


def test_gaps_get_a_median_of_clients_medians(write: Write) -> None:
    one = "a,sick\n1,0\n2,1\n9,0\n"
    two = "a,sick\n4,0\n,1\n"
    three = "a,sick\n?,0\nna,1\n"  # has none of its own
    # Medians 2 (of three values) and 4 (of one): the middle of 2, 2, 2, 4.
    assert load(write(a=one, b=two, c=three), missing="median").x[:, 0].tolist() == [1, 2, 9, 4, 2, 2, 2]


def test_what_fills_a_gap_is_nothing_that_is_tested(write: Write) -> None:
    rows = "".join(f"{age},{age % 2}\n" for age in range(1, 21))
    folder = write(a="age,sick\n" + rows + ",0\n")
    dataset = load(folder, missing="mean", indicators=True, test_share=0.3)
    assert dataset.held_out is not None
    gap = dataset.x[:, 1] == 1
    assert gap.sum() == 1
    assert dataset.x[gap, 0] == pytest.approx(dataset.x[~dataset.held_out & ~gap, 0].mean())


def test_rows_with_gaps_are_left_out_and_counted(write: Write) -> None:
    dataset = load(write(bern=BERN, basel=BASEL), missing="drop", categorical=["ward"])
    assert dataset.x[:, 0].tolist() == [30, 45, 40, 50]
    assert [note for note in dataset.notes if "left out" in note] == [
        f"{dataset_path}: {gone} of {rows} rows have gaps, and are left out"
        for dataset_path, gone, rows in ((_path(dataset.notes, "basel"), 1, 3), (_path(dataset.notes, "bern"), 2, 4))
    ]


def _path(notes: tuple[str, ...], name: str) -> str:
    return next(note.partition(".csv:")[0] for note in notes if f"{name}.csv: " in note) + ".csv"


def test_the_draw_is_a_real_clients(write: Write) -> None:
    rows = "".join(f"{i},{i % 3}\n" for i in range(40))
    folder = write(a="v,sick\n" + rows, b="v,sick\n" + rows[: len(rows) // 2].rpartition("\n")[0] + "\n")
    federation = federate(read_data({"name": "files", "path": str(folder), "label": "sick", "test_share": 0.25}), 0)
    for client, name in enumerate("ab"):
        own = read_own(str(folder / f"{name}.csv"), label="sick", test_share=0.25)
        for here, there in ((federation.train, own.train), (federation.test, own.test)):
            assert set(federation.x[here[client], 0]) == set(own.x[there, 0])


def test_one_file_with_an_owner_column(write: Write) -> None:
    file = write(all="who,v,sick\nzoe,1,0\nann,2,1\nzoe,3,1\nann,4,0\n") / "all.csv"
    dataset = load(file, owner="who")
    assert dataset.owner is not None
    assert dict(zip(dataset.x[:, 0].tolist(), dataset.owner.tolist())) == {2: 0, 4: 0, 1: 1, 3: 1}
    with pytest.raises(ConfigError, match="line 3, column 'who': the cell does not say whose the row is"):
        load(write(some="who,v,sick\nzoe,1,0\n?,2,1\n") / "some.csv", owner="who")
    assert load(file, leave_out=["who"], partition={"name": "iid"}, clients=2).owner is None


def test_codes_1_and_1_0_are_one_owner_and_one_label(write: Write) -> None:
    dataset = load(write(all="who,v,sick\n1,0,7\n1.0,1,7.0\n2,2,x\n1,3,x\n") / "all.csv", owner="who")
    assert dataset.owner is not None
    assert dict(zip(dataset.x[:, 0].tolist(), dataset.owner.tolist())) == {0: 0, 1: 0, 2: 1, 3: 0}
    assert dataset.label_names == ("7", "x")
    assert "owners in the order of their names: 0 is 1, 1 is 2" in dataset.notes
    # Where nothing is one of several, names and their order stay.
    apart = load(write(all="who,v,sick\n1.0,0,7.0\n1-a,1,7-a\n") / "all.csv", owner="who")
    assert "owners in the order of their names: 0 is 1-a, 1 is 1.0" in apart.notes
    assert apart.label_names == ("7-a", "7.0")


def test_folders_with_parts(write: Write) -> None:
    write(a__train="v,sick\n1,0\n2,1\n", a__test="v,sick\n3,1\n")
    folder = write(b__train="v,sick\n4,0\n5,1\n", b__test="v,sick\n6,0\n")
    dataset = load(folder)
    assert dataset.held_out is not None
    assert dataset.x[dataset.held_out, 0].tolist() == [3, 6]


def test_labels(write: Write) -> None:
    folder = write(a="v,sick\n1,none\n2,mild\n", b="v,sick\n3,severe\n4,none\n")
    words = load(folder)
    assert words.label_names == ("mild", "none", "severe")
    assert words.y.tolist() == [1, 0, 2, 1]
    positive = load(folder, positive=["mild", "severe"])
    assert (positive.y.tolist(), positive.classes) == ([0, 1, 1, 0], 2)
    assert positive.label_names == ("none", "mild, severe")


HEAD = "v,sick\n"


@pytest.mark.parametrize(
    "files",
    [
        {"north": "1,0\n2,1\n3,0\n", "south": "4,no\n5,yes\n6,no\n"},
        {"north": "1,well\n2,ill\n", "south": "3,0\n4,1.5\n"},
        {"north__train": "1,0\n2,1\n", "north__test": "3,no\n4,yes\n"},
        {"north__train": "1,0\n2,-1\n", "north__test": "3,no\n4,0\n", "south__train": "3,1\n4,2\n"},
    ],
    ids=["clients", "fractions", "one client's parts", "of three"],
)
def test_labels_are_words_or_numbers_at_all_clients(write: Write, files: dict[str, str]) -> None:
    folder = write(**{name: HEAD + rows for name, rows in files.items()})
    with pytest.raises(ConfigError, match=r"^labels are words in .*\.csv and numbers in .*; write them alike$"):
        load(folder)


def test_codes_that_look_like_numbers_at_one_client(write: Write) -> None:
    dataset = load(write(a=f"{HEAD}1,410\n2,250\n", b=f"{HEAD}1,V45\n2,410\n"))
    assert (dataset.label_names, dataset.y.tolist()) == (("250", "410", "V45"), [1, 0, 2, 1])


def test_labels_that_may_mean_the_same_are_said(write: Write, tmp_path: Path) -> None:
    north, south = "1,ill\n2,well\n3,ill\n", "1,Ill\n2,Well\n3,well\n"
    folder = write(north=HEAD + north, south=HEAD + south, west=f"{HEAD}1,0\n2,1\n")
    assert [note for note in load(folder, positive=["ill"]).notes if "data.positive" in note] == [
        "south.csv, west.csv: no row has the label 'ill', which data.positive names: all are of class 0"
    ]
    named = [note for note in load(folder, positive=["ill", "Well"]).notes if "data.positive" in note]
    assert named[0].startswith("west.csv: no row has the label 'ill' or 'Well', which")
    assert named[1].startswith("the label 'Ill' and 'well' is of class 0, as data.positive names 'ill'; name it there")
    assert not [n for n in load(folder, positive=["ill", "Ill", "1"]).notes if "data.positive" in n]
    (folder / "west.csv").unlink()
    said = "the labels 'Ill' and 'ill' are 2 classes, and so are 1 others; write alike what means the same"
    assert said in load(folder).notes
    assert not [note for note in load(write(south=HEAD + north)).notes if "write alike" in note]
    one = tmp_path / "one" / "all.csv"
    one.parent.mkdir()
    one.write_text("at,v,sick\nnorth,1,0\nnorth,2,1\nsouth,3,no\nsouth,4,yes\nwest,5,0\n")
    (note,) = (note for note in load(one, owner="at").notes if "participant" in note)
    assert note.startswith("the labels of south are no other participant's, as 'no', 'yes' of south")


def _not_read(path: Path, name: str = "files", **options: object) -> list[str]:
    notes = read_data({"name": name, "path": str(path), **options}).load().notes
    return [note.removeprefix(f"{path}") for note in notes if "not read: " in note]


def test_what_is_not_read_of_a_folder_is_said(write: Write) -> None:
    folder = write(bern=HEAD + "1,0\n2,1\n", _old=HEAD + "1,0\n")
    assert _not_read(folder, label="sick") == [
        ": _old.csv is not read: a client is a folder, or a file .csv or .parquet, whose name does not begin with _"
    ]
    for other in ("basel.tsv", "zurich.csv.gz", "geneva.xlsx", ".hidden.txt"):
        (folder / other).write_text("x")
    (note,) = _not_read(folder, label="sick")
    assert note.startswith(": _old.csv, basel.tsv, geneva.xlsx, zurich.csv.gz are not read: a client is")


@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_what_is_not_read_of_a_clients_folder_is_said(write: Write, ending: str) -> None:
    folder = write(a__train=HEAD.replace("sick", "label") + "1,0\n2,1\n")
    if ending == "npz":
        (folder / "a" / "train.csv").unlink()
        np.savez(folder / "a" / "train.npz", x=np.ones((2, 1)), y=np.arange(2))
    (folder / "a" / "target").mkdir()
    assert _not_read(folder) == []
    for other in ("test.tsv", "Test.csv", "domain.txt", "target/more.txt"):
        (folder / "a" / other).write_text("x")
    expected = f"/a: Test.csv, target/more.txt, test.tsv are not read: a participant's parts are train.{ending}, test."
    (note,) = _not_read(folder)
    assert note.startswith(expected)
    (note,) = (note for note in read_own(str(folder / "a")).notes if "not read" in note)
    assert note.removeprefix(str(folder)).startswith(expected)


def test_what_is_not_read_of_npz_files_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((4, 1)), y=np.arange(4) % 2)
    assert _not_read(tmp_path, "npz") == []
    for other in ("b.NPZ", "c.npy"):
        (tmp_path / other).write_bytes(b"x")
    assert _not_read(tmp_path, "npz") == [": b.NPZ, c.npy are not read: a client is a file .npz"]


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    pixels = Image.fromarray(np.zeros((9, 9), np.uint8))
    for place in ("plain/a/cat", "plain/a/dog", "parts/a/train/cat", "parts/a/train/dog", "parts/a/test/cat"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(3):
            pixels.save(tmp_path / place / f"{i}.png")
    plain, parts = tmp_path / "plain", tmp_path / "parts"
    for folder in (plain, parts):
        assert _not_read(folder) == []
    for other in ("plain/a/cat/x.heic", "plain/README.md", "parts/a/train/dog/more.pdf", "parts/a/Test"):
        (tmp_path / other).write_text("x")
    (inner, outer) = _not_read(plain)
    assert inner.startswith("/a: cat/x.heic is not read: images are .bmp,")
    assert outer.startswith(": README.md is not read: a client is a folder")
    (first, second) = _not_read(parts)
    assert first.startswith("/a: Test is not read: parts are train, test,")
    assert second.startswith("/a/train: dog/more.pdf is not read: images are")
    assert _not_read(plain / "a", "images", partition="iid", clients=2) == [inner.removeprefix("/a")]
    (tmp_path / "plain" / "_b").mkdir()
    assert _not_read(plain, "domains")[-1] == (
        ": README.md, _b are not read: a domain is a folder whose name does not begin with _"
    )


def test_images_of_clients(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for client in ("left", "right"):
        for kind in ("cat", "dog"):
            folder = tmp_path / client / kind
            folder.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(rng.integers(0, 255, (9, 9), np.uint8)).save(folder / f"{i}.png")
    data = read_data({"name": "files", "path": str(tmp_path), "test_share": 0.3, "size": 8})
    dataset = data.load()
    assert dataset.x.shape == (24, 1, 8, 8)
    assert dataset.label_names == ("cat", "dog")
    for client, name in enumerate(("left", "right")):
        own = read_own(str(tmp_path / name), size=8, test_share=0.3)
        assert dataset.owner is not None
        assert dataset.held_out is not None
        assert (dataset.held_out[dataset.owner == client]).sum() == len(own.test)
    assert federate(data, 0).clients == 2
    with pytest.raises(ConfigError, match=r"data\.label = 'sick': only tables have columns; leave it out"):
        load(tmp_path)


def test_a_gap_that_only_test_rows_have_is_filled_too(write: Write) -> None:
    folder = write(a__train="ward,v,sick\nA,1,0\nA,2,1\nB,3,1\n", a__test="ward,v,sick\n?,,0\n")
    dataset = load(folder, missing="mean", categorical=["ward"])
    assert dataset.x[-1].tolist() == [1, 0, 2]


def test_yes_and_no_are_numbers_where_a_column_has_no_others(write: Write) -> None:
    with pytest.raises(ConfigError, match="line 3, column 'v': 'y' is no number; name a column of words in"):
        load(write(a="v,w,sick\n1,yes,0\ny,no,1\n"))


def test_doubts_are_said(write: Write, tmp_path: Path) -> None:
    folder = write(a="v,sick\n1,1\n2,2\n")
    assert any("only 2 of 3 classes have a sample (the labels 1, 2)" in note for note in load(folder).notes)
    with pytest.raises(ConfigError, match="only 2 of 70,001 classes have a sample"):
        load(write(a="v,sick\n1,1\n2,70000\n"))
    close = "".join(f"{1e9 + i},{i % 2}\n" for i in range(9))
    assert any("which float32 hardly tells apart" in note for note in load(write(a="v,sick\n" + close)).notes)
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        load(Path("~nobody-of-this-name/data"))


def test_what_a_simulation_has_elsewhere(write: Write) -> None:
    write(a__train="v,sick\n1,0\n2,1\n", a__public="v\n3\n")
    folder = write(b__train="v,sick\n1,0\n2,1\n")
    with pytest.raises(ConfigError, match=r"has public; in a simulation data\.target and data\.public give such"):
        load(folder)
    np.savez(folder / "b" / "train.npz", x=np.ones((2, 1)), y=np.arange(2))
    (folder / "a" / "public.csv").unlink()
    with pytest.raises(ConfigError, match=r"holds both \.npz and \.csv files"):
        load(folder)


def test_kept_data_sets_know_the_test_share(write: Write) -> None:
    folder = write(a="v,sick\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    choices = [
        read_data({"name": "files", "path": str(folder), "label": "sick", "test_share": share})
        for share in (0.25, 0.5, 0.25)
    ]
    keep_data_sets()
    try:
        sizes = [federate(choice, 0).test.sizes.tolist() for choice in choices]
    finally:
        forget_data_sets()
    assert sizes == [[5], [10], [5]]


def test_heart_disease_without_a_line_of_names(tmp_path: Path) -> None:
    row = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,{},3.0,0.0,6.0,{}\n"
    rows = [row.format(label / 2, label) for label in range(5)] + [row.format("?", 1)]
    for hospital in HOSPITALS:
        (tmp_path / f"processed.{hospital}.data").write_text("".join(rows))
    (tmp_path / "reprocessed.hungarian.data").write_text("of another form\n")
    dataset = read_data({"name": "heart-disease", "path": str(tmp_path)}).load()
    assert dataset.owner is not None
    for client in range(4):  # a client's training rows come first
        own = dataset.owner == client
        assert sorted(zip(dataset.x[own, -1], dataset.y[own])) == [(0, 0), (0.5, 1), (1, 1), (1.5, 1), (2, 1)]
    assert dataset.label_names == ("0", "1, 2, 3, 4")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a": BERN}, {}, "line 4, column 'age': the cell holds no value; say what to do with data.missing"),
        ({"a": BERN}, {"missing": "mean"}, "line 2, column 'ward': 'A' is no number; name a column of words in"),
        ({"a": BERN}, {"missing": "dorp"}, "data.missing = 'dorp'"),
        ({"a": BERN}, {"indicators": True}, "indicators = true needs missing = 'mean' or"),
        ({"a": BERN}, {"label": "sik"}, "has no column 'sik': did you mean 'sick'?"),
        ({"a": BERN}, {"categorical": ["wards"]}, "data.categorical = 'wards': .* did you mean 'ward'?"),
        ({"a": BERN}, {"categorical": ["sick"]}, "categorical = 'sick': label names this column too; leave it out of"),
        ({"a": BERN}, {"leave_out": ["sick"]}, "leave_out = 'sick': label names this column too"),
        ({"a": BERN}, {"categorical": ["ward"], "leave_out": ["ward"]}, "categorical = 'ward': leave_out names this"),
        ({"a": BERN}, {"owner": "ward", "categorical": ["ward"]}, "categorical = 'ward': owner names this column too"),
        ({"a": BERN}, {"owner": "ward"}, "data.owner = 'ward': in a folder each entry is a client; leave it out"),
        ({"a": BERN, "b": "age,sick\n1,0\n"}, {}, "it has no column 'smoker', which is in"),
        ({"a": "v,w,sick\n,1,0\n,2,1\n"}, {"missing": "mean"}, "the column 'v' has no value in any training row"),
        ({"a": "v,w,sick\n,1,0\n,2,1\n"}, {"missing": "drop"}, "every row has a gap"),
        ({"a": "v,sick\n1,0\n2,?\n"}, {}, "line 3, column 'sick': the cell is '?'"),
        ({"a": "v,sick\n1,0\n2,2\n"}, {"positive": ["1"]}, "data.positive = '1': no row has this label"),
        ({"a": "v,sick\n1,2\n2,2\n"}, {"positive": ["2"]}, "all rows' labels are among them"),
        ({"a": "v,sick\n1,0\n2,1.5\n"}, {}, "has the label 1.5; labels are whole numbers, or words"),
        ({"a": "v,sick\n1,0\n2,1\n"}, {"leave_out": ["v"]}, "data.leave_out leaves no column to learn from"),
        ({"a": "v,sick\n1,0\ninf,1\n"}, {}, "line 3, column 'v': inf is not finite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(write: Write, files: dict[str, str], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace("(", r"\(")):
        load(write(**files), **options)


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("FEDTL_DATA"), reason="FEDTL_DATA names no folder")
def test_heart_disease_is_flambys() -> None:
    # Ogier du Terrail et al. 2022, Fed-Heart-Disease: 740 patients.
    federation = federate(read_data({"name": "heart-disease"}), 0)
    sizes = federation.train.sizes + federation.test.sizes
    assert sizes.tolist() == [303, 261, 46, 130]
    assert (federation.shape, federation.classes) == ((10,), 2)
