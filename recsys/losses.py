"""Losses over distances, and regularizers over embeddings.

Two kinds of loss. Over mined triplets: (T,) d(a,p) and (T,) d(a,n) -> (T,). Over whole rows: an (A, C) matrix
`d` and two disjoint (A, C) bool masks -> (A,); a pair in neither mask has gradient 0 whatever its distance,
and a row without positives, or without the negatives that a loss needs, has loss 0 and gradient 0.
Distances are taken as given, squared or not, and a margin, alpha or beta is in their units. Where a paper has
a score, s = -d. At distance 0 gradients are finite.
Axes: T triplets, A anchors, C candidates, P positive pairs, K nearest of a row, N rows, D dimensions.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding, logsigmoid, pad, softplus

from recsys.spaces import unit_rows

INF = float("inf")
ACTIVATIONS = ("tanh", "atan", "relu")  # of `psl`

# Triplets: (T,), (T,) -> (T,)


def contrastive(d_pos: Tensor, d_neg: Tensor, margin: float) -> Tensor:
    """(T,), (T,) -> (T,): 1/2 d(a,p)^2 + 1/2 max(0, m - d(a,n))^2.

    Hadsell, Chopra and LeCun 2006, eq. 4, its two kinds of pair taken from one triplet. Their d is Euclidean,
    not squared: of squared distances this is a quartic.
    Raises ValueError unless margin > 0.
    """
    return 0.5 * d_pos.square() + 0.5 * (_positive("margin", margin) - d_neg).clamp_min(0).square()


def triplet_margin(d_pos: Tensor, d_neg: Tensor, margin: float) -> Tensor:
    """(T,), (T,) -> (T,): max(0, m + d(a,p) - d(a,n)).

    Weinberger and Saul 2009, eq. 12; Schroff et al. 2015 (FaceNet), eq. 3.
    Raises ValueError unless margin > 0.
    """
    return (_positive("margin", margin) + d_pos - d_neg).clamp_min(0)


def triplet_soft_margin(d_pos: Tensor, d_neg: Tensor) -> Tensor:
    """(T,), (T,) -> (T,): log(1 + exp(d(a,p) - d(a,n))), the hinge with its corner rounded off.

    Hermans, Beyer and Leibe 2017, section 2. The same function as bpr, under the name it has there.
    """
    return softplus(d_pos - d_neg)


def bpr(d_pos: Tensor, d_neg: Tensor) -> Tensor:
    """(T,), (T,) -> (T,): -log sigmoid(s(a,p) - s(a,n)), s = -d.

    Rendle et al. 2009, BPR-OPT without its regularizer (see l2). The same function as triplet_soft_margin.
    """
    return -logsigmoid(d_neg - d_pos)


def margin(d_pos: Tensor, d_neg: Tensor, alpha: float, beta_pos: Tensor, beta_neg: Tensor) -> Tensor:
    """(T,), (T,), beta () or (T,) -> (T,): max(0, d(a,p) - beta + alpha) + max(0, beta - d(a,n) + alpha).

    Wu et al. 2017 (Sampling Matters), eq. 5, for Euclidean distances of unit vectors. beta is the border
    between near and far; it may be learned, and be another for the two pairs. alpha is half the gap.
    Raises ValueError unless alpha >= 0.
    """
    _not_negative("alpha", alpha)
    return (d_pos - beta_pos + alpha).clamp_min(0) + (beta_neg - d_neg + alpha).clamp_min(0)


def manifold(d_pos: Tensor, d_neg: Tensor, margin: float, separation: float) -> Tensor:
    """(T,), (T,) -> (T,): f(d(a,p)) + separation * g(d(a,p), d(a,n)), f pulls within, g separates between.

    f(d) = d and g = max(0, m + d(a,p) - d(a,n)): Weinberger and Saul 2009, eq. 11 to 13, separation =
    mu / (1 - mu). f keeps pulling where the hinge is 0, so that a class becomes as compact as the data allow;
    g is 0 once a pair is separated, so that classes do not move apart without bound. The paper counts f once
    per pair, as a miner of one negative per positive does; with every negative mined f counts once for each.
    Raises ValueError unless margin > 0 and separation >= 0.
    """
    return d_pos + _not_negative("separation", separation) * triplet_margin(d_pos, d_neg, margin)


def warp(d_pos: Tensor, d_neg: Tensor, margin: float, rank: Tensor) -> Tensor:
    """(T,), (T,), rank (T,) -> (T,): log(1 + rank) * max(0, m + d(a,p) - d(a,n)).

    Hsieh et al. 2017 (CML), section 3.2, after WARP (Weston et al. 2010). No gradient flows to the rank.
    Raises ValueError unless margin > 0.
    """
    hinge = triplet_margin(d_pos, d_neg, margin)  # (T,)
    return torch.log1p(rank.detach()).to(hinge.dtype) * hinge


@torch.no_grad()
def estimated_rank(
    d_pos: Tensor, d_neg: Tensor, margin: float, n_items: int, seen: Tensor | None = None
) -> Tensor:
    """(A,), (A, C) -> (A,): the positive's rank among all, I * impostors / negatives seen.

    An impostor is a negative inside the margin; what is infinitely far is no negative, as for the miners. The
    candidates are taken for a uniform sample of all items. `seen` (A,) says how many of them are negatives,
    where that is known. Hsieh et al. 2017 (CML), section 3.2. An anchor without negatives has rank 0.
    Raises ValueError unless margin > 0 and n_items >= 1.
    """
    _at_least_one("n_items", n_items)
    limit = d_pos[:, None] + _positive("margin", margin)  # (A, 1)
    # Flags as floats, 0 or 1, added up: on CPU several times as fast as masks.
    flags = torch.empty_like(d_neg, dtype=torch.float32)  # (A, C)
    impostors = torch.lt(d_neg, limit, out=flags).sum(1)  # (A,)
    if seen is None:
        seen = torch.ne(d_neg, INF, out=flags).sum(1)  # (A,)
    return n_items * impostors / seen.clamp_min(1)


# Rows: (A, C) and masks -> (A,)


def sampled_softmax(
    d: Tensor, positive: Tensor, negative: Tensor, temperature: float, log_q: Tensor | None = None
) -> Tensor:
    """(A, C), masks -> (A,): mean over p of -log(e^l_p / (e^l_p + sum over n of e^l_n)).

    l = -d / temperature - log_q, log_q (C,) or (A, C). Each positive stands against the row's negatives, not
    against the other positives: InfoNCE (van den Oord et al. 2018, eq. 4), NT-Xent (Chen et al. 2020, eq. 1).
    log_q is the log of the probability with which a column was drawn, up to a constant: an item drawn often
    would otherwise be pushed away for being popular. It comes off every column, the positive's too (Yi et al.
    2019).
    Raises ValueError unless temperature > 0.
    """
    positive, negative = _complete(positive, negative)
    logits = -d / _positive("temperature", temperature)  # (A, C)
    if log_q is not None:
        logits = logits - log_q
    rest = _log_sum_exp(logits, negative)  # (A,)
    return _row_mean(softplus(torch.where(positive, rest[:, None] - logits, 0)), positive)


def bsl(
    d: Tensor, positive: Tensor, negative: Tensor, temperature: float, negative_temperature: float
) -> Tensor:
    """(A, C), masks -> (A,): -log mean over p of e^(-d / t) + t_neg log mean over n of e^(-d / t).

    Bilateral softmax loss, Wu et al. 2024: the positives, too, stand under a log-mean-exp, so that a
    far one among several weighs less, as it may be noise. As in the authors' code, t is one temperature for
    both sides and t_neg the weight of the negative side (Gowalla .08 and 1.22). The loss can be negative.
    Raises ValueError unless both temperatures > 0.
    """
    _positive("negative_temperature", negative_temperature)
    positive, negative = _complete(positive, negative)
    logits = -d / _positive("temperature", temperature)  # (A, C)
    return negative_temperature * _log_mean_exp(logits, negative) - _log_mean_exp(logits, positive)


def cosine_contrastive(d: Tensor, positive: Tensor, negative: Tensor, margin: float, weight: float) -> Tensor:
    """(A, C), masks -> (A,): mean over p of d + weight * mean over n of max(0, m - d).

    CCL, Mao et al. 2021 (SimpleX), with d = 1 - cos: the margin is a distance, 1 minus the paper's cosine
    (its .9 on Gowalla is .1 here).
    Raises ValueError unless margin > 0 and weight >= 0.
    """
    _not_negative("weight", weight)
    positive, negative = _complete(positive, negative)
    hinge = (_positive("margin", margin) - d).clamp_min(0)  # (A, C)
    return _row_mean(d, positive) + weight * _row_mean(hinge, negative)


def psl(
    d: Tensor, positive: Tensor, negative: Tensor, temperature: float, activation: str = "tanh"
) -> Tensor:
    """(A, C), masks -> (A,): mean over p of log(1 + sum over n of sigma(d_p - d_n)^(1 / temperature)).

    Pairwise softmax loss, Yang et al. 2024 (NeurIPS): sampled_softmax with sigma in place of exp, which grows
    less where a negative is nearer than the positive, as it may be one that the user would like. The paper's
    scores are half a cosine, so that its distances would be (1 - cos) / 2. The sum holds the positive itself
    (the 1), as that of sampled_softmax does.
    Raises ValueError unless temperature > 0, and for an activation that is none of ACTIVATIONS.
    """
    positive, negative = _complete(positive, negative)
    anchor, column = positive.nonzero(as_tuple=True)  # (P,)
    rows, pushed = embedding(anchor, d), negative[anchor]  # (P, C)
    x = torch.where(pushed, rows.gather(1, column[:, None]) - rows, 0)  # (P, C)
    logits = log_activation(x, activation) / _positive("temperature", temperature)  # (P, C)
    each = softplus(_log_sum_exp(logits, pushed))  # (P,)
    return _row_mean(torch.zeros_like(d).masked_scatter(positive, each), positive)


def log_activation(x: Tensor, activation: str) -> Tensor:
    """Log of sigma(x) = tanh x + 1, atan x + 1 or max(0, x + 1) (Yang et al. 2024, PSL), each 1 at 0.

    Where sigma is 0 or less, the log of the least positive number, and no gradient.
    Raises ValueError for an activation that is none of ACTIVATIONS.
    """
    if activation == "tanh":
        return math.log(2) + logsigmoid(2 * x)  # the same, and exact far below 0
    if activation == "atan":
        return (x.atan() + 1).clamp_min(torch.finfo(x.dtype).tiny).log()
    if activation == "relu":
        return (x + 1).clamp_min(torch.finfo(x.dtype).tiny).log()
    raise ValueError(f"activation = {activation!r}, allowed: {', '.join(ACTIVATIONS)}")


def sl_at_k(
    d: Tensor,
    positive: Tensor,
    negative: Tensor,
    border: Tensor,
    temperature: float,
    weight_temperature: float,
) -> Tensor:
    """(A, C), masks, border (A,) -> (A,): mean over p of sigmoid((border - d_p) / t_w) * its sampled_softmax.

    SL@K, Yang et al. 2025 (KDD): the nearer a positive is than the border of the user's top K, the more it
    counts; t_w is weight_temperature. The border is that of `top_k_border`, and no gradient flows to it.
    Raises ValueError unless both temperatures > 0.
    """
    _positive("weight_temperature", weight_temperature)
    positive, negative = _complete(positive, negative)
    logits = -d / _positive("temperature", temperature)  # (A, C)
    rest = _log_sum_exp(logits, negative)  # (A,)
    softmax = softplus(torch.where(positive, rest[:, None] - logits, 0))  # (A, C)
    inside = torch.where(positive, border.detach()[:, None] - d, 0)  # (A, C)
    return _row_mean((inside / weight_temperature).sigmoid() * softmax, positive)


@torch.no_grad()
def top_k_border(d: Tensor, positive: Tensor, negative: Tensor, k: int, n_items: int) -> Tensor:
    """(A, C), masks -> (A,): the distance of the k-th nearest of all items; of fewer, the farthest; else 0.

    The negatives are taken for a uniform sample of all items but the positives, so that each counts as
    (I - P) / N of them, at least 1. Yang et al. 2025 (SL@K), its quantile from a sample.
    Raises ValueError unless k >= 1 and n_items >= 1.
    """
    _at_least_one("k", k)
    _at_least_one("n_items", n_items)
    p, n = positive.sum(1), negative.sum(1)  # (A,)
    near, place = torch.where(positive | negative, d, INF).topk(
        min(k, d.shape[1]), 1, largest=False
    )  # (A, K)
    of_negative = ((n_items - p) / n.clamp_min(1)).clamp_min(1)  # (A,)
    count = torch.where(positive.gather(1, place), 1, of_negative[:, None]).cumsum(1)  # (A, K)
    place = torch.minimum((count < k).sum(1), p + n - 1).clamp_min(0)  # (A,)
    padded = pad(near, (0, 1))  # (A, K + 1), so that there is one
    return torch.where(p + n > 0, padded.gather(1, place[:, None])[:, 0], 0)


def alignment(d: Tensor, positive: Tensor) -> Tensor:
    """(A, C), mask -> (A,): the mean distance of a row's positives.

    Wang and Isola 2020; DirectAU (Wang et al. 2022), where d is squared and the rows have unit length. Alone
    it collapses the space to one point; uniformity prevents that.
    """
    return _row_mean(d, positive)


# Regularizers over rows (N, D)


def uniformity(rows: Tensor, t: float = 2.0) -> Tensor:
    """(N, D) -> (): log mean over i < j of exp(-t |x_i - x_j|^2), x the rows at unit length.

    Wang and Isola 2020; with alignment it makes DirectAU (Wang et al. 2022). A row of length 0 stays there.
    Raises ValueError for fewer than two rows or unless t > 0.
    """
    n = len(rows)
    if n < 2:
        raise ValueError(f"uniformity needs at least 2 rows, got {n}")
    unit = unit_rows(rows)  # (N, D)
    squares = unit.square().sum(1)  # (N,)
    d = torch.addmm(squares[:, None] + squares[None, :], unit, unit.T, alpha=-2).clamp_min(0)  # (N, N)
    upper = torch.ones_like(d, dtype=torch.bool).triu(1)  # (N, N): i < j
    # half precision would not hold a sum of N^2 terms
    logits = -_positive("t", t) * d.to(torch.promote_types(d.dtype, torch.float32))  # (N, N)
    return _log_mean_exp(logits.reshape(1, -1), upper.reshape(1, -1))[0].to(rows.dtype)


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


def l2(rows: Tensor) -> Tensor:
    """(N, D) -> (): mean over rows of |x|^2 / 2. Raises ValueError without rows."""
    if len(rows) == 0:
        raise ValueError("l2 needs at least 1 row, got 0")
    return rows.square().sum(1).mean() / 2


def unit_ball(rows: Tensor) -> Tensor:
    """(N, D) -> (N, D): rows longer than 1 pulled back to length 1, others as they are (CML, section 3.3)."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # (N, 1)
    return rows / length.clamp_min(1)


# Reductions over a mask. What is masked is replaced before it is used, never multiplied by 0: 0 * inf is NaN.


def _complete(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """(A, C) bool masks -> the same without the rows that lack positives or negatives."""
    both = positive.any(1, keepdim=True) & negative.any(1, keepdim=True)  # (A, 1)
    return positive & both, negative & both


def _row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(A, C), (A, C) bool -> (A,): the mean over the mask, 0 where it is empty."""
    return torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp_min(1)


def _log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """(A, C), (A, C) bool -> (A,): log of the sum of exp over the mask, 0 where it is empty.

    A row of nothing but -inf would put NaN into the backward pass.
    """
    some = mask.any(1, keepdim=True)  # (A, 1)
    kept = torch.where(mask, values, -INF).masked_fill(~some, 0)  # (A, C)
    return torch.where(some[:, 0], kept.logsumexp(1), 0)


def _log_mean_exp(values: Tensor, mask: Tensor) -> Tensor:
    """(A, C), (A, C) bool -> (A,): log of the mean of exp over the mask, 0 where it is empty."""
    return _log_sum_exp(values, mask) - mask.sum(1).clamp_min(1).to(values.dtype).log()


def _positive(name: str, value: float) -> float:
    if not 0 < value < INF:
        raise ValueError(f"{name} = {value}, allowed > 0 and finite")
    return value


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < INF:
        raise ValueError(f"{name} = {value}, allowed >= 0 and finite")
    return value


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value}, allowed >= 1")
