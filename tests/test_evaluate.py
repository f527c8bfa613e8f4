"""evaluate against a pure Python oracle, its intervals, its reuse and its pictures."""

import json
import math
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from shop import DAYS, START, WINDOW, Shop, recsys

from pipelines import plots
from pipelines.cli import find_run
from pipelines.config import Config
from pipelines.evaluate import _intervals, evaluate

TEST_START = START + timedelta(days=DAYS - WINDOW)


def metrics(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text())


def naive_popularity(log: pl.DataFrame, k: int, exclude_seen: bool) -> dict[str, float]:
    """Metrics at k of the most popular items (ties by id), straight from the events, one user at a time."""
    before, after, takers = defaultdict(set), defaultdict(set), defaultdict(set)
    for user, item, at in log.rows():
        (before if at < TEST_START else after)[user].add(item)
        if at < TEST_START:
            takers[item].add(user)
    order = sorted(takers, key=lambda item: (-len(takers[item]), item))
    sums: dict[str, list[float]] = defaultdict(list)
    for user, taken in after.items():
        targets = {item for item in taken if item in takers} - (before[user] if exclude_seen else set())
        if user not in before or not targets:
            continue
        shown = [item for item in order if not (exclude_seen and item in before[user])][:k]
        hits = [rank for rank, item in enumerate(shown, 1) if item in targets]
        best = min(k, len(targets))
        ideal = sum(1 / math.log2(1 + rank) for rank in range(1, best + 1))
        precisions = [place / rank for place, rank in enumerate(hits, 1)]
        sums[f"hit_rate@{k}"].append(float(bool(hits)))
        sums[f"recall@{k}"].append(len(hits) / len(targets))
        sums[f"ndcg@{k}"].append(sum(1 / math.log2(1 + rank) for rank in hits) / ideal)
        sums[f"mrr@{k}"].append(1 / hits[0] if hits else 0.0)
        sums[f"map@{k}"].append(sum(precisions) / best)
    means = {name: sum(values) / len(values) for name, values in sums.items()}
    return means | {"users": len(sums[f"mrr@{k}"])}


@pytest.mark.parametrize("k", [10, 20])
def test_popularity_equals_a_naive_count(shop: Shop, log: pl.DataFrame, k: int) -> None:
    naive = naive_popularity(log, k, exclude_seen=True)
    result = metrics(shop.run)
    assert result["users"] == naive.pop("users")
    for name, value in naive.items():
        assert result["test"]["popularity"][name] == pytest.approx(value, abs=1e-12)


def test_popularity_equals_a_naive_count_with_repeat_purchases(own_shop: Shop, log: pl.DataFrame) -> None:
    ran = recsys("evaluate", "--config", own_shop.config_file, "--set", "evaluate.exclude_seen=false")
    assert ran.code == 0, ran.err
    naive = naive_popularity(log, 10, exclude_seen=False)
    assert metrics(own_shop.run)["users"] == naive.pop("users")
    popularity = metrics(own_shop.run)["test"]["popularity"]
    assert {name: popularity[name] for name in naive} == pytest.approx(naive, abs=1e-12)
    assert naive != naive_popularity(log, 10, exclude_seen=True)


def test_other_settings_of_evaluate_are_scored_anew(own_shop: Shop) -> None:
    said: list[str] = []
    assert evaluate(own_shop.config, own_shop.run, said.append) == metrics(own_shop.run)
    assert said[-1].endswith("is of this bundle: reused")
    before = metrics(own_shop.run)["test"]["model"]
    ks = Config.model_validate(
        own_shop.config.model_dump() | {"evaluate": {"ks": [5, 10], "select": "ndcg@5"}}
    )
    model = evaluate(ks, own_shop.run, said.append)["test"]["model"]
    assert model == metrics(own_shop.run)["test"]["model"]
    assert model["ndcg@10"] == before["ndcg@10"]
    assert "ndcg@20" not in model
    assert 0 < model["hit_rate@5"] <= model["hit_rate@10"]


def test_intervals_are_percentiles_of_resampled_means() -> None:
    values = np.random.default_rng(1).random(400)
    spread = {"recall@10": values, "hit_rate@10": np.ones(400)}
    intervals = _intervals(spread, 2000, 0, "model", print)
    error = values.std() / 20
    assert intervals["recall@10"] == pytest.approx(
        [values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.15 * error
    )
    assert intervals["hit_rate@10"] == [1.0, 1.0]
    said: list[str] = []
    assert _intervals({"recall@10": values[:1]}, 100, 0, "model", said.append) == {
        "recall@10": [values[0]] * 2
    }
    assert said == ["evaluate: one user is too few for an interval of model"]


@pytest.mark.parametrize("name", ["curves.png", "distances.png", "results.png"])
def test_pictures_are_not_blank(shop: Shop, name: str) -> None:
    image = imread(shop.run / name)
    assert min(image.shape[:2]) > 200
    assert image[..., :3].std() > 0.02
    assert (image[..., :3] < 0.2).any()  # axes and letters


def test_results_of_a_single_system_and_metric_can_be_drawn(tmp_path: Path) -> None:
    one = {"model": {"recall@10": 0.5}}
    plots.results(
        {"users": 1, "test": one, "intervals": {"model": {"recall@10": [0.4, 0.7]}}}, tmp_path / "x.png"
    )
    assert imread(tmp_path / "x.png")[..., :3].std() > 0.02


def test_find_run_takes_the_latest(own_shop: Shop) -> None:
    assert find_run(own_shop.config, None) == own_shop.run
