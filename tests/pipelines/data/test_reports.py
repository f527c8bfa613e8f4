"""Files as shops have them, tests/reports: each is read as it is written, or refused with what mends it.

The real command line reads each with the few lines of configuration that a person would write.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars as pl
import pytest
from shop import Ran, recsys

from pipelines.data.guesses import AS_TEXT

START = datetime(2024, 2, 1)
REPORTS = Path(__file__).parent / "reports"
INTEGERS = "is read as integers: all are integers in canonical form"
REPEATED = {"max_duplicate_share": 1}
MISSING, RETURNS = {"missing_ids": "drop"}, {"weight": "quantity", "returns": "net"}


class Read(NamedTuple):
    """A file that is read: its users, lines of the log, settings it needs."""

    users: list[Any]
    says: tuple[str, ...] = ()
    source: dict[str, Any] = {}  # noqa: RUF012
    contracts: dict[str, Any] = {}  # noqa: RUF012


class Refused(NamedTuple):
    """A file that is refused: exit code, words in the message, settings."""

    code: int
    words: tuple[str, ...]
    source: dict[str, Any] = {}  # noqa: RUF012


NUMBERS = [7, 1003, 1004]
CASES: list[tuple[str, Read | Refused]] = [
    ("ids_of_whole_numbers.csv", Read(NUMBERS, (f"source.user = 'user_id' {INTEGERS}",))),
    ("ids_of_whole_numbers.json", Read(NUMBERS, (f"source.user = 'user_id' {INTEGERS}",))),
    ("ids_of_whole_numbers.parquet", Read([7, 1004, 17850])),
    (
        "ids_zero_padded_after_the_sample.csv.gz",
        Read(
            ["01003", "1003", "1004"],
            ("source.user = 'user_id' is read as text: row 21001 has '01003'",),
            contracts=REPEATED,
        ),
    ),
    ("ids_partly_numbers.ndjson", Read(["01003", "1003", "A-56"], ("is read as text: row 2 has 'A-56'",))),
    ("ids_with_a_point.ndjson", Read([1004, 17850], (INTEGERS,))),
    ("ids_with_a_fraction.ndjson", Refused(2, ("source.user = 'user_id'", "17850.5", "strings and whole"))),
    ("ids_that_are_nan.ndjson", Read([7, 1003], source=MISSING)),
    ("ids_that_are_objects.ndjson", Refused(2, ("source.user = 'user_id'", '{"a":1}', "strings and whole"))),
    ("ids_that_are_true.ndjson", Refused(2, ("source.user = 'user_id'", "true", "strings and whole"))),
    ("ids_with_a_point.csv", Read(["1004.0", "17850.0"], ("row 1 has '17850.0'", "all end in .0"))),
    ("ids_past_64_bits.csv", Read(["7", str(2**63)], (f"row 1 has '{2**63}'",))),
    ("ids_with_blanks.csv", Read([" 1003", "1003", "1003 "], ("row 1 has ' 1003'",))),
    ("ids_with_signs.csv", Read(["+5", "-0", "5"], ("row 1 has '+5'",))),
    ("ids_in_quotes.csv", Read(["01003", "a,b", 'say "hi"'])),
    (
        "ids_in_quotes_after_the_sample.csv.gz",
        Read(["1003", "1004", "7", "a,b"], ("has 'a,b'",), contracts=REPEATED),
    ),
    ("ids_that_look_like_comments.csv", Read(["#1", "#2"])),
    ("ids_that_are_missing.csv", Refused(3, ("missing_ids", "20", "source.missing_ids = 'drop'"))),
    ("ids_that_are_missing.csv", Read([7, 1003], source=MISSING)),
    ("ids_that_are_blank.csv", Refused(3, ("missing_ids", "source.missing_ids = 'drop'"))),
    ("ids_that_are_blank.csv", Read([7, 1003], source=MISSING)),
    ("ids_that_say_nan.csv", Refused(3, ("missing_words", "id = 'nan'", "events = 20"))),
    ("ids_that_say_nan.csv", Read(["1003", "7", "nan"], contracts={"max_missing_words": 1})),
    ("ids_with_byte_0.ndjson", Refused(3, ("ids_with_byte_0",))),
    ("ids_with_byte_0.parquet", Refused(3, ("ids_with_byte_0",))),
    (
        "ids_of_several_types_*.parquet",
        Read(
            ["017850", "1004", "17850", "7"],
            ("BIGINT in", "ids_of_several_types_1.parquet", "VARCHAR in", "a type that holds all"),
        ),
    ),
    ("ids_of_several_widths_*.parquet", Read([n + far for far in (0, 2**40) for n in (7, 1004, 17850)])),
    ("ids_in_some_files_*.parquet", Refused(2, ("source.user", "ids_in_some_files_2.parquet' has no such"))),
    ("ids_boolean_in_some_files_*.parquet", Refused(2, ("BOOLEAN in", "cast them to one type"))),
    ("ids_decimal_of_25_places.parquet", Read([7, 1004, 17850])),
    ("ids_double_with_gaps.parquet", Refused(3, ("missing_ids", "source.missing_ids = 'drop'"))),
    ("ids_double_with_gaps.parquet", Read([7, 17850], source=MISSING)),
    ("ids_double_nan.parquet", Read([7, 17850], source=MISSING)),
    ("ids_double_with_a_fraction.parquet", Refused(2, ("type double", "17850.5", "source.query = 'select"))),
    ("ids_double_past_2_53.parquet", Refused(2, ("type double", "rounded already"))),
    ("ids_float_past_2_24.parquet", Refused(2, ("type float", "rounded already"))),
    ("ids_decimal.parquet", Read([7, 1004, 17850])),
    ("ids_decimal_with_a_fraction.parquet", Refused(2, ("type decimal", "17850.50"))),
    (
        "ids_boolean.parquet",
        Refused(2, ("type boolean", 'source.query = \'select * replace (cast("user_id"')),
    ),
    ("ids_unsigned_64_bits.parquet", Read([str(2**63 + n) for n in (7, 1004, 17850)])),
    (
        "times_day_first.ndjson",
        Refused(3, ("unread_times", "'01-02-2024'", "source.time_format", "%d-%m-%Y")),
    ),
    ("times_day_first.ndjson", Read(NUMBERS, source={"time_format": "%d-%m-%Y"})),
    (
        "times_day_or_month_first.ndjson",
        Refused(3, ("unread_times", "'01-02-2024'", "source.time_format", "'%d-%m-%Y' or '%m-%d-%Y'")),
    ),
    ("times_month_first.csv", Refused(3, ("unread_times", "'02/01/2024 00:00'", "'%m/%d/%Y %H:%M'"))),
    ("times_month_first.csv", Read(NUMBERS, source={"time_format": "%m/%d/%Y %H:%M"})),
    ("times_with_points.csv", Refused(3, ("unread_times", "'%d.%m.%Y %H:%M'"))),
    ("times_with_points.csv", Read(NUMBERS, source={"time_format": "%d.%m.%Y %H:%M"})),
    ("times_of_two_digit_years.csv", Refused(3, ("unread_times", "'24-02-01'"))),
    ("times_of_two_digit_years.csv", Read(NUMBERS, source={"time_format": "%y-%m-%d"})),
    (
        "times_of_two_digit_years_late.csv",
        Refused(3, ("unread_times", "'01.02.24'", "rows: 1,"), {"time_format": "%d.%m.%Y"}),
    ),
    ("times_day_first_late.csv", Refused(3, ("time_format_that_reads_all = \"'%d-%m-%Y'\"",))),
    ("times_with_zones.csv", Read(NUMBERS)),
    ("times_epoch_s.csv", Refused(3, ("unread_times", "'epoch_s'"))),
    ("times_epoch_s.csv", Read(NUMBERS, source={"time_format": "epoch_s"})),
    (
        "times_epoch_s.csv",
        Refused(3, ("times", "old_share", "events of 1970-01-20"), {"time_format": "epoch_ms"}),
    ),
    ("times_epoch_ms.ndjson", Refused(3, ("unread_times", "'epoch_ms'"))),
    ("times_epoch_ms.ndjson", Read(NUMBERS, source={"time_format": "epoch_ms"})),
    ("times_epoch_us.parquet", Refused(2, ("source.time = 'at' is a column of type bigint", "'epoch_us'"))),
    ("times_epoch_us.parquet", Read(NUMBERS, source={"time_format": "epoch_us"})),
    ("times_ns.parquet", Read(NUMBERS)),
    (
        "times_ns.parquet",
        Refused(2, ("type timestamp_ns", "leave source.time_format out"), {"time_format": "epoch_s"}),
    ),
    ("times_text.parquet", Refused(3, ("unread_times", "%d-%m-%Y"))),
    ("times_text.parquet", Read(NUMBERS, source={"time_format": "%d-%m-%Y"})),
    ("times_of_1900.csv", Refused(3, ("old_share", "events of 1900-01-01"))),
    (
        "weights_returns.csv",
        Refused(3, ("bad_weights", "source.returns = 'drop' or 'net'"), {"weight": "quantity"}),
    ),
    ("weights_returns.csv", Read(NUMBERS, ("are fully returned in their part",), source=RETURNS)),
    ("weights_with_commas.csv", Refused(3, ("bad_weights", "written = '1,5'"), {"weight": "quantity"})),
    ("users_bot.csv", Read([7, 666, 1003, 1004])),
    ("titles_in_the_log.csv", Read(NUMBERS, source={"title": "name"})),
    ("ids_alike.csv", Read(["Ann", "Bob", "ann "])),
    ("file_utf16.csv", Read(["b", "c", "é"])),
    ("file_utf16_big_endian.csv", Refused(2, ("file_utf16_big_endian.csv", "iconv -f UTF-16 -t UTF-8"))),
    (
        "file_utf16_without_mark.csv",
        Refused(2, ("line 1", "expected text in UTF-8", "source.encoding = 'utf-16'")),
    ),
    ("file_utf16_without_mark.csv", Read(["b", "c", "é"], source={"encoding": "utf-16"})),
    ("file_latin1.csv", Refused(2, ("Line: 2", "not utf-8", "encoding = 'latin-1'", "file_latin1.csv"))),
    ("file_latin1.csv", Read(["b", "c", "é"], source={"encoding": "latin-1"})),
    (
        "ids_of_whole_numbers.parquet",
        Refused(2, ("source.encoding = 'latin-1': allowed only for csv files",), {"encoding": "latin-1"}),
    ),
    ("file_cp1252.csv", Refused(2, ("not utf-8", "iconv -f CP1252 -t UTF-8", "file_cp1252.csv"))),
    ("file_cp1252.csv", Refused(2, ("not latin-1", "iconv -f CP1252"), {"encoding": "latin-1"})),
    ("file_utf8_with_mark.csv", Read(["b", "c", "é"])),
    (
        "file_mixed_line_ends.csv",
        Refused(2, ("line 62 of", "file_mixed_line_ends.csv", "\\n", "\\r\\n", "tr -d")),
    ),
    ("file_crlf.csv", Read(NUMBERS)),
    ("file_preamble.csv", Read(NUMBERS, ("file_preamble.csv' is read from its header in line 4",))),
    ("file_preamble_in_quotes.csv", Refused(2, ("line 1 of", "before the header, holds a quote"))),
    (
        "file_keys_of_some_*.ndjson",
        Refused(2, ("source.user = 'user_id'", "file_keys_of_some_2.ndjson', only User ID")),
    ),
    ("file_semicolons.csv", Read(NUMBERS)),
    ("file_tabs.tsv", Read(NUMBERS)),
    (
        "file_wider_row.csv",
        Refused(
            2,
            (
                "Line: 1502",
                "7,5,2024-02-20,oops",
                "Expected Number of Columns: 3 Found: 4",
                "in a query, these are options of read_csv",
                "file_wider_row.csv",
            ),
        ),
    ),
    ("file_narrower_row.csv", Refused(2, ("Line: 1502", "Expected Number of Columns: 3 Found: 2"))),
    (
        "file_without_header.csv",
        Refused(2, ("source.user = 'user_id'", "line 1 of", "file_without_header.csv")),
    ),
    ("file_empty.csv", Refused(2, ("file_empty.csv' is empty",))),
    ("file_header_twice.csv", Refused(2, ("file_header_twice.csv", "'user_id' twice"))),
    ("file_columns_in_order_*.csv", Read([7, 1003, 1004, 2003, 2004])),
    ("file_gzip_named_csv.csv", Refused(2, ("compressed by gzip", ".csv.gz"))),
    ("file_csv_named_gzip.csv.gz", Refused(2, ("file_csv_named_gzip.csv.gz", "Not a gzipped file"))),
    ("file_cut_short.ndjson", Refused(2, ("file_cut_short.ndjson", "line 62"))),
    ("file_utf16.ndjson", Refused(2, ("file_utf16.ndjson", "UTF-16 encoding is not supported"))),
]
MADE_OTHERWISE = "attributes_of_any_type"


def ran(folder: Path, files: Path | str, sections: dict[str, dict[str, Any]]) -> Ran:
    """Run `recsys prepare` with a short config, root folder/root."""
    source = {"files": str(files), "time": "at"} | sections.get("source", {})
    split = {"test_days": 5, "validation_days": 5}
    whole = {"split": split, "prepare": {"threads": 1}} | sections | {"source": source}
    lines = [f"root = {json.dumps(str(folder / 'root'))}"]
    for name, section in whole.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    (folder / "shop.toml").write_text("\n".join(lines), encoding="utf-8")
    return recsys("prepare", "--config", folder / "shop.toml")


def prepared(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(folder / "root" / "recsys.duckdb", read_only=True) as con:
        return con.execute(query).fetchall()


@pytest.mark.parametrize(
    ("name", "case"), CASES, ids=[f"{name} {type(case).__name__}" for name, case in CASES]
)
def test_each_file_is_read_exactly_or_refused(tmp_path: Path, name: str, case: Read | Refused) -> None:
    sections = {"source": case.source} | ({"contracts": case.contracts} if isinstance(case, Read) else {})
    found = ran(tmp_path, REPORTS / name, sections)
    assert "Traceback" not in found.err
    if isinstance(case, Refused):
        assert found.code == case.code, found.err
        for word in case.words:
            assert word in found.err, found.err
        assert not (tmp_path / "root" / "recsys.duckdb").exists()
        return
    assert found.code == 0, found.err
    users = [user for (user,) in prepared(tmp_path, "select user_id from profile_users order by user_id")]
    assert users == case.users
    for line in case.says:
        assert line in found.err, found.err


def test_every_file_in_reports_is_tested() -> None:
    named = {path.name for name, _ in CASES for path in REPORTS.glob(name)}
    there = {path.name for path in REPORTS.iterdir() if path.suffix not in (".py", "")}
    assert {name for name in there - named if not name.startswith(MADE_OTHERWISE)} == set()


@pytest.mark.parametrize(
    ("name", "source", "first", "last"),
    [
        ("times_with_zones.csv", {}, datetime(2024, 2, 2, 1, 30), datetime(2024, 2, 21, 1, 30)),
        ("times_day_first.ndjson", {"time_format": "%d-%m-%Y"}, datetime(2024, 2, 1), datetime(2024, 2, 20)),
        ("times_epoch_us.parquet", {"time_format": "epoch_us"}, datetime(2024, 2, 1), datetime(2024, 2, 20)),
        ("times_epoch_ms.ndjson", {"time_format": "epoch_ms"}, datetime(2024, 2, 1), datetime(2024, 2, 20)),
        ("times_epoch_s.csv", {"time_format": "epoch_s"}, datetime(2024, 2, 1), datetime(2024, 2, 20)),
        ("times_ns.parquet", {}, datetime(2024, 2, 1), datetime(2024, 2, 20)),
    ],
)
def test_times_are_read_exactly(
    tmp_path: Path, name: str, source: dict[str, str], first: datetime, last: datetime
) -> None:
    assert ran(tmp_path, REPORTS / name, {"source": source}).code == 0
    query = "select min(first_at), max(last_at), sum(events) from item_parts"
    assert prepared(tmp_path, query) == [(first, last, 60)]


def test_queries_that_guess_types_are_refused(tmp_path: Path) -> None:
    """The query, a view, and a view of a view: DuckDB would merge 01003 into 1003 in each."""
    file = REPORTS / "ids_zero_padded_after_the_sample.csv.gz"
    shop = tmp_path / "shop.duckdb"
    with duckdb.connect(shop) as con:
        con.execute(f"create view sold as select * from '{file}'")
        con.execute("create view seen as select * from sold")
        con.execute(f"create view \"x AS y\" as select * from '{file}'")
        con.execute(f"create macro all_of() as table select * from read_csv('{file}')")
        con.execute("create view through as select * from all_of()")
    for source, named in (
        ({"query": f"with a as (from '{file}') select * from a"}, "source: the query reads"),
        ({"query": f"select * from read_csv('{file}', header = true)"}, "source: the query reads"),
        ({"query": f"select * from read_json('{REPORTS}/ids_partly_numbers.ndjson')"}, "columns = {"),
        ({"query": f"from read_csv('{file}', types = {{'at': 'VARCHAR'}})"}, "the query reads"),
        ({"query": f"from read_csv('{file}', all_varchar = false, quote = '', comment = '')"}, "reads"),
        ({"query": f"from read_csv('{file}', all_varchar = true)"}, "comment = ''"),  # it loses rows with #
        ({"query": f"from read_ndjson_auto('{REPORTS}/times_day_or_month_first.ndjson')"}, "columns = {"),
        ({"table": "seen", "database": str(shop)}, "the view 'sold' reads"),
        ({"table": "x AS y", "database": str(shop)}, "the view 'x as y' reads"),
        ({"table": "through", "database": str(shop)}, "a macro or a view reads"),
    ):
        lines = [f"root = {json.dumps(str(tmp_path / 'root'))}", "[source]", 'time = "at"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in source.items()]
        (tmp_path / "shop.toml").write_text("\n".join(lines), encoding="utf-8")
        found = recsys("prepare", "--config", tmp_path / "shop.toml")
        assert (found.code, "Traceback" in found.err) == (2, False)
        assert named in found.err
        assert "DuckDB guesses" in found.err
    query = f'select * replace (cast("at" as timestamp) as "at") from read_csv(\'{file}\', {AS_TEXT})'
    source = {"query": f"{query}; -- as text", "time": "at"}
    lines = [
        "contracts.max_duplicate_share = 1",
        f"root = {json.dumps(str(tmp_path / 'root'))}",
        "split.test_days = 5",
        "split.validation_days = 5",
    ]
    lines += ["[source]", *(f"{key} = {json.dumps(value)}" for key, value in source.items())]
    (tmp_path / "shop.toml").write_text("\n".join(lines), encoding="utf-8")
    found = recsys("prepare", "--config", tmp_path / "shop.toml")
    assert found.code == 0, found.err
    users = prepared(tmp_path, "select user_id from profile_users order by 1")
    assert users == [("01003",), ("1003",), ("1004",)]


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        (
            "attributes_of_any_type.parquet",
            ["price", "is_new", "listed", "sizes"],
            [
                ("0.1", "true", "2024-01-01", ["1", "2"]),
                ("2.0", "false", None, []),
                (None, None, "2024-01-03", None),
            ],
        ),
        ("attributes_of_any_type.csv", ["price", "is_new"], [("0.10", "true"), ("2", "false"), (None, None)]),
        ("attributes_of_any_type.ndjson", ["sizes"], [(["S", "M"],), (["L"],), (None,)]),
    ],
)
def test_attributes_are_text(
    tmp_path: Path, name: str, attributes: list[str], expected: list[tuple[Any, ...]]
) -> None:
    items = {"files": str(REPORTS / name), "attributes": attributes}
    found = ran(tmp_path, REPORTS / "ids_of_whole_numbers.csv", {"items": items})
    assert found.code == 0, found.err
    listed = ", ".join(attributes)
    assert prepared(tmp_path, f"select {listed} from items where fold = 'test' order by item") == expected


def test_a_nested_attribute_is_refused_by_name(tmp_path: Path) -> None:
    items = {"files": str(REPORTS / "attributes_of_any_type.parquet"), "attributes": ["made_of"]}
    found = ran(tmp_path, REPORTS / "ids_of_whole_numbers.csv", {"items": items})
    assert (found.code, "Traceback" in found.err) == (2, False)
    assert "items.attributes = 'made_of' is a column of type struct, allowed: plain values" in found.err


def test_infinite_dates_as_attributes_are_text(tmp_path: Path) -> None:
    with duckdb.connect() as con:
        con.execute(
            f"copy (select 5 as item_id, date 'infinity' as listed union all select 6, date '2024-01-02') "
            f"to '{tmp_path}/items.parquet'"
        )
    items = {"files": str(tmp_path / "items.parquet"), "attributes": ["listed"]}
    assert ran(tmp_path, REPORTS / "ids_of_whole_numbers.csv", {"items": items}).code == 0
    made = prepared(tmp_path, "select listed from items where fold = 'test' order by item")
    assert made == [("infinity",), ("2024-01-02",), (None,)]


def test_a_hive_partition_is_a_column(tmp_path: Path) -> None:
    for ending in ("csv", "ndjson"):
        for day in range(20):
            folder = tmp_path / ending / f"at=2024-02-{day + 1:02}"
            folder.mkdir(parents=True)
            text = "user_id,item_id\n" + "".join(f"{user},{item}\n" for user in (1, 2) for item in (5, 6))
            if ending == "ndjson":
                text = "".join(f'{{"user_id": {u}, "item_id": {i}}}\n' for u in (1, 2) for i in (5, 6))
            (folder / f"x.{ending}").write_text(text, encoding="utf-8")
        found = ran(tmp_path, tmp_path / ending / "*" / f"x.{ending}", {})
        assert found.code == 0, found.err
        times = prepared(tmp_path, "select min(first_at), max(last_at), sum(events) from item_parts")
        assert times == [(START, START + timedelta(days=19), 80)]


def test_titles_from_the_log(tmp_path: Path) -> None:
    assert ran(tmp_path, REPORTS / "titles_in_the_log.csv", {"source": {"title": "name"}}).code == 0
    titles = prepared(tmp_path, "select item_id, title from items where fold = 'test' order by item")
    assert titles == [(item, f"Title of {item}") for item in (5, 6, 7)]
    both = ran(
        tmp_path,
        REPORTS / "titles_in_the_log.csv",
        {"source": {"title": "name"}, "items": {"files": str(REPORTS / "attributes_of_any_type.csv")}},
    )
    assert both.code == 2
    assert "source.title is for a log without [items]" in both.err


def test_the_most_active_users_are_shown_and_bounded(tmp_path: Path) -> None:
    bounded = ran(tmp_path, REPORTS / "users_bot.csv", {"contracts": {"max_events_per_user": 100}})
    assert bounded.code == 3
    assert (
        "events_per_user = 400, allowed <= 100 (contracts.max_events_per_user). Offending rows: 1"
        in bounded.err
    )
    assert "user_id = 666" in bounded.err


@pytest.mark.parametrize(
    ("name", "source", "contracts", "words"),
    [
        (
            "ids_that_are_missing.csv",
            MISSING,
            {"max_missing_ids": 0.3},
            "missing_ids = 0.3333, allowed <= 0.3",
        ),
        ("weights_returns.csv", RETURNS, {"max_returns": 0.1}, "returns = 0.15, allowed <= 0.1"),
        (
            "weights_returns.csv",
            RETURNS | {"returns": "drop"},
            {"max_returns": 0.1},
            "returns = 0.15, allowed <= 0.1 (contracts.max_returns). Offending rows: 3",
        ),
    ],
)
def test_rows_left_out_are_bounded_by_contracts(
    tmp_path: Path, name: str, source: dict[str, Any], contracts: dict[str, float], words: str
) -> None:
    found = ran(tmp_path, REPORTS / name, {"source": source, "contracts": contracts})
    assert found.code == 3
    assert words in found.err


@pytest.mark.parametrize(
    ("log", "items", "expected"),
    [
        ("numbers.csv", "numbers.csv", "BIGINT"),
        ("numbers.csv", "words.csv", "VARCHAR"),  # metadata of items that the log has not
        ("words.csv", "numbers.csv", "VARCHAR"),
        ("numbers.parquet", "numbers.csv", "BIGINT"),
        ("numbers.csv", "numbers.parquet", "BIGINT"),
        ("texts.parquet", "numbers.csv", "VARCHAR"),
        ("numbers.csv", "texts.parquet", "VARCHAR"),
        ("numbers.parquet", "words.csv", None),
        ("texts.parquet", "numbers.parquet", None),
    ],
)
def test_ids_of_log_and_items_have_the_same_type(
    tmp_path: Path, log: str, items: str, expected: str | None
) -> None:
    """Undeclared ids take the declared type, or text; two different declared types are refused."""
    ids = {"numbers": [5, 6, 7], "texts": ["5", "6", "7"], "words": ["5", "6", "A-7"]}
    paths = {}
    for role, name in (("log", log), ("items", items)):
        known = ids[name.partition(".")[0]]
        days = [START + timedelta(days=day) for day in range(20)]
        table = [(user, item, day) for day in days for user in (1, 2) for item in known]
        frame = (
            pl.DataFrame(table, schema=["user_id", "item_id", "at"], orient="row")
            if role == "log"
            else pl.DataFrame({"item_id": known, "name": [f"Title of {one}" for one in known]})
        )
        paths[role] = tmp_path / f"{role}-{name}"
        if name.endswith(".csv"):
            frame.write_csv(paths[role], datetime_format="%Y-%m-%d")
        else:
            frame.write_parquet(paths[role])
    described = {"files": str(paths["items"]), "title": "name"}
    found = ran(tmp_path, paths["log"], {"items": described})
    if expected is None:
        assert (found.code, "Traceback" in found.err) == (2, False)
        assert "items.item is read as" in found.err
        return
    assert found.code == 0, found.err
    made = prepared(
        tmp_path, "select typeof(item_id), title from items where fold = 'test' order by item limit 2"
    )
    assert made == [(expected, "Title of 5"), (expected, "Title of 6")]


def test_alike_ids_are_counted_and_bounded(tmp_path: Path) -> None:
    bounded = ran(tmp_path, REPORTS / "ids_alike.csv", {"contracts": {"max_alike_ids": 0.5}})
    assert bounded.code == 3
    assert "alike_users = 0.6667, allowed <= 0.5" in bounded.err
    assert "['Ann', 'ann ']" in bounded.err


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        ({"max_midnight_share": 0.5}, "midnight_share = 1, allowed <= 0.5"),
        ({"max_old_share": 0.0, "past_years": 0.001}, "old_share = 1, allowed <= 0"),
        ({"max_empty_days": 0.0}, None),
    ],
)
def test_plausible_times(tmp_path: Path, contract: dict[str, float], words: str | None) -> None:
    found = ran(tmp_path, REPORTS / "ids_of_whole_numbers.csv", {"contracts": contract})
    assert found.code == (0 if words is None else 3), found.err
    assert words is None or words in found.err


def test_days_without_events_are_counted(tmp_path: Path) -> None:
    """If days and months are swapped, events of 12 days fall on the first of 12 months."""
    source = {"time_format": "%m-%d-%Y"}
    split = {"test_days": 60, "validation_days": 60}
    for most, code in ((0.97, 0), (0.9, 3)):
        found = ran(
            tmp_path,
            REPORTS / "times_day_or_month_first.ndjson",
            {"source": source, "split": split, "contracts": {"max_empty_days": most}},
        )
        assert found.code == code, found.err
    assert "empty_days = 0.9643, allowed <= 0.9" in found.err
    assert "days without events before 2024-02-02" in found.err or "days without events before" in found.err
