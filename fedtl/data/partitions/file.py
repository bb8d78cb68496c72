"""As a file says, so that a published split is a file beside its paper."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedtl.choice import ConfigError, shown
from fedtl.data.federation import Shards
from fedtl.data.partitions.contract import Partition
from fedtl.data.split import Split, read_split


class File(Partition):
    """Who holds what stands in a file, as ``fedtl partition --save`` writes it.

    An .npz file has arrays, a .csv file columns of the same names, in one of two forms:

    - ``client`` and ``test``, an element per sample of the data set: the training samples in the data set's order,
      then those of its official test set;
    - a list of entries, ``sample`` (the place of a sample in that order), ``client`` and ``test``, and perhaps
      ``label`` and ``validation``. A sample may stand at several clients, each with a label of its own; what is not
      listed is nobody's. ``server_test`` lists the samples of the server's test set; in a .csv file their client is
      ``server``. Of clients' own files there is ``row`` in place of ``sample``: the place among the rows of all files.

    ``turn``, where it is there, numbers each client's entries in the order in which a partition on top, as ``noisy``,
    draws what it does to them: ``fedtl partition --save`` writes it of such a partition.

    The file decides in place of ``test_share``, where it has ``test``; ``clients`` may be left out. A file that gives
    samples of the official test set to clients needs ``pool = "all"``, unless it lists the server's test set itself.
    Without ``server_test`` that is the official test set, or none.

    Attributes:
        path: the file. A relative path is looked for beside the config file, then in the working directory, then in the
            folder that the environment variable FEDTL_DATA names.
    """

    name: str = "file"
    path: str = Field(min_length=1)

    def listed(self) -> Split:
        """See :class:`~fedtl.data.partitions.contract.Partition`."""
        return read_split(self.place())

    def place(self) -> Path:
        """Where the file is.

        Raises:
            ConfigError: it is nowhere.
        """
        try:
            path = Path(self.path).expanduser()
        except RuntimeError:  # pathlib's word for ~somebody who is not there
            path = Path(self.path)
        root = os.environ.get("FEDTL_DATA")
        places = [path, *([Path(root).expanduser() / path] if root and not path.is_absolute() else [])]
        for each in places:
            try:
                if each.is_file():
                    return each
            except OSError as error:
                raise ConfigError(
                    f"data.partition.path = {shown(self.path)} cannot be read: {error.strerror or error}"
                ) from error
        folder = f" and no such file in FEDTL_DATA = {root!r}" if len(places) > 1 else ""
        raise ConfigError(f"data.partition.path = {shown(self.path)}: there is no such file{folder}")

    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """What the file lists, in place of a rule; see :class:`~fedtl.data.partitions.contract.Partition`."""
        raise ConfigError(f"data.partition.name = {self.name!r}: it lists what clients hold and divides nothing")

    @property
    def counts_clients(self) -> bool:
        """The file does."""
        return True
