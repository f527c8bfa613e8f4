"""Write the files beside this one: logs and item tables as shops have them, one kind of trouble each.

    python tests/reports/make.py

Nothing is random. Users, items and days are those of `rows` unless the kind asks for others.
"""

import gzip
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

HERE = Path(__file__).parent
HEAD = ("user_id", "item_id", "at")
START = datetime(2024, 2, 1)
SAMPLE = 21_000  # rows, more than DuckDB looks at before it guesses types
Row = tuple[Any, ...]


def rows(
    users: Iterable[Any] = (1003, 1004, 7), at: Callable[[datetime], Any] = str, days: int = 20
) -> list[Row]:
    """(user, item, time): over 20 days each user takes one of three items a day."""
    return [
        (user, 5 + (day + place) % 3, at(START + timedelta(days=day)))
        for day in range(days)
        for place, user in enumerate(users)
    ]


def csv_text(table: list[Row], head: Iterable[str] = HEAD, separator: str = ",", end: str = "\n") -> str:
    lines = [separator.join(head), *(separator.join(map(str, row)) for row in table)]
    return end.join(lines) + end


def json_text(table: list[Row]) -> str:
    return "".join(json.dumps(dict(zip(HEAD, row, strict=True))) + "\n" for row in table)


def parquet(name: str, table: list[Row], *columns: pl.Expr) -> None:
    frame = pl.DataFrame(table, schema=list(HEAD), orient="row")
    frame.with_columns(*columns).write_parquet(HERE / name)


def text(name: str, content: str, encoding: str = "utf-8") -> None:
    (HERE / name).write_bytes(content.encode(encoding))


def compressed(name: str, content: str) -> None:
    (HERE / name).write_bytes(gzip.compress(content.encode(), mtime=0))


def ids() -> None:
    late = rows((1003, 1004)) * (SAMPLE // 40) + rows(("01003", "1004"))
    compressed("ids_zero_padded_after_the_sample.csv.gz", csv_text(late))
    text("ids_of_whole_numbers.csv", csv_text(rows()))
    text("ids_partly_numbers.ndjson", json_text(rows((1003, "A-56", "01003"))))
    text("ids_of_whole_numbers.json", json.dumps([dict(zip(HEAD, row, strict=True)) for row in rows()]))
    text("ids_with_a_point.ndjson", json_text(rows((17850.0, 1004.0))))
    text("ids_with_a_fraction.ndjson", json_text(rows((17850.5, 1004.0))))
    text("ids_that_are_nan.ndjson", json_text(rows((float("nan"), 1003, 7))))
    text("ids_that_are_objects.ndjson", json_text(rows(({"a": 1}, 7))))
    text("ids_that_are_true.ndjson", json_text(rows((True, 7))))
    text("ids_with_a_point.csv", csv_text(rows(("17850.0", "1004.0"))))
    text("ids_past_64_bits.csv", csv_text(rows((2**63, 7))))
    text("ids_with_blanks.csv", csv_text(rows((" 1003", "1003 ", "1003"))))
    text("ids_with_signs.csv", csv_text(rows(("+5", "-0", "5"))))
    text("ids_in_quotes.csv", csv_text(rows(('"01003"', '"a,b"', '"say ""hi"""'))))
    compressed(
        "ids_in_quotes_after_the_sample.csv.gz", csv_text([*rows() * (SAMPLE // 60), *rows(('"a,b"', 7))])
    )
    text("ids_that_look_like_comments.csv", csv_text(rows(("#1", "#2"))))
    text("ids_that_are_missing.csv", csv_text(rows(("", 1003, 7))))
    text("ids_that_are_blank.csv", csv_text(rows(("  ", 1003, 7))))
    text("ids_that_say_nan.csv", csv_text(rows(("nan", 1003, 7))))
    text("ids_with_byte_0.ndjson", json_text(rows(("a\0b", "a"))))
    parquet("ids_with_byte_0.parquet", rows(("a\0b", "a"), at=lambda time: time))
    typed = rows((17850, 1004, 7), at=lambda time: time)
    parquet("ids_of_several_types_1.parquet", typed)
    parquet("ids_of_several_types_2.parquet", rows(("017850", "7"), at=lambda time: time))
    parquet("ids_of_several_widths_1.parquet", typed, pl.col("user_id").cast(pl.Int16))
    parquet("ids_of_several_widths_2.parquet", typed, pl.col("user_id") + 2**40)
    parquet("ids_in_some_files_1.parquet", typed)
    pl.read_parquet(HERE / "ids_in_some_files_1.parquet").drop("user_id").write_parquet(
        HERE / "ids_in_some_files_2.parquet"
    )
    number = pl.col("user_id").cast(pl.Float64)
    parquet("ids_boolean_in_some_files_1.parquet", typed)
    parquet("ids_boolean_in_some_files_2.parquet", typed, pl.col("user_id") == 7)
    parquet("ids_decimal_of_25_places.parquet", typed, pl.col("user_id").cast(pl.Decimal(38, 25)))
    parquet("ids_double_with_gaps.parquet", rows((17850, None, 7), at=lambda time: time), number)
    parquet(
        "ids_double_nan.parquet",
        typed,
        pl.when(number == 1004).then(float("nan")).otherwise(number).alias("user_id"),
    )
    parquet("ids_double_with_a_fraction.parquet", typed, number + 0.5)
    parquet("ids_double_past_2_53.parquet", typed, number + 2.0**53)
    parquet("ids_float_past_2_24.parquet", typed, (number + 2.0**24).cast(pl.Float32))
    parquet("ids_decimal.parquet", typed, pl.col("user_id").cast(pl.Decimal(12, 2)))
    parquet("ids_decimal_with_a_fraction.parquet", typed, (number + 0.5).cast(pl.Decimal(12, 2)))
    parquet("ids_boolean.parquet", typed, pl.col("user_id") == 7)
    parquet("ids_unsigned_64_bits.parquet", typed, pl.col("user_id").cast(pl.UInt64) + 2**63)
    parquet("ids_of_whole_numbers.parquet", typed)


def times() -> None:
    def written(pattern: str) -> list[Row]:
        return rows(at=lambda time: time.strftime(pattern))

    text("times_day_first.ndjson", json_text(written("%d-%m-%Y")))
    few = rows(at=lambda time: time.strftime("%d-%m-%Y"), days=12)
    text("times_day_or_month_first.ndjson", json_text(few))
    text("times_month_first.csv", csv_text(written("%m/%d/%Y %H:%M")))
    text("times_with_points.csv", csv_text(written("%d.%m.%Y %H:%M")))
    text("times_of_two_digit_years.csv", csv_text(written("%y-%m-%d")))
    text("times_of_two_digit_years_late.csv", csv_text([*written("%d.%m.%Y"), (7, 5, "01.02.24")]))
    mixed = [*rows(at=lambda time: time.strftime("%d-%m-%Y"), days=12) * 40, (7, 5, "25-02-2024")]
    text("times_day_first_late.csv", csv_text(mixed))
    text("times_with_zones.csv", csv_text(written("%Y-%m-%dT23:30:00-02:00")))

    def seconds(time: datetime) -> int:
        return int(time.replace(tzinfo=UTC).timestamp())

    text("times_epoch_s.csv", csv_text(rows(at=seconds)))
    text("times_epoch_ms.ndjson", json_text(rows(at=lambda time: seconds(time) * 1000)))
    parquet("times_epoch_us.parquet", rows(at=lambda time: seconds(time) * 1_000_000))
    parquet("times_ns.parquet", rows(at=lambda time: time), pl.col("at").cast(pl.Datetime("ns")))
    parquet("times_text.parquet", written("%d-%m-%Y"))
    zero = [*rows(), *((1003, 5, "1900-01-01") for _ in range(5))]
    text("times_of_1900.csv", csv_text(zero))


def shops() -> None:
    weighed = [(*row, 1 + place % 3) for place, row in enumerate(rows())]
    returned = [(*row[:3], -1) if place % 7 == 0 else row for place, row in enumerate(weighed)]
    head = (*HEAD, "quantity")
    text("weights_returns.csv", csv_text(returned, head))
    text("weights_with_commas.csv", csv_text([(*row[:3], f"{row[3]},5") for row in weighed], head, ";"))
    bot = [*rows(), *((666, 5 + n % 3, START + timedelta(hours=n)) for n in range(400))]
    text("users_bot.csv", csv_text(bot))
    text("titles_in_the_log.csv", csv_text([(*row, f"Title of {row[1]}") for row in rows()], (*HEAD, "name")))
    text("ids_alike.csv", csv_text(rows(("Ann", "ann ", "Bob"))))


def files() -> None:
    names = rows(("é", "b", "c"))
    text("file_utf16.csv", csv_text(names), "utf-16")
    (HERE / "file_utf16_big_endian.csv").write_bytes(b"\xfe\xff" + csv_text(names).encode("utf-16-be"))
    text("file_utf16_without_mark.csv", csv_text(names), "utf-16-le")
    text("file_latin1.csv", csv_text(names), "latin-1")
    text("file_cp1252.csv", csv_text(rows(("é", "5 €", "c"))), "cp1252")
    text("file_utf8_with_mark.csv", "\ufeff" + csv_text(names))
    text("file_mixed_line_ends.csv", csv_text(rows(), end="\r\n") + csv_text(rows()).partition("\n")[2])
    text("file_crlf.csv", csv_text(rows(), end="\r\n"))
    text("file_preamble.csv", "Orders of 2024, all shops\nmade by the till\n\n" + csv_text(rows()))
    text("file_preamble_in_quotes.csv", '"Orders\nof 2024"\n' + csv_text(rows()))
    text("file_keys_of_some_1.ndjson", json_text(rows()))
    text("file_keys_of_some_2.ndjson", json_text(rows()).replace("user_id", "User ID"))
    text("file_semicolons.csv", csv_text(rows(), separator=";"))
    text("file_tabs.tsv", csv_text(rows(), separator="\t"))
    wide = csv_text(rows() * 25) + "7,5,2024-02-20,oops\n"  # row 1,501
    text("file_wider_row.csv", wide)
    text("file_narrower_row.csv", csv_text(rows() * 25) + "7,5\n")
    text("file_without_header.csv", csv_text(rows()).partition("\n")[2])
    text("file_empty.csv", "")
    text(
        "file_header_twice.csv",
        csv_text([(*row, 1) for row in rows()], ("user_id", "item_id", "at", "user_id")),
    )
    text("file_columns_in_order_1.csv", csv_text(rows()))
    swapped = [(item, user, at) for user, item, at in rows((2003, 2004))]
    text("file_columns_in_order_2.csv", csv_text(swapped, ("item_id", "user_id", "at")))
    (HERE / "file_gzip_named_csv.csv").write_bytes(gzip.compress(csv_text(rows()).encode(), mtime=0))
    text("file_csv_named_gzip.csv.gz", csv_text(rows()))
    text("file_cut_short.ndjson", json_text(rows()) + '{"user_id": 7,\n' + json_text(rows()))
    text("file_utf16.ndjson", json_text(rows()), "utf-16")


def attributes() -> None:
    frame = pl.DataFrame(
        {
            "item_id": [5, 6, 7],
            "price": pl.Series([0.1, 2.0, None], dtype=pl.Float32),
            "is_new": [True, False, None],
            "listed": pl.Series([datetime(2024, 1, 1), None, datetime(2024, 1, 3)]).cast(pl.Date),
            "sizes": [[1, 2], [], None],
            "made_of": [{"part": "oak"}, None, {"part": "elm"}],
        }
    )
    frame.write_parquet(HERE / "attributes_of_any_type.parquet")
    text("attributes_of_any_type.csv", "item_id,price,is_new\n5,0.10,true\n6,2,false\n7,,\n")
    lines = ['{"item_id": 5, "sizes": ["S", "M"]}', '{"item_id": 6, "sizes": "L"}', '{"item_id": 7}']
    text("attributes_of_any_type.ndjson", "\n".join(lines) + "\n")


if __name__ == "__main__":
    for make in (ids, times, shops, files, attributes):
        make()
