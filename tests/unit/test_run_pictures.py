"""What is made of a run's folder for pictures: clients' updates are those of the next round, distances of domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

import fedtl
from fedtl.choice import ConfigError
from fedtl.data.own.part import FRAME
from fedtl.engine import Failed
from fedtl.export.domains import features_by_domain, proxy_a_distance
from fedtl.export.of_run import RunFolder
from fedtl.export.probe import probe
from fedtl.export.similarity import cosines, similarity_of
from fedtl.runs.history import Run

OVERRIDES = (
    "data.clients=4",
    "data.partition.alpha=0.5",
    "strategy.clients_per_round=4",
    "simulation.grid=in-process",
    "evaluate.every=9",
    "simulation.traced=false",
    "simulation.stacked=false",
    "model.name=logistic",
    "strategy.local_steps=2",
)


def trained(folder: Path, *overrides: str) -> Run:
    return fedtl.run("quickstart", [*OVERRIDES, *overrides], out=folder)


def test_updates_are_those_of_the_next_round(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", "strategy.name=fedavg", "rounds=1")
    two = trained(tmp_path / "two", "strategy.name=fedavg", "rounds=2")
    folder = RunFolder.of(one)
    changes = folder.changes(most=9)
    assert list(changes) == [0, 1, 2, 3]
    rows = [each for each in changes.values() if not isinstance(each, Failed)]
    samples = torch.tensor(folder.federation.train.sizes, dtype=torch.float64)
    mean = (torch.stack(rows).double() * samples[:, None]).sum(0) / samples.sum()
    before, after = (torch.cat([t.flatten() for t in run.state_dict().values()]).double() for run in (one, two))
    # The mean of the clients' changes is what the server adds, whatever the order of a vector's parts is.
    step = (after - before).sort().values
    torch.testing.assert_close(mean.sort().values, step, rtol=1e-3, atol=1e-6)
    assert list(folder.changes(most=2)) == [0, 1]


def test_updates_are_compared_without_the_statistics_of_batch_norm(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "strategy.name=fedavg", "rounds=1", "model.name=cnn-bn")
    module = fedtl.load_model(run)
    changes = [each for each in RunFolder.of(run).changes(most=2).values() if not isinstance(each, Failed)]
    assert {len(each) for each in changes} == {sum(each.numel() for each in module.parameters())}
    assert sum(each.numel() for each in module.buffers()) > 0


def test_features_are_shown_by_the_datas_own_domains(tmp_path: Path) -> None:
    words = [
        "data.name=domains",
        "data.path=none",
        'data.domains={"plain" = {name="digits", clients=2}, "negative" = {name="digits", transform={invert=true}}, '
        '"turned" = {name="digits", transform={rotate=90}}}',
        "data.held_out=turned",
        "data.clients=3",
        "data.partition=iid",
        "strategy.name=fedavg",
        "strategy.clients_per_round=3",
        "rounds=1",
    ]
    run = fedtl.run("quickstart", [*OVERRIDES[3:], *words], out=tmp_path / "run")
    shown = features_by_domain(run)
    assert shown.names == ("plain", "negative", "turned (held out)")
    assert np.bincount(shown.domains).tolist() == [400, 400, 400]
    assert shown.distances.shape == (3, 3)
    assert shown.distances[0, 1] > 1  # black on white and white on black
    assert similarity_of(run).names == ("0 plain", "1 plain", "2 negative")


def test_a_runs_memories_stay_as_they_are(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "rounds=1")
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    result = similarity_of(run)
    assert result.names == ("0", "1", "2", "3")
    np.testing.assert_allclose(np.diag(result.cosines), 1.0)
    np.testing.assert_allclose(result.cosines, result.cosines.T)
    assert result.agreement is not None
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
    features = features_by_domain(run)
    assert features.names == ("client 0", "client 1", "client 2", "client 3")
    assert features.points.shape == (len(features.labels), 2)
    assert (features.distances[~np.eye(4, dtype=bool)] >= 0).all()
    with pytest.raises(ConfigError, match="--projection = 'tsn' is unknown: did you mean 'tsne'"):
        features_by_domain(run, "tsn")  # type: ignore[arg-type]


def test_without_a_global_model_there_is_none_to_change(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "strategy.name=local", "rounds=1")
    with pytest.raises(ConfigError, match="is a run of 'local', which has no global model that clients change"):
        similarity_of(run)
    with pytest.raises(ConfigError, match="is a run of 'local', without a global model"):
        features_by_domain(run)


def test_of_a_deployed_run_nobody_here_has_the_samples(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "rounds=1")
    RunFolder.of(run).frame.write(run.path / FRAME)
    with pytest.raises(ConfigError, match="is a deployed run's, and holds no samples to train on"):
        similarity_of(run)
    with pytest.raises(ConfigError, match="is a deployed run's, and holds no samples to show"):
        features_by_domain(run)
    with pytest.raises(ConfigError, match="is a deployed run's, and holds no samples to probe"):
        probe(run)


def test_a_deployed_runs_model_takes_the_clients_samples(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "rounds=1")
    RunFolder.of(run).frame.write(run.path / FRAME)
    stand_in = run.config | {"data": run.config["data"] | {"name": "synthetic"}}  # of 60 numbers
    (run.path / "config.toml").write_text(tomli_w.dumps(stand_in))
    assert fedtl.load_model(fedtl.Run(run.path))(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_cosines() -> None:
    vectors = np.array([[1.0, 0.0], [2.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    half = 0.5**0.5
    expected = [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(cosines(vectors), expected, atol=1e-15)


def test_the_distance_of_domains_is_0_alike_and_2_apart() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(400, 3)).astype(np.float32) for _ in range(2))
    assert proxy_a_distance(one, other, np.random.default_rng(1)) < 0.4
    assert proxy_a_distance(one, other + 20, np.random.default_rng(1)) == 2.0
    # One feature apart by d: the best error is Phi(-d/2), here 0.1587.
    shifted = other + np.array([2.0, 0.0, 0.0], np.float32)
    assert proxy_a_distance(one, shifted, np.random.default_rng(1)) == pytest.approx(2 * (1 - 2 * 0.1587), abs=0.25)
