"""``fedtl list NAME``: paper, equation, options, what is sent and kept, and a config to start from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedtl.assemble.parts import assemble, make_tasks
from fedtl.choice import ConfigError, first_line, load_object, resolve
from fedtl.cli import printing
from fedtl.cli.documented import functions_of, options, papers, prose
from fedtl.cli.registries import REGISTRIES
from fedtl.clients.contract import ClientUpdate
from fedtl.clients.settings import Counted
from fedtl.config.checks import no_private
from fedtl.config.read import STUDIES, read_config
from fedtl.config.starter import starter
from fedtl.data.federate import federate
from fedtl.engine.first_memory import first_download
from fedtl.losses.objective import NEEDS, needs_of
from fedtl.losses.term import Term, module_name
from fedtl.models import MODELS
from fedtl.models.composite import Composite
from fedtl.strategies import STRATEGIES, read_strategy, strategy_type
from fedtl.strategies.contract import Strategy

PLACES = {
    "strategies": "[strategy]",
    "optimizers": "[strategy.optimizer]",
    "server-optimizers": "[strategy.server]",
    "schedules": "[strategy.schedule]",
    "partitions": "[data.partition]",
    "datasets": "[data]",
    "models": "[model]",
    "adapters": "[model.adapter]",
    "terms": "[[objective]]",
    "tasks": "[data.task]",
    "metrics": "[evaluate] metrics",
    "trackers": "[[tracking]]",
}
"""The table of a config that names a part of each kind."""

SHIPS = {"configs": "a config that ships", "studies": "a study that ships, for fedtl sweep"}

WEIGHTED = {
    "samples": "weighted by the clients' numbers of training samples",
    "uniform": "in which all clients count alike",
    "settings": "weighted as the option weighting says",
}


def explain(kind: str, name: str) -> None:
    """Print what there is to know of a row of a registry, or of a class of the user's own.

    Raises:
        ConfigError: it cannot be imported.
    """
    _heading(f"{name}: {PLACES.get(kind) or SHIPS[kind]}")
    if kind in SHIPS:
        file = f"{STUDIES}/{name}" if kind == "studies" else name
        text = resources.files("fedtl.configs").joinpath(f"{file}.toml").read_text(encoding="utf-8")
        printing.out.print(text.rstrip(), markup=False, soft_wrap=True)
        return
    described, kind_of_options = _classes(kind, name)
    functions = [function for part in described for function in functions_of(part)]
    if kind == "strategies" and issubclass(described[0], ClientUpdate):  # whose own docstring begins with an equation
        printing.out.print(Text(first_line(sys.modules[described[0].__module__])))
        printing.out.print()
    for part in (*described, *functions):
        for paragraph in prose(part):
            printing.out.print(Text(paragraph))
            printing.out.print()
    cited = papers(*described, *functions, *([] if kind_of_options is None else [kind_of_options]))
    printing.out.print(f"Papers: {', '.join(cited) or 'none is named'}", markup=False, soft_wrap=True)
    paths = dict.fromkeys(f"{part.__module__}.{part.__qualname__}" for part in (*described, *functions))
    printing.out.print(f"Code: {', '.join(paths)}", markup=False, soft_wrap=True)
    tables, before = starter(kind, name)
    if kind_of_options is not None:
        more = _more(name, tables) if kind == "strategies" else {}
        _print_options(PLACES[kind], kind_of_options, functions, more)
        server = kind_of_options.model_fields.get("server")
        if kind == "strategies" and server is not None and isinstance(server.default, BaseModel):
            _print_options(PLACES["server-optimizers"], type(server.default), ())
    if kind == "strategies":
        _print_traffic(strategy_type(name), tables)
    if kind == "terms":
        _print_needs(name, tables)
    _heading("A config to start from: save it as try.toml, and fedtl run try.toml")
    for line in before:
        printing.out.print(f"# {line}", markup=False, soft_wrap=True)
    printing.out.print(tomli_w.dumps(tables).rstrip(), markup=False, soft_wrap=True)


def _heading(text: str) -> None:
    printing.out.print(f"[bold]{escape(text)}[/]", soft_wrap=True)


def _classes(kind: str, name: str) -> tuple[list[Any], type[BaseModel] | None]:
    """The classes whose docstrings explain a part, and the one whose fields are its options."""
    if kind == "strategies":
        method = strategy_type(name)
        row = load_object(STRATEGIES.get(name, name), "strategy.name")
        both = [row] if row is method.client_update else [row, method.client_update]
        return [part for part in both if part.__dict__.get("__doc__")], method.settings_type
    if kind == "models" and name not in MODELS:
        if ":" not in name:
            from fedtl.models.torchvision_models import TorchvisionChoice

            return [TorchvisionChoice], TorchvisionChoice
        part = load_object(name, "model.name")
        return [part], part if issubclass(part, BaseModel) else None
    part = resolve(REGISTRIES[kind], name, "name")
    return [part], part if issubclass(part, BaseModel) else None


def _more(name: str, tables: dict[str, Any]) -> dict[str, str]:
    """What to add to the meanings of options: that no phase changes them, or they do nothing in the config below."""
    method = strategy_type(name)
    more = dict.fromkeys(method.settings_type.same_in_phases, "the same in all phases")
    try:
        settings = read_strategy(tables["strategy"])
    except ConfigError:  # a method of the user's own may need more than can be known
        return more
    more |= {option: f"no effect in the config below: {why}" for option, why in method.unused(settings).items()}
    if why := no_private(settings):
        more["private"] = f"refused here: {why}"
    return more


def _print_options(
    place: str, part: type[BaseModel], functions: Sequence[object], more: Mapping[str, str] | None = None
) -> None:
    printing.out.print()
    _heading(f"Options in {place}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(max_width=24)
    table.add_column()
    for option in options(part, functions):
        meaning = "; ".join(filter(None, (option.meaning, (more or {}).get(option.name, ""))))
        table.add_row(option.name, Text(option.default), Text(meaning))
    printing.out.print(table)
    printing.out.print()


def _print_traffic(method: type[Strategy], tables: dict[str, Any]) -> None:
    """What a client receives, sends and keeps in the config to start from."""
    update: type[ClientUpdate[Any]] = method.client_update
    _heading("What it sends and keeps")
    sent = [f"the sum of {name!r}, {how}" for name, how in _weighted(update, tables).items()]
    sent += [f"{name!r}, client by client" for name in update.rows]
    lines = {"clients send": sent or ["nothing"]}
    scored = {"the global model": method.has_global_model(), "each client's own model": update.personalises}
    try:
        config, _ = read_config(tables)
        assembly = assemble(config, federate(config.data, config.seed))
    except ConfigError as error:  # a method of the user's own may need more than can be known
        printing.out.print(f"  (not told further: {error})", markup=False, soft_wrap=True)
    else:
        task, model = assembly.tasks[0], assembly.tasks[0].layout.size
        received = {name: tensor.numel() for name, tensor in first_download(task).items()} if update.uploads() else {}
        if "w" in received:  # without what stays at clients or never changes, and with batch-norm's statistics
            received["w"] = task.sent(task.layout.flatten(task.module)).numel()
        lines["clients receive"] = [_sized(name, size, model) for name, size in received.items()] or ["nothing"]
        lines["clients send"] += [
            f"sums of what the server asks for: {each.name}" for each in task.objective.statistics
        ]
        kept = assembly.kept_memories().sizes(0, 1) or {}
        lines["clients keep"] = [_sized(name, size, model) for name, size in kept.items()] or ["nothing"]
        rows = [_sized(name, size, model) for name, size in assembly.row_widths().items()]
        lines["the server keeps of each client"] = rows or ["nothing"]
        # A part of the model that stays at clients leaves the global one without it.
        server = assembly.strategy
        scored = {"the global model": server.scores_global, "each client's own model": server.personalises}
    lines["scored"] = [model for model, is_scored in scored.items() if is_scored]
    if method.pools:
        lines["clients send"] = lines["clients receive"] = ["nothing, as all samples are in one place"]
    for what, words in lines.items():
        printing.out.print(f"  {what}: {'; '.join(words) or 'nothing'}", markup=False, soft_wrap=True)
    printing.out.print()


def _weighted(update: type[ClientUpdate[Any]], tables: dict[str, Any]) -> dict[str, str]:
    """How clients count in each sum, in words: as an option says where another value of it changes that."""
    words = {name: WEIGHTED[how] for name, how in update.sums.items()}
    try:
        settings = read_strategy(tables["strategy"])
    except ConfigError:  # see above
        return words
    for option, field in type(settings).model_fields.items():
        if get_args(field.annotation) == get_args(Counted):
            one, other = (update.counts(settings.model_copy(update={option: how})) for how in get_args(Counted))
            words |= {name: f"weighted as the option {option} says" for name in one if one[name] != other[name]}
    return words


def _sized(name: str, size: int, model: int) -> str:
    if size == model:
        return f"{name!r}, as long as the model"
    return f"{name!r}, {size} {'number' if size == 1 else 'numbers'} where the model has {model}"


def _print_needs(name: str, tables: dict[str, Any]) -> None:
    """What a term needs of a client, and what it adds to what is sent."""
    config, _ = read_config(tables)
    term = next(each for stage in config.stages() for each in stage.objective if each.term == name)
    assert isinstance(term, Term)
    network = make_tasks(config, federate(config.data, config.seed))[0].module
    own = [*network.extras] if isinstance(network, Composite) else []
    _heading("What it needs and sends")
    needs = ", ".join(NEEDS[need] for need in sorted(needs_of(term)))
    printing.out.print(f"  it needs: {needs}", markup=False, soft_wrap=True)
    statistic = term.statistic()
    sent = [f"sums for {statistic.name!r}"] if statistic is not None else []
    if any(module.startswith(module_name(term, "")) for module in own):
        stay = term.private()
        sent.append("its own trained modules" + (f", but for {', '.join(sorted(stay))}, which stay" if stay else ""))
    printing.out.print(f"  clients send besides: {'; '.join(sent) or 'nothing'}", markup=False, soft_wrap=True)
    printing.out.print()
