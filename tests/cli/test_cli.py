from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from fedtl.cli import commands, printing
from fedtl.config.read import shipped_configs, shipped_studies
from fedtl.data import DATASETS
from fedtl.data.partitions import PARTITIONS
from fedtl.losses.objective import TERMS
from fedtl.models import MODELS
from fedtl.runs.history import load
from fedtl.runs.progress import ProgressBar
from fedtl.server.report import Round
from fedtl.strategies import STRATEGIES

TINY = """
name = "tiny"
rounds = 2

[data]
name = "digits"
clients = 4

[model]
name = "logistic"

[strategy]
name = "pfedme"
local_steps = 2
lr = 0.05
lam = 15.0
inner_steps = 2
inner_lr = 0.05

[simulation]
grid = "in-process"
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    return tmp_path


class Fedtl:
    """The command line in this process, on a terminal of a width."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: object, width: int = 80) -> Said:
        self.capsys.readouterr()
        self.monkeypatch.setattr(printing, "out", Console(highlight=False, width=width))
        self.monkeypatch.setattr(printing, "err", Console(stderr=True, highlight=False, width=width))
        self.monkeypatch.setattr(sys, "argv", ["fedtl", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        code = ended.value.code
        assert isinstance(code, int)
        return Said(code, *self.capsys.readouterr())

    def fails(self, *words: object, code: int = 2) -> str:
        """One sentence on stderr."""
        result = self(*words, width=40)
        assert result.code == code
        assert result.err.startswith("fedtl: ")
        assert result.err.count("\n") == 1
        return result.err


@pytest.fixture
def fedtl(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fedtl:
    return Fedtl(monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tests only read."""
    from fedtl.experiment import run

    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    return run(folder / "tiny.toml", out=folder / "run").path


# run


def test_run(fedtl: Fedtl) -> None:
    result = fedtl("run", "tiny.toml", "--out", "a")
    assert (result.code, result.err) == (0, "")
    assert "tiny: pfedme, logistic" in result.out
    assert "2/2" in result.out
    for row in ("pfedme, seed 0", "global/clients", "personal/clients (adapted)", "global/server-test"):
        assert row in result.out
    assert result.out.endswith("\na\n")
    assert {file.name for file in Path("a").iterdir()} >= {
        "config.toml",
        "environment.json",
        "rounds.jsonl",
        "clients.jsonl",
        "checkpoint",
        "model.safetensors",
    }
    assert [line["round"] for line in rounds("a")] == [1, 2]


def test_run_without_out(fedtl: Fedtl) -> None:
    result = fedtl("run", "tiny.toml", "-q", "rounds=1", "seed=3")
    folder = Path(result.out.strip())
    assert folder.parent == Path("results/tiny")
    assert folder.name.endswith("-3")
    assert load(folder).seed == 3


def test_quiet_prints_the_folder_alone_on_one_line(fedtl: Fedtl) -> None:
    name = "a-folder/with-[bold]a-rather-long-name-for-a-terminal-of-forty-columns"
    result = fedtl("run", "tiny.toml", "rounds=1", "simulation.actors=1", "--quiet", "--out", name, width=40)
    assert result == Said(0, f"{name}\n", "")


def test_profile(fedtl: Fedtl) -> None:
    output = fedtl("run", "tiny.toml", "--out", "run", "--profile").out
    again = fedtl("profile", "run").out
    for part in ("the server's", "waiting for the server", "record and checkpoint", "a traced step's operations"):
        assert part in again
    assert output.endswith(f"{again}run\n")
    fedtl("run", "tiny.toml", "--out", "run", "--profile", "--resume")  # no round is left: nothing to add, no error
    assert fedtl("run", "tiny.toml", "--out", "quiet", "--profile", "-q").out == "quiet\n"
    assert "the server's" in fedtl("profile", "quiet").out
    fedtl("run", "tiny.toml", "--out", "without")
    assert "without holds no profile" in fedtl.fails("profile", "without")


def test_notes_are_printed(fedtl: Fedtl) -> None:
    result = fedtl("run", "tiny.toml", "rounds=1", "strategy.name=fedavg", "evaluate.personal=stored", "--out", "a")
    assert "strategy.name=fedavg: dropped lam, inner_steps, inner_lr of pfedme\n" in result.out
    assert "evaluate.personal has no effect" in result.out
    privacy = [f"deploy.privacy.{key}" for key in ("clipping_norm=1", "epsilon=1", "delta=1e-5")]
    result = fedtl("run", "tiny.toml", "rounds=1", *privacy, "--out", "b")
    assert "deploy.privacy has no effect: a simulation adds no noise" in result.out


def test_an_existing_run_is_not_overwritten(fedtl: Fedtl, finished: Path) -> None:
    before = (finished / "rounds.jsonl").read_bytes()
    assert "--resume" in fedtl.fails("run", "tiny.toml", "--out", finished)
    assert (finished / "rounds.jsonl").read_bytes() == before


def test_resume(fedtl: Fedtl) -> None:
    fedtl("run", "tiny.toml", "-q", "--out", "a")
    first = rounds("a")
    again = fedtl("run", "tiny.toml", "--out", "a", "--resume")
    assert again.code == 0
    assert "personal/clients (adapted)" in again.out
    assert rounds("a") == first
    more = fedtl("run", "tiny.toml", "rounds=4", "--out", "a", "--resume")
    assert (more.code, more.err) == (0, "")
    assert [line["round"] for line in rounds("a")] == [1, 2, 3, 4]
    assert rounds("a")[:2] == first
    folder = fedtl("run", "a", "rounds=5", "--resume", "-q")
    assert folder == Said(0, "a\n", "")
    assert rounds("a")[-1]["round"] == 5
    whole = fedtl("run", "tiny.toml", "rounds=5", "-q", "--out", "b")
    assert whole.code == 0
    assert [line["scores"] for line in rounds("b")] == [line["scores"] for line in rounds("a")]
    assert "another config" in fedtl.fails("run", "tiny.toml", "strategy.lr=0.06", "--out", "a", "--resume")


def test_resume_the_newest_of_a_config(fedtl: Fedtl) -> None:
    fedtl("run", "tiny.toml", "-q")
    result = fedtl("run", "tiny.toml", "rounds=3", "--resume", "-q")
    assert result.code == 0
    assert rounds(result.out.strip())[-1]["round"] == 3


def test_nothing_to_resume_begins(fedtl: Fedtl) -> None:
    output = fedtl("run", "tiny.toml", "--out", "a", "--resume").out
    assert "no run of this config has begun yet in a, so one begins" in output
    assert len(load("a").rounds) == 2
    again = fedtl("run", "tiny.toml", "--out", "a", "--resume").out
    assert "begins" not in again
    assert "starting" not in again  # it is finished


def test_run_errors(fedtl: Fedtl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'quickstart'" in fedtl.fails("run", "quickstrat")
    assert "data.clients = 5000" in fedtl.fails("run", "tiny.toml", "data.clients=5000", "--out", "a")
    monkeypatch.delenv("FEDTL_DATA", raising=False)
    assert "FEDTL_DATA" in fedtl.fails("run", "tiny.toml", "data.name=mnist", "--out", "a")
    monkeypatch.setenv("FEDTL_DATA", "no-such-folder")
    assert "no-such-folder" in fedtl.fails("run", "tiny.toml", "data.name=mnist", "--out", "a")
    assert not Path("a").exists()
    assert "tiny.toml/a" in fedtl.fails("run", "tiny.toml", "--out", "tiny.toml/a", code=1)
    assert "tiny.toml" in fedtl.fails("run", "tiny.toml", "--out", "tiny.toml", code=1)


def test_a_model_that_does_not_fit_the_labels(fedtl: Fedtl) -> None:
    Path("small_net_of_mine.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n",
        encoding="utf-8",
    )
    message = fedtl.fails("run", "tiny.toml", "model.name=small_net_of_mine:net", "--out", "a")
    assert "[2, 3]" in message
    assert "[2, 10]" in message


@pytest.mark.parametrize("words", [["run"], ["run", "tiny.toml", "--bogus"], ["bogus"], ["partition", "x", "--rows=a"]])
def test_a_bad_command_line(fedtl: Fedtl, words: list[str]) -> None:
    result = fedtl(*words)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert result.err


# plot


@pytest.mark.parametrize("kind", ["compare", "convergence", "clients"])
def test_plot(fedtl: Fedtl, finished: Path, kind: str) -> None:
    for name in ("x.png", "new/x.svg"):
        result = fedtl("plot", finished, "-o", name, "--kind", kind, "-q")
        assert result == Said(0, f"{name}\n", "")
    assert Path("x.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("new/x.svg").read_text(encoding="utf-8")


def test_plot_prints_the_scores(fedtl: Fedtl, finished: Path) -> None:
    result = fedtl("plot", finished, finished, "--metric", "loss", "--axis", "bytes")  # the same folder counts once
    assert result.code == 0
    assert result.out.startswith("loss; ")
    assert result.out.count("pfedme, seed 0") == 1
    assert f"{load(finished).last('loss')['global/clients'].value:.4f}" in result.out
    assert Path("convergence.png").is_file()


def test_plot_errors(fedtl: Fedtl, finished: Path) -> None:
    Path("empty").mkdir()
    wrong: list[tuple[list[str | Path], str]] = [
        (["empty"], "empty is not a run's folder"),
        (["nowhere"], "nowhere"),
        (["tiny.toml"], "tiny.toml"),
        ([finished, "-o", "x.bmp"], "x.bmp"),
        ([finished, "-o", "tiny.toml/x.png"], "tiny.toml"),
        ([finished, "--kind", "pie"], "--kind = 'pie'"),
        ([finished, "--axis", "days"], "--axis = 'days'"),
        ([finished, "--metric", "f1"], "'f1'"),
        ([finished, "--score", "global/moon"], "global/moon"),
    ]
    for words, message in wrong:
        assert message in fedtl.fails("plot", *words)
    assert fedtl("plot").code == 2


def test_a_run_without_a_scored_round_has_a_row(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes((finished / "config.toml").read_bytes())
    console = Console(width=80)
    with console.capture() as captured:
        console.print(printing.summary_table([load(tmp_path)]))
    assert "pfedme, seed 0: no scored round yet" in captured.get()


@pytest.mark.parametrize("width", [30, 80, 200])
def test_no_score_is_cut_off(fedtl: Fedtl, finished: Path, width: int) -> None:
    result = fedtl("plot", finished, "-o", "x.png", width=width)
    assert "…" not in result.out
    best = load(finished).best()
    for name, (round, value) in load(finished).last().items():
        (row,) = [line for line in result.out.splitlines() if line.strip().startswith(name)]
        assert row.split()[-1] == str(best[name].round)
        assert f"{100 * value:.2f}" in row
        assert str(round) in row
        assert len(row) <= 80


# partition


def test_partition(fedtl: Fedtl) -> None:
    result = fedtl("partition", "tiny.toml", "data.clients=6", "--rows", 3, "-o", "p.svg")
    assert (result.code, result.err) == (0, "")
    assert "digits, 6 clients, iid" in result.out
    assert "and 3 more clients" in result.out
    assert result.out.endswith("\np.svg\n")
    assert "<svg" in Path("p.svg").read_text(encoding="utf-8")
    assert fedtl("partition", "tiny.toml").code == 0
    assert Path("partition.png").read_bytes().startswith(b"\x89PNG")


def test_partition_errors(fedtl: Fedtl) -> None:
    assert "x.bmp" in fedtl.fails("partition", "tiny.toml", "-o", "x.bmp")
    assert "data.clients = 5000" in fedtl.fails("partition", "tiny.toml", "data.clients=5000")


# list and help


KINDS = {
    "configs": shipped_configs(),
    "studies": shipped_studies(),
    "strategies": STRATEGIES,
    "partitions": PARTITIONS,
    "datasets": DATASETS,
    "models": MODELS,
    "terms": TERMS,
}


@pytest.mark.parametrize("kind", KINDS)
def test_list(fedtl: Fedtl, kind: str) -> None:
    result = fedtl("list", kind, width=200)
    assert result.code == 0
    descriptions = dict(line.split(maxsplit=1) for line in result.out.splitlines())  # no description: no such pair
    assert set(descriptions) >= set(KINDS[kind])
    assert all(len(text.strip()) > 10 for text in descriptions.values())
    assert "``" not in result.out


def test_list_all(fedtl: Fedtl) -> None:
    result = fedtl("list")
    for kind, names in KINDS.items():
        assert f"{kind}\n" in result.out
        for name in names:
            assert f"\n{name} " in result.out


def test_list_of_no_kind(fedtl: Fedtl) -> None:
    assert "did you mean 'strategies'?" in fedtl.fails("list", "strategie")
    assert "partitions" in fedtl.fails("list", "bogus")


def test_help_explains_the_arguments(fedtl: Fedtl) -> None:
    for command, words in {
        "run": "CONFIG is",
        "profile": "RUN is",
        "plot": "STUDY is",
        "partition": "KEY=VALUE",
        "list": "KIND is",
    }.items():
        result = fedtl(command, "--help")
        assert result.code == 0
        assert words in result.out
        assert "\\" not in result.out
    assert "..." not in fedtl("--help").out.partition("Commands:")[2]


def test_version(fedtl: Fedtl) -> None:
    from fedtl import __version__

    assert fedtl("--version") == Said(0, f"{__version__}\n", "")


# The progress bar


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bar_is_whole_on_any_terminal(finished: Path, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    from fedtl.config.read import read_config

    bar = ProgressBar(Console(width=width, force_terminal=True, color_system=None))
    about = {"grid": "in-process", "actors": None, "parameters": 12345, "clients": 20, "device": "cpu"}
    bar.begin(
        read_config("quickstart", ["rounds=800"])[0],
        Path("x"),
        1,
        {**about, "engine": "one by one", "engine_because": "so"},
    )
    scores: dict[str, Mapping[str, object]] = {
        "global/clients": {"accuracy": {"weighted_mean": 0.7123}},
        "personal/clients": {"accuracy": 0.99},
    }
    failures = [(3, "RuntimeError: [bold]" + "long " * 30)]
    bar.round(Round(612, [1] * 10, failures, train={"cross_entropy": 1.2345}, scores=scores, seconds=1.0))
    bar.close()
    assert bar.folder == Path("x")
    shown = capsys.readouterr().out
    assert f"round 612: client 3 failed: {failures[0][1]}\n" in shown
    end = " ".join(shown[shown.rindex("━") :].split())
    assert "612/800" in end
    for word in ("loss", "1.234", "71.2", "99.0", "10", "clients/s"):
        assert word in end
    assert "…" not in end
    if width >= 80:
        assert any("612/800" in line and "clients/s" in line for line in shown.splitlines())


# In a process of its own


def hears_ctrl_c() -> None:
    """As from a terminal: what a script starts in the background ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignores_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start(*words: str, folder: Path, restore: Callable[[], None] = hears_ctrl_c) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from fedtl.cli import main; main()", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
        preexec_fn=restore,
    )


def test_help_in_a_process(here: Path) -> None:
    process = start("--help", folder=here)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "partition" in out
    process = start(folder=here)
    out, err = process.communicate(timeout=60)
    assert "Commands:" in out + err
    assert "Traceback" not in err


def test_help_needs_no_torch(here: Path) -> None:
    code = (
        "import sys, fedtl.cli.commands\n"
        "try:\n    fedtl.cli.commands.app(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'flwr', 'ray', 'matplotlib', 'sklearn', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_error_in_a_process(here: Path) -> None:
    process = start("run", "tiny.toml", "strategy.lr=-1", folder=here)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "fedtl: strategy.lr = -1: should be greater than 0\n"


@pytest.mark.parametrize(
    ("sent", "more", "restore"),
    [
        (signal.SIGINT, [], hears_ctrl_c),
        (signal.SIGTERM, ["--quiet"], ignores_ctrl_c),
    ],
    ids=["Ctrl-C", "SIGTERM, in the background"],
)
def test_a_signal_ends_a_run_that_can_be_gone_on_with(
    here: Path, fedtl: Fedtl, sent: signal.Signals, more: list[str], restore: Callable[[], None]
) -> None:
    process = start("run", "tiny.toml", "rounds=100000", "--out", "a b", *more, folder=here, restore=restore)
    record = here / "a b" / "rounds.jsonl"
    try:
        while process.poll() is None and not (record.exists() and record.read_text().count("\n") >= 2):
            time.sleep(0.02)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    done = int(json.loads((here / "a b" / "checkpoint" / "checkpoint.json").read_text())["round"])
    assert err == f"stopped after round {done}; to go on: fedtl run 'a b' --resume\n"
    result = fedtl("run", "a b", f"rounds={done + 2}", "--resume", "-q")
    assert result == Said(0, "a b\n", "")
    assert [line["round"] for line in rounds("a b")] == list(range(1, done + 3))


def test_a_signal_before_the_first_round(here: Path, fedtl: Fedtl, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedtl import experiment

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(experiment, "run_at", interrupted)
    assert fedtl("run", "tiny.toml", "-q") == Said(130, "", "stopped before the run began\n")
    assert signal.getsignal(signal.SIGTERM) is before


def rounds(folder: str | Path) -> list[dict[str, object]]:
    return load(folder).rounds
