"""The federated view of a data set: one array, and for each client the indices of its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.columns import Columns
from fedtl.data.dataset import Samples
from fedtl.tasks import CLASSIFICATION, LearningTask, Outcomes


@dataclass(frozen=True)
class Shards:
    """Index lists of all clients in two arrays; client i holds ``order[offsets[i]:offsets[i + 1]]``.

    Two flat arrays, not a list of arrays: a million clients cost 8 bytes each, and Ray shares both
    between processes without a copy.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.int64]]) -> Shards:
        """Build from one index array per client."""
        sizes = np.fromiter((len(part) for part in parts), np.int64, len(parts))
        order = np.concatenate(parts).astype(np.int64) if len(parts) else np.empty(0, np.int64)
        return cls.from_sizes(order, sizes)

    @classmethod
    def from_sizes(cls, order: NDArray[np.int64], sizes: NDArray[np.int64]) -> Shards:
        """Cut ``order`` into consecutive pieces of ``sizes``."""
        return cls(order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]))

    @classmethod
    def none(cls, clients: int) -> Shards:
        """Nothing, at so many clients."""
        return cls(np.empty(0, np.int64), np.zeros(clients + 1, np.int64))

    def moved(self, start: int = 0, before: int = 0, after: int = 0) -> Shards:
        """The same, with ``start`` added to each index, and so many clients before and after who hold nothing."""
        order = self.order + start if start else self.order
        return Shards(order, np.pad(self.offsets, (before, after), mode="edge") if before or after else self.offsets)

    def of_clients(self, clients: NDArray[np.int64]) -> Shards:
        """What some clients hold, and nothing at the others."""
        there = np.isin(np.arange(len(self)), clients)
        return Shards.from_sizes(self.order[there[self.client_of]], np.where(there, self.sizes, 0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> NDArray[np.int64]:
        return self.order[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of samples of each client, ``[clients]``."""
        return np.diff(self.offsets)

    @property
    def client_of(self) -> NDArray[np.int64]:
        """Who holds each entry of ``order``."""
        return np.repeat(np.arange(len(self)), self.sizes)


class ClassCounts(NamedTuple):
    """How many samples there are, and how many of each class, or with each of several labels."""

    samples: int
    each: tuple[int, ...]


@dataclass(frozen=True)
class Domain:
    """Another domain's samples at the clients: unlabelled for training, labelled for scoring alone.

    Attributes:
        train, test: each client's samples as indices into ``Federation.x``, disjoint, as many shards as there are
            clients; empty for clients that hold nothing of this domain.
        server_test: indices of the server's test set of this domain, which no client holds; may be empty.
    """

    train: Shards
    test: Shards
    server_test: NDArray[np.int64]


@dataclass(frozen=True)
class Later:
    """What clients hold from some round on.

    Attributes:
        first: that round.
        train, test, validation: as in :class:`Federation`.
        because: the partition's name.
    """

    first: int
    train: Shards
    test: Shards
    validation: Shards | None
    because: str


@dataclass(frozen=True)
class Federation:
    """What all clients hold, and what the server may test with.

    Attributes:
        x, y, classes, label_names: as in :class:`~fedtl.data.dataset.Dataset`; all samples, of whichever domain.
        scale, shift: a model's input is ``x * scale + shift`` in float32; broadcastable to a sample.
        train, test: each client's own labelled samples; disjoint. Empty for clients that hold none. Several clients
            hold the same sample only where a file says so.
        validation: each client's own labelled samples for validation, which it does not train with; disjoint from
            both. None where no client has any.
        server_test: indices of the server's test set, which no client holds; may be empty.
        target: what clients hold besides without labels: another domain, or, with ``data.labelled_fraction``,
            their own training samples.
        public: indices of samples that everybody may use; their ``y`` is 0 and means nothing.
        notes: sentences on what may not be meant as it was read, for the user who starts a run.
        unseen: the ids of clients that never train and are scored apart, ascending.
        trained_elsewhere: whether another client trains on it that is not unseen, for each of ``test.order`` and then
            of ``target.test.order``; None where that is true of none.
        task: what is predicted.
        outcomes: of all samples, where these are not ``y``, as in :class:`~fedtl.data.dataset.Dataset`.
        domains: the names of the domains that the samples are of, in order; none where they are of one.
        domain_of: which of these each client is of, ``[clients]``, -1 for a client that holds the target alone; None
            where there is one domain.
        held_out: indices of the server's samples of each domain that no client has, by its name.
        later: what clients hold in later rounds, where that changes, in their order.
        columns: of a table, what its columns have become; None of what is none.
    """

    x: Samples
    y: NDArray[np.int64]
    classes: int
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    train: Shards
    test: Shards
    server_test: NDArray[np.int64]
    label_names: tuple[str, ...] = ()
    target: Domain | None = None
    public: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    notes: tuple[str, ...] = ()
    validation: Shards | None = None
    trained_elsewhere: NDArray[np.bool_] | None = None
    unseen: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    task: LearningTask = CLASSIFICATION
    outcomes: Outcomes | None = None
    domains: tuple[str, ...] = ()
    domain_of: NDArray[np.int64] | None = None
    held_out: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    later: tuple[Later, ...] = ()
    columns: Columns | None = None

    def at(self, round: int) -> Federation:
        """What all hold in a round."""
        stages = [stage for stage in self.later if stage.first <= round]
        if not stages:
            return self
        return replace(self, train=stages[-1].train, test=stages[-1].test, validation=stages[-1].validation)

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for a sample, or for each of its tokens."""
        return self.task.outputs(self.classes) if self.outcomes is None else self.outcomes.outputs

    @property
    def predicted(self) -> int:
        """How many numbers metrics see of a prediction."""
        return self.task.seen(self.classes) if self.outcomes is None else self.outcomes.outputs

    def class_counts(self) -> ClassCounts | None:
        """How many samples are trained on, and how many of each class, or with each label; None of no classes."""
        outcomes, train = self.outcomes, self.train
        if not self.task.labelled and (outcomes is None or self.task.kind != "multilabel"):
            return None
        order = (train.of_clients(self.seen) if len(self.unseen) else train).order
        if outcomes is None:
            return ClassCounts(len(order), tuple(np.bincount(self.y[order], minlength=self.classes).tolist()))
        return ClassCounts(len(order), tuple(outcomes.values[order].sum(0).astype(np.int64).tolist()))

    def pooled(self) -> Federation:
        """With all training samples at the first client that trains; what clients are scored on stays where it is."""
        place = int(self.seen[0])

        def at_first(shards: Shards) -> Shards:
            if len(self.unseen):
                shards = shards.of_clients(self.seen)
            offsets = np.full_like(shards.offsets, shards.offsets[-1])
            offsets[: place + 1] = shards.offsets[0]
            return Shards(shards.order, offsets)

        target = None if self.target is None else replace(self.target, train=at_first(self.target.train))
        later = tuple(replace(stage, train=at_first(stage.train)) for stage in self.later)
        return replace(self, train=at_first(self.train), target=target, later=later)

    @property
    def clients(self) -> int:
        """Number of clients."""
        return len(self.train)

    @property
    def seen(self) -> NDArray[np.int64]:
        """The ids of the clients that can train: all that are not unseen, ascending."""
        everybody = np.arange(self.clients)
        return np.setdiff1d(everybody, self.unseen) if len(self.unseen) else everybody

    @property
    def clients_of_domains(self) -> dict[str, NDArray[np.int64]]:
        """The clients that can train of each domain that such have, by its name; none where there is one domain."""
        if self.domain_of is None:
            return {}
        domain_of = self.domain_of.copy()
        domain_of[self.unseen] = -1
        each = {name: np.flatnonzero(domain_of == number) for number, name in enumerate(self.domains)}
        return {name: clients for name, clients in each.items() if len(clients)}

    def validation_of(self, client: int) -> NDArray[np.int64]:
        """A client's validation samples as indices into ``x``, ``[n]``; none where it has none."""
        return np.empty(0, np.int64) if self.validation is None else self.validation[client]

    @property
    def first_of_target(self) -> int:
        """The first client that holds the target: 0 if the same clients hold both, ``clients`` if nobody does."""
        holds = self.target is not None and self.target.train.sizes > 0
        return int(np.argmax(holds)) if np.any(holds) else self.clients

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Add the notes to an error that they may explain: a model does not suit labels that were counted wrongly."""
        try:
            yield
        except ConfigError as error:
            if not self.notes:
                raise
            raise ConfigError(f"{error} ({'; '.join(self.notes)})") from error

    @property
    def share_trained_elsewhere(self) -> float:
        """The share of the clients' test samples that another client trains on."""
        return 0.0 if self.trained_elsewhere is None else float(self.trained_elsewhere.mean())

    def fingerprint(self) -> str:
        """What says whether two federations give the same samples of one data set to the same clients, with one label.

        It follows their order, as training does; the samples themselves are not in it.
        """
        target = self.target
        domains = [(self.train, self.test, self.server_test)]
        domains += [] if target is None else [(target.train, target.test, target.server_test)]
        whole = hashlib.sha256()
        for shards in (*(part for train, test, _ in domains for part in (train, test)), self.validation):
            for array in () if shards is None else (shards.offsets, shards.order, self.y[shards.order]):
                whole.update(array.astype("<i8").tobytes())
            if self.outcomes is not None and shards is not None:
                whole.update(self.outcomes.values[shards.order].tobytes())
            whole.update(b";")
        for stage in self.later:
            whole.update(f"{stage.first};".encode())
            for shards in (stage.train, stage.test, stage.validation):
                for array in () if shards is None else (shards.offsets, shards.order, self.y[shards.order]):
                    whole.update(array.astype("<i8").tobytes())
        for index in (*(server for _, _, server in domains), self.public, *self.held_out.values()):
            whole.update(index.astype("<i8").tobytes())
            whole.update(b";")
        if len(self.unseen):
            whole.update(self.unseen.astype("<i8").tobytes())
        return whole.hexdigest()

    def label_counts(self, first: int | None = None, *, target: bool = False) -> NDArray[np.int64]:
        """How many samples of each class each client holds, for whatever purpose, ``[clients, classes]``.

        Args:
            first: only of so many clients, the first ones; all if None.
            target: count what ``self.target`` says they hold instead; zeros where there is no target.
        """
        shown = self.clients if first is None else min(first, self.clients)
        counts = np.zeros(shown * self.classes, np.int64)
        domain = self.target if target else self
        parts = [] if domain is None else [domain.train, domain.test]
        if self.validation is not None and not target:
            parts.append(self.validation)
        for shards in parts:
            held_by = np.repeat(np.arange(shown), np.diff(shards.offsets[: shown + 1]))
            labels = self.y[shards.order[: shards.offsets[shown]]]
            counts += np.bincount(held_by * self.classes + labels, minlength=len(counts))
        return counts.reshape(shown, self.classes)
