"""Miners against naive loops over every triplet, pytorch-metric-learning's miners, and their edges."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import BatchHardMiner, DistanceWeightedMiner, TripletMarginMiner
from pytorch_metric_learning.utils.loss_and_miner_utils import get_random_triplet_indices
from scipy.stats import chi2_contingency, chisquare

from recsys import losses, miners
from recsys.miners import Triplets

MARGIN = 0.5
DIM = 8
LEAST_P = 1e-5  # of a chi-squared test: some hundred are made below


def by_masks(mine):
    """The miner as a function of a matrix and its masks."""
    return partial(miners.mine_matrix, mine)


hardest, semi_hard, every, random = map(
    by_masks, (miners.hardest, miners.semi_hard, miners.every, miners.random)
)
distance_weighted = by_masks(partial(miners.distance_weighted, dim=DIM))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_case(seed, a, c, grid=False):
    """Distances (A, C) and disjoint masks of positives and negatives; some pairs are in neither."""
    generator = seeded(seed)
    d = torch.rand(a, c, dtype=torch.float64, generator=generator) * 2
    if grid:
        d = (d * 3).round() / 3  # many ties, and zeros
    kind = torch.randint(3, (a, c), generator=generator)
    return d, kind == 0, kind == 1


def pairs_of(mask, row):
    return [c for c in range(mask.shape[1]) if mask[row, c]]


def naive_hardest(d, positive, negative, margin):
    triplets = []
    for a in range(len(d)):
        positives, negatives = pairs_of(positive, a), pairs_of(negative, a)
        if positives and negatives:  # max and min keep the first of equals
            triplets.append((a, max(positives, key=lambda p: d[a, p]), min(negatives, key=lambda n: d[a, n])))
    return triplets


def naive_semi_hard(d, positive, negative, margin):
    triplets = []
    for a in range(len(d)):
        for p in pairs_of(positive, a):
            inside = [n for n in pairs_of(negative, a) if d[a, p] < d[a, n] < d[a, p] + margin]
            if inside:
                triplets.append((a, p, min(inside, key=lambda n: d[a, n])))
    return triplets


def naive_every(d, positive, negative, margin):
    return [(a, p, n) for a in range(len(d)) for p in pairs_of(positive, a) for n in pairs_of(negative, a)]


def naive_weight(d, dim):
    """Wu et al. 2017, eq. 3, one distance."""
    if not d < 1.4:
        return 0.0
    d = max(d, 0.5)
    return 1 / (d ** (dim - 2) * (1 - d * d / 4) ** ((dim - 3) / 2))


NAIVE = [
    (hardest, naive_hardest),
    (semi_hard, naive_semi_hard),
    (every, naive_every),
]
DRAWING = [random, distance_weighted]
EVERY_MINER = [mine for mine, _ in NAIVE] + DRAWING
deterministic = pytest.mark.parametrize("mine", [mine for mine, _ in NAIVE])
drawing = pytest.mark.parametrize("mine", DRAWING)
each_miner = pytest.mark.parametrize("mine", EVERY_MINER)


def as_list(triplets):
    return [tuple(triplet) for triplet in torch.stack(list(triplets[:3]), 1).tolist()]


@pytest.mark.parametrize(("mine", "naive"), NAIVE)
@pytest.mark.parametrize("loss", [losses.triplet_margin, losses.contrastive])
@pytest.mark.parametrize(("a", "c"), [(12, 9), (4, 70), (1, 20), (6, 2), (0, 4), (4, 0), (0, 0)])
def test_triplets_and_the_gradient_of_their_loss_equal_the_naive_loop(mine, naive, loss, a, c):
    d, positive, negative = random_case(a + c, a, c)
    d.requires_grad_()
    triplets = mine(d, positive, negative, MARGIN)
    expected = naive(d, positive, negative, MARGIN)
    assert as_list(triplets) == expected
    loss(*triplets.distances(d, d), MARGIN).sum().backward()
    torch.testing.assert_close(d.grad, naive_gradient(d.detach(), expected, loss))


def naive_gradient(d, triplets, loss):
    gradient = torch.zeros_like(d)
    for anchor, p, n in triplets:
        pair = torch.tensor(
            [d[anchor, p].item(), d[anchor, n].item()], dtype=torch.float64, requires_grad=True
        )
        loss(pair[:1], pair[1:], MARGIN).sum().backward()
        gradient[anchor, p] += pair.grad[0]
        gradient[anchor, n] += pair.grad[1]
    return gradient


@drawing
@pytest.mark.parametrize("loss", [losses.triplet_margin, losses.contrastive])
@pytest.mark.parametrize(("a", "c"), [(12, 9), (1, 20), (6, 2), (0, 4), (4, 0), (0, 0)])
def test_drawn_triplets_have_the_gradient_of_the_naive_loop(mine, loss, a, c):
    d, positive, negative = random_case(a + c, a, c)
    d.requires_grad_()
    triplets = mine(d, positive, negative, MARGIN, seeded(0))
    loss(*triplets.distances(d, d), MARGIN).sum().backward()
    torch.testing.assert_close(d.grad, naive_gradient(d.detach(), as_list(triplets), loss))


@pytest.mark.parametrize(("mine", "naive"), NAIVE)
@pytest.mark.parametrize(("seed", "c"), [*((seed, 9) for seed in range(20)), (0, 90), (1, 90)])
def test_ties_go_to_the_first_column(mine, naive, seed, c):
    case = random_case(seed, 5, c, grid=True)
    assert as_list(mine(*case, MARGIN)) == naive(*case, MARGIN)


@drawing
@pytest.mark.parametrize("seed", range(20))
def test_one_negative_is_drawn_for_each_positive_pair_that_has_one(mine, seed):
    d, positive, negative = random_case(seed, 6, 5)
    drawn = as_list(mine(d, positive, negative, MARGIN, seeded(seed)))
    support = negative & (d < 1.4) if mine is distance_weighted else negative
    expected = [(a, p) for a in range(6) for p in pairs_of(positive, a) if support[a].any()]
    assert [(a, p) for a, p, _ in drawn] == expected
    assert all(support[a, n] for a, _, n in drawn)


# Distances, each row to be repeated: columns 0 and 1 are positive, 2 is neither, the others may be negative.
ROWS = torch.tensor(
    [
        [0.9, 1.0, 0.7, 0.0, 0.5, 0.8, 0.9, 1.1, 1.39, 1.4, 1.9],
        [0.2, 0.3, 0.1, 1.2, 1.25, 1.3, 1.31, 1.35, 1.38, 2.1, math.nan],
        [0.2, 0.3, 0.1, 1.5, 0.6, math.nan, 1e30, 1.6, 2.0, 0.61, 0.62],
    ],
    dtype=torch.float64,
)
TIMES = 4_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [None, 2, 3, 8, 64, 512])
def test_negatives_are_drawn_with_the_probabilities_of_the_formula(dim, dtype):
    """`random` where dim is None."""
    d = ROWS.to(dtype).repeat_interleave(TIMES, 0)  # (A, C)
    positive = (torch.arange(11) < 2).expand(d.shape)
    negative = (torch.arange(11) > 2).expand(d.shape).clone()
    negative[:TIMES, 7] = False
    mine = random if dim is None else by_masks(partial(miners.distance_weighted, dim=dim))
    triplets = mine(d, positive, negative, MARGIN, seeded(0))
    assert len(triplets.anchor) == 2 * len(d)
    for block, row in enumerate(ROWS.tolist()):
        weight = [0.0] * 3 + [1.0 if dim is None else naive_weight(x, dim) for x in row[3:]]
        weight[7] *= block > 0
        here = triplets.anchor // TIMES == block
        first, second = triplets.negative[here].reshape(-1, 2).T  # of the same anchor's two positives
        allowed = torch.tensor(weight) > 0
        for drawn in (first, second):
            observed = torch.bincount(drawn, minlength=11)
            assert not observed[~allowed].any()
            expected = torch.tensor(weight, dtype=torch.float64) / sum(weight) * TIMES
            often = expected >= 5  # the chi-squared test asks for this; the rest counts as one cell
            observed = [*observed[often].tolist(), observed[~often].sum().item()]
            expected = [*expected[often].tolist(), expected[~often].sum().item()]
            if expected[-1] == 0:
                observed, expected = observed[:-1], expected[:-1]
            if len(expected) > 1:
                assert chisquare(observed, expected, sum_check=False).pvalue > LEAST_P
        both = torch.zeros(11, 11).index_put_((first, second), torch.ones(TIMES), accumulate=True)
        often = both.sum(0) + both.sum(1) >= 200
        if often.sum() > 1:  # the two draws of an anchor are independent
            assert chi2_contingency(both[often][:, often].numpy()).pvalue > LEAST_P


@pytest.mark.parametrize("mine", [hardest, semi_hard, random, distance_weighted])
@pytest.mark.parametrize("c", [800_000, 2_200_000])
def test_rows_mined_in_blocks_are_mined_as_each_alone(mine, c):
    """Blocks of two rows and one, and rows longer than a block."""
    assert 3 * c > miners.BLOCK
    d = torch.rand(3, c, generator=seeded(0)) + 0.5
    positive = (torch.arange(c) < 2).expand(3, c)
    together = as_list(mine(d, positive, ~positive, 1e-4, seeded(1)))
    one = seeded(1)
    alone = [mine(d[a : a + 1], positive[:1], ~positive[:1], 1e-4, one) for a in range(3)]
    assert together == [(a, p, n) for a in range(3) for _, p, n in as_list(alone[a])]
    assert {a for a, _, _ in together} == {0, 1, 2}


# Half precision

half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@half
@pytest.mark.parametrize("mine", [mine for mine, _ in NAIVE] + [random])
@pytest.mark.parametrize("seed", range(20))
def test_half_precision_finds_what_double_does(mine, dtype, seed):
    """A row's distances are 3/32 apart at least, margins 1/32 from any: bfloat16 rounds by 1/128 at most."""
    generator = seeded(seed)
    steps = torch.rand(12, 16, generator=generator).argsort(1)  # (A, C): each row a permutation
    d = steps / 8 + (torch.rand(12, 16, dtype=torch.float64, generator=generator) - 0.5) / 32 + 1 / 64
    kind = torch.randint(3, d.shape, generator=generator)
    assert not torch.equal(d.to(dtype).double(), d)
    margin = 5 / 16
    expected = as_list(mine(d, kind == 0, kind == 1, margin, seeded(seed)))
    assert as_list(mine(d.to(dtype), kind == 0, kind == 1, margin, seeded(seed))) == expected
    assert len(expected) > 5


@half
def test_distance_weighted_draws_from_half_precision_as_from_single(dtype):
    """The same numbers in float32, the same triplets."""
    for seed in range(20):
        d, positive, negative = random_case(seed, 40, 300)
        d = d.to(dtype)
        drawn = as_list(distance_weighted(d, positive, negative, MARGIN, seeded(seed)))
        assert drawn == as_list(distance_weighted(d.float(), positive, negative, MARGIN, seeded(seed)))
        assert len(drawn) > 1_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equal_negatives_are_drawn_equally_often(dtype):
    """However many there are: a sum in bfloat16 stays at 256 once it is there."""
    d = torch.ones(20_000, 601, dtype=dtype)
    positive = (torch.arange(601) == 0).expand(d.shape)
    drawn = distance_weighted(d, positive, ~positive, MARGIN, seeded(0)).negative
    assert len(drawn) == 20_000
    assert chisquare(torch.bincount(drawn, minlength=601)[1:]).pvalue > LEAST_P


@drawing
def test_same_seed_same_triplets(mine):
    case = random_case(0, 40, 30)
    first, again, other = (as_list(mine(*case, MARGIN, seeded(seed))) for seed in (1, 1, 2))
    assert first == again != other


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
    assert as_list(hardest(d, positive, negative, 0.5)) == [(0, 1, 2), (1, 1, 2), (2, 1, 2), (3, 0, 2)]
    assert as_list(semi_hard(d, positive, negative, 0.5)) == [(0, 0, 3), (0, 1, 4), (1, 1, 3)]
    assert as_list(every(d[:1], positive[:1], negative[:1], 0.5)) == [
        (0, p, n) for p in (0, 1) for n in (2, 3, 4)
    ]


@each_miner
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(0, 8), st.booleans())
def test_a_masked_pair_is_never_mined(mine, seed, a, c, grid):
    d, positive, negative = random_case(seed, a, c, grid)
    triplets = mine(d, positive, negative, MARGIN, seeded(seed))
    assert positive[triplets.anchor, triplets.positive].all()
    assert negative[triplets.anchor, triplets.negative].all()
    assert all(part.dtype == torch.int64 and part.shape == triplets.anchor.shape for part in triplets[:3])


@deterministic
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_permuted_candidates_permute_the_triplets(mine, seed):
    d, positive, negative = random_case(seed, 6, 8)
    order = torch.randperm(8, generator=seeded(seed))
    permuted = mine(d[:, order], positive[:, order], negative[:, order], MARGIN)
    back = permuted._replace(positive=order[permuted.positive], negative=order[permuted.negative])
    assert sorted(as_list(back)) == sorted(as_list(mine(d, positive, negative, MARGIN)))


@each_miner
@pytest.mark.parametrize("of", ["no positive", "no negative", "all positive", "neither"])
def test_rows_without_a_triplet_give_zero_loss_and_gradient(mine, of):
    d = torch.rand(3, 4, generator=seeded(0)).requires_grad_()
    none, all_ = torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    positive = {"no negative": all_.tril(), "all positive": all_}.get(of, none)
    negative = all_ if of == "no positive" else none
    triplets = mine(d, positive, negative, MARGIN, seeded(0))
    assert as_list(triplets) == []
    loss = losses.triplet_margin(*triplets.distances(d, d), MARGIN).sum()
    loss.backward()
    assert loss == 0
    assert torch.equal(d.grad, torch.zeros(3, 4))


def test_at_distance_zero_the_hardest_is_mined_and_semi_hard_has_none():
    """A collapsed space, where every distance is equal."""
    d = torch.zeros(2, 3)
    positive = torch.tensor([[True, False, False]]).expand(2, 3)
    assert as_list(hardest(d, positive, ~positive, MARGIN)) == [(0, 0, 1), (1, 0, 1)]
    assert as_list(semi_hard(d, positive, ~positive, MARGIN)) == []
    drawn = as_list(distance_weighted(d, positive, ~positive, MARGIN, seeded(0)))
    assert [(a, p) for a, p, _ in drawn] == [(0, 0), (1, 0)]


def test_what_is_not_a_number_is_no_negative_and_poisons_no_other_row():
    """Its own row it may: with few positives semi_hard finds nothing there, with many it does."""
    d = torch.tensor([[0.5, math.nan, 0.7, 0.6], [math.nan, 0.5, 0.6, 0.7], [0.5, 0.9, 0.8, math.inf]])
    positive = (torch.arange(4) == 0).expand(3, 4)
    assert as_list(semi_hard(d, positive, ~positive, MARGIN)) == [(2, 0, 2)]
    assert as_list(hardest(d, positive, ~positive, MARGIN)) == [(2, 0, 2)]
    d_pos = d[:, :1].repeat(1, miners.PASSES + 1)
    many = as_list(miners.semi_hard(d_pos, d, MARGIN))
    assert many == [(a, k, n) for a, n in ((0, 3), (2, 2)) for k in range(miners.PASSES + 1)]


@pytest.mark.parametrize("k", [3, miners.PASSES + 1])
@each_miner
def test_padding_is_no_positive(mine, k):
    """Two rows of K and of one positive: what is -inf is left out, the rest as without it."""
    d_pos = torch.full((2, k), 0.6)
    d_pos[1, 1:] = -math.inf
    d_neg = torch.tensor([[0.7, math.inf, 0.9], [math.inf, 0.8, math.inf]])
    (of_mine,) = mine.args  # the miner itself
    found = of_mine(d_pos, d_neg, MARGIN, seeded(0))
    pairs = set(zip(found.anchor.tolist(), found.positive.tolist(), strict=True))
    hard = of_mine is miners.hardest
    assert pairs == ({(0, 0), (1, 0)} if hard else {(0, i) for i in range(k)} | {(1, 0)})
    assert (d_neg[found.anchor, found.negative] < math.inf).all()
    assert (found.negative[found.anchor == 1] == 1).all()


def test_a_pair_shared_by_many_triplets_has_the_same_gradient_bits_each_time():
    d = torch.rand(20, 200, generator=seeded(0)).requires_grad_()
    positive = (torch.arange(200) < 40).expand(20, 200)
    triplets = every(d, positive, ~positive, MARGIN)
    order = torch.randperm(len(triplets.anchor), generator=seeded(0))  # so that threads meet at a pair
    triplets = Triplets(*(part[order] for part in triplets[:3]))
    gradients = []
    for _ in range(5):
        d.grad = None
        losses.triplet_soft_margin(*triplets.distances(d, d)).sum().backward()
        gradients.append(d.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    plain = torch.zeros(20, 200)
    for a in range(20):
        at = d.detach()[a]
        pull = torch.sigmoid(at[:40, None] - at[None, 40:])  # (40, 160): the derivative of softplus
        plain[a] = torch.cat([pull.sum(1), -pull.sum(0)])
    torch.testing.assert_close(gradients[0], plain)


@pytest.mark.parametrize("left_out", [0.0, 0.01, 0.2, 0.29, 0.5, 0.7, 0.99])
@pytest.mark.parametrize(("a", "c"), [(12, 9), (4, 150), (1, 20), (3, 100), (3, 180), (0, 4), (4, 0)])
@pytest.mark.parametrize("fixed", [False, True])
def test_the_hardest_negative_is_the_nearest_after_a_share_of_each_row(left_out, a, c, fixed):
    """A row counts its own negatives: one of ten passes over fewer than one of a hundred."""
    source = seeded(a + c)
    d_pos, d_neg = torch.rand(a, 2, generator=source), torch.rand(a, c, generator=source)
    share = torch.rand(a, 1, generator=source)
    d_neg[torch.rand(a, c, generator=source) < share] = miners.INF
    if c:
        d_neg[:1] = torch.rand(1, c, generator=source)  # a row of negatives alone: .29 x 100 is 28.99...
    found = miners.hardest(d_pos, d_neg, MARGIN, None, fixed, left_out=left_out)
    expected = []
    for row in range(a):
        known = sorted((float(d), column) for column, d in enumerate(d_neg[row]) if d < miners.INF)
        if known:
            passed_over = math.floor(left_out * len(known))
            expected.append((row, int(d_pos[row].argmax()), known[passed_over][1]))
    real = found if found.real is None else Triplets(*(part[found.real] for part in found[:3]))
    assert as_list(real) == expected


@pytest.mark.parametrize("left_out", [-0.01, 1.0, math.nan])
def test_hardest_refuses_a_share_by_name(left_out):
    with pytest.raises(ValueError, match=rf"left_out = {left_out}, allowed 0 <= left_out < 1"):
        miners.hardest(torch.rand(2, 1), torch.rand(2, 3), MARGIN, left_out=left_out)


@pytest.mark.parametrize("margin", [0, -1.0, math.nan])
def test_semi_hard_refuses_margins_by_name(margin):
    with pytest.raises(ValueError, match=f"margin = {margin}, allowed > 0"):
        semi_hard(*random_case(0, 2, 3), margin)


def test_every_counts_before_it_makes():
    d = torch.zeros(17, 2_000)
    positive = (torch.arange(2_000) < 1_000).expand(17, 2_000)
    message = "17 anchors x 2,000 candidates: 17,000,000, allowed at most 16,777,216"
    with pytest.raises(ValueError, match=message):
        every(d, positive, ~positive, MARGIN)


@pytest.mark.parametrize("bad", [torch.ones(2, 3), torch.ones(3, dtype=torch.bool)])
def test_what_is_no_mask_of_the_matrix_is_refused_by_name(bad):
    d, positive, negative = random_case(0, 2, 3)
    with pytest.raises(ValueError, match=r"negative is torch\.\w+ \[.*\], expected bool \[2, 3\]"):
        hardest(d, positive, bad, MARGIN)
    with pytest.raises(ValueError, match="positive is"):
        hardest(d, bad, negative, MARGIN)


@drawing
def test_a_draw_without_a_generator_is_refused(mine):
    with pytest.raises(ValueError, match=r"generator = None, allowed: a torch\.Generator"):
        mine(*random_case(0, 2, 3), MARGIN)


@pytest.mark.parametrize("dim", [1, 0])
def test_a_sphere_without_density_is_refused(dim):
    with pytest.raises(ValueError, match=f"dim = {dim}, allowed >= 2"):
        miners.distance_weighted(torch.ones(2, 1), torch.ones(2, 3), MARGIN, seeded(0), dim=dim)


# pytorch-metric-learning: LpDistance() is Euclidean, not squared, between rows scaled to length 1. Both sides
# read that matrix. Its semi-hard miner keeps every negative inside the margin, the upper border included.
THEIR_DISTANCE = LpDistance()


def labelled_case(seed):
    """Rows and labels; half of the cases compare a batch with itself, where no row is its own positive."""
    generator = seeded(seed)
    a, c, classes, dim = (int(torch.randint(3, 12, (), generator=generator)) for _ in range(4))
    x = torch.randn(a, dim, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (a,), generator=generator)
    if seed % 2:
        same = labels[:, None] == labels[None, :]
        return (x, labels), THEIR_DISTANCE(x), same & ~torch.eye(a, dtype=torch.bool), ~same
    y = torch.randn(c, dim, dtype=torch.float64, generator=generator)
    ref_labels = torch.randint(classes, (c,), generator=generator)
    same = labels[:, None] == ref_labels[None, :]
    return (x, labels, y, ref_labels), THEIR_DISTANCE(x, y), same, ~same


@pytest.mark.parametrize("seed", range(50))
def test_semi_hard_is_the_nearest_of_pytorch_metric_learnings(seed):
    batch, *case = labelled_case(seed)
    theirs = as_list(Triplets(*TripletMarginMiner(MARGIN, "semihard", distance=THEIR_DISTANCE)(*batch)))
    nearest = {}
    for a, p, n in theirs:
        nearest[a, p] = min(nearest.get((a, p), n), n, key=lambda column, a=a: case[0][a, column])
    assert as_list(semi_hard(*case, MARGIN)) == [(a, p, n) for (a, p), n in sorted(nearest.items())]


@pytest.mark.parametrize("seed", range(50))
def test_hardest_is_pytorch_metric_learnings_batch_hard(seed):
    batch, *case = labelled_case(seed)
    theirs = BatchHardMiner(distance=THEIR_DISTANCE)(*batch)
    assert as_list(hardest(*case, MARGIN)) == sorted(as_list(Triplets(*theirs)))


@pytest.mark.parametrize("seed", range(50))
def test_every_is_pytorch_metric_learnings_all_within_an_infinite_margin(seed):
    batch, *case = labelled_case(seed)
    theirs = TripletMarginMiner(math.inf, "all", distance=THEIR_DISTANCE)(*batch)
    assert as_list(every(*case, MARGIN)) == sorted(as_list(Triplets(*theirs)))


@pytest.mark.parametrize("seed", range(50))
def test_random_draws_as_pytorch_metric_learnings_random_triplets(seed):
    """Theirs draws the positives too: what is compared is which rows have triplets, and their negatives."""
    batch, d, positive, negative = labelled_case(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = get_random_triplet_indices(*batch[1::2], t_per_anchor=400)
    one = positive & (positive.cumsum(1) == 1)  # (A, C): the first positive alone
    ours = random(*(part.repeat(400, 1) for part in (d, one, negative)), MARGIN, seeded(seed))
    tables = torch.zeros(2, *d.shape)  # (2, A, C)
    for table, (anchor, _, drawn) in zip(tables, (ours[:3], theirs), strict=True):
        table.index_put_((anchor % len(d), drawn), torch.ones(len(anchor)), accumulate=True)
    assert torch.equal(tables[0].sum(1), tables[1].sum(1))  # 400 of each anchor that has both kinds
    assert torch.equal(tables[0] > 0, tables[1] > 0)
    for a in range(len(d)):
        drawn = tables[:, a][:, tables[0, a] > 0]
        if drawn.shape[1] > 1:
            assert chi2_contingency(drawn.numpy()).pvalue > LEAST_P


@pytest.mark.parametrize("seed", range(50))
def test_distance_weighted_draws_where_pytorch_metric_learning_does(seed):
    """Theirs draws the positives too: what is compared is which rows have triplets, and the support."""
    batch, d, positive, negative = labelled_case(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        miner = DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)
        theirs = as_list(Triplets(*miner(*batch)))
    mine = by_masks(partial(miners.distance_weighted, dim=batch[0].shape[1]))
    ours = as_list(mine(d, positive, negative, MARGIN, seeded(seed)))
    assert {a for a, _, _ in ours} == {a for a, _, _ in theirs}
    assert all(negative[a, n] and d[a, n] < 1.4 for a, _, n in ours + theirs)


@pytest.mark.parametrize("seed", range(3))
def test_distance_weighted_draws_with_pytorch_metric_learnings_probabilities(seed):
    """One anchor with 2,000 positives, for each of which both draw one of 12 negatives."""
    generator = seeded(seed)
    x = torch.nn.functional.normalize(torch.randn(1, 4, generator=generator))
    y = torch.cat([x.expand(2_000, 4), torch.randn(12, 4, generator=generator)])
    labels, ref_labels = torch.zeros(1, dtype=torch.int64), (torch.arange(2_012) >= 2_000).long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = DistanceWeightedMiner()(x, labels, y, ref_labels)[2]
    positive = labels[:, None] == ref_labels[None, :]
    mine = by_masks(partial(miners.distance_weighted, dim=4))
    ours = mine(THEIR_DISTANCE(x, y), positive, ~positive, MARGIN, generator).negative
    assert len(ours) == len(theirs) == 2_000
    table = torch.stack([torch.bincount(drawn - 2_000, minlength=12) for drawn in (ours, theirs)])  # (2, 12)
    seen = table.sum(0) > 0
    assert seen.sum() > 2
    assert chi2_contingency(table[:, seen].numpy()).pvalue > LEAST_P


# A fixed number


@pytest.mark.parametrize(
    "mine", [miners.random, miners.semi_hard, miners.hardest, partial(miners.distance_weighted, dim=DIM)]
)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_of_a_fixed_number_those_that_are_real_are_the_triplets(mine, k, seed):
    """Some positives are padding, row 2 has no negative, and rows of d_pos do not lie one after the other."""
    source = seeded(seed)
    d_pos, d_neg = 0.6 * torch.rand(k, 8, generator=source).T, torch.rand(8, 9, generator=source)
    d_neg[torch.rand(8, 9, generator=source) < 0.3] = miners.INF
    d_neg[2], d_pos[5, k - 1] = miners.INF, -miners.INF
    plain, fixed = (mine(d_pos, d_neg, 0.2, seeded(0), number_is_fixed) for number_is_fixed in (False, True))
    assert plain.real is None
    assert len(fixed.anchor) == (8 if mine is miners.hardest else 8 * k) > len(plain.anchor)
    assert as_list(Triplets(*(part[fixed.real] for part in fixed[:3]))) == as_list(plain)
    assert fixed.negative.max() < 9
    assert torch.equal(fixed.anchor, torch.arange(8).repeat_interleave(len(fixed.anchor) // 8))
