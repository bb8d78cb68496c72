"""Several data sets as the domains of one federation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    SerializationInfo,
    SerializeAsAny,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from fedtl.choice import ConfigError, nearest
from fedtl.data import ALIKE_IN_DOMAINS, read_domains
from fedtl.data.arrays import check_alike
from fedtl.data.columns import check_same_columns
from fedtl.data.dataset import SAID_OF_SAMPLES, Dataset, DomainRows, channel_statistics
from fedtl.data.domains import loaded, named, read_by
from fedtl.data.file_rows import one_after_another
from fedtl.data.own.listing import unread
from fedtl.data.own.read import check_domain
from fedtl.data.own.redecided import CellsOfDomains
from fedtl.data.partitions.contract import split_evenly
from fedtl.data.sets.images import Images
from fedtl.data.sets.place import readable
from fedtl.data.settings import DataChoice
from fedtl.data.views.images import prepared, resize, with_channels

_LOOKS = {"size", "channels", "transform", "name"}
"""Options by which two domains may differ that are of the same samples."""


class Domains(DataChoice):
    """Several domains of one task, with the same classes: each client has samples of one of them.

    The partition divides each domain by itself among the domain's own clients: those of the first domain come first.
    Samples of all domains are brought to one shape, and a note says how: images to the largest height and width (or
    ``size``), bilinearly, and to 3 channels where any has 3 (or to ``channels``). They are normalised together, by the
    samples of those domains that clients have. Classes are those of the same name, else of the same number.

    Domains of the same samples, as one data set plain and inverted, share these: of k such domains each gets every k-th
    sample of a class, as in DomainBed's RotatedMNIST (Gulrajani and Lopez-Paz 2021, arXiv 2007.01434), so that no model
    is tested on a digit that it has seen in another colour.

    Attributes:
        domains: a table for each domain, ``[data.domains.NAME]``, which is a data set with its options. Of these
            ``clients`` says how many have the domain, and ``samples`` how many of its samples are used. In place of
            tables a list of data sets' names will do, ``domains = ["mnist", "usps"]``.
        path: in place of ``domains``, a folder ``DOMAIN/CLASS/*.png``.
        held_out: names of domains that no client has. The global model is scored on the official test set of such a
            domain, or on all of its samples if it has none, as ``global/held-out/NAME``. Nobody has a model of its own
            there, so personalised models are not scored.
        disjoint: whether domains of the same samples share these. Without, each has all of them, divided by the same
            random numbers: if they are divided alike, a sample is test data in all domains or in none.
        clients: of all domains together. Domains that do not say how many they have share the others evenly; without
            it they have one client each, or as many as the data say.
        samples: of each domain that does not say it.
    """

    load_reads = frozenset({"partition", "pool"})

    name: str = "domains"
    domains: dict[str, SerializeAsAny[DataChoice]] = Field(default_factory=dict)
    path: str | None = Field(None, min_length=1)
    held_out: tuple[str, ...] = ()
    disjoint: bool = True

    @field_validator("domains", mode="plain")
    @classmethod
    def _read_domains(cls, value: object) -> dict[str, DataChoice]:
        return read_domains(value, "data.domains")

    @field_serializer("domains", mode="plain")
    def _with_their_own_options(self, domains: dict[str, DataChoice], info: SerializationInfo) -> dict[str, Any]:
        return {
            name: choice.model_dump(mode=info.mode, exclude={*(ALIKE_IN_DOMAINS.keys() - choice.load_reads)})
            for name, choice in domains.items()
        }

    @field_validator("held_out", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _are_domains(self, info: ValidationInfo) -> Domains:
        if info.context == "domain":
            raise ValueError("several domains cannot stand within another table; list all of them in [data.domains]")
        if not self.task.labelled:
            raise ValueError(
                f"task.name = {self.task.name!r} does not go with several domains, whose samples have classes; take "
                "'classification' or 'binary'"
            )
        if bool(self.domains) == (self.path is not None):
            raise ValueError(
                "give either domains, as [data.domains.NAME] name = 'mnist', or path, a folder DOMAIN/CLASS/*.png"
            )
        if self.domains:
            self._check_names(list(self.domains), "domains")
            for name in self.held_out:
                if self.domains[name].clients is not None:
                    raise ValueError(f"held_out = {name!r}: no client has this domain, so leave out its clients")
            self._counts(list(self.domains))
        if self.partition.counts_clients and not self.partition.by_owner:
            for name, choice in self.domains.items():
                if choice.clients is not None or choice.samples is not None:
                    raise ValueError(
                        f"domains.{name}: partition.name = {self.partition.name!r} lists who holds which samples; "
                        "leave out the domain's clients and samples"
                    )
        return self

    @property
    def counts_clients(self) -> bool:
        """Without a number there is one client for each domain."""
        return True

    @property
    def own_holders(self) -> int | None:
        """Those of all domains."""
        if not self.domains:
            return self.clients
        counts = self._counts(list(self.domains)).values()
        return None if None in counts else sum(filter(None, counts))

    @property
    def fills_gaps_by(self) -> str | None:
        """As one of the domains does."""
        return next((how for choice in self.domains.values() if (how := choice.fills_gaps_by) is not None), None)

    def _check_names(self, names: Sequence[str], where: str) -> None:
        for name in names:
            check_domain(name, where)
        for name in self.held_out:
            if name not in names:
                raise ValueError(f"held_out = {name!r} is no domain: {nearest(name, names)}")
        if len(set(self.held_out)) == len(names):
            raise ValueError("held_out names all domains; leave one for the clients")

    def _counts(self, names: Sequence[str]) -> dict[str, int | None]:
        """How many clients have each domain that is not held out; None where the data say it."""
        trained = [name for name in names if name not in self.held_out]
        own = {name: self.domains[name].clients if self.domains else None for name in trained}
        without = [name for name in trained if own[name] is None]
        if self.partition.counts_clients:
            return own
        if self.clients is None:
            return {name: own[name] or 1 for name in trained}
        rest = self.clients - sum(count or 0 for count in own.values())
        if (not without and rest) or rest < len(without):
            need = f"{self.clients - rest + len(without)}" + ("" if not without else " or more")
            raise ValueError(f"clients = {self.clients}: the domains that clients have need {need}")
        return {**own, **dict(zip(without, split_evenly(rest, len(without)).tolist() if without else ()))}

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        chosen = self.domains or self._of_folder()
        try:
            counts = self._counts(list(chosen))
        except ValueError as error:  # of a folder, which is looked into only now
            raise ConfigError(f"data.{error}") from error
        each = {}
        for name, choice in chosen.items():
            with named(f"data.domains.{name}", choice):
                each[name] = loaded(choice)
        again = []
        if self.disjoint:
            each = _shared_out(chosen, each)
        else:
            again = self._trained_in_another_look(chosen, each)
        if self.path is not None:
            with readable(self.path, "folder") as place:
                again += unread(
                    place, [place / name for name in chosen], "a domain is a folder whose name does not begin with _"
                )
        each, notes = self._in_one_shape(chosen, each)
        classes, each, more = _with_classes(each)
        parts, start = [], 0
        for name, dataset in each.items():
            first_test = None if dataset.official_test is None else start + dataset.official_test
            samples, stop = chosen[name].samples or self.samples, start + len(dataset.y)
            trained = name not in self.held_out
            own = tuple(field for field in SAID_OF_SAMPLES if getattr(dataset, field) is not None)
            parts.append(
                DomainRows(name, start, stop, first_test, trained, counts.get(name), samples, not self.disjoint, own)
            )
            start = stop
        return _joined(list(each.values()), parts, classes, (*notes, *more, *again))

    def _trained_in_another_look(self, chosen: Mapping[str, DataChoice], each: Mapping[str, Dataset]) -> list[str]:
        """A line for each domain that is held out, and whose samples clients train on in another domain."""
        return [
            f"data.held_out = {name!r}: clients train on its samples in another look, as data.disjoint is false, so "
            "its scores are no scores on unseen samples"
            for names in _of_the_same_samples(chosen)
            for name in names
            if name in self.held_out and not {*names} <= {*self.held_out}
            if self.pool == "all" or each[name].official_test is None
        ]

    def _of_folder(self) -> dict[str, DataChoice]:
        """A domain for each folder in :attr:`path`."""
        assert self.path is not None
        with readable(self.path, "folder") as place:
            folders = sorted(each for each in place.iterdir() if each.is_dir() and not each.name.startswith((".", "_")))
        if not folders:
            raise ConfigError(f"data.path = {self.path!r}: the folder has no folder, as DOMAIN/CLASS/*.png")
        try:
            self._check_names([folder.name for folder in folders], f"path = {self.path!r}")
        except ValueError as error:
            raise ConfigError(f"data.{error}") from error
        options = {"size": self.size, "channels": self.channels}
        return {
            folder.name: Images.model_validate({"path": str(folder), **options}, context="domain") for folder in folders
        }

    def _in_one_shape(
        self, chosen: Mapping[str, DataChoice], each: Mapping[str, Dataset]
    ) -> tuple[dict[str, Dataset], list[str]]:
        """All domains' samples as their own options ask for, then in one shape; and what was done for that."""
        images = [name for name, dataset in each.items() if dataset.x.ndim == 4]
        sizes = [chosen[name].size or each[name].x.shape[axis] for axis in (2, 3) for name in images]
        height, width = max(sizes[: len(images)], default=0), max(sizes[len(images) :], default=0)
        if self.size is not None:
            height = width = self.size
        ready, notes = dict[str, Dataset](), list[str]()
        for name, dataset in each.items():
            before = dataset.x.shape[2:]
            with named(f"data.domains.{name}", chosen[name]):
                # Resized before its look is changed, so that the changes are as fine as other domains' pixels.
                ready[name] = prepared(chosen[name], dataset, (height, width) if name in images else None)
            if (size := chosen[name].size) is not None:
                before = (size, size)
            if name in images and before != (height, width):
                notes.append(f"data.domains.{name}: {before[0]} x {before[1]} pixels became {height} x {width}")
        counts = {name: ready[name].x.shape[1] for name in images}
        channels: int = max(counts.values(), default=0) if self.channels is None else self.channels
        for name in images:
            x = resize(ready[name].x, height, width)
            if counts[name] != channels and {counts[name], channels} == {1, 3}:
                x = with_channels(x, channels)
                what = "1 channel was repeated to 3" if channels == 3 else "of 3 channels the luma was taken"
                notes.append(f"data.domains.{name}: {what}")
            ready[name] = replace(ready[name], x=x)
        (first, one), *others = ready.items()
        for name, other in others:
            there = f"{first}; all must be images of bytes with 1 or 3 channels, or of one shape and type"
            check_alike(f"data.domains.{name}: a sample", other.x, there, one.x)
            check_same_columns(f"data.domains.{name}", other.columns, f"data.domains.{first}", one.columns)
        return ready, notes


def _shared_out(chosen: Mapping[str, DataChoice], each: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Of domains of the same samples each gets every k-th of a class, of training and test sets alike."""
    shared = {}
    for names in _of_the_same_samples(chosen):
        for place, name in enumerate(names):
            shared[name] = each[name] if len(names) == 1 else _every(each[name], place, len(names))
    return {name: shared[name] for name in each}


def _of_the_same_samples(chosen: Mapping[str, DataChoice]) -> list[list[str]]:
    """The domains' names, those of the same samples together."""
    same: dict[str, list[str]] = {}
    for name, choice in chosen.items():
        same.setdefault(read_by(choice, _LOOKS | {"clients", "samples", "download"}), []).append(name)
    return list(same.values())


def _every(dataset: Dataset, place: int, of: int) -> Dataset:
    """Every ``of``-th sample of each class from ``place`` on, of the training and of the official test set."""
    n = len(dataset.y)
    first_test = n if dataset.official_test is None else dataset.official_test
    pieces = []
    for rows in (np.arange(first_test), np.arange(first_test, n)):
        by_label = rows[np.argsort(dataset.y[rows], kind="stable")]
        pieces.append(np.sort(by_label[place::of]))
    official = None if dataset.official_test is None else len(pieces[0])
    return dataset.part(np.concatenate(pieces), official)


def _with_classes(each: Mapping[str, Dataset]) -> tuple[Dataset, dict[str, Dataset], list[str]]:
    """The domains with the same classes, one that has these, and what of it may not be meant.

    Raises:
        ConfigError: they have not the same classes.
    """
    (first, one), *others = each.items()
    if all(other.label_names == one.label_names and other.classes == one.classes for _, other in others):
        return one, dict(each), []
    if all(dataset.label_names for dataset in each.values()):
        return _by_name(each)
    for name, other in others:
        if other.classes != one.classes:
            raise ConfigError(
                f"data.domains.{name}: it has {other.classes} classes, but {first} {one.classes}; all domains must "
                "have the same labels"
            )
    named_one = next((dataset for dataset in each.values() if dataset.label_names), one)
    nameless = [name for name, dataset in each.items() if not dataset.label_names]
    note = f"data.domains: classes of {', '.join(nameless)} have no names, and are taken to be those of the same number"
    return named_one, dict(each), [note]


def _by_name(each: Mapping[str, Dataset]) -> tuple[Dataset, dict[str, Dataset], list[str]]:
    """Classes of the same name are the same one; all domains' classes together, sorted."""
    words = [set(dataset.label_names) for dataset in each.values()]
    for name, own in zip(each, words):
        if not own & set().union(*(other for other in words if other is not own)):
            raise ConfigError(
                f"data.domains.{name}: no other domain has any of its classes, {', '.join(sorted(own)[:5])}; all "
                "domains must have the same labels"
            )
    names = tuple(sorted(set().union(*words)))
    notes = [
        f"data.domains.{name}: it has no class {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}"
        for name, own in zip(each, words)
        if (missing := [word for word in names if word not in own])
    ]
    numbered = {}
    for name, dataset in each.items():
        y = np.array([names.index(word) for word in dataset.label_names], np.int64)[dataset.y]
        numbered[name] = replace(dataset, y=y, classes=len(names), label_names=names)
    return next(iter(numbered.values())), numbered, notes


def _joined(each: Sequence[Dataset], parts: Sequence[DomainRows], like: Dataset, notes: Sequence[str]) -> Dataset:
    """All domains' samples as one data set, with the classes of ``like``."""

    def together(values: Sequence[NDArray[np.generic] | None], otherwise: int | bool) -> NDArray[np.generic] | None:
        if all(value is None for value in values):
            return None
        filled = [np.full(len(d.y), otherwise) if v is None else v for v, d in zip(values, each)]
        return np.concatenate(filled)

    decided_later = any(dataset.cells is not None for dataset in each)
    whole = Dataset(
        np.concatenate([dataset.x for dataset in each]) if len(each) > 1 else each[0].x,
        np.concatenate([dataset.y for dataset in each]),
        like.classes,
        like.mean,
        like.std,
        owner=together([dataset.owner for dataset in each], -1),  # type: ignore[arg-type]
        held_out=together([dataset.held_out for dataset in each], False),  # type: ignore[arg-type]
        label_names=like.label_names,
        whole_numbers=any(dataset.whole_numbers for dataset in each),
        notes=(*(f"{part.name}: {note}" for part, d in zip(parts, each) for note in d.notes), *notes),
        validation=together([dataset.validation for dataset in each], False),  # type: ignore[arg-type]
        domains=tuple(parts),
        columns=like.columns if all(dataset.columns == like.columns for dataset in each) else None,
        rows=one_after_another([(dataset.rows, len(dataset.y)) for dataset in each]),
        cells=CellsOfDomains(tuple(part.name for part in parts), tuple(each)) if decided_later else None,
    )
    mean, std = channel_statistics(whole.x, whole.training_rows())
    return replace(whole, mean=mean, std=std)
