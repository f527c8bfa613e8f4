"""promotion: MLflow's alias `champion` and the link `current` move as one, forward and back.

The intent is written first, then the alias is set, then the link, then the intent is removed. Each step may
be done twice, so that whoever comes after a crash finds the intent and goes on to its end: see finish.
"""

import json
import logging
from pathlib import Path
from typing import Any

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.release.bundles import current, rollback_target, set_current
from pipelines.release.export import bundle_folder
from pipelines.tracking import store
from pipelines.tracking.model_registry import CHAMPION
from recsys import releases
from recsys.files import flush, write_text
from recsys.manifest import BundleError

LOGGER = logging.getLogger("recsys")

INTENT = "promotion.json"  # under root, while a promotion is under way
OWED = "alias_owed.json"  # under root, while MLflow's alias lags behind `current`
CHAMPIONS = "champions.json"  # under root: every version that was current
WITHDRAWN = "withdrawn.json"  # under root: versions that somebody went back from


def promote(config: Config, run: Path) -> str:
    """Make the run's bundle the champion, whatever the gate says; its version.

    MLflow out of reach does not hold it up: the alias is owed then. Raises InputError: the bundle is not
    there or not whole, or `current` cannot be moved; nothing has moved then.
    """
    finish(config)
    version = bundle_folder(config, run).name
    _withdraw(config, [name for name in withdrawn(config) if name != version])
    _move(config, version, run.name)
    prune(config)
    return version


def rollback(config: Config, to: str | None) -> tuple[str | None, str]:
    """Make an earlier bundle the champion again, by default the last champion before that is whole.

    From what, to what. Raises InputError as promote does, and if there is none to go back to.
    """
    finish(config)
    before, held = current(config.bundles), champions(config)
    after = rollback_target(config.bundles, to, [name for name in _until(held, before) if name != before])
    if before is not None and before != after:  # first: the next retrain shall not bring it back
        _withdraw(config, [*(name for name in withdrawn(config) if name != after), before])
    _move(config, after, None)
    return before, after


def withdrawn(config: Config) -> list[str]:
    """The versions that somebody went back from: the gate lets none of them pass again."""
    return list(files.read_json(config.root / WITHDRAWN) or [])


def _withdraw(config: Config, versions: list[str]) -> None:
    if versions != withdrawn(config):
        _write(config.root / WITHDRAWN, list(dict.fromkeys(versions)))


def finish(config: Config) -> None:
    """Carry what a crash cut short to its end, and set an alias that is owed.

    An intent whose bundle is gone or broken, or that somebody has overtaken, is dropped: `current` stays,
    and the alias follows it. Raises InputError before anything is done: the alias is another root's, or it
    cannot be told what is current.
    """
    store.claim(config)
    path = config.root / INTENT
    intent, now = files.read_json(path), current(config.bundles)
    if intent is not None:
        version = intent["bundle"]
        try:
            if now not in (intent["from"], version):
                raise InputError(f"'{now}' has become current since")
            rollback_target(config.bundles, version)
        except InputError as error:
            LOGGER.info(f"promotion: what was cut short is dropped, {version} is not promoted: {error}")
            _give_up(config)
        else:
            _carry_out(config, intent)
    elif path.exists():  # cut short itself, before anything was done
        _remove(path)
    if (config.root / OWED).exists():
        _set_alias(config, current(config.bundles))


def prune(config: Config) -> None:
    """Keep the newest versions and the newest champions, `export.keep` of each."""
    keep = config.export.keep
    try:
        removed = releases.prune(config.bundles, keep, champions(config)[-keep:])
    except (BundleError, OSError) as error:
        LOGGER.info(f"promotion: old versions could not be removed: {error}")
        return
    if removed:
        LOGGER.info(f"promotion: removed what is older than the newest {keep}: {', '.join(removed)}")


def champions(config: Config) -> list[str]:
    """Every version that was current, the latest last.

    Before there was a list, each version became current when it was exported.
    """
    held: list[str] | None = files.read_json(config.root / CHAMPIONS)
    if held is not None:
        return held
    now = current(config.bundles)
    if now is None:
        return []
    try:
        return [*reversed(releases.earlier(config.bundles)), now]
    except BundleError:  # none is older
        return [now]


def _move(config: Config, version: str, run: str | None) -> None:
    """Write the intent and carry it out."""
    rollback_target(config.bundles, version)  # whole, or nothing begins
    intent = {"bundle": version, "run": run, "from": current(config.bundles)}
    _write(config.root / INTENT, intent)
    _carry_out(config, intent)


def _carry_out(config: Config, intent: dict[str, str | None]) -> None:
    """Alias, link, list of champions, end of the intent. Raises InputError: nothing has moved then."""
    version, before = str(intent["bundle"]), champions(config)
    try:
        _set_alias(config, version)
        set_current(config.bundles, version)
    except InputError:
        _give_up(config)
        raise
    after = _until(before, intent["from"])  # what was left behind by a way back is no champion any more
    if intent["run"] is None and version in after:  # a way back
        after = _until(after, version)
    else:
        after = [*(name for name in after if name != version), version]
    if after != before:
        _write(config.root / CHAMPIONS, after)
    _remove(config.root / INTENT)
    LOGGER.info(f"promotion: {config.bundles / releases.CURRENT} is now {version}")


def _until(names: list[str], last: str | None) -> list[str]:
    return names[: names.index(last) + 1] if last in names else names


def _give_up(config: Config) -> None:
    """End the intent; the alias goes where the link is."""
    now = current(config.bundles)
    _write(config.root / OWED, now)  # first: the alias may have moved
    _remove(config.root / INTENT)
    _set_alias(config, now)


def _set_alias(config: Config, version: str | None) -> None:
    """Let MLflow's alias name the bundle, or note that this is owed."""
    if version is not None and store.set_alias(config, CHAMPION, version):
        _remove(config.root / OWED)
    else:
        _write(config.root / OWED, version)
        LOGGER.info(f"promotion: MLflow's alias {CHAMPION} is owed to {version or 'the next champion'}")


def _write(path: Path, content: Any) -> None:
    """Whole and on the disk before anything else is done. Raises InputError."""
    try:
        write_text(path, json.dumps(content))
        flush(path.parent)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error}") from None


def _remove(path: Path) -> None:
    if path.exists():
        path.unlink()
        flush(path.parent)  # or a power cut might bring it back
