"""What validation chooses: the spectrum, the settings, the length of each training, and what stands together.

Axes: U users, I items.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pipelines.config.config import Learning
from pipelines.data.content import ItemContent
from pipelines.training import judging, model, new_items, plans, refit, spectrum, trials
from pipelines.training.budget import Clock
from pipelines.training.cycles import LONGER, TOGETHER, WANTED_CYCLES, OnEpoch, SpaceTraining
from pipelines.training.judging import NewItemJudges
from pipelines.training.model import Part, Trained
from pipelines.training.plans import Plan
from pipelines.training.search import Point
from pipelines.training.together import SMALL_WINDOW, Candidate, Chosen, Together
from recsys import baselines
from recsys.judge import Judge, Values
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.spaces import Space, euclidean_vectors
from recsys.training import Spectrum, Training

LOGGER = logging.getLogger("recsys")

WIDER = 0.55  # longer step for twice the dimensions
SECONDS_PER_DAY = 86_400
NO_ROOM = "no room in the budget"


@dataclass
class Selection:
    """What has been chosen so far; with the state of the training that runs, enough to resume."""

    spectral: dict[str, Any] = field(default_factory=dict)  # settings of the best spectrum, and its score
    trials: dict[Point, Tensor] = field(default_factory=dict)  # (Q,) the selection metric of judged users
    chosen: dict[str, Point] = field(default_factory=dict)  # by the loss, what its trials chose
    trained: dict[str, Trained] = field(default_factory=dict)  # by the plan's name
    trial_seconds: float = 0.0  # of the latest trial
    step_seconds: tuple[int, float] | None = None  # dimensions and seconds of a step in the search
    dim: int | None = None  # of the graph spaces
    spectrum_dim: int | None = None  # of the widest spectrum
    judged: int | None = None  # users
    left_out: dict[str, str] = field(default_factory=dict)  # the plan's name, and why
    history: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch
    points: list[dict[str, Any]] = field(default_factory=list)  # all validations: seconds, of, metrics
    running: dict[str, Any] = field(default_factory=dict)  # of the training that runs
    seconds: float = 0.0  # spent

    def plain(self) -> dict[str, Any]:
        """Convert to plain numbers and tensors, which torch.save takes."""
        trained = {name: one.plain() for name, one in self.trained.items()}
        trials = [(tuple(point), values) for point, values in self.trials.items()]
        chosen = [tuple(point) for point in self.chosen.values()]
        running = dict(self.running)
        if best := running.get("best"):
            running["best"] = best | {"trained": best["trained"].plain()}
        return vars(self) | {"trained": trained, "trials": trials, "chosen": chosen, "running": running}

    @staticmethod
    def of(plain: dict[str, Any]) -> "Selection":
        """Convert back from `plain`."""
        trained = {name: Trained.of(one) for name, one in plain["trained"].items()}
        trials = {Point(*point): values.cpu() for point, values in plain["trials"]}  # of a GPU's checkpoint
        chosen = {point.loss: point for point in (Point(*one) for one in plain["chosen"])}
        running = dict(plain["running"])
        if best := running.get("best"):
            of_users = best["of_users"].cpu()
            of_new = best.get("of_new")
            running["best"] = best | {
                "trained": Trained.of(best["trained"]),
                "of_users": of_users,
                "of_new": None if of_new is None else of_new.cpu(),
            }
        found = {"trained": trained, "trials": trials, "chosen": chosen, "running": running}
        return Selection(**(plain | found))


class Hooks(NamedTuple):
    """What the caller of a choice does as it goes on."""

    start: Callable[[Settings, Spectrum | None], Training]
    watch: Callable[[Training, str], None] = lambda training, name: None  # resumes it, saves checkpoints
    on_epoch: OnEpoch = lambda row, number: None
    on_trial: Callable[[], None] = lambda: None  # after each training of the search; saves checkpoints
    max_epochs: int | None = None  # of each training; None: train.max_epochs
    refit_factor: float = 1.1  # seconds of a step in the final fit per second on validation
    content: ItemContent | None = None  # of items; new ones are ranked too
    judges: NewItemJudges | None = None  # of new items; None where nobody takes one


class Chooser:
    """One choice on a validation fold: judge, spectrum, clock, and what was found so far."""

    def __init__(
        self,
        config: Learning,
        judge: Judge,
        clock: Clock,
        hooks: Hooks,
        selection: Selection | None = None,
        known: Sequence[Part] = (),
    ) -> None:
        """`known` are trained parts of an earlier model.

        These are trained again, from where `watch` puts them, and no settings are searched.
        """
        self.config, self.clock, self.hooks, self.known = config, clock, hooks, known
        self.selection = selection or Selection()
        self.refit_factor = hooks.refit_factor
        self.select = config.evaluate.select
        clock.settle_threads()
        self.spectrum = self._spectrum(judge.data)
        self.judge = self._judge(judge)
        self.judges = self._judges_of_new_items(len(judge.users))
        self.together = Together(self.judge, self.select, config.train, clock)

    def _spectrum(self, data: DeviceInteractions) -> Spectrum:
        """The widest spectrum; its seconds are reserved, as the fit computes it again."""
        known, seed = self.selection, self.config.seed
        if known.spectrum_dim is None:
            least = max(known.spectral.get("dim", 0), refit.widest(self.known))
            known.spectrum_dim = spectrum.affordable(self.config, data, self.clock, least)
        started = self.clock.now()
        found = baselines.spectral(data, known.spectrum_dim, 0.0, seed=seed)
        self.clock.reserved = self.refit_factor * (self.clock.now() - started)
        return found

    def _judge(self, judge: Judge) -> Judge:
        """The judge, of fewer users where the budget is short for so many items."""
        if self.selection.judged is not None:
            return judge.sample(self.selection.judged, self.config.seed)
        found = self._affordable(judge, judging.SHARE)
        self.selection.judged = len(found.users)
        return found

    def _affordable(self, judge: Judge, share: float) -> Judge:
        """The judge of so many users that the widest spectrum is judged in a share of the budget."""
        settings = model.spectral_settings(self.spectrum[1].shape[1], 0.0, self.config.seed)
        space = model.spectral_space(judge.data, settings, self.spectrum)
        return judging.affordable(judge, space, self.clock, self.config.seed, share)

    def _judges_of_new_items(self, before: int) -> NewItemJudges | None:
        """The judges of new items; of as many users as the judge has, if it had `before` more of them."""
        given, left = self.hooks.judges, len(self.judge.users)
        if given is None or left == before:
            return given
        return NewItemJudges(*(one.sample(left, self.config.seed) for one in given))

    def choose(self) -> Chosen:
        """Choose all of it; the parts of the model in the order in which they joined."""
        if len(self.judge.users) < SMALL_WINDOW:
            LOGGER.warning(
                f"train: validation has {len(self.judge.users)} users only: small differences are noise"
            )
        self.choose_spectral()
        planned: Sequence[Part | Plan] = self.known or plans.plans(self.config)
        if not planned:
            LOGGER.info("train: train.spaces is empty: nothing is trained")
        for number, one in enumerate(planned):
            left_out = self.selection.left_out
            if one.name in self.selection.trained or one.name in left_out:
                continue
            if any(reason == NO_ROOM and other.startswith(one.kind) for other, reason in left_out.items()):
                left_out[one.name] = NO_ROOM  # as another of its kind, which takes as long
                continue
            part = one if isinstance(one, Part) else self._planned(one)
            self._train(SpaceTraining(self, part, len(planned) - number))
        candidates = self.candidates()
        chosen = self.together.choose(candidates, self.clock.now() + self._judging_seconds())
        if self.config.train.coverage_price > 0:
            rarity = self._untrained_candidate(Part("rarity", "rarity", 1.0, {}))
            chosen = self.together.widen(chosen, candidates, rarity)
            candidates.append(rarity)
        if self.hooks.content is not None:
            deadline = self.clock.now() + self._judging_seconds()
            candidates += self._ranking_new_items()
            chosen = new_items.add(self.together, chosen, candidates, self.judges, deadline)
            if self.judges is not None:
                among_all = self._affordable(self.judges.together, TOGETHER / new_items.JUDGINGS)
                judges = self.judges._replace(together=among_all)
                chosen = new_items.shift(self.together, chosen, candidates, self._shifts(), judges)
        self.clock_in()
        self.selection.points.append({"seconds": self.clock.now(), "of": "model", self.select: chosen.score})
        return chosen

    @property
    def n_new(self) -> int:
        """Items that nobody has, which are ranked too."""
        return 0 if self.hooks.content is None else self.hooks.content.n_new

    def _ranking_new_items(self) -> list[Candidate]:
        """What may rank new items alone: trainings that learned from features, and likeness."""
        n_items = self.judge.data.n_items
        found = [
            Candidate(one.part._replace(for_new=True), model.for_new_alone(one.space, n_items))
            for one in self.selection.trained.values()
            if one.part.learns_from_features
        ]
        dim = self.config.train.new_dim - max((one.dim for one in found), default=0)  # so that both have room
        settings = {"dim": max(1, dim), "seed": self.config.seed}
        likeness = Part(model.LIKENESS, model.LIKENESS, 1.0, settings, for_new=True)
        return [*found, self._untrained_candidate(likeness)]

    def _shifts(self) -> tuple[Candidate, Candidate]:
        """What brings new items nearer to all users, and what takes them farther away."""
        nearer, farther = (
            Part(f"new items {where}", model.NEW, 1.0, {"nearer": where == "nearer"})
            for where in ("nearer", "farther")
        )
        return self._untrained_candidate(nearer), self._untrained_candidate(farther)

    def _untrained_candidate(self, part: Part) -> Candidate:
        return Candidate(
            part, model.untrained_space(part, self.judge.data, self.spectrum, self.hooks.content)
        )

    def spare_seconds(self) -> float:
        """Seconds that the fit of the longest trainings leaves."""
        budget, trained = self.clock.budget, list(self.selection.trained.values())
        if budget is None or not trained:
            return self.clock.remaining()
        fits = max(1, self.config.train.max_dim // (trained[0].space.items.shape[1] + 1))
        longest = sorted((one.seconds for one in trained), reverse=True)[:fits]
        return self.clock.remaining() - self.refit_factor * sum(longest)

    def _judging_seconds(self) -> float:
        """Seconds for judging what stands together."""
        return max(TOGETHER * (self.clock.budget or 0.0), self.spare_seconds())

    def _planned(self, plan: Plan) -> Part:
        """A planned space, with its settings."""
        if plan.kind == "metric":
            settings = plans.metric_settings(self.config, plan, self._item_exponent)
        else:
            point = trials.choose_point(self, plan)
            if self.selection.dim is None:  # by the time that is left: a resumed choice keeps it
                self.selection.dim = min(self._dimensions(), self.config.train.max_dim - 1)
            settings = plans.graph_settings(self.config, plan, point, self.selection.dim)
        return Part(plan.name, plan.kind, 1.0, settings._asdict())

    def _dimensions(self) -> int:
        """Dimensions of graph spaces: fewer where the budget has no room for a fit of WANTED_CYCLES."""
        config, known = self.config, self.selection.step_seconds
        wide = min(plans.dimensions(config, self.judge.data), self.spectrum[1].shape[1])
        if config.graph.dim is not None or known is None or self.clock.budget is None:
            return wide
        steps = (2**WANTED_CYCLES - 1) * config.graph.cycle_steps
        share = (self.clock.remaining() - TOGETHER * self.clock.budget) / (1 / LONGER + self.refit_factor)
        for dim in (wide, plans.NARROW):
            seconds = known[1] * (1 + WIDER * (dim / known[0] - 1))
            if steps * seconds <= share:
                return dim
        return min(plans.NARROW, wide)

    def clock_in(self) -> None:
        """Record the seconds spent."""
        self.selection.seconds = self.clock.now()

    def candidates(self) -> list[Candidate]:
        """All spaces that may stand in the model."""
        found = [Candidate(one.part, one.space) for one in self.selection.trained.values()]
        for part in self._untrained():
            one = self._untrained_candidate(part)
            if float(model.spread(one.space)) > 0:
                found.append(one)
        return found

    def _untrained(self) -> list[Part]:
        settings = self.selection.spectral
        spectral = {name: settings[name] for name in ("dim", "item_exponent", "seed")}
        spectral["dim"] = min(spectral["dim"], max(1, self.config.train.max_dim - 1))
        half_life = {"half_life": self.config.train.trend_half_life_days * SECONDS_PER_DAY}
        known = {"spectral": spectral, "trend": half_life}
        wanted = self.config.train.untrained
        if not self.selection.trained and "spectral" not in wanted:
            wanted = ("spectral", *wanted)  # the model has to be something
        parts = [Part(name, name, 1.0, known[name]) for name in wanted]
        if "spectral" in wanted:
            parts += self._narrow_spectrum(spectral)
        return parts

    def _narrow_spectrum(self, settings: dict[str, Any]) -> list[Part]:
        """The spectrum with as many dimensions as fit beside a trained space, if the best has more."""
        dims = [one.space.items.shape[1] for one in self.selection.trained.values()]
        room = self.config.train.max_dim - 1 - max(dims, default=0)
        if not dims or not 0 < room < settings["dim"]:
            return []
        return [Part("spectral-narrow", "spectral", 1.0, settings | {"dim": room})]

    def choose_spectral(self) -> None:
        """Choose the spectral baseline: its dimensions and its exponent."""
        if self.selection.spectral:
            return
        found = spectrum.choose(
            self.config,
            self.judge.data,
            self.spectrum,
            lambda space: float(self.judge_space(space, "spectral")[self.select].mean()),
            self.clock,
        )
        self.selection.spectral = found
        LOGGER.info(
            f"train: spectral baseline, validation {self.select} {found['score']:.4f} at {found['dim']} "
            f"dimensions, item exponent {found['item_exponent']:g}"
        )

    @property
    def _item_exponent(self) -> float:
        return float(self.selection.spectral["item_exponent"])

    def _train(self, run: SpaceTraining) -> None:
        """Train a planned space within its share of the budget, until validation stops rising."""
        name, trained = run.part.name, self.selection.trained
        same = [one.part.name for one in trained.values() if one.part.settings == run.part.settings]
        if same:
            self.selection.left_out[name] = f"equals {same[0]}"
            LOGGER.info(f"train: {name} is left out: its settings equal those of {same[0]}")
            return
        try:
            found = run.train()
        except FloatingPointError as error:
            self.selection.left_out[name] = str(error)
            LOGGER.warning(f"train: WARNING: {name} is left out: {error}")
        else:
            if found is None:
                self.selection.left_out[name] = NO_ROOM
                LOGGER.info(f"train: no room for {name} in the budget")
            else:
                trained[name] = found
        self.selection.running = {}

    def judge_space(self, space: Space, name: str) -> Values:
        """The metrics of a space by itself, of each judged user; their means are a point of this name."""
        started = self.clock.now()
        users, items = euclidean_vectors(space)
        values = self.judge.values(self.judge.rank((users, items[: self.judge.data.n_items])))
        self.together.seconds = self.clock.now() - started
        means = {metric: float(value.mean()) for metric, value in values.items()}
        self.selection.points.append({"seconds": self.clock.now(), "of": name} | means)
        return values
