"""bundles: what releases a folder holds, whether they are whole, and the way back to an earlier one."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from pipelines import progress
from pipelines.config import InputError
from pipelines.tuning import search_words
from recsys import releases
from recsys.bundle import MANIFEST, BundleError

COLUMNS = ("current", "version", "time (UTC)", "users", "items", "coordinates", "search")


def listed(bundles: Path) -> list[list[str]]:
    """The names of the columns, then a row of text a version, newest first; * marks the current one.

    What cannot be read has its reason in place of the rest. Raises InputError: no folder, no version in it.
    """
    _check(bundles)
    now, rows = releases.current(bundles), [list(COLUMNS)]
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


def verified(
    bundles: Path, version: str | None, say: Callable[[str], None] = progress.say
) -> list[tuple[str, str | None]]:
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
    with progress.progress("verifying", len(names)) as tick:
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

    Raises InputError: no such folder, nothing older, nothing older that verifies.
    """
    _check(bundles)
    before = releases.current(bundles)
    try:
        if version is not None:
            releases.publish(bundles, version)
            return before, version
        for name in releases.earlier(bundles):
            with contextlib.suppress(BundleError):
                releases.publish(bundles, name)
                return before, name
    except BundleError as error:
        raise InputError(f"{error}; --to names a version to go to") from None
    except OSError as error:
        raise InputError(f"'{bundles / releases.CURRENT}' cannot be moved: {error}") from None
    raise InputError(f"'{bundles}': no version older than the current one, '{before}', is whole: see verify")


def _check(bundles: Path) -> None:
    if not bundles.is_dir():
        raise InputError(f"'{bundles}' is no folder: --bundles names the one that export fills")
    if (bundles / MANIFEST).exists():
        raise InputError(f"'{bundles}' is a bundle: --bundles names the folder that holds all of them")
    if not releases.versions(bundles):
        raise InputError(f"'{bundles}' holds no version: run export first")
