"""Image data sets that torchvision reads."""

from __future__ import annotations

import gzip
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.sets.place import expanded
from fedtl.data.settings import DataChoice

DIGITS = tuple(str(digit) for digit in range(10))


class Vision(DataChoice):
    """An image data set that torchvision reads, with an official test set.

    Mean and standard deviation are those of the official training set.

    Attributes:
        root: the folder that torchvision's data sets lie in; the environment variable FEDTL_DATA if not given.
        download: let torchvision fetch the data into ``root`` if they are not there.
    """

    reader: ClassVar[str]
    """The class in torchvision.datasets."""
    place: ClassVar[str]
    """What it looks for below ``root``."""

    root: str | None = None
    download: bool = False

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        train, test = self.open(train=True), self.open(train=False)
        x = np.concatenate([self.images(train), self.images(test)])
        y = np.concatenate([self.labels(train), self.labels(test)])
        first_test = len(self.labels(train))
        mean, std = channel_statistics(x[:first_test])
        names = self.names(train)
        return Dataset(x, y, len(names), mean, std, official_test=first_test, label_names=names)

    def open(self, train: bool) -> Any:
        """Torchvision's data set object."""
        from fedtl.data.torchvision_ops import import_torchvision

        root = self.folder()
        if root is None:
            raise ConfigError(
                f"data.name = {self.name!r}: set data.root or the environment variable FEDTL_DATA to the folder that "
                "torchvision's data sets lie in"
            )
        kind = getattr(import_torchvision().datasets, self.reader)
        try:
            return kind(root=str(root), download=self.download, **self.part(train))
        except Exception as error:  # torchvision raises whatever it meets: OSError, RuntimeError, EOFError, ...
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if self.download:
                raise ConfigError(f"data.download = true: {self.name!r} could not be had in {root}: {cause}") from error
            raise ConfigError(
                f"data.name = {self.name!r}: {root / self.place} is not there or cannot be read ({cause.rstrip('.')}); "
                "set data.download = true, or data.root or FEDTL_DATA to the folder that has it"
            ) from error

    def folder(self) -> Path | None:
        """Where the data sets lie, if anything says so."""
        root = self.root or os.environ.get("FEDTL_DATA")
        return expanded(root, "folder", "data.root") if root else None

    def part(self, train: bool) -> dict[str, Any]:
        """The reader's options for the training or the test set."""
        return {"train": train}

    def images(self, part: Any) -> NDArray[np.uint8]:
        """All images as ``[n, channels, height, width]``."""
        data: NDArray[np.uint8] = np.asarray(part.data)
        return data[:, None] if data.ndim == 3 else data.transpose(0, 3, 1, 2)

    def labels(self, part: Any) -> NDArray[np.int64]:
        """All labels."""
        return np.asarray(part.targets, np.int64)

    def names(self, part: Any) -> tuple[str, ...]:
        """A word per class."""
        return tuple(part.classes)


class IdxFiles(Vision):
    """One that lies there as four files in MNIST's format."""

    words: ClassVar[tuple[str, ...]]
    """A word per class."""

    def open(self, train: bool) -> Any:
        """What the files hold; torchvision's data set object where they are not all there, or not as they should be.

        Importing torchvision takes seconds, and 75 MiB for as long as the process lives.
        """
        root = self.folder()
        folder = root / self.place if root else None
        if folder and not (folder.parent / "processed").exists():  # where torchvision once kept them
            stem, other = ("train", "t10k") if train else ("t10k", "train")
            if all((folder / f"{other}-{kind}-ubyte").is_file() for kind in ("images-idx3", "labels-idx1")):
                with suppress(OSError, ValueError):
                    return self.part_of(folder, stem)
        return super().open(train)

    def names(self, part: Any) -> tuple[str, ...]:
        """A word per class."""
        return self.words

    def part_of(self, folder: Path, stem: str, ending: str = "") -> SimpleNamespace:
        """The training or the test set, as torchvision would give it."""
        data = read_idx(folder / f"{stem}-images-idx3-ubyte{ending}")
        targets = read_idx(folder / f"{stem}-labels-idx1-ubyte{ending}")
        if data.ndim != 3 or targets.shape != data.shape[:1]:
            raise ValueError(f"{folder} does not hold an image for each label")
        return SimpleNamespace(data=data, targets=targets, classes=self.words)


class MNIST(IdxFiles):
    """60,000 + 10,000 handwritten digits, 28 x 28."""

    reader: ClassVar[str] = "MNIST"
    place: ClassVar[str] = "MNIST/raw"
    words: ClassVar[tuple[str, ...]] = DIGITS
    name: str = "mnist"


class FashionMNIST(IdxFiles):
    """60,000 + 10,000 pieces of clothing, 28 x 28; Debian's package dataset-fashion-mnist will do as well."""

    reader: ClassVar[str] = "FashionMNIST"
    place: ClassVar[str] = "FashionMNIST/raw"
    debian: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")
    words: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    name: str = "fashion-mnist"

    def open(self, train: bool) -> Any:
        """Torchvision's data set object, or Debian's files where ``root`` does not have the data."""
        root = self.folder()
        if (root is None or not (root / self.place).is_dir()) and self.debian.is_dir() and not self.download:
            try:
                return self.part_of(self.debian, "train" if train else "t10k", ".gz")
            except (OSError, EOFError, ValueError) as error:
                raise ConfigError(f"data.name = {self.name!r}: {self.debian} cannot be read: {error}") from error
        return super().open(train)


class EMNIST(Vision):
    """Handwritten letters and digits, 28 x 28.

    Attributes:
        split: which of its six; "letters" has 26 classes, "balanced" 47, "byclass" 62.
    """

    reader: ClassVar[str] = "EMNIST"
    place: ClassVar[str] = "EMNIST/raw"
    name: str = "emnist"
    split: Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"] = "balanced"

    def part(self, train: bool) -> dict[str, Any]:
        """The reader's options."""
        return {"train": train, "split": self.split}

    def images(self, part: Any) -> NDArray[np.uint8]:
        """All images; the files hold them with rows and columns exchanged."""
        return super().images(part).swapaxes(2, 3)

    def labels(self, part: Any) -> NDArray[np.int64]:
        """All labels; the letters' begin at 1."""
        return super().labels(part) - (self.split == "letters")

    def names(self, part: Any) -> tuple[str, ...]:
        """The characters."""
        return tuple(name for name in part.classes if name != "N/A")


class USPS(Vision):
    """7,291 + 2,007 handwritten digits, 16 x 16, or whatever split ``usps.bz2`` and ``usps.t.bz2`` hold."""

    reader: ClassVar[str] = "USPS"
    place: ClassVar[str] = "usps.bz2"
    name: str = "usps"

    def names(self, part: Any) -> tuple[str, ...]:
        """The digits."""
        return DIGITS


class SVHN(Vision):
    """73,257 + 26,032 house numbers, 3 x 32 x 32."""

    reader: ClassVar[str] = "SVHN"
    place: ClassVar[str] = "train_32x32.mat"
    name: str = "svhn"

    def part(self, train: bool) -> dict[str, Any]:
        """The reader's options."""
        return {"split": "train" if train else "test"}

    def images(self, part: Any) -> NDArray[np.uint8]:
        """All images; torchvision has put the channels first already."""
        return np.asarray(part.data)

    def labels(self, part: Any) -> NDArray[np.int64]:
        """All labels."""
        return np.asarray(part.labels, np.int64)

    def names(self, part: Any) -> tuple[str, ...]:
        """The digits."""
        return DIGITS


class CIFAR10(Vision):
    """50,000 + 10,000 photographs of ten kinds of thing, 3 x 32 x 32."""

    reader: ClassVar[str] = "CIFAR10"
    place: ClassVar[str] = "cifar-10-batches-py"
    name: str = "cifar10"


class CIFAR100(Vision):
    """50,000 + 10,000 photographs of a hundred kinds of thing, 3 x 32 x 32."""

    reader: ClassVar[str] = "CIFAR100"
    place: ClassVar[str] = "cifar-100-python"
    name: str = "cifar100"


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes from a file in MNIST's format, gzipped or not: dtype, number of axes, their lengths, values."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path.name} is not a file of bytes in MNIST's format")
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
