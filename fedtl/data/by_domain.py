"""A data set of several domains, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.data.dataset import Dataset, DomainRows
from fedtl.data.federation import Shards


def of_domain(dataset: Dataset, domain: DomainRows) -> Dataset:
    """One domain's samples, which are views of the whole, with its own official test set."""
    first_test = None if domain.official_test is None else domain.official_test - domain.start
    part, says = dataset.part(slice(domain.start, domain.stop), first_test), domain.says
    return replace(
        part,
        owner=part.owner if "owner" in says else None,
        held_out=part.held_out if "held_out" in says else None,
        validation=part.validation if "validation" in says else None,
    )


def one_after_another(each: Sequence[Shards], starts: Sequence[int]) -> Shards:
    """The clients of all domains; each domain's indices are from 0, and become those from its start on."""
    order = np.concatenate([shards.order + start for shards, start in zip(each, starts)])
    return Shards.from_sizes(order, np.concatenate([shards.sizes for shards in each]))


def domains_of_clients(
    dataset: Dataset, shards: Shards, origin: NDArray[np.int64] | None = None
) -> NDArray[np.int64] | None:
    """Which of the data set's domains each client is of, ``[clients]``; None where there is one.

    Args:
        dataset: of several domains.
        shards: who holds what, each client one sample at least.
        origin: which of the data set's samples each row is; None where rows are these.

    Raises:
        ConfigError: a client has samples of two domains, or of one that is held out.
    """
    if not dataset.domains:
        return None
    samples = shards.order if origin is None else origin[shards.order]
    starts = np.array([domain.start for domain in dataset.domains])
    domain_of = np.searchsorted(starts, samples, "right") - 1
    first = domain_of[shards.offsets[:-1]]
    two = domain_of != first[shards.client_of]
    names = [domain.name for domain in dataset.domains]
    if two.any():
        entry = int(np.argmax(two))
        client = int(shards.client_of[entry])
        raise ConfigError(
            f"data.partition: client {client} would have samples of {names[first[client]]} and of "
            f"{names[domain_of[entry]]}; a client is of one domain"
        )
    for number, domain in enumerate(dataset.domains):
        if not domain.trained and (first == number).any():
            raise ConfigError(
                f"data.held_out = {domain.name!r}: data.partition gives samples of it to client "
                f"{int(np.argmax(first == number))}; no client may have this domain"
            )
    return first


@contextmanager
def said_of(domain: DomainRows) -> Iterator[None]:
    """Say in an error in which domain it is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error} (in the domain {domain.name})") from error
