"""What a SuperNode starts for a message: light, without the server's app, and with noise where it is agreed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict

from fedtl.deploy import clientapp, wire
from fedtl.deploy.study import Study
from fedtl.grid.identity import identify
from fedtl.wire import messages as m

CONTEXT = Context(run_id=1, node_id=5, node_config={}, state=RecordDict(), run_config={})
PRIVACY = {"clipping_norm": 2.0, "sensitivity": 1e-9, "epsilon": 1.0, "delta": 1e-5}


def asked(kind: str = MessageType.TRAIN, privacy: Any = None, w: Any = (3, -4)) -> Message:
    identify()
    experiment = json.dumps({"name": "x", "deploy": {"privacy": privacy} if privacy else {}})
    content = RecordDict({m.STUDY: Study("a", experiment, 3).record(), m.CONFIG: ConfigRecord({m.ROUND: 1})})
    content[m.ARRAYS] = ArrayRecord({m.VECTOR: Array(np.array(w, np.float32))})
    message = Message(content, 5, kind)
    message.metadata.__dict__["_message_id"] = "m1"
    return message


def uploads(*numbers: float) -> Callable[[Message, Context], Message]:
    def proceed(message: Message, context: Context) -> Message:
        metrics = MetricRecord({m.SAMPLES: [4]})
        arrays = ArrayRecord({m.VECTOR: Array(np.array(numbers, np.float32))})
        return Message(RecordDict({m.METRICS: metrics, m.ARRAYS: arrays}), reply_to=message)

    return proceed


def uploaded(message: Message) -> np.ndarray[Any, Any]:
    vector = m.unpack(message.content)
    assert vector is not None
    return vector


# Light.


def test_it_imports_no_torch() -> None:
    """It is started for each message, and has little time."""
    code = "import sys, fedtl.deploy.clientapp; print(*sorted({'torch', 'sklearn', 'scipy', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_what_flower_would_unpack_and_import_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supernode.runtime import run_clientapp

    monkeypatch.setattr(run_clientapp, "install_from_fab", run_clientapp.install_from_fab)
    monkeypatch.setattr(run_clientapp, "get_load_client_app_fn", run_clientapp.get_load_client_app_fn)
    ran = []
    monkeypatch.setattr(run_clientapp, "run_clientapp", lambda **how: ran.append(how))
    words = ["--runtime-api-address", "127.0.0.1:9", "--token", "a", "--insecure", "--parent-pid", "3"]
    monkeypatch.setattr(sys, "argv", ["flwr-clientapp", *words])
    clientapp.main()
    (how,) = ran
    assert (how["runtime_api_address"], how["token"], how["insecure"], how["parent_pid"]) == (
        "127.0.0.1:9",
        "a",
        True,
        3,
    )
    assert how["runtime_dependency_install"] is False
    assert run_clientapp.get_load_client_app_fn("anything", "of", whatever=1)("hash", "path") is clientapp.app  # type: ignore[call-arg]
    before = set(sys.modules)
    assert run_clientapp.install_from_fab(b"no zip file", None, True) == Path()  # type: ignore[arg-type]
    assert not {name for name in set(sys.modules) - before if "deployed" in name}


# Noise.


def test_without_privacy_every_bit_stays() -> None:
    message = asked()
    reply = clientapp.with_privacy(message, CONTEXT, uploads(0.1, 1e30))
    assert uploaded(reply).tobytes() == np.array([0.1, 1e30], np.float32).tobytes()
    nothing = Message(RecordDict(), 5, MessageType.QUERY)
    assert clientapp.with_privacy(nothing, CONTEXT, lambda *_: message) is message


@pytest.mark.parametrize(
    ("upload", "clipped"),
    [((3 + 6, -4 + 8), (3 + 1.2, -4 + 1.6)), ((3 + 0.75, -4 - 1), (3.75, -5))],
)
def test_an_update_is_clipped(upload: tuple[float, float], clipped: tuple[float, float]) -> None:
    """Of an update of norm 10, a fifth is left by C = 2; one of norm 1.25 stays."""
    reply = clientapp.with_privacy(asked(privacy=PRIVACY), CONTEXT, uploads(*upload))
    vector = uploaded(reply)
    assert vector.dtype == np.float32
    assert vector == pytest.approx(np.array(clipped), abs=1e-6)
    assert m.metrics_of(reply.content) == {m.SAMPLES: [4]}
    assert reply.metadata.reply_to_message_id == "m1"


def test_the_noise_is_the_gaussian_mechanisms() -> None:
    size, privacy = 100_000, {"clipping_norm": 1.0, "sensitivity": 0.5, "epsilon": 2.0, "delta": 1e-3}
    w = np.zeros(size, np.float32)
    sigma = 0.5 * math.sqrt(2 * math.log(1.25 / 1e-3)) / 2.0
    moved = w.copy()
    moved[0] = 0.5
    noises = [
        uploaded(clientapp.with_privacy(asked(privacy=privacy, w=w), CONTEXT, uploads(*moved))).astype(np.float64)
        for _ in range(2)
    ]
    for noise in noises:  # by six standard errors
        assert noise.std() == pytest.approx(sigma, rel=6 / math.sqrt(2 * size))
        assert abs(noise.mean()) < 6 * sigma / math.sqrt(size)
        assert np.mean(np.abs(noise) < sigma) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.02


@pytest.mark.parametrize("kind", [MessageType.EVALUATE, MessageType.QUERY])
def test_only_uploads_are_noised(kind: str) -> None:
    privacy = PRIVACY | {"sensitivity": 100.0}
    reply = clientapp.with_privacy(asked(kind, privacy), CONTEXT, uploads(50, 60))
    assert uploaded(reply).tolist() == [50, 60]


def test_an_error_stays_one() -> None:
    def declines(message: Message, context: Context) -> Message:
        return Message(Error(0, "not today"), reply_to=message)

    reply = clientapp.with_privacy(asked(privacy=PRIVACY), CONTEXT, declines)
    assert reply.error.reason == "not today"
    assert reply.metadata.reply_to_message_id == "m1"


def test_a_failure_stays_one() -> None:
    """A client that fails in training says so in a reply without a model; Flower's mod expects one."""
    content = RecordDict({m.METRICS: MetricRecord({m.CLIENTS: []}), m.FAILURES: m.pack_failures([(0, "ValueError")])})
    reply = clientapp.with_privacy(
        asked(privacy=PRIVACY), CONTEXT, lambda message, _: Message(content, reply_to=message)
    )
    assert reply.metadata.reply_to_message_id == "m1"
    assert not reply.has_error()
    assert m.unpack_failures(reply.content) == [(0, "ValueError")]


def refused(message: Message) -> str:
    """The error that a message is answered with before anything is trained."""
    reply = clientapp.with_privacy(message, CONTEXT, lambda *_: pytest.fail("trained"))
    assert reply.metadata.reply_to_message_id == "m1"
    return str(reply.error.reason)


def test_an_upload_that_has_not_moved_is_an_error() -> None:
    """Flower's mod divides by the update's norm."""
    reply = clientapp.with_privacy(asked(privacy=PRIVACY), CONTEXT, uploads(3, -4))
    assert reply.error.reason == "its update is 0, which Flower's clipping cannot scale"
    assert reply.metadata.reply_to_message_id == "m1"


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_model_that_is_not_finite_is_not_trained_from(number: float) -> None:
    """The noise is on the difference to it: from a NaN there is none, and Flower's clipping lets all of it through."""
    assert refused(asked(privacy=PRIVACY, w=(3, number))) == "the global model is not finite"


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {m.ARRAYS: {}},
        {m.ARRAYS: {"v": (3, -4)}},
        {m.ARRAYS: {m.VECTOR: (3, -4), "v": (3, -4)}},
        {m.ARRAYS: {m.VECTOR: (3, -4)}, "more": {m.VECTOR: (3, -4)}},
        {"more": {m.VECTOR: (3, -4)}},
    ],
    ids=str,
)
def test_a_message_has_one_model_and_nothing_else(arrays: dict[str, dict[str, tuple[float, ...]]]) -> None:
    message = asked(privacy=PRIVACY)
    del message.content[m.ARRAYS]
    for name, record in arrays.items():
        message.content[name] = ArrayRecord({key: Array(np.array(w, np.float32)) for key, w in record.items()})
    assert refused(message) == "with deploy.privacy a message has one model and nothing else"


def test_by_default_the_noise_hides_a_whole_update() -> None:
    """Two uploads differ by 2 C at most, so that is the sensitivity; by six standard errors."""
    size, privacy = 50_000, {"clipping_norm": 1.5, "epsilon": 2.0, "delta": 1e-3}
    sigma = 3.0 * math.sqrt(2 * math.log(1.25 / 1e-3)) / 2.0
    moved = np.zeros(size, np.float32)
    moved[0] = 0.5
    noise = uploaded(clientapp.with_privacy(asked(privacy=privacy, w=np.zeros(size)), CONTEXT, uploads(*moved))).astype(
        np.float64
    )
    assert noise.std() == pytest.approx(sigma, rel=6 / math.sqrt(2 * size))


# The client's own process.


@contextmanager
def agent(path: Path, answer: Callable[[Connection], None]) -> Iterator[None]:
    """Somebody who listens at a socket, for one connection."""

    def serve() -> None:
        with listener.accept() as connection:
            answer(connection)

    with Listener(str(path), "AF_UNIX") as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(30)


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(clientapp.SOCKET, str(tmp_path / "s"))
    return tmp_path / "s"


def everything() -> RecordDict:
    arrays = ArrayRecord({"w": Array(np.arange(6, dtype=np.float32)), "empty": Array(np.zeros(0, np.float64))})
    config = ConfigRecord({"i": 1, "f": 0.1, "s": "é", "b": b"\0\xff", "t": True, "l": [1, 2], "w": ["a"]})
    return RecordDict({"arrays": arrays, "config": config, "metrics": MetricRecord({"a": [0.1, -0.0], "n": [2**60]})})


def test_a_part_goes_through_a_socket(socket: Path) -> None:
    def echo(connection: Connection) -> None:
        for _ in range(3):
            wire.send(connection, wire.receive(connection))

    big = RecordDict({"a": ArrayRecord({"w": Array(np.arange(2**21, dtype=np.float32))})})
    with agent(socket, echo), Client(str(socket), "AF_UNIX") as connection:
        for part in (
            wire.SocketMessage({"kind": "train", "n": [1, {"a": None}]}, everything()),
            wire.SocketMessage({"error": "no"}),
            wire.SocketMessage({}, big),
        ):
            wire.send(connection, part)
            assert wire.receive(connection) == part


def test_nothing_that_is_pickled_is_read(socket: Path) -> None:
    def pickles(connection: Connection) -> None:
        connection.send({"content": False})

    with (
        agent(socket, pickles),
        Client(str(socket), "AF_UNIX") as connection,
        pytest.raises(ValueError, match=r"decode"),
    ):
        wire.receive(connection)


def test_the_answer_is_the_processes_own(socket: Path) -> None:
    heard = []

    def answer(connection: Connection) -> None:
        heard.append(wire.receive(connection))
        wire.send(connection, wire.SocketMessage({}, everything()))

    message = asked()
    with agent(socket, answer):
        reply = clientapp.answer(message, CONTEXT)
    assert heard == [wire.SocketMessage({"kind": "train"}, message.content)]
    assert reply.content == everything()
    assert reply.metadata.reply_to_message_id == "m1"


def test_a_refusal_is_an_error(socket: Path) -> None:
    def declines(connection: Connection) -> None:
        wire.receive(connection)
        wire.send(connection, wire.SocketMessage({"error": "it does not agree"}))

    with agent(socket, declines):
        reply = clientapp.answer(asked(), CONTEXT)
    assert (reply.error.code, reply.error.reason) == (clientapp.NO_ANSWER, "it does not agree")


def test_a_process_that_is_gone_is_an_error(socket: Path) -> None:
    reason = "the client's own process ended; its log says why"
    assert clientapp.answer(asked(), CONTEXT).error.reason == reason
    with agent(socket, lambda connection: connection.close()):
        assert clientapp.answer(asked(), CONTEXT).error.reason == reason
