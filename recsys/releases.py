"""Versions of a bundle: which one is current, which are older, and which are kept.

`bundles/` holds one folder per version and the link `current`; names with a leading dot are not versions.
Tools that copy `bundles/` may turn the link into a copy of its target or into a file with the link's text, or
leave it out: find_current handles all three.
"""

import os
import secrets
import shlex
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recsys import seals
from recsys.bundle import verify
from recsys.files import acquire_lock, flush
from recsys.manifest import MANIFEST, BundleError, Manifest, is_plain, read_manifest

CURRENT = "current"
MOST_LINKS = 40  # links followed; more are a loop
LEFT_OVERS = (".writing-", ".tuning-", ".stale-")  # folders that are being written, tried or removed


def publish(bundles: Path, version: str) -> None:
    """Verify bundles/<version>, then point bundles/current at it in one step; raises BundleError.

    A `current` that is a folder is never replaced, as it may hold something else.
    """
    folder, link = folder_of(bundles, version), bundles / f".{CURRENT}.{secrets.token_hex(4)}"
    if _is_folder(bundles / CURRENT):
        raise BundleError(
            f"'{bundles / CURRENT}' is a folder, expected a link: a tool copied what the link leads to. It "
            f"is not replaced; {_move_hint(bundles)}"
        )
    with lock_bundle(folder, shared=True):  # or prune might take it before it is current
        seal(folder)
        link.symlink_to(version)
        try:
            os.replace(link, bundles / CURRENT)
        except OSError:
            link.unlink()
            raise
        flush(bundles)


def folder_of(bundles: Path, version: str) -> Path:
    """The folder of a version. Raises BundleError for a name that no version can have."""
    if not is_plain(version) or version == CURRENT:
        raise BundleError(f"version '{version}': expected the plain name of a folder in '{bundles}'")
    return bundles / version


def seal(folder: Path) -> Manifest:
    """Verify a bundle and write its seal; returns its manifest. Raises BundleError."""
    seals.path_of(folder).unlink(missing_ok=True)  # in case the bundle is found damaged now
    try:
        files = seals.files_of(folder)
    except OSError:
        files = {}  # verify says what is wrong
    manifest = verify(folder)
    seals.write(folder, files)
    return manifest


def find_current(bundles: Path) -> tuple[Path, str]:
    """The folder to open for `current`, links resolved, and its version. Raises BundleError.

    A link that was copied as a folder is recognised by its manifest: it is the version with the same manifest
    or, where that was not copied, the version that the manifest names. Where `current` leads to a link of
    another name than its bundle's version (`stable`), the version is the name of the link's target.
    """
    found = _follow_current(bundles)
    if found is None:
        names = [name for name, _ in list_versions(bundles)] if bundles.is_dir() else []
        mend = (
            "; if none was promoted yet, recsys promote asks the gate; if the link was lost in a copy, "
            f"of {', '.join(names)}, {_rollback_hint(bundles)}"
            if names
            else ""
        )
        raise BundleError(f"{bundles / CURRENT}: No such file or directory{mend}")
    folder, version = found
    if not folder.exists():
        raise BundleError(f"{bundles / CURRENT}: No such file or directory: it names '{folder}'")
    return folder.resolve(), _resolve_name(folder, version)


def current(bundles: Path) -> str | None:
    """The name in `bundles` that `current` points to, which may be a link too; None without `current`.

    find_current resolves such a link further. Raises BundleError where `current` is a folder that is none of
    the versions here, or where its version cannot be found.
    """
    found = _follow_current(bundles)
    if found is None:
        return None
    folder, version = found
    if folder.name == CURRENT:
        move = shlex.join(["mv", str(folder), str(folder.with_name(version))])
        link = shlex.join(["ln", "-s", version, str(folder)])
        raise BundleError(
            f"'{folder}' is a folder, a copy of version '{version}', which is not here by that name; make it "
            f"one, and `{CURRENT}` a link: {move} && {link}"
        )
    return version


def _follow_current(bundles: Path) -> tuple[Path, str] | None:
    """The path that `current` leads to, existing or not, and its version; None without a `current`."""
    if not os.path.lexists(bundles / CURRENT):
        return None
    here, folder = bundles.resolve(), _follow_links(bundles)
    if folder.name == CURRENT:
        return _version_of_copy(folder)
    namesake = here / folder.name
    if folder.parent != here and os.path.lexists(namesake) and namesake.resolve() != folder.resolve():
        raise BundleError(
            f"'{bundles / CURRENT}' leads to '{folder}', but another '{folder.name}' is here: "
            f"{_rollback_hint(bundles)}"
        )
    return folder, folder.name


def _follow_links(bundles: Path) -> Path:
    """Follow the links from `current`: the last path within `bundles`, else where they end."""
    here = bundles.resolve()
    path, inside = here / CURRENT, None
    for _ in range(MOST_LINKS):
        if path.is_symlink():
            text = os.readlink(path)
        elif path == here / CURRENT and path.is_file():
            text = _read_link_text(path)
        else:
            return inside or path
        target = path.parent / text
        path = target.parent.resolve() / target.name
        if path.parent == here and path.name != CURRENT:
            inside = path
    raise BundleError(f"{bundles / CURRENT}: a loop of links; {_rollback_hint(bundles)}")


def _read_link_text(path: Path) -> str:
    """The text of a file in place of a link, as git and zip write it where links are not supported."""
    with path.open("rb") as file:
        text = file.read(1024).decode("utf-8", "replace").strip()
    if not is_plain(text) or text == CURRENT:
        raise BundleError(
            f"{path}: a file that holds {text[:80]!r}, expected a link to a version or its name"
        )
    return text


def _version_of_copy(folder: Path) -> tuple[Path, str]:
    """Find the version that the folder `current` is a copy of; the folder itself if it is not here."""
    bundles = folder.parent
    if not (folder / MANIFEST).exists():
        raise BundleError(
            f"{folder / MANIFEST}: missing, in a folder that is in place of the link; {_move_hint(bundles)}"
        )
    manifest, written = read_manifest(folder), (folder / MANIFEST).read_bytes()
    version = manifest.get("version")
    same = [path.name for path in _folders(bundles) if _manifest_of(path) == written]
    if version in same or len(same) == 1:
        name = version if version in same else same[0]
        return bundles / name, name
    if same:
        raise BundleError(
            f"'{folder}' is a folder, a copy of each of {', '.join(same)}: remove all but one of these"
        )
    if version is None:
        return folder, _name_without_version(bundles, manifest)
    if version == CURRENT or not is_plain(version) or (bundles / version).exists():
        raise BundleError(
            f"'{folder}' is a folder, copied without its link, and its manifest names {version!r}, but "
            f"what has this name here is another: give it the name of its version, and make `{CURRENT}` a "
            f"link to that"
        )
    return folder, version


def _name_without_version(bundles: Path, manifest: Manifest) -> str:
    """The name of a bundle whose manifest has no version, as in the first format: its run or checksum."""
    run = manifest["info"].get("run")
    named = isinstance(run, str) and is_plain(run) and run != CURRENT and run.isprintable()
    return run if named and not os.path.lexists(bundles / run) else str(manifest["checksum"])


def _resolve_name(folder: Path, name: str) -> str:
    """The version behind a name: of a link, its target's name, unless the bundle has the link's name."""
    end = folder.resolve()
    if not folder.is_symlink() or end.name in (name, CURRENT):
        return name
    try:
        return name if read_manifest(end).get("version") == name else end.name
    except BundleError:
        return end.name  # opening it says what is wrong


def _manifest_of(folder: Path) -> bytes | None:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _move_hint(bundles: Path) -> str:
    aside = shlex.join(["mv", str(bundles / CURRENT), str(bundles / f".{CURRENT}-copied")])
    return f"first move it away: {aside}"


def _rollback_hint(bundles: Path) -> str:
    return f"say which is current: recsys bundles rollback --bundles {shlex.quote(str(bundles))} --to VERSION"


def list_versions(bundles: Path) -> list[tuple[str, Manifest | BundleError]]:
    """All versions, newest last, each with its manifest or the error in it; no file is hashed."""
    found: list[tuple[str, Manifest | BundleError]] = []
    for folder in _folders(bundles):
        try:
            found.append((folder.name, read_manifest(folder)))
        except BundleError as error:
            found.append((folder.name, error))
    return sorted(found, key=lambda one: "" if isinstance(one[1], BundleError) else str(one[1]["created_at"]))


def _folders(bundles: Path) -> list[Path]:
    """The versions' folders, or links to folders, by name."""
    named = (path for path in bundles.iterdir() if is_plain(path.name) and path.name != CURRENT)
    return sorted(path for path in named if path.is_dir())


def earlier_versions(bundles: Path) -> list[str]:
    """The versions older than the current one, newest first; raises BundleError if there are none.

    A copy of the current one under another name is not older.
    """
    held = {
        name: manifest for name, manifest in list_versions(bundles) if not isinstance(manifest, BundleError)
    }
    now, names = current(bundles), [*held]
    if now is None:
        raise BundleError(f"{bundles / CURRENT}: names no version that could be gone back from")
    if now in held:  # a broken one has no time
        names = [name for name in names if held[name]["created_at"] < held[now]["created_at"]]
    if not names:
        raise BundleError(f"{bundles}: no version is older than the current one, '{now}'")
    return names[::-1]


def prune(bundles: Path, keep: int, spared: Collection[str] = ()) -> list[str]:
    """Remove all but the newest `keep` versions and the spared ones; returns the names of the removed.

    A version that is current, open in any process, unreadable or a link stays. Left-overs of killed processes
    are removed too. Raises ValueError if keep < 1, and BundleError, before anything is removed, where the
    current version cannot be found.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}, allowed >= 1")
    current(bundles)
    for path in bundles.iterdir():
        if path.name.startswith(LEFT_OVERS) and path.is_dir():
            with suppress(BundleError), lock_bundle(path):
                shutil.rmtree(path, ignore_errors=True)
    names = [
        name
        for name, manifest in list_versions(bundles)
        if not isinstance(manifest, BundleError) and not (bundles / name).is_symlink()
    ]
    return [name for name in names[:-keep] if name not in spared and _remove(bundles, name)]


def _remove(bundles: Path, version: str) -> bool:
    """Remove a version, unless it is current or some process has it open."""
    folder = bundles / version
    try:
        lock = acquire_lock(folder)
    except (BlockingIOError, FileNotFoundError, NotADirectoryError):
        return False
    try:
        if current(bundles) == version:  # publish holds the lock while it makes a version current
            return False
        away = folder.with_name(f"{LEFT_OVERS[-1]}{version}.{secrets.token_hex(4)}")
        os.rename(folder, away)  # first, so that no reader finds half of it
        shutil.rmtree(away, ignore_errors=True)
    finally:
        os.close(lock)
    seals.path_of(folder).unlink(missing_ok=True)
    return True


@contextmanager
def lock_bundle(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the folder's lock. Raises BundleError: no such folder, or another process holds the lock."""
    try:
        lock = acquire_lock(folder, shared=shared)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder / MANIFEST}: missing") from None
    except BlockingIOError:
        raise BundleError(f"{folder}: another process is working on it") from None
    try:
        yield
    finally:
        os.close(lock)
