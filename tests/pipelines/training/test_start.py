"""Trainings by names of the configuration: what each learns from two clusters, and a collapse."""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import torch
from logs import logged
from numpy.typing import NDArray
from torch import Tensor

from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.config.training import Loss, Mining, Space
from pipelines.data import prepare
from pipelines.data.folds import Fold, load_fold
from pipelines.training import train
from pipelines.training.budget import Clock
from pipelines.training.judging import judge_fold
from pipelines.training.model import read_choice
from pipelines.training.selection import Chooser, Hooks, Selection
from pipelines.training.start import start
from recsys import baselines, objectives, optim, sampling, spaces
from recsys import training as library
from recsys.candidates import CandidateDistances, Mined
from recsys.distances import Mahalanobis
from recsys.epochs import Epoch, epochs, measure_health, miner_of_epoch, sample_triplets, train_epoch
from recsys.interactions import Interactions
from recsys.judge import Judge
from recsys.objectives import log_q as log_q_of
from recsys.objectives import make_objective
from recsys.sampling import DeviceInteractions
from recsys.settings import HISTORY_LOSSES, LIST_LOSSES, TRIPLET_LOSSES, Settings
from recsys.training import Position, Training, TrainingProgress, start_training

N_USERS, N_ITEMS = 40, 60
SAME = (np.arange(N_USERS)[:, None] % 2) == (np.arange(N_ITEMS)[None, :] % 2)  # (U, I): one cluster
TAKEN = SAME & (np.random.default_rng(0).random(SAME.shape) < 0.5)  # (U, I): half of one's cluster
EXPONENT = 0.4  # of the items in a spectral start
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def configured(**sections: dict[str, Any]) -> Config:
    """A small configuration with other settings: section={key: value}."""
    small: dict[str, dict[str, Any]] = {
        "source": {"files": "log.parquet", "time": "at"},
        "space": {"dim": 4},
        "loss": {"name": "triplet_margin"},
        "mining": {"miner": "semi_hard", "in_batch_items": 24, "uniform_items": 24},
        "train": {
            "spaces": [{"kind": "metric"}],
            "seconds": None,
            "batch_size": 128,
            "learning_rate": 0.03,
            "max_epochs": 10,
        },
        "spectral": {"dims": [4], "item_exponents": [EXPONENT]},
    }
    names = [*small, *(name for name in sections if name not in small)]
    return Config.model_validate({name: small.get(name, {}) | sections.get(name, {}) for name in names})


def interactions(taken: NDArray[np.bool_]) -> Interactions:
    """(U, I) bool -> its pairs, of weight 1 and time 0."""
    user, item = np.argwhere(taken).astype(np.int32).T.copy()
    rest = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
    return Interactions(user, item, *rest, *taken.shape)


@functools.cache
def data() -> DeviceInteractions:
    return sampling.to_device(interactions(TAKEN), CPU)


@functools.cache
def mined_offline() -> NDArray[np.int32]:
    """(T, 3): two items of the other cluster for each pair but every tenth, which has none."""
    drawn, pairs = np.random.default_rng(2), np.argwhere(TAKEN)
    triplets = [
        (user, item, negative)
        for user, item in np.delete(pairs, np.s_[::10], 0)
        for negative in drawn.choice(np.flatnonzero(~SAME[user]), 2, replace=False)
    ]
    return np.array(triplets, dtype=np.int32)


def started(config: Config) -> Training:
    mined = mined_offline() if config.mining.miner == "offline" else None
    return start_training(data(), config.settings(EXPONENT), mined)


def learned(config: Config, n_epochs: int) -> Training:
    """After some epochs with the miner that train would take."""
    training = started(config)
    for epoch in range(n_epochs):
        stats = train_epoch(training, miner_of_epoch(config.settings(EXPONENT), epoch, None))
        assert all(math.isfinite(value) for value in stats)
    return training


def outcomes(
    training: Training, n_epochs: int, hardest_until: int | None = None
) -> list[tuple[Epoch, int | None]]:
    """Each epoch, and how many were under the hardest miner by then."""
    training.progress = TrainingProgress(hardest_until=hardest_until)
    return [(epoch, training.progress.hardest_until) for epoch in epochs(training, n_epochs)]


def training_of(config: Config, device_data: DeviceInteractions) -> Training:
    """As a run starts it, by the names of the configuration."""
    return start(config, device_data, config.settings(EXPONENT), "validation")


def chosen(config: Config) -> Selection:
    """What validation chooses."""
    judge = judge_of(config)
    hooks = Hooks(lambda settings, spectrum: start(config, judge.data, settings, "validation", spectrum))
    chooser = Chooser(config, judge, Clock(None, CPU), hooks)
    chooser.choose()
    return chooser.selection


def auc(training: Training) -> NDArray[np.float64]:
    """(U,): how often an unseen item of the user's cluster is served nearer than one of the other cluster."""
    d = torch.cdist(*spaces.euclidean_vectors(training.model.space())).numpy()  # (U, I)
    nearer = [
        (row[own & ~taken][:, None] < row[~own][None, :]).mean()
        for row, own, taken in zip(d, SAME, TAKEN, strict=True)
    ]
    return np.array(nearer)


def state(training: Training) -> list[Tensor]:
    return [*training.model.state_dict().values(), training.beta.detach()]


def assert_same_bits(first: Training, second: Training) -> None:
    assert all(torch.equal(a, b) for a, b in zip(state(first), state(second), strict=True))


# Names


def names(section: type, field: str) -> set[str]:
    return set(get_args(section.model_fields[field].annotation))  # type: ignore[attr-defined]


def test_every_name_of_the_configuration_is_in_one_table_and_no_other_is() -> None:
    assert names(Space, "distance") == library.GEOMETRIES.keys() | {"mahalanobis"}
    assert names(Mining, "miner") == objectives.MINERS.keys() | {"distance_weighted", "hardest"}
    batches = objectives.TRIPLET_LOSSES.keys() | objectives.LIST_LOSSES.keys()
    assert names(Loss, "name") == batches | set(HISTORY_LOSSES)
    assert set(TRIPLET_LOSSES) == objectives.TRIPLET_LOSSES.keys()
    assert set(LIST_LOSSES) == objectives.LIST_LOSSES.keys()
    for form in names(Space, "mahalanobis"):
        assert Mahalanobis(4, form, rank=2).form == form
    assert names(Space, "tower") == {"two_tables", "siamese", "graph"}


LOSSES: dict[str, dict[str, Any]] = {
    "contrastive": {"loss": {"name": "contrastive"}},
    "triplet_margin": {"loss": {"name": "triplet_margin"}},
    "triplet_soft_margin": {"loss": {"name": "triplet_soft_margin"}, "mining": {"miner": "random"}},
    "margin": {"loss": {"name": "margin", "margin": 0.2, "beta": 0.5}, "mining": {"miner": "random"}},
    "manifold": {"loss": {"name": "manifold", "separation": 4.0}},
    "warp": {"loss": {"name": "warp"}},
    "bpr": {"loss": {"name": "bpr"}, "mining": {"miner": "random"}},
    "sampled_softmax": {"loss": {"name": "sampled_softmax", "temperature": 0.2}},
    "bsl": {"loss": {"name": "bsl", "temperature": 0.2}},
    "psl": {"loss": {"name": "psl", "temperature": 0.2}},
    "sl_at_k": {"loss": {"name": "sl_at_k", "temperature": 0.2}},
    "cosine_contrastive": {
        "loss": {"name": "cosine_contrastive", "negative_weight": 5.0},
        "space": {"distance": "cosine"},
    },
    "align_uniform": {
        "loss": {"name": "align_uniform", "uniformity": 0.6},
        "space": {"distance": "cosine", "offset": "fixed"},
    },
} | {
    name: {
        "loss": {"name": name, "temperature": 0.2, "top_k": 5},
        "space": {"offset": "fixed"},
        "train": {"learning_rate": 0.06},  # all users are one batch
    }
    for name in HISTORY_LOSSES
}
MINERS: dict[str, dict[str, Any]] = {
    "random": {},
    "all": {},
    "semi_hard": {},
    "hardest": {},
    "distance_weighted": {"space": {"distance": "cosine"}},
    "offline": {},
}
DISTANCES: dict[str, dict[str, Any]] = {
    "euclidean": {},
    "squared_euclidean": {},
    "cosine": {},
    "inner_product": {"mining": {"miner": "random"}},
    "mahalanobis": {},
}
SIAMESE = {"tower": "siamese", "history_items": 10}
CASES: dict[str, dict[str, dict[str, Any]]] = (
    {f"loss {name}": sections for name, sections in LOSSES.items()}
    | {f"miner {name}": sections | {"mining": {"miner": name}} for name, sections in MINERS.items()}
    | {f"distance {name}": sections | {"space": {"distance": name}} for name, sections in DISTANCES.items()}
    | {
        f"mahalanobis {form}": {"space": {"distance": "mahalanobis", "mahalanobis": form, "rank": 2}}
        for form in ("diagonal", "low_rank", "full")
    }
    | {
        "tower siamese": {"space": SIAMESE},
        "tower graph": {"space": {"tower": "graph"}},
        "graph, cosine, history softmax": {
            "space": {"tower": "graph", "distance": "cosine", "offset": "fixed"},
            "loss": {"name": "history_softmax", "temperature": 0.2},
        },
        "siamese, cosine, softmax, log q, memory": {
            "space": SIAMESE | {"distance": "cosine"},
            "loss": {"name": "sampled_softmax", "log_q": True},
            "mining": {"memory_items": 24, "popular_items": 8},
        },
        "siamese, learned map, warp": {
            "space": SIAMESE | {"distance": "mahalanobis", "mahalanobis": "full"},
            "loss": {"name": "warp"},
        },
        "siamese, euclidean, hardest, soft margin": {
            "space": SIAMESE | {"distance": "euclidean"},
            "loss": {"name": "triplet_soft_margin"},
            "mining": {"miner": "hardest"},
        },
        "margin of each item, distance-weighted, cosine": {
            "space": {"distance": "cosine"},
            "loss": {"name": "margin", "margin": 0.2, "beta": 0.8, "beta_per_item": True},
            "mining": {"miner": "distance_weighted"},
        },
        "inner product, softmax": {
            "space": {"distance": "inner_product", "unit_ball": False},
            "loss": {"name": "sampled_softmax", "temperature": 0.5, "l2": 0.01},
        },
        "spectral start, balanced, covariance": {
            "space": {"start": "spectral", "offset": "fixed"},
            "loss": {"name": "warp", "covariance": 0.1},
            "mining": {"user_balance": 0.5, "item_balance": 0.5},
        },
        "offline, softmax": {
            "loss": {"name": "sampled_softmax", "temperature": 0.3},
            "mining": {"miner": "offline"},
        },
    }
)


def test_the_cases_below_leave_no_name_out() -> None:
    assert LOSSES.keys() == names(Loss, "name")
    assert MINERS.keys() == names(Mining, "miner")
    assert DISTANCES.keys() == names(Space, "distance")


@pytest.mark.parametrize("name", CASES)
def test_each_learns_to_serve_unseen_items_of_a_users_cluster(name: str) -> None:
    config = configured(**CASES[name])
    after = learned(config, 10)
    assert all(torch.isfinite(part).all() for part in (*state(after), *after.model.space()))
    nearer = auc(after)
    assert nearer.mean() > 0.85
    assert nearer.min() > 0.55
    if config.space.start == "random":
        assert auc(started(config)).mean() < 0.6


@pytest.mark.parametrize("name", CASES)
def test_same_seed_same_bits(name: str) -> None:
    config = configured(**CASES[name])
    assert_same_bits(learned(config, 2), learned(config, 2))


@pytest.mark.parametrize("name", CASES)
def test_where_the_host_runs_ahead_the_same_is_learned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(**CASES[name])
    before, after = started(config), started(config)

    def losses(training: Training) -> list[list[float]]:
        miner = config.mining.miner
        return [list(train_epoch(training, miner)) for epoch in range(2)]

    expected = losses(before)
    monkeypatch.setattr(sampling, "is_asynchronous", lambda device: True)
    torch.testing.assert_close(losses(after), expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(state(after), state(before), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_training_multiplies_as_fast_as_a_gpu_can() -> None:
    config, seen = configured(), set[str]()

    def on_step(interactions: int) -> None:
        seen.add(torch.backends.cuda.matmul.fp32_precision)

    training = started(config)
    training.on_step = on_step
    train_epoch(training, "semi_hard")
    assert seen == {"tf32"}


def moved(value: Any, device: torch.device) -> Any:
    """Tensors, and named tuples of them, to the device."""
    if isinstance(value, DeviceInteractions):
        return DeviceInteractions(*(moved(part, device) for part in value))
    if not isinstance(value, Tensor):
        return value
    return value.detach().to(device).requires_grad_(value.requires_grad)


ASKS_THE_HOST = {"psl", *HISTORY_LOSSES}  # for the sizes of what a step looks at


@pytest.mark.parametrize(
    "name", [name for name in CASES if configured(**CASES[name]).loss.name not in ASKS_THE_HOST]
)
def test_the_host_never_waits_inside_an_epoch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device 'meta', whose tensors have no values, so that asking for one is an error.

    The sum of two sparse gradients is empty there: RowAdam sees the rows of tables that are read once a step.
    """
    config, meta = configured(**CASES[name]), torch.device("meta")
    there = started(config)
    there.model.to(meta)
    there = replace(there, **{part: moved(getattr(there, part), meta) for part in WITH_VALUES})
    for known in (there.sampler, there.model.tower):
        vars(known).update({part: moved(value, meta) for part, value in vars(known).items()})
    learned = [*there.model.parameter_groups(), {"params": [there.beta]}]
    there = replace(there, optimizer=optim.RowAdam(learned, 0.1))
    # what an epoch waits for before its first step
    there.progress = TrainingProgress(position=Position(0, 0, torch.zeros(3, device=meta), 0))
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(sampling, "_units", lambda weights, n: weights.long())
    monkeypatch.setattr(sampling, "history_entries", lambda data, order, size: [99] * len(order.split(size)))
    steps: list[int] = []
    with pytest.raises(RuntimeError) as asked:
        train_epoch(replace(there, on_step=steps.append), config.mining.miner)
    if config.mining.miner in MINERS_THAT_COUNT and config.loss.name in objectives.TRIPLET_LOSSES:
        assert not steps
        return
    assert sum(steps) == len(there.data.user), asked.traceback[-1]  # what failed is the end of the epoch


WITH_VALUES = ("data", "beta", "row_weights", "offline")
MINERS_THAT_COUNT = {"all", "offline"}  # as many triplets as there are, as the values say


@pytest.mark.parametrize("start", ["random", "spectral"])
def test_another_seed_is_another_run(start: str) -> None:
    config = configured(space={"start": start})
    other = config.model_copy(update={"seed": 1})
    assert not torch.equal(learned(config, 1).model.items, learned(other, 1).model.items)


@pytest.mark.parametrize("per_item", [False, True])
def test_the_boundary_of_the_margin_loss_is_learned_and_by_no_other_loss(per_item: bool) -> None:
    for name in ("margin", "triplet_margin"):
        loss = {"name": name, "margin": 0.2, "beta": 0.5, "beta_per_item": per_item}
        beta = learned(configured(loss=loss, mining={"miner": "random"}), 2).beta
        assert beta.shape == (N_ITEMS if per_item else 1,)
        assert bool((beta != 0.5).all()) == (name == "margin")
        assert bool((beta == 0.5).all()) == (name != "margin")


# Values: each name's loss on numbers, at settings of which no two are alike

SETTINGS = {
    "margin": 0.7,
    "beta": 0.9,
    "separation": 1.7,
    "temperature": 0.3,
    "negative_temperature": 1.4,
    "negative_weight": 2.5,
    "uniformity": 0.6,
    "top_k": 3,
}


def third(own: float, others: list[float]) -> float:
    """The distance of the third nearest of all items, of which the others are a sample."""
    each, count = max(1.0, (N_ITEMS - 1) / len(others)), 0.0
    for d, of_how_many in sorted([(own, 1.0), *((other, each) for other in others)]):
        count += of_how_many
        if count >= 3:
            return d
    return max(own, *others)


OF_TRIPLET: dict[str, Callable[[float, float, float], float]] = {  # d(a,p), d(a,n), estimated rank
    "contrastive": lambda p, n, _: 0.5 * p**2 + 0.5 * max(0.0, 0.7 - n) ** 2,
    "triplet_margin": lambda p, n, _: max(0.0, 0.7 + p - n),
    "triplet_soft_margin": lambda p, n, _: math.log(1 + math.exp(p - n)),
    "margin": lambda p, n, _: max(0.0, p - 0.9 + 0.7) + max(0.0, 0.9 - n + 0.7),
    "manifold": lambda p, n, _: p + 1.7 * max(0.0, 0.7 + p - n),
    "warp": lambda p, n, rank: math.log(1 + rank) * max(0.0, 0.7 + p - n),
    "bpr": lambda p, n, _: math.log(1 + math.exp(p - n)),
}
OF_LIST: dict[str, Callable[[float, list[float]], float]] = {  # d(a,p), every d(a,n)
    "sampled_softmax": lambda p, n: math.log(1 + sum(math.exp((p - each) / 0.3) for each in n)),
    "bsl": lambda p, n: p / 0.3 + 1.4 * math.log(sum(math.exp(-each / 0.3) for each in n) / len(n)),
    "psl": lambda p, n: math.log(1 + sum((1 + math.tanh(p - each)) ** (1 / 0.3) for each in n)),
    "sl_at_k": lambda p, n: (
        math.log(1 + sum(math.exp((p - each) / 0.3) for each in n)) / (1 + math.exp((p - third(p, n)) / 1.4))
    ),
    "cosine_contrastive": lambda p, n: p + 2.5 * sum(max(0.0, 0.7 - each) for each in n) / len(n),
    "align_uniform": lambda p, n: 2 * p,  # |x - y|^2 of unit rows from 1 - cos
}


def sampled(name: str) -> tuple[Tensor, CandidateDistances, Mined]:
    """The loss of each triplet or list of one batch, at a space that is spread out."""
    config = configured(
        loss={"name": name, **SETTINGS},
        space={"distance": "cosine", "offset": "fixed", "start_length": 1.0},
        mining={"miner": "random"},
    )
    training = started(config)
    goal = make_objective(training, "random")
    mined, lists = sample_triplets(training, goal, 100, torch.Generator())
    with torch.no_grad():
        return goal.loss(lists if goal.whole_lists else mined), lists, mined


@pytest.mark.parametrize("name", OF_TRIPLET)
def test_a_loss_of_triplets_takes_its_own_settings(name: str) -> None:
    each, lists, mined = sampled(name)
    assert OF_TRIPLET.keys() == objectives.TRIPLET_LOSSES.keys()
    expected = []
    for a, p, n in zip(mined.triplets.anchor, mined.d_pos.tolist(), mined.d_neg.tolist(), strict=True):
        negatives = lists.d[a][lists.d[a] != math.inf].tolist()
        rank = N_ITEMS * sum(other < 0.7 + p for other in negatives) / len(negatives)
        expected.append(OF_TRIPLET[name](p, n, rank))
    assert len(expected) == 100
    assert each.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", OF_LIST)
def test_a_loss_of_lists_takes_its_own_settings(name: str) -> None:
    each, lists, _ = sampled(name)
    assert OF_LIST.keys() == objectives.LIST_LOSSES.keys()
    rows = zip(lists.d_own.tolist(), lists.d, strict=True)
    expected = [OF_LIST[name](own, d[d != math.inf].tolist()) for own, d in rows]
    assert each.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def naive_align_uniform(points: list[list[float]], pairs: list[tuple[int, int]], weight: float) -> float:
    """Mean over pairs of |x - y|^2, plus weight times the mean uniformity of the pairs' two sides.

    Wang et al. 2022 (DirectAU), eq. 4 to 6, on numbers; `pairs` number two of the points.
    """
    unit = [[x / math.hypot(*point) for x in point] for point in points]
    align = sum(math.dist(unit[u], unit[i]) ** 2 for u, i in pairs) / len(pairs)
    uniform = 0.0
    for side in zip(*pairs, strict=True):
        gaps = [math.dist(unit[x], unit[y]) ** 2 for x, y in itertools.combinations(side, 2)]
        uniform += math.log(sum(math.exp(-2 * gap) for gap in gaps) / len(gaps))
    return align + weight * uniform / 2


def test_a_step_of_align_uniform_goes_down_its_naive_gradient() -> None:
    """An epoch of a single step of plain descent at rate 1, with float64 tables."""
    taken = np.random.default_rng(3).random((5, 7)) < 0.4
    pairs = [(int(user), 5 + int(item)) for user, item in np.argwhere(taken)]
    config = configured(
        loss={"name": "align_uniform", "uniformity": 0.6},
        space={"distance": "cosine", "offset": "none", "dim": 3},
        train={"batch_size": len(pairs)},
    )
    training = training_of(config, sampling.to_device(interactions(taken), CPU))
    training.model.double()
    tables: list[Tensor] = [*training.model.tower.parameters(), training.model.items]
    before = torch.cat(tables).tolist()
    descent = torch.optim.SGD(training.model.parameters(), lr=1.0)
    stats = train_epoch(replace(training, optimizer=descent), "semi_hard")
    moved = torch.cat(tables).tolist()
    assert stats.loss == pytest.approx(naive_align_uniform(before, pairs, 0.0))
    step = 1e-6
    for row, axis in itertools.product(range(12), range(3)):
        near = []
        for shift in (step, -step):
            shifted = [point.copy() for point in before]
            shifted[row][axis] += shift
            near.append(naive_align_uniform(shifted, pairs, 0.6))
        slope = (near[0] - near[1]) / (2 * step)
        assert moved[row][axis] == pytest.approx(before[row][axis] - slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("miner", ["random", "offline"])
def test_log_q_is_of_the_item_in_each_column(miner: str) -> None:
    """Offline each row has candidates of its own."""
    config = configured(mining={"miner": miner, "in_batch_items": 20, "uniform_items": 1})
    training = started(config)
    goal = make_objective(training, miner)
    _, lists = sample_triplets(training, goal, 50, torch.Generator())
    log_q = log_q_of(training, lists)  # (B, 1 + C)
    assert log_q.shape == lists.matrix()[0].shape
    assert torch.equal(log_q[:, 0], training.sampler.log_q(lists.item))
    for row in range(50):
        assert torch.equal(log_q[row, 1:], training.sampler.log_q(lists.candidate[row]))
    assert len(log_q.unique()) > 3


def test_distance_weighted_goes_by_directions_whatever_the_offsets() -> None:
    """With offsets in them, distances would lie beyond what the miner draws from."""
    config = configured(space={"distance": "cosine"}, mining={"miner": "distance_weighted"})
    training = started(config)
    with torch.no_grad():
        training.model.offset.add_(3.0)
    goal = make_objective(training, "distance_weighted")

    def mined() -> Mined:
        seeded = torch.Generator().manual_seed(0)
        return sample_triplets(training, goal, 200, seeded)[0]

    with_offset = mined()
    with training.model.without_offset():
        without = mined()
    assert len(without.negative) > 150
    for found, expected in zip(with_offset.triplets[:3], without.triplets[:3], strict=True):
        assert torch.equal(found, expected)
    assert (with_offset.d_neg > without.d_neg + 2.9).all()


def test_distance_weighted_takes_the_dimensions_that_there_are() -> None:
    """A spectral start has no more than there are users or items; another number would overflow."""
    space = {"start": "spectral", "dim": 4096, "distance": "cosine"}
    after = learned(configured(space=space, mining={"miner": "distance_weighted"}), 2)
    assert after.model.items.shape == (N_ITEMS, N_USERS + 1)  # and the coordinate that makes up for lengths
    assert all(torch.isfinite(part).all() for part in state(after))


@pytest.mark.parametrize("distance", sorted(names(Space, "distance")))
def test_a_spectral_start_ranks_as_the_spectrum(distance: str) -> None:
    config = configured(space={"start": "spectral", "dim": 5, "distance": distance})
    space = started(config).model.space()
    users, items = baselines.spectral(data(), 5 - (distance == "cosine"), EXPONENT, seed=config.seed)
    scores = users @ items.T / users.norm(dim=1, keepdim=True) / items.norm(dim=1).max()  # (U, I)
    found = -(torch.cdist(space.users.double(), space.items.double()).square() + space.offset)  # (U, I)
    slope = (found - found.mean(1, keepdim=True)).norm() / (scores - scores.mean(1, keepdim=True)).norm()
    torch.testing.assert_close(
        (found - found.mean(1, keepdim=True)) / slope,
        (scores - scores.mean(1, keepdim=True)).double(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_low_rank_takes_the_dimensions_that_a_spectral_start_has() -> None:
    space = {
        "start": "spectral",
        "dim": 4096,
        "distance": "mahalanobis",
        "mahalanobis": "low_rank",
        "rank": 4000,
    }
    after = learned(configured(space=space), 1)
    assert all(torch.isfinite(part).all() for part in state(after))


def test_a_last_batch_of_one_row_learns() -> None:
    n = len(data().user)
    for loss in ({"name": "align_uniform"}, {"name": "bsl", "covariance": 0.1, "l2": 0.1}):
        config = configured(
            loss=loss, space={"distance": "cosine", "offset": "fixed"}, train={"batch_size": n - 1}
        )
        assert all(torch.isfinite(part).all() for part in state(learned(config, 1)))


def test_a_batch_has_no_more_items_than_rows() -> None:
    """log q would count candidates that are never drawn."""
    config = configured(mining={"in_batch_items": 1000, "uniform_items": 0}, train={"batch_size": 16})
    asked = started(configured(mining={"in_batch_items": 16, "uniform_items": 0}, train={"batch_size": 16}))
    items = torch.arange(N_ITEMS)
    assert torch.equal(started(config).sampler.log_q(items), asked.sampler.log_q(items))


# Health


LOOKED_AT = (
    "loss bsl",
    "loss margin",
    "loss align_uniform",
    "miner all",
    "miner hardest",
    "miner offline",
    "distance euclidean",
    "mahalanobis full",
    "siamese, cosine, softmax, log q, memory",
    "inner product, softmax",
    "spectral start, balanced, covariance",
)


@pytest.mark.parametrize("name", LOOKED_AT)
def test_health_is_finite_and_leaves_no_trace(name: str) -> None:
    """Learning is the same bits whether anybody looks or not, the memory of recent items too."""
    mining = {"memory_items": 24} | CASES[name].get("mining", {})
    config = configured(**CASES[name] | {"mining": mining})
    looked_at, alone = started(config), started(config)
    for _ in range(2):
        for one in (looked_at, alone):
            train_epoch(one, config.mining.miner)
        now = measure_health(looked_at, config.mining.miner)
        again = measure_health(looked_at, config.mining.miner)
        assert now is not None
        assert now == again
        assert all(math.isfinite(value) for value in now[:-1])
        assert now.false_negatives is None
        assert 1 <= now.effective_rank <= looked_at.model.items.shape[1]
        assert 0 <= now.active <= 1
        assert 0 <= now.mined <= 1
    assert_same_bits(looked_at, alone)


def test_false_negatives_are_the_mined_pairs_that_were_held_out() -> None:
    config = configured(mining={"miner": "hardest"})
    after = learned(config, 3)
    apart = torch.Generator().manual_seed(config.seed)
    goal = make_objective(after, "hardest")
    mined, _ = sample_triplets(after, goal, config.train.batch_size, apart)
    later = SAME & ~TAKEN
    expected = later[mined.user, mined.negative].mean()
    assert 0 < expected < 1
    for held_out, share in ((later, expected), (~TAKEN, 1.0), (TAKEN, 0.0)):
        known = sampling.to_device(interactions(held_out), CPU)
        now = measure_health(replace(after, held_out=known), "hardest")
        assert now is not None
        assert now.false_negatives == pytest.approx(share)


def test_without_a_negative_there_is_no_health() -> None:
    config = configured()
    full = sampling.to_device(interactions(np.ones_like(TAKEN)), CPU)
    assert measure_health(training_of(config, full), "semi_hard") is None


# A collapse under the hardest miner


def shrinking() -> Config:
    """All are pulled to the middle: the hardest of very many negatives, no warm-up, no offset to stand on."""
    return configured(
        space={"offset": "none", "start_length": 0.24},
        mining={
            "miner": "hardest",
            "warmup_epochs": 0,
            "hardest_left_out": 0,
            "in_batch_items": 128,
            "uniform_items": 128,
        },
        train={"max_epochs": 6, "patience": 6, "learning_rate": 0.02, "untrained": []},
    )


def judge_of(config: Config) -> Judge:
    """Asks for the unseen items of each user's cluster."""
    user, item = np.argwhere(SAME & ~TAKEN).T
    offsets = np.searchsorted(user, np.arange(N_USERS + 1)).astype(np.int64)
    fold = Fold(
        fit=interactions(TAKEN),
        target_offsets=offsets,
        target_items=item.astype(np.int32),
        user_ids=np.arange(N_USERS),
        item_ids=np.arange(N_ITEMS),
        titles=[""] * N_ITEMS,
        item_table=pl.DataFrame(),
    )
    return judge_fold(fold, CPU, config.evaluate)


def test_a_collapse_is_said_and_undone_and_semi_hard_takes_over(said: list[str]) -> None:
    config = shrinking()
    selection = chosen(config)
    best, history = selection.trained["metric-1"].part, selection.history
    n_epochs = len(best.cycles)
    (warning,) = (line for line in said if "WARNING" in line)
    assert "everything is at one point" in warning
    found = re.search(r"epoch (\d+) again with semi_hard", warning)
    assert found is not None
    until = int(found.group(1)) - 1  # epochs under the hardest miner that are kept
    assert 0 < until < 5
    margin = config.loss.margin  # semi_hard has no hinge above it, the hardest here has no other
    assert [row["loss"] < margin for row in history] == [False] * until + [True] * (len(history) - until)
    assert history[-1]["health.negative_high"] > 2 * history[until - 1]["health.negative_high"]
    assert history[-1]["health.effective_rank"] > 3
    assert n_epochs > until
    assert history[n_epochs - 1]["validation.ndcg@10"] > 1.5 * history[until - 1]["validation.ndcg@10"]
    assert best.hardest_until == until

    again, losses = training_of(config, data()), list[float]()  # by hand
    for epoch in range(config.train.max_epochs):
        before = again.weights()
        miner = miner_of_epoch(config.settings(EXPONENT), epoch, best.hardest_until)  # as in the final fit
        if epoch == until:
            train_epoch(again, "hardest")
            again.restore_weights(before)
            assert miner == "semi_hard"
        losses.append(train_epoch(again, miner).loss)
    assert losses == [row["loss"] for row in history]

    fitted = training_of(config, data())  # the final fit: stops where it was stopped, and has nothing to undo
    said.clear()
    kept = outcomes(fitted, len(history), best.hardest_until)
    assert said == []
    assert [epoch.stats.loss < margin for epoch, _ in kept] == [row["loss"] < margin for row in history]
    assert {until for *_, until in kept} == {best.hardest_until}


def test_a_collapse_in_the_final_fit_alone_is_undone_too(said: list[str]) -> None:
    config = shrinking()
    kept = outcomes(training_of(config, data()), 6)
    assert sum("WARNING" in line for line in said) == 1
    *_, (last, until) = kept
    assert last.stats.loss < config.loss.margin
    assert last.health is not None
    assert last.health.effective_rank > 3
    assert until is not None


def test_told_when_to_stop_the_optimizer_starts_afresh_there() -> None:
    config = shrinking()
    limited, by_hand, stale = (training_of(config, data()) for _ in range(3))
    kept = outcomes(limited, 4, 2)
    assert [until for *_, until in kept] == [2] * 4
    for one in (by_hand, stale):
        for epoch, miner in enumerate(("hardest", "hardest", "semi_hard", "semi_hard")):
            if epoch == 2 and one is by_hand:
                one.optimizer.state.clear()
            train_epoch(one, miner)
    assert_same_bits(limited, by_hand)
    assert not torch.equal(limited.model.items, stale.model.items)


@torch.no_grad()
def stretch(training: Training, *lengths: float) -> None:
    """Users and items as a cloud with these standard deviations along the axes."""
    drawn = torch.Generator().manual_seed(5)
    for table in (*training.model.tower.parameters(), training.model.items):
        table.copy_(torch.randn(table.shape, generator=drawn) * torch.tensor(lengths))


def test_lost_dimensions_are_a_collapse_measured_by_the_fullest_epoch_so_far(said: list[str]) -> None:
    """Four, three, and one dimension and a half: less than half of the first, not of the second."""
    config = configured(
        space={"unit_ball": False},
        mining={"miner": "hardest", "warmup_epochs": 0, "hardest_left_out": 0},
        train={"learning_rate": 1e-9},
    )
    training = training_of(config, data())
    kept = []
    shapes = ((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0), (1.0, 0.2, 0.0, 0.0), (1.0, 0.2, 0.0, 0.0))
    stretch(training, *shapes[0])
    for epoch, outcome in enumerate(epochs(training, len(shapes))):
        kept.append((outcome, training.progress.hardest_until))
        stretch(training, *shapes[min(epoch + 1, 3)])
    ranks = [one.health.effective_rank for one, _ in kept if one.health is not None]
    assert 0.5 * ranks[1] < ranks[2] < 0.5 * ranks[0]
    (warning,) = said
    assert (
        f"effective rank fell from {ranks[0]:.1f} to {ranks[2]:.1f}; epoch 3 again with semi_hard" in warning
    )
    assert [until for *_, until in kept] == [None, None, 2, 2]


def test_the_final_fit_is_told_where_the_hardest_miner_collapsed(shop_file: Any, said: list[str]) -> None:
    """Left alone it would collapse as well."""
    path = shop_file(
        space={"offset": "none", "dim": 4},
        loss={"name": "triplet_margin"},
        mining={
            "miner": "hardest",
            "warmup_epochs": 0,
            "hardest_left_out": 0,
            "in_batch_items": 128,
            "uniform_items": 64,
        },
        train={"learning_rate": 0.012, "max_epochs": 4, "untrained": []},
    )
    config = load_config(path)
    prepare.prepare(config)
    run = train.train(config)
    (warning,) = (place for place, line in enumerate(said) if "WARNING" in line)
    (fitting,) = (place for place, line in enumerate(said) if "fitting on everything" in line)
    assert "epoch 2 again with semi_hard" in said[warning]
    assert warning < fitting
    (part,) = read_choice(run)["parts"]
    assert len(part.cycles) > 2
    assert part.hardest_until == 1
    kept = torch.load(run / "model.pt", weights_only=True)["metric-1.items"]
    everything = sampling.to_device(load_fold(config, "test").fit, CPU)
    for until in (1, None):
        again = start(config, everything, Settings(**part.settings), "test")
        with logged() as warnings:
            assert len(outcomes(again, len(part.cycles), until)) == len(part.cycles)
        assert len(warnings) == (until is None)
        assert torch.equal(again.model.items, kept) == (until == 1)


def test_only_mined_losses_collapse_by_mining(said: list[str]) -> None:
    """bsl looks at whole lists: the name of the miner says nothing, whatever the space looks like."""
    config = configured(
        loss={"name": "bsl"},
        mining={"miner": "hardest", "warmup_epochs": 0, "hardest_left_out": 0},
        train={"learning_rate": 1e-9},
        space={"start_length": 1e-4, "offset": "none"},
    )
    kept = outcomes(training_of(config, data()), 2)
    assert said == []
    assert [until for *_, until in kept] == [None, None]


def test_the_hardest_miner_has_a_warm_up_and_an_end() -> None:
    config = configured(mining={"miner": "hardest", "warmup_epochs": 2})
    for until, expected in ((None, "sshhhh"), (4, "sshhss"), (2, "ssssss")):
        miners = [miner_of_epoch(config.settings(EXPONENT), epoch, until)[0] for epoch in range(6)]
        assert "".join(miners) == expected
    for name in names(Mining, "miner") - {"hardest"}:
        mining, space = {"miner": name}, {"distance": "cosine"}  # which every miner takes
        assert {
            miner_of_epoch(configured(mining=mining, space=space).settings(0.4), epoch, None)
            for epoch in range(4)
        } == {name}


def test_what_an_epoch_learned_is_undone_bit_for_bit() -> None:
    loss = {"name": "margin", "margin": 0.2, "beta": 0.5, "beta_per_item": True}
    space = {"distance": "mahalanobis", "mahalanobis": "full"}
    config = configured(loss=loss, space=space, mining={"miner": "random"})
    first, second = learned(config, 2), learned(config, 2)
    kept = first.weights()
    train_epoch(first, "random")
    pairs = list(zip(state(first), state(second), strict=True))
    assert len(pairs) == 5  # users, items, offsets, the map, the boundaries
    assert not any(torch.equal(a, b) for a, b in pairs)
    first.restore_weights(kept)
    assert_same_bits(first, second)
    train_epoch(first, "random")
    assert not any(torch.equal(a, b) for a, b in zip(state(first), state(second), strict=True))
    first.restore_weights(kept)  # as often as one likes
    assert_same_bits(first, second)
