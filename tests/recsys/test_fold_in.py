"""fold_in: where a stranger belongs, by the users of such histories."""

import numpy as np
import pytest

from recsys import fold_in
from recsys.index import exact_top_k


def histories(rng, n_users, n_items, most=8, least=0):
    own = [
        np.sort(rng.permutation(n_items)[: rng.integers(least, most + 1)]).astype(np.int32)
        for _ in range(n_users)
    ]
    return np.cumsum([0, *(len(items) for items in own)]), np.concatenate(own), own


def test_the_formula():
    """W = (X'X + r I)^-1 X'Y by loops, x = (mean of the items' vectors, 1)."""
    rng = np.random.default_rng(0)
    items, users = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    offsets, flat, own = histories(rng, 50, 30)
    rows = [(np.append(items[h].astype(float).mean(0), 1.0), users[u]) for u, h in enumerate(own) if len(h)]
    x, y = (np.array(part) for part in zip(*rows, strict=True))
    ridge = fold_in.RIDGE * np.trace(x.T @ x) / 5
    expected = np.linalg.inv(x.T @ x + ridge * np.eye(5)) @ x.T @ y
    weights = fold_in.fit(users, items, (offsets, flat))
    assert weights == pytest.approx(expected, rel=1e-4, abs=1e-6)
    placed = fold_in.place(weights, 2.0, items, own[0])
    straight = np.append(items[own[0]].mean(0), 1.0) @ expected
    assert placed == pytest.approx(2.0 * straight / np.linalg.norm(straight), rel=1e-4)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    items, users = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    offsets, flat, _ = histories(rng, 50, 30)
    whole = fold_in.fit(users, items, (offsets, flat))
    for chunk in (1, 7, 40):
        monkeypatch.setattr(fold_in, "CHUNK", chunk)
        assert fold_in.fit(users, items, (offsets, flat)) == pytest.approx(whole, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("turned", [False, True])
def test_hidden_users_find_their_own_neighbourhood(turned):
    """Users are where their items are, or that turned round: strangers are put where such users were."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(10, 8))
    group = rng.integers(0, 10, 500)  # of an item
    items = (centres[group] + 0.3 * rng.normal(size=(500, 8))).astype(np.float32)
    favourite = rng.integers(0, 10, 400)
    own = [np.sort(rng.permutation(np.flatnonzero(group == g))[:6]).astype(np.int32) for g in favourite]
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0] if turned else np.eye(8)
    users = (centres[favourite] @ turn).astype(np.float32)
    offsets = np.cumsum([0, *(len(h) for h in own[:300])])
    weights = fold_in.fit(users[:300], items, (offsets, np.concatenate(own[:300])))
    placed = np.stack(
        [fold_in.place(weights, fold_in.radius(users), items, history) for history in own[300:]]
    )
    near, _ = exact_top_k(placed, (items @ turn).astype(np.float32), 10)
    assert np.mean(group[near] == favourite[300:, None]) > 0.8


def test_users_without_items_teach_nothing():
    items = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="no user has an item"):
        fold_in.fit(np.ones((2, 2), np.float32), items, (np.zeros(3, np.int64), np.empty(0, np.int32)))


def test_a_history_at_the_origin_is_placed_without_nan():
    weights = np.zeros((3, 2), np.float32)
    assert fold_in.place(weights, 1.0, np.ones((1, 2), np.float32), np.array([0], np.int32)).tolist() == [
        0,
        0,
    ]
