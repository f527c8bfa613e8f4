"""The judge of a fold, by the settings of the section evaluate."""

import numpy as np
import torch

from pipelines.config.errors import InputError
from pipelines.config.training import Evaluate
from pipelines.data.folds import Fold
from recsys.judge import Judge, Targets


def judge_fold(
    fold: Fold, device: torch.device, evaluate: Evaluate, most_users: int | None = None, seed: int = 0
) -> Judge:
    """The judge of the fold's users who have targets, of `most_users` random ones at most.

    Raises InputError if none has.
    """
    counts = np.diff(fold.target_offsets)  # (U,)
    judged = np.flatnonzero(counts)
    if most_users is not None and len(judged) > most_users:
        judged = np.random.default_rng(seed).permutation(judged)[:most_users]
    kept = np.isin(np.arange(len(counts)), judged)  # (U,)
    items = fold.target_items[np.repeat(kept, counts)]
    targets = Targets(np.concatenate([[0], np.cumsum(counts * kept)]), items)
    try:
        return Judge(fold.fit, targets, device, ks=evaluate.ks, exclude_seen=evaluate.exclude_seen)
    except ValueError as error:
        raise InputError(str(error)) from None
