"""What README and docs show works as it stands there: every block, link, path and name, page by page."""

from __future__ import annotations

import glob
import importlib
import inspect
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import typer

import fedtl
from fedtl.cli import commands
from fedtl.clients.contract import ClientUpdate
from fedtl.config.read import build, read_config, shipped_configs
from fedtl.config.schema import Config
from fedtl.data import DATASETS
from fedtl.data.partitions import PARTITIONS
from fedtl.engine import Trained
from fedtl.losses.objective import NEEDS
from fedtl.models import MODELS
from fedtl.models.adapter_settings import ADAPTERS
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.strategies import STRATEGIES, strategy_type
from fedtl.strategies.contract import Strategy
from fedtl.sweeps.file import read_study
from fedtl.sweeps.plan import make_plan
from tests.parts import ENGINES, NO_LAYOUT, quadratic, train_cohort

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]
ALL = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]

NOT_RUN: Mapping[str, str] = {
    "make quickstart": "it installs; what it runs of fedtl stands in the Makefile, and is run here",
    "make test": "it runs this test",
    "source .venv/bin/activate": "what is installed is what is tested",
    "fedtl deploy server study/server --host": "a server's real processes: tests/deploy",
    "(trap 'kill 0' INT; for c in a b c;": "clients' real processes: tests/deploy",
    "fedtl deploy run deploy/hospitals": "it needs those: tests/deploy",
    "fedtl deploy run wards.toml": "likewise; what it decides: tests/unit/test_deploy_columns.py",
    "fedtl deploy client study/a": "a client's real process; how it reads its files: tests/unit/test_deploy_tasks.py",
    "fedtl export study/a": "a model that only those leave: tests/cli/test_export_choice.py has such folders",
    "fedtl predict a.safetensors": "likewise; tests/cli/test_export.py predicts",
}
"""How commands begin that only their words are looked at of, and why."""

EXIT_CODES: Mapping[str, int] = {"fedtl deploy status": 3}
"""Of commands that say that nothing runs here."""

QUICK: Mapping[str, list[str]] = {
    # Steps are not traced: for two rounds that takes most of the time, and other tests are there for it.
    "run": ["rounds=2", "simulation.grid=in-process", "simulation.traced=false"],
    "sweep": [
        "rounds=2",
        "seed=0:1",
        "simulation.grid=in-process",
        "simulation.traced=false",
        "--jobs=1",
    ],
    "distill": ["method.steps=2"],
}
"""Overrides with which the tests run a command."""

FEWER_STEPS = "strategy.local_steps=2"
"""And another one, for a run whose config counts steps, and a study whose methods do not give their own."""

BASE: dict[str, Any] = {
    "name": "excerpt",
    "rounds": 4,
    "data": {"name": "digits", "clients": 20},
    "model": {"name": "mlp"},
    "strategy": {"name": "fedavg", "lr": 0.1},
}
"""What an excerpt of a config is an excerpt of."""


class Block(NamedTuple):
    """A block of a page; ``file`` is the name under which the text before it says to save it."""

    kind: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    text, code_blocks = page.read_text(encoding="utf-8"), []
    for block in re.finditer(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        paragraph = text[: block.start()].rstrip().rpartition("\n\n")[2]
        saved = re.findall(r"[Ss]ave (?:it|this) as `([\w.]+)`", paragraph)
        code_blocks.append(Block(block[1], block[2], saved[-1] if saved else None))
    return code_blocks


def block(language: str, containing: str) -> str:
    """Of the front page."""
    return next(text for kind, text, _ in blocks(README) if kind == language and containing in text)


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def inline(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def table(page: Path, header: str) -> list[str]:
    """The first cells of the page's tables whose first column has this header."""
    cells, inside = list[str](), False
    for line in page.read_text(encoding="utf-8").splitlines():
        first = line.split("|")[1].strip() if line.startswith("|") else None
        if first == header:
            inside = True
        elif first is None:
            inside = False
        elif inside and not first.startswith("---"):
            cells.append(first)
    return cells


def names(cells: list[str]) -> list[str]:
    return [name.strip('"') for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def id_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=id_of)


# The front page's two classes.


def test_its_method_is_ditto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ditto.py").write_text(block("python", "class Ditto("))
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["strategy.name=ditto:Ditto", "rounds=3", "data.clients=6", "strategy.clients_per_round=3"]
    run = fedtl.run("quickstart", [*overrides, "simulation.grid=in-process"], out=tmp_path / "run")
    assert set(run.last()) == {"global/server-test", "global/clients", "personal/clients"}
    assert run.method == "ditto:Ditto"

    from ditto import Ditto, DittoSettings  # type: ignore[import-not-found]

    targets = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    update = Ditto(DittoSettings(name="ditto", lr=0.1, lam=0.5, local_steps=2), NO_LAYOUT)
    w = torch.full((4,), 2.0)
    for kind in ENGINES.values():
        for target, outcome in zip(targets, train_cohort(quadratic(targets, kind), update, w, range(3), [{}] * 3, 1)):
            assert isinstance(outcome, Trained)
            v = np.full(4, 2.0)
            for _ in range(2):
                v = v - 0.1 * ((v - target) + 0.5 * (v - 2.0))
            np.testing.assert_allclose(outcome.memory["v"], v, atol=1e-6)


def test_its_term_trains_like_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(block("python", "class MeanGap"))
    monkeypatch.syspath_prepend(tmp_path)
    config = {
        "name": "own-term",
        "rounds": 2,
        "data": {"name": "digits", "clients": 3, "target": {"name": "digits", "transform": {"invert": True}}},
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {"name": "fedavg", "lr": 0.05, "local_steps": 3},
        "objective": [{"term": "cross_entropy"}, {"term": "mine:MeanGap", "name": "gap", "power": 1.5}],
    }
    gaps = []
    for stacked in (True, False):
        where = {"grid": "in-process", "stacked": stacked, "traced": True}
        gaps.append(fedtl.run({**config, "simulation": where}, out=tmp_path / f"{stacked}").terms()["gap"].values)
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-4)
    assert (gaps[0] > 0).all()


def test_the_second_example_of_a_method_is_the_shipped_scaffold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_blocks = blocks(ROOT / "docs" / "own-method.md")
    (tmp_path / "scaffold_of_docs.py").write_text(next(text for _, text, file in code_blocks if file == "scaffold.py"))
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["rounds=3", "data.clients=6", "strategy.clients_per_round=3", "simulation.grid=in-process"]
    theirs, ours = (
        fedtl.run("quickstart", [f"strategy.name={name}", *overrides], out=tmp_path / f"{len(name)}").state_dict()
        for name in ("scaffold_of_docs:Scaffold", "scaffold")
    )
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_the_front_page_is_one_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 140


# Configs.


@pytest.mark.parametrize("page", [page for page in ALL if any(each.kind == "toml" for each in blocks(page))], ids=id_of)
def test_configs_are_configs(page: Path) -> None:
    for each in blocks(page):
        if each.kind == "toml":
            tables = tomllib.loads(each.text)
            if page.name == "studies.md":  # an excerpt is one of the first block
                first = tomllib.loads(blocks(page)[1].text)
                make_plan(read_study({**first, **tables}))
                continue
            build(tables if "name" in tables else with_base(tables))


def with_base(excerpt: dict[str, Any]) -> dict[str, Any]:
    """The whole config of which this is an excerpt."""
    whole = {key: value for key, value in BASE.items() if key != "rounds" or "phases" not in excerpt}
    for key, value in excerpt.items():
        whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
    return whole


@pytest.mark.parametrize("page", ALL, ids=id_of)
def test_keys_that_are_named_exist(page: Path) -> None:
    known = {
        "data": {key for path in DATASETS.values() for key in _object(path).model_fields},
        "strategy": {key for name in STRATEGIES for key in strategy_type(name).settings_type.model_fields},
    }
    for section in ("evaluate", "simulation", "deploy"):
        known[section] = set(type(Config.model_fields[section].default).model_fields)
    for code in [*inline(page), *(each.text for each in blocks(page) if each.kind == "sh")]:
        for section, key in re.findall(rf"(?<![\w./])({'|'.join(known)})\.(\w+)", code):
            assert key in known[section], f"{section}.{key}"


def _object(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


# Commands and programs, page by page in the order in which they stand there.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


class Shell:
    """Runs commands of fedtl in this process, with overrides that make them quick."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def run(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        assert words[0] == "fedtl", f"{line!r} is no command of fedtl, and NOT_RUN gives no reason"
        args = [path for word in words[1:] for path in (sorted(glob.glob(word)) or [word])]
        more = QUICK.get(args[0], [])
        if args[0] == "run" and _counts_steps(args[1:]):
            more = [*more, FEWER_STEPS]
        study = Path(args[1]) if args[0] == "sweep" else None
        if study is not None and not (study.is_file() and "local_steps" in study.read_text()):
            more = [*more, FEWER_STEPS]
        if any(word.startswith("rounds=") for word in args):  # a run that goes on is a longer one
            more = [word.replace("rounds=2", "rounds=3") for word in more]
        code = self._code([*args, *more])
        expected = next((code for words, code in EXIT_CODES.items() if line.startswith(words)), 0)
        assert code == expected, f"{line}\n{self.capsys.readouterr()}"

    def _code(self, args: list[str]) -> object:
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["fedtl", *args])
        try:
            commands.main()
        except SystemExit as ended:
            return ended.code
        return 0


def _counts_steps(args: list[str]) -> bool:
    """Whether what a run is asked for counts local steps, and not epochs."""
    overrides = [arg for arg in args[1:] if "=" in arg and not arg.startswith("-")]
    return read_config(args[0], overrides)[0].strategy.local_steps is not None


@pytest.fixture
def shell(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def check_words(command: str) -> None:
    """Check that there are such a command and such options, and nothing else."""
    group, args = typer.main.get_command(commands.app), shlex.split(command, comments=True)[1:]
    context = typer.Context(group, info_name="fedtl")
    while args and hasattr(group, "commands"):
        assert args[0] in group.commands, command
        group = group.commands[args[0]]
        args = args[1:]
    if args and "--help" not in args:
        group.make_context("fedtl", args, parent=context)


def quickstart_of_the_makefile() -> list[str]:
    """What ``make quickstart`` runs, but for its pictures."""
    lines = re.findall(r"\.venv/bin/(fedtl run .*) --out", (ROOT / "Makefile").read_text(encoding="utf-8"))
    methods = [(re.findall(r"strategy\.name=(\S+)", line) or ["pfedme"])[0] for line in lines]
    return [f"{line} --out results/quickstart/now-{method}" for line, method in zip(lines, methods, strict=True)]


@each_page
def test_a_page_runs_from_top_to_bottom(page: Path, here: Path, shell: Shell) -> None:
    space: dict[str, Any] = {"__name__": "page"}
    for kind, text, file in blocks(page):
        assert kind in ("sh", "python", "toml"), kind
        if file is not None:
            (here / file).write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(_quick(text), f"{page.name}, a block of Python", "exec"), space)
        if kind == "sh":
            for line in text.splitlines():
                if line.startswith("make quickstart"):
                    for command in quickstart_of_the_makefile():
                        shell.run(command)
                elif any(line.startswith(words) for words in NOT_RUN):
                    for command in re.findall(r"fedtl [^&;)#]*", line):
                        check_words(command)
                elif line and not line.startswith("#"):
                    shell.run(line)
    for command in (code for code in inline(page) if re.match(r"fedtl \w", code)):
        _, verb, *args = shlex.split(command)
        check_words(command)
        if verb == "run" and args and args[0] in shipped_configs():
            shell.run(command)
        elif verb == "run" and args and args[0] == "my.toml" and "…" not in command:
            source = here / "my.toml" if (here / "my.toml").exists() else with_base({})
            read_config(source, [arg for arg in args[1:] if "=" in arg])


def _quick(program: str) -> str:
    """The same in fewer rounds, where it is a run of a config that ships."""
    return re.sub(r'(fedtl\.run\("\w+", \[)', r'\1"rounds=2", ', program) if '"rounds=' not in program else program


def test_what_is_not_run_stands_somewhere() -> None:
    text = "\n".join(each.text for page in PAGES for each in blocks(page) if each.kind == "sh")
    for words in NOT_RUN:
        assert any(line.startswith(words) for line in text.splitlines()), words


# Names.


@pytest.mark.parametrize(
    ("page", "header", "registry", "others"),
    [
        ("methods.md", "`strategy.name`", STRATEGIES, ()),
        ("data.md", "`data.name`", DATASETS, ()),
        ("data.md", "`partition`", PARTITIONS, ()),
        ("data.md", "`model.name`", MODELS, ("resnet18", "vgg11", "module:Class")),
        ("data.md", "`model.adapter.name`", ADAPTERS, ()),
        ("optimizers.md", "`optimizer`", OPTIMIZERS, ()),
        ("optimizers.md", "`schedule`", SCHEDULES, ()),
        ("optimizers.md", "`server`", SERVER_OPTIMIZERS, ()),
    ],
)
def test_a_table_has_the_registrys_rows(
    page: str, header: str, registry: Mapping[str, str], others: tuple[str, ...]
) -> None:
    entries = names(table(ROOT / "docs" / page, header))
    for name in registry:
        assert name in entries, f"docs/{page}: the table {header} lacks a line that begins with | `{name}` |"
    for name in entries:
        assert name in registry or name in others, f"docs/{page}: `{name}` stands in no registry; take its line out"


def test_whatever_a_term_may_need_stands_in_its_page() -> None:
    text = (ROOT / "docs" / "own-term.md").read_text(encoding="utf-8")
    for need in NEEDS:
        assert f'"{need}"' in text, f'docs/own-term.md: the table of `needs` lacks "{need}"'


def test_the_contracts_tables_are_the_contract() -> None:
    cells = names(table(ROOT / "docs" / "own-method.md", "attribute or method"))
    server = cells.index("client_update")
    for kind, of_kind in ((ClientUpdate, cells[:server]), (Strategy, cells[server:])):
        for cell in of_kind:
            name, _, arguments = cell.removesuffix(")").partition("(")
            assert hasattr(kind, name) or name in kind.__annotations__, cell
            if "(" in cell:
                method = getattr(kind, name)
                known = [*inspect.signature(method).parameters][not inspect.ismethod(method) :]  # without self
                assert known == [word for word in arguments.split(", ") if word], cell
    methods = [strategy_type(name) for name in STRATEGIES]
    halves = (
        (ClientUpdate, [method.client_update for method in methods], cells[:server]),
        (Strategy, methods, cells[server:]),
    )
    for base, kinds, of_kind in halves:
        told = {cell.partition("(")[0] for cell in of_kind}
        for part in {part for kind in kinds for part in kind.__mro__ if issubclass(part, base) and part is not base}:
            own = {name for name in vars(part) if not name.startswith("_") and hasattr(base, name)}
            assert own <= told, f"docs/own-method.md: the table lacks what {part.__name__} defines"


def test_the_record_has_what_its_page_says(tmp_path: Path) -> None:
    page = ROOT / "docs" / "records.md"
    overrides = ["rounds=2", "evaluate.every=2", "simulation.grid=in-process"]
    run = fedtl.run("quickstart", overrides, out=tmp_path / "run", profile=True)
    files, keys = names(table(page, "file")), names(table(page, "key"))
    for path in run.path.iterdir():
        assert path.name + "/" * path.is_dir() in files, f"docs/records.md: no line for `{path.name}`"
    lines = map(json.loads, (run.path / "rounds.jsonl").read_text().splitlines())
    recorded_keys = {key for line in lines for key in line}
    assert recorded_keys == set(keys), "docs/records.md: the keys of a round's record are others"


@each_page
def test_objects_that_are_named_exist(page: Path) -> None:
    for code in inline(page):
        if re.fullmatch(r"fedtl(\.\w+)+", code):
            module, _, name = code.rpartition(".")
            parent_module = importlib.import_module(module)
            assert hasattr(parent_module, name) or importlib.import_module(code), code


# Links and paths.


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL, ids=id_of)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        assert not path.startswith("/"), target
        destination = page.parent / path if path else page
        assert destination.exists(), f"{id_of(page)}: {target}"
        assert not anchor or anchor in anchors(destination), f"{id_of(page)}: {target}"
    for code in inline(page):
        placeholder = re.search(r"/(x\.py|[A-Z]+\.\w+)$", code)
        if re.fullmatch(r"(fedtl|strategies|clients|configs|tests|docs)/[\w./-]*", code) and not placeholder:
            assert (ROOT / code).exists(), f"{id_of(page)}: {code}"
    for name, target in re.findall(r"`(\w+)` in \[[^\]]+\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        destination = page.parent / target
        assert destination.is_dir() or name in destination.read_text(encoding="utf-8"), (
            f"{id_of(page)}: {name} is not in {target}"
        )


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in DOCS:
        assert page.name == "README.md" or f"]({page.name})" in index, f"docs/README.md: add a line for {page.name}"
    assert "](docs/README.md)" in README.read_text(encoding="utf-8")
