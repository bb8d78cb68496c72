"""Weights & Biases, offline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import ClassVar

from fedtl.config.tracking import End, TrackedRun, Tracker


class WeightsAndBiases(Tracker):
    """Weights & Biases, offline: files below ``wandb/`` in the run's folder, which ``wandb sync`` uploads.

    Nothing goes over the network. A resumed run's files begin anew under the same id, and replace the earlier ones.

    Attributes:
        project: its name at W&B; the config's ``name`` if not given.
    """

    package: ClassVar[str | None] = "wandb"

    name: str = "wandb"
    project: str | None = None

    def open(self, run: TrackedRun) -> WandbWriter:
        """See :class:`~fedtl.config.tracking.Tracker`."""
        return WandbWriter(self.project or str(run.config["name"]), run)


class WandbWriter:
    """Writes one offline run."""

    def __init__(self, project: str, run: TrackedRun) -> None:
        os.environ |= {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}  # before the import
        import wandb

        for earlier in run.folder.glob("wandb/offline-run-*"):  # the record has all that is in there
            shutil.rmtree(earlier)
        settings = wandb.Settings(
            mode="offline",
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        self._run = wandb.init(
            project=project,
            id=run.id,
            name=run.name,
            dir=str(run.folder),
            config={key: value for key, value in run.config.items() if key != "tracking"},
            settings=settings,
        )

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        """A row of the history."""
        self._run.log(dict(numbers), step=round, commit=True)

    def close(self, end: End) -> None:
        """Finish the run, and wait until W&B's own process has written its file."""
        import wandb

        code = 0 if end == "finished" else 1
        self._run.finish(exit_code=code)
        wandb.teardown(code)
