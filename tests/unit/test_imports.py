"""Imports flow one way: a layer knows those before it and none behind it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fedtl"

# From the ground up. A module may import from its own layer and from those above it in this list.
LAYERS: list[set[str]] = [
    {"choice", "failure", "clock", "privacy", "durable", "randomness", "signals", "lock", "tensors", "checkpoint"},
    {"vector", "losses", "data", "models", "scores", "tree_sum", "samples", "history", "store", "sharing"},
    {"plot"},
    {"distill"},
    {"optimizers"},
    {"clients"},
    {"messages"},
    {"server"},
    {"strategies"},
    {"recording"},
    {"engine"},
    {"node"},
    {"grid"},
    {"config"},
    {"resume", "kept", "record", "progress", "profile", "network", "baselines", "model_file"},
    {"profile_tables"},
    {"experiment", "app", "probe", "export", "predict"},
    {"deploy"},
    {"cli", "cli_deploy", "cli_distill", "cli_probe", "cli_export"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    # A package's folders one by one: strategies and clients are links, which a recursive glob does not follow.
    folders = [p for p in PACKAGE.iterdir() if p.is_dir() and p.name != "configs"]
    files = [*PACKAGE.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    return [file for file in files if file != PACKAGE / "__init__.py"]


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "fedtl" and len(parts) > 1 else None


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "fedtl" else [node.module]
            found |= {layer for name in names if (layer := layer_of(name))}
        elif isinstance(node, ast.Import):
            found |= {layer for alias in node.names if (layer := layer_of(alias.name))}
    return found


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_flow_one_way(file: Path) -> None:
    own = room_of(file)
    assert own in LEVEL, f"{own} stands in no layer"
    for other in imported(file) - {own, "__version__"}:
        assert LEVEL[other] <= LEVEL[own], f"{own} (a lower layer) imports {other}"


def test_rooms_within_rooms_are_looked_at() -> None:
    assert {room_of(file) for file in modules() if file.parent.name == "terms"} == {"losses"}


def test_pictures_know_records_and_shards_only() -> None:
    for file in (PACKAGE / "plot").glob("*.py"):
        assert imported(file) <= {"choice", "history", "plot", "data"}, file.name


def test_the_machinery_knows_no_method_by_name() -> None:
    from fedtl.strategies import STRATEGIES

    for file in modules():
        if file.parent.name in ("strategies", "clients", "data", "models"):
            continue
        words = {n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)}
        assert not words & (set(STRATEGIES) - {"local"}), file.name
