"""New items by placement.json and the learned weights, against the spaces that training makes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clusters import SAME, TAKEN, interactions
from numpy.typing import NDArray

from pipelines.config.errors import InputError
from pipelines.data.content import ItemContent
from pipelines.training import model, placement
from pipelines.training.model import Part
from pipelines.training.refit import Done
from recsys import sampling, spaces
from recsys.content import Content, ContentMap, Features, likeness
from recsys.epochs import epochs
from recsys.settings import Settings
from recsys.training import start_training

N_NEW = 5  # the last items are new: nobody has them in these tests
FITTED = TAKEN[:, :-N_NEW]
DATA = sampling.to_device(interactions(FITTED), torch.device("cpu"))
N_ITEMS = FITTED.shape[1]


def features(first: int, last: int) -> Features:
    """Two columns, the cluster of each item; the last new item is unknown."""
    items = np.arange(first, last)
    known = items != SAME.shape[1] - 1
    return Features(
        np.concatenate([[0], np.cumsum(known)]).astype(np.int64),
        (items % 2)[known].astype(np.int32),
        np.ones(int(known.sum()), np.float32),
        2,
    )


CONTENT = ItemContent((), features(0, N_ITEMS), features(N_ITEMS, SAME.shape[1]))
SETTINGS = Settings(
    dim=4,
    tower="graph",
    distance="cosine",
    start="content",
    offset="fixed",
    offset_scale=0.1,
    loss="history_softmax",
    temperature=0.2,
    uniform_items=0,
    popular_items=30,
    learning_rate=0.01,
    batch_users=16,
)
METRIC = Settings(
    dim=4, start="content", batch_size=64, in_batch_items=20, uniform_items=20, learning_rate=0.03
)
PARTS = (
    Part("graph-1", "graph", 1.0, SETTINGS._asdict()),
    Part("spectral", "spectral", 0.5, {"dim": 3, "item_exponent": 0.3, "seed": 0}),
    Part("rarity", "rarity", 0.1, {}),
    Part("metric-1", "metric", 0.3, METRIC._replace(distance="mahalanobis", mahalanobis="full")._asdict()),
    Part("graph-2", "graph", 0.7, SETTINGS._replace(seed=1)._asdict(), for_new=True),
    Part("metric-2", "metric", 0.4, METRIC._replace(tower="siamese")._asdict(), for_new=True),
    Part("likeness", "likeness", 0.6, {"dim": 2, "seed": 0}, for_new=True),
    Part("new items farther", "new", 0.4, {"nearer": False}),
)


@pytest.fixture(scope="module")
def fitted() -> tuple[list[Part], list[spaces.Space], dict[str, ContentMap]]:
    """All kinds of parts with their scale, their spaces, and the weights of those that learned."""
    made, weights = list[spaces.Space](), dict[str, ContentMap]()
    for part in PARTS:
        if not part.is_trained:
            made.append(model.untrained_space(part, DATA, content=CONTENT))
            continue
        training = start_training(DATA, Settings(**part.settings), content=Content(CONTENT.fitted))
        for _ in epochs(training, 3):
            pass
        space = model.trained_space(training, CONTENT)
        made.append(model.for_new_alone(space, N_ITEMS) if part.for_new else space)
        weights[part.name] = training.model.content_map()
    weights["likeness"] = likeness(CONTENT.fitted, DATA, 2, 0)[0]
    return model.side_by_side(PARTS, made, N_ITEMS)[0], made, weights


def vectors(parts: list[Part], made: list[spaces.Space]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    users, items = spaces.euclidean_vectors(model.add_up(parts, made))
    return users.numpy(), items.numpy()


def test_new_items_are_placed_as_in_training(
    fitted: tuple[list[Part], list[spaces.Space], dict[str, ContentMap]], tmp_path: Path
) -> None:
    parts, made, weights = fitted
    placement.save(tmp_path, placement.of(parts, made, N_ITEMS))
    assert CONTENT.new is not None
    found = placement.vectors(placement.load(tmp_path), weights, CONTENT.new)
    np.testing.assert_allclose(found, vectors(parts, made)[1][N_ITEMS:], atol=2e-6)


def test_new_items_suit_the_users_of_their_cluster(
    fitted: tuple[list[Part], list[spaces.Space], dict[str, ContentMap]],
) -> None:
    parts, made, _ = fitted
    users, items = vectors(parts, made)
    d = np.square(users[:, None] - items[None, N_ITEMS:-1]).sum(2)  # (U, C - 1)
    same = SAME[:, N_ITEMS:-1]
    some = FITTED.any(1)
    assert (np.where(same, d, -np.inf).max(1) < np.where(same, np.inf, d).min(1))[some].all()


def test_an_unknown_new_item_is_no_nearer_to_one_user_than_to_another(
    fitted: tuple[list[Part], list[spaces.Space], dict[str, ContentMap]],
) -> None:
    """At each user's mean distance from the items, in spaces of fitted items."""
    _, made, _ = fitted
    for space in made[:4]:
        d = torch.cdist(space.users, space.items).square() + space.offset  # (U, I + C)
        torch.testing.assert_close(d[:, -1], d[:, :N_ITEMS].mean(1), rtol=1e-4, atol=1e-5)


def test_spaces_for_new_items_leave_the_order_of_fitted_ones(
    fitted: tuple[list[Part], list[spaces.Space], dict[str, ContentMap]],
) -> None:
    parts, made, _ = fitted
    whole, alone = (
        np.square(users[:, None] - items[None, :N_ITEMS]).sum(2)
        for users, items in (vectors(parts, made), vectors(parts[:4], made[:4]))
    )
    difference = whole - alone
    np.testing.assert_allclose(difference - difference.mean(1, keepdims=True), 0, atol=1e-5)


@pytest.mark.parametrize(
    "distance", ["squared_euclidean", "euclidean", "cosine", "inner_product", "mahalanobis"]
)
def test_new_items_alone_are_on_average_as_far_as_fitted_ones(distance: str) -> None:
    """Else a space of short points would put all new items first, however far they are shifted."""
    settings = METRIC._replace(distance=distance)  # type: ignore[arg-type]
    training = start_training(DATA, settings, content=Content(CONTENT.fitted))
    for _ in epochs(training, 3):
        pass
    space = model.for_new_alone(model.trained_space(training, CONTENT), N_ITEMS)
    d = torch.cdist(space.users, space.items).square() + space.offset  # (U, I + C)
    ahead = d[:, :1] - d[:, N_ITEMS:-1]  # (U, C - 1)
    inner = 2 * space.users @ space.items[N_ITEMS:-1].T
    torch.testing.assert_close(ahead.mean(), inner.mean(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(d[:, -1], d[:, 0])  # unknown


@pytest.mark.parametrize("settings", [SETTINGS, METRIC])
def test_a_finished_part_survives_a_checkpoint(settings: Settings, tmp_path: Path) -> None:
    """Of plain numbers and tensors alone, which is all that is read from a checkpoint."""
    training = start_training(DATA, settings, content=Content(CONTENT.fitted))
    by = training.model.content_map()
    done = Done(model.trained_space(training, CONTENT), None, None, by)
    torch.save({"done": {"graph-1": done.plain()}}, tmp_path / "checkpoint.pt")
    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["done"]["graph-1"]
    again = Done.of(held)
    assert again.by_content is not None
    for one, other in zip((*done.space, by.weight), (*again.space, again.by_content.weight), strict=True):
        assert torch.equal(one, other)
    assert (by.axes is None) == (again.by_content.axes is None) == (settings is SETTINGS)
    assert Done.of(done._replace(by_content=None).plain()).by_content is None


def test_a_run_without_a_placement_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"places no new items: train again with items\.place_new = true"):
        placement.load(tmp_path)
    (tmp_path / placement.FILE).write_text('{"parts": [{}]')
    with pytest.raises(InputError, match=r"placement.json' is damaged"):
        placement.load(tmp_path)
