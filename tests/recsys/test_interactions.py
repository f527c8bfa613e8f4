"""Interactions: what they count, and what they refuse by name."""

import dataclasses

import numpy as np
import pytest

from recsys.interactions import Interactions, popularity_order


def columns(**changes):
    """Three users of whom the second has nothing, four items of which the last has no user."""
    return {
        "user": np.array([0, 0, 2], dtype=np.int32),
        "item": np.array([0, 2, 2], dtype=np.int32),
        "weight": np.array([1, 0, 2.5], dtype=np.float32),
        "time": np.array([5, 5, -1], dtype=np.int64),
        "n_users": 3,
        "n_items": 4,
    } | changes


def spans(first, last):
    return {"first_seen": np.array(first), "last_seen": np.array(last)}


def test_counts_and_offsets_by_hand():
    interactions = Interactions(**columns())
    assert len(interactions) == 3
    assert interactions.offsets().tolist() == [0, 2, 2, 3]
    assert interactions.item_counts().tolist() == [1, 0, 2, 0]


def test_offsets_and_counts_equal_the_naive_loop():
    rng = np.random.default_rng(0)
    pairs = np.argwhere(rng.random((30, 20)) < 0.2).astype(np.int32)
    n = len(pairs)
    interactions = Interactions(
        pairs[:, 0].copy(), pairs[:, 1].copy(), np.ones(n, np.float32), np.zeros(n, np.int64), 33, 25
    )
    offsets = interactions.offsets()
    for user in range(33):
        rows = range(offsets[user], offsets[user + 1])
        assert list(rows) == [row for row in range(n) if pairs[row, 0] == user]
    assert interactions.item_counts().tolist() == [sum(pairs[:, 1] == item) for item in range(25)]


def test_fields_cannot_be_replaced():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Interactions(**columns()).n_users = 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": np.array([0, 0, 2])}, r"user is int64\[3\], expected int32\[3\]"),
        ({"item": np.array([[0, 2, 2]], dtype=np.int32)}, r"item is int32\[1, 3\], expected int32\[3\]"),
        ({"weight": np.ones(3)}, r"weight is float64\[3\], expected float32\[3\]"),
        ({"time": np.zeros(2, dtype=np.int64)}, r"time is int64\[2\], expected int64\[3\]"),
        ({"n_users": 2}, r"user numbers span 0\.\.2, allowed 0\.\.1"),
        ({"n_items": 2}, r"item numbers span 0\.\.2, allowed 0\.\.1"),
        ({"user": np.array([-1, 0, 2], dtype=np.int32)}, r"user numbers span -1\.\.2"),
        ({"item": np.array([-3, 2, 2], dtype=np.int32)}, r"item numbers span -3\.\.2"),
        ({"weight": np.array([1, -1, 1], dtype=np.float32)}, r"weight\[1\] = -1\.0, allowed finite and >= 0"),
        ({"weight": np.array([1, 1, np.nan], dtype=np.float32)}, r"weight\[2\] = nan"),
        ({"weight": np.array([np.inf, 1, 1], dtype=np.float32)}, r"weight\[0\] = inf"),
        ({"user": np.array([0, 2, 0], dtype=np.int32)}, r"\(user, item\)\[2\] = \(0, 2\), .*rising order"),
        ({"item": np.array([2, 0, 2], dtype=np.int32)}, r"\(user, item\)\[1\] = \(0, 0\)"),
        ({"item": np.array([2, 2, 2], dtype=np.int32)}, r"\(user, item\)\[1\] = \(0, 2\), .*no pair twice"),
        ({"first_seen": np.zeros(4, np.int64)}, r"one of first_seen, last_seen is None"),
        ({"last_seen": np.zeros(4, np.int64)}, r"one of first_seen, last_seen is None"),
        (spans([0.0, 0, 0, 0], [0, 0, 0, 0]), r"first_seen is float64\[4\], expected int64\[4\]"),
        (spans([0, 0, 0, 0], [0, 0, 0]), r"last_seen is int64\[3\], expected int64\[4\]"),
        (spans([0, 5, 6, 0], [0, 5, 5, 0]), r"first_seen\[2\] = 6, allowed <= last_seen\[2\] = 5"),
    ],
)
def test_bad_columns_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Interactions(**columns(**changes))


def test_no_interactions_are_refused():
    nothing = {name: column[:0] for name, column in columns().items() if isinstance(column, np.ndarray)}
    with pytest.raises(ValueError, match="interactions are empty"):
        Interactions(**columns(**nothing))


def test_spans_are_as_given_or_those_of_the_pairs():
    """An item without users was always on sale."""
    first, last = Interactions(**columns(time=np.array([5, 7, -1]))).spans()
    always = np.iinfo(np.int64)
    assert first.tolist() == [5, always.min, -1, always.min]
    assert last.tolist() == [5, always.max, 7, always.max]
    assert (first.dtype, last.dtype) == (np.int64, np.int64)
    given = Interactions(**columns(**spans([0, 1, 2, 3], [9, 1, 8, 7]))).spans()
    assert [part.tolist() for part in given] == [[0, 1, 2, 3], [9, 1, 8, 7]]


def test_popularity_order_falls_and_breaks_ties_by_number():
    counts = np.array([1, 3, 0, 3, 1])
    order = popularity_order(counts)
    assert order.dtype == np.int32
    assert order.tolist() == [1, 3, 0, 4, 2] == sorted(range(5), key=lambda item: (-counts[item], item))
