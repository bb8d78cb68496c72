"""The model of a run, for use elsewhere: the global one, or a client's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor, nn

from fedtl import __version__
from fedtl.assemble.parts import Assembly, assemble, make_engines, make_tasks, one_thread, worker_of
from fedtl.choice import ConfigError, nearest
from fedtl.clients.contract import ClientUpdate
from fedtl.clients.serving import OLDER, Serving, serving
from fedtl.config.read import build_to_read
from fedtl.config.schema import Config
from fedtl.data.federate import federate
from fedtl.data.own.part import FRAME
from fedtl.data.samples import FewSamples
from fedtl.data.schema import DataSchema
from fedtl.disk.memories import MemoryStore
from fedtl.disk.tensors import DamagedError, load_tensors
from fedtl.engine import EngineChoice, Failed, Task
from fedtl.engine.plan import trains
from fedtl.export.features import device_of
from fedtl.export.file import FORMAT, About, Exported, Personal, load_exported, rebuilt
from fedtl.export.predictor import described
from fedtl.failure import RunError
from fedtl.losses.term import Term, module_name
from fedtl.models import ModelChoice
from fedtl.models.composite import Composite, model_of
from fedtl.models.trial import outputs_differ
from fedtl.models.vector import buffers_not_kept
from fedtl.runs.checkpoint import Checkpoint, CheckpointHeader, at_round, read_checkpoint, read_header
from fedtl.runs.history import KEEPS_NONE, Run, check_round, load
from fedtl.runs.record import EXTRAS
from fedtl.runs.resume import MEMORIES, MODEL, TABLES, last_trained
from fedtl.server.table import TableStore
from fedtl.strategies import strategy_type
from fedtl.wire import messages as m
from fedtl.wire.worker import Worker

if TYPE_CHECKING:
    from fedtl.strategies.contract import Strategy

__all__ = ["load_exported", "model_of_run"]


def model_of_run(
    folder: str | Path,
    client: int | str | None = None,
    personal: Literal["adapted", "stored"] | None = None,
    round: Literal["last", "best"] = "last",
) -> Exported:
    """The model of a run, finished or not, simulated or deployed, after its last checkpoint, or after its best round.

    Args:
        folder: the run's.
        client: whose personalised model, by its id from 0 or its name; the global model if None.
        personal: which personalised model, as ``evaluate.personal``; the one that the run scores if None. An adapted
            one is made from the client's data, by the same code and with the same random numbers as when it is scored.
        round: after which: the ``last``, or the ``best`` by validation, which ``evaluate.keep_best`` keeps.

    Raises:
        ConfigError: there is no such run, client or model.
        RunError: making an adapted model failed.
    """
    folder = Path(folder)
    run = load(folder)
    if personal is not None and client is None:
        raise ConfigError(f"--personal = {personal!r}: it is about a client's own model; add --client")
    tables = dict(run.config)
    if personal is not None and not _kept_nowhere(run, personal):
        tables["evaluate"] = {**tables.get("evaluate", {}), "personal": personal}
    check_round(round, "--round")
    source = RunFolder.of(run, tables, _best_round(run) if round == "best" else None)
    place = None if client is None else source.place(client)
    choice, network, state, which, term = source.of_server() if place is None else source.of_client(place)
    predictor = None if term is None else described(term)
    frame = source.frame if place is None else source.frame_of(place)
    about = About(
        format=FORMAT,
        fedtl=__version__,
        which="global" if place is None else "personalised",
        client=place,
        client_name=(source.names[place] or None) if source.names and place is not None else None,
        personal=which,
        experiment=source.config.name,
        seed=source.config.seed,
        method=source.config.strategy.name,
        round=source.checkpoint.round,
        model=choice.model_dump(mode="json", exclude_none=True, exclude={"pretrained"}),
        frame=json.loads(frame.to_json()),
        predictor=predictor,
    )
    few = FewSamples.of(source.federation)
    module = rebuilt(choice, frame, state, str(folder), few, predictor)
    _check_alike(folder, choice, model_of(module), network, frame, few)
    return Exported(module, frame, about, few)


def _kept_nowhere(run: Run, personal: str) -> bool:
    """Whether the stored model is asked for of a deployed run whose clients keep none, and cannot make one here."""
    makes = strategy_type(run.config["strategy"]["name"]).client_update.makes_for_scoring()
    return makes and OLDER.get(personal, personal) == Serving.STORED and (run.path / FRAME).is_file()


def _check_alike(
    folder: Path, choice: ModelChoice, built: nn.Module, network: nn.Module, frame: DataSchema, few: FewSamples | None
) -> None:
    """Check that a network built anew, as whoever reads the file builds it, does what the run's does.

    Raises:
        ConfigError: it does not, as a model of one's own may need more than its state_dict has.
    """
    if not outputs_differ(deepcopy(built), deepcopy(network), frame.shape, few):
        return
    left_out = ", ".join(map(repr, buffers_not_kept(network)))
    raise ConfigError(
        f"{folder}: the model {choice.name!r}, built anew with its state_dict, gives other outputs than the run's; "
        f"what it lacks there ({left_out or 'as a tensor that __init__ draws'}) belongs in it: register it as a "
        "buffer with persistent=True"
    )


Model = tuple[ModelChoice, nn.Module, dict[str, Tensor], Personal | None, Term | None]
"""Which network, itself as the run has it, the parameters by name of what is exported, which personalised model they
are, and the term that makes a predictor of it and modules of its own, if one does."""


class RunFolder:
    """What a run's folder holds.

    Args:
        folder: the run's.
        config: its config.
        names: of its clients, where they have such.
        study: its name at the clients, where it is a deployed one.
        best: gives the best of the rounds up to one; None to read the last one's models.
    """

    def __init__(
        self, folder: Path, config: Config, names: list[str], study: str, best: Callable[[int], int] | None = None
    ) -> None:
        self.folder, self.config, self.names, self.study = folder, config, names, study
        self.of_one_client = False
        """Whether a real client keeps the folder, not a server."""
        self.store = MemoryStore(folder / MEMORIES)
        self.deployed = (folder / FRAME).is_file()
        if self.deployed:
            self.frame = DataSchema.read(folder / FRAME)
            clients = len(names) or max(self.store.clients(), default=0) + 1
            self.federation = self.frame.without_samples(clients)
        else:
            self.federation = federate(config.data, config.seed)
            self.frame = DataSchema.of(self.federation)
        self.checkpoint = _checkpoint(folder, best)

    @classmethod
    def of(
        cls, run: Run, tables: Mapping[str, Any] | None = None, best: Callable[[int], int] | None = None
    ) -> RunFolder:
        """A run's folder, read with other tables than its config's where they are given; ``best`` as of the class."""
        names = run.environment.get("names")
        clients = [str(name) for name in names] if isinstance(names, list) else []
        study = str(run.environment.get("study", run.path.name))
        folder = cls(run.path, build_to_read(dict(run.config if tables is None else tables)), clients, study, best)
        folder.of_one_client = "client" in run.environment
        return folder

    def changes(self, most: int) -> dict[int, Tensor | Failed]:
        """What one more round of each client that can train would change in the parameters that it is sent.

        Args:
            most: clients; of more the first ones.
        """
        name = self.config.strategy.name
        if self.deployed:
            raise ConfigError(f"{self.folder} is a deployed run's, and holds no samples to train on")
        if not strategy_type(name).has_global_model() or strategy_type(name).pools:
            raise ConfigError(f"{self.folder} is a run of {name!r}, which has no global model that clients change")
        device = device_of(self.config)
        with one_thread(device):
            assembly = assemble(self._rebuilt(trains=True), self.federation)
            worker = self._worker(assembly, device, trains=True)
            strategy = self._resumed(assembly)
            worker.initial = self._global(worker.engine.task)
            round, able = self.checkpoint.round, trains(self.federation, worker.engine.task.objective)
            clients = list(range(self.federation.clients) if able is None else map(int, able))[:most]
            return dict(zip(clients, worker.changes(strategy.about_scoring(clients, round), clients, round)))

    def place(self, client: int | str) -> int:
        """A client's id."""
        word = str(client)
        if word and word in self.names:
            return self.names.index(word)
        recorded = [name for name in self.names if name]  # a client knows its own alone
        known = nearest(word, recorded) if recorded else f"ids are 0 to {self.federation.clients - 1}"
        if not (word.isascii() and word.isdigit()):
            raise ConfigError(f"--client = {word!r}: {self.folder} knows no client of that name; {known}")
        place = int(word)
        if place >= self.federation.clients and (self.names or not self.deployed):
            raise ConfigError(
                f"--client = {place}: there is no such client in {self.folder}; ids are 0 to "
                f"{self.federation.clients - 1}"
            )
        return place

    def frame_of(self, client: int) -> DataSchema:
        """What a client's model must be told of data: where it sees features in others' places, which these are.

        Where that cannot be said by the names of columns, none are: they have to stand as in its training.
        """
        columns, seed, data = self.frame.columns, self.config.seed, self.config.data
        if columns is None or self.deployed:
            return self.frame
        stages = [data.partition, *(stage for first, stage in data.partition.later if first <= self.checkpoint.round)]
        places = stages[-1].places(client, columns.width, seed)
        if places is None or (places == range(columns.width)).all():
            return self.frame
        one_by_one = self.federation.domain_of is None  # else clients of each domain are numbered by themselves
        return replace(self.frame, columns=columns.moved(places.tolist()) if one_by_one else None)

    def of_server(self) -> Model:
        """The global model."""
        if not strategy_type(self.config.strategy.name).has_global_model():
            raise ConfigError(
                f"{self.folder} is a run of {self.config.strategy.name!r}, which trains no global model; add --client"
            )
        with one_thread("cpu"):
            task = make_tasks(self._rebuilt(trains=False), self.federation)[0]
        if task.sharing is not None and not task.sharing.whole:
            raise ConfigError(
                f"{self.folder}: strategy.private = {list(self.config.strategy.private)} stays at the clients, so the "
                "global model alone is no whole one; add --client"
            )
        network = model_of(_loaded(task, self._global(task)))
        return self.config.model, network, dict(network.state_dict()), None, None

    def of_client(self, client: int) -> Model:
        """A client's personalised model."""
        update = strategy_type(self.config.strategy.name).client_update
        unseen = client in self.federation.unseen
        makes = unseen or serving(update, False, self.config.evaluate.personal) is Serving.ADAPTED
        makes_here = makes and not self.deployed
        device = device_of(self.config) if makes_here else "cpu"
        with one_thread(device):
            assembly = assemble(self._rebuilt(trains=makes_here), self.federation)
            which = assembly.strategy.which_personal(unseen)
            if which is Serving.NONE:
                raise ConfigError(
                    f"--client = {client}: {self.config.strategy.name} gives clients no model of their own, and "
                    "neither strategy.private nor a term does; leave --client out"
                )
            if update.answers():
                raise ConfigError(
                    f"--client = {client}: under {self.config.strategy.name} a client's own predictor is more than a "
                    "model (it also looks at the client's training samples), so there is no file for it; leave "
                    "--client out"
                )
            if self.deployed:
                self._check_kept(client, which, update)
            self._check_memory(client, assembly)
            worker = self._worker(assembly, device, trains=makes_here)
            strategy = self._resumed(assembly)
            worker.initial = self._global(worker.engine.task)
            content = self._download(strategy, client)
            (vector,) = worker.personal_models(content, [client], self._until(client), which)
        if isinstance(vector, Failed):
            raise RunError(f"client {client}'s model cannot be made: {vector.message}")
        if vector is None and makes:
            raise ConfigError(f"--client = {client}: it holds nothing to train on, so it has no model of its own")
        if vector is None:
            raise ConfigError(f"--client = {client}: {self._why_none(client, worker.stage.since)}")
        task, personal = worker.engine.of(client).task, cast(Personal, which.value)
        choice = self.config.architectures()[client % len(self.config.architectures())].model
        whole = _loaded(task, vector)
        if (predictor := task.objective.predictor) is not None:
            return choice, model_of(whole), _state_of_all(whole, predictor), personal, predictor
        network, own = model_of(whole), worker.own if which is Serving.PARTIAL else None
        if own is not None:
            assert isinstance(whole, Composite)
            choice, network = _choice_of(own, worker), whole.extras[own]
        return choice, network, dict(network.state_dict()), personal, None

    def _why_none(self, client: int, since: int) -> str:
        """Why what a client remembers gives no model.

        Args:
            client: its id.
            since: the first round of which memories are of the present model; see ``WorkerPhase``.
        """
        until = self._until(client)
        last = max((round for round in self.store.versions(client) if round <= until), default=0)
        if 0 < last < since:
            return (
                f"what it keeps in {self.store.folder} is of round {last}, and the model began anew in round {since} "
                "(phases.restart); it has not trained since, so it has no model of its own"
            )
        there = self.store.clients()
        if since:
            there = [who for who in there if any(since <= round <= until for round in self.store.versions(who))]
        who = "1 client" if len(there) == 1 else f"{len(there)} clients"
        hint = f"; the folder holds those of {who}, the first is {there[0]}" if there else ""
        return (
            f"it has no memory in {self.store.folder}, or none up to round {self.checkpoint.round}, so no model of its "
            f"own{hint}"
        )

    def _check_kept(self, client: int, which: Serving, update: type[ClientUpdate[Any]]) -> None:
        """Check that a client's own model is one of those that real clients keep, and is kept in this folder.

        Raises:
            ConfigError: it is made anew when it is scored, of samples that no run's folder has; or stands elsewhere.
        """
        unseen, method = client in self.federation.unseen, self.config.strategy.name
        if which is Serving.ADAPTED and (unseen or update.makes_for_scoring()):
            whose = "the model of a client that never trains" if unseen else f"under {method} a client's own model"
            raise ConfigError(
                f"--client = {client}: {whose} is made of its training samples when it is scored, and not kept; "
                f"{self.folder}, a deployed run's folder, holds no samples, so there is no file of it; leave --client "
                "out"
            )
        if not self.store.clients() and self.of_one_client:
            raise ConfigError(
                f"--client = {client}: {self.folder} holds no model of the client's own yet, as it has not trained in "
                "this study"
            )
        if not self.store.clients():
            stored = " --personal stored" if update.personalises else ""
            raise ConfigError(
                f"--client = {client}: {self.folder} holds no client's own model, as those of a deployment stay at the "
                f"clients: there, fedtl export FOLDER/studies/{self.study} --client {client}{stored}"
            )
        if which is Serving.ADAPTED:
            raise ConfigError(
                f"--client = {client}: evaluate.personal = 'adapted' is a model made of the client's own training "
                f"samples when it is scored, and {self.folder}, a deployed run's folder, holds no samples; --personal "
                "stored gives the one that the client kept"
            )

    def _check_memory(self, client: int, assembly: Assembly) -> None:
        """Check that the client's memory is the one that the last checkpoint's round left."""
        sizes, mark = assembly.kept_memories().sizes, read_header(self.folder)
        at_clients = self.deployed or mark is None  # where no record says who trained when
        last = {} if at_clients or mark is None else last_trained(self.folder, self._mark(mark), sizes)
        self.store.verify({client: last.get(client, 0)}, self._until(client), sizes)

    def _mark(self, last: CheckpointHeader) -> CheckpointHeader:
        """What says of the round whose models are read what belongs to it."""
        return at_round(last, self.checkpoint.round)

    def _until(self, client: int) -> int:
        """The last round whose memory counts."""
        if not self.deployed:
            return self.checkpoint.round  # what a client remembers of an unfinished one is not yet of the run
        # A real client has trained in a round before it hears of the global model that comes of it.
        return max(self.checkpoint.round, *self.store.versions(client), 0)

    def _rebuilt(self, trains: bool) -> Config:
        """The config to build the run's parts from; the weights that it began with may be gone."""
        if trains or self.config.models or not (self.folder / MODEL).is_file():
            return self.config
        changes: dict[str, Any] = {"model": self.config.model.untrained()}
        if self.config.model.pretrained is not None:  # with which all clients' private parts began
            changes["strategy"] = self.config.strategy.model_copy(update={"private_start": "common"})
        return self.config.model_copy(update=changes)

    def _worker(self, assembly: Assembly, device: str, trains: bool) -> Worker:
        """What trains and scores the run's clients; one that only reads memories is made without trying steps out."""
        tasks = assembly.tasks
        plain = (EngineChoice(False, False, ""),) * len(tasks)
        choices = assembly.choose_engines(device) if trains else plain
        return worker_of(assembly.config, make_engines(assembly.config, tasks, device, choices), self.store)

    def _resumed(self, assembly: Assembly) -> Strategy:
        """The method's server as it was when it last asked for scores; in a client's folder just its phase."""
        strategy, round = assembly.strategy, self.checkpoint.round
        if self.of_one_client:  # which knows what it was sent, and nothing of what the server remembers
            strategy.enter_phase_of(round)
            return strategy
        strategy.resume(self.checkpoint.w, self.checkpoint.state, round)
        if strategy.tables:
            mark, sizes = read_header(self.folder), {name: table.width for name, table in strategy.tables.items()}
            rows = MemoryStore(self.folder / TABLES)
            trained = {} if mark is None else last_trained(self.folder, self._mark(mark), lambda client, round: sizes)
            rows.verify(trained, round, lambda client, round: sizes)
            seen = self.federation.seen if len(self.federation.unseen) else None
            TableStore(self.folder / TABLES, seen).restore(strategy.tables, round)
        strategy.enter_phase_of(round)
        return strategy

    def _download(self, strategy: Strategy, client: int) -> RecordDict:
        """What the client is sent when it is to be scored: in a client's own folder what it was sent last."""
        if client in self.federation.unseen:
            return strategy.about_unseen([client], self.checkpoint.round)
        if not self.of_one_client:
            return strategy.about_scoring([client], self.checkpoint.round)
        kept = {name: vector for name, vector in self.checkpoint.state.items() if name.startswith(m.RECEIVED)}
        received = {m.VECTOR: self.checkpoint.w} | {name.removeprefix(m.RECEIVED): kept[name] for name in kept}
        about = ConfigRecord(strategy.how_to_score(self.checkpoint.round))
        return RecordDict({m.CONFIG: about, m.ARRAYS: m.pack_all(received)})

    def _global(self, task: Task) -> Tensor:
        """The global model ``[d]``; what of it never travels is as a finished run wrote it, else as it began."""
        initial = task.layout.flatten(task.module)
        if task.sharing is not None and (self.folder / MODEL).is_file():
            module = deepcopy(task.module).cpu()
            _load(model_of(module), self.folder / MODEL)
            if isinstance(module, Composite):
                _load(module.extras, self.folder / EXTRAS)
            initial = task.layout.flatten(module).to(initial.device)
        received = torch.tensor(self.checkpoint.w, device=initial.device)
        if received.shape != task.sent(initial).shape:
            raise ConfigError(
                f"{self.folder}: its checkpoint has {len(received)} numbers, and the model in its config.toml "
                f"{len(task.sent(initial))}; the two belong to different runs"
            )
        return task.whole(received, initial)


def _best_round(run: Run) -> Callable[[int], int]:
    """Gives the best of the rounds up to one, whose models the run keeps.

    Raises:
        ConfigError: it keeps none, or a client's folder is read.
    """
    if "client" in run.environment:
        raise ConfigError(
            f"--round = 'best': {run.path} is a client's folder, which holds its last models; the run's folder at the "
            "server keeps the global model of the best round"
        )
    if not (run.config.get("evaluate") or {}).get("keep_best"):
        raise ConfigError(f"--round = 'best': {run.path} {KEEPS_NONE}")

    def best(last: int) -> int:
        point = load(run.path).kept_best(last)
        if point is None:
            raise ConfigError(f"--round = 'best': {run.path} has no round scored on validation samples (yet)")
        return point.round

    return best


def _checkpoint(folder: Path, best: Callable[[int], int] | None) -> Checkpoint:
    checkpoint = read_checkpoint(folder) if best is None else read_checkpoint(folder, best)
    if checkpoint is None:
        raise ConfigError(f"{folder} holds no checkpoint (yet): it has no model before its first round is finished")
    return checkpoint


def _load(module: nn.Module, file: Path) -> None:
    """Load a module's parameters from one of a run's files."""
    try:
        module.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in load_tensors(file).items()})
    except FileNotFoundError as error:
        raise DamagedError(file, "is missing") from error
    except RuntimeError as error:
        raise DamagedError(file, "holds another model than config.toml says") from error


def _choice_of(own: str, worker: Worker) -> ModelChoice:
    """Which network a term's own module is: the term's option of its name says it."""
    for stage in worker.stages:
        for term in stage.engine.task.objective.terms:
            part = term.personal_module()
            if part is None or module_name(term, part) != own:
                continue
            choice = getattr(term, part, None)
            if not isinstance(choice, ModelChoice):
                raise ConfigError(
                    f"the term {term.key!r} does not tell which network its module {part!r} is; give it an option of "
                    f"that name that is a fedtl.models.ModelChoice"
                )
            return choice
    raise AssertionError(own)


def _loaded(task: Task, vector: Tensor) -> nn.Module:
    """The model ``vector`` ``[d]``, with what terms bring along."""
    module = deepcopy(task.module).cpu()
    task.layout.load(module, vector.cpu())
    return module


def _state_of_all(whole: nn.Module, predictor: Term) -> dict[str, Tensor]:
    """The parameters by name of a model and of the modules of the term that predicts with it."""
    own = f"extras.{module_name(predictor, '')}"
    return {name: tensor for name, tensor in whole.state_dict().items() if name.startswith(("model.", own))}
