"""The bundle as an MLflow model: MLflow runs this file to load it; it imports nothing of pipelines."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from serving.recommender import Recommender


class BundleModel(PythonModel):
    """A Recommender behind MLflow's interface, which requires a PythonModel."""

    def load_context(self, context: Any) -> None:
        """Verify and open the bundle that was logged with the model; raises BundleError."""
        self._recommender = Recommender.open(Path(context.artifacts["bundle"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row for each row of the column user_id: item_ids and scores, lists of up to k, best first.

        params: k and exclude_seen. Unknown users get the popular items, with null scores. Raises
        ValueError on k < 1.
        """
        wanted = {"k": 10, "exclude_seen": True} | (params or {})
        users = model_input["user_id"].tolist()
        answers = self._recommender.recommend_many(users, wanted["k"], wanted["exclude_seen"])
        return pd.DataFrame(
            {
                "user_id": users,
                "item_ids": [[item.item_id for item in answer] for answer in answers],
                "scores": [[item.score for item in answer] for answer in answers],
            }
        )


set_model(BundleModel())
