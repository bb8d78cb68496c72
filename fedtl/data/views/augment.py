"""Views for self-supervision: random augmentations of a batch of images, by torchvision.transforms.v2.

A transform of torchvision's draws its random numbers once per call, so a batch given to it whole is rotated by
one angle. Self-supervision wants each image its own (``per_image``). One call per image costs more than a small
network's training step, nearly all of it overhead; so for the slow transforms of the presets torchvision draws
each image's numbers, and the arithmetic is done once for the batch, with torchvision's formulas
(:data:`_BATCHED`). The tests hold each to torchvision's own result, image by image.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import field_validator
from torch import Tensor
from torch.nn import functional as F

from fedtl.choice import ConfigError, Options, nearest
from fedtl.data.torchvision_ops import import_torchvision

View = Callable[[Tensor, int], Tensor]
"""``view(raw, seed)``: images ``[n, channels, height, width]`` uint8 or float32 to as many of equal shape and type."""

FROM_0_TO_1 = frozenset(
    {
        *("AugMix", "AutoAugment", "ColorJitter", "GaussianNoise", "RandAugment", "RandomAdjustSharpness"),
        *("RandomAutocontrast", "RandomEqualize", "RandomInvert", "RandomPhotometricDistort", "RandomPosterize"),
        *("RandomSolarize", "TrivialAugmentWide"),
    }
)
"""Transforms to which images that are no bytes lie from 0 to 1: they cut off what does not, or change it otherwise."""

_LARGE = 64
"""From this height or width on, colour images get the augmentation that SimCLR has for ImageNet."""


class Views(Options):
    """How an image is changed at random into another view of the same thing.

    Attributes:
        transforms: classes of torchvision.transforms.v2 with their keyword arguments, applied in order, as
            ``{ name = "RandomResizedCrop", size = 28, scale = [0.4, 1.0] }``; those that hold others, as
            RandomApply, take them in the same way: ``transforms = [{ name = ... }]``. If not given, what suits the
            images: SimCLR's augmentation (Chen et al. 2020) for colour ones; rotation, shift, scale, shear, blur
            and erasing for others. The latter never mirror: a mirrored digit is another one or none.
        per_image: whether each image of a batch gets random numbers of its own; if not, all get the same ones,
            which is faster.
    """

    transforms: tuple[dict[str, Any], ...] | None = None
    per_image: bool = True

    @field_validator("transforms")
    @classmethod
    def _can_be_made(cls, tables: tuple[dict[str, Any], ...] | None) -> tuple[dict[str, Any], ...] | None:
        if tables is not None:
            _transforms(tables)
        return tables

    def make(self, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> View:
        """The function that makes views of images ``[n, *shape]``, tried once.

        Its random numbers come from its ``seed`` alone, and every other generator is left as it was. On a GPU the
        numbers that torchvision draws there depend on the seed as well, but are others than on a CPU.

        Args:
            shape: of one image, ``[channels, height, width]``.
            dtype: uint8 or float32; torchvision takes the latter's values to lie in 0..1.

        Raises:
            ConfigError: these are no images, or the transforms do not suit them.
        """
        if len(shape) != 3:
            raise ConfigError(
                f"views need images [channels, height, width], but a sample has shape {list(shape)}; choose images, "
                "or a method without views"
            )
        tables = preset(shape) if self.transforms is None else self.transforms
        steps = _transforms(tables)
        apply = _each if self.per_image else _together

        def view(raw: Tensor, seed: int) -> Tensor:
            if not len(raw):
                return raw.clone()
            devices = [raw.device] if raw.is_cuda else []
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                # torch.manual_seed would do as well, but takes longer than some transforms: it looks for devices.
                torch.default_generator.manual_seed(seed)
                for device in devices:
                    with torch.cuda.device(device):
                        torch.cuda.manual_seed(seed)
                x = raw
                for step in steps:
                    x = apply(step, x)
            return x

        _try(view, shape, dtype)
        return view

    def from_0_to_1(self, shape: Sequence[int]) -> list[str]:
        """Which of the transforms of images ``[channels, height, width]`` take what is no bytes to lie from 0 to 1."""
        tables = preset(shape) if self.transforms is None else self.transforms
        return sorted({*_names(tables)} & FROM_0_TO_1)


def preset(shape: Sequence[int]) -> tuple[dict[str, Any], ...]:
    """The transforms for images ``[channels, height, width]`` where a config names none.

    Three channels: SimCLR's (Chen et al. 2020, appendix A and, for small images, B.9: colours at half the
    strength and no blur). Others: what a hand does to a digit, and no more than leaves its class visible.
    """
    channels, height, width = shape
    small = min(height, width) < _LARGE
    if channels == 3:
        s = 0.5 if small else 1.0
        jitter = {
            "name": "ColorJitter",
            "brightness": 0.8 * s,
            "contrast": 0.8 * s,
            "saturation": 0.8 * s,
            "hue": 0.2 * s,
        }
        blur = {"name": "GaussianBlur", "kernel_size": _odd(0.1 * min(height, width)), "sigma": [0.1, 2.0]}
        colour: tuple[dict[str, Any], ...] = (
            {"name": "RandomResizedCrop", "size": [height, width], "scale": [0.08, 1.0]},
            {"name": "RandomHorizontalFlip"},
            {"name": "RandomApply", "transforms": [jitter], "p": 0.8},
            {"name": "RandomGrayscale", "p": 0.2},
        )
        return colour if small else (*colour, {"name": "RandomApply", "transforms": [blur], "p": 0.5})
    tiny = min(height, width) < 16  # scikit-learn's digits: a pixel is an eighth of them, and a blur leaves nothing
    affine = {
        "name": "RandomAffine",
        "degrees": 10 if tiny else 15,
        "translate": [0.1, 0.1],
        "scale": [0.9, 1.1] if tiny else [0.8, 1.2],
        "shear": 5 if tiny else 10,
        "interpolation": "bilinear",
    }
    blur = {"name": "GaussianBlur", "kernel_size": _odd(0.1 * min(height, width)), "sigma": [0.1, 1.0]}
    erase = {"name": "RandomErasing", "p": 0.5, "scale": [0.02, 0.1]}
    if tiny:
        return affine, erase
    return affine, {"name": "RandomApply", "transforms": [blur], "p": 0.5}, erase


def _names(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The transforms' names, with those of transforms that others hold."""
    for table in tables:
        yield table["name"]
        yield from _names(table.get("transforms", ()))


def _odd(size: float) -> int:
    return max(3, 2 * (int(size) // 2) + 1)


def _v2() -> Any:
    import_torchvision()
    return importlib.import_module("torchvision.transforms.v2")


def _transforms(tables: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Tables as transforms.

    Raises:
        ConfigError: the end of a sentence that says what is wrong with one of them.
    """
    return [_transform(table) for table in tables]


def _transform(table: Mapping[str, Any]) -> Any:
    v2, options = _v2(), dict(table)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("each transform needs a name, as { name = 'RandomErasing', p = 0.5 }")
    kinds = _kinds(v2)
    if name not in kinds:
        hint = nearest(name, kinds)
        hint = hint if hint.startswith("did") else "give a class of torchvision.transforms.v2, as 'RandomResizedCrop'"
        raise ConfigError(f"{name!r} is no transform of images here: {hint}")
    taken = inspect.signature(kinds[name].__init__).parameters
    known = [key for key in taken if key != "self"]
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f"{key!r} is no argument of {name}: {nearest(key, known)}")
        if key == "interpolation":  # an older torchvision takes no words
            modes = {mode.value: mode for mode in v2.InterpolationMode}
            if value not in modes:
                raise ConfigError(f"{name} has no interpolation {value!r}: {nearest(str(value), modes)}")
            options[key] = modes[value]
        if key == "transforms":
            if not isinstance(value, Sequence) or not all(isinstance(each, Mapping) for each in value):
                raise ConfigError(f"{name} takes its transforms as a list of tables, as [{{ name = 'GaussianBlur' }}]")
            options[key] = _transforms(value)
    missing = [key for key in known if key not in options and taken[key].default is inspect.Parameter.empty]
    if missing:
        raise ConfigError(f"{name} needs {', '.join(missing)}")
    try:
        return kinds[name](**options)
    except Exception as error:  # whatever torchvision says to a wrong value
        raise ConfigError(f"{name}: {_said(error)}") from error


def _kinds(v2: Any) -> dict[str, Any]:
    """Classes of transforms by name; not what a table cannot give (a function), nor what mixes images' labels."""
    other = {"Transform", "Lambda", "CutMix", "MixUp"}
    kinds = {name: getattr(v2, name) for name in dir(v2) if name not in other}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, v2.Transform)}


def _try(view: View, shape: Sequence[int], dtype: torch.dtype) -> None:
    raw = torch.zeros(8, *shape, dtype=dtype)
    try:
        made = view(raw, 0)
    except Exception as error:  # what a transform says to images that it does not take
        raise ConfigError(f"views.transforms do not take images of shape {list(shape)}: {_said(error)}") from error
    if made.shape != raw.shape or made.dtype != raw.dtype:
        shapes = [f"{list(each.shape[1:])} {str(each.dtype).removeprefix('torch.')}" for each in (made, raw)]
        raise ConfigError(
            f"views.transforms make {shapes[0]} of {shapes[1]}: a view must have its image's shape and type, so end "
            f"with size = {list(shape[1:])} where a transform crops or resizes"
        )


def _said(error: Exception) -> str:
    words = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


# One transform on a batch.


def _together(transform: Any, x: Tensor) -> Tensor:
    """All images with the same random numbers."""
    made: Tensor = transform(x)
    return made


def _each(transform: Any, x: Tensor) -> Tensor:
    """Every image with random numbers of its own."""
    name = type(transform).__name__
    if name == "Compose":
        for inner in transform.transforms:
            x = _each(inner, x)
        return x
    if name == "RandomApply":
        chosen = (torch.rand(len(x)) < transform.p).nonzero().squeeze(1).to(x.device)
        made = x[chosen]
        for inner in transform.transforms if len(chosen) else ():
            made = _each(inner, made)
        return x.index_copy(0, chosen, made)
    if name in _BATCHED:
        done = _BATCHED[name](transform, x)
        if done is not None:
            return done
    return torch.stack([transform(image) for image in x])


def _drawn(transform: Any, x: Tensor) -> list[dict[str, Any]]:
    """What torchvision draws for each image."""
    return [transform.make_params([image]) for image in x]


def _column(values: Sequence[float], x: Tensor) -> Tensor:
    """A number per image, ``[n, 1, 1, 1]``."""
    return torch.tensor(values, dtype=torch.float32, device=x.device).view(-1, 1, 1, 1)


def _affine(transform: Any, x: Tensor) -> Tensor | None:
    mode = getattr(transform.interpolation, "value", transform.interpolation)
    fill = transform.fill
    if not isinstance(fill, int | float) or transform.center is not None or mode not in ("nearest", "bilinear"):
        return None
    n, _, height, width = x.shape
    theta = torch.tensor([_inverse_affine(**drawn) for drawn in _drawn(transform, x)]).view(n, 2, 3)
    # Pixels from the centre, where the matrices are; grid_sample's borders are at -1 and 1.
    xs = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width)
    ys = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height)
    base = torch.stack([*torch.meshgrid(xs, ys, indexing="xy"), torch.ones(height, width)], -1).view(1, -1, 3)
    grid = base @ (theta.transpose(1, 2) / torch.tensor([0.5 * width, 0.5 * height]))
    grid = grid.view(n, height, width, 2).to(x.device)
    # What comes from outside is the fill; the mask says how much of each pixel does.
    inside = torch.cat([x.float(), torch.ones(n, 1, height, width, device=x.device)], 1)
    moved = F.grid_sample(inside, grid, mode=mode, padding_mode="zeros", align_corners=False)
    made, mask = moved[:, :-1], moved[:, -1:]
    made = torch.where(mask < 0.5, float(fill), made) if mode == "nearest" else (made - fill) * mask + fill
    return made.round().to(x.dtype) if x.dtype == torch.uint8 else made


def _inverse_affine(
    angle: float, translate: Sequence[float], scale: float, shear: Sequence[float]
) -> tuple[float, float, float, float, float, float]:
    """Where a pixel of the result comes from: the inverse of shift · rotation · shear · scale, about the centre."""
    rot, sx, sy = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    a = math.cos(rot - sy) / math.cos(sy)
    b = -a * math.tan(sx) - math.sin(rot)
    c = math.sin(rot - sy) / math.cos(sy)
    d = -c * math.tan(sx) + math.cos(rot)
    (m0, m1), (m3, m4) = (d / scale, -b / scale), (-c / scale, a / scale)
    tx, ty = translate
    return m0, m1, -m0 * tx - m1 * ty, m3, m4, -m3 * tx - m4 * ty


def _blur(transform: Any, x: Tensor) -> Tensor | None:
    n, _, height, width = x.shape
    across, down = transform.kernel_size
    if across // 2 >= width or down // 2 >= height:
        return None  # reflected padding is smaller than the image; torchvision says so
    sigma = torch.tensor([drawn["sigma"] for drawn in _drawn(transform, x)])

    def bells(size: int, sigma: Tensor) -> Tensor:
        most = (size - 1) / (2.0 * math.sqrt(2.0))
        return torch.linspace(-most, most, size).div(sigma[:, None]).square().neg().softmax(1)

    kernels = bells(down, sigma[:, 1])[:, :, None] * bells(across, sigma[:, 0])[:, None, :]
    # An image's channels as the batch and images as groups: each is blurred with its own kernel.
    planes = x.float().transpose(0, 1)
    planes = F.pad(planes, (across // 2, across // 2, down // 2, down // 2), mode="reflect")
    made = F.conv2d(planes, kernels.unsqueeze(1).to(x.device), groups=n).transpose(0, 1)
    return made.round().to(x.dtype) if x.dtype == torch.uint8 else made


def _jitter(transform: Any, x: Tensor) -> Tensor | None:
    if x.shape[1] != 3:
        return None
    drawn = _drawn(transform, x)
    order = torch.stack([each["fn_idx"] for each in drawn])  # [n, 4], whose numbers are the positions below
    parts = (("brightness", _brightness), ("contrast", _contrast), ("saturation", _saturation), ("hue", _hue))
    x = x.clone()
    for column in order.T:
        for number, (name, change) in enumerate(parts):
            rows = (column == number).nonzero().squeeze(1)
            if getattr(transform, name) is not None and len(rows):
                factor = _column([drawn[row][f"{name}_factor"] for row in rows.tolist()], x)
                rows = rows.to(x.device)
                x[rows] = change(x[rows], factor)
    return x


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return _clamped(x * factor, x)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    return _clamped(x * factor + _grey(x).mean((1, 2, 3), keepdim=True) * (1 - factor), x)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _clamped(x * factor + _grey(x) * (1 - factor), x)


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.unbind(1)
    grey = (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)
    return grey.floor() if x.dtype == torch.uint8 else grey


def _clamped(made: Tensor, x: Tensor) -> Tensor:
    return made.clamp(0, 255 if x.dtype == torch.uint8 else 1).to(x.dtype)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the colours' circle by ``shift`` of a whole turn; value and chroma of each pixel stay."""
    unit = x / 255 if x.dtype == torch.uint8 else x
    red, green, blue = unit.unbind(1)
    value = unit.amax(1)
    chroma = value - unit.amin(1)
    by = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        value == red, (green - blue) / by, torch.where(value == green, (blue - red) / by + 2, (red - green) / by + 4)
    )
    # The n-th of a colour's sixths, as (5, 3, 1) for red, green, blue: en.wikipedia.org/wiki/HSL_and_HSV, HSV to RGB.
    start = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = (sixths.unsqueeze(1) + 6 * shift + start) % 6
    made = value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)
    return (made * (256 - 1e-3)).to(x.dtype) if x.dtype == torch.uint8 else made


_BATCHED: dict[str, Callable[[Any, Tensor], Tensor | None]] = {
    "ColorJitter": _jitter,
    "GaussianBlur": _blur,
    "RandomAffine": _affine,
}
"""Transforms whose arithmetic is done for all images at once; None where an image's must be torchvision's own."""
