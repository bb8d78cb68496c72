"""A federation as files: a folder for each client and one for the server, to be taken to their machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.arrays import UNLABELLED
from fedtl.data.dataset import Samples
from fedtl.data.federation import Federation
from fedtl.data.own.part import DOMAIN, FRAME, HELD_OUT, PUBLIC, TARGET_TEST, TARGET_TRAIN, TEST, TRAIN, VALIDATION
from fedtl.data.schema import DataSchema
from fedtl.disk.durable import replacing
from fedtl.failure import RunError

SERVER = "server"
"""The server's folder."""

Index = NDArray[np.int64]

Saved = NDArray[np.int64] | NDArray[np.float32]


def export(federation: Federation, folder: Path, names: Sequence[str] | None = None) -> None:
    """Write what each participant holds, as :func:`fedtl.data.own.read.read_own` reads it.

    ``folder/NAME/`` is a client's: ``train.npz``, ``validation.npz``, ``test.npz``, ``target/train.npz``,
    ``target/test.npz``, ``public.npz``, and of several domains ``domain.txt``; ``folder/server/`` the server's:
    ``test.npz``, ``target/test.npz``, ``public.npz``, ``held-out/NAME.npz``, ``frame.json``. What would be empty is
    left out. Of a target, training samples have no labels in the files. Where clients hold their own training samples
    without labels (``data.labelled_fraction``), all are in ``train.npz``, and those that lost their label have -1;
    where what is predicted is no label, all are in ``target/train.npz``, and those that have kept it in ``train.npz``
    too. ``y`` is then what is predicted.

    Args:
        federation: what all hold.
        folder: a new or empty one.
        names: the clients' folders; 0, 1, 2, … if not given.

    Raises:
        ConfigError: the folder holds something, or the names are not one different name for each client.
        RunError: the files cannot be written.
    """
    if federation.later:
        raise ConfigError(
            f"what clients hold changes in round {federation.later[0].first} of a run, and files do not: export one "
            "stage of data.partition, by its own partition"
        )
    names = [str(client) for client in range(federation.clients)] if names is None else names
    _check(names, federation.clients)
    y = _saved(federation)
    try:
        check_empty(folder)
        for client, name in enumerate(names):
            _export_client(federation, y, client, folder / name)
        server, scored = folder / SERVER, federation.server_test
        server.mkdir(parents=True, exist_ok=True)
        _write(server, TEST, federation.x, scored, y[scored])
        if federation.target is not None:
            scored = federation.target.server_test
            _write(server, TARGET_TEST, federation.x, scored, y[scored])
        _write(server, PUBLIC, federation.x, federation.public)
        for name, scored in federation.held_out.items():
            _write(server, f"{HELD_OUT}{name}", federation.x, scored, y[scored])
        DataSchema.of(federation).write(server / FRAME)
    except OSError as error:
        raise RunError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error


def check_empty(folder: Path) -> None:
    """Check that files can be exported to ``folder``.

    Raises:
        ConfigError: it holds something, or is no folder.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something already: give a new folder, or an empty one")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give a new folder, or an empty one")


def size_of(folder: Path) -> int:
    """How many bytes all files in a folder have."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _saved(federation: Federation) -> Saved:
    """What is saved as all samples' ``y``: labels, or outcomes, of which one number each is ``[n]``."""
    if federation.outcomes is None:
        return federation.y
    values = federation.outcomes.values
    return values[:, 0] if values.shape[1:] == (1,) else values


def _export_client(federation: Federation, y: Saved, client: int, folder: Path) -> None:
    x, target = federation.x, federation.target
    unlabelled = federation.outcomes is None and _holds_its_own_unlabelled(federation)
    train, test = federation.train[client], federation.test[client]
    folder.mkdir(parents=True, exist_ok=True)
    if target is None:
        _write(folder, TRAIN, x, train, y[train])
    else:
        samples, scored = target.train[client], target.test[client]
        kept = np.isin(samples, train)
        if unlabelled and not kept.all():
            _write(folder, TRAIN, x, samples, np.where(kept, y[samples], UNLABELLED))
        else:  # another domain's samples, or its own, which have all kept their labels
            _write(folder, TRAIN, x, train, y[train])
            _write(folder, TARGET_TRAIN, x, samples)
        _write(folder, TARGET_TEST, x, scored, y[scored])
    _write(folder, TEST, x, test, y[test])
    validation = federation.validation_of(client)
    _write(folder, VALIDATION, x, validation, y[validation])
    _write(folder, PUBLIC, x, federation.public)
    if federation.domain_of is not None and (number := federation.domain_of[client]) >= 0:
        (folder / DOMAIN).write_text(f"{federation.domains[number]}\n", encoding="utf-8")


def _holds_its_own_unlabelled(federation: Federation) -> bool:
    """Whether the target is the clients' own training samples, and not another domain."""
    target = federation.target
    if target is None or len(target.test.order) or len(target.server_test):
        return False
    return bool(np.isin(federation.train.order, target.train.order).all())


def _write(folder: Path, part: str, x: Samples, places: Index, y: Saved | None = None) -> None:
    """Write a part's samples, and their labels if there are such; nothing if there are no samples."""
    if not len(places):
        return
    file = folder / f"{part}.npz"
    file.parent.mkdir(exist_ok=True)
    with replacing(file) as unfinished, unfinished.open("wb") as opened:
        np.savez(opened, **({"x": x[places]} if y is None else {"x": x[places], "y": y}))


def _check(names: Sequence[str], clients: int) -> None:
    if len(names) != clients:
        raise ConfigError(f"there are {len(names)} names for {clients} clients' folders; give one for each")
    for name in names:
        if Path(name).name != name or name in ("", "..", SERVER):
            raise ConfigError(f"{name!r} cannot be the name of a client's folder; take letters, digits, - and _")
    if len(set(names)) < clients:
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{twice!r} is the name of two clients' folders; give each its own")
