"""What clients do with a message: the one piece of code behind every runtime."""

from __future__ import annotations

import cmath
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Error, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate, Ensemble, Vectors
from fedtl.clients.serving import Serving
from fedtl.clock import Clock
from fedtl.data.federation import Shards
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Engine, Failed, Trained
from fedtl.engine.assignment import Assignment, Received
from fedtl.engine.engine import PREDICTOR, Own
from fedtl.engine.mixed import Mixed
from fedtl.engine.parts import MEMORIES, PACKING, SUMS
from fedtl.engine.plan import eligible
from fedtl.engine.served import part_of_terms, served
from fedtl.engine.task import OUTLASTS, RoundContext, Score, reason
from fedtl.failure import RunError
from fedtl.optimizers.stepper import PREFIX
from fedtl.wire import messages as m
from fedtl.wire.further_scores import FurtherScores
from fedtl.wire.tree_sum import TreeSum

CLIENT_RAISED = 0
"""Flower's ``ErrorCode.UNKNOWN``; the text says what happened."""

COHORT_BYTES = 64 * 2**20
"""What the vectors of the clients that train together may take on a CPU; on a GPU, a quarter of what is free."""


@dataclass(frozen=True)
class Reply:
    """An answer that stands for ``clients``: a content, or what went wrong."""

    clients: tuple[int, ...]
    content: RecordDict | Error


@dataclass(frozen=True)
class WorkerPhase:
    """What clients do in one of a run's phases: an engine, and the method's local training."""

    engine: Engine
    update: ClientUpdate[Any]
    unseen_epochs: int | None = None
    """Passes over its training samples by which a client that never trains makes its own model; the method's own
    number if None."""

    since: int = 0
    """The first round of which clients' memories are of the model that trains in this phase: where the global model
    has begun anew, that phase's. Of older ones private parts alone count."""

    optimizer_since: int = 0
    """The first round of which what optimisers keep is of the one that this phase has."""

    def remembers(self, name: str, round: int) -> bool:
        """Whether a vector of a client's memory of a round still counts."""
        if name in OUTLASTS:
            return True
        return round >= (max(self.since, self.optimizer_since) if name.startswith(PREFIX) else self.since)

    @functools.cached_property
    def eligible(self) -> NDArray[np.bool_] | None:
        """Which clients hold what the objective trains on; None if all do."""
        federation = self.engine.task.samples.federation
        clients = eligible(federation, self.engine.task.objective)
        return None if clients is None else np.isin(np.arange(federation.clients), clients)

    @functools.cached_property
    def scoring(self) -> ClientUpdate[Any]:
        """What makes a personalised model out of the present global one."""
        update = self.update.for_scoring() if self.update.personalises else self.update
        # What a round trains may end early; what is made for scoring alone is no part of a round.
        return update if update is self.update else update.without_stragglers()

    @functools.cached_property
    def unseen(self) -> ClientUpdate[Any]:
        """What makes a model of its own for a client that never trains."""
        update, task = self.update.for_unseen().without_stragglers(), self.engine.task
        if self.unseen_epochs is not None:
            update = update.of_epochs(self.unseen_epochs)
        if self.update.personalises or task.sharing is None:
            return update
        part = torch.zeros(task.layout.parameters)
        part[task.sharing.private[task.sharing.private < len(part)].cpu()] = 1
        return update.of_part(part)


class Worker:
    """Answers messages for cohorts of clients.

    Args:
        stages: one for each of the run's phases; all have the same model.
        store: where clients' memories are.
        initial: the model ``[d]`` that all clients begin with where a method sends none, and whose private parts
            clients begin with that have none of their own yet.
    """

    def __init__(self, stages: Sequence[WorkerPhase], store: MemoryStore, initial: Tensor) -> None:
        self.stages, self.store = tuple(stages), store
        self.stage = self.stages[0]
        self.own = part_of_terms([stage.engine for stage in self.stages])
        """What of a term is scored as the client's own model, see :func:`part_of_terms`."""
        self.initial = initial.to(self.engine.task.samples.device)
        self.shows_predictions = True
        """Whether the server may see clients' predictions: in a simulation."""

    @property
    def engine(self) -> Engine:
        """Of the phase that the last message was of."""
        return self.stage.engine

    @property
    def update(self) -> ClientUpdate[Any]:
        """Likewise."""
        return self.stage.update

    @property
    def clock(self) -> Clock:
        """Likewise."""
        return self.engine.clock

    def handle(self, kind: str, content: RecordDict, clients: Sequence[int], first: int = 0) -> list[Reply]:
        """Answer one message that is addressed to several clients.

        Args:
            kind: Flower's message type.
            content: what the server sent.
            clients: ids of consecutive places in the round, in order.
            first: the place of the first of them.

        Returns:
            One or more replies; together they stand for every client once. Where the message asks for a
            profile, the last one says where the worker's time went.
        """
        self._enter(content, _round(content))
        self.store.keep = cast("list[int]", m.config_of(content).get(m.KEEP, []))
        if not m.config_of(content).get(m.PROFILE):
            return self._answer(kind, content, clients, first)
        self.clock.start()
        try:
            replies = self._answer(kind, content, clients, first)
        finally:
            seconds = self.clock.stop()
        last = replies[-1].content
        if isinstance(last, RecordDict):  # not the error of a client that answers alone
            last[m.PROFILE] = MetricRecord({**seconds})
        return replies

    def _enter(self, content: RecordDict, round: int) -> None:
        """Go into the phase that a message is of, and let clients hold what they hold in a round."""
        self.stage = self.stages[int(m.config_of(content).get(m.PHASE, 0))]  # type: ignore[arg-type]
        for stage in self.stages:
            engine = stage.engine
            for each in engine.engines if isinstance(engine, Mixed) else (engine,):
                each.task.samples.enter(round)

    def _answer(self, kind: str, content: RecordDict, clients: Sequence[int], first: int) -> list[Reply]:
        if kind == MessageType.TRAIN:
            return self._train(content, clients, first)
        if kind == MessageType.EVALUATE:
            return [self._evaluate(content, clients)]
        return [Reply((c,), RecordDict({m.METRICS: MetricRecord({m.CLIENTS: [c]})})) for c in clients]

    def _train(self, content: RecordDict, clients: Sequence[int], first: int) -> list[Reply]:
        received, round = self._received(content, len(clients)), _round(content)
        weighting = m.config_of(content).get(m.SUM_UPLOADS)
        plain: list[Reply] = []
        context, sums = self._context(content), self.update.sums
        tree, sizes, outcomes = TreeSum(), list[int](), list[Trained | Failed]()
        for places in self._pieces(len(clients)):
            piece = [clients[place] for place in places]
            download = received.at(places)
            assignment = Assignment(self.update, download, piece, self._memories(piece, round), round, context)
            for outcome in map(self._checked, self.engine.train(assignment)):
                if isinstance(outcome, Failed):
                    if weighting is None:
                        plain.append(self._plain_reply(outcome))
                    else:
                        tree.add(0, first + len(outcomes), {})
                        outcomes.append(outcome)
                    continue
                with self.clock.part(MEMORIES):
                    self.store.save(outcome.client, round, outcome.memory)
                if weighting is None:
                    plain.append(self._plain_reply(outcome))
                    continue
                uploads = self._sent(outcome.uploads)
                with self.clock.part(SUMS):
                    parts = {name: uploads[name] for name in sums}
                    if outcome.statistics:
                        parts[m.STATISTICS_SUM] = torch.cat(outcome.statistics)
                        sizes = [len(part) for part in outcome.statistics]
                    tree.add_leaf(first + len(outcomes), parts, self._weights(outcome.samples, str(weighting)))
                # Its vectors are on disk and in the sums; a long cohort's would not fit in memory.
                rows = {name: uploads[name].cpu() for name in self.update.rows}
                outcomes.append(replace(outcome, uploads=rows, memory={}, statistics=()))
        if weighting is None:
            return plain
        with self.clock.part(PACKING):
            return self._sums(tree, sizes, outcomes, first)

    def _weights(self, samples: int, weighting: str) -> dict[str, int]:
        """How a client of so many samples counts in each sum."""
        if weighting == m.UNWEIGHTED:
            return {**dict.fromkeys(self.update.sums, 1), m.STATISTICS_SUM: 1}
        by, counts = {"samples": samples, "uniform": 1}, self.update.counts(self.update.settings)
        return {**{name: by[how] for name, how in counts.items()}, m.STATISTICS_SUM: 1}

    def _sent(self, uploads: Vectors) -> Vectors:
        """What of a client's uploads travels."""
        if "w" not in self.update.sums:
            return uploads
        return {**uploads, "w": self.engine.task.sent(uploads["w"])}

    def _checked(self, outcome: Trained | Failed) -> Trained | Failed:
        """A client whose model is no longer finite has failed: one NaN in a mean is a NaN for all."""
        if isinstance(outcome, Trained):
            vectors = [*outcome.memory.values(), *outcome.statistics, *outcome.uploads.values()]
            with self.clock.part(SUMS):
                finite = all(cmath.isfinite(vector.sum().item()) for vector in vectors)
            if not finite:
                return Failed(outcome.client, "its model is not finite any more; a smaller lr may help")
        return outcome

    def _sums(self, tree: TreeSum, sizes: list[int], outcomes: Sequence[Trained | Failed], first: int) -> list[Reply]:
        """One reply for each of the largest sums that the fixed tree over the round's places allows."""
        replies = []
        for (level, place), totals in tree.nodes():
            start = (place << level) - first
            part = outcomes[start : start + (1 << level)]
            trained = [o for o in part if isinstance(o, Trained)]
            metrics: dict[str, Any] = {
                m.NODE: [level, place],
                m.CLIENTS: [o.client for o in trained],
                m.SAMPLES: [o.samples for o in trained],
                m.STEPS: [o.steps for o in trained],
            }
            for i, name in enumerate(self.engine.task.objective.names):
                metrics[m.LOSS + name] = [o.losses[i] for o in trained]
            content = RecordDict({m.METRICS: MetricRecord(metrics)})
            failed = [(o.client, o.message) for o in part if isinstance(o, Failed)]
            if failed:
                content[m.FAILURES] = m.pack_failures(failed)
            if m.STATISTICS_SUM in totals:
                m.metrics_of(content)[m.PARTS] = sizes
                content[m.STATISTICS] = m.pack(totals[m.STATISTICS_SUM].cpu().numpy())
            if uploads := {name: total.cpu().numpy() for name, total in totals.items() if name != m.STATISTICS_SUM}:
                content[m.ARRAYS] = m.pack_all(uploads)
            if trained and self.update.rows:
                each = {name: [o.uploads[name] for o in trained] for name in self.update.rows}
                content[m.ROWS] = m.pack_all({name: torch.stack(rows).numpy() for name, rows in each.items()})
            replies.append(Reply(tuple(o.client for o in part), content))
        return replies

    def _plain_reply(self, outcome: Trained | Failed) -> Reply:
        """What Flower's own strategies expect: one client's arrays and scalar metrics, or its error."""
        if isinstance(outcome, Failed):
            return Reply((outcome.client,), Error(CLIENT_RAISED, outcome.message))
        metrics: dict[str, Any] = {m.SAMPLES: outcome.samples}
        metrics |= dict(zip(self.engine.task.objective.names, outcome.losses))
        sent = self._sent(outcome.uploads)
        arrays = m.pack_all({name: tensor.cpu().numpy() for name, tensor in sent.items()})
        return Reply((outcome.client,), RecordDict({m.ARRAYS: arrays, m.METRICS: MetricRecord(metrics)}))

    def _evaluate(self, content: RecordDict, clients: Sequence[int]) -> Reply:
        config, received, round = m.config_of(content), self._received(content, len(clients)), _round(content)
        personal = Serving(str(config.get(m.SCORE_PERSONAL, "none")))
        federation = self.engine.task.samples.federation
        domains = {"": federation.test}
        if federation.target is not None:
            domains[m.TARGET] = federation.target.test
        unseen = bool(config.get(m.UNSEEN))
        if federation.validation is not None and not unseen:
            domains[m.VALIDATION] = federation.validation
        rows: dict[str, list[Any]] = {f"{domain}{key}": [] for domain in domains for key in (m.CLIENTS, m.SAMPLES)}
        failed: list[tuple[int, str]] = []
        further = FurtherScores(self.engine.task.metrics, self.shows_predictions)
        tested = [i for i, client in enumerate(clients) if any(len(test[client]) for test in domains.values())]
        for some in self._pieces(len(tested)):
            places = [tested[place] for place in some]
            piece, download = [clients[place] for place in places], received.at(places)
            own_models = self._served(download, piece, round, personal, self._context(content), unseen)
            for place, (client, model) in enumerate(zip(piece, own_models)):
                if isinstance(model, Failed):
                    failed.append((client, model.message))
                    continue
                models = {"global": received.shared["w"]} if config.get(m.SCORE_GLOBAL, True) else {}
                if personal is not Serving.NONE:
                    begun = self.engine.begun
                    models["personal"] = begun(download.model(place), client) if model is None else model.vector
                without = model is None
                of_term = None if without or not (personal is Serving.PARTIAL or self.own == PREDICTOR) else self.own
                try:
                    scored = self._scored(models, client, domains, of_term, model.ensemble if model else None)
                except RunError:
                    raise
                except Exception as error:  # one client's samples, or its model: the others' scores count
                    failed.append((client, reason(error)))
                    continue
                for domain, scores in scored.items():
                    samples = next(iter(scores.values())).samples
                    if not samples:
                        failed.append((client, "none of its test samples has anything to predict"))
                        continue
                    rows[f"{domain}{m.CLIENTS}"].append(client)
                    rows[f"{domain}{m.SAMPLES}"].append(samples)
                    if personal is not Serving.NONE:
                        rows.setdefault(f"{domain}{m.NO_PERSONAL_MODEL}", []).append(int(without))
                    for name, score in scores.items():
                        if score.correct is not None:
                            rows.setdefault(f"{domain}{name}/correct", []).append(score.correct)
                        rows.setdefault(f"{domain}{name}/loss_sum", []).append(score.loss_sum)
                        further.add(rows, f"{domain}{name}", score)
                    further.add_labels(domain, next(iter(scores.values())))
        if m.SCORE_PERSONAL not in config:  # a strategy of Flower's, which asks one client at a time
            if failed:  # it would average an accuracy of 0 over 0 samples
                return Reply(tuple(clients), Error(CLIENT_RAISED, failed[0][1]))
            return Reply(tuple(clients), RecordDict({m.METRICS: self._plain_score(rows)}))
        reply = RecordDict({m.METRICS: MetricRecord(rows), **further.records()})  # type: ignore[arg-type]
        if failed:
            reply[m.FAILURES] = m.pack_failures(failed)
        return Reply(tuple(clients), reply)

    def _scored(
        self,
        models: Mapping[str, Tensor],
        client: int,
        domains: Mapping[str, Shards],
        own: str | None,
        ensemble: Ensemble | None,
    ) -> dict[str, dict[str, Score]]:
        """A client's scores, by domain and model, on each domain of which it holds samples to score on.

        Args:
            models: the models ``[d]`` by name.
            client: whose samples.
            domains: everybody's test samples, and validation samples.
            own: what of a term is scored in place of the personal model.
            ensemble: whole models that are scored together in its place.
        """
        engine = self.engine.of(client)
        answer = engine.answer_of(self.update, models["personal"], client) if "personal" in models else None
        return {
            domain: {
                name: engine.score(vector, test[client], own, answer, ensemble)
                if name == "personal"
                else engine.score(vector, test[client])
                for name, vector in models.items()
            }
            for domain, test in domains.items()
            if len(test[client])
        }

    def _plain_score(self, rows: dict[str, list[Any]]) -> MetricRecord:
        """What Flower's own strategies expect of one client: scalars."""
        samples = sum(rows[m.SAMPLES])
        correct, loss = sum(rows.get("global/correct", [])), sum(rows.get("global/loss_sum", []))
        right = {"accuracy": correct / max(samples, 1)} if "global/correct" in rows or not samples else {}
        return MetricRecord({m.SAMPLES: samples, **right, "loss": loss / max(samples, 1)})

    def personal_models(
        self, content: RecordDict, clients: Sequence[int], round: int, which: Serving
    ) -> list[Tensor | Failed | None]:
        """Each client's own model ``[d]``, as the message ``content`` asks for scores; None where it has none.

        Args:
            content: what the server sends these clients when it asks for scores.
            clients: their ids.
            round: the last finished one.
            which: of their own models.
        """
        self._enter(content, round)
        received, unseen = self._received(content, len(clients)), bool(m.config_of(content).get(m.UNSEEN))
        own_models = self._served(received, clients, round, which, self._context(content), unseen)
        for model in own_models:
            if isinstance(model, Own) and model.ensemble is not None:
                raise ConfigError(
                    f"strategy.name = {self.update.settings.name!r}: with these options a client's own predictor is "
                    f"{len(model.ensemble.models)} models whose outputs are mixed, and no model that could be taken out"
                )
        return [model.vector if isinstance(model, Own) else model for model in own_models]

    def changes(self, content: RecordDict, clients: Sequence[int], round: int) -> list[Tensor | Failed]:
        """What each client's training would change in the parameters that it is sent; nothing is kept of it.

        Statistics of batch-norm layers say what a client's samples are like, not where its training leads: their
        numbers, which are as large as the samples', are left out.

        Args:
            content: what the server sends these clients when it asks for scores.
            clients: their ids.
            round: the last finished one.

        Returns:
            What they would send minus what they received, of the parameters that train and travel; or why a client
            failed.

        Raises:
            ConfigError: clients of this method send no model.
        """
        self._enter(content, round)
        if "w" not in self.update.sums and "w" not in self.update.rows:
            raise ConfigError(f"clients of {self.update.settings.name!r} send no model, so none can be compared")
        received, context, task = self._received(content, len(clients)), self._context(content), self.engine.task
        trained = task.sent(torch.arange(task.layout.size, device=task.samples.device)) < task.layout.parameters
        changes: list[Tensor | Failed] = []
        for places in self._pieces(len(clients)):
            download, piece = received.at(places), [clients[place] for place in places]
            memories = self._memories(piece, round + 1)
            cohort = Assignment(self.update, download, piece, memories, round + 1, context)
            for place, outcome in enumerate(map(self._checked, self.engine.train(cohort))):
                if isinstance(outcome, Failed):
                    changes.append(outcome)
                    continue
                sent = task.sent(outcome.uploads["w"])
                changes.append((sent - task.sent(download.model(place)))[trained].cpu())
        return changes

    def _served(
        self,
        received: Received,
        clients: Sequence[int],
        round: int,
        which: Serving,
        context: RoundContext,
        unseen: bool = False,
    ) -> list[Own | Failed | None]:
        if unseen and which is not Serving.NONE:  # made anew each time, of nothing that was kept
            cohort = Assignment(self.stage.unseen, received, clients, [{} for _ in clients], round + 1, context)
            making, stage = self.stage.unseen, self.stage
            return served(self.engine, Serving.ADAPTED, cohort, making, stage.eligible, self._checked)
        memories = self._memories(clients, round + 1)
        cohort = Assignment(self.update, received, clients, memories, round + 1, context)
        return served(self.engine, which, cohort, self.stage.scoring, self.stage.eligible, self._checked)

    def _pieces(self, clients: int) -> Iterator[range]:
        """Cut a cohort so that what its clients hold at once (an upload, a memory, gradients) fits in memory."""
        room = COHORT_BYTES
        if self.initial.is_cuda:
            room = torch.cuda.mem_get_info(self.initial.device)[0] // 4
        most = max(1, room // (4 * 4 * len(self.initial)))
        return (range(start, min(start + most, clients)) for start in range(0, clients, most))

    def _memories(self, clients: Sequence[int], before: int) -> list[dict[str, Tensor]]:
        device = self.initial.device
        with self.clock.part(MEMORIES):
            loaded = self.store.load_all(clients, before, self.stage.remembers)
            return [{name: vector.to(device) for name, vector in memory.items()} for memory in loaded]

    def _received(self, content: RecordDict, clients: int) -> Received:
        """The download of the so many clients that are addressed.

        Raises:
            RunError: it has not a row for each of them.
        """
        with self.clock.part(PACKING):
            shared, each = self._tensors(content, m.ARRAYS), self._tensors(content, m.EACH)
            task = self.engine.task
            if wrong := [name for name, rows in each.items() if len(rows) != clients]:
                raise RunError(f"{len(each[wrong[0]])} rows of {wrong[0]!r} were sent for {clients} clients")
            if "w" in each and task.sharing is not None:
                each["w"] = torch.stack([task.whole(row, self.initial) for row in each["w"]])
            if "w" not in each:
                shared["w"] = task.whole(shared["w"], self.initial) if "w" in shared else self.initial
            return Received(shared, each)

    def _tensors(self, content: RecordDict, which: str) -> Vectors:
        device = self.initial.device
        arrays = m.unpack_all(content, which)
        return {name: torch.tensor(array, dtype=torch.float32, device=device) for name, array in arrays.items()}

    def _context(self, content: RecordDict) -> RoundContext:
        progress = float(m.config_of(content).get(m.PROGRESS, 0.0))  # type: ignore[arg-type]
        vectors = self._tensors(content, m.CONTEXT)
        for name in {m.PHASE_START, m.REPLAYED} & vectors.keys():
            vectors[name] = self.engine.task.whole(vectors[name], self.initial)
        return RoundContext(progress, vectors, float(m.config_of(content).get(m.LR_FACTOR, 1.0)))  # type: ignore[arg-type]


def _round(content: RecordDict) -> int:
    return int(m.config_of(content).get(m.ROUND, 1))  # type: ignore[arg-type]
