"""A run that MLflow shows during its training; `upload` adds later what an outage lost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config.config import Config
from pipelines.config.loading import flatten
from pipelines.tracking import mlflow_run
from pipelines.tracking.store import connect, open_run, read_note, tolerate_outage


class LiveRun:
    """The MLflow run of a training.

    As a context manager it marks the run as killed or failed if the training was interrupted or failed.
    """

    def __init__(self, config: Config, folder: Path, name: str) -> None:
        """Open the folder's MLflow run; one that its mlflow.json names is continued."""
        self._config, self._folder = config, folder
        self._client, self._run_id = None, ""
        with tolerate_outage(config, folder):
            client, experiment_id = connect(config)
            self._run_id = open_run(client, experiment_id, folder, name)["run_id"]
            client.update_run(self._run_id, status="RUNNING")  # it may have been interrupted before
            mlflow_run.log_params(client, self._run_id, flatten(config.model_dump(mode="json")))
            self._client = client  # last: after an error nothing is logged

    def log_metrics(self, row: Mapping[str, Any], step: int) -> None:
        """Log an epoch's metrics at the time in its at_ms, milliseconds since 1970."""
        client, self._client = self._client, None
        if client is not None:
            with tolerate_outage(self._config, self._folder):
                mlflow_run.log_metrics(client, self._run_id, mlflow_run.to_metrics(row, step))
                self._client = client

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._client is not None:
            status = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
            with tolerate_outage(self._config, self._folder):
                self._client.set_terminated(self._run_id, status)


def set_parent(config: Config, folder: Path, parent: Path) -> None:
    """Show a folder's run nested in that of another folder."""
    note, above = read_note(folder), read_note(parent)
    if note is not None and above is not None:
        with tolerate_outage(config, folder):
            client, experiment_id = connect(config)
            if note["experiment_id"] == experiment_id:  # else it is the original's of this copied root
                client.set_tag(note["run_id"], "mlflow.parentRunId", above["run_id"])


def end_run(config: Config, folder: Path, status: str, names: tuple[str, ...] = ()) -> None:
    """End a folder's run as FINISHED, KILLED or FAILED, after an upload of the named files."""
    note = read_note(folder)
    if note is not None:
        with tolerate_outage(config, folder):
            client, experiment_id = connect(config)
            if note["experiment_id"] == experiment_id:
                for name in names:
                    client.log_artifact(note["run_id"], str(folder / name))
                client.set_terminated(note["run_id"], status)
