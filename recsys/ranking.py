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

    `chunk` users at a time, by default as many as SCORES_AT_ONCE allows; half as many from where memory does
    not suffice. With `seen`, a user's own items are left out; where fewer than k remain the row ends in -1.
    Raises ValueError on k < 1 and on vectors that are not finite.
    """
    if k < 1:
        raise ValueError(f"k = {k}, allowed >= 1")
    for name, vectors in (("user vectors", user_vectors), ("item vectors", item_vectors)):
        if not torch.isfinite(vectors).all():
            raise ValueError(f"{name} hold NaN or Inf, allowed finite values")
    k = min(k, len(item_vectors))
    chunk = chunk or max(1, SCORES_AT_ONCE // len(item_vectors))
    half_squares = 0.5 * item_vectors.square().sum(1)  # (I,)
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
    """(Q, D), (I, D), (I,), (Q,) -> (Q, K)."""
    # -(d^2 - |u|^2) / 2: a user's own square does not change their order.
    with precision.full():
        score = torch.addmm(half_squares, vectors, item_vectors.T, beta=-1)  # (Q, I)
    return _best(score, users, k, seen)


def _best(score: Tensor, users: Tensor, k: int, seen: DeviceInteractions | None) -> NDArray[np.int32]:
    """(Q, I), (Q,) -> (Q, K), highest first; writes to the scores."""
    if seen is not None:
        score[histories(seen, users)] = -torch.inf
    best, items = score.topk(k, dim=1)
    return torch.where(best == -torch.inf, -1, items).to(torch.int32).cpu().numpy()


def _lacks_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out; torch has a type for that on CUDA alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
