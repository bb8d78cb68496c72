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
    ],
)
def test_a_contrast_of_two_models_that_represent_alike(config: dict[str, Any], sentence: str) -> None:
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
    ],
)
def test_others_are_read(config: dict[str, Any]) -> None:
    build(config)
