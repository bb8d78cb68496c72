"""The options of adapters; importing this does not import torch."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveFloat, PositiveInt

from fedtl.choice import Choice, ConfigError, Registry, nearest, read_choice, shown

ADAPTERS: Registry = {
    "adapter": "fedtl.models.adapter_settings:BottleneckChoice",
    "lora": "fedtl.models.adapter_settings:LoRAChoice",
}


class AdapterChoice(Choice):
    """What all adapters have in common.

    Attributes:
        layers: names of the network's layers, or ends of names, as "mlp.0" for one in each of many blocks; if none is
            given, the network's own choice.
        head: whether the head trains and travels too.
    """

    layers: tuple[str, ...] = ()
    head: bool = True


class LoRAChoice(AdapterChoice):
    """A product of two thin matrices beside each weight, W + alpha / rank · B A, where B begins with 0.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021 (arXiv 2106.09685). An ONNX file has the
    sums.

    Attributes:
        rank: of the product.
        alpha: scales it; as the rank if not given.
        layers: linear layers, and torch's attention, whose projections in and out both get a product; names, or ends of
            names, as "mlp.0" for one in each of many blocks; all but the head if none is given.
    """

    name: str = "lora"
    rank: PositiveInt = 4
    alpha: PositiveFloat | None = None

    @property
    def scale(self) -> float:
        """What the product is multiplied with."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class BottleneckChoice(AdapterChoice):
    """A small network beside a shortcut after a layer, h + up(gelu(down(h))), where ``up`` begins with 0.

    Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019 (arXiv 1902.00751), who put one after the
    attention and one after the feed-forward layers of each block, before what they are added to, and train layer-norms
    as well, which stay frozen here.

    Attributes:
        width: of what ``down`` makes.
        layers: after which it is put; names, or ends of names, as "mlp" for one in each of many blocks; ``transformer``
            has its own choice, the paper's.
    """

    name: str = "adapter"
    width: PositiveInt = 8


def read_adapter(table: Any) -> AdapterChoice:
    """A config's ``model.adapter``: a table, or a name alone.

    Raises:
        ConfigError: the name is unknown or an option is wrong.
    """
    name = table.get("name") if isinstance(table, dict) else table
    if isinstance(name, str) and name not in ADAPTERS:
        raise ConfigError(f"model.adapter.name = {shown(name)} is unknown: {nearest(name, ADAPTERS)}")
    return read_choice(AdapterChoice, ADAPTERS, table, "model.adapter", "{ name = 'lora', rank = 4 }")
