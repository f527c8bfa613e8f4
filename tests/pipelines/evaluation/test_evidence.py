"""What evaluate leaves for the report: targets, the map, distances, examples."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shop import DAYS, START, WINDOW, Shop, products
from small_log import COLUMNS, config_of, day

from pipelines.config.data import Split
from pipelines.data import folds
from pipelines.data.prepare import prepare
from pipelines.evaluation import evidence
from pipelines.training.train import run_fold

TEST_START = START + timedelta(days=DAYS - WINDOW)


@pytest.fixture(scope="module")
def targets(shop: Shop) -> pl.DataFrame:
    return pl.read_parquet(shop.run / "targets.parquet")


def test_ranks_say_the_same_as_the_recall_of_each_user(shop: Shop, targets: pl.DataFrame) -> None:
    per_user = pl.read_parquet(shop.run / "per_user.parquet")
    for system, column in (("model", "rank"), ("popularity", "popularity_rank")):
        assert targets[column].min() >= 1
        for k in (10, 20):
            found = targets.group_by("user_id").agg(
                (pl.col(column) <= k).sum().alias("hits"), pl.len().alias("n")
            )
            rows = per_user.filter(pl.col("system") == system).join(found, on="user_id")
            assert len(rows) == len(found)
            assert rows["n"].to_list() == rows["n_targets"].to_list()
            assert (rows["hits"] / rows["n"]).to_list() == pytest.approx(rows[f"recall@{k}"].to_list())


def test_targets_are_what_the_log_says(shop: Shop, targets: pl.DataFrame, log: pl.DataFrame) -> None:
    before, later = log.filter(pl.col("at") < TEST_START), log.filter(pl.col("at") >= TEST_START)
    had = set(before.select("user_id", "item_id").rows())
    users, items = dict.fromkeys(log["user_id"], 0), dict.fromkeys(log["item_id"], 0)
    for user, item in had:
        users[user] += 1
        items[item] += 1
    first = dict(before.group_by("item_id").agg(pl.col("at").min()).rows())
    since = TEST_START - timedelta(days=WINDOW)
    veterans = set(before.filter(pl.col("at") < since)["user_id"])
    assert set(targets.select("user_id", "item_id").rows()) == {
        pair for pair in later.select("user_id", "item_id").rows() if pair not in had and items[pair[1]]
    }
    taken = {(u, i): at for u, i, at in later.group_by("user_id", "item_id").agg(pl.col("at").max()).rows()}
    counts = sorted(count for count in items.values() if count)
    for row in targets.iter_rows(named=True):
        assert row["item_count"] == items[row["item_id"]]
        assert row["user_count"] == users[row["user_id"]]
        assert row["event_at"] == taken[row["user_id"], row["item_id"]].replace(microsecond=0)
        assert row["item_is_new"] == (first[row["item_id"]] >= since)
        assert row["user_is_new"] == (row["user_id"] not in veterans)
        below = sum(count < row["item_count"] for count in counts)
        same = counts.count(row["item_count"])
        assert row["item_decile"] == np.ceil(10 * (below + (same + 1) / 2) / len(counts))


def test_who_buys_all_again_in_the_validation_window_is_not_new(tmp_path: Path) -> None:
    rows = [(1, 10, day(1)), (1, 10, day(12)), (2, 11, day(1)), (2, 11, day(13)), (3, 12, day(15))]
    rows += [(1, 11, day(21)), (2, 12, day(21)), (3, 10, day(21))]
    config = config_of(tmp_path, [*rows, (2, 10, day(14))], COLUMNS[:3])
    prepare(config)
    users, items = folds.newcomers(config, folds.load_fold(config, "test")) or ([], [])
    assert (list(users), list(items)) == ([False, False, True], [False, False, True])
    leaving = config.model_copy(update={"split": Split(kind="leave_last_out")})
    assert folds.newcomers(leaving, folds.load_fold(config, "test")) is None


def test_the_map_is_the_first_two_principal_axes(shop: Shop) -> None:
    fold = run_fold(shop.config, shop.run)
    vectors = np.random.default_rng(0).normal(size=(fold.fit.n_items, 5)).astype(np.float32)
    vectors[:, 2] *= 9
    points, about = evidence.item_map(vectors, fold, "shelf")
    order = [fold.item_ids.tolist().index(item) for item in points["item_id"]]
    centred = vectors[order].astype(float) - vectors[order].mean(0)
    assert abs(np.corrcoef(points["x"], centred[:, 2])[0, 1]) > 0.99
    variances, axes = np.linalg.eigh(np.cov(centred.T))
    share = variances[-1] / variances.sum()
    assert float(about["x_share"]) == pytest.approx(share, abs=1e-4)
    assert np.abs(centred @ axes[:, -1]) == pytest.approx(np.abs(points["x"].to_numpy()), rel=1e-3, abs=1e-3)
    for axis in ("x", "y"):
        assert points[axis].max() == points[axis].abs().max()
    flipped, _ = evidence.item_map(-vectors, fold, "shelf")
    assert flipped["x"].abs().to_list() == pytest.approx(points["x"].abs().to_list(), abs=1e-4)
    shelves = dict(products().select("item_id", "shelf").rows())
    assert all(shelves[item] == value for item, value in points.select("item_id", "value").rows())


def test_rare_values_are_other_and_no_attribute_is_none(shop: Shop) -> None:
    fold = run_fold(shop.config, shop.run)
    vectors = np.eye(fold.fit.n_items, 3, dtype=np.float32)
    labels = [f"v{min(item, 14)}" for item in range(fold.fit.n_items)]
    labelled = fold._replace(item_table=fold.item_table.with_columns(shelf=pl.Series(labels)))
    points, _ = evidence.item_map(vectors, labelled, "shelf")
    assert points["value"].n_unique() == evidence.VALUES + 1
    assert {"v14", "v0", "other"} < set(points["value"])
    points, about = evidence.item_map(vectors, fold, None)
    assert (set(points["value"]), about["attribute"]) == ({"(none)"}, "")


def test_held_out_pairs_are_nearer_and_every_pair_is_counted(shop: Shop, targets: pl.DataFrame) -> None:
    measured = json.loads((shop.run / "distances.json").read_text())
    middles = (np.array(measured["edges"][1:]) + measured["edges"][:-1]) / 2
    means = {name: np.average(middles, weights=counts) for name, counts in measured["groups"].items()}
    assert means["held out"] < means["random, never bought"]
    assert sum(measured["groups"]["held out"]) == len(targets)


def test_examples_are_of_the_runs_own_bundle_whatever_is_current(shop: Shop) -> None:
    fold = folds.load_fold(shop.config, "test")
    for example in evidence.read_examples(shop.run):
        user = fold.user_ids.tolist().index(example.user_id)
        later = fold.target_items[fold.target_offsets[user] : fold.target_offsets[user + 1]]
        assert {item.item_id for item in example.taken_later} == set(fold.item_ids[later].tolist())
        scores = [item.score for item in example.recommended]
        assert scores == sorted(scores, reverse=True)
        counts = fold.fit.item_counts()[[list(fold.titles).index(item.title) for item in example.taken_later]]
        assert counts.tolist() == sorted(counts.tolist(), reverse=True)
