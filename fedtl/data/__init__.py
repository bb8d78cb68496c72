"""Data sets, partitions, and the federated view of them.

Importing this package imports no data set: a row of the registries is imported when a config names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedtl.choice import ConfigError, Registry, explain, part_type, shown, validate
from fedtl.data.partitions import read_partition

if TYPE_CHECKING:
    from fedtl.data.settings import DataChoice


__all__ = ["DATASETS", "read_data", "read_domain", "read_domains"]

DATASETS: Registry = {
    "breast-cancer": "fedtl.data.sets.sklearn_tables:BreastCancer",
    "cifar10": "fedtl.data.sets.vision:CIFAR10",
    "cifar100": "fedtl.data.sets.vision:CIFAR100",
    "diabetes": "fedtl.data.sets.sklearn_tables:Diabetes",
    "digits": "fedtl.data.sets.digits:Digits",
    "domains": "fedtl.data.sets.domains:Domains",
    "emnist": "fedtl.data.sets.vision:EMNIST",
    "fashion-mnist": "fedtl.data.sets.vision:FashionMNIST",
    "files": "fedtl.data.sets.files:Files",
    "heart-disease": "fedtl.data.sets.heart:HeartDisease",
    "images": "fedtl.data.sets.images:Images",
    "made": "fedtl.data.sets.made:Made",
    "medmnist": "fedtl.data.sets.medmnist:MedMNIST",
    "mnist": "fedtl.data.sets.vision:MNIST",
    "npz": "fedtl.data.sets.npz:Npz",
    "shakespeare": "fedtl.data.sets.shakespeare:Shakespeare",
    "svhn": "fedtl.data.sets.vision:SVHN",
    "synthetic": "fedtl.data.sets.synthetic:Synthetic",
    "usps": "fedtl.data.sets.vision:USPS",
    "watch": "fedtl.data.sets.watch:Watch",
}


def read_data(table: Mapping[str, Any]) -> DataChoice:
    """A config's ``[data]`` table, checked; ``model_dump()`` of the result reads as an equal choice.

    ``name`` is a row of :data:`DATASETS` or the dotted path ``"package.module:Class"`` of a
    :class:`~fedtl.data.settings.DataChoice`; ``partition`` is read by :func:`read_partition`.

    Raises:
        ConfigError: a name is unknown or an option is wrong.
    """
    return _read(table, "data")


def read_domain(table: object, key: str) -> DataChoice:
    """A ``[data.target]`` or ``[data.public]`` table, or a data set's bare name, checked; see :func:`read_data`.

    Raises:
        ConfigError: a name is unknown, an option is wrong, or means nothing here; ``key`` begins the message.
    """
    from fedtl.data.settings import DataChoice

    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, (Mapping, DataChoice)):
        raise ConfigError(f"{key} = {shown(table)}: give a table, as [{key}] name = 'usps', or a name")
    choice = table if isinstance(table, DataChoice) else _read(table, key, "domain")
    for part in ("target", "public"):
        inner: DataChoice | None = getattr(choice, part)
        if inner is not None:
            raise ConfigError(
                f"{key}.{part}.name = {inner.name!r}: only [data] itself has a {part}; give it as [data.{part}]"
            )
    unused = ["normalise", "labelled_fraction", "validation_share", "held_out_clients"]
    if key.startswith("data.domains."):
        unused = [name for name in ALIKE_IN_DOMAINS if name not in choice.load_reads]
    elif key.endswith("public"):
        unused += ["partition", "test_share"]
        if type(choice).model_fields["clients"].default is None:  # else the data are made for so many
            unused.append("clients")
    defaults = {"partition": read_partition(choice.default_partition)}
    if choice.partition.later:
        raise ConfigError(
            f"{key}.partition.name = {choice.partition.name!r}: only what [data] itself gives to clients changes; "
            "give another partition"
        )
    for name in unused:
        value = getattr(choice, name)
        if value != defaults.get(name, type(choice).model_fields[name].default):
            quoted = f".name = {value.name!r}" if name == "partition" else f" = {value!r}"
            why = ALIKE_IN_DOMAINS[name] if key.startswith("data.domains.") else _WHY_UNUSED[name]
            raise ConfigError(f"{key}.{name}{quoted}: {why}; leave it out")
    return choice


def read_domains(table: object, key: str) -> dict[str, DataChoice]:
    """A ``[data.domains]`` table of data sets by their domains' names, or a list of data sets, checked.

    Raises:
        ConfigError: it is none, one of them is wrong, or two of a list have one name; ``key`` begins the message.
    """
    example = f"give a table for each, as [{key}.photo] name = 'mnist', or a list of data sets, as ['mnist', 'usps']"
    if isinstance(table, (list, tuple)):
        names = [each.get("name") if isinstance(each, Mapping) else getattr(each, "name", each) for each in table]
        for name in names:
            if not isinstance(name, str):
                raise ConfigError(f"{key}: {example}")
            if names.count(name) > 1:
                raise ConfigError(f"{key}: {name!r} is there twice; give each domain a name, as [{key}.{name}-1]")
        table = dict(zip(names, table))
    if not isinstance(table, Mapping):
        raise ConfigError(f"{key} = {shown(table)}: {example}")
    return {str(name): read_domain(each, f"{key}.{name}") for name, each in table.items()}


_WHY_UNUSED = {
    "normalise": "all samples are normalised as data.normalise says",
    "labelled_fraction": "these samples have no labels for training anyway",
    "validation_share": "validation samples are of the clients' own labelled training samples, data.validation_share",
    "held_out_clients": "who never trains is said of all clients together, in data.held_out_clients",
    "partition": "public samples are not divided",
    "test_share": "public samples are not for testing",
    "clients": "public samples are everybody's",
}

ALIKE_IN_DOMAINS = {
    "normalise": "all domains are normalised alike, as data.normalise says",
    "labelled_fraction": "it is the same in all domains, data.labelled_fraction",
    "validation_share": "it is the same in all domains, data.validation_share",
    "held_out_clients": "data.held_out_clients is of the clients of all domains",
    "test_share": "it is the same in all domains, data.test_share",
    "server_test_share": "it is the same in all domains, data.server_test_share",
    "pool": "it is the same for all domains, data.pool",
    "task": "it is the same in all domains, data.task",
    "partition": "data.partition divides each domain",
}
"""Options of a data set that are none of a domain's own, and why."""


def _read(table: Mapping[str, Any], key: str, context: str | None = None) -> DataChoice:
    from fedtl.data.settings import DataChoice
    from fedtl.data.views.transform import ImageTransform

    kind = part_type(DataChoice, DATASETS, table.get("name"), f"{key}.name")  # type: ignore[type-abstract]
    values = dict(table)  # parts are read here, so that their errors name the whole key
    if values.get("partition") is not None:
        values["partition"] = read_partition(values["partition"], f"{key}.partition")
    for part in ("target", "public"):
        if values.get(part) is not None:
            values[part] = read_domain(values[part], f"{key}.{part}")
    if "domains" in kind.model_fields and values.get("domains") is not None:
        values["domains"] = read_domains(values["domains"], f"{key}.domains")
    for name in ("transform", "look"):  # the second is its older name
        if isinstance(values.get(name), Mapping):
            values[name] = validate(ImageTransform, values[name], f"{key}.{name}")
    try:
        return kind.model_validate(values, context=context)
    except ValidationError as error:
        raise ConfigError(explain(error, key, kind)) from error
