"""Tables as spreadsheets of other countries, pandas and Excel write them: read as they are meant, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.own.lines import header_of
from fedtl.data.own.read import read_own

GOOD = "x1,x2,label\n5.1,3.5,a\n4.9,3.0,b\n6.2,2.9,a\n5.9,3.1,b\n"


def read(tmp_path: Path, text: str, encoding: str = "utf-8", name: str = "train.csv"):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return read_own(str(tmp_path))


def sentence(tmp_path: Path, text: str, encoding: str = "utf-8") -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, encoding)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(tmp_path / "train.csv"))


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_separators_are_found_and_said(tmp_path: Path, separator: str, word: str, ending: str) -> None:
    good = read(tmp_path, GOOD)
    assert good.notes == ()
    own = read(tmp_path, GOOD.replace(",", separator).replace("\n", ending))
    assert own.x.tolist() == good.x.tolist()
    assert (own.y.tolist(), own.names) == (good.y.tolist(), good.names)
    assert own.notes == (f"{tmp_path / 'train.csv'}: its columns are separated by {word}",)
    assert header_of(tmp_path / "train.csv", "label") == ["x1", "x2", "label"]


def test_each_file_may_have_its_own(tmp_path: Path) -> None:
    read(tmp_path, GOOD.replace(",", ";"))
    own = read(tmp_path, GOOD.replace(",", "\t"), name="test.csv")
    assert own.x[own.train].tolist() == own.x[own.test].tolist()
    own = read(tmp_path, "x1;x2\n1;2\n3;4\n", name="public.csv")
    assert own.x[own.public].tolist() == [[1, 2], [3, 4]]
    assert len(own.notes) == 3


def test_other_separators_may_stand_in_a_cell(tmp_path: Path) -> None:
    assert read(tmp_path, "a;b,label\n1,x;y\n2,z\n").notes == ()
    assert read(tmp_path, '"a;b;c","d;e",label\n1,2,x\n').notes == ()
    own = read(tmp_path, '"a,b";label\n1;"x,y"\n2;z\n')
    assert (own.x.tolist(), own.names) == ([[1], [2]], ("x,y", "z"))
    read(tmp_path, "a;b,label\n1,x\n")
    own = read(tmp_path, "a;b\n1\n", name="public.csv")
    assert own.x[own.public].tolist() == [[1]]


def test_the_first_line_that_excel_writes(tmp_path: Path) -> None:
    own = read(tmp_path, "sep=;\n" + GOOD.replace(",", ";"))
    assert own.x.tolist() == read(tmp_path, GOOD).x.tolist()
    assert sentence(tmp_path, "sep=;\r\nx;label\r\n1;0\r\ntwo;0\r\n") == ": line 4, column 'x': 'two' is no number"


@pytest.mark.parametrize("mark", ["a", "7", '"', "_"])
def test_what_separates_nothing_is_not_what_excel_says(mark: str, tmp_path: Path) -> None:
    text = sentence(tmp_path, f"sep={mark}\n" + GOOD)
    assert text.endswith(f"has no column 'label': known: sep={mark}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_byte_order_marks(tmp_path: Path, encoding: str, separator: str) -> None:
    own = read(tmp_path, GOOD.replace("a\n", "ä\n").replace(",", separator), encoding)
    assert own.names == ("b", "ä")
    assert own.x.tolist() == read(tmp_path, GOOD).x.tolist()
    assert any(note.endswith("is read as UTF-16") for note in own.notes) == (encoding == "utf-16")


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        (GOOD, "utf-16-le", " begins like UTF-16 without a byte order mark, or UTF-32; save it as UTF-8"),
        (GOOD, "utf-32", " begins like UTF-16 without a byte order mark, or UTF-32; save it as UTF-8"),
        (GOOD.replace("a\n", "ä\n"), "latin-1", " is not a .csv file in UTF-8: "),
        ("\ufeff" + GOOD + "x", "utf-16-le", ": line 6 has 1 cells, but the header 3"),
    ],
)
def test_other_encodings(tmp_path: Path, text: str, encoding: str, message: str) -> None:
    assert sentence(tmp_path, text, encoding).startswith(message)


@pytest.mark.parametrize("cell", ["5,1", "-5,1", "1,234", ",5", "5,1e3"])
def test_decimal_commas_are_named(tmp_path: Path, cell: str) -> None:
    message = f": line 3, column 'x1': {cell!r} is no number; write a decimal point in place of the comma, in all lines"
    assert sentence(tmp_path, f"x1;x2;label\n5;3;a\n{cell};3;a\n") == message
    assert sentence(tmp_path, f'x1,x2,label\n5,3,a\n"{cell}",3,a\n') == message
    assert sentence(tmp_path, f"x1\tx2\tlabel\n5\t3\ta\n{cell}\t3\ta\n") == message


def test_decimal_commas_between_commas(tmp_path: Path) -> None:
    assert sentence(tmp_path, "x1,x2,label\n5,1,3,5,a\n") == ": line 2 has 5 cells, but the header 3"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("row", ["5.1,3.5,a", "1,2,0", "0,0,1", "a,5,3"])
def test_a_missing_header_is_named(tmp_path: Path, separator: str, row: str) -> None:
    message = sentence(tmp_path, f"{row}\n{row}\n".replace(",", separator))
    assert message.startswith(": the first line holds values, as ")
    assert message.endswith(", where the columns' names are expected; write a line such as a,b,label before it")


def test_a_header_is_no_sample(tmp_path: Path) -> None:
    read(tmp_path, "0,1,label\n5,6,0\n")  # as pandas names columns
    own = read(tmp_path, "0,1\n7,8\n", name="public.csv")
    assert own.x[own.public].tolist() == [[7, 8]]
    (tmp_path / "public.csv").write_text("7,8\n9,10\n")
    with pytest.raises(ConfigError, match=r"public\.csv: the first line holds values, as 7, where the columns' names"):
        read_own(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ",x1,label\n0,5.1,a\n",
            ": column 1 of 3 has no name in the first line; pandas writes its row numbers so, but for "
            "to_csv(..., index=False)",
        ),
        (
            "x1 x2 label\n5.1 3.5 a\n",
            ": its first line is the one word 'x1 x2 label'; separate columns by commas, semicolons or tabs, as many "
            "in each line",
        ),
        ("x1;x2;Label\n5.1;3.5;a\n", " has no column 'label': did you mean 'Label'?"),
        ("x1;x2;label\n5.1;3.5;a\n4.9;3.0\n", ": line 3 has 2 cells, but the header 3"),
        ("x1;x2;label\n5.1;;a\n", ": line 2, column 'x2': the cell is empty"),
        ("x1,label\n1 000,a\n", ": line 2, column 'x1': '1 000' is no number"),
        ("x1,label\nNA,a\n", ": line 2, column 'x1': 'NA' is no number"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    assert sentence(tmp_path, text) == message


def test_a_target_whose_gaps_are_filled_otherwise_is_a_note(tmp_path: Path) -> None:
    for name, level in (("source", 10), ("target", 100), ("alike", 10)):
        (tmp_path / name).mkdir()
        for client in "ab":
            rows = [f"{'' if i % 5 == 0 else level},{i % 2}" for i in range(20)]
            (tmp_path / name / f"{client}.csv").write_text("\n".join(["x,label", *rows]))

    def federated(target: str) -> Federation:
        files = {"name": "files", "missing": "mean"}
        other = {**files, "path": str(tmp_path / target)}
        own = {**files, "path": str(tmp_path / "source"), "normalise": "none", "target": other}
        return federate(read_data(own), 0)

    federation = federated("target")
    assert {*federation.x[:, 0].tolist()} == {10, 100}
    (note,) = [each for each in federation.notes if "gaps" in each]
    assert note.startswith("data.target: gaps are filled by the target's own rows in 'x'; an exported model")
    assert not [each for each in federated("alike").notes if "gaps" in each]
