"""Replayed class impressions: of which classes, out of which model, and what they are good for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import fedtl
from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.replay import Replay
from fedtl.distill.impressions import class_impressions
from fedtl.engine import Engine, OneByOne, Trained
from fedtl.engine import replay as replay_module
from fedtl.engine.replay import bounds
from fedtl.engine.task import REPLAYED, RoundContext
from fedtl.random import Purpose, derived_seed
from tests.parts import ENGINES, train_cohort, update_of

QUICK = {"per_class": 3, "steps": 4}


def tables(replay: dict[str, Any] | None = None, term: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"term": "cross_entropy"}]
    return {
        "name": "replay",
        "rounds": 3,
        "data": {
            "name": "digits",
            "clients": 5,
            "samples": 600,
            "partition": {"name": "pathological", "classes_per_client": 2},
        },
        "model": {"name": "mlp", "hidden": [32]},
        "strategy": {"name": "fedavg", "lr": 0.1, "local_steps": 3, "batch_size": 8},
        "objective": rows if replay is None else [*rows, {"term": "replay", **(term or {})}],
        **({} if replay is None else {"replay": {**QUICK, **replay}}),
        "simulation": {"grid": "in-process"},
        **more,
    }


@functools.cache
def federation() -> Federation:
    return federate(build(tables()).data, 0)


def engine(replay: dict[str, Any] | None = None, kind: Any = OneByOne, term: dict[str, Any] | None = None) -> Engine:
    (task,) = make_tasks(build(tables(replay, term)), federation())
    made: Engine = kind(task)
    return made


def missing(client: int) -> list[int]:
    data = federation()
    return sorted(set(range(10)) - set(data.y[data.train[client]].tolist()))


def trained(of: Engine, round: int = 2, w: torch.Tensor | None = None, **options: Any) -> list[Trained]:
    w = of.task.layout.flatten(of.task.module) if w is None else w
    update = update_of("fedavg", **{"lr": 0.1, "local_steps": 3, "batch_size": 8, **options})
    outcomes = train_cohort(of, update, w, range(5), [{}] * 5, round)
    assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


def test_rounds_of_synthesis() -> None:
    how = Replay(after=2, every=3)
    assert [how.made_in(round) for round in range(1, 10)] == [None, None, 3, 3, 3, 6, 6, 6, 9]
    assert [Replay(after=0).made_in(round) for round in (1, 2, 3)] == [1, 2, 3]


def test_a_client_replays_the_classes_that_it_lacks() -> None:
    replays = engine({}).replays
    assert replays is not None
    w = torch.zeros(replays.task.layout.size)
    replays.enter(w, 1, RoundContext())
    assert not len(replays.places(0))  # the model knows nothing in the first round
    replays.enter(w, 2, RoundContext())
    for client in range(5):
        _, y = replays.batch(client, replays.places(client))
        assert len(missing(client)) == 8
        assert y.tolist() == np.repeat(missing(client), 3).tolist()
    own, every = engine({"by": "client"}).replays, engine({"classes": "all"}).replays
    assert own is not None
    assert every is not None
    for each, classes in ((own, missing(1)), (every, list(range(10)))):
        each.enter(w, 2, RoundContext())
        assert each.batch(1, each.places(1))[1].tolist() == np.repeat(classes, 3).tolist()


@pytest.mark.parametrize("by", ["server", "client"])
def test_samples_are_impressions_of_the_received_model(by: str) -> None:
    of = engine({"by": by})
    task, replays = of.task, of.replays
    assert replays is not None
    module = make_tasks(build(tables()), federation())[0].module
    w = task.layout.flatten(task.module)
    w = w + 0.1 * torch.randn(len(w), generator=torch.Generator().manual_seed(3))
    task.layout.load(module, w)
    replays.enter(w, 4, RoundContext())
    for client in (3, 1):
        classes, seed = (range(10), -1) if by == "server" else (missing(client), client)
        x, y = class_impressions(
            module,
            list(classes),
            3,
            (1, 8, 8),
            4,
            0.05,
            derived_seed(0, Purpose.REPLAY, 4, seed),
            bounds=bounds(federation()),
        )
        lacks = torch.isin(y, torch.tensor(missing(client)))
        found_x, found_y = replays.batch(client, replays.places(client))
        assert torch.equal(found_x, x[lacks])
        assert torch.equal(found_y, y[lacks])


def test_a_set_is_made_once_for_a_model_and_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [0], replay_module.class_impressions

    def counted(*arguments: Any, **options: Any) -> Any:
        made[0] += 1
        return make(*arguments, **options)

    monkeypatch.setattr(replay_module, "class_impressions", counted)
    replays = engine({"by": "client"}).replays
    assert replays is not None
    w = torch.zeros(replays.task.layout.size)
    places = np.arange(4)
    replays.enter(w, 2, RoundContext())
    first = replays.batch(0, places)[0]
    other = replays.batch(1, places)[0]
    assert made == [2]
    replays.enter(w.clone(), 2, RoundContext())
    assert torch.equal(replays.batch(0, places)[0], first)
    assert made == [2]
    assert not torch.equal(first, other)
    for w_now, round in ((w, 3), (w + 0.1, 2)):  # another round, another model
        replays.enter(w_now, round, RoundContext())
        assert not torch.equal(replays.batch(0, places)[0], first)


def test_between_syntheses_the_model_of_the_last_one_is_used() -> None:
    replays = engine({"every": 2}).replays
    assert replays is not None
    w = torch.zeros(replays.task.layout.size)
    replays.enter(w, 2, RoundContext())
    first = replays.batch(0, np.arange(4))[0]
    replays.enter(w + 1, 3, RoundContext(vectors={REPLAYED: w}))
    assert torch.equal(replays.batch(0, np.arange(4))[0], first)
    replays.enter(w + 1, 3, RoundContext())
    with pytest.raises(ValueError, match="model of round 2"):
        replays.batch(0, np.arange(4))


def test_bounds_are_black_and_white() -> None:
    limits = bounds(federation())
    assert limits is not None
    data = federation()
    stored = torch.from_numpy(data.x * data.scale + data.shift)
    assert (stored >= limits[0] - 1e-6).all()
    assert (stored <= limits[1] + 1e-6).all()
    assert torch.allclose((limits[1] - limits[0]) * 240 / 255 + limits[0], stored.max())  # digits end at 240


@pytest.mark.parametrize("loss", ["labels", "soft"])
def test_the_term_by_hand(loss: str) -> None:
    of = engine({}, term={"loss": loss, "weight": 0.7, "temperature": 3.0})
    task = of.task
    w = task.layout.flatten(task.module)
    (outcome, *_) = trained(of, lr=0.5, local_steps=1)
    plain = trained(engine(), lr=0.5, local_steps=1)[0]
    assert of.replays is not None
    assert outcome.uploads.get("w") is not None
    assert plain.uploads.get("w") is not None
    (plan,) = of.plans(update_of("fedavg", lr=0.5, local_steps=1, batch_size=8), 0, 2)
    x, y = of.replays.batch(0, plan.more["replay"][0])
    assert len(y) == 8
    module = make_tasks(build(tables()), federation())[0].module
    task.layout.load(module, w)
    value = F.cross_entropy(module(x), y)
    if loss == "soft":  # at agreement with the received model: no gradient yet
        assert torch.allclose(outcome.uploads.get("w"), plain.uploads.get("w"), atol=1e-7)
        assert outcome.losses[1] == pytest.approx(0, abs=1e-6)
        return
    assert outcome.losses[1] == pytest.approx(float(value.detach()), rel=1e-5)
    gradient = task.layout.flat(torch.autograd.grad(value, list(module.parameters())))
    torch.testing.assert_close(
        outcome.uploads.get("w"), plain.uploads.get("w") - 0.5 * 0.7 * gradient, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("by", ["server", "client"])
@pytest.mark.parametrize("loss", ["labels", "soft"])
def test_engines_agree(by: str, loss: str) -> None:
    results = {}
    for name, kind in ENGINES.items():
        of = engine({"by": by}, kind, {"loss": loss})
        results[name] = trained(of)
        if of.tracer:
            assert of.tracer.replays_all
    for name, outcomes in results.items():
        for outcome, expected in zip(outcomes, results["one by one"]):
            assert outcome.uploads.get("w") is not None
            assert expected.uploads.get("w") is not None
            torch.testing.assert_close(
                outcome.uploads.get("w"), expected.uploads.get("w"), rtol=1e-4, atol=1e-5, msg=name
            )
            assert outcome.losses == pytest.approx(expected.losses, rel=1e-4)


def test_a_client_keeps_what_others_have_taught_the_model() -> None:
    """A model that knows all digits, trained at a client of two: with impressions of the others it forgets less."""
    data = federation()
    of = engine({"per_class": 20, "steps": 60})
    module = make_tasks(build(tables()), data)[0].module
    x, y = of.task.samples.batch(data.train.order)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    w = of.task.layout.flatten(module)

    def kept(outcomes: list[Trained]) -> float:
        scores = []
        for outcome in outcomes:
            assert outcome.uploads.get("w") is not None
            others = data.server_test[np.isin(data.y[data.server_test], missing(outcome.client))]
            score = of.score(outcome.uploads.get("w"), others)
            scores.append(score.correct / score.samples)
        return float(np.mean(scores))

    without = kept(trained(engine(), w=w, local_steps=100))
    replayed = kept(trained(of, w=w, local_steps=100))
    assert of.score(w, data.server_test).correct > 0.85 * len(data.server_test)
    assert without < 0.4
    assert replayed > 0.55


@pytest.mark.parametrize("replay", [{}, {"every": 2}, {"by": "client", "every": 3}])
def test_a_run_that_goes_on_ends_with_the_same_bits(replay: dict[str, Any], tmp_path: Path) -> None:
    whole = fedtl.run(tables(replay, rounds=5), out=tmp_path / "a")
    fedtl.run(tables(replay, rounds=3), out=tmp_path / "b")
    again = fedtl.run(tables(replay, rounds=5), out=tmp_path / "b", resume=True)
    a, b = load_file(whole.path / "model.safetensors"), load_file(again.path / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    first, second, *_ = whole.rounds
    assert set(first["train"]) == {"cross_entropy"}  # nothing is replayed yet
    assert set(second["train"]) == {"cross_entropy", "replay"}
    models = 2 if replay.get("every", 1) > 1 else 1  # the synthesis' model travels too
    assert second["bytes_down"] == models * first["bytes_down"]


def test_where_clients_come_to_hold_other_classes_they_replay_those_that_they_lack_then(tmp_path: Path) -> None:
    base = {"name": "pathological", "classes_per_client": 2}
    stage = {"after": 3, "partition": {"name": "pathological", "classes_per_client": 4}}
    config = tables({"by": "client", "every": 3})
    config["data"]["partition"] = {"name": "drift", "base": base, "stages": [stage]}
    whole = fedtl.run({**config, "rounds": 4}, out=tmp_path / "a")
    fedtl.run(config, out=tmp_path / "b")
    again = fedtl.run({**config, "rounds": 4}, out=tmp_path / "b", resume=True)
    a, b = whole.state_dict(), again.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_phases_share_the_synthesis(tmp_path: Path) -> None:
    config = tables({"every": 2, "after": 1})
    rows = config.pop("objective")
    config["phases"] = [{"rounds": 2, "objective": rows[:1]}, {"rounds": 2, "objective": rows}]
    run = fedtl.run({**config, "rounds": 4}, out=tmp_path)
    assert ["replay" in row["train"] for row in run.rounds] == [False, False, True, True]


@pytest.mark.parametrize("by", ["server", "client"])
def test_a_restart_between_two_syntheses_is_one(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of the model before is forgotten with it, and the next synthesis may be rounds away."""
    made: list[tuple[int, torch.Tensor]] = []
    make = replay_module.Replays._make

    def noted(self: Any, vector: torch.Tensor, of: int, client: int) -> Any:
        made.append((of, vector.clone()))
        return make(self, vector, of, client)

    monkeypatch.setattr(replay_module.Replays, "_make", noted)
    config = tables({"every": 4, "after": 0, "by": by})
    rows = config.pop("objective")
    phases = [{"rounds": 3, "objective": rows}, {"rounds": 3, "restart": True, "objective": rows}]
    run = fedtl.run({**config, "phases": phases, "rounds": 6}, out=tmp_path)
    assert all("replay" in row["train"] and not row["failures"] for row in run.rounds)
    models = [vector for i, (_, vector) in enumerate(made) if not i or not torch.equal(vector, made[i - 1][1])]
    assert len(models) == 3  # of rounds 1, 4 and 5
    assert {round for round, vector in made if torch.equal(vector, models[1])} == {1}  # 4, made as round 1's


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"replay": None}, r"objective\[1\]: the term 'replay' needs synthesised samples; there are none: add a table"),
        ({"replay": {"per_class": 0}}, "replay.per_class = 0"),
        ({"replay": {"least": 0.9, "most": 0.6}}, "least = 0.9 is above most = 0.6"),
        ({"replay": 3}, "give a table"),
        ({"strategy": {"name": "local", "lr": 0.1}}, "'local' sends none"),
        ({"strategy": {"name": "fedavg", "lr": 0.1, "private": ["head"]}}, "strategy.private leaves a part"),
    ],
)
def test_errors(change: dict[str, Any], says: str) -> None:
    config = {key: value for key, value in {**tables({}), **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=says):
        build(config)


@pytest.mark.parametrize(
    "model",
    [{"name": "textcnn", "vocabulary": 10, "widths": [2]}, {"name": "tabular-mlp", "categorical": {"1": 10}}],
)
def test_ids_of_words_and_categories_are_not_synthesised(model: dict[str, Any], tmp_path: Path) -> None:
    """No gradient says of them what would be more of a class; and nothing of the run has begun."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "ids.npz", x=rng.integers(10, size=(60, 4)), y=rng.integers(2, size=60))
    data = {"name": "npz", "path": str(tmp_path / "ids.npz"), "clients": 3, "normalise": "none"}
    asked = tables({"after": 0, "classes": "all"}, data={**data, "partition": {"name": "iid"}}, model=model)
    with pytest.raises(ConfigError, match=r"^replay: samples are made along a gradient, .* ids of words or categories"):
        fedtl.run(asked, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
