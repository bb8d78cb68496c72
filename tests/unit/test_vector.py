"""A model as a vector: where its tensors lie, and that a wide linear layer's weight lies there as [in, out]."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.models.vector import WIDE, Binding, Layout
from fedtl.runs.checkpoint import ORDER, Checkpoint, CheckpointHeader, load_checkpoint, write_checkpoint
from tests.parts import ENGINES, METHODS, EngineKind, engine_for, federation_of, receive_first, train_cohort, update_of


class OwnForward(nn.Linear):
    """A linear layer that reads its weight in a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.view(-1).view(self.out_features, -1).T


class Tied(nn.Module):
    """One weight of an embedding and of the layer that reads it backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(WIDE, 6), nn.Linear(6, WIDE, bias=False)
        self.last.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.words(x))
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "wide": lambda: nn.Linear(6, WIDE),
    "narrow": lambda: nn.Linear(6, WIDE - 1),
    "with a forward pass of its own": lambda: OwnForward(6, WIDE),
    "tied": Tied,
    "attention": lambda: nn.MultiheadAttention(WIDE, 2),
    "convolution": lambda: nn.Conv2d(2, WIDE, 3),
}
TURNED = {"wide": {"weight"}}


@pytest.mark.parametrize("kind", MODELS)
def test_only_wide_layers_that_read_their_weight_as_torch_does_are_turned(kind: str) -> None:
    layout = Layout.of(MODELS[kind]())
    assert {slot.name for slot in layout.slots if slot.transposed} == TURNED.get(kind, set())


class MoreState(nn.Linear):
    """Its state_dict has more than parameters and buffers."""

    def __init__(self, state: object) -> None:
        super().__init__(6, 3)
        self.state = state

    def get_extra_state(self) -> object:
        return self.state

    def set_extra_state(self, state: object) -> None:
        self.state = state


def test_a_state_that_is_no_tensor_is_refused_before_a_run_rather_than_at_its_end() -> None:
    with pytest.raises(ConfigError, match=r"^model: '1\._extra_state' in its state_dict is of type dict, and a run's"):
        Layout.of(nn.Sequential(nn.Linear(6, 6), MoreState({"k": 3})))
    assert Layout.of(MoreState(torch.ones(2))).parameters == 21


def network() -> nn.Module:
    """A wide layer, batch-norm, a frozen wide layer and a narrow head."""
    module = nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Linear(40, 33), nn.Tanh(), nn.Linear(33, 3))
    module[2].requires_grad_(False)
    return module


def test_what_is_taken_out_of_a_vector_is_what_was_put_in() -> None:
    module, other = network(), network()
    layout = Layout.of(module)
    w = layout.flatten(module)
    assert torch.equal(w[: 6 * 40], module[0].weight.detach().T.reshape(-1))
    layout.load(other, w)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    wide = other[0].weight
    assert wide.T.is_contiguous()  # as in the vector, whatever the module was before
    P = layout.parameters
    views = layout.views(w[:P]) | layout.buffer_views(w[P:])
    for slot in layout.slots:
        assert views[slot.name].shape == slot.shape
        assert torch.equal(views[slot.name], module.state_dict()[slot.name])
        views[slot.name].add_(1)  # views: they share the vector's memory
    assert torch.equal(w, layout.flatten(module) + 1)
    stack = torch.stack([w, 2 * w])
    for name, view in layout.views(stack[:, :P]).items():
        assert torch.equal(view[1], 2 * view[0]), name
    assert torch.equal(layout.flat(layout.views(stack[:, :P]).values()), stack[:, :P])
    assert torch.equal(layout.flat(layout.buffer_views(stack[:, P:]).values(), buffers=True), stack[:, P:])


def test_a_binding_moves_to_a_vector_without_a_copy() -> None:
    module = network()
    layout = Layout.of(module)
    binding, w = Binding(module, layout), layout.flatten(module) + 0.5
    binding.to(w[: layout.parameters])
    assert torch.equal(module[0].weight, layout.views(w[: layout.parameters])["0.weight"])
    w[0] = 7
    assert module[0].weight[0, 0] == 7


@pytest.mark.parametrize("method", METHODS)
def test_engines_train_a_wide_model_alike_and_as_its_narrow_twin(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned or not, each client's model is the same up to rounding: on every engine, for every method."""

    def models(kind: EngineKind) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Flatten(), nn.Linear(6, WIDE), nn.Tanh(), nn.Linear(WIDE, 3))
        engine = receive_first(engine_for(method, federation_of([12, 9]), module, kind), method, **METHODS[method])
        layout = engine.task.layout
        update = update_of(method, layout, **METHODS[method], batch_size=5)
        outcomes = train_cohort(engine, update, layout.flatten(engine.task.module), [0, 1], [{}, {}], 1)
        vectors = [o.uploads.get("w", next(iter(o.memory.values()), None)) for o in outcomes]  # type: ignore[union-attr]
        return [torch.cat([view.reshape(-1) for view in layout.views(vector).values()]) for vector in vectors]

    turned = {name: models(kind) for name, kind in ENGINES.items()}
    monkeypatch.setattr("fedtl.models.vector.WIDE", 10**9)
    plain = models(ENGINES["one by one"])
    for name, vectors in turned.items():
        for ours, theirs in zip(vectors, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_a_run_of_a_version_with_another_order_is_one_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    w = torch.zeros(3).numpy()
    header = write_checkpoint(tmp_path, Checkpoint(1, w, {}, 1.0), None, {})
    assert header.order == ORDER
    load_checkpoint(tmp_path, header)
    older = CheckpointHeader(header.round, header.tensors, header.elapsed, order=1)
    with pytest.raises(ConfigError, match=r"is a run of another version of fedtl.*or begin a new run$"):
        load_checkpoint(tmp_path, older)
