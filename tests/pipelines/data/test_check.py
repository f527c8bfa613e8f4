"""recsys check: what it proposes for a file is accepted by prepare, or a choice is asked for by name."""

import json
import re
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from shop import Ran, failed, recsys

from pipelines.data.proposal.roles import words

LINES = 3000
DAYS = 150
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame(days: int = DAYS, **changes: Any) -> pl.DataFrame:
    """(user, item, time) of LINES lines over so many days; `changes` are columns, None drops one."""
    start = datetime(2024, 1, 13, 9, 30)
    columns: dict[str, Any] = {
        "user": [n % 41 for n in range(LINES)],
        "item": [n * 7 % 37 for n in range(LINES)],
        "time": [start + n * days / LINES * DAY for n in range(LINES)],
    }
    columns |= changes
    return pl.DataFrame({name: values for name, values in columns.items() if values is not None})


def written(pattern: str, days: int = DAYS, **changes: Any) -> pl.DataFrame:
    """The same frame, with times as text in a format."""
    made = frame(days, **changes)
    return made.with_columns(pl.col("time").dt.strftime(pattern))


def save(made: pl.DataFrame, name: str) -> str:
    if name.endswith(".parquet"):
        made.write_parquet(name)
    elif name.endswith("json"):
        made.write_ndjson(name)
    else:
        made.write_csv(name, separator="\t" if ".tsv" in name else ";" if "semicolon" in name else ",")
    return name


def proposed(files: str, code: int = 0) -> tuple[dict[str, Any], Ran]:
    """The proposed config, parsed; with exit code 0, prepare must accept it."""
    ran = recsys("check", files)
    assert ran.code == code, ran.err + ran.out
    if code == 0:
        Path("proposed.toml").write_text(ran.out, encoding="utf-8")
        prepared = recsys("prepare", "--config", "proposed.toml", "--set", "root=root")
        assert prepared.code == 0, prepared.err
    return tomllib.loads(ran.out), ran


def said(ran: Ran) -> str:
    """The output, with the lines of each comment joined."""
    return ran.out.replace("\n#   ", " ").replace("\n# ", " ")


def offered(ran: Ran, key: str) -> list[Any]:
    """The values of a key that are suggested in comments."""
    lines = re.findall(rf"^# ({key} = .*)$", ran.out, re.MULTILINE)
    return [tomllib.loads(line)[key] for line in lines]


@pytest.mark.parametrize(
    "name", ["log.parquet", "log.csv", "log.tsv", "semicolon.csv", "log.ndjson", "log.csv.gz", "log.jsonl"]
)
def test_every_kind_of_file(name: str) -> None:
    if name == "log.csv.gz":
        import gzip

        Path(name).write_bytes(gzip.compress(frame().write_csv().encode()))
    elif name == "log.jsonl":
        Path(name).write_bytes(Path(save(frame(), "log.ndjson")).read_bytes())
    else:
        save(frame(), name)
    config, ran = proposed(name)
    assert config == {"source": {"files": name, "user": "user", "item": "item", "time": "time"}}
    assert "3,000 rows" in ran.out
    assert "41 users, 37 items" in ran.out
    assert "from 2024-01-13 09:30:00 to 2024-06-11" in ran.out


def test_several_files_are_a_glob_in_quotes() -> None:
    save(frame()[:2000], "part-1.csv")
    save(frame(note=["x"] * LINES)[2000:], "part-2.csv")
    config, ran = proposed("part-*.csv")
    assert config["source"]["files"] == "part-*.csv"
    assert "3,000 rows" in ran.out
    failed(recsys("check", "part-1.csv", "part-2.csv"), 2, "2 files", "part-1.csv", "quote a pattern")


@pytest.mark.parametrize("name", ["it's.csv", 'a "quoted" name.csv', "[x] #1 ü 店.csv", "two\nlines.csv"])
def test_names_that_toml_must_escape(name: str) -> None:
    made = frame().rename({"user": 'user "\x07id"', "item": "item\\id", "time": "time\t店"})
    config, _ = proposed(save(made, name))
    assert config["source"] == {
        "files": name, "user": 'user "\x07id"', "item": "item\\id", "time": "time\t店",
    }  # fmt: skip


def test_check_asks_which_of_two_likely_columns() -> None:
    save(frame(customer_id=1, account_id=2, sku="a", product="b", user=None, item=None), "log.csv")
    config, ran = proposed("log.csv", 3)
    assert config == {"source": {"files": "log.csv", "time": "time"}}
    assert offered(ran, "user") == ["customer_id", "account_id"]
    assert offered(ran, "item") == ["sku", "product"]
    failed(ran, 3, "source.user, source.item")


def test_check_asks_for_the_columns_of_a_table_that_is_no_log() -> None:
    pl.DataFrame({"station": ["a", "b"], "rain": [1.5, 2.5]}).write_csv("weather.csv")
    config, ran = proposed("weather.csv", 3)
    assert config == {"source": {"files": "weather.csv"}}
    assert offered(ran, "user") == ["station", "rain"]
    failed(ran, 3, "source.user, source.item, source.time")


def test_a_file_without_a_header() -> None:
    Path("log.csv").write_text(frame().write_csv(include_header=False), encoding="utf-8")
    config, ran = proposed("log.csv", 3)
    assert config == {"source": {"files": "log.csv"}}
    lines = [line for line in ran.out.splitlines() if not line.startswith("files")]
    taken = "\n".join(re.sub(r"^# (?=(query|user|item|time) =)", "", line) for line in lines)
    Path("mended.toml").write_text(taken, encoding="utf-8")
    prepared = recsys("prepare", "--config", "mended.toml", "--set", "root=root")
    assert prepared.code == 0, prepared.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", b"", ["empty.csv", "is empty"]),
        ("header.csv", b"user,item,time\n", ["header.csv", "not one row"]),
        ("empty.ndjson", b"", ["empty.ndjson", "is empty"]),
        ("broken.parquet", b"PAR1 and no more", ["broken.parquet"]),
        ("letter.csv", b"Dear all,\nthis is no table.\nBye, me\n", ["letter.csv", "Line: 2"]),
        ("table.xlsx", b"PK", ["table.xlsx", "must end in one of", ".parquet"]),
        ("nowhere.csv", None, ["nowhere.csv", "No files found"]),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes | None, words: list[str]) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    ran = recsys("check", name)
    failed(ran, 2, *words)
    assert ran.out == ""


@pytest.mark.parametrize(
    ("made", "time_format"),
    [
        (written("%Y-%m-%dT%H:%M:%SZ"), None),
        (written("%Y-%m-%d"), None),
        (written("%d.%m.%Y %H:%M"), "%d.%m.%Y %H:%M"),
        (written("%m/%d/%Y"), "%m/%d/%Y"),  # the 13th and later tell days from months
        (frame().with_columns(pl.col("time").dt.epoch("s")), "epoch_s"),
        (frame().with_columns(pl.col("time").dt.epoch("ms")), "epoch_ms"),
        (frame().with_columns(pl.col("time").dt.epoch("us")), "epoch_us"),
        (written("%Y%m%d").with_columns(pl.col("time").cast(pl.Int64)), "%Y%m%d"),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.ndjson"])
def test_formats_of_times(made: pl.DataFrame, time_format: str | None, name: str) -> None:
    config, _ = proposed(save(made, name))
    assert config["source"].get("time_format") == time_format


def test_check_asks_which_of_two_date_formats() -> None:
    dates = [f"{n % 12 + 1:02d}-{n % 11 + 1:02d}-2024" for n in range(LINES)]
    config, ran = proposed(save(frame(time=dates), "log.csv"), 3)
    assert "time_format" not in config["source"]
    assert offered(ran, "time_format") == ["%d-%m-%Y", "%m-%d-%Y"]
    assert "'02-02-2024' is" not in said(ran), "both read it alike"
    failed(ran, 3, "source.time_format")


@pytest.mark.parametrize("late", [100, 2000])  # the second is past the rows that formats are short-listed by
def test_a_day_after_the_12th_decides_the_date_format(late: int) -> None:
    dates = [f"{n % 12 + 1:02d}/{14 if n == late else n % 12 + 1:02d}/2024" for n in range(LINES)]
    config, _ = proposed(save(frame(time=dates), "log.csv"))
    assert config["source"]["time_format"] == "%m/%d/%Y"


def test_unreadable_times_are_shown() -> None:
    config, ran = proposed(save(frame(time=["yesterday"] * LINES), "log.csv"), 3)
    assert "'yesterday'" in ran.out
    assert "time" not in config["source"]
    junk = frame().with_columns(pl.col("time").cast(pl.String).str.replace("2024-02-01 .*", "n/a"))
    _, ran = proposed(save(junk, "junk.csv"), 3)
    assert "check unread_times failed" in said(ran)
    assert "are no such time, such as 'n/a'" in ran.out


def test_check_asks_which_of_two_time_columns_except_later_ones() -> None:
    time = frame()["time"]
    config, _ = proposed(save(frame(shipped_at=time), "log.parquet"))
    assert config["source"]["time"] == "time"
    config, ran = proposed(save(frame(time=None, opened_at=time, ordered_at=time), "two.parquet"), 3)
    assert "time" not in config["source"]
    assert offered(ran, "time") == ["opened_at", "ordered_at"]


def test_missing_ids_and_returns_are_proposed_with_their_counts() -> None:
    users = [None if n % 10 == 0 else n % 41 for n in range(LINES)]
    amounts = [-1 if n % 20 == 3 else 2 for n in range(LINES)]
    config, ran = proposed(save(frame(user=users, qty=amounts), "log.csv"))
    assert config["source"]["missing_ids"] == "drop"
    assert config["source"]["returns"] == "net"
    assert "300 rows (10.0%) have no user (300) or no item (0)" in said(ran)
    assert "150 rows (5.0%) have a weight below 0" in said(ran)


def test_check_asks_about_weights_that_are_not_numbers() -> None:
    amounts = ["a few" if n == 7 else "2" for n in range(LINES)]
    config, ran = proposed(save(frame(quantity=amounts), "log.csv"), 3)
    assert "weight" not in config["source"]
    assert offered(ran, "weight") == ["quantity"]
    failed(ran, 3, "source.weight")
    config, _ = proposed(save(frame(quantity=amounts, rating=[3] * LINES), "log.csv"), 3)
    assert "weight" not in config["source"]


def test_text_ids_are_reported_with_their_first_row() -> None:
    users = [f"{n % 41:03d}" if n >= 41 else str(n + 100) for n in range(LINES)]
    _, ran = proposed(save(frame(user=users), "log.csv"))
    assert "'user' is read as text: row 42 has '000'" in said(ran)
    assert "'item' is read as integers" in said(ran)


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.ndjson"])
def test_check_suggests_a_query_that_merges_alike_ids(name: str) -> None:
    items = [f"Mug {n % 37}" if n % 5 else f" mug {n % 37}" for n in range(LINES)]
    _, ran = proposed(save(frame(item=items, quantity=[1.5] * LINES), name))
    (query,) = offered(ran, "query")
    text = ran.out.replace(f"files = {json.dumps(name)}", f"query = {json.dumps(query)}")
    Path("merged.toml").write_text(text, encoding="utf-8")
    merged = recsys("prepare", "--config", "merged.toml", "--set", "root=merged")
    assert merged.code == 0, merged.err
    assert "profile_items has 37 rows" in merged.err
    assert "case and blanks" not in merged.err
    with duckdb.connect("merged/recsys.duckdb", read_only=True) as con:
        assert con.table("users").select("user_id").types == ["BIGINT"]


def test_a_user_far_more_active_than_others_is_shown() -> None:
    users = ["till" if n % 3 == 0 else f"u{n % 301}" for n in range(LINES)]
    _, ran = proposed(save(frame(user=users), "log.csv"))
    assert "User 'till' has 1,000 events (33.3% of all)" in said(ran)
    (bound,) = offered(ran, "max_events_per_user")
    bounded = recsys(
        *("prepare", "--config", "proposed.toml", "--set", "root=other"),
        *("--set", f"contracts.max_events_per_user={bound}"),
    )
    assert bounded.code == 3
    assert "till" in bounded.err


@pytest.mark.parametrize(("days", "window"), [(DAYS, None), (100, 20.0), (3, 0.6)])
def test_check_proposes_shorter_windows_for_a_short_log(days: int, window: float | None) -> None:
    config, _ = proposed(save(frame(days), "log.parquet"))
    split = None if window is None else {"test_days": window, "validation_days": window}
    assert config.get("split") == split


def test_a_predefined_split() -> None:
    parts = ["test" if n % 10 == 0 else "train" for n in range(LINES)]
    items = [(n // 41 + n * 7) % 370 for n in range(LINES)]
    config, _ = proposed(save(frame(time=None, split=parts, item=items), "log.csv"))
    assert config["source"]["split"] == "split"
    assert config["split"] == {"kind": "predefined"}
    _, ran = proposed(save(frame(time=None, split=[one.title() for one in parts]), "log.csv"), 3)
    assert '"Train", "Test"' in ran.out
    failed(ran, 3, "source.time")


def test_check_proposes_weights_for_kinds_of_events() -> None:
    kinds = [("view", "cart", "remove_from_cart", "buy")[n % 4] for n in range(LINES)]
    config, _ = proposed(save(frame(event_type=kinds), "log.ndjson"))
    assert config["source"]["event"] == "event_type"
    weights = {"view": 1.0, "cart": 1.0, "remove_from_cart": 0.0, "buy": 1.0}
    assert config["source"]["event_weights"] == weights
    config, ran = proposed(save(frame(event_type=kinds, qty=[1] * LINES), "log.ndjson"), 3)
    assert "event" not in config["source"]
    assert offered(ran, "event") == ["event_type"]
    failed(ran, 3, "source.event")


def test_check_proposes_a_title_column_with_about_one_title_per_item() -> None:
    names = [f"Thing {n * 7 % 37}" for n in range(LINES)]
    config, _ = proposed(save(frame(product_name=names), "log.csv"))
    assert config["source"]["title"] == "product_name"
    notes = [f"note {n}" for n in range(LINES)]
    config, _ = proposed(save(frame(description=notes), "log.csv"))
    assert "title" not in config["source"]


def test_other_encodings() -> None:
    items = [f"Café {n * 7 % 37}" for n in range(LINES)]
    text = written("%Y-%m-%d", item=items).write_csv()
    for encoding in ("latin-1", "utf-16"):
        Path("log.csv").write_bytes(text.encode(encoding))
        config, _ = proposed("log.csv")
        expected = "latin-1" if encoding == "latin-1" else None  # a mark says the other
        assert config["source"].get("encoding") == expected


@pytest.mark.parametrize(
    ("made", "words", "choice"),
    [
        (written("2056-%m-%d"), ["check future_times failed"], "what prepare refuses"),
        (
            frame(
                time=[
                    datetime(1970, 1, 1) if n % 9 == 0 else datetime(2024, 1, 1) + n * DAY / 9
                    for n in range(LINES)
                ]
            ),
            ["old_share = 0.11"],
            "contracts.max_old_share",
        ),
        (frame(time=[datetime(2024, 1, 1)] * LINES), ["check one_instant failed"], "what prepare refuses"),
        (
            frame(user=[None if n % 3 else n % 41 for n in range(LINES)]),
            ["missing_ids = 0.66"],
            "contracts.max_missing_ids",
        ),
        (frame(user=[n + 0.5 for n in range(LINES)]), ["holds 0.5"], "source.query"),
    ],
)
def test_what_prepare_refuses_becomes_a_choice(made: pl.DataFrame, words: list[str], choice: str) -> None:
    _, ran = proposed(save(made, "log.parquet" if made.schema["user"] == pl.Float64 else "log.csv"), 3)
    assert all(word in said(ran) for word in words), ran.out
    failed(ran, 3, choice)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("CustomerID", ["customer", "id"]),
        ("customerid", ["customer", "id"]),
        ("SKUCode", ["sku", "code"]),
        ("ordered_at", ["ordered", "at"]),
        ("products", ["product"]),
        ("Straße Nr.", ["straße", "nr"]),
    ],
)
def test_words_of_names(name: str, found: list[str]) -> None:
    assert words(name) == found
