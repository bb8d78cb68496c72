"""A study on real clients gives the numbers of its simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.metrics.ranking import BINS
from fedtl.strategies import STRATEGIES
from tests.deploy.deployment import Deployment, export, failures, memory, model, rounds, simulated, write_config
from tests.parts import METHODS, MODELS_OF, toml_lines

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

# The numbers had the same bits where this was written; two machines with other processors need not agree so far.
EQUAL: Mapping[str, Any] = {"rtol": 1e-6, "atol": 1e-7}

# Two domains: a mini-batch holds samples of both.
CONFIG = """
name = "{name}"
seed = 7
rounds = {rounds}
device = "cpu"

[data]
name = "digits"
clients = 2
samples = 240
partition = { name = "dirichlet", alpha = 1.0, min_size = 20 }

[data.target]
name = "digits"
samples = 240
transform = { rotate = 40.0 }

[model]
{model}

[strategy]
{strategy}
local_steps = 4
batch_size = 10

[[objective]]
term = "cross_entropy"

[[objective]]
{term}

[evaluate]
every = 2
metrics = ["macro_f1", "auc"]
"""

# By name: rounds, the method's options, and the second term.
STUDIES = {
    "pfedme": (
        2,
        'name = "pfedme"\nlr = 0.05\nlam = 15.0\ninner_steps = 3\ninner_lr = 0.05\nprivate = ["head"]',
        'term = "mmd"\nramp = "linear"',
    ),
    "fedavg": (2, 'name = "fedavg"\nlr = 0.05\nweighting = "samples"', 'term = "remote_coral"'),
    "local": (2, 'name = "local"\nlr = 0.05', 'term = "prototype"'),
    # Two names down and two up; named as code is, to which clients must have agreed.
    "scaffold": (3, 'name = "fedtl.strategies.scaffold:Scaffold"\nlr = 0.05', 'term = "mmd"'),
}
STUDIES |= {
    method: (3, "\n".join(toml_lines({"name": method, **METHODS[method]})), 'term = "mmd"')
    for method in STRATEGIES
    if method not in (*STUDIES, "central")  # which has all data in one place
}
CODE = {"PYTHONPATH": str(Path(__file__).parents[2])}
"""Where clients, server and simulation find the code that a study names."""


@dataclass(frozen=True)
class Pair:
    """One experiment on real clients and simulated: both runs' folders, and the one with the clients' folders."""

    name: str
    deployed: Path
    simulated: Path
    clients: Path


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server and its clients, for all studies, one after another."""
    folder = tmp_path_factory.mktemp("equality")
    data = export(config_of("pfedme", folder), folder / "data")
    deployment = Deployment(folder / "study", "ab", data)
    try:
        deployment.server()
        deployment.clients()
        yield deployment
    finally:
        deployment.close()


def config_of(name: str, folder: Path) -> Path:
    rounds, strategy, term = STUDIES[name]
    network = "\n".join(toml_lines(MODELS_OF.get(name, {"name": "mlp", "hidden": [16]})))
    keys = {"rounds": rounds, "model": network, "strategy": strategy, "term": term}
    return write_config(folder / f"{name}.toml", CONFIG, name=name, **keys)


# One in every run of the suite; a study is a minute of looking for messages.
@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "pfedme")) for name in STUDIES]
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    name, deployment = request.param, request.getfixturevalue("deployment")
    folder = deployment.folder.parent
    config = config_of(name, folder)
    if ":" not in STUDIES[name][1]:
        yield studied(name, deployment, config, folder)
        return
    agreed = Deployment(tmp_path_factory.mktemp(name) / "study", "ab", folder / "data")
    agreed.environment |= CODE
    try:
        agreed.server()
        agreed.clients("--config", config)
        yield studied(name, agreed, config, folder)
    finally:
        agreed.close()


def studied(name: str, deployment: Deployment, config: Path, folder: Path) -> Pair:
    """A study on real clients, and simulated."""
    # With it the server has its test set, and knows how the simulation normalises samples.
    deployed = deployment.run(config, folder / "deployed" / name, "--data", folder / "data" / "server")
    assert deployed.end() == 0, deployed.text
    there = simulated(config, folder / "simulated" / name)
    return Pair(name, folder / "deployed" / name, there, deployment.folder)


def rounds_of_both(
    deployment: Deployment, config: Path, *agreed: str | Path, told: Sequence[str | Path] = ()
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A study on clients of its own, and simulated: the same model, and each round's records, deployed and simulated.

    Args:
        deployment: not begun yet; it is over afterwards.
        config: the study.
        agreed: what clients begin with.
        told: what the run is begun with.
    """
    folder = deployment.folder.parent
    try:
        deployment.server()
        deployment.clients(*agreed)
        deployed = deployment.run(config, folder / "deployed", *told)
        assert deployed.end() == 0, deployed.text
    finally:
        deployment.close()
    there = simulated(config, folder / "simulated")
    np.testing.assert_allclose(model(folder / "deployed"), model(there), **EQUAL)
    return list(zip(rounds(folder / "deployed"), rounds(there), strict=True))


def test_every_round_was_of_all_clients(pair: Pair) -> None:
    lines = rounds(pair.deployed)
    assert [line["round"] for line in lines] == [*range(1, STUDIES[pair.name][0] + 1)]
    assert [line["clients"] for line in lines] == [[0, 1]] * len(lines)
    assert not any(map(failures, lines))


def test_the_final_model_is_the_simulations(pair: Pair) -> None:
    here, there = model(pair.deployed), model(pair.simulated)
    assert np.isfinite(here).all()
    np.testing.assert_allclose(here, there, **EQUAL)


def test_what_clients_keep_is_what_simulated_ones_keep(pair: Pair) -> None:
    last = STUDIES[pair.name][0]
    keeps = any(pair.simulated.rglob("memories/*/*"))
    assert keeps is {"fedavg": False, "local": True, "pfedme": True, "scaffold": True}.get(pair.name, keeps)
    for client, name in enumerate("ab" if keeps else ""):
        folders = [*(pair.clients / name / "studies").glob(f"{pair.name}-*")]
        assert len(folders) == 1
        here, there = memory(folders[0], client, last), memory(pair.simulated, client, last)
        assert here.keys() == there.keys()
        for key, vector in here.items():
            np.testing.assert_allclose(vector, there[key], **EQUAL)


def test_the_server_holds_no_clients_memory(pair: Pair) -> None:
    assert not [*pair.deployed.rglob("memories/*/*")]
    for name in "ab":
        clients = {file.stem.partition("-")[0] for file in (pair.clients / name).rglob("memories/*/*")}
        assert clients <= {str("ab".index(name))}


def test_the_records_are_the_simulations(pair: Pair) -> None:
    for here, there in zip(rounds(pair.deployed), rounds(pair.simulated), strict=True):
        for key in ("steps", "bytes_up", "bytes_down"):
            assert here[key] == there[key]
        assert here["train"] == pytest.approx(there["train"], rel=1e-6)
        assert ("scores" in here) == ("scores" in there)
        scores, wanted = here.get("scores", {}), there.get("scores", {})
        assert scores.keys() == wanted.keys()
        for name, score in scores.items():
            simulated, deployed = numbers(wanted[name]), numbers(score)
            if name.endswith("clients"):  # which keep their predictions, so that pooled curves are made of bins
                assert deployed.pop("auc/bins") == BINS
                assert deployed.pop("auc/pooled") == pytest.approx(simulated.pop("auc/pooled"), abs=0.02)
            assert deployed == pytest.approx(simulated, rel=1e-6), name


def numbers(score: Mapping[str, Any], start: str = "") -> dict[str, float]:
    """A score's numbers, those of its metrics over clients too."""
    values = {}
    for key, value in score.items():
        if isinstance(value, Mapping):
            values |= numbers(value, f"{start}{key}/")
        elif isinstance(value, (int, float)):
            values[f"{start}{key}"] = value
    return values


JOINING = """
name = "joining"
seed = 3
rounds = 2
device = "cpu"

[data]
name = "digits"
clients = 3
samples = 240
held_out_clients = [1]

[model]
name = "mlp"
hidden = [16]

[strategy]
name = "fedper"
local_steps = 4
batch_size = 10
lr = 0.05
"""


@pytest.mark.slow
@pytest.mark.parametrize("frame", [True, False], ids=["frame", "sums"])
def test_a_client_that_joins_later_is_scored_as_in_the_simulation(tmp_path: Path, frame: bool) -> None:
    """It never trains, and its samples are in no sum that samples are normalised by."""
    config = write_config(tmp_path / "joining.toml", JOINING)
    data = export(config, tmp_path / "data")
    deployment = Deployment(tmp_path / "study", "abc", data)
    for here, wanted in rounds_of_both(deployment, config, told=["--data", data / "server"] if frame else []):
        assert here["clients"] == wanted["clients"] == [0, 2]
        for name in ("personal/clients", "personal/unseen-clients"):
            assert numbers(here["scores"][name]) == pytest.approx(numbers(wanted["scores"][name]), rel=1e-6)
    assert not [*(tmp_path / "study" / "b").rglob("memories/*/*")]


@pytest.mark.slow
def test_who_is_drawn_and_who_stops_early_is_the_simulations(tmp_path: Path) -> None:
    options = METHODS["fednova"] | {"clients_per_round": 1, "sampling": "samples", "stragglers": 0.7}
    strategy = "\n".join(toml_lines({"name": "fednova", **options}))
    keys = {"rounds": 5, "model": 'name = "logistic"', "strategy": strategy, "term": 'term = "mmd"'}
    config = write_config(tmp_path / "unlike.toml", CONFIG, name="unlike", **keys)
    data = export(config, tmp_path / "data")
    both = rounds_of_both(Deployment(tmp_path / "study", "ab", data), config, told=["--data", data / "server"])
    for here, wanted in both:
        assert here["clients"] == wanted["clients"]
        assert here["steps"] == wanted["steps"]
    assert len({line["steps"] for line, _ in both}) > 1


# Without the server's data: outcomes are standardised by what clients send.
REGRESSION = """
name = "costs"
rounds = 2
device = "cpu"

[data]
name = "made"
task = "regression"
clients = 2
sizes = 40
dimension = 5
server_test_share = 0.0
normalise = "none"

[model]
name = "logistic"

[strategy]
name = "ditto"
lam = 0.1
lr = 0.05
batch_size = 8
"""


@pytest.mark.slow
def test_numbers_are_predicted_as_in_the_simulation(tmp_path: Path) -> None:
    config = write_config(tmp_path / "costs.toml", REGRESSION)
    deployment = Deployment(tmp_path / "study", "ab", export(config, tmp_path / "data"))
    for here, wanted in rounds_of_both(deployment, config, "--task", "regression"):
        for name, score in wanted["scores"].items():
            assert numbers(here["scores"][name]) == pytest.approx(numbers(score), rel=1e-6), name


# Each client has tables, whose gaps are filled by what both say of their columns.
GAPS = """
name = "gaps"
rounds = 2
device = "cpu"

[data]
name = "files"
path = "{path}"
label = "outcome"
positive = ["ill"]
missing = "mean"
indicators = true
categorical = ["ward"]

[model]
name = "logistic"

[strategy]
name = "fedavg"
lr = 0.05
batch_size = 8
"""


@pytest.mark.slow
def test_gaps_are_filled_as_in_the_simulation(tmp_path: Path) -> None:
    rng, data = np.random.default_rng(0), tmp_path / "data"
    for client in range(2):
        (data / str(client)).mkdir(parents=True)
        for part, rows in (("train", 40), ("test", 12)):
            lines = ["age,ward,outcome"]
            for row in range(rows):
                age = "" if rng.random() < 0.2 else f"{rng.normal(60 + 5 * client, 9):.3f}"
                lines.append(f"{age},{'ABC'[rng.integers(2) + client]},{'ill' if row % 3 else 'well'}")
            (data / str(client) / f"{part}.csv").write_text("\n".join(lines))
    config = write_config(tmp_path / "gaps.toml", GAPS, path=data)
    deployment = Deployment(tmp_path / "study", "ab", data)
    for here, wanted in rounds_of_both(deployment, config, "--rules", config):
        for name, score in wanted["scores"].items():
            assert numbers(here["scores"][name]) == pytest.approx(numbers(score), rel=1e-6), name
