"""Requests and answers over HTTP: the typed messages of the OpenAPI document, and their limits."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_ITEMS = 1000  # k
MAX_USERS = 1000  # in a batch
MAX_HISTORY = 10_000  # ids in a history
MAX_ID_LENGTH = 512  # characters
MAX_BYTES = 2**20  # in a body

IntegerId = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
TextId = Annotated[str, Field(strict=True, max_length=MAX_ID_LENGTH)]
Id = IntegerId | TextId
Basis = Literal["user", "history", "popular"]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BatchEntry(Message):
    """A user, a history, or both; the history counts first, as it is newer."""

    user_id: Id | None = None
    history: Annotated[list[Id], Field(max_length=MAX_HISTORY)] | None = Field(
        None, description="item ids; unknown ones are ignored"
    )


class BatchRequest(Message):
    """Recommendations for a batch of users or histories, all under the same filters."""

    users: list[BatchEntry] = Field(min_length=1, max_length=MAX_USERS)
    k: int = Field(10, strict=True, ge=1, le=MAX_ITEMS, description="items for each entry")
    exclude_seen: bool = Field(True, strict=True, description="exclude the items of the user and the history")
    exclude: list[Id] = Field([], max_length=MAX_HISTORY, description="ids of further items to exclude")
    allow: Annotated[list[Id], Field(max_length=MAX_HISTORY)] | None = Field(
        None, description="if given, only these items"
    )
    where: dict[str, Annotated[list[str], Field(max_length=MAX_ITEMS)]] | None = Field(
        None, description="attribute -> values; only items that have one of the values of each attribute"
    )


class Item(Message):
    item_id: int | str
    title: str | None
    score: float | None = Field(description="minus the distance; null for popular items")
    is_new: bool = Field(description="too few users had it to fit it; what is known about it placed it")


class Recommendations(Message):
    version: str
    user_id: int | str
    basis: Basis = Field(description="what the answer is based on; popular: the user is unknown")
    items: list[Item]


class Result(Message):
    basis: Basis
    items: list[Item]


class BatchAnswer(Message):
    version: str
    results: list[Result] = Field(description="one for each entry of users, in their order")


class SimilarItems(Message):
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
    n_items: int = Field(description="number of the user's items, before the limit")
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
    attributes: list[str] = Field(description="attributes that `where` can filter by")
    has_integer_users: bool
    has_integer_items: bool
    measured: dict[str, Any] | None = Field(description="recall and latency measured at export")


class Health(Message):
    status: Literal["live", "ready"]


class Problem(Message):
    detail: str = Field(description="what is wrong, its value and what is allowed")
