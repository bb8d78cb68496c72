"""``fedtl list NAME`` tells all there is to know of each row of the registries."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from rich.console import Console

import fedtl
from fedtl.assemble.parts import assemble
from fedtl.choice import ConfigError
from fedtl.cli import printing
from fedtl.cli.documented import options, papers, prose
from fedtl.cli.explain import REGISTRIES, _classes
from fedtl.cli.listing import list_parts
from fedtl.config.read import read_config
from fedtl.config.starter import starter
from fedtl.data.federate import federate
from fedtl.data.sets.vision import Vision
from fedtl.strategies import GROUPS, STRATEGIES, strategy_type

ROWS = [(kind, name) for kind, rows in REGISTRIES.items() for name in rows] + [("models", "resnet18")]
each_row = pytest.mark.parametrize(("kind", "name"), ROWS)

Listed = Callable[..., str]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Listed:
    def call(name: str | None, width: int = 100) -> str:
        monkeypatch.setattr(printing, "out", Console(highlight=False, width=width))
        list_parts(name)
        return capsys.readouterr().out

    return call


@each_row
def test_every_option_has_a_meaning_and_the_part_a_text(kind: str, name: str) -> None:
    described, fields = _classes(kind, name)
    assert any(prose(part) for part in described)
    if kind == "metrics":  # which have no options
        assert fields is None
        return
    assert fields is not None
    meanings = {option.name: option.meaning for option in options(fields, _functions(described))}
    assert meanings.keys() == fields.model_fields.keys() - {"name", "term"} | ({"name"} if kind == "terms" else set())
    without = [
        option for option, text in meanings.items() if not re.sub(r"^(at least|at most|above|below|one of).*", "", text)
    ]
    assert not without, f"say what they mean under 'Attributes:' of the class of {name!r}"
    for text in (*meanings.values(), *(paragraph for part in described for paragraph in prose(part))):
        assert "``" not in text
        assert ":func:" not in text


def _functions(described: list[object]) -> list[object]:
    from fedtl.cli.documented import functions_of

    return [function for part in described for function in functions_of(part)]


def test_every_method_names_its_paper() -> None:
    without = [name for name in STRATEGIES if not papers(*_classes("strategies", name)[0])]
    assert set(without) <= {"local", "central"}  # baselines, which are nobody's


@each_row
def test_the_config_to_start_from_is_read(kind: str, name: str) -> None:
    tables, _ = starter(kind, name)
    text = tomli_w.dumps(tables)
    config, _ = read_config(tomllib.loads(text))
    assert f'"{name}"' in text
    assert config.rounds == (2 if "size" in tables["data"] else 10)


@pytest.mark.parametrize(("kind", "name"), [row for row in ROWS if row[0] in ("strategies", "terms", "partitions")])
def test_the_config_to_start_from_fits_together(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split.csv").write_text(
        "sample,client,test\n" + "".join(f"{i},{i % 4},{i % 3 % 2}\n" for i in range(99))
    )
    config, _ = read_config(starter(kind, name)[0])
    if name == "flwr-datasets":
        pytest.importorskip("flwr_datasets", reason="flwr-datasets is not installed")
    assembly = assemble(config, federate(config.data, config.seed))
    if kind == "terms":
        assert name in {term.term for task in assembly.tasks for term in task.objective.terms}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_method(listed: Listed, name: str) -> None:
    text = listed(name)
    method = strategy_type(name)
    for option in method.settings_type.model_fields.keys() - {"name"}:
        assert re.search(rf"^{option}  ", text, re.MULTILINE), option
    assert " 1 numbers " not in text
    for upload in () if method.pools else (*method.client_update.sums, *method.client_update.rows):
        assert re.search(f"clients send: .*'{upload}'", text), upload
    config = tomllib.loads(text.partition("fedtl run try.toml\n")[2].partition(f"\n{name}: [")[0])
    assert config["strategy"]["name"] == name


def test_what_pfedme_sends_and_keeps(listed: Listed) -> None:
    text = listed("pfedme")
    assert text.startswith("pfedme: [strategy]\npFedMe: personalised models by Moreau envelopes (Dinh")
    assert "https://arxiv.org/abs/2006.08848" in text
    assert "w_{i,r+1} = w_{i,r} - η λ (w_{i,r} - θ̃)" in " ".join(text.split())
    assert re.search(r"^lam +required +λ, how strongly a personalised model is held", text, re.MULTILINE)
    assert re.search(r"^beta +1 +β, the server's mixing; above 0", text, re.MULTILINE)
    assert "clients receive: 'w', as long as the model\n" in text
    assert "clients keep: 'theta', as long as the model\n" in text
    assert "\npfedme: [data.partition]\n" in text  # of the same name


def test_how_clients_count_in_each_sum(listed: Listed) -> None:
    says = "weighted as the option {} says"
    scaffold, fedavg, feddc = (listed(name) for name in ("scaffold", "fedavg", "feddc"))
    control = says.format("control_weighting")
    assert f"the sum of 'w', {says.format('weighting')}; the sum of 'dc', {control}" in scaffold
    assert f"the sum of 'w', {says.format('weighting')}" in fedavg
    assert "the sum of 'g', in which all clients count alike" in feddc


@pytest.mark.parametrize("name", [*GROUPS["Parts of the model stay at each client"], "local", "fedavg"])
def test_what_a_client_receives_and_what_is_scored(listed: Listed, name: str, tmp_path: Path) -> None:
    """The record of a run counts the bytes of what is sent indeed, and has the scores."""
    text = listed(name)
    tables, _ = starter("strategies", name)
    small = {"name": "digits", "clients": 2, "samples": 100}
    grid = {"grid": "in-process"}
    run = fedtl.run({**tables, "rounds": 1, "data": small, "simulation": grid}, out=tmp_path / "run")
    said = re.search(r"clients receive: (.*)", text)
    assert said is not None
    model = assemble(config := read_config(tables)[0], federate(config.data, config.seed)).tasks[0].layout.size
    sizes = re.findall(r"'\w+', (?:(\d+) numbers?|as long as the model)", said[1])
    (count,) = np.asarray(run.table()["bytes_down"])
    assert sum(int(size or model) for size in sizes) * 4 * small["clients"] == count
    scored = re.search(r"scored: (.*)", text)
    assert scored is not None
    models = {"global": "the global model", "personal": "each client's own model"}
    assert scored[1] == "; ".join(text for model, text in models.items() if f"{model}/clients" in run.last())


def test_where_all_samples_are_in_one_place_nothing_is_sent(listed: Listed) -> None:
    text = listed("central")
    for what in ("clients send", "clients receive"):
        assert f"  {what}: nothing, as all samples are in one place\n" in text


def test_a_term_sends_the_modules_that_it_has(listed: Listed) -> None:
    assert "clients send besides: nothing\n" in listed("moon")  # whose projection has to be asked for
    assert "clients send besides: its own trained modules\n" in listed("dann")


def test_options_without_effect_and_those_that_no_phase_changes_are_marked(listed: Listed) -> None:
    def row(method: str, option: str) -> str:
        found = re.search(rf"^{option} .*\n(?: .*\n)*", listed(method, 300), re.MULTILINE)
        assert found is not None
        return " ".join(found[0].split())

    assert "no effect in the config below: qfedavg itself says how clients count" in row("qfedavg", "weighting")
    assert "no effect in the config below: α stays: adaptive = false" in row("apfl", "alpha_lr")
    assert row("scaffold", "private").endswith(
        "refused here: under scaffold clients upload the sum of 'dc', which is not offered with private parts"
    )
    assert "refused here: under central all training samples are in one place" in row("central", "private")
    assert "effect" not in row("fedavg", "weighting")
    assert "refused" not in row("fedavg", "private")
    assert row("gpfl", "inputs").endswith("; the same in all phases")
    assert "phases" not in row("gpfl", "lam")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_private_is_said_to_be_refused_where_it_is(listed: Listed, name: str) -> None:
    tables, _ = starter("strategies", name)
    tables["strategy"]["private"] = ["body.1"]
    found = re.search(r"^private  .*\n(?: .*\n)*", listed(name, 300), re.MULTILINE)
    assert found is not None
    try:
        read_config(tables)
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = ""
    _, said, why = " ".join(found[0].split()).partition("refused here: ")
    assert bool(said) == bool(refusal)
    assert why in refusal


def test_the_servers_optimiser_is_explained_where_it_is_the_method(listed: Listed) -> None:
    text = listed("fedyogi")
    assert "v ← v - (1 - β2) Δ² sign(v - Δ²)" in " ".join(text.split())
    assert "Options in [strategy.server]" in text
    assert re.search(r"^beta2 +0\.99 +β2", text, re.MULTILINE)
    assert "Options in [strategy.server]" not in listed("fedavg")


def test_terms_and_others(listed: Listed) -> None:
    text = listed("mmd")
    assert "Gretton et al. 2012" in text
    assert "it needs: labelled data of its own, target data" in text
    assert re.search(r"^multipliers +\[", text, re.M)
    assert "clients send besides: sums for 'remote_coral'" in listed("remote_coral")
    assert listed("adam").count("A config to start from") == 2  # of clients and of the server
    assert re.search(r"^partition +natural ", listed("watch"), re.MULTILINE)
    assert "# first: fedtl partition quickstart --save split.csv" in listed("file")
    assert "pFedMe on scikit-learn's digits" in listed("quickstart")
    assert '[model]\nname = "vgg11"' in listed("vgg11")


def test_a_narrow_terminal_cuts_no_line_of_a_config(listed: Listed) -> None:
    assert (
        tomllib.loads(listed("dann", width=30).rpartition("fedtl run try.toml\n")[2])["objective"][1]["term"] == "dann"
    )


def test_a_class_of_ones_own(listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_to_list.py").write_text(
        "from fedtl.clients.fedprox import FedProx\n"
        "class Mine(FedProx):\n    '''w stays where it is (Nobody et al. 2026).'''\n"
        "class Other:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = listed("mine_to_list:Mine")
    assert "w stays where it is" in text
    assert "Papers: Nobody et al. 2026\n" in text
    assert 'name = "mine_to_list:Mine"' in text
    with pytest.raises(
        ConfigError, match="neither a method, a term, a metric, a partition, a data set, a model nor a t"
    ):
        listed("mine_to_list:Other")
    del sys.modules["mine_to_list"]


@pytest.mark.parametrize(
    ("word", "hint"), [("fedprx", "fedprox"), ("cross-entropy", "cross_entropy"), ("FedAvg", "fedavg")]
)
def test_unknown_names(listed: Listed, word: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"^'{word}' is no kind of part, nor the name of one: did you mean '{hint}'"):
        listed(word)


def test_methods_are_grouped(listed: Listed) -> None:
    lines = listed("strategies", width=200).splitlines()
    headings = [line.strip() for line in lines if line.strip() in GROUPS]
    assert headings == [heading for heading, names in GROUPS.items() if set(names) & STRATEGIES.keys()]
    assert sorted(line.split()[0] for line in lines if line.split()[0] in STRATEGIES) == sorted(STRATEGIES)
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("FEDTL_DATA"), reason="FEDTL_DATA names no folder")
def test_image_sets_are_said_to_need_files() -> None:
    for name in REGISTRIES["datasets"]:
        kind = _classes("datasets", name)[1]
        assert kind is not None
        assert bool(starter("datasets", name)[1]) == (
            issubclass(kind, Vision) or name in ("files", "heart-disease", "images", "medmnist", "npz", "shakespeare")
        )
