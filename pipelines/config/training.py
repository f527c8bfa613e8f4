"""Settings of a training: the space, the loss, the miner, the epochs, the baseline, validation."""

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipelines.config.section import METRICS, Section, Share
from recsys.settings import (
    AvailabilityName,
    DistanceName,
    LossName,
    MahalanobisForm,
    MinerName,
    OffsetName,
    Settings,
    StartName,
    TowerName,
)

DEFAULT = Settings()

MOST_TRIPLETS = 2**24  # of miners.every, repeated because reading a configuration shall not load torch


class Space(Section):
    """The metric space: its towers, its distance, where it starts."""

    dim: int = Field(DEFAULT.dim, ge=1, description="dimensions of the learned space")
    tower: TowerName = Field(
        DEFAULT.tower,
        description="a free point a user, or the mean of his items' points in the one table there is",
    )
    history_items: int = Field(
        DEFAULT.history_items,
        ge=1,
        description="siamese: items drawn from a history in a step; the whole of it counts in the end",
    )
    distance: DistanceName = Field(
        DEFAULT.distance, description="smaller is closer; the offset is under the root of euclidean"
    )
    mahalanobis: MahalanobisForm = Field(
        DEFAULT.mahalanobis, description="form of the learned map of distance = mahalanobis"
    )
    rank: int = Field(DEFAULT.rank, ge=1, description="rank of what low_rank adds to the identity")
    start: StartName = Field(
        DEFAULT.start, description="random, or the spectrum's own space with its own offset"
    )
    start_length: float = Field(
        DEFAULT.start_length, gt=0, le=1, description="length of the rows of a random start"
    )
    offset: OffsetName = Field(
        DEFAULT.offset, description="an offset per item, so that the space can say how popular an item is"
    )
    offset_scale: float = Field(
        DEFAULT.offset_scale,
        gt=0,
        description="distance per unit of log popularity in the offset's random start",
    )
    unit_ball: bool = Field(DEFAULT.unit_ball, description="regularizer: pull points back into the unit ball")

    @model_validator(mode="after")
    def _rank_fits(self) -> "Space":
        if self.distance == "mahalanobis" and self.mahalanobis == "low_rank" and self.rank > self.dim:
            raise ValueError(f"rank = {self.rank} must be <= dim = {self.dim}")
        if self.start == "spectral" and self.distance == "cosine" and self.dim < 2:
            raise ValueError("start = 'spectral' with distance = 'cosine' needs dim >= 2: one is for lengths")
        return self


class Loss(Section):
    """What is minimised. The first seven names are losses of mined triplets, the rest of whole lists."""

    name: LossName = Field(
        DEFAULT.loss, description="losses of mined triplets up to bpr; the others take every candidate"
    )
    margin: float = Field(
        DEFAULT.margin,
        gt=0,
        description="in units of the distance; of the semi_hard miner too; of `margin` its alpha",
    )
    beta: float = Field(
        DEFAULT.beta, description="margin: the boundary between near and far, where it starts"
    )
    beta_per_item: bool = Field(
        DEFAULT.beta_per_item, description="margin: each item learns a boundary of its own"
    )
    separation: float = Field(
        DEFAULT.separation, ge=0, description="manifold: weight of separation between over pull within"
    )
    temperature: float = Field(
        DEFAULT.temperature, gt=0, description="sampled_softmax, bsl: distance per unit of logit"
    )
    negative_temperature: float = Field(
        DEFAULT.negative_temperature, gt=0, description="bsl: temperature of the negatives, relative"
    )
    log_q: bool = Field(
        DEFAULT.log_q, description="sampled_softmax: correct for how often an item is among the candidates"
    )
    negative_weight: float = Field(
        DEFAULT.negative_weight, ge=0, description="cosine_contrastive: weight of the negatives"
    )
    uniformity: float = Field(
        DEFAULT.uniformity, ge=0, description="align_uniform: weight of uniformity, DirectAU's gamma"
    )
    covariance: float = Field(DEFAULT.covariance, ge=0, description="weight of the covariance regularizer")
    l2: float = Field(
        DEFAULT.l2, ge=0, description="weight of the mean squared length of points as a regularizer"
    )


class Mining(Section):
    """Which candidates a batch meets, and which of them make triplets."""

    miner: MinerName = Field(
        DEFAULT.miner, description="offline takes the negatives that prepare mined (prepare.mined_negatives)"
    )
    warmup_epochs: int = Field(DEFAULT.warmup_epochs, ge=0, description="epochs of semi_hard before hardest")
    in_batch_items: int = Field(
        DEFAULT.in_batch_items, ge=0, description="candidates taken from the batch's own items"
    )
    uniform_items: int = Field(
        DEFAULT.uniform_items, ge=0, description="candidates drawn uniformly from all items"
    )
    popular_items: int = Field(
        DEFAULT.popular_items, ge=0, description="candidates drawn by popularity ^ popularity_power"
    )
    popularity_power: float = Field(
        DEFAULT.popularity_power, ge=0, le=1, description="0 is uniform, 1 as often as in the log"
    )
    memory_items: int = Field(
        DEFAULT.memory_items, ge=0, description="candidates kept from recent batches (cross-batch memory)"
    )
    availability: AvailabilityName = Field(
        DEFAULT.availability,
        description="an item is no negative before it was first seen in the log, nor after it was last seen; "
        "offline negatives were mined between the two whatever it says",
    )
    user_balance: float = Field(
        DEFAULT.user_balance,
        ge=0,
        le=1,
        description="0: interactions as in the log; 1: every user as often as any other",
    )
    item_balance: float = Field(DEFAULT.item_balance, ge=0, le=1, description="the same of items")

    @model_validator(mode="after")
    def _some_candidates(self) -> "Mining":
        if self.in_batch_items + self.uniform_items + self.popular_items + self.memory_items < 1:
            raise ValueError("in_batch_, uniform_, popular_ and memory_items are 0: there is nothing to mine")
        return self


class Train(Section):
    """How long and in what steps it is learned, and what is added to it."""

    weight_power: float = Field(
        DEFAULT.weight_power,
        ge=0,
        le=1,
        description="a pair's loss counts its summed weight to this power; 0 counts all alike",
    )
    batch_size: int = Field(DEFAULT.batch_size, ge=2, description="interactions a step")
    learning_rate: float = Field(DEFAULT.learning_rate, gt=0, description="step size of Adam")
    max_epochs: int = Field(10, ge=1, description="epochs at the most")
    patience: int = Field(2, ge=1, description="epochs without a better validation before stopping")
    spectral_weights: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 2.0, 4.0, 8.0),
        min_length=1,
        description="weights tried for spectral coordinates beside the learned ones; 0 leaves them out",
    )
    trend_weights: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 0.5, 1.0),
        min_length=1,
        description="weights tried for the items' trend, in squared distance per unit of its logarithm",
    )
    trend_half_life_days: float = Field(30, gt=0, description="half-life of an interaction, in days")
    device: str = Field("auto", description="'auto' (CUDA where present), 'cpu', 'cuda' or 'cuda:N'")
    threads: int | None = Field(
        None, ge=1, le=512, description="torch threads on CPU; without it torch's own choice"
    )
    checkpoint_seconds: float = Field(
        60, ge=0, description="between checkpoints, from which a run that was killed goes on"
    )


class Spectral(Section):
    """The untrained baseline; validation chooses among these."""

    dims: tuple[PositiveInt, ...] = Field((8, 16, 32, 64), min_length=1, description="dimensions tried")
    item_exponents: tuple[float, ...] = Field(
        (0.3, 0.4, 0.5), min_length=1, description="item exponents tried"
    )


class Evaluate(Section):
    """How rankings are judged."""

    select: str = Field(
        "ndcg@10", description="what validation chooses by: hit_rate, recall, ndcg, mrr or map at one of ks"
    )
    ks: tuple[PositiveInt, ...] = Field((10, 20), min_length=1, description="cut-offs")
    exclude_seen: bool = Field(True, description="leave out what the user has; false for repeat purchases")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples for the 95 % intervals")

    @model_validator(mode="after")
    def _select_is_computed(self) -> "Evaluate":
        names = [f"{metric}@{k}" for metric in METRICS for k in self.ks]
        if self.select not in names:
            raise ValueError(f"select = '{self.select}', allowed: {', '.join(names)}")
        return self


class Warm(Section):
    """Going on from the last champion's weights in place of training anew."""

    start: bool = Field(False, description="seed the model by the champion's")
    max_epochs: PositiveInt = Field(2, description="epochs at the most from there, as train.max_epochs")
    max_new: Share = Field(
        0.3, description="share of users, or items, unknown to it: above it all is trained"
    )
    max_movement: PositiveFloat = Field(
        1.0, description="of the items once aligned, over their spread: above it all is trained anew"
    )
    max_churn: Share = Field(0.9, description="the same of the ten nearest neighbours that are others now")
    min_overlap: Share = Field(0.2, description="the same below this share of the champion's lists")
