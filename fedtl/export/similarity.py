"""How alike clients' updates are, from a run's folder: each client trains once more from the final model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedtl.choice import ConfigError
from fedtl.engine import Failed
from fedtl.export.of_run import RunFolder
from fedtl.plot.client_similarity import Similarity
from fedtl.plot.panels import middle_out
from fedtl.runs.history import Run

MOST = 200
"""Clients whose updates are compared; of more the first ones."""
MOST_LETTERS = 12
"""Of a domain, which stands beside the client's name."""


def similarity_of(run: Run) -> Similarity:
    """Cosines of the changes that the clients' own training makes in the parameters that they are sent.

    Args:
        run: simulated, with a checkpoint.

    Raises:
        ConfigError: it has no global model, or no samples to train on, or fewer than two clients train.
    """
    folder = RunFolder.of(run)
    changes = folder.changes(MOST)
    kept = {client: each for client, each in changes.items() if not isinstance(each, Failed) and each.any()}
    if len(kept) < 2:
        raise ConfigError(f"--kind similarity: {run.path}: fewer than two clients' training changes the model")
    notes = []
    if len(changes) == MOST < folder.federation.clients:
        notes.append(f"the first {MOST} clients that train")
    if left_out := len(changes) - len(kept):
        notes.append(f"{left_out} clients failed, or change nothing")
    vectors = torch.stack(list(kept.values())).double()
    federation = folder.federation.at(folder.checkpoint.round)
    counts = federation.label_counts()[list(kept)].astype(np.float64)
    names = [folder.names[client] if folder.names else str(client) for client in kept]
    if federation.domain_of is not None:
        of = [federation.domains[number] if number >= 0 else "" for number in federation.domain_of[list(kept)].tolist()]
        names = [f"{name} {middle_out(domain, MOST_LETTERS)}".rstrip() for name, domain in zip(names, of)]
    return Similarity(run.label, tuple(names), cosines(vectors.numpy()), cosines(counts), tuple(notes))


def cosines(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of all pairs of rows, ``[n, n]``; 0 with a row of zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1.0)
    products: NDArray[np.float64] = np.clip(unit @ unit.T, -1, 1)
    return products
