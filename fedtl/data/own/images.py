"""A participant's own data as a folder of image files, and images of the size that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedtl.choice import ConfigError
from fedtl.data.dataset import Samples
from fedtl.data.memory import need_memory
from fedtl.data.own.listing import unread
from fedtl.data.own.part import DOMAIN, FRAME, HELD_OUT, PARTS, TEST, TRAIN, VALIDATION, Part, has_labels
from fedtl.data.views.images import resize, with_channels
from fedtl.random import derived_seed

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})

MODES = {"L": "L", "1": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
"""Pillow's modes whose values are bytes, and what is made of them: grey, or red, green and blue."""

Change = Callable[[str, Samples], Samples]
"""``change(where, images)``: the images as they are asked for."""


def read_images(folder: Path, wanted: Sequence[str], test_share: float, change: Change) -> dict[str, Part]:
    """The wanted parts of a folder with ``train/CLASS/*.png`` and so on, or of one with ``CLASS/*.png`` alone.

    Of the latter ``test_share`` is the test part, decided for each file by a hash of its name and class alone; all of
    it where no training part is wanted.

    Raises:
        ConfigError: a file cannot be read, or images differ in size or mode.
    """
    files: dict[str, list[tuple[Path, str]]] = {}
    places: dict[str, list[int]] = {}
    # A folder with validation samples has training samples beside them; alone, its name is a class's.
    parted = any((folder / part).is_dir() for part in (*PARTS, *wanted) if part != VALIDATION)
    if parted:
        for part in wanted:
            files[part] = list(files_in(folder / part, has_labels(part)))
    else:
        for place, (file, kind) in enumerate(files_in(folder, True)):
            drawn = TRAIN not in wanted or derived_seed(kind, file.name) < test_share * 2**56
            files.setdefault(TEST if drawn else TRAIN, []).append((file, kind))
            places.setdefault(TEST if drawn else TRAIN, []).append(place)
        if TRAIN in wanted and files and TRAIN not in files:
            raise ConfigError(f"{folder}: test_share = {test_share:g} leaves no image to train with; make it smaller")
    parts, like = dict[str, Part](), list[tuple[Path, tuple[int, ...]]]()
    for part, entries in files.items():
        if entries:
            x = np.concatenate([read_image(file, change, like) for file, _ in entries])
            y = np.array([kind for _, kind in entries]) if has_labels(part) else None
            where = str(folder / part) if (folder / part).is_dir() else str(folder)
            notes = () if parts else _unread(folder, files, parted)
            parts[part] = Part(where, x, y, notes, places=np.array(places[part]) if part in places else None)
    return parts


def _unread(folder: Path, files: Mapping[str, Sequence[tuple[Path, str]]], parted: bool) -> tuple[str, ...]:
    """A sentence on what of a folder's parts, or of its classes where it has none, is no image that is read."""
    read = {file for entries in files.values() for file, _ in entries}
    if not parted:
        return not_images(folder, {*read, folder / DOMAIN})
    known = {folder / name for part in (*PARTS, HELD_OUT, *files) for name in (part, part.partition("/")[0])}
    notes = unread(folder, {*known, folder / DOMAIN, folder / FRAME}, f"parts are {', '.join(PARTS)}")
    return (*notes, *(note for part in files if (folder / part).is_dir() for note in not_images(folder / part, read)))


def not_images(folder: Path, read: Collection[Path]) -> tuple[str, ...]:
    """A sentence on what of a folder of images, or of classes, is none that is ``read``."""
    classes = [each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]
    return unread(folder, read, f"images are {', '.join(sorted(SUFFIXES))}", classes)


def changed(where: str, images: Samples, size: int | None, channels: int | None) -> Samples:
    """Images ``[n, channels, height, width]`` with another height and width, and another number of channels.

    Raises:
        ConfigError: these samples cannot be changed so.
    """
    for key, value in (("size", size), ("channels", channels)):
        if value is not None and images.ndim != 4:
            raise ConfigError(
                f"{where}: {key} = {value}: only images [channels, height, width] can be changed so, but a sample has "
                f"shape {list(images.shape[1:])}"
            )
    if size is not None:
        need_memory(f"{where}: size = {size}", images.itemsize * len(images) * images.shape[1] * size**2)
        images = resize(images, size, size)
    if channels is not None:
        if images.shape[1] not in (1, 3):
            raise ConfigError(
                f"{where}: channels = {channels}: only images with 1 or 3 channels have others, but these have "
                f"{images.shape[1]}"
            )
        images = with_channels(images, channels)
    return images


def files_in(folder: Path, classes: bool) -> Iterator[tuple[Path, str]]:
    """All images with the names of the folders that they stand in, which are their classes."""
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from ((file, entry.name) for file in sorted(entry.iterdir()) if _is_image(file))
        elif _is_image(entry):
            if classes:
                raise ConfigError(f"{entry} stands in no class's folder; move it to {folder / 'CLASS' / entry.name}")
            yield entry, ""


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def read_image(file: Path, change: Change, like: list[tuple[Path, tuple[int, ...]]]) -> Samples:
    """One image as ``[1, channels, height, width]``; ``like`` holds the first one's file and shape, or nothing yet."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            mode = MODES.get(opened.mode)
            pixels = None if mode is None else np.asarray(opened.convert(mode))
            name = opened.mode
    except Exception as error:  # Pillow raises whatever it meets: OSError, SyntaxError, struct.error, ...
        raise ConfigError(f"{file} is not an image that Pillow can read; replace or remove it") from error
    if pixels is None:
        raise ConfigError(f"{file}: an image of Pillow's mode {name} is not of bytes; save it as 8-bit grey or RGB")
    image: Samples = pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]
    image = change(str(file), image)
    if not like:
        like.append((file, image.shape))
    first, shape = like[0]
    if image.shape != shape:
        raise ConfigError(
            f"{file}: the image has [channels, height, width] = {list(image.shape[1:])}, but {list(shape[1:])} in "
            f"{first}; make them alike, or say size and channels"
        )
    return image
