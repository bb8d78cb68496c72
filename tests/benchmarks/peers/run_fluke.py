"""fluke: all clients one after another in one process."""

from __future__ import annotations

import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.utils import FederationObserver

from tests.benchmarks.peers.work import CLASSES, Outcome, Work, load, make_model


class Clock(FederationObserver):
    """Notes when rounds end."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def end_round(self, round: int) -> None:
        self.outcome.round_ended()


def main() -> None:
    work, outcome = Work.read(), Outcome()
    torch.set_num_threads(work.threads)
    environment = FlukeENV()
    environment.set_seed(work.seed)
    environment.set_device("cpu")
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    data = load(work.data)
    loaders = [
        FastDataLoader(*data.client(i), num_labels=CLASSES, batch_size=work.batch, shuffle=True)
        for i in range(work.clients)
    ]
    divided = DataSplitter(DummyDataContainer(loaders, [None] * work.clients, None, CLASSES))
    model = make_model(work.model, work.seed)
    settings = DDict(
        client=DDict(
            batch_size=work.batch,
            local_epochs=1,
            loss="CrossEntropyLoss",
            optimizer=DDict(name="SGD", lr=work.lr),
            scheduler=DDict(name="StepLR", step_size=1, gamma=1),
        ),
        server=DDict(weighted=True, lr=1.0),
        model=model,
    )
    algorithm = FedAVG(work.clients, divided, settings)
    algorithm.set_callbacks(Clock(outcome))
    algorithm.run(work.rounds, work.sampled / work.clients, finalize=False)
    outcome.finish(work, algorithm.server.model, "fluke-fl")


if __name__ == "__main__":
    main()
