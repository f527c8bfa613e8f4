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
)

from pipelines.config import places
from pipelines.config.section import Section, Share

MOST_LETTERS = 250  # of a name in MLflow's registry


class Export(Section):
    """The bundle: how exact and how dear its search may be, and how many bundles are kept."""

    recall: float = Field(0.95, gt=0, le=1, description="share of the exact top 20 that must be found")
    trees: tuple[PositiveInt, ...] = Field((10, 30, 100), min_length=1, description="Annoy trees tried")
    max_ms: PositiveFloat = Field(50, description="milliseconds that half of the queries may take")
    max_mib: PositiveInt = Field(4096, description="size of the index, in MiB, at the most")
    max_build_seconds: PositiveFloat = Field(900, description="time to build an index, at the most")
    keep: int = Field(5, ge=1, description="versions kept; current and open ones stay in any case")


class Gate(Section):
    """What a challenger must show to take the champion's place; both are asked for the same test window."""

    metric: str | None = Field(None, description="what decides; without it evaluate.select")
    margin: float = Field(
        0.02, ge=0, lt=1, description="share of the champion's metric that may be lost: non-inferiority"
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of promoting one that loses the margin")
    resamples: int = Field(10_000, ge=1000, description="of the paired bootstrap over users")
    min_reach: Share = Field(0.9, description="of users, and of items, that it knows, times the champion's")
    min_coverage: NonNegativeFloat = Field(0.5, description="of the catalogue, times the champion's")
    max_popular_share: Share = Field(
        0.1, description="by how much the most popular hundredth of the items may get more of the lists"
    )
    cold_margin: Share = Field(
        0.2, description="share of the metric that the least active users, and the rarest items, may lose"
    )
    max_overlap: Share = Field(0.9, description="share of a list that two users have in common, on average")
    max_latency: PositiveFloat = Field(3.0, description="milliseconds a query, times the champion's")


def _name_of_a_model(name: str) -> str:
    """One that MLflow finds again, also as models:/NAME@champion."""
    bad = [one for one in name if one in "/:?'\"" or not one.isprintable()]
    if bad or not name.strip() or name in (".", "..") or len(name) > MOST_LETTERS:
        raise ValueError(
            f"allowed: 1 to {MOST_LETTERS} characters, no / : ? quotes or control characters, not . or .."
        )
    return name


class Tracking(Section):
    """Where MLflow keeps its books."""

    uri: Annotated[SecretStr, BeforeValidator(places.store)] | None = Field(
        None, description="tracking URI; without it sqlite:///<root>/mlflow.db"
    )
    experiment: Annotated[str, AfterValidator(_name_of_a_model)] = Field(
        "recsys",
        description="experiment, and name of the registered model, of one root alone; no / : ? or quotes",
    )
