"""Which bundle of a folder is current, which were before, and which are kept.

`bundles/` holds one folder a version and the link `current`; names with a leading dot are no versions.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recsys import seals
from recsys.bundle import MANIFEST, BundleError, Manifest, flush, is_plain, read_manifest, verify

CURRENT = "current"
LEFT_OVERS = (".writing-", ".tuning-", ".stale-")  # folders that are being written, tried or removed


def publish(bundles: Path, version: str) -> None:
    """Verify bundles/<version>, then point bundles/current at it in one step; raises BundleError."""
    folder, link = folder_of(bundles, version), bundles / f".{CURRENT}.{secrets.token_hex(4)}"
    with locked(folder, fcntl.LOCK_SH):  # or prune might take it before it is current
        seal(folder)
        link.symlink_to(version)
        try:
            os.replace(link, bundles / CURRENT)
        except OSError:
            link.unlink()
            raise
        flush(bundles)


def folder_of(bundles: Path, version: str) -> Path:
    """Where a version lies; raises BundleError for what is no name of one."""
    if not is_plain(version) or version == CURRENT:
        raise BundleError(f"version '{version}': expected the plain name of a folder in '{bundles}'")
    return bundles / version


def seal(folder: Path) -> Manifest:
    """Verify a bundle, and note that its files were; its manifest. Raises BundleError."""
    seals.path_of(folder).unlink(missing_ok=True)  # it must not outlive what is found now
    try:
        files = seals.files_of(folder)
    except OSError:
        files = {}  # verify says what is wrong
    manifest = verify(folder)
    seals.write(folder, files)
    return manifest


def current(bundles: Path) -> str | None:
    """The version that `current` names, None if it names none."""
    link = bundles / CURRENT
    return link.resolve().name if link.is_symlink() else None


def versions(bundles: Path) -> list[tuple[str, Manifest | BundleError]]:
    """Every version with its manifest, or with what is wrong with that, newest last; no file is hashed."""
    found: list[tuple[str, Manifest | BundleError]] = []
    for folder in sorted(path for path in bundles.iterdir() if is_plain(path.name) and path.name != CURRENT):
        if not folder.is_dir():
            continue
        try:
            found.append((folder.name, read_manifest(folder)))
        except BundleError as error:
            found.append((folder.name, error))
    return sorted(found, key=lambda one: "" if isinstance(one[1], BundleError) else str(one[1]["created_at"]))


def earlier(bundles: Path) -> list[str]:
    """The versions older than the current one, newest first; raises BundleError if there are none."""
    names = [name for name, manifest in versions(bundles) if not isinstance(manifest, BundleError)]
    now = current(bundles)
    if now is None:
        raise BundleError(f"{bundles / CURRENT}: names no version that could be gone back from")
    before = names[: names.index(now) if now in names else None][::-1]  # of a broken one no time is known
    if not before:
        raise BundleError(f"{bundles}: no version is older than the current one, '{now}'")
    return before


def prune(bundles: Path, keep: int, spared: Collection[str] = ()) -> list[str]:
    """Remove all but the newest `keep` versions and those that are spared; returns their names.

    What is current or open in any process stays, and so does what cannot be read. Left-overs of killed
    processes go too. Raises ValueError if keep < 1.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}, allowed >= 1")
    for path in bundles.iterdir():
        if path.name.startswith(LEFT_OVERS) and path.is_dir():
            with _alone(path) as alone:
                if alone:
                    shutil.rmtree(path, ignore_errors=True)
    names = [name for name, manifest in versions(bundles) if not isinstance(manifest, BundleError)]
    return [name for name in names[:-keep] if name not in spared and _remove(bundles, name)]


def _remove(bundles: Path, version: str) -> bool:
    """Remove a version, unless it is current or some process has it open."""
    folder = bundles / version
    with _alone(folder) as alone:
        if not alone or current(bundles) == version:  # publish holds the lock while it makes it current
            return False
        away = folder.with_name(f"{LEFT_OVERS[-1]}{version}.{secrets.token_hex(4)}")
        os.rename(folder, away)  # first, so that nobody finds half of it
        shutil.rmtree(away, ignore_errors=True)
    seals.path_of(folder).unlink(missing_ok=True)
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else holds the folder's lock; if so, nobody gets it meanwhile."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, fcntl.LOCK_EX))
        except BundleError:
            yield False
        else:
            yield True


@contextmanager
def locked(folder: Path, kind: int) -> Iterator[None]:
    """Hold the folder's lock. Raises BundleError: no such folder, or another process holds the lock."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder / MANIFEST}: missing") from None
    try:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(f"{folder}: another process is working on it") from None
        yield
    finally:
        os.close(lock)
