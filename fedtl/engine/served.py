"""The models that serve clients, made of downloads and memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from fedtl.clients.contract import ClientUpdate, Memory
from fedtl.clients.serving import Serving
from fedtl.engine.assignment import Assignment
from fedtl.engine.engine import PREDICTOR, Engine, Own
from fedtl.engine.task import PRIVATE, Failed, Outcome, Trained, of_method


def served(
    engine: Engine,
    which: Serving,
    cohort: Assignment,
    scoring: ClientUpdate[Any],
    eligible: NDArray[Any] | None,
    checked: Callable[[Outcome], Outcome],
) -> list[Own | Failed | None]:
    """Each client's own model; None where it has none, and the global one serves it; why it failed where making it did.

    An adapted one is what the client would have after taking part in the round: the same local update, the same
    samples, and nothing of it is kept; a client without samples to train on has none.

    Args:
        engine: of the phase.
        which: of their own models.
        cohort: what the clients received and remember, and the round that they would train in.
        scoring: the update that adapts a model.
        eligible: which clients hold something to train on; None if all do.
        checked: makes of a client whose model is not finite one that has failed.
    """
    places = range(len(cohort.clients))
    if which is Serving.NONE:
        return [None for _ in places]
    if which is not Serving.ADAPTED:
        return [_made(cohort.clients[place], partial(_as_it_is, engine, which, cohort, place)) for place in places]
    able = [place for place in places if eligible is None or eligible[cohort.clients[place]]]
    models: list[Own | Failed | None] = [None for _ in places]
    if able:
        adapting = replace(cohort, update=scoring).at(able)
        for at, (place, outcome) in enumerate(zip(able, map(checked, engine.train(adapting)))):
            if isinstance(outcome, Trained):
                make = partial(_model, engine, adapting, at, outcome.memory)
                models[place] = _made(outcome.client, make)
            else:
                models[place] = outcome
    return models


def _made(client: int, make: Callable[[], Own | None]) -> Own | Failed | None:
    """A client's own model; where the method raises as it makes it, that client alone has failed."""
    try:
        return make()
    except Exception as error:
        return Failed.by(client, error)


def _as_it_is(engine: Engine, which: Serving, cohort: Assignment, place: int) -> Own | None:
    """The own model of a client for which nothing is trained; None if it has none."""
    memory, begun = cohort.memories[place], cohort.update.serves_untrained
    if which is Serving.PARTIAL:
        sharing = engine.task.sharing
        first_values = begun and sharing is not None and not sharing.whole
        return _model(engine, cohort, place, memory) if first_values or PRIVATE in memory else None
    if not of_method(memory) and (memory or begun):
        client, received = cohort.clients[place], cohort.received.of(place)
        first = engine.of(client).memory_before(cohort.update, received, client, memory)
        if first and not begun:  # what its model was made of is forgotten, as the global one began anew
            return None
        memory = {**first, **memory}
    return _model(engine, cohort, place, memory) if memory else None


def _model(engine: Engine, cohort: Assignment, place: int, memory: Memory) -> Own:
    client = cohort.clients[place]
    return engine.of(client).own(cohort.update, memory, cohort.received.of(place), client)


def part_of_terms(engines: Sequence[Engine]) -> str | None:
    """What of a term is scored as the client's own model: a module, where the method itself gives it none.

    Or :data:`~fedtl.engine.engine.PREDICTOR`, whatever the method gives it.
    """
    if any(engine.task.objective.predictor for engine in engines):
        return PREDICTOR
    asked = [engine.task.objective.personal for engine in engines]
    return next((name for name in asked if name is not None), None)
