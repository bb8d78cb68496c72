"""What a partition is: a rule that gives every sample to exactly one client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import Choice, ConfigError
from fedtl.data.dataset import Samples
from fedtl.data.federation import Shards

if TYPE_CHECKING:
    from fedtl.data.split import Split


class Partition(Choice):
    """A rule that gives every sample to exactly one client, or a list of who holds what."""

    changes_samples: ClassVar[bool] = False
    """Whether a client may see its samples, or their labels, differently from another."""

    @abstractmethod
    def assign(
        self, labels: NDArray[np.int64], owner: NDArray[np.int64] | None, clients: int, rng: np.random.Generator
    ) -> Shards:
        """Divide the pool's samples.

        Args:
            labels: of the pool's samples, ``[n]``.
            owner: whose sample each is, ``[n]``, where the data say so.
            clients: N.
            rng: the only source of randomness.

        Returns:
            Indices into the pool, every one of ``0..n-1`` exactly once, at least one per client.

        Raises:
            ConfigError: these samples cannot be divided so.
        """

    def shift(self, x: Samples, shards: Shards, seed: int) -> Samples:
        """What the clients see instead of ``x``, where they see it differently; ``shards`` are indices into ``x``.

        Every sample is one client's, so this is applied once, to the one array. Samples that no client holds
        stay as they are. The result has the dtype and shape of ``x``, which is not written to.
        """
        return x

    def seeing(self, rows: NDArray[np.int64]) -> Partition:
        """The same, to whose :meth:`shift` some samples alone say what holds of all, as which number is white.

        It is asked for where clients are held out; itself where nothing follows from all samples.

        Args:
            rows: places in ``x``, of the training samples of clients that train.
        """
        return self

    def places(self, client: int, features: int, seed: int) -> NDArray[np.int64] | None:
        """From which place of a vector :meth:`shift` takes each feature of a client, ``[features]``; None: its own."""
        return None

    def concept(self, y: NDArray[np.int64], classes: int, shards: Shards, seed: int) -> NDArray[np.int64]:
        """What the clients call the samples, for training and for testing, instead of ``y`` ``[n]``, which stays.

        It comes before :meth:`relabel`, which makes labels wrong.

        Args:
            y: all samples' labels.
            classes: labels are 0 to ``classes - 1``.
            shards: each client's samples, as indices into ``y``; every sample is one client's.
            seed: the run's.
        """
        return y

    def relabel(self, y: NDArray[np.int64], classes: int, train: Shards, seed: int) -> NDArray[np.int64]:
        """The labels that the clients see instead of ``y`` ``[n]``, which is not written to.

        Args:
            y: all samples' labels.
            classes: labels are 0 to ``classes - 1``.
            train: each client's training samples, those that ``data.validation_share`` draws of them included, as
                indices into ``y``; every sample is one client's.
            seed: the run's.
        """
        return y

    def listed(self) -> Split | None:
        """Who holds what, where a file says it and :meth:`assign` is not asked; None where the partition is a rule.

        Raises:
            ConfigError: the file cannot be read, or is no split.
        """
        return None

    @property
    def later(self) -> Sequence[tuple[int, Partition]]:
        """What comes in its place while the run goes on: partitions, each with its first round."""
        return ()

    @property
    def by_owner(self) -> bool:
        """Whether each client gets exactly the samples of one owner."""
        return False

    @property
    def counts_clients(self) -> bool:
        """Whether the number of clients follows from the data or a file, so that ``data.clients`` may be left out."""
        return self.by_owner


def need_samples(n: int, clients: int, each: int = 1) -> None:
    """Check that ``n`` samples suffice for ``each`` per client.

    Raises:
        ConfigError: they do not.
    """
    if clients * each > n:
        least = "one sample" if each == 1 else f"{each} samples"
        raise ConfigError(f"data.clients = {clients}: {n} samples cannot give {least} to each; at most {n // each}")


def need_classes(option: str, k: int, classes: int) -> None:
    """Check that ``data.partition.<option>`` = k asks for no more classes than there are.

    Raises:
        ConfigError: it does.
    """
    if k > classes:
        raise ConfigError(f"data.partition.{option} = {k}: there are only {classes} classes")


def need_sharers(option: str, k: int, clients: int, label: int, samples: int, holders: int) -> None:
    """Check that a class has a sample for each of its holders, of whom each client's ``option`` = k makes so many.

    Raises:
        ConfigError: it has not.
    """
    if samples < holders:
        raise ConfigError(
            f"data.clients = {clients}: {holders} of them would share the {samples} samples of class {label}; have "
            f"fewer clients or a lower data.partition.{option} = {k}"
        )


def by_label(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of the samples sorted by label, in random order within a label."""
    order = rng.permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]


def deal(labels: NDArray[np.int64], counts: NDArray[np.int64], rng: np.random.Generator) -> Shards:
    """Give ``counts[c, i]`` random samples of label c to client i; each row must sum to that label's samples."""
    classes, clients = counts.shape
    receiver = np.repeat(np.tile(np.arange(clients), classes), counts.ravel())
    return gather(by_label(labels, rng), receiver, clients)


def gather(samples: NDArray[np.int64], receiver: NDArray[np.int64], clients: int) -> Shards:
    """Shards in which client ``receiver[j]`` holds ``samples[j]``."""
    in_order = bool((receiver[1:] >= receiver[:-1]).all())
    order = samples if in_order else samples[np.argsort(receiver, kind="stable")]
    return Shards.from_sizes(order, np.bincount(receiver, minlength=clients))


def split_evenly(total: int, parts: int) -> NDArray[np.int64]:
    """``total`` as ``parts`` whole numbers that differ by at most one, the larger first."""
    return total // parts + (np.arange(parts) < total % parts).astype(np.int64)


def split_in_proportion(total: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """``total`` as whole numbers in proportion to ``weights``, each off by less than one."""
    cuts = np.rint(np.cumsum(weights) / weights.sum() * total).astype(np.int64)
    cuts[-1] = total  # the floating-point sum may fall short of it
    shares: NDArray[np.int64] = np.diff(cuts, prepend=0)
    return shares
