"""The base of every section of the configuration, and types of its fields."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipelines.config import places

METRICS = ("hit_rate", "recall", "ndcg", "mrr", "map")
Share = Annotated[float, Field(ge=0, le=1)]
Place = Annotated[Path, BeforeValidator(places.local_path)]
Files = Annotated[str, BeforeValidator(places.expand_home)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
