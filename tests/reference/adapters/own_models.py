"""Methods with a model of one's own beside the global one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import torch

from tests.reference.adapter import Adapter, local_sgd, memory, weighting
from tests.reference.cases import Case, NotApplicableError
from tests.reference.study import After, Study


class Ditto(Adapter):
    cases = ("ditto",)
    strategy = "ditto"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {"lr": o["lr"], "lam": o["lam"], "personal_lr": o.get("personal_lr", o["lr"]), **weighting(case)}
        own |= local_sgd(case, self.strategy)
        if "local_iters" in o:  # of both models in turn
            own |= {"local_steps": o["local_iters"]}
        else:
            local, personal = self.epochs(case, 0, 0), self.epochs(case, 0, 1)
            own |= {"local_epochs": local} | ({} if personal == local else {"personal_epochs": personal})
        return {**own, "personal_start": "received"} if self.has_alias(case) else own

    def has_alias(self, case: Case) -> bool:
        """Whether it is code in which the model of a client that has not trained is the present global one."""
        return case.name == "ditto" or case.source.startswith("lgcollins/FedRep")

    def epochs(self, case: Case, client: int, loop: int) -> int:
        local = case.hyper["local_epochs"]
        return int(case.hyper.get("personal_epochs", local) if loop else local)

    def batches(self, case: Case, client: int, loop: int) -> Sequence[Sequence[int]] | None:
        """The authors count mini-batches."""
        if "local_iters" in case.hyper:
            return case.steps(client, case.hyper["local_iters"])
        return super().batches(case, client, loop)

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "w":
            return study.theirs(after.trained[client].uploads["w"])
        first = after.w if self.has_alias(study.case) else study.initial
        return study.theirs(memory(after, client, {"v": "v", "model": "v"}[name], first))


class APFL(Adapter):
    cases = ("apfl",)
    strategy = "apfl"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {name: o[name] for name in ("lr", "alpha", "adaptive", "local_steps")}
        return {**own, "mixing": "outputs", **local_sgd(case, self.strategy), **weighting(case, "uniform")}

    def batches(self, case: Case, client: int, loop: int) -> Sequence[Sequence[int]] | None:
        return case.steps(client, int(case.hyper["local_steps"]))

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "alpha":
            return memory(after, client, "alpha", torch.tensor([float(study.case.hyper["alpha"])]))
        if name == "w":
            return study.theirs(after.trained[client].uploads["w"])
        return study.theirs(memory(after, client, {"v": "v"}[name], study.initial))


class PerFedAvg(Adapter):
    cases = ("perfedavg",)
    strategy = "per-fedavg"

    def options(self, case: Case) -> dict[str, Any]:
        o, first_order = case.hyper, case.variant.startswith("fo")
        if not first_order and not case.variant.startswith("hf"):
            raise NotApplicableError(f"{case.variant!r} is no variant that is known; 'fo' and 'hf' are")
        own = {"lr": o["beta"], "alpha": o["alpha"], "hessian": "none" if first_order else "free", **weighting(case)}
        return own | {"delta": o.get("delta", 0.01), "local_steps": 6}

    def batches(self, case: Case, client: int, loop: int) -> Sequence[Sequence[int]] | None:
        """As each library takes the samples of D, D' and D''."""
        n, size, epochs = case.sizes[client], int(case.hyper["batch_size"]), int(case.hyper["local_epochs"])
        words = case.record["batches"]
        if words.startswith("disjoint pairs in stored order"):
            pairs = n // (2 * size)
            epoch = [range(start, start + size) for start in range(0, 2 * size * pairs, size)]
            return epoch * (2 * epochs)  # every client trains twice
        if not words.startswith(f"mini-batches of {size} in stored order; each meta step takes the next"):
            raise NotApplicableError(f"batches = {words!r}")
        epoch = [range(start, min(start + size, n)) for start in range(0, n, size)]
        parts = 2 if case.variant.startswith("fo") else 3
        some = cycle([batch for batch in epoch if len(batch) > 1])
        return [*islice(some, len(epoch) // parts * parts * epochs)]

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        return study.theirs({"w": after.trained[client].uploads["w"]}[name])


class Moon(Adapter):
    cases = ("moon",)
    strategy = "moon"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        o.expect(model_buffer_size=1)
        own = {name: o[name] for name in ("lr", "local_epochs", "mu", "tau")}
        return own | local_sgd(case, self.strategy) | weighting(case)

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "w":
            return study.theirs(after.trained[client].uploads["w"])
        return study.theirs(memory(after, client, {"previous": "previous model"}[name], study.initial))
