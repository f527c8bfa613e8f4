"""What grows with what: a training step with the tables, an epoch with the interactions.

    python benchmarks/growth.py [--device cuda] [--dim 32] [--largest 10_000_000]

The same million interactions are spread over ever more users and items, then ever more interactions over a
million users: the median of a step's milliseconds must not grow, so that an epoch is linear in interactions.
It is a training of two tables; a step on a graph sums over all of it, by design, and is linear in users,
items and interactions. The log is Zipf's, drawn here; synthetic.py's has clusters and times.
Every size in its own process, whose peak memory is shown (VmHWM, Linux).
"""

import argparse
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipelines.training.devices import keep_freed_memory
from recsys import sampling
from recsys.epochs import train_epoch
from recsys.interactions import Interactions
from recsys.settings import Settings
from recsys.training import start_training

STEPS = 60  # timed of an epoch, at the most


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--largest", type=int, default=10_000_000, help="users of the last size")
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--of", help="users,items,interactions: measure one size and print it")
    arguments = parser.parse_args()
    if arguments.of:
        measure(*map(int, arguments.of.split(",")), arguments.dim, torch.device(arguments.device))
        return
    n = arguments.interactions
    users = [size for size in (10_000, 100_000, 1_000_000, 10_000_000) if size <= arguments.largest]
    sizes = [(size, max(1_000, size // 10), n) for size in users]
    sizes += [(1_000_000, 100_000, times * n) for times in (10, 100) if times * n <= 10 * arguments.largest]
    print("| users | items | interactions | ms a step | of the step: optimizer, ms | peak MiB |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        command = [sys.executable, __file__, "--of", ",".join(map(str, size)), "--dim", str(arguments.dim)]
        subprocess.run([*command, "--device", arguments.device], check=True)


def measure(n_users: int, n_items: int, n: int, dim: int, device: torch.device) -> None:
    """Print one line of the table."""
    keep_freed_memory()
    data = sampling.to_device(interactions(n_users, n_items, n), device)
    training = start_training(data, Settings(dim=dim, batch_size=2048))
    times: list[float] = []
    optimizing: list[float] = []
    step = training.optimizer.step

    def timed_step() -> None:
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        optimizing.append(time.perf_counter() - started)

    training.optimizer.step = timed_step  # type: ignore[assignment, method-assign]

    def on_step(interactions: int) -> None:
        times.append(time.perf_counter())
        if len(times) > STEPS:
            raise StopIteration

    with contextlib.suppress(StopIteration):
        training.on_step = on_step
        train_epoch(training, "semi_hard")
    step_ms, optimizer_ms = (1000 * np.median(each[5:]) for each in (np.diff(times), optimizing))
    sizes = f"{n_users:,} | {n_items:,} | {len(data.user):,}"
    print(f"| {sizes} | {step_ms:.1f} | {optimizer_ms:.1f} | {peak_mib():,.0f} |", flush=True)


def interactions(n_users: int, n_items: int, n: int) -> Interactions:
    """About n pairs, items by Zipf's law, users evenly: rows of one size a user, so no sort is needed."""
    generator = np.random.default_rng(0)
    active = min(n_users, n)  # with fewer interactions than users the others have none
    each = max(1, n // active)
    user = np.repeat(np.sort(generator.permutation(n_users)[:active]).astype(np.int32), each)  # (N,)
    rank = n_items ** generator.random(len(user))  # log-uniform, which is Zipf's law with exponent 1
    item = (rank.astype(np.int64) - 1).clip(0, n_items - 1)
    pair = np.unique(user.astype(np.int64) * n_items + item)
    user, item = (pair // n_items).astype(np.int32), (pair % n_items).astype(np.int32)
    rest = np.ones(len(pair), np.float32), np.zeros(len(pair), np.int64)
    return Interactions(user, item, *rest, n_users, n_items)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    main()
