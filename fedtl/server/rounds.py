"""What every method has in common on the server: sampling, messages, the sums of uploads, the rounds."""

from __future__ import annotations

import itertools
import math
import operator
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from numpy.typing import NDArray

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.serving import Serving, serving
from fedtl.clients.settings import Settings
from fedtl.clock import Clock
from fedtl.failure import RunError
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.random import Purpose, stream
from fedtl.server.bench import Bench
from fedtl.server.exchange import Download, Uploads, Vectors
from fedtl.server.nodes import client_nodes
from fedtl.server.phase import Phase
from fedtl.server.scores import ClientScores
from fedtl.server.table import Table
from fedtl.wire import messages as m
from fedtl.wire.tree_sum import TreeSum

Vector = NDArray[np.float32]

OF_TERMS = (m.STATISTIC, m.PHASE_START, m.REPLAYED)
"""How names begin of what terms ask for."""

METHOD, MESSAGES, SCORING = "method", "messages", "scoring"
"""Parts of the server's time in a profile: sampling, sums and the method's step; handing out and gathering
messages; scoring on its own test set."""


@dataclass
class Evaluation:
    """When and how clients are scored.

    Attributes:
        every: rounds between scores; the last round is always scored.
        personal: ``"fresh"``, the model that a client would have now by its local update from the present
            global model, or ``"last"``, the one that it kept when it was last sampled.
        clients: score a sample of this many clients, drawn anew each time; all if None.
    """

    every: int = 1
    personal: str = "fresh"
    clients: int | None = None


@dataclass
class Round:
    """What happened in one round.

    Attributes:
        round: its number, from 1.
        clients: who was sampled.
        failures: who raised, and what it said.
        bytes_down, bytes_up: what the method's messages carry between server and clients, counted per client
            as if each were alone on its machine.
        trained: how many of them trained: ``train`` is a mean over these; None where nobody says.
        train: each term's mean over the clients, weighted by their samples.
        steps: mini-batches trained on, all clients together.
        scores: by name, as ``"global/server-test"``.
        client_scores: every client's own, where the clients were scored, for each domain of their test samples.
        seconds, seconds_scoring: the whole round's, and of them the scoring's.
        worker_seconds: where a profile is made, the workers' by what they did: ``"training"`` and ``"scoring"``,
            each by parts.
        profile: where the time of server and workers went; empty unless a profile is made.
        bytes_by_name: ``bytes_down`` and ``bytes_up``, by what they are: ``{"down": {"w": …}, "up": {"w": …}}``.
    """

    round: int
    clients: list[int] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    trained: int | None = None
    train: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    scores: dict[str, Mapping[str, object]] = field(default_factory=dict)
    client_scores: list[ClientScores] = field(default_factory=list)
    seconds: float = 0.0
    seconds_scoring: float = 0.0
    worker_seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    bytes_by_name: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def sends_more_than_a_model(self) -> bool:
        """Whether the method's own messages carry more than a model down and one up, as those of terms may."""
        names = {name for sent in self.bytes_by_name.values() for name in sent}
        return any(name not in ("w", "statistics") and not name.startswith(OF_TERMS) for name in names)

    def add_bytes_down(self, content: RecordDict, clients: int) -> None:
        """Count what a train message carries to so many clients."""
        shared = {**m.unpack_all(content, m.ARRAYS), **m.unpack_all(content, m.GIVEN)}
        down = {name: clients * vector.nbytes for name, vector in shared.items()}
        down |= {name: rows.nbytes for name, rows in m.unpack_all(content, m.EACH).items()}
        self.bytes_down = sum(down.values())
        self.bytes_by_name["down"] = down

    def add_bytes_up(self, sums: Vectors, rows: Vectors, clients: int) -> None:
        """Count what so many clients uploaded, each by itself in float32."""
        up = {name or "statistics": clients * total.numel() * 4 for name, total in sums.items()}
        up |= {name: tensor.numel() * 4 for name, tensor in rows.items()}
        self.bytes_up = sum(up.values())
        self.bytes_by_name["up"] = up


OnRound = Callable[[Round, Vector], None]


class Rounds(FlowerStrategy, ABC):
    """A run's rounds as the server goes through them; :class:`~fedtl.strategies.contract.Strategy` says what is sent.

    It is a Flower strategy and runs on any Flower Grid. Its messages ask for weighted sums of the uploads, so that a
    worker that trains many clients may answer with one reply for several of them.

    Args:
        settings: the method's options.
        seed: decides who is sampled when.
        clients: N; the rounds begin when so many are there.
        evaluation: when and how clients are scored.
        max_failures: the share of a round's clients that may fail before the run stops.
        parameters: P, how many of the first numbers of ``"w"`` are trained; the method's step is theirs alone,
            the rest (batch-norm statistics) is the uploads' mean. All if None.
        phases: the run's; one of all rounds if not given.
        private: whether clients keep parts of the model to themselves that make it their own, or a model beside it.
        whole: whether the model that travels gives logits without them.
    """

    client_update: ClassVar[type[ClientUpdate[Any]]]

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int,
        clients: int,
        evaluation: Evaluation | None = None,
        max_failures: float = 0.5,
        parameters: int | None = None,
        phases: Sequence[Phase] = (),
        private: bool = False,
        whole: bool = True,
    ) -> None:
        self.settings = settings
        self.phases = tuple(phases) or (Phase(settings, 1, 1),)
        self.scores_global = self.has_global_model() and whole
        self.evaluation = evaluation or Evaluation()
        self._keeps_parts = private
        self.personalises = self.which_personal() is not Serving.NONE
        self.seed = seed
        self.population = clients
        self.max_failures = max_failures
        self.min_clients: int | None = None
        """How many of a round's clients must not fail; what ``max_failures`` says if None."""
        self.parameters = parameters
        self.keep: Sequence[int] = ()
        """Rounds whose memories clients are to keep besides the last one's."""
        self.state: Vectors = {}
        """What the method's server remembers; empty before the first round."""
        self.tables: dict[str, Table] = {}
        """What the server remembers of each client, a row for each; a checkpoint keeps the rows that change."""
        self.context: dict[str, Vector] = {}
        """What terms of the objective ask for besides the download: statistics, and earlier models."""
        self.tested: dict[str, NDArray[np.int64]] = {}
        """Who holds samples to score on, by the data's name in scores, as ``"target-clients"``: only they can be
        missing from a score. Where it is not known, who raised is."""
        self.clock = Clock()
        """Of whoever profiles this process."""
        self.bench: Bench | None = None
        """The server's own model and public samples, for methods whose server trains."""
        self._has_begun = False
        """Whether there is a state, which may be empty."""
        self._now = Round(0)
        self._phase = 0
        self._w: Vector = np.empty(0, np.float32)
        self._nodes: Sequence[int] = []
        self._to_score: list[int] = []

    # The method's idea.

    @abstractmethod
    def first_state(self, w: torch.Tensor) -> Vectors:
        """What the server remembers before the first round."""

    def first_tables(self, w: torch.Tensor) -> Vectors:
        """What the server remembers of each client before the first round, ``[N, …]``, each table by its name."""
        return {}

    @abstractmethod
    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """What clients are sent."""

    @abstractmethod
    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The state after a round."""

    @classmethod
    @abstractmethod
    def has_global_model(cls) -> bool:
        """Whether there is one model for all clients that training changes."""

    def take_statistic(self, name: str) -> torch.Tensor | None:
        """One of the method's own statistics over the round's clients, which are then forgotten; None if there is none.

        The clients are not sent it.
        """
        vector = self.context.pop(m.STATISTIC + name, None)
        return None if vector is None else torch.from_numpy(vector)

    # Where a run stands.

    def remembered(self) -> dict[str, Vector]:
        """What a checkpoint keeps besides the global model, by name."""
        model = {"w", "buffers"} if self.has_global_model() else set()
        own = {name: tensor.numpy().copy() for name, tensor in self.state.items() if name not in model}
        return {**{name: vector.copy() for name, vector in self.context.items()}, **own}

    def resume(self, w: Vector, remembered: Mapping[str, Vector]) -> None:
        """Go back to a checkpoint."""
        self.context = {name: vector for name, vector in remembered.items() if name.startswith(OF_TERMS)}
        own = {name: torch.tensor(vector) for name, vector in remembered.items() if name not in self.context}
        self._w = np.asarray(w, np.float32)
        self._has_begun, parts = True, self._parts()
        self.tables = self._new_tables(parts["w"])
        self.state = {**parts, **own} if self.has_global_model() else own

    def _parts(self) -> Vectors:
        """The parts of the global model; they share its memory, which nobody changes."""
        P, w = self.parameters, torch.from_numpy(self._w if self._w.flags.writeable else self._w.copy())
        return {"w": w[:P], "buffers": w[P:]} if P is not None and len(w) > P else {"w": w}

    def _begun(self) -> Vectors:
        """The state before the first round, of the present global model."""
        self._has_begun, parts, before = True, self._parts(), self.tables
        self.tables = self._new_tables(parts["w"])
        for name, table in before.items():  # what a checkpoint has of them is of the model before a restart
            self.tables[name].changed |= table.written
        return {**parts, **self.first_state(parts["w"])} if self.has_global_model() else self.first_state(parts["w"])

    def _new_tables(self, w: torch.Tensor) -> dict[str, Table]:
        return {name: Table(first) for name, first in self.first_tables(w).items()}

    def row_sizes(self, w: torch.Tensor) -> dict[str, int]:
        """How many numbers each table has in a row, given the initial model's parameters ``w`` ``[P]``."""
        return {name: first[0].numel() for name, first in self.first_tables(w).items()}

    def first_download(self, w: torch.Tensor) -> Vectors:
        """What the first client would receive in the first round besides the model, of a server made for this."""
        self.tables = self._new_tables(w)
        download = self.send(self.first_state(w), [0], 1)
        each = {name: rows[0] for name, rows in download.each.items()}
        return {name: tensor for name, tensor in {**download.shared, **each}.items() if name != "w"}

    # The rounds, in Flower's words.

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients by (seed, round) and address one message to each, in the order of their ids."""
        self._take(arrays)
        self._now.clients = self.sample(server_round)
        config = ConfigRecord({**config, **self._about(server_round), m.SUM_UPLOADS: self.settings.weighting})
        content = self._content(self._now.clients, server_round, config)
        self._now.add_bytes_down(content, len(self._now.clients))
        return self._address(MessageType.TRAIN, self._now.clients, content, grid)

    def _take(self, arrays: ArrayRecord) -> None:
        """Make the global model in Flower's arrays the present one."""
        w = np.asarray(arrays[m.VECTOR].numpy(), np.float32)
        if w is self._w and self._has_begun:
            return
        self._w = w
        if not self._has_begun:
            self.state = self._begun()
        elif self.has_global_model():
            self.state = {**self.state, **self._parts()}

    def _about(self, round: int) -> dict[str, Any]:
        """What every message says of the round."""
        phase = self.phases[self._phase]
        about: dict[str, Any] = {m.ROUND: round, m.PHASE: self._phase, m.PROGRESS: phase.progress(round)}
        about |= self._rate_of(round)
        return about | ({m.KEEP: list(self.keep)} if self.keep else {})

    def _rate_of(self, round: int) -> dict[str, Any]:
        """What the message of a round says of clients' learning rates."""
        options: Any = self.settings
        phase = self.phases[self._phase]
        if not isinstance(options, OptimizerSettings) or not options.schedule.varies:
            return {}
        place = min(round, phase.last) - phase.first + 1
        return {m.LR_FACTOR: options.schedule.factor(place, phase.last - phase.first + 1)}

    def _given(self) -> dict[str, Vector]:
        """What terms of the objective ask for besides the global model."""
        phase = self.phases[self._phase]
        wanted = {m.STATISTIC + statistic.name for statistic in phase.statistics}
        wanted |= {m.REPLAYED, *[m.PHASE_START] * phase.keeps_start}
        return {name: vector for name, vector in self.context.items() if name in wanted}

    def _content(self, clients: Sequence[int], round: int, config: ConfigRecord) -> RecordDict:
        """What clients are sent for a round: the download, and what terms ask for."""
        download = self.send(dict(self.state), clients, round)
        content = RecordDict({m.CONFIG: config})
        if download.shared:
            content[m.ARRAYS] = m.pack_all({k: self._sent(k, v) for k, v in download.shared.items()})
        if download.each:
            content[m.EACH] = m.pack_all({k: _numpy(v) for k, v in download.each.items()})
        if context := self._given():
            content[m.GIVEN] = m.pack_all(context)
        return content

    def about_scoring(self, clients: Sequence[int], round: int, config: Mapping[str, Any] | None = None) -> RecordDict:
        """What clients are sent that are to be scored after a round."""
        # A fresh personal model is what the client would have after the next round.
        return self._content(clients, round + 1, ConfigRecord({**(config or {}), **self.how_to_score(round)}))

    def how_to_score(self, round: int) -> dict[str, Any]:
        """What a message says that asks for scores after a round."""
        which: dict[str, Any] = {m.SCORE_GLOBAL: self.scores_global, m.SCORE_PERSONAL: self.which_personal().value}
        return {**self._about(round), **self._rate_of(round + 1), **which}

    def _sent(self, name: str, tensor: torch.Tensor) -> Vector:
        """A tensor that all clients are sent; with the global model go its batch-norm statistics."""
        if name != "w" or not self.has_global_model():
            return _numpy(tensor)
        if tensor.data_ptr() == self.state["w"].data_ptr():
            return self._w
        return np.concatenate([_numpy(tensor), self._w[len(tensor) :]])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add up what the clients sent, and take the method's step."""
        place_of = {client: place for place, client in enumerate(self._now.clients)}
        sums, rows, sizes, heard = TreeSum(), _Rows(), list[int](), set()
        columns: dict[str, list[Any]] = {m.CLIENTS: [], m.SAMPLES: []}
        for reply in replies:
            if reply.has_error():
                client = self._client_of(reply)
                self._now.failures.append((client, str(reply.error.reason)))
                sums.add(0, place_of[client], {})
                heard.add(client)
                continue
            self._add_seconds("training", reply)
            metrics, failed = m.metrics_of(reply.content), m.unpack_failures(reply.content)
            clients = m.ints(metrics, m.CLIENTS)
            who = [*clients, *(client for client, _ in failed)]
            level, place = m.ints(metrics, m.NODE) if len(who) > 1 else (0, place_of[who[0]])
            totals = {name: torch.tensor(total) for name, total in m.unpack_all(reply.content, m.ARRAYS).items()}
            statistics = m.unpack(reply.content, m.STATISTICS)
            if statistics is not None:
                totals[m.STATISTICS_SUM] = torch.tensor(statistics)
                sizes = m.ints(metrics, m.PARTS)
            sums.add(level, place, totals)
            for name, tensor in m.unpack_all(reply.content, m.ROWS).items():
                rows.add(name, clients, tensor)
            self._now.failures += failed
            self._now.steps += sum(m.ints(metrics, m.STEPS))
            heard |= set(who)
            for key in metrics:
                if key in columns or key.startswith(m.LOSS):
                    columns.setdefault(key, []).extend(m.floats(metrics, key))
        self._now.failures += [(client, "it did not answer in time") for client in place_of if client not in heard]
        self._now.failures.sort()
        self._check_failures(server_round)
        columns = _by_client(columns)
        self._now.trained = len(columns[m.CLIENTS])
        self._now.train = _weighted_means(columns)
        totals, each = sums.total(), rows.sorted()
        self._now.add_bytes_up(totals, each, self._now.trained)
        self._merge(totals.pop(m.STATISTICS_SUM, None), sizes)
        if totals or each:
            self._step(totals, each, columns[m.CLIENTS], columns[m.SAMPLES], server_round)
        self._check_finite(server_round)
        return m.pack(self._w), MetricRecord({**self._now.train})

    def _step(self, sums: Vectors, rows: Vectors, clients: Sequence[int], samples: Sequence[int], round: int) -> None:
        """Take the method's step."""
        alike = {"samples": sum(samples), "uniform": len(clients)}
        alike["settings"] = alike[self.settings.weighting]
        weights = {name: alike[self.client_update.sums[name]] for name in sums}
        P, state, buffers = self.parameters, dict(self.state), None
        if P is not None and "w" in sums and len(sums["w"]) > P:
            buffers = (sums["w"][P:] / weights["w"]).to(torch.float32)
            sums = {**sums, "w": sums["w"][:P]}
            state["buffers"] = buffers
        new = self.update(state, Uploads(sums, weights, rows, clients, samples), round)
        self.state = {name: tensor.detach() for name, tensor in new.items()}
        if not self.has_global_model():
            return
        w = self.state["w"].to(torch.float32)
        if buffers is not None:
            w = torch.cat([w, self.state.get("buffers", buffers)])
        self._w = w.contiguous().numpy()
        self.state = {**self.state, **self._parts()}

    def _merge(self, total: torch.Tensor | None, sizes: Sequence[int]) -> None:
        """Make of the clients' statistics what they are sent in the next round."""
        if total is None:
            return
        for statistic, part in zip(self.phases[self._phase].statistics, torch.split(total, list(sizes))):
            if not part.any():  # nobody of this round had samples for it
                continue
            name = m.STATISTIC + statistic.name
            before = torch.tensor(self.context[name]) if name in self.context else None
            self.context[name] = statistic.merge(before, part).to(torch.float32).numpy()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the clients to score the global model, and their own where the method has one."""
        self._take(arrays)
        self._to_score = self._scored(server_round)
        content = self.about_scoring(self._to_score, server_round, config)
        return self._address(MessageType.EVALUATE, self._to_score, content, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Gather the clients' scores."""
        told: dict[str, list[Any]] = {m.CLIENTS: [], m.SAMPLES: []}
        failed: list[tuple[int, str]] = []
        for reply in replies:
            if reply.has_error():
                failed.append((self._client_of(reply), str(reply.error.reason)))
                continue
            self._add_seconds("scoring", reply)
            failed += m.unpack_failures(reply.content)
            metrics = m.metrics_of(reply.content)
            for key in metrics:
                told.setdefault(key, []).extend(m.floats(metrics, key))
        raised, unheard, found = {client for client, _ in failed}, set[int](), dict[str, float]()
        for data, prefix in m.DOMAINS.items():
            columns = m.of_domain(told, prefix)
            missing = self._missing(data, columns.get(m.CLIENTS, []), raised)
            if not columns.get(m.CLIENTS) and not missing:
                continue
            unheard |= set(missing) - raised
            scores = self._scores(_by_client(columns), data, missing)
            self._now.client_scores.append(scores)
            self._now.scores |= scores.summary()
            found |= {f"{model}/{data}": float(np.mean(v)) for model, v in scores.accuracy.items() if v}
        failed += [(client, "it gave no score") for client in unheard]
        self._now.failures = sorted([*self._now.failures, *((c, f"scoring: {text}") for c, text in failed)])
        return MetricRecord({f"{name}/accuracy": mean for name, mean in found.items()}) if found else None

    def _missing(self, data: str, scored: Sequence[int], raised: set[int]) -> list[int]:
        """Who was to be scored on some data, and was not."""
        if data in self.tested:
            asked = np.intersect1d(self._to_score, self.tested[data])
            return [int(client) for client in np.setdiff1d(asked, np.asarray(scored, np.int64))]
        # Who holds test samples is not known; of those on target data nobody may.
        return sorted(raised - set(scored)) if scored or data == "clients" else []

    def _scores(self, told: Mapping[str, list[Any]], data: str, missing: list[int]) -> ClientScores:
        """Clients' scores on their own test samples of one domain."""
        clients, samples = told.get(m.CLIENTS, []), told.get(m.SAMPLES, [])
        scores = ClientScores(clients, samples, data=data, missing=missing)
        if self.evaluation.clients is not None and self.evaluation.clients < self.population:
            scores.drawn_from = len(self.tested[data]) if data in self.tested else self.population
        if self.personalises:
            scores.personal = self.which_personal().value
        scores.without = [client for client, without in zip(clients, told.get(m.WITHOUT, ())) if without]
        asked = {"global": self.scores_global, "personal": self.personalises}
        for model in asked:
            if correct := told.get(f"{model}/correct"):
                scores.accuracy[model] = [right / n for right, n in zip(correct, samples)]
                scores.loss[model] = [loss / n for loss, n in zip(told[f"{model}/loss_sum"], samples)]
            elif asked[model] and not clients:  # nobody could be scored, and the record says so
                scores.accuracy[model], scores.loss[model] = [], []
        return scores

    def which_personal(self) -> Serving:
        """Which of a client's own models is scored."""
        return serving(self.client_update, self._keeps_parts, self.evaluation.personal)

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

        Raises:
            RunError: too many clients failed.
        """
        self._nodes = client_nodes(grid, self.population, timeout)
        result, arrays = Result(arrays=initial_arrays), initial_arrays
        part = self.clock.part
        for round in range(first_round, num_rounds + 1):
            began = time.perf_counter()
            self._now = Round(round)
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
                if scored is not None:
                    result.evaluate_metrics_clientapp[round] = scored
                with part(SCORING):
                    own = evaluate_fn(round, arrays) if evaluate_fn and self.scores_global else None
                if own is not None:
                    result.evaluate_metrics_serverapp[round] = own
                    self._now.scores |= _by_data(own)
            now = time.perf_counter()
            self._now.seconds, self._now.seconds_scoring = now - began, now - began_scoring
            if on_round:
                on_round(self._now, self._w)
        return result

    # Details.

    def _enter(self, round: int, arrays: ArrayRecord) -> ArrayRecord:
        """Go into the round's phase; gives the global model that it begins with."""
        phase = self.phases[0] if len(self.phases) == 1 else self.enter_phase_of(round)
        if round == phase.first:
            if phase.keeps_start:  # before a restart: the generation before teaches the new one
                self.context[m.PHASE_START] = np.array(arrays[m.VECTOR].numpy(), np.float32)
            if phase.restart is not None:  # all else that the server remembers is of the old model
                self.context = {name: vector for name, vector in self.context.items() if name == m.PHASE_START}
                self._has_begun = self._has_begun and not self.has_global_model()
                arrays = m.pack(phase.restart)
        if phase.replay and phase.replay.every > 1 and phase.replay.made_in(round) == round:
            self.context[m.REPLAYED] = np.array(arrays[m.VECTOR].numpy(), np.float32)
        return arrays

    def enter_phase_of(self, round: int) -> Phase:
        """Go into a round's phase."""
        self._phase = next((i for i, phase in enumerate(self.phases) if round <= phase.last), 0)
        phase = self.phases[self._phase]
        self.settings = phase.settings
        return phase

    def sample(self, round: int) -> list[int]:
        """The round's clients, by (seed, round) alone, in the order of their ids."""
        return self._choose(round, self.settings.clients_per_round, self.phases[self._phase].clients)

    def _scored(self, round: int) -> list[int]:
        return self._choose(-round, self.evaluation.clients)

    def _choose(self, where: int, wanted: int | None, able: NDArray[np.int64] | None = None) -> list[int]:
        there = self.population if able is None else len(able)
        rng = stream(self.seed, Purpose.SAMPLE_CLIENTS, abs(where), int(where < 0))
        everybody = wanted is None or wanted >= there
        chosen = range(there) if everybody else sorted(rng.choice(there, wanted, replace=False).tolist())
        return list(chosen) if able is None else able[chosen].tolist()

    def _address(self, kind: str, clients: Sequence[int], content: RecordDict, grid: Grid) -> m.Broadcast:
        if not self._nodes:
            self._nodes = client_nodes(grid, self.population, None)
        return m.Broadcast(kind, content, [self._nodes[client] for client in clients])

    def _answers(self, grid: Grid, sent: Iterable[Message], timeout: float) -> Iterable[Message]:
        with self.clock.part(MESSAGES):
            return grid.send_and_receive(sent, timeout=timeout)

    def _add_seconds(self, kind: str, reply: Message) -> None:
        """Where a worker's time went, in a reply that says so."""
        if m.PROFILE in reply.content:
            total = self._now.worker_seconds.setdefault(kind, {})
            for part, seconds in m.seconds_of(reply.content).items():
                total[part] = total.get(part, 0.0) + seconds

    def _client_of(self, reply: Message) -> int:
        return self._nodes.index(reply.metadata.src_node_id)

    def _check_finite(self, round: int) -> None:
        """End the run where the server's step leads nowhere: clients can only fail from such a model on.

        Raises:
            RunError: the global model, or what the server remembers, has a number that is infinite or none.
        """
        server = {**self.context, **{name: tensor.numpy() for name, tensor in self.state.items()}}
        remembered = ((f"server's {name!r}", vector) for name, vector in server.items() if name not in ("w", "buffers"))
        for what, vector in (("global model", self._w), *remembered):
            # In float64 a sum of finite float32 numbers is finite.
            if not math.isfinite(vector.sum(dtype=np.float64)):
                raise RunError(
                    f"the {what} is not finite after round {round}; a smaller strategy.lr, strategy.server.lr or "
                    "strategy.beta may help"
                )

    def _check_failures(self, round: int) -> None:
        failures, asked, least = self._now.failures, len(self._now.clients), self.min_clients
        most = self.max_failures * asked if least is None else asked - least
        if failures and (len(failures) > most or len(failures) == asked):
            client, text = failures[0]
            allows = f"max_failures = {self.max_failures:g}" if least is None else f"min_clients = {least}"
            raise RunError(
                f"round {round}: {len(failures)} of {asked} clients failed, more than {allows} allows; "
                f"client {client}: {text}"
            )


class _Rows:
    """Uploads that are not summed, as they come."""

    def __init__(self) -> None:
        self._clients: dict[str, list[int]] = {}
        self._parts: dict[str, list[NDArray[np.floating]]] = {}

    def add(self, name: str, clients: Sequence[int], rows: NDArray[np.floating]) -> None:
        """Some clients' rows of an upload."""
        self._clients.setdefault(name, []).extend(clients)
        self._parts.setdefault(name, []).append(rows)

    def sorted(self) -> Vectors:
        """All rows of each upload, in the order of the clients' ids."""
        return {
            name: torch.from_numpy(np.concatenate(parts)[np.argsort(self._clients[name])])
            for name, parts in self._parts.items()
        }


def _numpy(tensor: torch.Tensor) -> Vector:
    return np.asarray(tensor.detach().to(torch.float32).numpy())


def _by_client(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns with one entry per client, in the order of the clients' ids, whatever the order of the replies."""
    clients = columns.get(m.CLIENTS, [])
    order = sorted(range(len(clients)), key=clients.__getitem__)
    return {key: [values[i] for i in order] for key, values in columns.items()}


def _by_data(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The global model's scores at the server, by the name of model and data: those of the target have a prefix."""
    source = {key: value for key, value in told.items() if not key.startswith(m.TARGET)}
    target = {key.removeprefix(m.TARGET): value for key, value in told.items() if key.startswith(m.TARGET)}
    named = {"global/server-test": source, "global/target-server-test": target}
    return {name: scores for name, scores in named.items() if scores}


def _weighted_means(columns: Mapping[str, list[Any]]) -> dict[str, float]:
    """Means of each term, weighted by samples; rows in a fixed order, so that the sums are the same bits.

    A term that a client could not evaluate (not a number) does not count there; one that nobody could is left out.
    """
    means, samples = {}, columns[m.SAMPLES]
    for key in columns:
        if not key.startswith(m.LOSS):
            continue
        values, weights = columns[key], samples
        if any(map(math.isnan, values)):
            there = [not math.isnan(value) for value in values]
            values, weights = [*itertools.compress(values, there)], [*itertools.compress(samples, there)]
        if weights:
            means[key[len(m.LOSS) :]] = sum(map(operator.mul, values, weights)) / sum(weights)
    return means
