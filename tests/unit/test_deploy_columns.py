"""Gaps that are filled and words that become columns, deployed: what a simulation decides, and no more is told."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.columns import Column, Columns
from fedtl.data.export import export
from fedtl.data.federate import federate
from fedtl.data.own.columns import ColumnRules, ColumnSummary, decided, few, told
from fedtl.data.own.read import Own, read_own
from fedtl.data.schema import DataSchema
from fedtl.deploy.agent import COLUMNS, NAME, STATISTICS_OF, SUMMARIES, SUMS, ClientAgent, Declined
from fedtl.deploy.deployed_grid import column_names, summaries_of
from fedtl.deploy.folders import read_client, read_server
from fedtl.deploy.reading import Reading
from fedtl.deploy.study import Study
from fedtl.deploy.validator import Refused
from fedtl.export.of_run import model_of_run
from fedtl.failure import RunError
from fedtl.wire import messages as m
from tests.contract.test_grids import records
from tests.unit.test_deploy_deployed_grid import PretendedGrid
from tests.unit.test_deploy_serverapp import NAMES, Deployment, _quick, check_equal, made  # noqa: F401
from tests.unit.test_deploy_tasks import without_pooled

SGD = {"lr": 0.1, "local_steps": 2, "batch_size": 4}
ROWS = 24
FILLED = {"missing": "mean", "indicators": True, "categorical": ["ward"]}
ALIKE = {"normalise": {"mean": 40.0, "std": 30.0}}
"""Numbers that everybody has, so that bits are the same; sums are added up in another order than in a simulation."""

DATA: dict[str, dict[str, Any]] = {
    "means": {**FILLED, **ALIKE},
    "medians, validated": {"missing": "median", "categorical": ["ward"], "validation_share": 0.2, **ALIKE},
    "words without gaps": {"missing": "drop", "categorical": ["ward"], **ALIKE},
}


def write_tables(folder: Path, rows: int = ROWS) -> Path:
    """Tables of three clinics with gaps, yes and no, and words of which two clinics have one of their own."""
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(NAMES):
        rng = np.random.default_rng(place)
        lines = ["nr;age;smoker;ward;weight;outcome"]
        for i in range(rows):
            age = "" if rng.random() < 0.2 else str(rng.integers(30, 90))
            smoker = "?" if rng.random() < 0.1 else ("yes" if rng.random() < 0.5 else "no")
            ward = "NA" if rng.random() < 0.1 else "ABCD"[rng.integers(2) + place // 2 * 2]
            lines.append(f"{i};{age};{smoker};{ward};{rng.normal(70, 9):.3f};{'ill' if i % 3 else 'well'}")
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return folder


def tables(folder: Path, **more: Any) -> dict[str, Any]:
    labels = {"label": "outcome", "positive": ["ill"], "leave_out": ["nr"]}
    return {
        "name": "deployed",
        "seed": 4,
        "rounds": 2,
        "device": "cpu",
        "model": {"name": "logistic"},
        "simulation": {"grid": "in-process", "traced": False},
        "strategy": {"name": "fedavg", **SGD},
        **more,
        "data": {"name": "files", "path": str(folder), **labels, **more.get("data", {})},
    }


def of_config(config: dict[str, Any], folder: Path) -> Callable[[str], Own]:
    """How a client reads its own file by a config's rules."""
    by = build(config).data
    return lambda name: Reading().own(str(folder / f"{name}.csv"), by)


@pytest.fixture
def begin(made: Path, tmp_path: Path) -> Callable[..., Deployment]:  # noqa: F811
    """Clients of whom each has its own table alone."""

    def call(config: dict[str, Any], read: Callable[[str], Own]) -> Deployment:
        shutil.copytree(made, tmp_path / "deployment", dirs_exist_ok=True)
        deployment = Deployment(config, tmp_path, read_server(tmp_path / "deployment"), PretendedGrid())
        deployment.begin_clients(read=read)
        return deployment

    return call


def comes_later(deployed: Deployment) -> None:
    """The last client comes while the others train in the first round."""
    late = deployed.grid.nodes.pop()
    answer = deployed.grid.nodes[0].answer

    def then_it_comes(kind: str, content: RecordDict) -> Any:
        if kind == "train" and late not in deployed.grid.nodes:
            deployed.grid.nodes.append(late)
        return answer(kind, content)

    deployed.grid.nodes[0] = replace(deployed.grid.nodes[0], answer=then_it_comes)


@pytest.mark.parametrize("which", DATA)
def test_what_a_simulation_computes(which: str, begin: Callable[..., Deployment], tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables")
    config = tables(folder, data=DATA[which])
    fedtl.run(config, out=tmp_path / "simulated")
    deployed = begin(config, of_config(config, folder))
    deployed.serve(data=False)
    read = build(config)
    agreed = DataSchema.read(deployed.run / "frame.json").columns
    assert agreed == federate(read.data, read.seed).columns
    assert agreed is not None
    assert [column.words for column in agreed.each] == [(), (), ("A", "B", "C", "D"), ()]
    assert all(not line["failures"] for line in records(deployed.run))
    assert without_pooled(deployed.run) == without_pooled(tmp_path / "simulated")
    check_equal(deployed, tmp_path / "simulated", ("clients.jsonl",))


def test_filled_samples_are_normalised_by_their_sums(begin: Callable[..., Deployment], tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables")
    config = tables(folder, data={**FILLED, "validation_share": 0.2})
    deployed = begin(config, of_config(config, folder))
    deployed.serve(data=False, rounds=1)
    read = build(config)
    agreed, simulated = DataSchema.read(deployed.run / "frame.json"), DataSchema.of(federate(read.data, read.seed))
    np.testing.assert_allclose(agreed.scale, simulated.scale, rtol=1e-5)
    np.testing.assert_allclose(agreed.shift, simulated.shift, rtol=1e-5)


def test_a_resumed_run_and_a_frame_decide_as_before(begin: Callable[..., Deployment], tmp_path: Path) -> None:
    """Neither asks clients for anything of their columns."""
    folder = write_tables(tmp_path / "tables")
    config = tables(folder, data=FILLED)
    deployed = begin(config, of_config(config, folder))
    deployed.serve(data=False, rounds=1)
    agreed = DataSchema.read(deployed.run / "frame.json")
    asked = len(deployed.grid.sent)
    deployed.begin_clients(read=of_config(config, folder))
    deployed.serve(data=False, resume=True)
    assert not any(SUMMARIES in m.config_of(sent.content) for sent in deployed.grid.sent[asked:])
    assert DataSchema.read(deployed.run / "frame.json").to_json() == agreed.to_json()
    read = build(config)
    export(federate(read.data, read.seed), tmp_path / "data", NAMES)
    again, asked = Deployment(config, tmp_path / "again", deployed.folder, deployed.grid), len(deployed.grid.sent)
    shutil.copytree(tmp_path / "deployment", again.path / "deployment")
    (tmp_path / "data").rename(again.path / "data")
    again.serve(rounds=1)
    assert not any(SUMMARIES in m.config_of(sent.content) for sent in deployed.grid.sent[asked:])
    assert DataSchema.read(again.run / "frame.json").columns == agreed.columns
    # What is exported for clients has its gaps filled, and goes on as arrays do.
    arrays = Deployment(config, again.path, deployed.folder, deployed.grid)
    arrays.begin_clients(read=lambda name: read_own(str(again.path / "data" / name)))
    again.run.rename(again.path / "before")
    arrays.serve(data=False, rounds=1)
    assert DataSchema.read(arrays.run / "frame.json").columns is None


def test_a_servers_table_and_a_client_that_comes_later(
    begin: Callable[..., Deployment],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither decides anything; words that no training row has are none of those that there are."""
    folder = write_tables(tmp_path / "tables")
    (tmp_path / "data" / "server").mkdir(parents=True)
    lines = (folder / "north.csv").read_text().replace(";A;", ";Z;").splitlines()
    (tmp_path / "data" / "server" / "test.csv").write_text("\n".join(lines))
    config = tables(folder, data={**FILLED, **ALIKE, "held_out_clients": 0}, deploy={"wait": 0.05, "min_clients": 2})
    deployed = begin(config, of_config(config, folder))
    comes_later(deployed)
    deployed.serve()
    first, second = records(deployed.run)
    assert [each["client"] for each in first["failures"]] == [2]
    assert not second["failures"]
    assert "global/server-test" in second["scores"]
    agreed = DataSchema.read(deployed.run / "frame.json").columns
    assert agreed is not None
    assert agreed.each[2].words == ("A", "B")
    said = r"{}\.csv: column 'ward': \d+ of 24 rows have a word that no training row .*, as '[CDZ]'; it counts as none"
    assert re.search(said.format("test"), capsys.readouterr().out)
    logged = [text for text in caplog.messages if "no training row" in text]
    assert logged  # of its rows for training, and of those for testing
    assert all(re.search(said.format("west").replace("24", r"\d+"), text) for text in logged)


def test_an_exported_model_reads_tables_as_its_clients_did(begin: Callable[..., Deployment], tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables")
    config = tables(folder, data={**FILLED, **ALIKE})
    deployed = begin(config, of_config(config, folder))
    deployed.serve(data=False, rounds=1)
    exported = model_of_run(deployed.run)
    assert exported.frame.columns == DataSchema.read(deployed.run / "frame.json").columns
    at_client = model_of_run(deployed.client("north") / "studies" / "study-1")
    assert at_client.frame.columns == exported.frame.columns


def test_columns_of_plain_tables_are_known_by_name(begin: Callable[..., Deployment], tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "tables")
    config = tables(folder, data={"missing": "drop", "leave_out": ["nr", "ward"], **ALIKE})
    deployed = begin(config, of_config(config, folder))
    deployed.serve(data=False, rounds=1)
    agreed = Columns.of_numbers(["age", "smoker", "weight"], ["smoker"])
    assert model_of_run(deployed.run).frame.columns == agreed
    read = build(config)
    assert federate(read.data, read.seed).columns == agreed


@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_yes_and_no_at_one_client_and_numbers_at_another(
    missing: str, begin: Callable[..., Deployment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A 1 there may be a no: refused as in a simulation, also of one that comes later."""
    folder = write_tables(tmp_path / "tables")
    file = folder / "west.csv"
    file.write_text(file.read_text().replace(";yes;", ";2;").replace(";no;", ";1;"))
    data = {"missing": missing, "leave_out": ["nr", "ward"], **ALIKE}
    config = tables(folder, data=data, deploy={"wait": 0.05, "min_clients": 2})
    with pytest.raises(ConfigError, match=r"^the column 'smoker' holds yes or no in .* and numbers in "):
        fedtl.run(config, out=tmp_path / "simulated")
    deployed = begin(config, of_config(config, folder))
    with pytest.raises(ConfigError, match=r"^the column 'smoker' holds (yes or no|numbers) in .* west"):
        deployed.serve(data=False)
    comes_later(deployed)
    deployed.serve(data=False)
    assert {each["client"] for line in records(deployed.run) for each in line["failures"]} == {2}
    said = {"drop": "the column 'smoker' holds numbers in the table of west and yes or no in this study; write it"}
    assert f"west: {said.get(missing, 'its data do not go with the experiment')}" in capsys.readouterr().out


# What does not go together.


def test_what_is_refused(begin: Callable[..., Deployment], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tables(tmp_path / "tables")
    config = tables(folder, data={**FILLED, **ALIKE}, deploy={"wait": 0.05})
    read = of_config(config, folder)
    deployed = begin(config, read)
    plain = of_config(tables(folder, data={"missing": "drop", "leave_out": ["nr", "ward"]}), folder)
    deployed.begin_clients(read=lambda name: (plain if name == "south" else read)(name))
    with pytest.raises(ConfigError, match=r"^south has read numbers, and the columns of north become numbers by what"):
        deployed.serve(data=False)
    medians = of_config(tables(folder, data={**FILLED, "missing": "median"}), folder)
    deployed.begin_clients(read=medians)
    with pytest.raises(RunError, match="only 0 of 3 clients described their data"):
        deployed.serve(data=False)
    assert "north: its tables are read by another data.missing than the experiment's" in capsys.readouterr().out
    deployed.begin_clients(read=read)
    plainly = replace(deployed, config={**config, "data": {**config["data"], **plain_rules()}})
    with pytest.raises(RunError, match="only 0 of 3 clients described their data"):
        plainly.serve(data=False)
    assert "than the experiment's" in capsys.readouterr().out
    privacy = {"clipping_norm": 1.0, "epsilon": 20.0, "delta": 1e-5}
    with pytest.raises(ConfigError, match=r"^deploy\.privacy: clients' sums of columns would travel without"):
        deployed.serve(data=False, deploy={"privacy": privacy})
    (tmp_path / "data" / "server").mkdir(parents=True)
    (folder / "north.csv").rename(tmp_path / "data" / "server" / "test.csv")
    (folder / "south.csv").rename(folder / "north.csv")
    text = (folder / "west.csv").read_text().replace("weight", "height")
    (folder / "west.csv").write_text(text)
    (folder / "south.csv").write_text(text)
    deployed.begin_clients(read=read)
    with pytest.raises(ConfigError, match=r"^the table of south: it has the column 'height', which is not in"):
        deployed.serve(data=False)


def test_another_label_is_class_1(
    begin: Callable[..., Deployment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its classes would be the others' the other way round."""
    folder = write_tables(tmp_path / "tables")
    data = {**plain_rules(), **ALIKE}
    config = tables(folder, data=data, deploy={"wait": 0.05, "min_clients": 2})
    alike, turned = (of_config(tables(folder, data={**data, "positive": [one]}), folder) for one in ("ill", "well"))
    deployed = begin(config, lambda name: (turned if name == "south" else alike)(name))
    deployed.serve(data=False, rounds=1)
    (line,) = records(deployed.run)
    assert {each["client"] for each in line["failures"]} == {1}
    assert "south: its labels are read by another data.positive than the experiment's" in capsys.readouterr().out


@pytest.mark.parametrize("told", [True, False])
def test_classes_are_called_as_in_the_simulation(begin: Callable[..., Deployment], tmp_path: Path, told: bool) -> None:
    """Class 0 is what clients' rows say that data.positive does not, of which each client knows its own words."""
    folder = write_tables(tmp_path / "tables")
    for place, file in enumerate(sorted(folder.iterdir())):
        file.write_text(file.read_text().replace("well", f"well-{place % 2}"))
    config = tables(folder, data=plain_rules())
    reads = of_config(config, folder)

    def read(name: str) -> Own:
        own = reads(name)
        return own if told or name == "south" else replace(own, others=None)  # as an older client does not tell

    deployed = begin(config, read)
    deployed.serve(data=False, rounds=1)
    simulated = DataSchema.of(federate(build(config).data, 0)).labels
    assert simulated == ("well-0, well-1", "ill")
    assert DataSchema.read(deployed.run / "frame.json").labels == (simulated if told else ())


def plain_rules() -> dict[str, Any]:
    """Rules of an experiment that decides nothing together."""
    return {"missing": "drop", "indicators": False, "categorical": [], "leave_out": ["nr", "ward"]}


def test_few_values_are_not_told(
    begin: Callable[..., Deployment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sum of few is of single patients, told or found out: what fills the other cells is known."""
    folder = write_tables(tmp_path / "tables")
    for name in ("south", "west"):
        file = folder / f"{name}.csv"
        header, *lines = [line.split(";") for line in file.read_text().splitlines()]
        sparse = [[n, "50" if int(n) < 9 else "", *rest] for n, _, *rest in lines]
        file.write_text("\n".join(map(";".join, [header, *sparse])))
    config = tables(folder, data=FILLED, deploy={"wait": 0.05})
    deployed = begin(config, of_config(config, folder))
    with pytest.raises(
        ConfigError, match=r"^the column 'age' has a value in fewer than 10 training rows of south, west, whose sum"
    ):
        deployed.serve(data=False)
    read = build(config)
    columns = federate(read.data, read.seed).columns
    assert columns is not None
    asked = RecordDict({m.CONFIG: ConfigRecord({COLUMNS: json.dumps(columns.to_list()), STATISTICS_OF: "dataset"})})
    for place, said in enumerate((None, "the column 'age' has a value in fewer than 10 rows: it gives no sums")):
        study = Study("study-2", json.dumps(read.tables()), 3, place)
        asked[m.STUDY] = study.record()
        agent = ClientAgent(of_config(config, folder)(NAMES[place]), read_client(deployed.client(NAMES[place])), "cpu")
        if said is None:
            assert SUMS in agent.answer("query", asked).array_records
        else:
            with pytest.raises(Declined, match=said):
                agent.answer("query", asked)


def test_a_client_of_few_rows_says_nothing(begin: Callable[..., Deployment], tmp_path: Path) -> None:
    """And no column is to blame."""
    folder = write_tables(tmp_path / "tables")
    file = folder / "south.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:9]))
    config = tables(folder, data=DATA["words without gaps"], deploy={"wait": 0.05})
    deployed = begin(config, of_config(config, folder))
    with pytest.raises(ConfigError, match=r"^south has fewer than 10 training rows with values, and so says nothing"):
        deployed.serve(data=False)


def test_a_client_tells_nothing_beside_noise(begin: Callable[..., Deployment], tmp_path: Path) -> None:
    """Whatever the server asks."""
    folder = write_tables(tmp_path / "tables")
    config = tables(folder, data=FILLED)
    deployed = begin(config, of_config(config, folder))
    agent = ClientAgent(of_config(config, folder)("north"), read_client(deployed.client("north")), "cpu")
    privacy = {"deploy": {"privacy": {"clipping_norm": 1.0, "epsilon": 20.0, "delta": 1e-5}}}
    asked = RecordDict({m.CONFIG: ConfigRecord({SUMMARIES: True})})
    for more in ({}, privacy):
        asked[m.STUDY] = Study("study-2", json.dumps({**build(config).tables(), **more}), 3, 0).record()
        if not more:
            said = summaries_of(agent.answer("query", asked), "north", build(config).data.rules.columns)  # type: ignore[attr-defined]
            assert set(said or ()) == {"age", "smoker", "ward", "weight"}
        else:
            with pytest.raises(Declined, match=r"^it says nothing of its columns with deploy\.privacy"):
                agent.answer("query", asked)


def test_no_more_is_told_than_decides() -> None:
    rules = ColumnRules("mean", True, ("ward",))
    summaries = {
        "age": ColumnSummary("numbers", 12, False, 600.0),
        "ca": ColumnSummary("numbers", 9, True, 8.0),
        "ward": ColumnSummary("words", 12, True, words={"A": 1, "B": 11}),
    }
    said = told(summaries, rules, 10)
    assert said == {**summaries, "ca": ColumnSummary("numbers", 0, True, withheld=True)}
    assert told(summaries, ColumnRules("drop", False, ("ward",)), 10)["ward"].words == {"A": 1, "B": 1}
    assert few(said) == ["ca"]
    with pytest.raises(ConfigError, match=r"^the column 'ca' has no value in any training row; name it in"):
        decided([("a", said)], rules)
    whole = decided([("a", said), ("b", {**summaries, "ca": ColumnSummary("numbers", 10, False, 10.0)})], rules)
    assert whole.to_list() == [
        {"name": "age", "fill": 50.0},
        {"name": "ca", "fill": 1.0, "indicator": True},
        {"name": "ward", "words": ["A", "B"], "fill": "B", "indicator": True},
    ]
    assert Columns.from_list(json.loads(json.dumps(whole.to_list())), "columns") == whole
    mixed = {**summaries, "age": ColumnSummary("yes or no", 12, False, 3.0)}
    with pytest.raises(ConfigError, match=r"'age' holds numbers in a and yes or no in b; write it alike, name it in"):
        decided([("a", summaries), ("b", mixed)], rules)


@pytest.mark.parametrize(
    "column",
    [
        Column("age", words=("30", "31"), fill="30"),  # sums of these would count who is 30
        Column("age", fill=None),
        Column("age", fill=3.0, indicator=True),
        Column("height", fill=3.0),
    ],
)
def test_a_client_makes_of_its_columns_what_its_own_rules_say(column: Column, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,outcome\n" + "\n".join(f"{30 + i},{i % 2}" for i in range(12)))
    data = {"name": "files", "path": str(tmp_path), "label": "outcome", "missing": "mean"}
    own = Reading().own(str(tmp_path / "a.csv"), build({**tables(tmp_path), "data": data}).data)
    assert own.describe()["shape"] == [0]  # nobody takes it for numbers
    with pytest.raises(ConfigError):
        own.decided(Columns((column,)))
    assert own.decided(Columns((Column("age", fill=3.0),))).x.shape == (12, 1)


def test_what_clients_say_of_columns_is_possible() -> None:
    def said(summary: Any = None, **columns: Any) -> RecordDict:
        about = {NAME: "a", SUMMARIES: {"age": summary, **columns} if summary is not None else None}
        return RecordDict({SUMMARIES: ConfigRecord({SUMMARIES: json.dumps(about)})})

    good, rules = asdict(ColumnSummary("numbers", 12, True, 600.0)), ColumnRules("mean", True, ("ward",))
    assert summaries_of(said(good), "a", rules) == {"age": ColumnSummary("numbers", 12, True, 600.0)}
    assert summaries_of(said(), "a", rules) is None
    for wrong in (
        {"kind": "text"},
        {"kind": "nothing"},
        {"kind": "words", "middle": 0.0, "words": {"A": 12}},  # in a column of numbers
        {"values": -1},
        {"values": True},
        {"gaps": 1},
        {"withheld": True},
        {"middle": float("nan")},
        {"middle": 1e300},
        {"words": {"A": 12}},
    ):
        with pytest.raises(Refused):
            summaries_of(said({**good, **wrong}), "a", rules)
    assert summaries_of(said({**good, "middle": 1e39}), "a", rules)
    for name, columns in (("b", {}), ("a", {"n" * 501: good}), ("a", {"ward": good})):
        with pytest.raises(Refused):
            summaries_of(said(good, **columns), name, rules)
    with pytest.raises(Refused):  # a median
        summaries_of(said({**good, "middle": 1e39}), "a", ColumnRules("median"))
    words = asdict(ColumnSummary("words", 12, True, words={"A": 12}))
    assert summaries_of(said(good, ward=words), "a", rules)
    for wrong in (
        {"words": {"A": 11}},
        {"words": {"A" * 501: 12}},
        {"words": {"\ud800": 12}},  # no file holds it
        {"values": 10_001, "words": {str(i): 1 for i in range(10_001)}},
    ):
        with pytest.raises(Refused):
            summaries_of(said(good, ward={**words, **wrong}), "a", rules)
    for names in ("age", [1], ["age", "age"], ["n" * 501], ["\ud800"]):
        with pytest.raises(Refused, match="its columns' names are no list of different words"):
            column_names(names)


def test_columns_contradict_nothing() -> None:
    for wrong in (
        [{"name": "a"}, {"name": "a"}],
        [{"name": "a", "words": ["x", "x"]}],
        [{"name": "a", "words": ["x"], "fill": "y"}],
        [{"name": "a", "fill": "y"}],
        [{"name": "a", "words": ["x"], "boolean": True}],
        [{"name": "a", "fill": float("inf")}],
        [],
        "a",
    ):
        with pytest.raises(ValueError, match="column"):
            Columns.from_list(wrong, "columns")
