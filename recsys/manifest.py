"""The manifest of a bundle: what is in it, the size and SHA-256 of each file, and checks of all that."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.files import file_sha256, flush, sha256

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

Manifest = dict[str, Any]


class BundleError(ValueError):
    """A bundle that must not be served: the message names the file and what is wrong with it."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Flush all files, then write the manifest with their sizes and hashes, and its own checksum."""
    paths = sorted(folder.iterdir())
    for path in paths:
        flush(path)
    manifest = manifest | {"files": {path.name: fingerprint(path) for path in paths}}
    manifest["checksum"] = checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    flush(folder / MANIFEST)
    flush(folder)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest alone, none of the files it lists. Raises BundleError."""
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
    if manifest.get("checksum") != checksum(manifest):
        raise BundleError(f"{path}: changed since it was written (its checksum differs)")
    _check_fields(path, manifest)
    return manifest


def _check_fields(path: Path, manifest: Manifest) -> None:
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


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare the folder's files with the manifest, byte for byte. Raises BundleError."""
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
        if fingerprint(path) != written:
            raise BundleError(f"{path}: SHA-256 differs from the manifest")


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Turn errors of reading or checking a file into a BundleError that names the file."""
    try:
        yield
    except BundleError:
        raise
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise BundleError(f"{path}: {error}") from (error if isinstance(error, OSError) else None)


def is_plain(name: str) -> bool:
    """Whether a name can be that of a file or folder here: not hidden, without a path."""
    return name != "" and not name.startswith(".") and not set(name) & set("/\\\0")


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the manifest holds them."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def checksum(manifest: Manifest) -> str:
    """SHA-256 of the manifest without its own checksum."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return sha256(json.dumps(content, sort_keys=True).encode())
