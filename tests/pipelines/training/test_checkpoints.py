"""Checkpoints: written whole, refused when damaged; what goes on from one ends with the same bits."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shop import GRAPH

from pipelines.config.loading import load_config
from pipelines.data import folds, prepare
from pipelines.training import checkpoints
from pipelines.training.checkpoints import Checkpoint
from pipelines.training.start import start
from pipelines.training.train import train
from recsys import sampling
from recsys.epochs import train_epoch

CPU = torch.device("cpu")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "a.pt", 0)
    assert checkpoint.load(CPU) is None
    for value in (1.0, 2.0):
        checkpoint.offer(lambda value=value: {"x": torch.tensor([value]), "n": 3, "words": ["a", None]})
    loaded = checkpoint.load(CPU)
    assert loaded is not None
    assert (loaded["x"].item(), loaded["n"], loaded["words"]) == (2.0, 3, ["a", None])
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_nothing_is_made_before_it_is_time(tmp_path: Path) -> None:
    def never() -> dict[str, Any]:
        raise AssertionError

    Checkpoint(tmp_path / "a.pt", 3600).offer(never)
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:70] + b"x" + b[71:], lambda b: b""])
def test_a_damaged_file_is_said_and_not_loaded(
    tmp_path: Path, damage: Callable[[bytes], bytes], said: list[str]
) -> None:
    checkpoint = Checkpoint(tmp_path / "a.pt", 0)
    checkpoint.offer(lambda: {"x": torch.arange(100)})
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    assert checkpoint.load(CPU) is None
    assert said == [
        f"train: WARNING: checkpoint '{tmp_path / 'a.pt'}' is damaged; training starts from scratch"
    ]


def stop_and_offer(checkpoint: Checkpoint, heard: list[int]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert not heard
    checkpoint.offer(lambda: {"x": torch.ones(1)})
    raise AssertionError("it went on")


def test_a_stop_waits_for_the_next_checkpoint_and_then_reaches_who_waited(
    tmp_path: Path, said: list[str]
) -> None:
    heard: list[int] = []
    checkpoint = Checkpoint(tmp_path / "a.pt", 3600)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), checkpoint.defer_signals():
            stop_and_offer(checkpoint, heard)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert checkpoint.load(CPU) is not None
    assert said == [f"train: stopped at a checkpoint: '{tmp_path / 'a.pt'}'"]


def test_a_stop_after_the_last_checkpoint_is_not_lost(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Checkpoint(tmp_path / "a.pt", 3600).defer_signals():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from pipelines.training.checkpoints import Checkpoint

checkpoint = Checkpoint(Path(sys.argv[1]), 0)
checkpoint.offer(lambda: {"x": torch.ones(1)})
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for _ in range(3):
    checkpoint.offer(lambda: {"x": torch.ones(100_000)})
print(checkpoint.load(torch.device("cpu"))["x"])
"""


def test_a_full_disk_keeps_the_one_before_and_says_so_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tensor([1.])"
    assert done.stderr.count("cannot be written: [Errno 27] File too large; going on") == 1


class Killed(Exception):
    """What stands for a process that ends between two steps."""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mining": {"user_balance": 1.0, "memory_items": 64}},
        {"mining": {"miner": "hardest", "warmup_epochs": 1}, "space": {"tower": "siamese"}},
        {"loss": {"name": "margin", "beta_per_item": True}, "space": {"distance": "mahalanobis"}},
        {"mining": {"miner": "offline"}, "prepare": {"threads": 1, "mined_negatives": 2}},
        {"train": {"spaces": [{"kind": "metric"}, {"kind": "metric", "start": "spectral"}]}},
        GRAPH
        | {
            "graph": GRAPH["graph"] | {"temperature": None, "trial_dim": 4},
            "train": {"spaces": [{}, {"start": "random", "sharper": 1.33}]},
        },
    ],
    ids=["default", "balanced", "hardest", "margin", "offline", "two spaces", "search and graphs"],
)
def test_a_training_broken_off_anywhere_ends_with_the_same_weights(
    shop_file: Callable[..., Path], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop_file(
        **changes | {"train": {"max_epochs": 3, "checkpoint_seconds": 0} | changes.get("train", {})}
    )
    config = load_config(path)
    prepare.prepare(config)
    whole = train(config)
    expected = torch.load(whole / "model.pt", weights_only=True)
    choice = (whole / "choice.json").read_text()
    whole.rename(config.root / "whole")

    offer, generator, killed = Checkpoint.offer, random.Random(1), list[str]()
    offered = Counter[str]()

    def deadly(self: Checkpoint, make: Callable[[], dict[str, Any]]) -> None:
        offer(self, make)
        phase = make().get("phase", "search")
        offered[phase] += 1
        if offered[phase] == 3 or generator.random() < 0.08:
            killed.append(phase)
            raise Killed

    monkeypatch.setattr(checkpoints.Checkpoint, "offer", deadly)
    while True:
        try:
            run = train(config)
            break
        except Killed:
            pass
    assert len(killed) >= 3
    assert set(killed) == {"choose", "fit"} | ({"search"} if "graph" in changes else set())
    weights = torch.load(run / "model.pt", weights_only=True)
    assert all(torch.equal(weights[name], part) for name, part in expected.items())
    assert (run / "choice.json").read_text() == choice
    assert not list(config.runs.glob(".partial-*"))


def test_a_learners_state_is_a_copy_and_comes_back(shop_file: Callable[..., Path]) -> None:
    config = load_config(shop_file())
    prepare.prepare(config)
    data = sampling.to_device(folds.load_fold(config, "validation").fit, CPU)
    learned = start(config, data, config.settings(), "test")
    train_epoch(learned, "semi_hard")
    saved = learned.state()
    first = train_epoch(learned, "semi_hard")
    after = learned.state()
    assert not torch.equal(after["weights"]["items"], saved["weights"]["items"])
    learned.restore(saved)
    assert train_epoch(learned, "semi_hard") == first
    again = learned.state()
    assert all(torch.equal(again["weights"][name], part) for name, part in after["weights"].items())
    for number, known in after["optimizer"].items():
        assert torch.equal(again["optimizer"][number]["square"], known["square"])
