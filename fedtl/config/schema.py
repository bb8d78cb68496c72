"""What a config may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import tomli_w
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
)

from fedtl.choice import Options, nearest, validate
from fedtl.clients.serving import OLDER
from fedtl.clients.settings import Settings
from fedtl.data.replay import Replay
from fedtl.data.settings import DataChoice
from fedtl.data.views.augment import Views
from fedtl.losses.objective import Objective, needs_of
from fedtl.losses.term import Term
from fedtl.metrics import Metrics, read_metrics
from fedtl.metrics.registry import ALWAYS
from fedtl.models.settings import ModelChoice
from fedtl.server.scores import SCORES, on_unseen
from fedtl.strategies import strategy_type
from fedtl.wire.privacy import Privacy

Tables = dict[str, Any]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""Of waiting; the system's own clocks count no further than ten times as long."""


class Evaluate(Options):
    """When and how clients are scored.

    Attributes:
        every: rounds between scores; the last round is always scored.
        personal: "adapted": the model that a client would have now, by its local update from the present global model;
            "stored": the one that it kept when it was last sampled. Older configs say "fresh" and "last".
        clients: score a sample of so many clients; all if not given.
        unseen_epochs: passes over its training samples by which a client of ``data.held_out_clients`` makes its own
            model; as long as the method says if not given: where it has no number of its own, as long as a round.
        metrics: scored besides accuracy and loss, by name; the first is what tables and pictures show. A metric of
            your own is "module:function" of labels [n] and probabilities [n, k], or a subclass of fedtl.metrics.Metric.
        keep_best: keep the models of the round that is best on validation samples, by "accuracy" (also: true), "loss",
            or one of the metrics.
    """

    every: PositiveInt = 1
    personal: Literal["adapted", "stored"] = "adapted"
    clients: PositiveInt | None = None
    unseen_epochs: PositiveInt | None = None
    metrics: tuple[str, ...] = ()
    keep_best: str | None = None

    @field_validator("personal", mode="before")
    @classmethod
    def _by_either_name(cls, value: Any) -> Any:
        return OLDER.get(value, value) if isinstance(value, str) else value

    @field_validator("keep_best", mode="before")
    @classmethod
    def _by_accuracy_or_not(cls, value: Any) -> Any:
        return ("accuracy" if value else None) if isinstance(value, bool) else value


class Stop(Options):
    """When a run ends before its last round.

    Attributes:
        patience: the run ends after so many scored rounds in a row that are not better than the best one before them;
            where there are phases, rounds of the last one.
        metric: of the score: "accuracy", "loss", or one of ``evaluate.metrics``; over clients the mean weighted by
            samples.
        min_delta: a round is better only if it is so by more than this.
        score: which one decides, as "global/validation-clients"; if not given, on validation samples that of the
            clients' own models, or of the global one where they have none. One on test data must be named.
    """

    patience: PositiveInt
    metric: str = "accuracy"
    min_delta: NonNegativeFloat = 0.0
    score: str | None = None

    @field_validator("score")
    @classmethod
    def _is_a_score(cls, score: str | None) -> str | None:
        if score is not None and on_unseen(score):
            raise ValueError("clients that never train do not decide when training ends; name a score of the others")
        if score is not None and score not in SCORES:
            raise ValueError(f"no score that may decide is called so: {nearest(score, SCORES)}")
        return score


LEAST_OF_RAY, MOST_OF_RAY = 1e-4, 1e5
"""Of CPUs or GPUs, what an actor may ask Ray for: Ray counts in units of 1/10,000."""


def _gpus_that_ray_shares(gpus: float) -> float:
    if gpus and not LEAST_OF_RAY <= gpus <= MOST_OF_RAY:
        raise ValueError(f"should be 0, or between {LEAST_OF_RAY:g} and {MOST_OF_RAY:g}")
    if gpus > 1 and not gpus.is_integer():
        raise ValueError("should be a share of one GPU, or a whole number of them")
    return gpus


class Simulation(Options):
    """Where the clients live.

    Attributes:
        grid: "ray": Ray actors; "in-process"; "flower": Flower's own simulation.
        actors: how many Ray actors; "auto": one per GPU, or one per core, and on a cluster as many as it has room
            for at the moment; never more than clients train in a round.
        num_cpus, num_gpus: what each actor asks Ray for; "auto": an equal share of the GPUs of this machine or of the
            cluster, at most one.
        stacked: whether a cohort's clients train stacked; "auto": on a GPU, and for tiny models on a CPU, where
            the model allows it.
        traced: whether training steps are traced once and replayed; "auto": on a CPU, where the step can be.
        address: of a running Ray cluster's head, "host:port", or "auto" on one of its machines; if not given, the
            environment variable RAY_ADDRESS, else this machine alone. Every machine needs fedtl, and what the config
            names, installed in the same versions; where clients keep memories, it must see the run's folder.
        patience: seconds to wait for a cluster that has no room for a single actor yet.
    """

    grid: Literal["ray", "in-process", "flower"] = "ray"
    actors: PositiveInt | Literal["auto"] = "auto"
    num_cpus: float = Field(1.0, ge=LEAST_OF_RAY, le=MOST_OF_RAY)
    num_gpus: Annotated[NonNegativeFloat, AfterValidator(_gpus_that_ray_shares)] | Literal["auto"] = "auto"
    stacked: bool | Literal["auto"] = "auto"
    traced: bool | Literal["auto"] = "auto"
    address: str | None = None
    patience: Seconds = 300.0

    older_names: ClassVar[Mapping[str, str]] = {"recorded": "traced"}


class Deploy(Options):
    """How real clients are dealt with; ``fedtl run`` uses none of it.

    Attributes:
        wait: seconds to wait for clients, before the first round for all of them and before any other for
            ``min_clients``.
        min_clients: a round with fewer uploads ends the run, which can be resumed; if not given, what
            ``max_failures`` says.
        round_timeout: seconds that training may take, and scoring; then the round goes on without who is late.
        max_norm: an upload w_i is refused if ||w_i - w|| > max_norm * max(1, ||w||).
        privacy: noise on what is uploaded.
    """

    wait: Seconds = 600.0
    min_clients: PositiveInt | None = None
    round_timeout: Seconds = 3600.0
    max_norm: PositiveFloat = 10.0
    privacy: Privacy | None = None


class PhaseOptions(Options):
    """Some rounds in a row that have a local objective of their own.

    Attributes:
        name: for the record.
        rounds: how many.
        objective: as the config's own; cross-entropy if none is given.
        strategy: options of the method that are others in this phase, as ``lr``.
        restart: whether the global model begins anew, from random numbers of its own, and with it what server and
            clients remember of the old one. Clients' private parts stay.
    """

    name: str = ""
    rounds: PositiveInt
    objective: tuple[SerializeAsAny[Term], ...] = ()
    strategy: dict[str, Any] = Field(default_factory=dict)
    restart: bool = False


class ResolvedPhase(NamedTuple):
    """A phase, read together with the rest of the config.

    Attributes:
        key: its objective's place there.
        first: its first round, from 1.
        rounds: how many.
        strategy: the method's options.
        objective: the terms, those of the method included.
        restart: as in :class:`PhaseOptions`.
        listed: how many of the terms the config lists; they are the first.
    """

    key: str
    first: int
    rounds: int
    strategy: Settings
    objective: tuple[Term, ...]
    restart: bool
    listed: int

    @property
    def last(self) -> int:
        """Its last round."""
        return self.first + self.rounds - 1

    def place(self, j: int) -> str:
        """What asked for a term, by its number."""
        return f"{self.key}[{j}]" if j < self.listed else f"strategy.name = {self.strategy.name!r}"


class Config(Options):
    """An experiment.

    Attributes:
        name: of its folder under ``results/``.
        seed: decides the split, the initial model, who is sampled and in which order samples come.
        rounds: T; where there are phases, their sum.
        device: "auto": a GPU where there is one.
        max_failures: the share of a round's clients that may fail before the run stops.
        data, model, strategy, objective, evaluate, stop, simulation, deploy: its parts.
        models: in place of ``model``, for methods that send none: client i has the (i mod k)-th of k.
        views: random views of images, for terms that compare two of them.
        replay: samples synthesised out of the global model, for the term "replay".
        phases: rounds with objectives of their own, one after another, in place of ``objective``.
        tracking: other places that the run's numbers are written to: tables with a ``name`` and options, names alone,
            or one of them.
    """

    name: str
    seed: NonNegativeInt = 0
    rounds: PositiveInt
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_failures: float = Field(0.5, ge=0, le=1)
    data: SerializeAsAny[DataChoice]
    model: SerializeAsAny[ModelChoice]
    models: tuple[SerializeAsAny[ModelChoice], ...] = ()
    strategy: SerializeAsAny[Settings]
    objective: tuple[SerializeAsAny[Term], ...] = ()
    views: Views | None = None
    replay: Replay | None = None
    phases: tuple[PhaseOptions, ...] = ()
    evaluate: Evaluate = Evaluate()
    stop: Stop | None = None
    simulation: Simulation = Simulation()
    deploy: Deploy = Deploy()
    tracking: tuple[dict[str, Any], ...] = ()

    @field_validator("tracking", mode="before")
    @classmethod
    def _as_tables(cls, value: Any) -> Any:
        """Only the form is checked here: other machines, which read the config too, need not have the trackers."""
        entries = value if isinstance(value, (list, tuple)) else [value]
        tables = [{"name": each} if isinstance(each, str) else each for each in entries]
        if not all(isinstance(each, Mapping) and isinstance(each.get("name"), str) for each in tables):
            raise ValueError("should be a list of names, or of tables with a name, as ['tensorboard']")
        names = [each["name"] for each in tables]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"has {twice!r} twice; give it once")
        return tuple(dict(each) for each in tables)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError("it names a folder, so give letters, digits, '_', '-' and '.' alone, not '.' first")
        return name

    @property
    def metrics(self) -> Metrics:
        """What models are scored by besides accuracy and loss."""
        return read_metrics(self.evaluate.metrics, self.data.task.kind)

    @property
    def models_by_key(self) -> dict[str, ModelChoice]:
        """The models that there are, by their places in the config."""
        return {f"models[{i}]": model for i, model in enumerate(self.models)} or {"model": self.model}

    @property
    def chosen_by(self) -> dict[str, str]:
        """The metrics by which rounds are chosen, by the keys that ask for them."""
        asked = {"stop.metric": None if self.stop is None else self.stop.metric}
        asked["evaluate.keep_best"] = self.evaluate.keep_best
        return {key: metric for key, metric in asked.items() if metric is not None}

    @property
    def always(self) -> tuple[str, ...]:
        """What every score has."""
        return ALWAYS if self.data.task.has_accuracy else ("loss",)

    @property
    def scored(self) -> tuple[str, ...]:
        """The metrics of every score, by their names in records."""
        return (*dict.fromkeys((*self.always, *(path.rpartition(":")[2] for path in self.evaluate.metrics))),)

    def stages(self) -> tuple[ResolvedPhase, ...]:
        """The phases; a config without any has one."""
        if not self.phases:
            return (self._stage("objective", 1, self.rounds, self.strategy, self.objective, False),)
        stages, first = list[ResolvedPhase](), 1
        for i, phase in enumerate(self.phases):
            strategy, key = _strategy_of(self.strategy, phase, i), f"phases[{i}].objective"
            stages.append(self._stage(key, first, phase.rounds, strategy, phase.objective, phase.restart))
            first += phase.rounds
        return tuple(stages)

    @property
    def needs(self) -> frozenset[str]:
        """What the objective's terms need, in any phase."""
        return frozenset(need for stage in self.stages() for term in stage.objective for need in needs_of(term))

    @property
    def trains_unlabelled(self) -> bool:
        """Whether a term, or what clients are asked for, is of samples without labels too, in some phase."""
        statistics, of_all = strategy_type(self.strategy.name).statistics, {"target", "samples", "unlabelled", "views"}
        each = [Objective(stage.objective, statistics(stage.strategy)) for stage in self.stages()]
        return any(of_all & {*one.trained, *(asked.on for asked in one.statistics)} for one in each)

    def _stage(
        self, key: str, first: int, rounds: int, strategy: Settings, terms: tuple[Term, ...], restart: bool
    ) -> ResolvedPhase:
        """A phase with the terms that the method has by itself."""
        update = strategy_type(self.strategy.name).client_update
        return ResolvedPhase(key, first, rounds, strategy, update.objective(strategy, terms), restart, len(terms))

    def architectures(self) -> tuple[Config, ...]:
        """The same config for each of the models that clients have."""
        return tuple(self.model_copy(update={"model": model, "models": ()}) for model in self.models) or (self,)

    def tables(self) -> Tables:
        """The resolved config as plain tables; reading them gives an equal config."""
        dumped = _without_none(self.model_dump(mode="json"))
        assert isinstance(dumped, dict)
        return dumped

    def toml(self) -> str:
        """The resolved config as TOML."""
        return tomli_w.dumps(self.tables())


def _strategy_of(strategy: Settings, phase: PhaseOptions, place: int) -> Settings:
    """The method's options in a phase."""
    replaced = {option for pair in strategy.one_of if {*pair} & phase.strategy.keys() for option in pair}
    table = strategy.model_dump(exclude_none=True, exclude=replaced)
    return validate(type(strategy), {**table, **phase.strategy}, f"phases[{place}].strategy")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
