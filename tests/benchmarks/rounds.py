"""What a round among real clients costs, and where its time goes: SuperLink, SuperNodes and TLS on one machine.

    python -m tests.benchmarks.rounds [--rounds 8] [--clients 3 1] [--hidden 64 3000x3000]

Each message is followed from the server to its client and back, by the lines that Flower's programs print, stamped as
they appear (every 5 ms), by marks that are set around fedtl's own calls, and by the one that is put before the client's
``flwr-clientapp``; all clocks are this machine's. The first message of each kind to a client, before which it reads its
data and records its steps, is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARKS = "FEDTL_MARKS"
"""The environment variable that names the file of marks."""

FEDTL = str(Path(sys.executable).parent / "fedtl")

# Between which marks a message is, and what it waits for there.
STAGES = {
    "sent": "the server pushes it to the SuperLink",
    "seen": "until the SuperNode polls (every 3 s when idle)",
    "fetched": "the SuperNode fetches it",
    "started": "until the SuperExec has started flwr-clientapp (polls every 0.2 s)",
    "imported": "flwr-clientapp imports",
    "asked": "flwr-clientapp fetches it, and hands it to the client's own process",
    "answered": "the work itself",
    "replying": "the reply reaches the SuperNode, and it polls (every 0.5 s)",
    "replied": "the SuperNode pushes it to the SuperLink",
    "received": "until the server polls (every 0.2 s), and fetches it",
}
LINES = {
    "Receiving: ": "seen",
    "Received successfully": "fetched",
    "flwr-clientapp begins": "started",
    "flwr-clientapp is imported": "imported",
    "Sending: ": "replying",
    "Sent successfully": "replied",
}
"""What Flower's programs print, and the mark that it is."""

APP = """
from tests.benchmarks.rounds import watch_link
watch_link()
"""

CLIENTAPP = """#!/bin/sh
echo flwr-clientapp begins
exec {python} -c 'from fedtl.deploy.clientapp import main
print("flwr-clientapp is imported", flush=True)
main()' "$@"
"""
"""In place of the client's own, which says neither."""

IMPORTS = {
    "flwr-clientapp as it is here": "import fedtl.deploy.clientapp",
    "Flower's own flwr-clientapp, before the app": "import flwr.supernode.cli.flwr_clientapp",
    "the same, and an app with torch": "import flwr.supernode.cli.flwr_clientapp, fedtl.app, fedtl.experiment",
}


def mark(**what: Any) -> None:
    """Write down that something happens now."""
    with open(os.environ[MARKS], "a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), **what}) + "\n")


def watch_link() -> None:
    """Mark when the server sends messages, and when it has replies; runs in the SuperLink's ServerApp."""
    from fedtl.deploy import deployed_grid as link

    class Watched:
        def __init__(self, grid: Any) -> None:
            self._grid, self._of = grid, {}

        def __getattr__(self, name: str) -> Any:
            return getattr(self._grid, name)

        def push_messages(self, messages: Any) -> list[str]:
            (message,) = list(messages)
            about = {"node": message.metadata.dst_node_id, "kind": message.metadata.message_type}
            mark(mark="begin", **about)
            (id,) = self._grid.push_messages([message])
            mark(mark="sent", **about)
            self._of[id] = about
            return [id]

        def pull_messages(self, ids: Any) -> list[Any]:
            (id,) = list(ids)
            replies = list(self._grid.pull_messages([id]))
            if replies:
                mark(mark="received", **self._of[id])
            return replies

    build: Any = link.DeployedGrid.__init__
    link.DeployedGrid.__init__ = lambda self, grid, *rest: build(self, Watched(grid), *rest)  # type: ignore[method-assign]


def client(*words: str) -> None:
    """``fedtl deploy client`` that marks when it is asked and has answered."""
    from fedtl.cli import commands
    from fedtl.deploy.agent import ClientAgent

    answer, name = ClientAgent.answer, Path(words[0]).name

    def watched(self: ClientAgent, kind: str, content: Any) -> Any:
        mark(mark="asked", client=name)
        try:
            return answer(self, kind, content)
        finally:
            mark(mark="answered", client=name)

    ClientAgent.answer = watched  # type: ignore[method-assign]
    sys.argv = ["fedtl", "deploy", "client", *words]
    commands.main()


def run(*words: str) -> None:
    """``fedtl deploy run`` of an app that marks what the server does."""
    from fedtl.cli import commands
    from fedtl.deploy import run

    run.APP += APP
    sys.argv = ["fedtl", "deploy", "run", *words]
    commands.main()


class Follower(threading.Thread):
    """Stamps the lines of a client's SuperNode as they appear."""

    def __init__(self, log: Path, name: str) -> None:
        super().__init__(daemon=True)
        self.log, self.name_, self.node = log, name, 0
        self.marks: list[dict[str, Any]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.log.exists():
            time.sleep(0.005)
        with self.log.open(encoding="utf-8", errors="replace") as file:
            while not self.ended.is_set():
                line = file.readline()
                if not line.endswith("\n"):
                    time.sleep(0.005)
                    file.seek(file.tell() - len(line.encode()))
                    continue
                if "SuperNode ID: " in line:
                    self.node = int(line.split("SuperNode ID: ")[1])
                for text, name in LINES.items():
                    if text in line:
                        self.marks.append({"time": time.time(), "mark": name})


class Deployment:
    """A server and clients on this machine, with a partition of the digits."""

    def __init__(self, folder: Path, clients: int) -> None:
        self.folder, self.names = folder, [f"client{i}" for i in range(clients)]
        self.study = ["quickstart", f"data.clients={clients}", f"strategy.clients_per_round={clients}"]
        self.environment = {**os.environ, MARKS: str(folder / "marks.jsonl"), "OMP_NUM_THREADS": "1"}
        self.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        self.programs: list[subprocess.Popen[bytes]] = []
        self.followers: list[Follower] = []

    def __enter__(self) -> Deployment:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for follower in self.followers:
            follower.ended.set()
        for program in reversed(self.programs):
            program.send_signal(signal.SIGTERM)
            program.wait(60)

    def _start(self) -> None:
        parts, made, picture = self.folder / "parts", self.folder / "made", self.folder / "parts.png"
        port, control = free_ports()
        self._fedtl("partition", *self.study, "--export", parts, "-o", picture)
        clients = ["--clients", ",".join(self.names)]
        ports = ["--port", port, "--control-port", control]
        self._fedtl("deploy", "init", made, *clients, "--server", "127.0.0.1", *ports)
        output = self._begin("server", FEDTL, "deploy", "server", made / "server", "--host", "127.0.0.1")
        wait_for("ready: ", output)
        for i, name in enumerate(self.names):
            self.followers.append(Follower(made / name / "log" / "supernode.log", name))
            self.followers[-1].start()
            module = [sys.executable, "-m", "tests.benchmarks.rounds", "--as-client"]
            output = self._begin(name, *module, made / name, "--data", parts / str(i))
            wait_for("connected to", output)
            program = made / name / "flower" / "bin" / "flwr-clientapp"
            program.write_text(CLIENTAPP.format(python=shlex.quote(sys.executable)))

    def run(self, *changes: str) -> None:
        """Run an experiment to its end."""
        self.last = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        study, server = [*self.study[1:], *changes], self.folder / "made" / "server"
        words = ["--as-run", self.study[0], server, *study, "--out", self.last]
        module = [sys.executable, "-m", "tests.benchmarks.rounds", *map(str, words)]
        subprocess.run(module, check=True, stdout=subprocess.DEVNULL, env=self.environment)

    def messages(self) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Of each message that was answered, its kind, and its marks with their times."""
        text = Path(self.environment[MARKS]).read_text(encoding="utf-8")
        marks = [json.loads(line) for line in text.splitlines()]
        for follower in self.followers:
            time.sleep(0.1)
            own = {"client": follower.name_, "node": follower.node}
            mine = [each for each in marks if any(each.get(key) == value for key, value in own.items())]
            timeline: list[tuple[str, float]] = []
            kind = ""
            for each in sorted([*mine, *follower.marks], key=lambda each: float(each["time"])):
                kind = each.get("kind", kind)
                if each["mark"] == "begin":
                    timeline = []
                timeline.append((each["mark"], each["time"]))
                if each["mark"] == "received":
                    yield f"{follower.name_} {kind}", timeline

    def _fedtl(self, *words: object) -> None:
        subprocess.run([FEDTL, *map(str, words)], check=True, stdout=subprocess.DEVNULL, env=self.environment)

    def _begin(self, name: str, *words: object) -> Path:
        output = self.folder / f"{name}.txt"
        with output.open("wb") as file:
            self.programs.append(
                subprocess.Popen(
                    [*map(str, words)], stdout=file, stderr=subprocess.STDOUT, env=self.environment, cwd=self.folder
                )
            )
        return output


def wait_for(word: str, output: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while word not in output.read_text():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s: {word}\n{output.read_text()}")
        time.sleep(0.1)


def free_ports() -> tuple[int, int]:
    from fedtl.deploy.client import free_port

    return free_port(), free_port()


def stages(timeline: list[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each stage, which add up to the whole.

    A process may start while its message is still being fetched, and a reply may be there before its sender says so: a
    stage begins when what comes before it is over.
    """
    at = dict(timeline)
    if set(STAGES) - set(at):
        return {}
    at["replied"] = min(at["replied"], at["received"])
    ends = list(itertools.accumulate([at["begin"], *(at[name] for name in STAGES)], max))
    return {name: end - begin for name, (begin, end) in zip(STAGES, itertools.pairwise(ends))}


def measure(clients: int, hidden: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), clients) as deployed:
        sizes = ", ".join(hidden.split("x"))
        deployed.run(f"model.hidden=[{sizes}]", f"rounds={rounds}", "evaluate.every=1")
        met: set[str] = set()
        seconds: dict[str, list[dict[str, float]]] = {"train": [], "evaluate": []}
        for whose, timeline in deployed.messages():
            kind = whose.split()[1]
            if whose in met and kind in seconds and (parts := stages(timeline)):
                seconds[kind].append(parts)
            met.add(whose)
        lines = [json.loads(line) for line in (deployed.last / "rounds.jsonl").read_text().splitlines()]
    whole = statistics.median(each["seconds"] for each in lines[1:])
    size = lines[0]["bytes_down"] // clients // 4
    print(f"\n{clients} clients, {size:,} parameters: a round with scoring {whole:.1f} s (median)\n")
    print("| seconds, median (least to most) | train | evaluate |\n| --- | ---: | ---: |")
    for name, text in STAGES.items():
        print(f"| {text} | " + " | ".join(spread([each[name] for each in seconds[kind]]) for kind in seconds) + " |")
    print(
        "| **the whole** | "
        + " | ".join(spread([sum(each.values()) for each in seconds[kind]]) for kind in seconds)
        + " |"
    )
    print("| messages | " + " | ".join(str(len(seconds[kind])) for kind in seconds) + " |", flush=True)


def spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def imports(repeats: int) -> None:
    """What a process costs before it does anything, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _, (name, code) in itertools.product(range(repeats + 1), IMPORTS.items()):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds[name].append(time.perf_counter() - began)
    print("| a process that imports | seconds, median (least to most) |\n| --- | ---: |")
    for name, each in seconds.items():
        print(f"| {name} | {spread(each[1:])} |", flush=True)


def main() -> None:
    """Measure and print tables."""
    if sys.argv[1:2] == ["--as-client"]:
        return client(*sys.argv[2:])
    if sys.argv[1:2] == ["--as-run"]:
        return run(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 1])
    parser.add_argument("--hidden", nargs="+", default=["64", "3000x3000"], help="sizes of the MLP's hidden layers")
    parser.add_argument("--repeats", type=int, default=5, help="of the imports")
    options = parser.parse_args()
    from fedtl.cli.signals import ended_by_signals

    with ended_by_signals():
        imports(options.repeats)
        for hidden, clients in itertools.product(options.hidden, options.clients):
            measure(clients, hidden, options.rounds)


if __name__ == "__main__":
    main()
