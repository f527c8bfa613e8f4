"""What is said over HTTP: the typed messages of the OpenAPI document, and their limits."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_ITEMS = 1000  # k
MOST_USERS = 1000  # of one batch
MOST_HISTORY = 10_000  # ids of one history
LONGEST_ID = 512  # characters
MOST_BYTES = 2**20  # of a body

IntegerId = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
TextId = Annotated[str, Field(strict=True, max_length=LONGEST_ID)]
Id = IntegerId | TextId
Basis = Literal["user", "history", "popular"]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Wanted(Message):
    """One entry of a batch: a user, a history, or both; a history goes first, as it is newer."""

    user_id: Id | None = None
    history: Annotated[list[Id], Field(max_length=MOST_HISTORY)] | None = Field(
        None, description="ids of items; unknown ones are ignored"
    )


class Ask(Message):
    """Recommendations for a batch of users or histories, all under the same filters."""

    users: list[Wanted] = Field(min_length=1, max_length=MOST_USERS)
    k: int = Field(10, strict=True, ge=1, le=MOST_ITEMS, description="items for each of them")
    exclude_seen: bool = Field(True, strict=True, description="leave out what the user or history has")
    exclude: list[Id] = Field([], max_length=MOST_HISTORY, description="ids of items to leave out as well")
    allow: Annotated[list[Id], Field(max_length=MOST_HISTORY)] | None = Field(
        None, description="if given, only these items"
    )
    where: dict[str, Annotated[list[str], Field(max_length=MOST_ITEMS)]] | None = Field(
        None, description="attribute -> values; only items that have one of the values, for each attribute"
    )


class Item(Message):
    item_id: int | str
    title: str | None
    score: float | None = Field(
        description="minus the distance; null where the item is there for being popular"
    )


class Recommended(Message):
    version: str
    user_id: int | str
    basis: Basis = Field(description="what the answer rests on; popular: the user is unknown")
    items: list[Item]


class Result(Message):
    basis: Basis
    items: list[Item]


class Answers(Message):
    version: str
    results: list[Result] = Field(description="one for each entry of users, in their order")


class Similar(Message):
    version: str
    item_id: int | str
    items: list[Item] = Field(description="nearest first")


class Explanation(Message):
    version: str
    user_id: int | str
    item_id: int | str
    items: list[Item] = Field(description="the user's own items, nearest to the item first")


class History(Message):
    version: str
    user_id: int | str
    n_items: int = Field(description="how many the user has in all")
    items: list[Item]


class Users(Message):
    version: str
    n_users: int
    users: list[int | str] = Field(description="ids spread evenly over all")


class Version(Message):
    version: str
    format_version: int
    created_at: str | None
    n_users: int
    n_items: int
    dim: int
    trees: int | None
    search_k: int | None = Field(description="null: the vectors are scanned")
    attributes: list[str] = Field(description="what `where` may filter by")
    has_integer_users: bool
    has_integer_items: bool
    measured: dict[str, Any] | None = Field(description="recall and latency as export measured them")


class Health(Message):
    status: Literal["live", "ready"]


class Problem(Message):
    detail: str = Field(description="what is wrong, its value and what is allowed")
