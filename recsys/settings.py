"""The settings of a training: names of its parts, and a value for each; loads neither torch nor numpy."""

from typing import Any, Literal, NamedTuple, get_args

TowerName = Literal["two_tables", "siamese"]
DistanceName = Literal["euclidean", "squared_euclidean", "cosine", "inner_product", "mahalanobis"]
MahalanobisForm = Literal["diagonal", "low_rank", "full"]
StartName = Literal["random", "spectral"]
OffsetName = Literal["learned", "fixed", "none"]
TripletLossName = Literal[
    "contrastive", "triplet_margin", "triplet_soft_margin", "margin", "manifold", "warp", "bpr"
]
ListLossName = Literal["sampled_softmax", "bsl", "cosine_contrastive", "align_uniform"]
LossName = Literal[TripletLossName, ListLossName]
MinerName = Literal["random", "all", "semi_hard", "hardest", "distance_weighted", "offline"]
AvailabilityName = Literal["first_and_last", "first", "none"]

TRIPLET_LOSSES: tuple[str, ...] = get_args(TripletLossName)  # of mined triplets
LIST_LOSSES: tuple[str, ...] = get_args(ListLossName)  # of every candidate of a row


class Settings(NamedTuple):
    """How a space is learned; pipelines/config/training.py says what each means and which values it takes."""

    dim: int = 32
    tower: TowerName = "two_tables"
    history_items: int = 50
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
    uniformity: float = 2.0
    covariance: float = 0.0
    l2: float = 0.0

    miner: MinerName = "semi_hard"
    warmup_epochs: int = 2
    in_batch_items: int = 256
    uniform_items: int = 256
    popular_items: int = 0
    popularity_power: float = 0.75
    memory_items: int = 0
    availability: AvailabilityName = "first"
    user_balance: float = 0.0
    item_balance: float = 0.0

    weight_power: float = 0.5
    batch_size: int = 1024
    learning_rate: float = 3e-3
    seed: int = 0

    @property
    def mines_triplets(self) -> bool:
        """Whether the loss is one of mined triplets."""
        return self.loss in TRIPLET_LOSSES


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


def check_names(settings: Settings) -> None:
    """Raise ValueError if a part of that name does not exist."""
    for key, names in NAMES.items():
        value = getattr(settings, key)
        if value not in get_args(names):
            raise ValueError(f"{key} = {value!r}, allowed: {', '.join(get_args(names))}")
