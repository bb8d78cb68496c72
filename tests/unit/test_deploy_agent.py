"""A client's own process: what it answers, what it declines, what it keeps, and what it does not tell."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import shutil
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Client, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict
from pydantic import Field
from torch import Tensor

from fedtl.config.read import build
from fedtl.data.own.read import Own, read_own
from fedtl.data.schema import DataSchema
from fedtl.deploy import client as clients
from fedtl.deploy import folders, wire
from fedtl.deploy.agent import DESCRIPTION, NAME, STATISTICS_OF, SUMS, ClientAgent, Declined, names_code
from fedtl.deploy.folders import ClientFolder, read_client
from fedtl.deploy.study import Study
from fedtl.failure import RunError
from fedtl.losses.term import Term, TermContext
from fedtl.runs.checkpoint import last_round, read_checkpoint
from fedtl.wire import messages as m

TRAIN, EVALUATE, QUERY = MessageType.TRAIN, MessageType.EVALUATE, MessageType.QUERY
CLIENTS, PLACE, CLASSES, FEATURES, TRAIN_SAMPLES = 3, 1, 3, 4, 12
SECRET = "patient Anna K., /secret/path, sample 0.123456"

TABLES: dict[str, Any] = {
    "name": "clinics",
    "rounds": 5,
    "device": "cpu",
    "data": {"name": "digits", "clients": CLIENTS},
    "model": {"name": "logistic"},
    "strategy": {"name": "fedavg", "lr": 0.5, "local_steps": 1, "batch_size": TRAIN_SAMPLES},
    "simulation": {"traced": False},
}
FRAME = DataSchema((FEATURES,), "float32", CLASSES, (), np.ones(1, np.float32), np.zeros(1, np.float32))
PARAMETERS = CLASSES * FEATURES + CLASSES


class Tells(Term):
    """Cross-entropy that fails, and quotes what it should not."""

    what: str = "raise"
    seconds: float = Field(0.0, ge=0)

    def value(self, context: TermContext) -> Tensor:
        if self.what == "raise":
            raise ValueError(SECRET)
        time.sleep(self.seconds)
        return context.logits.square().mean()


TELLS = "tests.unit.test_deploy_agent:Tells"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "d"
    folders.create(path, ["a", "b", "c"], "localhost")
    rng = np.random.default_rng(0)
    data = path / "b" / "data"
    data.mkdir()
    for part, n in (("train", TRAIN_SAMPLES), ("test", 4)):
        np.savez(data / f"{part}.npz", x=rng.normal(size=(n, FEATURES)).astype(np.float32), y=np.arange(n) % CLASSES)
    return path / "b"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> ClientFolder:
    return read_client(shutil.copytree(made, tmp_path / "b"))


def agent_of(folder: ClientFolder, **more: Any) -> ClientAgent:
    return ClientAgent(read_own(str(folder.path / "data")), folder, "cpu", **more)


def message(
    w: Any = None,
    *,
    client: int = PLACE,
    frame: DataSchema | str = FRAME,
    id: str = "clinics-1",
    resolved: bool = True,
    **config: Any,
) -> RecordDict:
    """A message to client 1; of its config, what has a name of the experiment's tables is of those.

    These are a whole config's, as the server sends it, but where they are not ``resolved``.
    """
    changes = {key: config.pop(key) for key in [*config] if key in {*TABLES, "objective", "seed", "deploy"}}
    experiment = build(TABLES | changes).tables() if resolved else TABLES | changes
    text = frame if isinstance(frame, str) else frame.to_json()
    settings = {m.ROUND: 1, m.SUM_UPLOADS: m.UNWEIGHTED, m.SCORE_PERSONAL: "none", **config}
    content = {
        m.STUDY: Study(id, json.dumps(experiment), CLIENTS, client, text).record(),
        m.CONFIG: ConfigRecord(settings),
    }
    vector = np.zeros(PARAMETERS, np.float32) if w is None else np.asarray(w, np.float32)
    return RecordDict({**content, m.ARRAYS: ArrayRecord({m.VECTOR: Array(vector)})})


def declined(agent: ClientAgent, content: RecordDict, kind: str = TRAIN) -> str:
    with pytest.raises(Declined) as caught:
        agent.answer(kind, content)
    text = str(caught.value)
    assert "\n" not in text
    for word in (*SECRET.split(", "), str(agent.folder.path), "npz", "0.1"):
        assert word not in text
    return text


def uploaded(reply: RecordDict) -> np.ndarray[Any, Any]:
    vector = m.unpack(reply)
    assert vector is not None
    return np.asarray(vector)


# Answers.


def test_a_step_worked_out_by_hand(folder: ClientFolder) -> None:
    """From w = 0 all classes are equally likely: w - lr · mean of (1/3 - [y = c]) x over all samples."""
    reply = agent_of(folder).answer(TRAIN, message())
    with np.load(folder.path / "data" / "train.npz") as file:
        x, y = file["x"].astype(np.float64), file["y"]
    residual = 1 / CLASSES - np.eye(CLASSES)[y]
    weight, bias = -0.5 * residual.T @ x / TRAIN_SAMPLES, -0.5 * residual.mean(0)
    upload = uploaded(reply)
    assert upload.dtype == np.float32
    assert sorted(upload.tolist()) == pytest.approx(sorted([*weight.ravel(), *bias]), abs=1e-6)
    metrics = m.metrics_of(reply)
    assert (metrics[m.CLIENTS], metrics[m.SAMPLES], metrics[m.STEPS]) == ([PLACE], [TRAIN_SAMPLES], [1])
    assert metrics[f"{m.LOSS}cross_entropy"] == pytest.approx([np.log(3)])
    assert set(reply) == {m.METRICS, m.ARRAYS}


def test_a_score_worked_out_by_hand(folder: ClientFolder) -> None:
    metrics = m.metrics_of(agent_of(folder).answer(EVALUATE, message()))
    assert (metrics[m.CLIENTS], metrics[m.SAMPLES]) == ([PLACE], [4])
    assert metrics["global/loss_sum"] == pytest.approx([4 * np.log(3)])


def test_what_it_says_of_its_data(folder: ClientFolder) -> None:
    reply = agent_of(folder).answer(QUERY, message(frame="", **{STATISTICS_OF: "none"}))
    assert set(reply) == {DESCRIPTION}
    assert json.loads(str(reply[DESCRIPTION][DESCRIPTION])) == {  # type: ignore[index, call-overload]
        NAME: "b",
        **{"train": TRAIN_SAMPLES, "unlabelled": 0, "test": 4, "validation": 0, "target_test": 0, "public": 0},
        "shape": [FEATURES],
        "dtype": "float32",
        "largest_label": 2,
        "labels": [0, 1, 2],
        "names": None,
    }
    for kind in ("dataset", "pixel"):
        reply = agent_of(folder).answer(QUERY, message(frame="", data=normalised(kind), **{STATISTICS_OF: kind}))
        sums = m.unpack_all(reply, SUMS)
        with np.load(folder.path / "data" / "train.npz") as file:
            x = file["x"].astype(np.float64)
        assert sums["count"].tolist() == [float(TRAIN_SAMPLES)]
        assert sums["total"] == pytest.approx(x.sum(0))
        assert sums["square"] == pytest.approx(((x - x.mean(0)) ** 2).sum(0))
    assert set(agent_of(folder).answer(QUERY, message(frame="", **{STATISTICS_OF: "everything"}))) == {DESCRIPTION}


# What it declines.


def test_messages_for_others(folder: ClientFolder) -> None:
    agent = agent_of(folder)
    for kind in (TRAIN, EVALUATE, QUERY):
        assert declined(agent, message(client=2), kind) == "it is client 1 by its folder, not client 2"
    assert declined(agent, RecordDict()) == "ConfigError at the client; its log says more"
    assert declined(agent, message(id="../../x")) == "ConfigError at the client; its log says more"
    assert not folder.studies.exists()


def test_an_experiment_that_cannot_be_run_here(folder: ClientFolder, caplog: pytest.LogCaptureFixture) -> None:
    agent = agent_of(folder)
    refusal = "the experiment cannot be run at the client; its log says why"
    logging.getLogger("fedtl.client").propagate = True
    assert declined(agent, message(strategy={"name": "fedavgg"}, resolved=False)) == refusal
    assert "strategy.name = 'fedavgg' is unknown: did you mean 'fedavg'?" in caplog.text
    content = message()
    content[m.STUDY]["experiment"] = "{"  # type: ignore[index, call-overload]
    assert declined(agent, content) == "ConfigError at the client; its log says more"
    assert declined(agent, message(frame="{}")).startswith("ConfigError at the client")


def test_data_that_do_not_go_with_the_others(folder: ClientFolder, caplog: pytest.LogCaptureFixture) -> None:
    """The reason names a file or a label, and stays in the client's log."""
    agent = agent_of(folder)
    narrow = DataSchema((2,), "float32", CLASSES, (), np.ones(1, np.float32), np.zeros(1, np.float32))
    few = DataSchema((FEATURES,), "float32", 2, (), np.ones(1, np.float32), np.zeros(1, np.float32))
    logging.getLogger("fedtl.client").propagate = True
    for frame, reason in ((narrow, "a sample is float32 [4], but float32 [2]"), (few, "has the label 2")):
        caplog.clear()
        refusal = declined(agent, message(frame=frame))
        assert refusal == "its data do not go with the experiment; its log says why"
        assert reason in caplog.text
        assert str(folder.path / "data") in caplog.text


def test_it_takes_part_in_what_it_agreed_to_alone(folder: ClientFolder) -> None:
    agent = agent_of(folder, approved=build(TABLES))
    refusal = "this experiment is not the one that the client agreed to"
    for change in (
        {"strategy": {**TABLES["strategy"], "lr": 0.4}},
        {"strategy": {**TABLES["strategy"], "name": "pfedme", "lam": 15.0, "inner_steps": 1, "inner_lr": 0.1}},
        {"objective": [{"term": "cross_entropy"}, {"term": "l2"}]},
        {"rounds": 6},
        {"seed": 1},
        {"name": "other"},
    ):
        assert declined(agent, message(**change)) == refusal, change
    assert not folder.studies.exists()
    assert uploaded(agent.answer(TRAIN, message(rounds=4))).shape == (PARAMETERS,)
    assert uploaded(agent.answer(TRAIN, message())).shape == (PARAMETERS,)


def test_an_agreement_on_privacy_is_one(folder: ClientFolder) -> None:
    privacy = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5}
    agreed = build(TABLES | {"deploy": {"privacy": privacy}})
    agent = agent_of(folder, approved=agreed)
    refusal = "this experiment is not the one that the client agreed to"
    assert declined(agent, message()) == refusal
    for deploy, fine in (({"privacy": {**privacy, "epsilon": 2.0}}, False), ({"privacy": privacy, "wait": 5.0}, True)):
        content = message(deploy=deploy)
        if fine:
            assert uploaded(agent.answer(TRAIN, content)).shape == (PARAMETERS,)
        else:
            assert declined(agent, content) == refusal


def test_more_rounds_than_agreed_are_declined_in_whichever_way_they_come(folder: ClientFolder) -> None:
    agent = agent_of(folder, approved=build(TABLES))
    agent.answer(TRAIN, message(**{m.ROUND: 5}))
    for kind in (TRAIN, EVALUATE):
        for wrong in (agent, agent_of(folder)):
            assert declined(wrong, message(**{m.ROUND: 6}), kind) == "the round is beyond the experiment's last one"


def test_what_an_error_quotes_does_not_travel(folder: ClientFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Of the error of a library only its type, be it raised in training or in scoring."""
    logging.getLogger("fedtl.client").propagate = True
    content = message(objective=[{"term": TELLS}])
    agent = agent_of(folder, approved=build(TABLES | {"objective": [{"term": TELLS}]}))
    reply = agent.answer(TRAIN, content)
    assert m.unpack_failures(reply) == [(PLACE, "ValueError at the client; its log says more")]
    assert set(reply) == {m.METRICS, m.FAILURES}
    payload = wire.recorddict_to_proto(reply).SerializeToString()
    assert b"Anna" not in payload
    assert b"secret" not in payload
    assert SECRET in caplog.text


def test_a_message_that_is_garbled_is_declined_by_type_alone(folder: ClientFolder) -> None:
    agent = agent_of(folder)
    failures = m.unpack_failures(agent.answer(TRAIN, message(np.zeros(3))))
    assert failures == [(PLACE, "RuntimeError at the client; its log says more")]
    assert declined(agent, message(**{m.PHASE: 7})) == "IndexError at the client; its log says more"
    assert uploaded(agent.answer(TRAIN, message())).shape == (PARAMETERS,)


CODE = {
    "a model": ({"model": {"name": "os:mkdir", "path": "PATH"}}, "model.name = 'os:mkdir'"),
    "a term": ({"objective": [{"term": "l2"}, {"term": "a.b:C"}]}, "objective.term = 'a.b:C'"),
    "a method": ({"strategy": {"name": "a:B"}}, "strategy.name = 'a:B'"),
    "a file": ({"data": {"name": "npz", "file": "PATH"}}, "data.file = "),
    "a run": ({"model": {"name": "mlp", "run": "results/x"}}, "model.run = 'results/x'"),
    "weights": ({"model": {"name": "cnn", "pretrained": "PATH"}}, "model.pretrained = "),
    "a phase": ({"phases": [{"rounds": 5, "objective": [{"term": "a:B"}]}]}, "phases.objective.term = 'a:B'"),
}


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE, QUERY])
@pytest.mark.parametrize(("change", "entry"), CODE.values(), ids=CODE)
def test_a_server_cannot_have_code_run_or_files_read(
    change: dict[str, Any], entry: str, kind: str, folder: ClientFolder, tmp_path: Path
) -> None:
    """``model.name`` may be any function that is installed; one that makes no module has been called by then."""
    file = tmp_path / "made by the server"
    text = json.dumps(TABLES | change).replace("PATH", str(file))
    content = message()
    content[m.STUDY]["experiment"] = text  # type: ignore[index, call-overload]
    with pytest.raises(Declined) as caught:
        agent_of(folder).answer(kind, content)
    assert str(caught.value).startswith(f"the experiment names code or files of the client's machine ({entry}")
    assert not file.exists()
    assert not folder.studies.exists()


def test_a_module_that_a_server_names_is_not_imported(
    folder: ClientFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands at the top of a module runs when it is imported."""
    name, file = "only_for_this_test", tmp_path / "made by the module"
    (tmp_path / f"{name}.py").write_text(f"open({str(file)!r}, 'w').close()\ndef make(classes): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    content = message(model={"name": f"{name}:make"}, resolved=False)
    for agent in (agent_of(folder), agent_of(folder, approved=build(TABLES))):
        for kind in (TRAIN, EVALUATE, QUERY):
            declined(agent, content, kind)
    assert name not in sys.modules
    assert not file.exists()
    importlib.import_module(name)
    assert file.exists()


def test_code_that_the_client_agreed_to_is_run(folder: ClientFolder) -> None:
    own = {"model": {"name": "tests.unit.test_deploy_agent:linear"}}
    agent = agent_of(folder, approved=build(TABLES | own))
    assert uploaded(agent.answer(TRAIN, message(**own))).shape == (PARAMETERS,)


def linear(classes: int) -> Any:
    from torch import nn

    return nn.Linear(FEATURES, classes)


def test_where_an_experiment_is_simulated_is_no_code() -> None:
    assert names_code({"simulation": {"address": "ray://a:10001"}}) is None
    assert names_code({"a": [1, "x"], "b": {"c": None, "d": [{"e": "y"}]}}) is None
    assert names_code({"b": {"c": None, "d": [{"e": "y"}, {"e": "y:z"}]}}) == "b.d.e = 'y:z'"


def test_an_agreement_is_asked_for_before_anything_is_told(folder: ClientFolder) -> None:
    agent = agent_of(folder, approved=build(TABLES))
    refusal = "this experiment is not the one that the client agreed to"
    assert declined(agent, message(frame="", seed=1), QUERY) == refusal
    assert set(agent.answer(QUERY, message(frame=""))) == {DESCRIPTION}


# Sums for the normalisation.


def normalised(kind: str) -> dict[str, Any]:
    return {**TABLES["data"], "normalise": kind}


def test_sums_are_told_for_the_experiments_own_normalisation(folder: ClientFolder) -> None:
    agent = agent_of(folder)
    refusal = "the server asks for other sums than the experiment needs"
    for asked, needed in (("pixel", "dataset"), ("dataset", "pixel"), ("dataset", "none")):
        content = message(frame="", data=normalised(needed), **{STATISTICS_OF: asked})
        assert declined(agent, content, QUERY) == refusal


NO_SUMS = "it gives no sums of its samples with deploy.privacy, or of fewer than 10: give the server a frame.json"


def test_sums_travel_without_noise_so_not_with_privacy(folder: ClientFolder) -> None:
    privacy = {"clipping_norm": 1.0, "epsilon": 1.0, "delta": 1e-5}
    content = message(frame="", deploy={"privacy": privacy}, **{STATISTICS_OF: "dataset"})
    with pytest.raises(Declined) as caught:
        agent_of(folder).answer(QUERY, content)
    assert str(caught.value) == NO_SUMS
    query = message(frame="", deploy={"privacy": privacy}, **{STATISTICS_OF: "none"})
    assert set(agent_of(folder).answer(QUERY, query)) == {DESCRIPTION}


@pytest.mark.parametrize(("samples", "tells"), [(1, False), (9, False), (10, True)])
def test_sums_of_few_samples_would_tell_them(samples: int, tells: bool, folder: ClientFolder) -> None:
    x, y = np.ones((samples, FEATURES), np.float32), np.zeros(samples, np.int64)
    np.savez(folder.path / "data" / "train.npz", x=x, y=y)
    content = message(frame="", **{STATISTICS_OF: "dataset"})
    if tells:
        assert SUMS in agent_of(folder).answer(QUERY, content)
        return
    with pytest.raises(Declined) as caught:
        agent_of(folder).answer(QUERY, content)
    assert str(caught.value) == NO_SUMS


# What it keeps.

PFEDME = {
    "name": "pfedme",
    "lr": 0.05,
    "lam": 15.0,
    "inner_steps": 2,
    "inner_lr": 0.05,
    "local_steps": 2,
    "batch_size": 6,
}


def test_a_new_process_remembers_the_rounds_before(folder: ClientFolder) -> None:
    config = {"strategy": PFEDME, m.SCORE_PERSONAL: "stored"}
    one, other = agent_of(folder), agent_of(folder)
    w = uploaded(one.answer(TRAIN, message(**config)))
    here = m.metrics_of(one.answer(EVALUATE, message(w, **config)))
    there = m.metrics_of(other.answer(EVALUATE, message(w, **config)))
    assert dict(here) == dict(there)
    assert there[m.NO_PERSONAL_MODEL] == [0]
    shutil.rmtree(folder.studies)
    forgot = m.metrics_of(agent_of(folder).answer(EVALUATE, message(w, **config)))
    assert forgot[m.NO_PERSONAL_MODEL] == [1]
    assert forgot["personal/loss_sum"] != here["personal/loss_sum"]
    assert forgot["global/loss_sum"] == here["global/loss_sum"]


def test_two_studies_by_turns_keep_apart(folder: ClientFolder) -> None:
    config = {"strategy": PFEDME}
    agent = agent_of(folder)
    first = uploaded(agent.answer(TRAIN, message(**config)))
    agent.answer(TRAIN, message(np.ones(PARAMETERS), id="other", **config))
    assert sorted(path.name for path in folder.studies.iterdir()) == ["clinics-1", "other"]
    assert uploaded(agent.answer(TRAIN, message(**config))).tobytes() == first.tobytes()


def test_the_last_global_model_is_kept(folder: ClientFolder) -> None:
    agent, study = agent_of(folder), folder.studies / "clinics-1"
    agent.answer(TRAIN, message(**{m.ROUND: 3}))
    checkpoint = read_checkpoint(study)
    assert checkpoint is not None
    assert (checkpoint.round, checkpoint.w.tolist()) == (2, [0.0] * PARAMETERS)
    w = np.arange(PARAMETERS, dtype=np.float32)
    agent.answer(EVALUATE, message(w, **{m.ROUND: 3}))
    checkpoint = read_checkpoint(study)
    assert checkpoint is not None
    assert (checkpoint.round, checkpoint.w.tolist()) == (3, w.tolist())
    assert DataSchema.read(study / "frame.json").to_json() == FRAME.to_json()
    about = json.loads((study / "environment.json").read_text())
    assert (about["client"], about["names"]) == ("b", ["", "b", ""])
    assert last_round(study) == 3


def test_one_message_at_a_time(folder: ClientFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, inside, most = agent_of(folder), [0], [0]
    describe = Own.describe

    def slow(own: Own) -> dict[str, Any]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return describe(own)

    monkeypatch.setattr(Own, "describe", slow)
    threads = [threading.Thread(target=functools.partial(agent.answer, QUERY, message(frame=""))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1]


# The process around it.


@pytest.fixture
def listening(folder: ClientFolder) -> Iterator[ClientFolder]:
    with clients.answering(folder, agent_of(folder)):
        yield folder


def test_the_socket_is_for_its_owner(listening: ClientFolder) -> None:
    mode = listening.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_message_is_answered_at_the_socket(listening: ClientFolder) -> None:
    for _ in range(2):
        with Client(str(listening.socket), "AF_UNIX") as connection:
            wire.send(connection, wire.SocketMessage({"kind": TRAIN}, message()))
            reply = wire.receive(connection)
        assert reply.words == {}
        assert reply.content is not None
        assert uploaded(reply.content).shape == (PARAMETERS,)
    with Client(str(listening.socket), "AF_UNIX") as connection:
        wire.send(connection, wire.SocketMessage({"kind": TRAIN}, message(client=0)))
        assert wire.receive(connection) == wire.SocketMessage({"error": "it is client 1 by its folder, not client 0"})
    with Client(str(listening.socket), "AF_UNIX") as connection:  # nothing to answer
        wire.send(connection, wire.SocketMessage({"kind": TRAIN}))
        with pytest.raises(EOFError):
            wire.receive(connection)


def test_a_second_process_with_the_folder_is_refused(folder: ClientFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that start at once: one goes on, and the other has one sentence for it."""
    at_once, refused = threading.Barrier(2), threading.Event()
    inside, lines = list[str](), list[str]()

    def connects(*_: Any) -> None:
        inside.append("one")
        assert refused.wait(60)

    def starts() -> None:
        at_once.wait(60)
        try:
            clients.take_part(folder, agent_of(folder), lines.append)
        except RunError as error:
            lines.append(str(error))
            refused.set()

    monkeypatch.setattr(clients, "keep_log", lambda _: None)
    monkeypatch.setattr(clients, "stay_connected", connects)
    for _ in range(2):  # what the first two held is free
        refused.clear()
        threads = [threading.Thread(target=starts) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert inside == ["one", "one"]
    assert lines == [f"b already takes part, in another process with the folder {folder.path}"] * 2


def test_a_connection_that_fails_does_not_end_the_answering(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listens:
        """Fails, then has a connection, then the process ends."""

        def __init__(self) -> None:
            here, self.there = Pipe()
            self.results: list[Any] = [OSError(24, "Too many open files"), here, SystemExit]

        def accept(self) -> Any:
            result = self.results.pop(0)
            if result is SystemExit or isinstance(result, OSError):
                raise result
            return result

    listens = Listens()
    monkeypatch.setattr(clients, "PAUSE", 0)
    with pytest.raises(SystemExit):
        clients.answer_all(listens, agent_of(folder), threading.Event())  # type: ignore[arg-type]
    wire.send(listens.there, wire.SocketMessage({"kind": TRAIN}, message(client=0)))
    assert wire.receive(listens.there) == wire.SocketMessage({"error": "it is client 1 by its folder, not client 0"})


@pytest.mark.parametrize("meets", [OSError("listener is closed"), AttributeError("'NoneType' has no 'accept'")])
def test_a_listener_that_is_closed_ends_the_answering_without_a_word(
    meets: Exception, folder: ClientFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the thread meets then, and whenever: before it waits for a connection, or while it does."""
    over = threading.Event()

    class Closed:
        def accept(self) -> Any:
            over.set()
            raise meets

    clients.answer_all(Closed(), agent_of(folder), over)  # type: ignore[arg-type]
    with clients.answering(folder, agent_of(folder)):
        pass
    listener = clients.listen(folder)
    listener.close()
    over.clear()
    threading.Timer(0.05, over.set).start()
    clients.answer_all(listener, agent_of(folder), over)
    assert "not accepted" not in "".join(line for line in caplog.messages if "closed" not in line)


@pytest.mark.parametrize("sent", [b"no JSON", b"[]", b"{}", b'{"content": true}', b"\xff"])
def test_what_is_no_message_is_a_line_of_the_log(
    sent: bytes, listening: ClientFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raised = list[Any]()
    monkeypatch.setattr(threading, "excepthook", raised.append)  # else a traceback on the terminal
    with Client(str(listening.socket), "AF_UNIX") as connection:
        connection.send_bytes(sent)
        with suppress(OSError, EOFError):  # it may have hung up by now
            connection.send_bytes(b"no RecordDict either")
            pytest.fail(f"answered {connection.recv_bytes()!r}")
    with Client(str(listening.socket), "AF_UNIX") as connection:  # the next one is answered
        wire.send(connection, wire.SocketMessage({"kind": TRAIN}, message(client=0)))
        assert wire.receive(connection).words["error"].startswith("it is client 1")
    assert raised == []
    assert "is no message" in caplog.text


def test_a_client_that_is_not_let_in_is_told_to_wait_first(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, lines = [0.0], list[str]()
    monkeypatch.setattr(clients.time, "monotonic", lambda: clock[0])
    refusals = clients.Refusals(folder, lines.append)
    for _ in range(9):
        refusals.one_more()
        clock[0] += 10
    (wait,) = lines
    assert wait.startswith(f"{folder.server} does not let b in yet, perhaps because it was connected until a moment")
    assert "key" not in wait
    for _ in range(9):
        clock[0] += 10
        refusals.one_more()
    assert lines[1:] == [f"{folder.server} does not let b in: its key is not registered there; trying again"]


def test_a_client_says_when_its_server_goes_away_and_when_it_is_back(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, lines, asked = [0.0], list[str](), [0]
    answers = [True, False, True, False, False, False, True, True]  # one alone may be a hiccup

    def reach(_: ClientFolder) -> None:
        asked[0] += 1
        if not answers.pop(0):
            raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(clients, "reach", reach)
    monkeypatch.setattr(clients.time, "monotonic", lambda: clock[0])
    presence = clients.Presence(folder, lines.append)
    for _ in range(100):
        if answers:
            clock[0] += 1.0
            presence.look()
    assert not answers
    assert asked == [8]
    assert lines == [
        f"{folder.server} does not answer any more (Connection refused): b waits for it",
        f"{folder.server} answers again",
    ]


def test_nothing_is_left_when_a_client_ends(folder: ClientFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = clients.listen(folder)
    answering = threading.Event()

    def end(*_: Any) -> None:
        assert folder.socket.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(clients, "listen", lambda _: listener)
    monkeypatch.setattr(clients, "answer_all", lambda *_: answering.set())
    monkeypatch.setattr(clients, "find_server", end)
    with pytest.raises(KeyboardInterrupt):
        clients.take_part(folder, agent_of(folder), lambda _: None)
    assert answering.wait(60)
    assert not folder.socket.exists()
    with pytest.raises(OSError, match="closed"):  # else it removes the socket once more when the process ends
        listener.accept()


def test_the_socket_of_a_process_that_was_killed_is_no_hindrance(folder: ClientFolder) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(folder.socket))
    assert folder.socket.exists()
    clients.listen(folder).close()
    assert not folder.socket.exists()


def test_the_programs_that_a_supernode_finds_are_its_owners(folder: ClientFolder) -> None:
    programs = clients.write_programs(folder)
    assert [path.name for path in programs.iterdir()] == ["flwr-clientapp"]
    program = programs / "flwr-clientapp"
    assert stat.S_IMODE(program.stat().st_mode) == 0o700
    assert program.read_text().splitlines()[-1].endswith(' -m fedtl.deploy.clientapp "$@"')
