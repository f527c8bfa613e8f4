"""Serving: always as many different, unseen, nearest items as there are; the popular ones for strangers."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundle import BundleError, write_bundle
from recsys.index import exact_top_k
from recsys.releases import publish
from serving.recommender import Recommendation, Recommender


def release(folder, user_vectors, item_vectors, seen, item_ids=None, titles=None, trees=4, search_k=10_000):
    """Write a bundle of these vectors; users are u0, u1 …, items 0, 1 …, the last item the most popular."""
    write_bundle(
        folder,
        user_vectors=np.array(user_vectors, dtype=np.float32),
        item_vectors=np.array(item_vectors, dtype=np.float32),
        user_ids=sorted(f"u{n}" for n in range(len(user_vectors))),
        item_ids=np.arange(len(item_vectors)) if item_ids is None else item_ids,
        seen=(
            np.concatenate([[0], np.cumsum([len(items) for items in seen])]),
            np.concatenate(seen).astype(np.int32),
        ),
        popular=np.arange(len(item_vectors), dtype=np.int32)[::-1].copy(),
        titles=titles,
        trees=trees,
        search_k=search_k,
        seed=0,
        info={},
    )
    return folder


@pytest.fixture
def shop(tmp_path):
    """Four items on a line at 0, 1, 3, 7; u0 at 0 saw the first, u1 at 3 saw all, u2 at 7 saw nothing."""
    users, items = [[0, 0], [3, 0], [7, 0]], [[0, 0], [1, 0], [3, 0], [7, 0]]
    titles, ids = ["tea", "Käse", "", "寿司"], ["a", "b", "ç", "日"]
    return Recommender.open(release(tmp_path / "v1", users, items, [[0], [0, 1, 2, 3], []], ids, titles))


def test_nearest_unseen_items_come_first_with_minus_distance_as_score(shop):
    assert shop.recommend("u0", k=2) == [Recommendation("b", "Käse", -1), Recommendation("ç", "", -3)]
    assert shop.recommend("u2", k=2) == [("日", "寿司", 0), ("ç", "", -4)]
    assert str(shop.recommend("u2", k=1)[0].score) == "0.0"  # never -0.0


def test_seen_items_come_back_when_asked_for(shop):
    assert [row.item_id for row in shop.recommend("u0", k=2, exclude_seen=False)] == ["a", "b"]
    assert [row.item_id for row in shop.recommend("u1", k=9, exclude_seen=False)] == ["ç", "b", "a", "日"]


def test_more_than_the_catalogue_has_gives_all_there_is(shop):
    assert [row.item_id for row in shop.recommend("u0", k=100)] == ["b", "ç", "日"]
    assert shop.recommend("u1", k=3) == []


@pytest.mark.parametrize("stranger", ["u9", "", "日", 0, None, True])
def test_strangers_get_the_popular_items_without_a_score(shop, stranger):
    assert shop.recommend(stranger, k=2) == [("日", "寿司", None), ("ç", "", None)]
    assert len(shop.recommend(stranger, k=100)) == 4


@pytest.mark.parametrize("k", [0, -1, 1.0, "3", True, None])
@pytest.mark.parametrize("user_id", ["u0", "stranger"])
def test_k_must_be_a_whole_number_of_at_least_one(shop, user_id, k):
    with pytest.raises(ValueError, match=f"k = {k!r}, allowed is a whole number >= 1"):
        shop.recommend(user_id, k)


def test_current_is_followed_once(tmp_path):
    """A recommender keeps answering from the version it opened, whatever is published or moved since."""
    for version, items in (("v1", [[0], [1]]), ("v2", [[1], [0]])):
        release(tmp_path / version, [[0]], items, [[]])
    publish(tmp_path, "v1")
    first = Recommender.open(tmp_path / "current")
    publish(tmp_path, "v2")
    second = Recommender.open(tmp_path / "current")
    assert (first.version, second.version) == ("v1", "v2")
    assert [first.recommend("u0", 1)[0].item_id, second.recommend("u0", 1)[0].item_id] == [0, 1]


@pytest.mark.parametrize("name", ["current", "v1"])
def test_nothing_unverified_is_opened(tmp_path, name):
    with pytest.raises(BundleError, match=r"manifest\.json: missing"):
        Recommender.open(tmp_path / name)
    release(tmp_path / "v1", [[0]], [[0], [1]], [[]])
    publish(tmp_path, "v1")
    (tmp_path / "v1" / "popular.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"popular\.npy: 0 bytes"):
        Recommender.open(tmp_path / name)


def test_a_starved_index_is_made_up_for_exactly(tmp_path):
    """With one tree and search_k = 1 the index finds a few of 500 items; users still get the k nearest."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(500, 4)).astype(np.float32)
    seen = [np.sort(rng.permutation(500)[:200]) for _ in users]
    recommender = Recommender.open(release(tmp_path / "v1", users, items, seen, trees=1, search_k=1))
    excluded = np.arange(0, 1001, 200), np.concatenate(seen).astype(np.int32)
    nearest, distances = exact_top_k(users, items, 100, excluded)
    for user in range(5):
        rows = recommender.recommend(f"u{user}", k=100)
        assert [row.item_id for row in rows] == nearest[user].tolist()
        assert [-row.score for row in rows] == pytest.approx(distances[user].tolist(), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 40),
    n_users=st.integers(1, 5),
    dim=st.integers(1, 5),
    share_seen=st.sampled_from([0, 0.3, 0.9, 1]),
    trees=st.integers(1, 5),
    search_k=st.sampled_from([1, 30, 100_000]),
    k=st.integers(1, 50),
)
def test_any_bundle_gives_all_that_was_asked_for(seed, n_items, n_users, dim, share_seen, trees, search_k, k):
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(n_users, dim)), rng.normal(size=(n_items, dim))
    users, items = users.astype(np.float32), items.astype(np.float32)
    seen = [np.flatnonzero(rng.random(n_items) < share_seen) for _ in users]
    nothing_seen = [np.array([], dtype=np.int32)] * n_users
    with tempfile.TemporaryDirectory() as folder:
        release(Path(folder) / "v1", users, items, seen, trees=trees, search_k=search_k)
        recommender = Recommender.open(Path(folder) / "v1")
        for exclude_seen, hidden in ((True, seen), (False, nothing_seen)):
            offsets = np.concatenate([[0], np.cumsum([len(of_user) for of_user in hidden])])
            nearest, _ = exact_top_k(users, items, k, (offsets, np.concatenate(hidden).astype(np.int32)))
            for user in range(n_users):
                rows = recommender.recommend(f"u{user}", k, exclude_seen)
                found = [row.item_id for row in rows]
                assert len(set(found)) == len(found) == min(k, n_items - len(hidden[user]))
                assert not set(found) & set(hidden[user].tolist())
                assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
                assert rows == recommender.recommend(f"u{user}", k, exclude_seen)
                if search_k == 100_000:
                    assert found == nearest[user][nearest[user] >= 0].tolist()
