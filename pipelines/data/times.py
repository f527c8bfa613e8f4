"""Times of a log: SQL that reads them by a format, and the formats that fit a column."""

import duckdb

from pipelines.data.sql import literal

ISO = "iso"
EPOCHS = {"epoch_s": 1e6, "epoch_ms": 1e3, "epoch_us": 1.0}  # microseconds in one of them
# ISO 8601, extended form: a date, optionally a time, optionally a zone
ISO_TEXT = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?( UTC|Z|[+-]\d{2}(:?\d{2})?)?)?"
DATES = (
    "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d",
    "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%Y-%m-%d",
)  # fmt: skip
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S", " %H:%M:%S %z")
FORMATS = [date + clock for date in DATES for clock in CLOCKS] + [
    "%Y%m%d%H%M%S", "%Y-%m-%d %H:%M:%S,%g", "%d/%b/%Y:%H:%M:%S %z", "%a %b %d %H:%M:%S %z %Y",
]  # fmt: skip
DIGITS = {"epoch_s": r"\d{9,10}(\.\d+)?", "epoch_ms": r"\d{12,13}", "epoch_us": r"\d{15,16}"}  # since 1973


def instant_of_text(text: str, time_format: str) -> str:
    """SQL: the time in UTC of a text in the format; NULL if it cannot be read."""
    if time_format == ISO:  # without a zone: the session's zone, UTC
        return (
            f"case when regexp_full_match({text}, {literal(ISO_TEXT)}) "
            f"then cast(try_cast({text} as timestamptz) as timestamp) end"
        )
    if time_format in EPOCHS:
        return instant_of_number(f"try_cast({text} as double)", time_format)
    read = f"cast(try_strptime({text}, {literal(time_format)}) as timestamp)"
    return f"if({read} >= timestamp '1000-01-01', {read}, null)"  # %Y reads 24 as the year 24


def instant_of_number(number: str, time_format: str) -> str:
    """SQL: the time in UTC of a number of seconds, milli- or microseconds since 1970."""
    return f"try(make_timestamp(cast(round({number} * {EPOCHS[time_format]:.0f}) as bigint)))"


def fitting_formats(con: duckdb.DuckDBPyConnection, table: str, column: str) -> list[str]:
    """The values of source.time_format that can read every text of a column.

    '%d-%m-%Y' and '%m-%d-%Y' both fit if no day is after the 12th.
    """
    return [name for name, share in format_shares(con, table, column).items() if share == 1]


def format_shares(con: duckdb.DuckDBPyConnection, table: str, column: str) -> dict[str, float]:
    """{value of source.time_format: share of a column's texts that it can read}."""
    tests = {name: f"regexp_full_match({column}, {literal(digits)})" for name, digits in DIGITS.items()}
    tests |= {one: f"{instant_of_text(column, one)} is not null" for one in FORMATS}
    counts = ", ".join(f"count(*) filter (where {test})" for test in tests.values())
    texts, *fits = con.execute(
        f"select count(*), {counts} from {table} where {column} is not null"
    ).fetchall()[0]
    return {name: fit / texts if texts else 0.0 for name, fit in zip(tests, fits, strict=True)}
