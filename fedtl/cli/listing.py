"""``fedtl list``: what a config can name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedtl.cli import printing


def list_parts(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", hidden=True)] = None,
) -> None:
    """List what a config can name.

    KIND is configs, strategies, optimizers, server-optimizers, schedules, partitions, datasets, models or terms; all if
    not given.
    """
    from fedtl.choice import ConfigError, first_line, load_object, nearest
    from fedtl.config.read import shipped_configs
    from fedtl.data import DATASETS
    from fedtl.data.partitions import PARTITIONS
    from fedtl.losses.objective import TERMS
    from fedtl.models import MODELS
    from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
    from fedtl.strategies import STRATEGIES

    registries: dict[str, Mapping[str, str]] = {
        "strategies": STRATEGIES,
        "optimizers": OPTIMIZERS,
        "server-optimizers": SERVER_OPTIMIZERS,
        "schedules": SCHEDULES,
        "partitions": PARTITIONS,
        "datasets": DATASETS,
        "models": MODELS,
        "terms": TERMS,
    }
    kinds = ["configs", *registries]
    if kind is not None and kind not in kinds:
        raise ConfigError(f"{kind!r} is no kind of part: {nearest(kind, kinds)}")
    for i, each in enumerate([kind] if kind else kinds):
        if kind is None:
            printing.out.print(f"{chr(10) if i else ''}[bold]{each}[/]")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        if each == "configs":
            for name in shipped_configs():
                table.add_row(name, Text(_headline(name)))
        else:
            for name, path in sorted(registries[each].items()):
                table.add_row(name, Text(first_line(load_object(path, each))))
        if each == "models":
            table.add_row("resnet18, vgg11, …", "Any of torchvision's classification networks, by its name there.")
        printing.out.print(table)


def _headline(config: str) -> str:
    """What a config that ships says of itself: its comment's first sentence that is not its command."""
    from importlib import resources

    text = resources.files("fedtl.configs").joinpath(f"{config}.toml").read_text(encoding="utf-8")
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    sentence = " ".join(line for line in lines if line and not line.startswith(("fedtl ", "FEDTL_DATA=")))
    return re.split(r"(?<=\.)(?<!al\.)\s", sentence, maxsplit=1)[0]
