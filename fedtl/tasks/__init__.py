"""What clients learn to predict: tasks by name."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.choice import ConfigError, Registry, read_choice
from fedtl.tasks.contract import LearningTask, Tally
from fedtl.tasks.labels import Classification
from fedtl.tasks.outcomes import Outcomes

__all__ = ["CLASSIFICATION", "PER_SAMPLE", "TASKS", "Classification", "LearningTask", "Outcomes", "Tally", "read_task"]

CLASSIFICATION = Classification()
"""Where a config names no task."""

TASKS: Registry = {
    "binary": "fedtl.tasks.labels:Binary",
    "classification": "fedtl.tasks.labels:Classification",
    "multilabel": "fedtl.tasks.labels:Multilabel",
    "next_token": "fedtl.tasks.tokens:NextToken",
    "regression": "fedtl.tasks.numbers:Regression",
    "survival": "fedtl.tasks.numbers:Survival",
}


PER_SAMPLE = frozenset({"binary", "classification", "multilabel", "regression", "survival"})
"""The tasks of which a model gives one row of outputs a sample."""


def read_task(value: object, key: str = "data.task") -> LearningTask:
    """A task by its name, or a table with its name and options.

    Raises:
        ConfigError: there is no such task, it derives from none that there is, or it has no such option.
    """
    table = {"name": "classification", **value} if isinstance(value, Mapping) else value
    task = read_choice(LearningTask, TASKS, table, key, "data.task = 'binary'")
    if not hasattr(task, "kind"):
        raise ConfigError(
            f"{key}.name = {task.name!r}: a task of your own derives from one of {', '.join(TASKS)}, whose metrics, "
            "methods and terms are its own"
        )
    return task
