"""What is built is what runs: wheel, sdist, and a package whose import is light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = ("strategies", "clients", "configs")
TEMPLATES = (".html", ".css", ".js")
HEAVY = ("torch", "torchvision", "ray", "flwr", "matplotlib", "sklearn")


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(root: Path) -> set[str]:
    """The package's files below ``root``, by the paths that they should have in a wheel: links are followed."""
    return {
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root / "fedtl", followlinks=True)
        for name in names
        if name.endswith((".py", ".toml", "py.typed", *TEMPLATES))
    }


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``direct/*.whl``, built from the tree, and ``sdist/``: an sdist and the wheel built from it."""
    try:
        if int(version("setuptools").split(".")[0]) < 77:
            pytest.skip("setuptools is older than pyproject.toml asks for")
        version("build")
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    folder = tmp_path_factory.mktemp("dist")
    # A copy: setuptools leaves build/ behind and would pick up what an earlier build left there.
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree)
    for name in ("fedtl", *MAPPED):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = (sys.executable, "-m", "build", "--no-isolation")
    # In this order: the wheel's build/ must not be what the sdist's wheel is made of.
    run(*build, "--outdir", str(folder / "sdist"), cwd=tree)
    run(*build, "--wheel", "--outdir", str(folder / "direct"), cwd=tree)
    return folder


@pytest.fixture(scope="module", params=["direct", "sdist"])
def wheel(dist: Path, request: pytest.FixtureRequest) -> Path:
    (file,) = (dist / request.param).glob("*.whl")
    return file


def test_wheel_has_every_file_of_every_package(dist: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = files(dist / "tree")
    assert {"fedtl/py.typed", *(f"fedtl/{package}/__init__.py" for package in MAPPED)} <= expected
    assert sorted(names) == sorted(expected)


def test_wheel_puts_only_fedtl_on_the_import_path(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fedtl"}


def test_wheel_runs_away_from_the_sources(dist: Path, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = """
import fedtl, fedtl.strategies, fedtl.clients, fedtl.configs
from importlib.resources import files
for module in (fedtl, fedtl.strategies, fedtl.clients, fedtl.configs):
    print(module.__file__)
print(sum(1 for path in files(fedtl.configs).iterdir() if path.name.endswith(".toml")))
"""
    # PYTHONPATH stands before an editable installation's finder; -P keeps the working directory off the path.
    *origins, configs = run(
        sys.executable, "-P", "-c", script, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site")
    ).splitlines()
    assert [Path(origin).is_relative_to(tmp_path / "site") for origin in origins] == [True] * 4
    assert int(configs) == len(list((dist / "tree" / "configs").glob("*.toml")))


def test_sdist_has_files_not_links(dist: Path) -> None:
    (sdist,) = (dist / "sdist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if not (member.isfile() or member.isdir())] == []
    names = {member.name.split("/", 1)[-1] for member in members}
    mapped = tuple(f"fedtl/{package}/" for package in MAPPED)
    assert {name.removeprefix("fedtl/") if name.startswith(mapped) else name for name in files(dist / "tree")} <= names


def test_pyproject_lists_every_package() -> None:
    folders = {Path(name).parent for name in files(ROOT) if not name.endswith(TEMPLATES)}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", MAPPED)
def test_links_are_relative(name: str) -> None:
    link = ROOT / "fedtl" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


@pytest.mark.parametrize("module", ["fedtl", "fedtl.choice", "fedtl.models"])
def test_import_is_light(module: str, tmp_path: Path) -> None:
    script = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert run(sys.executable, "-c", script, cwd=tmp_path).split() == []
