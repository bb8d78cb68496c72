"""What ``fedtl compare`` concludes from records: of tiny real runs, and of records made up for the purpose."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

import fedtl
from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.comparison import Comparison, Difference, compare
from fedtl.comparison.formats import latex, sections
from fedtl.comparison.groups import group_runs
from fedtl.comparison.naming import differences, flatten, labels, unsaid
from fedtl.runs.history import Run, load

OVERRIDES = [
    "rounds=2",
    "data.clients=3",
    "data.validation_share=0.2",
    "strategy.clients_per_round=3",
    "evaluate.every=1",
    "simulation.grid=in-process",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods under two seeds each, in a folder that no test changes."""
    root = tmp_path_factory.mktemp("study")
    for method in ("pfedme", "fedavg", "local"):
        for seed in (0, 1):
            overrides = [f"strategy.name={method}", f"seed={seed}", *OVERRIDES]
            fedtl.run("quickstart", overrides, out=root / method / str(seed))
    return root


@pytest.fixture(scope="module")
def compared(study: Path) -> Comparison:
    return compare(study, target=0.2)


def summary_of(comparison: Comparison, name: str) -> Any:
    return next(group for group in comparison.groups if group.group == name)


def difference_of(comparison: Comparison, first: str, second: str) -> Difference:
    return next(each for each in comparison.differences if (each.first, each.second) == (first, second))


# Real runs.


def test_runs_that_differ_in_the_seed_are_one_method(compared: Comparison, study: Path) -> None:
    assert [group.group for group in compared.groups] == ["fedavg", "local", "pfedme"]
    for group in compared.groups:
        assert group.differs["strategy.name"] == group.method == group.group
        assert group.runs == {seed: str(study / group.method / str(seed)) for seed in (0, 1)}
        assert group.score == ("global/clients" if group.method == "fedavg" else "personal/clients")
        assert group.clients == {0: 3, 1: 3}
        assert group.rounds == {0: 2, 1: 2}


def test_a_summary_is_what_the_runs_say(compared: Comparison) -> None:
    for group in compared.groups:
        runs = [fedtl.load(path) for path in group.runs.values()]
        values = [run.last()[group.score].value for run in runs]
        assert group.last == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 2)
        best = [run.best()[group.score].value for run in runs]
        assert group.best_on_test.mean == pytest.approx(np.mean(best))
        worst = [run.last(statistic="worst_decile")[group.score].value for run in runs]
        assert group.worst_decile is not None
        assert group.worst_decile.mean == pytest.approx(np.mean(worst))
        shares = [run.client_scores()[group.score] for run in runs]
        assert group.jain is not None
        assert group.jain.mean == pytest.approx(np.mean([x.sum() ** 2 / (3 * (x**2).sum()) for x in shares]))


def test_the_round_that_validation_chooses_is_scored_on_test_data(compared: Comparison) -> None:
    for group in compared.groups:
        values = []
        for run in map(fedtl.load, group.runs.values()):
            chosen = run.best()[group.score.replace("/clients", "/validation-clients")].round
            rounds, scores = run.scores()[group.score]
            values.append(scores[rounds == chosen][0])
        assert group.by_validation is not None
        assert group.by_validation.mean == pytest.approx(np.mean(values))


def test_costs_until_the_target_are_the_records(compared: Comparison) -> None:
    for group in compared.groups:
        rounds, sent = [], []
        for run in map(fedtl.load, group.runs.values()):
            reached = [int(r) for r, v in zip(*run.scores()[group.score]) if v >= 0.2]
            if reached:
                rounds.append(reached[0])
                costs = run.costs("bytes")
                sent.append(costs.values[costs.rounds == reached[0]][0])
        assert group.to_target is not None
        assert (group.to_target.runs, group.to_target.of) == (len(rounds), 2)
        if rounds:
            assert group.to_target.rounds is not None
            assert group.to_target.bytes is not None
            assert group.to_target.rounds.mean == np.mean(rounds)
            assert group.to_target.bytes.mean == np.mean(sent)


def test_differences_are_paired_by_seed_and_client(compared: Comparison, study: Path) -> None:
    row = difference_of(compared, "fedavg", "pfedme")
    values, signs = {}, []
    for seed in (0, 1):
        ours, theirs = fedtl.load(study / "fedavg" / str(seed)), fedtl.load(study / "pfedme" / str(seed))
        values[seed] = ours.last()["global/clients"].value - theirs.last()["personal/clients"].value
        signs += np.sign(ours.client_scores()["global/clients"] - theirs.client_scores()["personal/clients"]).tolist()
    assert row.by_seed == pytest.approx(values)
    # Each seed divides the samples anew, so that these are other clients.
    assert (row.clients, row.same_clients) == (6, False)
    assert (row.better, row.equal, row.worse) == (signs.count(1), signs.count(0), signs.count(-1))
    assert row.low is not None
    assert row.high is not None
    assert row.over_seeds is not None
    assert row.low <= row.over_seeds.mean <= row.high
    assert row.p_holm is not None
    assert row.test is not None
    assert row.p_holm >= row.test.p


def test_who_is_worse_off_than_alone_is_named(compared: Comparison, study: Path) -> None:
    assert {(each.group, each.baseline) for each in compared.transfers} == {
        ("fedavg", "local"),
        ("pfedme", "local"),
        ("pfedme", "fedavg"),
    }
    row = next(each for each in compared.transfers if (each.group, each.baseline) == ("fedavg", "local"))
    expected = {}
    for seed in (0, 1):
        ours = fedtl.load(study / "fedavg" / str(seed)).client_scores()["global/clients"]
        alone = fedtl.load(study / "local" / str(seed)).client_scores()["personal/clients"]
        expected |= {(str(client), seed): gain for client, gain in enumerate(ours - alone)}
    assert {(each.client, each.seed): each.gain for each in row.gains} == pytest.approx(expected, abs=1e-9)
    assert {(each.client, each.seed) for each in row.worse} == {key for key, gain in expected.items() if gain < -1e-9}


def test_the_reference_is_found_by_name_or_key(study: Path) -> None:
    for words in ("local", "strategy.name=local"):
        rows = compare(study, against=words).differences
        assert {(each.first, each.second) for each in rows} == {("fedavg", "local"), ("pfedme", "local")}


def test_it_is_the_same_each_time(study: Path, compared: Comparison) -> None:
    assert compare(study, target=0.2) == compared
    assert fedtl.compare([fedtl.load(study / "fedavg" / "0"), study / "local"]).groups[1].group == "local"


def test_validation_chooses_the_pairs_rounds(study: Path) -> None:
    comparison = compare(study, at="validation")
    row = difference_of(comparison, "fedavg", "local")
    ours, alone = (summary_of(comparison, name).by_validation for name in ("fedavg", "local"))
    assert row.over_seeds is not None
    assert row.over_seeds.mean == pytest.approx(ours.mean - alone.mean)


def test_what_lies_within_a_run_has_to_be_named(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "fedavg" / "0", tmp_path / "run")
    shutil.copytree(study / "local" / "0", tmp_path / "run" / "baselines" / "local-only")
    assert [group.group for group in compare(tmp_path).groups] == ["fedavg"]
    both = compare([tmp_path, tmp_path / "run", tmp_path / "run" / "baselines" / "local-only"])
    assert [(group.group, len(group.runs)) for group in both.groups] == [("fedavg", 1), ("local", 1)]


# The command line.


def run_cli(*words: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, words)], env={"COLUMNS": "80"})


def test_the_table_says_all_of_it(study: Path) -> None:
    result = run_cli(study, "--target", "0.2")
    assert result.exit_code == 0, result.output
    for words in ("best by validation", "best on test", "Jain", "worst 10 %", "of 2 seeds", "p (Holm)", "than under"):
        assert words in result.output
    assert "cannot give a p-value below" in result.output


def test_json_is_the_whole_result(study: Path, compared: Comparison) -> None:
    result = run_cli(study, "--target", "0.2", "--format", "json")
    assert json.loads(result.output) == json.loads(json.dumps(compared.to_dict()))
    assert json.loads(result.output)["groups"][0]["last"]["seeds"] == 2


def test_markdown_and_latex_have_the_same_cells(study: Path, compared: Comparison) -> None:
    text = run_cli(study, "--format", "markdown").output
    rows = [line for line in text.splitlines() if line.startswith("| fedavg |")]
    assert len(rows) == 4  # scores, two differences, one baseline
    for table in text.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    text = run_cli(study, "--format", "latex").output
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    assert r"$\pm$" in text
    assert "±" not in text
    assert r"worst 10 \%" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", "personal/client"], "did you mean 'personal/clients'?"),
        (["--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["--against", "fedavgg"], "did you mean 'fedavg'?"),
        (["--against", "data.name=digits"], "is 3 groups: fedavg, local, pfedme"),
        (["--format", "html"], "known: json, latex, markdown, table"),
        (["--statistic", "means"], "did you mean 'mean'?"),
        (["--at", "best"], "known: last, validation"),
        (["--target", "90"], "accuracy is a share between 0 and 1, as 0.9"),
        (["--target", "nan"], "finite"),
        (["--score", "global/server-test", "--against", "local"], "'local': it has no accuracy to compare with"),
    ],
)
def test_what_is_wrong_is_one_sentence(study: Path, words: list[str], message: str) -> None:
    result = run_cli(study, *words)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_folders_without_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds none: a run has config\.toml and rounds\.jsonl"):
        compare(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        compare(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no run to compare"):
        compare([])


def test_scores_of_the_server_are_not_tested(study: Path) -> None:
    comparison = compare(study, score="global/server-test")
    row = difference_of(comparison, "fedavg", "pfedme")
    assert row.test is None
    assert row.by_seed is not None
    assert any("nothing is tested" in note for note in comparison.notes)
    assert any("local has no accuracy of global/server-test" in note for note in comparison.notes)
    assert "Jain" not in sections(comparison)[0].header


# Records made up for the purpose.

MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        method: str,
        values: Sequence[float | None],
        seed: int = 0,
        *,
        metric: str = "accuracy",
        clients: Sequence[int] | None = None,
        split: str | None = "same",
        rounds: int = 1,
        planned: int | None = None,
        means: Sequence[float | None] | None = None,
        score: str = "global/clients",
        config: dict[str, Any] | None = None,
        environment: dict[str, Any] | None = None,
    ) -> Run:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        tables = {"name": "made-up", "seed": seed, "rounds": planned or rounds, "data": {"name": "digits"}}
        tables = {**tables, **(config or {}), "strategy": {"name": method, **(config or {}).get("strategy", {})}}
        (folder / "config.toml").write_text(tomli_w.dumps(tables))
        (folder / "environment.json").write_text(json.dumps({"split": split, **(environment or {})}))
        own = list(clients if clients is not None else range(len(values)))
        mean = float(np.mean([value for value in values if value is not None]))
        lines, each = [], []
        for number in range(1, rounds + 1):
            value = mean if means is None else means[number - 1]
            summary = {"weighted_mean": value, "mean": value, "worst_decile": min(v for v in values if v is not None)}
            lines.append({"round": number, "seconds": 1.0, "bytes_up": 5, "scores": {score: {metric: summary}}})
            per = {"clients": own, "samples": [1] * len(own), "scores": {score: {metric: list(values)}}}
            each.append({"round": number, **per})
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in each))
        return Run(folder)

    return make


def notes_of(*runs: Run, **options: Any) -> str:
    return "\n".join(compare(list(runs), **options).notes)


def test_clients_of_another_split_are_not_paired(make_run: MakeRun) -> None:
    ours, theirs = make_run("fedavg", [0.5, 0.6]), make_run("local", [0.4, 0.5], split="other")
    comparison = compare([ours, theirs])
    assert comparison.differences[0].refused is not None
    assert comparison.differences[0].test is None
    assert not comparison.transfers
    assert "Not paired, as their clients hold different samples" in "\n".join(comparison.notes)


def test_without_a_fingerprint_the_data_tables_decide(make_run: MakeRun) -> None:
    ours = make_run("fedavg", [0.5, 0.6], split=None)
    same, other = make_run("local", [0.4, 0.5], split=None), make_run("ditto", [0.4, 0.5], split=None)
    (other.path / "config.toml").write_text(tomli_w.dumps({**other.config, "data": {"name": "digits", "clients": 2}}))
    assert compare([ours, same]).differences[0].refused is None
    assert "data.clients differ" in (compare([ours, Run(other.path)]).differences[0].refused or "")


def test_other_clients_are_not_paired_and_named(make_run: MakeRun) -> None:
    ours = make_run("fedavg", [0.5, 0.6, 0.7], environment={"names": ["a", "b", "c"]})
    missing = make_run("local", [0.4, 0.5], clients=[0, 2])
    broken = make_run("ditto", [0.4, None, 0.5])
    for other in (missing, broken):
        assert (compare([ours, other]).differences[0].refused or "").endswith("only one of the two has client b")


def test_seeds_that_share_their_clients_count_each_once(make_run: MakeRun) -> None:
    ours = [make_run("fedavg", values, seed) for seed, values in enumerate(([0.5, 0.9, 0.7], [0.7, 0.9, 0.7]))]
    theirs = [make_run("local", values, seed) for seed, values in enumerate(([0.4, 0.8, 0.7], [0.4, 0.9, 0.9]))]
    row = compare([*ours, *theirs]).differences[0]
    # Per client: (0.1 + 0.3) / 2, (0.1 + 0) / 2, (0 - 0.2) / 2.
    assert (row.clients, row.same_clients) == (3, True)
    assert (row.better, row.equal, row.worse) == (2, 0, 1)
    assert row.test is not None
    # |0.2|, |0.05|, |-0.1| have the ranks 3, 1 and 2.
    assert row.test.effect == pytest.approx((3 + 1 - 2) / 6)
    gains = compare([*ours, *theirs]).transfers[0].gains
    assert [(each.client, each.seed) for each in gains] == [("2", None), ("1", None), ("0", None)]
    assert [each.gain for each in gains] == pytest.approx([-0.1, 0.05, 0.2])


def test_of_a_loss_less_is_better(make_run: MakeRun) -> None:
    ours, theirs = make_run("fedavg", [1.0, 2.0], metric="loss"), make_run("local", [1.5, 1.5], metric="loss")
    comparison = compare([ours, theirs], metric="loss", target=1.5)
    row = comparison.differences[0]
    assert (row.better, row.worse) == (1, 1)
    assert [each.client for each in comparison.transfers[0].worse] == ["1"]
    assert comparison.groups[0].to_target is not None
    assert comparison.groups[0].to_target.runs == 1
    assert "or less" in sections(comparison)[1].title


def test_two_names_of_one_method_do_not_differ(make_run: MakeRun) -> None:
    values = np.random.default_rng(0).uniform(size=(2, 8)).tolist()
    runs = [make_run("fedavg", values[seed], seed, config={"name": name}) for name in "ab" for seed in (0, 1)]
    comparison = compare(runs)
    assert [group.group for group in comparison.groups] == ["name=a", "name=b"]
    row = comparison.differences[0]
    assert row.test == (1.0, 0.0, 0)
    assert (row.p_holm, row.low, row.high, row.equal) == (1.0, 0.0, 0.0, 8)
    assert "No client's score differs: name=a and name=b." in comparison.notes


def test_where_a_run_was_computed_and_written_does_not_count(make_run: MakeRun) -> None:
    here = make_run("fedavg", [0.5], 0, config={"device": "cpu", "simulation": {"grid": "ray"}})
    there = make_run("fedavg", [0.6], 1, config={"name": "again", "data": {"name": "digits", "root": "/elsewhere"}})
    assert len(compare([here, there]).groups) == 1
    domains: dict[str, dict[str, Any]] = {"target": {"name": "usps"}, "public": {"name": "svhn"}}
    here = make_run("fedavg", [0.5], 0, config={"data": {"name": "mnist", **domains}})
    domains = {part: {**table, "root": "/elsewhere"} for part, table in domains.items()}
    there = make_run("fedavg", [0.6], 1, config={"data": {"name": "mnist", **domains}})
    assert len(compare([here, there]).groups) == 1


def test_unfinished_runs_are_left_out_and_named(make_run: MakeRun) -> None:
    whole, half = make_run("fedavg", [0.5], 0, rounds=2), make_run("fedavg", [0.1], 1, rounds=1, planned=2)
    comparison = compare([whole, half])
    assert comparison.groups[0].last == (0.5, None, 1)
    assert f"Left out: {half.path} is unfinished (1 of 2 rounds)." in comparison.notes
    assert "Its last scored round counts" in notes_of(half)


def test_a_run_counts_once_a_seed(make_run: MakeRun) -> None:
    one, again = make_run("fedavg", [0.5]), make_run("fedavg", [0.7])
    comparison = compare([one, again])
    assert comparison.groups[0].last.mean == 0.5
    assert f"Left out: {again.path} has the config and the seed of {one.path}." in comparison.notes


def test_methods_of_unequal_rounds_are_named(make_run: MakeRun) -> None:
    comparison = compare([make_run("fedavg", [0.5, 0.6], rounds=2), make_run("local", [0.5, 0.6], rounds=1)])
    assert [group.group for group in comparison.groups] == ["fedavg rounds=2", "local rounds=1"]
    assert "The groups were not trained for equally many rounds." in comparison.notes


def test_what_is_not_scored_is_named(make_run: MakeRun) -> None:
    scored, empty = make_run("fedavg", [0.5]), make_run("local", [0.5])
    (empty.path / "rounds.jsonl").write_text("")
    comparison = compare([scored, Run(empty.path)])
    assert [group.group for group in comparison.groups] == ["fedavg"]
    assert "Left out: local has no accuracy on clients." in comparison.notes
    with pytest.raises(ConfigError, match="no scored round is recorded yet"):
        compare(empty.path)


def test_a_last_round_without_a_number_is_named(make_run: MakeRun) -> None:
    run = make_run("fedavg", [0.5], rounds=2, means=[0.5, None])
    assert "is not a number in round 2, its last scored one; round 1 counts as its last" in notes_of(run)


BROKEN = {
    "config.toml": ("name = ", "cannot be read as TOML"),
    "environment.json": ("{", "cannot be read as JSON"),
    "rounds.jsonl": ('{"round": 1, "scores": "0.5"}\n', r"line 1 is not a round's record: its 'scores' is '0\.5'"),
    "clients.jsonl": (
        '{"round": 1, "clients": [0], "scores": {"personal/clients": [0.5]}}\n',
        r"line 1 is not a round's record: its 'scores' has \[0\.5\]",
    ),
}
"""Files of a run, with what nobody can read, and how the sentence about it goes."""


@pytest.mark.parametrize("file", BROKEN)
def test_a_broken_run_below_a_folder_is_named_and_the_others_compared(
    file: str, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("fedavg", [0.5])
    broken, (content, sentence) = make_run("local", [0.5]).path, BROKEN[file]
    (broken / file).write_text(content)
    comparison = compare(tmp_path)
    assert [group.group for group in comparison.groups] == ["fedavg"]
    assert any(re.match(f"Left out: {broken / file}.*{sentence}", note) for note in comparison.notes)
    with pytest.raises(ConfigError, match=sentence):
        load(broken).read_all()


def test_better_is_who_clients_and_seeds_show_to_be(make_run: MakeRun) -> None:
    def runs(method: str, gains: Sequence[float]) -> list[Run]:
        return [make_run(method, list(np.arange(20) / 40 + gain), seed) for seed, gain in enumerate(gains)]

    ours, steady, shaky = runs("fedavg", [0, 0, 0]), runs("local", [0.2, 0.21, 0.2]), runs("ditto", [0.3, 0.01, 0])
    assert compare([*ours, *steady]).differences[0].shown == "seeds"
    assert "the seeds' interval alike: local than fedavg." in notes_of(*ours, *steady)
    assert compare([*ours, *shaky]).differences[0].shown == "clients"
    assert "which is not shown for other seeds: ditto than fedavg." in notes_of(*ours, *shaky)
    assert compare([ours[0], steady[0]]).differences[0].shown == "clients"
    assert "No difference is shown at 0.05." in notes_of(ours[0], make_run("local", list(np.arange(20) / 40)))
    losses = [make_run(m, [v] * 20, s, metric="loss") for m, v in (("fedavg", 1.0), ("local", 2.0)) for s in (0, 1)]
    assert "alike: fedavg than local." in notes_of(*losses, metric="loss")


def test_so_few_clients_show_nothing(make_run: MakeRun) -> None:
    runs = [make_run(method, list(np.arange(4) / 10 + gain)) for method, gain in (("fedavg", 0.2), ("local", 0.1))]
    notes = notes_of(*runs)
    assert "4 clients with a difference cannot give a p-value below 0.12 (2^(1-n)), so no difference can be" in notes
    assert "There is one seed, so there is no deviation" in notes
    assert "Intervals over as few as 4 clients are rough" in notes
    assert "they do not say what training under another seed would give" in notes


def test_holms_correction_may_leave_nothing_to_show(make_run: MakeRun) -> None:
    methods = ("a", "b", "c", "d")
    runs = [make_run(f"m:{name}", list(np.arange(6) / 10 + 0.1 * i)) for i, name in enumerate(methods)]
    notes = notes_of(*runs)
    # 2^(1-6) = 0.031 alone is below 0.05, and six times that is not.
    assert (
        "6 clients with a difference cannot give a p-value below 0.031 (2^(1-n)), which Holm's correction for 6"
        in notes
    )


def test_seeds_of_one_group_alone_are_left_out_of_pairs(make_run: MakeRun) -> None:
    runs = [make_run("fedavg", [0.5, 0.7], seed) for seed in (0, 1, 2)] + [make_run("local", [0.5, 0.6], 0)]
    comparison = compare(runs)
    assert comparison.differences[0].by_seed is not None
    assert set(comparison.differences[0].by_seed) == {0}
    assert "Only one of the two has seeds 1, 2, left out of their difference: fedavg and local." in comparison.notes
    assert comparison.groups[0].last.seeds == 3


def test_one_method_alone_has_nothing_to_be_compared_with(make_run: MakeRun) -> None:
    comparison = compare(make_run("fedavg", [0.5, 0.6]))
    assert not comparison.differences
    assert "none to compare it with" in "\n".join(comparison.notes)
    assert len(sections(comparison)) == 1


def test_a_single_client_has_no_interval(make_run: MakeRun) -> None:
    comparison = compare([make_run("fedavg", [0.5]), make_run("local", [0.4])])
    assert comparison.differences[0].low is None
    assert "Of a single client there is no interval." in comparison.notes
    assert math.isclose(comparison.differences[0].by_seed[0], 0.1)  # type: ignore[index]


def test_a_minus_in_latex_is_no_hyphen(make_run: MakeRun) -> None:
    text = latex(compare([make_run("local", [0.5, 0.7]), make_run("my_own:Fed_Avg", [0.6, 0.8])]))
    assert r"local & Fed\_Avg & $-10.00$ & $-10.00$ to $-10.00$ & 2 & 0 & 0 & 2 & 0.5000 & 0.5000 & $-1.00$ \\" in text


def test_targets_are_what_transfer_is_compared_on(make_run: MakeRun) -> None:
    run = make_run("fedavg", [0.5, 0.6], score="global/target-clients")
    assert compare(run).groups[0].score == "global/target-clients"


def test_what_clients_are_not_scored_on_is_compared_where_there_is_no_other(make_run: MakeRun) -> None:
    runs = [make_run(method, [0.5], score="global/held-out/photo") for method in ("fedavg", "scaffold")]
    runs.append(make_run("local", [0.5], score="personal/unseen-clients"))
    comparison = compare(runs)
    assert [group.score for group in comparison.groups] == ["global/held-out/photo"] * 2
    assert "Left out: local has no accuracy on held-out/photo." in comparison.notes
    assert "of global/held-out/photo" in latex(comparison)
    assert compare([*runs, make_run("ditto", [0.5])]).groups[0].method == "ditto", "the clients' own data come first"


def test_the_metric_is_that_of_the_runs_that_are_compared(make_run: MakeRun) -> None:
    asked = {"evaluate": {"metrics": ["rmse"]}, "data": {"name": "digits", "task": "regression"}}
    runs = [make_run("fedavg", [0.5, 0.6], metric="rmse", config=asked), make_run("fedavg", [0.5, 0.6])]
    assert compare(runs).metric == "accuracy"
    assert compare(runs, only=["task=regression"]).metric == "rmse"


def test_a_reference_is_that_of_the_same_model(make_run: MakeRun) -> None:
    runs = [
        make_run(method, list(np.arange(3) / 10 + gain), config={"model": {"name": model}})
        for method, gain in (("pfedme", 0.2), ("local", 0.1), ("ditto", 0.15))
        for model in ("mlp", "cnn")
    ]
    rows = compare(runs, against="local").differences
    assert [(each.first, each.second) for each in rows] == [
        (f"{method} model={model}", f"local model={model}")
        for method in ("pfedme", "ditto")
        for model in ("mlp", "cnn")
    ]
    rows = compare(runs, against="local model=mlp").differences
    assert len(rows) == 5
    assert {each.second for each in rows} == {"local model=mlp"}


def test_baselines_are_those_of_the_same_model(make_run: MakeRun) -> None:
    runs = [
        make_run(method, list(np.arange(3) / 10 + gain), config={"model": {"name": model}})
        for method, gain in (("pfedme", 0.2), ("local", 0.1))
        for model in ("mlp", "cnn")
    ]
    assert {(each.group, each.baseline) for each in compare(runs).transfers} == {
        ("pfedme model=mlp", "local model=mlp"),
        ("pfedme model=cnn", "local model=cnn"),
    }


def test_seconds_of_several_machines_are_named(make_run: MakeRun) -> None:
    runs = [make_run(m, [0.5, 0.6], environment={"device": d}) for m, d in (("fedavg", "cpu"), ("local", "cuda"))]
    assert "Seconds do not compare as they stand: the runs differ in device." in notes_of(*runs, target=0.5)
    assert "Seconds" not in notes_of(*runs)


# Names.


def names_of(*configs: dict[str, Any]) -> list[str]:
    flat = [flatten(config) for config in configs]
    return labels(differences(flat), [config["strategy"]["name"] for config in configs])


def test_names_say_what_differs() -> None:
    fedavg = {"strategy": {"name": "fedavg", "lr": 0.1}, "data": {"partition": {"name": "dirichlet", "alpha": 0.3}}}
    faster = {**fedavg, "strategy": {"name": "fedavg", "lr": 0.5}}
    pfedme = {**fedavg, "strategy": {"name": "pfedme", "lr": 0.1, "lam": 15.0}}
    even = {**fedavg, "data": {"partition": {"name": "iid"}}}
    assert names_of(fedavg) == ["fedavg"]
    assert names_of(fedavg, faster) == ["lr=0.1", "lr=0.5"]
    assert names_of(fedavg, pfedme) == ["fedavg", "pfedme"]
    assert names_of(fedavg, faster, pfedme) == ["fedavg lr=0.1", "fedavg lr=0.5", "pfedme"]
    assert names_of(fedavg, even) == ["partition=dirichlet", "partition=iid"]


def test_a_method_tuned_anew_for_each_model_needs_no_name_of_its_own() -> None:
    def config(method: str, model: str, **options: float) -> dict[str, Any]:
        return {"strategy": {"name": method, **options}, "model": {"name": model}}

    configs = [config("fedavg", "mlp", lr=0.1), config("pfedme", "mlp", lam=15.0), config("pfedme", "cnn", lam=30.0)]
    assert names_of(*configs) == ["fedavg model=mlp", "pfedme model=mlp", "pfedme model=cnn"]
    flat = [flatten(each) for each in configs]
    assert unsaid(flat, differences(flat), "abc") == ["strategy.lam: 15 (b), 30 (c)"]
    again = config("pfedme", "mlp", lam=5.0)
    of_two = ["pfedme model=mlp lam=15", "pfedme model=cnn lam=30", "pfedme model=mlp lam=5"]
    assert names_of(*configs, again)[1:] == of_two, "where one name needs it, so do the method's others"


def test_a_config_has_one_name_in_all_settings(make_run: MakeRun) -> None:
    def run(lr: float, alpha: float) -> Run:
        data = {"data": {"name": "digits", "partition": {"name": "dirichlet", "alpha": alpha}}}
        return make_run("fedavg", [0.5, 0.6], split=str(alpha), config={**data, "strategy": {"lr": lr}})

    comparison = compare([run(0.1, 0.3), run(0.2, 0.3), run(0.1, 1.0)], resamples=0)
    assert [(group.variant, group.setting["data.partition.alpha"]) for group in comparison.groups] == [
        ("lr=0.1", 0.3),
        ("lr=0.2", 0.3),
        ("lr=0.1", 1.0),
    ]


def test_files_are_named_without_their_folders() -> None:
    def config(path: str) -> dict[str, Any]:
        return {"strategy": {"name": "fedavg"}, "data": {"partition": {"name": "file", "path": path}}}

    assert names_of(config("here/a.npz"), config("there/b.npz")) == ["path=a.npz", "path=b.npz"]
    assert names_of(config("here/a.npz"), config("there/a.npz")) == [
        "data.partition.path=here/a.npz",
        "data.partition.path=there/a.npz",
    ]


def test_names_of_objectives_and_classes() -> None:
    plain = {"strategy": {"name": "fedavg"}, "objective": [{"term": "cross_entropy", "weight": 1.0}]}
    mmd = {**plain, "objective": [*plain["objective"], {"term": "mmd", "weight": 0.5}]}
    more = {**plain, "objective": [*plain["objective"], {"term": "mmd", "weight": 1.0}]}
    assert names_of(plain, mmd) == ["objective=cross_entropy", "objective=cross_entropy + mmd"]
    assert names_of(mmd, more) == ["weight=0.5", "weight=1"]
    mine, theirs = {"strategy": {"name": "mine:Ditto"}}, {"strategy": {"name": "theirs:Ditto"}}
    assert names_of(mine, {"strategy": {"name": "fedavg"}}) == ["Ditto", "fedavg"]
    assert names_of(mine, theirs) == ["strategy.name=mine:Ditto", "strategy.name=theirs:Ditto"]


def test_keys_of_one_ending_are_told_apart() -> None:
    one = {"strategy": {"name": "fedavg"}, "data": {"clients": 3}, "evaluate": {"clients": 2}}
    other = {"strategy": {"name": "fedavg"}, "data": {"clients": 4}, "evaluate": {"clients": 1}}
    assert names_of(one, other) == ["data.clients=3 evaluate.clients=2", "data.clients=4 evaluate.clients=1"]


def test_what_names_do_not_say_is_a_note(make_run: MakeRun) -> None:
    runs = [make_run(name, [0.5], config={"strategy": {"lr": lr}}) for name, lr in (("fedavg", 0.1), ("local", 0.2))]
    assert group_runs(runs).notes == ["The groups differ also in strategy.lr: 0.1 (fedavg), 0.2 (local)."]
