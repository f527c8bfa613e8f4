"""The questions that can be asked over HTTP, and their answers.

Short ones are answered on the event loop, as a hop to a thread costs more than most of them do; batches go
to a thread. Answers are written as they are: the models are for the OpenAPI document.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import PathConvertor, register_url_convertor

from serving.admission import Service, to_json
from serving.contract import (
    LONGEST_ID,
    MOST_ITEMS,
    Answers,
    Ask,
    Explanation,
    Health,
    History,
    Problem,
    Recommended,
    Similar,
    Users,
    Version,
)
from serving.recommender import Id, Recommendation, Recommender, UnknownId


class IdConvertor(PathConvertor):
    """Any text, slashes and line breaks too."""

    regex = r"[\s\S]*"


register_url_convertor("id", IdConvertor())

PathId = Annotated[str, Path(min_length=1, max_length=LONGEST_ID)]
QueryId = Annotated[str, Query(min_length=1, max_length=LONGEST_ID)]
Count = Annotated[int, Query(ge=1, le=MOST_ITEMS)]
AsText = Annotated[
    bool,
    Query(
        description="write every id of the answer as text, integers too: what reads the numbers of JSON as "
        "floats, as browsers do, rounds those beyond 2^53"
    ),
]

NO_TOKEN: dict[int | str, dict[str, Any]] = {401: {"model": Problem, "description": "no or a wrong token"}}
ASKED = NO_TOKEN | {
    422: {"model": Problem, "description": "outside the limits, or not what is expected; names the rule"},
    503: {"model": Problem, "description": "no bundle is open yet"},
}
NAMED = ASKED | {404: {"model": Problem, "description": "the id is unknown"}}

router = APIRouter()


@router.get("/v1/users/{user_id:id}/recommendations", response_model=Recommended, responses=ASKED)
async def user_recommendations(
    request: Request,
    user_id: PathId,
    k: Count = 10,
    exclude_seen: bool = True,
    ids_as_text: AsText = False,
) -> Response:
    """The k best items for a user; the popular ones where the user is unknown."""
    shop = _open(request)
    user = shop.user_id(user_id)
    items = shop.recommend(user, k, exclude_seen)
    listed = _listed(items, ids_as_text)
    return _answer(shop, user_id=_id(user, ids_as_text), basis=shop.basis(user), items=listed)


@router.post("/v1/recommendations", response_model=Answers, responses=ASKED)
def recommendations(request: Request, ask: Ask, ids_as_text: AsText = False) -> Response:
    """The k best items for each of a batch of users and histories, under filters."""
    shop = _open(request)
    filters: dict[str, Any] = {
        "exclude": [shop.item_id(item) for item in ask.exclude],
        "allow": None if ask.allow is None else [shop.item_id(item) for item in ask.allow],
        "where": _filter(shop, ask.where),
    }
    users = [None if wanted.user_id is None else shop.user_id(wanted.user_id) for wanted in ask.users]
    histories = [
        [shop.item_id(item) for item in wanted.history] if wanted.history else None for wanted in ask.users
    ]
    found = shop.recommend_many(users, ask.k, ask.exclude_seen, histories=histories, **filters)
    results = [
        {"basis": shop.basis(user, history), "items": _listed(items, ids_as_text)}
        for user, history, items in zip(users, histories, found, strict=True)
    ]
    return _answer(shop, results=results)


@router.get("/v1/items/{item_id:id}/similar", response_model=Similar, responses=NAMED)
async def similar_items(
    request: Request, item_id: PathId, k: Count = 10, ids_as_text: AsText = False
) -> Response:
    """The k items nearest to one."""
    shop = _open(request)
    item = shop.item_id(item_id)
    items = _known(shop, ids_as_text, lambda: shop.similar_items(item, k))
    return _answer(shop, item_id=_id(item, ids_as_text), items=items)


@router.get("/v1/explanations", response_model=Explanation, responses=NAMED)
async def explanations(
    request: Request, user_id: QueryId, item_id: QueryId, k: Count = 5, ids_as_text: AsText = False
) -> Response:
    """Why an item: the k of the user's own items that are nearest to it."""
    shop = _open(request)
    user, item = shop.user_id(user_id), shop.item_id(item_id)
    items = _known(shop, ids_as_text, lambda: shop.explain(user, item, k))
    ids = {"user_id": _id(user, ids_as_text), "item_id": _id(item, ids_as_text)}
    return _answer(shop, **ids, items=items)


@router.get("/v1/users", response_model=Users, responses=ASKED)
async def users(request: Request, limit: Count = 20, ids_as_text: AsText = False) -> Response:
    """Ids of users to pick from, spread evenly over all."""
    shop = _open(request)
    some = [_id(user, ids_as_text) for user in shop.some_users(limit)]
    return _answer(shop, n_users=shop.n_users, users=some)


@router.get("/v1/users/{user_id:id}/history", response_model=History, responses=NAMED)
async def history(
    request: Request, user_id: PathId, limit: Count = MOST_ITEMS, ids_as_text: AsText = False
) -> Response:
    """What a user has, `limit` of `n_items`."""
    shop = _open(request)
    user = shop.user_id(user_id)
    items = _known(shop, ids_as_text, lambda: shop.history(user, limit))
    n_items = shop.history_length(user)
    return _answer(shop, user_id=_id(user, ids_as_text), n_items=n_items, items=items)


@router.get("/version", response_model=Version, responses=NO_TOKEN | {503: ASKED[503]})
async def version(request: Request) -> Response:
    """The bundle that answers, its size, and what its index reached when it was exported."""
    shop = _open(request)
    manifest = shop.manifest
    return _answer(
        shop,
        format_version=manifest["format_version"],
        created_at=manifest.get("created_at"),
        n_users=shop.n_users,
        n_items=shop.n_items,
        dim=manifest["dim"],
        trees=manifest.get("trees"),
        search_k=manifest.get("search_k"),
        attributes=list(shop.attributes),
        has_integer_users=shop.has_integer_users,
        has_integer_items=shop.has_integer_items,
        measured=manifest.get("measured"),
    )


@router.get("/health/live", response_model=Health)
async def is_live() -> Response:
    """The process answers."""
    return as_json({"status": "live"})


@router.get("/health", response_model=Health, responses={503: ASKED[503]})
@router.get("/health/ready", response_model=Health, responses={503: ASKED[503]})
async def is_ready(request: Request) -> Response:
    """A bundle is open."""
    return as_json({"status": "ready"}, headers=_header(_open(request)))


@router.get(
    "/metrics",
    response_class=Response,
    responses=NO_TOKEN | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """Counters for Prometheus, merged over the workers."""
    return Response(_service(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    service = _service(request)
    return Response(service.page, media_type="text/html", headers=service.page_headers)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _open(request: Request) -> Recommender:
    """The live Recommender; a request asks for it once. Refuses query parameters that mean nothing here."""
    if request.scope["query_string"]:
        known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
        for name in request.query_params:
            if name not in known:
                allowed = ", ".join(sorted(known)) or "none here"
                raise HTTPException(422, f"query parameter {name!r} is unknown, allowed: {allowed}")
    live = _service(request).live
    if live.recommender is None:
        raise HTTPException(503, f"no bundle is open: {live.refusal}")
    return live.recommender


def _filter(shop: Recommender, where: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
    for name in where or {}:
        if name not in shop.attributes:
            allowed = ", ".join(shop.attributes) or "none in this bundle"
            raise HTTPException(
                422, f"where: attribute {name!r} is unknown, allowed: {allowed}", _header(shop)
            )
    return where


def _known(
    shop: Recommender, ids_as_text: bool, ask: Callable[[], list[Recommendation]]
) -> list[dict[str, Any]]:
    try:
        return _listed(ask(), ids_as_text)
    except UnknownId as error:
        raise HTTPException(404, str(error), _header(shop)) from None


def _listed(items: Sequence[Recommendation], ids_as_text: bool) -> list[dict[str, Any]]:
    return [
        {"item_id": _id(item_id, ids_as_text), "title": title, "score": score}
        for item_id, title, score in items
    ]


def _id(external: Id, ids_as_text: bool) -> Id:
    return str(external) if ids_as_text else external


def _header(shop: Recommender) -> dict[str, str]:
    return {"x-recsys-version": quote(shop.version)}


def _answer(shop: Recommender, **content: Any) -> Response:
    return as_json({"version": shop.version} | content, headers=_header(shop))


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")
