"""FedAvg written by hand in a few processes: no messages, no records, no memories.

Variants: "sgd", a module and ``torch.optim.SGD``; "flat", the module's parameters and gradients are views of two
vectors; "limit", forward and backward written by hand (:mod:`tests.benchmarks.limit`).
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.multiprocessing as multiprocessing  # its pipes pass tensors in shared memory
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tests.benchmarks.limit import make_step
from tests.benchmarks.peers.work import Outcome, Work, load, make_model

Train = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``train(w, x, y)``: the parameters ``[P]`` after one epoch from ``w``."""


def ordinary(work: Work) -> Train:
    """What a tutorial writes."""
    model = make_model(work.model, work.seed)

    def train(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        vector_to_parameters(w.clone(), model.parameters())
        optimiser = torch.optim.SGD(model.parameters(), lr=work.lr)
        for bx, by in zip(x.split(work.batch), y.split(work.batch)):
            optimiser.zero_grad()
            F.cross_entropy(model(bx), by).backward()
            optimiser.step()
        return parameters_to_vector(model.parameters()).detach()

    return train


def flat(work: Work) -> Train:
    """The update is one operation on the vector of all parameters."""
    model = make_model(work.model, work.seed)
    vector = parameters_to_vector(model.parameters()).detach().clone()
    gradient = torch.zeros_like(vector)
    sizes = [p.numel() for p in model.parameters()]
    for p, own, grad in zip(model.parameters(), vector.split(sizes), gradient.split(sizes)):
        p.data, p.grad = own.view(p.shape), grad.view(p.shape)

    def train(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        vector.copy_(w)
        for bx, by in zip(x.split(work.batch), y.split(work.batch)):
            gradient.zero_()
            F.cross_entropy(model(bx), by).backward()
            vector.sub_(gradient, alpha=work.lr)
        return vector

    return train


def by_hand(work: Work) -> Train:
    """No autograd."""
    vector = parameters_to_vector(make_model(work.model, work.seed).parameters()).detach().clone()
    step = make_step(work.model, vector, work.lr, work.batch)

    @torch.inference_mode()
    def train(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        vector.copy_(w)
        for bx, by in zip(x.split(work.batch), y.split(work.batch)):
            step(bx, by)
        return vector

    return train


VARIANTS = {"sgd": ordinary, "flat": flat, "limit": by_hand}


def worker(pipe: Connection, work: Work, images: Tensor, labels: Tensor, scale: float, shift: float) -> None:
    """Train the clients that it is sent, and send back the sum of their vectors, until it is sent None."""
    torch.set_num_threads(work.threads)
    train = VARIANTS[work.variant](work)
    # One buffer for all clients: fresh memory for each would cost as much as its training (logistic model).
    as_bytes, x = torch.empty_like(images[0]), torch.empty(images[0].shape)
    while (message := pipe.recv()) is not None:
        w, clients, seed = torch.from_numpy(message[0]), message[1], message[2]
        total = torch.zeros(len(w), dtype=torch.float64)
        for client in clients:
            order = torch.from_numpy(np.random.default_rng([seed, client]).permutation(len(labels[client])))
            torch.index_select(images[client], 0, order, out=as_bytes)
            x.copy_(as_bytes).mul_(scale).add_(shift)
            total.add_(train(w, x, labels[client][order]))
        pipe.send(total.numpy())


def main() -> None:
    work, outcome = Work.read(), Outcome()
    torch.set_num_threads(work.threads)
    data = load(work.data)
    model: nn.Module = make_model(work.model, work.seed)
    w = parameters_to_vector(model.parameters()).detach().numpy()
    context = multiprocessing.get_context("spawn")
    pipes = []
    images, labels = data.train_x.share_memory_(), data.train_y.share_memory_()
    processes = []
    for _ in range(work.processes):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker, args=(theirs, work, images, labels, data.scale, data.shift), daemon=True
        )
        process.start()
        pipes.append(ours)
        processes.append(process)
    for round in range(1, work.rounds + 1):
        chosen = np.random.default_rng([work.seed, round]).choice(work.clients, work.sampled, replace=False).tolist()
        for i, pipe in enumerate(pipes):
            pipe.send((w, chosen[i :: len(pipes)], round))
        w = (sum(pipe.recv() for pipe in pipes) / work.sampled).astype(np.float32)
        outcome.round_ended()
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()
    vector_to_parameters(torch.from_numpy(w), model.parameters())
    outcome.finish(work, model)


if __name__ == "__main__":
    main()
