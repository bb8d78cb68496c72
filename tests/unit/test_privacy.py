"""What the noise of ``deploy.privacy`` comes to, and that honest uploads with it are not refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from fedtl.config.schema import Deploy
from fedtl.deploy import clientapp
from fedtl.deploy.study import Study
from fedtl.deploy.validator import Expected, Refused, ReplyValidator
from fedtl.grid.identity import identify
from fedtl.wire import messages as m
from fedtl.wire.privacy import Privacy


def integrated(privacy: Privacy) -> float:
    """The definition: the largest excess of P(x) over e^epsilon P'(x), for two inputs at the given distance."""
    one, other = norm(0, privacy.deviation), norm(privacy.distance, privacy.deviation)

    def excess(x: float) -> float:
        return max(0.0, float(one.pdf(x) - math.exp(privacy.epsilon) * other.pdf(x)))

    # There is an excess on one side of where the two are equal.
    equal = privacy.distance / 2 - privacy.epsilon * privacy.deviation**2 / privacy.distance
    least = min(equal, 0.0) - 20 * privacy.deviation
    integral: float = quad(excess, least, equal, points=[0.0] if equal > 0 else None, epsabs=0, epsrel=1e-9, limit=500)[
        0
    ]
    return integral


@pytest.mark.parametrize("epsilon", [0.1, 0.9, 1.0, 5.0, 10.0, 20.0, 200.0])
@pytest.mark.parametrize(("clip", "sensitivity"), [(1.0, None), (3.0, 0.25)])
def test_the_exact_delta_is_its_definition(epsilon: float, clip: float, sensitivity: float | None) -> None:
    privacy = Privacy(clipping_norm=clip, sensitivity=sensitivity, epsilon=epsilon, delta=1e-5)
    assert privacy.exact_delta == pytest.approx(integrated(privacy), rel=1e-5)


def test_values_that_were_computed_elsewhere() -> None:
    """For epsilon < 1 the formula keeps its promise; for 10 and 20 it does not."""
    for epsilon, delta in ((10.0, 2.27e-5), (20.0, 1.53e-3)):
        privacy = Privacy(clipping_norm=1.0, epsilon=epsilon, delta=1e-5)
        assert privacy.exact_delta == pytest.approx(delta, rel=5e-3)
    for epsilon in (0.1, 0.5, 0.99):
        assert Privacy(clipping_norm=1.0, epsilon=epsilon, delta=1e-5).exact_delta < 1e-5


def test_noise_for_half_of_the_distance() -> None:
    """A sensitivity of C promises (5, 1e-5), and uploads that differ by 2 C have (5, 4.13e-2).

    Noise of the same length comes of sensitivity 2 C and a delta at which the formula's square root is half of it.
    """
    half = Privacy(clipping_norm=1.0, sensitivity=1.0, epsilon=5.0, delta=1e-5)
    same = Privacy(clipping_norm=1.0, epsilon=5.0, delta=1.25 * (1e-5 / 1.25) ** (1 / 4))
    assert same.deviation == pytest.approx(half.deviation)
    assert (half.distance, same.distance) == (1.0, 2.0)
    assert same.exact_delta == pytest.approx(4.13e-2, rel=5e-3)


def test_the_deviation_by_hand() -> None:
    """2 · 0.5 · sqrt(2 ln 125000) / 4, and with a sensitivity of 3 three times that."""
    privacy = Privacy(clipping_norm=0.5, epsilon=4.0, delta=1e-5)
    assert privacy.deviation == pytest.approx(1.2112, abs=5e-5)
    assert privacy.model_copy(update={"sensitivity": 3.0}).deviation == pytest.approx(3 * 1.2112, abs=2e-4)


def test_what_is_printed() -> None:
    text = str(Privacy(clipping_norm=1.0, epsilon=20.0, delta=1e-5))
    assert text.startswith("noise of standard deviation 0.4845 on each number of an upload; ")
    assert text.endswith("has epsilon = 20 and delta = 0.0015, for its upload")


# The server's bound on updates.


def noised(update: NDArray[np.float32], privacy: dict[str, Any]) -> NDArray[np.float32]:
    """What a client uploads of an update of w = 0: by Flower's mod."""
    identify()
    w = ArrayRecord({m.VECTOR: Array(np.zeros_like(update))})
    experiment = json.dumps({"deploy": {"privacy": privacy}})
    content = RecordDict({m.STUDY: Study("a", experiment, 3).record(), m.CONFIG: ConfigRecord(), m.ARRAYS: w})
    message = Message(content, 5, MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "m1"

    def trained(message: Message, context: Context) -> Message:
        return Message(RecordDict({m.ARRAYS: ArrayRecord({m.VECTOR: Array(update)})}), reply_to=message)

    reply = clientapp.with_privacy(message, Context(1, 5, {}, RecordDict(), {}), trained)
    return np.asarray(m.unpack(reply.content), np.float32)


def taken(upload: NDArray[np.float32], deploy: Deploy) -> NDArray[Any]:
    metrics = MetricRecord({m.CLIENTS: [0], m.SAMPLES: [1], m.STEPS: [1]})
    reply = RecordDict({m.METRICS: metrics, m.ARRAYS: ArrayRecord({m.VECTOR: Array(upload)})})
    w = np.zeros_like(upload)
    content = ReplyValidator(0, 1, 0, 0, deploy).trained(
        reply, Expected({"w": ("uniform", (len(upload),))}, {}, (), ()), w
    )
    return np.asarray(m.unpack(content))


@pytest.mark.parametrize("numbers", [650, 1_000_000])
def test_honest_noise_is_let_through_and_a_thousand_times_as_much_is_not(numbers: int) -> None:
    privacy = {"clipping_norm": 1.0, "epsilon": 1.0, "delta": 1e-5}
    deploy = Deploy(privacy=Privacy.model_validate(privacy))
    update = np.random.default_rng(0).normal(size=numbers).astype(np.float32)  # longer than what it is clipped to
    for _ in range(3):
        upload = noised(update, privacy)
        # Without the noise's part of the bound it would be too long.
        assert np.linalg.norm(upload) > deploy.max_norm
        assert taken(upload, deploy).tobytes() == upload.astype(np.float64).tobytes()
    with pytest.raises(Refused, match=r"^its update has norm .* that deploy\.max_norm allows$"):
        taken(1000 * upload, deploy)
    with pytest.raises(Refused):
        taken(upload, Deploy())


def test_how_long_noise_is_by_hand() -> None:
    """C + sigma (sqrt(d) + 6); a normal vector's length exceeds sigma sqrt(d) by 6 sigma once in e^18 times."""
    privacy = Privacy(clipping_norm=0.5, epsilon=4.0, delta=1e-5)
    assert privacy.longest(100) == pytest.approx(0.5 + 16 * 1.2112, abs=1e-3)
