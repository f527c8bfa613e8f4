"""The graph: sparse products, sums over hops, and the tower of them."""

import math

import numpy as np
import pytest
import torch
from clusters import N_ITEMS, N_USERS, TAKEN, normal, on_device
from torch.nn.functional import normalize

from recsys import baselines, distances, graph, ranking, sampling, spaces
from recsys.graph import adjacency, matrix, multiply, propagate
from recsys.models import Geometry, GraphSums, MetricSpace


def tower(hops=2, dim=8):
    return GraphSums(on_device(), 0.3 * normal(0, N_USERS, dim), hops)


def space(hops=2, dim=8):
    items, offset = 0.3 * normal(1, N_ITEMS, dim), normal(2, N_ITEMS).abs()
    geometry = Geometry(distances.cosine, spaces.cosine_space)
    return MetricSpace(tower(hops, dim), items, offset, geometry=geometry)


def dense_graph():
    """(U, I) by its definition."""
    of_user, of_item = TAKEN.sum(1), TAKEN.sum(0)
    d = np.zeros(TAKEN.shape)
    for u, i in np.argwhere(TAKEN):
        d[u, i] = 1 / math.sqrt(of_user[u] * of_item[i])
    return torch.from_numpy(d)


# Sparse products


def test_times_is_the_product_and_its_gradient_the_transposed_one():
    row, column = torch.tensor([4, 0, 0, 4, 2, 4]), torch.tensor([1, 3, 3, 0, 5, 1])  # places repeat
    value = normal(2, 6)
    dense = torch.zeros(5, 7).index_put_((row, column), value, accumulate=True)
    x = normal(3, 7, 4).requires_grad_()
    y = multiply(matrix(row, column, value, 5, 7), x)
    torch.testing.assert_close(y, dense @ x)
    weight = normal(4, 5, 4)
    (y * weight).sum().backward()
    torch.testing.assert_close(x.grad, dense.T @ weight)


def test_a_matrix_without_entries_is_zero():
    nothing = torch.empty(0, dtype=torch.int64)
    x = normal(0, 3, 2).requires_grad_()
    y = multiply(matrix(nothing, nothing, torch.empty(0), 4, 3), x)
    y.sum().backward()
    assert y.tolist() == [[0, 0]] * 4
    assert x.grad.tolist() == [[0, 0]] * 3


def test_adjacency_is_symmetrically_normalised():
    found = multiply(adjacency(on_device()), torch.eye(N_ITEMS))
    torch.testing.assert_close(found.double(), dense_graph(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_propagate_sums_over_hops(hops):
    users, items = normal(0, N_USERS, 3), normal(1, N_ITEMS, 3)
    a = dense_graph().float()
    expected_u, expected_i, u, i = users, items, users, items
    for _ in range(hops):
        u, i = a @ i, a.T @ u
        expected_u, expected_i = expected_u + u, expected_i + i
    found_u, found_i = propagate(adjacency(on_device()), users, items, hops)
    torch.testing.assert_close(found_u, expected_u, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_i, expected_i, rtol=1e-4, atol=1e-5)


# The tower


@pytest.mark.parametrize("hops", [1, 3])
def test_the_towers_points_are_sums_over_walks(hops):
    model, a = space(hops), dense_graph().float()
    user, item = model.tower.table.detach(), model.items.detach()
    all_users, all_items = user, item
    for _ in range(hops):
        user, item = a @ item, a.T @ user
        all_users, all_items = all_users + user, all_items + item
    users, items = torch.tensor([7, 3, 7, 0]), torch.tensor([1, 7, 59])
    with torch.no_grad():
        anchors = model.anchors(users, users, torch.Generator())
        points, offset = model.points(items)
    torch.testing.assert_close(anchors, all_users[users], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(points, all_items[items], rtol=1e-4, atol=1e-5)
    assert torch.equal(offset, model.offset[items])
    nobody, nothing = (
        anchors[1],
        points[1],
    )  # a user without items and an item without users are where they were
    torch.testing.assert_close(nobody, model.tower.table[3].detach())
    torch.testing.assert_close(nothing, model.items[7].detach())


def test_shared_sums_are_the_same_points_and_gradients_of_fewer_products(monkeypatch):
    counted, real = [], graph.propagate

    def count(*parts):
        counted.append(1)
        return real(*parts)

    monkeypatch.setattr("recsys.models.propagate", count)
    users, items = torch.arange(9), torch.arange(20)

    def gradients(model):
        anchors, (points, _) = model.anchors(users, users, torch.Generator()), model.points(items)
        return torch.autograd.grad((anchors @ points.T).square().sum(), (model.tower.table, model.items))

    model = space()
    alone = gradients(model)
    assert len(counted) == 2
    with model.shared_sums():
        together = gradients(model)
    assert len(counted) == 3
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)
    before = model.points(items)[0]
    with torch.no_grad():
        model.items.zero_()
    assert (model.points(items)[0] != before).all()  # nothing is kept after the block


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_sums_of_a_batch_are_those_of_all(hops):
    own_tower, items, users = tower(hops), 0.3 * normal(1, N_ITEMS, 8), torch.tensor([7, 3, 0])
    row, own = sampling.histories(own_tower.data, users)
    anchors, points = own_tower.sums_of(items, users, row, own)
    all_users, all_items = own_tower.sums(items)
    torch.testing.assert_close(anchors, all_users[users])
    torch.testing.assert_close(points, all_items)


def test_a_tower_without_hops_is_refused():
    with pytest.raises(ValueError, match="hops = 0, allowed >= 1"):
        tower(hops=0)


def test_rows_of_a_graph_are_held_nowhere_as_its_points_are_sums():
    tables, _, offsets = space().parameter_groups()
    assert (len(tables["params"]), tables["project"]) == (2, None)
    assert offsets["project"](torch.tensor([0.5, -1.5])).tolist() == [0.5, 0]


def test_the_space_ranks_as_the_distance():
    model = space()
    everything, everybody = torch.arange(N_ITEMS), torch.arange(N_USERS)
    with torch.no_grad():
        d = model.distance(model.anchors(everybody, everybody, torch.Generator()), *model.points(everything))
    users, items = spaces.euclidean_vectors(model.space())
    ranked = ranking.top_k(users, items, everybody, N_ITEMS)
    for row, order in zip(d, ranked, strict=True):
        assert (row[torch.from_numpy(order).long()].diff() >= -1e-5).all()


# Products of pairs


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pair_products_and_their_gradients_are_those_of_the_pairs(dtype):
    """Repeated pairs, and rows that are in none."""
    left, right = normal(0, 7, 5).to(dtype).requires_grad_(), normal(1, 9, 5).to(dtype).requires_grad_()
    row, column = torch.tensor([0, 0, 0, 2, 5, 5]), torch.tensor([8, 3, 3, 3, 0, 8])
    upstream = normal(2, 6).double()
    found = graph.pair_products(left, right, row, column)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    expected = (left[row].double() * right[column].double()).sum(1)
    tolerance = 1e-12 if dtype == torch.float64 else 0.03
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    ours = torch.autograd.grad((found * upstream).sum(), (left, right))
    for mine, true in zip(ours, torch.autograd.grad((expected * upstream).sum(), (left, right)), strict=True):
        torch.testing.assert_close(mine, true, rtol=tolerance, atol=tolerance)


def test_products_of_no_pairs_have_a_gradient_of_zero():
    left, right = (normal(seed, 3, 2).requires_grad_() for seed in (0, 1))
    none = torch.empty(0, dtype=torch.int64)
    graph.pair_products(left, right, none, none).sum().backward()
    assert not left.grad.any()
    assert not right.grad.any()


# The start


def test_the_spectral_start_has_rows_of_one_length_and_no_more_dimensions_than_there_are():
    data = on_device()
    spectrum = baselines.spectral(data, N_USERS, 0.4)
    narrow, _ = graph.spectral_start(data, spectrum, 5, 0.3)
    torch.testing.assert_close(narrow, 0.3 * normalize(spectrum[0][:, :5]))
    users, items = graph.spectral_start(data, spectrum, 4096, 0.3)
    assert users.shape == (N_USERS, N_USERS)
    has_items, has_users = torch.from_numpy(TAKEN.any(1)), torch.from_numpy(TAKEN.any(0))
    for rows, some in ((users, has_items), (items, has_users)):
        torch.testing.assert_close(rows[some].norm(dim=1), torch.full((int(some.sum()),), 0.3))
        assert not rows[~some].any()
