"""Each distance's space: an index over it ranks as the distance does."""

import numpy as np
import pytest
import torch

from recsys.distances import Mahalanobis, cosine, euclidean, inner_product, squared_euclidean
from recsys.index import ItemIndex, exact_top_k
from recsys.spaces import (
    Space,
    add_distances,
    cosine_space,
    euclidean_space,
    euclidean_vectors,
    inner_product_as_distance,
    inner_product_space,
    same_for_all,
    unit_rows,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learned(form, dim):
    """A Mahalanobis distance whose parameters have left the identity."""
    distance = Mahalanobis(dim, form, min(3, dim))
    with torch.no_grad():
        for i, parameter in enumerate(distance.parameters()):
            parameter.copy_(normal(7 + i, *parameter.shape))
    return distance


def distance_and_space(name, dim):
    """A distance, its way to a space, and that space's distance as a * d^p plus a constant per user: a, p."""
    if name in ("diagonal", "low_rank", "full"):
        distance = learned(name, dim)
        return distance, distance.space, 1, 1
    return {
        "squared_euclidean": (squared_euclidean, euclidean_space, 1, 1),
        "euclidean": (euclidean, euclidean_space, 1, 2),
        "cosine": (cosine, cosine_space, 2, 1),
        "inner_product": (inner_product, inner_product_space, 2, 1),
    }[name]


NAMES = ("squared_euclidean", "euclidean", "cosine", "inner_product", "diagonal", "low_rank", "full")


def assert_ranks(space, d):
    """Index and exact search over a space list every item in the order of d (U, I), but for rounding."""
    users, items = (part.numpy() for part in euclidean_vectors(space))
    index = ItemIndex.build(items, trees=10, seed=0)
    found = np.stack([index.query(user, len(items), search_k=10**5)[0] for user in users])  # (U, I)
    for ranked in (found, exact_top_k(users, items, len(items))[0]):
        np.testing.assert_array_equal(np.sort(ranked), np.broadcast_to(np.arange(len(items)), ranked.shape))
        in_order = np.take_along_axis(d.numpy(), ranked, 1)  # (U, I)
        assert np.diff(in_order).min() > -1e-6 * np.ptp(in_order)
        assert (ranked[:, :10] == d.argsort(1)[:, :10].numpy()).mean() > 0.95


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_offset", [False, True])
def test_the_index_over_a_space_ranks_as_the_distance(name, with_offset):
    distance, to_space, *_ = distance_and_space(name, 5)
    users, items = normal(0, 20, 5), normal(1, 200, 5)
    offset = normal(2, 200) + 10 * (name == "euclidean") if with_offset else None
    model = distance.double() if isinstance(distance, Mahalanobis) else distance
    with torch.no_grad():
        d = model(users.double(), items.double(), None if offset is None else offset.double())
    if isinstance(distance, Mahalanobis):
        distance.float()
    assert_ranks(to_space(users, items, offset), d)


@pytest.mark.parametrize("name", NAMES)
def test_a_space_has_the_distances_it_says_but_for_a_constant_per_user(name):
    distance, to_space, times, power = distance_and_space(name, 3)
    distance = distance.double() if isinstance(distance, Mahalanobis) else distance
    users, items, offset = (normal(i, *shape).double() for i, shape in enumerate([(4, 3), (6, 3), (6,)]))
    offset = offset.abs()
    space = to_space(users, items, offset)
    squared = torch.cdist(space.users, space.items).square() + space.offset  # (U, I)
    difference = squared - times * distance(users, items, offset).detach() ** power
    torch.testing.assert_close(difference, difference[:, :1].expand(4, 6))
    if name != "inner_product":
        torch.testing.assert_close(difference, torch.zeros_like(difference))


@pytest.mark.parametrize("with_offset", [False, True])
def test_rows_of_length_zero_keep_their_place_under_cosine(with_offset):
    users, items = normal(0, 5, 3), normal(1, 20, 3)
    users[2], items[[3, 11]] = 0, 0
    offset = normal(2, 20) if with_offset else torch.arange(20) * 1e-3  # else the order of user 2 is open
    space = cosine_space(users, items, offset)
    squared = torch.cdist(space.users, space.items).square() + space.offset
    d = 2 * cosine(users, items, offset)
    torch.testing.assert_close(squared[[0, 1, 3, 4]], d[[0, 1, 3, 4]], rtol=0, atol=1e-5)
    torch.testing.assert_close(squared[2], d[2] - 1, rtol=0, atol=1e-5)
    assert_ranks(space, d)


def test_an_inner_products_offsets_start_at_zero():
    space = inner_product_space(normal(0, 4, 3) * 5, normal(1, 30, 3) * 5, normal(2, 30))
    assert space.offset.min() == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_space_carries_no_gradient(name):
    _, to_space, *_ = distance_and_space(name, 3)
    learning = [part.requires_grad_() for part in (normal(0, 4, 3), normal(1, 6, 3), normal(2, 6).abs())]
    for space in (to_space(*learning), to_space(*learning[:2])):
        assert not any(part.requires_grad for part in space)
        assert [list(part.shape) for part in space] == [[4, 3], [6, 3], [6]]


def test_unit_rows():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -1e-3]]).requires_grad_()
    unit = unit_rows(rows)
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))
    unit.sum().backward()
    torch.testing.assert_close(rows.grad, torch.tensor([[0.032, -0.024], [1.0, 1.0], [1e3, 0.0]]))


# What can be made of spaces


def all_of(space):
    """(U, I): the distances of a space."""
    return torch.cdist(space.users, space.items).square() + space.offset


def test_an_inner_product_as_a_distance():
    users, items = normal(0, 20, 5) * 3, normal(1, 200, 5) * 7
    inner = users @ items.T  # (U, I)
    space = inner_product_as_distance(users, items)
    cosine = inner / users.norm(dim=1, keepdim=True) / items.norm(dim=1).max()
    torch.testing.assert_close(all_of(space), 2 - 2 * cosine, rtol=1e-5, atol=1e-5)
    assert_ranks(space, -cosine)
    assert max(space.users.norm(dim=1).max(), space.items.norm(dim=1).max()) <= 1 + 1e-6
    assert space.offset.min() >= 0


def test_an_inner_product_of_zeros_stays_finite():
    for users, items in ((torch.zeros(2, 3), normal(0, 4, 3)), (normal(0, 2, 3), torch.zeros(4, 3))):
        assert all(torch.isfinite(part).all() for part in inner_product_as_distance(users, items))


def test_added_distances_are_sums():
    first = Space(normal(0, 4, 3), normal(1, 6, 3), normal(4, 6).abs())
    second = Space(normal(2, 4, 5), normal(3, 6, 5), normal(5, 6).abs())
    for weight in (0.0, 0.25, 9.0):
        both = add_distances(first, second, weight)
        assert (both.users.shape, both.items.shape) == ((4, 8), (6, 8))
        torch.testing.assert_close(all_of(both), all_of(first) + weight * all_of(second))
    for bad in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"weight = {bad}, allowed >= 0"):
            add_distances(first, second, bad)


def test_the_same_for_all_adds_an_offset_and_no_coordinates():
    first, offset = Space(normal(0, 4, 3), normal(1, 6, 3), normal(4, 6).abs()), normal(5, 6).abs()
    both = add_distances(first, same_for_all(offset, n_users=4), 2.0)
    assert torch.equal(both.users, first.users)
    torch.testing.assert_close(both.offset, first.offset + 2 * offset)
    users, items = euclidean_vectors(same_for_all(offset, n_users=4))
    assert users.tolist() == [[0]] * 4
    torch.testing.assert_close(items[:, 0].square(), offset - offset.min())
