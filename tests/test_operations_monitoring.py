"""Who else is told of runs: a server and Prometheus' own parser hear it here."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scheduled import PREPARED, TIMES, clock_of, deliver, make_pipeline

from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.monitoring import post, write_metrics
from stforecast.operations.running import run
from stforecast.operations.status import status

NEXT = PREPARED
TOKEN = "T0KEN"


class Hook:
    """What was posted to a server, and the way there."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""


@contextmanager
def listening(answer: int = 204, **headers: str) -> Iterator[Hook]:
    """A server on this machine that answers all that is posted in the same way."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            hook.headers.append(dict(self.headers))
            self.send_response(answer)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        hook.url = f"http://127.0.0.1:{server.server_port}/{TOKEN}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hook
        finally:
            server.shutdown()
            thread.join()


def metrics_of(file: Path) -> dict[tuple[str, ...], float]:
    """Values by metric and labels, without the pipeline's own, which each has."""
    found = {}
    for family in text_string_to_metric_families(file.read_text()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("pipeline") == "tiny"
            found[sample.name.removeprefix("stforecast_"), *(labels[name] for name in sorted(labels))] = sample.value
    return found


def test_prometheus_reads_what_a_run_did_and_how_the_pipeline_stands(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, monitor={"prometheus": "runs.prom"})
    deliver(pipeline, NEXT)
    run(pipeline, clock=clock_of(NEXT))
    deliver(pipeline, *range(NEXT + 1, NEXT + 5))
    record = run(pipeline, clock=clock_of(NEXT + 4)).record
    found = metrics_of(tmp_path / "runs.prom")
    assert {key[0] for key in found} == set(re.findall(r"\n    stforecast_(\w+)", write_metrics.__doc__ or ""))
    stands = status(pipeline, clock=clock_of(NEXT + 4))
    ended = clock_of(NEXT + 4).now().timestamp()
    assert found["last_attempt_timestamp_seconds",] == found["last_success_timestamp_seconds",] == ended
    assert found["newest_init_timestamp_seconds",] == TIMES[NEXT + 4].astype("datetime64[s]").astype(int)
    assert found["stale_after_seconds",] == 13 * 3600
    assert (found["published",], found["gaps",], found["degraded",], found["last_run_exit_status",]) == (2, 3, 0, 0)
    assert [found["last_run_status", one] for one in ("published", "degraded", "failed")] == [1, 0, 0]
    assert {stage: found["stage_seconds", stage] for stage in record["seconds"]} == record["seconds"]
    assert found["peak_memory_bytes",] > 10_000_000
    assert found["disk_bytes", "store"] == stands.disk_bytes["store"]
    errors = {key[1:]: value for key, value in found.items() if key[0] == "rmse"}
    assert errors == {
        (str(lead), source, "t2m"): error
        for source, by_lead in stands.skill["rmse"]["t2m"].items()
        for lead, error in by_lead.items()
    }


def test_prometheus_reads_of_failures_and_of_the_last_success(tmp_path: Path) -> None:
    pipeline = make_pipeline(
        tmp_path, monitor={"prometheus": "runs.prom"}, fallback=[{"baseline": "persistence", "within": "12h"}]
    )
    with pytest.raises(StforecastError):
        run(pipeline, clock=clock_of(NEXT + 3))
    found = metrics_of(tmp_path / "runs.prom")
    assert ("last_success_timestamp_seconds",) not in found
    assert ("newest_init_timestamp_seconds",) not in found
    assert (found["last_run_status", "failed"], found["last_run_exit_status",], found["published",]) == (1, 75, 0)
    assert run(pipeline, clock=clock_of(NEXT)).status == "degraded"
    found = metrics_of(tmp_path / "runs.prom")
    assert (found["last_run_status", "degraded"], found["last_run_exit_status",], found["degraded",]) == (1, 7, 1)
    with pytest.raises(StforecastError):
        run(pipeline, clock=clock_of(NEXT + 3))
    found = metrics_of(tmp_path / "runs.prom")
    assert found["last_success_timestamp_seconds",] == clock_of(NEXT).now().timestamp()
    assert found["last_attempt_timestamp_seconds",] == clock_of(NEXT + 3).now().timestamp()
    assert [found["last_run_status", one] for one in ("published", "degraded", "failed")] == [0, 0, 1]
    assert found["gaps",] == 2


def test_a_webhook_gets_the_record_of_each_run(tmp_path: Path) -> None:
    with listening() as hook:
        pipeline = make_pipeline(tmp_path, monitor={"webhook": hook.url})
        with pytest.raises(StforecastError):
            run(pipeline, clock=clock_of(NEXT))
        deliver(pipeline, NEXT)
        outcome = run(pipeline, clock=clock_of(NEXT))
        # What is done already is no run.
        run(pipeline, clock=clock_of(NEXT))
    failed, published = hook.bodies
    assert (failed["status"], failed["error"]["kind"], failed["attempt"]) == ("failed", "INPUT_LATE", 1)
    varying = ("seconds", "peak_memory_bytes")
    assert {key: published[key] for key in published if key not in varying} == {
        key: outcome.record[key] for key in outcome.record if key not in varying
    }
    assert [headers["Content-Type"] for headers in hook.headers] == ["application/json"] * 2
    assert str(tmp_path) not in json.dumps(hook.bodies)
    assert outcome.record["warnings"] == []


def test_a_webhook_that_refuses_is_a_warning(tmp_path: Path) -> None:
    with listening(500) as hook:
        pipeline = make_pipeline(tmp_path, monitor={"webhook": hook.url})
        deliver(pipeline, NEXT)
        outcome = run(pipeline, clock=clock_of(NEXT))
    warning = "webhook: the webhook did not take the record: it was answered with status 500; look at monitor.webhook"
    assert (outcome.status, outcome.record["warnings"]) == ("published", [warning])
    assert status(pipeline, clock=clock_of(NEXT)).runs[0].warnings == (warning,)


@pytest.mark.parametrize("answer", [301, 302, 303, 307, 308])
def test_a_webhook_leads_nowhere_else(answer: int) -> None:
    fault = f"it was answered with status {answer}"
    with (
        listening() as other,
        listening(answer, Location=other.url) as hook,
        pytest.raises(StforecastError, match=fault),
    ):
        post(hook.url, {"init": "2016-02-10T00:00"})
    assert (len(hook.bodies), other.bodies) == (1, [])


def test_k14_what_is_wrong_with_a_webhook_is_told_without_its_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for url, fault in (
            (f"http://127.0.0.1:{port}/{TOKEN}", "did not answer within 0.05 s|TimeoutError"),
            (f"http://127.0.0.1:1/{TOKEN}", "Connection refused"),
            (f"http://127.0.0.1:{TOKEN}/", "InvalidURL"),
            (f"http://127.0.0.1/{TOKEN} x\n", "InvalidURL"),
            (f"https://127.0.0.1:{port}/{TOKEN}", "did not answer within 0.05 s|TimeoutError|timed out"),
        ):
            with pytest.raises(StforecastError, match=fault) as caught:
                post(url, {}, seconds=0.05)
            assert caught.value.kind == ErrorKind.IO_ERROR
            assert TOKEN not in str(caught.value)


def test_k14_a_token_is_in_nothing_that_a_run_leaves_or_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = make_pipeline(
        tmp_path,
        monitor={"webhook": f"http://me:{TOKEN}@127.0.0.1:1/{TOKEN}?{TOKEN}", "prometheus": "absent/runs.prom"},
    )
    with pytest.raises(StforecastError) as caught:
        run(pipeline, clock=clock_of(NEXT))
    deliver(pipeline, NEXT)
    outcome = run(pipeline, clock=clock_of(NEXT))
    assert outcome.status == "published"
    webhook, prometheus = outcome.record["warnings"]
    assert webhook.startswith("webhook: the webhook did not take the record")
    assert prometheus == "prometheus: there is no folder absent for monitor.prometheus; make it, or name another"
    said = str(capfd.readouterr()) + caplog.text + str(caught.value) + json.dumps(outcome.record) + outcome.message
    assert TOKEN not in said
    (tmp_path / "pipeline.yaml").unlink()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_by_default_nothing_leaves_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket.socket, "sendto", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pipeline = make_pipeline(tmp_path)
    with pytest.raises(StforecastError):
        run(pipeline, clock=clock_of(NEXT))
    deliver(pipeline, NEXT)
    outcome = run(pipeline, clock=clock_of(NEXT))
    status(pipeline, clock=clock_of(NEXT))
    assert (outcome.status, outcome.record["warnings"], asked) == ("published", [], [])
