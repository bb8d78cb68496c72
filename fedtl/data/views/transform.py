"""Transforms of a whole data set's images, which make another domain of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedtl.choice import ConfigError, Options
from fedtl.data.dataset import Samples, chunks
from fedtl.data.views.textures import SIDE, texture
from fedtl.random import Purpose


class ImageTransform(Options):
    """A change of all of a data set's images, in the order of the fields.

    Attributes:
        invert: 255 - x.
        rotate: counter-clockwise about the centre, in degrees; between quarters pixels are interpolated
            bilinearly, and what comes from outside the image is 0.
        photographs: |patch - x| for each colour of a random patch of a photograph: MNIST-M-like, after Ganin and
            Lempitsky 2015 (arXiv 1409.7495), who take patches of the 500 photographs of BSDS500. Here there are
            two, those that scikit-learn ships, so backgrounds differ less from image to image. Which patch a
            sample gets depends on its place in the data set alone. The result has 3 channels.
        textures: how many generated textures (:func:`~fedtl.data.views.textures.texture`) are taken besides the
            photographs; then half of the samples are over a patch of one of them. With ``photographs`` alone.
    """

    invert: bool = False
    rotate: float = Field(0.0, ge=-360, le=360)
    photographs: bool = False
    textures: int = Field(0, ge=0, le=500)

    @model_validator(mode="after")
    def _textures_are_backgrounds(self) -> ImageTransform:
        if self.textures and not self.photographs:
            raise ValueError(f"textures = {self.textures} are taken besides photographs; set photographs = true")
        return self

    def apply(self, images: Samples) -> Samples:
        """The changed images ``[n, channels, height, width]``; ``images`` are not written to.

        Raises:
            ConfigError: the images are no bytes, or have neither 1 nor 3 channels, or are larger than a photograph.
        """
        if images.dtype != np.uint8 and (self.invert or self.photographs):
            word = "invert" if self.invert else "photographs"
            raise ConfigError(
                f"data.transform.{word} = true: only bytes can be changed so, but images are {images.dtype}"
            )
        if self.invert:
            images = 255 - images
        if self.rotate % 360:
            images = _rotated(images, self.rotate % 360)
        if self.photographs:
            images = _over_photographs(images, self.textures)
        return images


def _rotated(images: Samples, degrees: float) -> Samples:
    from fedtl.data.partitions.rotated import rotate

    result = np.empty_like(images)
    for rows in chunks(np.arange(len(images))):
        result[rows] = rotate(images[rows], degrees)
    return result


def _over_photographs(images: Samples, textures: int) -> Samples:
    n, channels, height, width = images.shape
    photographs = _read_photographs()
    key = "data.transform.photographs = true"
    if channels not in (1, 3):
        raise ConfigError(f"{key}: only images with 1 or 3 channels can be changed so, but a sample has {channels}")
    least = min(photo.shape[1] for photo in photographs), min(photo.shape[2] for photo in photographs)
    if height > least[0] or width > least[1]:
        raise ConfigError(f"{key}: an image is {height} x {width}, but the photographs {least[0]} x {least[1]}")
    if textures and max(height, width) > SIDE:
        raise ConfigError(
            f"data.transform.textures = {textures}: an image is {height} x {width}, but a texture {SIDE} x {SIDE}; "
            "leave it out"
        )
    # A row of draws per sample, so that a sample's patch does not depend on how many others there are.
    draws = np.random.default_rng(Purpose.PATCHES).random((n, 3))
    if textures:  # the first half of the draws is the photographs'
        on_texture, place = draws[:, 0] >= 0.5, 2 * draws[:, 0] % 1
        which = np.where(on_texture, len(photographs) + place * textures, place * len(photographs)).astype(np.int64)
    else:
        which = (draws[:, 0] * len(photographs)).astype(np.int64)
    result = np.empty((n, 3, height, width), np.uint8)
    for number in np.unique(which).tolist():
        picture = photographs[number] if number < len(photographs) else texture(number - len(photographs))
        windows = sliding_window_view(picture, (height, width), axis=(1, 2))
        for rows in chunks(np.flatnonzero(which == number)):
            top = (draws[rows, 1] * windows.shape[1]).astype(np.int64)
            left = (draws[rows, 2] * windows.shape[2]).astype(np.int64)
            patches = windows[:, top, left].swapaxes(0, 1).astype(np.int16)
            result[rows] = abs(patches - images[rows])
    return result


def _read_photographs() -> list[NDArray[np.uint8]]:
    """Scikit-learn's photographs, each ``[3, height, width]``."""
    from PIL import Image

    # The files are read directly: importing scikit-learn takes longer than all else that a small run begins with.
    package = importlib.util.find_spec("sklearn")
    folder = Path((package.origin if package else None) or "").parent / "datasets" / "images"
    photographs = []
    for name in ("china.jpg", "flower.jpg"):
        try:
            with Image.open(folder / name) as image:
                photographs.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        except OSError as error:
            raise ConfigError(
                f"data.transform.photographs = true: {folder / name} of scikit-learn cannot be read; "
                "install scikit-learn"
            ) from error
    return photographs
