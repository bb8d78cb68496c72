"""What a user's own arrays must be: samples, labels, and whose each sample is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.dataset import Samples

Labels = NDArray[np.int64] | NDArray[np.str_]
"""Whole numbers from 0, or words."""

UNLABELLED = -1
"""Stands for the label of a training sample that has none; among words, ``"-1"`` does."""

MOST_CLASSES = 100_000
"""More are taken for a mistake, such as dates or the numbers of articles: a model has a row of weights for each."""

FEW_CLASSES = 1000
"""So many classes need no sample each: there are data sets that have them, and a small part of one is still right."""

AS_WORDS = "save them as words, y.astype(str), which are numbered in their order"

CHANNELS = (1, 3, 4)
"""How many channels images usually have."""

SMALLEST_IMAGE = 8
"""An image's height and width are at least that."""

SQUARE_IMAGE = 16
"""Samples as long in their first two axes, which have 3 or 4 in their last, are images whatever their values."""

STEPS = 256
"""A column with fewer steps of float32 from its smallest to its largest number has lost digits that may matter."""

_MISSING_WORDS = ("", "nan", "NaN", "NaT", "<NA>")


def samples(where: str, x: NDArray[Any]) -> Samples:
    """``x`` as samples are stored: bytes as they are, [n, height, width] with one channel; other numbers as float32.

    Raises:
        ConfigError: it holds no samples, or no numbers; ``where`` begins the message.
    """
    if x.dtype.kind not in "fiu":
        raise ConfigError(f"{where} holds {x.dtype}; samples are numbers, as uint8 or float32")
    if x.ndim < 2:
        raise ConfigError(f"{where} has shape {list(x.shape)}; samples need [n, ...], with one axis or more each")
    if x.size == 0:
        raise ConfigError(f"{where} is empty, shape {list(x.shape)}; leave out what holds no sample")
    if x.dtype == np.uint8:
        return x[:, None] if x.ndim == 3 else x
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is named below
        x = x.astype(np.float32)
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise ConfigError(
            f"{where}: {(~finite).sum()} samples, the first at {np.argmin(finite)}, have values that are NaN or "
            "infinite in float32; remove or replace them"
        )
    return x


def check_alike(what: str, x: NDArray[Any], there: str, other: NDArray[Any]) -> None:
    """Check that the samples of two arrays are stored alike.

    Args:
        what: what one of the first is called, which begins an error's message.
        x: the first.
        there: where the others are, and perhaps what to do about it.
        other: the others.

    Raises:
        ConfigError: they differ in shape or type.
    """
    if (x.dtype, x.shape[1:]) != (other.dtype, other.shape[1:]):
        raise ConfigError(
            f"{what} is {x.dtype} {list(x.shape[1:])}, but {other.dtype} {list(other.shape[1:])} in {there}"
        )


def is_whole(x: NDArray[Any]) -> bool:
    """Whether ``x`` holds whole numbers that are no bytes, as token ids are."""
    return x.dtype.kind in "iu" and x.dtype != np.uint8


def doubts(where: str, x: NDArray[Any]) -> tuple[str, ...]:
    """A sentence for whatever :func:`samples` does to ``x`` that may not be what was meant."""
    if x.dtype == np.uint8:
        if x.ndim != 2:
            return ()
        return (
            f"{where} holds bytes, which are divided by 255 as those of images are; if these are no such values but "
            "counts or token ids, save them as int64",
        )
    if is_whole(x):
        return _inexact(where, x)
    return _too_close(where, x) if x.dtype.itemsize > 4 else ()


def _inexact(where: str, x: NDArray[Any]) -> tuple[str, ...]:
    """Whole numbers that float32 does not have."""
    if x.dtype.itemsize < 4 or -(2**24) <= int(x.min()) <= int(x.max()) <= 2**24:
        return ()
    size = np.abs(x).astype(np.uint64)
    last = size & (~size + np.uint64(1))  # the last bit that is set; float32 has room for 24 from the first one on
    changed = size // np.maximum(last, 1) >= 2**24
    if not changed.any():
        return ()
    value = x[changed][0]
    return (
        f"{where}: {changed.sum()} whole numbers beyond 2**24 are rounded to float32, as {value} to "
        f"{int(np.float32(value))}; subtract what is common to all, or leave numbers out that only name something",
    )


def _too_close(where: str, x: NDArray[Any]) -> tuple[str, ...]:
    """Columns whose numbers differ by so little that float32 hardly tells them apart."""
    axes = tuple(range(1, x.ndim - 1))  # of [n, *shape] without its first axis: all but a sample's first
    low, high = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
    low, high = (low.min(axis=axes), high.max(axis=axes)) if axes else (low, high)
    size, spread = np.maximum(abs(low), abs(high)), high - low
    # What differs by a few of float64's own steps was a constant before it was computed.
    close = (spread > 2.0**-40 * size) & (spread < STEPS * np.finfo(np.float32).eps * size)
    return tuple(
        f"{where}: number {place} of a sample goes from {float(low[place])!r} to {float(high[place])!r}, which float32 "
        f"hardly tells apart; subtract {low[place]:g} first"
        for place in np.flatnonzero(close)[:1]
    )


def check_layout(where: str, x: NDArray[Any]) -> str | None:
    """Check that images have their channels first; a note where they may have them last.

    Images of NumPy, Pillow and TensorFlow are [height, width, channels]. Samples of three axes, of which the last is 1,
    3 or 4 long, may be such images, or sensors, joints or frequencies over time, which only their user can tell apart:
    that is a note. It is an error where hardly anything but an image is like that:

    - the first two axes are a height and a width: both 8 or more, neither twice the other or more, and the first is no
      number of channels;
    - the last is 3 or 4, or 1 of bytes;
    - the values are an image's: bytes, or numbers that are all from 0 to 255 (or to 1), or 16 bits without a sign; or
      the first two axes are equal and 16 or more, as those of images that were scaled to whatever else.

    Args:
        where: begins the message.
        x: samples as they are stored, ``[n, *shape]``.

    Raises:
        ConfigError: they have them last.
    """
    shape = x.shape[1:]
    if len(shape) != 3:
        return None
    first, second, last = shape
    if last not in CHANNELS or second == last:
        return None
    text = f"{where} looks like [n, height, width, channels] = [n, {first}, {second}, {last}]"
    remedy = "transpose it to [n, channels, height, width], by x.transpose(0, 3, 1, 2)"
    size = min(first, second) >= SMALLEST_IMAGE and max(first, second) < 2 * min(first, second)
    like_pixels = _like_pixels(x) or (last > 1 and first == second >= SQUARE_IMAGE)
    if size and first not in CHANNELS and (last > 1 or x.dtype == np.uint8) and like_pixels:
        raise ConfigError(f"{text}; {remedy}")
    return f"{text}, and is taken as {first} channels of {second} x {last}; if it is not, {remedy}"


def _like_pixels(x: NDArray[Any]) -> bool:
    return x.dtype in (np.uint8, np.uint16) or (x.size > 0 and bool(x.min() >= 0) and bool(x.max() <= 255))


def labels(where: str, y: NDArray[Any], n: int, least: int = 0) -> Labels:
    """``y`` as the labels of ``n`` samples: whole numbers (also as bool or float), or words; [n, 1] is as good as [n].

    Args:
        where: begins an error's message.
        y: as it was saved.
        n: number of samples.
        least: 0, or :data:`UNLABELLED` where samples may have no label.

    Raises:
        ConfigError: they are not that.
    """
    if y.shape == (n, 1):
        y = y[:, 0]
    if y.shape != (n,):
        raise ConfigError(f"{where} {_shape_of_labels(y, n)}")
    if y.dtype.kind == "O":
        y = _of_objects(where, y)
    if y.dtype.kind == "S":
        y = _decoded(where, y)
    if y.dtype.kind == "U":
        _check_words(where, y, "label", _MISSING_WORDS)
        if least == 0 and (y == str(UNLABELLED)).any():
            raise ConfigError(f"{where} has the label -1: only training samples of a deployment may be without a label")
        return y.astype(np.str_)
    if y.dtype.kind in "mM":
        raise ConfigError(f"{where} holds {y.dtype}; labels are whole numbers from 0, or words: {AS_WORDS}")
    if y.dtype.kind == "f":
        _check_whole(where, y)
    elif y.dtype.kind not in "iub":
        raise ConfigError(f"{where} holds {y.dtype}; labels are whole numbers from 0, or words")
    smallest, largest = int(y.min(initial=0)), int(y.max(initial=0))
    if least == 0 and smallest == -1 and largest == 1 and not (y == 0).any():
        raise ConfigError(f"{where} holds -1 and 1; labels begin at 0: save (y + 1) // 2")
    if smallest < least:
        begin = "labels begin at 0" + (", and -1 is a training sample that has none" if least else "")
        raise ConfigError(f"{where} has the label {_short(smallest)}; {begin}; {AS_WORDS}")
    if largest >= MOST_CLASSES:
        raise ConfigError(
            f"{where} has the label {_short(largest)}; labels are 0, 1, 2, ..., and {MOST_CLASSES:,} classes are the "
            f"most; if these numbers are names, {AS_WORDS}"
        )
    return y.astype(np.int64)


def _short(number: int) -> str:
    """A whole number, without the 300 digits that one of a float may have; integers are never beyond 2**64."""
    return str(number) if abs(number) <= 2**64 else f"{float(number):g}"


def _shape_of_labels(y: NDArray[Any], n: int) -> str:
    """What is wrong with the shape of labels, as the end of a sentence."""
    shape = list(y.shape)
    if y.ndim != 2 or len(y) != n:
        return f"has shape {shape}; the {n} samples of its x need [{n}]"
    if y.dtype.kind in "biuf" and y.shape[1]:
        if ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all():
            return f"is one-hot, shape {shape}: save y.argmax(1)"
        if y.dtype.kind == "f" and (y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3):
            return f"holds probabilities, shape {shape}; a sample has one class: save y.argmax(1)"
        if ((y == 0) | (y == 1)).all():
            return f"marks several classes a sample, or none, shape {shape}; each sample needs one class, [{n}]"
    return f"has shape {shape}; a sample has one label, so the {n} samples of its x need [{n}]"


def _decoded(where: str, words: NDArray[Any]) -> NDArray[Any]:
    """Words that were stored as bytes."""
    try:
        return np.char.decode(words, "utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} holds bytes that are no words in UTF-8; save words as str") from error


def _of_objects(where: str, y: NDArray[Any]) -> NDArray[Any]:
    """Labels that Python holds, as pandas does: all words, or all whole numbers."""
    for kind in (str, (int, np.integer)):
        if all(isinstance(each, kind) for each in y):
            plain = np.array(y.tolist())
            if plain.dtype.kind != "O":  # else some are beyond 2**64
                return plain
    missing = [i for i, each in enumerate(y) if each is None or each != each]  # NaN is unlike itself
    if missing:
        raise ConfigError(f"{where}: {len(missing)} labels, the first at {missing[0]}, are missing; leave these out")
    raise ConfigError(f"{where} holds objects of Python; labels are whole numbers from 0, or words")


def _check_whole(where: str, y: NDArray[Any]) -> None:
    finite = np.isfinite(y)
    if not finite.all():
        raise ConfigError(
            f"{where}: {(~finite).sum()} labels, the first at {np.argmin(finite)}, are NaN or infinite; leave these "
            "samples out"
        )
    whole = np.rint(y) == y
    if not whole.all():
        raise ConfigError(
            f"{where} holds {y.dtype}, as {y[~whole][0]:g}; labels are whole numbers from 0, or words; numbers are "
            "predicted by data.task = 'regression' (fedtl deploy client --task regression)"
        )


def _check_words(where: str, words: NDArray[Any], what: str, missing: Sequence[str]) -> None:
    """Check that no word stands for a missing one, as pandas writes them."""
    lost = np.isin(np.char.strip(words), missing)
    if lost.any():
        raise ConfigError(
            f"{where}: {lost.sum()} samples, the first at {np.argmax(lost)}, have no {what} but "
            f"{str(words[np.argmax(lost)])!r}; give each one, or leave these samples out"
        )


def numbered(each: Sequence[tuple[str, Labels]]) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Several parts' labels as whole numbers, and the words that these are places in, if labels are words.

    Args:
        each: the file or folder that a part is from, and its labels.

    Raises:
        ConfigError: some are words and some numbers.
    """
    for where, y in each:
        if y.dtype.kind != each[0][1].dtype.kind:
            kinds = ["words" if one.dtype.kind == "U" else "whole numbers" for one in (y, each[0][1])]
            raise ConfigError(f"{where}: its labels are {kinds[0]}, but {kinds[1]} in {each[0][0]}")
    if not each or each[0][1].dtype.kind != "U":
        return np.concatenate([np.empty(0, np.int64), *(y for _, y in each)]), None
    words = np.concatenate([y for _, y in each])
    names = np.setdiff1d(words, [str(UNLABELLED)])
    if len(names) > MOST_CLASSES:
        raise ConfigError(
            f"{each[0][0]}: its labels are {len(names):,} different words; {MOST_CLASSES:,} classes are the most"
        )
    return np.where(words == str(UNLABELLED), UNLABELLED, np.searchsorted(names, words)), tuple(map(str, names))


def check_classes(where: str, present: Sequence[int] | NDArray[np.int64], n: int) -> str | None:
    """Look at labels that alone say how many classes there are; a note if some of these have no sample.

    Args:
        where: begins the message.
        present: the labels that samples have, each once, ascending.
        n: how many samples there are.

    Raises:
        ConfigError: there are many classes, and more than samples.
    """
    classes, smallest = int(present[-1]) + 1, int(present[0])
    if len(present) == classes:
        return None
    shown = ", ".join(str(label) for label in present[:10]) + (", ..." if len(present) > 10 else "")
    text = f"{where}: only {len(present):,} of {classes:,} classes have a sample (the labels {shown})"
    if classes > max(n, FEW_CLASSES):
        raise ConfigError(f"{text}, and there are {n:,} samples; labels are 0, 1, 2, ...: {AS_WORDS}")
    begin = f"y - {smallest}, or " if classes - smallest == len(present) else ""
    return f"{text}; if there are no others, save {begin}words, y.astype(str), which are numbered in their order"


def owners(where: str, user: NDArray[Any], n: int) -> NDArray[Any]:
    """Whose each of ``n`` samples is: numbers, words or dates, ``[n]``.

    Raises:
        ConfigError: they are not that, or some have no owner; ``where`` begins the message.
    """
    if user.shape == (n, 1):
        user = user[:, 0]
    if user.shape != (n,):
        raise ConfigError(f"{where} has shape {list(user.shape)}; its samples need [{n}]")
    if user.dtype.kind == "S":
        user = _decoded(where, user)
    if user.dtype.kind == "U":
        _check_words(where, user, "owner", (*_MISSING_WORDS, "None"))
        return user
    if user.dtype.kind not in "biufmM":
        raise ConfigError(f"{where} holds {user.dtype}; owners are numbers or words")
    lost = np.isnat(user) if user.dtype.kind in "mM" else ~np.isfinite(user)
    if lost.any():
        raise ConfigError(
            f"{where}: {lost.sum()} samples, the first at {np.argmax(lost)}, have no owner but {user[lost][0]}; give "
            "each one, or leave these samples out"
        )
    return user


def together(where: str, user: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Two arrays of :func:`owners` as one, in which who was different stays different.

    Raises:
        ConfigError: they are of different kinds; ``where`` begins the message.
    """
    kinds = [{"U": "words", "M": "dates", "m": "times"}.get(each.dtype.kind, "numbers") for each in (user, others)]
    if kinds[0] != kinds[1]:
        raise ConfigError(f"{where}: user_test holds {kinds[1]}, but user {kinds[0]}; save both alike")
    joined = np.concatenate([user, others])
    for each in (user, others):
        if each.dtype.kind in "iu" and joined.dtype.kind == "f" and (joined.astype(np.float64) >= 2.0**53).any():
            raise ConfigError(f"{where}: user holds {user.dtype} and user_test {others.dtype}; save both as int64")
    return joined
