"""What is exported is what the record scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fedtl
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.schema import DataSchema
from fedtl.disk.memories import MemoryStore
from fedtl.export.file import KEY, About, Exported, OnStored, load_exported, write_onnx, write_safetensors
from fedtl.export.of_run import model_of_run
from fedtl.export.predict import Model, predict, read_samples
from fedtl.losses.term import TermContext
from fedtl.losses.terms.teaching import Mutual
from fedtl.models import build_model, read_model
from fedtl.models.vector import Layout
from fedtl.runs.checkpoint import Checkpoint, read_checkpoint
from fedtl.runs.record import Recorder

CLIENTS, ROUNDS, SHAPE = 5, 3, (1, 8, 8)
SGD = {"lr": 0.1, "local_steps": 10, "batch_size": 8}

needs_onnx = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("onnx", "onnxscript", "onnxruntime")),
    reason='the packages of "fedtl[onnx]" are not installed',
)


def normed(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes)
    )


NORMED = {"name": f"{__name__}:normed"}
PFEDME = {"name": "pfedme", **SGD, "lam": 5.0, "inner_lr": 0.1}


def tables(strategy: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "seed": 3,
        "rounds": ROUNDS,
        "data": {"name": "digits", "clients": CLIENTS, "samples": 400, "server_test_share": 0.2},
        "model": {"name": "mlp", "hidden": [16]},
        "strategy": strategy,
        "simulation": {"grid": "in-process", "stacked": False, "traced": False},  # no engine is tried out
        **more,
    }


def data_of(run: fedtl.Run) -> Federation:
    config = build(dict(run.config))
    return federate(config.data, config.seed)


def accuracy(module: nn.Module, frame: DataSchema, federation: Federation, rows: NDArray[np.int64]) -> float:
    x = torch.from_numpy(federation.x[rows]).float() * torch.tensor(frame.scale) + torch.tensor(frame.shift)
    assert not module.training
    with torch.no_grad():
        return float((module(x).argmax(1).numpy() == federation.y[rows]).mean())


def through_file(exported: Exported, folder: Path) -> tuple[nn.Module, DataSchema, About]:
    write_safetensors(exported, folder / "exported.safetensors")
    return load_exported(folder / "exported.safetensors")


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """The same numbers by the same names; a run's file has counts of batches as vectors of one."""
    return one.keys() == other.keys() and all(torch.equal(t, other[name].reshape(t.shape)) for name, t in one.items())


def check_clients(run: fedtl.Run, folder: Path, which: str, clients: Sequence[int] = range(CLIENTS)) -> None:
    """Each client's exported model has the accuracy that the record says, and they are not all one model."""
    federation, recorded = data_of(run), run.client_scores()["personal/clients"]
    vectors = []
    for client in clients:
        module, frame, about = through_file(model_of_run(run.path, client), folder)
        assert (about.which, about.client, about.personal, about.round) == ("personalised", client, which, ROUNDS)
        assert accuracy(module, frame, federation, federation.test[client]) == recorded[client]
        vectors.append(torch.cat([tensor.double().flatten() for tensor in module.state_dict().values()]))
    assert not any(torch.equal(vectors[0], other) for other in vectors[1:])
    assert len({*recorded}) > 1
    assert recorded.mean() > 0.3  # ten classes


@pytest.fixture(scope="module")
def pfedme(tmp_path_factory: pytest.TempPathFactory) -> fedtl.Run:
    return fedtl.run(tables(PFEDME, evaluate={"personal": "stored"}), out=tmp_path_factory.mktemp("pfedme") / "run")


@pytest.mark.parametrize(
    ("model", "strategy"),
    [({"name": "cnn"}, {}), (NORMED, {}), ({"name": "mlp"}, {"frozen": ["features"]})],
    ids=["cnn", "batch norm", "frozen"],
)
def test_the_global_model_is_the_recorded_one(model: dict[str, Any], strategy: dict[str, Any], tmp_path: Path) -> None:
    run = fedtl.run(tables({"name": "fedavg", **SGD, **strategy}, model=model), out=tmp_path / "run")
    federation = data_of(run)
    module, frame, about = through_file(model_of_run(run.path), tmp_path)
    assert accuracy(module, frame, federation, federation.server_test) == run.last()["global/server-test"].value
    assert (about.which, about.client, about.method, about.round) == ("global", None, "fedavg", ROUNDS)
    written = run.state_dict()
    assert module.state_dict().keys() == written.keys()
    assert equal(module.state_dict(), written)
    (run.path / "model.safetensors").unlink()  # as in a run that is going on
    assert equal(model_of_run(run.path).module.state_dict(), written)


def test_a_run_that_goes_on_has_the_model_of_its_checkpoint(tmp_path: Path) -> None:
    config = tables({"name": "fedavg", **SGD})
    short = fedtl.run({**config, "rounds": 2}, out=tmp_path / "short")
    long = fedtl.run({**config, "rounds": 2}, out=tmp_path / "long")
    fedtl.run({**config, "rounds": 4}, out=long.path, resume=True)
    # A crash after the last checkpoint, before the final model is written, leaves the one of two rounds.
    shutil.copy(short.path / "model.safetensors", long.path / "model.safetensors")
    exported = model_of_run(long.path)
    federation = data_of(long)
    assert exported.about.round == 4
    assert (
        accuracy(exported.module, exported.frame, federation, federation.server_test)
        == fedtl.load(long.path).last()["global/server-test"].value
    )
    assert not torch.equal(exported.module.state_dict()["head.weight"], short.state_dict()["head.weight"])
    shutil.rmtree(long.path / "checkpoint")
    with pytest.raises(ConfigError, match=r"holds no checkpoint \(yet\)"):
        model_of_run(long.path)


def test_weights_that_a_run_began_with_may_be_gone(tmp_path: Path) -> None:
    first = fedtl.run(tables({"name": "fedavg", **SGD}), out=tmp_path / "first")
    model = {"name": "mlp", "hidden": [16], "pretrained": str(first.path)}
    strategy = {"name": "fedavg", **SGD, "frozen": ["features"]}
    run = fedtl.run(tables(strategy, model=model), out=tmp_path / "run")
    shutil.rmtree(first.path)
    exported = model_of_run(run.path)
    assert equal(exported.module.state_dict(), run.state_dict())
    assert exported.about.model == {"name": "mlp", "hidden": [16]}


def test_personalised_models_out_of_memories_are_the_recorded_ones(pfedme: fedtl.Run, tmp_path: Path) -> None:
    check_clients(pfedme, tmp_path, "stored")
    module, _, _ = through_file(model_of_run(pfedme.path, 2), tmp_path)
    theta = MemoryStore(pfedme.path / "memories").load(2, ROUNDS + 1)["theta"]
    assert torch.equal(Layout.of(module).flatten(module), theta)


def test_a_kept_model_of_a_run_that_scores_fresh_ones(tmp_path: Path) -> None:
    run = fedtl.run(tables(PFEDME), out=tmp_path / "run")
    check_clients(run, tmp_path, "adapted", [0, 3])
    kept, theta = model_of_run(run.path, 2, "stored"), MemoryStore(run.path / "memories").load(2, ROUNDS + 1)["theta"]
    assert kept.about.personal == "stored"
    assert torch.equal(Layout.of(kept.module).flatten(kept.module), theta)


def test_fresh_models_are_the_recorded_ones(tmp_path: Path) -> None:
    strategy = {"name": "fedavg-finetune", **SGD, "finetune_steps": 4}
    check_clients(fedtl.run(tables(strategy), out=tmp_path / "run"), tmp_path, "adapted")


def test_fresh_models_are_made_as_the_phase_says(tmp_path: Path) -> None:
    phases = [
        {"rounds": 1, "objective": [{"term": "cross_entropy"}]},
        {
            "rounds": 2,
            "strategy": {"lr": 0.2},
            "objective": [{"term": "cross_entropy"}, {"term": "distillation", "teacher": "phase", "ramp": "linear"}],
        },
    ]
    config = tables({"name": "fedavg-finetune", **SGD}, phases=phases)
    del config["rounds"]
    check_clients(fedtl.run(config, out=tmp_path / "run"), tmp_path, "adapted", [0, 3])


@pytest.mark.parametrize("private", ["batch-norm", "head"])
def test_the_global_model_with_a_clients_private_parts(private: str, tmp_path: Path) -> None:
    run = fedtl.run(tables({"name": "fedavg", **SGD, "private": [private]}, model=NORMED), out=tmp_path / "run")
    check_clients(run, tmp_path, "partial")
    one, other = (model_of_run(run.path, client).module.state_dict() for client in (0, 1))
    own = {name for name in one if not torch.equal(one[name], other[name])}
    norm = {"1.weight", "1.bias", "1.running_mean", "1.running_var"}
    assert own == (norm if private == "batch-norm" else {"4.weight", "4.bias"})
    with pytest.raises(ConfigError, match=r"strategy\.private = .* stays at the clients"):
        model_of_run(run.path)


def test_a_terms_own_module(tmp_path: Path) -> None:
    objective = [{"term": "cross_entropy"}, {"term": "mutual", "peer": {"name": "mlp", "hidden": [7]}}]
    run = fedtl.run(tables({"name": "fedavg", **SGD}, objective=objective), out=tmp_path / "run")
    check_clients(run, tmp_path, "partial")
    assert model_of_run(run.path, 0).about.model == {"name": "mlp", "hidden": [7]}
    exported, federation = model_of_run(run.path), data_of(run)
    assert exported.about.model == {"name": "mlp", "hidden": [16]}
    recorded = run.last()["global/server-test"].value
    assert accuracy(exported.module, exported.frame, federation, federation.server_test) == recorded


class Unnamed(Mutual):
    def personal_module(self) -> str | None:
        return "buddy"

    def private(self) -> frozenset[str]:
        return frozenset({"buddy"})

    def modules(self, sizes: Any) -> dict[str, nn.Module]:
        return {"buddy": super().modules(sizes)["peer"]}

    def module(self, context: TermContext, name: str) -> nn.Module:
        return super().module(context, "buddy")


def test_a_term_that_does_not_tell_its_network(tmp_path: Path) -> None:
    objective = [{"term": "cross_entropy"}, {"term": f"{__name__}:Unnamed", "name": "mine"}]
    run = fedtl.run(tables({"name": "fedavg", **SGD}, objective=objective), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="the term 'mine' does not tell which network its module 'buddy' is"):
        model_of_run(run.path, 0)


def test_clients_of_unlike_models_that_train_alone(tmp_path: Path) -> None:
    config = tables({"name": "local", **SGD}, models=[{"name": "mlp", "hidden": [16]}, {"name": "logistic"}])
    config["evaluate"] = {"personal": "stored"}
    del config["model"]
    run = fedtl.run(config, out=tmp_path / "run")
    check_clients(run, tmp_path, "stored")
    assert [model_of_run(run.path, client).about.model["name"] for client in (0, 1, 2)] == ["mlp", "logistic", "mlp"]
    with pytest.raises(ConfigError, match="a run of 'local', which trains no global model; add --client"):
        model_of_run(run.path)


def test_who_has_no_model_of_its_own(pfedme: fedtl.Run, tmp_path: Path) -> None:
    fedavg = fedtl.run(tables({"name": "fedavg", **SGD}), out=tmp_path / "fedavg")
    with pytest.raises(ConfigError, match="--client = 1: fedavg gives clients no model of their own"):
        model_of_run(fedavg.path, 1)
    some = {**PFEDME, "clients_per_round": 1}
    run = fedtl.run(tables(some, rounds=1, evaluate={"personal": "stored"}), out=tmp_path / "some")
    (trained,) = MemoryStore(run.path / "memories").clients()
    with pytest.raises(ConfigError, match=rf"it has no memory in .* holds those of 1 client, the first is {trained}"):
        model_of_run(run.path, (trained + 1) % CLIENTS)
    finetune = fedtl.run(tables({"name": "fedavg-finetune", **SGD}), out=tmp_path / "finetune")
    with pytest.raises(
        ConfigError, match="fedavg-finetune always makes a client's own model of the present global one"
    ):
        model_of_run(finetune.path, 0, "stored")
    with pytest.raises(ConfigError, match=r"--client = 5: there is no such client in .*; ids are 0 to 4"):
        model_of_run(pfedme.path, 5)
    with pytest.raises(ConfigError, match=r"--client = 'bob': .* knows no client of that name"):
        model_of_run(pfedme.path, "bob")


def test_a_memory_of_before_a_restart_is_none_of_the_present_model(tmp_path: Path) -> None:
    plain = [{"term": "cross_entropy"}]
    phases = [{"rounds": 2, "objective": plain}, {"rounds": 1, "restart": True, "objective": plain}]
    config = tables({**PFEDME, "clients_per_round": 2}, phases=phases, evaluate={"personal": "stored"})
    del config["rounds"]
    run = fedtl.run(config, out=tmp_path / "run")
    trained = [{*line["clients"]} for line in run.rounds]
    before = (trained[0] | trained[1]) - trained[2]
    never = {*range(CLIENTS)} - trained[0] - trained[1] - trained[2]
    assert before  # else there is nothing to see
    for client in before:
        last = max(round for round, sampled in enumerate(trained, 1) if client in sampled)
        with pytest.raises(ConfigError) as refused:
            model_of_run(run.path, client)
        assert str(refused.value).endswith(
            f"is of round {last}, and the model began anew in round 3 (phases.restart); it has not trained since, so "
            "it has no model of its own"
        )
    for client in trained[2]:
        assert model_of_run(run.path, client).about.personal == "stored"
    for client in never:
        with pytest.raises(ConfigError, match=f"holds those of 2 clients, the first is {min(trained[2])}$"):
            model_of_run(run.path, client)


class Scaled(nn.Module):
    """Its input's scales are no parameters: drawn, and kept in one way or another."""

    scales: Tensor

    def __init__(self, input_shape: tuple[int, ...], classes: int, kept: str) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes)
        scales = torch.rand(64) if kept != "made alike" else torch.linspace(0, 1, 64)
        if kept == "attribute":
            self.scales = scales
        else:
            self.register_buffer("scales", scales, persistent=kept == "buffer")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1) * self.scales)
        return logits


@pytest.mark.parametrize(
    ("kept", "lacks"),
    [("buffer", ""), ("made alike", ""), ("not persistent", "'scales'"), ("attribute", "as a tensor that __init__")],
)
def test_a_model_that_its_state_dict_does_not_make(kept: str, lacks: str, tmp_path: Path) -> None:
    """Whoever opens the file would have other numbers than were scored."""
    model = {"name": f"{__name__}:Scaled", "kept": kept}
    run = fedtl.run(tables({"name": "fedavg", **SGD}, model=model, rounds=1), out=tmp_path / "run")
    noted = any("no file of the model will have 'scales'" in note for note in run.environment["notes"])
    assert noted == (kept in ("not persistent", "made alike"))
    if lacks:
        with pytest.raises(ConfigError, match=rf"gives other outputs than the run's; what it lacks there \({lacks}"):
            model_of_run(run.path)
    else:
        federation = data_of(run)
        module, frame, _ = through_file(model_of_run(run.path), tmp_path)
        assert accuracy(module, frame, federation, federation.server_test) == run.last()["global/server-test"].value


@pytest.fixture
def deployed(pfedme: fedtl.Run, tmp_path: Path) -> Path:
    """The folder as a deployed run's: its data are elsewhere, and its clients have names."""
    folder = tmp_path / "deployed"
    shutil.copytree(pfedme.path, folder)
    DataSchema.of(data_of(pfedme)).write(folder / "frame.json")
    file = folder / "config.toml"
    file.write_text(file.read_text().replace('name = "digits"', 'name = "npz"\npath = "/nowhere"'))
    about = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**about, "names": ["ann", "bob", "cy", "dee", "eve"]}))
    return folder


def test_a_deployed_run_needs_no_data(pfedme: fedtl.Run, deployed: Path) -> None:
    assert equal(model_of_run(deployed).module.state_dict(), model_of_run(pfedme.path).module.state_dict())
    for client in ("bob", 1, "1"):
        exported = model_of_run(deployed, client)
        assert equal(exported.module.state_dict(), model_of_run(pfedme.path, 1).module.state_dict())
        assert (exported.about.client, exported.about.client_name) == (1, "bob")
    with pytest.raises(ConfigError, match="knows no client of that name; did you mean 'bob'"):
        model_of_run(deployed, "bobb")
    with pytest.raises(ConfigError, match="--client = 5: there is no such client"):
        model_of_run(deployed, 5)


def test_a_deployed_clients_folder(pfedme: fedtl.Run, deployed: Path) -> None:
    """It holds its own memory alone, which may be a round ahead of the last global model that it has received."""
    for file in deployed.glob("memories/*/*"):
        if file.name != f"3-{ROUNDS}.safetensors":
            file.unlink()
    (deployed / "rounds.jsonl").unlink()
    (deployed / "environment.json").write_text(json.dumps({"names": ["", "", "", "dee", ""]}))
    checkpoint = read_checkpoint(deployed)
    assert checkpoint is not None
    Recorder(deployed).checkpoint(Checkpoint(ROUNDS - 1, 0 * checkpoint.w, {}, 0.0))
    own = model_of_run(deployed, "dee")
    assert (own.about.client, own.about.client_name) == (3, "dee")
    assert equal(own.module.state_dict(), model_of_run(pfedme.path, 3).module.state_dict())
    assert not any(tensor.any() for tensor in model_of_run(deployed).module.state_dict().values())
    with pytest.raises(ConfigError, match=r"--client = 4: it has no memory in .*, the first is 3"):
        model_of_run(deployed, 4)
    with pytest.raises(ConfigError, match="knows no client of that name; known: dee"):
        model_of_run(deployed, "")


def test_a_deployed_run_makes_no_fresh_model(deployed: Path) -> None:
    with pytest.raises(ConfigError, match="holds no samples; --personal stored gives the one that the client kept"):
        model_of_run(deployed, 3, "adapted")


def test_the_file_says_what_it_is(pfedme: fedtl.Run, tmp_path: Path) -> None:
    exported = model_of_run(pfedme.path, 1)
    write_safetensors(exported, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        (text,) = file.metadata().values()
    meta = json.loads(text)
    assert (meta["format"], meta["fedtl"], meta["which"], meta["client"]) == (1, fedtl.__version__, "personalised", 1)
    assert (meta["method"], meta["round"], meta["model"]) == ("pfedme", ROUNDS, {"name": "mlp", "hidden": [16]})
    assert DataSchema.from_json(json.dumps(meta["frame"])).to_json() == DataSchema.of(data_of(pfedme)).to_json()
    _, frame, about = fedtl.load_exported(tmp_path / "m.safetensors")
    assert about == exported.about
    assert frame.to_json() == exported.frame.to_json()
    assert not list(tmp_path.glob("*.unfinished"))


def rewritten(exported: Exported, file: Path, change: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Path:
    write_safetensors(exported, file)
    metadata = {KEY: json.dumps({**json.loads(exported.about.model_dump_json()), **change})}
    save_file(load_file(file) if tensors is None else tensors, file, metadata)
    return file


def test_what_is_no_exported_model(pfedme: fedtl.Run, tmp_path: Path) -> None:
    exported, file = model_of_run(pfedme.path), tmp_path / "m.safetensors"
    with pytest.raises(ConfigError, match="there is no such file; fedtl export RUN -o nothing"):
        load_exported(tmp_path / "nothing")
    file.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        load_exported(file)
    with pytest.raises(ConfigError, match=r"is no exported model.*; fedtl export makes one"):
        load_exported(pfedme.path / "model.safetensors")
    with pytest.raises(ConfigError, match="has format 2, and this fedtl reads 1"):
        load_exported(rewritten(exported, file, {"format": 2}))
    with pytest.raises(ConfigError, match=r"metadata\.which = 'other'"):
        load_exported(rewritten(exported, file, {"which": "other"}))
    with pytest.raises(ConfigError, match="frame: shape is"):
        load_exported(rewritten(exported, file, {"frame": {**exported.about.frame, "shape": []}}))
    state = dict(exported.module.state_dict())
    with pytest.raises(ConfigError, match=r"it has no tensor 'head\.bias', so it is no MLP"):
        load_exported(rewritten(exported, file, {}, {n: t for n, t in state.items() if n != "head.bias"}))
    with pytest.raises(ConfigError, match="has no place for its tensor 'more'"):
        load_exported(rewritten(exported, file, {}, {**state, "more": torch.zeros(1)}))
    with pytest.raises(ConfigError, match="give the model the options that it was trained with"):
        load_exported(rewritten(exported, file, {"model": {"name": "mlp", "hidden": [15]}}))


def untrained(model: dict[str, Any], dtype: str, shape: tuple[int, ...] = SHAPE) -> Exported:
    """A model with random numbers, and a normalisation of its own for every pixel."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, shape).astype(np.float32) / (255 if dtype == "uint8" else 1)
    frame = DataSchema(shape, dtype, 10, (), scale, rng.normal(size=shape).astype(np.float32))  # type: ignore[arg-type]
    module = build_model(read_model(model), shape, 10, 0)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in module.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    about = About(
        format=1,
        fedtl="0",
        which="global",
        experiment="x",
        seed=0,
        method="fedavg",
        round=1,
        model=model,
        frame=json.loads(frame.to_json()),
    )
    return Exported(module.eval(), frame, about)


def stored(rng: np.random.Generator, n: int, frame: DataSchema) -> NDArray[Any]:
    if frame.dtype == "uint8":
        return rng.integers(0, 256, (n, *frame.shape), np.uint8)
    return rng.normal(size=(n, *frame.shape)).astype(np.float32)


@needs_onnx
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("model", [{"name": "mlp"}, {"name": "cnn"}, NORMED], ids=["mlp", "cnn", "batch norm"])
def test_onnx_gives_the_modules_logits(model: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    import onnxruntime

    exported = untrained(model, dtype)
    write_onnx(exported, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (x,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape[1:], x.type) == ("x", list(SHAPE), f"tensor({'float' if dtype == 'float32' else dtype})")
    assert (logits.name, logits.shape[1:]) == ("logits", [10])
    assert json.loads(session.get_modelmeta().custom_metadata_map[KEY]) == json.loads(exported.about.model_dump_json())
    rng = np.random.default_rng(1)
    for n in (1, 2, 33):
        raw = stored(rng, n, exported.frame)
        inputs = raw.astype(np.float64) * exported.frame.scale + exported.frame.shift
        with torch.no_grad():
            expected = exported.module(torch.from_numpy(inputs).float()).numpy()
            np.testing.assert_allclose(
                OnStored(exported.module, exported.frame)(torch.from_numpy(raw)), expected, atol=1e-5
            )
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(session.run(None, {"x": raw})[0], expected, rtol=0, atol=1e-5)


class Shifting(nn.Module):
    """What torch cannot trace: which way it goes depends on the samples."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out if x.sum() > 0 else -out


@needs_onnx
def test_a_model_that_cannot_be_exported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exported = untrained({"name": f"{__name__}:Shifting"}, "float32")
    with pytest.raises(ConfigError, match=r"Shifting' cannot be exported to ONNX: .*; \.safetensors can$"):
        write_onnx(exported, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    if find_spec("onnx") is None:
        pytest.skip("onnx itself is not installed, which the same sentence would name")
    with pytest.raises(ConfigError, match=r'^ONNX needs the package onnxscript: pip install "fedtl\[onnx\]"$'):
        write_onnx(untrained({"name": "mlp"}, "uint8"), tmp_path / "m.onnx")


def test_only_torch_is_needed_to_use_a_model(pfedme: fedtl.Run, tmp_path: Path) -> None:
    import subprocess
    import sys

    write_safetensors(model_of_run(pfedme.path), tmp_path / "m.safetensors")
    script = "import sys, fedtl; fedtl.load_exported('m.safetensors'); print({'flwr', 'ray'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def named_frame() -> DataSchema:
    one = np.ones((), np.float32)
    return DataSchema((2,), "float32", 3, ("ant", "bee", "cow"), one, 0 * one)


def test_predictions_go_by_names_and_in_blocks(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1001, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.where(x[:, 0] > 0, "cow", "ant"))
    seen: list[NDArray[Any]] = []

    def logits(block: NDArray[Any]) -> NDArray[np.float32]:
        """A bee where the second number is below 0; else right."""
        seen.append(block)
        cow = np.sign(block[:, 0])
        return np.stack([-cow, 9 * -np.sign(block[:, 1]), cow], 1).astype(np.float32)

    frame = named_frame()
    samples = read_samples(tmp_path / "data.npz", frame)
    predictions = predict(Model(frame, untrained({"name": "mlp"}, "uint8").about, logits), samples)
    assert [len(block) for block in seen] == [500, 500, 1]
    assert np.array_equal(np.concatenate(seen), x)
    assert predictions.accuracy == (x[:, 1] > 0).mean()
    predictions.write(tmp_path / "p.csv")
    header, *lines = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "sample,label,p(ant),p(bee),p(cow)"
    labels = [line.split(",")[1] for line in lines]
    assert labels == ["bee" if b < 0 else "cow" if a > 0 else "ant" for a, b in x.tolist()]
    odds = np.exp([-1, -9, 1]) / np.exp([-1, -9, 1]).sum()
    cells = next(line.split(",") for line in lines if line.split(",")[1] == "cow")
    np.testing.assert_allclose(np.array(cells[2:], np.float64), odds, rtol=1e-5)


def test_a_class_that_the_model_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,kind,b\n1,ant,2\n3,dog,4\n")
    with pytest.raises(ConfigError, match="has the label 'dog', which is none of this experiment's: ant, bee, cow"):
        read_samples(tmp_path / "data.csv", named_frame(), "kind")
    (tmp_path / "data.csv").write_text("a,kind,b\n1,ant,2\n3,cow,4\n")
    samples = read_samples(tmp_path / "data.csv", named_frame(), "kind")
    assert samples.y is not None
    assert (samples.x.tolist(), samples.y.tolist(), samples.names) == ([[1, 2], [3, 4]], [0, 2], ["0", "1"])
