"""The metric space and its towers against naive loops, and its exported vectors against the exact search."""

import numpy as np
import pytest
import torch

from recsys import distances, sampling, spaces
from recsys.distances import Mahalanobis
from recsys.index import ItemIndex, exact_top_k
from recsys.interactions import Interactions
from recsys.losses import unit_ball
from recsys.models import Geometry, HistoryMean, MetricSpace, UserTable, fold_in, random_start, rows
from recsys.spaces import euclidean_vectors


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(seed=0):
    return torch.Generator().manual_seed(seed)


def space(n_users=20, n_items=200, dim=5, **changes):
    offset = 1 + normal(2, n_items).abs()
    return MetricSpace(UserTable(normal(0, n_users, dim)), normal(1, n_items, dim), offset, **changes)


def with_histories(histories, n_items):
    """Lists of items, one a user -> the interactions."""
    pairs = [(user, item) for user, items in enumerate(histories) for item in sorted(items)]
    user, item = np.array(pairs, dtype=np.int32).T.copy()
    rest = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
    return sampling.to_device(Interactions(user, item, *rest, len(histories), n_items), torch.device("cpu"))


def all_distances(model):
    with torch.no_grad():
        user_points = model.tower.all_users(model.items)
        return model.distance(user_points, *model.points(torch.arange(len(model.items))))  # (U, I)


def assert_nearest_first(ranked, distance):
    """Every item once, in the order of (U, I) distances but for their rounding."""
    np.testing.assert_array_equal(
        np.sort(ranked), np.broadcast_to(np.arange(distance.shape[1]), ranked.shape)
    )
    assert np.diff(np.take_along_axis(distance.numpy(), ranked, 1)).min() > -1e-5


# Lookups


@pytest.mark.parametrize("shape", [(6, 3), (6,)])
def test_rows_are_those_of_the_table_and_so_is_their_gradient(shape):
    ours, plain = normal(0, *shape).requires_grad_(), normal(0, *shape).requires_grad_()
    numbers, weight = torch.tensor([5, 0, 5, 5]), normal(1, 4, *shape[1:])
    assert torch.equal(rows(ours, numbers), plain[numbers])
    (rows(ours, numbers) * weight).sum().backward()
    (plain[numbers] * weight).sum().backward()
    assert ours.grad.is_sparse
    torch.testing.assert_close(ours.grad.to_dense(), plain.grad)
    (rows(2 * ours, numbers) * weight).sum().backward()  # of what is no parameter it is dense
    torch.testing.assert_close(ours.grad.to_dense(), 3 * plain.grad)


def test_random_start_has_the_length_it_is_given_and_comes_from_the_generator():
    start = [random_start(500, 300, 16, 0.3, fresh()) for _ in range(2)]
    for points, again, n in zip(*start, (500, 300), strict=True):
        assert torch.equal(points, again)
        assert points.shape == (n, 16)
        assert points.square().sum(1).mean().sqrt().item() == pytest.approx(0.3, rel=0.05)


# The space


def test_distances_equal_the_naive_loop():
    model = space(6, 9, 3)
    users, items = torch.tensor([5, 0, 5]), torch.tensor([8, 1, 1])
    anchors = model.anchors(users, items, fresh())
    distance, of_pairs = model.distance(anchors, *model.points(items)), model.pair_distance(anchors, items)
    for a, user in enumerate(users):
        for c, item in enumerate(items):
            square = sum((model.tower.table[user, k] - model.items[item, k]).item() ** 2 for k in range(3))
            assert distance[a, c].item() == pytest.approx(square + model.offset[item].item(), abs=1e-5)
    torch.testing.assert_close(of_pairs, distance.diagonal())


def test_the_start_is_copied():
    users, items, offset = normal(0, 3, 2), normal(1, 4, 2), torch.ones(4)
    model = MetricSpace(UserTable(users), items, offset)
    users.zero_(), items.zero_(), offset.zero_()
    for kept, start in (
        (model.tower.table, normal(0, 3, 2)),
        (model.items, normal(1, 4, 2)),
        (model.offset, torch.ones(4)),
    ):
        assert torch.equal(kept, start)


def test_the_offset_is_learned_only_where_it_is_to_be():
    for learn in (True, False):
        model = space(learn_offset=learn)
        model.distance(
            model.anchors(torch.arange(3), torch.arange(3), fresh()), *model.points(torch.arange(4))
        ).sum().backward()
        assert (model.offset.grad is not None) == learn


@pytest.mark.parametrize("n", [3, 5])
def test_shapes_that_disagree_are_refused(n):
    with pytest.raises(
        ValueError, match=rf"items, offset are \[\[4, 2\], \[{n}\]\], expected \[I, D\], \[I\]"
    ):
        MetricSpace(UserTable(torch.zeros(3, 2)), torch.zeros(4, 2), torch.zeros(n))


@pytest.mark.parametrize("lowest", [-0.5, torch.nan])
def test_an_offset_below_zero_is_refused(lowest):
    with pytest.raises(ValueError, match=f"offset starts at {lowest}, allowed >= 0"):
        MetricSpace(UserTable(torch.zeros(3, 2)), torch.zeros(2, 2), torch.tensor([lowest, 1.0]))


def test_tables_are_held_in_the_unit_ball_offsets_at_0_and_maps_nowhere():
    linear = Mahalanobis(5, "full")
    for in_ball in (True, False):
        model = space(geometry=Geometry(linear, linear.space), in_unit_ball=in_ball)
        points, maps, offsets = model.parameter_groups()
        assert points["params"] == [model.items, model.tower.table]
        assert points["project"] is (unit_ball if in_ball else None)
        assert (maps["params"], maps["project"]) == (list(linear.parameters()), None)
        assert offsets["params"] == [model.offset]
        assert offsets["project"](torch.tensor([0.5, -1.5, 0.0])).tolist() == [0.5, 0, 0]
    siamese = MetricSpace(HistoryMean(with_histories([[0], [1]], 2), 3), torch.eye(2), torch.zeros(2))
    assert siamese.parameter_groups()[0]["params"] == [siamese.items]
    fixed = space(learn_offset=False)
    assert all(part is not fixed.offset for group in fixed.parameter_groups() for part in group["params"])


@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean", "cosine", "inner_product", "mahalanobis"])
@pytest.mark.parametrize("siamese", [False, True])
def test_exported_vectors_rank_as_the_model_does(name, siamese):
    if name == "mahalanobis":
        distance = Mahalanobis(5, "full")
        with torch.no_grad():
            distance.linear.copy_(normal(3, 5, 5))
        to_space = distance.space
    else:
        distance = getattr(distances, name)
        to_space = getattr(spaces, f"{name.removeprefix('squared_')}_space")
    histories = [[(7 * user + k) % 200 for k in range(1 + user % 5)] for user in range(20)]
    tower = HistoryMean(with_histories(histories, 200), 3) if siamese else UserTable(normal(0, 20, 5))
    model = MetricSpace(tower, normal(1, 200, 5), normal(2, 200).abs(), geometry=Geometry(distance, to_space))
    served = model.space()
    assert not any(part.requires_grad for part in served)
    users, items = euclidean_vectors(served)
    assert (users.shape, items.shape) == ((20, 6), (200, 6))
    d = all_distances(model)
    exact, _ = exact_top_k(users.numpy(), items.numpy(), 200)
    assert_nearest_first(exact, d)
    if name == "squared_euclidean":
        torch.testing.assert_close(torch.cdist(users, items).square(), d - model.offset.detach().min())
        index = ItemIndex.build(items.numpy(), trees=10, seed=0)
        found = [index.query(user.numpy(), 200, search_k=10**5)[0] for user in users]
        assert_nearest_first(np.stack(found), d)


# The siamese tower


HISTORIES = [[3], [0, 4], [1, 2, 3, 5, 8], [], [0, 1, 2, 3, 4, 5, 6, 7, 8]]  # of 10 items; no user has 9


def naive_means(items, histories):
    means = torch.zeros(len(histories), items.shape[1])
    for user, history in enumerate(histories):
        for item in history:
            means[user] += items[item] / len(history)
    return means


def test_all_users_are_at_the_mean_of_their_histories_without_one_at_the_origin():
    items = normal(0, 10, 3)
    tower = HistoryMean(with_histories(HISTORIES, 10), 1)
    torch.testing.assert_close(tower.all_users(items), naive_means(items, HISTORIES))
    assert tower.all_users(items)[3].tolist() == [0, 0, 0]


def test_fold_in_equals_the_naive_loop_for_any_history():
    items, histories = normal(0, 10, 3), [[9, 9, 1], [], [5], []]  # what comes twice counts twice
    flat = torch.tensor([item for history in histories for item in history])
    offsets = torch.tensor([0, 3, 3, 4, 4])
    torch.testing.assert_close(fold_in(items, flat, offsets), naive_means(items, histories))


def shares(user, left_out, drawn, seed=0):
    """(I,): the weight of each item in the user's anchor, which is its gradient."""
    items = normal(0, 10, 3).requires_grad_()
    tower = HistoryMean(with_histories(HISTORIES, 10), drawn)
    anchor = tower(items, torch.tensor([user]), torch.tensor([left_out]), fresh(seed))  # (1, 3)
    anchor[0, 0].backward()
    share = items.grad.to_dense()[:, 0]
    torch.testing.assert_close(anchor[0], share @ items)
    return share


def test_the_anchor_is_the_mean_without_the_item_that_is_left_out():
    """Two items: the other one, whatever is drawn. More: each of the others alike, by the law of numbers."""
    assert shares(1, 4, drawn=30).tolist() == pytest.approx([1] + 9 * [0])
    assert shares(1, 0, drawn=30).tolist() == pytest.approx(4 * [0] + [1] + 5 * [0])
    assert shares(2, 3, drawn=5000).tolist() == pytest.approx(
        [0, 0.25, 0.25, 0, 0, 0.25, 0, 0, 0.25, 0], abs=0.03
    )
    whole = naive_means(torch.eye(10), HISTORIES)[2].tolist()
    assert shares(2, 9, drawn=5000).tolist() == pytest.approx(whole, abs=0.03)  # 9 is not theirs


@pytest.mark.parametrize("drawn", [1, 2, 5, 40])
def test_shares_sum_to_one_over_the_history_and_the_left_out_item_has_none(drawn):
    for seed in range(20):
        share = shares(4, 6, drawn, seed)
        assert share[[6, 9]].tolist() == [0, 0]
        assert share.min() >= 0
        assert share.sum().item() == pytest.approx(1) or (drawn < 5 and share.sum() == 0)  # 6 alone was drawn


def test_an_anchor_with_nothing_left_is_at_the_origin():
    assert shares(0, 3, drawn=5).tolist() == [0] * 10  # their only item is the left-out one
    assert shares(3, 0, drawn=5).tolist() == [0] * 10  # no history at all


def test_the_draw_comes_from_the_generator():
    items = normal(0, 10, 3)
    tower = HistoryMean(with_histories(HISTORIES, 10), 3)
    users, left_out = torch.tensor([4, 2, 4, 1]), torch.tensor([9, 9, 9, 4])
    first, again, other = (tower(items, users, left_out, fresh(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_draw_is_refused():
    with pytest.raises(ValueError, match="drawn = 0 items of a history, allowed >= 1"):
        HistoryMean(with_histories(HISTORIES, 10), 0)
