"""The settings of bench: every key with its default and meaning."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipelines.config.release import Export
from pipelines.config.section import Section
from pipelines.config.training import Evaluate

LOWEST_TEMPERATURE = 0.02  # as recsys.graph.log_sums allows
Temperature = Annotated[float, Field(ge=LOWEST_TEMPERATURE)]
Exponent = Annotated[float, Field(ge=-2, le=2)]


class Validation(Section):
    """The slice of train that is held out for validation."""

    share: float = Field(0.1, gt=0, lt=1, description="of each user's pairs")
    users: int = Field(4000, ge=1, description="most users to judge, drawn at random")


class Spectral(Section):
    """The untrained baseline."""

    dims: tuple[PositiveInt, ...] = Field(
        (128, 32, 64, 256),
        min_length=1,
        description="dimensions, searched from the first to larger ones while that helps, else to smaller",
    )
    item_exponents: tuple[Exponent, ...] = Field(
        (0.4, 0.2, 0.3, 0.5), min_length=1, description="searched in the same way"
    )


class Start(Section):
    """Where a training starts, and how it differs from the settings that trials chose."""

    kind: Literal["spectral", "random"] = Field("spectral", description="the spectrum or random rows")
    sharper: PositiveFloat = Field(1.0, description="divides the temperature, so that trainings differ")
    hops: PositiveInt | None = Field(None, description="overrides the chosen number of hops")

    def apply_to(self, trial: "Trial") -> "Trial":
        """The chosen settings as this training uses them."""
        return trial._replace(temperature=trial.temperature / self.sharper, hops=self.hops or trial.hops)


class Graph(Section):
    """The learned space: see recsys/graph.py."""

    dims: tuple[PositiveInt, ...] = Field(
        (63, 127, 191, 255),
        min_length=1,
        description="dimensions: the most that the budget has room for, unless fewer score as well in trials",
    )
    starts: tuple[Start, ...] = Field(
        (Start(),), min_length=1, description="one training from each; each random start has its own seed"
    )
    together: PositiveInt | None = Field(
        None,
        description="most trainings side by side in one vector: the best one, then the one that improves it "
        "most, and so on; default: as many as improve it",
    )
    start_length: PositiveFloat = Field(0.3, description="length of the rows at the spectral start")
    random_length: PositiveFloat = Field(0.1, description="length of the rows at a random start")
    hops: tuple[PositiveInt, ...] = Field(
        (2, 1, 3), min_length=1, description="hops of propagation, searched in the same way"
    )
    temperatures: tuple[Temperature, ...] = Field(
        (0.12, 0.05, 0.07, 0.09, 0.16, 0.22, 0.3), min_length=1, description="searched in the same way"
    )
    popularity_powers: tuple[NonNegativeFloat, ...] = Field(
        (0.8, 0.0, 0.25, 0.5, 1.0), min_length=1, description="searched in the same way"
    )
    trial_steps: PositiveInt = Field(40, description="steps of a trial, if there is more than one to try")
    steps: PositiveInt = Field(200, description="least steps of a training, if the budget has room")
    rounds: PositiveInt = Field(13, description="least epochs over the users, if the budget has room")
    longer: float = Field(3.0, ge=1, description="factor on both, as far as the budget has room")
    learning_rate: PositiveFloat = Field(0.012, description="Adam's; falls linearly to a twentieth")
    batch_users: PositiveInt = Field(2048, description="users per step, each with all their interactions")
    candidates: PositiveInt = Field(4096, description="items drawn per step, by popularity")

    @model_validator(mode="after")
    def _require_precision(self) -> "Graph":
        sharpest = max(start.sharper for start in self.starts)
        if min(self.temperatures) / sharpest < LOWEST_TEMPERATURE:
            raise ValueError(
                f"sharper = {sharpest:g} divides the lowest temperature, {min(self.temperatures):g}, "
                f"to below {LOWEST_TEMPERATURE:g}, where single precision is too coarse; allowed up to "
                f"{min(self.temperatures) / LOWEST_TEMPERATURE:g}"
            )
        return self

    def seeded_starts(self, seed: int) -> list["SeededStart"]:
        """The starts; each random one gets another seed."""
        kinds = [start.kind for start in self.starts]
        return [
            SeededStart(start, seed + (kinds[:place].count("random") if start.kind == "random" else 0))
            for place, start in enumerate(self.starts)
        ]

    def max_ensemble_size(self) -> int:
        """Most trainings side by side in one vector."""
        return min(len(self.starts), self.together or len(self.starts))


class SeededStart(NamedTuple):
    """A start and the seed of all its random draws."""

    settings: Start
    seed: int

    def describe(self) -> str:
        start = self.settings
        words = f"{start.kind} start" + (f" of seed {self.seed}" if start.kind == "random" else "")
        words += f", {start.sharper:g} times as sharp" if start.sharper != 1 else ""
        return words + (f", hops {start.hops}" if start.hops else "")

    def as_json(self, trial: "Trial") -> dict[str, Any]:
        """The start as metrics.json holds it, with the settings that it was trained with."""
        own = self.settings.apply_to(trial)
        return {
            "kind": self.settings.kind,
            "seed": self.seed,
            "temperature": own.temperature,
            "hops": own.hops,
        }


class Beside(Section):
    """Spectral coordinates added to the learned ones in one vector: their distances add up."""

    dims: NonNegativeInt = Field(0, description="dimensions of the spectrum; 0: none are added")
    weights: tuple[PositiveFloat, ...] = Field(
        (0.03, 0.06, 0.12), min_length=1, description="tried; at 1 both parts spread the items equally"
    )


class BenchEvaluate(Evaluate):
    """How rankings are judged; published splits are compared at 10 and 20, excluding the pairs of train."""

    select: str = Field("ndcg@20", description="metric that validation selects by")

    @model_validator(mode="after")
    def _require_published_protocol(self) -> "BenchEvaluate":
        if not {10, 20} <= set(self.ks):
            raise ValueError(f"ks = {list(self.ks)} must hold 10 and 20")
        if not self.exclude_seen:
            raise ValueError("exclude_seen = false: published splits exclude the pairs of train")
        return self


class Bench(Section):
    """All that the results depend on, except the data, the device and the budget."""

    seed: int = Field(0, ge=0, description="seed of every generator")
    threads: int | None = Field(
        None, ge=1, le=512, description="torch threads on CPU; default: torch's own choice"
    )
    validation: Validation = Validation()
    spectral: Spectral = Spectral()
    graph: Graph = Graph()
    beside: Beside = Beside()
    evaluate: BenchEvaluate = BenchEvaluate()
    export: Export = Export(recall=0.995)  # keeps the served metrics within 1 %

    def refit_factor(self) -> float:
        """Pairs of all of train per pair without the slice: the factor on the seconds per step in a refit."""
        return 1 / (1 - self.validation.share)


class Trial(NamedTuple):
    """Settings of the learned space that validation chooses among."""

    dim: int
    hops: int
    temperature: float
    popularity_power: float

    def describe(self) -> str:
        return (
            f"{self.dim} dimensions, {self.hops} hops, temperature {self.temperature:g}, "
            f"popularity power {self.popularity_power:g}"
        )
