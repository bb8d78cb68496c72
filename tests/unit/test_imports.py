"""Imports flow one way: a room knows those before it and none behind it, and no module reaches itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fedtl"

# From the ground up: rooms, which are the folders and the modules of fedtl's root. A module may import from its own
# room and from those above it in this list, wherever in its file the import stands.
ROOMS = [
    "choice",
    "failure",
    "clock",
    "random",
    "moments",
    "disk",
    "tasks",
    "data",
    "models",
    "metrics",
    "losses",
    "distill",
    "optimizers",
    "clients",
    "tracing",
    "engine",
    "wire",
    "server",
    "strategies",
    "config",
    "grid",
    "runs",
    "tracking",
    "studies",
    "comparison",
    "plot",
    "reports",
    "assemble",
    "experiment",
    "sweeps",
    "app",
    "export",
    "deploy",
    "cli",
]
LEVEL = {name: level for level, name in enumerate(ROOMS)}

# The package itself, which gives names of its rooms under its own.
ROOT = "fedtl"


def files() -> list[Path]:
    # A package's folders one by one: strategies and clients are links, which a recursive glob does not follow.
    folders = [p for p in PACKAGE.iterdir() if p.is_dir() and p.name != "configs"]
    return [*PACKAGE.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]


def name_of(file: Path) -> str:
    return ".".join(("fedtl", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(file): file for file in sorted(files())}


def room_of(module: str) -> str:
    return [*module.split("."), ROOT][1]


def statements(tree: ast.AST, everywhere: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """A module's imports; ``everywhere``: also those in functions, and for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif everywhere or not (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            yield from statements(node, everywhere)


def imported(module: str, everywhere: bool = True) -> set[str]:
    """The modules of fedtl that a module names in its imports, as deep as they go."""
    names = set()
    for node in statements(ast.parse(MODULES[module].read_text(encoding="utf-8")), everywhere):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert not node.level, f"{module}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in whole}
    return {name for name in names if name.split(".")[0] == "fedtl"} - {module}


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_one_way(module: str) -> None:
    own = room_of(module)
    if own == ROOT:
        return
    assert own in LEVEL, f"{own} stands in no layer"
    for other in imported(module) - {"fedtl"}:
        assert other in MODULES, f"{module} imports {other}, which is not there"
        assert LEVEL[room_of(other)] <= LEVEL[own], f"{module} imports {other}, of a room behind its own"


def test_no_room_is_listed_that_is_not_there() -> None:
    assert {room_of(module) for module in MODULES} - {ROOT} == LEVEL.keys()
    assert len(LEVEL) == len(ROOMS)


def test_no_module_comes_back_to_itself() -> None:
    """Within a room too; only what runs when a module is imported counts."""
    graph = {module: sorted(imported(module, everywhere=False) & MODULES.keys()) for module in MODULES}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for other in graph[module]:
            walk(other, (*path, module))
        done.add(module)

    for module in MODULES:
        walk(module, ())


def test_rooms_within_rooms_are_looked_at() -> None:
    inner = {name.rsplit(".", 1)[0] for name in MODULES if name.count(".") > 2}
    assert inner >= {"fedtl.losses.terms", "fedtl.data.sets", "fedtl.data.partitions", "fedtl.data.own"}


def test_pictures_know_records_and_shards_only() -> None:
    for module in MODULES:
        if room_of(module) == "plot":
            assert {room_of(other) for other in imported(module)} <= {
                "choice",
                "disk",
                "runs",
                "studies",
                "comparison",
                "plot",
                "data",
            }, module
            assert {other for other in imported(module) if room_of(other) == "disk"} <= {"fedtl.disk.durable"}, module
            assert {other for other in imported(module) if room_of(other) == "runs"} <= {"fedtl.runs.history"}, module


def test_the_machinery_knows_no_method_by_name() -> None:
    from fedtl.losses.objective import TERMS
    from fedtl.strategies import STRATEGIES

    for module, file in MODULES.items():
        if room_of(module) in ("strategies", "clients", "data"):  # partitions are named after papers too
            continue
        words = {n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)}
        assert not words & (set(STRATEGIES) - {"local"} - set(TERMS)), module
