"""Settings of a release: the bundle and its index, the gate, MLflow."""

from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from pipelines.config import places
from pipelines.config.section import Section, Share

MOST_LETTERS = 250  # in a name of MLflow's registry


class Export(Section):
    """The bundle: recall and cost of its search, and how many bundles are kept."""

    recall: float = Field(0.98, gt=0, le=1, description="share of the exact top 20 that must be found")
    trees: tuple[PositiveInt, ...] = Field((10, 30, 100), min_length=1, description="Annoy trees tried")
    max_ms: PositiveFloat = Field(50, description="most milliseconds of the median query")
    max_mib: PositiveInt = Field(4096, description="most MiB of the index")
    max_build_seconds: PositiveFloat = Field(900, description="most seconds to build an index")
    keep: int = Field(5, ge=1, description="number of versions kept; current and open ones are always kept")


class Gate(Section):
    """What a challenger must show to replace the champion, both scored on the same test window."""

    metric: str | None = Field(None, description="metric that decides; default: evaluate.select")
    margin: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="non-inferiority margin: share of the champion's metric that may be lost",
    )
    alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="probability of promoting a challenger that loses more than the margin",
    )
    resamples: int = Field(10_000, ge=1000, description="resamples of the paired bootstrap over users")
    min_reach: Share = Field(0.9, description="known users, and known items, relative to the champion's")
    min_coverage: NonNegativeFloat = Field(
        0.5, description="share of the catalogue recommended, relative to the champion's"
    )
    max_popular_share: Share = Field(
        0.1, description="most increase in the share of recommendations from the most popular 1 % of items"
    )
    cold_margin: Share = Field(
        0.2, description="share of the metric that the least active users, or the rarest items, may lose"
    )
    max_overlap: Share = Field(0.9, description="average share of a list that two users have in common")
    max_latency: PositiveFloat = Field(3.0, description="milliseconds per query, relative to the champion's")
    min_new_share: Share = Field(
        0.0, description="items.place_new: share of recommendations that new items take at least"
    )
    max_new_share: Share = Field(0.3, description="the same, at most")
    max_content_drift: Share = Field(
        0.2, description="refresh: share of fitted items whose descriptions are not those of training"
    )

    @model_validator(mode="after")
    def _new_share_has_room(self) -> "Gate":
        if self.min_new_share > self.max_new_share:
            raise ValueError(
                f"min_new_share = {self.min_new_share}, allowed <= max_new_share = {self.max_new_share}"
            )
        return self


def _check_model_name(name: str) -> str:
    """Refuse names that MLflow cannot find again, also as models:/NAME@champion."""
    bad = [one for one in name if one in "/:?'\"" or not one.isprintable()]
    if bad or not name.strip() or name in (".", "..") or len(name) > MOST_LETTERS:
        raise ValueError(
            f"allowed: 1 to {MOST_LETTERS} characters, no / : ? quotes or control characters, not . or .."
        )
    return name


class Tracking(Section):
    """The MLflow server or database, and the experiment."""

    uri: Annotated[SecretStr, BeforeValidator(places.tracking_uri)] | None = Field(
        None, description="tracking URI; default: sqlite:///<root>/mlflow.db"
    )
    experiment: Annotated[str, AfterValidator(_check_model_name)] = Field(
        "recsys",
        description="experiment and name of the registered model, used by one root only; no / : ? or quotes",
    )
