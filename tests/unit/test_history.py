"""A run's records read back: curves, tables, and folders that are unfinished or broken."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedtl.choice import ConfigError
from fedtl.runs.history import Point, Run, load

CONFIG = 'name = "demo"\nseed = 7\nrounds = 4\n[strategy]\nname = "pfedme"\n[data]\nname = "mnist"\n'


def over_clients(mean: float | None) -> dict[str, Any]:
    return {"weighted_mean": mean, "mean": 0.5, "std": 0.1, "worst_decile": 0.2, "best_decile": 0.9}


def a_round(number: int, personal: float | None = None, server: float = 0.5, loss: float = 1.0) -> dict[str, Any]:
    record: dict[str, Any] = {
        "round": number,
        "seconds": 0.5,
        "elapsed": 0.5 * number,
        "clients": [0, 2],
        "failures": [{"client": 1, "message": "gone"}],
        "bytes_down": 100,
        "bytes_up": 40,
        "train": {"cross_entropy": 0.1 * number},
    }
    if personal is not None:
        record["scores"] = {
            "global/server-test": {"accuracy": server, "loss": loss},
            "personal/clients": {"accuracy": over_clients(personal), "clients_without": 1, "model": "adapted"},
        }
    return record


ROUNDS = [
    a_round(1),
    a_round(2, personal=0.6, server=0.7, loss=0.9),
    a_round(3, personal=0.8, server=0.6, loss=0.4),
    a_round(4, personal=0.75, server=0.7, loss=0.5),
]
CLIENTS = [
    {"round": 2, "clients": [0, 1, 2], "scores": {"personal/clients": {"accuracy": [0.1, 0.2, 0.3]}}},
    {
        "round": 4,
        "clients": [0, 1, 2],
        "samples": [5, 0, 7],
        "scores": {"personal/clients": {"accuracy": [0.5, None, 1.0]}, "global/clients": {"accuracy": [0, 1, 0]}},
    },
]

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(rounds: list[Any] = ROUNDS, clients: list[Any] = CLIENTS, tail: bytes = b"", config: str = CONFIG) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.toml").write_text(config)
        lines = "".join(json.dumps(record) + "\n" for record in rounds)
        (folder / "rounds.jsonl").write_bytes(lines.encode() + tail)
        (folder / "clients.jsonl").write_text("".join(json.dumps(record) + "\n" for record in clients))
        return folder

    return make


def test_reads_config_and_records(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "environment.json").write_text('{"torch": "2.8"}')
    run = load(folder)
    assert (run.name, run.method, run.seed) == ("demo", "pfedme", 7)
    assert run.config["data"] == {"name": "mnist"}
    assert run.rounds == ROUNDS
    assert run.clients == CLIENTS
    assert run.environment == {"torch": "2.8"}
    assert run.path == folder


def test_environment_may_be_missing_but_not_broken(make_run: MakeRun) -> None:
    folder = make_run()
    assert load(folder).environment == {}
    (folder / "environment.json").write_text("{")
    with pytest.raises(ConfigError, match=r"environment\.json"):
        _ = load(folder).environment


def test_scores_are_curves_over_the_scored_rounds(make_run: MakeRun) -> None:
    curves = load(make_run()).scores()
    assert set(curves) == {"global/server-test", "personal/clients"}
    np.testing.assert_array_equal(curves["personal/clients"].rounds, [2, 3, 4])
    np.testing.assert_array_equal(curves["personal/clients"].values, [0.6, 0.8, 0.75])
    rounds, values = curves["global/server-test"]
    np.testing.assert_array_equal(rounds, [2, 3, 4])
    np.testing.assert_array_equal(values, [0.7, 0.6, 0.7])


def test_scores_of_another_statistic_or_metric(make_run: MakeRun) -> None:
    run = load(make_run())
    np.testing.assert_array_equal(run.scores(statistic="worst_decile")["personal/clients"].values, [0.2] * 3)
    assert set(run.scores("loss")) == {"global/server-test"}
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        run.scores("acuracy")
    with pytest.raises(ConfigError, match=r"'median'.*did you mean 'mean'"):
        run.scores(statistic="median")
    with pytest.raises(ConfigError, match="no score has a metric 'model'"):
        run.scores("model")


def test_last_and_best(make_run: MakeRun) -> None:
    run = load(make_run())
    assert run.last() == {"global/server-test": Point(4, 0.7), "personal/clients": Point(4, 0.75)}
    # Of equal values the first; the best of a loss is the smallest.
    assert run.best() == {"global/server-test": Point(2, 0.7), "personal/clients": Point(3, 0.8)}
    assert run.best("loss") == {"global/server-test": Point(3, 0.4)}


def test_a_diverged_round_is_never_the_best(make_run: MakeRun) -> None:
    run = load(make_run([a_round(1, math.nan, loss=math.nan), a_round(2, 0.3, loss=2.0), a_round(3, None, 0.1)]))
    assert run.best()["personal/clients"] == Point(2, 0.3)
    assert run.best("loss")["global/server-test"] == Point(2, 2.0)


def test_null_is_not_a_number(make_run: MakeRun) -> None:
    record = a_round(1, 0.5)
    record["scores"]["personal/clients"]["accuracy"] = over_clients(None)
    assert math.isnan(load(make_run([record])).last()["personal/clients"].value)


def test_costs_add_up(make_run: MakeRun) -> None:
    run = load(make_run([{**a_round(0), "bytes_down": 0, "bytes_up": 0}, *ROUNDS]))
    np.testing.assert_array_equal(run.costs("bytes").values, [0, 140, 280, 420, 560])
    np.testing.assert_array_equal(run.costs("seconds").values, [0.5, 1.0, 1.5, 2.0, 2.5])
    np.testing.assert_array_equal(run.costs("rounds").values, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(run.costs("bytes").rounds, [0, 1, 2, 3, 4])
    with pytest.raises(ConfigError, match=r"'byte'.*did you mean 'bytes'"):
        run.costs("byte")  # type: ignore[arg-type]


@pytest.mark.parametrize("tail", [b'{"round": 5, "sec', b'{"round": 5, "x": "\xc3', b"\x00\x00\x00", b'{"round"', b"5"])
def test_a_last_line_that_is_still_being_written_does_not_count(make_run: MakeRun, tail: bytes) -> None:
    assert load(make_run(tail=tail)).rounds == ROUNDS


def test_a_complete_last_line_counts_without_its_newline(make_run: MakeRun) -> None:
    assert [record["round"] for record in load(make_run(tail=b'{"round": 5}')).rounds] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "line", [b'{"round": 5, "sec\n', b'{"seconds": 1}\n', b"[]\n", b'{"round": "x"}\n{"round": 6}\n']
)
def test_any_other_broken_line_is_an_error_with_its_place(make_run: MakeRun, line: bytes) -> None:
    with pytest.raises(ConfigError, match=r"rounds\.jsonl, line 5 "):
        load(make_run(tail=line))


def test_of_a_round_that_appears_twice_the_last_wins(make_run: MakeRun) -> None:
    run = load(make_run([a_round(1), a_round(2, 0.1), a_round(3, 0.2), a_round(2, 0.9)]))
    np.testing.assert_array_equal(run.scores()["personal/clients"].rounds, [2, 3])
    np.testing.assert_array_equal(run.scores()["personal/clients"].values, [0.9, 0.2])


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('seed = 1\n[strategy]\nname = "fedavg"\n')
    run = load(tmp_path)
    assert run.name == tmp_path.name
    assert (run.rounds, run.clients, run.scores(), run.last(), run.best(), run.client_scores()) == (
        [],
        [],
        {},
        {},
        {},
        {},
    )
    assert len(run.table()) == 0
    assert len(run.table("numpy")) == 0
    assert len(run.client_table()) == 0
    assert "0 rounds" in repr(run)
    assert "no scored round yet" in run._repr_html_()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no config.toml"),
        ({"config.toml": "seed = "}, "cannot be read as TOML"),
        ({"config.toml": "seed = 1"}, "names no strategy"),
        ({"config.toml": 'strategy = "fedavg"'}, "names no strategy"),
    ],
)
def test_a_folder_that_is_no_run(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        load(tmp_path / "none")


def test_client_scores_are_those_of_the_last_scored_round(make_run: MakeRun) -> None:
    run = load(make_run())
    np.testing.assert_array_equal(run.client_scores()["personal/clients"], [0.5, np.nan, 1.0])
    np.testing.assert_array_equal(run.client_scores()["global/clients"], [0.0, 1.0, 0.0])
    with pytest.raises(ConfigError, match="no client has a score 'loss'"):
        run.client_scores("loss")


def test_clients_scores_ahead_of_the_rounds_do_not_count(make_run: MakeRun) -> None:
    """They are written before their round, so a reader may meet them alone."""
    run = load(make_run(rounds=ROUNDS[:3]))
    assert [record["round"] for record in run.clients] == [2]
    np.testing.assert_array_equal(run.client_scores()["personal/clients"], [0.1, 0.2, 0.3])


def test_table(make_run: MakeRun) -> None:
    frame = load(make_run()).table("pandas")
    assert list(frame["round"]) == [1, 2, 3, 4]
    assert list(frame["clients"]) == [2, 2, 2, 2]
    assert list(frame["failures"]) == [1, 1, 1, 1]
    np.testing.assert_array_equal(frame["train/cross_entropy"], [0.1 * i for i in (1, 2, 3, 4)])
    np.testing.assert_array_equal(frame["personal/clients/accuracy/weighted_mean"], [np.nan, 0.6, 0.8, 0.75])
    np.testing.assert_array_equal(frame["global/server-test/loss"], [np.nan, 0.9, 0.4, 0.5])
    assert list(frame["personal/clients/model"]) == ["", "adapted", "adapted", "adapted"]


def test_the_numpy_table_says_the_same(make_run: MakeRun) -> None:
    run = load(make_run())
    table, frame = run.table("numpy"), run.table("pandas")
    assert list(table.dtype.names) == list(frame.columns)
    for name in table.dtype.names:
        np.testing.assert_array_equal(table[name], frame[name].to_numpy())
    assert table["round"].dtype == np.int64


def test_table_without_pandas(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load(make_run())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.warns(UserWarning, match="structured array"):
        table = run.table()
    assert isinstance(table, np.ndarray)
    with pytest.raises(ConfigError, match=r"fedtl\[pandas\]"):
        run.table("pandas")
    with pytest.raises(ConfigError, match="to = 'polars'"):
        run.table("polars")  # type: ignore[arg-type]


def test_client_table(make_run: MakeRun) -> None:
    table = load(make_run()).client_table("numpy")
    assert table.dtype.names == ("client", "samples", "personal/clients/accuracy", "global/clients/accuracy")
    np.testing.assert_array_equal(table["client"], [0, 1, 2])
    np.testing.assert_array_equal(table["samples"], [5, 0, 7])
    np.testing.assert_array_equal(table["personal/clients/accuracy"], [0.5, np.nan, 1.0])


def test_client_table_of_unequal_lists(make_run: MakeRun) -> None:
    record = {"round": 4, "clients": [0, 1], "scores": {"global/clients": {"accuracy": [0.5]}}}
    with pytest.raises(ConfigError, match=r"clients\.jsonl.*round 4.*unequal"):
        load(make_run(clients=[record])).client_table()


def test_state_dict(make_run: MakeRun) -> None:
    folder = make_run()
    with pytest.raises(ConfigError, match=r"no model\.safetensors"):
        load(folder).state_dict()
    save_file({"weight": torch.arange(6.0).reshape(2, 3)}, folder / "model.safetensors")
    assert torch.equal(load(folder).state_dict()["weight"], torch.arange(6.0).reshape(2, 3))
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="safetensors"):
        load(folder).state_dict()


def test_how_a_run_shows_itself(make_run: MakeRun) -> None:
    run = load(make_run(config=CONFIG.replace("demo", "<demo>")))
    assert "pfedme, seed 7, 4 of 4 rounds" in repr(run)
    assert "personal/clients accuracy 0.75" in repr(run)
    shown = run._repr_html_()
    assert "&lt;demo&gt;" in shown
    assert "<td>0.75 (round 4)</td><td>0.8 (round 3)</td>" in shown


def test_a_run_without_accuracies_shows_its_losses(make_run: MakeRun) -> None:
    run = load(make_run([{"round": 1, "scores": {"global/server-test": {"loss": 0.25}}}]))
    assert "global/server-test loss 0.25" in repr(run)


def test_importing_is_cheap() -> None:
    code = (
        "import sys, fedtl.runs.history\n"
        "print(sorted({'torch', 'matplotlib', 'pandas', 'flwr', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_run_is_what_load_returns(make_run: MakeRun) -> None:
    assert isinstance(load(str(make_run())), Run)


def test_a_record_of_another_kind_is_one_sentence(make_run: MakeRun) -> None:
    """As if ``clients.jsonl`` were a copy of ``rounds.jsonl``."""
    with pytest.raises(ConfigError, match=r"where a (number|list) should be, as if it were damaged"):
        load(make_run(clients=ROUNDS)).client_scores()
