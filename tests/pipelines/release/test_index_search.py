"""tuning: what an index must find, and what it may cost."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.config.errors import InputError
from pipelines.config.release import Export
from pipelines.release.index_search import tune_index
from recsys.index import ItemIndex, exact_top_k


def shop(n_items=6_000, n_users=400, dim=8):
    rng = np.random.default_rng(0)
    items, users = (rng.normal(size=(n, dim)).astype(np.float32) for n in (n_items, n_users))
    return users, items, (np.zeros(n_users + 1, np.int64), np.empty(0, np.int32))


def run(tmp_path: Path, settings: Export, users, items, seen, held_out=None):
    held_out = np.arange(len(users)) if held_out is None else held_out
    return tune_index(settings, (users, items), seen, held_out, 0, tmp_path)


def test_each_index_climbs_until_it_finds_enough(tmp_path, said):
    users, items, seen = shop()
    found = run(tmp_path, Export(trees=(2, 5), recall=0.9), users, items, seen)
    curve = found.measured["curve"]
    assert (curve[0]["trees"], curve[0]["search_k"], curve[0]["recall"]) == (None, None, 1.0)  # the scan
    for trees in (2, 5):
        points = [point for point in curve if point["trees"] == trees]
        assert [point["search_k"] for point in points] == [256 * 2**n for n in range(len(points))]
        assert points[-1]["recall"] >= 0.9 > max(point["recall"] for point in points[:-1])
        assert all(0 < point["p50_ms"] <= point["p99_ms"] for point in points)
    assert {key: found.measured[key] for key in ("k", "users", "target")} == {
        "k": 20,
        "users": 300,
        "target": 0.9,
    }
    assert (found.search_k is None) == (found.measured["path"] == "exact")
    assert type(found.measured["scans_many"]) is bool
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_recall_is_that_of_the_index(tmp_path):
    users, items, seen = shop(n_users=200)
    found = run(tmp_path, Export(trees=(3,), recall=0.9), users, items, seen)
    last = found.measured["curve"][-1]
    index = ItemIndex.build(items, 3, 0)
    exact, _ = exact_top_k(users, items, 20)
    hits = [
        len(np.intersect1d(index.query(u, 20, last["search_k"])[0], t))
        for u, t in zip(users, exact, strict=True)
    ]
    assert sum(hits) / exact.size == pytest.approx(last["recall"], abs=1e-9)
    path = tmp_path / "index"
    assert index.save(path) == last["bytes"]


def test_what_a_user_has_does_not_count_as_found(tmp_path):
    users, items, _ = shop(3_000, 50, 4)
    near, _ = exact_top_k(users, items, 200)  # each user has the 200 nearest
    seen = np.arange(0, 50 * 200 + 1, 200, dtype=np.int64), np.sort(near, axis=1).ravel()
    found = run(tmp_path, Export(trees=(5,), recall=0.95), users, items, seen)
    assert found.measured["curve"][-1]["recall"] >= 0.95


def test_a_batch_is_timed_with_what_its_users_have(tmp_path):
    """More users than a batch, all with items of their own."""
    users, items, _ = shop(1_000, 250)
    own = np.sort(
        np.random.default_rng(1).permuted(np.tile(np.arange(1_000), (250, 1)), axis=1)[:, :7], axis=1
    )
    seen = np.arange(0, 250 * 7 + 1, 7), own.astype(np.int32).ravel()
    found = run(tmp_path, Export(trees=(5,), recall=0.5), users, items, seen)
    assert type(found.measured["scans_many"]) is bool


def test_only_held_out_users_are_asked(tmp_path):
    users, items, seen = shop(500, 40)
    users[10:] = np.nan  # asking one of them would raise
    assert run(tmp_path, Export(trees=(2,)), users, items, seen, np.arange(10)).measured["users"] == 10


def test_a_small_catalogue_is_scanned(tmp_path, said):
    users, items, seen = shop(300, 50, 64)
    found = run(tmp_path, Export(trees=(1,), recall=1.0), users, items, seen)
    assert (found.search_k, found.measured["path"]) == (None, "exact")
    assert said[-1].startswith("export: scan: recall@20 1.0000")
    assert said[-1].endswith("; as it is no slower")


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_ms": 1e-6}, "max_ms = 1e-06"),
        ({"max_ms": 1e-6, "max_mib": 1, "trees": (2, 500)}, "max_ms = 1e-06; 500 trees take"),
        ({"max_ms": 1e-6, "max_build_seconds": 1e-9, "trees": (2, 3)}, "max_ms = 1e-06; 2 trees took 0 s"),
    ],
)
def test_it_fails_closed_naming_the_best_that_was_reached(tmp_path, limits, named):
    users, items, seen = shop()
    with pytest.raises(InputError) as caught:
        run(tmp_path, Export(**({"trees": (2,), "recall": 0.99} | limits)), users, items, seen)
    assert f"export.recall = 0.99 is not reached within export's limits ({named}" in str(caught.value)
    assert "; scan: recall@20 1.0000" in str(caught.value) or ". scan: recall@20" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_would_take_too_long_is_not_built(tmp_path):
    users, items, seen = shop()
    settings = Export(trees=(1, 1_000_000), recall=0.5, max_build_seconds=60)
    assert {point["trees"] for point in run(tmp_path, settings, users, items, seen).measured["curve"]} == {
        None,
        1,
    }


def test_an_index_that_is_too_large_is_not_written_for_a_scan_either(tmp_path):
    users, items, seen = shop(20_000, 30, 32)
    with pytest.raises(
        InputError, match=r"\(max_ms = 50; 1 trees take [0-9]+ MiB\)\. scan: recall@20 1.0000"
    ):
        run(tmp_path, Export(trees=(1,), recall=0.5, max_mib=1), users, items, seen)
