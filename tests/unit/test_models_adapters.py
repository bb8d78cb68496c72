"""Adapters: what they compute, what of them travels, and weights to begin with that have another head."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import fedtl
from fedtl.choice import ConfigError
from fedtl.data.torchvision_ops import import_torchvision
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Trained
from fedtl.engine.task import BUFFERS
from fedtl.export.file import load_exported, write_safetensors
from fedtl.export.of_run import model_of_run
from fedtl.models import build_model, read_model
from fedtl.models.adapter_settings import read_adapter
from fedtl.models.adapters import Bottleneck, LoRAAttention, LoRALinear, frozen_by_adapter, insert, merged
from tests.parts import ENGINES, SUITED, engine_of, federation_suited, train_cohort, update_of

TEXTS, SMALL = (5,), {"name": "transformer", **SUITED["transformer"][0]}
WORDS = torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(0)).float()
LORA: dict[str, Any] = {"name": "lora", "rank": 2, "alpha": 3.0}
BOTTLENECK: dict[str, Any] = {"name": "adapter", "width": 3}


def build(adapter: object = None, classes: int = 3, seed: int = 0, **options: object) -> nn.Module:
    return build_model(read_model({**SMALL, "adapter": adapter, **options}), TEXTS, classes, seed)


def stirred(module: nn.Module) -> nn.Module:
    """With random numbers in place of an adapter's zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora" in name or "adapter" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def encoder(width: int = 8) -> nn.Module:
    """Torch's own layer, between two linear ones."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, 2, 12, 0.0, batch_first=True)
    return nn.Sequential(nn.Linear(3, width), layer, nn.Flatten(), nn.Linear(4 * width, 3))


def vision(**device: str) -> nn.Module:
    """Torchvision's ViT with one small block, which has torch's attention and an MLP."""
    torch.manual_seed(0)
    kind = import_torchvision().models.VisionTransformer
    module: nn.Module = kind(8, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3)
    nn.init.normal_(module.heads.head.weight)  # type: ignore[union-attr,arg-type]
    return module.eval()


OF_TORCH: dict[str, tuple[Any, Tensor, tuple[str, ...]]] = {
    "encoder": (encoder, torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(2)), ("self_attn", "linear2")),
    "vision": (vision, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)), ("self_attention", "mlp")),
}


@pytest.mark.parametrize("table", [LORA, BOTTLENECK], ids=["lora", "adapter"])
def test_at_first_the_function_is_the_networks(table: dict[str, Any]) -> None:
    assert torch.equal(build(table)(WORDS), build()(WORDS))
    assert not torch.allclose(stirred(build(table))(WORDS), build()(WORDS))
    assert torch.equal(stirred(build(table, seed=3))(WORDS), stirred(build(table, seed=3))(WORDS))
    for make, x, layers in OF_TORCH.values():
        plain, module = make().eval(), make().eval()
        insert(module, read_adapter({**table, "layers": layers if table is BOTTLENECK else ()}), x)
        torch.testing.assert_close(module(x), plain(x))
        assert not torch.allclose(stirred(module)(x), plain(x))


# --- LoRA -------------------------------------------------------------------------------------------------


def test_products_are_added_to_weights() -> None:
    module, plain = stirred(build(LORA)), build()
    scale = 3.0 / 2
    added = 0
    for name, part in module.named_modules():
        if isinstance(part, LoRALinear):
            with torch.no_grad():
                plain.get_submodule(name).weight += scale * part.lora_b @ part.lora_a  # type: ignore[operator]
            added += 1
    assert added == 4  # of one block; the head trains by itself
    torch.testing.assert_close(plain(WORDS), module(WORDS))
    torch.testing.assert_close(merged(copy.deepcopy(module))(WORDS), module(WORDS))
    assert merged(module).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", OF_TORCH)
def test_torchs_attention_has_products_in_and_out(name: str) -> None:
    make, x, _ = OF_TORCH[name]
    module, plain, x = make().double(), make().double(), x.double()
    insert(module, read_adapter(LORA), x)
    stirred(module)
    kinds = {name: type(part) for name, part in module.named_modules() if isinstance(part, (LoRALinear, LoRAAttention))}
    assert [*kinds.values()].count(LoRAAttention) == 1
    assert len(kinds) == 3 + (name == "encoder")  # the attention, two layers of an MLP, and an embedding
    for path in kinds:
        part, its = module.get_submodule(path), plain.get_submodule(path)
        with torch.no_grad():
            if isinstance(part, LoRALinear):
                its.weight += 1.5 * part.lora_b @ part.lora_a  # type: ignore[operator]
            elif isinstance(part, LoRAAttention):
                its.in_proj_weight += 1.5 * part.lora_b @ part.lora_a  # type: ignore[operator]
                its.out_proj.weight += 1.5 * part.lora_out_b @ part.lora_out_a  # type: ignore[operator,union-attr]
    expected = plain.train()(x)
    torch.testing.assert_close(module.train()(x), expected)
    with torch.no_grad():  # where torch has a path of its own that reads weights at once
        torch.testing.assert_close(module.eval()(x), expected)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(module.train()(x).square().sum(), trained)
    assert all(each.abs().max() > 0 for each in gradient)
    torch.testing.assert_close(merged(module)(x), expected)


def test_a_vit_by_shape() -> None:
    with torch.device("meta"):
        networks = [import_torchvision().models.vit_b_16(num_classes=10) for _ in range(2)]
        x = torch.zeros(2, 3, 224, 224)
        insert(networks[0], read_adapter({"name": "lora", "rank": 4}), x)
        insert(networks[1], read_adapter({"name": "adapter", "width": 16, "layers": ["self_attention", "mlp"]}), x)
    head, each = 768 * 10 + 10, {}
    for kind, network in zip(("lora", "adapter"), networks):
        each[kind] = {name: p for name, p in network.named_parameters() if p.requires_grad}
        assert network(x).shape == (2, 10)
        assert {name for name in each[kind] if "encoder_layer" not in name} == {"heads.head.weight", "heads.head.bias"}
    attention, mlp = 4 * (768 + 3 * 768) + 4 * (768 + 768), 2 * 4 * (768 + 3072)
    assert sum(p.numel() for p in each["lora"].values()) == 12 * (attention + mlp) + head
    bottleneck = 2 * 768 * 16 + 16 + 768
    assert sum(p.numel() for p in each["adapter"].values()) == 12 * 2 * bottleneck + head
    assert sum(p.numel() for p in networks[0].parameters() if not p.requires_grad) == 86_567_656 - 768 * 1000 - 1000


# --- bottlenecks ------------------------------------------------------------------------------------------


def test_a_bottleneck_follows_its_layer() -> None:
    module, plain = stirred(build(BOTTLENECK)), build()
    own: Any = module.features.blocks[0]  # type: ignore[union-attr,index]

    def through(layer: Bottleneck, h: Tensor) -> Tensor:
        return h + F.gelu(h @ layer.down.weight.t() + layer.down.bias) @ layer.up.weight.t() + layer.up.bias

    block: Any = plain.features.blocks[0]  # type: ignore[union-attr,index]
    block.attention.register_forward_hook(lambda part, inputs, output: through(own.attention.adapter, output))
    block.feed_forward.register_forward_hook(lambda part, inputs, output: through(own.feed_forward.adapter, output))
    torch.testing.assert_close(module(WORDS), plain(WORDS))


# --- what trains and travels ------------------------------------------------------------------------------


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    insert(module, read_adapter({"name": "lora", "layers": ["3"]}), torch.randn(5, 3))
    before = copy.deepcopy(module.state_dict())
    module.train()(3 + torch.randn(5, 3)).sum().backward()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert {name for name, p in module.named_parameters() if p.grad is not None} == {
        *("3.lora_a", "3.lora_b", "4.weight", "4.bias")
    }
    assert {"1.running_mean", "0.weight", "3.weight"} < frozen_by_adapter(module)


class Reads(nn.Module):
    """A network that reads a layer's weights, as torchvision's Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.called(F.linear(x, self.read.weight)))
        return out


def test_a_layer_that_is_never_called_has_no_products() -> None:
    module = Reads()
    insert(module, read_adapter(LORA), torch.randn(5, 3))
    assert {name for name, p in module.named_parameters() if p.requires_grad and "lora" in name} == {
        *("called.lora_a", "called.lora_b")
    }
    with pytest.raises(ConfigError, match=r"model\.adapter\.layers: the model Reads never calls its layer 'read'"):
        insert(Reads(), read_adapter({**LORA, "layers": ["read"]}), torch.randn(5, 3))


@pytest.mark.parametrize("table", [LORA, BOTTLENECK], ids=["lora", "adapter"])
def test_engines_agree(table: dict[str, Any]) -> None:
    federation, uploads = federation_suited("transformer", [7, 20, 23]), list[Tensor]()
    for kind in ENGINES.values():
        engine = engine_of(federation, build(table), kind)
        w = engine.task.layout.flatten(engine.task.module)
        outcomes = train_cohort(engine, update_of("fedavg", lr=0.1, batch_size=10), w, range(3), [{}] * 3, 1)
        assert engine.tracer is None or engine.tracer.replays_all
        assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
        uploads.append(torch.stack([outcome.uploads["w"] for outcome in outcomes]))  # type: ignore[union-attr]
    P = engine.task.layout.parameters
    assert torch.equal(uploads[0][:, P:], w[P:].expand(3, -1))
    assert (uploads[0][:, :P] - w[:P]).abs().max() > 1e-3
    for other in uploads[1:]:
        torch.testing.assert_close(other, uploads[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, federation = tmp_path_factory.mktemp("texts"), federation_suited("transformer", [30, 30, 30])
    owners = np.arange(len(federation.y)) % 3
    np.savez(folder / "texts.npz", x=federation.x.astype(np.int64), y=federation.y, user=owners)
    return folder / "texts.npz"


def config_of(texts: Path, method: str, **model: object) -> dict[str, Any]:
    options = {"lam": 0.5} if method == "ditto" else {}
    return {
        "name": "adapted",
        "rounds": 2,
        "data": {"name": "npz", "path": str(texts), "normalise": "none"},
        "model": {**SMALL, **model},
        "strategy": {"name": method, "lr": 0.1, "local_steps": 3, "batch_size": 10, **options},
        "evaluate": {"personal": "stored"},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},  # no engine is tried out
    }


@pytest.fixture(scope="module")
def first(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    """A run of the whole network, which the others begin with."""
    return fedtl.run(config_of(texts, "fedavg"), out=tmp_path_factory.mktemp("first") / "run")


def test_the_adapter_and_the_head_alone_travel(texts: Path, first: fedtl.Run, tmp_path: Path) -> None:
    head, alone = 8 * 3 + 3, 2 * (8 + 24) + 2 * (8 + 8) + 2 * 2 * (8 + 16)
    for table, numbers in ((LORA, alone + head), ({**LORA, "head": False}, alone)):
        config = config_of(texts, "ditto", adapter=table, pretrained=str(first.path))
        run = fedtl.run(config, out=tmp_path / str(numbers))
        assert {(r["bytes_down"], r["bytes_up"]) for r in run.rounds} == {(3 * 4 * numbers, 3 * 4 * numbers)}
        before, after = first.state_dict(), run.state_dict()
        for name, tensor in after.items():
            still = "lora" not in name and not (name.startswith("head") and numbers > alone)
            assert torch.equal(tensor, before.get(name, torch.zeros(()))) == still, name
        memory = MemoryStore(run.path / "memories").load(0, 99)
        assert {name: len(vector) for name, vector in memory.items()} == {"v": numbers}
        assert BUFFERS not in memory


def test_an_adapted_run_is_exported_and_gone_on_from(texts: Path, first: fedtl.Run, tmp_path: Path) -> None:
    began = tmp_path / "began.safetensors"
    began.write_bytes((first.path / "model.safetensors").read_bytes())
    config = config_of(texts, "fedper", adapter=LORA, pretrained=str(began))
    run = fedtl.run(config, out=tmp_path / "run")
    assert run.last()["personal/clients"].value > 0
    began.unlink()  # what is exported needs it no more
    exported = model_of_run(run.path, client=1)
    write_safetensors(exported, tmp_path / "m.safetensors")
    module, _, about = load_exported(tmp_path / "m.safetensors")
    assert about.model["adapter"] == {**LORA, "layers": [], "head": True}
    assert torch.equal(module(WORDS), exported.module(WORDS))
    whole = fedtl.run(config_of(texts, "fedavg", adapter=LORA), out=tmp_path / "whole")
    again = build(LORA, pretrained=str(whole.path))
    assert all(torch.equal(t, whole.state_dict()[name]) for name, t in again.state_dict().items())


def test_what_cannot_be_is_said(texts: Path) -> None:
    def refused(adapter: object, **more: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            fedtl.run({**config_of(texts, "fedavg", adapter=adapter), **more}, out=texts.parent / "refused")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refused("lorra") == "model.adapter.name = 'lorra' is unknown: did you mean 'lora'?"
    assert refused({"name": "lora", "rank": 0}) == "model.adapter.rank = 0: should be greater than 0"
    assert "has no layer 'features.nrm': did you mean" in refused({"name": "lora", "layers": ["features.nrm"]})
    assert "'features.norm' is a LayerNorm; LoRA is" in refused({"name": "lora", "layers": ["features.norm"]})
    assert "'head' is in the head, all of which trains" in refused({"name": "lora", "layers": ["head"]})
    mlp = {"name": "mlp", "adapter": BOTTLENECK}
    assert "model.adapter.layers is missing" in refused(None, model=mlp)
    convolution = {"name": "cnn", "adapter": {**BOTTLENECK, "layers": ["features.0"]}}
    digits = {"name": "digits", "clients": 2, "samples": 40}
    assert "a bottleneck would mix its last axis" in refused(None, model=convolution, data=digits)
    private = {"name": "fedavg", "lr": 0.1, "private": ["features.norm"]}
    assert "strategy.private = ['features.norm']: model.adapter freezes it" in refused(LORA, strategy=private)


def test_a_run_is_resumed_on_the_weights_that_it_began_with(texts: Path, first: fedtl.Run, tmp_path: Path) -> None:
    """What is frozen is in no checkpoint."""
    began = tmp_path / "began.safetensors"
    tensors = first.state_dict()
    save_file(tensors, began)
    config = config_of(texts, "fedavg", adapter=LORA, pretrained=str(began))
    fedtl.run({**config, "rounds": 1}, out=tmp_path / "run")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, began)
    with pytest.raises(ConfigError, match=r"model\.pretrained: the weights that it names are others than when the run"):
        fedtl.run(config, out=tmp_path / "run", resume=True)
    save_file(tensors, began)
    assert len(fedtl.run(config, out=tmp_path / "run", resume=True).rounds) == 2


# --- another head -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["other classes", "none", "other layers"])
def test_another_head_stays_new_and_a_note_says_so(left: str, texts: Path, first: fedtl.Run, tmp_path: Path) -> None:
    tensors = {name: t for name, t in first.state_dict().items() if not name.startswith("head")}
    if left == "other classes":
        tensors |= {"head.weight": torch.ones(7, 8), "head.bias": torch.ones(7)}
    elif left == "other layers":
        tensors |= {"head.0.weight": torch.ones(5, 8), "head.1.weight": torch.ones(3, 5)}
    save_file(tensors, tmp_path / "other.safetensors")
    config = config_of(texts, "fedavg", adapter=LORA, pretrained=str(tmp_path / "other.safetensors"))
    new, module = build().state_dict(), build_model(read_model(config["model"]), TEXTS, 3, 0).state_dict()
    for name, tensor in new.items():
        assert torch.equal(module[name], tensor if name.startswith("head") else tensors[name])
    run = fedtl.run({**config, "rounds": 1}, out=tmp_path / "run")
    (note,) = json.loads((run.path / "environment.json").read_text())["notes"]
    assert note.endswith("other.safetensors': the head is new, as these weights have another one")
    tensors.pop("features.norm.weight")
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"it has no tensor '(features\.norm|head)\.weight'"):
        build_model(read_model(config["model"]), TEXTS, 3, 0)
    assert load_file(tmp_path / "other.safetensors").keys() == tensors.keys()
