"""The health of a metric space, measured on a sample between epochs: how full it is, and signs of collapse.

Nothing here has a gradient, and the host waits for the device: for once an epoch, not for every step.
Axes: N rows, M members of K classes, D dimensions, A anchors, C candidates, P pairs, T triplets,
H held-out interactions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from recsys import losses
from recsys.miners import Triplets
from recsys.sampling import DeviceInteractions

INF = float("inf")
QUANTILES = (0.1, 0.5, 0.9)
STUCK = 0.05  # of the margin: distance to it at which the hardest hinge counts as stuck
ONE_POINT = 0.1  # of the margin: the largest range of distances at which all points count as one
RANK_LEFT = 0.5  # of the effective rank while healthy: below it the space has lost dimensions


class Health(NamedTuple):
    """A space at one moment; distances are those that are trained."""

    effective_rank: float  # dimensions in use, 1 to D
    norm_spread: float  # standard deviation of the rows' lengths over their mean
    uniformity: float  # of directions: 0 all the same, lower is more uniform
    alignment: float  # mean distance of the positive pairs
    compactness: float  # mean squared distance of a member to its class's centroid
    separation: float  # mean squared distance between two classes' centroids
    positive_low: float  # 10 %, 50 %, 90 % of the distances of positive pairs
    positive_median: float
    positive_high: float
    negative_low: float  # the same of negative pairs
    negative_median: float
    negative_high: float
    hardest_hinge: (
        float  # mean over anchors of max(0, m + farthest positive - nearest negative), less offsets
    )
    distance_range: float  # from the 10 % nearest to the 10 % farthest of the same pairs, less offsets
    mined: float  # share of the anchors that found a triplet
    active: float  # share of the mined triplets with a loss above 0
    false_negatives: float | None  # share of the mined negatives that are held-out positives, where known


@torch.no_grad()
def effective_rank(rows: Tensor) -> Tensor:
    """(N, D) -> (): how many dimensions the rows fill, 1 (a point or a line) to min(N - 1, D).

    exp of the entropy of the centred rows' singular values over their sum: Roy and Vetterli 2007. Singular
    values up to 8 roundings (eps) of the rows' own Frobenius norm count as 0, so that one point has rank 1
    and not that of its rounding errors. A shift, a rotation or a scale changes nothing: a space that
    shrinks alike in all directions keeps its rank until the last digits (see find_collapse).
    Raises ValueError without rows.
    """
    exact = _some(rows).double()  # (N, D)
    values = torch.linalg.svdvals(exact - exact.mean(0))  # (min(N, D),)
    noise = 8 * torch.finfo(rows.dtype).eps * exact.norm()  # ()
    values = torch.where(values > noise, values, 0.0)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()


@torch.no_grad()
def norm_spread(rows: Tensor) -> Tensor:
    """(N, D) -> (): standard deviation of the rows' lengths over their mean; 0 if all are at the origin.

    Raises ValueError without rows.
    """
    lengths = _some(rows).norm(dim=1)  # (N,)
    spread: Tensor = lengths.std(correction=0) / lengths.mean().clamp_min(torch.finfo(rows.dtype).tiny)
    return spread


@torch.no_grad()
def compactness_and_separation(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(M, D), (M,) int64 class numbers -> (), (): mean squared distances within and between classes.

    Within: of each row to its class's centroid. Between: of each pair of centroids, every class counting
    once; sum_{k<l} |c_k - c_l|^2 = K sum_k |c_k - mean c|^2, so that no (K, K) array is made. One
    class: 0. In recommendation a class is a user, its rows the items of the history. Raises ValueError
    without rows, or unless there is a label a row.
    """
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"labels are {list(labels.shape)}, expected {[len(rows)]}: one a row")
    exact = _some(rows).double()  # (M, D)
    _, number, size = torch.unique(labels, return_inverse=True, return_counts=True)  # (M,), (K,)
    sums = exact.new_zeros(len(size), exact.shape[1]).index_add_(0, number, exact)  # (K, D)
    centroids = sums / size[:, None]  # (K, D)
    compactness = (exact - centroids[number]).square().sum(1).mean()
    around = (centroids - centroids.mean(0)).square().sum()
    return compactness, 2 * around / max(len(size) - 1, 1)


@torch.no_grad()
def quantiles(d: Tensor, mask: Tensor) -> Tensor:
    """(A, C), (A, C) bool -> (3,): 10 %, 50 % and 90 % of the distances under the mask, interpolated.

    Sorted here, because torch.quantile takes no more than 2^24 values. Raises ValueError for an empty mask.
    """
    values = d[mask].double().sort().values  # (P,)
    if len(values) == 0:
        raise ValueError("mask = 0 pairs, allowed >= 1: there is no distance to rank")
    place = torch.tensor(QUANTILES, dtype=values.dtype, device=d.device) * (len(values) - 1)  # (3,)
    low = place.long()
    return torch.lerp(values[low], values[place.ceil().long()], place - low)


@torch.no_grad()
def hardest_hinge(d: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """(A, C) and masks -> (): mean over anchors of max(0, m + d(a, farthest p) - d(a, nearest n)).

    The batch-hard loss, whichever miner is in use: m exactly once all points are one.
    Raises ValueError if no anchor has both a positive and a negative.
    """
    far = torch.where(positive, d, -INF).amax(1)  # (A,)
    near = torch.where(negative, d, INF).amin(1)  # (A,)
    both = positive.any(1) & negative.any(1)  # (A,)
    if not both.any():
        raise ValueError("0 anchors have a positive and a negative, allowed >= 1")
    return losses.triplet_margin(far[both], near[both], margin).mean()


@torch.no_grad()
def false_negative_rate(users: Tensor, negatives: Tensor, held_out: DeviceInteractions) -> Tensor:
    """(T,) users, (T,) items mined as their negatives -> (): the share that is theirs in what was held out.

    0 where nothing was mined. Looks T pairs up among H sorted ones: no (T, T) mask is made.
    """
    pairs = held_out.user.long() * held_out.n_items + held_out.item  # (H,), sorted as the interactions are
    asked = users * held_out.n_items + negatives  # (T,)
    return torch.isin(asked, pairs).sum() / max(len(asked), 1)


class Pairs(NamedTuple):
    """Distances between a sample's anchors and candidates, and which pairs are positive and negative."""

    d: Tensor  # (A, C), any number outside the masks
    without_offset: Tensor  # (A, C), the same if no item had an offset
    positive: Tensor  # (A, C) bool
    negative: Tensor  # (A, C) bool


class MinedSample(NamedTuple):
    """What the miner in use finds in those pairs."""

    triplets: Triplets
    losses: Tensor  # (T,) of the triplets, or (A,) of whole rows
    margin: float
    false_negatives: Tensor | None = None  # () of false_negative_rate, where later interactions are known


@torch.no_grad()
def measure(rows: Tensor, members: Tensor, labels: Tensor, pairs: Pairs, mined: MinedSample) -> Health:
    """All of Health from one sample.

    rows (N, D): the points of users and items; members (M, D) and labels (M,): as for
    compactness_and_separation. Raises ValueError where a part does, FloatingPointError if a number is not
    finite.
    """
    d, without_offset, positive, negative = pairs
    either = positive | negative  # (A, C)
    used = {"rows": rows, "members": members, "d": d[either], "without_offset": without_offset[either]}
    for name, values in used.items():
        if not torch.isfinite(values).all():
            raise FloatingPointError(f"{name} are not all finite: lower the learning_rate")
    found = torch.zeros(len(d), device=d.device)  # (A,)
    found[mined.triplets.anchor] = 1
    ends = torch.stack([quantiles(without_offset, positive), quantiles(without_offset, negative)])  # (2, 3)
    parts = [
        effective_rank(rows),
        norm_spread(rows),
        losses.uniformity(rows),
        d[positive].mean(),
        *compactness_and_separation(members, labels),
        *quantiles(d, positive),
        *quantiles(d, negative),
        hardest_hinge(without_offset, positive, negative, mined.margin),
        ends[:, -1].max() - ends[:, 0].min(),
        found.mean(),
        (mined.losses > 0).sum() / max(len(mined.losses), 1),
    ]
    numbers = torch.stack([part.double() for part in parts]).tolist()
    known = None if mined.false_negatives is None else mined.false_negatives.item()
    return Health._make([*numbers, known])


def find_collapse(now: Health, before: Health | None, margin: float) -> str | None:
    """What says that the space has collapsed, in words; None if nothing does.

    Two signs. The hardest hinge sits at the margin while the distances of positives and negatives are nearly
    one number, the items' offsets left out of both: everything is at one point, where the hardest triplets
    drive a random start (Schroff et al. 2015, section 3.2). Or half of the effective rank is gone since
    `before`, the last healthy epoch. Either is enough: a space that shrinks alike in all directions keeps its
    rank, and where a length keeps the distances apart, directions can still be lost. A random start is as
    full as a space can be, and learning alone may take nearly half of that: `before` is better an epoch that
    has learned.
    Mining false negatives is no collapse and moves neither sign: it shows in false_negatives and validation.
    Raises ValueError unless margin > 0.
    """
    if not margin > 0:
        raise ValueError(f"margin = {margin}, allowed > 0")
    if abs(now.hardest_hinge - margin) <= STUCK * margin and now.distance_range <= ONE_POINT * margin:
        return (
            f"everything is at one point: the hardest hinge is {now.hardest_hinge:.4g} at margin "
            f"{margin:.4g}, and distances differ by {now.distance_range:.4g}"
        )
    if before is not None and now.effective_rank < RANK_LEFT * before.effective_rank:
        return f"effective rank fell from {before.effective_rank:.1f} to {now.effective_rank:.1f}"
    return None


def _some(rows: Tensor) -> Tensor:
    if rows.dim() != 2 or len(rows) == 0:
        raise ValueError(f"rows are {list(rows.shape)}, expected [N, D] with N >= 1")
    return rows
