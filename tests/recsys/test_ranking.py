"""Device top-K against the exact search."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import ranking, sampling
from recsys.index import exact_top_k
from recsys.interactions import Interactions
from recsys.ranking import top_k, top_k_of_scores

N_USERS, N_ITEMS = 12, 30
CPU = torch.device("cpu")


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def histories(seed):
    """User 0 has everything, user 1 nothing, the rest about a third."""
    taken = np.random.default_rng(seed).random((N_USERS, N_ITEMS)) < 0.3
    taken[0], taken[1] = True, False
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    weight, time = np.ones(len(user), dtype=np.float32), np.zeros(len(user), dtype=np.int64)
    return Interactions(user, item, weight, time, N_USERS, N_ITEMS)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    users=st.lists(st.integers(0, N_USERS - 1), max_size=15),
    k=st.integers(1, N_ITEMS + 5),
    chunk=st.integers(1, 20),
)
def test_top_k_equals_the_exact_search(seed, users, k, chunk):
    """Users repeated, in any order, or none; k beyond the catalogue; with and without what they have seen."""
    user_vectors, item_vectors = normal(seed, N_USERS, 4), normal(seed + 1, N_ITEMS, 4)
    interactions = histories(seed)
    wanted = torch.tensor(users, dtype=torch.int64)
    everyone, width = user_vectors.numpy(), min(k, N_ITEMS)
    for seen, excluded in (
        (None, None),
        (sampling.to_device(interactions, torch.device("cpu")), (interactions.offsets(), interactions.item)),
    ):
        ranked = top_k(user_vectors, item_vectors, wanted, k, seen, chunk)
        expected, _ = exact_top_k(everyone, item_vectors.numpy(), k, excluded)
        np.testing.assert_array_equal(ranked, expected[users, :width].reshape(-1, width))
        assert ranked.dtype == np.int32


def test_blocks_of_items_change_nothing(monkeypatch):
    """Also with a last block of few items, and where a user has fewer than k items left in all of them."""
    users, items = normal(0, N_USERS, 4), normal(1, N_ITEMS, 4)
    most = Interactions(  # user 0 has everything, user 2 all but four
        np.repeat(np.int32([0, 2]), [N_ITEMS, N_ITEMS - 4]),
        np.append(np.arange(N_ITEMS), [item for item in range(N_ITEMS) if item % 8]).astype(np.int32),
        *(np.zeros(2 * N_ITEMS - 4, kind) for kind in (np.float32, np.int64)),
        N_USERS,
        N_ITEMS,
    )
    seen = sampling.to_device(most, CPU)
    assert top_k(users, items, torch.tensor([2]), 7, seen).tolist()[0][4:] == [-1, -1, -1]
    for k in (1, 7, N_ITEMS):
        whole = top_k(users, items, torch.arange(N_USERS), k, seen)
        for scores in (N_USERS, 4 * N_USERS, 29 * N_USERS):
            monkeypatch.setattr(ranking, "SCORES_AT_ONCE", scores)
            np.testing.assert_array_equal(top_k(users, items, torch.arange(N_USERS), k, seen, N_USERS), whole)
        monkeypatch.undo()


def test_everything_seen_is_all_padding_and_nothing_seen_is_none():
    seen = sampling.to_device(histories(0), torch.device("cpu"))
    ranked = top_k(normal(0, N_USERS, 4), normal(1, N_ITEMS, 4), torch.tensor([0, 1]), 99, seen)
    assert ranked.shape == (2, N_ITEMS)
    assert (ranked[0] == -1).all()
    assert sorted(ranked[1]) == list(range(N_ITEMS))


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("k", [3, N_ITEMS + 5])
def test_scores_are_ranked_like_a_sort_of_each_row(chunk, excluded, k):
    scores, interactions = normal(2, N_USERS, N_ITEMS), histories(3)
    users = torch.tensor([4, 0, 1, 4, 11, 7])  # 0 has everything, 1 nothing
    seen = sampling.to_device(interactions, torch.device("cpu")) if excluded else None
    ranked = top_k_of_scores(lambda part: scores[part], users, k, seen, chunk)
    assert ranked.shape == (6, min(k, N_ITEMS))
    assert ranked.dtype == np.int32
    for user, row in zip(users.tolist(), ranked.tolist(), strict=True):
        own = set(interactions.item[interactions.user == user].tolist()) if excluded else set()
        expected = [i for i in np.argsort(-scores[user].numpy()).tolist() if i not in own]
        assert row == (expected + [-1] * N_ITEMS)[: len(row)]


def test_no_users_have_no_ranks_and_bad_scores_are_refused():
    none = torch.empty(0, dtype=torch.int64)
    assert top_k_of_scores(lambda part: normal(0, len(part), 4), none, 3).shape == (0, 3)
    for k, message in ((0, "k = 0, allowed >= 1"), (1, "scores hold NaN or Inf, allowed finite values")):
        with pytest.raises(ValueError, match=message):
            top_k_of_scores(lambda part: torch.full((len(part), 4), -torch.inf), torch.tensor([0]), k)


def test_nearest_first_by_hand():
    items = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, 0.0]])
    assert top_k(torch.zeros(1, 2), items, torch.tensor([0]), 2).tolist() == [[2, 1]]


def test_bad_input_is_refused_by_name():
    good, bad = torch.zeros(2, 2), torch.tensor([[0.0, torch.nan]])
    for users, items, k, message in (
        (good, good, 0, "k = 0, allowed >= 1"),
        (bad, good, 1, "user vectors hold NaN or Inf"),
        (good, bad / 0, 1, "item vectors hold NaN or Inf"),
    ):
        with pytest.raises(ValueError, match=message):
            top_k(users, items, torch.tensor([0]), k)


OUT_OF_MEMORY = """
import resource
import numpy as np
import torch
from recsys.ranking import top_k, top_k_of_scores

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
users, items = torch.randn(8192, 4, generator=generator), torch.randn(50_000, 4, generator=generator)
all_users = torch.arange(8192)
expected = top_k(users, items, all_users, 5)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
try:
    torch.empty(8192, 50_000)  # 1.6 GB: beyond what an allocator may have kept of the first ranking too
except RuntimeError:
    print("all at once is too much")
half_squares = 0.5 * items.square().sum(1)
ranked = top_k_of_scores(lambda part: users[part] @ items.T - half_squares, all_users, 5, chunk=8192)
assert (ranked == expected).mean() > 0.999  # rounding may change two neighbours
"""


def test_where_memory_does_not_suffice_the_chunk_halves_and_goes_on():
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "all at once is too much"


def test_errors_other_than_memory_are_raised():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        top_k(normal(0, N_USERS, 4), normal(1, N_ITEMS, 5), torch.tensor([0]), 3)
