"""An option that does nothing under a method, or to a model, says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from safetensors.numpy import load_file
from torch import nn

import fedtl
from fedtl.assemble.driver import Silent
from fedtl.choice import Choice, ConfigError, validate
from fedtl.cli import printing
from fedtl.config.read import build, read_config
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.distill import read_method
from fedtl.experiment import Place, open_run, run_at
from fedtl.export.file import write_safetensors
from fedtl.export.of_run import model_of_run
from fedtl.losses.terms.unlabelled import AdaBN
from fedtl.models import build_model, read_model
from fedtl.models.sharing import freeze
from fedtl.reports.holdings import _known

QUICK = {"grid": "in-process", "stacked": False, "traced": False}
"""How clients train is no matter here."""


def tables(method: str = "fedavg", strategy: dict[str, Any] | None = None, **other: Any) -> dict[str, Any]:
    return {
        "name": "unused",
        "data": {"name": "digits", "clients": 4, "samples": 100},
        "model": {"name": "mlp"},
        "strategy": {"name": method, "lr": 0.1, **(strategy or {})},
        **({} if "phases" in other else {"rounds": 2}),
        **other,
    }


def notes(*args: Any, **other: Any) -> list[str]:
    return read_config(tables(*args, **other))[1]


def test_how_clients_are_drawn_is_no_matter_where_all_take_part() -> None:
    assert notes("fedavg", {"sampling": "samples", "clients_per_round": 2}) == []
    (note,) = notes("fedavg", {"sampling": "samples"})
    assert note.startswith("strategy.sampling has no effect: all clients take part in each round")
    (note,) = notes("central", {"sampling": "samples"})
    assert note == "strategy.sampling has no effect: under central all training samples are in one place"


@pytest.mark.parametrize(
    ("method", "strategy"),
    [
        ("fedavg-finetune", {"local_epochs": 1, "finetune_steps": 5}),
        ("fedbabu", {"local_steps": 1, "finetune_epochs": 5}),
        ("pfedme", {"local_steps": 1, "inner_steps": 5, "inner_lr": 0.1, "lam": 1.0}),
        ("per-fedavg", {"local_steps": 5, "adapt_steps": 5}),
        ("per-fedavg", {"local_steps": 3, "hessian": "none"}),
        ("feddf", {"local_steps": 1, "distill_steps": 5}),
    ],
)
def test_what_no_client_stops_early_says_nothing_of_stragglers(method: str, strategy: dict[str, Any]) -> None:
    data = {"name": "digits", "clients": 4, "samples": 100, "public": {"name": "digits", "samples": 12}}

    def told(own: dict[str, Any]) -> list[str]:
        return [note for note in notes(method, {**own, "stragglers": 0.5}, data=data) if "stragglers" in note]

    assert len(told(strategy)) == 1
    more = {"local_steps": 2 * strategy.get("local_steps", 1)}
    assert told({key: value for key, value in strategy.items() if key != "local_epochs"} | more) == []


def test_what_a_phase_uses_has_an_effect() -> None:
    asked = {"stragglers": 0.5, "sampling": "samples"}
    longer = {"local_steps": 4, "clients_per_round": 2}
    assert len(notes("fedavg", asked, phases=[{"rounds": 1}, {"rounds": 1}])) == 2
    assert notes("fedavg", asked, phases=[{"rounds": 1}, {"rounds": 1, "strategy": longer}]) == []


def test_what_local_training_does_not_use() -> None:
    why = "under local clients upload nothing that could be averaged"
    assert notes("local", {"weighting": "uniform"}) == [f"strategy.weighting has no effect: {why}"]
    assert notes("local", {"weighting": "samples"}) == [f"strategy.weighting has no effect: {why}"]
    assert notes("local") == notes("fedavg", {"weighting": "uniform"}) == []
    assert notes("local", {"private": ["head"]}) == [
        "strategy.private has no effect: under local the whole model stays at the client"
    ]
    phases = [{"rounds": 1}, {"rounds": 1, "restart": True, "strategy": {"weighting": "uniform"}}]
    assert notes("local", phases=phases) == [
        f"phases[1].strategy.weighting has no effect: {why}",
        "phases[1].restart has no effect: under local no global model could begin anew",
    ]
    assert notes("fedavg", phases=phases) == []


def test_python_is_warned_where_the_command_line_prints_a_note(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^strategy\.weighting has no effect: under local") as warned:
        fedtl.run(tables("local", {"weighting": "uniform"}, simulation={"grid": "in-process"}), out=tmp_path / "run")
    assert [warning.filename for warning in warned] == [__file__]


@pytest.mark.parametrize(
    ("method", "strategy", "option", "other"),
    [
        ("fednova", {}, "effective_steps", "steps"),
        ("fedntd", {"beta": 0.0}, "tau", 3.0),
        ("fedntd", {"beta": 0.0, "tau": 2.0}, "scale_t2", False),
        ("fedpac", {"head_steps": 0}, "head_lr", 0.3),
        ("fedsam", {"rho": 0.0}, "adaptive", True),
        ("fedsam", {"rho": 0.0, "adaptive": True}, "eta", 0.5),
        ("gpfl", {"lam": 0.0}, "magnitude", "batch"),
        ("moon", {"mu": 0.0}, "tau", 3.0),
        ("moon", {"mu": 0.0}, "layer", "logits"),
        ("moon", {"mu": 0.0}, "previous", "received"),
        ("per-fedavg", {"alpha": 0.0}, "adapt_steps", 3),
        ("pfedme", {"lam": 1.0, "inner_lr": 0.1, "local_steps": 1}, "inner_start", "w"),
        ("qfedavg", {"q": 0.0}, "lipschitz", 3.0),
        ("scaffold", {}, "corrects", "step"),
    ],
)
def test_what_other_options_leave_without_effect(
    method: str, strategy: dict[str, Any], option: str, other: object, tmp_path: Path
) -> None:
    """And the model is the same with it, up to rounding."""
    told = f"strategy.{option} has no effect: "
    plain, changed = (tables(method, own, simulation=QUICK) for own in (strategy, {**strategy, option: other}))
    assert any(note.startswith(told) for note in read_config(changed)[1])
    assert not any(note.startswith(told) for note in read_config(plain)[1])
    fedtl.run(plain, out=tmp_path / "plain")
    with pytest.warns(UserWarning, match=told):
        fedtl.run(changed, out=tmp_path / "changed")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "changed"))
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, rtol=1e-4, atol=1e-6)


DOMAINS = {
    "name": "digits",
    "clients": 4,
    "samples": 100,
    "target": {"name": "digits", "samples": 80, "transform": {"invert": True}},
    "public": {"name": "digits", "samples": 20},
}


@pytest.mark.parametrize(
    ("term", "option", "other"),
    [
        ({"term": "coral", "ramp": {"shape": "step", "start": 0.5}}, "ramp.end", 0.7),
        ({"term": "coral", "ramp": {"shape": "linear"}}, "ramp.gamma", 3.0),
        ({"term": "coral", "weight": 0.0}, "ramp", {"shape": "linear"}),
        ({"term": "dann", "lam": 1.0}, "gamma", 3.0),
        ({"term": "cdan", "lam": 1.0}, "gamma", 3.0),
        ({"term": "mmd", "bandwidths": [1.0, 2.0]}, "multipliers", [3.0]),
        ({"term": "consensus"}, "temperature", 3.0),
        ({"term": "replay"}, "temperature", 5.0),
        ({"term": "l2_sp", "new_head": False}, "beta", 3.0),
        ({"term": "distillation", "temperature": 1.0}, "scale_t2", False),
        ({"term": "not_true_distillation"}, "scale_t2", False),
        ({"term": "class_logits"}, "scale_t2", False),
        ({"term": "simclr", "projector": []}, "batch_norm", True),
        ({"term": "vicreg", "variant": "authors", "projector": []}, "shared", False),
    ],
)
def test_what_other_options_of_a_term_leave_without_effect(
    term: dict[str, Any], option: str, other: object, tmp_path: Path
) -> None:
    """And the model is the same with it."""
    replay = {"classes": "all", "per_class": 2, "steps": 2, "after": 0}
    more = {"data": DOMAINS, "views": {}, "replay": replay, "simulation": QUICK}

    def of(own: dict[str, Any]) -> dict[str, Any]:
        return tables(objective=[{"term": "cross_entropy"}, own], **more)

    table, _, last = option.rpartition(".")
    within = {**term, table: {**term[table], last: other}} if table else {**term, option: other}
    told = f"objective[1].{option} = "
    assert not any(note.startswith("objective") for note in read_config(of(term))[1])
    (note,) = [note for note in read_config(of(within))[1] if note.startswith("objective")]
    assert note.startswith(told)
    assert " has no effect: " in note
    with pytest.warns(UserWarning, match=" has no effect: "):
        runs = [fedtl.run(of(own), out=tmp_path / name) for name, own in (("plain", term), ("with", within))]
    one, two = (run.state_dict() for run in runs)
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor)


def test_options_that_terms_use_are_no_notes() -> None:
    ramps = [
        {"shape": "dann", "gamma": 3.0, "end": 0.5},
        {"shape": "linear", "end": 0.5},
        {"shape": "step", "start": 1},
    ]
    terms = [{"term": "coral", "name": f"{i}", "ramp": ramp} for i, ramp in enumerate(ramps)]
    terms += [{"term": "dann", "gamma": 3.0}, {"term": "mmd", "multipliers": [1.0]}, {"term": "l2_sp", "beta": 3.0}]
    terms += [{"term": "consensus", "loss": "kl", "temperature": 3.0}, {"term": "distillation", "scale_t2": False}]
    assert notes(data=DOMAINS, objective=[{"term": "cross_entropy"}, *terms]) == []


def test_what_a_phase_s_term_does_not_use_is_said_at_its_place() -> None:
    plain, changed = ({"term": "l2_sp", "new_head": False, "beta": beta} for beta in (0.01, 3.0))
    objectives = [[{"term": "cross_entropy"}, {**own, "name": f"{i}"}] for i, own in enumerate((plain, changed))]
    phases = [{"rounds": 1, "objective": each} for each in objectives]
    (note,) = notes(phases=phases)
    assert note == "phases[1].objective[1].beta = 3.0 has no effect: new_head = false"


def test_noise_that_only_changes_bring() -> None:
    objective = [{"term": "cross_entropy"}, {"term": "replay"}]
    told = "replay.noise = 0.3 has no effect: augment = false"
    assert told in notes(objective=objective, replay={"after": 0, "noise": 0.3, "augment": False})
    assert notes(objective=objective, replay={"after": 0, "noise": 0.3}) == []
    with pytest.raises(ConfigError, match=r"sample_noise = 0\.3: it has no effect, as augment = false"):
        read_method({"name": "class-impressions", "sample_noise": 0.3, "augment": False})
    with pytest.raises(ConfigError, match=r"temperature = 2\.0: it has no effect, as hard = 1 leaves the teacher out"):
        read_method({"name": "data", "temperature": 2.0, "hard": 1.0})


def test_sgd_without_momentum_has_nothing_to_keep() -> None:
    with pytest.raises(ConfigError, match=r"keep.*no effect, as sgd without momentum has no state"):
        notes(strategy={"optimizer": {"name": "sgd", "keep": True}})
    assert notes(strategy={"optimizer": {"name": "sgd", "keep": True, "momentum": 0.9}}) == []
    assert notes(strategy={"optimizer": {"name": "adam", "keep": True}}) == []


def test_an_objective_that_teaches_nothing() -> None:
    def said(*names: str, **other: Any) -> list[str]:
        return [note for note in notes(objective=[{"term": name} for name in names], **other) if "teaches" in note]

    few = {"data": {"name": "digits", "clients": 4, "samples": 100, "labelled_fraction": 0.5}}
    why = "nothing teaches the model to predict, as mmd only aligns or holds it"
    assert said("mmd", **few) == [f"objective: {why}: add {{ term = 'cross_entropy' }}"]
    assert said("l2", "mmd", **few) != []
    assert said("cross_entropy", "mmd", **few) == said("cross_entropy") == said() == []
    phases = [{"rounds": 1, "objective": [{"term": each}]} for each in ("cross_entropy", "adda")]
    assert not any("teaches" in note for note in notes(phases=phases, **few))


def test_how_a_share_that_stays_would_move() -> None:
    asked = {"alpha_lr": 0.1, "alpha_steps": "first"}
    why = "has no effect: α stays: adaptive = false"
    assert notes("apfl", asked) == [f"strategy.alpha_lr {why}", f"strategy.alpha_steps {why}"]
    assert notes("apfl", {"adaptive": True, **asked}) == []


def test_how_a_meta_step_that_takes_no_difference_would_take_it() -> None:
    asked = {"delta": 0.1, "adapt_steps": 2}
    first = "no difference of gradients is taken: hessian = 'none'"
    assert notes("per-fedavg", {"hessian": "none", **asked}) == [f"strategy.delta has no effect: {first}"]
    why = "has no effect: no step adapts a model: alpha = 0"
    assert notes("per-fedavg", {"alpha": 0.0, **asked}) == [f"strategy.delta {why}", f"strategy.adapt_steps {why}"]
    assert notes("per-fedavg", asked) == []


def test_a_class_is_called_what_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    """And not what a terminal's emoji of that name looks like."""
    printing.out.print("strategy.name=boom:Boom: dropped lam", markup=False)
    assert capsys.readouterr().out == "strategy.name=boom:Boom: dropped lam\n"


def test_samples_for_training_alone_leave_nothing_to_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = tmp_path / "split.csv"
    split.write_text("sample,client,test\n" + "".join(f"{i},{i % 2},0\n" for i in range(60)))
    data = {"name": "digits", "partition": {"name": "file", "path": str(split)}}
    run = fedtl.run(tables(data=data, simulation=QUICK), out=tmp_path / "run")
    notes = json.loads((run.path / "environment.json").read_text())["notes"]
    assert "nobody has samples for testing or validation, so no model will be scored" in notes
    printing.print_scores([run])
    assert "seed 0: no scored round " in capsys.readouterr().out


def test_a_resolved_config_did_not_ask_for_its_defaults(tmp_path: Path) -> None:
    config, _ = read_config(tables("local"))
    (tmp_path / "config.toml").write_text(config.toml())
    assert read_config(tmp_path)[1] == []


def test_how_feddf_would_distil_without_steps() -> None:
    public = {"name": "digits", "clients": 4, "public": {"name": "digits", "samples": 20}}
    all_notes = notes("feddf", {"distill_steps": 0, "temperature": 2.0, "distill_lr": 0.1}, data=public)
    why = "has no effect: there are no steps: distill_steps = 0"
    assert [note for note in all_notes if "distill_steps" in note] == [
        f"strategy.distill_lr {why}",
        f"strategy.temperature {why}",
    ]
    assert notes("feddf", {"temperature": 2.0}, data=public) == []


@pytest.mark.parametrize(("drawn", "has_note"), [(3, False), (4, True), (50, True)])
def test_a_sample_of_all_clients(drawn: int, has_note: bool) -> None:
    why = f"evaluate.clients = {drawn} has no effect: there are 4 clients, and all are scored"
    assert notes(evaluate={"clients": drawn}) == ([why] if has_note else [])


def normed(**options: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, **options), nn.Linear(4, 2))


def test_statistics_that_cannot_follow_the_target() -> None:
    term = AdaBN(term="adabn")
    without = "the model has no batch-norm layer with running statistics"
    assert term.idle(nn.Linear(3, 2)) == without
    assert term.idle(normed(track_running_stats=False)) == without
    assert term.idle(normed()) is None
    frozen = normed()
    freeze(frozen, ["batch-norm"])
    assert term.idle(frozen.train()) == "all batch-norm layers are frozen"


def test_a_run_tells_of_a_term_that_can_do_nothing(tmp_path: Path) -> None:
    data = {"name": "digits", "clients": 2, "samples": 60, "target": {"name": "digits", "samples": 60}}
    config, _ = read_config(tables(data=data, objective=[{"term": "cross_entropy"}, {"term": "adabn"}]))
    server = open_run(config, federate(config.data, 0), Place(tmp_path / "run"), Silent())
    assert server.about["notes"] == [
        "the term 'adabn' has no effect: the model has no batch-norm layer with running statistics"
    ]


TOKENS = {"name": "made", "clients": 2, "normalise": "none", "task": "next_token"}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"data": TOKENS, "model": {"name": "gru", "pooling": "mean"}},
            "model.pooling = 'mean': it has no effect, as there are logits for each position with data.task = "
            "'next_token'; leave it out",
        ),
        ({"data": TOKENS, "model": {"name": "transformer", "pooling": "last"}}, "model.pooling = 'last': it has no"),
        ({"model": {"name": "lstm", "per_token": True}}, "model.per_token = true: with data.task = 'classification'"),
        (
            {"models": [{"name": "mlp"}, {"name": "lstm", "per_token": True}], "model": None, "method": "local"},
            "models[1].per_token = true: with data.task = 'classification'",
        ),
        (
            {"model": {"name": "tabular-mlp", "width": 4}},
            "model.width = 4: it has no effect, as categorical names no column of categories; leave it out",
        ),
        ({"data": {**TOKENS, "beta": 1.0}}, "data.beta = 1.0: it has no effect, as data.task = 'next_token' has"),
        ({"data": {"name": "synthetic", "iid": True, "alpha": 1.0}}, "data.alpha = 1.0: it has no effect, as with iid"),
        (
            {"data": {"name": "npz", "path": "x", "task": "regression", "classes": 3}},
            "data.classes = 3: it has no effect, as with data.task = 'regression' there are none; leave it out",
        ),
        (
            {"data": {"name": "digits", "clients": 4, "partition": {"name": "rotated", "angles": [0], "max_angle": 9}}},
            "data.partition.max_angle = 9.0: it has no effect, as angles gives each client's; leave it out",
        ),
        (
            {
                "data": {
                    "name": "digits",
                    "clients": 4,
                    "partition": {"name": "pfedme", "sizes": "authors", "spread": 1},
                }
            },
            "data.partition.spread = 1.0: it has no effect, as only log-normal sizes have one; leave it out",
        ),
        (
            {
                "data": {
                    "name": "digits",
                    "clients": 5,
                    "partition": {"name": "pfllib-pathological", "balance": True, "least_samples": 9},
                }
            },
            "data.partition.least_samples = 9: it has no effect, as balance = true divides equally; leave it out",
        ),
        (
            {"data": {"name": "heart-disease", "path": "a", "root": "b"}},
            "data.root = 'b': it has no effect, as path names the folder; leave it out",
        ),
    ],
)
def test_what_does_nothing_beside_other_options_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config({key: value for key, value in tables(**part).items() if value is not None})
    assert str(error.value).startswith(message)


class OfOnesOwn(Choice):
    """A part of one's own, one of whose defaults is made anew each time."""

    name: str = "own"
    weights: dict[str, float] = Field(default_factory=lambda: {"a": 1.0})

    def without_use(self) -> dict[str, str]:
        """Nothing is weighted."""
        return {"weights": "nothing is weighted"}


def test_a_default_that_is_made_was_not_asked_for() -> None:
    assert validate(OfOnesOwn, {"weights": {"a": 1.0}}, "part") == OfOnesOwn()
    with pytest.raises(ConfigError, match=r"part\.weights = \{'b': 1\.0\}: it has no effect, as nothing is weighted"):
        validate(OfOnesOwn, {"weights": {"b": 1.0}}, "part")


OF_EARLIER_VERSIONS: list[dict[str, Any]] = [
    {
        "data": {"name": "synthetic", "clients": 2, "sizes": 20, "iid": True, "alpha": 1.0},
        "model": {"name": "logistic"},
    },
    {
        "data": {**TOKENS, "sizes": 10, "dimension": 4, "outputs": 3},
        "model": {"name": "gru", "hidden": 4, "pooling": "mean"},
    },
]


@pytest.mark.parametrize("parts", OF_EARLIER_VERSIONS)
def test_runs_that_were_given_what_does_nothing_stay_readable(tmp_path: Path, parts: dict[str, Any]) -> None:
    asked = {**tables(rounds=1, simulation={"grid": "in-process"}), **parts}
    with pytest.raises(ConfigError, match="it has no effect"):
        read_config(asked)
    folder = tmp_path / "run"
    config = build(asked)
    run_at(config, Place(folder), False, Silent())
    assert read_config(folder)[0] == config
    fedtl.run(folder, resume=True)
    run = fedtl.load(folder)
    assert _known(run, True)[0].checked.startswith("Made again from the config")
    assert fedtl.load_model(run) is not None
    write_safetensors(model_of_run(folder), tmp_path / "model.safetensors")
    assert fedtl.load_exported(tmp_path / "model.safetensors")[2].model["name"] == config.model.name
    key = "data.alpha" if "alpha" in asked["data"] else "model.pooling"
    longer, lines = read_config(folder, ["rounds=2"])
    assert longer.rounds == 2
    assert [line.partition(" = ")[0] for line in lines] == [key]
    assert "it has no effect, as" in lines[0]
    assert fedtl.run(folder, ["rounds=2"], resume=True).rounds[-1]["round"] == 2
    assert read_config(folder, [f"{key}=none"])[1] == []


def test_what_somebody_asks_for_besides_a_record_is_refused(tmp_path: Path) -> None:
    asked = {**tables(rounds=1, simulation={"grid": "in-process"}), **OF_EARLIER_VERSIONS[0]}
    run_at(build(asked), Place(tmp_path / "run"), False, Silent())
    for word in ("data.alpha=2.0", "model={name = 'tabular-mlp', width = 4}"):
        with pytest.raises(ConfigError, match=r"it has no effect, as .*; leave it out"):
            read_config(tmp_path / "run", [word])


def test_a_line_says_that_series_have_no_words(tmp_path: Path) -> None:
    choice = read_model({"name": "gru", "width": 8})
    assert choice.without_use_on((4,)) == {}
    assert build_model(choice, (2, 4), 3, 0) is not None
    file, rng = tmp_path / "series.npz", np.random.default_rng(0)
    np.savez(file, x=rng.normal(size=(20, 2, 4)), y=np.arange(20) % 2, user=np.arange(20) % 2)
    series = {"name": "npz", "path": str(file)}
    for model, lines in (({"width": 8}, 1), ({}, 0)):
        config, _ = read_config(tables(data=series, model={"name": "gru", **model}))
        server = open_run(config, federate(config.data, 0), Place(tmp_path / f"run-{lines}"), Silent())
        said = "model.width = 8 has no effect: samples of shape [2, 4] are series, not token ids"
        assert [note for note in server.about["notes"] if "no effect" in note] == [said] * lines


def test_shares_that_are_not_drawn(tmp_path: Path) -> None:
    sample, file = np.arange(40), tmp_path / "split.npz"
    np.savez(file, sample=sample, client=sample % 2, test=sample % 5 == 0, validation=sample % 5 == 1)
    table = {"name": "digits", "partition": {"name": "file", "path": str(file)}}
    said = federate(read_data({**table, "test_share": 0.5, "validation_share": 0.1}), 0).notes
    assert [note for note in said if "share" in note] == [
        "data.test_share = 0.5 has no effect: the file says which samples are for testing",
        "data.validation_share = 0.1 has no effect: the file says which samples are for validation",
    ]
    assert not [note for note in federate(read_data(table), 0).notes if "share" in note]


def test_models_of_a_run_are_read_that_chose_rounds_by_what_is_refused_now(tmp_path: Path) -> None:
    """An earlier version took a metric of each class to choose rounds by; what is refused is to go on with it."""
    folder = tmp_path / "run"
    chosen = ['evaluate.metrics=["recall_by_class"]', "evaluate.keep_best=recall_by_class/1", "stop.patience=1"]
    asked = ["rounds=1", "simulation.grid=in-process", "data.validation_share=0.2", *chosen]
    run = fedtl.run("quickstart", [*asked, "stop.metric=recall_by_class/1"], out=folder)
    config = (folder / "config.toml").read_text()
    assert config.count("recall_by_class/1") == 2
    (folder / "config.toml").write_text(config.replace("recall_by_class/1", "recall_by_class"))
    with pytest.raises(ConfigError, match="is a number of each class"):
        fedtl.run(folder, resume=True)
    read = fedtl.load(folder)
    assert read.last("recall_by_class/1") == run.last("recall_by_class/1")
    for module in (fedtl.load_model(read), model_of_run(folder).module):
        for name, tensor in run.state_dict().items():
            assert tensor.equal(module.state_dict()[name])
    assert model_of_run(folder, 1).about.which == "personalised"
