"""What every section of the configuration has in common."""

from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from pipelines.config import places

METRICS = ("hit_rate", "recall", "ndcg", "mrr", "map")
Share = Annotated[float, Field(ge=0, le=1)]
Place = Annotated[Path, BeforeValidator(places.local)]
Files = Annotated[str, BeforeValidator(places.expanded)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
