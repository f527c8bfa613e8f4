"""export: a run's model as a bundle whose index finds what an exact search finds; then `current` moves to it.

Axes: U users, I items, D dimensions, S sampled users, K ranks.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines import files, model, prepare, progress
from pipelines.config import Config, Export, InputError
from pipelines.train import run_fold
from recsys import bundle
from recsys.index import ItemIndex, exact_top_k

MEASURED_K = 20
MEASURED_USERS = 300


def bundle_folder(config: Config, run: Path) -> Path:
    """Where the run's bundle is: its version is the run and a digest of the settings and code of export."""
    settings = config.model_dump_json(include={"seed": True, "export": True, "evaluate": {"exclude_seen"}})
    code = ("pipelines/export.py", *(f"recsys/{name}.py" for name in ("bundle", "ids", "index")))
    return config.bundles / f"{run.name}-{files.digest(settings, *code)[:6]}"


def stage(config: Config, run: Path, say: Callable[[str], None] = progress.say) -> Path:
    """The run's bundle, written and verified but not yet `current`; one that is there and valid is kept.

    Raises InputError: the disk is full or the folder cannot be written.
    """
    folder = bundle_folder(config, run)
    if folder.exists():
        try:
            bundle.verify(folder)
        except bundle.BundleError as error:
            say(f"export: {error}; writing the bundle again")
            os.rename(folder, _unused(folder))
        else:
            say(f"export: {folder} is valid: reused")
            return folder
    fold = run_fold(config, run)
    _, served = model.load(run, torch.device("cpu"))
    users, items = (part.numpy() for part in served)
    seen = fold.fit.offsets(), fold.fit.item
    nothing = np.zeros(len(users) + 1, np.int64), np.empty(0, np.int32)
    search_k, curve = measured_search_k(
        config.export, config.seed, users, items, seen if config.evaluate.exclude_seen else nothing, say
    )
    counts = fold.fit.item_counts()  # (I,)
    try:
        bundle.write_bundle(
            folder,
            user_vectors=users,
            item_vectors=items,
            user_ids=fold.user_ids,
            item_ids=fold.item_ids,
            seen=seen,
            popular=np.lexsort((np.arange(len(counts)), -counts)).astype(np.int32),
            titles=fold.titles,
            trees=config.export.trees,
            search_k=search_k,
            seed=config.seed,
            info={
                "run": run.name,
                "data_fingerprint": prepare.stored(config).fingerprint,
                "recall_curve": curve,
                "recall_at": MEASURED_K,
            },
        )
    except OSError as error:
        raise InputError(f"bundle '{folder}' cannot be written: {error}") from None
    say(f"export: wrote {folder}")
    return folder


def export(config: Config, run: Path, say: Callable[[str], None] = progress.say) -> Path:
    """Stage the run's bundle and make it `current`; readers see the old one or the new one, whole."""
    folder = stage(config, run, say)
    try:
        bundle.publish(config.bundles, folder.name)
    except OSError as error:
        raise InputError(f"'{config.bundles / bundle.CURRENT}' cannot be moved: {error}") from None
    say(f"export: {config.bundles / bundle.CURRENT} is now {folder.name}")
    return folder


def measured_search_k(
    settings: Export,
    seed: int,
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    seen: tuple[NDArray[np.int64], NDArray[np.int32]],
    say: Callable[[str], None],
) -> tuple[int | None, list[dict[str, Any]]]:
    """The smallest power-of-two search_k whose unseen top 20 is exact enough, and the recall on the way.

    None where the index would have to look at as many entries as there are items: a scan is less work then.
    """
    trees = settings.trees
    sample = np.unique(np.linspace(0, len(users) - 1, MEASURED_USERS).astype(int))  # (S,)
    own = [seen[1][seen[0][user] : seen[0][user + 1]] for user in sample]
    excluded = np.concatenate([[0], np.cumsum([len(taken) for taken in own])]), np.concatenate(own)
    exact, _ = exact_top_k(users[sample], items, MEASURED_K, excluded)  # (S, K)
    index = ItemIndex.build(items, trees, seed)
    curve: list[dict[str, Any]] = []
    search_k = 1024
    while search_k < len(items):
        found = 0
        for user, taken, truth in zip(sample, own, exact, strict=True):
            near, _ = index.query(users[user], MEASURED_K + len(taken), search_k)
            unseen = near[np.isin(near, taken, invert=True)][:MEASURED_K]
            found += len(np.intersect1d(unseen, truth[truth >= 0]))
        recall = found / max(int((exact >= 0).sum()), 1)
        curve.append({"search_k": search_k, "recall": recall})
        if recall >= settings.recall:
            say(f"export: {trees} trees, search_k {search_k:,}: recall@{MEASURED_K} {recall:.4f} of exact")
            return search_k, curve
        search_k *= 2
    best = f"finds {curve[-1]['recall']:.4f} of the exact top {MEASURED_K}" if curve else "is not measured"
    say(f"export: with search_k below the {len(items):,} items the index {best}; serving scans the vectors")
    return None, curve


def _unused(folder: Path) -> Path:
    """A free name beside a folder that is kept for a look but no longer a release."""
    number = 1
    while (name := folder.with_name(f".broken-{folder.name}-{number}")).exists():
        number += 1
    return name
