"""Admission of requests: each is counted, its token checked, its body limited in size.

Plain ASGI middleware; it waits for nothing except the body.
"""

import hmac
import json
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.contract import MAX_BYTES
from serving.counters import Counters
from serving.live import Live

PUBLIC = {"/", "/health", "/health/live", "/health/ready", "/openapi.json"}  # all others need the token
TOO_LARGE = f"the body is larger than {MAX_BYTES} bytes, which is the limit"
UNAUTHORIZED = "the header 'Authorization: Bearer TOKEN' with the token of this server is required"
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
ADDRESS = re.compile(r"\A(?:\*\Z|https?://[^/]*)", re.IGNORECASE)  # may come before a path
CLIENT_LEFT = 499  # counted if the client leaves before its body is complete


def to_json(content: Any) -> bytes:
    """Compact UTF-8; half a surrogate pair, which has no UTF-8 form, becomes a question mark."""
    return ENCODER.encode(content).encode("utf-8", "replace")


@dataclass(frozen=True)
class Service:
    """State of one server process, in app.state.service."""

    live: Live
    counters: Counters
    token: bytes  # empty: none is required
    page: bytes
    page_headers: dict[str, str]


class Admission:
    """The middleware; token and counters are those of scope["app"].state.service."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return None
        started, status = time.perf_counter(), 500
        service, head = scope["app"].state.service, scope["method"] == "HEAD"
        scope = {**scope, "path": _normal_path(scope["path"])}

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            if service.token and scope["path"] not in PUBLIC and not _has_token(scope, service.token):
                return await _refuse(send_and_note, 401, UNAUTHORIZED)
            if scope["method"] not in ("GET", "HEAD"):
                body = await _read_body(scope, receive)
                if body is None:
                    return await _refuse(send_and_note, 422, TOO_LARGE)
                if body["type"] == "http.disconnect":
                    status = CLIENT_LEFT
                    return None
                receive = _replay(body, receive)
            if head:  # answered as GET, without the body
                scope["method"] = "GET"
            return await self.app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path_format", "unmatched")
            method = "HEAD" if head else scope["method"]
            service.counters.count_request(route, method, status, time.perf_counter() - started)


def _normal_path(path: str) -> str:
    """The path with one leading slash and no trailing one.

    Load balancers may also send the whole address, or * for the server itself. Slashes inside stay, as ids
    may contain them.
    """
    return "/" + ADDRESS.sub("", path).strip("/")


def _has_token(scope: Scope, token: bytes) -> bool:
    """Whether the request has the token; compared in constant time."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)
    return False


async def _read_body(scope: Scope, receive: Receive) -> Message | None:
    """The whole body as one message, or the disconnect; None if it is larger than allowed."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > MAX_BYTES:
            return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message
        body += message.get("body", b"")
        if len(body) > MAX_BYTES:
            return None
        if not message.get("more_body"):
            return {"type": "http.request", "body": bytes(body), "more_body": False}


def _replay(body: Message, receive: Receive) -> Receive:
    """A `receive` that returns the body that was already read, then what follows."""
    left = iter([body])

    async def receive_again() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return receive_again


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = to_json({"detail": detail})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
