"""What every request passes: it is counted, its token compared, its body held to the limit.

Plain ASGI, around the application: nothing here waits but for the body.
"""

import hmac
import json
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.contract import MOST_BYTES
from serving.counters import Metrics
from serving.live import Live

PUBLIC = {
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/openapi.json",
}  # all else needs the token, if there is one
TOO_LARGE = f"the body is larger than {MOST_BYTES} bytes, which is the limit"
UNAUTHORIZED = "this needs the header 'Authorization: Bearer TOKEN' with the token of this server"
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
ADDRESS = re.compile(r"\A(?:\*\Z|https?://[^/]*)", re.IGNORECASE)  # in place of a path
GONE = 499  # counted where the client left before its body was there


def to_json(content: Any) -> bytes:
    """Compact UTF-8; what has no UTF-8 form (half a surrogate pair) becomes a question mark."""
    return ENCODER.encode(content).encode("utf-8", "replace")


@dataclass(frozen=True)
class Service:
    """What one server process holds, in app.state.service."""

    live: Live
    metrics: Metrics
    token: bytes  # empty: none is asked for
    page: bytes
    page_headers: dict[str, str]


class Gate:
    """The middleware; the token and the metrics are those of scope["app"].state.service."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return None
        started, status = time.perf_counter(), 500
        service, head = scope["app"].state.service, scope["method"] == "HEAD"
        scope = {**scope, "path": _path(scope["path"])}

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            if service.token and scope["path"] not in PUBLIC and not _may_pass(scope, service.token):
                return await _refuse(noted, 401, UNAUTHORIZED)
            if scope["method"] not in ("GET", "HEAD"):
                body = await _body(scope, receive)
                if body is None:
                    return await _refuse(noted, 422, TOO_LARGE)
                if body["type"] == "http.disconnect":
                    status = GONE
                    return None
                receive = _replayed(body, receive)
            if head:  # what GET would be answered, without its body
                scope["method"] = "GET"
            return await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path_format", "unmatched")
            method = "HEAD" if head else scope["method"]
            service.metrics.answered(route, method, status, time.perf_counter() - started)


def _path(path: str) -> str:
    """The path as the routes have it: one slash before and none behind, whatever a load balancer writes.

    The whole address may stand there, or * for the server itself. What is between the outer slashes, as an
    id is, stays as it came.
    """
    return "/" + ADDRESS.sub("", path).strip("/")


def _may_pass(scope: Scope, token: bytes) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)
    return False


async def _body(scope: Scope, receive: Receive) -> Message | None:
    """The whole body as one message, or the client's leaving; None where it is larger than allowed."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > MOST_BYTES:
            return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return {"type": "http.request", "body": bytes(body), "more_body": False}


def _replayed(body: Message, receive: Receive) -> Receive:
    left = iter([body])

    async def replay() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return replay


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = to_json({"detail": detail})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
