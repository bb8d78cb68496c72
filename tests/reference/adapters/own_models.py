"""Methods with a model of one's own beside the global one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import torch

from tests.reference.adapter import Adapter, memory, weighting
from tests.reference.cases import Case
from tests.reference.study import After, Study


class Ditto(Adapter):
    cases = ("ditto",)
    strategy = "ditto"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {"lr": o["lr"], "lam": o["lam"], "personal_lr": o.get("personal_lr", o["lr"]), **weighting(case)}
        local, personal = self.epochs(case, 0, 0), self.epochs(case, 0, 1)
        own |= {"local_epochs": local} | ({} if personal == local else {"personal_epochs": personal})
        return own if case.variant else {**own, "personal_start": "received"}

    def epochs(self, case: Case, client: int, loop: int) -> int:
        local = case.hyper.get("local_epochs", None) or case.hyper["local_iters"]
        return int(case.hyper.get("personal_epochs", local) if loop else local)

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "w":
            return study.theirs(after.trained[client].uploads["w"])
        # As "model" stands, for a client that has never been sampled, the present global model.
        first = {"v": study.initial, "model": after.w}[name]
        return study.theirs(memory(after, client, "v", first))


class APFL(Adapter):
    cases = ("apfl",)
    strategy = "apfl"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {name: o[name] for name in ("lr", "alpha", "adaptive", "local_steps")}
        return {**own, "mixing": "outputs", **weighting(case)}

    def batches(self, case: Case, client: int, loop: int) -> Sequence[Sequence[int]] | None:
        epoch = case.epoch(client)
        return None if epoch is None else [*islice(cycle(epoch), int(case.hyper["local_steps"]))]

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "alpha":
            return memory(after, client, "alpha", torch.tensor([float(study.case.hyper["alpha"])]))
        if name == "w":
            return study.theirs(after.trained[client].uploads["w"])
        return study.theirs(memory(after, client, {"v": "v"}[name], study.initial))
