"""The model as it is served: a learned space combined with untrained ones, and what validation chose.

Axes: U users, I items, D dimensions.
"""

import io
import json
from pathlib import Path
from typing import NamedTuple

import torch

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from recsys import baselines, spaces
from recsys.files import sha256
from recsys.models import MetricSpace
from recsys.sampling import DeviceInteractions
from recsys.spaces import Space, Vectors

WEIGHTS = "model.pt"
SECONDS_PER_DAY = 86_400


class Choice(NamedTuple):
    """What validation chose, and the final fit takes over."""

    spectral_dim: int
    item_exponent: float
    epochs: int = 0
    spectral_weight: float = 0.0
    trend_weight: float = 0.0
    hardest_until: int | None = None  # epochs before semi_hard replaced a miner that collapsed


class Additions(NamedTuple):
    """Spaces without training that may be added to the learned one."""

    spectral: Space
    trend: Space


def with_settings_of_run(config: Config, run: Path) -> Config:
    """The configuration with the run's own settings of its additions and its mining."""
    own = json.loads((run / "config.json").read_text())
    half_life = {"trend_half_life_days": own["train"]["trend_half_life_days"]}
    mining = {"availability": own["mining"]["availability"]}
    return config.model_copy(
        update={
            "seed": own["seed"],
            "train": config.train.model_copy(update=half_life),
            "mining": config.mining.model_copy(update=mining),
        }
    )


def fit_additions(config: Config, data: DeviceInteractions, choice: Choice) -> Additions:
    """Fit both on the data."""
    trend = baselines.trend(data, config.train.trend_half_life_days * SECONDS_PER_DAY)  # (I,)
    return Additions(_spectral(config, data, choice), spaces.same_for_all(-trend, data.n_users))


def combine(learned: Space, added: Additions, choice: Choice) -> Vectors:
    """Add the other spaces to the learned one with the chosen weights; Euclidean vectors."""
    for space, weight in ((added.spectral, choice.spectral_weight), (added.trend, choice.trend_weight)):
        if weight > 0:  # at 0 its coordinates would be of no use
            learned = spaces.add_distances(learned, space, weight)
    return spaces.euclidean_vectors(learned)


def spectral_vectors(config: Config, data: DeviceInteractions, choice: Choice) -> Vectors:
    """The spectral baseline as Euclidean vectors."""
    return spaces.euclidean_vectors(_spectral(config, data, choice))


def popularity_vectors(data: DeviceInteractions) -> Vectors:
    """Popularity as Euclidean vectors: an item's rank is its squared distance to all users."""
    places = baselines.popularity(data).argsort(descending=True, stable=True).argsort()  # ties by number
    return spaces.euclidean_vectors(spaces.same_for_all(places.float(), data.n_users))


def save(folder: Path, model: MetricSpace, served: Vectors) -> str:
    """Write weights, the learned space and the served vectors to the run's folder; the file's SHA-256."""
    space = {f"space.{name}": part for name, part in model.space()._asdict().items()}
    tensors = model.state_dict() | space | {"user_vectors": served[0], "item_vectors": served[1]}
    buffer = io.BytesIO()  # torch would not report a full disk
    torch.save({name: tensor.cpu().clone() for name, tensor in tensors.items()}, buffer)
    (folder / WEIGHTS).write_bytes(buffer.getbuffer())
    return sha256(buffer.getbuffer())


def load(folder: Path, device: torch.device) -> tuple[Vectors, Vectors]:
    """The learned space and the served one of a finished run. Raises InputError if the file is damaged."""
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights '{path}' cannot be read: {error}") from None
    written = json.loads((folder / "train.json").read_text())["weights_sha256"]
    if sha256(content) != written:
        raise InputError(f"weights '{path}' are damaged: they are not what train wrote")
    tensors = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    learned = spaces.euclidean_vectors(Space(*(tensors[f"space.{name}"] for name in Space._fields)))
    return learned, (tensors["user_vectors"], tensors["item_vectors"])


def _spectral(config: Config, data: DeviceInteractions, choice: Choice) -> Space:
    users, items = baselines.spectral(data, choice.spectral_dim, choice.item_exponent, seed=config.seed)
    return spaces.inner_product_as_distance(users, items)
