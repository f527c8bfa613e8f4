"""From a bundle to the items a user is shown; needs numpy and annoy only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle, open_bundle
from recsys.index import exact_top_k


class Recommendation(NamedTuple):
    """One item: its external id, its title if the bundle has titles, and -distance as the score.

    Items of the popular list, which is what unknown users get, have no score.
    """

    item_id: int | str
    title: str | None
    score: float | None


class Recommender:
    """Answers from one bundle, opened once; the same question always has the same answer."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @classmethod
    def open(cls, path: Path) -> Recommender:
        """Verify and open a bundle folder, or the link `current` to one; raises BundleError.

        The link is followed once, so that a release in the meantime cannot mix two versions.
        """
        return cls(open_bundle(Path(path).resolve()))

    @property
    def version(self) -> str:
        return self._bundle.folder.name

    @property
    def has_integer_users(self) -> bool:
        """Whether user ids are integers; else they are strings. Types are never converted."""
        return isinstance(self._bundle.users.ids, np.ndarray)

    def recommend(self, user_id: int | str, k: int = 10, exclude_seen: bool = True) -> list[Recommendation]:
        """The k best items for a user, best first, no item twice.

        Fewer than k only where the catalogue, less what the user has seen, has fewer: none for a user who has
        seen everything. Unknown users get the most popular items. Raises ValueError unless k is an int >= 1.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k = {k!r}, allowed is a whole number >= 1")
        user = self._bundle.users.number(user_id)
        if user is None:
            return [self._describe(item, None) for item in self._bundle.popular[:k].tolist()]
        seen = self._bundle.seen(user) if exclude_seen else np.empty(0, dtype=np.int32)
        items, distances = self._nearest(user, min(k, len(self._bundle.items) - len(seen)), seen)
        scores = 0.0 - distances.astype(np.float64)  # not -d, which turns 0 into -0
        return [self._describe(*pair) for pair in zip(items.tolist(), scores.tolist(), strict=True)]

    def _nearest(
        self, user: int, k: int, seen: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Exactly k unseen items, their distances: from the index or, where it comes up short, from all."""
        bundle = self._bundle
        if k == 0:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        vector = bundle.user_vectors[user]  # (D,)
        items, distances = bundle.nearest(vector, k + len(seen))
        unseen = np.isin(items, seen, invert=True)
        if unseen.sum() >= k:
            return items[unseen][:k], distances[unseen][:k]
        excluded = np.array([0, len(seen)]), seen
        top, exact = exact_top_k(vector[None], bundle.item_vectors, k, excluded)
        return top[0], exact[0]

    def _describe(self, item: int, score: float | None) -> Recommendation:
        titles = self._bundle.titles
        return Recommendation(
            self._bundle.items.external(item), None if titles is None else titles[item], score
        )
