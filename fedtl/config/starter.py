"""A small experiment to begin with, for anything that a config can name."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedtl.config.schema import Tables
from fedtl.strategies import EXAMPLE

EXAMPLES: Mapping[str, Any] = {
    "lr": 0.05,
    "lam": 15.0,
    "mu": 0.1,
    "inner_lr": 0.05,
    "path": "split.csv",
    "gamma": 0.99,
    "every": 10,
}
"""Values for options that must be given, where the name tells more than the type."""

BATCH_NORM = ("cnn-bn", "resnet18")
"""Models with batch-norm, the smallest first; torchvision's is always there."""

DIGITS: Tables = {"name": "digits", "clients": 10, "partition": {"name": "dirichlet", "alpha": 0.3, "min_size": 10}}
OTHER: Tables = {"name": "digits", "samples": 400, "transform": {"invert": True}}


def starter(kind: str, name: str) -> tuple[Tables, tuple[str, ...]]:
    """Tables that run as they are, and what must be there before, as lines of a comment.

    Args:
        kind: a registry's name, as ``fedtl list`` has it.
        name: a row of it, or a class of the user's own.
    """
    tables: Tables = {
        "name": f"try-{name.rpartition(':')[2]}",
        "rounds": 10,
        "data": dict(DIGITS),
        "model": {"name": "mlp"},
        "strategy": {"name": EXAMPLE, "lr": 0.05},
    }
    before = _FILL[kind](tables, name)
    return tables, before


def required(model: type[BaseModel]) -> Tables:
    """Values for a part's options that have no default, but for its name."""
    return {
        option: EXAMPLES.get(option, _some(field))
        for option, field in model.model_fields.items()
        if field.is_required() and option not in ("name", "term")
    }


def _some(field: FieldInfo) -> Any:
    annotation = field.annotation
    while get_origin(annotation) in (Union, types.UnionType):
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    return {int: 1, float: 0.1, bool: False, str: "..."}.get(annotation, 0.1)  # type: ignore[arg-type]


def _strategy(tables: Tables, name: str) -> tuple[str, ...]:
    from fedtl.strategies import strategy_type

    method = strategy_type(name)
    table = tables["strategy"] = {"name": name, **required(method.settings_type)}
    settings = method.settings_type.model_validate(table)
    if any(statistic.on == "public" for statistic in method.statistics(settings)):
        tables["data"]["public"] = {"name": "digits", "samples": 200}
    if "batch-norm" in (*settings.private, *settings.frozen):
        _with_batch_norm(tables)
    return ()


def _term(tables: Tables, name: str) -> tuple[str, ...]:
    from fedtl.choice import part_type
    from fedtl.losses.objective import TERMS, needs_of
    from fedtl.losses.term import Term

    kind = part_type(Term, TERMS, name, "term")
    table = {"term": name, **required(kind)}
    term = kind.model_validate(table)
    needs, statistic = needs_of(term), term.statistic()
    if "target" in needs:
        tables["data"]["target"] = dict(OTHER)
        if statistic is not None and "source" not in needs:  # of what other clients send
            tables["data"]["target"]["clients"] = 5
    if "public" in needs:
        tables["data"]["public"] = {"name": "digits", "samples": 200}
    if "views" in needs:
        tables["views"] = {}
        tables["strategy"]["lr"] = 0.01  # with sums over features in it, the objective is steep
    if "replay" in needs:
        tables["replay"] = {"per_class": 8, "steps": 20}
    if name == "adabn":
        _with_batch_norm(tables)
    if term.tasks is not None and "classification" not in term.tasks:  # the loss of another task
        before = _task(tables, min(term.tasks))
        tables["objective"] = [table]
        return before
    own = {"term": "cross_entropy"}
    if "model:phase" in needs:
        tables["phases"] = [{"rounds": 5, "objective": [own]}, {"rounds": 5, "objective": [table]}]
    else:
        tables["objective"] = [table] if name == "cross_entropy" else [own, {**table, "weight": 0.1}]
    return ()


def _with_batch_norm(tables: Tables) -> None:
    from fedtl.models import MODELS

    _model(tables, next((name for name in BATCH_NORM if name in MODELS), BATCH_NORM[-1]))


def _partition(tables: Tables, name: str) -> tuple[str, ...]:
    from fedtl.choice import resolve
    from fedtl.data.partitions import PARTITIONS

    if name == "natural":
        tables["data"] = {"name": "synthetic", "clients": 10, "partition": {"name": name}}
        tables["model"] = {"name": "logistic"}
        return ()
    if name == "drift":
        stage = {"after": 5, "partition": {"name": "permuted-labels", "groups": 2}}
        tables["data"]["partition"] = {"name": name, "stages": [stage]}
        return ()
    tables["data"]["partition"] = {"name": name, **required(resolve(PARTITIONS, name, "data.partition.name"))}
    if name == "flwr-datasets":
        tables["data"]["partition"] |= {"partitioner": "DirichletPartitioner", "options": {"alpha": 0.3}}
        return ("first: pip install 'fedtl[flwr-datasets]'",)
    if name == "file":
        del tables["data"]["clients"]
        return ("first: fedtl partition quickstart --save split.csv",)
    return ()


def _metric(tables: Tables, name: str) -> tuple[str, ...]:
    from fedtl.metrics.registry import BY_TASK

    before: tuple[str, ...] = ()
    if name not in BY_TASK["classification"] and (tasks := [task for task, rows in BY_TASK.items() if name in rows]):
        before = _task(tables, tasks[0])
    tables["evaluate"] = {"metrics": [name]}
    return before


def _task(tables: Tables, name: str) -> tuple[str, ...]:
    tables["data"] = {"name": "made", "clients": 10, "task": name}
    tables["model"] = {"name": "mlp"}
    if name == "next_token":
        tables["data"]["normalise"] = "none"
        tables["model"] = {"name": "gru"}
    return ()


def _data(tables: Tables, name: str) -> tuple[str, ...]:
    from fedtl.choice import resolve
    from fedtl.data import DATASETS
    from fedtl.data.sets.vision import Vision

    kind = resolve(DATASETS, name, "data.name")
    natural = kind.default_partition["name"] == "natural"
    tables["data"] = {"name": name, **required(kind)}
    if kind.model_fields["task"].default.name != "classification":
        tables["data"] = {"name": name, "clients": 10}
    elif not natural:
        tables["data"] = dict(DIGITS, name=name) | ({"samples": 2000} if issubclass(kind, Vision) else {})
    elif name == "synthetic":
        tables["data"]["clients"] = 10
    if name == "domains":
        looks = {"plain": {}, "inverted": {"invert": True}, "rotated": {"rotate": 45}}
        domains = {
            look: {"name": "digits", **({"transform": change} if change else {})} for look, change in looks.items()
        }
        tables["data"] = {"name": name, "clients": 9, "held_out": ["rotated"], "domains": domains}
        return ()
    if name == "images":
        tables["data"]["path"] = "my-images"
        tables["model"] = {"name": "cnn"}
        return ("my-images: a folder with a folder of images for each class, all of one size",)
    if name == "npz":
        tables["data"]["path"] = "my-data"
        return ("my-data: a folder with one .npz file per client, each with x and y",)
    if name == "files":
        tables["data"] = {"name": name, "path": "my-data"}
        return ("my-data: a folder with one .csv file per client, each with a column named label",)
    if name == "medmnist":
        tables["data"] = {"name": name, "path": "breastmnist.npz", "clients": 10}
        return ("breastmnist.npz: from medmnist.com",)
    if name == "shakespeare":
        tables["data"]["path"] = "shakespeare/data"
        tables["model"] = {"name": "gru"}
        return ("shakespeare/data: the folder with train and test that LEAF's preprocess.sh writes",)
    if name == "heart-disease":
        tables["model"] = {"name": "logistic"}
        tables["evaluate"] = {"metrics": ["auc"]}
        return ("FEDTL_DATA names the folder that has heart-disease/processed.cleveland.data and so on",)
    if issubclass(kind, Vision):
        tables["model"] = {"name": "cnn"}
        return ("FEDTL_DATA names the folder that torchvision's data sets lie in, or data.download = true",)
    return ()


TOKENS: Tables = {"name": "npz", "path": "my-texts", "normalise": "none"}


def _model(tables: Tables, name: str) -> tuple[str, ...]:
    tables["model"] = {"name": name}
    if name in ("cnn1d", "gru", "lstm"):
        tables["data"] = {"name": "watch"}
        return ("first: pip install 'fedtl[watch]'",)
    if name == "transformer":
        tables["data"] = {"name": "made", "clients": 10, "task": "next_token", "normalise": "none"}
        return ()
    if name == "textcnn":
        tables["model"]["vocabulary"] = 1000
        tables["data"] = dict(TOKENS)
        return ("my-texts: a folder with one .npz file per client, each with y and x [n, T], token ids from 0 to 999",)
    if name == "tabular-mlp":
        tables["model"]["categorical"] = {"3": 7}
        tables["data"] = {"name": "files", "path": "my-data", "normalise": "none"}
        return ("my-data: a folder with one .csv file per client; its column 3, from 0, has numbers from 0 to 6",)
    if name in ("logistic", "mlp", "cnn") or name in BATCH_NORM[:1] or ":" in name:
        return ()
    # They halve an image several times, and take long on a CPU.
    domains = {key: tables["data"][key] for key in ("target", "public") if key in tables["data"]}
    small = {"name": "digits", "clients": 4, "samples": 120, "size": 28 if name == "lenet5" else 16}
    tables["data"], tables["rounds"] = {**small, **domains}, 2
    return ()


def _adapter(tables: Tables, name: str) -> tuple[str, ...]:
    layers = {"layers": ["features.1"]} if name == "adapter" else {}
    tables["model"] = {"name": "mlp", "pretrained": "results/first", "adapter": {"name": name, **layers}}
    return ("results/first: the folder of a finished run of such a model",)


def _of_strategy(key: str, registry: str) -> Callable[[Tables, str], tuple[str, ...]]:
    """A choice within ``[strategy]``; ``registry`` is one of :mod:`fedtl.optimizers`."""

    def fill(tables: Tables, name: str) -> tuple[str, ...]:
        from fedtl import optimizers
        from fedtl.choice import resolve

        kind = resolve(getattr(optimizers, registry), name, f"strategy.{key}.name")
        tables["strategy"][key] = {"name": name, **required(kind)}
        return ()

    return fill


def _tracking(tables: Tables, name: str) -> tuple[str, ...]:
    from fedtl.choice import part_type
    from fedtl.config.tracking import TRACKERS, Tracker

    kind = part_type(Tracker, TRACKERS, name, "tracking[0].name")
    tables["tracking"] = [{"name": name, **required(kind)}]
    return (f"first: pip install 'fedtl[{kind.package}]'",) if kind.package else ()


_FILL: Mapping[str, Callable[[Tables, str], tuple[str, ...]]] = {
    "strategies": _strategy,
    "terms": _term,
    "metrics": _metric,
    "tasks": _task,
    "trackers": _tracking,
    "partitions": _partition,
    "datasets": _data,
    "models": _model,
    "adapters": _adapter,
    "optimizers": _of_strategy("optimizer", "OPTIMIZERS"),
    "server-optimizers": _of_strategy("server", "SERVER_OPTIMIZERS"),
    "schedules": _of_strategy("schedule", "SCHEDULES"),
}
