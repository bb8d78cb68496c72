"""The rounds of a run, one after another.

The steps of a round stand beside this module: ``address`` says who is asked for what, ``gather`` collects the replies,
``reduce`` sums the uploads, ``scoring`` makes scores of replies. ``memory`` is what the server remembers between
rounds, and ``report`` what it tells of one.
"""

from __future__ import annotations

import time
from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from numpy.typing import NDArray

from fedtl.choice import ConfigError, cause
from fedtl.clients.serving import Serving, serving
from fedtl.clients.settings import Settings
from fedtl.clock import Clock
from fedtl.models.vector import Layout
from fedtl.server.address import about_scoring, about_training, content_of, context_of, draw
from fedtl.server.bench import Bench
from fedtl.server.exchange import Download, Uploads, Vectors
from fedtl.server.gather import check_failures, gather_scores, gather_training
from fedtl.server.memory import ServerMemory, Vector, new_tables, to_numpy
from fedtl.server.method import Method
from fedtl.server.nodes import client_nodes
from fedtl.server.phase import Phase
from fedtl.server.reduce import Reduced, merged_statistics, split_buffers, total_weights, weighted_means
from fedtl.server.report import MESSAGES, METHOD, SCORING, OnRound, Round
from fedtl.server.scoring import Asked, Evaluation, mean_accuracies, scores_at_server
from fedtl.server.table import Table
from fedtl.wire import messages as m

__all__ = ["Evaluation", "OnRound", "Round", "Rounds"]


class Rounds(Method, FlowerStrategy, ABC):
    """A run's rounds as the server goes through them; :class:`~fedtl.strategies.contract.Strategy` says what is sent.

    It is a Flower strategy and runs on any Flower Grid. Its messages ask for weighted sums of the uploads, so that a
    worker that trains many clients may answer with one reply for several of them.

    Args:
        settings: the method's options.
        seed: decides who is sampled when.
        clients: how many there are, those that never train among them; the rounds begin when so many are there.
        unseen: the ids of those that never train, ascending: they are scored apart. For the method the others alone
            have numbers, from 0.
        evaluation: when and how clients are scored.
        max_failures: the share of a round's clients that may fail before the run stops.
        parameters: P, how many of the first numbers of ``"w"`` are trained; the method's step is theirs alone,
            the rest (batch-norm statistics) is the uploads' mean. All if None.
        phases: the run's; a single one of a single round if not given, for tests.
        private: whether clients keep parts of the model to themselves that make it their own, or a model beside it.
        whole: whether the model that travels gives logits without them.
        layout: of the whole model's vector, for methods that ask for its parts.
        classes: how many labels there are, likewise.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int,
        clients: int,
        unseen: Sequence[int] = (),
        evaluation: Evaluation | None = None,
        max_failures: float = 0.5,
        parameters: int | None = None,
        phases: Sequence[Phase] = (),
        private: bool = False,
        whole: bool = True,
        layout: Layout | None = None,
        classes: int = 0,
    ) -> None:
        self.settings = settings
        self.phases = tuple(phases) or (Phase(settings, 1, 1),)
        self.scores_global = self.has_global_model() and whole
        self.evaluation = evaluation or Evaluation()
        self._keeps_parts = private
        self.seed = seed
        self.unseen = tuple(unseen)
        self._seen = np.setdiff1d(np.arange(clients), self.unseen) if self.unseen else None
        self._everybody = clients
        self.numbered = clients - len(self.unseen)
        """How many clients have a number, from 0: all but those that never train. A table has a row for each."""
        self.layout, self.classes = layout, classes
        self.max_failures = max_failures
        self.min_clients: int | None = None
        """How many of a round's clients must not fail; what ``max_failures`` says if None."""
        self.parameters = parameters
        self.keep: Sequence[int] = ()
        """Rounds whose memories clients are to keep besides the last one's."""
        self.tested: dict[str, NDArray[np.int64]] = {}
        """Who holds samples to score on, by the data's name in scores, as ``"target-clients"``: only they can be
        missing from a score. Where it is not known, who raised is."""
        self.sizes: Callable[[int, int], NDArray[Any]] = lambda round, phase: np.ones(clients)
        """How many samples each client trains on in a round, which is of a phase, told by its place; all the same where
        it is not known."""
        self.domains: Mapping[str, NDArray[np.int64]] = {}
        """The clients of each domain, where there are several."""
        self.clock = Clock()
        """Of whoever profiles this process."""
        self.bench: Bench | None = None
        """The server's own model and public samples, for methods whose server trains."""
        self.report = Round(0)
        """What happened in the present round so far."""
        self._memory = ServerMemory(parameters, self.has_global_model())
        self._initial: torch.Tensor | None = None
        """The parameters ``[P]`` that the run began with, where they have been told."""
        self._phase = 0
        self._nodes: Sequence[int] = []
        self._to_score: list[int] = []

    # Who can train.

    @property
    def population(self) -> int:
        """N, the number of clients that can train in the present phase: that hold what its objective trains on."""
        able = self.phases[self._phase].clients
        return self.numbered if able is None else len(able)

    @property
    def able(self) -> NDArray[np.int64]:
        """Their numbers ``[N]``, ascending; those of clients that cannot train are missing."""
        return self._able_in(self.phases[self._phase])

    def _able_in(self, phase: Phase) -> NDArray[np.int64]:
        if phase.clients is None:
            return np.arange(self.numbered)
        return np.asarray(self._counted(phase.clients.tolist()), np.int64)

    # What the server remembers.

    @property
    def state(self) -> Vectors:
        """What the method's server remembers; empty before the first round."""
        return self._memory.state

    @property
    def tables(self) -> dict[str, Table]:
        """What the server remembers of each client, a row for each; a checkpoint keeps the rows that change."""
        return self._memory.tables

    def take_statistic(self, name: str) -> torch.Tensor | None:
        """One of the method's own statistics over the round's clients, which are then forgotten; None if there is none.

        The clients are not sent it.
        """
        vector = self._memory.context.pop(m.STATISTIC + name, None)
        return None if vector is None else torch.from_numpy(vector)

    def remembered(self) -> dict[str, Vector]:
        """What a checkpoint keeps besides the global model, by name."""
        return self._memory.remembered()

    def resume(self, w: Vector, remembered: Mapping[str, Vector], round: int = 0) -> None:
        """Go back to a checkpoint.

        Args:
            w: its global model.
            remembered: what it has besides.
            round: the last one that it knows of.
        """
        self.enter_phase_of(round)  # what its options let the server remember
        began = self._initial
        for phase in self.phases if self.has_global_model() else ():
            if phase.restart is not None and phase.first <= round:
                began = torch.from_numpy(phase.restart[: self.parameters])
        self._memory.resume(w, remembered, self, began)

    def first_download(self, w: torch.Tensor) -> Vectors:
        """What the first client would receive in the first round besides the model, of a server made for this."""
        self._initial = w.clone()
        self._memory.tables = new_tables(self, w)
        for name, table in self._memory.tables.items():
            if len(table) != self.numbered:
                raise ConfigError(
                    f"strategy.name = {self.settings.name!r}: first_tables gives {name!r} {len(table)} rows, and "
                    f"{self.numbered} clients have numbers; self.numbered says how many there are"
                )
        download = self.send(self.first_state(w), [0], 1)
        if "w" in download.each and self.has_global_model():
            raise ConfigError(
                f"strategy.name = {self.settings.name!r}: its server sends each client a model of its own, and says "
                "that there is a global one, which nobody could score; set global_model = False in its class"
            )
        each = {name: rows[0] for name, rows in download.each.items()}
        return {name: tensor for name, tensor in {**download.shared, **each}.items() if name != "w"}

    def check_unseen(self, w: torch.Tensor) -> None:
        """Check that there is something to send to clients that never train, once the first download has been made.

        Raises:
            ConfigError: the method's server raises, as one that looks up what it knows of each client.
        """
        if not self.unseen:
            return
        try:
            self.send_unseen(self.first_state(w), [self.numbered], 1)
        except Exception as error:
            raise ConfigError(
                f"data.held_out_clients: the server of {self.settings.name!r} sends clients something of their own, "
                f"and knows nothing of those that never train ({cause(error)}); give it a method send_unseen, or leave "
                "held_out_clients out"
            ) from error

    # Who is asked, and what for.

    def sample(self, round: int) -> list[int]:
        """The round's clients, by (seed, round) and, if asked for, their samples alone, in the order of their ids."""
        able, weights = self.phases[self._phase].clients, None
        if self.settings.sampling == "samples":
            weights = self.sizes(round, self._phase).astype(np.float64)
        return draw(self.seen if able is None else able, self.clients_in_round(), self.seed, round, weights=weights)

    @property
    def seen(self) -> Sequence[int] | NDArray[np.int64]:
        """The ids of the clients that can train."""
        return range(self._everybody) if self._seen is None else self._seen

    def _counted(self, clients: Sequence[int]) -> Sequence[int]:
        """The numbers of clients that train, as the method counts them."""
        return clients if self._seen is None else np.searchsorted(self._seen, clients).tolist()

    def clients_in_round(self) -> int | None:
        """How many clients train in the round that is next, of those that can; all if None."""
        return self.settings.clients_per_round

    def sample_to_score(self, round: int) -> list[int]:
        """Who is scored after a round, by (seed, round) alone, in the order of their ids; nobody unseen."""
        return draw(self.seen, self.evaluation.clients, self.seed, round, to_score=1)

    def unseen_to_score(self, round: int) -> list[int]:
        """Likewise of those that never train."""
        return draw(self.unseen, self.evaluation.clients, self.seed, round, to_score=2)

    def which_personal(self, unseen: bool = False) -> Serving:
        """Which of a client's own models is scored; one that never trains has kept none."""
        asked = Serving.ADAPTED.value if unseen else self.evaluation.personal
        return serving(self.client_update, self._keeps_parts, asked)

    @property
    def personalises(self) -> bool:
        """Whether clients have models of their own."""
        return self.which_personal() is not Serving.NONE

    def how_to_score(self, round: int, unseen: bool = False) -> dict[str, Any]:
        """What a message says that asks for scores after a round."""
        phase, personal = self.phases[self._phase], self.which_personal(unseen)
        about = about_scoring(phase, self._phase, round, self.keep, self.scores_global, personal)
        return about | ({m.UNSEEN: True} if unseen else {})

    def about_scoring(self, clients: Sequence[int], round: int, config: Mapping[str, Any] | None = None) -> RecordDict:
        """What clients are sent that are to be scored after a round."""
        # A personal model that is adapted to be scored is what the client would have after the next round.
        download = self.send_to_score(dict(self.state), self._counted(clients), round + 1)
        return self._content(download, {**(config or {}), **self.how_to_score(round)})

    def about_unseen(self, clients: Sequence[int], round: int, config: Mapping[str, Any] | None = None) -> RecordDict:
        """What clients are sent that never train and are to be scored after a round."""
        strangers = range(self.numbered, self.numbered + len(clients))
        download = self.send_unseen(dict(self.state), strangers, round + 1)
        return self._content(download, {**(config or {}), **self.how_to_score(round, unseen=True)})

    def _content(self, download: Download, config: Mapping[str, Any]) -> RecordDict:
        """What clients are sent: the download, and what terms ask for."""
        memory = self._memory
        each = {name: to_numpy(rows) for name, rows in download.each.items()}
        context = context_of(self.phases[self._phase], memory.context)
        return content_of(config, memory.shared_by(download), each, context)

    def _address(self, kind: str, clients: Sequence[int], content: RecordDict, grid: Grid) -> m.Broadcast:
        if not self._nodes:
            self._nodes = client_nodes(grid, self._everybody, None)
        return m.Broadcast(kind, content, [self._nodes[client] for client in clients])

    # A round, in Flower's words.

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients by (seed, round) and address one message to each, in the order of their ids."""
        self._take(arrays)
        clients = self.report.clients = self.sample(server_round)
        about = about_training(self.phases[self._phase], self._phase, server_round, self.keep)
        download = self.send(dict(self.state), self._counted(clients), server_round)
        content = self._content(download, {**config, **about, m.SUM_UPLOADS: m.WEIGHTED})
        self.report.add_bytes_down(content, len(clients))
        return self._address(MessageType.TRAIN, clients, content, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add up what the clients sent, and take the method's step."""
        report, memory = self.report, self._memory
        gathered = gather_training(replies, report.clients, self._nodes)
        report.failures += gathered.failures
        check_failures(report.failures, len(report.clients), server_round, self.max_failures, self.min_clients)
        report.add_worker_seconds("training", gathered.seconds)
        report.steps += gathered.steps
        report.trained = len(gathered.columns[m.CLIENTS])
        report.train = weighted_means(gathered.columns)
        reduced = gathered.uploads.total()
        report.add_bytes_up(reduced.by_name, reduced.rows, report.trained)
        memory.context |= merged_statistics(self.phases[self._phase].statistics, reduced, memory.context)
        if reduced.sums or reduced.rows:
            self._step(reduced, gathered.columns[m.CLIENTS], gathered.columns[m.SAMPLES], server_round)
        memory.check_finite(server_round, self.settings)
        return m.pack(memory.w), MetricRecord({**report.train})

    def _step(self, reduced: Reduced, clients: Sequence[int], samples: Sequence[int], round: int) -> None:
        """Take the method's step."""
        weights = total_weights(self.client_update.counts(self.settings), samples)
        sums, buffers = split_buffers(reduced.sums, weights, self.parameters)
        state = {**self.state, **({} if buffers is None else {"buffers": buffers})}
        uploads = Uploads(sums, weights, reduced.rows, self._counted(clients), samples)
        self._memory.replace(self.update(state, uploads, round), buffers)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the clients to score the global model, and their own where the method has one."""
        self._take(arrays)
        self._to_score = self.sample_to_score(server_round)
        content = self.about_scoring(self._to_score, server_round, config)
        return self._address(MessageType.EVALUATE, self._to_score, content, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Gather the clients' scores."""
        return self._scored(replies, self._to_score, self.numbered, unseen=False)

    def configure_unseen(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the clients that never train to make models of their own, and to score them and the global one."""
        self._take(arrays)
        self._to_score = self.unseen_to_score(server_round)
        content = self.about_unseen(self._to_score, server_round, config)
        return self._address(MessageType.EVALUATE, self._to_score, content, grid)

    def aggregate_unseen(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Gather their scores."""
        return self._scored(replies, self._to_score, len(self.unseen), unseen=True)

    def _scored(
        self, replies: Iterable[Message], clients: Sequence[int], of: int, *, unseen: bool
    ) -> MetricRecord | None:
        """Gather the scores of some clients, out of so many."""
        report, gathered = self.report, gather_scores(replies, self._nodes)
        report.add_worker_seconds("scoring", gathered.seconds)
        drawn = self.evaluation.clients is not None and self.evaluation.clients < of
        metrics, always = self.evaluation.metrics, self.evaluation.always
        personal, drawn_from = self.which_personal(unseen), of if drawn else None
        asked = Asked(clients, self.scores_global, personal, self.tested, drawn_from, metrics, unseen, always)
        scores = asked.scores(gathered)
        report.add_client_scores(scores, gathered.failures, self.domains)
        means = mean_accuracies(scores)
        return MetricRecord({**means}) if means else None

    def summary(self) -> None:
        """Flower logs a strategy's options here; ours stand in the run's folder."""

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        *,
        first_round: int = 1,
        on_round: OnRound | None = None,
        ends: Callable[[Round], str] | None = None,
    ) -> Result:
        """Run rounds ``first_round..num_rounds``.

        Args:
            grid: where the clients are.
            initial_arrays: the global model before ``first_round``.
            num_rounds: the last round's number.
            timeout: seconds to wait for a round's replies.
            train_config: further entries of the train messages' config.
            evaluate_config: further entries of the evaluate messages' config.
            evaluate_fn: scores the global model on the server's own test set.
            first_round: greater than 1 to go on from a checkpoint.
            on_round: called after each round with what happened and the new global model.
            ends: asked after each round but the last why the run ends with it; empty to go on.

        Raises:
            RunError: too many clients failed.
        """
        self._nodes = client_nodes(grid, self._everybody, timeout)
        result, arrays = Result(arrays=initial_arrays), initial_arrays
        part = self.clock.part
        for round in range(first_round, num_rounds + 1):
            began = time.perf_counter()
            self.report = Round(round)
            arrays = self._enter(round, arrays)
            with part(METHOD):
                sent = self.configure_train(round, arrays, train_config or ConfigRecord(), grid)
                trained, metrics = self.aggregate_train(round, self._answers(grid, sent, timeout))
            arrays = result.arrays = trained or arrays
            result.train_metrics_clientapp[round] = metrics or MetricRecord()
            began_scoring = time.perf_counter()
            if round % self.evaluation.every == 0 or round == num_rounds:
                with part(METHOD):
                    asked = self.configure_evaluate(round, arrays, evaluate_config or ConfigRecord(), grid)
                    scored = self.aggregate_evaluate(round, self._answers(grid, asked, timeout))
                    if self.unseen:
                        asked = self.configure_unseen(round, arrays, evaluate_config or ConfigRecord(), grid)
                        self.aggregate_unseen(round, self._answers(grid, asked, timeout))
                if scored is not None:
                    result.evaluate_metrics_clientapp[round] = scored
                with part(SCORING):
                    own = evaluate_fn(round, arrays) if evaluate_fn and self.scores_global else None
                if own is not None:
                    result.evaluate_metrics_serverapp[round] = own
                    self.report.scores |= scores_at_server(own)
            now = time.perf_counter()
            self.report.seconds, self.report.seconds_scoring = now - began, now - began_scoring
            if ends is not None and round < num_rounds:
                self.report.ends = ends(self.report)
            if on_round:
                on_round(self.report, self._memory.w)
            if self.report.ends:
                break
        return result

    def _answers(self, grid: Grid, sent: Iterable[Message], timeout: float) -> Iterable[Message]:
        with self.clock.part(MESSAGES):
            return grid.send_and_receive(sent, timeout=timeout)

    def _take(self, arrays: ArrayRecord) -> None:
        """Make the global model in Flower's arrays the present one."""
        self._memory.take(np.asarray(arrays[m.VECTOR].numpy(), np.float32), self)

    # Phases.

    def enter_phase_of(self, round: int) -> Phase:
        """Go into a round's phase."""
        self._phase = next((i for i, phase in enumerate(self.phases) if round <= phase.last), 0)
        phase = self.phases[self._phase]
        self.settings = phase.settings
        return phase

    def _enter(self, round: int, arrays: ArrayRecord) -> ArrayRecord:
        """Go into the round's phase; gives the global model that it begins with."""
        phase = self.enter_phase_of(round)
        w = before = arrays[m.VECTOR].numpy()
        if round == phase.first and phase.restart is None and self._phase and self.state:
            earlier = self.phases[self._phase - 1]
            self._regroup(self._able_in(earlier), self.able)
            w = self._change_options(earlier.settings, w)
        w = self._memory.enter(phase, round, w)
        return arrays if w is before else m.pack(w)

    def _change_options(self, before: Settings, w: NDArray[np.floating]) -> NDArray[np.floating]:
        """Let the method go on with other options than those before; gives the global model, which was ``w``."""
        if before == self.settings:
            return w
        state, memory = self.with_other_options(dict(self.state), before), self._memory
        same = state.keys() == self.state.keys() and all(state[name] is self.state[name] for name in state)
        if not same:
            memory.replace(state, self.state.get("buffers"))
        return w if same or not self.has_global_model() else memory.w

    def _regroup(self, before: NDArray[np.int64], now: NDArray[np.int64]) -> None:
        """Let the method go on with other clients than those that could train in the phase before."""
        if len(now) and not np.array_equal(before, now):
            known = len(np.intersect1d(before, now, assume_unique=True)) / len(now)
            self._memory.state = self.regrouped(dict(self.state), known)
