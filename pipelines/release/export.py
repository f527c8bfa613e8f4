"""export: write a run's model as a bundle with a tuned index; promotion makes it current.

Axes: U users, I items, C new items, D dimensions, L directions of features.
"""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.data import folds
from pipelines.data.catalogue import Catalogue, catalogue
from pipelines.data.content import load_content
from pipelines.data.prepared import read_prepared
from pipelines.release.index_search import tune_index
from pipelines.training import model
from pipelines.training.train import run_fold
from recsys import bundle, fold_in
from recsys.content import place
from recsys.manifest import BundleError

LOGGER = logging.getLogger("recsys")

SEARCH = {"recall", "trees", "max_ms", "max_mib", "max_build_seconds"}  # settings that a bundle's bytes need


def bundle_folder(config: Config, run: Path) -> Path:
    """Folder of the run's bundle; its name is the run's and a digest of export's settings and code."""
    settings = config.model_dump_json(include={"seed": True, "export": SEARCH, "evaluate": {"exclude_seen"}})
    return (
        config.bundles
        / f"{run.name}-{code_digest(settings, 'recsys', 'pipelines/data', 'pipelines/release')[:6]}"
    )


def stage(config: Config, run: Path) -> Path:
    """Write and verify the run's bundle, without making it current; a valid one is reused.

    Raises InputError: no search finds enough within its limits, a full disk, a folder that cannot be written.
    """
    folder = bundle_folder(config, run)
    if folder.exists():
        try:
            bundle.verify(folder)
        except BundleError as error:
            LOGGER.info(f"export: {error}; writing the bundle again")
            os.rename(folder, _unused_name(folder))
        else:
            LOGGER.info(f"export: {folder} is valid: reused")
            return folder
    fold = run_fold(config, run)
    try:
        config.bundles.mkdir(parents=True, exist_ok=True)
        _write(config, run, folder, fold)
    except OSError as error:
        raise InputError(f"bundle '{folder}' cannot be written: {error}") from None
    LOGGER.info(f"export: wrote {folder}")
    return folder


def _write(config: Config, run: Path, folder: Path, fold: folds.Fold) -> None:
    """Tune the index and write the bundle. Raises OSError."""
    listed = catalogue(fold)
    likeness = _likeness(config, run, fold, listed)  # first: its features are gone when the index is made
    users, items = _vectors(run, listed)
    nothing = np.zeros(len(users) + 1, np.int64), np.empty(0, np.int32)
    hidden = listed.seen if config.evaluate.exclude_seen else nothing
    held_out = np.flatnonzero(np.diff(fold.target_offsets))
    plan = tune_index(config.export, (users, items), hidden, held_out, config.seed, config.bundles)
    content = bundle.BundleContent(
        user_vectors=users,
        item_vectors=items,
        user_ids=fold.user_ids,
        item_ids=listed.item_ids,
        seen=listed.seen,
        popular=listed.popular,
        titles=listed.titles,
        attributes=listed.attributes,
        fold_in=fold_in.fit(users, items, listed.seen),
        new_items=listed.new,
        likeness=likeness,
    )
    info = {
        "run": run.name,
        "data_fingerprint": read_prepared(config).fingerprint,
        "fitted_until": _fitted_until(config),
    }
    bundle.write_bundle(folder, content, plan, info=info)


def _vectors(run: Path, listed: Catalogue) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(U, D) and (I + C, D) as the bundle has them."""
    _, (users, items) = model.load(run, torch.device("cpu"))
    return users.numpy(), items.numpy()[listed.order]


def _likeness(config: Config, run: Path, fold: folds.Fold, listed: Catalogue) -> NDArray[np.float32] | None:
    """(I + C, L) points of all items by what is known about them; None where nothing places new items."""
    known = load_content(config, "test", fold)
    by = model.load_maps(run, torch.device("cpu")).get(model.SIMILAR)
    if known is None or by is None:
        return None
    rows = np.empty((len(listed.order), by.weight.shape[1]), np.float32)
    is_new = listed.order >= len(fold.item_ids)
    rows[~is_new] = place(known.fitted, by).numpy()[listed.order[~is_new]]
    if known.new is not None:
        rows[is_new] = place(known.new, by).numpy()[listed.order[is_new] - len(fold.item_ids)]
    return rows


def _fitted_until(config: Config) -> str | None:
    """Start of the test window, which is later than all fitted data; None unless split by time."""
    start = folds.window_starts(config).get("test")
    return None if start is None else datetime.fromtimestamp(start, UTC).isoformat()


def _unused_name(folder: Path) -> Path:
    """A free hidden name for a broken bundle, which is kept for inspection."""
    number = 1
    while (name := folder.with_name(f".broken-{folder.name}-{number}")).exists():
        number += 1
    return name
