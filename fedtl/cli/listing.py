"""``fedtl list``: what a config can name, and all that there is to know of one name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedtl.cli import printing

OTHERS = "Other methods of the registry"


def list_parts(
    name: Annotated[str | None, typer.Argument(metavar="[KIND|NAME]", hidden=True)] = None,
) -> None:
    """List what a config can name, or explain one name.

    KIND is configs, studies, strategies, optimizers, server-optimizers, schedules, partitions, datasets, models,
    adapters, terms, tasks, metrics or trackers; all if not given.

    NAME is any of those that are listed, or a class of your own, as my_module:MyMethod: its paper and equation, its
    options, what it sends and keeps, and a config to start from.
    """
    from fedtl.choice import ConfigError, nearest
    from fedtl.cli.registries import REGISTRIES
    from fedtl.config.read import shipped_configs, shipped_studies

    kinds = ["configs", "studies", *REGISTRIES]
    if name is not None and name not in kinds:
        if kinds_of_name := _kinds_of(name, REGISTRIES):
            from fedtl.cli.explain import explain

            for i, kind in enumerate(kinds_of_name):
                if i:
                    printing.out.print()
                explain(kind, name)
            return
        everything = {
            *kinds,
            *shipped_configs(),
            *shipped_studies(),
            *(row for rows in REGISTRIES.values() for row in rows),
        }
        hint = nearest(name, everything)
        if not hint.startswith("did"):
            hint = f"give one of {', '.join(kinds)}, or a name that fedtl list prints"
        raise ConfigError(f"{name!r} is no kind of part, nor the name of one: {hint}")
    for i, each in enumerate([name] if name else kinds):
        if name is None:
            printing.out.print(f"{chr(10) if i else ''}[bold]{each}[/]")
        _print_kind(each, REGISTRIES)


def _kinds_of(name: str, registries: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The kinds of part that a name is of; several have one name, as the method and the partition pfedme."""
    from fedtl.config.read import shipped_configs, shipped_studies

    kinds = [kind for kind, rows in registries.items() if name in rows]
    if name in shipped_configs():
        kinds.append("configs")
    if name in shipped_studies():
        kinds.append("studies")
    if not kinds and ":" in name:
        kinds = [_kind_of_class(name)]
    if not kinds:
        from fedtl.models.torchvision_models import torchvision_names

        kinds = ["models"] if name in torchvision_names() else []
    return kinds


def _kind_of_class(path: str) -> str:
    """The kind of part that a class of the user's own is.

    Raises:
        ConfigError: it cannot be imported, or is of no kind.
    """
    from torch import nn

    from fedtl.choice import ConfigError, load_object
    from fedtl.clients.contract import ClientUpdate
    from fedtl.config.tracking import Tracker
    from fedtl.data.partitions.contract import Partition
    from fedtl.data.settings import DataChoice
    from fedtl.losses.term import Term
    from fedtl.metrics import Metric
    from fedtl.models.settings import ModelChoice
    from fedtl.strategies.contract import Strategy

    part = load_object(path, "fedtl list")
    kinds: Sequence[tuple[Any, str]] = (
        ((ClientUpdate, Strategy), "strategies"),
        (Term, "terms"),
        (Metric, "metrics"),
        (Partition, "partitions"),
        (DataChoice, "datasets"),
        ((ModelChoice, nn.Module), "models"),
        (Tracker, "trackers"),
    )
    for bases, kind in kinds:
        if isinstance(part, type) and issubclass(part, bases):
            return kind
    raise ConfigError(f"{path!r} is neither a method, a term, a metric, a partition, a data set, a model nor a tracker")


def _print_kind(kind: str, registries: Mapping[str, Mapping[str, str]]) -> None:
    from fedtl.choice import first_line, load_object
    from fedtl.config.read import STUDIES, shipped_configs, shipped_studies

    if kind in ("configs", "studies"):
        files = shipped_configs() if kind == "configs" else [f"{STUDIES}/{name}" for name in shipped_studies()]
        _print_rows([(file.removeprefix(f"{STUDIES}/"), _headline(file)) for file in files])
        return
    rows = {name: first_line(load_object(path, kind)) for name, path in sorted(registries[kind].items())}
    if kind != "strategies":
        last = ("resnet18, vgg11, …", "Any of torchvision's classification networks, by its name there.")
        _print_rows([*rows.items(), *([last] if kind == "models" else [])])
        return
    from fedtl.strategies import GROUPS

    width = max(map(len, rows))
    for heading, names in {
        **GROUPS,
        OTHERS: tuple(rows.keys() - {n for each in GROUPS.values() for n in each}),
    }.items():
        shown = [(name, rows[name]) for name in (names if heading in GROUPS else sorted(names)) if name in rows]
        if shown:
            printing.out.print(f"[italic]{heading}[/]")
            _print_rows(shown, width)


def _print_rows(rows: Sequence[tuple[str, str]], width: int = 0) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=width)
    table.add_column()
    for name, text in rows:
        table.add_row(name, Text(text))
    printing.out.print(table)


def _headline(config: str) -> str:
    """What a config that ships says of itself: its comment's first sentence that is not its command."""
    from importlib import resources

    text = resources.files("fedtl.configs").joinpath(f"{config}.toml").read_text(encoding="utf-8")
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    sentence = " ".join(line for line in lines if line and not line.startswith(("fedtl ", "FEDTL_DATA=")))
    return re.split(r"(?<=\.)(?<!al\.)\s", sentence, maxsplit=1)[0]
