"""Methods that try the open contract, in ``tests/methods``; fedtl does not ship them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedtl.clients.serving import Serving
from fedtl.models.head import layer_outputs
from tests.parts import EngineKind
from tests.reference.adapter import Adapter, Pair
from tests.reference.cases import Case
from tests.reference.study import After, Study


class FedAMP(Adapter):
    cases = ("fedamp",)
    strategy = "tests.methods.fedamp:FedAMP"
    shipped = False
    leaves_out: ClassVar[Mapping[str, str]] = {"u": "where w begins from; w is compared"}

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {name: o[name] for name in ("lr", "local_epochs", "sigma", "alpha")}
        return {**own, "prox": o["lam"] / o["alpha_k_of_the_prox"]}

    def prepare(self, study: Study) -> None:
        models = _of_clients(study.case.record["init"]["clients"])
        first = torch.stack([study.ours(model) for model in models])
        study.server.first_tables = lambda w: {"models": first}  # type: ignore[method-assign]
        for client, model in enumerate(first):
            study.store.save(client, 0, {"w": model})

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        assert torch.equal(after.memories[client]["w"], after.tables["models"][client])
        return study.theirs(after.memories[client][name])


class IFCA(Adapter):
    cases = ("ifca",)
    strategy = "tests.methods.ifca:IFCA"
    shipped = False

    def options(self, case: Case) -> dict[str, Any]:
        case.hyper.expect(weighting="uniform over the cluster's clients")
        o = case.hyper
        return {"lr": o["lr"], "local_epochs": o["local_steps"], "clusters": o["clusters"]}

    def prepare(self, study: Study) -> None:
        models = torch.stack([study.ours(model) for model in study.case.record["init"]["models"]])
        study.server.first_state = lambda w: {"models": models}  # type: ignore[method-assign]

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        if name == "models":
            return [study.theirs(model) for model in after.state["models"]]
        if name == "assignment_used":
            return [after.memories[each]["chosen"].argmax() for each in range(study.clients)]
        return self.chosen_after(study, after, {"assignment_after": range(study.clients)}[name])

    def compared(self, study: Study, after: After, record: Mapping[str, Any]) -> Iterator[Pair]:
        if after.round < study.number:  # what would serve clients then, the next round uses, and the server has gone on
            server = {
                name: theirs for name, theirs in (record.get("server") or {}).items() if name != "assignment_after"
            }
            record = {**record, "server": server}
        return super().compared(study, after, record)

    def chosen_after(self, study: Study, after: After, clients: Sequence[int]) -> list[int]:
        """Which models serve the clients after the last round: chosen anew, without training."""
        content = study.server.about_scoring(clients, after.round)
        served = study.worker.personal_models(content, clients, after.round, Serving.ADAPTED)
        return [int((after.state["models"] - model).square().sum(1).argmin()) for model in served]


class PFedHN(Adapter):
    cases = ("pfedhn",)
    strategy = "tests.methods.pfedhn:PFedHN"
    shipped = False
    leaves_out: ClassVar[Mapping[str, str]] = {"hypernetwork": "the models that it gives are compared, for all clients"}

    def options(self, case: Case) -> dict[str, Any]:
        case.hyper.expect(momentum=0, weight_decay=0)
        o = case.hyper
        return {"lr": o["inner_lr"], "local_epochs": o["inner_steps"], "hyper_lr": o["lr"], "embed_lr": o["embed_lr"]}

    def prepare(self, study: Study) -> None:
        v, phi = _hypernetwork(study, torch.tensor(study.case.record["init"]["hypernetwork"], dtype=torch.float32))
        study.server.first_tables = lambda w: {"v": v}  # type: ignore[method-assign]
        study.server.first_state = lambda w: phi  # type: ignore[method-assign]

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        model = study.server.models(dict(after.state), after.tables["v"][client])  # type: ignore[attr-defined]
        return study.theirs({"model": model}[name])


def _hypernetwork(study: Study, flat: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The embeddings ``[N, e]`` and the network: its last layers, a target's tensor each, are one here."""
    embedding, hidden = 3, 7
    v, a, b, rest = flat.tensor_split(list(np.cumsum([study.clients * embedding, hidden * embedding, hidden])))
    outs, biases = list[Tensor](), list[Tensor]()
    for parameter in study.task.module.parameters():
        rows = parameter.numel()
        weight, bias, rest = rest.tensor_split([rows * hidden, rows * (hidden + 1)])
        outs.append(weight.view(rows, hidden))
        biases.append(bias)
    assert not len(rest)
    out = torch.stack([study.ours(column) for column in torch.cat(outs).T], 1)
    phi = {"a": a.view(hidden, embedding), "b": b, "out": out, "bias": study.ours(torch.cat(biases))}
    return v.view(study.clients, embedding), phi


class KNNPer(Adapter):
    cases = ("knnper",)
    strategy = "tests.methods.knnper:KNNPerServer"
    shipped = False
    leaves_out: ClassVar[Mapping[str, str]] = {"accuracy": "of the answers that are compared"}

    def options(self, case: Case) -> dict[str, Any]:
        case.hyper.expect(capacity="all training samples", lam="weight of kNN")
        return {"lr": 0.1, "neighbours": case.hyper["k"], "kernel_scale": case.hyper["scale"], "mixing": 0.5}

    def pairs(self, case: Case, kind: EngineKind) -> Iterator[tuple[int, Pair]]:
        """What answers without any round of training."""
        own = {"knn": {"mixing": 1.0}, "model": {"mixing": 0.0}, "mixed_half": {"mixing": 0.5}}
        own["knn_scale_0.1"] = {"mixing": 1.0, "kernel_scale": 0.1}
        (record,) = case.rounds
        for name, options in own.items():
            with tempfile.TemporaryDirectory() as folder:
                strategy = {"name": self.strategy, **self.options(case), **options}
                study = Study(case, kind, Path(folder), strategy)
            case.hyper.check_all_seen()
            for client in range(study.clients):
                theirs = record["clients"][str(client)][name]
                yield 1, Pair(f"clients.{client}.{name}", _answers(study, client), theirs)


def _answers(study: Study, client: int) -> Tensor:
    """The probabilities ``[n, classes]`` that a client's own predictor gives its test samples."""
    engine = study.worker.engine
    answer = engine.answer_of(study.update, study.initial, client)
    assert answer is not None
    x, _ = engine.task.samples.batch(engine.task.samples.federation.test[client])
    with torch.no_grad():
        return answer.logits(layer_outputs(study.task.module, x, ["features"])).exp()


def _of_clients(recorded: Any) -> list[Any]:
    """What is recorded of all clients, in a list or by their ids."""
    if isinstance(recorded, Mapping):
        return [recorded[str(client)] for client in range(len(recorded))]
    return [*recorded]
