"""What the server takes from a client: a reply is taken apart, and everything in it that is wrong is a sentence."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SType
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedtl.config.schema import Deploy
from fedtl.deploy.validator import Expected, Refused, ReplyValidator, decoded, shortened
from fedtl.grid.identity import identify
from fedtl.metrics import read_metrics
from fedtl.strategies.fedavg import FedAvg, FedAvgSettings
from fedtl.tasks import read_task
from fedtl.wire import messages as m

CLIENT, SIZE, STATISTICS = 2, 5, (1, 3)
W = np.linspace(-1, 1, SIZE, dtype=np.float32)
UPLOAD = np.array([0.5, 0.25, -1, 3, 0.125], np.float32)
EXPECTED = Expected({"w": ("samples", (SIZE,))}, {}, ("cross_entropy", "l2"), STATISTICS)
SCREEN = ReplyValidator(CLIENT, train=7, test=9, target_test=4, settings=Deploy(max_norm=10.0))


def plain(numbers: Any, dtype: str) -> ArrayRecord:
    return ArrayRecord({m.VECTOR: Array(np.asarray(numbers, dtype))})


def raw(data: bytes) -> ArrayRecord:
    """An array of which only the bytes are as they are said to be."""
    return ArrayRecord({m.VECTOR: Array("float32", (SIZE,), SType.NUMPY, data)})


def npy(header: str, payload: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """A file as ``numpy.save`` writes it, with any header."""
    text = header.encode("latin1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + payload


def header(descr: object = "<f4", shape: object = (SIZE,), fortran: object = False) -> str:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape})


def trained(**metrics: Any) -> RecordDict:
    """A good reply to a train message, but for these metrics; a None takes one away."""
    values = {
        m.NODE: [0, 0],
        m.CLIENTS: [CLIENT],
        m.SAMPLES: [3],
        m.STEPS: [12],
        m.LOSS + "cross_entropy": [0.5],
        m.LOSS + "l2": [0.25],
        m.PARTS: [*STATISTICS],
        **metrics,
    }
    record = MetricRecord({key: value for key, value in values.items() if value is not None})
    arrays = {m.ARRAYS: plain(UPLOAD, "float32"), m.STATISTICS: plain([2, 0.5, 1, 1.5], "float64")}
    return RecordDict({m.METRICS: record, **arrays})


def scored(**metrics: Any) -> RecordDict:
    values = {
        m.CLIENTS: [CLIENT],
        m.SAMPLES: [9],
        "global/correct": [6],
        "global/loss_sum": [4.5],
        "target/clients": [CLIENT],
        "target/num-examples": [4],
        "target/global/correct": [1],
        "target/global/loss_sum": [8.0],
        **metrics,
    }
    return RecordDict({m.METRICS: MetricRecord({key: value for key, value in values.items() if value is not None})})


def travelled(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(Proto.FromString(recorddict_to_proto(content).SerializeToString()))


def checked(reply: RecordDict, expected: Expected = EXPECTED, weighting: str = "samples") -> RecordDict:
    sums = {name: (weighting, shape) for name, (_, shape) in expected.sums.items()}
    return SCREEN.trained(reply, replace(expected, sums=sums), W)


def scores(reply: RecordDict, *models: str) -> RecordDict:
    return SCREEN.scored(reply, models or ["global"], EXPECTED)


def refused(what: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        what()
    text = str(caught.value)
    assert "\n" not in text
    return text


def refused_array(array: ArrayRecord) -> str:
    reply = trained()
    reply[m.ARRAYS] = array
    return refused(lambda: checked(reply))


# Good replies.


@pytest.mark.parametrize(("weighting", "factor"), [("samples", 3.0), ("uniform", 1.0)])
def test_a_good_reply_is_what_a_worker_would_have_sent(weighting: str, factor: float) -> None:
    content = checked(travelled(trained()), weighting=weighting)
    assert dict(m.metrics_of(content)) == {
        m.NODE: [0, 0],
        m.CLIENTS: [CLIENT],
        m.SAMPLES: [3],
        m.STEPS: [12],
        m.LOSS + "cross_entropy": [0.5],
        m.LOSS + "l2": [0.25],
        m.PARTS: [1, 3],
    }
    total, statistics = m.unpack(content), m.unpack(content, m.STATISTICS)
    assert total is not None
    assert statistics is not None
    assert (total.dtype, statistics.dtype) == (np.float64, np.float64)
    assert total.tolist() == [factor * float(number) for number in UPLOAD]
    assert statistics.tolist() == [2, 0.5, 1, 1.5]


def test_what_nobody_asked_for_is_dropped() -> None:
    reply = trained(**{"anything": [1.0], m.LOSS + "other": [3.0], m.TARGET + m.CLIENTS: [0], m.NODE: [5, 1]})
    reply["more"] = ConfigRecord({"a": "b"})
    reply[m.PROFILE] = MetricRecord({"training": 1.0})
    assert checked(travelled(reply)) == checked(travelled(trained()))
    assert set(checked(reply)) == {m.METRICS, m.ARRAYS, m.STATISTICS}
    reply = scored(**{"profile": [1.0], "node": [0]})
    reply[m.ARRAYS] = plain(UPLOAD, "float32")
    assert scores(travelled(reply)) == scores(scored())
    assert dict(m.metrics_of(scores(reply))) == dict(m.metrics_of(scored()))


def test_validation_samples_are_scored_by_those_who_said_that_they_hold_some() -> None:
    metrics = {m.VALIDATION + m.CLIENTS: [CLIENT], m.VALIDATION + m.SAMPLES: [3]}
    metrics |= {m.VALIDATION + "global/correct": [2], m.VALIDATION + "global/loss_sum": [1.5]}
    screen = replace(SCREEN, validation=3)
    assert dict(m.metrics_of(screen.scored(travelled(scored(**metrics)), ["global"], EXPECTED))) == {
        **m.metrics_of(scored()),
        **metrics,
    }
    assert refused(
        lambda: screen.scored(scored(**metrics | {m.VALIDATION + m.SAMPLES: [4]}), ["global"], EXPECTED)
    ) == ("'validation/num-examples' is 4, and may be a whole number from 1 to 3")
    assert refused(lambda: SCREEN.scored(scored(**metrics), ["global"], EXPECTED)) == (
        "'validation/num-examples' is 3, and may be a whole number from 1 to 0"
    )


METRICS = read_metrics(["auc", "ece", "recall_by_class"])


def further(**changed: object) -> RecordDict:
    """A reply with further metrics of 3 samples of 2 classes, the global model's on them and on the target's."""
    labels, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    values = {
        f"{domain}global/of/{name}": [value]
        for domain in ("", "target/")
        for name, value in METRICS.of(labels, probabilities).items()
    }
    reply = scored(**{**values, "num-examples": [3], "target/num-examples": [3], "global/correct": [2], **changed})
    tables = METRICS.tabulate(labels, probabilities).items()
    reply[m.TABLES] = m.pack_all({f"{domain}global/{name}": t for domain in ("", "target/") for name, t in tables})
    reply[m.PREDICTIONS] = m.pack_all({"global": probabilities})
    return reply


def test_further_metrics_are_checked_and_predictions_are_dropped() -> None:
    expected = replace(EXPECTED, metrics=METRICS, classes=2)
    screen = replace(SCREEN, test=3, target_test=3)
    content = screen.scored(travelled(further()), ["global"], expected)
    assert {*content} == {m.METRICS, m.TABLES}
    assert m.metrics_of(content)["global/of/auc"] == [1.0]
    tables = m.unpack_all(content, m.TABLES)
    assert {*tables} == {f"{d}global/{t}" for d in ("", "target/") for t in ("Histogram", "Reliability", "Counts")}
    assert tables["global/Counts"].tolist() == [[1, 2], [2, 1], [1, 1]]
    missing = travelled(further(**{"global/of/auc": None}))
    why = refused(lambda: screen.scored(missing, ["global"], expected))
    assert why == "it does not say 'global/of/auc' as one number"


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ([[1, 2], [2, 4], [1, 1]], "its table 'global/Counts' has numbers that 3 samples cannot come to"),
        ([[1, 2], [2, -1], [1, 1]], "its table 'global/Counts' has numbers that 3 samples cannot come to"),
        ([[1, 2, 0]], "an array of it has shape [1, 3] and type int64, expected are [3, 2] and int64"),
    ],
)
def test_tables_that_cannot_be(table: list[list[int]], why: str) -> None:
    expected = replace(EXPECTED, metrics=METRICS, classes=2)
    reply = further()
    reply[m.TABLES] = m.pack_all({**m.unpack_all(reply, m.TABLES), "global/Counts": np.array(table)})
    screen = replace(SCREEN, test=3, target_test=3)
    assert refused(lambda: screen.scored(travelled(reply), ["global"], expected)) == why


def test_sums_of_errors_that_cannot_be() -> None:
    """Of 3 samples with two numbers each: how many, mean, squared differences from it, and squared errors."""
    metrics, task = read_metrics(["rmse"], "regression"), read_task("regression")
    expected = replace(EXPECTED, metrics=metrics, classes=2, task=task)
    screen = replace(SCREEN, test=3)

    def answered(table: Any) -> RecordDict:
        entries = {m.CLIENTS: [CLIENT], m.SAMPLES: [3], "global/loss_sum": [1.0], "global/of/rmse": [0.5]}
        reply = RecordDict({m.METRICS: MetricRecord(entries)})
        reply[m.TABLES] = m.pack_all({"global/Errors": np.array(table)})
        return screen.scored(travelled(reply), ["global"], expected)

    right = [[3.0, 3.0], [-2.5, 1e6], [0.0, 1.5], [0.5, 2.0]]
    assert m.unpack_all(answered(right), m.TABLES)["global/Errors"].tolist() == right
    cannot = "its table 'global/Errors' has numbers that 3 samples cannot come to"
    for row, numbers, why in (
        (0, [4.0, 4.0], cannot),
        (0, [3.0, 2.0], cannot),
        (0, [1.5, 1.5], cannot),
        (0, [-1.0, -1.0], cannot),
        (2, [-1e-9, 1.0], cannot),
        (3, [0.5, -2.0], cannot),
        (1, [np.nan, 1.0], "its tables are not finite: they hold NaN or infinity"),
    ):
        table = [*right[:row], numbers, *right[row + 1 :]]
        assert refused(lambda: answered(table)) == why  # noqa: B023
    assert "expected are [4, 2] and float64" in refused(lambda: answered([[3, 3], [0, 0], [0, 0], [0, 0]]))


def test_a_loss_that_is_no_number_is_recorded_as_such() -> None:
    for value in (float("nan"), float("inf"), -1e31):
        metrics = m.metrics_of(checked(travelled(trained(**{m.LOSS + "l2": [value]}))))
        assert np.isnan(m.floats(metrics, m.LOSS + "l2")[0])
        assert np.isnan(m.floats(m.metrics_of(scores(scored(**{"global/loss_sum": [value]}))), "global/loss_sum"))


def test_a_strategy_makes_the_mean_of_them() -> None:
    """By hand: (1 [1 2] + 2 [3 5] + 5 [-1 0]) / 8 = [2/8 12/8], and (2 [1] + 4 [3] + …) statistics are added up."""
    identify()
    strategy = FedAvg(FedAvgSettings(name="fedavg", lr=0.1), seed=0, clients=3)
    w = np.zeros(2, np.float32)
    sent = list(strategy.configure_train(1, m.pack(w), ConfigRecord(), ThreeNodes()))  # type: ignore[arg-type]
    replies = []
    for client, (samples, upload) in enumerate([(1, [1, 2]), (2, [3, 5]), (5, [-1, 0])]):
        metrics = {m.CLIENTS: [client], m.SAMPLES: [samples], m.STEPS: [1], m.LOSS + "cross_entropy": [float(client)]}
        reply = RecordDict({m.METRICS: MetricRecord({**metrics}), m.ARRAYS: plain(upload, "float32")})
        clean = ReplyValidator(client, 5, 0, 0, Deploy()).trained(
            travelled(reply), Expected({"w": ("samples", (2,))}, {}, ("cross_entropy",), ()), w
        )
        sent[client].metadata.__dict__["_message_id"] = f"{client}"
        replies.append(Message(clean, reply_to=sent[client]))
    arrays, metrics = strategy.aggregate_train(1, reversed(replies))
    assert arrays is not None
    assert arrays[m.VECTOR].numpy().tolist() == [0.25, 1.5]
    assert metrics == {"cross_entropy": (0 * 1 + 1 * 2 + 2 * 5) / 8}


class ThreeNodes:
    def nodes_of_clients(self) -> range:
        return range(3)


# Metrics.


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({m.CLIENTS: None}, "it answers for None, and is client 2"),
        ({m.CLIENTS: [1]}, "it answers for [1], and is client 2"),
        ({m.CLIENTS: 2}, "it answers for 2, and is client 2"),
        ({m.CLIENTS: [2, 2]}, "it answers for [2, 2], and is client 2"),
        ({m.CLIENTS: []}, "it answers for [], and is client 2"),
        ({m.CLIENTS: [0] * 100}, f"it answers for {str([0] * 100)[:40]}, and is client 2"),
        ({m.SAMPLES: None}, "it does not say 'num-examples' as one number"),
        ({m.SAMPLES: 3}, "it does not say 'num-examples' as one number"),
        ({m.SAMPLES: []}, "it does not say 'num-examples' as one number"),
        ({m.SAMPLES: [3, 3]}, "it does not say 'num-examples' as one number"),
        ({m.SAMPLES: [3.0]}, "'num-examples' is 3.0, and may be a whole number from 1 to 7"),
        ({m.SAMPLES: [float("nan")]}, "'num-examples' is nan, and may be a whole number from 1 to 7"),
        ({m.SAMPLES: [0]}, "'num-examples' is 0, and may be a whole number from 1 to 7"),
        ({m.SAMPLES: [-3]}, "'num-examples' is -3, and may be a whole number from 1 to 7"),
        ({m.SAMPLES: [8]}, "'num-examples' is 8, and may be a whole number from 1 to 7"),
        ({m.STEPS: None}, "it does not say 'steps' as one number"),
        ({m.STEPS: [-1]}, f"'steps' is -1, and may be a whole number from 0 to {2**40}"),
        ({m.STEPS: [2**40 + 1]}, f"'steps' is {2**40 + 1}, and may be a whole number from 0 to {2**40}"),
        ({m.STEPS: [0.5]}, f"'steps' is 0.5, and may be a whole number from 0 to {2**40}"),
        ({m.LOSS + "l2": None}, "it does not say 'loss/l2' as one number"),
        ({m.LOSS + "l2": 0.5}, "it does not say 'loss/l2' as one number"),
        ({m.LOSS + "l2": [0.5, 0.5]}, "it does not say 'loss/l2' as one number"),
    ],
)
def test_wrong_metrics_of_training(change: dict[str, Any], sentence: str) -> None:
    assert refused(lambda: checked(travelled(trained(**change)))) == sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({m.CLIENTS: [0]}, "it answers for [0], and is client 2"),
        ({"target/clients": [2, 0]}, "it answers for [2, 0], and is client 2"),
        ({m.SAMPLES: [10]}, "'num-examples' is 10, and may be a whole number from 1 to 9"),
        ({"target/num-examples": [5]}, "'target/num-examples' is 5, and may be a whole number from 1 to 4"),
        ({"target/num-examples": None}, "it does not say 'target/num-examples' as one number"),
        ({"global/correct": [10]}, "'global/correct' is 10, and may be a whole number from 0 to 9"),
        ({"global/correct": [-1]}, "'global/correct' is -1, and may be a whole number from 0 to 9"),
        ({"global/correct": [0.5]}, "'global/correct' is 0.5, and may be a whole number from 0 to 9"),
        ({"global/loss_sum": None}, "it does not say 'global/loss_sum' as one number"),
        ({"global/loss_sum": 4.5}, "it does not say 'global/loss_sum' as one number"),
        ({"global/correct": None}, "it does not say 'global/correct' as one number"),
        ({m.SAMPLES: [0], "global/correct": [0]}, "'num-examples' is 0, and may be a whole number from 1 to 9"),
    ],
)
def test_wrong_scores(change: dict[str, Any], sentence: str) -> None:
    assert refused(lambda: scores(travelled(scored(**change)))) == sentence


def test_a_truth_value_is_no_number() -> None:
    """None crosses the wire; whoever finds a way for one is refused as well."""
    reply = trained()
    m.metrics_of(reply).__dict__["_data"][m.SAMPLES] = [True]
    assert m.metrics_of(reply)[m.SAMPLES] == [True]
    assert refused(lambda: checked(reply)) == "it does not say 'num-examples' as one number"


@pytest.mark.parametrize("record", [None, ConfigRecord({m.CLIENTS: [2], m.SAMPLES: [3]}), plain(UPLOAD, "float32")])
def test_metrics_that_are_none(record: Any) -> None:
    replies = trained(), scored()
    for reply in replies:
        del reply[m.METRICS]
        if record is not None:
            reply[m.METRICS] = record
    assert refused(lambda: checked(travelled(replies[0]))) == "it has no metrics"
    assert refused(lambda: scores(travelled(replies[1]))) == "it has no metrics"


def test_scores_are_of_the_models_that_were_asked_for() -> None:
    personal = {"personal/correct": [2], "personal/loss_sum": [3.5], m.NO_PERSONAL_MODEL: [0]}
    target = {f"target/{key}": value for key, value in personal.items()}
    metrics = m.metrics_of(scores(travelled(scored(**personal, **target))))
    assert dict(metrics) == dict(m.metrics_of(scored()))
    metrics = m.metrics_of(scores(travelled(scored(**personal, **target)), "personal"))
    counts = {m.CLIENTS: [CLIENT], m.SAMPLES: [9], "target/clients": [CLIENT], "target/num-examples": [4]}
    assert dict(metrics) == {**counts, **personal, **target}
    both = travelled(scored(**personal, **target))
    assert dict(m.metrics_of(scores(both, "global", "personal"))) == dict(m.metrics_of(both))
    for change, sentence in (
        ({"personal/correct": None}, "it does not say 'personal/correct' as one number"),
        ({"target/personal/loss_sum": None}, "it does not say 'target/personal/loss_sum' as one number"),
        ({m.NO_PERSONAL_MODEL: [2]}, "'without' is 2, and may be a whole number from 0 to 1"),
        ({m.NO_PERSONAL_MODEL: None}, "it does not say 'without' as one number"),
    ):
        reply = scored(**{**personal, **target, **change})
        assert refused(lambda reply=reply: scores(reply, "global", "personal")) == sentence


def test_a_client_without_test_samples_scores_nothing() -> None:
    metrics = m.metrics_of(scores(travelled(scored(**{m.CLIENTS: [], m.SAMPLES: []})), "global"))
    assert (metrics[m.CLIENTS], metrics[m.SAMPLES], metrics["target/clients"]) == ([], [], [CLIENT])
    assert not {"global/correct", "global/loss_sum"} & set(metrics)


# Arrays.


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (plain(UPLOAD, "float64"), "an array of it has shape [5] and type float64, expected are [5] and float32"),
        (plain(UPLOAD, ">f4"), "an array of it has shape [5] and type >f4, expected are [5] and float32"),
        (plain([1, 2, 3, 4, 5], "int32"), "an array of it has shape [5] and type int32, expected are [5] and float32"),
        (plain(UPLOAD[:4], "float32"), "an array of it has shape [4] and type float32, expected are [5] and float32"),
        (plain([UPLOAD], "float32"), "an array of it has shape [1, 5] and type float32, expected are [5] and float32"),
        (plain(0, "float32"), "an array of it has shape [] and type float32, expected are [5] and float32"),
        (plain([1, 2, 3, 4, np.nan], "float32"), "its arrays are not finite: they hold NaN or infinity"),
        (plain([1, -np.inf, 3, 4, 5], "float32"), "its arrays are not finite: they hold NaN or infinity"),
        (plain(np.zeros(1000), "float32"), "an array of it has 4128 bytes where 5 numbers of float32 are expected"),
        (ArrayRecord(), "its arrays are not one vector"),
        (ArrayRecord({"v": Array(UPLOAD)}), "its arrays are not one vector"),
        (ArrayRecord({m.VECTOR: Array(UPLOAD), "x": Array(UPLOAD)}), "its arrays are not one vector"),
    ],
)
def test_wrong_arrays(array: ArrayRecord, sentence: str) -> None:
    reply = trained()
    reply[m.ARRAYS] = array
    assert refused(lambda: checked(travelled(reply))) == sentence


GARBLED = "an array of it is garbled"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", GARBLED),
        (b"\x93NUMPY", GARBLED),
        (b"\x93NUMPY\1\0\xff\xff{", GARBLED),
        (b"PK\3\4" + bytes(100), GARBLED),
        (npy("{}"), GARBLED),
        (npy("3"), GARBLED),
        (npy(header(fortran=1)), GARBLED),
        (npy(header(shape=[5])), GARBLED),
        (npy(header(descr="<f5")), GARBLED),
        (npy(header().replace("5,", f"{'9' * 400},"), UPLOAD.tobytes()), None),
        (npy(header(), UPLOAD.tobytes(), b"\2\0"), GARBLED),
        (npy(header(), UPLOAD.tobytes(), b"\3\0"), GARBLED),
        (npy(header(), UPLOAD.tobytes()[:-1]), "an array of it ends after 19 of 20 bytes"),
        (npy(header()), "an array of it ends after 0 of 20 bytes"),
        (npy(header(), UPLOAD.tobytes() + b"\0"), "an array of it ends after 21 of 20 bytes"),
        (npy(header(), UPLOAD.tobytes() + bytes(600)), None),
    ],
)
def test_garbled_arrays(data: bytes, sentence: str | None) -> None:
    message = refused_array(raw(data))
    assert message == sentence if sentence else message.startswith("an array of it has ")


@pytest.mark.parametrize(
    "text", ["{1: 2, 'descr': 3}", "{[]: 1}", header(descr=()), "(", "{'descr': '''"], ids=lambda text: text[:12]
)
def test_headers_that_numpy_stumbles_over(text: str) -> None:
    assert refused_array(raw(npy(text, UPLOAD.tobytes()))) == GARBLED


def test_an_order_of_axes_is_none_of_a_vector() -> None:
    reply = trained()
    reply[m.ARRAYS] = raw(npy(header(fortran=True), UPLOAD.tobytes()))
    assert checked(reply) == checked(trained())


def test_no_room_is_made_for_what_a_header_claims() -> None:
    data = npy(header(shape=(2**60,)), bytes(10))
    assert len(data) < 100
    tracemalloc.start()
    try:
        message = refused_array(raw(data))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message == f"an array of it has shape [{2**60}] and type float32, expected are [5] and float32"
    assert most < 2**20


class Leaves:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    file = tmp_path / "here"
    payload = pickle.dumps(Leaves(file))
    message = refused_array(raw(npy(header(descr="|O"), payload)))
    assert message == "an array of it has shape [5] and type object, expected are [5] and float32"
    assert refused_array(raw(payload)) == GARBLED
    assert not file.exists()
    pickle.loads(payload)
    assert file.exists()


def test_an_array_says_nothing_of_itself_that_counts() -> None:
    """Its own type, shape and kind of bytes are words beside the bytes."""
    reply = trained()
    reply[m.ARRAYS] = ArrayRecord({m.VECTOR: Array("O", (2**30,), "pickle", Array(UPLOAD).data)})
    assert checked(travelled(reply)) == checked(trained())


def test_statistics_are_checked_likewise() -> None:
    reply = trained()
    for array, sentence in (
        (plain([1, 2, 3], "float64"), "an array of it has shape [3] and type float64, expected are [4] and float64"),
        (plain([1, 2, 3, 4], "float32"), "an array of it has shape [4] and type float32, expected are [4] and float64"),
        (plain([1, 2, 3, np.nan], "float64"), "its statistics are not finite: they hold NaN or infinity"),
    ):
        reply[m.STATISTICS] = array
        assert refused(lambda: checked(travelled(reply))) == sentence
    del reply[m.STATISTICS]
    assert refused(lambda: checked(reply)) == "it has no statistics"


def test_without_statistics_none_are_looked_at() -> None:
    content = checked(trained(), Expected({"w": ("samples", (SIZE,))}, {}, ("l2",), ()))
    assert set(content) == {m.METRICS, m.ARRAYS}
    assert m.PARTS not in m.metrics_of(content)
    assert m.LOSS + "cross_entropy" not in m.metrics_of(content)


def test_a_method_that_uploads_nothing() -> None:
    nothing, reply = Expected({}, {}, (), ()), trained()
    assert refused(lambda: checked(reply, nothing)) == "it uploads a model, and the method asks for none"
    del reply[m.ARRAYS]
    assert set(checked(reply, nothing)) == {m.METRICS}
    reply[m.ARRAYS] = ArrayRecord()
    assert set(checked(reply, nothing)) == {m.METRICS}
    assert refused(lambda: checked(reply)) == "its arrays are not one vector"


def test_an_update_may_have_the_norm_of_the_bound_and_no_more() -> None:
    """||w|| = 5, so with max_norm = 2 an update may have norm 10; of a shorter w than 1, norm 2."""
    screen = ReplyValidator(0, 1, 0, 0, Deploy(max_norm=2.0))

    def upload(w: NDArray[np.float32], update: list[float]) -> RecordDict:
        metrics = MetricRecord({m.CLIENTS: [0], m.SAMPLES: [1], m.STEPS: [1]})
        reply = RecordDict({m.METRICS: metrics, m.ARRAYS: plain(w + np.array(update, np.float32), "float32")})
        return screen.trained(reply, Expected({"w": ("uniform", (2,))}, {}, (), ()), w)

    w = np.array([3, -4], np.float32)
    assert m.unpack(upload(w, [6, 8])) is not None
    sentence = "its update has norm {}, more than the {} that deploy.max_norm allows"
    assert refused(lambda: upload(w, [6, 8.5])) == sentence.format("10.4", "10")
    short = np.array([0.0, 0.5], np.float32)
    assert m.unpack(upload(short, [-2, 0])) is not None
    assert refused(lambda: upload(short, [-2.25, 0])) == sentence.format("2.25", "2")
    far = float(np.finfo(np.float32).max)
    assert refused(lambda: upload(w, [far, far])).startswith("its update has norm 4.812e+38, more than")


# What clients say.


def test_failures() -> None:
    assert SCREEN.failed(trained()) is None
    reply = RecordDict({m.FAILURES: m.pack_failures([(CLIENT, "ValueError: x")])})
    assert SCREEN.failed(travelled(reply)) == "ValueError: x"
    for record in (
        m.pack_failures([(1, "x")]),
        m.pack_failures([(CLIENT, "x"), (1, "x")]),
        m.pack_failures([]),
        ConfigRecord(),
        MetricRecord({m.CLIENTS: [CLIENT]}),
    ):
        other = travelled(RecordDict({m.FAILURES: record}))
        assert refused(lambda other=other: SCREEN.failed(other)) == "it reports the failure of another client"
    for messages in ([], "text", 3, [3.5]):
        reply = RecordDict({m.FAILURES: ConfigRecord({m.CLIENTS: [CLIENT], "messages": messages})})
        assert SCREEN.failed(travelled(reply)) == ("3.5" if messages == [3.5] else "it failed")


def test_words_are_shortened_to_one_line_that_can_be_printed() -> None:
    assert shortened("a\tb\n  c") == "a b c"
    assert shortened("\x1b[31mred\x07\u202e") == "?[31mred??"
    assert shortened("é ✓ \ud800") == "é ✓ ?"
    assert shortened(None) == "None"
    assert shortened("x" * 300) == "x" * 300
    assert shortened("x" * 301) == "x" * 300 + " …"
    reply = RecordDict({m.FAILURES: m.pack_failures([(CLIENT, "no\n\x1b" * 10**5)])})
    message = SCREEN.failed(reply)
    assert message is not None
    assert len(message) == 302
    assert message.isprintable()


def test_decoded_gives_the_numbers() -> None:
    numbers = np.array([1e300, -2.5])
    assert decoded(Array(numbers), (2,), np.dtype(np.float64)).tolist() == [1e300, -2.5]
    assert decoded(Array(numbers[:0]), (0,), np.dtype(np.float64)).tolist() == []


# Anything at all.

GOOD = recorddict_to_proto(trained()).SerializeToString()
GOOD_SCORES = recorddict_to_proto(scored()).SerializeToString()


@st.composite
def mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes of a good reply with some replaced, some taken out and some put in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["replace", "cut", "insert", "copy", "end"]))
        if what == "replace":
            data[where : where + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == "cut":
            del data[where : where + draw(st.integers(1, 8))]
        elif what == "insert":
            data[where:where] = draw(st.binary(min_size=1, max_size=8))
        elif what == "copy":
            start = draw(st.integers(0, max(len(data) - 1, 0)))
            data[where:where] = data[start : start + draw(st.integers(1, 64))]
        else:
            del data[where:]
    return bytes(data)


def read(data: bytes) -> RecordDict | None:
    """What Flower makes of it; None if it makes nothing."""
    try:
        return recorddict_from_proto(Proto.FromString(data))
    except Exception:
        return None


def check_clean(content: RecordDict) -> None:
    assert set(content) == {m.METRICS, m.ARRAYS, m.STATISTICS}
    metrics = m.metrics_of(content)
    assert metrics[m.CLIENTS] == [CLIENT]
    assert metrics[m.PARTS] == [*STATISTICS]
    (samples,) = m.ints(metrics, m.SAMPLES)
    assert 1 <= samples <= SCREEN.train
    total, statistics = m.unpack(content), m.unpack(content, m.STATISTICS)
    assert total is not None
    assert statistics is not None
    assert (total.shape, total.dtype, statistics.shape) == ((SIZE,), np.float64, (sum(STATISTICS),))
    assert np.isfinite(total).all()
    assert np.isfinite(statistics).all()
    assert np.linalg.norm(total / samples - W) <= SCREEN.settings.max_norm * max(1, np.linalg.norm(W))


@settings(max_examples=150, deadline=None)
@given(mutated(GOOD))
def test_whatever_comes_is_refused_or_clean(data: bytes) -> None:
    reply = read(data)
    if reply is None:
        return
    try:
        failure = SCREEN.failed(reply)
        content = checked(reply)
    except Refused:
        return
    assert failure is None or failure.isprintable()
    check_clean(content)


@settings(max_examples=100, deadline=None)
@given(mutated(GOOD_SCORES))
def test_whatever_scores_come_are_refused_or_clean(data: bytes) -> None:
    reply = read(data)
    if reply is None:
        return
    try:
        metrics = m.metrics_of(scores(reply))
    except Refused:
        return
    for domain, most in (("", SCREEN.test), (m.TARGET, SCREEN.target_test)):
        clients, samples = (metrics.get(f"{domain}{key}", []) for key in (m.CLIENTS, m.SAMPLES))
        assert isinstance(clients, list)
        assert isinstance(samples, list)
        assert clients in ([], [CLIENT])
        assert len(samples) == len(clients)
        if clients:
            assert 0 <= m.ints(metrics, f"{domain}global/correct")[0] <= samples[0] <= most


@settings(max_examples=150, deadline=None)
@given(
    text=st.one_of(
        st.text(st.characters(max_codepoint=255), max_size=60),
        st.builds(header, st.text(max_size=5).filter(str.isascii), st.tuples(st.integers(-9, 2**70)), st.booleans()),
    ),
    payload=st.binary(max_size=24),
)
def test_whatever_header_an_array_has(text: str, payload: bytes) -> None:
    try:
        array = decoded(Array("float32", (SIZE,), SType.NUMPY, npy(text, payload)), (SIZE,), np.dtype(np.float32))
    except Refused:
        return
    assert array.tobytes() == payload
