"""Methods that send statistics of features: FedPAC, FedDBE."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedtl.clients.heads import with_head
from fedtl.strategies.fedpac import combination
from tests.parts import EngineKind
from tests.reference.adapter import FLOAT32, Adapter, Pair, weighting
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


class FedDBE(Adapter):
    """The initial round, which the cases tell of in ``init``, is the first one here."""

    cases = ("feddbe",)
    strategy = "feddbe"

    def options(self, case: Case) -> dict[str, Any]:
        own = {name: case.hyper[name] for name in ("lr", "local_epochs", "kappa")}
        return {**own, "mu": case.hyper["momentum"], **weighting(case)}

    def rounds(self, case: Case) -> int:
        return len(case.rounds) + 1

    def prepare(self, study: Study) -> None:
        case, everybody = study.case, [*range(study.clients)]
        study.server.sample = lambda round: everybody if round == 1 else case.sampled(round - 1)  # type: ignore[method-assign]

    def pairs(self, case: Case, kind: EngineKind) -> Iterator[tuple[int, Pair]]:
        with tempfile.TemporaryDirectory() as folder:
            study = self.study(case, kind, Path(folder))
            case.hyper.check_all_seen()
            initial, *rounds = study.rounds()
        init, last = case.record.get("init") or {}, self.models(study, initial)
        if "global_mean" in init:
            yield 0, Pair("init.global_mean", initial.state["consensus"], init["global_mean"])
        for client, theirs in by_client(init.get("models", {})):
            yield 0, Pair(f"init.models.{client}", last[client], theirs)
        for number, (after, record) in enumerate(zip(rounds, case.rounds), 1):
            last |= self.models(study, after)
            yield number, Pair("global", study.theirs(after.w), record["global"])
            for client, names in by_client(record["clients"]):
                ours = {"client_mean": after.memories[client]["own"], "model": last[client]}
                for name, theirs in names.items():
                    yield number, Pair(f"clients.{client}.{name}", ours[name], theirs)

    def models(self, study: Study, after: After) -> dict[int, Any]:
        """What the round's clients trained."""
        return {client: study.theirs(trained.uploads["w"]) for client, trained in after.trained.items()}


def by_client(recorded: Mapping[str, Any] | Sequence[Any]) -> list[tuple[int, Any]]:
    """What is recorded of each client, by name or one after another."""
    if isinstance(recorded, Mapping):
        return [(int(client), own) for client, own in recorded.items()]
    return [*enumerate(recorded)]
