"""A term of the local objective by which a test holds one client in the middle of its training."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from fedtl.losses.term import Term, TermContext


class Held(Term):
    """Cross-entropy; while a file ``hold-<process id>`` lies in a folder it waits, and says so by ``waits-<pid>``."""

    folder: str

    def value(self, context: TermContext) -> Tensor:
        folder, pid = Path(self.folder), os.getpid()
        while (folder / f"hold-{pid}").exists():
            (folder / f"waits-{pid}").touch()
            time.sleep(0.02)
        return F.cross_entropy(context.logits, context.labels)


def hold(folder: Path, pid: int) -> None:
    """Hold a process the next time that it trains."""
    (folder / f"waits-{pid}").unlink(missing_ok=True)
    (folder / f"hold-{pid}").touch()


def release(folder: Path, pid: int) -> None:
    """Let it go on."""
    (folder / f"hold-{pid}").unlink(missing_ok=True)


def waits(folder: Path, pid: int) -> bool:
    """Whether it is being held."""
    return (folder / f"waits-{pid}").exists()
