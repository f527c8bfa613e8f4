"""Batches and negatives, drawn on the device with an explicit generator.

Axes: N interactions or labelled rows, B batch, A anchors, C candidates, H items of their histories,
F and G those that are candidates, Q known pairs, S sampled items, U users, V different users, I items,
R ranges of W numbers, P classes of a batch, K rows of each, L labels, T triplets, M mined negatives of an
interaction.
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
    first_seen: Tensor | None  # (I,) int64 seconds since 1970: on sale from here; None: always
    last_seen: Tensor | None  # (I,) int64 seconds: to here, this second included; None: always
    n_users: int
    n_items: int


def to_device(interactions: Interactions, device: torch.device) -> DeviceInteractions:
    """Copies the arrays once; nothing else crosses to the device during training."""
    first_seen, last_seen = interactions.spans()
    return DeviceInteractions(
        torch.tensor(interactions.user, device=device),
        torch.tensor(interactions.item, device=device),
        torch.tensor(interactions.weight, device=device),
        torch.tensor(interactions.time, device=device),
        torch.tensor(interactions.offsets(), device=device),
        torch.tensor(first_seen, device=device),
        torch.tensor(last_seen, device=device),
        interactions.n_users,
        interactions.n_items,
    )


class Batch(NamedTuple):
    """Interactions that are learned from at once."""

    users: Tensor  # (B,) int64
    items: Tensor  # (B,) int64
    rows: Tensor  # (B,) int64, of the data
    entries: int | None  # of the histories of all `users`; None on CPU, where one may ask when it matters


def is_asynchronous(device: torch.device) -> bool:
    """Whether the host must wait for the device to know a value, or a shape that depends on values."""
    return device.type != "cpu"


def batches(
    data: DeviceInteractions, size: int, generator: torch.Generator, weights: Tensor | None = None
) -> Iterator[Batch]:
    """One epoch in random order.

    Every row once; with `weights` (N,), as from balance(), N draws with replacement in proportion to them.
    Raises ValueError unless weights are N, finite, >= 0 and not all 0.
    """
    n, device = len(data.user), data.user.device
    if weights is None:
        order = torch.randperm(n, generator=generator, device=device)  # (N,)
    else:
        order = _draw(_units(weights, n).cumsum(0), n, generator)  # (N,)
    parts = torch.split(order, size)
    entries = history_entries(data, order, size) if is_asynchronous(device) else [None] * len(parts)
    for rows, total in zip(parts, entries, strict=True):
        users, items = (of.index_select(0, rows).long() for of in (data.user, data.item))  # (B,)
        yield Batch(users, items, rows, total)


def history_entries(data: DeviceInteractions, order: Tensor, size: int) -> list[int]:
    """(N,) rows, `size` a batch -> the interactions of each batch's users: what histories() asks of the host.

    The host waits once for all.
    """
    length = data.offsets.diff().index_select(0, data.user.index_select(0, order))  # (N,)
    starts = torch.arange(0, len(order), size, device=order.device)
    ends = (starts + size).clamp_max(len(order))
    up_to = torch.nn.functional.pad(length.cumsum(0), (1, 0))  # (N + 1,)
    return (up_to.index_select(0, ends) - up_to.index_select(0, starts)).tolist()


def balance(data: DeviceInteractions, user_power: float, item_power: float) -> Tensor:
    """(N,) float64: user_count^-user_power * item_count^-item_power, weights for batches().

    A few users and items fill most of a log. At power 0 they do so in the epochs too; at user_power = 1
    (item_power = 0) all users come up alike, and the other way round all items: heavy users and the head are
    under-sampled, light users and the tail over-sampled. Counts are interactions.
    Raises ValueError unless both powers are in 0..1.
    """
    user_count = data.offsets.diff()[data.user].double()  # (N,)
    item_count = _item_counts(data)[data.item].double()  # (N,)
    by_user = user_count.pow(-_fraction("user_power", user_power))
    return by_user * item_count.pow(-_fraction("item_power", item_power))


def labelled_batches(
    labels: Tensor, classes: int, per_class: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """(N,) int64 labels -> one epoch of (P * K,) int64 row numbers: K rows of P classes, class by class.

    Hermans, Beyer and Leibe 2017, section 2. Each class comes at most once: a random order of the classes,
    P at a time, a last smaller group left out. The K rows are distinct where a class has as many; where it
    has fewer they are drawn with replacement.
    Raises ValueError unless P and K are >= 2 (a batch needs negatives and positives) and there are P classes.
    """
    for name, value in (("classes", classes), ("per_class", per_class)):
        if value < 2:
            raise ValueError(f"{name} = {value}, allowed >= 2")
    names, label, count = torch.unique(labels, return_inverse=True, return_counts=True)  # (L,), (N,), (L,)
    if len(names) < classes:
        raise ValueError(f"classes = {classes}, allowed <= {len(names)}, the number of different labels")
    shuffled = torch.randperm(len(labels), generator=generator, device=labels.device)  # (N,)
    rows = shuffled[label[shuffled].argsort(stable=True)]  # (N,): class by class, in random order within
    start = count.cumsum(0) - count  # (L,)
    order = torch.randperm(len(names), generator=generator, device=labels.device)  # (L,)
    first = torch.arange(per_class, device=labels.device)  # (K,)
    for group in order[: len(order) // classes * classes].view(-1, classes):  # (P,)
        size = count[group][:, None]  # (P, 1)
        uniform = torch.rand(classes, per_class, generator=generator, device=labels.device)  # (P, K)
        place = torch.where(size >= per_class, first, (uniform * size).long())  # (P, K)
        yield rows[start[group][:, None] + place].flatten()


def uniform_items(
    data: DeviceInteractions, size: int, generator: torch.Generator, only: Tensor | None = None
) -> Tensor:
    """(S,) int64 items, each as likely as any other; of the items `only`, if they are given."""
    n = data.n_items if only is None else len(only)
    drawn = torch.randint(n, (size,), generator=generator, device=data.user.device)
    return drawn if only is None else only.index_select(0, drawn)


def histories(data: DeviceInteractions, users: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """(A,) users -> (H,), (H,) int64: every item of every users[row], as row and item, in order.

    With `total`, H, the host need not wait for the device to learn it.
    """
    start = data.offsets[users]  # (A,)
    row, place = ranges(start, data.offsets[users + 1] - start, total)  # (H,)
    return row, data.item.index_select(0, place).long()


def ranges(start: Tensor, length: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """(R,), (R,) -> (W,), (W,): r and the numbers start[r], start[r] + 1 ... of every range, in order."""
    row = torch.repeat_interleave(length, output_size=total)  # (W,): 0, length[0] times, then 1 ...
    shift = start - (length.cumsum(0) - length)  # (R,): from a place in the answer to its number
    # index_select is several times as fast as indexing on CPU, and histories are long
    return row, shift.index_select(0, row) + torch.arange(len(row), device=row.device)


class CandidateSampler:
    """Candidates that a whole batch shares, and how often each item is one of them.

    Items of the batch and of those before come as often as they are taken, uniform ones reach everywhere, and
    popular ones lie between. The memory is XBM's (Wang et al. 2020, section 3.2), but keeps numbers in place
    of embeddings: their rows are looked up afresh, so nothing in it goes stale.
    """

    # Many arguments: each is a setting of its own
    def __init__(
        self,
        data: DeviceInteractions,
        *,
        in_batch: int,
        uniform: int,
        popular: int,
        popularity_power: float,
        memory: int,
        weights: Tensor | None = None,
        only: Tensor | None = None,
    ) -> None:
        """Set how many of each kind; popular ones in proportion to count^popularity_power (word2vec: .75).

        weights: those that batches() draws with, if any, as they say how often an item is in a batch.
        only: (S,) int64 items that may be drawn, in place of all.
        Raises ValueError if a number is below 0, all are 0, the power is not in 0..1, or for bad weights.
        """
        numbers = {"in_batch": in_batch, "uniform": uniform, "popular": popular, "memory": memory}
        for name, number in numbers.items():
            if number < 0:
                raise ValueError(f"{name} = {number}, allowed >= 0")
        if not any(numbers.values()):
            raise ValueError(
                f"{' = '.join(numbers)} = 0, allowed: one of them > 0, or there is nothing to draw"
            )
        power = _fraction("popularity_power", popularity_power)
        self._data, self._in_batch, self._uniform = data, in_batch, uniform
        self._popular, self._memory = popular, memory
        self.recent = data.item.new_empty(0, dtype=torch.int64)  # (up to memory,), the newest last

        self._only = only
        allowed = torch.ones(data.n_items, dtype=torch.float64, device=data.item.device)  # (I,)
        if only is not None:
            allowed = torch.zeros_like(allowed).index_fill(0, only, 1.0)
        popularity = _units(allowed * _item_counts(data).double().pow(power), data.n_items)  # (I,)
        self._cumulative = popularity.cumsum(0)  # (I,)
        if weights is None:
            taken = _item_counts(data)  # (I,)
        else:
            taken = torch.zeros_like(popularity).index_add_(0, data.item, _units(weights, len(data.item)))
        expected = (in_batch + memory) * (taken.double() / taken.sum())  # (I,)
        expected += popular * (popularity.double() / popularity.sum()) + allowed * (uniform / allowed.sum())
        rarest = torch.where(expected > 0, expected, torch.inf).min()
        self._log_q = expected.clamp_min(rarest).log().float()  # (I,)

    def draw(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) int64 items of a batch -> (C,) int64: the first of them, uniform, popular and recent ones.

        Batches are shuffled, so the first are as good as any. Recent are the `memory` last items of earlier
        draws' batches, as many as there have been; `own` joins them for the next draw. Items may repeat.
        """
        drawn = torch.cat(
            [
                own[: self._in_batch],
                uniform_items(self._data, self._uniform, generator, self._only),
                _draw(self._cumulative, self._popular, generator),
                self.recent,
            ]
        )  # (C,)
        recent = torch.cat([self.recent, own])
        self.recent = recent[max(0, len(recent) - self._memory) :]
        return drawn

    def log_q(self, items: Tensor) -> Tensor:
        """(S,) int64 -> (S,) float32: log of how many times an item is expected among a draw's candidates.

        The draw has a batch of at least `in_batch` rows and a full memory. An item that cannot be drawn gets
        the value of the rarest that can: it is finite, and no candidate asks for it.
        """
        return self._log_q[items]


def _item_counts(data: DeviceInteractions) -> Tensor:
    """(I,) int64: interactions of each item."""
    return torch.bincount(data.item, minlength=data.n_items)


def _units(weights: Tensor, n: int) -> Tensor:
    """Scale weights (N,) to whole numbers (N,) int64 that add up to about 2^52.

    Whole numbers add up to the same bits in any order, which floats on a GPU do not. 2^52 is as fine as the
    float64 that draws from their sums; torch.multinomial takes no more than 2^24 weights.
    """
    if weights.shape != (n,):
        raise ValueError(f"weights are {list(weights.shape)}, expected [{n}]")
    weights = weights.double()
    total = weights.sum()
    if not ((weights >= 0).all() and 0 < total < torch.inf):
        low, high = weights.min(), weights.max()
        raise ValueError(f"weights span {low}..{high}, allowed finite, >= 0 and not all 0")
    return (weights / total * 2.0**52).round().long()


def _draw(cumulative: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(N,) int64 running totals of _units -> (S,) int64 in 0..N-1, with replacement, in proportion."""
    uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=cumulative.device)  # (S,)
    # Below 2^53 the product never rounds up to the total itself, so that no draw passes the last item.
    unit = (uniform * cumulative[-1]).long()
    return torch.searchsorted(cumulative, unit, right=True)  # items of weight 0 fill no unit


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}, allowed 0..1")
    return value
