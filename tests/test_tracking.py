"""MLflow's books after a retrain: parameters, metrics, data, artifacts and the registered bundle."""

import json
import re
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from shop import Shop, bundle_of

from pipelines import prepare, tracking
from pipelines.config import Config, InputError
from recsys.bundle import verify
from serving.recommender import Recommender


@pytest.fixture(scope="module")
def client(shop: Shop) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking.uri(shop.config))


@pytest.fixture(scope="module")
def tracked(shop: Shop, client: mlflow.MlflowClient) -> Any:
    """The run as MLflow knows it."""
    return client.get_run(json.loads((shop.run / "train.json").read_text())["mlflow_run_id"])


def test_the_run_is_finished_and_named_like_its_folder(shop: Shop, tracked: Any) -> None:
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == shop.run.name
    artifacts = Path(tracked.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(shop.config.root / "artifacts")


def test_every_setting_is_a_parameter(shop: Shop, tracked: Any) -> None:
    params = tracked.data.params
    assert params["train.dim"] == "8"
    assert params["train.margin"] == "0.5"  # a default
    assert params["split.test_start"] == "2024-03-21T00:00:00"
    assert params["spectral.dims"] == "[4, 8]"
    choice = json.loads((shop.run / "choice.json").read_text())
    assert {name: params[f"choice.{name}"] for name in choice} == {n: str(v) for n, v in choice.items()}


def test_every_epoch_and_the_test_are_metrics(shop: Shop, tracked: Any, client: mlflow.MlflowClient) -> None:
    history = pl.read_parquet(shop.run / "history.parquet")
    for name in ("loss", "validation.ndcg@10"):
        logged = client.get_metric_history(tracked.info.run_id, name.replace("@", "_at_"))
        logged.sort(key=lambda metric: metric.step)
        assert [metric.step for metric in logged] == history["epoch"].to_list()
        assert [metric.value for metric in logged] == history[name].to_list()
    fitted = client.get_metric_history(tracked.info.run_id, "fit.loss")
    assert len(fitted) == json.loads((shop.run / "choice.json").read_text())["epochs"]
    for system, means in json.loads((shop.run / "metrics.json").read_text())["test"].items():
        for name, value in means.items():
            assert tracked.data.metrics[f"test.{system}.{name.replace('@', '_at_')}"] == value


def test_the_log_is_an_input_with_fingerprint_and_query(shop: Shop, tracked: Any) -> None:
    (logged,) = tracked.inputs.dataset_inputs
    made = prepare.stored(shop.config)
    assert logged.dataset.digest == made.fingerprint[:32]
    query = json.loads(logged.dataset.source)["query"]
    assert query == made.source_query
    assert str(shop.config.source.files) in query
    assert json.loads(logged.dataset.profile) == made.counts
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "train")]


def test_the_commit_is_a_tag(tracked: Any) -> None:
    commit = tracked.data.tags["mlflow.source.git.commit"]
    assert commit == "unknown" or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


def test_settings_results_and_pictures_are_artifacts(
    shop: Shop, tracked: Any, client: mlflow.MlflowClient
) -> None:
    names = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert names >= {"config.json", "metrics.json", "per_user.parquet", "model.pt", "bundles"}
    assert names >= {"curves.png", "distances.png", "results.png"}
    artifacts = Path(tracked.info.artifact_uri.removeprefix("file://"))
    assert Config.model_validate_json((artifacts / "config.json").read_text()) == shop.config
    assert (artifacts / "results.png").read_bytes() == (shop.run / "results.png").read_bytes()


def test_the_bundle_is_registered_as_challenger_and_can_be_downloaded(
    shop: Shop, tracked: Any, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    version = client.get_model_version_by_alias("shop", tracking.CHALLENGER)
    assert version.run_id == tracked.info.run_id
    mlflow.set_tracking_uri(tracking.uri(shop.config))
    folder = Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri="models:/shop@challenger",
            dst_path=str(tmp_path / "download"),
            tracking_uri=tracking.uri(shop.config),
        )
    )
    verify(folder)
    ours, theirs = Recommender.open(bundle_of(shop)), Recommender.open(folder)
    assert ours.recommend(1003, 10) == theirs.recommend(1003, 10)


def test_a_run_ends_as_it_went(own_shop: Shop, client: mlflow.MlflowClient) -> None:
    made = prepare.stored(own_shop.config)
    client = mlflow.MlflowClient(tracking_uri=tracking.uri(own_shop.config))
    for error, status in ((KeyboardInterrupt, "KILLED"), (ZeroDivisionError, "FAILED")):
        with pytest.raises(error), tracking.new_run(own_shop.config, status, made) as run:
            raise error
        assert client.get_run(run.run_id).info.status == status


def test_what_mlflow_refuses_is_one_line_that_names_the_store(own_shop: Shop) -> None:
    (own_shop.run / "train.json").write_text(json.dumps({"mlflow_run_id": "0" * 32}))
    with (
        pytest.raises(InputError, match=r"MLflow at 'sqlite:///.*mlflow.db': .*0000") as refused,
        tracking.old_run(own_shop.config, own_shop.run) as run,
    ):
        run.metrics({"x": 1.0})
    assert "\n" not in str(refused.value)
