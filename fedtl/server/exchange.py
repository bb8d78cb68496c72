"""What a method's server sends, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Vectors = dict[str, Tensor]
"""Named tensors: the server's state, a download, or uploads."""


@dataclass(frozen=True)
class Download:
    """What a round's clients are sent.

    Attributes:
        shared: the same for all, sent once to each worker; ``"w"`` ``[P]`` is the global model.
        each: what differs from client to client, a row for each of them in the order in which they were asked for,
            ``[n, …]``; ``"w"`` ``[n, P]`` here is a model for each.
    """

    shared: Vectors
    each: Vectors = field(default_factory=dict)


@dataclass(frozen=True)
class Uploads:
    """What the clients of a round sent.

    Attributes:
        sums: the sums over clients, each as the client update weighs it; float64.
        weights: what the weights of each sum come to.
        rows: the uploads that are in no sum, ``[n, …]`` float32.
        clients: who trained, ascending: the rows are in their order.
        samples: how many training samples each of them holds.
    """

    sums: Vectors
    weights: Mapping[str, int]
    rows: Vectors
    clients: Sequence[int]
    samples: Sequence[int]

    def mean(self, name: str) -> Tensor:
        """The weighted mean of an upload over the clients, in float32."""
        return (self.sums[name] / self.weights[name]).to(torch.float32)
