"""The model as it is served: trained and untrained spaces side by side, and the file that holds them.

Axes: U users, I items, D dimensions.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data.content import ItemContent
from recsys import baselines, spaces
from recsys.content import ContentMap, likeness, place
from recsys.distances import squared_euclidean
from recsys.files import sha256
from recsys.sampling import DeviceInteractions
from recsys.spaces import Space, Vectors
from recsys.training import Spectrum, Training

WEIGHTS, CHOICE = "model.pt", "choice.json"
WEIGHT, AXES = "content", "axes"  # endings of the names of a content map's tensors
SECONDS_PER_DAY = 86_400
SPREAD_USERS, SPREAD_ITEMS = 100, 100_000  # at most twice as many, taken evenly
FEW = 30  # new items, whose own spread is chance
TRAINED = ("graph", "metric")
SIMILAR = "similar"  # name of the weights by which likeness of any two items is served
NEW, LIKENESS = "new", "likeness"  # kinds that shift new items, and that rank them without training


class Part(NamedTuple):
    """One space of the model: how it is made, and how much it counts."""

    name: str
    kind: str  # graph, metric, spectral, trend, rarity, likeness, new
    weight: float  # at 1 it spreads the items as far as the first part does
    settings: dict[str, Any]  # of recsys.Settings; of the spectrum and the trend their own
    cycles: tuple[int, ...] = ()  # steps of each epoch; 0: a pass over the data
    hardest_until: int | None = None  # epochs before semi_hard replaced a miner that collapsed
    scale: float = 1.0  # on its squared distances, as it was fitted
    for_new: bool = False  # it ranks new items alone: see for_new_alone

    @property
    def is_trained(self) -> bool:
        return self.kind in TRAINED

    @property
    def learns_from_features(self) -> bool:
        """Whether it is a training that places new items."""
        return self.is_trained and self.settings["start"] == "content"


class Trained(NamedTuple):
    """A finished training on the validation fold, as it was at its best epoch."""

    part: Part
    space: Space
    score: float
    seconds: float  # of all its steps, or of as many as its fit is to have
    state: dict[str, Any] | None  # of the training, where a later run may start there

    def plain(self) -> dict[str, Any]:
        """Convert to plain numbers and tensors, which torch.save takes."""
        return self._asdict() | {"part": self.part._asdict(), "space": tuple(self.space)}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Trained":
        """Convert back from `plain`."""
        return Trained(**(plain | {"part": Part(**plain["part"]), "space": Space(*plain["space"])}))


def trained_space(training: Training, content: ItemContent | None = None) -> Space:
    """The space of a training; new items are placed by their features, if it learned from features."""
    space = training.model.space()
    if content is None or content.new is None:
        return space
    points = None if training.model.content is None else place(content.new, training.model.content_map())
    return spaces.with_new_items(space, content.n_new, points)


def for_new_alone(space: Space, n_items: int) -> Space:
    """A space in which fitted items, and new ones without a point, are at a right angle to all users.

    So it ranks new items, and leaves the order of all others as it is: d = |u|^2 + l for these, and
    |u|^2 + |p|^2 - 2 u.p for the others, whose points p have the mean squared length l; 1 under cosine.
    """
    points = space.items[n_items:]
    known = space.offset[n_items:] == space.offset[:n_items].max()  # those that are placed, not nowhere
    length = points[known].square().sum(1).mean() if known.any() else space.offset.new_ones(())
    items, offset = torch.zeros_like(space.items), length.expand(len(space.items)).clone()
    items[n_items:] = torch.where(known[:, None], points, 0.0)
    offset[n_items:] = torch.where(known, 0.0, length)
    return Space(space.users, items, offset)


def with_settings_of_run(config: Config, run: Path) -> Config:
    """The configuration with the run's own seed, and with what it held for available."""
    own = json.loads((run / "config.json").read_text())
    mining = {"availability": own["mining"]["availability"]}
    return config.model_copy(update={"seed": own["seed"], "mining": config.mining.model_copy(update=mining)})


def spectral_settings(dim: int, item_exponent: float, seed: int) -> dict[str, Any]:
    """The settings of a spectral part."""
    return {"dim": dim, "item_exponent": item_exponent, "seed": seed}


def untrained_space(
    part: Part,
    data: DeviceInteractions,
    spectrum: Spectrum | None = None,
    content: ItemContent | None = None,
) -> Space:
    """The space of a part that needs no training; `spectrum`, if a wide enough one is known.

    New items are at each user's mean distance, but in those of kind `likeness` and `new`.
    """
    n_new = 0 if content is None else content.n_new
    if part.kind == NEW:
        offset = torch.zeros(data.n_items + n_new, device=data.user.device)
        offset[data.n_items :] = -1.0 if part.settings["nearer"] else 1.0
        return spaces.same_for_all(offset, data.n_users)
    if part.kind == LIKENESS and content is not None:
        return _likeness_space(part, data, content)
    return spaces.with_new_items(_space_of_known_items(part, data, spectrum), n_new)


def _likeness_space(part: Part, data: DeviceInteractions, content: ItemContent) -> Space:
    """New items by the cosine of their features with those of what a user has; nothing about fitted ones."""
    by, users = likeness(content.fitted, data, part.settings["dim"], part.settings["seed"])
    items = users.new_zeros(data.n_items + content.n_new, users.shape[1])
    if content.new is not None:
        items[data.n_items :] = place(content.new, by)
    return Space(users, items, (items == 0).all(1).to(items.dtype))


def _space_of_known_items(part: Part, data: DeviceInteractions, spectrum: Spectrum | None) -> Space:
    settings = part.settings
    if part.kind == "spectral":
        return spectral_space(data, settings, spectrum)
    if part.kind == "trend":
        return spaces.same_for_all(-baselines.trend(data, settings["half_life"]), data.n_users)
    if part.kind == "rarity":  # nearer the fewer users an item has
        return spaces.same_for_all(baselines.popularity(data).clamp_min(1).log(), data.n_users)
    raise ValueError(f"kind = '{part.kind}', allowed: spectral, trend, rarity, likeness, new")


def spectral_space(
    data: DeviceInteractions, settings: dict[str, Any], spectrum: Spectrum | None = None
) -> Space:
    """The leading dimensions of the spectrum, its items scaled by a power of their popularity."""
    dim = settings["dim"]
    if spectrum is None:
        spectrum = baselines.spectral(data, dim, 0.0, seed=settings["seed"])
    users, items = (rows[:, :dim] for rows in spectrum)
    degree = baselines.popularity(data).clamp_min(1)[:, None]  # (I, 1)
    return spaces.inner_product_as_distance(users, degree.pow(settings["item_exponent"]) * items)


def spread(space: Space, items: slice = slice(None)) -> Tensor:
    """(): standard deviation of the items' distances from a user, averaged over some SPREAD_USERS users."""
    n, device = len(space.users), space.users.device
    some = torch.arange(0, n, max(1, n // SPREAD_USERS), device=device)
    first, last, _ = items.indices(len(space.items))
    among = torch.arange(first, last, max(1, (last - first) // SPREAD_ITEMS), device=device)
    return squared_euclidean(space.users[some], space.items[among], space.offset[among]).std(1).mean()


def side_by_side(
    parts: Sequence[Part], made: Sequence[Space], n_items: int | None = None
) -> tuple[list[Part], Space]:
    """The parts with the scale of each in one space, whose distances are the sum of theirs.

    At equal weights all parts spread the `n_items` fitted items (none: all) equally far, and parts for new
    items alone the new ones. A part that spreads nothing is left as it is.
    """
    first = float(spread(made[0], slice(n_items)))
    scaled = list[Part]()
    for part, space in zip(parts, made, strict=True):
        if part.kind == NEW:
            own = 1.0
        elif part.for_new and len(space.items) - (n_items or 0) < FEW:  # as points all over a sphere
            own = 2 / max(1, space.items.shape[1]) ** 0.5
        else:
            own = float(spread(space, slice(n_items, None) if part.for_new else slice(n_items)))
        scale = part.weight * (first / own if own > 0 and first > 0 else 1.0)
        scaled.append(part._replace(scale=scale))
    return scaled, add_up(scaled, made)


def add_up(parts: Sequence[Part], made: Sequence[Space]) -> Space:
    """One space of all coordinates, each part's squared distances times its scale."""
    lengths = [part.scale**0.5 for part in parts]
    offset = torch.zeros_like(made[0].offset)
    for part, space in zip(parts, made, strict=True):
        offset = offset + part.scale * space.offset
    return Space(
        torch.cat([length * space.users for length, space in zip(lengths, made, strict=True)], 1),
        torch.cat([length * space.items for length, space in zip(lengths, made, strict=True)], 1),
        offset,
    )


def popularity_vectors(data: DeviceInteractions) -> Vectors:
    """Popularity as Euclidean vectors: an item's rank is its squared distance to all users."""
    places = baselines.popularity(data).argsort(descending=True, stable=True).argsort()  # ties by number
    return spaces.euclidean_vectors(spaces.same_for_all(places.float(), data.n_users))


def read_choice(folder: Path) -> dict[str, Any]:
    """The content of choice.json, its parts as Part. Raises InputError: of an earlier version."""
    content: dict[str, Any] = json.loads((folder / CHOICE).read_text())
    if "parts" not in content:
        raise InputError(
            f"run '{folder}' was trained by an earlier version (its {CHOICE} has no parts): train again"
        )
    parts = [Part(**(part | {"cycles": tuple(part["cycles"])})) for part in content["parts"]]
    return content | {"parts": parts}


def save(
    folder: Path,
    parts: Sequence[Part],
    made: Sequence[Space],
    served: Vectors,
    maps: Mapping[str, ContentMap] = MappingProxyType({}),
) -> str:
    """Write the trained spaces and the served vectors to the run's folder; the file's SHA-256.

    `maps` by which features place items, by the part's name.
    """
    tensors = {
        f"{part.name}.{name}": tensor
        for part, space in zip(parts, made, strict=True)
        if part.is_trained
        for name, tensor in space._asdict().items()
    }
    for name, by in maps.items():
        tensors[f"{name}.{WEIGHT}"] = by.weight
        if by.axes is not None:
            tensors[f"{name}.{AXES}"] = by.axes
    tensors |= {"user_vectors": served[0], "item_vectors": served[1]}
    with (folder / WEIGHTS).open("wb") as file:
        written = _Digested(file)
        try:
            torch.save({name: _whole(tensor) for name, tensor in tensors.items()}, written)  # type: ignore[arg-type]
        except RuntimeError:  # what torch says of a write that failed
            if written.error is not None:
                raise written.error from None
            raise
    return written.digest.hexdigest()


class _Digested(io.RawIOBase):
    """A file that torch writes to piece by piece, which reports a full disk, as torch by a path does not."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.error = file, hashlib.sha256(), cast(OSError | None, None)

    def write(self, content: Any) -> int:
        self.digest.update(content)
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        if not self.file.closed:
            self.file.flush()


def _whole(tensor: Tensor) -> Tensor:
    """The tensor on CPU; torch saves what it is a view of, so that a view is copied."""
    tensor = tensor.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def load(folder: Path, device: torch.device) -> tuple[dict[str, Space], Vectors]:
    """The trained spaces by their part's name, and the served vectors. Raises InputError: a damaged file."""
    tensors = _read(folder, device)
    served = tensors.pop("user_vectors"), tensors.pop("item_vectors")
    names = [name.removesuffix(".users") for name in tensors if name.endswith(".users")]
    made = {name: Space(*(tensors[f"{name}.{part}"] for part in Space._fields)) for name in names}
    return made, served


def load_maps(folder: Path, device: torch.device) -> dict[str, ContentMap]:
    """The maps by which features place items, by the part's name. Raises InputError: a damaged file."""
    tensors, found = _read(folder, device), dict[str, ContentMap]()
    for key, weight in tensors.items():
        name, _, ending = key.rpartition(".")
        if ending == WEIGHT:
            found[name] = ContentMap(weight, tensors.get(f"{name}.{AXES}"))
    return found


def _read(folder: Path, device: torch.device) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights '{path}' cannot be read: {error}") from None
    written = json.loads((folder / "train.json").read_text())["weights_sha256"]
    if sha256(content) != written:
        raise InputError(f"weights '{path}' are damaged: they are not what train wrote")
    return dict(torch.load(io.BytesIO(content), map_location=device, weights_only=True))


def learned_space(parts: Sequence[Part], made: dict[str, Space]) -> Space | None:
    """The trained parts of fitted items alone, side by side as in the model; None if the model has none."""
    trained = [part for part in parts if part.is_trained and not part.for_new]
    return add_up(trained, [made[part.name] for part in trained]) if trained else None
