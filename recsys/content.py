"""What is known about items beside who took them, and the rows that place an item by it.

z(item) = length * unit(W' x) + kept * id: x are the item's features, W is learned, id is the item's own row.
Items without interactions have no id. In each step a share of the others goes without theirs, and on a graph
without their edges, as if nobody had them yet: so W learns to place an item alone. (DropoutNet, Volkovs et
al. 2017, drops the same inputs of a given factorisation.)
Axes: I items, N of them, F features, L entries, V of them values that items share, D and E dimensions.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys import baselines
from recsys.graph import Matrix, matrix, multiply
from recsys.sampling import DeviceInteractions, is_asynchronous
from recsys.spaces import unit_rows


class Features(NamedTuple):
    """A sparse matrix (I, F), row by row; an item about which nothing is known has an empty row."""

    offsets: NDArray[np.int64]  # (I + 1,): row i's entries are columns[offsets[i] : offsets[i + 1]]
    columns: NDArray[np.int32]  # (L,)
    values: NDArray[np.float32]  # (L,)
    n_features: int


class ContentSettings(NamedTuple):
    """How items are placed by their features."""

    length: float = 0.1  # of an item's content row; its own row starts at 0
    cold_share: float = 0.2  # share of the items that go without their own row and edges in a step
    dropout: float = 0.5  # share of the features that are left out in a step


class Content(NamedTuple):
    """Features of all items of the data, in its order."""

    features: Features
    settings: ContentSettings = ContentSettings()
    values: NDArray[np.bool_] | None = None  # (F,) columns that items share, for attribute_loss; None: all


class Drawn(NamedTuple):
    """What takes part in a step of training."""

    kept: Tensor  # (I,): 0 for items that go without their own row and their edges
    features: Tensor | None = None  # (F, 1): 0 for those that are left out; None: none is


class ContentRows(nn.Module):
    """Rows of items from their features and their own rows."""

    # Many arguments: all but the first two have a default.
    def __init__(
        self,
        content: Content,
        data: DeviceInteractions,
        dim: int,
        seed: int = 0,
        learn_length: bool = False,
    ) -> None:
        """W starts at the leading directions of the features of items with interactions.

        Raises ValueError: not as many rows as items, no feature of an item with interactions, a value that is
        not finite, a column out of range, settings out of range.
        """
        super().__init__()
        known = baselines.popularity(data) > 0  # (I,)
        _check(content, known.cpu().numpy())
        features, self.settings, values = content
        device = data.user.device
        self._offsets = torch.from_numpy(features.offsets).to(device)
        row = torch.arange(data.n_items, device=device).repeat_interleave(self._offsets.diff())  # (L,)
        column = torch.from_numpy(features.columns).to(device, torch.int64)
        value = torch.from_numpy(features.values).to(device)
        shape = data.n_items, features.n_features
        self._matrix = matrix(row, column, value, *shape)
        self.known_items = known.nonzero()[:, 0]  # those that somebody has: candidates of a step
        self.everything = Drawn(known.float())  # outside training
        self.length = nn.Parameter(
            torch.full((1,), self.settings.length, device=device), requires_grad=learn_length
        )
        mine = known[row]
        valued = mine if values is None else mine & torch.from_numpy(values).to(device)[column]
        by_value = column[valued].sort(stable=True)
        self._values = by_value.values, row[valued][by_value.indices]  # (V,) columns, items; both ascending
        directions = _directions(matrix(row[mine], column[mine], value[mine], *shape), shape, dim, seed)
        self.weight = nn.Parameter(directions)  # (F, D)

    def draw(self, generator: torch.Generator) -> Drawn:
        """Which items go without their own row, and which features are left out, in a step of training."""
        of_items, of_features = (
            torch.rand(n, generator=generator, device=self.weight.device)
            for n in (len(self.everything.kept), len(self.weight))
        )
        kept = self.everything.kept * (of_items >= self.settings.cold_share)
        return Drawn(kept, self._some_features(of_features))

    def view(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """(N,) item numbers -> (N, D): rows of content alone, without a share of the features."""
        of_features = torch.rand(len(self.weight), generator=generator, device=self.weight.device)
        drawn = Drawn(self.everything.kept, self._some_features(of_features))
        return self.some(self.weight.new_zeros(len(numbers), self.weight.shape[1]), numbers, drawn)

    def _some_features(self, draw: Tensor) -> Tensor:
        return (draw >= self.settings.dropout).float()[:, None]  # (F, 1)

    def forward(self, items: Tensor, drawn: Drawn) -> Tensor:
        """(I, D) own rows -> (I, D) rows of all items."""
        weight = self.weight if drawn.features is None else self.weight * drawn.features
        content = self.length * unit_rows(multiply(self._matrix, weight))  # (I, D)
        return torch.addcmul(content, drawn.kept[:, None], items)

    @property
    def has_values(self) -> bool:
        """Whether two items with users share a value."""
        value = self._values[0]
        return bool((value[1:] == value[:-1]).any())

    def items_of_a_value(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(3, N) items and (N,) 1 or 0: whether the second shares a value with the first, and the third not.

        All have users. Of an item's values each is as likely, and so is each of the items that have it.
        """
        value, item = self._values  # (V,), (V,)
        draw = torch.rand(3, n, generator=generator, device=item.device, dtype=torch.float64)
        first = (draw[0] * len(item)).long()  # (N,)
        lows, highs = (torch.searchsorted(value, value[first], right=right) for right in (False, True))
        second = lows + (draw[1] * (highs - lows)).long()
        other = self.known_items[(draw[2] * len(self.known_items)).long()]
        n_items = len(self._offsets) - 1
        places, wanted = value * n_items + item, value[first] * n_items + other
        at = torch.searchsorted(places, wanted).clamp_max(len(places) - 1)
        found = torch.stack([item[first], item[second], other])
        return found, ((found[0] != found[1]) & (places[at] != wanted)).float()

    def some(self, own: Tensor, numbers: Tensor, drawn: Drawn) -> Tensor:
        """(N, D) own rows, (N,) item numbers -> (N, D): their rows alone."""
        if is_asynchronous(numbers.device):  # which would wait for the number of their entries
            nothing = self.weight.new_zeros(len(self._offsets) - 1, self.weight.shape[1])
            of_some = self.forward(nothing, drawn).index_select(0, numbers)
            return torch.addcmul(of_some, drawn.kept[numbers, None], own)
        start, count = self._offsets[numbers], self._offsets.diff()[numbers]  # (N,)
        ends = nn.functional.pad(count.cumsum(0), (1, 0))  # (N + 1,)
        place = torch.arange(int(ends[-1]), device=numbers.device)
        place += (start - ends[:-1]).repeat_interleave(count)
        bags = self._matrix.rows
        column, value = bags.column[place].long(), bags.value[place]
        if drawn.features is not None:
            value = value * drawn.features[column, 0]
        sums = nn.functional.embedding_bag(
            column,
            self.weight,
            ends,
            mode="sum",
            sparse=True,
            per_sample_weights=value,
            include_last_offset=True,
        )
        return torch.addcmul(self.length * unit_rows(sums), drawn.kept[numbers, None], own)


class ContentMap(NamedTuple):
    """Where a space has an item that is known by its features x alone: unit(x W) A."""

    weight: Tensor  # W (F, D)
    axes: Tensor | None = None  # A (D, E): row d is where unit vector d goes; None: the identity, of cosines


@torch.no_grad()
def place(features: Features, by: ContentMap) -> Tensor:
    """Features (C, F) -> (C, E) points, at the origin where no feature is known.

    Where a trained space puts items that nobody has. Raises ValueError: other features than W has.
    """
    weight = by.weight
    if features.n_features != len(weight):
        raise ValueError(f"features have {features.n_features} columns, allowed {len(weight)}, as W has rows")
    columns, offsets, values = (
        torch.from_numpy(part).to(weight.device, dtype)
        for part, dtype in (
            (features.columns, torch.int64),
            (features.offsets, torch.int64),
            (features.values, weight.dtype),
        )
    )
    sums = nn.functional.embedding_bag(
        columns, weight, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
    )
    rows = unit_rows(sums)
    return rows if by.axes is None else rows @ by.axes


def likeness(
    features: Features, data: DeviceInteractions, dim: int, seed: int = 0
) -> tuple[ContentMap, Tensor]:
    """The map and users (U, D) of a space without training: a user is near to what is like their items.

    A user is the mean of their items' rows, of length 1.
    """
    found = likeness_map(features, data, dim, seed)
    items = place(features, found)  # (I, D)
    sums = nn.functional.embedding_bag(
        data.item.long(), items, data.offsets, mode="sum", include_last_offset=True
    )
    return found, unit_rows(sums)


def likeness_map(features: Features, data: DeviceInteractions, dim: int, seed: int = 0) -> ContentMap:
    """The map of features of the data's items (I, F) whose rows have nearly the features' cosines.

    Its W are their leading directions.
    """
    device = data.user.device
    row = torch.from_numpy(np.repeat(np.arange(data.n_items), np.diff(features.offsets))).to(device)
    column = torch.from_numpy(features.columns).to(device, torch.int64)
    shape = data.n_items, features.n_features
    bags = matrix(row, column, torch.from_numpy(features.values).to(device), *shape)
    return ContentMap(_directions(bags, shape, dim, seed))


def _check(content: Content, known: NDArray[np.bool_]) -> None:
    features, settings, _ = content
    offsets, columns, values, n_features = features
    if len(offsets) != len(known) + 1:
        raise ValueError(f"features have {len(offsets) - 1} rows, allowed {len(known)}: one an item")
    sizes = {"columns": len(columns), "values": len(values)}
    for name, size in sizes.items():
        if offsets[0] != 0 or (np.diff(offsets) < 0).any() or size != offsets[-1]:
            raise ValueError(f"features have {size} {name}, offsets rise from {offsets[0]} to {offsets[-1]}")
    outside = np.flatnonzero((columns < 0) | (columns >= n_features))
    if len(outside):
        raise ValueError(f"columns[{outside[0]}] = {columns[outside[0]]}, allowed 0..{n_features - 1}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"values[{bad[0]}] = {values[bad[0]]}, allowed finite values")
    if not np.diff(offsets)[known].any():  # rows and users start at 0: nothing would ever move
        raise ValueError(f"{known.sum()} items with interactions have no feature, allowed: some have one")
    if not settings.length > 0:
        raise ValueError(f"length = {settings.length}, allowed > 0")
    for name in ("cold_share", "dropout"):
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} = {value}, allowed 0 <= {name} < 1")


def _directions(sparse: Matrix, shape: tuple[int, int], dim: int, seed: int) -> Tensor:
    """(I, F) -> (F, D): its leading right singular vectors; 0 beyond as many as there are."""
    back = Matrix(sparse.columns, sparse.rows)
    generator = torch.Generator(sparse.rows.value.device).manual_seed(seed)
    found = baselines.leading_directions(
        lambda rows: multiply(sparse, rows),
        lambda rows: multiply(back, rows),
        shape,
        min(dim, *shape),
        generator,
    )
    return nn.functional.pad(found, (0, dim - found.shape[1]))
