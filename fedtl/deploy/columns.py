"""What the columns of real clients' tables become, decided by the server out of what each client says of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedtl.choice import ConfigError
from fedtl.data.columns import Columns, kind_and_other
from fedtl.data.own.columns import ColumnRules, decided, few
from fedtl.data.own.lines import difference
from fedtl.data.own.read import Own
from fedtl.data.schema import DataSchema
from fedtl.deploy.agent import SUMS_FROM
from fedtl.deploy.deployed_grid import DeployedGrid, Described


class First(NamedTuple):
    """The first table of a study, whose columns all others' are to be.

    Attributes:
        name: whose it is.
        columns: what its columns are called, as in :attr:`~fedtl.data.own.read.Own.columns`.
        boolean: which of them hold yes and no.
    """

    name: str
    columns: Sequence[str]
    boolean: Sequence[str] = ()


def decided_columns(
    deployed: DeployedGrid, clients: Mapping[int, str], rules: ColumnRules, notes: list[str]
) -> Columns | None:
    """What the columns of all clients' tables become, as a simulation decides it: by their own sums and medians.

    Args:
        deployed: asks them.
        clients: the names of those who train, whose rows decide.
        rules: how cells become numbers.
        notes: gets a sentence where it may be decided otherwise than in a simulation.

    Returns:
        None where all clients have numbers already.

    Raises:
        ConfigError: only some have, their columns differ, or one has so few values that a client tells none.
    """
    each, failed = deployed.summaries(clients, rules)
    told = [(clients[i], said) for i, said in sorted(each.items()) if said is not None]
    if not told:
        return None
    if ready := [clients[i] for i, said in sorted(each.items()) if said is None]:
        raise ConfigError(
            f"{ready[0]} has read numbers, and the columns of {told[0][0]} become numbers by what all clients say of "
            "theirs; start all clients with --rules"
        )
    notes += [f"what columns become is decided without {clients[i]}: {why}" for i, why in sorted(failed.items())]
    if small := [name for name, said in told if few(said) and not any(one.values for one in said.values())]:
        raise ConfigError(
            f"{small[0]} has fewer than {SUMS_FROM} training rows with values, and so says nothing of its columns; "
            "give the server a frame.json with --data, or run the study without it"
        )
    if sparse := [column for _, said in told for column in few(said)]:
        where = ", ".join(name for name, said in told if sparse[0] in few(said))
        raise ConfigError(
            f"the column {sparse[0]!r} has a value in fewer than {SUMS_FROM} training rows of {where}, whose sum would "
            "tell of single ones; name it in data.leave_out, here and in the clients' --rules"
        )
    return decided([(f"the table of {name}", said) for name, said in told], rules)


def of_server(own: Own, columns: Columns | None) -> Own:
    """The server's own table as numbers.

    Raises:
        ConfigError: nobody says what its columns become.
    """
    if columns is None:
        raise ConfigError(
            f"{own.source}: what its columns become follows from clients' rows, and neither they nor a frame.json say "
            "it; write numbers, or leave it out"
        )
    return own.decided(columns)


def that_fit(columns: Columns | None, frame: DataSchema) -> Columns | None:
    """Columns that become as many numbers as the clients' samples have.

    Raises:
        ConfigError: they become others.
    """
    if columns is not None and frame.shape != (columns.width,):
        raise ConfigError(
            f"the clients' columns become {columns.width} numbers, and a sample of theirs has shape {list(frame.shape)}"
        )
    return columns


def of_numbers(like: First | None, frame: DataSchema) -> Columns | None:
    """The columns of tables of which each is a number of a sample."""
    if like is None or frame.shape != (len(names := names_in(like.columns)),):
        return None
    return Columns.of_numbers(names, like.boolean)


def names_in(columns: Sequence[str]) -> tuple[str, ...]:
    """Of a table's columns, as a client describes them, those that are learned from."""
    names = list(columns)
    return tuple(names[: names.index("")] if "" in names else names)


def check_columns(name: str, data: Described, like: First | None) -> None:
    """Refuse a client whose table's numbers mean something else than the first one's."""
    if like is None or not data.columns:
        return
    if data.columns != tuple(like.columns):
        mine, others = ([column for column in each if column] for each in (data.columns, like.columns))
        raise ConfigError(
            f"the table of {name}: {difference(mine, others)} in that of {like.name}; all clients' tables must have "
            "the same columns"
        )
    check_kinds(name, data, like.boolean, f"that of {like.name}")


def check_kinds(name: str, data: Described, boolean: Sequence[str], there: str) -> None:
    """Refuse a client whose table has numbers where another has yes and no, or the other way round.

    Args:
        name: the client's.
        data: what it says of its data.
        boolean: the columns that are yes and no.
        there: where they are.

    Raises:
        ConfigError: other columns are at the client.
    """
    for column in data.columns:
        if (column in data.boolean) != (column in boolean):
            own, others = kind_and_other(column in data.boolean)
            raise ConfigError(
                f"the column {column!r} holds {own} in the table of {name} and {others} in {there}; write it "
                "alike, or name it in data.leave_out"
            )
