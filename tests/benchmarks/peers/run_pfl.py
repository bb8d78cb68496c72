"""pfl (Apple) in two processes that sum their clients' updates by torch.distributed (gloo).

Rank 0 starts the others, by the environment variables that pfl reads, so that no launcher counts as pfl's memory.
As in pfl's own benchmarks, all images lie normalised in the memory of each process, and a client's batches come in
the same order every time. Variant "bytes": as bytes, and a client's are normalised when it is its turn.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.peers.work import Outcome, Work, load, make_model

RANK, ADDRESSES = "PFL_WORKER_RANK", "PFL_WORKER_ADDRESSES"


class WithLoss(nn.Module):
    """pfl asks a model for its loss and its metrics."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.criterion = model, nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def loss(self, x: Tensor, y: Tensor, is_eval: bool = False) -> Tensor:
        self.train(not is_eval)
        return self.criterion(self(x), y)

    def metrics(self, x: Tensor, y: Tensor, is_eval: bool = False) -> dict[str, object]:
        return {}


def run(work: Work) -> None:
    """Train; this process is one of the ranks."""
    # Imported late: pfl connects its processes when it is imported.
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    outcome = Outcome()

    class Clock(TrainingProcessCallback):
        def after_central_iteration(
            self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
        ) -> tuple[bool, Metrics]:
            outcome.round_ended()
            return False, Metrics()

    data = load(work.data)
    users = None if work.variant == "bytes" else [data.client(i) for i in range(work.clients)]
    np.random.seed(work.seed)  # noqa: NPY002 - pfl draws its users from the global generator
    order = np.random.permutation(work.clients).tolist()  # noqa: NPY002
    # "minimize_reuse": no client twice in a round, as in FedAvg; "random" draws with replacement.
    dataset = FederatedDataset(
        lambda user: PyTorchTensorDataset(list(users[user] if users else data.client(user)), user_id=user),
        get_user_sampler("minimize_reuse", order),
    )
    module = WithLoss(make_model(work.model, work.seed))
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=10**6,
            train_cohort_size=work.sampled,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=dataset, val_data=dataset),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work.lr, local_batch_size=work.batch
        ),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    if os.environ[RANK] == "0":
        outcome.finish(work, module, "pfl")


def main() -> None:
    work = Work.read()
    torch.set_num_threads(work.threads)
    if RANK in os.environ:
        run(work)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ[ADDRESSES] = ",".join([f"127.0.0.1:{port}"] * work.processes)
    command = [sys.executable, "-m", "tests.benchmarks.peers.run_pfl", sys.argv[1]]
    others = [subprocess.Popen(command, env=os.environ | {RANK: str(rank)}) for rank in range(1, work.processes)]
    os.environ[RANK] = "0"
    run(work)
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
