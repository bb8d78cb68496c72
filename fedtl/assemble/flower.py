"""The parts as Flower's apps: a ClientApp whose nodes are clients, and Flower's own simulation."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedtl.choice import ConfigError
from fedtl.config.schema import Config, Tables
from fedtl.data.federate import federate
from fedtl.engine.choice import Choices
from fedtl.wire.worker import Worker


def make_client_app(tables: Tables, memories: str, choices: Choices, defined: bytes | None = None) -> ClientApp:
    """A ClientApp whose node is the client that its ``partition-id`` names.

    Args:
        tables: of the config.
        memories: the folder of what clients keep between rounds.
        choices: how clients train.
        defined: what the config names of a notebook; see :func:`fedtl.grid.notebook.definitions`.
    """
    experiment = json.dumps(tables)
    return client_app_of(lambda context: _worker(experiment, memories, choices, defined))


def simulate_with_flower(
    main: Callable[[Grid], None], config: Config, clients: int, memories: str, choices: Choices
) -> None:
    """Run ``main`` as a ServerApp in Flower's own simulation, its clients on Flower's Ray actors."""
    from flwr.simulation import run_simulation

    from fedtl.grid import cluster
    from fedtl.grid.notebook import definitions

    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        main(grid)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    simulation, tables = config.simulation, config.tables()
    share = 0.0 if simulation.num_gpus == "auto" else simulation.num_gpus
    with ExitStack() as as_here:
        if not cluster.joins(None):  # Flower starts a Ray
            as_here.enter_context(cluster.on_loopback())
            as_here.enter_context(cluster.without_helpers())
        run_simulation(
            app,
            make_client_app(tables, memories, choices, definitions(tables)),
            num_supernodes=clients,
            backend_config={
                "client_resources": {"num_cpus": simulation.num_cpus, "num_gpus": share},
                "init_args": {"include_dashboard": False},
            },
        )


@functools.lru_cache(maxsize=2)
def _worker(experiment: str, memories: str, choices: Choices, defined: bytes | None) -> Worker:
    """A process's worker for a simulation's messages; the arguments are :func:`make_client_app`'s."""
    from fedtl.config.read import build
    from fedtl.grid.notebook import define

    if defined is not None:
        define(defined)
    return worker_here(build(json.loads(experiment)), memories, choices)


def worker_here(config: Config, memories: str, choices: Choices | None = None) -> Worker:
    """A worker whose process reads the data itself, and trains on a GPU if it sees one."""
    import torch

    from fedtl.assemble.parts import make_worker

    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    return make_worker(config, federate(config.data, config.seed), memories, device, choices)


def client_app_of(worker_for: Callable[[Context], Worker]) -> ClientApp:
    """A ClientApp; ``worker_for`` gives the process's worker for a node's context, the same one for each message."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        worker = worker_for(context)
        client = int(context.node_config.get("partition-id", -1))
        if client < 0:
            raise ConfigError("this node is no client: start it with --node-config 'partition-id=<its client's id>'")
        (reply,) = worker.handle(message.metadata.message_type, message.content, (client,))
        return Message(reply.content, reply_to=message)

    app.train()(answer)
    app.evaluate()(answer)
    app.query()(answer)
    return app
