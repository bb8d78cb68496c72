"""What tells groups of runs apart: the keys in which their configs differ, as short names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MODEL_WORDS = {"global": "global model", "personal": "personalised model"}
DATA_WORDS = {
    "server-test": "on the server's test data",
    "clients": "on the clients' test data",
    "target-server-test": "on the server's target test data",
    "target-clients": "on the clients' target test data",
    "validation-clients": "on the clients' validation data",
    "unseen-clients": "on unseen clients' test data",
    "unseen-target-clients": "on unseen clients' target test data",
}


def data_in_words(data: str) -> str:
    """The data that a score is on, by their name in its name, as ``"clients"``; empty if they are unknown."""
    kind, _, domain = data.partition("/")
    if not domain:
        return DATA_WORDS.get(kind, "")
    return {"held-out": f"on {domain}, which no client has", "clients": f"on the test data of {domain}'s clients"}.get(
        kind, ""
    )


Flat = dict[str, Any]
"""A config as dotted keys and values."""

NONE = "none"
METHOD, OPTIONS = "strategy.name", "strategy."
MOST_LISTED = 4


def flatten(table: Mapping[str, Any], prefix: str = "") -> Flat:
    """A config's values by dotted keys; a list of tables is its parts' names, and each part a table of its own."""
    flat: Flat = {}
    for key, value in table.items():
        path = prefix + key
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            names = [str(each.get("name") or each.get("term") or index + 1) for index, each in enumerate(value)]
            flat[f"{path}.name"] = " + ".join(names)
            for name, each in zip(names, value):
                flat |= flatten({k: v for k, v in each.items() if k not in ("name", "term")}, f"{path}.{name}.")
        else:
            flat[path] = value
    return flat


def differences(configs: Sequence[Flat]) -> list[dict[str, Any]]:
    """For each config the keys that tell it from the others, with its values.

    Options of a part, as ``data.partition.alpha``, are compared among configs that chose the same part. Options of a
    method are compared only where nothing else tells its configs apart: that FedAvg has no ``lam`` needs no saying
    beside pFedMe, nor that a method was tuned anew for another data set. :func:`unsaid` says what is left. An option
    that tells a method's configs apart somewhere is said of all of them, so that one of them has one name everywhere.
    """
    known = set().union(*configs)
    options = {key for key in known if key.startswith(OPTIONS) and key != METHOD}
    differing = [
        _differing(own, configs, sorted(known - options, key=lambda key: (key != METHOD, key))) for own in configs
    ]
    alike = [[other for other, its in zip(configs, differing) if its == each] for each in differing]
    methods = [repr(own.get(METHOD)) for own in configs]
    telling: dict[str, set[str]] = {}
    for own, peers, method in zip(configs, alike, methods):
        telling.setdefault(method, set()).update(_differing(own, peers, sorted(options)))
    of_method = {method: [own for own, its in zip(configs, methods) if its == method] for method in telling}
    return [
        each | _differing(own, of_method[method], sorted(telling[method]))
        for own, each, method in zip(configs, differing, methods)
    ]


def labels(differing: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[str]:
    """A short name for each config out of :func:`differences`; the method's where nothing differs."""
    short = short_keys({key for each in differing for key in each} - {METHOD})

    def word(key: str, value: Any) -> str:
        return _plain_method(value) if key == METHOD else f"{short[key]}={shown(value)}"

    names = [
        " ".join(word(key, value) for key, value in each.items()) or _plain_method(method)
        for each, method in zip(differing, methods)
    ]
    if len(set(names)) == len(names):
        return names
    # Classes of one name in two modules, files of one name in two folders.
    return [" ".join(f"{key}={value}" for key, value in each.items()) for each in differing]


def setting_labels(settings: Sequence[Mapping[str, Any]], equals: str = "=", between: str = " ") -> list[str]:
    """Settings in a few words, as ``"alpha=0.1 clients=20"``; by whole keys and values where they clash."""
    short = short_keys({key for each in settings for key in each})
    whole = [between.join(f"{key}{equals}{value}" for key, value in each.items()) for each in settings]
    names = [between.join(f"{short[key]}{equals}{shown(value)}" for key, value in each.items()) for each in settings]
    return names if len(set(names)) == len(set(whole)) else whole


def unsaid(configs: Sequence[Flat], differing: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Keys whose values differ, though the groups' names do not say so.

    Only those that most groups have, or that one method has twice: options of few methods may mean something else in
    each.
    """
    words = []
    for key in sorted(set().union(*configs)):
        by_value: dict[str, list[str]] = {}
        by_method: dict[str, set[str]] = {}
        for name, flat, each in zip(names, configs, differing):
            if key in flat and key not in each:
                value = shown(flat[key])
                by_value.setdefault(value, []).append(name)
                by_method.setdefault(str(flat.get(METHOD)), set()).add(value)
        common = 2 * sum(key in flat for flat in configs) > len(configs)
        if len(by_value) > 1 and (common or any(len(values) > 1 for values in by_method.values())):
            values = (f"{value} ({listed(having)})" for value, having in by_value.items())
            words.append(f"{key}: {', '.join(values)}")
    return words


def listed(names: Sequence[str]) -> str:
    """Names one after another; of many the first ones, and how many more there are."""
    if len(names) <= MOST_LISTED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_LISTED - 1])} and {len(names) - MOST_LISTED + 1} more"


def shown(value: Any) -> str:
    """A config's value in a name; of a path the last part."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "+".join(map(shown, value)) or NONE
    return str(value).rpartition("/")[2] or str(value)


def _differing(own: Flat, configs: Sequence[Flat], keys: Sequence[str]) -> dict[str, Any]:
    """Those of the keys in which some of the configs differ from each other, with this one's values."""
    known = set().union(*configs)
    values: dict[str, Any] = {}
    for key in keys:
        part = _part_of(key, known)
        if (part is not None and part not in own) or (key == "name" and key not in own):
            continue
        peers = configs if part is None else [each for each in configs if each.get(part) == own[part]]
        if len({repr(each.get(key)) for each in peers}) > 1:
            values[key] = own.get(key)
    return values


def _part_of(key: str, known: set[str]) -> str | None:
    """The key of the part's name, of which this is an option; None where it is no option of a named part."""
    *parents, last = key.split(".")
    if last == "name" and parents:
        parents.pop()
    while parents:
        if (name := ".".join([*parents, "name"])) in known:
            return name
        parents.pop()
    return None


def is_called(key: str, word: str) -> bool:
    """Whether a dotted key may be called so: by itself or its ending, of a part's name without ``.name``."""
    return any(each == word or each.endswith(f".{word}") for each in (key, key.removesuffix(".name")))


def _plain_method(value: Any) -> str:
    return str(value).rpartition(":")[2]


def short_keys(keys: set[str]) -> dict[str, str]:
    """For each key its shortest ending that no other key has."""
    words = {key: key.removesuffix(".name").split(".") for key in keys}
    short = {}
    for key, parts in words.items():
        for length in range(1, len(parts) + 1):
            ending = parts[-length:]
            if sum(other[-length:] == ending for other in words.values()) == 1:
                break
        short[key] = ".".join(parts[-length:])
    return short
