"""MLflow's tracking store: its URI, a connection to it, and outages.

An outage stops no work: one line warns of it, and the next retrain uploads what is missing. An experiment of
another root does stop it: see ownership.
"""

import json
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.config import files, places
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.config.secrets import mask_secrets
from pipelines.tracking import ownership
from recsys.files import write_text

LOGGER = logging.getLogger("recsys")

NOTE = "mlflow.json"  # in a run folder: its MLflow run, and the state of its last upload

_warned = set[tuple[str, bool]]()  # stores, and whether the error was local


def uri(config: Config) -> str:
    """URI of the tracking store. It may hold a password: show `shown_uri` to users."""
    if config.tracking.uri is not None:
        return config.tracking.uri.get_secret_value()
    return places.sqlite_uri(config.root / "mlflow.db")


def shown_uri(config: Config) -> str:
    """The URI without user name and password."""
    masked: str = mask_secrets(uri(config))
    return masked


def connect(config: Config) -> tuple[Any, str]:
    """MLflow's client, and the id of the experiment. Raises InputError: it belongs to another root."""
    client = _client(config)
    return client, ownership.claim_experiment(config, client, uri(config))


def check_owner(config: Config) -> None:
    """Fail before any work is done if the experiment belongs to another root; warn of an outage.

    Raises InputError.
    """
    if (_store_key(config), False) not in _warned:  # do not wait for it a second time
        with tolerate_outage(config):
            connect(config)


def take_over(config: Config) -> str:
    """Make the experiment and the model this root's; a line to print. Raises InputError."""
    both = f"experiment and model '{config.tracking.experiment}' of MLflow at '{shown_uri(config)}'"
    try:
        ownership.claim_experiment(config, _client(config), uri(config), take_over=True)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{both} cannot be claimed: {_reason(error)}") from None
    return f"{both} are now of root '{config.root}'"


def read_note(run: Path) -> dict[str, Any] | None:
    """The MLflow run of a folder: run_id, experiment_id, uploaded, seen; None if MLflow does not have it."""
    note = files.read_json(run / NOTE)
    return None if note is None else dict(note)


def open_run(client: Any, experiment_id: str, folder: Path, name: str) -> dict[str, Any]:
    """The note on a folder's MLflow run, created if the experiment does not have it."""
    from mlflow.exceptions import MlflowException

    note = read_note(folder)
    if note is not None and note["experiment_id"] == experiment_id:
        try:
            client.get_run(note["run_id"])
            return note
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    tags = {"mlflow.source.git.commit": git_revision()}
    run = client.create_run(experiment_id, start_time=_start_time(name), tags=tags, run_name=name)
    note = {"run_id": run.info.run_id, "experiment_id": experiment_id, "uploaded": {}}
    write_text(folder / NOTE, json.dumps(note))
    return note


def run_page(note: dict[str, Any]) -> str:
    """The path of the run's page, below the address of MLflow's pages."""
    return f"#/experiments/{note['experiment_id']}/runs/{note['run_id']}"


def git_revision() -> str:
    """The commit of this code, with '-dirty' if it was edited; 'unknown' outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        folder = Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


@contextmanager
def tolerate_outage(config: Config, folder: Path | None = None) -> Iterator[None]:
    """Turn errors of MLflow, its store or the network into a warning, one for each store.

    Local errors, such as a file that cannot be read, get a warning of their own. Folders outside of the runs,
    such as those of a search, are not uploaded later. Raises InputError: the experiment of another root.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        local = _is_local(error)
        if (_store_key(config), local) not in _warned:
            _warned.add((_store_key(config), local))
            where = f"MLflow at '{shown_uri(config)}'"
            if local:
                where = "the upload to MLflow failed on this side"
            is_run = folder is None or folder.is_relative_to(config.runs)
            later = "the next retrain uploads what is missing there"
            if not is_run:
                later = "the rest is not uploaded later"
            if isinstance(error, ownership.DeletedError):
                later = f"after that {later}"
            LOGGER.warning(f"{where}: WARNING: {_reason(error)}; the work goes on, and {later}")


def forget_warnings(config: Config) -> None:
    """Warn of the next outage of this store again."""
    _warned.difference_update([(_store_key(config), local) for local in (False, True)])


def _reason(error: Exception) -> str:
    """The first line of an error, with its class unless that is ours."""
    line = (str(error).strip().splitlines() or [""])[0]
    ours = isinstance(error, ownership.DeletedError)
    masked: str = mask_secrets(line if ours else f"{type(error).__name__}: {line}")
    return masked


def _is_local(error: Exception) -> bool:
    """Whether Python or polars raised it, and not for the network."""
    package = type(error).__module__.partition(".")[0]
    return package in ("builtins", "json", "polars") and not isinstance(error, ConnectionError | TimeoutError)


def _store_key(config: Config) -> str:
    return f"{config.root.resolve()} {uri(config)}"


def _start_time(name: str) -> int | None:
    """The time in a run's name, in milliseconds since 1970; None if it has none."""
    try:
        return int(datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None


def _client(config: Config) -> Any:
    """An mlflow.MlflowClient, which takes seconds to import: quiet, and with short timeouts."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",  # a shop's runs are private
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it holds the password
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.store.db import utils
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    utils.MAX_RETRY_COUNT = 2  # of a database: 10 take 100 seconds, and no setting changes it
    # the cache's key is a run's id alone, which a copy of a root has too: artifacts would go to the original
    _artifact_repos_cache.clear()
    # they print steps, and errors that are raised as well
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # the registry explicitly too, as MLFLOW_REGISTRY_URI would override it
    return mlflow.MlflowClient(tracking_uri=uri(config), registry_uri=uri(config))
