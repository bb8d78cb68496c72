"""A study's whole rounds among clients that hold exported files: the same bits as the simulation of the same config.

Every client is a agent over its own files; what it is sent and answers is serialised as on the network.
"""

from __future__ import annotations

import functools
import json
import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from safetensors.numpy import load_file

import fedtl
from fedtl.assemble.driver import Silent
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.config.schema import Config
from fedtl.data.export import export
from fedtl.data.federate import federate
from fedtl.data.own.read import Own, read_own
from fedtl.data.schema import DataSchema
from fedtl.deploy import clientapp, folders, serverapp
from fedtl.deploy import deployed_grid as links
from fedtl.deploy.agent import ClientAgent, Declined
from fedtl.deploy.deployed_grid import Described
from fedtl.deploy.folders import ServerFolder, read_client, read_server
from fedtl.deploy.process import alone
from fedtl.deploy.serverapp import RunRequest, common_frame
from fedtl.experiment import Place, open_run
from fedtl.export.of_run import model_of_run
from fedtl.failure import RunError
from fedtl.strategies import STRATEGIES, strategy_type
from fedtl.tasks import CLASSIFICATION, LearningTask
from fedtl.wire import messages as m
from tests.contract.test_grids import records
from tests.methods import OPEN_METHODS
from tests.unit.test_deploy_deployed_grid import Answer, Node, PretendedGrid, travelled

NAMES = ("north", "south", "west")


def tables(**more: Any) -> dict[str, Any]:
    data = {"name": "digits", "clients": 3, "samples": 150, "partition": {"name": "dirichlet", "alpha": 1.0}}
    return {
        "name": "deployed",
        "seed": 4,
        "rounds": 2,
        "device": "cpu",
        "model": {"name": "mlp", "hidden": [8]},
        "simulation": {"grid": "in-process", "traced": False},
        "strategy": {"name": "fedavg", **SGD},
        **more,
        "data": {**data, **more.get("data", {})},
    }


SGD = {"lr": 0.1, "local_steps": 3, "batch_size": 8}
LOOK = {"name": "digits", "transform": {"invert": True}}
CONFIGS: dict[str, dict[str, Any]] = {
    "fedavg by samples, recorded": {
        "strategy": {"name": "fedavg", **SGD, "weighting": "samples", "server": {"name": "momentum"}},
        "simulation": {"grid": "in-process"},
    },
    "fedavg, two of three": {"strategy": {"name": "fedavg", **SGD, "clients_per_round": 2}},
    "pfedme": {"strategy": {"name": "pfedme", **SGD, "lam": 15.0, "inner_steps": 2, "inner_lr": 0.05}},
    "local": {"strategy": {"name": "local", **SGD}},
    "ditto": {"strategy": {"name": "ditto", **SGD, "lam": 0.5, "personal_steps": 2}},
    "apfl, mixed outputs": {"strategy": {"name": "apfl", **SGD, "adaptive": True, "mixing": "outputs"}},
    "per-fedavg": {"strategy": {"name": "per-fedavg", **SGD, "alpha": 0.05, "adapt_steps": 2}},
    "fedsam, averaged": {"strategy": {"name": "fedsam", **SGD, "swa_from": 1}},
    "afl": {"strategy": {"name": "afl", **SGD, "mixture_lr": 0.1}},
    "qfedavg by samples": {"strategy": {"name": "qfedavg", **SGD, "q": 1.0, "objective_weighting": "samples"}},
    "fedlc": {"strategy": {"name": "fedlc", **SGD, "tau": 0.5}},
    "fedntd": {"strategy": {"name": "fedntd", **SGD, "beta": 0.5}},
    "private head": {"strategy": {"name": "fedavg", **SGD, "private": ["head"]}},
    "moon": {"objective": [{"term": "cross_entropy"}, {"term": "moon"}]},
    "statistics": {
        "data": {"target": {**LOOK, "samples": 100, "clients": 1}, "clients": 2},
        "objective": [{"term": "cross_entropy"}, {"term": "remote_coral", "weight": 0.5}],
    },
    "prototypes": {"objective": [{"term": "cross_entropy"}, {"term": "prototype"}]},
    "phases": {
        "data": {"target": {**LOOK, "samples": 100}},
        "rounds": None,
        "phases": [
            {"rounds": 2, "objective": [{"term": "cross_entropy"}]},
            {"rounds": 2, "strategy": {"lr": 0.02}, "objective": [{"term": "adda", "shared": False}]},
        ],
    },
    "few labels": {
        "data": {"labelled_fraction": 0.3},
        "objective": [{"term": "cross_entropy"}, {"term": "entropy", "weight": 0.1}],
    },
    "target": {
        "data": {"target": {**LOOK, "samples": 100}},
        "objective": [{"term": "cross_entropy"}, {"term": "coral"}],
    },
    "validation": {
        "data": {"validation_share": 0.3},
        "strategy": {"name": "pfedme", **SGD, "lam": 15.0, "inner_steps": 2, "inner_lr": 0.05, "weighting": "samples"},
    },
    "fedrep, two of three": {"strategy": {"name": "fedrep", **SGD, "clients_per_round": 2, "head_epochs": 1}},
    "fedbabu": {"strategy": {"name": "fedbabu", **SGD}},
    "fedbn": {
        "strategy": {"name": "fedbn", **SGD, "last_batch": "merge"},
        "model": {"name": "cnn-bn", "channels": [2], "hidden": [4]},
    },
    "domains, one held out": {
        "data": {
            "name": "domains",
            "domains": {
                name: {**LOOK, "transform": {"rotate": angle}} for name, angle in (("a", 0), ("b", 40), ("c", 80))
            },
            "held_out": ["c"],
            "samples": 80,
            "partition": "iid",
        },
    },
    "bottlenecks": {
        "model": {"name": "mlp", "hidden": [8], "adapter": {"name": "adapter", "width": 2, "layers": ["features.1"]}},
    },
    "feddbe": {"strategy": {"name": "feddbe", **SGD, "clients_per_round": 2, "kappa": 2.0}},
    "fedpac": {"strategy": {"name": "fedpac", **SGD, "clients_per_round": 2}},
    "fedrod": {"strategy": {"name": "fedrod", **SGD, "clients_per_round": 2}},
    "fedrod-hyper": {"strategy": {"name": "fedrod-hyper", **SGD, "clients_per_round": 2}},
    **{f"test method {name}": {"strategy": {**SGD, **table}} for name, table in OPEN_METHODS.items()},
    "public": {
        "data": {"public": {**LOOK, "samples": 40}},
        "strategy": {"name": "feddf", **SGD, "distill_steps": 3, "distill_batch_size": 16},
    },
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "POLL", 0.001)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and folders, which no test changes."""
    path = tmp_path_factory.mktemp("made") / "deployment"
    folders.create(path, NAMES, "localhost")
    return path


def at_desk(agent: ClientAgent, kind: str, content: RecordDict) -> RecordDict | Error:
    """What a client's processes make of a message."""
    try:
        return travelled(agent.answer(kind, travelled(content)))
    except Declined as error:
        return Error(0, str(error))


@dataclass
class Deployment:
    """Three clients with their files, and a server with its own."""

    config: dict[str, Any]
    path: Path
    folder: ServerFolder
    grid: PretendedGrid

    @property
    def run(self) -> Path:
        return self.path / "run"

    def client(self, name: str) -> Path:
        return self.path / "deployment" / name

    def begin_clients(
        self,
        wrap: Callable[[Answer], Answer] = lambda answer: answer,
        approved: Config | None = None,
        task: LearningTask = CLASSIFICATION,
        read: Callable[[str], Own] | None = None,
    ) -> None:
        """Start the clients' processes, anew; ``read`` gives a client's data by its name."""
        self.grid.nodes = []
        for i, name in enumerate(self.folder.clients):
            own = read_own(str(self.path / "data" / name), task=task) if read is None else read(name)
            agent = ClientAgent(own, read_client(self.client(name)), "cpu", approved)
            key = serverapp.node_key(self.folder, name)
            self.grid.nodes.append(Node(70 - i, key, wrap(functools.partial(at_desk, agent))))

    def serve(self, data: bool = True, resume: bool = False, **changes: Any) -> None:
        experiment = build({**self.config, **changes}).tables()
        where = str(self.path / "data" / "server") if data else None
        order = RunRequest("study-1", experiment, str(self.run), where, resume, ["fedtl", "deploy", "run"])
        serverapp.serve(order, self.folder, self.grid)


@pytest.fixture
def deploy(made: Path, tmp_path: Path) -> Callable[..., Deployment]:
    def begin(config: dict[str, Any]) -> Deployment:
        read = build(config)
        shutil.copytree(made, tmp_path / "deployment")
        export(federate(read.data, read.seed), tmp_path / "data", NAMES)
        deployment = Deployment(config, tmp_path, read_server(tmp_path / "deployment"), PretendedGrid())
        deployment.begin_clients(task=read.data.task)
        return deployment

    return begin


def without_none(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def model(folder: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(folder / "model.safetensors").items()}


def memories(folder: Path) -> dict[str, dict[str, bytes]]:
    """All clients' memories, by the file's place in them."""
    files = sorted((folder / "memories").rglob("*.safetensors"))
    return {
        str(file.relative_to(folder / "memories")): {k: v.tobytes() for k, v in load_file(file).items()}
        for file in files
    }


def check_equal(
    deployed: Deployment, simulated: Path, files: Sequence[str] = ("rounds.jsonl", "clients.jsonl")
) -> None:
    for name in files:
        assert records(deployed.run, name) == records(simulated, name)
    assert model(deployed.run) == model(simulated)
    own: dict[str, dict[str, bytes]] = {}
    for name in NAMES:
        own |= memories(deployed.client(name) / "studies" / "study-1")
    assert own == memories(simulated)


# The same bits.


@pytest.mark.parametrize("which", CONFIGS)
def test_what_a_simulation_computes(which: str, deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    config = without_none(tables(**CONFIGS[which]))
    fedtl.run(config, out=tmp_path / "simulated")
    deployed = deploy(config)
    if which.startswith("test method"):  # it names code, to which clients agree
        deployed.begin_clients(approved=build(config))
    deployed.serve()
    assert all(not line["failures"] for line in records(deployed.run))
    check_equal(deployed, tmp_path / "simulated")
    about = json.loads((deployed.run / "environment.json").read_text())
    assert (about["grid"], about["study"], about["names"]) == ("deployed", "study-1", list(NAMES))


@pytest.mark.parametrize("kind", ["pixel", "dataset"])
def test_clients_agree_on_a_normalisation_that_is_that_of_all_samples(
    kind: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    """Without ``frame.json``: of bytes the sums are whole numbers, so it does not matter who added them up."""
    config = tables(data={"normalise": kind, "server_test_share": 0, "test_share": 0})
    del config["data"]["samples"]  # "dataset" is of the whole data set, of which all are somebody's
    deployed = deploy(config)
    deployed.serve(data=False)
    read = build(config)
    whole = DataSchema.of(federate(read.data, read.seed))
    agreed = DataSchema.read(deployed.run / "frame.json")
    assert (agreed.shape, agreed.dtype, agreed.classes) == (whole.shape, whole.dtype, whole.classes)
    assert np.array_equal(agreed.scale, whole.scale)
    assert np.array_equal(agreed.shift, whole.shift)
    fedtl.run(config, out=tmp_path / "simulated")
    check_equal(deployed, tmp_path / "simulated")


def test_clients_draw_their_validation_samples_as_the_simulation_does(
    deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    """The files know of no validation samples; the experiment does. Sums for the normalisation are of all samples."""
    config = tables(data={"normalise": "pixel", "server_test_share": 0, "test_share": 0})
    del config["data"]["samples"]
    deployed = deploy(config)
    config["data"]["validation_share"] = 0.25
    deployed.serve(data=False)
    assert {"global/validation-clients"} == set(fedtl.load(deployed.run).last())
    fedtl.run(config, out=tmp_path / "simulated")
    check_equal(deployed, tmp_path / "simulated")


def test_a_run_that_is_gone_on_with_by_new_processes(deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    config = tables(**CONFIGS["pfedme"])
    fedtl.run(config, out=tmp_path / "simulated")
    deployed = deploy(config)
    deployed.serve(rounds=1)
    asked = len(deployed.grid.sent)
    deployed.begin_clients()
    deployed.serve(resume=True)
    check_equal(deployed, tmp_path / "simulated")
    rounds = [m.config_of(sent.content).get(m.ROUND) for sent in deployed.grid.sent[asked:]]
    assert [round for round in rounds if round is not None] == [2] * 6


@pytest.mark.parametrize(
    ("strategy", "at_client", "at_server"),
    [
        (
            {"name": "fedavg"},
            "fedavg gives clients no model of their own",
            "fedavg gives clients no model of their own",
        ),
        ({"name": "scaffold"}, "scaffold gives clients no model of", "scaffold gives clients no model of their own"),
        ({"name": "fedadam", "private": ["head"]}, "", "there, fedtl export FOLDER/studies/study-1 --client 0$"),
        ({"name": "feddbe"}, "under feddbe a client's own model is made of its", "so there is no file of it; leave"),
        ({"name": "fedbabu"}, "under fedbabu a client's own model is made of its", "so there is no file of it; leave"),
        ({"name": "ditto"}, "holds no samples; --personal stored gives", "--client 0 --personal stored$"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_the_model_of_a_clients_folder_or_the_reason_why_it_has_none(
    strategy: dict[str, Any], at_client: str, at_server: str, deploy: Callable[..., Deployment]
) -> None:
    """What the server remembers is never there, and needs not be: nothing is said of it."""
    deployed = deploy(tables(strategy={**SGD, **strategy}, rounds=1))
    deployed.serve()
    own = deployed.client("north") / "studies" / "study-1"
    if not at_client:
        assert model_of_run(own, 0).about.personal == "partial"
    else:
        with pytest.raises(ConfigError, match=at_client):
            model_of_run(own, 0)
    with pytest.raises(ConfigError, match=at_server):
        model_of_run(deployed.run, 0)
    if strategy["name"] == "ditto":
        assert model_of_run(own, 0, "stored").about.personal == "stored"
    elif at_client:  # nobody is sent in a circle
        with pytest.raises(ConfigError, match=at_client):
            model_of_run(own, 0, "stored")


def test_the_page_names_the_methods_of_which_a_deployment_has_no_file() -> None:
    makes = [f"`{name}`" for name in sorted(STRATEGIES) if strategy_type(name).client_update.makes_for_scoring()]
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    assert f"a deployment has no file of it: under {', '.join(makes[:-1])} and {makes[-1]}." in page


def test_a_study_that_ends_early_as_its_simulation_does(
    deploy: Callable[..., Deployment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No accuracy is better by more than 1. Clients agreed to more, and do not keep the best round's memories."""
    validated = {**CONFIGS["pfedme"], "data": {"validation_share": 0.3}}
    config = tables(**validated, rounds=5, stop={"patience": 2, "min_delta": 1}, evaluate={"keep_best": True})
    fedtl.run(config, ["evaluate.keep_best=none"], out=tmp_path / "simulated")
    deployed = deploy(config)
    deployed.begin_clients(approved=build(tables(**validated, rounds=5)))
    deployed.serve()
    check_equal(deployed, tmp_path / "simulated")
    run = fedtl.load(deployed.run)
    assert run.stopped == fedtl.load(tmp_path / "simulated").stopped
    assert run.stopped is not None
    assert run.stopped.round == 3
    assert f"fedtl: {run.stopped}" in capsys.readouterr().out
    best = run.kept_best()
    assert best is not None
    assert model_of_run(deployed.run, round="best").about.round == best.round
    with pytest.raises(ConfigError, match="is a client's folder, which holds its last models; the run's folder at the"):
        model_of_run(deployed.client(NAMES[0]) / "studies" / "study-1", 0, "stored", round="best")
    asked = len(deployed.grid.sent)
    deployed.serve(resume=True)
    assert all(m.ROUND not in m.config_of(sent.content) for sent in deployed.grid.sent[asked:])
    said = capsys.readouterr().out
    assert "already finished with round 3" in said
    assert f"fedtl: {run.stopped}; to go on, raise stop.patience or give stop=none" in said


def test_clients_without_labels_cannot_choose_a_round(deploy: Callable[..., Deployment]) -> None:
    """They have nothing to draw validation samples from, which the server hears from them alone."""
    config = tables(data={"labelled_fraction": 0}, objective=[{"term": "entropy"}], rounds=9)
    deployed = deploy(config)
    config["data"]["validation_share"] = 0.3
    with pytest.raises(ConfigError, match="stop: no client holds validation samples"):
        deployed.serve(stop={"patience": 1})


def test_a_class_that_no_client_has_chooses_no_round(deploy: Callable[..., Deployment]) -> None:
    deployed = deploy(tables(data={"validation_share": 0.3}))
    stop = {"patience": 1, "metric": "recall_by_class/77"}
    with pytest.raises(ConfigError, match=r"stop\.metric = 'recall_by_class/77': there is no such class; they"):
        deployed.serve(evaluate={"metrics": ["recall_by_class"]}, stop=stop)
    assert not (deployed.run / "rounds.jsonl").exists()


def test_a_client_that_is_away_in_a_round_is_a_failure_there(deploy: Callable[..., Deployment]) -> None:
    def away(answer: Answer) -> Answer:
        def handler(kind: str, content: RecordDict) -> Any:
            north = deployed.grid.nodes[0]
            if kind == "train":
                north.online = m.config_of(content)[m.ROUND] != 1  # from the second message of round 1 on
            return answer(kind, content)

        return handler

    deployed = deploy(tables(evaluate={"every": 2}))
    deployed.begin_clients(away)
    deployed.grid.nodes[0].answer = lambda kind, content: (
        None if kind == "train" and m.config_of(content)[m.ROUND] == 1 else north(kind, content)
    )
    north = functools.partial(
        at_desk,
        ClientAgent(read_own(str(deployed.path / "data" / "north")), read_client(deployed.client("north")), "cpu"),
    )
    links_look, links.LOOK_AROUND = links.LOOK_AROUND, 0.0
    try:
        deployed.serve(max_failures=0.5)
    finally:
        links.LOOK_AROUND = links_look
    failures = [line["failures"] for line in records(deployed.run)]
    assert len(failures[0]) == 1
    assert "its connection was lost" in str(failures[0])


def test_noise_travels_as_an_upload_does(deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    privacy = {"clipping_norm": 1.0, "sensitivity": 1e-12, "epsilon": 1.0, "delta": 1e-5}
    config = tables(deploy={"privacy": privacy}, rounds=2)
    deployed = deploy(config)

    def noised(answer: Answer) -> Answer:
        def handler(kind: str, content: RecordDict) -> RecordDict | Error | None:
            message = Message(content, 70, kind)
            message.metadata.__dict__["_message_id"] = "m"
            context = Context(1, 70, {}, RecordDict(), {})

            def proceed(message: Message, _: Context) -> Message:
                reply = answer(kind, message.content)
                assert reply is not None
                return Message(reply, reply_to=message)

            reply = clientapp.with_privacy(message, context, proceed)
            return reply.error if reply.has_error() else reply.content

        return handler

    deployed.begin_clients(noised)
    deployed.serve()
    assert all(not line["failures"] for line in records(deployed.run))
    # With hardly any noise only the clipping is left, which here leaves the updates as they are.
    fedtl.run({**config, "deploy": {}}, out=tmp_path / "simulated")
    for name, value in load_file(tmp_path / "simulated" / "model.safetensors").items():
        assert load_file(deployed.run / "model.safetensors")[name] == pytest.approx(value, abs=1e-5)


def test_noise_and_batch_norm_do_not_go_together(deploy: Callable[..., Deployment]) -> None:
    privacy = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5}
    config = tables(model={"name": "tests.unit.test_deploy_serverapp:batch_normed"})
    deployed = deploy(config)
    deployed.begin_clients(approved=build({**config, "deploy": {"privacy": privacy}}))
    with pytest.raises(ConfigError, match=r"^deploy\.privacy: the noise could make a batch-norm's variance negative"):
        deployed.serve(deploy={"privacy": privacy})


def test_sums_would_travel_without_noise(deploy: Callable[..., Deployment], capsys: pytest.CaptureFixture[str]) -> None:
    privacy = {"clipping_norm": 1.0, "epsilon": 20.0, "delta": 1e-5}
    deployed = deploy(tables(deploy={"privacy": privacy}))
    with pytest.raises(ConfigError, match=r"^deploy\.privacy: clients' sums .*; give the server a frame\.json"):
        deployed.serve(data=False)
    assert deployed.grid.sent == []
    assert capsys.readouterr().out.startswith("fedtl: noise of standard deviation 0.4845 on each number of an upload; ")


def batch_normed(classes: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))


# Who does not go with the others.


def test_what_the_server_tells_of_a_study_that_cannot_begin(deploy: Callable[..., Deployment]) -> None:
    deployed = deploy(tables(deploy={"wait": 0.05, "min_clients": 3}))
    deployed.grid.nodes[2].answer = lambda *_: Error(0, "it is asleep")
    with pytest.raises(RunError, match=r"^only 2 of 3 clients described their data, 3 must; west: it is asleep$"):
        deployed.serve()
    deployed.grid.nodes[2].online = False
    with pytest.raises(RunError, match=r"^2 of 3 clients are connected after .* 3 must be; not there: west$"):
        deployed.serve()
    assert not deployed.run.exists()


ONE = Described(5, 0, 2, 0, 0, (1, 2, 2), "uint8", 2, None)


def test_what_descriptions_have_in_common() -> None:
    config = build(tables(data={"normalise": "none"}))
    frame = common_frame({"a": ONE, "b": replace(ONE, largest_label=4), "c": replace(ONE, largest_label=-1)}, config)
    assert (frame.shape, frame.dtype, frame.classes, frame.labels) == ((1, 2, 2), "uint8", 5, ())
    words = replace(ONE, largest_label=None, names=("cat", "dog"))
    frame = common_frame({"a": words, "b": replace(words, names=("ant", "dog"))}, config)
    assert (frame.classes, frame.labels) == (3, ("ant", "cat", "dog"))


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"shape": (3, 2, 2)}, "a sample of b is uint8 [3, 2, 2], and one of a uint8 [1, 2, 2]; all clients must"),
        ({"dtype": "float32"}, "a sample of b is float32 [1, 2, 2], and one of a uint8 [1, 2, 2]; all clients must"),
        ({"names": ("x",)}, "labels are words at b and numbers at a; all clients must use one kind"),
    ],
)
def test_descriptions_that_differ(other: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        common_frame({"a": ONE, "b": replace(ONE, **other)}, build(tables(data={"normalise": "none"})))
    assert str(caught.value).startswith(sentence)


def test_clients_without_any_label() -> None:
    with pytest.raises(ConfigError, match=r"^no client has a label, .*: give a frame\.json with --data$"):
        common_frame({"a": replace(ONE, largest_label=-1)}, build(tables(data={"normalise": "none"})))


def test_a_client_that_the_frame_does_not_fit_is_named(deploy: Callable[..., Deployment]) -> None:
    deployed = deploy(tables())
    frame = deployed.path / "data" / "server" / "frame.json"
    table = json.loads(frame.read_text())
    frame.write_text(json.dumps(table | {"classes": 10, "labels": [], "shape": [1, 64], "scale": 1.0, "shift": 0.0}))
    (deployed.path / "data" / "server" / "test.npz").unlink()
    with pytest.raises(
        ConfigError, match=r"^a sample of north is uint8 \[1, 8, 8\]; this study's are uint8 \[1, 64\]$"
    ):
        deployed.serve()
    frame.write_text(json.dumps(table | {"classes": 3, "labels": []}))
    with pytest.raises(ConfigError, match=r"^north has the label [4-9]; this study has 3 classes from 0$"):
        deployed.serve()
    assert not deployed.run.exists()


def test_the_public_samples_must_be_the_servers_too(deploy: Callable[..., Deployment]) -> None:
    deployed = deploy(tables(**CONFIGS["public"]))
    with pytest.raises(ConfigError, match=r"^'ensemble of the clients' is about public .*: give it those with --data"):
        deployed.serve(data=False)
    public = deployed.path / "data" / "server" / "public.npz"
    with np.load(public) as file:
        np.savez(public, x=file["x"][1:])
    with pytest.raises(ConfigError, match=r"^north has 40 public samples, and the server 39$"):
        deployed.serve()


def test_no_room_is_made_for_the_samples_that_a_client_claims(tmp_path: Path) -> None:
    config = build(tables())
    server = open_run(config, federate(config.data, 4), Place(tmp_path / "run"), Silent(), elsewhere=True)
    tracemalloc.start()
    try:
        serverapp.restrict_sampling(server, {0: replace(ONE, train=10**7)})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(phase.clients) if phase.clients is not None else 3 for phase in server.strategy.phases] == [3]
    assert most < 2**20


# Orders.


def test_an_order_and_how_it_ended(made: Path, tmp_path: Path) -> None:
    folder = read_server(shutil.copytree(made, tmp_path / "deployment"))
    order = RunRequest("study-1", tables(), "/run", None, False, ["fedtl"])
    order.write(folder)
    assert RunRequest.read(folder, "study-1") == order
    assert order.end(folder) is None
    order.ended(folder, {"error": "é", "wrong": True})
    assert order.end(folder) == {"error": "é", "wrong": True}
    order.write(folder)
    assert order.end(folder) is None
    order.withdraw(folder)
    order.withdraw(folder)
    assert [path.name for path in folder.studies.iterdir()] == []


def test_an_order_to_go_on_that_is_taken_back_leaves_the_study_known(made: Path, tmp_path: Path) -> None:
    folder = read_server(shutil.copytree(made, tmp_path / "deployment"))
    order = RunRequest("study-1", tables(), "/run", "/data", True, ["fedtl"])
    order.write(folder)
    order.withdraw(folder)
    stored_order = RunRequest.read(folder, "study-1")
    assert (stored_order.withdrawn, stored_order.run, stored_order.data) == (True, "/run", "/data")
    order.write(folder)
    assert RunRequest.read(folder, "study-1") == order


def test_an_order_that_was_taken_back_begins_nothing(
    deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flower may have taken the run just before."""
    deployed = deploy(tables(rounds=1))
    monkeypatch.setenv(serverapp.SERVER_FOLDER, str(deployed.folder.path))
    order = RunRequest("s", build(deployed.config).tables(), str(deployed.run), None, True, ["fedtl"])
    order.write(deployed.folder)
    order.withdraw(deployed.folder)
    with pytest.raises(SystemExit):
        serverapp.main(deployed.grid, Context(1, 1, {}, RecordDict(), {serverapp.STUDY: "s"}))
    assert capsys.readouterr().out == "fedtl: the run was withdrawn before it began\n"
    assert deployed.grid.sent == []
    assert order.end(deployed.folder) is None


def test_a_study_has_one_server(
    deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flower may start a run again whose server it takes for dead."""
    deployed = deploy(tables(rounds=1))
    monkeypatch.setenv(serverapp.SERVER_FOLDER, str(deployed.folder.path))
    monkeypatch.setattr(serverapp, "ENDS_WITHIN", 0.0)
    experiment = build(deployed.config).tables()
    order = RunRequest("s", experiment, str(deployed.run), str(deployed.path / "data" / "server"), False, ["fedtl"])
    order.write(deployed.folder)
    context = Context(1, 1, {}, RecordDict(), {serverapp.STUDY: "s"})
    with alone(deployed.folder.studies / "s.lock", "held"), pytest.raises(SystemExit):
        serverapp.main(deployed.grid, context)
    assert "is already in progress: fedtl deploy status" in capsys.readouterr().out
    assert order.end(deployed.folder) is None  # it is the other's to say
    assert deployed.grid.sent == []
    assert not deployed.run.exists()
    serverapp.main(deployed.grid, context)
    assert order.end(deployed.folder) == {}


def test_an_objective_that_nobody_can_train(tmp_path: Path) -> None:
    config = build(tables(**CONFIGS["target"]))
    server = open_run(config, federate(config.data, 4), Place(tmp_path / "run"), Silent(), elsewhere=True)
    nothing = replace(ONE, train=0)
    with pytest.raises(ConfigError, match=r"^no client holds what the objective of the rounds 1 to 2 trains on$"):
        serverapp.restrict_sampling(server, dict.fromkeys(range(3), nothing))
    with pytest.raises(
        ConfigError, match=r"^no client holds .*target data, which the term 'coral' trains on; a client bri"
    ):
        serverapp.restrict_sampling(server, dict.fromkeys(range(3), ONE))  # which have no unlabelled samples
    serverapp.restrict_sampling(server, {0: nothing, 1: replace(ONE, unlabelled=5)})  # who is not known may hold some
    assert [phase.clients.tolist() for phase in server.strategy.phases if phase.clients is not None] == [[1, 2]]


def test_flower_starts_the_order_that_the_run_names(
    deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed = deploy(tables(rounds=1))
    monkeypatch.setenv(serverapp.SERVER_FOLDER, str(deployed.folder.path))
    where = str(deployed.path / "data" / "server")
    for run, code in (("run", None), ("run", 1)):  # the second time the folder is taken
        order = RunRequest("s", build(deployed.config).tables(), str(deployed.path / run), where, False, ["fedtl"])
        order.write(deployed.folder)
        context = Context(1, 1, {}, RecordDict(), {serverapp.STUDY: "s"})
        if code is None:
            serverapp.main(deployed.grid, context)
            assert order.end(deployed.folder) == {}
            lines = capsys.readouterr().out.splitlines()
            assert lines[0] == f"fedtl: fedavg, 1 rounds, in {deployed.run}"
            assert lines[1].startswith("fedtl: round 1/1: ")
            assert "3 of 3 clients; global/clients" in lines[1]
        else:
            with pytest.raises(SystemExit):
                serverapp.main(deployed.grid, context)
            end = order.end(deployed.folder)
            assert end is not None
            assert end["wrong"]
            assert "holds a run already" in end["error"]
