"""The graph: sparse products, sums over hops, the tower of them, and the softmax over a catalogue."""

import math

import numpy as np
import pytest
import torch
from clusters import N_ITEMS, N_USERS, TAKEN, normal, on_device
from torch.nn.functional import normalize

from recsys import baselines, distances, graph, ranking, sampling, spaces
from recsys.graph import adjacency, log_sums, matrix, multiply, propagate
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


# The softmax


@pytest.mark.parametrize("at_once", [1, 40, 2**23])
def test_log_sums_equal_torchs_and_so_do_their_gradients(monkeypatch, at_once):
    monkeypatch.setattr(graph, "PRODUCTS_AT_ONCE", at_once)
    for temperature in (0.02, 0.1, 3.0):
        a = normalize(normal(0, 9, 5, dtype=torch.float64)).requires_grad_()
        c = normalize(normal(1, 13, 5, dtype=torch.float64)).requires_grad_()
        bias, weight = normal(2, 13, dtype=torch.float64), normal(3, 9, dtype=torch.float64).abs()
        expected = weight @ (a @ c.T / temperature + bias).logsumexp(1)
        gradients = torch.autograd.grad(3 * expected, (a, c))
        found = log_sums(a, c, bias, weight, temperature)
        torch.testing.assert_close(found, expected)
        for ours, theirs in zip(torch.autograd.grad(3 * found, (a, c)), gradients, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_log_sums_hold_in_single_precision_at_the_least_temperature():
    a = normalize(normal(0, 9, 5)).requires_grad_()
    opposite = -a.detach()[:1].repeat(4, 1)  # every candidate as far as can be from the first
    found = log_sums(a, opposite, torch.zeros(4), torch.ones(9), 0.02)
    found.backward()
    expected = (a.double() @ opposite.double().T / 0.02).logsumexp(1).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("temperature", [0.0199, 0.0, -1.0, float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    rows = normalize(normal(0, 3, 2))
    with pytest.raises(ValueError, match=rf"temperature = {temperature}, allowed >= 0.02"):
        log_sums(rows, rows, torch.zeros(3), torch.ones(3), temperature)


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
