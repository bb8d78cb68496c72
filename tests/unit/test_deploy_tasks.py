"""Tasks other than classification, deployed: the same bits as simulated, whoever decides how outcomes are scaled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Deploy
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.own.read import read_own
from fedtl.data.schema import DataSchema
from fedtl.deploy.agent import DESCRIPTION, NAME, OUTCOME_SUMS
from fedtl.deploy.columns import First, check_columns
from fedtl.deploy.deployed_grid import Described, OutcomesKind, described
from fedtl.deploy.reading import Reading
from fedtl.deploy.serverapp import common_frame
from fedtl.deploy.validator import Expected, Refused, ReplyValidator
from fedtl.failure import RunError
from fedtl.metrics import read_metrics
from fedtl.tasks import read_task
from fedtl.wire import messages as m
from tests.contract.test_grids import records
from tests.unit.test_deploy_serverapp import NAMES, Deployment, _quick, check_equal, deploy, made  # noqa: F401

SGD = {"lr": 0.1, "local_steps": 2, "batch_size": 4}


def tables(task: Any, **more: Any) -> dict[str, Any]:
    name = task if isinstance(task, str) else task["name"]
    data = {"name": "made", "clients": 3, "task": task, "sizes": 30, "dimension": 4, "server_test_share": 0.1}
    model: dict[str, Any] = {"name": "logistic"}
    if name in ("next_token", "tests.unit.test_tasks:Answers"):
        data["normalise"], model = "none", {"name": "tests.trial_models:Tokens", "tokens": 10}
    return {
        "name": "deployed",
        "seed": 4,
        "rounds": 2,
        "device": "cpu",
        "model": model,
        "simulation": {"grid": "in-process", "traced": False},
        "strategy": {"name": "fedavg", **SGD, "weighting": "samples"},
        **more,
        "data": {**data, **more.get("data", {})},
    }


ALONE = {"server_test_share": 0.0, "normalise": "none"}
STUDIES: dict[str, tuple[Any, bool, dict[str, Any]]] = {
    "binary": ("binary", True, {"objective": [{"term": "binary_cross_entropy", "pos_weight": 2.0}]}),
    "regression": ("regression", True, {"strategy": {"name": "ditto", **SGD, "lam": 0.5}}),
    "next_token": (
        {"name": "next_token", "padding": 0},
        True,
        {"evaluate": {"metrics": ["perplexity", "tests.unit.test_tasks:token_loss"]}},
    ),
    "a task of one's own": ({"name": "tests.unit.test_tasks:Answers", "start": 2}, True, {}),
    "few with outcomes": (
        "regression",
        True,
        {"data": {"labelled_fraction": 0.5}, "objective": [{"term": "squared_error"}, {"term": "coral"}]},
    ),
    "regression, by sums": ("regression", False, {"data": ALONE}),
    "regression, validated, by sums": ("regression", False, {"data": {**ALONE, "validation_share": 0.2}}),
    "next_token, the largest token": ("next_token", False, {"data": ALONE}),
    "multilabel": ("multilabel", False, {"data": ALONE}),
    "survival": ("survival", False, {"data": ALONE}),
}
"""By name: the task, whether the server holds ``frame.json`` and test samples, and what else the config says."""


@pytest.mark.parametrize("which", STUDIES)
def test_what_a_simulation_computes(
    which: str,
    deploy: Callable[..., Deployment],  # noqa: F811
    tmp_path: Path,
) -> None:
    task, framed, more = STUDIES[which]
    config = tables(task, **more)
    fedtl.run(config, out=tmp_path / "simulated")
    deployed = deploy(config)
    if ":" in config["model"]["name"]:  # a test's code, to which clients agree
        kind = task if isinstance(task, str) else task["name"]
        deployed.begin_clients(approved=build(config), task=read_task(kind))
    deployed.serve(data=framed)
    assert all(not line["failures"] for line in records(deployed.run))
    for mine, theirs in zip(pooled(deployed.run), pooled(tmp_path / "simulated"), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if name in ("auc", "macro_auc"):  # out of bins
                assert value == pytest.approx(theirs[name], abs=0.05)
            elif name in ("c_index", "token_loss"):
                assert value is None
            else:
                assert value == pytest.approx(theirs[name], rel=1e-9, abs=1e-9)
    assert without_pooled(deployed.run) == without_pooled(tmp_path / "simulated")
    check_equal(deployed, tmp_path / "simulated", ("clients.jsonl",))


def pooled(run: Path) -> list[dict[str, Any]]:
    """Each score's metrics of all clients' samples together."""
    scores = [score for line in records(run) for score in line.get("scores", {}).values()]
    each = [{name: metric for name, metric in score.items() if isinstance(metric, dict)} for score in scores]
    return [{name: metric["pooled"] for name, metric in row.items() if "pooled" in metric} for row in each]


def without_pooled(run: Path) -> list[dict[str, Any]]:
    """A run's rounds, but for metrics of all clients' samples together: predictions stay at real clients."""
    lines = records(run)
    for score in (each for line in lines for each in line.get("scores", {}).values()):
        for metric in score.values():
            for key in ("pooled", "bins", "not_pooled"):
                if isinstance(metric, dict):
                    metric.pop(key, None)
    return lines


# What does not go together.


def test_clients_that_have_read_their_files_for_another_task(
    deploy: Callable[..., Deployment],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tables("regression", deploy={"wait": 0.05})
    deployed = deploy(config)
    deployed.config = tables("binary", deploy={"wait": 0.05})
    with pytest.raises(RunError, match="only 0 of 3 clients described their data"):
        deployed.serve(data=False)
    assert (
        "north: its data are read for data.task = 'regression', and the experiment's is 'binary'; it can be started "
        "with --task binary"
    ) in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"frame.json is of data.task = 'regression' or of other options, and this"):
        deployed.serve()


@pytest.mark.parametrize(
    ("task", "objective", "sentence"),
    [
        ("classification", {"term": "cross_entropy", "class_weights": "balanced"}, "class_weights = 'balanced': it is"),
        ("binary", {"term": "binary_cross_entropy", "pos_weight": "balanced"}, "pos_weight = 'balanced': it is not"),
        ("multilabel", {"term": "binary_cross_entropy", "pos_weight": "balanced"}, "pos_weight = 'balanced': it is"),
    ],
)
def test_nobody_counts_real_clients_classes(
    task: str,
    objective: dict[str, Any],
    sentence: str,
    deploy: Callable[..., Deployment],  # noqa: F811
) -> None:
    deployed = deploy(tables(task, objective=[objective]))
    with pytest.raises(ConfigError, match=sentence):
        deployed.serve()


def test_sums_of_few_outcomes_or_beside_noise_are_not_sent(
    deploy: Callable[..., Deployment],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    deployed = deploy(tables("regression", data={**ALONE, "sizes": 10}, deploy={"wait": 0.05}))
    with pytest.raises(RunError, match="only 0 of 3 clients described their data"):
        deployed.serve(data=False)
    assert "it gives no sums of its samples with deploy.privacy, or of fewer than 10" in capsys.readouterr().out
    privacy = {"clipping_norm": 1.0, "epsilon": 20.0, "delta": 1e-5}
    sums = r"^deploy\.privacy: clients' sums of what is predicted .*; give the server a frame\.json"
    with pytest.raises(ConfigError, match=rf"{sums} with --data, or set standardise = false in data\.task$"):
        deployed.serve(data=False, deploy={"privacy": privacy})


# What the server hears of clients' outcomes.

ONE = Described(12, 0, 2, 0, 0, (4,), "float32", None, None, validation=3, outcomes=OutcomesKind((2,), "float32", 2))


def test_what_descriptions_have_in_common() -> None:
    config = build(tables("next_token", data={"normalise": "none"}))
    kinds = [OutcomesKind((7,), "int64", outputs) for outputs in (4, 9, 6)]
    frame = common_frame({str(i): replace(ONE, outcomes=kind) for i, kind in enumerate(kinds)}, config)
    assert frame.outcomes is not None
    assert (frame.outcomes.outputs, frame.outcomes.values.shape) == (9, (0, 7))
    numbers = build(tables("regression", data={"normalise": "none"}))
    with pytest.raises(ConfigError, match=r"of a sample of b is float32 \[3\], and of a float32 \[2\]; all clients"):
        common_frame({"a": ONE, "b": replace(ONE, outcomes=OutcomesKind((3,), "float32", 3))}, numbers)
    with pytest.raises(ConfigError, match=r"no client has a sample of which data.task = 'regression'"):
        common_frame({"a": replace(ONE, outcomes=None)}, numbers)
    with pytest.raises(ConfigError, match=r"data.task = 'binary': the data have 3 classes"):
        common_frame({"a": replace(ONE, outcomes=None, largest_label=2)}, build(tables("binary", data=ALONE)))


def test_outcomes_of_tables_have_their_columns_names() -> None:
    """As in a simulation, so that an exported model predicts them by name, and finds them in a table."""
    files = {"name": "files", "path": "clinics", "normalise": {"mean": 0.0, "std": 1.0}}
    one = replace(ONE, outcomes=OutcomesKind((2,), "float32", 2), columns=("age", "", "cost", "days"))
    for task, label, names in (
        ({"name": "regression", "standardise": False}, ["cost", "days"], ("cost", "days")),
        ("survival", ["days", "died"], ()),
    ):
        config = build({**tables("regression"), "data": {**files, "task": task, "label": label}})
        kind = replace(one, outcomes=OutcomesKind((2,), "float32", 1 if task == "survival" else 2))
        outcomes = common_frame({"a": kind}, config).outcomes
        assert outcomes is not None
        assert outcomes.names == names
        of_arrays = common_frame({"a": replace(kind, columns=())}, config).outcomes
        assert of_arrays is not None
        assert of_arrays.names == ()


def test_columns_must_mean_the_same(tmp_path: Path) -> None:
    """Of each client's table by itself nothing is wrong."""
    described_as = []
    for name, header in (("a", "age,weight,label"), ("b", "weight,age,label"), ("c", "label,age,weight")):
        (tmp_path / f"{name}.csv").write_text(f"{header}\n1,0,1\n0,1,0\n1,1,1\n")
        about = read_own(str(tmp_path / f"{name}.csv")).describe()
        described_as.append(replace(ONE, columns=tuple(about["columns"])))
        assert Reading().own(str(tmp_path / f"{name}.csv"), None).describe()["columns"] == about["columns"]
    like = First("a", described_as[0].columns)
    check_columns("c", described_as[2], like)
    check_columns("arrays", ONE, like)
    with pytest.raises(ConfigError, match=r"^the table of b: its columns should stand in the order .*in that of a;"):
        check_columns("b", described_as[1], like)
    height = replace(ONE, columns=("age", "height"))
    with pytest.raises(ConfigError, match=r"^the table of c: it has the column 'height', which is not in that of a;"):
        check_columns("c", height, like)


def test_columns_are_those_of_the_servers_own_table_too(
    deploy: Callable[..., Deployment],  # noqa: F811
    tmp_path: Path,
) -> None:
    deployed = deploy(tables("classification", data=ALONE))
    for name, header in (*((name, "a,b,c,d,label") for name in NAMES), ("server", "b,a,c,d,label")):
        folder = tmp_path / "data" / name
        for file in folder.iterdir():
            file.unlink()
        rows = [f"{i},{i % 3},{i % 5},1.5,{i % 2}" for i in range(12)]
        for part in ("test",) if name == "server" else ("train", "test"):
            (folder / f"{part}.csv").write_text("\n".join([header, *rows]))
    deployed.begin_clients()
    with pytest.raises(
        ConfigError,
        match=r"^the table of north: its columns should stand in the order b, a, c, d, as in that of the server;",
    ):
        deployed.serve()
    file = tmp_path / "data" / "server" / "test.csv"
    file.write_text(file.read_text().replace("b,a,", "a,b,"))
    deployed.serve()


def test_several_outcomes_stand_in_one_order(tmp_path: Path) -> None:
    """Costs of one client shall not be averaged with another's days."""
    file = tmp_path / "a.csv"
    file.write_text("age,cost,days\n" + "\n".join(f"{30 + i},{i + 1},{i % 2}" for i in range(8)))
    described_as = [
        replace(ONE, columns=tuple(Reading("regression", label).own(str(file), None).describe()["columns"]))
        for label in ("cost,days", "days,cost")
    ]
    like = First("a", described_as[0].columns)
    check_columns("b", described_as[0], like)
    with pytest.raises(ConfigError, match=r"^the table of b: its columns should stand in the order .*in that of a;"):
        check_columns("b", described_as[1], like)


def test_outputs_that_the_task_has_not() -> None:
    """A client that says so would have all of them train another model."""
    numbers = build(tables("regression", data={"normalise": "none"}))
    lies = replace(ONE, outcomes=OutcomesKind((2,), "float32", 90_000))
    with pytest.raises(ConfigError, match=r"^b says that it needs 90000 outputs; data.task = 'regression' has 2 here"):
        common_frame({"a": ONE, "b": lies}, numbers)
    tokens = build(tables({"name": "next_token", "vocabulary": 10}, data={"normalise": "none"}))
    with pytest.raises(ConfigError, match=r"^a says that it needs 12 outputs; data.task = 'next_token' has 10 here"):
        common_frame({"a": replace(ONE, outcomes=OutcomesKind((7,), "int64", 12))}, tokens)


@pytest.mark.parametrize("by_sums", [True, False])
def test_no_sums_are_asked_of_clients_that_never_train(
    by_sums: bool,
    deploy: Callable[..., Deployment],  # noqa: F811
    tmp_path: Path,
) -> None:
    """The server has no data but perhaps a frame.json."""
    data = {**ALONE, "held_out_clients": [1], "validation_share": 0.2}
    config = tables("regression", data=data, strategy={"name": "fedavg-finetune", **SGD, "finetune_steps": 2})
    deployed = deploy(config)
    told = dict[str, set[str]]()

    def wrapped(answer: Any) -> Any:
        def reply(kind: str, content: RecordDict) -> Any:
            sent = answer(kind, content)
            if kind == "query":
                name = json.loads(str(sent[DESCRIPTION][DESCRIPTION]))[NAME]
                told.setdefault(name, set()).update(sent.array_records)
            return sent

        return reply

    deployed.begin_clients(wrapped, task=read_task("regression"))
    deployed.serve(data=not by_sums)
    sums = {OUTCOME_SUMS} if by_sums else set()
    assert told == {"north": sums, "south": set(), "west": sums}
    fedtl.run(config, out=tmp_path / "simulated")
    for here, there in zip(records(deployed.run), records(tmp_path / "simulated"), strict=True):
        assert here["clients"] == [0, 2]
        assert {"personal/clients", "personal/unseen-clients"} <= here["scores"].keys()
        for score in ("global/unseen-clients", "personal/unseen-clients"):
            mine, theirs = (each["scores"][score]["rmse"]["weighted_mean"] for each in (here, there))
            assert mine == pytest.approx(theirs, rel=1e-5)


def test_scores_on_validation_samples_of_clients_that_never_train_are_not_taken(
    deploy: Callable[..., Deployment],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are not asked for; one that sends them is refused, and nothing of them is recorded."""
    deployed = deploy(tables("classification", data={"held_out_clients": [1], "validation_share": 0.2}))

    def wrapped(answer: Any) -> Any:
        def reply(kind: str, content: RecordDict) -> Any:
            sent = answer(kind, content)
            if kind == "evaluate" and m.config_of(content).get(m.UNSEEN):
                metrics = m.metrics_of(sent)
                for key in [*metrics]:
                    metrics[f"{m.VALIDATION}{key}"] = metrics[key]
                metrics[f"{m.VALIDATION}{m.SAMPLES}"] = [1]
                metrics[f"{m.VALIDATION}global/correct"] = [1]
            return sent

        return reply

    deployed.begin_clients(wrapped)
    deployed.serve()
    assert "south: 'validation/num-examples' is 1, and may be a whole number from 1 to 0" in capsys.readouterr().out
    assert all("unseen-validation" not in line for line in records(deployed.run, "clients.jsonl"))


def test_a_file_without_any_positive_label_is_a_note(tmp_path: Path) -> None:
    """As where a client writes another word; where it has no such case, it is as it should be."""
    (tmp_path / "a.csv").write_text("a,label\n" + "\n".join(f"{i},{'Yes' if i % 2 else 'No'}" for i in range(8)))
    for word, notes in (("yes", 1), ("Yes", 0)):
        data = {"name": "files", "path": str(tmp_path), "task": "binary", "positive": [word], "clients": None}
        by = build({**tables("binary"), "data": data}).data
        said = [note for note in Reading().own(str(tmp_path / "a.csv"), by).notes if "data.positive" in note]
        assert len(said) == notes
        assert all(
            note.endswith("no row has the label 'yes', which data.positive names: all are of class 0") for note in said
        )


def a_description(sums: dict[str, Any] | None = None, **outcomes: Any) -> RecordDict:
    kind = {"shape": [2], "dtype": "float32", "outputs": 2, **outcomes}
    counts = {"train": 12, "unlabelled": 0, "test": 2, "target_test": 0, "public": 0, "validation": 3}
    about = {NAME: "a", **counts, "shape": [4], "dtype": "float32", "largest_label": None, "names": None}
    reply = RecordDict({DESCRIPTION: ConfigRecord({DESCRIPTION: json.dumps({**about, "outcomes": kind})})})
    arrays = {"count": [15.0], "total": [1.0, -2.0], "square": [3.0, 0.0]} | (sums or {})
    reply[OUTCOME_SUMS] = ArrayRecord({key: Array(np.array(value, np.float64)) for key, value in arrays.items()})
    return reply


def test_sums_of_outcomes_are_possible_ones() -> None:
    count, total, square = described(a_description(), "a", "none", True).outcome_sums or (0, None, None)
    assert (count, np.asarray(total).tolist(), np.asarray(square).tolist()) == (15, [1, -2], [3, 0])
    for sums, sentence in (
        ({"count": [12.0]}, "over 12 samples, not over its training and validation samples"),
        ({"square": [-1.0, 0.0]}, "of no numbers"),
        ({"total": [np.nan, 0.0]}, "of no numbers"),
        ({"total": [1e300, 0.0]}, "of no numbers"),
        ({"total": [0.0] * 3}, "an array of it has"),
    ):
        with pytest.raises(Refused, match=sentence):
            described(a_description(sums), "a", "none", True)
    silent = a_description()
    del silent[OUTCOME_SUMS]
    with pytest.raises(Refused, match="its reply lacks the sums"):
        described(silent, "a", "none", True)
    for outcomes in ({"shape": []}, {"shape": [0]}, {"shape": [2, 2, 2]}, {"shape": [2**28, 9]}, {"outputs": 10**9}):
        with pytest.raises(Refused):
            described(a_description(**outcomes), "a", "none")


def test_scores_of_numbers_and_of_tokens() -> None:
    """Numbers are neither right nor wrong; a sample counts as at most so many tokens."""
    screen = ReplyValidator(1, train=5, test=4, target_test=0, settings=Deploy())

    def scored(expected: Expected, **metrics: Any) -> dict[str, Any]:
        about = {m.CLIENTS: [1], m.SAMPLES: [4], "global/loss_sum": [2.0], **metrics}
        reply = RecordDict({m.METRICS: MetricRecord({key: value for key, value in about.items() if value is not None})})
        return dict(m.metrics_of(screen.scored(reply, ["global"], expected)))

    numbers = Expected({}, {}, (), (), read_metrics(["mae"], "regression"), 1, 1, read_task("regression"))
    kept = scored(numbers, **{f"global{m.METRIC}mae": [0.5], "global/correct": [4]})
    assert kept == {m.CLIENTS: [1], m.SAMPLES: [4], "global/loss_sum": [2.0], f"global{m.METRIC}mae": [0.5]}
    with pytest.raises(Refused):
        scored(numbers)
    with pytest.raises(Refused):
        scored(numbers, **{f"global{m.METRIC}mae": [0.5], m.SAMPLES: [5]})
    tokens = Expected({}, {}, (), (), read_metrics([], "next_token"), 9, 7, read_task("next_token"))
    assert scored(tokens, **{m.SAMPLES: [28], "global/correct": [28]})[m.SAMPLES] == [28]
    for wrong in ({m.SAMPLES: [29], "global/correct": [3]}, {m.SAMPLES: [28], "global/correct": [29]}):
        with pytest.raises(Refused):
            scored(tokens, **wrong)


def test_a_frame_names_no_other_task_than_the_experiment() -> None:
    """A class of another name would be looked for at the client, by the server's word."""
    task = read_task("regression")
    kind = {"shape": [1], "dtype": "float32", "outputs": 1}
    about = {"shape": [4], "dtype": "float32", "classes": 1, "labels": [], "scale": 1.0, "shift": 0.0}
    text = json.dumps({**about, "task": {"name": "tests.unit.nothing_is_here:Task"}, "outcomes": kind})
    with pytest.raises(ConfigError, match=r"task is not 'regression' with the options of data.task"):
        DataSchema.from_json(text, of=task)
    for scale in ({"mean": [0.0], "std": [0.0]}, {"mean": [1e39], "std": [1.0]}, {"mean": [0.0] * 2, "std": [1.0]}):
        table = {**about, "task": task.model_dump(mode="json"), "outcomes": {**kind, **scale}}
        with pytest.raises(ConfigError, match=r"outcomes\.(mean|std) is"):
            DataSchema.from_json(json.dumps(table), of=task)


# How a client's files are read.


def test_tables_of_a_client_are_read_as_in_a_simulation(tmp_path: Path) -> None:
    """Of two clinics with gaps, words and a column that is left out."""
    rng = np.random.default_rng(0)
    for name, words in (("a", ["ill", "well"]), ("b", ["well", "worse"])):
        rows = [
            f"{i};{'' if i % 5 == 0 else rng.integers(30, 90)};{'yes' if i % 3 else 'no'};{words[i % 2]};{i / 4}"
            for i in range(24)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["nr;age;smoker;outcome;days", *rows]))
    data = {"name": "files", "path": str(tmp_path), "missing": "drop", "leave_out": ["nr"], "clients": None}
    labels = {"label": "outcome", "positive": ["ill", "worse"], "leave_out": ["nr", "days"]}
    for task, more in (("binary", labels), ("regression", {"label": "days", "leave_out": ["nr", "outcome"]})):
        table = tables(task)
        config = build({**table, "data": {**data, **more, "task": task, "test_share": 0.3}})
        federation = federate(config.data, config.seed)
        for client, name in enumerate("ab"):
            own = Reading().own(str(tmp_path / f"{name}.csv"), config.data)
            mine = own.as_federation(DataSchema.of(federation), client, 2)
            for part in ("train", "test"):
                here, there = getattr(mine, part)[client], getattr(federation, part)[client]
                assert len(here)
                order, others = np.argsort(mine.x[here, 0]), np.argsort(federation.x[there, 0])
                assert np.array_equal(mine.x[here][order], federation.x[there][others])
                if federation.outcomes is None:
                    assert np.array_equal(mine.y[here][order], federation.y[there][others])
                else:
                    assert mine.outcomes is not None
                    assert np.array_equal(mine.outcomes.scaled()[here], federation.outcomes.scaled()[there])


def test_a_clients_own_words_do_not_contradict_its_config(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,cost\n" + "\n".join(f"{30 + i},{i / 2}" for i in range(8)))
    files = {"name": "files", "path": str(tmp_path), "label": "cost", "task": "regression"}
    for by in (build(tables("regression")).data, read_data(files)):
        for words in ("regression", "{ name = 'regression', standardise = true }"):
            assert Reading(words, "cost").own(str(tmp_path / "a.csv"), by).task == by.task
        with pytest.raises(
            ConfigError, match=r"^--task = \{.*\}: the config's data\.task has other options; leave it out"
        ):
            Reading("{ name = 'regression', standardise = false }", "cost").own(str(tmp_path / "a.csv"), by)


def test_how_a_client_says_what_is_predicted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,weeks,seen\n" + "\n".join(f"{30 + i},{i + 1},{i % 2}" for i in range(8)))
    own = Reading("survival", "weeks, seen").own(str(tmp_path / "a.csv"), None)
    assert own.outcomes is not None
    assert own.outcomes.values[own.train[0]].tolist() == [own.x[own.train[0], 0] - 29, (own.x[own.train[0], 0]) % 2]
    assert own.describe()["outcomes"] == {"shape": [2], "dtype": "float32", "outputs": 1}
    np.savez(tmp_path / "train.npz", x=np.arange(12).reshape(3, 4), y=np.arange(12).reshape(3, 4))
    for words in ('{ name = "next_token", vocabulary = 20 }', '{"name": "next_token", "vocabulary": 20}'):
        assert Reading(words).own(str(tmp_path), None).describe()["outcomes"]["outputs"] == 20
    agreed = build(tables("next_token")).data
    assert Reading().own(str(tmp_path), agreed).describe()["outcomes"]["outputs"] == 12
    for words, sentence in (
        ("regresion", "--task.name = 'regresion' is unknown: did you mean 'regression'"),
        ("{ name = ", "--task = '{ name = ': give a name, or a table such as"),
        ("binary", "--task = 'binary': the config's data.task is 'next_token'; leave it out"),
    ):
        with pytest.raises(ConfigError) as caught:
            Reading(words).own(str(tmp_path), agreed)
        assert str(caught.value).startswith(sentence)
    np.savez(tmp_path / "test.npz", x=np.zeros((2, 4)), y=np.zeros((2, 3), np.int64))
    with pytest.raises(ConfigError, match=r"has shape \[4\] in one part of the data, and \[3\] in another"):
        Reading().own(str(tmp_path), agreed)
