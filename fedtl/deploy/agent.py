"""The client agent answers the server's messages from the client's data, which stay with it, and its memories."""

from __future__ import annotations

import json
import logging
import re
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict

from fedtl.assemble.parts import make_worker
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Config, Tables
from fedtl.data.columns import Columns
from fedtl.data.own.columns import ColumnRules, few, told
from fedtl.data.own.read import Own, Undecided
from fedtl.data.own.statistics import statistics
from fedtl.data.schema import DataSchema
from fedtl.data.views.normalise import needs_statistics
from fedtl.deploy.folders import ClientFolder
from fedtl.deploy.study import Study
from fedtl.deploy.weights import WEIGHTS, Sketch, packed, sketches
from fedtl.disk.tensors import DamagedError
from fedtl.moments import Sums
from fedtl.runs import record
from fedtl.runs.checkpoint import Checkpoint, CheckpointHeader, read_header
from fedtl.tasks import read_task
from fedtl.wire import messages as m
from fedtl.wire.worker import Reply, Worker

DESCRIPTION, SUMS, STATISTICS_OF = "description", "centred-sums", "statistics-of"
OUTCOME_SUMS = "outcome-sums"
"""Keys of a query and its reply: what the client holds, as JSON, and sums for normalisation, of samples and of what is
predicted of them, if the query wants them.

Whenever the meaning of the sums changes, so does their key: sums of another version are then refused, not misread.
"""

NAME = "name"

SUMMARIES, COLUMNS = "column-summaries", "columns"
"""Keys of a query and its reply: what the client says of its tables' columns, if the query wants it; and of a query
what these become by what all clients said."""

SUMS_FROM = 10
"""The fewest training samples whose sums a client sends; sums of fewer would reveal the samples. So of a column's
values."""

FILES = ("file", "run", "pretrained")
"""Options that name files; at a client they would name files of the client's machine."""

log = logging.getLogger("fedtl.client")


class Declined(Exception):  # noqa: N818
    """The client declines to answer. The server sees this message, so nothing of the data may be in it."""


class ClientAgent:
    """Answers messages for one client, one after another.

    Args:
        own: the client's data.
        folder: its folder, which holds the memories of studies.
        device: "cpu" or "cuda".
        approved: the only experiment that the client takes part in; None for any.
    """

    def __init__(self, own: Own, folder: ClientFolder, device: str, approved: Config | None = None) -> None:
        self.own, self.folder, self.device, self.approved = own, folder, device, approved
        self._one_at_a_time = threading.Lock()
        self._current: tuple[Study, Worker] | None = None
        self._first_weights = dict[str, Sketch]()
        """What of the current study's model nobody sends, as it was before any training."""

    def answer(self, kind: str, content: RecordDict) -> RecordDict:
        """The reply to a message.

        Args:
            kind: Flower's message type.
            content: what the server sent.

        Raises:
            Declined: the client does not answer, for a reason that the server may know.
        """
        with self._one_at_a_time:
            try:
                study = Study.of(content)
                if study.client != self.folder.client:
                    raise Declined(f"it is client {self.folder.client} by its folder, not client {study.client}")
                self._check_agreed(study, content)
                if kind == MessageType.QUERY:
                    return self._described(content, study)
                return self._run(kind, content, study)
            except Declined as error:
                log.warning("declined: %s", error)
                raise
            except Exception as error:
                log.exception("a message of type %s failed", kind)
                # The text of an error may quote a sample, a label or a path.
                raise Declined(f"{type(error).__name__} at the client; its log says more") from error

    def _check_agreed(self, study: Study, content: RecordDict) -> None:
        """Check the experiment before any of it is built: building may import a module, or call it.

        Raises:
            Declined: the client did not agree to the experiment, or it names code and the client agreed to none.
        """
        tables = study.tables
        if int(m.config_of(content).get(m.ROUND, 1)) > int(tables.get("rounds", 0)):  # type: ignore[arg-type]
            raise Declined("the round is beyond the experiment's last one")
        if self.approved is None:
            code = names_code(tables)
            if code is not None:
                raise Declined(
                    f"the experiment names code or files of the client's machine ({code}), which it uses only if it "
                    "agreed to: fedtl deploy client --config"
                )
        elif _agreement(tables) != _agreement(self.approved.tables()) or tables["rounds"] > self.approved.rounds:
            raise Declined("this experiment is not the one that the client agreed to")

    def _described(self, query: RecordDict, study: Study) -> RecordDict:
        asked = m.config_of(query)
        if asked.get(SUMMARIES):
            return self._summarised(study)
        whole = self._whole(study, str(asked.get(COLUMNS, "")))
        own = self._divided(whole, study)
        about = {**own.describe(), NAME: self.folder.name}
        content = RecordDict({DESCRIPTION: ConfigRecord({DESCRIPTION: json.dumps(about)})})
        if asked.get(OUTCOME_SUMS) and (sums := own.outcome_sums()) is not None:
            self._check_many(sums[0], study)
            content[OUTCOME_SUMS] = _packed(sums)
            log.info("sent the server the sums of what is predicted, by which it is standardised")
        if asked.get(WEIGHTS):
            self._worker(study)
            content[WEIGHTS] = packed(self._first_weights)
        statistics_of = str(asked.get(STATISTICS_OF, "none"))
        if needs_statistics(statistics_of):
            if statistics_of != study.tables.get("data", {}).get("normalise", "dataset"):
                raise Declined("the server asks for other sums than the experiment needs")
            self._check_many(len(whole.train), study)
            if (undecided := self.own.undecided) is not None:
                for name in few(told(undecided.summaries(), undecided.rules, SUMS_FROM)):
                    # What fills its gaps is known, and so the sum of its values would be.
                    raise Declined(f"the column {name!r} has a value in fewer than {SUMS_FROM} rows: it gives no sums")
            # Sums of all training samples, validation included. If validation were left out, the difference between
            # the sums of two studies with different seeds or shares would reveal single samples.
            content[SUMS] = _packed(statistics(whole, statistics_of))
            log.info("sent the server the sums of the data for normalisation by %s", statistics_of)
        return content

    def _check_many(self, samples: int, study: Study) -> None:
        """Check that sums over so many samples may be sent.

        Raises:
            Declined: they may not.
        """
        if study.tables.get("deploy", {}).get("privacy") or samples < SUMS_FROM:
            raise Declined(
                f"it gives no sums of its samples with deploy.privacy, or of fewer than {SUMS_FROM}: give the server a "
                "frame.json"
            )

    def _summarised(self, study: Study) -> RecordDict:
        """What the client says of its columns where all clients' decide what these become; else that it need not."""
        said = None
        if self.own.undecided is not None:
            rules = self._rules(self.own.undecided, study)
            if study.tables.get("deploy", {}).get("privacy"):
                raise Declined("it says nothing of its columns with deploy.privacy: give the server a frame.json")
            said = told(self.own.undecided.summaries(), rules, SUMS_FROM)
            log.info("told the server of each column what fills its gaps, or which words it has, follows from")
            for name in few(said):
                log.warning("but for the column %r, which has a value in fewer than %d rows", name, SUMS_FROM)
        tables = None if said is None else {name: asdict(one) for name, one in said.items()}
        about = {NAME: self.folder.name, SUMMARIES: tables}
        return RecordDict({SUMMARIES: ConfigRecord({SUMMARIES: json.dumps(about)})})

    def _rules(self, undecided: Undecided, study: Study) -> ColumnRules:
        """The client's rules for its columns, which are the study's too.

        Raises:
            Declined: they are not.
        """
        data, rules = study.tables.get("data", {}), undecided.rules
        asked = {key: data.get(key, getattr(ColumnRules, key)) for key in ("missing", "indicators", "categorical")}
        for key, value in asked.items():
            mine = getattr(rules, key)
            if mine != value and (key != "categorical" or sorted(mine) != sorted(value)):
                raise Declined(f"its tables are read by another data.{key} than the experiment's")
        return rules

    def _whole(self, study: Study, columns: str = "") -> Own:
        """The client's data as numbers, where all clients' columns decide what these are.

        Args:
            study: whose frame says what columns become, once it is known.
            columns: says it before.

        Raises:
            Declined: neither says it, or not of these columns; or other labels are class 1.
        """
        positive = study.tables.get("data", {}).get("positive")
        if positive is not None and self.own.positive is not None and {*positive} != {*self.own.positive}:
            raise Declined("its labels are read by another data.positive than the experiment's")
        if self.own.undecided is None:
            return self.own
        self._rules(self.own.undecided, study)
        try:
            said = json.loads(study.frame).get("columns") if study.frame else json.loads(columns or "null")
            if said is not None:
                return self.own.decided(Columns.from_list(said, "the server's columns"))
        except ConfigError as error:
            raise self._data_mismatch(error) from error
        except (ValueError, AttributeError) as error:
            raise Declined("what the server says of its columns is garbled") from error
        raise Declined(
            "what its columns become follows from all clients' rows, and neither these nor the server's frame.json say "
            "it"
        )

    def _divided(self, whole: Own, study: Study) -> Own:
        """The client's data as the study divides them: a share of the training samples may be for validation."""
        data = study.tables.get("data", {})
        try:
            task = read_task(data.get("task", "classification"))
        except ConfigError as error:
            raise self._cannot_run(error) from error
        try:
            own = whole.of_task(task)
        except ConfigError as error:
            log.error("%s", error)
            raise Declined(
                f"its data are read for data.task = {self.own.task.name!r}, and the experiment's is {task.name!r}; it "
                f"can be started with --task {task.name}"
            ) from error
        try:
            return own.with_validation(data.get("validation_share", 0), study.tables.get("seed", 0), study.client)
        except ConfigError as error:
            raise self._data_mismatch(error) from error

    def _run(self, kind: str, content: RecordDict, study: Study) -> RecordDict:
        m.config_of(content).pop(m.KEEP, None)  # the server does not decide how many memories this disk keeps
        worker, round = self._worker(study), int(m.config_of(content).get(m.ROUND, 1))  # type: ignore[arg-type]
        log.info("%s: round %d, %s", study.id, round, kind)
        (reply,) = worker.handle(kind, content, (study.client,))
        self._keep_global_model(study, worker, content, round if kind == MessageType.EVALUATE else round - 1)
        return _without_error_texts(reply)

    def _worker(self, study: Study) -> Worker:
        """The worker of a study. Only the latest is kept, as rounds of two studies rarely alternate."""
        if self._current is None or self._current[0] != study:
            self._current = None  # frees the old worker before the new one is built
            self._current = study, self._begin(study)
        return self._current[1]

    def _begin(self, study: Study) -> Worker:
        try:
            config = build(study.tables)
        except ConfigError as error:
            raise self._cannot_run(error) from error
        frame = DataSchema.from_json(study.frame, "the server's frame", config.data.task)
        try:
            whole = self._whole(study)
            own = self._divided(whole, study)
            federation = own.as_federation(frame, study.client, study.clients)
        except ConfigError as error:
            raise self._data_mismatch(error) from error
        for note in whole.notes:
            if note not in self.own.notes:  # which were said when it was started
                log.warning("%s", note)
        folder = self.folder.studies / study.id
        recorder = record.Recorder(folder, durable=True)
        about = record.environment(client=self.folder.name, names=self._names(study), device=self.device)
        if (folder / "config.toml").exists():
            mark = _last_mark(folder)
            recorder.resume(config, about, mark)
            log.info("%s: resumed%s", study.id, f" from the models of round {mark.round}" if mark else "")
        else:
            recorder.begin(config, about)
            log.info("%s: started, in %s", study.id, folder)
        frame.write(folder / "frame.json")
        alone = config.simulation.model_copy(update={"stacked": False})
        try:
            worker = make_worker(
                config.model_copy(update={"simulation": alone}), federation, str(recorder.memories), self.device
            )
        except ConfigError as error:
            raise self._cannot_run(error) from error
        self._first_weights = sketches(config, [stage.engine for stage in worker.stages], study.client)
        worker.store.durable, worker.shows_predictions = True, False
        return worker

    def _cannot_run(self, error: ConfigError) -> Declined:
        """The text of the error may describe this machine, so it stays in the log."""
        log.error("%s", error)
        return Declined("the experiment cannot be run at the client; its log says why")

    def _data_mismatch(self, error: ConfigError) -> Declined:
        log.error("%s", error)
        return Declined("its data do not go with the experiment; its log says why")

    def _names(self, study: Study) -> list[str]:
        """The clients' names in the order of their numbers; a client knows only its own."""
        return [self.folder.name if client == study.client else "" for client in range(study.clients)]

    def _keep_global_model(self, study: Study, worker: Worker, content: RecordDict, round: int) -> None:
        """Write the last global model to disk, so that the client can use its own model without the server."""
        each = {name: rows[0] for name, rows in m.unpack_all(content, m.EACH).items()}
        received = {**m.unpack_all(content, m.ARRAYS), **each}
        w = received.pop(m.VECTOR, None)
        vector = worker.engine.task.sent(worker.initial).cpu().numpy() if w is None else w
        more = {f"{m.RECEIVED}{name}": np.asarray(tensor, np.float32) for name, tensor in received.items()}
        recorder = record.Recorder(self.folder.studies / study.id, durable=True)
        with record.writing(recorder.folder):
            recorder.checkpoint(Checkpoint(round, np.asarray(vector, np.float32), more, 0.0))


def _packed(sums: Sums) -> ArrayRecord:
    count, total, square = sums
    return m.pack_all({"count": np.array([float(count)]), "total": total.ravel(), "square": square.ravel()})


def _last_mark(folder: Path) -> CheckpointHeader | None:
    """The mark of the last global model that the client kept; None if damaged: the next message replaces it."""
    try:
        return read_header(folder)
    except DamagedError as error:
        log.warning("%s %s: the next message replaces it", error.file, error.what)
        return None


def _without_error_texts(reply: Reply) -> RecordDict:
    """A worker's reply as it may be sent: errors without the text that a library gave them, uploads in float32."""
    content = reply.content
    if not isinstance(content, RecordDict):
        raise Declined(_without_data(str(content.reason)))
    failures = m.unpack_failures(content)
    if failures:
        for _, text in failures:
            log.error("training failed: %s", text)
        content[m.FAILURES] = m.pack_failures([(client, _without_data(text)) for client, text in failures])
    if sums := m.unpack_all(content, m.ARRAYS):  # sums over one client, so exact in float32
        content[m.ARRAYS] = m.pack_all({name: total.astype(np.float32) for name, total in sums.items()})
    return content


def _without_data(text: str) -> str:
    """An error reduced to its type, as the text that a library gave it may quote a sample or a path."""
    kind = re.match(r"(\w+)(:|$)", text)
    return f"{kind[1]} at the client; its log says more" if kind else text


def names_code(tables: Tables, key: str = "") -> str | None:
    """The first option that names a module's function or a file, as ``key = value``; None if there is none."""
    for name, value in tables.items():
        where = f"{key}.{name}" if key else name
        if name == "simulation":
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                if code := names_code(each, where):
                    return code
            elif isinstance(each, str) and (":" in each or name in FILES):
                return f"{where} = {each!r}"
    return None


def _agreement(tables: Tables) -> Tables:
    """What a client agrees to: not the number of rounds, what the server keeps and where, the machines, waiting."""
    free = ("rounds", "stop", "simulation", "device", "deploy", "tracking")
    agreed = {key: value for key, value in tables.items() if key not in free}
    evaluate = {key: value for key, value in tables.get("evaluate", {}).items() if key != "keep_best"}
    return {**agreed, "evaluate": evaluate, "privacy": tables.get("deploy", {}).get("privacy")}
