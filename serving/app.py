"""Recommendations over HTTP: `serving.app:app` on any ASGI server, set up by environment variables.

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

from serving.admission import PUBLIC, Gate, Service
from serving.counters import Metrics
from serving.live import Live
from serving.routes import as_json, router


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=__doc__)
        token = {"type": "http", "scheme": "bearer", "description": "needed where RECSYS_TOKEN is set"}
        document.setdefault("components", {})["securitySchemes"] = {"token": token}
        for path, operations in document["paths"].items():
            for operation in operations.values() if path not in PUBLIC else ():
                operation["security"] = [{"token": []}]
        app.openapi_schema = document
    return app.openapi_schema


def create_app(
    bundles: Path | None = None, token: str | None = None, poll_seconds: float | None = None
) -> FastAPI:
    """The application; what is None is read from the environment when the server starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = _start(bundles, token, poll_seconds)
        app.state.service = service
        await run_in_threadpool(service.live.start)
        try:
            yield
        finally:
            await run_in_threadpool(service.live.stop)

    app = FastAPI(title="recsys", version="1", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.include_router(router)
    app.add_route("/openapi.json", _contract)
    app.add_middleware(Gate)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(Exception, _failed)
    return app


def _start(bundles: Path | None, token: str | None, poll_seconds: float | None) -> Service:
    """Raises ValueError on an environment that cannot be served from."""
    folder = bundles or os.path.expanduser(os.environ.get("RECSYS_BUNDLES", ""))  # ~ is left by systemd
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
    counted = Metrics()
    live = Live(Path(folder), seconds, counted.opened, counted.refused.inc)
    page, headers = _page()
    return Service(live, counted, (secret or "").strip().encode(), page, headers)


def _page() -> tuple[bytes, dict[str, str]]:
    """The page, and a policy that lets nothing run or load but what is in it."""
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


async def _contract(request: Request) -> Response:
    return as_json(openapi(request.app))


async def _problem(request: Request, error: Exception) -> Response:
    """A refusal as {"detail": what is wrong}."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's answer to JSON that Python's parser cannot hold
        reason = "body: JSON that cannot be read: too deep, too long a number, or not UTF-8"
        return as_json({"detail": _wrong_header(request) or reason}, 422)
    if error.status_code == 405:
        return _not_this_method(request, error)
    return as_json({"detail": error.detail}, error.status_code, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    """Every rule that was broken, by the name of the field; of many the first five."""
    assert isinstance(error, RequestValidationError)
    wrong = _wrong_header(request) if error.body else None
    if wrong is not None:
        return as_json({"detail": wrong}, 422)
    rules = [_rule(found) for found in error.errors()]
    more = [f"and {len(rules) - 5} more"] if len(rules) > 5 else []
    return as_json({"detail": "; ".join(rules[:5] + more)}, 422)


def _wrong_header(request: Request) -> str | None:
    """The header for which a body that was sent could not be read as JSON, None if that is not the reason."""
    if request.method in ("GET", "HEAD"):
        return None
    coding, kind = request.headers.get("content-encoding"), request.headers.get("content-type", "")
    if coding is not None and coding.strip().lower() != "identity":
        return f"the header 'Content-Encoding: {coding}' is not understood here: send the body as it is"
    media = kind.partition(";")[0].strip().lower()
    if media == "application/json" or (media.startswith("application/") and media.endswith("+json")):
        return None
    what = f"is 'Content-Type: {kind}'" if kind else "Content-Type is missing"
    return f"the header {what}, expected 'Content-Type: application/json' for the body to be read"


def _not_this_method(request: Request, error: HTTPException) -> Response:
    """What the path may be asked with: the answer to OPTIONS, and else beside the refusal."""
    held = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow") or ""
    methods = {method.strip() for method in held.split(",")} - {""} | {"OPTIONS"}
    allowed = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"allow": allowed})
    detail = f"method {request.method} is not for this path, allowed: {allowed}"
    return as_json({"detail": detail}, 405, {"allow": allowed})


def _rule(found: dict[str, Any]) -> str:
    place, *names = found["loc"]
    if found["type"] == "json_invalid":
        return f"body: not JSON ({found['ctx']['error']} at character {names[0]})"
    name = ".".join(str(part) for part in names) or place
    value = found.get("input")
    given = f" = {value!r}" if isinstance(value, int | float | str) and len(repr(value)) <= 80 else ""
    return f"{name}{given}: {found['msg']}"


async def _failed(request: Request, error: Exception) -> Response:
    return as_json({"detail": "an error on our side; its trace is in the server's log"}, 500)


app = create_app()
