"""Rows of items from what is known about them, against dense formulas; and new items found by them."""

import numpy as np
import pytest
import torch
from described import DIM, KNOWN, features, kinds, small_settings, warm_data
from tastes import AXES, ITEMS, KINDS, TASTES, USERS

from recsys import graph, histories
from recsys.content import Content, ContentRows, ContentSettings, place
from recsys.epochs import epochs, train_epoch
from recsys.models import GraphSums
from recsys.settings import Settings
from recsys.training import start_training


def dense_features(seed: int = 0, n_features: int = 9) -> np.ndarray:
    """(I, F), about half of it zeros; the last item has nothing."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(ITEMS, n_features)) * (rng.random((ITEMS, n_features)) < 0.5)
    rows[-1] = 0
    return rows.astype(np.float32)


def unit(rows: torch.Tensor) -> torch.Tensor:
    length = rows.norm(dim=1, keepdim=True)
    return torch.where(length > 0, rows / length, 0)


def test_rows_are_the_content_and_the_own_row_of_items_with_interactions() -> None:
    dense, data = dense_features(), warm_data()
    rows = ContentRows(Content(features(dense), ContentSettings(length=0.3)), data, DIM)
    own = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(1))
    found, kept = rows(own, rows.everything), rows.everything.kept
    known = torch.bincount(data.item, minlength=ITEMS) > 0
    expected = 0.3 * unit(torch.from_numpy(dense) @ rows.weight) + known[:, None] * own
    torch.testing.assert_close(found, expected)
    assert torch.equal(kept > 0, known)
    assert found[-1].abs().sum() == known[-1] * own[-1].abs().sum()  # nothing is known about the last item


def test_the_gradient_is_that_of_the_dense_product() -> None:
    dense, weight = dense_features(), torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(2))
    rows = ContentRows(Content(features(dense)), warm_data(), DIM)
    own = torch.zeros(ITEMS, DIM)
    (found,) = torch.autograd.grad((rows(own, rows.everything) * weight).sum(), rows.weight)
    content = torch.from_numpy(dense) @ rows.weight
    length = content.norm(dim=1, keepdim=True)
    expected = 0.1 * content / torch.where(length > 0, length, 1)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), rows.weight)[0])


def test_the_start_is_the_leading_directions_of_known_items_alone() -> None:
    dense, data = dense_features(), warm_data()
    rows = ContentRows(Content(features(dense)), data, DIM)
    known = (torch.bincount(data.item, minlength=ITEMS) > 0).numpy()
    right = np.linalg.svd(dense[known].astype(np.float64))[2][:DIM].T  # (F, D)
    cosines = np.linalg.svd(right.T @ rows.weight.detach().numpy())[1]
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    dense[~known] = 7.0  # what new items are like moves nothing
    other = ContentRows(Content(features(dense)), data, DIM)
    assert torch.equal(other.weight, rows.weight)


def test_fewer_features_than_dimensions_leave_the_rest_at_0() -> None:
    rows = ContentRows(Content(features(dense_features(n_features=3))), warm_data(), DIM)
    assert rows.weight.shape == (3, DIM)
    assert rows.weight[:, 3:].abs().sum() == 0


def test_a_step_leaves_out_items_and_features_by_chance() -> None:
    dense, data = np.abs(dense_features(n_features=64)), warm_data()
    settings = ContentSettings(cold_share=0.3, dropout=0.5)
    rows = ContentRows(Content(features(dense), settings), data, DIM)
    own = torch.ones(ITEMS, DIM)
    drawn = [rows.draw(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    (first, again, other), kept = (rows(own, one) for one in drawn), drawn[0].kept
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    known = torch.bincount(data.item, minlength=ITEMS) > 0
    assert not kept[~known].any()
    draw = torch.Generator().manual_seed(2)
    share = torch.stack([rows.draw(draw).kept[known].mean() for _ in range(200)]).mean()
    assert 0.67 < share < 0.73
    lengths = (first - kept[:, None] * own).norm(dim=1)
    has_any = lengths > 0  # a few have lost all their features
    assert has_any.float().mean() > 0.9
    torch.testing.assert_close(lengths[has_any], torch.full((int(has_any.sum()),), settings.length))


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_items_that_are_not_kept_have_no_edges(hops: int) -> None:
    """The sums are those of the graph without their edges, its weights as they were; also of a batch."""
    data = warm_data()
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, DIM, generator=generator) for n in (USERS, ITEMS))
    kept = (torch.rand(ITEMS, generator=generator) > 0.4).float()
    adjacency = torch.zeros(USERS, ITEMS)
    weight = graph.edge_weights(
        data, torch.bincount(data.item, minlength=ITEMS).float(), data.user, data.item
    )
    adjacency[data.user, data.item] = weight
    adjacency = adjacency * kept
    user, item = users, items
    for _ in range(hops):
        user, item = users + adjacency @ item, items + adjacency.T @ user
    tower = GraphSums(data, users, hops)
    for found, expected in zip(tower.sums(items, kept), (user, item), strict=True):
        torch.testing.assert_close(found, expected)
    some = torch.tensor([3, 100, 17])
    row = torch.arange(3).repeat_interleave(data.offsets.diff()[some])
    own = torch.cat([data.item[data.offsets[one] : data.offsets[one + 1]] for one in some]).long()
    of_some, every = tower.sums_of(items, some, row, own, kept)
    torch.testing.assert_close(of_some, user[some])
    torch.testing.assert_close(every, item)


@pytest.mark.parametrize("loss", ["history_softmax", "history_psl", "warp"])
def test_new_items_are_found_by_what_they_are(loss: str) -> None:
    """The two that a user would take are their nearest two more often than before the first step."""
    data, new = warm_data(), np.flatnonzero(~KNOWN)
    batches = {"batch_size": 256, "in_batch_items": 40, "uniform_items": 40}
    settings = small_settings(data, loss=loss, margin=0.5, **(batches if loss == "warp" else {}))
    training = start_training(data, settings, content=kinds())
    d = ((TASTES[:, None] - KINDS[None, new]) ** 2).sum(2)
    mine = np.argsort(d, axis=1)[:, :2]  # (U, 2)

    def found() -> float:
        space = training.model.space()
        nearest = np.argsort(-(space.users @ space.items[new].T).numpy(), axis=1)[:, :2]
        return float(np.mean([len(set(a) & set(b)) / 2 for a, b in zip(mine, nearest, strict=True)]))

    before = found()
    for _ in epochs(training, 6):
        pass
    assert found() > before + 0.05
    assert found() > 2 * 2 / len(new)


def test_candidates_are_items_that_somebody_has() -> None:
    data = warm_data()
    for popular in (4096, 30):
        settings = small_settings(data, popular_items=popular - 10, uniform_items=10)
        training = start_training(data, settings, content=kinds())
        drawn, log_q = histories._candidates(training)
        assert len(drawn) == len(log_q)
        assert KNOWN[drawn.numpy()].all()
        every = training.sampler.draw(torch.tensor([1]), training.generator)  # what other losses draw
        assert KNOWN[every.numpy()].all()


def test_a_restored_training_goes_on_with_the_same_bits() -> None:
    data = warm_data()
    settings = small_settings(data, cycle_steps=6)
    first, again = (start_training(data, settings, content=kinds()) for _ in range(2))
    train_epoch(first, "random")
    saved = first.state()
    assert "content.weight" in saved["weights"]
    again.restore(saved)
    for training in (first, again):
        train_epoch(training, "random")
    for a, b in zip(first.model.space(), again.model.space(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3}, "features have 3 rows, allowed 80: one an item"),
        ({"value": np.nan}, r"values\[0\] = nan, allowed finite values"),
        ({"length": 0.0}, "length = 0.0, allowed > 0"),
        ({"cold_share": 1.0}, "cold_share = 1.0, allowed 0 <= cold_share < 1"),
        ({"dropout": -0.1}, "dropout = -0.1, allowed 0 <= dropout < 1"),
    ],
)
def test_bad_content_is_refused_by_name(change: dict[str, float], message: str) -> None:
    dense = dense_features()[: int(change.pop("rows", ITEMS))]
    dense[0, 0] = change.pop("value", 1.0)
    with pytest.raises(ValueError, match=message):
        ContentRows(Content(features(dense), ContentSettings(**change)), warm_data(), DIM)


def test_parts_of_features_have_to_agree() -> None:
    good = features(dense_features())
    for bad, message in (
        (good._replace(n_features=3), r"columns\[\d+\] = \d, allowed 0..2"),
        (good._replace(values=good.values[:-1]), r"features have \d+ values, offsets rise from 0 to \d+"),
        (good._replace(offsets=good.offsets + 1), r"features have \d+ columns, offsets rise from 1 to \d+"),
        (features(np.zeros((ITEMS, 2), np.float32)), "items with interactions have no feature"),
    ):
        with pytest.raises(ValueError, match=message):
            ContentRows(Content(bad), warm_data(), DIM)


def test_rows_of_some_items_are_those_of_all_with_the_same_gradients() -> None:
    dense, data = dense_features(), warm_data()
    rows = ContentRows(Content(features(dense), ContentSettings(0.4)), data, DIM, learn_length=True)
    own = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(1), requires_grad=True)
    upstream = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(2))
    some = torch.tensor([7, 2, ITEMS - 1, 30])  # of the last one nothing is known
    for drawn in (rows.everything, rows.draw(torch.Generator().manual_seed(3))):
        gradients = []
        for found in (rows(own, drawn)[some], rows.some(own[some], some, drawn)):
            parts = torch.autograd.grad((found * upstream[some]).sum(), [rows.weight, rows.length, own])
            gradients.append([found, *(part.to_dense() if part.is_sparse else part for part in parts)])
        for whole, alone in zip(*gradients, strict=True):
            torch.testing.assert_close(alone, whole)


DISTANCES = "squared_euclidean", "euclidean", "cosine", "inner_product", "mahalanobis"


def metric_settings(tower: str, distance: str, loss: str) -> Settings:
    return Settings(
        dim=AXES,
        tower=tower,  # type: ignore[arg-type]
        distance=distance,  # type: ignore[arg-type]
        start="content",
        loss=loss,  # type: ignore[arg-type]
        batch_size=256,
        in_batch_items=40,
        uniform_items=40,
        learning_rate=0.03,
    )


@pytest.mark.parametrize("tower", ["two_tables", "siamese"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_metric_spaces_place_new_items_by_what_they_are(tower: str, distance: str) -> None:
    """Any tower, distance and loss: an item that nobody has is nearer to those who would take it."""
    data, new = warm_data(), np.flatnonzero(~KNOWN)
    liked = ((TASTES[:, None] - KINDS[None, new]) ** 2).sum(2)  # (U, C)
    training = start_training(data, metric_settings(tower, distance, "warp"), content=kinds())
    training.with_health = False

    def agreement() -> float:
        """Mean rank correlation of a user's distances with what they like."""
        space = training.model.space()
        d = (torch.cdist(space.users, space.items).square() + space.offset)[:, new].numpy()
        ranks = [np.argsort(np.argsort(part, axis=1), axis=1).astype(float) for part in (d, liked)]
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))

    before = agreement()
    for _ in epochs(training, 8):
        pass
    assert agreement() > before + 0.04
    by, space = training.model.content_map(), training.model.space()
    torch.testing.assert_close(place(kinds().features, by)[new], space.items[new], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "loss", ["contrastive", "margin", "sampled_softmax", "history_softmax", "history_hinge"]
)
def test_other_losses_move_the_map_and_its_length(loss: str) -> None:
    data = warm_data()
    settings = metric_settings("two_tables", "squared_euclidean", loss)
    settings = settings._replace(batch_users=60, offset="fixed" if loss.startswith("history") else "learned")
    training = start_training(data, settings, content=kinds())
    before = training.model.content_map()
    train_epoch(training, "random")
    after = training.model.content_map()
    assert (after.weight - before.weight).abs().max() > 1e-3
    assert (after.axes - before.axes).abs().max() > 1e-4


def test_a_graph_with_content_needs_cosines() -> None:
    euclidean = small_settings(warm_data(), distance="squared_euclidean", loss="warp")
    with pytest.raises(
        ValueError, match="distance = 'squared_euclidean' of a graph with content, allowed: cosine"
    ):
        start_training(warm_data(), euclidean, content=kinds())
