"""Batches, negatives and histories against sets of pairs; what is drawn, against its distribution."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import CrossBatchMemory, TripletMarginLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from scipy.stats import chisquare

from recsys import negatives, sampling
from recsys.interactions import Interactions

CPU = torch.device("cpu")


def on_device(pairs, n_users, n_items):
    user, item = np.array(sorted(pairs), dtype=np.int32).T.copy()
    n = len(user)
    weight, time = np.arange(n, dtype=np.float32), np.zeros(n, dtype=np.int64)
    return sampling.to_device(Interactions(user, item, weight, time, n_users, n_items), CPU)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def skewed():
    """24 users of 8 items each, 12 items of very different popularity, the last of which has no user."""
    rng = np.random.default_rng(0)
    appeal = np.arange(11, 0, -1) ** 2.0
    taken = [rng.choice(11, 8, replace=False, p=appeal / appeal.sum()) for _ in range(24)]
    return on_device([(user, int(item)) for user, items in enumerate(taken) for item in items], 24, 12)


def uneven():
    """User u has 1 + u % 7 of 30 items: users and items all have their own counts."""
    rng = np.random.default_rng(1)
    pairs = [(u, int(i)) for u in range(40) for i in rng.choice(30, 1 + u % 7, replace=False)]
    return on_device(pairs, 40, 30)


def sampler(data, **changes):
    settings = {"in_batch": 0, "uniform": 0, "popular": 0, "popularity_power": 0.75, "memory": 0}
    return sampling.CandidateSampler(data, **settings | changes)


def follows(drawn, expected):
    """Are the numbers drawn in proportion to `expected`, and none where it is 0? Chi-squared, p > .001."""
    counts = torch.bincount(drawn, minlength=len(expected)).double().numpy()
    expected = np.asarray(expected, dtype=np.float64)
    assert len(counts) == len(expected)
    assert not counts[expected == 0].any()
    counts, expected = counts[expected > 0], expected[expected > 0]
    return chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 0.001


def random_pairs(seed, n_users, n_items, share):
    taken = np.random.default_rng(seed).random((n_users, n_items)) < share
    taken[0] = True  # a user who has everything
    taken[1] = False  # and one who has nothing
    return [(int(user), int(item)) for user, item in np.argwhere(taken)]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), share=st.sampled_from([0.0, 0.1, 0.5]), seed=st.integers(0, 2**32 - 1))
def test_known_equals_a_set_of_pairs(data, share, seed):
    """Candidates and users may be repeated, or none."""
    n_users, n_items = 6, 9
    pairs = random_pairs(seed, n_users, n_items, share)
    users = data.draw(st.lists(st.integers(0, n_users - 1), max_size=8))
    candidates = sorted(data.draw(st.lists(st.integers(0, n_items - 1), max_size=14)))
    place = negatives.known_pairs(
        on_device(pairs, n_users, n_items),
        torch.tensor(users, dtype=torch.int64),
        torch.tensor(candidates, dtype=torch.int64),
    )
    grid = itertools.product(users, candidates)
    assert place.tolist() == [n for n, pair in enumerate(grid) if pair in set(pairs)]


def test_known_in_a_larger_case():
    pairs = random_pairs(0, 50, 400, 0.3)
    users = torch.randint(50, (64,), generator=generator(0))
    candidates = torch.randint(400, (300,), generator=generator(1)).sort().values
    assert len(candidates.unique()) < 300
    known = torch.zeros(64, 300, dtype=torch.bool)
    known.view(-1)[negatives.known_pairs(on_device(pairs, 50, 400), users, candidates)] = True
    taken = set(pairs)
    assert known.tolist() == [[(u, c) in taken for c in candidates.tolist()] for u in users.tolist()]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), share=st.sampled_from([0.0, 0.1, 0.5]), seed=st.integers(0, 2**32 - 1))
def test_the_mask_of_what_is_new_equals_the_places_of_what_is_known(data, share, seed):
    n_users, n_items = 6, 9
    pairs = on_device(random_pairs(seed, n_users, n_items, share), n_users, n_items)
    users = torch.tensor(data.draw(st.lists(st.integers(0, n_users - 1), max_size=8)), dtype=torch.int64)
    drawn = sorted(data.draw(st.lists(st.integers(0, n_items - 1), max_size=14)))
    candidates = torch.tensor(drawn, dtype=torch.int64)
    entries = len(sampling.histories(pairs, users)[0])
    mask = negatives.unseen_mask(pairs, users, candidates, entries)
    expected = torch.ones(len(users), len(candidates))
    expected.view(-1)[negatives.known_pairs(pairs, users, candidates)] = 0
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_where_the_host_runs_ahead_batches_know_how_long_their_histories_are(size, weighted, monkeypatch):
    data = on_device(random_pairs(1, 8, 12, 0.3), 8, 12)
    weights = sampling.balance(data, 0.5, 0.5) if weighted else None
    plain = list(sampling.batches(data, size, generator(0), weights))
    monkeypatch.setattr(sampling, "is_asynchronous", lambda device: True)
    ahead = list(sampling.batches(data, size, generator(0), weights))
    for ours, theirs in zip(ahead, plain, strict=True):
        assert all(map(torch.equal, ours[:3], theirs[:3]))
        assert ours.entries == len(sampling.histories(data, ours.users)[0])
        assert theirs.entries is None


def test_known_wants_candidates_in_order():
    data = on_device(random_pairs(0, 50, 400, 0.3), 50, 400)
    with pytest.raises(ValueError, match="candidates are in no order, allowed: ascending"):
        negatives.known_pairs(data, torch.tensor([0, 1]), torch.tensor([5, 2, 5]))


def test_histories_equal_the_naive_loop():
    pairs = random_pairs(0, 8, 12, 0.3)
    users = [3, 1, 0, 3, 7]
    row, item = sampling.histories(on_device(pairs, 8, 12), torch.tensor(users))
    expected = [(r, i) for r, wanted in enumerate(users) for user, i in pairs if user == wanted]
    assert list(zip(row.tolist(), item.tolist(), strict=True)) == expected
    row, item = sampling.histories(on_device(pairs, 8, 12), torch.tensor([1]))
    assert (row.tolist(), item.tolist()) == ([], [])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_epoch_is_every_interaction_once(size):
    pairs = random_pairs(1, 8, 12, 0.3)
    batches = list(sampling.batches(on_device(pairs, 8, 12), size, generator(0)))
    rows = torch.cat([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(len(pairs)))
    drawn = [
        pair for users, items, *_ in batches for pair in zip(users.tolist(), items.tolist(), strict=True)
    ]
    assert sorted(drawn) == pairs
    assert drawn != pairs
    sizes = [len(batch.users) for batch in batches]
    assert sizes == [size] * (len(pairs) // size) + [len(pairs) % size] * (len(pairs) % size > 0)
    assert all(part.dtype == torch.int64 for batch in batches for part in batch[:3])


def test_the_order_comes_from_the_generator_alone():
    data = on_device(random_pairs(1, 8, 12, 0.3), 8, 12)

    def order(source):
        return torch.cat([torch.stack(batch[:3]) for batch in sampling.batches(data, 5, source)], 1)

    source = generator(0)
    first, second = order(source), order(source)
    torch.manual_seed(1)
    assert torch.equal(first, order(generator(0)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, order(generator(1)))


def test_uniform_items_are_uniform():
    data = on_device([(0, 0)], 1, 10)
    items = sampling.uniform_items(data, 20_000, generator(0))
    counts = torch.bincount(items, minlength=10)
    assert len(counts) == 10
    # The standard deviation of a count is 42: five of them.
    assert (counts - 2000).abs().max() < 212
    assert torch.equal(items, sampling.uniform_items(data, 20_000, generator(0)))
    assert sampling.uniform_items(data, 0, generator(0)).shape == (0,)


def test_to_device_copies_and_takes_arrays_that_cannot_be_written():
    columns = [
        np.array([0, 1], np.int32),
        np.array([1, 0], np.int32),
        np.array([0.5, 2], np.float32),
        np.array([3, 4]),
    ]
    for column in columns[1:]:
        column.flags.writeable = False
    data = sampling.to_device(Interactions(*columns, 3, 2), CPU)
    columns[0][0] = 1
    values = [data.user.tolist(), data.item.tolist(), data.weight.tolist(), data.offsets.tolist()]
    assert values == [[0, 1], [1, 0], [0.5, 2], [0, 1, 2, 2]]
    assert (data.n_users, data.n_items) == (3, 2)
    (batch,) = sampling.batches(data, 9, generator(0))
    assert [len(part) for part in batch[:3]] == [2, 2, 2]


def test_to_device_carries_the_spans_of_the_items():
    user, item = np.array([0, 1, 1], np.int32), np.array([1, 0, 1], np.int32)
    rest = np.ones(3, np.float32), np.array([3, 4, 9]), 2, 3
    always = torch.iinfo(torch.int64)
    data = sampling.to_device(Interactions(user, item, *rest), CPU)
    assert (data.first_seen.tolist(), data.last_seen.tolist()) == ([4, 3, always.min], [4, 9, always.max])
    data = sampling.to_device(Interactions(user, item, *rest, np.array([1, 2, 3]), np.array([4, 9, 3])), CPU)
    assert (data.first_seen.tolist(), data.last_seen.tolist()) == ([1, 2, 3], [4, 9, 3])


def test_available_by_hand():
    """Both ends are included; an item without users is always available; nothing in, nothing out."""
    user, item = np.array([0, 1, 1], np.int32), np.array([1, 0, 1], np.int32)
    data = sampling.to_device(
        Interactions(user, item, np.ones(3, np.float32), np.array([3, 5, 9]), 2, 3), CPU
    )
    candidates, at = torch.tensor([1, 0, 2, 1]), torch.tensor([2, 3, 5, 9, 10])
    assert negatives.available(negatives.sale_ranks(data, candidates, at)).int().tolist() == [
        [0, 0, 1, 0],
        [1, 0, 1, 1],
        [1, 1, 1, 1],
        [1, 0, 1, 1],
        [0, 0, 1, 0],
    ]
    always = {"first_seen": None}, {"last_seen": None}, {"first_seen": None, "last_seen": None}
    for changes in ({}, *always):
        other = data._replace(**changes)
        spans = [
            (first if "first_seen" not in changes else 0, last if "last_seen" not in changes else 99)
            for first, last in zip(data.first_seen.tolist(), data.last_seen.tolist(), strict=True)
        ]
        expected = [
            [spans[item][0] <= second <= spans[item][1] for item in candidates.tolist()]
            for second in at.tolist()
        ]
        ranks = negatives.sale_ranks(other, candidates, at)
        assert negatives.available(ranks).tolist() == expected
        assert negatives.available(ranks, slice(1, 3)).tolist() == expected[1:3]
        assert negatives.available(negatives.sale_ranks(other, candidates, at[:0])).shape == (0, 4)
        assert negatives.available(negatives.sale_ranks(other, candidates[:0], at)).shape == (5, 0)


def test_weighted_batches_are_drawn_in_proportion():
    data = uneven()
    n = len(data.user)
    weights = torch.arange(n) % 4 * torch.ones(n)
    epochs = [list(sampling.batches(data, 50, generator(seed), weights)) for seed in range(60)]
    assert {tuple(len(batch.rows) for batch in batches) for batches in epochs} == {(50, 50, 50, n - 150)}
    rows = torch.cat([batch.rows for batches in epochs for batch in batches])
    assert follows(rows, weights)
    for users, items, part, _ in epochs[0]:
        assert torch.equal(users, data.user[part].long())
        assert torch.equal(items, data.item[part].long())
    assert {part.dtype for batch in epochs[0] for part in batch[:3]} == {torch.int64}


def test_weighted_batches_follow_the_generator_and_no_scale_of_the_weights():
    data = uneven()
    weights = sampling.balance(data, 0.5, 0.5)

    def rows(seed, weights):
        return torch.cat([batch.rows for batch in sampling.batches(data, 50, generator(seed), weights)])

    first = rows(0, weights)
    torch.manual_seed(1)
    assert torch.equal(first, rows(0, weights))
    assert torch.equal(first, rows(0, weights * 2.0**900))
    assert torch.equal(first, rows(0, weights * 2.0**-900))
    assert not torch.equal(first, rows(1, weights))


def test_one_weight_is_enough():
    data = uneven()
    for row in (0, 57, len(data.user) - 1):
        weights = torch.zeros(len(data.user))
        weights[row] = 1e-30
        (drawn,) = sampling.batches(data, 1000, generator(row), weights)
        assert drawn[2].tolist() == [row] * len(data.user)


def test_a_number_on_the_border_belongs_to_the_next_row():
    """Totals so small that every border is met, with rows of weight 0 before, between and after."""
    drawn = sampling._draw(torch.tensor([0, 1, 1, 4, 4]), 4000, generator(0))
    assert follows(drawn, [0, 1, 0, 3, 0])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 1.0], r"weights are \[2\], expected \[3\]"),
        ([[1.0, 1.0, 1.0]], r"weights are \[1, 3\]"),
        ([0.0, 0.0, 0.0], r"weights span 0\.0\.\.0\.0, allowed finite, >= 0 and not all 0"),
        ([1.0, -1.0, 1.0], r"weights span -1\.0\.\.1\.0"),
        ([1.0, float("nan"), 1.0], r"weights span nan"),
        ([1.0, float("inf"), 1.0], r"weights span 1\.0\.\.inf"),
    ],
)
def test_bad_weights_are_refused_by_name(weights, message):
    data = on_device([(0, 0), (0, 1), (1, 0)], 2, 2)
    with pytest.raises(ValueError, match=message):
        next(sampling.batches(data, 2, generator(0), torch.tensor(weights)))
    with pytest.raises(ValueError, match=message):
        sampler(data, in_batch=1, weights=torch.tensor(weights))


def test_balance_by_hand_and_by_the_naive_loop():
    data = on_device([(0, 0), (0, 1), (0, 2), (0, 3), (2, 0)], 3, 5)
    assert sampling.balance(data, 0.5, 1).tolist() == [0.25, 0.5, 0.5, 0.5, 0.5]
    data = uneven()
    users, items = Counter(data.user.tolist()), Counter(data.item.tolist())
    expected = [
        users[u] ** -0.3 * items[i] ** -0.6
        for u, i in zip(data.user.tolist(), data.item.tolist(), strict=True)
    ]
    weights = sampling.balance(data, 0.3, 0.6)
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-12)
    assert sampling.balance(data, 0, 0).tolist() == [1.0] * len(data.user)


def test_balanced_epochs_take_every_user_or_every_item_alike():
    data = uneven()
    for powers, of, count in (((1, 0), data.user, 40), ((0, 1), data.item, 30)):
        weights = sampling.balance(data, *powers)
        there = torch.bincount(of, minlength=count) > 0
        totals = torch.zeros(count, dtype=torch.float64).index_add(0, of, weights)
        np.testing.assert_allclose(totals, there.double(), rtol=1e-12)
        rows = torch.cat(
            [
                batch.rows
                for seed in range(30)
                for batch in sampling.batches(data, 64, generator(seed), weights)
            ]
        )
        assert follows(of[rows], there)
        assert not follows(of[torch.randint(len(of), rows.shape, generator=generator(0))], there)


@pytest.mark.parametrize("power", [-0.1, 1.1, float("nan")])
def test_powers_outside_0_and_1_are_refused(power):
    data = on_device([(0, 0)], 1, 1)
    with pytest.raises(ValueError, match=rf"user_power = {power}, allowed 0\.\.1"):
        sampling.balance(data, power, 0)
    with pytest.raises(ValueError, match=rf"item_power = {power}, allowed 0\.\.1"):
        sampling.balance(data, 0, power)
    with pytest.raises(ValueError, match=rf"popularity_power = {power}, allowed 0\.\.1"):
        sampler(data, popular=1, popularity_power=power)


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(-4, 4), min_size=2, max_size=40).filter(lambda labels: len(set(labels)) > 1),
    data=st.data(),
)
def test_labelled_batches_hold_k_rows_of_p_classes(labels, data):
    sizes = Counter(labels)
    classes = data.draw(st.integers(2, len(sizes)))
    per_class = data.draw(st.integers(2, 5))
    source = generator(data.draw(st.integers(0, 2**32 - 1)))
    batches = list(sampling.labelled_batches(torch.tensor(labels), classes, per_class, source))
    assert len(batches) == len(sizes) // classes
    seen = []
    for batch in batches:
        assert (batch.dtype, batch.shape) == (torch.int64, (classes * per_class,))
        for rows in batch.view(classes, per_class).tolist():
            (label,) = {labels[row] for row in rows}
            seen.append(label)
            if sizes[label] >= per_class:
                assert len(set(rows)) == per_class
    assert len(set(seen)) == len(seen) == len(batches) * classes


@pytest.mark.parametrize("seed", range(50))
def test_labelled_batches_are_made_up_as_pytorch_metric_learnings(seed):
    """K rows of P classes, distinct if there are as many; in ours a class comes once an epoch at the most."""
    rng = np.random.default_rng(seed)
    classes, per_class = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    labels = torch.tensor(np.repeat(np.arange(7), rng.integers(1, 8, 7)))
    size = classes * per_class
    drawn = MPerClassSampler(labels, per_class, size, length_before_new_iter=3 * size)
    theirs = torch.tensor(list(drawn)).view(-1, size)
    ours = torch.stack(list(sampling.labelled_batches(labels, classes, per_class, generator(seed))))
    for rows in (*theirs, *ours):
        of_class = labels[rows].unique(return_counts=True)
        assert of_class[1].tolist() == [per_class] * classes
        for label in of_class[0]:
            members = rows[labels[rows] == label].unique()
            assert len(members) == per_class or int((labels == label).sum()) < per_class


def test_labelled_rows_and_classes_are_uniform():
    """Class 7 has 5 rows, 2 has 2, 9 has 3 and 4 has 1; K = 3, so 2 and 4 repeat theirs."""
    labels = torch.tensor([7, 2, 7, 9, 7, 4, 9, 2, 7, 9, 7])
    source = generator(0)
    drawn = [batch for _ in range(3000) for batch in sampling.labelled_batches(labels, 3, 3, source)]
    assert len(drawn) == 3000  # the fourth class is left out, another each time
    rows = torch.cat(drawn)
    first = torch.stack(drawn).view(-1, 3)[:, 0]  # one row of each class and batch: these are independent
    assert follows(labels[first], [0, 0, 1, 0, 1, 0, 0, 1, 0, 1])
    assert follows(labels[first[::3]], [0, 0, 1, 0, 1, 0, 0, 1, 0, 1])  # in random order
    for label, size in ((7, 5), (2, 2)):
        own = (labels == label).nonzero()[:, 0]
        assert follows(torch.searchsorted(own, first[labels[first] == label]), [1] * size)
    twos = torch.stack(drawn).view(-1, 3)
    twos = twos[labels[twos[:, 0]] == 2]
    assert follows((twos == 1).sum(1), [1, 3, 3, 1])  # three tosses of a coin
    assert set(rows.tolist()) == set(range(11))


def test_labelled_batches_follow_the_generator():
    labels = torch.arange(60) % 12

    def epoch(seed):
        return torch.stack(list(sampling.labelled_batches(labels, 4, 3, generator(seed))))

    first = epoch(0)
    torch.manual_seed(1)
    assert torch.equal(first, epoch(0))
    assert not torch.equal(first, epoch(1))


@pytest.mark.parametrize(
    ("labels", "classes", "per_class", "message"),
    [
        ([0, 0, 1], 1, 2, "classes = 1, allowed >= 2"),
        ([0, 0, 1], 2, 1, "per_class = 1, allowed >= 2"),
        ([0, 0, 1], 3, 2, "classes = 3, allowed <= 2, the number of different labels"),
        ([], 2, 2, "classes = 2, allowed <= 0"),
    ],
)
def test_labels_too_few_to_learn_from_are_refused(labels, classes, per_class, message):
    labels = torch.tensor(labels, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        next(sampling.labelled_batches(labels, classes, per_class, generator(0)))


def test_mined_table_by_hand():
    """Rows are (0, 1), (0, 2), (2, 0); triplets of one pair need not stand together and keep their order."""
    data = on_device([(0, 1), (0, 2), (2, 0)], 3, 4)
    triplets = np.array([[2, 0, 3], [0, 1, 3], [2, 0, 1], [0, 1, 0], [2, 0, 3]], np.int32)
    table = negatives.mined_table(triplets, data)
    assert table.tolist() == [[3, 0, -1], [-1, -1, -1], [3, 1, 3]]
    assert table.dtype == torch.int64
    none = negatives.mined_table(np.zeros((0, 3), np.int32), data)
    assert (none.shape, none.dtype) == ((3, 0), torch.int64)


@pytest.mark.parametrize(
    ("triplet", "message"),
    [
        ([0, 0, 1], r"triplets\[1\] = \[0, 0, 1\]: its \(user, positive\) is not in the data"),
        ([0, 4, 1], r"triplets\[1\] = \[0, 4, 1\]: its \(user, positive\)"),  # 0 * 4 + 4 is also (1, 0)
        ([2, 3, 1], r"triplets\[1\] = \[2, 3, 1\]: its \(user, positive\)"),
        ([-1, 5, 1], r"triplets\[1\] = \[-1, 5, 1\]: its \(user, positive\)"),
        ([1, 0, 4], r"triplets\[1\] = \[1, 0, 4\]: its negative is not in 0\.\.3"),
        ([1, 0, -1], r"triplets\[1\] = \[1, 0, -1\]: its negative"),
    ],
)
def test_triplets_that_are_not_of_the_data_are_refused(triplet, message):
    data = on_device([(0, 1), (1, 0), (2, 2)], 3, 4)
    with pytest.raises(ValueError, match=message):
        negatives.mined_table(np.array([[0, 1, 0], triplet], np.int32), data)


def test_triplets_have_three_columns():
    with pytest.raises(ValueError, match=r"triplets are \[1, 2\], expected \[T, 3\]"):
        negatives.mined_table(np.zeros((1, 2), np.int32), on_device([(0, 0)], 1, 1))


def test_candidates_are_own_uniform_popular_and_recent_ones():
    data = skewed()
    draw = sampler(data, in_batch=3, uniform=50, popular=60, memory=7).draw
    own = torch.tensor([4, 4, 1, 9, 0])
    drawn = draw(own, generator(0))
    assert (drawn.dtype, drawn.shape) == (torch.int64, (113,))
    assert drawn[:3].tolist() == [4, 4, 1]
    assert torch.equal(drawn[3:53], sampling.uniform_items(data, 50, generator(0)))
    assert drawn.min() >= 0
    assert drawn.max() < 12
    assert draw(own + 1, generator(1))[113:].tolist() == [4, 4, 1, 9, 0]
    last = draw(own[:1], generator(2))
    assert len(last) == 1 + 50 + 60 + 7
    assert last[111:].tolist() == [9, 0, 5, 5, 2, 10, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 9), st.lists(st.integers(0, 12), max_size=8), st.integers(0, 4))
def test_the_memory_is_what_the_last_batches_had(memory, sizes, in_batch):
    """Whatever their sizes; a batch that is changed afterwards changes nothing."""
    candidates = sampler(skewed(), in_batch=in_batch, memory=memory, uniform=1)
    before, source = [], generator(0)
    for size in sizes:
        own = torch.randint(12, (size,), generator=source)
        values = own.tolist()
        drawn = candidates.draw(own, source).tolist()
        first = min(in_batch, size)
        assert drawn[:first] == values[:first]
        assert drawn[first + 1 :] == before[max(0, len(before) - memory) :]
        before += values
        own.fill_(-1)


@pytest.mark.parametrize("seed", range(50))
def test_the_memory_has_what_pytorch_metric_learnings_has_while_nothing_is_learned(seed):
    """Theirs keeps embeddings, which go stale, the present batch's too; ours numbers, of those before."""
    source = generator(seed)
    size, memory = 1 + seed % 5, 5 + seed % 7
    table = torch.randn(12, 4, generator=source)
    candidates = sampler(skewed(), memory=memory)
    theirs = CrossBatchMemory(TripletMarginLoss(), embedding_size=4, memory_size=memory)
    for _ in range(-(-memory // size) + seed % 4):  # at least until it is full
        own = torch.randint(12, (size,), generator=source)
        candidates.draw(own, source)
        theirs.add_to_memory(table[own], own, size)
    ours = candidates.draw(own[:0], source)
    assert len(ours) == memory
    assert sorted(ours.tolist()) == sorted(theirs.label_memory.tolist())
    assert torch.equal(table[theirs.label_memory], theirs.embedding_memory)


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_popular_items_are_drawn_by_their_popularity(power):
    data = skewed()
    counts = torch.bincount(data.item, minlength=12).double()
    candidates = sampler(data, popular=30_000, popularity_power=power)
    drawn = candidates.draw(torch.tensor([0]), generator(0))
    share = counts.pow(power)
    assert counts[11] == 0
    assert (share[11] > 0) == (power == 0)
    assert follows(drawn, share)
    others = {0.0, 0.75, 1.0} - {power}
    assert not any(follows(drawn, counts.clamp_min(0.01).pow(other)) for other in others)
    expected = (30_000 * share / share.sum())[share > 0].log()
    torch.testing.assert_close(candidates.log_q(torch.arange(12))[share > 0], expected.float())


@pytest.mark.parametrize("balanced", [False, True])
def test_log_q_is_what_simulation_finds(balanced):
    """The mean number of times an item is among the candidates, over 1,000 epochs of 4 batches."""
    data, items = skewed(), torch.arange(12)
    plain, weights = None, sampling.balance(data, 0, 0.8)
    if not balanced:
        plain, weights = weights, plain
    numbers = {"in_batch": 30, "uniform": 20, "popular": 25, "memory": 70}
    candidates = sampler(data, **numbers, weights=weights)
    source, counts = generator(0), torch.zeros(12)
    for epoch in range(1001):
        for _, own, *_ in sampling.batches(data, 48, source, weights):
            drawn = candidates.draw(own, source)
            if epoch > 0:  # the memory is full
                counts += torch.bincount(drawn, minlength=12)
    expected = candidates.log_q(items).exp()
    assert expected.dtype == torch.float32
    assert expected.sum().item() == pytest.approx(sum(numbers.values()), rel=1e-5)
    torch.testing.assert_close(expected, counts / 4000, rtol=0.05, atol=0)
    other = sampler(data, **numbers, weights=plain).log_q(items).exp()
    assert (other / expected - 1).abs().max() > 0.3, "the weights matter"
    assert candidates.log_q(torch.tensor([3, 3, 0])).exp().tolist() == expected[[3, 3, 0]].tolist()


def test_log_q_by_hand_and_for_what_is_never_drawn():
    """Items have 3, 1, 0 interactions; what cannot be drawn gets the value of the rarest that can."""
    data = on_device([(0, 0), (1, 0), (2, 0), (2, 1)], 3, 3)
    items = torch.arange(3)
    q = sampler(data, in_batch=8, memory=12, uniform=6, popular=4, popularity_power=1.0).log_q(items).exp()
    torch.testing.assert_close(q, torch.tensor([20 * 3 / 4 + 2 + 3, 20 / 4 + 2 + 1, 2.0]))
    q = sampler(data, in_batch=8).log_q(items).exp()
    torch.testing.assert_close(q, torch.tensor([6.0, 2.0, 2.0]))


def test_a_large_memory_and_a_light_row_count_rightly():
    """Whole numbers of 2^52 together, times thousands of candidates, would pass 2^63."""
    data = on_device([(0, 0), (1, 1)], 2, 2)
    weights = torch.tensor([1.0, 2.0**-40])
    head, tail = sampler(data, in_batch=1000, memory=2**20, weights=weights).log_q(torch.arange(2)).tolist()
    assert head == pytest.approx(math.log(1000 + 2**20), rel=1e-6)
    assert head - tail == pytest.approx(40 * math.log(2), rel=1e-4)


def test_candidates_follow_the_generator():
    def drawn(seed):
        candidates = sampler(skewed(), in_batch=2, uniform=9, popular=9, memory=5)
        source = generator(seed)
        return torch.cat([candidates.draw(torch.tensor([1, 2, 3]), source) for _ in range(3)])

    first = drawn(0)
    torch.manual_seed(1)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))


@pytest.mark.parametrize("name", ["in_batch", "uniform", "popular", "memory"])
def test_numbers_of_candidates_below_0_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} = -1, allowed >= 0"):
        sampler(on_device([(0, 0)], 1, 1), **{"uniform": 1, name: -1})


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match=r"in_batch = uniform = popular = memory = 0, .*nothing to draw"):
        sampler(on_device([(0, 0)], 1, 1))
