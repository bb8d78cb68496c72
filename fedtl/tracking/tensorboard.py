"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fedtl.config.tracking import End, TrackedRun, Tracker

PATTERN = "events.out.tfevents.*"


class TensorBoard(Tracker):
    """TensorBoard: event files in the run's folder, so that ``tensorboard --logdir results`` names runs by folder.

    The config is in the tab of hyperparameters. A resumed run's file begins anew, and replaces the earlier one.
    """

    package: ClassVar[str | None] = "tensorboard"

    name: str = "tensorboard"

    def open(self, run: TrackedRun) -> TensorBoardWriter:
        """See :class:`~fedtl.config.tracking.Tracker`."""
        return TensorBoardWriter(run.folder, run.parameters())


class TensorBoardWriter:
    """Writes one event file."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        for earlier in folder.glob(PATTERN):  # the record has all that is in there
            earlier.unlink()
        self._file = EventFileWriter(str(folder))
        # A reader that has the earlier file open drops what it has read of rounds from this one on.
        self._file.add_event(Event(session_log=SessionLog(status=SessionLog.START), step=0))
        plain = (bool, int, float, str)
        known = {key: value if isinstance(value, plain) else str(value) for key, value in parameters.items()}
        self._file.add_event(Event(summary=summary_v2.hparams_pb(known)))
        self._file.flush()

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        """A scalar for each number."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._file.add_event(Event(step=round, wall_time=time.time(), summary=Summary(value=values)))
        self._file.flush()

    def close(self, end: End) -> None:
        """Close the file."""
        self._file.close()
