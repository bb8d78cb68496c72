"""A run's files that are not what was written: never another number, and one sentence where no number is right."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fedtl
from fedtl.choice import ConfigError
from fedtl.disk import durable
from fedtl.disk.memories import MemoryStore
from fedtl.export.of_run import model_of_run
from fedtl.failure import OutputError
from fedtl.runs.checkpoint import SETTLED, read_checkpoint, read_header, write_mark
from fedtl.runs.record import Recorder
from fedtl.runs.resume import digest
from tests.interrupted import ROUNDS, Killed, contents, stop_at, tables

pytestmark = pytest.mark.usefixtures("engines_chosen_once")
RECORDS = ("rounds.jsonl", "clients.jsonl")

LAST = 4
"""The round after which the run was killed."""

Damage = Callable[[Path], object]


def flip(file: Path, at: float, bit: int = 3) -> None:
    """Change one bit of a file, at a fraction of its length."""
    data = bytearray(file.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1 << bit
    file.write_bytes(data)


def cut_off(file: Path, share: float = 0.5) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])


def swap(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def other_size(file: Path) -> None:
    """As valid as can be, but of another model."""
    save_file({name: np.zeros(5, np.float32) for name in load_file(file)}, file)


def without_line(file: Path, place: int) -> None:
    lines = file.read_text().splitlines(keepends=True)
    del lines[place]
    file.write_text("".join(lines))


def memory(folder: Path) -> Path:
    """Of a client that trained in the last finished round."""
    return next(folder.glob(f"memories/*/*-{LAST}.safetensors"))


def memory_of_another(folder: Path) -> None:
    one, other = sorted(folder.glob(f"memories/*/*-{LAST}.safetensors"))[:2]
    shutil.copy(one, other)


TENSORS = f"checkpoint/{LAST}.safetensors"

OF_A_RECORD: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_text(""),
    "torn": lambda file: cut_off(file, 0.9),
    "without its last line": lambda file: without_line(file, -1),
    "without its first line": lambda file: without_line(file, 0),
    "not JSON": lambda file: swap(file, '{"round": 2', '{"round" 2'),
    "with another number": lambda file: swap(file, "0.", "1."),
    "no text": lambda file: file.write_bytes(bytes(range(256)) * 20),
    "a folder": as_folder,
}


def on(name: str, damage: Damage) -> Damage:
    return lambda folder: damage(folder / name)


DAMAGES: dict[str, Damage] = {
    **{f"{name} {what}": on(name, damage) for name in RECORDS for what, damage in OF_A_RECORD.items()},
    "checkpoint missing": lambda folder: shutil.rmtree(folder / "checkpoint"),
    "checkpoint.json missing": lambda folder: (folder / "checkpoint/checkpoint.json").unlink(),
    "checkpoint.json empty": lambda folder: (folder / "checkpoint/checkpoint.json").write_text(""),
    "checkpoint.json a list": lambda folder: (folder / "checkpoint/checkpoint.json").write_text("[1]"),
    "checkpoint.json of another round": lambda folder: swap(
        folder / "checkpoint/checkpoint.json", f'"round": {LAST}', f'"round": {LAST - 1}'
    ),
    "checkpoint.json of another time": lambda folder: swap(
        folder / "checkpoint/checkpoint.json", '"elapsed": ', '"elapsed": 9'
    ),
    "checkpoint.json a folder": lambda folder: as_folder(folder / "checkpoint/checkpoint.json"),
    "tensors missing": lambda folder: (folder / TENSORS).unlink(),
    "tensors cut": lambda folder: cut_off(folder / TENSORS),
    "tensors empty": lambda folder: (folder / TENSORS).write_bytes(b""),
    "a bit of the tensors' data": lambda folder: flip(folder / TENSORS, 0.9),
    "a bit of the tensors' names": lambda folder: flip(folder / TENSORS, 0.02, 0),
    "tensors of another model": lambda folder: other_size(folder / TENSORS),
    "tensors a folder": lambda folder: as_folder(folder / TENSORS),
    "memories missing": lambda folder: shutil.rmtree(folder / "memories"),
    "a memory missing": lambda folder: memory(folder).unlink(),
    "a memory cut": lambda folder: cut_off(memory(folder)),
    "a memory empty": lambda folder: memory(folder).write_bytes(b""),
    "a bit of a memory": lambda folder: flip(memory(folder), 0.9),
    "a memory of another model": lambda folder: other_size(memory(folder)),
    "a memory of another client": memory_of_another,
    "a memory a folder": lambda folder: as_folder(memory(folder)),
    "config.toml missing": lambda folder: (folder / "config.toml").unlink(),
    "config.toml empty": lambda folder: (folder / "config.toml").write_text(""),
    "config.toml no TOML": lambda folder: (folder / "config.toml").write_text("rounds = = 3"),
    "config.toml no text": lambda folder: (folder / "config.toml").write_bytes(b"\xff\xfe\x00"),
    "config.toml with another rate": lambda folder: swap(folder / "config.toml", "lr = 0.05", "lr = 0.06"),
    "config.toml with another seed": lambda folder: swap(folder / "config.toml", "seed = 1", "seed = 2"),
}

HARMLESS: dict[str, Damage] = {
    "environment.json missing": lambda folder: (folder / "environment.json").unlink(),
    "environment.json no JSON": lambda folder: (folder / "environment.json").write_text("{"),
    "environment.json a list": lambda folder: (folder / "environment.json").write_text("[]"),
    "foreign files beside memories": lambda folder: [
        (folder / "memories" / name).write_text("")
        for name in (".DS_Store", "notes.txt", "000000/x-y.safetensors", "000000/0-3.safetensors.bak", "000000/.nfs0")
    ],
    "a foreign folder": lambda folder: (folder / "memories/000000/old").mkdir(),
    "lines of a round that was not finished": lambda folder: [
        (folder / name).open("a").write('{"round": 5, "clients": []}\n{"rou')
        for name in ("rounds.jsonl", "clients.jsonl")
    ],
    "a lock that a dead process left": lambda folder: (folder / "lock").write_text(""),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed right after its fourth round."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(durable.Settler, "due", False)
        stop_at(patch, Recorder, "checkpoint", LAST, after=True)
        fedtl.run(tables(), out=folder)
    return folder


@pytest.mark.parametrize(
    ("named", "damage"),
    [("the folder", damage) for damage in DAMAGES]
    + [("a config", damage) for damage in DAMAGES if damage.startswith("config")],
)
def test_damage_is_one_sentence_or_no_matter(
    damage: str, named: str, killed: Path, uninterrupted: Callable[..., object], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    DAMAGES[damage](folder)
    config = folder if named == "the folder" else tables()
    try:
        fedtl.run(config, out=folder, resume=True)
    except ConfigError as error:
        text = str(error)
        assert "\n" not in text
        assert str(folder) in text
        assert not (folder / "model.safetensors").exists()
    else:  # what can be computed again was
        assert damage.startswith("config.toml")
        assert named == "a config"
        assert contents(folder) == uninterrupted()


@pytest.mark.parametrize("damage", HARMLESS)
def test_what_does_not_matter(damage: str, killed: Path, uninterrupted: Callable[..., object], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    HARMLESS[damage](folder)
    fedtl.run(folder, resume=True)
    assert contents(folder) == uninterrupted()


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGES if "memor" in name or "tensors" in name or "point" in name]
)
def test_a_damaged_model_is_not_exported(damage: str, killed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    client = int(memory(folder).name.partition("-")[0])
    DAMAGES[damage](folder)
    for which in (None, client) if "memor" not in damage else (client,):
        with pytest.raises(ConfigError) as caught:
            model_of_run(folder, which, "stored")
        assert "\n" not in str(caught.value)


def test_a_damaged_final_model_is_not_loaded(killed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    run = fedtl.run(folder, resume=True)
    flip(folder / "model.safetensors", 0.9)
    with pytest.raises(ConfigError, match="do not match their checksum"):
        run.state_dict()
    fedtl.run(folder, resume=True)  # a finished run writes it anew
    run.state_dict()


# What a power cut leaves: the last checkpoint that the disk has for sure.


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As :func:`killed`, but the disk has had the second round, and its memories, for sure."""
    folder = tmp_path_factory.mktemp("settled") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            durable.Settler, "due", property(lambda self: read_header(folder) and read_header(folder).round == 2)
        )
        with pytest.raises(Killed):
            stop_at(patch, Recorder, "checkpoint", LAST, after=True)
            fedtl.run(tables(), out=folder)
    mark = read_header(folder, SETTLED)
    assert mark is not None
    assert mark.round == 2
    return folder


@pytest.mark.parametrize(
    "damage",
    [
        *("rounds.jsonl missing", "clients.jsonl torn", "clients.jsonl without its first line"),
        *("checkpoint.json missing", "checkpoint.json empty", "checkpoint.json of another round"),
        *("tensors missing", "a bit of the tensors' data", "tensors of another model"),
        *("a memory missing", "a bit of a memory", "a memory of another client"),
    ],
)
def test_what_comes_after_the_settled_round_is_computed_again(
    damage: str, settled: Path, uninterrupted: Callable[..., object], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(settled, folder)
    DAMAGES[damage](folder)

    try:
        run = fedtl.run(folder, resume=True)
    except ConfigError:  # what the settled round needs is gone as well
        assert damage.startswith(("rounds", "clients"))
    else:
        (note,) = run.environment["notes"]
        assert "going back to round 2" in note
        assert contents(folder) == uninterrupted()


def test_the_settled_rounds_memories_stay(settled: Path) -> None:
    """Each client's newest memory up to the settled round is there, however often it has trained since."""
    lines = [json.loads(line) for line in (settled / "rounds.jsonl").read_text().splitlines()]
    store, trained = MemoryStore(settled / "memories"), 0
    for client in {client for line in lines if line["round"] <= 2 for client in line["clients"]}:
        assert store.load(client, before=3)
        trained += 1
    assert trained
    assert read_checkpoint(settled).round == LAST  # type: ignore[union-attr]
    assert ROUNDS > LAST


def test_the_record_says_which_memory_is_exported(killed: Path, tmp_path: Path) -> None:
    """An older version of it that is still there is another round's."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    newest = memory(folder)
    client = int(newest.name.partition("-")[0])
    shutil.copy(newest, newest.with_name(f"{client}-1.safetensors"))
    newest.unlink()
    with pytest.raises(ConfigError, match=rf"{client}-{LAST}.safetensors is missing"):
        model_of_run(folder, client, "stored")


@pytest.mark.parametrize("other", ["a copy of clients.jsonl", "failures that are a number", "clients that are null"])
def test_a_record_that_does_not_say_who_trained_is_one_sentence(other: str, killed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    client = int(memory(folder).name.partition("-")[0])
    file = folder / "rounds.jsonl"
    if other == "a copy of clients.jsonl":
        shutil.copy(folder / "clients.jsonl", file)
    else:
        first, *others = map(json.loads, file.read_text().splitlines())
        first[other.partition(" ")[0]] = 3 if "number" in other else None
        file.write_text("".join(json.dumps(line) + "\n" for line in (first, *others)))
    sentence = "does not say who trained in round [12]: restore it|is not a round's record: its 'failures' is 3"
    with pytest.raises(ConfigError, match=rf"rounds\.jsonl.* ({sentence})"):
        model_of_run(folder, client, "stored")


def test_a_zeroed_block_behind_the_settled_round(
    settled: Path, uninterrupted: Callable[..., object], tmp_path: Path
) -> None:
    """As a power cut may leave it."""
    folder = tmp_path / "run"
    shutil.copytree(settled, folder)
    *kept, third, last = (folder / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_bytes(b"".join(kept) + b"\0" * len(third) + last)
    fedtl.run(folder, resume=True)
    assert contents(folder) == uninterrupted()


# Another version of fedtl, and other people's files.


def test_a_config_in_another_versions_words(killed: Path, uninterrupted: Callable[..., object], tmp_path: Path) -> None:
    """It lacks an option that there was not yet; the run can be resumed, and once more at every instant after that."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    config = folder / "config.toml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "weight_decay" not in line))
    mark = read_header(folder)
    assert mark is not None
    write_mark(folder / "checkpoint/checkpoint.json", replace(mark, config=digest(tomllib.loads(config.read_text()))))
    for method in ("_describe", "round"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            stop_at(patch, Recorder, method, 1, after=method == "_describe")
            fedtl.run(folder, resume=True)
    fedtl.run(folder, resume=True)
    assert contents(folder) == uninterrupted()
    fedtl.run(folder, resume=True)


def test_rounds_edited_where_a_weight_follows_them(tmp_path: Path) -> None:
    ramp = {"term": "l2", "weight": 0.1, "ramp": {"shape": "linear", "end": 0.5}}
    config = tables(objective=[{"term": "cross_entropy"}, ramp])
    fedtl.run(config, out=tmp_path / "run")
    swap(tmp_path / "run/config.toml", f"rounds = {ROUNDS}", f"rounds = {ROUNDS + 2}")
    with pytest.raises(ConfigError, match="is not what the run was begun with"):
        fedtl.run(tmp_path / "run", resume=True)


def test_a_finished_run_minds_nobodys_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "note").symlink_to("nowhere")
    (folder / "of.others").mkdir(mode=0)
    fedtl.run(tables("momentum"), out=folder)


def test_a_root_for_runs_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch space that is not mounted."""
    monkeypatch.chdir(tmp_path)
    Path("results").symlink_to("nowhere/scratch")
    with pytest.raises(OutputError, match="cannot be written"):
        fedtl.run(tables())


def test_resume_names_what_it_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = fedtl.run(tables()).path
    (broken / "config.toml").write_text("rounds = = 3")
    begun, unread = fedtl.run(tables(), resume=True).environment["notes"]
    assert "so one begins" in begun
    assert unread == f"{broken}/config.toml cannot be read; --resume --out {broken} resumes that run"
    fedtl.run(tables(), out=broken, resume=True)
