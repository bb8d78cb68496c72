"""What ``fedtl report`` writes: no claim beyond what is shown, nothing but text out of records, the same each time."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fedtl
from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.comparison import compare
from fedtl.comparison.find import Loaded, load_all
from fedtl.comparison.formats import sections
from fedtl.data import read_data
from fedtl.data.federate import federate
from fedtl.reports import words
from fedtl.reports.claim import Claim, claim, read
from fedtl.reports.costs import runs_table
from fedtl.reports.curves import MOST_POINTS, convergence
from fedtl.reports.distributions import MOST_MARKS, distribution
from fedtl.reports.holdings import holdings, without_download
from fedtl.reports.layout import settings
from fedtl.reports.material import Asked, Source, gather
from fedtl.reports.options import chosen, how_chosen
from fedtl.reports.plan import asked
from fedtl.reports.write import render
from fedtl.studies import Planned, Study
from tests.made_study import made_run, made_study

CLIENTS = 12
LOW = np.linspace(0.4, 0.5, CLIENTS)
HIGH = LOW + np.linspace(0.2, 0.3, CLIENTS)
BAD = "<script>alert('x')</script> & \"co\""


def study_of(folder: Path, better: dict[float, str], seeds: int = 3, alphas: tuple[float, ...] = (0.1, 1.0)) -> Study:
    """FedAvg and local training, the one named above the other by α; equal where none is named."""
    values = {}
    for method, alpha, seed in itertools.product(("fedavg", "local"), alphas, range(seeds)):
        values[method, alpha, seed] = ((HIGH if better.get(alpha) == method else LOW) + 0.001 * seed).tolist()
    return made_study(folder, values)


def claim_of(folder: Path, asked: Asked | None = None) -> Claim:
    material = gather([folder], asked or Asked())
    return claim(material, settings(material))


def page_of(*folders: Path, made: str = "") -> str:
    return render(gather(folders, Asked()), read_data=False, made=made)


def words_of(page: str) -> str:
    """What stands on a page."""
    body = re.sub(r"<(style|script|title)>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


class Checked(HTMLParser):
    """Reads a page, and fails where an element is not closed by its own end, or an attribute stands twice."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})
    SVG_ALONE = frozenset({"path", "circle", "rect", "use"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# The answer.


@pytest.mark.parametrize(
    ("better", "seeds", "headline"),
    [
        ({0.1: "fedavg", 1.0: "fedavg"}, 3, "fedavg is better than local in both settings."),
        ({0.1: "local", 1.0: "local"}, 3, "local is better than fedavg in both settings."),
        (
            {0.1: "fedavg", 1.0: "local"},
            3,
            "With alpha = 0.1 fedavg is better than local. With alpha = 1 local is better than fedavg.",
        ),
        (
            {0.1: "fedavg"},
            3,
            "With alpha = 0.1 fedavg is better than local. With alpha = 1 no difference is shown that holds for other "
            "seeds.",
        ),
        ({}, 3, "No difference between the methods is shown in any setting."),
        (
            {0.1: "fedavg", 1.0: "fedavg"},
            1,
            "Differences are shown for the clients of these very seeds only, not for other seeds.",
        ),
    ],
)
def test_the_headline_says_what_is_shown(tmp_path: Path, better: dict[float, str], seeds: int, headline: str) -> None:
    study_of(tmp_path, better, seeds)
    assert claim_of(tmp_path).headline == headline


def test_of_a_loss_the_smaller_one_is_better(tmp_path: Path) -> None:
    study_of(tmp_path, {1.0: "local"}, alphas=(1.0,))
    assert claim_of(tmp_path, Asked(metric="loss")).headline == "local is better than fedavg."
    assert claim_of(tmp_path, Asked(metric="loss")).lines[0].scores[0][0] == "local"


def test_scores_are_of_the_round_that_is_compared(tmp_path: Path) -> None:
    """Validation chooses the round before the last, in which every score is two thirds of the last one's."""
    study_of(tmp_path, {1.0: "local"}, alphas=(1.0,))
    for file in tmp_path.glob("runs/*/rounds.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            best = float(line["round"] == 2)
            line["scores"]["global/validation-clients"] = {"accuracy": {"weighted_mean": best, "worst_decile": best}}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    last, chosen = (claim_of(tmp_path, Asked(at=at)).lines[0].scores[0][1] for at in ("last", "validation"))
    assert (last, chosen) == ("70.10 ± 0.10 %", "46.73 ± 0.07 %")


def test_no_claim_is_stronger_than_the_comparison(tmp_path: Path) -> None:
    random, methods, claims = np.random.default_rng(0), ("fedavg", "local", "pfedme"), []
    for number in range(6):
        values = {}
        for method, alpha, seed in itertools.product(methods, (0.1, 1.0), range(3)):
            mean = 0.5 + 0.06 * methods.index(method) * (number % 3) * (alpha == 1.0 or number > 2)
            values[method, alpha, seed] = np.clip(random.normal(mean, 0.1, 8), 0, 1).tolist()
        made_study(tmp_path / str(number), values)
        material = gather([tmp_path / str(number)], Asked())
        assert material.comparison is not None
        true = set()
        for each in material.comparison.differences:
            if each.shown == "seeds":
                assert each.over_seeds is not None
                better, worse = (each.first, each.second)[:: 1 if each.over_seeds.mean > 0 else -1]
                setting = better.split()[1].removesuffix(".0").replace("=", " = ")
                true.add((setting, better.split()[0], worse.split()[0]))
        drawn = settings(material)
        assert {(one.name, *pair) for one in drawn for pair in read(one.comparison).by_seeds} == true
        claimed = claimed_in(claim(material, drawn).headline)
        assert claimed <= true
        claims.append(len(claimed))
    assert 0 in claims
    assert max(claims) > 2


def claimed_in(headline: str) -> set[tuple[str, str, str]]:
    """Setting, the better and the worse method, of all that a headline says."""
    claims = set()
    for sentence in re.split(r"\. |\.$", headline):
        of_one = re.match(r"With (alpha = [\d.]+) ", sentence)
        for clause in sentence.removeprefix(of_one[0] if of_one else "").split("; "):
            better, _, others = clause.partition(" is better than ")
            for worse in re.findall("fedavg|local|pfedme", others):
                claims |= {(name, better, worse) for name in ([of_one[1]] if of_one else ["alpha = 0.1", "alpha = 1"])}
    assert claims or "better than" not in headline
    return claims


def test_scores_of_the_server_prove_nothing(tmp_path: Path) -> None:
    made_run(tmp_path / "a", "fedavg", LOW.tolist(), score="global/server-test")
    made_run(tmp_path / "b", "fedprox", HIGH.tolist(), score="global/server-test")
    assert claim_of(tmp_path).headline == "Nothing could be tested, so no method is shown to be better than another."
    assert "is better than" not in words_of(page_of(tmp_path))


def test_a_single_method_is_compared_with_nothing(tmp_path: Path) -> None:
    made_run(tmp_path / "a", "fedavg", LOW.tolist())
    assert claim_of(tmp_path).headline == "There is one method, fedavg, so it is compared with nothing."


def test_unfinished_and_failed_runs_stand_beside_the_answer(tmp_path: Path) -> None:
    values = {(m, 0.1, s): HIGH.tolist() for m in ("fedavg", "local") for s in range(2)}
    made_study(tmp_path, {**values, ("local", 0.1, 1): "failed", ("local", 0.1, 2): "waiting"})
    text = words_of(page_of(tmp_path))
    assert "3 of 5 runs finished (1 failed, 1 waiting). What follows is of those alone." in text
    assert "the disk <is> full" in text


def test_a_run_may_finish_while_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made_study(tmp_path, {(m, 0.1, s): HIGH.tolist() for m in ("fedavg", "local") for s in range(2)})
    running = tuple(replace(run, state="running") if run.seed else run for run in study.runs)
    replace(study, runs=running).save()

    def load_and_finish(sources: Iterable[Source]) -> Loaded:
        loaded = load_all(sources)
        study.save()
        return loaded

    monkeypatch.setattr("fedtl.reports.material.load_all", load_and_finish)
    text = words_of(page_of(tmp_path))
    assert "2 of 4 runs finished (2 running). What follows is of those alone." in text


@pytest.mark.parametrize("state", ["failed", "waiting", "running"])
def test_a_study_without_a_finished_run_has_a_report(tmp_path: Path, state: str) -> None:
    made_study(tmp_path, {("fedavg", 0.1, 0): state, ("local", 0.1, 0): state})
    page = page_of(tmp_path)
    Checked(page)
    assert "Nothing can be concluded: no run has finished." in words_of(page)
    assert f"0 of 2 runs finished (2 {state})." in words_of(page)


def test_scores_that_are_no_numbers(tmp_path: Path) -> None:
    made_run(tmp_path / "all" / "a", "fedavg", [None, None])
    assert "Nothing can be concluded: no scored round is recorded yet" in words_of(page_of(tmp_path / "all"))
    made_run(tmp_path / "some" / "a", "fedavg", LOW.tolist())
    made_run(tmp_path / "some" / "b", "local", [None] * CLIENTS)
    Checked(page_of(tmp_path / "some"))


# The page.


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two methods in two settings, one of them under a name that is dangerous; in a folder that no test changes."""
    folder = tmp_path_factory.mktemp("study")
    values = {
        (method, alpha, seed): (HIGH if method == "local" else LOW + 0.01 * seed).tolist()
        for method, alpha, seed in itertools.product(("fedavg", "local"), (0.1, 1.0), range(2))
    }
    trial = Planned("search/0", f"{BAD} alpha=0.1", 0, "finished", 0, {"strategy.lr": 0.1}, 0.5)
    about = {"search": {"method": "grid"}, "trials": (trial,), "notes": (f"By {BAD}.",), "failures": [(0, BAD)]}
    return made_study(folder, values, names={"fedavg": BAD}, question=f"Why {BAD}?", **about)


def test_names_are_text_and_nothing_else(study: Study) -> None:
    page = page_of(study.folder)
    checked = Checked(page)
    assert checked.elements["script"] == 1
    assert "<script>alert" not in page
    assert words_of(page).count(BAD) > 5
    ids = Counter(value for _, name, value in checked.attributes if name == "id")
    assert max(ids.values()) == 1
    for tag, name, value in checked.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style", tag
        if name in ("href", "src") and value != "data:,":
            assert value.removeprefix("#") in ids, value
        if name in ("aria-labelledby", "for"):
            assert value in ids, value


def test_the_policy_allows_this_style_and_this_script_alone(study: Study) -> None:
    page = page_of(study.folder)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        text = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]  # type: ignore[index]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_tables_are_those_of_compare(tmp_path: Path) -> None:
    study_of(tmp_path, {0.1: "fedavg"})
    text = words_of(page_of(tmp_path))
    whole = compare(tmp_path)
    for section in sections(whole):
        for row in section.rows:
            cells = [cell.removesuffix(" alpha=0.1").removesuffix(" alpha=1.0") for cell in row]  # as cells are named
            assert " ".join(cells) in text, row
    for note in whole.notes:
        assert note in text or note.startswith("Not paired, as their clients hold different samples")


def test_it_is_the_same_each_time(study: Study, tmp_path: Path) -> None:
    first, second = (
        fedtl.report(source, tmp_path / f"{n}.html", read_data=False) for n, source in enumerate((study, study.folder))
    )
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]
    assert "from records alone, by <me>." in words_of(page_of(study.folder, made="by <me>"))


def test_settings_with_the_same_clients_are_compared_too_and_apart(tmp_path: Path) -> None:
    values = {
        (method, alpha, seed): (LOW + 0.2 * (alpha > 0.5) + 0.001 * seed).tolist()
        for method, alpha, seed in itertools.product(("fedavg", "local"), (0.1, 1.0), range(3))
    }
    study = made_study(tmp_path, values, split="same")
    assert claim_of(tmp_path).headline == "No difference between the methods is shown in any setting."
    page = page_of(study.folder)
    assert "Differences across settings" in page
    assert "fedavg alpha=0.1 fedavg alpha=1.0 -20.00" in words_of(page)
    assert "not across settings" not in words_of(page)


def test_plain_runs_have_the_page_without_the_study(study: Study) -> None:
    page = page_of(*(study.folder / run.folder for run in study.finals))
    Checked(page)
    text = words_of(page)
    assert "does not say how their hyperparameters were chosen" in text
    assert "2 methods × 2 settings × 2 seeds: 8 runs." in text
    assert "local is better than fedavg in both settings." in text


def test_settings_are_those_of_the_comparison(tmp_path: Path) -> None:
    """Of plain runs every key that is not a method's makes a setting, as in the ranks and in fedtl table."""
    for method, rounds, seed in itertools.product(("fedavg", "local"), (3, 2), range(2)):
        values = (HIGH if method == "local" else LOW).tolist()
        made_run(tmp_path / f"{method}-{rounds}-{seed}", method, values, seed, rounds=rounds)
    drawn = settings(gather([tmp_path], Asked()))
    assert [setting.name for setting in drawn] == ["rounds = 2", "rounds = 3"]
    assert [[method.label for method in setting.methods] for setting in drawn] == [["fedavg", "local"]] * 2
    text = words_of(page_of(tmp_path))
    assert "local is better than fedavg in both settings." in text
    assert "Mean ranks over 2 settings" in text
    assert "2 methods × 2 settings × 2 seeds: 8 runs." in text


def test_keys_of_one_ending_are_told_apart(tmp_path: Path) -> None:
    study = made_study(tmp_path, {("fedavg", 0.1, 0): LOW.tolist(), ("local", 0.1, 0): HIGH.tolist()})
    axes = {"data.partition.size": ("a", "b"), "data.target.size": ("a", "b")}
    cells = [replace(cell, setting=dict.fromkeys(axes, "ab"[n])) for n, cell in enumerate(study.cells)]
    replace(study, axes=axes, cells=tuple(cells)).save()
    material = gather([tmp_path], Asked())
    drawn = settings(material)
    assert [setting.name for setting in drawn] == [f"partition.size = {each}, target.size = {each}" for each in "ab"]
    sentence = "2 methods × 2 values of partition.size × 2 values of target.size × 1 seed: 2 runs."
    assert asked(material, drawn) == sentence
    assert [row[1] for row in runs_table(material, drawn).rows] == [setting.name for setting in drawn]


def test_every_run_is_listed_with_its_costs(tmp_path: Path) -> None:
    values = {("fedavg", 0.1, 0): [0.5, 0.5], ("fedavg", 0.1, 1): [None, None], ("local", 0.1, 0): "failed"}
    made_study(tmp_path, values)
    material = gather([tmp_path], Asked())
    table = runs_table(material, settings(material))
    assert table.rows == (
        ("fedavg", "0", "finished", "3", "50.00 %", "3.0", "0.01", "runs/fedavg-0.1-0"),
        ("fedavg", "1", "finished", "3", "-", "3.0", "0.01", "runs/fedavg-0.1-1"),
        ("local", "0", "failed", "-", "-", "-", "-", "runs/local-0.1-0"),
    )


def test_the_page_says_what_scores_are_of(tmp_path: Path) -> None:
    made_run(tmp_path / "a", "fedavg", LOW.tolist())
    made_run(tmp_path / "b", "local", HIGH.tolist(), score="personal/clients")
    text = words_of(page_of(tmp_path))
    models = "accuracy of the global model (fedavg) and the personalised model (local) on the clients' test data"
    assert text.count(f"Scores are {models}, mean over clients weighted by samples.") == 1  # of the curves
    assert text.count(f"Scores are {models}, mean over clients weighted by samples, in the last round.") == 1
    assert text.count(f"Scores are {models}. A point is one client") == 1
    material = gather([tmp_path], Asked())
    table = runs_table(material, settings(material))
    place = [column.name for column in table.columns].index("score")
    assert [row[place] for row in table.rows] == ["global/clients", "personal/clients"]


def test_what_is_no_number_is_a_dash(tmp_path: Path) -> None:
    made_run(tmp_path / "a", "fedavg", LOW.tolist())
    comparison = compare(tmp_path)
    assert (words.value(comparison, 0.5), words.value(comparison, math.nan)) == ("50.00 %", "-")
    assert (words.p_value(0.00001), words.p_value(0.25)) == ("p < 0.0001", "p = 0.2500")


# Pictures.


def test_long_curves_are_thinned_and_say_so(tmp_path: Path) -> None:
    made_run(tmp_path / "a", "fedavg", [0.5, 0.6], rounds=200)
    picture = convergence(settings(gather([tmp_path], Asked()))[0])
    assert picture is not None
    assert len(picture.curves[0].marks) == MOST_POINTS
    assert [picture.curves[0].marks[i].text.split(":")[0] for i in (0, -1)] == ["fedavg, round 1", "fedavg, round 200"]
    assert picture.notes == ("Of up to 200 scored rounds 60 are drawn.",)
    assert len(picture.numbers.rows) == MOST_POINTS


def test_a_single_scored_round_stands_in_the_middle(tmp_path: Path) -> None:
    """An axis that goes on to a round that there is not would say that the run had stopped early."""
    made_run(tmp_path / "a", "fedavg", [0.5, 0.6], rounds=1)
    picture = convergence(settings(gather([tmp_path], Asked()))[0])
    assert picture is not None
    middle = (picture.left + picture.right) / 2
    assert [(tick.text, float(tick.place)) for tick in picture.x_ticks] == [("1", middle)]
    assert [float(mark.x) for mark in picture.curves[0].marks] == [middle]


def test_every_client_is_a_point_with_its_value(tmp_path: Path) -> None:
    made_run(tmp_path / "few", "fedavg", [0.25, 0.5, 0.75, 1.0])
    made_run(tmp_path / "many", "local", np.linspace(0, 1, MOST_MARKS + 1).tolist())
    first, second = map(distribution, settings(gather([tmp_path], Asked())))  # which hold other data
    assert first is not None
    assert second is not None
    (few,), (many,) = first.strips, second.strips
    assert [mark.text for mark in few.marks] == [f"fedavg, client {i}: {25 * (i + 1)}.00 %" for i in range(4)]
    assert not many.marks
    assert many.dots.count("M") == MOST_MARKS + 1
    assert second.notes[0].startswith("More than 120 points stand in the rows of local")
    assert first.numbers.rows[0] == ("fedavg", "4", "25.00 %", "43.75 %", "62.50 %", "81.25 %", "100.00 %")


def test_who_holds_what_is_drawn_where_the_fingerprint_is_the_records(tmp_path: Path) -> None:
    data = {"name": "digits", "clients": 4, "partition": {"name": "dirichlet", "alpha": 1.0}}
    federation = federate(read_data(data), 0)
    made_run(tmp_path / "a", "fedavg", [0.5] * 4, split=federation.fingerprint(), config={"data": data})
    drawn = settings(gather([tmp_path], Asked()))
    (picture,) = holdings(drawn, read_data=True)
    counts = federation.label_counts()
    assert len(picture.bubbles) == np.count_nonzero(counts)
    assert [row[1] for row in picture.numbers.rows] == [str(n) for n in counts.sum(1)]
    assert "its fingerprint is the record's" in picture.checked

    (sizes,) = holdings(drawn, read_data=False)
    assert not sizes.bubbles
    assert [row[1] for row in sizes.numbers.rows] == ["10"] * 4
    environment = tmp_path / "a" / "environment.json"
    environment.write_text(json.dumps({"split": "another"}))
    (other,) = holdings(settings(gather([tmp_path], Asked())), read_data=True)
    assert not other.bubbles
    assert "another split than the record's fingerprint says" in other.checked


def test_test_samples_are_those_of_the_clients_that_the_record_names(tmp_path: Path) -> None:
    made_run(tmp_path / "a", "fedavg", [0.5] * 3, config={"evaluate": {"clients": 3}})
    (tmp_path / "a" / "environment.json").write_text(json.dumps({"clients": 10}))
    record = {**json.loads((tmp_path / "a" / "clients.jsonl").read_text().splitlines()[-1]), "clients": [2, 5, 7]}
    (tmp_path / "a" / "clients.jsonl").write_text(json.dumps(record | {"samples": [11, 12, 13]}) + "\n")
    (drawn,) = holdings(settings(gather([tmp_path], Asked())), read_data=False)
    assert drawn.title == "3 of 10 clients, test samples"
    assert [bar.text for bar in drawn.bars] == [f"client {c}: 1{n} test samples" for c, n in ((2, 1), (5, 2), (7, 3))]
    assert drawn.numbers.rows == (("2", "11"), ("5", "12"), ("7", "13"))
    assert [tick.text for tick in drawn.x_ticks] == ["2", "5", "7"]
    (tmp_path / "a" / "environment.json").write_text(json.dumps({"names": [f"site {c}" for c in range(10)]}))
    (named,) = holdings(settings(gather([tmp_path], Asked())), read_data=True)
    assert [row[0] for row in named.numbers.rows] == ["site 2", "site 5", "site 7"]


def test_who_holds_what_is_drawn_of_each_stage_of_a_drift(tmp_path: Path) -> None:
    iid, shards = {"name": "iid"}, {"name": "shards"}
    stages = [{"after": 1, "partition": shards}, {"after": 3, "partition": iid}]
    data = {"name": "digits", "clients": 4, "partition": {"name": "drift", "base": iid, "stages": stages}}
    federation = federate(read_data(data), 0)
    ended_early = {"data": data, "rounds": 10, "stop": {"patience": 1}}
    made_run(tmp_path / "a", "fedavg", [0.5] * 4, split=federation.fingerprint(), config=ended_early)
    first, second = holdings(settings(gather([tmp_path], Asked())), read_data=True)  # the run has three rounds
    assert first.title == "4 clients, until round 1"
    assert second.title == "4 clients, from round 2 on (shards)"
    for picture, round in ((first, 1), (second, 2)):
        counts = federation.at(round).label_counts()
        assert len(picture.bubbles) == np.count_nonzero(counts)
    assert len(first.bubbles) > len(second.bubbles)


def test_data_that_are_not_here_are_a_sentence(tmp_path: Path) -> None:
    data = {"name": "no_such_module:Data", "clients": 2}
    made_run(tmp_path / "a", "fedavg", [0.5] * 2, split="some", config={"data": data})
    (picture,) = holdings(settings(gather([tmp_path], Asked())), read_data=True)
    assert "The data could not be read here" in picture.checked


def test_no_part_of_the_data_is_downloaded() -> None:
    others = {"target": {"name": "usps", "download": True}, "public": {"name": "emnist", "download": True}}
    data = read_data({"name": "mnist", "clients": 2, "download": True, **others})
    assert data.target is not None
    assert data.public is not None
    assert all(getattr(part, "download", None) for part in (data, data.target, data.public))
    offline = without_download(data)
    assert not any(getattr(part, "download", None) for part in (offline, offline.target, offline.public))


# Hyperparameters.


def test_whether_all_were_tuned_alike_is_said(tmp_path: Path) -> None:
    values = {(method, 0.1, 0): LOW.tolist() for method in ("fedavg", "local")}
    assert how_chosen(made_study(tmp_path / "a", values)).startswith("Hyperparameters were not tuned")
    trials = [Planned(f"t{i}", f"{m} alpha=0.1", 0, "finished", i) for m in ("fedavg", "local") for i in range(2)]
    equal = how_chosen(made_study(tmp_path / "b", values, trials=tuple(trials)))
    assert "2 trials for each method in each setting" in equal
    assert "1 to 2 trials for a method in a setting: the budgets are not equal" in how_chosen(
        made_study(tmp_path / "c", values, trials=tuple(trials[1:]))
    )
    one = made_study(tmp_path / "d", values, trials=tuple(trials[2:]))
    one = replace(one, cells=(one.cells[0], replace(one.cells[1], chosen={"strategy.lr": 0.1})))
    assert how_chosen(one) == (
        "Hyperparameters were searched for, with 2 trials for each method in each setting. 1 of 2 had nothing to tune."
    )
    assert [row[1] for row in chosen(one).rows] == ["no key", "strategy.lr = 0.1"]  # type: ignore[union-attr]


# The command.


def test_the_command_writes_the_page(study: Study, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    words = ["report", str(study.folder), "-o", str(page), "--no-data", "--against", "local", "--target", "0.5"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.output.replace("\n", "") == str(page)
    text = words_of(page.read_text(encoding="utf-8"))
    assert "Only pairs with local are compared." in text
    assert f"fedtl compare {study.folder} --against local --target 0.5" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "page.pdf"], "the name must end in .html"),
        (["--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["--against", "nobody"], "is no group"),
        (["--at", "best"], "known: last, validation"),
    ],
)
def test_what_is_wrong_is_one_sentence(study: Study, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["report", str(study.folder), "--no-data", *words])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_where_it_cannot_be_written_nothing_is_left(study: Study, tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(ConfigError, match=r"cannot write a report as '.*page\.html'"):
        fedtl.report(study, tmp_path / "page.html", read_data=False)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_folder_without_runs_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds none"):
        fedtl.report(tmp_path, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="no run"):
        fedtl.report([], tmp_path / "page.html")
