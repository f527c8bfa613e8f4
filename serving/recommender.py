"""Recommendations from a bundle; needs numpy, and annoy if the bundle has an index.

Axes: D coordinates, Q users of a batch, k items per answer.
"""
# Long: half of it says what the public methods take.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys import fold_in
from recsys.bundle import Bundle, open_bundle
from recsys.ids import IdMap
from recsys.index import NOTHING, contains
from recsys.manifest import Manifest
from recsys.releases import CURRENT, find_current
from serving.arguments import Id, as_list, boolean, parse_id, single_id, whole_number


class Recommendation(NamedTuple):
    """An item: its external id, its title if the bundle has titles, and -distance as the score.

    Popular items, which unknown users get, have none. Too few users had a new item to fit it.
    """

    item_id: Id
    title: str | None
    score: float | None
    is_new: bool = False


class UnknownId(LookupError):
    """An id that is not in the bundle; the message names it."""


class Recommender:
    """Answers from one opened bundle; the same call always has the same result.

    A user's vector comes from the bundle or from the history in the call (see basis); without a vector the
    answer is the popular items. Item ids that are not in the bundle are ignored.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @classmethod
    def open(cls, path: Path) -> Recommender:
        """Verify and open a bundle folder, or the link `current` to one; raises BundleError.

        The link is followed once, so that a release meanwhile cannot mix two versions. `current` may also be
        a copied folder instead of a link: see releases.find_current.
        """
        path = Path(path)
        if path.name != CURRENT:
            path = path.resolve()
        return cls(open_bundle(*find_current(path.parent)) if path.name == CURRENT else open_bundle(path))

    @property
    def version(self) -> str:
        """Name of the bundle that answers."""
        return self._bundle.version

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself: counts, search settings, run, SHA-256 of its files."""
        return self._bundle.manifest

    @property
    def n_users(self) -> int:
        """Number of users in the bundle."""
        return len(self._bundle.users)

    @property
    def n_items(self) -> int:
        """Number of items in the bundle."""
        return len(self._bundle.items)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of attributes that `where` can filter by."""
        return tuple(self._bundle.attributes)

    @property
    def has_integer_users(self) -> bool:
        """Whether user ids are integers, else strings; recommend() never converts ids, user_id() does."""
        return isinstance(self._bundle.users.ids, np.ndarray)

    @property
    def has_integer_items(self) -> bool:
        """Whether item ids are integers, else strings."""
        return isinstance(self._bundle.items.ids, np.ndarray)

    def user_id(self, given: Id) -> Id:
        """Convert an id given as text or a number to the bundle's type. Raises ValueError on other types."""
        return parse_id(given, self.has_integer_users)

    def item_id(self, given: Id) -> Id:
        """user_id() for an item."""
        return parse_id(given, self.has_integer_items)

    def knows_user(self, user_id: Id) -> bool:
        """Whether the user is in the bundle."""
        return self._bundle.users.number(single_id("user", user_id)) is not None

    def some_users(self, n: int) -> list[Id]:
        """Up to n user ids, evenly spread over all. Raises ValueError on n < 1."""
        n = whole_number("n", n)
        numbers = np.unique(np.linspace(0, self.n_users - 1, min(n, self.n_users)).astype(np.int64))
        return [self._bundle.users.external(user) for user in numbers.tolist()]

    def basis(
        self, user_id: Id | None = None, history: Sequence[Id] | None = None
    ) -> Literal["user", "history", "popular"]:
        """The basis of an answer; a given history comes first, as it is newer than the bundle."""
        if history is not None and self._bundle.fold_in is not None and len(self._numbers(history)):
            return "history"
        return "user" if user_id is not None and self.knows_user(user_id) else "popular"

    # Many arguments: the public API, the filters keyword-only.
    def recommend(
        self,
        user_id: Id | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        *,
        history: Sequence[Id] | None = None,
        exclude: Iterable[Id] = (),
        allow: Iterable[Id] | None = None,
        where: Mapping[str, Iterable[str]] | None = None,
    ) -> list[Recommendation]:
        """The k best items for a user, best first, no item twice.

        exclude_seen excludes the items of the user and of the history, `exclude` further ones. `allow` keeps
        only its items, where = {attribute: values} only items with one of the values of each attribute. The
        answer is shorter than k only if fewer items are left. Raises ValueError unless k is a whole number
        >= 1, on an attribute that is not in the bundle, and on one id or text in place of a list or the
        other way round.
        """
        k, exclude_seen = whole_number("k", k), boolean("exclude_seen", exclude_seen)
        user = None if user_id is None else self._bundle.users.number(single_id("user", user_id))
        own = NOTHING if history is None else self._numbers(history)
        hidden = self._hidden(user, own, self._numbers(exclude), exclude_seen)
        allowed = self._allowed(allow, where)
        vector = self._vector(user, own)
        if vector is None:
            return self._popular(k, hidden, allowed)
        return self._described(*self._bundle.search.top_k(vector, k, hidden, allowed))

    # Many arguments: those of recommend, for many users.
    def recommend_many(
        self,
        user_ids: Sequence[Id | None],
        k: int = 10,
        exclude_seen: bool = True,
        *,
        histories: Sequence[Sequence[Id] | None] | None = None,
        exclude: Iterable[Id] = (),
        allow: Iterable[Id] | None = None,
        where: Mapping[str, Iterable[str]] | None = None,
    ) -> list[list[Recommendation]]:
        """recommend() for each user and history under the same filters. Raises ValueError as recommend does.

        Where a scan for many users is faster than a search for each (manifest, measured.scans_many), the
        answers are exact and may contain items that the index would miss.
        """
        k, exclude_seen = whole_number("k", k), boolean("exclude_seen", exclude_seen)
        bundle, extra, allowed = self._bundle, self._numbers(exclude), self._allowed(allow, where)
        asked = [single_id("user", user) for user in as_list("user_ids", user_ids)]
        users = [None if user < 0 else user for user in bundle.users.numbers(asked).tolist()]  # None: unknown
        given = [None] * len(users) if histories is None else as_list("histories", histories)
        if len(given) != len(users):
            raise ValueError(
                f"{len(given)} histories for {len(users)} user_ids, expected one for each or None"
            )
        own = [NOTHING if history is None else self._numbers(history) for history in given]
        hidden, vectors, rows = list[NDArray[np.int32]](), list[NDArray[np.float32]](), list[int]()
        answers, popular = [list[Recommendation]() for _ in users], None
        for row, (user, history) in enumerate(zip(users, own, strict=True)):
            excluded, vector = self._hidden(user, history, extra, exclude_seen), self._vector(user, history)
            if vector is not None:
                rows.append(row)
                hidden.append(excluded)
                vectors.append(vector)
            elif excluded is not extra:
                answers[row] = self._popular(k, excluded, allowed)
            else:  # nothing of their own: computed once for all such users
                popular = self._popular(k, extra, allowed) if popular is None else popular
                answers[row] = list(popular)
        if rows:
            offsets = np.cumsum([0, *(len(items) for items in hidden)])
            ragged = offsets, np.concatenate(hidden).astype(np.int32)
            found = bundle.search.top_k_many(np.stack(vectors), k, ragged, allowed)
            for row, answer in zip(rows, self._described_many(*found), strict=True):
                answers[row] = answer
        return answers

    def similar_items(self, item_id: Id, k: int = 10) -> list[Recommendation]:
        """The k items nearest to an item, except itself. Raises UnknownId, and ValueError on k < 1."""
        k, item = whole_number("k", k), self._item(item_id)
        if self._bundle.likeness is not None and self._is_new(item):
            return self._alike(item, np.delete(np.arange(self.n_items, dtype=np.int32), item), k)
        vector, itself = self._bundle.item_vectors[item], np.array([item], np.int32)
        return self._described(*self._bundle.search.top_k(vector, k, itself))

    def explain(self, user_id: Id, item_id: Id, k: int = 5) -> list[Recommendation]:
        """The k of the user's own items that are nearest to an item, scored by the distance between items.

        Raises UnknownId, and ValueError on k < 1.
        """
        k, item = whole_number("k", k), self._item(item_id)
        vector = self._bundle.item_vectors[item]
        own = self._bundle.seen(self._user(user_id))
        k = min(k, len(own))
        if k and self._bundle.likeness is not None and self._is_new(item):
            return self._alike(item, own, k)
        return self._described(*self._bundle.search.scan(vector, k, allowed=own)) if k else []

    def _alike(self, item: int, others: NDArray[np.int32], k: int) -> list[Recommendation]:
        """The k of the other items that are most like a new one, by what is known about them."""
        assert self._bundle.likeness is not None
        rows = self._bundle.likeness
        d = np.linalg.norm(rows[others] - rows[item], axis=1)
        best = np.argsort(d, kind="stable")[:k]
        return self._described(others[best], d[best])

    def history(self, user_id: Id, k: int | None = None) -> list[Recommendation]:
        """Up to k of the user's items, without scores. Raises UnknownId, and ValueError on k < 1."""
        k = None if k is None else whole_number("k", k)
        return [self._describe(item, None) for item in self._bundle.seen(self._user(user_id))[:k].tolist()]

    def history_length(self, user_id: Id) -> int:
        """How many items the user has. Raises UnknownId."""
        return len(self._bundle.seen(self._user(user_id)))

    def place(self, history: Sequence[Id]) -> NDArray[np.float32] | None:
        """(D,): the vector of a user with this history; None without known items or fold-in weights."""
        return self._vector(None, self._numbers(history))

    def _vector(self, user: int | None, own: NDArray[np.int32]) -> NDArray[np.float32] | None:
        bundle = self._bundle
        if len(own) and bundle.fold_in is not None:
            return fold_in.place(bundle.fold_in, self._radius, bundle.item_vectors, own)
        return None if user is None else bundle.user_vectors[user]

    @cached_property
    def _radius(self) -> float | None:
        return fold_in.radius(self._bundle.user_vectors)

    def _hidden(
        self, user: int | None, own: NDArray[np.int32], extra: NDArray[np.int32], exclude_seen: bool
    ) -> NDArray[np.int32]:
        """Items that must not be recommended, ascending; `extra` itself if there are no others."""
        if not exclude_seen:
            return extra
        hidden = extra if user is None else _union(self._bundle.seen(user), extra)
        return _union(own, hidden)

    def _allowed(
        self, allow: Iterable[Id] | None, where: Mapping[str, Iterable[str]] | None
    ) -> NDArray[np.int32] | None:
        """The only items that may be recommended, ascending; None: all."""
        allowed = None if allow is None else self._numbers(allow)
        if where is not None and not isinstance(where, Mapping):
            raise ValueError(f"where = {where!r}, expected {{attribute: values}}")
        for name, values in (where or {}).items():
            attribute = self._bundle.attributes.get(name)
            if attribute is None:
                known = ", ".join(self.attributes) or "none: this bundle has no attributes"
                raise ValueError(f"where: there is no attribute '{name}', allowed: {known}")
            carriers = [attribute.carriers(value) for value in as_list(f"where: {name}", values)]
            found = np.unique(np.concatenate(carriers)) if carriers else NOTHING
            allowed = found if allowed is None else allowed[contains(found, allowed)]
        return allowed

    def _popular(
        self, k: int, hidden: NDArray[np.int32], allowed: NDArray[np.int32] | None
    ) -> list[Recommendation]:
        """The k most popular items that may be recommended, searched from the top in growing parts."""
        popular, found, start, size = self._bundle.popular, list[int](), 0, 4 * k + len(hidden)
        while len(found) < k and start < len(popular):
            part = popular[start : start + size]
            valid = ~contains(hidden, part)
            if allowed is not None:
                valid &= contains(allowed, part)
            found += part[valid][: k - len(found)].tolist()
            start, size = start + size, 4 * size
        return [self._describe(item, None) for item in found]

    def _numbers(self, items: Iterable[Id]) -> NDArray[np.int32]:
        """Internal numbers of the known items, ascending, each once."""
        given = as_list("item ids", items)
        if not given:
            return NOTHING
        numbers = np.unique(self._bundle.items.numbers(given))
        return numbers[np.searchsorted(numbers, 0) :]

    def _user(self, user_id: Id) -> int:
        return _known_number(self._bundle.users, "user", user_id)

    def _item(self, item_id: Id) -> int:
        return _known_number(self._bundle.items, "item", item_id)

    def _ids_of(self, items: NDArray[np.int32]) -> list[list[Id]]:
        """External ids of internal numbers (Q, k); for -1 any value."""
        ids = self._bundle.items.ids
        if isinstance(ids, np.ndarray):
            found: list[list[Id]] = ids[items].tolist()
            return found
        names = {item: ids[item] for item in np.unique(items).tolist() if item >= 0} | {-1: ""}
        return [[names[item] for item in row] for row in items.tolist()]

    def _described(self, items: NDArray[np.int32], distances: NDArray[np.float32]) -> list[Recommendation]:
        scores = 0.0 - distances.astype(np.float64)  # not -d, which turns 0 into -0
        return [self._describe(*pair) for pair in zip(items.tolist(), scores.tolist(), strict=True)]

    def _described_many(
        self, items: NDArray[np.int32], distances: NDArray[np.float32]
    ) -> list[list[Recommendation]]:
        """One list for each row of (Q, k); -1 means no item."""
        titles, scores = self._bundle.titles, (0.0 - distances.astype(np.float64)).tolist()
        return [
            [
                Recommendation(item_id, None if titles is None else titles[item], score, self._is_new(item))
                for item, item_id, score in zip(row, ids, row_scores, strict=True)
                if item >= 0
            ]
            for row, ids, row_scores in zip(items.tolist(), self._ids_of(items), scores, strict=True)
        ]

    def _describe(self, item: int, score: float | None) -> Recommendation:
        title = None if self._bundle.titles is None else self._bundle.titles[item]
        return Recommendation(self._bundle.items.external(item), title, score, self._is_new(item))

    def _is_new(self, item: int) -> bool:
        return len(self._bundle.new_items) > 0 and bool(self._new[item])

    @cached_property
    def _new(self) -> NDArray[np.bool_]:
        """(I,): whether an item is new."""
        return np.isin(np.arange(self.n_items), self._bundle.new_items)


def _known_number(ids: IdMap, name: str, external: Id) -> int:
    """The internal number of an id. Raises UnknownId."""
    number = ids.number(single_id(name, external))
    if number is None:
        shown = external.item() if isinstance(external, np.generic) else external
        raise UnknownId(f"{name} {shown!r} is not in this bundle")
    return number


def _union(ascending: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
    """Both, ascending, each item once."""
    if len(ascending) == 0 or len(others) == 0:
        return ascending if len(ascending) else others
    return np.union1d(ascending, others)
