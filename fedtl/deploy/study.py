"""The part of each message that names the experiment and the client's place in it.

Every message has it, as the client's processes may have been restarted since the last one.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedtl.choice import ConfigError
from fedtl.wire import messages as m

ID, EXPERIMENT, FRAME, CLIENT, POPULATION, NONCE = "id", "experiment", "frame", "client", "clients", "nonce"


@dataclass(frozen=True)
class Study:
    """An experiment among real clients.

    Attributes:
        id: its name at the clients, who keep their memories of it under that name; a resumed run has the same.
        experiment: the resolved config, as JSON.
        clients: their number N.
        client: the number of the receiver.
        frame: the data schema, as JSON; empty before it is known.
    """

    id: str
    experiment: str
    clients: int
    client: int = 0
    frame: str = ""

    def to(self, client: int) -> Study:
        """The same for another client."""
        return replace(self, client=client)

    def record(self) -> ConfigRecord:
        """As a part of a message, with a number that nobody can guess.

        Flower identifies a message by a hash of its content, and accepts a reply from whoever knows that hash. With the
        number, only the client that received the message does.
        """
        return ConfigRecord(
            {
                ID: self.id,
                EXPERIMENT: self.experiment,
                POPULATION: self.clients,
                CLIENT: self.client,
                FRAME: self.frame,
                NONCE: secrets.token_hex(16),
            }
        )

    @classmethod
    def of(cls, content: RecordDict) -> Study:
        """The study of a message.

        Raises:
            ConfigError: the message has none, or an invalid one.
        """
        record = content.get(m.STUDY)
        if not isinstance(record, ConfigRecord):
            raise ConfigError("the message names no study, so it is not from fedtl deploy run")
        entries: dict[str, Any] = dict(record)
        try:
            study = cls(entries[ID], entries[EXPERIMENT], entries[POPULATION], entries[CLIENT], entries[FRAME])
        except KeyError as error:
            raise ConfigError(f"the message does not say {error.args[0]!r}; the server has another version?") from error
        words = (study.id, study.experiment, study.frame)
        if not all(isinstance(word, str) for word in words) or not names_a_folder(study.id):
            raise ConfigError("the message's study has no proper name")
        if not isinstance(study.client, int) or not isinstance(study.clients, int):
            raise ConfigError("the message does not say which client it is for")
        if not 0 <= study.client < study.clients:
            raise ConfigError(f"the message is for client {study.client} of {study.clients}")
        return study

    @functools.cached_property
    def tables(self) -> dict[str, Any]:
        """The experiment's tables, not validated.

        Raises:
            ConfigError: the experiment is no table.
        """
        try:
            tables = json.loads(self.experiment)
        except (ValueError, RecursionError) as error:
            raise ConfigError("the study's experiment is garbled") from error
        if not isinstance(tables, dict):
            raise ConfigError("the study's experiment is no table")
        return tables


def names_a_folder(word: str) -> bool:
    """Whether a study's name is a safe name of a folder, as it comes from another machine."""
    return re.fullmatch(r"[\w-][\w.-]{0,99}", word) is not None


def new_id(name: str) -> str:
    """A name for a new study of an experiment."""
    return f"{name[:60]}-{secrets.token_hex(4)}"
