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


__all__ = ["DATASETS", "read_data", "read_domain"]

DATASETS: Registry = {
    "breast-cancer": "fedtl.data.sets.sklearn_tables:BreastCancer",
    "cifar10": "fedtl.data.sets.vision:CIFAR10",
    "cifar100": "fedtl.data.sets.vision:CIFAR100",
    "diabetes": "fedtl.data.sets.sklearn_tables:Diabetes",
    "digits": "fedtl.data.sets.digits:Digits",
    "emnist": "fedtl.data.sets.vision:EMNIST",
    "fashion-mnist": "fedtl.data.sets.vision:FashionMNIST",
    "files": "fedtl.data.sets.files:Files",
    "heart-disease": "fedtl.data.sets.heart:HeartDisease",
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
    if key.endswith("public"):
        unused += ["partition", "test_share"]
        if type(choice).model_fields["clients"].default is None:  # else the data are made for so many
            unused.append("clients")
    defaults = {"partition": read_partition(choice.default_partition)}
    for name in unused:
        value = getattr(choice, name)
        if value != defaults.get(name, type(choice).model_fields[name].default):
            quoted = f".name = {value.name!r}" if name == "partition" else f" = {value!r}"
            raise ConfigError(f"{key}.{name}{quoted}: {_WHY_UNUSED[name]}; leave it out")
    return choice


_WHY_UNUSED = {
    "normalise": "all samples are normalised as data.normalise says",
    "labelled_fraction": "these samples have no labels for training anyway",
    "validation_share": "validation samples are of the clients' own labelled training samples, data.validation_share",
    "held_out_clients": "who never trains is said of all clients together, in data.held_out_clients",
    "partition": "public samples are not divided",
    "test_share": "public samples are not for testing",
    "clients": "public samples are everybody's",
}


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
    for name in ("transform", "look"):  # the second is its older name
        if isinstance(values.get(name), Mapping):
            values[name] = validate(ImageTransform, values[name], f"{key}.{name}")
    try:
        return kind.model_validate(values, context=context)
    except ValidationError as error:
        raise ConfigError(explain(error, key, kind)) from error
