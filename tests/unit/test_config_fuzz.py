"""What is wrong in a config is one sentence that names the key, wherever it is; see tests/fuzz_config.py for more."""

from __future__ import annotations

from typing import Any

import pytest

from fedtl.choice import LARGEST, ConfigError, Options
from fedtl.config.read import read_config
from tests.fuzz_config import TINY, bases, mutated, outcome_of

SEED, COUNT = 7, 150


def test_mutated_configs_are_read_or_refused_in_a_sentence() -> None:
    all_of_them = bases()
    for number in range(COUNT):
        outcome = outcome_of(*mutated(all_of_them, SEED, number), run=False)
        assert outcome.fine, f"python -m tests.fuzz_config --seed {SEED} --only {number}: {outcome}"


def test_a_mutation_is_made_by_its_numbers_alone() -> None:
    assert mutated(bases(), 1, 2) == mutated(bases(), 1, 2)


def refused(override: str, **tables: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config({**TINY, **tables}, [override])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "rounds",
        "max_failures",
        "strategy.lr",
        "strategy.clients_per_round",
        "evaluate.every",
        "evaluate.clients",
        "simulation.actors",
        "simulation.num_gpus",
        "deploy.wait",
        "data.clients",
        "data.channels",
        "data.test_share",
        "data.transform.rotate",
        "data.target.samples",
        "replay.noise",
    ],
)
def test_true_is_no_number(key: str) -> None:
    domains = {**TINY["data"], "transform": {}, "target": {"name": "digits"}}
    message = refused(f"{key}=true", data=domains, replay={})
    assert message == f"{key} = True: should be a number, not true or false"


def test_true_is_no_number_in_a_list_or_a_row() -> None:
    assert refused("model.hidden=[8, true]") == "model.hidden = [8, True]: should be a number, not true or false"
    message = refused("objective=[{term='cross_entropy', ramp={end=true}}]")
    assert message == "objective[0].ramp.end = True: should be a number, not true or false"


def test_whole_numbers_end() -> None:
    for key in ("seed", "rounds", "strategy.batch_size", "data.clients"):
        for value in (2**63, 2**64, 10**30, 1e300):
            assert refused(f"{key}={value}").endswith(f"should be no larger than {LARGEST}")
    assert read_config(TINY, [f"seed={LARGEST}"])[0].seed == LARGEST


def test_what_looks_like_a_number_or_like_truth_is_one() -> None:
    config, _ = read_config(TINY, ["strategy.lr='0.5'", "rounds=2.0", "simulation.stacked=1"])
    assert (config.strategy.lr, config.rounds, config.simulation.stacked) == (0.5, 2, True)


def test_a_field_that_takes_both_takes_both() -> None:
    class Both(Options):
        value: int | bool

    assert Both(value=True).value is True


@pytest.mark.parametrize("value", ["5", "[]", "true", "1979-05-27", "[{name='adam'}]", "nan"])
def test_a_server_optimizer_that_is_no_table(value: str) -> None:
    assert refused(f"strategy.server={value}").endswith("give a table, as [strategy.server] name = 'adam', or a name")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("tests.broken.exits:X", "importing it failed: SystemExit: no such luck"),
        ("tests.broken.raises:X", "importing it failed: RuntimeError: first second"),
        ("tests.broken.parts:lazy.x", "'x' cannot be had: RuntimeError: x is not to be had"),
        ("tests.broken.parts:Absent", "the module 'tests.broken.parts' has no 'Absent'"),
        ("tests.broken.parts:number", None),
        ("tests.broken.parts:function", None),
        ("tests.broken.parts:Nothing", None),
    ],
)
@pytest.mark.parametrize(
    "key", ["strategy.name", "strategy.server.name", "model.name", "data.name", "data.partition.name", "data.target"]
)
def test_a_dotted_path_of_the_wrong_kind(key: str, path: str, why: str | None) -> None:
    if key == "model.name" and path.endswith(":function"):
        return  # it may return a module; whether it does is seen when it is called
    message = refused(f"{key}={path}")
    name = key if key.endswith(".name") else f"{key}.name"
    assert message.startswith(f"{name} = {path!r}: ")
    if why is not None:
        assert message.endswith(why)


def test_a_sentence_is_no_longer_than_a_sentence() -> None:
    for key in ("data", "model", "strategy", "data.target", "data.partition", "data.partition.name", "model.name"):
        assert len(refused(f"{key}={['x'] * 3000}")) < 400
    assert len(refused(f"model.name='{'x' * 5000}'")) < 400
    assert len(refused(f"strategy.name='{'x' * 5000}'")) < 400
    assert len(refused(f"strategy.local_epochs={['x'] * 3000}")) < 400
