"""Likely columns of a role by their names, likeliest first."""

import re
from typing import NamedTuple

# Words in names, lower case and singular; words in earlier tuples are likelier
USER = (
    ("user", "uid", "customer", "cust", "client", "household", "member", "visitor", "account", "shopper",
     "buyer", "subscriber", "reader", "listener", "viewer", "player", "guest", "person", "reviewer"),
    ("session", "cookie", "device", "card"),
)  # fmt: skip
ITEM = (
    ("item", "product", "prod", "sku", "article", "stock", "asin", "isbn", "ean", "upc", "gtin", "barcode",
     "movie", "film", "video", "song", "track", "book", "game", "recipe", "venue", "poi", "listing",
     "document", "doc", "paper", "news", "story", "course", "offer"),
    ("artist", "page", "url", "variant", "style"),
)  # fmt: skip
TIME = (
    ("timestamp", "datetime", "time", "ts", "at", "when", "instant"),
    ("date", "day", "created", "ordered", "purchased", "bought", "sold"),
)
LATER = {  # times of later events of an order, or of other events of a person
    "updated", "modified", "deleted", "shipped", "delivered", "paid", "due", "expires", "expiry", "birth",
    "dispatched", "loaded", "exported", "registered", "signup", "end",
}  # fmt: skip
WEIGHT = (
    ("weight",),
    ("quantity", "qty", "units", "pieces"),
    ("rating", "star", "score", "play", "listen", "count", "click", "view", "minute", "watched"),
    ("amount",),
)
TITLE = (("title",), ("name",), ("description", "label"))
EVENT = (("event", "action", "behavior", "behaviour"), ("type", "activity", "interaction", "kind"))
SPLIT = (("split", "partition", "subset", "fold"), ("set", "part"))
ROLES = ("user", "item", "time", "weight", "event", "split", "title")
CODES = {
    "id", "ids", "no", "nr", "num", "number", "code", "key", "uuid", "guid", "hash", "ref", "idx", "index",
}  # fmt: skip
MONEY = {"price", "cost", "discount", "disc", "tax", "fee", "currency"}
FILLING = {"type", "kind", "name", "value", "the", "total", "raw"}
NAME_PART = 9  # rank of a name that has other words too


class Candidate(NamedTuple):
    """A column that may have a role; lower ranks are likelier."""

    rank: int
    name: str


def words(name: str) -> list[str]:
    """Words in a column's name: CustomerID, customer_id and customerid give customer and id."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    found = list[str]()
    for word in re.findall(r"[^\W_]+", spaced.lower()):
        code = next((code for code in ("id", "no", "code", "number") if word.endswith(code)), "")
        stem = word.removesuffix(code)
        found += [stem, code] if code and _is_known(stem) else [word]
    return [word[:-1] if word.endswith("s") and _is_known(word[:-1]) else word for word in found]


def candidates(role: str, names: list[str]) -> list[Candidate]:
    """The columns whose names fit a role, likeliest first."""
    rank = {"user": _user, "item": _item, "time": _time, "weight": _weight}.get(role)
    tiers = {"event": EVENT, "split": SPLIT, "title": TITLE}
    found = list[Candidate]()
    for name in names:
        place = rank(words(name)) if rank else _rank_without_id(role, words(name), tiers[role])
        if place is not None:
            found.append(Candidate(place, name))
    return sorted(found, key=lambda one: one.rank)


def count_roles(names: list[str]) -> int:
    """Number of roles for which a line has a likely name; tells a header from other lines."""
    return sum(any(one.rank < NAME_PART for one in candidates(role, names)) for role in ROLES)


def _is_known(word: str) -> bool:
    return any(word in tier for tiers in (USER, ITEM, WEIGHT) for tier in tiers)


def _tier(found: list[str], tiers: tuple[tuple[str, ...], ...]) -> int | None:
    return next((place for place, tier in enumerate(tiers) if set(tier) & set(found)), None)


def _user(found: list[str]) -> int | None:
    return _id(found, USER)


def _item(found: list[str]) -> int | None:
    return _id(found, ITEM)


def _id(found: list[str], tiers: tuple[tuple[str, ...], ...]) -> int | None:
    """Rank of a name of ids: customer_id before customer; customer_country last."""
    tier = _tier(found, tiers)
    if tier is None:
        return None
    other = set(found) - CODES - {word for tier_words in tiers for word in tier_words}
    return NAME_PART if other else 2 * tier + (0 if CODES & set(found) else 1)


def _time(found: list[str]) -> int | None:
    tier = _tier(found, TIME)
    if tier is None or CODES & set(found):
        return None
    return NAME_PART if LATER & set(found) else tier


def _weight(found: list[str]) -> int | None:
    return None if (CODES | LATER | MONEY) & set(found) else _tier(found, WEIGHT)


def _rank_without_id(role: str, found: list[str], tiers: tuple[tuple[str, ...], ...]) -> int | None:
    """Rank of a name of events, splits or titles: event_type, product_name; not customer_name."""
    allowed = {word for tier in tiers for word in tier} | FILLING
    if role == "title":
        allowed |= {word for tier in ITEM for word in tier}
    return None if set(found) - allowed else _tier(found, tiers)
