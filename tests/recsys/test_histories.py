"""Batches of whole histories: who is in them, a step's loss against a dense one, learning, and cycles."""

import functools
import itertools
import math
from dataclasses import replace

import pytest
import torch
from clusters import N_ITEMS, N_USERS, TAKEN, auc, normal, on_device

from recsys import histories, history_losses, negatives, psl, sampling, softmax
from recsys.epochs import epochs, measure_health, steps_per_pass
from recsys.histories import UserBatch, history_loss, steps_per_round, user_batches, users_per_batch
from recsys.settings import HISTORY_LOSSES, MIXING_LOSSES, Settings
from recsys.training import TrainingProgress, start_training

HISTORY_FUNCTIONS = dict(histories.HISTORY_LOSSES)
TOWERS = ("graph", "two_tables")
DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product", "mahalanobis")
T, WT, K, M = 0.2, 1.2, 5, 0.3
SMALL = Settings(
    dim=8,
    tower="graph",
    distance="cosine",
    loss="history_softmax",
    offset="fixed",
    offset_scale=0.1,
    temperature=T,
    negative_temperature=WT,
    top_k=K,
    margin=M,
    uniform_items=24,
    popular_items=8,
    batch_users=16,
    cycle_steps=8,
    learning_rate=0.02,
)


pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def data():
    return on_device()


def started(dtype=torch.float32, **changes):
    """A training whose sums over the graph are of this type, whatever this machine has."""
    training = start_training(data(), SMALL._replace(**changes))
    if training.settings.tower == "graph":
        training.model.tower.dtype = dtype
    return training


def trained(n_epochs=2, **changes):
    training = started(**changes)
    return training, [epoch.stats for epoch in epochs(training, n_epochs)]


def parameters(training):
    return [part.detach().clone() for part in training.parameters()]


def assert_same_bits(one, other):
    for ours, theirs in zip(parameters(one), parameters(other), strict=True):
        assert torch.equal(ours, theirs)


def some_batch(users=(5, 0, 11, 30)):
    chosen = torch.tensor(users)
    return UserBatch(chosen, int(TAKEN[list(users)].sum()))


def gradients(training, loss):
    return torch.autograd.grad(loss, [part for part in training.parameters() if part.requires_grad])


# Batches


@pytest.mark.parametrize("size", [1, 7, 16, 39, 1000])
def test_every_user_comes_once_a_round_and_nobody_without_items(size):
    batches = user_batches(data(), size, torch.Generator().manual_seed(0))
    a_round = max(1, -(-(N_USERS - 1) // size))  # user 3 has nothing
    for _ in range(3):
        users = list(itertools.islice(batches, a_round))
        assert sorted(torch.cat([batch.users for batch in users]).tolist()) == [
            user for user in range(N_USERS) if user != 3
        ]
        assert max(len(batch.users) for batch in users) - min(len(batch.users) for batch in users) <= 1
        assert [batch.total for batch in users] == [int(TAKEN[batch.users.numpy()].sum()) for batch in users]


def test_rounds_are_in_another_order_and_the_same_by_the_same_generator():
    def order(seed):
        batches = user_batches(data(), 39, torch.Generator().manual_seed(seed))
        return [batch.users.tolist() for batch in itertools.islice(batches, 2)]

    first, second = order(0)
    assert first != second
    assert order(0) == [first, second]
    assert order(1) != [first, second]


@pytest.mark.parametrize(
    ("batch_users", "batch_interactions", "expected"),
    [(16, 10**6, 16), (1000, 10**6, 1000), (1000, 100, 6), (1000, 1, 1)],
)
def test_a_batch_has_so_many_users_that_their_histories_are_short_enough(
    batch_users, batch_interactions, expected
):
    assert 100 / 7 < TAKEN.sum() / 39 < 100 / 6
    settings = SMALL._replace(batch_users=batch_users, batch_interactions=batch_interactions)
    assert users_per_batch(data(), settings) == expected
    assert steps_per_round(data(), settings) == -(-39 // expected)
    assert steps_per_pass(started(batch_users=batch_users, batch_interactions=batch_interactions)) == (
        -(-39 // expected)
    )


# The loss of a step


def dense_distances(training):
    """(U, I) with gradient: by the model's own towers, all at once."""
    everybody = torch.arange(N_USERS)
    anchors = training.model.anchors(everybody, everybody, training.generator)
    return training.model.distance(anchors, *training.model.points(torch.arange(N_ITEMS)))


def dense_loss(training, batch, candidates, log_q):
    """The mean over the batch's interactions, from the dense matrix and the losses' own functions."""
    s, d = training.settings, dense_distances(training)[batch.users]  # (B, I)
    taken = torch.from_numpy(TAKEN)[batch.users]  # (B, I)
    row, own = taken.nonzero().T
    d_own, to_candidates = d[row, own], d[:, candidates]
    far = to_candidates.masked_fill(taken[:, candidates], math.inf)
    if s.loss == "history_softmax":
        return history_losses.softmax(d_own, row, far, log_q, T).mean()
    if s.loss == "history_hinge":
        return history_losses.rank_hinge(d_own, row, far, M, N_ITEMS).mean()
    if s.loss == "history_psl":
        return psl.psl(d_own, row, far, log_q, T, "relu", M).mean()
    border = history_losses.top_k_border(d_own, row, far, K, log_q)
    return history_losses.sl_at_k(d_own, row, far, log_q, border, temperature=T, weight_temperature=WT).mean()


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("loss", HISTORY_LOSSES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_steps_loss_and_gradient_are_the_dense_ones(tower, distance, loss, whole):
    """Of all items as candidates, and of drawn ones, which repeat."""
    changes = {"uniform_items": N_ITEMS, "popular_items": 0} if whole else {}
    ours, twin = (started(tower=tower, distance=distance, loss=loss, **changes) for _ in range(2))
    found, regularizer = history_loss(ours, some_batch())
    assert regularizer is None
    candidates, log_q = torch.arange(N_ITEMS), torch.zeros(N_ITEMS)
    if not whole:
        candidates = twin.sampler.draw(candidates[:0], twin.generator).sort().values
        log_q = twin.sampler.log_q(candidates)
    expected = dense_loss(twin, some_batch(), candidates, log_q)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(ours, found), gradients(twin, expected), strict=True):
        one, other = one.to_dense(), other.to_dense()
        if loss == "history_psl":  # rounding may put a candidate between other nodes
            assert (one - other).norm() <= 0.01 * other.norm()
        else:
            torch.testing.assert_close(one, other, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_over_all_items_the_softmax_is_torchs(tower, distance):
    training, batch = (
        started(tower=tower, distance=distance, uniform_items=N_ITEMS, popular_items=0),
        some_batch(),
    )
    logits = -dense_distances(training) / T  # (U, I)
    expected = []
    for user in batch.users.tolist():
        taken = torch.from_numpy(TAKEN[user])
        for own in logits[user][taken]:
            expected.append(-torch.cat([own[None], logits[user][~taken]]).log_softmax(0)[0])
    torch.testing.assert_close(
        history_loss(training, batch)[0], torch.stack(expected).mean(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("loss", HISTORY_LOSSES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rounded_sums_change_a_step_little(loss, seed):
    """bfloat16 rounds by up to 1 in 256."""
    exact, rounded = (
        started(loss=loss, seed=seed, start="random", dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    expected, _ = history_loss(exact, some_batch())
    found, _ = history_loss(rounded, some_batch())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.01)
    for one, other in zip(gradients(rounded, found), gradients(exact, expected), strict=True):
        assert one.dtype == torch.float32
        assert 0 < (one - other).norm() <= 0.05 * other.norm()


def test_sums_are_rounded_where_the_processor_computes_with_bfloat16(monkeypatch):
    def dtype(**changes):
        return start_training(data(), SMALL._replace(**changes)).model.tower.dtype

    for feature in ("avx512_bf16", "amx_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True}, raising=False)  # noqa: B023
        assert dtype() == torch.bfloat16
        assert dtype(temperature=0.04) == dtype(distance="euclidean") == torch.float32
        assert dtype(loss="history_hinge", margin=0.04) == torch.float32
        assert dtype(loss="history_hinge", temperature=0.04) == torch.bfloat16
        assert dtype(loss="history_psl", margin=0.04) == torch.bfloat16
        assert dtype(loss="history_psl", temperature=0.04) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert dtype() == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as before torch had it
    assert dtype() == torch.float32


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("mixed", [0, 13])
@pytest.mark.parametrize("ahead", [True, False])
def test_the_fused_softmax_equals_the_other_in_value_and_gradient(tower, whole, mixed, ahead, monkeypatch):
    """What has a regularizer, here one of 0, is not fused."""
    for module in (sampling, softmax, history_losses) if ahead else ():
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)
    changes = {"synthetic_items": mixed}
    changes |= {"uniform_items": N_ITEMS, "popular_items": 0} if whole else {}
    ours, twin = (started(tower=tower, **changes) for _ in range(2))
    fused, _ = history_loss(ours, some_batch())
    plain, nothing = history_loss(twin, some_batch(), lambda users, items: 0 * users.sum())
    assert nothing.item() == 0
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(ours, fused), gradients(twin, plain), strict=True):
        torch.testing.assert_close(one.to_dense(), other.to_dense(), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("loss", MIXING_LOSSES)
def test_rounded_sums_stay_rounded_beside_mixtures(loss, monkeypatch):
    seen = []
    for name, function in HISTORY_FUNCTIONS.items():
        monkeypatch.setitem(
            histories.HISTORY_LOSSES, name, lambda s, n, x, f=function: seen.append(x.d.dtype) or f(s, n, x)
        )
    rounded = started(torch.bfloat16, loss=loss, synthetic_items=8)
    plain = started(loss=loss, synthetic_items=8)
    one, other = (history_loss(training, some_batch())[0] for training in (rounded, plain))
    assert seen in ([], [torch.bfloat16, torch.float32])  # the softmax is fused: it has no such matrix
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)


def test_a_mixture_is_between_its_items_and_nobody_is_spared_of_it():
    """Of the softmax of all items, by torch: MixGCF's mixtures as candidates more."""
    changes = {"tower": "two_tables", "uniform_items": N_ITEMS, "popular_items": 0, "synthetic_items": 40}
    ours, twin = (started(**changes) for _ in range(2))
    loss, _ = history_loss(ours, some_batch())
    row, own = sampling.histories(data(), some_batch().users, some_batch().total)
    draw = torch.rand(3, 40, generator=twin.generator)
    taken, other, share = own[(draw[0] * len(own)).long()], (draw[1] * N_ITEMS).long(), draw[2][:, None]
    unit = torch.nn.functional.normalize
    users, items = unit(ours.model.tower.table[some_batch().users]), unit(ours.model.items)
    mixed = unit(share * items[taken] + (1 - share) * items[other])
    offset = ours.model.offset
    of_mixed = share[:, 0] * offset[taken] + (1 - share[:, 0]) * offset[other]
    points, offsets = torch.cat([items, mixed]), torch.cat([offset, of_mixed])
    logits = -(1 - users @ points.T + offsets) / T  # (B, I + M)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[row, own] = True
    rest = logits.masked_fill(seen, -math.inf)[row]  # (H, I + M)
    expected = torch.nn.functional.cross_entropy(
        torch.cat([logits[row, own][:, None], rest], 1), torch.zeros(len(own), dtype=torch.long)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", MIXING_LOSSES)
@pytest.mark.parametrize("distance", DISTANCES)
def test_mixtures_make_a_harder_loss_that_is_learned(distance, loss):
    changes = {"distance": distance, "loss": loss}
    plain, mixed = (
        history_loss(started(tower="two_tables", synthetic_items=n, **changes), some_batch())[0]
        for n in (0, 64)
    )
    assert mixed > plain
    _, stats = trained(2, synthetic_items=16, **changes)
    assert stats[1].loss < stats[0].loss


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_gradient_is_that_of_finite_differences(distance):
    """Of the softmax in float64; the others' own are in test_history_losses.py."""
    training = started(tower="two_tables", distance=distance, uniform_items=N_ITEMS)
    training.model.double()
    table = training.model.tower.table
    (gradient,) = torch.autograd.grad(history_loss(training, some_batch())[0], table)
    direction = normal(4, N_USERS, 8, dtype=torch.float64)
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            table += step * direction
        values.append(history_loss(training, some_batch())[0].item())
    slope = (values[0] - values[1]) / 2e-5
    assert slope == pytest.approx((gradient.to_dense() * direction).sum().item(), rel=1e-5)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("loss", HISTORY_LOSSES)
def test_a_user_without_items_adds_nothing(tower, loss):
    """No batch has them; a loss of theirs would be a mean of nothing."""
    training = started(tower=tower, loss=loss)
    with_nobody, _ = history_loss(training, some_batch((5, 3, 11)))
    assert math.isfinite(with_nobody.item())
    assert all(torch.isfinite(part.to_dense()).all() for part in gradients(training, with_nobody))


def test_a_small_catalogue_is_taken_whole_and_a_larger_one_drawn(monkeypatch):
    drawn, real = [], negatives.known_pairs

    def spy(data, users, candidates):
        drawn.append(candidates.tolist())
        return real(data, users, candidates)

    monkeypatch.setattr(negatives, "known_pairs", spy)
    for uniform in (N_ITEMS, N_ITEMS - 1):
        history_loss(started(loss="history_psl", uniform_items=uniform, popular_items=0), some_batch())
    assert drawn[0] == list(range(N_ITEMS))
    assert drawn[1] == sorted(drawn[1])
    assert len(set(drawn[1])) < len(drawn[1]) == N_ITEMS - 1


@pytest.mark.parametrize("loss", HISTORY_LOSSES)
def test_regularizers_count(loss):
    plain, shrunk, spread = (
        trained(1, loss=loss, **one)[0] for one in ({}, {"l2": 1.0}, {"covariance": 1.0})
    )
    assert not torch.equal(plain.model.items, spread.model.items)
    ours, theirs = (one.model.tower.sums(one.model.items)[0].norm() for one in (shrunk, plain))
    assert ours < theirs


# Learning


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("loss", HISTORY_LOSSES)
def test_each_loss_falls_and_unseen_items_of_a_users_cluster_come_nearer(tower, distance, loss):
    training, stats = trained(4, tower=tower, distance=distance, loss=loss)
    assert stats[-1].loss < stats[0].loss
    assert all(math.isfinite(value) for one in stats for value in one)
    # sl_at_k can fall as own items leave the top, too: it is for fine tuning
    assert auc(training.model.space()) > (0.7 if loss == "history_sl_at_k" else 0.9)
    assert auc(started(tower="two_tables").model.space()) < 0.6


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_learned_offset_is_learned_and_stays_above_0(distance):
    training, stats = trained(4, distance=distance, loss="history_hinge", offset="learned")
    assert stats[-1].loss < stats[0].loss
    assert not torch.equal(training.model.offset, started().model.offset)
    assert training.model.offset.min() >= 0


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("loss", HISTORY_LOSSES)
def test_same_seed_same_bits(tower, loss):
    first, second, other = (trained(1, tower=tower, loss=loss, seed=seed)[0] for seed in (0, 0, 1))
    assert_same_bits(first, second)
    assert not torch.equal(first.model.items, other.model.items)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("loss", HISTORY_LOSSES)
def test_where_the_host_runs_ahead_the_same_is_learned(tower, loss, monkeypatch):
    plain, stats = trained(1, tower=tower, loss=loss)
    monkeypatch.setattr(sampling, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(history_losses, "is_asynchronous", lambda device: True)
    ahead, others = trained(1, tower=tower, loss=loss)
    torch.testing.assert_close(list(others[0]), list(stats[0]), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(parameters(ahead), parameters(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_stats_are_means_over_the_interactions():
    training, seen = started(cycle_steps=3), []
    training.on_step = seen.append
    (epoch,) = epochs(training, 1)
    assert sum(seen) == TAKEN.sum()  # three batches are a round
    assert epoch.stats.mined == epoch.stats.active == 1
    assert epoch.health is not None
    assert 1 < epoch.health.effective_rank <= 8


def test_health_of_a_history_loss_reads_interactions_and_learns_nothing():
    training, _ = trained(1)
    before, state = parameters(training), training.generator.get_state()
    assert measure_health(training, "semi_hard") is not None
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(training), strict=True))
    assert torch.equal(state, training.generator.get_state())


def test_a_point_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="not finite: lower the learning_rate"):
        trained(1, learning_rate=math.inf)


# Cycles


def test_cycles_double_and_without_cycles_an_epoch_is_a_round():
    for cycle_steps, expected in ((4, [4, 8, 16]), (0, [3, 3, 3])):
        training, steps = started(cycle_steps=cycle_steps), []
        training.on_step = steps.append
        for _ in epochs(training, 3):
            pass
        starts = [place for place, n in enumerate(steps) if n == 0]  # before each epoch it is called with 0
        assert [b - a - 1 for a, b in itertools.pairwise([*starts, len(steps)])] == expected


@pytest.mark.parametrize("loss", ["history_softmax", "warp"])
def test_the_learning_rate_falls_over_a_cycle_to_a_twentieth(loss):
    training, rates = started(loss=loss, cycle_steps=40), []
    training.on_step = lambda n: n and rates.append(training.optimizer.param_groups[0]["lr"])
    list(epochs(training, 1))
    assert rates == pytest.approx([0.02 * (1 - 0.95 * step / 40) for step in range(40)])


@pytest.mark.parametrize("loss", ["history_softmax", "warp"])
def test_a_plan_that_shortens_a_cycle_ends_it_at_its_lowest_rate(loss):
    training, rates, asked = started(loss=loss, cycle_steps=40), [], []

    def plan(epoch, step):
        asked.append((epoch, step))
        return 40 if step < 10 else 20

    training.plan = plan
    training.on_step = lambda n: n and rates.append(training.optimizer.param_groups[0]["lr"])
    (epoch,) = epochs(training, 1)
    assert asked == [(0, step) for step in range(21)]  # before each step
    falling = [0.02 * (1 - 0.95 * step / (40 if step < 10 else 20)) for step in range(20)]
    assert rates == pytest.approx(falling)
    assert rates[-1] == pytest.approx(0.02 * (0.05 + 0.95 / 20))
    assert math.isfinite(epoch.stats.loss)


def test_a_plan_below_the_steps_done_ends_the_cycle_at_once():
    training, steps = started(cycle_steps=40), []
    training.plan = lambda epoch, step: 40 if step < 10 else 5
    training.on_step = lambda n: n and steps.append(n)
    list(epochs(training, 1))
    assert len(steps) == 10


class Stopped(Exception):
    pass


RESUMED = {
    "graph, softmax": {},
    "graph, hinge, learned offset": {"loss": "history_hinge", "offset": "learned"},
    "graph, psl, no cycle": {"loss": "history_psl", "cycle_steps": 0},
    "two tables, sl_at_k": {"loss": "history_sl_at_k", "tower": "two_tables"},
    "graph, warp": {"loss": "warp", "offset": "learned", "batch_size": 128, "memory_items": 16},
    "graph, margin of each item": {
        "loss": "margin",
        "beta_per_item": True,
        "miner": "random",
        "batch_size": 128,
    },
    "two tables, bsl": {"loss": "bsl", "tower": "two_tables", "batch_size": 128},
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("stop", [2, 5, 11])
def test_a_training_that_was_stopped_within_a_cycle_goes_on_to_the_same_bits(name, stop):
    unbroken = started(**RESUMED[name])
    expected = [epoch.stats for epoch in epochs(unbroken, 3)]

    broken, calls = started(**RESUMED[name]), []

    def on_step(n):
        calls.append(n)
        if len(calls) == stop:
            raise Stopped

    broken.on_step = on_step
    found = []
    with pytest.raises(Stopped):
        found.extend(epoch.stats for epoch in epochs(broken, 3))
    saved, plain = broken.state(), broken.progress.plain()
    again = started(**RESUMED[name])
    again.restore(saved)
    again.progress = TrainingProgress.of(plain)
    found += [epoch.stats for epoch in epochs(again, 3)]
    assert found == expected
    assert_same_bits(again, unbroken)


# Waiting for a device


@pytest.mark.parametrize("loss", ["history_softmax", "history_psl"])
def test_a_step_asks_the_device_for_no_number(loss, monkeypatch):
    """On a GPU the host would wait for each. Once a round it asks for a list, which is not among these."""
    for module in (sampling, softmax, history_losses):
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)
    waits = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2")
    training = started(cycle_steps=6, loss=loss)
    with torch.profiler.profile() as profiler:
        list(epochs(replace(training, with_health=False), 1))
    events = profiler.events()
    asked = [event.time_range.start for event in events if event.name in waits]
    steps = [event.time_range for event in events if event.name == "Optimizer.step#TableAdam.step"]
    assert len(steps) == 6
    rounds = {2}  # three batches are a round: after the third step the next one's sizes are asked for
    for number, (one, other) in enumerate(itertools.pairwise(steps)):
        found = [at for at in asked if one.end <= at <= other.start]
        assert number in rounds or not found
