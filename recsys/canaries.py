"""Canaries: a few queries whose answers the manifest holds, so that a reader can check its own answers.

Axes: U users, I items, D coordinates.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.index import Search

CANARIES = 5
CANARY_K = 10


def answer(search: Search, user_vectors: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Items nearest to a few of the users (U, D), nearest first."""
    answers = []
    for user in spread(len(user_vectors)):
        vector = user_vectors[user]
        if search.index is not None and search.search_k is not None:
            items, _ = search.index.query(vector, CANARY_K, search.search_k)
        else:
            items, _ = search.scan(vector, min(CANARY_K, len(search.vectors)))
        answers.append({"user": user, "items": items.tolist()})
    return answers


def answers_match(search: Search, user_vectors: NDArray[np.float32], written: list[Any]) -> bool:
    """Whether the canaries are answered as written, or by items as near to the user at each rank.

    An Annoy built for another CPU rounds float32 distances differently, so items that are equally far within
    rounding may come in another order or be replaced by others. Hence exact distances are compared.
    """
    found = answer(search, user_vectors)
    return len(written) == len(found) and all(
        _as_near(search.vectors, user_vectors, old, new) for old, new in zip(written, found, strict=True)
    )


def _as_near(
    item_vectors: NDArray[np.float32],
    user_vectors: NDArray[np.float32],
    written: object,
    found: dict[str, Any],
) -> bool:
    if written == found:
        return True
    if not isinstance(written, dict) or written.keys() != found.keys() or written["user"] != found["user"]:
        return False
    items, others = written["items"], found["items"]
    if type(items) is not list or not len(items) == len(others) == len({*others}):
        return False
    if not all(type(item) is int and 0 <= item < len(item_vectors) for item in items):
        return False
    user = user_vectors[found["user"]].astype(np.float64)  # (D,)
    far, also = (np.linalg.norm(item_vectors[some] - user, axis=1) for some in (items, others))
    single, dim = np.finfo(np.float32), len(user)
    rounding = 4 * (dim + 4) * single.eps * np.maximum(far, also)
    underflow = np.sqrt(dim * single.tiny)  # smaller squares may count as 0
    return bool(np.all(np.abs(far - also) <= rounding + underflow))


def spread(n: int) -> list[int]:
    """Up to CANARIES different numbers from 0 to n - 1, evenly spread."""
    return sorted(set(np.linspace(0, n - 1, CANARIES).astype(int).tolist()))
