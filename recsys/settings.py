"""The settings of a training: names of its parts, and a value for each; loads neither torch nor numpy."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

TowerName = Literal["two_tables", "siamese", "graph"]
DistanceName = Literal["euclidean", "squared_euclidean", "cosine", "inner_product", "mahalanobis"]
MahalanobisForm = Literal["diagonal", "low_rank", "full"]
StartName = Literal["random", "spectral", "content"]
OffsetName = Literal["learned", "fixed", "none"]
TripletLossName = Literal[
    "contrastive", "triplet_margin", "triplet_soft_margin", "margin", "manifold", "warp", "bpr"
]
ListLossName = Literal["sampled_softmax", "bsl", "psl", "sl_at_k", "cosine_contrastive", "align_uniform"]
HistoryLossName = Literal["history_softmax", "history_hinge", "history_psl", "history_sl_at_k"]
LossName = Literal[TripletLossName, ListLossName, HistoryLossName]
MinerName = Literal["random", "all", "semi_hard", "hardest", "distance_weighted", "offline"]
AvailabilityName = Literal["first_and_last", "first", "none"]

TRIPLET_LOSSES: tuple[str, ...] = get_args(TripletLossName)  # of mined triplets
LIST_LOSSES: tuple[str, ...] = get_args(ListLossName)  # of every candidate of a row
HISTORY_LOSSES: tuple[str, ...] = get_args(HistoryLossName)  # of users with all that they have
MIXING_LOSSES = "history_softmax", "history_psl"  # no rank or border of theirs counts negatives as items


CONTENT_LEARNING_RATE = 0.004  # of graph spaces with content: faster, features fit their items too closely
GRAPH_LEARNING_RATE, GRAPH_CANDIDATES, GRAPH_POPULARITY_POWER = 0.012, 4096, 0.8  # of graph spaces


class Settings(NamedTuple):
    """How a space is learned; pipelines/config/training.py says what each means and which values it takes."""

    dim: int = 32
    tower: TowerName = "two_tables"
    history_items: int = 50
    hops: int = 2
    distance: DistanceName = "squared_euclidean"
    mahalanobis: MahalanobisForm = "diagonal"
    rank: int = 8
    start: StartName = "random"
    start_length: float = 0.3
    item_exponent: float = 0.4  # of a spectral start
    offset: OffsetName = "learned"
    offset_scale: float = 0.5
    unit_ball: bool = True

    loss: LossName = "warp"
    margin: float = 0.5
    beta: float = 1.2
    beta_per_item: bool = False
    separation: float = 1.0
    temperature: float = 0.1
    negative_temperature: float = 1.2
    log_q: bool = False
    negative_weight: float = 100.0
    top_k: int = 20
    uniformity: float = 2.0
    covariance: float = 0.0
    attribute_weight: float = 0.0
    attribute_margin: float = 0.1
    view_weight: float = 0.1
    l2: float = 0.0

    miner: MinerName = "semi_hard"
    warmup_epochs: int = 2
    hardest_left_out: float = 0.05
    in_batch_items: int = 256
    uniform_items: int = 256
    popular_items: int = 0
    popularity_power: float = 0.75
    memory_items: int = 0
    synthetic_items: int = 0
    availability: AvailabilityName = "first"
    user_balance: float = 0.0
    item_balance: float = 0.0

    weight_power: float = 0.5
    batch_size: int = 1024
    batch_users: int = 2048
    batch_interactions: int = 65_536
    cycle_steps: int = 0
    learning_rate: float = 3e-3
    seed: int = 0

    @property
    def mines_triplets(self) -> bool:
        """Whether the loss is one of mined triplets."""
        return self.loss in TRIPLET_LOSSES

    @property
    def takes_histories(self) -> bool:
        """Whether a batch is users with all their interactions, not single interactions."""
        return self.loss in HISTORY_LOSSES

    def cycle_length(self, epoch: int) -> int | None:
        """Steps of an epoch, numbered from 0: twice as many each time; None if it is a pass over the data."""
        return self.cycle_steps * 2**epoch if self.cycle_steps else None


NAMES: dict[str, Any] = {
    "tower": TowerName,
    "distance": DistanceName,
    "mahalanobis": MahalanobisForm,
    "start": StartName,
    "offset": OffsetName,
    "loss": LossName,
    "miner": MinerName,
    "availability": AvailabilityName,
}


def conflicts(settings: Settings) -> Iterator[str]:
    """What does not go together, with {key} in place of each key's name."""
    s = settings
    if s.start == "content" and s.tower == "graph" and s.distance != "cosine":
        yield "{start} = 'content' with {tower} = 'graph' needs {distance} = 'cosine'"
    if s.mines_triplets and s.miner == "distance_weighted" and s.distance != "cosine":
        yield (
            "{miner} = 'distance_weighted' needs {distance} = 'cosine': it uses the density of distances on "
            "a sphere"
        )
    if s.mines_triplets and s.miner == "distance_weighted" and s.dim < 2:
        yield "{miner} = 'distance_weighted' needs {dim} >= 2"
    if s.loss == "align_uniform" and s.distance != "cosine":
        yield "{loss} = 'align_uniform' needs {distance} = 'cosine': it spreads points over a sphere"
    if s.loss == "align_uniform" and s.offset == "learned":
        yield (
            "{loss} = 'align_uniform' needs {offset} = 'fixed' or 'none': its alignment would lower every "
            "offset, that of popular items first"
        )
    if s.takes_histories and s.tower == "siamese":
        yield (
            "{loss} = '" + s.loss + "' needs {tower} = 'two_tables' or 'graph': a mean of the whole history "
            "would hold the item that it is to find"
        )
    if s.takes_histories and s.loss != "history_hinge" and s.offset == "learned":
        yield "{loss} = '" + s.loss + "' needs {offset} = 'fixed' or 'none'"
    if s.loss == "sampled_softmax" and s.log_q and s.miner == "offline":
        yield "{log_q} = true needs candidates drawn by the sampler, not {miner} = 'offline'"


def check_settings(settings: Settings) -> None:
    """Raise ValueError for unknown names, sizes below their least, and settings that do not go together."""
    for key, least in (
        ("dim", 1),
        ("batch_size", 2),
        ("batch_users", 1),
        ("batch_interactions", 1),
        ("cycle_steps", 0),
        ("history_items", 1),
        ("hops", 1),
        ("rank", 1),
    ):
        if getattr(settings, key) < least:
            raise ValueError(f"{key} = {getattr(settings, key)}, allowed >= {least}")
    if not 0 <= settings.hardest_left_out < 1:
        raise ValueError(f"hardest_left_out = {settings.hardest_left_out}, allowed 0 <= hardest_left_out < 1")
    for key in ("attribute_weight", "view_weight", "synthetic_items"):
        if not getattr(settings, key) >= 0:
            raise ValueError(f"{key} = {getattr(settings, key)}, allowed >= 0")
    for key in ("margin", "learning_rate", "temperature", "attribute_margin"):
        if not getattr(settings, key) > 0:
            raise ValueError(f"{key} = {getattr(settings, key)}, allowed > 0")
    for key, names in NAMES.items():
        value = getattr(settings, key)
        if value not in get_args(names):
            raise ValueError(f"{key} = {value!r}, allowed: {', '.join(get_args(names))}")
    if settings.synthetic_items > 0 and settings.loss not in MIXING_LOSSES:
        raise ValueError(
            f"synthetic_items = {settings.synthetic_items} with loss = '{settings.loss}', allowed: 0, or "
            f"loss = {' or '.join(MIXING_LOSSES)}"
        )
    for conflict in conflicts(settings):
        raise ValueError(conflict.format(**{key: key for key in Settings._fields}))
