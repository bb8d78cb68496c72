"""Models whose backward pass looks at their parameters anew, hooks of gradients, and TorchScript."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fedtl
from fedtl.choice import ConfigError
from fedtl.engine.choice import refusal
from fedtl.engine.stale import WHY
from fedtl.models import MODELS, build_model, read_model
from tests.parts import SUITED, OneByOne, engine_of, federation_of, train_cohort, update_of


class Net(nn.Module):
    def __init__(self, input_shape: tuple[int, ...] = (6,), classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(input_shape[0], 4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x)))
        return logits


class Checkpointed(Net):
    """Computes its features once more on the way back."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(checkpoint(lambda x: torch.tanh(self.body(x)), x, use_reentrant=False))
        return logits


class Hooked(Net):
    """Scales a gradient by what its head is."""

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.body(x))
        if features.requires_grad:
            features.register_hook(lambda g: g * self.head.weight.abs().mean())
        logits: Tensor = self.head(features)
        return logits


class Keeps(torch.autograd.Function):
    """Likewise, as a function that keeps a layer."""

    @staticmethod
    def forward(x: Tensor, layer: nn.Linear) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, nn.Linear], output: Tensor) -> None:
        ctx.layer = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return g * ctx.layer.weight.detach().abs().mean(), None


class Keeping(Net):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(Keeps.apply(torch.tanh(self.body(x)), self.head))  # type: ignore[no-untyped-call]
        return logits


STALE = [Checkpointed, Hooked, Keeping]


@pytest.mark.parametrize("model", STALE)
def test_its_gradients_are_torchs_where_steps_are_to_be_traced(model: Callable[[], nn.Module]) -> None:
    federation = federation_of([8])
    update = update_of("fedavg", lr=0.5, local_steps=6, batch_size=0)
    torch.manual_seed(0)
    module = model()
    engine = engine_of(federation, module, lambda task: OneByOne(task, traced=True))
    layout = engine.task.layout
    torch.manual_seed(0)
    own = model()
    optimizer = torch.optim.SGD(own.parameters(), lr=0.5)
    x, y = (torch.from_numpy(array[federation.train[0]]) for array in (federation.x, federation.y))
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(x), y).backward()
        optimizer.step()
    w = layout.flatten(engine.task.module)
    (outcome,) = train_cohort(engine, update, w, [0], [{}], 1)
    torch.testing.assert_close(outcome.uploads["w"], layout.flatten(own), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    assert WHY in (refusal(model(), (6,)) or "") or model is Keeping


@pytest.mark.parametrize("model", STALE)
def test_a_run_chooses_what_follows_the_parameters_and_says_why(model: type, tmp_path: Path) -> None:
    run = fedtl.run(tables(model.__name__), out=tmp_path / "run")
    assert run.environment["engine"] == "one by one, not traced"
    assert WHY in run.environment["engine_because"]


def tables(name: str) -> dict[str, Any]:
    return {
        "name": "stale",
        "rounds": 1,
        "data": {"name": "made", "clients": 2, "dimension": 6},
        "model": {"name": f"tests.unit.test_stale:{name}"},
        "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 1},
        "simulation": {"grid": "in-process"},
    }


@pytest.mark.parametrize("name", MODELS)
def test_no_model_of_ours_is_refused_for_that(name: str) -> None:
    options, shape = SUITED.get(name, ({}, (1, 16, 16)))
    module = build_model(read_model({"name": name, **options}), shape, 3, seed=0)
    assert WHY not in (refusal(module, shape) or "")


def masked(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = Net(input_shape, classes)
    net.body.weight.register_hook(lambda g: 0 * g)
    return net


def accumulating(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = Net(input_shape, classes)
    net.body.weight.register_post_accumulate_grad_hook(lambda p: None)
    return net


def scripted(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    module: nn.Module = torch.jit.script(Net(input_shape, classes))
    return module


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("masked", "its parameter 'body.weight' has a hook for its gradient"),
        ("accumulating", "its parameter 'body.weight' has a hook for its gradient"),
        ("scripted", "gives a TorchScript module"),
    ],
)
def test_what_training_would_leave_out_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        fedtl.run(tables(name), out=tmp_path / "run")
