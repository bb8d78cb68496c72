"""Averaging, and methods against client drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tests.reference.adapter import Adapter, local_sgd, memory, weighting
from tests.reference.cases import Case, NotApplicableError
from tests.reference.study import After, Study


def zeros(study: Study) -> torch.Tensor:
    return torch.zeros(study.layout.parameters)


class Scaffold(Adapter):
    cases = ("scaffold",)
    strategy = "scaffold"

    def options(self, case: Case) -> dict[str, Any]:
        o, option = case.hyper, {"option1": "I", "option2": "II"}.get(case.variant.partition(".")[0], "II")
        options = {"lr": o["lr"], "local_epochs": self.epochs(case, 0, 0), "server_lr": o["server_lr"]}
        options |= local_sgd(case, self.strategy)
        if o.get("weighting", "uniform") == "models uniform; c weighted":
            options["mean_samples"] = np.mean(case.sizes)
        elif "weighting" in o:
            options |= weighting(case)
        return {**options, "option": option}

    def epochs(self, case: Case, client: int, loop: int) -> int:
        if "K" in case.hyper:
            return int(case.hyper["K"])
        return super().epochs(case, client, loop)

    def batches(self, case: Case, client: int, loop: int) -> Any:
        """Under option I the first loop is the pass over all samples; K counts mini-batches."""
        if case.variant.startswith("option1") and not loop:
            return [[*range(case.sizes[client])]]
        return case.steps(client, case.hyper["K"]) if "K" in case.hyper else super().batches(case, client, loop)

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        return study.theirs({"y": after.trained[client].uploads["w"]}[name])

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        if client is None:
            return study.theirs(after.state[name])
        return study.theirs(memory(after, client, name, zeros(study)))


class FedAvg(Adapter):
    """Of its own, or with a proximal term."""

    cases = ("fedavg", "fedprox")
    strategy = "fedprox"

    def options(self, case: Case) -> dict[str, Any]:
        mu = {"mu": case.hyper["mu"] if case.method == "fedprox" else 0.0}
        local = {"lr": case.hyper["lr"], "local_epochs": self.epochs(case, 0, 0), **local_sgd(case, self.strategy)}
        return {**local, **mu, **weighting(case)}

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        trained = after.trained[client].uploads["w"]
        return study.theirs({"w": trained, "trained": trained}[name])


class FedAvgM(Adapter):
    cases = ("fedavgm",)
    strategy = "fedavgm"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        server = {"lr": o["server_lr"], "momentum": o["momentum"]}
        local = {"lr": o["lr"], "local_epochs": self.epochs(case, 0, 0)}  # the momentum is the server's
        return {**local, "server": server, **weighting(case)}

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        """Theirs falls along v, and ours climbs along m = -v."""
        return -study.theirs({"momentum": after.state["m"]}[name])


class QFedAvg(Adapter):
    cases = ("qffl",)
    strategy = "qfedavg"

    def options(self, case: Case) -> dict[str, Any]:
        o, L = case.hyper, case.hyper.get("L", "1/lr")
        o.expect(weighting="uniform")
        own = {} if L == "1/lr" else {"lipschitz": L}
        local = {"lr": o["lr"], "local_epochs": self.epochs(case, 0, 0), **local_sgd(case, self.strategy)}
        return {"q": o["q"], **own, **local}

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        """Of the round's clients, as the file lists them."""
        uploads = [after.trained[each].uploads for each in study.case.sampled(after.round)]
        return {"h": [study.server.h(each) for each in uploads]}[name]  # type: ignore[attr-defined]


def alpha_of(case: Case) -> dict[str, Any]:
    """The options of one α for all clients, or of one each."""
    case.hyper.expect(alpha_client="alpha * mean(n)/n_i")
    own = {"mean_samples": np.mean(case.sizes)} if "alpha_client" in case.hyper else {}
    return {"alpha": case.hyper["alpha"], **own}


class FedDyn(Adapter):
    cases = ("feddyn",)
    strategy = "feddyn"

    def options(self, case: Case) -> dict[str, Any]:
        local = {"lr": case.hyper["lr"], "local_epochs": self.epochs(case, 0, 0), **local_sgd(case, self.strategy)}
        return {**local, **alpha_of(case), **weighting(case, "uniform")}

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "theta":
            return study.theirs(after.trained[client].uploads["w"])
        alpha = study.update.alpha(torch.tensor([float(study.case.sizes[client])]))  # type: ignore[attr-defined]
        gradient = memory(after, client, "gradient", zeros(study))
        return study.theirs({"grad_memory": -gradient / alpha}[name])

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        mean = torch.stack([trained.uploads["w"] for trained in after.trained.values()]).mean(0)
        return study.theirs({"mean_of_sampled": mean}[name])


class FedNova(Adapter):
    cases = ("fednova",)
    strategy = "fednova"

    def options(self, case: Case) -> dict[str, Any]:
        o = case.hyper
        o.expect(weighting="p_i = n_i/n")
        momentum, mu, gmf = (o.get(name, 0.0) for name in ("momentum", "mu", "gmf"))
        if momentum and mu and case.source.startswith("JYWa/FedNova"):
            raise NotApplicableError(
                "under momentum and mu together that code adds one norm to the other, and the pull of mu to its buffer"
            )
        options = {"lr": o["lr"], "local_epochs": 1, "mu": mu, **local_sgd(case, self.strategy)}
        if mu:
            options["effective_steps"] = "steps"
        if gmf:
            options["server"] = {"name": "momentum", "momentum": gmf}
        return options

    def epochs(self, case: Case, client: int, loop: int) -> int:
        if "local_epochs_per_client" not in case.hyper:
            return super().epochs(case, client, loop)
        each = case.hyper["local_epochs_per_client"]
        return int(each[str(client)] if isinstance(each, Mapping) else each[client])

    def batches(self, case: Case, client: int, loop: int) -> Any:
        """Clients go through unlike numbers of epochs, which no config can say."""
        epoch = case.epoch(client) or case.steps(client, 1)
        return epoch * self.epochs(case, client, loop)

    def prepare(self, study: Study) -> None:
        """The server reads the numbers of steps off the config, too."""

        def steps_of(client: int, samples: int, round: int) -> int:
            return len(self.batches(study.case, client, 0))

        study.server.steps_of = steps_of  # type: ignore[attr-defined]

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        trained = after.trained[client]
        norm = study.update.settings.norm(trained.steps)
        if name in ("tau", "a_norm1"):
            return {"tau": trained.steps, "a_norm1": norm}[name]
        before = after.before
        return study.theirs({"trained": before - norm * (before - trained.uploads["w"])}[name])


class FedDC(Adapter):
    """The authors' code, with the factors of the clients' samples or without."""

    cases = ("feddc",)
    strategy = "feddc"

    def options(self, case: Case) -> dict[str, Any]:
        own = {"correction": "scaffold", "drifts": "all", **alpha_of(case), **local_sgd(case, self.strategy)}
        if "local_epochs" in case.hyper:
            counts = {len(self.batches(case, client, 0)) for client in range(len(case.sizes))}
            if counts != {case.hyper["K"]}:
                raise NotApplicableError(
                    f"K = {case.hyper['K']} divides how far every client has moved, whatever number of steps it took"
                )
        return {"lr": case.hyper["lr"], "local_steps": case.hyper["K"], **own, **weighting(case, "uniform")}

    def batches(self, case: Case, client: int, loop: int) -> Sequence[Sequence[int]]:
        """K counts mini-batches, but where epochs are counted beside it."""
        if "local_epochs" in case.hyper:
            return (case.epoch(client) or case.steps(client, 1)) * self.epochs(case, client, loop)
        return case.steps(client, case.hyper["K"])

    def of_client(self, study: Study, after: After, client: int, name: str) -> Any:
        if name == "theta":
            return study.theirs(after.trained[client].uploads["w"])
        own = {"drift": "h", "gradient_state": "g"}[name]
        return study.theirs(memory(after, client, own, zeros(study)))

    def of_server(self, study: Study, after: After, name: str, client: int | None = None) -> Any:
        mean = torch.stack([trained.uploads["w"] for trained in after.trained.values()]).mean(0)
        return study.theirs({"gradient_state": after.state["g"], "mean_of_sampled": mean}[name])
