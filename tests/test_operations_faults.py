"""What goes wrong around a scheduled run, and what it does then."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scheduled import PREPARED, SERIES, SetClock, clock_of, deliver, make_pipeline

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
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


@pytest.mark.parametrize("jump", [timedelta(0), timedelta(days=-1), timedelta(days=400)])
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
