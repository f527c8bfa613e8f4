"""The graph's towers and the softmax over histories: dense oracles, gradients, and that it learns."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from recsys import baselines, graph, ranking, sampling, spaces
from recsys.graph import GraphSpace, adjacency, history_loss, log_sums, matrix, multiply, propagate
from recsys.interactions import Interactions

N_USERS, N_ITEMS = 40, 60
SAME = (np.arange(N_USERS)[:, None] % 2) == (np.arange(N_ITEMS)[None, :] % 2)  # (U, I): one cluster
TAKEN = SAME & (np.random.default_rng(0).random(SAME.shape) < 0.5)  # (U, I)
TAKEN[3] = False  # a user without anything
TAKEN[:, 7] = False  # an item without users


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def on_device(taken=TAKEN):
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    rest = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
    return sampling.to_device(Interactions(user, item, *rest, *taken.shape), torch.device("cpu"))


def space(dim=8, hops=2, temperature=0.2, popularity_power=0.5, data=None):
    data = data or on_device()
    return GraphSpace(
        data, 0.3 * normal(0, N_USERS, dim), 0.3 * normal(1, N_ITEMS, dim),
        hops=hops, temperature=temperature, popularity_power=popularity_power,
    )  # fmt: skip


def fitted(seed=0, steps=60, model=None, on_step=lambda step, loss: None, **changes):
    model = model or space()
    settings = graph.FitSettings(steps, batch_users=16, candidates=64, learning_rate=0.02)._replace(**changes)
    graph.fit(model, settings, torch.Generator().manual_seed(seed), on_step)
    return model


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


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_batch_of_users_is_what_towers_say_of_them(hops):
    model, users = space(hops=hops), torch.tensor([7, 3, 0])
    row, own = sampling.histories(model.data, users)
    edges = multiply(adjacency(model.data), torch.eye(N_ITEMS))[users]
    anchors, items = model.anchors_and_items(users, matrix(row, own, edges[row, own], 3, N_ITEMS))
    all_users, all_items = model.towers()
    torch.testing.assert_close(anchors, all_users[users])
    torch.testing.assert_close(items, all_items)


def test_a_space_without_hops_is_refused():
    with pytest.raises(ValueError, match="hops = 0, allowed >= 1"):
        space(hops=0)


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


def test_history_loss_over_the_catalogue_is_the_full_softmax():
    """Every item once as a candidate, expected once: the estimate is the sum itself."""
    model = space()
    users = torch.tensor([5, 0, 11])
    found = history_loss(model, users, torch.arange(N_ITEMS), torch.zeros(N_ITEMS))
    user, item = model.towers()
    total, n = 0.0, 0
    for u in users.tolist():
        scores = [
            -(1 - (user[u] @ item[i]).item() - model.temperature * model.bias[i].item()) / model.temperature
            for i in range(N_ITEMS)
        ]
        z = math.log(sum(math.exp(score) for score in scores))
        for i in np.flatnonzero(TAKEN[u]):
            total, n = total + z - scores[i], n + 1
    assert found.item() == pytest.approx(total / n, rel=1e-5)


def test_history_loss_has_the_gradient_of_the_dense_one():
    model, twin = space(), space()
    users = torch.tensor([5, 3, 0, 11])  # 3 has nothing
    drawn = torch.tensor([1, 4, 4, 9, 30, 59, 7])
    log_q = normal(5, len(drawn))
    history_loss(model, users, drawn, log_q).backward()
    user, item = twin.towers()
    taken = torch.from_numpy(TAKEN)[users].float()  # (B, I)
    logits = user[users] @ item.T / twin.temperature + twin.bias
    z = (logits[:, drawn] - log_q).logsumexp(1)
    ((taken.sum(1) * z).sum() - (taken * logits).sum()).div(taken.sum()).backward()
    torch.testing.assert_close(model.users.grad, twin.users.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.items.grad, twin.items.grad, rtol=1e-4, atol=1e-6)


# Learning


def auc(model):
    """How often an unseen item of the user's cluster is nearer than one of the other cluster."""
    d = torch.cdist(*spaces.euclidean_vectors(model.space())).numpy()  # (U, I)
    has = TAKEN.any(1)
    popular = TAKEN.any(0)
    return np.mean(
        [
            (row[own & ~taken & popular][:, None] < row[~own & popular][None, :]).mean()
            for row, own, taken in zip(d[has], SAME[has], TAKEN[has], strict=True)
        ]
    )


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_unseen_items_of_a_users_cluster_come_nearer(hops):
    start = space(hops=hops)
    before = auc(start)
    after = auc(fitted(model=start))
    assert after > 0.95
    assert after > before


def test_the_loss_falls_and_on_step_gets_every_step():
    losses = []
    fitted(steps=40, on_step=lambda step, loss: losses.append((step, loss.item())))
    assert [step for step, _ in losses] == list(range(1, 41))
    assert np.mean([loss for _, loss in losses[-10:]]) < np.mean([loss for _, loss in losses[:10]])


def test_what_the_listener_raises_ends_the_fit_between_two_steps():
    class Enough(Exception):
        pass

    def on_step(step, loss):
        if step == 5:
            raise Enough

    model, other = space(), space()
    with pytest.raises(Enough):
        fitted(model=model, steps=40, on_step=on_step)
    with pytest.raises(Enough):
        fitted(model=other, steps=40, on_step=on_step)
    assert torch.equal(model.items, other.items)
    assert not torch.equal(model.items, space().items)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_host_never_waits_inside_a_step(hops):
    """On the device 'meta', whose tensors have no values, so that asking for one is an error."""
    meta = torch.device("meta")
    model = space(hops=hops)

    def moved(value):
        if isinstance(value, tuple):
            return type(value)(*map(moved, value))
        return value.to(meta) if isinstance(value, torch.Tensor) else value

    for name in ("data", "graph", "bias", "popularity"):
        setattr(model, name, moved(getattr(model, name)))
    model.to(meta)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    sampler = sampling.CandidateSampler(
        on_device(), in_batch=0, uniform=0, popular=20, popularity_power=1.0, memory=0
    )
    vars(sampler).update({name: moved(part) for name, part in vars(sampler).items()})
    users = torch.arange(16, device=meta)
    for total in (99, 123):
        drawn = sampler.draw(users[:0], torch.Generator())
        loss = history_loss(model, users, drawn, sampler.log_q(drawn), total)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert model.users.grad.shape == model.users.shape
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()


def test_every_user_comes_once_before_any_comes_again(monkeypatch):
    seen = []
    real = graph.history_loss

    def spy(model, users, candidates, log_q, total):
        seen.append(users.tolist())
        assert total == len(sampling.histories(model.data, users)[1])
        return real(model, users, candidates, log_q, total)

    monkeypatch.setattr(graph, "history_loss", spy)
    fitted(steps=6, batch_users=16)  # 39 users have something: three batches are a round
    assert {len(users) for users in seen} == {13}
    for first in (0, 3):
        assert sorted(itertools.chain(*seen[first : first + 3])) == [u for u in range(N_USERS) if u != 3]


def test_a_step_asks_the_device_for_no_number():
    """On a GPU the host would wait for each. Once a round it asks for a list, which is not among these.

    Adam's own, within its step, are of the number of steps, and on CPU alone.
    """
    waits = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2")
    with torch.profiler.profile() as profiler:
        fitted(steps=6, batch_users=16)  # three batches are a round
    events = profiler.events()
    asked = [event.time_range.start for event in events if event.name in waits]
    steps = [event.time_range for event in events if event.name.startswith("Optimizer.step")]
    assert len(steps) == 6
    for one, other in itertools.pairwise(steps):
        assert not [at for at in asked if one.end <= at <= other.start]


def test_a_small_catalogue_is_taken_whole(monkeypatch):
    drawn = []
    real = graph.history_loss

    def spy(model, users, candidates, log_q, total):
        drawn.append((candidates.tolist(), log_q.tolist()))
        return real(model, users, candidates, log_q, total)

    monkeypatch.setattr(graph, "history_loss", spy)
    fitted(steps=1, candidates=N_ITEMS)
    fitted(steps=1, candidates=N_ITEMS - 1)
    assert drawn[0] == (list(range(N_ITEMS)), [0.0] * N_ITEMS)
    assert len(drawn[1][0]) == N_ITEMS - 1
    assert len(set(drawn[1][0])) < N_ITEMS - 1


def test_same_seed_same_bits():
    first, second, other = fitted(), fitted(), fitted(seed=1)
    assert torch.equal(first.users, second.users)
    assert torch.equal(first.items, second.items)
    assert not torch.equal(first.items, other.items)


def test_the_space_ranks_as_the_distance():
    model = fitted(steps=5)
    user, item = model.towers()
    d = 1 - user @ item.T - model.temperature * model.bias
    users, items = spaces.euclidean_vectors(model.space())
    ranked = ranking.top_k(users, items, torch.arange(N_USERS), N_ITEMS)
    for row, order in zip(d.detach(), ranked, strict=True):
        assert (row[torch.from_numpy(order).long()].diff() >= -1e-5).all()


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


def test_a_point_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="not finite: lower the learning_rate"):
        fitted(learning_rate=math.inf, steps=2)
