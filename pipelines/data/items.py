"""Read item metadata: a relation of its own, or titles in the log; and what places new items."""

from typing import NamedTuple

import duckdb

from pipelines.config.data import Items
from pipelines.config.errors import ColumnError, InputError
from pipelines.data import columns, times
from pipelines.data.columns import NO_ID, NO_INTEGER, Column
from pipelines.data.relation import JSON_VALUE, OpenRelation, open_relation
from pipelines.data.sql import identifier

# columns of tables stg_items and items that are not attributes
ITEM_COLUMNS = {"fold", "item_id", "item", "title", "user_count", "first_at", "last_at", "source_row"}
NEW_ITEM_COLUMNS = {"words", "vector", "listed_at", "is_offered", "digest"}  # with place_new

MOST_CHARACTERS = 100_000  # of an item's text that are read
LEAST_SHARED = 0.05  # of the items with a value of an attribute: those whose value another item has too
CONTENT = {"words": "varchar", "vector": "float[]", "listed_at": "timestamp"}  # columns of source_content


class ItemIds(NamedTuple):
    """The id column of the item metadata, and whether it was read as text."""

    column: Column
    is_text: bool


# Long: ids, titles, attributes and content are read in one pass.
def read_items(con: duckdb.DuckDBPyConnection, items: Items, notes: list[str]) -> ItemIds:
    """Make temp table source_items (item_id, title, attributes, and the columns of CONTENT that are named).

    Raises InputError as for the log, or if an attribute has the name of one of our columns.
    """
    ours = ITEM_COLUMNS | (NEW_ITEM_COLUMNS if items.place_new else set())
    taken = [name for name in items.attributes if name.lower() in ours]
    if taken:
        raise InputError(f"items.attributes: {', '.join(taken)} are our own names: rename them in a query")
    wanted = {"items.item": items.item} | ({"items.title": items.title} if items.title else {})
    wanted |= {f"items.attributes[{place}]": name for place, name in enumerate(items.attributes)}
    wanted |= {f"items.text[{place}]": name for place, name in enumerate(items.text)}
    wanted |= {f"items.{key}": name for key in ("vectors", "listed") if (name := getattr(items, key))}
    with open_relation(con, "items", items, wanted) as opened:
        notes += opened.notes
        ids = columns.find_id_column("items.item", items.item, opened.types)
        read = {}
        if items.title:
            read["title"] = columns.find_column("items.title", items.title, opened.types, columns.WORDS)
        for name in items.attributes:
            read[name] = columns.find_column("items.attributes", name, opened.types)
        listed = f"{read['title'].text if items.title else 'cast(null as varchar)'} as title" + "".join(
            f", {columns.attribute_sql(read[name])} as {read[name].sql}" for name in items.attributes
        )
        content = _content_sql(items, opened)
        listed += "".join(f", {sql} as {name}" for name, sql in content.items())
        is_text = False
        while True:
            try:
                con.execute(
                    "create or replace temp table source_items as "
                    f"select {columns.id_sql(ids, is_text)} as item_id, {listed} from {opened.text}"
                )
                break
            except duckdb.InvalidInputException as error:
                _, refused, value = str(error).partition(f"{NO_ID}{ids.key}: ")
                if refused:
                    raise columns.id_error(ids, value.splitlines()[0]) from None
                if is_text or f"{NO_INTEGER}{ids.key}: " not in str(error):
                    raise
                is_text = True
        _check_listed(con, items, opened)
    for name in content:
        con.execute("insert into source_columns values (?, ?)", [f"items.{name}", CONTENT[name].upper()])
    for name, one in read.items():
        con.execute(
            "insert into source_columns values (?, ?)",
            [f"items.{name}", columns.type_read_as(one, name).upper()],
        )
    type_ = con.table("source_items").types[0].id
    return ItemIds(ids, type_ == "varchar")


def _content_sql(items: Items, opened: OpenRelation) -> dict[str, str]:
    """{column of CONTENT: SQL} of those that the configuration names. Raises ColumnError."""
    found = dict[str, str]()
    if items.text:
        parts = [columns.find_column("items.text", name, opened.types).text for name in items.text]
        found["words"] = f"left(concat_ws(' ', {', '.join(parts)}), {MOST_CHARACTERS})"
    if items.vectors:
        one = columns.find_column("items.vectors", items.vectors, opened.types, {"list", "array", JSON_VALUE})
        numbers = f"from_json({one.sql}, '[\"FLOAT\"]')" if one.type == JSON_VALUE else one.sql
        found["vector"] = f"cast({numbers} as float[])"
    if items.listed:
        allowed = columns.INSTANTS | columns.WORDS
        one = columns.find_column("items.listed", items.listed, opened.types, allowed)
        found["listed_at"] = columns.time_sql(one, times.ISO)
    return found


def _check_listed(con: duckdb.DuckDBPyConnection, items: Items, opened: OpenRelation) -> None:
    """Raise ColumnError on a time of items.listed that cannot be read."""
    if not items.listed:
        return
    one = columns.find_column("items.listed", items.listed, opened.types)
    unread = con.execute(
        f"select {one.text} from {opened.text} where {one.text} is not null "
        f"and ({columns.time_sql(one, times.ISO)}) is null limit 1"
    ).fetchone()
    if unread is not None:
        raise ColumnError(
            f"items.listed = '{items.listed}' holds {unread[0]!r}, allowed: times as in ISO 8601, or NULL "
            "where the item cannot be bought yet"
        )


def split_content(con: duckdb.DuckDBPyConnection) -> None:
    """Move the columns of CONTENT from source_items to temp table source_content, which has all of them."""
    known = con.table("source_items").columns
    listed = ", ".join(
        f"{name if name in known else 'null'}::{type_} as {name}" for name, type_ in CONTENT.items()
    )
    con.execute(f"create or replace temp table source_content as select item_id, {listed} from source_items")
    for name in CONTENT:
        if name in known:
            con.execute(f"alter table source_items drop column {name}")


def doubts(con: duckdb.DuckDBPyConnection, items: Items | None) -> list[str]:
    """Warnings about content that places no new item, and what to do; read after split_content."""
    if items is None or not items.place_new:
        return []
    lines = list[str]()
    if items.listed:
        rows, listed = con.execute("select count(*), count(listed_at) from source_content").fetchall()[0]
        if rows and not listed:
            lines.append(
                f"items.listed = '{items.listed}' is NULL for all {rows:,} items, so that none of them can "
                "be bought yet and no new item is recommended: fill the column, or leave items.listed out"
            )
    for name in items.attributes:
        n_items, n_shared, n_values = _sharing(con, name)
        if n_items > 1 and n_shared < LEAST_SHARED * n_items:
            lines.append(
                f"attribute '{name}' has {n_values:,} values for {n_items:,} items, of which {n_shared:,} "
                "share one with another: it says almost nothing about new items. Leave it out of "
                "items.attributes, name it in items.text if it is words, or group its values in items.query"
            )
    return lines


def _sharing(con: duckdb.DuckDBPyConnection, name: str) -> tuple[int, int, int]:
    """Items with a value of an attribute, those that share one with another item, and the distinct values."""
    table = con.table("source_items")
    column = next(one for one in table.columns if one.lower() == name.lower())
    is_list = table.types[table.columns.index(column)].id == "list"
    values = identifier(column) if is_list else f"[{identifier(column)}]"
    (found,) = con.execute(
        f"with given as (select distinct item_id, unnest({values}) as given_value from source_items), "
        "counted as (select *, count(*) over (partition by given_value) as carriers from given "
        "where given_value is not null) "
        "select count(distinct item_id), count(distinct item_id) filter (where carriers > 1), "
        "count(distinct given_value) from counted"
    ).fetchall()
    return found


def match_id_types(con: duckdb.DuckDBPyConnection, described: ItemIds, log: Column) -> None:
    """Cast undeclared ids of the metadata to the log's type. Raises InputError: declared types differ."""
    log_type, items_type = (
        con.table(name).types[place] for name, place in (("source_log", 2), ("source_items", 0))
    )
    if log_type != items_type and described.column.is_undeclared and str(log_type) == "VARCHAR":
        con.execute("alter table source_items alter item_id type varchar")
        items_type = log_type
    if log_type != items_type:
        raise InputError(
            f"items.item is read as {items_type}, source.item as {log_type}: cast one in a query"
        )
    con.execute("insert into source_columns values ('items.item_id', ?)", [str(items_type)])


def make_titles_from_log(
    con: duckdb.DuckDBPyConnection, title: Column, expressions: dict[str, str], log: OpenRelation
) -> None:
    """Make temp table source_items from titles in the log: the latest one of each item."""
    item = expressions["item_id"]
    latest = f"({expressions['event_at']}, {title.text})" if "event_at" in expressions else title.text
    con.execute(
        f"create temp table source_items as select {item} as item_id, "
        f"max_by({title.text}, {latest}) filter (where trim({title.text}) <> '') as title "
        f"from {log.text} where {item} is not null group by 1"
    )
    con.execute("insert into source_columns values ('log.title', 'VARCHAR')")
