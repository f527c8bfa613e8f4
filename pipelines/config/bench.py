"""The settings of bench: every key, its default and its meaning."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipelines.config.release import Export
from pipelines.config.section import Section
from pipelines.config.training import Evaluate

LOWEST_TEMPERATURE = 0.02  # as recsys.graph.log_sums allows
Temperature = Annotated[float, Field(ge=LOWEST_TEMPERATURE)]
Exponent = Annotated[float, Field(ge=-2, le=2)]


class Validation(Section):
    """The slice of train that chooses."""

    share: float = Field(0.1, gt=0, lt=1, description="of each user's pairs")
    users: int = Field(4000, ge=1, description="judged at the most, drawn at random")


class Spectral(Section):
    """The untrained baseline."""

    dims: tuple[PositiveInt, ...] = Field(
        (128, 32, 64, 256),
        min_length=1,
        description="dimensions; from the first to larger ones while that helps, or else to smaller ones",
    )
    item_exponents: tuple[Exponent, ...] = Field(
        (0.4, 0.2, 0.3, 0.5), min_length=1, description="tried in the same way"
    )


class Start(Section):
    """Where a training begins, and how it differs from what trials chose."""

    kind: Literal["spectral", "random"] = Field(
        "spectral", description="from the spectrum or from random rows"
    )
    sharper: PositiveFloat = Field(1.0, description="divides the temperature; sharper ones err less alike")
    hops: PositiveInt | None = Field(None, description="edges looked along, in place of the chosen ones")

    def trial(self, chosen: "Trial") -> "Trial":
        """The settings that this training takes."""
        temperature = chosen.temperature / self.sharper
        return chosen._replace(temperature=temperature, hops=self.hops or chosen.hops)


class Graph(Section):
    """The learned space: see recsys/graph.py."""

    dims: tuple[PositiveInt, ...] = Field(
        (63, 127, 191, 255),
        min_length=1,
        description="dimensions: the most that the budget has room for, unless fewer do as well in trials",
    )
    starts: tuple[Start, ...] = Field(
        (Start(),), min_length=1, description="a training from each; each random one by a seed of its own"
    )
    together: PositiveInt | None = Field(
        None,
        description="trainings side by side in one vector at the most: the best, then whichever adds most to "
        "it, as long as one does; without it as many as do",
    )
    start_length: PositiveFloat = Field(0.3, description="length of the rows at the spectral start")
    random_length: PositiveFloat = Field(0.1, description="length of the rows at a random start")
    hops: tuple[PositiveInt, ...] = Field(
        (2, 1, 3),
        min_length=1,
        description="edges looked along, tried in the same way",
    )
    temperatures: tuple[Temperature, ...] = Field(
        (0.12, 0.05, 0.07, 0.09, 0.16, 0.22, 0.3), min_length=1, description="tried in the same way"
    )
    popularity_powers: tuple[NonNegativeFloat, ...] = Field(
        (0.8, 0.0, 0.25, 0.5, 1.0), min_length=1, description="tried in the same way"
    )
    trial_steps: PositiveInt = Field(40, description="steps of a trial, where there is more than one to try")
    steps: PositiveInt = Field(200, description="steps of a training at least, if the budget has room")
    rounds: PositiveInt = Field(13, description="times that every user comes at least, if it has room")
    longer: float = Field(3.0, ge=1, description="times as many of both, as far as the budget has room")
    learning_rate: PositiveFloat = Field(0.012, description="of Adam at the start; falls to a twentieth")
    batch_users: PositiveInt = Field(2048, description="users a step, each with all that he has")
    candidates: PositiveInt = Field(4096, description="items drawn a step, by popularity")

    @model_validator(mode="after")
    def _within_precision(self) -> "Graph":
        sharpest = max(start.sharper for start in self.starts)
        if min(self.temperatures) / sharpest < LOWEST_TEMPERATURE:
            raise ValueError(
                f"sharper = {sharpest:g} takes the least of the temperatures, {min(self.temperatures):g}, "
                f"below {LOWEST_TEMPERATURE:g}, where single precision runs out; allowed up to "
                f"{min(self.temperatures) / LOWEST_TEMPERATURE:g}"
            )
        return self

    def seeded(self, seed: int) -> list["Seeded"]:
        """Each start with the seed that makes it differ from others of its kind."""
        kinds = [start.kind for start in self.starts]
        return [
            Seeded(start, seed + (kinds[:place].count("random") if start.kind == "random" else 0))
            for place, start in enumerate(self.starts)
        ]

    def side_by_side(self) -> int:
        """Trainings in one vector, at the most."""
        return min(len(self.starts), self.together or len(self.starts))


class Seeded(NamedTuple):
    """A start and the seed of all that is drawn."""

    start: Start
    seed: int

    def words(self) -> str:
        words = f"{self.start.kind} start" + (f" of seed {self.seed}" if self.start.kind == "random" else "")
        words += f", {self.start.sharper:g} times as sharp" if self.start.sharper != 1 else ""
        return words + (f", hops {self.start.hops}" if self.start.hops else "")

    def as_json(self, chosen: "Trial") -> dict[str, Any]:
        """What was trained, once trials have chosen."""
        trial = self.start.trial(chosen)
        return {
            "kind": self.start.kind,
            "seed": self.seed,
            "temperature": trial.temperature,
            "hops": trial.hops,
        }


class Beside(Section):
    """Spectral coordinates beside the learned ones, in one vector: their distances add up."""

    dims: NonNegativeInt = Field(0, description="of the spectrum; 0 leaves the learned ones alone")
    weights: tuple[PositiveFloat, ...] = Field(
        (0.03, 0.06, 0.12), min_length=1, description="tried; at 1 both spread a user's items equally far"
    )


class Judged(Evaluate):
    """How rankings are judged; published splits are compared at 10 and 20, without what train has."""

    select: str = Field("ndcg@20", description="what validation chooses by")

    @model_validator(mode="after")
    def _as_published(self) -> "Judged":
        if not {10, 20} <= set(self.ks):
            raise ValueError(f"ks = {list(self.ks)} must hold 10 and 20")
        if not self.exclude_seen:
            raise ValueError("exclude_seen = false: what train has is no target of a published split")
        return self


class Bench(Section):
    """Everything that the figures depend on, but for the data, the device and the budget."""

    seed: int = Field(0, ge=0, description="seed of every generator")
    threads: int | None = Field(
        None, ge=1, le=512, description="torch threads on CPU; without it torch's own choice"
    )
    validation: Validation = Validation()
    spectral: Spectral = Spectral()
    graph: Graph = Graph()
    beside: Beside = Beside()
    evaluate: Judged = Judged()
    export: Export = Export(recall=0.995)  # so that what is served stays within 1 %


class Trial(NamedTuple):
    """Settings of the learned space that validation chooses among."""

    dim: int
    hops: int
    temperature: float
    popularity_power: float

    def words(self) -> str:
        found = f"{self.dim} dimensions, {self.hops} hops, temperature {self.temperature:g}"
        return f"{found}, popularity power {self.popularity_power:g}"
