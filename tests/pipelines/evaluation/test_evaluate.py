"""evaluate against a pure Python oracle, its intervals, its reuse and its figures."""

import json
import math
import shutil
import xml.etree.ElementTree as ET
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from shop import DAYS, START, WINDOW, Shop, bundle_of, failed, recsys

from pipelines.commands.evaluate import evaluate
from pipelines.commands.runs import find_run
from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.evaluation.certificate import LEAKS
from pipelines.release import index_search
from pipelines.release.export import bundle_folder
from pipelines.report import figures
from recsys.bundle import verify

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
    changes = ("--set", "evaluate.exclude_seen=false", "--set", "train.max_epochs=1")
    for command in ("train", "evaluate"):
        ran = recsys(command, "--config", own_shop.config_file, *changes)
        assert ran.code == 0, ran.err
    (run,) = set(own_shop.config.runs.iterdir()) - {own_shop.run}
    naive = naive_popularity(log, 10, exclude_seen=False)
    assert metrics(run)["users"] == naive.pop("users")
    popularity = metrics(run)["test"]["popularity"]
    assert {name: popularity[name] for name in naive} == pytest.approx(naive, abs=1e-12)
    assert naive != naive_popularity(log, 10, exclude_seen=True)


def test_other_settings_of_evaluate_are_scored_anew(own_shop: Shop, said: list[str]) -> None:
    assert evaluate(own_shop.config, own_shop.run) == metrics(own_shop.run)
    assert said[-1].endswith("is of this bundle: reused")
    before = metrics(own_shop.run)["test"]["model"]
    ks = Config.model_validate(
        own_shop.config.model_dump() | {"evaluate": {"ks": [5, 10], "select": "ndcg@5"}}
    )
    model = evaluate(ks, own_shop.run)["test"]["model"]
    assert model == metrics(own_shop.run)["test"]["model"]
    assert model["ndcg@10"] == before["ndcg@10"]
    assert "ndcg@20" not in model
    assert 0 < model["hit_rate@5"] <= model["hit_rate@10"]


def words_of(svg: str) -> str:
    """All text of a figure, which must have lines and points too."""
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 5
    return " ".join(filter(None, (one.text for one in root.iter("{http://www.w3.org/2000/svg}text"))))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("curves", ["training loss", "validation ndcg@10", "metric-1", "epoch"]),
        ("distances", ["held out", "random", "density"]),
        ("results", ["hit_rate@10", "recall@20", "ndcg@20", "served", "popularity"]),
        ("search", ["scan", "milliseconds, median", "recall@20 of the exact top"]),
    ],
)
def test_figures_are_files_of_the_folder(shop: Shop, name: str, words: list[str]) -> None:
    shown = words_of((shop.run / f"{name}.svg").read_text(encoding="utf-8"))
    assert all(word in shown for word in words), shown


def test_results_of_a_single_system_and_metric_can_be_drawn() -> None:
    one = {"model": {"recall@10": 0.5}}
    drawing = figures.results({"users": 1, "test": one, "intervals": {"model": {"recall@10": [0.4, 0.7]}}})
    assert "recall@10" in words_of(drawing.svg)


def test_evaluate_and_export_take_the_run_of_their_settings_not_the_newest(own_shop: Shop) -> None:
    command = ("--config", own_shop.config_file)
    first = metrics(own_shop.run)
    assert recsys("train", *command, "--set", "train.max_epochs=1").code == 0
    (newer,) = set(own_shop.config.runs.iterdir()) - {own_shop.run}
    assert newer.name > own_shop.run.name
    (own_shop.run / "metrics.json").unlink()
    assert recsys("evaluate", *command).code == 0
    assert metrics(own_shop.run) == first
    assert not (newer / "metrics.json").exists()
    shutil.move(bundle_of(own_shop), own_shop.config.root / "away")
    assert recsys("export", *command).code == 0
    assert bundle_of(own_shop).exists()
    assert not bundle_folder(own_shop.config, newer).exists()


def test_of_several_runs_of_the_same_settings_the_latest_is_found(own_shop: Shop) -> None:
    key = own_shop.run.name.split("-")[-1]
    later, cut_short = (own_shop.run.with_name(f"{when}-{key}") for when in ("20990101-000000", "20990102-0"))
    for folder in (later, cut_short):
        shutil.copytree(own_shop.run, folder)
    (cut_short / "train.json").write_text("")
    assert find_run(own_shop.config, None) == later
    assert find_run(own_shop.config, own_shop.run.name) == own_shop.run


def test_an_evaluate_interrupted_at_its_last_figure_is_redone(
    own_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = ("evaluate", "--config", own_shop.config_file, "--set", "evaluate.resamples=200")
    with monkeypatch.context() as patched:
        patched.setattr(figures, "search", interrupted)
        failed(recsys(*command), 1, "interrupted")
    assert not (own_shop.run / "metrics.json").exists()
    assert recsys(*command).code == 0
    assert metrics(own_shop.run)["test"]


def many_items(n_items: int = 3_000, n_users: int = 300, groups: int = 10) -> pl.DataFrame:
    """Users who take 33 products of their own group of `n_items / groups`, the first of them more often."""
    generator = np.random.default_rng(0)
    size = n_items // groups
    appeal = 1 / (10 + np.arange(size))
    rows = [
        (user, user % groups * size + int(item), START + timedelta(days=day, seconds=user))
        for user in range(n_users)
        for item, day in zip(
            generator.choice(size, 36, replace=False, p=appeal / appeal.sum()),
            [*range(30), 70, 71, 72, 90, 91, 92],
            strict=True,
        )
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "at"], orient="row")


def test_what_annoy_serves_is_within_1_percent_of_the_model(
    shop_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_search, "AS_FAST", 0.0)  # trees, though a scan of so few items may be as fast
    train = {"max_epochs": 1, "learning_rate": 0.1, "untrained": []}
    path = shop_file(many_items(), items=None, train=train, space={"dim": 4}, export={"trees": None})
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    config = load_config(path)
    run = find_run(config, None)
    manifest = verify(bundle_folder(config, run))
    assert manifest["search_k"] is not None
    assert manifest["search_k"] < manifest["n_items"]
    test = metrics(run)["test"]
    assert test["model"]["ndcg@10"] > 2 * test["popularity"]["ndcg@10"]
    assert test["served"]["ndcg@10"] == pytest.approx(test["model"]["ndcg@10"], rel=0.01)
    assert "is not within 1 %" not in ran.err


@pytest.mark.parametrize("kind", ["time", "leave_last_out"])
def test_results_say_what_the_split_leaks(shop: Shop, shop_file: Any, kind: str) -> None:
    run, ran = shop.run, shop.ran
    if kind != "time":
        split = {"kind": kind, "test_start": None, "validation_start": None}
        path = shop_file(split=split, train={"max_epochs": 1})
        ran = recsys("retrain", "--config", path)
        run = find_run(load_config(path), None)
    result, report = metrics(run), (run / "report.txt").read_text(encoding="utf-8")
    assert (result["split"], result["leaks"]) == (kind, LEAKS[kind])
    for text in (report, ran.out):
        assert f"Test ({kind} split)" in text
        assert f"leaks: {LEAKS[kind]}\n" in text
    assert len(set(LEAKS.values())) == 3


def test_differences_are_paired_over_users(shop: Shop) -> None:
    result = json.loads((shop.run / "metrics.json").read_text())
    values = pl.read_parquet(shop.run / "per_user.parquet")
    for system, differences in result["model_minus"].items():
        model, other = (values.filter(pl.col("system") == name)["ndcg@10"] for name in ("model", system))
        mean, low, high = differences["ndcg@10"]
        assert mean == pytest.approx((model - other).mean(), abs=1e-12)
        assert low <= mean <= high
    mean, low, high = result["model_minus"]["popularity"]["ndcg@10"]
    wide = result["intervals"]["model"]["ndcg@10"]
    assert low > 0, "the planted tastes are found"
    assert high - low < 2 * (wide[1] - wide[0])
    shown = (shop.run / "report.txt").read_text()
    assert (
        f"model - popularity: hit_rate@10 {result['model_minus']['popularity']['hit_rate@10'][0]:+.4f}"
        in shown
    )
