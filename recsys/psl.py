"""PSL of whole histories: the pairwise softmax loss of each of a user's own items against candidates.

Arguments as in history_losses; no (H, C) is made.
Axes: B users of a batch, H their own items, C candidates, R rows of a block, G nodes, P places.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from recsys.history_losses import INF, check_positive, row_blocks, wide
from recsys.losses import log_activation

NODES, PLACES = 256, 512  # of a row's candidates, and of own items
LEAST_LOG = -80.0  # below it a power is 0 in single precision
TINY = 1e-30  # a sum of nothing


class _Psl(torch.autograd.Function):
    """(H,) own and (B, C) -> (H,): log(1 + sum_c sigma((d_p - d_c) / m)^(m / t) / q_c).

    A row's candidates are shared out among its nodes, so that the loss of any own distance is a sum over few
    nodes; it is computed at places that all rows share, and taken as cubic between these.
    """

    # Many arguments: those of psl, and torch's own
    @staticmethod
    def forward(
        ctx: Any,
        d_own: Tensor,
        d: Tensor,
        row: Tensor,
        temperature: float,
        log_q: Tensor,
        activation: str,
        margin: float,
    ) -> Tensor:
        weight = (-log_q).exp()  # (C,)
        reach = d_own.new_tensor(INF)  # (): candidates beyond it have no part
        if activation == "relu" and len(d_own):
            reach = torch.where(d_own.isfinite(), d_own, -INF).amax() + margin
        low, step = _span(d, temperature, reach)  # (B,), ()
        mass, cells = d_own.new_empty(len(d), NODES), torch.empty_like(d, dtype=torch.int16)  # (B, G), (B, C)
        for rows in row_blocks(d):
            mass[rows], cells[rows] = _masses(d[rows].to(low.dtype), low[rows, None], step, weight)
        place, at, width = _places(d_own - low.index_select(0, row), temperature)  # (H,), (P,), ()
        farther = at[:, None] - step * torch.arange(NODES, device=d.device)  # (P, G): than each node
        power = log_activation(farther / margin, activation) * (margin / temperature)
        highest = power[:, :1].clamp_min(LEAST_LOG)  # (P, 1): the first node is the nearest
        share = (power - highest).exp_()  # (P, G)
        sums = mass @ share.T  # (B, P)
        log_sum = sums.log() + highest.T
        loss = softplus(log_sum)
        cell = place.long().clamp_(1, PLACES - 3)  # (H,)
        around = (row * PLACES + cell)[:, None] + torch.arange(-1, 3, device=d.device)  # (H, 4)
        of_loss, of_slope = _cubic(place - cell)  # (H, 4)
        near = loss.view(-1)[around]  # (H, 4)
        # of a unit of mass at a node, by place
        slope = log_sum.sigmoid_().div_(sums.clamp_min_(TINY))  # (B, P)
        of_own = (of_slope * near).sum(1) / width  # (H,)
        ctx.save_for_backward(weight, step, cells, around, of_loss, of_own, slope, share)
        ctx.dtype = d.dtype
        return (of_loss * near).sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        weight, step, cells, around, of_loss, of_own, slope, share = ctx.saved_tensors
        at_place = torch.zeros_like(slope)  # (B, P)
        at_place.view(-1).index_add_(0, around.flatten(), (gradient[:, None] * of_loss).flatten())
        slopes = weight.new_zeros(len(slope), NODES)  # (B, G): of the last cell, where inf is, 0
        slopes[:, :-1] = at_place.mul_(slope) @ (share.diff(dim=1) / step)
        to_d = torch.empty_like(cells, dtype=ctx.dtype)  # (B, C)
        for rows in row_blocks(cells):
            to_d[rows] = slopes[rows].gather(1, cells[rows].long()).mul_(weight)
        return gradient * of_own, to_d, None, None, None, None, None


# Many arguments: each is a setting of its own
def psl(
    d_own: Tensor,
    row: Tensor,
    d: Tensor,
    log_q: Tensor,
    temperature: float,
    activation: str = "tanh",
    margin: float = 1.0,
) -> Tensor:
    """(H,), (H,), (B, C), log_q (C,) -> (H,): log(1 + sum_c sigma((d_p - d_c) / m)^(m / t) / q_c).

    Pairwise softmax loss, Yang et al. 2024, of margin 1; see losses.psl. With `relu`, sigma(x) = [1 + x]+, it
    is a hinge: candidates farther than d_p + m have no part in it, the others by a power of how far they are
    within. As the margin grows it becomes history_losses.softmax. The sum over all items but the user's other
    own ones is estimated from the candidates: log_q is the log of how many times each was expected to be
    drawn, 0 where they are all items. The power is taken as linear in d_c between NODES nodes over the widest
    row's span, and the loss as cubic in d_p between PLACES places over all own items: at t = .1 and distances
    that span 2 the loss is off by less than 1/1000, the gradient to one candidate by up to 3 % of the
    largest; more where the span is a larger multiple of t. On CPU the same bits each time.
    Raises ValueError unless temperature > 0 and margin > 0, and for an activation that is none of
    losses.ACTIVATIONS.
    """
    check_positive("temperature", temperature)
    check_positive("margin", margin)
    log_activation(d_own[:0], activation)  # refuses it where there are no own items
    own, log_q = wide(d, d_own, log_q)
    each: Tensor = _Psl.apply(own, d, row, temperature, log_q, activation, margin)  # type: ignore[no-untyped-call]
    return each.to(d_own.dtype)


def _span(d: Tensor, temperature: float, reach: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C), () -> (B,), (): each row's nearest candidate, and how far it is from one node to the next.

    As precise as `reach`: the nodes end there.
    """
    if d.numel() == 0:
        return reach.new_zeros(len(d)), torch.ones_like(reach)
    low, high = reach.new_empty(2, len(d))  # (B,)
    for rows in row_blocks(d):
        low[rows], high[rows] = d[rows].amin(1), d[rows].masked_fill(d[rows] == INF, -INF).amax(1)
    low, high = (torch.where(high == -INF, 0, bound) for bound in (low, high))  # a row of nothing
    high = torch.minimum(high, reach)
    return low, (high - low).nan_to_num(0).max().clamp_min(temperature / 10) / (NODES - 2)


def _places(farther: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(H,) -> (H,) in units of places from the first, (P,) the places, and () how far they are apart.

    There are two places more on either side.
    """
    known = torch.where(farther.isfinite(), farther, 0)
    low, high = (known if len(known) else farther.new_zeros(1)).aminmax()
    width = (high - low).clamp_min(temperature / 10) / (PLACES - 5)
    first = low - 2 * width
    return (farther - first) / width, first + width * torch.arange(PLACES, device=farther.device), width


def _cubic(t: Tensor) -> tuple[Tensor, Tensor]:
    """(H,) in 0..1 -> (H, 4), (H, 4): what values at -1, 0, 1, 2 count for one at t, and for its slope.

    Catmull and Rom 1974.
    """
    value = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
    slope = (-1 + 4 * t - 3 * t**2, -10 * t + 9 * t**2, 1 + 8 * t - 9 * t**2, -2 * t + 3 * t**2)
    return torch.stack(value, 1) / 2, torch.stack(slope, 1) / 2


def _masses(d: Tensor, low: Tensor, step: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(R, C) and (C,) -> (R, G), (R, C): the weight at each node, and the node before each candidate.

    A candidate's weight is shared between the nodes on either side, the nearer getting more. inf is past the
    last, and has none.
    """
    scaled = (d - low).div_(step).clamp_max_(NODES - 1)  # (R, C), low (R, 1)
    cells = scaled.long().clamp_min_(0)
    per_cell, beyond = d.new_zeros(2, len(d), NODES)  # (R, G)
    per_cell.scatter_add_(1, cells, weight.expand_as(d))
    beyond.scatter_add_(1, cells, scaled.sub_(cells).mul_(weight))
    per_cell[:, -1] = beyond[:, -1] = 0
    per_cell -= beyond
    per_cell[:, 1:] += beyond[:, :-1]
    return per_cell, cells
