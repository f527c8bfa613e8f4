"""Batches and negatives, drawn on the device with an explicit generator.

Axes: N interactions, B batch, A anchors, C candidates, H items of their histories, S sampled items,
U users, I items.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.interactions import Interactions


class DeviceInteractions(NamedTuple):
    """Interactions as tensors on one device; rows sorted by user, then item."""

    user: Tensor  # (N,) int32
    item: Tensor  # (N,) int32
    weight: Tensor  # (N,) float32
    time: Tensor  # (N,) int64 seconds since 1970, of the last event
    offsets: Tensor  # (U + 1,) int64: rows offsets[u]:offsets[u + 1] are user u's
    n_users: int
    n_items: int


def to_device(interactions: Interactions, device: torch.device) -> DeviceInteractions:
    """Copies the arrays once; nothing else crosses to the device during training."""
    return DeviceInteractions(
        torch.tensor(interactions.user, device=device),
        torch.tensor(interactions.item, device=device),
        torch.tensor(interactions.weight, device=device),
        torch.tensor(interactions.time, device=device),
        torch.tensor(interactions.offsets(), device=device),
        interactions.n_users,
        interactions.n_items,
    )


def batches(
    data: DeviceInteractions, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch of (users, items, rows of the data), (B,) int64 each, every row once, in random order."""
    order = torch.randperm(len(data.user), generator=generator, device=data.user.device)
    for rows in torch.split(order, size):
        yield data.user[rows].long(), data.item[rows].long(), rows


def uniform_items(data: DeviceInteractions, size: int, generator: torch.Generator) -> Tensor:
    """(S,) int64 items, each as likely as any other."""
    return torch.randint(data.n_items, (size,), generator=generator, device=data.user.device)


def histories(data: DeviceInteractions, users: Tensor) -> tuple[Tensor, Tensor]:
    """(A,) users -> (H,), (H,) int64: every item of every users[row], as row and item, in order."""
    start = data.offsets[users]  # (A,)
    length = data.offsets[users + 1] - start  # (A,)
    row = torch.repeat_interleave(length)  # (H,): 0, length[0] times, then 1 ...
    shift = start - (length.cumsum(0) - length)  # (A,): from a place in the answer to its place in the data
    place = torch.arange(len(row), device=users.device)
    return row, data.item[shift[row] + place].long()


def known(data: DeviceInteractions, users: Tensor, candidates: Tensor) -> Tensor:
    """(A,), (C,) -> (A, C) bool: does the interaction (user, candidate) exist anywhere in the data?

    Reads the anchors' histories alone: work grows with their length, not with A * C lookups.
    """
    n = len(candidates)
    column = torch.full((data.n_items,), n, device=users.device)  # (I,): n for an item that is no candidate
    column[candidates] = torch.arange(n, device=users.device)  # a repeated item keeps one column
    row, item = histories(data, users)  # (H,)
    mask = torch.zeros(n + 1, len(users), dtype=torch.bool, device=users.device)  # (C + 1, A)
    mask[column[item], row] = True
    return mask[column[candidates]].T  # whole rows, which is cheaper than columns; repeats share theirs
