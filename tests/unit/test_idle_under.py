"""Terms and methods that would do nothing beside each other are refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from fedtl.choice import ConfigError
from fedtl.config.read import build


def tables(*terms: dict[str, Any], **strategy: Any) -> dict[str, Any]:
    return {
        "name": "idle",
        "rounds": 2,
        "data": {"name": "digits", "clients": 4},
        "model": {"name": "mlp", "hidden": [8, 6]},
        "strategy": {"lr": 0.1, **strategy},
        "objective": list(terms),
    }


CROSS_ENTROPY, MOON = {"term": "cross_entropy"}, {"term": "moon"}
KEPT = "all but the head stays at clients, so the received model's representations are the last one's"


NOT_CALIBRATED = (
    "strategy.name = 'fedlc': with this objective it trains as 'fedavg' does, as it calibrates the cross-entropy of "
    "labelled samples; add the term 'cross_entropy', or use 'fedavg'"
)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            tables(CROSS_ENTROPY, MOON, name="lg-fedavg"),
            f"objective[1]: the term 'moon' does nothing under lg-fedavg: {KEPT}; leave it out",
        ),
        (
            tables(MOON, name="fedavg", private=["features"]),
            f"objective[0]: the term 'moon' does nothing under fedavg: {KEPT}; leave it out",
        ),
        (
            tables(CROSS_ENTROPY, MOON, name="central"),
            "objective[1]: the term 'moon' does nothing under central: a client receives the model that it trained "
            "last, with which it is to be contrasted; leave it out",
        ),
        (tables({"term": "simclr"}, name="fedlc") | {"views": {}}, NOT_CALIBRATED),
        (tables({**CROSS_ENTROPY, "weight": 0}, {"term": "l2"}, name="fedlc"), NOT_CALIBRATED),
        (
            tables({"term": "entropy"}, name="fedlc")
            | {"data": {"name": "digits", "clients": 4, "labelled_fraction": 0}},
            NOT_CALIBRATED,
        ),
    ],
)
def test_what_would_do_nothing_is_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build(config)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    "config",
    [
        tables(CROSS_ENTROPY, {**MOON, "projector": 4}, name="lg-fedavg"),  # the projector travels
        tables(CROSS_ENTROPY, {**MOON, "weight": 0}, name="lg-fedavg"),  # it is only measured
        tables(CROSS_ENTROPY, MOON, name="fedper"),  # the body travels
        tables(CROSS_ENTROPY, MOON, name="central", server={"name": "momentum"}),  # the server steps further
        tables(name="fedlc"),
        tables({"term": "tests.trouble:Trouble"}, name="fedlc"),  # an own term may read the logits
        tables({"term": "l2"}, name="fedlc", tau=0),  # which is FedAvg, and is asked for
        tables(name="fedlc")
        | {"phases": [{"rounds": 1}, {"rounds": 1, "objective": [{"term": "l2"}]}]},  # in one of its phases it does
    ],
)
def test_others_are_read(config: dict[str, Any]) -> None:
    build(config)
