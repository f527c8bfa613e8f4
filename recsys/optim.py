"""Adam over the rows touched by a step, and over whole tables where all rows move.

Axes: N rows of a table, D dimensions, T touched rows with repeats, R different ones.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from recsys import sampling


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1) without momentum, beta_1 = 0, at the cost of the touched rows.

    Without momentum a row without a gradient does not move; only its second moment decays, and that is
    applied when the row is touched again. So this equals torch.optim.Adam(betas=(0, beta)) up to rounding.
    With momentum it would not: a rare row would miss most of the movement that follows its one gradient, as
    in torch.optim.SparseAdam, which learns rare items slowly.
    A group's `project` maps updated rows (R, D), or (R,) of a vector, to where they may be. The same
    gradients give the same bits.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        beta: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        """Raises ValueError unless lr > 0."""
        if not lr > 0:
            raise ValueError(f"lr = {lr}, allowed > 0")
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps, "project": None})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step for each parameter that has a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    _step(table, table.grad, self.state[table], group)


class TableAdam(torch.optim.Adam):
    """torch's Adam for dense gradients, as those of sums over a graph; RowAdam for sparse ones.

    A group's `project` is that of RowAdam, and of sparse gradients alone.
    """

    # Many arguments: each is a setting of its own
    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        beta: float = 0.999,
        fused: bool = False,
    ) -> None:
        """`betas` are Adam's, `beta` is RowAdam's. Raises ValueError unless lr > 0."""
        if not lr > 0:
            raise ValueError(f"lr = {lr}, allowed > 0")
        groups = [{"project": None, "beta": beta} | group for group in params]
        super().__init__(groups, lr, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step for each parameter that has a gradient; sparse gradients are gone after it."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None and table.grad.is_sparse:
                    _step(table, table.grad, self.state[table], group)
                    table.grad = None
        super().step()


def _step(table: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    beta, project = group["beta"], group["project"]
    if not state:
        last = torch.zeros(len(table), dtype=torch.int32, device=table.device)  # (N,): steps so far
        state |= {"step": 0, "square": torch.zeros_like(table), "last": last}
    state["step"] += 1
    if gradient.is_sparse:
        rows, gradient = row_sums(gradient)  # (R,), (R, D)
    else:
        rows = torch.arange(len(table), device=table.device)
    age = (state["step"] - state["last"].index_select(0, rows)).to(table.dtype)  # (R,)
    decay = torch.pow(beta, age).view(-1, *[1] * (table.dim() - 1))  # (R, 1), or (R,) of a vector
    square = state["square"].index_select(0, rows).mul_(decay)
    square.addcmul_(gradient, gradient, value=1 - beta)
    correction = (1 - beta ** state["step"]) ** 0.5  # of bias: of lr and eps in place of each second moment
    size = square.sqrt().add_(correction * group["eps"])
    value = table.index_select(0, rows).addcdiv_(gradient, size, value=-correction * group["lr"])
    table.index_copy_(0, rows, value if project is None else project(value))
    state["square"].index_copy_(0, rows, square)
    state["last"].index_fill_(0, rows, state["step"])


def row_sums(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Sparse (N, D) or (N,), T entries -> row numbers (R,) and each row's sum (R, D) or (R,).

    On CPU, R is the number of different rows. On an asynchronous device R = T, so that the host need not
    wait for that number: copies of the last row fill the rest, and writing them again changes nothing.
    Sums are taken in the order of the entries, so the same input gives the same bits.
    """
    number, values = gradient._indices()[0], gradient._values()  # (T,), (T, D)
    if len(number) == 0:
        return number, values
    ascending, order = _sorted(number)  # (T,)
    place = (ascending.diff(prepend=ascending[:1]) != 0).cumsum(0)  # (T,): 0 to R - 1
    last = place[-1]
    behind = sampling.is_asynchronous(number.device)
    n = len(number) if behind else int(last) + 1
    start = torch.searchsorted(place, torch.arange(n + 1, device=number.device))  # (R + 1,)
    flat = values.view(len(number), -1)  # (T, D), or (T, 1) of a vector
    sums = embedding_bag(order, flat, start, mode="sum", include_last_offset=True)  # (R, D)
    if behind:
        filled = torch.arange(n, device=number.device).minimum(last)  # (R,)
        start, sums = start[filled], sums[filled]
    return ascending[start[:n]], sums.view(n, *values.shape[1:])


def _sorted(number: Tensor) -> tuple[Tensor, Tensor]:
    """(T,) int64 >= 0 -> (T,), (T,): ascending, and where each was; equal ones in their order.

    On CPU each number is packed with its place, which NumPy sorts several times as fast.
    """
    if number.device.type != "cpu":
        ascending, order = number.sort(stable=True)
        return ascending, order
    bits = len(number).bit_length()
    key = (number << bits).add_(torch.arange(len(number)))  # (T,)
    key = torch.from_numpy(np.sort(key.numpy()))
    return key >> bits, key & ((1 << bits) - 1)
