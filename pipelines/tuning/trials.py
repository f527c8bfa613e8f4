"""The trials of a search for people: trials.csv, best.toml, and a table on the terminal."""

import csv
import io
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.config import places
from recsys.files import write_text

FINISHED, INVALID = "finished", "invalid"
TABLE, BEST, PLOT = "trials.csv", "best.toml", "trials.svg"
FIXED = ("trial", "outcome", "base", "validation", "epoch", "epochs", "seconds")
SHOWN = 10


class Row(NamedTuple):
    """One trial; validation and epoch are those of its best epoch, 0 epochs where none has ended."""

    trial: int
    outcome: str  # finished, pruned, invalid: ..., failed: ..., out of time, interrupted
    base: bool
    validation: float | None
    epoch: int
    epochs: int
    seconds: float | None
    settings: dict[str, Any]  # by names such as train.learning_rate


def best(rows: Iterable[Row]) -> Row | None:
    """The first of the best trials that have finished."""
    finished = [row for row in rows if row.outcome == FINISHED and row.validation is not None]
    return max(finished, key=score, default=None)


def base(rows: Iterable[Row]) -> Row | None:
    """The configuration that the search started from, once it has finished."""
    return best(row for row in rows if row.base)


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as --set takes them."""
    return [f"{name}={_toml(value)}" for name, value in settings.items()]


def describe(settings: Mapping[str, Any]) -> str:
    """Settings in a line, floats to four digits."""
    return ", ".join(f"{name} {_short(str(value))}" for name, value in settings.items())


def write(folder: Path, rows: list[Row], select: str) -> None:
    """Write trials.csv, and best.toml where a trial has finished: what to put into the configuration."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row.settings))
    table = csv.DictWriter(text, [*FIXED, *names], lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: getattr(row, name) for name in FIXED} | row.settings)
    write_text(folder / TABLE, text.getvalue())
    found = best(rows)
    if found is not None:
        write_text(folder / BEST, _best(found, base(rows), select))


def _best(found: Row, start: Row | None, select: str) -> str:
    lines = [f"# trial {found.trial}: validation {select} {found.validation:.4f}"]
    if start is not None:
        lines[0] += f", the base configuration {start.validation:.4f}"
    if found.base:
        return lines[0] + "\n# nothing did better than the base configuration: there is nothing to change\n"
    section = ""
    for name, value in sorted(found.settings.items()):
        if name.partition(".")[0] != section:
            section = name.partition(".")[0]
            lines += ["", f"[{section}]"]
        lines.append(f"{name.partition('.')[2]} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A bool, number or string, whose JSON is TOML as well."""
    return json.dumps(value, ensure_ascii=False)


def show(folder: Path, console: Console, select: str, words: list[str]) -> None:
    """Print the best trials and the base, and the command, `words` so far, that trains by the best."""
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=_order)
    table = Table("trial", select, "epoch", "outcome", "settings", title="Validation", title_justify="left")
    shown = [row for place, row in enumerate(rows) if place < SHOWN or row["base"] == "True"]
    for row in shown:
        settings = {name: row[name] for name in row if name not in FIXED and row[name]}
        start = "base: " if row["base"] == "True" else ""
        score = _short(row["validation"], ".4f")
        cells = row["trial"], score, row["epoch"], row["outcome"], start + describe(settings)
        table.add_row(*map(escape, cells))
    console.print(table)
    if len(rows) > len(shown):
        console.print(f"{len(rows) - len(shown)} more in {folder / TABLE}", markup=False, soft_wrap=True)
    tables = tomllib.loads((folder / BEST).read_text(encoding="utf-8"))
    found = {f"{section}.{key}": value for section, keys in tables.items() for key, value in keys.items()}
    changes = [word for change in overrides(found) for word in ("--set", change)]
    use = places.command(*words, *changes)
    lines = {"best": str(folder / BEST), "plot": str(folder / PLOT), "use it": use}
    for name, value in lines.items() if found else [("best", "the base configuration")]:
        console.print(f"{name:>10}: {value}", markup=False, highlight=False, soft_wrap=True)


def score(row: Row) -> float:
    return float("nan") if row.validation is None else row.validation


def _order(row: dict[str, str]) -> tuple[bool, float]:
    """The finished ones first, the best of them before the others."""
    return row["outcome"] != FINISHED, -float(row["validation"] or "-inf")


def _short(value: str, form: str = ".4g") -> str:
    try:
        return format(float(value), form) if "." in value or "e" in value else value
    except ValueError:
        return value
