"""What a part's class says of itself: its docstring, its options, and the papers that it names."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedtl.choice import Choice, ConfigError, load_object

_SECTION = re.compile(r"^(Attributes|Args|Returns|Raises|Examples?|Note|Yields):\s*$")
_ENTRY = re.compile(r"^    ((?:\*{0,2}\w+)(?:, \w+)*)(?: \([^)]*\))?: (.*)$")
_SEE = re.compile(r"(?:[;,]? ?\bsee|\bSee)\s+:(?:func|class|meth):`~?([\w.]+)`\.?")
_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")
_NAME = r"[A-ZÀ-Ž][\w'’-]+"
_CITED = re.compile(rf"\b(?!arXiv)({_NAME}(?:(?:, {_NAME})*,? (?:and|&) {_NAME}| et al\.)),? \(?((?:19|20)\d\d)\b")


class Option(NamedTuple):
    """An option of a part, in words.

    Attributes:
        name: its key.
        default: as a config has it; "required" where there is none.
        meaning: a sentence; empty where nothing tells.
    """

    name: str
    default: str
    meaning: str


def prose(part: object) -> list[str]:
    """The paragraphs of a docstring before its sections, as plain text."""
    paragraphs, lines = list[str](), list[str]()
    for line in [*_before_sections(part), ""]:
        if line.strip() and not (line.lstrip().startswith("- ") and lines):
            lines.append(line.strip())
            continue
        if lines:
            paragraphs.append(_plain(" ".join(lines)))
        lines = [line.strip()] if line.strip() else []
    return [paragraph for paragraph in paragraphs if paragraph]


def functions_of(part: object) -> list[Callable[..., Any]]:
    """The functions that a part's docstring refers to, which say what it computes."""
    functions = list[Callable[..., Any]]()
    for path in _SEE.findall("\n".join(_before_sections(part))):
        module, _, name = path.rpartition(".")
        try:
            function = load_object(f"{module}:{name}", "see")
        except ConfigError:
            continue
        if inspect.isfunction(function):
            functions.append(function)
    return functions


def papers(*parts: object) -> list[str]:
    """The papers that docstrings name, in their order: addresses, and authors and years where there is none."""
    cited_papers = []
    for part in parts:
        text = inspect.cleandoc(getattr(part, "__doc__", None) or "")
        addresses = [f"https://arxiv.org/abs/{number}" for number in _ARXIV.findall(text)]
        cited_papers += addresses or [" ".join(cited) for cited in _CITED.findall(text)]
    return list(dict.fromkeys(cited_papers))


def options(kind: type[BaseModel], further: Sequence[object] = ()) -> list[Option]:
    """A part's options, its own before those that it shares with others.

    Args:
        kind: the class.
        further: functions whose arguments explain options that no class does.
    """
    meanings: dict[str, str] = {}
    for part in (*kind.__mro__, *further):
        for name, text in _entries(part).items():
            meanings.setdefault(name, text)
    names = [name for name in kind.model_fields if name not in ("name", "term")]
    if not issubclass(kind, Choice) and "name" in meanings:  # of a term, which the record calls so
        names.append("name")
    return [
        Option(name, _default(kind, name, field), "; ".join(filter(None, (meanings.get(name, ""), _allowed(field)))))
        for name in sorted(names, key=lambda name: _owner(kind, name))
        for field in (kind.model_fields[name],)
    ]


def _before_sections(part: object) -> list[str]:
    lines = inspect.cleandoc(part.__dict__.get("__doc__") or "" if isinstance(part, type) else part.__doc__ or "")
    result = []
    for line in lines.splitlines():
        if _SECTION.match(line):
            break
        result.append(line)
    return result


def _entries(part: object) -> Mapping[str, str]:
    """What a docstring's sections say of names: of a class its attributes, of a function its arguments."""
    text = part.__dict__.get("__doc__") if isinstance(part, type) else getattr(part, "__doc__", None)
    result: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(text or "").splitlines():
        if section := _SECTION.match(line):
            inside, names = section[1] in ("Attributes", "Args"), []
        elif inside and (entry := _ENTRY.match(line)):
            names = [name.strip() for name in entry[1].split(",")]
            result |= dict.fromkeys(names, _plain(entry[2]))
        elif inside and line.startswith("        "):
            result |= {name: f"{result[name]} {_plain(line.strip())}" for name in names}
        elif line.strip():
            inside = False
    return {name: text.rstrip(".") for name, text in result.items()}


def _owner(kind: type[BaseModel], option: str) -> int:
    """How far up the class stands that brings an option, or gives it another default."""
    return next(i for i, each in enumerate(kind.__mro__) if option in inspect.get_annotations(each))


def _default(kind: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(own := getattr(kind, f"default_{name}", None), Mapping):  # a table, which is read by a function
        return str(own.get("name", _shown(dict(own))))
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None:
        return "none"
    return _shown(value)


def _shown(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        changed = {key: each for key, each in value.model_dump(exclude_defaults=True).items() if each is not None}
        return str(
            getattr(value, "name", None) or f"{{ {', '.join(f'{k} = {_shown(v)}' for k, v in changed.items())} }}"
        )
    if isinstance(value, (tuple, list, frozenset)):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_shown(each)}' for key, each in value.items())} }}" if value else "{}"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _allowed(field: FieldInfo) -> str:
    """Which values an option takes, where its type says so."""
    words = []
    choices = [value for value in _literals(field.annotation) if isinstance(value, str)]
    if len(choices) > 1:
        words.append(f"one of {', '.join(_shown(value) for value in choices)}")
    for limit in field.metadata:
        for name, word in _LIMITS.items():
            # Greater ones are there for arithmetic's sake.
            if (value := getattr(limit, name, None)) is not None and abs(value) < 1e8:
                words.append(f"{word} {value:g}")
    return ", ".join(words)


def _literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return [value for inner in get_args(annotation) for value in _literals(inner)]
    return []


def _plain(text: str) -> str:
    """Text without the marks of reStructuredText."""
    text = _SEE.sub("", text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([\w]+)`", r"\1", text)
    text = re.sub(r"\(\s*\)", "", text)
    return re.sub(r"\s+([,;]|\.(?=\s|$))", r"\1", text.replace("``", "")).strip()
