"""Batches and negatives, drawn on the device with an explicit generator.

Axes: N interactions, B batch, A anchors, C candidates, S sampled items, U users, I items.
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
    offsets: Tensor  # (U + 1,) int64: rows offsets[u]:offsets[u + 1] are user u's
    n_users: int
    n_items: int


def to_device(interactions: Interactions, device: torch.device) -> DeviceInteractions:
    """Copies the arrays once; nothing else crosses to the device during training."""
    return DeviceInteractions(
        torch.from_numpy(interactions.user).to(device),
        torch.from_numpy(interactions.item).to(device),
        torch.from_numpy(interactions.weight).to(device),
        torch.from_numpy(interactions.offsets()).to(device),
        interactions.n_users,
        interactions.n_items,
    )


def batches(data: DeviceInteractions, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of (users, items), (B,) int64 each, every interaction once, in random order."""
    order = torch.randperm(len(data.user), generator=generator, device=data.user.device)
    for rows in order.split(size):
        yield data.user[rows].long(), data.item[rows].long()


def uniform_items(data: DeviceInteractions, size: int, generator: torch.Generator) -> Tensor:
    """(S,) int64 items, each as likely as any other."""
    return torch.randint(data.n_items, (size,), generator=generator, device=data.user.device)


def known(data: DeviceInteractions, users: Tensor, candidates: Tensor) -> Tensor:
    """(A,), (C,) -> (A, C) bool: does the interaction (user, candidate) exist anywhere in the data?

    Reads the anchors' histories alone: work grows with their length, not with A * C lookups.
    """
    device = users.device
    column = torch.full((data.n_items,), -1, dtype=torch.int64, device=device)  # (I,)
    column[candidates] = torch.arange(len(candidates), device=device)  # a repeated item keeps one column
    start, end = data.offsets[users], data.offsets[users + 1]  # (A,)
    length = end - start
    anchor = torch.repeat_interleave(torch.arange(len(users), device=device), length)  # (H,)
    first = torch.repeat_interleave(start - (length.cumsum(0) - length), length)  # (H,)
    seen = column[data.item[first + torch.arange(len(anchor), device=device)].long()]  # (H,)
    hit = seen >= 0
    mask = torch.zeros(len(users), len(candidates), dtype=torch.bool, device=device)  # (A, C)
    mask[anchor[hit], seen[hit]] = True
    return mask[:, column[candidates]]  # repeated items share their column's answer
