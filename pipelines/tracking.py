"""MLflow's one home: a run for each training, its metrics, plots, bundle and registered version."""

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.config import Config, InputError
from pipelines.prepare import Prepared

CHALLENGER = "challenger"


class TrackedRun(NamedTuple):
    """One MLflow run, whoever opened it."""

    client: Any  # mlflow.MlflowClient; MLflow takes seconds to import, so only calls below do
    run_id: str

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log many values at once; names may hold '@', which MLflow spells '_at_'."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name.replace("@", "_at_"), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=batch)

    def params(self, values: dict[str, object]) -> None:
        from mlflow.entities import Param

        batch = [Param(name, str(value)[:6000]) for name, value in values.items()]
        self.client.log_batch(self.run_id, params=batch)

    def files(self, folder: Path, under: str | None = None) -> None:
        """Log a file, or all files of a folder."""
        log = self.client.log_artifacts if folder.is_dir() else self.client.log_artifact
        log(self.run_id, str(folder), under)

    def text(self, name: str, text: str) -> None:
        """Log a file that is not there yet."""
        self.client.log_text(self.run_id, text, name)


def uri(config: Config) -> str:
    """Where MLflow's books are. It may hold a password: use `shown_uri` for people."""
    if config.tracking.uri is not None:
        return config.tracking.uri.get_secret_value()
    return f"sqlite:///{(config.root / 'mlflow.db').resolve()}"


def shown_uri(config: Config) -> str:
    """The same without a user's name and password."""
    return _masked(uri(config))


def _masked(text: str) -> str:
    """Without what stands before the '@' of its URIs, and without their queries, which may hold more."""
    return re.sub(r"(://\S*?)\?\S+", r"\1?***", re.sub(r"://[^/\s]\S*@", "://***@", text))


@contextmanager
def new_run(config: Config, name: str, prepared: Prepared) -> Iterator[TrackedRun]:
    """Open a run with its configuration, data and revision; it ends FINISHED, FAILED or KILLED.

    Raises InputError: MLflow's books cannot be reached or written.
    """
    with _explained(config):
        run = _opened(config, name, prepared)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.client.set_terminated(run.run_id, status)


@contextmanager
def old_run(config: Config, folder: Path) -> Iterator[TrackedRun]:
    """The run that `new_run` opened, to log more to it. Raises InputError as that does, or if it is gone."""
    run_id = json.loads((folder / "train.json").read_text())["mlflow_run_id"]
    with _explained(config):
        client = _client(config)
        client.get_run(run_id)  # fails here if the books were lost
        yield TrackedRun(client, run_id)


def _opened(config: Config, name: str, prepared: Prepared) -> TrackedRun:
    from mlflow.entities import RunTag

    client = _client(config)
    found = client.get_experiment_by_name(config.tracking.experiment)
    if found is None:
        artifacts = None if config.tracking.uri else (config.root / "artifacts").resolve().as_uri()
        experiment_id = client.create_experiment(config.tracking.experiment, artifact_location=artifacts)
    else:
        experiment_id = found.experiment_id
    run = TrackedRun(client, client.create_run(experiment_id, run_name=name).info.run_id)
    run.params(_flat(config.model_dump(mode="json")))
    client.log_dict(run.run_id, config.model_dump(mode="json"), "config.json")
    client.log_batch(run.run_id, tags=[RunTag("mlflow.source.git.commit", git_revision())])
    _log_dataset(run, prepared)
    return run


@contextmanager
def _explained(config: Config) -> Iterator[None]:
    """MLflow's own error as one line that names the store."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = _masked(str(error).splitlines()[0])
        raise InputError(f"MLflow at '{shown_uri(config)}': {reason}") from None


def register(config: Config, run: TrackedRun, under: str) -> str:
    """Register the run's artifacts under `under` as a model version, alias challenger; returns its number."""
    from mlflow.exceptions import MlflowException

    name = config.tracking.experiment
    with suppress(MlflowException):  # it is there already, or the next call says what is wrong
        run.client.create_registered_model(name)
    source = f"{run.client.get_run(run.run_id).info.artifact_uri}/{under}"
    version = run.client.create_model_version(name, source=source, run_id=run.run_id).version
    run.client.set_registered_model_alias(name, CHALLENGER, version)
    return str(version)


def page(run: TrackedRun) -> str:
    """The run's place among MLflow's pages, to be put behind the address that they are served at."""
    return f"#/experiments/{run.client.get_run(run.run_id).info.experiment_id}/runs/{run.run_id}"


def git_revision() -> str:
    """The commit this code is from, with '-dirty' if it was edited; 'unknown' outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        folder = Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _client(config: Config) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a shop's runs are nobody else's business
    import mlflow

    # what it would print there, a traceback with each error of the database, is raised as well
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow.MlflowClient(tracking_uri=uri(config))


def _log_dataset(run: TrackedRun, prepared: Prepared) -> None:
    """The log as a logged input: its fingerprint, and the query that DuckDB ran on it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name="interaction log",
        digest=prepared.fingerprint[:32],
        source_type="duckdb",
        source=json.dumps({"query": prepared.source_query}),
        profile=json.dumps(prepared.counts),
    )
    run.client.log_inputs(
        run.run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])]
    )


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """{'train': {'dim': 32}} -> {'train.dim': 32}."""
    flat: dict[str, object] = {}
    for key, value in section.items():
        if isinstance(value, dict) and key != "event_weights":  # whose keys are the log's own words
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Live(NamedTuple):
    """The MLflow run of a training that is at work."""

    run: TrackedRun

    def metrics(self, row: dict[str, Any], step: int) -> None:
        """Log an epoch's figures."""
        self.run.metrics(
            {name: value for name, value in row.items() if isinstance(value, int | float)}, step
        )


@contextmanager
def live(config: Config, folder: Path, name: str, say: Any) -> Iterator[Live]:
    """A run that is open while it is trained; its id goes into mlflow.json."""
    from pipelines import prepare

    with new_run(config, name, prepare.stored(config)) as run:
        (folder / "mlflow.json").write_text(json.dumps({"run_id": run.run_id}))
        yield Live(run)
