"""The final fit: the chosen parts on everything before the test window, within what is left of the budget."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pipelines.data.content import ItemContent
from pipelines.training import model
from pipelines.training.budget import Clock, StepTimer
from pipelines.training.cycles import OnEpoch, figures, now_ms
from pipelines.training.model import Part
from recsys import baselines
from recsys.content import ContentMap
from recsys.epochs import epochs
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.spaces import Space
from recsys.training import Spectrum, Training, TrainingProgress

LOGGER = logging.getLogger("recsys")

FEW = 0.5  # of the chosen steps; with room for fewer, the fit starts where the training on validation ended


class Done(NamedTuple):
    """A finished part."""

    space: Space
    hardest_until: int | None  # epochs before semi_hard replaced a miner that collapsed
    state: dict[str, Any] | None  # of the training, where a later run may start there
    by_content: ContentMap | None = None  # where it learned from features

    def plain(self) -> dict[str, Any]:
        """Convert to plain numbers and tensors, which torch.save takes."""
        by = self.by_content
        return self._asdict() | {"space": tuple(self.space), "by_content": by and tuple(by)}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Done":
        """Convert back from `plain`."""
        by = plain["by_content"]
        return Done(**(plain | {"space": Space(*plain["space"]), "by_content": by and ContentMap(*by)}))


class FinalFit(NamedTuple):
    """What the caller of a final fit does as it goes on."""

    clock: Clock
    data: DeviceInteractions
    start: Callable[[Settings, Spectrum | None], Training]
    rows: list[dict[str, Any]]  # an epoch a row
    done: dict[str, Done]  # by the part's name
    keep_states: bool
    seconds: dict[str, float]  # Trained.seconds of each training; empty without a budget
    continue_from: Callable[[Training, str], None]  # puts a training where it was on validation
    watch: Callable[[Training, str], None] = lambda training, name: None  # resumes it, saves checkpoints
    on_epoch: OnEpoch = lambda row, number: None
    content: ItemContent | None = None  # of items


def widest(parts: Sequence[Part]) -> int:
    """Dimensions of the spectrum that the parts need; 0: none."""
    return max(
        (part.settings["dim"] for part in parts if part.kind == "spectral" or _starts_at_spectrum(part)),
        default=0,
    )


def _starts_at_spectrum(part: Part) -> bool:
    return part.is_trained and part.settings["start"] == "spectral"


def fit_parts(parts: Sequence[Part], fit: FinalFit, seed: int) -> list[Space]:
    """The space of each part, fitted on all data."""
    data = fit.data
    fit.clock.settle_threads()
    fit.clock.reserved = 0.0  # what was kept free is for the spectrum here
    dim = min(widest(parts), data.n_users, data.n_items)
    spectrum = baselines.spectral(data, dim, 0.0, seed=seed) if dim else None
    trained = [part for part in parts if part.is_trained and part.name not in fit.done]
    for number, part in enumerate(trained):
        later = sum(fit.seconds.get(one.name, 0.0) for one in trained[number:])
        share = fit.seconds.get(part.name, 0.0) / later if later > 0 else 1.0
        fit.done[part.name] = _fit_part(part, fit, spectrum, share)
    return [_space(part, fit, spectrum) for part in parts]


def _space(part: Part, fit: FinalFit, spectrum: Spectrum | None) -> Space:
    if not part.is_trained:
        return model.untrained_space(part, fit.data, spectrum, fit.content)
    space = fit.done[part.name].space
    return model.for_new_alone(space, fit.data.n_items) if part.for_new else space


def _fit_part(part: Part, fit: FinalFit, spectrum: Spectrum | None, share: float) -> Done:
    """Train a part for the steps that were chosen, or for as many as its share of the time has room for."""
    fit.clock.settle_threads()
    training = fit.start(Settings(**part.settings), spectrum)
    room = share * fit.clock.remaining()
    training.progress = TrainingProgress(hardest_until=part.hardest_until)
    cycles, timer = part.cycles, StepTimer(fit.clock)
    if room < FEW * fit.seconds.get(part.name, 0.0):
        LOGGER.info(f"train: little time is left: {part.name} goes on from where it was on validation")
        fit.continue_from(training, part.name)
        cycles = part.cycles[:1]
    deadline = fit.clock.now() + room
    steps_after = [sum(cycles[number + 1 :]) for number in range(len(cycles))]

    def plan(epoch: int, step: int) -> int:
        """The chosen steps, or the share of the steps that the time has room for."""
        seconds, left = timer.seconds(), cycles[epoch] - step
        if seconds is None or left <= 0:
            return cycles[epoch]
        affordable = max(0.0, deadline - fit.clock.now()) / seconds
        return step + int(left * min(1.0, affordable / (left + steps_after[epoch])))

    if any(cycles):
        training.plan = plan
    fit.watch(training, part.name)
    before = training.on_step

    def on_step(interactions: int) -> None:
        if interactions:
            timer.tick()
        before(interactions)

    training.on_step = on_step
    for epoch in epochs(training, len(cycles)):
        row = {"space": part.name, "epoch": epoch.number, "at_ms": now_ms()} | figures(epoch)
        fit.rows.append(row)
        fit.on_epoch({f"fit.{name}": value for name, value in row.items()}, len(fit.rows))
        timer.pause()
    state = training.state() if fit.keep_states else None
    return Done(
        model.trained_space(training, fit.content),
        training.progress.hardest_until,
        state,
        None if training.model.content is None else training.model.content_map(),
    )
