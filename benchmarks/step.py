"""One training step on a graph and of two tables, compared with a floor: what it must compute and move.

    python benchmarks/step.py [--device cuda] [--threads 2] [--dim 127] [--hops 2] [--steps 10] [--profile]

`graph` is a space of kind graph as `recsys bench` configures it, at --dim dimensions, with the softmax over
whole histories; `metric` is two tables with the miner and loss of Settings, in two SHAPES. The log: items
by Zipf's law, users alike.
A part's floor is the longer of its operations at a rate and its bytes at a bandwidth, as the two overlap. A
step's is the sum of its parts', as each needs what the one before has written. The rate is that of the part's
dense product alone, at its shape; other parts get the best of these. Rates are the best of REPEATS runs, the
step is a median. There are two floors:
gathered   every gathered row comes from memory, at the bandwidth of a plain copy, read and write counted.
           A part can be quicker: caches hold rows, and a copy may have to load what it writes over.
once       every row of a table comes from memory once a product, as if caches held it from there on, at the
           bandwidth of a copy or of an addition in place, whichever is more.
In neither: draws, sorts of indices, launches, arrays that one kernel writes for the next.
Axes: U users, I items, N interactions, D dimensions, B users or interactions of a batch, C candidates,
H interactions of a batch's users, J their different items, T triplets, M floats.
"""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from pipelines.config.bench import Bench
from pipelines.config.training import TrainedSpace
from pipelines.tracking import log
from pipelines.training import plans
from pipelines.training.devices import choose_device, keep_freed_memory
from recsys import histories, precision, sampling, softmax
from recsys.epochs import sample_triplets, train_epoch
from recsys.interactions import Interactions
from recsys.objectives import make_objective
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.training import START, Training, start_training

SHAPES = {"metric": (2_048, 512, 32), "metric, wide": (8_192, 2_048, 128)}  # B, C, D
COPIED = 2**26  # floats, 256 MiB: no cache holds them
WARM, REPEATS, CALLS = 3, 5, 3  # steps before the timed ones; runs of a rate, and calls of a run
FLOAT, INDEX = 4, 4  # bytes
# A value, or the size of an answer, that the host waits for; repeat_interleave asks for two values.
WAITS = {
    "aten::_local_scalar_dense": "value",
    "aten::nonzero": "nonzero",
    "aten::_unique2": "unique",
    "aten::bincount": "bincount",
}


class Part(NamedTuple):
    name: str
    operations: float
    bytes: float  # every gathered row from memory
    bytes_once: float  # every row once a product
    rate: float | None = None  # operations a second; None: the best of the others


class Trainer(NamedTuple):
    run: Callable[[Callable[..., None]], object]  # calls it after each step; what that raises ends it
    parts: list[Part]
    sizes: dict[str, int]
    steps: int  # of an epoch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=127, help="of graph; metric has those of SHAPES")
    parser.add_argument("--hops", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed")
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--items", type=int, default=41_000)
    parser.add_argument("--interactions", type=int, default=810_000)
    parser.add_argument("--profile", action="store_true", help="as many steps again, under torch.profiler")
    args = parser.parse_args()
    most = max(batch for batch, _, _ in SHAPES.values())
    low, high = (WARM + args.steps) * most, args.users * args.items // 4
    if args.steps < 1 or not low <= args.interactions <= high:
        parser.error(f"--interactions {args.interactions:,}, allowed {low:,}..{high:,}; --steps from 1")
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    keep_freed_memory()
    data = sampling.to_device(interactions(args.users, args.items, args.interactions), device)
    copied, at_best = bandwidths(device)
    rates_are = f"copy {copied / 1e9:.1f} GB/s, at best {at_best / 1e9:.1f} GB/s"
    print(f"torch {torch.__version__}, {device}, {args.threads} threads, {rates_are}")
    for name in ("graph", *SHAPES):
        if name == "graph":
            trainer = graph_trainer(data, args.dim, args.hops, args.steps)
        else:
            trainer = metric_trainer(data, *SHAPES[name])
        seconds = timed(trainer, args.steps, device)
        sizes = ", ".join(f"{axis} {size:,}" for axis, size in trainer.sizes.items())
        print(f"\n{name}: {sizes}\n\n{table(trainer.parts, (copied, at_best), seconds)}", flush=True)
        if args.profile:
            print(f"\n{name}, {profiled(trainer, args.steps, device)}", flush=True)


def interactions(n_users: int, n_items: int, n: int) -> Interactions:
    """n different pairs; ranks of items are log-uniform, which is Zipf's law with exponent 1."""
    generator = np.random.default_rng(0)
    pair = np.empty(0, np.int64)  # (up to N,)
    while len(pair) < n:
        item = (n_items ** generator.random(n)).astype(np.int64).clip(1, n_items) - 1  # (N,)
        pair = np.unique(np.concatenate([pair, generator.integers(0, n_users, n) * n_items + item]))
    pair = np.sort(generator.permutation(pair)[:n])  # (N,)
    user, item = (pair // n_items).astype(np.int32), (pair % n_items).astype(np.int32)  # (N,)
    return Interactions(user, item, np.ones(n, np.float32), np.zeros(n, np.int64), n_users, n_items)


def graph_trainer(data: DeviceInteractions, d: int, hops: int, steps: int) -> Trainer:
    """From random rows: a step costs what it does from spectral ones.

    Sparse products: E = hops to items and E - 1 to users, their transposes backward. One gathers N rows, each
    with an index and a value, and adds to its R rows: 4 D (N + 2 R) + 8 N bytes, 2 N D operations.
    Histories: H entries of what is near and H pairs of rows, counted as two such of H entries, which add to B
    rows, backward to J.
    Candidates: C rows read and written; their gradient read and added.
    Log-sums: three dense products of 2 B C D operations; exponentials and sums in one pass over (B, C).
    Unit rows: forward where a row is written; backward two reads and a write of (I, D).
    Adam: four reads and three writes of both tables.
    """
    config, device = Bench(), data.user.device
    plan = plans.Plan("graph-1", TrainedSpace(start="random"), config.seed)
    point = plans.first_point(config, data)._replace(hops=hops)
    settings = plans.graph_settings(config, plan, point, d)._replace(cycle_steps=WARM + steps)
    training = start_training(data, settings)
    rounds, size = histories.steps_per_round(data, settings), histories.users_per_batch(data, settings)
    batch, _ = next(histories.user_batches(data, size, torch.Generator(device).manual_seed(0)))  # (B,)
    u, i, n, row = data.n_users, data.n_items, len(data.user), FLOAT * d
    b, c, h = len(batch), min(config.graph.candidates, i), n // rounds  # H on average
    j = len(sampling.histories(data, batch)[1].unique())
    to_items, to_users = hops * i + (hops - 1) * u, hops * u + (hops - 1) * i  # rows of all answers

    def sparse(name: str, products: int, entries: int, gathered_from: int, rows: int) -> Part:
        rest = products * entries * (INDEX + FLOAT) + 2 * rows * row
        each = products * entries * row
        return Part(name, 2 * products * entries * d, each + rest, min(each, gathered_from * row) + rest)

    at_once = min(b, max(1, softmax.PRODUCTS_AT_ONCE // c))  # users
    moved = FLOAT * (b * d + c * d + b * c)
    dense = [(2 * b * c * d, moved, moved, rate) for rate in rates(at_once, c, d, device)]
    parts = [
        sparse("sparse products, forward", 2 * hops - 1, n, to_users, to_items),
        sparse("histories, forward", 2, h, 2 * j, 2 * b),
        Part("candidates", 0, 5 * c * row, 5 * c * row),
        Part("log-sums, products", *dense[0]),
        Part("log-sums, exponentials", 0, 2 * FLOAT * b * c, 2 * FLOAT * b * c),
        Part("log-sums, gradient of users", *dense[1]),
        Part("log-sums, gradient of candidates", *dense[2]),
        sparse("histories, backward", 2, h, 2 * b, 2 * j),
        Part("unit rows, backward", 0, 3 * i * row, 3 * i * row),
        sparse("sparse products, backward", 2 * hops - 1, n, to_items, to_users),
        Part("Adam", 0, 7 * (u + i) * row, 7 * (u + i) * row),
    ]
    sizes = {"U": u, "I": i, "N": n, "D": d, "hops": hops, "B": b, "C": c, "H": h, "J": j}
    return Trainer(partial(run_epoch, training), parts, sizes, rounds)


def metric_trainer(data: DeviceInteractions, b: int, c: int, d: int) -> Trainer:
    """Distances: a dense product of 2 B C D operations.

    Known and mining: H items read and looked up; the distances read once, for miner and rank alike.
    Pairs: B users, B + T items and offsets read, their gradients written; 6 D operations a pair, which are
    three products of rows, and twice that backward.
    RowAdam: the gradients read; of each different row the values and the second moments read and written, and
    a count; offsets alike.
    """
    settings = Settings(dim=d, in_batch_items=c // 2, uniform_items=c - c // 2, batch_size=b)
    training, miner = start_training(data, settings), settings.miner
    objective = make_objective(training, miner)
    mined, distances = sample_triplets(training, objective, b, training.generator)
    users = distances.user.unique()  # (up to B,)
    h = int((data.offsets[users + 1] - data.offsets[users]).sum())
    items = len(torch.cat([distances.item, mined.negative]).unique())
    t = len(mined.negative)
    row, (rate, *_) = FLOAT * d, rates(b, c, d, data.user.device)
    dense, mining = FLOAT * (b * d + c * d + b * c), FLOAT * b * c + (INDEX + 1) * h
    pairs = (2 * b + t) * row + (b + t) * FLOAT  # of the rows, and of their gradients
    moved = 4 * ((len(users) + items) * row + items * FLOAT) + 2 * INDEX * (len(users) + 2 * items)
    parts = [
        Part("distances", 2 * b * c * d, dense, dense, rate),
        Part("known and mining", 0, mining, mining),
        Part("pairs", 18 * (b + t) * d, 2 * pairs, 2 * pairs),
        Part("RowAdam", 0, pairs + moved, pairs + moved),
    ]
    sizes = {"N": len(data.user), "D": d, "B": b, "C": c, "H": h, "T": t, "different users": len(users)}

    sizes |= {"different items": items}
    return Trainer(partial(run_epoch, training), parts, sizes, -(-len(data.user) // b))


def run_epoch(training: Training, on_step: Callable[[int], None]) -> None:
    training.on_step, training.progress = on_step, START  # an earlier call was stopped within its epoch
    train_epoch(training, training.settings.miner)


def rates(b: int, c: int, d: int, device: torch.device) -> list[float]:
    """Operations a second of (B, D) by (D, C), (B, C) by (C, D) and (C, B) by (B, D), into arrays at hand."""
    x, y, xy = (torch.rand(*shape, device=device) for shape in ((b, d), (c, d), (b, c)))  # as named
    of_x, of_y = torch.empty_like(x), torch.empty_like(y)  # (B, D), (C, D)
    products = ((x, y.T, torch.empty_like(xy)), (xy, y, of_x), (xy.T, x, of_y))
    with precision.for_training():
        return [
            2 * b * c * d / least(partial(torch.mm, one, other, out=out), device)
            for one, other, out in products
        ]


def bandwidths(device: torch.device) -> tuple[float, float]:
    """Bytes a second, read and written: of a copy; of a copy or an addition in place, whichever is more."""
    source, target = (torch.zeros(COPIED, device=device) for _ in range(2))  # (M,)
    works = (partial(target.copy_, source), partial(target.add_, 1.0))
    copied, added = (2 * FLOAT * COPIED / least(work, device) for work in works)
    return copied, max(copied, added)


def least(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call in the quickest run; one run before warms up."""
    seconds = []
    for _ in range(REPEATS + 1):
        wait(device)
        started = time.perf_counter()
        for _ in range(CALLS):
            work()
        wait(device)
        seconds.append((time.perf_counter() - started) / CALLS)
    return min(seconds[1:])


def timed(trainer: Trainer, steps: int, device: torch.device, profiler: profile | None = None) -> float:
    """Median seconds of a step. A GPU marks its own time, so that the host need not wait for it."""
    marks: list[Any] = []

    def on_step(*_: object) -> None:
        if device.type == "cuda":
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())
        if profiler is not None and len(marks) == WARM:
            profiler.start()
        if len(marks) == WARM + steps:
            raise StopIteration

    with contextlib.suppress(StopIteration):
        trainer.run(on_step)
    wait(device)
    if profiler is not None:
        profiler.stop()
    ends = pairwise(marks[WARM - 1 :])
    return median(a.elapsed_time(b) / 1000 if device.type == "cuda" else b - a for a, b in ends)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def table(parts: list[Part], bandwidth: tuple[float, float], seconds: float) -> str:
    """Markdown: the parts, their sum, and the whole step."""
    best = max(part.rate or 0 for part in parts)
    lines = [
        "| part | operations, G | G/s | MB gathered | floor, ms | MB once | floor, ms |",
        "|---" * 7 + "|",
    ]
    floor, total = np.zeros(2), np.zeros(3)  # ms; operations and both bytes
    for name, *amounts, rate in parts:
        operations, *moved = amounts
        ms = 1000 * np.maximum(operations / (rate or best), np.divide(moved, bandwidth))  # (2,)
        floor, total = floor + ms, total + amounts
        lines.append(line(name, amounts, ms, f"{rate / 1e9:.1f}" if rate else ""))
    lines.append(line("floor", total, floor))
    step = 1000 * seconds
    lines.append(f"| step, median | | | | {step:.2f} | | {step:.2f} |")
    shares = " | | ".join(f"{100 * each / step:.1f}" for each in floor)
    return "\n".join([*lines, f"| share of the floor's rate, % | | | | {shares} |"])


def line(name: str, amounts: Any, ms: Any, rate: str = "") -> str:
    giga, mb, once = amounts[0] / 1e9, amounts[1] / 1e6, amounts[2] / 1e6
    return f"| {name} | {giga:.3f} | {rate} | {mb:.1f} | {ms[0]:.2f} | {once:.1f} | {ms[1]:.2f} |"


def profiled(trainer: Trainer, steps: int, device: torch.device) -> str:
    """How often the host waits for the GPU (on CPU: would), and where the time goes."""
    gpu = device.type == "cuda"
    events = profile_of(trainer, steps, device)
    top = events.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=15)
    if gpu:
        found = Counter(event.name for event in events.events() if event.name == "cudaStreamSynchronize")
    else:  # what a GPU is asked for in place of what a CPU is
        with mock.patch.object(sampling, "is_asynchronous", return_value=True):
            events = profile_of(trainer, steps, device)
        asked = [event for event in events.events() if event.name in WAITS and not is_adams(event)]
        found = Counter(WAITS[event.name] for event in asked)
        top = f"What the CPU itself has run:\n{top}"
    each = found.total() / steps
    kinds = ", ".join(f"{name} {count / steps:g}" for name, count in found.items()) or "none"
    return (
        f"{'waits' if gpu else 'would wait'} for a GPU: {each:g} a step ({kinds}), "
        f"{each * trainer.steps:,.0f} in an epoch's {trainer.steps:,} steps\n\n{top}"
    )


def is_adams(event: Any) -> bool:
    """Is it torch's fused Adam reading its own count of steps? On a GPU the kernel does."""
    while event is not None and event.name != "aten::_fused_adam_":
        event = event.cpu_parent
    return event is not None


def profile_of(trainer: Trainer, steps: int, device: torch.device) -> profile:
    gpu = device.type == "cuda"
    profiler = profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu])
    timed(trainer, steps, device, profiler)
    return profiler


if __name__ == "__main__":
    log.to_standard_error()
    main()
