"""The HTTP endpoints.

Short requests are answered on the event loop, as moving them to a thread costs more than most of them take;
batches run in a thread. Answers are written directly as JSON; the models are for the OpenAPI document.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import PathConvertor, register_url_convertor

from serving.admission import Service, to_json
from serving.arguments import Id
from serving.contract import (
    MAX_ID_LENGTH,
    MAX_ITEMS,
    BatchAnswer,
    BatchRequest,
    Explanation,
    Health,
    History,
    Problem,
    Recommendations,
    SimilarItems,
    Users,
    Version,
)
from serving.recommender import Recommendation, Recommender, UnknownId


class IdConvertor(PathConvertor):
    """Any text, including slashes and line breaks."""

    regex = r"[\s\S]*"


register_url_convertor("id", IdConvertor())

PathId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]
QueryId = Annotated[str, Query(min_length=1, max_length=MAX_ID_LENGTH)]
Count = Annotated[int, Query(ge=1, le=MAX_ITEMS)]
AsText = Annotated[
    bool,
    Query(
        description="write every id of the answer as text: programs that read JSON numbers as floats, like "
        "browsers, round integers beyond 2^53"
    ),
]

NO_TOKEN: dict[int | str, dict[str, Any]] = {401: {"model": Problem, "description": "missing or wrong token"}}
QUERY_ERRORS = NO_TOKEN | {
    422: {"model": Problem, "description": "outside the limits or of another type; names the broken rule"},
    503: {"model": Problem, "description": "no bundle is open yet"},
}
ID_ERRORS = QUERY_ERRORS | {404: {"model": Problem, "description": "the id is unknown"}}

router = APIRouter()


@router.get("/v1/users/{user_id:id}/recommendations", response_model=Recommendations, responses=QUERY_ERRORS)
async def user_recommendations(
    request: Request, user_id: PathId, k: Count = 10, exclude_seen: bool = True, ids_as_text: AsText = False
) -> Response:
    """The k best items for a user; popular items if the user is unknown."""
    recommender = _recommender(request)
    user = recommender.user_id(user_id)
    items = _as_json_items(recommender.recommend(user, k, exclude_seen), ids_as_text)
    return _answer(recommender, user_id=_id(user, ids_as_text), basis=recommender.basis(user), items=items)


@router.post("/v1/recommendations", response_model=BatchAnswer, responses=QUERY_ERRORS)
def recommendations(request: Request, batch: BatchRequest, ids_as_text: AsText = False) -> Response:
    """The k best items for each user and history of a batch, under common filters."""
    recommender = _recommender(request)
    _check_filter(recommender, batch.where)
    filters: dict[str, Any] = {
        "exclude": [recommender.item_id(item) for item in batch.exclude],
        "allow": None if batch.allow is None else [recommender.item_id(item) for item in batch.allow],
        "where": batch.where,
    }
    users = [None if entry.user_id is None else recommender.user_id(entry.user_id) for entry in batch.users]
    histories = [
        [recommender.item_id(item) for item in entry.history] if entry.history else None
        for entry in batch.users
    ]
    found = recommender.recommend_many(users, batch.k, batch.exclude_seen, histories=histories, **filters)
    results = [
        {"basis": recommender.basis(user, history), "items": _as_json_items(items, ids_as_text)}
        for user, history, items in zip(users, histories, found, strict=True)
    ]
    return _answer(recommender, results=results)


@router.get("/v1/items/{item_id:id}/similar", response_model=SimilarItems, responses=ID_ERRORS)
async def similar_items(
    request: Request, item_id: PathId, k: Count = 10, ids_as_text: AsText = False
) -> Response:
    """The k items nearest to an item."""
    recommender = _recommender(request)
    item = recommender.item_id(item_id)
    items = _find_or_404(recommender, ids_as_text, lambda: recommender.similar_items(item, k))
    return _answer(recommender, item_id=_id(item, ids_as_text), items=items)


@router.get("/v1/explanations", response_model=Explanation, responses=ID_ERRORS)
async def explanations(
    request: Request, user_id: QueryId, item_id: QueryId, k: Count = 5, ids_as_text: AsText = False
) -> Response:
    """Why an item is recommended: the k of the user's own items that are nearest to it."""
    recommender = _recommender(request)
    user, item = recommender.user_id(user_id), recommender.item_id(item_id)
    items = _find_or_404(recommender, ids_as_text, lambda: recommender.explain(user, item, k))
    ids = {"user_id": _id(user, ids_as_text), "item_id": _id(item, ids_as_text)}
    return _answer(recommender, **ids, items=items)


@router.get("/v1/users", response_model=Users, responses=QUERY_ERRORS)
async def users(request: Request, limit: Count = 20, ids_as_text: AsText = False) -> Response:
    """Example user ids, spread evenly over all."""
    recommender = _recommender(request)
    some = [_id(user, ids_as_text) for user in recommender.some_users(limit)]
    return _answer(recommender, n_users=recommender.n_users, users=some)


@router.get("/v1/users/{user_id:id}/history", response_model=History, responses=ID_ERRORS)
async def history(
    request: Request, user_id: PathId, limit: Count = MAX_ITEMS, ids_as_text: AsText = False
) -> Response:
    """Up to `limit` of the user's `n_items` items."""
    recommender = _recommender(request)
    user = recommender.user_id(user_id)
    items = _find_or_404(recommender, ids_as_text, lambda: recommender.history(user, limit))
    n_items = recommender.history_length(user)
    return _answer(recommender, user_id=_id(user, ids_as_text), n_items=n_items, items=items)


@router.get("/version", response_model=Version, responses=NO_TOKEN | {503: QUERY_ERRORS[503]})
async def version(request: Request) -> Response:
    """The bundle that is served, its size, and the recall and latency of its index."""
    recommender = _recommender(request)
    manifest = recommender.manifest
    return _answer(
        recommender,
        format_version=manifest["format_version"],
        created_at=manifest.get("created_at"),
        n_users=recommender.n_users,
        n_items=recommender.n_items,
        dim=manifest["dim"],
        trees=manifest.get("trees"),
        search_k=manifest.get("search_k"),
        attributes=list(recommender.attributes),
        has_integer_users=recommender.has_integer_users,
        has_integer_items=recommender.has_integer_items,
        measured=manifest.get("measured"),
    )


@router.get("/health/live", response_model=Health)
async def is_live() -> Response:
    """The process is running."""
    return as_json({"status": "live"})


@router.get("/health", response_model=Health, responses={503: QUERY_ERRORS[503]})
@router.get("/health/ready", response_model=Health, responses={503: QUERY_ERRORS[503]})
async def is_ready(request: Request) -> Response:
    """A bundle is open."""
    return as_json({"status": "ready"}, headers=_version_header(_recommender(request)))


@router.get(
    "/metrics",
    response_class=Response,
    responses=NO_TOKEN | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format, merged over the workers."""
    return Response(_service(request).counters.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    service = _service(request)
    return Response(service.page, media_type="text/html", headers=service.page_headers)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _recommender(request: Request) -> Recommender:
    """The live Recommender, read once per request. Raises HTTPException on unknown query parameters."""
    if request.scope["query_string"]:
        known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
        for name in request.query_params:
            if name not in known:
                allowed = ", ".join(sorted(known)) or "none for this path"
                raise HTTPException(422, f"query parameter {name!r} is unknown, allowed: {allowed}")
    live = _service(request).live
    if live.recommender is None:
        raise HTTPException(503, f"no bundle is open: {live.refusal}")
    return live.recommender


def _check_filter(recommender: Recommender, where: dict[str, list[str]] | None) -> None:
    """Raises HTTPException on an unknown attribute."""
    for name in where or {}:
        if name not in recommender.attributes:
            allowed = ", ".join(recommender.attributes) or "none in this bundle"
            raise HTTPException(
                422, f"where: attribute {name!r} is unknown, allowed: {allowed}", _version_header(recommender)
            )


def _find_or_404(
    recommender: Recommender, ids_as_text: bool, find: Callable[[], list[Recommendation]]
) -> list[dict[str, Any]]:
    """The found items as JSON; 404 on an unknown id."""
    try:
        return _as_json_items(find(), ids_as_text)
    except UnknownId as error:
        raise HTTPException(404, str(error), _version_header(recommender)) from None


def _as_json_items(items: Sequence[Recommendation], ids_as_text: bool) -> list[dict[str, Any]]:
    return [
        {"item_id": _id(item_id, ids_as_text), "title": title, "score": score, "is_new": is_new}
        for item_id, title, score, is_new in items
    ]


def _id(external: Id, ids_as_text: bool) -> Id:
    return str(external) if ids_as_text else external


def _version_header(recommender: Recommender) -> dict[str, str]:
    return {"x-recsys-version": quote(recommender.version)}


def _answer(recommender: Recommender, **content: Any) -> Response:
    return as_json({"version": recommender.version} | content, headers=_version_header(recommender))


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")
