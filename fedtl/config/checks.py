"""What must go together in a config, and what of it has no effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from fedtl.choice import ConfigError, check_used, nearest, noted_unused, shown
from fedtl.clients.settings import Settings
from fedtl.config.overrides import section_of
from fedtl.config.schema import Config, Tables
from fedtl.data.held_out import count_held_out
from fedtl.losses.objective import NEEDS, Objective, check_needs, needs_of
from fedtl.losses.term import Term
from fedtl.metrics import read_metrics
from fedtl.metrics.registry import BY_TASK
from fedtl.server.scores import on_validation
from fedtl.strategies import strategy_type


def check_removed(config: Config, key: str) -> None:
    """A key that ``none`` removed is gone, so nothing else would see that it is misspelt."""
    *path, last = key.split(".")
    at: Any = config
    for part in path:
        at = getattr(at, part, None)
    if isinstance(at, BaseModel) and last not in type(at).model_fields and at.model_config.get("extra") == "forbid":
        raise ConfigError(f"{key} is not a key here: {nearest(last, type(at).model_fields)}")


def without_effect(config: Config, tables: Tables, overridden: set[str], resolved: bool) -> list[str]:
    """Lines for keys that were asked for and that the method or the grid does not use."""

    def asked(section: str, key: str) -> bool:
        if key not in (section_of(tables, section) or {}):
            return False
        part: BaseModel = getattr(config, section)
        default = type(part).model_fields[key].default
        return not resolved or f"{section}.{key}" in overridden or getattr(part, key) != default

    notes = []
    method = config.strategy.name
    if asked("evaluate", "personal") and not strategy_type(method).client_update.personalises:
        why = f"{method} gives clients no model of their own"
        if config.strategy.private:
            why = f"a client's own model is always the global one with its own {_listed(config.strategy.private)}"
        notes.append(f"evaluate.personal has no effect: {why}")
    of_stages = [strategy_type(method).unused(stage.strategy) for stage in config.stages()]
    for option, why in strategy_type(method).unused(config.strategy).items():
        if any(option not in unused for unused in of_stages):  # a phase has options with which it does something
            continue
        if asked("strategy", option) and getattr(config.strategy, option) != ():
            notes.append(f"strategy.{option} has no effect: {why}")
    notes += [
        f"strategy.{option} has no effect: it acts from round {first} on, and there are {config.rounds} rounds"
        for option, first in strategy_type(method).begins(config.strategy).items()
        if first > config.rounds
    ]
    weights = [model.pretrained for model in (config.models or (config.model,))]
    if config.strategy.private and asked("strategy", "private_start") and all(weights):
        notes.append("strategy.private_start has no effect: with model.pretrained all clients begin alike")
    for i, (phase, stage) in enumerate(zip(config.phases, config.stages())):
        unused = of_stages[i]
        notes += [
            f"phases[{i}].strategy.{option} has no effect: it acts from round {first} on, and the phase ends with "
            f"round {stage.last}"
            for option, first in strategy_type(method).begins(stage.strategy).items()
            if option in phase.strategy and first > stage.last
        ]
        notes += [f"phases[{i}].strategy.{key} has no effect: {unused[key]}" for key in phase.strategy if key in unused]
        if phase.restart and not strategy_type(method).has_global_model():
            notes.append(f"phases[{i}].restart has no effect: under {method} no global model could begin anew")
    if not config.data.held_out_clients and asked("evaluate", "unseen_epochs"):
        notes.append("evaluate.unseen_epochs has no effect: all clients train; data.held_out_clients keeps some apart")
    elif asked("evaluate", "unseen_epochs") and not _have_own_models(config):
        notes.append(f"evaluate.unseen_epochs has no effect: {method} gives clients no model of their own")
    elif asked("evaluate", "unseen_epochs") and not _train_unseen(config):
        notes.append(
            f"evaluate.unseen_epochs has no effect: with these options of {method} a client that never trains is "
            "served without training"
        )
    drawn, holders = config.evaluate.clients, config.data.holders
    apart = 0 if holders is None else count_held_out(config.data.held_out_clients, holders)
    most = None if holders is None else max(holders - apart, apart)  # each kind is drawn from by itself
    if drawn is not None and most is not None and drawn >= most and asked("evaluate", "clients"):
        notes.append(f"evaluate.clients = {drawn} has no effect: there are {holders} clients, and all are scored")
    needs = config.needs | {
        each.on for stage in config.stages() for each in strategy_type(method).statistics(stage.strategy)
    }
    offers = {"views": config.views, "replay": config.replay, "data.public": config.data.public}
    if config.replay is not None and config.replay.after >= config.rounds:
        notes.append(
            f"replay has no effect: replay.after = {config.replay.after}, and there are {config.rounds} rounds"
        )
    notes += [
        f"data.partition: what comes from round {first} on has no effect, as there are {config.rounds} rounds"
        for first, _ in config.data.partition.later
        if first > config.rounds
    ]
    if not config.phases and "model:phase" in needs:
        notes.append("the model when the phase began is the run's first one: there is one phase; give [[phases]]")
    notes += [
        f"{key} has no effect: no term needs {NEEDS[need]}"
        for key, there in offers.items()
        if there is not None and (need := key.removeprefix("data.")) not in needs
    ]
    notes += _unused_of_terms(config)
    if config.replay is not None:
        notes += noted_unused(config.replay, config.replay.without_use(), "replay")
    if config.stop is not None and (scored := _scored_before_the_last(config)) <= config.stop.patience:
        of = "rounds of the last phase" if config.phases else "rounds"
        notes.append(
            f"stop has no effect: stop.patience = {config.stop.patience}, and {scored} {of} are scored before the last"
        )
    trained = [term for stage in config.stages() for term in stage.objective if term.weight]
    if trained and all(term.beside for term in trained):
        there = sorted({term.key for term in trained})
        only = f"{_listed(there)} only {'aligns or holds' if len(there) == 1 else 'align or hold'} it"
        notes.append(
            f"objective: nothing teaches the model to predict, as {only}: add {{ term = {config.data.task.term!r} }}"
        )
    grid = config.simulation.grid
    keys = [key for key in _UNUSED_BY_GRID.get(grid, ()) if asked("simulation", key)]
    if keys:
        names = ", ".join(f"simulation.{key}" for key in keys)
        notes.append(f"{names} {'has' if len(keys) == 1 else 'have'} no effect: the grid is {grid!r}")
    return notes


def _unused_of_terms(config: Config) -> list[str]:
    """A line for each option of a term that does nothing beside its others."""
    places = {
        stage.place(j): term for stage in config.stages() for j, term in enumerate(stage.objective[: stage.listed])
    }
    notes = []
    for place, term in places.items():
        notes += noted_unused(term, term.without_use(), place)
        if term.ramp and term.weight:
            notes += noted_unused(term.ramp, term.ramp.without_use(), f"{place}.ramp")
    return notes


def _have_own_models(config: Config) -> bool:
    """Whether clients have models of their own, or parts of the model."""
    if config.strategy.private or strategy_type(config.strategy.name).client_update.personalises:
        return True
    objectives = [Objective(stage.objective) for stage in config.stages()]
    return any(objective.personal or objective.predictor for objective in objectives)


def _train_unseen(config: Config) -> bool:
    """Whether clients that never train take steps in some phase to make their own model."""
    update = strategy_type(config.strategy.name).client_update
    return any(update.trains_unseen(stage.strategy) for stage in config.stages())


def _scored_before_the_last(config: Config) -> int:
    """How many rounds of the last phase are scored before its last one."""
    before = config.rounds - config.stages()[-1].rounds
    return (config.rounds - 1) // config.evaluate.every - before // config.evaluate.every


# Flower's simulation makes as many actors as its machine has room for.
_UNUSED_BY_GRID = {
    "in-process": ("actors", "num_cpus", "num_gpus", "address", "patience"),
    "flower": ("actors", "address", "patience"),
}


def check_phases(config: Config) -> None:
    """Check that no phase changes an option that is the same in all of them.

    Raises:
        ConfigError: one does.
    """
    for i, phase in enumerate(config.phases):
        for option in type(config.strategy).same_in_phases:
            if option in phase.strategy:
                raise ConfigError(f"phases[{i}].strategy.{option}: it is the same in all phases; give it in [strategy]")


def check_together(config: Config) -> None:
    """Check what no part of a config can know alone."""
    method = strategy_type(config.strategy.name)
    sampled, holders, unseen = config.strategy.clients_per_round, config.data.holders, config.data.held_out_clients
    apart = 0 if holders is None else count_held_out(unseen, holders)
    if sampled is not None and holders is not None and sampled > holders - apart:
        there = f"{holders} clients" if config.data.clients is None else f"data.clients = {config.data.clients}"
        if config.data.target is not None and config.data.target.clients is not None:
            there += f" and data.target.clients = {config.data.target.clients}"
        if apart:
            there += f", of which data.held_out_clients leaves {holders - apart} to train"
        raise ConfigError(f"strategy.clients_per_round = {sampled}: there are only {there}")
    if config.models:
        _check_models(config)
    _check_task(config)
    _check_models_options(config)
    _check_chosen_rounds(config)
    for stage in config.stages():
        asked = method.statistics(stage.strategy)
        if config.data.public is None and any(statistic.on == "public" for statistic in asked):
            raise ConfigError(
                f"strategy.name = {config.strategy.name!r}: its server learns from public data; there are none: set "
                "data.public"
            )
        check_needs(stage.objective, stage.place, lambda term, need: _missing(config, term, need))
    _check_terms(config)
    idle = [method.client_update.idle_under(stage.strategy, stage.objective) for stage in config.stages()]
    if all(idle):  # in no phase
        raise ConfigError(
            f"strategy.name = {config.strategy.name!r}: with this objective it trains as 'fedavg' does, as {idle[0]}, "
            "or use 'fedavg'"
        )
    if method.pools:
        _check_pools(config)
    if config.deploy.privacy is not None:
        _check_privacy(config)
    _check_parts(config)
    if method.client_update.makes_for_scoring() and config.evaluate.personal == "stored":
        raise ConfigError(
            f"evaluate.personal = 'stored': {config.strategy.name} always makes a client's own model of the present "
            "global one, when it is scored; use 'adapted'"
        )


def _check_task(config: Config) -> None:
    """Check that the metrics, the method and its terms are defined for what is predicted."""
    read_metrics(config.evaluate.metrics, config.data.task.kind)
    task, method = config.data.task, strategy_type(config.strategy.name)
    if "accuracy" in config.evaluate.metrics and not task.has_accuracy:
        raise ConfigError(
            f"evaluate.metrics = 'accuracy': with data.task = {task.name!r} a prediction is neither right nor wrong; "
            f"there is {', '.join(BY_TASK[task.kind])}"
        )
    if task.whole and any(getattr(stage.strategy, "batch_size", None) == 1 for stage in config.stages()):
        raise ConfigError(
            f"strategy.batch_size = 1: with data.task = {task.name!r} a mini-batch's samples are compared; set it to 2 "
            "or more"
        )
    for tasks in (method.tasks, method.client_update.tasks):
        if tasks is not None and task.kind not in tasks:
            raise ConfigError(
                f"strategy.name = {config.strategy.name!r}: it is defined for {_listed(sorted(tasks))}, and data.task "
                f"is {task.name!r}"
            )
    for stage in config.stages():
        for j, term in enumerate(stage.objective):
            tasks = term.defined_for()
            if tasks is not None and task.kind not in tasks:
                raise ConfigError(
                    f"{stage.place(j)}: the term {term.key!r} is defined for {_listed(sorted(tasks))}, and data.task "
                    f"is {task.name!r}, which is learnt by {task.term!r}"
                )


def _check_models_options(config: Config) -> None:
    """Check that no option of a model does nothing for what is predicted."""
    task = config.data.task
    for key, model in config.models_by_key.items():
        fit = model.for_task(task)
        if fit is not model:
            why = {option: f"{why} with data.task = {task.name!r}" for option, why in fit.without_use().items()}
            check_used(fit, why, key)
        if getattr(model, "per_token", False) and not task.per_token:
            raise ConfigError(
                f"{key}.per_token = true: with data.task = {task.name!r} one thing is predicted of a sample, not of "
                "each of its positions; leave it out"
            )


def _check_chosen_rounds(config: Config) -> None:
    """Check that rounds can be chosen by validation samples; by test data only where a score on them is named."""
    stop, scored = config.stop, config.scored
    for key, metric in config.chosen_by.items():
        if metric.partition("/")[0] not in scored:  # "recall_by_class/3" is one of a metric's
            raise ConfigError(f"{key} = {shown(metric)}: models are not scored by it: {nearest(metric, scored)}")
        config.metrics.check_one(key, metric)
    if config.data.validation_share:
        return
    if stop is not None and (stop.score is None or on_validation(stop.score)):
        raise ConfigError(
            "stop: the last round is chosen by validation samples, and there are none: set data.validation_share, or "
            "name a score on test data in stop.score"
        )
    if config.evaluate.keep_best is not None:
        raise ConfigError(
            "evaluate.keep_best: the best round is chosen by validation samples, and there are none: set "
            "data.validation_share"
        )


def no_private(settings: Settings) -> str:
    """Why no part of the model can stay at clients under a method with these options; empty where parts may."""
    name, method = settings.name, strategy_type(settings.name)
    if why := settings.no_private():
        return why
    if method.pools:
        return f"under {name} {IN_ONE_PLACE}"
    if more := method.client_update.more_than_a_model():
        return f"under {name} clients upload {more}, which is not offered with private parts"
    return f"{name} trains a model of which every part travels" if method.client_update.needs_whole_model else ""


IN_ONE_PLACE = "all training samples are in one place, and nothing stays at clients"


def _check_parts(config: Config) -> None:
    """Check that parts of the model stay at clients only where the model is all that travels."""
    if config.strategy.private and (why := no_private(config.strategy)):
        raise ConfigError(f"strategy.private = {shown([*config.strategy.private])}: {why}; leave private out")


def _check_pools(config: Config) -> None:
    """Check that nothing is to stay at clients, where all samples are in one place."""
    why = f"under {config.strategy.name} {IN_ONE_PLACE}"
    for stage in config.stages():
        for j, term in enumerate(stage.objective):
            if term.weight and term.personal_module():
                raise ConfigError(f"{stage.place(j)}: the term {term.key!r} gives clients a model of their own; {why}")


def _check_models(config: Config) -> None:
    """Check that nothing asks for one model where clients have several."""
    if strategy_type(config.strategy.name).client_update.uploads():
        raise ConfigError(
            f"models: clients have unlike models, and {config.strategy.name!r} sends all of them one; use a method "
            "that sends none, as 'local'"
        )
    for stage in config.stages():
        for j, term in enumerate(stage.objective):
            if shared := needs_of(term) & {"model:global", "model:phase"}:
                what = NEEDS[min(shared)]
                raise ConfigError(f"{stage.place(j)}: the term {term.key!r} needs {what}; with models there is none")


def _check_terms(config: Config) -> None:
    """Check what terms need of each other and of the method.

    Raises:
        ConfigError: they do not go together.
    """
    known: dict[str, tuple[str, Term]] = {}
    method, private = strategy_type(config.strategy.name), config.strategy.private
    sends = method.has_global_model()
    same = method.pools and getattr(config.strategy, "server", "none") == "none"  # what client 0 trained comes back
    for stage in config.stages():
        key, predictor = stage.key, Objective(stage.objective).predictor
        if not any(term.weight for term in stage.objective):
            raise ConfigError(f"{key}: no term has a weight above 0, so nothing would be trained")
        for j, term in enumerate(stage.objective):
            place = stage.place(j)
            where, before = known.setdefault(term.key, (place, term))
            if term.brings() and (others := _of_other_modules(before, term)):
                if j >= stage.listed:
                    raise ConfigError(
                        f"{key.removesuffix('.objective')}.strategy: the term {term.key!r} of {place} has modules that "
                        f"are the same in all phases, and would have another {_listed(others)}; give it in [strategy]"
                    )
                raise ConfigError(
                    f"{place}: the term {term.key!r} stands in {where} with other options; give one of them a name"
                )
            needs = needs_of(term)
            for need in sorted(needs & {"model:global", "model:phase"}):
                if not sends:
                    raise ConfigError(
                        f"{place}: the term {term.key!r} needs {NEEDS[need]}; under {config.strategy.name} "
                        "clients receive none"
                    )
            if "model:phase" in needs and private:
                raise ConfigError(
                    f"{place}: the term {term.key!r} needs {NEEDS['model:phase']}, and of that "
                    f"{_who_keeps(config)} leaves a part at clients, where it goes on changing: leave one of them out"
                )
            if term.weight and term.personal_module() and predictor is not None:
                raise ConfigError(
                    f"{place}: the term {term.key!r} gives clients a model of their own, and so does "
                    f"{predictor.key!r}: leave one of them out"
                )
            if term.weight and (why := term.idle_under(private, same)):
                raise ConfigError(
                    f"{place}: the term {term.key!r} does nothing under {config.strategy.name}: {why}; leave it out"
                )
            if term.weight and term.personal_module() and private:
                raise ConfigError(
                    f"{place}: the term {term.key!r} gives clients a model of their own, and so does "
                    f"{_who_keeps(config)}: leave one of them out"
                )


def _of_other_modules(one: Term, other: Term) -> list[str]:
    """The options by which the modules of two terms, or their statistics, may differ."""
    dumped = [term.model_dump(exclude={"weight", "ramp"}) for term in (one, other)]
    counts = None if other.of_modules is None else {"term", *other.of_modules}
    names = [name for name in {**dumped[0], **dumped[1]} if counts is None or name in counts]
    return [name for name in names if dumped[0].get(name) != dumped[1].get(name)]


def _check_privacy(config: Config) -> None:
    """Check that all that clients upload is one model: nothing else would be clipped and noised."""
    method = strategy_type(config.strategy.name)
    if not method.client_update.uploads():
        raise ConfigError(
            f"deploy.privacy: {config.strategy.name} uploads nothing that noise could protect; leave it out"
        )
    if more := method.client_update.more_than_a_model():
        raise ConfigError(
            f"deploy.privacy: under {config.strategy.name} clients upload {more}, which would travel without noise; "
            "leave it out"
        )
    for stage in config.stages():
        for statistic in Objective(stage.objective, method.statistics(stage.strategy)).statistics:
            raise ConfigError(
                f"deploy.privacy: {statistic.name!r} asks clients for sums over their samples, which would travel "
                "without noise; leave one of them out"
            )
        for term in stage.objective:
            for need in sorted(needs_of(term) & {"model:phase", "replay"}):
                raise ConfigError(
                    f"deploy.privacy: the term {term.key!r} needs {NEEDS[need]}, and Flower's LocalDpMod has messages "
                    "with one model only; leave one of them out"
                )


def _missing(config: Config, term: Term, need: str) -> str | None:
    """Why no client can meet a term's need, and what would change that; None where one can."""
    data, needs = config.data, needs_of(term)
    unlabelled = data.target is not None or data.labelled_fraction < 1
    if need == "target" and not unlabelled:
        return "client data have none: set data.target, or data.labelled_fraction below 1"
    if need == "source" and data.labelled_fraction == 0:
        return "client data have none: raise data.labelled_fraction above 0"
    if {"source", "target"} <= needs and need == "target" and data.target and data.target.clients is not None:
        return (
            "and clients with a source hold none, as data.target.clients gives it to others: leave that out, or use a "
            "term that needs only one of them (remote_coral, remote_cmd)"
        )
    if need == "views" and config.views is None:
        return "there are none: add a table [views], which may be empty"
    if need == "public" and data.public is None:
        return "there are none: set data.public"
    if need == "replay":
        return _without_replay(config)
    return None


def _without_replay(config: Config) -> str | None:
    """Why there are no synthesised samples, and what would change that; None where there are."""
    if config.replay is None:
        return "there are none: add a table [replay], which may be empty"
    if not strategy_type(config.strategy.name).has_global_model():
        return f"they are made of the global model, and {config.strategy.name!r} sends none: use another method"
    if config.strategy.private:
        return (
            f"they are made of the global model, and of that {_who_keeps(config)} leaves a part at clients: leave one "
            "of them out"
        )
    return None


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(parts)


def _who_keeps(config: Config) -> str:
    """What leaves parts of the model at clients: the option, or the method whose default it is."""
    default = type(config.strategy).model_fields["private"].default
    return config.strategy.name if config.strategy.private == default else "strategy.private"
