"""Hosts on one machine: network namespaces at a switch, with addresses of their own and cables that can be cut.

A cut takes the cable's other end off the switch: no interface goes down and no packet is refused, so that neither side
notices anything but silence, as where a router between them fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ADDRESS = "10.77.0."
STOP_WITHIN = 30.0
"""Seconds that a program has to end by itself."""


def why_not() -> str | None:
    """Why there can be no hosts here; None if there can."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "network namespaces need Linux and iproute2's ip"
    name = f"fedtl-{os.getpid()}-probe"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        return f"network namespaces cannot be made here: {done.stderr.strip()}"
    ip("netns", "del", name)
    return None


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Program:
    """A program on a host, with its output in a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.name, self.process, self.output = name, process, output

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def lines(self, word: str) -> list[str]:
        return [line for line in self.text().splitlines() if word in line]

    def stop(self) -> int:
        """End it as a service manager does, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class Hosts:
    """Named hosts at a switch, with the addresses 10.77.0.1, 10.77.0.2 and so on."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = list(names), folder
        self._prefix = f"fedtl-{os.getpid()}-"
        self.programs: list[Program] = []

    def __enter__(self) -> Hosts:
        _remove_leftovers()
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for program in reversed(self.programs):
            program.process.poll() is None and program.process.send_signal(signal.SIGTERM)
        for program in reversed(self.programs):
            program.stop()
        _remove(self._prefix)

    def _build(self) -> None:
        switch = self._space("switch")
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for name in self.names:
            host = self._space(name)
            ip("netns", "add", host)
            ip("link", "add", name, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", host)
            self.heal(name)
            ip("-n", switch, "link", "set", name, "up")
            ip("-n", host, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host, "link", "set", device, "up")

    def address(self, name: str) -> str:
        return f"{ADDRESS}{1 + self.names.index(name)}"

    def cut(self, name: str) -> None:
        """From now on nothing reaches the host, and nothing of it gets out."""
        ip("-n", self._space("switch"), "link", "set", name, "nomaster")

    def heal(self, name: str) -> None:
        ip("-n", self._space("switch"), "link", "set", name, "master", "bridge")

    def start(self, host: str, *words: object) -> Program:
        """Start a program there; it is ended with the hosts."""
        output = self.folder / f"{len(self.programs)}-{host}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                self._on(host, words), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        self.programs.append(Program(host, process, output))
        return self.programs[-1]

    def run(self, host: str, *words: object) -> str:
        """Run a program there to its end, and give its output."""
        done = subprocess.run(self._on(host, words), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _on(self, host: str, words: Sequence[object]) -> list[str]:
        return ["ip", "netns", "exec", self._space(host), *map(str, words)]

    def _space(self, name: str) -> str:
        return f"{self._prefix}{name}"


def wait_until(ready: Callable[[], object], seconds: float, what: str, programs: Sequence[Program] = ()) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        outputs = "".join(f"\n--- {each.name}\n{each.text()}" for each in programs)
        for each in programs:
            assert each.process.poll() is None, f"{each.name} ended before: {what}{outputs}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}{outputs}"
        time.sleep(0.2)


def _remove_leftovers() -> None:
    """Of tests that were killed, and could not do it themselves."""
    for line in ip("netns", "list").splitlines():
        owner = line.split("-")[1] if line.startswith("fedtl-") else ""
        if owner.isdigit() and not Path("/proc", owner).exists():
            _remove(f"fedtl-{owner}-")


def _remove(prefix: str) -> None:
    """Remove namespaces, and end what still runs in them."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(prefix):
            for number in ip("netns", "pids", name).split():
                os.kill(int(number), signal.SIGKILL)
            ip("netns", "del", name)
