"""Networks for series, token ids and tables, beside torch's own modules and what is worked out by hand."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

import fedtl
from fedtl.choice import ConfigError
from fedtl.data.samples import FewSamples
from fedtl.engine import refusal
from fedtl.engine.choice import choose_engine
from fedtl.export.file import load_exported, write_safetensors
from fedtl.export.of_run import model_of_run
from fedtl.models import MODELS, build_model, read_model
from fedtl.models.head import features_and_logits, head_name
from fedtl.models.recurrent import GRU, LSTM
from fedtl.models.sequences import pooled
from fedtl.tasks import read_task
from tests.parts import SUITED, engine_of, federation_of, federation_suited, update_of, whole_numbers


def build(name: str, shape: tuple[int, ...], classes: int = 3, seed: int = 0, **options: object) -> nn.Module:
    task = read_task("next_token" if options.get("per_token") else "classification")
    return build_model(read_model({"name": name, **options}), shape, classes, seed, task=task)


def samples(shape: tuple[int, ...], n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if len(shape) == 1:
        return torch.randint(0, 9, (n, *shape), generator=generator).float()
    return torch.randn(n, *shape, generator=generator)


def refused(table: dict[str, Any], federation: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build_model(read_model(table), federation.shape, 3, 0, FewSamples.of(federation))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_models_without_images_are_tested_here() -> None:
    assert {"cnn", "cnn-bn", "lenet5", "logistic", "mlp", "resnet18-gn"} == set(MODELS) - SUITED.keys()


@pytest.mark.parametrize("name", SUITED)
def test_logits_are_the_heads_of_the_features(name: str) -> None:
    options, shape = SUITED[name]
    module, x = build(name, shape, **options), samples(shape)
    features, logits = features_and_logits(module, x)
    assert head_name(module) == "head"
    assert logits.shape == (4, 3)
    assert features.shape == (4, module.head.in_features)  # type: ignore[union-attr]
    assert torch.equal(module.features(x), features)  # type: ignore[operator]
    assert torch.equal(module.head(features), logits)  # type: ignore[operator]
    assert torch.equal(build(name, shape, **options)(x), logits)
    assert not torch.equal(build(name, shape, seed=1, **options)(x), logits)


@pytest.mark.parametrize("name", ["gru", "lstm", "transformer"])
def test_each_position_has_logits_that_depend_on_nothing_later(name: str) -> None:
    module, x = build(name, (5,), classes=9, per_token=True), samples((5,))
    logits = module(x)
    assert logits.shape == (4, 5, 9)
    later = x.clone()
    later[..., 3] = 8 - later[..., 3]
    other = module(later)
    torch.testing.assert_close(other[:, :3], logits[:, :3])
    for position in (3, 4):
        assert not torch.allclose(other[:, position], logits[:, position])


# --- recurrent --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GRU, LSTM])
@pytest.mark.parametrize("layers", [1, 2])
def test_stacked_cells_are_torchs(kind: type[GRU | LSTM], layers: int) -> None:
    torch.manual_seed(0)
    mine = [kind(3, 4, layers, batch_first=True) for _ in range(2)]
    theirs = [kind.__base__(3, 4, layers, batch_first=True) for _ in mine]  # type: ignore[misc]
    for own, their in zip(mine, theirs):
        their.load_state_dict(own.state_dict())
    weights = {name: tensor.detach().requires_grad_() for name, tensor in stack_module_state(mine)[0].items()}
    x, blank = torch.randn(2, 5, 6, 3), copy.deepcopy(mine[0])
    outputs = vmap(lambda weights, x: functional_call(blank, weights, (x,)))(weights, x)
    outputs.square().sum().backward()
    for client, (own, their) in enumerate(zip(mine, theirs)):
        expected, _ = their(x[client])
        assert torch.equal(own(x[client]), expected)
        torch.testing.assert_close(outputs[client], expected)
        expected.square().sum().backward()
        for name, parameter in their.named_parameters():
            assert weights[name].grad is not None
            torch.testing.assert_close(weights[name].grad[client], parameter.grad, rtol=1e-4, atol=1e-5)


def test_padding_counts_in_no_pool() -> None:
    h = torch.randn(3, 4, 2)
    real = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    last, mean = pooled(h, real, "last"), pooled(h, real, "mean")
    torch.testing.assert_close(last, torch.stack([h[0, 1], h[1, 3], h[2, 0]]))
    torch.testing.assert_close(mean, torch.stack([h[0, :2].mean(0), h[1].mean(0), torch.zeros(2)]))
    assert torch.equal(pooled(h, None, "last"), h[:, 3])
    assert torch.equal(pooled(h, None, "mean"), h.mean(1))


@pytest.mark.parametrize("name", ["gru", "lstm", "transformer"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_sentence_means_the_same_with_padding(name: str, pooling: str) -> None:
    module = build(name, (6,), vocabulary=9, padding=0, pooling=pooling)
    x = 1 + samples((6,)).remainder(8)
    x[:, 4:] = 0
    torch.testing.assert_close(module(x), module(x[:, :4]))
    assert module(torch.zeros(1, 6)).isfinite().all()


# --- transformer ------------------------------------------------------------------------------------------


def as_torchs(block: nn.Module, width: int, heads: int) -> nn.TransformerEncoderLayer:
    """Torch's layer with the same weights."""
    layer = nn.TransformerEncoderLayer(width, heads, 12, 0.0, F.gelu, batch_first=True, norm_first=True)
    names = {
        "attention.qkv": "self_attn.in_proj_",
        "attention.out": "self_attn.out_proj.",
        "feed_forward.0": "linear1.",
        "feed_forward.2": "linear2.",
        "norm1": "norm1.",
        "norm2": "norm2.",
    }
    state = {names[name.rpartition(".")[0]] + name.rpartition(".")[2]: t for name, t in block.state_dict().items()}
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize("per_token", [False, True])
def test_the_transformer_is_torchs(per_token: bool) -> None:
    options = {"vocabulary": 9, "width": 8, "heads": 2, "hidden": 12, "padding": 0, "per_token": per_token}
    module, x = build("transformer", (5,), **options), samples((5,))
    x[0, 3:], x[1, :2] = 0, 0
    features: Any = module.features
    h = features.entry.words(x.long()) * (x != 0)[..., None] + features.positions
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if per_token else torch.zeros(5, 5, dtype=torch.bool)
    each = (mask | (x == 0)[:, None, :]) & ~torch.eye(5, dtype=torch.bool)
    for block in features.blocks:
        h = as_torchs(block, 8, 2).train()(h, src_mask=each.repeat_interleave(2, 0))
    h = features.norm(h)
    if not per_token:
        h = (h * (x != 0)[..., None]).sum(1) / (x != 0).sum(1, keepdim=True)
    torch.testing.assert_close(module(x), module.head(h))  # type: ignore[operator]


# --- convolutions and tables ------------------------------------------------------------------------------


def test_textcnn_by_hand() -> None:
    module, x = build("textcnn", (5,), vocabulary=9, width=2, channels=2, widths=[2, 3]), samples((5,), 2)
    features: Any = module.features
    table = features.tokens.words.weight
    expected = torch.zeros(2, 4)
    for row, (place, words) in itertools.product(range(2), enumerate((2, 3))):
        layer = features.convolutions[place]
        for channel in range(2):
            windows = [
                sum(layer.weight[channel, :, i] @ table[int(x[row, start + i])] for i in range(words))
                + layer.bias[channel]
                for start in range(5 - words + 1)
            ]
            expected[row, 2 * place + channel] = torch.stack([torch.zeros(()), *windows]).amax().detach()
    torch.testing.assert_close(module.features(x), expected)  # type: ignore[operator]


def test_cnn1d_by_hand() -> None:
    module, x = build("cnn1d", (2, 5), channels=[3], kernel=3), samples((2, 5), 2)
    weight, bias = module.features[0].weight, module.features[0].bias  # type: ignore[index,union-attr]
    padded = F.pad(x, (1, 1))
    conv = torch.stack(
        [torch.einsum("ncj,kcj->nk", padded[:, :, t : t + 3], weight) + bias for t in range(5)],
        2,
    )
    halves = torch.stack([conv[:, :, :2].amax(2), conv[:, :, 2:4].amax(2)], 2)
    torch.testing.assert_close(module.features(x), halves.relu().mean(2))  # type: ignore[operator]


def test_categories_are_rows_of_their_tables() -> None:
    module, x = build("tabular-mlp", (4,), categorical={"2": 3, "0": 2}, width=2, hidden=[]), samples((4,))
    x[:, 0], x[:, 2] = x[:, 0].remainder(2), x[:, 2].remainder(3)
    tables = module.features[0].categories  # type: ignore[index,union-attr]
    one_hot = [F.one_hot(x[:, column].long(), n).float() for column, n in ((2, 3), (0, 2))]
    expected = torch.cat(
        [x[:, [1, 3]], one_hot[0] @ tables["2"].weight, one_hot[1] @ tables["0"].weight],
        1,
    )
    torch.testing.assert_close(module.features(x), expected)  # type: ignore[operator]


# --- what the data must be --------------------------------------------------------------------------------


def test_what_they_do_not_take_is_said() -> None:
    series, ids = federation_of([9], shape=(2, 6)), whole_numbers(federation_of([9], shape=(6,)), 9)
    half = replace(ids, scale=np.full((), 0.5, np.float32))
    as_bytes = replace(half, x=half.x.astype(np.uint8))
    assert "series [channels, T], but a sample has shape [6]" in refused({"name": "cnn1d"}, ids)
    assert "max-pools of 2 leave nothing of 6" in refused({"name": "cnn1d", "channels": [2, 2, 2]}, series)
    assert refused({"name": "gru"}, ids).startswith("model.vocabulary is missing: samples of shape [6]")
    assert "are series, not token ids" in refused({"name": "gru", "vocabulary": 9}, series)
    assert "model.padding = 0: samples of shape [2, 6] are series" in refused({"name": "gru", "padding": 0}, series)
    assert "token ids [T], but" in refused({"name": "textcnn", "vocabulary": 9}, series)
    assert "no greater width" in refused({"name": "textcnn", "vocabulary": 9, "widths": [7]}, ids)
    for name in ("gru", "textcnn"):
        assert "they should go from 0 to 6" in refused({"name": name, "vocabulary": 7}, ids)
        assert 'set data.normalise = "none"' in refused({"name": name, "vocabulary": 9}, half)
        assert "store them as int64" in refused({"name": name, "vocabulary": 9}, as_bytes)
    floats = federation_of([9], shape=(6,))
    assert "are no whole ones" in refused({"name": "lstm", "vocabulary": 9}, floats)
    late = whole_numbers(federation_of([40], shape=(6,)), 9)
    late.x[30, 2] += 0.5  # behind those that a model is tried out on
    assert "are no whole ones" in refused({"name": "textcnn", "vocabulary": 10}, late)
    assert "rows of a table" in refused({"name": "tabular-mlp"}, series)
    assert "only 6 columns" in refused({"name": "tabular-mlp", "categorical": {"6": 9}}, ids)
    assert "from 0 to 7" in refused({"name": "tabular-mlp", "categorical": {"1": 8}}, ids)
    for table, why in (
        ({"name": "tabular-mlp", "categorical": {"ward": 3}}, "'ward' should be a column's number"),
        ({"name": "tabular-mlp", "categorical": {"3": 3, "03": 5}}, "a column is named twice"),
        ({"name": "transformer", "heads": 3}, "heads = 3 should be a divisor of width = 64"),
        ({"name": "lstm", "vocabulary": 9, "padding": 9}, "padding = 9 should be below vocabulary = 9"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_model(table)


# --- engines and files ------------------------------------------------------------------------------------


def test_which_engine() -> None:
    """An LSTM is one operation one by one; an embedding with a padding_idx has wrong gradients in a stack."""
    federation = federation_of([20] * 8, shape=(2, 4))
    for name, stacked in (("gru", True), ("lstm", False)):
        task = engine_of(federation, build(name, (2, 4), hidden=32)).task
        chosen = choose_engine("auto", "auto", task, update_of("fedavg", lr=0.1, batch_size=10), "cpu", 8)
        assert chosen.traced
        assert chosen.stacked == stacked or "would depend on the stack" in chosen.because

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 3, padding_idx=0), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.words(x.long()).mean(1))
            return out

    assert "'words' has a padding_idx" in (refusal(Words(), (5,)) or "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    federation = federation_suited("textcnn", [40, 40])
    owners = np.arange(len(federation.y)) % 2
    np.savez(folder / "texts.npz", x=federation.x.astype(np.int64), y=federation.y, user=owners)
    config = {
        "name": "texts",
        "rounds": 2,
        "data": {"name": "npz", "path": str(folder / "texts.npz"), "normalise": "none"},
        "model": {"name": "transformer", **SUITED["transformer"][0]},
        "strategy": {"name": "fedper", "lr": 0.1, "local_steps": 2, "batch_size": 10},
        "simulation": {"grid": "in-process"},
    }
    run = fedtl.run(config, out=folder / "run")
    assert run.last()["personal/clients"].value > 0
    return folder / "run"


def test_tokens_that_are_not_predicted_are_none_in_a_trace(tmp_path: Path) -> None:
    """Also where the samples that a step is tried out on have all their tokens."""
    rng, runs = np.random.default_rng(0), list[fedtl.Run]()
    x = rng.integers(0, 9, (60, 4))
    y = np.roll(x, -1, 1)
    y[20:, 2:] = -100
    np.savez(tmp_path / "tokens.npz", x=x, y=y, user=np.repeat([0, 1], 30))
    for traced in (False, True):
        config = {
            "name": "tokens",
            "rounds": 1,
            "data": {"name": "npz", "path": str(tmp_path / "tokens.npz"), "normalise": "none", "task": "next_token"},
            "model": {"name": "gru", "hidden": 4, "width": 3},
            "strategy": {"name": "fedavg", "lr": 0.5, "local_epochs": 1, "batch_size": 10},
            "simulation": {"grid": "in-process", "stacked": False, "traced": traced},
        }
        runs.append(fedtl.run(config, out=tmp_path / str(traced)))
    for one, other in zip(*(run.state_dict().values() for run in runs)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    write_safetensors(exported := model_of_run(runs[0].path), tmp_path / "m.safetensors")
    module, frame, _ = load_exported(tmp_path / "m.safetensors")
    assert module(samples((4,))).shape == (4, 4, frame.outputs)
    assert torch.equal(module(samples((4,))), exported.module(samples((4,))))


def test_a_run_is_exported(trained: Path, tmp_path: Path) -> None:
    exported = model_of_run(trained, client=1)
    write_safetensors(exported, tmp_path / "m.safetensors")
    module, frame, about = load_exported(tmp_path / "m.safetensors")
    x = samples((5,))
    assert (frame.shape, about.model["name"]) == ((5,), "transformer")
    assert torch.equal(module(x), exported.module(x))
