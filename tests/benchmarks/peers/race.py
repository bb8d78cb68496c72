"""One contestant's run: started, watched and taken apart."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from fedtl.data import read_data
from fedtl.data.federate import federate
from tests.benchmarks.peers import ours
from tests.benchmarks.peers.contestants import PFEDME, Contestant, environment, python_of
from tests.benchmarks.peers.memory import Watch
from tests.benchmarks.peers.work import Outcome, Work

TIMEOUT = 600
"""Seconds after which a contestant is given up."""


@dataclass(frozen=True)
class Plan:
    """What is the same for all contestants.

    Attributes:
        data: the .npz of the clients' samples.
        warm_up: rounds that are not timed.
        seed: another one in each repeat; of the split, the initial model, who is sampled and the samples' order.
        clients, sampled, samples, batch, lr: the work.
    """

    data: Path
    warm_up: int = 3
    clients: int = 100
    sampled: int = 20
    samples: int = 600
    batch: int = 20
    lr: float = 0.02
    seed: int = 0

    def gradients(self, contestant: str) -> int:
        """Gradients of mini-batches that a round computes: for FedAvg, its client-steps."""
        if contestant == PFEDME:
            return self.sampled * ours.PFEDME["local_steps"] * ours.PFEDME["inner_steps"]
        return self.sampled * self.samples // self.batch


@dataclass
class Run:
    """What was measured.

    Attributes:
        repeat: which one, from 0.
        speed: gradients per second in the timed rounds (FedAvg: client-steps per second).
        seconds: of each timed round.
        inside: of them by our own ``rounds.jsonl``, which leaves out what writing the record and checkpoint takes.
        first_round: seconds from the command to the end of round 1.
        memory: peak PSS of the whole tree of processes, MiB; None where the run was timed, as looking costs time.
        processes: the most that there were at one time, launchers included.
        accuracy: of the final global model on the test set.
        failure: why there is nothing.
    """

    contestant: str
    model: str
    repeat: int
    speed: float = 0.0
    seconds: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    first_round: float = 0.0
    memory: float | None = None
    processes: int = 0
    accuracy: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    failure: str | None = None


def write_data(file: Path, plan: Plan) -> None:
    """Write our own split of the data for the peers: same samples, same clients."""
    federation = federate(read_data(ours.DATA | {"clients": plan.clients}), plan.seed)
    rows = np.stack([federation.train[i] for i in range(plan.clients)])
    np.savez(
        file,
        train_x=federation.x[rows],
        train_y=federation.y[rows].astype(np.int64),
        test_x=federation.x[federation.server_test],
        test_y=federation.y[federation.server_test].astype(np.int64),
        scale=federation.scale.item(),
        shift=federation.shift.item(),
    )


def race(
    contestant: Contestant,
    model: str,
    repeat: int,
    rounds: int,
    plan: Plan,
    chosen: dict[str, Path],
    sizes: bool = False,
) -> Run:
    """Let one contestant do the work once, to be timed, or, with ``sizes``, to see how much memory it takes.

    One round more than is timed: the last one may hold scoring and good-byes.
    """
    run = Run(contestant.name, model, repeat)
    with tempfile.TemporaryDirectory(prefix="fedtl-speed-") as place:
        folder = Path(place)
        work = Work(
            model=model,
            data=str(plan.data),
            outcome=str(folder / "outcome.json"),
            folder=place,
            rounds=plan.warm_up + rounds + 1,
            clients=plan.clients,
            sampled=plan.sampled,
            batch=plan.batch,
            lr=plan.lr,
            seed=plan.seed,
            processes=contestant.processes,
            threads=contestant.threads,
            variant=contestant.variant,
        )
        settings = folder / "work.json"
        work.write(settings)
        is_ours, clock = contestant.script == "ours", ours.Clock(work)
        if is_ours:
            command = ours.command(work)
            clock.start()
        else:
            command = [str(python_of(contestant, chosen)), "-m", f"tests.benchmarks.peers.{contestant.script}"]
            command.append(str(settings))
        began = time.time()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=place,
                env=environment(contestant, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            watch = Watch(process.pid, sizes)
            watch.start()
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                run.failure = f"not done after {TIMEOUT} s"
            finally:
                clock.stop()
                watch.close(grace=0 if process.poll() is None else 5)
                process.wait()
        if run.failure is None and process.returncode:
            run.failure = f"exit code {process.returncode}: {last_line(folder / 'log')}"
        if run.failure is None:
            try:
                done = ours.outcome(work, clock) if is_ours else Outcome(**json.loads(Path(work.outcome).read_text()))
            except (OSError, LookupError, ValueError) as error:
                run.failure = f"no outcome ({type(error).__name__}: {error}): {last_line(folder / 'log')}"
            else:
                _take(run, done, began, plan, rounds)
                run.memory, run.processes = watch.peak if sizes else None, watch.processes
    return run


def _take(run: Run, done: Outcome, began: float, plan: Plan, rounds: int) -> None:
    timed = done.ends[plan.warm_up - 1 : plan.warm_up + rounds]
    if len(timed) <= rounds:
        run.failure = f"it told the end of {len(done.ends)} rounds only"
        return
    run.seconds = np.diff(timed).tolist()
    run.inside = done.inside[plan.warm_up : plan.warm_up + rounds]
    run.speed = rounds * plan.gradients(run.contestant) / (timed[-1] - timed[0])
    run.first_round = done.ends[0] - began
    run.accuracy, run.versions = done.accuracy, done.versions


def last_line(file: Path) -> str:
    """The last thing that a log says, shortened."""
    lines = file.read_text(errors="replace").strip().splitlines() or ["nothing was printed"]
    return lines[-1].strip()[:300]


def as_json(run: Run) -> dict[str, object]:
    """For speed.json; numbers rounded to what they are worth."""
    return {key: _rounded(value) for key, value in asdict(run).items()}


def _rounded(value: object) -> object:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value
