"""Pipelines by the clock: what is started when, on a clock that is set by hand, and a real process that is ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from scheduled import PREPARED, TIMES, SetClock, clock_of, deliver, make_pipeline
from test_cli import run as run_command

from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import Cycle, name_of
from stforecast.operations.journal import LOG
from stforecast.operations.retraining import RETRAINS
from stforecast.operations.scheduling import (
    Children,
    Keeper,
    Scheduled,
    _AtCycles,
    check_next,
    read_scheduled,
    upcoming,
)
from stforecast.store.versions import remember

NEXT = PREPARED


class Here(Children):
    """Commands that run in this process; the first takes some minutes of the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: SetClock, minutes: float = 1) -> None:
        super().__init__()
        self._monkeypatch, self._clock, self._minutes = monkeypatch, clock, minutes
        self.asked: list[str] = []

    def run(self, arguments: Sequence[str]) -> int:
        init = arguments[arguments.index("--init") + 1]
        self.asked.append(init + (" at once" if "--deadline" in arguments else ""))
        self._clock.sleep(60 * self._minutes)
        self._minutes = 1
        return run_command(*arguments, monkeypatch=self._monkeypatch)


def scheduled_in(folder: Path) -> Scheduled:
    (one,) = read_scheduled([folder / "pipeline.yaml"])
    return one


def shown(*rows: int) -> list[str]:
    return [str(TIMES[row].astype("datetime64[m]")) for row in rows]


def test_every_cycle_is_made_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day from one firing of the trigger to the next, each frame delivered just before its forecast is due."""
    pipeline = make_pipeline(tmp_path, catch_up=1)
    one, clock = scheduled_in(tmp_path), clock_of(NEXT - 1)
    here = Here(monkeypatch, clock)
    keeper = Keeper(one, here, lambda text: None, clock)
    assert not keeper.keep_up()
    trigger, fired = _AtCycles(one), None
    for row in range(NEXT, NEXT + 4):
        deliver(pipeline, row)
        fired = trigger.get_next_fire_time(fired, clock.now())
        assert fired == datetime.fromisoformat(shown(row)[0]).replace(tzinfo=UTC) + timedelta(hours=1)
        clock.set(fired)
        assert not keeper.keep_up()
    # The one before the first is made up for.
    assert here.asked == [shown(NEXT - 2)[0] + " at once", *shown(*range(NEXT - 1, NEXT + 4))]
    np.testing.assert_array_equal(Archive(pipeline.output).inits(), TIMES[NEXT - 2 : NEXT + 4])
    assert json.loads((pipeline.output / LOG).read_text().splitlines()[-1])["exit_status"] == 0


def test_n07_what_was_slept_through_is_made_up_for_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(tmp_path, catch_up=3)
    one, clock = scheduled_in(tmp_path), clock_of(NEXT + 10)
    deliver(pipeline, *range(NEXT, NEXT + 11))
    here = Here(monkeypatch, clock)
    trigger = _AtCycles(one)
    # All that passed is one firing.
    last = clock_of(NEXT).now()
    assert trigger.get_next_fire_time(last, clock.now()) == clock_of(NEXT + 11).now() - timedelta(minutes=5)
    Keeper(one, here, lambda text: None, clock).keep_up()
    assert here.asked == [f"{init} at once" for init in shown(NEXT + 7, NEXT + 8, NEXT + 9)] + shown(NEXT + 10)
    np.testing.assert_array_equal(Archive(pipeline.output).inits(), TIMES[NEXT + 7 : NEXT + 11])


def test_n11_input_that_is_late_is_tried_again_for_the_same_init_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(tmp_path, catch_up=1)
    one, clock = scheduled_in(tmp_path), clock_of(NEXT)
    here = Here(monkeypatch, clock)
    said: list[str] = []
    keeper = Keeper(one, here, said.append, clock)
    assert keeper.keep_up()
    first = [f"{shown(NEXT - 1)[0]} at once", *shown(NEXT)]
    assert here.asked == first
    assert f"tiny: run --init {shown(NEXT)[0]} ended with status 75" in said[-1]
    # Only that one, and it has waited.
    assert keeper.keep_up()
    assert here.asked == [*first, f"{shown(NEXT)[0]} at once"]
    deliver(pipeline, NEXT)
    assert not keeper.keep_up()
    assert not keeper.keep_up()
    assert here.asked == [*first, *[f"{shown(NEXT)[0]} at once"] * 2]
    assert Archive(pipeline.output).holds(TIMES[NEXT])


def test_what_comes_due_while_a_run_goes_on_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(tmp_path, catch_up=1)
    clock = clock_of(NEXT)
    deliver(pipeline, *range(NEXT - 1, NEXT + 2))
    for row in (NEXT - 1, NEXT):
        run_command("run", tmp_path / "pipeline.yaml", "--init", shown(row)[0], monkeypatch=monkeypatch)
    clock.set(clock_of(NEXT + 1).now())
    here = Here(monkeypatch, clock, minutes=7 * 60)
    Keeper(scheduled_in(tmp_path), here, lambda text: None, clock).keep_up()
    assert here.asked == shown(NEXT + 1, NEXT + 2)
    assert Archive(pipeline.output).holds(TIMES[NEXT + 1])


def test_a_job_does_not_wait_for_a_time_that_a_wrong_clock_showed(tmp_path: Path) -> None:
    make_pipeline(tmp_path)
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.start(paused=True)
    try:
        job = scheduler.add_job(print, _AtCycles(scheduled_in(tmp_path)))
        job.modify(next_run_time=datetime(2099, 1, 1, tzinfo=UTC))
        check_next(job, datetime(2016, 3, 1, 4, tzinfo=UTC))
        assert job.next_run_time == datetime(2016, 3, 1, 7, tzinfo=UTC)
        # One that is due is left alone.
        check_next(job, datetime(2016, 3, 1, 8, tzinfo=UTC))
        assert job.next_run_time == datetime(2016, 3, 1, 7, tzinfo=UTC)
    finally:
        scheduler.shutdown(wait=False)


def test_n05_on_a_city_s_clock_each_time_that_it_shows_is_met_once_the_clock_is_set(tmp_path: Path) -> None:
    make_pipeline(tmp_path, input={"arrives_after": "10m"})
    one = scheduled_in(tmp_path)
    city = Scheduled(one.file, one.pipeline, Cycle(timedelta(minutes=30), "America/New_York"))
    spring = upcoming(city, 4, datetime(2016, 3, 13, 6, 15, tzinfo=UTC))
    assert [str(moment)[11:16] for moment, _ in spring] == ["06:40", "07:10", "07:40", "08:10"]
    assert [name_of(init)[-4:] for _, init in spring] == ["0130", "0300", "0330", "0400"]
    autumn = upcoming(city, 4, datetime(2016, 11, 6, 5, 15, tzinfo=UTC))
    assert [name_of(init)[-4:] for _, init in autumn] == ["0130", "0100", "0130", "0200"]


def test_two_pipelines_of_one_name_are_refused(tmp_path: Path) -> None:
    make_pipeline(tmp_path)
    with pytest.raises(StforecastError, match="several pipelines have the name tiny") as caught:
        read_scheduled([tmp_path / "pipeline.yaml"] * 2)
    assert caught.value.kind == ErrorKind.ARGUMENT


def test_a_model_that_is_due_is_fitted_anew(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, retrain={"every": "30d", "preset": "weather"})
    asked: list[list[str]] = []

    class Asked(Children):
        def run(self, arguments: Sequence[str]) -> int:
            asked.append(list(arguments))
            return 0

    said: list[str] = []
    keeper = Keeper(scheduled_in(tmp_path), Asked(), said.append, clock_of(NEXT))
    keeper.retrain()
    # The store ends where the test period of the model does.
    assert not asked
    keeper.one.pipeline.output.mkdir(exist_ok=True)
    (pipeline.output / RETRAINS).mkdir()
    remember(pipeline.output / RETRAINS / "20160101T0000.json", {"status": "kept"})
    keeper.retrain()
    assert asked == [["retrain", str(tmp_path / "pipeline.yaml"), "--only", "tiny", "--if-due"]]
    assert "tiny: retrain --if-due ended with status 0" in said[-1]


def test_a_dry_run_says_what_would_be_started_and_does_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    make_pipeline(tmp_path, catch_up=1)
    found = sorted(tmp_path.rglob("*"))
    assert run_command("schedule", tmp_path / "pipeline.yaml", "--dry-run", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny: to make now: 20")
    assert len(lines) == 5
    assert all("Z for 20" in line for line in lines[1:])
    assert sorted(tmp_path.rglob("*")) == found


@pytest.mark.slow
def test_g18_told_to_end_it_ends_its_run_as_well(tmp_path: Path) -> None:
    """The frames of today never come: the init time before is given up at once, the newest is waited for."""
    pipeline = make_pipeline(tmp_path, catch_up=1, deadline="1h")
    command = [sys.executable, "-m", "stforecast", "schedule", str(tmp_path / "pipeline.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            until = time.monotonic() + 120
            said: list[dict[str, object]] = []
            while [one["event"] for one in said][-1:] != ["waiting"]:
                assert time.monotonic() < until, said
                assert process.poll() is None
                time.sleep(0.1)
                log = pipeline.output / LOG
                said = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            holder = int((tmp_path / ".forecasts.holder").read_text().split()[1])
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143, out
    with pytest.raises(ProcessLookupError):
        os.kill(holder, 0)
    given_up, ended = [one for one in map(json.loads, log.read_text().splitlines()) if one["event"] == "ended"]
    assert (given_up["exit_status"], ended["exit_status"]) == (75, 143)
    record = json.loads(
        (
            pipeline.output / "runs" / f"{ended['command'].split()[-1].replace('-', '').replace(':', '')}.json"
        ).read_text()
    )
    assert record["error"]["kind"] == "INTERRUPTED"
    assert "tiny: run --init" in out
