"""A mean over fewer clients than should have been scored says so wherever it stands."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import MessageType
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

import fedtl
from fedtl import plot
from fedtl.assemble.driver import Silent
from fedtl.cli import printing
from fedtl.cli.commands import app
from fedtl.cli.printing import print_scores
from fedtl.cli.probe import table as probe_table
from fedtl.clients.serving import Serving
from fedtl.clients.sgd import SGDSettings
from fedtl.comparison import table_formats
from fedtl.comparison.formats import markdown
from fedtl.comparison.table import score_table
from fedtl.config.read import build, read_config
from fedtl.data.federate import federate
from fedtl.deploy.deployed_grid import Described
from fedtl.deploy.serverapp import RoundLines, restrict_sampling
from fedtl.experiment import Place, open_run
from fedtl.export.probe import Result
from fedtl.grid.in_process import InProcessGrid
from fedtl.grid.simulated import Order
from fedtl.runs.baselines import gains
from fedtl.runs.history import Run, over_same_clients
from fedtl.runs.progress import ProgressBar
from fedtl.server.report import Round
from fedtl.server.scores import Coverage
from fedtl.server.scoring import Asked
from fedtl.strategies import strategy_type
from fedtl.sweeps.work import marks_of
from fedtl.wire import messages as m
from fedtl.wire.worker import Reply
from tests.parts import engine_of, federation_of, small_module, update_of, worker_of

MARK = 100.0
"""A first feature at which :class:`Picky` raises."""

CLIENTS = 5


class Picky(nn.Module):
    """A linear model that raises where it meets a marked sample."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_shape[0], classes)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 0] >= MARK).any()):
            raise ValueError("a marked sample")
        return self.linear(x)


def owners(
    folder: Path, *, untrainable: Iterable[int] = (), unscorable: Iterable[int] = (), untested: Iterable[int] = ()
) -> dict[str, Any]:
    """A data set of five owners, of whom some have a marked sample for training, or for testing, or none for that."""
    rng = np.random.default_rng(0)
    user, tested = np.repeat(np.arange(CLIENTS), 12), np.repeat(np.arange(CLIENTS), [3, 4, 5, 6, 7])
    x, x_test = (rng.normal(size=(len(of), 4)).astype(np.float32) for of in (user, tested))
    y, y_test = ((each[:, 0] > 0).astype(np.int64) for each in (x, x_test))
    x[np.isin(user, [*untrainable]), 0] = MARK
    x_test[np.isin(tested, [*unscorable]), 0] = MARK
    kept = ~np.isin(tested, [*untested])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "owners.npz"
    np.savez(file, x=x, y=y, user=user, x_test=x_test[kept], y_test=y_test[kept], user_test=tested[kept])
    return {"name": "npz", "path": str(file), "normalise": "none"}


def tables(data: dict[str, Any], method: str = "local", **other: Any) -> dict[str, Any]:
    return {
        "name": "scored",
        "rounds": 2,
        "device": "cpu",
        "data": data,
        "model": {"name": "tests.unit.test_scored_clients:Picky"},
        "strategy": {"name": method, "lr": 0.1, "batch_size": 6},
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},
        **other,
    }


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of five clients one holds no test samples, and one of the others cannot train."""
    folder = tmp_path_factory.mktemp("lacking")
    return fedtl.run(tables(owners(folder, untrainable=[4], untested=[3])), out=folder / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same without any trouble."""
    folder = tmp_path_factory.mktemp("whole")
    return fedtl.run(tables(owners(folder), "fedavg"), out=folder / "run")


def printed(*runs: Run) -> str:
    """What ``fedtl run`` and ``fedtl plot`` print of runs."""
    console, before = Console(width=200, highlight=False), printing.out
    printing.out = console
    try:
        with console.capture() as captured:
            print_scores(runs)
    finally:
        printing.out = before
    return captured.get()


def of_an_older_version(run: Run, folder: Path) -> Run:
    """The same run as it was recorded when nobody counted."""
    shutil.copytree(run.path, folder)
    for name in ("rounds.jsonl", "clients.jsonl"):
        lines = [json.loads(line) for line in (run.path / name).read_text().splitlines()]
        for line in lines:
            for key in ("trained", "missing"):
                line.pop(key, None)
            for row in line["scores"].values():
                for key in ("scored", "of", "drawn_from"):
                    row.pop(key, None)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return fedtl.load(folder)


def caption(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts() if text.get_text()]


# What is recorded, and how it is read.


def test_who_cannot_be_scored_is_missing_and_who_has_no_test_samples_is_not(lacking: Run) -> None:
    for record in lacking.rounds:
        score = record["scores"]["personal/clients"]
        assert (score["scored"], score["of"], record["trained"], len(record["clients"])) == (3, 4, 4, 5)
        assert "drawn_from" not in score
    assert lacking.coverage("personal/clients") == Coverage(3, 4) == lacking.coverage("personal/clients", 1)
    assert str(lacking.coverage("personal/clients")) == "3 of 4 clients"
    assert lacking.coverage("global/server-test") is None
    assert lacking.missing() == {"personal/clients": [4]}
    assert len(lacking.client_scores()["personal/clients"]) == 3
    scored, trained = lacking.scored()["personal/clients"], lacking.trained()
    assert (scored.rounds.tolist(), scored.clients.tolist(), scored.of.tolist()) == ([1, 2], [3, 3], [4, 4])
    assert (trained.rounds.tolist(), trained.clients.tolist(), trained.of.tolist()) == ([1, 2], [4, 4], [5, 5])
    table = lacking.table("numpy")
    assert table["personal/clients/scored"].tolist() == [3, 3]
    assert table["personal/clients/of"].tolist() == [4, 4]
    clients = lacking.client_table("numpy")
    assert clients["client"].tolist() == [0, 1, 2, 4]
    assert np.isnan(clients["personal/clients/accuracy"]).tolist() == [False, False, False, True]


def test_points_are_still_pairs(lacking: Run) -> None:
    round, value = lacking.last()["personal/clients"]
    assert (round, value) == (2, lacking.rounds[-1]["scores"]["personal/clients"]["accuracy"]["weighted_mean"])


def test_a_run_over_all_clients_is_marked_nowhere(whole: Run, tmp_path: Path) -> None:
    score = whole.rounds[-1]["scores"]["global/clients"]
    assert (score["scored"], score["of"], whole.missing()) == (5, 5, {"global/clients": []})
    assert str(whole.coverage("global/clients")) == ""
    older = of_an_older_version(whole, tmp_path / "older")
    for text in (printed(whole), repr(whole), whole._repr_html_()):
        assert " clients)" not in text
    figures = []
    for name, run in (("a", whole), ("b", older)):
        figures.append(plot.save(plot.compare([run]), tmp_path / f"{name}.svg").read_bytes())
    assert figures[0] == figures[1]
    assert b"hollow" not in figures[0]
    assert b"clients)" not in figures[0]


def test_a_client_whose_scoring_raises_is_missing_alone(whole: Run, tmp_path: Path) -> None:
    run = fedtl.run(tables(owners(tmp_path, unscorable=[1]), "fedavg"), out=tmp_path / "run")
    assert run.missing() == {"global/clients": [1]}
    failures = [(each["client"], each["message"]) for each in run.rounds[0]["failures"]]
    assert failures == [(1, "scoring: ValueError: a marked sample")]
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(
        run.client_scores()["global/clients"], whole.client_scores()["global/clients"][others]
    )
    assert run.clients[-1]["clients"] == others


def test_both_models_of_a_run_are_over_the_same_clients(tmp_path: Path) -> None:
    method = tables(owners(tmp_path, untrainable=[1], unscorable=[2]), "fedavg-finetune")
    run = fedtl.run(method, out=tmp_path / "run")
    assert run.missing() == {"global/clients": [1, 2], "personal/clients": [1, 2]}
    assert run.coverage("global/clients") == run.coverage("personal/clients") == Coverage(3, 5)


def test_a_round_in_which_nobody_could_be_scored(tmp_path: Path) -> None:
    every = range(CLIENTS)
    run = fedtl.run(tables(owners(tmp_path, unscorable=every), "fedavg"), out=tmp_path / "run")
    score = run.rounds[-1]["scores"]["global/clients"]
    assert (score["scored"], score["of"], score["accuracy"]["mean"]) == (0, 5, None)
    assert run.missing() == {"global/clients": [*every]}
    assert math.isnan(run.last()["global/clients"].value)
    assert math.isnan(run.best()["global/clients"].value)
    (row,) = [line for line in printed(run).splitlines() if "global/clients" in line]
    assert " ".join(row.split()) == "global/clients - (0 of 5 clients) 2 - - (0 of 5 clients) -"
    assert len(run.client_table("numpy")) == CLIENTS
    for figure in (plot.compare([run]), plot.convergence([run]), plot.per_client([run])):
        figure.draw_without_rendering()
        assert "0 of 5 clients" in " ".join([*legend(figure), *map(str, figure.axes[-1].get_yticklabels())])


def test_where_some_rounds_lack_clients_the_best_says_of_which_it_is(tmp_path: Path, lacking: Run) -> None:
    shutil.copytree(lacking.path, tmp_path / "run")
    lines = [json.loads(line) for line in (lacking.path / "rounds.jsonl").read_text().splitlines()]
    lines[0]["scores"]["personal/clients"] |= {"scored": 1, "accuracy": {"weighted_mean": 1.0, "worst_decile": 1.0}}
    lines[1]["scores"]["personal/clients"] |= {"scored": 0, "accuracy": {"weighted_mean": None, "worst_decile": None}}
    (tmp_path / "run" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = fedtl.load(tmp_path / "run")
    assert run.best()["personal/clients"] == (1, 1.0)
    text = printed(run)
    assert "100.00 (1 of 4 clients)" in text
    assert "- (0 of 4 clients)" in text
    assert legend(plot.convergence([run])) == ["local (0 to 1 of 4 clients)"]
    lines[0]["scores"]["personal/clients"]["scored"] = 4
    (tmp_path / "run" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert legend(plot.convergence([fedtl.load(tmp_path / "run")])) == ["local (in part 0 of 4 clients)"]


@pytest.mark.parametrize("drawn", [2, 7])
def test_a_sample_that_was_asked_for_is_no_lack_but_is_said(drawn: int, tmp_path: Path, whole: Run) -> None:
    some = tables(owners(tmp_path), "fedavg", evaluate={"clients": drawn})
    run = fedtl.run(some, out=tmp_path / "run")
    older = of_an_older_version(run, tmp_path / "older")
    if drawn >= CLIENTS:
        assert run.coverage("global/clients") == older.coverage("global/clients") == Coverage(5, 5)
        return
    assert run.coverage("global/clients") == older.coverage("global/clients") == Coverage(2, 2, 5)
    assert "(2 drawn of 5 clients)" in printed(run)
    figure = plot.convergence([run, whole])
    assert not any("clients" in label for label in legend(figure))
    assert "each point is over clients drawn anew, of 5" in caption(figure)
    assert "not all means are over the same clients" in caption(figure)
    table = score_table(fedtl.compare(run, resamples=0))
    assert table.caption().endswith("+: over 2 drawn of 5 clients."), "which are as many as were asked"
    (row,) = csv.DictReader(io.StringIO(table_formats.as_csv(table)))
    assert row["over"] == "2 drawn of 5 clients"


def test_of_a_sample_some_may_be_missing(tmp_path: Path) -> None:
    data = owners(tmp_path, unscorable=[0, 1, 2])
    run = fedtl.run(tables(data, "fedavg", evaluate={"clients": 4}), out=tmp_path / "run")
    missing = run.missing()["global/clients"]
    assert str(run.coverage("global/clients")) == f"{4 - len(missing)} of the 4 drawn of 5 clients"
    assert 0 < len(missing) <= 3


@pytest.mark.parametrize("kind", ["raised", "absent from one round"])
def test_counts_of_a_run_of_an_older_version_are_derived(kind: str, lacking: Run, whole: Run, tmp_path: Path) -> None:
    if kind == "raised":
        older = of_an_older_version(lacking, tmp_path / "older")
        assert older.scored()["personal/clients"].of.tolist() == [4, 4]
        assert older.trained().clients.tolist() == [4, 4]
        assert (older.missing(), older.coverage("personal/clients")) == (lacking.missing(), Coverage(3, 4))
        assert printed(older) == printed(lacking)
        (tmp_path / "older" / "clients.jsonl").unlink()
        assert fedtl.load(tmp_path / "older").coverage("personal/clients") is None
        return
    folder = of_an_older_version(whole, tmp_path / "older").path
    first, second = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
    for column in (second["clients"], second["samples"], *second["scores"]["global/clients"].values()):
        del column[1]
    (folder / "clients.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    older = fedtl.load(folder)
    assert older.missing() == {"global/clients": [1]}
    assert older.scored()["global/clients"].clients.tolist() == [5, 4]


def test_a_run_that_goes_on_counts_the_same(lacking: Run, tmp_path: Path) -> None:
    again = dict(lacking.config) | {"rounds": 1}
    fedtl.run(again, out=tmp_path / "run")
    run = fedtl.run(again | {"rounds": 2}, out=tmp_path / "run", resume=True)
    assert [record["scores"] for record in run.rounds] == [record["scores"] for record in lacking.rounds]
    assert run.clients == lacking.clients


# Metrics that are not defined on everybody's samples.


def test_a_mean_says_on_how_many_clients_samples_its_metric_is_defined(tmp_path: Path, whole: Run) -> None:
    data = owners(tmp_path)
    with np.load(data["path"]) as file:
        arrays = dict(file)
    arrays["y_test"][arrays["user_test"] == 0] = 1
    np.savez(data["path"], **arrays)
    run = fedtl.run(tables(data, "fedavg", evaluate={"metrics": ["auc"]}), out=tmp_path / "run")
    score, record = "global/clients", run.clients[-1]
    each = np.array(record["scores"][score]["auc"], float)
    assert np.flatnonzero(np.isnan(each)).tolist() == [0]
    assert run.last("auc")[score].value == pytest.approx(np.average(each[1:], weights=record["samples"][1:]))
    assert (run.coverage(score), run.coverage(score, metric="auc")) == (Coverage(5, 5), Coverage(4, 5))
    assert run.scored("auc")[score].clients.tolist() == [4, 4]
    assert run.missing()[score] == []
    value = f"{run.last('auc')[score].value:.4f}"
    assert f"{value} (4 of 5 clients)" in printed(run)
    assert "(4 of 5 clients)" in repr(run)
    assert not over_same_clients([run, whole], "auc")
    assert over_same_clients([run, whole], "accuracy")
    comparison = fedtl.compare(run, metric="auc")
    assert f"{value} (4 of 5 clients)" in markdown(comparison)
    assert "fedavg: means are over 4 of 5 clients." in comparison.notes
    assert score_table(comparison).caption().endswith("+: over 4 of 5 clients.")
    assert legend(plot.convergence([run], "auc")) == ["fedavg (4 of 5 clients)"]
    scores = run.rounds[-1]["scores"]
    assert marks_of(scores, ["auc"]) == {score: "4 of 5 clients"}, "of a round as it is told"
    assert marks_of(scores, []) == {}
    assert "of 5 clients" not in markdown(fedtl.compare(run, metric="accuracy"))


# Rounds that are chosen.


def rescored(folder: Path, missing: Sequence[int], method: str = "fedavg") -> Run:
    """Three rounds with scores of 0.5, 1 and 0.25, from each of which so many clients are missing."""
    data = owners(folder) | {"validation_share": 0.3}
    run = fedtl.run(tables(data, method, rounds=3), out=folder / method)
    lines = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    for line, value, lost in zip(lines, (0.5, 1.0, 0.25), missing, strict=True):
        for name in ("global/clients", "global/validation-clients"):
            row = line["scores"][name]
            row["accuracy"] = dict.fromkeys(row["accuracy"], value)
            row |= {"scored": CLIENTS - lost} | ({"lacking": lost} if lost else {})
    (run.path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return fedtl.load(run.path)


def test_a_round_that_lacks_a_client_is_chosen_by_nobody(tmp_path: Path) -> None:
    run = rescored(tmp_path, (0, 1, 0))
    assert run.best()["global/clients"] == run.validated()["global/clients"] == (1, 0.5)
    comparison = fedtl.compare(run, at="validation", target=0.9)
    (group,) = comparison.groups
    assert (group.value.mean, group.best_on_test.mean, group.to_target.runs) == (0.5, 0.5, 0)  # type: ignore[union-attr]
    assert not any((group.coverage, group.coverage_by_validation, group.coverage_best_on_test))
    assert "of 5 clients" not in markdown(comparison) + printed(run)


def test_where_every_round_lacks_clients_the_best_is_marked_wherever_it_stands(tmp_path: Path) -> None:
    run = rescored(tmp_path, (2, 1, 2))
    other = rescored(tmp_path, (0, 0, 0), "fedavgm")
    assert run.best()["global/clients"] == run.validated()["global/clients"] == (2, 1.0)
    comparison = fedtl.compare([run, other], at="validation", target=0.9)
    assert [group.group for group in comparison.groups] == ["fedavg", "fedavgm"]
    row = next(line for line in markdown(comparison).splitlines() if line.startswith("| fedavg |"))
    assert row.count("100.00 (4 of 5 clients)") == 2, "best by validation, and on test"
    assert "25.00 (3 of 5 clients)" in row
    notes = "fedavg: no round has the scores of all clients, so its best ones are chosen by means over fewer."
    assert notes in comparison.notes
    assert not any("fedavgm: " in note for note in comparison.notes)
    assert [each.to_target.runs for each in comparison.groups] == [1, 1]  # type: ignore[union-attr]
    table = score_table(comparison)
    assert [entry.part for (entry,) in table.entries] == ["4 of 5 clients", ""]
    assert "> 100.00+" in table_formats.text(table)
    assert table.caption().endswith("+: over 4 of 5 clients.")
    html = fedtl.report([run, other], tmp_path / "page.html", at="validation").read_text()
    page = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))
    assert "100.00 % (4 of 5 clients)" in page
    assert "fedavg, round 2: 100.00 %, over fewer clients than were asked" in page
    assert "100+" in page
    figure = plot.heat(comparison)
    assert "100.0+" in [text.get_text() for text in figure.axes[0].texts]
    assert "+: over 4 of 5 clients" in caption(figure)
    assert "fedavg: over 4 of 5 clients" in caption(plot.pareto(comparison))


# Those that do not answer.


class Deaf(InProcessGrid):
    """A grid on which some clients do not hear when they are to be scored."""

    deaf: Sequence[int] = ()

    def carry_out(self, order: Order, timeout: float | None) -> Iterable[Reply]:
        heard = tuple(c for c in order.clients if order.kind != MessageType.EVALUATE or c not in self.deaf)
        return super().carry_out(Order(order.kind, order.content, heard), timeout)


@pytest.mark.parametrize("known", [True, False])
def test_who_does_not_answer_is_missing_where_it_holds_test_samples(known: bool) -> None:
    federation = federation_of([6, 6, 6, 6])
    worker = worker_of(engine_of(federation, small_module()), update_of("local", lr=0.1))
    grid = Deaf(worker, 4)
    grid.deaf = [1, 2]
    strategy = strategy_type("local")(SGDSettings(name="local", lr=0.1, local_epochs=1), seed=0, clients=4)
    if known:
        strategy.tested = {"clients": np.array([0, 1, 3])}
    reports: list[Round] = []
    strategy.start(grid, m.pack(worker.initial.numpy()), 1, on_round=lambda report, _: reports.append(report))
    (scores,) = reports[0].client_scores
    assert scores.clients == [0, 3]
    assert scores.missing == ([1] if known else [])
    assert reports[0].failures == ([(1, "scoring: it gave no score")] if known else [])


def test_who_holds_no_samples_of_a_domain_is_not_missing_there() -> None:
    tested = {"clients": np.array([0, 1, 2]), "target-clients": np.array([2, 3])}
    asked = Asked([0, 1, 2, 3], scores_global=False, personal=Serving.STORED, tested=tested)
    assert asked.missing("clients", [0], {1, 3}) == [1, 2]
    assert asked.missing("target-clients", [3], {1}) == [2]


# Where it is shown.


def test_the_printed_table(lacking: Run, whole: Run) -> None:
    value = f"{100 * lacking.last()['personal/clients'].value:.2f}"
    assert f"{value} (3 of 4 clients)" in printed(lacking)
    text = printed(whole, lacking)
    assert f"{value} (3 of 4 clients)" in text
    assert "Not all of these means are over the same clients" in text
    assert not over_same_clients([whole, lacking])
    assert "Not all" not in printed(whole, whole)
    # The numbers of a column end below each other.
    rows = [line for line in text.splitlines() if "/clients" in line]
    assert len({line.index(".") for line in rows}) == 1


def test_how_a_run_shows_itself(lacking: Run) -> None:
    assert "(3 of 4 clients)" in repr(lacking)
    assert "(round 2, 3 of 4 clients)" in lacking._repr_html_()


def test_the_pictures(lacking: Run, whole: Run) -> None:
    figure = plot.compare([whole, lacking])
    assert {"fedavg", "local (3 of 4 clients)"} <= set(legend(figure))
    assert "hollow marks: means over fewer clients than were asked" in caption(figure)
    assert "not all means are over the same clients" in caption(figure)
    assert "local: client 4 could not be scored" in caption(figure)
    right = figure.axes[-1]
    assert [label.get_text() for label in right.get_yticklabels()] == [
        "fedavg\nglobal model",
        "local\npersonalised model\n(3 of 4 clients)",
    ]
    hollow = [line for axes in figure.axes[:-1] for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1
    np.testing.assert_array_equal(hollow[0].get_xdata(), [1, 2])
    np.testing.assert_array_equal(hollow[0].get_ydata(), lacking.scores()["personal/clients"].values)


def test_the_picture_of_training(lacking: Run, whole: Run) -> None:
    figure = plot.terms([whole, lacking])
    assert legend(figure) == ["fedavg", "local (4 of 5 clients)"]
    assert "hollow marks" in caption(figure)


def test_gains_are_over_the_clients_that_both_scored(lacking: Run, whole: Run) -> None:
    (gain,) = gains(lacking, {"other": whole})
    here, there = lacking.clients[-1], whole.clients[-1]
    both = [0, 1, 2]  # the first of each
    assert here["clients"][:3] == there["clients"][:3] == both
    weights = here["samples"][:3]
    ours, theirs = here["scores"]["personal/clients"]["accuracy"], there["scores"]["global/clients"]["accuracy"]
    expected = np.average(ours, weights=weights) - np.average(theirs[:3], weights=weights)
    assert (gain.value, gain.clients) == (pytest.approx(expected), 3)
    (same,) = gains(whole, {"other": whole})
    assert (same.value, same.clients) == (0.0, None)


def test_gains_that_are_not_over_all_say_so(tmp_path: Path) -> None:
    config = tables(owners(tmp_path, untrainable=[4]), "fedavg", rounds=1)
    (tmp_path / "a.toml").write_text(tomli_w.dumps(config))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "a.toml"), "--baselines", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "(over the 4 clients that both scored)" in done.output


def test_the_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(Console(width=200, force_terminal=True, color_system=None))
    about = {"grid": "in-process", "actors": None, "parameters": 1, "clients": 10, "device": "cpu"}
    about |= {"engine": "one by one", "engine_because": "so", "notes": ["the term 'x' has no effect: so"]}
    bar.begin(read_config("quickstart")[0], Path("x"), 1, about)
    scores: dict[str, Any] = {"personal/clients": {"accuracy": {"weighted_mean": 0.5}, "scored": 7, "of": 10}}
    scores["global/held-out/photo"] = {"accuracy": 0.25}
    bar.round(Round(1, [*range(10)], trained=8, train={"cross_entropy": 1.5}, scores=scores))
    bar.close()
    shown = capsys.readouterr().out
    assert "loss 1.500 (8 of 10)" in shown
    assert "personal 50.0 % (7 of 10)" in shown
    assert "global on held-out photo 25.0 %" in shown
    assert "the term 'x' has no effect: so" in shown


def test_the_line_of_a_deployed_round(capsys: pytest.CaptureFixture[str]) -> None:
    scores: dict[str, Any] = {"global/clients": {"accuracy": {"weighted_mean": 0.5}, "scored": 1, "of": 2}}
    RoundLines(["a", "b"]).round(Round(1, [0, 1], failures=[(1, "it is not connected")], scores=scores))
    assert "1 of 2 clients (not b); global/clients 50.00 % (1 of 2 clients)" in capsys.readouterr().out


def test_a_deployments_server_knows_who_holds_test_samples(tmp_path: Path) -> None:
    config = build(tables(owners(tmp_path)))
    federation = federate(config.data, 0)
    server = open_run(config, federation, Place(tmp_path / "run"), Silent(), elsewhere=True)
    one = Described(5, 0, 5, 0, 0, (4,), "float32", 1, None)
    restrict_sampling(server, {0: one, 1: replace(one, test=0), 2: replace(one, validation=3)})
    # Who has never been there may hold some, of the kind that others hold.
    assert {data: who.tolist() for data, who in server.strategy.tested.items()} == {
        "clients": [0, 2, 3, 4],
        "target-clients": [],
        "validation-clients": [2, 3, 4],
    }


def test_a_deployments_server_draws_by_what_clients_say_of_their_samples(tmp_path: Path) -> None:
    """One that it has not heard of holds as many as the mean."""
    config = build(tables(owners(tmp_path)))
    server = open_run(config, federate(config.data, 0), Place(tmp_path / "run"), Silent(), elsewhere=True)
    one = Described(5, 0, 5, 0, 0, (4,), "float32", 1, None)
    restrict_sampling(server, {0: one, 1: replace(one, train=10**9), 2: replace(one, train=0, unlabelled=7)})
    mean = (5 + 10**9 + 7) / 3
    assert server.strategy.sizes(1, 0).tolist() == [5, 10**9, 7, mean, mean]


def test_a_probe_of_clients_own_says_over_how_many() -> None:
    own = Result("linear", 1.0, "own", "clients", 0, 5, 5, 0.9, clients=3, of=4, over_clients={"worst_decile": 0.5})
    server = Result("linear", 1.0, "pooled", "server-test", 0, 5, 5, 0.25)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(probe_table([own, server]))
    assert "90.00 (3 of 4 clients)" in captured.get()
    assert captured.get().count("clients)") == 1


def test_a_model_that_is_not_finite_is_missing() -> None:
    federation = federation_of([6, 6, 6])
    engine = engine_of(federation, small_module())
    engine.task.samples.federation.x[federation.train[1]] = np.inf
    worker = worker_of(engine, update_of("local", lr=0.1))
    strategy = strategy_type("local")(SGDSettings(name="local", lr=0.1, local_epochs=1), seed=0, clients=3)
    strategy.tested = {"clients": np.arange(3)}
    reports: list[Round] = []
    w = m.pack(worker.initial.numpy())
    strategy.start(InProcessGrid(worker, 3), w, 1, on_round=lambda report, _: reports.append(report))
    assert reports[0].scores["personal/clients"]["scored"] == 2
    assert reports[0].client_scores[0].missing == [1]
