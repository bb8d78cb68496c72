"""What a study's file means: its runs, and one sentence for whatever is wrong with it."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from fedtl.choice import ConfigError
from fedtl.config.read import shipped_studies
from fedtl.studies import Study
from fedtl.sweeps.file import as_toml, read_study
from fedtl.sweeps.plan import Plan, make_plan
from fedtl.sweeps.record import open_record, write_inputs
from fedtl.sweeps.space import Range, draws, points, read_space, size
from tests.sweeps import ALPHA, BASE, LR, METHODS, SHARE, study_of

RANDOM = {"by": "random", "budget": 3, "space": {LR: {"low": 0.01, "high": 0.1, "log": True}}}


def plan_of(*words: str, **more: Any) -> Plan:
    return make_plan(read_study(study_of(**more), words))


def names(plan: Plan) -> list[str]:
    return [each.cell.name for each in plan.cells]


# Runs.


def test_cells_are_methods_in_every_setting_and_runs_have_every_seed() -> None:
    plan = plan_of(grid={ALPHA: [0.1, 1.0]}, seeds=[3, 5])
    assert names(plan) == ["fedavg alpha=0.1", "fedavg alpha=1", "local alpha=0.1", "local alpha=1"]
    folders = [run.folder for run in plan.runs()]
    assert folders[:5] == [
        *("runs/fedavg-alpha=0.1-3", "runs/fedavg-alpha=1-3", "runs/local-alpha=0.1-3", "runs/local-alpha=1-3"),
        "runs/fedavg-alpha=0.1-5",
    ]
    assert len(folders) == 8
    config = plan.config(plan.cells[2], 5)
    assert (config.strategy.name, config.data.partition.model_dump()["alpha"], config.seed) == ("local", 0.1, 5)


def test_methods_have_hyperparameters_of_their_own() -> None:
    variants = [
        {"strategy.name": "fedprox", "grid": {"strategy.mu": [0.1, 1.0]}},
        {"name": "slow", "strategy": {"name": "fedavg", "lr": 0.01}},  # keys without quotes are tables within tables
    ]
    plan = plan_of(variants=variants)
    assert names(plan) == ["fedprox mu=0.1", "fedprox mu=1", "slow"]
    assert plan.cells[1].config.strategy.model_dump()["mu"] == 1.0
    assert plan.cells[2].config.strategy.model_dump()["lr"] == 0.01


def test_words_make_a_study_of_a_config() -> None:
    plan = make_plan(read_study(BASE, ["strategy.name=fedavg,fedbabu", "seed=0:4:2", "rounds=7", f"{ALPHA}=0.5,2"]))
    assert names(plan) == ["fedavg alpha=0.5", "fedavg alpha=2", "fedbabu alpha=0.5", "fedbabu alpha=2"]
    assert plan.seeds == (0, 2)
    assert {each.config.rounds for each in plan.cells} == {7}
    lists = make_plan(read_study(BASE, ["strategy.private=[],['head']"]))
    assert [each.cell.setting["strategy.private"] for each in lists.cells] == [[], ["head"]]
    assert plan_of("seed=4", "rounds=3").rounds == 6


def test_one_seed_is_a_note() -> None:
    assert any("one seed" in note for note in plan_of(seeds=1).notes)


def test_what_is_made_of_words_reads_as_the_same_study(tmp_path: Path) -> None:
    asked = read_study(
        BASE, ["strategy.name=fedavg,local", "seed=0:2", f"{ALPHA}=0.5,2", "strategy.clients_per_round=2"]
    )
    write_inputs(make_plan(asked), tmp_path)
    again = read_study(tmp_path)
    assert [*make_plan(again).runs()] == [*make_plan(asked).runs()]
    assert [each.config for each in make_plan(again).cells] == [each.config for each in make_plan(asked).cells]


def test_what_python_has_reads_as_the_same_study(tmp_path: Path) -> None:
    variants = [{"strategy": {"name": "fedavg", "clients_per_round": None}}, METHODS[1]]
    more = {"set": {LR: np.float64(0.1)}, "grid": {ALPHA: np.array([0.5, 1.0])}, "seeds": range(2)}
    plan = plan_of(config={**BASE, "stop": None}, variants=variants, **more)
    assert plan.seeds == (0, 1)
    opened(plan, tmp_path)
    again = make_plan(read_study(tmp_path))
    assert [each.cell for each in again.cells] == [each.cell for each in plan.cells]
    assert opened(again, tmp_path).runs == (*plan.runs(),)


def test_a_config_within_a_studys_file_names_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "split.csv").write_text("sample,client\n")
    base = {**BASE, "data": {**BASE["data"], "partition": {"name": "file", "path": "split.csv"}}}
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(study_of(config=base)))
    monkeypatch.chdir("/")
    partition = read_study(tmp_path / "tiny.toml").base["data"]["partition"]
    assert partition["path"] == str(tmp_path / "split.csv")


@pytest.mark.parametrize("value", [True, 1, 0.1, 1e-05, 'a "b" \\ c\n', [1, [2.5]], {"name": "adam", "lr": 0.1}])
def test_values_travel_as_toml(value: Any) -> None:
    assert tomllib.loads(f"value = {as_toml(value)}")["value"] == value


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_can_be_planned(name: str) -> None:
    plan = make_plan(read_study(name))
    assert plan.asked.file.name == name
    assert plan.asked.file.question


# What is wrong.


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"set": 5}, "set = 5: should be a table"),
        ({"set": {LR: object()}}, f"set.{LR} = <object object at"),
        ({"config": {**BASE, "rounds": object()}}, "config.rounds = <object object at"),
        ({"variant": []}, "variant is not a key here: did you mean 'variants'"),
        ({"seeds": [1, 1]}, "seeds = [1, 1]: has a seed twice"),
        ({"seeds": []}, "seeds = []: give a number"),
        ({"set": {"rouns": 2}}, "fedavg: rouns is not a key here: did you mean 'rounds'"),
        ({"set": {"seed": 2}}, "set.seed: seeds = 5 gives the seeds"),
        ({"grid": {ALPHA: 0.1}}, f"grid.{ALPHA} = 0.1: give a list"),
        ({"grid": {ALPHA: [0.1, 0.1]}}, "has 0.1 twice"),
        ({"grid": {ALPHA: [0.1, -1]}}, "fedavg alpha=-1: data.partition.alpha = -1"),
        ({"grid": {"strategy.name": ["fedavg", "local"]}}, "methods are variants"),
        ({"variants": [*METHODS, METHODS[0]]}, "variants[0] and variants[2] are both 'fedavg': give them names"),
        ({"variants": [{"strategy.name": "fedagv"}]}, "did you mean 'fedavg'"),
        ({"variants": [{ALPHA: 1.0}], "grid": {ALPHA: [0.1, 1.0]}}, "give it in one place"),
        ({"variants": [{"space": {LR: [0.1]}}]}, "nothing says how to search it: add [search]"),
        ({"search": {"by": "random", "space": {LR: [0.1, 0.2]}}}, "search.budget is missing"),
        ({"search": {**RANDOM, "space": {}}}, "there is nothing to choose"),
        ({"search": {**RANDOM, "space": {LR: 0.1}}}, "give a list, or a range"),
        ({"search": {**RANDOM, "space": {LR: {"low": 0.1, "high": 0.01}}}}, "should be smaller than high"),
        ({"search": {**RANDOM, "space": {LR: {"low": 0.0, "high": 0.1, "log": True}}}}, "begins above 0"),
        ({"search": {**RANDOM, "space": {"strategy.lam": [1.0]}}}, "strategy.lam is not a key here"),
        ({"search": {**RANDOM, "score": "global/clients"}}, "search.score = 'global/clients'"),
        ({"search": {**RANDOM, "metric": "auc"}}, "fedavg is not scored by it: known: accuracy, loss; or add it"),
        ({"search": {**RANDOM, "metric": "accuracy/2"}}, "accuracy is one number of all classes together"),
        ({"search": {**RANDOM, "by": "grid"}}, "a grid needs a list, or a range with a step"),
        ({"search": {**RANDOM, "by": "grid", "space": {LR: [1, 2, 3, 4]}}}, "has 4 points"),
        ({"search": RANDOM, "set": {SHARE: 0.0}}, "fedavg: a search chooses by validation samples"),
        ({"search": {**RANDOM, "pruner": "MedianPruner"}}, "search.pruner: only by = 'optuna' has one"),
    ],
)
def test_what_is_wrong_is_one_sentence(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(**more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rounds"], "'rounds' is no override"),
        (["seed=5:0"], "seed=5:0: give seeds as 0:5"),
        (["seed=a"], "seed=a: give seeds as 0:5"),
        (["strategy.name=fedavg,local"], "the study's file lists its methods itself"),
    ],
)
def test_what_is_wrong_with_words(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(*words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("word", "more", "place"),
    [
        ("strategy.name=fedprox", {}, "variants[0].strategy.name"),
        (f"{LR}=0.5", {"variants": [{"name": "a"}, {"strategy": {"lr": 0.1}}]}, f"variants[1].{LR}"),
        (f"{LR}=0.5", {"variants": [{"name": "a", "grid": {LR: [0.1, 0.2]}}]}, f"variants[0].grid.{LR}"),
        (f"{LR}=0.5", {"search": RANDOM}, f"search.space.{LR}"),
        (f"{LR}=0.5", {"variants": [{"name": "a", "space": RANDOM["space"]}]}, f"variants[0].space.{LR}"),
    ],
)
def test_a_word_that_not_all_runs_would_follow_is_refused(word: str, more: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(word, **more)
    assert str(error.value) == (
        f"{word}: it would not be for all runs, as the study's file gives {place}; change it there"
    )


@pytest.mark.parametrize("more", [{"variants": 5}, {"variants": [5]}, {"search": 5}, {"search": {"space": 5}}])
def test_words_beside_what_is_no_table_are_one_sentence(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(more))):
        plan_of("rounds=3", **more)


@pytest.mark.parametrize("more", [{"set": 5}, {"set": [1]}, {"grid": [1]}])
def test_words_change_tables_alone(more: dict[str, Any]) -> None:
    ((key, value),) = more.items()
    with pytest.raises(ConfigError) as error:
        plan_of("rounds=3", **more)
    assert str(error.value) == f"{key} = {value}: should be a table"


def test_what_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'first-study'"):
        read_study("fist-study")
    with pytest.raises(ConfigError, match="so it is no study"):
        read_study(tmp_path)


# Spaces and trials.


def test_a_range() -> None:
    assert Range(low=1, high=3).numbers() == (1, 2, 3)
    assert Range(low=0.1, high=0.5, step=0.2).numbers() == (0.1, 0.3, 0.5)
    assert Range(low=100.0, high=100.2, step=0.05).numbers() == (100.0, 100.05, 100.1, 100.15, 100.2)
    stepped = Range(low=0.0, high=1.0, step=0.4)
    assert [stepped.edge(value) for value in (0.0, 0.4, 0.8)] == ["smallest", None, "largest"]
    wide = Range(low=1e-3, high=1.0, log=True)
    drawn = [wide.draw(np.random.default_rng(seed)) for seed in range(200)]
    assert min(drawn) >= 1e-3
    assert max(drawn) <= 1.0
    assert 60 <= sum(value < 1e-3**0.5 for value in drawn) <= 140  # as many below the geometric mean as above
    assert [wide.edge(value) for value in (1e-3, 0.03, 0.99)] == ["smallest", None, "largest"]


def test_a_range_of_very_many_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Range(low=1, high=1000, log=True, step=3)
    listed = few.numbers()
    assert listed is not None
    for seed in range(200):
        value = math.exp(math.log(1000) * float(np.random.default_rng(seed).random()))
        assert few.draw(np.random.default_rng(seed)) == min(listed, key=lambda number: abs(number - value))
    monkeypatch.setattr(Range, "numbers", lambda _: pytest.fail("they are listed"))
    for log in (False, True):
        wide = Range(low=1, high=10**12, log=log)
        assert 1 <= wide.draw(np.random.default_rng(0)) <= 10**12
        assert size({"a": wide}) == 10**12
        assert len(draws({"a": wide}, 5, 0)) == 5
    with pytest.raises(ConfigError, match=r"has 1000000000000 points"):
        plan_of(search={"by": "grid", "budget": 3, "space": {"strategy.batch_size": {"low": 1, "high": 10**12}}})


def test_draws_are_different_and_the_same_again() -> None:
    space = read_space({"a": [1, 2], "b": {"low": 1, "high": 4}}, "space")
    assert size(space) == 8
    assert draws(space, 5, 7) == draws(space, 5, 7)
    assert len({tuple(each.items()) for each in draws(space, 5, 7)}) == 5
    assert draws(space, 100, 7) == points(space, "space")


def test_a_narrow_range_has_as_many_numbers_as_are_asked_for() -> None:
    narrow = draws({"a": Range(low=0.999, high=0.9999)}, 30, 0)
    values = [each["a"] for each in narrow]
    assert len(set(values)) == 30
    assert all(0.999 <= value <= 0.9999 for value in values)
    of_four = [value for value in values if value == float(f"{value:.4g}")]
    assert values[: len(of_four)] == of_four, "as few digits as there are numbers"
    assert draws({"a": Range(low=0.999, high=0.9999)}, 3, 0) == narrow[:3]


def test_each_method_has_as_many_trials_or_a_note_says_so() -> None:
    plan = plan_of(search=RANDOM)
    assert [len(each.trials) for each in plan.cells] == [3, 3]
    assert [run.folder for run in plan.runs()][:3] == [f"search/fedavg/{number}" for number in range(3)]
    assert not any("trials" in note for note in plan.notes)
    more = [{"strategy.name": "fedprox", "space": {"strategy.mu": [0.1, 1.0]}}, *METHODS]
    notes = plan_of(variants=more, search={"by": "grid", "space": {LR: [0.1, 0.2]}}).notes
    assert "Not all methods have as many trials: fedprox 4, fedavg 2, local 2. More trials are an advantage." in notes


def test_trials_are_compared_by_what_tables_show() -> None:
    assert getattr(plan_of(search=RANDOM).search, "metric", None) == "accuracy"
    plan = plan_of(search=RANDOM, set={"evaluate.metrics": ["auc", "ece"]})
    assert plan.record()["metric"] == "auc"


def test_a_method_with_nothing_to_tune_runs_as_it_is() -> None:
    variants = [{"strategy.name": "fedavg", "space": {LR: [0.1, 0.2]}}, {"strategy.name": "local"}]
    plan = plan_of(variants=variants, search={"by": "grid"})
    assert [len(each.trials) for each in plan.cells] == [2, 0]
    assert "local has nothing to tune, and runs as it is." in plan.notes


# A study that goes on.


def opened(plan: Plan, folder: Path) -> Study:
    record = open_record(plan, folder, ("fedtl",))
    write_inputs(plan, folder)
    record.save()
    return record


def test_a_method_that_is_added_does_not_take_anothers_folder(tmp_path: Path) -> None:
    first, second = ({"name": name, "strategy.name": "fedavg"} for name in ("a b", "a-b"))
    before = opened(plan_of(variants=[first]), tmp_path)
    assert opened(plan_of(variants=[first, second]), tmp_path).runs[0] == before.runs[0]
    with pytest.raises(ConfigError) as error:
        opened(plan_of(variants=[second, first]), tmp_path)
    assert f"a-b: in the study in {tmp_path} its folder runs/a-b-0 is that of 'a b'" in str(error.value)


def test_methods_values_and_seeds_may_be_added(tmp_path: Path) -> None:
    opened(plan_of(grid={ALPHA: [0.5]}), tmp_path)
    more = [*METHODS, {"strategy.name": "fedbabu"}]
    record = opened(plan_of(grid={ALPHA: [0.5, 1.0]}, seeds=3, variants=more), tmp_path)
    assert len(record.runs) == 3 * 2 * 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"config": {**BASE, "rounds": 3}}, "config: the study in"),
        ({"set": {"rounds": 5}}, "fedavg: rounds = 5, and in the study in"),
        ({"variants": METHODS[:1]}, "has 'local', and this one has not"),
        ({"seeds": [1, 2]}, "has the seed 0"),
        ({"search": {**RANDOM, "budget": 4}}, "search.budget = 4"),
        ({"search": {**RANDOM, "space": {LR: [0.1, 0.2, 0.3]}}}, "fedavg: the study in"),
        ({"search": RANDOM, "seeds": [2, 0, 1]}, "trials are made with the first"),
    ],
)
def test_nothing_else_may_differ(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    opened(plan_of(search=RANDOM), tmp_path)
    with pytest.raises(ConfigError) as error:
        opened(plan_of(**{"search": RANDOM, **more}), tmp_path)
    assert message in str(error.value)
