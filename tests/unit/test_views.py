from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import fedtl
from fedtl.choice import ConfigError, validate
from fedtl.data.torchvision_ops import import_torchvision
from fedtl.data.views import augment as module
from fedtl.data.views.augment import FROM_0_TO_1, Views, preset

SHAPES = [(1, 8, 8), (1, 28, 28), (2, 20, 24), (3, 32, 32), (3, 64, 72)]


def images(shape: tuple[int, ...], n: int = 12, dtype: torch.dtype = torch.uint8) -> Tensor:
    raw = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return raw if dtype == torch.uint8 else raw / 255


def v2() -> Any:
    import_torchvision()
    return importlib.import_module("torchvision.transforms.v2")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_and_type_stay_and_the_seed_decides(shape: tuple[int, ...], per_image: bool, dtype: torch.dtype) -> None:
    view, raw = Views(per_image=per_image).make(shape, dtype), images(shape, dtype=dtype)
    before = raw.clone()
    one, again, other = view(raw, 3), view(raw, 3), view(raw, 4)
    assert (one.shape, one.dtype) == (raw.shape, raw.dtype)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, raw)
    assert torch.equal(raw, before)
    assert view(raw[:0], 0).shape == (0, *shape)
    assert torch.isfinite(one.float()).all()


def test_no_other_generator_is_read_or_moved() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    raw = images((3, 32, 32))
    before = states()
    view = Views().make((3, 32, 32))
    made = view(raw, 5)
    assert states() == before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert torch.equal(view(raw, 5), made)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_image_has_numbers_of_its_own_only_if_asked(shape: tuple[int, ...]) -> None:
    same = images(shape, 1).expand(16, *shape).contiguous()
    assert len(Views().make(shape)(same, 0).unique(dim=0)) > 8
    assert len(Views(per_image=False).make(shape)(same, 0).unique(dim=0)) == 1


# torchvision itself, image by image, with the same seed, draws the same numbers in the same order.
AS_TORCHVISION = [
    ({"name": "RandomAffine", "degrees": 30, "translate": [0.2, 0.1], "scale": [0.6, 1.5]}, 1e-6),
    ({"name": "RandomAffine", "degrees": 30, "shear": [-20, 20, -10, 10], "interpolation": "bilinear", "fill": 9}, 1),
    ({"name": "RandomAffine", "degrees": 30, "interpolation": "bilinear", "center": [0, 0]}, 1e-6),
    ({"name": "GaussianBlur", "kernel_size": [3, 5], "sigma": [0.1, 2.0]}, 1),
    ({"name": "ColorJitter", "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.3}, 3),
    ({"name": "ColorJitter", "hue": 0.5}, 1),
    ({"name": "ColorJitter", "contrast": 0.7}, 1),
    ({"name": "RandomErasing", "p": 0.5}, 1e-6),
]


@pytest.mark.parametrize(("table", "off"), AS_TORCHVISION, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(3, 20, 24), (1, 28, 28)])
def test_what_is_done_for_a_batch_at_once_is_what_torchvision_does(
    shape: tuple[int, ...], dtype: torch.dtype, table: dict[str, Any], off: float
) -> None:
    raw = images(shape, 40, dtype)
    made = Views(transforms=(table,)).make(shape, dtype)(raw, 7)
    options = dict(table)
    name = options.pop("name")
    transform = getattr(v2(), name)(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        # Its numbers are drawn for all images first, its arithmetic draws none.
        drawn = [transform.make_params([image]) for image in raw] if name != "RandomErasing" else None
        if drawn is None:
            theirs = torch.stack([transform(image) for image in raw])
        else:
            theirs = torch.stack([transform.transform(image, numbers) for image, numbers in zip(raw, drawn)])
    assert not torch.equal(made, raw) or (shape[0] == 1 and "hue" in table)
    difference = (made.double() - theirs.double()).abs()
    # Sums in another order: a rounding of bytes may fall the other way, a nearest pixel be the next one.
    if dtype == torch.float32:
        assert difference.quantile(0.99) < 1e-4
    assert (difference > (off if dtype == torch.uint8 else 0.02)).float().mean() < 1e-3


@pytest.mark.parametrize("name", sorted(FROM_0_TO_1))
def test_what_takes_images_to_lie_from_0_to_1(name: str) -> None:
    """Images that are 200 times as bright become others than 200 times the views."""
    given = {"ColorJitter": {"brightness": 0.5}, "RandomPosterize": {"bits": 2}, "RandomSolarize": {"threshold": 0.5}}
    options = {"RandomAdjustSharpness": {"sharpness_factor": 2.0}, **given}.get(name, {})
    views = Views(transforms=({"name": name, **options},), per_image=True)
    assert views.from_0_to_1((3, 16, 16)) == [name]
    view, raw = views.make((3, 16, 16), torch.float32), images((3, 16, 16), dtype=torch.float32)
    assert not torch.allclose(200 * view(raw, 0), view(200 * raw, 0), rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 80, 80)])
def test_other_transforms_do_not_mind(shape: tuple[int, ...]) -> None:
    tables = [table for table in preset(shape) if not Views(transforms=(table,)).from_0_to_1(shape)]
    assert {"ColorJitter"} == {*Views().from_0_to_1((3, 32, 32))}
    assert len(tables) == len(preset(shape)) - (shape[0] == 3)
    view, raw = Views(transforms=tuple(tables)).make(shape, torch.float32), images(shape, dtype=torch.float32)
    torch.testing.assert_close(view(200 * raw, 0), 200 * view(raw, 0), rtol=1e-3, atol=1e-2)


def test_images_that_views_would_cut_off_are_a_note(tmp_path: Path) -> None:
    def notes(x: NDArray[Any], name: str) -> list[str]:
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(len(x)) % 2)
        data = {"name": "npz", "path": str(tmp_path / f"{name}.npz"), "clients": 2, "partition": {"name": "iid"}}
        tables = {"name": "views", "rounds": 1, "data": data, "model": {"name": "mlp"}, "views": {}}
        tables |= {"strategy": {"name": "fedavg", "lr": 0.1}, "simulation": {"grid": "in-process"}}
        terms = [{"term": "cross_entropy"}, {"term": "simclr", "projector": [4]}]
        run = fedtl.run({**tables, "objective": terms}, out=tmp_path / name)
        return [note for note in json.loads((run.path / "environment.json").read_text())["notes"] if "views" in note]

    x = np.random.default_rng(0).random((24, 3, 8, 8), np.float32)
    x[0, 0, 0, :2] = 0, 1
    (note,) = notes(255 * x, "as bytes")
    assert note.startswith("views.transforms: to ColorJitter images lie from 0 to 1, and these lie from 0 to 255: ")
    assert notes(x, "units") == notes((255 * x).astype(np.uint8), "bytes") == []
    assert notes(255 * x[:, :1], "grey") == []


def test_transforms_that_hold_transforms() -> None:
    flip = {"name": "RandomHorizontalFlip", "p": 1.0}
    raw = images((1, 10, 10), 200)
    halves = Views(transforms=({"name": "RandomApply", "transforms": [flip], "p": 0.5},)).make((1, 10, 10))(raw, 0)
    flipped = (halves == raw.flip(3)).flatten(1).all(1)
    assert ((halves == raw).flatten(1).all(1) != flipped).all()  # each image either way
    assert 70 < int(flipped.sum()) < 130
    twice = Views(transforms=({"name": "Compose", "transforms": [flip, flip]},)).make((1, 10, 10))
    assert torch.equal(twice(raw, 0), raw)
    table = {"name": "RandomApply", "p": 0.0, "transforms": [{"name": "GaussianBlur", "kernel_size": 3}]}
    assert torch.equal(Views(transforms=(table,)).make((1, 10, 10))(raw, 0), raw)


def test_a_view_of_a_digit_is_still_that_digit() -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    raw = torch.tensor(x * 255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    view, labels = Views().make((1, 8, 8)), np.tile(y[:1200], 3)
    test = view(raw[1200:], 0).flatten(1).double()
    train = torch.cat([view(raw[:1200], seed).flatten(1) for seed in (1, 2, 3)]).double()
    centres = torch.stack([train[torch.from_numpy(labels == k)].mean(0) for k in range(10)])
    # Chance is 0.1. A shift by one of eight pixels is far for a mean image, and near for a neighbour shifted alike.
    assert (torch.cdist(test, centres).argmin(1).numpy() == y[1200:]).mean() > 0.45
    assert (labels[torch.cdist(test, train).argmin(1).numpy()] == y[1200:]).mean() > 0.8


def test_presets() -> None:
    names = {shape: [table["name"] for table in module.preset(shape)] for shape in SHAPES}
    assert names[1, 8, 8] == ["RandomAffine", "RandomErasing"]
    assert names[1, 28, 28] == names[2, 20, 24] == ["RandomAffine", "RandomApply", "RandomErasing"]
    assert names[3, 32, 32] == ["RandomResizedCrop", "RandomHorizontalFlip", "RandomApply", "RandomGrayscale"]
    assert names[3, 64, 72] == [*names[3, 32, 32], "RandomApply"]


def test_a_table_reads_as_it_was_written() -> None:
    table = {"transforms": [{"name": "RandomResizedCrop", "size": 28, "scale": [0.4, 1.0]}], "per_image": False}
    read = validate(Views, table, "views")
    assert validate(Views, read.model_dump(mode="json"), "views") == read
    assert validate(Views, {}, "views") == Views(transforms=None, per_image=True)


@pytest.mark.parametrize(
    ("table", "end"),
    [
        ({"name": "RandomResizedCropp"}, "did you mean 'RandomResizedCrop'?"),
        ({"name": "CutMix"}, "is no transform of images here: did you mean"),
        ({"name": "zzz"}, "give a class of torchvision.transforms.v2, as 'RandomResizedCrop'"),
        ({"size": 3}, "each transform needs a name, as { name = 'RandomErasing', p = 0.5 }"),
        ({"name": "RandomAffine", "degree": 3}, "'degree' is no argument of RandomAffine: did you mean 'degrees'?"),
        ({"name": "RandomAffine"}, "RandomAffine needs degrees"),
        ({"name": "RandomErasing", "p": 2}, "RandomErasing: ValueError: "),
        ({"name": "RandomAffine", "degrees": 3, "interpolation": "bilinera"}, "did you mean 'bilinear'?"),
        ({"name": "RandomApply", "transforms": ["GaussianBlur"]}, "as a list of tables"),
        ({"name": "RandomApply", "transforms": [{"name": "GausianBlur"}]}, "did you mean 'GaussianBlur'?"),
    ],
)
def test_what_a_config_gets_wrong(table: dict[str, Any], end: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Views, {"transforms": [table]}, "views")
    message = str(caught.value)
    assert message.startswith("views.transforms = ")
    assert end in message
    assert "\n" not in message


@pytest.mark.parametrize("shape", [(6,), (4, 100)])
def test_only_images_have_views(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^views need images \[channels, height, width\], but a sample has shape "):
        Views().make(shape)


def test_transforms_that_do_not_suit_the_images() -> None:
    with pytest.raises(ConfigError, match=r"make \[1, 20, 20\] uint8 of \[1, 28, 28\] uint8: .* size = \[28, 28\]"):
        Views(transforms=({"name": "RandomCrop", "size": 20},)).make((1, 28, 28))
    five = {"name": "GaussianBlur", "kernel_size": 21}
    with pytest.raises(ConfigError, match=r"^views.transforms do not take images of shape \[1, 8, 8\]: RuntimeError: "):
        Views(transforms=(five,)).make((1, 8, 8))
