"""What may be trained: the settings of each space, from the configuration and from what a search chose."""

from typing import NamedTuple

from pipelines.config.config import Learning
from pipelines.config.training import TrainedSpace
from pipelines.training.search import Point
from recsys import histories
from recsys.sampling import DeviceInteractions
from recsys.settings import CONTENT_LEARNING_RATE, GRAPH_LEARNING_RATE, GRAPH_POPULARITY_POWER, Settings

SPECTRAL_LENGTH, RANDOM_LENGTH = 0.3, 0.1  # of a graph's rows at the start
MARGIN, PSL_MARGIN = 2.5, 4.0  # times the temperature of the softmax: of any loss, of history_psl
PSL_POWER = 2.5  # its margin over its own temperature
NARROW, WIDE = 63, 127  # dimensions
CONTENT_SLOWER = CONTENT_LEARNING_RATE / GRAPH_LEARNING_RATE


class Plan(NamedTuple):
    """A space that may be trained."""

    name: str
    space: TrainedSpace
    seed: int

    @property
    def kind(self) -> str:
        """graph or metric."""
        return self.space.kind


def plans(config: Learning) -> list[Plan]:
    """The spaces of the configuration in their order; each random start has a seed of its own."""
    found, n_random = list[Plan](), 0
    for number, space in enumerate(config.train.spaces, 1):
        n_random += space.start == "random"
        found.append(Plan(f"{space.kind}-{number}", space, config.seed + max(0, n_random - 1)))
    return found


def first_point(config: Learning, data: DeviceInteractions) -> Point:
    """Where the search starts: what the configuration says, the rest estimated from the log."""
    graph = config.graph
    return Point(
        loss=graph.loss,
        temperature=graph.temperature or histories.estimate_temperature(data),
        popularity_power=(
            GRAPH_POPULARITY_POWER if graph.popularity_power is None else graph.popularity_power
        ),
        hops=graph.hops or 2,
    )


def dimensions(config: Learning, data: DeviceInteractions) -> int:
    """Dimensions of a graph space: those of the configuration, and no more than users or items."""
    return min(config.graph.dim or WIDE, data.n_users, data.n_items)


def searched(config: Learning, loss: str) -> tuple[str, ...]:
    """The axes that the configuration leaves open for graph spaces of a loss, the most important first."""
    graph = config.graph
    axes = ["temperature", "popularity_power", "hops"]
    if graph.margin is not None and loss in ("history_hinge", "history_psl"):
        axes.remove("temperature")  # which would move the offset alone
    return tuple(axis for axis in axes if getattr(graph, axis) is None)


def metric_settings(config: Learning, plan: Plan, item_exponent: float) -> Settings:
    """The settings of a planned training of kind metric."""
    base, space = config.settings(item_exponent), plan.space
    return base._replace(
        loss=space.loss or base.loss,
        start=space.start or base.start,
        temperature=base.temperature / space.sharper,
        hops=max(1, base.hops + space.more_hops),
        seed=plan.seed,
    )


def graph_settings(config: Learning, plan: Plan, point: Point, dim: int) -> Settings:
    """The settings of a planned training of kind graph."""
    graph, space = config.graph, plan.space
    start = space.start or "spectral"
    loss, temperature = space.loss or graph.loss, max(point.temperature / space.sharper, 0.02)
    is_psl = loss == "history_psl"
    margin = graph.margin or (PSL_MARGIN if is_psl else MARGIN) * temperature
    settings = config.settings()._replace(
        dim=dim,
        tower="graph",
        hops=max(1, point.hops + space.more_hops),
        distance="cosine",
        start=start,
        start_length=SPECTRAL_LENGTH if start == "spectral" else RANDOM_LENGTH,
        offset="fixed",
        offset_scale=point.popularity_power * temperature,
        loss=loss,
        margin=margin,
        temperature=margin / PSL_POWER if is_psl else temperature,
        learning_rate=graph.learning_rate * (CONTENT_SLOWER if start == "content" else 1),
        cycle_steps=graph.cycle_steps,
        batch_users=graph.batch_users,
        batch_interactions=graph.batch_interactions,
        seed=plan.seed,
    )
    if not settings.takes_histories:
        return settings
    # every impostor of a hinge counts alike, so that its candidates are drawn alike
    uniform = graph.candidates if settings.loss == "history_hinge" else 0
    return settings._replace(
        uniform_items=uniform, popular_items=graph.candidates - uniform, popularity_power=1.0
    )
