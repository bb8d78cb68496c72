"""Methods whose personal predictors put modules of their own between features and head: FedCP and GPFL."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from fedtl.clients.fedcp import CONTEXT
from fedtl.clients.gpfl import INPUTS
from fedtl.engine.task import PRIVATE, of_method
from fedtl.models.vector import put, take
from tests.reference.adapter import Adapter, weighting
from tests.reference.cases import Case
from tests.reference.study import After, Study


def head_of(case: Case) -> Any:
    """The numbers of the first network's head."""
    return case.initial()[-case.inputs["classes"] * (case.inputs["hidden"] + 1) :]


class FedCP(Adapter):
    cases = ("fedcp",)
    strategy = "fedcp"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {name: o[name] for name in ("lr", "local_epochs", "lam", "tau")}
        codes = {"first_context": "random", "global_parts": "last"}
        return {**own, **codes, **weighting(case)}  # numbers that can be had again are without noise

    def modules(self, case: Case) -> Mapping[str, Any]:
        return {"fedcp_policy": case.record["init"]["cs"], "fedcp_head": head_of(case)}

    def prepare(self, study: Study) -> None:
        """Each client has a context of its own before it has trained."""
        sharing = study.task.sharing
        assert sharing is not None
        for client, context in study.case.record["init"]["context"].items():
            model = study.initial.clone()
            put(model, study.layout, (CONTEXT,), torch.tensor(context, dtype=torch.float32))
            study.store.save(int(client), 0, {PRIVATE: model[sharing.private]})

    def of_global(self, study: Study, after: After) -> Any:
        return study.theirs(after.w, "base")

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        return study.of_module(study.own_model(after, client), f"fedcp_{name}")

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        if name == "head":
            return study.theirs(after.w, "head")
        return study.of_module(study.task.whole(after.w, study.initial), {"cs": "fedcp_policy"}[name])


class GPFL(Adapter):
    cases = ("gpfl",)
    strategy = "gpfl"

    def options(self, case: Case) -> dict[str, Any]:
        own = {name: case.hyper[name] for name in ("lr", "local_epochs", "lam", "mu")}
        return {**own, "magnitude": "batch", "inputs": "own", **weighting(case)}

    def modules(self, case: Case) -> Mapping[str, Any]:
        return {"gpfl_valve": case.record["init"]["CoV"], "gpfl_embeddings": case.record["init"]["GCE"]}

    def of_global(self, study: Study, after: After) -> Any:
        return study.theirs(after.w, "base")

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "head":
            return study.theirs(study.own_model(after, client), "head")
        update, y, own = study.update, study.task.samples.federation.y, study.task.samples.federation.train[client]
        counts = torch.bincount(torch.from_numpy(y[own]), minlength=study.case.inputs["classes"]).to(study.initial)
        received = study.server.send(dict(after.state), [client], after.round + 1).shared
        memory = of_method(after.memories[client]) or update.first_memory({**received, "initial": study.initial})
        probe: Any = SimpleNamespace(label_counts=lambda: counts)  # nothing else is looked at
        whole = study.task.whole(after.w, study.initial)
        state = update.start({**received, "w": whole}, memory, probe)
        g, p = take(state["w"], study.layout, (INPUTS,)).chunk(2)
        return {"generic_input": g, "personal_input": p}[name]

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        own = {"GCE": "gpfl_embeddings", "CoV": "gpfl_valve"}[name]
        return study.of_module(study.task.whole(after.w, study.initial), own)
