"""A client's own process answers the server's messages: out of its data, which stay there, and its memory."""

from __future__ import annotations

import json
import logging
import re
import threading
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, MessageType, RecordDict

from fedtl.assemble.parts import make_worker
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Config, Tables
from fedtl.data.own.read import Own
from fedtl.data.own.statistics import statistics
from fedtl.data.schema import DataSchema
from fedtl.deploy.folders import ClientFolder
from fedtl.deploy.study import Study
from fedtl.disk.tensors import DamagedError
from fedtl.runs import record
from fedtl.runs.checkpoint import Checkpoint, Mark, read_mark
from fedtl.wire import messages as m
from fedtl.wire.worker import Reply, Worker

DESCRIPTION, SUMS, STATISTICS_OF = "description", "centred-sums", "statistics-of"
"""In answer to a query: what there is, as JSON; and sums for the normalisation, if the query asks for them.

The sums have a new key whenever they mean something else, so that another version's are refused and not misread.
"""

NAME = "name"

SUMS_FROM = 10
"""Training samples from which on a client tells their sums; those of few would tell the samples."""

FILES = ("file", "run", "pretrained")
"""Options that name files, which are a client's own where it trains."""

log = logging.getLogger("fedtl.client")


class Declined(Exception):  # noqa: N818
    """The client does not answer; the message is what the server is told of it, and holds nothing of its data."""


class ClientAgent:
    """Answers messages for one client, one after another.

    Args:
        own: the client's data.
        folder: its folder; studies' memories are in it.
        device: "cpu" or "cuda".
        approved: the one experiment that the client takes part in; in whichever is asked for, if None.
    """

    def __init__(self, own: Own, folder: ClientFolder, device: str, approved: Config | None = None) -> None:
        self.own, self.folder, self.device, self.approved = own, folder, device, approved
        self._one_at_a_time = threading.Lock()
        self._known: tuple[Study, Worker] | None = None

    def answer(self, kind: str, content: RecordDict) -> RecordDict:
        """The reply to a message.

        Args:
            kind: Flower's message type.
            content: what the server sent.

        Raises:
            Declined: there is none, for a reason that the server may know.
        """
        with self._one_at_a_time:
            try:
                study = Study.of(content)
                if study.client != self.folder.client:
                    raise Declined(f"it is client {self.folder.client} by its folder, not client {study.client}")
                self._check_agreed(study, content)
                if kind == MessageType.QUERY:
                    return self._described(str(m.config_of(content).get(STATISTICS_OF, "none")), study)
                return self._worked(kind, content, study)
            except Declined as error:
                log.warning("declined: %s", error)
                raise
            except Exception as error:
                log.exception("a message of type %s failed", kind)
                # What an error says may quote a sample, a label or a path.
                raise Declined(f"{type(error).__name__} at the client; its log says more") from error

    def _check_agreed(self, study: Study, content: RecordDict) -> None:
        """Look at what the server asks for before anything of it is built: that may import a module, or call it.

        Raises:
            Declined: it is not what the client agreed to, or nothing that anybody may ask for.
        """
        tables = study.tables
        if int(m.config_of(content).get(m.ROUND, 1)) > int(tables.get("rounds", 0)):  # type: ignore[arg-type]
            raise Declined("the round is beyond the experiment's last one")
        if self.approved is None:
            found = names_code(tables)
            if found is not None:
                raise Declined(
                    f"the experiment names code or files of the client's machine ({found}), which it uses only if it "
                    "agreed to: fedtl deploy client --config"
                )
        elif _asked(tables) != _asked(self.approved.tables()) or tables["rounds"] > self.approved.rounds:
            raise Declined("this experiment is not the one that the client agreed to")

    def _described(self, statistics_of: str, study: Study) -> RecordDict:
        about = {**self._own(study).describe(), NAME: self.folder.name}
        content = RecordDict({DESCRIPTION: ConfigRecord({DESCRIPTION: json.dumps(about)})})
        if statistics_of in ("dataset", "pixel"):
            if statistics_of != study.tables.get("data", {}).get("normalise", "dataset"):
                raise Declined("the sums that it is asked for are not those that the experiment needs")
            if study.tables.get("deploy", {}).get("privacy") or len(self.own.train) < SUMS_FROM:
                raise Declined(
                    f"it gives no sums of its samples with deploy.privacy, or of fewer than {SUMS_FROM}: give the "
                    "server a frame.json"
                )
            # Of all training samples, those for validation among them: the difference to another study's sums, with
            # another seed or share, would tell single samples.
            count, total, square = statistics(self.own, statistics_of)  # type: ignore[arg-type]
            content[SUMS] = m.pack_all(
                {"count": np.array([float(count)]), "total": total.ravel(), "square": square.ravel()}
            )
            log.info("told the server its data's sums for the normalisation by %s", statistics_of)
        return content

    def _own(self, study: Study) -> Own:
        """The client's data as the study divides them: a share of the training samples may be for validation."""
        share = study.tables.get("data", {}).get("validation_share", 0)
        try:
            return self.own.with_validation(share, study.tables.get("seed", 0), study.client)
        except ConfigError as error:
            raise self._does_not_go_with(error) from error

    def _worked(self, kind: str, content: RecordDict, study: Study) -> RecordDict:
        m.config_of(content).pop(m.KEEP, None)  # a server's word on this client's disk
        worker, round = self._worker(study), int(m.config_of(content).get(m.ROUND, 1))  # type: ignore[arg-type]
        log.info("%s: round %d, %s", study.id, round, kind)
        (reply,) = worker.handle(kind, content, (study.client,))
        self._keep(study, worker, content, round if kind == MessageType.EVALUATE else round - 1)
        return _told(reply)

    def _worker(self, study: Study) -> Worker:
        """The worker of a study; one is kept, as rounds of two studies seldom come by turns."""
        if self._known is None or self._known[0] != study:
            self._known = None
            self._known = study, self._begin(study)
        return self._known[1]

    def _begin(self, study: Study) -> Worker:
        try:
            config = build(study.tables)
        except ConfigError as error:
            raise self._cannot(error) from error
        frame = DataSchema.from_json(study.frame, "the server's frame")
        try:
            federation = self._own(study).as_federation(frame, study.client, study.clients)
        except ConfigError as error:
            raise self._does_not_go_with(error) from error
        folder = self.folder.studies / study.id
        recorder = record.Recorder(folder, durable=True)
        about = record.environment(client=self.folder.name, names=self._names(study), device=self.device)
        if (folder / "config.toml").exists():
            mark = _last_mark(folder)
            recorder.resume(config, about, mark)
            log.info("%s: goes on, with what it keeps of %s", study.id, f"round {mark.round}" if mark else "it")
        else:
            recorder.begin(config, about)
            log.info("%s: begins, in %s", study.id, folder)
        frame.write(folder / "frame.json")
        alone = config.simulation.model_copy(update={"stacked": False})
        try:
            worker = make_worker(
                config.model_copy(update={"simulation": alone}), federation, str(recorder.memories), self.device
            )
        except ConfigError as error:
            raise self._cannot(error) from error
        worker.store.durable = True
        return worker

    def _cannot(self, error: ConfigError) -> Declined:
        """An error's words may say what there is on this machine, so they stay here."""
        log.error("%s", error)
        return Declined("the experiment cannot be run at the client; its log says why")

    def _does_not_go_with(self, error: ConfigError) -> Declined:
        log.error("%s", error)
        return Declined("its data do not go with the experiment; its log says why")

    def _names(self, study: Study) -> list[str]:
        """The clients' names by their numbers, of which a client knows its own alone."""
        return [self.folder.name if client == study.client else "" for client in range(study.clients)]

    def _keep(self, study: Study, worker: Worker, content: RecordDict, round: int) -> None:
        """Keep the last global model, so that the client's own can be used without the server."""
        each = {name: rows[0] for name, rows in m.unpack_all(content, m.EACH).items()}
        received = {**m.unpack_all(content, m.ARRAYS), **each}
        w = received.pop(m.VECTOR, None)
        vector = worker.engine.task.sent(worker.initial).cpu().numpy() if w is None else w
        more = {f"{m.RECEIVED}{name}": np.asarray(tensor, np.float32) for name, tensor in received.items()}
        recorder = record.Recorder(self.folder.studies / study.id, durable=True)
        with record.writing(recorder.folder):
            recorder.checkpoint(Checkpoint(round, np.asarray(vector, np.float32), more, 0.0))


def _last_mark(folder: Path) -> Mark | None:
    """Of the last global model that a client kept for its own use; a damaged one comes again with the next message."""
    try:
        return read_mark(folder)
    except DamagedError as error:
        log.warning("%s %s: the next message brings it anew", error.file, error.what)
        return None


def _told(reply: Reply) -> RecordDict:
    """A worker's reply as it may travel."""
    content = reply.content
    if not isinstance(content, RecordDict):
        raise Declined(_without_data(str(content.reason)))
    failures = m.unpack_failures(content)
    if failures:
        for _, text in failures:
            log.error("training failed: %s", text)
        content[m.FAILURES] = m.pack_failures([(client, _without_data(text)) for client, text in failures])
    if sums := m.unpack_all(content, m.ARRAYS):  # of one client, in float64, which have float32's numbers
        content[m.ARRAYS] = m.pack_all({name: total.astype(np.float32) for name, total in sums.items()})
    return content


def _without_data(text: str) -> str:
    """What an error says, but for the words of whichever library raised it: these may quote a sample or a path."""
    kind = re.match(r"(\w+)(:|$)", text)
    return f"{kind[1]} at the client; its log says more" if kind else text


def names_code(tables: Tables, key: str = "") -> str | None:
    """Where an experiment names a module's function or a file, as ``key = value``; None if nowhere."""
    for name, value in tables.items():
        where = f"{key}.{name}" if key else name
        if name == "simulation":
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                if found := names_code(each, where):
                    return found
            elif isinstance(each, str) and (":" in each or name in FILES):
                return f"{where} = {each!r}"
    return None


def _asked(tables: Tables) -> Tables:
    """What of an experiment a client agrees to: all but how often, where, and who is waited for how long."""
    asked = {key: value for key, value in tables.items() if key not in ("rounds", "simulation", "device", "deploy")}
    return {**asked, "privacy": tables.get("deploy", {}).get("privacy")}
