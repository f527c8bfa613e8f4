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
