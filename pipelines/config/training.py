"""Settings of training: space, loss, mining, epochs, baseline, evaluation, warm start."""
# Long: every key with its description.

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from pipelines.config.section import METRICS, Section, Share
from recsys.settings import (
    GRAPH_CANDIDATES,
    GRAPH_LEARNING_RATE,
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

LOWEST_TEMPERATURE = 0.02  # as recsys.softmax.softmax allows
Temperature = Annotated[float, Field(ge=LOWEST_TEMPERATURE)]
Exponent = Annotated[float, Field(ge=-2, le=2)]
MOST_TRIPLETS = 2**24  # of miners.all; repeated here as reading a configuration must not load torch


class Space(Section):
    """The metric space: tower, distance and start."""

    dim: int = Field(DEFAULT.dim, ge=1, description="dimensions of the learned space")
    tower: TowerName = Field(
        DEFAULT.tower,
        description="two_tables: a vector per user; siamese: the mean of the vectors of the user's items; "
        "graph: both tables, each row summed with its neighbours'",
    )
    history_items: int = Field(
        DEFAULT.history_items,
        ge=1,
        description="siamese: items drawn from a history per step; the final vectors use all of it",
    )
    hops: int = Field(DEFAULT.hops, ge=1, description="graph: steps to neighbours and their neighbours")
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
        DEFAULT.unit_ball,
        description="regularizer: pull vectors back into the unit ball; with content an item's own row, and "
        "the length of its content",
    )

    @model_validator(mode="after")
    def _rank_fits(self) -> "Space":
        if self.distance == "mahalanobis" and self.mahalanobis == "low_rank" and self.rank > self.dim:
            raise ValueError(f"rank = {self.rank} must be <= dim = {self.dim}")
        if self.start == "spectral" and self.distance == "cosine" and self.dim < 2:
            raise ValueError("start = 'spectral' with distance = 'cosine' needs dim >= 2: one is for lengths")
        return self


class Loss(Section):
    """The loss. The first seven names take mined triplets, those with history_ whole histories of users."""

    name: LossName = Field(
        DEFAULT.loss,
        description="up to bpr a loss of mined triplets; the others take all candidates; history_ ones see "
        "all that a user has in one step",
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
        DEFAULT.temperature,
        ge=LOWEST_TEMPERATURE,
        description="of losses with exponentials: distance per unit of logit",
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
    top_k: int = Field(DEFAULT.top_k, ge=1, description="sl_at_k: places of a list that count")
    covariance: float = Field(DEFAULT.covariance, ge=0, description="weight of the covariance regularizer")
    attribute_weight: float = Field(
        DEFAULT.attribute_weight,
        ge=0,
        description="start = content: weight of the hinge that holds items of one attribute value together",
    )
    attribute_margin: float = Field(
        DEFAULT.attribute_margin, gt=0, description="its margin, of cosines: smaller than that of taste"
    )
    view_weight: float = Field(
        DEFAULT.view_weight,
        ge=0,
        description="start = content: weight of the softmax that finds an item's other view, each without "
        "a share of its features, at the temperature of the main loss",
    )
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
    hardest_left_out: float = Field(
        DEFAULT.hardest_left_out,
        ge=0,
        lt=1,
        description="hardest: share of a user's candidates, the nearest ones, that are skipped, as the user "
        "probably takes them next",
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
    synthetic_items: int = Field(
        DEFAULT.synthetic_items,
        ge=0,
        description="history_softmax, history_psl: negatives mixed from an item that somebody of the batch "
        "has and a candidate",
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


class Graph(Section):
    """Spaces of kind graph: settings that are searched on validation unless they are given."""

    loss: LossName = Field(
        "history_softmax", description="any loss, where train.spaces names no other; see loss.name"
    )
    dim: PositiveInt | None = Field(
        None, description="dimensions of each space; none: 127, or 63 where time is short"
    )
    temperature: Temperature | None = Field(
        None, description="of the softmax; margins follow it; none: estimated from the log, then searched"
    )
    popularity_power: NonNegativeFloat | None = Field(
        None, description="how far popular items are nearer to all users; 1: in proportion; none: searched"
    )
    hops: PositiveInt | None = Field(None, description="steps to neighbours; none: searched from 2")
    learning_rate: PositiveFloat = Field(
        GRAPH_LEARNING_RATE, description="Adam's at the start of a cycle; falls within it"
    )
    margin: PositiveFloat | None = Field(
        None,
        description="of losses with one; where it is left out: 4 times the temperature for history_psl, 2.5 "
        "times for others; the power of history_psl is 2.5",
    )
    trial_dim: PositiveInt = Field(48, description="dimensions in the search, where fewer than dim")
    cycle_steps: PositiveInt = Field(
        40, description="steps of the first cycle; each one has twice as many as the one before"
    )
    candidates: PositiveInt = Field(GRAPH_CANDIDATES, description="items drawn per step")
    batch_users: PositiveInt = Field(2048, description="most users per step, each with all they have")
    batch_interactions: PositiveInt = Field(65_536, description="interactions per step, on average, at most")


class TrainedSpace(Section):
    """One training: its kind, and how it differs from its section, so that spaces err differently."""

    kind: Literal["graph", "metric"] = Field(
        "graph",
        description="graph: the section graph; metric: the sections space, loss, mining and train",
    )
    start: StartName | None = Field(
        None,
        description="the spectrum, random vectors, or content: what is known about the items "
        "(items.place_new); none: as its kind does",
    )
    loss: LossName | None = Field(None, description="another loss than its section's")

    sharper: PositiveFloat = Field(1.0, description="divides the temperature, and a margin that follows it")
    more_hops: int = Field(0, description="added to the hops, which stay at least 1")


DEFAULT_SPACES = (
    TrainedSpace(),
    TrainedSpace(loss="history_psl"),  # another loss or start errs differently: benchmarks/LOG.md
    TrainedSpace(start="random"),
    TrainedSpace(loss="history_psl", start="random"),
    TrainedSpace(start="random", more_hops=-1),
    TrainedSpace(loss="history_psl", start="random", more_hops=1),
)


NEW_ITEMS_SPACES = (DEFAULT_SPACES[0], TrainedSpace(start="content"), *DEFAULT_SPACES[1:])  # items.place_new


class Train(Section):
    """What is trained, for how long, on which device, and what may stand beside it."""

    spaces: tuple[TrainedSpace, ...] = Field(
        DEFAULT_SPACES,
        description="trained in this order as far as seconds have room; validation picks which stand side by "
        "side within max_dim, with which weight",
    )
    seconds: PositiveFloat | None = Field(
        3600, description="for choosing and fitting together; inf: until validation stops rising"
    )
    max_dim: PositiveInt = Field(256, description="most coordinates of the model")
    weights: tuple[PositiveFloat, ...] = Field(
        (0.03, 0.06, 0.12, 0.25, 0.5, 1.0),
        min_length=1,
        description="tried for each space beside the first one; at 1 both spread the items equally far",
    )
    untrained: tuple[Literal["spectral", "trend"], ...] = Field(
        ("spectral", "trend"), description="spaces without training that may stand beside the others"
    )
    coverage_price: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the validation metric, and of the hit rate, that may be given for wider lists: "
        "rare items come nearer as far as it lasts",
    )
    new_dim: PositiveInt = Field(
        256, description="items.place_new: most coordinates besides max_dim that rank new items alone"
    )
    new_items_price: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="items.place_new: share of the validation metric, and of the hit rate, that may be given "
        "for new items to be shown: they come nearer as far as it lasts",
    )
    weight_power: float = Field(
        DEFAULT.weight_power,
        ge=0,
        le=1,
        description="metric: the loss of a pair is weighted by its total weight to this power; 0: all equal",
    )
    batch_size: int = Field(DEFAULT.batch_size, ge=2, description="metric: interactions per step")
    learning_rate: float = Field(DEFAULT.learning_rate, gt=0, description="metric: step size of Adam")
    max_epochs: int = Field(10, ge=1, description="most epochs, or cycles, of a space")
    patience: int = Field(2, ge=1, description="metric: epochs without improvement before stopping")
    judged_users: int = Field(4000, ge=1, description="most users that validation judges, drawn at random")
    trend_half_life_days: float = Field(30, gt=0, description="half-life of an interaction, in days")
    device: str = Field("auto", description="'auto' (CUDA if available), 'cpu', 'cuda' or 'cuda:N'")
    threads: int | None = Field(
        None, ge=1, le=512, description="torch threads on CPU; default: torch's own choice"
    )
    checkpoint_seconds: float = Field(
        60, ge=0, description="seconds between checkpoints, from which a killed run continues"
    )

    @field_validator("seconds", mode="before")
    @classmethod
    def _unlimited(cls, seconds: Any) -> Any:
        return None if seconds == float("inf") else seconds


class Spectral(Section):
    """The untrained baseline; validation selects among these values."""

    dims: tuple[PositiveInt, ...] = Field(
        (8, 16, 32, 64, 128, 256),
        min_length=1,
        description="dimensions tried with the first exponent, from the most on while fewer help",
    )
    item_exponents: tuple[Exponent, ...] = Field(
        (0.4, 0.2, 0.3, 0.5), min_length=1, description="item exponents tried, with the best dimensions"
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
