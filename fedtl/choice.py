"""Choices by name: how a config names a part, and how the part is found and checked.

A part (a data set, a partition, a model, a method's settings, a loss term) is a pydantic model whose
fields are its options. A registry is a plain dict from a short name to ``"package.module:Class"``;
a config may also give such a path itself, so that nobody needs to edit a registry to use a class of
their own.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

Registry = Mapping[str, str]

MAIN = "__main__"
"""The module of what a notebook or a script defines itself."""


class ConfigError(ValueError):
    """What the user asked for cannot be done; the message is one sentence that says what would be right."""


LARGEST = 2**63 - 1
"""The largest whole number that TOML, NumPy and torch all know."""


class Options(BaseModel):
    """A table's options; unknown ones are errors, a number is a number, and the values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    older_names: ClassVar[Mapping[str, str]] = {}
    """Options' names in older versions, which configs and old runs may still use, with the present ones."""

    def without_use(self) -> Mapping[str, str]:
        """Options that do nothing beside the others, each with why."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _by_present_names(cls, table: Any) -> Any:
        """Read options by their older names."""
        if not isinstance(table, Mapping) or not (cls.older_names.keys() & table.keys()):
            return table
        for old, name in cls.older_names.items():
            if old in table and name in table:
                raise _WrongValueError(
                    f"is the older name of {name!r}, which is there too; leave it out", old, table[old]
                )
        return {cls.older_names.get(key, key): value for key, value in table.items()}

    @model_validator(mode="before")  # one of all fields would write those twice that are read by a function
    @classmethod
    def _numbers_are_numbers(cls, table: Any) -> Any:
        """Refuse what Python takes for a number of a field's kind: true for 1, and whole numbers without end."""
        numbers = _numbers_of(cls)
        for name, value in table.items() if isinstance(table, Mapping) else ():
            kinds = numbers.get(name, frozenset())
            if not kinds:
                continue
            for each in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(each, bool):
                    raise _WrongValueError("should be a number, not true or false", name, value)
                if isinstance(each, (int, float)) and int in kinds and LARGEST < abs(each) < math.inf:
                    raise _WrongValueError(f"should be no larger than {LARGEST}", name, value)
        return table


class _WrongValueError(ValueError):
    """What is wrong with a field's value, and which field that is."""

    def __init__(self, message: str, field: str, value: object) -> None:
        super().__init__(message)
        self.field, self.value = field, value


@functools.cache
def _numbers_of(model: type[BaseModel]) -> Mapping[str, frozenset[type]]:
    """The types of those fields that take numbers, and neither true nor false."""
    kinds = {name: _kinds(field.annotation) for name, field in model.model_fields.items()}
    return {name: types for name, types in kinds.items() if types & {int, float} and bool not in types}


def _kinds(annotation: Any) -> frozenset[type]:
    """The types that an annotation is made of."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return frozenset(map(type, inner))
    own = frozenset({annotation} if isinstance(annotation, type) else ())
    return own.union(*map(_kinds, inner))


class Choice(Options):
    """A named part with its options; one that is not its default and has no use beside the others is refused."""

    name: str

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        noted, unused = _NOTED.get(), self.without_use()
        if noted is not None:
            noted += noted_unused(self, unused, "")
            return self
        for option, why in unused.items():
            if _is_given(self, option):
                raise _WrongValueError(f"it has no effect, as {why}; leave it out", option, getattr(self, option))
        return self


_NOTED: ContextVar[list[str] | None] = ContextVar("noted", default=None)
"""Where options without effect are noted instead of refused; None where they are refused."""


@contextmanager
def as_recorded() -> Iterator[list[str]]:
    """Within, options that have no effect are noted and not refused, as earlier versions let them pass.

    Yields:
        A list that fills with lines, one for each such option; a line may come more than once.
    """
    noted: list[str] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def check_used(part: Choice, unused: Mapping[str, str], key: str) -> None:
    """Check that nothing is asked for that has no effect.

    Args:
        part: with its options.
        unused: options that have none, each with why.
        key: the part's place in the config.

    Raises:
        ConfigError: one of them is not its default, and it is no record that is read (:func:`as_recorded`).
    """
    noted = _NOTED.get()
    if noted is not None:
        noted += noted_unused(part, unused, key)
        return
    for option, why in unused.items():
        if _is_given(part, option):
            raise ConfigError(
                f"{key}.{option} = {shown(getattr(part, option))}: it has no effect, as {why}; leave it out"
            )


def noted_unused(part: Options, unused: Mapping[str, str], key: str) -> list[str]:
    """A line for each of these options that is not its default; as of :func:`check_used`, where the data decide it."""
    return [
        f"{_path(key, (option,))} = {shown(getattr(part, option))} has no effect: {why}"
        for option, why in unused.items()
        if _is_given(part, option)
    ]


def _is_given(part: Options, option: str) -> bool:
    """Whether an option is not its default; a resolved config has all of those too."""
    default = type(part).model_fields[option].get_default(call_default_factory=True)
    return bool(getattr(part, option) != default)


C = TypeVar("C", bound=BaseModel)
K = TypeVar("K", bound=Choice)
P = TypeVar("P")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known words: the one most like ``word``, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known here"


def cause(error: BaseException) -> str:
    """An exception as the end of a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_object(path: str, key: str) -> Any:
    """Import ``"package.module:Name"``; ``key`` is the config key that asked for it.

    The working directory is searched too, as it is for a script.

    Raises:
        ConfigError: the module or the name in it does not exist, or its import fails.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{key} = {shown(path)}: give 'package.module:Class'")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        what = "no such module" if module_name.startswith(missing) else f"it needs {missing!r}, which is not installed"
        raise ConfigError(f"{key} = {shown(path)}: {what}") from error
    except (Exception, SystemExit) as error:  # a script that has no main guard may end the process
        raise ConfigError(f"{key} = {shown(path)}: importing it failed: {cause(error)}") from error
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            if module_name == MAIN:
                raise ConfigError(
                    f"{key} = {path!r}: the notebook or script that defined it is not this process, which has no "
                    f"{part!r}; put it in a .py file and give 'file:{attribute}'"
                ) from None
            raise ConfigError(f"{key} = {shown(path)}: the module {module_name!r} has no {part!r}") from None
        except Exception as error:
            raise ConfigError(f"{key} = {shown(path)}: {part!r} cannot be had: {cause(error)}") from error
    return target


def resolve(registry: Registry, name: object, key: str) -> Any:
    """The class that ``name`` stands for: a registry's row, or a dotted path of the user's own.

    Raises:
        ConfigError: there is no such row, with the nearest name as a hint.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{key} = {shown(name)}: give one of {', '.join(sorted(registry))}, or 'package.module:Class'"
        )
    if name in registry:
        return load_object(registry[name], key)
    if ":" in name:
        return load_object(name, key)
    raise ConfigError(f"{key} = {shown(name)} is unknown: {nearest(name, registry)}")


def part_type(kind: type[P], registry: Registry, name: object, key: str) -> type[P]:
    """The subclass of ``kind`` that ``name`` stands for; see :func:`resolve`.

    Raises:
        ConfigError: there is no such row, or it is something else.
    """
    row = resolve(registry, name, key)
    if not (isinstance(row, type) and issubclass(row, kind)):
        raise ConfigError(f"{key} = {shown(name)}: it is no subclass of {kind.__module__}.{kind.__qualname__}")
    return row


def read_choice(kind: type[K], registry: Registry, table: object, key: str, example: str) -> K:
    """Read a part that a table, or a name alone, chooses.

    Args:
        kind: what it is a subclass of.
        registry: its known names.
        table: as the config has it: a table, a name alone, or the choice itself.
        key: its place in the config.
        example: of a table, for the message.

    Raises:
        ConfigError: the name is unknown or an option is wrong; ``key`` begins the message.
    """
    if isinstance(table, kind):
        return table
    table = {"name": table} if isinstance(table, str) else table
    if not isinstance(table, Mapping):
        raise ConfigError(f"{key} = {shown(table)}: give a table, as {example}, or a name")
    return validate(part_type(kind, registry, table.get("name"), f"{key}.name"), table, key)


def validate(model: type[C], table: Mapping[str, Any], key: str, owners: Callable[[str], str] | None = None) -> C:
    """Read ``table`` as ``model``; ``key`` is the table's own place in the config, for messages.

    Validators find it in their context, under ``"key"``: those that read a part in the table name its whole place.
    ``owners`` says, of an option that the model lacks, whose it is, in words; "" if it is nobody's.

    Raises:
        ConfigError: the first thing that is wrong, in one sentence: key, value, what would be right.
    """
    try:
        return model.model_validate(dict(table), context={"key": key})
    except ValidationError as error:
        raise ConfigError(explain(error, key, model, owners)) from error


def explain(
    error: ValidationError, key: str, model: type[BaseModel], owners: Callable[[str], str] | None = None
) -> str:
    """One sentence for the first of a pydantic error's findings; ``owners`` as in :func:`validate`."""
    first, *others = error.errors()
    if first["type"] in ("extra_forbidden", "missing"):
        path = _path(key, first["loc"])
        if first["type"] == "missing":
            return f"{path} is missing"
        known, word = _fields_at(model, first["loc"][:-1]), str(first["loc"][-1])
        if owners and len(first["loc"]) == 1 and (names := owners(word)):
            return f"{path} is not a key here: it is an option of {names}; known: {', '.join(sorted(known))}"
        return f"{path} is not a key here: {nearest(word, known)}"
    where, message, raised = _place(model, first["loc"]), _told(first), first.get("ctx", {}).get("error")
    if isinstance(raised, _WrongValueError):
        return f"{_path(key, (*where, raised.field))} = {shown(raised.value)}: {message}"
    if isinstance(raised, ConfigError) and where and message.startswith(_path(key, where)):
        return message  # of a part that was read there, and names its own key
    if where != first["loc"]:  # a union's members each say what they would take
        for other in others:
            if _place(model, other["loc"]) == where:
                message += f", or {_told(other).removeprefix('should be ')}"
    if not where:
        return f"{key}: {message}" if key else message
    return f"{_path(key, where)} = {shown(first['input'])}: {message}"


def _path(key: str, loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in (key, *loc) if part != "")


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """``loc`` without what pydantic adds for the member of a union, as ``constrained-int``."""
    place: list[int | str] = []
    fields = model.model_fields
    for part in loc:
        if isinstance(part, int):
            place.append(part)
        elif part in fields:
            place.append(part)
            inner = _table(fields[part].annotation)
            fields = inner.model_fields if inner else {}
    return tuple(place)


def _table(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, or may hold; None if it holds no table."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _told(finding: Any) -> str:
    """What pydantic found, as the end of a sentence."""
    if finding["type"] in ("model_type", "dict_type"):
        return "should be a table"
    if finding["type"] in ("tuple_type", "list_type"):
        return "should be a list"
    message = str(finding["msg"])
    for start in ("Value error, ", "Input ", "String "):
        message = message.removeprefix(start)
    return " ".join(message.split())


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    fields = model.model_fields
    for part in loc:
        inner = _table(fields[str(part)].annotation) if str(part) in fields else None
        if inner is None:
            return []
        fields = inner.model_fields
    return list(fields)


def shown(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def first_line(part: object) -> str:
    """The first line of a docstring, as ``fedtl list`` prints it."""
    line = (getattr(part, "__doc__", None) or "").strip().split("\n")[0].replace("``", "")
    return re.sub(r"[;,]? ?see :\w+:`[^`]*`|:\w+:`~?([^`]*)`", r"\1", line)
