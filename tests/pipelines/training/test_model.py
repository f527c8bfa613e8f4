"""Spaces side by side: what is served adds up, and what is saved comes back."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from shop import Shop

from pipelines.config.errors import InputError
from pipelines.data.folds import load_fold
from pipelines.training import model
from pipelines.training.model import Part
from recsys import baselines, sampling
from recsys.content import ContentMap
from recsys.sampling import DeviceInteractions
from recsys.spaces import Space, euclidean_vectors

DAY = 86_400
CPU = torch.device("cpu")
SPECTRAL = Part("spectral", "spectral", 2.0, model.spectral_settings(4, 0.5, 0))
TREND = Part("trend", "trend", 0.5, {"half_life": 30 * DAY})
RARITY = Part("rarity", "rarity", 0.1, {})


@pytest.fixture
def data(shop: Shop) -> DeviceInteractions:
    return sampling.to_device(load_fold(shop.config, "test").fit, CPU)


def squared(vectors: model.Vectors) -> torch.Tensor:
    """(U, D), (I, D) -> (U, I)"""
    return torch.cdist(vectors[0].double(), vectors[1].double()).square()


def distances(space: Space) -> torch.Tensor:
    """(U, I)"""
    return squared((space.users, space.items)) + space.offset


def random_space(n_users: int, n_items: int, dim: int = 3) -> Space:
    drawn = torch.Generator().manual_seed(dim)
    return Space(
        *(torch.rand(shape, generator=drawn) for shape in ((n_users, dim), (n_items, dim), (n_items,)))
    )


def test_the_served_distance_is_the_weighted_sum_of_equally_wide_spaces(data: DeviceInteractions) -> None:
    parts = [Part("metric-1", "metric", 1.0, {}), SPECTRAL, TREND, RARITY]
    made = [random_space(data.n_users, data.n_items)]
    made += [model.untrained_space(part, data) for part in parts[1:]]
    scaled, space = model.side_by_side(parts, made)
    some = np.arange(0, data.n_users, data.n_users // 100)  # as many users as the spread is measured by
    spreads = [distances(one)[some].numpy().std(1, ddof=1).mean() for one in made]
    for part, before, own in zip(scaled, parts, spreads, strict=True):
        assert part.scale == pytest.approx(before.weight * spreads[0] / own, rel=1e-4)
    expected = sum(part.scale * distances(one) for part, one in zip(scaled, made, strict=True))
    served = squared(euclidean_vectors(space))
    constant = (expected - served).mean()  # the least offset is taken off: no order changes
    torch.testing.assert_close(served + constant, expected, rtol=1e-5, atol=1e-5)
    _, alone = model.side_by_side(parts[:1], made[:1])
    assert torch.equal(alone.users, made[0].users)


def test_a_space_that_spreads_nothing_keeps_its_weight() -> None:
    flat = Space(torch.zeros(5, 1), torch.zeros(7, 1), torch.zeros(7))
    first = Part("metric-1", "metric", 1.0, {})
    scaled, _ = model.side_by_side([first, TREND], [random_space(5, 7), flat])
    assert [part.scale for part in scaled] == [1.0, 0.5]
    scaled, space = model.side_by_side([first, TREND], [flat, random_space(5, 7)])
    assert [part.scale for part in scaled] == [1.0, 0.5]
    assert torch.isfinite(space.items).all()


def test_a_rising_item_is_nearer_to_everybody(data: DeviceInteractions) -> None:
    trend = baselines.trend(data, 30 * DAY).double()
    distance = distances(model.untrained_space(TREND, data))  # (U, I)
    assert trend.std() > 0
    torch.testing.assert_close(distance, (-trend).expand_as(distance), rtol=1e-5, atol=1e-5)


def test_a_rare_item_is_nearer_to_everybody(data: DeviceInteractions) -> None:
    counts = torch.from_numpy(np.bincount(data.item, minlength=data.n_items)).double()
    distance = distances(model.untrained_space(RARITY, data))  # (U, I)
    torch.testing.assert_close(distance, counts.clamp_min(1).log().expand_as(distance), rtol=1e-5, atol=1e-5)


def test_a_wider_spectrum_serves_the_narrower_one(data: DeviceInteractions) -> None:
    wide = baselines.spectral(data, 12, 0.0, seed=0)
    found, expected = (distances(model.untrained_space(SPECTRAL, data, one)) for one in (wide, None))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_an_unknown_kind_is_refused(data: DeviceInteractions) -> None:
    with pytest.raises(ValueError, match="kind = 'content', allowed: spectral, trend, rarity"):
        model.untrained_space(TREND._replace(kind="content"), data)


def test_popularity_ranks_by_users_then_number(data: DeviceInteractions) -> None:
    counts = np.bincount(data.item, minlength=data.n_items)
    by_hand = sorted(range(data.n_items), key=lambda item: (-counts[item], item))
    assert squared(model.popularity_vectors(data))[0].argsort().tolist() == by_hand


@pytest.mark.parametrize("room", [900, 3_000, 30_000, 70_000])
def test_a_full_disk_is_told_by_the_system_s_error(tmp_path: Path, room: int) -> None:
    """Whichever piece of the file it hits: torch would say `unexpected pos`."""
    part, space = Part("graph-1", "graph", 1.0, {}), random_space(500, 700, 8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            model.save(tmp_path, [part], [space], euclidean_vectors(space))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_view_is_saved_without_what_it_is_a_view_of(tmp_path: Path) -> None:
    part, space = Part("graph-1", "graph", 1.0, {}), random_space(5, 7)
    wide = torch.zeros(7, 10_000)
    model.save(tmp_path, [part], [space._replace(items=wide[:, :2])], (wide[:5, 2:3], wide[:, 5:6]))
    assert (tmp_path / model.WEIGHTS).stat().st_size < 10_000


def test_maps_of_content_come_back(tmp_path: Path) -> None:
    part, space = Part("graph-1", "graph", 1.0, {}), random_space(5, 7)
    weight = torch.ones(4, 2)
    maps = {"graph-1": ContentMap(weight), "metric-2": ContentMap(weight, 3 * torch.eye(2))}
    digest = model.save(tmp_path, [part], [space], euclidean_vectors(space), maps)
    (tmp_path / "train.json").write_text(json.dumps({"weights_sha256": digest}))
    found = model.load_maps(tmp_path, CPU)
    assert found.keys() == maps.keys()
    assert found["graph-1"].axes is None
    assert torch.equal(found["metric-2"].axes, 3 * torch.eye(2))  # type: ignore[arg-type]
    assert all(torch.equal(found[name].weight, weight) for name in maps)


def test_spaces_come_back_and_damage_is_named(tmp_path: Path) -> None:
    parts = [
        Part("metric-1", "metric", 1.0, {}, scale=1.0),
        Part("graph-2", "graph", 0.5, {}, scale=0.7),
        TREND,
    ]
    made = [random_space(5, 7), random_space(5, 7, 2), random_space(5, 7, 1)]
    served = euclidean_vectors(model.add_up(parts, made))
    digest = model.save(tmp_path, parts, made, served)
    (tmp_path / "train.json").write_text(json.dumps({"weights_sha256": digest}))
    trained, again = model.load(tmp_path, CPU)
    assert list(trained) == ["metric-1", "graph-2"]  # the others are made of the data
    for name, space in zip(trained, made, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(trained[name], space, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(served, again, strict=True))
    learned = model.learned_space(parts, trained)
    assert learned is not None
    torch.testing.assert_close(distances(learned), distances(made[0]) + 0.7 * distances(made[1]))
    assert model.learned_space([TREND], {}) is None
    content = bytearray((tmp_path / model.WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / model.WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt' are damaged"):
        model.load(tmp_path, CPU)


def test_a_finished_run_serves_its_parts_side_by_side(shop: Shop, data: DeviceInteractions) -> None:
    parts = model.read_choice(shop.run)["parts"]
    assert next(part.name for part in parts) == "metric-1"
    assert {part.name for part in parts} >= {"metric-1", "spectral"}
    trained, served = model.load(shop.run, CPU)
    made = [trained[part.name] if part.is_trained else model.untrained_space(part, data) for part in parts]
    expected = squared(euclidean_vectors(model.add_up(parts, made)))
    torch.testing.assert_close(squared(served), expected, rtol=1e-4, atol=1e-4)


def test_a_choice_without_parts_is_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / model.CHOICE).write_text(json.dumps({"spectral_dim": 4, "epochs": 2}))
    with pytest.raises(InputError, match=f"run '{tmp_path}' was trained by an earlier version"):
        model.read_choice(tmp_path)
