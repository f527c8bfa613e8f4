"""MLflow's home: its runs are copies of the run folders, and are brought up to date when it is reached.

MLflow out of reach stops no work: a line says so, once, and the next retrain uploads what is missing. An
experiment of another root does: see ownership.
"""

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.config import files, places
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.config.loading import flatten
from pipelines.config.secrets import mask_secrets
from pipelines.tracking import mlflow_run, model_registry, ownership
from recsys import releases
from recsys.files import file_sha256, write_text
from recsys.manifest import BundleError

LOGGER = logging.getLogger("recsys")

NOTE = "mlflow.json"  # of a run folder: its MLflow run, and what that has of it, seen when
COPIED = {".json", ".parquet", ".svg", ".html"}
ALL = 3  # mlflow.entities.ViewType: those that were thrown away too

_told = set[tuple[str, bool]]()  # stores, local faults apart, that were warned of since the last upload_all


class Live:
    """A run that MLflow shows while it is trained; what gets lost on the way `upload` brings up later.

    As a context it tells MLflow of a training that was interrupted, or has failed.
    """

    def __init__(self, config: Config, folder: Path, name: str) -> None:
        """Open the folder's MLflow run, or go on with the one that its mlflow.json names."""
        self._config, self._folder = config, folder
        self._client, self._run_id = None, ""
        with _outage(config, folder):
            client, experiment_id = _books(config)
            self._run_id = _run(client, experiment_id, folder, name)["run_id"]
            client.update_run(self._run_id, status="RUNNING")  # it may be one that was interrupted
            mlflow_run.log_params(client, self._run_id, flatten(config.model_dump(mode="json")))
            self._client = client  # comes last: without it nothing is logged

    def metrics(self, row: Mapping[str, Any], step: int) -> None:
        """Log an epoch's figures, as of the time in its at_ms, milliseconds since 1970."""
        client, self._client = self._client, None
        if client is not None:
            with _outage(self._config, self._folder):
                mlflow_run.log_metrics(client, self._run_id, mlflow_run.metrics(row, step))
                self._client = client

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._client is not None:
            status = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
            with _outage(self._config, self._folder):
                self._client.set_terminated(self._run_id, status)


def claim(config: Config) -> None:
    """See that the books are this root's, before anything is done for them; MLflow out of reach is told.

    Raises InputError: they are another root's.
    """
    if (_store(config), False) not in _told:  # else it would be waited for once more
        with _outage(config):
            _books(config)


def take(config: Config) -> str:
    """Make the books this root's, whosesoever they were; what they are, for people. Raises InputError."""
    ours = f"experiment and model '{config.tracking.experiment}' of MLflow at '{shown_uri(config)}'"
    try:
        ownership.settled(config, _client(config), uri(config), take=True)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{ours} cannot be claimed: {_reason(error)}") from None
    return f"{ours} are now of root '{config.root}'"


def upload(config: Config, run: Path) -> bool:
    """Bring MLflow's copy of a run folder and of its bundles up to date; what is there already adds nothing.

    A bundle is registered once, as the challenger. False where MLflow could not be reached, which is told.
    """
    with _outage(config):
        _upload(config, *_books(config), run, True)
        return True
    return False


def upload_all(config: Config) -> bool:
    """`upload` of every finished run, so that nothing is owed; the champion is then what `current` names.

    A run that MLflow has, with files that are those of its last upload by time and size, is not read again.
    Only for whoever holds the retrain's lock: what killed uploads left under root is removed.
    """
    for left in config.root.glob(f"{model_registry.SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
    runs = [path.parent for path in sorted(config.runs.glob("[!.]*/train.json"))]
    done = 0
    with _outage(config):
        client, experiment_id = _books(config)  # fails here if all would
        there = _there(client, experiment_id, runs)
        for run in runs:
            known = noted(run) or {}
            if known.get("run_id") in there and known.get("seen") == _seen(config, run):
                done += 1
                continue
            with _outage(config):
                _upload(config, client, experiment_id, run, run == runs[-1])
                done += 1
        try:
            current = releases.current(config.bundles)
        except BundleError as error:
            current = None
            LOGGER.info(f"tracking: the alias {model_registry.CHAMPION} stays where it is: {error}")
        if current is not None:
            model_registry.set_alias(client, config.tracking.experiment, model_registry.CHAMPION, current)
        done += 1
    _told.difference_update([(_store(config), local) for local in (False, True)])
    return done == len(runs) + 1


def set_alias(config: Config, alias: str, bundle: str) -> bool:
    """Let an alias name the version of a bundle. False without one, or where MLflow could not be reached."""
    with _outage(config):
        return model_registry.set_alias(_books(config)[0], config.tracking.experiment, alias, bundle)
    return False


def uri(config: Config) -> str:
    """Where MLflow's books are. It may hold a password: use `shown_uri` for people."""
    if config.tracking.uri is not None:
        return config.tracking.uri.get_secret_value()
    return places.sqlite_uri(config.root / "mlflow.db")


def shown_uri(config: Config) -> str:
    """The same without a user's name and password."""
    masked: str = mask_secrets(uri(config))
    return masked


def noted(run: Path) -> dict[str, Any] | None:
    """A run folder's MLflow run: run_id, experiment_id, uploaded, seen; None if MLflow has not seen it."""
    known = files.read_json(run / NOTE)
    return None if known is None else dict(known)


def page(known: dict[str, Any]) -> str:
    """The run's place among MLflow's pages, to be put behind the address that they are served at."""
    return f"#/experiments/{known['experiment_id']}/runs/{known['run_id']}"


def git_revision() -> str:
    """The commit this code is from, with '-dirty' if it was edited; 'unknown' outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        folder = Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


@contextmanager
def _outage(config: Config, folder: Path | None = None) -> Iterator[None]:
    """What MLflow, its store or the way there raises becomes a line, and the only one about that store.

    So does a fault of this side, such as a file that cannot be read, which is called by its name. What is not
    among the runs, as the folders of a search, is not uploaded later. What is another root's stops the work.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        local = _is_local(error)
        if (_store(config), local) not in _told:
            _told.add((_store(config), local))
            where = (
                "the upload to MLflow failed on this side" if local else f"MLflow at '{shown_uri(config)}'"
            )
            owed = folder is None or folder.is_relative_to(config.runs)
            later = (
                "the next retrain uploads what is missing there" if owed else "of this, MLflow lacks the rest"
            )
            if isinstance(error, ownership.DeletedError):
                later = f"after that {later}"
            LOGGER.warning(f"{where}: WARNING: {_reason(error)}; the work goes on, and {later}")


def _reason(error: Exception) -> str:
    """The first line of an error, with its kind where that is not ours."""
    line = (str(error).strip().splitlines() or [""])[0]
    ours = isinstance(error, ownership.DeletedError)
    masked: str = mask_secrets(line if ours else f"{type(error).__name__}: {line}")
    return masked


def _is_local(error: Exception) -> bool:
    """Whether it is ours: of Python or of polars, and none of the network."""
    package = type(error).__module__.partition(".")[0]
    return package in ("builtins", "json", "polars") and not isinstance(error, ConnectionError | TimeoutError)


def _store(config: Config) -> str:
    return f"{config.root.resolve()} {uri(config)}"


def _client(config: Config) -> Any:
    """An mlflow.MlflowClient, which takes seconds to import: quiet, and soon to give up."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",  # a shop's runs are nobody else's business
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with its password
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.store.db import utils
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    utils.MAX_RETRY_COUNT = 2  # of a database: 10 take 100 seconds, and no setting says so
    # kept by a run's id alone, which a copy of a root has too: its artifacts would go to the other's place
    _artifact_repos_cache.clear()
    # what these would print: steps, and errors and retries, which are raised as well
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # the registry by name too, or MLFLOW_REGISTRY_URI would say where that is
    return mlflow.MlflowClient(tracking_uri=uri(config), registry_uri=uri(config))


def _books(config: Config) -> tuple[Any, str]:
    """MLflow's client, and the experiment there. Raises InputError: it is another root's."""
    client = _client(config)
    return client, ownership.settled(config, client, uri(config))


def _run(client: Any, experiment_id: str, folder: Path, name: str) -> dict[str, Any]:
    """The note on a folder's MLflow run, which is made if this experiment has none, or none any more."""
    from mlflow.exceptions import MlflowException

    known = noted(folder)
    if known is not None and known["experiment_id"] == experiment_id:
        try:
            client.get_run(known["run_id"])
            return known
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    tags = {"mlflow.source.git.commit": git_revision()}
    made = client.create_run(experiment_id, start_time=_begun(name), tags=tags, run_name=name)
    known = {"run_id": made.info.run_id, "experiment_id": experiment_id, "uploaded": {}}
    write_text(folder / NOTE, json.dumps(known))
    return known


def _begun(name: str) -> int | None:
    """When a run was begun, by its name, in milliseconds since 1970; None if that does not say."""
    try:
        return int(datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None


def _there(client: Any, experiment_id: str, runs: list[Path]) -> set[str]:
    """Which of the runs the experiment has."""
    known = [note for note in map(noted, runs) if note is not None]
    if not known:
        return set()
    ids = ", ".join(f"'{note['run_id']}'" for note in known)
    query = f"attributes.run_id IN ({ids})"
    found = client.search_runs([experiment_id], query, run_view_type=ALL, max_results=len(known))
    return {run.info.run_id for run in found}


def _copied(run: Path) -> list[Path]:
    """The files of a run folder that MLflow has copies of."""
    names = (NOTE, model_registry.NOTE)
    return [
        path
        for path in sorted(run.iterdir())
        if path.suffix in COPIED and path.name[0] != "." and path.name not in names
    ]


def _bundles(config: Config, run: Path) -> list[Path]:
    """The manifests of a run's bundles, the oldest first."""
    return sorted(config.bundles.glob(f"{run.name}-*/manifest.json"), key=os.path.getmtime)


def _seen(config: Config, run: Path) -> dict[str, list[int]]:
    """Time, in nanoseconds, and size of all that an upload reads, by its place."""
    read = [(path.name, path) for path in _copied(run)]
    read += [(f"{path.parent.name}/{path.name}", path) for path in _bundles(config, run)]
    return {name: [path.stat().st_mtime_ns, path.stat().st_size] for name, path in read}


def _upload(
    config: Config,
    client: Any,
    experiment_id: str,
    run: Path,
    challenger: bool,
) -> None:
    """What is not as it was uploaded last, note last: each step adds nothing where it is done again."""
    known = _run(client, experiment_id, run, run.name)
    run_id = known["run_id"]
    if client.get_run(run_id).info.lifecycle_stage == "deleted":
        return  # somebody threw it away there
    seen = _seen(config, run)  # before they are read: what changes meanwhile is read again
    digests = {path.name: file_sha256(path) for path in _copied(run)}
    changed = [name for name, digest in digests.items() if known["uploaded"].get(name) != digest]
    mlflow_run.log_contents(client, known, run, set(changed))
    for name in changed:
        client.log_artifact(run_id, str(run / name))
    for manifest in _bundles(config, run):
        model_registry.register(config, client, run, run_id, manifest.parent, challenger)
    if changed:
        ended = max((run / name).stat().st_mtime for name in digests)
        client.set_terminated(run_id, "FINISHED", int(ended * 1000))
    write_text(run / NOTE, json.dumps(known | {"uploaded": digests, "seen": seen}))


def nest(config: Config, folder: Path, parent: Path) -> None:
    """Show a folder's run below that of another folder."""
    known, above = noted(folder), noted(parent)
    if known is not None and above is not None:
        with _outage(config, folder):
            client, experiment_id = _books(config)
            if known["experiment_id"] == experiment_id:  # else it is of the root that this is a copy of
                client.set_tag(known["run_id"], "mlflow.parentRunId", above["run_id"])


def close(config: Config, folder: Path, status: str, names: tuple[str, ...] = ()) -> None:
    """End a folder's run as FINISHED, KILLED or FAILED, with the named ones of its files."""
    known = noted(folder)
    if known is not None:
        with _outage(config, folder):
            client, experiment_id = _books(config)
            if known["experiment_id"] == experiment_id:
                for name in names:
                    client.log_artifact(known["run_id"], str(folder / name))
                client.set_terminated(known["run_id"], status)
