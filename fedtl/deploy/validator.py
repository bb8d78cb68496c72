"""Validates clients' replies: everything that the server uses of a reply is checked here, and the rest is dropped.

A client may be broken or hostile. A new reply is built from the entries that are as expected, so that a strategy never
sees an entry that it did not ask for, a number of another type, or another client's number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedtl.config.schema import Deploy
from fedtl.metrics import Metrics
from fedtl.tasks import CLASSIFICATION, LearningTask
from fedtl.wire import messages as m

LONGEST_TEXT = 300
"""The most characters of a client's own text that are recorded."""

HEADER = 512
"""The most bytes before an array's numbers; ``numpy.save`` writes 128."""

LARGEST_LOSS = 1e30

FLOAT32: np.dtype[Any] = np.dtype(np.float32)

T = TypeVar("T")


class Refused(Exception):  # noqa: N818
    """A reply, or a part of it, is refused; the message says why."""


@dataclass(frozen=True)
class Expected:
    """The form of the replies in a phase.

    Attributes:
        sums: the uploads that are summed: by name the weighting, ``"samples"`` or ``"uniform"``, and the shape.
        rows: the shapes of the uploads that are not summed, by name.
        terms: the names of the objective's terms.
        statistics: the sizes of the statistics that terms ask for.
        metrics: that are scored besides accuracy and loss.
        classes: how many numbers metrics see of a prediction.
        tokens: how many of them a sample may count as.
        task: what is predicted.
    """

    sums: Mapping[str, tuple[str, tuple[int, ...]]]
    rows: Mapping[str, tuple[int, ...]]
    terms: tuple[str, ...]
    statistics: tuple[int, ...]
    metrics: Metrics = field(default_factory=Metrics)
    classes: int = 0
    tokens: int = 1
    task: LearningTask = CLASSIFICATION


@dataclass(frozen=True)
class ReplyValidator:
    """Checks the replies of one client.

    Attributes:
        client: its number.
        train, test, target_test: how many samples it declared; an upload cannot weigh more.
        settings: with the limit on the norm of an update.
        validation: how many validation samples it declared.
    """

    client: int
    train: int
    test: int
    target_test: int
    settings: Deploy
    validation: int = 0

    def trained(self, reply: RecordDict, expected: Expected, w: NDArray[np.float32]) -> RecordDict:
        """A checked reply to a train message, in the form of a simulation's worker: with weighted sums of the uploads.

        Args:
            reply: what the client sent, with unweighted uploads in float32.
            expected: the form that it should have.
            w: the model that the client received; the upload ``"w"`` is an update of it.

        Raises:
            Refused: an entry is missing or not as expected.
        """
        metrics = _record(reply, m.METRICS, MetricRecord)
        self._is_its_own(metrics, m.CLIENTS)
        samples = _whole(metrics, m.SAMPLES, self.train, 1)
        entries: dict[str, Any] = {
            m.NODE: [0, 0],
            m.CLIENTS: [self.client],
            m.SAMPLES: [samples],
            m.STEPS: [_whole(metrics, m.STEPS, 2**40)],
        }
        for name in expected.terms:
            entries[m.LOSS + name] = [_number(metrics, m.LOSS + name)]
        content = RecordDict({m.METRICS: MetricRecord(entries)})
        if sums := _tensors(reply, m.ARRAYS, {name: shape for name, (_, shape) in expected.sums.items()}):
            doubles = {name: tensor.astype(np.float64) for name, tensor in sums.items()}
            self._check_norms(doubles, w)
            counts = {"samples": samples, "uniform": 1}
            content[m.ARRAYS] = m.pack_all({name: t * counts[expected.sums[name][0]] for name, t in doubles.items()})
        if rows := _tensors(reply, m.ROWS, {name: (1, *shape) for name, shape in expected.rows.items()}):
            self._check_norms({name: tensor[0].astype(np.float64) for name, tensor in rows.items()}, w)
            content[m.ROWS] = m.pack_all(rows)
        if expected.statistics:
            m.metrics_of(content)[m.PARTS] = list(expected.statistics)
            size = {m.VECTOR: (sum(expected.statistics),)}
            content[m.STATISTICS] = m.pack_all(_tensors(reply, m.STATISTICS, size, np.dtype(np.float64)))
        return content

    def _check_norms(self, uploads: Mapping[str, NDArray[np.float64]], w: NDArray[np.float32]) -> None:
        """Check the norm of each upload; of a model, that of the difference from the received one."""
        most = self.settings.max_norm * max(1.0, float(np.linalg.norm(w)))
        if self.settings.privacy is not None:
            most += self.settings.privacy.longest(len(w))
        for name, upload in uploads.items():
            is_model = name == m.VECTOR and upload.shape == w.shape
            norm = float(np.linalg.norm(upload - w if is_model else upload))
            if norm > most:
                what = "update" if is_model else f"upload {name!r}"
                raise Refused(f"its {what} has norm {norm:.4g}, more than the {most:.4g} that deploy.max_norm allows")

    def scored(self, reply: RecordDict, models: Sequence[str], expected: Expected) -> RecordDict:
        """A checked reply to an evaluate message.

        Args:
            reply: what the client sent.
            models: those that it was asked to score, "global" and "personal".
            expected: with the metrics that it was asked for.

        Raises:
            Refused: an entry is missing or not as expected.
        """
        metrics = _record(reply, m.METRICS, MetricRecord)
        entries: dict[str, Any] = {m.CLIENTS: [], m.SAMPLES: []}
        most_of: dict[str, int] = {}
        for domain, most in (("", self.test), (m.TARGET, self.target_test), (m.VALIDATION, self.validation)):
            if not metrics.get(f"{domain}{m.CLIENTS}"):
                continue
            self._is_its_own(metrics, f"{domain}{m.CLIENTS}")
            samples = _whole(metrics, f"{domain}{m.SAMPLES}", most * expected.tokens, 1)
            entries[f"{domain}{m.CLIENTS}"], entries[f"{domain}{m.SAMPLES}"] = [self.client], [samples]
            for model in models:
                if expected.task.has_accuracy:
                    entries[f"{domain}{model}/correct"] = [_whole(metrics, f"{domain}{model}/correct", samples)]
                entries[f"{domain}{model}/loss_sum"] = [_number(metrics, f"{domain}{model}/loss_sum")]
                most_of[f"{domain}{model}"] = samples
                for name in expected.metrics.names(expected.classes):
                    key = f"{domain}{model}{m.METRIC}{name}"
                    entries[key] = [_number(metrics, key)]
            if "personal" in models:
                entries[f"{domain}{m.NO_PERSONAL_MODEL}"] = [_whole(metrics, f"{domain}{m.NO_PERSONAL_MODEL}", 1)]
        content = RecordDict({m.METRICS: MetricRecord(entries)})
        if tables := self._tables(reply, most_of, expected):
            content[m.TABLES] = m.pack_all(tables)
        return content

    def _tables(self, reply: RecordDict, samples: Mapping[str, int], expected: Expected) -> dict[str, NDArray[Any]]:
        """What of its samples adds up: numbers that so many samples can come to.

        Args:
            reply: what the client sent.
            samples: how many it has, by domain and model.
            expected: with the metrics that it was asked for.
        """
        kinds, shapes = expected.metrics.tables, expected.metrics.shapes(expected.classes, expected.task.of_classes)
        asked = {f"{name}/{table}": shape for name in samples for table, shape in shapes.items()}
        dtypes = {f"{name}/{table}": np.dtype(kind.dtype) for name in samples for table, kind in kinds.items()}
        tables = _tensors(reply, m.TABLES, asked, dtypes)
        for key, table in tables.items():
            name, _, kind = key.rpartition("/")
            if not kinds[kind]().can_be(table, samples[name]):
                raise Refused(f"its table {key!r} has numbers that {samples[name]} samples cannot come to")
        return tables

    def failed(self, reply: RecordDict) -> str | None:
        """The error that a client reports; None if it reports none.

        Raises:
            Refused: it reports an error of another client.
        """
        record = reply.get(m.FAILURES)
        if record is None:
            return None
        if not isinstance(record, ConfigRecord) or record.get(m.CLIENTS) != [self.client]:
            raise Refused("it reports the failure of another client")
        messages = record.get("messages")
        return shortened(messages[0] if isinstance(messages, list) and messages else "it failed")

    def _is_its_own(self, metrics: MetricRecord, key: str) -> None:
        if metrics.get(key) != [self.client]:
            raise Refused(f"it answers for {metrics.get(key)!r:.40}, and is client {self.client}")


def shortened(text: object) -> str:
    """A client's own text as it can be recorded: one line of printable characters, cut to ``LONGEST_TEXT``."""
    words = " ".join(str(text).split())
    shown = "".join(letter if letter.isprintable() else "?" for letter in words)
    return shown if len(shown) <= LONGEST_TEXT else f"{shown[:LONGEST_TEXT]} …"


def decoded(array: Array, expected: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Decode an array of an expected shape and type.

    ``numpy.load`` would allocate as much memory as the header claims before it reads any number.

    Raises:
        Refused: the array has another shape or type, or is garbled.
    """
    data, size = array.data, math.prod(expected)
    if len(data) > size * dtype.itemsize + HEADER:
        raise Refused(f"an array of it has {len(data)} bytes where {size} numbers of {dtype} are expected")
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError
        shape, fortran_order, actual = np.lib.format.read_array_header_1_0(stream, max_header_size=HEADER)
    except Exception as error:  # the header is a Python expression, and its parser may raise anything
        raise Refused("an array of it is garbled") from error
    if shape != expected or actual != dtype or (fortran_order and len(shape) > 1):
        raise Refused(
            f"an array of it has shape {list(shape)!r:.60} and type {actual}, expected are {[*expected]} and {dtype}"
        )
    if len(data) - stream.tell() != size * dtype.itemsize:
        raise Refused(f"an array of it ends after {len(data) - stream.tell()} of {size * dtype.itemsize} bytes")
    return np.frombuffer(data, dtype, size, stream.tell()).reshape(expected)


def _tensors(
    reply: RecordDict,
    key: str,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype[Any] | Mapping[str, np.dtype[Any]] = FLOAT32,
) -> dict[str, NDArray[Any]]:
    """The tensors of a reply by name, which must be exactly the expected ones, of one type or of one for each."""
    if not shapes:
        if len(reply.array_records.get(key, ())):
            what = "a model" if key == m.ARRAYS else key
            raise Refused(f"it uploads {what}, and the method asks for none")
        return {}
    record = _record(reply, key, ArrayRecord)
    if {*record} != {*shapes}:
        named = "one vector" if [*shapes] == [m.VECTOR] else " and ".join(map(repr, sorted(shapes)))
        raise Refused(f"its {key} are not {named}")
    types = dtype if isinstance(dtype, Mapping) else dict.fromkeys(shapes, dtype)
    tensors = {name: decoded(record[name], shape, types[name]) for name, shape in shapes.items()}
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise Refused(f"its {key} are not finite: they hold NaN or infinity")
    return tensors


def _record(reply: RecordDict, key: str, kind: type[T]) -> T:
    record = reply.get(key)
    if not isinstance(record, kind):
        raise Refused(f"it has no {key}")
    return record


def _one(metrics: MetricRecord, key: str) -> int | float:
    value = metrics.get(key)
    if not isinstance(value, list) or len(value) != 1 or isinstance(value[0], bool):
        raise Refused(f"it does not say {key!r} as one number")
    return value[0]


def _whole(metrics: MetricRecord, key: str, most: int, least: int = 0) -> int:
    value = _one(metrics, key)
    if not isinstance(value, int) or not least <= value <= most:
        raise Refused(f"{key!r} is {value!r:.40}, and may be a whole number from {least} to {most}")
    return value


def _number(metrics: MetricRecord, key: str) -> float:
    """A loss; NaN if it is not finite, or too large to be recorded."""
    value = float(_one(metrics, key))
    return value if abs(value) < LARGEST_LOSS else math.nan
