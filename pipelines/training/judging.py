"""The judge of a fold, by the settings of the section evaluate."""

import torch

from pipelines.config.errors import InputError
from pipelines.config.training import Evaluate
from pipelines.data.folds import Fold
from recsys.judge import Judge, Targets


def judge_fold(fold: Fold, device: torch.device, evaluate: Evaluate) -> Judge:
    """The judge of the fold's users who have targets. Raises InputError if none has."""
    targets = Targets(fold.target_offsets, fold.target_items)
    try:
        return Judge(fold.fit, targets, device, ks=evaluate.ks, exclude_seen=evaluate.exclude_seen)
    except ValueError as error:
        raise InputError(str(error)) from None
