"""promotion: move MLflow's alias `champion` and the link `current` together, forward and back.

Order: write the intent, set the alias, set the link, remove the intent. Each step may be repeated, so that
after a crash the next process finds the intent and completes it: see finish.
"""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.release.bundles import current, rollback_target, set_current
from pipelines.release.export import bundle_folder
from pipelines.tracking import store, upload
from pipelines.tracking.model_registry import CHAMPION
from recsys import releases
from recsys.files import flush, write_text
from recsys.manifest import BundleError, read_manifest

LOGGER = logging.getLogger("recsys")

INTENT = "promotion.json"  # under root, during a promotion
OWED = "alias_owed.json"  # under root, while MLflow's alias is not yet that of `current`
CHAMPIONS = "champions.json"  # under root: every version that was current
WITHDRAWN = "withdrawn.json"  # under root: versions that were rolled back


def promote(config: Config, run: Path) -> str:
    """Make the run's bundle the champion, without asking the gate; returns its version.

    If MLflow cannot be reached, the alias is set later, by finish. Raises InputError, with nothing moved: the
    bundle is missing or damaged, or `current` cannot be moved.
    """
    version = bundle_folder(config, run).name
    promote_version(config, version, run.name)
    return version


def promote_version(config: Config, version: str, run: str) -> None:
    """Make a bundle of a run the champion, as promote does."""
    finish(config)
    _withdraw(config, [name for name in withdrawn(config) if name != version])
    _move(config, version, run)
    prune(config)


def rollback(config: Config, to: str | None) -> tuple[str | None, str]:
    """Make an earlier bundle the champion again, by default the last champion that verifies: (before, after).

    Raises InputError as promote does, and if there is no earlier champion that verifies.
    """
    finish(config)
    before = current(config.bundles)
    earlier = [name for name in _up_to(champions(config), before) if name != before]
    after = rollback_target(config.bundles, to, earlier)
    if before is not None and before != after:  # first, so that the next retrain cannot promote it again
        _withdraw(config, [*(name for name in withdrawn(config) if name != after), before])
    _move(config, after, None)
    return before, after


def withdrawn(config: Config) -> list[str]:
    """Versions that were rolled back: the gate refuses them."""
    return list(files.read_json(config.root / WITHDRAWN) or [])


def _withdraw(config: Config, versions: list[str]) -> None:
    if versions != withdrawn(config):
        _write(config.root / WITHDRAWN, list(dict.fromkeys(versions)))


def finish(config: Config) -> None:
    """Complete a promotion that a crash interrupted, and set an alias that could not be set before.

    An intent whose bundle is missing or damaged, or after which another version became current, is dropped:
    `current` stays, and the alias follows it. Raises InputError before anything is done: the alias belongs to
    another root, or `current` is broken.
    """
    store.check_owner(config)
    path = config.root / INTENT
    intent, now = files.read_json(path), current(config.bundles)
    if intent is not None:
        version = intent["bundle"]
        try:
            if now not in (intent["from"], version):
                raise InputError(f"'{now}' has become current since")
            rollback_target(config.bundles, version)
        except InputError as error:
            LOGGER.info(f"promotion: the interrupted one is dropped, {version} is not promoted: {error}")
            _drop_intent(config)
        else:
            _carry_out(config, intent)
    elif path.exists():  # the intent itself is incomplete, so nothing was done
        _remove(path)
    if (config.root / OWED).exists():
        _set_alias(config, current(config.bundles))


def prune(config: Config) -> None:
    """Remove all versions but the newest and the last champions, `export.keep` of each."""
    keep = config.export.keep
    try:
        kept = champions(config)[-keep:]
        removed = releases.prune(config.bundles, keep, [*kept, *_refreshed(config, kept)])
    except (BundleError, OSError) as error:
        LOGGER.warning(f"promotion: old versions could not be removed: {error}")
        return
    if removed:
        LOGGER.info(f"promotion: removed versions older than the newest {keep}: {', '.join(removed)}")


def _refreshed(config: Config, versions: list[str]) -> list[str]:
    """The versions that training wrote and of which these are refreshes."""
    found = []
    for version in versions:
        with contextlib.suppress(BundleError):
            origin = read_manifest(config.bundles / version)["info"].get("refreshed")
            found += [str(origin)] if origin else []
    return found


def champions(config: Config) -> list[str]:
    """All versions that were current, the latest last.

    A root without this list is of an earlier release, when each exported version became current.
    """
    held: list[str] | None = files.read_json(config.root / CHAMPIONS)
    if held is not None:
        return held
    now = current(config.bundles)
    if now is None:
        return []
    try:
        return [*reversed(releases.earlier_versions(config.bundles)), now]
    except BundleError:  # no older version
        return [now]


def _move(config: Config, version: str, run: str | None) -> None:
    """Verify the version, write the intent and carry it out."""
    rollback_target(config.bundles, version)
    intent = {"bundle": version, "run": run, "from": current(config.bundles)}
    _write(config.root / INTENT, intent)
    _carry_out(config, intent)


def _carry_out(config: Config, intent: dict[str, str | None]) -> None:
    """Set alias, link and list of champions, remove the intent. Raises InputError, with nothing moved."""
    version, before = str(intent["bundle"]), champions(config)
    try:
        _set_alias(config, version)
        set_current(config.bundles, version)
    except InputError:
        _drop_intent(config)
        raise
    after = _up_to(before, intent["from"])  # versions after it were rolled back
    if intent["run"] is None and version in after:  # a rollback
        after = _up_to(after, version)
    else:
        after = [*(name for name in after if name != version), version]
    if after != before:
        _write(config.root / CHAMPIONS, after)
    _remove(config.root / INTENT)
    LOGGER.info(f"promotion: {config.bundles / releases.CURRENT} is now {version}")


def _up_to(names: list[str], last: str | None) -> list[str]:
    return names[: names.index(last) + 1] if last in names else names


def _drop_intent(config: Config) -> None:
    """Remove the intent and set the alias to the current version."""
    now = current(config.bundles)
    _write(config.root / OWED, now)  # first: the alias may have moved
    _remove(config.root / INTENT)
    _set_alias(config, now)


def _set_alias(config: Config, version: str | None) -> None:
    """Set MLflow's alias to the version, or note that it is to be set later."""
    if version is not None and upload.set_alias(config, CHAMPION, version):
        _remove(config.root / OWED)
    else:
        _write(config.root / OWED, version)
        LOGGER.info(f"promotion: MLflow's alias {CHAMPION} is owed to {version or 'the next champion'}")


def _write(path: Path, content: Any) -> None:
    """Write atomically and flush to the disk. Raises InputError."""
    try:
        write_text(path, json.dumps(content))
        flush(path.parent)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error}") from None


def _remove(path: Path) -> None:
    if path.exists():
        path.unlink()
        flush(path.parent)  # else a power cut might restore it
