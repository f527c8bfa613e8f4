"""The configuration: one TOML file into frozen models, every key checked, every default visible here."""

import difflib
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class InputError(Exception):
    """Bad configuration or bad input: the message is all that a user of the command line sees (exit 2)."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Relation(Section):
    """Anything DuckDB reads: exactly one of `query`, `files`, or `table` (of `database`)."""

    query: str | None = Field(None, description="a SELECT; relative paths in it start where the command runs")
    files: str | None = Field(None, description="a path or glob of .parquet, .csv, .csv.gz or .json files")
    table: str | None = Field(None, description="a table or view of `database`, e.g. 'sales' or 'main.sales'")
    database: Path | None = Field(None, description="a DuckDB database file, opened read-only")

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
    time: str | None = Field(None, description="column: when; a timestamp, date or ISO 8601 text")
    weight: str | None = Field(None, description="column: how much, >= 0; without it every event counts 1")
    event: str | None = Field(None, description="column: kind of event, weighted by `event_weights`")
    event_weights: dict[str, float] = Field({}, description="weight of each kind of event, >= 0")
    split: str | None = Field(None, description="column: 'train', 'validation' or 'test' (split.kind = predefined)")

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

    kind: Literal["time", "leave_last_out", "predefined"] = "time"
    test_start: datetime | None = Field(None, description="first instant of the test window (UTC)")
    validation_start: datetime | None = Field(None, description="first instant of the validation window (UTC)")
    test_days: float = Field(28, gt=0, description="length of the test window in days, if test_start is left out")
    validation_days: float = Field(
        28, gt=0, description="length of the validation window in days, if validation_start is left out"
    )
    min_users_per_item: int = Field(1, ge=1, description="k-core: users an item must have, in the fitted part")
    min_items_per_user: int = Field(1, ge=1, description="k-core: items a user must have, in the fitted part")


class Prepare(Section):
    memory_limit: str = Field("4GB", description="memory DuckDB may use before it spills to disk")
    threads: int | None = Field(None, ge=1, description="DuckDB threads; without it one a core")
    mined_negatives: int = Field(1, ge=0, description="offline-mined negatives for each pair")
    now: datetime | None = Field(None, description="events after this instant are refused; default the clock (UTC)")


class Config(Section):
    """Everything a run depends on."""

    root: Path = Field(description="folder that holds all a run writes")
    seed: int = Field(0, ge=0, description="seed of every generator")
    source: Source
    items: Items | None = None
    split: Split = Split()
    prepare: Prepare = Prepare()

    @model_validator(mode="after")
    def _split_has_its_column(self) -> "Config":
        if self.split.kind == "predefined" and self.source.split is None:
            raise ValueError("split.kind = 'predefined' needs source.split, the column that names the part")
        if self.split.kind != "predefined" and self.source.time is None:
            raise ValueError(f"split.kind = '{self.split.kind}' needs source.time, the column that says when")
        return self

    @property
    def database(self) -> Path:
        return self.root / "recsys.duckdb"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read TOML, apply `a.b=value` overrides (values in TOML syntax, or plain text), and check every key.

    Raises InputError: no such file, not TOML, unknown key (with its near match), value out of range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"config file '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file '{path}' cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"config file '{path}' is not TOML: {error}") from None
    for override in overrides or []:
        _override(raw, override)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(raw, problem) for problem in error.errors()]
        raise InputError(f"config file '{path}': " + "; ".join(lines)) from None


def _override(raw: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise InputError(f"--set '{override}': write it as name=value, e.g. train.margin=0.5")
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


def _explain(raw: dict[str, Any], problem: Any) -> str:
    """One pydantic error as a sentence: the dotted name, its value and what is allowed."""
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where)
    if problem["type"] == "extra_forbidden":
        model: Any = Config
        for part in where[:-1]:
            model = model.model_fields[part].annotation
            model = next((a for a in getattr(model, "__args__", ()) if a is not type(None)), model)
        known = sorted(model.model_fields)
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"unknown key '{name}' ({hint})"
    if problem["type"] == "missing":
        return f"'{name}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"'{name}' = {problem['input']!r}: {message}" if where and not isinstance(problem["input"], dict) else (
        f"'{name or 'config'}': {message}"
    )
