"""What is known about items beside who took them, and the rows that place an item by it.

z(item) = length * unit(W' x) + kept * id: x are the item's features, W is learned, id is the item's own row.
Items without interactions have no id. In each step a share of the others goes without theirs, and without
their edges, as if nobody had them yet: so W learns to place an item alone. (DropoutNet, Volkovs et al. 2017,
drops the same inputs of a given factorisation.)
Axes: I items, F features, L entries, D dimensions.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys import baselines
from recsys.graph import Matrix, matrix, multiply
from recsys.sampling import DeviceInteractions
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
    dropout: float = 0.5  # share of the entries that are left out in a step


class Content(NamedTuple):
    """Features of all items of the data, in its order."""

    features: Features
    settings: ContentSettings = ContentSettings()


class ContentRows(nn.Module):
    """Rows of items from their features and their own rows."""

    def __init__(self, content: Content, data: DeviceInteractions, dim: int, seed: int = 0) -> None:
        """W starts at the leading directions of the features of items with interactions.

        Raises ValueError: not as many rows as items, no feature of an item with interactions, a value that is
        not finite, a column out of range, settings out of range.
        """
        super().__init__()
        known = baselines.popularity(data) > 0  # (I,)
        _check(content, known.cpu().numpy())
        features, self.settings = content
        device = data.user.device
        offsets = torch.from_numpy(features.offsets).to(device)
        row = torch.arange(data.n_items, device=device).repeat_interleave(offsets.diff())  # (L,)
        column = torch.from_numpy(features.columns).to(device, torch.int64)
        value = torch.from_numpy(features.values).to(device)
        shape = data.n_items, features.n_features
        self._matrix = matrix(row, column, value, *shape)
        self._order = column.sort(stable=True).indices  # (L,): from row by row to column by column
        self.known_items = known.nonzero()[:, 0]  # those that somebody has: candidates of a step
        self._known = known.float()  # (I,)
        mine = known[row]
        directions = _directions(matrix(row[mine], column[mine], value[mine], *shape), shape, dim, seed)
        self.weight = nn.Parameter(directions)  # (F, D)

    def forward(self, items: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(I, D) own rows -> (I, D) rows, and (I,): 1 for items with their own row and their edges, else 0.

        With a generator some of them go without, and some features are left out: a step of training.
        """
        kept, bags = self._known, self._matrix
        if generator is not None:
            of_items, of_features = (
                torch.rand(n, generator=generator, device=items.device) for n in (len(kept), len(self._order))
            )
            kept = kept * (of_items >= self.settings.cold_share)
            some = (of_features >= self.settings.dropout).float()  # rows are made equally long below
            rows, columns = bags
            bags = Matrix(
                rows._replace(value=rows.value * some),
                columns._replace(value=columns.value * some[self._order]),
            )
        content = self.settings.length * unit_rows(multiply(bags, self.weight))  # (I, D)
        return torch.addcmul(content, kept[:, None], items), kept


@torch.no_grad()
def place(features: Features, weight: Tensor) -> Tensor:
    """Features (C, F) and W (F, D) -> (C, D) points of length 1, of 0 where no feature is known.

    Where the rows of a trained space put items that nobody has. Raises ValueError: other features than W has.
    """
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
    return unit_rows(sums)


def likeness(features: Features, data: DeviceInteractions, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """W (F, D) and users (U, D) of a space without training: a user is near to what is like their items.

    Features are those of the data's items, (I, F), alone; W are their leading directions, so that cosines of
    rows are nearly those of features. A user is the mean of their items' rows, of length 1.
    """
    device = data.user.device
    row = torch.from_numpy(np.repeat(np.arange(data.n_items), np.diff(features.offsets))).to(device)
    column = torch.from_numpy(features.columns).to(device, torch.int64)
    shape = data.n_items, features.n_features
    bags = matrix(row, column, torch.from_numpy(features.values).to(device), *shape)
    weight = _directions(bags, shape, dim, seed)
    items = place(features, weight)  # (I, D)
    sums = nn.functional.embedding_bag(
        data.item.long(), items, data.offsets, mode="sum", include_last_offset=True
    )
    return weight, unit_rows(sums)


def _check(content: Content, known: NDArray[np.bool_]) -> None:
    features, settings = content
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
