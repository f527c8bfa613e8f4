"""What is known about the items of a fold, as features: those of fitted items, and of new ones.

Axes: I fitted items, C new items, F features.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.config.config import Config
from pipelines.config.data import Items
from pipelines.config.errors import DataError
from pipelines.data import encoders, folds
from pipelines.data.database import open_database
from pipelines.data.encoders import Encoder
from pipelines.data.folds import Fold, FoldName, Ids
from recsys.content import Features
from recsys.files import replace_atomically, write_text

FILE, DIGESTS = "encoders.json", "content.parquet"  # of a run
KNOWN = """
select stg_content.words, stg_content.vector
from {table} as numbered
left join stg_content on numbered.item_id = stg_content.item_id
where numbered.fold = $fold
order by numbered.item
"""


class ItemContent(NamedTuple):
    """Features of a fold's items, by encoders that were fitted on the fitted ones alone."""

    encoders: tuple[Encoder, ...]
    fitted: Features  # (I, F)
    new: Features | None  # (C, F); None without new items

    @property
    def n_new(self) -> int:
        return 0 if self.new is None else len(self.new.offsets) - 1

    @property
    def columns(self) -> list[str]:
        """(F,) a name for each feature."""
        return [name for encoder in self.encoders for name in encoder.columns]

    @property
    def values(self) -> NDArray[np.bool_]:
        """(F,) columns of values that fitted items share: of attributes, or of words where there is none."""
        found: dict[str, list[bool]] = {"attribute": [], "text": []}
        for encoder in self.encoders:
            of_values = len(encoder.vocabulary)  # then comes a column of all other values, which differ
            for kind, columns in found.items():
                own = encoder.kind == kind
                columns += [own and at < of_values for at in range(len(encoder.columns))]
        return np.array(found["attribute"] if any(found["attribute"]) else found["text"], bool)


class Described(NamedTuple):
    """What is known about some items, as read."""

    attributes: dict[str, list[list[str]]]  # (I,) values of each
    texts: pl.Series  # (I,) or NULL
    vectors: pl.Series  # (I,) lists of numbers, or NULL


def load_content(config: Config, name: FoldName, fold: Fold) -> ItemContent | None:
    """Features of the fold's items; None unless items.place_new. Raises DataError: nothing to learn from."""
    if config.items is None or not config.items.place_new:
        return None
    known = read(config, config.items, name, fold.item_table)
    fitted = fit(config.items, known)
    new = None
    if fold.new is not None:
        new = encode(fitted, read(config, config.items, name, fold.new.item_table, "new_items"))
    return ItemContent(fitted, encode(fitted, known), new)


def read(config: Config, items: Items, fold: FoldName, rows: pl.DataFrame, table: str = "items") -> Described:
    """What is known about the items of a table, items or new_items, whose rows are given in their order."""
    with open_database(config) as con:
        found = con.sql(KNOWN.format(table=table), params={"fold": fold}).pl()
    attributes = {name: folds.label_lists(rows[name]) for name in items.attributes}
    return Described(attributes, found["words"], found["vector"])


def fit(items: Items, known: Described) -> tuple[Encoder, ...]:
    """The encoders of the configuration, fitted on these items. Raises DataError: nothing to learn from."""
    found = []
    if items.text:
        try:
            found.append(encoders.fit_text(known.texts))
        except ValueError as error:
            columns = ", ".join(items.text)
            raise DataError(f"items.text = {columns}, of fitted items: {error}") from None
    found += [encoders.fit_attribute(name, labels) for name, labels in known.attributes.items()]
    if items.has_vectors:  # checks/bad_vectors has seen them
        found.append(encoders.fit_vectors(_matrix(known.vectors)))
    return tuple(found)


def encode(fitted: Sequence[Encoder], known: Described) -> Features:
    """(I, F): words, attributes and vectors side by side. Raises DataError: vectors of another length."""
    by_kind = {kind: [one for one in fitted if one.kind == kind] for kind in ("text", "attribute", "vectors")}
    parts = [encoders.encode_text(one, known.texts) for one in by_kind["text"]]
    if by_kind["attribute"]:
        parts.append(encoders.encode_attributes(by_kind["attribute"], known.attributes))
    try:
        for one in by_kind["vectors"]:
            parts.append(encoders.encode_vectors(one, _matrix(known.vectors, len(one.weights))))
    except ValueError as error:
        raise DataError(f"items.vectors: {error}") from None
    return encoders.features(parts)


def _matrix(vectors: pl.Series, least: int = 1) -> NDArray[np.float32]:
    """(I,) lists -> (I, E): zeros where an item has none."""
    width = max(int(vectors.list.len().max() or 0), 1) if vectors.drop_nulls().len() else least  # type: ignore[arg-type]
    rows = np.zeros((len(vectors), width), np.float32)
    given = vectors.is_not_null().to_numpy()
    if given.any():
        rows[given] = np.array(vectors.drop_nulls().to_list(), np.float32)
    return rows


def save(folder: Path, fitted: Sequence[Encoder]) -> None:
    """Write the encoders into a run's folder, as JSON."""
    write_text(folder / FILE, json.dumps([one._asdict() for one in fitted], ensure_ascii=False))


def save_digests(folder: Path, item_ids: Ids, features: Features) -> None:
    """Write a digest of each fitted item's features, to tell later what has changed."""
    frame = pl.DataFrame({"item_id": item_ids, "digest": digests(features)})
    with replace_atomically(folder / DIGESTS) as partial:
        frame.write_parquet(partial)


def digests(features: Features) -> list[bytes]:
    """(I,): SHA-256 of each item's features, the first 8 bytes."""
    bounds = features.offsets.tolist()
    return [
        hashlib.sha256(features.columns[start:end].tobytes() + features.values[start:end].tobytes()).digest()[
            :8
        ]
        for start, end in itertools.pairwise(bounds)
    ]


def load(folder: Path) -> tuple[Encoder, ...]:
    """Read what `save` wrote; none if the run has no encoders."""
    path = folder / FILE
    if not path.exists():
        return ()
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Encoder(row["kind"], row["name"], tuple(row["vocabulary"]), tuple(row["weights"])) for row in rows
    )
