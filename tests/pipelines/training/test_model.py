"""Spaces side by side: what is served adds up, and what is saved comes back."""

import json

import numpy as np
import pytest
import torch
from shop import Shop

from pipelines.config.errors import InputError
from pipelines.data.folds import load_fold
from pipelines.training import model
from pipelines.training.model import Choice
from recsys import baselines, sampling
from recsys.models import MetricSpace, UserTable
from recsys.spaces import Space, euclidean_vectors

CHOICE = Choice(spectral_dim=4, item_exponent=0.5, epochs=1, spectral_weight=2.0, trend_weight=0.5)


@pytest.fixture
def data(shop: Shop) -> sampling.DeviceInteractions:
    return sampling.to_device(load_fold(shop.config, "test").fit, torch.device("cpu"))


def squared(vectors: model.Vectors) -> torch.Tensor:
    """(U, D), (I, D) -> (U, I)"""
    return torch.cdist(vectors[0].double(), vectors[1].double()).square()


def distances(space: Space) -> torch.Tensor:
    """(U, I)"""
    return squared((space.users, space.items)) + space.offset


def test_the_served_distance_is_the_weighted_sum(shop: Shop, data: sampling.DeviceInteractions) -> None:
    learned = Space(torch.rand(data.n_users, 3), torch.rand(data.n_items, 3), torch.rand(data.n_items))
    added = model.fit_additions(shop.config, data, CHOICE)
    expected = distances(learned) + 2.0 * distances(added.spectral) + 0.5 * distances(added.trend)
    served = squared(model.combine(learned, added, CHOICE))
    constant = (expected - served).mean()  # the least offset is taken off: no order changes
    torch.testing.assert_close(served + constant, expected, rtol=1e-5, atol=1e-5)
    alone = model.combine(learned, added, Choice(4, 0.5))
    assert torch.equal(alone[0][:, :-1], learned.users)


def test_a_rising_item_is_nearer_to_everybody(shop: Shop, data: sampling.DeviceInteractions) -> None:
    trend = baselines.trend(data, shop.config.train.trend_half_life_days * 86_400).double()
    distance = distances(model.fit_additions(shop.config, data, CHOICE).trend)  # (U, I)
    assert trend.std() > 0
    torch.testing.assert_close(distance, (-trend).expand_as(distance), rtol=1e-5, atol=1e-5)


def test_popularity_ranks_by_users_then_number(data: sampling.DeviceInteractions) -> None:
    counts = np.bincount(data.item, minlength=data.n_items)
    by_hand = sorted(range(data.n_items), key=lambda item: (-counts[item], item))
    assert squared(model.popularity_vectors(data))[0].argsort().tolist() == by_hand


def test_weights_come_back_and_damage_is_named(
    shop: Shop, tmp_path, data: sampling.DeviceInteractions
) -> None:
    space = MetricSpace(UserTable(torch.rand(5, 3)), torch.rand(7, 3), torch.rand(7))
    served = torch.rand(5, 4), torch.rand(7, 4)
    digest = model.save(tmp_path, space, served)
    (tmp_path / "train.json").write_text(json.dumps({"weights_sha256": digest}))
    learned, again = model.load(tmp_path, torch.device("cpu"))
    torch.testing.assert_close(squared(learned), squared(euclidean_vectors(space.space())))
    assert all(torch.equal(a, b) for a, b in zip(served, again, strict=True))
    content = bytearray((tmp_path / model.WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / model.WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt' are damaged"):
        model.load(tmp_path, torch.device("cpu"))
