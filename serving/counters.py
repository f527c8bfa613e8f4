"""What a server counts, for Prometheus; merged over its workers where PROMETHEUS_MULTIPROC_DIR is set.

prometheus_client decides between memory and that folder when it is first imported.
"""

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SHARED = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """The counters of one process and their text form."""

    def __init__(self) -> None:
        self.folder = os.environ.get(SHARED)
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "recsys_http_requests",
            "Requests answered",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "recsys_http_request_seconds",
            "From the request's head to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.swaps = Counter(
            "recsys_bundle_swaps", "Bundles that replaced another, by each worker", registry=self.registry
        )
        self.refused = Counter(
            "recsys_bundles_refused",
            "Times that `current` was not what can be served, by each worker",
            registry=self.registry,
        )
        self.live = Gauge(
            "recsys_bundle_info",
            "Workers that answer from this version",
            ("version",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._version: str | None = None

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        self.requests.labels(route, method if method in METHODS else "other", str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def opened(self, version: str) -> None:
        """Another version answers from now on; the first one is no swap."""
        if self._version is not None:
            self.swaps.inc()
            if self.folder:
                self.live.labels(self._version).set(0)
            else:
                self.live.remove(self._version)
        self._version = version
        self.live.labels(version).set(1)

    def text(self) -> bytes:
        """All of it in Prometheus' text format; gauges of workers that have ended are left out."""
        if not self.folder:
            return generate_latest(self.registry)
        forget_dead(self.folder)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self.folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def forget_dead(folder: str) -> None:
    """Drop the gauges of processes that run no more; what they counted stays."""
    for path in Path(folder).glob("gauge_live*.db"):
        process = re.fullmatch(r"gauge_live\w*_(\d+)\.db", path.name)
        if process and not _runs(int(process[1])):
            mark_process_dead(int(process[1]), folder)  # type: ignore[no-untyped-call]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
