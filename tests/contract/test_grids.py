"""Every grid gives the same bits: in this process, on one Ray actor or several, and with workers that die."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from safetensors.numpy import load_file

import fedtl
from fedtl.assemble.parts import make_strategy, make_tasks, make_worker
from fedtl.config.read import read_config
from fedtl.config.schema import Config
from fedtl.data.federate import federate
from fedtl.engine import EngineChoice
from fedtl.failure import RunError
from fedtl.grid.in_process import InProcessGrid
from fedtl.grid.simulated import SimulatedGrid
from fedtl.server.report import Round
from fedtl.strategies import STRATEGIES
from fedtl.wire import messages as m
from tests.methods import OPEN_METHODS
from tests.parts import METHODS as REGISTERED
from tests.parts import MODELS_OF, train_cohort

PLAIN = EngineChoice(stacked=False, traced=False, because="a test")

CLIENTS, SAMPLED, ROUNDS = 10, 6, 3
TIMES = {"seconds", "seconds_scoring", "elapsed"}

METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"lr": 0.1, "local_epochs": 1},
    "local": {"lr": 0.1, "local_steps": 3},
    "pfedme": {"lr": 0.05, "lam": 15.0, "inner_steps": 2, "inner_lr": 0.05, "local_steps": 3},
    "fedrep": {"lr": 0.05, "head_epochs": 2},
    **OPEN_METHODS,
}
METHODS |= {name: options for name, options in REGISTERED.items() if name not in METHODS}


def tables(method: str = "fedavg", grid: str = "in-process", actors: int = 2, **trouble: Any) -> dict[str, Any]:
    """Ten clients, each with one digit of its own, so that a label names a client."""
    return {
        "name": "grids",
        "seed": 3,
        "rounds": ROUNDS,
        "device": "cpu",
        "data": {"name": "digits", "clients": CLIENTS, "partition": {"name": "pathological", "classes_per_client": 1}},
        "model": MODELS_OF.get(method, {"name": "mlp", "hidden": [8]}),
        "strategy": {"name": method, "clients_per_round": SAMPLED, "batch_size": 16, **METHODS[method]},
        "objective": [{"term": "tests.trouble:Trouble", **trouble}],
        "simulation": {"grid": grid, "actors": actors},
    }


def label_of(config: Mapping[str, Any], client: int) -> int:
    federation = federate(read_config(config)[0].data, config["seed"])
    labels = set(federation.y[federation.train[client]].tolist())
    assert len(labels) == 1
    return labels.pop()


def first_sampled(config: Mapping[str, Any]) -> list[int]:
    read, _ = read_config(config)
    return make_strategy(read, CLIENTS, 1).sample(1)


def records(folder: Path, name: str = "rounds.jsonl") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def arrays(folder: Path) -> dict[str, bytes]:
    """Every tensor that a run leaves: the model and all memories."""
    files = [folder / "model.safetensors", *sorted((folder / "memories").rglob("*.safetensors"))]
    return {
        f"{file.relative_to(folder)}:{key}": value.tobytes()
        for file in files
        for key, value in sorted(load_file(file).items())
    }


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert records(a, name) == records(b, name)
    assert arrays(a) == arrays(b)


@pytest.mark.ray
@pytest.mark.usefixtures("warm_actors")
class TestRay:
    @pytest.mark.parametrize(
        ("method", "actors"),
        [(method, {"local": 1, "pfedme": 3}.get(method, 2)) for method in (*STRATEGIES, *OPEN_METHODS)],
    )
    def test_same_bits_with_any_number_of_actors(self, method: str, actors: int, tmp_path: Path) -> None:
        """One of them with validation samples, which end it early; without them it has others' faults below."""
        early = ["rounds=9", f"stop={{ patience = {ROUNDS - 1}, min_delta = 1 }}"]  # no accuracy is better by so much
        validation = ["data.validation_share=0.2", *early] if method == "pfedme" else []
        fedtl.run(tables(method), validation, out=tmp_path / "here")
        assert len(records(tmp_path / "here")) == len(records(tmp_path / "here", "clients.jsonl")) == ROUNDS
        asked = [len(line["clients"]) for line in records(tmp_path / "here")]
        sampled = 1 if method == "central" else SAMPLED
        assert asked == [CLIENTS if method == "feddbe" else sampled, *[sampled] * (ROUNDS - 1)]  # its mean is of all
        remembering = {"local", "pfedme", "fedrep", *OPEN_METHODS} - {"knn-per"}
        assert len(list((tmp_path / "here/memories").rglob("*.safetensors"))) >= SAMPLED * (method in remembering)
        fedtl.run(tables(method, "ray", actors), validation, out=tmp_path / "ray")
        assert bool(validation) == ("personal/validation-clients" in records(tmp_path / "ray")[-1]["scores"])
        assert_same_run(tmp_path / "here", tmp_path / "ray")

    def test_same_bits_where_clients_fail(self, tmp_path: Path) -> None:
        what, config = "raise", tables("pfedme")
        label = label_of(config, first_sampled(config)[1])
        fedtl.run(tables("pfedme", what=what, label=label), out=tmp_path / "here")
        fedtl.run(tables("pfedme", "ray", 2, what=what, label=label), out=tmp_path / "ray")
        assert any(line["failures"] for line in records(tmp_path / "here"))
        assert_same_run(tmp_path / "here", tmp_path / "ray")

    def test_an_actor_that_kills_itself_once_changes_nothing(self, tmp_path: Path) -> None:
        config = tables("pfedme")
        label = label_of(config, first_sampled(config)[-1])
        fedtl.run(config, out=tmp_path / "here")
        once = tmp_path / "died"
        trouble = {"what": "exit", "label": label, "once": str(once)}
        fedtl.run(tables("pfedme", "ray", 2, **trouble), out=tmp_path / "ray")
        assert once.exists()
        assert_same_run(tmp_path / "here", tmp_path / "ray")

    def test_an_actor_that_is_killed_changes_nothing(self, tmp_path: Path) -> None:
        """SIGKILL in the middle of a round, from outside."""
        config, _ = read_config(tables("pfedme"))
        slow, _ = read_config(tables("pfedme", what="sleep", seconds=0.03))
        undisturbed, w = start(config, in_process(config, tmp_path / "here"))
        with ray_grid(slow, tmp_path / "ray", actors=2) as grid:
            before = all_begun(grid, 2)
            killer = threading.Timer(0.4, os.kill, (before[0], signal.SIGKILL))
            killer.start()
            rounds, w_killed = start(config, grid)
            killer.join()
            after = grid.processes()
        # Whether another has begun in its place by now is the machine's affair.
        assert before[0] not in after
        assert before[1] in after
        assert w_killed == w
        assert [(r.clients, r.failures, r.train, r.steps, r.scores) for r in rounds] == [
            (r.clients, r.failures, r.train, r.steps, r.scores) for r in undisturbed
        ]

    def test_a_client_that_always_kills_its_worker_fails_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fedtl.grid.ray.DEATHS", 2)  # each costs a process that begins
        config = tables("fedavg")
        deadly = first_sampled(config)[0]
        trouble = {"what": "exit", "label": label_of(config, deadly)}
        config = tables("fedavg", "ray", 2, **trouble) | {"rounds": 1}
        fedtl.run(config, out=tmp_path / "run")
        (line,) = records(tmp_path / "run")
        assert [failure["client"] for failure in line["failures"]] == [deadly]
        assert "2 workers died" in line["failures"][0]["message"]

    def test_who_sleeps_past_the_timeout_did_not_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        asked, asleep, passed = first_sampled(tables()), tmp_path / "asleep", list[float]()
        trouble = {"what": "sleep", "seconds": 600, "label": label_of(tables(), asked[-1]), "once": str(asleep)}
        config, _ = read_config(tables("fedavg", "ray", **trouble) | {"rounds": 2})
        wait = ray.wait

        def time_flies(references: list[Any], *, timeout: float, **options: Any) -> Any:
            """Once, as soon as the one who sleeps is the last: a time in which all others answer on any machine."""
            while len(references) == 1 and not passed:
                if asleep.exists():
                    passed.append(timeout)
                    return wait(references, timeout=0, **options)
                done, left = wait(references, timeout=0.1, **options)
                if done:
                    return done, left
            return wait(references, timeout=timeout, **options)

        monkeypatch.setattr(ray, "wait", time_flies)
        with ray_grid(config, tmp_path, actors=2) as grid:
            grid.processes()
            rounds, w = start(config, grid, timeout=240)
        assert 0 < passed[0] < 240  # what was left of it
        # Its cohort is that client alone: a round's last cohorts are single clients.
        assert rounds[0].failures == [(asked[-1], "it did not answer in time")]
        assert rounds[1].failures == []
        assert np.isfinite(np.frombuffer(w, np.float32)).all()

    def test_a_worker_that_cannot_begin_is_an_error_and_no_hang(self, tmp_path: Path) -> None:
        from fedtl.grid.ray import RayGrid, WorkerStartError

        grid = RayGrid(cannot_begin, (), CLIENTS, actors=1)
        try:
            with pytest.raises(WorkerStartError, match=r"a Ray actor cannot begin: .*this worker has a fault"):
                grid.processes()
        finally:
            grid.close()


def all_begun(grid: Any, actors: int) -> list[int]:
    """Their process ids; a grid itself would go on with the first where others are late."""
    until = time.monotonic() + 240
    while len(processes := grid.processes()) < actors:
        assert time.monotonic() < until
    return list(processes)


def cannot_begin() -> None:
    raise RuntimeError("this worker has a fault")


@contextmanager
def ray_grid(config: Config, folder: Path, actors: int) -> Iterator[Any]:
    from fedtl.grid.ray import RayGrid

    folder.mkdir(exist_ok=True)
    federation = federate(config.data, config.seed)
    grid = RayGrid(
        make_worker, (config.tables(), federation, str(folder / "memories"), "cpu", (PLAIN,)), CLIENTS, actors=actors
    )
    try:
        yield grid
    finally:
        grid.close()


def start(config: Config, grid: SimulatedGrid, **options: Any) -> tuple[list[Round], bytes]:
    """Run the config's strategy on a grid; the rounds, and the final model's bits."""
    federation = federate(config.data, config.seed)
    layout = make_tasks(config, federation)[0].layout
    rounds: list[Round] = []
    result = make_strategy(config, CLIENTS, layout.parameters).start(
        grid,
        m.pack(initial(config)),
        num_rounds=config.rounds,
        on_round=lambda report, w: rounds.append(report),
        **options,
    )
    return rounds, result.arrays[m.VECTOR].numpy().tobytes()


def initial(config: Config) -> np.ndarray[Any, np.dtype[np.float32]]:
    task = make_tasks(config, federate(config.data, config.seed))[0]
    return task.layout.flatten(task.module).numpy()


def in_process(config: Config, folder: Path) -> InProcessGrid:
    federation = federate(config.data, config.seed)
    return InProcessGrid(make_worker(config.tables(), federation, str(folder), "cpu", (PLAIN,)), CLIENTS)


class TestFailures:
    def test_one_that_raises_is_recorded_and_the_round_goes_on(self, tmp_path: Path) -> None:
        asked = first_sampled(tables())
        label = label_of(tables(), asked[0])
        fedtl.run(tables(what="raise", label=label), out=tmp_path / "run")
        first, *_ = lines = records(tmp_path / "run")
        assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
        assert first["clients"] == asked
        (failure,) = first["failures"]
        assert failure["client"] == asked[0]
        assert failure["message"] == f"ValueError: label {label} is not for me"
        others = [line for line in lines if asked[0] not in line["clients"]]
        assert all(not line["failures"] for line in others)

    def test_the_mean_is_the_others(self, tmp_path: Path) -> None:
        """A failed client weighs nothing: the round is as if it had not been asked."""
        config, _ = read_config(tables() | {"rounds": 1})
        asked = first_sampled(tables())
        federation = federate(config.data, config.seed)
        uploads = []
        worker = make_worker(config.tables(), federation, str(tmp_path), "cpu", (PLAIN,))
        for client in asked[1:]:
            (outcome,) = train_cohort(worker.engine, worker.update, worker.initial, [client], [{}], 1)
            uploads.append((len(federation.train[client]), outcome.uploads.get("w").double().numpy()))  # type: ignore[union-attr]
        expected = sum(n * upload for n, upload in uploads) / sum(n for n, _ in uploads)
        for what in ("raise", "nan"):
            broken = tables(what=what, label=label_of(tables(), asked[0])) | {"rounds": 1}
            rounds, w = start(config, in_process(read_config(broken)[0], tmp_path))
            assert [client for client, _ in rounds[0].failures] == [asked[0]]
            np.testing.assert_allclose(np.frombuffer(w, np.float32), expected, rtol=0, atol=1e-7)

    def test_a_nan_says_what_it_is(self, tmp_path: Path) -> None:
        asked = first_sampled(tables("pfedme"))
        fedtl.run(tables("pfedme", what="nan", label=label_of(tables(), asked[0])), out=tmp_path / "run")
        lines = records(tmp_path / "run")
        assert {(f["client"], f["message"].removeprefix("scoring: ")) for line in lines for f in line["failures"]} == {
            (asked[0], "its model is not finite any more; a smaller lr may help")
        }
        for tensor in load_file(tmp_path / "run/model.safetensors").values():
            assert np.isfinite(tensor).all()
        # Nor does it remember a broken model.
        assert not list((tmp_path / "run/memories").rglob(f"{asked[0]}-*"))

    @pytest.mark.parametrize("grid", ["in-process", pytest.param("ray", marks=pytest.mark.ray)])
    def test_too_many_end_the_run_with_one_sentence(
        self, grid: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        if grid == "ray":
            request.getfixturevalue("warm_actors")
        strict = {"max_failures": 0.0}
        config = tables("pfedme")
        seen: dict[int, set[int]] = {
            r: set(make_strategy(read_config(config)[0], CLIENTS, 1).sample(r)) for r in (1, 2)
        }
        late = min(seen[2] - seen[1])  # fails in round 2, not before
        broken = tables("pfedme", grid, what="raise", label=label_of(config, late))
        broken |= strict | {"evaluate": {"every": 3}}
        with pytest.raises(RunError, match=r"^round 2: 1 of 6 clients failed, more than max_failures = 0 allows") as e:
            fedtl.run(broken, out=tmp_path / "run")
        assert f"client {late}: ValueError" in str(e.value)
        assert "\n" not in str(e.value)
        # What was finished stays, and the run can go on once the cause is gone.
        assert [line["round"] for line in records(tmp_path / "run")] == [1]
        assert not (tmp_path / "run/model.safetensors").exists()

    def test_a_round_in_which_all_fail_ends_the_run_even_if_any_may(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="6 of 6 clients failed"):
            fedtl.run(tables(what="raise") | {"max_failures": 1.0}, out=tmp_path / "run")


class InTwo:
    """Sends a grid what it is to send as two contents that are equal."""

    def __init__(self, grid: SimulatedGrid) -> None:
        self.grid = grid

    def nodes_of_clients(self) -> Sequence[int]:
        return self.grid.nodes_of_clients()

    def send_and_receive(self, messages: Sequence[Message], *, timeout: float | None = None) -> list[Message]:
        both = [RecordDict({**messages[0].content}) for _ in range(2)]
        half = len(messages) // 2  # odd, so that a pair of the sum's tree is torn apart
        return self.grid.send_and_receive(
            [
                Message(both[place >= half], message.metadata.dst_node_id, message.metadata.message_type)
                for place, message in enumerate(messages)
            ],
            timeout=timeout,
        )


@pytest.mark.parametrize("name", ["in-process", pytest.param("ray", marks=pytest.mark.ray)])
def test_two_contents_in_one_round_have_the_bits_of_one(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config, _ = read_config(tables() | {"rounds": 2})
    whole, w = start(config, in_process(config, tmp_path))
    if name == "ray":
        request.getfixturevalue("warm_actors")
    with ray_grid(config, tmp_path, 2) if name == "ray" else nullcontext(in_process(config, tmp_path)) as grid:
        halves, w_of_halves = start(config, InTwo(grid))  # type: ignore[arg-type]
    assert w_of_halves == w
    assert [(r.clients, r.train, r.scores) for r in halves] == [(r.clients, r.train, r.scores) for r in whole]


def recorded(name: str, **options: Any) -> Any:
    return getattr(flower, name)(fraction_evaluate=0.0, min_available_nodes=CLIENTS, **options)


class TestFlowersStrategies:
    """Flower's own run on our grids as they are."""

    @pytest.mark.parametrize(
        ("name", "options"),
        [("FedMedian", {}), ("Krum", {"num_malicious_nodes": 1}), ("FedAdam", {"eta": 0.01}), ("FedTrimmedAvg", {})],
    )
    def test_run(self, name: str, options: dict[str, Any], tmp_path: Path) -> None:
        config, _ = read_config(tables())
        start_at = initial(config)
        result = recorded(name, **options).start(in_process(config, tmp_path), m.pack(start_at), num_rounds=2)
        assert set(result.train_metrics_clientapp) == {1, 2}
        w = result.arrays[m.VECTOR].numpy()
        assert w.shape == start_at.shape
        assert np.isfinite(w).all()
        assert not np.array_equal(w, start_at)

    def test_fedavg_is_ours(self, tmp_path: Path) -> None:
        everybody = tables() | {"rounds": 2}
        everybody["strategy"] = {**everybody["strategy"], "clients_per_round": CLIENTS}
        config, _ = read_config(everybody)
        ours, w = start(config, in_process(config, tmp_path))
        theirs = flower.FedAvg(fraction_evaluate=1.0, min_available_nodes=CLIENTS).start(
            in_process(config, tmp_path), m.pack(initial(config)), num_rounds=2
        )
        mine = np.frombuffer(w, np.float32)
        np.testing.assert_allclose(theirs.arrays[m.VECTOR].numpy(), mine, rtol=1e-5, atol=1e-6)
        scored: MetricRecord = theirs.evaluate_metrics_clientapp[2]
        accuracy = ours[1].scores["global/clients"]["accuracy"]["weighted_mean"]  # type: ignore[index]
        assert scored["accuracy"] == pytest.approx(accuracy, abs=0.01)
        assert theirs.train_metrics_clientapp[2]["tests.trouble:Trouble"] == pytest.approx(
            next(iter(ours[1].train.values())), rel=1e-4
        )

    @pytest.mark.ray
    def test_on_ray(self, tmp_path: Path, warm_actors: None) -> None:
        config, _ = read_config(tables("fedavg", "ray"))
        vectors = []
        for make in (lambda: in_process(config, tmp_path), None):
            options = {"num_rounds": 2}
            if make:
                result = recorded("FedMedian").start(make(), m.pack(initial(config)), **options)
            else:
                with ray_grid(config, tmp_path, actors=2) as grid:
                    result = recorded("FedMedian").start(grid, m.pack(initial(config)), **options)
            vectors.append(result.arrays[m.VECTOR].numpy())
        np.testing.assert_array_equal(*vectors)

    def test_pushed_messages_can_be_pulled(self, tmp_path: Path) -> None:
        from flwr.app import Message, MessageType, RecordDict

        config, _ = read_config(tables())
        grid = in_process(config, tmp_path)
        content = RecordDict({m.ARRAYS: m.pack(initial(config))})
        nodes = sorted(grid.get_node_ids())
        assert len(nodes) == CLIENTS
        ids = list(grid.push_messages([Message(content, node, MessageType.TRAIN) for node in nodes[:2]]))
        replies = list(grid.pull_messages(ids))
        assert [reply.metadata.src_node_id for reply in replies] == nodes[:2]
        assert [reply.metadata.reply_to_message_id for reply in replies] == ids
        assert all(isinstance(reply.content[m.ARRAYS], ArrayRecord) for reply in replies)
        assert list(grid.pull_messages(ids)) == []
