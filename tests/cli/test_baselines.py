"""fedtl run --baselines: a transfer result beside the same run without transfer, and without federation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedtl
from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.config.read import build
from fedtl.runs.baselines import baselines, gains

CONFIG = """
name = "gain"
rounds = 2

[data]
name = "digits"
clients = 3
samples = 200
target = { name = "digits", samples = 200, transform = { rotate = 30 } }

[model]
name = "logistic"

[strategy]
name = "pfedme"
lr = 0.05
lam = 15.0
inner_lr = 0.05
private = []

[simulation]
grid = "in-process"

[[objective]]
term = "cross_entropy"
label_smoothing = 0.1

[[objective]]
term = "coral"
layer = "logits"
"""


def test_they_stand_beside_the_run_and_show_the_gain(tmp_path: Path) -> None:
    file = tmp_path / "gain.toml"
    file.write_text(CONFIG)
    done = CliRunner().invoke(app, ["run", str(file), "--baselines", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    others = {name: fedtl.load(tmp_path / "run/baselines" / name) for name in ("source-only", "local-only")}
    run = fedtl.load(tmp_path / "run")
    assert (others["source-only"].method, others["local-only"].method) == ("pfedme", "local")
    for other in others.values():
        assert other.config["objective"] == [run.config["objective"][0]]
        assert other.config["data"] == run.config["data"]
        assert len(other.rounds) == 2
    gain_by_score = {(gain.baseline, gain.score): gain for gain in gains(run, others)}
    gain = gain_by_score["source-only", "global/target-clients"]
    assert gain.value == pytest.approx(run.last()[gain.score].value - others["source-only"].last()[gain.score].value)
    assert gain_by_score["local-only", "global/target-clients"].against == "personal/target-clients"
    assert f"{100 * gain.value:+.2f}" in done.output
    again = CliRunner().invoke(app, ["run", str(tmp_path / "run"), "--baselines", "--resume"])
    assert again.exit_code == 0
    assert len((tmp_path / "run/baselines/source-only/rounds.jsonl").read_text().splitlines()) == 2


def test_what_they_are_and_what_they_cannot_be() -> None:
    base = {
        "name": "x",
        "data": {"name": "digits", "clients": 3},
        "model": {"name": "mlp"},
        "strategy": {"name": "local", "lr": 0.1},
    }
    assert baselines(build({**base, "rounds": 3})) == {}
    avg = {**base, "strategy": {"name": "fedavg", "lr": 0.1, "private": ["head"], "momentum": 0.5}}
    phases = [{"rounds": 2, "objective": [{"term": "l2"}]}, {"rounds": 3}]
    configs = baselines(build({**avg, "phases": phases}))
    assert {name: config.rounds for name, config in configs.items()} == {"source-only": 5, "local-only": 5}
    assert [term.key for term in configs["source-only"].objective] == ["l2", "cross_entropy"]
    alone = json.loads(json.dumps(configs["local-only"].tables()))["strategy"]
    assert (alone["name"], alone["lr"], alone["momentum"]) == ("local", 0.1, 0.5)
    with pytest.raises(ConfigError, match=r"^--baselines: they train on labels; raise data\.labelled_fraction above 0"):
        baselines(
            build({**avg, "rounds": 1, "data": {**avg["data"], "labelled_fraction": 0}, "objective": [{"term": "l2"}]})
        )
