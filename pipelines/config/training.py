"""Settings of training: space, loss, mining, epochs, baseline, evaluation, warm start."""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

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

MOST_TRIPLETS = 2**24  # of miners.all; repeated here as reading a configuration must not load torch


class Space(Section):
    """The metric space: tower, distance and start."""

    dim: int = Field(DEFAULT.dim, ge=1, description="dimensions of the learned space")
    tower: TowerName = Field(
        DEFAULT.tower,
        description="two_tables: a vector per user; siamese: the mean of the vectors of the user's items",
    )
    history_items: int = Field(
        DEFAULT.history_items,
        ge=1,
        description="siamese: items drawn from a history per step; the final vectors use all of it",
    )
    distance: DistanceName = Field(
        DEFAULT.distance, description="smaller is closer; euclidean includes the offset under its root"
    )
    mahalanobis: MahalanobisForm = Field(
        DEFAULT.mahalanobis, description="form of the learned map of distance = mahalanobis"
    )
    rank: int = Field(DEFAULT.rank, ge=1, description="rank of what low_rank adds to the identity")
    start: StartName = Field(
        DEFAULT.start, description="random vectors, or the space of the spectral baseline with its offsets"
    )
    start_length: float = Field(
        DEFAULT.start_length, gt=0, le=1, description="length of the vectors of a random start"
    )
    offset: OffsetName = Field(DEFAULT.offset, description="an offset per item, which models its popularity")
    offset_scale: float = Field(
        DEFAULT.offset_scale, gt=0, description="start of the offset: distance per unit of log popularity"
    )
    unit_ball: bool = Field(
        DEFAULT.unit_ball, description="regularizer: pull vectors back into the unit ball"
    )

    @model_validator(mode="after")
    def _rank_fits(self) -> "Space":
        if self.distance == "mahalanobis" and self.mahalanobis == "low_rank" and self.rank > self.dim:
            raise ValueError(f"rank = {self.rank} must be <= dim = {self.dim}")
        if self.start == "spectral" and self.distance == "cosine" and self.dim < 2:
            raise ValueError("start = 'spectral' with distance = 'cosine' needs dim >= 2: one is for lengths")
        return self


class Loss(Section):
    """The loss. The first seven names take mined triplets, the others all candidates."""

    name: LossName = Field(
        DEFAULT.loss, description="up to bpr a loss of mined triplets; the others take all candidates"
    )
    margin: float = Field(
        DEFAULT.margin,
        gt=0,
        description="in units of the distance, also for the semi_hard miner; alpha of loss `margin`",
    )
    beta: float = Field(DEFAULT.beta, description="margin: start of the boundary between near and far")
    beta_per_item: bool = Field(DEFAULT.beta_per_item, description="margin: learn a boundary per item")
    separation: float = Field(
        DEFAULT.separation, ge=0, description="manifold: weight of separation relative to attraction"
    )
    temperature: float = Field(
        DEFAULT.temperature, gt=0, description="sampled_softmax, bsl: distance per unit of logit"
    )
    negative_temperature: float = Field(
        DEFAULT.negative_temperature,
        gt=0,
        description="bsl: temperature of the negatives, relative to temperature",
    )
    log_q: bool = Field(
        DEFAULT.log_q, description="sampled_softmax: correct for the sampling probability of candidates"
    )
    negative_weight: float = Field(
        DEFAULT.negative_weight, ge=0, description="cosine_contrastive: weight of the negatives"
    )
    uniformity: float = Field(
        DEFAULT.uniformity, ge=0, description="align_uniform: weight of uniformity, DirectAU's gamma"
    )
    covariance: float = Field(DEFAULT.covariance, ge=0, description="weight of the covariance regularizer")
    l2: float = Field(
        DEFAULT.l2, ge=0, description="weight of the mean squared length of vectors as a regularizer"
    )


class Mining(Section):
    """The candidates of a batch, and which of them form triplets."""

    miner: MinerName = Field(
        DEFAULT.miner, description="offline: the negatives that prepare mined (prepare.mined_negatives)"
    )
    warmup_epochs: int = Field(
        DEFAULT.warmup_epochs, ge=0, description="hardest: first epochs that use semi_hard"
    )
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
        DEFAULT.popularity_power, ge=0, le=1, description="0: uniform; 1: proportional to popularity"
    )
    memory_items: int = Field(
        DEFAULT.memory_items, ge=0, description="candidates kept from recent batches (cross-batch memory)"
    )
    availability: AvailabilityName = Field(
        DEFAULT.availability,
        description="an item is no negative before its first event in the log (first), nor after its last; "
        "does not affect offline negatives, which are always mined between the two",
    )
    user_balance: float = Field(
        DEFAULT.user_balance,
        ge=0,
        le=1,
        description="0: sample interactions uniformly; 1: sample all users equally often",
    )
    item_balance: float = Field(DEFAULT.item_balance, ge=0, le=1, description="the same for items")

    @model_validator(mode="after")
    def _some_candidates(self) -> "Mining":
        if self.in_batch_items + self.uniform_items + self.popular_items + self.memory_items < 1:
            raise ValueError(
                "in_batch_, uniform_, popular_ and memory_items are all 0: there is nothing to mine"
            )
        return self


class Train(Section):
    """Epochs, steps, device, and the weights of the untrained spaces."""

    weight_power: float = Field(
        DEFAULT.weight_power,
        ge=0,
        le=1,
        description="the loss of a pair is weighted by its total weight to this power; 0: all equal",
    )
    batch_size: int = Field(DEFAULT.batch_size, ge=2, description="interactions per step")
    learning_rate: float = Field(DEFAULT.learning_rate, gt=0, description="step size of Adam")
    max_epochs: int = Field(10, ge=1, description="most epochs")
    patience: int = Field(2, ge=1, description="epochs without improvement on validation before stopping")
    spectral_weights: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 2.0, 4.0, 8.0),
        min_length=1,
        description="weights tried for spectral coordinates added to the learned ones; 0: none",
    )
    trend_weights: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 0.5, 1.0),
        min_length=1,
        description="weights tried for the items' trend, in squared distance per unit of its logarithm",
    )
    trend_half_life_days: float = Field(30, gt=0, description="half-life of an interaction, in days")
    device: str = Field("auto", description="'auto' (CUDA if available), 'cpu', 'cuda' or 'cuda:N'")
    threads: int | None = Field(
        None, ge=1, le=512, description="torch threads on CPU; default: torch's own choice"
    )
    checkpoint_seconds: float = Field(
        60, ge=0, description="seconds between checkpoints, from which a killed run continues"
    )


class Spectral(Section):
    """The untrained baseline; validation selects among these values."""

    dims: tuple[PositiveInt, ...] = Field((8, 16, 32, 64), min_length=1, description="dimensions tried")
    item_exponents: tuple[float, ...] = Field(
        (0.3, 0.4, 0.5), min_length=1, description="item exponents tried"
    )


class Evaluate(Section):
    """How rankings are judged."""

    select: str = Field(
        "ndcg@10",
        description="metric that validation selects by: hit_rate, recall, ndcg, mrr or map at one of ks",
    )
    ks: tuple[PositiveInt, ...] = Field((10, 20), min_length=1, description="cut-offs")
    exclude_seen: bool = Field(
        True, description="exclude the user's fitted items; false for repeat purchases"
    )
    resamples: int = Field(1000, ge=100, description="bootstrap resamples for the 95 % intervals")

    @model_validator(mode="after")
    def _select_is_computed(self) -> "Evaluate":
        names = [f"{metric}@{k}" for metric in METRICS for k in self.ks]
        if self.select not in names:
            raise ValueError(f"select = '{self.select}', allowed: {', '.join(names)}")
        return self


class Warm(Section):
    """Warm start: continue from the champion's weights instead of training from the start."""

    start: bool = Field(False, description="start from the champion's model")
    max_epochs: PositiveInt = Field(2, description="most epochs after a warm start")
    max_new: Share = Field(
        0.3, description="most new users, or new items, as a share; above it, train from the start"
    )
    max_movement: PositiveFloat = Field(
        1.0,
        description="most movement of the aligned items, relative to their spread, else train from the start",
    )
    max_churn: Share = Field(
        0.9,
        description="most change in the ten nearest neighbours, as a share; above it, train from the start",
    )
    min_overlap: Share = Field(
        0.2, description="least share of the champion's lists that is kept; below it, train from the start"
    )
