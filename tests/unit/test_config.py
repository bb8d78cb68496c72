from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedtl.choice import ConfigError
from fedtl.config.overrides import override
from fedtl.config.read import build, load_tables, read_config, shipped_configs
from fedtl.config.schema import Config, Tables
from fedtl.losses.terms.classification import L2, CrossEntropy
from fedtl.strategies import STRATEGIES, strategy_type
from tests.parts import METHODS, strategy_of


def tables(**changes: Any) -> Tables:
    defaults: Tables = {
        "name": "t",
        "rounds": 2,
        "data": {"name": "digits", "clients": 10, "partition": {"name": "iid"}},
        "model": {"name": "logistic"},
        "strategy": {"name": "fedavg", "lr": 0.1},
    }
    return defaults | changes


# Sources.


def test_reads_a_config_that_ships() -> None:
    config, notes = read_config("quickstart")
    assert (config.name, config.strategy.name, notes) == ("quickstart", "pfedme", [])


def test_reads_a_file_a_run_folder_and_tables_alike(tmp_path: Path) -> None:
    config, _ = read_config(tables())
    file, folder = tmp_path / "mine.toml", tmp_path / "run"
    folder.mkdir()
    for path in (file, folder / "config.toml"):
        path.write_text(config.toml(), encoding="utf-8")
    for source in (file, str(file), folder, str(folder), config):
        assert read_config(source)[0] == config


def test_tables_are_left_as_they_were() -> None:
    source = tables()
    read_config(
        source, ["data.partition.name=dirichlet", "data.partition.alpha=1", "strategy.lr=none", "strategy.lr=1"]
    )
    assert source == tables()


def test_a_folder_that_is_no_run_does_not_hide_a_config_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_config("quickstart")[0].name == "quickstart"


# Overrides.


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("strategy.lr=0.25", ("strategy", "lr"), 0.25),
        ("strategy.lr=1e-3", ("strategy", "lr"), 1e-3),
        ("strategy.weighting=uniform", ("strategy", "weighting"), "uniform"),
        ("strategy.weighting='uniform'", ("strategy", "weighting"), "uniform"),
        (" strategy.weighting = uniform ", ("strategy", "weighting"), "uniform"),
        ("data.normalise=none", ("data", "normalise"), "none"),
        ("simulation.stacked=true", ("simulation", "stacked"), True),
        ("simulation.address=ray://a:1", ("simulation", "address"), "ray://a:1"),
        ("evaluate.clients=5", ("evaluate", "clients"), 5),
        ("name=a-b.c_d", ("name",), "a-b.c_d"),
    ],
)
def test_override(text: str, path: Sequence[str], value: object) -> None:
    setting: Any = read_config(tables(), [text])[0]
    for part in path:
        setting = getattr(setting, part)
    assert setting == value
    assert type(setting) is type(value)


def test_override_with_a_list_and_a_table() -> None:
    config, _ = read_config(
        tables(), ["model.name=mlp", "model.hidden=[8, 4]", 'data.partition={name = "dirichlet", alpha = 1}']
    )
    assert config.model.model_dump()["hidden"] == (8, 4)
    assert config.data.partition.model_dump()["alpha"] == 1


def test_none_removes_a_key() -> None:
    source = tables(strategy={"name": "fedavg", "lr": 0.1, "local_steps": 3, "clients_per_round": 4})
    config, _ = read_config(
        source, ["strategy.local_steps=none", "strategy.clients_per_round=none", "strategy.batch_size=none"]
    )
    assert (config.strategy.local_steps, config.strategy.local_epochs) == (None, 1)
    assert (config.strategy.clients_per_round, config.strategy.batch_size) == (None, 20)


def test_a_word_none_that_an_option_takes_is_its_value() -> None:
    """Whatever the order in which it and the method's name are given."""
    for overrides in (["strategy.name=per-fedavg", "strategy.hessian=none"], ["strategy.hessian='none'"]):
        for given in (overrides, [*reversed(overrides)]):
            source = tables(strategy={"name": "per-fedavg" if len(given) == 1 else "fedavg", "lr": 0.1})
            assert read_config(source, given)[0].strategy.model_dump()["hessian"] == "none"
    server = {"name": "adam", "bias_correction": "keras"}
    source = tables(strategy={"name": "fedavg", "lr": 0.1, "server": server})
    corrected = read_config(source, ["strategy.server.bias_correction=none"])[0].strategy.model_dump()["server"]
    assert corrected["bias_correction"] == "none"


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_no_method_loses_an_option_that_is_none(name: str) -> None:
    for option, field in strategy_type(name).settings_type.model_fields.items():
        if '"none"' in str(field.annotation).replace("'", '"') or field.default == "none":
            changed = {"strategy": {"name": name}}
            override(changed, [f"strategy.{option}=none"])
            assert changed["strategy"] == {"name": name, option: "none"}


def test_a_key_of_the_file_may_be_removed_where_the_method_changes() -> None:
    source = tables(strategy={"name": "fedrep", "lr": 0.1, "head_epochs": 3})
    assert read_config(source, ["strategy.name=fedavg", "strategy.head_epochs=none"])[0].strategy.name == "fedavg"
    with pytest.raises(ConfigError, match=r"strategy\.head_epochs is not a key here"):
        read_config(tables(), ["strategy.head_epochs=none"])


def test_a_partition_given_by_its_bare_name_can_be_overridden() -> None:
    source = tables(data={"name": "digits", "clients": 10, "partition": "iid"})
    for overrides in (
        ["data.partition.name=dirichlet", "data.partition.alpha=2"],
        ["data.partition=dirichlet", "data.partition.alpha=2"],
    ):
        partition = read_config(source, overrides)[0].data.partition.model_dump()
        assert (partition["name"], partition["alpha"]) == ("dirichlet", 2)


# Another choice drops the old one's own keys.


@pytest.mark.parametrize(
    ("section", "old", "new", "dropped", "kept"),
    [
        ("strategy", {"name": "pfedme", **METHODS["pfedme"]}, "fedavg", ["lam", "inner_steps", "inner_lr"], ["lr"]),
        ("model", {"name": "mlp", "hidden": [4]}, "logistic", ["hidden"], []),
        ("data", {"name": "synthetic", "clients": 10, "alpha": 0.5, "beta": 0.5}, "digits", ["alpha"], ["clients"]),
        ("data.partition", {"name": "pathological", "classes_per_client": 2}, "iid", ["classes_per_client"], []),
    ],
)
def test_another_name_drops_the_old_ones_own_keys(
    section: str, old: Mapping[str, Any], new: str, dropped: list[str], kept: list[str]
) -> None:
    source = tables()
    at = source["data"] if section == "data.partition" else source
    at[section.rpartition(".")[2]] = dict(old)
    config, notes = read_config(source, [f"{section}.name={new}"])
    assert len(notes) == 1
    assert notes[0].startswith(f"{section}.name={new}: dropped ")
    assert notes[0].endswith(f" of {old['name']}")
    assert "\n" not in notes[0]
    settings: Any = config
    for part in section.split("."):
        settings = getattr(settings, part)
    assert settings.name == new
    for key in dropped:
        assert key in notes[0]
        assert key not in type(settings).model_fields
    for key in kept:
        assert key not in notes[0].replace("inner_lr", "")
        assert getattr(settings, key) == old[key]


def test_the_same_name_drops_nothing() -> None:
    assert read_config("quickstart", ["strategy.name=pfedme"]) == read_config("quickstart")


def test_what_an_override_gives_itself_is_not_dropped_in_silence() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.lam is not a key here: it is an option of \w+, .*; known: "):
        read_config(QUICK, ["strategy.name=fedavg", "strategy.lam=3"])
    # server_lr, which SCAFFOLD has, is near, and no answer to who wants a server's optimiser.
    with pytest.raises(ConfigError, match=r"strategy\.server is not a key here: it is an option of \w+, .*; known: "):
        read_config(tables(strategy={"name": "scaffold", "lr": 0.1, "local_epochs": 1, "server": "momentum"}))
    hint = r'others; here the optimiser has it, as strategy\.optimizer = { name = "sgd", momentum = 0\.9 }; known: '
    with pytest.raises(ConfigError, match=hint):
        read_config(QUICK, ["strategy.name=fedprox", "strategy.mu=0.1", "strategy.momentum=0.9"])
    with pytest.raises(ConfigError, match=r"strategy\.nobody is not a key here: known: "):
        read_config(QUICK, ["strategy.name=fedavg", "strategy.nobody=3"])


# What is asked for and not used.


@pytest.mark.parametrize("where", ["tables", "override"])
def test_a_note_where_no_client_has_a_model_of_its_own(where: str) -> None:
    note = "evaluate.personal has no effect: fedavg gives clients no model of their own"
    if where == "tables":
        result = read_config(tables(evaluate={"personal": "adapted"}))
    else:
        result = read_config(tables(), ["evaluate.personal=stored"])
    assert result[1] == [note]
    assert read_config(tables(evaluate={"every": 2}))[1] == []
    assert read_config("quickstart", ["evaluate.personal=stored"])[1] == []


def test_a_note_where_there_are_no_actors() -> None:
    result = read_config(tables(simulation={"grid": "in-process", "actors": 2}), ["simulation.num_cpus=1"])
    assert result[1] == ["simulation.actors, simulation.num_cpus have no effect: the grid is 'in-process'"]
    assert read_config(tables(simulation={"grid": "in-process"}))[1] == []
    assert read_config(tables(simulation={"grid": "ray", "actors": 2}))[1] == []
    result = read_config(tables(), ["simulation.grid=in-process", "simulation.address=auto"])
    assert result[1] == ["simulation.address has no effect: the grid is 'in-process'"]
    result = read_config(tables(simulation={"grid": "flower", "actors": 2, "num_cpus": 1}))
    assert result[1] == ["simulation.actors has no effect: the grid is 'flower'"]


def test_a_resolved_config_asks_only_for_what_is_no_default(tmp_path: Path) -> None:
    config, _ = read_config(tables(), ["simulation.grid=in-process"])
    (tmp_path / "config.toml").write_text(config.toml(), encoding="utf-8")
    for source in (config, tmp_path):
        assert read_config(source)[1] == []
        assert len(read_config(source, ["evaluate.personal=adapted"])[1]) == 1
    last, _ = read_config("quickstart", ["evaluate.personal=stored"])
    assert len(read_config(last, ["strategy.name=fedavg"])[1]) == 2


# There and back.

# A method that sends no model, and configs that need one.
NEED_A_MODEL = ("distill-global", "mnist-usps-adda", "moon", "replay", "usps-mnist-adda")
NOT_TOGETHER = {(f"transfer/{name}", "local") for name in NEED_A_MODEL}
# Methods that leave a part of the model at clients, and configs that need the whole one or keep a model beside it.
NEED_THE_WHOLE = ("fml", "mnist-usps-adda", "replay", "usps-mnist-adda")
IN_PARTS = [method for method in METHODS if strategy_type(method).settings_type.model_fields["private"].default]
NOT_TOGETHER |= {(f"transfer/{name}", method) for name in NEED_THE_WHOLE for method in IN_PARTS}
# One that has all samples in one place, and clients with models of their own; a term twice; and no labels.
NOT_TOGETHER |= {("transfer/fml", "central"), ("transfer/fml", "fedcp")}
NOT_TOGETHER |= {("transfer/moon", "moon"), ("transfer/fedproto", "fedpac")}
UNLABELLED = ("transfer/barlow-twins", "transfer/invariant-spreading")
NOT_TOGETHER |= {(name, method) for name in UNLABELLED for method in ("fedlc", "fedntd", "fedpac", "gpfl")}
# A contrast between models that are, or represent samples as, one and the same.
NOT_TOGETHER |= {("transfer/moon", "central"), ("transfer/moon", "lg-fedavg")}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", shipped_configs())
def test_a_resolved_config_reads_as_an_equal_one(name: str, method: str) -> None:
    overrides = strategy_of(method)
    if (name, method) in NOT_TOGETHER:
        with pytest.raises(ConfigError, match=method):
            read_config(name, overrides)
        return
    config, _ = read_config(name, overrides)
    assert build(config.tables()) == config
    assert build(tomllib.loads(config.toml())) == config


def test_a_config_with_everything_reads_as_an_equal_one() -> None:
    config, _ = read_config(
        tables(
            objective=[{"term": "cross_entropy", "label_smoothing": 0.1}, {"term": "l2", "weight": 0.5}],
            simulation={"grid": "ray", "actors": 2, "num_gpus": 0.5, "stacked": False, "address": "auto"},
            evaluate={"every": 3, "clients": 4},
            device="cpu",
            max_failures=0.0,
        )
    )
    assert build(config.tables()) == config
    assert build(tomllib.loads(config.toml())) == config


def test_objective() -> None:
    assert [type(term) for term in read_config(tables())[0].objective] == [CrossEntropy]
    config, _ = read_config(tables(objective=[{"term": "cross_entropy"}, {"term": "l2", "weight": 0.5}]))
    assert config.objective == (CrossEntropy(term="cross_entropy"), L2(term="l2", weight=0.5))


# Errors.

QUICK: Tables = {
    "name": "quick",
    "seed": 0,
    "rounds": 2,
    "data": {"name": "digits", "clients": 20, "partition": {"name": "pathological", "classes_per_client": 2}},
    "model": {"name": "mlp", "hidden": [64]},
    "strategy": {"name": "pfedme", "clients_per_round": 10, "local_steps": 10, **METHODS["pfedme"]},
}


@pytest.mark.parametrize(
    ("overrides", "phrases"),
    [
        (["sead=1"], ["sead", "did you mean 'seed'?"]),
        (["strategy.lrr=1"], ["strategy.lrr", "did you mean 'lr'?"]),
        (["simulation.actor=2"], ["simulation.actor", "did you mean 'actors'?"]),
        (["evaluate.evry=2"], ["evaluate.evry", "did you mean 'every'?"]),
        (["model.hiden=[3]"], ["model.hiden", "did you mean 'hidden'?"]),
        (["data.client=2"], ["data.client", "did you mean 'clients'?"]),
        (["data.partition.clases_per_client=1"], ["data.partition.clases_per_client", "'classes_per_client'?"]),
        (["strategy.local_step=none"], ["strategy.local_step", "did you mean 'local_steps'?"]),
        (["zzz=none"], ["zzz"]),
        (["strategy.name=pfedmee"], ["strategy.name", "'pfedmee'", "did you mean 'pfedme'?"]),
        (["strategy.name=zzz"], ["strategy.name", "'zzz'", "fedavg"]),
        (["strategy.name=none"], ["strategy.name", "'none'", "fedavg"]),
        (["data.partition.name=dirichlett"], ["data.partition.name", "'dirichlett'", "did you mean 'dirichlet'?"]),
        (["data.partition=dirichlett"], ["data.partition.name", "'dirichlett'", "did you mean 'dirichlet'?"]),
        (["data.name=mnst"], ["data.name", "'mnst'", "did you mean 'mnist'?"]),
        (["model.name=mlpp"], ["model.name", "'mlpp'", "did you mean 'mlp'?"]),
        (["objective=[{term='cross_entropi'}]"], ["objective[0].term", "'cross_entropi'", "'cross_entropy'?"]),
        (["objective=[{term='l2', wieght=1}]"], ["objective[0].wieght", "did you mean 'weight'?"]),
        (["objective=[{weight=1}]"], ["objective[0].term", "cross_entropy"]),
        (["objective=[{term='l2', weight=-1}]"], ["objective[0].weight", "-1", "greater than or equal to 0"]),
        (["objective=[{term='l2'}, {term='l2'}]"], ["objective", "'l2'", "twice"]),
        (["objective=l2"], ["objective", "list of tables"]),
        (["strategy.lr=-1"], ["strategy.lr", "-1", "greater than 0"]),
        (["strategy.lr=nan"], ["strategy.lr", "nan", "finite"]),
        (["strategy.lr=inf"], ["strategy.lr", "inf", "finite"]),
        (["strategy.lr=fast"], ["strategy.lr", "'fast'", "number"]),
        (["strategy.lr="], ["strategy.lr", "''", "number"]),
        (["rounds=many"], ["rounds", "'many'", "integer"]),
        (["rounds=0"], ["rounds", "0", "greater than 0"]),
        (["rounds=1.5"], ["rounds", "1.5", "integer"]),
        (["rounds=none"], ["rounds is missing"]),
        (["seed=-1"], ["seed", "-1", "greater than or equal to 0"]),
        (["max_failures=2"], ["max_failures", "2", "less than or equal to 1"]),
        (["device=gpu"], ["device", "'gpu'", "'auto', 'cpu' or 'cuda'"]),
        (["name=a/b"], ["name", "'a/b'", "folder"]),
        (["name=.."], ["name", "'..'", "folder"]),
        (["model.hidden=64"], ["model.hidden", "64", "list"]),
        (["model.hidden=[64, -1]"], ["model.hidden.1", "-1", "greater than 0"]),
        (["simulation.actors=x"], ["simulation.actors = 'x'", "integer", "or 'auto'"]),
        (["simulation.actors=0"], ["simulation.actors = 0", "greater than 0, or 'auto'"]),
        (["simulation.num_gpus=-1"], ["simulation.num_gpus = -1", "or 'auto'"]),
        (["simulation.num_gpus=nan"], ["simulation.num_gpus = nan", "finite", "or 'auto'"]),
        (["simulation.stacked=perhaps"], ["simulation.stacked = 'perhaps'", "boolean", "or 'auto'"]),
        (["simulation.grid=rey"], ["simulation.grid", "'rey'", "'ray'"]),
        (["deploy.wait=0"], ["deploy.wait = 0", "greater than 0"]),
        (["deploy.wait=soon"], ["deploy.wait", "'soon'", "number"]),
        (["deploy.round_timeout=-1"], ["deploy.round_timeout = -1", "greater than 0"]),
        (["deploy.round_timeout=inf"], ["deploy.round_timeout", "inf", "finite"]),
        (["deploy.min_clients=0"], ["deploy.min_clients = 0", "greater than 0"]),
        (["deploy.min_clients=1.5"], ["deploy.min_clients", "1.5", "integer"]),
        (["deploy.max_norm=nan"], ["deploy.max_norm", "nan", "finite"]),
        (["deploy.min_client=1"], ["deploy.min_client", "did you mean 'min_clients'?"]),
        (["deploy.privacy.epsilon=1"], ["deploy.privacy.clipping_norm is missing"]),
        (["evaluate=3"], ["evaluate = 3", "table"]),
        (["strategy=pfedme"], ["strategy = 'pfedme'", "[strategy] name"]),
        (["data.partition=3"], ["data.partition = 3", "[data.partition] name"]),
        (["data.clients=none"], ["clients is missing", "'pathological'"]),
        (["strategy.local_epochs=1"], ["strategy", "local_epochs = 1", "local_steps = 10", "remove one"]),
        (["strategy.clients_per_round=21"], ["strategy.clients_per_round = 21", "data.clients = 20"]),
        (
            ["strategy.name=fedavg-finetune", "evaluate.personal=stored"],
            ["evaluate.personal = 'stored'", "use 'adapted'"],
        ),
        (
            ["strategy.name=fedrod", "evaluate.personal=stored"],
            ["evaluate.personal = 'stored'", "fedrod always makes a client's own model of the present global one"],
        ),
        (["strategy.lr"], ["'strategy.lr'", "write key=value"]),
        (["=1"], ["'=1'", "write key=value"]),
        ([" = 1"], ["' = 1'", "write key=value"]),
        (["a..b=1"], ["'a..b=1'", "write key=value"]),
        (["seed.x=1"], ["seed.x=1", "seed = 0", "no table"]),
        (["model.hidden.0=1"], ["model.hidden.0=1", "model.hidden is a list"]),
        (["strategy.name=no.such:Thing"], ["strategy.name", "'no.such:Thing'", "no such module"]),
        (["strategy.name=fedtl.config.schema:Thing"], ["strategy.name", "'fedtl.config.schema'", "has no 'Thing'"]),
        (
            ["strategy.name=fedtl.config.schema:Config"],
            ["strategy.name", "'fedtl.config.schema:Config'", "no subclass of"],
        ),
        (["strategy.name=:x"], ["strategy.name", "':x'", "'package.module:Class'"]),
        (["strategy.name=x:"], ["strategy.name", "'x:'", "'package.module:Class'"]),
        (["data.name=fedtl.config.schema:Config"], ["data.name", "'fedtl.config.schema:Config'", "subclass of"]),
        (
            ["data.partition.name=fedtl.config.schema:Config"],
            ["data.partition.name", "'fedtl.config.schema:Config'", "subclass of"],
        ),
        (["model.name=fedtl.config.schema:Config"], ["model.name", "'fedtl.config.schema:Config'", "torch.nn.Module"]),
        (
            ["objective=[{term='fedtl.config.schema:Config'}]"],
            ["objective[0].term", "'fedtl.config.schema:Config'", "subclass of"],
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_an_error_is_one_line_that_says_what_would_be_right(overrides: list[str], phrases: list[str]) -> None:
    complains(phrases, QUICK, overrides)


@pytest.mark.parametrize(
    ("source", "phrases"),
    [
        ({}, ["[data] is missing", "data.name"]),
        ({k: v for k, v in tables().items() if k != "data"}, ["[data] is missing", "data.name"]),
        ({k: v for k, v in tables().items() if k != "name"}, ["name is missing"]),
        (tables(strategy={"lr": 0.1}), ["strategy.name", "fedavg"]),
        (tables(strategy={"name": "fedavg"}), ["strategy.lr is missing"]),
        (tables(strategy={"name": "fedavg", "lr": math.nan}), ["strategy.lr", "nan", "finite"]),
        (tables(max_failures=math.nan), ["max_failures", "nan"]),
        (tables(objective=["l2"]), ["objective", "list of tables"]),
        (tables(objectives=[]), ["objectives", "did you mean 'objective'?"]),
    ],
)
def test_an_error_in_tables(source: Tables, phrases: list[str]) -> None:
    complains(phrases, source)


def test_a_key_of_an_inner_partition(tmp_path: Path) -> None:
    inner = {"name": "noisy", "sigma": 0.1, "base": {"name": "dirichlet", "alpa": 1}}
    complains(
        ["data.partition.base.alpa", "'alpha'?"], tables(data={"name": "digits", "clients": 3, "partition": inner})
    )


def test_errors_of_files(tmp_path: Path) -> None:
    complains(["'quickstrat'", "did you mean 'quickstart'?"], "quickstrat")
    complains(["nowhere.toml", "neither a file"], tmp_path / "nowhere.toml")
    complains([str(tmp_path), "no run"], tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("rounds = = 2\n", encoding="utf-8")
    complains([str(broken), "is not TOML", "line 1"], broken)
    broken.write_bytes(b"name = '\xff'\n")
    complains([str(broken), "is not TOML"], broken)


def test_an_import_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_method_of_mine.py").write_text("raise RuntimeError('one\\ntwo')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    complains(["strategy.name", "RuntimeError: one two"], QUICK, ["strategy.name=broken_method_of_mine:Method"])
    (tmp_path / "needy_method_of_mine.py").write_text("import no_such_package\n", encoding="utf-8")
    complains(["strategy.name", "'no_such_package'"], QUICK, ["strategy.name=needy_method_of_mine:Method"])


def complains(phrases: Sequence[str], source: str | Path | Tables | Config, overrides: Sequence[str] = ()) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(source, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for words in phrases:
        assert words in message


def test_load_tables_reads_plain_toml() -> None:
    assert load_tables("quickstart")["strategy"]["name"] == "pfedme"


# Real clients.

PRIVACY = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5}
LOOKS = {"partition": {"name": "iid"}, "target": {"name": "digits", "transform": {"invert": True}}}


def test_how_real_clients_are_dealt_with() -> None:
    config, notes = read_config(tables(), ["deploy.min_clients=2", "deploy.wait=9.5"])
    assert (config.deploy.min_clients, config.deploy.wait, config.deploy.privacy, notes) == (2, 9.5, None, [])
    assert read_config(tables())[0].deploy.min_clients is None
    config = build(tables(deploy={"privacy": PRIVACY}))
    assert config.deploy.privacy is not None
    assert config.deploy.privacy.model_dump() == PRIVACY
    assert build(tomllib.loads(config.toml())) == config


def test_privacy_goes_with_methods_that_upload_one_model() -> None:
    for method in ("fedavg", "fedprox", "pfedme", "fedavg-finetune"):
        build(tables(strategy={"name": method, **METHODS[method]}, deploy={"privacy": PRIVACY}))


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (
            {"strategy": {"name": "local", "lr": 0.1}},
            "deploy.privacy: local uploads nothing that noise could protect; leave it out",
        ),
        (
            {"objective": [{"term": "cross_entropy"}, {"term": "prototype"}]},
            "asks clients for sums over their samples, which would travel without noise; leave one of them out",
        ),
        (
            {"data": {"name": "digits", "clients": 3, **LOOKS}, "objective": [{"term": "remote_coral"}]},
            "asks clients for sums over their samples, which would travel without noise; leave one of them out",
        ),
        (
            {
                "data": {"name": "digits", "clients": 3, "partition": "iid", "public": {"name": "digits"}},
                "strategy": {"name": "feddf", "lr": 0.1},
            },
            "'ensemble of the clients' asks clients for sums over their samples",
        ),
        (
            {
                "rounds": None,
                "phases": [
                    {"rounds": 1, "objective": [{"term": "cross_entropy"}]},
                    {"rounds": 1, "objective": [{"term": "cross_entropy"}, {"term": "prototype"}]},
                ],
            },
            "asks clients for sums over their samples",
        ),
    ],
    ids=["local", "prototype", "remote_coral", "feddf", "in a later phase"],
)
def test_privacy_of_what_noise_would_not_reach(change: dict[str, Any], phrase: str) -> None:
    source = {key: value for key, value in tables(**change).items() if value is not None}
    build(source)
    complains(["deploy.privacy: ", phrase], {**source, "deploy": {"privacy": PRIVACY}})


def test_privacy_where_messages_have_more_than_one_model() -> None:
    phases = [
        {"rounds": 1, "objective": [{"term": "cross_entropy"}]},
        {"rounds": 1, "objective": [{"term": "adda", "shared": False}]},
    ]
    source = tables(phases=phases, data={"name": "digits", "clients": 3, **LOOKS})
    del source["rounds"]
    build(source)
    phrases = ["deploy.privacy: the term 'adda' needs", "has messages with one model only"]
    complains(phrases, {**source, "deploy": {"privacy": PRIVACY}})


@pytest.mark.parametrize(
    ("key", "value", "phrase"),
    [
        ("clipping_norm", -1.0, "greater than 0"),
        ("sensitivity", 0.0, "greater than 0"),
        ("epsilon", 0.0, "greater than 0"),
        ("delta", 0.0, "greater than 0"),
        ("delta", 1.0, "less than 1"),
    ],
)
def test_a_wrong_number_for_privacy(key: str, value: float, phrase: str) -> None:
    complains([f"deploy.privacy.{key} = {value:g}", phrase], tables(deploy={"privacy": {**PRIVACY, key: value}}))


def test_privacy_without_a_number() -> None:
    for key in PRIVACY.keys() - {"sensitivity"}:
        privacy = {name: value for name, value in PRIVACY.items() if name != key}
        complains([f"deploy.privacy.{key} is missing"], tables(deploy={"privacy": privacy}))
    for key in PRIVACY:
        with pytest.raises(ConfigError):
            build(tables(deploy={"privacy": {**PRIVACY, key: -1.0}}))


@pytest.mark.parametrize(("word", "other"), [("adapted", "fresh"), ("stored", "last")])
def test_personal_models_have_two_names_each(word: str, other: str) -> None:
    one, two = (read_config("quickstart", [f"evaluate.personal={name}"])[0] for name in (word, other))
    assert one == two


@pytest.mark.parametrize(
    ("older", "present"),
    [("simulation.recorded=false", "simulation.traced=false"), ("data.look.invert=true", "data.transform.invert=true")],
)
def test_options_are_read_by_their_older_names(older: str, present: str) -> None:
    assert read_config("quickstart", [older])[0] == read_config("quickstart", [present])[0]
    name, key = (text.partition("=")[0].split(".")[1] for text in (present, older))
    with pytest.raises(ConfigError, match=f"{key}.*is the older name of '{name}', which is there too; leave it out"):
        read_config("quickstart", [older, present])
