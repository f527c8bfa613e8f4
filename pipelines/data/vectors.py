"""Read the shop's own vectors of items from .npy files: numbers in one, the ids of their items in another.

Axes: N rows of the files, E numbers of a vector, B rows of a batch.
"""

import tokenize
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.config.data import Items
from pipelines.config.errors import InputError

BATCH = 4_000_000  # numbers that are in memory at once
MAGIC = b"\x93NUMPY"
LARGEST_ID = 2**63 - 1
REPEATED = (
    "select item_id, count(*) from source_vectors group by item_id having count(*) > 1 order by item_id"
)
ALIKE = """
insert into source_vectors
select batch.item_id, cast(batch.vector as float[])
from batch
semi join source_content on batch.item_id = source_content.item_id
"""


def read_vectors(con: duckdb.DuckDBPyConnection, items: Items | None, notes: list[str]) -> None:
    """Make temp table source_vectors (item_id, vector) of described items; empty without items.vectors_file.

    The files are memory-mapped and read in batches; a file of pickles is not read. Raises InputError: no such
    file, not (N, E) and (N,), ids of another kind than those of the items, an id twice, no id of an item.
    """
    kind = str(con.table("source_content").types[0])
    con.execute(f"create or replace temp table source_vectors (item_id {kind}, vector float[])")
    if items is None or items.vectors_file is None or items.vectors_ids is None:
        return
    vectors = _open("items.vectors_file", items.vectors_file)  # (N, E)
    ids = _open("items.vectors_ids", items.vectors_ids)  # (N,)
    _check_shapes(items, vectors, ids)
    _check_kind(items, ids, kind)
    rows = max(1, BATCH // vectors.shape[1])
    for start in range(0, len(ids), rows):
        _insert(con, ids[start : start + rows], vectors[start : start + rows])
    _check_found(con, items, len(ids))
    con.execute("insert into source_columns values ('items.vector', 'FLOAT[]')")
    described, given = con.execute(
        "select (select count(*) from source_content), (select count(*) from source_vectors)"
    ).fetchall()[0]
    notes.append(f"items.vectors_file has vectors of {given:,} of {described:,} items")


def _open(key: str, path: Path) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped. Raises InputError: no such file, no array, Python objects."""
    try:
        with path.open("rb") as file:
            is_array = file.read(len(MAGIC)) == MAGIC  # an archive or a pickle is not even opened
        if is_array:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
    except FileNotFoundError:
        raise InputError(f"{key} = '{path}': there is no such file") from None
    except OSError as error:
        raise InputError(f"{key} = '{path}' cannot be read: {error}") from None
    except (ValueError, EOFError, OverflowError, SyntaxError, tokenize.TokenError):
        pass  # no whole array, as said below; the last two are of a header that is no Python
    raise InputError(
        f"{key} = '{path}' is cut off or no array, allowed: one whole array of numbers or text (no Python "
        "objects), as np.save writes it"
    )


def _check_shapes(items: Items, vectors: NDArray[Any], ids: NDArray[Any]) -> None:
    """Raise InputError unless vectors are (N, E) of floating point numbers, E >= 1, and ids (N,)."""
    named = f"items.vectors_file = '{items.vectors_file}'"
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or vectors.shape[1] == 0:
        raise InputError(
            f"{named} has shape {vectors.shape} of {vectors.dtype}, allowed: two axes, a row an item and a "
            "column a number, of floats"
        )
    if ids.ndim != 1 or len(ids) != len(vectors):
        raise InputError(
            f"items.vectors_ids = '{items.vectors_ids}' has shape {ids.shape}, allowed: ({len(vectors)},), "
            f"an id a row of {named}"
        )


def _check_kind(items: Items, ids: NDArray[Any], kind: str) -> None:
    """Raise InputError unless the ids are whole numbers or text, as the ids of the items are read."""
    named = f"items.vectors_ids = '{items.vectors_ids}'"
    read_as = {"i": "BIGINT", "u": "BIGINT", "U": "VARCHAR"}.get(ids.dtype.kind)
    if read_as != kind:
        allowed = "whole numbers" if kind == "BIGINT" else "text (np.str_)"
        raise InputError(f"{named} holds {ids.dtype}, allowed: {allowed}, as items.item is read as {kind}")
    if ids.dtype == np.uint64 and len(ids) and int(ids.max()) > LARGEST_ID:
        raise InputError(f"{named} holds {int(ids.max())}, allowed <= {LARGEST_ID}")


def _insert(con: duckdb.DuckDBPyConnection, ids: NDArray[Any], vectors: NDArray[Any]) -> None:
    """Add the rows of a batch, (B,) and (B, E), whose items are described."""
    of_text = ids.dtype.kind == "U"
    with np.errstate(over="ignore"):  # what is too large becomes Inf, which checks/bad_vectors names
        numbers = np.ascontiguousarray(vectors, np.float32)
    batch = pl.DataFrame(
        {
            "item_id": pl.Series(ids.tolist(), dtype=pl.String) if of_text else ids.astype(np.int64),
            "vector": pl.Series(numbers, dtype=pl.Array(pl.Float32, numbers.shape[1])),
        }
    )
    con.register("batch", batch)
    con.execute(ALIKE)
    con.unregister("batch")


def _check_found(con: duckdb.DuckDBPyConnection, items: Items, n_ids: int) -> None:
    """Raise InputError if an item has two vectors, or none has one."""
    named = f"items.vectors_ids = '{items.vectors_ids}'"
    repeated = con.execute(REPEATED).fetchall()
    if repeated:
        first, times = repeated[0]
        raise InputError(
            f"{named}: {len(repeated):,} ids occur more than once, the first {first!r} {times} times, "
            "allowed: once"
        )
    if not con.execute("select 1 from source_vectors limit 1").fetchall():
        raise InputError(
            f"{named}: none of its {n_ids:,} ids is the id of an item, allowed: ids as in items.item"
        )
