"""What a client is told with every message besides the round: which experiment this is, and its place in it.

It is told each time, as a client's processes may have been started anew since the last one.
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
        id: names it at the clients, who keep their memories of it under that name; a run that is gone on with
            has the same.
        experiment: the resolved config, as JSON.
        clients: N.
        client: whom this is told to.
        frame: what all samples have in common, as JSON; empty before it is known.
    """

    id: str
    experiment: str
    clients: int
    client: int = 0
    frame: str = ""

    def to(self, client: int) -> Study:
        """The same, told to another client."""
        return replace(self, client=client)

    def record(self) -> ConfigRecord:
        """As a part of a message, with a number that nobody else can guess.

        Flower names a message by a hash of its content, and takes a reply to a message from whoever knows its name;
        with that number only the client that received it does.
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
        """What a message says.

        Raises:
            ConfigError: it says nothing, or no study.
        """
        record = content.get(m.STUDY)
        if not isinstance(record, ConfigRecord):
            raise ConfigError("the message names no study, so it is not from fedtl deploy run")
        told: dict[str, Any] = dict(record)
        try:
            found = cls(told[ID], told[EXPERIMENT], told[POPULATION], told[CLIENT], told[FRAME])
        except KeyError as error:
            raise ConfigError(f"the message does not say {error.args[0]!r}; the server has another version?") from error
        words = (found.id, found.experiment, found.frame)
        if not all(isinstance(word, str) for word in words) or not names_a_folder(found.id):
            raise ConfigError("the message's study has no proper name")
        if not isinstance(found.client, int) or not isinstance(found.clients, int):
            raise ConfigError("the message does not say which client it is for")
        if not 0 <= found.client < found.clients:
            raise ConfigError(f"the message is for client {found.client} of {found.clients}")
        return found

    @functools.cached_property
    def tables(self) -> dict[str, Any]:
        """The experiment's tables, not looked at yet.

        Raises:
            ConfigError: it is none.
        """
        try:
            tables = json.loads(self.experiment)
        except (ValueError, RecursionError) as error:
            raise ConfigError("the study's experiment is garbled") from error
        if not isinstance(tables, dict):
            raise ConfigError("the study's experiment is no table")
        return tables


def names_a_folder(word: str) -> bool:
    """Whether a study's name leads nowhere else: it comes from another machine."""
    return re.fullmatch(r"[\w-][\w.-]{0,99}", word) is not None


def new_id(name: str) -> str:
    """A name for a new study of an experiment."""
    return f"{name[:60]}-{secrets.token_hex(4)}"
