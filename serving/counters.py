"""Counters of a server for Prometheus, merged over its workers if PROMETHEUS_MULTIPROC_DIR is set.

prometheus_client chooses between memory and that folder when it is first imported.
"""

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SHARED = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Counters:
    """The counters of one process and their text form."""

    def __init__(self) -> None:
        self.folder = os.environ.get(SHARED)
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "recsys_http_requests", "Requests answered", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "recsys_http_request_seconds",
            "From the request's headers to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.swaps = Counter(
            "recsys_bundle_swaps", "Bundles that replaced another, per worker", registry=self.registry
        )
        self.refused = Counter(
            "recsys_bundles_refused",
            "Bundles in `current` that could not be served, per worker",
            registry=self.registry,
        )
        self.workers = Gauge(
            "recsys_bundle_info",
            "Workers that serve this version",
            ("version",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._version: str | None = None

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request and its duration."""
        self.requests.labels(route, method if method in METHODS else "other", str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def set_version(self, version: str) -> None:
        """Record the version that is served from now on; a swap, unless it is the first."""
        if self._version is not None:
            self.swaps.inc()
            if self.folder:
                self.workers.labels(self._version).set(0)
            else:
                self.workers.remove(self._version)
        self._version = version
        self.workers.labels(version).set(1)

    def text(self) -> bytes:
        """All counters in Prometheus' text format, without the gauges of workers that have ended."""
        if not self.folder:
            return generate_latest(self.registry)
        remove_dead_workers(self.folder)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self.folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def remove_dead_workers(folder: str) -> None:
    """Remove the gauges of processes that have ended; their counters stay."""
    for path in Path(folder).glob("gauge_live*.db"):
        process = re.fullmatch(r"gauge_live\w*_(\d+)\.db", path.name)
        if process and not _is_running(int(process[1])):
            mark_process_dead(int(process[1]), folder)  # type: ignore[no-untyped-call]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True
