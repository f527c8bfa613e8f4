"""How a release is searched: trees and search_k, measured, so that enough of the exact top is found.

Axes: S users asked, I items, D coordinates, K ranks.
"""

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.config.errors import InputError
from pipelines.config.release import Export
from recsys.index import NOTHING, ItemIndex, Search, exact_top_k
from recsys.measured import MEASURED_K, Point
from recsys.progress import progress
from recsys.releases import lock_bundle

LOGGER = logging.getLogger("recsys")

MEASURED_USERS = 300
TIMED_SCANS = 60  # a scan takes as long for every user
BATCH = 100  # users of a batch that is timed
AS_FAST = 1.1  # times as slow still counts as no slower
FIRST_SEARCH_K = 256


class Tuned(NamedTuple):
    """What was chosen, and all that was measured."""

    built: ItemIndex
    trees: int
    search_k: int | None
    measured: dict[str, Any]  # for the manifest


Histories = tuple[NDArray[np.int64], NDArray[np.int32]]


def tuned(
    settings: Export,
    seed: int,
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    seen: Histories,
    held_out: NDArray[np.int64],
    scratch: Path,
) -> Tuned:
    """The fastest search of items (I, D) that finds settings.recall of the exact top 20 of held-out users.

    Asked are up to 300 of users[held_out], without what they have (seen). For each number of trees, search_k
    doubles until enough is found; index size, build time and milliseconds have limits. A scan finds all, and
    is taken where it is as fast; whether batches are scanned is measured by itself. Indexes lie in
    `scratch` meanwhile: no more than one is held in memory.
    Raises InputError, naming the best that was reached, if nothing will do.
    """
    some = held_out[np.unique(np.linspace(0, len(held_out) - 1, MEASURED_USERS).astype(int))]  # (S,)
    vectors = users[some]  # (S, D)
    own = [seen[1][seen[0][user] : seen[0][user + 1]] for user in some]
    offsets = np.concatenate([[0], np.cumsum([len(taken) for taken in own])])
    exact, _ = exact_top_k(vectors, items, MEASURED_K, (offsets, np.concatenate([NOTHING, *own])))  # (S, K)
    with (
        tempfile.TemporaryDirectory(dir=scratch, prefix=".tuning-") as folder,
        lock_bundle(Path(folder), shared=True),
    ):
        points, left_out = _measured(settings, seed, items, vectors, own, exact, Path(folder))
        chosen = _chosen(settings, points)
        if chosen is None or (len(points) == 1 and left_out):  # a bundle holds an index in any case
            raise InputError(_unreached(settings, points, left_out))
        trees = chosen.trees or min(settings.trees)
        index = ItemIndex.open(Path(folder, f"{trees}.ann"), *items.shape)  # the map outlives the name
    scans_many, how = True, "as it is no slower"
    if chosen.search_k is not None:
        ends = offsets[: len(vectors[:BATCH]) + 1]
        batch = vectors[:BATCH], (ends, np.concatenate([NOTHING, *own])[: ends[-1]])
        search = Search(items, index, chosen.search_k)
        scans_many = _of_many(replace(search, scans_many=True), *batch) < _of_many(search, *batch)
        how = f"a scan takes {points[0].p50_ms:.3f} ms; batches are " + ("scanned" if scans_many else "not")
    LOGGER.info(f"export: {chosen.words()}; {how}")
    measured = {
        "k": MEASURED_K,
        "users": len(some),
        "target": settings.recall,
        "path": "exact" if chosen.search_k is None else "index",
        "scans_many": scans_many,
        "curve": [point._asdict() for point in points],
    }
    return Tuned(index, trees, chosen.search_k, measured)


def _measured(
    settings: Export,
    seed: int,
    items: NDArray[np.float32],
    vectors: NDArray[np.float32],
    own: list[NDArray[np.int32]],
    exact: NDArray[np.int32],
    folder: Path,
) -> tuple[list[Point], list[str]]:
    """The scan's point, then those of each index, which lies in the folder; and what was left out, why."""
    points, left_out, a_tree = list[Point](), list[str](), 0.0  # seconds that one tree takes
    with progress("export: trees built and measured", sum(settings.trees)) as tick:
        for trees in sorted(set(settings.trees)):
            if trees * a_tree > settings.max_build_seconds:
                left_out.append(f"{trees} trees would take {trees * a_tree:.0f} s to build")
                break
            began = time.perf_counter()
            index = ItemIndex.build(items, trees, seed)
            a_tree = (time.perf_counter() - began) / trees
            size = index.save(Path(folder, f"{trees}.ann"))
            search = Search(items, index, 1)
            if not points:
                points.append(_scan(search, vectors, own))
            if trees * a_tree > settings.max_build_seconds:
                left_out.append(f"{trees} trees took {trees * a_tree:.0f} s to build")
                break
            if size > settings.max_mib * 2**20:
                left_out.append(f"{trees} trees take {size / 2**20:.0f} MiB")
                break
            points += _climb(settings, trees, search, size, vectors, own, exact)
            tick(trees)
    return points, left_out


def _chosen(settings: Export, points: list[Point]) -> Point | None:
    """The fastest point that will do: a scan if none is faster, fewer trees if more are no faster."""
    best: Point | None = None
    for point in points:
        will_do = point.recall >= settings.recall and point.p50_ms <= settings.max_ms
        if will_do and (best is None or point.p50_ms * AS_FAST < best.p50_ms):
            best = point
    return best


def _unreached(settings: Export, points: list[Point], left_out: list[str]) -> str:
    limits = "; ".join([f"max_ms = {settings.max_ms:g}", *left_out])
    reached = f" {points[0].words()}."
    if len(points) > 1:
        reached = f" The best was {max(points[1:], key=lambda point: point.recall).words()};{reached}"
    return (
        f"export.recall = {settings.recall} is not reached within export's limits ({limits}).{reached} "
        "Allow more trees, time or size, or less recall"
    )


def _climb(
    settings: Export,
    trees: int,
    search: Search,
    size: int,
    vectors: NDArray[np.float32],
    own: list[NDArray[np.int32]],
    exact: NDArray[np.int32],
) -> list[Point]:
    """Points of one index, up to the first that finds enough, or that looks at as much as a scan does."""
    points: list[Point] = []
    search_k = FIRST_SEARCH_K
    while search_k < len(search.vectors):
        found, taken = _asked(replace(search, search_k=search_k), vectors, own)
        wanted = [truth[truth >= 0] for truth in exact]
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(found, wanted, strict=True))
        recall = hits / max(sum(len(truth) for truth in wanted), 1)
        p50, p99 = (float(value) for value in np.percentile(taken, [50, 99]))
        points.append(Point(trees, search_k, recall, p50, p99, size))
        if recall >= settings.recall or p50 > settings.max_ms:
            break
        search_k *= 2
    return points


def _scan(search: Search, vectors: NDArray[np.float32], own: list[NDArray[np.int32]]) -> Point:
    _, taken = _asked(replace(search, search_k=None), vectors[:TIMED_SCANS], own[:TIMED_SCANS])
    p50, p99 = (float(value) for value in np.percentile(taken, [50, 99]))
    return Point(None, None, 1.0, p50, p99, 0)


def _of_many(search: Search, vectors: NDArray[np.float32], hidden: Histories) -> float:
    """Seconds for all the vectors at once, the best of three."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        search.top_k_many(vectors, MEASURED_K, hidden)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _asked(
    search: Search, vectors: NDArray[np.float32], own: list[NDArray[np.int32]]
) -> tuple[list[NDArray[np.int32]], list[float]]:
    """The answers, and milliseconds of each."""
    found, taken = list[NDArray[np.int32]](), list[float]()
    search.top_k(vectors[0], MEASURED_K, own[0])  # warms caches up
    for vector, hidden in zip(vectors, own, strict=True):
        began = time.perf_counter()
        found.append(search.top_k(vector, MEASURED_K, hidden)[0])
        taken.append(1e3 * (time.perf_counter() - began))
    return found, taken
