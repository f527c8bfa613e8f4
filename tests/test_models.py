"""The metric space against naive loops, and its exported vectors against the exact search and the index."""

import numpy as np
import pytest
import torch

from recsys.index import ItemIndex, exact_top_k
from recsys.models import MetricSpace, random_start
from recsys.spaces import (
    Space,
    add_distances,
    euclidean_vectors,
    inner_product_as_distance,
    same_for_all,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def space(n_users=20, n_items=200, dim=5, learn_offset=True):
    offset = 1 + normal(2, n_items).abs()
    return MetricSpace(normal(0, n_users, dim), normal(1, n_items, dim), offset, learn_offset)


def all_distances(model):
    with torch.no_grad():
        return model.distance(torch.arange(len(model.users)), torch.arange(len(model.items)))  # (U, I)


def assert_nearest_first(ranked, distance):
    """Every item once, in the order of (U, I) distances but for their rounding."""
    np.testing.assert_array_equal(
        np.sort(ranked), np.broadcast_to(np.arange(distance.shape[1]), ranked.shape)
    )
    assert np.diff(np.take_along_axis(distance.numpy(), ranked, 1)).min() > -1e-5


def test_distances_equal_the_naive_loop():
    model = space(6, 9, 3)
    users, items = torch.tensor([5, 0, 5]), torch.tensor([8, 1, 1])
    distance, of_pairs = model.distance(users, items), model.pair_distance(users, items)
    for a, user in enumerate(users):
        for c, item in enumerate(items):
            square = sum((model.users[user, k] - model.items[item, k]).item() ** 2 for k in range(3))
            assert distance[a, c].item() == pytest.approx(square + model.offset[item].item(), abs=1e-5)
    torch.testing.assert_close(of_pairs, distance.diagonal())


def test_the_start_is_copied():
    users, items, offset = normal(0, 3, 2), normal(1, 4, 2), torch.ones(4)
    model = MetricSpace(users, items, offset)
    users.zero_(), items.zero_(), offset.zero_()
    for kept, start in zip(
        model.parameters(), (normal(0, 3, 2), normal(1, 4, 2), torch.ones(4)), strict=True
    ):
        assert torch.equal(kept, start)


def test_the_offset_is_learned_only_where_it_is_to_be():
    for learn in (True, False):
        model = space(learn_offset=learn)
        model.distance(torch.arange(3), torch.arange(4)).sum().backward()
        assert (model.offset.grad is not None) == learn


@pytest.mark.parametrize(
    ("items", "offset", "shapes"),
    [((4, 3), 4, r"\[3, 2\], \[4, 3\], \[4\]"), ((4, 2), 3, r"\[3, 2\], \[4, 2\], \[3\]")],
)
def test_shapes_that_disagree_are_refused(items, offset, shapes):
    with pytest.raises(ValueError, match=shapes):
        MetricSpace(torch.zeros(3, 2), torch.zeros(items), torch.zeros(offset))


@pytest.mark.parametrize("lowest", [-0.5, torch.nan])
def test_an_offset_below_zero_is_refused(lowest):
    with pytest.raises(ValueError, match=f"offset starts at {lowest}, allowed >= 0"):
        MetricSpace(torch.zeros(3, 2), torch.zeros(2, 2), torch.tensor([lowest, 1.0]))


def test_project_pulls_rows_onto_the_unit_ball_and_leaves_inner_rows_untouched():
    lengths = torch.tensor([[0.0], [1e-9], [0.5], [0.99], [1.5], [1e6]])
    directions = torch.nn.functional.normalize(normal(0, 6, 4))
    start = directions * lengths
    model = MetricSpace(start, start.flip(0), torch.full((6,), 0.1))
    model.project()
    for rows in (model.users.detach(), model.items.detach().flip(0)):
        assert torch.equal(rows[:4], start[:4])
        torch.testing.assert_close(rows[4:], directions[4:])
        assert rows.norm(dim=1).max() <= 1 + 1e-6
    assert (model.offset == 0.1).all()


def test_project_raises_all_offsets_together_where_one_is_below_zero():
    model = space(n_items=4)
    with torch.no_grad():
        model.offset.copy_(torch.tensor([0.5, -1.5, 0.0, 2.0]))
    model.project()
    assert model.offset.tolist() == [2, 0, 1.5, 3.5]


def test_exported_vectors_rank_as_the_model_does():
    model = space()
    users, items = euclidean_vectors(model.space())
    assert (users.shape, items.shape) == ((20, 6), (200, 6))
    distance = all_distances(model)
    torch.testing.assert_close(torch.cdist(users, items).square(), distance - model.offset.detach().min())
    exact, _ = exact_top_k(users.numpy(), items.numpy(), 200)
    assert_nearest_first(exact, distance)
    index = ItemIndex.build(items.numpy(), trees=10, seed=0)
    found = [index.query(user.numpy(), 200, search_k=10**5)[0] for user in users]
    assert_nearest_first(np.stack(found), distance)


def test_random_start_has_the_length_it_is_given_and_comes_from_the_generator():
    start = [random_start(500, 300, 16, 0.3, torch.Generator().manual_seed(0)) for _ in range(2)]
    for rows, again, n in zip(*start, (500, 300), strict=True):
        assert torch.equal(rows, again)
        assert rows.shape == (n, 16)
        assert rows.square().sum(1).mean().sqrt().item() == pytest.approx(0.3, rel=0.05)


def test_an_inner_product_as_a_distance():
    users, items = normal(0, 20, 5) * 3, normal(1, 200, 5) * 7
    inner = users @ items.T  # (U, I)
    unit, scaled, offset = inner_product_as_distance(users, items)
    model = MetricSpace(unit, scaled, offset)
    cosine = inner / users.norm(dim=1, keepdim=True) / items.norm(dim=1).max()
    torch.testing.assert_close(all_distances(model), 2 - 2 * cosine)
    vectors = [part.numpy() for part in euclidean_vectors(model.space())]
    ranked, _ = exact_top_k(*vectors, 200)
    assert_nearest_first(ranked, -cosine)
    assert max(unit.norm(dim=1).max(), scaled.norm(dim=1).max()) <= 1 + 1e-6
    assert offset.min() >= 0


def test_an_inner_product_of_zeros_stays_finite():
    for users, items in ((torch.zeros(2, 3), normal(0, 4, 3)), (normal(0, 2, 3), torch.zeros(4, 3))):
        assert all(torch.isfinite(part).all() for part in inner_product_as_distance(users, items))


def all_of(space):
    """(U, I): the distances of a space."""
    return torch.cdist(space.users, space.items).square() + space.offset


def test_added_distances_are_sums():
    first = Space(normal(0, 4, 3), normal(1, 6, 3), torch.rand(6))
    second = Space(normal(2, 4, 5), normal(3, 6, 5), torch.rand(6))
    for weight in (0.0, 0.25, 9.0):
        both = add_distances(first, second, weight)
        assert (both.users.shape, both.items.shape) == ((4, 8), (6, 8))
        torch.testing.assert_close(all_of(both), all_of(first) + weight * all_of(second))
    for bad in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"weight = {bad}, allowed >= 0"):
            add_distances(first, second, bad)


def test_the_same_for_all_adds_an_offset_and_no_coordinates():
    first, offset = Space(normal(0, 4, 3), normal(1, 6, 3), torch.rand(6)), torch.rand(6)
    both = add_distances(first, same_for_all(offset, n_users=4), 2.0)
    assert torch.equal(both.users, first.users)
    torch.testing.assert_close(both.offset, first.offset + 2 * offset)
    users, items = euclidean_vectors(same_for_all(offset, n_users=4))
    assert users.tolist() == [[0]] * 4
    torch.testing.assert_close(items[:, 0].square(), offset - offset.min())
