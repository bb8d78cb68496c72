"""Tables with columns of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.models.mlp import dense
from fedtl.models.sequences import check_whole
from fedtl.models.settings import ModelChoice
from fedtl.models.with_head import WithHead

if TYPE_CHECKING:
    from fedtl.data.samples import FewSamples


class TabularMLPChoice(ModelChoice):
    """Multilayer perceptron on a table's rows, whose columns of categories are looked up.

    After Guo and Berkhahn, "Entity Embeddings of Categorical Variables", 2016 (arXiv 1604.06737). Columns of categories
    must come as whole numbers: set data.normalise = "none", or mean 0 and deviation 1 for them in
    data.normalise = { mean = [...], std = [...] }.

    Attributes:
        categorical: how many values each column of categories has, by its number from 0, as ``{ 3 = 7 }``; its numbers
            go from 0 to 6.
        width: of a category's vector; at most as many numbers as the column has values.
        hidden: sizes of the hidden layers, from the input on.
    """

    name: str = "tabular-mlp"
    categorical: dict[str, PositiveInt] = Field(default_factory=dict)
    width: PositiveInt = 8
    hidden: tuple[PositiveInt, ...] = (100,)

    @field_validator("categorical")
    @classmethod
    def _by_number(cls, columns: dict[str, int]) -> dict[str, int]:
        for column in columns:
            if not (column.isascii() and column.isdigit()):
                raise ValueError(f"{column!r} should be a column's number, from 0, as {{ 3 = 7 }}")
        numbers = {str(int(column)): count for column, count in columns.items()}
        if len(numbers) < len(columns):
            raise ValueError("a column is named twice")
        return numbers

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.choice.Choice`."""
        return {} if self.categorical else {"width": "categorical names no column of categories"}

    def check_samples(self, few: FewSamples, classes: int) -> None:
        """Check that the columns of categories have whole numbers, all of them below their counts."""
        for column, count in self.categorical.items():
            check_whole(self.name, few, [int(column)], count, f"model.categorical.{column}")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Features ``[n, hidden[-1]]`` of rows, and a head."""
        if len(shape) != 1:
            raise ConfigError(
                f"model.name = {self.name!r}: it takes rows of a table [columns], but a sample has shape {list(shape)}"
            )
        for column in self.categorical:
            if int(column) >= shape[0]:
                raise ConfigError(f"model.categorical.{column}: there are only {shape[0]} columns, from 0")
        counts = {int(column): count for column, count in self.categorical.items()}
        numeric = [column for column in range(shape[0]) if column not in counts]
        columns = Columns(counts, numeric, self.width)
        sizes = [columns.size, *self.hidden]
        return WithHead(nn.Sequential(columns, *dense(sizes)), sizes[-1], classes)


class Columns(nn.Module):
    """Numbers as they are, and of each category its vector.

    Shapes: x ``[n, columns]`` -> ``[n, size]``, the numeric columns first.

    Args:
        counts: of the columns of categories, how many values each has.
        numeric: the other columns.
        width: of a category's vector, at most.
    """

    def __init__(self, counts: Mapping[int, int], numeric: Sequence[int], width: int) -> None:
        super().__init__()
        self.numeric = list(numeric)
        self.categories = nn.ModuleDict({str(c): nn.Embedding(n, min(n, width)) for c, n in counts.items()})
        self.size = len(self.numeric) + sum(min(n, width) for n in counts.values())
        """How many numbers it makes of a row."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        looked_up = [words(x[:, int(column)].long()) for column, words in self.categories.items()]
        return torch.cat([x[:, self.numeric], *looked_up], 1)
