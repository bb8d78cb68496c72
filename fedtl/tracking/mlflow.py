"""MLflow: a run in a local SQLite file."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fedtl.config.tracking import End, TrackedRun, Tracker

TAG = "fedtl.run"
SQLITE = "sqlite:///"
LONGEST = 500
"""Characters of a parameter's value that every version of MLflow takes."""

AT_ONCE = 100
"""Parameters that one request may have; of metrics 1,000."""

STATUS: Mapping[End, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class MLflow(Tracker):
    """MLflow: a run in the SQLite file ``mlflow.db`` beside the run's folder, which all runs there share.

    ``mlflow ui --backend-store-uri sqlite:///results/NAME/mlflow.db`` shows them. The config's keys are parameters. A
    resumed run is one MLflow run: rounds and parameters that it has already stay as they are.

    Attributes:
        uri: of another store, as ``"sqlite:////data/mlflow.db"``.
        experiment: its name there; the config's ``name`` if not given.
    """

    package: ClassVar[str | None] = "mlflow"

    name: str = "mlflow"
    uri: str | None = None
    experiment: str | None = None

    def open(self, run: TrackedRun) -> MLflowWriter:
        """See :class:`~fedtl.config.tracking.Tracker`."""
        beside = run.folder.resolve().parent
        uri = self.uri or f"{SQLITE}{beside / 'mlflow.db'}"
        return MLflowWriter(uri, self.experiment or str(run.config["name"]), (beside / "mlruns").as_uri(), run)


class MLflowWriter:
    """Writes one MLflow run.

    Args:
        uri: of the store.
        experiment: its name there.
        artifacts: where a new experiment's files would go.
        run: what is tracked.
    """

    def __init__(self, uri: str, experiment: str, artifacts: str, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if uri.startswith(SQLITE):
            _make(Path(uri.removeprefix(SQLITE).partition("?")[0]))
        self._client = MlflowClient(tracking_uri=uri)
        there = self._client.get_experiment_by_name(experiment)
        if there is None:
            try:
                place = artifacts if uri.startswith(SQLITE) else None
                self._experiment = self._client.create_experiment(experiment, place)
            except MlflowException:  # another run was quicker
                there = self._client.get_experiment_by_name(experiment)
                if there is None:
                    raise
        if there is not None:
            self._experiment = there.experiment_id
        self._id = self._run_of(run)
        earlier = self._client.get_run(self._id).data
        self._parameters(run.parameters(), earlier.params)
        # Every round has this number, and a round's are written together.
        history = self._client.get_metric_history(self._id, "seconds") if "seconds" in earlier.metrics else []
        self._written = {each.step for each in history}

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        """A metric for each number."""
        from mlflow.entities import Metric

        if round in self._written:
            return
        now = int(1000 * time.time())
        metrics = [Metric(_allowed(name), value, now, round) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)
        self._written.add(round)

    def close(self, end: End) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, STATUS[end])

    def _run_of(self, run: TrackedRun) -> str:
        """The MLflow run of a run, which is created if there is none."""
        earlier = self._client.search_runs([self._experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
        if earlier:
            self._client.update_run(earlier[0].info.run_id, status="RUNNING")
            return str(earlier[0].info.run_id)
        tags = {TAG: run.id, "fedtl.folder": str(run.folder.resolve())}
        created = self._client.create_run(self._experiment, tags=tags, run_name=run.name)
        return str(created.info.run_id)

    def _parameters(self, parameters: Mapping[str, Any], there: Mapping[str, str]) -> None:
        """Write the parameters that it does not have yet; MLflow changes none."""
        from mlflow.entities import Param

        named = {_allowed(key): str(value)[:LONGEST] for key, value in parameters.items()}
        new = [Param(key, value) for key, value in named.items() if key not in there]
        for start in range(0, len(new), AT_ONCE):
            self._client.log_batch(self._id, params=new[start : start + AT_ONCE])


def _make(file: Path) -> None:
    """Make a database that is not there, whole or not at all.

    MLflow alters its tables a hundred times, and two runs that begin together, or a machine that stops, would leave one
    that nobody can open.
    """
    from mlflow import MlflowClient

    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return
        unfinished = file.with_name(f"{file.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"{SQLITE}{unfinished}").search_experiments()
        os.replace(unfinished, file)


def _allowed(name: str) -> str:
    """A name in the characters that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name)
