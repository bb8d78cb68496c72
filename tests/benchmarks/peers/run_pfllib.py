"""PFLlib: all clients one after another in one process, each reading its data from its own file every round.

PFLlib is a source tree, no package: its ``system`` folder must be on the module path.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from flcore.servers.serveravg import FedAvg

from tests.benchmarks.peers.work import Outcome, Work, load, make_model

DATASET = "FashionMNIST"


class TimedFedAvg(FedAvg):
    """Notes when rounds end; PFLlib scores before round 0 alone, as ``eval_gap`` says."""

    outcome = Outcome()

    def aggregate_parameters(self) -> None:
        super().aggregate_parameters()
        self.outcome.round_ended()


def write_files(work: Work) -> None:
    """The clients' data in PFLlib's layout: ``../dataset/<name>/{train,test}/<client>.npz``."""
    data = load(work.data)
    share = len(data.test_y) // work.clients
    for part in ("train", "test"):
        Path(f"../dataset/{DATASET}/{part}").mkdir(parents=True)
    for i in range(work.clients):
        x, y = data.client(i)
        own = slice(i * share, (i + 1) * share)
        test = {"x": data.normalised(data.test_x[own]).numpy(), "y": data.test_y[own].numpy()}
        np.savez_compressed(f"../dataset/{DATASET}/train/{i}.npz", data={"x": x.numpy(), "y": y.numpy()})
        np.savez_compressed(f"../dataset/{DATASET}/test/{i}.npz", data=test)


def arguments(work: Work) -> SimpleNamespace:
    """What PFLlib's main.py makes of its command line, as far as FedAvg reads it."""
    return SimpleNamespace(
        model=make_model(work.model, work.seed),
        device="cpu",
        dataset=DATASET,
        num_classes=10,
        global_rounds=work.rounds - 1,  # PFLlib runs one round more than it is told to
        local_epochs=1,
        batch_size=work.batch,
        local_learning_rate=work.lr,
        learning_rate_decay=False,
        learning_rate_decay_gamma=0.99,
        num_clients=work.clients,
        join_ratio=work.sampled / work.clients,
        random_join_ratio=False,
        few_shot=0,
        algorithm="FedAvg",
        time_select=False,
        goal="test",
        time_threthold=10000,
        save_folder_name="items",
        top_cnt=100,
        auto_break=False,
        eval_gap=10**6,
        client_drop_rate=0.0,
        train_slow_rate=0.0,
        send_slow_rate=0.0,
        dlg_eval=False,
        dlg_gap=100,
        batch_num_per_client=2,
        num_new_clients=0,
        fine_tuning_epoch_new=0,
    )


def main() -> None:
    work = Work.read()
    torch.set_num_threads(work.threads)
    random.seed(work.seed)
    np.random.seed(work.seed)  # noqa: NPY002 - PFLlib samples from the global generator
    home = Path(work.folder) / "system"
    home.mkdir()
    os.chdir(home)
    write_files(work)
    server = TimedFedAvg(arguments(work), 0)
    server.train()
    server.outcome.finish(work, server.global_model)


if __name__ == "__main__":
    main()
