"""bundles: list and verify the versions in a folder, and roll back to an earlier one."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.errors import InputError
from recsys import releases
from recsys.manifest import MANIFEST, BundleError
from recsys.measured import describe_search
from recsys.progress import progress

COLUMNS = ("current", "version", "time (UTC)", "users", "items", "coordinates", "search")


def list_bundles(bundles: Path) -> list[list[str]]:
    """The column names, then one row of text per version, newest first; * marks the current one.

    A version that cannot be read has the reason in place of its figures. Raises InputError: no folder, no
    version in it.
    """
    _check_folder(bundles)
    now, rows = current(bundles), [list(COLUMNS)]
    for name, manifest in reversed(releases.list_versions(bundles)):
        mark = "*" if name == now else ""
        if isinstance(manifest, BundleError):
            rows.append([mark, name, str(manifest)])
            continue
        time = str(manifest["created_at"])[:19].replace("T", " ")
        sizes = f"{manifest['n_users']:,}", f"{manifest['n_items']:,}", str(manifest["dim"])
        rows.append([mark, name, time, *sizes, describe_search(manifest)])
    return rows


def verify_bundles(bundles: Path, version: str | None) -> list[tuple[str, str | None]]:
    """Verify all versions, or one: each name with its error, or None.

    Raises InputError: no such folder, no such version, nothing to verify.
    """
    _check_folder(bundles)
    names = [name for name, _ in reversed(releases.list_versions(bundles))]
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


def roll_back(bundles: Path, version: str | None) -> tuple[str | None, str]:
    """Make the version, or the newest older one that verifies, current; return (before, after).

    Only the link moves: promotion.rollback moves MLflow's alias with it. Raises InputError as rollback_target
    and set_current do.
    """
    after, before = rollback_target(bundles, version), None
    with contextlib.suppress(BundleError):  # a broken `current` is mended by naming a version
        before = releases.current(bundles)
    set_current(bundles, after)
    return before, after


def rollback_target(bundles: Path, version: str | None, champions: Sequence[str] | None = None) -> str:
    """The version if it verifies; without one the last of `champions`, or of all older versions, that does.

    `champions` are earlier ones, oldest first. Raises InputError: no such folder, nothing earlier that
    verifies.
    """
    _check_folder(bundles)
    try:
        if version is not None:
            releases.seal(releases.folder_of(bundles, version))
            return version
        for name in releases.earlier_versions(bundles) if champions is None else reversed(champions):
            with contextlib.suppress(BundleError):
                releases.seal(bundles / name)
                return name
    except BundleError as error:
        raise InputError(f"{error}; --to names a version to go to") from None
    now = current(bundles)
    kind = "version older than" if champions is None else "champion before"
    raise InputError(f"'{bundles}': no {kind} the current one, '{now}', is whole: see verify")


def set_current(bundles: Path, version: str) -> None:
    """Verify the version and point `current` at it, in one step. Raises InputError."""
    try:
        releases.publish(bundles, version)
    except BundleError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"'{bundles / releases.CURRENT}' cannot be moved: {error}") from None


def current(bundles: Path) -> str | None:
    """The current version, None without one. Raises InputError if `current` is broken."""
    try:
        return releases.current(bundles)
    except BundleError as error:
        raise InputError(str(error)) from None


def _check_folder(bundles: Path) -> None:
    if not bundles.is_dir():
        raise InputError(f"'{bundles}' is no folder: --bundles names the one that export fills")
    if (bundles / MANIFEST).exists():
        raise InputError(f"'{bundles}' is a bundle: --bundles names the folder that holds all of them")
    if not releases.list_versions(bundles):
        current(bundles)  # raises where only `current` was copied
        raise InputError(f"'{bundles}' holds no version: run export first")
