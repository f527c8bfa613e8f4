"""ChebyCF against dense eigenvectors, and its interpolation against numpy's."""

import math

import numpy as np
import pytest
import torch

from recsys import chebyshev, sampling
from recsys.chebyshev import ChebyshevSettings
from recsys.interactions import Interactions
from recsys.judge import Judge, Targets

CPU = torch.device("cpu")
SMALL = ChebyshevSettings(order=5, flatness=2.0, dim=3, ideal_weight=0.3, degree_power=0.4)


def clusters(seed, n_users=14, n_items=9):
    """(U, I) bool: two groups of users and items; the last user and the last item have nothing."""
    rng = np.random.default_rng(seed)
    same = np.arange(n_users)[:, None] % 2 == np.arange(n_items) % 2
    taken = rng.random((n_users, n_items)) < np.where(same, 0.7, 0.1)
    taken[-1], taken[:, -1] = False, False
    return taken


def interactions(taken):
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    n = len(user)
    return Interactions(user, item, np.ones(n, np.float32), np.zeros(n, np.int64), *taken.shape)


def on_device(taken):
    return sampling.to_device(interactions(taken), CPU)


def judge_of(taken, held_out, **options):
    """A judge whose targets are the (U, I) bool entries of held_out."""
    offsets = np.concatenate([[0], np.cumsum(held_out.sum(1))]).astype(np.int64)
    targets = Targets(offsets, np.argwhere(held_out)[:, 1].astype(np.int32))
    return Judge(interactions(taken), targets, CPU, **options)


def dense_scores(taken, settings):
    """(U, I): the filter on each eigenvalue of I - N^T N, in float64."""
    r = taken.astype(float)
    of_user, of_item = np.maximum(r.sum(1), 1), np.maximum(r.sum(0), 1)
    normalised = r / np.sqrt(of_user)[:, None] / np.sqrt(of_item)
    frequency, vectors = np.linalg.eigh(np.eye(r.shape[1]) - normalised.T @ normalised)  # ascending
    angle = np.arccos(np.clip(2 * frequency - 1, -1, 1))  # T_k(cos a) = cos(k a)
    c = chebyshev.coefficients(settings.order, settings.flatness).numpy()
    response = np.cos(np.outer(angle, np.arange(settings.order + 1))) @ c
    passed = settings.ideal_weight * (np.arange(len(frequency)) < settings.dim)
    degree = of_item**settings.degree_power
    return (r / degree) @ (vectors * (response + passed)) @ vectors.T * degree


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        SMALL._replace(order=1),
        SMALL._replace(order=2, flatness=0.7),
        SMALL._replace(order=8, degree_power=0.0),
        SMALL._replace(ideal_weight=0.0, degree_power=1.0),
        SMALL._replace(dim=1, ideal_weight=2.0),
        SMALL._replace(dim=8),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(14, 9), (9, 14)], ids=str)
def test_scores_equal_dense_eigenvectors(settings, shape):
    taken = clusters(0, *shape)
    users = torch.tensor([3, 0, shape[0] - 1, 3])  # any order, one twice, one without history
    scores = chebyshev.scorer(on_device(taken), settings)(users)
    assert scores.shape == (4, shape[1])
    np.testing.assert_allclose(scores.numpy(), dense_scores(taken, settings)[users], atol=2e-5)


@pytest.mark.parametrize("flatness", [0.5, 1.0, 1.5, 10.0])
@pytest.mark.parametrize("order", [1, 2, 8, 9])
def test_the_polynomial_takes_the_plateau_at_the_extrema_to_the_nodes(order, flatness):
    polynomial = np.polynomial.Chebyshev(chebyshev.coefficients(order, flatness).numpy())
    extrema = np.cos(np.arange(order + 1) * np.pi / order)
    expected = 0.5 - 0.5 * np.sign(extrema) * np.abs(extrema) ** flatness
    expected[np.abs(extrema) < 1e-12] = 0.5
    np.testing.assert_allclose(polynomial(chebyshev.nodes(order).numpy()), expected, atol=1e-9)
    np.testing.assert_allclose(polynomial(chebyshev.nodes(order)[[0, -1]].numpy()), [0, 1], atol=1e-9)


def test_the_nodes_are_the_roots_of_the_next_polynomial():
    roots = np.polynomial.chebyshev.chebroots([0, 0, 0, 0, 0, 1])  # of T_5
    np.testing.assert_allclose(chebyshev.nodes(4).numpy(), np.sort(roots)[::-1], atol=1e-12)


@pytest.mark.parametrize("flatness", [1.0, 1.5, 3.0])
def test_the_polynomial_nears_the_plateau_as_the_order_grows(flatness):
    x = np.linspace(-1, 1, 201)
    plateau = chebyshev.plateau(torch.from_numpy(x), flatness).numpy()
    errors = [
        np.abs(np.polynomial.Chebyshev(chebyshev.coefficients(order, flatness).numpy())(x) - plateau).max()
        for order in (8, 32, 128)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


def test_the_plateau_by_hand():
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert chebyshev.plateau(x, 2.0).tolist() == [1.0, 0.625, 0.5, 0.375, 0.0]


def test_a_straight_line_is_met_by_the_first_order():
    """T_0 and T_1 at the nodes -+ sqrt(1/2) with values 1 and 0: 1/2 - x / sqrt 2."""
    assert chebyshev.coefficients(1, 1.0).tolist() == pytest.approx([0.5, -math.sqrt(0.5)])


def test_users_without_history_and_items_without_users_score_0():
    scores = chebyshev.scorer(on_device(clusters(1)), SMALL)(torch.arange(14))
    assert torch.isfinite(scores).all()
    assert (scores[-1] == 0).all()
    assert (scores[:, -1] == 0).all()


def test_no_users_have_no_scores():
    score = chebyshev.scorer(on_device(clusters(1)), SMALL)
    assert score(torch.empty(0, dtype=torch.int64)).shape == (0, 9)


def test_the_same_bits_twice_and_in_chunks_the_same_scores():
    data, users = on_device(clusters(2, 60, 40)), torch.arange(60)
    first, again = (chebyshev.scorer(data, SMALL)(users) for _ in range(2))
    assert torch.equal(first, again)
    parts = torch.cat([chebyshev.scorer(data, SMALL)(part) for part in users.split(7)])
    torch.testing.assert_close(parts, first, atol=1e-5, rtol=0)


def test_more_vectors_than_asked_for_are_cut():
    data, users = on_device(clusters(3)), torch.arange(14)
    wide = chebyshev.singular_vectors(data, 6)
    cut = chebyshev.scorer(data, SMALL, wide)(users)
    torch.testing.assert_close(cut, chebyshev.scorer(data, SMALL)(users), atol=1e-5, rtol=0)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_rankings_follow_the_dense_scores(exclude_seen):
    taken = clusters(4)
    held_out = ~taken & clusters(5)
    judge = judge_of(taken, held_out, ks=(12,), exclude_seen=exclude_seen)
    ranked = judge.rank_scores(chebyshev.scorer(judge.data, SMALL))
    assert ranked.shape == (len(judge.users), 12)
    assert ranked.dtype == np.int32
    scores = dense_scores(taken, SMALL)
    for user, items in zip(judge.users, ranked, strict=True):
        allowed = ~taken[user] if exclude_seen else np.ones(9, dtype=bool)
        left = items[items >= 0]
        assert sorted(left) == np.flatnonzero(allowed).tolist()
        assert (items[len(left) :] == -1).all()
        assert (np.diff(scores[user, left]) < 1e-5).all()


def test_scores_that_are_not_finite_are_refused():
    judge = judge_of(clusters(4), clusters(5) & ~clusters(4))
    with pytest.raises(ValueError, match="scores hold NaN or Inf, allowed finite values"):
        judge.rank_scores(lambda users: torch.full((len(users), 9), torch.nan))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("order", 0, ">= 1"),
        ("flatness", 0.0, "> 0 and finite"),
        ("flatness", math.inf, "> 0 and finite"),
        ("ideal_weight", -0.1, ">= 0 and finite"),
        ("ideal_weight", math.nan, ">= 0 and finite"),
        ("degree_power", 1.1, r"0\.\.1"),
        ("dim", 0, r"1\.\.9"),
        ("dim", 10, r"1\.\.9"),
    ],
)
def test_settings_are_refused_by_name(name, value, allowed):
    with pytest.raises(ValueError, match=rf"{name} = {value}, allowed {allowed}"):
        chebyshev.scorer(on_device(clusters(0)), SMALL._replace(**{name: value}))


def test_fewer_vectors_than_dim_are_refused():
    data = on_device(clusters(0))
    with pytest.raises(ValueError, match=r"chebyshev dim = 3, allowed 1\.\.2"):
        chebyshev.scorer(data, SMALL, chebyshev.singular_vectors(data, 2))


def split(seed):
    """A judge of 60 users by a fifth of what they took."""
    taken = clusters(seed, 60, 40)
    held_out = taken & (np.random.default_rng(seed).random(taken.shape) < 0.2)
    return judge_of(taken & ~held_out, held_out)


def test_choose_keeps_the_best_of_what_it_tried():
    judge = split(6)
    grid = {"flatness": (1.0, 2.0, 4.0), "degree_power": (0.0, 0.4, 1.0), "dim": (1, 2, 500)}
    choice = chebyshev.choose(judge, "recall@20", SMALL._replace(dim=512), grid)
    assert choice.tried[choice.settings] == max(choice.tried.values())
    assert {settings.dim for settings in choice.tried} <= {1, 2, 40}  # no more than items
    assert {(s.order, s.ideal_weight) for s in choice.tried} == {(SMALL.order, SMALL.ideal_weight)}
    values = judge.values(judge.rank_scores(chebyshev.scorer(judge.data, choice.settings)))
    assert values["recall@20"].mean() == pytest.approx(choice.tried[choice.settings], abs=0.01)


def test_choose_climbs_to_larger_values_else_to_smaller(monkeypatch):
    """A metric with one peak, at flatness 3 and degree_power 0.1."""
    judge = split(7)
    monkeypatch.setattr(judge, "rank_scores", lambda score: score)
    monkeypatch.setattr(chebyshev, "scorer", lambda data, settings, vectors: settings)
    peak = {"flatness": 3.0, "degree_power": 0.1}
    monkeypatch.setattr(
        judge,
        "values",
        lambda s: {"ndcg@20": -np.array([sum(abs(getattr(s, name) - at) for name, at in peak.items())])},
    )
    choice = chebyshev.choose(judge)
    assert (choice.settings.flatness, choice.settings.degree_power) == (3.0, 0.1)
    assert max(s.flatness for s in choice.tried) == 5.0  # one beyond the peak, and no more


def test_choose_without_a_grid_scores_the_start():
    choice = chebyshev.choose(split(8), start=SMALL, grid={})
    assert choice.settings == SMALL
    assert list(choice.tried) == [SMALL]


def test_choose_refuses_names():
    with pytest.raises(ValueError, match=r"grid has \['flat'\], allowed \['order', "):
        chebyshev.choose(split(6), grid={"flat": (1.0,)})
    with pytest.raises(ValueError, match=r"metric = ndcg@7, allowed \['hit_rate@10', "):
        chebyshev.choose(split(6), "ndcg@7", SMALL)
