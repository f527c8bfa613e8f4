"""bundles: what releases a folder holds, whether they are whole, and the way back to an earlier one."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.errors import InputError
from recsys import releases
from recsys.manifest import MANIFEST, BundleError
from recsys.measured import search_words
from recsys.progress import progress

COLUMNS = ("current", "version", "time (UTC)", "users", "items", "coordinates", "search")


def listed(bundles: Path) -> list[list[str]]:
    """The names of the columns, then a row of text a version, newest first; * marks the current one.

    What cannot be read has its reason in place of the rest. Raises InputError: no folder, no version in it.
    """
    _check(bundles)
    now, rows = current(bundles), [list(COLUMNS)]
    for name, manifest in reversed(releases.versions(bundles)):
        mark = "*" if name == now else ""
        if isinstance(manifest, BundleError):
            rows.append([mark, name, str(manifest)])
            continue
        rows.append(
            [
                mark,
                name,
                str(manifest["created_at"])[:19].replace("T", " "),
                f"{manifest['n_users']:,}",
                f"{manifest['n_items']:,}",
                str(manifest["dim"]),
                search_words(manifest),
            ]
        )
    return rows


def verified(bundles: Path, version: str | None) -> list[tuple[str, str | None]]:
    """Each version, or the one, read as a whole: its name, and what is wrong with it or None.

    Raises InputError: no such folder, no such version, nothing to verify.
    """
    _check(bundles)
    names = [name for name, _ in reversed(releases.versions(bundles))]
    if version is not None:
        if version not in names:
            raise InputError(f"'{version}' is no version in '{bundles}', only {', '.join(names)}")
        names = [version]
    found = list[tuple[str, str | None]]()
    with progress("verifying", len(names)) as tick:
        for name in names:
            try:
                releases.seal(bundles / name)
            except BundleError as error:
                found.append((name, str(error)))
            else:
                found.append((name, None))
            tick(1)
    return found


def rolled_back(bundles: Path, version: str | None) -> tuple[str | None, str]:
    """Point `current` at the version, or at the newest older one that verifies; from what, to what.

    Raises InputError as way_back does, and if `current` cannot be moved.
    """
    after, before = way_back(bundles, version), None
    with contextlib.suppress(BundleError):  # a version that is named is the way out of what cannot be told
        before = releases.current(bundles)
    return before, pointed(bundles, after)


def way_back(bundles: Path, version: str | None, before: Sequence[str] | None = None) -> str:
    """The version, if it verifies, or the last of those before the current one that does; nothing moves.

    `before` says which these are, the oldest first; else it is all that are older. Raises InputError: no such
    folder, nothing before, nothing of it that verifies.
    """
    _check(bundles)
    try:
        if version is not None:
            releases.seal(releases.folder_of(bundles, version))
            return version
        for name in releases.earlier(bundles) if before is None else reversed(before):
            with contextlib.suppress(BundleError):
                releases.seal(bundles / name)
                return name
    except BundleError as error:
        raise InputError(f"{error}; --to names a version to go to") from None
    now = current(bundles)
    kind = "version older than" if before is None else "champion before"
    raise InputError(f"'{bundles}': no {kind} the current one, '{now}', is whole: see verify")


def pointed(bundles: Path, version: str) -> str:
    """Point `current` at the version, in one step; raises InputError."""
    try:
        releases.publish(bundles, version)
    except BundleError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"'{bundles / releases.CURRENT}' cannot be moved: {error}") from None
    return version


def current(bundles: Path) -> str | None:
    """The version that is current, None without one. Raises InputError where it cannot be told."""
    try:
        return releases.current(bundles)
    except BundleError as error:
        raise InputError(str(error)) from None


def _check(bundles: Path) -> None:
    if not bundles.is_dir():
        raise InputError(f"'{bundles}' is no folder: --bundles names the one that export fills")
    if (bundles / MANIFEST).exists():
        raise InputError(f"'{bundles}' is a bundle: --bundles names the folder that holds all of them")
    if not releases.versions(bundles):
        current(bundles)  # which says so where it alone was copied
        raise InputError(f"'{bundles}' holds no version: run export first")
