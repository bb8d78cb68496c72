"""``fedtl deploy`` without a network: what it explains, what it would start, and what it refuses in one sentence."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedtl.cli import commands, printing
from fedtl.cli import deploy as cli_deploy
from fedtl.config.read import build, read_config
from fedtl.deploy import flower, folders
from fedtl.deploy import run as runs_module
from fedtl.deploy import server as server_module
from fedtl.deploy.flower import Command
from fedtl.deploy.folders import read_client, read_server
from fedtl.deploy.serverapp import RunRequest
from fedtl.failure import RunError

CONFIG = """
name = "clinics"
rounds = 2

[data]
name = "digits"
clients = 3

[model]
name = "logistic"

[strategy]
name = "fedavg"
lr = 0.1
"""

COMMANDS = ("init", "server", "client", "run", "status", "revoke")


class Fedtl:
    """The command line in this process, on a terminal of a width."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys, self.out = monkeypatch, capsys, ""

    def __call__(self, *words: object, code: int = 0, width: int = 80) -> str:
        self.capsys.readouterr()
        for module in (printing, cli_deploy):
            self.monkeypatch.setattr(module, "out", Console(highlight=False, width=width))
            self.monkeypatch.setattr(module, "err", Console(stderr=True, highlight=False, width=width))
        self.monkeypatch.setattr(sys, "argv", ["fedtl", "deploy", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        out, err = self.capsys.readouterr()
        self.out = " ".join(out.split())
        assert ended.value.code == code, err
        return out if code in (0, cli_deploy.NOT_RUNNING) else err

    def fails(self, *words: object, code: int = 2) -> str:
        """One sentence on stderr."""
        message = self(*words, code=code, width=40)
        assert message.startswith("fedtl: ")
        assert message.count("\n") == 1
        return message.removeprefix("fedtl: ").rstrip("\n")


@pytest.fixture
def fedtl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Path) -> Fedtl:
    def refuse(*words: Any, **_: Any) -> None:
        pytest.fail(f"started {words}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    install_flower(monkeypatch, "1.39.0")  # nothing here starts it, so whichever is installed will do
    return Fedtl(monkeypatch, capsys)


def install_flower(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let ``fedtl deploy`` see this version of Flower."""
    monkeypatch.setattr(flower, "metadata", SimpleNamespace(version=lambda _: version))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment that no test changes."""
    path = tmp_path_factory.mktemp("made") / "study"
    folders.create(path, ["a", "b"], "localhost", port=free_port(), control_port=free_port())
    return path


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "study")
    (tmp_path / "clinics.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "data").mkdir()
    for part, n in (("train", 6), ("test", 4)):
        x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
        np.savez(tmp_path / "data" / f"{part}.npz", x=x, y=np.arange(n) % 3)
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Help.


def test_help_lists_the_commands(fedtl: Fedtl) -> None:
    output = fedtl("--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +\S", output, re.MULTILINE)


OPTIONS = {
    "init": ["--clients", "--server", "--port", "--control-port", "--days", "--renew"],
    "server": ["--host", "--dry-run"],
    "client": [
        *("--data", "--rules", "--config", "--task", "--label", "--size", "--channels", "--test-share", "--device"),
        "--dry-run",
    ],
    "run": ["--data", "--out", "--resume", "--quiet", "--dry-run"],
    "status": [],
    "revoke": [],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name: str, fedtl: Fedtl) -> None:
    output = fedtl(name, "--help", width=100)
    assert "DIR" in output
    for option in OPTIONS[name]:
        assert re.search(rf"^ +(-\w, )?{option}\b|, {option}\b", output, re.MULTILINE), option
    listed = set(re.findall(r"^ +(?:-\w, )?(--[a-z][\w-]*)", output, re.MULTILINE))
    assert listed <= {*OPTIONS[name], "--help", "--resume", "--renew"}


def test_no_command_asks_for_torch_before_it_is_needed() -> None:
    """In a process of its own, as this one has imported everything."""
    code = (
        "import sys; sys.argv = ['fedtl', 'deploy', 'server', '--help']\n"
        "from fedtl import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({'torch', 'flwr', 'grpc', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


# Which Flower.


@pytest.mark.parametrize("version", ["1.38.1", "1.40.0", "1.42.0", "1.390.0"])
@pytest.mark.parametrize(
    "words",
    [("server", "study"), ("client", "study/b", "--data", "data"), ("run", "clinics.toml", "study")],
    ids=lambda words: words[0],
)
def test_another_flower_is_refused(
    words: tuple[str, ...], version: str, fedtl: Fedtl, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_flower(monkeypatch, version)
    assert fedtl.fails(*words) == (
        f"flwr {version} is installed, and fedtl deploy needs 1.39, the last one whose SuperNodes speak gRPC: pip "
        "install 'flwr==1.39.*'"
    )


# Dry runs.


def test_the_server_that_would_be_started(fedtl: Fedtl, here: Path) -> None:
    output = fedtl("server", "study", "--dry-run", "--host", "10.0.0.1")
    server = read_server(here / "study")
    assert output.count("\n") == 1
    for words in (
        f"--ssl-certfile {server.certificate}",
        f"--ssl-keyfile {server.key}",
        f"--fleet-api-address 10.0.0.1:{server.port}",
        f"--host 127.0.0.1 --port {server.control_port}",
        "--enable-supernode-auth",
        f"FLWR_HOME={server.flower_home}",
        "FLWR_TELEMETRY_ENABLED=0",
    ):
        assert words in output
    assert "--insecure" not in output
    assert not server.log.exists()


def test_the_client_that_would_be_started(fedtl: Fedtl, here: Path) -> None:
    lines = fedtl("client", "study/b", "--data", "data", "--dry-run").splitlines()
    client = read_client(here / "study" / "b")
    assert lines[0] == "b: 6 training and 4 test samples, float32 [4]; labels to 2"
    assert len(lines) == 2
    for words in (
        f"flower-supernode --root-certificates {client.ca} --superlink {client.server}",
        f"--auth-supernode-private-key {client.key}",
        f"PATH={client.flower_home}/bin:",
        "$PATH",
    ):
        assert words in lines[1]
    assert "--insecure" not in lines[1]
    assert not client.log.exists()
    assert not client.flower_home.exists()


def test_a_client_whose_gaps_all_clients_fill_has_no_numbers_yet(fedtl: Fedtl) -> None:
    Path("a.csv").write_text("age,label\n" + "\n".join(f"{'' if i == 3 else i},{i % 2}" for i in range(12)))
    Path("gaps.toml").write_text(CONFIG.replace('name = "digits"', 'name = "files"\npath = "."\nmissing = "mean"'))
    lines = fedtl("client", "study/b", "--data", "a.csv", "--rules", "gaps.toml", "--dry-run").splitlines()
    assert lines[0] == "b: 9 training and 3 test samples, numbers by what all clients say of their columns; labels to 1"


def test_a_client_says_how_many_validation_samples_it_brings(fedtl: Fedtl) -> None:
    np.savez("data/validation.npz", x=np.zeros((2, 4), np.float32), y=[0, 1])
    lines = fedtl("client", "study/b", "--data", "data", "--dry-run").splitlines()
    assert lines[0] == "b: 6 training, 2 validation and 4 test samples, float32 [4]; labels to 2"


def test_a_client_that_agrees_to_more_than_its_samples_allow_is_told_at_once(fedtl: Fedtl) -> None:
    np.savez("data/train.npz", x=np.zeros((1, 4), np.float32), y=[0])
    Path("clinics.toml").write_text(CONFIG.replace("clients = 3", "clients = 3\nvalidation_share = 0.2"))
    assert fedtl.fails("client", "study/b", "--data", "data", "--config", "clinics.toml") == (
        "data.validation_share = 0.2: client 1 has 1 training sample with a label, and needs 2, one to train with and "
        "one for validation; give it more, have fewer clients, or leave the share out"
    )


def test_the_run_that_would_be_started(fedtl: Fedtl, here: Path) -> None:
    output = fedtl("run", "clinics.toml", "study", "rounds=3", "--dry-run")
    app = here / "study" / "server" / "flower" / "app"
    assert f"flwr run {app} fedtl --run-config" in output
    assert output.count("\n") == 1
    assert not app.exists()
    assert not Path("results").exists()


# init.


def test_init_says_what_goes_where(fedtl: Fedtl, here: Path) -> None:
    lines = fedtl("init", "new", "--clients", "x, y,,", "--server", "fed.example.org", "--port", 7001).splitlines()
    assert lines == [
        "new/server: for the server, which runs: fedtl deploy server server",
        "new/x: for x, who runs: fedtl deploy client x --data PATH",
        "new/y: for y, who runs: fedtl deploy client y --data PATH",
        "new/authority: keep it here; whoever has it can pass for the server",
    ]
    assert (read_server("new").clients, read_server("new").port) == (("x", "y"), 7001)


def test_renewal(fedtl: Fedtl, here: Path) -> None:
    before = {path: path.read_bytes() for path in Path("study").rglob("*") if path.is_file()}
    output = fedtl("init", "study", "--renew", "--days", 5)
    assert output.splitlines() == [
        "study/server: a new certificate, for 5 days",
        "copy server.pem and server.key to the server, and start it again",
    ]
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"server.pem", "server.key"}
    output = fedtl("init", "study", "--renew", "--server", "10.1.2.3").splitlines()
    assert output[2] == 'and set server = "10.1.2.3:PORT" in each client\'s client.toml'
    assert read_server("study").host == "10.1.2.3"
    output = fedtl.fails("init", "study", "--renew", "--clients", "c")
    assert output == "--clients: the clients of a deployment stay as they are; leave it out with --renew"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["init", "new", "--server", "localhost"], "--clients is missing: give the clients' names, as --clients a,b,c"),
        (["init", "new", "--server", "localhost", "--clients", ","], "--clients is missing: "),
        (["init", "new", "--clients", "x"], "--server is missing: give the host name or IP address"),
        (["init", "study", "--clients", "x", "--server", "localhost"], "{}/study exists already: "),
        (["init", "new", "--clients", "../x", "--server", "localhost"], "clients"),
        (["init", "new", "--clients", "x,X", "--server", "localhost"], "clients"),
        (["init", "new", "--clients", "x", "--server", "https://a"], "host = 'https://a'"),
        (["init", "new", "--clients", "x", "--server", "a", "--days", "0"], "days = 0: give 1 to 3650"),
        (["init", "new", "--renew"], "new does not exist: give a folder that `fedtl deploy init` made"),
        (["server", "study/a", "--dry-run"], "study/a is a client's folder: give the server's"),
        (["server", "data", "--dry-run"], "data has no server.toml, so it is no server's folder"),
        (["server", "nowhere"], "nowhere does not exist: "),
        (["client", "study/server", "--data", "data"], "study/server is the server's folder: give a client's"),
        (["client", "study", "--data", "data"], "study holds the folders of clients: give one of a, b, as study/a"),
        (["client", "study/a", "--data", "none"], "none: there is no such file or folder"),
        (["client", "study/a", "--data", "clinics.toml"], "clinics.toml: a single file must be .csv or .parquet; "),
        (["client", "study/a", "--data", "data", "--device", "tpu"], "--device = 'tpu': give auto, cpu or cuda"),
        (["client", "study/a", "--data", "data", "--channels", "2"], "--channels = 2: give 1 or 3"),
        (["client", "study/a", "--data", "data", "--label", "y"], "label = 'y': only tables have columns"),
        (["client", "study/a", "--data", "data", "--test-share", "1"], "test_share = 1: should be"),
        (["client", "study/a", "--data", "data", "--task", "survival"], "data/train.npz: y is int64 [6]; data.task"),
        (["client", "study/a", "--data", "data", "--rules", "none.toml"], "there is no config 'none.toml', "),
        (["client", "study/a", "--data", "data", "--config", "none.toml"], "there is no config 'none.toml', "),
        (["run", "none.toml", "study"], "there is no config 'none.toml', "),
        (["run", "clinics.toml", "study/a"], "study/a is a client's folder: give the server's"),
        (["run", "clinics.toml", "study", "--data", "none"], "none: there is no such file or folder"),
        (["run", "clinics.toml", "study", "deploy.min_clients=3"], "deploy.min_clients = 3: there are only 2"),
        (
            ["run", "clinics.toml", "study", "strategy.clients_per_round=3"],
            "strategy.clients_per_round = 3: there are only 2",
        ),
        (
            ["run", "clinics.toml", "study", "deploy.min_clients=2", "data.held_out_clients=1"],
            "deploy.min_clients = 2: there are only 2, of which data.held_out_clients leaves 1 to train",
        ),
        (["run", "clinics.toml", "study", "deploy.wait=0"], "deploy.wait = 0"),
        (["revoke", "study", "c"], "'c' is no client of {}/study/server: "),
        (["revoke", "study/a", "a"], "study/a is a client's folder: give the server's"),
        (["status", "data"], "data has no server.toml, so it is no server's folder"),
    ],
    ids=lambda words: "_".join(words)[:60] if isinstance(words, list) else "",
)
def test_what_is_wrong_is_one_sentence(words: list[str], sentence: str, fedtl: Fedtl, here: Path) -> None:
    message = fedtl.fails(*words)
    assert message.startswith(sentence.format(here))
    assert not Path("new").exists()


def test_an_occupied_folder(fedtl: Fedtl) -> None:
    Path("x").mkdir()
    Path("x/config.toml").write_text(CONFIG)
    message = fedtl.fails("run", "clinics.toml", "study", "--out", "x")
    assert message == "x holds a run already: add --resume to go on with it, or choose another --out"


def test_a_simulated_run_is_not_gone_on_with(fedtl: Fedtl) -> None:
    Path("x").mkdir()
    Path("x/config.toml").write_text(CONFIG)
    Path("x/environment.json").write_text("{}")
    message = fedtl.fails("run", "clinics.toml", "study", "--resume", "--out", "x")
    assert message == "--resume: x holds a simulated run; continue it with fedtl run"


def test_a_run_without_a_server(fedtl: Fedtl, here: Path) -> None:
    message = fedtl.fails("run", "clinics.toml", "study", "-q", code=1)
    assert message == (f"no server runs on this machine for {here}/study/server: start it with fedtl deploy server")
    assert not Path("results").exists()
    assert not (here / "study" / "server" / "studies").exists()


def test_options_that_are_missing_or_wrong(fedtl: Fedtl) -> None:
    assert "Missing option '--data'" in fedtl("client", "study/a", code=2)
    assert "Missing argument" in fedtl("run", "clinics.toml", code=2)
    assert "No such option" in fedtl("server", "study", "--insecure", code=2)
    assert "--port" in fedtl("init", "new", "--port", "x", code=2)


# status.


def test_status_of_a_server_that_does_not_run(fedtl: Fedtl, here: Path) -> None:
    output = fedtl("status", "study", code=3)
    assert re.fullmatch(r"the server does not run; its certificate is valid until \d{4}-\d\d-\d\d\n", output)
    server = read_server(here / "study")
    experiment = build(
        {
            "name": "clinics",
            "rounds": 2,
            "data": {"name": "digits", "clients": 2},
            "model": {"name": "logistic"},
            "strategy": {"name": "fedavg", "lr": 0.1},
        }
    ).tables()
    ends: dict[str, Any] = {"one": {}, "two": {"error": "too few [bold]clients", "wrong": False}, "three": None}
    for name, end in ends.items():
        order = RunRequest(name, experiment, f"/r/{name}", None, False, [])
        order.write(server)
        if end is not None:
            order.ended(server, end)
    lines = fedtl("status", "study/server", code=3, width=100).splitlines()[1:]
    rows = [re.split(r"  +", line.strip()) for line in lines if "/r/" in line]
    assert rows == [
        ["one", "0", "finished", "/r/one"],
        ["three", "0", "stopped", "/r/three"],
        ["two", "0", "ended: too few [bold]clients", "/r/two"],
    ]


def test_status_of_a_client(fedtl: Fedtl, here: Path) -> None:
    client = read_client(here / "study" / "a")
    assert fedtl("status", "study/a", code=3) == f"a does not run; its server is {client.server}\n"
    study = client.studies / "clinics-1"
    (study / "checkpoint").mkdir(parents=True)
    (study / "checkpoint" / "checkpoint.json").write_text(
        json.dumps({"round": 7, "tensors": "7.safetensors", "elapsed": 1.0})
    )
    (study / "memories" / "0").mkdir(parents=True)
    (study / "memories" / "0" / "1.safetensors").touch()
    row = fedtl("status", "study/a", code=3, width=200).splitlines()[-1]
    assert re.split(r"  +", row.strip()) == ["clinics-1", "7", "keeps memories", str(study)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(client.socket))
        listener.listen()
        assert fedtl("status", "study/a").startswith("a takes part; its server is localhost:")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"round": null}'])
def test_status_of_a_study_whose_checkpoint_is_damaged(text: str, fedtl: Fedtl, here: Path) -> None:
    client = read_client(here / "study" / "a")
    for name, about in (("broken", text), ("sound", '{"round": 3, "tensors": "3.safetensors", "elapsed": 1.0}')):
        (client.studies / name / "checkpoint").mkdir(parents=True)
        (client.studies / name / "checkpoint" / "checkpoint.json").write_text(about)
    rows = [re.split(r"  +", line.strip()) for line in fedtl("status", "study/a", code=3, width=300).splitlines()[-2:]]
    assert rows[0][:2] == ["broken", "0"]
    assert rows[0][2].startswith("damaged: ")
    assert rows[1][:2] == ["sound", "3"]


# revoke.


def answers(monkeypatch: pytest.MonkeyPatch, *texts: dict[str, Any]) -> list[str]:
    """A server that runs, and what Flower's command line prints; gives the command lines."""
    asked, left = list[str](), [*texts]

    def runs(command: Command) -> subprocess.CompletedProcess[str]:
        asked.append(str(command))
        return subprocess.CompletedProcess([], 0, json.dumps(left.pop(0)), "")

    monkeypatch.setattr(server_module, "runs", lambda _: True)
    monkeypatch.setattr(server_module, "run", runs)
    return asked


def test_a_client_that_is_let_in_no_longer(fedtl: Fedtl, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fedtl("revoke", "study", "a") == "a cannot connect any more\n"
    server = read_server(here / "study")
    assert (server.clients, server.admitted) == (("a", "b"), ("b",))
    assert not server.public_key("a").exists()
    assert fedtl("revoke", "study", "a") == "a cannot connect any more\n"
    server.flower_home.mkdir(exist_ok=True)
    asked = answers(monkeypatch, {"success": True, "node-id": 77}, {"success": False, "error-message": "no"})
    server_module.register(server, "b")
    assert server_module.node_numbers(server) == {"b": "77"}
    message = fedtl.fails("revoke", "study", "b", code=1)
    assert message == "b cannot be shut out: no"
    assert read_server(here / "study").admitted == ()  # at the latest when the server is started again
    assert server_module.node_numbers(server) == {"b": "77"}
    asked = answers(monkeypatch, {"success": True})
    assert fedtl("revoke", "study", "b") == "b cannot connect any more\n"
    assert server_module.node_numbers(server) == {}
    assert len(asked) == 1
    assert "supernode unregister 77" in asked[0]


# What has no effect.


def test_what_has_no_effect_is_said(fedtl: Fedtl, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(*_: Any) -> None:
        raise RunError("nothing is started here")

    monkeypatch.setattr(runs_module, "start", ends)
    alone, more = ["deploy.min_clients=1"], ["max_failures=0.2"]
    note = "max_failures has no effect: deploy.min_clients says how many clients must not fail"
    monkeypatch.setattr(runs_module, "alone", lambda *_: nullcontext())
    for words, expected in ((alone, False), (more, False), (alone + more, True)):
        fedtl("run", "clinics.toml", "study", *words, code=1)
        assert (note in fedtl.out) == expected
    asked = Path("clinics.toml").read_text().replace("rounds", "max_failures = 0.5\nrounds")
    Path("asked.toml").write_text(asked)
    fedtl("run", "asked.toml", "study", *alone, code=1)
    assert note in fedtl.out
    # A run's own config gives every key.
    config = read_config("clinics.toml")[0]
    Path("run").mkdir()
    for text, words, expected in (
        (config.toml(), [], False),
        (config.toml(), ["max_failures=0.5"], True),
        (config.model_copy(update={"max_failures": 0.4}).toml(), [], True),
        (config.model_copy(update={"max_failures": 0.4}).toml(), ["max_failures=none"], False),
    ):
        Path("run/config.toml").write_text(text)
        fedtl("run", "run", "study", *alone, *words, "--out", "other", code=1)
        assert (note in fedtl.out) == expected


def test_arguments_are_in_the_usage(fedtl: Fedtl) -> None:
    assert "CONFIG DIR [KEY=VALUE]..." in " ".join(fedtl("run", "--help", width=100).split())
