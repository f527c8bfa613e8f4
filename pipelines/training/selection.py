"""What validation chooses: the spectral baseline, the epochs, and the weights of the added spaces.

Axes: U users, I items.
"""

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipelines.config.config import Config
from pipelines.training import model
from pipelines.training.model import Additions, Choice
from recsys.epochs import Epoch, epochs
from recsys.judge import Judge
from recsys.training import Training

LOGGER = logging.getLogger("recsys")
OnEpoch = Callable[[dict[str, Any], int], None]  # a row of figures, and the epoch's number from 1


@dataclass
class Selection:
    """The best choice so far, and the history that led there; changes as epochs are judged."""

    choice: Choice
    score: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch
    state: dict[str, Any] | None = (
        None  # of the training at the best epoch, where a later run may start there
    )

    def plain(self) -> dict[str, Any]:
        """Convert to a dictionary of numbers and tensors, which torch.save takes."""
        return vars(self) | {"choice": self.choice._asdict()}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Selection":
        """Convert back from `plain`."""
        return Selection(**(plain | {"choice": Choice(**plain["choice"])}))


def choose_spectral(config: Config, judge: Judge) -> Choice:
    """Choose the spectral baseline's dimension and exponent; the rest of the choice stays open."""
    select, limit = config.evaluate.select, min(judge.data.n_users, judge.data.n_items)
    dims = [dim for dim in config.spectral.dims if dim <= limit] or [limit]
    best, best_score = Choice(dims[0], config.spectral.item_exponents[0]), -1.0
    for dim, exponent in itertools.product(dims, config.spectral.item_exponents):
        candidate = Choice(dim, exponent)
        score = judge.means(model.spectral_vectors(config, judge.data, candidate))[select]
        if score > best_score:
            best, best_score = candidate, score
    LOGGER.info(
        f"train: spectral baseline, validation {select} {best_score:.4f} at {best.spectral_dim} dimensions, "
        f"item exponent {best.item_exponent}"
    )
    return best


def select_epochs(
    config: Config, judge: Judge, training: Training, selection: Selection, n_epochs: int, on_epoch: OnEpoch
) -> None:
    """Train until validation stops rising, n_epochs at most; keep the best epoch and weights in `selection`.

    Resumes where training and selection are.
    """
    training.held_out = judge.held_out
    select, history = config.evaluate.select, selection.history
    added = model.fit_additions(config, judge.data, selection.choice)
    started = time.monotonic() - (history[-1]["seconds"] if history else 0.0)
    for epoch in epochs(training, n_epochs):
        means = _judge_weights(config, judge, training, added, selection.choice._replace(epochs=epoch.number))
        chosen = max(means, key=lambda candidate: means[candidate][select])
        score = means[chosen][select]
        row = {"epoch": epoch.number, "seconds": time.monotonic() - started, "at_ms": _now_ms()}
        row |= _figures(epoch)
        row |= {"spectral_weight": chosen.spectral_weight, "trend_weight": chosen.trend_weight}
        row |= {f"validation.{name}": value for name, value in means[chosen].items()}
        history.append(row)
        on_epoch(row, epoch.number)
        LOGGER.info(
            f"train: epoch {epoch.number}, {row['seconds']:.0f} s: loss {epoch.stats.loss:.4f}, "
            f"active {epoch.stats.active:.3f}, validation {select} {score:.4f} "
            f"(weights: spectral {chosen.spectral_weight:g}, trend {chosen.trend_weight:g})"
        )
        if score > selection.score:
            selection.choice, selection.score = chosen, score
            selection.state = training.state() if config.warm.start else None
        elif epoch.number - selection.choice.epochs >= config.train.patience:
            LOGGER.info(
                f"train: no better validation for {config.train.patience} epochs, "
                f"keeping epoch {selection.choice.epochs}"
            )
            break


def _judge_weights(
    config: Config, judge: Judge, training: Training, added: Additions, choice: Choice
) -> dict[Choice, dict[str, float]]:
    """The validation metrics of the learned space with each weight of the added spaces."""
    means = {}
    for weights in itertools.product(config.train.spectral_weights, config.train.trend_weights):
        candidate = choice._replace(
            spectral_weight=weights[0],
            trend_weight=weights[1],
            hardest_until=training.progress.hardest_until,
        )
        means[candidate] = judge.means(model.combine(training.model.space(), added, candidate))
    return means


def fit_epochs(
    training: Training, n_epochs: int, rows: list[dict[str, Any]], on_epoch: OnEpoch = lambda row, epoch: None
) -> None:
    """Train for n_epochs in all; append a row an epoch to `rows`."""
    for epoch in epochs(training, n_epochs):
        row = {"epoch": epoch.number, "at_ms": _now_ms()} | _figures(epoch)
        rows.append(row)
        on_epoch({f"fit.{name}": value for name, value in row.items()}, epoch.number)


def _figures(epoch: Epoch) -> dict[str, Any]:
    known = epoch.health._asdict() if epoch.health else {}
    return epoch.stats._asdict() | {
        f"health.{name}": value for name, value in known.items() if value is not None
    }


def _now_ms() -> int:
    return int(time.time() * 1000)
