"""What runs say of themselves: a log of JSON lines that stays small, and records that tell no secret."""

import getpass
import json
import logging
import pickle
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from scheduled import PREPARED, SETTINGS, clock_of, deliver, make_pipeline

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations import journal
from stforecast.operations.attempt import Attempt
from stforecast.operations.discretion import Discretion, printable
from stforecast.operations.journal import LOG, logged, say
from stforecast.operations.pipeline import Pipeline, read_pipelines
from stforecast.operations.running import run


def pipeline_of(folder: Path, **changes: Any) -> Pipeline:
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(SETTINGS | changes))
    (pipeline,) = read_pipelines(folder / "pipeline.yaml")
    return pipeline


def read_log(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The events of a log, by a reader that takes no NaN."""

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    lines = (pipeline.output / LOG).read_text().splitlines()
    return [json.loads(line, parse_constant=refused) for line in lines]


def test_each_event_is_one_json_object_whatever_is_said(tmp_path: Path) -> None:
    texts = ["two\nlines", 'a "quoted" name', "\x1b[31m\x00", "naïve ☂", "cut\udcff.nc", "\\", "\r\n", "%s {} %"]
    pipeline = pipeline_of(tmp_path)
    with logged(pipeline):
        for text in texts:
            say("warning", pipeline="tiny", reason=text, far=float("nan"), folder=Path("in"))
        say("an event\nof two lines", level=logging.WARNING)
    *events, last = read_log(pipeline)
    assert [event["reason"] for event in events] == texts
    assert {(event["level"], event["event"], event["far"], event["folder"]) for event in events} == {
        ("info", "warning", None, "in")
    }
    assert (last["level"], last["event"]) == ("warning", "an event\nof two lines")
    assert sorted(event["time"] for event in events) == [event["time"] for event in events]


def test_a_log_stays_small_for_years(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log and three old ones are kept."""
    monkeypatch.setattr(journal, "_LARGEST_LOG", 2**12)
    pipeline = pipeline_of(tmp_path)
    for number in range(300):
        with logged(pipeline):
            say("warning", number=number, reason="x" * 200)
    logs = sorted(pipeline.output.glob("*"))
    assert [file.name for file in logs] == [LOG, f"{LOG}.1", f"{LOG}.2", f"{LOG}.3"]
    assert all(file.stat().st_size <= 2**12 for file in logs)
    assert read_log(pipeline)[-1]["number"] == 299


def test_two_who_write_a_log_at_once_lose_no_line_and_no_order(tmp_path: Path) -> None:
    """A run beside a retraining, each of which puts the log aside when it is full."""
    file = tmp_path / LOG
    two = [journal._Shared(file, maxBytes=400, backupCount=3, delay=True) for _ in range(2)]
    for number in range(60):
        record = logging.LogRecord("log", logging.INFO, "", 0, f"event {number:03}", None, None)
        # In turns of several, as each of them has seen the log that the other one put aside.
        two[number // 7 % 2].emit(record)
    for handler in two:
        handler.close()
    files = [file.with_name(f"{LOG}.{age}") for age in (3, 2, 1)] + [file]
    assert all(one.stat().st_size <= 400 for one in files if one.exists())
    lines = [line for one in files if one.exists() for line in one.read_text().splitlines()]
    assert lines == [f"event {number:03}" for number in range(60)]


def test_each_pipeline_logs_its_own_events(tmp_path: Path) -> None:
    """Also where several run in one process."""
    one, other = (pipeline_of(tmp_path, name=name, output=name) for name in ("one", "other"))
    with logged(one), logged(other):
        say("begun", pipeline="one")
        say("begun", pipeline="other")
    say("said to nobody", pipeline="one")
    assert [event["pipeline"] for event in read_log(one)] == ["one"]
    assert [event["pipeline"] for event in read_log(other)] == ["other"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{root}/incoming/a.nc is cut", "incoming/a.nc is cut"),
        ("{root}/my t2m.zarr/c/0: 1 m/s, 6 h/12 h, and/or", "my t2m.zarr/c/0: 1 m/s, 6 h/12 h, and/or"),
        ("[Errno 2] No such file: '/usr/lib/x/libhdf5.so'", "[Errno 2] No such file: 'libhdf5.so'"),
        ("in /home/me/secret place", "in secret place"),
        ("file:///home/me/air.zarr is no store", "air.zarr is no store"),
        ("https://me:word@example.org/a.zarr?sig=1; mend it", "https://example.org/a.zarr?… mend it"),
        ("zip://a.zarr::https://me:word@example.org/a.zip#x", "zip://a.zarr::https://example.org/a.zip?…"),
        ("s3://key:word@bucket/air: 403", "s3://bucket/air: 403"),
        ("no answer from https://hooks.example/T0KEN", "no answer from …"),
    ],
)
def test_k14_what_is_told_has_no_places_and_no_secrets(tmp_path: Path, said: str, told: str) -> None:
    root = tmp_path / "pipe line"
    root.mkdir()
    pipeline = pipeline_of(root, store="my t2m.zarr", monitor={"webhook": "https://hooks.example/T0KEN"})
    discretion = Discretion.of(pipeline)
    assert discretion.text(said.replace("{root}", str(root))) == told
    assert discretion.record({"a": [said.replace("{root}", str(root)), 1, None, float("inf")]}) == {
        "a": [told, 1, None, None]
    }


def test_k14_no_error_tells_what_lets_one_into_a_url() -> None:
    for url in ("https://me:T0KEN@127.0.0.1:1/air.zarr?sig=T0KEN", "s3://me:T0KEN@bucket/air.zarr"):
        error = StforecastError(ErrorKind.FILE_MISSING, f"there is nothing at {url}; check it")
        assert "T0KEN" not in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    with pytest.raises(StforecastError) as caught:
        stf.open_dataset("https://me:T0KEN@127.0.0.1:1/air.zarr?sig=T0KEN")
    assert "T0KEN" not in str(caught.value)
    assert "127.0.0.1:1/air.zarr" in str(caught.value)


def test_k14_neither_places_nor_secrets_are_in_what_a_run_leaves(tmp_path: Path) -> None:
    """Neither in forecasts nor in records and logs, of a run that fails and of one that publishes; each refuses a file.

    What the error itself says stays whole, for whoever started the run.
    """
    pipeline = make_pipeline(tmp_path, monitor={"webhook": "http://127.0.0.1:9/T0KEN"})
    (Path(pipeline.input.path) / "cut.nc").write_bytes(b"CDF\x01")
    with pytest.raises(StforecastError, match=str(tmp_path)):
        run(pipeline, clock=clock_of(PREPARED))
    deliver(pipeline, PREPARED)
    (Path(pipeline.input.path) / "torn.nc").write_bytes(b"<html>")
    record = run(pipeline, clock=clock_of(PREPARED)).record
    assert [one["file"] for one in record["input"]["refused"]] == ["torn.nc"]
    assert "incoming/torn.nc" in record["input"]["refused"][0]["reason"]
    secrets = (str(tmp_path), "T0KEN", str(Path.home()), f'"{getpass.getuser()}"')
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")
    left = [file for file in pipeline.output.rglob("*") if file.is_file()]
    assert {"forecast.nc", "run.json", "log.jsonl", ".intake.json"} <= {file.name for file in left}
    for file in left:
        assert not [secret for secret in secrets if secret.encode() in file.read_bytes()], file
        # The short name of a machine may well be among the bytes of a forecast.
        assert file.suffix == ".nc" or not host.search(file.read_text()), file


def test_every_key_of_a_record_is_documented(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, PREPARED)
    run(pipeline, clock=clock_of(PREPARED))
    record = json.loads((pipeline.output / "latest" / "run.json").read_text())
    said = Attempt.record.__doc__ or ""
    assert [key for key in record if f"\n        {key}: " not in said] == []
    inner = [*record["input"], *record["choice"], *record["forecast"], *record["input"]["files"][0]]
    assert [key for key in inner if f"`{key}`" not in said] == []


def test_what_others_named_is_shown_and_not_obeyed() -> None:
    assert printable("é 日本 ☂ a b") == "é 日本 ☂ a b"
    assert printable("\x1b]0;x\x07\x9b\u202e\udcff\n") == r"\x1b]0;x\x07\x9b\u202e\udcff "
