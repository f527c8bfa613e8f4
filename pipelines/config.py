"""The configuration: one TOML file into frozen models, every key checked, every default visible here."""

import difflib
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from pipelines import places

MOST_TRIPLETS = 2**24  # of miners.every, repeated because reading a configuration shall not load torch
MOST_LETTERS = 250  # of a name in MLflow's registry
TRIPLET_LOSSES = (
    "contrastive",
    "triplet_margin",
    "triplet_soft_margin",
    "margin",
    "manifold",
    "warp",
    "bpr",
)
METRICS = ("hit_rate", "recall", "ndcg", "mrr", "map")
TIME_FORMATS = ("iso", "epoch_s", "epoch_ms", "epoch_us")


Settings = TypeVar("Settings", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
Place = Annotated[Path, BeforeValidator(places.local)]
Files = Annotated[str, BeforeValidator(places.expanded)]


class InputError(Exception):
    """Bad configuration or bad input: the message is all that a user of the command line sees (exit 2)."""


class DataError(InputError):
    """The data break a check or a contract: the message names it and shows the offending rows (exit 3)."""


class ColumnError(InputError):
    """A configured column is not there, or of a type that its role does not take."""


class BusyError(InputError):
    """Another process is at the same work (exit 5)."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Relation(Section):
    """Anything DuckDB reads: exactly one of `query`, `files`, or `table` (of `database`)."""

    query: str | None = Field(None, description="a SELECT; relative paths in it start where the command runs")
    files: Files | None = Field(
        None, description="a path or glob of .parquet, .csv, .csv.gz or .json; relative ones as in query"
    )
    table: str | None = Field(None, description="a table or view of `database`, e.g. 'sales' or 'main.sales'")
    database: Place | None = Field(None, description="a DuckDB database file, opened read-only")
    encoding: Literal["utf-8", "utf-16", "latin-1"] | None = Field(
        None, description="of files of csv; without it UTF-8, or UTF-16 where a file begins with its mark"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Relation":
        named = [key for key in ("query", "files", "table") if getattr(self, key) is not None]
        if len(named) != 1:
            raise ValueError(f"name exactly one of query, files, table (got {', '.join(named) or 'none'})")
        if self.table is not None and self.database is None:
            raise ValueError("table needs database, the DuckDB file it is in")
        return self


class Source(Relation):
    """The interaction log and the names of its columns."""

    user: str = Field("user_id", description="column: who; integers or strings")
    item: str = Field("item_id", description="column: what; integers or strings")
    time: str | None = Field(None, description="column: when; without a zone it is UTC")
    time_format: str = Field(
        "iso",
        description="how text is read: 'iso' (ISO 8601), 'epoch_s', 'epoch_ms', 'epoch_us', "
        "or a pattern such as '%d.%m.%Y %H:%M'; numbers need one of the epochs",
    )
    weight: str | None = Field(
        None, description="column: how much, >= 0 (0 is no interaction); without it each event counts 1"
    )
    event: str | None = Field(None, description="column: kind of event, weighted by `event_weights`")
    event_weights: dict[str, float] = Field({}, description="weight of each kind of event, >= 0")
    split: str | None = Field(
        None, description="column: 'train', 'validation' or 'test' (split.kind = predefined)"
    )
    title: str | None = Field(
        None, description="column: a name of the item to show people, its latest; only without [items]"
    )
    missing_ids: Literal["refuse", "drop"] = Field(
        "refuse",
        description="rows without a user or an item (NULL, NaN, blank); drop is bounded by "
        "contracts.max_missing_ids",
    )
    returns: Literal["refuse", "drop", "net"] = Field(
        "refuse",
        description="rows whose weight is below 0; net takes them off what the user took of the item in the "
        "same part of the split: a pair with a sum of 0 or less is no interaction there",
    )

    @field_validator("time_format")
    @classmethod
    def _is_a_format(cls, value: str) -> str:
        if value not in TIME_FORMATS and "%" not in value:
            raise ValueError(f"allowed: {', '.join(TIME_FORMATS)}, or a pattern such as '%d.%m.%Y %H:%M'")
        return value

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "Source":
        if self.user.lower() == self.item.lower():
            raise ValueError(f"user and item are both '{self.user}', allowed: two columns")
        if self.returns != "refuse" and self.weight is None:
            raise ValueError(
                f"returns = '{self.returns}' needs weight, the column that is below 0 for a return"
            )
        if self.time_format != "iso" and self.time is None:
            raise ValueError(f"time_format = '{self.time_format}' needs time, the column that it reads")
        return self

    @model_validator(mode="after")
    def _one_weight(self) -> "Source":
        if self.event is not None and self.weight is not None:
            raise ValueError("name weight or event, not both")
        if (self.event is None) != (not self.event_weights):
            raise ValueError("event and event_weights go together")
        bad = {name: value for name, value in self.event_weights.items() if value < 0}
        if bad:
            raise ValueError(f"event_weights must be >= 0 (got {bad})")
        return self


class Items(Relation):
    """What is known of the items: optional, read for titles and attributes."""

    item: str = Field("item_id", description="column: the item, as in the log")
    title: str | None = Field(None, description="column: a name to show people")
    attributes: tuple[str, ...] = Field((), description="columns kept beside the item")


class Split(Section):
    """Which interactions are fitted, which choose (validation), which are scored once (test)."""

    kind: Literal["time", "leave_last_out", "predefined"] = Field(
        "time",
        description="time leaks nothing; leave_last_out fits other users' later events; predefined may leak",
    )
    test_start: datetime | None = Field(None, description="first instant of the test window (UTC)")
    validation_start: datetime | None = Field(
        None, description="first instant of the validation window (UTC)"
    )
    test_days: float = Field(
        28, gt=0, description="length of the test window in days, if test_start is left out"
    )
    validation_days: float = Field(
        28, gt=0, description="length of the validation window in days, if validation_start is left out"
    )
    min_users_per_item: int = Field(
        1, ge=1, description="k-core: users an item must have, in the fitted part"
    )
    min_items_per_user: int = Field(1, ge=1, description="k-core: items a user must have, in the fitted part")


class Prepare(Section):
    memory_limit: str = Field(
        "4GB", description="memory DuckDB may use before it spills to disk, for readers of the tables too"
    )
    threads: int | None = Field(None, ge=1, le=512, description="DuckDB threads; without it one a core")
    mined_negatives: int = Field(1, ge=0, description="offline-mined negatives for each pair")
    now: datetime | None = Field(
        None, description="events after this instant are refused; default the clock (UTC)"
    )


class Space(Section):
    """The metric space: its towers, its distance, where it starts."""

    dim: int = Field(32, ge=1, description="dimensions of the learned space")
    tower: Literal["two_tables", "siamese"] = Field(
        "two_tables",
        description="a free point a user, or the mean of his items' points in the one table there is",
    )
    history_items: int = Field(
        50,
        ge=1,
        description="siamese: items drawn from a history in a step; the whole of it counts in the end",
    )
    distance: Literal["euclidean", "squared_euclidean", "cosine", "inner_product", "mahalanobis"] = Field(
        "squared_euclidean", description="smaller is closer; the offset is under the root of euclidean"
    )
    mahalanobis: Literal["diagonal", "low_rank", "full"] = Field(
        "diagonal", description="form of the learned map of distance = mahalanobis"
    )
    rank: int = Field(8, ge=1, description="rank of what low_rank adds to the identity")
    start: Literal["random", "spectral"] = Field(
        "random", description="random, or the spectrum's own space with its own offset"
    )
    start_length: float = Field(0.3, gt=0, le=1, description="length of the rows of a random start")
    offset: Literal["learned", "fixed", "none"] = Field(
        "learned", description="an offset per item, so that the space can say how popular an item is"
    )
    offset_scale: float = Field(
        0.5, gt=0, description="distance per unit of log popularity in the offset's random start"
    )
    unit_ball: bool = Field(True, description="regularizer: pull points back into the unit ball")

    @model_validator(mode="after")
    def _rank_fits(self) -> "Space":
        if self.distance == "mahalanobis" and self.mahalanobis == "low_rank" and self.rank > self.dim:
            raise ValueError(f"rank = {self.rank} must be <= dim = {self.dim}")
        if self.start == "spectral" and self.distance == "cosine" and self.dim < 2:
            raise ValueError("start = 'spectral' with distance = 'cosine' needs dim >= 2: one is for lengths")
        return self


class Loss(Section):
    """What is minimised. The first seven names are losses of mined triplets, the rest of whole lists."""

    name: Literal[
        "contrastive",
        "triplet_margin",
        "triplet_soft_margin",
        "margin",
        "manifold",
        "warp",
        "bpr",
        "sampled_softmax",
        "bsl",
        "cosine_contrastive",
        "align_uniform",
    ] = Field("warp", description="losses of mined triplets up to bpr; the others take every candidate")
    margin: float = Field(
        0.5, gt=0, description="in units of the distance; of the semi_hard miner too; of `margin` its alpha"
    )
    beta: float = Field(1.2, description="margin: the boundary between near and far, where it starts")
    beta_per_item: bool = Field(False, description="margin: each item learns a boundary of its own")
    separation: float = Field(
        1.0, ge=0, description="manifold: weight of separation between over pull within"
    )
    temperature: float = Field(0.1, gt=0, description="sampled_softmax, bsl: distance per unit of logit")
    negative_temperature: float = Field(1.2, gt=0, description="bsl: temperature of the negatives, relative")
    log_q: bool = Field(
        False, description="sampled_softmax: correct for how often an item is among the candidates"
    )
    negative_weight: float = Field(100.0, ge=0, description="cosine_contrastive: weight of the negatives")
    uniformity: float = Field(2.0, ge=0, description="align_uniform: weight of uniformity, DirectAU's gamma")
    covariance: float = Field(0.0, ge=0, description="weight of the covariance regularizer")
    l2: float = Field(0.0, ge=0, description="weight of the mean squared length of points as a regularizer")


class Mining(Section):
    """Which candidates a batch meets, and which of them make triplets."""

    miner: Literal["random", "all", "semi_hard", "hardest", "distance_weighted", "offline"] = Field(
        "semi_hard", description="offline takes the negatives that prepare mined (prepare.mined_negatives)"
    )
    warmup_epochs: int = Field(2, ge=0, description="epochs of semi_hard before hardest")
    in_batch_items: int = Field(256, ge=0, description="candidates taken from the batch's own items")
    uniform_items: int = Field(256, ge=0, description="candidates drawn uniformly from all items")
    popular_items: int = Field(0, ge=0, description="candidates drawn by popularity ^ popularity_power")
    popularity_power: float = Field(0.75, ge=0, le=1, description="0 is uniform, 1 as often as in the log")
    memory_items: int = Field(0, ge=0, description="candidates kept from recent batches (cross-batch memory)")
    availability: Literal["first_and_last", "first", "none"] = Field(
        "first",
        description="an item is no negative before it was first seen in the log, nor after it was last seen; "
        "offline negatives were mined between the two whatever it says",
    )
    user_balance: float = Field(
        0.0, ge=0, le=1, description="0: interactions as in the log; 1: every user as often as any other"
    )
    item_balance: float = Field(0.0, ge=0, le=1, description="the same of items")

    @model_validator(mode="after")
    def _some_candidates(self) -> "Mining":
        if self.in_batch_items + self.uniform_items + self.popular_items + self.memory_items < 1:
            raise ValueError("in_batch_, uniform_, popular_ and memory_items are 0: there is nothing to mine")
        return self


class Train(Section):
    """How long and in what steps it is learned, and what is added to it."""

    weight_power: float = Field(
        0.5,
        ge=0,
        le=1,
        description="a pair's loss counts its summed weight to this power; 0 counts all alike",
    )
    batch_size: int = Field(1024, ge=2, description="interactions a step")
    learning_rate: float = Field(3e-3, gt=0, description="step size of Adam")
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


class Export(Section):
    """The bundle: how exact and how dear its search may be, and how many bundles are kept."""

    recall: float = Field(0.95, gt=0, le=1, description="share of the exact top 20 that must be found")
    trees: tuple[PositiveInt, ...] = Field((10, 30, 100), min_length=1, description="Annoy trees tried")
    max_ms: PositiveFloat = Field(50, description="milliseconds that half of the queries may take")
    max_mib: PositiveInt = Field(4096, description="size of the index, in MiB, at the most")
    max_build_seconds: PositiveFloat = Field(900, description="time to build an index, at the most")
    keep: int = Field(5, ge=1, description="versions kept; current and open ones stay in any case")


class Contracts(Section):
    """What the log must look like before anything is trained; what is None is recorded but not bounded.

    Shares and ratios compare with the log of the last run, or with the last runs, and need one.
    """

    max_changed_columns: NonNegativeInt | None = Field(
        0, description="columns that the last run read as another type"
    )
    max_age_hours: PositiveFloat | None = Field(None, description="from the last event to prepare.now")
    max_hours_back: NonNegativeFloat | None = Field(
        0, description="by which the log ends before the last run's did: cut short, or a clock set back"
    )
    min_volume: NonNegativeFloat | None = Field(0.5, description="events, times the median of the last runs")
    max_volume: PositiveFloat | None = Field(2.0, description="the same")
    past_runs: PositiveInt = Field(5, description="runs whose volume is compared with")
    max_duplicate_share: Share | None = Field(
        0.5, description="of rows that repeat another; of a log over ten million rows by a sample"
    )
    max_null_share: Share | None = Field(0.9, description="of any column that is read")
    max_missing_ids: Share | None = Field(
        0.5, description="share of rows without a user or an item, where source.missing_ids drops them"
    )
    max_returns: Share | None = Field(
        0.5,
        description="share of rows below 0, where source.returns takes them: a sign that was turned around",
    )
    max_missing_words: Share | None = Field(
        0.001,
        description="share of events whose user or item is a word for a missing one: nan, NULL, None, ...",
    )
    max_events_per_user: PositiveInt | None = Field(
        None, description="of the most active user: test accounts, bots, tills that share one card"
    )
    past_years: float = Field(
        30, gt=0, le=1000, description="what is longer before prepare.now counts into max_old_share"
    )
    max_old_share: Share | None = Field(
        0.01, description="share of events so old: zero dates, a wrong epoch; of over ten million by a sample"
    )
    max_midnight_share: Share | None = Field(
        None, description="share of events at 00:00:00 UTC: dates whose time of day was lost"
    )
    max_empty_days: Share | None = Field(
        None,
        description="share of the days from the first event to the last without any: days and months swapped",
    )
    max_alike_ids: Share | None = Field(
        None, description="share of ids that equal another but for case and blanks, of users and of items"
    )
    max_gone_users: Share | None = Field(0.3, description="share of the last run's users that are no more")
    max_gone_items: Share | None = Field(0.3, description="the same of items")
    max_new_users: Share | None = Field(0.5, description="share of users that the last run did not have")
    max_new_items: Share | None = Field(0.5, description="the same of items")
    max_user_psi: PositiveFloat | None = Field(
        0.25, description="population stability index of how active users are"
    )
    max_item_psi: PositiveFloat | None = Field(
        0.5, description="the same of what share of the events items have; new ones weigh heavily"
    )
    max_orphan_share: Share | None = Field(None, description="of described items that nobody has taken")
    max_undescribed_share: Share | None = Field(0.5, description="of events whose item is not described")


class Gate(Section):
    """What a challenger must show to take the champion's place; both are asked for the same test window."""

    metric: str | None = Field(None, description="what decides; without it evaluate.select")
    margin: float = Field(
        0.02, ge=0, lt=1, description="share of the champion's metric that may be lost: non-inferiority"
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of promoting one that loses the margin")
    resamples: int = Field(10_000, ge=1000, description="of the paired bootstrap over users")
    min_reach: Share = Field(0.9, description="of users, and of items, that it knows, times the champion's")
    min_coverage: NonNegativeFloat = Field(0.5, description="of the catalogue, times the champion's")
    max_popular_share: Share = Field(
        0.1, description="by how much the most popular hundredth of the items may get more of the lists"
    )
    cold_margin: Share = Field(
        0.2, description="share of the metric that the least active users, and the rarest items, may lose"
    )
    max_overlap: Share = Field(0.9, description="share of a list that two users have in common, on average")
    max_latency: PositiveFloat = Field(3.0, description="milliseconds a query, times the champion's")


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


def _name_of_a_model(name: str) -> str:
    """One that MLflow finds again, also as models:/NAME@champion."""
    bad = [one for one in name if one in "/:?'\"" or not one.isprintable()]
    if bad or not name.strip() or name in (".", "..") or len(name) > MOST_LETTERS:
        raise ValueError(
            f"allowed: 1 to {MOST_LETTERS} characters, no / : ? quotes or control characters, not . or .."
        )
    return name


class Tracking(Section):
    """Where MLflow keeps its books."""

    uri: Annotated[SecretStr, BeforeValidator(places.store)] | None = Field(
        None, description="tracking URI; without it sqlite:///<root>/mlflow.db"
    )
    experiment: Annotated[str, AfterValidator(_name_of_a_model)] = Field(
        "recsys",
        description="experiment, and name of the registered model, of one root alone; no / : ? or quotes",
    )


class Config(Section):
    """Everything a run depends on."""

    root: Annotated[Place, AfterValidator(places.root_folder)] = Field(
        Path("var/recsys"), description="folder that holds all a run writes"
    )
    seed: int = Field(0, ge=0, description="seed of every generator")
    source: Source
    items: Items | None = None
    split: Split = Split()
    prepare: Prepare = Prepare()
    space: Space = Space()
    loss: Loss = Loss()
    mining: Mining = Mining()
    train: Train = Train()
    spectral: Spectral = Spectral()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    contracts: Contracts = Contracts()
    gate: Gate = Gate()
    warm: Warm = Warm()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _split_has_its_column(self) -> "Config":
        if self.split.kind == "predefined" and self.source.split is None:
            raise ValueError("split.kind = 'predefined' needs source.split, the column that names the part")
        if self.split.kind != "predefined" and self.source.time is None:
            raise ValueError(f"split.kind = '{self.split.kind}' needs source.time, the column that says when")
        if self.source.title is not None and self.items is not None:
            raise ValueError(
                "source.title is for a log without [items]: name items.title, or leave [items] out"
            )
        if self.contracts.max_age_hours is not None and self.source.time is None:
            raise ValueError("contracts.max_age_hours needs source.time, the column that says when")
        return self

    @model_validator(mode="after")
    def _miner_has_what_it_needs(self) -> "Config":
        mining = self.mining
        if mining.miner == "offline" and self.prepare.mined_negatives < 1:
            raise ValueError("mining.miner = 'offline' needs prepare.mined_negatives >= 1")
        mines = self.loss.name in TRIPLET_LOSSES  # whole lists mine nothing; offline says what is in them
        if mines and mining.miner == "distance_weighted" and self.space.distance != "cosine":
            raise ValueError(
                "mining.miner = 'distance_weighted' needs space.distance = 'cosine': it goes by how points "
                "are spread over a sphere"
            )
        if mines and mining.miner == "distance_weighted" and self.space.dim < 2:
            raise ValueError("mining.miner = 'distance_weighted' needs space.dim >= 2")
        if self.loss.name == "align_uniform" and self.space.distance != "cosine":
            raise ValueError(
                "loss.name = 'align_uniform' needs space.distance = 'cosine': it is uniform on the sphere"
            )
        if self.loss.name == "align_uniform" and self.space.offset == "learned":
            raise ValueError(
                "loss.name = 'align_uniform' needs space.offset = 'fixed' or 'none': alignment alone would "
                "lower every offset, the popular items' first"
            )
        if self.loss.name == "sampled_softmax" and self.loss.log_q and mining.miner == "offline":
            raise ValueError(
                "loss.log_q = true needs candidates drawn by the sampler, not mining.miner = 'offline'"
            )
        own = min(mining.in_batch_items, self.train.batch_size)
        candidates = own + mining.uniform_items + mining.popular_items + mining.memory_items
        triplets = self.train.batch_size * candidates
        if mines and mining.miner == "all" and triplets > MOST_TRIPLETS:
            raise ValueError(
                f"mining.miner = 'all' makes train.batch_size = {self.train.batch_size} times "
                f"{candidates} candidates, allowed <= {MOST_TRIPLETS} triplets"
            )
        return self

    @model_validator(mode="after")
    def _gate_goes_by_what_is_computed(self) -> "Config":
        names = [f"{metric}@{k}" for metric in METRICS for k in self.evaluate.ks]
        if self.gate.metric is not None and self.gate.metric not in names:
            raise ValueError(f"gate.metric = '{self.gate.metric}', allowed: {', '.join(names)}")
        return self

    @property
    def gate_metric(self) -> str:
        """What the gate goes by."""
        return self.gate.metric or self.evaluate.select

    @property
    def database(self) -> Path:
        return self.root / "recsys.duckdb"

    @property
    def history(self) -> Path:
        return self.root / "history.duckdb"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """The configuration of a run. Raises InputError as read_toml does."""
    return read_toml(Config, path, overrides)


def read_toml(model: type[Settings], path: Path | None, overrides: list[str] | None = None) -> Settings:
    """Read TOML, apply `a.b=value` overrides (values in TOML syntax, or plain text), and check every key.

    Without a path all is at its default but for the overrides.
    Raises InputError: no such file, not TOML, unknown key (with its near match), value out of range.
    """
    raw = read_tables(path) if path else {}
    where = (f"config file '{path}'" if path else "defaults") + (" with --set" if overrides else "")
    for override in overrides or []:
        _override(raw, override)
    return validated(model, raw, where)


def read_tables(path: Path) -> dict[str, Any]:
    """A TOML file as it is. Raises InputError: no such file, not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"config file '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file '{path}' cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"config file '{path}' is not TOML: {error}") from None


def validated(model: type[Settings], raw: Any, where: str) -> Settings:
    """The model of the raw values. Raises InputError: each unknown key or bad value, after `where`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = error.errors()
        below = {problem["loc"][:n] for problem in problems for n in range(len(problem["loc"]))}
        lines = [  # a list of bad values alone is not too short
            _explain(model, problem)
            for problem in problems
            if not (problem["type"] == "too_short" and problem["loc"] in below)
        ]
        raise InputError(f"{where}: " + "; ".join(lines)) from None


def changed(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with other values of 'section.key'. Raises InputError as `validated` does."""
    raw = config.model_dump()
    for name, value in values.items():
        section, _, key = name.partition(".")
        raw[section] |= {key: value}
    return validated(Config, raw, "these settings")


def _override(raw: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise InputError(f"--set '{override}': write it as name=value, e.g. loss.margin=0.5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.strip().split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise InputError(f"--set '{override}': '{section}' is not a section")
    raw[key] = value


def _explain(whole: type[BaseModel], problem: Any) -> str:
    """One pydantic error as a sentence: the dotted name, its value and what is allowed."""
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where)
    if problem["type"] == "extra_forbidden":
        model: Any = whole
        for part in problem["loc"][:-1]:
            if isinstance(part, int):  # a place in a list of sections
                continue
            model = model.model_fields[part].annotation
            model = next((a for a in getattr(model, "__args__", ()) if a is not type(None)), model)
        known = sorted(model.model_fields)
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"unknown key '{name}' ({hint})"
    if problem["type"] == "missing":
        return f"'{name}' is missing"
    message = {
        "model_type": "allowed: a table, { key = value }",
        "tuple_type": "allowed: a list, [ ... ]",
    }.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return (
        f"'{name}' = {problem['input']!r}: {message}"
        if where and not isinstance(problem["input"], dict)
        else (f"'{name or 'config'}': {message}")
    )
