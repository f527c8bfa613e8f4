"""The settings of bench: those of every training, and the slice of train that chooses."""

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from pipelines.config.config import Learning
from pipelines.config.release import Export
from pipelines.config.section import Section
from pipelines.config.training import Evaluate, Train


class Validation(Section):
    """The slice of train that is held out for validation."""

    share: float = Field(0.1, gt=0, lt=1, description="of each user's pairs")


class BenchEvaluate(Evaluate):
    """How rankings are judged; published splits are compared at 10 and 20, excluding the pairs of train."""

    select: str = Field("ndcg@20", description="metric that validation selects by")
    chebyshev: Literal["none", "chosen", "published"] = Field(
        "none",
        description="a row of ChebyCF, a filter without training that cannot be served: its settings chosen "
        "on validation, or those that its authors publish for Gowalla; scored after the budget",
    )

    @model_validator(mode="after")
    def _require_published_protocol(self) -> "BenchEvaluate":
        if not {10, 20} <= set(self.ks):
            raise ValueError(f"ks = {list(self.ks)} must hold 10 and 20")
        if not self.exclude_seen:
            raise ValueError("exclude_seen = false: published splits exclude the pairs of train")
        return self


class BenchTrain(Train):
    """Training; without a budget unless there is one."""

    seconds: PositiveFloat | None = Field(
        None, description="for choosing and fitting together; none: until validation stops rising"
    )


class BenchExport(Export):
    """The index that answers test; its recall keeps the served metrics within 1 %."""

    recall: float = Field(0.995, gt=0, le=1, description="share of the exact top 20 that must be found")


class Bench(Learning):
    """All that the results depend on, except the data, the device and the budget."""

    validation: Validation = Validation()
    train: BenchTrain = BenchTrain()
    evaluate: BenchEvaluate = BenchEvaluate()
    export: BenchExport = BenchExport()

    @model_validator(mode="after")
    def _has_no_content(self) -> "Bench":
        if any(space.start == "content" for space in self.train.spaces):
            raise ValueError(
                "train.spaces with start = 'content', allowed: random, spectral; bench has no items"
            )
        return self
