"""Settings of the data: the log, the items, the split, prepare and the contracts."""

from datetime import datetime
from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from pipelines.config.section import Files, Place, Section, Share

TIME_FORMATS = ("iso", "epoch_s", "epoch_ms", "epoch_us")


class Relation(Section):
    """A relation that DuckDB reads: exactly one of `query`, `files`, or `table` (of `database`)."""

    query: str | None = Field(None, description="a SELECT; relative paths start in the working directory")
    files: Files | None = Field(
        None, description="path or glob of .parquet, .csv, .tsv, .json or .ndjson files; relative as in query"
    )
    table: str | None = Field(None, description="a table or view of `database`, e.g. 'sales' or 'main.sales'")
    database: Place | None = Field(None, description="a DuckDB database file, opened read-only")
    encoding: Literal["utf-8", "utf-16", "latin-1"] | None = Field(
        None, description="of csv files; default: UTF-8, or UTF-16 if a file starts with its byte order mark"
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

    user: str = Field("user_id", description="column: the user id; integers or strings")
    item: str = Field("item_id", description="column: the item id; integers or strings")
    time: str | None = Field(None, description="column: the time of the event; UTC if it has no time zone")
    time_format: str = Field(
        "iso",
        description="format of time as text: 'iso' (ISO 8601), 'epoch_s', 'epoch_ms', 'epoch_us', "
        "or a pattern such as '%d.%m.%Y %H:%M'; of numbers: one of the epochs",
    )
    weight: str | None = Field(
        None,
        description="column: weight of the event, >= 0 (0: no interaction); default: each event has weight 1",
    )
    event: str | None = Field(None, description="column: kind of the event, weighted by `event_weights`")
    event_weights: dict[str, float] = Field({}, description="weight of each kind of event, >= 0")
    split: str | None = Field(
        None, description="column: 'train', 'validation' or 'test' (split.kind = predefined)"
    )
    title: str | None = Field(
        None, description="column: title of the item, the latest one is shown; only without [items]"
    )
    missing_ids: Literal["refuse", "drop"] = Field(
        "refuse",
        description="rows without a user or an item (NULL, NaN, blank); drop is bounded by "
        "contracts.max_missing_ids",
    )
    returns: Literal["refuse", "drop", "net"] = Field(
        "refuse",
        description="rows of negative weight; net subtracts them from the user's other events with the item "
        "in the same part of the split: a pair whose sum is <= 0 is no interaction there",
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
                f"returns = '{self.returns}' needs weight, the column that is negative for a return"
            )
        if self.time_format != "iso" and self.time is None:
            raise ValueError(f"time_format = '{self.time_format}' needs time, the column in that format")
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
    """Item metadata, optional: titles, attributes, and what places an item that nobody has yet."""

    item: str = Field("item_id", description="column: the item id, as in the log")
    title: str | None = Field(None, description="column: the title that is shown")
    attributes: tuple[str, ...] = Field((), description="columns kept as attributes of the item")
    text: tuple[str, ...] = Field((), description="columns of words about the item, for place_new")
    vectors: str | None = Field(
        None, description="column: the shop's own vector of the item, a list of numbers, for place_new"
    )
    vectors_file: Place | None = Field(
        None,
        description="instead of vectors: a .npy file of floats, a row an item; relative as in files",
    )
    vectors_ids: Place | None = Field(
        None, description="a .npy file with the item id of each row of vectors_file, as in the column item"
    )
    place_new: bool = Field(
        False,
        description="learn from attributes, text and vectors where an item belongs, and recommend described "
        "items that no fitted user has",
    )
    listed: str | None = Field(
        None,
        description="column: since when the item can be bought; default: all described items can be bought",
    )
    new_days: PositiveFloat = Field(
        90, description="with listed: an item that nobody has is recommended for so many days"
    )

    @model_validator(mode="after")
    def _place_new_needs_content(self) -> "Items":
        known = [key for key in ("attributes", "text", "has_vectors") if getattr(self, key)]
        if self.place_new and not known:
            raise ValueError(
                "place_new = true needs attributes, text or vectors (or vectors_file), to place new items by"
            )
        keys = ("text", "vectors", "vectors_file", "vectors_ids", "listed")
        unused = [key for key in keys if getattr(self, key)]
        if unused and not self.place_new:
            raise ValueError(f"{', '.join(unused)} without place_new = true, allowed: with it")
        return self

    @model_validator(mode="after")
    def _one_source_of_vectors(self) -> "Items":
        if self.vectors is not None and self.vectors_file is not None:
            raise ValueError(
                f"vectors = '{self.vectors}' and vectors_file = '{self.vectors_file}', allowed: one of them"
            )
        if (self.vectors_file is None) != (self.vectors_ids is None):
            raise ValueError("vectors_file and vectors_ids go together: the id of each row")
        return self

    @property
    def has_vectors(self) -> bool:
        """Whether items have vectors, of a column or a file."""
        return self.vectors is not None or self.vectors_file is not None


class Split(Section):
    """Which interactions are for fitting, for choices (validation), and for scoring once (test)."""

    kind: Literal["time", "leave_last_out", "predefined"] = Field(
        "time",
        description="time leaks nothing; leave_last_out fits other users' later events; predefined may leak",
    )
    test_start: datetime | None = Field(None, description="start of the test window (UTC)")
    validation_start: datetime | None = Field(None, description="start of the validation window (UTC)")
    test_days: float = Field(28, gt=0, description="length of the test window in days, without test_start")
    validation_days: float = Field(
        28, gt=0, description="length of the validation window in days, without validation_start"
    )
    min_users_per_item: int = Field(1, ge=1, description="k-core: least users per item, in the fitted part")
    min_items_per_user: int = Field(1, ge=1, description="k-core: least items per user, in the fitted part")
    cold_items: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="kind = predefined, for logs without times: share of the described items that are held "
        "out for test with all of their events, and the same share of the others for validation",
    )


class Prepare(Section):
    """How the tables are made."""

    memory_limit: str = Field(
        "4GB",
        description="memory limit of DuckDB, above which it spills to disk; also for reading the tables",
    )
    threads: int | None = Field(None, ge=1, le=512, description="DuckDB threads; default: one per core")
    mined_negatives: int = Field(1, ge=0, description="offline-mined negatives for each pair")
    now: datetime | None = Field(
        None, description="events after this time are refused; default: the current time (UTC)"
    )


class Contracts(Section):
    """Bounds on measures of the log, checked before training; None: recorded but not bounded.

    Measures that compare with the last run, or the last runs, hold in a first run.
    """

    max_changed_columns: NonNegativeInt | None = Field(
        0, description="columns whose type is not that of the last run"
    )
    max_age_hours: PositiveFloat | None = Field(None, description="hours from the last event to prepare.now")
    max_hours_back: NonNegativeFloat | None = Field(
        0, description="hours by which the log ends before the last run's: it is cut off, or a clock is wrong"
    )
    min_volume: NonNegativeFloat | None = Field(
        0.5, description="number of events, relative to the median of the last runs"
    )
    max_volume: PositiveFloat | None = Field(2.0, description="upper bound of the same")
    past_runs: PositiveInt = Field(5, description="number of last runs for the median volume")
    max_duplicate_share: Share | None = Field(
        0.5, description="share of rows that repeat another; estimated for a log of over ten million rows"
    )
    max_null_share: Share | None = Field(0.9, description="share of NULL in any column that is read")
    max_missing_ids: Share | None = Field(
        0.5, description="share of rows without a user or an item, with source.missing_ids = 'drop'"
    )
    max_returns: Share | None = Field(
        0.5,
        description="share of rows of negative weight, with source.returns = 'drop' or 'net': a wrong sign",
    )
    max_missing_words: Share | None = Field(
        0.001,
        description="share of events whose user or item is a word for a missing value: nan, NULL, None, ...",
    )
    max_events_per_user: PositiveInt | None = Field(
        None, description="events of the most active user: test accounts, bots, cash registers"
    )
    past_years: float = Field(
        30, gt=0, le=1000, description="events more years before prepare.now count for max_old_share"
    )
    max_old_share: Share | None = Field(
        0.01,
        description="share of such old events: zero dates, a wrong epoch; estimated over ten million rows",
    )
    max_midnight_share: Share | None = Field(
        None, description="share of events at 00:00:00 UTC: the time of day was lost"
    )
    max_empty_days: Share | None = Field(
        None,
        description="share of days without events between the first and the last: days and months swapped",
    )
    max_alike_ids: Share | None = Field(
        None,
        description="share of ids that differ from another only in case and blanks, of users and of items",
    )
    max_gone_users: Share | None = Field(0.3, description="share of the last run's users that this log lacks")
    max_gone_items: Share | None = Field(0.3, description="the same for items")
    max_new_users: Share | None = Field(0.5, description="share of users that the last run's log lacks")
    max_new_items: Share | None = Field(0.5, description="the same for items")
    max_user_psi: PositiveFloat | None = Field(
        0.25, description="population stability index of the events per user"
    )
    max_item_psi: PositiveFloat | None = Field(
        0.5, description="the same for the share of events per item; new items have a large effect"
    )
    max_orphan_share: Share | None = Field(None, description="share of described items without events")
    max_undescribed_share: Share | None = Field(
        0.5, description="share of events whose item is not described"
    )
