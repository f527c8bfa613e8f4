"""Masks of negatives: items that a user has, or that were not on sale, are none; offline-mined negatives.

Axes: N interactions, A anchors, B batch, C candidates, H items of the anchors' histories, F and G those that
are candidates, Q known pairs, V different users, I items, T triplets, M mined negatives of an interaction.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.sampling import DeviceInteractions, histories, ranges


def known_pairs(data: DeviceInteractions, users: Tensor, candidates: Tensor) -> Tensor:
    """(A,), (C,) ascending -> (Q,): row * C + column, ascending, of each (user, candidate) in the data.

    Reads the anchors' histories alone, a user's once: work grows with their length, and memory with Q, not
    with A * C. The host waits for the device. Raises ValueError if candidates do not ascend.
    """
    if (candidates.diff() < 0).any():
        raise ValueError("candidates are in no order, allowed: ascending")
    different, which = torch.unique(users, return_inverse=True)  # (V,), (A,)
    user, item = histories(data, different)  # (H,)
    is_candidate = torch.zeros(data.n_items, dtype=torch.bool, device=users.device)  # (I,)
    is_candidate.index_fill_(0, candidates, True)
    drawn = is_candidate.index_select(0, item).nonzero()[:, 0]  # (F,): few of the histories' items
    user, item = user.index_select(0, drawn), item.index_select(0, drawn)  # (F,)
    found = torch.bincount(user, minlength=len(different))  # (V,)
    row, place = ranges((found.cumsum(0) - found)[which], found[which])  # (G,): to each anchor its user's
    first = torch.searchsorted(candidates, candidates)  # (C,): an item may be drawn several times
    last = torch.searchsorted(candidates, candidates, right=True)  # (C,)
    # Read only where it is written: nothing of 8 bytes an item is cleared.
    column = torch.empty(data.n_items, dtype=torch.int64, device=users.device)  # (I,)
    column.index_copy_(0, candidates, first)
    column = column.index_select(0, item.index_select(0, place))  # (G,)
    return ranges(row * len(candidates) + column, (last - first).index_select(0, column))[1]


def unseen_mask(data: DeviceInteractions, users: Tensor, candidates: Tensor, entries: int) -> Tensor:
    """(A,), (C,) ascending -> (A, C): 0.0 if the user has the candidate, 1.0 if it would be new to them.

    The same as known_pairs() for asynchronous devices: every shape follows from A, C and `entries`, the
    length of all histories of `users`, so the host need not wait. Memory grows with all three.
    """
    row, item = histories(data, users, entries)  # (H,)
    column = candidates.new_full((data.n_items,), len(candidates))  # (I,): what is no candidate has one more
    first = torch.searchsorted(candidates, candidates)  # (C,): an item may be drawn several times
    column.index_copy_(0, candidates, first)  # copies of one item write the same number
    mask = torch.ones(len(users), len(candidates) + 1, device=users.device)  # (A, C + 1)
    mask.view(-1).index_fill_(0, row * (len(candidates) + 1) + column.index_select(0, item), 0)
    return mask.index_select(1, first)


def sale_ranks(data: DeviceInteractions, candidates: Tensor, at: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(C,), (B,) int64 seconds -> what available() compares: pairs of (C,) and (B,) float32.

    A candidate was on sale at a time if in each pair the first is less; `at` are the interactions' data.time.
    They are ranks among the ends of the candidates' spans, which floats hold exactly.
    """
    ranks = []
    if data.first_seen is not None:
        first, there = _ranks(data.first_seen[candidates], at, right=True)  # (C,), (B,)
        ranks.append((first, there))
    if data.last_seen is not None:
        last, gone = _ranks(data.last_seen[candidates], at, right=False)  # (C,), (B,)
        ranks.append((-1 - last, -gone))  # last >= gone, as less
    if not ranks:
        ranks.append((torch.zeros(len(candidates), device=at.device), torch.ones(len(at), device=at.device)))
    return ranks


def available(ranks: list[tuple[Tensor, Tensor]], rows: slice = slice(None)) -> Tensor:
    """Of sale_ranks, rows of B -> (B, C) float32: 1 if the candidate was on sale at that time, 0 if not.

    What was not on sale was not turned down, so it is no negative.
    """
    on_sale = [
        torch.lt(of_item, of_time[rows, None], out=of_item.new_empty(0)) for of_item, of_time in ranks
    ]  # (B, C) each; written as floats, several times as fast as bytes on CPU
    return on_sale[0] if len(on_sale) == 1 else on_sale[0].mul_(on_sale[1])


def _ranks(times: Tensor, at: Tensor, right: bool) -> tuple[Tensor, Tensor]:
    """(C,), (B,) int64 -> (C,), (B,) float32: how many of `times` are before each; at `at` too with right."""
    ascending = times.sort().values  # (C,)
    return (
        torch.searchsorted(ascending, times).float(),
        torch.searchsorted(ascending, at, right=right).float(),
    )


def mined_table(triplets: NDArray[np.int32], data: DeviceInteractions) -> Tensor:
    """(T, 3) numbers (user, positive, negative) -> (N, M) int64: each interaction's negatives, mined offline.

    M is the most that an interaction has, 0 without triplets; the others are filled up with -1. The order is
    that of the triplets.
    Raises ValueError if a (user, positive) is not in the data, or a negative is no item.
    """
    if triplets.ndim != 2 or triplets.shape[1] != 3:
        raise ValueError(f"triplets are {list(triplets.shape)}, expected [T, 3]")
    user, positive, negative = torch.tensor(triplets, dtype=torch.int64, device=data.user.device).T  # (T,)
    pair = data.user.long() * data.n_items + data.item  # (N,), rising
    row = torch.searchsorted(pair, user * data.n_items + positive).clamp_max(len(pair) - 1)  # (T,)
    # Both numbers are compared: a positive past the last item adds up to a pair of the next user.
    stranger = (data.user[row] != user) | (data.item[row] != positive)  # (T,)
    for wrong, what in (
        (stranger, "its (user, positive) is not in the data"),
        ((negative < 0) | (negative >= data.n_items), f"its negative is not in 0..{data.n_items - 1}"),
    ):
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise ValueError(f"triplets[{at}] = {triplets[at].tolist()}: {what}")
    by_row = row.argsort(stable=True)  # (T,)
    row = row[by_row]
    count = torch.bincount(row, minlength=len(pair))  # (N,)
    column = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]  # (T,)
    table = row.new_full((len(pair), int(count.max())), -1)  # (N, M)
    table[row, column] = negative[by_row]
    return table
