"""Flower's simulation, written as its quick start for PyTorch is: a DataLoader and an optimiser per message."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.peers.work import Outcome, Work, load, make_model


def client_app(work: Work) -> ClientApp:
    """Trains the client whose partition a node was given."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(work.threads)
        model = make_model(work.model, work.seed)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        samples = TensorDataset(*load(work.data).client(int(context.node_config["partition-id"])))
        optimiser = torch.optim.SGD(model.parameters(), lr=work.lr)
        criterion = torch.nn.CrossEntropyLoss()
        model.train()
        loss_sum = 0.0
        for x, y in DataLoader(samples, batch_size=work.batch, shuffle=True):
            optimiser.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimiser.step()
            loss_sum += loss.item()
        metrics = MetricRecord({"train_loss": loss_sum, "num-examples": len(samples)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def server_app(work: Work, outcome: Outcome) -> ServerApp:
    """FedAvg; its evaluation hook, which comes at the end of each round, only looks at the clock."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        def round_ended(round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if round:  # 0 is before the first
                outcome.round_ended()
            return None

        model = make_model(work.model, work.seed)
        strategy = FedAvg(
            fraction_train=work.sampled / work.clients, fraction_evaluate=0.0, min_available_nodes=work.clients
        )
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=work.rounds,
            train_config=ConfigRecord({"lr": work.lr}),
            evaluate_fn=round_ended,
        )
        model.load_state_dict(result.arrays.to_torch_state_dict())
        outcome.finish(work, model, "flwr", "ray")

    return app


def main() -> None:
    work = Work.read()
    torch.set_num_threads(work.threads)
    backend = {
        "init_args": {"num_cpus": work.processes, "include_dashboard": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    run_simulation(server_app(work, Outcome()), client_app(work), work.clients, backend_config=backend)


if __name__ == "__main__":
    main()
