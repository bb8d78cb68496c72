"""Labels that are words, each participant's own: those that may mean the same and are counted as several classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fedtl.choice import ConfigError
from fedtl.data.arrays import UNLABELLED
from fedtl.data.own.cells import as_words
from fedtl.data.own.lines import NUMBER
from fedtl.data.own.listing import named


def check_one_kind(files: Mapping[str, Collection[str]]) -> None:
    """Check that labels are not numbers in one file and words in another one.

    Codes may look like numbers in one file and not in another: those that share a label are of one kind.

    Args:
        files: by a file's name its labels, each once.

    Raises:
        ConfigError: all labels of a file are numbers, and none of them stands in those files that have words.
    """
    labels = {where: {*_codes(words)} - {str(UNLABELLED)} for where, words in files.items()}
    worded = {where: words for where, words in labels.items() if not all(map(NUMBER.fullmatch, words))}
    codes = {word for words in worded.values() for word in words}
    for where, words in labels.items():
        if worded and words and codes.isdisjoint(words):
            there, others = next(iter(worded.items()))
            word = next(word for word in sorted(others) if not NUMBER.fullmatch(word))
            raise ConfigError(f"{of_two_kinds(there, where)}, as {word!r} and {min(words)}; write them alike")


def of_two_kinds(words: str, numbers: str) -> str:
    """That labels are words here and numbers there, of which nobody can say which is which."""
    return f"labels are words in {words} and numbers in {numbers}"


def doubtful_words(participants: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """A sentence for words that are several classes and may be meant as one.

    These are words that differ in capital letters, in blanks or as "1.0" from "1" alone, and those of a participant
    that has several and shares none with any other.

    Args:
        participants: by a participant's name the words of its labels, each once.
    """
    alike: dict[str, set[str]] = {}
    holders = Counter[str]()
    for words in participants.values():
        for word in words:
            alike.setdefault(_plain(word), set()).add(word)
        holders.update({*map(_plain, words)})
    notes = list[str]()
    if several := [sorted(words) for words in alike.values() if len(words) > 1]:
        first, more = several[0], f", and so are {len(several) - 1} others" if len(several) > 1 else ""
        notes.append(
            f"the labels {' and '.join(map(repr, first))} are {len(first)} classes{more}; write alike what means the "
            "same"
        )
    alone = [who for who, own in participants.items() if len(own) > 1 and all(holders[_plain(w)] == 1 for w in own)]
    if alone and len(participants) > 1:
        words = named([repr(word) for word in sorted(participants[alone[0]])])
        notes.append(
            f"the labels of {named(alone)} are no other participant's, as {words} of {alone[0]}: they are classes of "
            "their own; write alike what means the same"
        )
    return tuple(notes)


def doubtful_positive(participants: Mapping[str, Collection[str]], positive: Sequence[str]) -> tuple[str, ...]:
    """A sentence on participants that have no row of class 1, and on labels that are nearly of that class.

    Args:
        participants: by a participant's name the words of its labels, each once.
        positive: the labels that are class 1; all others are class 0.
    """
    yes, notes = {*_codes(positive)}, list[str]()
    if without := [who for who, words in participants.items() if words and yes.isdisjoint(_codes(words))]:
        words = " or ".join(map(repr, positive))
        notes.append(f"{named(without)}: no row has the label {words}, which data.positive names: all are of class 0")
    plain = {_plain(word): word for word in positive}
    labels = sorted({word for who, words in participants.items() if who not in without for word in words})
    near = [word for word, code in zip(labels, _codes(labels)) if code not in yes and _plain(word) in plain]
    if near:
        notes.append(
            f"the label {' and '.join(map(repr, near))} is of class 0, as data.positive names "
            f"{plain[_plain(near[0])]!r}; name it there too if it means the same"
        )
    return tuple(notes)


def _plain(word: str) -> str:
    return "".join(_codes([word])[0].split()).casefold()


def _codes(words: Collection[str]) -> list[str]:
    """The words, of which "1.0" and "1" are one."""
    return [*map(str, as_words(np.array([*words], np.str_)))]
