"""Distances against naive loops over pairs and coordinates, and against pytorch-metric-learning."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity, LpDistance

from recsys.distances import (
    Mahalanobis,
    cosine,
    euclidean,
    inner_product,
    pairs,
    squared_euclidean,
    with_offset,
)

FUNCTIONS = {
    "squared_euclidean": squared_euclidean,
    "euclidean": euclidean,
    "cosine": cosine,
    "inner_product": inner_product,
}
FORMS = ("diagonal", "low_rank", "full")
EVERY = (*FUNCTIONS, *FORMS)
METRICS = tuple(name for name in EVERY if name != "inner_product")


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def learned(form, dim, seed=7, rank=2):
    """A Mahalanobis distance in float64 whose parameters have left the identity."""
    distance = Mahalanobis(dim, form, min(rank, dim)).double()
    with torch.no_grad():
        for i, parameter in enumerate(distance.parameters()):
            parameter.copy_(normal(seed + i, *parameter.shape))
    return distance


def named(name, dim):
    return FUNCTIONS[name] if name in FUNCTIONS else learned(name, dim)


def matrix(distance, dim):
    """(D, D): M = L^T L of a Mahalanobis distance, by its definition."""
    if distance.form == "diagonal":
        linear = distance.scale.diag()
    elif distance.form == "low_rank":
        linear = torch.eye(dim, dtype=torch.float64) + distance.outer @ distance.inner
    else:
        linear = distance.linear
    return (linear.T @ linear).tolist()


def naive(distance, a, c, o):
    """One pair, worked with Python numbers: its distance and the gradients to a, to c and to o."""
    dim = len(a)
    apart = [a[k] - c[k] for k in range(dim)]
    if distance is inner_product:
        return o - sum(a[k] * c[k] for k in range(dim)), [-x for x in c], [-x for x in a], 1.0
    if distance is cosine:
        p, q = math.sqrt(sum(x * x for x in a)), math.sqrt(sum(x * x for x in c))
        cos = sum(a[k] * c[k] for k in range(dim)) / (p * q)
        to_a = [-(c[k] / q - cos * a[k] / p) / p for k in range(dim)]
        to_c = [-(a[k] / p - cos * c[k] / q) / q for k in range(dim)]
        return 1 - cos + o, to_a, to_c, 1.0
    m = [[float(j == k) for k in range(dim)] for j in range(dim)]
    if isinstance(distance, Mahalanobis):
        m = matrix(distance, dim)
    pulled = [sum(m[j][k] * apart[k] for k in range(dim)) for j in range(dim)]
    square = sum(apart[j] * pulled[j] for j in range(dim)) + o
    slope = 0.5 / math.sqrt(square) if distance is euclidean else 1.0  # of the distance by its square
    to_a = [2 * slope * x for x in pulled]
    return math.sqrt(square) if distance is euclidean else square, to_a, [-x for x in to_a], slope


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("with_one", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 7, 3), (5, 1, 1), (0, 7, 3), (5, 0, 3)])
def test_value_and_gradients_equal_the_naive_loop(name, with_one, shape):
    a, c, dim = shape
    distance = named(name, dim)
    anchors, candidates, weight = normal(0, a, dim), normal(1, c, dim), normal(2, a, c)
    offset = normal(3, c).abs() if with_one else torch.zeros(c, dtype=torch.float64)
    for start in (anchors, candidates, offset):
        start.requires_grad_()
    d = distance(anchors, candidates, offset) if with_one else distance(anchors, candidates)
    assert d.shape == (a, c)
    (d * weight).sum().backward()

    expected = [torch.zeros_like(part) for part in (anchors, candidates, offset)]
    for i in range(a):
        for j in range(c):
            value, *gradients = naive(distance, anchors[i].tolist(), candidates[j].tolist(), offset[j].item())
            assert d[i, j].item() == pytest.approx(value, rel=1e-9, abs=1e-12)
            for total, row, gradient in zip(expected, (i, j, j), gradients, strict=True):
                total[row] += weight[i, j].item() * torch.tensor(gradient, dtype=torch.float64)
    torch.testing.assert_close(anchors.grad, expected[0])
    torch.testing.assert_close(candidates.grad, expected[1])
    if with_one:
        torch.testing.assert_close(offset.grad, expected[2])


@pytest.mark.parametrize("name", EVERY)
def test_gradcheck(name):
    distance = named(name, 3)
    parameters = list(distance.parameters()) if name in FORMS else []
    points = [normal(0, 3, 3), normal(1, 4, 3), normal(2, 4).abs() + 0.1]

    def of_all(anchors, candidates, offset, *_):  # gradcheck moves the parameters in place
        return distance(anchors, candidates, offset)

    assert torch.autograd.gradcheck(of_all, [*(part.requires_grad_() for part in points), *parameters])


def test_golden_values():
    anchors, candidates = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    offset = torch.tensor([0.0, 11.0])
    assert squared_euclidean(anchors, candidates, offset).tolist() == [[25, 36], [0, 111]]
    assert euclidean(anchors, candidates).tolist() == [[5, 5], [0, 10]]
    assert euclidean(anchors, candidates, offset)[0].tolist() == [5, 6]
    torch.testing.assert_close(cosine(anchors, candidates, offset), torch.tensor([[1.0, 11.0], [1.0, 12.0]]))
    assert inner_product(anchors, candidates, offset).tolist() == [[0, -39], [0, 11]]


@pytest.mark.parametrize(
    ("ours", "theirs", "shift", "sign"),
    [
        (squared_euclidean, LpDistance(power=2, normalize_embeddings=False), 0, 1),
        (euclidean, LpDistance(power=1, normalize_embeddings=False), 0, 1),
        (cosine, CosineSimilarity(), 1, -1),
        (inner_product, DotProductSimilarity(normalize_embeddings=False), 0, -1),
    ],
)
def test_pytorch_metric_learning_agrees(ours, theirs, shift, sign):
    """Theirs are similarities where is_inverted: the larger the closer, hence the sign and the shift."""
    assert theirs.is_inverted == (sign < 0)
    generator = torch.Generator().manual_seed(0)
    for seed in range(50):
        a, c, dim = torch.randint(1, 12, (3,), generator=generator).tolist()
        points = [normal(3 * seed, a, dim).requires_grad_(), normal(3 * seed + 1, c, dim).requires_grad_()]
        weight = normal(3 * seed + 2, a, c)
        d, expected = ours(*points), shift + sign * theirs(*points)
        torch.testing.assert_close(d, expected)
        torch.testing.assert_close(
            torch.autograd.grad((d * weight).sum(), points),
            torch.autograd.grad((expected * weight).sum(), points),
        )


def test_where_pytorch_metric_learning_differs():
    """A row of length 0: theirs divides by 1e-12, so its gradient is that many times too long for a step."""
    nothing, candidates = torch.zeros(1, 2).requires_grad_(), torch.tensor([[0.0, 3.0]])
    (gradient,) = torch.autograd.grad(cosine(nothing, candidates), nothing)
    (theirs,) = torch.autograd.grad(-CosineSimilarity()(nothing, candidates), nothing)
    assert gradient.tolist() == [[0, -1]]
    torch.testing.assert_close(theirs, 1e12 * gradient)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_distance_zero_and_of_length_zero_are_finite(name, dtype):
    distance = named(name, 4)
    if name in FORMS:
        distance = distance.to(dtype)
    rows = torch.cat([torch.zeros(2, 4), torch.ones(2, 4), 1e-30 * torch.ones(2, 4)]).to(dtype)
    anchors, candidates = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    offset = torch.zeros(6, dtype=dtype).requires_grad_()
    for d in (distance(anchors, candidates, offset), pairs(distance, anchors, candidates, offset)):
        assert torch.isfinite(d).all()
        for gradient in torch.autograd.grad(d.sum(), (anchors, candidates, offset)):
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("distance", [squared_euclidean, euclidean])
def test_the_gradient_at_distance_zero_is_zero(distance):
    anchors, candidates = torch.ones(1, 2).requires_grad_(), torch.ones(1, 2).requires_grad_()
    d = distance(anchors, candidates)
    d.backward()
    assert d.item() == 0
    assert torch.equal(anchors.grad, torch.zeros(1, 2))
    assert torch.equal(candidates.grad, torch.zeros(1, 2))


@pytest.mark.parametrize("name", METRICS)
def test_never_below_zero(name):
    rows = (normal(0, 50, 16) + 100).float()  # squares of 1e5: rounding goes below zero
    distance = FUNCTIONS[name] if name in FUNCTIONS else learned(name, 16).float()
    assert (distance(rows, rows, None) >= 0).all()
    assert (
        distance(rows, rows, torch.full((50,), 2.0)) >= (math.sqrt(2) if name == "euclidean" else 2)
    ).all()


def test_an_offset_that_takes_euclidean_below_zero_is_seen():
    d = euclidean(torch.zeros(1, 2), torch.ones(2, 2), torch.tensor([-3.0, -1.0]))
    assert d.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("name", METRICS)
def test_symmetry(name):
    distance, rows = named(name, 5), normal(0, 12, 5)
    d = distance(rows, rows, None)
    torch.testing.assert_close(d, d.T)
    assert d.diagonal().abs().max() < 1e-6


@pytest.mark.parametrize("name", ["euclidean", *FORMS])
def test_the_triangle_inequality_holds_for_roots(name):
    d = named(name, 3)(normal(0, 25, 3), normal(0, 25, 3), None)
    d = d if name == "euclidean" else d.sqrt()
    through = (d[:, :, None] + d[None, :, :]).amin(1)  # (A, C): the shortest way over a third row
    assert (d <= through + 1e-6).all()


def test_the_triangle_inequality_fails_for_squares():
    d = squared_euclidean(*[torch.tensor([[0.0], [1.0], [2.0]])] * 2)
    assert d[0, 2] > d[0, 1] + d[1, 2]


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.permutations(range(7)))
def test_permuted_candidates_permute_the_columns(name, seed, dim, order):
    distance = named(name, dim)
    anchors, candidates = normal(seed, 4, dim), normal(seed + 1, 7, dim)
    offset = normal(seed + 2, 7).abs()
    d = distance(anchors, candidates, offset)
    torch.testing.assert_close(distance(anchors, candidates[order], offset[order]), d[:, order])
    torch.testing.assert_close(distance(anchors.flip(0), candidates, offset), d.flip(0))


def test_the_offset_belongs_to_the_candidate():
    distance = with_offset(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 20.0]))
    assert distance.tolist() == [[11, 22], [13, 24]]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("learns", [False, True])
def test_an_offset_in_single_precision_is_kept(name, half, learns):
    """Beside rows in half precision; and what is given is not written to."""
    distance = named(name, 3)
    if isinstance(distance, torch.nn.Module):
        distance = distance.to(half)
    anchors, candidates, offset = normal(0, 2, 3).to(half), normal(1, 4, 3).to(half), normal(2, 4).abs()
    before = anchors.clone(), candidates.clone(), offset.clone()
    with torch.set_grad_enabled(learns):
        d = distance(anchors, candidates, offset)
    assert d.dtype == offset.dtype
    expected = named(name, 3)(anchors.to(offset.dtype), candidates.to(offset.dtype), offset)
    torch.testing.assert_close(d.detach(), expected.detach(), rtol=0.05, atol=0.05)
    assert all(torch.equal(*both) for both in zip((anchors, candidates, offset), before, strict=True))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (2, 4), ()])
def test_an_offset_of_another_shape_is_refused(name, shape):
    with pytest.raises(ValueError, match=r"offset is \[.*\], expected \[4\]: one a candidate"):
        named(name, 2)(normal(0, 2, 2), normal(1, 4, 2), torch.zeros(shape))


HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def in_dtype(name, dtype):
    """The distance named; a Mahalanobis one at its start, which is exact in any precision."""
    return FUNCTIONS[name] if name in FUNCTIONS else Mahalanobis(64, name).to(dtype)


def near_and_far():
    """(A, D), (C, D) of about unit length; each anchor has a close candidate, where a square loses most."""
    anchors, candidates = normal(0, 20, 64) / 8, normal(1, 60, 64) / 8
    candidates[:20] = anchors + 0.05 * candidates[:20]
    return anchors, candidates


@HALF
@pytest.mark.parametrize("name", EVERY)
def test_half_precision_errors_stay_within_bounds(name, dtype):
    anchors, candidates = (rows.to(dtype) for rows in near_and_far())
    with torch.no_grad():
        d = in_dtype(name, dtype)(anchors, candidates)
        exact = in_dtype(name, torch.float64)(anchors.double(), candidates.double())
    assert d.dtype == dtype
    eps = torch.finfo(dtype).eps
    sizes = anchors.double().square().sum(1)[:, None] + candidates.double().square().sum(1)  # (A, C)
    bound = {"euclidean": (2 * eps * sizes).sqrt(), "cosine": 2 * eps, "inner_product": 0.5 * eps * sizes}
    assert ((d.double() - exact).abs() <= bound.get(name, 2 * eps * sizes)).all()


@HALF
@pytest.mark.parametrize("name", EVERY)
def test_half_precision_gradients_stay_within_bounds(name, dtype):
    """Over the largest component. A root close to 0 has a slope that half precision cannot tell."""
    anchors, candidates = near_and_far()
    if name == "euclidean":
        close = [rows[:20].to(dtype).requires_grad_() for rows in (anchors, candidates)]
        euclidean(*close).sum().backward()
        assert all(torch.isfinite(rows.grad).all() for rows in close)
        candidates = candidates[20:]
    weight = normal(2, len(anchors), len(candidates)).to(dtype)
    half = [rows.to(dtype).requires_grad_() for rows in (anchors, candidates)]
    double = [rows.detach().double().requires_grad_() for rows in half]
    (in_dtype(name, dtype)(*half) * weight).sum().backward()
    (in_dtype(name, torch.float64)(*double) * weight.double()).sum().backward()
    for h, d in zip(half, double, strict=True):
        error = (h.grad.double() - d.grad).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * d.grad.abs().max()


def manhattan(anchors, candidates, offset):
    """A distance function of the user's own."""
    return with_offset((anchors.unsqueeze(-2) - candidates.unsqueeze(-3)).abs().sum(-1), offset)


@pytest.mark.parametrize("name", [*EVERY, "manhattan"])
@pytest.mark.parametrize("with_one", [False, True])
def test_pairs_are_the_diagonal_with_its_gradients(name, with_one):
    distance = manhattan if name == "manhattan" else named(name, 3)
    x, y = normal(0, 6, 3).requires_grad_(), normal(1, 6, 3).requires_grad_()
    offset = normal(2, 6).abs().requires_grad_() if with_one else None
    weight, inputs = normal(3, 6), [x, y]
    inputs += [offset] if with_one else []
    inputs += list(distance.parameters()) if name in FORMS else []
    d, expected = pairs(distance, x, y, offset), distance(x, y, offset).diagonal()
    torch.testing.assert_close(d, expected)
    torch.testing.assert_close(
        torch.autograd.grad((d * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
    )
    assert pairs(distance, x[:0], y[:0], offset[:0] if with_one else None).shape == (0,)
    one = None if offset is None else offset[:, None]
    several = pairs(distance, x, torch.stack([y, x], 1), None if one is None else torch.cat([one, one], 1))
    torch.testing.assert_close(several[:, 0], expected)
    torch.testing.assert_close(several[:, 1], distance(x, x, offset).diagonal())


@pytest.mark.parametrize("name", [*EVERY, "manhattan"])
@pytest.mark.parametrize("with_one", [False, True])
def test_an_axis_before_the_others_is_that_many_matrices(name, with_one):
    distance = manhattan if name == "manhattan" else named(name, 4)
    anchors, candidates, offset = normal(0, 3, 5, 4), normal(1, 3, 7, 4), normal(2, 3, 7).abs()
    offsets = offset if with_one else [None] * 3
    expected = torch.stack([distance(*each) for each in zip(anchors, candidates, offsets, strict=True)])
    torch.testing.assert_close(distance(anchors, candidates, offset if with_one else None), expected)


def test_a_distance_of_matrices_alone_is_no_distance_of_pairs():
    def matrices_alone(anchors, candidates, offset):
        return (anchors[:, None] - candidates[None]).abs().sum(2)

    with pytest.raises(ValueError, match=r"the distance is \[6, 6, 3\], expected \[6, 1, 1\]"):
        pairs(matrices_alone, normal(0, 6, 3), normal(1, 6, 3))


@pytest.mark.parametrize("name", EVERY)
def test_pairs_are_the_same_bits_each_time(name):
    x, y, offset = normal(0, 300, 8), normal(1, 300, 8), normal(2, 300).abs()

    def gradients():
        distance = named(name, 8)
        inputs = [part.clone().requires_grad_() for part in (x, y, offset)]
        inputs += list(distance.parameters()) if name in FORMS else []
        return torch.autograd.grad(pairs(distance, *inputs[:3]).sum(), inputs)

    for first, again in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, again)


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="pairs of 3, 2 rows"):
        pairs(squared_euclidean, torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="pairs of 3, 3, 1 rows"):
        pairs(squared_euclidean, torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(1))


@pytest.mark.parametrize("form", FORMS)
def test_mahalanobis_starts_as_squared_euclidean(form):
    distance = Mahalanobis(10, form)
    anchors, candidates = normal(0, 8, 10).float(), normal(1, 9, 10).float()
    offset = normal(2, 9).float()
    assert torch.equal(distance.map(anchors), anchors)
    assert torch.equal(distance(anchors, candidates, offset), squared_euclidean(anchors, candidates, offset))


@pytest.mark.parametrize("form", FORMS)
def test_mahalanobis_learns_from_the_start(form):
    """Coordinate 0 alone tells the classes apart: a few steps make it count for more, and noise for less."""
    distance = Mahalanobis(4, form, rank=4)
    noise = normal(0, 40, 4).float()
    rows = torch.cat([noise[:, :1] * 0.1 + torch.tensor([[0.0], [1.0]]).repeat(20, 1), noise[:, 1:]], 1)
    same = torch.arange(40)[:, None] % 2 == torch.arange(40) % 2  # (A, C)

    def objective():
        d = distance(rows, rows)
        return d[same].mean() - 4 * d[~same].clamp_max(8).mean()

    optimizer = torch.optim.Adam(distance.parameters(), lr=0.02)
    objective().backward()
    moved = [p for p in distance.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert moved, "nothing would be learned"
    before = objective().item()
    for _ in range(50):
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()
    assert objective().item() < before - 0.1
    assert all(p.grad.abs().max() > 0 for p in distance.parameters())
    scale = distance.map(torch.eye(4)).norm(dim=1).detach()  # (D,): how long each unit vector has become
    assert scale[0] > scale[1:].max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_mahalanobis_is_positive_semi_definite(form, seed):
    distance = learned(form, 6, seed)
    mapped = distance.map(torch.eye(6, dtype=torch.float64)).detach()  # row j: L e_j
    m = mapped @ mapped.T  # (D, D): e_j^T M e_k
    torch.testing.assert_close(m, torch.tensor(matrix(distance, 6), dtype=torch.float64))
    assert torch.linalg.eigvalsh(m).min() >= -1e-9


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_low_rank_changes_no_more_directions_than_its_rank(rank):
    distance = learned("low_rank", 6, rank=rank)
    change = distance.map(torch.eye(6, dtype=torch.float64)) - torch.eye(6, dtype=torch.float64)
    assert torch.linalg.matrix_rank(change) == rank
    start = Mahalanobis(6, "low_rank", rank).inner.detach()
    torch.testing.assert_close(start @ start.T, torch.eye(rank))


@pytest.mark.parametrize(
    ("dim", "form", "rank", "message"),
    [
        (3, "learnt", 1, "form = 'learnt', allowed 'diagonal', 'low_rank', 'full'"),
        (3, "low_rank", 0, r"rank = 0, allowed 1\.\.3"),
        (3, "low_rank", 4, r"rank = 4, allowed 1\.\.3"),
        (0, "full", 1, "dim = 0, allowed >= 1"),
    ],
)
def test_what_mahalanobis_refuses(dim, form, rank, message):
    with pytest.raises(ValueError, match=message):
        Mahalanobis(dim, form, rank)
