"""The reference networks, the ways to name one, and where its head begins."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from fedtl.choice import ConfigError
from fedtl.data.torchvision_ops import import_torchvision
from fedtl.models import MODELS, build_model, read_model
from fedtl.models.head import features_and_logits, head_name
from tests.parts import SUITED

MNIST = (1, 28, 28)
IMAGES = [(1, 8, 8), (1, 16, 16), MNIST, (3, 32, 32)]
OF_IMAGES = sorted(set(MODELS) - SUITED.keys())


def build(name: str, shape: tuple[int, ...] = MNIST, classes: int = 10, seed: int = 0, **options: object) -> nn.Module:
    return build_model(read_model({"name": name, **options}), shape, classes, seed)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def vector(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def message(table: dict[str, object], shape: tuple[int, ...] = MNIST, classes: int = 10) -> str:
    """The error that a table ends in; one line, one sentence."""
    with pytest.raises(ConfigError) as caught:
        build_model(read_model(table), shape, classes, 0)
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    assert text.startswith("model.")
    return text


# --- shapes and sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_images_give_logits_and_features_before_the_head(name: str, shape: tuple[int, ...]) -> None:
    module = build(name, shape, 7)
    x = torch.randn(3, *shape)
    features, logits = features_and_logits(module, x)
    assert logits.shape == (3, 7)
    assert features.shape == (3, module.head.in_features)  # type: ignore[union-attr]
    assert torch.equal(logits, module(x))
    assert torch.equal(module.head(features), logits)  # type: ignore[operator]
    assert torch.equal(module.features(x), features)  # type: ignore[operator]
    assert head_name(module) == "head"


@pytest.mark.parametrize("name", ["logistic", "mlp"])
@pytest.mark.parametrize("shape", [(60,), (6, 100)], ids=str)
def test_vectors_and_series_are_flattened(name: str, shape: tuple[int, ...]) -> None:
    assert build(name, shape, 5)(torch.randn(4, *shape)).shape == (4, 5)


@pytest.mark.parametrize("name", ["cnn", "cnn-bn", "lenet5", "resnet18-gn", "resnet18"])
@pytest.mark.parametrize("shape", [(60,), (6, 100)], ids=str)
def test_convolutions_refuse_vectors_and_series(name: str, shape: tuple[int, ...]) -> None:
    text = message({"name": name}, shape)
    assert str(list(shape)) in text
    assert "'logistic' and 'mlp' take any shape" in text


@pytest.mark.parametrize(
    ("name", "shape", "options", "known"),
    [
        ("logistic", MNIST, {}, 7_850),
        ("logistic", (60,), {}, 610),
        ("mlp", MNIST, {}, 79_510),
        ("mlp", MNIST, {"hidden": [200, 200]}, 199_210),  # McMahan et al. 2017, "2NN"
        ("mlp", MNIST, {"hidden": []}, 7_850),
        ("cnn", MNIST, {}, 416 + 12_832 + 32_832 + 650),
        # McMahan et al. 2017's CNN has 1,663,370 parameters
        ("cnn", MNIST, {"channels": [32, 64], "hidden": [512], "padding": "same"}, 1_663_370),
        # MOON's on CIFAR-10: convolutions, hidden layers, projection, head
        (
            "cnn",
            (3, 32, 32),
            {"channels": [6, 16], "hidden": [120, 84], "projection": 256},
            456 + 2_416 + 48_120 + 10_164 + 7_140 + 21_760 + 2_570,
        ),
        ("lenet5", MNIST, {}, 61_706),
        ("resnet18-gn", (3, 32, 32), {}, 11_173_962),  # as the common CIFAR-10 ResNet-18 with BatchNorm
        ("resnet18-gn", (3, 96, 96), {}, 11_181_642),  # 11,689,512 with a head for 10 classes, not 1,000
    ],
)
def test_sizes_are_the_published_ones(
    name: str, shape: tuple[int, ...], options: dict[str, object], known: int
) -> None:
    assert size(build(name, shape, 10, **options)) == known


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn-bn"])
def test_a_projection_stands_between_hidden_layers_and_head(name: str) -> None:
    plain, model = build(name, MNIST, 10).eval(), build(name, MNIST, 10, projection=6).eval()
    first, relu, last = model.features[-3:]  # type: ignore[index]
    assert isinstance(relu, nn.ReLU)
    assert first.in_features == first.out_features == plain.head.in_features  # type: ignore[union-attr]
    x = torch.randn(4, *MNIST)
    z = last(first(model.features[:-3](x)).clamp(min=0))  # type: ignore[index, operator]
    assert z.shape == (4, 6)
    assert (z < 0).any()  # it does not end in a ReLU
    assert torch.equal(model(x), model.head(z))  # type: ignore[operator]


def test_cnn_pads_images_that_are_smaller_than_28_pixels() -> None:
    def reaches_linear(shape: tuple[int, ...], **options: object) -> int:
        return build("cnn", shape, hidden=[], **options).head.in_features  # type: ignore[union-attr, return-value]

    assert reaches_linear(MNIST) == 32 * 4 * 4
    assert reaches_linear((1, 16, 16)) == 32 * 4 * 4
    assert reaches_linear((1, 8, 8)) == 32 * 2 * 2
    assert reaches_linear((1, 16, 16), padding="valid") == 32 * 1 * 1
    assert reaches_linear((1, 28, 40)) == 32 * 4 * 7
    assert "leave nothing of 8x8 pixels" in message({"name": "cnn", "padding": "valid"}, (1, 8, 8))


def test_lenet5_centres_the_image_and_refuses_large_ones() -> None:
    pad = build("lenet5", (1, 28, 20)).features[0](torch.ones(1, 1, 28, 20))  # type: ignore[index, operator]
    assert pad.shape == (1, 1, 32, 32)
    assert pad[0, 0, 2:30, 6:26].eq(1).all()
    assert pad.sum() == 28 * 20
    assert "up to 32x32" in message({"name": "lenet5"}, (1, 33, 20))


def test_resnet18_gn_is_torchvisions_with_another_norm() -> None:
    torchvision = import_torchvision()
    theirs = torchvision.models.resnet18(num_classes=10, norm_layer=lambda channels: nn.GroupNorm(2, channels))
    ours = build("resnet18-gn", (3, 96, 96), 10)
    with torch.no_grad():
        for own, their in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert own.shape == their.shape
            own.copy_(their)
        x = torch.randn(2, 3, 96, 96)
        torch.testing.assert_close(ours(x), theirs(x))


# --- seeds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OF_IMAGES, "mobilenet_v3_small"])
def test_the_seed_alone_decides_the_parameters(name: str) -> None:
    shape = (3, 32, 32)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = vector(build(name, shape, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(vector(build(name, shape, seed=1)), first)
    assert not torch.equal(vector(build(name, shape, seed=2)), first)


def test_building_leaves_modes_and_statistics_alone() -> None:
    module = build("resnet18", (3, 32, 32))
    assert all(part.training for part in module.modules())
    assert module.bn1.num_batches_tracked == 0  # type: ignore[union-attr]


# --- stacked clients --------------------------------------------------------------------------------------


# These two train under each engine elsewhere, and batch-norm's statistics only there.
@pytest.mark.parametrize("name", sorted({*OF_IMAGES} - {"resnet18-gn", "cnn-bn"}))
def test_stacked_clients_equal_clients_one_by_one(name: str) -> None:
    shape = (1, 8, 8)
    modules = [build(name, shape, 5, seed) for seed in range(3)]
    stacked = {key: value.detach().requires_grad_() for key, value in stack_module_state(modules)[0].items()}
    x = torch.randn(3, 4, *shape)
    blank = copy.deepcopy(modules[0])

    def one(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return features_and_logits(blank, x, parameters)

    features, logits = vmap(one)(stacked, x)
    plain = vmap(lambda parameters, x: functional_call(blank, parameters, (x,)))(stacked, x)
    torch.testing.assert_close(plain, logits)
    (logits.square().sum() + features.sum()).backward()
    for client, module in enumerate(modules):
        own_features, own_logits = features_and_logits(module, x[client])
        torch.testing.assert_close(features[client], own_features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[client], own_logits, rtol=1e-4, atol=1e-5)
        (own_logits.square().sum() + own_features.sum()).backward()
        for key, parameter in module.named_parameters():
            grad = stacked[key].grad
            assert grad is not None
            assert parameter.grad is not None
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(grad[client], parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-6)


# --- heads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "head"),
    [("resnet18", (3, 32, 32), "fc"), ("mobilenet_v3_small", (3, 32, 32), "classifier.3")],
)
def test_head_of_torchvision_networks(name: str, shape: tuple[int, ...], head: str) -> None:
    module = build(name, shape, 7).eval()
    assert head_name(module) == head
    x = torch.randn(2, *shape)
    features, logits = features_and_logits(module, x)
    assert torch.equal(module.get_submodule(head)(features), logits)
    assert torch.equal(module(x), logits)


class TwoLinear(nn.Module):
    """A head that stands first and is named by an attribute."""

    def __init__(self, named: str | None) -> None:
        super().__init__()
        if named:
            self.head_name = named
        self.top = nn.Linear(4, 3)
        self.body = nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.body(x))


def test_the_head_can_be_named() -> None:
    assert head_name(TwoLinear("top")) == "top"
    assert head_name(TwoLinear(None)) == "body"
    module, x = TwoLinear("top"), torch.randn(5, 2)
    features, logits = features_and_logits(module, x)
    assert torch.equal(features, module.body(x))
    assert torch.equal(logits, module(x))
    with pytest.raises(ConfigError, match="'nowhere', but has no submodule"):
        head_name(TwoLinear("nowhere"))
    with pytest.raises(ConfigError, match="does not tell its features from its head"):
        head_name(nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_no_hook_stays_behind() -> None:
    module = build("logistic")
    with pytest.raises(RuntimeError):
        features_and_logits(module, torch.randn(2, 3))
    features_and_logits(module, torch.randn(2, *MNIST))
    assert not module.head._forward_pre_hooks


def test_a_head_that_is_called_twice_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="calls its head '0' 2 times"):
        features_and_logits(nn.Sequential(layer, layer), torch.zeros(1, 2))


# --- torchvision ------------------------------------------------------------------------------------------


def test_torchvision_by_name_has_the_classes_and_takes_grey_images() -> None:
    module = build("resnet18", MNIST, 10)
    assert size(module) == 11_689_512 - 1000 * 513 + 10 * 513
    grey = torch.randn(2, *MNIST)
    module.eval()
    assert torch.equal(module(grey), module(grey.repeat(1, 3, 1, 1)))
    assert torch.equal(pickle.loads(pickle.dumps(module))(grey), module(grey))
    assert "of 3 channels" in message({"name": "resnet18"}, (2, 28, 28))
    assert "model.pretrained = True: should be a valid string" in message({"name": "resnet18", "pretrained": True})
    assert message({"name": "alexnet"}).startswith("model.name = 'alexnet' does not take samples of shape [1, 28, 28]:")


WHOLE_TORCHVISION = (
    "from fedtl.data.torchvision_ops import import_torchvision\n"
    "first = import_torchvision()\n"
    "assert import_torchvision() is first\n"
    "import torchvision\n"
    "assert torchvision is first\n"
    "assert torchvision.extension and torchvision.ops.nms and torchvision.models.resnet18\n"
    "print('resnet18' in torchvision.models.list_models(module=torchvision.models))\n"
)


def test_torchvision_imports_in_a_fresh_process() -> None:
    """Also after somebody else has tried to, and failed."""
    before = "try:\n    import torchvision\nexcept RuntimeError:\n    pass\n"
    command = [sys.executable, "-c", before + WHOLE_TORCHVISION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr


# --- a user's own -----------------------------------------------------------------------------------------

OWN = """
from torch import nn
from fedtl.models import ModelChoice

class Net(nn.Module):
    def __init__(self, input_shape, classes, width=4):
        super().__init__()
        size = 1
        for n in input_shape:
            size *= n
        self.width = width
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.Linear(width, classes))

    def forward(self, x):
        return self.layers(x)

class Pair(Net):
    def forward(self, x):
        return x, x

def seven(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 7))
def needs(width): return seven()
def anything(**options): return seven()
def positional(width, /): return seven()
def broken(): raise KeyError("weights.pt\\nand more")
def nothing(): return None
constant = 3
class Plain: pass

class Settings(ModelChoice):
    width: int = 4
    def build(self, shape, classes):
        return Net(shape, classes, self.width)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


@pytest.mark.parametrize("kind", ["Net", "Settings"])
def test_own_class_gets_its_keys_and_what_the_data_say(own: str, kind: str) -> None:
    choice = read_model({"name": f"{own}:{kind}", "width": 6})
    module = build_model(choice, (2, 3), 5, seed=0)
    assert module.width == 6
    assert module(torch.zeros(4, 2, 3)).shape == (4, 5)
    assert head_name(module) == "layers.2"
    assert torch.equal(vector(module), vector(build_model(choice, (2, 3), 5, seed=0)))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"name": "Net", "widht": 6}, "model.widht is not an argument of 'own_networks:Net': did you mean 'width'?"),
        ({"name": "Net", "classes": 6}, "model.classes is not a key here: the data say it"),
        ({"name": "needs"}, "model.width is missing: 'own_networks:needs' needs it"),
        ({"name": "positional", "width": 2}, "model.width is not an argument"),
        ({"name": "positional"}, "its argument 'width' cannot be given by name"),
        ({"name": "Settings", "widht": 6}, "model.widht is not a key here: did you mean 'width'?"),
        ({"name": "seven"}, "model.name = 'own_networks:seven': its output has shape [2, 7]; the labels need [2, 10]"),
        ({"name": "anything", "x": 1}, "its output has shape [2, 7]"),
        ({"name": "Pair"}, "its output is a tuple; the labels need a tensor of shape [2, 10]"),
        ({"name": "broken"}, "cannot be built for samples of shape [1, 28, 28] and 10 classes: KeyError: "),
        ({"name": "nothing"}, "it should return a torch.nn.Module, not a NoneType"),
        ({"name": "constant"}, "it should be a torch.nn.Module class or a function, not a int"),
        ({"name": "Plain"}, "the class should be a torch.nn.Module"),
        ({"name": "Missing"}, "the module 'own_networks' has no 'Missing'"),
    ],
)
def test_errors_of_own_classes_say_what_would_be_right(own: str, table: dict[str, object], expected: str) -> None:
    assert expected in message({**table, "name": f"{own}:{table['name']}"})


def test_own_module_may_import_torchvision(tmp_path: Path) -> None:
    (tmp_path / "with_torchvision.py").write_text("from torchvision.models import resnet18\n")
    script = (
        "from fedtl.models import build_model, read_model\n"
        "choice = read_model({'name': 'with_torchvision:resnet18', 'num_classes': 3})\n"
        "print(build_model(choice, (3, 32, 32), 3, 0).fc.out_features)\n" + WHOLE_TORCHVISION
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout == "3\nTrue\n", done.stderr


def test_own_function_may_import_torchvision_when_it_is_called(tmp_path: Path) -> None:
    """It begins with the same numbers, whatever was drawn before the import."""
    (tmp_path / "with_torchvision.py").write_text(
        "import torch\n"
        "def network(classes):\n"
        "    first = torch.nn.Linear(3, 4)\n"
        "    import torchvision\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.Linear(4, classes))\n"
    )
    script = (
        "import torch\n"
        "from fedtl.models import build_model, read_model\n"
        "choice = read_model({'name': 'with_torchvision:network'})\n"
        "first, second = (build_model(choice, (3, 1, 1), 2, 0).state_dict() for _ in range(2))\n"
        "print(all(torch.equal(first[name], second[name]) for name in first))\n" + WHOLE_TORCHVISION
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout == "True\nTrue\n", done.stderr


# --- names and options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        *({"name": name} for name in sorted(MODELS)),
        {"name": "mlp", "hidden": [20, 10]},
        {"name": "cnn", "channels": [4], "padding": "same", "hidden": []},
        {"name": "resnet18-gn", "groups": 32},
        {"name": "resnet18"},
        {"name": "fedtl.models.mlp:MLP", "inputs": 4, "hidden": [3]},
    ],
    ids=str,
)
def test_choices_round_trip(table: dict[str, object]) -> None:
    choice = read_model(table)
    assert read_model(choice.model_dump()) == choice
    assert read_model(choice.model_dump(mode="json")) == choice
    assert pickle.loads(pickle.dumps(choice)) == choice


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {},
            "model.name = None: give one of cnn, cnn-bn, cnn1d, gru, lenet5, logistic, lstm, mlp, resnet18-gn, ",
        ),
        ({"name": "resnet81"}, "model.name = 'resnet81' is unknown: did you mean 'resnet"),
        ({"name": "perceiver"}, "model.name = 'perceiver' is unknown: give one of cnn, "),
        ({"name": "mlp", "hiden": [3]}, "model.hiden is not a key here: did you mean 'hidden'?"),
        ({"name": "mlp", "hidden": [0]}, "model.hidden.0 = 0: "),
        ({"name": "cnn", "channels": []}, "model.channels = []: "),
        ({"name": "cnn", "padding": "valdi"}, "model.padding = 'valdi': "),
        ({"name": "resnet18-gn", "groups": 3}, "model.groups = 3: should be a divisor of 64"),
        ({"name": "no_such_package:Net"}, "model.name = 'no_such_package:Net': no such module"),
    ],
    ids=str,
)
def test_errors_name_key_value_and_what_would_be_right(table: dict[str, object], expected: str) -> None:
    assert re.match(re.escape(expected), message(table))
