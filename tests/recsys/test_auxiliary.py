"""Losses of items by what is known about them, against dense formulas; and what they do to a space."""

import numpy as np
import pytest
import torch
from described import DIM, KNOWN, features, kinds, small_settings, warm_data
from tastes import ITEMS

from recsys import content, models
from recsys.auxiliary import attribute_loss, item_losses, view_loss
from recsys.content import Content, ContentRows, ContentSettings
from recsys.epochs import epochs, train_epoch
from recsys.settings import Settings, check_settings
from recsys.training import Training, start_training

VALUES = torch.arange(ITEMS) % 5  # one of five values an item


def labelled(**settings: float) -> Content:
    """An attribute of five values, then a number that every item has."""
    dense = torch.cat([torch.eye(5)[VALUES], torch.full((ITEMS, 1), 0.3)], 1).numpy()
    return Content(features(dense), ContentSettings(**settings), np.arange(6) < 5)


def started(content: Content, **changes: object) -> Training:
    data = warm_data()
    return start_training(data, small_settings(data, **changes), content=content)


def test_pairs_of_a_value_share_it_and_somebody_has_both() -> None:
    rows = ContentRows(labelled(), warm_data(), DIM)
    items, counts = rows.items_of_a_value(2000, torch.Generator().manual_seed(0))
    assert items.shape == (3, 2000)
    assert 1000 < counts.sum() < 2000
    anchor, same, other = items[:, counts > 0]
    assert (VALUES[anchor] != VALUES[other]).all()
    assert torch.equal(VALUES[anchor], VALUES[same])
    assert (anchor != same).all()
    has_users = torch.bincount(warm_data().item, minlength=ITEMS) > 0
    for part in (anchor, same, other):
        assert has_users[part].all()
    every = has_users.nonzero()[:, 0]
    assert torch.equal(other.unique(), every)
    assert torch.equal(anchor.unique(), every)


def test_the_attribute_loss_is_the_hinge_of_its_pairs() -> None:
    training, twin = (started(labelled(), attribute_margin=0.2, attribute_weight=1.0) for _ in range(2))
    known = training.model.content
    assert known is not None
    found = attribute_loss(training, known)
    items, counts = known.items_of_a_value(512, twin.generator)
    anchor, same, other = items[:, counts > 0]
    rows = torch.nn.functional.normalize(known(training.model.items, known.everything))
    near, far = ((1 - (rows[anchor] * rows[part]).sum(1)) for part in (same, other))
    torch.testing.assert_close(found, (0.2 + near - far).clamp_min(0).mean())


def test_the_loss_of_views_is_the_cross_entropy_of_torch() -> None:
    training, twin = (started(kinds(), view_weight=1.0, temperature=0.3) for _ in range(2))
    known = training.model.content
    assert known is not None
    found = view_loss(training, known)
    draw = twin.generator
    some = known.known_items[torch.randperm(len(known.known_items), generator=draw)]
    views = []
    for _ in range(2):
        kept = (torch.rand(known.weight.shape[0], generator=draw) >= known.settings.dropout).float()
        left = known.everything._replace(kept=torch.zeros(ITEMS), features=kept[:, None])
        views.append(torch.nn.functional.normalize(known(training.model.items, left))[some])
    logits = views[0] @ views[1].T / 0.3
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, torch.arange(len(some))))


def test_without_weights_or_content_there_is_no_loss() -> None:
    assert item_losses(started(kinds(), view_weight=0.0)) is None
    data = warm_data()
    plain = small_settings(data, start="random", attribute_weight=1.0, view_weight=1.0)
    assert item_losses(start_training(data, plain)) is None


def test_without_a_value_the_attribute_loss_is_refused() -> None:
    unshared = Content(features(np.eye(ITEMS, dtype=np.float32)))
    for items in (labelled()._replace(values=np.zeros(6, bool)), unshared):
        with pytest.raises(ValueError, match=r"1\.0, but no two items share a value, allowed: 0"):
            started(items, attribute_weight=1.0)


@pytest.mark.parametrize("tower", ["graph", "two_tables", "siamese"])
def test_where_the_host_runs_ahead_the_same_is_learned(tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = {"loss": "warp", "batch_size": 256, "distance": "squared_euclidean", "uniform_items": 30}
    changes = {"tower": tower, "attribute_weight": 0.3, "view_weight": 0.1, "cycle_steps": 4}
    changes |= {} if tower == "graph" else metric
    plain, ahead = (started(labelled(), **changes) for _ in range(2))
    train_epoch(plain, "all")
    for module in (content, models.sampling):
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)
    train_epoch(ahead, "all")
    for one, other in zip(plain.model.space(), ahead.model.space(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_weights_add_up() -> None:
    both = started(labelled(), attribute_weight=0.5, view_weight=2.0)
    known = both.model.content
    assert known is not None
    found = item_losses(both)
    twin = started(labelled(), attribute_weight=0.5, view_weight=2.0)
    expected = 0.5 * attribute_loss(twin, known) + 2.0 * view_loss(twin, known)
    assert found is not None
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tower", ["graph", "two_tables", "siamese"])
def test_items_of_one_value_come_nearer_than_others(tower: str) -> None:
    """By noise beside the attribute they are not at the start."""
    noise = torch.randn(ITEMS, 40, generator=torch.Generator().manual_seed(0))
    dense = torch.cat([0.3 * torch.eye(5)[VALUES], noise], 1).numpy()
    described = Content(features(dense), ContentSettings(dropout=0.2), np.arange(45) < 5)
    graph = {"tower": tower, "attribute_weight": 3.0, "attribute_margin": 0.5, "learning_rate": 0.03}
    metric = {"loss": "warp", "batch_size": 256, "distance": "squared_euclidean", "uniform_items": 30}
    training = started(described, **(graph if tower == "graph" else graph | metric))
    training.with_health = False

    def gap() -> float:
        """Mean cosine of new items of one value, less that of others: nobody has them."""
        rows = training.model.content
        assert rows is not None
        points = torch.nn.functional.normalize(rows(torch.zeros(ITEMS, 6), rows.everything).detach())
        cosines, same = points @ points.T, VALUES[:, None] == VALUES[None]
        new = ~torch.from_numpy(KNOWN)
        pairs = new[:, None] & new[None] & ~torch.eye(ITEMS, dtype=torch.bool)
        return float(cosines[pairs & same].mean() - cosines[pairs & ~same].mean())

    before = gap()
    for _ in epochs(training, 3):
        pass
    assert gap() > before + 0.1


def test_an_epoch_with_all_of_them_has_the_same_bits_each_time() -> None:
    settings = {"attribute_weight": 0.3, "view_weight": 0.1, "synthetic_items": 20, "cycle_steps": 5}
    first, second = (started(labelled(), **settings) for _ in range(2))
    for training in (first, second):
        train_epoch(training, "random")
    for one, other in zip(first.model.space(), second.model.space(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attribute_weight": -1.0}, r"attribute_weight = -1.0, allowed >= 0"),
        ({"view_weight": float("nan")}, r"view_weight = nan, allowed >= 0"),
        ({"attribute_margin": 0.0}, r"attribute_margin = 0.0, allowed > 0"),
        (
            {"synthetic_items": 4},
            r"synthetic_items = 4 with loss = 'warp', allowed: 0, or loss = history_softmax or history_psl",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(Settings(**change))  # type: ignore[arg-type]
