"""Recommendations over HTTP: `serving.app:app` on any ASGI server, configured by environment variables.

RECSYS_BUNDLES (a folder with the link `current`), RECSYS_TOKEN and RECSYS_POLL_SECONDS are read when the
server starts.
"""

import base64
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from serving.admission import PUBLIC, Admission, Service
from serving.counters import Counters
from serving.live import Live
from serving.routes import as_json, router


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=__doc__)
        token = {"type": "http", "scheme": "bearer", "description": "required if RECSYS_TOKEN is set"}
        document.setdefault("components", {})["securitySchemes"] = {"token": token}
        for path, operations in document["paths"].items():
            for operation in operations.values() if path not in PUBLIC else ():
                operation["security"] = [{"token": []}]
        app.openapi_schema = document
    return app.openapi_schema


def create_app(
    bundles: Path | None = None, token: str | None = None, poll_seconds: float | None = None
) -> FastAPI:
    """The application; arguments that are None are read from the environment when the server starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = _create_service(bundles, token, poll_seconds)
        app.state.service = service
        await run_in_threadpool(service.live.start)
        try:
            yield
        finally:
            await run_in_threadpool(service.live.stop)

    app = FastAPI(title="recsys", version="1", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.include_router(router)
    app.add_route("/openapi.json", _document)
    app.add_middleware(Admission)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _server_error)
    return app


def _create_service(bundles: Path | None, token: str | None, poll_seconds: float | None) -> Service:
    """The service, not started yet. Raises ValueError on missing or wrong settings."""
    folder = bundles or os.path.expanduser(os.environ.get("RECSYS_BUNDLES", ""))  # systemd does not expand ~
    if not folder:
        raise ValueError("RECSYS_BUNDLES is not set: expected a folder of bundles with the link 'current'")
    secret = os.environ.get("RECSYS_TOKEN") if token is None else token
    if secret is not None and not secret.strip():
        raise ValueError("RECSYS_TOKEN is set but empty: give it a value, or unset it to serve without")
    seconds = os.environ.get("RECSYS_POLL_SECONDS", "1") if poll_seconds is None else poll_seconds
    try:
        seconds = float(seconds)
    except ValueError:
        raise ValueError(f"RECSYS_POLL_SECONDS = {seconds!r}, allowed is a number > 0") from None
    counters = Counters()
    live = Live(Path(folder), seconds, counters.set_version, counters.refused.inc)
    page, headers = _read_page()
    return Service(live, counters, (secret or "").strip().encode(), page, headers)


def _read_page() -> tuple[bytes, dict[str, str]]:
    """The page, and headers with a policy that allows only its own script and style."""
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    sources = {}
    for tag in ("script", "style"):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = hashlib.sha256(inside[1].encode() if inside else b"").digest()
        sources[tag] = f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'"
    policy = (
        f"default-src 'none'; {sources['script']}; {sources['style']}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


async def _document(request: Request) -> Response:
    return as_json(openapi(request.app))


async def _http_error(request: Request, error: Exception) -> Response:
    """An HTTP error as {"detail": what is wrong}."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's answer to JSON that Python's parser fails on
        reason = "body: JSON that cannot be read: nested too deep, a number too long, or not UTF-8"
        return as_json({"detail": _wrong_header(request) or reason}, 422)
    if error.status_code == 405:
        return _method_not_allowed(request, error)
    return as_json({"detail": error.detail}, error.status_code, dict(error.headers or {}))


async def _validation_error(request: Request, error: Exception) -> Response:
    """The first five broken rules, each with the name of the field."""
    assert isinstance(error, RequestValidationError)
    wrong = _wrong_header(request) if error.body else None
    if wrong is not None:
        return as_json({"detail": wrong}, 422)
    rules = [_rule(found) for found in error.errors()]
    more = [f"and {len(rules) - 5} more"] if len(rules) > 5 else []
    return as_json({"detail": "; ".join(rules[:5] + more)}, 422)


def _wrong_header(request: Request) -> str | None:
    """The header that prevents reading the body as JSON; None if no header does."""
    if request.method in ("GET", "HEAD"):
        return None
    coding, kind = request.headers.get("content-encoding"), request.headers.get("content-type", "")
    if coding is not None and coding.strip().lower() != "identity":
        return f"the header 'Content-Encoding: {coding}' is not supported: send the body uncompressed"
    media = kind.partition(";")[0].strip().lower()
    if media == "application/json" or (media.startswith("application/") and media.endswith("+json")):
        return None
    found = f"is 'Content-Type: {kind}'" if kind else "Content-Type is missing"
    return f"the header {found}, expected 'Content-Type: application/json'"


def _method_not_allowed(request: Request, error: HTTPException) -> Response:
    """The methods of the path: all of the answer to OPTIONS, added to the error for other methods."""
    header = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow") or ""
    methods = {method.strip() for method in header.split(",")} - {""} | {"OPTIONS"}
    allowed = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"allow": allowed})
    detail = f"method {request.method} is not allowed for this path, allowed: {allowed}"
    return as_json({"detail": detail}, 405, {"allow": allowed})


def _rule(found: dict[str, Any]) -> str:
    place, *names = found["loc"]
    if found["type"] == "json_invalid":
        return f"body: not JSON ({found['ctx']['error']} at character {names[0]})"
    name = ".".join(str(part) for part in names) or place
    value = found.get("input")
    given = f" = {value!r}" if isinstance(value, int | float | str) and len(repr(value)) <= 80 else ""
    return f"{name}{given}: {found['msg']}"


async def _server_error(request: Request, error: Exception) -> Response:
    return as_json({"detail": "an error of the server; its traceback is in the server's log"}, 500)


app = create_app()
