"""A training: what learns, what it learns from, where it is, and its saved states.

Axes: U users, I items, D dimensions, T triplets, N interactions, M mined negatives of a pair.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys import baselines, distances, graph, models, negatives, precision, sampling, spaces
from recsys.content import Content, ContentRows
from recsys.distances import Mahalanobis
from recsys.health import Health
from recsys.models import SQUARED_EUCLIDEAN, Geometry, GraphSums, HistoryMean, MetricSpace, UserTable
from recsys.optim import RowAdam, TableAdam
from recsys.sampling import CandidateSampler, DeviceInteractions
from recsys.settings import Settings

Spectrum = tuple[Tensor, Tensor]  # (U, K), (I, K) of baselines.spectral, the items without their exponent

# by the name in Settings; Mahalanobis has both as methods
GEOMETRIES = {
    "euclidean": Geometry(distances.euclidean, spaces.euclidean_space),
    "squared_euclidean": SQUARED_EUCLIDEAN,
    "cosine": Geometry(distances.cosine, spaces.cosine_space),
    "inner_product": Geometry(distances.inner_product, spaces.inner_product_space),
}


class Position(NamedTuple):
    """Where in an epoch training is between two steps."""

    seed: int  # of the order of its batches
    steps: int  # done
    totals: Tensor  # (3,) float64, summed: loss, active triplets (or lists), all triplets (or lists)
    interactions: int  # done


class TrainingProgress(NamedTuple):
    """Where a training of several epochs is: with the state of the training, enough to resume."""

    epoch: int = 0  # the one that runs, from 0
    hardest_until: int | None = None  # epochs before semi_hard replaced the hardest miner
    healthiest: Health | None = None
    position: Position | None = None  # within the epoch; None at its start
    before: Any = None  # weights at the start of the epoch, where it may have to be undone

    def plain(self) -> dict[str, Any]:
        """Convert to a dictionary of tensors and numbers, which torch.save takes."""
        parts = {name: getattr(self, name) for name in PARTS}
        return self._asdict() | {name: part and part._asdict() for name, part in parts.items()}

    @staticmethod
    def of(plain: dict[str, Any]) -> "TrainingProgress":
        """Convert back from `plain`."""
        parts = {name: plain[name] and kind(**plain[name]) for name, kind in PARTS.items()}
        return TrainingProgress(**(plain | parts))


PARTS = {"healthiest": Health, "position": Position}


START = TrainingProgress()
LEAST_ROUNDED = 0.05  # temperature, or margin
GRAPH_BETAS = 0.9, 0.99  # of Adam: all rows move each step, so momentum is safe


def _nothing(interactions: int) -> None:
    pass


@dataclass
class Training:
    """All that an epoch needs, and where it is; changes as it learns."""

    settings: Settings
    data: DeviceInteractions
    model: MetricSpace
    optimizer: torch.optim.Optimizer
    sampler: CandidateSampler
    generator: torch.Generator
    beta: Tensor  # (1,) or (I,): the boundary of the margin loss
    row_weights: Tensor | None = None  # (N,): interactions are drawn in proportion to them
    offline: Tensor | None = None  # (N, M) items mined before, -1 for none
    held_out: DeviceInteractions | None = None  # known later interactions, to count false negatives by
    plan: Callable[[int, int], int | None] | None = None  # steps of a cycle, by epoch and step, both from 0
    with_health: bool = True  # measure the health of the space after each epoch
    progress: TrainingProgress = START
    on_step: Callable[[int], None] = _nothing  # with a step's size; may raise to stop

    def state(self) -> dict[str, Any]:
        """Copies of all that changes as it learns, as tensors and plain numbers."""
        return {
            "weights": {name: part.detach().clone() for name, part in self.model.state_dict().items()},
            "beta": self.beta.detach().clone(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()["state"]),
            "recent": self.sampler.recent.clone(),
            "generator": self.generator.get_state(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `state` copied."""
        self.restore_weights((saved["weights"], saved["beta"]))
        parameters = self.parameters()
        for number, known in saved["optimizer"].items():
            self.optimizer.state[parameters[number]] = copy.deepcopy(known)
        self.sampler.recent = saved["recent"].to(self.beta.device)
        self.generator.set_state(saved["generator"].cpu())

    def weights(self) -> tuple[dict[str, Tensor], Tensor]:
        """A copy of what has been learned so far."""
        return copy.deepcopy((self.model.state_dict(), self.beta.detach()))

    def restore_weights(self, weights: tuple[dict[str, Tensor], Tensor]) -> None:
        """Go back to what `weights` copied; the optimizer starts afresh."""
        self.model.load_state_dict(weights[0])
        with torch.no_grad():
            self.beta.copy_(weights[1])
        self.optimizer.state.clear()

    def cycle_length(self, step: int) -> int | None:
        """Steps of the epoch that runs, asked before each of them; None if it is a pass over the data."""
        epoch = self.progress.epoch
        return self.settings.cycle_length(epoch) if self.plan is None else self.plan(epoch, step)

    def parameters(self) -> list[Tensor]:
        """The parameters in the optimizer's order."""
        return [part for group in self.optimizer.param_groups for part in group["params"]]


# Long: half of it says what it takes.
def start_training(
    data: DeviceInteractions,
    settings: Settings,
    triplets: NDArray[np.int32] | None = None,
    spectrum: Spectrum | None = None,
    content: Content | None = None,
) -> Training:
    """Put a training together, before its first step.

    Triplets (T, 3) are for the miner `offline`; `spectrum`, if it is known already, for a spectral start.
    With `content` the items' own rows start at 0, whatever settings.start says: what is known about the items
    is where they start, and a user starts at the mean of theirs; on a graph at 0, as its sums do the same.
    Raises ValueError: start = 'content' without content; content on a graph under another distance than
    cosine, or as ContentRows.
    """
    if settings.start == "content" and content is None:
        raise ValueError("start = 'content' without content, allowed: features of the items")
    device = data.user.device
    data = _with_availability(data, settings.availability)
    generator = torch.Generator(device).manual_seed(settings.seed)
    model = _start_space(data, settings, generator, spectrum, content)
    beta = torch.full((data.n_items if settings.beta_per_item else 1,), settings.beta, device=device)
    groups = model.parameter_groups()
    if settings.loss == "margin":
        groups.append({"params": [beta.requires_grad_()]})
    balanced = settings.user_balance > 0 or settings.item_balance > 0
    row_weights = sampling.balance(data, settings.user_balance, settings.item_balance) if balanced else None
    # a history batch has all items of its users, so that its own would be no fair draw
    in_batch, memory = (
        (0, 0) if settings.takes_histories else (settings.in_batch_items, settings.memory_items)
    )
    sampler = CandidateSampler(
        data,
        in_batch=min(in_batch, settings.batch_size, len(data.user)),
        uniform=settings.uniform_items,
        popular=settings.popular_items,
        popularity_power=settings.popularity_power,
        memory=memory,
        weights=row_weights,
        only=None if model.content is None else model.content.known_items,
    )
    return Training(
        settings,
        data,
        model,
        _optimizer(groups, settings),
        sampler,
        generator,
        beta,
        row_weights,
        None if triplets is None else negatives.mined_table(triplets, data),
    )


def _optimizer(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    """Adam of the touched rows, or of whole tables where each step moves all rows: sums over a graph."""
    if settings.tower != "graph":
        return RowAdam(groups, settings.learning_rate)
    return TableAdam(groups, settings.learning_rate, betas=GRAPH_BETAS, fused=_is_fused(groups))


def _is_fused(groups: list[dict[str, Any]]) -> bool:
    return all(part.device.type in ("cpu", "cuda") for group in groups for part in group["params"])


def _start_space(
    data: DeviceInteractions,
    settings: Settings,
    generator: torch.Generator,
    spectrum: Spectrum | None,
    content: Content | None,
) -> MetricSpace:
    """The space before its first step: its points, its tower and its distance."""
    on_content = None
    if content is None:
        users, items, offset = _start_points(data, settings, generator, spectrum)
    else:
        on_graph = settings.tower == "graph"
        if on_graph and settings.distance != "cosine":
            raise ValueError(f"distance = '{settings.distance}' of a graph with content, allowed: cosine")
        on_content = ContentRows(content, data, settings.dim, settings.seed, learn_length=not on_graph)
        if settings.attribute_weight > 0 and not on_content.has_values:
            raise ValueError(
                f"attribute_weight = {settings.attribute_weight}, but no two items share a value, allowed: 0"
            )
        users, items = (
            torch.zeros(n, settings.dim, device=data.user.device) for n in (data.n_users, data.n_items)
        )
        if settings.tower == "two_tables":
            with torch.no_grad():
                users = models.fold_in(
                    on_content(items, on_content.everything), data.item.long(), data.offsets
                )
        offset = _popular(data, settings)
    if settings.offset == "none":
        offset = torch.zeros_like(offset)
    if settings.distance == "mahalanobis":
        dim = items.shape[1]  # a spectral start may have fewer than the settings ask for
        linear = Mahalanobis(dim, settings.mahalanobis, min(settings.rank, dim)).to(items.device)
        geometry = Geometry(linear, linear.space)
    else:
        geometry = GEOMETRIES[settings.distance]
    return MetricSpace(
        _tower(data, settings, users),
        items,
        offset,
        geometry=geometry,
        learn_offset=settings.offset == "learned",
        in_unit_ball=settings.unit_ball,
        content=on_content,
    )


def _tower(
    data: DeviceInteractions, settings: Settings, users: Tensor
) -> UserTable | HistoryMean | GraphSums:
    if settings.tower == "graph":
        # a distance is rounded by up to 1/128: little beside what the loss divides it by, or compares it with
        scale = settings.margin if settings.loss == "history_hinge" else settings.temperature
        rounded = settings.distance == "cosine" and scale >= LEAST_ROUNDED
        dtype = precision.of_graph(users.device) if rounded else torch.float32
        return GraphSums(data, users, settings.hops, dtype)
    if settings.tower == "siamese":
        return HistoryMean(data, settings.history_items)
    return UserTable(users)


def _start_points(
    data: DeviceInteractions, settings: Settings, generator: torch.Generator, spectrum: Spectrum | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Users (U, D), items (I, D) and offset (I,): random, or ranking as the spectrum does.

    On a graph a spectral start has the spectrum's directions alone: rows of one length are turned alike.
    """
    popular = _popular(data, settings)
    if settings.start == "random":
        size = data.n_users, data.n_items, settings.dim
        return *models.random_start(*size, settings.start_length, generator), popular
    on_graph, cosine = settings.tower == "graph", settings.distance == "cosine"
    wanted = settings.dim - (cosine and not on_graph)  # the items' lengths take a coordinate
    dim = min(wanted, data.n_users, data.n_items)
    if spectrum is None:
        spectrum = baselines.spectral(data, dim, 0.0, seed=settings.seed)
    if on_graph:
        return *graph.spectral_start(data, spectrum, dim, settings.start_length), popular
    degree = baselines.popularity(data).clamp_min(1)[:, None]  # (I, 1)
    users, items = (rows[:, :dim] for rows in spectrum)
    space = spaces.inner_product_as_distance(users, degree.pow(settings.item_exponent) * items)
    if cosine:
        users, items = spaces.euclidean_vectors(space)  # all items are of length 1 now
        return users, items, torch.zeros_like(space.offset)
    if settings.distance == "inner_product":
        return space.users, space.items, torch.zeros_like(space.offset)
    return space.users, space.items, space.offset


def _popular(data: DeviceInteractions, settings: Settings) -> Tensor:
    """(I,): offsets in proportion to how much less popular than the most popular item an item is."""
    log_count = baselines.popularity(data).clamp_min(1).log()  # (I,)
    return settings.offset_scale * (log_count.max() - log_count)


def _with_availability(data: DeviceInteractions, availability: str) -> DeviceInteractions:
    """The interactions with those ends of the items' time on sale that negatives respect."""
    if availability == "none":
        data = data._replace(first_seen=None)
    if availability != "first_and_last":
        data = data._replace(last_seen=None)
    return data
