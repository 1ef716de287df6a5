"""Pipelines as DAGs of Airflow, which only start the command and read its exit status.

Put this file into Airflow's dags folder. STFORECAST says where stforecast lies, with its .venv and pipelines/.
"""

import os
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

try:
    from airflow.sdk import dag, task
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.exceptions import AirflowFailException, AirflowSkipException

FOLDER = Path(os.environ.get("STFORECAST", "/srv/stforecast"))
DEGRADED, ACTIVE, LATER = 7, 9, 75


@task(retries=6, retry_delay=timedelta(minutes=10), execution_timeout=timedelta(hours=4))
def make_forecast(pipeline: str) -> None:
    """One run, which makes the last cycles that are missing."""
    command = [str(FOLDER / ".venv/bin/stforecast"), "run", pipeline, "--catch-up", "4"]
    status = subprocess.run(command, cwd=FOLDER, check=False).returncode  # noqa: S603
    if status == LATER:
        raise RuntimeError("input is late; tried again in ten minutes")
    if status == ACTIVE:
        raise AirflowSkipException("another run is at work")
    if status == DEGRADED:
        print("WARNING: published by a fallback")
    elif status != 0:
        raise AirflowFailException(f"stforecast ended with status {status}, which trying again does not mend")


def pipeline_dag(name: str) -> None:
    """A DAG of pipelines/NAME.yaml, each half hour in UTC; the archive itself tells what was missed."""

    @dag(
        dag_id=f"stforecast_{name}",
        schedule="*/30 * * * *",
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),  # noqa: UP017  Airflow 2 may run on Python 3.10
        catchup=False,
        max_active_runs=1,
        tags=["stforecast"],
    )
    def scheduled() -> None:
        make_forecast(f"pipelines/{name}.yaml")

    scheduled()


for pipeline_name in ("weather", "traffic"):
    pipeline_dag(pipeline_name)
