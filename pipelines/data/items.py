"""Read item metadata: a relation of its own, or titles in the log."""

from typing import NamedTuple

import duckdb

from pipelines.config.data import Items
from pipelines.config.errors import InputError
from pipelines.data import columns
from pipelines.data.columns import NO_ID, NO_INTEGER, Column
from pipelines.data.relation import OpenRelation, open_relation

# columns of tables stg_items and items that are not attributes
ITEM_COLUMNS = {"fold", "item_id", "item", "title", "user_count", "first_at", "last_at", "source_row"}


class ItemIds(NamedTuple):
    """The id column of the item metadata, and whether it was read as text."""

    column: Column
    is_text: bool


def read_items(con: duckdb.DuckDBPyConnection, items: Items, notes: list[str]) -> ItemIds:
    """Make temp table source_items (item_id, title, attributes).

    Raises InputError as for the log, or if an attribute has the name of one of our columns.
    """
    taken = [name for name in items.attributes if name.lower() in ITEM_COLUMNS]
    if taken:
        raise InputError(f"items.attributes: {', '.join(taken)} are our own names: rename them in a query")
    wanted = {"items.item": items.item} | ({"items.title": items.title} if items.title else {})
    wanted |= {f"items.attributes[{place}]": name for place, name in enumerate(items.attributes)}
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
    for name, one in read.items():
        con.execute(
            "insert into source_columns values (?, ?)",
            [f"items.{name}", columns.type_read_as(one, name).upper()],
        )
    type_ = con.table("source_items").types[0].id
    return ItemIds(ids, type_ == "varchar")


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
