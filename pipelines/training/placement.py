"""Where a fitted model puts an item that nobody has, in the coordinates that it serves; kept beside the run.

So a catalogue that changes needs no training: features and a few numbers of each space place new items.
Axes: I fitted items, C new items, F features, D dimensions of a space, S coordinates served.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.config.errors import InputError
from pipelines.training.model import NEW, Part
from recsys import spaces
from recsys.content import ContentMap, Features, place
from recsys.files import write_text
from recsys.spaces import Nowhere, Space

FILE = "placement.json"  # of a run


class PlacedPart(NamedTuple):
    """A space of the model, and where it has an item of which it knows nothing."""

    name: str
    scale: float  # of its squared distances
    unknown: Nowhere


class Placement(NamedTuple):
    """All spaces of a model, in the order of their coordinates."""

    parts: tuple[PlacedPart, ...]
    lowest: float  # offset of the joined space that is served as 0


def of(parts: Sequence[Part], made: Sequence[Space], n_items: int) -> Placement:
    """The placement of a model whose spaces have I fitted items, and new ones after them."""
    found = []
    for part, space in zip(parts, made, strict=True):
        known = space._replace(items=space.items[:n_items], offset=space.offset[:n_items])
        unknown = spaces.nowhere(known)
        if part.kind == NEW:  # the same for all new items, and 0 for fitted ones
            away = -1.0 if part.settings["nearer"] else 1.0
            unknown = unknown._replace(offset=away, farthest=away)
        elif part.for_new:  # at a right angle to all, as fitted items are, unless something is known
            unknown = Nowhere(torch.zeros_like(unknown.point), float(space.offset[0]), 0.0)
        found.append(PlacedPart(part.name, part.scale, unknown))
    offset = sum((part.scale * space.offset for part, space in zip(parts, made, strict=True)), start=0.0)
    return Placement(tuple(found), float(torch.as_tensor(offset).min()))


def vectors(placement: Placement, maps: Mapping[str, ContentMap], features: Features) -> NDArray[np.float32]:
    """Features (C, F) -> (C, S) as served, by the maps of the spaces that learned from features.

    An item without a known feature is nowhere in all of them. A model fitted without new items may serve one
    as near as its nearest offset at most.
    """
    n = len(features.offsets) - 1
    total, coordinates = torch.zeros(n), list[Tensor]()
    for part in placement.parts:
        points = place(features, maps[part.name]) if part.name in maps else None
        items, offset = spaces.place(points, n, part.unknown)
        coordinates.append(part.scale**0.5 * items)
        total += part.scale * offset
    height = (total - placement.lowest).clamp_min(0).sqrt()
    return torch.cat([*coordinates, height[:, None]], 1).numpy()


def save(folder: Path, placement: Placement) -> None:
    """Write the placement into a run's folder."""
    parts = [
        {
            "name": part.name,
            "scale": part.scale,
            "point": part.unknown.point.tolist(),
            "offset": part.unknown.offset,
            "farthest": part.unknown.farthest,
        }
        for part in placement.parts
    ]
    write_text(folder / FILE, json.dumps({"lowest": placement.lowest, "parts": parts}))


def load(folder: Path) -> Placement:
    """Read what `save` wrote. Raises InputError: the run has none, or a damaged one."""
    path = folder / FILE
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        parts = tuple(
            PlacedPart(
                part["name"],
                float(part["scale"]),
                Nowhere(torch.tensor(part["point"]), float(part["offset"]), float(part["farthest"])),
            )
            for part in held["parts"]
        )
        return Placement(parts, float(held["lowest"]))
    except FileNotFoundError:
        raise InputError(
            f"run '{folder}' places no new items: train again with items.place_new = true"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is damaged: {error}") from None
