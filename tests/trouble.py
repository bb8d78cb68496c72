"""A term of the local objective that makes one client fail, by dotted path, as any worker may import it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.term import Term, TermContext


class Trouble(Term):
    """Cross-entropy, but for clients whose mini-batch begins with the label ``label``.

    Attributes:
        what: what goes wrong there.
        label: where; -1 for every client.
        once: a file; where it is given, the trouble is made only by whoever creates it.
        seconds: how long to sleep.
    """

    what: Literal["nothing", "raise", "nan", "exit", "sleep"] = "nothing"
    label: int = -1
    once: str | None = None
    seconds: float = 0.0

    def value(self, context: TermContext) -> Tensor:
        loss = F.cross_entropy(context.logits, context.labels)
        if self.label not in (-1, int(context.labels[0])) or self.what == "nothing" or not self._mine():
            return loss
        if self.what == "raise":
            raise ValueError(f"label {self.label} is not for me")
        if self.what == "exit":
            os._exit(1)
        if self.what == "sleep":
            time.sleep(self.seconds)
        return loss * float("nan") if self.what == "nan" else loss

    def _mine(self) -> bool:
        if self.once is None:
            return True
        try:
            Path(self.once).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
