"""A log of two clusters of users and items: what a training has to find in it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys import sampling, spaces
from recsys.interactions import Interactions
from recsys.sampling import DeviceInteractions
from recsys.spaces import Space

N_USERS, N_ITEMS = 40, 60
SAME = (np.arange(N_USERS)[:, None] % 2) == (np.arange(N_ITEMS)[None, :] % 2)  # (U, I): one cluster
TAKEN = SAME & (np.random.default_rng(0).random(SAME.shape) < 0.5)  # (U, I)
TAKEN[3] = False  # a user without anything
TAKEN[:, 7] = False  # an item without users


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def interactions(taken: NDArray[np.bool_] = TAKEN) -> Interactions:
    """(U, I) bool -> its pairs, of weight 1 and time 0."""
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    rest = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
    return Interactions(user, item, *rest, *taken.shape)


def on_device(taken: NDArray[np.bool_] = TAKEN) -> DeviceInteractions:
    return sampling.to_device(interactions(taken), torch.device("cpu"))


def auc(space: Space) -> float:
    """How often an unseen item of the user's cluster is nearer than one of the other cluster."""
    d = torch.cdist(*spaces.euclidean_vectors(space)).numpy()  # (U, I)
    known, popular = TAKEN.any(1), TAKEN.any(0)
    return float(
        np.mean(
            [
                (row[own & ~taken & popular][:, None] < row[~own & popular][None, :]).mean()
                for row, own, taken in zip(d[known], SAME[known], TAKEN[known], strict=True)
            ]
        )
    )
