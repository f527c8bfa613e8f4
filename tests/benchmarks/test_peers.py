"""The comparison with peers: LightGCN as published, its negatives, and the command from end to end."""

import csv
import importlib.util
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from paths import ROOT

from recsys import graph, sampling
from recsys.interactions import Interactions

SCRIPT = ROOT / "benchmarks" / "peers.py"
SPEC = importlib.util.spec_from_file_location("peers", SCRIPT)
assert SPEC
assert SPEC.loader
peers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(peers)


def interactions(taken):
    """(U, I) bool -> the same on the device's side."""
    user, item = (part.astype(np.int32) for part in np.nonzero(taken))
    nothing = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
    return sampling.to_device(Interactions(user, item, *nothing, *taken.shape), torch.device("cpu"))


@pytest.fixture
def taken():
    """(7, 5) bool: each user but user 6, and each item, has an interaction; user 0 has all."""
    taken = np.random.default_rng(0).random((7, 5)) < 0.4
    taken[np.arange(6), np.arange(6) % 5] = True
    taken[0], taken[6] = True, False
    return taken


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_light_is_the_mean_of_the_layers(taken, layers):
    generator = torch.Generator().manual_seed(0)
    n_users, n_items = taken.shape
    tables = [torch.randn(n, 4, generator=generator).double() for n in taken.shape]
    sums, layer = [table.clone() for table in tables], tables
    for _ in range(layers):
        users, items = (torch.zeros_like(table) for table in tables)
        for u in range(n_users):
            for i in range(n_items):
                if taken[u, i]:
                    norm = (taken[u].sum() * taken[:, i].sum()) ** -0.5
                    users[u] += norm * layer[1][i]
                    items[i] += norm * layer[0][u]
        layer = [users, items]
        sums = [total + part for total, part in zip(sums, layer, strict=True)]
    edges = graph.adjacency(interactions(taken))
    found = peers.light(edges, *(table.float() for table in tables), layers)
    for part, total in zip(found, sums, strict=True):
        torch.testing.assert_close(part, (total / (layers + 1)).float())


def test_triplets_are_uniform_over_users_their_items_and_the_others(taken):
    data, n = interactions(taken), 200_000
    user, positive, negative = peers.triplets(data, n, torch.Generator().manual_seed(0))
    expected_positive, expected_negative = np.zeros(taken.shape), np.zeros(taken.shape)
    asked = range(1, 6)  # user 0 has no negative, user 6 no positive
    for u in asked:
        for i in range(taken.shape[1]):
            if taken[u, i]:
                expected_positive[u, i] = 1 / (len(asked) * taken[u].sum())
            else:
                expected_negative[u, i] = 1 / (len(asked) * (~taken[u]).sum())
    for item, expected in ((positive, expected_positive), (negative, expected_negative)):
        share = np.bincount(user * taken.shape[1] + item, minlength=taken.size).reshape(taken.shape) / n
        np.testing.assert_array_equal(share > 0, expected > 0)
        np.testing.assert_allclose(share, expected, atol=0.004)


def test_seconds_to_a_recall_are_those_of_the_first_point_that_has_it():
    points = [
        peers.Point("LightGCN", of, step, 0, seconds, {"recall@20": recall})
        for of, step, seconds, recall in [
            ("validation", 1, 0.5, 0.1),
            ("validation", 2, 1.0, 0.3),
            ("validation", 4, 2.0, 0.2),
            ("test", 2, 0.1, 0.9),
        ]
    ]
    assert peers.best(points, "LightGCN").step == 2
    assert [peers.reached(points, "LightGCN", recall) for recall in (0.1, 0.2, 0.3, 0.31)] == [
        "0.50",
        "1.00",
        "1.00",
        "not",
    ]


def test_simplex_loss_is_the_sum_over_pairs():
    generator = torch.Generator().manual_seed(0)
    anchors, positive, candidates = (
        torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1) for n in (4, 4, 50)
    )
    expected = 0.0
    for a, p in zip(anchors, positive, strict=True):
        pushed = [max(0.0, float(a @ c) - peers.SIMPLEX["margin"]) for c in candidates]
        expected += (1 - float(a @ p) + peers.SIMPLEX["weight"] * sum(pushed) / 50) / 4
    assert any(float(a @ c) > peers.SIMPLEX["margin"] for a in anchors for c in candidates)
    found = peers.cosine_contrastive(anchors, positive, candidates)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_simplex_users_are_their_row_and_the_mapped_mean_of_their_items(taken):
    generator = torch.Generator().manual_seed(0)
    users, items, mapping = (torch.randn(n, 4, generator=generator) for n in (*taken.shape, 4))
    asked = torch.tensor([3, 6, 0, 3])  # user 6 has no item
    found = peers.simplex_users(interactions(taken), asked, users, items, mapping)
    for point, user in zip(found, asked.tolist(), strict=True):
        own = [items[i] for i in range(taken.shape[1]) if taken[user, i]]
        mean = sum(own) / len(own) if own else torch.zeros(4)
        expected = peers.SIMPLEX["own"] * users[user] + (1 - peers.SIMPLEX["own"]) * mean @ mapping
        torch.testing.assert_close(point, expected / expected.norm())


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A train and a test file of 60 users in three groups, each of which takes items of its own."""
    folder, generator = tmp_path_factory.mktemp("split"), np.random.default_rng(0)
    of_group = np.arange(60)[:, None] % 3 == np.arange(45) % 3
    taken = generator.random((60, 45)) < np.where(of_group, 0.7, 0.05)
    asked = taken & (generator.random(taken.shape) < 0.2)
    for name, pairs in (("train", taken & ~asked), ("test", asked)):
        user, item = np.nonzero(pairs)
        pl.DataFrame({"user_id": user, "item_id": item}).write_parquet(folder / f"{name}.parquet")
    return folder / "train.parquet", folder / "test.parquet"


@pytest.mark.parametrize("name", [name for name in peers.SYSTEMS if name not in peers.UNTRAINED])
def test_each_system_learns_the_groups_and_the_same_again(name, split):
    if name.startswith("implicit"):
        pytest.importorskip("implicit", reason="implicit is not installed (the extra `bench`)")
    config = peers.Bench()
    data = peers.published.read_split(*split)
    judge = peers.judge_fold(data.fold(data.train, data.test), torch.device("cpu"), config.evaluate)
    chosen = peers.Point(name, "validation", step=150, plan=150, seconds=0.0, metrics={})
    points = [peers.refitted(peers.Task(judge, config, seconds=0.0), chosen)[0] for _ in range(2)]
    recall = points[0].metrics["recall@20"]
    assert recall > 0.8  # popularity: about half
    assert abs(recall - points[1].metrics["recall@20"]) < 0.05  # implicit on two threads is not the same


def test_one_command_writes_points_table_and_plot(tmp_path, split):
    pytest.importorskip("implicit", reason="implicit is not installed (the extra `bench`)")
    out = tmp_path / "peers"
    files = ["--train", split[0], "--test", split[1], "--out", out]
    command = [sys.executable, SCRIPT, *files, "--seconds", "0.1", "--threads", "1"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stderr
    points = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [p["system"] for p in points if p["of"] == "test"] == list(peers.SYSTEMS)
    for name in peers.SYSTEMS:
        judged = [p for p in points if p["system"] == name and p["of"] == "validation"]
        seconds = [float(p["seconds"]) for p in judged]
        assert seconds == sorted(seconds)
        test = next(p for p in points if p["system"] == name and p["of"] == "test")
        assert test["step"] == max(judged, key=lambda p: float(p["recall@20"]))["step"]
    rows = [row for row in out.with_suffix(".md").read_text().splitlines() if row.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == list(peers.SYSTEMS)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_some_systems_alone_and_the_last_beside_the_others(tmp_path, split):
    out, systems = tmp_path / "peers", ["popularity", "SimpleX", "ours, 64"]
    files = ["--train", split[0], "--test", split[1], "--out", out]
    command = [sys.executable, SCRIPT, *files, "--seconds", "0.1", "--threads", "1", "--systems", *systems]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = [row for row in out.with_suffix(".md").read_text().splitlines() if row.startswith("| ")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:]]
    assert [row[0] for row in cells] == systems
    for *_, recall, _, difference, _ in cells[:2]:
        mean, low, high = (float(x.strip("[],")) for x in difference.split())
        assert low <= mean <= high
        assert mean == pytest.approx(float(cells[2][5]) - float(recall), abs=1.1e-4)
    assert cells[2][-2:] == ["", ""]
