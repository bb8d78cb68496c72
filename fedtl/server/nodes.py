"""Which Flower node is which client.

Flower's node ids are random and its set of nodes has no order, so everything here goes by client ids
``0..N-1``. Grids of fedtl number their nodes themselves; on Flower's own runtimes each node is asked once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedtl.wire import messages as m


def client_nodes(grid: Grid, clients: int, timeout: float | None) -> Sequence[int]:
    """The node of each client, in the order of the clients' ids.

    Waits until all are connected: who is sampled must not depend on who came first.

    Raises:
        TimeoutError: some clients did not come in time, or two nodes say that they are the same client.
    """
    known = getattr(grid, "nodes_of_clients", None)
    if known is not None:
        nodes: Sequence[int] = known()
        return nodes
    deadline = None if timeout is None else time.monotonic() + timeout
    while len(connected := sorted(grid.get_node_ids())) < clients:
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"{len(connected)} of {clients} clients connected within {timeout:.0f} s")
        time.sleep(0.2)
    asked = [Message(RecordDict(), node, MessageType.QUERY) for node in connected]
    node_of: dict[int, int] = {}
    for reply in grid.send_and_receive(asked, timeout=timeout):
        if reply.has_content():
            client = m.ints(m.metrics_of(reply.content), m.CLIENTS)[0]
            if client in node_of:
                raise TimeoutError(f"two nodes say that they are client {client}")
            node_of[client] = reply.metadata.src_node_id
    missing = [client for client in range(clients) if client not in node_of]
    if missing:
        raise TimeoutError(f"no node says that it is client {missing[0]} (of {clients} clients)")
    return [node_of[client] for client in range(clients)]
