"""The step and its floor: the command's tables at a tiny size, and the counts behind them."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from paths import ROOT

from recsys import sampling

SCRIPT = ROOT / "benchmarks" / "step.py"
SPEC = importlib.util.spec_from_file_location("step", SCRIPT)
assert SPEC
assert SPEC.loader
step = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(step)

PARTS = {
    "graph": [
        "sparse products, forward",
        "histories, forward",
        "candidates",
        "log-sums, products",
        "log-sums, exponentials",
        "log-sums, gradient of users",
        "log-sums, gradient of candidates",
        "histories, backward",
        "unit rows, backward",
        "sparse products, backward",
        "Adam",
    ],
} | {name: ["distances", "known and mining", "pairs", "RowAdam"] for name in step.SHAPES}
LAST = ["floor", "step, median", "share of the floor's rate, %"]


def test_one_command_prints_parts_floor_and_share_of_every_trainer():
    sizes = ["--users", "1200", "--items", "1500", "--interactions", "41000", "--dim", "15", "--steps", "2"]
    command = [sys.executable, SCRIPT, *sizes, "--threads", "1", "--profile"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for name, text in zip(PARTS, re.split("\n(?=metric[^\n]*: N)", ran.stdout), strict=True):
        rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][1:]
        named = {row[0].strip(): [float(cell) for cell in row[1:] if cell.strip()] for row in rows}
        assert list(named) == [*PARTS[name], *LAST]
        for row in LAST:
            assert min(named[row]) > 0
        for column in (-3, -1):  # the floors, ms
            parts = sum(named[part][column] for part in PARTS[name])
            assert named["floor"][column] == pytest.approx(parts, abs=0.01 * len(PARTS[name]))
        assert named["floor"][-1] <= named["floor"][-3]
        for share, floor in zip(named[LAST[2]], (named["floor"][-3], named["floor"][-1]), strict=True):
            assert share == pytest.approx(100 * floor / named[LAST[1]][0], abs=0.1, rel=0.02)
        assert f"{name}, would wait for a GPU: 0 a step (none)" in ran.stdout
        assert text.count("Self CPU time total") == 1


def test_too_few_interactions_for_the_steps_are_refused():
    ran = subprocess.run([sys.executable, SCRIPT, "--interactions", "2048"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "allowed 106,496..307,500,000" in ran.stderr


def test_the_log_has_as_many_pairs_as_asked_and_the_first_item_leads():
    log = step.interactions(300, 200, 6_000)
    assert (len(log), log.n_users, log.n_items) == (6_000, 300, 200)
    counts = np.bincount(log.item, minlength=200)
    assert counts[0] == counts.max() > 10 * counts[100:].mean()


def test_sparse_products_are_counted_by_hand():
    """2 hops: forward two products to items and one to users; backward one and two."""
    data = sampling.to_device(step.interactions(300, 200, 6_000), torch.device("cpu"))
    parts = {part.name: part for part in step.graph_trainer(data, 4, 2, 1).parts}
    forward, backward = (parts[f"sparse products, {way}"] for way in ("forward", "backward"))
    assert forward.operations == backward.operations == 3 * 2 * 6_000 * 4
    entries = 3 * 6_000 * 8  # bytes of their numbers and values
    assert forward.bytes == 3 * 6_000 * 16 + entries + 2 * 16 * (2 * 200 + 300)
    assert backward.bytes == 3 * 6_000 * 16 + entries + 2 * 16 * (200 + 2 * 300)
    assert forward.bytes_once == 16 * (2 * 300 + 200) + entries + 2 * 16 * (2 * 200 + 300)
    assert parts["Adam"].bytes == 7 * 16 * (300 + 200)
