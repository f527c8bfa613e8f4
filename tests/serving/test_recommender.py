"""Recommender: the nearest unseen items, each once; the popular items for unknown users."""

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bundles import release

from recsys import fold_in
from recsys.bundle import BundleContent, IndexPlan, open_bundle, write_bundle
from recsys.index import exact_top_k
from recsys.manifest import BundleError
from recsys.releases import prune, publish
from serving.recommender import Recommendation, Recommender, UnknownId


@pytest.fixture
def shop(tmp_path):
    """Four items on a line at 0, 1, 3, 7; u0 at 0 saw the first, u1 at 3 saw all, u2 at 7 saw nothing."""
    users, items = [[0, 0], [3, 0], [7, 0]], [[0, 0], [1, 0], [3, 0], [7, 0]]
    titles, ids = ["tea", "Käse", "", "寿司"], ["a", "b", "ç", "日"]
    return Recommender.open(release(tmp_path / "v1", users, items, [[0], [0, 1, 2, 3], []], ids, titles))


def test_nearest_unseen_items_come_first_with_minus_distance_as_score(shop):
    assert shop.recommend("u0", k=2) == [Recommendation("b", "Käse", -1), Recommendation("ç", "", -3)]
    assert shop.recommend("u2", k=2) == [("日", "寿司", 0, False), ("ç", "", -4, False)]
    assert str(shop.recommend("u2", k=1)[0].score) == "0.0"  # never -0.0


def test_seen_items_are_included_on_request(shop):
    assert [row.item_id for row in shop.recommend("u0", k=2, exclude_seen=False)] == ["a", "b"]
    assert [row.item_id for row in shop.recommend("u1", k=9, exclude_seen=False)] == ["ç", "b", "a", "日"]


def test_new_items_are_compared_by_what_is_known_about_them(tmp_path):
    """In the space all are apart; by what is known 2, which is new, is like 0, then 1, then 3."""
    items, seen = [[0, 0], [1, 0], [3, 0], [7, 0]], [[0, 1, 3], []]
    likeness = np.array([[1, 0], [0.8, 0.6], [1, 0], [0, 1]], np.float32)
    new = {"new_items": np.array([2], np.int32), "likeness": likeness}
    shop = Recommender.open(release(tmp_path / "v1", [[0, 0], [3, 0]], items, seen, **new))
    assert [one.is_new for one in shop.recommend("u1", 4)] == [True, False, False, False]
    assert [one.is_new for one in shop.recommend_many(["u1"], 2)[0]] == [True, False]
    found = shop.similar_items(2, 5)
    assert [one.item_id for one in found] == [0, 1, 3]
    np.testing.assert_allclose([one.score for one in found], [0, -(0.4**0.5), -(2**0.5)], rtol=1e-6)
    assert [one.item_id for one in shop.explain("u0", 2, 2)] == [0, 1]
    assert shop.explain("u1", 2) == []
    assert [one.item_id for one in shop.similar_items(3, 2)] == [2, 1]  # not new: by the space
    with pytest.raises(BundleError, match=r"new_items.npy: expected 0\.\.3, ascending without repeats"):
        release(tmp_path / "v2", [[0, 0]], items, [[]], new_items=np.array([2, 2], np.int32))


def test_k_beyond_the_catalogue_gives_all_items(shop):
    assert [row.item_id for row in shop.recommend("u0", k=100)] == ["b", "ç", "日"]
    assert shop.recommend("u1", k=3) == []


@pytest.mark.parametrize("unknown", ["u9", "", "日", 0, None, True])
def test_unknown_users_get_the_popular_items_without_a_score(shop, unknown):
    assert shop.recommend(unknown, k=2) == [("日", "寿司", None, False), ("ç", "", None, False)]
    assert len(shop.recommend(unknown, k=100)) == 4


@pytest.mark.parametrize("k", [0, -1, 1.0, "3", True, None])
@pytest.mark.parametrize("user_id", ["u0", "unknown"])
def test_k_must_be_a_whole_number_of_at_least_one(shop, user_id, k):
    with pytest.raises(ValueError, match=f"k = {k!r}, allowed is a whole number >= 1"):
        shop.recommend(user_id, k)


def test_current_is_followed_once(tmp_path):
    """A recommender keeps answering from the version it opened, also after another was published."""
    for version, items in (("v1", [[0], [1]]), ("v2", [[1], [0]])):
        release(tmp_path / version, [[0]], items, [[]])
    publish(tmp_path, "v1")
    first = Recommender.open(tmp_path / "current")
    publish(tmp_path, "v2")
    second = Recommender.open(tmp_path / "current")
    assert (first.version, second.version) == ("v1", "v2")
    assert [first.recommend("u0", 1)[0].item_id, second.recommend("u0", 1)[0].item_id] == [0, 1]


@pytest.mark.parametrize(
    ("name", "missing"), [("current", "current: No such file"), ("v1", r"manifest\.json: missing")]
)
def test_open_verifies_the_bundle(tmp_path, name, missing):
    with pytest.raises(BundleError, match=missing):
        Recommender.open(tmp_path / name)
    release(tmp_path / "v1", [[0]], [[0], [1]], [[]])
    publish(tmp_path, "v1")
    (tmp_path / "v1" / "popular.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"popular\.npy: 0 bytes"):
        Recommender.open(tmp_path / name)


def test_a_weak_index_is_completed_by_an_exact_scan(tmp_path):
    """One tree and search_k = 1 find a few of 500 items; users still get the k nearest."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(500, 4)).astype(np.float32)
    seen = [np.sort(rng.permutation(500)[:200]) for _ in users]
    recommender = Recommender.open(release(tmp_path / "v1", users, items, seen, trees=1, search_k=1))
    excluded = np.arange(0, 1001, 200), np.concatenate(seen).astype(np.int32)
    nearest, distances = exact_top_k(users, items, 290, excluded)
    for user in range(5):
        rows = recommender.recommend(f"u{user}", k=290)
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
def test_any_bundle_gives_k_items_if_there_are_k(seed, n_items, n_users, dim, share_seen, trees, search_k, k):
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


COLOURS = ("red", "green", "blue")


def coloured(folder, seed=0, n_users=12, n_items=60, search_k=40, integers=True):
    """A bundle with attributes and fold-in; item n is of colour n mod 3, every fifth also has a size."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(n_items, 4)).astype(np.float32)
    own = [np.sort(rng.permutation(n_items)[: rng.integers(1, 20)]).astype(np.int32) for _ in range(n_users)]
    users = np.stack([items[some].mean(0) for some in own])
    seen = np.cumsum([0, *(len(some) for some in own)]), np.concatenate(own)
    write_bundle(
        folder,
        BundleContent(
            user_vectors=users,
            item_vectors=items,
            user_ids=np.arange(100, 100 + n_users) if integers else sorted(f"u{n}" for n in range(n_users)),
            item_ids=np.arange(n_items) if integers else sorted(f"i{n}" for n in range(n_items)),
            seen=seen,
            popular=rng.permutation(n_items).astype(np.int32),
            titles=[f"title {n}" for n in range(n_items)],
            attributes={
                "colour": [[COLOURS[n % 3]] for n in range(n_items)],
                "size": [
                    ["small", "large"] if n % 10 == 0 else ["large"] * (n % 5 == 0) for n in range(n_items)
                ],
            },
            fold_in=fold_in.fit(users, items, seen),
        ),
        IndexPlan(2, search_k),
        info={},
    )
    return Recommender.open(folder)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coloured")
    return {
        search_k: coloured(folder / str(search_k), search_k=search_k) for search_k in (None, 5, 40, 9_999)
    }


ids = st.lists(st.integers(-5, 70), max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    search_k=st.sampled_from([None, 5, 40, 9_999]),
    user=st.none() | st.integers(98, 114),
    history=st.none() | ids,
    exclude_seen=st.booleans(),
    exclude=ids,
    allow=st.none() | ids,
    where=st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "colour": st.lists(st.sampled_from([*COLOURS, "mauve"]), max_size=2),
            "size": st.lists(st.sampled_from(["small", "large"]), max_size=2),
        },
    ),
    k=st.integers(1, 80),
)
def test_any_request_gets_k_valid_items_if_there_are_k(
    opened, search_k, user, history, exclude_seen, exclude, allow, where, k
):
    shop = opened[search_k]
    filters = {"exclude": exclude, "allow": allow, "where": where}
    rows = shop.recommend(user, k, exclude_seen, history=history, **filters)
    hidden = set(exclude)
    if exclude_seen:
        hidden |= set(history or [])
        hidden |= {row.item_id for row in shop.history(user)} if user and shop.knows_user(user) else set()
    valid = set(range(60)) - hidden if allow is None else set(range(60)) & set(allow) - hidden
    sizes = {n: {"small", "large"} if n % 10 == 0 else {"large"} if n % 5 == 0 else set() for n in range(60)}
    for name, values in (where or {}).items():
        carried = {n: {COLOURS[n % 3]} for n in range(60)} if name == "colour" else sizes
        valid = {n for n in valid if carried[n] & set(values)}
    found = [row.item_id for row in rows]
    assert len(found) == len(set(found)) == min(k, len(valid))
    assert set(found) <= valid
    basis = shop.basis(user, history)
    assert basis == (
        "history"
        if history and set(history) & set(range(60))
        else "user"
        if user is not None and 100 <= user < 112
        else "popular"
    )
    if basis == "popular":
        assert all(row.score is None for row in rows)
        order = [row.item_id for row in shop.recommend(None, 60)]
        assert found == [item for item in order if item in valid][:k]
    else:
        assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    if search_k in (None, 9_999) and basis == "user":
        everything = shop.recommend(user, 60, False)
        assert found == [row.item_id for row in everything if row.item_id in valid][:k]
    if user is not None and history is None:
        assert shop.recommend_many([user, 101, user], k, exclude_seen, **filters)[::2] == [rows, rows]


def test_recommend_many_equals_recommend_for_each(opened):
    for shop in opened.values():
        users = [*range(98, 114), 105]
        assert shop.recommend_many(users, 7) == [shop.recommend(user, 7) for user in users]
        assert shop.recommend_many([], 7) == []
        assert shop.recommend_many([1, 2], 2) == [shop.recommend(1, 2)] * 2


def test_a_history_folds_in_near_its_user(opened):
    """Here a user is the mean of their items, so that their own history folds in near them."""
    shop = opened[None]
    for user in range(100, 112):
        history = [row.item_id for row in shop.history(user)]
        own, folded = (
            {row.item_id for row in rows}
            for rows in (shop.recommend(user, 10), shop.recommend(history=history, k=10))
        )
        if len(history) > 5:
            assert len(own & folded) >= 7
    assert shop.basis(100, history=[]) == "user"
    assert shop.basis(100, history=[5]) == "history"
    assert shop.place([5]) is not None
    assert shop.place([999]) is None


def test_similar_items_are_the_nearest_others(opened):
    vectors = opened[None]._bundle.item_vectors
    far = np.linalg.norm(vectors - vectors[7], axis=1)
    rows = opened[None].similar_items(7, 5)
    assert [row.item_id for row in rows] == [n for n in np.argsort(far).tolist() if n != 7][:5]
    assert [-row.score for row in rows] == pytest.approx(np.sort(far)[1:6], rel=1e-5)
    assert len(opened[5].similar_items(7, 1_000)) == 59


def test_an_item_is_explained_by_the_nearest_items_of_the_user(opened):
    shop = opened[40]
    own = {row.item_id for row in shop.history(103)}
    vectors = shop._bundle.item_vectors
    rows = shop.explain(103, 7, k=100)
    assert {row.item_id for row in rows} == own
    assert [-row.score for row in rows] == pytest.approx(
        sorted(np.linalg.norm(vectors[list(own)] - vectors[7], axis=1).tolist()), rel=1e-5
    )
    assert shop.explain(103, 7, k=2) == rows[:2]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda shop: shop.similar_items(999), "item 999 is not in this bundle"),
        (lambda shop: shop.explain(103, "7"), "item '7' is not in this bundle"),
        (lambda shop: shop.explain(5, 7), "user 5 is not in this bundle"),
        (lambda shop: shop.history("103"), "user '103' is not in this bundle"),
    ],
)
def test_unknown_ids_are_named(opened, ask, message):
    with pytest.raises(UnknownId, match=message):
        ask(opened[40])


def test_an_unknown_attribute_is_named_with_the_known_ones(opened, shop):
    with pytest.raises(ValueError, match="no attribute 'color', allowed: colour, size"):
        opened[40].recommend(103, where={"color": ["red"]})
    with pytest.raises(ValueError, match="allowed: none: this bundle has no attributes"):
        shop.recommend("u0", where={"color": ["red"]})


@pytest.mark.parametrize(
    "ask",
    [
        lambda shop: shop.recommend(103, where={"colour": "red"}),
        lambda shop: shop.recommend(history="5"),
        lambda shop: shop.recommend(history=5),
        lambda shop: shop.recommend(103, exclude=5),
        lambda shop: shop.recommend(103, allow="57"),
        lambda shop: shop.recommend_many(103),
        lambda shop: shop.recommend_many("103"),
    ],
)
def test_one_id_in_place_of_a_list_is_refused(opened, ask):
    with pytest.raises(ValueError, match=r"expected a list, such as \["):
        ask(opened[40])


def test_ids_come_as_text_or_numbers(opened, tmp_path):
    numbers, words = opened[40], coloured(tmp_path / "words", integers=False)
    for sent in ("103", 103):
        assert numbers.user_id(sent) == 103
    for sent in ("x", "1_03", " 103", "103.0", "0103", "１０３", "-0x1", ""):
        assert numbers.user_id(sent) == sent
    assert [words.item_id(sent) for sent in ("i7", 7)] == ["i7", "7"]
    assert (numbers.has_integer_items, words.has_integer_items) == (True, False)
    assert words.recommend("u3", 5) == words.recommend_many(["u3"], 5)[0]
    assert numbers.some_users(3) == [100, 105, 111]
    assert len(words.some_users(1_000)) == 12
    assert numbers.attributes == ("colour", "size")


@pytest.mark.parametrize("number", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
def test_numpy_numbers_are_accepted(opened, number):
    shop = opened[40]
    k, user, item = number(3), number(103), number(7)
    assert shop.recommend(user, k) == shop.recommend(103, 3)
    assert shop.recommend_many([user, 5], k) == shop.recommend_many([103, 5], 3)
    assert shop.recommend_many(np.array([103, 104], number), k) == shop.recommend_many([103, 104], 3)
    assert shop.similar_items(item, k) == shop.similar_items(7, 3)
    assert shop.explain(user, item, k) == shop.explain(103, 7, 3)
    assert shop.history(user, k) == shop.history(103, 3)
    assert shop.history_length(user) == shop.history_length(103)
    assert shop.some_users(k) == shop.some_users(3)
    assert shop.knows_user(user)
    given = np.array([5, 7, 9], number)
    for name in ("history", "exclude", "allow"):
        assert shop.recommend(103, k, **{name: given}) == shop.recommend(103, 3, **{name: [5, 7, 9]})
    assert shop.basis(None, given) == "history"
    assert [type(shop.user_id(user)), type(shop.item_id(item))] == [int, int]
    assert (shop.user_id(user), shop.item_id(item)) == (103, 7)
    assert type(shop.recommend(user, k)[0].item_id) is int
    with pytest.raises(UnknownId, match=r"^item 99 is not in this bundle"):
        shop.similar_items(number(99))
    for wrong in (number(0), np.True_, np.float64(3), np.array([3]), np.array(3)):
        with pytest.raises(ValueError, match=r"k = .*, allowed is a whole number >= 1"):
            shop.recommend(103, wrong)


def test_numpy_numbers_beyond_int64_are_unknown(opened):
    assert not opened[40].knows_user(np.uint64(2**64 - 1))
    assert opened[40].recommend(np.uint64(2**63), 2) == opened[40].recommend(None, 2)


def test_numpy_text_is_accepted(tmp_path):
    words = coloured(tmp_path / "words", integers=False)
    assert words.recommend(np.str_("u3"), 5) == words.recommend("u3", 5)
    assert words.recommend_many(np.array(["u3", "nobody"]), 2) == words.recommend_many(["u3", "nobody"], 2)
    assert words.similar_items(np.str_("i7"), 2) == words.similar_items("i7", 2)
    red = {"where": {"colour": np.array(["red"])}}
    assert words.recommend("u3", 5, **red) == words.recommend("u3", 5, where={"colour": ["red"]})
    assert (words.item_id(np.int64(7)), type(words.user_id(np.str_("u3")))) == ("7", str)
    with pytest.raises(UnknownId, match="item 'x' is not"):
        words.similar_items(np.str_("x"))


@pytest.mark.parametrize("given", [True, np.True_, 1.0, np.float64(1), None, b"u1", [1]])
def test_other_types_are_no_ids(opened, tmp_path, given):
    for shop in (opened[40], coloured(tmp_path / "words", integers=False)):
        for convert in (shop.user_id, shop.item_id):
            with pytest.raises(ValueError, match="allowed are whole numbers and text"):
                convert(given)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda shop: shop.recommend([103]), r"user = \[103\], expected a single id"),
        (lambda shop: shop.recommend(np.array([103])), "expected a single id"),
        (lambda shop: shop.recommend_many([[103]]), "expected a single id"),
        (lambda shop: shop.recommend_many(np.array([[103]])), r"expected a list, such as \["),
        (lambda shop: shop.recommend_many(np.array(103)), r"expected a list, such as \["),
        (lambda shop: shop.similar_items([7]), r"item = \[7\], expected a single id"),
        (lambda shop: shop.explain(103, {7: 1}), "expected a single id"),
        (lambda shop: shop.history((103,)), "expected a single id"),
        (lambda shop: shop.knows_user({103}), "expected a single id"),
        (lambda shop: shop.recommend(103, 5, [7]), r"exclude_seen = \[7\], allowed are True and False"),
        (lambda shop: shop.recommend_many([103], 5, "false"), "exclude_seen = 'false', allowed are True"),
        (lambda shop: shop.recommend(103, 5, "1"), "exclude_seen = '1', allowed are True and False"),
        (lambda shop: shop.recommend(103, 5, 2), "exclude_seen = 2, allowed are True and False"),
        (lambda shop: shop.recommend(103, 5, np.array([1])), r"exclude_seen = array\(\[1\]\), allowed are"),
        (lambda shop: shop.recommend(103, where=["red"]), r"where = \['red'\], expected {attribute: values}"),
        (lambda shop: shop.recommend_many([103, 104], histories=[[7]]), "1 histories for 2 user_ids"),
        (lambda shop: shop.recommend_many([103], histories="7"), r"expected a list, such as \["),
        (lambda shop: shop.history(103, 0), "k = 0, allowed is a whole number >= 1"),
        (lambda shop: shop.history(103, -1), "k = -1, allowed is a whole number >= 1"),
        (lambda shop: shop.some_users(0), "n = 0, allowed is a whole number >= 1"),
        (lambda shop: shop.some_users(2.0), "n = 2.0, allowed is a whole number >= 1"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(opened, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(opened[40])


@pytest.mark.parametrize("kind", [bool, int, np.bool_, np.int64, np.uint8])
def test_exclude_seen_may_be_0_or_1(opened, kind):
    shop = opened[40]
    assert shop.recommend(103, 5, True) != shop.recommend(103, 5, False)
    for flag in (True, False):
        assert shop.recommend(103, 5, kind(flag)) == shop.recommend(103, 5, flag)
        assert shop.recommend_many([103], 5, kind(flag)) == shop.recommend_many([103], 5, flag)


def test_a_pickle_opens_the_folder_again_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coloured(Path("v1"))
    publish(tmp_path, "v1")
    for shop in (Recommender.open(Path("current")), Recommender(open_bundle(Path("v1")))):
        shop.recommend(history=[7])  # so that something is cached
        written = pickle.dumps(shop)
        assert len(written) < 1000
        monkeypatch.chdir("/")
        for again in (pickle.loads(written), copy.copy(shop), copy.deepcopy(shop)):
            assert again.version == "v1"
            assert again.recommend(103, 5) == shop.recommend(103, 5)
            assert again.recommend(history=[7]) == shop.recommend(history=[7])
        monkeypatch.chdir(tmp_path)
    del shop, again
    (tmp_path / "v2").mkdir()
    shutil.rmtree(tmp_path / "v1")
    with pytest.raises(BundleError, match=r"v1/manifest\.json: missing"):
        pickle.loads(written)
    coloured(tmp_path / "v1", seed=1)
    with pytest.raises(BundleError, match="v1: holds another bundle than when it was pickled; open it again"):
        pickle.loads(written)


def test_a_copied_bundle_keeps_its_version_in_a_pickle(tmp_path):
    coloured(tmp_path / "v7")
    os.rename(tmp_path / "v7", tmp_path / "current")
    assert pickle.loads(pickle.dumps(Recommender.open(tmp_path / "current"))).version == "v7"


def _answers(shop, users):
    return shop.version, shop.recommend_many(users, 5), [shop.similar_items(user - 100, 3) for user in users]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_other_processes_give_the_same_answers(opened, method):
    """Passed as an argument, by a bound method, and inherited by a fork."""
    shop, users, context = opened[40], list(range(100, 112)), multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.starmap(_answers, [(shop, users)] * 3) == [_answers(shop, users)] * 3
        assert pool.map(shop.recommend, users) == [shop.recommend(user) for user in users]
    assert _answers(shop, users)[0] == "40"  # this process can still use it


def test_a_forked_child_keeps_its_bundle_locked(tmp_path):
    """The child answers after the parent dropped the bundle, and prune keeps the folder until it ends."""
    for seed, version in enumerate(("v1", "v2")):
        coloured(tmp_path / version, seed)
    publish(tmp_path, "v2")
    shop = Recommender.open(tmp_path / "v1")
    expected = _answers(shop, [103])
    (ready, tell), (go, let_go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(let_go)
            os.write(tell, b"x")
            os.read(go, 1)
            code = 0 if _answers(shop, [103]) == expected else 2
        finally:
            os._exit(code)
    assert os.read(ready, 1) == b"x"
    del shop
    assert prune(tmp_path, 1) == []
    os.write(let_go, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for end in (ready, tell, go, let_go):
        os.close(end)
    assert prune(tmp_path, 1) == ["v1"]


def test_threads_share_a_recommender(opened):
    users = list(range(98, 114))
    for shop in opened.values():
        expected = [shop.recommend(user, 7) for user in users], shop.recommend(history=[5, 7])
        fresh = copy.copy(shop)  # nothing is cached yet
        with ThreadPoolExecutor(8) as threads:
            for _ in range(20):
                found = threads.map(lambda user, fresh=fresh: fresh.recommend(user, 7), users)
                placed = threads.submit(fresh.recommend, history=[5, 7])
                assert (list(found), placed.result()) == expected


LIGHT = """
import sys
import serving.recommender
heavy = {"torch", "duckdb", "polars", "mlflow", "pandas", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_recommender_imports_nothing_heavy():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)
