"""``fedtl table``: the comparison's own numbers, laid out, with marks that the comparison justifies."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from fedtl.choice import ConfigError
from fedtl.cli.commands import app
from fedtl.comparison import compare, formats
from fedtl.comparison.latex import latex_text
from fedtl.comparison.table import ScoreTable, score_table
from fedtl.comparison.table_formats import as_csv, latex, markdown, text
from fedtl.studies import Study
from tests.made_up import ALPHA, made_up_study

METHODS = ("pfedme 50% & x_1", "fedavg", "local")


def accuracies(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
    """The variant is best; of the others FedAvg is as good under some seeds where α = 1, and worse elsewhere."""
    mean = {"fedavg": 0.7, "local": 0.6}.get(method, 0.8) - 0.02 * round
    if setting[ALPHA] == 1 and method == "fedavg":
        mean += 0.09 * seed  # 0.7, 0.79 and 0.88, so 0.79 on the average
    return mean + 0.01 * seed + np.linspace(-0.02, 0.02, 9)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("table")
    failed = {("local", 0, 2), *(("local", 1, seed) for seed in range(3))}
    return made_up_study(folder, accuracies, METHODS, failed=failed)


@pytest.fixture(scope="module")
def table(study: Study) -> ScoreTable:
    return score_table(compare(study.folder, resamples=0), study)


def test_it_is_the_comparison_laid_out(study: Study, table: ScoreTable) -> None:
    assert table.methods == METHODS
    assert table.labels == ("alpha=0.1", "alpha=1")
    for group in compare(study.folder, resamples=0).groups:
        entry = table.entries[METHODS.index(group.variant)][(0.1, 1.0).index(group.setting[ALPHA])]
        assert entry.value == group.last
        assert entry.score == group.score


def test_best_ties_and_missing_runs_are_marked(table: ScoreTable) -> None:
    marks = [[(entry.best, entry.tied, entry.seeds, entry.planned) for entry in row] for row in table.entries]
    assert marks == [
        [(True, False, 3, 3), (True, False, 3, 3)],
        [(False, False, 3, 3), (False, True, 3, 3)],  # the best is better under two of three seeds
        [(False, False, 2, 3), (False, False, 0, 3)],
    ]
    lines = text(table).splitlines()
    assert lines[2].split("  ")[0] == METHODS[0]
    assert "> " in lines[2]
    assert "* 76." in lines[3]
    assert "(2/3)" in lines[4]
    caption = table.caption()
    assert "the global model (fedavg)" in caption
    assert f"the personalised model ({METHODS[0]}, local) on the clients' test data" in caption
    assert "mean over clients weighted by samples, in the last round, mean ± standard deviation over 3 seeds" in caption
    assert "*: the best is not shown to be better than it at 0.05" in caption
    assert caption.endswith("In brackets: seeds that finished, of those planned. -: no run finished.")


def test_validation_chooses_the_round(study: Study) -> None:
    table = score_table(compare(study.folder, at="validation", resamples=0), study)
    value = table.entries[0][0].value
    assert value is not None
    first = [np.average(accuracies(METHODS[0], {ALPHA: 0.1}, seed, 0), weights=range(10, 19)) for seed in range(3)]
    assert value.mean == pytest.approx(np.mean(first))  # scores fall from round to round
    assert "in the round that is best on validation data" in table.caption()


def test_one_seed_has_no_ties(study: Study) -> None:
    runs = [study.folder / run.folder for run in study.finals if run.seed == 0 and run.state == "finished"]
    table = score_table(compare(runs, resamples=0))
    assert not any(entry.tied for row in table.entries for entry in row)
    assert "One seed shows nothing about others, so no ties are marked." in table.caption()
    assert table.labels == ("alpha=0.1", "alpha=1")


ALL_SHOWN = "Each is shown to be better than the others at 0.05; there are no ties."


@pytest.mark.parametrize(
    ("equal", "failed", "said"),
    [
        ((), (), ALL_SHOWN),
        (("fedavg", "pfedme"), (), "Where several are best, their means are equal."),
        (
            (),
            [(method, 1, seed) for method in ("fedavg", "local") for seed in range(3)],
            "Where one of several is best, it is shown to be better than the others at 0.05. A method that finished "
            "alone in its column is compared with nothing.",
        ),
        (
            (),
            [("local", p, s) for p in (0, 1) for s in range(3)]
            + [(m, p, s) for m, s in (("pfedme", 2), ("fedavg", 0)) for p in (0, 1)],
            "One seed in common shows nothing about others, so no ties are marked.",
        ),
        (
            (),
            [("local", p, s) for p in (0, 1) for s in range(3)]
            + [(m, p, s) for m, s in (("pfedme", 0), ("fedavg", 1), ("fedavg", 2)) for p in (0, 1)],
            "Methods are not paired, as they have no seed in common, so no ties are marked.",
        ),
    ],
)
def test_it_claims_no_more_than_is_shown(
    tmp_path: Path, equal: tuple[str, ...], failed: Sequence[tuple[str, int, int]], said: str
) -> None:
    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        mean = 0.8 if method in equal else {"pfedme": 0.7, "fedavg": 0.6, "local": 0.5}[method]
        return mean + 0.01 * seed + np.linspace(-0.02, 0.02, 9)

    made = made_up_study(tmp_path, values, failed=failed)
    caption = score_table(compare(tmp_path, resamples=0), made).caption()
    assert said in caption
    assert (ALL_SHOWN in caption) == (said == ALL_SHOWN)


def test_csv_has_plain_numbers(table: ScoreTable) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [(row["method"], row[ALPHA]) for row in rows] == [(m, a) for m in METHODS for a in ("0.1", "1.0")]
    assert table.entries[0][0].value is not None
    assert float(rows[0]["mean"]) == table.entries[0][0].value.mean
    assert (rows[-1]["mean"], rows[-1]["seeds"], rows[-1]["planned"]) == ("", "0", "3")
    assert [row["best"] for row in rows] == ["1", "1", "0", "0", "0", "0"]


def test_markdown_has_a_cell_for_each_column(table: ScoreTable) -> None:
    lines = markdown(table).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[:5]} == {4}
    assert lines[2].startswith(f"| {METHODS[0]} | **")
    assert r"\* |" in lines[3]


def test_latex_has_no_command_that_is_not_meant(table: ScoreTable) -> None:
    source = latex(table)
    body = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    assert set(re.findall(r"\\([a-z]+)", body)) <= {
        *("begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule"),
        *("textbf", "rlap", "pm", "multicolumn"),
        *("setlength", "belowcaptionskip", "medskipamount"),
        *("resizebox", "ifdim", "width", "linewidth", "else", "fi"),
    }
    assert re.search(r"(?<!\\)[%#](?!$)", body, re.MULTILINE) is None
    outside = re.sub(r"(?<!\\)\$[^$]*(?<!\\)\$", "", body)
    assert re.search(r"(?<!\\)[_^$]", outside) is None
    depth = np.cumsum([(letter == "{") - (letter == "}") for letter in re.sub(r"\\[{}]", "", body)])
    assert depth[-1] == 0
    assert (depth >= 0).all()
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = [len(re.findall(r"(?<!\\)&", row)) + row.count("multicolumn{2}") for row in rows]
    assert set(columns) == {2 * len(table.labels)}
    assert r"pfedme 50\% \& x\_1 & \textbf{" in body
    assert latex_text("α=0.1, Δ_{x}^2 ~ \\a") == r"$\alpha$=0.1, $\Delta$\_\{x\}\textasciicircum{}2 " + (
        r"\textasciitilde{} \textbackslash{}a"
    )


ODD = (
    "pfedme 50% & x_1 #2",
    "[fedavg]",  # as a row begins, an option of the line break before it
    "*star",  # likewise
    "λ=ΩΣς Αο ϵϕϑϱϖϒ, é, µ ² – — …",
    '--a|b `t` ~^{}\\$ <> "z" − ∞ →',
)


def test_latex_compiles_with_what_the_docs_name_alone(tmp_path: Path) -> None:
    """Odd names, best ones, ties, missing seeds and undefined scores, in a table and in a comparison."""
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        pytest.skip("no pdflatex is installed, as by apt-get install texlive-latex-recommended")

    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        if method == "undefined":
            return np.full(9, np.nan)
        return accuracies(method, setting, seed, round)

    failed = {("local", 0, 2), *(("local", 1, seed) for seed in range(3))}
    made = made_up_study(tmp_path / "study", values, ("fedavg", "local", "undefined", *ODD), failed=failed)
    compared = compare(made.folder, resamples=0)
    (tmp_path / "table.tex").write_text(latex(score_table(compared, made)), encoding="utf-8")
    (tmp_path / "comparison.tex").write_text(formats.latex(compared), encoding="utf-8")
    document = r"\documentclass{article}\usepackage{booktabs, graphicx}\begin{document}\input{table}\input{comparison}"
    (tmp_path / "page.tex").write_text(rf"{document}\end{{document}}", encoding="utf-8")
    words = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "page.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, errors="replace")
    assert done.returncode == 0, done.stdout
    assert re.findall("Overfull.*|LaTeX Warning.*", done.stdout) == []


def test_a_score_that_is_undefined_is_no_failed_run(tmp_path: Path) -> None:
    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        undefined = method == "local" and (setting[ALPHA] == 1 or seed == 0)
        return np.full(9, np.nan) if undefined else accuracies(method, setting, seed, round)

    made = made_up_study(tmp_path, values)
    table = score_table(compare(tmp_path, resamples=0), made)
    assert [(entry.seeds, entry.planned) for entry in table.entries[2]] == [(2, 3), (0, 3)]
    assert table.caption().endswith(
        "In brackets: seeds with a score, of those planned. -: no run has a score. "
        "Runs that finished without a score are those in which it is undefined."
    )


@pytest.mark.parametrize("seed", [0, None])
def test_a_run_whose_record_is_gone_is_none_without_a_score(tmp_path: Path, seed: int | None) -> None:
    made = made_up_study(tmp_path, accuracies)
    for run in made.finals:
        if run.cell == made.finals[0].cell and seed in (None, run.seed):
            shutil.rmtree(tmp_path / run.folder)
    caption = score_table(compare(tmp_path, resamples=0), made).caption()
    assert caption.endswith("-: no run finished." if seed is None else "seeds that finished, of those planned.")


@pytest.mark.parametrize(
    ("word", "methods"),
    [
        ("rounds=2", METHODS),  # which no cell says, as all runs have it
        ("data=digits", METHODS),
        ("partition=dirichlet", METHODS),
        ("strategy.name=fedavg", ("fedavg",)),
        ("pfedme", METHODS[:1]),
        ("strategy.name=local", ("local",)),
    ],
)
def test_some_of_the_methods_by_any_key(study: Study, word: str, methods: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["table", str(study.folder), "--only", word, "--format", "csv"])
    assert result.exception is None
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["method"], row[ALPHA]) for row in rows] == [(m, a) for m in methods for a in ("0.1", "1.0")]
    assert {row["planned"] for row in rows} == {"3"}  # of the cell without any run too


def test_the_command(study: Study, tmp_path: Path) -> None:
    words = ["table", str(study.folder), "--format", "latex"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert result.stdout.startswith("% \\usepackage{booktabs, graphicx}\n\\begin{table}")
    CliRunner().invoke(app, [*words, "-o", str(tmp_path / "tables" / "a.tex")])
    assert (tmp_path / "tables" / "a.tex").read_text() == result.stdout
    nowhere = CliRunner().invoke(app, [*words, "-o", str(study.folder)])
    assert isinstance(nowhere.exception, ConfigError)
    wrong = CliRunner().invoke(app, ["table", str(study.folder), "--format", "latx"])
    assert isinstance(wrong.exception, ConfigError)
    assert str(wrong.exception) == "--format = 'latx' is unknown: did you mean 'latex'?"
