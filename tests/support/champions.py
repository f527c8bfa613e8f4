"""Runs, bundles and aliases of a small shop, for tests of promotion."""

from pathlib import Path

import mlflow
from small_bundles import release

from pipelines.config.config import Config
from pipelines.release import promotion
from pipelines.release.export import bundle_folder
from pipelines.tracking import store

RUNS = ("20240101-000000-aaaaaaaa", "20240102-000000-bbbbbbbb", "20240103-000000-cccccccc")


def alias(config: Config) -> str | None:
    """The bundle of the model version with MLflow's alias champion."""
    client = mlflow.MlflowClient(tracking_uri=store.uri(config))
    try:
        return str(client.get_model_version_by_alias("shop", "champion").tags["bundle"])
    except mlflow.exceptions.MlflowException:
        return None


def config_at(root: Path) -> Config:
    source = {"files": "log.csv", "time": "at"}
    return Config.model_validate({"root": root, "source": source, "tracking": {"experiment": "shop"}})


def promote(config: Config, number: int) -> str:
    return promotion.promote(config, config.runs / RUNS[number])


def stage_bundle(config: Config, run: str, registered: bool = True) -> str:
    """Write a run's bundle and register its version in MLflow."""
    folder = bundle_folder(config, config.runs / run)
    release(folder, [[0, 0], [1, 1]], [[float(run[7]), 0], [0, 1], [1, 0]], [[0], [1]])
    if registered:
        client = mlflow.MlflowClient(tracking_uri=store.uri(config))
        if not client.search_registered_models("name = 'shop'"):
            client.create_registered_model("shop")
        client.create_model_version("shop", str(folder), tags={"bundle": folder.name})
    return folder.name
