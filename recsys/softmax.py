"""The softmax of whole histories: each of a user's own items against what the user does not have.

Axes: B users of a batch, C candidates, H own items, Q pairs left out, D dimensions.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recsys.sampling import is_asynchronous

PRODUCTS_AT_ONCE = 2**23  # anchors x candidates of a chunk: 32 MiB
TINY = 1e-30  # a sum of no candidate


class Candidates(NamedTuple):
    """What the softmax of a batch sums over.

    `left_out` are pairs that are not in it: ascending places row * C + column (Q,) in (B, C), or where the
    host should not wait for a device (B, C), 0 for these and 1 for the others.
    """

    rows: Tensor  # (C, D) of unit length
    bias: Tensor  # (C,)
    left_out: Tensor


def with_more(among: Candidates, rows: Tensor, bias: Tensor) -> Candidates:
    """The candidates with (M, D) rows and (M,) biases more, which are left out for nobody."""
    left_out, before, more = among.left_out, len(among.rows), len(rows)
    if left_out.is_floating_point():
        left_out = nn.functional.pad(left_out, (0, more), value=1.0)
    else:
        left_out = left_out + left_out // before * more  # rows are that much longer
    return Candidates(torch.cat([among.rows, rows]), torch.cat([among.bias, bias]), left_out)


class _Softmax(torch.autograd.Function):
    """All gradients are computed in the forward pass, so that no (B, C) products are kept."""

    # Many arguments: those of softmax, and torch's own
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        rows: Tensor,
        own: Tensor,
        count: Tensor,
        among: Candidates,
        temperature: float,
    ) -> Tensor:
        total, highest = own.new_zeros(()), among.bias.max()
        # no cosine > 1: exponents stay within 1 / temperature
        shifted = (among.bias - highest).to(anchors.dtype)
        to_anchors, to_rows = torch.empty_like(anchors), torch.zeros_like(rows, dtype=own.dtype)
        to_own = torch.empty_like(own)
        for part, owns in _chunks(count, len(rows), len(own)):
            share = torch.addmm(shifted, anchors[part], rows.T, alpha=1 / temperature).exp_()  # (B, C)
            _leave_out(share, among.left_out, part.start)
            z = share.sum(1, dtype=own.dtype)  # (B,)
            ahead = (z.log() + highest).repeat_interleave(count[part], output_size=owns.stop - owns.start)
            ahead = ahead - own[owns]  # (H,)
            total += softplus(ahead).sum()
            to_own[owns] = -ahead.sigmoid()
            of_anchor = torch.segment_reduce(to_own[owns], "sum", lengths=count[part], unsafe=True)  # (B,)
            scale = (-of_anchor / (z.clamp_min(TINY) * temperature))[:, None]  # (B, 1)
            to_anchors[part] = (share @ rows) * scale
            to_rows += share.T @ (anchors[part] * scale).to(share.dtype)
        ctx.save_for_backward(to_anchors, to_rows, to_own)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        to_anchors, to_rows, to_own = (gradient * part for part in ctx.saved_tensors)
        return to_anchors, to_rows.to(to_anchors.dtype), to_own, None, None, None


def softmax(anchors: Tensor, own: Tensor, count: Tensor, among: Candidates, temperature: float) -> Tensor:
    """(B, D) of unit length, (H,), (B,) -> (): sum over h of log(1 + sum_c exp(l_bc - own_h)), b being h's.

    `own` are the logits of what belongs to each anchor, count[b] of them, one anchor's after the other's, in
    the precision of all sums;
    l_bc = anchor_b . row_c / temperature + bias_c, without the pairs that are left out.
    Raises ValueError unless 1/50 <= temperature: below it single precision runs out.
    """
    if not temperature >= 0.02:
        raise ValueError(f"temperature = {temperature}, allowed >= 0.02")
    return _Softmax.apply(anchors, among.rows, own, count, among, temperature)  # type: ignore[no-any-return, no-untyped-call]


def _chunks(count: Tensor, n_candidates: int, n_own: int) -> Iterator[tuple[slice, slice]]:
    """(B,) -> chunks of the anchors, and of what belongs to them; one chunk where the host would wait."""
    size = max(1, PRODUCTS_AT_ONCE // max(n_candidates, 1))
    if size >= len(count) or is_asynchronous(count.device):
        yield slice(0, len(count)), slice(0, n_own)
        return
    ends = [0, *count.cumsum(0).tolist()]
    for start in range(0, len(count), size):
        end = min(start + size, len(count))
        yield slice(start, end), slice(ends[start], ends[end])


def _leave_out(share: Tensor, left_out: Tensor, first: int) -> None:
    """Set to 0 what is left out of rows `first`, first + 1, ... (B, C)."""
    if left_out.is_floating_point():
        share *= left_out[first : first + len(share)]
        return
    start = first * share.shape[1]
    low, high = torch.searchsorted(
        left_out, torch.tensor([start, start + share.numel()], device=left_out.device)
    ).tolist()
    share.view(-1).index_fill_(0, left_out[low:high] - start, 0)
