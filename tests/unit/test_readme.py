"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import fedtl
from fedtl.config import build
from fedtl.engine import Trained
from fedtl.strategies import STRATEGIES
from tests.parts import ENGINES, NO_LAYOUT, quadratic, train_cohort

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def block(language: str, containing: str) -> str:
    return next(text for kind, text in BLOCKS if kind == language and containing in text)


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
        for target, found in zip(targets, train_cohort(quadratic(targets, kind), update, w, range(3), [{}] * 3, 1)):
            assert isinstance(found, Trained)
            v = np.full(4, 2.0)
            for _ in range(2):
                v = v - 0.1 * ((v - target) + 0.5 * (v - 2.0))
            np.testing.assert_allclose(found.memory["v"], v, atol=1e-6)


def test_its_term_trains_like_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(block("python", "class MeanGap"))
    monkeypatch.syspath_prepend(tmp_path)
    config = {
        "name": "own-term",
        "rounds": 2,
        "data": {"name": "digits", "clients": 3, "target": {"name": "digits", "look": {"invert": True}}},
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {"name": "fedavg", "lr": 0.05, "local_steps": 3},
        "objective": [{"term": "cross_entropy"}, {"term": "mine:MeanGap", "name": "gap", "power": 1.5}],
    }
    found = []
    for stacked in (True, False):
        where = {"grid": "in-process", "stacked": stacked, "recorded": True}
        found.append(fedtl.run({**config, "simulation": where}, out=tmp_path / f"{stacked}").terms()["gap"].values)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    assert (found[0] > 0).all()


def test_its_transfer_config_is_a_config() -> None:
    tables = tomllib.loads(block("toml", "[data.target]"))
    phases = tomllib.loads(block("toml", "[[phases]]"))
    base = {"name": "x", "rounds": 4, "model": {"name": "mlp"}, "strategy": {"name": "fedavg", "lr": 0.1}}
    assert [term.key for term in build({**base, **tables}).objective] == ["cross_entropy", "dann", "mmd"]
    del base["rounds"]
    assert build({**base, "data": tables["data"], **phases}).rounds == 40


def test_its_config_is_a_config() -> None:
    assert build(tomllib.loads(block("toml", "my-study"))).rounds == 100


def test_every_method_stands_in_its_table() -> None:
    text = README.read_text(encoding="utf-8")
    for name in STRATEGIES:
        assert f"| `{name}` |" in text


def test_every_link_into_the_repository_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
