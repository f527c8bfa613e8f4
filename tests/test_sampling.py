"""Batches, negatives and histories against sets of pairs."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import sampling
from recsys.interactions import Interactions

CPU = torch.device("cpu")


def on_device(pairs, n_users, n_items):
    user, item = np.array(sorted(pairs), dtype=np.int32).T.copy()
    n = len(user)
    weight, time = np.arange(n, dtype=np.float32), np.zeros(n, dtype=np.int64)
    return sampling.to_device(Interactions(user, item, weight, time, n_users, n_items), CPU)


def generator(seed):
    return torch.Generator().manual_seed(seed)


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
    candidates = data.draw(st.lists(st.integers(0, n_items - 1), max_size=14))
    known = sampling.known(
        on_device(pairs, n_users, n_items),
        torch.tensor(users, dtype=torch.int64),
        torch.tensor(candidates, dtype=torch.int64),
    )
    assert known.shape == (len(users), len(candidates))
    assert known.tolist() == [[(u, c) in set(pairs) for c in candidates] for u in users]


def test_known_in_a_larger_case():
    pairs = random_pairs(0, 50, 400, 0.3)
    users = torch.randint(50, (64,), generator=generator(0))
    candidates = torch.randint(400, (300,), generator=generator(1))
    assert len(candidates.unique()) < 300
    known = sampling.known(on_device(pairs, 50, 400), users, candidates)
    taken = set(pairs)
    assert known.tolist() == [[(u, c) in taken for c in candidates.tolist()] for u in users.tolist()]
    assert torch.equal(known, sampling.known(on_device(pairs, 50, 400), users, candidates.flip(0)).flip(1))


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
    rows = torch.cat([rows for _, _, rows in batches])
    assert sorted(rows.tolist()) == list(range(len(pairs)))
    drawn = [pair for users, items, _ in batches for pair in zip(users.tolist(), items.tolist(), strict=True)]
    assert sorted(drawn) == pairs
    assert drawn != pairs
    sizes = [len(users) for users, _, _ in batches]
    assert sizes == [size] * (len(pairs) // size) + [len(pairs) % size] * (len(pairs) % size > 0)
    assert all(part.dtype == torch.int64 for batch in batches for part in batch)


def test_the_order_comes_from_the_generator_alone():
    data = on_device(random_pairs(1, 8, 12, 0.3), 8, 12)

    def order(source):
        return torch.cat([torch.stack(batch) for batch in sampling.batches(data, 5, source)], 1)

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
    pairs = list(itertools.chain.from_iterable(sampling.batches(data, 9, generator(0))))
    assert [len(part) for part in pairs] == [2, 2, 2]
