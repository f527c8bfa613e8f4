"""A space in one call: from a table of any kind to recommendations and a bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from tastes import planted

from recsys import baselines, spaces
from recsys.content import Content, Features
from recsys.fitting import FittedSpace, fit
from recsys.interactions import Interactions
from recsys.settings import Settings
from serving.recommender import Recommender

SMALL = Settings(dim=4, batch_size=64, learning_rate=0.03, in_batch_items=24, uniform_items=24)


def log(seed: int = 0, share: float = 0.5) -> dict[str, list[Any]]:
    """Even users take even items, odd users odd ones: 40 users, 60 items."""
    drawn = np.random.default_rng(seed).random((40, 60)) < share
    pairs = [(u, i) for u, i in np.argwhere(drawn) if u % 2 == i % 2]
    return {"user_id": [1000 + int(u) for u, _ in pairs], "item_id": [f"item {i:02}" for _, i in pairs]}


@pytest.fixture(scope="module")
def space() -> FittedSpace:
    return fit(Interactions.of(log()), SMALL)


def test_a_user_is_recommended_new_items_of_their_kind(space: FittedSpace) -> None:
    had = set(zip(log()["user_id"], log()["item_id"], strict=True))
    found = [(user, item) for user in range(1000, 1040) for item in space.recommend(user, 5)]
    assert len(found) == 200
    assert not had & set(found)
    assert np.mean([user % 2 == int(str(item)[-2:]) % 2 for user, item in found]) > 0.95


def test_a_user_who_is_not_in_the_space_gets_items_of_their_kind(space: FittedSpace) -> None:
    items = space.recommend_to(["item 02", "item 04", "item 06"], 5)
    assert len(items) == 5
    assert not {"item 02", "item 04", "item 06"} & set(items)
    assert all(int(str(item)[-2:]) % 2 == 0 for item in items)


def test_similar_items_are_of_its_kind(space: FittedSpace) -> None:
    similar = space.similar_items("item 07", 5)
    assert "item 07" not in similar
    assert all(int(str(item)[-2:]) % 2 == 1 for item in similar)


def test_a_bundle_answers_as_the_space_does(space: FittedSpace, tmp_path: Path) -> None:
    space.write_bundle(tmp_path / "bundle")
    shop = Recommender.open(tmp_path / "bundle")
    for user in (1000, 1001, 1039):
        assert [answer.item_id for answer in shop.recommend(user, 5)] == space.recommend(user, 5)
    history = ["item 02", "item 04"]
    assert [answer.item_id for answer in shop.recommend(k=5, history=history)] == space.recommend_to(
        history, 5
    )
    with pytest.raises(FileExistsError):
        space.write_bundle(tmp_path / "bundle")


def test_held_out_interactions_choose_the_epoch() -> None:
    frame = pl.DataFrame(log(share=0.8)).with_row_index()
    table = Interactions.of(frame.filter(pl.col("index") % 5 > 0))
    assert (table.n_users, table.n_items) == (40, 60)
    held_out = Interactions.of(frame.filter(pl.col("index") % 5 == 0), like=table)
    space = fit(table, SMALL, epochs_at_most=30, held_out=held_out, patience=2)
    scores = [row["ndcg@10"] for row in space.history]
    assert space.scores["ndcg@10"] == max(scores)
    assert len(scores) == 30 or len(scores) == scores.index(max(scores)) + 3


def test_without_settings_a_small_log_is_learned_better_than_by_popularity_and_spectrum() -> None:
    """Users take what is near their tastes: four items are fitted, four are asked for."""
    judge = planted()
    data = judge.data
    parts = (data.user.numpy(), data.item.numpy(), data.weight.numpy(), data.time.numpy())
    space = fit(Interactions(*parts, data.n_users, data.n_items))
    found = judge.means((torch.from_numpy(space.users), torch.from_numpy(space.items)))["ndcg@10"]
    popular = spaces.same_for_all(-baselines.popularity(data), data.n_users)
    spectrum = spaces.inner_product_as_distance(*baselines.spectral(data, 63))
    assert found > 1.2 * judge.means(spaces.euclidean_vectors(popular))["ndcg@10"]
    assert found > 1.2 * judge.means(spaces.euclidean_vectors(spectrum))["ndcg@10"]


def test_three_users_are_fitted_without_settings() -> None:
    space = fit(Interactions.of({"user_id": [1, 1, 2, 2, 3], "item_id": [10, 11, 10, 12, 11]}))
    assert set(space.recommend(3, 5)) == {10, 12}
    assert set(space.recommend(1, 5)) == {12}


def test_new_items_are_recommended_by_what_is_known_about_them(tmp_path: Path) -> None:
    """Nobody has the last ten of sixty items; even users take even items, and a feature says which."""
    rows = pl.DataFrame(log()).filter(pl.col("item_id") < "item 50")
    new = [f"item {item}" for item in range(50, 60)]
    table = Interactions.of(rows, new_items=new)
    assert table.n_items == 60
    assert table.item_counts()[50:].tolist() == [0] * 10
    even = np.array([int(item[-2:]) % 2 for item in table.item_ids or []])
    features = Features(np.arange(61), even.astype(np.int32), np.ones(60, np.float32), 2)
    space = fit(table, content=Content(features))
    found = [(user, item) for user in (1000, 1001) for item in space.recommend(user, 60) if item in new]
    for user in (1000, 1001):
        mine = [int(str(item)[-2:]) % 2 for one, item in found if one == user]
        assert mine[:5] == [user % 2] * 5  # of the new items those of their kind come first
    assert {int(str(item)[-2:]) % 2 for item in space.similar_items("item 51", 5)} == {1}
    space.write_bundle(tmp_path / "bundle")
    shop = Recommender.open(tmp_path / "bundle")
    assert [answer.item_id for answer in shop.recommend(1000, 50)] == space.recommend(1000, 50)
    assert repr(space) == "FittedSpace(40 users, 60 items, 41 coordinates)"


def test_new_items_have_ids_of_the_same_type() -> None:
    table = {"user_id": [1, 2], "item_id": [10, 12]}
    found = Interactions.of(table, new_items=[11, 10]).item_ids
    assert found is not None
    assert list(found) == [10, 11, 12]
    with pytest.raises(
        ValueError, match="new_items holds 'A', allowed: whole numbers, as column 'item_id' has"
    ):
        Interactions.of(table, new_items=["A"])
    words = {"user_id": [1, 2], "item_id": ["A", "B"]}
    assert Interactions.of(words, new_items={"C"}).item_ids == ["A", "B", "C"]
    with pytest.raises(ValueError, match="new_items with like"):
        Interactions.of(table, like=Interactions.of(table), new_items=[13])


def test_same_seed_same_bits() -> None:
    table = Interactions.of(log())
    first, again, other = (fit(table, SMALL._replace(seed=seed), epochs_at_most=2) for seed in (0, 0, 1))
    assert np.array_equal(first.items, again.items)
    assert not np.array_equal(first.items, other.items)


GRAPH = Settings(
    dim=4, tower="graph", distance="cosine", loss="history_softmax", offset="fixed", learning_rate=0.03
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "history_hinge", "offset": "learned", "distance": "squared_euclidean"},
        {"loss": "warp", "offset": "learned", "batch_size": 64, "cycle_steps": 30},
        {"tower": "two_tables", "cycle_steps": 30},
    ],
    ids=str,
)
def test_a_graph_and_whole_histories_fit_as_well(changes: dict[str, Any], tmp_path: Path) -> None:
    """The users of a batch are few enough for several steps an epoch."""
    table = Interactions.of(log())
    space = fit(table, GRAPH._replace(**changes), epochs_at_most=6)
    assert space.history[-1]["loss"] < space.history[0]["loss"]
    found = [(user, item) for user in range(1000, 1040) for item in space.recommend(user, 5)]
    assert np.mean([user % 2 == int(str(item)[-2:]) % 2 for user, item in found]) > 0.9
    space.write_bundle(tmp_path / "bundle")
    shop = Recommender.open(tmp_path / "bundle")
    assert [answer.item_id for answer in shop.recommend(1001, 5)] == space.recommend(1001, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "loss = 'hinge', allowed: contrastive, triplet_margin"),
        ({"miner": "soft"}, "miner = 'soft', allowed: random, all, semi_hard"),
        ({"distance": "l1"}, "distance = 'l1', allowed: euclidean"),
        ({"dim": 0}, "dim = 0, allowed >= 1"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0, allowed > 0"),
        ({"miner": "offline"}, "miner = 'offline' needs triplets"),
        ({"miner": "distance_weighted"}, "miner = 'distance_weighted' needs distance = 'cosine'"),
        ({"loss": "align_uniform"}, "loss = 'align_uniform' needs distance = 'cosine'"),
        ({"loss": "history_softmax"}, "loss = 'history_softmax' needs offset = 'fixed' or 'none'"),
        ({"cycle_steps": -1}, "cycle_steps = -1, allowed >= 0"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(Interactions.of(log()), SMALL._replace(**changes))


def test_unknown_ids_are_named(space: FittedSpace) -> None:
    for user in (1040, -1, "1000"):
        with pytest.raises(KeyError, match=f"user {user!r} is not in the space"):
            space.recommend(user)
    with pytest.raises(ValueError, match="k = -1, allowed >= 1"):
        space.recommend(1000, -1)
    with pytest.raises(KeyError, match="item 99"):
        space.similar_items("item 99")
    with pytest.raises(ValueError, match="at least one"):
        space.recommend_to([])


def test_held_out_of_other_users_is_refused() -> None:
    with pytest.raises(ValueError, match=r"held_out has \(1, 1\) users and items, allowed \(40, 60\)"):
        fit(Interactions.of(log()), SMALL, held_out=Interactions.of({"user_id": [1], "item_id": [2]}))


# Interactions.of


TABLES = {"dictionary": dict, "polars": pl.DataFrame, "pandas": pd.DataFrame, "arrow": pa.table}


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_makes_the_same_interactions(kind: str) -> None:
    rows = {
        "user_id": ["b", "a", "b", "a", "b"],
        "item_id": [30, 10, 10, 30, 30],
        "amount": [1.0, 2.0, 3.0, 4.0, 5.0],
        "at": np.array(
            ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-02"], "datetime64[us]"
        ),
    }
    table = Interactions.of(TABLES[kind](rows), weight="amount", time="at")
    assert table.user_ids == ["a", "b"]
    assert table.item_ids.tolist() == [10, 30]  # type: ignore[union-attr]
    assert table.user.tolist() == [0, 0, 1, 1]
    assert table.item.tolist() == [0, 1, 0, 1]
    assert table.weight.tolist() == [2.0, 4.0, 3.0, 6.0]
    days = (table.time - int(np.datetime64("2024-01-01", "s").astype(int))) // 86_400
    assert days.tolist() == [1, 3, 2, 1]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"user_id": [1], "item": [1]}, {}, "column 'item_id' is not in the table"),
        ({"user_id": [], "item_id": []}, {}, r"column 'user_id' is \[0\], allowed: .* at least one row"),
        ({"user_id": [1, 2], "item_id": [1]}, {}, "column 'item_id' has 1 rows, 'user_id' has 2"),
        ({"user_id": [1.0, float("nan")], "item_id": [1, 2]}, {}, "column 'user_id' holds nan"),
        (
            {"user_id": np.array([2**63], np.uint64), "item_id": [1]},
            {},
            "holds 9223372036854775808, allowed <=",
        ),
        ({"user_id": [1], "item_id": [1], "w": ["x"]}, {"weight": "w"}, "column 'w' holds"),
        (
            {"user_id": [1.5], "item_id": [1]},
            {},
            "column 'user_id' holds 1.5, allowed: whole numbers or text",
        ),
        ({"user_id": ["a", None], "item_id": [1, 2]}, {}, "column 'user_id' holds None"),
        ({"user_id": [1, 2], "item_id": [1, 2], "t": ["x", "y"]}, {"time": "t"}, "column 't' holds"),
        ({"user_id": [1], "item_id": [1], "w": [-1.0]}, {"weight": "w"}, "weight"),
    ],
)
def test_what_cannot_be_read_is_named(rows: dict[str, Any], options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interactions.of(rows, **options)


def test_rows_of_unknown_users_and_items_are_left_out_by_like() -> None:
    table = Interactions.of({"user_id": [1, 2], "item_id": [5, 6]})
    later = Interactions.of({"user_id": [2, 3, 2], "item_id": [5, 5, 9]}, like=table)
    assert (later.user.tolist(), later.item.tolist()) == ([1], [0])
    assert (later.n_users, later.n_items) == (2, 2)
    with pytest.raises(ValueError, match="interactions are empty"):
        Interactions.of({"user_id": [3], "item_id": [5]}, like=table)
