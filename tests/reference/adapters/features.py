"""Methods that send statistics of features: FedPAC."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtl.clients.heads import with_head
from fedtl.strategies.fedpac import combination
from tests.reference.adapter import FLOAT32, Adapter
from tests.reference.cases import Case
from tests.reference.study import After, Study


class FedPAC(Adapter):
    cases = ("fedpac",)
    strategy = "fedpac"

    # The weights are of differences of statistics, which magnify the rounding of these; and their solver is iterative.
    tolerance = 2 * FLOAT32

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {name: o[name] for name in ("lr", "lam", "head_lr", "head_epochs")}
        return {**own, "local_epochs": o["body_epochs"], "smallest_weight": o["eps"]}

    def epochs(self, case: Case, client: int, loop: int) -> int:
        of_head = loop == 0 and case.hyper["head_epochs"]
        return int(case.hyper["head_epochs" if of_head else "body_epochs"])

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        assert name == "model"
        vector = with_head(study.layout, after.w, after.tables["phi"][client])
        return study.theirs(vector)

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        classes = study.case.inputs["classes"]
        if name == "protos":
            assert client is not None  # it is a class
            return after.statistics["prototype"][classes:].view(classes, -1)[client]
        h, V = (self.rows(after, each) for each in ("h", "V"))
        if name == "head_weights":
            return combination(h, V[:, 0], study.case.hyper["eps"])
        return {"mu": h, "V": V}[name]

    def rows(self, after: After, name: str) -> Tensor:
        """What the round's clients sent."""
        return torch.stack([after.trained[client].uploads[name] for client in sorted(after.trained)])
