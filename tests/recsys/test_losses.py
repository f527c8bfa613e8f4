"""Losses against naive loops, their gradients against finite differences, their edges, and a peer library.

Without a peer in pytorch-metric-learning 2.9, so against the loops alone: bsl, psl, sl_at_k, uniformity, the
rank of warp and its weight, log_q of sampled_softmax, unit_ball. Its ManifoldLoss is another (Aziere and
Todorovic 2019, with proxies and a random walk); ours is put together there from two losses.
"""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances as peer_distances
from pytorch_metric_learning import losses as peer_losses
from pytorch_metric_learning import reducers as peer_reducers
from pytorch_metric_learning import regularizers as peer_regularizers

from recsys import losses
from recsys.distances import squared_euclidean

MARGIN = 0.7
ALPHA, BETA_POS, BETA_NEG = 0.2, 0.8, 1.1
SEPARATION = 1.5
RANK = 5.0
TEMPERATURE, WEIGHT_NEGATIVE = 0.4, 1.3
BORDER, WEIGHT_TEMPERATURE = 0.9, 0.5
WEIGHT = 3.0
CASES = range(50)


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mean(values):
    return sum(values) / len(values)


# Each loss with the parameters that it is tested at, and the same from its formula, on numbers


def hinge(x):
    return max(0.0, x)


def margin_loss(d_pos, d_neg):
    return losses.margin(d_pos, d_neg, ALPHA, torch.tensor(BETA_POS), torch.tensor(BETA_NEG))


def warp_loss(d_pos, d_neg):
    return losses.warp(d_pos, d_neg, MARGIN, torch.full((len(d_pos),), RANK))


TRIPLET = {
    "contrastive": (
        partial(losses.contrastive, margin=MARGIN),
        lambda p, n: 0.5 * p**2 + 0.5 * hinge(MARGIN - n) ** 2,  # Hadsell et al., Y = 0 and then Y = 1
    ),
    "triplet_margin": (partial(losses.triplet_margin, margin=MARGIN), lambda p, n: hinge(MARGIN + p - n)),
    "triplet_soft_margin": (losses.triplet_soft_margin, lambda p, n: math.log(1 + math.exp(p - n))),
    "bpr": (losses.bpr, lambda p, n: -math.log(1 / (1 + math.exp(-(n - p))))),
    "margin": (margin_loss, lambda p, n: hinge(p - BETA_POS + ALPHA) + hinge(BETA_NEG - n + ALPHA)),
    "manifold": (
        partial(losses.manifold, margin=MARGIN, separation=SEPARATION),
        lambda p, n: p + SEPARATION * hinge(MARGIN + p - n),
    ),
    "warp": (warp_loss, lambda p, n: math.log(1 + RANK) * hinge(MARGIN + p - n)),
}
every_triplet_loss = pytest.mark.parametrize(("loss", "naive"), TRIPLET.values(), ids=TRIPLET)


def naive_softmax(p, n, log_q=None):
    """p and n: lists of (column, distance)."""

    def e(column, d):
        return math.exp(-d / TEMPERATURE - (log_q[column] if log_q else 0))

    return mean([-math.log(e(*one) / (e(*one) + sum(e(*other) for other in n))) for one in p])


def naive_bsl(p, n):
    near, far = (mean([math.exp(-d / TEMPERATURE) for _, d in side]) for side in (p, n))
    return -math.log(near) + WEIGHT_NEGATIVE * math.log(far)


SIGMA = {
    "tanh": lambda x: math.tanh(x) + 1,
    "atan": lambda x: max(0, math.atan(x) + 1),
    "relu": lambda x: max(0, x + 1),
}


def naive_psl(p, n, activation):
    def one(d_p):
        return math.log(1 + sum(SIGMA[activation](d_p - d_n) ** (1 / TEMPERATURE) for _, d_n in n))

    return mean([one(d) for _, d in p])


def sl_at_k(d, positive, negative):
    border = torch.full((len(d),), BORDER, dtype=d.dtype)
    return losses.sl_at_k(d, positive, negative, border, TEMPERATURE, WEIGHT_TEMPERATURE)


def naive_sl_at_k(p, n):
    def weight(d):
        return 1 / (1 + math.exp(-(BORDER - d) / WEIGHT_TEMPERATURE))

    return mean([weight(one[1]) * naive_softmax([one], n) for one in p])


LOG_Q = normal(7, 8)

ROW = {
    "sampled_softmax": (partial(losses.sampled_softmax, temperature=TEMPERATURE), naive_softmax),
    "sampled_softmax_log_q": (
        lambda d, positive, negative: losses.sampled_softmax(
            d, positive, negative, TEMPERATURE, LOG_Q[: d.shape[1]].to(d.dtype)
        ),
        lambda p, n: naive_softmax(p, n, LOG_Q.tolist()),
    ),
    "bsl": (
        partial(losses.bsl, temperature=TEMPERATURE, negative_temperature=WEIGHT_NEGATIVE),
        naive_bsl,
    ),
    **{
        f"psl_{name}": (
            partial(losses.psl, temperature=TEMPERATURE, activation=name),
            partial(naive_psl, activation=name),
        )
        for name in losses.ACTIVATIONS
    },
    "sl_at_k": (sl_at_k, naive_sl_at_k),
    "cosine_contrastive": (
        partial(losses.cosine_contrastive, margin=MARGIN, weight=WEIGHT),
        lambda p, n: mean([d for _, d in p]) + WEIGHT * mean([hinge(MARGIN - d) for _, d in n]),
    ),
    "alignment": (
        lambda d, positive, negative: losses.alignment(d, positive),
        lambda p, n: mean([d for _, d in p]),
    ),
}
every_row_loss = pytest.mark.parametrize(("loss", "naive"), ROW.values(), ids=ROW)


def naive_row(name, naive, d, positive, negative):
    """One row (C,) and its masks -> a number."""
    p = [(c, d[c]) for c in range(len(d)) if positive[c]]
    n = [(c, d[c]) for c in range(len(d)) if negative[c]]
    return naive(p, n) if p and (n or name == "alignment") else 0.0


def matrix(seed, a, c):
    """Distances (a, c) and disjoint masks; a third of the pairs is in neither."""
    kind = torch.randint(3, (a, c), generator=torch.Generator().manual_seed(seed))
    return normal(seed, a, c).square(), kind == 0, kind == 1


# Triplet losses


@every_triplet_loss
def test_triplet_value_and_gradient_equal_the_naive_loop(loss, naive):
    d_pos, d_neg = normal(0, 200).square() + 0.01, normal(1, 200).square() + 0.01  # active or not
    d_pos.requires_grad_(), d_neg.requires_grad_()
    each = loss(d_pos, d_neg)
    each.sum().backward()
    assert (d_neg.grad != 0).any()
    step = 1e-7
    for t in range(200):
        p, n = d_pos[t].item(), d_neg[t].item()
        assert each[t].item() == pytest.approx(naive(p, n), rel=1e-6)  # BETA, RANK are float32
        by_p = (naive(p + step, n) - naive(p - step, n)) / (2 * step)
        by_n = (naive(p, n + step) - naive(p, n - step)) / (2 * step)
        assert d_pos.grad[t].item() == pytest.approx(by_p, rel=1e-5, abs=1e-5)
        assert d_neg.grad[t].item() == pytest.approx(by_n, rel=1e-5, abs=1e-5)


@every_triplet_loss
def test_triplet_gradcheck(loss, naive):
    d_pos, d_neg = normal(0, 20).square() + 0.01, normal(1, 20).square() + 0.01
    torch.autograd.gradcheck(loss, (d_pos.requires_grad_(), d_neg.requires_grad_()))


@every_triplet_loss
def test_no_triplet_is_zero_loss_and_zero_gradient(loss, naive):
    d = torch.ones(3, 4, requires_grad=True)
    nothing = torch.empty(0, dtype=torch.int64)
    each = loss(d[nothing, nothing], d[nothing, nothing])
    each.sum().backward()
    assert each.shape == (0,)
    assert each.sum() == 0
    assert torch.equal(d.grad, torch.zeros(3, 4))


@every_triplet_loss
def test_zero_distance_has_a_finite_gradient(loss, naive):
    d_pos, d_neg = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss(d_pos, d_neg).sum().backward()
    assert torch.isfinite(d_pos.grad).all()
    assert torch.isfinite(d_neg.grad).all()
    rows = torch.full((2, 3), 0.5, requires_grad=True)  # anchor, positive and negative are one point
    d = squared_euclidean(rows, rows)
    loss(d[0, :1], d[0, 1:]).sum().backward()
    assert torch.isfinite(rows.grad).all()


@every_triplet_loss
def test_far_apart_is_finite(loss, naive):
    """exp would overflow: the loss is linear there, and flat on the other side."""
    d_pos, d_neg = torch.tensor([1e4, 0.0], requires_grad=True), torch.tensor([0.0, 1e4], requires_grad=True)
    each = loss(d_pos, d_neg)
    each.sum().backward()
    assert torch.isfinite(torch.stack([each, d_pos.grad, d_neg.grad])).all()
    assert each[0] >= 1e4
    assert each[1] == 0


def test_triplet_losses_by_hand():
    d_pos, d_neg = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([1.0, 1.0, 9.0])
    assert losses.triplet_margin(d_pos, d_neg, 2.0).tolist() == [2, 5, 0]
    assert losses.contrastive(d_pos, d_neg, 2.0).tolist() == [0.5 + 0.5, 8 + 0.5, 0]
    assert losses.manifold(d_pos, d_neg, 2.0, 10.0).tolist() == [21, 54, 0]
    assert losses.manifold(d_pos, d_neg, 2.0, 0).tolist() == [1, 4, 0]
    half = torch.tensor(2.5)
    assert losses.margin(d_pos, d_neg, 0.5, half, half).tolist() == [2, 4, 0]
    rank = torch.tensor([0.0, math.e - 1, 7.0])
    assert losses.warp(d_pos, d_neg, 2.0, rank).tolist() == pytest.approx([0, 5, 0])
    assert losses.bpr(d_pos[:1], d_neg[:1]).item() == pytest.approx(math.log(2))


def test_bpr_is_the_soft_margin():
    """-log sigmoid(s_pos - s_neg) = log(1 + exp(d_pos - d_neg)): one function, two names."""
    d_pos, d_neg = normal(0, 500) * 8, normal(1, 500) * 8
    grads = []
    for loss in (losses.bpr, losses.triplet_soft_margin):
        d = torch.stack([d_pos, d_neg]).requires_grad_()
        value = loss(*d)
        value.sum().backward()
        grads.append((value, d.grad))
    for bpr, soft in zip(*grads, strict=True):
        torch.testing.assert_close(bpr, soft, rtol=1e-9, atol=1e-9)  # softplus is linear from 20 on


def test_beta_is_learned():
    """The gradient of beta counts the active pairs: + for a negative, - for a positive."""
    d_pos, d_neg = torch.tensor([1.0, 0.1, 2.0]), torch.tensor([1.0, 2.0, 0.3])
    beta = torch.tensor(0.9, requires_grad=True)
    losses.margin(d_pos, d_neg, 0.2, beta, beta).sum().backward()
    assert beta.grad.item() == (1 + 0 + 1) - (1 + 0 + 1) + 0
    beta_pos, beta_neg = torch.full((3,), 0.9, requires_grad=True), torch.full((3,), 0.9, requires_grad=True)
    losses.margin(d_pos, d_neg, 0.2, beta_pos, beta_neg).sum().backward()
    assert beta_pos.grad.tolist() == [-1, 0, -1]
    assert beta_neg.grad.tolist() == [1, 0, 1]


# Rank


def test_estimated_rank_equals_the_naive_loop():
    d, d_pos = normal(0, 30, 12).square(), normal(1, 30).square()
    negative = normal(2, 30, 12) > 0
    negative[0] = False
    d_neg = torch.where(negative, d, math.inf)
    ranks = losses.estimated_rank(d_pos, d_neg, MARGIN, 1000)
    assert losses.estimated_rank(d_pos, d_neg, MARGIN, 1000, negative.sum(1)).tolist() == ranks.tolist()
    for a in range(30):
        seen = [c for c in range(12) if negative[a, c]]
        impostors = [c for c in seen if MARGIN + d_pos[a].item() - d[a, c].item() > 0]
        rank = 1000 * len(impostors) / len(seen) if seen else 0
        assert ranks[a].item() == pytest.approx(rank, rel=1e-6)


def test_estimated_rank_by_hand():
    """Of 4 negatives 2 are nearer than .1 + .5: in a catalogue of 100 that is rank 50 (CML, section 3.2)."""
    d = torch.tensor([[0.1, 0.2, 0.5999, 0.61, 9.0, math.inf]], requires_grad=True)
    rank = losses.estimated_rank(d[:, 0], d[:, 1:], 0.5, 100)
    assert rank.tolist() == [50]
    assert not rank.requires_grad
    assert losses.estimated_rank(d[:, 0], d[:, 4:], 0.5, 100).tolist() == [0]
    assert losses.estimated_rank(d[:, 0], d[:, 5:], 0.5, 100).tolist() == [0]
    assert losses.warp(d[:, 0], d[:, 1], 0.5, rank).item() == pytest.approx(math.log(51) * 0.4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_ranks_are_counted_exactly_whatever_the_distances_are_in(dtype):
    """600 impostors of 900: bfloat16 would not count past 256."""
    d = torch.cat([torch.ones(1, 600), torch.full((1, 300), 4.0), torch.full((1, 100), math.inf)], 1)
    assert losses.estimated_rank(torch.ones(1, dtype=dtype), d.to(dtype), 0.5, 900).tolist() == [600]


def test_no_gradient_flows_to_the_rank():
    rank = torch.tensor([3.0], requires_grad=True)
    d = torch.ones(1, requires_grad=True)
    losses.warp(d, d.detach(), MARGIN, rank).sum().backward()
    assert rank.grad is None
    assert d.grad.item() == pytest.approx(math.log(4))


def test_a_catalogue_or_a_top_without_items_is_refused():
    with pytest.raises(ValueError, match="n_items = 0, allowed >= 1"):
        losses.estimated_rank(torch.ones(1), torch.ones(1, 2), MARGIN, 0)
    with pytest.raises(ValueError, match="n_items = 0, allowed >= 1"):
        losses.top_k_border(SQUARE, YES, ~YES, 1, 0)
    with pytest.raises(ValueError, match="k = 0, allowed >= 1"):
        losses.top_k_border(SQUARE, YES, ~YES, 0, 1)


# Row losses


@pytest.mark.parametrize("name", ROW)
def test_row_value_and_gradient_equal_the_naive_loop(name):
    loss, naive = ROW[name]
    d, positive, negative = matrix(0, 20, 8)
    positive[0], negative[0] = True, False
    positive[1], negative[1] = False, True
    positive[2] = negative[2] = False
    d.requires_grad_()
    each = loss(d, positive, negative)
    each.sum().backward()
    assert each.shape == (20,)
    step = 1e-6
    for a in range(20):
        row = d[a].tolist()
        assert each[a].item() == pytest.approx(
            naive_row(name, naive, row, positive[a], negative[a]), rel=1e-9
        )
        for c in range(8):
            up, down = row.copy(), row.copy()
            up[c] += step
            down[c] -= step
            rise = [naive_row(name, naive, moved, positive[a], negative[a]) for moved in (up, down)]
            expected = (rise[0] - rise[1]) / (2 * step)
            assert d.grad[a, c].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
            if not (positive[a, c] or negative[a, c]):
                assert d.grad[a, c] == 0


@every_row_loss
def test_row_gradcheck(loss, naive):
    d, positive, negative = matrix(3, 5, 6)
    torch.autograd.gradcheck(lambda values: loss(values, positive, negative), d.requires_grad_())


@every_row_loss
@pytest.mark.parametrize("masked", [1e30, math.inf, -math.inf, math.nan])
def test_a_masked_pair_is_never_seen(loss, naive, masked):
    """Whatever stands in a pair of neither mask, values and gradients are the same bits."""
    d, positive, negative = matrix(1, 12, 8)
    outcome = []
    for fill in (0.5, masked):
        filled = torch.where(positive | negative, d, fill).float().requires_grad_()
        each = loss(filled, positive, negative)
        each.sum().backward()
        outcome.append((each.detach(), filled.grad))
    assert torch.equal(outcome[0][0], outcome[1][0])
    assert torch.equal(outcome[0][1], outcome[1][1])
    assert (outcome[1][1][~positive & ~negative] == 0).all()


@every_row_loss
@pytest.mark.parametrize("fill", [1.0, math.inf])
@pytest.mark.parametrize("has", ["neither", "negatives only", "positives only"])
def test_a_row_with_nothing_to_compare_is_zero(loss, naive, has, fill):
    """And no NaN on the way back: not even one that a mask would stop."""
    if has == "positives only" and loss is ROW["alignment"][0]:
        has = "neither"  # alignment needs no negatives
    d = torch.full((3, 4), fill, requires_grad=True)
    each = loss(d, torch.full((3, 4), has == "positives only"), torch.full((3, 4), has == "negatives only"))
    with torch.autograd.set_detect_anomaly(True):
        each.sum().backward()
    assert torch.equal(each, torch.zeros(3))
    assert torch.equal(d.grad, torch.zeros(3, 4))


@every_row_loss
def test_without_anchors_or_candidates(loss, naive):
    for a, c in ((0, 4), (3, 0)):
        d = torch.ones(a, c, requires_grad=True)
        each = loss(d, torch.ones(a, c, dtype=torch.bool), torch.zeros(a, c, dtype=torch.bool))
        each.sum().backward()
        assert torch.equal(each, torch.zeros(a))


@every_row_loss
def test_one_anchor_is_its_row_of_many(loss, naive):
    d, positive, negative = matrix(2, 9, 8)
    each = loss(d, positive, negative)
    for a in range(9):
        alone = loss(d[a : a + 1], positive[a : a + 1], negative[a : a + 1])
        torch.testing.assert_close(alone, each[a : a + 1], rtol=1e-12, atol=1e-12)


@every_row_loss
def test_rows_at_one_point_have_finite_gradients(loss, naive):
    rows = torch.full((4, 3), 0.5, requires_grad=True)
    _, positive, negative = matrix(4, 4, 4)
    loss(squared_euclidean(rows, rows), positive, negative).sum().backward()
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize("name", ROW)
def test_distances_far_apart_are_finite(name):
    """A temperature of .4 makes logits of -25,000, whose exp is 0."""
    loss = ROW[name][0]
    d = torch.tensor([[1e4, 0.0, 1e4], [0.0, 1e4, 1e4]], requires_grad=True)
    positive = torch.tensor([[True, False, False]] * 2)
    each = loss(d, positive, ~positive)
    each.sum().backward()
    assert torch.isfinite(each).all()
    assert torch.isfinite(d.grad).all()
    if name.startswith("psl"):
        assert each[0] >= math.log(2) / TEMPERATURE  # it grows no more
    elif name != "sl_at_k":  # which leaves out what is so far outside the top
        assert each[0] >= 1e4
    assert each[1] <= 0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ROW)), st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 8))
def test_the_order_of_candidates_is_of_no_account(name, seed, a, c):
    loss = ROW[name][0] if name != "sampled_softmax_log_q" else None
    d, positive, negative = matrix(seed, a, c)
    log_q = normal(seed + 1, a, c)
    order = torch.randperm(c, generator=torch.Generator().manual_seed(seed))
    outcome = []
    for columns in (torch.arange(c), order):
        moved = d[:, columns].requires_grad_()
        masks = positive[:, columns], negative[:, columns]
        each = (
            loss(moved, *masks)
            if loss
            else losses.sampled_softmax(moved, *masks, TEMPERATURE, log_q[:, columns])
        )
        each.sum().backward()
        outcome.append((each, moved.grad))
    torch.testing.assert_close(outcome[1][0], outcome[0][0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outcome[1][1], outcome[0][1][:, order], rtol=1e-10, atol=1e-10)


def test_row_losses_by_hand():
    d = torch.tensor([[0.5, 1.0, 1.0, 0.0]])
    positive = torch.tensor([[True, False, False, False]])
    negative = torch.tensor([[False, True, True, False]])
    softmax = losses.sampled_softmax(d, positive, negative, 0.5)
    assert softmax.item() == pytest.approx(math.log(1 + 2 * math.exp(-1)))
    assert losses.bsl(d, positive, negative, 0.5, 3.0).item() == pytest.approx(1 - 3 * 2)
    assert losses.alignment(d, positive).item() == 0.5
    # SimpleX at cosine .5 of the positive and 0 of both negatives, m = -.2: 1 - .5 + 10 (0 + .2)
    assert losses.cosine_contrastive(d, positive, negative, 1.2, 10).item() == pytest.approx(2.5)
    # columns 1 and 2 were drawn e times as often: each then counts 1 / e
    log_q = torch.tensor([0.0, 1.0, 1.0, 9.0])
    corrected = losses.sampled_softmax(d, positive, negative, 0.5, log_q).item()
    assert corrected == pytest.approx(math.log(1 + 2 * math.exp(-2)))


def test_psl_by_hand():
    """One positive at .5, negatives at .5 and 1.5: sigma(0) = 1, sigma(-1) = 1 - tanh 1, 1 - pi / 4 or 0."""
    d, positive = torch.tensor([[0.5, 0.5, 1.5, 0.0]]), torch.tensor([[True, False, False, False]])
    negative = torch.tensor([[False, True, True, False]])
    for activation, far in (("tanh", 1 - math.tanh(1)), ("atan", 1 - math.pi / 4), ("relu", 0)):
        value = losses.psl(d, positive, negative, 0.5, activation)
        assert value.item() == pytest.approx(math.log(1 + 1 + far**2))


@pytest.mark.parametrize("activation", losses.ACTIVATIONS)
def test_psl_of_small_distances_is_the_softmax(activation):
    """sigma(x) and exp x both start as 1 + x."""
    d, positive, negative = matrix(8, 12, 8)
    softmax = losses.sampled_softmax(d, positive, negative, TEMPERATURE)
    small = losses.psl(1e-6 * d, positive, negative, 1e-6 * TEMPERATURE, activation)
    torch.testing.assert_close(small, softmax, rtol=1e-4, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(losses.ACTIVATIONS))
def test_sigma_lies_between_a_step_and_exp(seed, activation):
    """Yang et al. 2024: what makes the loss a bound of DCG, for x in -1..1."""
    x = 2 * torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1
    sigma = losses.log_activation(x, activation).exp()
    assert (sigma >= (x >= 0).double() - 1e-12).all()
    assert (sigma <= x.exp() + 1e-12).all()


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation = 'exp', allowed: tanh, atan, relu"):
        losses.psl(SQUARE, YES, ~YES, 1.0, "exp")


def test_sl_at_k_by_hand():
    """At the border a positive counts half."""
    d, positive = torch.tensor([[0.5, 1.0, 1.0, 0.0]]), torch.tensor([[True, False, False, False]])
    negative = torch.tensor([[False, True, True, False]])
    softmax = math.log(1 + 2 * math.exp(-1))
    for border, weight in ((0.5, 0.5), (0.7, 1 / (1 + math.exp(-1))), (0.3, 1 / (1 + math.exp(1)))):
        value = losses.sl_at_k(d, positive, negative, torch.tensor([border]), 0.5, 0.2)
        assert value.item() == pytest.approx(weight * softmax)


def test_no_gradient_flows_to_the_border():
    d, positive, negative = matrix(9, 5, 8)
    border = torch.ones(5, dtype=torch.float64, requires_grad=True)
    losses.sl_at_k(d.requires_grad_(), positive, negative, border, 1.0, 1.0).sum().backward()
    assert border.grad is None
    assert not losses.top_k_border(d, positive, negative, 3, 100).requires_grad


def naive_border(p, n, k, n_items):
    """p and n: lists of (column, distance)."""
    count = max(1, (n_items - len(p)) / len(n)) if n else 0
    nearest = sorted([(d, 1) for _, d in p] + [(d, count) for _, d in n])
    reached = 0
    for d, one in nearest:
        reached += one
        if reached >= k:
            return d
    return nearest[-1][0] if nearest else 0.0


@pytest.mark.parametrize(("k", "n_items"), [(1, 30), (3, 30), (7, 30), (20, 30), (3, 4), (50, 30)])
def test_top_k_border_equals_the_naive_loop(k, n_items):
    d, positive, negative = matrix(10, 20, 8)
    positive[0] = negative[0] = positive[1] = negative[2] = False
    border = losses.top_k_border(d, positive, negative, k, n_items)
    for a in range(20):
        p, n = ([(c, d[a, c].item()) for c in range(8) if mask[a, c]] for mask in (positive, negative))
        assert border[a].item() == naive_border(p, n, k, n_items)


def test_top_k_border_by_hand():
    """Of 11 items 1 is liked and 2 are a sample of the other 10, each for 5."""
    d = torch.tensor([[0.1, 0.2, 0.3, 0.0]])
    positive = torch.tensor([[True, False, False, False]])
    negative = torch.tensor([[False, True, True, False]])
    borders = [losses.top_k_border(d, positive, negative, k, 11).item() for k in (1, 2, 6, 7, 11, 12)]
    assert borders == pytest.approx([0.1, 0.2, 0.2, 0.3, 0.3, 0.3])


def test_top_k_border_without_anchors_or_candidates():
    for a, c in ((0, 4), (3, 0)):
        mask = torch.ones(a, c, dtype=torch.bool)
        assert torch.equal(losses.top_k_border(torch.ones(a, c), mask, ~mask, 2, 5), torch.zeros(a))


def test_a_constant_in_log_q_cancels():
    d, positive, negative = matrix(5, 6, 8)
    log_q = normal(6, 6, 8)
    values = [losses.sampled_softmax(d, positive, negative, TEMPERATURE, log_q + shift) for shift in (0, 4)]
    torch.testing.assert_close(*values)


def test_bsl_with_one_weight_is_the_softmax_without_its_positive():
    """t_neg = 1, one positive: log(sum over n of e^l_n / N) - l_p; adding e^l_p inside gives the softmax."""
    d, positive = normal(0, 6, 5).square(), torch.zeros(6, 5, dtype=torch.bool)
    positive[:, 0] = True
    value = losses.bsl(d, positive, ~positive, TEMPERATURE, 1.0)
    softmax = losses.sampled_softmax(d, positive, ~positive, TEMPERATURE)
    torch.testing.assert_close(torch.log1p(4 * value.exp()), softmax)


def learned_scores(sign):
    """(G, I) scores from negatives drawn in proportion to popularity with log_q = sign * log q; (G, I) truth.

    Two groups of users share a skewed catalogue, and what each takes is known.
    """
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.multinomial, replacement=True, generator=generator)
    groups, items, batch, sampled, steps = 2, 12, 64, 48, 100
    skew = -1.5 * torch.arange(1.0, items + 1).log()  # (I,)
    truth = (skew + 0.7 * torch.randn(groups, items, generator=generator)).softmax(1)  # (G, I)
    q = truth.mean(0)  # (I,): both groups are equally large
    own = draw(truth, steps * batch // groups).reshape(groups, steps, -1)  # (G, steps, A / G)
    shared = draw(q, steps * sampled).reshape(steps, sampled)  # (steps, C - 1)
    positive = torch.zeros(batch, 1 + sampled, dtype=torch.bool)  # (A, C)
    positive[:, 0] = True
    d, last_half = torch.zeros(groups, items, requires_grad=True), []  # (G, I)
    for step in range(steps):
        # a draw of the positive itself stays among the negatives: the estimate is of the full softmax then
        columns = torch.cat([own[:, step].reshape(-1, 1), shared[step].expand(batch, -1)], 1)  # (A, C)
        log_q = sign * q.log()[columns]  # (A, C)
        loss = losses.sampled_softmax(
            d.repeat_interleave(batch // groups, 0).gather(1, columns), positive, ~positive, 1.0, log_q
        )
        (gradient,) = torch.autograd.grad(loss.mean(), d)
        d = (d - 4 * gradient).detach().requires_grad_()
        last_half += [-d.detach()] if step >= steps // 2 else []
    return torch.stack(last_half).mean(0), truth


def divergence(scores, truth):
    """Nats by which the softmax of the scores misses the truth, mean over groups."""
    return (truth * (truth.log() - scores.log_softmax(1))).sum(1).mean().item()


def test_the_sign_of_log_q():
    """Only + log q recovers the full softmax; 0 learns taste over popularity, - log q ranks upside down."""
    right, none, wrong = (learned_scores(sign) for sign in (1, 0, -1))
    assert divergence(*right) < 0.02
    assert divergence(*none) > 0.3
    assert divergence(*wrong) > 1
    best = right[1].argmax(1)  # (G,)
    assert torch.equal(right[0].argmax(1), best)
    assert not (wrong[0].argmax(1) == best).any()


# Half precision


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.04), (torch.float16, 0.005)])
@pytest.mark.parametrize("name", [*TRIPLET, *ROW])
def test_half_precision_follows_double(name, dtype, tolerance):
    """Eight and eleven bits: about ten units in the last place of values up to 1, of logits up to 5."""
    if name in TRIPLET:
        inputs, masks, loss = (normal(0, 64).abs(), normal(1, 64).abs()), (), TRIPLET[name][0]
    else:
        d, *masks = matrix(0, 16, 8)
        inputs, loss = (d.sqrt(),), ROW[name][0]
    low = [x.to(dtype).requires_grad_() for x in inputs]
    high = [
        x.detach().double().requires_grad_() for x in low
    ]  # the same numbers: inputs are not rounded twice
    values = loss(*low, *masks), loss(*high, *masks)
    assert values[0].dtype == dtype
    for value in values:
        value.sum().backward()
    torch.testing.assert_close(values[0].double(), values[1], rtol=tolerance, atol=2 * tolerance)
    for mine, true in zip(low, high, strict=True):
        # a pair at a hinge's corner may fall on its other side: there are none such here
        torch.testing.assert_close(mine.grad.double(), true.grad, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.04), (torch.float16, 0.005)])
@pytest.mark.parametrize(
    "regularizer",
    [losses.uniformity, losses.covariance, losses.l2, lambda rows: losses.unit_ball(rows).sum()],
)
def test_regularizers_in_half_precision(regularizer, dtype, tolerance):
    low = (normal(0, 400, 8) / 2).to(dtype).requires_grad_()  # 79,800 pairs: more than float16 can count
    high = low.detach().double().requires_grad_()
    values = regularizer(low), regularizer(high)
    assert values[0].dtype == dtype
    for value in values:
        value.backward()
    torch.testing.assert_close(values[0].double(), values[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(low.grad.double(), high.grad, rtol=tolerance, atol=2 * tolerance)


# Refusals

ONES, YES = torch.ones(2), torch.ones(2, 2, dtype=torch.bool)
SQUARE = torch.ones(2, 2)
ABOVE_ZERO = {
    ("contrastive", "margin"): lambda x: losses.contrastive(ONES, ONES, x),
    ("triplet_margin", "margin"): lambda x: losses.triplet_margin(ONES, ONES, x),
    ("manifold", "margin"): lambda x: losses.manifold(ONES, ONES, x, 1.0),
    ("warp", "margin"): lambda x: losses.warp(ONES, ONES, x, ONES),
    ("estimated_rank", "margin"): lambda x: losses.estimated_rank(ONES, SQUARE, x, 5),
    ("sampled_softmax", "temperature"): lambda x: losses.sampled_softmax(SQUARE, YES, ~YES, x),
    ("bsl", "temperature"): lambda x: losses.bsl(SQUARE, YES, ~YES, x, 1.0),
    ("bsl", "negative_temperature"): lambda x: losses.bsl(SQUARE, YES, ~YES, 1.0, x),
    ("cosine_contrastive", "margin"): lambda x: losses.cosine_contrastive(SQUARE, YES, ~YES, x, 1.0),
    ("psl", "temperature"): lambda x: losses.psl(SQUARE, YES, ~YES, x),
    ("sl_at_k", "temperature"): lambda x: losses.sl_at_k(SQUARE, YES, ~YES, ONES, x, 1.0),
    ("sl_at_k", "weight_temperature"): lambda x: losses.sl_at_k(SQUARE, YES, ~YES, ONES, 1.0, x),
    ("uniformity", "t"): lambda x: losses.uniformity(SQUARE, x),
}
FROM_ZERO = {
    ("margin", "alpha"): lambda x: losses.margin(ONES, ONES, x, ONES, ONES),
    ("manifold", "separation"): lambda x: losses.manifold(ONES, ONES, 1.0, x),
    ("cosine_contrastive", "weight"): lambda x: losses.cosine_contrastive(SQUARE, YES, ~YES, 1.0, x),
}


@pytest.mark.parametrize(("name", "call"), [(key[1], call) for key, call in ABOVE_ZERO.items()])
@settings(max_examples=20, deadline=None)
@given(st.floats(max_value=0) | st.sampled_from([math.nan, math.inf, -math.inf]))
def test_parameters_above_zero_are_refused_by_name(name, call, value):
    with pytest.raises(ValueError, match=rf"^{name} = {value}, allowed > 0 and finite$".replace("+", r"\+")):
        call(value)


@pytest.mark.parametrize(("name", "call"), [(key[1], call) for key, call in FROM_ZERO.items()])
@settings(max_examples=20, deadline=None)
@given(st.floats(max_value=0, exclude_max=True) | st.sampled_from([math.nan, math.inf, -math.inf]))
def test_parameters_from_zero_are_refused_by_name(name, call, value):
    call(0.0)
    with pytest.raises(ValueError, match=rf"^{name} = {value}, allowed >= 0 and finite$".replace("+", r"\+")):
        call(value)


@pytest.mark.parametrize(
    ("regularizer", "least"), [(losses.covariance, 2), (losses.uniformity, 2), (losses.l2, 1)]
)
def test_too_few_rows_are_refused(regularizer, least):
    with pytest.raises(ValueError, match=rf"needs at least {least} rows?, got {least - 1}"):
        regularizer(torch.ones(least - 1, 3))


# Regularizers


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


def test_uniformity_equals_the_naive_loop():
    rows = normal(0, 9, 4) * 3
    unit = [[x / math.hypot(*row) for x in row] for row in rows.tolist()]
    terms = [math.exp(-1.5 * math.dist(unit[i], unit[j]) ** 2) for i in range(9) for j in range(i + 1, 9)]
    assert losses.uniformity(rows, 1.5).item() == pytest.approx(math.log(mean(terms)), rel=1e-12)
    torch.autograd.gradcheck(losses.uniformity, rows.requires_grad_())


def test_uniformity_by_hand():
    """Opposite rows are 2 apart, 4 squared; rows at one point have the largest value, 0."""
    assert losses.uniformity(torch.tensor([[3.0, 0.0], [-0.5, 0.0]])).item() == pytest.approx(-8)
    together = torch.full((4, 3), 0.2, requires_grad=True)
    value = losses.uniformity(together)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert together.grad.abs().max() < 1e-5
    zero = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = losses.uniformity(zero)
    value.backward()
    assert value.item() == pytest.approx(-2)
    assert torch.isfinite(zero.grad).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 7), st.integers(1, 5), st.floats(0.1, 50))
def test_uniformity_is_within_its_bounds_whatever_the_lengths(seed, n, dim, t):
    rows, lengths = normal(seed, n, dim), normal(seed + 1, n, 1).exp()
    value = losses.uniformity(rows, t)
    assert -4 * t - 1e-9 <= value <= 1e-9
    torch.testing.assert_close(losses.uniformity(rows * lengths, t), value, rtol=1e-9, atol=1e-9)


def test_l2_equals_the_naive_loop():
    rows = normal(0, 9, 4)
    expected = mean([sum(x**2 for x in row) / 2 for row in rows.tolist()])
    assert losses.l2(rows).item() == pytest.approx(expected, rel=1e-12)
    torch.autograd.gradcheck(losses.l2, rows.requires_grad_())


def test_unit_ball_by_hand():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [0.0, -1.0]], requires_grad=True)
    pulled = losses.unit_ball(rows)
    torch.testing.assert_close(pulled, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0], [0.0, -1.0]]))
    assert torch.equal(pulled[1:], rows[1:])  # inside, the same bits
    pulled.sum().backward()
    assert torch.isfinite(rows.grad).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(1, 5), st.sampled_from([1e-20, 0.4, 1.0, 1e6]))
def test_unit_ball_is_the_nearest_point_of_the_ball(seed, n, dim, scale):
    rows = normal(seed, n, dim).float() * scale
    pulled = losses.unit_ball(rows)
    lengths = rows.norm(dim=1)
    torch.testing.assert_close(pulled.norm(dim=1), lengths.clamp_max(1))
    torch.testing.assert_close(pulled * lengths.clamp_min(1)[:, None], rows)
    torch.testing.assert_close(losses.unit_ball(pulled), pulled)


def test_unit_ball_gradcheck():
    """Rows inside and outside; at length 1 there is a corner."""
    directions = torch.nn.functional.normalize(normal(0, 6, 4))  # (N, D)
    rows = directions * torch.tensor([[0.2], [0.7], [0.95], [1.05], [1.5], [40.0]], dtype=torch.float64)
    torch.autograd.gradcheck(losses.unit_ball, rows.requires_grad_())
    (gradient,) = torch.autograd.grad(losses.unit_ball(rows), rows, directions)  # along each row
    outside = torch.tensor([False] * 3 + [True] * 3)
    torch.testing.assert_close(gradient[outside], torch.zeros(3, 4).double())
    assert torch.equal(gradient[~outside], directions[~outside])


# Against pytorch-metric-learning. Each loss there owns its distance and default reducer; here the distances
# are the peer's, so that the losses alone differ, and its reducer is a mean (its own, AvgNonZero, leaves out
# triplets at 0) or none.


def peer_case(seed):
    """Embeddings (7, 4) and (9, 4), and 20 triplets of their pairs."""
    generator = torch.Generator().manual_seed(seed)
    anchors, candidates = normal(seed, 7, 4).requires_grad_(), normal(seed + 1, 9, 4).requires_grad_()
    triplets = tuple(torch.randint(high, (20,), generator=generator) for high in (7, 9, 9))
    return anchors, candidates, triplets


def distances_of(d, triplets):
    anchor, positive, negative = triplets
    return d[anchor, positive], d[anchor, negative]


def assert_equal_with_gradients(mine, peer, inputs):
    torch.testing.assert_close(mine, peer, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad(mine, inputs, retain_graph=True),
        torch.autograd.grad(peer, inputs, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("seed", CASES)
def test_triplet_losses_equal_the_peer(seed, power):
    anchors, candidates, triplets = peer_case(seed)
    distance = peer_distances.LpDistance(normalize_embeddings=seed % 2 == 0, power=power)
    pairs = distances_of(distance(anchors, candidates), triplets)
    settings = {"distance": distance, "reducer": peer_reducers.MeanReducer()}
    plain = peer_losses.TripletMarginLoss(margin=MARGIN, **settings)
    # its smooth loss adds the margin inside the softplus, .05 unless told; Hermans et al. have none
    smooth = peer_losses.TripletMarginLoss(margin=0, smooth_loss=True, **settings)
    for mine, peer in (
        (losses.triplet_margin(*pairs, MARGIN), plain),
        (losses.triplet_soft_margin(*pairs), smooth),
        (losses.bpr(*pairs), smooth),
        (losses.warp(*pairs, MARGIN, torch.full((20,), math.e - 1)), plain),  # log(1 + rank) = 1
    ):
        theirs = peer(anchors, indices_tuple=triplets, ref_emb=candidates)
        assert_equal_with_gradients(mine.mean(), theirs, (anchors, candidates))


@pytest.mark.parametrize("seed", CASES)
def test_contrastive_equals_the_peer(seed):
    """Its pairs cost d and [m - d]+; Hadsell et al. square each, and halve the sum."""
    anchors, candidates, triplets = peer_case(seed)
    distance = peer_distances.LpDistance(normalize_embeddings=False)
    peer = peer_losses.ContrastiveLoss(
        pos_margin=0, neg_margin=3.0, distance=distance, reducer=peer_reducers.DoNothingReducer()
    )
    parts = peer(anchors, indices_tuple=triplets, ref_emb=candidates)
    theirs = 0.5 * parts["pos_loss"]["losses"].square() + 0.5 * parts["neg_loss"]["losses"].square()
    mine = losses.contrastive(*distances_of(distance(anchors, candidates), triplets), 3.0)
    assert_equal_with_gradients(mine.mean(), theirs.mean(), (anchors, candidates))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("seed", CASES)
def test_manifold_equals_the_sum_of_two_peers(seed, power):
    """f is its contrastive loss without negatives, g its triplet loss."""
    anchors, candidates, triplets = peer_case(seed)
    distance = peer_distances.LpDistance(power=power)
    settings = {"distance": distance, "reducer": peer_reducers.MeanReducer()}
    pull = peer_losses.ContrastiveLoss(pos_margin=0, neg_margin=0, **settings)
    push = peer_losses.TripletMarginLoss(margin=MARGIN, **settings)
    f, g = (loss(anchors, indices_tuple=triplets, ref_emb=candidates) for loss in (pull, push))
    mine = losses.manifold(*distances_of(distance(anchors, candidates), triplets), MARGIN, SEPARATION)
    assert_equal_with_gradients(mine.mean(), f + SEPARATION * g, (anchors, candidates))


@pytest.mark.parametrize("seed", CASES)
def test_cosine_contrastive_and_alignment_equal_the_peer(seed):
    """Its contrastive loss of a cosine: [1 - s]+ and [s - (1 - m)]+, each row's pairs averaged by hand."""
    anchors, candidates, _ = peer_case(seed)
    _, positive, negative = matrix(seed, 7, 9)
    positive[:, 0], negative[:, 0], positive[:, 1], negative[:, 1] = True, False, False, True
    distance = peer_distances.CosineSimilarity()
    peer = peer_losses.ContrastiveLoss(
        pos_margin=1, neg_margin=1 - MARGIN, distance=distance, reducer=peer_reducers.DoNothingReducer()
    )
    pairs = (*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True))
    parts = peer(anchors, indices_tuple=pairs, ref_emb=candidates)
    pull = (parts["pos_loss"]["losses"] / positive.sum(1)[pairs[0]]).sum() / 7
    push = (parts["neg_loss"]["losses"] / negative.sum(1)[pairs[2]]).sum() / 7
    d = 1 - distance(anchors, candidates)
    mine = losses.cosine_contrastive(d, positive, negative, MARGIN, WEIGHT)
    assert_equal_with_gradients(mine.mean(), pull + WEIGHT * push, (anchors, candidates))
    assert_equal_with_gradients(losses.alignment(d, positive).mean(), pull, (anchors, candidates))


@pytest.mark.parametrize("seed", CASES)
def test_margin_equals_the_peer(seed):
    anchors, candidates, triplets = peer_case(seed)
    distance = peer_distances.LpDistance()
    peer = peer_losses.MarginLoss(
        margin=0.2, nu=0, beta=1.2, learn_beta=True, distance=distance, reducer=peer_reducers.MeanReducer()
    )
    beta = torch.tensor(1.2, requires_grad=True)
    mine = losses.margin(*distances_of(distance(anchors, candidates), triplets), 0.2, beta, beta).mean()
    theirs = peer(anchors, indices_tuple=triplets, ref_emb=candidates)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)  # both betas are float32
    mine_by = torch.autograd.grad(mine, (anchors, candidates, beta))
    theirs_by = torch.autograd.grad(theirs, (anchors, candidates, peer.beta))
    for ours, other in zip(mine_by, theirs_by, strict=True):
        torch.testing.assert_close(ours, other.reshape(ours.shape), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("seed", CASES)
def test_sampled_softmax_equals_the_peer(seed, cosine):
    """NT-Xent's cosine is a score, ours the distance 1 - cosine: the 1 cancels.

    It averages over all pairs, we over a row's own pairs first: its single pairs are averaged by hand here.
    """
    anchors, candidates, _ = peer_case(seed)
    _, positive, negative = matrix(seed, 7, 9)
    positive[:, 0], negative[:, 0], positive[:, 1], negative[:, 1] = True, False, False, True
    distance = peer_distances.CosineSimilarity() if cosine else peer_distances.LpDistance(power=2)
    peer = peer_losses.NTXentLoss(0.3, distance=distance, reducer=peer_reducers.DoNothingReducer())
    pairs = (*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True))
    each = peer(anchors, indices_tuple=pairs, ref_emb=candidates)["loss"]["losses"]
    theirs = (each / positive.sum(1)[pairs[0]]).sum() / 7
    between = distance(anchors, candidates)
    d = 1 - between if cosine else between
    mine = losses.sampled_softmax(d, positive, negative, 0.3).mean()
    assert_equal_with_gradients(mine, theirs, (anchors, candidates))


@pytest.mark.parametrize("seed", CASES)
def test_regularizers_equal_the_peer(seed):
    rows = normal(seed, 9, 4).requires_grad_()
    length = peer_regularizers.LpRegularizer(power=2, reducer=peer_reducers.MeanReducer())
    assert_equal_with_gradients(losses.l2(rows), length(rows) / 2, (rows,))  # we halve: the gradient is x / N
    # VICReg divides the covariance by N - 1 and its sum of squares by D, CML by N and N, and sums two views
    theirs = peer_losses.VICRegLoss().covariance_loss(rows, rows) / 2 * 4 * (8 / 9) ** 2 / 9
    assert_equal_with_gradients(losses.covariance(rows), theirs, (rows,))
