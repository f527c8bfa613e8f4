"""Losses of whole histories against naive loops, gradients against finite differences, and their edges."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import history_losses, losses, psl

INF = math.inf
MARGIN, N_ITEMS = 0.25, 1000
TEMPERATURE, BORDER, WEIGHT_TEMPERATURE = 0.4, 0.9, 0.5
WIDTH = 0.8  # the margin of psl
NODES = psl.NODES


@pytest.fixture(autouse=True, scope="module")
def _fine_nodes():
    """psl from so many nodes equals its formula to about 1e-4; what it is from its own is tested apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psl, "NODES", 2**14)
        yield


def mean(values):
    return sum(values) / len(values)


def batch(seed, b, c, h):
    """(h,) float64 distances, (h,) rows and (b, c) distances, a tenth inf.

    All are 1/64 apart and own items between candidates, so that no border is rounded past one.
    """
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(b, (h,), generator=generator).sort().values
    d_own = torch.randint(1, 128, (h,), generator=generator) / 64
    d = (torch.randint(1, 128, (b, c), generator=generator) + 0.5) / 64
    d[torch.rand(b, c, generator=generator) < 0.1] = INF
    return d_own.double(), row, d.double()


def weights(seed, c):
    return torch.rand(c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1


# Each loss with the parameters that it is tested at, and from its formula: an own distance, the row's
# candidates (number, distance) that may be pushed away, the own distances of the row, how many candidates


def naive_rank_hinge(p, candidates, own, c, weight=None):
    w = weight or [1.0] * c
    impostors = [(w[i], p + MARGIN - d) for i, d in candidates if d < p + MARGIN]
    n = sum(one for one, _ in impostors)
    rank = N_ITEMS * n / sum(w)
    return math.log(1 + rank) * sum(one * gap for one, gap in impostors) / n if impostors else 0.0


WEIGHT = weights(5, 12)
LOG_Q = weights(6, 12).log()
SIGMA = {
    "tanh": lambda x: math.tanh(x) + 1,
    "atan": lambda x: max(0, math.atan(x) + 1),
    "relu": lambda x: max(0, x + 1),
}


def naive_psl(p, candidates, own, c, activation):
    sigma = [SIGMA[activation]((p - d) / WIDTH) ** (WIDTH / TEMPERATURE) for _, d in candidates]
    q = [LOG_Q[i].exp().item() for i, _ in candidates]
    return math.log(1 + sum(one / often for one, often in zip(sigma, q, strict=True)))


def naive_softmax(p, candidates, own, c):
    return math.log(1 + sum(math.exp((p - d) / TEMPERATURE) / LOG_Q[i].exp().item() for i, d in candidates))


def naive_sl_at_k(p, candidates, own, c):
    return naive_softmax(p, candidates, own, c) / (1 + math.exp(-(BORDER - p) / WEIGHT_TEMPERATURE))


# `columns` are the numbers of d's candidates: what belongs to a candidate goes where it goes


def rank_hinge(d_own, row, d, columns=None):
    return history_losses.rank_hinge(d_own, row, d, MARGIN, N_ITEMS)


def of_candidates(values, d, columns):
    return values[torch.arange(d.shape[1]) if columns is None else columns].to(d.dtype)


def rank_hinge_weight(d_own, row, d, columns=None):
    return history_losses.rank_hinge(d_own, row, d, MARGIN, N_ITEMS, of_candidates(WEIGHT, d, columns))


def of_psl(d_own, row, d, columns=None, *, activation):
    log_q = of_candidates(LOG_Q, d, columns)
    return psl.psl(d_own, row, d, log_q, TEMPERATURE, activation, WIDTH)


def softmax(d_own, row, d, columns=None):
    return history_losses.softmax(d_own, row, d, of_candidates(LOG_Q, d, columns), TEMPERATURE)


def sl_at_k(d_own, row, d, columns=None):
    """At a fixed border: no gradient flows to it, so that finite differences may not move it either."""
    border, log_q = torch.full((len(d),), BORDER, dtype=d.dtype), of_candidates(LOG_Q, d, columns)
    temperatures = {"temperature": TEMPERATURE, "weight_temperature": WEIGHT_TEMPERATURE}
    return history_losses.sl_at_k(d_own, row, d, log_q, border, **temperatures)


NAIVE_PSL = {name: partial(naive_psl, activation=name) for name in losses.ACTIVATIONS}
PSL = tuple(NAIVE_PSL.values())
LOSSES = {
    "rank_hinge": (rank_hinge, naive_rank_hinge),
    "rank_hinge_weight": (rank_hinge_weight, partial(naive_rank_hinge, weight=WEIGHT.tolist())),
    **{f"psl_{name}": (partial(of_psl, activation=name), naive) for name, naive in NAIVE_PSL.items()},
    "softmax": (softmax, naive_softmax),
    "sl_at_k": (sl_at_k, naive_sl_at_k),
}
every_loss = pytest.mark.parametrize(("loss", "naive"), LOSSES.values(), ids=LOSSES)


def naive_losses(naive, d_own, row, d):
    own, rows = d_own.tolist(), row.tolist()
    candidates = [[(i, x) for i, x in enumerate(one) if x < INF] for one in d.tolist()]
    of_row = [[p for p, r in zip(own, rows, strict=True) if r == b] for b in range(len(d))]
    return [naive(p, candidates[r], of_row[r], d.shape[1]) for p, r in zip(own, rows, strict=True)]


def gradients(loss, d_own, row, d, upstream=None):
    d_own, d = d_own.detach().clone().requires_grad_(), d.detach().clone().requires_grad_()
    each = loss(d_own, row, d)
    each.backward(torch.ones_like(each) if upstream is None else upstream)
    return each.detach(), d_own.grad, d.grad


@every_loss
def test_value_equals_the_naive_loop(loss, naive):
    d_own, row, d = batch(0, 9, 12, 40)
    d[0] = INF
    assert 0 in row
    each = loss(d_own, row, d)
    assert each.shape == (40,)
    assert (each > 0).any()
    assert each.tolist() == pytest.approx(naive_losses(naive, d_own, row, d), rel=1e-7, abs=1e-12)


@every_loss
def test_gradient_equals_the_naive_loops_differences(loss, naive):
    d_own, row, d = batch(1, 5, 12, 12)
    upstream = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    _, by_own, by_d = gradients(loss, d_own, row, d, upstream)
    assert (by_d != 0).any()
    step = 1e-6

    def rise(moved, place):
        """Of the weighted sum, by one distance."""
        values = []
        for sign in (1, -1):
            inputs = [d_own.clone(), d.clone()]
            inputs[moved].view(-1)[place] += sign * step
            each = naive_losses(naive, inputs[0], row, inputs[1])
            values.append(sum(u * one for u, one in zip(upstream.tolist(), each, strict=True)))
        return (values[0] - values[1]) / (2 * step)

    for h in range(12):
        assert by_own[h].item() == pytest.approx(rise(0, h), rel=1e-4, abs=1e-4)
    for place in range(d.numel()):
        expected = rise(1, place) if d.view(-1)[place] < INF else 0
        assert by_d.view(-1)[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@every_loss
def test_gradcheck(loss, naive):
    d_own, row, d = batch(3, 4, 6, 7)
    d[d == INF] = 5  # finite differences of inf are NaN
    # the nodes and places of psl move with the farthest distances, and what lies between is a little off
    atol = 1e-4 if naive in PSL else 1e-5
    torch.autograd.gradcheck(
        lambda own, far: loss(own, row, far), (d_own.requires_grad_(), d.requires_grad_()), atol=atol
    )


@every_loss
def test_what_is_inf_has_gradient_zero(loss, naive):
    d_own, row, d = batch(4, 20, 12, 60)
    each, by_own, by_d = gradients(loss, d_own.float(), row, d.float())
    assert all(torch.isfinite(x).all() for x in (each, by_own, by_d))
    assert (by_d[d == INF] == 0).all()


@every_loss
def test_a_user_without_negatives_is_zero(loss, naive):
    d_own, row = torch.ones(3, requires_grad=True), torch.tensor([0, 0, 1])
    d = torch.full((2, 4), INF, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        each = loss(d_own, row, d)
        each.sum().backward()
    assert torch.equal(each, torch.zeros(3))
    assert torch.equal(d_own.grad, torch.zeros(3))
    assert torch.equal(d.grad, torch.zeros(2, 4))


@every_loss
@pytest.mark.parametrize(("b", "c", "h"), [(3, 4, 0), (2, 0, 2), (0, 4, 0)])
def test_without_users_candidates_or_own_items(loss, naive, b, c, h):
    each, by_own, by_d = gradients(loss, torch.ones(h), torch.arange(h), torch.ones(b, c))
    assert torch.equal(each, torch.zeros(h))
    assert torch.equal(by_own, torch.zeros(h))
    assert torch.equal(by_d, torch.zeros(b, c))


@every_loss
def test_a_user_without_own_items_changes_nothing(loss, naive):
    d_own, row, d = batch(5, 6, 12, 20)
    alone = gradients(loss, d_own, row, d)
    between = torch.cat([d[:3], d[:1], d[3:]])
    more = gradients(loss, d_own, row + (row >= 3), between)
    expected = *alone[:2], torch.cat([alone[2][:3], torch.zeros_like(d[:1]), alone[2][3:]])
    for mine, true in zip(more, expected, strict=True):
        # a product of more rows may add up in another order
        torch.testing.assert_close(mine, true, rtol=1e-9 if naive in PSL else 0, atol=0)


@every_loss
def test_all_at_one_distance_is_finite(loss, naive):
    for x in (0.0, 1.0, 1e6):
        each, by_own, by_d = gradients(
            loss, torch.full((5,), x), torch.zeros(5).long(), torch.full((1, 7), x)
        )
        assert torch.isfinite(each).all()
        assert torch.isfinite(by_own).all()
        assert torch.isfinite(by_d).all()
        assert (each > 0).all() or loss is sl_at_k  # to which 1e6 is far outside the top


@every_loss
def test_the_same_bits_each_time_and_in_any_blocks(loss, naive, monkeypatch):
    generator = torch.Generator().manual_seed(6)
    d_own, d = 2 * torch.rand(600, generator=generator), 2 * torch.rand(40, 12, generator=generator)
    row = torch.randint(40, (600,), generator=generator).sort().values
    first = gradients(loss, d_own, row, d)
    again = gradients(loss, d_own, row, d)
    monkeypatch.setattr(history_losses, "BLOCK", 60)  # five rows
    in_blocks = gradients(loss, d_own, row, d)
    for one, two, three in zip(first, again, in_blocks, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@every_loss
def test_the_order_of_candidates_is_of_no_account(loss, naive):
    d_own, row, d = batch(7, 6, 12, 30)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(8))
    here = gradients(loss, d_own, row, d)
    there = gradients(partial(loss, columns=order), d_own, row, d[:, order])
    torch.testing.assert_close(there[0], here[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(there[1], here[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(there[2], here[2][:, order], rtol=1e-10, atol=1e-10)


@every_loss
@pytest.mark.parametrize("place", ["own", "candidate"])
def test_what_is_not_a_number_is_not_hidden(loss, naive, place):
    d_own, row, d = batch(9, 3, 12, 9)
    d_own[row == 1], d[1, 4] = (math.nan, d[1, 4]) if place == "own" else (1.9, math.nan)
    each = loss(d_own, row, d)
    assert each[row == 1].isnan().all()
    assert torch.isfinite(each[row != 1]).all()


@every_loss
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.04), (torch.float16, 0.005)])
def test_half_precision_follows_double(loss, naive, dtype, tolerance):
    d_own, row, d = batch(10, 6, 12, 20)
    d_own, d = (4 * d_own).round() / 4, (4 * d).round() / 4 + 0.125  # few enough bits for both
    low, high = gradients(loss, d_own.to(dtype), row, d.to(dtype)), gradients(loss, d_own, row, d)
    for mine, true in zip(low, high, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), true, rtol=tolerance, atol=2 * tolerance)


# The rank-weighted hinge


def sorted_rank_hinge(d_own, row, d, margin, n_items):
    """Each row sorted once, and prefix sums: exact, whatever the distances."""
    ascending = d.sort(1).values
    border = d_own + margin
    width = int(torch.bincount(row, minlength=len(d)).max())
    borders, place = torch.zeros(len(d), width, dtype=d.dtype), torch.arange(len(row))
    place -= torch.searchsorted(row, row)
    borders[row, place] = border
    n = torch.searchsorted(ascending, borders)[row, place].to(d.dtype)
    nearest = torch.where(ascending < INF, ascending, 0).cumsum(1)[row, (n.long() - 1).clamp_min(0)]
    mean_gap = torch.where(n > 0, border - nearest / n, 0)
    return torch.log1p(n_items * n / d.shape[1]) * mean_gap, n


def test_rank_hinge_by_hand():
    """Of 4 candidates 2 are nearer than .5 + .3: rank 50 of 100, the mean of .3 and .1 beyond them."""
    d_own, row = torch.tensor([0.5, 0.1]), torch.tensor([0, 0])
    d = torch.tensor([[0.5, 0.7, 0.9, INF]])
    each, by_own, by_d = gradients(partial(history_losses.rank_hinge, margin=0.3, n_items=100), d_own, row, d)
    assert each.tolist() == pytest.approx([math.log(51) * 0.2, 0])
    assert by_own.tolist() == pytest.approx([math.log(51), 0])
    assert by_d[0].tolist() == pytest.approx([-math.log(51) / 2, -math.log(51) / 2, 0, 0])


def test_weights_of_one_change_nothing():
    d_own, row, d = batch(11, 9, 12, 40)
    plain = history_losses.rank_hinge(d_own, row, d, MARGIN, N_ITEMS)
    weighted = history_losses.rank_hinge(d_own, row, d, MARGIN, N_ITEMS, torch.ones(12).double())
    torch.testing.assert_close(weighted, plain)
    twice = history_losses.rank_hinge(d_own, row, d, MARGIN, N_ITEMS, torch.full((12,), 2).double())
    torch.testing.assert_close(twice, plain)


def test_a_weight_of_two_is_the_candidate_twice():
    d_own, row, d = batch(12, 9, 12, 40)
    weight = torch.ones(12, dtype=torch.float64)
    weight[3] = 2
    weighted = history_losses.rank_hinge(d_own, row, d, MARGIN, N_ITEMS, weight)
    doubled = history_losses.rank_hinge(d_own, row, torch.cat([d, d[:, 3:4]], 1), MARGIN, N_ITEMS)
    torch.testing.assert_close(weighted, doubled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rank_hinge_equals_sorting(dtype):
    """More candidates than a block has rows, and histories of 1 to many items."""
    d_own, row, d = batch(13, 50, 9000, 700)
    d_own, d = d_own.to(dtype), d.to(dtype)
    expected, n = sorted_rank_hinge(d_own, row, d, MARGIN, N_ITEMS)
    each, by_own, by_d = gradients(
        partial(history_losses.rank_hinge, margin=MARGIN, n_items=N_ITEMS), d_own, row, d
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(each, expected, rtol=tolerance, atol=tolerance)
    rank_weight = torch.log1p(N_ITEMS * n / 9000)
    torch.testing.assert_close(by_own, rank_weight, rtol=tolerance, atol=tolerance)
    pushed = torch.zeros(50, 9000, dtype=dtype)
    for h in range(700):
        impostors = d[row[h]] < d_own[h] + MARGIN
        pushed[row[h]] -= impostors * (rank_weight[h] / n[h].clamp_min(1))
    torch.testing.assert_close(by_d, pushed, rtol=1e-4, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_border_is_rounded_by_no_more_than_said(seed, h, scale):
    """The number of impostors lies between those of the border and of the border less 1/1000 of its row."""
    generator = torch.Generator().manual_seed(seed)
    d_own = scale * torch.rand(h, dtype=torch.float64, generator=generator)
    d = scale * (torch.rand(3, 500, dtype=torch.float64, generator=generator) + 0.2)
    row = torch.randint(3, (h,), generator=generator).sort().values
    margin = 0.3 * scale
    _, by_own, _ = gradients(partial(history_losses.rank_hinge, margin=margin, n_items=500), d_own, row, d)
    n = by_own.expm1().round()
    for b in row.unique():
        own = d_own[row == b]
        width = max((own.max() - own.min()).item(), margin) / 1000
        most = (d[b] < own[:, None] + margin).sum(1)
        least = (d[b] < own[:, None] + margin - width).sum(1)
        assert (n[row == b] <= most).all()
        assert (n[row == b] >= least).all()


# PSL


def test_psl_by_hand():
    """An own item at .5, candidates at .5 and 1.5: sigma(0) = 1, sigma(-1) = 1 - tanh 1, 1 - pi / 4 or 0."""
    d_own, row, d = torch.tensor([0.5]), torch.tensor([0]), torch.tensor([[0.5, 1.5, INF]])
    log_q = torch.tensor([0.0, -math.log(3), 0.0])  # the second stands for three
    for activation, far in (("tanh", 1 - math.tanh(1)), ("atan", 1 - math.pi / 4), ("relu", 0)):
        value = psl.psl(d_own, row, d, log_q, 0.5, activation)
        assert value.item() == pytest.approx(math.log(1 + 1 + 3 * far**2))


@pytest.mark.parametrize("activation", losses.ACTIVATIONS)
@pytest.mark.parametrize(("temperature", "of_gradient"), [(0.4, 0.01), (0.1, 0.03)])
def test_psl_from_its_nodes_is_as_near_as_said(activation, temperature, of_gradient, monkeypatch):
    monkeypatch.setattr(psl, "NODES", NODES)
    generator = torch.Generator().manual_seed(14)
    d = 2 * torch.rand(20, 300, dtype=torch.float64, generator=generator)
    d_own = 1.5 * torch.rand(100, dtype=torch.float64, generator=generator)
    row = torch.randint(20, (100,), generator=generator).sort().values

    def exact(d_own, row, d):
        logits = losses.log_activation(d_own[:, None] - d[row], activation) / temperature
        return torch.nn.functional.softplus(logits.logsumexp(1))

    log_q = torch.zeros(300, dtype=torch.float64)
    near = partial(psl.psl, log_q=log_q, temperature=temperature, activation=activation)
    found, expected = gradients(near, d_own, row, d), gradients(exact, d_own, row, d)
    for mine, true, off in zip(found, expected, (1e-3, 1e-3, of_gradient), strict=True):
        assert ((mine - true).abs().max() / true.abs().max()).item() < off
    torch.testing.assert_close(found[2].sum(1), expected[2].sum(1), rtol=5e-3, atol=0)  # of a row they cancel


def test_an_unknown_activation_is_refused():
    for h in (0, 2):
        with pytest.raises(ValueError, match="activation = 'exp', allowed: tanh, atan, relu"):
            psl.psl(ONES[:h], ROW[:h], SQUARE, ONES, 1.0, "exp")


def test_a_candidate_beyond_the_margin_is_as_if_it_were_not_there(monkeypatch):
    """The nodes lie where candidates count."""
    monkeypatch.setattr(psl, "NODES", NODES)
    d_own, row, d = batch(16, 6, 11, 20)
    far = torch.cat([d, torch.full((6, 1), 1e4, dtype=torch.float64)], 1)
    alone, beside = (gradients(partial(of_psl, activation="relu"), d_own, row, one) for one in (d, far))
    torch.testing.assert_close(beside[0], alone[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(beside[2][:, :-1], alone[2], rtol=0.05, atol=0.02)
    assert not beside[2][:, -1].any()


def test_the_wider_the_margin_the_more_relu_is_the_softmax():
    d_own, row, d = batch(15, 6, 12, 20)
    log_q = torch.zeros(12, dtype=torch.float64)
    expected = history_losses.softmax(d_own, row, d, log_q, 0.4)
    off = [
        float((psl.psl(d_own, row, d, log_q, 0.4, "relu", margin) - expected).abs().max())
        for margin in (1.0, 10.0, 100.0, 1000.0)
    ]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.01


# SL@K


def test_sl_at_k_by_hand():
    """An own item at .5, candidates at 1 and 1, each for two; at the border it counts half."""
    d_own, row, d = torch.tensor([0.5]), torch.tensor([0]), torch.tensor([[1.0, 1.0, INF]])
    log_q, softmax = torch.full((3,), -math.log(2)), math.log(1 + 4 * math.exp(-1))
    for border, weight in ((0.5, 0.5), (0.7, 1 / (1 + math.exp(-1))), (0.3, 1 / (1 + math.exp(1)))):
        value = history_losses.sl_at_k(
            d_own, row, d, log_q, torch.tensor([border]), temperature=0.5, weight_temperature=0.2
        )
        assert value.item() == pytest.approx(weight * softmax)


def test_no_gradient_flows_to_the_border():
    d_own, row, d = batch(15, 3, 12, 9)
    border = torch.ones(3, dtype=torch.float64, requires_grad=True)
    each = history_losses.sl_at_k(
        d_own.requires_grad_(), row, d, LOG_Q, border, temperature=1.0, weight_temperature=1.0
    )
    each.sum().backward()
    assert border.grad is None
    assert not history_losses.top_k_border(d_own, row, d, 3, LOG_Q).requires_grad


def naive_border(own, candidates, k, log_q):
    nearest = sorted([(p, 1.0) for p in own] + [(d, math.exp(-log_q[i])) for i, d in candidates])
    reached = 0.0
    for d, items in nearest:
        reached += items
        if reached >= k:
            return d
    return nearest[-1][0] if nearest else 0.0


@pytest.mark.parametrize("k", [1, 2, 5, 10, 40, 1000])
@pytest.mark.parametrize("scale", [0, 1, -3])
def test_top_k_border_equals_the_naive_loop(k, scale):
    d_own, row, d = batch(16, 9, 12, 25)
    row = row + (row >= 4)  # the fifth of ten users has no own items
    d = torch.cat([d, d[:1]])
    d[2] = d[4] = INF  # and no candidates
    log_q = scale * LOG_Q - (1 if scale else 0)
    border = history_losses.top_k_border(d_own, row, d, k, log_q)
    for b in range(10):
        candidates = [(i, x) for i, x in enumerate(d[b].tolist()) if x < INF]
        own = d_own[row == b].tolist()
        assert border[b].item() == naive_border(own, candidates, k, log_q.tolist())
    assert border[4] == 0


def test_top_k_border_by_hand():
    """An own item and two candidates, each for five items."""
    d_own, row, d = torch.tensor([0.1]), torch.tensor([0]), torch.tensor([[INF, 0.3, 0.2]])
    log_q = torch.full((3,), -math.log(5))
    ks = (1, 2, 5, 7, 10, 12)
    borders = [history_losses.top_k_border(d_own, row, d, k, log_q).item() for k in ks]
    assert borders == pytest.approx([0.1, 0.2, 0.2, 0.3, 0.3, 0.3])


@pytest.mark.parametrize(("b", "c", "h"), [(3, 4, 0), (2, 0, 2), (2, 0, 0), (0, 4, 0)])
def test_top_k_border_without_users_candidates_or_own_items(b, c, h):
    border = history_losses.top_k_border(
        torch.ones(h), torch.arange(h), torch.ones(b, c), 2, LOG_Q[:c].float()
    )
    assert torch.equal(border, torch.full((b,), 1.0 if c or h else 0.0))


# Beside the losses of lists


@pytest.mark.parametrize("name", ["psl", "sl_at_k", "top_k_border"])
def test_all_items_as_candidates_give_the_loss_of_lists(name):
    """A list of all items: a user's mean over own items is the loss of their row."""
    generator = torch.Generator().manual_seed(17)
    d = 2 * torch.rand(6, 30, dtype=torch.float64, generator=generator)
    positive = torch.rand(6, 30, generator=generator) < 0.2
    positive[:, 0] = True
    row, column = positive.nonzero(as_tuple=True)
    d_own, others = d[row, column], torch.where(positive, INF, d)
    log_q = torch.zeros(30, dtype=torch.float64)
    border = losses.top_k_border(d, positive, ~positive, 4, 30)
    if name == "top_k_border":
        assert torch.equal(history_losses.top_k_border(d_own, row, others, 4, log_q), border)
        return
    if name == "psl":
        each = psl.psl(d_own, row, others, log_q, TEMPERATURE)
        expected = losses.psl(d, positive, ~positive, TEMPERATURE)
    else:
        each = history_losses.sl_at_k(
            d_own, row, others, log_q, border, temperature=0.2, weight_temperature=0.3
        )
        expected = losses.sl_at_k(d, positive, ~positive, border, 0.2, 0.3)
    means = torch.zeros(6, dtype=torch.float64).index_add_(0, row, each) / positive.sum(1)
    torch.testing.assert_close(means, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["psl_tanh", "softmax", "sl_at_k"])
def test_a_candidate_expected_twice_as_often_counts_half(name):
    d_own, row, d = batch(18, 5, 6, 20)
    once = LOSSES[name][0](d_own, row, d)
    twice = torch.cat([LOG_Q[:6], LOG_Q[:6]]) + math.log(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "LOG_Q", twice)
        torch.testing.assert_close(LOSSES[name][0](d_own, row, torch.cat([d, d], 1)), once)


# Refusals

ONES, ROW, SQUARE = torch.ones(2), torch.arange(2), torch.ones(2, 2)


def refused_sl_at_k(**temperatures):
    return history_losses.sl_at_k(ONES, ROW, SQUARE, ONES, ONES, **temperatures)


ABOVE_ZERO = {
    ("rank_hinge", "margin"): lambda x: history_losses.rank_hinge(ONES, ROW, SQUARE, x, 5),
    ("psl", "temperature"): lambda x: psl.psl(ONES, ROW, SQUARE, ONES, x),
    ("psl", "margin"): lambda x: psl.psl(ONES, ROW, SQUARE, ONES, 0.5, "relu", x),
    ("softmax", "temperature"): lambda x: history_losses.softmax(ONES, ROW, SQUARE, ONES, x),
    ("sl_at_k", "temperature"): lambda x: refused_sl_at_k(temperature=x, weight_temperature=1.0),
    ("sl_at_k", "weight_temperature"): lambda x: refused_sl_at_k(temperature=1.0, weight_temperature=x),
}


@pytest.mark.parametrize(("name", "call"), [(key[1], call) for key, call in ABOVE_ZERO.items()])
@settings(max_examples=20, deadline=None)
@given(st.floats(max_value=0) | st.sampled_from([math.nan, INF, -INF]))
def test_parameters_above_zero_are_refused_by_name(name, call, value):
    with pytest.raises(ValueError, match=rf"^{name} = {value}, allowed > 0 and finite$".replace("+", r"\+")):
        call(value)


def test_a_catalogue_or_a_top_without_items_is_refused():
    with pytest.raises(ValueError, match="n_items = 0, allowed >= 1"):
        history_losses.rank_hinge(ONES, ROW, SQUARE, MARGIN, 0)
    with pytest.raises(ValueError, match="k = 0, allowed >= 1"):
        history_losses.top_k_border(ONES, ROW, SQUARE, 0, ONES)
