"""Ours and its peers side by side: one split, the same cores, the same seconds of fitting, the same judge.

    python benchmarks/peers.py --train TRAIN.parquet --test TEST.parquet --seconds 300 --threads 2 \\
        --out benchmarks/peers_gowalla [--systems "SimpleX" "ours, 128"]

implicit's systems need the extra `bench`. Columns user_id, item_id. Each system fits a train that lacks a
slice (the [validation] of configs/bench/default.toml) until its seconds are over, and is judged on that
slice at doubling points of them; reading, judging and first uses are not counted. The point of the best
recall@20 says how many steps the refit on all of train takes, and that is scored on test, once; the last
system is compared with each other one user by user. OUT.csv has every point, OUT.md a table, OUT.png the
curves. One seed; implicit's BPR on several threads differs from run to run.

Axes: U users, I items, N interactions, D dimensions, B triplets or interactions of a batch, C candidates,
H items of the histories of a batch.
"""

import argparse
import contextlib
import importlib.util
import itertools
import logging
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy.sparse
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, normalize, softplus

from pipelines.config.bench import Bench
from pipelines.config.loading import load_settings
from pipelines.data import published
from pipelines.evaluation.statistics import paired_differences
from pipelines.tracking import log
from pipelines.training import model, plans
from pipelines.training.devices import choose_device, describe_device, keep_freed_memory
from pipelines.training.judging import judge_fold
from pipelines.training.model import popularity_vectors
from pipelines.training.spectrum import widest
from recsys import baselines, graph, spaces
from recsys.epochs import epochs
from recsys.files import write_text
from recsys.graph import Matrix
from recsys.judge import Judge, Values
from recsys.sampling import DeviceInteractions, histories
from recsys.spaces import Vectors
from recsys.training import START, start_training

LOGGER = logging.getLogger("recsys")

CONFIG = Path(__file__).parents[1] / "configs" / "bench" / "default.toml"
SELECT, SHOWN = "recall@20", ("recall@20", "ndcg@20", "hit_rate@10")
DOUBLINGS = 10  # so the first point is at a thousandth of the seconds
DIM, LAYERS, BATCH, LEARNING_RATE, LAMBDA = 64, 3, 2048, 1e-3, 1e-4  # He et al. 2020, section 4.1.2
START_DEVIATION = 0.1  # of every coordinate, as in its authors' PyTorch code
# Mao et al. 2021, the authors' settings for Gowalla (reczoo/RecZoo, SimpleX_gowalla_m1); `own`: their gamma
SIMPLEX = {"margin": 0.9, "weight": 250.0, "candidates": 2000, "own": 0.8}
# theirs: batch 256, rate 1e-4; the best of eight tries of 25 s each on Gowalla's validation
SIMPLEX_BATCH, SIMPLEX_RATE, SIMPLEX_DEVIATION = 1024, 1e-3, 1e-4
FACTORS = 128
ALS = {"alpha": 10.0, "regularization": 50.0}
BPR = {"learning_rate": 0.03, "regularization": 0.01}  # of .01, .03, .1 by .01, .001 the best on 6,000 users
TIMED_STEPS, MOST_STEPS = 5, 5_000  # of ours
FOREVER = 10**9  # iterations: time ends them


class Task(NamedTuple):
    """What a system gets to fit; `plan` is that of the point that is to be made again."""

    judge: Judge
    config: Bench
    seconds: float
    plan: int | None = None


class Point(NamedTuple):
    """A judged system."""

    system: str
    of: str  # validation or test
    step: int
    plan: int  # steps in all, which the learning rate's fall depends on; 0 where nothing does
    seconds: float  # of fitting, up to here
    metrics: dict[str, float]


OnStep = Callable[[int, int, Callable[[], Vectors]], None]  # step, plan, what has been fitted so far
System = Callable[[Task, OnStep], None]  # calls OnStep with step 0 when it is set up, and after each step


class Enough(Exception):
    """Ends a fit between two steps."""


# The systems


def popular(task: Task, on_step: OnStep) -> None:
    on_step(1, 0, lambda: popularity_vectors(task.judge.data))


def spectral(task: Task, on_step: OnStep) -> None:
    """A step is a setting: each dimension and item exponent of the configuration, all of one spectrum."""
    judge, settings = task.judge, task.config.spectral
    spectrum = baselines.spectral(judge.data, widest(task.config, judge.data), 0.0, seed=task.config.seed)

    def vectors(dim: int, item_exponent: float) -> Vectors:
        choice = model.spectral_settings(dim, item_exponent, task.config.seed)
        return spaces.euclidean_vectors(model.spectral_space(judge.data, choice, spectrum))

    dims = sorted({min(dim, spectrum[0].shape[1]) for dim in settings.dims})
    for step, (dim, exponent) in enumerate(itertools.product(dims, settings.item_exponents), 1):
        on_step(step, 0, partial(vectors, dim, exponent))


def ours(task: Task, on_step: OnStep, dim: int) -> None:
    """The first graph space of `recsys bench`, at the settings from which its search starts.

    One cycle of so many steps as there is time for: the learning rate falls over them.
    A few steps are taken first to see how long one takes; they count as fitting.
    """
    data, config = task.judge.data, task.config
    started = now(data)
    plan = next(plan for plan in plans.plans(config) if plan.space.kind == "graph")
    width = min(dim, data.n_users, data.n_items)
    settings = plans.graph_settings(config, plan, plans.first_point(config, data), width)

    def fit(steps: int, each: Callable[[int], None]) -> None:
        done = itertools.count(1)
        training.progress, training.plan = START, lambda epoch, step: steps
        training.on_step = lambda interactions: each(next(done)) if interactions else None
        for _ in epochs(training, 1):
            pass

    def vectors() -> Vectors:
        return spaces.euclidean_vectors(training.model.space())

    training = start_training(data, settings)
    training.with_health = False
    steps = task.plan
    if steps is None:
        begin = training.state()
        ends = list[float]()
        fit(TIMED_STEPS, lambda step: ends.append(now(data)))
        training.optimizer.state.clear()
        training.restore(begin)
        left = task.seconds - (now(data) - started)
        steps = max(1, min(MOST_STEPS, int(left / (1.05 * np.median(np.diff(ends))))))
    on_step(0, steps, vectors)
    fit(steps, lambda step: on_step(step, steps, vectors))


def random_tables(
    data: DeviceInteractions, deviation: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Users (U, D) and items (I, D) to train, drawn from a normal distribution."""
    users, items = (
        (deviation * torch.randn(n, DIM, generator=generator, device=generator.device)).requires_grad_()
        for n in (data.n_users, data.n_items)
    )
    return users, items


def pairwise(task: Task, on_step: OnStep, layers: int) -> None:
    """LightGCN (He et al. 2020, eq. 3-8 and 15) with so many layers; with none it is BPR's factorisation."""
    data = task.judge.data
    device = data.user.device
    generator = torch.Generator(device).manual_seed(task.config.seed)
    users, items = random_tables(data, START_DEVIATION, generator)  # (U, D), (I, D)
    edges = graph.adjacency(data)
    optimizer = torch.optim.Adam([users, items], LEARNING_RATE, fused=device.type in ("cpu", "cuda"))

    @torch.no_grad()
    def vectors() -> Vectors:
        return of_products(*light(edges, users, items, layers))

    on_step(0, 0, vectors)
    epochs = (triplets(data, len(data.user), generator) for _ in itertools.count())
    batches = (batch for epoch in epochs for batch in torch.split(epoch, BATCH, dim=1))
    for step, (user, *chosen) in enumerate(batches, 1):  # (B,) each
        both = torch.cat(chosen)  # (2B,): positives, then negatives
        own = [embedding(user, users), embedding(both, items)]  # (B, D), (2B, D)
        seen = own
        if layers:
            all_users, all_items = light(edges, users, items, layers)
            seen = [embedding(user, all_users), embedding(both, all_items)]
        positive, negative = seen[1].chunk(2)
        squares = own[0].square().sum() + own[1].square().sum()
        loss = softplus((seen[0] * (negative - positive)).sum(1)).mean() + LAMBDA * squares / (2 * len(user))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        on_step(step, 0, vectors)


def light(edges: Matrix, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """(U, D), (I, D) -> the means over 0 .. `layers` propagations: eq. 4, all weights 1 / (layers + 1)."""
    user_sum, item_sum = graph.propagate(edges, users, items, layers)
    return user_sum / (layers + 1), item_sum / (layers + 1)


def triplets(data: DeviceInteractions, size: int, generator: torch.Generator) -> Tensor:
    """(3, B): a user, one of their items, one of the others; each uniform, as LightGCN's authors draw."""
    count = data.offsets.diff()  # (U,)
    some = ((count > 0) & (count < data.n_items)).nonzero()[:, 0]
    share = torch.rand(3, size, dtype=torch.float64, generator=generator, device=count.device)  # (3, B)
    user = some[(share[0] * len(some)).long()]
    first, own = data.offsets[user], count[user]  # (B,)
    positive = data.item[first + (share[1] * own).long()].long()
    place = torch.arange(len(data.user), device=count.device) - data.offsets[data.user]  # (N,)
    lacking = data.user.long() * data.n_items + data.item - place  # (N,), rising: lower items not theirs
    rank = (share[2] * (data.n_items - own)).long()  # (B,): of the negative among all items they do not have
    below = torch.searchsorted(lacking, user * data.n_items + rank, right=True) - first  # own items below it
    return torch.stack([user, positive, rank + below])


def simplex(task: Task, on_step: OnStep) -> None:
    """SimpleX (Mao et al. 2021): a user is their own row and the mapped mean of their items.

    Unlike the authors' settings for Gowalla: a mean in place of attention, candidates that a batch shares, no
    dropout, no weight decay.
    """
    data = task.judge.data
    device = data.user.device
    generator = torch.Generator(device).manual_seed(task.config.seed)
    users, items = random_tables(data, SIMPLEX_DEVIATION, generator)  # (U, D), (I, D)
    mapping = torch.eye(DIM, device=device).requires_grad_()  # (D, D)
    parameters = [users, items, mapping]
    optimizer = torch.optim.Adam(parameters, SIMPLEX_RATE, fused=device.type in ("cpu", "cuda"))

    @torch.no_grad()
    def vectors() -> Vectors:
        everybody = torch.arange(data.n_users, device=device)
        return of_products(simplex_users(data, everybody, *parameters), normalize(items, dim=1))

    on_step(0, 0, vectors)
    n, n_candidates = len(data.item), int(SIMPLEX["candidates"])
    epochs = (torch.randperm(n, generator=generator, device=device) for _ in itertools.count())
    batches = (batch for epoch in epochs for batch in torch.split(epoch, SIMPLEX_BATCH))
    for step, batch in enumerate(batches, 1):  # (B,)
        drawn = torch.randint(data.n_items, (n_candidates,), generator=generator, device=device)  # (C,)
        anchors = simplex_users(data, data.user[batch].long(), *parameters)  # (B, D)
        positive, candidates = (
            normalize(embedding(chosen, items), dim=1) for chosen in (data.item[batch].long(), drawn)
        )  # (B, D), (C, D)
        loss = cosine_contrastive(anchors, positive, candidates)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        on_step(step, 0, vectors)


def simplex_users(
    data: DeviceInteractions, user: Tensor, users: Tensor, items: Tensor, mapping: Tensor
) -> Tensor:
    """(B,), (U, D), (I, D), (D, D) -> (B, D) of length 1; of a user without items their own row alone."""
    row, item = histories(data, user)  # (H,)
    sizes = torch.bincount(row, minlength=len(user))  # (B,)
    mean = embedding_bag(item.long(), items, sizes.cumsum(0) - sizes, mode="mean")  # (B, D)
    own = SIMPLEX["own"]
    return normalize(own * embedding(user, users) + (1 - own) * mean @ mapping, dim=1)


def cosine_contrastive(anchors: Tensor, positive: Tensor, candidates: Tensor) -> Tensor:
    """CCL (Mao et al. 2021) of points of length 1: (B, D), (B, D), (C, D) -> ()."""
    pushed = (anchors @ candidates.T - SIMPLEX["margin"]).relu().mean(1)  # (B,)
    return (1 - (anchors * positive).sum(1) + SIMPLEX["weight"] * pushed).mean()


def of_implicit(task: Task, on_step: OnStep, module: str, name: str, settings: dict[str, float]) -> None:
    """A model of implicit, its CUDA one where there is such a device; a step is one of its iterations."""
    data = task.judge.data
    on_gpu = implicit_takes(data.user.device)
    user, item = data.user.cpu().numpy(), data.item.cpu().numpy()
    ones = np.ones(len(user), np.float32)  # (N,)
    matrix = scipy.sparse.csr_matrix((ones, (user, item)), (data.n_users, data.n_items))
    with importlib.import_module("threadpoolctl").threadpool_limits(1, "blas"):  # as implicit advises
        fitted = getattr(importlib.import_module(f"implicit.{module}"), name)(
            factors=FACTORS,
            iterations=FOREVER,
            use_gpu=on_gpu,
            num_threads=torch.get_num_threads(),
            random_state=task.config.seed,
            **settings,
        )

        def vectors() -> Vectors:
            parts = (fitted.user_factors, fitted.item_factors)  # BPR's item offset is one more factor
            users, items = (torch.tensor(part.to_numpy() if on_gpu else part) for part in parts)
            return of_products(users.to(data.user.device), items.to(data.user.device))

        on_step(0, 0, vectors)
        fitted.fit(matrix, show_progress=False, callback=lambda step, *rest: on_step(step + 1, 0, vectors))


def of_implicit_package(name: str) -> bool:
    """Whether a system is of the package implicit."""
    return name.startswith("implicit")


def implicit_takes(device: torch.device) -> bool:
    """Whether its CUDA models run here; where they do not, it gets the CPU's."""
    return device.type == "cuda" and bool(importlib.import_module("implicit.gpu").HAS_CUDA)


SYSTEMS: dict[str, System] = {
    "popularity": popular,
    "spectral": spectral,
    "implicit ALS": partial(of_implicit, module="als", name="AlternatingLeastSquares", settings=ALS),
    "implicit BPR": partial(of_implicit, module="bpr", name="BayesianPersonalizedRanking", settings=BPR),
    "BPR MF": partial(pairwise, layers=0),
    "LightGCN": partial(pairwise, layers=LAYERS),
    "SimpleX": simplex,
    "ours, 64": partial(ours, dim=63),  # the item's offset is one more coordinate
    "ours, 128": partial(ours, dim=127),
}
UNTRAINED = ("popularity", "spectral")
PEERS = ("implicit ALS", "implicit BPR", "BPR MF", "LightGCN", "SimpleX")


def of_products(users: Tensor, items: Tensor) -> Vectors:
    """(U, D), (I, D) -> vectors whose distances rank as the inner products do."""
    return spaces.euclidean_vectors(spaces.inner_product_space(users, items))


# The comparison


def curve(name: str, task: Task) -> list[Point]:
    """Fit for the seconds, judged at their doublings and at the end; the untrained at each setting."""
    marks = [task.seconds / 2**k for k in range(DOUBLINGS, -1, -1)]
    points, waiting = list[Point](), list[Callable[[], None]]()  # waiting: the last step, while not judged
    before = excluded = 0.0
    started = now(task.judge.data)

    def judged(step: int, plan: int, seconds: float, vectors: Callable[[], Vectors]) -> None:
        nonlocal excluded
        since = now(task.judge.data)
        means = task.judge.means(vectors())
        points.append(Point(name, "validation", step, plan, seconds, {m: means[m] for m in SHOWN}))
        LOGGER.info(f"{name}: step {step}, {seconds:.2f} s: {SELECT} {means[SELECT]:.4f}")
        excluded += now(task.judge.data) - since

    def on_step(step: int, plan: int, vectors: Callable[[], Vectors]) -> None:
        nonlocal before
        seconds = now(task.judge.data) - started - excluded
        is_last = step > 0 and 2 * seconds - before > task.seconds  # there is no time for another like it
        before = seconds
        waiting[:] = [partial(judged, step, plan, seconds, vectors)]
        if step > 0 and (is_last or name in UNTRAINED or seconds >= marks[0]):
            waiting.pop()()
            marks[:] = [mark for mark in marks if mark > seconds] or [task.seconds]
        if is_last:
            raise Enough

    with contextlib.suppress(Enough):
        SYSTEMS[name](task, on_step)
        if waiting:  # it came to its own end
            waiting.pop()()
    return points


def refitted(task: Task, chosen: Point) -> tuple[Point, Values]:
    """The point made again from all of train, judged on test, and each user's values there."""
    started = now(task.judge.data)
    found = list[tuple[Point, Values]]()

    def on_step(step: int, plan: int, vectors: Callable[[], Vectors]) -> None:
        if step == chosen.step:
            seconds, values = now(task.judge.data) - started, task.judge.values(task.judge.rank(vectors()))
            metrics = {metric: float(values[metric].mean()) for metric in SHOWN}
            found.append((chosen._replace(of="test", seconds=seconds, metrics=metrics), values))
            raise Enough

    with contextlib.suppress(Enough):
        SYSTEMS[chosen.system](task._replace(plan=chosen.plan), on_step)
    return found[0]


def now(data: DeviceInteractions) -> float:
    """Seconds, when the device has done what it was asked for."""
    if data.user.device.type == "cuda":
        torch.cuda.synchronize(data.user.device)
    return time.perf_counter()


def best(points: list[Point], name: str) -> Point:
    return max(of_validation(points, name), key=lambda point: point.metrics[SELECT])


def reached(points: list[Point], name: str, target: float) -> str:
    """Seconds of the first judged point of at least the target."""
    seconds = [p.seconds for p in of_validation(points, name) if p.metrics[SELECT] >= target]
    return f"{min(seconds):.2f}" if seconds else "not"


def of_validation(points: list[Point], name: str) -> list[Point]:
    return [point for point in points if (point.system, point.of) == (name, "validation")]


# What is written


def as_markdown(
    points: list[Point], tests: list[tuple[Point, Values]], task: Task, counts: dict[str, int]
) -> str:
    names, (last, of_last) = [point.system for point, _ in tests], tests[-1]
    peers = [best(points, name) for name in names if name in PEERS]
    goal = max((point.metrics[SELECT] for point in peers), default=None)
    config, device = task.config, task.judge.data.user.device
    head = ["system", "best step", "at s", f"validation {SELECT}"]
    head += [] if goal is None else [f"s to {goal:.4f}"]
    head += [f"test {SELECT}", "test ndcg@20", *(f"{last.system} − it, {m}" for m in (SELECT, "ndcg@20"))]
    rows = [head, ["--"] * len(head)]
    for test, values in tests:
        at = best(points, test.system)
        row = [test.system, f"{at.step:,}", f"{at.seconds:.2f}", f"{at.metrics[SELECT]:.4f}"]
        row += [] if goal is None else [reached(points, test.system, goal)]
        row += [f"{test.metrics[SELECT]:.4f}", f"{test.metrics['ndcg@20']:.4f}"]
        rows.append([*row, *(["", ""] if values is of_last else differences(of_last, values, config))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    packages = ["torch", "recsys", *(["implicit"] if any(map(of_implicit_package, names)) else [])]
    versions = " ".join(f"{name} {metadata.version(name)}" for name in packages)
    notes = [note for start, note in notes_of(task).items() if any(name.startswith(start) for name in names)]
    reaching = "" if goal is None else "`s to`: the first judged point with the best peer's recall@20.\n"
    judged, lines = len(task.judge.users), "\n".join(notes)
    return f"""{task.seconds:g} s of fitting each; reading, judging and first uses are not counted.
{describe_device(device)}, threads: {torch.get_num_threads()}, {versions}.
One run, seed {config.seed}.
{counts["users"]:,} users, {counts["items"]:,} items; {counts["train"]:,} pairs to fit, {counts["test"]:,}
to find. Validation is a share of {config.validation.share:g} of each user's pairs, judged on {judged:,}
users.

{reaching}Points are doublings of the seconds apart. Test: refitted on all of train for as many steps, and
scored once. `− it`: the mean difference on test, user by user, with its 95 % interval.

{table}

{lines}
"""


def differences(one: Values, other: Values, config: Bench) -> list[str]:
    """Mean, and 95 % bootstrap interval over users, of one's recall@20 and ndcg@20 less the other's."""
    found = paired_differences(one, other, config.evaluate.resamples, config.seed)
    of = [found[metric] for metric in (SELECT, "ndcg@20")]
    return [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in of]


def notes_of(task: Task) -> dict[str, str]:
    """By the beginning of a system's name, what it is."""
    config, device = task.config, task.judge.data.user.device
    implicit = "CUDA" if importlib.util.find_spec("implicit") and implicit_takes(device) else "CPU"
    epoch, simplex_epoch = (-(-len(task.judge.data.user) // size) for size in (BATCH, SIMPLEX_BATCH))
    pairwise = f"BPR loss, one uniform negative, batch {BATCH:,}, Adam {LEARNING_RATE:g}, λ {LAMBDA:g}"
    return {
        "implicit ALS": f"""- implicit ALS, {implicit}: {FACTORS} factors, {words(ALS)};
  a step is an iteration.""",
        "implicit BPR": f"""- implicit BPR, {implicit}: {FACTORS} factors, {words(BPR)};
  a step is an iteration over as many triplets as there are pairs.""",
        "LightGCN": f"""- LightGCN (He et al. 2020): {DIM}-d, mean of {LAYERS} layers and the tables,
  {pairwise}; written here, on the
  sparse product that ours uses. {epoch:,} steps are an epoch.""",
        "BPR MF": f"""- BPR MF: {DIM}-d, {pairwise}.""",
        "SimpleX": f"""- SimpleX (Mao et al. 2021): {DIM}-d, {words(SIMPLEX)}, as its authors
  for Gowalla; but a mean of the history in place of attention, candidates shared by a batch of
  {SIMPLEX_BATCH:,}, a start of deviation {SIMPLEX_DEVIATION:g}, Adam {SIMPLEX_RATE:g}, no
  dropout, no weight decay; written here. {simplex_epoch:,} steps are an epoch.""",
        "ours": f"""- ours: the first space of `recsys bench`, a graph from the spectral start at the settings
  from which its search starts, in one cycle of {MOST_STEPS:,} steps or as many as there is time for, of
  at most {config.graph.batch_users:,} users. The learning rate falls until the last step: points before it
  are below what a shorter training reaches.""",
        "spectral": f"""- spectral: truncated SVD, no training; a step is a setting, dimensions
  {config.spectral.dims} by item exponents {config.spectral.item_exponents}.""",
    }


def words(settings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def plot(points: list[Point], path: Path) -> None:
    """Validation against seconds of fitting."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(point.system for point in points):
        of_name = of_validation(points, name)
        seconds, score = [p.seconds for p in of_name], [p.metrics[SELECT] for p in of_name]
        if name == "popularity":
            axes.axhline(score[0], color="grey", linestyle=":", label=name)
        else:
            line = "s" if name == "spectral" else "D-" if name.startswith("ours") else "o-"
            axes.plot(seconds, score, line, markersize=4, label=name)
    axes.set(title="Validation at equal seconds", xlabel="seconds of fitting", ylabel=SELECT, xscale="log")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="without a suffix")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    args = parser.parse_args()
    if len(set(args.systems)) < len(args.systems):
        parser.error(f"--systems {' '.join(args.systems)}: each once")
    if not (args.seconds > 0 and args.threads > 0):
        parser.error(f"--seconds {args.seconds} --threads {args.threads}, allowed > 0")
    if any(map(of_implicit_package, args.systems)) and importlib.util.find_spec("implicit") is None:
        parser.error('implicit is not installed: pip install -e ".[train,bench]"')
    torch.set_num_threads(args.threads)
    device = choose_device("auto")
    keep_freed_memory()
    config = load_settings(Bench, CONFIG)
    data = published.read_split(args.train, args.test)
    kept, held_out = published.hold_out_slice(data, config.validation, config.seed)
    judge, whole = (
        judge_fold(data.fold(*pairs), device, config.evaluate)
        for pairs in ((kept, held_out), (data.train, data.test))
    )
    task = Task(judge, config, args.seconds)
    for name in args.systems:  # imports and a device's first use are not timed
        curve(name, task._replace(seconds=0.0))
    points = [point for name in args.systems for point in curve(name, task)]
    tests = [refitted(task._replace(judge=whole), best(points, name)) for name in args.systems]
    rows = [point._asdict() | point.metrics for point in (*points, *(point for point, _ in tests))]
    pl.DataFrame(rows).drop("metrics").write_csv(args.out.with_suffix(".csv"), float_precision=5)
    table = as_markdown(points, tests, task, data.counts)
    write_text(args.out.with_suffix(".md"), table)
    plot(points, args.out.with_suffix(".png"))
    print(table)


if __name__ == "__main__":
    log.to_standard_error()
    main()
