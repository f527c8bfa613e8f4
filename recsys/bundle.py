"""A bundle: one release folder that is written whole, verified before it is read, and never changed.

Writing, checking and reading stay in one file because each line of the one answers to a line of the others;
which bundle is current, and which are kept, is in releases.py.
Axes: U users, I items, D coordinates, T seen (user, item) pairs.
"""

import json
import os
import secrets
import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import seals
from recsys.attributes import Attribute
from recsys.files import acquire_lock, file_sha256, flush, hold_lock, sha256
from recsys.ids import IdMap, Strings, load_array
from recsys.index import ItemIndex, Search, check_vectors

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CANARIES = 5
CANARY_K = 10

Manifest = dict[str, Any]
Ids = NDArray[np.int64] | Sequence[str]


class BundleError(ValueError):
    """A bundle that must not be served: the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Bundle:
    """One opened bundle; the arrays are read-only maps of its files."""

    folder: Path
    version: str  # the folder's name, but for a copy of the link `current`: see releases.find
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

    def seen(self, user: int) -> NDArray[np.int32]:
        """The items that a user took before, ascending."""
        return self.seen_items[self.seen_offsets[user] : self.seen_offsets[user + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its place: whoever loads or copies it opens the folder again, see _reopened."""
        return _reopened, (self.folder, self.version, self.manifest["checksum"])


def write_bundle(
    folder: Path,
    *,
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    user_ids: Ids,
    item_ids: Ids,
    seen: tuple[NDArray[np.int64], NDArray[np.int32]],
    popular: NDArray[np.int32],
    titles: Sequence[str] | None,
    trees: int,
    search_k: int | None,
    seed: int,
    info: dict[str, Any],
    index: ItemIndex | None = None,
    measured: dict[str, Any] | None = None,
    attributes: Mapping[str, Sequence[Sequence[str]]] | None = None,
    fold_in: NDArray[np.float32] | None = None,
) -> None:
    """Write, flush and verify a bundle in a hidden sibling folder, then rename it to `folder`.

    Vectors are Euclidean, smaller = closer; with search_k None they are scanned, for where an index is no
    less work. index is one already built of these vectors, trees and seed; measured says how trees and
    search_k were chosen; attributes name each item's values, (I,), to filter by; fold_in is of
    recsys/fold_in.py. info is anything JSON can hold. Nothing is seen under the final name before it is
    complete; what a killed write leaves is found by its lock: see releases.prune. Raises
    FileExistsError if `folder` exists, ValueError (BundleError where it shows in a written file) on input
    that cannot be served, TypeError on info that JSON cannot hold.
    """
    if folder.exists():
        raise FileExistsError(f"bundle '{folder}' exists already: bundles are never changed")
    # as they will be read, or an error before any work
    info, measured = json.loads(json.dumps([info, measured], allow_nan=False))
    if index is None:
        index = ItemIndex.build(item_vectors, trees, seed)
    staging = folder.with_name(f".writing-{folder.name}.{secrets.token_hex(4)}")
    staging.mkdir(parents=True)
    with removed_on_error(staging), hold_lock(staging, shared=True, wait=True):
        staging.stat()  # prune may have taken it before the lock
        arrays: dict[str, NDArray[Any]] = {
            "user_vectors": user_vectors,
            "item_vectors": item_vectors,
            "seen_offsets": seen[0],
            "seen_items": seen[1],
            "popular": popular,
        }
        for name, array in arrays.items():
            np.save(staging / f"{name}.npy", array, allow_pickle=False)
        IdMap.of(user_ids).save(staging / "user_ids")
        IdMap.of(item_ids).save(staging / "item_ids")
        if titles is not None:
            Strings.pack(titles).save(staging / "titles")
        named = {name: Attribute.of(labels) for name, labels in (attributes or {}).items()}
        for number, attribute in enumerate(named.values()):
            attribute.values.save(staging / f"attribute_{number}.values")
            np.save(staging / f"attribute_{number}.offsets.npy", attribute.offsets, allow_pickle=False)
            np.save(staging / f"attribute_{number}.items.npy", attribute.items, allow_pickle=False)
        if fold_in is not None:
            np.save(staging / "fold_in.npy", fold_in, allow_pickle=False)
        index.save(staging / "index.ann")
        manifest = {
            "format_version": FORMAT_VERSION,
            "version": folder.name,
            "metric": "euclidean",
            "dim": item_vectors.shape[1],
            "n_users": len(user_vectors),
            "n_items": len(item_vectors),
            "n_seen": len(seen[1]),
            "trees": trees,
            "search_k": search_k,
            "attributes": list(named),
            "canaries": _canaries(Search(item_vectors, index, search_k), user_vectors),
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "info": info,
        }
        if measured is not None:
            manifest["measured"] = measured
        _sign(staging, manifest)
        verify(staging)
        os.rename(staging, folder)
        flush(folder.parent)


@contextmanager
def removed_on_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sign(folder: Path, manifest: Manifest) -> None:
    """Flush all files, then write the manifest with their sizes and hashes, and its own checksum."""
    paths = sorted(folder.iterdir())
    for path in paths:
        flush(path)
    manifest = manifest | {"files": {path.name: _fingerprint(path) for path in paths}}
    manifest["checksum"] = _checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    flush(folder / MANIFEST)
    flush(folder)


def verify(folder: Path) -> Manifest:
    """Check a bundle from its bytes to its answers and return its manifest; raises BundleError.

    Sizes and hashes come first: only bytes that are as written reach numpy and Annoy.
    """
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
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
    except OSError:
        read_manifest(folder)  # says what is missing
        raise
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


def _reopened(folder: Path, version: str, checksum: str) -> Bundle:
    """The bundle of a pickle; raises BundleError where the folder is gone or holds another by now."""
    bundle = open_bundle(folder, version)
    if bundle.manifest["checksum"] != checksum:
        raise BundleError(f"{folder}: holds another bundle than when it was pickled; open it anew")
    return bundle


def read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path}: missing") from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON ({error})") from None
    if not isinstance(manifest, dict):
        raise BundleError(f"{path}: holds a {type(manifest).__name__}, expected an object")
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(f"{path}: format_version {version!r}, this release reads {FORMAT_VERSION}")
    checksum = manifest.get("checksum")
    if checksum != _checksum({key: value for key, value in manifest.items() if key != "checksum"}):
        raise BundleError(f"{path}: changed since it was written (its checksum differs)")
    if manifest.get("metric") != "euclidean":
        raise BundleError(f"{path}: metric {manifest.get('metric')!r}, allowed is 'euclidean'")
    for key, least in {"dim": 1, "n_users": 1, "n_items": 1, "n_seen": 0, "trees": 1}.items():
        if type(manifest.get(key)) is not int or manifest[key] < least:
            raise BundleError(f"{path}: {key} is {manifest.get(key)!r}, expected a whole number >= {least}")
    search_k = manifest.get("search_k")
    if search_k is not None and (type(search_k) is not int or not 1 <= search_k < 2**31):
        raise BundleError(
            f"{path}: search_k is {search_k!r}, expected a whole number >= 1, < 2^31, or null for a scan"
        )
    for key in ("created_at", "version"):
        if type(manifest.get(key)) is not str and (key in manifest or key != "version"):  # the first had none
            raise BundleError(f"{path}: {key} is {manifest.get(key)!r}, expected text")
    for key, kind in (("files", dict), ("canaries", list), ("info", dict)):
        if type(manifest.get(key)) is not kind:
            raise BundleError(f"{path}: {key} is missing or not a {kind.__name__}")
    curve = manifest.get("measured", {"curve": []})  # the first bundles had none
    curve = curve.get("curve") if type(curve) is dict else None
    if type(curve) is not list or not all(type(point) is dict for point in curve):
        raise BundleError(f"{path}: measured holds no curve of points")
    names = manifest.get("attributes", [])
    if type(names) is not list or not all(type(name) is str for name in names) or len({*names}) < len(names):
        raise BundleError(f"{path}: attributes is {names!r}, expected a list of different names")
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> None:
    files = manifest["files"]
    for name in files:
        if not is_plain(name) or len(name) > 200:
            raise BundleError(f"{folder / MANIFEST}: file name {name!r} is not a plain name")
    for path in folder.iterdir():
        if path.name != MANIFEST and path.name not in files:
            raise BundleError(f"{path}: not listed in the manifest")
    for name, written in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path}: missing")
        if not isinstance(written, dict) or written.keys() != {"bytes", "sha256"}:
            raise BundleError(f"{folder / MANIFEST}: entry of '{name}' is not {{bytes, sha256}}")
        if path.stat().st_size != written["bytes"]:
            raise BundleError(f"{path}: {path.stat().st_size} bytes, the manifest says {written['bytes']}")
        if _fingerprint(path) != written:
            raise BundleError(f"{path}: SHA-256 differs from the manifest")


def _open(folder: Path, manifest: Manifest, version: str | None = None) -> Bundle:
    """Map the files; types and shapes are checked before Annoy, which would believe any width."""
    n_users, n_items, n_seen, dim = (manifest[key] for key in ("n_users", "n_items", "n_seen", "dim"))
    arrays = {
        "user_vectors": _map(folder, "user_vectors", np.float32, (n_users, dim)),
        "item_vectors": _map(folder, "item_vectors", np.float32, (n_items, dim)),
        "seen_offsets": _map(folder, "seen_offsets", np.int64, (n_users + 1,)),
        "seen_items": _map(folder, "seen_items", np.int32, (n_seen,)),
        "popular": _map(folder, "popular", np.int32, (n_items,)),
    }
    with _blame(folder / "user_ids"):
        users = IdMap.open(folder / "user_ids")
    with _blame(folder / "item_ids"):
        items = IdMap.open(folder / "item_ids")
    with _blame(folder / "titles"):
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
    return Bundle(
        folder,
        version or folder.name,
        manifest,
        users=users,
        items=items,
        titles=titles,
        attributes=attributes,
        fold_in=fold_in,
        search=Search(arrays["item_vectors"], _index(folder, manifest), manifest["search_k"], scans_many),
        **arrays,
    )


def _index(folder: Path, manifest: Manifest) -> ItemIndex | None:
    """The index that requests go through; none where the manifest says a scan, which does without annoy."""
    if manifest["search_k"] is None:
        return None
    path = folder / "index.ann"
    with _blame(path):
        try:
            return ItemIndex.open(path, manifest["n_items"], manifest["dim"])
        except ModuleNotFoundError as error:
            raise BundleError(
                f"{path}: this bundle is searched by Annoy (search_k {manifest['search_k']}; with null it "
                f"would be scanned), and {error}"
            ) from None


def _attribute(folder: Path, name: str) -> Attribute:
    with _blame(folder / f"{name}.values"):
        values = IdMap.open(folder / f"{name}.values")
    offsets = _map(folder, f"{name}.offsets", np.int64, (len(values) + 1,))
    return Attribute(values, offsets, _map(folder, f"{name}.items", np.int32, (int(offsets[-1]),)))


def _map(folder: Path, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    with _blame(path):
        array = load_array(path)
        if array.dtype != dtype or array.shape != shape:
            expected = f"{dtype.__name__}{list(shape)}"
            raise ValueError(f"is {array.dtype}{list(array.shape)}, the manifest says {expected}")
    return array


def _check_values(bundle: Bundle) -> None:
    """What serving relies on inside the arrays."""
    n_users, n_items = len(bundle.user_vectors), len(bundle.item_vectors)
    for name in ("user_vectors", "item_vectors"):
        with _blame(bundle.folder / f"{name}.npy"):
            check_vectors("vectors", getattr(bundle, name))
    offsets, seen = bundle.seen_offsets, bundle.seen_items
    with _blame(bundle.folder / "seen_offsets.npy"):
        if offsets[0] != 0 or offsets[-1] != len(seen) or np.any(np.diff(offsets) < 0):
            raise ValueError(f"does not ascend from 0 to {len(seen)}")
    with _blame(bundle.folder / "seen_items.npy"):
        pairs = np.repeat(np.arange(n_users), np.diff(offsets)) * n_items + seen  # (T,)
        if np.any(np.diff(pairs) <= 0) or np.any((seen < 0) | (seen >= n_items)):
            raise ValueError(f"expected 0..{n_items - 1}, ascending for each user without repeats")
    with _blame(bundle.folder / "popular.npy"):
        if not np.array_equal(np.sort(bundle.popular), np.arange(n_items)):
            raise ValueError("does not hold every item once")
    for number, attribute in enumerate(bundle.attributes.values()):
        with _blame(bundle.folder / f"attribute_{number}.items.npy"):
            counts = np.diff(attribute.offsets)
            if attribute.offsets[0] != 0 or np.any(counts < 1):
                raise ValueError("some value has no item")
            pairs = np.repeat(np.arange(len(counts)), counts) * n_items + attribute.items  # (L,)
            if np.any(np.diff(pairs) <= 0) or np.any((attribute.items < 0) | (attribute.items >= n_items)):
                raise ValueError(f"expected 0..{n_items - 1}, ascending for each value without repeats")
    if bundle.fold_in is not None:
        with _blame(bundle.folder / "fold_in.npy"):
            check_vectors("weights", bundle.fold_in)


def _check_index(bundle: Bundle) -> None:
    """The index, if requests go through one, holds the bundle's vectors; answers are as they were written."""
    index = bundle.search.index
    with _blame(bundle.folder / "index.ann"):
        if index is not None:
            for item in _spread(index.n_items):
                if not np.array_equal(index.vector(item), bundle.item_vectors[item]):
                    raise ValueError(f"its vector of item {item} is not the one in item_vectors.npy")
        written, found = bundle.manifest["canaries"], _canaries(bundle.search, bundle.user_vectors)
        if len(written) != len(found) or not all(
            _as_near(bundle, answer, other) for answer, other in zip(written, found, strict=True)
        ):
            raise ValueError("canary queries are not answered as the manifest expects")


def _canaries(search: Search, user_vectors: NDArray[np.float32]) -> list[dict[str, Any]]:
    """What a few users are answered, nearest first: items only, as _as_near measures how far they are."""
    canaries = []
    for user in _spread(len(user_vectors)):
        vector = user_vectors[user]
        if search.index is not None and search.search_k is not None:
            items, _ = search.index.query(vector, CANARY_K, search.search_k)
        else:
            items, _ = search.scan(vector, min(CANARY_K, len(search.vectors)))
        canaries.append({"user": user, "items": items.tolist()})
    return canaries


def _as_near(bundle: Bundle, written: object, found: dict[str, Any]) -> bool:
    """Whether a canary's answer is the one that was written, or as near to the user at each rank.

    An Annoy that was built for another CPU rounds float32 distances otherwise, and so returns items that are
    equally far within rounding in another order, or others of them. Hence the exact distances decide.
    """
    if written == found:
        return True
    if not isinstance(written, dict) or written.keys() != found.keys() or written["user"] != found["user"]:
        return False
    items, others = written["items"], found["items"]
    if type(items) is not list or not len(items) == len(others) == len({*others}):
        return False
    if not all(type(item) is int and 0 <= item < len(bundle.item_vectors) for item in items):
        return False
    user = bundle.user_vectors[found["user"]].astype(np.float64)  # (D,)
    far, also = (np.linalg.norm(bundle.item_vectors[some] - user, axis=1) for some in (items, others))
    single, dim = np.finfo(np.float32), len(user)
    rounding = 4 * (dim + 4) * single.eps * np.maximum(far, also)
    underflow = np.sqrt(dim * single.tiny)  # squares below it may count as nought
    return bool(np.all(np.abs(far - also) <= rounding + underflow))


def _spread(n: int) -> list[int]:
    """Up to CANARIES different numbers from 0 to n - 1, evenly spread."""
    return sorted(set(np.linspace(0, n - 1, CANARIES).astype(int).tolist()))


@contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong while reading it."""
    try:
        yield
    except BundleError:
        raise
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise BundleError(f"{path}: {error}") from (error if isinstance(error, OSError) else None)


def is_plain(name: str) -> bool:
    return name != "" and not name.startswith(".") and not set(name) & set("/\\\0")


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _checksum(content: Manifest) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())
