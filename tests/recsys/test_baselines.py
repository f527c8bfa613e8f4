"""Popularity by hand, and the spectrum against numpy's dense SVD."""

import numpy as np
import pytest
import torch

from recsys import baselines, sampling
from recsys.interactions import Interactions


def on_device(taken):
    """(U, I) bool -> its interactions."""
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    n = len(user)
    weight, time = np.ones(n, dtype=np.float32), np.zeros(n, dtype=np.int64)
    return sampling.to_device(Interactions(user, item, weight, time, *taken.shape), torch.device("cpu"))


def clusters(seed, n_users, n_items, n_clusters):
    """(U, I) bool: users take half of their cluster's items and few others; the last user and item, none."""
    rng = np.random.default_rng(seed)
    same = np.arange(n_users)[:, None] % n_clusters == np.arange(n_items)[None, :] % n_clusters
    taken = rng.random((n_users, n_items)) < np.where(same, 0.5, 0.02)
    taken[-1], taken[:, -1] = False, False
    return taken


def dense_spectral(taken, dim, item_exponent):
    """The definition, with numpy's SVD in float64."""
    r = taken.astype(float)
    of_user, of_item = np.maximum(r.sum(1), 1), np.maximum(r.sum(0), 1)
    v = np.linalg.svd(r / np.sqrt(of_user)[:, None] / np.sqrt(of_item))[2][:dim].T  # (I, K)
    return r @ (v / np.sqrt(of_item)[:, None]), of_item[:, None] ** item_exponent * v


def test_popularity_counts_users():
    taken = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]], dtype=bool)
    popularity = baselines.popularity(on_device(taken))
    assert popularity.tolist() == [3, 0, 2, 0]
    assert popularity.dtype == torch.float32


@pytest.mark.parametrize("item_exponent", [0.0, 0.4, 0.5])
@pytest.mark.parametrize(
    ("shape", "n_clusters", "dim", "error"),
    [
        ((14, 9), 1, 1, 1e-5),  # no wider than the dimensions worked in: exact but for rounding
        ((14, 9), 1, 5, 1e-5),
        ((9, 14), 1, 8, 1e-5),
        ((120, 80), 4, 4, 1e-3),  # four iterations, and a gap after the clusters' own directions
        ((80, 120), 4, 4, 1e-3),
    ],
    ids=str,
)
def test_spectral_equals_the_dense_svd(shape, n_clusters, dim, error, item_exponent):
    taken = clusters(0, *shape, n_clusters)
    users, items = baselines.spectral(on_device(taken), dim, item_exponent)
    assert (users.shape, items.shape) == ((shape[0], dim), (shape[1], dim))
    users_expected, items_expected = dense_spectral(taken, dim, item_exponent)
    scores = users_expected @ items_expected.T
    np.testing.assert_allclose((users @ items.T).numpy(), scores, atol=error * np.abs(scores).max())


def test_each_direction_is_the_dense_one_up_to_its_sign():
    taken = clusters(1, 120, 80, 4)
    for ours, dense in zip(
        baselines.spectral(on_device(taken), 4), dense_spectral(taken, 4, 0.5), strict=True
    ):
        np.testing.assert_allclose(np.abs(ours.numpy()), np.abs(dense), atol=2e-3 * np.abs(dense).max())


def test_spectral_finds_the_clusters():
    """Unseen items of a user's own cluster score above every other cluster's."""
    taken = clusters(2, 120, 80, 4)[:-1, :-1]
    users, items = baselines.spectral(on_device(taken), 4)
    scores = (users @ items.T).numpy()
    same = np.arange(119)[:, None] % 4 == np.arange(79)[None, :] % 4
    unseen = np.where(same & ~taken, scores, np.inf).min(1)
    assert np.mean(unseen > np.where(same, -np.inf, scores).max(1)) > 0.95


def test_users_and_items_without_interactions_are_finite():
    users, items = baselines.spectral(on_device(clusters(3, 30, 20, 2)), 20)  # more dimensions than rank
    assert torch.isfinite(users).all()
    assert torch.isfinite(items).all()
    assert (users[-1] == 0).all()


def test_same_seed_same_bits():
    data = on_device(clusters(4, 120, 80, 4))
    first, again, other = (baselines.spectral(data, 8, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("dim", [-1, 0, 10])
def test_dimensions_are_refused_by_name(dim):
    with pytest.raises(ValueError, match=rf"spectral dim = {dim}, allowed 1\.\.9 "):
        baselines.spectral(on_device(clusters(0, 14, 9, 2)), dim)


def dated(rows, n_items):
    """(user, item, seconds) rows, sorted -> interactions on the device."""
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    taken = Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.ones(len(rows), np.float32),
        time,
        user.max() + 1,
        n_items,
    )
    return sampling.to_device(taken, torch.device("cpu"))


def test_trend_by_hand():
    """One half-life ago counts one half; the last item was never taken."""
    data = dated([(0, 0, 1000), (0, 1, 900), (1, 0, 1000), (2, 1, 1000)], n_items=3)
    average = (1 + 0.5 + 1 + 1) / 4
    expected = np.log([(2 + average) / (3 * average), (1.5 + average) / (3 * average), 1.0])
    np.testing.assert_allclose(baselines.trend(data, half_life=100), expected, rtol=1e-6)


def test_without_times_nothing_rises():
    data = on_device(clusters(0, 30, 20, 3))
    np.testing.assert_allclose(baselines.trend(data, half_life=1.0), np.zeros(20), atol=1e-6)


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("nan")])
def test_trend_refuses_a_half_life(half_life):
    with pytest.raises(ValueError, match=r"half_life = .* allowed > 0"):
        baselines.trend(on_device(clusters(0, 30, 20, 3)), half_life)


@pytest.mark.parametrize("power", [0, 3])
def test_columns_become_orthonormal_within_their_span(power):
    """Also where their lengths differ a thousandfold."""
    rows = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    rows = rows * torch.logspace(0, -power, 12)
    found = baselines._orthonormal(rows)
    torch.testing.assert_close(found.T @ found, torch.eye(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(found @ (found.T @ rows), rows, atol=1e-4, rtol=0)


def test_a_log_of_few_directions_keeps_its_scores_at_any_dimensions():
    """Two groups that share nothing: rank 2, all other directions add nothing."""
    nothing = baselines._orthonormal(torch.zeros(30, 4))
    torch.testing.assert_close(nothing.T @ nothing, torch.eye(4))
    data = on_device(np.arange(40)[:, None] % 2 == np.arange(30)[None] % 2)
    two, many = (baselines.spectral(data, dim) for dim in (2, 20))
    _, right = baselines.spectral(data, 20, item_exponent=0.0)
    torch.testing.assert_close(right.T @ right, torch.eye(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(many[0] @ many[1].T, two[0] @ two[1].T, atol=1e-5, rtol=0)
