"""What the search of a bundle was measured to give, as its manifest has it."""

from typing import Any, NamedTuple

MEASURED_K = 20


class Point(NamedTuple):
    """One way to search and what it gives; trees and search_k None: a scan."""

    trees: int | None
    search_k: int | None
    recall: float  # share of the exact top MEASURED_K, what the user has left out
    p50_ms: float
    p99_ms: float
    bytes: int  # of the index

    def words(self) -> str:
        how = f"{self.trees} trees, search_k {self.search_k:,}" if self.search_k else "scan"
        return (
            f"{how}: recall@{MEASURED_K} {self.recall:.4f}, {self.p50_ms:.3f} ms (p99 {self.p99_ms:.3f}), "
            f"{self.bytes / 2**20:.1f} MiB"
        )


def searched(manifest: dict[str, Any]) -> tuple[int | None, int | None]:
    """Trees and search_k that a bundle is searched with, None and None for a scan."""
    search_k = manifest["search_k"]
    return (None, None) if search_k is None else (manifest["trees"], search_k)


def point_of(manifest: dict[str, Any]) -> Point | None:
    """What the bundle's search was measured to give; bundles of before measured nothing."""
    for point in manifest.get("measured", {}).get("curve", ()):
        known = {name: point[name] for name in Point._fields if name in point}
        if len(known) == len(Point._fields) and (known["trees"], known["search_k"]) == searched(manifest):
            return Point(**known)
    return None


def search_words(manifest: dict[str, Any]) -> str:
    """How a bundle is searched and what that was measured to give."""
    trees, search_k = searched(manifest)
    point = point_of(manifest)
    if point is not None:
        return point.words()
    return "scan" if search_k is None else f"{trees} trees, search_k {search_k:,}"
