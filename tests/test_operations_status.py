"""How a pipeline is said to stand, against what was put there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scheduled import PREPARED, TIMES, SetClock, clock_of, deliver, make_pipeline

from stforecast import cli
from stforecast.errors import ErrorKind
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import name_of
from stforecast.operations.journal import read_runs, write_run
from stforecast.operations.pipeline import Pipeline
from stforecast.operations.running import missed_lately, run, run_missed
from stforecast.operations.skill import skill
from stforecast.operations.status import Attempt, Gap, Status, status
from stforecast.operations.terminal import status_tables
from stforecast.store.versions import lock
from stforecast.time_axis import show_time

NEXT = PREPARED


def record_of(init: np.datetime64, state: str = "published", **changes: Any) -> dict[str, Any]:
    """A record as a run leaves it."""
    ended = {"process": 1} if state == "running" else {"ended": "2016-02-10T01:06:00+00:00"}
    choice = {"made_by": "model", "last_frame": show_time(init), "is_degraded": False, "reason": "", "model": "abc"}
    record = {"pipeline": "tiny", "init": show_time(init), "time_zone": None, "status": state, "attempt": 1}
    record |= {"started": "2016-02-10T01:05:00+00:00", **ended, "error": None, "choice": choice, "warnings": []}
    return record | {"seconds": {"input": 0.5, "forecast": 0.25}, **changes}


def put(pipeline: Pipeline, inits: Iterable[np.datetime64], degraded: Iterable[np.datetime64] = ()) -> None:
    """Publish what only has a record."""
    archive = Archive(pipeline.output)
    for init in inits:
        record = record_of(init)
        record["choice"]["is_degraded"] = init in list(degraded)
        staged = archive.stage(init)
        (staged / "run.json").write_text(json.dumps(record))
        archive.publish(init, staged)


def tree(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """All that lies in a folder, with what would tell that it was touched."""
    found = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {path: (one.st_mtime_ns, one.st_size, one.st_ino) for path, one in found.items()}


def printed(found: Status, width: int = 120) -> str:
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(status_tables(found))
    return captured.get()


def called(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["stforecast", "status", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


# --- Freshness


def test_n12_what_is_older_than_it_may_be_is_stale(tmp_path: Path) -> None:
    """By default two cycles of six hours and the hour that frames take to arrive."""
    pipeline = make_pipeline(tmp_path)
    put(pipeline, TIMES[:1])
    start = datetime(2016, 1, 1, tzinfo=UTC)
    for minutes, stale in ((0, False), (13 * 60, False), (13 * 60 + 1, True)):
        found = status(pipeline, clock=SetClock(start + timedelta(minutes=minutes)))
        assert (found.age, found.limit) == (timedelta(minutes=minutes), timedelta(hours=13))
        assert found.stale_from == start + timedelta(hours=13)
        assert (found.is_stale, found.state) == (stale, "stale" if stale else "fresh")
    late = SetClock(start + timedelta(hours=20))
    assert not status(pipeline, max_delay=timedelta(hours=20), clock=late).is_stale
    assert status(pipeline, max_delay=timedelta(hours=19), clock=late).is_stale
    patient = pipeline.model_copy(update={"stale_after": timedelta(days=1)})
    assert not status(patient, clock=late).is_stale
    assert status(patient, max_delay=timedelta(hours=19), clock=late).is_stale


def test_n12_a_schedule_that_never_ran_is_stale(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    before = tree(tmp_path)
    found = status(pipeline, clock=clock_of(NEXT))
    assert tree(tmp_path) == before
    assert (found.newest, found.age, found.is_stale, found.gaps, found.catch_up) == (None, None, True, (), 1)
    assert found.due == TIMES[NEXT]
    assert "no forecast is published; that of 2016-02-10T00:00 should be" in printed(found)


def test_n12_a_stopped_schedule_ends_the_command_with_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the real clock, for which all that lies years back."""
    pipeline, file = make_pipeline(tmp_path), tmp_path / "pipeline.yaml"
    assert called(monkeypatch, file) == 8
    assert capsys.readouterr().err.endswith("[STALE_OUTPUT]\n")
    put(pipeline, TIMES[:2])
    assert called(monkeypatch, file, "--json") == 8
    out, err = capsys.readouterr()
    assert re.fullmatch(r"stforecast: tiny: the newest forecast is of 2016-01-01T06:00, .* \[STALE_OUTPUT\]\n", err)
    told = json.loads(out)
    assert (told["newest"], told["is_stale"], told["published"]) == ("2016-01-01T06:00", True, 2)
    assert called(monkeypatch, file, "--max-delay", "100000d") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "up to date" in out
    assert called(monkeypatch, file, "--max-delay", "soon") == 2
    assert ErrorKind.STALE_OUTPUT.exit_status == 8


def test_a_clock_that_goes_behind_is_told_of(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    put(pipeline, TIMES[:9])
    found = status(pipeline, clock=clock_of(3))
    assert not found.is_stale
    assert found.faults == ("the newest forecast is of 2016-01-03T00:00, which is still to come; check the clock",)


# --- Gaps


def test_n07_missed_cycles_are_listed_and_made_up_for_by_what_is_said(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, *range(NEXT, NEXT + 3))
    run(pipeline, clock=clock_of(NEXT))
    found = status(pipeline, clock=clock_of(NEXT + 2))
    assert found.gaps == (Gap(show_time(TIMES[NEXT + 1]), None),)
    assert (found.due, found.newest, found.gap_count) == (TIMES[NEXT + 2], TIMES[NEXT], 1)
    assert "stforecast run … --catch-up 2" in printed(found)
    wanted = missed_lately(pipeline, found.catch_up, clock=clock_of(NEXT + 2))
    np.testing.assert_array_equal(wanted, TIMES[NEXT + 1 : NEXT + 3])
    assert [one.status for one in run_missed(pipeline, wanted, clock=clock_of(NEXT + 2))] == ["published"] * 2
    found = status(pipeline, clock=clock_of(NEXT + 2))
    assert (found.gaps, found.gap_count, found.catch_up, found.newest) == ((), 0, 0, TIMES[NEXT + 2])
    assert "catch-up" not in printed(found)


@pytest.mark.parametrize("seed", range(5))
def test_n07_gaps_are_all_cycles_since_the_oldest_that_are_not_published(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pipeline, last = make_pipeline(tmp_path), 60
    rows = np.flatnonzero(generator.random(last) < generator.random())
    put(pipeline, TIMES[rows])
    found = status(pipeline, clock=clock_of(last))
    gaps = [show_time(TIMES[row]) for row in range(min(rows, default=last), last) if row not in rows]
    assert found.gap_count == len(gaps)
    assert [gap.init for gap in found.gaps] == gaps[-20:]
    lacking = [*gaps[-20:], show_time(TIMES[last])]
    wanted = [show_time(init) for init in missed_lately(pipeline, found.catch_up, clock=clock_of(last))]
    assert wanted == lacking


def test_n07_why_a_cycle_is_missing_is_told(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    put(pipeline, TIMES[[0, 5]])
    late = {"kind": "INPUT_LATE", "message": f"1 frame(s) are missing in {tmp_path}/incoming"}
    write_run(pipeline.output, name_of(TIMES[2]), record_of(TIMES[2], "failed", error=late))
    write_run(pipeline.output, name_of(TIMES[3]), record_of(TIMES[3], "running"))
    found = status(pipeline, clock=clock_of(5))
    assert [gap.kind for gap in found.gaps] == [None, "INPUT_LATE", "killed", None]
    assert "2016-01-01T12:00 (INPUT_LATE), 2016-01-01T18:00 (killed)" in printed(found, 200)
    assert {run.message for run in found.runs if run.kind} == {"1 frame(s) are missing in incoming"}


def test_n07_hours_that_the_clock_left_out_are_no_gaps(tmp_path: Path) -> None:
    """The store is gone, so the clock is the one of the last record."""
    pipeline = make_pipeline(tmp_path, cycle="1h")
    shutil.rmtree(pipeline.store)
    inits = np.array(["2016-03-13T00", "2016-03-13T01", "2016-03-13T05"], "datetime64[ns]")
    put(pipeline, inits)
    write_run(pipeline.output, name_of(inits[2]), record_of(inits[2], time_zone="America/New_York"))
    found = status(pipeline, clock=SetClock(datetime(2016, 3, 13, 10, 30, tzinfo=UTC)))
    assert [gap.init for gap in found.gaps] == ["2016-03-13T03:00", "2016-03-13T04:00"]
    assert (found.time_zone, found.due) == ("America/New_York", inits[2])
    # 05:00 EDT is 09:00 UTC.
    assert found.age == timedelta(hours=1, minutes=30)
    assert found.faults == ("there is no store at t2m.zarr; make one with stforecast prepare",)
    assert "2016-03-13T05:00 America/New_York" in printed(found)


# --- Runs


def test_a_run_that_is_active_is_told_of_and_not_disturbed(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    run(pipeline, clock=clock_of(NEXT))
    own = record_of(TIMES[NEXT + 1], "running", process=os.getpid())
    with lock(pipeline.output, busy=ErrorKind.RUN_ACTIVE):
        write_run(pipeline.output, name_of(TIMES[NEXT + 2]), record_of(TIMES[NEXT + 2], "running"))
        write_run(pipeline.output, name_of(TIMES[NEXT + 1]), own)
        before = tree(tmp_path)
        found = status(pipeline, clock=clock_of(NEXT + 1))
        assert tree(tmp_path) == before
        assert found.active.startswith(f"process {os.getpid()} on ")
        assert [run.status for run in found.runs] == ["running", "killed", "published"]
        assert f"process {os.getpid()} on" in printed(found)
        assert found.state == "failing"
        # What is not over has not failed.
        write_run(pipeline.output, name_of(TIMES[NEXT + 2]), record_of(TIMES[NEXT + 2]))
        assert status(pipeline, clock=clock_of(NEXT + 1)).state == "fresh"
    # Nobody holds the lock any more, and the record still says so: it was killed.
    found = status(pipeline, clock=clock_of(NEXT + 1))
    assert (found.active, [run.status for run in found.runs]) == ("", ["published", "killed", "published"])


def test_the_last_runs_are_those_that_ended_last_and_say_why(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    fault = {"kind": "OUTPUT_INVALID", "message": "too far"}
    for row in range(12):
        write_run(pipeline.output, name_of(TIMES[row]), record_of(TIMES[row]))
    # A back-fill: the init time is old and the run is the last.
    write_run(pipeline.output, name_of(TIMES[3]), record_of(TIMES[3], "failed", error=fault, attempt=2, warnings=["w"]))
    found = status(pipeline, clock=clock_of(12))
    assert len(found.runs) == 10
    assert found.runs[0] == Attempt(
        init=show_time(TIMES[3]),
        status="failed",
        attempt=2,
        started="2016-02-10T01:05:00+00:00",
        ended="2016-02-10T01:06:00+00:00",
        kind="OUTPUT_INVALID",
        message="too far",
        warnings=("w",),
        seconds=0.75,
    )
    assert [run.init for run in found.runs[1:]] == [show_time(TIMES[row]) for row in (11, 10, 9, 8, 7, 6, 5, 4, 2)]
    assert found.last_success == "2016-02-10T01:06:00+00:00"
    shown = printed(found)
    assert re.search(r"failed, attempt 2 +0\.8 s +too far \[OUTPUT_INVALID\], 1 warning\(s\)", shown)


def test_a_run_that_finds_its_store_damaged_leaves_a_record(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    run(pipeline, clock=clock_of(NEXT))
    shutil.rmtree(pipeline.store)
    with pytest.raises(ValueError, match="there is no store at") as caught:
        run(pipeline, clock=clock_of(NEXT + 1))
    assert caught.value.kind == ErrorKind.STORE_INCOMPLETE  # type: ignore[attr-defined]
    found = status(pipeline, clock=clock_of(NEXT + 1))
    assert [(run.init, run.status, run.kind) for run in found.runs] == [
        (show_time(TIMES[NEXT + 1]), "failed", "STORE_INCOMPLETE"),
        (show_time(TIMES[NEXT]), "published", None),
    ]
    assert found.state == "failing"
    assert found.faults == ("there is no store at t2m.zarr; make one with stforecast prepare",)


def test_what_others_named_is_printed_and_not_obeyed(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    fault = {"kind": "FILE_FORMAT", "message": "incoming/[red]a\x1b]0;b\x07.nc is\nno netCDF"}
    write_run(pipeline.output, name_of(TIMES[0]), record_of(TIMES[0], "failed", error=fault))
    shown = printed(status(pipeline, clock=clock_of(1)), 200)
    assert r"incoming/[red]a\x1b]0;b\x07.nc is no netCDF [FILE_FORMAT]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


# --- What forecasts were like


def test_degraded_forecasts_of_the_last_days_are_counted(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, scores={"days": 2})
    put(pipeline, TIMES[:20], degraded=TIMES[[2, 10, 11, 12, 19]])
    found = status(pipeline, clock=clock_of(19))
    # From two days before the newest, row 11, on.
    assert (found.recent, found.days) == ({"forecasts": 9, "degraded": 3}, 2)
    assert found.state == "degraded"
    assert "3 of 9 of the last 2 days" in printed(found)


def test_damage_to_a_record_is_told_and_hides_nothing_else(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    put(pipeline, TIMES[:4])
    (pipeline.output / name_of(TIMES[1]) / "run.json").write_text("{")
    found = status(pipeline, clock=clock_of(3))
    assert found.recent == {"forecasts": 3, "degraded": 0}
    (fault,) = found.faults
    assert fault.startswith("forecasts/.versions/20160101T0600.1/run.json cannot be read")
    assert "! " in printed(found)


def test_skill_model_and_disk_are_those_of_the_pipeline(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    run(pipeline, clock=clock_of(NEXT))
    deliver(pipeline, *range(NEXT + 1, NEXT + 5))
    run(pipeline, clock=clock_of(NEXT + 4))
    found = status(pipeline, clock=clock_of(NEXT + 4))
    assert found.skill == skill(pipeline, Archive(pipeline.output))
    assert found.skill["forecasts"] == 1
    last = read_runs(pipeline.output)[name_of(TIMES[NEXT + 4])]
    assert found.model == {"name": "model", "sha256": last["choice"]["model"], "used_before": []}
    for part, folder in (("output", pipeline.output), ("store", pipeline.store)):
        known = [path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        assert found.disk_bytes[part] == sum({one.st_ino: one.st_size for one in known}.values())
    forecast, persistence = (found.skill["rmse"]["t2m"][source][86400] for source in ("forecast", "persistence"))
    shown = " ".join(printed(found).split())
    assert f"1 d {forecast:.3g} {persistence:.3g} {100 * (1 - forecast / persistence):+.0f} %" in shown
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["skill"]["forecasts"] == 1


def test_a_look_loads_neither_networks_nor_pictures_nor_scores() -> None:
    """A monitor may look every minute."""
    heavy = "{'torch', 'matplotlib', 'scores', 'lightning'}"
    code = "import sys, stforecast.operations.status, stforecast.operations.page, stforecast.operations.terminal"
    done = subprocess.run([sys.executable, "-c", f"{code}; print({heavy} & set(sys.modules))"], capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"set()\n")


def test_every_key_of_the_json_is_documented(tmp_path: Path) -> None:
    told = status(make_pipeline(tmp_path), clock=clock_of(NEXT)).to_dict()
    said = f"{Status.__doc__} {Status.to_dict.__doc__}"
    assert [key for key in told if f"`{key}`" not in said and f"        {key}:" not in said] == []


# --- Several pipelines


def test_a_matrix_is_told_pipeline_by_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = make_pipeline(tmp_path)
    text = (tmp_path / "pipeline.yaml").read_text().replace("output: forecasts", "output: '{region}'")
    (tmp_path / "pipeline.yaml").write_text(text + "matrix: {region: [north, south]}\n")
    put(pipeline.model_copy(update={"output": tmp_path / "north"}), [np.datetime64("2200-01-01", "ns")])
    file = tmp_path / "pipeline.yaml"
    assert called(monkeypatch, file, "--json") == 8
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["pipeline"] for line in lines] == ["tiny-north", "tiny-south"]
    assert called(monkeypatch, file, "--only", "tiny-north") == 0
    page = tmp_path / "page.html"
    assert called(monkeypatch, file, "--html", page) == 8
    assert capsys.readouterr().err.count("STALE_OUTPUT") == 1
    assert page.read_text().count("<h1>") == 2
    assert called(monkeypatch, file, "--html", tmp_path / "page.txt") == 2
    assert called(monkeypatch, file, "--only", "tiny-west") == 2
