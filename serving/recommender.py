"""From a bundle to the items a user is shown; needs numpy, and annoy where an index is searched.

Axes: U users, I items, D coordinates, Q users asked for, k answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys import fold_in
from recsys.bundle import Bundle, open_bundle
from recsys.ids import IdMap
from recsys.index import NOTHING, contains
from recsys.manifest import Manifest
from recsys.releases import CURRENT, find

Id = int | str
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as str() writes one


class Recommendation(NamedTuple):
    """One item: its external id, its title if the bundle has titles, and -distance as the score.

    Items of the popular list, which is what strangers get, have no score.
    """

    item_id: Id
    title: str | None
    score: float | None


class UnknownId(LookupError):
    """An id that the bundle does not hold; the message names it."""


class Recommender:
    """Answers from one bundle, opened once; the same question, put the same way, has the same answer.

    A user has a place of his own (see basis), or one made of the history that the question brings, or none:
    then he gets the popular items. Ids of items that the bundle does not hold are passed over.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @classmethod
    def open(cls, path: Path) -> Recommender:
        """Verify and open a bundle folder, or the link `current` to one; raises BundleError.

        The link is followed once, so that a release in the meantime cannot mix two versions. What a copy made
        of the link is answered from as well, under the version that it is: see releases.find.
        """
        path = Path(path)
        if path.name != CURRENT:
            path = path.resolve()
        return cls(open_bundle(*find(path.parent)) if path.name == CURRENT else open_bundle(path))

    @property
    def version(self) -> str:
        return self._bundle.version

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    @property
    def n_users(self) -> int:
        return len(self._bundle.users)

    @property
    def n_items(self) -> int:
        return len(self._bundle.items)

    @property
    def attributes(self) -> tuple[str, ...]:
        """What `where` may go by."""
        return tuple(self._bundle.attributes)

    @property
    def has_integer_users(self) -> bool:
        """Whether user ids are integers; else they are strings. recommend() never converts them."""
        return isinstance(self._bundle.users.ids, np.ndarray)

    @property
    def has_integer_items(self) -> bool:
        return isinstance(self._bundle.items.ids, np.ndarray)

    def user_id(self, given: Id) -> Id:
        """An id as the bundle has them, from one that came as text or a number; else raises ValueError."""
        return _as_id(given, self.has_integer_users)

    def item_id(self, given: Id) -> Id:
        """The same for an item."""
        return _as_id(given, self.has_integer_items)

    def knows_user(self, user_id: Id) -> bool:
        return _number_of(self._bundle.users, user_id, "user") is not None

    def some_users(self, n: int) -> list[Id]:
        """Up to n ids, evenly spread. Raises ValueError on n < 1."""
        n = _whole("n", n)
        numbers = np.unique(np.linspace(0, self.n_users - 1, min(n, self.n_users)).astype(np.int64))
        return [self._bundle.users.external(user) for user in numbers.tolist()]

    def basis(
        self, user_id: Id | None = None, history: Sequence[Id] | None = None
    ) -> Literal["user", "history", "popular"]:
        """What an answer rests on: a history that is given goes first, as it is newer than the bundle."""
        if history is not None and self._bundle.fold_in is not None and len(self._numbers(history)):
            return "history"
        return "user" if user_id is not None and self.knows_user(user_id) else "popular"

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

        exclude_seen leaves out what the user has and what the history holds; exclude leaves out more; allow
        and where leave out all else, where = {attribute: values} asks for one of the values of each. Fewer
        than k only where fewer are left. Raises ValueError unless k is a whole number >= 1, Python's or
        NumPy's, for an attribute that the bundle does not have, and for a single id or text where a list is
        meant or the other way round.
        """
        k, exclude_seen = _whole("k", k), _flag("exclude_seen", exclude_seen)
        user = None if user_id is None else _number_of(self._bundle.users, user_id, "user")
        own = NOTHING if history is None else self._numbers(history)
        hidden = self._hidden(user, own, exclude_seen, exclude)
        allowed = self._allowed(allow, where)
        vector = self._vector(user, own)
        if vector is None:
            return [self._describe(item, None) for item in self._popular(k, hidden, allowed)]
        return self._described(*self._bundle.search.top_k(vector, k, hidden, allowed))

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
        """recommend() for each user and history, the filters read once. Raises ValueError as it does.

        Where the bundle was measured to scan many users faster than to search for each (manifest, measured,
        scans_many), the answers are exact, and may so hold what the index alone would miss.
        """
        k, exclude_seen = _whole("k", k), _flag("exclude_seen", exclude_seen)
        bundle, extra, allowed = self._bundle, self._numbers(exclude), self._allowed(allow, where)
        asked = [_single("user", user) for user in _listed("user_ids", user_ids)]
        users = bundle.users.numbers(asked).tolist()  # Q of them, -1: unknown
        sent = [None] * len(users) if histories is None else _listed("histories", histories)
        if len(sent) != len(users):
            raise ValueError(
                f"{len(sent)} histories for {len(users)} user_ids, expected one for each or None"
            )
        own = [NOTHING if history is None else self._numbers(history) for history in sent]
        hidden, vectors, placed = list[NDArray[np.int32]](), list[NDArray[np.float32]](), list[int]()
        answers, popular = [list[Recommendation]() for _ in users], None
        for row, (user, items) in enumerate(zip(users, own, strict=True)):
            left_out = _union(items, extra) if exclude_seen else extra
            if exclude_seen and user >= 0:
                left_out = _union(bundle.seen(user), left_out)
            vector = self._vector(user if user >= 0 else None, items)
            if vector is not None:
                placed.append(row)
                hidden.append(left_out)
                vectors.append(vector)
            elif len(items) and exclude_seen:
                answers[row] = [self._describe(item, None) for item in self._popular(k, left_out, allowed)]
            else:  # nothing of his own: the same for all of them
                if popular is None:
                    popular = [self._describe(item, None) for item in self._popular(k, extra, allowed)]
                answers[row] = list(popular)
        if placed:
            offsets = np.cumsum([0, *(len(items) for items in hidden)])
            together = offsets, np.concatenate(hidden).astype(np.int32)
            found = bundle.search.top_k_many(np.stack(vectors), k, together, allowed)
            for row, answer in zip(placed, self._described_many(*found), strict=True):
                answers[row] = answer
        return answers

    def similar_items(self, item_id: Id, k: int = 10) -> list[Recommendation]:
        """The k items nearest to an item, without itself. Raises UnknownId, and ValueError on k < 1."""
        k, item = _whole("k", k), self._item(item_id)
        vector, itself = self._bundle.item_vectors[item], np.array([item], np.int32)
        return self._described(*self._bundle.search.top_k(vector, k, itself))

    def explain(self, user_id: Id, item_id: Id, k: int = 5) -> list[Recommendation]:
        """The user's own items that are nearest to an item, nearest first, the distances between items.

        Raises UnknownId, and ValueError on k < 1.
        """
        k = _whole("k", k)
        vector = self._bundle.item_vectors[self._item(item_id)]
        own = self._bundle.seen(self._user(user_id))
        k = min(k, len(own))
        return self._described(*self._bundle.search.scan(vector, k, allowed=own)) if k else []

    def history(self, user_id: Id, k: int | None = None) -> list[Recommendation]:
        """What the user has, k of it at the most, without scores. Raises UnknownId, ValueError on k < 1."""
        k = None if k is None else _whole("k", k)
        return [self._describe(item, None) for item in self._bundle.seen(self._user(user_id))[:k].tolist()]

    def history_length(self, user_id: Id) -> int:
        """How much the user has. Raises UnknownId."""
        return len(self._bundle.seen(self._user(user_id)))

    def place(self, history: Sequence[Id]) -> NDArray[np.float32] | None:
        """(D,): where a user of this history belongs; None if the bundle cannot tell."""
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
        self, user: int | None, own: NDArray[np.int32], exclude_seen: bool, exclude: Iterable[Id]
    ) -> NDArray[np.int32]:
        """What is not to be shown, ascending."""
        hidden = self._numbers(exclude)
        if exclude_seen and user is not None:
            hidden = _union(self._bundle.seen(user), hidden)
        return _union(own, hidden) if exclude_seen else hidden

    def _allowed(
        self, allow: Iterable[Id] | None, where: Mapping[str, Iterable[str]] | None
    ) -> NDArray[np.int32] | None:
        """What alone may be shown, ascending; None for everything."""
        allowed = None if allow is None else self._numbers(allow)
        if where is not None and not isinstance(where, Mapping):
            raise ValueError(f"where = {where!r}, expected {{attribute: values}}")
        for name, values in (where or {}).items():
            attribute = self._bundle.attributes.get(name)
            if attribute is None:
                known = ", ".join(self.attributes) or "none: this bundle has no attributes"
                raise ValueError(f"where: there is no attribute '{name}', allowed: {known}")
            carriers = [attribute.carriers(value) for value in _listed(f"where: {name}", values)]
            found = np.unique(np.concatenate(carriers)) if carriers else NOTHING
            allowed = found if allowed is None else allowed[contains(found, allowed)]
        return allowed

    def _popular(self, k: int, hidden: NDArray[np.int32], allowed: NDArray[np.int32] | None) -> list[int]:
        """The k most popular items that may be shown, looked for from the top of the list down."""
        popular, found, start, size = self._bundle.popular, list[int](), 0, 4 * k + len(hidden)
        while len(found) < k and start < len(popular):
            some = popular[start : start + size]
            valid = ~contains(hidden, some)
            if allowed is not None:
                valid &= contains(allowed, some)
            found += some[valid][: k - len(found)].tolist()
            start, size = start + size, 4 * size
        return found

    def _numbers(self, items: Iterable[Id]) -> NDArray[np.int32]:
        """Internal numbers of those that are known, ascending, each once."""
        given = _listed("item ids", items)
        if not given:
            return NOTHING
        numbers = np.unique(self._bundle.items.numbers(given))
        return numbers[np.searchsorted(numbers, 0) :]

    def _user(self, user_id: Id) -> int:
        return _number(self._bundle.users, user_id, "user")

    def _item(self, item_id: Id) -> int:
        return _number(self._bundle.items, item_id, "item")

    def _ids_of(self, items: NDArray[np.int32]) -> list[list[Id]]:
        """External ids of internal numbers (Q, k); those of -1 mean nothing."""
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
        """One list for each row of (Q, k); -1 is no item."""
        titles, scores = self._bundle.titles, (0.0 - distances.astype(np.float64)).tolist()
        return [
            [
                Recommendation(item_id, None if titles is None else titles[item], score)
                for item, item_id, score in zip(row, ids, far, strict=True)
                if item >= 0
            ]
            for row, ids, far in zip(items.tolist(), self._ids_of(items), scores, strict=True)
        ]

    def _describe(self, item: int, score: float | None) -> Recommendation:
        titles = self._bundle.titles
        return Recommendation(
            self._bundle.items.external(item), None if titles is None else titles[item], score
        )


def _number(ids: IdMap, external: Id, what: str) -> int:
    number = _number_of(ids, external, what)
    if number is None:
        shown = external.item() if isinstance(external, np.generic) else external
        raise UnknownId(f"{what} {shown!r} is not in this bundle")
    return number


def _number_of(ids: IdMap, external: Id, what: str) -> int | None:
    return ids.number(_single(what, external))


def _single(what: str, external: Any) -> Any:
    """An id, and no list of such, which would be taken for an unknown one."""
    if isinstance(external, np.ndarray | Mapping | list | tuple | set):
        raise ValueError(f"{what} = {external!r}, expected a single id")
    return external


def _as_id(given: Id, integers: bool) -> Id:
    if isinstance(given, bool) or not isinstance(given, int | str | np.integer):
        raise ValueError(f"id {given!r} is {type(given).__name__}, allowed are whole numbers and text")
    if not integers:
        return str(given)
    return str(given) if isinstance(given, str) and not WHOLE.fullmatch(given) else int(given)


def _union(ascending: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
    if len(ascending) == 0 or len(others) == 0:
        return ascending if len(ascending) else others
    return np.union1d(ascending, others)


def _listed(what: str, values: Iterable[Any]) -> Sequence[Any]:
    """A list, and no text: its letters would each be taken for one."""
    shaped = isinstance(values, np.ndarray) and values.ndim != 1
    if shaped or isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{what} = {values!r}, expected a list, such as [{values!r}]")
    return values if isinstance(values, list | tuple) else list(values)


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} = {value!r}, allowed is a whole number >= 1")
    return int(value)


def _flag(name: str, value: bool | int) -> bool:
    if not isinstance(value, int | np.integer | np.bool_) or value not in (0, 1):
        raise ValueError(f"{name} = {value!r}, allowed are True and False")
    return bool(value)
