"""What clients' unequal numbers of samples change, for methods whose authors' code scales by them."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from fedtl.clients.sgd import SGD, SGDSettings


class UnequalSettings(SGDSettings):
    """Options of local SGD at unequal clients.

    Attributes:
        mean_samples: n̄, the mean number of training samples of all N clients; if not given, all count alike.
    """

    mean_samples: PositiveFloat | None = None


class Unequal(SGD):
    """Local SGD of a client that knows its share of samples."""

    settings: UnequalSettings

    def share(self, samples: Tensor) -> Tensor | float:
        """n_i / n̄ ``[1]``, where it counts."""
        return 1.0 if self.settings.mean_samples is None else samples / self.settings.mean_samples
