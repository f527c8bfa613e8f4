"""Items that nobody has: which ones a fold offers, their targets, and what is known about them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.config.config import Config
from pipelines.config.errors import DataError, InputError
from pipelines.data import content, encoders, vectors
from pipelines.data.catalogue import catalogue
from pipelines.data.content import ItemContent, load_content
from pipelines.data.folds import load_fold
from pipelines.data.prepare import prepare
from pipelines.training.judging import all_targets
from recsys.content import Features
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


def by_files(folder: Path, numbers: Any = None, ids: Any = None, **changes: Any) -> Config:
    """The described items with their vectors in two files; NULL vectors have no row there."""
    given = [row for row in ITEMS if row["vector"] is not None]
    rows = np.array([row["vector"] for row in given]) if numbers is None else numbers
    np.save(folder / "vectors.npy", rows)
    np.save(folder / "ids.npy", np.array([row["item_id"] for row in given]) if ids is None else ids)
    files = {"vectors_file": str(folder / "vectors.npy"), "vectors_ids": str(folder / "ids.npy")}
    return described(folder, **({"vectors": None} | files | changes))


@pytest.mark.parametrize("batch", [1, 4, 4_000_000])
def test_vectors_of_files_are_those_of_a_column(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(vectors, "BATCH", batch)
    query = "select item_id, vector from stg_content order by item_id"
    prepare(described(tmp_path))
    expected = rows_of(described(tmp_path), query)
    stranger = [*(row["item_id"] for row in reversed(ITEMS) if row["vector"]), 999]
    rows = [*(row["vector"] for row in reversed(ITEMS) if row["vector"]), [7.0, 7.0]]
    config = by_files(tmp_path, np.asfortranarray(np.array(rows, ">f8")), np.array(stranger, np.uint16))
    prepare(config)
    assert rows_of(config, query) == expected
    assert "prepare: items.vectors_file has vectors of 6 of 7 items" in said
    known = load_content(config, "test", load_fold(config, "test"))
    assert known is not None
    assert known.columns[-2:] == ["number 0 of the vector", "number 1 of the vector"]


def test_ids_of_vectors_may_be_text_and_paths_start_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = by_files(tmp_path, ids=np.array([f"{row['item_id']}" for row in ITEMS if row["vector"]]))
    frame = pl.read_parquet(tmp_path / "items.parquet")
    frame.with_columns(pl.col("item_id").cast(pl.String)).write_parquet(tmp_path / "items.parquet")
    assert known.items is not None
    items = known.items.model_dump(exclude_none=True)
    items |= {"vectors_file": "vectors.npy", "vectors_ids": "ids.npy"}
    config = config_of(tmp_path, [(user, str(item), *rest) for user, item, *rest in LOG], items=items)
    prepare(config)
    rows = rows_of(config, "select item_id from stg_content where vector is not null order by item_id")
    assert rows == [("10",), ("11",), ("13",), ("14",), ("15",), ("9",)]


def test_another_file_of_vectors_is_prepared_again(tmp_path: Path) -> None:
    first = prepare(by_files(tmp_path))
    again = prepare(by_files(tmp_path))
    assert (again.reused, again.fingerprint) == (True, first.fingerprint)
    other = prepare(by_files(tmp_path, np.full((6, 2), 0.5, np.float16)))
    assert not other.reused
    assert other.fingerprint != first.fingerprint
    rows = rows_of(by_files(tmp_path), "select distinct vector from stg_content where vector is not null")
    assert rows == [([0.5, 0.5],)]


FINE = np.ones((6, 2), np.float32)
BAD_FILES: dict[str, tuple[Any, Any, str]] = {
    "one axis": (np.ones(6), None, r"vectors.npy' has shape \(6,\) of float64, allowed: two axes"),
    "no numbers": (np.ones((6, 0)), None, r"vectors.npy' has shape \(6, 0\) of float64, allowed: two axes"),
    "whole numbers": (np.ones((6, 2), int), None, r"has shape \(6, 2\) of int64, allowed: .* of floats"),
    "fewer ids": (
        FINE,
        np.arange(9, 14),
        r"ids.npy' has shape \(5,\), allowed: \(6,\), an id a row of .*vectors.npy'",
    ),
    "ids of two axes": (
        FINE,
        np.ones((6, 1), int),
        r"ids.npy' has shape \(6, 1\), allowed: \(6,\), an id a row",
    ),
    "text": (FINE, np.array(list("abcdef")), "ids.npy' holds <U1, allowed: whole numbers, as items.item is"),
    "fractions": (FINE, np.arange(6.0), "ids.npy' holds float64, allowed: whole numbers"),
    "bytes": (FINE, np.array([b"a"] * 6), r"ids.npy' holds \|S1, allowed: whole numbers"),
    "a large id": (
        FINE,
        np.array([9, 10, 11, 12, 13, 2**63], np.uint64),
        "holds 9223372036854775808, allowed <= 9223372036854775807",
    ),
    "an id twice": (
        FINE,
        np.array([9, 10, 10, 11, 11, 11]),
        "ids.npy': 2 ids occur more than once, the first 10 2 times, allowed: once",
    ),
    "no item": (FINE, np.arange(6), "none of its 6 ids is the id of an item, allowed: ids as in items.item"),
    "no row": (np.ones((0, 2)), np.empty(0, int), "none of its 0 ids is the id of an item"),
    "NaN": (np.full((6, 2), np.nan), None, "bad_vectors failed. Allowed: .*not_finite = 2"),
    "too large": (np.full((6, 2), 1e300), None, "bad_vectors failed. Allowed: .*not_finite = 2"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_of_vectors_are_named(tmp_path: Path, case: str) -> None:
    rows, ids, message = BAD_FILES[case]
    with pytest.raises(InputError, match=f"(?s){message}"):
        prepare(by_files(tmp_path, rows, ids))


def test_columns_that_items_share_are_values_of_attributes_else_words() -> None:
    """The column of all other values is none of them: those differ."""
    words = encoders.fit_text(["red shoe", "red hat", "blue hat"])
    brand = encoders.fit_attribute("brand", [["a"], ["a"], ["x"], ["y"]])
    numbers = encoders.fit_vectors(np.ones((2, 3), np.float32))
    some = Features(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 0)

    def shared(*fitted: encoders.Encoder) -> list[str]:
        known = ItemContent(fitted, some, None)
        return [name for name, is_one in zip(known.columns, known.values, strict=True) if is_one]

    assert shared(words, brand, numbers) == ["brand = a"]
    assert shared(words, numbers) == ["word hat", "word red"]
    unique = encoders.fit_attribute("sku", [["1"], ["2"]])
    assert shared(words, unique) == ["word hat", "word red"]
    assert shared(numbers, unique) == []


def np_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_files_that_are_no_arrays_are_named(tmp_path: Path) -> None:
    config, path = by_files(tmp_path), tmp_path / "vectors.npy"
    whole = path.read_bytes()
    np.savez(tmp_path / "many.npz", FINE)
    np.save(tmp_path / "objects.npy", np.array([None, {}], object), allow_pickle=True)
    for held in (
        whole[:-1],
        whole[:20],
        b"",
        b"no array",
        b"PK\x03\x04 no archive",
        np_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4"),
        np_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 4)}"),
        np_header("  1 +"),
        pickle.dumps(FINE),
        (tmp_path / "many.npz").read_bytes(),
        (tmp_path / "objects.npy").read_bytes(),
    ):
        path.write_bytes(held)
        with pytest.raises(
            InputError, match=r"items.vectors_file = '.*vectors.npy' is cut off or no array, al"
        ):
            prepare(config)
    path.unlink()
    with pytest.raises(InputError, match=r"items.vectors_file = '.*vectors.npy': there is no such file"):
        prepare(config)
    path.mkdir()
    with pytest.raises(InputError, match=r"items.vectors_file = '.*vectors.npy' cannot be read: "):
        prepare(config)


def test_keys_that_need_each_other_are_refused(tmp_path: Path) -> None:
    for change, message in (
        (
            {"attributes": [], "text": [], "vectors": None},
            "place_new = true needs attributes, text or vectors",
        ),
        ({"place_new": False}, "text, vectors, listed without place_new = true"),
        (
            {"place_new": False, "vectors": None, "vectors_file": "a.npy", "vectors_ids": "b.npy"},
            "text, vectors_file, vectors_ids, listed without place_new = true",
        ),
        (
            {"vectors_file": "a.npy", "vectors_ids": "b.npy"},
            "vectors = 'vector' and vectors_file = 'a.npy', allowed: one of them",
        ),
        ({"vectors": None, "vectors_file": "a.npy"}, "vectors_file and vectors_ids go together"),
        ({"vectors_ids": "b.npy"}, "vectors_file and vectors_ids go together"),
    ):
        with pytest.raises(ValueError, match=message):
            described(tmp_path, **change)
