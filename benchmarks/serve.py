"""Requests a second and latency of serving, compared with the bare index and a peer; one command.

    python benchmarks/serve.py --bundle var/demo/bundles/current [--bundle ...] [--synthetic FOLDER]

In-process rows, one thread, the same users in turn: `bare` is Annoy's get_nns_by_vector with the bundle's
search_k for k + min(seen, k) items (or, where the bundle is scanned, the bare product and argpartition),
nothing filtered, nothing named; `recommend` and `recommend_many` are serving/recommender.py; `implicit` is
recommend() of implicit's matrix factorization with the same vectors by inner product, which scans (a batch of
100 at once in its second row). HTTP rows: `recsys serve` and a client of plain sockets share the machine's
cores; so many connections ask one after the other, without a pause. `batch` sends 100 users a request.
`--synthetic FOLDER` makes a bundle of 1,000,000 items and 100,000 users of 64 coordinates there, once, and
one of ten million users, which is opened. `--export FOLDER` does nothing else than to export a million items
of 128 coordinates, and says how much memory that took beyond the vectors.
"""

import argparse
import asyncio
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config.release import Export
from pipelines.release.index_search import tune_index
from pipelines.tracking import log
from recsys import fold_in
from recsys.bundle import Bundle, BundleContent, open_bundle, write_bundle
from recsys.progress import progress
from recsys.releases import publish
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")

K = 10
BATCH = 100
SECONDS = 4.0  # of a row
CONNECTIONS = (1, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="a bundle or `current`")
    parser.add_argument("--synthetic", type=Path, help="folder for the synthetic bundle")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--export", type=Path, help="folder for an export whose memory is measured")
    args = parser.parse_args()
    if args.export:
        export_memory(args.export)
        return
    bundles = list(args.bundle)
    if args.synthetic:
        bundles.append(synthetic(args.synthetic / "million"))
    for path in bundles:
        report(path, args.workers)
    if args.synthetic:
        many = synthetic(args.synthetic / "crowd", n_items=1_000, n_users=10_000_000, dim=8)
        began = time.perf_counter()
        shop = Recommender.open(many)
        print(f"\n{shop.n_users:,} users opened in {1e3 * (time.perf_counter() - began):.0f} ms")


def report(path: Path, workers: int) -> None:
    folder = path.resolve()
    bundle, began = open_bundle(folder), time.perf_counter()
    shop = Recommender.open(folder)
    opened = 1e3 * (time.perf_counter() - began)
    how = "a scan" if bundle.manifest["search_k"] is None else f"search_k {bundle.manifest['search_k']:,}"
    print(
        f"\n{shop.n_users:,} users, {shop.n_items:,} items, {bundle.manifest['dim']} coordinates, {how}; "
        f"opened in {opened:.0f} ms; import of serving.recommender {import_ms():.0f} ms; k = {K}"
    )
    print("| in process | users a second | p50, ms | p99, ms | x bare |")
    print("|---|---|---|---|---|")
    rows = in_process(bundle, shop)
    timings = {name: np.concatenate([timed(ask) for _ in range(3)]) for name, (ask, _) in rows.items()}
    bare = np.median(timings["bare"])
    for name, (_, users) in rows.items():
        taken = timings[name]
        print(
            f"| {name} | {users / taken.mean():,.0f} | {1e3 * np.median(taken):.3f} "
            f"| {1e3 * np.percentile(taken, 99):.3f} | {np.median(taken) / bare / users:.2f} |"
        )
    print(f"\n| HTTP, {workers} workers | connections | requests/s | users/s | p50, ms | p99, ms |")
    print("|---|---|---|---|---|---|")
    with Served(folder.parent, workers) as port:
        for name, requests, users in (
            ("one user", [get(user) for user in shop.some_users(2_000)], 1),
            (f"batch of {BATCH}", batches(shop), BATCH),
        ):
            for connections in CONNECTIONS:
                taken, seconds = asyncio.run(load(port, requests, connections))
                rate, (p50, p99) = len(taken) / seconds, 1e3 * np.percentile(taken, [50, 99])
                cells = f"{connections} | {rate:,.0f} | {rate * users:,.0f} | {p50:.2f} | {p99:.2f}"
                print(f"| {name} | {cells} |", flush=True)


# In process


def in_process(bundle: Bundle, shop: Recommender) -> dict[str, tuple[Callable[[int], Any], int]]:
    """What is asked of user n, and of how many users that is."""
    ids = shop.some_users(2_000)
    numbers = [bundle.users.number(user) or 0 for user in ids]
    vectors, search_k = bundle.user_vectors, bundle.manifest["search_k"]
    fetch = [K + min(len(bundle.seen(user)), K) for user in numbers]
    annoy, items = bundle.search.index._annoy, bundle.item_vectors

    def bare(n: int) -> Any:
        user = numbers[n % len(ids)]
        if search_k is None:
            return np.argpartition(items @ vectors[user], -K)[-K:]
        return annoy.get_nns_by_vector(vectors[user], fetch[n % len(ids)], search_k, include_distances=True)

    def many(n: int) -> Any:
        return shop.recommend_many([ids[(n * BATCH + m) % len(ids)] for m in range(BATCH)], K)

    rows: dict[str, tuple[Callable[[int], Any], int]] = {
        "bare": (bare, 1),
        "recommend": (lambda n: shop.recommend(ids[n % len(ids)], K), 1),
        f"recommend_many, {BATCH}": (many, BATCH),
    }
    return rows | peer(bundle, numbers)


def peer(bundle: Bundle, numbers: list[int]) -> dict[str, tuple[Callable[[int], Any], int]]:
    """implicit, if it is installed."""
    try:
        from implicit.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix
    except ImportError:
        LOGGER.info("implicit is not installed: its rows are left out")
        return {}
    n_users, n_items = len(bundle.user_vectors), len(bundle.item_vectors)
    seen = bundle.seen_items, bundle.seen_offsets
    liked = csr_matrix((np.ones(len(seen[0]), np.float32), *seen), shape=(n_users, n_items))
    model = AlternatingLeastSquares(factors=bundle.manifest["dim"], num_threads=1)
    model.user_factors, model.item_factors = np.array(bundle.user_vectors), np.array(bundle.item_vectors)

    def one(n: int) -> Any:
        user = numbers[n % len(numbers)]
        return model.recommend(user, liked[user], N=K, filter_already_liked_items=True)

    def some(n: int) -> Any:
        users = np.array([numbers[(n * BATCH + m) % len(numbers)] for m in range(BATCH)])
        return model.recommend(users, liked[users], N=K, filter_already_liked_items=True)

    return {"implicit": (one, 1), f"implicit, {BATCH}": (some, BATCH)}


def timed(ask: Callable[[int], Any]) -> np.ndarray:
    """Seconds of each call, for a third of a row's time."""
    ask(0)
    taken, end = list[float](), time.perf_counter() + SECONDS / 3
    while (began := time.perf_counter()) < end or len(taken) < 3:
        ask(len(taken))
        taken.append(time.perf_counter() - began)
    return np.array(taken)


def import_ms() -> float:
    """Milliseconds that the interpreter takes longer with the import than without, best of five each."""

    def best(program: str) -> float:
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            taken.append(time.perf_counter() - began)
        return min(taken)

    return 1e3 * (best("import serving.recommender") - best("pass"))


# HTTP


class Served:
    """A running `recsys serve`."""

    def __init__(self, bundles: Path, workers: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "pipelines", "serve", "--bundles", str(bundles)]
        command += ["--port", str(self.port), "--workers", str(workers)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> int:
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"recsys serve ended with {self.process.returncode}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if b" 200 " in connection.recv(100):
                        time.sleep(1)  # the other workers
                        return self.port
            except OSError:
                pass
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def get(user: int | str) -> bytes:
    return f"GET /v1/users/{user}/recommendations?k={K} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def batches(shop: Recommender) -> list[bytes]:
    ids, requests = shop.some_users(2_000), []
    for start in range(0, len(ids), BATCH):
        users = [{"user_id": user} for user in (ids[start:] + ids)[:BATCH]]
        body = json.dumps({"users": users, "k": K}).encode()
        head = "POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


async def load(port: int, requests: list[bytes], connections: int) -> tuple[list[float], float]:
    """Seconds of each request, and of all together."""
    taken, end = list[float](), time.perf_counter() + SECONDS

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        n = number * 31
        while (began := time.perf_counter()) < end:
            writer.write(requests[n % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            taken.append(time.perf_counter() - began)
            n += 1
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    return taken, time.perf_counter() - began


# The synthetic bundle


def export_memory(root: Path) -> None:
    """Peak of resident memory while a bundle is measured and written, beyond that with the vectors alone."""
    made: list[int] = []
    began = time.perf_counter()
    synthetic(root, dim=128, with_vectors=lambda: made.append(peak_mib()))
    print(f"1,000,000 items of 128 coordinates: {peak_mib() - made[0]:,} MiB beyond the {made[0]:,} MiB of")
    print(f"the process with its vectors, {time.perf_counter() - began:.0f} s")


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10


def synthetic(
    root: Path,
    n_items: int = 1_000_000,
    n_users: int = 100_000,
    dim: int = 64,
    with_vectors: Callable[[], None] = lambda: None,
) -> Path:
    """Items around 1,000 centres that span 16 dimensions; users near to items; ten items seen by each."""
    folder = root / f"synthetic-{n_items}-{dim}"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(16, dim)).astype(np.float32) / 4
    centres = rng.normal(size=(1_000, 16)).astype(np.float32)
    items = np.empty((n_items, dim), np.float32)
    with progress("drawing items", n_items) as tick:
        for start in range(0, n_items, 100_000):
            n = min(100_000, n_items - start)
            latent = centres[rng.integers(0, 1_000, n)] + 0.4 * rng.normal(size=(n, 16))
            items[start : start + n] = latent @ turn + 0.05 * rng.normal(size=(n, dim))
            tick(n)
    users = items[rng.integers(0, n_items, n_users)]
    users += 0.1 * rng.standard_normal(size=(n_users, dim), dtype=np.float32)
    with_vectors()
    own = rng.integers(0, n_items // 10, (n_users, 10), dtype=np.int32) * 10 + np.arange(10, dtype=np.int32)
    seen = np.arange(0, 10 * n_users + 1, 10), np.sort(own, axis=1).ravel()
    settings = Export(trees=(10, 30), recall=0.95)
    plan = tune_index(settings, (users, items), seen, np.arange(n_users), 0, root)
    write_bundle(
        folder,
        BundleContent(
            user_vectors=users,
            item_vectors=items,
            user_ids=np.arange(n_users),
            item_ids=np.arange(n_items),
            seen=seen,
            popular=rng.permutation(n_items).astype(np.int32),
            fold_in=fold_in.fit(users, items, seen),
        ),
        plan,
        info={},
    )
    publish(root, folder.name)
    return folder


if __name__ == "__main__":
    log.to_standard_error()
    main()
