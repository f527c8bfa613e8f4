"""Losses against naive loops, their gradients against finite differences, and their edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import losses
from recsys.distances import squared_euclidean

MARGIN = 0.7


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_triplet_margin(d_pos, d_neg, margin):
    return max(0.0, margin + d_pos - d_neg)


def naive_contrastive(d_pos, d_neg, margin):
    """Hadsell et al., eq. 4, on distances that are not squared: once with Y = 0, once with Y = 1."""
    similar, dissimilar = math.sqrt(d_pos), math.sqrt(d_neg)
    return 0.5 * similar**2 + 0.5 * max(0.0, math.sqrt(margin) - dissimilar) ** 2


NAIVE = [(losses.triplet_margin, naive_triplet_margin), (losses.contrastive, naive_contrastive)]
both = pytest.mark.parametrize("loss", [loss for loss, _ in NAIVE])


@pytest.mark.parametrize(("loss", "naive"), NAIVE)
def test_value_and_gradient_equal_the_naive_loop(loss, naive):
    d_pos, d_neg = normal(0, 200).square() + 0.01, normal(1, 200).square() + 0.01  # active or not
    d_pos.requires_grad_(), d_neg.requires_grad_()
    each = loss(d_pos, d_neg, MARGIN)
    each.sum().backward()
    assert 0 < (d_neg.grad != 0).sum() < 200
    step = 1e-7
    for t in range(200):
        p, n = d_pos[t].item(), d_neg[t].item()
        assert each[t].item() == pytest.approx(naive(p, n, MARGIN), rel=1e-12)
        by_p = (naive(p + step, n, MARGIN) - naive(p - step, n, MARGIN)) / (2 * step)
        by_n = (naive(p, n + step, MARGIN) - naive(p, n - step, MARGIN)) / (2 * step)
        assert d_pos.grad[t].item() == pytest.approx(by_p, abs=1e-5)
        assert d_neg.grad[t].item() == pytest.approx(by_n, rel=1e-5, abs=1e-5)


@both
def test_gradcheck(loss):
    d_pos, d_neg = normal(0, 20).square() + 0.01, normal(1, 20).square() + 0.01
    torch.autograd.gradcheck(
        lambda p, n: loss(p, n, MARGIN), (d_pos.requires_grad_(), d_neg.requires_grad_())
    )


@both
def test_no_triplet_is_zero_loss_and_zero_gradient(loss):
    d = torch.ones(3, 4, requires_grad=True)
    nothing = torch.empty(0, dtype=torch.int64)
    each = loss(d[nothing, nothing], d[nothing, nothing], MARGIN)
    each.sum().backward()
    assert each.shape == (0,)
    assert torch.equal(d.grad, torch.zeros(3, 4))


@both
def test_zero_distance_has_a_finite_gradient(loss):
    d_pos, d_neg = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss(d_pos, d_neg, MARGIN).sum().backward()
    assert torch.isfinite(d_pos.grad).all()
    assert torch.isfinite(d_neg.grad).all()
    rows = torch.full((2, 3), 0.5, requires_grad=True)  # anchor, positive and negative are one point
    d = squared_euclidean(rows, rows)
    loss(d[0, :1], d[0, 1:], MARGIN).sum().backward()
    assert torch.isfinite(rows.grad).all()


@both
@pytest.mark.parametrize("margin", [0, -0.5, math.nan, math.inf])
def test_margins_are_refused_by_name(loss, margin):
    with pytest.raises(ValueError, match=f"margin = {margin}, allowed > 0 and finite"):
        loss(torch.ones(2), torch.ones(2), margin)


def test_losses_by_hand():
    d_pos, d_neg = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([1.0, 1.0, 9.0])
    assert losses.triplet_margin(d_pos, d_neg, 2.0).tolist() == [2, 5, 0]
    assert losses.contrastive(d_pos, d_neg, 4.0).tolist() == [0.5 + 0.5, 2 + 0.5, 0]


def test_rank_weight_equals_the_naive_loop():
    d, d_pos = normal(0, 30, 12).square(), normal(1, 30).square()
    negative = normal(2, 30, 12) > 0
    negative[0] = False
    weights = losses.rank_weight(d, d_pos, negative, MARGIN, 1000)
    for a in range(30):
        seen = [c for c in range(12) if negative[a, c]]
        impostors = [c for c in seen if MARGIN + d_pos[a].item() - d[a, c].item() > 0]
        rank = 1000 * len(impostors) / len(seen) if seen else 0
        assert weights[a].item() == pytest.approx(math.log(rank + 1), rel=1e-6)


def test_rank_weight_by_hand():
    """Of 4 negatives 2 are nearer than .1 + .5: in a catalogue of 100 that is rank 50 (CML, section 3.2)."""
    d = torch.tensor([[0.1, 0.2, 0.5999, 0.61, 9.0]], requires_grad=True)
    negative = torch.tensor([[False, True, True, True, True]])
    weight = losses.rank_weight(d, d[:, 0], negative, 0.5, 100)
    assert weight.tolist() == pytest.approx([math.log(51)])
    assert not weight.requires_grad
    assert losses.rank_weight(d, d[:, 0], negative & (d > 1), 0.5, 100).tolist() == [0]


def naive_covariance(rows):
    n, dim = rows.shape
    mean = [sum(rows[r, i].item() for r in range(n)) / n for i in range(dim)]
    total = 0.0
    for i in range(dim):
        for j in range(dim):
            entry = sum((rows[r, i] - mean[i]).item() * (rows[r, j] - mean[j]).item() for r in range(n)) / n
            total += entry**2 if i != j else 0
    return total / n


def test_covariance_equals_the_naive_loop():
    rows = normal(0, 9, 4)
    assert losses.covariance(rows).item() == pytest.approx(naive_covariance(rows), rel=1e-12)
    torch.autograd.gradcheck(losses.covariance, rows.requires_grad_())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 5), st.sampled_from([1e-3, 1.0, 1e3]))
def test_covariance_is_never_negative(seed, n, dim, scale):
    rows = normal(seed, n, dim).float() * scale
    assert losses.covariance(rows) >= 0
    uncorrelated = torch.diag(
        rows[:, 0]
    )  # nearly a diagonal matrix: a difference of two sums would round off
    assert losses.covariance(torch.cat([uncorrelated, -uncorrelated])) == 0


def test_covariance_of_decorrelated_rows_is_zero_with_zero_gradient():
    rows = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], requires_grad=True) * 3 + 5
    rows.retain_grad()
    value = losses.covariance(rows)
    value.backward()
    assert value == 0
    assert torch.equal(rows.grad, torch.zeros(4, 3))


def test_covariance_of_one_row_is_refused():
    with pytest.raises(ValueError, match="covariance needs at least 2 rows, got 1"):
        losses.covariance(torch.ones(1, 3))
