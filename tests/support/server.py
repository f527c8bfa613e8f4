"""Bundles to serve, `recsys serve` in its own process, and a plain HTTP client."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paths import ROOT

from recsys.bundle import BundleContent, IndexPlan, write_bundle
from recsys.releases import publish

TIMEOUT = 120  # seconds, enough for a slow machine
COLOURS = ("red", "green", "blue")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
        """One request on its own connection; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            return send(connection, path, body, method, **headers)
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            return self.ask("/health/ready").status == 200
        except OSError:  # with several workers the address is logged before the first one listens
            return False

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        lines = self.ask("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}(\{{| )", line))


def send(
    connection: http.client.HTTPConnection,
    path: str,
    body: Any = None,
    method: str | None = None,
    **headers: str,
) -> Answer:
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        headers = {"Content-Type": "application/json"} | headers
    connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
    response = connection.getresponse()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def write_version(
    bundles: Path, version: str, seed: int = 0, text: bool = False, title: str | None = "", above: int = 0
) -> Path:
    """Write a bundle of random vectors by seed. Ids are text, or integers > above."""
    rng = np.random.default_rng(seed)
    n_users, n_items, dim = 40, 60, 6
    seen = [np.sort(rng.permutation(n_items)[: 1 + user % 5]) for user in range(n_users)]
    names = [f"item/{n:03d} ü" for n in range(n_items)]
    write_bundle(
        bundles / version,
        BundleContent(
            user_vectors=rng.normal(size=(n_users, dim)).astype(np.float32),
            item_vectors=rng.normal(size=(n_items, dim)).astype(np.float32),
            user_ids=[f"user {n:02d}" for n in range(n_users)]
            if text
            else above + np.arange(100, 100 + n_users),
            item_ids=names if text else above + np.arange(1000, 1000 + n_items),
            seen=(
                np.concatenate([[0], np.cumsum([len(s) for s in seen])]),
                np.concatenate(seen).astype(np.int32),
            ),
            popular=rng.permutation(n_items).astype(np.int32),
            titles=None
            if title is None
            else [title or f"{COLOURS[n % 3].title()} thing no. {n}" for n in range(n_items)],
            attributes={"colour": [[COLOURS[n % 3]] for n in range(n_items)]},
            fold_in=rng.normal(size=(dim + 1, dim)).astype(np.float32),
        ),
        IndexPlan(8, 400, measured=measured()),
        info={},
    )
    return bundles / version


def measured() -> dict[str, Any]:
    """A measured curve as export writes it."""
    curve = [
        {
            "trees": trees,
            "search_k": search_k,
            "recall": round(1 - 3 / (trees * search_k) ** 0.5, 4),
            "p50_ms": round(0.01 + 0.0004 * search_k * trees**0.25, 3),
            "p99_ms": round(0.02 + 0.0007 * search_k * trees**0.25, 3),
            "bytes": 4000 * trees,
        }
        for trees in (8, 16)
        for search_k in (100, 200, 400, 800)
    ]
    return {"k": 20, "target": 0.95, "path": "index", "curve": curve}


def publish_bundle(folder: Path, **options: Any) -> Path:
    """Write and publish the bundle v1; the folder."""
    write_version(folder, "v1", **options)
    publish(folder, "v1")
    return folder


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pipelines", "serve", *map(str, arguments)]


@contextmanager
def serving(bundles: Path, *arguments: str, ready: bool = True, **environment: str) -> Iterator[Server]:
    """`recsys serve` on a free port during the block; it must end cleanly on SIGTERM."""
    log = bundles / ".log"
    settings = {"RECSYS_POLL_SECONDS": "0.02", "OMP_NUM_THREADS": "1"} | environment
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("--bundles", bundles, "--port", "0", *arguments),
            env={k: v for k, v in os.environ.items() if not k.startswith("RECSYS_")} | settings,
            stdout=output,
            stderr=output,
            cwd=ROOT,
        )
    try:
        wait_until(lambda: process.poll() is not None or "running on http" in log.read_text())
        found = re.search(r"running on http://[\w.]+:(\d+)", log.read_text())
        assert found, log.read_text()
        server = Server(process, int(found[1]), log)
        if ready:
            wait_until(server.is_ready)
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds; fail after TIMEOUT."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)
