"""bench: one published split, a budget in seconds, one line of figures that nothing was chosen by.

A slice of train chooses; test is scored once, by what was refitted on all of train, or by what was fitted
without the slice if the budget has no room for more. Seconds are those of the wall, reading and every choice
included; scoring test and exporting come after the budget.
Axes: U users, I items, K dimensions of the spectrum.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipelines.config import files
from pipelines.config.bench import Bench, Seeded, Trial
from pipelines.config.errors import InputError
from pipelines.data.published import Data, read, sliced
from pipelines.evaluation.evaluate import intervals, served
from pipelines.release.index_search import tuned
from pipelines.report import figures
from pipelines.tracking import progress
from pipelines.training.devices import choose_device, keep_freed_memory
from pipelines.training.judging import judge_fold
from pipelines.training.model import popularity_vectors
from pipelines.tuning.ascent import coordinate_ascent
from recsys import baselines, bundle, graph, models, precision, spaces
from recsys.distances import squared_euclidean
from recsys.graph import GraphSpace
from recsys.judge import Judge
from recsys.spaces import Space, Vectors
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")

SHOWN = ("recall@20", "ndcg@20", "hit_rate@10")  # as far as evaluate.ks has them
TIMED_STEPS = 6  # the first of them is not counted
TRIALS = 0.15  # of the budget at the most
SPREAD_USERS = 100
MARGIN = 0.04  # of the budget, kept free for what was not foreseen
LEAST_REFIT = 0.5  # of the steps that were judged; what fewer made would be another model


class SpectralChoice(NamedTuple):
    """Settings of the baseline that validation chooses among."""

    spectral_dim: int
    item_exponent: float


class Learned(NamedTuple):
    """What was learned on the slice that is left of train."""

    space: Space
    weight: float  # of the spectrum beside it, 0 for none
    score: float  # of both on validation
    seconds: float  # that these trainings took
    starts: tuple[Seeded, ...]  # those that are side by side


Spectrum = tuple[torch.Tensor, torch.Tensor]  # (U, K), (I, K), the items without their exponent


class Clock:
    """The budget, and every validation point with its second."""

    def __init__(self, seconds: float | None, device: torch.device) -> None:
        self.started, self.seconds, self.points = time.monotonic(), seconds, list[dict[str, Any]]()
        self.device = device
        self.judging = 0.0  # seconds of the latest point
        self.kept = 0.0  # seconds that the refit takes before its first step

    def now(self) -> float:
        """Seconds since the start, when the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - self.started

    def left(self) -> float:
        """Seconds that may still be spent."""
        return float("inf") if self.seconds is None else self.seconds * (1 - MARGIN) - self.kept - self.now()

    def is_past(self, end: float, step: int) -> bool:
        """Is it later than that second? A GPU is asked after every eighth step alone, as the host waits."""
        return (self.device.type == "cpu" or step % 8 == 0) and self.now() > end


class OutOfTime(Exception):
    """The budget is used up."""


def bench(
    config: Bench,
    train: Path,
    test: Path,
    out: Path,
    device_name: str = "auto",
    seconds: float | None = None,
) -> dict[str, Any]:
    """What metrics.json holds; written to `out`, with a plot of validation against seconds beside it.

    Raises InputError: unreadable files, no such column, ids missing, nothing to judge, unknown device.
    """
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds}, allowed > 0 and finite; without it there is no budget")
    device = choose_device(device_name, "--device")
    keep_freed_memory()
    clock = Clock(seconds, device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    written = out.resolve(), out.with_suffix(".svg").resolve()
    if out.suffix == ".svg" or out.is_dir() or {train.resolve(), test.resolve()} & set(written):
        raise InputError(
            f"--out '{out}', allowed: a file for JSON other than --train and --test; the plot takes its name "
            "with .svg"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"'{out}' cannot be written: {error}") from None
    data = read(train, test)
    fitted, held_out = sliced(data, config.validation, config.seed)
    judge = judge_fold(data.fold(fitted, held_out), device, config.evaluate)
    counts = data.counts
    if strangers := counts["items_of_test_alone"]:
        LOGGER.info(f"bench: {strangers:,} items of '{test}' are not in '{train}': no model can name them")
    LOGGER.info(
        f"bench: {counts['users']:,} users, {counts['items']:,} items, {counts['train']:,} pairs, {device}"
    )

    began = clock.now()
    spectrum = spectrum_of(config, judge)
    clock.kept = clock.now() - began
    scores = {"popularity": point(config, judge, popularity_vectors(judge.data), "popularity", clock)}
    chosen, scores["spectral"] = choose_spectral(config, judge, spectrum, clock)
    trial, dims = choose_trial(config, judge, spectrum, clock)
    trial, steps = with_room(config, judge, trial, dims, spectrum, clock)
    learned = learn(config, judge, trial, spectrum, chosen, steps, clock) if steps > 0 else None
    if learned is not None:
        scores["both" if learned.weight > 0 else "learned"] = learned.score
    model_is = max(scores, key=lambda name: scores[name])

    whole = judge_fold(
        data.fold(data.train, data.test), device, config.evaluate
    )  # ranked against test at the end
    spectrum = spectrum_of(config, whole)
    clock.kept = 0.0
    systems: dict[str, Vectors] = {
        "popularity": popularity_vectors(whole.data),
        "spectral": spectral_vectors(whole, spectrum, chosen),
    }
    choices: dict[str, Any] = chosen._asdict() | trial._asdict() | {"steps": steps}
    if learned is not None and model_is in ("learned", "both"):
        planned = affordable(config, learned, steps, clock)
        space, done = learned.space, 0
        if planned > 0:
            space, done = refit(config, whole, trial, learned.starts, spectrum, planned, clock)
        if done < planned or planned == 0:
            LOGGER.info(f"bench: the refit came to {done} of {steps} steps; the slice's fit stays")
            space, planned = learned.space, 0
        systems["learned"] = spaces.euclidean_vectors(space)
        if learned.weight > 0:
            systems["both"] = with_spectrum(config, whole, space, spectrum, chosen, learned.weight)
        starts = [seeded.as_json(trial) for seeded in learned.starts]
        choices |= {"refit_steps": planned, "starts": starts, "beside": learned.weight}
    fit_seconds = clock.now()
    if seconds is not None and fit_seconds > 1.1 * seconds:
        LOGGER.info(f"bench: the budget of {seconds:g} s did not hold")
    LOGGER.info(f"bench: fitted after {fit_seconds:.1f} s; the model is the {model_is} one")
    LOGGER.info(
        "bench: beyond the budget: test is scored once, and its users are served one by one through the index"
    )

    values = {name: whole.values(whole.rank(vectors)) for name, vectors in systems.items()}
    values["model"] = values[model_is]
    with tempfile.TemporaryDirectory() as folder:
        recommender, search_k = exported(config, data, systems[model_is], Path(folder))
        values["served"] = whole.values(
            served(recommender, data.user_ids, data.item_ids, whole, config.evaluate.exclude_seen)
        )
    shown = [name for name in SHOWN if name in values["model"]]
    result: dict[str, Any] = {
        "test": {name: {m: float(value[m].mean()) for m in shown} for name, value in values.items()},
        "intervals": {
            name: intervals({m: value[m] for m in shown}, config.evaluate.resamples, config.seed, name)
            for name, value in values.items()
        },
        "model": model_is,
        "dim": systems[model_is][1].shape[1],
        "search_k": search_k,
        "chosen": choices,
        "seconds": {"budget": seconds, "fit": fit_seconds, "with_test": clock.now()},
        "validation": clock.points,
        "counts": data.counts | {"users_judged": len(whole.users)},
        "device": device_words(device),
        "threads": torch.get_num_threads(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "numpy", "annoy", "recsys")
        },
        "config": config.model_dump(mode="json"),
    }
    try:
        files.write_whole(out, json.dumps(result, indent=1))
        figures.quality(out.stem, clock.points, fit_seconds, config.evaluate.select).save(out.parent)
    except OSError as error:
        raise InputError(f"'{out}' cannot be written: {error}") from None
    return result


# Choices, all on validation


def spectrum_of(config: Bench, judge: Judge) -> Spectrum:
    """The widest that anything asks for, made once a fold; its leading dimensions are the narrower ones."""
    limit = min(judge.data.n_users, judge.data.n_items)
    return baselines.spectral(
        judge.data,
        min(max(*config.spectral.dims, *config.graph.dims, config.beside.dims), limit),
        0.0,
        seed=config.seed,
    )


def choose_spectral(
    config: Bench, judge: Judge, spectrum: Spectrum, clock: Clock
) -> tuple[SpectralChoice, float]:
    """The baseline's dimension and item exponent, which no neighbour beats, and their score."""
    dims = tuple(dict.fromkeys(min(dim, spectrum[0].shape[1]) for dim in config.spectral.dims))
    lists: dict[str, tuple[Any, ...]] = {
        "spectral_dim": dims,
        "item_exponent": config.spectral.item_exponents,
    }

    def score(tried: SpectralChoice) -> float:
        return point(config, judge, spectral_vectors(judge, spectrum, tried), "spectral", clock)

    first = SpectralChoice(**{name: values[0] for name, values in lists.items()})
    scores = coordinate_ascent(first, lists, score, lambda _: clock.left() > 0)
    best = max(scores, key=lambda one: scores[one])
    words = f"spectral, {best.spectral_dim} dimensions, item exponent {best.item_exponent:g}"
    LOGGER.info(f"bench: {words}: {config.evaluate.select} {scores[best]:.4f}")
    return best, scores[best]


def choose_trial(config: Bench, judge: Judge, spectrum: Spectrum, clock: Clock) -> tuple[Trial, list[int]]:
    """Settings that no neighbour beats by short trainings, and the dimensions worth a long one, ascending.

    All take at most TRIALS of the budget; none is made where that has no room for two. Dimensions come last,
    and only those are ruled out that did no better with the other settings as they are in the end.
    """
    settings = config.graph
    dims = sorted({min(dim, spectrum[0].shape[1]) for dim in settings.dims})
    lists: dict[str, tuple[Any, ...]] = {
        "temperature": settings.temperatures,
        "popularity_power": settings.popularity_powers,
        "hops": settings.hops,
        "dim": tuple(dims),
    }
    first = Trial(dim=dims[0], **{name: values[0] for name, values in lists.items() if name != "dim"})
    if all(len(values) == 1 for values in lists.values()):
        return first, dims
    lasts = settings.trial_steps * step_seconds(config, judge, first, spectrum, clock) + clock.judging
    end = clock.now() + min(clock.left(), TRIALS * (clock.seconds or float("inf")))
    if clock.now() + 2 * lasts > end:
        LOGGER.info(
            f"bench: no room for trials: two take {2 * lasts:.1f} s, more than {TRIALS:.0%} of the budget; "
            "the first of each list is taken"
        )
        return first, dims

    def score(trial: Trial) -> float:
        nonlocal lasts
        began = clock.now()
        try:
            return _tried(config, judge, trial, spectrum, clock)
        except FloatingPointError as error:
            LOGGER.info(f"bench: {trial.words()}: {error}")
            return -1.0
        finally:
            lasts = max(lasts, (clock.now() - began) * dims[0] / trial.dim)  # three hops take longer than two

    def has_room(trial: Trial) -> bool:
        room = clock.now() + lasts * trial.dim / dims[0] <= end
        if not room:
            LOGGER.info(f"bench: no room to try {trial.words()}")
        return room

    scores = coordinate_ascent(first, lists, score, has_room)
    best = max(scores, key=lambda trial: scores[trial])
    no_better = (dim for dim in dims if dim > best.dim and best._replace(dim=dim) in scores)
    least = next(no_better, dims[-1] + 1)
    return best, [dim for dim in dims if dim < least]


def _tried(config: Bench, judge: Judge, trial: Trial, spectrum: Spectrum, clock: Clock) -> float:
    first = config.graph.seeded(config.seed)[0]
    model = model_at(config, judge, trial, spectrum, first)
    graph_fit(config, model, first.seed, config.graph.trial_steps)
    score = point(config, judge, spaces.euclidean_vectors(model.space()), "trial", clock)
    LOGGER.info(
        f"bench: {config.graph.trial_steps} steps, {trial.words()}: {config.evaluate.select} {score:.4f}"
    )
    return score


def step_seconds(config: Bench, judge: Judge, trial: Trial, spectrum: Spectrum, clock: Clock) -> float:
    """The median of a few steps after a first, cold one, or of as many as an eighth of what is left holds."""
    ends, end = [clock.now()], clock.now() + clock.left() / 8

    def heard(step: int, loss: torch.Tensor) -> None:
        ends.append(clock.now())
        if step > 1 and ends[-1] > end:
            raise OutOfTime

    with contextlib.suppress(OutOfTime, FloatingPointError):  # a training that diverges is told of later
        first = config.graph.seeded(config.seed)[0]
        graph_fit(config, model_at(config, judge, trial, spectrum, first), first.seed, TIMED_STEPS, heard)
    return float(np.median(np.diff(ends)[1:]))


def with_room(
    config: Bench,
    judge: Judge,
    trial: Trial,
    dims: list[int],
    spectrum: Spectrum,
    clock: Clock,
) -> tuple[Trial, int]:
    """The most of the dimensions that the budget holds all steps of, here and in the refit; how many steps.

    A few steps of each are timed, the widest first. What room is left goes into more steps. If there is no
    room for all steps even of the least dimensions, fewer are taken.
    """
    settings = config.graph
    n_users = int((judge.data.offsets.diff() > 0).sum())
    steps = max(settings.steps, settings.rounds * graph.steps_a_round(n_users, settings.batch_users))
    if clock.seconds is None:
        return trial._replace(dim=dims[-1]), int(settings.longer * steps)
    wanted = steps
    n, together = len(settings.starts), settings.side_by_side()
    points = 3 * n + sum((n - k) * (k + 1) for k in range(together))  # as wide as k + 1 trainings
    points += len(config.beside.weights) * (together + 1) if config.beside.dims else 0
    hops = [start.trial(trial).hops for start in settings.starts]
    for dim in reversed(dims):
        if clock.left() <= 0:
            return trial._replace(dim=dims[0]), 0
        of_hops = {
            one: step_seconds(config, judge, trial._replace(dim=dim, hops=one), spectrum, clock)
            for one in set(hops)
        }
        steps_of_all = sorted(of_hops[one] for one in hops)  # seconds
        seconds = sum(steps_of_all) + grown(config) * sum(
            steps_of_all[-together:]
        )  # those again in the refit
        spare = clock.left() - 1.5 * points * clock.judging  # wider vectors take longer
        steps = max(0, int(spare / (1.05 * seconds)))
        if steps >= wanted:
            break
    steps = min(steps, int(settings.longer * wanted))
    LOGGER.info(f"bench: {dim} dimensions, {steps} steps of about {np.mean(steps_of_all):.2f} s")
    return trial._replace(dim=dim), steps


def learn(
    config: Bench,
    judge: Judge,
    trial: Trial,
    spectrum: Spectrum,
    chosen: SpectralChoice,
    steps: int,
    clock: Clock,
) -> Learned | None:
    """Train on the slice that is left, from each start; which to keep, and the spectrum's weight beside them.

    Starts for which the budget has no room any more, or that diverge, are left out; None if all are.
    """
    parts, seconds = dict[Seeded, Space](), dict[Seeded, float]()
    trainings = {
        (seeded.start.kind, seeded.seed, seeded.start.trial(trial)): seeded
        for seeded in config.graph.seeded(config.seed)
    }  # none twice: a spectral start of two hops, where two hops are chosen, is that without them
    for seeded in trainings.values():
        began = clock.now()
        model = model_at(config, judge, seeded.start.trial(trial), spectrum, seeded)
        try:
            learn_one(config, judge, model, steps, clock, seeded)
        except (OutOfTime, FloatingPointError) as error:
            LOGGER.info(f"bench: {error or 'training takes too long'}; left out: the {seeded.words()}")
            continue
        parts[seeded], seconds[seeded] = model.space(), clock.now() - began
    if not parts:
        return None
    if len(trainings) < len(config.graph.starts):
        LOGGER.info(
            f"bench: {len(config.graph.starts) - len(trainings)} of the starts are the same as another here"
        )
    kept, best = choose_together(config, judge, parts, seconds, clock)
    space, weight = evenly([parts[seeded] for seeded in kept]), 0.0
    for tried in config.beside.weights if config.beside.dims else ():
        vectors = with_spectrum(config, judge, space, spectrum, chosen, tried)
        score = point(config, judge, vectors, "both", clock)
        LOGGER.info(
            f"bench: with the spectrum beside, weight {tried:g}: {config.evaluate.select} {score:.4f}"
        )
        if score > best:
            best, weight = score, tried
    return Learned(space, weight, best, sum(seconds[seeded] for seeded in kept), tuple(kept))


def choose_together(
    config: Bench,
    judge: Judge,
    parts: dict[Seeded, Space],
    seconds: dict[Seeded, float],
    clock: Clock,
) -> tuple[list[Seeded], float]:
    """The best training, then whichever adds most, as long as one does; and the score of all that are kept.

    Forward selection of an ensemble (Caruana et al. 2004), here of spaces whose distances add up. It ends too
    where a refit of one more would have no room for LEAST_REFIT of its steps.
    """
    kept, best = list[Seeded](), -1.0
    while len(kept) < config.graph.side_by_side():
        left = [seeded for seeded in parts if seeded not in kept]
        dearest = max((seconds[seeded] for seeded in left), default=float("inf"))
        refit_seconds = LEAST_REFIT * grown(config) * (sum(seconds[one] for one in kept) + dearest)
        if not left:
            break
        if kept and clock.left() < 1.5 * len(left) * clock.judging + refit_seconds:
            LOGGER.info("bench: no room for a refit of one more")
            break
        scores = {}
        for seeded in left:
            space = evenly([parts[one] for one in (*kept, seeded)])
            scores[seeded] = point(config, judge, spaces.euclidean_vectors(space), "learned", clock)
            if not kept and len(parts) > 1:
                LOGGER.info(
                    f"bench: the {seeded.words()} alone: {config.evaluate.select} {scores[seeded]:.4f}"
                )
        added = max(scores, key=lambda seeded: scores[seeded])
        if scores[added] <= best:
            LOGGER.info(f"bench: none of the others adds to that; at best {scores[added]:.4f}")
            break
        kept, best = [*kept, added], scores[added]
        LOGGER.info(
            f"bench: after {clock.now():.0f} s, with the {added.words()}: {config.evaluate.select} {best:.4f}"
        )
    return kept, best


def learn_one(
    config: Bench, judge: Judge, model: GraphSpace, steps: int, clock: Clock, seeded: Seeded
) -> None:
    """All steps, judged after each quarter but the last. Raises OutOfTime once the budget is used up."""
    marks, end = {round(steps * quarter / 4) for quarter in (1, 2, 3)} - {steps}, clock.now() + clock.left()
    with progress.progress(f"learning from a {seeded.words()}, to be judged", steps) as tick:

        def heard(step: int, loss: torch.Tensor) -> None:
            tick(1)
            if step in marks:
                if not torch.isfinite(loss):
                    raise FloatingPointError("the loss is not finite: lower the learning_rate")
                vectors = spaces.euclidean_vectors(model.space())
                point(config, judge, vectors, seeded.words(), clock)
            if clock.is_past(end, step):
                raise OutOfTime

        graph_fit(config, model, seeded.seed, steps, heard)


def grown(config: Bench) -> float:
    """How many times the pairs that are left after the slice train has, and so the seconds of a step."""
    return 1 / (1 - config.validation.share)


def affordable(config: Bench, learned: Learned, steps: int, clock: Clock) -> int:
    """Steps of the refit: as many as were judged, or somewhat fewer where those took longer than planned.

    0 if there is no room for LEAST_REFIT of them.
    """
    if clock.seconds is None:
        return steps
    room = min(steps, int(steps * clock.left() / (1.05 * learned.seconds * grown(config))))
    return room if room >= LEAST_REFIT * steps else 0


def refit(
    config: Bench,
    whole: Judge,
    trial: Trial,
    starts: tuple[Seeded, ...],
    spectrum: Spectrum,
    steps: int,
    clock: Clock,
) -> tuple[Space, int]:
    """The chosen model on all of train, and how many of its steps were done: fewer if the budget ended.

    None are done where a training diverges.
    """
    parts, fewest, end = list[Space](), steps, clock.now() + clock.left()
    for seeded in starts:
        model, done = model_at(config, whole, seeded.start.trial(trial), spectrum, seeded), 0
        with progress.progress(f"learning from a {seeded.words()}, on all of train", steps) as tick:

            def heard(step: int, loss: torch.Tensor, tick: Callable[[int], None] = tick) -> None:
                nonlocal done
                done = step
                tick(1)
                if step < steps and clock.is_past(end, step):
                    raise OutOfTime

            try:
                graph_fit(config, model, seeded.seed, steps, heard)
            except OutOfTime:
                pass
            except FloatingPointError:
                done = 0
        parts.append(model.space())
        fewest = min(fewest, done)
        if fewest < steps:
            break
    return evenly(parts), fewest


def evenly(parts: list[Space]) -> Space:
    """The spaces side by side, each spreading the items as far as the first does."""
    first, *others = parts
    whole = first
    for other in others:
        whole = spaces.add_distances(whole, other, float(spread(first) / spread(other)))
    return whole


def with_spectrum(
    config: Bench, judge: Judge, learned: Space, spectrum: Spectrum, chosen: SpectralChoice, weight: float
) -> Vectors:
    """Learned and spectral coordinates in one vector; the weight counts in what either spreads items by."""
    spectral = spectral_space(judge, spectrum, SpectralChoice(config.beside.dims, chosen.item_exponent))
    return spaces.euclidean_vectors(
        spaces.add_distances(learned, spectral, weight * float(spread(learned) / spread(spectral)))
    )


def spread(space: Space) -> torch.Tensor:
    """(): the standard deviation of the items' distances from a user, its mean over SPREAD_USERS of them."""
    n = len(space.users)
    some = torch.arange(0, n, max(1, n // SPREAD_USERS), device=space.users.device)
    return squared_euclidean(space.users[some], space.items, space.offset).std(1).mean()


def model_at(config: Bench, judge: Judge, trial: Trial, spectrum: Spectrum, seeded: Seeded) -> GraphSpace:
    """The model before its first step."""
    settings, data = config.graph, judge.data
    if seeded.start.kind == "spectral":
        users, items = graph.spectral_start(data, spectrum, trial.dim, settings.start_length)
    else:
        generator = torch.Generator(data.user.device).manual_seed(seeded.seed)
        users, items = models.random_start(
            data.n_users, data.n_items, trial.dim, settings.random_length, generator
        )
    return GraphSpace(
        data,
        users,
        items,
        hops=trial.hops,
        temperature=trial.temperature,
        popularity_power=trial.popularity_power,
    )


def graph_fit(
    config: Bench,
    model: GraphSpace,
    seed: int,
    steps: int,
    heard: Callable[[int, torch.Tensor], None] = lambda step, loss: None,
) -> None:
    settings = config.graph
    with precision.of_training():
        graph.fit(
            model,
            steps=steps,
            batch_users=settings.batch_users,
            candidates=settings.candidates,
            learning_rate=settings.learning_rate,
            generator=torch.Generator(model.users.device).manual_seed(seed),
            heard=heard,
        )


def point(config: Bench, judge: Judge, vectors: Vectors, of: str, clock: Clock) -> float:
    """Judge on validation; the score that chooses."""
    began = clock.now()
    means = judge.means(vectors)
    clock.judging = clock.now() - began
    shown = {name: means[name] for name in (*SHOWN, config.evaluate.select) if name in means}
    clock.points.append({"seconds": clock.now(), "of": of} | shown)
    return means[config.evaluate.select]


def spectral_vectors(judge: Judge, spectrum: Spectrum, chosen: SpectralChoice) -> Vectors:
    return spaces.euclidean_vectors(spectral_space(judge, spectrum, chosen))


def spectral_space(judge: Judge, spectrum: Spectrum, chosen: SpectralChoice) -> Space:
    users, items = (rows[:, : chosen.spectral_dim] for rows in spectrum)
    degree = baselines.popularity(judge.data).clamp_min(1)[:, None]  # (I, 1)
    return spaces.inner_product_as_distance(users, degree.pow(chosen.item_exponent) * items)


# Serving


def exported(config: Bench, data: Data, vectors: Vectors, folder: Path) -> tuple[Recommender, int | None]:
    """The model as a bundle in the folder, opened, and its search_k."""
    users, items = (np.ascontiguousarray(part.cpu().numpy()) for part in vectors)
    fold = data.fold(data.train, data.test)
    seen, counts = (fold.fit.offsets(), fold.fit.item), fold.fit.item_counts()
    held_out = np.flatnonzero(np.diff(fold.target_offsets))
    found = tuned(config.export, config.seed, users, items, seen, held_out, folder)
    bundle.write_bundle(
        folder / "bench",
        user_vectors=users,
        item_vectors=items,
        user_ids=data.user_ids,
        item_ids=data.item_ids,
        seen=seen,
        popular=np.lexsort((np.arange(len(counts)), -counts)).astype(np.int32),
        titles=None,
        trees=found.trees,
        search_k=found.search_k,
        seed=config.seed,
        index=found.built,
        measured=found.measured,
        info={},
    )
    return Recommender.open(folder / "bench"), found.search_k


def device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {os.cpu_count()} cores"
