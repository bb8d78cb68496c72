"""Samples out of a trained model, and students that learn from them, on scikit-learn's digits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.samples import Samples
from fedtl.distill import METHODS, class_impressions, data_impressions, read_method
from fedtl.distill.augment import jitter
from fedtl.distill.generator import Generator
from fedtl.distill.method import Job, distil, frozen, generator
from fedtl.distill.student import softened
from fedtl.losses.data_free import zskd_concentration
from fedtl.models import build_model, read_model
from fedtl.plot.images import images

BRIEF: dict[str, dict[str, Any]] = {
    "class-impressions": {"steps": 400, "batch_size": 64, "per_class": 40, "sample_steps": 100, "lr": 3e-3},
    "dafl": {"steps": 300, "batch_size": 64, "hidden": 16, "lr_generator": 0.02},
    "data": {"steps": 200, "batch_size": 64, "lr": 3e-3},
    "zskd": {"steps": 400, "batch_size": 64, "per_class": 40, "sample_steps": 100, "lr": 3e-3},
}


@pytest.fixture(scope="module")
def federation() -> Federation:
    return federate(read_data({"name": "digits", "clients": 2, "test_share": 0.0}), 0)


@pytest.fixture(scope="module")
def samples(federation: Federation) -> Samples:
    return Samples(federation, torch.device("cpu"))


@pytest.fixture(scope="module")
def bounds(federation: Federation) -> tuple[Tensor, Tensor]:
    black = torch.tensor(federation.shift)
    return black, black + 255 * torch.tensor(federation.scale)


@pytest.fixture(scope="module")
def teacher(federation: Federation, samples: Samples) -> nn.Module:
    """A small network at about 97 %."""
    module = build_model(read_model({"name": "cnn", "hidden": [32]}), federation.shape, federation.classes, 0)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    rng = np.random.default_rng(0)
    for _ in range(250):
        x, y = samples.batch(rng.choice(federation.train.order, 64))
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    assert accuracy(module, federation, samples) > 0.95
    return module.eval()


def accuracy(module: nn.Module, federation: Federation, samples: Samples) -> float:
    x, y = samples.batch(federation.server_test)
    with torch.no_grad():
        return float((module.eval()(x).argmax(1) == y).float().mean())


def student_of(federation: Federation, seed: int = 1) -> nn.Module:
    return build_model(
        read_model({"name": "cnn", "channels": [8, 16], "hidden": [32]}), federation.shape, federation.classes, seed
    )


class Notes:
    """What a method told its watcher."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.scored: list[int] = []
        self.losses: set[str] = set()
        self.drawn: tuple[Tensor, Tensor] | None = None

    def step(self, phase: str, done: int, of: int, losses: Mapping[str, Tensor]) -> None:
        self.steps.append((phase, done, of))

    def score(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.scored.append(step)
        self.losses = set(losses)

    def samples(self, x: Tensor, y: Tensor) -> None:
        self.drawn = x, y


def job_of(teacher: nn.Module, federation: Federation, samples: Samples, bounds: Any, name: str, seed: int = 0) -> Job:
    data = (samples, federation.train.order) if name == "data" else None
    return Job(teacher, student_of(federation), federation.shape, federation.classes, seed, bounds, data, Notes())


# Samples


def test_class_impressions_are_what_was_asked_for(teacher: nn.Module, federation: Federation, bounds: Any) -> None:
    x, y = class_impressions(teacher, 10, 12, federation.shape, steps=150, seed=3, bounds=bounds, chunk=50)
    assert (x.shape, x.dtype) == ((120, 1, 8, 8), torch.float32)
    assert y.tolist() == [label for label in range(10) for _ in range(12)]
    sure = teacher(x).detach().softmax(1)
    assert float((sure.argmax(1) == y).float().mean()) >= 0.95
    assert float(sure[range(120), y].median()) > 0.5
    assert not x.requires_grad
    assert bool((x >= bounds[0]).all())
    assert bool((x <= bounds[1]).all())
    assert float(x[:12].std(0).mean()) > 0.1  # the twelve differ

    asked, labels = class_impressions(
        teacher, [7, 2], 3, federation.shape, steps=100, augment=False, confidence=(0.9, 0.9)
    )
    assert labels.tolist() == [7, 7, 7, 2, 2, 2]
    assert bool((teacher(asked).softmax(1)[range(6), labels] >= 0.9).all())


def test_data_impressions_are_what_was_asked_for(teacher: nn.Module, federation: Federation, bounds: Any) -> None:
    # Without bounds: between black and white so small a network's logits are too close to each other for T = 20.
    x, targets = data_impressions(teacher, 12, federation.shape, steps=150, lr=0.1, seed=3, betas=(1.0, 0.1))
    assert (x.shape, targets.shape) == ((120, 1, 8, 8), (120, 10))
    torch.testing.assert_close(targets.sum(1), torch.ones(120))
    # First ten classes of six targets with β = 1, then as many with β = 0.1, which have one large entry.
    wide, narrow = targets[:60].max(1).values.mean(), targets[60:].max(1).values.mean()
    assert wide < 0.6 < narrow
    with torch.no_grad():
        predictions, of_noise = ((teacher(each) / 20).softmax(1) for each in (x, torch.rand(120, 1, 8, 8)))
    assert float((predictions - targets).abs().mean()) < 0.5 * float((of_noise - targets).abs().mean())
    assert float((predictions.argmax(1) == targets.argmax(1)).float().mean()) > 0.9
    x, _ = data_impressions(teacher, 2, federation.shape, steps=20, lr=1.0, bounds=bounds)
    assert bool(((x >= bounds[0]) & (x <= bounds[1])).all())


def test_soft_targets_have_the_dirichlets_mean(teacher: nn.Module, federation: Federation) -> None:
    _, targets = data_impressions(teacher, 2000, federation.shape, steps=1, betas=(1.0,), chunk=2000)
    alpha = zskd_concentration(teacher.head.weight.detach().double(), beta=1.0)  # type: ignore[union-attr]
    mean = (alpha / alpha.sum(1, keepdim=True)).float()
    torch.testing.assert_close(targets.view(10, 2000, 10).mean(1), mean, atol=0.02, rtol=0)


def test_soft_targets_of_tiny_betas_are_nearly_one_class(teacher: nn.Module, federation: Federation) -> None:
    """Their gammas are too small for float64, and a share of nothing is no number."""
    _, targets = data_impressions(teacher, 400, federation.shape, steps=1, betas=(1e-3,), chunk=4000)
    assert (targets.amax(1) > 0.99).float().mean() > 0.9
    alpha = zskd_concentration(teacher.head.weight.detach().double(), beta=1.0)  # type: ignore[union-attr]
    mean = (alpha / alpha.sum(1, keepdim=True)).float()
    torch.testing.assert_close(targets.view(10, 400, 10).mean(1), mean, atol=0.1, rtol=0)


@pytest.mark.parametrize("make", [class_impressions, data_impressions], ids=lambda make: make.__name__)
def test_synthesis_depends_on_its_seed_alone_and_changes_nothing(
    make: Any, teacher: nn.Module, federation: Federation
) -> None:
    module = copy.deepcopy(teacher).train()
    state, mode = torch.get_rng_state(), [part.training for part in module.modules()]
    words = (10, 3) if make is class_impressions else (3,)

    def synthesise(seed: int) -> Tensor:
        x, _ = make(module, *words, federation.shape, 10, seed=seed)
        return x

    first = synthesise(0)
    torch.manual_seed(5)
    assert torch.equal(first, synthesise(0))
    assert not torch.equal(first, synthesise(1))
    torch.set_rng_state(state)
    synthesise(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == mode
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, teacher.state_dict()[name])


def test_synthesis_takes_any_shape(federation: Federation) -> None:
    module = build_model(read_model({"name": "mlp", "hidden": [16]}), (7,), 3, 0)
    x, y = class_impressions(module, 3, 4, (7,), steps=100, confidence=(0.6, 0.6))
    assert x.shape == (12, 7)
    assert torch.equal(module(x).argmax(1), y)
    x, targets = data_impressions(module, 4, (7,), steps=3)
    assert (x.shape, targets.shape) == ((12, 7), (12, 3))


def test_a_head_that_is_not_linear_has_no_data_impressions() -> None:
    class Odd(nn.Module):
        head_name = "conv"

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 4)

    with pytest.raises(ConfigError, match=r"head 'conv' is no linear layer.*'class-impressions'"):
        data_impressions(Odd(), 2, (1, 4, 4), 1)


# Parts


def test_jitter() -> None:
    x = torch.randn(6, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    same = jitter(x, generator(0), degrees=0.0, scales=(1.0,))
    assert torch.equal(same, x)
    still = jitter(x, generator(0), degrees=0.0, scales=(1.0, 1.0))  # goes through the grid
    torch.testing.assert_close(still, x, atol=1e-5, rtol=1e-4)
    turned = jitter(x[..., :8], generator(0), degrees=5.0)
    assert 0 < float((turned - x[..., :8]).abs().mean()) < 0.5 * float(x.abs().mean())
    assert torch.equal(turned, jitter(x[..., :8], generator(0), degrees=5.0))
    vector = torch.zeros(4, 5)
    noisy = jitter(vector, generator(0), noise=0.5)
    assert 0.3 < float(noisy.abs().max()) <= 0.5
    x.requires_grad_()
    jitter(x, generator(0), noise=0.1).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 28, 28), (3, 8, 8), (1, 9, 14)])
def test_generator_makes_normalised_images_of_any_size(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    made = Generator(shape, latent=10, hidden=8)(torch.randn(16, 10))
    assert made.shape == (16, *shape)
    if shape[1] % 4 == 0:
        torch.testing.assert_close(made.mean((0, 2, 3)), torch.zeros(shape[0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(made.var((0, 2, 3)), torch.ones(shape[0]), atol=1e-2, rtol=0)


def test_softened_is_hintons() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    torch.testing.assert_close(softened(student, teacher, 4.0), 16 * (p * (p / q).log()).sum(1).mean())
    # At a high temperature, half the squared difference of the centred logits over k (their section 2.1).
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(
        softened(student, teacher, 1e4), 0.5 * centred.square().mean(1).mean(), rtol=1e-3, atol=0
    )


def test_frozen_gives_everything_back() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    module[1].eval()
    module[0].bias.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(module):
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(part.training for part in module.modules())
        raise RuntimeError
    assert [part.training for part in module] == [True, False, True]
    assert [parameter.requires_grad for parameter in module.parameters()] == [True, False, True, True]


def test_lenet5_has_a_width() -> None:
    half = build_model(read_model({"name": "lenet5", "width": 0.5}), (1, 28, 28), 10, 0)
    assert sum(parameter.numel() for parameter in half.parameters()) == 15_738  # DAFL's LeNet-5-Half
    whole = build_model(read_model({"name": "lenet5"}), (1, 28, 28), 10, 0)
    assert list(half.state_dict()) == list(whole.state_dict())
    tiny = build_model(read_model({"name": "lenet5", "width": 1e-6}), (1, 28, 28), 10, 0)
    assert tiny(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    with pytest.raises(ConfigError, match=r"model.width = 0: should be greater than 0"):
        read_model({"name": "lenet5", "width": 0})


def test_images() -> None:
    x, labels = np.zeros((5, 1, 4, 6), np.float32), np.array([0, 2, 2, 2, 1])
    x[0] = 1.0
    figure = images(x, labels, "title", ("a", "b", "c"), columns=2)
    (axes,) = figure.axes
    (drawn,) = axes.images
    sheet = np.asarray(drawn.get_array())
    assert sheet.shape == (3 * 5 - 1, 2 * 7 - 1)
    assert (sheet[:4, :6] == 1).all()
    assert (sheet[5:9, :6] == 0).all()
    assert (sheet[:4, 7:] == 1).all()  # nothing stands there
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    assert np.asarray(images(np.ones((1, 3, 4, 4), np.float32), labels[:1], "").axes[0].images[0].get_array()).ndim == 3
    with pytest.raises(ConfigError, match="cannot be drawn"):
        images(np.zeros((5, 7), np.float32), labels, "")


# Methods


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_student_learns(name: str, teacher: nn.Module, federation: Federation, samples: Samples, bounds: Any) -> None:
    state, before = torch.get_rng_state(), copy.deepcopy(teacher.state_dict())
    method = read_method({"name": name, "every": 150, **BRIEF[name]})
    job = job_of(teacher, federation, samples, bounds, name)
    student = distil(method, job)
    assert accuracy(student, federation, samples) > (0.9 if name == "data" else 0.5)
    assert student is job.student
    assert torch.equal(torch.get_rng_state(), state)
    for tensor_name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[tensor_name])

    notes = job.watch
    assert isinstance(notes, Notes)
    assert notes.scored == [*range(150, method.steps, 150), method.steps]
    assert notes.steps[-1] == ("student", method.steps, method.steps)
    assert "kd" in notes.losses
    if name == "data":
        assert notes.drawn is None
    else:
        assert notes.drawn is not None
        x, y = notes.drawn
        assert float((teacher(x).argmax(1) == y).float().mean()) > 0.8
        assert len(set(y.tolist())) >= 8
    if name in ("zskd", "class-impressions"):
        sampling = [step for step in notes.steps if step[0] == "samples"]
        assert sampling[-1][1] == sampling[-1][2] == 200  # two chunks of 100 steps


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_seed_decides_everything(
    name: str, teacher: nn.Module, federation: Federation, samples: Samples, bounds: Any
) -> None:
    few = {"per_class": 2, "sample_steps": 2} if "per_class" in BRIEF[name] else {}
    method = read_method({"name": name, **BRIEF[name], **few, "steps": 3})
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))
        states.append(distil(method, job_of(teacher, federation, samples, bounds, name, seed)).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_dafl_in_the_papers_own_convention(
    teacher: nn.Module, federation: Federation, samples: Samples, bounds: Any
) -> None:
    options = {**BRIEF["dafl"], "steps": 3}
    students = [
        distil(
            read_method({"name": "dafl", "losses": kind, **options}),
            job_of(teacher, federation, samples, bounds, "dafl"),
        )
        for kind in ("authors", "datafree", "paper")
    ]
    heads = [student.state_dict()["head.weight"] for student in students]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])


# Errors


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"method.name = None: give one of class-impressions, dafl, data, zskd"),
        ({"name": "dafk"}, r"method.name = 'dafk' is unknown: did you mean 'dafl'\?"),
        ({"name": "builtins:dict"}, r"method.name = 'builtins:dict': it is no subclass of fedtl.distill.method.Method"),
        ({"name": "dafl", "lr": 0}, r"method.lr = 0: should be greater than 0"),
        ({"name": "dafl", "batch_size": 1}, r"method.batch_size = 1: should be greater than or equal to 2"),
        ({"name": "dafl", "losses": "x"}, r"method.losses = 'x': should be 'authors', 'datafree' or 'paper'"),
        ({"name": "zskd", "betas": []}, r"method.betas = \[\]: "),
        ({"name": "zskd", "beta": 1}, r"method.beta is not a key here: did you mean 'betas'\?"),
        ({"name": "data", "hard": 2}, r"method.hard = 2: should be less than or equal to 1"),
        ({"name": "class-impressions", "least": 0.9, "most": 0.5}, r"method: least = 0.9 is above most = 0.5"),
    ],
)
def test_wrong_options(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_method(table)


def test_what_a_method_cannot_do() -> None:
    module = nn.Linear(7, 3)
    with pytest.raises(ConfigError, match=r"it generates images .* shape \[7\]"):
        distil(read_method({"name": "dafl"}), Job(module, nn.Linear(7, 3), (7,), 3))
    with pytest.raises(ConfigError, match="it needs training data"):
        distil(read_method({"name": "data"}), Job(module, nn.Linear(7, 3), (7,), 3))


@pytest.mark.parametrize("name", ["class-impressions", "zskd"])
def test_ids_of_words_are_not_synthesised(name: str) -> None:
    words = build_model(read_model({"name": "textcnn", "vocabulary": 10}), (7,), 3, 0)
    job = Job(words, nn.Linear(7, 3), (7,), 3)
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"ids of words or categories, which have none; 'data' takes any teacher$"):
        distil(read_method({"name": name}), job)
    assert torch.equal(torch.get_rng_state(), before)
    assert words.training
    assert all(parameter.requires_grad for parameter in words.parameters())
