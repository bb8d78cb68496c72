"""``fedtl partition``: who holds what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from fedtl.cli import printing
from fedtl.cli.printing import ConfigArgument, OverridesArgument

if TYPE_CHECKING:
    from fedtl.data.federate import Divided, Divisions
    from fedtl.data.federation import Domain
    from fedtl.data.settings import DataChoice


def partition(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", show_default=False, help="PNG or SVG; partition.png if not given.")
    ] = Path("partition.png"),
    rows: Annotated[
        int, typer.Option("--rows", show_default=False, help="Clients in the table; 20 if not given.")
    ] = 20,
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write what each client and the server hold, as .npz files.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Also write who holds what to a .npz or .csv file, as 'file' reads it."),
    ] = None,
    clients: Annotated[
        str | None, typer.Option("--names", help="With --export: the clients' folders, as a,b,c; 0,1,2 if not given.")
    ] = None,
) -> None:
    """Show who holds what: a table and a picture.

    CONFIG is a TOML file, a run's folder, or the name of a config that ships (see fedtl list configs).

    KEY=VALUE overrides a key of it, as data.partition.name=dirichlet.
    """
    import numpy as np

    from fedtl import plot as pictures
    from fedtl.choice import ConfigError
    from fedtl.config.read import read_config
    from fedtl.data.export import check_empty, size_of
    from fedtl.data.export import export as write
    from fedtl.data.federate import federate_with_divisions
    from fedtl.data.federation import Federation
    from fedtl.data.split import check_format

    read, notes = read_config(config, overrides or ())
    for note in notes:
        printing.out.print(note, markup=False)
    if export is not None:
        check_empty(export)
    elif clients is not None:
        raise ConfigError(f"--names = {clients!r}: they name the folders of --export; add that, or leave them out")
    if save is not None:
        check_format(save, f"--save = {str(save)!r}")
    federation, divisions = federate_with_divisions(read.data, read.seed, read.trains_unlabelled)
    for note in federation.notes:
        printing.out.print(note, markup=False, soft_wrap=True)
    names = federation.label_names or tuple(str(k) for k in range(federation.classes))

    def show(
        data: DataChoice, of: Federation | Domain, divided: Divided, first: int, last: int, prefix: str = ""
    ) -> None:
        """What clients first..last-1 hold; ``prefix`` says of which domain."""
        whole = of if isinstance(of, Federation) else federation
        counts = whole.label_counts(min(first + rows, last), target=of is federation.target)
        table = Table(box=SIMPLE_HEAD, show_edge=False)
        unlabelled = federation.target if read.data.target is None else None
        parts = {"train": of.train, "unlabelled": unlabelled.train if unlabelled else None}
        parts |= {"validation": whole.validation if whole is of else None, "test": of.test}
        shown = {word: part for word, part in parts.items() if part is not None}
        several = whole is of and federation.domain_of is not None
        for column in ("client", *(["domain"] if several else []), *shown, "labels (samples)"):
            table.add_column(column, justify="left" if column.startswith(("labels", "domain")) else "right")
        for client in range(first, len(counts)):
            labels = "  ".join(f"{names[k]} ({counts[client, k]})" for k in np.flatnonzero(counts[client]))
            sizes = [part[client].size for part in shown.values()]
            domain = [federation.domains[federation.domain_of[client]]] if federation.domain_of is not None else []
            table.add_row(str(client), *map(Text, domain if several else []), *map(str, sizes), Text(labels))
        printing.out.print(f"{prefix}{data.name}, {last - first} clients, {data.partition.name}", markup=False)
        printing.out.print(table)
        if last - first > rows:
            printing.out.print(f"and {last - first - rows} more clients")
        kinds = {"train": "training", "unlabelled": "unlabelled training", "validation": "validation"}
        for word, kind in kinds.items():
            if word in shown:
                each = shown[word].sizes[first:last]
                printing.out.print(f"{kind} samples: {each.sum()}, {each.min()} to {each.max()} a client")
        printing.out.print(f"test samples: {of.test.sizes.sum()} at the clients, {len(of.server_test)} at the server")
        entries = np.concatenate([part.order for part in (divided.train, divided.test, divided.validation) if part])
        samples = entries if divided.origin is None else divided.origin[entries]
        if (different := len(np.unique(samples))) < len(samples):
            printing.out.print(f"the clients' {len(samples)} samples are {different} different ones")

    first = federation.first_of_target
    show(read.data, federation, divisions.source, 0, first or federation.clients)
    for stage, later in zip(federation.later, divisions.later):
        printing.out.print()
        own = read.data.model_copy(update={"partition": later.partition})
        show(own, federation.at(stage.first), later.divided, 0, federation.clients, f"from round {stage.first} on: ")
    if read.data.target is not None and federation.target is not None and divisions.target is not None:
        printing.out.print()
        show(read.data.target, federation.target, divisions.target, first, federation.clients, "target: ")
    if len(federation.unseen):
        ids = ", ".join(map(str, federation.unseen[:rows])) + ("" if len(federation.unseen) <= rows else ", …")
        printing.out.print(f"held out, and scored apart: {len(federation.unseen)} clients: {ids}", soft_wrap=True)
    for name, samples in federation.held_out.items():
        printing.out.print(f"held out: {name}, {len(samples)} samples at the server", markup=False)
    if len(federation.public):
        printing.out.print(f"public samples: {len(federation.public)}")
    printing.out.print(f"{pictures.save(pictures.partition(federation), output)}", markup=False, soft_wrap=True)
    if export is not None:
        write(federation, export, None if clients is None else [name.strip() for name in clients.split(",")])
        printing.out.print(
            f"{export}: {federation.clients} clients and the server, {decimal(size_of(export))}",
            markup=False,
            soft_wrap=True,
        )
    if save is not None:
        _save(read.data, divisions, save)


def _save(data: DataChoice, divisions: Divisions, file: Path) -> None:
    """Write who holds what to a file, and of a target to another beside it, and say so."""
    from fedtl.data.partitions.on_top import OnTop
    from fedtl.data.split import write_split

    domains = [(data, divisions.source, file)]
    if data.target is not None and divisions.target is not None:
        domains.append((data.target, divisions.target, file.with_stem(f"{file.stem}-target")))
    for choice, divided, path in domains:
        split = divided.split()
        write_split(split, path)
        words = f"{path}: {split.clients} clients, {len(split.sample)} samples, {decimal(path.stat().st_size)}"
        if choice.partition.later:
            words += "; what comes in later rounds is not in it"
        if isinstance(choice.partition, OnTop) and (names := choice.partition.shifting):
            words += f"; what {names[0]!r} does to samples is not in it: name the file as the base of {names[0]!r}"
        printing.out.print(words, markup=False, soft_wrap=True)
