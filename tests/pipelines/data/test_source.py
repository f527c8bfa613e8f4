"""Reading the log and the item metadata: every kind of relation, and errors."""

from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from small_log import COLUMNS, LOG, Row, config_of, rows_of, write

from pipelines.config.errors import InputError
from pipelines.data.prepare import prepare


def test_every_kind_of_source_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path / "part-1.parquet", LOG[:9])
    write(tmp_path / "part-2.parquet", LOG[9:])
    write(tmp_path / "it's.csv", LOG)
    shop = tmp_path / "shop.duckdb"
    with duckdb.connect(shop) as con:
        con.execute(f"create table pairs as select * from '{tmp_path}/part-*.parquet'")
        con.execute("create view sold as select * from pairs")
        con.execute('create schema cash; create table cash."the sales" as select * from pairs')
    sources: list[dict[str, Any]] = [
        {"files": str(tmp_path / "part-*.parquet")},
        {"files": str(tmp_path / "it's.csv")},
        {"query": f"select * from '{tmp_path}/part-*.parquet' -- all; of it\n;"},
        {"query": "with sold as (from pairs) select * from sold", "database": str(shop)},
        {"table": "pairs", "database": str(shop)},
        {"table": "main.sold", "database": str(shop)},
        {"table": "cash.the sales", "database": str(shop)},
    ]
    made = []
    for source in sources:
        config = config_of(tmp_path, source={"files": None} | source)
        made.append(prepare(config))
        assert rows_of(config, "select count(*) from targets") == [(6,)]
    assert len({one.fingerprint for one in made}) == 1
    assert not any(one.reused for one in made)


@pytest.mark.parametrize(
    ("far", "held"),
    [(0, 4), (2**31 - 1 - 14, 4), (2**31 - 14, 8), (2**40, 8), (-10, 4), (-11, 8), (-(2**31) - 11, 8)],
)
def test_ids_stored_in_four_bytes_keep_their_type(tmp_path: Path, far: int, held: int) -> None:
    """Items 10 to 14 moved to both ends of four bytes, and beyond: the tables are otherwise the same."""
    items = {i for _, i, *_ in LOG}
    assert (min(items), max(items)) == (10, 14)
    moved = [(u, i + far, *rest) for u, i, *rest in LOG]
    write(tmp_path / "log.parquet", LOG)
    for name in ("moved.parquet", "moved.csv"):
        write(tmp_path / name, moved)
    with duckdb.connect(tmp_path / "shop.duckdb") as con:
        con.execute(f"create table moved as select * from '{tmp_path}/moved.parquet'")
        con.execute("create view seen as select * from moved")
    shop = {"files": None, "database": str(tmp_path / "shop.duckdb")}
    sources: dict[str, dict[str, Any]] = {
        name: {"files": str(tmp_path / name)} for name in ("log.parquet", "moved.parquet", "moved.csv")
    }
    sources |= {"table": shop | {"table": "main.moved"}, "view": shop | {"table": "seen"}}
    made, fingerprints, types = {}, {}, {}
    for source, settings in sources.items():
        config = config_of(tmp_path, source=settings)

        def examine(con: duckdb.DuckDBPyConnection, source: str = source) -> None:
            types[source] = [str(type_) for type_ in con.table("source_rows").types[:2]]

        fingerprints[source] = prepare(config, examine).fingerprint
        shift = 0 if source == "log.parquet" else far
        made[source] = [
            rows_of(config, f"select * replace (item_id - {shift} as item_id) from pairs order by all"),
            rows_of(config, "from targets order by all"),
            rows_of(config, "from profile_columns order by all"),
            rows_of(config, "select typeof(item_id) from items union select typeof(user_id) from users"),
        ]
    assert all(one == made["log.parquet"] for one in made.values())
    assert len({one for source, one in fingerprints.items() if source != "log.parquet"}) == 1
    small = ["INTEGER", "INTEGER" if held == 4 else "BIGINT"]
    assert types["moved.parquet"] == types["table"] == small
    assert types["moved.csv"] == types["view"] == ["BIGINT", "BIGINT"]
    assert made["log.parquet"][-1] == [("BIGINT",)]
    assert ("log.user_id", "BIGINT") in made["log.parquet"][2]


def test_errors_in_csv_files_name_line_and_file(tmp_path: Path) -> None:
    late = tmp_path / "late.csv"
    rows = "".join(f"{n},{n % 7},2024-01-01,1\n" for n in range(30_000))
    late.write_text(f"user_id,item_id,at,weight\n{rows}guest-1,46,2024-01-01,1,5\n", encoding="utf-8")
    with pytest.raises(InputError) as told:
        prepare(config_of(tmp_path, source={"files": str(late)}))
    for words in ("source: ", "Line: 30002", "guest-1,46", "Columns: 4 Found: 5", f"file = {late}"):
        assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_times_are_read_as_utc(tmp_path: Path) -> None:
    """Warsaw is two hours ahead in May: 22:30 UTC on the 30th is still before the 31st."""
    stamps = ["2024-05-01", "2024-05-30T23:59:59.5Z", "2024-05-31 00:30:00+02:00", "2024-05-31T00:00"]
    rows = [(u, i, at) for u in (1, 2) for i, at in enumerate([*stamps, "2024-06-02T00:00:00Z"])]
    split = {"validation_start": "2024-05-31T02:00:00+02:00", "test_start": "2024-06-01"}
    # fold validation fits items 0, 1, 2; its window holds item 3, which it does not know
    config = config_of(
        tmp_path, [*rows, (1, 0, "2024-05-31"), (1, 0, "2024-06-03")], COLUMNS[:3], split=split
    )
    prepare(config)
    query = "select distinct fold, last_at from pairs where item_id > 0 order by all"
    early, late = datetime(2024, 5, 30, 22, 30), datetime(2024, 5, 30, 23, 59, 59, 500000)
    folds = [("test", early), ("test", late), ("test", datetime(2024, 5, 31))]
    folds += [("validation", early), ("validation", late)]
    assert rows_of(config, query) == folds
    assert rows_of(config, "select value from counts where name = 'events.test'") == [(3,)]
    zoned = f'select * replace (cast("at" as timestamptz) as "at") from \'{tmp_path / "log.parquet"}\''
    with_zone = config.model_copy(
        update={"source": config.source.model_copy(update={"query": zoned, "files": None})}
    )
    assert not prepare(with_zone).reused
    assert rows_of(config, query) == folds


def test_kinds_of_event_have_weights(tmp_path: Path) -> None:
    rows = [(u, i, when, "buy" if weight == 2 else "view") for u, i, when, weight in LOG]
    source = {"event": "kind", "event_weights": {"buy": 3, "view": 0.5}}
    config = config_of(tmp_path, rows, ("user_id", "item_id", "at", "kind"), source=source)
    prepare(config)
    query = "select weight from pairs where fold = 'validation' and user_id = 1 and item_id = 10"
    assert rows_of(config, query) == [(6.5,)]
    with pytest.raises(
        InputError, match=r"(?s)check unknown_events .*source.event_weights.*rows: 14, .*event = 'view'"
    ):
        prepare(
            config_of(
                tmp_path,
                rows,
                ("user_id", "item_id", "at", "kind"),
                source=source | {"event_weights": {"buy": 1}},
            )
        )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"files": "nowhere/*.parquet"}, 'source: .*No files found .*"nowhere/'),
        ({"files": "log.xlsx"}, r"source.files = 'log.xlsx': it must end in one of .parquet, .csv"),
        ({"query": "select 1; drop table log"}, "source.query must be a single SELECT, not SELECT, DROP"),
        ({"query": "copy t to 'x'"}, "source.query must be a single SELECT, not COPY"),
        ({"query": "-- nothing"}, "source.query must be a single SELECT, not nothing"),
        ({"query": "selec 1"}, 'source: Parser Error: .*"selec"$'),
        ({"query": "select * from nowhere"}, "source: Catalog Error: Table with name nowhere does not exist"),
        (
            {"query": "select error('boom')::int as user_id, 2 as item_id, now() as t", "time": "t"},
            "source: .*boom",
        ),
        (
            {"table": "sales", "database": "nowhere.duckdb"},
            "source.database = 'nowhere.duckdb': .*does not exist",
        ),
        (
            {"user": "customer"},
            "source.user = 'customer': there is no such column, only user_id, item_id, at, weight",
        ),
        ({"time": "when"}, "source.time = 'when': there is no such column"),
        (
            {"user": "at"},
            "source.user = 'at' is a column of type timestamp, allowed: .*bigint.*varchar.*cast",
        ),
        (
            {"query": "select [1] as user_id, 2 as item_id"},
            "source.user = 'user_id' is a column of type list",
        ),
        ({"time": "user_id"}, "source.time = 'user_id' is a column of type bigint, allowed: date, timestamp"),
        ({"weight": "at"}, "source.weight = 'at' is a column of type timestamp, allowed: .*double"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path: Path, source: dict[str, Any], message: str) -> None:
    unnamed = {"files": None, "weight": None} if {"query", "table"} & set(source) else {}
    with pytest.raises(InputError, match=message) as caught:
        prepare(config_of(tmp_path, source=unnamed | source))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("table", "named"), [("sales", "sales"), ("cash.the sales", "the sales")])
@pytest.mark.parametrize("section", ["source", "items"])
def test_a_missing_table_is_named(tmp_path: Path, section: str, table: str, named: str) -> None:
    shop = tmp_path / "shop.duckdb"
    with duckdb.connect(shop) as con:
        con.execute("create table pairs (user_id int); create schema cash")
    lacking = {"table": table, "database": str(shop)} | ({"files": None} if section == "source" else {})
    with pytest.raises(InputError, match=f"{section}: .*{named}.* does not exist") as caught:
        prepare(config_of(tmp_path, **{section: lacking}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([(10, "a"), (11, "b"), (10, "c")], "check repeated_items .*item_id = 10, metadata_rows = 2"),
        ([(10, "a"), (None, "b")], "check items_without_id .*title = 'b'"),
        ([("10", "a")], "items.item is read as VARCHAR, source.item as BIGINT"),
    ],
)
def test_bad_metadata(tmp_path: Path, metadata: list[Row], message: str) -> None:
    path = write(tmp_path / "items.parquet", metadata, ("sku", "name"))
    with pytest.raises(InputError, match=f"(?s){message}"):
        prepare(config_of(tmp_path, items={"files": str(path), "item": "sku", "title": "name"}))
