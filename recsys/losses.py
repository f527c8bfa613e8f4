"""Losses over the distances of triplets, and regularizers over embeddings.

Axes: T triplets, A anchors, C candidates, N rows, D dimensions. Distances here are squared.
"""

import math

import torch
from torch import Tensor


def triplet_margin(d_pos: Tensor, d_neg: Tensor, margin: float) -> Tensor:
    """(T,), (T,) -> (T,): max(0, m + d(a,p) - d(a,n)).

    Weinberger and Saul 2009, eq. 12; Schroff et al. 2015 (FaceNet), eq. 3.
    Raises ValueError unless margin > 0.
    """
    return (_positive("margin", margin) + d_pos - d_neg).clamp_min(0)


def contrastive(d_pos: Tensor, d_neg: Tensor, margin: float) -> Tensor:
    """(T,), (T,) squared distances -> (T,): 1/2 d(a,p)^2 + 1/2 max(0, m - d(a,n))^2, d not squared.

    `margin` is m^2: the same number then means the same to a miner and to rank_weight.
    Hadsell, Chopra and LeCun 2006, eq. 4, its two kinds of pair taken from one triplet. A negative at
    distance 0 has gradient 0 (the root's own gradient there is infinite).
    Raises ValueError unless margin > 0.
    """
    away = (d_neg > 0).to(d_neg.dtype)
    root = torch.where(d_neg > 0, d_neg, 1.0).sqrt() * away
    m = math.sqrt(_positive("margin", margin))
    return 0.5 * d_pos + 0.5 * (m - root).clamp_min(0).square()


def rank_weight(distance: Tensor, d_pos: Tensor, negative: Tensor, margin: float, n_items: int) -> Tensor:
    """(A, C), (A,), (A, C) bool -> (A,): log(rank + 1), rank = I * impostors / negatives seen.

    An impostor is a negative inside the margin: the rank of the positive in the whole catalogue is estimated
    from the sampled candidates. Hsieh et al. 2017 (CML), section 3.2, after WARP (Weston et al. 2010).
    No gradient flows through it. An anchor without negatives has weight 0.
    """
    with torch.no_grad():
        impostors = (negative & (distance < d_pos[:, None] + margin)).sum(1)  # (A,)
        seen = negative.sum(1).clamp_min(1)  # (A,)
        return torch.log1p(n_items * impostors / seen)


def covariance(rows: Tensor) -> Tensor:
    """(N, D) -> (): (|C|_F^2 - |diag C|^2) / N, C the covariance of the rows.

    Decorrelates the dimensions: Hsieh et al. 2017 (CML), eq. 6, with the squared Frobenius norm, summed off
    the diagonal so that it cannot go negative. Raises ValueError for fewer than two rows.
    """
    n = len(rows)
    if n < 2:
        raise ValueError(f"covariance needs at least 2 rows, got {n}")
    centred = rows - rows.mean(0)
    matrix = centred.T @ centred / n  # (D, D)
    return (matrix - matrix.diagonal().diag()).square().sum() / n


def _positive(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} = {value}, allowed > 0 and finite")
    return value
