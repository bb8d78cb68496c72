"""What a client is told with every message: read again as it was written, and anything else refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.deploy.study import Study, names_a_folder, new_id
from fedtl.wire import messages as m

TABLES: dict[str, Any] = {
    "name": "hospitals",
    "rounds": 2,
    "data": {"name": "digits", "clients": 3},
    "model": {"name": "logistic"},
    "strategy": {"name": "fedavg", "lr": 0.1},
}
STUDY = Study("hospitals-12ab", json.dumps(TABLES), 3, 1, '{"a": "é"}')


def message(study: Study, **changes: Any) -> RecordDict:
    """A message of a study, with entries changed; a None takes one away."""
    record = {**study.record(), **changes}
    return RecordDict({m.STUDY: ConfigRecord({key: value for key, value in record.items() if value is not None})})


def refused(content: RecordDict) -> str:
    with pytest.raises(ConfigError) as caught:
        Study.of(content)
    return str(caught.value)


def test_what_is_told_is_what_is_read() -> None:
    content = recorddict_from_proto(recorddict_to_proto(message(STUDY)))
    assert Study.of(content) == STUDY
    assert build(Study.of(content).tables) == build(TABLES)
    assert Study.of(message(STUDY.to(2))) == Study("hospitals-12ab", json.dumps(TABLES), 3, 2, '{"a": "é"}')


def test_no_two_messages_have_the_same_number() -> None:
    numbers = [str(STUDY.record()["nonce"]) for _ in range(100)]
    assert len(set(numbers)) == 100
    assert {len(bytes.fromhex(number)) for number in numbers} == {16}
    assert STUDY.record() != STUDY.record()


@pytest.mark.parametrize("name", ["a", "a-1", "_", "-", "study.v2-0badcafe", "étude", "x" * 100])
def test_names_of_studies(name: str) -> None:
    assert names_a_folder(name)
    assert Study.of(message(STUDY, id=name)).id == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "../x", "a/b", "/etc", "a\\b", "a b", "a\n", "a\0", "~", "a:b", "$HOME", "x" * 101],
)
def test_names_that_lead_elsewhere(name: str) -> None:
    assert not names_a_folder(name)
    assert refused(message(STUDY, id=name)) == "the message's study has no proper name"


def test_a_new_name_is_new_and_names_a_folder() -> None:
    names = {new_id("x" * 200) for _ in range(50)} | {new_id("a.b_c-d")}
    assert len(names) == 51
    assert all(map(names_a_folder, names))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"id": None}, "the message does not say 'id'; the server has another version?"),
        ({"frame": None}, "the message does not say 'frame'; the server has another version?"),
        ({"clients": None}, "the message does not say 'clients'; the server has another version?"),
        ({"id": 3}, "the message's study has no proper name"),
        ({"id": b"a"}, "the message's study has no proper name"),
        ({"experiment": [1.5]}, "the message's study has no proper name"),
        ({"client": "1"}, "the message does not say which client it is for"),
        ({"client": 1.0}, "the message does not say which client it is for"),
        ({"clients": [3]}, "the message does not say which client it is for"),
        ({"client": -1}, "the message is for client -1 of 3"),
        ({"client": 3}, "the message is for client 3 of 3"),
        ({"clients": 0}, "the message is for client 1 of 0"),
    ],
)
def test_garbled_messages(changes: dict[str, Any], sentence: str) -> None:
    assert refused(message(STUDY, **changes)) == sentence


def test_messages_of_somebody_else() -> None:
    none = "the message names no study, so it is not from fedtl deploy run"
    assert refused(RecordDict()) == none
    assert refused(RecordDict({m.STUDY: MetricRecord({"client": 1})})) == none


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        ("[]", "the study's experiment is no table"),
        ("null", "the study's experiment is no table"),
        ("", "the study's experiment is garbled"),
        ("{", "the study's experiment is garbled"),
        ("[" * 100_000, "the study's experiment is garbled"),
    ],
    ids=["list", "null", "nothing", "half", "no bottom"],
)
def test_an_experiment_that_is_none(experiment: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = Study("a", experiment, 3).tables
    assert str(caught.value) == sentence
