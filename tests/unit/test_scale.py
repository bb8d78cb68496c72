"""What must not grow with the number of clients."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict

from fedtl.data import read_data
from fedtl.data.federate import federate, split_clients
from fedtl.data.federation import Shards
from fedtl.data.sets.synthetic import Synthetic
from fedtl.grid.in_process import InProcessGrid
from fedtl.grid.simulated import FIRST_NODE
from fedtl.server.gather import gather_training
from fedtl.server.scoring import Evaluation
from fedtl.strategies.fedavg import FedAvg
from fedtl.wire import messages as m
from tests.parts import engine_of, federation_of, small_module, update_of, worker_of

MILLION = 1_000_000


@contextmanager
def at_most(mebibytes: float) -> Iterator[None]:
    """What is allocated inside may not exceed this at its peak; numpy's arrays count."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak < mebibytes, f"{peak:.1f} MiB"


def fedavg(clients: int, sampled: int, scored: int | None = None) -> FedAvg:
    settings = FedAvg.settings_type(name="fedavg", lr=0.1, clients_per_round=sampled)
    return FedAvg(settings, seed=0, clients=clients, evaluation=Evaluation(clients=scored))


def test_sampling_a_thousand_of_a_million_makes_no_list_of_a_million() -> None:
    strategy = fedavg(MILLION, 1000, scored=1000)
    with at_most(1):
        chosen = [strategy.sample(round) for round in (1, 2)]
        scored = strategy.sample_to_score(1)
    for clients in (*chosen, scored):
        assert len(set(clients)) == 1000
        assert clients == sorted(clients)
        assert 0 <= clients[0] < clients[-1] < MILLION
    assert chosen[0] != chosen[1]
    assert chosen[0] != scored


def test_a_rounds_messages_do_not_grow_with_the_population(tmp_path: Path) -> None:
    few = federation_of([4] * 8)
    worker = worker_of(engine_of(few, small_module()), update_of("fedavg", lr=0.1), tmp_path)
    grid = InProcessGrid(worker, MILLION)
    strategy = fedavg(MILLION, 1000)
    arrays = m.pack(worker.initial.numpy())
    with at_most(1):
        nodes = grid.nodes_of_clients()
        sent = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    assert isinstance(sent, m.Broadcast)
    assert [node - FIRST_NODE for node in sent.nodes] == strategy.sample(1)
    assert len(nodes) == MILLION
    with at_most(0.1):  # the client that failed is found by arithmetic, not by a search
        reply = Message(Error(0, "no"), reply_to=sent.message_to(FIRST_NODE + MILLION - 1))
        assert gather_training([reply], [MILLION - 1], nodes).failures == [(MILLION - 1, "no")]


def test_a_broadcast_is_a_list_of_messages_to_whoever_looks() -> None:
    InProcessGrid(worker_of(engine_of(federation_of([4] * 3), small_module()), update_of("fedavg", lr=0.1)), 3)
    content = RecordDict()
    sent = m.Broadcast(MessageType.TRAIN, content, [5, 3, 9])
    assert len(sent) == 3
    assert not sent.opened
    seen = list(sent)
    assert sent.opened
    assert [message.metadata.dst_node_id for message in seen] == [5, 3, 9]
    assert all(message.content is content for message in seen)
    assert all(message.metadata.message_type == MessageType.TRAIN for message in seen)
    assert all(again is message for again, message in zip(sent, seen))  # what was changed in it stays changed


@pytest.mark.parametrize("look", [False, True])
def test_a_broadcast_gets_the_replies_that_its_messages_get(look: bool) -> None:
    federation = federation_of([4, 6, 8, 5])

    def replies() -> list[Message]:
        worker = worker_of(engine_of(federation, small_module()), update_of("fedavg", lr=0.1))
        grid, strategy = InProcessGrid(worker, 4), fedavg(4, 3)
        sent = strategy.configure_train(1, m.pack(worker.initial.numpy()), ConfigRecord(), grid)
        assert isinstance(sent, m.Broadcast)
        if look:
            list(sent)
        got = grid.send_and_receive(sent)
        assert sent.opened == look
        return got

    clients = [m.ints(m.metrics_of(reply.content), m.CLIENTS) for reply in replies()]
    assert sorted(itertools.chain(*clients)) == fedavg(4, 3).sample(1)
    assert all(reply.metadata.src_node_id - FIRST_NODE == of[0] for reply, of in zip(replies(), clients))
    assert all(reply.metadata.reply_to_message_id for reply in replies())


def test_scores_and_losses_do_not_depend_on_the_order_of_the_replies() -> None:
    federation = federation_of([4, 6, 8, 5, 7])
    worker = worker_of(engine_of(federation, small_module()), update_of("fedavg", lr=0.1))
    results = []
    for backwards in (False, True):
        grid, strategy = InProcessGrid(worker, 5), fedavg(5, 5)
        arrays = m.pack(worker.initial.numpy())
        got = grid.send_and_receive(strategy.configure_train(1, arrays, ConfigRecord(), grid))
        strategy.aggregate_train(1, got[::-1] if backwards else got)
        asked = strategy.configure_evaluate(1, arrays, ConfigRecord(), grid)
        assert isinstance(asked, m.Broadcast)
        singly = [m.Broadcast(asked.kind, asked.content, [node]) for node in asked.nodes]
        scored = [reply for one in singly for reply in grid.send_and_receive(one)]
        strategy.aggregate_evaluate(1, scored[::-1] if backwards else scored)
        report = strategy.report
        assert [scores.clients for scores in report.client_scores] == [[0, 1, 2, 3, 4]]
        results.append((report.train, report.client_scores, report.scores))
    assert results[0] == results[1]


def test_a_large_federation_is_little_more_than_its_samples() -> None:
    clients = 300_000
    data = read_data({"name": "synthetic", "clients": clients, "sizes": 2, "dimension": 3, "server_test_share": 0.0})
    samples = 2 * clients
    own = samples * (4 * 3 + 8 + 8) + 4 * 8 * clients  # x, y, who holds what; offsets and sizes
    with at_most(2.5 * own / 2**20):
        federation = federate(data, 0)
    assert federation.clients == clients
    assert set(np.unique(federation.train.sizes)) == {1}
    assert len(np.unique(np.concatenate([federation.train.order, federation.test.order]))) == samples
    with at_most(0.1):
        assert federation.label_counts(20).sum() == 40


def test_the_first_clients_labels_are_those_of_all() -> None:
    federation = federate(Synthetic(clients=30), 0)
    assert np.array_equal(federation.label_counts(7), federation.label_counts()[:7])
    assert federation.label_counts(100).shape == federation.label_counts().shape


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_clients_are_split_as_if_sorted_by_one_draw_each(share: float) -> None:
    """The definition, a sort of all samples by client and draw, against the groups of equal size."""
    from fedtl.random import Purpose, stream

    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 9, 500)
    shards = Shards.from_sizes(rng.permutation(sizes.sum()), sizes)
    train, test = split_clients(shards, share, seed=5)
    order = shards.order[np.lexsort((stream(5, Purpose.CLIENT_TEST).random(len(shards.order)), shards.client_of))]
    for client, n in enumerate(sizes):
        mine = order[shards.offsets[client] : shards.offsets[client + 1]]
        n_test = min(max(round(n * share), 1), n - 1) if share else 0
        assert test[client].tolist() == mine[:n_test].tolist()
        assert train[client].tolist() == mine[n_test:].tolist()
