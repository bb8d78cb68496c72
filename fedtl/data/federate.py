"""From a data set to its federated view: who holds what, and what is for testing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.by_domain import domains_of_clients, of_domain, one_after_another, said_of
from fedtl.data.columns import Columns
from fedtl.data.dataset import Dataset, DomainRows, Samples, channel_statistics, pixel_statistics
from fedtl.data.domains import check_still_alike, load_all, named
from fedtl.data.federation import Domain, Federation, Later, Shards
from fedtl.data.file_rows import FileRows
from fedtl.data.held_out import held_out
from fedtl.data.listed import Listed, as_listed
from fedtl.data.memory import enough_memory
from fedtl.data.overlap import identities, sentence, trained_elsewhere
from fedtl.data.own.redecided import redecided
from fedtl.data.partitions.contract import Partition, by_label, gather
from fedtl.data.settings import DataChoice
from fedtl.data.split import Split
from fedtl.data.validation import split_validation
from fedtl.data.views.normalise import Constants, Normaliser, by_dataset, by_pixel, unchanged
from fedtl.random import Purpose, stream
from fedtl.tasks.outcomes import Outcomes, joined

DEFAULT_SERVER_TEST_SHARE = 0.2

NOBODYS, TRAINING, VALIDATING, TESTING, DRAWN = -1, 0, 1, 2, 3
"""What a sample is for, if any client holds it; one that is drawn for validation was for training before, and its label
is as those samples' are."""

SPLIT_AT_ONCE = 2**18
"""Samples whose order is drawn at a time."""


@dataclass(frozen=True)
class Divided:
    """A data set that has been divided among its clients.

    Attributes:
        x, y: the samples and their labels as the clients see them: the data set's, and perhaps further rows.
        origin: which of the data set's samples each row is, ``[rows]``; None where there are no further rows.
        labels: of the data set's own samples, ``[n]``.
        shards: who holds what, training and test together.
        train, test, server_test, validation: as in :class:`~fedtl.data.federation.Federation`.
        notes: sentences on what may not be meant as it was read.
        outcomes: of the rows, where these are not their labels.
        places: where the data set's own samples stand in its files; None where they stand there in this order.
        shifted: whether clients see samples otherwise, which may follow from the order of ``shards``.
    """

    x: Samples
    y: NDArray[np.int64]
    origin: NDArray[np.int64] | None
    labels: NDArray[np.int64]
    shards: Shards
    train: Shards
    test: Shards
    server_test: NDArray[np.int64]
    validation: Shards | None
    notes: tuple[str, ...] = ()
    outcomes: Outcomes | None = None
    places: FileRows | None = None
    shifted: bool = False

    def samples(self) -> NDArray[np.int64]:
        """Which of the data set's samples each row is, ``[rows]``."""
        return np.arange(len(self.y)) if self.origin is None else self.origin

    def in_samples(self, shards: Shards) -> Shards:
        """Shards of the rows as shards of the data set's samples."""
        return shards if self.origin is None else Shards(self.origin[shards.order], shards.offsets)

    def split(self) -> Split:
        """Who holds what, as a file says it; reading it gives the same shards in the same order."""
        parts = [self.train, self.test, *([] if self.validation is None else [self.validation])]
        client = np.concatenate([part.client_of for part in parts])
        rows = np.concatenate([part.order for part in parts])
        kind = np.repeat(np.arange(len(parts)), [len(part.order) for part in parts])
        sample = self.samples()[rows]
        label = self.y[rows]
        own = self.places
        return Split(
            sample if own is None else own.place[sample],
            client,
            test=kind == 1,
            validation=None if self.validation is None else kind == 2,
            label=label if (label != self.labels[sample]).any() else None,
            turn=self._turns(rows, client) if self.shifted else None,
            server_test=self.server_test if own is None else own.place[self.server_test],
            total=len(self.labels) if own is None else own.total,
            by_row=own is not None,
        ).by_client()

    def _turns(self, rows: NDArray[np.int64], client: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places among its client's :attr:`shards` of each of all entries, in some other order."""
        clients = self.shards.client_of
        before, after = np.lexsort((self.shards.order, clients)), np.lexsort((rows, client))
        turns = np.empty_like(rows)
        turns[after] = before - self.shards.offsets[clients[before]]
        return turns


@dataclass(frozen=True)
class Divisions:
    """How the data set and its target have been divided, before anything is drawn from clients' training samples.

    Attributes:
        source, target: at the beginning.
        later: the data set as it is divided from later rounds on.
    """

    source: Divided
    target: Divided | None
    later: tuple[DividedLater, ...] = ()


@dataclass(frozen=True)
class DividedLater:
    """How the data set is divided from some round on, and by which partition."""

    partition: Partition
    divided: Divided


def federate(data: DataChoice, seed: int, unlabelled: bool = True) -> Federation:
    """Load a data set, and what goes with it, and divide it; same choice and seed, same bits.

    Args:
        data: which, and how.
        seed: the run's.
        unlabelled: whether clients train on samples without labels too, for :attr:`Federation.trained_elsewhere`.

    Raises:
        ConfigError: the data cannot be had, or not be divided as asked.
    """
    return federate_with_divisions(data, seed, unlabelled)[0]


def federate_with_divisions(data: DataChoice, seed: int, unlabelled: bool = True) -> tuple[Federation, Divisions]:
    """The same, and how each domain was divided, which can be written to a file.

    Raises:
        ConfigError: as :func:`federate`.
    """
    with enough_memory("data"):
        return _federate(data, seed, unlabelled)


def _federate(data: DataChoice, seed: int, unlabelled: bool) -> tuple[Federation, Divisions]:
    dataset, target, public = load_all(data)
    (dataset, source), other = _divided(data, dataset, data.clients, seed), None
    further = 0 if data.target is None else data.target.clients or 0
    unseen = held_out(data.held_out_clients, len(source.train) + further, seed)
    source = _as_seen(data, dataset, source, seed, unseen)
    scale, shift = normalisation(data, dataset, source, unseen)
    train, test, validation, domain = source.train, source.test, source.validation, None
    of_clients = domains_of_clients(dataset, source.shards, source.origin)
    if data.validation_share and validation is None:
        train, validation = split_validation(train, data.validation_share, seed)
    x, y, outcomes = [source.x], [source.y], [source.outcomes]
    everybodys = np.empty(0, np.int64)
    if data.labelled_fraction < 1:
        none = Shards.none(len(train))
        domain = Domain(train, none, everybodys)
        train = split_labelled(train, _alike(data, source, train, unseen), data.labelled_fraction, seed)
    if data.target is not None and target is not None:
        if target.validation is not None:
            raise ConfigError(
                "data.target: these data say which samples are for validation, but a client's validation samples are "
                "of its source; leave them out"
            )
        with named("data.target", data.target):
            own = data.target.model_copy(update={"held_out_clients": data.held_out_clients})
            target, other = _divided(own, target, data.target.clients or len(train), seed)
            other = _as_seen(own, target, other, seed, unseen - len(train) if further else unseen)
        start = len(source.y)
        before = len(train) if further else 0
        train, test = train.moved(after=further), test.moved(after=further)
        validation = None if validation is None else validation.moved(after=further)
        of_clients = None if of_clients is None else np.pad(of_clients, (0, further), constant_values=-1)
        domain = Domain(other.train.moved(start, before), other.test.moved(start, before), other.server_test + start)
        x.append(other.x)
        y.append(other.y)
        outcomes.append(other.outcomes)
    if data.public is not None and public is not None:
        with named("data.public", data.public):
            pool, _ = split_server_test(data.public, public, seed)
            pool = public.not_set_aside(pool) if data.public.pool == "train" else pool
            rows = draw_samples(data.public, pool, stream(seed, Purpose.SAMPLES, 1))
        everybodys = np.arange(len(rows)) + sum(map(len, y))
        x.append(public.x[rows])
        y.append(np.zeros(len(rows), np.int64))
        outcomes.append(None if source.outcomes is None else source.outcomes.none_of(len(rows)))
    check_still_alike(data, dataset, target, public)
    notes = (*_notes(data, dataset, target, public, source, other), *_words_of_unseen(dataset, source, unseen))
    first = replace(source, train=train, test=test, validation=validation)
    divided = _divide_later(data, dataset, first, seed, unseen, drawn=source.validation is None)
    later = _later(data, first, divided, x, y, outcomes)
    notes = (*notes, *(f"from round {each.first} on clients hold what {each.because!r} gives them" for each in later))
    leaked = _trained_elsewhere(
        _identities(dataset, target),
        _in_samples(dataset, source, other, [train, *([domain.train] if domain is not None and unlabelled else [])]),
        _in_samples(dataset, source, other, [test, *([] if domain is None else [domain.test])]),
        [(each.divided.in_samples(each.divided.train), each.divided.in_samples(each.divided.test)) for each in divided],
        unseen,
    )
    if leaked is not None:
        notes = (*notes, sentence(int(leaked.sum()), len(leaked)))
    outside = held_out_rows(data, dataset, seed)
    at_clients = [test, validation, *(() if domain is None else (domain.test,)), *(each.test for each in later)]
    at_server = [source.server_test, *(() if domain is None else (domain.server_test,)), *outside.values()]
    if not any(shards is not None and shards.sizes.any() for shards in at_clients) and not any(map(len, at_server)):
        notes = (*notes, "nobody has samples for testing or validation, so no model will be scored")
    federation = Federation(
        x=source.x if len(x) == 1 else np.concatenate(x),  # type: ignore[arg-type]
        y=source.y if len(y) == 1 else np.concatenate(y),
        classes=dataset.classes,
        scale=scale,
        shift=shift,
        train=train,
        test=test,
        server_test=source.server_test,
        label_names=dataset.label_names,
        target=domain,
        public=everybodys,
        notes=notes,
        validation=validation,
        trained_elsewhere=leaked,
        unseen=unseen,
        task=data.task,
        outcomes=_standardised(data, outcomes, train, validation, unseen),
        domains=tuple(part.name for part in dataset.domains),
        domain_of=of_clients,
        held_out=outside,
        later=later,
        columns=dataset.columns,
    )
    return federation, Divisions(source, other, divided)


def _divided(data: DataChoice, dataset: Dataset, clients: int | None, seed: int) -> tuple[Dataset, Divided]:
    """A data set that has been divided, and whose tables' columns are what the training rows make of them."""
    divided = divide(data, dataset, clients, seed)
    rest = [divided.in_samples(shards) for shards in (divided.test, divided.validation) if shards is not None]
    decided = redecided(dataset, divided.in_samples(divided.train), rest)
    # Who holds what follows from no sample, so it is the same again.
    return (dataset, divided) if decided is dataset else (decided, divide(data, decided, clients, seed))


def _as_seen(
    data: DataChoice,
    dataset: Dataset,
    divided: Divided,
    seed: int,
    unseen: NDArray[np.int64],
    kinds: NDArray[np.int8] | None = None,
) -> Divided:
    """The same, without a trace in samples of others of clients that never train.

    Args:
        data: how it is divided.
        dataset: the samples.
        divided: as :func:`divide` has divided them, as if all clients trained.
        seed: the run's.
        unseen: which do not; ids that are none of these clients' count for nothing.
        kinds: as of :func:`divide`.
    """
    if not len(unseen):
        return divided
    seen = np.unique(divided.train.of_clients(np.setdiff1d(np.arange(len(divided.train)), unseen)).order)
    if data.partition.seeing(seen) is data.partition:
        return divided
    return divide(data, dataset, len(divided.train), seed, kinds, seen)


def _alike(data: DataChoice, source: Divided, train: Shards, unseen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of which training samples some of each kind keep their labels, ``[rows]``: of those of a label, or a decile.

    What a decile is follows from no client that never trains, but for such clients.
    """
    if source.outcomes is None or not len(unseen):
        return source.y
    groups, ids = source.y.copy(), np.arange(len(train))
    for clients in (np.setdiff1d(ids, unseen), np.intersect1d(ids, unseen)):
        if len(rows := train.of_clients(clients).order):
            groups[rows] = data.task.strata(source.outcomes.take(rows)).y
    return groups


def _divide_later(
    data: DataChoice, dataset: Dataset, first: Divided, seed: int, unseen: NDArray[np.int64], *, drawn: bool
) -> tuple[DividedLater, ...]:
    """The data set as its partition divides it from later rounds on; a sample stays for training or for testing.

    Args:
        data: how.
        dataset: the samples.
        first: how it is divided at the beginning.
        seed: the run's.
        unseen: which clients never train.
        drawn: whether validation samples are drawn out of the training samples, and not named by the data.
    """
    if not data.partition.later:
        return ()
    if data.target is not None or data.labelled_fraction < 1:
        raise ConfigError(
            f"data.partition.name = {data.partition.name!r}: it does not go with data.target, or with "
            "data.labelled_fraction below 1; leave them out"
        )
    if dataset.domains and data.partition.listed() is not None:
        raise ConfigError(
            f"data.partition.name = {data.partition.name!r}: with several domains its base is a rule, as a "
            "file's clients may have other domains than a later stage gives them; name another base"
        )
    kinds = np.full(len(dataset.y), NOBODYS, np.int8)
    validating = DRAWN if drawn else VALIDATING
    for shards, kind in ((first.train, TRAINING), (first.validation, validating), (first.test, TESTING)):
        if shards is not None:
            kinds[shards.order if first.origin is None else first.origin[shards.order]] = kind
    each = []
    for round, partition in data.partition.later:
        own = data.model_copy(update={"partition": partition})
        divided = divide(own, dataset, len(first.train), seed, kinds)
        divided = _as_seen(own, dataset, divided, seed, unseen, kinds)
        for shards, before in ((divided.test, first.test), (divided.validation, first.validation)):
            _check_holders(round, shards, before)
        each.append(DividedLater(partition, replace(divided, server_test=first.server_test)))
    return tuple(each)


def _later(
    data: DataChoice,
    first: Divided,
    each: Sequence[DividedLater],
    x: list[Samples],
    y: list[NDArray[np.int64]],
    outcomes: list[Outcomes | None],
) -> tuple[Later, ...]:
    """What clients hold in later rounds; samples that are others then are added to ``x``, ``y`` and ``outcomes``."""
    stages = []
    for (round, partition), one in zip(data.partition.later, each):
        divided = one.divided
        rows, start = np.arange(len(divided.y)), 0
        if divided.x is not first.x or not np.array_equal(divided.y, first.y):
            held, start = np.unique(divided.shards.order), sum(map(len, y))
            rows[held] = np.arange(len(held))
            x.append(divided.x[held])
            y.append(divided.y[held])
            outcomes.append(None if divided.outcomes is None else divided.outcomes.take(held))

        def moved(shards: Shards, rows: NDArray[np.int64] = rows, start: int = start) -> Shards:
            return Shards(rows[shards.order] + start, shards.offsets)

        validation = None if divided.validation is None else moved(divided.validation)
        stages.append(Later(round, moved(divided.train), moved(divided.test), validation, partition.name))
    return tuple(stages)


def _check_holders(round: int, shards: Shards | None, before: Shards | None) -> None:
    """Check that the same clients as before have samples that models are scored on."""
    now, then = (np.zeros(0) if each is None else each.sizes > 0 for each in (shards, before))
    if len(now) != len(then) or (now != then).any():
        client = int(np.argmax(now != then)) if len(now) == len(then) else 0
        raise ConfigError(
            f"data.partition.stages: from round {round} on other clients than before would have samples to be scored "
            f"on, such as client {client}; have fewer clients, or a larger data.test_share"
        )


def _standardised(
    data: DataChoice,
    outcomes: Sequence[Outcomes | None],
    train: Shards,
    validation: Shards | None,
    unseen: NDArray[np.int64],
) -> Outcomes | None:
    """All samples' outcomes as one, as models are to predict them."""
    those = [part for part in outcomes if part is not None]
    if not those:
        return None
    whole = joined(those)
    parts = [train] if validation is None else [train, validation]
    seen = np.setdiff1d(np.arange(len(train)), unseen)
    return data.task.fitted(whole, (np.concatenate([part[client] for part in parts]) for client in seen))


def _identities(dataset: Dataset, target: Dataset | None) -> NDArray[np.int64]:
    """The :func:`identities` of a data set's samples, and then of its target's, as they were loaded."""
    return np.concatenate([identities(each.x) for each in (dataset, target) if each is not None])


def _in_samples(dataset: Dataset, source: Divided, other: Divided | None, each: Sequence[Shards]) -> list[Shards]:
    """Shards of the source's rows and of the target's behind them, as places in :func:`_identities`."""
    if source.origin is None and (other is None or other.origin is None):
        return [*each]
    origins = [source.samples(), *([] if other is None else [other.samples() + len(dataset.y)])]
    sample = np.concatenate(origins)
    return [Shards(sample[shards.order], shards.offsets) for shards in each]


def _trained_elsewhere(
    numbers: NDArray[np.int64],
    trains: Sequence[Shards],
    tests: Sequence[Shards],
    later: Sequence[tuple[Shards, Shards]],
    unseen: NDArray[np.int64],
) -> NDArray[np.bool_] | None:
    """Which of the clients' own test samples, and then of their target's, another client trains on; None for none.

    Args:
        numbers: of :func:`_identities`, in which all shards are places.
        trains: what clients train on at first.
        tests: what they are scored on.
        later: the same two in later rounds, in which others hold the same test samples.
        unseen: clients that never train.
    """
    seen = np.setdiff1d(np.arange(len(trains[0])), unseen)
    trains = [shards.of_clients(seen) for shards in (*trains, *(train for train, _ in later))]
    leaked = np.concatenate([trained_elsewhere(numbers, test, trains) for test in tests])
    for _, test in later:
        theirs = test.order[trained_elsewhere(numbers, test, trains)]
        leaked |= np.isin(np.concatenate([each.order for each in tests]), theirs)
    return leaked if leaked.any() else None


def _notes(
    data: DataChoice,
    dataset: Dataset,
    target: Dataset | None,
    public: Dataset | None,
    source: Divided,
    other: Divided | None,
) -> tuple[str, ...]:
    """What all data sets' own notes say, and what follows from how they are normalised and divided."""
    notes = [*dataset.notes, *source.notes]
    if data.server_test_share and not len(source.server_test):
        notes.append(
            f"data.server_test_share = {data.server_test_share:g}: of {len(dataset.y)} samples that is none, so the "
            "server has no test set"
        )
    if dataset.whole_numbers and data.normalise != "none":
        notes.append(
            "data: x holds whole numbers; token ids need data.normalise = 'none', and x.long() in the model, where "
            f"data.normalise is {data.normalise!r}"
        )
    for key, each in (("data.target", target), ("data.public", public)):
        notes += [f"{key}: {note}" for note in (each.notes if each is not None else ())]
    notes += [f"data.target: {note}" for note in (other.notes if other is not None else ())]
    if target is not None:
        notes += _other_fills(dataset.columns, target.columns)
    return tuple(dict.fromkeys(notes))


def _other_fills(source: Columns | None, target: Columns | None) -> list[str]:
    """A line where a target's gaps are filled otherwise than the source's, which is what an exported model does."""
    pairs = zip(source.each, target.each) if source is not None and target is not None else ()
    other = [t.name for s, t in pairs if t.fill is not None and s.fill is not None and s.fill != t.fill]
    if not other:
        return []
    return [
        f"data.target: gaps are filled by the target's own rows in {', '.join(map(repr, other))}; an exported model "
        "fills them by the source's"
    ]


def _words_of_unseen(dataset: Dataset, source: Divided, unseen: NDArray[np.int64]) -> list[str]:
    """A sentence for each column with words that only clients have who never train."""
    if dataset.columns is None or not len(unseen):
        return []

    def any_of(clients: NDArray[np.int64]) -> NDArray[np.bool_]:
        order = source.train.of_clients(clients).order
        rows = order if source.origin is None else source.origin[order]
        return np.asarray((dataset.x[rows] != 0).any(axis=0))

    everybody = np.arange(len(source.train))
    theirs = any_of(np.intersect1d(everybody, unseen)) & ~any_of(np.setdiff1d(everybody, unseen))
    words: dict[str, list[str]] = {}
    for column, word, place in dataset.columns.places:
        if theirs[place]:
            words.setdefault(column.name, []).append(repr(word))
    return [
        f"data.held_out_clients: of the column {name!r} only clients that never train have {', '.join(each)}; real "
        "clients that train would not know of it"
        for name, each in words.items()
    ]


def divide(
    data: DataChoice,
    dataset: Dataset,
    clients: int | None,
    seed: int,
    kinds: NDArray[np.int8] | None = None,
    seen: NDArray[np.int64] | None = None,
) -> Divided:
    """Divide a loaded data set among ``clients``, or among as many as it or a file says itself.

    Args:
        data: how.
        dataset: the samples.
        clients: N; None where the data say it.
        seed: the run's.
        kinds: what each sample is for, ``[n]``, where that is known already: :data:`TRAINING` and so on.
        seen: the rows that alone decide how clients see samples; all do if not given.
    """
    partition = data.partition if seen is None else data.partition.seeing(seen)
    if (split := data.partition.listed()) is not None:
        return _divide_as_listed(data, dataset, as_listed(data, dataset, split, clients), seed, seen)
    if dataset.domains:
        return _divide_by_domain(data, dataset, clients, seed, kinds, seen)
    for kind, chosen in (("test", dataset.held_out), ("validation", dataset.validation)):
        if chosen is not None and not data.partition.by_owner:
            raise ConfigError(
                f"data.partition.name = {data.partition.name!r}: these data say for each client which samples are its "
                f"{kind} data, so 'natural' must divide them"
            )
    if kinds is None:
        pool, server_test = split_server_test(data, dataset, seed)
        pool = draw_samples(data, pool, stream(seed, Purpose.SAMPLES, 0), _owner_by_owner(data, dataset))
    else:
        pool, server_test = np.flatnonzero(kinds != NOBODYS), np.arange(0)
    shards = assign(data, dataset, pool, clients, seed)
    x = partition.shift(dataset.x, shards, seed)
    others, validation = shards, None
    if dataset.validation is not None:
        others, validation = split_held_out(shards, dataset.validation, "validation")
    if kinds is not None:
        train, validation, test = split_as_before(shards, kinds)
    elif dataset.held_out is None:
        train, test = split_clients(others, data.test_share, seed)
    else:
        train, test = split_held_out(others, dataset.held_out)
    relabelled = train
    if kinds is not None:
        relabelled, _ = _parted(shards, ~np.isin(kinds[shards.order], (TRAINING, DRAWN)))
    y = data.partition.concept(dataset.y, dataset.classes, shards, seed)
    y = data.partition.relabel(y, dataset.classes, relabelled, seed)
    outcomes = _outcomes(data, dataset, y, None, shifted=x is not dataset.x)
    notes = _unused_shares(data, "the data say", dataset.held_out, dataset.validation)
    rest = (notes, outcomes, dataset.rows, x is not dataset.x)
    return Divided(x, y, None, dataset.y, shards, train, test, server_test, validation, *rest)


def _unused_shares(data: DataChoice, who: str, test: object | None, validation: object | None) -> tuple[str, ...]:
    """A line for each share of samples that is not drawn, as it is said already which samples these are.

    Args:
        data: with the shares.
        who: says it.
        test: which of a client's samples are for testing; None where nobody says it.
        validation: which are for validation, likewise.
    """
    notes, default = [], type(data).model_fields["test_share"].default
    if test is not None and data.test_share != default and "test_share" not in data.load_reads:
        notes.append(f"data.test_share = {data.test_share:g} has no effect: {who} which samples are for testing")
    if validation is not None and data.validation_share:
        share = f"data.validation_share = {data.validation_share:g}"
        notes.append(f"{share} has no effect: {who} which samples are for validation")
    return tuple(notes)


def _divide_by_domain(
    data: DataChoice,
    dataset: Dataset,
    clients: int | None,
    seed: int,
    kinds: NDArray[np.int8] | None,
    seen: NDArray[np.int64] | None,
) -> Divided:
    """Each domain among clients of its own, those of the first one first."""
    trained, parts = [each for each in dataset.domains if each.trained], list[Divided]()
    for domain in trained:
        with said_of(domain):
            own = data.model_copy(update={"samples": domain.samples})
            known = None if kinds is None else kinds[domain.start : domain.stop]
            start, stop = domain.start, domain.stop
            there = None if seen is None else seen[(seen >= start) & (seen < stop)] - start
            parts.append(divide(own, of_domain(dataset, domain), domain.clients, domain.seed(seed), known, there))
    starts = [domain.start for domain in trained]
    shards = one_after_another([part.shards for part in parts], starts)
    if clients not in (None, len(shards)):
        raise ConfigError(f"data.clients = {clients}: the domains have {len(shards)} owners; leave it out")
    x, y = dataset.x, dataset.y.copy()
    for domain, part in zip(trained, parts):
        rows = slice(domain.start, domain.stop)
        y[rows] = part.y
        if not np.shares_memory(part.x, dataset.x):  # the partition has changed them
            x = x.copy() if x is dataset.x else x
            x[rows] = part.x
    validation = None
    if any(part.validation is not None for part in parts):
        each = [part.validation or Shards.none(len(part.train)) for part in parts]
        validation = one_after_another(each, starts)
    return Divided(
        x,
        y,
        None,
        dataset.y,
        shards,
        one_after_another([part.train for part in parts], starts),
        one_after_another([part.test for part in parts], starts),
        np.concatenate([part.server_test + start for part, start in zip(parts, starts)]),
        validation,
        tuple(f"{domain.name}: {note}" for domain, part in zip(trained, parts) for note in part.notes),
        places=dataset.rows,
        shifted=any(part.shifted for part in parts),
    )


def held_out_rows(data: DataChoice, dataset: Dataset, seed: int) -> dict[str, NDArray[np.int64]]:
    """The samples, by its name, that models are scored on of each domain that no client has; ascending."""

    def rows(domain: DomainRows) -> NDArray[np.int64]:
        first = domain.official_test if data.pool == "train" and domain.official_test is not None else domain.start
        own = data.model_copy(update={"samples": domain.samples})
        with said_of(domain):
            return draw_samples(own, np.arange(first, domain.stop), stream(domain.seed(seed), Purpose.SAMPLES, 0))

    return {domain.name: rows(domain) for domain in dataset.domains if not domain.trained}


def _divide_as_listed(
    data: DataChoice, dataset: Dataset, listed: Listed, seed: int, seen: NDArray[np.int64] | None
) -> Divided:
    shards, validation = listed.shards, None
    x = _as_clients_see(data.partition, dataset, listed, seed, seen)
    test = listed.test
    if listed.validation is not None:
        others, validation = _parted(shards, listed.validation)
        shards, test = others, None if test is None else test[~listed.validation]
    train, test_shards = split_clients(shards, data.test_share, seed) if test is None else _parted(shards, test)
    y = data.partition.concept(listed.y, dataset.classes, listed.shards, seed)
    y = data.partition.relabel(y, dataset.classes, train, seed)
    return Divided(
        x,
        y,
        listed.origin,
        dataset.y,
        listed.turns,
        train,
        test_shards,
        listed.server_test,
        validation,
        (*listed.notes, *_unused_shares(data, "the file says", listed.test, listed.validation)),
        _outcomes(data, dataset, y, listed.origin, shifted=x is not listed.x),
        dataset.rows,
        x is not listed.x,
    )


def _as_clients_see(
    partition: Partition, dataset: Dataset, listed: Listed, seed: int, seen: NDArray[np.int64] | None
) -> Samples:
    """What a partition makes of the samples that a file lists: of each domain's by itself, as where it divides them."""

    def shifted(x: Samples, shards: Shards, seed: int, seen: NDArray[np.int64] | None) -> Samples:
        return (partition if seen is None else partition.seeing(seen)).shift(x, shards, seed)

    of_clients = domains_of_clients(dataset, listed.turns, listed.origin)
    if of_clients is None:
        return shifted(listed.x, listed.turns, seed, seen)
    x = listed.x
    for number, domain in enumerate(dataset.domains):
        if not len(clients := np.flatnonzero(of_clients == number)):
            continue
        rows = np.flatnonzero((listed.origin >= domain.start) & (listed.origin < domain.stop))
        place = np.full(len(x), -1)
        place[rows] = np.arange(len(rows))
        before, there = listed.x[rows], None if seen is None else place[seen][place[seen] >= 0]
        own = Shards.of([place[listed.turns[client]] for client in clients.tolist()])
        with said_of(domain):
            after = shifted(before, own, domain.seed(seed), there)
        if after is not before:
            x = x.copy() if x is listed.x else x
            x[rows] = after
    return x


def _outcomes(
    data: DataChoice, dataset: Dataset, y: NDArray[np.int64], origin: NDArray[np.int64] | None, *, shifted: bool
) -> Outcomes | None:
    """The outcomes of a divided data set's rows, given their ``y`` and whether clients see the samples otherwise."""
    if dataset.outcomes is None:
        return None
    rows = np.arange(len(dataset.y)) if origin is None else origin
    if not np.array_equal(y, dataset.y[rows]):
        raise ConfigError(
            f"data.partition.name = {data.partition.name!r}: it changes labels, and with data.task = "
            f"{data.task.name!r} there are none; leave that out"
        )
    if shifted and data.task.per_token:
        raise ConfigError(
            f"data.partition.name = {data.partition.name!r}: it changes samples, of which "
            f"data.task = {data.task.name!r} predicts their own tokens; leave that out"
        )
    return dataset.outcomes if origin is None else dataset.outcomes.take(origin)


def split_server_test(data: DataChoice, dataset: Dataset, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the samples that the clients divide, and of the server's test set; both ascending.

    The rule stands in :class:`~fedtl.data.settings.DataChoice`.
    """
    n = len(dataset.x)
    official = dataset.official_test if data.pool == "train" else None
    share = data.server_test_share
    if official is not None:
        if share:
            raise ConfigError(
                f"data.server_test_share = {share:g}: {data.name!r} has a test set of its own; leave the share out to "
                "use that, or set data.pool = 'all' to draw from all samples"
            )
        return np.arange(official), np.arange(official, n if share is None else official)
    if share is None:
        share = DEFAULT_SERVER_TEST_SHARE if data.pool == "train" and dataset.held_out is None else 0.0
    if not share:
        return np.arange(n), np.arange(0)
    free, rng = dataset.not_set_aside(np.arange(n)), stream(seed, Purpose.SERVER_TEST)
    if (owner := _owner_by_owner(data, dataset)) is not None:
        labels = dataset.y[free] if dataset.outcomes is None else np.zeros(len(free), np.int64)
        drawn = free[_of_owners(owner[free], labels, share, rng, keep=1)]
    else:
        drawn = free[stratified(dataset.y[free], share, rng)]
    chosen = np.zeros(n, np.bool_)
    chosen[drawn] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def draw_samples(
    data: DataChoice, pool: NDArray[np.int64], rng: np.random.Generator, owner: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """As many random samples of the pool as ``data.samples`` says, ascending; of each ``owner`` [n] apart if given."""
    if data.samples is None:
        return pool
    if data.samples > len(pool):
        raise ConfigError(f"data.samples = {data.samples}: there are only {len(pool)} samples to draw from")
    if owner is not None:
        none = np.zeros(len(pool), np.int64)
        return np.sort(pool[_of_owners(owner[pool], none, data.samples / len(pool), rng, keep=0)])
    return np.sort(rng.choice(pool, data.samples, replace=False))


def stratified(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random indices of ``share`` of the samples, and of each label's samples up to one."""
    per_class = np.bincount(labels)
    ends = np.cumsum(per_class)
    take = np.diff(np.rint(ends * share).astype(np.int64), prepend=0)
    place = np.arange(len(labels)) - np.repeat(ends - per_class, per_class)
    return by_label(labels, rng)[place < np.repeat(take, per_class)]


def _owner_by_owner(data: DataChoice, dataset: Dataset) -> NDArray[np.int64] | None:
    """Whose the samples are, where what is drawn of one's must not follow from another's; None elsewhere."""
    return dataset.owner if data.held_out_clients and data.partition.by_owner else None


def _of_owners(
    owner: NDArray[np.int64], labels: NDArray[np.int64], share: float, rng: np.random.Generator, keep: int
) -> NDArray[np.int64]:
    """Random indices of ``share`` of the samples, of which none of an owner's follows from another's label.

    How many are drawn of an owner's follows from the owners' numbers of samples.

    Args:
        owner: of all samples, ``[n]``.
        labels: likewise.
        share: of them.
        rng: what to draw with.
        keep: how many each owner keeps at least.
    """
    each, numbered = np.unique(owner, return_inverse=True)
    own = gather(np.arange(len(owner)), numbered, len(each))
    take = np.diff(np.rint(np.cumsum(own.sizes) * share).astype(np.int64), prepend=0)
    return own.order[_with_labels_alike(own, labels[own.order], np.minimum(take, own.sizes - keep), rng)]


def assign(data: DataChoice, dataset: Dataset, pool: NDArray[np.int64], clients: int | None, seed: int) -> Shards:
    """Divide the pool; indices into the whole data set, checked to be a partition."""
    everything = len(pool) == len(dataset.y)  # in order: then a copy of the labels would be the same
    labels = dataset.y if everything else dataset.y[pool]
    owner = dataset.owner if everything or dataset.owner is None else dataset.owner[pool]
    users = 0 if dataset.owner is None else int(dataset.owner.max(initial=-1)) + 1
    clients = clients or users
    if data.partition.by_owner and users and clients != users:
        raise ConfigError(f"data.clients = {clients}: the data have {users} owners; say {users} or leave it out")
    if clients > len(pool):
        raise ConfigError(f"data.clients = {clients}: there are only {len(pool)} samples to divide")
    shards = data.partition.assign(labels, owner, clients, stream(seed, Purpose.ASSIGN))
    key = f"data.partition.name = {data.partition.name!r}"
    if len(shards) != clients:
        raise ConfigError(f"{key}: it made {len(shards)} clients, not {clients}")
    if len(shards.order) != len(pool) or (np.bincount(shards.order, minlength=len(pool)) != 1).any():
        raise ConfigError(f"{key}: it did not give each of the {len(pool)} samples to exactly one client")
    if (shards.sizes == 0).any():
        raise ConfigError(
            f"{key}: client {int(np.argmin(shards.sizes))} would get no sample; have fewer clients, or a smaller "
            "data.server_test_share"
        )
    return shards if everything else Shards(pool[shards.order], shards.offsets)


def split_clients(shards: Shards, share: float, seed: int) -> tuple[Shards, Shards]:
    """Split each client's samples at random into train and test.

    A client with two samples or more has at least one of each (where ``share`` > 0); a single one is for training.
    """
    sizes = shards.sizes
    tests = np.zeros_like(sizes)
    if share > 0:
        tests = np.minimum(np.maximum(np.rint(sizes * share).astype(np.int64), 1), sizes - 1)
    train, test = _empty(sizes - tests), _empty(tests)
    draws = stream(seed, Purpose.CLIENT_TEST).random(len(shards.order))
    for clients in _of_one_size(sizes):
        size, n_test = sizes[clients[0]], tests[clients[0]]
        rows = _rows(shards.offsets, clients, size)
        mixed = shards.order[np.take_along_axis(rows, np.argsort(draws[rows], axis=1, kind="stable"), axis=1)]
        test.order[_rows(test.offsets, clients, n_test)] = mixed[:, :n_test]
        train.order[_rows(train.offsets, clients, size - n_test)] = mixed[:, n_test:]
    return train, test


def split_labelled(train: Shards, labels: NDArray[np.int64], fraction: float, seed: int) -> Shards:
    """The share of each client's training samples that keep their labels, in the order of ``train``.

    Of n samples k = ``fraction * n`` are taken, rounded, but at least one unless ``fraction`` is 0; of m samples
    of one label m * k / n, rounded up or down. Each sample is as likely to be taken as any other of its client.
    """
    if not fraction:
        return Shards.none(len(train))
    take = np.maximum(np.rint(train.sizes * fraction).astype(np.int64), 1)
    chosen = _with_labels_alike(train, labels[train.order], take, stream(seed, Purpose.LABELLED))
    client_of = train.client_of[chosen]
    return Shards.from_sizes(train.order[chosen], np.bincount(client_of, minlength=len(train)))


def _with_labels_alike(
    shards: Shards, label: NDArray[np.int64], take: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which entries are drawn of each client, ``[m]``: of each of its labels as large a part as of all its samples.

    Args:
        shards: all entries.
        label: of each entry, ``[m]``.
        take: how many to draw, ``[clients]``.
        rng: what to draw with. What is drawn of a client does not follow from another's labels.
    """
    n, sizes = len(shards.order), shards.sizes
    client = shards.client_of
    draws, keys = rng.random((2, n))
    # The labels of a client come in random order, else all clients would round up for the same ones.
    order = np.lexsort((draws, label, client))
    new = np.diff(client[order], prepend=-1).astype(np.bool_) | np.diff(label[order], prepend=-1).astype(np.bool_)
    key = np.empty(n)
    key[order] = keys[order[new]][np.cumsum(new) - 1]
    order = np.lexsort((draws, key, client))
    # Every (n / k)-th of them in turn, from a random first one on: so each label gets its share.
    first = (rng.random(len(sizes)) * sizes).astype(np.int64)
    size, take, first = (np.repeat(each, sizes) for each in (sizes, take, first))
    place = np.arange(n) - np.repeat(shards.offsets[:-1], sizes)
    chosen = np.zeros(n, np.bool_)
    chosen[order] = ((place + 1) * take + first) // size > (place * take + first) // size
    return chosen


def _of_one_size(sizes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The clients in groups of equal size, so few at a time that arrays over their samples stay small."""
    by_size = np.argsort(sizes, kind="stable")
    values, starts = np.unique(sizes[by_size], return_index=True)
    for size, group in zip(values, np.split(by_size, starts[1:]), strict=True):
        most = max(1, SPLIT_AT_ONCE // int(size))
        for first in range(0, len(group), most):
            yield group[first : first + most]


def _rows(offsets: NDArray[np.int64], clients: NDArray[np.int64], size: np.int64) -> NDArray[np.int64]:
    """Where the entries of clients of one size stand in their ``Shards.order``, ``[clients, size]``."""
    return offsets[clients, None] + np.arange(size)


def _empty(sizes: NDArray[np.int64]) -> Shards:
    return Shards.from_sizes(np.empty(sizes.sum(), np.int64), sizes)


def split_held_out(shards: Shards, held_out: NDArray[np.bool_], kind: str = "test") -> tuple[Shards, Shards]:
    """Split each client's samples as the data say; those that are ``held_out``, of some ``kind``, are the second."""
    train, test = _parted(shards, held_out[shards.order])
    if (train.sizes == 0).any():
        raise ConfigError(
            f"data: client {int(np.argmin(train.sizes))} has {kind} samples only; each needs one to train with"
        )
    return train, test


def split_as_before(shards: Shards, kinds: NDArray[np.int8]) -> tuple[Shards, Shards | None, Shards]:
    """Each client's training, validation and test samples, where each sample is for what it was for before.

    Raises:
        ConfigError: a client would have no training sample.
    """
    kind = kinds[shards.order]
    others, test = _parted(shards, kind == TESTING)
    train, validation = _parted(others, kind[kind != TESTING] != TRAINING)
    if (train.sizes == 0).any():
        raise ConfigError(
            f"data.partition: client {int(np.argmin(train.sizes))} would get no training sample, as a sample stays for "
            "training or for testing; have fewer clients, or a smaller data.test_share"
        )
    return train, validation if len(validation.order) else None, test


def _parted(shards: Shards, chosen: NDArray[np.bool_]) -> tuple[Shards, Shards]:
    """The entries that are not ``chosen`` ``[m]``, and those that are."""
    client_of = shards.client_of

    def part(these: NDArray[np.bool_]) -> Shards:
        return Shards.from_sizes(shards.order[these], np.bincount(client_of[these], minlength=len(shards)))

    return part(~chosen), part(chosen)


def normalisation(data: DataChoice, dataset: Dataset, source: Divided, unseen: NDArray[np.int64]) -> Normaliser:
    """``scale`` and ``shift`` such that a model's input is ``x * scale + shift``; none of it is of unseen clients."""
    x, shards, train = source.x, source.shards, source.train
    if len(unseen):
        seen = np.setdiff1d(np.arange(len(train)), unseen)
        shards, train = shards.of_clients(seen), train.of_clients(seen)
        if not len(train.order):
            raise ConfigError(
                "data.held_out_clients: all clients that hold samples of [data] itself are held out, and those of its "
                "target alone remain; hold out fewer, or name others"
            )
    if isinstance(data.normalise, Constants):
        return data.normalise.normaliser(x.shape[1:], x.dtype)
    if data.normalise == "pixel":
        return by_pixel(*pixel_statistics(x, np.unique(shards.order)))  # a sample once, however many hold it
    if data.normalise == "none":
        return unchanged(x.ndim - 1, x.dtype)
    mean, std = dataset.mean, dataset.std
    if len(unseen) and (mean.any() or (std != 1).any()):  # else they are no statistics
        rows = train.order if source.origin is None else source.origin[train.order]
        mean, std = channel_statistics(dataset.x, np.unique(rows))
    return by_dataset(mean, std, x.dtype)
