"""Methods that keep a part of the model at clients: FedPer, FedRep, LG-FedAvg, FedBABU, FedBN; and FedRoD."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedtl.models.composite import model_of
from tests.parts import EngineKind
from tests.reference.adapter import Adapter, Pair, local_sgd, weighting
from tests.reference.cases import Case, NotApplicableError
from tests.reference.study import After, Study

ALIAS = (
    "clients that train for the first time begin with the mean head of the last round, a fault of that code; what "
    "comes before agrees"
)
AUTHORS = "lgcollins/FedRep"
"""Where a ``source`` begins that is FedRep's authors' code."""


FROM_GLOBAL = "from the final global body"
"""Where FedBABU's fine-tuning begins, in words of the file."""


class InParts(Adapter):
    """What the cases of these methods have in common; ``shared`` is the part of the network that travels."""

    shared: ClassVar[str] = "base"

    def budget(self, case: Case) -> dict[str, Any]:
        """The options that say how much is trained."""
        return {"local_epochs": case.hyper["local_epochs"]}

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        o.expect(shared=self.shared)
        return {"lr": o["lr"], **local_sgd(case, self.strategy), **self.budget(case), **weighting(case)}

    def rounds(self, case: Case) -> int:
        """Without an entry on what comes after training."""
        return len([record for record in case.rounds if "after" not in record])

    def of_global(self, study: Study, after: After) -> Any:
        return study.theirs(after.w, self.shared)

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name in ("trained", "model"):
            return study.theirs(self.last(study)[client])
        return study.theirs(study.own_model(after, client), {"head": "head", "base": "base"}[name])

    def last(self, study: Study) -> dict[int, Tensor]:
        """What each client had trained when it last took part."""
        return study.__dict__.setdefault("last", {})  # type: ignore[no-any-return]

    def mean_of_private(self, study: Study, after: After) -> Any:
        """The mean of what the round's clients have trained and keep, by the weights of what they send."""
        trained = [after.trained[client].uploads["w"].double() for client in after.trained]
        sizes = [study.case.sizes[client] for client in after.trained]
        uniform = weighting(study.case)["weighting"] == "uniform"
        share = torch.tensor([1.0] * len(sizes) if uniform else sizes, dtype=torch.float64)
        mean = (share / share.sum()) @ torch.stack(trained)
        return study.theirs(mean.to(study.initial), "head" if self.shared == "base" else "base")

    def compared(self, study: Study, after: After, record: Mapping[str, Any]) -> Iterator[Pair]:
        """The global model in two: what is shared, and the mean of private parts, which some code keeps beside it."""
        last = self.last(study)
        last |= {client: outcome.uploads["w"] for client, outcome in after.trained.items()}
        if record.get("global") is not None:
            shared, theirs = self.of_global(study, after), record["global"]
            cut = len(shared) if self.shared == "base" else -len(shared)
            first, second = theirs[:cut], theirs[cut:]
            own, private = (first, second) if self.shared == "base" else (second, first)
            record = {**record, "global": own}
            if private:
                yield Pair("global's private part", self.mean_of_private(study, after), private)
        if self.has_alias(study.case):  # of one that has not trained it has the global network
            clients = record.get("clients") or {}
            ours = {client: names for client, names in clients.items() if int(client) in last}
            record = {**record, "clients": ours}
        yield from super().compared(study, after, record)

    def pairs(self, case: Case, kind: EngineKind) -> Iterator[tuple[int, Pair]]:
        """Everything, or what there is before the alias counts."""
        counts = self.alias_counts(case)
        for round, pair in super().pairs(case, kind):
            if counts is None or round < counts:
                yield round, pair
        if counts is not None:
            raise NotApplicableError(f"from round {counts} on, {ALIAS}")

    def has_alias(self, case: Case) -> bool:
        """Whether it is code in which clients that have not trained begin with a mean of private parts."""
        return case.name in ("fedper", "fedrep") or case.source.startswith(AUTHORS)

    def alias_counts(self, case: Case) -> int | None:
        """The first round in which a client trains for the first time that is not the very first round."""
        if not self.has_alias(case):
            return None
        known = set(case.sampled(1))
        return next((r for r in range(2, self.rounds(case) + 1) if not known >= set(case.sampled(r))), None)


class FedPer(InParts):
    cases = ("fedper",)
    strategy = "fedper"

    def options(self, case: Case) -> dict[str, Any]:
        if case.source.startswith("jhoon-oh/FedBABU"):
            raise NotApplicableError("the heads that clients train are thrown away, a fault of that code")
        return {**super().options(case), "private_start": "common"}


class FedRep(InParts):
    cases = ("fedrep",)
    strategy = "fedrep"

    def left_out(self, case: Case) -> str:
        later = [record["after"] for record in case.rounds if "after" in record]
        return f"but for what comes after training: {later[0]}" if later else ""

    def budget(self, case: Case) -> dict[str, Any]:
        return {"local_epochs": case.hyper["body_epochs"], "head_epochs": case.hyper["head_epochs"]}

    def epochs(self, case: Case, client: int, loop: int) -> int:
        return int(case.hyper["head_epochs" if loop == 0 else "body_epochs"])


class LGFedAvg(InParts):
    cases = ("lgfedavg",)
    strategy = "lg-fedavg"
    shared = "head"

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "model":  # its own base and the present head
            return study.theirs(study.own_model(after, client))
        return super().of_client(study, after, client, name)


class FedBABU(InParts):
    cases = ("fedbabu",)
    strategy = "fedbabu"

    def __init__(self) -> None:
        self.finetuning: int | None = None
        """Epochs of fine-tuning, while that is what is gone through."""

    def epochs(self, case: Case, client: int, loop: int) -> int:
        return super().epochs(case, client, loop) if self.finetuning is None else self.finetuning

    def left_out(self, case: Case) -> str:
        later = [record["after"] for record in case.rounds if "after" in record]
        if not later or FROM_GLOBAL in later[0]:
            return ""
        return f"but for the fine-tuning, which is not from the final global body: {later[0]}"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        own = {"finetune_epochs": o["fine_tune_epochs"]} if "fine_tune_epochs" in o else {}
        own |= {"finetune_lr": o["fine_tune_lr"]} if "fine_tune_lr" in o else {}
        for after in (record["after"] for record in case.rounds if "after" in record):
            if FROM_GLOBAL in after and (length := re.search(r"fine-tuning of body and head, (\d+) epochs?,", after)):
                own["finetune_epochs"] = int(length[1])
        return {**super().options(case), **own}

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "personal":
            return study.theirs(study.served(after, client))
        if name == "model":  # the global body and the head as it began
            return study.theirs(study.own_model(after, client))
        return super().of_client(study, after, client, name)

    def compared(self, study: Study, after: After, record: Mapping[str, Any]) -> Iterator[Pair]:
        """After the last round the fine-tuned models too, where they are made of the global model."""
        yield from super().compared(study, after, record)
        later = study.case.rounds[study.number :]
        if after.round == study.number and later and FROM_GLOBAL in later[0]["after"]:
            self.finetuning = self.options(study.case)["finetune_epochs"]
            try:
                pairs = [*super().compared(study, after, {"clients": later[0]["clients"]})]
            finally:
                self.finetuning = None
            yield from pairs


class FedBN(Adapter):
    cases = ("fedbn",)
    strategy = "fedbn"

    def options(self, case: Case) -> dict[str, Any]:
        case.hyper.expect(
            model="head(relu(bn(lin(x)))), bn = BatchNorm1d(6), eps 1e-5, momentum 0.1, weight 1, bias 0".replace(
                "(6)", f"({case.inputs['hidden']})"
            )
        )
        return {"lr": case.hyper["lr"], "local_epochs": case.hyper["local_epochs"], **weighting(case)}

    def pairs(self, case: Case, kind: EngineKind) -> Iterator[tuple[int, Pair]]:
        """From the mlp's first layers, and a batch-norm of ones and zeros between them."""
        mlp, hidden = case.inputs["init"]["mlp"], case.inputs["hidden"]
        base = hidden * (case.inputs["dim"] + 1)
        model = [*mlp[:base], *[1.0] * hidden, *[0.0] * hidden, *mlp[base:]]
        yield from super().pairs(case._replace(record={"init": {"model": model}, **case.record}), kind)

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        return self.tensor(study, study.own_model(after, client), f"bn.{name.removeprefix('bn_')}")

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        return self.tensor(study, study.task.whole(after.w, study.initial), name)

    def tensor(self, study: Study, vector: Tensor, name: str) -> Tensor:
        """One of the network's tensors."""
        study.layout.load(study.task.module, vector)
        return model_of(study.task.module).state_dict()[name].clone()


class FedRoD(Adapter):
    cases = ("fedrod",)
    strategy = "fedrod"

    def options(self, case: Case) -> dict[str, Any]:
        if "hyper" in case.variant:
            raise NotApplicableError("a hypernetwork's numbers, and how it is laid out, are not known")
        own = {name: case.hyper[name] for name in ("lr", "personal_lr", "local_epochs")}
        return {**own, "personal_start": "generic", **weighting(case)}

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "g_model":
            return study.theirs(after.trained[client].uploads["w"])
        memory = {"p_head": after.memories[client]}[name]
        if not memory:
            return study.theirs(study.initial, "head")
        nothing = torch.zeros_like(study.initial)[: study.layout.parameters]
        return study.theirs(study.update.with_head(nothing, memory["phi"]), "head")  # type: ignore[attr-defined]
