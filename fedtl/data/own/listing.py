"""What stands in a user's folder and is not read: nobody should miss a file that was left out without a word."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

NAMED = 10
"""How many files, participants or words a note names; a line should stay one."""


def unread(folder: Path, read: Collection[Path], what: str, within: Sequence[str] = ()) -> tuple[str, ...]:
    """A sentence on the entries of a folder that are not read; those whose names begin with a dot are hidden.

    Args:
        folder: the folder.
        read: its entries, and those of folders in it, that are read, or need not be.
        what: what is read, which ends the sentence.
        within: names of folders in it of which the entries count as well, where there are such.
    """
    entries = [each for each in folder.iterdir() if each.name not in within]
    for name in within:
        entries += (folder / name).iterdir() if (folder / name).is_dir() else [folder / name]
    left = {each.relative_to(folder).as_posix() for each in entries if each not in read and each.exists()}
    names = sorted(name for name in left if not name.rpartition("/")[2].startswith("."))
    if not names:
        return ()
    return (f"{folder}: {named(names)} {'are' if len(names) > 1 else 'is'} not read: {what}",)


def named(each: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    return ", ".join(each[:NAMED]) + (f" and {len(each) - NAMED} more" if len(each) > NAMED else "")
