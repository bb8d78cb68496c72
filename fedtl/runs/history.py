"""A run's folder, read back: what a finished or a still running experiment has recorded so far.

``load("runs/pfedme").scores()`` is a learning curve per scored model, ``.best()`` the numbers for a table,
``.table()`` everything. A score's name says which model was scored on which data: ``global/server-test``,
``global/clients``, ``personal/clients``; scores on validation samples end in ``validation-clients``.

A folder may be read while it is being written, so a last line that is still incomplete does not count.
Nothing here needs torch, matplotlib or pandas until a call asks for it.
"""

from __future__ import annotations

import html
import importlib
import json
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest, shown
from fedtl.config.earlier import completed
from fedtl.metrics.registry import SMALLER_IS_BETTER as SMALLER_IS_BETTER
from fedtl.metrics.registry import headline
from fedtl.runs.best import VALIDATION, BestRound, Followed, Stopped, first_best, serving_score, validated_by
from fedtl.runs.best import Point as Point
from fedtl.server.scores import MISSING, marked, undefined_in
from fedtl.server.scores import UNSEEN as UNSEEN
from fedtl.server.scores import Coverage as Coverage  # part of what a record says
from fedtl.server.scores import mean_over_clients as mean_over_clients
from fedtl.server.scores import of_everybody as of_everybody
from fedtl.server.scores import on_unseen as on_unseen
from fedtl.server.scores import on_validation as on_validation
from fedtl.tasks import read_task

if TYPE_CHECKING:
    import torch

Record = dict[str, Any]
Axis = Literal["rounds", "bytes", "seconds"]
TableKind = Literal["numpy", "pandas"]

# The keys of a round's record that add up to what a run has cost.
COSTS: Mapping[str, tuple[str, ...]] = {"rounds": (), "bytes": ("bytes_down", "bytes_up"), "seconds": ("seconds",)}
FURTHER = ("target", "validation", "unseen", "unseen-target")
"""Keys of a line of ``clients.jsonl`` under which the scores on further samples of the clients stand."""

BY_VALIDATION, ON_TEST = "best by validation", "best on test"
"""How tables call a score's value in the round that was best on validation samples, and its own best."""


class Series(NamedTuple):
    """A number over the rounds in which it was recorded."""

    rounds: NDArray[np.int64]
    values: NDArray[np.float64]


class _Scored(NamedTuple):
    """Who was scored in a round, who is missing where the record says that, and the values by metric."""

    clients: list[int]
    missing: list[int] | None
    values: Mapping[str, list[float | None]]


class Counts(NamedTuple):
    """Over how many clients a mean is, in each round for which that is known.

    Attributes:
        rounds, clients, of: in these rounds the mean is over ``clients`` of ``of`` clients.
        drawn_from: of how many ``evaluate.clients`` drew a sample each time; None if all were asked.
    """

    rounds: NDArray[np.int64]
    clients: NDArray[np.int64]
    of: NDArray[np.int64]
    drawn_from: int | None = None


class Run:
    """The records of one experiment, as they were when the folder was read.

    Attributes:
        path: the folder.
        config: the resolved config.
        rounds: a record per round, in order; round 0, where there is one, holds the untrained model's scores.

    Raises:
        ConfigError: ``path`` is not a run's folder, or one of its files is broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = _read_config(self.path)
        self.rounds = _read_lines(self.path / "rounds.jsonl")

    @property
    def name(self) -> str:
        """The experiment's name; the folder's where the config gives none."""
        return str(self.config.get("name") or self.path.resolve().name)

    @property
    def method(self) -> str:
        """The strategy's name."""
        return str(self.config["strategy"]["name"])

    @property
    def objective(self) -> str:
        """What clients trained on besides the task's own loss, in a few words: ``"mmd + dann"``, ``"… then adda"``."""
        own = term_of((self.config.get("data") or {}).get("task"))
        phases = [phase.get("objective") or [] for phase in self.config.get("phases") or [self.config]]
        names = [" + ".join(str(row.get("name") or row["term"]) for row in rows) for rows in phases]
        names = [text.removeprefix(own).removeprefix(" + ") for text in names]
        return " then ".join(text or own for text in names) if len(names) > 1 else names[0]

    @property
    def label(self) -> str:
        """Method and objective in a few words."""
        return f"{self.method}, {self.objective}" if self.objective else self.method

    @property
    def metric(self) -> str:
        """What the run is shown by: the first of ``evaluate.metrics`` that its scores have, else accuracy."""
        recorded = {key for record in self.rounds for score in (record.get("scores") or {}).values() for key in score}
        asked = (self.config.get("evaluate") or {}).get("metrics") or ()
        return headline(asked, recorded)

    @property
    def usual(self) -> str:
        """Accuracy, or where predictions are neither right nor wrong what the run is shown by."""
        scores = [score for record in self.rounds for score in (record.get("scores") or {}).values()]
        return "accuracy" if not scores or any("accuracy" in score for score in scores) else self.metric

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return int(self.config.get("seed", 0))

    @cached_property
    def clients(self) -> list[Record]:
        """A record per scored round with the scores of every single client.

        ``"target"`` has those on target data, ``"validation"`` those on validation samples.
        """
        # This file may be ahead of the rounds: it is written first, and perhaps read later.
        known = {record["round"] for record in self.rounds}
        return [record for record in _read_lines(self.path / "clients.jsonl") if record["round"] in known]

    def read_all(self) -> None:
        """Read the files that are else read when they are asked for.

        Raises:
            ConfigError: one of them is broken.
        """
        _ = self.clients, self.environment

    @cached_property
    def environment(self) -> Record:
        """Versions and hardware; empty where they were not recorded."""
        return _read_json(self.path / "environment.json")

    def scores(self, metric: str | None = None, statistic: str = "weighted_mean") -> dict[str, Series]:
        """The learning curves: a metric over the scored rounds, for each score that has it.

        Args:
            metric: such as ``accuracy`` or ``loss``; accuracy if not given, or what the run is shown by if it has none.
            statistic: what stands for all clients where each was scored: ``weighted_mean``, ``mean``,
                ``std``, ``worst_decile``, ``best_decile``.

        Raises:
            ConfigError: rounds are scored, but with no such metric or statistic.
        """
        metric = metric or self.usual
        by_name: dict[str, list[Point]] = {}
        known: set[str] = set()
        for record in self.rounds:
            for name, score in (record.get("scores") or {}).items():
                known |= {key for key, value in score.items() if isinstance(value, Mapping | float)}
                value = score.get(metric, "")
                if isinstance(value, str):  # no such metric, or a remark on how the score was made
                    continue
                if isinstance(value, Mapping):
                    if statistic not in value:
                        raise ConfigError(f"{self.path}: {name} has no {statistic!r}: {nearest(statistic, value)}")
                    value = value[statistic]
                by_name.setdefault(name, []).append(Point(int(record["round"]), _number(value)))
        if known and not by_name:
            raise ConfigError(f"{self.path}: no score has a metric {metric!r}: {nearest(metric, known)}")
        return {name: _series(points) for name, points in by_name.items()}

    def terms(self) -> dict[str, Series]:
        """Each term of the objective over the rounds, without its weight: the clients' weighted mean in training."""
        by_name: dict[str, list[Point]] = {}
        for record in self.rounds:
            for name, value in (record.get("train") or {}).items():
                by_name.setdefault(name, []).append(Point(int(record["round"]), _number(value)))
        return {name: _series(points) for name, points in by_name.items()}

    def scored(self, metric: str | None = None) -> dict[str, Counts]:
        """For each score over clients, how many it is a mean over, of how many who hold test samples and were asked.

        A client is missing that could not be scored: it raised, its model was not finite, or it did not answer. Runs
        of versions that did not count are counted out of ``clients.jsonl``, and left out where they lack that.

        Args:
            metric: whose mean is over those clients alone on whose samples it is defined; if None, over all scored.
        """
        return {
            name: _counts({round: self._with_metric(each[round], name, round, metric) for round in each})
            for name, each in self._coverages.items()
        }

    def trained(self) -> Counts:
        """How many clients the terms' values in training are means over, of how many who were sampled."""
        rounds = {}
        for record in self.rounds:
            if "clients" not in record:  # as in a round 0
                continue
            asked, trained = set(record["clients"]), record.get("trained")
            if trained is None:  # of a version that did not say
                failures = record.get("failures") or []
                trained = len(asked - {each["client"] for each in failures if not _in_scoring(each)})
            rounds[int(record["round"])] = Coverage(int(trained), len(asked))
        return _counts(rounds)

    def coverage(self, score: str, round: int | None = None, metric: str | None = None) -> Coverage | None:
        """Over which part of the clients a score is: printed, the mark that its mean needs.

        Args:
            score: its name, as ``"personal/clients"``.
            round: in which; in its last one if None.
            metric: as for :meth:`scored`.

        Returns:
            None where it is no mean over clients, or where that is not known.
        """
        by_round = self._coverages.get(score, {})
        at = max(by_round, default=0) if round is None else round
        return self._with_metric(by_round[at], score, at, metric) if at in by_round else None

    def _with_metric(self, coverage: Coverage, score: str, round: int, metric: str | None) -> Coverage:
        """A coverage without the clients on whose samples a metric is not defined."""
        return coverage._replace(scored=coverage.scored - undefined_in(self._rows.get((score, round), {}), metric))

    @cached_property
    def _rows(self) -> dict[tuple[str, int], Record]:
        """What is recorded of each score in each round."""
        return {
            (name, int(record["round"])): row
            for record in self.rounds
            for name, row in (record.get("scores") or {}).items()
        }

    def complete(self, score: str, rounds: Iterable[int]) -> NDArray[np.bool_]:
        """Whether nobody is known to be missing from a score, in each of some rounds."""
        coverages = (self.coverage(score, int(round)) for round in rounds)
        return np.array([coverage is None or coverage.complete for coverage in coverages], bool)

    def missing(self) -> dict[str, list[int]]:
        """For each score over clients, who is missing from it in the last scored round."""
        return {name: self._missing(name, max(each)) for name, each in self._scored.items()}

    @cached_property
    def _coverages(self) -> dict[str, dict[int, Coverage]]:
        """By score and round."""
        coverages: dict[str, dict[int, Coverage]] = {}
        for record in self.rounds:
            for name, row in (record.get("scores") or {}).items():
                if not mean_over_clients(name):
                    continue
                coverage = Coverage.of_row(row) or self._counted(name, record["round"])
                if coverage is not None:
                    coverages.setdefault(name, {})[int(record["round"])] = coverage
        return coverages

    def _counted(self, score: str, round: int) -> Coverage | None:
        """The coverage of a round whose record does not say it; None where nothing does."""
        try:
            scored = self._scored.get(score, {}).get(round)
            everybody = self.environment.get("clients") if self._draws else None
        except ConfigError:  # a file is broken; whoever shows what is in it says so
            return None
        if scored is None:
            return None
        missing = self._missing(score, round)
        drawn_from = everybody if everybody and everybody > self._draws else None
        return Coverage(len(scored.clients), len(scored.clients) + len(missing), drawn_from)

    @cached_property
    def _scored(self) -> dict[str, dict[int, _Scored]]:
        """Who was scored, by score and round."""
        scored: dict[str, dict[int, _Scored]] = {}
        for record in self.clients:
            for one in (record, *(record.get(kind) or {} for kind in FURTHER)):
                for name, values in (one.get("scores") or {}).items():
                    scored.setdefault(name, {})[record["round"]] = _Scored(one["clients"], one.get(MISSING), values)
        return scored

    @cached_property
    def _ever_scored(self) -> dict[str, set[int]]:
        """Who was scored in any round, by score."""
        return {name: {c for one in each.values() for c in one.clients} for name, each in self._scored.items()}

    @cached_property
    def _raised_in_scoring(self) -> dict[int, set[int]]:
        """Who raised when it was scored, by round."""
        return {
            record["round"]: {each["client"] for each in record.get("failures") or [] if _in_scoring(each)}
            for record in self.rounds
        }

    @property
    def _draws(self) -> int:
        """How many clients are drawn to be scored; 0 if all are."""
        return int((self.config.get("evaluate") or {}).get("clients") or 0)

    def _missing(self, score: str, round: int) -> list[int]:
        """Who is missing from a score in a round in which clients were scored."""
        scored = self._scored[score][round]
        if scored.missing is not None:
            return scored.missing
        # A version that did not say: who raised is missing, and who was scored in another round if all always are.
        here, anywhere = self._ever_scored[score], set[int]().union(*self._ever_scored.values())
        missing = self._raised_in_scoring.get(round, set()) - (anywhere - here)
        return sorted((missing if self._draws else missing | here) - set(scored.clients))

    def last(self, metric: str | None = None, statistic: str = "weighted_mean") -> dict[str, Point]:
        """For each score its value in the last round that has it; :meth:`scored` says over how many clients."""
        curves = self.scores(metric, statistic)
        return {name: Point(int(rounds[-1]), float(values[-1])) for name, (rounds, values) in curves.items()}

    def best(self, metric: str | None = None, statistic: str = "weighted_mean") -> dict[str, Point]:
        """For each score its best value and the first round that reached it; the smallest of a loss.

        It is chosen on the data that it reports; :meth:`validated` chooses by validation samples.

        A round whose value is not a number, as where no client could be scored, is never the best; where there is no
        other, the value is NaN. A round from whose mean clients are missing is the best only where there is none
        without such a gap; :meth:`coverage` says whether it is one.
        """
        metric = metric or self.usual
        best_points = {}
        for name, (rounds, values) in self.scores(metric, statistic).items():
            at = first_best(values, metric, self.complete(name, rounds)) or 0
            best_points[name] = Point(int(rounds[at]), float(values[at]))
        return best_points

    def validated(self, metric: str | None = None, statistic: str = "weighted_mean") -> dict[str, Point]:
        """For each score on test data its value in the first of the rounds that are best on validation samples.

        They are scored with the same model. A score is left out where there are no such scores. Rounds from whose means
        clients are missing, on validation samples or on test data, are chosen only where there are no others.
        """
        metric = metric or self.usual
        curves = self.scores(metric, statistic)
        points = {}
        for name, curve in curves.items():
            chooser = curves.get(validated_by(name))
            if on_validation(name) or chooser is None:
                continue
            finite = curve.rounds[np.isfinite(curve.values)]
            among = np.isin(chooser.rounds, finite)
            rounds = chooser.rounds[among]
            ranks = self.complete(validated_by(name), rounds).astype(int) + self.complete(name, rounds)
            at = first_best(chooser.values[among], metric, ranks)
            if at is not None:
                round = int(rounds[at])
                points[name] = Point(round, float(curve.values[curve.rounds == round][0]))
        return points

    def bests(self, metric: str | None = None) -> dict[str, dict[str, Point]]:
        """Each score's best by validation and best on test, by these words; see :meth:`validated` and :meth:`best`.

        The best on test is chosen on the data that it reports. A score on validation samples has its own best.
        """
        metric = metric or self.usual
        best = self.best(metric)
        validating = {name: point for name, point in best.items() if on_validation(name)}
        testing = {name: point for name, point in best.items() if name not in validating}
        return {BY_VALIDATION: {**self.validated(metric), **validating}, ON_TEST: testing}

    def kept_best(self, until: int | None = None) -> Point | None:
        """The round whose models ``evaluate.keep_best`` keeps, and the score that chose it.

        It is the choice of the run itself: where clients are missing from scores, one of an earlier version chose by
        the means alone.

        Args:
            until: as of this round; as of the last one if None.

        Returns:
            None where no models but the last round's are kept (yet).
        """
        metric = str((self.config.get("evaluate") or {}).get("keep_best") or "")
        curves = self.scores(metric) if metric else {}
        score = serving_score(curves, VALIDATION)
        if score is None:
            return None
        best = BestRound(Followed(score, metric))
        for record in self.rounds:
            best.add(int(record["round"]), record.get("scores") or {})
        return best.until(until)

    @property
    def stopped(self) -> Stopped | None:
        """How the run ended before its last round; None if it did not, or nothing readable says so."""
        try:
            how = self.environment.get("stopped")
        except ConfigError:  # whoever shows what is in the file says so
            return None
        if not isinstance(how, Mapping) or not {"round", "because"} <= how.keys():
            return None
        return Stopped(int(how["round"]), str(how["because"]))

    def costs(self, axis: Axis = "rounds") -> Series:
        """What the run had cost at the end of each round.

        Args:
            axis: ``rounds``; ``bytes`` sent to and from clients so far; ``seconds`` so far.
        """
        if axis not in COSTS:
            raise ConfigError(f"axis = {axis!r} is unknown: {nearest(str(axis), COSTS)}")
        rounds = np.array([record["round"] for record in self.rounds], np.int64)
        if axis == "rounds":
            return Series(rounds, rounds.astype(np.float64))
        each = [sum(record.get(key) or 0 for key in COSTS[axis]) for record in self.rounds]
        return Series(rounds, np.cumsum(each, dtype=np.float64))

    def client_scores(self, metric: str | None = None) -> dict[str, NDArray[np.float64]]:
        """Every client's own value in the last scored round, for each score that has it: ``[clients]``.

        Clients that could not be scored are not among them; :meth:`missing` names those.

        Raises:
            ConfigError: clients were scored, but with no such metric.
        """
        metric = metric or self.usual
        scores = {
            name: score for record in self._last_clients() for name, score in (record.get("scores") or {}).items()
        }
        columns = {name: _numbers(score[metric]) for name, score in scores.items() if metric in score}
        known = {key for score in scores.values() for key in score}
        if known and not columns:
            raise ConfigError(f"{self.path}: no client has a score {metric!r}: {nearest(metric, known)}")
        return columns

    def table(self, to: TableKind | None = None) -> Any:
        """One row per round; columns such as ``round``, ``train/cross_entropy``, ``personal/clients/accuracy/mean``.

        ``clients`` and ``failures`` are counts, and so is ``trained``, over how many of ``clients`` the terms' means
        are; ``personal/clients/scored`` and ``/of`` say over how many clients a score is, of how many. What a round
        lacks is NaN, or an empty word.

        Args:
            to: ``pandas`` for a DataFrame, ``numpy`` for a structured array. Without it a DataFrame, or a
                structured array and a warning where pandas is not installed.
        """
        rows = [dict(_flatten(record)) for record in self.rounds]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return _to_table({name: _column([row.get(name) for row in rows]) for name in names}, to)

    def client_table(self, to: TableKind | None = None) -> Any:
        """One row per client of the last scored round; columns such as ``samples``, ``personal/clients/loss``.

        A client that could not be scored has NaN. Where there are several domains, ``domain`` names each client's.

        Args:
            to: as for :meth:`table`.
        """
        columns: dict[str, NDArray[Any]] = {}
        records = self._last_clients()
        everybody = sorted({c for record in records for c in [*record["clients"], *record.get(MISSING, ())]})
        if records:
            columns["client"] = _column(everybody)
            if (domains := self.domains_of(everybody)) is not None:
                columns["domain"] = _column(domains)
        for record in records:
            scores = record.get("scores") or {}
            table: dict[str, NDArray[Any]] = {"client": _column(record["clients"])}
            if "samples" in record:
                data = {name.partition("/")[2] for name in scores} - {"clients"}
                table[f"{data.pop()}/samples" if data else "samples"] = _column(record["samples"])
            for name, score in scores.items():
                table |= {f"{name}/{metric}": _numbers(values) for metric, values in score.items()}
            sizes = {name: len(column) for name, column in table.items()}
            if len(set(sizes.values())) > 1:
                raise ConfigError(
                    f"{self.path / 'clients.jsonl'}: round {record['round']} has lists of unequal length: {sizes}"
                )
            for name, column in table.items():
                if len(column) == len(everybody):
                    columns[name] = column
                else:  # clients that hold nothing of this domain, or could not be scored
                    columns[name] = np.full(len(everybody), np.nan)
                    columns[name][np.searchsorted(everybody, table["client"])] = column
            columns["client"] = _column(everybody)
        return _to_table(columns, to)

    def domains_of(self, clients: Sequence[int]) -> list[str] | None:
        """Of which domain each client is, empty of one that is of none; None where there is one domain."""
        names, domain_of = self.environment.get("domains"), self.environment.get("domain_of")
        if not names or not domain_of or max(clients, default=0) >= len(domain_of):
            return None
        return [names[domain_of[client]] if domain_of[client] >= 0 else "" for client in clients]

    def _last_clients(self) -> list[Record]:
        """The clients' records of the last scored round, one for each kind of samples that they were scored on."""
        if not self.clients:
            return []
        last = self.clients[-1]
        return [last, *({"round": last["round"], **last[kind]} for kind in FURTHER if kind in last)]

    @property
    def profiled(self) -> list[Record]:
        """The rounds of which a profile was made."""
        return [record for record in self.rounds if record.get("profile")]

    def profile(self) -> Record:
        """Where the rounds' time went, on average, if the run was made with ``--profile``.

        Returns:
            ``actors`` and ``server``, seconds a round by part as in a round's record; ``rounds``, which were
            looked at: the first is left out if there are others, as steps are recorded and caches filled in
            it; ``steps``, mini-batches a round; and ``operations``, what recorded steps consist of, if known.

        Raises:
            ConfigError: no profile was made, or a file is broken.
        """
        rounds = self.profiled
        if not self.rounds:
            raise ConfigError(f"{self.path} holds no profile yet: no round is finished")
        if not rounds:
            raise ConfigError(f"{self.path} holds no profile: add --profile to fedtl run")
        rounds = rounds[1:] or rounds
        profile = _mean([{"steps": record["steps"], **record["profile"]} for record in rounds])
        profile["rounds"] = [record["round"] for record in rounds]
        if operations := _read_json(self.path / "operations.json"):
            profile["operations"] = operations
        return profile

    def last_round(self) -> int:
        """The last finished round.

        Raises:
            ConfigError: none is recorded.
        """
        if not self.rounds:
            raise ConfigError(f"{self.path}: its rounds.jsonl records no finished round")
        return int(self.rounds[-1]["round"])

    def state_dict(self, round: Literal["last", "best"] = "last") -> dict[str, torch.Tensor]:
        """The global model, for ``module.load_state_dict``.

        Args:
            round: the ``last``, or the ``best`` by validation, which ``evaluate.keep_best`` keeps.

        Raises:
            ConfigError: the run has not written it, or the file is broken.
        """
        check_round(round, "round")
        if round == "best" and not (self.config.get("evaluate") or {}).get("keep_best"):
            raise ConfigError(f"round = 'best': {self.path} {KEEPS_NONE}")
        name = "model.safetensors" if round == "last" else "best.safetensors"
        file = self.path / name
        if not file.exists():
            raise ConfigError(f"{self.path} holds no {name} (yet)")
        import torch

        from fedtl.disk.tensors import load_tensors

        return {name: torch.from_numpy(tensor) for name, tensor in load_tensors(file).items()}

    def __repr__(self) -> str:
        metric, last, _ = self._summary()
        scores = "".join(
            f", {name} {metric} {marked(f'{point.value:.4g}', self.coverage(name, point.round, metric))}"
            for name, point in last.items()
        )
        return f"<Run {self.path}: {self.method}, seed {self.seed}, {self._progress()}{scores}>"

    def _repr_html_(self) -> str:
        metric, last, bests = self._summary()
        columns = {header: points for header, points in {"last": last, **bests}.items() if points}
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td>"
            + "".join(f"<td>{self._shown(name, points.get(name), metric)}</td>" for points in columns.values())
            + "</tr>"
            for name in last
        )
        head = f"<tr><th>{html.escape(metric)}</th>" + "".join(f"<th>{header}</th>" for header in columns) + "</tr>"
        stopped = "" if self.stopped is None else f"<br>{html.escape(str(self.stopped))}"
        return (
            f"<b>{html.escape(self.name)}</b>: {html.escape(self.method)}, seed {self.seed}, {self._progress()}"
            f"<br><code>{html.escape(str(self.path))}</code>"
            + (f"<table>{head}{rows}</table>" if rows else "<br>no scored round yet")
            + stopped
        )

    def _shown(self, score: str, point: Point | None, metric: str) -> str:
        if point is None:
            return ""
        mark = str(self.coverage(score, point.round, metric) or "")
        return f"{point.value:.4g} (round {point.round}{f', {mark}' if mark else ''})"

    def _progress(self) -> str:
        done = self.rounds[-1]["round"] if self.rounds else 0
        if self.stopped is not None:
            return f"stopped after {done} of {self.config['rounds']} rounds"
        return f"{done} of {self.config['rounds']} rounds" if "rounds" in self.config else f"{done} rounds"

    def _summary(self) -> tuple[str, dict[str, Point], dict[str, dict[str, Point]]]:
        for metric in (self.metric, "accuracy", "loss"):
            try:
                return metric, self.last(metric), self.bests(metric)
            except ConfigError:  # a regression has no accuracy; and showing a run must never fail
                continue
        return "", {}, {}


KEEPS_NONE = "keeps the models of its last round only: set evaluate.keep_best = true for such a run"


def check_round(round: object, key: str) -> None:
    """Check that a round of which models are kept is named.

    Raises:
        ConfigError: it is none.
    """
    if round not in ("last", "best"):
        raise ConfigError(f"{key} = {round!r}: give 'last' or 'best'")


def term_of(task: object) -> str:
    """What a task is learnt by, as a run's config names it; cross-entropy where it names none that is known.

    Of a task of somebody's own it is not told, as nobody's code is imported to read a record.
    """
    name = task.get("name", "") if isinstance(task, Mapping) else task
    if ":" in str(name):
        return ""
    try:
        return read_task(task or "classification").term
    except ConfigError:
        return "cross_entropy"


def load(path: str | Path) -> Run:
    """Read the run in the folder ``path``.

    Raises:
        ConfigError: the folder holds no run, or one of its files is broken.
    """
    return Run(path)


def _read_config(folder: Path) -> Record:
    file = folder / "config.toml"
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder, so there is no run to read")
    if not file.is_file():
        raise ConfigError(f"{folder} is not a run's folder: it holds no config.toml")
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}") from error
    strategy = config.get("strategy")
    if not isinstance(strategy, dict) or "name" not in strategy:
        raise ConfigError(f"{file} is not a run's config: it names no strategy")
    return completed(config)


def _read_json(file: Path) -> Record:
    """What a file holds; empty where there is none."""
    if not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}") from error


def _read_lines(file: Path) -> list[Record]:
    """The records of a ``.jsonl`` file by round; of two for the same round the later one counts."""
    if not file.exists():
        return []
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    records: dict[int, Record] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records[int(record["round"])] = record
            _check_kinds(record)
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # no newline behind it: still being written, or cut off by a crash
                break
            raise ConfigError(f"{file}, line {number} is not a round's record: {_reason(error)}") from error
    return [records[key] for key in sorted(records)]


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("scores", "train", *FURTHER), dict),
    **dict.fromkeys(("clients", "failures"), list),
}
"""Of a record's parts, where it has them."""


def _check_kinds(record: Record) -> None:
    """Refuse what a hand, or a disk, has made of a record that is JSON all the same.

    Raises:
        TypeError: it names the part.
    """
    parts = {key: record.get(key) for key in _KINDS}
    for key, part in parts.items():
        if part is not None and not isinstance(part, _KINDS[key]):
            raise TypeError(f"its {key!r} is {shown(part)}")
    for kind, entries in (("scores", (parts["scores"] or {}).values()), ("failures", parts["failures"] or ())):
        for entry in entries:
            if not isinstance(entry, dict):
                raise TypeError(f"its {kind!r} has {shown(entry)}")
    for further in (parts[kind] for kind in FURTHER):
        if further is not None:
            _check_kinds(further)


def _reason(error: Exception) -> str:
    return "it has no 'round'" if isinstance(error, KeyError) else str(error)


def numbers_of(record: Record) -> dict[str, float]:
    """The numbers of a round's record by the names of the columns of :meth:`Run.table`; lists as their lengths."""
    flat = {name: value for name, value in _flatten(record) if name != "round"}
    return {name: _number(value) for name, value in flat.items() if not isinstance(value, str)}


def shared_metric(runs: Iterable[Run]) -> str:
    """What runs are shown by together: their common :attr:`Run.metric`, or accuracy where they differ."""
    metrics = {run.metric for run in runs}
    return metrics.pop() if len(metrics) == 1 else "accuracy"


def over_same_clients(runs: Iterable[Run], metric: str | None = None) -> bool:
    """Whether all these runs' last scores on clients' data are over the same clients, as far as that is known.

    Args:
        runs: of any methods.
        metric: whose mean is over those clients alone on whose samples it is defined.
    """
    sets: dict[str, set[frozenset[int]]] = {}
    for run in runs:
        for name, each in run._scored.items():
            last = each[max(each)]
            values = last.values.get(metric or "") or [0.0] * len(last.clients)
            defined = frozenset(client for client, value in zip(last.clients, values) if value is not None)
            sets.setdefault(name.partition("/")[2], set()).add(defined)
    return all(len(clients) == 1 for clients in sets.values())


def _in_scoring(failure: Record) -> bool:
    """Whether a client failed when it was scored, not in training."""
    return str(failure["message"]).startswith("scoring: ")


def _counts(coverages: Mapping[int, Coverage]) -> Counts:
    rounds = sorted(coverages)
    clients, of = ([getattr(coverages[round], key) for round in rounds] for key in ("scored", "of"))
    drawn = coverages[rounds[-1]].drawn_from if rounds else None
    return Counts(np.array(rounds, np.int64), np.array(clients, np.int64), np.array(of, np.int64), drawn)


def _number(value: Any) -> float:
    """A number; what JSON could not say (null) is NaN.

    Raises:
        ConfigError: it is none.
    """
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a run's record holds {value!r} where a number should be, as if it were damaged") from error


def _numbers(values: Iterable[Any]) -> NDArray[np.float64]:
    if not isinstance(values, Iterable) or isinstance(values, (str, Mapping)):
        raise ConfigError(f"a run's record holds {values!r} where a list should be, as if it were damaged")
    return np.array([_number(value) for value in values], np.float64)


def _series(points: list[Point]) -> Series:
    return Series(np.array([point.round for point in points], np.int64), _numbers(point.value for point in points))


def _mean(records: list[Record]) -> Record:
    """The means of numbers, nested alike; what one of them lacks is zero there."""
    mean: Record = {}
    for key in dict.fromkeys(key for each in records for key in each):
        values = [each[key] for each in records if key in each]
        if isinstance(values[0], Mapping):
            mean[key] = _mean([*values, *[{}] * (len(records) - len(values))])
        else:
            mean[key] = sum(values) / len(records)
    return mean


def _flatten(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Pairs of column name and value; the names of scores stand without a prefix, lists as their lengths."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, prefix if not prefix and key == "scores" else f"{prefix}{key}/")
    else:
        yield prefix.rstrip("/"), len(value) if isinstance(value, list) else value


def _column(values: list[Any]) -> NDArray[Any]:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values])
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    return _numbers(values)


def _to_table(columns: dict[str, NDArray[Any]], to: TableKind | None) -> Any:
    if to not in (None, "numpy", "pandas"):
        raise ConfigError(f"to = {to!r} is unknown: {nearest(str(to), ('numpy', 'pandas'))}")
    if to != "numpy":
        try:
            return importlib.import_module("pandas").DataFrame(columns)
        except ImportError as error:
            if to == "pandas":
                raise ConfigError("to = 'pandas': pandas is not installed: pip install 'fedtl[pandas]'") from error
            text = "pandas is not installed, so this is a numpy structured array; to='numpy' asks for it"
            warnings.warn(text, stacklevel=3)
    table = np.empty(len(next(iter(columns.values()), ())), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    return table
