"""The whole chain on a planted log: what a retrain leaves behind, what it reuses, and what cannot leak."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
import torch
from shop import DAYS, ITEMS, START, WINDOW, Shop, bundle_of, recsys

from pipelines.commands.runs import find_run
from pipelines.config.loading import load_config
from pipelines.data.folds import load_fold
from pipelines.tracking import store
from pipelines.training.model import load

SYSTEMS = ["model", "served", "spectral", "popularity", "learned"]
QUICK = {"max_epochs": 1, "untrained": []}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "model.pt", weights_only=True))


def metrics(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text())


def retrained(path: Path) -> tuple[Path, Path]:
    """The configuration file again, and the folder of its latest run."""
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    return path, find_run(load_config(path), None)


def mlflow_runs(shop: Shop) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=store.uri(shop.config))
    experiment = client.get_experiment_by_name("shop")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags]  # those are its stages


def test_retrain_prints_tables_users_and_paths(shop: Shop) -> None:
    for word in (*SYSTEMS, "hit_rate@10", "recall@20", "ndcg@10", "MLflow: run", "metrics.json"):
        assert word in shop.ran.out
    assert shop.ran.out.count("taken in the test window") == 3
    assert str(shop.run) in shop.ran.out
    assert str(bundle_of(shop)) in shop.ran.out
    (command,) = (line for line in shop.ran.out.splitlines() if "ask it" in line)
    shown = recsys(*command.split("recsys ")[1].split())
    assert shown.code == 0, shown.err
    assert len(shown.out.splitlines()) == 10


def test_metrics_json_holds_systems_intervals_and_counts(shop: Shop) -> None:
    result = metrics(shop.run)
    assert list(result["test"]) == SYSTEMS
    assert result["users"] == 200
    names = {f"{metric}@{k}" for metric in ("hit_rate", "recall", "ndcg", "mrr", "map") for k in (10, 20)}
    for system in SYSTEMS:
        assert set(result["test"][system]) == names | {"coverage@10", "coverage@20"}
        assert set(result["intervals"][system]) == names
        for name, (low, high) in result["intervals"][system].items():
            assert 0 <= low <= result["test"][system][name] <= high <= 1
    assert result["run"] == shop.run.name


def test_per_user_values_average_to_the_metrics(shop: Shop) -> None:
    table = pl.read_parquet(shop.run / "per_user.parquet")
    assert len(table) == 200 * len(SYSTEMS)
    assert table.select("system", "user_id").is_unique().all()
    for system, means in metrics(shop.run)["test"].items():
        rows = table.filter(pl.col("system") == system)
        for name, mean in means.items():
            if not name.startswith("coverage"):
                assert rows[name].mean() == pytest.approx(mean, abs=1e-12)


def test_the_model_finds_the_planted_tastes(shop: Shop) -> None:
    test = metrics(shop.run)["test"]
    for name in ("ndcg@10", "recall@10", "hit_rate@10"):
        assert test["served"][name] == pytest.approx(test["model"][name], rel=0.01)
        assert test["model"][name] > 3 * test["popularity"][name]
        assert test["learned"][name] > 3 * test["popularity"][name]


def test_current_serves_without_the_training_half(shop: Shop) -> None:
    program = """
import sys
from pathlib import Path
from serving.recommender import Recommender
shown = Recommender.open(Path(sys.argv[1])).recommend(1003, 5)
print(*(item.item_id for item in shown))
print(*sorted({"torch", "duckdb", "polars", "mlflow", "pandas"} & set(sys.modules)))
"""
    current = shop.config.bundles / "current"
    assert current.readlink() == Path(bundle_of(shop).name)
    done = subprocess.run(
        [sys.executable, "-c", program, str(current)], capture_output=True, text=True, check=True
    )
    items, modules = done.stdout.split("\n")[:2]
    assert modules == ""
    in_process = recsys("recommend", "--config", shop.config_file, "--user", "1003", "-k", "5").out
    assert items.split() == [line.split("\t")[0] for line in in_process.splitlines()]


def test_same_seed_same_bits_and_a_second_retrain_reuses_everything(
    shop: Shop, shop_file: Any, log: pl.DataFrame
) -> None:
    path = shop_file(log.sample(fraction=1, shuffle=True, seed=3))  # rows in another order are the same log
    first = recsys("retrain", "--config", path)
    assert first.code == 0, first.err
    config = load_config(path)
    twin = Shop(path, config, find_run(config, None), first)
    ours, theirs = weights(shop.run), weights(twin.run)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for key in ("test", "intervals", "users", "counts"):
        assert metrics(shop.run)[key] == metrics(twin.run)[key]

    written = {file: file.stat().st_mtime_ns for file in config.root.rglob("*") if "mlflow" not in file.name}
    again = recsys("retrain", "--config", path)
    assert again.code == 0
    assert [line.split(":")[0] for line in again.err.splitlines() if line.endswith("reused")] == [
        "prepare",
        "train",
        "export",
        "export",
        "evaluate",
    ]
    assert f"gate: {bundle_of(twin).name} is the champion already" in again.err
    assert again.out == first.out
    assert [folder.name for folder in config.runs.iterdir()] == [twin.run.name]
    assert len(mlflow_runs(twin)) == 1
    client = mlflow.MlflowClient(tracking_uri=store.uri(config))
    assert len(client.search_model_versions("name = 'shop'")) == 1
    each_time = {"report.txt", "history.duckdb", "retrain.lock"}
    changed = {file.name for file in written if file.is_file() and file.stat().st_mtime_ns != written[file]}
    assert changed <= each_time


def test_another_setting_and_other_data_make_new_runs(own_shop: Shop, log: pl.DataFrame) -> None:
    current = own_shop.config.bundles / "current"
    before = current.readlink().name
    quick = ["--set", "train.max_epochs=5", "--set", "evaluate.ks=[10]", "--set", "gate.margin=0.5"]
    ran = recsys("retrain", "--config", own_shop.config_file, *quick)
    assert ran.code == 0, ran.err
    assert "prepare: " in ran.err
    assert "reused" in ran.err
    second = current.readlink().name
    assert second != before

    fewer = own_shop.config_file.with_name("fewer.parquet")
    log.head(len(log) - 1).write_parquet(fewer)
    ran = recsys("retrain", "--config", own_shop.config_file, *quick, "--set", f"source.files={fewer}")
    assert ran.code == 0, ran.err
    assert "reused" not in ran.err.split("train: ")[0]
    third = current.readlink().name
    assert len({before, second, third}) == 3
    assert len(list(own_shop.config.runs.iterdir())) == 3
    for version in (before, second, third):  # older releases are still there to go back to
        assert (own_shop.config.bundles / version / "manifest.json").exists()
    assert len(mlflow_runs(own_shop)) == 3


def test_the_test_window_changes_neither_choice_nor_weights(
    shop: Shop, shop_file: Any, log: pl.DataFrame
) -> None:
    start = START + timedelta(days=DAYS - WINDOW)
    before, after = log.filter(pl.col("at") < start), log.filter(pl.col("at") >= start)
    shuffled = after.with_columns(pl.col("item_id").sample(fraction=1, shuffle=True, seed=1))
    newcomers = after.head(50).with_columns(pl.lit(9999, pl.Int64).alias("user_id"))
    path = shop_file(pl.concat([before, shuffled, newcomers]))
    assert recsys("retrain", "--config", path).code == 4  # it predicts less than the popular items by now
    run = find_run(load_config(path), None)
    assert json.loads((run / "choice.json").read_text()) == json.loads((shop.run / "choice.json").read_text())
    assert all(torch.equal(one, weights(run)[name]) for name, one in weights(shop.run).items())
    assert metrics(run)["test"]["model"]["ndcg@10"] < 0.5 * metrics(shop.run)["test"]["model"]["ndcg@10"]


def test_text_ids_leave_last_out_and_contrastive(shop_file: Any, log: pl.DataFrame) -> None:
    named = log.with_columns(
        pl.concat_str(pl.lit("käufer 🛒 "), "user_id").alias("user_id"),
        pl.concat_str(pl.lit("ß-"), "item_id").alias("item_id"),
    )
    split = {"kind": "leave_last_out", "test_start": None, "validation_start": None}
    loss = {"name": "contrastive", "margin": 1.0}
    path, run = retrained(shop_file(named, items=None, split=split, train=QUICK, loss=loss))
    shown = recsys("recommend", "--config", path, "--user", "käufer 🛒 1003", "-k", "3")
    assert [line.split("\t")[0][:2] for line in shown.out.splitlines()] == ["ß-"] * 3
    assert "popular" not in shown.out
    assert metrics(run)["users"] == 200


def test_predefined_split_without_times_and_spectral_start(shop_file: Any, log: pl.DataFrame) -> None:
    day = (pl.col("at") - START).dt.total_days()
    part = (
        pl.when(day >= DAYS - WINDOW).then(pl.lit("test"))
        .when(day >= DAYS - 2 * WINDOW).then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )  # fmt: skip
    path = shop_file(
        log.select("user_id", "item_id", part.alias("part")),
        source={"time": None, "split": "part"},
        split={"kind": "predefined", "test_start": None, "validation_start": None},
        train=QUICK,
        space={"start": "spectral", "offset": "fixed"},
    )
    _, run = retrained(path)
    test = metrics(run)["test"]
    assert metrics(run)["users"] == 200
    assert test["learned"]["ndcg@10"] > 3 * test["popularity"]["ndcg@10"]
    assert test["served"]["ndcg@10"] == pytest.approx(test["model"]["ndcg@10"], rel=0.01)


def test_repeat_purchases_where_seen_items_are_not_left_out(shop: Shop, shop_file: Any) -> None:
    mining = {"miner": "hardest", "warmup_epochs": 0}
    path, run = retrained(
        shop_file(evaluate={"exclude_seen": False}, train=QUICK, mining=mining, space={"offset": "none"})
    )
    targets = pl.read_parquet(run / "per_user.parquet")["n_targets"]
    new_only = pl.read_parquet(shop.run / "per_user.parquet")["n_targets"]
    assert targets.sum() > new_only.sum()
    shown = recsys("recommend", "--config", path, "--user", "1003", "-k", "120").out.splitlines()
    assert len(shown) == ITEMS
    test = metrics(run)["test"]
    assert test["served"]["ndcg@10"] == pytest.approx(test["model"]["ndcg@10"], rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"space": {"tower": "siamese", "distance": "cosine"}, "loss": {"name": "sampled_softmax"}},
        {"space": {"tower": "siamese"}, "mining": {"miner": "offline"}},
        {"space": {"distance": "mahalanobis", "mahalanobis": "low_rank", "rank": 2}},
        {"space": {"distance": "inner_product"}, "loss": {"name": "bpr"}, "mining": {"miner": "random"}},
        {"space": {"distance": "euclidean"}, "mining": {"miner": "hardest"}},
    ],
    ids=str,
)
def test_every_tower_and_distance_is_exported_and_served_the_same_way(shop_file: Any, changes: Any) -> None:
    """Learned coordinates alone, so that nothing else carries them."""
    alone = {"untrained": [], "max_epochs": 4}
    path, run = retrained(shop_file(train=alone, **changes))
    test = metrics(run)["test"]
    assert test["model"]["ndcg@10"] == test["learned"]["ndcg@10"] > 1.5 * test["popularity"]["ndcg@10"]
    assert test["served"]["ndcg@10"] == pytest.approx(test["model"]["ndcg@10"], rel=0.01)
    config = load_config(path)
    shown = recsys("recommend", "--config", path, "--user", "1003", "-k", "10").out.splitlines()
    users, items = (part.numpy() for part in load(run, torch.device("cpu"))[1])
    fold = load_fold(config, "test")
    user = fold.user_ids.tolist().index(1003)
    distance = np.square(items - users[user]).sum(1)
    distance[fold.fit.item[fold.fit.user == user]] = np.inf
    nearest = np.asarray(fold.item_ids)[distance.argsort()[:10]].tolist()
    assert [int(line.split("\t")[0]) for line in shown] == nearest


def test_a_minimal_log_is_enough(shop_file: Any) -> None:
    day = [START + timedelta(days=n) for n in range(100)]
    rows = [
        *((user, item, day[user]) for user, item in ((1, 10), (1, 11), (2, 11), (2, 12))),
        (1, 12, day[65]),
        (2, 10, day[66]),
        (1, 13, day[67]),
        (2, 13, day[90]),
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "at"], orient="row")
    path, run = retrained(shop_file(frame, items=None))
    result = metrics(run)
    assert result["users"] == 1
    assert np.isfinite(result["test"]["model"]["ndcg@10"])
    everything = recsys("recommend", "--config", path, "--user", "2", "-k", "50").out.splitlines()
    assert [line.split("\t")[0] for line in everything] == ["13"]  # all that user 2 has not had
