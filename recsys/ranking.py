"""Exact top-K on the device, in chunks: never a users x items array.

Axes: U users, I items, D dimensions, K ranks.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.sampling import DeviceInteractions


@torch.no_grad()
def top_k(
    user_vectors: Tensor,
    item_vectors: Tensor,
    users: Tensor,
    k: int,
    seen: DeviceInteractions | None = None,
    chunk: int = 1024,
) -> NDArray[np.int32]:
    """(U, D), (I, D), (Q,) users -> (Q, min(k, I)) int32, nearest first by Euclidean distance.

    With `seen`, a user's own items are left out; where fewer than k remain the row ends in -1.
    """
    if k < 1:
        raise ValueError(f"k = {k}, allowed >= 1")
    k = min(k, len(item_vectors))
    half_squares = 0.5 * item_vectors.square().sum(1)  # (I,)
    ranked = []
    for part in users.split(chunk):
        score = torch.addmm(half_squares, user_vectors[part], item_vectors.T, beta=-1)  # (Q, I): -(d^2 - |u|^2)/2
        if seen is not None:
            start, length = seen.offsets[part], seen.offsets[part + 1] - seen.offsets[part]  # (Q,)
            row = torch.repeat_interleave(torch.arange(len(part), device=part.device), length)
            first = torch.repeat_interleave(start - (length.cumsum(0) - length), length)
            columns = seen.item[first + torch.arange(len(row), device=part.device)].long()
            score[row, columns] = -torch.inf
        best, items = score.topk(k, dim=1)
        ranked.append(torch.where(best == -torch.inf, -1, items).to(torch.int32).cpu().numpy())
    return np.concatenate(ranked) if ranked else np.empty((0, k), dtype=np.int32)
