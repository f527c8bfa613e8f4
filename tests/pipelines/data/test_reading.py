"""Random logs in every type of file: all are read with the same ids, times and counts, or all are refused."""

import csv
import gzip
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.config.data import Source
from pipelines.config.errors import InputError
from pipelines.data.source import read_log

HEAD = ("user_id", "item_id", "at")
Row = tuple[Any, Any, datetime]

ODD = (
    *("01003", "1003", "+1003", "-0", "0", "1e3", "1003.0", "1_003", "0x10", "NaN", "NULL", "inf", "true"),
    *(
        " x",
        "x ",
        "#x",
        '"',
        '""',
        "'",
        "a,b",
        "a;b",
        "a\tb",
        "a\nb",
        "a\r\nb",
        "\\",
        "\\N",
        "\\n",
        "{}",
        "[1]",
    ),
    *(
        "é",
        "e\u0301",
        "😀",
        "\u2028",
        "\ufeffx",
        str(2**63),
        str(2**63 - 1),
        str(-(2**63)),
        "٣",
        "2024-01-02",
    ),
)
texts = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1),
)
integers = st.integers(-(2**63), 2**63 - 1)
instants = st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1))


def logs(ids: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Row]]:
    return st.lists(st.tuples(ids, ids, instants), min_size=1, max_size=12)


def as_csv(rows: list[Row], **dialect: Any) -> str:
    file = io.StringIO(newline="")
    if any("\r" in field for row in rows for field in row[:2] if isinstance(field, str)):
        dialect.setdefault("quoting", csv.QUOTE_ALL)  # Python < 3.13 leaves a lone \r without quotes
    writer = csv.writer(file, lineterminator="\n", **dialect)
    writer.writerows([HEAD, *((user, item, at.isoformat()) for user, item, at in rows)])
    return file.getvalue()


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    return [dict(zip(HEAD, (user, item, at.isoformat(sep=" ")), strict=True)) for user, item, at in rows]


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=list(HEAD), orient="row")


def table(path: Path, rows: list[Row]) -> None:
    made = frame(rows)
    with duckdb.connect(path) as con:
        con.execute("create table sold as select * from made")
    assert len(made) == len(rows)


WRITERS: dict[str, Callable[[Path, list[Row]], Any]] = {
    "log.csv": lambda path, rows: path.write_bytes(as_csv(rows).encode()),
    "quoted.csv": lambda path, rows: path.write_bytes(as_csv(rows, quoting=csv.QUOTE_ALL).encode()),
    "semicolons.csv": lambda path, rows: path.write_bytes(as_csv(rows, delimiter=";").encode()),
    "tabs.tsv": lambda path, rows: path.write_bytes(as_csv(rows, delimiter="\t").encode()),
    "utf16.csv": lambda path, rows: path.write_bytes(as_csv(rows).encode("utf-16")),
    "log.csv.gz": lambda path, rows: path.write_bytes(gzip.compress(as_csv(rows).encode())),
    "log.json": lambda path, rows: path.write_text(json.dumps(as_json(rows)), encoding="utf-8"),
    "log.ndjson": lambda path, rows: path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in as_json(rows)), encoding="utf-8"
    ),
    "log.parquet": lambda path, rows: frame(rows).write_parquet(path),
    "log.duckdb": table,
}


def read(path: Path) -> Counter[tuple[Any, ...]] | str:
    """(user, item, time) as they are read, ids as text, and how often; or the message that refuses them."""
    place = {"table": "sold", "database": path} if path.suffix == ".duckdb" else {"files": str(path)}
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("attach ':memory:' as recsys; use recsys; set timezone = 'UTC'")
        try:
            read_log(con, Source.model_validate(place | {"time": "at"}), None)
        except InputError as error:
            return str(error)
        rows = con.execute("select user_id, item_id, event_at from source_log").fetchall()
    return Counter((_text(user), _text(item), at) for user, item, at in rows)


def _text(external: Any) -> str | None:
    return None if external is None else str(external)


def everywhere(rows: list[Row]) -> dict[str, Counter[tuple[Any, ...]] | str]:
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, write in WRITERS.items():
            path = Path(folder, name)
            write(path, rows)
            found[name] = read(path)
    return found


def is_blank(external: Any) -> bool:
    return isinstance(external, str) and not external.strip(" \t\n\r")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=logs(texts))
@example(rows=[("01003", "1003", datetime(2024, 1, 2)), ("1003", "01003", datetime(2024, 1, 2))])
@example(rows=[(odd, other, datetime(2024, 1, 2, 3, 4, 5, 600)) for odd in ODD for other in ODD[:2]])
def test_text_ids_are_the_same_from_every_file_type(rows: list[Row]) -> None:
    expected = Counter(
        (None if is_blank(user) else user, None if is_blank(item) else item, at) for user, item, at in rows
    )
    for name, found in everywhere(rows).items():
        assert found == expected, name


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=logs(integers))
def test_integer_ids_are_the_same_from_every_file_type(rows: list[Row]) -> None:
    expected = Counter((str(user), str(item), at) for user, item, at in rows)
    for name, found in everywhere(rows).items():
        assert found == expected, name


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    numbers=st.lists(
        st.one_of(
            st.integers(-(2**53) + 1, 2**53 - 1).map(float), st.floats(allow_nan=False, allow_infinity=False)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_ids_with_a_decimal_point_are_integers_or_refused(numbers: list[float]) -> None:
    """Parquet, tables and JSON: exact integers, or refused."""
    rows = [(number, 1, datetime(2024, 1, 2)) for number in numbers]
    whole = all(number.is_integer() and abs(number) < 2**53 for number in numbers)
    found = everywhere(rows)
    for name in ("log.parquet", "log.duckdb", "log.json", "log.ndjson"):
        if whole:
            assert found[name] == Counter((str(int(one)), "1", rows[0][2]) for one in numbers), name
        else:
            assert isinstance(found[name], str), (name, found[name])
            assert "source.user = 'user_id'" in str(found[name])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    moment=instants,
    zone=st.integers(-23 * 60, 23 * 60),
    digits=st.integers(0, 6),
    separator=st.sampled_from("T "),
)
def test_iso_times_are_read_to_the_microsecond(
    moment: datetime, zone: int, digits: int, separator: str
) -> None:
    shown = moment.replace(microsecond=moment.microsecond // 10 ** (6 - digits) * 10 ** (6 - digits))
    text = shown.strftime(f"%Y-%m-%d{separator}%H:%M:%S") + (
        f".{shown.microsecond:06}"[: digits + 1] if digits else ""
    )
    offset = f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02}:{abs(zone) % 60:02}"
    with tempfile.TemporaryDirectory() as folder:
        for written, expected in (
            (text, shown),
            (text + "Z", shown),
            (text + offset, shown - timedelta(minutes=zone)),
        ):
            path = Path(folder, "log.csv")
            path.write_text(f"user_id,item_id,at\n1,2,{written}\n", encoding="utf-8")
            assert read(path) == Counter([("1", "2", expected)]), written


@pytest.mark.parametrize(
    "written",
    [
        *("01-02-2024", "1.2.2024", "24-01-02", "2024/01/02", "2024-1-2", "20240102", "1704067200", "epoch"),
        *("infinity", "now", "today", "2024-02-30", "2024-13-01", "2024-W01-1", "2024-01-02 (BC)", "noon"),
        *(
            "2024-01-02T10",
            "2024-01-02 10:11:12 Europe/Berlin",
            "2024-01-02T10:11:12,5",
            "12024-01-02",
            "-2024-01-02",
        ),
    ],
)
def test_times_that_are_not_iso_are_not_read(tmp_path: Path, written: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f'user_id,item_id,at\n1,2,"{written}"\n', encoding="utf-8")
    assert read(path) == Counter([("1", "2", None)])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)))
def test_epochs_are_exact(moment: datetime) -> None:
    microseconds = round(
        (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)
    )
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as con:
        con.execute("attach ':memory:' as recsys; use recsys")
        for unit, size in (("epoch_s", 1_000_000), ("epoch_ms", 1000), ("epoch_us", 1)):
            number, expected = microseconds // size, moment - timedelta(microseconds=microseconds % size)
            path = Path(folder, f"{unit}.csv")
            path.write_text(f"user_id,item_id,at\n1,2,{number}\n", encoding="utf-8")
            parquet = path.with_suffix(".parquet")
            pl.DataFrame({"user_id": [1], "item_id": [2], "at": [number]}).write_parquet(parquet)
            for file in (path, parquet):
                source = Source.model_validate({"files": str(file), "time": "at", "time_format": unit})
                read_log(con, source, None)
                assert con.execute("select event_at from source_log").fetchall() == [(expected,)], (
                    unit,
                    file,
                )
                con.execute("drop view temp.source_log")
                for name in ("rows", "items", "columns", "unread", "event_weights"):
                    con.execute(f"drop table temp.source_{name}")
