"""Seconds and memory of a step on mined triplets, compared with pytorch-metric-learning's and a bare matrix.

python benchmarks/mining.py [--threads 2] [--device cpu] [--repeats 7] [--positives 1]

2,048 anchors x 4,096 candidates x 64 dimensions, so many positives an anchor. A step starts at embeddings and
labels, ends at the gradient of both embeddings, and takes turns with the others in random order. `bare` is
what a step over the whole matrix costs at least: squared_euclidean, its sum, backward. Ours makes the matrix
without gradient, mines it, and computes the mined pairs' distances again with gradient. Theirs (squared, not
normalised, the mean over triplets, like ours) keeps every semi-hard negative, ours the nearest of them.
Memory is what a first step adds to a fresh process at its peak: VmHWM - VmRSS (Linux); on CUDA, what the
allocator held.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor
from torch.nn.functional import embedding, normalize

from recsys import miners
from recsys.distances import pairs, squared_euclidean
from recsys.losses import triplet_margin

A, C, D = 2_048, 4_096, 64
MARGIN = 0.2
COSINE = 0.4  # of a positive pair: about as near as the nearest negatives

Step = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, int]]  # -> loss, triplets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--positives", type=int, default=1, help="of an anchor")
    parser.add_argument("--peak-of", help="print the MiB that one step adds, and nothing else")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    steps = all_steps(torch.Generator(device).manual_seed(0))
    batch = embeddings_and_labels(device, args.positives)
    if args.peak_of:
        print(peak_mib(steps[args.peak_of], batch))
        return

    seconds: dict[str, list[float]] = {name: [] for name in steps}
    triplets: dict[str, int] = {}
    order = Random(0)
    for repeat in range(args.repeats + 1):
        losses = {}
        for name in order.sample(list(steps), len(steps)):
            started = time.perf_counter()
            losses[name], triplets[name] = steps[name](*batch)
            synchronize(device)
            if repeat > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - started)
        torch.testing.assert_close(losses["hardest"], losses["theirs, hardest"])

    peers = {"hardest": "theirs, hardest", "semi_hard": "theirs, semi-hard"}
    same = ["--threads", str(args.threads), "--device", args.device, "--positives", str(args.positives)]
    run = f"{args.threads} threads, {args.repeats} repeats, positives of an anchor: {args.positives}"
    print(f"torch {torch.__version__}, {device}, {run}")
    print("step                median s   least s  x bare  x faster     MiB   triplets")
    for name, taken in seconds.items():
        of_bare = median(taken) / median(seconds["bare"])
        faster = f"{median(seconds[peers[name]]) / median(taken):.1f}" if name in peers else ""
        alone = [sys.executable, __file__, "--peak-of", name, *same]
        mib = subprocess.run(alone, check=True, capture_output=True, text=True).stdout.strip()
        print(
            f"{name:18} {median(taken):9.4f} {min(taken):9.4f} {of_bare:7.2f} {faster:>9}"
            f" {mib:>7} {triplets[name]:10,}"
        )


def all_steps(generator: torch.Generator) -> dict[str, Step]:
    mined = {
        "hardest": miners.hardest,
        "semi_hard": miners.semi_hard,
        "random": miners.random,
        "distance_weighted": distance_weighted,
    }
    distance = LpDistance(normalize_embeddings=False, p=2, power=2)
    their_semi_hard = TripletMarginMiner(MARGIN, "semihard", distance=distance)
    their_loss = TripletMarginLoss(MARGIN, distance=distance, reducer=MeanReducer())
    return {
        "bare": bare,
        **{name: partial(ours, mine, generator) for name, mine in mined.items()},
        "theirs, hardest": partial(theirs, BatchHardMiner(distance=distance), their_loss),
        "theirs, semi-hard": partial(theirs, their_semi_hard, their_loss),
    }


def bare(x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, int]:
    x, y = leaf(x), leaf(y)  # (A, D), (C, D)
    loss = squared_euclidean(x, y).sum()
    loss.backward()
    return loss.detach(), 0


def ours(
    mine: miners.Miner,
    generator: torch.Generator,
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    ref_labels: Tensor,
) -> tuple[Tensor, int]:
    x, y = leaf(x), leaf(y)  # (A, D), (C, D)
    positive = labels[:, None] == ref_labels[None, :]  # (A, C)
    with torch.no_grad():
        d = squared_euclidean(x, y)  # (A, C)
    triplets = miners.mine_matrix(mine, d, positive, ~positive, MARGIN, generator)
    anchors = embedding(triplets.anchor, x)  # (T, D)
    d_pos = pairs(squared_euclidean, anchors, embedding(triplets.positive, y))  # (T,)
    d_neg = pairs(squared_euclidean, anchors, embedding(triplets.negative, y))  # (T,)
    loss = triplet_margin(d_pos, d_neg, MARGIN).mean()
    loss.backward()
    return loss.detach(), len(triplets.anchor)


def theirs(
    mine: torch.nn.Module, loss_of: torch.nn.Module, x: Tensor, y: Tensor, labels: Tensor, ref_labels: Tensor
) -> tuple[Tensor, int]:
    x, y = leaf(x), leaf(y)  # (A, D), (C, D)
    found = mine(x, labels, ref_emb=y, ref_labels=ref_labels)
    loss = loss_of(x, labels, found, ref_emb=y, ref_labels=ref_labels)
    loss.backward()
    return loss.detach(), len(found[0])


def distance_weighted(
    d_pos: Tensor, d_neg: Tensor, margin: float, generator: torch.Generator | None, fixed: bool
) -> miners.Triplets:
    return miners.distance_weighted(d_pos, d_neg.sqrt(), margin, generator, fixed, dim=D)


def leaf(rows: Tensor) -> Tensor:
    return rows.detach().requires_grad_()


def embeddings_and_labels(device: torch.device, positives: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, D), (C, D) unit rows, (A,), (C,) labels: candidate i is near anchor i, others near none."""
    generator = torch.Generator().manual_seed(0)
    x = normalize(torch.randn(A, D, generator=generator))  # (A, D)
    y = normalize(torch.randn(C, D, generator=generator))  # (C, D)
    y[:A] = normalize(COSINE * x + (1 - COSINE**2) ** 0.5 * y[:A])
    label = torch.arange(C, device=device) // positives  # (C,)
    return x.to(device), y.to(device), label[:A], label


def peak_mib(step: Step, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> int:
    x, y, labels, ref_labels = batch
    step(x[:64], y[:128], labels[:64], ref_labels[:128])  # loads what is loaded once
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(*batch)
        return round((torch.cuda.max_memory_allocated() - before) / 2**20)
    before = resident_kib("VmRSS")
    step(*batch)
    return round((resident_kib("VmHWM") - before) / 2**10)


def resident_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
