"""Exact top-K on the device, in chunks: never a users x items array.

Axes: U users, I items, D dimensions, K ranks.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys import precision
from recsys.sampling import DeviceInteractions, histories

SCORES_AT_ONCE = 2**22  # 16 MiB, near the size of a CPU's cache
ITEMS_AT_ONCE = 2**16  # whose squares are made
USERS_AT_ONCE = 256  # at least: fewer read all items again and again


@torch.no_grad()
def top_k(
    user_vectors: Tensor,
    item_vectors: Tensor,
    users: Tensor,
    k: int,
    seen: DeviceInteractions | None = None,
    chunk: int | None = None,
) -> NDArray[np.int32]:
    """(U, D), (I, D), (Q,) users -> (Q, min(k, I)) int32, nearest first by Euclidean distance.

    `chunk` users at a time, by default as many as SCORES_AT_ONCE allows but USERS_AT_ONCE at least; their
    scores are made for as many items as SCORES_AT_ONCE allows. With `seen`, a user's own items are left out;
    where fewer than k remain the row ends in -1. Raises ValueError on k < 1 and on vectors that are not
    finite.
    """
    if k < 1:
        raise ValueError(f"k = {k}, allowed >= 1")
    parts = torch.split(item_vectors, ITEMS_AT_ONCE)
    half_squares = 0.5 * torch.cat([part.square().sum(1) for part in parts])  # (I,)
    for name, vectors in (("user vectors", user_vectors), ("item vectors", half_squares)):
        if not torch.isfinite(vectors).all():
            raise ValueError(f"{name} hold NaN or Inf, allowed finite values")
    k = min(k, len(item_vectors))
    chunk = chunk or max(USERS_AT_ONCE, SCORES_AT_ONCE // len(item_vectors))
    return _in_chunks(
        lambda part: _top_of(user_vectors[part], item_vectors, half_squares, part, k, seen), users, k, chunk
    )


@torch.no_grad()
def top_k_of_scores(
    scores_of_users: Callable[[Tensor], Tensor],
    users: Tensor,
    k: int,
    seen: DeviceInteractions | None = None,
    chunk: int = 64,
) -> NDArray[np.int32]:
    """(Q,) users -> (Q, min(k, I)) int32, highest score first, for models that are no vectors.

    `scores_of_users` maps users (B,), `chunk` of them at a time, to a new array of scores (B, I), which is
    written to. With `seen`, a user's own items are left out; where fewer than k remain the row ends in -1.
    Raises ValueError on k < 1 and on scores that are not finite.
    """
    if k < 1:
        raise ValueError(f"k = {k}, allowed >= 1")

    def rank(part: Tensor) -> NDArray[np.int32]:
        score = scores_of_users(part)  # (B, I)
        if not torch.isfinite(score).all():
            raise ValueError("scores hold NaN or Inf, allowed finite values")
        return _best(score, part, min(k, score.shape[1]), seen)

    return _in_chunks(rank, users, k, chunk)


def _in_chunks(
    rank: Callable[[Tensor], NDArray[np.int32]], users: Tensor, k: int, chunk: int
) -> NDArray[np.int32]:
    """The ranks of all users, `chunk` of them at a time, half as many from where memory does not suffice."""
    ranked, done = [], 0
    while done < len(users):
        part = users[done : done + chunk]
        try:
            ranked.append(rank(part))
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not _lacks_memory(error):
                raise
            chunk = len(part) // 2
        else:
            done += len(part)
    return np.concatenate(ranked) if ranked else np.empty((0, k), np.int32)


def _top_of(
    vectors: Tensor,
    item_vectors: Tensor,
    half_squares: Tensor,
    users: Tensor,
    k: int,
    seen: DeviceInteractions | None,
) -> NDArray[np.int32]:
    """(Q, D), (I, D), (I,), (Q,) -> (Q, K), the items a block at a time."""
    block = max(k, SCORES_AT_ONCE // len(users))
    hidden = None if seen is None else histories(seen, users)  # (H,), (H,): rows and items
    best = torch.empty(len(users), 0, device=vectors.device)  # (Q, K)
    items = torch.empty(len(users), 0, dtype=torch.int64, device=vectors.device)
    for first in range(0, len(item_vectors), block):
        part = slice(first, first + block)
        # -(d^2 - |u|^2) / 2: a user's own square does not change their order.
        with precision.full():
            score = torch.addmm(half_squares[part], vectors, item_vectors[part].T, beta=-1)  # (Q, B)
        if hidden is not None:
            row, item = hidden
            here = (item >= first) & (item < first + block)
            score[row[here], item[here] - first] = -torch.inf
        found, place = score.topk(min(k, score.shape[1]), dim=1)
        best, items = torch.cat([best, found], 1), torch.cat([items, place + first], 1)
        if first:
            best, place = best.topk(min(k, best.shape[1]), dim=1)
            items = items.gather(1, place)
    return _without_missing(best, items)


def _best(score: Tensor, users: Tensor, k: int, seen: DeviceInteractions | None) -> NDArray[np.int32]:
    """(Q, I), (Q,) -> (Q, K), highest first; writes to the scores."""
    if seen is not None:
        score[histories(seen, users)] = -torch.inf
    return _without_missing(*score.topk(k, dim=1))


def _without_missing(best: Tensor, items: Tensor) -> NDArray[np.int32]:
    """(Q, K), (Q, K) -> (Q, K): -1 where no item is left."""
    return torch.where(best == -torch.inf, -1, items).to(torch.int32).cpu().numpy()


def _lacks_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out; torch has a type for that on CUDA alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
