"""``fedtl partition --export``: who holds what, as files for real clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedtl.config.read import read_config
from fedtl.data.federate import federate
from fedtl.data.own.read import read_own
from fedtl.data.schema import DataSchema
from tests.cli.test_probe import Said

SMALL = ["quickstart", "data.name=digits", "data.clients=3", "strategy.clients_per_round=3"]


@pytest.fixture
def fedtl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    monkeypatch.chdir(tmp_path)
    return Said(monkeypatch, capsys)


def test_files_beside_the_table_and_the_picture(fedtl: Said, tmp_path: Path) -> None:
    alone = fedtl("partition", *SMALL)
    output = fedtl("partition", *SMALL, "--export", "out [1]")
    last = output.splitlines()[-1]
    assert output == f"{alone}{last}\n"
    folder = tmp_path / "out [1]"
    written = sum(file.stat().st_size for file in folder.rglob("*.*"))
    size = f"{written / 1000:.1f} kB" if written < 1e6 else f"{written / 1e6:.1f} MB"
    assert last == f"out [1]: 3 clients and the server, {size}"
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "server"]
    config, _ = read_config(SMALL[0], SMALL[1:])
    whole = federate(config.data, config.seed)
    frame = DataSchema.read(folder / "server" / "frame.json")
    for client in range(3):
        mine = read_own(str(folder / str(client))).as_federation(frame, client, 3)
        assert np.array_equal(mine.x[mine.train[client]], whole.x[whole.train[client]])
        assert np.array_equal(mine.y[mine.test[client]], whole.y[whole.test[client]])


def test_what_holds_something_is_refused_before_anything_is_made(fedtl: Said, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    message = fedtl("partition", *SMALL, "--export", "out", code=2)
    assert message == "fedtl: out holds something already: give a new folder, or an empty one\n"
    assert fedtl("partition", *SMALL, "--export", "out/mine", code=2).startswith("fedtl: out/mine is a file")
    assert not (tmp_path / "partition.png").exists()


def test_what_cannot_be_written_is_a_failure(fedtl: Said, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = fedtl("partition", *SMALL, "--export", "file/out", code=1)
    assert message == "fedtl: file/out/0 cannot be written: Not a directory\n"


def test_folders_with_the_clients_names(fedtl: Said, tmp_path: Path) -> None:
    fedtl("partition", *SMALL, "--export", "out", "--names", "a, b,c")
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["a", "b", "c", "server"]
    message = fedtl("partition", *SMALL, "--names", "a,b,c", code=2)
    assert message == "fedtl: --names = 'a,b,c': they name the folders of --export; add that, or leave them out\n"


def test_validation_samples_have_a_column_and_a_file(fedtl: Said, tmp_path: Path) -> None:
    share = [*SMALL, "data.validation_share=0.25"]
    before, lines = fedtl("partition", *SMALL).splitlines(), fedtl("partition", *share, "--export", "out").splitlines()
    config, _ = read_config(share[0], share[1:])
    federation = federate(config.data, config.seed)
    assert federation.validation is not None
    assert before[1].split()[:3] == ["client", "train", "test"]
    assert lines[1].split()[:4] == ["client", "train", "validation", "test"]
    rows = [line.split()[:4] for line in lines]  # labels may need more lines than one
    for client in range(3):
        sizes = [federation.train.sizes[client], federation.validation.sizes[client], federation.test.sizes[client]]
        assert [str(client), *map(str, sizes)] in rows
    each = federation.validation.sizes
    assert f"validation samples: {each.sum()}, {each.min()} to {each.max()} a client" in lines
    with np.load(tmp_path / "out" / "1" / "validation.npz") as file:
        assert np.array_equal(file["x"], federation.x[federation.validation_of(1)])
        assert np.array_equal(file["y"], federation.y[federation.validation_of(1)])


@pytest.mark.parametrize("name", ["split.npz", "out [1]/split.csv"])
def test_a_split_is_saved_and_read(fedtl: Said, tmp_path: Path, name: str) -> None:
    output = fedtl("partition", *SMALL, "--save", name)
    assert output.splitlines()[-1].startswith(f"{name}: 3 clients, 1438 samples, ")
    again = fedtl("partition", *SMALL, f"data.partition={{name='file',path='{name}'}}", "data.clients=none", "seed=5")
    assert again.splitlines()[1:] == output.splitlines()[1:-1]  # but for the partition's name
    config, _ = read_config(SMALL[0], [*SMALL[1:], f"data.partition={{name='file',path='{name}'}}"])
    whole, _ = read_config(SMALL[0], SMALL[1:])
    assert federate(config.data, 3).fingerprint() == federate(whole.data, whole.seed).fingerprint()


def test_what_a_saved_split_leaves_out_is_said(fedtl: Said, tmp_path: Path) -> None:
    output = fedtl("partition", *SMALL, "data.partition=rotated", "data.target=digits", "--save", "a.npz")
    first, second = output.splitlines()[-2:]
    assert first.endswith("; what 'rotated' does to samples is not in it: name the file as the base of 'rotated'")
    assert second.startswith("a-target.npz: 3 clients, ")
    message = fedtl("partition", *SMALL, "--save", "a.txt", code=2)
    assert message == "fedtl: --save = 'a.txt': a split is a .npz or a .csv file; give a name that ends so\n"
    (tmp_path / "file").touch()
    message = fedtl("partition", *SMALL, "--save", "file/a.npz", code=1)
    assert message.startswith("fedtl: file/a.npz cannot be written: ")


def test_test_samples_that_others_train_on_are_warned_of(fedtl: Said, tmp_path: Path) -> None:
    lines = ["sample,client,test", "0,0,0", "1,0,1", "1,1,0", "2,1,1", "0,2,0", "3,2,1"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    output = fedtl("partition", *SMALL, "data.partition={name='file',path='a.csv'}")
    assert "warning: 33.3 % of the clients' test samples (1 of 3) are equal to training samples of another" in output
    assert "the clients' 6 samples are 4 different ones\n" in output
