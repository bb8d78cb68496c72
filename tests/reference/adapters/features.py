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
from tests.reference.adapter import FLOAT32, Adapter, Pair, local_sgd, weighting
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
        more = {"local_epochs": o["body_epochs"], "smallest_weight": o["eps"], **local_sgd(case, self.strategy)}
        return {**own, **more, **weighting(case)}

    def epochs(self, case: Case, client: int, loop: int) -> int:
        of_head = loop == 0 and case.hyper["head_epochs"]
        return int(case.hyper["head_epochs" if of_head else "body_epochs"])

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        return study.theirs({"model": with_head(study.layout, after.w, after.tables["phi"][client])}[name])

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        classes = study.case.inputs["classes"]
        if name == "protos":
            assert client is not None  # it is a class
            return after.statistics["prototype"][classes:].view(classes, -1)[client]
        h, V = (self.rows(study, after, each) for each in ("h", "V"))
        if name == "head_weights":
            weights = combination(h, V[:, 0])  # as recorded: small ones are 0, and the others not yet scaled up
            return weights * (weights > study.case.hyper["eps"])
        return {"mu": h, "V": V}[name]

    def rows(self, study: Study, after: After, name: str) -> Tensor:
        """What the round's clients sent, in the order in which the file lists them."""
        return torch.stack([after.trained[client].uploads[name] for client in study.case.sampled(after.round)])


class FedDBE(Adapter):
    """The initial round, which the cases tell of in ``init``, is the first one here."""

    cases = ("feddbe",)
    strategy = "feddbe"

    def options(self, case: Case) -> dict[str, Any]:
        own = {name: case.hyper[name] for name in ("lr", "local_epochs", "kappa")}
        mean = {"mu": case.hyper["momentum"]} if case.hyper["momentum"] else {"kappa": 0.0}
        return {**own, **mean, **weighting(case)}

    def initial_round(self, case: Case) -> bool:
        """Whether there is one: where features are held to nothing, or to a mean that stays at zeros, none is."""
        return bool(case.hyper["kappa"] and case.hyper["momentum"])

    def rounds(self, case: Case) -> int:
        return len(case.rounds) + self.initial_round(case)

    def prepare(self, study: Study) -> None:
        case, everybody, before = study.case, [*range(study.clients)], self.initial_round(study.case)
        study.server.sample = lambda round: everybody if round == before else case.sampled(round - before)  # type: ignore[method-assign]

    def pairs(self, case: Case, kind: EngineKind) -> Iterator[tuple[int, Pair]]:
        with tempfile.TemporaryDirectory() as folder:
            study = self.study(case, kind, Path(folder))
            case.hyper.check_all_seen()
            rounds = study.rounds()
        if self.initial_round(case):
            initial, models = rounds.pop(0), dict(by_client(case.init.get("models", {})))
            if "global_mean" in case.init:
                yield 0, Pair("init.global_mean", initial.state["consensus"], case.init["global_mean"])
            for client, theirs in models.items():
                yield 0, Pair(f"init.models.{client}", self.models(study, initial)[client], theirs)
        for number, (after, record) in enumerate(zip(rounds, case.rounds), 1):
            for pair in self.compared(
                study, after, {**record, "clients": dict(by_client(record.get("clients") or {}))}
            ):
                yield number, pair

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "client_mean":
            own = after.memories[client].get("own")
            return torch.zeros(study.case.inputs["hidden"]) if own is None else own
        # One that stood aside has the model that all were sent before the round.
        return {"model": self.models(study, after).get(client, study.theirs(after.before))}[name]

    def models(self, study: Study, after: After) -> dict[int, Any]:
        """What the round's clients trained."""
        return {client: study.theirs(trained.uploads["w"]) for client, trained in after.trained.items()}


def by_client(recorded: Mapping[str, Any] | Sequence[Any]) -> list[tuple[int, Any]]:
    """What is recorded of each client, by name or one after another."""
    if isinstance(recorded, Mapping):
        return [(int(client), own) for client, own in recorded.items()]
    return [*enumerate(recorded)]
