"""Exact top 20 of all users against the bare matrix products of the same chunks, in one run.

    python benchmarks/ranking.py [--users 30_000] [--items 41_000] [--device cuda]

Each user has 27 items of their own, which are left out. Prints seconds, the ratio, and the largest array made
compared with a users x items array, which is never made.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from recsys import ranking, sampling
from recsys.interactions import Interactions

HISTORY, K, REPEATS = 27, 20, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--items", type=int, default=41_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    seen = sampling.to_device(histories(arguments.users, arguments.items), device)
    all_users = torch.arange(arguments.users, device=device)  # (U,)
    chunk = max(ranking.USERS_AT_ONCE, ranking.SCORES_AT_ONCE // arguments.items)
    print(f"{arguments.users:,} users, {arguments.items:,} items, chunks of {chunk}, {device}")
    for dim in arguments.dims:
        users = torch.randn(arguments.users, dim, generator=generator).to(device)  # (U, D)
        items = torch.randn(arguments.items, dim, generator=generator).to(device)  # (I, D)

        def bare(users: torch.Tensor = users, items: torch.Tensor = items) -> None:
            for part in torch.split(all_users, chunk):
                users[part] @ items.T

        def ranked(users: torch.Tensor = users, items: torch.Tensor = items) -> None:
            ranking.top_k(users, items, all_users, K, seen)

        floor, ours = seconds(bare, device), seconds(ranked, device)
        print(
            f"{dim} dimensions: bare products {floor:.2f} s, top {K} {ours:.2f} s, ratio {ours / floor:.2f}; "
            f"largest array {4 * min(chunk * arguments.items, ranking.SCORES_AT_ONCE) / 2**20:.0f} MiB of "
            f"{4 * arguments.users * arguments.items / 2**20:,.0f} for all"
        )


def histories(n_users: int, n_items: int) -> Interactions:
    """HISTORY different items a user, evenly spread."""
    first = np.random.default_rng(0).integers(0, n_items, n_users)  # (U,)
    step = n_items // HISTORY
    item = np.sort((first[:, None] + step * np.arange(HISTORY)) % n_items, 1)  # (U, H)
    n = item.size
    return Interactions(
        np.repeat(np.arange(n_users, dtype=np.int32), HISTORY),
        item.astype(np.int32).ravel(),
        np.ones(n, np.float32),
        np.zeros(n, np.int64),
        n_users,
        n_items,
    )


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Median of REPEATS runs, after one to warm up."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


if __name__ == "__main__":
    main()
