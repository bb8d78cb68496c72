"""What a model must give: a logit for each class; anything else is one sentence that says so."""

from __future__ import annotations

import pytest

from fedtl.choice import ConfigError
from fedtl.models import build_model, read_model


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("one", ("[2, 1]", "need [2, 2]", "give it 2 outputs", "data.task = 'binary' takes one logit")),
        ("flat", ("[2];", "need [2, 2]", "give it 2 outputs", "data.task = 'binary' takes one logit")),
        ("pair", ("its output is a tuple", "[2, 2]", "return the logits alone")),
        ("table", ("its output is a dict", "return the logits alone")),
        ("classes", ("[2];", "give it 2 outputs")),
        ("integers", ("torch.int64", "give it logits")),
        ("sequence", ("[2, 3, 2]", "one row for each sample")),
        ("three", ("[2, 3]", "give it 2 outputs")),
        ("mean", ("[2];", "need [2, 2]")),
    ],
)
def test_wrong_outputs(how: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        build_model(read_model({"name": "tests.odd_models:Outputs", "how": how}), (4,), 2, 0)
    for part in (*parts, "model.name = 'tests.odd_models:Outputs'"):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_logits_are_right() -> None:
    build_model(read_model({"name": "tests.odd_models:Outputs", "how": "two"}), (4,), 2, 0)
