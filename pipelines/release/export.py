"""export: a run's model as a bundle whose index finds what an exact search finds; promotion makes it current.

Axes: U users, I items, D dimensions.
"""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.data import folds
from pipelines.data.folds import attributes_of
from pipelines.data.prepared import read_prepared
from pipelines.release.index_search import tuned
from pipelines.training import model
from pipelines.training.train import run_fold
from recsys import bundle, fold_in
from recsys.interactions import popularity_order
from recsys.manifest import BundleError

LOGGER = logging.getLogger("recsys")

SEARCH = {"recall", "trees", "max_ms", "max_mib", "max_build_seconds"}  # what decides a bundle's bytes


def bundle_folder(config: Config, run: Path) -> Path:
    """Where the run's bundle is: its version is the run and a digest of the settings and code of export."""
    settings = config.model_dump_json(include={"seed": True, "export": SEARCH, "evaluate": {"exclude_seen"}})
    return config.bundles / f"{run.name}-{code_digest(settings, 'recsys', 'pipelines/release')[:6]}"


def stage(config: Config, run: Path) -> Path:
    """The run's bundle, written and verified but not yet `current`; one that is there and valid is kept.

    Raises InputError: no index finds enough within its limits, a full disk, a folder that cannot be written.
    """
    folder = bundle_folder(config, run)
    if folder.exists():
        try:
            bundle.verify(folder)
        except BundleError as error:
            LOGGER.info(f"export: {error}; writing the bundle again")
            os.rename(folder, _unused(folder))
        else:
            LOGGER.info(f"export: {folder} is valid: reused")
            return folder
    fold = run_fold(config, run)
    _, served = model.load(run, torch.device("cpu"))
    users, items = (part.numpy() for part in served)
    seen = fold.fit.offsets(), fold.fit.item
    nothing = np.zeros(len(users) + 1, np.int64), np.empty(0, np.int32)
    hidden = seen if config.evaluate.exclude_seen else nothing
    held_out = np.flatnonzero(np.diff(fold.target_offsets))
    try:
        config.bundles.mkdir(parents=True, exist_ok=True)
        found = tuned(config.export, config.seed, users, items, hidden, held_out, config.bundles)
    except OSError as error:
        raise InputError(f"bundle '{folder}' cannot be written: {error}") from None
    try:
        bundle.write_bundle(
            folder,
            bundle.BundleContent(
                user_vectors=users,
                item_vectors=items,
                user_ids=fold.user_ids,
                item_ids=fold.item_ids,
                seen=seen,
                popular=popularity_order(fold.fit.item_counts()),
                titles=fold.titles,
                attributes=attributes_of(fold.item_table),
                fold_in=fold_in.fit(users, items, seen),
            ),
            bundle.IndexPlan(
                found.trees, found.search_k, seed=config.seed, built=found.built, measured=found.measured
            ),
            info={
                "run": run.name,
                "data_fingerprint": read_prepared(config).fingerprint,
                "fitted_until": _fitted_until(config),
            },
        )
    except OSError as error:
        raise InputError(f"bundle '{folder}' cannot be written: {error}") from None
    LOGGER.info(f"export: wrote {folder}")
    return folder


def _fitted_until(config: Config) -> str | None:
    """When the test window starts, which is later than all that was fitted; None unless split by time."""
    start = folds.window_starts(config).get("test")
    return None if start is None else datetime.fromtimestamp(start, UTC).isoformat()


def _unused(folder: Path) -> Path:
    """A free name beside a folder that is kept for a look but no longer a release."""
    number = 1
    while (name := folder.with_name(f".broken-{folder.name}-{number}")).exists():
        number += 1
    return name
