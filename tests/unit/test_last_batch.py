"""A last mini-batch that is smaller: kept, dropped or merged; and a model that cannot train on one sample."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from torch import nn

from fedtl.choice import ConfigError
from fedtl.data.batches import Budget
from fedtl.engine import Trained
from fedtl.engine.single_samples import check_single_samples
from fedtl.engine.stacked import padded
from fedtl.random import stream
from tests.odd_models import BatchNorm, ImageNorm
from tests.parts import ENGINES, METHODS, engine_of, federation_of, small_module, train_cohort, update_of
from tests.trial_models import OfOne

LAST = ("keep", "drop", "merge")


@pytest.mark.parametrize(
    ("n", "last", "sizes"),
    [
        (41, "keep", [20, 20, 1]),
        (41, "drop", [20, 20]),
        (41, "merge", [20, 21]),
        (21, "drop", [20]),
        (21, "merge", [21]),
        *((40, last, [20, 20]) for last in LAST),
        *((7, last, [7]) for last in LAST),
        *((1, last, [1]) for last in LAST),
    ],
)
def test_sizes_of_an_epoch(n: int, last: Any, sizes: list[int]) -> None:
    assert Budget(20, epochs=2, last=last).step_sizes(n).tolist() == 2 * sizes
    assert Budget(20, steps=5, last=last).step_sizes(n).tolist() == np.resize(sizes, 5).tolist()
    assert Budget(0, epochs=1, last=last).step_sizes(n).tolist() == [n]


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("how", [{"epochs": 3}, {"steps": 7}])
def test_each_epoch_is_a_fresh_order_of_all_samples(last: Any, how: dict[str, int]) -> None:
    budget = Budget(20, **how, last=last)
    order, sizes = budget.order(45, stream(0, 1))
    assert len(order) == sizes.sum()
    of_epoch = sum(budget.epoch_sizes(45))
    for start in range(0, len(order), of_epoch):
        epoch = order[start : start + of_epoch]
        assert len(set(epoch.tolist())) == len(epoch), "a sample came twice in an epoch"
    if last == "drop":
        first, second = (set(order[start : start + 40].tolist()) for start in (0, 40))
        assert first != second, "the same samples sit out each epoch"


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("size", [0, 1, 7, 20, 100])
def test_padding_adds_no_mini_batch_and_makes_none_smaller(last: Any, size: int) -> None:
    budget = Budget(size, epochs=1, last=last)
    for n in range(1, 300):
        sizes, widths = budget.step_sizes(n), padded(budget, n)
        assert len(sizes) == len(widths)
        assert (widths >= sizes).all()


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("budget", [{"local_epochs": 2}, {"local_steps": 5}])
def test_engines_agree(last: str, budget: dict[str, int]) -> None:
    federation = federation_of([7, 23, 41, 20, 39])
    update = update_of("pfedme", **{**METHODS["pfedme"], "batch_size": 10, "last_batch": last, **budget})
    uploads = []
    for kind in ENGINES.values():
        engine = engine_of(federation, small_module(), kind)
        outcomes = train_cohort(
            engine, update, engine.task.layout.flatten(engine.task.module), [*range(5)], [{}] * 5, 1
        )
        assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
        uploads.append(np.stack([outcome.uploads.get("w").numpy() for outcome in outcomes]))  # type: ignore[union-attr]
    for other in uploads[1:]:
        np.testing.assert_allclose(uploads[0], other, rtol=1e-4, atol=1e-5)


def error_of(
    sizes: list[int], module: nn.Module, shape: tuple[int, ...] = (6,), failures: float = 0.0, **o: Any
) -> str:
    task = engine_of(federation_of(sizes, shape=shape), module).task
    try:
        check_single_samples(task, update_of("fedavg", **{"lr": 0.1, "batch_size": 20, **o}), failures)
    except ConfigError as error:
        return str(error)
    return ""


def test_who_cannot_train_is_named_before_the_first_round_with_size_and_remedy() -> None:
    text = error_of([21, 41, 20], BatchNorm((6,), 3))
    for part in ("client 0 (21 training samples), client 1 (41", "strategy.batch_size = 20", 'last_batch = "drop"'):
        assert part in text
    assert "client 2" not in text
    assert "\n" not in text
    assert error_of([21, 41, 20], BatchNorm((6,), 3), last_batch="drop") == ""
    assert error_of([21, 41, 20], BatchNorm((6,), 3), last_batch="merge") == ""
    assert error_of([21, 41, 20], BatchNorm((6,), 3), batch_size=18) == ""
    assert "batch_size to 2 or more" in error_of([5, 6], BatchNorm((6,), 3), batch_size=1)
    assert "two training samples or more" in error_of([1, 20], BatchNorm((6,), 3), last_batch="drop")
    # Of three mini-batches an epoch has, two steps take the first ones alone.
    assert error_of([41], BatchNorm((6,), 3), local_steps=2) == ""
    assert error_of([41], BatchNorm((6,), 3), local_steps=3) != ""


def test_whether_one_sample_is_too_few_is_tried_out() -> None:
    assert error_of([21], small_module()) == ""
    assert error_of([21], ImageNorm(3, kernel=1), (1, 3, 3)) == ""
    assert "more than 1 value per channel" in error_of([21], ImageNorm(3, kernel=3), (1, 3, 3))


@pytest.mark.parametrize(
    ("how", "why"), [("squeezed", "its output has shape [3], not [1, 3]"), ("standardised", "its output is not finite")]
)
def test_a_model_that_raises_nothing_may_fail_on_one_sample_too(how: str, why: str) -> None:
    text = error_of([1, 20], OfOne((6,), 3, how), last_batch="drop")
    assert f"which this model cannot train on ({why}): take a model that trains on a single sample, or give" in text
    assert "batch-norm" not in text
    assert "without batch-norm" in error_of([1, 20], BatchNorm((6,), 3), last_batch="drop")


def test_fewer_than_max_failures_are_told_of_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert error_of([21, 20, 20], BatchNorm((6,), 3), failures=0.5) == ""
    assert "client 0 (21 training samples)" in caplog.text
    assert "left out of every round" in caplog.text
