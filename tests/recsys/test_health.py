"""Measures of a space against naive loops and by hand, and a collapse that they notice in time."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recsys import health, losses, miners
from recsys.distances import euclidean, squared_euclidean
from recsys.health import Health, find_collapse
from recsys.interactions import Interactions
from recsys.sampling import to_device

MARGIN = 0.5


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(seed, dim):
    return torch.linalg.qr(normal(seed, dim, dim)).Q


# Effective rank


def axes(lengths):
    """Two rows a direction, at plus and minus its length: centred, with singular values in that ratio."""
    return torch.cat([torch.diag(lengths), -torch.diag(lengths)])


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_k_equal_directions_have_rank_k(k):
    rows = axes(torch.tensor([3.0] * k + [0.0] * (8 - k)))
    assert health.effective_rank(rows).item() == pytest.approx(k, rel=1e-6)
    assert health.effective_rank(rows + 7).item() == pytest.approx(k, rel=1e-5)


def test_unequal_directions_by_hand():
    """Singular values 3 : 1, so the entropy is log 4 - 3/4 log 3."""
    rank = health.effective_rank(axes(torch.tensor([3.0, 1.0])))
    assert rank.item() == pytest.approx(4 / 3**0.75, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0.0, 1e-3, 1.0, 1e4])
def test_one_point_has_rank_1_whatever_its_rounding(dtype, length):
    point = torch.full((1, 16), length, dtype=dtype)
    noise = (normal(0, 200, 16) * length * torch.finfo(dtype).eps).to(dtype)
    assert health.effective_rank(point + noise) == 1
    if length:
        spread = (normal(0, 200, 16) * length * 1e3 * torch.finfo(dtype).eps).to(dtype)
        assert health.effective_rank(point + spread) > 10


def test_one_row_has_rank_1_and_no_rows_are_refused():
    assert health.effective_rank(normal(0, 1, 4)) == 1
    assert health.norm_spread(normal(0, 1, 4)) == 0
    for refuses in (health.effective_rank, health.norm_spread):
        with pytest.raises(ValueError, match=r"rows are \[0, 4\], expected \[N, D\] with N >= 1"):
            refuses(torch.empty(0, 4))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 6), st.sampled_from([1e-3, 1.0, 1e3]))
def test_rank_is_within_its_bounds_and_blind_to_shift_rotation_scale_and_order(seed, n, dim, scale):
    rows = normal(seed, n, dim)
    rank = health.effective_rank(rows)
    assert 1 <= rank <= max(1, min(n - 1, dim)) + 1e-9
    moved = (rows @ rotation(seed + 1, dim) * scale + 2 * scale)[torch.arange(n).flip(0)]
    torch.testing.assert_close(health.effective_rank(moved), rank, rtol=1e-6, atol=0)


# Lengths, classes, quantiles


def test_norm_spread_by_hand():
    rows = torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.0, 0.0], [-10.0, 0.0]])  # lengths 5, 5, 0, 10
    assert health.norm_spread(rows).item() == pytest.approx(math.sqrt(50 / 4) / 5)
    assert health.norm_spread(rows[:2]) == 0
    assert health.norm_spread(torch.zeros(3, 2)) == 0


def naive_compactness_and_separation(rows, labels):
    classes = sorted(set(labels.tolist()))
    centroids = {
        k: sum(row for row, label in zip(rows, labels, strict=True) if label == k) / (labels == k).sum()
        for k in classes
    }
    own = [centroids[label] for label in labels.tolist()]
    within = [((row - centroid) ** 2).sum().item() for row, centroid in zip(rows, own, strict=True)]
    between = [
        ((centroids[k] - centroids[m]) ** 2).sum().item() for k, m in itertools.combinations(classes, 2)
    ]
    return sum(within) / len(within), sum(between) / len(between) if between else 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 5))
def test_classes_equal_the_naive_loop_wherever_the_origin_is(seed, n, k):
    rows = normal(seed, n, 3)
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed)) * 10 + 3
    expected = naive_compactness_and_separation(rows, labels)
    for same in (rows, rows @ rotation(seed, 3) + 5):
        measured = health.compactness_and_separation(same, labels)
        assert [value.item() for value in measured] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_classes_by_hand():
    rows = torch.tensor([[0.0, 0], [2, 0], [10, 1], [1, 5], [1, 9]])
    labels = torch.tensor([4, 4, 0, 7, 7])  # centroids (1, 0), (10, 1), (1, 7)
    compactness, separation = health.compactness_and_separation(rows, labels)
    assert compactness.item() == pytest.approx((1 + 1 + 0 + 4 + 4) / 5)
    assert separation.item() == pytest.approx((82 + 49 + 117) / 3)
    assert health.compactness_and_separation(rows[:2], labels[:2])[1] == 0  # one class
    with pytest.raises(ValueError, match=r"labels are \[4\], expected \[5\]"):
        health.compactness_and_separation(rows, labels[:4])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_quantiles_equal_torch_quantile_of_the_masked(seed, n):
    d = normal(seed, 1, n)
    mask = torch.rand(1, n, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask[0, 0] = True
    expected = torch.quantile(d[mask], torch.tensor([0.1, 0.5, 0.9], dtype=d.dtype))
    torch.testing.assert_close(health.quantiles(d, mask), expected)


def test_quantiles_by_hand_and_of_nothing():
    d = torch.arange(11.0).flip(0).reshape(1, 11)
    assert health.quantiles(d, d >= 0).tolist() == pytest.approx([1, 5, 9])
    with pytest.raises(ValueError, match="mask = 0 pairs"):
        health.quantiles(d, d < 0)


# Mining


def test_hardest_hinge_is_the_loss_of_the_hardest_triplets():
    d = normal(0, 20, 15).square()
    kind = torch.randint(3, (20, 15), generator=torch.Generator().manual_seed(0))
    positive, negative = kind == 0, kind == 1
    positive[0] = negative[1] = False  # two anchors without a triplet count for nothing
    hinges = []
    for a in range(20):
        far = max((d[a, c].item() for c in range(15) if positive[a, c]), default=None)
        near = min((d[a, c].item() for c in range(15) if negative[a, c]), default=None)
        if far is not None and near is not None:
            hinges.append(max(0.0, MARGIN + far - near))
    measured = health.hardest_hinge(d, positive, negative, MARGIN).item()
    assert measured == pytest.approx(sum(hinges) / len(hinges))
    with pytest.raises(ValueError, match="0 anchors have a positive and a negative"):
        health.hardest_hinge(d, positive, positive & False, MARGIN)


def held_out(pairs, n_users, n_items):
    user, item = np.array(sorted(pairs), dtype=np.int32).T.copy()
    weight, time = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
    return to_device(Interactions(user, item, weight, time, n_users, n_items), torch.device("cpu"))


def test_false_negatives_equal_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    pairs = {tuple(pair) for pair in torch.randint(9, (30, 2), generator=generator).tolist()}
    known = held_out(pairs, 9, 9)
    users, negatives = torch.randint(9, (2, 200), generator=generator)
    asked = list(zip(users.tolist(), negatives.tolist(), strict=True))
    expected = sum(pair in pairs for pair in asked) / 200
    assert 0 < expected < 1
    assert health.false_negative_rate(users, negatives, known).item() == pytest.approx(expected)
    assert health.false_negative_rate(users[:0], negatives[:0], known) == 0


def probe(points, labels, mine, distance=euclidean, offset=0.0):
    """Health of labelled points, each an anchor and a candidate of all others; offsets (N,) or none."""
    without_offset = distance(points, points)
    d = without_offset + offset
    positive, negative = masks(labels)
    triplets = miners.mine_matrix(mine, d, positive, negative, MARGIN)
    each = losses.triplet_margin(*triplets.distances(d, d), MARGIN)
    pairs = health.Pairs(d, without_offset, positive, negative)
    return health.measure(points, points, labels, pairs, health.MinedSample(triplets, each, MARGIN))


def masks(labels):
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


def test_health_by_hand():
    """On a line: class 0 at 0 and 1, class 1 at 1.25 and 3.25."""
    points = torch.tensor([[0.0, 0], [1, 0], [1.25, 0], [3.25, 0]])
    now = probe(points, torch.tensor([0, 0, 1, 1]), miners.hardest)
    expected = Health(
        effective_rank=1,
        norm_spread=math.sqrt((1.375**2 + 0.375**2 + 0.125**2 + 1.875**2) / 4) / 1.375,
        uniformity=math.log((3 + 3 * math.exp(-2)) / 6),  # the origin is 1 from the others' direction
        alignment=1.5,
        compactness=(2 * 0.25 + 2 * 1) / 4,
        separation=1.75**2,
        positive_low=1,
        positive_median=1.5,
        positive_high=2,
        negative_low=0.25,  # .25, 1.25, 2.25, 3.25, twice each: at ranks .7, 3.5 and 6.3 of 0 to 7
        negative_median=1.75,
        negative_high=3.25,
        hardest_hinge=((0.5 + 1 - 1.25) + (0.5 + 1 - 0.25) + (0.5 + 2 - 0.25) + (0.5 + 2 - 2.25)) / 4,
        distance_range=3.25 - 0.25,
        mined=1,
        active=1,
        false_negatives=None,
    )
    assert now.false_negatives is None
    assert now[:-1] == pytest.approx(expected[:-1], rel=1e-5)
    semi = probe(points, torch.tensor([0, 0, 1, 1]), miners.semi_hard)
    assert (semi.mined, semi.active) == (0.5, 1)  # the first at 1 < 1.25 < 1.5, the last at 2 < 2.25 < 2.5


def small(**changes):
    """Three anchors, two of them with triplets: two and one."""
    d = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 9.0], [1.0, 2.0, 3.0]])
    positive = torch.tensor([[True, True, False]]).expand(3, 3)
    triplets = miners.Triplets(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), torch.tensor([2, 2, 2]))
    plain = {
        "rows": normal(0, 6, 2),
        "members": normal(1, 4, 2),
        "labels": torch.tensor([0, 0, 1, 1]),
        "d": d,
        "without_offset": d,
        "positive": positive,
        "negative": ~positive,
        "triplets": triplets,
        "losses": losses.triplet_margin(*triplets.distances(d, d), MARGIN),
        "margin": MARGIN,
    }
    given = plain | changes
    pairs, mined = (
        of(**{name: given.pop(name) for name in of._fields if name in given})
        for of in (health.Pairs, health.MinedSample)
    )
    return health.measure(**given, pairs=pairs, mined=mined)


def test_health_counts_anchors_not_triplets_and_takes_the_false_negatives():
    now = small(false_negatives=torch.tensor(0.25))
    assert now.mined == pytest.approx(2 / 3)
    assert now.active == pytest.approx(2 / 3)
    assert now.false_negatives == 0.25


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "shape"), [("rows", (6, 2)), ("members", (4, 2)), ("d", (3, 3)), ("without_offset", (3, 3))]
)
def test_numbers_that_are_not_finite_are_refused_by_name(name, shape, bad):
    values = torch.ones(shape)
    values[1, 1] = bad
    with pytest.raises(FloatingPointError, match=f"{name} are not all finite"):
        small(**{name: values})


# Collapse


def classes(seed, width=1.0):
    """120 points of 6 classes, 16-d."""
    labels = torch.arange(120) % 6
    return normal(seed, 6, 16)[labels] * 2 + normal(seed + 1, 120, 16) * width, labels


def test_a_space_in_order_or_freshly_drawn_has_not_collapsed():
    for width in (0.3, 1.0, 3.0):
        points, labels = classes(0, width)
        now = probe(points, labels, miners.hardest)
        assert find_collapse(now, None, MARGIN) is None
        assert find_collapse(now, now, MARGIN) is None


def test_a_point_is_a_collapse_though_its_rank_stays():
    points, labels = classes(0)
    before = probe(points, labels, miners.hardest)
    now = probe(points * 1e-3 + 1, labels, miners.hardest)
    assert now.effective_rank == pytest.approx(before.effective_rank, rel=1e-5)
    assert find_collapse(now, None, MARGIN).startswith(
        "everything is at one point: the hardest hinge is 0.49"
    )
    # an inner product of one point with itself is not near 0, but the same for all pairs
    product = probe(points * 1e-3 + 1, labels, miners.hardest, lambda x, y: -x @ y.T)
    assert product.positive_median == pytest.approx(-16, rel=0.05)


def test_offsets_do_not_hide_a_point():
    """Items that are farther from all users keep the distances different, and the hinge off the margin."""
    points, labels = classes(0)
    offset = torch.linspace(0, 2, len(points))
    before, now = (probe(at, labels, miners.hardest, offset=offset) for at in (points, points * 1e-3 + 1))
    assert now.negative_high - now.positive_low > MARGIN
    assert find_collapse(before, None, MARGIN) is None
    assert find_collapse(now, before, MARGIN).startswith("everything is at one point")


def test_lost_directions_are_a_collapse_though_distances_stay():
    points, labels = classes(0)
    before = probe(points, labels, miners.hardest)
    line = points * torch.tensor([9.0] + [0.01] * 15)
    now = probe(line, labels, miners.hardest)
    assert find_collapse(now, None, MARGIN) is None
    assert (
        find_collapse(now, before, MARGIN) == f"effective rank fell from {before.effective_rank:.1f} to 1.1"
    )


def test_collapse_at_its_borders():
    points, labels = classes(0)
    healthy = probe(points, labels, miners.hardest)
    at = healthy._replace(hardest_hinge=MARGIN * 1.04, distance_range=MARGIN * 0.09)
    assert find_collapse(at, None, MARGIN)
    assert find_collapse(at._replace(hardest_hinge=MARGIN * 1.06), None, MARGIN) is None
    assert find_collapse(at._replace(hardest_hinge=MARGIN * 0.94), None, MARGIN) is None
    assert find_collapse(at._replace(distance_range=MARGIN * 0.11), None, MARGIN) is None
    assert (
        find_collapse(healthy._replace(effective_rank=4.1), healthy._replace(effective_rank=8), MARGIN)
        is None
    )
    assert find_collapse(healthy._replace(effective_rank=3.9), healthy._replace(effective_rank=8), MARGIN)


@pytest.mark.parametrize("margin", [0, -1.0, math.nan])
def test_collapse_refuses_margins_by_name(margin):
    points, labels = classes(0)
    with pytest.raises(ValueError, match=f"margin = {margin}, allowed > 0"):
        find_collapse(probe(points, labels, miners.hardest), None, margin)


# Batch-hard from a random start (KevinMusgrave/pytorch-metric-learning#20), and the way back

CLASSES, OF_EACH, WIDTH = 20, 24, 64


def tower(generator):
    """Two hidden layers, 64 -> 16."""
    layers = [nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)]
    for layer in layers[::2]:
        for part in layer.parameters():
            nn.init.uniform_(part, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=generator)
    return nn.Sequential(*layers)


def noisy_classes(generator):
    """(N, 64), (N,): Gaussian classes, their noise twice as wide as their centres are spread."""
    labels = torch.arange(CLASSES).repeat_interleave(OF_EACH)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    return centres[labels] + 2 * torch.randn(len(labels), WIDTH, generator=generator), labels


def neighbours_agree(points, labels):
    """Share of the points whose nearest other point is of their class; chance is .05."""
    d = squared_euclidean(points, points).fill_diagonal_(math.inf)
    return (labels[d.argmin(1)] == labels).double().mean().item()


def train(seed, on_collapse):
    """Five epochs of 10 x 8 batches, the hardest miner first -> health and verdict of each, and 1-nn.

    on_collapse: "stay" with it, or once take the semi-hard one, from the weights as they are ("continue") or
    from those of the last healthy epoch ("rewind").
    """
    generator = torch.Generator().manual_seed(seed)
    data, labels = noisy_classes(generator)
    model, mine = tower(generator), miners.hardest
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.no_grad():
        healthy, kept = probe(model(data), labels, mine), copy.deepcopy(model.state_dict())
    history = []
    for _ in range(5):
        for _ in range(20):
            drawn = torch.randperm(CLASSES, generator=generator)[:10, None] * OF_EACH  # (10, 1)
            rows = (drawn + torch.rand(10, OF_EACH, generator=generator).argsort(1)[:, :8]).flatten()  # (80,)
            points = model(data[rows])
            d = euclidean(points, points)
            triplets = miners.mine_matrix(mine, d, *masks(labels[rows]), MARGIN)
            each = losses.triplet_margin(*triplets.distances(d, d), MARGIN)
            loss = each.sum() / max(len(each), 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            now = probe(model(data), labels, mine)
        reason = find_collapse(now, healthy, MARGIN)
        history.append((now, reason))
        if reason is None:
            healthy, kept = now, copy.deepcopy(model.state_dict())
        elif mine is miners.hardest and on_collapse != "stay":
            mine = miners.semi_hard
            if on_collapse == "rewind":
                model.load_state_dict(kept)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.no_grad():
        return history, neighbours_agree(model(data), labels)


@pytest.fixture
def one_thread():
    """Layers this small wait longer for threads than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", [2, 3])
def test_the_hardest_miner_collapses_a_random_start_and_semi_hard_recovers_from_the_last_healthy_epoch(seed):
    stuck, agree_stuck = train(seed, "stay")
    assert any(reason for _, reason in stuck[:2])  # within two epochs
    last, reason = stuck[-1]
    assert last.hardest_hinge == pytest.approx(MARGIN, rel=0.02)
    assert reason.startswith("everything is at one point")
    assert last.effective_rank < 3
    assert agree_stuck < 0.2

    rewound, agree_rewound = train(seed, "rewind")
    last, reason = rewound[-1]
    assert [reason for _, reason in rewound[3:]] == [None] * 2  # the rank may fall once more before
    assert last.effective_rank > 5
    assert last.separation > 8 * last.compactness
    assert agree_rewound > 0.85

    _, agree_continued = train(seed, "continue")  # a tower whose units died finds no triplet any more
    assert agree_continued < agree_rewound - 0.1
