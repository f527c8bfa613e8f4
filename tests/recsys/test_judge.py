"""The judge against hand-worked rankings."""

import numpy as np
import polars as pl
import pytest
import torch

from pipelines.config.errors import InputError
from pipelines.config.training import Evaluate
from pipelines.data.folds import Fold
from pipelines.training.judging import judge_fold
from recsys.interactions import Interactions

CPU = torch.device("cpu")


def fold_of(targets: list[list[int]], n_items: int = 4) -> Fold:
    """Users who have taken item 0 each, and later their targets."""
    n = len(targets)
    fit = Interactions(
        user=np.arange(n, dtype=np.int32),
        item=np.zeros(n, np.int32),
        weight=np.ones(n, np.float32),
        time=np.zeros(n, np.int64),
        n_users=n,
        n_items=n_items,
    )
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in targets])]).astype(np.int64)
    items = np.array([item for own in targets for item in own], np.int32)
    return Fold(fit, offsets, items, np.arange(n), np.arange(n_items), [""] * n_items, pl.DataFrame())


def line(n_users: int, n_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Everybody at 0, item i at i: the nearest is item 0."""
    return torch.zeros(n_users, 1), torch.arange(n_items, dtype=torch.float32)[:, None]


def test_ranks_are_padded_where_the_catalogue_runs_out() -> None:
    judge = judge_fold(fold_of([[1], [2]]), CPU, Evaluate(ks=(6,), select="ndcg@6"))
    assert judge.rank(line(2, 4)).tolist() == [[1, 2, 3, -1, -1, -1]] * 2  # item 0 is theirs already


def test_seen_items_stay_where_they_are_asked_for() -> None:
    judge = judge_fold(fold_of([[1]]), CPU, Evaluate(ks=(3,), select="ndcg@3", exclude_seen=False))
    assert judge.rank(line(1, 4)).tolist() == [[0, 1, 2]]


def test_users_without_targets_are_left_out() -> None:
    judge = judge_fold(fold_of([[], [2], [], [1, 3], []]), CPU, Evaluate(ks=(1, 2), select="recall@2"))
    assert judge.users.tolist() == [1, 3]
    assert judge.n_targets.tolist() == [1, 2]
    values = judge.values(judge.rank(line(5, 4)))
    assert values["hit_rate@1"].tolist() == [0, 1]
    assert values["recall@2"].tolist() == [1, 0.5]
    assert values["mrr@2"].tolist() == [0.5, 1]
    assert values["map@2"].tolist() == [0.5, 0.5]
    discounts = 1, 1 / np.log2(3)
    assert values["ndcg@2"].tolist() == pytest.approx([discounts[1], 1 / sum(discounts)])
    assert judge.means(line(5, 4))["recall@2"] == 0.75


def test_a_window_without_targets_is_refused() -> None:
    with pytest.raises(InputError, match="no user of the window has a target"):
        judge_fold(fold_of([[], []]), CPU, Evaluate())


def test_a_sample_judges_some_of_the_users_as_the_whole_does() -> None:
    judge = judge_fold(fold_of([[], [2], [1], [1, 3], [3]]), CPU, Evaluate(ks=(2,), select="ndcg@2"))
    assert judge.held_out.item.tolist() == [2, 1, 1, 3, 3]
    users, items = line(5, 4)
    of_user = dict(zip(judge.users.tolist(), judge.values(judge.rank((users, items)))["ndcg@2"], strict=True))
    for n, seed in ((1, 0), (2, 0), (2, 1), (9, 0)):
        some = judge.sample(n, seed)
        assert len(some.users) == min(n, 4)
        assert some.users.tolist() == judge.sample(n, seed).users.tolist()
        values = some.values(some.rank((users, items)))["ndcg@2"]
        assert values.tolist() == [of_user[user] for user in some.users.tolist()]
        assert set(some.held_out.user.tolist()) == set(some.users.tolist())
        assert some.data is judge.data
    assert judge.sample(9, 0).n_targets.tolist() == judge.n_targets.tolist()
    assert judge.users.tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="n = 0 users, allowed >= 1"):
        judge.sample(0, 0)
