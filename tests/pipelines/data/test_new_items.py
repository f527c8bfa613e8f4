"""Items that nobody has: which ones a fold offers, their targets, and what is known about them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.config.config import Config
from pipelines.config.errors import DataError, InputError
from pipelines.data import content, encoders
from pipelines.data.catalogue import catalogue
from pipelines.data.content import load_content
from pipelines.data.folds import load_fold
from pipelines.data.prepare import prepare
from pipelines.training.judging import all_targets
from tests.support.small_log import LOG, config_of, day, rows_of

# of fold validation 10 to 12 are fitted (14 has no interaction), of fold test 10 to 13
ITEMS: list[dict[str, Any]] = [
    {"item_id": 9, "title": "red wine", "kind": "wine", "listed": day(8), "vector": [1.0, 0.0]},
    {"item_id": 10, "title": "red wine", "kind": "wine", "listed": day(0), "vector": [0.0, 1.0]},
    {"item_id": 11, "title": "white wine", "kind": "wine", "listed": day(0), "vector": [1.0, 1.0]},
    {"item_id": 12, "title": "red beer", "kind": "beer", "listed": day(0), "vector": None},
    {"item_id": 13, "title": "green beer", "kind": "beer", "listed": day(13), "vector": [1.0, 3.0]},
    {"item_id": 14, "title": "green", "kind": None, "listed": day(-99), "vector": [1.0, 3.0]},
    {"item_id": 15, "title": "green wine", "kind": "wine", "listed": None, "vector": [1.0, 3.0]},
]


def described(folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Config:
    """The small log with items that were listed at known times, of which two are new for a while."""
    schema = {
        "item_id": pl.Int64,
        "title": pl.String,
        "kind": pl.String,
        "listed": pl.Datetime,
        "vector": pl.List(pl.Float64),
    }
    pl.DataFrame(ITEMS if rows is None else rows, schema=schema).write_parquet(folder / "items.parquet")
    known = {
        "files": str(folder / "items.parquet"),
        "title": "title",
        "attributes": ["kind"],
        "text": ["title"],
        "vectors": "vector",
        "listed": "listed",
        "place_new": True,
    }
    return config_of(folder, items=known | changes)


def test_new_items_of_a_fold_are_described_listed_and_not_fitted(tmp_path: Path) -> None:
    config = described(tmp_path)
    prepare(config)
    rows = rows_of(config, "select fold, item_id, item, title, kind from new_items order by fold, item")
    assert rows == [
        ("test", 9, 4, "red wine", "wine"),
        ("validation", 9, 3, "red wine", "wine"),
        ("validation", 13, 4, "green beer", "beer"),
    ]
    targets = rows_of(config, 'select fold, "user", item, event_at from new_targets order by all')
    assert targets == [("validation", 1, 4, day(14))]  # user 2, of number 1, takes 13
    fold = load_fold(config, "validation")
    assert fold.n_new == 2
    both = all_targets(fold)
    assert both.offsets.tolist() == [0, 1, 3]
    assert both.items.tolist() == [2, 1, 4]  # user 1 takes 12, user 2 also 11


def test_what_too_few_had_to_fit_it_is_nothing_new_to_them(tmp_path: Path) -> None:
    """Of a core of two users an item 13 is no part: user 2 has it and is not shown it, user 3 takes it."""
    known = described(tmp_path).items
    assert known is not None
    rows = [*LOG, (1, 12, day(6), 1.0), (3, 13, day(21), 1.0), (2, 11, day(4), 1.0)]
    config = config_of(
        tmp_path, rows, items=known.model_dump(exclude_none=True), split={"min_users_per_item": 2}
    )
    prepare(config)
    fold = load_fold(config, "test")
    assert fold.new is not None
    number = np.asarray(fold.new.item_ids).tolist().index(13) + fold.fit.n_items
    users = np.asarray(fold.user_ids).tolist()
    had = np.diff(fold.new.seen_offsets)
    assert {users[user]: int(n) for user, n in enumerate(had)} == {1: 0, 2: 1, 3: 0}
    assert fold.new.seen_items.tolist() == [number]
    taken = np.diff(fold.new.target_offsets)
    assert {users[user]: int(n) for user, n in enumerate(taken)} == {1: 1, 2: 0, 3: 1}
    listed = catalogue(fold)
    offsets, seen = listed.seen
    of_second = seen[offsets[users.index(2)] : offsets[users.index(2) + 1]].tolist()
    assert np.asarray(listed.item_ids).tolist().index(13) in of_second
    assert of_second == sorted(of_second)


def test_an_item_is_new_for_so_many_days(tmp_path: Path) -> None:
    config = described(tmp_path, new_days=10)
    prepare(config)
    assert rows_of(config, "select fold, item_id from new_items order by all") == [("validation", 13)]


def test_without_a_time_all_described_items_are_offered(tmp_path: Path) -> None:
    config = described(tmp_path, listed=None)
    prepare(config)
    rows = rows_of(config, "select item_id from new_items where fold = 'test' order by item")
    assert rows == [(9,), (14,), (15,)]


def test_a_bundle_numbers_fitted_and_new_items_together_by_id(tmp_path: Path) -> None:
    config = described(tmp_path)
    prepare(config)
    fold = load_fold(config, "test")
    listed = catalogue(fold)
    assert listed.order.tolist() == [4, 0, 1, 2, 3]  # 9 comes first
    assert np.asarray(listed.item_ids).tolist() == [9, 10, 11, 12, 13]
    assert listed.titles[0] == "red wine"
    assert listed.attributes["kind"] == [["wine"], ["wine"], ["wine"], ["beer"], ["beer"]]
    assert listed.new.tolist() == [0]
    assert listed.popular.tolist()[-1] == 0
    assert (listed.seen[1] == fold.fit.item + 1).all()


def test_encoders_are_fitted_on_fitted_items_and_are_plain_json(tmp_path: Path) -> None:
    config = described(tmp_path)
    prepare(config)
    fold = load_fold(config, "test")
    known = load_content(config, "test", fold)
    assert known is not None
    assert known.columns == [
        "word beer",
        "word red",
        "word wine",
        "kind = beer",
        "kind = wine",
        "another kind",
        "number 0 of the vector",
        "number 1 of the vector",
    ]
    assert known.new is not None
    assert len(known.fitted.offsets) == 5
    assert known.new.columns.tolist()[:3] == [1, 2, 4]  # red wine, of kind wine
    content.save(tmp_path, known.encoders)
    assert content.load(tmp_path) == known.encoders
    changed = [row | {"title": "red blue", "kind": "ale"} if row["item_id"] == 9 else row for row in ITEMS]
    other = described(tmp_path, changed)
    prepare(other)
    again = load_content(other, "test", load_fold(other, "test"))
    assert again is not None
    assert again.encoders == known.encoders  # what new items are called teaches nothing
    assert encoders.Encoder._fields == ("kind", "name", "vocabulary", "weights")


def test_bad_items_are_named(tmp_path: Path) -> None:
    def changed(**values: Any) -> list[dict[str, Any]]:
        return [row | values if row["item_id"] == 11 else row for row in ITEMS]

    for values, message in (
        ({"vector": [1.0]}, "bad_vectors failed. Allowed: vectors of the same length"),
        (
            {"vector": [1.0, float("nan")]},
            r"item_id = 11, length = 2, usual_length = 2, not_finite = 1",
        ),
    ):
        with pytest.raises(DataError, match=message):
            prepare(described(tmp_path, changed(**values)))
    without = [row | {"title": str(row["item_id"])} for row in ITEMS]
    config = described(tmp_path, without, attributes=[])
    prepare(config)
    with pytest.raises(
        DataError, match=r"items.text = title, of fitted items: texts of 4 items share no word"
    ):
        load_content(config, "test", load_fold(config, "test"))
    for change, message in (
        ({"text": ["name"]}, "items.text = 'name': there is no such column"),
        ({"vectors": "kind"}, "items.vectors = 'kind' is a column of type varchar, allowed: array, list"),
        ({"listed": "item_id"}, "items.listed = 'item_id' is a column of type bigint, allowed"),
        ({"listed": "kind"}, "items.listed = 'kind' holds 'wine', allowed: times as in ISO 8601"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(described(tmp_path, **change))


def test_a_time_of_listing_that_no_item_has_is_warned_of(tmp_path: Path, said: list[str]) -> None:
    prepare(described(tmp_path, [row | {"listed": None} for row in ITEMS]))
    (warning,) = (line for line in said if "WARNING" in line)
    assert warning == (
        "prepare: WARNING: items.listed = 'listed' is NULL for all 7 items, so that none of them can be "
        "bought yet and no new item is recommended: fill the column, or leave items.listed out"
    )


@pytest.mark.parametrize("as_lists", [False, True])
def test_an_attribute_whose_values_no_items_share_is_warned_of(
    tmp_path: Path, said: list[str], as_lists: bool
) -> None:
    config = described(tmp_path, attributes=["kind", "Code"])
    codes = [f"code {row['item_id']}" if row["item_id"] != 14 else None for row in ITEMS]
    frame = pl.DataFrame({"code": [[code, code] if as_lists else code for code in codes]})
    path = tmp_path / "items.parquet"
    known = pl.read_parquet(path)
    pl.concat([known, frame], how="horizontal").write_parquet(path)
    prepare(config)
    (warning,) = (line for line in said if "WARNING" in line)
    assert warning.startswith(
        "prepare: WARNING: attribute 'Code' has 6 values for 6 items, of which 0 share one with another: it "
        "says almost nothing about new items. Leave it out of items.attributes"
    )
    said.clear()
    shared = pl.DataFrame({"code": [["a", code] if as_lists else "a" for code in codes]})
    pl.concat([known, shared], how="horizontal").write_parquet(path)
    prepare(config)
    prepare(described(tmp_path))
    assert not any("WARNING" in line for line in said)


def test_keys_that_need_each_other_are_refused(tmp_path: Path) -> None:
    for change, message in (
        (
            {"attributes": [], "text": [], "vectors": None},
            "place_new = true needs attributes, text or vectors",
        ),
        ({"place_new": False}, "text, vectors, listed without place_new = true"),
    ):
        with pytest.raises(ValueError, match=message):
            described(tmp_path, **change)
