"""Experiments: run one, serve one on another grid, open its run, load its model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from flwr.serverapp import Grid
from torch import nn

from fedtl.assemble.chosen import Rules, chosen_on_test, names_of_scores, scored_data, unscored_domains
from fedtl.assemble.driver import Listener, Server, Silent
from fedtl.assemble.parts import (
    assemble,
    check_classes,
    check_sampled,
    check_widths,
    most_at_once,
    one_thread,
)
from fedtl.assemble.resources import Resources
from fedtl.choice import ConfigError, noted_unused
from fedtl.config.read import build_to_read, is_run, read_config
from fedtl.config.schema import Config
from fedtl.config.tracking import check_trackers
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.own.part import FRAME
from fedtl.data.samples import FewSamples
from fedtl.data.schema import DataSchema
from fedtl.disk.memories import Sizes
from fedtl.engine import EngineChoice, Task
from fedtl.engine.choice import Choices
from fedtl.models import build_model
from fedtl.models.composite import model_of
from fedtl.models.pretrained import check_whole, digest, notes_on_weights, weights_of
from fedtl.models.vector import buffers_not_kept
from fedtl.runs import record, resume
from fedtl.runs.best import BestRound
from fedtl.runs.checkpoint import Checkpoint
from fedtl.runs.history import Run, check_round
from fedtl.runs.lock import RunLock
from fedtl.strategies import strategy_type


def run(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    profile: bool = False,
    listener: Listener | None = None,
) -> Run:
    """Run an experiment to its end, or to an exception, which loses no finished round.

    Args:
        config: a TOML file, the name of a config that ships, a run's folder, tables, or a config.
        overrides: as on the command line, ``"strategy.lr=0.1"``.
        out: the run's folder; ``results/<name>/<time>-<seed>`` if not given.
        resume: resume a run that was interrupted: the one in ``out``, in the run's folder that ``config``
            names, or the newest of this config and seed. Where none has begun yet, one begins.
        profile: also record where each round's time goes, for :meth:`Run.profile`; no bit of the result changes.
        listener: called with each round.

    Returns:
        The run's records.

    Raises:
        ConfigError: the config is wrong, in one sentence.
        RunError: the run cannot go on: too many clients failed, or the disk is full.

    Warns:
        UserWarning: an option has no effect, or an override drops others, a warning for each.
    """
    read, notes = read_config(config, overrides)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return run_at(read, place_of(config, read, out, resume), profile, listener or Silent())


def run_at(config: Config, place: Place, profile: bool, listener: Listener) -> Run:
    """Run an experiment that has been read, at a place that has been found; see :func:`run`."""
    if profile and config.simulation.grid == "flower":
        raise ConfigError("--profile: simulation.grid = 'flower' cannot be profiled; use 'ray' or 'in-process'")
    check_trackers(config.tracking)
    server = open_run(config, federate(config.data, config.seed, config.trains_unlabelled), place, listener)
    server.profiled = profile
    with one_thread(server.resources.driver_device):
        server.run()
    return Run(server.recorder.folder)


def serve(config: Config, grid: Grid) -> Run:
    """Run an experiment on a grid of another's making: Flower's own runtimes."""
    # The process's own command line is Flower's, and holds a token.
    about = {"command": ["flwr", "run"], "grid": "flower", "actors": None}
    check_trackers(config.tracking)
    server = open_run(
        config, federate(config.data, config.seed, config.trains_unlabelled), Place(None), Silent(), about
    )
    server.run_on(grid)
    return Run(server.recorder.folder)


@dataclass(frozen=True)
class Place:
    """Where a run is written.

    Attributes:
        folder: the run's; None for a new one, ``results/<name>/<time>-<seed>``.
        resume: whether to resume the run that is there.
        named: whether the folder itself is where the config was read from.
        notes: what the user should know.
    """

    folder: Path | None
    resume: bool = False
    named: bool = False
    notes: tuple[str, ...] = ()


def open_run(
    config: Config,
    federation: Federation,
    place: Place,
    listener: Listener,
    about: Mapping[str, Any] | None = None,
    elsewhere: bool = False,
) -> Server:
    """Make a run's parts, and its folder or resume the run that is there.

    Args:
        config: the experiment.
        federation: what clients hold, as far as it is known here.
        place: where the run is written.
        listener: called with each round.
        about: recorded besides what is found here.
        elsewhere: clients and their samples are on other machines; this one only scores.

    Raises:
        ConfigError: the config is wrong, another process writes the run, or what is there is damaged.
    """
    check_sampled(config, federation)
    check_classes(config, federation)
    resources = Resources.of(_scoring_only(config) if elsewhere else config, most_at_once(config, federation))
    with federation.noted():
        assembly = assemble(config, federation)
    tasks = assembly.tasks
    check_widths(config, tasks)
    if elsewhere:
        assembly.check()  # each client would refuse it for itself, and only its own log would say why
        choices: Choices = (EngineChoice(False, False, "clients choose their own"),) * len(tasks)
    else:
        with one_thread(resources.worker_device):  # as clients train, and several would wait for each other's
            choices = assembly.choose_engines(resources.worker_device)
    layout = tasks[0].layout
    found_here = {
        "device": resources.worker_device,
        "gpu": torch.cuda.get_device_name() if resources.worker_device == "cuda" else None,
        "grid": config.simulation.grid,
        "actors": ("auto" if resources.elastic else resources.actors) if config.simulation.grid == "ray" else None,
        "engine": "; then ".join(dict.fromkeys(choice.name for choice in choices)),
        "engine_because": "; then ".join(dict.fromkeys(choice.because for choice in choices)),
        "clients": federation.clients,
        **({"unseen": federation.unseen.tolist()} if len(federation.unseen) else {}),
        "split": None if elsewhere else federation.fingerprint(),
        **_weights(config),
        "tests_trained_elsewhere": None if elsewhere else federation.share_trained_elsewhere,
        "parameters": layout.size,
        "notes": [
            *federation.notes,
            *resources.notes,
            *_of_weights(tasks),
            *_of_buffers(tasks),
            *_unused_by_models(config, federation),
            *_idle_terms(tasks),
            *([] if elsewhere else _cut_off_by_views(config, federation)),
            *chosen_on_test(config),
            *unscored_domains(assembly.strategy, federation),
        ],
    }
    if federation.domain_of is not None:
        about = {"domains": list(federation.domains), "domain_of": federation.domain_of.tolist(), **(about or {})}
    about = record.environment(**found_here | dict(about or {}))
    numbers = len(tasks[0].sent(layout.flatten(tasks[0].module)))
    memories = None if elsewhere else assembly.kept_memories()
    row = assembly.row_widths()
    keeps = Keeps(numbers, memories.sizes if memories else None, (lambda client, round: row) if row else None)
    scores = names_of_scores(assembly.strategy, federation, scored_data(federation, elsewhere))
    rules = Rules.of(config, scores)
    recorder, checkpoint, about = _open_record(config, place, about, keeps, rules, elsewhere)
    try:
        server = Server(assembly, resources, choices, recorder, checkpoint, listener, about, rules.stop)
        server.remembers = bool(row) or (memories is not None and memories.any)
        with record.writing(recorder.folder):
            last = checkpoint.round if checkpoint else 0
            server.store.forget_after(last)
            server.rows.forget_after(last)
    except BaseException as error:
        recorder.__exit__(type(error), error, None)
        raise
    return server


class Keeps(NamedTuple):
    """What a run keeps between rounds.

    Attributes:
        numbers: how many of the model travel.
        memories: what clients keep here; None where they are elsewhere.
        rows: what the server keeps of each client; None for nothing.
    """

    numbers: int
    memories: Sizes | None
    rows: Sizes | None


def _open_record(
    config: Config,
    place: Place,
    about: Mapping[str, Any],
    keeps: Keeps,
    rules: Rules,
    durable: bool,
) -> tuple[record.Recorder, Checkpoint | None, Mapping[str, Any]]:
    """Take a run's folder, and begin its record or go back to its last checkpoint; says what is recorded about it."""
    folder = place.folder or record.new_folder(Path("results"), config)
    recorder = record.Recorder(folder, durable, RunLock(folder))
    recorder.best = None if rules.best is None else BestRound(rules.best)
    try:
        if not place.resume:
            about = {**about, "notes": [*about["notes"], *place.notes]}
            recorder.begin(config, about)
            return recorder, None, about
        notes = resume.check_config(folder, config, not place.named)
        resume.check_split(folder, about["split"])
        resume.check_weights(folder, about.get(resume.WEIGHTS))
        there = resume.find(folder, keeps.numbers, keeps.memories, keeps.rows, rules.best)
        if there.checkpoint is not None and config.rounds < there.checkpoint.round:
            raise ConfigError(
                f"rounds = {config.rounds}: the run in {folder} has finished {there.checkpoint.round} already; give as "
                "many, or more"
            )
        if there.mark is not None:
            for rule in (rules.stop, recorder.best):
                if rule is not None:
                    resume.follow(rule, folder, there.mark)
            if (stopped := rules.stopped(config, folder, there.mark.round)) is not None:
                about = {**about, record.STOPPED: stopped._asdict()}
                notes = (*notes, f"{stopped}; to go on, raise stop.patience or give stop=none")
        about = {**about, "notes": [*about["notes"], *place.notes, *notes, *there.notes]}
        recorder.resume(config, about, there.mark)
        return recorder, there.checkpoint, about
    except BaseException as error:
        recorder.__exit__(type(error), error, None)
        raise


def _weights(config: Config) -> dict[str, list[str]]:
    """What says of the weights that the models begin with whether they are the same when the run is resumed."""
    models = [own.model for own in config.architectures()]
    each = [digest(weights_of(model.name, model.pretrained)) for model in models if model.pretrained is not None]
    return {resume.WEIGHTS: each} if each else {}


def _of_weights(tasks: Sequence[Task]) -> list[str]:
    """What the user should know of the weights that the models begin with."""
    return list(dict.fromkeys(note for task in tasks for note in notes_on_weights(model_of(task.module))))


def _of_buffers(tasks: Sequence[Task]) -> list[str]:
    """What the user should know of numbers of the models that no file of theirs will have."""
    return [
        f"model: no file of the model will have {', '.join(map(repr, names))}, which it leaves out of its state_dict; "
        "if training changes it or it is drawn, register it with persistent=True"
        for names in dict.fromkeys(tuple(buffers_not_kept(model_of(task.module))) for task in tasks)
        if names
    ]


def _unused_by_models(config: Config, federation: Federation) -> list[str]:
    """A line for each option of a model that does nothing to samples like these."""
    models = config.models_by_key.items()
    return [note for key, each in models for note in noted_unused(each, each.without_use_on(federation.shape), key)]


def _idle_terms(tasks: Sequence[Task]) -> list[str]:
    """A line for each term that can do nothing to the model that it is asked for with."""
    models = [(model_of(task.on(task.samples).module.train()), task.objective.terms) for task in tasks]
    idle = ((term.key, term.idle(model)) for model, terms in models for term in terms)
    return list(dict.fromkeys(f"the term {key!r} has no effect: {why}" for key, why in idle if why))


def _cut_off_by_views(config: Config, federation: Federation) -> list[str]:
    """A line where random views are made by transforms that take the samples for others than they are."""
    x = federation.x
    names = [] if config.views is None or "views" not in config.needs else config.views.from_0_to_1(federation.shape)
    if not names or x.dtype == np.uint8 or not x.size:
        return []
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1:
        return []
    return [
        f"views.transforms: to {' and '.join(names)} images lie from 0 to 1, and these lie from {low:g} to {high:g}: "
        "what is outside is cut off or changed; store bytes, scale the images, or name other transforms"
    ]


def _scoring_only(config: Config) -> Config:
    """The same experiment as a machine without clients sees it, which need not have the GPU that they have."""
    simulation = config.simulation.model_copy(update={"grid": "in-process"})
    return config.model_copy(update={"simulation": simulation, "device": "cpu" if config.device == "cpu" else "auto"})


def place_of(config: object, read: Config, out: str | Path | None, again: bool) -> Place:
    """Where a run is written, or resumed: see :func:`run`.

    Args:
        config: as it was named.
        read: what was read there.
        out: the run's folder, if it was given.
        again: whether to resume a run, if there is one.
    """
    named = isinstance(config, (str, Path)) and is_run(config)
    if out is not None:
        folder: Path | None = Path(out)
    elif again and named:
        folder = Path(str(config))
    else:
        folder = resume.newest_run(Path("results"), read) if again else None
    if not again:
        return Place(folder)
    if folder is None or not resume.begun(folder):
        where = f" in {folder}" if folder else ""
        notes = [f"--resume: no run of this config has begun yet{where}, so one begins"]
        if folder is None:
            notes += [
                f"{unread}/config.toml cannot be read; --resume --out {unread} resumes that run"
                for unread in resume.unreadable_runs(Path("results"), read)
            ]
        return Place(folder, notes=tuple(notes))
    same = named and folder.resolve() == Path(str(config)).resolve()
    return Place(folder, resume=True, named=same)


def load_model(run: Run, round: Literal["last", "best"] = "last") -> nn.Module:
    """The global model of a run, in evaluation mode.

    Args:
        run: the run.
        round: the ``last``, or the ``best`` by validation, which ``evaluate.keep_best`` keeps.

    Raises:
        ConfigError: the run's method trains no model for all clients, or the round's is not kept.
    """
    check_round(round, "round")
    config = build_to_read(dict(run.config))
    if not strategy_type(config.strategy.name).has_global_model():
        raise ConfigError(f"{run.path} is a run of {config.strategy.name!r}, which trains no global model to load")
    check_whole(str(run.path), "run")
    # Of a deployed run the config's data only stand in for the clients'; what those are like is written down.
    frame = run.path / FRAME
    federation = DataSchema.read(frame).without_samples(1) if frame.is_file() else federate(config.data, config.seed)
    return model_on(run, config, federation, round)


def model_on(run: Run, config: Config, federation: Federation, round: Literal["last", "best"] = "last") -> nn.Module:
    """The same where the run's config and its data have been read."""
    few = FewSamples.of(federation)
    module = build_model(
        config.model.untrained(), federation.shape, federation.outputs, config.seed, few, federation.task
    )
    module.load_state_dict(run.state_dict(round))
    return module.eval()
