"""What a trial of a user's own model lets through, refuses and leaves as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.choice import ConfigError
from fedtl.data.samples import FewSamples
from fedtl.models import build_model, read_model, trial
from fedtl.models.generators import generators_of, seeded
from tests.trial_models import Keeps, Lazy


def few_of(kind: str) -> FewSamples:
    """Whole numbers as a model sees them: bytes over 255, or normalised."""
    stored = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 1, 6, 6)).astype(np.float32))
    x = stored / 255
    if kind == "normalised":
        x = (x - 0.1307) / 0.3081
    return FewSamples(cast("Any", SimpleNamespace(x=stored.numpy().astype(np.uint8))), stored, x)


def built(
    name: str, few: FewSamples | None = None, shape: tuple[int, ...] = (5,), seed: int = 0, **o: Any
) -> nn.Module:
    return build_model(read_model({"name": f"tests.trial_models:{name}", **o}), shape, 2, seed, few)


@pytest.mark.parametrize("kind", ["bytes", "normalised"])
@pytest.mark.parametrize("how", ["spectrum", "complex", "positions", "decision", "bins", "mask", "binarised"])
def test_numbers_that_a_model_computes_may_be_made_whole(how: str, kind: str) -> None:
    built("Computes", few_of(kind), (1, 6, 6), how=how)


@pytest.mark.parametrize("kind", ["bytes", "normalised"])
@pytest.mark.parametrize("how", ["long", "int", "first", "round", "floor"])
def test_the_input_s_own_fractions_may_not(how: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"makes whole numbers of its input.*x = x\.long\(\)"):
        built("Looks", few_of(kind), (1, 6, 6), how=how)


def test_lazy_layers_begin_with_what_the_seed_s_generator_draws_next() -> None:
    for seed in (0, 7):
        with seeded(seed):
            expected = Lazy(2)
            expected(torch.zeros(2, 5))
        state = built("Lazy", seed=seed).state_dict()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(state[name], tensor)
    one, other = (built("Lazy", seed=seed).state_dict()["inner.weight"] for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("what", ["list", "dict", "object", "method"])
def test_generators_anywhere_in_a_module_are_seeded(what: str) -> None:
    module = built("Keeps", what=what)
    x = torch.ones(2, 5)
    outputs = []
    for _ in range(2):
        with seeded(3, generators_of(module)):
            outputs.append(module(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("what", ["counter", "counter in evaluation", "tensor"])
def test_what_a_model_would_carry_from_client_to_client_is_refused(what: str) -> None:
    with pytest.raises(ConfigError, match=r"it makes something else each time.*in a buffer of float32"):
        built("Keeps", what=what)


@pytest.mark.parametrize("what", ["unused counter", "buffer"])
def test_what_no_number_depends_on_or_the_vector_holds_is_not(what: str) -> None:
    built("Keeps", what=what)


def test_a_buffer_that_is_assigned_anew_would_not_travel() -> None:
    with pytest.raises(ConfigError, match=r"its buffer 'mean' anew.*by self\.mean\.copy_"):
        built("Keeps", what="rebound buffer")


def test_a_model_that_cannot_be_copied_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot be copied, as each client's training needs: TypeError"):
        built("Keeps", what="lock")


def test_a_process_tries_the_same_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    monkeypatch.setattr(trial, "TRIED", {})
    monkeypatch.setattr(trial, "deepcopy", lambda module: copies.append(module) or module)
    for seed in (0, 1):
        built("Keeps", what="buffer", seed=seed)
    assert len(copies) == 1
    built("Keeps", what="unused counter")
    assert len(copies) == 2


def test_a_trial_leaves_the_model_s_numbers_as_they_are() -> None:
    with seeded(0):
        expected = Keeps((5,), 2, "buffer").state_dict()
    state = built("Keeps", what="buffer").state_dict()
    assert torch.equal(state["head.weight"], expected["head.weight"])
