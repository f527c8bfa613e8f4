"""recsys retrain as an Airflow 3 task: bad data fails without a retry, no promotion is a skip."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

COMMAND = ".venv/bin/recsys retrain --config shop.toml --log-json"
NO_RETRY = {"2": "bad configuration or input", "3": "bad data: the champion stays"}
NOT_PROMOTED = 4  # the champion stays: this task and those after it are skipped


def check_exit_code(last_line: str) -> str:
    """Fail without a retry if the last line of the output is an exit code that a retry would repeat."""
    if last_line in NO_RETRY:
        raise AirflowFailException(NO_RETRY[last_line])
    return last_line


with DAG(
    "recsys_retrain", schedule="30 3 * * *", start_date=datetime(2025, 1, 1), catchup=False, max_active_runs=1
):
    BashOperator(
        task_id="retrain",
        cwd="/srv/recsys",
        bash_command=f"{COMMAND}; code=$?; case $code in 2|3) echo $code ;; *) exit $code ;; esac",
        output_processor=check_exit_code,
        skip_on_exit_code=NOT_PROMOTED,
        retries=3,  # for all other codes: 1 and 143 resume from the checkpoint, 5 waits for the other retrain
        retry_delay=timedelta(minutes=10),
    )
