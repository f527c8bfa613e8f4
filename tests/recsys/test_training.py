"""One epoch against a naive step, what may be a triplet, and what a few epochs learn from two clusters."""

import copy
import math

import numpy as np
import pytest
import torch

from recsys import distances, losses, miners, sampling, spaces
from recsys.candidates import Objective
from recsys.distances import Mahalanobis
from recsys.epochs import run_epoch, sample_triplets
from recsys.interactions import Interactions
from recsys.models import Geometry, HistoryMean, MetricSpace, UserTable, fold_in, random_start
from recsys.optim import RowAdam
from recsys.sampling import CandidateSampler
from recsys.settings import Settings
from recsys.training import Position, Training

N_USERS, N_ITEMS, MARGIN, TEMPERATURE, WEIGHT_POWER = 40, 60, 0.5, 0.3, 0.5
SAME = (torch.arange(N_USERS)[:, None] % 2) == (torch.arange(N_ITEMS)[None, :] % 2)  # (U, I): one cluster


pytestmark = pytest.mark.usefixtures("one_thread")


# Losses as plain functions of triplets, and whole lists as one of their own


def hinge(mined):
    return losses.triplet_margin(mined.d_pos, mined.d_neg, MARGIN)


def contrastive(mined):
    return losses.contrastive(mined.d_pos, mined.d_neg, MARGIN)


def warp(mined):
    return losses.warp(mined.d_pos, mined.d_neg, MARGIN, mined.rank)


def rank(lists):
    return losses.estimated_rank(lists.d_own, lists.d, MARGIN, N_ITEMS)


def softmax(lists):
    return losses.sampled_softmax(*lists.matrix(), TEMPERATURE)


def covariance(anchors, items):
    return 0.5 * losses.covariance(torch.cat([anchors, items]))


LOSSES = {"hinge": hinge, "contrastive": contrastive, "warp": warp}
WHOLE = Objective(miners.random, MARGIN, softmax, whole_lists=True)


def on_device(taken, weights=None, times=None):
    """(U, I) bool, weights (U, I), by default 1, and times (U, I), by default 0 -> its interactions."""
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    weight = (np.ones(taken.shape) if weights is None else weights)[taken].astype(np.float32)
    time = (np.zeros(taken.shape) if times is None else times)[taken].astype(np.int64)
    return sampling.to_device(Interactions(user, item, weight, time, *taken.shape), torch.device("cpu"))


def two_clusters():
    """(U, I) bool: each user has half of the items of one of two clusters."""
    return SAME.numpy() & (np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.5)


def new_space(seed=0, data=None, height=0.0, **changes):
    """Two tables; with data, the siamese tower over its histories. Offsets start at `height` and up."""
    generator = torch.Generator().manual_seed(seed)
    users, items = random_start(N_USERS, N_ITEMS, 4, 0.3, generator)
    offset = height + 0.1 * torch.rand(N_ITEMS, generator=generator)
    return MetricSpace(UserTable(users) if data is None else HistoryMean(data, 20), items, offset, **changes)


def candidates_of(data, in_batch=24, uniform=24, **changes):
    plain = {"popular": 0, "popularity_power": 0.75, "memory": 0}
    return CandidateSampler(data, in_batch=in_batch, uniform=uniform, **plain | changes)


def sgd(model, learning_rate=0.1):
    return torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=learning_rate)


def adam(model):
    return RowAdam(model.parameter_groups(), lr=0.01)


def training_of(model, data, seed=0, optimizer=None, sampler=None, batch_size=64, weight_power=0.0, **parts):
    settings = Settings(batch_size=batch_size, weight_power=weight_power)
    return Training(
        settings,
        data,
        model,
        optimizer or adam(model),
        sampler or candidates_of(data),
        torch.Generator().manual_seed(seed),
        torch.ones(1),
        **parts,
    )


def run(model, data, schedule, seed=0, optimizer=None, sampler=None, **changes):
    """Train one epoch for each objective of the schedule; the stats of each."""
    training = training_of(model, data, seed, optimizer, sampler, **changes)
    return [run_epoch(training, objective) for objective in schedule]


def test_progress_gets_the_planned_length_at_each_step():
    """A resumed epoch counts what is left, not what was done before."""
    data = on_device(two_clusters())
    training = training_of(new_space(), data, batch_size=100)
    whole, n = -(-len(data.user) // 100), len(data.user)
    training.settings = training.settings._replace(cycle_steps=9)
    training.plan = lambda epoch, step: 5 if step < 2 else 3
    calls = []
    run_epoch(training, WHOLE, lambda done, total=None: calls.append((done, total)))
    assert calls == [(100, round(steps * n / whole)) for steps in (5, 5, 3)]
    training.progress = training.progress._replace(position=Position(1, 2, torch.zeros(3).double(), 200))
    run_epoch(training, WHOLE, lambda done, total=None: calls.append((done, total)))
    assert calls[3:] == [(100, round(3 * n / whole) - 200)]


def assert_same(model, other, exactly=True):
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if exactly:
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def listening(seen):
    """A rank, 1 of each, that writes down the lists it is asked of."""

    def rank(lists):
        seen.append(lists)
        return torch.ones(len(lists.user))

    return rank


# A step


class Naive:
    """One batch of everything for a new space of two tables, pair by pair; three users have no triplet."""

    def __init__(self, weight_power=0.0):
        self.taken = two_clusters()
        self.taken[:3] = True
        weights = np.random.default_rng(1).integers(1, 30, self.taken.shape)  # (U, I)
        self.data, self.start = on_device(self.taken, weights), new_space()
        powers = weights.astype(float) ** weight_power
        self.weight = powers / powers[self.taken].mean()  # (U, I)
        generator = torch.Generator().manual_seed(3)
        orders = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        ((users, items, *_),) = sampling.batches(self.data, 10**6, orders)
        drawn = items[:24].tolist() + sampling.uniform_items(self.data, 24, generator).tolist()
        self.rows = [
            (user, item, [candidate for candidate in drawn if not self.taken[user, candidate]])
            for user, item in zip(users.tolist(), items.tolist(), strict=True)
        ]
        self.n = len(self.rows)
        difference = self.start.tower.table[:, None] - self.start.items[None, :]  # (U, I, D)
        self.d = difference.square().sum(2) + self.start.offset  # (U, I)

    def regularized(self):
        users, items, _ = zip(*self.rows, strict=True)
        return covariance(self.start.tower.table[list(users)], self.start.items[list(items)])

    def assert_equals(self, objective, loss, mined, active, weight_power=0.0):
        """Descends by the naive loss, and once by the objective; mined and active are the naive counts."""
        loss.backward()
        sgd(self.start).step()
        model = new_space()
        training = training_of(model, self.data, 3, sgd(model), batch_size=10**6, weight_power=weight_power)
        stats = run_epoch(training, objective)
        assert_same(model, self.start, exactly=False)
        assert not torch.equal(model.items, new_space().items)
        assert stats[1:] == pytest.approx((mined / self.n, active / mined))
        return stats.loss


@pytest.mark.parametrize(
    ("name", "weight_power", "regularize"),
    [
        ("hinge", 0.0, None),
        ("hinge", 1.0, covariance),
        ("contrastive", 0.5, None),
        ("contrastive", 0.0, covariance),
        ("warp", 0.0, None),
        ("warp", 0.5, covariance),
    ],
)
def test_a_step_equals_the_naive_one(name, weight_power, regularize):
    """Hardest negatives, plain descent."""
    naive = Naive(weight_power)
    d, total, active, mined = naive.d.tolist(), 0.0, 0, 0
    for user, item, negatives in naive.rows:
        if not negatives:
            continue
        nearest = min(negatives, key=lambda candidate, row=d[user]: row[candidate])
        d_pos, d_neg = naive.d[user, item], naive.d[user, nearest]
        if name == "contrastive":
            each = 0.5 * d_pos**2 + 0.5 * (MARGIN - d_neg).clamp_min(0) ** 2
        else:
            each = (MARGIN + d_pos - d_neg).clamp_min(0)
        if name == "warp":
            impostors = [n for n in negatives if d[user][n] < d[user][item] + MARGIN]
            each = each * math.log(1 + N_ITEMS * len(impostors) / len(negatives))
        total = total + naive.weight[user, item] * each
        mined, active = mined + 1, active + (each.item() > 0)
    assert 0 < mined < naive.n
    loss = total / naive.n
    objective = Objective(miners.hardest, MARGIN, LOSSES[name], rank=rank, regularize=regularize)
    goal = loss if regularize is None else loss + naive.regularized()
    reported = naive.assert_equals(objective, goal, mined, active, weight_power)
    assert reported == pytest.approx(loss.item(), rel=1e-4)  # the regularizer is not in it


def test_a_step_over_every_triplet_is_their_mean():
    naive = Naive(WEIGHT_POWER)
    total, active, mined = 0.0, 0, 0
    for user, item, negatives in naive.rows:
        if negatives:
            each = (MARGIN + naive.d[user, item] - naive.d[user][negatives]).clamp_min(0)
            total = total + naive.weight[user, item] * each.sum()
            mined, active = mined + len(negatives), active + (each > 0).sum().item()
    assert mined > naive.n
    objective = Objective(miners.every, MARGIN, hinge)
    assert naive.assert_equals(objective, total / mined, mined, active, WEIGHT_POWER) == pytest.approx(
        total.item() / mined, rel=1e-4
    )


def test_a_step_over_whole_lists_equals_the_naive_one():
    naive = Naive(WEIGHT_POWER)
    total, active = 0.0, 0
    for user, item, negatives in naive.rows:
        if negatives:
            each = -torch.log_softmax(-naive.d[user][[item, *negatives]] / TEMPERATURE, 0)[0]
            total, active = total + naive.weight[user, item] * each, active + 1
    reported = naive.assert_equals(WHOLE, total / naive.n, naive.n, active, WEIGHT_POWER)
    assert reported == pytest.approx(total.item() / naive.n, rel=1e-4)


@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean", "cosine", "inner_product", "mahalanobis"])
@pytest.mark.parametrize("siamese", [False, True])
def test_the_distances_of_mined_pairs_are_the_matrixs_entries_in_value_and_gradient(name, siamese):
    """The same loss of the same triplets, from pairs looked up again and from the whole matrix."""
    data, stats, models, seen = on_device(two_clusters()), [], [], []

    def of_the_matrix(lists):
        d_own, d = lists.d_own[:, None], lists.d
        triplets = miners.hardest(d_own.detach(), d.detach(), MARGIN)
        each = losses.triplet_margin(*triplets.distances(d_own, d), MARGIN)
        return torch.zeros(len(lists.user)).index_add(0, triplets.anchor, each)

    def of_pairs(mined):
        (lists,) = seen
        d_pos, d_neg = mined.triplets.distances(lists.d_own[:, None], lists.d)
        torch.testing.assert_close(d_pos, mined.d_pos)
        torch.testing.assert_close(d_neg, mined.d_neg, atol=1e-5, rtol=1e-5)
        assert torch.equal(mined.positive, lists.item[mined.triplets.anchor])
        return hinge(mined)

    for objective in (
        Objective(miners.hardest, MARGIN, of_pairs, rank=listening(seen)),
        Objective(miners.hardest, MARGIN, of_the_matrix, whole_lists=True),
    ):
        learned = Mahalanobis(4, "full") if name == "mahalanobis" else None
        to_space = spaces.euclidean_space if learned is None else learned.space
        geometry = Geometry(learned or getattr(distances, name), to_space)
        model = new_space(data=data if siamese else None, geometry=geometry)
        stats += run(model, data, [objective], optimizer=sgd(model), batch_size=10**6)
        models.append(model)
    assert_same(*models, exactly=False)
    assert not torch.equal(models[0].items, new_space().items)
    if name == "mahalanobis":
        assert not torch.equal(models[0].distance.linear, torch.eye(4))
    assert stats[0].loss == pytest.approx(stats[1].loss, rel=1e-5)


# What may be a triplet


def watched(mine, seen, whole_lists=False):
    """An objective that writes down what it is asked: (lists, mined) of each step, mined None of lists."""
    lists_of = []

    def loss(asked):
        seen.append((asked, None) if whole_lists else (lists_of.pop(), asked))
        return softmax(asked) if whole_lists else hinge(asked)

    return Objective(mine, MARGIN, loss, whole_lists=whole_lists, rank=listening(lists_of))


MINERS = {"random": miners.random, "every": miners.every, "semi_hard": miners.semi_hard}
MINERS["hardest"] = miners.hardest


@pytest.mark.parametrize("mine", MINERS)
def test_what_a_user_has_is_never_his_negative(mine):
    taken, seen = two_clusters(), []
    run(new_space(), on_device(taken), [watched(MINERS[mine], seen)] * 2)
    for _, mined in seen:
        assert taken[mined.user, mined.positive].all()
        assert not taken[mined.user, mined.negative].any()
    assert sum(len(mined.user) for _, mined in seen) > 100


def test_a_miner_gets_the_margin_and_distances_without_gradient():
    asked = []

    def mine(d_pos, d_neg, margin, generator, fixed):
        asked.append((d_pos.requires_grad or d_neg.requires_grad, margin))
        return miners.random(d_pos, d_neg, margin, generator, fixed)

    run(new_space(), on_device(two_clusters()), [Objective(mine, 0.37, hinge)], batch_size=200)
    assert asked == [(False, 0.37)] * len(asked) != []


def test_every_triplet_is_there_once():
    taken, seen = two_clusters(), []
    run(new_space(), on_device(taken), [watched(miners.every, seen)], batch_size=16)
    for lists, mined in seen:
        expected = [
            (user, item, negative)
            for user, item, row in zip(
                lists.user.tolist(), lists.item.tolist(), lists.candidate.tolist(), strict=True
            )
            for negative in row
            if not taken[user, negative]
        ]
        found = zip(mined.user.tolist(), mined.positive.tolist(), mined.negative.tolist(), strict=True)
        assert list(found) == expected


@pytest.mark.parametrize("mine", [*MINERS, "whole lists"])
def test_what_was_not_on_sale_is_no_negative(mine):
    """Items come and go; the last one is seen once, when nothing else is there: no gradient reaches it."""
    taken, seen, last = two_clusters(), [], N_ITEMS - 1
    times = np.tile(np.arange(N_ITEMS) // 20, (N_USERS, 1)) * 100
    times += np.random.default_rng(1).integers(0, 120, taken.shape)  # three seasons that overlap a little
    taken[:, last], taken[0, last], times[0, last] = False, True, 10**6
    data, model = on_device(taken, times=times), new_space(height=1.0)  # so none is pushed below 0, all move
    whole = mine == "whole lists"
    objective = watched(MINERS.get(mine, miners.random), seen, whole)
    sampler = candidates_of(data, uniform=10 * N_ITEMS)
    run(model, data, [objective], optimizer=sgd(model), sampler=sampler)
    first, final = data.first_seen.numpy(), data.last_seen.numpy()
    offered, absent = 0, 0
    for lists, mined in seen:
        now = times[lists.user, lists.item][:, None]  # (B, 1)
        candidate = lists.candidate.numpy()
        on_sale = (first[candidate] <= now) & (now <= final[candidate])
        expected = on_sale & ~taken[lists.user[:, None], candidate]
        d, positive, negative = lists.matrix()
        np.testing.assert_array_equal(negative[:, 1:], expected)
        assert torch.equal(d[:, 0], lists.d_own)
        assert not negative[:, 0].any()
        assert positive[:, 0].all()
        assert not positive[:, 1:].any()
        offered, absent = offered + expected.sum(), absent + (~on_sale).sum()
        if mined is not None:
            now = times[mined.user, mined.positive]
            assert ((first[mined.negative] <= now) & (now <= final[mined.negative])).all()
    assert min(offered, absent) > 1000
    start = new_space(height=1.0)
    assert torch.equal(model.items[last], start.items[last])
    assert torch.equal(model.offset[last], start.offset[last])
    assert not (model.items[:last] == start.items[:last]).all(1).any()


def test_row_weights_say_how_often_an_interaction_comes():
    data, seen = on_device(two_clusters()), []
    weights = torch.zeros(len(data.user), dtype=torch.float64)
    weights[7], weights[100] = 1, 3
    (stats,) = run(new_space(), data, [watched(miners.random, seen)], row_weights=weights)
    drawn = [pair for lists, _ in seen for pair in zip(lists.user.tolist(), lists.item.tolist(), strict=True)]
    light, heavy = ((data.user[row].item(), data.item[row].item()) for row in (7, 100))
    assert set(drawn) == {light, heavy}
    assert len(drawn) == len(data.user)
    assert drawn.count(heavy) / len(drawn) == pytest.approx(0.75, abs=0.06)
    assert math.isfinite(stats.loss)


def offline_table(taken, data, without):
    """(N, 3): up to three items that a user has not, never item 0; the rows `without` have none."""
    drawn, table = np.random.default_rng(2), np.full((len(data.user), 3), -1)
    for row, user in enumerate(data.user.tolist()):
        if row not in without:
            some = drawn.choice(np.flatnonzero(~taken[user])[1:], drawn.integers(1, 4), replace=False)
            table[row, : len(some)] = some
    return torch.from_numpy(table)


@pytest.mark.parametrize("mine", [*MINERS, "whole lists"])
@pytest.mark.parametrize("siamese", [False, True])
def test_offline_negatives_are_these_alone_and_their_padding_is_no_item(mine, siamese):
    taken, seen, without = two_clusters(), [], {0, 5, 6, 200}
    taken[:, 0] = False  # an item without users: it is where -1 would be looked up
    data = on_device(taken)
    model, start = (new_space(data=data if siamese else None, height=1.0) for _ in range(2))
    table = offline_table(taken, data, without)
    assert (table == -1).any()
    assert not (table == 0).any()
    whole = mine == "whole lists"
    objective = watched(MINERS.get(mine, miners.random), seen, whole)
    sampler = candidates_of(data)
    (stats,) = run(model, data, [objective], optimizer=sgd(model), sampler=sampler, offline=table)
    assert torch.equal(model.items[0], start.items[0])
    assert torch.equal(model.offset[0], start.offset[0])
    assert not torch.equal(model.items[1:], start.items[1:])
    pairs = list(zip(data.user.tolist(), data.item.tolist(), strict=True))
    mined_offline = {(*pairs[n], j) for n, row in enumerate(table.tolist()) for j in row if j != -1}
    found = set()
    for lists, mined in seen:
        row_of = [pairs.index(pair) for pair in zip(lists.user.tolist(), lists.item.tolist(), strict=True)]
        assert torch.equal(lists.d != math.inf, table[row_of] != -1)
        if mined is not None:
            found |= set(
                zip(mined.user.tolist(), mined.positive.tolist(), mined.negative.tolist(), strict=True)
            )
    assert found <= mined_offline
    if mine == "every":
        assert found == mined_offline
        assert stats.mined == pytest.approx(len(found) / len(pairs))
    if mine in ("random", "hardest"):
        assert stats.mined == pytest.approx((len(pairs) - len(without)) / len(pairs))


@pytest.mark.parametrize("width", [0, 2])
def test_an_empty_offline_table_teaches_nothing(width):
    data, model = on_device(two_clusters()), new_space()
    table = torch.full((len(data.user), width), -1)
    for objective in (Objective(miners.every, MARGIN, hinge), WHOLE):
        (stats,) = run(model, data, [objective], offline=table)
        assert (stats.loss, stats.active) == (0, 0)
        assert_same(model, new_space())


@pytest.mark.parametrize("objective", [Objective(miners.hardest, MARGIN, hinge), WHOLE])
def test_where_everything_is_known_nothing_is_learned(objective):
    model = new_space()
    (stats,) = run(model, on_device(np.ones((N_USERS, N_ITEMS), dtype=bool)), [objective])
    assert tuple(stats) == (0, float(objective.whole_lists), 0)
    assert_same(model, new_space())


# An epoch


@pytest.mark.parametrize(
    ("changes", "batch_size"),
    [
        ({"in_batch": 1}, 3),
        ({"in_batch": 0}, 64),
        ({"uniform": 0}, 64),
        ({"in_batch": 10**4, "uniform": 10**3}, 64),  # more than the batch, more than the catalogue
        ({"in_batch": 0, "uniform": 0, "popular": 9}, 64),
        ({"in_batch": 0, "uniform": 0, "memory": 99}, 64),  # in the first step there is no candidate
        ({}, 10**4),
    ],
    ids=str,
)
@pytest.mark.parametrize("whole", [False, True])
def test_batches_and_candidates_of_any_size(changes, batch_size, whole):
    data, steps_seen, model = on_device(two_clusters()), [], new_space()
    objective = Objective(miners.hardest, MARGIN, softmax if whole else hinge, whole, regularize=covariance)
    sampler = candidates_of(data, **changes)
    (stats,) = run(
        model, data, [objective], sampler=sampler, batch_size=batch_size, on_step=steps_seen.append
    )
    n = len(data.user)
    assert steps_seen == [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
    assert 0 < stats.mined <= 1
    assert not torch.equal(model.items, new_space().items)


@pytest.mark.parametrize("mine", MINERS)
@pytest.mark.parametrize("siamese", [False, True])
def test_same_seed_same_bits(mine, siamese):
    data = on_device(two_clusters())
    first, again, other = (new_space(data=data if siamese else None) for _ in range(3))
    schedule = [Objective(MINERS[mine], MARGIN, hinge)] * 2
    assert run(first, data, schedule) == run(again, data, schedule)
    run(other, data, schedule, seed=1)
    assert_same(first, again)
    assert not torch.equal(first.items, other.items)


@pytest.mark.parametrize("mine", [*MINERS, "whole lists"])
@pytest.mark.parametrize("siamese", [False, True])
@pytest.mark.parametrize("offline", [False, True])
def test_a_batch_in_parts_teaches_what_it_teaches_whole(monkeypatch, mine, siamese, offline):
    data = on_device(two_clusters())
    of_triplets = Objective(MINERS.get(mine), MARGIN, warp, rank=rank, regularize=covariance)
    objective = WHOLE if mine == "whole lists" else of_triplets
    table = torch.randint(-9, N_ITEMS, (len(data.user), 7), generator=torch.Generator().manual_seed(5))
    table = table.clamp_min(-1)
    spaces_of = {}
    for block in (miners.BLOCK, 300, 1):  # of 49 or 8 columns: all rows, some, one at a time
        monkeypatch.setattr(miners, "BLOCK", block)
        model = spaces_of[block] = new_space(data=data if siamese else None)
        run(model, data, [objective], 0, sgd(model), batch_size=100, offline=table if offline else None)
    whole, *parts = spaces_of.values()
    for part in parts:
        assert_same(whole, part, exactly=False)


@pytest.mark.parametrize("siamese", [False, True])
@pytest.mark.parametrize("objective", [Objective(miners.semi_hard, MARGIN, hinge), WHOLE])
def test_same_bits_where_threads_share_the_gradient(siamese, objective):
    """Batches large enough for torch to add up a table's gradient on several threads."""
    torch.set_num_threads(4)
    chosen = np.random.default_rng(0)
    taken = np.zeros((500, 3000), dtype=bool)
    taken[chosen.integers(0, 500, 8000), np.minimum(chosen.geometric(0.005, 8000), 2999)] = True
    data, tables = on_device(taken), []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        users, items = random_start(500, 3000, 64, 0.3, generator)
        offset = torch.rand(3000, generator=generator)
        model = MetricSpace(HistoryMean(data, 20) if siamese else UserTable(users), items, offset)
        sampler = candidates_of(data, in_batch=512, uniform=512)
        run(model, data, [objective], batch_size=2048, sampler=sampler)
        tables.append([part.detach().clone() for part in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*tables, strict=True))


def test_a_fixed_offset_stays_and_a_learned_one_moves():
    data, objective = on_device(two_clusters()), Objective(miners.hardest, MARGIN, hinge)
    fixed, learned = new_space(learn_offset=False), new_space()
    for model in (fixed, learned):
        run(model, data, [objective])
    assert torch.equal(fixed.offset, new_space().offset)
    assert not torch.equal(learned.offset, new_space().offset)
    assert not torch.equal(fixed.items, new_space().items)


@pytest.mark.parametrize("name", [*LOSSES, "softmax"])
@pytest.mark.parametrize("learning_rate", [math.inf, math.nan])
def test_a_diverged_model_is_an_error_that_names_the_loss(name, learning_rate):
    model = new_space()
    optimizer = sgd(model)
    optimizer.param_groups[0]["lr"] = learning_rate
    objective = WHOLE if name == "softmax" else Objective(miners.hardest, MARGIN, LOSSES[name], rank=rank)
    with pytest.raises(FloatingPointError, match=r"loss = .* not finite: lower the learning_rate"):
        run(model, on_device(two_clusters()), [objective], optimizer=optimizer)


def test_a_model_that_is_not_finite_is_an_error_even_where_nothing_is_mined():
    model = new_space()
    with torch.no_grad():
        model.tower.table.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="an embedding is not finite"):
        run(model, on_device(two_clusters()), [Objective(miners.semi_hard, MARGIN, hinge)])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("mine", [miners.random, miners.semi_hard, miners.hardest])
def test_where_the_host_runs_ahead_what_is_looked_at_is_the_same(mine, whole, monkeypatch):
    """Triplets alone, though users 0 to 2 have everything."""
    taken = two_clusters()
    taken[:3] = True
    data = on_device(taken)

    def sample():
        source = torch.Generator().manual_seed(5)
        objective = Objective(mine, MARGIN, warp, rank=rank, whole_lists=whole)
        return sample_triplets(training_of(new_space(), data), objective, 500, source)

    plain, lists = sample()
    assert len(plain.user) < 500
    monkeypatch.setattr(sampling, "is_asynchronous", lambda device: True)
    ahead, others = sample()
    for ours, theirs in zip(
        (*ahead.triplets[:3], *ahead[1:]), (*plain.triplets[:3], *plain[1:]), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(lists.d, others.d)


def test_looking_at_triplets_leaves_no_trace():
    data = on_device(two_clusters())
    model, objective = new_space(), Objective(miners.hardest, MARGIN, hinge)
    sampler = candidates_of(data, memory=50)
    run(model, data, [objective], sampler=sampler)
    kept, remembered = copy.deepcopy(model), copy.deepcopy(sampler)
    model.items.grad = None
    (mined, lists), (again, _) = (
        sample_triplets(
            training_of(model, data, sampler=sampler), objective, 100, torch.Generator().manual_seed(5)
        )
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(mined.triplets[:3], again.triplets[:3], strict=True))
    assert lists.d.shape == (100, 24 + 24 + 50)
    d_pos, d_neg = mined.triplets.distances(lists.d_own[:, None], lists.d)
    torch.testing.assert_close(mined.d_pos, d_pos)
    torch.testing.assert_close(mined.d_neg, d_neg)
    assert torch.equal(lists.negatives, (lists.d != math.inf).sum(1).float())
    assert_same(model, kept)
    assert model.items.grad is None
    next_draws = [
        each.draw(torch.arange(9), torch.Generator().manual_seed(0)) for each in (sampler, remembered)
    ]
    assert torch.equal(*next_draws)


# What is learned


def auc(users, items, unseen, others):
    """(U, D), (I, D), masks (U, I) -> (U,): how often an unseen item is nearer than one of the others."""
    d = torch.cdist(users, items)
    return np.array(
        [
            (row[mine][:, None] < row[away][None, :]).double().mean().item()
            for row, mine, away in zip(d, unseen, others, strict=True)
        ]
    )


SCHEDULES = {
    "semi_hard": [miners.semi_hard] * 16,
    "hardest after a warm-up": [miners.semi_hard] * 4 + [miners.hardest] * 12,
}


@pytest.mark.parametrize("name", ["hinge", "contrastive"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("siamese", [False, True])
def test_unseen_items_of_a_users_cluster_come_nearer_than_the_other_clusters(name, schedule, siamese):
    taken = two_clusters()
    data = on_device(taken)
    model = new_space(data=data if siamese else None)
    stats = run(
        model, data, [Objective(mine, MARGIN, LOSSES[name], rank=rank) for mine in SCHEDULES[schedule]]
    )
    nearer = auc(*spaces.euclidean_vectors(model.space()), SAME & ~torch.from_numpy(taken), ~SAME)
    assert nearer.min() > 0.6
    assert nearer.mean() > 0.85
    assert model.offset.min() >= 0
    assert max(part.norm(dim=1).max() for part in model.space()[:2]) <= 1 + 1e-6
    assert all(math.isfinite(value) for epoch in stats for value in epoch)


def test_users_who_were_hidden_from_training_rank_well_from_their_history():
    taken = two_clusters()
    hidden = taken[30:].copy()
    taken[30:] = False
    data = on_device(taken)
    model = new_space(data=data)
    run(model, data, [Objective(miners.semi_hard, MARGIN, hinge)] * 16)
    offsets = torch.from_numpy(np.concatenate([[0], hidden.sum(1).cumsum()]))
    points = fold_in(model.items.detach(), torch.from_numpy(np.argwhere(hidden)[:, 1].copy()), offsets)
    assert model.space().users[30:].count_nonzero() == 0  # these users have no items
    _, items, offset = model.space()
    served = spaces.euclidean_vectors(spaces.Space(points, items, offset))
    nearer = auc(*served, SAME[30:] & ~torch.from_numpy(hidden), ~SAME[30:])
    assert nearer.min() > 0.6
    assert nearer.mean() > 0.85
