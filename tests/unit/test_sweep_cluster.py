"""A sweep on a Ray cluster: whole runs on its actors, with the bits of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fedtl
from fedtl.choice import ConfigError
from fedtl.data import domains
from fedtl.studies import Study
from fedtl.sweeps.conductor import Conductor, Unwatched
from fedtl.sweeps.file import read_study
from fedtl.sweeps.plan import make_plan
from fedtl.sweeps.pool import Ended, Job, Scored
from fedtl.sweeps.record import open_record
from tests.interrupted import contents
from tests.sweeps import BASE, METHODS, left_of, study_of

pytest.importorskip("ray")
from fedtl.grid import cluster
from fedtl.grid.slots import NoRoomError
from fedtl.sweeps import cluster as sweep_cluster
from fedtl.sweeps.cluster import OnCluster, RunActor, _unpack


@pytest.fixture(autouse=True)
def _no_data_kept() -> Iterator[None]:
    yield
    domains.forget_data_sets()


def test_a_run_comes_back_from_a_machine_that_does_not_see_the_folder(tmp_path: Path) -> None:
    alone = fedtl.run(BASE, out=tmp_path / "alone")
    domains.keep_data_sets()
    actor = RunActor([], None, domains.kept_data_sets(), str(tmp_path / "nowhere"))
    (tmp_path / "run").mkdir()
    ended, archive = actor.run(Job("run", tmp_path / "run", BASE))
    assert (ended.key, ended.failure) == ("run", "")
    assert not [*(tmp_path / "run").iterdir()]
    assert [news.round for news in actor.news()] == [1, 2]
    assert not actor.news()
    assert archive is not None
    _unpack(archive, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(alone.path)


@pytest.mark.ray
def test_an_actor_trains_runs_and_another_goes_on_when_it_dies(tmp_path: Path, ray_session: None) -> None:
    import ray

    plan = make_plan(read_study(study_of(variants=METHODS[:1])))
    here = fedtl.sweep(study_of(variants=METHODS[:1]), out=tmp_path / "here", jobs=1)
    killed: list[str] = []

    class Killing(Conductor):
        def scored(self, news: Scored) -> bool:
            if not killed:
                killed.append(news.key)
                ray.kill(pool._workers[0].actor)
            return super().scored(news)

        def ended(self, news: Ended) -> None:
            if news.key in killed[:1] and len(killed) == 1:
                killed.append("lost" if news.lost else "ended")
            super().ended(news)

    folder = tmp_path / "there"
    folder.mkdir()
    pool = OnCluster(folder, plan.cells[0].config, 1, 2, None, {})
    try:
        done = Killing(plan, open_record(plan, folder, ()), Unwatched()).run(pool)
    finally:
        pool.close()
    assert isinstance(done, Study)
    assert len(killed) == 2
    assert left_of(folder) == left_of(here.folder)


class Heard:
    """Keeps what a pool says."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.ends: list[Ended] = []

    def scored(self, news: Scored) -> bool:
        self.rounds.append(news.round)
        return True

    def ended(self, news: Ended) -> None:
        self.ends.append(news)


@pytest.mark.ray
def test_an_actor_that_dies_idle_costs_no_run_anything_and_no_round_is_left_out(
    tmp_path: Path, ray_session: None
) -> None:
    import ray

    heard, pool = Heard(), OnCluster(tmp_path, make_plan(read_study(study_of())).cells[0].config, 1, 1, None, {})
    try:
        while not pool.free:
            pool.wait(0.1, heard)
        first = pool._workers[0]
        ray.kill(first.actor)
        while not pool.free or first in pool._workers:
            pool.wait(0.1, heard)
        assert not heard.ends
        pool.start(Job("run", tmp_path / "run", BASE))
        (worker,) = pool._workers
        ray.wait([worker.running])
        worker.asked = worker.actor.news.remote()  # which has both rounds, and nobody has read it yet
        while not heard.ends:
            pool.wait(0.1, heard)
    finally:
        pool.close()
    assert heard.rounds == [1, 2]
    assert [(each.key, each.failure, each.lost) for each in heard.ends] == [("run", "", False)]


@pytest.mark.ray
def test_no_run_waits_for_room_that_others_have(tmp_path: Path, ray_session: None) -> None:
    import ray

    class Other:
        def begun(self) -> None:
            pass

    other = ray.remote(Other).options(num_cpus=3).remote()
    ray.get(other.begun.remote())
    plan = make_plan(read_study(study_of(variants=METHODS[:1])))
    pool = OnCluster(tmp_path, plan.cells[0].config, None, 2, None, {})
    try:
        assert pool.size == 2  # as if nothing else ran there
        done = Conductor(plan, open_record(plan, tmp_path, ()), Unwatched()).run(pool)
    finally:
        pool.close()
        ray.kill(other)
    assert [run.state for run in done.runs] == ["finished"] * 2


@pytest.mark.ray
def test_actors_ask_for_a_gpu_where_there_are_some_and_are_waited_for_as_long_as_is_said(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "gpus", lambda: 2.0)
    monkeypatch.setattr(sweep_cluster, "SAY_AFTER", 0.1)
    config = make_plan(read_study(study_of(set={"simulation.patience": 0.5}))).cells[0].config
    assert config.device == "auto"
    pool = OnCluster(tmp_path, config, None, 1, None, {})
    asked = "each asks for 1 CPU and 1 GPU, there are 1 node"
    try:
        with pytest.raises(NoRoomError, match=rf"no Ray actor has begun within 0\.5 s: {asked}"):
            while True:
                pool.wait(0.1, Heard())
    finally:
        pool.close()
    assert f"waiting for a Ray actor to begin: {asked}" in caplog.text


@pytest.mark.ray
def test_what_an_actor_asks_for_may_not_contradict_itself(tmp_path: Path, ray_session: None) -> None:
    config = make_plan(read_study(study_of(set={"device": "cpu", "simulation.num_gpus": 0.5}))).cells[0].config
    with pytest.raises(ConfigError, match=r"simulation\.num_gpus = 0\.5: with device = 'cpu'"):
        OnCluster(tmp_path, config, None, 1, None, {})


@pytest.mark.ray
def test_one_run_after_another_trains_on_the_same_actors(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedtl.grid import warm
    from fedtl.grid.ray import RayGrid

    began, processes = [], RayGrid.processes

    def noted(grid: RayGrid) -> list[int]:
        began.append(processes(grid))
        return began[-1]

    monkeypatch.setattr(RayGrid, "processes", noted)
    here = fedtl.sweep(study_of(variants=METHODS[:1]), out=tmp_path / "here", jobs=1)
    on_ray = ["simulation.grid=ray", "simulation.actors=1"]
    there = fedtl.sweep(study_of(variants=METHODS[:1]), on_ray, out=tmp_path / "there", jobs=1)
    assert len(began) == 2
    assert began[0] == began[1]
    assert warm.lender is None
    for run in here.runs:
        assert contents(here.folder / run.folder) == contents(there.folder / run.folder)
