"""How a client's data are read: by its own options, and by the [data] table of a config that it is given."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import Literal

from fedtl.choice import ConfigError
from fedtl.data.own.read import Own, read_own
from fedtl.data.sets.files import Files
from fedtl.data.settings import DataChoice
from fedtl.tasks import CLASSIFICATION, read_task


@dataclass(frozen=True)
class Reading:
    """What a client says itself; None where it says nothing.

    Attributes:
        task: what is predicted: a name, or a table of options as JSON or TOML.
        label: the column with it in .csv files, or several, separated by commas.
        size, channels, test_share: see :func:`~fedtl.data.own.read.read_own`.
    """

    task: str | None = None
    label: str | None = None
    size: int | None = None
    channels: Literal[1, 3] | None = None
    test_share: float | None = None

    def own(self, path: str, by: DataChoice | None) -> Own:
        """The client's data.

        Args:
            path: where they are.
            by: says what the client does not.

        Raises:
            ConfigError: they are not what they should be, or two words contradict each other.
        """
        task = CLASSIFICATION if by is None else by.task
        if self.task is not None:
            asked = _table(self.task)
            task = read_task(asked, "--task")
            if by is not None and type(task) is not type(by.task):
                raise ConfigError(f"--task = {task.name!r}: the config's data.task is {by.task.name!r}; leave it out")
            if by is not None and not isinstance(asked, str) and task != by.task:
                raise ConfigError(f"--task = {self.task}: the config's data.task has other options; leave it out")
        if not isinstance(by, Files):
            share = 0.25 if self.test_share is None else self.test_share
            return read_own(path, label=self.label, task=task, size=self.size, channels=self.channels, test_share=share)
        says: dict[str, object] = {"size": self.size, "channels": self.channels, "test_share": self.test_share}
        if self.label is not None:
            says["label"] = self.label if by.task.labelled else tuple(self.label.split(","))
        return by.model_copy(update={key: value for key, value in says.items() if value is not None}).own(path)


def _table(text: str) -> object:
    """A task's name, or its table."""
    if "{" not in text:
        return text
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return tomllib.loads(f"task = {text}")["task"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f'--task = {text!r}: give a name, or a table such as {{ name = "binary" }}') from error
