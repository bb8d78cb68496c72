"""The rules that choose rounds, on sequences of scores worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtl.choice import ConfigError
from fedtl.cli.printing import summary_table
from fedtl.comparison.groups import group_runs
from fedtl.config.read import build, read_config
from fedtl.config.schema import Stop
from fedtl.experiment import run
from fedtl.runs.baselines import baselines
from fedtl.runs.best import BestRound, EarlyStop, Followed, Point, best_by, early_stop, first_best, serving_score
from fedtl.runs.history import Run, load

SCORE = "personal/validation-clients"
NAN, INF = math.nan, math.inf

TINY: dict[str, Any] = {
    "name": "tiny",
    "rounds": 20,
    "data": {"name": "digits", "clients": 4, "validation_share": 0.2},
    "model": {"name": "logistic"},
    "strategy": {"name": "fedavg", "lr": 0.1},
    "simulation": {"grid": "in-process"},
}


def scores(value: float | None, metric: str = "accuracy") -> dict[str, Any]:
    return {SCORE: {metric: {"weighted_mean": value, "mean": 0.0}}, "global/clients": {metric: {"weighted_mean": 1.0}}}


def end(rule: EarlyStop, values: list[float | None], every: int = 1) -> int | None:
    for i, value in enumerate(values, start=1):
        rule.add(i, {} if i % every else scores(value, rule.followed.metric))
    return rule.ended


@pytest.mark.parametrize(
    ("options", "values", "ended"),
    [
        # As good is not better; the wait begins anew with each better round.
        ({"patience": 2}, [0.5, 0.6, 0.6, 0.59, 0.9], 4),
        ({"patience": 2}, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6, 0.69], 7),
        ({"patience": 3}, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6, 0.69], None),
        ({"patience": 1}, [0.5, 0.6, 0.7, 0.65], 4),
        # 0.54 is not more than 0.05 above 0.5, and 0.56 is; then 0.6 is not, though it is the best.
        ({"patience": 2, "min_delta": 0.05}, [0.5, 0.54, 0.56, 0.6, 0.55, 0.9], 5),
        ({"patience": 2, "metric": "loss"}, [2.0, 1.0, 1.5, 0.9, 0.9, 1.0], 6),
        ({"patience": 2, "metric": "loss", "min_delta": 0.5}, [2.0, 1.75, 1.25, 1.0, 0.75], 5),
        # What is no number is not better, and never the best; infinite accuracy is none.
        ({"patience": 2}, [0.5, NAN, None, 0.6], 3),
        ({"patience": 2}, [NAN, 0.5, INF, 0.6], None),
        ({"patience": 2, "metric": "loss"}, [-INF, 3.0, 2.0, NAN, 2.0], 5),
        ({"patience": 3}, [NAN, NAN, NAN], 3),
    ],
)
def test_when_a_run_ends(options: dict[str, Any], values: list[float | None], ended: int | None) -> None:
    assert end(EarlyStop(Stop(**options), SCORE), values) == ended


def test_patience_counts_scored_rounds_and_those_from_the_first_on() -> None:
    falling = [1 - i / 100 for i in range(1, 31)]
    assert end(EarlyStop(Stop(patience=2), SCORE), falling, every=5) == 15
    assert end(EarlyStop(Stop(patience=2), SCORE, first=11), falling, every=5) == 25
    assert end(EarlyStop(Stop(patience=2), "global/validation-clients"), falling) is None  # no round has it


def test_why_a_run_ended() -> None:
    rule = EarlyStop(Stop(patience=2, min_delta=0.1), SCORE)
    end(rule, [0.5, 0.75, 0.8, 0.7])
    how = rule.before(20)
    assert str(how) == (
        "stopped after round 4: no better by more than 10 points than 75.00 % in round 2 "
        "(accuracy of personal/validation-clients, stop.patience = 2)"
    )
    assert rule.before(4) is None, "the last round ends a run anyway"
    rule = EarlyStop(Stop(patience=1, metric="loss"), SCORE)
    end(rule, [NAN])
    assert rule.because == "no score was a number (loss of personal/validation-clients, stop.patience = 1)"


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_best_round_is_the_first_of_the_best_whoever_asks(metric: str, tmp_path: Path) -> None:
    """Round by round as while the run goes on, out of the record, and on the column of values."""
    rng = np.random.default_rng(5)
    values = rng.integers(0, 9, 60).astype(float)
    values[rng.integers(0, 60, 10)] = [NAN, INF] * 5
    rule = BestRound(Followed(SCORE, metric))
    for i, value in enumerate(values, start=1):
        rule.add(i, scores(value, metric))
        finite = [(v if metric == "loss" else -v, j) for j, v in enumerate(values[:i], start=1) if math.isfinite(v)]
        expected = min(finite)[1] if finite else None
        point = rule.until()
        assert (point and point.round) == expected
        place = first_best(values[:i], metric)
        assert (None if place is None else place + 1) == expected
    run = recorded(tmp_path, [scores(v, metric) for v in values], {"evaluate": {"keep_best": metric}})
    for until in (None, 7, 30):
        assert run.kept_best(until) == rule.until(until)


def lacking(value: float, missing: int = 1, by: str | None = "lacking") -> dict[str, Any]:
    """A round from whose score clients are missing; as an earlier version recorded it without ``by``."""
    there = {"scored": 5 - missing, "of": 5} | ({by: missing} if by and missing else {})
    return {name: {**row, **there} for name, row in scores(value).items()}


@pytest.mark.parametrize(
    ("rounds", "best", "ended"),
    [
        # Whoever is missing in the second round, it is not the best one, and waiting goes on as without it.
        ([(0.5, 0), (1.0, 1), (0.6, 0), (0.55, 0), (0.9, 1), (0.6, 0)], 3, 6),
        # Of equals the first; where all lack somebody, as if nobody did, until a round lacks nobody.
        ([(0.9, 1), (0.95, 2), (0.9, 3)], 2, None),
        ([(0.9, 1), (0.95, 2), (0.9, 3), (0.95, 1)], 2, 4),
        ([(0.9, 1), (0.95, 2), (0.9, 3), (0.1, 0), (0.2, 2)], 4, None),
        ([(0.9, 1), (0.95, 2), (0.9, 3), (0.1, 0), (0.2, 2), (0.05, 0), (0.1, 0)], 4, 7),
        # What is no number is none, whoever it is of.
        ([(0.5, 0), (NAN, 5), (NAN, 0)], 1, 3),
        ([(0.5, 1), (NAN, 0), (0.4, 1)], 1, 3),
    ],
)
def test_a_round_that_lacks_clients_comes_behind(
    rounds: list[tuple[float, int]], best: int, ended: int | None, tmp_path: Path
) -> None:
    """While the run goes on, going on from any round, and out of its record."""
    lines = [lacking(*each) for each in rounds]
    for split in range(len(lines)):
        rule, stop = BestRound(Followed(SCORE, "accuracy")), EarlyStop(Stop(patience=2), SCORE)
        for start, part in ((1, lines[:split]), (split + 1, lines[split:])):
            for i, each in enumerate(part, start=start):
                rule.add(i, each)
                stop.add(i, each)
        assert rule.until() == (best, rounds[best - 1][0])
        assert stop.ended == ended
    run = recorded(tmp_path, lines, {"evaluate": {"keep_best": True}})
    for until in (None, 1, 2, 3):
        assert run.kept_best(until) == rule.until(until)
    assert run.best()[SCORE] == rule.until()
    values, clients = zip(*rounds)
    assert first_best(values, "accuracy", [not missing for missing in clients]) == best - 1


def test_a_best_that_lacks_clients_says_so() -> None:
    rule, stop = BestRound(Followed(SCORE, "accuracy")), EarlyStop(Stop(patience=1), SCORE)
    for i, value in enumerate((0.9, 0.8), start=1):
        rule.add(i, lacking(value))
        stop.add(i, lacking(value))
    assert stop.because.startswith(
        "no better than 90.00 % (4 of 5 clients) in round 1 (accuracy of personal/validation"
    )
    assert rule.lacking == {1: (4, 5, None)}
    stop = EarlyStop(Stop(patience=1), SCORE)
    for i, each in enumerate((lacking(0.5, 0), lacking(0.9), lacking(0.4, 0)), start=1):
        stop.add(i, each)
    assert "no better than 50.00 % in round 1 (accuracy" in stop.because


def test_a_run_of_an_earlier_version_keeps_what_it_chose(tmp_path: Path) -> None:
    """Its models are those of the round with the best mean; what is told of its rounds goes by who was scored."""
    lines = [lacking(value, missing, None) for value, missing in ((0.5, 0), (1.0, 1), (0.6, 0))]
    run = recorded(tmp_path, lines, {"evaluate": {"keep_best": True}})
    assert run.kept_best() == (2, 1.0)
    assert run.best()[SCORE] == (3, 0.6)
    stop = EarlyStop(Stop(patience=1), SCORE)
    for i, each in enumerate(lines, start=1):
        stop.add(i, each)
    assert stop.ended == 3, "as it was decided then"


def test_the_clients_own_model_decides_where_they_have_one() -> None:
    both = {"global/validation-clients", SCORE, "personal/clients"}
    assert serving_score(both, "validation-clients") == SCORE
    assert serving_score(both - {SCORE}, "validation-clients") == "global/validation-clients"
    assert early_stop(Stop(patience=1), both, 1).followed == Followed(SCORE, "accuracy")
    assert best_by("loss", both) == Followed(SCORE, "loss")
    named = Stop(patience=1, score="global/validation-clients")
    assert early_stop(named, both, 1).followed.score == "global/validation-clients"


def recorded(folder: Path, rounds: list[dict[str, Any]], more: dict[str, Any], **environment: Any) -> Run:
    """A run's folder with these scores in its rounds."""
    folder.mkdir(exist_ok=True)
    config = build({**TINY, **more})
    (folder / "config.toml").write_text(config.toml())
    finite = [json.loads(json.dumps(each).replace("NaN", "null").replace("Infinity", "null")) for each in rounds]
    lines = ({"round": i, "seconds": 1.0, "scores": each} for i, each in enumerate(finite, start=1))
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "environment.json").write_text(json.dumps(environment))
    return load(folder)


def of_two(test: float, validation: float) -> dict[str, Any]:
    mean = {"weighted_mean": test, "worst_decile": test}
    own = {"weighted_mean": validation, "worst_decile": validation}
    return {
        "global/clients": {"accuracy": mean},
        "global/validation-clients": {"accuracy": own},
        "global/server-test": {"accuracy": test - 0.1},
    }


ROUNDS = [of_two(0.5, 0.5), of_two(0.7, 0.9), of_two(0.8, 0.6)]


def test_a_best_chosen_on_test_data_is_called_so(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", ROUNDS, {"rounds": 3})
    assert run.validated() == {"global/clients": Point(2, 0.7), "global/server-test": Point(2, pytest.approx(0.6))}
    table = summary_table([run])
    assert [column.header.strip() for column in table.columns] == [
        *("method", "last", "round", "worst 10 %", "best by validation", "round", "best on test", "round")
    ]
    rows = {str(cells[0]).strip(): [str(cell).strip() for cell in cells[4:]] for cells in zip(*cells_of(table))}
    assert rows["global/clients"] == ["70.00", "2", "80.00", "3"]
    assert rows["global/validation-clients"] == ["90.00", "2", "", ""]
    assert rows["global/server-test"] == ["60.00", "2", "70.00", "3"]
    shown = run._repr_html_()
    assert "<th>last</th><th>best by validation</th><th>best on test</th>" in shown
    assert "<td>0.8 (round 3)</td><td>0.7 (round 2)</td><td>0.8 (round 3)</td>" in shown

    tested = [{k: v for k, v in each.items() if "validation" not in k} for each in ROUNDS]
    run = recorded(tmp_path / "unvalidated", tested, {"rounds": 3})
    headers = [column.header.strip() for column in summary_table([run]).columns]
    assert headers == ["method", "last", "round", "worst 10 %", "best on test", "round"]
    assert "<th>last</th><th>best on test</th>" in run._repr_html_()


def cells_of(table: Any) -> list[list[Any]]:
    return [list(column.cells) for column in table.columns]


def test_a_run_that_stopped_is_not_unfinished(tmp_path: Path) -> None:
    stopped = {"round": 3, "because": "no better than 90.00 % in round 2 (…)"}
    one = recorded(tmp_path / "0", ROUNDS, {"stop": {"patience": 1}}, stopped=stopped)
    kept = {"stop": {"patience": 1}, "evaluate": {"keep_best": True}, "seed": 1}
    other = recorded(tmp_path / "1", ROUNDS, kept, stopped=stopped)
    shorter = recorded(tmp_path / "2", ROUNDS, {"stop": {"patience": 1}, "seed": 2})
    groups, notes = group_runs([one, other, shorter])
    assert [[*group.runs] for group in groups] == [[0, 1]], "what is kept is no difference"
    assert len(notes) == 1
    assert "is unfinished (3 of 20 rounds)" in notes[0]
    assert "stopped after 3 of 20 rounds" in repr(one)
    assert "stopped after round 3: no better than 90.00 %" in one._repr_html_()
    assert shorter.stopped is None
    (other.path / "environment.json").write_text("{")
    assert "3 of 20 rounds" in repr(load(other.path)), "showing a run never fails"


# The config.


def refused(**tables: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build({**TINY, **tables})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rounds_are_not_chosen_on_test_data_silently() -> None:
    unvalidated = {"name": "digits", "clients": 4}
    assert "set data.validation_share, or name a score on test data in stop.score" in refused(
        data=unvalidated, stop={"patience": 3}
    )
    assert "there are none" in refused(data=unvalidated, stop={"patience": 3, "score": SCORE})
    assert "set data.validation_share" in refused(data=unvalidated, evaluate={"keep_best": True})
    named = build({**TINY, "data": unvalidated, "stop": {"patience": 3, "score": "global/server-test"}})
    assert named.stop is not None


def test_what_else_is_refused() -> None:
    assert refused(stop={}) == "stop.patience is missing"
    assert refused(stop={"patience": 0}).startswith("stop.patience = 0: should be greater than")
    assert "stop.min_delta = -1" in refused(stop={"patience": 1, "min_delta": -1})
    assert refused(stop={"patience": 1, "score": "global/clientz"}) == (
        "stop.score = 'global/clientz': no score that may decide is called so: did you mean 'global/clients'?"
    )
    assert refused(evaluate={"keep_best": "macro_f1"}) == (
        "evaluate.keep_best = 'macro_f1': models are not scored by it: known: accuracy, loss"
    )
    assert refused(stop={"patience": 1, "metric": "macrof1"}, evaluate={"metrics": ["macro_f1"]}) == (
        "stop.metric = 'macrof1': models are not scored by it: did you mean 'macro_f1'?"
    )
    names = {"global/validation-clients", "global/clients"}
    with pytest.raises(ConfigError, match="this run has no such score; it has global/clients, global/validation"):
        early_stop(Stop(patience=1, score=SCORE), names, 1)
    with pytest.raises(ConfigError, match="no client holds validation samples"):
        early_stop(Stop(patience=1), {"global/clients"}, 1)
    with pytest.raises(ConfigError, match=r"evaluate\.keep_best: no client holds validation samples"):
        best_by("accuracy", {"global/clients"})


def test_one_of_a_metrics_classes_that_is_none_is_refused(tmp_path: Path) -> None:
    """What kind of metric it is says the config; which classes there are say the data, before anything is trained."""

    def chosen(metric: str) -> dict[str, Any]:
        return {"metrics": ["recall_by_class", "macro_f1"], "keep_best": metric}

    assert refused(evaluate=chosen("recall_by_class")) == (
        "evaluate.keep_best = 'recall_by_class': recall_by_class is a number of each class; name one, as "
        "'recall_by_class/0'"
    )
    assert "is a number of each class" in refused(evaluate=chosen("recall_by_class/one"))
    assert "is a number of each class" in refused(evaluate=chosen("recall_by_class/07"))
    assert refused(evaluate=chosen("macro_f1/3")) == (
        "evaluate.keep_best = 'macro_f1/3': macro_f1 is one number of all classes together; give 'macro_f1'"
    )
    assert "stop.metric = 'loss/1'" in refused(stop={"patience": 1, "metric": "loss/1"})
    with pytest.raises(ConfigError) as error:
        run({**TINY, "evaluate": chosen("recall_by_class/77")}, out=tmp_path / "run")
    assert str(error.value) == (
        "evaluate.keep_best = 'recall_by_class/77': there is no such class; they go from 0 to 9"
    )
    assert not (tmp_path / "run").exists()
    yes_or_no = {"name": "breast-cancer", "clients": 3, "task": "binary", "validation_share": 0.2}
    binary = {**TINY, "data": yes_or_no, "rounds": 1}
    assert run({**binary, "evaluate": chosen("recall_by_class/1")}, out=tmp_path / "binary").kept_best() is not None


def test_keep_best_by_either_word() -> None:
    assert [
        build({**TINY, "evaluate": {"keep_best": value}}).evaluate.keep_best for value in (True, False, "loss")
    ] == [
        "accuracy",
        None,
        "loss",
    ]
    assert "keep_best" not in build(TINY).tables()["evaluate"]


def test_other_metrics_decide_if_models_are_scored_by_them() -> None:
    """A smaller Brier score is better, and one class's recall is a metric too."""
    scored = {"metrics": ["brier", "recall_by_class"], "keep_best": "recall_by_class/2"}
    config = build({**TINY, "evaluate": scored, "stop": {"patience": 2, "metric": "brier"}})
    assert config.stop is not None
    assert end(EarlyStop(config.stop, SCORE), [0.5, 0.4, 0.45, 0.4, 0.1]) == 4
    assert config.evaluate.keep_best == "recall_by_class/2"


@pytest.mark.parametrize(
    ("tables", "scored"),
    [
        ({"rounds": 10, "evaluate": {"every": 2}, "stop": {"patience": 4}}, "4 rounds"),
        ({"rounds": 10, "evaluate": {"every": 2}, "stop": {"patience": 3}}, None),
        ({"phases": [{"rounds": 15}, {"rounds": 5}], "stop": {"patience": 5}}, "4 rounds of the last phase"),
    ],
)
def test_patience_that_no_run_exhausts_is_said(tables: dict[str, Any], scored: str | None) -> None:
    read = {key: value for key, value in TINY.items() if key != "rounds" or "phases" not in tables}
    _, notes = read_config({**read, **tables})
    assert notes == (
        []
        if scored is None
        else [
            f"stop has no effect: stop.patience = {tables['stop']['patience']}, and {scored} are scored before the last"
        ]
    )


def test_baselines_end_by_the_scores_of_their_own_models() -> None:
    named = {"stop": {"patience": 3, "score": "global/validation-clients"}, "evaluate": {"keep_best": True}}
    (alone,) = baselines(build({**TINY, **named})).values()
    assert alone.stop == Stop(patience=3)
    assert alone.evaluate.keep_best is None
    on_test = {"stop": {"patience": 3, "score": "global/server-test"}, "data": {"name": "digits", "clients": 4}}
    (alone,) = baselines(build({**TINY, **on_test})).values()
    assert alone.stop is None
