"""Six methods on the open contract, round by round against other people's code (``open_methods.json``).

The cases were computed in float64 by the code that each names; engines train in float32, hence the tolerances.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtl.clients.serving import Serving
from fedtl.data.federation import Federation, Shards
from fedtl.data.samples import Samples
from fedtl.disk.memories import MemoryStore
from fedtl.engine import Task
from fedtl.grid.in_process import InProcessGrid
from fedtl.losses.objective import Objective, read_objective
from fedtl.models.head import layer_outputs
from fedtl.models.sharing import Sharing
from fedtl.models.vector import Layout
from fedtl.server.scoring import Evaluation
from fedtl.strategies.contract import Strategy
from fedtl.wire import messages as m
from fedtl.wire.worker import Worker, WorkerPhase
from tests.methods import fedamp, fedrep, ifca, knnper, pfedhn, scaffold
from tests.parts import ENGINES, EngineKind

FILE = json.loads((Path(__file__).parent / "open_methods.json").read_text())
INPUTS, CASES = FILE["inputs"], FILE["cases"]
CLOSE: Mapping[str, float] = {"rtol": 2e-4, "atol": 2e-6}

each_engine = pytest.mark.parametrize("kind", ENGINES.values(), ids=ENGINES.keys())


class Linear(nn.Linear):
    """Whose weight a vector has as the file does, ``[out, in]``: a forward pass of one's own is not turned."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = Linear(8, 6), Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.base(x)))


def federation() -> Federation:
    """The clients' samples in the order that the file lists them: its mini-batches are of all of them."""
    clients = INPUTS["clients"]
    x = np.concatenate([np.reshape([*c["x"], *c["x_test"]], (-1, 8)) for c in clients]).astype(np.float32)
    y = np.concatenate([[*c["y"], *c["y_test"]] for c in clients]).astype(np.int64)
    train, test, start = [], [], 0
    for c in clients:
        train.append(np.arange(start, start + c["n"]))
        test.append(np.arange(start + c["n"], start + c["n"] + len(c["y_test"])))
        start += c["n"] + len(c["y_test"])

    def shards(parts: Sequence[Any]) -> Shards:
        return Shards.from_sizes(np.concatenate(parts), np.array([len(part) for part in parts]))

    one = np.ones((), np.float32)
    return Federation(x, y, 3, one, 0 * one, shards(train), shards(test), np.empty(0, np.int64))


class Study:
    """A case, run through grid, messages, worker and server."""

    def __init__(self, name: str, kind: EngineKind, method: type[Strategy], path: Path, **options: Any) -> None:
        self.case = CASES[name]
        module = Mlp() if self.case["model"] == "mlp" else Linear(8, 3)
        self.layout = Layout.of(module)
        first = self.case.get("init") or {}
        init = first.get("model", INPUTS["init"][self.case["model"]])
        self.layout.load(module, torch.tensor(init, dtype=torch.float32))
        settings = method.settings_type(name=name, batch_size=0, **options)  # type: ignore[call-arg]
        private = getattr(settings, "private", ())
        sharing = Sharing.of(module, self.layout, private, ()) if private else None
        parameters = sharing.parameters if sharing else self.layout.parameters
        self.initial = self.layout.flatten(module)
        task = Task(
            module, self.layout, Objective(read_objective(())), Samples(federation(), torch.device("cpu")), 0, sharing
        )
        nobody = Evaluation(clients=0)
        self.server = method(settings, seed=0, clients=4, parameters=parameters, evaluation=nobody)
        self.server.scores_global = False
        self.sampled = INPUTS["sampled"].get(self.case["participation"])
        if self.sampled:
            self.server.sample = lambda round: self.sampled[round - 1]  # type: ignore[method-assign]
        self.sent = task.sent(self.initial).numpy()
        received = method(settings, seed=0, clients=4, parameters=parameters).first_download(
            torch.from_numpy(self.sent)[:parameters]
        )
        object.__setattr__(task, "received", received)
        self.store = MemoryStore(path)
        self.worker = Worker(
            [WorkerPhase(kind(task), method.client_update(settings, self.layout))], self.store, self.initial
        )

    def rounds(self, number: int | None = None) -> list[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
        """After each round the global model, and the server's state."""
        grid, seen = InProcessGrid(self.worker, 4), list[Any]()

        def note(report: Any, w: Any) -> None:
            state = {name: tensor.numpy().copy() for name, tensor in self.server.state.items()}
            seen.append((w.copy(), state))

        self.server.max_failures = 0.0
        self.server.start(grid, m.pack(self.sent), number or len(self.case["rounds"]), on_round=note)
        return seen

    def memory(self, client: int) -> dict[str, Tensor]:
        return self.store.load(client, 10**6)


def close(ours: Any, theirs: Any, **tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(ours).reshape(-1), np.asarray(theirs).reshape(-1), **{**CLOSE, **tolerance})


@each_engine
@pytest.mark.parametrize("name", ["scaffold.option2"])
def test_scaffold(name: str, kind: EngineKind, tmp_path: Path) -> None:
    o = CASES[name]["hyperparameters"]
    study = Study(
        name, kind, scaffold.Scaffold, tmp_path, lr=o["lr"], local_epochs=o["local_epochs"], server_lr=o["server_lr"]
    )
    for (w, state), theirs in zip(study.rounds(), CASES[name]["rounds"], strict=True):
        close(w, theirs["global"])
        close(state["c"], theirs["server"]["c"], atol=1e-5)
    for client, c_i in theirs["server"]["c_i"].items() if isinstance(theirs["server"]["c_i"], dict) else ():
        close(study.memory(int(client))["c_i"], c_i, atol=1e-5)


@each_engine
def test_fedrep(kind: EngineKind, tmp_path: Path) -> None:
    name = "fedrep.weighted"
    o = CASES[name]["hyperparameters"]
    method = averaged(fedrep.FedRep)
    study = Study(name, kind, method, tmp_path, lr=o["lr"], local_epochs=o["body_epochs"], head_epochs=o["head_epochs"])
    for (w, _), theirs in zip(study.rounds(), CASES[name]["rounds"], strict=True):
        close(w, theirs["global"])
    for client in range(4):
        close(study.memory(client)["private parts"], theirs["clients"][str(client)]["head"])


def averaged(update: Any) -> type[Strategy]:
    from fedtl.strategies import strategy_type

    return strategy_type(f"{update.__module__}:{update.__name__}")


@each_engine
def test_fedamp(kind: EngineKind, tmp_path: Path) -> None:
    o, rounds = CASES["fedamp"]["hyperparameters"], CASES["fedamp"]["rounds"]
    study = Study(
        "fedamp",
        kind,
        fedamp.FedAMP,
        tmp_path,
        lr=o["lr"],
        local_epochs=o["local_epochs"],
        sigma=o["sigma"],
        alpha=o["alpha"],
        prox=o["lam"] / o["alpha_k_of_the_prox"],
    )
    models = CASES["fedamp"]["init"]["clients"]
    first = torch.tensor([models[str(i)] if isinstance(models, dict) else models[i] for i in range(4)])
    study.server.first_tables = lambda w: {"models": first.to(torch.float32)}  # type: ignore[method-assign]
    for client in range(4):
        study.store.save(client, 0, {"w": first[client].to(torch.float32)})
    study.rounds()
    for client in range(4):
        close(study.memory(client)["w"], rounds[-1]["clients"][str(client)]["w"])
        close(study.server.tables["models"].rows([client])[0], rounds[-1]["clients"][str(client)]["w"])


@each_engine
@pytest.mark.parametrize("name", ["ifca.logistic", "ifca.mlp"])
def test_ifca(name: str, kind: EngineKind, tmp_path: Path) -> None:
    o = CASES[name]["hyperparameters"]
    study = Study(name, kind, ifca.IFCA, tmp_path, lr=o["lr"], local_epochs=o["local_steps"], clusters=o["clusters"])
    models = torch.tensor(CASES[name]["init"]["models"], dtype=torch.float32).view(o["clusters"], -1)
    study.server.first_state = lambda w: {"models": models}  # type: ignore[method-assign]
    for (_, state), theirs in zip(study.rounds(), CASES[name]["rounds"], strict=True):
        close(state["models"], theirs["server"]["models"])
    # The models that serve the clients after the last round: chosen anew, without training.
    content = study.server.about_scoring(range(4), len(CASES[name]["rounds"]))
    served = study.worker.personal_models(content, range(4), len(CASES[name]["rounds"]), Serving.ADAPTED)
    after = theirs["server"]["assignment_after"]
    for client, model in enumerate(served):
        j = after[str(client)] if isinstance(after, dict) else after[client]
        close(model, np.reshape(theirs["server"]["models"], (o["clusters"], -1))[j])


@each_engine
def test_a_hypernetwork(kind: EngineKind, tmp_path: Path) -> None:
    case = CASES["pfedhn"]
    o = case["hyperparameters"]
    study = Study(
        "pfedhn",
        kind,
        pfedhn.PFedHN,
        tmp_path,
        lr=o["inner_lr"],
        local_epochs=o["inner_steps"],
        hyper_lr=o["lr"],
        embed_lr=o["embed_lr"],
    )
    flat = torch.tensor(case["init"]["hypernetwork"], dtype=torch.float32)
    v, phi = hypernetwork(flat)
    study.server.first_tables = lambda w: {"v": v}  # type: ignore[method-assign]
    study.server.first_state = lambda w: phi  # type: ignore[method-assign]
    study.server.sample = lambda round: [int(case["rounds"][round - 1]["client"])]  # type: ignore[method-assign]
    seen: list[Tensor] = []
    original = study.server.update

    def update(*arguments: Any) -> Any:
        state = original(*arguments)
        seen.append(study.server.models(state, study.server.tables["v"].rows(range(4))).detach())  # type: ignore[attr-defined]
        return state

    study.server.update = update  # type: ignore[method-assign]
    study.rounds()
    for models, theirs in zip(seen, case["rounds"], strict=True):
        for client in range(4):
            close(models[client], theirs["clients"][str(client)]["model"])


def hypernetwork(flat: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The embeddings ``[4, 3]`` and the network: its four last layers are rows of one matrix ``[75, 7]`` here."""
    sizes = [4 * 3, 7 * 3, 7]
    v, a, b, rest = torch.split(flat, [*sizes, len(flat) - sum(sizes)])
    outs, biases = [], []
    for rows in (48, 6, 18, 3):
        weight, bias, rest = torch.split(rest, [rows * 7, rows, len(rest) - rows * 8])
        outs.append(weight.view(rows, 7))
        biases.append(bias)
    assert not len(rest)
    return v.view(4, 3), {"a": a.view(7, 3), "b": b, "out": torch.cat(outs), "bias": torch.cat(biases)}


@each_engine
def test_knnper_answers(kind: EngineKind, tmp_path: Path) -> None:
    case = CASES["knnper"]
    study = Study("knnper", kind, knnper.KNNPerServer, tmp_path, lr=0.1, neighbours=case["hyperparameters"]["k"])
    (theirs,) = case["rounds"]
    engine, update, federation = study.worker.engine, study.worker.update, study.worker.engine.task.samples.federation
    module = Mlp() if case["model"] == "mlp" else Linear(8, 3)
    study.layout.load(module, study.initial)
    for client in range(4):
        answer = engine.answer_of(update, study.initial, client)
        assert answer is not None
        x, y = engine.task.samples.batch(federation.test[client])
        with torch.no_grad():
            logits = answer.logits(layer_outputs(module, x, ["features"]))
        close(logits.exp(), theirs["clients"][str(client)]["mixed_half"], rtol=2e-4, atol=2e-5)
        score = engine.score(study.initial, federation.test[client], answer=answer)
        assert score.correct == int((logits.argmax(1) == y).sum())
