"""One fold of a benchmark, and the models that are fitted on it and judged by it.

Axes: U users, I items, K dimensions of the spectrum.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pipelines.config.bench import Bench, SeededStart, Trial
from pipelines.tuning.budget import Clock
from recsys import baselines, graph, models, precision, spaces
from recsys.graph import GraphSpace
from recsys.judge import Judge
from recsys.spaces import Space, Vectors

SHOWN = ("recall@20", "ndcg@20", "hit_rate@10")  # as far as evaluate.ks has them

Spectrum = tuple[torch.Tensor, torch.Tensor]  # (U, K), (I, K), the items without their exponent


class SpectralSettings(NamedTuple):
    """Settings of the spectral baseline that validation chooses among."""

    spectral_dim: int
    item_exponent: float


class Experiment(NamedTuple):
    """A fold with its judge and spectrum, the configuration, and the clock of the whole benchmark."""

    config: Bench
    judge: Judge
    spectrum: Spectrum
    clock: Clock

    def validate(self, vectors: Vectors, name: str) -> float:
        """Judge the vectors, record a validation point under this name, and return the selection metric."""
        started, select = self.clock.now(), self.config.evaluate.select
        means = self.judge.means(vectors)
        self.clock.validation_seconds = self.clock.now() - started
        shown = {metric: means[metric] for metric in (*SHOWN, select) if metric in means}
        self.clock.points.append({"seconds": self.clock.now(), "of": name} | shown)
        return means[select]


def compute_spectrum(config: Bench, judge: Judge) -> Spectrum:
    """The widest spectrum that any setting needs; its leading dimensions serve the narrower ones."""
    limit = min(judge.data.n_users, judge.data.n_items)
    dim = min(max(*config.spectral.dims, *config.graph.dims, config.beside.dims), limit)
    return baselines.spectral(judge.data, dim, 0.0, seed=config.seed)


def spectral_space(judge: Judge, spectrum: Spectrum, settings: SpectralSettings) -> Space:
    """The leading dimensions of the spectrum, its items scaled by a power of their popularity."""
    users, items = (rows[:, : settings.spectral_dim] for rows in spectrum)
    degree = baselines.popularity(judge.data).clamp_min(1)[:, None]  # (I, 1)
    return spaces.inner_product_as_distance(users, degree.pow(settings.item_exponent) * items)


def spectral_vectors(judge: Judge, spectrum: Spectrum, settings: SpectralSettings) -> Vectors:
    """The spectral baseline as Euclidean vectors."""
    return spaces.euclidean_vectors(spectral_space(judge, spectrum, settings))


def initial_model(experiment: Experiment, trial: Trial, start: SeededStart) -> GraphSpace:
    """The model before its first step."""
    settings, data = experiment.config.graph, experiment.judge.data
    if start.settings.kind == "spectral":
        users, items = graph.spectral_start(data, experiment.spectrum, trial.dim, settings.start_length)
    else:
        generator = torch.Generator(data.user.device).manual_seed(start.seed)
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


def fit_graph(
    config: Bench,
    model: GraphSpace,
    seed: int,
    steps: int,
    on_step: Callable[[int, torch.Tensor], None] = lambda step, loss: None,
) -> None:
    """Train the model; on_step gets each step's number and loss. Raises FloatingPointError if it diverges."""
    settings = config.graph
    with precision.for_training():
        graph.fit(
            model,
            graph.FitSettings(steps, settings.batch_users, settings.candidates, settings.learning_rate),
            torch.Generator(model.users.device).manual_seed(seed),
            on_step,
        )
