"""One training on the validation fold, within its share of the budget, until validation stops rising."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipelines.training.budget import OutOfTime, StepTimer
from pipelines.training.model import Part, Trained, trained_space
from pipelines.training.together import is_more_than_noise
from recsys.epochs import Epoch, epochs, steps_per_pass
from recsys.settings import Settings
from recsys.spaces import Space, euclidean_vectors
from recsys.training import Training

if TYPE_CHECKING:
    from pipelines.training.selection import Chooser

LOGGER = logging.getLogger("recsys")

WANTED_CYCLES = 3  # of a fit before another space is trained too
LONGER = 2  # times the seconds of a training are kept free for its fit, where time ended it as its score rose
CYCLES_WITHOUT_GAIN = 2  # end a training
LEAST_STEPS = 10  # of a first cycle: with fewer the training is left out
SPARE = 1.1  # times the seconds of LEAST_STEPS are kept for them, as steps differ
TOGETHER = 0.07  # share of the budget kept free for judging what stands together


OnEpoch = Callable[[dict[str, Any], int], None]  # a row of figures, and its number from 1


class SpaceTraining:
    """A planned space as it is trained: its time, its best epoch, and the lengths of its cycles."""

    def __init__(self, chooser: Chooser, part: Part, n_left: int) -> None:
        """n_left trainings are still to come, this one included."""
        self.part, self._settings = part, Settings(**part.settings)
        self._chooser, self._n_left = chooser, n_left
        self._clock, self._timer = chooser.clock, StepTimer(chooser.clock)
        known = chooser.selection.running
        self._lengths: list[int] = list(known.get("lengths", []))  # steps of each cycle
        self._seconds: float = known.get("seconds", 0.0)  # of all steps
        self._best: dict[str, Any] = known.get("best", {})
        self._out_of_time = False

    def train(self) -> Trained | None:
        """The training as it was at its best epoch; None if there was no time for one."""
        self._clock.settle_threads()
        training = self._chooser.hooks.start(self._settings, self._chooser.spectrum)
        training.held_out = self._chooser.judge.held_out
        if self._settings.cycle_steps:
            training.plan = self._plan_cycle
        self._chooser.selection.running["name"] = self.part.name
        self._chooser.hooks.watch(training, self.part.name)
        before = training.on_step
        self._last = self._clock.now()

        def on_step(interactions: int) -> None:
            self._after_step(training, interactions)
            before(interactions)

        training.on_step = on_step
        try:
            most = self._chooser.hooks.max_epochs or self._chooser.config.train.max_epochs
            for epoch in epochs(training, most):
                if not self._judge(training, epoch):
                    break
                if epoch.number < most and not self._has_room(training):
                    self._out_of_time = True
                    break
                self._clock.settle_threads()
                self._last = self._clock.now()
                self._timer.pause()
        except OutOfTime:
            if self._best:
                LOGGER.info(f"train: {self.part.name} ends: its share of the budget is used up")
        return self._with_longer_fit()

    def _with_longer_fit(self) -> Trained | None:
        """The training at its best epoch; where time ended it as its score rose, its fit has one cycle more.

        Otherwise validation would take half of all steps. The cycle is planned with twice the steps of the
        one before, and is shortened with the others to what the time allows.
        """
        trained: Trained | None = self._best.get("trained")
        if trained is None or not self._out_of_time or not self._rises or not any(trained.part.cycles):
            return trained
        cycles = (*trained.part.cycles, 2 * trained.part.cycles[-1])
        return trained._replace(part=trained.part._replace(cycles=cycles), seconds=LONGER * trained.seconds)

    @property
    def _rises(self) -> bool:
        """Whether the latest cycle helped by more than noise; True before there are two to compare."""
        return bool(self._best.get("rises", True))

    def _after_step(self, training: Training, interactions: int) -> None:
        if interactions == 0:  # before the epoch
            self._note()
            return
        now = self._clock.now()
        self._seconds, self._last = self._seconds + now - self._last, now
        self._timer.tick()
        self._note()
        if not self._settings.cycle_steps and self._room() < 0:
            raise OutOfTime

    def _note(self) -> None:
        """Record where this training is, for a checkpoint."""
        selection = self._chooser.selection
        selection.running |= {"lengths": self._lengths, "seconds": self._seconds, "best": self._best}
        self._chooser.clock_in()

    def _room(self) -> float:
        """Seconds that this training may still take, its judging left aside."""
        return self.share() - self._seconds

    def share(self) -> float:
        """Seconds for all steps of this training.

        What is left is for the trainings still to come, for what is judged, and for the fit of those that
        stand together: each a little longer than its training, this one's LONGER times where its score still
        rises. Then only as many trainings count as leave room for WANTED_CYCLES of each fit. The first
        training has the seconds of LEAST_STEPS if its fit can have as many.
        """
        chooser, budget = self._chooser, self._clock.budget
        if budget is None:
            return float("inf")
        fits = max(1, chooser.config.train.max_dim // (self._settings.dim + 1))
        before = sorted((one.seconds for one in chooser.selection.trained.values()), reverse=True)
        left = self._clock.remaining() - TOGETHER * budget + self._seconds - 2 * chooser.together.seconds
        step, wanted = self._timer.seconds(), (2**WANTED_CYCLES - 1) * self._settings.cycle_steps / LONGER

        def share_of(n: int, longer: float) -> float:
            """With n trainings to come, this one included, whose fits take `longer` times their seconds."""
            refitted = min(fits, len(before) + n)
            old = chooser.refit_factor * sum(before[: max(0, refitted - n)])
            return (left - old) / (n + longer * chooser.refit_factor * min(n, refitted))

        share, rises = 0.0, bool(self._settings.cycle_steps) and self._rises
        for n in range(min(self._n_left, max(1, fits + 1 - len(before))), 0, -1):
            share = share_of(n, LONGER if rises else 1)
            if step is None or share >= wanted * step or not self._rises:
                break
        least = 0.0 if step is None or before else SPARE * LEAST_STEPS * step
        return share if share >= least else min(least, share_of(1, 1))  # rather a short fit than none

    def _plan_cycle(self, epoch: int, step: int) -> int:
        """Steps of a cycle: twice as many as before, fewer where there is no room, more in the last one."""
        wanted = self._settings.cycle_steps * 2**epoch
        seconds = self._timer.seconds()
        planned = wanted
        if seconds is not None and self._clock.budget is not None:
            affordable = step + max(0, int(self._room() / seconds))
            planned = affordable if affordable < 3 * wanted else wanted  # else a next cycle has room
        elif len(self._lengths) > epoch:
            planned = self._lengths[epoch]
        self._lengths[epoch:] = [max(planned, step)]
        if planned < min(LEAST_STEPS, wanted) and epoch == 0 and seconds is not None:
            raise OutOfTime
        return self._lengths[epoch]

    def _judge(self, training: Training, epoch: Epoch) -> bool:
        """Judge an epoch; whether another one may be better."""
        chooser, name = self._chooser, self.part.name
        space = trained_space(training, chooser.hooks.content)
        values = chooser.judge_space(space, name)
        means = {metric: float(value.mean()) for metric, value in values.items()}
        score = means[chooser.select]
        row = {"space": name, "epoch": epoch.number, "seconds": self._clock.now(), "at_ms": now_ms()}
        row |= figures(epoch) | {f"validation.{metric}": value for metric, value in means.items()}
        chooser.selection.history.append(row)
        chooser.hooks.on_epoch(row, len(chooser.selection.history))
        LOGGER.info(
            f"train: {name}, epoch {epoch.number}, {self._clock.now():.0f} s: loss {epoch.stats.loss:.4f}, "
            f"active {epoch.stats.active:.3f}, validation {chooser.select} {score:.4f}"
        )
        of_users = torch.from_numpy(values[chooser.select])  # (Q,)
        of_new = self._judge_new_items(space)
        fell = of_new is not None and self._fell(of_new)
        if not self._best or (score > self._best["trained"].score and not fell):
            rises = not self._best or is_more_than_noise((of_users - self._best["of_users"]).numpy())
            trained = self._trained(training, epoch, space, score)
            chooser.together.remember(trained.part, values)
            self._best = {
                "epoch": epoch.number,
                "trained": trained,
                "of_users": of_users,
                "of_new": of_new,
                "rises": rises,
            }
        elif fell or self._is_over(epoch.number, of_users):
            LOGGER.info(f"train: {name}: validation no longer rises, keeping epoch {self._best['epoch']}")
            return False
        else:  # level: time that ends the training now gives its fit no further cycle
            self._best = self._best | {"rises": False}
        return True

    def _judge_new_items(self, space: Space) -> Tensor | None:
        """(Q,) the score of new items among themselves, of a space that places them by features."""
        judges = self._chooser.judges
        if judges is None or not self.part.learns_from_features:
            return None
        users, items = euclidean_vectors(space)
        alone, n_items = judges.alone, self._chooser.judge.data.n_items
        of_new = torch.from_numpy(alone.values(alone.rank((users, items[n_items:])))[self._chooser.select])
        LOGGER.info(
            f"train: {self.part.name}: new items among themselves, validation {self._chooser.select} "
            f"{of_new.mean():.4f}"
        )
        return of_new

    def _fell(self, of_new: Tensor) -> bool:
        """Whether new items are ranked worse than at the best epoch, by more than noise.

        Fitted items go on to gain from their own rows when features fit them too closely already.
        """
        best = self._best.get("of_new")
        return best is not None and is_more_than_noise((best - of_new).numpy())

    def _is_over(self, epoch: int, of_users: Tensor) -> bool:
        """Whether an epoch that is no better than the best was the last; (Q,) its score of each judged user.

        After a cycle that is worse by more than noise, or after two that are no better.
        """
        without_gain = epoch - self._best["epoch"]
        if not self._settings.cycle_steps:
            return bool(without_gain >= self._chooser.config.train.patience)
        return without_gain >= CYCLES_WITHOUT_GAIN or is_more_than_noise(
            (self._best["of_users"] - of_users).numpy()
        )

    def _trained(self, training: Training, epoch: Epoch, space: Space, score: float) -> Trained:
        """The training as it is now."""
        cycles = tuple(self._lengths[: epoch.number]) or (0,) * epoch.number
        part = self.part._replace(cycles=cycles, hardest_until=training.progress.hardest_until)
        state = training.state()
        if self._settings.tower == "graph":  # its moments are as large as the tables, and soon made anew
            state["optimizer"] = {}
        kept = Space(*(rows.clone() for rows in space))  # the training goes on in the same memory
        return Trained(part, kept, score, self._seconds, state)

    def _has_room(self, training: Training) -> bool:
        """Whether the next epoch has room for half of what it should have."""
        seconds = self._timer.seconds()
        if self._clock.budget is None or seconds is None:
            return True
        if self._settings.cycle_steps:
            needed = self._settings.cycle_steps * 2 ** len(self._lengths) / 2
        else:
            needed = steps_per_pass(training)
        return bool(self._room() >= needed * seconds)


def figures(epoch: Epoch) -> dict[str, Any]:
    """The columns of history.parquet that tell how an epoch went."""
    known = epoch.health._asdict() if epoch.health else {}
    return epoch.stats._asdict() | {
        f"health.{name}": value for name, value in known.items() if value is not None
    }


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
