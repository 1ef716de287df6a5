"""Who is told of each run beside its record: a file for Prometheus and a webhook. Nobody is by default."""

import importlib.metadata
import json
import threading
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import faults_named
from stforecast.operations.status import Status

WEBHOOK_SECONDS = 10.0
_OUTCOMES = ("published", "degraded", "failed")


def write_metrics(file: Path, status: Status, record: Mapping[str, Any], exit_status: int) -> None:
    """Write what Prometheus reads by node_exporter's textfile collector, whole or not at all.

    Every metric has the label `pipeline`; lengths of time are seconds and moments seconds since 1970.

    stforecast_last_attempt_timestamp_seconds      when the last run ended
    stforecast_last_success_timestamp_seconds      when the last one ended that published something
    stforecast_newest_init_timestamp_seconds       the newest init time that is published
    stforecast_stale_after_seconds                 how old it may be
    stforecast_published                           forecasts that are kept
    stforecast_gaps                                init times since the oldest one that are not published
    stforecast_last_run_status{status}             1 for what the last run ended as, 0 for the others
    stforecast_last_run_exit_status                the status that the command ended with
    stforecast_degraded                            1 if the newest forecast is degraded
    stforecast_stage_seconds{stage}                how long the parts of the last run took
    stforecast_peak_memory_bytes                   the most that the last run held
    stforecast_disk_bytes{part}                    what output and store take, and what is free
    stforecast_rmse{variable, source, lead_seconds}  errors of the last days' forecasts and of their references

    Args:
        file: ends in .prom, or node_exporter does not read it.
        status: how the pipeline stands after the run.
        record: of the run.
        exit_status: what the command ends with.

    Raises:
        StforecastError: FILE_MISSING if its folder is not there; DISK_FULL, PERMISSION or IO_ERROR if it cannot be
            written.
    """
    if not file.parent.is_dir():
        raise StforecastError(
            ErrorKind.FILE_MISSING, f"there is no folder {file.parent} for monitor.prometheus; make it, or name another"
        )
    registry = CollectorRegistry()

    def tell(name: str, what: str, value: float | None, **labels: str) -> None:
        if value is None:
            return
        if name not in gauges:
            gauges[name] = Gauge(f"stforecast_{name}", what, ["pipeline", *labels], registry=registry)
        gauges[name].labels(pipeline=status.pipeline, **labels).set(value)

    gauges: dict[str, Gauge] = {}
    tell("last_attempt_timestamp_seconds", "When the last run ended", _moment(record["ended"]))
    tell("last_success_timestamp_seconds", "When a run last published something", _moment(status.last_success))
    newest = None if status.age is None else (status.now - status.age).timestamp()
    tell("newest_init_timestamp_seconds", "The newest init time that is published", newest)
    tell("stale_after_seconds", "How old the newest init time may be", status.limit.total_seconds())
    tell("published", "Forecasts that are kept", status.published)
    tell("gaps", "Init times since the oldest one that are not published", status.gap_count)
    for outcome in _OUTCOMES:
        tell("last_run_status", "What the last run ended as", float(record["status"] == outcome), status=outcome)
    tell("last_run_exit_status", "The status that the last run ended with", exit_status)
    tell("degraded", "Whether the newest forecast is degraded", float(bool(status.choice.get("is_degraded"))))
    for stage, seconds in record["seconds"].items():
        tell("stage_seconds", "How long the parts of the last run took", seconds, stage=stage)
    tell("peak_memory_bytes", "The most memory that the last run held", record["peak_memory_bytes"])
    for part, size in status.disk_bytes.items():
        tell("disk_bytes", "What files take, and what is free", size, part=part)
    for variable, sources in status.skill.get("rmse", {}).items():
        for source, errors in sources.items():
            for lead, error in errors.items():
                labels = {"variable": variable, "source": source, "lead_seconds": str(lead)}
                tell("rmse", "Root mean square errors of the last days' forecasts", error, **labels)
    with faults_named(file):
        write_to_textfile(str(file), registry)


def _moment(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def post(webhook: str, record: Mapping[str, Any], *, seconds: float = WEBHOOK_SECONDS) -> None:
    """Post the record of a run to a webhook as JSON.

    Redirections are not followed, for they may lead to another host.

    Args:
        webhook: the URL, which no error tells.
        record: what is posted.
        seconds: how long that may take.

    Raises:
        StforecastError: IO_ERROR if it did not come, or was not taken.
    """
    answers: list[str] = []
    body = json.dumps(record).encode()
    # A server that answers a byte at a time, or a name that nobody knows, would outlast any limit of a socket.
    thread = threading.Thread(target=lambda: answers.append(_answer(webhook, body, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    fault = answers[0] if answers else f"it did not answer within {seconds:g} s"
    if fault:
        raise StforecastError(
            ErrorKind.IO_ERROR, f"the webhook did not take the record: {fault}; look at monitor.webhook"
        )


def _answer(webhook: str, body: bytes, seconds: float) -> str:
    """What is wrong with the answer to a body; nothing if it was taken."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"stforecast/{importlib.metadata.version('stforecast')}",
    }
    try:
        request = urllib.request.Request(webhook, body, headers, method="POST")  # noqa: S310  # the pattern is http(s)
        with urllib.request.build_opener(_NoRedirection).open(request, timeout=seconds):
            return ""
    except HTTPError as error:
        error.close()
        return f"it was answered with status {error.code}"
    except URLError as error:
        said = error.reason.strerror if isinstance(error.reason, OSError) else None
        return said or type(error.reason).__name__
    except Exception as error:  # in a thread nobody else catches it, and its words may have the URL in them
        return type(error).__name__


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """No other request, so that the answer itself is the fault."""
