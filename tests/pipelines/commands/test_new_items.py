"""A shop that lists new products: from the log to lists that hold them, and a refresh without training."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from shop import DAYS, GRAPH, GROUP_SIZE, START, WINDOW, Ran, Shop, products, purchases, recsys, write_config

from pipelines.commands.runs import find_run
from pipelines.config.loading import load_config
from pipelines.data import content, history
from recsys import releases
from recsys.bundle import open_bundle
from serving.recommender import Recommender

VALIDATION, TEST = (START + timedelta(days=DAYS - n * WINDOW) for n in (2, 1))
PLACE = pl.col("item_id") % 5000 % GROUP_SIZE  # of a product in its group
NEW_IN_VALIDATION, NEW_IN_TEST = (24, 27), (27, 30)
SETTINGS: dict[str, dict[str, Any]] = {
    "items": {"place_new": True, "text": ["name"]},
    "graph": GRAPH["graph"],
    "train": {"spaces": [{"kind": "graph", "start": "content"}], "max_epochs": 4, "new_items_price": 0.1},
    "gate": {"max_new_share": 0.9},
}


def late_log() -> pl.DataFrame:
    """The planted log in which some products of each group are first sold in a window."""
    log = purchases()
    for (first, last), start in ((NEW_IN_VALIDATION, VALIDATION), (NEW_IN_TEST, TEST)):
        log = log.filter(~(PLACE.is_between(first, last - 1) & (pl.col("at") < start)))
    return log


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Shop:
    """A finished retrain; tests read it and leave it as it is."""
    path = write_config(tmp_path_factory.mktemp("new") / "shop", late_log(), mlflow_template, **SETTINGS)
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    config = load_config(path)
    return Shop(path, config, find_run(config, None), ran)


@pytest.fixture
def own(opened: Shop, tmp_path: Path) -> Iterator[Shop]:
    """The finished retrain to go on with; its folder is put back afterwards."""
    folder = opened.config_file.parent
    shutil.copytree(folder, tmp_path / "kept", symlinks=True)
    yield opened
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder, symlinks=True)


def new_ids() -> set[int]:
    first, last = NEW_IN_TEST
    return {5000 + item for item in range(120) if first <= item % GROUP_SIZE < last}


def test_new_products_are_ranked_and_served(opened: Shop) -> None:
    known = json.loads((opened.run / "metrics.json").read_text())["new_items"]
    assert known["items"] == len(new_ids()) == 12
    alone = {name: values["ndcg@10"] for name, values in known["test"]["new"].items()}
    assert alone["model"] > 1.5 * alone["popular kinds"]
    assert alone["model"] > 0.8 * alone["kinds like theirs"]
    assert known["shares_of_features"]["shelf"] > 0
    assert sum(known["shares_of_features"].values()) == pytest.approx(1)
    bundle = open_bundle(opened.config.bundles / str(releases.current(opened.config.bundles)))
    assert {bundle.items.external(item) for item in bundle.new_items.tolist()} == new_ids()
    assert set(bundle.popular[-12:].tolist()) == set(bundle.new_items.tolist())
    shop = Recommender(bundle)
    answer = shop.recommend(1000, 120)
    assert {one.item_id for one in answer if one.is_new} == new_ids()
    first = [one.item_id for one in answer if one.is_new][:3]
    assert first == sorted(first), "of its own group"
    assert {int(str(item)) % 5000 // GROUP_SIZE for item in first} == {0}
    likewise = shop.similar_items(5000 + 28, 5)
    assert {int(str(one.item_id)) % 5000 // GROUP_SIZE for one in likewise} == {0}
    reasons = shop.explain(1000, 5000 + 28, 3)
    assert {int(str(one.item_id)) % 5000 // GROUP_SIZE for one in reasons} == {0}
    assert {one.item_id for one in reasons} <= {one.item_id for one in shop.history(1000)}
    assert [one.score for one in reasons] == sorted((one.score for one in reasons), reverse=True)
    assert all(one.is_new for one in shop.recommend(None, 120)[-12:])


def test_the_run_tells_of_new_products(opened: Shop) -> None:
    out = opened.ran.out
    assert "12 new items, ranked among themselves" in out
    assert "All items in one ranking" in out
    assert "in 1" in out or "in 2" in out or "lists, highest for users" in out
    assert "what places them: " in out
    assert "new_items" in out.partition("statements hold: ")[2]
    page = (opened.run / "report.html").read_text()
    assert '<section id="new-items">' in page
    assert "What places a new item" in page


def test_a_planted_leak_is_caught(own: Shop) -> None:
    """The encoders of the run know a word of new items alone."""
    encoders = content.load(own.run)
    first = encoders[0]
    planted = first._replace(vocabulary=(*first.vocabulary, "leak"), weights=(*first.weights, 1.0))
    content.save(own.run, [planted, *encoders[1:]])
    (own.run / "metrics.json").unlink()
    ran = recsys("evaluate", "--config", own.config_file)
    assert ran.code == 3
    assert "new_items (What places new items was learned from fitted items alone." in ran.err
    assert "encoder = text" in ran.err


def test_a_metric_space_and_all_losses_of_items_are_on_the_road(
    tmp_path: Path, mlflow_template: Path
) -> None:
    """A siamese tower under Mahalanobis, then a graph: chosen, certified, exported, placed by a refresh."""
    metric = {
        "spaces": [{"kind": "metric", "start": "content"}, {"kind": "graph", "start": "content"}],
        "max_epochs": 3,
        "new_items_price": 0.1,
    }
    settings = SETTINGS | {
        "train": metric,
        "space": {"tower": "siamese", "distance": "mahalanobis", "dim": 8},
        "loss": {"attribute_weight": 0.1, "view_weight": 0.1},
        "mining": {"synthetic_items": 32},
    }
    path = write_config(tmp_path / "shop", late_log(), mlflow_template, **settings)
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    config = load_config(path)
    run = find_run(config, None)
    known = json.loads((run / "metrics.json").read_text())["new_items"]["test"]["new"]
    assert known["model"]["ndcg@10"] > 1.5 * known["popular kinds"]["ndcg@10"]
    added = pl.DataFrame({"item_id": [9000], "name": ["Product 9000 [shelf 2]"], "shelf": ["shelf 2"]})
    pl.concat([products(), added]).write_parquet(path.parent / "items.parquet")
    again = recsys("refresh", "--config", path)
    assert again.code == 0, again.err
    bundle = open_bundle(config.bundles / str(releases.current(config.bundles)))
    assert 9000 in {bundle.items.external(item) for item in bundle.new_items.tolist()}


def refresh(shop: Shop, *options: str) -> Ran:
    return recsys("refresh", "--config", shop.config_file, *options)


def change(shop: Shop, name: str, frame: pl.DataFrame) -> None:
    frame.write_parquet(shop.config_file.parent / f"{name}.parquet")


def test_a_refresh_places_todays_products_and_users(own: Shop) -> None:
    before = str(releases.current(own.config.bundles))
    added = pl.DataFrame({"item_id": [9000], "name": ["Product 9000 [shelf 2]"], "shelf": ["shelf 2"]})
    change(own, "items", pl.concat([products(), added]))
    day = START + timedelta(days=DAYS - 0.5)
    bought = [5060, 5061, 5062, 5063]
    visit = pl.DataFrame({"user_id": [7777] * 4, "item_id": bought, "at": [day] * 4})
    log = late_log()
    change(own, "log", pl.concat([log, visit.with_columns(pl.col("at").cast(log.schema["at"]))]))
    ran = refresh(own)
    assert ran.code == 0, ran.err
    after = str(releases.current(own.config.bundles))
    assert after == ran.out.strip()
    assert after.startswith(f"{own.run.name}-refresh-")
    shop, old = (Recommender.open(own.config.bundles / name) for name in (after, before))
    assert shop.knows_user(7777)
    answer = shop.recommend(7777, 200)
    assert not {one.item_id for one in answer} & set(bought)
    groups = [int(str(one.item_id)) % 5000 // GROUP_SIZE for one in answer[:10] if one.item_id != 9000]
    assert groups.count(2) >= 7
    of_new = [one.item_id for one in answer if one.is_new]
    assert 9000 in of_new[:4], "it is like the products of shelf 2"
    likewise = shop.similar_items(9000, 10)
    assert {int(str(one.item_id)) % 5000 // GROUP_SIZE for one in likewise} == {2}
    (found,) = (one for one in answer if one.item_id == 9000)
    assert found.title == "Product 9000 [shelf 2]"
    assert 9000 in [one.item_id for one in shop.recommend(7777, 200, where={"shelf": ["shelf 2"]})]
    # who the model knows keeps the order of what it knows, less what was bought since
    for user in (1000, 1001, 1002):
        kept = [one.item_id for one in shop.recommend(user, 200) if not one.is_new]
        then = [one.item_id for one in old.recommend(user, 200) if not one.is_new]
        assert kept == [item for item in then if item in set(kept)]
    again = refresh(own)
    assert again.code == 0, again.err
    assert "is valid: reused" in again.err
    second, first, _ = history.past_runs(own.config, 5)
    assert (first.kind, first.status, first.bundle) == ("refresh", "promoted", after)
    assert (first.started_from, first.run, first.new_items, first.new_users) == (before, own.run.name, 13, 1)
    assert first.started_at is not None
    assert first.ended_at is not None
    assert (second.kind, second.status, second.started_from) == ("refresh", "unchanged", after)
    assert releases.current(own.config.bundles) == after
    following = recsys("retrain", "--config", own.config_file)  # trains on today's log and catalogue
    assert following.code in (0, 4), following.err
    assert f"against {after}" in following.err


def test_a_retrain_of_the_same_log_leaves_the_refreshed_release(own: Shop) -> None:
    ran = refresh(own)
    assert ran.code == 0, ran.err
    again = recsys("retrain", "--config", own.config_file)
    assert again.code == 0, again.err
    assert "is the champion already" in again.err
    assert releases.current(own.config.bundles) == ran.out.strip()


def test_a_refresh_of_other_descriptions_is_refused(own: Shop) -> None:
    before = releases.current(own.config.bundles)
    changed = products().with_columns(pl.lit("shelf 9").alias("shelf"))
    change(own, "items", changed)
    ran = refresh(own)
    assert ran.code == 4
    drift = "content drift: of 108 fitted items 108 have other descriptions than in training"
    assert drift in ran.err
    assert releases.current(own.config.bundles) == before
    assert refresh(own, "--set", "gate.max_content_drift=1").code == 0
    shown = recsys("history", "--config", own.config_file).out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [(row[1], row[3]) for row in rows] == [
        ("refresh", "promoted"),
        ("refresh", "not_promoted"),
        ("retrain", "promoted"),
    ]
    assert rows[0][-1].startswith(f"12 new items, 0 new users, of {before}: {own.run.name}-refresh-")
    assert rows[1][-1].startswith(f"12 new items, 0 new users, of {before}: not promoted: {drift}")


def test_a_refresh_without_a_champion_is_refused(shop_file: Callable[..., Path]) -> None:
    path = shop_file(late_log(), **SETTINGS)
    ran = recsys("refresh", "--config", path)
    assert ran.code == 2
    assert "has no champion to refresh: run retrain first" in ran.err
    (row,) = history.past_runs(load_config(path), 5)
    assert (row.kind, row.status, row.started_from) == ("refresh", "failed", None)
    assert "has no champion to refresh" in str(row.detail)


def test_a_broken_contract_stops_a_refresh(own: Shop) -> None:
    before = releases.current(own.config.bundles)
    change(own, "log", late_log().head(50))
    ran = refresh(own)
    assert ran.code == 3
    assert "data contracts are broken" in ran.err
    assert releases.current(own.config.bundles) == before
    row = history.past_runs(own.config, 1)[0]
    assert (row.kind, row.status, row.started_from, row.new_items) == ("refresh", "bad_data", before, None)
    assert "data contracts are broken" in str(row.detail)


def test_spaces_and_content_go_together(shop_file: Callable[..., Path]) -> None:
    spaces = {"spaces": [{"kind": "graph"}]}
    for name, changes, words in (
        ("one", {"train": spaces}, "items.place_new = true needs a space with start = 'content'"),
        ("two", {"items": {}, "train": {"spaces": [{"start": "content"}]}}, "needs items.place_new = true"),
        ("three", {"split": {"cold_items": 0.2}}, "split.cold_items = 0.2 with split.kind = 'time'"),
    ):
        ran = recsys("retrain", "--config", shop_file(name=name, **(SETTINGS | changes)))
        assert ran.code == 2
        assert words in ran.err


def test_tune_searches_with_content(own: Shop, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("[graph.temperature]\nchoices = [0.2, 0.4]\n")
    ran = recsys("tune", "--config", own.config_file, "--space", space, "--trials", "2")
    assert ran.code == 0, ran.err
    assert "new items among themselves, validation ndcg@10" in ran.err


@pytest.mark.parametrize("items", [{}, None])
def test_a_champion_that_places_no_items_is_refreshed_with_todays_users(
    shop_file: Callable[..., Path], items: dict[str, Any] | None
) -> None:
    path = shop_file(items=items)
    assert recsys("retrain", "--config", path, "--set", "train.spaces=[]").code == 0
    log = purchases()
    visit = log.filter(pl.col("user_id") == 1002).with_columns(pl.lit(7777, pl.Int64).alias("user_id"))
    pl.concat([log, visit]).write_parquet(path.parent / "log.parquet")
    ran = recsys("refresh", "--config", path, "--set", "train.spaces=[]")
    assert ran.code == 0, ran.err
    config = load_config(path)
    shop = Recommender.open(config.bundles / ran.out.strip())
    assert shop.n_items == 120
    bought = set(visit["item_id"].to_list())
    assert {one.item_id for one in shop.history(7777)} == bought
    assert not bought & {one.item_id for one in shop.recommend(7777, 120)}
    assert shop.attributes == (() if items is None else ("shelf",))
