"""The synthetic log: the same for the same seed, skewed, clustered and sized as asked."""

import importlib.util
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from paths import ROOT

SCRIPT = ROOT / "benchmarks" / "synthetic.py"
SPEC = importlib.util.spec_from_file_location("synthetic", SCRIPT)
assert SPEC
assert SPEC.loader
synthetic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(synthetic)

SHAPE = synthetic.Shape(interactions=200_000, users=20_000, items=3_000, clusters=20)


def log(shape=SHAPE, seed=0, rows=1_000_000):
    """user_id, item_id, seconds, (N,) each."""
    return [np.concatenate(parts) for parts in zip(*synthetic.chunks(shape, seed, rows), strict=True)]


def test_the_log_follows_the_seed_and_not_the_chunks():
    one = log()
    for rows in (7_919, 200_000):
        for column, same in zip(one, log(rows=rows), strict=True):
            np.testing.assert_array_equal(column, same)
    for column, other in zip(one, log(seed=1), strict=True):
        assert (column == other).mean() < 0.05
    longer = log(SHAPE._replace(interactions=250_000))
    np.testing.assert_array_equal(longer[0][:200_000], one[0])


def test_sizes_and_times_are_in_range():
    user, item, seconds = log()
    assert len(user) == len(item) == len(seconds) == 200_000
    for ids, size in ((user, SHAPE.users), (item, SHAPE.items)):
        assert ids.min() >= 0
        assert ids.max() < size
        assert len(np.unique(ids)) > 0.6 * size
    start = synthetic.START.timestamp()
    assert start <= seconds.min() < start + 86_400
    end = start + synthetic.DAYS * 86_400
    assert end - 86_400 < seconds.max() < end


@pytest.mark.parametrize("zipf", [0.5, 0.8, 1.0, 1.3])
def test_popularity_falls_as_the_power_that_was_asked(zipf):
    _, item, _ = log(SHAPE._replace(zipf=zipf))
    counts = np.sort(np.bincount(item))[::-1][:200]  # each of hundreds of events, but for the last of 1.3
    slope = np.polyfit(np.log(np.arange(1, 201)), np.log(counts), 1)[0]
    assert abs(slope + zipf) < 0.06


def test_activity_is_log_normal():
    """With deviation s the most active share p makes Phi(s - z) of the events, z the quantile of 1 - p."""
    user, _, _ = log(SHAPE._replace(zipf=0))  # a popular item draws its cluster's users
    counts = np.sort(np.bincount(user, minlength=SHAPE.users))[::-1]
    for share, expected in ((0.01, 0.130), (0.1, 0.467), (0.5, 0.885)):
        assert abs(counts[: int(share * SHAPE.users)].sum() / counts.sum() - expected) < 0.03


def test_users_concentrate_on_items_of_their_clusters():
    user, item, _ = log()
    of_item = synthetic.cluster_of_item(SHAPE, item)
    of_user = synthetic.clusters_of_user(SHAPE, user)
    assert (of_user[:, 0] != of_user[:, 1]).all()
    assert set(of_item) == set(of_user[:, 0]) == set(of_user[:, 1]) == set(range(SHAPE.clusters))
    first, second = (of_user == of_item[:, None]).mean(axis=0)
    by_chance = 1 / SHAPE.clusters
    assert abs(first - (0.8 * 0.7 + 0.2 * by_chance)) < 0.02
    assert abs(second - (0.8 * 0.3 + 0.2 * by_chance)) < 0.02
    shuffled = np.random.default_rng(0).permutation(of_item)
    assert (of_user == shuffled[:, None]).any(axis=1).mean() < 0.2


def test_some_pairs_repeat():
    flat = SHAPE._replace(zipf=0, users=200_000, items=30_000)  # where hardly any would by chance
    user, item, seconds = log(flat)
    pairs = user * flat.items + item
    assert 0.09 < 1 - len(np.unique(pairs)) / len(pairs) < 0.12
    assert len(np.unique(pairs * 2**32 + seconds % 2**32)) > 0.999 * len(pairs), "at another time"


def test_items_appear_over_time():
    _, item, seconds = log()
    counts = np.bincount(item, minlength=SHAPE.items)
    first = np.full(SHAPE.items, np.inf)
    np.minimum.at(first, item, seconds)
    days = (first[counts >= 30] - synthetic.START.timestamp()) / 86_400
    assert 0.4 < (days < 30).mean() < 0.75  # half are there from the start
    assert 0.1 < (days > 180).mean() < 0.4


def test_a_file_by_one_command(tmp_path):
    out = tmp_path / "log.parquet"
    sizes = ["--interactions", "10_000", "--users", "1_000", "--items", "500", "--seed", "3"]
    for _ in range(2):
        subprocess.run([sys.executable, SCRIPT, *sizes, "--out", out], check=True)
    frame = pl.read_parquet(out)
    assert frame.schema == {"user_id": pl.Int64, "item_id": pl.Int64, "event_at": pl.Datetime("us")}
    user, item, seconds = log(synthetic.Shape(10_000, 1_000, 500), seed=3)
    np.testing.assert_array_equal(frame["user_id"], user)
    np.testing.assert_array_equal(frame["item_id"], item)
    np.testing.assert_array_equal(frame["event_at"].dt.epoch("s"), seconds)
    synthetic.write(synthetic.Shape(10_000, 1_000, 500), 3, tmp_path / "small.parquet", rows=999)
    assert pl.read_parquet(tmp_path / "small.parquet").equals(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interactions": 0}, "interactions, rows, seed = 0"),
        ({"clusters": 1}, "clusters = 1"),
        ({"items": 10}, "clusters = 20"),
        ({"zipf": -1.0}, "zipf, activity = -1.0"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        log(SHAPE._replace(**change))
