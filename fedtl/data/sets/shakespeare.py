"""Plays of Shakespeare, each role a client, as LEAF writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset
from fedtl.data.own.listing import unread
from fedtl.data.sets.place import readable
from fedtl.data.settings import DataChoice
from fedtl.data.views.normalise import Normalisation

LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""A letter's place is its token, as in LEAF."""


class Shakespeare(DataChoice):
    """Speeches of Shakespeare's roles in LEAF's format (Caldas et al. 2018, arXiv 1812.01097): the letter after 80.

    The folder has ``train/*.json`` and ``test/*.json``, as LEAF's ``preprocess.sh`` writes them: ``users``, and of each
    in ``user_data`` the letters ``x``, 80 a sample, and ``y``, the one that follows. A role is a client. With
    ``task = "next_token"`` each letter is predicted from those before it, as a sample has them.

    Attributes:
        path: the folder.
    """

    default_partition: ClassVar[dict[str, Any]] = {"name": "natural"}

    name: str = "shakespeare"
    path: str = Field(min_length=1)
    normalise: Normalisation = "none"

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        parts = [self._part(part) for part in ("train", "test")]
        if self.task.kind not in ("classification", "next_token"):
            raise ConfigError(f"data.task = {self.task.name!r}: of Shakespeare's letters the next one is predicted")
        users = sorted({user for part in parts for user in part})
        tokens, owner = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
        for part in parts:
            for number, user in enumerate(users):
                if user in part:
                    tokens.append(part[user])
                    owner.append(np.full(len(part[user]), number))
        if not tokens or len({each.shape[1] for each in tokens}) > 1:
            raise ConfigError(f"data.path = {self.path!r}: there are no samples, or not all of one length")
        whole = np.concatenate(tokens)
        n_test = sum(len(each) for each in parts[1].values())
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        x = whole[:, :-1].astype(np.float32)
        more: dict[str, Any] = {
            "owner": np.concatenate(owner),
            "held_out": np.arange(len(whole)) >= len(whole) - n_test if n_test else None,
            "whole_numbers": True,
            "notes": self._unread(),
        }
        if self.task.labelled:
            names = tuple(repr(letter)[1:-1] for letter in LETTERS)
            return Dataset(x, whole[:, -1], len(LETTERS), zero, one, label_names=names, **more)
        outcomes = replace(self.task.outcomes(f"{self.path}: y", whole[:, 1:], len(whole)), outputs=len(LETTERS))
        return Dataset.of_outcomes(x, self.task, [outcomes], zero, one, **more)

    def _unread(self) -> tuple[str, ...]:
        """What stands in the two folders and is not read."""
        with readable(self.path, "folder") as place:
            folders = [place / part for part in ("train", "test") if (place / part).is_dir()]
            return tuple(
                note for each in folders for note in unread(each, [*each.glob("*.json")], "roles are in files .json")
            )

    def _part(self, part: str) -> dict[str, NDArray[np.int64]]:
        """Each user's letters ``[n, 81]`` as tokens."""
        with readable(self.path, "folder") as place:
            folder = place / part
            files = sorted(folder.glob("*.json"))
        if not files and part == "train":
            raise ConfigError(
                f"data.path = {self.path!r}: {folder} has no .json file, as LEAF's preprocess.sh writes them"
            )
        users: dict[str, NDArray[np.int64]] = {}
        file_of: dict[str, Path] = {}
        for file in files:
            try:
                for user, own in json.loads(file.read_text(encoding="utf-8"))["user_data"].items():
                    lines = [x + y for x, y in zip(own["x"], own["y"], strict=True)]
                    if lines:
                        if (first := file_of.setdefault(user, file)) is not file:
                            raise ConfigError(
                                f"{file} has lines of {user!r}, and so has {first.name}: remove what another run of "
                                "preprocess.sh has left, or join them"
                            )
                        users[user] = np.array([[TOKENS[letter] for letter in line] for line in lines], np.int64)
            except ConfigError:
                raise
            except OSError as error:
                raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
            except KeyError as error:
                what = f"the letter {error.args[0]!r}" if len(str(error.args[0])) == 1 else f"no {error.args[0]!r}"
                raise ConfigError(f"{file} has {what}; it is not LEAF's Shakespeare") from error
            except (ValueError, TypeError, AttributeError) as error:
                raise ConfigError(f"{file} is not a file of LEAF's: user_data, and of each user x and y") from error
        return users


TOKENS = {letter: token for token, letter in enumerate(LETTERS)}
