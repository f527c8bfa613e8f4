"""SQL as text: the statements in folder sql/, quoted names and strings, result rows for messages."""

from collections.abc import Iterable, Sequence

from pipelines.config import digests

SQL = digests.ROOT / "sql"


def read_sql(name: str) -> str:
    """The statement in sql/NAME.sql, e.g. of 'marts/items'."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal, for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def format_rows(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """One indented line per row, each after a line break: name = value, name = value."""

    def text(value: object) -> str:
        return "NULL" if value is None else repr(value) if isinstance(value, str) else str(value)

    return "".join(
        "\n  " + ", ".join(f"{column} = {text(value)}" for column, value in zip(columns, row, strict=True))
        for row in rows
    )
