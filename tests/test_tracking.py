"""MLflow's books after a retrain: parameters, metrics, data, artifacts and the registered bundle."""

import json
import re
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from shop import Shop, bundle_of, failed, recsys

from pipelines import prepare, tracking
from pipelines.cli import find_run
from pipelines.config import Config, InputError, load_config
from recsys.bundle import verify
from recsys.health import Health
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
    assert params["space.dim"] == "8"
    assert params["loss.margin"] == "0.5"  # a default
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


def test_every_epochs_health_is_in_the_history_and_a_metric(
    shop: Shop, tracked: Any, client: mlflow.MlflowClient
) -> None:
    history = pl.read_parquet(shop.run / "history.parquet")
    assert {name for name in history.columns if name.startswith("health.")} == {
        f"health.{name}" for name in Health._fields
    }
    for field in Health._fields:
        name = f"health.{field}"
        assert history[name].is_finite().all()
        assert history[name].null_count() == 0
        logged = client.get_metric_history(tracked.info.run_id, name)
        logged.sort(key=lambda metric: metric.step)
        assert [metric.step for metric in logged] == history["epoch"].to_list()
        assert [metric.value for metric in logged] == history[name].to_list()
    assert history["health.effective_rank"].is_between(1, shop.config.space.dim).all()
    assert history["health.false_negatives"].is_between(0, 1).all()


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


def test_odd_kinds_of_event_train_and_are_one_parameter(shop_file: Any, log: pl.DataFrame) -> None:
    kinds = pl.when(pl.col("item_id") % 3 == 0).then(pl.lit("add+cart")).otherwise(pl.lit('a/b: "ü"'))
    path = shop_file(log.with_columns(kind=kinds), source={"event": "kind"})
    event_weights = '{"add+cart" = 2.0, "a/b: \\"ü\\"" = 0.5}'
    options = ("--set", f"source.event_weights={event_weights}", "--set", "train.max_epochs=1")
    for command in ("prepare", "train"):
        ran = recsys(command, "--config", path, *options)
        assert ran.code == 0, ran.err
    config = load_config(path, list(options[1::2]))
    run = find_run(config, None)
    run_id = json.loads((run / "train.json").read_text())["mlflow_run_id"]
    params = mlflow.MlflowClient(tracking_uri=tracking.uri(config)).get_run(run_id).data.params
    assert params["source.event_weights"] == str({"add+cart": 2.0, 'a/b: "ü"': 0.5})
    assert [name for name in params if name.startswith("source.event_weights")] == ["source.event_weights"]


def with_uri(config: Config, uri: str) -> Config:
    return Config.model_validate(config.model_dump() | {"tracking": {"uri": uri, "experiment": "shop"}})


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://anna:hush@host:5432/books", "postgresql://***@host:5432/books"),
        ("postgresql://anna:hush@h/ush@host/books", "postgresql://***@host/books"),
        ("postgresql://host/books?user=anna&password=hush", "postgresql://host/books?***"),
        ("http://anna:hush@127.0.0.1:5000", "http://***@127.0.0.1:5000"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
    ],
)
def test_a_shown_uri_has_no_password(shop: Shop, uri: str, shown: str) -> None:
    config = with_uri(shop.config, uri)
    assert tracking.uri(config) == uri
    assert tracking.shown_uri(config) == shown
    for text in (config.model_dump_json(), str(config.model_dump(mode="json")), repr(config)):
        assert "hush" not in text


def test_a_password_is_nowhere_but_in_the_config(
    own_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite ignores what it does not know of a URI's query, such as a password."""
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder of that URI's name where it runs
    uri = f"sqlite:///file:{own_shop.config.root}/mlflow.db?uri=true&password=hush"
    ran = recsys(
        "retrain", "--config", own_shop.config_file, "--set", f"tracking.uri={uri}",
        "--set", "train.max_epochs=1", "--set", f"root={own_shop.config.root}",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (run,) = set(own_shop.config.runs.iterdir()) - {own_shop.run}
    report = (run / "report.txt").read_text(encoding="utf-8")
    assert "mlflow.db?***" in report
    assert f"--set train.max_epochs=1 --set root={own_shop.config.root} --user" in report
    assert "hush" not in ran.out + ran.err
    run_id = json.loads((run / "train.json").read_text())["mlflow_run_id"]
    logged = mlflow.MlflowClient(tracking_uri=uri).get_run(run_id)
    assert logged.data.params["tracking.uri"] == "**********"
    artifacts = Path(logged.info.artifact_uri.removeprefix("file://"))
    written = [*run.iterdir(), *bundle_of(own_shop).parent.rglob("*"), *artifacts.rglob("*")]
    assert {"config.json", "metrics.json"} <= {file.name for file in artifacts.iterdir()}
    assert not [file for file in written if file.is_file() and b"hush" in file.read_bytes()]


def test_an_unreachable_store_is_named_without_its_password(
    own_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://anna:hush@127.0.0.1:9/books"
    ran = recsys("train", "--config", own_shop.config_file, "--set", f"tracking.uri={uri}")
    failed(ran, 2, "MLflow at 'http://***@127.0.0.1:9/books'", "Connection refused")
    assert "hush" not in ran.out + ran.err
    assert "anna" not in ran.err
