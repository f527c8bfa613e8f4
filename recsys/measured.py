"""Measured recall and latency of a bundle's search, read from its manifest."""

from typing import Any, NamedTuple

MEASURED_K = 20


class Point(NamedTuple):
    """One way to search and what it gives; trees and search_k None: a scan."""

    trees: int | None
    search_k: int | None
    recall: float  # share of the exact top MEASURED_K, without seen items
    p50_ms: float
    p99_ms: float
    bytes: int  # of the index

    def describe(self) -> str:
        how = f"{self.trees} trees, search_k {self.search_k:,}" if self.search_k else "scan"
        return (
            f"{how}: recall@{MEASURED_K} {self.recall:.4f}, {self.p50_ms:.3f} ms (p99 {self.p99_ms:.3f}), "
            f"{self.bytes / 2**20:.1f} MiB"
        )


def search_settings(manifest: dict[str, Any]) -> tuple[int | None, int | None]:
    """Trees and search_k that a bundle is searched with, None and None for a scan."""
    search_k = manifest["search_k"]
    return (None, None) if search_k is None else (manifest["trees"], search_k)


def measured_point(manifest: dict[str, Any]) -> Point | None:
    """Measured recall and latency of the bundle's own search; None in bundles that measured nothing."""
    chosen = search_settings(manifest)
    for point in manifest.get("measured", {}).get("curve", ()):
        known = {name: point[name] for name in Point._fields if name in point}
        if len(known) == len(Point._fields) and (known["trees"], known["search_k"]) == chosen:
            return Point(**known)
    return None


def describe_search(manifest: dict[str, Any]) -> str:
    """How a bundle is searched, with its measured recall and latency if known."""
    trees, search_k = search_settings(manifest)
    point = measured_point(manifest)
    if point is not None:
        return point.describe()
    return "scan" if search_k is None else f"{trees} trees, search_k {search_k:,}"
