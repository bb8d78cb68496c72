"""Where parts of the model lie in what travels of it, for servers that look at them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.models.vector import Layout


def places(
    layout: Layout, parameters: int | None, parts: Iterable[str], private: Collection[str], method: str
) -> Tensor:
    """The places of some parts in the travelling parameters, one part after another, ``[n]`` int64.

    Args:
        layout: of the whole model.
        parameters: how many of its parameters travel.
        parts: as :meth:`Layout.part` names them.
        private: what stays at clients.
        method: for messages.

    Raises:
        ConfigError: something else stays at clients, too.
    """
    travels = torch.ones(layout.parameters, dtype=torch.bool)
    for own in (own for part in private for own in layout.part(part)):
        travels[own] = False
    if int(travels.sum()) != parameters:
        raise ConfigError(
            f"strategy.name = {method!r}: with these options its server looks at parts of the model, and a term keeps "
            "a module of its own at clients; leave one of them out"
        )
    place = travels.cumsum(0) - 1
    return torch.cat([place[own] for part in parts for own in layout.part(part)])
