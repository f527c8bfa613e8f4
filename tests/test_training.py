"""One epoch against a naive step, and what a few epochs learn from two clusters."""

import math

import numpy as np
import pytest
import torch

from recsys import losses, miners, sampling
from recsys.interactions import Interactions
from recsys.models import MetricSpace, random_start
from recsys.training import train_epoch

N_USERS, N_ITEMS = 40, 60
SETTINGS = {
    "margin": 0.5,
    "batch_size": 64,
    "in_batch_items": 24,
    "sampled_items": 24,
    "rank_weight": True,
    "weight_power": 0.0,
    "covariance_weight": 0.0,
}
LOSSES = {"triplet_margin": losses.triplet_margin, "contrastive": losses.contrastive}
SAME = (torch.arange(N_USERS)[:, None] % 2) == (torch.arange(N_ITEMS)[None, :] % 2)  # (U, I): one cluster


@pytest.fixture(autouse=True)
def _one_thread():
    """Steps this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_device(taken, weights=None):
    """(U, I) bool and weights (U, I), by default 1 -> its interactions."""
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    weight = (np.ones(taken.shape) if weights is None else weights)[taken].astype(np.float32)
    time = np.zeros(len(user), dtype=np.int64)
    return sampling.to_device(Interactions(user, item, weight, time, *taken.shape), torch.device("cpu"))


def two_clusters():
    """(U, I) bool: each user has half of the items of one of two clusters."""
    return SAME.numpy() & (np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.5)


def new_space(seed=0, learn_offset=True):
    generator = torch.Generator().manual_seed(seed)
    users, items = random_start(N_USERS, N_ITEMS, 4, 0.3, generator)
    offset = 0.1 * torch.rand(N_ITEMS, generator=generator)
    return MetricSpace(users, items, offset, learn_offset)


def run(model, data, schedule, loss=losses.triplet_margin, seed=0, **changes):
    """Train one epoch for each miner of the schedule; the stats of each."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([part for part in model.parameters() if part.requires_grad], lr=0.01)
    settings = SETTINGS | changes
    return [train_epoch(model, optimizer, data, mine, loss, generator, **settings) for mine in schedule]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "schedule",
    [[miners.semi_hard] * 16, [miners.semi_hard] * 4 + [miners.hardest] * 12],
    ids=["semi_hard", "hardest after a warm-up"],
)
def test_unseen_items_of_a_users_cluster_come_nearer_than_the_other_clusters(loss, schedule):
    taken = two_clusters()
    model = new_space()
    stats = run(model, on_device(taken), schedule, LOSSES[loss])
    with torch.no_grad():
        d = model.distance(torch.arange(N_USERS), torch.arange(N_ITEMS))  # (U, I)
    unseen = SAME & ~torch.from_numpy(taken)
    nearer = [  # each user's AUC
        (d[user, unseen[user]][:, None] < d[user, ~SAME[user]][None, :]).double().mean().item()
        for user in range(N_USERS)
    ]
    assert min(nearer) > 0.6
    assert np.mean(nearer) > 0.85
    assert model.offset.min() >= 0
    assert max(model.users.norm(dim=1).max(), model.items.norm(dim=1).max()) <= 1 + 1e-6
    assert all(math.isfinite(value) for epoch in stats for value in epoch)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("rank_weight", "weight_power"), [(False, 0.0), (True, 0.0), (False, 1.0), (True, 0.5)]
)
def test_a_step_equals_the_naive_one(loss, rank_weight, weight_power):
    """One batch of everything, hardest negatives, covariance, plain descent; three users have no triplet."""
    taken = two_clusters()
    taken[:3] = True
    weights = np.random.default_rng(1).integers(1, 30, taken.shape)  # (U, I)
    powers = [float(weight) ** weight_power for weight in weights[taken]]
    data, model, start = on_device(taken, weights), new_space(), new_space()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stats = train_epoch(
        model, optimizer, data, miners.hardest, LOSSES[loss], torch.Generator().manual_seed(3),
        **SETTINGS | {"batch_size": 10**6, "rank_weight": rank_weight, "weight_power": weight_power,
                      "covariance_weight": 0.5},
    )  # fmt: skip

    generator = torch.Generator().manual_seed(3)
    ((users, items, _),) = sampling.batches(data, 10**6, generator)
    candidates = items[:24].tolist() + sampling.uniform_items(data, 24, generator).tolist()
    total, d_pos_sum, d_neg_sum, active, mined = 0.0, 0.0, 0.0, 0, 0

    def distance(user, item):
        return (start.users[user] - start.items[item]).square().sum() + start.offset[item]

    with torch.no_grad():
        d = [[distance(user, item).item() for item in range(N_ITEMS)] for user in range(N_USERS)]
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        negatives = [candidate for candidate in candidates if not taken[user, candidate]]
        if not negatives:
            continue
        nearest = min(negatives, key=lambda candidate: d[user][candidate])
        d_pos, d_neg = distance(user, item), distance(user, nearest)
        impostors = [n for n in negatives if 0.5 + d[user][item] - d[user][n] > 0]
        weight = math.log(N_ITEMS * len(impostors) / len(negatives) + 1) if rank_weight else 1
        weight *= float(weights[user, item]) ** weight_power / (sum(powers) / len(powers))
        each = LOSSES[loss](d_pos[None], d_neg[None], 0.5)[0] * weight
        total, d_pos_sum, d_neg_sum = total + each, d_pos_sum + d_pos.item(), d_neg_sum + d_neg.item()
        mined, active = mined + 1, active + (each.item() > 0)
    n = len(users)
    rows = torch.cat([start.users[users], start.items[candidates]])
    (total / n + 0.5 * losses.covariance(rows)).backward()
    torch.optim.SGD(start.parameters(), lr=0.1).step()
    start.project()
    for ours, naive in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-6)
    expected = (total.item() / n, mined / n, active / mined, d_pos_sum / mined, d_neg_sum / mined)
    assert 0 < mined < n
    assert tuple(stats) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mine", [miners.semi_hard, miners.hardest])
def test_same_seed_same_bits(mine):
    data = on_device(two_clusters())
    first, again, other = new_space(), new_space(), new_space()
    assert run(first, data, [mine] * 2) == run(again, data, [mine] * 2)
    run(other, data, [mine] * 2, seed=1)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.users, other.users)


def test_a_fixed_offset_stays_and_a_learned_one_moves():
    data = on_device(two_clusters())
    fixed, learned = new_space(learn_offset=False), new_space()
    for model in (fixed, learned):
        run(model, data, [miners.hardest])
    assert torch.equal(fixed.offset, new_space().offset)
    assert not torch.equal(learned.offset, new_space().offset)
    assert not torch.equal(fixed.users, new_space().users)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("learning_rate", [math.inf, math.nan])
def test_a_diverged_model_is_an_error_that_names_the_loss(loss, learning_rate):
    model = new_space()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = learning_rate
    with pytest.raises(FloatingPointError, match=r"loss = .* not finite: lower the learning_rate"):
        train_epoch(
            model, optimizer, on_device(two_clusters()), miners.hardest, LOSSES[loss], torch.Generator(),
            **SETTINGS,
        )  # fmt: skip


def test_a_model_that_is_not_finite_is_an_error_even_where_nothing_is_mined():
    model = new_space()
    with torch.no_grad():
        model.users.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="an embedding is not finite"):
        run(model, on_device(two_clusters()), [miners.semi_hard])


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 1, "in_batch_items": 1},
        {"in_batch_items": 0},
        {"sampled_items": 0},
        {"in_batch_items": 10**4, "sampled_items": 10**3},  # more than the batch, more than the catalogue
        {"batch_size": 10**4},
    ],
    ids=str,
)
def test_batches_and_candidates_of_any_size(changes):
    data, heard = on_device(two_clusters()), []
    model = new_space()
    (stats,) = run(model, data, [miners.hardest], covariance_weight=0.1, tick=heard.append, **changes)
    size = changes.get("batch_size", SETTINGS["batch_size"])
    assert heard == [size] * (len(data.user) // size) + [len(data.user) % size] * (len(data.user) % size > 0)
    assert 0 < stats.mined <= 1
    assert not torch.equal(model.users, new_space().users)


def test_where_everything_is_known_nothing_is_learned():
    model = new_space()
    (stats,) = run(model, on_device(np.ones((N_USERS, N_ITEMS), dtype=bool)), [miners.hardest])
    assert tuple(stats) == (0, 0, 0, 0, 0)
    for ours, start in zip(model.parameters(), new_space().parameters(), strict=True):
        assert torch.equal(ours, start)


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match=r"in_batch_items \+ sampled_items = 0, allowed >= 1"):
        run(new_space(), on_device(two_clusters()), [miners.hardest], in_batch_items=0, sampled_items=0)


def test_the_margin_is_refused_by_name():
    with pytest.raises(ValueError, match="margin = 0, allowed > 0"):
        run(new_space(), on_device(two_clusters()), [miners.hardest], margin=0)


def test_same_bits_where_threads_share_the_gradient():
    """Batches large enough for torch to add up a table's gradient on several threads."""
    torch.set_num_threads(4)
    chosen = np.random.default_rng(0)
    taken = np.zeros((500, 3000), dtype=bool)
    taken[chosen.integers(0, 500, 8000), np.minimum(chosen.geometric(0.005, 8000), 2999)] = True
    data, tables = on_device(taken), []
    for _ in range(3):
        generator = torch.Generator().manual_seed(0)
        users, items = random_start(500, 3000, 64, 0.3, generator)
        model = MetricSpace(users, items, torch.rand(3000, generator=generator))
        large = {"batch_size": 2048, "in_batch_items": 1024, "sampled_items": 1024}
        run(model, data, [miners.semi_hard], **large)
        tables.append([part.detach().clone() for part in model.parameters()])
    for again in tables[1:]:
        assert all(torch.equal(a, b) for a, b in zip(tables[0], again, strict=True))
