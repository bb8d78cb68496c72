"""What pictures of studies say: numbers in the drawn artists, in words, and in sentences where something is lacking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from typer.testing import CliRunner

from fedtl import plot
from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.cli.plot import KINDS
from fedtl.comparison import Comparison, compare
from fedtl.plot.client_similarity import Similarity
from fedtl.plot.costs import front
from fedtl.plot.domain_features import DomainFeatures
from fedtl.plot.style import inches, rc
from fedtl.studies import Planned, Study
from tests.made_up import ALPHA, made_up_study

ALPHAS = (0.1, 0.5, 1.0)
SPREAD = np.array([-0.1, -0.05, 0.0, 0.05])


def accuracies(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
    """PFedMe is best but for its first client, FedAvg gains with α, and local training stays."""
    mean = {"pfedme": 0.8, "fedavg": 0.4 + 0.3 * setting[ALPHA], "local": 0.6}[method]
    first = np.array([-0.3 if method == "pfedme" else 0.0, 0.0, 0.0, 0.0])
    return mean + 0.01 * seed + SPREAD + first


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    trials = [
        Planned("search/0", "pfedme 0", 0, "finished", 0, {"strategy.lr": 0.001, "strategy.opt": "sgd"}, 0.5),
        Planned("search/1", "pfedme 0", 0, "finished", 1, {"strategy.lr": 0.1, "strategy.opt": "adam"}, 0.7),
        Planned("search/2", "pfedme 0", 0, "pruned", 2, {"strategy.lr": 1.0, "strategy.opt": "sgd"}, 0.2),
        Planned("search/3", "pfedme 0", 0, "failed", 3, {"strategy.lr": 9.0, "strategy.opt": "sgd"}, failure="NaN"),
    ]
    made = made_up_study(
        tmp_path_factory.mktemp("plots"), accuracies, axes={ALPHA: ALPHAS}, failed={("local", 2, 2)}, trials=trials
    )
    chosen = {"strategy.lr": 0.1, "strategy.opt": "adam"}
    cells = tuple(replace(cell, chosen=chosen) if cell.name == "pfedme 0" else cell for cell in made.cells)
    made = replace(made, cells=cells)
    made.save()
    return made


@pytest.fixture(scope="module")
def comparison(study: Study) -> Comparison:
    return compare(study.folder, resamples=0)


def caption(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def entries(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts() if text.get_text()]


def mean_of(comparison: Comparison, variant: str, alpha: float) -> float:
    return next(g.last.mean for g in comparison.groups if (g.variant, g.setting[ALPHA]) == (variant, alpha))


def test_a_line_over_the_settings(comparison: Comparison, study: Study) -> None:
    figure = plot.settings(comparison, study)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "alpha"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.5", "1"]
    assert entries(figure) == ["pfedme", "fedavg", "local"]
    lines = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == 3]
    for line, variant in zip(lines, ("pfedme", "fedavg", "local")):
        np.testing.assert_allclose(np.asarray(line.get_ydata()), [mean_of(comparison, variant, a) for a in ALPHAS])
        np.testing.assert_allclose(np.asarray(line.get_xdata()), np.log10(ALPHAS), atol=0.03)  # side by side
    assert "marks: mean of 3 seeds, whiskers: lowest to highest; hollow: not all seeds finished" in caption(figure)
    (hollow,) = [line for line in axes.lines if line not in lines]
    assert hollow.get_markerfacecolor() == "white"
    with pytest.raises(ConfigError, match=r"--x = 'beta': the settings do not differ in it: known: data\.partition"):
        plot.settings(comparison, study, x="beta")


@pytest.mark.parametrize("without", [{}, {ALPHA: None}])
def test_a_setting_without_the_axiss_key_is_drawn(comparison: Comparison, without: dict[str, Any]) -> None:
    name = "data.partition.name"
    settings = [
        {name: "iid", **without} if group.setting[ALPHA] == 1.0 else {name: "dirichlet", **group.setting}
        for group in comparison.groups
    ]
    groups = [replace(group, setting=setting) for group, setting in zip(comparison.groups, settings)]
    figure = plot.settings(replace(comparison, groups=tuple(groups)), x="alpha")
    drawn = {axes.get_title("left"): axes for axes in figure.axes}
    assert list(drawn) == ["partition=iid", "partition=dirichlet"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["none", "0.1", "0.5"]
    for title, alphas in (("partition=iid", [1.0, None, None]), ("partition=dirichlet", [None, 0.1, 0.5])):
        lines = [line for line in drawn[title].lines if len(np.asarray(line.get_xdata())) == 3]
        for line, variant in zip(lines, ("pfedme", "fedavg", "local"), strict=True):
            means = [np.nan if alpha is None else mean_of(comparison, variant, alpha) for alpha in alphas]
            np.testing.assert_allclose(np.asarray(line.get_ydata()), means)


def test_lists_are_values_of_an_axis(comparison: Comparison) -> None:
    widths = {0.1: [64], 0.5: [64, 32], 1.0: []}
    groups = [replace(each, setting={"model.hidden": widths[each.setting[ALPHA]]}) for each in comparison.groups]
    (axes,) = plot.settings(replace(comparison, groups=tuple(groups))).axes
    assert axes.get_xlabel() == "hidden"
    assert sorted(tick.get_text() for tick in axes.get_xticklabels()) == ["64", "64+32", "none"]


def test_a_heat_map_has_every_mean(comparison: Comparison, study: Study) -> None:
    (axes,) = plot.heat(comparison, study).axes
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    for row, variant in enumerate(("pfedme", "fedavg", "local")):
        for column, alpha in enumerate(ALPHAS):
            mark = "°" * ((variant, alpha) == ("local", 1.0))
            assert texts[(column, row)] == f"{100 * mean_of(comparison, variant, alpha):.1f}{mark}"
    assert [text.get_weight() for text in axes.texts] == ["bold"] * 3 + ["normal"] * 6


def test_who_gains_and_who_loses(comparison: Comparison) -> None:
    figure = plot.gains(comparison)
    assert [axes.get_title("left") for axes in figure.axes] == ["alpha=0.1", "alpha=0.5", "alpha=1"]
    assert figure.axes[0].get_ylabel() == "gain over local"
    lines = {
        line.get_color(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_xdata()) > 2
    }
    gained = np.sort(np.tile([-10.0, 20.0, 20.0, 20.0], 3))
    assert any(len(y) == 12 and np.allclose(y, gained) for y in lines.values())
    assert [text.get_text() for text in figure.axes[0].texts] == ["25 %", "100 %"]
    caption = " ".join(figure.legends[0].get_title().get_text().split())
    assert "gains in percentage points of accuracy of " in caption
    assert "in the last round; a point is one client under one of 3 seeds" in caption
    assert "mean over clients" not in caption  # nothing is averaged here
    assert plot.gains(comparison, "fedavg").axes[0].get_ylabel() == "gain over fedavg"
    with pytest.raises(ConfigError, match="--against = 'fedav': no baseline of that name: did you mean 'fedavg'"):
        plot.gains(comparison, "fedav")
    with pytest.raises(ConfigError, match=r"add a run with strategy\.name=local"):
        plot.gains(replace(comparison, transfers=()))


def test_one_methods_gains_are_bars(study: Study) -> None:
    comparison = compare(study.folder, only=("pfedme", "local", "alpha=0.1"), resamples=0)
    figure = plot.gains(comparison)
    heights = [bar.get_height() for bar in figure.axes[0].patches if isinstance(bar, Rectangle) and bar.get_width() < 1]
    np.testing.assert_allclose(heights, np.sort(np.tile([-10.0, 20.0, 20.0, 20.0], 3)))
    assert entries(figure) == ["better off", "worse off"]


def test_the_front_is_who_is_not_beaten(comparison: Comparison) -> None:
    here = [group for group in comparison.groups if group.setting[ALPHA] == 0.1]
    assert [group.variant for group in front(here)] == ["local", "pfedme"]  # FedAvg costs as much and is worse
    assert next(group for group in here if group.variant == "pfedme").sent.mean == 2 * 2_000_000
    figure = plot.pareto(comparison)
    assert figure.axes[0].get_xlabel() == "sent (MB)"
    assert "local (sends nothing)" in entries(figure)
    silent = [group for group in comparison.groups if group.variant == "local"]
    with pytest.raises(ConfigError, match="none of these runs has sent a byte"):
        plot.pareto(replace(comparison, groups=tuple(silent)))


def test_own_against_global(comparison: Comparison) -> None:
    figure = plot.personal_global(comparison)
    (axes,) = figure.axes
    assert axes.get_title("left") == "pfedme\nown better: 100 %"
    points = np.concatenate([np.asarray(each.get_offsets()) for each in axes.collections])
    assert len(points) == 3 * 3 * 4  # settings, seeds, clients
    np.testing.assert_allclose(points[:, 1] - points[:, 0], 0.05)
    assert "without both models: fedavg, local" in caption(figure)
    alone = [group for group in comparison.groups if group.variant == "local"]
    with pytest.raises(ConfigError, match="no run has scored each client under both"):
        plot.personal_global(replace(comparison, groups=tuple(alone)))


def test_trials_of_a_search(study: Study) -> None:
    figure = plot.sensitivity(study)
    assert [axes.get_xlabel() for axes in figure.axes] == ["lr", "opt"]
    first, second = figure.axes
    assert first.get_xscale() == "log"
    drawn = {(float(x), float(y)) for line in first.lines for x, y in zip(*map(np.asarray, line.get_data()))}
    assert drawn == {(0.001, 0.5), (0.1, 0.7), (1.0, 0.2)}
    assert [tick.get_text() for tick in second.get_xticklabels()] == ["adam", "sgd"]
    rings = [line for line in first.lines if line.get_markerfacecolor() == "none"]
    assert [(np.asarray(ring.get_xdata())[0], np.asarray(ring.get_ydata())[0]) for ring in rings] == [(0.1, 0.7)]
    assert "1 of 4 trials failed" in caption(figure)
    assert first.get_ylabel() == "accuracy"
    of = "accuracy of the personalised model (the global one where a method has none) on the clients' validation data"
    assert f"{of}, in the last scored round; each point is a trial" in caption(figure)
    search = {"metric": "loss", "score": "global/validation-clients", "at": "best"}
    figure = plot.sensitivity(replace(study, search=search))
    assert figure.axes[0].get_ylabel() == "loss"
    of = "loss of the global model on the clients' validation data, in the best scored round"
    assert f"{of}; each point" in caption(figure)
    with pytest.raises(ConfigError, match="has searched no hyperparameters"):
        plot.sensitivity(replace(study, runs=study.finals))


def test_few_settings_conclude_nothing(comparison: Comparison) -> None:
    figure = plot.ranks(comparison)
    assert "nothing can be concluded: a test takes 5 settings at least" in caption(figure)
    assert comparison.ranking is not None
    ranking = replace(comparison.ranking, p=0.01, critical_difference=1.5, cliques=(("pfedme", "local"),))
    figure = plot.ranks(replace(comparison, ranking=ranking))
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"pfedme", "local", "fedavg", "critical difference 1.50"} <= set(words)
    (bar,) = [line for line in figure.axes[0].lines if line.get_linewidth() == 3.0]
    ends = np.asarray(bar.get_xdata())
    ranks = dict(zip(ranking.methods, ranking.ranks))
    np.testing.assert_allclose(ends, [ranks["pfedme"], ranks["local"]], atol=0.1)
    with pytest.raises(ConfigError, match="--kind ranks"):
        plot.ranks(replace(comparison, ranking=None))


def test_clients_stand_in_clusters() -> None:
    block = np.kron(np.eye(2), np.full((3, 3), 0.8)) + 0.2 * np.eye(6)
    mixed = [0, 3, 1, 4, 2, 5]
    data = Similarity("fedavg", tuple("abcdef"), block[np.ix_(mixed, mixed)], block[np.ix_(mixed, mixed)])
    assert data.agreement == pytest.approx(1.0)
    figure = plot.similarity(data)
    fields = next(axes for axes in figure.axes if axes.images)
    names = "".join(label.get_text() for label in fields.get_xticklabels())
    assert {frozenset(names[:3]), frozenset(names[3:])} == {frozenset("ace"), frozenset("bdf")}
    drawn = np.asarray(fields.images[0].get_array())
    np.testing.assert_allclose(drawn, block)


def test_features_by_domain_and_label() -> None:
    points = np.arange(12.0).reshape(6, 2)
    data = DomainFeatures(
        *("fedavg", ("source", "target"), points, np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2])),
        *(("0", "1", "2"), "PCA (90 % of the variance)", np.array([[0.0, 1.5], [1.5, 0.0]])),
    )
    figure = plot.features(data)
    assert [len(each.get_offsets()) for each in figure.axes[0].collections] == [3, 3]
    assert [len(each.get_offsets()) for each in figure.axes[1].collections] == [2, 2, 2]
    assert "proxy A-distance 1.50 (0: alike, 2: told apart without error)" in caption(figure)


def test_distances_of_several_domains_are_those_of_each_pair() -> None:
    apart = np.array([[0.0, 0.5, 1.0], [0.5, 0.0, 1.5], [1.0, 1.5, 0.0]])
    names = ("mnist", "usps", "a domain of a long name (held out)")
    data = DomainFeatures(
        *("fedavg", names, np.arange(6.0).reshape(3, 2), np.arange(3), np.zeros(3, np.int64)),
        *(("0",), "PCA (90 % of the variance)", apart),
    )
    figure = plot.features(data, width=3.3)
    fields = next(axes for axes in figure.axes if axes.images)
    at = {text.get_position(): text.get_text() for text in fields.texts}
    assert at == {(0, 0): "0.50", (0, 1): "1.00", (1, 1): "1.50"}
    assert [label.get_text() for label in fields.get_xticklabels()] == ["mnist", "usps"]
    assert next(label.get_text() for label in fields.get_yticklabels()) == "usps"


def test_pictures_are_as_wide_as_asked(comparison: Comparison, study: Study) -> None:
    figures = [
        plot.settings(comparison, study, width=3.3),
        plot.heat(comparison, study, width=3.3),
        plot.ranks(comparison, width=3.3),
        plot.per_client(study.load_runs()[:6], width=3.3),
    ]
    for figure in figures:
        assert figure.get_figwidth() == 3.3
        with mpl.rc_context(rc(3.3)):
            figure.draw_without_rendering()
            around = figure.get_tightbbox()
        assert around.x0 > -0.05
        assert around.x1 < 3.35


def test_lengths() -> None:
    assert inches("8.4cm") == pytest.approx(3.307, abs=1e-3)
    assert inches("84mm") == pytest.approx(inches(" 8.4 cm "))
    assert inches("3") == inches("3in") == 3.0
    for wrong in ("3pt", "-3in", "wide", "400in"):
        with pytest.raises(ConfigError, match=f"--width = '{wrong}'"):
            inches(wrong)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_the_command(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("plot", study.folder, "--width", "3.3in")
    assert (tmp_path / "settings.png").exists()  # the most useful picture of a study of several settings
    run("plot", study.folder, "--kind", "heat", "--only", "alpha=0.5", "--only", "pfedme", "-o", "few.svg")
    assert ">pfedme<" in (tmp_path / "few.svg").read_text()
    assert ">fedavg<" not in (tmp_path / "few.svg").read_text()


def test_trials_are_drawn_before_any_run_is_finished(study: Study, tmp_path: Path) -> None:
    waiting = tuple(run if run.trial is not None else replace(run, state="waiting") for run in study.runs)
    replace(study, folder=tmp_path, runs=waiting).save()
    run("plot", tmp_path, "--kind", "sensitivity", "-o", tmp_path / "trials.png")
    assert (tmp_path / "trials.png").exists()
    with pytest.raises(ConfigError, match="the trials of a search are a study's"):
        run("plot", study.folder / study.finals[0].folder, "--kind", "sensitivity")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "gain"], "--kind = 'gain' is unknown: did you mean 'gains'?"),
        (["--kind", "heat", "--axis", "bytes"], "--axis = 'bytes': a picture of the kind 'heat' has no such option"),
        (["--kind", "similarity"], "--kind similarity: it shows one run, and these are 26; give one run's folder"),
        (["--only", "alpha=7"], "--only = alpha=7: no run fits: did you mean 'alpha=1'?"),
        (["--kind", "sensitivity", "--only", "alpha=7"], "--only = alpha=7: no cell fits: did you mean 'alpha=1'?"),
        (
            ["--kind", "heat", "--score", "a", "--score", "b"],
            "--score = ['a', 'b']: this picture has one; give one",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(study: Study, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run("plot", study.folder, *words)
    assert str(error.value) == message


def test_every_kind_is_in_the_help() -> None:
    text = " ".join(run("plot", "--help").split())
    assert all(kind in text for kind in KINDS)
