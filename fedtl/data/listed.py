"""A data set divided as a file lists it: the samples, checked against the data, and a row for each that differs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset, Samples
from fedtl.data.federation import Shards
from fedtl.data.file_rows import FileRows
from fedtl.data.settings import DataChoice
from fedtl.data.split import Split

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Listed:
    """What a file says of a data set.

    Attributes:
        x, y: the data set's samples and labels, and behind them a further row for each entry that needs one of its own.
        origin: which of the data set's samples each row is, ``[rows]``.
        shards: who holds which rows, for whatever purpose.
        test, validation: which rows' entries are for testing or validation, ``[m]``, in the order of ``shards``; None
            where the file does not say.
        server_test: rows of the server's test set.
        turns: the same entries as ``shards``, in the order in which a partition on top changes them.
        notes: sentences on what may not be meant as it was read.
    """

    x: Samples
    y: Index
    origin: Index
    shards: Shards
    test: NDArray[np.bool_] | None
    validation: NDArray[np.bool_] | None
    server_test: Index
    turns: Shards
    notes: tuple[str, ...]


def as_listed(data: DataChoice, dataset: Dataset, split: Split, clients: int | None) -> Listed:
    """Apply a file's list to the data set that it is of.

    An entry needs a row of its own where its label is neither the data set's nor the same in all entries of the sample,
    and where a sample stands at several clients and the partition changes what each of them sees.

    Raises:
        ConfigError: the file is of other data, or does not go with the config.
    """
    where = _path_of(data)
    by_options = dataset.rows is not None and not split.by_row  # then it is by these that its samples are known
    split = _by_sample(data, dataset, split, where)
    _check_size(data, dataset, split, where)
    if clients is not None and clients != split.clients:
        raise ConfigError(
            f"data.clients = {clients}: {where} has {split.clients} clients; say {split.clients} or leave it out"
        )
    different = len(np.unique(split.sample))
    if data.samples not in (None, different):
        raise ConfigError(f"data.samples = {data.samples}: {where} lists {different} samples; leave it out")
    server_test, notes = _server_test(data, dataset, split, where)
    ignored = split.test is not None and "test_share" in data.load_reads  # of others it is said where it would be used
    if ignored and not by_options and data.test_share != type(data).model_fields["test_share"].default:
        share = f"data.test_share = {data.test_share:g}"
        notes.append(f"{share} has no effect: the file says which samples are for testing")
    split = split.by_client()
    y, rows, relabelled = _rows(dataset, split, where, data.partition.changes_samples)
    if relabelled:
        notes.append(
            f"{where}: {relabelled} of its {len(split.sample)} labels are not those of {data.name!r}; the file's are "
            "used"
        )
    n = len(dataset.y)
    origin = np.arange(n)
    further = np.zeros(len(y) - n, np.int64)
    further[rows[rows >= n] - n] = split.sample[rows >= n]
    x = dataset.x
    if len(further):
        x, origin = np.concatenate([x, x[further]]), np.concatenate([origin, further])
    shards = Shards.from_sizes(rows, np.bincount(split.client, minlength=split.clients))
    by_turn = slice(None) if split.turn is None else np.lexsort((split.turn, split.client))
    turns = Shards(rows[by_turn], shards.offsets)
    test, validation = split.test, split.validation
    if test is None and dataset.held_out is not None:
        test = dataset.held_out[split.sample]
    if validation is None and dataset.validation is not None:
        validation = dataset.validation[split.sample]
        if test is not None:
            validation &= ~test
    return Listed(x, y, origin, shards, test, validation, server_test, turns, tuple(notes))


def _rows(dataset: Dataset, split: Split, where: str, changes: bool) -> tuple[Index, Index, int]:
    """All rows' labels, the row of each entry, and how many entries have another label than the data set's.

    Rows from ``len(dataset.y)`` on are further ones, client by client and there in the order of their samples.
    """
    y, n = dataset.y, len(dataset.y)
    own = np.zeros(len(split.sample), np.bool_)
    relabelled = 0
    labels = y[split.sample] if split.label is None else split.label
    if split.label is not None:
        if (labels >= dataset.classes).any():
            raise ConfigError(
                f"{where}: label has {int(labels.max())}, at place {int(np.argmax(labels))}, but there are "
                f"{dataset.classes} classes, 0 to {dataset.classes - 1}"
            )
        other = labels != y[split.sample]
        relabelled = int(other.sum())
        if relabelled:
            least, most = np.full(n, dataset.classes), np.full(n, -1)
            np.minimum.at(least, split.sample, labels)
            np.maximum.at(most, split.sample, labels)
            agreed = (least == most)[split.sample]
            own = other & ~agreed
            y = y.copy()
            y[split.sample[other & agreed]] = labels[other & agreed]
    if changes:  # each client sees its own; the first entry of a sample keeps the data set's row
        first = np.zeros(len(own), np.bool_)
        first[np.unique(split.sample, return_index=True)[1]] = True
        own |= ~first
    rows = split.sample.copy()
    # In an order that does not follow the file's, so that a file that is written of the result gives the same rows.
    further = np.flatnonzero(own)
    further = further[np.lexsort((split.sample[further], split.client[further]))]
    rows[further] = n + np.arange(len(further))
    return (np.concatenate([y, labels[further]]) if len(further) else y), rows, relabelled


def _path_of(data: DataChoice) -> str:
    """The file, as the config names it."""
    partition = data.partition
    while (base := getattr(partition, "base", None)) is not None:
        partition = base
    return str(getattr(partition, "path", f"data.partition.name = {partition.name!r}"))


def _by_sample(data: DataChoice, dataset: Dataset, split: Split, where: str) -> Split:
    """The same with places of samples in the data set, where the file counts the rows of the data set's files.

    Raises:
        ConfigError: it names rows that are no samples, or does not tell which rows it means.
    """
    rows = dataset.rows
    if rows is None:  # they are the same
        return replace(split, by_row=False)
    if not split.by_row:
        _check_known(data, dataset, rows, split, where)
        return split
    if split.total not in (None, rows.total):
        raise ConfigError(
            f"{where} is a split of {split.total} rows, but the files of {data.name!r} have {rows.total}; use it with "
            "its data"
        )
    samples = rows.samples()

    def samples_at(name: str, places: Index) -> Index:
        if len(places) and (last := int(places.max())) >= rows.total:
            raise ConfigError(
                f"{where}: {name} has {last}, but the files of {data.name!r} have {rows.total} rows, 0 to "
                f"{rows.total - 1}"
            )
        if (samples[places] < 0).any():
            raise ConfigError(
                f"{where}: row {int(places[samples[places] < 0][0])}, counted from 0, is none of the samples of "
                f"data.name = {data.name!r}; read them as when the file was saved, with the same data.missing"
            )
        return samples[places]

    own = samples_at("row", split.sample)
    server = None if split.server_test is None else samples_at("server_test", split.server_test)
    return replace(split, sample=own, server_test=server, total=len(dataset.y), by_row=False)


def _check_known(data: DataChoice, dataset: Dataset, rows: FileRows, split: Split, where: str) -> None:
    """Check that places of samples mean the same rows as when the file was written, by whatever options.

    They do where all rows are samples in the files' order, then and now; and where ``fedtl partition`` has written the
    file, as it says the total, with the test samples that are drawn now.

    Raises:
        ConfigError: this is not known.
    """
    saved, tests = split.total is not None, np.zeros(len(split.sample), np.bool_) if split.test is None else split.test
    last = max(int(places.max(initial=-1)) for places in (split.sample, split.server_test) if places is not None)
    known = saved or (rows.in_order and last == rows.total - 1)  # else rows with gaps may have been left out
    if known and rows.drawn and last < len(dataset.y):
        drawn = np.zeros(len(dataset.y), np.bool_) if dataset.held_out is None else dataset.held_out
        known = (saved or not tests.any()) and tests.sum() == drawn.sum() and bool((tests == drawn[split.sample]).all())
    if not known:
        raise ConfigError(
            f"{where} does not say which rows of the files it means: the order of samples follows from "
            "data.test_share, data.owner and data.missing; save it again, or name the rows, counted from 0 through all "
            "files, in a column 'row' in place of 'sample'"
        )


def _check_size(data: DataChoice, dataset: Dataset, split: Split, where: str) -> None:
    n = len(dataset.y)
    lengths = {n}
    if data.pool == "train" and dataset.official_test is not None:
        lengths.add(dataset.official_test)
    if not split.listed and len(split.client) not in lengths:
        raise ConfigError(
            f"{where}: client has {len(split.client)} elements, but {data.name!r} has {n} samples; it is a split of "
            "other data, or lacks an array 'sample' that says which these are"
        )
    if split.total not in (None, n):
        raise ConfigError(
            f"{where} is a split of {split.total} samples, but {data.name!r} has {n}; use it with its data"
        )
    for name, places in (("sample", split.sample), ("server_test", split.server_test)):
        if places is not None and len(places) and int(places.max()) >= n:
            raise ConfigError(
                f"{where}: {name} has {int(places.max())}, at place {int(np.argmax(places))}, but {data.name!r} has "
                f"{n} samples, 0 to {n - 1}"
            )


def _server_test(data: DataChoice, dataset: Dataset, split: Split, where: str) -> tuple[Index, list[str]]:
    """The server's test set, ascending, and notes."""
    share = data.server_test_share
    if split.server_test is not None:
        notes = []
        if share is not None and bool(share) != bool(len(split.server_test)):
            notes.append(
                f"data.server_test_share = {share:g} has no effect: {where} lists {len(split.server_test)} samples of "
                "the server's test set"
            )
        return np.sort(split.server_test), notes
    if share:
        raise ConfigError(f"data.server_test_share = {share:g}: {where} says who holds what; leave the share out")
    first = dataset.official_test
    if data.pool == "all" or first is None:
        return np.arange(0), []
    if (clients_own := split.sample >= first).any():
        entry = int(np.argmax(clients_own))
        raise ConfigError(
            f"data.pool = 'train': {where} gives sample {int(split.sample[entry])}, of the official test set, to "
            f"client {int(split.client[entry])}; set data.pool = 'all', with which the server has no test set"
        )
    return (np.arange(0) if share == 0 else np.arange(first, len(dataset.y))), []
