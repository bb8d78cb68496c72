"""A term of the local objective by which a test sees who trains, and slows or holds the training."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.term import Term, TermContext


class Gate(Term):
    """Cross-entropy that leaves a file ``<process id>`` in a folder.

    While a file ``slow`` lies there it takes 20 ms; while ``hold`` does it waits, and says so by ``<pid>-waits``.
    """

    folder: str

    def value(self, context: TermContext) -> Tensor:
        folder, pid = Path(self.folder), os.getpid()
        (folder / str(pid)).touch()
        if (folder / "slow").exists():
            time.sleep(0.02)
        while (folder / "hold").exists():
            (folder / f"{pid}-waits").touch()
            time.sleep(0.02)
        return F.cross_entropy(context.logits, context.labels)
