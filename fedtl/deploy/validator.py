"""What a client's reply may be: everything that the server uses of it is checked here, and nothing else is looked at.

A client may be broken, or not the one that was meant to be let in. Its reply is taken apart, and a new one is made of
the parts that are what they should be: so no entry that nobody asked for reaches a strategy, no number of another
type, and no name of another client.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedtl.config.schema import Deploy
from fedtl.wire import messages as m

LONGEST_TEXT = 300
"""Letters of a client's own words that are recorded."""

HEADER = 512
"""Bytes before an array's numbers, at most: ``numpy.save`` writes 128."""

LARGEST_LOSS = 1e30

FLOAT32: np.dtype[Any] = np.dtype(np.float32)

T = TypeVar("T")


class Refused(Exception):  # noqa: N818
    """A reply is not what it may be; the message is part of a sentence that says why."""


@dataclass(frozen=True)
class Expected:
    """What the replies of a phase's clients look like.

    Attributes:
        sums: the uploads that are summed, by name: how clients count in each, ``"samples"`` or ``"uniform"``, and its
            shape.
        rows: the shapes of those that are not, by name.
        terms: the objective's, by name.
        statistics: how many numbers each of the statistics has that terms ask for.
    """

    sums: Mapping[str, tuple[str, tuple[int, ...]]]
    rows: Mapping[str, tuple[int, ...]]
    terms: tuple[str, ...]
    statistics: tuple[int, ...]


@dataclass(frozen=True)
class ReplyValidator:
    """Checks the replies of one client.

    Attributes:
        client: who was asked.
        train, test, target_test: how many samples it said that it holds; an upload cannot weigh more.
        settings: how far an update may go.
        validation: how many validation samples it said that it holds.
    """

    client: int
    train: int
    test: int
    target_test: int
    settings: Deploy
    validation: int = 0

    def trained(self, reply: RecordDict, expected: Expected, w: NDArray[np.float32]) -> RecordDict:
        """A reply to a train message, as a simulation's worker would have sent it: with the uploads' weighted sums.

        Args:
            reply: what the client sent: its uploads, not multiplied by anything, in float32.
            expected: what it should be.
            w: the model that it received, of which the upload ``"w"`` is an update.

        Raises:
            Refused: something in it is not what it may be.
        """
        metrics = _record(reply, m.METRICS, MetricRecord)
        self._is_its_own(metrics, m.CLIENTS)
        samples = _whole(metrics, m.SAMPLES, self.train, 1)
        told: dict[str, Any] = {
            m.NODE: [0, 0],
            m.CLIENTS: [self.client],
            m.SAMPLES: [samples],
            m.STEPS: [_whole(metrics, m.STEPS, 2**40)],
        }
        for name in expected.terms:
            told[m.LOSS + name] = [_number(metrics, m.LOSS + name)]
        content = RecordDict({m.METRICS: MetricRecord(told)})
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
        """Check that no upload is further than it may be: a model from the one that was received, others from 0."""
        most = self.settings.max_norm * max(1.0, float(np.linalg.norm(w)))
        if self.settings.privacy is not None:
            most += self.settings.privacy.longest(len(w))
        for name, upload in uploads.items():
            is_model = name == m.VECTOR and upload.shape == w.shape
            norm = float(np.linalg.norm(upload - w if is_model else upload))
            if norm > most:
                what = "update" if is_model else f"upload {name!r}"
                raise Refused(f"its {what} has norm {norm:.4g}, more than the {most:.4g} that deploy.max_norm allows")

    def scored(self, reply: RecordDict, models: Sequence[str]) -> RecordDict:
        """A reply to an evaluate message, likewise.

        Args:
            reply: what the client sent.
            models: which ones it was asked to score, "global" and "personal".

        Raises:
            Refused: something in it is not what it may be.
        """
        metrics = _record(reply, m.METRICS, MetricRecord)
        told: dict[str, Any] = {m.CLIENTS: [], m.SAMPLES: []}
        for domain, most in (("", self.test), (m.TARGET, self.target_test), (m.VALIDATION, self.validation)):
            if not metrics.get(f"{domain}{m.CLIENTS}"):
                continue
            self._is_its_own(metrics, f"{domain}{m.CLIENTS}")
            samples = _whole(metrics, f"{domain}{m.SAMPLES}", most, 1)
            told[f"{domain}{m.CLIENTS}"], told[f"{domain}{m.SAMPLES}"] = [self.client], [samples]
            for model in models:
                told[f"{domain}{model}/correct"] = [_whole(metrics, f"{domain}{model}/correct", samples)]
                told[f"{domain}{model}/loss_sum"] = [_number(metrics, f"{domain}{model}/loss_sum")]
            if "personal" in models:
                told[f"{domain}{m.WITHOUT}"] = [_whole(metrics, f"{domain}{m.WITHOUT}", 1)]
        return RecordDict({m.METRICS: MetricRecord(told)})

    def failed(self, reply: RecordDict) -> str | None:
        """What a client says that raised; None if it did not.

        Raises:
            Refused: it says it of somebody else.
        """
        record = reply.get(m.FAILURES)
        if record is None:
            return None
        if not isinstance(record, ConfigRecord) or record.get(m.CLIENTS) != [self.client]:
            raise Refused("it tells of the failure of another client")
        messages = record.get("messages")
        return shortened(messages[0] if isinstance(messages, list) and messages else "it failed")

    def _is_its_own(self, metrics: MetricRecord, key: str) -> None:
        if metrics.get(key) != [self.client]:
            raise Refused(f"it answers for {metrics.get(key)!r:.40}, and is client {self.client}")


def shortened(text: object) -> str:
    """A client's own words as they can be recorded."""
    words = " ".join(str(text).split())
    shown = "".join(letter if letter.isprintable() else "?" for letter in words)
    return shown if len(shown) <= LONGEST_TEXT else f"{shown[:LONGEST_TEXT]} …"


def decoded(array: Array, expected: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers of an array that was sent, of an expected shape.

    Not by ``numpy.load``, which makes room for as many numbers as the header says before it reads them.

    Raises:
        Refused: it has another size or type than it should, or is garbled.
    """
    data, size = array.data, math.prod(expected)
    if len(data) > size * dtype.itemsize + HEADER:
        raise Refused(f"an array of it has {len(data)} bytes where {size} numbers of {dtype} are expected")
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError
        shape, fortran_order, found = np.lib.format.read_array_header_1_0(stream, max_header_size=HEADER)
    except Exception as error:  # the header is a Python expression, and its parser raises whatever it meets
        raise Refused("an array of it is garbled") from error
    if shape != expected or found != dtype or (fortran_order and len(shape) > 1):
        raise Refused(
            f"an array of it has shape {list(shape)!r:.60} and type {found}, expected are {[*expected]} and {dtype}"
        )
    if len(data) - stream.tell() != size * dtype.itemsize:
        raise Refused(f"an array of it ends after {len(data) - stream.tell()} of {size * dtype.itemsize} bytes")
    return np.frombuffer(data, dtype, size, stream.tell()).reshape(expected)


def _tensors(
    reply: RecordDict, key: str, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any] = FLOAT32
) -> dict[str, NDArray[Any]]:
    """The named tensors of a reply, which must be those that are expected; none where none are."""
    if not shapes:
        if len(reply.array_records.get(key, ())):
            what = "a model" if key == m.ARRAYS else key
            raise Refused(f"it uploads {what}, and the method asks for none")
        return {}
    record = _record(reply, key, ArrayRecord)
    if {*record} != {*shapes}:
        named = "one vector" if [*shapes] == [m.VECTOR] else " and ".join(map(repr, sorted(shapes)))
        raise Refused(f"its {key} are not {named}")
    tensors = {name: decoded(record[name], shape, dtype) for name, shape in shapes.items()}
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise Refused(f"its {key} are not finite: they hold NaN or infinity")
    return tensors


def _record(reply: RecordDict, key: str, kind: type[T]) -> T:
    found = reply.get(key)
    if not isinstance(found, kind):
        raise Refused(f"it has no {key}")
    return found


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
    """A loss; not a number where a client could not evaluate it, or has none that could be recorded."""
    value = float(_one(metrics, key))
    return value if abs(value) < LARGEST_LOSS else math.nan
