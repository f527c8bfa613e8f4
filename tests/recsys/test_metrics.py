"""Metrics: values worked by hand, ir-measures as the oracle, and what must hold for any ranking."""

from math import log2

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG

from recsys.metrics import (
    average_precision,
    hit_rate,
    item_coverage,
    mrr,
    ndcg,
    recall,
    relevance,
)

# Three users, five ranks. User 0 wants 1, 3, 9 and is shown 1 and 3 at ranks 2 and 4; user 1 wants 7 and is
# shown it first, in a row padded after two items; user 2 wants 8 and is not shown it.
RANKED = np.array([[0, 1, 2, 3, 4], [7, 5, -1, -1, -1], [0, 1, 2, 3, 4]], dtype=np.int32)
OFFSETS = np.array([0, 3, 4, 5])
TARGETS = np.array([9, 1, 3, 7, 8], dtype=np.int32)
N_TARGETS = np.diff(OFFSETS)
RELEVANT = relevance(RANKED, OFFSETS, TARGETS)


def test_relevance_marks_the_targets_of_the_same_user():
    assert RELEVANT.tolist() == [[False, True, False, True, False], [True] + [False] * 4, [False] * 5]


def test_padding_is_never_relevant():
    """The padding of user 1 must not read as the last item of user 0."""
    ranked = np.array([[0], [-1]], dtype=np.int32)
    assert not relevance(ranked, np.array([0, 1, 2]), np.array([9, 9], dtype=np.int32)).any()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (hit_rate(RELEVANT, 1), [0, 1, 0]),
        (hit_rate(RELEVANT, 5), [1, 1, 0]),
        (recall(RELEVANT, N_TARGETS, 2), [1 / 3, 1, 0]),
        (recall(RELEVANT, N_TARGETS, 5), [2 / 3, 1, 0]),
        (mrr(RELEVANT, 5), [1 / 2, 1, 0]),
        (mrr(RELEVANT, 1), [0, 1, 0]),
        (ndcg(RELEVANT, N_TARGETS, 5), [(1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / 2), 1, 0]),
        (ndcg(RELEVANT, N_TARGETS, 2), [(1 / log2(3)) / (1 + 1 / log2(3)), 1, 0]),
        (average_precision(RELEVANT, N_TARGETS, 5), [(1 / 2 + 2 / 4) / 3, 1, 0]),
        (average_precision(RELEVANT, N_TARGETS, 2), [(1 / 2) / 2, 1, 0]),
    ],
)
def test_golden_values(values, expected):
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_coverage_counts_items_shown_to_anyone():
    assert item_coverage(RANKED, 10, 5) == 7 / 10
    assert item_coverage(RANKED, 10, 1) == 2 / 10
    assert item_coverage(np.full((2, 3), -1, dtype=np.int32), 10, 3) == 0


def random_case(seed, users=40, items=60, width=20):
    """Rankings with padding, one to 30 targets a user."""
    rng = np.random.default_rng(seed)
    ranked = np.array([rng.permutation(items)[:width] for _ in range(users)], dtype=np.int32)
    for row, shown in zip(ranked, rng.integers(1, width + 1, users), strict=True):
        row[shown:] = -1
    targets = [rng.permutation(items)[: rng.integers(1, 31)] for _ in range(users)]
    offsets = np.concatenate([[0], np.cumsum([len(of_user) for of_user in targets])])
    return ranked, offsets, np.concatenate(targets).astype(np.int32)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_ir_measures(k):
    ranked, offsets, targets = random_case(k)
    users, n_targets = range(len(ranked)), np.diff(offsets)
    qrels = [
        ir_measures.Qrel(str(user), str(item), 1)
        for user in users
        for item in targets[offsets[user] : offsets[user + 1]]
    ]
    run = [
        ir_measures.ScoredDoc(str(user), str(item), -float(rank))
        for user in users
        for rank, item in enumerate(ranked[user])
        if item >= 0
    ]
    relevant = relevance(ranked, offsets, targets)
    ours = {
        Success @ k: hit_rate(relevant, k),
        R @ k: recall(relevant, n_targets, k),
        nDCG @ k: ndcg(relevant, n_targets, k),
        RR @ k: mrr(relevant, k),
        # trec_eval divides by all targets, we by as many as k ranks can hold
        AP @ k: average_precision(relevant, n_targets, k) * np.minimum(k, n_targets) / n_targets,
    }
    theirs = {(m.measure, int(m.query_id)): m.value for m in ir_measures.iter_calc(list(ours), qrels, run)}
    assert len(theirs) == len(ours) * len(ranked)
    for measure, values in ours.items():
        np.testing.assert_allclose(
            values, [theirs[measure, user] for user in users], atol=1e-9, err_msg=measure
        )


PER_USER = {
    "hit_rate": lambda relevant, n, k: hit_rate(relevant, k),
    "recall": recall,
    "ndcg": ndcg,
    "mrr": lambda relevant, n, k: mrr(relevant, k),
    "average_precision": average_precision,
}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 20))
def test_properties_of_every_metric(seed, k):
    ranked, offsets, targets = random_case(seed, users=8)
    relevant, n_targets = relevance(ranked, offsets, targets), np.diff(offsets)
    order = np.random.default_rng(seed).permutation(len(ranked))
    for name, metric in PER_USER.items():
        values = metric(relevant, n_targets, k)
        assert values.shape == (8,)
        assert ((values >= 0) & (values <= 1 + 1e-12)).all(), name
        assert (metric(relevant[order], n_targets[order], k) == values[order]).all(), (
            f"{name}: order of users"
        )
        assert (values > 0).tolist() == relevant[:, :k].any(axis=1).tolist(), name
        if name in ("hit_rate", "recall", "mrr"):
            assert (metric(relevant, n_targets, 20) >= values).all(), f"{name}: grows with k"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_swap_towards_the_front_never_hurts(seed):
    ranked, offsets, targets = random_case(seed, users=8)
    relevant, n_targets = relevance(ranked, offsets, targets), np.diff(offsets)
    sorted_first = -np.sort(-relevant.astype(int), axis=1) > 0
    for name, metric in PER_USER.items():
        assert (metric(sorted_first, n_targets, 20) >= metric(relevant, n_targets, 20) - 1e-12).all(), name


@pytest.mark.parametrize("n_targets", [3, 5, 9])
def test_a_perfect_ranking_scores_one(n_targets):
    relevant, counts = (np.arange(5) < n_targets)[None], np.array([n_targets])
    assert ndcg(relevant, counts, 5)[0] == pytest.approx(1)
    assert average_precision(relevant, counts, 5)[0] == pytest.approx(1)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_outside_the_ranks_is_refused(k):
    for metric in PER_USER.values():
        with pytest.raises(ValueError, match=rf"k = {k} on ranks \[3, 5\], allowed 1\.\.5"):
            metric(RELEVANT, N_TARGETS, k)
    with pytest.raises(ValueError, match=r"allowed 1\.\.5"):
        item_coverage(RANKED, 10, k)


def test_users_without_targets_are_refused():
    for metric in (recall, ndcg, average_precision):
        with pytest.raises(ValueError, match="1 of 3 users have no targets"):
            metric(RELEVANT, np.array([3, 0, 1]), 5)
    with pytest.raises(ValueError, match="1 of 3 users have no targets"):
        relevance(RANKED, np.array([0, 3, 3, 5]), TARGETS)


@pytest.mark.parametrize(
    ("ranked", "offsets", "targets", "message"),
    [
        ([[1, 1]], [0, 1], [1], "ranked hold an item twice"),
        ([[1, 2]], [0, 2], [1, 1], "targets hold an item twice"),
        ([[1, 2]], [0, 1, 2], [1, 1], "expected a row for each of 2 users"),
        ([[1, 2]], [0, 2], [1], "offsets span 0..2, expected 0..1"),
        ([[1, 2]], [0, 1], [-1], "target items hold -1"),
    ],
)
def test_malformed_input_is_refused(ranked, offsets, targets, message):
    with pytest.raises(ValueError, match=message):
        relevance(np.array(ranked, dtype=np.int32), np.array(offsets), np.array(targets, dtype=np.int32))
