"""A bundle: one release folder that is written whole, verified before it is read, and never changed.

Its manifest is in manifest.py; which bundle is current, and which are kept, in releases.py.
Axes: U users, I items, D coordinates, L directions of features, T seen (user, item) pairs.
"""

import json
import os
import secrets
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys import canaries, seals
from recsys.attributes import Attribute
from recsys.files import acquire_lock, flush, hold_lock
from recsys.ids import IdMap, Strings, load_array
from recsys.index import ItemIndex, Search, check_vectors
from recsys.manifest import (
    FORMAT_VERSION,
    BundleError,
    Manifest,
    check_files,
    errors_name,
    read_manifest,
    write_manifest,
)

Ids = NDArray[np.int64] | Sequence[str]


class BundleContent(NamedTuple):
    """What a bundle serves. Vectors are Euclidean: smaller = closer."""

    user_vectors: NDArray[np.float32]  # (U, D)
    item_vectors: NDArray[np.float32]  # (I, D)
    user_ids: Ids
    item_ids: Ids
    seen: tuple[NDArray[np.int64], NDArray[np.int32]]  # offsets (U + 1,), items (T,)
    popular: NDArray[np.int32]  # (I,), all items from most to least popular
    titles: Iterable[str] | None = None  # (I,)
    attributes: Mapping[str, Sequence[Sequence[str]]] | None = None  # (I,) values to filter by, each
    fold_in: NDArray[np.float32] | None = None  # (D + 1, D), see recsys/fold_in.py
    new_items: NDArray[np.int32] | None = None  # ascending; too few have them, what is known places them
    likeness: NDArray[np.float32] | None = None  # (I, L): by what is known about items


class IndexPlan(NamedTuple):
    """The index of a bundle, and how it is searched."""

    trees: int
    search_k: int | None  # None: all items are scanned, where an index is no less work
    seed: int = 0
    built: ItemIndex | None = None  # of the same vectors, trees and seed
    measured: dict[str, Any] | None = None  # how trees and search_k were chosen


@dataclass(frozen=True)
class Bundle:
    """One opened bundle; the arrays are read-only maps of its files."""

    folder: Path
    version: str  # the folder's name, but for a copy of the link `current`: see releases.find_current
    manifest: Manifest
    user_vectors: NDArray[np.float32]  # (U, D)
    item_vectors: NDArray[np.float32]  # (I, D)
    users: IdMap
    items: IdMap
    seen_offsets: NDArray[np.int64]  # (U + 1,)
    seen_items: NDArray[np.int32]  # (T,)
    popular: NDArray[np.int32]  # (I,), all items from most to least popular
    titles: Strings | None
    attributes: dict[str, Attribute]
    fold_in: NDArray[np.float32] | None  # see recsys/fold_in.py
    search: Search
    new_items: NDArray[np.int32]  # ascending; of a bundle that does not say so none
    likeness: NDArray[np.float32] | None  # (I, L)

    def seen(self, user: int) -> NDArray[np.int32]:
        """The items that a user took before, ascending."""
        return self.seen_items[self.seen_offsets[user] : self.seen_offsets[user + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone: loading opens the folder again, see _reopen."""
        return _reopen, (self.folder, self.version, self.manifest["checksum"])


def write_bundle(folder: Path, content: BundleContent, plan: IndexPlan, info: dict[str, Any]) -> None:
    """Write, flush and verify a bundle in a hidden sibling folder, then rename it to `folder`.

    info is anything JSON can hold. Nothing is seen under the final name before it is complete; what a killed
    write leaves is found by its lock: see releases.prune. Raises FileExistsError if `folder` exists,
    ValueError (BundleError where it shows in a written file) on input that cannot be served, TypeError on
    info that JSON cannot hold.
    """
    if folder.exists():
        raise FileExistsError(f"bundle '{folder}' exists already: bundles are never changed")
    # as they will be read, or an error before any work
    info, measured = json.loads(json.dumps([info, plan.measured], allow_nan=False))
    index = plan.built or ItemIndex.build(content.item_vectors, plan.trees, plan.seed)
    staging = folder.with_name(f".writing-{folder.name}.{secrets.token_hex(4)}")
    staging.mkdir(parents=True)
    try:
        with hold_lock(staging, shared=True, wait=True):
            staging.stat()  # prune may have taken it before the lock
            _save(staging, content)
            index.save(staging / "index.ann")
            search = Search(content.item_vectors, index, plan.search_k)
            manifest = {
                "format_version": FORMAT_VERSION,
                "version": folder.name,
                "metric": "euclidean",
                "dim": content.item_vectors.shape[1],
                "n_users": len(content.user_vectors),
                "n_items": len(content.item_vectors),
                "n_seen": len(content.seen[1]),
                "n_likeness": 0 if content.likeness is None else content.likeness.shape[1],
                "n_new": 0 if content.new_items is None else len(content.new_items),
                "trees": plan.trees,
                "search_k": plan.search_k,
                "attributes": list(content.attributes or ()),
                "canaries": canaries.answer(search, content.user_vectors),
                "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
                "info": info,
            }
            write_manifest(staging, manifest | ({} if measured is None else {"measured": measured}))
            verify(staging)
            os.rename(staging, folder)
            flush(folder.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _save(folder: Path, content: BundleContent) -> None:
    """Write the content's files."""
    arrays: dict[str, NDArray[Any]] = {
        "user_vectors": content.user_vectors,
        "item_vectors": content.item_vectors,
        "seen_offsets": content.seen[0],
        "seen_items": content.seen[1],
        "popular": content.popular,
    }
    if content.fold_in is not None:
        arrays["fold_in"] = content.fold_in
    if content.new_items is not None and len(content.new_items):
        arrays["new_items"] = content.new_items
    if content.likeness is not None:
        arrays["likeness"] = content.likeness
    IdMap.of(content.user_ids).save(folder / "user_ids")
    IdMap.of(content.item_ids).save(folder / "item_ids")
    if content.titles is not None:
        Strings.pack(content.titles).save(folder / "titles")
    for number, labels in enumerate((content.attributes or {}).values()):
        attribute = Attribute.of(labels)
        attribute.values.save(folder / f"attribute_{number}.values")
        arrays[f"attribute_{number}.offsets"] = attribute.offsets
        arrays[f"attribute_{number}.items"] = attribute.items
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def verify(folder: Path) -> Manifest:
    """Check a bundle from its bytes to its answers and return its manifest; raises BundleError.

    Sizes and hashes are compared first: numpy and Annoy read only the bytes that were written.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    bundle = _open(folder, manifest)
    _check_values(bundle)
    _check_index(bundle)
    return manifest


def open_bundle(folder: Path, version: str | None = None) -> Bundle:
    """Verify a bundle, then map it; raises BundleError. version: the folder's name, unless given.

    A bundle whose seal holds is not read again as a whole: see seals.py. The folder stays locked against
    pruning until the bundle is garbage.
    """
    folder = folder.absolute()  # so that it is found again from another working directory
    try:
        lock = acquire_lock(folder, shared=True)
    except BlockingIOError as error:  # it is being removed
        raise BundleError(f"{folder}: {error}") from error
    except OSError as error:
        read_manifest(folder)  # says what is missing
        raise BundleError(f"{folder}: {error}") from error
    try:
        if seals.holds(folder):
            bundle = _open(folder, read_manifest(folder), version)
            _check_index(bundle)
        else:
            bundle = _open(folder, verify(folder), version)
    except BaseException:
        os.close(lock)
        raise
    weakref.finalize(bundle, os.close, lock)
    return bundle


def _reopen(folder: Path, version: str, checksum: str) -> Bundle:
    """Open the bundle of a pickle. Raises BundleError if the folder is gone or holds another bundle."""
    bundle = open_bundle(folder, version)
    if bundle.manifest["checksum"] != checksum:
        raise BundleError(f"{folder}: holds another bundle than when it was pickled; open it again")
    return bundle


def _open(folder: Path, manifest: Manifest, version: str | None = None) -> Bundle:
    """Map the files; types and shapes are checked before Annoy, which does not check its width."""
    n_users, n_items, n_seen, dim = (manifest[key] for key in ("n_users", "n_items", "n_seen", "dim"))
    arrays = {
        "user_vectors": _map(folder, "user_vectors", np.float32, (n_users, dim)),
        "item_vectors": _map(folder, "item_vectors", np.float32, (n_items, dim)),
        "seen_offsets": _map(folder, "seen_offsets", np.int64, (n_users + 1,)),
        "seen_items": _map(folder, "seen_items", np.int32, (n_seen,)),
        "popular": _map(folder, "popular", np.int32, (n_items,)),
    }
    with errors_name(folder / "user_ids"):
        users = IdMap.open(folder / "user_ids")
    with errors_name(folder / "item_ids"):
        items = IdMap.open(folder / "item_ids")
    with errors_name(folder / "titles"):
        titles = Strings.open(folder / "titles") if "titles.bytes.npy" in manifest["files"] else None
    counts = {"user_ids": (users, n_users), "item_ids": (items, n_items), "titles": (titles, n_items)}
    for name, (held, count) in counts.items():
        if held is not None and len(held) != count:
            raise BundleError(f"{folder / name}: {len(held)} entries, the manifest says {count}")
    attributes = {
        name: _attribute(folder, f"attribute_{number}")
        for number, name in enumerate(manifest.get("attributes", []))
    }
    scans_many = bool(manifest.get("measured", {}).get("scans_many", False))
    has_fold_in = "fold_in.npy" in manifest["files"]
    fold_in = _map(folder, "fold_in", np.float32, (dim + 1, dim)) if has_fold_in else None
    n_new = int(manifest.get("n_new", 0))
    new_items = _map(folder, "new_items", np.int32, (n_new,)) if n_new else np.empty(0, np.int32)
    n_alike = int(manifest.get("n_likeness", 0))
    return Bundle(
        folder,
        version or folder.name,
        manifest,
        users=users,
        items=items,
        titles=titles,
        attributes=attributes,
        fold_in=fold_in,
        new_items=new_items,
        likeness=_map(folder, "likeness", np.float32, (n_items, n_alike)) if n_alike else None,
        search=Search(arrays["item_vectors"], _index(folder, manifest), manifest["search_k"], scans_many),
        **arrays,
    )


def _index(folder: Path, manifest: Manifest) -> ItemIndex | None:
    """Open the index; None where the manifest asks for a scan, which does not need annoy."""
    if manifest["search_k"] is None:
        return None
    path = folder / "index.ann"
    with errors_name(path):
        try:
            return ItemIndex.open(path, manifest["n_items"], manifest["dim"])
        except ModuleNotFoundError as error:
            raise BundleError(
                f"{path}: this bundle is searched by Annoy (search_k {manifest['search_k']}; with null it "
                f"would be scanned), and {error}"
            ) from None


def _attribute(folder: Path, name: str) -> Attribute:
    with errors_name(folder / f"{name}.values"):
        values = IdMap.open(folder / f"{name}.values")
    offsets = _map(folder, f"{name}.offsets", np.int64, (len(values) + 1,))
    return Attribute(values, offsets, _map(folder, f"{name}.items", np.int32, (int(offsets[-1]),)))


def _map(folder: Path, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    with errors_name(path):
        array = load_array(path)
        if array.dtype != dtype or array.shape != shape:
            expected = f"{dtype.__name__}{list(shape)}"
            raise ValueError(f"is {array.dtype}{list(array.shape)}, the manifest says {expected}")
    return array


def _check_values(bundle: Bundle) -> None:
    """Check what serving relies on inside the arrays."""
    n_users, n_items = len(bundle.user_vectors), len(bundle.item_vectors)
    for name in ("user_vectors", "item_vectors"):
        with errors_name(bundle.folder / f"{name}.npy"):
            check_vectors("vectors", getattr(bundle, name))
    offsets, seen = bundle.seen_offsets, bundle.seen_items
    with errors_name(bundle.folder / "seen_offsets.npy"):
        if offsets[0] != 0 or offsets[-1] != len(seen) or np.any(np.diff(offsets) < 0):
            raise ValueError(f"does not ascend from 0 to {len(seen)}")
    with errors_name(bundle.folder / "seen_items.npy"):
        pairs = np.repeat(np.arange(n_users), np.diff(offsets)) * n_items + seen  # (T,)
        if np.any(np.diff(pairs) <= 0) or np.any((seen < 0) | (seen >= n_items)):
            raise ValueError(f"expected 0..{n_items - 1}, ascending for each user without repeats")
    with errors_name(bundle.folder / "popular.npy"):
        if not np.array_equal(np.sort(bundle.popular), np.arange(n_items)):
            raise ValueError("does not hold every item once")
    for number, attribute in enumerate(bundle.attributes.values()):
        with errors_name(bundle.folder / f"attribute_{number}.items.npy"):
            counts = np.diff(attribute.offsets)
            if attribute.offsets[0] != 0 or np.any(counts < 1):
                raise ValueError("some value has no item")
            pairs = np.repeat(np.arange(len(counts)), counts) * n_items + attribute.items  # (L,)
            if np.any(np.diff(pairs) <= 0) or np.any((attribute.items < 0) | (attribute.items >= n_items)):
                raise ValueError(f"expected 0..{n_items - 1}, ascending for each value without repeats")
    with errors_name(bundle.folder / "new_items.npy"):
        new = bundle.new_items
        if np.any(np.diff(new) <= 0) or np.any((new < 0) | (new >= n_items)):
            raise ValueError(f"expected 0..{n_items - 1}, ascending without repeats")
    if bundle.likeness is not None:
        with errors_name(bundle.folder / "likeness.npy"):
            check_vectors("vectors", bundle.likeness)
    if bundle.fold_in is not None:
        with errors_name(bundle.folder / "fold_in.npy"):
            check_vectors("weights", bundle.fold_in)


def _check_index(bundle: Bundle) -> None:
    """Check that the index holds the bundle's vectors, and that the canaries are answered as when written."""
    index = bundle.search.index
    with errors_name(bundle.folder / "index.ann"):
        if index is not None:
            for item in canaries.spread(index.n_items):
                if not np.array_equal(index.vector(item), bundle.item_vectors[item]):
                    raise ValueError(f"its vector of item {item} is not the one in item_vectors.npy")
        if not canaries.answers_match(bundle.search, bundle.user_vectors, bundle.manifest["canaries"]):
            raise ValueError("canary queries are not answered as the manifest expects")
