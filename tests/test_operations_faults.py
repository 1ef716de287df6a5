"""What goes wrong around a scheduled run, and what it does then."""

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scheduled import PREPARED, SERIES, SMALL, SetClock, clock_of, deliver, make_pipeline

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.cycles import name_of
from stforecast.operations.journal import read_runs, write_run
from stforecast.operations.running import run

NEXT = PREPARED


class Stopped(SetClock):
    """A clock that shows one time, or jumps, while time goes on."""

    def __init__(self, row: int, *, jump: timedelta = timedelta(0)) -> None:
        super().__init__(clock_of(row).now())
        self._jump = jump

    def sleep(self, seconds: float) -> None:
        shown = self.now()
        super().sleep(seconds)
        self.set(shown + self._jump)


@pytest.mark.parametrize("jump", [timedelta(0), timedelta(days=400)])
def test_m08_a_run_waits_as_long_as_it_should_whatever_its_clock_shows(tmp_path: Path, jump: timedelta) -> None:
    pipeline = make_pipeline(tmp_path, deadline="2m", fallback=[{"within": "12h"}])
    clock = Stopped(NEXT, jump=jump)
    outcome = run(pipeline, clock=clock)
    assert sum(clock.slept) == 120
    assert (outcome.status, outcome.init) == ("degraded", SERIES["time"].to_numpy()[NEXT])


def test_frames_that_others_put_into_the_store_end_the_wait(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, deadline="45m")
    clock = clock_of(NEXT)
    sleep = clock.sleep

    def and_append(seconds: float) -> None:
        sleep(seconds)
        stf.append(SERIES.isel(time=[NEXT]), pipeline.store)

    clock.sleep = and_append  # type: ignore[method-assign]
    assert run(pipeline, clock=clock).status == "published"
    assert len(clock.slept) == 1


def test_a_clock_before_all_data_publishes_nothing(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, fallback=[{"within": "12h"}, {"baseline": "persistence", "within": "1d"}])
    deliver(pipeline, NEXT)
    with pytest.raises(StforecastError, match="the forecast of 1970-01-01T00:00 was not made") as caught:
        run(pipeline, clock=SetClock(datetime(1970, 1, 1, 2, tzinfo=UTC)))
    assert caught.value.kind == ErrorKind.INPUT_LATE
    assert not (pipeline.output / "latest").exists()
    # What came is in the store all the same, and the clock's next word is as good as any.
    assert run(pipeline, clock=clock_of(NEXT)).status == "published"


def test_a_run_that_was_killed_when_it_had_published_is_told_of_as_that(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    init = run(pipeline, clock=clock_of(NEXT)).init
    kept = read_runs(pipeline.output)[name_of(init)]
    write_run(pipeline.output, name_of(init), kept | {"status": "running"})
    assert run(pipeline, clock=clock_of(NEXT)).status == "done already"
    assert read_runs(pipeline.output)[name_of(init)]["status"] == "published"


def test_what_readers_see_already_is_not_said_to_be_unpublished(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    # A disk that gives out between both links, in short.
    (pipeline.output / "latest").mkdir(parents=True)
    (pipeline.output / "latest" / "in the way").touch()
    with pytest.raises(StforecastError, match="20160210T0000 is published and readers see it, but latest") as caught:
        run(pipeline, clock=clock_of(NEXT))
    assert caught.value.kind == ErrorKind.IO_ERROR
    shutil.rmtree(pipeline.output / "latest")
    assert run(pipeline, clock=clock_of(NEXT)).status == "done already"
    assert (pipeline.output / "latest" / "forecast.nc").is_file()


def test_what_killed_runs_and_readers_left_is_cleared(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    output = pipeline.output
    for row in (NEXT, NEXT + 1):
        deliver(pipeline, row)
        run(pipeline, clock=clock_of(row))
        if row == NEXT:
            whole = {str(file.relative_to(output)) for file in output.rglob("*")}
            for name in (".intake.json.7.tmp", "runs/.a.json.7.tmp", "scores/.a.json.7.tmp", ".readers/dead"):
                (output / name).parent.mkdir(exist_ok=True)
                (output / name).touch()
            (output / ".latest.new").symlink_to("nowhere")
            (output / ".versions" / ".a.retired.json.7.tmp").touch()
            (output / ".versions" / "20160101T0000.1").mkdir()
    left = {str(file.relative_to(output)) for file in output.rglob("*")} - whole
    assert {name for name in left if "20160210T0600" not in name} == {".readers"}


@pytest.mark.parametrize("file", ["forecast.nc", "run.json"])
def test_damage_to_one_forecast_stops_neither_later_ones_nor_their_scores(tmp_path: Path, file: str) -> None:
    pipeline = make_pipeline(tmp_path)
    for row in range(NEXT, NEXT + 3):
        deliver(pipeline, row)
        outcome = run(pipeline, clock=clock_of(row))
        if row == NEXT + 1:
            damaged = pipeline.output / "latest" / file
            damaged.write_bytes(damaged.read_bytes()[:-100])
    assert outcome.record["checks"]["jump"] == "not compared: the forecast before cannot be read"
    assert "2016-02-10T06:00 cannot be compared with" in outcome.record["warnings"][0]
    deliver(pipeline, *range(NEXT + 3, NEXT + 8))
    outcome = run(pipeline, clock=clock_of(NEXT + 7))
    scored = {path.stem for path in (pipeline.output / "scores").iterdir()}
    assert scored == {"20160210T0000", "20160210T1200"}
    assert re.match("score: .*(20160210T0600|2016-02-10T06:00)", outcome.record["warnings"][0])


def test_a_frame_that_never_came_is_not_waited_for_again_days_later(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, deadline="30m")
    lagged = stf.fit(
        pipeline.store,
        history=3,
        horizon=4,
        network=replace(SMALL, first_guess="regression", lags=("1D",)),
        training=stf.TrainingConfig(epochs=1, batch_size=64),
    )
    shutil.rmtree(pipeline.model)
    lagged.save(pipeline.model)
    waits = {}
    for row in range(NEXT, NEXT + 7):
        if row != NEXT + 1:
            deliver(pipeline, row)
        clock = clock_of(row)
        try:
            outcome = run(pipeline, clock=clock)
        except StforecastError as error:
            waits[row - NEXT] = str(error.kind), sum(clock.slept)
        else:
            waits[row - NEXT] = outcome.status, sum(clock.slept)
    # The model is told of it once more a day later, and who published nothing did not say that it is given up.
    late, once_more, told_less = ("INPUT_LATE", 1800), ("degraded", 1800), ("degraded", 0)
    assert list(waits.values()) == [("published", 0), late, late, late, once_more, told_less, told_less]
    assert "it sees 1 earlier frame(s) less" in outcome.record["choice"]["reason"]


def test_a_frame_with_a_wrong_year_lets_no_forecast_be_scored_before_its_truth(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    misdated = SERIES.isel(time=[NEXT]).assign_coords(
        time=[SERIES["time"].to_numpy()[NEXT] + np.timedelta64(9000, "D")]
    )
    misdated.to_netcdf(Path(pipeline.input.path) / "of_2040.nc")
    for row in range(NEXT, NEXT + 6):
        deliver(pipeline, row)
        run(pipeline, clock=clock_of(row))
        scored = sorted(path.stem for path in (pipeline.output / "scores").iterdir())
        assert scored == [name_of(time) for time in SERIES["time"].to_numpy()[NEXT : row - 3]]
    content = json.loads((pipeline.output / "scores" / f"{scored[0]}.json").read_text())
    assert len(content["scores"]["t2m"]["forecast"]["rmse"]) == 4
