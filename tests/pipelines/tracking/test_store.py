"""MLflow's copy of the run folders: what it holds, that nothing is there twice, and outages."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlflow
import polars as pl
import pytest
from logs import calling, logged
from mlflow_runs import AT, STAGES, client_of, counts, forgotten, run_of
from mlflow_servers import free_port, run_mlflow_server, serve_model
from paths import FIXTURES
from shop import Shop, bundle_of, recsys

from pipelines.commands.runs import find_run
from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.report.terminal import in_mlflow
from pipelines.tracking import live_run, model_registry, store, upload
from pipelines.tracking.model_registry import CHALLENGER, CHAMPION
from recsys.health import Health
from serving.recommender import Recommender


def with_uri(config: Config, uri: str) -> Config:
    return Config.model_validate(config.model_dump() | {"tracking": {"uri": uri, "experiment": "shop"}})


class Outage(NamedTuple):
    """What a run said while its MLflow was down, and where that is up now."""

    shop: Shop
    answers: list[bool]
    said: list[str]
    place: dict[str, str]  # what the report says of MLflow, then


@pytest.fixture(scope="module")
def uploaded(shop: Shop, tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Shop:
    """A run that was uploaded to a store in a file of its own; the first file is not there until then."""
    copy = forgotten(shop, tmp_path_factory.mktemp("uploaded"))
    shutil.copy(mlflow_template, copy.config.root / "mlflow.db")
    with logged() as said:
        assert upload.upload_run(copy.config, copy.run)
    assert said == [f"MLflow: {bundle_of(copy).name} is registered as shop version 1, alias challenger"]
    return copy


@pytest.fixture(scope="module")
def outage(shop: Shop, tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Outage]:
    """All that a retrain asks of tracking, while it is down; then the server starts at that very address."""
    folder, port = tmp_path_factory.mktemp("outage"), free_port()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    down = forgotten(shop, folder / "shop", f"http://anna:hush@127.0.0.1:{port}")
    with logged() as said:
        with live_run.LiveRun(down.config, down.run, down.run.name) as live:
            live.log_metrics({"epoch": 1, "at_ms": 1, "loss": 0.5}, 1)
            live.log_metrics({"epoch": 2, "at_ms": 2, "loss": 0.4}, 2)
        answers = [
            upload.upload_run(down.config, down.run),
            upload.set_alias(down.config, CHAMPION, bundle_of(down).name),
            upload.upload_run(down.config, down.run),
            upload.upload_all(down.config),
        ]
    place = in_mlflow(down.config, down.run)
    with run_mlflow_server(folder, port):
        yield Outage(down, answers, said, place)


def test_the_run_is_finished_and_named_like_its_folder(uploaded: Shop) -> None:
    run = run_of(uploaded.config, uploaded.run)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == uploaded.run.name
    began = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    assert f"{began:%Y%m%d-%H%M%S}" == uploaded.run.name[:15]
    assert run.info.end_time >= run.info.start_time
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(uploaded.config.root / "artifacts")


def test_every_setting_and_the_choice_are_parameters(uploaded: Shop) -> None:
    params = run_of(uploaded.config, uploaded.run).data.params
    assert params["space.dim"] == "8"
    assert params["loss.margin"] == "0.5"  # a default
    assert params["split.test_start"] == "2024-03-21T00:00:00"
    assert params["spectral.dims"] == "[2, 3]"
    assert params["warm.start"] == "False"
    choice = json.loads((uploaded.run / "choice.json").read_text())
    assert params["choice.score"] == str(choice["score"])
    assert params["choice.spectral.dim"] == str(choice["spectral"]["dim"])
    for part in choice["parts"]:
        assert f"'name': '{part['name']}'" in params["choice.parts"]
        assert params[f"choice.alone.{part['name']}"] == str(choice["alone"][part["name"]])


def test_every_epoch_is_a_metric_at_its_own_time(uploaded: Shop) -> None:
    client, run = client_of(uploaded.config), run_of(uploaded.config, uploaded.run)
    for file, prefix in (("history.parquet", ""), ("fit.parquet", "fit.")):
        table = pl.read_parquet(uploaded.run / file)
        health = {f"health.{name}" for name in Health._fields} & set(table.columns)
        assert health
        for name in {"loss", "active", "validation.ndcg@10", *health} & set(table.columns):
            logged = client.get_metric_history(run.info.run_id, prefix + name.replace("@", "_at_"))
            logged.sort(key=lambda metric: metric.step)
            rows = table.filter(pl.col(name).is_not_null())
            assert [metric.step for metric in logged] == rows["epoch"].to_list()
            assert [metric.value for metric in logged] == rows[name].to_list()
            assert [metric.timestamp for metric in logged] == rows["at_ms"].to_list()


def test_results_are_metrics(uploaded: Shop) -> None:
    metrics = run_of(uploaded.config, uploaded.run).data.metrics
    for system, means in json.loads((uploaded.run / "metrics.json").read_text())["test"].items():
        for name, value in means.items():
            assert metrics[f"test.{system}.{name.replace('@', '_at_')}"] == value


def test_the_log_is_an_input_with_fingerprint_query_and_counts(uploaded: Shop) -> None:
    (logged,) = run_of(uploaded.config, uploaded.run).inputs.dataset_inputs
    lineage = json.loads((uploaded.run / "lineage.json").read_text())
    assert logged.dataset.digest == lineage["fingerprint"][:32]
    query = json.loads(logged.dataset.source)["query"]
    assert query == lineage["source_query"]
    assert str(uploaded.config.source.files) in query
    assert json.loads(logged.dataset.profile) == lineage["counts"]
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "train")]


def test_commit_and_key_of_the_tables_are_tags(uploaded: Shop) -> None:
    tags = run_of(uploaded.config, uploaded.run).data.tags
    commit = tags["mlflow.source.git.commit"]
    assert commit == "unknown" or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
    assert tags["prepared_key"] == json.loads((uploaded.run / "train.json").read_text())["prepared_key"]


def test_results_and_pictures_are_artifacts_and_weights_are_not(uploaded: Shop) -> None:
    artifacts = Path(run_of(uploaded.config, uploaded.run).info.artifact_uri.removeprefix("file://"))
    names = {file.name for file in artifacts.iterdir()}
    assert names >= {"config.json", "metrics.json", "per_user.parquet", "history.parquet", "lineage.json"}
    assert names >= {"curves.svg", "distances.svg", "results.svg", "search.svg"}
    assert not names & {"model.pt", "mlflow.json", "registered.json"}
    for name in names:
        assert (artifacts / name).read_bytes() == (uploaded.run / name).read_bytes()


def test_stages_are_nested_runs(uploaded: Shop) -> None:
    client, run = client_of(uploaded.config), run_of(uploaded.config, uploaded.run)
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    by_name = {stage.info.run_name: stage for stage in nested}
    assert len(by_name) == len(nested) == len(STAGES)
    began = round(datetime.fromisoformat(AT).timestamp() * 1000)
    for stage in STAGES:
        logged = by_name[str(stage["stage"])]
        assert logged.info.status == ("FAILED" if stage["status"] == "failed" else "FINISHED")
        assert logged.data.tags["status"] == stage["status"]
        figures = {name: stage[name] for name in ("seconds", "rows", "peak_mib") if stage[name] is not None}
        assert logged.data.metrics == figures
        assert logged.info.start_time == began
        assert logged.info.end_time == began + round(float(str(stage["seconds"])) * 1000)


def test_the_version_is_a_logged_model_of_the_run_with_tags_and_alias(uploaded: Shop) -> None:
    client, run = client_of(uploaded.config), run_of(uploaded.config, uploaded.run)
    version = client.get_model_version_by_alias("shop", CHALLENGER)
    assert version.run_id == run.info.run_id
    served = json.loads((uploaded.run / "metrics.json").read_text())["test"]["served"]
    lineage = json.loads((uploaded.run / "lineage.json").read_text())
    assert version.tags == {
        "bundle": bundle_of(uploaded).name,
        "run": uploaded.run.name,
        "data_fingerprint": lineage["fingerprint"],
        **{f"test.{name.replace('@', '_at_')}": f"{value:.6f}" for name, value in served.items()},
    }
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert model.source_run_id == run.info.run_id
    assert model.status == "READY"
    assert version.source == model.artifact_location
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "shop", "version": 1}]
    assert json.loads((uploaded.run / "registered.json").read_text()) == {
        "name": "shop",
        "version": "1",
        "bundle": bundle_of(uploaded).name,
    }


def test_a_version_asks_for_annoy_only_where_its_bundle_does(tmp_path: Path) -> None:
    fixtures = FIXTURES
    model = "m-" + "1" * 32
    logged = SimpleNamespace(artifact_location=str(tmp_path), source_run_id="1" * 32, model_id=model)
    for name, asked in (("bundle_v1", True), ("bundle_v1_scan", False)):
        model_registry.save_model(fixtures / name, tmp_path / name, True, logged)
        needed = (tmp_path / name / "requirements.txt").read_text(encoding="utf-8")
        assert ("annoy==" in needed) is asked
        assert "numpy==" in needed


ASK = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/shop@champion")
users = pandas.DataFrame({"user_id": json.loads(sys.argv[1])})
answers = [model.predict(users), model.predict(users, params={"k": 3, "exclude_seen": False})]
from mlflow.exceptions import MlflowException
try:
    model.predict(pandas.DataFrame({"user_id": ["anna"]}))
except MlflowException as error:
    refused = str(error)
import serving
print(json.dumps([*(answer.to_dict("records") for answer in answers), refused, serving.__file__]))
"""


def test_mlflow_loads_the_champion_with_code_of_its_own(uploaded: Shop, tmp_path: Path) -> None:
    """No recsys on the way of imports of that process but what was logged."""
    assert upload.set_alias(uploaded.config, CHAMPION, bundle_of(uploaded).name)
    users = [1003, 1007, 5]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, json.dumps(users)],
        env=os.environ | {"MLFLOW_TRACKING_URI": store.uri(uploaded.config)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    ten, three, refused, code = json.loads(ran.stdout.splitlines()[-1])
    recommender = Recommender.open(bundle_of(uploaded))
    for answers, wanted in (
        (ten, recommender.recommend_many(users, 10)),
        (three, recommender.recommend_many(users, 3, exclude_seen=False)),
    ):
        assert answers == [
            {"user_id": user, "item_ids": [i.item_id for i in items], "scores": [i.score for i in items]}
            for user, items in zip(users, wanted, strict=True)
        ]
    assert "user_id" in refused
    model = client_of(uploaded.config).get_model_version_by_alias("shop", CHAMPION).source
    assert code == f"{model.removeprefix('file://')}/code/serving/__init__.py"


def test_what_is_there_is_not_uploaded_again_and_what_changes_is(own_shop: Shop, said: list[str]) -> None:
    config, run = own_shop.config, own_shop.run
    before = counts(config)
    assert upload.upload_run(config, run)
    assert upload.upload_all(config)
    assert counts(config) == before
    noted = run / "mlflow.json"
    noted.write_text(json.dumps(json.loads(noted.read_text()) | {"uploaded": {}}))  # as a crash leaves it
    (run / "registered.json").unlink()
    assert upload.upload_run(config, run)
    assert counts(config) == before
    assert json.loads((run / "registered.json").read_text())["version"] == "1"

    (run / "gate.json").write_text('{"verdict": "pass"}')
    results = json.loads((run / "metrics.json").read_text())
    results["test"]["served"]["ndcg@10"] = 0.125
    (run / "metrics.json").write_text(json.dumps(results))
    assert upload.upload_run(config, run)
    assert run_of(config, run).data.tags["verdict"] == "pass"
    assert run_of(config, run).data.metrics["test.served.ndcg_at_10"] == 0.125
    client = client_of(config)
    assert client.get_model_version("shop", "1").tags["test.ndcg_at_10"] == "0.125000"
    after = counts(config)
    assert (after.runs, after.versions, after.models) == (before.runs, before.versions, before.models)
    artifacts = Path(run_of(config, run).info.artifact_uri.removeprefix("file://"))
    for name in ("gate.json", "metrics.json"):
        assert (artifacts / name).read_bytes() == (run / name).read_bytes()
    assert said == []


def test_a_run_whose_files_are_unchanged_is_not_read_again(own_shop: Shop) -> None:
    client, config = client_of(own_shop.config), own_shop.config
    run_id = run_of(config, own_shop.run).info.run_id
    assert upload.upload_all(config)
    client.update_run(run_id, status="RUNNING")  # an upload would end it
    left = config.root / ".mlflow-killed"
    (left / "model").mkdir(parents=True)
    assert upload.upload_all(config)
    assert not left.exists()
    assert client.get_run(run_id).info.status == "RUNNING"
    (own_shop.run / "gate.json").write_text('{"verdict": "pass"}')
    assert upload.upload_all(config)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.tags["verdict"] == "pass"


def test_epochs_without_a_time_are_as_old_as_their_file(own_shop: Shop, said: list[str]) -> None:
    path = own_shop.run / "history.parquet"
    pl.read_parquet(path).drop("at_ms").with_columns(odd=pl.col("loss") * 2).write_parquet(path)
    assert upload.upload_all(own_shop.config), said
    run_id = run_of(own_shop.config, own_shop.run).info.run_id
    logged = client_of(own_shop.config).get_metric_history(run_id, "odd")
    assert {metric.timestamp for metric in logged} == {int(path.stat().st_mtime * 1000)}


def test_a_fault_of_this_side_is_not_called_an_outage(own_shop: Shop, said: list[str]) -> None:
    (own_shop.run / "choice.json").write_text("{")
    assert not upload.upload_all(own_shop.config)
    (warning,) = said
    assert warning.startswith("the upload to MLflow failed on this side: WARNING: JSONDecodeError: ")


def test_books_that_were_lost_are_filled_again(own_shop: Shop, mlflow_template: Path) -> None:
    before, was = counts(own_shop.config), run_of(own_shop.config, own_shop.run).info.run_id
    other = own_shop.config.root / "other.db"
    shutil.copy(mlflow_template, other)
    config = with_uri(own_shop.config, f"sqlite:///{other}")
    assert upload.upload_all(config)
    assert counts(config) == before
    assert run_of(config, own_shop.run).info.run_id != was


def test_a_run_that_was_thrown_away_in_mlflow_stays_away(own_shop: Shop, said: list[str]) -> None:
    client, run_id = client_of(own_shop.config), run_of(own_shop.config, own_shop.run).info.run_id
    client.delete_run(run_id)
    (own_shop.run / "gate.json").write_text('{"verdict": "pass"}')
    assert upload.upload_all(own_shop.config)
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    assert said == []


def test_a_registration_that_was_cut_short_is_gone_on_with(own_shop: Shop) -> None:
    client, run = client_of(own_shop.config), run_of(own_shop.config, own_shop.run)
    client.delete_model_version("shop", "1")  # as if the model had been logged, and then the server went
    (own_shop.run / "registered.json").unlink()
    assert upload.upload_run(own_shop.config, own_shop.run)
    assert client.get_model_version_by_alias("shop", CHALLENGER).run_id == run.info.run_id
    now = counts(own_shop.config)
    assert (now.models, now.outputs, now.versions) == (1, 1, 1)


def test_the_champion_follows_current_and_the_challenger_is_the_newest(
    own_shop: Shop, said: list[str]
) -> None:
    config, client = own_shop.config, client_of(own_shop.config)
    older = config.runs / f"20000101-000000{own_shop.run.name[15:]}"
    shutil.copytree(own_shop.run, older)
    (older / "mlflow.json").unlink()
    shutil.copytree(bundle_of(own_shop), config.bundles / f"{older.name}-abcdef")
    assert upload.upload_all(config)  # an older one, uploaded late
    assert said == [f"MLflow: {older.name}-abcdef is registered as shop version 2"]
    assert str(client.get_model_version_by_alias("shop", CHALLENGER).version) == "1"
    assert str(client.get_model_version_by_alias("shop", CHAMPION).version) == "1"
    (config.bundles / "current").unlink()
    (config.bundles / "current").symlink_to(f"{older.name}-abcdef")
    assert upload.upload_all(config)
    assert str(client.get_model_version_by_alias("shop", CHAMPION).version) == "2"
    assert not upload.set_alias(config, CHAMPION, "unknown")


def test_a_training_is_shown_while_it_lasts_and_goes_on_in_the_same_run(
    own_shop: Shop, tmp_path: Path
) -> None:
    client = client_of(own_shop.config)
    run_ids = set()
    for error, status in ((KeyboardInterrupt, "KILLED"), (ZeroDivisionError, "FAILED")):
        with suppress(error), live_run.LiveRun(own_shop.config, tmp_path, "a run") as live:
            known = store.read_note(tmp_path)
            assert known is not None
            run_ids.add(known["run_id"])
            assert client.get_run(known["run_id"]).info.status == "RUNNING"
            live.log_metrics({"epoch": 1, "at_ms": 12345, "loss": 0.5, "health.rank": None}, 1)
            live.log_metrics({"fit.epoch": 1, "fit.at_ms": 23456, "fit.loss": 0.25}, 1)
            raise error
        assert client.get_run(next(iter(run_ids))).info.status == status
    (run_id,) = run_ids
    assert client.get_run(run_id).data.metrics == {"loss": 0.5, "fit.loss": 0.25}
    (logged,) = client.get_metric_history(run_id, "loss")  # the second time it was there
    assert (logged.step, logged.timestamp) == (1, 12345)
    assert client.get_run(run_id).data.params["space.dim"] == "8"


def test_books_that_break_in_the_middle_of_a_training_are_one_warning(
    own_shop: Shop, tmp_path: Path, mlflow_template: Path, said: list[str]
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(mlflow_template, path)
    config = with_uri(own_shop.config, f"sqlite:///{path}")
    with suppress(ZeroDivisionError), live_run.LiveRun(config, tmp_path, "a run") as live:
        live.log_metrics({"at_ms": 1, "loss": 2.0}, 1)
        assert said == []
        path.write_bytes(b"no database" * 1000)
        live.log_metrics({"at_ms": 2, "loss": 1.5}, 2)
        live.log_metrics({"at_ms": 3, "loss": 1.0}, 3)
        raise ZeroDivisionError
    (warning,) = said
    assert "not a database" in warning


def test_metrics_of_a_training_are_those_of_its_upload(own_shop: Shop) -> None:
    """What was logged live must be in the folder to the last bit, or the upload would log it twice."""
    ran = recsys("train", "--config", own_shop.config_file, "--set", "train.max_epochs=2")
    assert ran.code == 0, ran.err
    (run,) = set(own_shop.config.runs.iterdir()) - {own_shop.run}
    client, run_id = client_of(own_shop.config), run_of(own_shop.config, run).info.run_id
    names = {name for name in client.get_run(run_id).data.metrics if not name.startswith("test.")}
    assert {"loss", "fit.loss", "validation.ndcg_at_10", "health.effective_rank"} <= names
    live = {name: client.get_metric_history(run_id, name) for name in names}
    assert upload.upload_run(own_shop.config, run)
    assert {name for name in client.get_run(run_id).data.metrics if not name.startswith("test.")} == names
    assert all(len(client.get_metric_history(run_id, name)) == len(logged) for name, logged in live.items())


def test_while_tracking_is_down_there_is_one_warning_without_its_password(outage: Outage) -> None:
    assert outage.answers == [False] * 4
    (warning,) = outage.said
    assert warning.startswith("MLflow at 'http://***@127.0.0.1:")
    assert "WARNING" in warning
    assert "refused" in warning
    assert "the next retrain uploads what is missing" in warning
    assert "\n" not in warning
    assert not re.search("hush|anna", warning)
    (place,) = outage.place.values()
    assert re.fullmatch(r"not in http://\*\*\*@127.0.0.1:\d+ yet: a warning of this retrain says why", place)


def test_when_it_is_up_again_all_that_is_owed_is_uploaded_once(
    outage: Outage, uploaded: Shop, said: list[str]
) -> None:
    config, run = outage.shop.config, outage.shop.run
    assert upload.upload_all(config)
    assert said == [
        f"MLflow: {bundle_of(outage.shop).name} is registered as shop version 1, alias challenger"
    ]
    there = counts(config)
    assert there == counts(uploaded.config)
    assert (there.runs, there.versions, there.models, there.inputs) == (1 + len(STAGES), 1, 1, 1)
    assert upload.upload_all(config)
    noted = run / "mlflow.json"
    noted.write_text(json.dumps(json.loads(noted.read_text()) | {"uploaded": {}, "seen": {}}))
    assert upload.upload_all(config)
    assert counts(config) == there
    assert len(said) == 1

    logged, ours = run_of(config, run), run_of(uploaded.config, uploaded.run)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics == ours.data.metrics
    assert logged.data.params.keys() == ours.data.params.keys()
    assert logged.info.artifact_uri.startswith("mlflow-artifacts:")
    version = client_of(config).get_model_version_by_alias("shop", CHAMPION)
    assert version.run_id == logged.info.run_id
    place = in_mlflow(config, run)
    assert place["its page"].endswith(f"/#/experiments/{logged.info.experiment_id}/runs/{logged.info.run_id}")
    assert "hush" not in str(place)


def test_mlflow_serves_the_champion_over_http(outage: Outage, tmp_path: Path) -> None:
    config = outage.shop.config
    assert upload.upload_all(config)
    body = {"dataframe_records": [{"user_id": 1003}, {"user_id": 5}], "params": {"k": 4}}
    with serve_model("models:/shop@champion", store.uri(config), tmp_path) as address:
        request = urllib.request.Request(
            f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answers = json.load(response)["predictions"]
    wanted = Recommender.open(bundle_of(outage.shop)).recommend_many([1003, 5], 4)
    assert answers == [
        {"user_id": user, "item_ids": [i.item_id for i in items], "scores": [i.score for i in items]}
        for user, items in zip((1003, 5), wanted, strict=True)
    ]
    assert answers[1]["scores"] == [None] * 4


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("carrier-pigeon://anna:hush@loft", "carrier-pigeon"),
        ("sqlite:////proc/books/mlflow.db", "unable to open database file|No such file|Permission"),
    ],
)
def test_a_uri_that_cannot_work_is_a_warning(own_shop: Shop, uri: str, words: str, said: list[str]) -> None:
    config = with_uri(own_shop.config, uri)
    with live_run.LiveRun(config, own_shop.run, "a run") as live:
        live.log_metrics({"at_ms": 1, "loss": 1.0}, 1)
    assert not upload.upload_run(config, own_shop.run)
    assert not upload.upload_all(config)
    (warning,) = said
    assert re.search(words, warning)
    assert "hush" not in warning
    assert not upload.upload_all(config)  # the next retrain says so again
    assert said == [warning, warning]


def test_ctrl_c_is_not_an_outage(own_shop: Shop) -> None:
    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), calling(interrupted):
        upload.upload_run(with_uri(own_shop.config, "carrier-pigeon://loft"), own_shop.run)


def test_odd_kinds_of_event_are_one_parameter(shop_file: Any, log: pl.DataFrame) -> None:
    kinds = pl.when(pl.col("item_id") % 3 == 0).then(pl.lit("add+cart")).otherwise(pl.lit('a/b: "ü"'))
    path = shop_file(log.with_columns(kind=kinds), source={"event": "kind"})
    event_weights = '{"add+cart" = 2.0, "a/b: \\"ü\\"" = 0.5}'
    options = ("--set", f"source.event_weights={event_weights}", "--set", "train.max_epochs=1")
    for command in ("prepare", "train"):
        ran = recsys(command, "--config", path, *options)
        assert ran.code == 0, ran.err
    config = load_config(path, list(options[1::2]))
    run = find_run(config, None)
    assert upload.upload_run(config, run)
    params = run_of(config, run).data.params
    assert params["source.event_weights"] == str({"add+cart": 2.0, 'a/b: "ü"': 0.5})
    assert [name for name in params if name.startswith("source.event_weights")] == ["source.event_weights"]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://anna:hush@h/ush@host/books", "postgresql://***@host/books"),
        ("postgresql://host/books?user=anna&password=hush", "postgresql://host/books?***"),
        ("http://anna:hush@127.0.0.1:5000", "http://***@127.0.0.1:5000"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
    ],
)
def test_a_shown_uri_has_no_password(shop: Shop, uri: str, shown: str) -> None:
    config = with_uri(shop.config, uri)
    assert store.uri(config) == uri
    assert store.shown_uri(config) == shown
    for text in (config.model_dump_json(), str(config.model_dump(mode="json")), repr(config)):
        assert "hush" not in text


def test_a_password_is_nowhere_but_in_the_config(
    own_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite ignores what it does not know of a URI's query, such as a password."""
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder of that URI's name where it runs
    uri = f"sqlite:///file:{own_shop.config.root}/mlflow.db?uri=true&password=hush"
    log = own_shop.config.source.files
    query = f"select * from '{log}' where 'host=h password=hush' <> 'https://anna:hush@h/'"
    text = own_shop.config_file.read_text(encoding="utf-8")
    own_shop.config_file.write_text(text.replace(f'files = "{log}"', f"query = {json.dumps(query)}"))
    ran = recsys(
        "retrain", "--config", own_shop.config_file, "--set", f"tracking.uri={uri}",
        "--set", "train.max_epochs=1", "--set", f"root={own_shop.config.root}",
    )  # fmt: skip
    assert ran.code in (0, 4), ran.err  # the gate may say no
    (run,) = set(own_shop.config.runs.iterdir()) - {own_shop.run}
    report = (run / "report.txt").read_text(encoding="utf-8")
    assert "mlflow.db?***" in report
    assert f"--set train.max_epochs=1 --set root={own_shop.config.root} --user" in report
    assert "hush" not in ran.out + ran.err
    known = store.read_note(run)
    assert known is not None
    logged = mlflow.MlflowClient(tracking_uri=uri).get_run(known["run_id"])
    assert logged.data.params["tracking.uri"] == "**********"
    artifacts = Path(logged.info.artifact_uri.removeprefix("file://"))
    written = [*run.iterdir(), *bundle_of(own_shop).parent.rglob("*"), *artifacts.rglob("*")]
    assert {"config.json", "metrics.json"} <= {file.name for file in artifacts.iterdir()}
    assert not [file for file in written if file.is_file() and b"hush" in file.read_bytes()]
