"""Miners against naive loops over every triplet, and their edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import losses, miners

MARGIN = 0.5


def random_case(seed, a, c, grid=False):
    """Distances (A, C) and disjoint masks of positives and negatives; some pairs are in neither."""
    generator = torch.Generator().manual_seed(seed)
    d = torch.rand(a, c, dtype=torch.float64, generator=generator) * 2
    if grid:
        d = (d * 3).round() / 3  # many ties, and zeros
    kind = torch.randint(3, (a, c), generator=generator)
    return d, kind == 0, kind == 1


def naive_hardest(d, positive, negative, margin):
    triplets = []
    for a in range(len(d)):
        positives = [(d[a, c].item(), c) for c in range(d.shape[1]) if positive[a, c]]
        negatives = [(d[a, c].item(), c) for c in range(d.shape[1]) if negative[a, c]]
        if positives and negatives:
            triplets.append((a, max(positives)[1], min(negatives)[1]))
    return triplets


def naive_semi_hard(d, positive, negative, margin):
    triplets = []
    for a in range(len(d)):
        for p in range(d.shape[1]):
            inside = [
                (d[a, n].item(), n)
                for n in range(d.shape[1])
                if positive[a, p] and negative[a, n] and d[a, p] < d[a, n] < d[a, p] + margin
            ]
            if inside:
                triplets.append((a, p, min(inside)[1]))
    return triplets


NAIVE = [(miners.hardest, naive_hardest), (miners.semi_hard, naive_semi_hard)]
both = pytest.mark.parametrize("mine", [mine for mine, _ in NAIVE])


def as_list(triplets):
    return [tuple(triplet) for triplet in torch.stack(list(triplets), 1).tolist()]


@pytest.mark.parametrize(("mine", "naive"), NAIVE)
@pytest.mark.parametrize("loss", [losses.triplet_margin, losses.contrastive])
@pytest.mark.parametrize(("a", "c"), [(12, 9), (1, 20), (6, 2), (0, 4)])
def test_triplets_and_the_gradient_of_their_loss_equal_the_naive_loop(mine, naive, loss, a, c):
    d, positive, negative = random_case(a + c, a, c)
    d.requires_grad_()
    triplets = mine(d, positive, negative, MARGIN)
    expected = naive(d, positive, negative, MARGIN)
    assert as_list(triplets) == expected
    loss(*triplets.distances(d), MARGIN).sum().backward()
    gradient = torch.zeros_like(d)
    for anchor, p, n in expected:
        pair = torch.tensor(
            [d[anchor, p].item(), d[anchor, n].item()], dtype=torch.float64, requires_grad=True
        )
        loss(pair[:1], pair[1:], MARGIN).sum().backward()
        gradient[anchor, p] += pair.grad[0]
        gradient[anchor, n] += pair.grad[1]
    torch.testing.assert_close(d.grad, gradient)


def test_a_matrix_by_hand():
    """Columns 0 and 1 are positive, 2 to 4 negative, 5 is neither; the margin is .5."""
    d = torch.tensor(
        [
            [0.2, 0.6, 0.1, 0.5, 0.9, 0.0],  # hardest (1, 2); semi-hard (0, 3) and (1, 4)
            [0.2, 0.3, 0.2, 0.7, 0.8, 0.25],  # the border is outside: d(a,n) = d(a,p) is not semi-hard
            [0.1, 0.2, 2.0, 3.0, 4.0, 0.3],  # all negatives are beyond the margin
            [0.9, 0.8, 0.1, 0.2, 0.3, 0.85],  # all negatives are nearer
        ]
    )
    positive = torch.tensor([True, True, False, False, False, False]).expand(4, 6)
    negative = torch.tensor([False, False, True, True, True, False]).expand(4, 6)
    assert as_list(miners.hardest(d, positive, negative, 0.5)) == [(0, 1, 2), (1, 1, 2), (2, 1, 2), (3, 0, 2)]
    assert as_list(miners.semi_hard(d, positive, negative, 0.5)) == [(0, 0, 3), (0, 1, 4), (1, 1, 3)]


@both
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(1, 8), st.booleans())
def test_a_masked_pair_is_never_mined(mine, seed, a, c, grid):
    d, positive, negative = random_case(seed, a, c, grid)
    triplets = mine(d, positive, negative, MARGIN)
    assert positive[triplets.anchor, triplets.positive].all()
    assert negative[triplets.anchor, triplets.negative].all()
    assert all(part.dtype == torch.int64 and part.shape == triplets.anchor.shape for part in triplets)


@both
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_permuted_candidates_permute_the_triplets(mine, seed):
    d, positive, negative = random_case(seed, 6, 8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    permuted = mine(d[:, order], positive[:, order], negative[:, order], MARGIN)
    back = permuted._replace(positive=order[permuted.positive], negative=order[permuted.negative])
    assert sorted(as_list(back)) == sorted(as_list(mine(d, positive, negative, MARGIN)))


@both
@pytest.mark.parametrize("of", ["no positive", "no negative", "all positive", "neither"])
def test_rows_without_a_triplet_give_zero_loss_and_gradient(mine, of):
    d = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    none, all_ = torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    positive = {"no negative": all_.tril(), "all positive": all_}.get(of, none)
    negative = all_ if of == "no positive" else none
    triplets = mine(d, positive, negative, MARGIN)
    assert as_list(triplets) == []
    loss = losses.triplet_margin(*triplets.distances(d), MARGIN).sum()
    loss.backward()
    assert loss == 0
    assert torch.equal(d.grad, torch.zeros(3, 4))


def test_at_distance_zero_the_hardest_is_mined_and_semi_hard_has_none():
    """A collapsed space, where every distance is equal."""
    d = torch.zeros(2, 3)
    positive = torch.tensor([[True, False, False]]).expand(2, 3)
    assert as_list(miners.hardest(d, positive, ~positive, MARGIN)) == [(0, 0, 1), (1, 0, 1)]
    assert as_list(miners.semi_hard(d, positive, ~positive, MARGIN)) == []


@pytest.mark.parametrize("margin", [0, -1.0, math.nan])
def test_semi_hard_refuses_margins_by_name(margin):
    with pytest.raises(ValueError, match=f"margin = {margin}, allowed > 0"):
        miners.semi_hard(*random_case(0, 2, 3), margin)
