"""Times of a log: which are read, by which rule, and which setting would read those that are not."""

import duckdb

from pipelines.data.sql import literal

ISO = "iso"
EPOCHS = {"epoch_s": 1e6, "epoch_ms": 1e3, "epoch_us": 1.0}  # microseconds in one of them
# ISO 8601, extended form: a date, perhaps a time, perhaps a zone
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


def of_text(text: str, time_format: str) -> str:
    """SQL: the instant in UTC that an expression of text names by the format, NULL if it names none."""
    if time_format == ISO:  # without a zone it is UTC, which is the session's zone
        return (
            f"case when regexp_full_match({text}, {literal(ISO_TEXT)}) "
            f"then cast(try_cast({text} as timestamptz) as timestamp) end"
        )
    if time_format in EPOCHS:
        return of_number(f"try_cast({text} as double)", time_format)
    read = f"cast(try_strptime({text}, {literal(time_format)}) as timestamp)"
    return f"if({read} >= timestamp '1000-01-01', {read}, null)"  # %Y takes 24 for the year 24


def of_number(number: str, time_format: str) -> str:
    """SQL: the instant in UTC that lies so many seconds, milli- or microseconds after 1970."""
    return f"try(make_timestamp(cast(round({number} * {EPOCHS[time_format]:.0f}) as bigint)))"


def formats_that_fit(con: duckdb.DuckDBPyConnection, table: str, column: str) -> list[str]:
    """The settings of source.time_format by which every text of a column would be read.

    '%d-%m-%Y' and '%m-%d-%Y' both fit as long as no day is past the 12th: nobody but the shop knows which.
    """
    return [name for name, share in shares_that_fit(con, table, column).items() if share == 1]


def shares_that_fit(con: duckdb.DuckDBPyConnection, table: str, column: str) -> dict[str, float]:
    """{setting of source.time_format: share of a column's texts that it would read}."""
    tests = {name: f"regexp_full_match({column}, {literal(digits)})" for name, digits in DIGITS.items()}
    tests |= {one: f"{of_text(column, one)} is not null" for one in FORMATS}
    counts = ", ".join(f"count(*) filter (where {test})" for test in tests.values())
    texts, *fits = con.execute(
        f"select count(*), {counts} from {table} where {column} is not null"
    ).fetchall()[0]
    return {name: fit / texts if texts else 0.0 for name, fit in zip(tests, fits, strict=True)}
