"""The whole configuration of a run: its sections, and the rules between them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from pipelines.config import places
from pipelines.config.data import Contracts, Items, Prepare, Source, Split
from pipelines.config.release import Export, Gate, Tracking
from pipelines.config.section import METRICS, Place, Section
from pipelines.config.training import (
    MOST_TRIPLETS,
    NEW_ITEMS_SPACES,
    Evaluate,
    Graph,
    Loss,
    Mining,
    Space,
    Spectral,
    Train,
    TrainedSpace,
    Warm,
)
from recsys.settings import MIXING_LOSSES, Settings, conflicts

# The keys that messages of the library name, as a config file writes them.
KEYS = {
    "miner": "mining.miner",
    "distance": "space.distance",
    "dim": "space.dim",
    "tower": "space.tower",
    "start": "space.start",
    "offset": "space.offset",
    "loss": "loss.name",
    "log_q": "loss.log_q",
}


class Learning(Section):
    """What a choice and its fit depend on, whatever the interactions come from."""

    seed: int = Field(0, ge=0, description="seed of every generator")
    space: Space = Space()
    loss: Loss = Loss()
    mining: Mining = Mining()
    graph: Graph = Graph()
    train: Train = Train()
    spectral: Spectral = Spectral()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()

    @model_validator(mode="after")
    def _require_valid_training(self) -> "Learning":
        mining = self.mining
        settings = self.settings()
        for conflict in conflicts(settings):
            raise ValueError(conflict.format(**KEYS))
        for number, space in enumerate(self.train.spaces, 1):
            if space.kind == "metric":
                loss, start = space.loss or settings.loss, space.start or settings.start
                for conflict in conflicts(settings._replace(loss=loss, start=start)):
                    given = [name for name in ("loss", "start") if getattr(space, name) is not None]
                    keys = {name: f"train.spaces, number {number}: {name}" for name in given}
                    raise ValueError(conflict.format(**(KEYS | keys)))
        if mining.synthetic_items > 0 and not any(loss in MIXING_LOSSES for loss in self._losses):
            raise ValueError(
                f"mining.synthetic_items = {mining.synthetic_items} without a space of a loss that takes "
                f"them, allowed: {', '.join(MIXING_LOSSES)}"
            )
        own = min(mining.in_batch_items, self.train.batch_size)
        candidates = own + mining.uniform_items + mining.popular_items + mining.memory_items
        triplets = self.train.batch_size * candidates
        if settings.mines_triplets and mining.miner == "all" and triplets > MOST_TRIPLETS:
            raise ValueError(
                f"mining.miner = 'all' makes train.batch_size = {self.train.batch_size} times "
                f"{candidates} candidates, allowed <= {MOST_TRIPLETS} triplets"
            )
        return self

    @property
    def _losses(self) -> list[str]:
        """The loss of each planned space."""
        sections = {"graph": self.graph.loss, "metric": self.loss.name}
        return [space.loss or sections[space.kind] for space in self.train.spaces]

    def start_of(self, space: TrainedSpace) -> str:
        """Where a planned space starts."""
        return space.start or (self.space.start if space.kind == "metric" else "spectral")

    def settings(self, item_exponent: float = 0.4) -> Settings:
        """The settings of the library; item_exponent is of a spectral start."""
        sections = (self.space, self.loss, self.mining, self.train)
        known = {name: value for section in sections for name, value in section}
        known |= {"loss": self.loss.name, "seed": self.seed, "item_exponent": item_exponent}
        return Settings(**{name: known[name] for name in Settings._fields if name in known})


class Config(Learning):
    """Everything a run depends on."""

    root: Annotated[Place, AfterValidator(places.root_folder)] = Field(
        Path("var/recsys"), description="folder for everything a run writes"
    )
    source: Source
    items: Items | None = None
    split: Split = Split()
    prepare: Prepare = Prepare()
    contracts: Contracts = Contracts()
    gate: Gate = Gate()
    warm: Warm = Warm()
    tracking: Tracking = Tracking()

    @model_validator(mode="before")
    @classmethod
    def _spaces_of_new_items(cls, given: Any) -> Any:
        """The default of train.spaces with items.place_new."""
        items, train = (given.get(name) for name in ("items", "train"))
        places_new = items.get("place_new") if isinstance(items, dict) else getattr(items, "place_new", False)
        if places_new and (train is None or (isinstance(train, dict) and "spaces" not in train)):
            return given | {"train": (train or {}) | {"spaces": NEW_ITEMS_SPACES}}
        return given

    @model_validator(mode="after")
    def _require_columns(self) -> "Config":
        if self.split.kind == "predefined" and self.source.split is None:
            raise ValueError("split.kind = 'predefined' needs source.split, the column with the part")
        if self.split.kind != "predefined" and self.source.time is None:
            raise ValueError(f"split.kind = '{self.split.kind}' needs source.time, the column with the time")
        if self.source.title is not None and self.items is not None:
            raise ValueError(
                "source.title is for a log without [items]: name items.title, or leave [items] out"
            )
        if self.contracts.max_age_hours is not None and self.source.time is None:
            raise ValueError("contracts.max_age_hours needs source.time, the column with the time")
        return self

    @model_validator(mode="after")
    def _require_content(self) -> "Config":
        has_content = any(self.start_of(space) == "content" for space in self.train.spaces)
        if has_content and not self.places_new:
            raise ValueError("train.spaces with start = 'content' needs items.place_new = true")
        if self.places_new and not has_content:
            raise ValueError(
                "items.place_new = true needs a space with start = 'content' in train.spaces, which learns "
                "where new items belong"
            )
        if self.loss.attribute_weight > 0 and not (
            self.items is not None and self.places_new and (self.items.attributes or self.items.text)
        ):
            raise ValueError(
                f"loss.attribute_weight = {self.loss.attribute_weight:g} needs items.place_new = true and "
                "items.attributes or items.text: what items share"
            )
        return self

    @model_validator(mode="after")
    def _require_times_of_listing(self) -> "Config":
        if self.items is not None and self.items.listed is not None and self.source.time is None:
            raise ValueError("items.listed needs source.time: an item is new by when the log ends")
        return self

    @model_validator(mode="after")
    def _require_cold_items(self) -> "Config":
        if self.split.cold_items == 0:
            return self
        if self.split.kind != "predefined":
            raise ValueError(
                f"split.cold_items = {self.split.cold_items:g} with split.kind = '{self.split.kind}', "
                "allowed: predefined; a split by time has new items of its own"
            )
        if not self.places_new:
            raise ValueError("split.cold_items needs items.place_new = true, as nothing else ranks them")
        return self

    @property
    def places_new(self) -> bool:
        """Whether items that nobody has are placed by what is known about them."""
        return self.items is not None and self.items.place_new

    @model_validator(mode="after")
    def _require_mined_negatives(self) -> "Config":
        if self.mining.miner == "offline" and self.prepare.mined_negatives < 1:
            raise ValueError("mining.miner = 'offline' needs prepare.mined_negatives >= 1")
        return self

    @model_validator(mode="after")
    def _require_computed_gate_metric(self) -> "Config":
        names = [f"{metric}@{k}" for metric in METRICS for k in self.evaluate.ks]
        if self.gate.metric is not None and self.gate.metric not in names:
            raise ValueError(f"gate.metric = '{self.gate.metric}', allowed: {', '.join(names)}")
        return self

    @property
    def gate_metric(self) -> str:
        """The metric by which the gate decides."""
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
