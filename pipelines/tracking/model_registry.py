"""MLflow's model registry: a version for each bundle, in a form that MLflow loads and serves by itself."""

import importlib.metadata
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.config import digests, files
from pipelines.config.config import Config
from pipelines.tracking import ownership
from recsys.files import write_text
from recsys.manifest import read_manifest
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")

CHAMPION, CHALLENGER = "champion", "challenger"
NOTE = "registered.json"  # in a run folder
SCRATCH = ".mlflow-"  # prefix of folders under root during an upload
REQUIREMENTS = ("mlflow", "numpy", "pandas")  # to load a version
CODE = ("recsys", "serving")


def find_version(client: Any, name: str, bundle: str) -> Any | None:
    """The version of a bundle; None if there is none."""
    versions = client.search_model_versions(f"name = '{name}' and tag.bundle = '{bundle}'")
    return versions[0] if versions else None


def set_alias(client: Any, name: str, alias: str, bundle: str) -> bool:
    """Point an alias to the version of a bundle; False if there is none."""
    version = find_version(client, name, bundle)
    if version is None:
        return False
    if alias not in version.aliases:
        client.set_registered_model_alias(name, alias, version.version)
    return True


def register(
    config: Config,
    client: Any,
    run: Path,
    run_id: str,
    bundle: Path,
    challenger: bool,
) -> None:
    """Register a bundle once, and set its tags to the run's results.

    challenger: give a new version this alias. registered.json in the run folder names the version.
    """
    name = config.tracking.experiment
    tags = _tags(run, bundle)
    version = find_version(client, name, bundle.name)
    if version is None:
        version = _new_version(config, client, run_id, bundle, tags)
        if challenger:
            client.set_registered_model_alias(name, CHALLENGER, version.version)
        alias = f", alias {CHALLENGER}" if challenger else ""
        LOGGER.info(f"MLflow: {bundle.name} is registered as {name} version {version.version}{alias}")
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(name, version.version, key, value)
    known = {"name": name, "version": str(version.version), "bundle": bundle.name}
    if files.read_json(run / NOTE) != known:
        write_text(run / NOTE, json.dumps(known))


def _tags(run: Path, bundle: Path) -> dict[str, str]:
    tags = {"bundle": bundle.name, "run": run.name}
    tags["data_fingerprint"] = str(read_manifest(bundle)["info"]["data_fingerprint"])
    results = files.read_json(run / "metrics.json")
    if "refreshed" in read_manifest(bundle)["info"]:
        results = None  # other users and items than those that were judged
    means = results["test"]["served"] if results else {}  # the bundle's own results
    return tags | {f"test.{name.replace('@', '_at_')}": f"{mean:.6f}" for name, mean in means.items()}


def _new_version(config: Config, client: Any, run_id: str, bundle: Path, tags: dict[str, str]) -> Any:
    """Log a model of the run and create a version of it; continues after an outage halfway."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    name = config.tracking.experiment
    try:
        client.create_registered_model(name, tags=ownership.owner_tags(config))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    experiment_id = client.get_run(run_id).info.experiment_id
    left = client.search_logged_models([experiment_id], f"tags.bundle = '{bundle.name}'")
    model = next((model for model in left if model.source_run_id == run_id), None)
    if model is None:
        model = client.create_logged_model(experiment_id, "bundle", source_run_id=run_id, tags=tags)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if model.status != "READY":
        with tempfile.TemporaryDirectory(dir=config.root, prefix=SCRATCH) as folder:
            save_model(bundle, Path(folder) / "model", config.evaluate.exclude_seen, model)
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(model.model_id, "READY")
    # the location, not models:/ID, which MLflow would look up in its default store
    version = client.create_model_version(
        name, model.artifact_location, run_id=run_id, tags=tags, model_id=model.model_id
    )
    if "mlflow.modelVersions" not in model.tags:  # a server sets it itself
        link = json.dumps([{"name": name, "version": version.version}])
        client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
    return version


def save_model(bundle: Path, folder: Path, exclude_seen: bool, logged: Any) -> None:
    """Write an MLflow model into a folder: pyfunc_model.py, the code it needs and the bundle.

    The input column user_id has the bundle's type of ids; k and exclude_seen are parameters.
    """
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    recommender = Recommender.open(bundle)
    scanned = recommender.manifest["search_k"] is None
    needed = REQUIREMENTS if scanned else (*REQUIREMENTS, "annoy")  # annoy is compiled on installation
    user = DataType.long if recommender.has_integer_users else DataType.string
    item = DataType.long if recommender.has_integer_items else DataType.string
    answer = Schema(
        [
            ColSpec(user, "user_id"),
            ColSpec(Array(item), "item_ids"),
            ColSpec(Array(DataType.double), "scores"),
        ]
    )
    params = [ParamSpec("k", DataType.long, 10), ParamSpec("exclude_seen", DataType.boolean, exclude_seen)]
    with _ignore_mlflow_warnings():
        from mlflow import pyfunc

        pyfunc.save_model(
            folder,
            python_model=Path(__file__).with_name("pyfunc_model.py"),
            artifacts={"bundle": str(bundle.resolve())},
            code_paths=[str(digests.ROOT / name) for name in CODE],
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in needed],
            signature=ModelSignature(Schema([ColSpec(user, "user_id")]), answer, ParamSchema(params)),
            input_example=pd.DataFrame({"user_id": recommender.some_users(2)}),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=logged.source_run_id,
                model_id=logged.model_id,
                model_uuid=logged.model_id,
            ),
        )


@contextmanager
def _ignore_mlflow_warnings() -> Iterator[None]:
    """Ignore warnings of MLflow's own code about type hints and pandas."""
    with warnings.catch_warnings():
        for message in (".*Any type hint is inferred", "Operation with range"):
            warnings.filterwarnings("ignore", message)
        yield
