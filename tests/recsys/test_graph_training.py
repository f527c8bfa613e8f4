"""Trainings on graph towers: each loss and each miner lowers its loss, and no step waits for a device."""

import functools
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from clusters import TAKEN, auc, on_device

from recsys import epochs as loop
from recsys import histories, history_losses, optim, sampling
from recsys.epochs import epochs, train_epoch
from recsys.histories import UserBatch
from recsys.settings import (
    HISTORY_LOSSES,
    LIST_LOSSES,
    TRIPLET_LOSSES,
    DistanceName,
    MinerName,
    Settings,
    TowerName,
    conflicts,
)
from recsys.training import Position, start_training

SMALL = Settings(
    dim=8,
    tower="graph",
    distance="cosine",
    offset="fixed",
    offset_scale=0.1,
    temperature=0.2,
    margin=0.3,
    beta=0.5,
    miner="random",
    in_batch_items=24,
    uniform_items=24,
    batch_size=128,
    batch_users=16,
    cycle_steps=12,
    learning_rate=0.02,
)
MINERS = {"miner " + name: {"miner": name, "loss": "triplet_margin"} for name in get_args(MinerName)}
LOSSES = {"loss " + name: {"loss": name} for name in (*TRIPLET_LOSSES, *LIST_LOSSES, *HISTORY_LOSSES)}
OTHERS = {
    "learned offset": {"loss": "warp", "offset": "learned", "distance": "squared_euclidean"},
    "margin of each item": {"loss": "margin", "beta_per_item": True},
    "learned map": {"loss": "warp", "distance": "mahalanobis", "mahalanobis": "full"},
    "hinge, learned offset": {"loss": "history_hinge", "offset": "learned", "distance": "mahalanobis"},
    "memory, popular, log q": {
        "loss": "sampled_softmax",
        "log_q": True,
        "memory_items": 24,
        "popular_items": 8,
    },
    "covariance, l2": {"loss": "bpr", "covariance": 0.1, "l2": 0.01},
    "passes, no cycles": {"loss": "bpr", "cycle_steps": 0},
}
LOSSES["loss align_uniform"]["uniformity"] = 0.3
CASES = LOSSES | MINERS | OTHERS


pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def data():
    return on_device()


@functools.cache
def mined_offline():
    """(T, 3): for each pair two items that the user has not."""
    drawn = torch.Generator().manual_seed(2)
    others = [torch.from_numpy(~row).nonzero()[:, 0] for row in TAKEN]
    pairs = [(user, item) for user, item in torch.from_numpy(TAKEN).nonzero().tolist() for _ in range(2)]
    picks = [int(torch.randint(len(others[user]), (1,), generator=drawn)) for user, _ in pairs]
    return (
        torch.tensor([(*pair, int(others[pair[0]][n])) for pair, n in zip(pairs, picks, strict=True)])
        .int()
        .numpy()
    )


def started(**changes):
    settings = SMALL._replace(**changes)
    assert not list(conflicts(settings))
    return start_training(data(), settings, mined_offline() if settings.miner == "offline" else None)


def trained(n_epochs, **changes):
    training = started(**changes)
    return training, [epoch.stats for epoch in epochs(training, n_epochs)]


@pytest.mark.parametrize("name", CASES)
def test_each_falls_and_unseen_items_of_a_users_cluster_come_nearer(name):
    training, stats = trained(3, **CASES[name])
    assert all(math.isfinite(value) for one in stats for value in one)
    if CASES[name].get("miner") not in ("semi_hard", "hardest"):  # they find ever harder negatives
        assert stats[-1].loss < stats[0].loss
    assert auc(training.model.space()) > (0.75 if name in HARD else 0.9)


HARD = {"miner hardest", "loss history_sl_at_k"}


@pytest.mark.parametrize("tower", get_args(TowerName))
@pytest.mark.parametrize("distance", get_args(DistanceName))
@pytest.mark.parametrize("loss", ["warp", "sampled_softmax"])
def test_towers_losses_and_distances_go_together(tower, distance, loss):
    training, stats = trained(2, tower=tower, distance=distance, loss=loss, history_items=10)
    assert stats[-1].loss < stats[0].loss
    assert all(torch.isfinite(part).all() for part in training.model.space())


@pytest.mark.parametrize("name", CASES)
def test_same_seed_same_bits(name):
    first, second = (trained(1, **CASES[name])[0] for _ in range(2))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", CASES)
def test_where_the_host_runs_ahead_the_same_is_learned(name, monkeypatch):
    plain, stats = trained(1, **CASES[name])
    monkeypatch.setattr(sampling, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(history_losses, "is_asynchronous", lambda device: True)
    ahead, others = trained(1, **CASES[name])
    torch.testing.assert_close(list(others[0]), list(stats[0]), rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(ahead.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_graph_rows_have_momentum_and_offsets_are_kept_above_0():
    training = started(offset="learned", loss="warp", offset_scale=1e-6, learning_rate=0.1)
    list(epochs(training, 1))
    assert isinstance(training.optimizer, optim.TableAdam)
    assert "exp_avg" in training.optimizer.state[training.model.items]
    assert "last" in training.optimizer.state[training.model.offset]
    assert training.model.offset.min() == 0 < training.model.offset.max()


# Waiting for a device


def moved(value, device):
    """Tensors, and (named) tuples of them, to the device."""
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to(device).requires_grad_(value.requires_grad)


WAIT = {
    "miner all": "as many triplets as there are",
    "miner offline": "as many triplets as there are",
    "loss psl": "which columns are positive",
    "loss history_sl_at_k": "how many candidates are k items",
}


def without_values(training, monkeypatch):
    """The training on the device 'meta', at its first step; what an epoch waits for before that is given."""
    meta, real = torch.device("meta"), torch.Generator
    training.model.to(meta)
    for known in (training.sampler, training.model.tower):
        vars(known).update({part: moved(value, meta) for part, value in vars(known).items()})
    parts = {part: moved(getattr(training, part), meta) for part in ("data", "beta", "offline")}
    training = replace(training, with_health=False, **parts)
    groups = training.model.parameter_groups()
    if training.beta.requires_grad:
        groups.append({"params": [training.beta]})
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": real())
    monkeypatch.setattr(sampling, "_units", lambda weights, n: weights.long())
    monkeypatch.setattr(sampling, "history_entries", lambda data, order, size: [99] * len(order.split(size)))
    monkeypatch.setattr(loop, "steps_per_pass", lambda training: 5)
    monkeypatch.setattr(histories, "users_per_batch", lambda data, settings: 16)
    monkeypatch.setattr(
        histories, "user_batches", lambda *_: iter([UserBatch(torch.arange(16, device=meta), 99)] * 6)
    )
    start = Position(0, 0, torch.zeros(3, dtype=torch.float64, device=meta), 0)
    progress = training.progress._replace(position=start)
    return replace(training, optimizer=optim.TableAdam(groups, 0.1), progress=progress)


@pytest.mark.parametrize("name", CASES)
def test_the_host_never_waits_inside_an_epoch(name, monkeypatch):
    """On the device 'meta', whose tensors have no values, so that asking for one is an error."""
    training = without_values(started(**{"cycle_steps": 5} | CASES[name]), monkeypatch)
    steps = []
    training.on_step = steps.append
    with pytest.raises((RuntimeError, NotImplementedError)) as asked:
        train_epoch(training, training.settings.miner)
    if name in WAIT:
        assert not steps
    else:
        assert len(steps) == 5, asked.traceback[-1]  # what failed is the end of the epoch
