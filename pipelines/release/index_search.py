"""Choose how a release is searched: measure trees and search_k until enough of the exact top is found.

Axes: S measured users, I items, D coordinates, K ranks.
"""

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.config.errors import InputError
from pipelines.config.release import Export
from recsys.bundle import IndexPlan
from recsys.index import NOTHING, ItemIndex, Search, exact_top_k
from recsys.measured import MEASURED_K, Point
from recsys.progress import progress
from recsys.releases import lock_bundle

LOGGER = logging.getLogger("recsys")

MEASURED_USERS = 300
TIMED_SCANS = 60  # a scan takes the same time for every user
BATCH = 100  # users of the batch that is timed
AS_FAST = 1.1  # up to this many times slower counts as no slower
FIRST_SEARCH_K = 256

Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]  # users (U, D) and items (I, D)
Histories = tuple[NDArray[np.int64], NDArray[np.int32]]  # offsets (U + 1,) and items


class Queries(NamedTuple):
    """The measured users, what is hidden from each, and their exact nearest items."""

    vectors: NDArray[np.float32]  # (S, D)
    hidden: list[NDArray[np.int32]]  # S arrays of items
    exact: NDArray[np.int32]  # (S, K), -1 where a list ends

    def histories(self, n: int) -> Histories:
        """Hidden items of the first n users, flat."""
        offsets = np.concatenate([[0], np.cumsum([len(items) for items in self.hidden[:n]])])
        return offsets.astype(np.int64), np.concatenate([NOTHING, *self.hidden[:n]])


def tune_index(
    settings: Export, vectors: Vectors, seen: Histories, held_out: NDArray[np.int64], seed: int, scratch: Path
) -> IndexPlan:
    """Find the fastest search that finds settings.recall of the exact top 20 of held-out users.

    Measured are up to 300 of the users `held_out`, without the items they have in `seen`. For each number of
    trees, search_k doubles until enough is found, within the limits on index size, build time and
    milliseconds. A scan finds everything and is chosen where it is as fast; whether to scan batches is
    measured separately. Indexes are saved in `scratch` during the search, so that one at a time is in memory.
    Raises InputError, naming the best measurement, if no search is good enough.
    """
    items = vectors[1]
    queries = _sample_queries(vectors, seen, held_out)
    with (
        tempfile.TemporaryDirectory(dir=scratch, prefix=".tuning-") as folder,
        lock_bundle(Path(folder), shared=True),
    ):
        points, left_out = _measure_indexes(settings, seed, items, queries, Path(folder))
        fastest = _fastest(settings, points)
        if fastest is None or (len(points) == 1 and left_out):  # a bundle needs an index even for a scan
            raise InputError(_failure_message(settings, points, left_out))
        trees = fastest.trees or min(settings.trees)
        index = ItemIndex.open(Path(folder, f"{trees}.ann"), *items.shape)  # mapped: the file may be removed
    scans_many, why = True, "as it is no slower"
    if fastest.search_k is not None:
        search = Search(items, index, fastest.search_k)
        scans_many = _batch_seconds(replace(search, scans_many=True), queries) < _batch_seconds(
            search, queries
        )
        why = f"a scan takes {points[0].p50_ms:.3f} ms; batches are {'' if scans_many else 'not '}scanned"
    LOGGER.info(f"export: {fastest.describe()}; {why}")
    measured = {
        "k": MEASURED_K,
        "users": len(queries.vectors),
        "target": settings.recall,
        "path": "exact" if fastest.search_k is None else "index",
        "scans_many": scans_many,
        "curve": [point._asdict() for point in points],
    }
    return IndexPlan(trees, fastest.search_k, seed, index, measured)


def _sample_queries(vectors: Vectors, seen: Histories, held_out: NDArray[np.int64]) -> Queries:
    """Up to MEASURED_USERS of the held-out users, evenly spaced."""
    users, items = vectors
    offsets, seen_items = seen
    sample = held_out[np.unique(np.linspace(0, len(held_out) - 1, MEASURED_USERS).astype(int))]  # (S,)
    hidden = [seen_items[offsets[user] : offsets[user + 1]] for user in sample]
    queries = Queries(users[sample], hidden, np.empty((0, MEASURED_K), np.int32))
    exact, _ = exact_top_k(queries.vectors, items, MEASURED_K, queries.histories(len(sample)))
    return queries._replace(exact=exact)


def _measure_indexes(
    settings: Export, seed: int, items: NDArray[np.float32], queries: Queries, folder: Path
) -> tuple[list[Point], list[str]]:
    """The scan's point, then the points of each index saved in the folder; and why others were left out."""
    points, left_out, tree_seconds = list[Point](), list[str](), 0.0
    with progress("export: trees built and measured", sum(settings.trees)) as tick:
        for trees in sorted(set(settings.trees)):
            if trees * tree_seconds > settings.max_build_seconds:
                left_out.append(f"{trees} trees would take {trees * tree_seconds:.0f} s to build")
                break
            start = time.perf_counter()
            index = ItemIndex.build(items, trees, seed)
            tree_seconds = (time.perf_counter() - start) / trees
            size = index.save(Path(folder, f"{trees}.ann"))
            search = Search(items, index, 1)
            if not points:
                points.append(_measure_scan(search, queries))
            if trees * tree_seconds > settings.max_build_seconds:
                left_out.append(f"{trees} trees took {trees * tree_seconds:.0f} s to build")
                break
            if size > settings.max_mib * 2**20:
                left_out.append(f"{trees} trees take {size / 2**20:.0f} MiB")
                break
            points += _measure_index(settings, trees, search, size, queries)
            tick(trees)
    return points, left_out


def _measure_index(settings: Export, trees: int, search: Search, size: int, queries: Queries) -> list[Point]:
    """Points of one index, up to the first that finds enough or is too slow, below the work of a scan."""
    points: list[Point] = []
    search_k = FIRST_SEARCH_K
    exact = [items[items >= 0] for items in queries.exact]
    while search_k < len(search.vectors):
        answers, ms = _timed_answers(replace(search, search_k=search_k), queries)
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(answers, exact, strict=True))
        recall = hits / max(sum(len(items) for items in exact), 1)
        p50, p99 = (float(value) for value in np.percentile(ms, [50, 99]))
        points.append(Point(trees, search_k, recall, p50, p99, size))
        if recall >= settings.recall or p50 > settings.max_ms:
            break
        search_k *= 2
    return points


def _measure_scan(search: Search, queries: Queries) -> Point:
    n = TIMED_SCANS
    few = Queries(queries.vectors[:n], queries.hidden[:n], queries.exact[:n])
    _, ms = _timed_answers(replace(search, search_k=None), few)
    p50, p99 = (float(value) for value in np.percentile(ms, [50, 99]))
    return Point(None, None, 1.0, p50, p99, 0)


def _fastest(settings: Export, points: list[Point]) -> Point | None:
    """The fastest good enough point: the scan unless one is faster, fewer trees unless more are faster."""
    best: Point | None = None
    for point in points:
        good_enough = point.recall >= settings.recall and point.p50_ms <= settings.max_ms
        if good_enough and (best is None or point.p50_ms * AS_FAST < best.p50_ms):
            best = point
    return best


def _failure_message(settings: Export, points: list[Point], left_out: list[str]) -> str:
    limits = "; ".join([f"max_ms = {settings.max_ms:g}", *left_out])
    best = f" {points[0].describe()}."
    if len(points) > 1:
        best = f" The best was {max(points[1:], key=lambda point: point.recall).describe()};{best}"
    return (
        f"export.recall = {settings.recall} is not reached within export's limits ({limits}).{best} "
        "Allow more trees, time or size, or less recall"
    )


def _batch_seconds(search: Search, queries: Queries) -> float:
    """Seconds for one batch of users, the best of three."""
    vectors, hidden = queries.vectors[:BATCH], queries.histories(BATCH)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        search.top_k_many(vectors, MEASURED_K, hidden)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _timed_answers(search: Search, queries: Queries) -> tuple[list[NDArray[np.int32]], list[float]]:
    """The found items of each query, and its milliseconds."""
    answers, ms = list[NDArray[np.int32]](), list[float]()
    search.top_k(queries.vectors[0], MEASURED_K, queries.hidden[0])  # warm up the caches
    for vector, hidden in zip(queries.vectors, queries.hidden, strict=True):
        start = time.perf_counter()
        answers.append(search.top_k(vector, MEASURED_K, hidden)[0])
        ms.append(1e3 * (time.perf_counter() - start))
    return answers, ms
