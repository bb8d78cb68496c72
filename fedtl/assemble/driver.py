"""The run itself: a strategy on its grid, round by round, with what is recorded of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedtl.assemble.chosen import holders_of_tests
from fedtl.assemble.parts import (
    FEDERATION,
    Assembly,
    by_phase,
    client_updates,
    make_engines,
    make_worker,
    one_thread,
    worker_of,
)
from fedtl.assemble.resources import Resources
from fedtl.choice import ConfigError
from fedtl.config.schema import Config
from fedtl.data.federation import Federation
from fedtl.data.samples import Samples
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Engine, Task
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.choice import Choices
from fedtl.engine.mixed import Mixed
from fedtl.engine.operations import operations
from fedtl.engine.plan import samples_gone_through
from fedtl.engine.stacked import MOST_ON_CPU
from fedtl.engine.task import reason
from fedtl.failure import OutputError
from fedtl.grid.in_process import InProcessGrid
from fedtl.grid.simulated import SimulatedGrid
from fedtl.models.composite import Composite, model_of
from fedtl.runs import record, resume
from fedtl.runs.best import EarlyStop, Stopped
from fedtl.runs.checkpoint import Checkpoint, read_checkpoint
from fedtl.runs.profile import RECORD, Profiler
from fedtl.server.bench import Bench
from fedtl.server.rounds import Round
from fedtl.server.scoring import scores_at_server
from fedtl.server.table import TableStore
from fedtl.tracking.process import Tracking
from fedtl.wire import messages as m


class Listener(Protocol):
    """Somebody who watches a run; the CLI's progress bar is one."""

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """The run's parts are ready; ``about`` is what ``environment.json`` says, with what is to be known as notes."""

    def round(self, report: Round) -> None:
        """A round is finished and on disk."""


@runtime_checkable
class Noted(Protocol):
    """A listener that also wants to hear what is to be known only once the run goes on."""

    def note(self, text: str) -> None:
        """A sentence, which is recorded too; from a thread of its own."""


class Silent:
    """Watches nothing."""

    def begin(self, config: Config, folder: Path, first_round: int, about: Mapping[str, Any]) -> None:
        """Nothing."""

    def round(self, report: Round) -> None:
        """Nothing."""


class Server:
    """One run of a strategy, on whichever grid."""

    def __init__(
        self,
        assembly: Assembly,
        resources: Resources,
        choices: Choices,
        recorder: record.Recorder,
        checkpoint: Checkpoint | None,
        listener: Listener,
        about: Mapping[str, Any],
        stop: EarlyStop | None = None,
    ) -> None:
        self.config, self.federation, self.strategy = assembly.config, assembly.federation, assembly.strategy
        self.resources, self.choices = resources, choices
        self.recorder, self.listener, self.about = recorder, listener, about
        self.stop = stop
        """Whether the run ends early; it knows the rounds so far."""
        self.store, self.rows = (
            MemoryStore(recorder.memories),
            TableStore(recorder.folder / resume.TABLES, self.federation.seen if len(self.federation.unseen) else None),
        )
        self.engines = make_engines(self.config, assembly.tasks, resources.driver_device, choices)
        task = self.engines[0].task
        self.initial = task.layout.flatten(task.module)
        # As it was built: at the end nothing need be built again, out of files that may be gone.
        self._blank = assembly.tasks[0].module
        self.w = checkpoint.w if checkpoint else task.sent(self.initial).cpu().numpy()
        if checkpoint:
            self.strategy.resume(checkpoint.w, checkpoint.state, checkpoint.round)
            self.rows.restore(self.strategy.tables, checkpoint.round)
        self.strategy.tested = holders_of_tests(self.federation)
        self.strategy.sizes = lambda round, phase: samples_gone_through(
            self.federation.at(round), self.engines[phase].task.objective
        )
        self.strategy.domains = self.federation.clients_of_domains
        self.strategy.bench = self._bench()
        self.first_round = checkpoint.round + 1 if checkpoint else 1
        self._unscored = set[str]()
        self.profiled = False
        self.remembers = False
        """Whether clients keep something between rounds, here or on other machines that see the run's folder."""

    @property
    def stopped(self) -> Stopped | None:
        """How the run has ended before its last round; None if it has not."""
        return None if self.stop is None else self.stop.before(self.config.rounds)

    @property
    def tracking(self) -> Tracking:
        """What fills the config's trackers while the run goes on."""
        return Tracking(self.recorder.folder, self.config.tracking, self._note, self._say)

    def _note(self, text: str) -> None:
        """Record a sentence and show it; a run does not end by either."""
        with suppress(OutputError, OSError, ValueError):
            self.recorder.note(text)
        self._say(text)

    def _say(self, text: str) -> None:
        if isinstance(self.listener, Noted):
            self.listener.note(text)

    @property
    def engine(self) -> Engine:
        """The first phase's."""
        return self.engines[0]

    def hold(self, federation: Federation) -> None:
        """Use another copy of the same data, so that the first one can go."""
        self.federation = federation
        olds = {id(task.samples): task.samples for task in self._tasks()}
        news = {key: Samples(federation, old.device, old.channels_last, old.view) for key, old in olds.items()}
        tasks = [replace(task, samples=news[id(task.samples)]) for task in self._tasks()]
        self.engines = by_phase(self.config, [choice.make(task) for choice, task in zip(self.choices, tasks)])
        self.strategy.bench = self._bench()

    def _bench(self) -> Bench:
        """What a method's server may train."""
        task, initial = self.engine.task, self.initial
        return Bench(
            task.module, task.layout, task.samples, lambda w: task.whole(w.to(initial.device), initial), task.sent
        )

    def _tasks(self) -> list[Task]:
        """Of all engines, in the order of the choices."""
        each = [engine.engines if isinstance(engine, Mixed) else (engine,) for engine in self.engines]
        return [engine.task for model in zip(*each) for engine in model]

    def whole(self, w: np.ndarray[Any, np.dtype[np.float32]]) -> torch.Tensor:
        """The model ``[d]`` of which ``w`` is what travels."""
        return self.engine.task.whole(torch.tensor(w, device=self.initial.device), self.initial)

    def run_on(self, grid: Grid) -> None:
        """Run the remaining rounds on a grid that somebody else made, and write the final model."""
        with self.recorder, self.tracking, one_thread(self.resources.driver_device):
            self.listener.begin(self.config, self.recorder.folder, self.first_round, self.about)
            if self._goes_on:
                self.rounds(grid)
            self.finish()

    def run(self) -> None:
        """Run the remaining rounds on the config's own grid, and write the final model."""
        with self.recorder, self.tracking:
            self.listener.begin(self.config, self.recorder.folder, self.first_round, self.about)
            if self._goes_on:
                with make_grid(self) as go:
                    go(self.rounds)
            self.finish()

    @property
    def _goes_on(self) -> bool:
        """Whether rounds remain."""
        return self.first_round <= self.config.rounds and self.stopped is None

    def finish(self) -> None:
        """Write the global models under the module's own names, beside them the modules of terms, and how it ended."""
        best = None if self.recorder.best is None else self.recorder.best.until()
        if best is not None and self.strategy.has_global_model():
            self.recorder.finish(self._named(self._kept(best.round)), resume.BEST, self.recorder.about_best(best))
        model = self._named(self.w)
        if isinstance(self._blank, Composite):  # of the model that was laid out last
            extras = self._blank.extras.state_dict()
            self.recorder.finish({name: tensor.numpy() for name, tensor in extras.items()}, record.EXTRAS)
        self.recorder.finish(model)  # the last, as its presence says that the others are there
        if self.stopped is not None:
            self.recorder.stopped(self.about, self.stopped)

    def _named(self, w: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What a module's state_dict has of the model of which ``w`` is what travels."""
        self.engine.task.layout.load(self._blank, self.whole(w).cpu())
        return {name: tensor.numpy() for name, tensor in model_of(self._blank).state_dict().items()}

    def _kept(self, round: int) -> NDArray[np.float32]:
        """What travels of the global model of a round whose checkpoint is kept."""
        checkpoint = read_checkpoint(self.recorder.folder, lambda last: round)
        assert checkpoint is not None  # a round is finished
        return checkpoint.w

    def rounds(self, grid: Grid) -> None:
        """Run the remaining rounds on a grid."""
        profiler = Profiler(self.strategy, grid) if self.profiled and isinstance(grid, SimulatedGrid) else None
        asked = ConfigRecord({m.PROFILE: True}) if profiler else None
        trained: list[int] = []

        def on_round(report: Round, w: np.ndarray[Any, np.dtype[np.float32]]) -> None:
            self.w = w
            if profiler:
                profiler.round(report)
                failed = {client for client, _ in report.failures}
                trained[:] = [client for client in report.clients if client not in failed]
            with self.strategy.clock.part(RECORD), record.writing(self.recorder.folder):
                self.rows.save(self.strategy.tables, report.round, self.strategy.keep)
            with self.strategy.clock.part(RECORD):
                write(report, w, self.strategy.remembered())
            self.strategy.keep = self.recorder.kept
            self.listener.round(report)

        self.strategy.keep = self.recorder.kept
        # Clients' memories of a round must not be older than its checkpoint, so with them nothing is put off.
        with nullcontext(self.recorder.round) if self.remembers else record.behind(self.recorder.round) as write:
            self.strategy.start(
                grid,
                m.pack(self.w),
                num_rounds=self.config.rounds,
                train_config=asked,
                evaluate_config=asked,
                evaluate_fn=self.score if self._tests() else None,
                first_round=self.first_round,
                on_round=on_round,
                ends=self._ends if self.stop is not None else None,
            )
        if trained and not self.config.models and self.choices[-1].traced and self.resources.driver_device == "cpu":
            self._look_at_operations(trained)

    def _ends(self, report: Round) -> str:
        """Why the run ends with a round; empty if it goes on."""
        assert self.stop is not None
        self.stop.add(report.round, report.scores)
        return "" if self.stop.ended is None else self.stop.because

    def _look_at_operations(self, clients: Sequence[int]) -> None:
        """Record what traced steps consist of: train one of the clients, or one stack of them, once more here."""
        task, cohort_of = self.engines[-1].task, MOST_ON_CPU if self.choices[-1].stacked else 1
        update = client_updates(self.config, [engine.task for engine in self.engines])[-1]
        cohort, after = clients[:cohort_of], self.config.rounds + 1
        memories = [self.store.load(client, after) for client in cohort]
        received = Received({**task.received, "w": self.whole(self.w)})
        steps, slowest = operations(self.engines[-1], Assignment(update, received, cohort, memories, after))
        if steps:
            self.recorder.operations({"steps": steps, "operations": [asdict(each) for each in slowest]})

    def _tests(self) -> dict[str, NDArray[np.int64]]:
        """The server's own test sets, by the prefix of their scores."""
        target = self.federation.target
        tests = {"": self.federation.server_test, m.TARGET: target.server_test if target else np.arange(0)}
        tests |= {f"{m.HELD_OUT}{name}/": rows for name, rows in self.federation.held_out.items()}
        return {prefix: test for prefix, test in tests.items() if len(test)}

    def score(self, round: int, arrays: ArrayRecord) -> MetricRecord:
        """The global model on the server's own test sets; where it raises there is no score, as at clients."""
        vector, scores = self.whole(arrays[m.VECTOR].numpy()), dict[str, float]()
        for prefix, test in self._tests().items():
            try:
                score = self.engine.score(vector, test)
            except Exception as error:  # the model's own, or a metric's: what is trained is not lost by it
                self._has_no_score(prefix, round, reason(error))
                continue
            if not score.samples:
                continue
            if score.correct is not None:
                scores[f"{prefix}accuracy"] = score.correct / score.samples
            scores[f"{prefix}loss"] = score.loss_sum / score.samples
            scores |= {f"{prefix}{name}": value for name, value in score.values.items()}
        return MetricRecord({**scores})

    def _has_no_score(self, prefix: str, round: int, why: str) -> None:
        """Say once of a test set that the global model cannot be scored on it."""
        if prefix in self._unscored:
            return
        self._unscored.add(prefix)
        (name,) = scores_at_server({f"{prefix}loss": 0.0})
        self._note(f"round {round} has no score {name!r}: on the server's test samples the model fails: {why}")


@contextmanager
def make_grid(server: Server) -> Iterator[Callable[[Callable[[Grid], None]], None]]:
    """What calls a ServerApp's main function with the grid that the config asks for."""
    config, clients, memories = server.config, server.federation.clients, str(server.store.folder.resolve())
    if config.simulation.grid == "in-process":
        grid = InProcessGrid(worker_of(config, server.engines, server.store), clients)
        yield lambda main: main(grid)
    elif config.simulation.grid == "ray":
        try:
            from fedtl.grid.notebook import definitions, with_definitions
            from fedtl.grid.ray import RayGrid
        except ModuleNotFoundError as error:
            raise ConfigError("simulation.grid = 'ray' needs the package ray; use 'in-process'") from error
        resources, tables = server.resources, config.tables()
        on_ray = RayGrid(
            with_definitions(make_worker, definitions(tables)),
            # In the order of make_worker's arguments.
            (tables, server.federation, memories, resources.worker_device, server.choices),
            clients,
            actors=resources.actors,
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            address=config.simulation.address,
            elastic=resources.elastic,
            patience=config.simulation.patience,
            shared=server.store.folder.resolve() if server.remembers else None,
            # Steps are epochs over a client's samples, or the same number for all.
            work=None if config.strategy.local_steps else server.strategy.sizes(1, 0),
            large_cohorts=any(choice.stacked for choice in server.choices),
        )
        try:
            server.hold(on_ray.shared(FEDERATION))
            give_memory_back()
            on_ray.processes()  # their start is none of the first round's time
            yield lambda main: main(on_ray)
        finally:
            on_ray.close()
    else:
        from fedtl.assemble.flower import simulate_with_flower

        yield lambda main: simulate_with_flower(main, config, clients, memories, tuple(server.choices))


def give_memory_back() -> None:
    """Let the system have what was freed on the way here, 10 MiB and more; elsewhere than with glibc nothing."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
