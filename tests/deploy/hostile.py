"""A client that was let in and sends what it likes: started by its SuperNode in place of Flower's ``flwr-clientapp``.

Asked what it holds it first claims another's name, and then tells the truth. Each training round it sends another
update that is none, of :data:`UPDATES`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedtl.deploy import clientapp
from fedtl.wire import messages as m

DATA, MEMORY, TRAP = "HOSTILE_DATA", "HOSTILE_MEMORY", "HOSTILE_TRAP"
"""Environment variables: its data, a file where it counts who asked, and a file that nobody may ever write."""

ITSELF, OTHER = ("m", 2), ("a", 0)
"""Names and numbers."""

LIES = 2
"""It is asked when the study begins, and as it lied once more before the first round."""


class Trap:
    """What unpickling it does: it writes the file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ[TRAP],)


def saved(vector: NDArray[np.floating]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, vector, allow_pickle=False)
    return stream.getvalue()


def pickled(w: NDArray[np.floating]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Trap()] * len(w), dtype=object), allow_pickle=True)
    return stream.getvalue()


UPDATES = {
    "NaN": lambda w: saved(np.full_like(w, np.nan)),
    "a million times": lambda w: saved(w * np.float32(1e6)),
    "another shape": lambda w: saved(w[:-1]),
    "another client": lambda w: saved(w),
    "pickled": pickled,
    "a pickle alone": lambda w: pickle.dumps(Trap()),
    "cut off": lambda w: saved(w)[:-7],
}
"""What it sends in the first round, the second, and so on, made of what it received."""


def description(message: Message, context: Context) -> Message:
    from fedtl.data.own.read import read_own  # and with it torch, which need not be there for every message
    from fedtl.deploy.agent import DESCRIPTION, NAME

    count = Path(os.environ[MEMORY])
    asked = len(count.read_text()) if count.exists() else 0
    count.write_text("x" * (asked + 1))
    name, _ = OTHER if asked < LIES else ITSELF
    about = {**read_own(os.environ[DATA]).describe(), NAME: name}
    content = RecordDict({DESCRIPTION: ConfigRecord({DESCRIPTION: json.dumps(about)})})
    return Message(content, reply_to=message)


def trained(message: Message, context: Context) -> Message:
    round = int(m.config_of(message.content)[m.ROUND])  # type: ignore[arg-type]
    which = [*UPDATES][(round - 2) % len(UPDATES)]
    w = np.asarray(message.content.array_records[m.ARRAYS][m.VECTOR].numpy())
    _, client = OTHER if which == "another client" else ITSELF
    metrics = {m.NODE: [0, 0], m.CLIENTS: [client], m.SAMPLES: [1], m.STEPS: [1], f"{m.LOSS}cross_entropy": [0.0]}
    array = Array("float32", (len(w),), "numpy.ndarray", UPDATES[which](w))
    content = RecordDict({m.METRICS: MetricRecord(metrics), m.ARRAYS: ArrayRecord({m.VECTOR: array})})
    return Message(content, reply_to=message)


def scored(message: Message, context: Context) -> Message:
    """All of many more samples than it has, classified without a mistake."""
    metrics = {m.CLIENTS: [ITSELF[1]], m.SAMPLES: [10**6], "global/correct": [10**6], "global/loss_sum": [0.0]}
    return Message(RecordDict({m.METRICS: MetricRecord(metrics)}), reply_to=message)


app = ClientApp()
app.query()(description)
app.train()(trained)
app.evaluate()(scored)


if __name__ == "__main__":
    clientapp.app = app
    clientapp.main()
