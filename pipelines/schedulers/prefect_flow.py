"""A pipeline as a flow of Prefect 3, which only starts the command and reads its exit status.

    pip install 'prefect>=3,<4' 'fastapi<0.151'
    export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=180    its own server takes a while to start
    export PREFECT_SERVER_ANALYTICS_ENABLED=false                  or it tells its maker that it was started
    python pipelines/schedulers/prefect_flow.py pipelines/weather.yaml
    python pipelines/schedulers/prefect_flow.py pipelines/weather.yaml --serve    each half hour, in UTC

The command is found beside the interpreter, or where STFORECAST_COMMAND says: Prefect may live in another environment.
"""

import os
import subprocess
import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

DEGRADED, ACTIVE, LATER = 7, 9, 75


class InputIsLateError(RuntimeError):
    """The same command may well succeed in some minutes."""


@task(
    retries=6,
    retry_delay_seconds=600,
    retry_condition_fn=lambda _task, _run, state: "InputIsLateError" in str(state.message),
)
def make_forecast(pipeline: str) -> int:
    """The exit status of one run, which makes the last cycles that are missing."""
    command = os.environ.get("STFORECAST_COMMAND", str(Path(sys.executable).with_name("stforecast")))
    ended = subprocess.run(  # noqa: S603
        [command, "run", pipeline, "--catch-up", "4"], text=True, capture_output=True, check=False
    )
    for line in (ended.stdout + ended.stderr).splitlines():
        get_run_logger().info(line)
    if ended.returncode == LATER:
        raise InputIsLateError(ended.stderr.strip())
    return ended.returncode


@flow(name="stforecast")
def forecast(pipeline: str) -> State:
    """A run, and the state that its exit status means."""
    status = make_forecast(pipeline)
    if status == 0:
        return Completed(message="published")
    if status == DEGRADED:
        get_run_logger().warning("published by a fallback")
        return Completed(name="Degraded", message="published by a fallback")
    if status == ACTIVE:
        return Completed(name="Skipped", message="another run is at work")
    return Failed(message=f"stforecast ended with status {status}")


if __name__ == "__main__":
    file = str(Path(sys.argv[1]).resolve())
    if "--serve" in sys.argv:
        forecast.serve(name=Path(file).stem, cron="*/30 * * * *", parameters={"pipeline": file})
    else:
        forecast(file)
