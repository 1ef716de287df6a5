"""The command `stforecast run`, as schedulers call it."""

import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from scheduled import PREPARED, SETTINGS, TIMES, deliver, make_pipeline

from stforecast import cli
from stforecast.errors import ErrorKind
from stforecast.operations.archive import Archive
from stforecast.operations.pipeline import read_pipelines
from stforecast.store.versions import lock

NEXT = PREPARED
INIT = "2016-02-10T00"


def called(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The status that the command ends with."""
    monkeypatch.setattr(sys, "argv", ["stforecast", "run", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_run_is_told_in_one_line_and_by_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_pipeline(tmp_path, fallback=[{"baseline": "persistence", "within": "1d"}])
    file = tmp_path / "pipeline.yaml"
    assert called(monkeypatch, file, "--init", INIT, "--dry-run") == 0
    assert "would forecast 4 steps from 2016-02-10T00:00" in capsys.readouterr().out
    assert called(monkeypatch, file, "--init", "2016-02-10T12") == 7
    assert "degraded: made by persistence from 2016-02-09T18:00" in capsys.readouterr().out
    deliver(pipeline, NEXT)
    assert called(monkeypatch, file, "--init", INIT) == 0
    assert "2016-02-10T00:00 is published in" in capsys.readouterr().out
    assert called(monkeypatch, file, "--init", INIT, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["pipeline"], said["init"], said["choice"]["made_by"]) == ("tiny", "2016-02-10T00:00", "model")


def test_what_is_late_is_75_and_one_line_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pipeline(tmp_path)
    assert called(monkeypatch, tmp_path / "pipeline.yaml", "--init", INIT, "--json") == 75
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.endswith("[INPUT_LATE]\n")
    assert json.loads(out)["kind"] == "INPUT_LATE"


def test_h07_n04_another_run_is_9_and_names_who_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    with lock(pipeline.output):
        assert called(monkeypatch, tmp_path / "pipeline.yaml", "--init", INIT) == 9
    assert "is being run by process" in capsys.readouterr().err
    assert not Archive(pipeline.output).holds(TIMES[NEXT])


def test_n07_what_was_missed_is_made_up_for_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_pipeline(tmp_path)
    for row in (NEXT, NEXT + 1, NEXT + 3):
        deliver(pipeline, row)
    file = tmp_path / "pipeline.yaml"
    # The third is late and stops no other; the last one has no whole history.
    assert called(monkeypatch, file, "--backfill", "2016-02-10..2016-02-10") == 75
    out, err = capsys.readouterr()
    assert [line.split()[4] for line in out.splitlines()] == ["2016-02-10T00:00", "2016-02-10T06:00"]
    assert err.count("INPUT_LATE") == 2
    deliver(pipeline, NEXT + 2)
    assert called(monkeypatch, file, "--backfill", "2016-02-10..2016-02-10") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert called(monkeypatch, file, "--backfill", "2016-02-10..2016-02-10") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "fault", "status"),
    [
        (("--init", INIT, "--catch-up", "3"), "exclude each other", 2),
        (("--force",), "name it with --init", 2),
        (("--backfill", "2016-02-10..2016-02-09"), "--backfill: ", 2),
        (("--init", "2016-02-10T01"), "is no init time of a cycle of 6 h", 2),
        (("--deadline", "soon"), "--deadline: wanted a length of time", 2),
        (("--only", "huge"), "has no pipeline huge; there are tiny", 2),
        (("--init", INIT, "--scheduler", "tcp://127.0.0.1:9"), "there is no scheduler at tcp://127.0.0.1:9", 2),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    fault: str,
    status: int,
) -> None:
    monkeypatch.setattr(cli, "_CONNECT_SECONDS", 0.2)
    make_pipeline(tmp_path)
    assert called(monkeypatch, tmp_path / "pipeline.yaml", *arguments) == status
    assert fault in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "forecasts").exists()


def test_a_store_or_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pipeline(tmp_path / "one", store="absent.zarr")
    assert called(monkeypatch, tmp_path / "one" / "pipeline.yaml") == ErrorKind.STORE_INCOMPLETE.exit_status
    assert "there is no store at" in capsys.readouterr().err
    make_pipeline(tmp_path / "two", model="absent")
    assert called(monkeypatch, tmp_path / "two" / "pipeline.yaml") == ErrorKind.CKPT_INCOMPLETE.exit_status
    assert "there is no packaged model 'absent'" in capsys.readouterr().err


def test_several_cities_are_one_command_and_one_s_fault_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for city in ("bonn", "jena", "kiel"):
        make_pipeline(tmp_path / city)
    settings = SETTINGS | {"matrix": {"city": ["jena", "bonn", "kiel"]}, "output": "{city}/forecasts"}
    settings |= {key: f"{{city}}/{SETTINGS[key]}" for key in ("store", "model")}
    settings["input"] = {"path": "{city}/incoming"}
    file = tmp_path / "cities.yaml"
    file.write_text(yaml.safe_dump(settings))
    jena, bonn, kiel = read_pipelines(file)
    deliver(bonn, NEXT)
    deliver(kiel, NEXT)
    assert called(monkeypatch, file, "--init", INIT) == 75
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["tiny-bonn", "tiny-kiel"]
    assert "2016-02-10T00:00 was not made" in err
    # A fault to be mended says more than one that time mends, and each city can be run by itself.
    shutil.rmtree(bonn.model)
    assert called(monkeypatch, file, "--init", "2016-02-10T06") not in (0, 75)
    deliver(jena, NEXT)
    assert called(monkeypatch, file, "--init", INIT, "--only", "tiny-jena") == 0
    assert all(Archive(one.output).holds(TIMES[NEXT]) for one in (jena, bonn, kiel))


def test_pipelines_of_a_matrix_wait_together() -> None:
    wait = timedelta(minutes=45)
    assert cli._left(wait, 0) == wait
    assert cli._left(wait, 600) == timedelta(minutes=35)
    assert cli._left(wait, 3000) == timedelta(0)
