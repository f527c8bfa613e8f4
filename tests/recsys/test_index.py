"""The exact search against a naive loop, and the Annoy index against the exact search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.index import ItemIndex, Search, exact_top_k


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def naive_top_k(queries, items, k, excluded=None):
    """One query, one item, one distance at a time; sorted by (distance, item)."""
    top = np.full((len(queries), k), -1, dtype=np.int32)
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    for q, query in enumerate(queries):
        left_out = (
            set() if excluded is None else set(excluded[1][excluded[0][q] : excluded[0][q + 1]].tolist())
        )
        ranked = sorted(
            (np.float32(np.linalg.norm(item.astype(np.float64) - query)), number)
            for number, item in enumerate(items)
            if number not in left_out
        )
        for rank, (distance, number) in enumerate(ranked[:k]):
            top[q, rank], distances[q, rank] = number, distance
    return top, distances


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 30),
    dim=st.integers(1, 6),
    k=st.integers(1, 35),
    chunk=st.integers(1, 100),
    grid=st.booleans(),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    shift=st.sampled_from([0.0, 1000.0]),
)
def test_exact_equals_the_naive_loop(seed, n_items, dim, k, chunk, grid, scale, shift):
    """Also with many ties (a coarse grid), far from the origin (cancellation), and in any chunks."""
    rng = np.random.default_rng(seed)
    items, queries = normal(rng, n_items, dim), normal(rng, 7, dim)
    if grid:
        items, queries = np.round(items), np.round(queries)
    items, queries = (
        (items + np.float32(shift)) * np.float32(scale),
        (queries + np.float32(shift)) * np.float32(scale),
    )
    seen = [np.flatnonzero(rng.random(n_items) < 0.3) for _ in queries]
    offsets = np.concatenate([[0], np.cumsum([len(of_query) for of_query in seen])])
    for excluded in (None, (offsets, np.concatenate(seen).astype(np.int32))):
        top, distances = exact_top_k(queries, items, k, excluded, chunk)
        expected_top, expected_distances = naive_top_k(queries, items, k, excluded)
        np.testing.assert_allclose(distances, expected_distances, rtol=1e-6)
        np.testing.assert_array_equal(top, expected_top)


def test_distances_are_euclidean_and_zero_is_zero():
    items = np.array([[0, 0], [3, 4], [6, 8]], dtype=np.float32)
    top, distances = exact_top_k(items[:1], items, 3)
    assert (top.tolist(), distances.tolist()) == ([[0, 1, 2]], [[0, 5, 10]])
    far = normal(0, 50, 16) + 1000  # squares of 1e7 around distances of 1: the rounded form goes below zero
    _, distances = exact_top_k(far, far, 1)
    assert (distances == 0).all()


def test_equal_distances_come_by_item_number():
    items = np.repeat(normal(1, 1, 33), 500, axis=0)
    top, _ = exact_top_k(normal(2, 3, 33), items, 7)
    assert top.tolist() == [list(range(7))] * 3


def test_everything_excluded_is_all_padding():
    excluded = np.array([0, 3]), np.arange(3, dtype=np.int32)
    top, distances = exact_top_k(normal(0, 1, 2), normal(1, 3, 2), 2, excluded)
    assert (top.tolist(), distances.tolist()) == ([[-1, -1]], [[np.inf, np.inf]])


@pytest.mark.parametrize(
    ("queries", "items", "k", "message"),
    [
        (normal(0, 2, 3), normal(0, 4, 2), 1, "queries have 3 coordinates, items 2"),
        (normal(0, 2, 3), normal(0, 4, 3), 0, "k = 0, allowed is >= 1"),
        (normal(0, 2, 3), normal(0, 0, 3), 1, r"items are float32\[0, 3\]"),
        (normal(0, 2, 3), np.full((4, 3), np.nan, dtype=np.float32), 1, "items span nan..nan"),
        (np.full((4, 3), np.inf, dtype=np.float32), normal(0, 2, 3), 1, "queries span inf..inf"),
    ],
)
def test_exact_refuses_bad_input(queries, items, k, message):
    with pytest.raises(ValueError, match=message):
        exact_top_k(queries, items, k)


def test_three_points_by_hand(tmp_path):
    index = ItemIndex.build(np.array([[2, 0], [0, 3], [0, 0]], dtype=np.float32), trees=3, seed=0)
    index.save(tmp_path / "index.ann")
    for each in (index, ItemIndex.open(tmp_path / "index.ann", 3, 2)):
        items, distances = each.query(np.array([0, 0], dtype=np.float32), k=5, search_k=100)
        assert (items.tolist(), distances.tolist()) == ([2, 0, 1], [0, 2, 3])
        assert (items.dtype, distances.dtype) == (np.int32, np.float32)


def test_recall_is_095_at_a_tenth_of_the_scan_and_1_at_the_whole():
    """On 2,000 random 16-d vectors, recall@10 against the exact search."""
    items, queries = normal(3, 2000, 16), normal(4, 200, 16)
    index = ItemIndex.build(items, trees=50, seed=0)
    exact, distances = exact_top_k(queries, items, 10)
    for search_k, least in ((2000, 0.95), (50 * 2000, 1.0)):
        found = [index.query(query, 10, search_k)[0] for query in queries]
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]) >= least
    np.testing.assert_allclose(index.query(queries[0], 10, 10**5)[1], distances[0], rtol=1e-5)


def test_same_seed_same_bytes(tmp_path):
    vectors = normal(5, 500, 8)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ItemIndex.build(vectors, trees=5, seed=seed).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    "vectors", [normal(0, 1, 4), np.zeros((300, 4), dtype=np.float32)], ids=["one", "same"]
)
def test_degenerate_catalogues_are_answered(vectors):
    index = ItemIndex.build(vectors, trees=5, seed=0)
    items, distances = index.query(vectors[0], len(vectors) + 5, search_k=5 * len(vectors))
    assert sorted(items.tolist()) == list(range(len(vectors)))
    assert (distances == 0).all()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (normal(0, 0, 4), r"float32\[0, 4\]"),
        (normal(0, 4, 0), r"float32\[4, 0\]"),
        (normal(0, 4), r"float32\[4\]"),
        (normal(0, 4, 4).astype(np.float64), "float64"),
        (np.arange(12).reshape(3, 4), "int64"),
        (np.array([[1, np.nan]], dtype=np.float32), "nan"),
        (np.array([[1, -np.inf]], dtype=np.float32), "-inf"),
        (np.array([[1, 1e30]], dtype=np.float32), "within ±1e.15"),
    ],
)
def test_vectors_that_cannot_be_searched_are_refused(vectors, message):
    with pytest.raises(ValueError, match=f"item vectors .*{message}"):
        ItemIndex.build(vectors, trees=2, seed=0)


def test_queries_that_cannot_be_answered_are_refused():
    index = ItemIndex.build(normal(0, 10, 3), trees=2, seed=0)
    for vector in (normal(0, 2), normal(0, 1, 3), np.array([1, np.nan, 0], dtype=np.float32)):
        with pytest.raises(ValueError, match="expected 3 finite values"):
            index.query(vector, 5, 100)
    for k, search_k in ((0, 10), (5, 0), (5, -1)):
        with pytest.raises(ValueError, match=f"k = {k}, search_k = {search_k}"):
            index.query(normal(0, 3), k, search_k)
    with pytest.raises(ValueError, match="trees = 0"):
        ItemIndex.build(normal(0, 10, 3), trees=0, seed=0)


@pytest.mark.parametrize(
    ("n_items", "dim"), [(99, 8), (101, 8), (100, 4), (100, 7), (100, 9), (10**9, 8), (100, 4000)]
)
def test_a_file_of_other_shape_is_refused(tmp_path, n_items, dim):
    """Dimension 4 is the one that Annoy loads without a word."""
    ItemIndex.build(normal(0, 100, 8), trees=10, seed=0).save(tmp_path / "index.ann")
    with pytest.raises(ValueError, match=r"index\.ann"):
        ItemIndex.open(tmp_path / "index.ann", n_items, dim)


def test_a_saved_index_is_never_written_over(tmp_path):
    index = ItemIndex.build(normal(0, 10, 3), trees=2, seed=0)
    index.save(tmp_path / "index.ann")
    with pytest.raises(FileExistsError, match=r"index\.ann"):
        ItemIndex.build(normal(1, 10, 3), trees=2, seed=0).save(tmp_path / "index.ann")


def brute(vectors, query, k, hidden, allowed):
    """The numbers of the k nearest valid vectors, by a loop."""
    valid = [n for n in range(len(vectors)) if n not in hidden and (allowed is None or n in allowed)]
    return sorted(valid, key=lambda n: (np.float32(np.linalg.norm(vectors[n].astype(float) - query)), n))[:k]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 60),
    search_k=st.sampled_from([None, 1, 20, 10_000]),
    k=st.integers(1, 70),
    share_hidden=st.sampled_from([0, 0.2, 0.9, 1]),
    share_allowed=st.sampled_from([None, 0, 0.05, 0.5, 1]),
)
def test_any_search_gives_as_many_valid_items_as_there_are(
    seed, n_items, search_k, k, share_hidden, share_allowed
):
    rng = np.random.default_rng(seed)
    vectors, queries = (rng.normal(size=(n, 3)).astype(np.float32) for n in (n_items, 3))
    hidden = [np.flatnonzero(rng.random(n_items) < share_hidden).astype(np.int32) for _ in queries]
    allowed = None
    if share_allowed is not None:
        allowed = np.flatnonzero(rng.random(n_items) < share_allowed).astype(np.int32)
    search = Search(vectors, ItemIndex.build(vectors, 3, 0), search_k)
    offsets = np.cumsum([0, *(len(own) for own in hidden)])
    many, far = search.top_k_many(queries, k, (offsets, np.concatenate(hidden)), allowed)
    for row, (query, own) in enumerate(zip(queries, hidden, strict=True)):
        expected = brute(vectors, query, k, set(own.tolist()), allowed)
        items, distances = search.top_k(query, k, own, allowed)
        assert len(items) == len(expected) == len(set(items.tolist()))
        assert not set(items.tolist()) & set(own.tolist())
        assert allowed is None or set(items.tolist()) <= set(allowed.tolist())
        assert np.all(np.diff(distances) >= 0)
        assert distances == pytest.approx(np.linalg.norm(vectors[items] - query, axis=1), rel=1e-5)
        if search_k in (None, 10_000):
            assert items.tolist() == expected
        assert many[row][many[row] >= 0].tolist() == items.tolist()
        assert far[row][many[row] >= 0] == pytest.approx(distances, rel=1e-5)
        assert np.all(np.isinf(far[row][many[row] < 0]))


def test_a_search_that_would_ask_an_index_has_one():
    with pytest.raises(ValueError, match="search_k = 5 without an index, allowed is None"):
        Search(normal(0, 10, 3), None, 5)


@pytest.mark.parametrize("share", [1, 0.5, 0.15])
def test_recall_is_kept_under_filters(share):
    """search_k finds nine in ten of the exact top without a filter, and so it does with one."""
    rng = np.random.default_rng(0)
    vectors, queries = normal(0, 20_000, 16), normal(1, 100, 16)
    search = Search(vectors, ItemIndex.build(vectors, 10, 0), 3_000)
    allowed = np.flatnonzero(rng.random(20_000) < share).astype(np.int32)
    exact, _ = exact_top_k(queries, vectors[allowed], 20)
    hits = [
        len(np.intersect1d(search.top_k(query, 20, allowed=allowed)[0], allowed[top]))
        for query, top in zip(queries, exact, strict=True)
    ]
    assert sum(hits) / exact.size > 0.9
