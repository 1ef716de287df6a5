"""Whole runs of a tiny pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city
from scheduled import HORIZON, PREPARED, TIMES, clock_of, deliver, make_pipeline

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.archive import Archive
from stforecast.operations.attempt import Attempt
from stforecast.operations.cycles import name_of
from stforecast.operations.making import within_limits
from stforecast.operations.running import missed, plan, run, run_missed
from stforecast.operations.status import status

NEXT = PREPARED


def test_a_run_publishes_what_predict_gives(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    outcome = run(pipeline, clock=clock_of(NEXT))
    assert (outcome.status, outcome.exit_status, outcome.init) == ("published", 0, TIMES[NEXT])
    published = xr.open_dataset(pipeline.output / "latest" / "forecast.nc", decode_timedelta=True)
    expected = stf.predict(stf.open_store(pipeline.store), tmp_path / "model", init_times=[TIMES[NEXT]])
    xr.testing.assert_equal(published["t2m"].reset_coords(drop=True), expected["t2m"].reset_coords(drop=True))
    record = json.loads((pipeline.output / "latest" / "run.json").read_text())
    assert record["choice"] == {
        "made_by": "model",
        "last_frame": "2016-02-10T00:00",
        "is_degraded": False,
        "reason": "",
        "model": stf.Forecaster.load(tmp_path / "model").weights_hash(),
    }
    assert [one["file"] for one in record["input"]["files"]] == [f"t2m_{NEXT:04d}.nc"]


def test_n03_h07_done_already_means_nothing_is_done(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    run(pipeline, clock=clock_of(NEXT))
    before = {file: file.stat().st_mtime_ns for file in (pipeline.output / ".versions").rglob("*")}
    outcome = run(pipeline, clock=clock_of(NEXT))
    assert (outcome.status, outcome.exit_status) == ("done already", 0)
    assert "is published already" in outcome.message
    assert before == {file: file.stat().st_mtime_ns for file in (pipeline.output / ".versions").rglob("*")}


def test_the_same_init_time_gives_the_same_bytes(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    first = run(pipeline, clock=clock_of(NEXT)).init
    version = Archive(pipeline.output).version(first)
    content = (version / "forecast.nc").read_bytes()
    with stf.open_forecasts(pipeline.output) as opened:
        assert run(pipeline, init=first, force=True, clock=clock_of(NEXT)).status == "published"
        again = Archive(pipeline.output).version(first)
        assert again != version
        # Who had it open reads on.
        assert opened["t2m"].shape[:2] == (1, HORIZON)
        assert np.isfinite(opened["t2m"].to_numpy()).all()
    assert (again / "forecast.nc").read_bytes() == content


def test_n01_late_input_is_waited_for_and_then_told_of(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, deadline="45m")
    clock = clock_of(NEXT)
    with pytest.raises(
        StforecastError, match=r"1 frame\(s\) are missing .*2016-02-10T00:00.*has no fallback"
    ) as caught:
        run(pipeline, clock=clock)
    assert caught.value.kind == ErrorKind.INPUT_LATE
    assert caught.value.kind.exit_status == 75
    assert sum(clock.slept) == 45 * 60
    assert not (pipeline.output / "latest").exists()
    record = json.loads((pipeline.output / "runs" / f"{name_of(TIMES[NEXT])}.json").read_text())
    assert (record["status"], record["error"]["kind"]) == ("failed", "INPUT_LATE")


def test_an_hour_that_the_clock_leaves_out_is_not_waited_for(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    half_hours = np.arange("2016-03-13T01:00", "2016-03-13T04:00", 30, "datetime64[m]").astype("datetime64[ns]")
    in_new_york = Attempt(pipeline, half_hours[-1], "America/New_York", clock_of(NEXT))
    np.testing.assert_array_equal(in_new_york.may_come(half_hours), half_hours[[0, 1, 4, 5]])
    np.testing.assert_array_equal(in_new_york.may_come(half_hours[2:4]), [])
    in_utc = Attempt(pipeline, half_hours[-1], None, clock_of(NEXT))
    np.testing.assert_array_equal(in_utc.may_come(half_hours), half_hours)


def test_n07_only_the_newest_of_several_waits_for_its_input(tmp_path: Path) -> None:
    pipeline, clock = make_pipeline(tmp_path, deadline="45m"), clock_of(NEXT + 2)
    deliver(pipeline, NEXT, NEXT + 1)
    ended = list(run_missed(pipeline, TIMES[[NEXT + 3, NEXT + 2]], clock=clock))
    assert [one.kind for one in ended if isinstance(one, StforecastError)] == [ErrorKind.INPUT_LATE] * 2
    assert sum(clock.slept) == 45 * 60


def test_an_init_time_that_is_still_to_come_is_not_made(tmp_path: Path) -> None:
    """A fallback could make it, and would stand in the way of the forecast of that time."""
    pipeline, clock = make_pipeline(tmp_path, fallback=[{"baseline": "persistence", "within": "7d"}]), clock_of(NEXT)
    deliver(pipeline, NEXT)
    for how in (run, plan):
        with pytest.raises(StforecastError, match=r"is still to come, the clock shows 2016-02-10T01:05") as caught:
            how(pipeline, init=TIMES[NEXT + 2], clock=clock)
        assert caught.value.kind == ErrorKind.INPUT_LATE
    np.testing.assert_array_equal(missed(pipeline, TIMES[NEXT], TIMES[NEXT + 4], clock=clock), TIMES[[NEXT]])


def test_what_would_be_deleted_at_once_is_not_made(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, retention="12h")
    deliver(pipeline, NEXT, NEXT + 1)
    run(pipeline, clock=clock_of(NEXT + 1))
    with pytest.raises(
        StforecastError, match=f"{pipeline.name} keeps by its retention, from 2016-02-09T18:00"
    ) as caught:
        run(pipeline, init=TIMES[NEXT - 2], clock=clock_of(NEXT + 1))
    assert caught.value.kind == ErrorKind.ARGUMENT
    with pytest.raises(StforecastError, match="by its retention"):
        plan(pipeline, init=TIMES[NEXT - 2], clock=clock_of(NEXT + 1))
    # A clock that went wrong asks for nothing; that its input is not there is told as ever.
    assert plan(pipeline, clock=clock_of(NEXT - 9)).status == "planned"
    wanted = missed(pipeline, TIMES[NEXT - 9], TIMES[NEXT + 1], clock=clock_of(NEXT + 1))
    np.testing.assert_array_equal(wanted, TIMES[[NEXT - 1, NEXT]])


def test_a_dry_run_by_force_plans_what_is_published(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    run(pipeline, clock=clock_of(NEXT))
    assert plan(pipeline, clock=clock_of(NEXT)).status == "done already"
    assert plan(pipeline, force=True, clock=clock_of(NEXT)).status == "planned"


def test_a_cycle_between_two_steps_is_refused(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, cycle="3h")
    for how in (run, plan, status):
        with pytest.raises(StforecastError, match="cycle 3 h of .* is no multiple of the step of .*, 6 h") as caught:
            how(pipeline, clock=clock_of(NEXT))
        assert caught.value.kind == ErrorKind.ARGUMENT


def test_a_model_of_other_data_does_not_suit(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path).model_copy(update={"model": "north-america-air"})
    deliver(pipeline, NEXT)
    with pytest.raises(
        StforecastError, match="the model north-america-air does not suit .*: wanted the grid"
    ) as caught:
        run(pipeline, clock=clock_of(NEXT))
    assert caught.value.kind == ErrorKind.CKPT_MISMATCH


def test_a_map_of_a_variable_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, maps={"variables": ["speed"], "leads": ["6h"]})
    deliver(pipeline, NEXT)
    (warning,) = run(pipeline, clock=clock_of(NEXT)).record["warnings"]
    assert warning.startswith("a map was not drawn: ")
    assert "speed" in warning


def test_input_that_comes_before_the_deadline_is_forecast_from(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, deadline="45m")
    clock = clock_of(NEXT)
    sleep = clock.sleep

    def and_deliver(seconds: float) -> None:
        sleep(seconds)
        if sum(clock.slept) >= 600:
            deliver(pipeline, NEXT)

    clock.sleep = and_deliver  # type: ignore[method-assign]
    outcome = run(pipeline, clock=clock)
    assert outcome.status == "published"
    assert sum(clock.slept) == 600


@pytest.mark.parametrize(
    ("missing", "made_by", "last"),
    [(1, "model", NEXT - 1), (2, "model", NEXT - 1), (3, "persistence", NEXT - 1), (5, None, None)],
)
def test_m08_what_is_late_goes_down_the_ladder(
    tmp_path: Path, missing: int, made_by: str | None, last: int | None
) -> None:
    ladder = [{"within": "12h"}, {"baseline": "persistence", "within": "1d"}]
    pipeline = make_pipeline(tmp_path, fallback=ladder)
    row = NEXT - 1 + missing
    if made_by is None:
        with pytest.raises(StforecastError, match="no fallback holds"):
            run(pipeline, clock=clock_of(row))
        return
    outcome = run(pipeline, clock=clock_of(row))
    assert (outcome.status, outcome.exit_status) == ("degraded", 7)
    with stf.open_forecasts(pipeline.output) as opened:
        assert opened["init_time"].values == TIMES[row]
        assert opened["choice"].item() == made_by
        assert opened["is_degraded"].item()
        assert opened["last_frame"].values == TIMES[last]
        assert opened.sizes["lead_time"] == HORIZON
        expected = stf.predict(
            stf.open_store(pipeline.store), tmp_path / "model", init_times=[TIMES[last]], horizon=HORIZON + missing
        )["t2m"][:, missing:]
        if made_by == "model":
            np.testing.assert_array_equal(opened["t2m"], expected)
            np.testing.assert_array_equal(opened["valid_time"], expected["valid_time"])
    assert "degraded" in xr.open_dataset(pipeline.output / "latest" / "forecast.nc").attrs["comment"]


def test_a_rung_s_forecast_of_counts_is_of_no_less_than_none() -> None:
    city = make_city(2)
    city["inflow"][0, 0, :2] = [-1e-6, 3.0]
    limited = within_limits(city)
    assert limited["inflow"][0, 0, :2].to_numpy().tolist() == [0.0, 3.0]
    assert limited["inflow"].attrs == city["inflow"].attrs
    xr.testing.assert_identical(within_limits(limited), limited)


def test_a_plan_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    deliver(pipeline, NEXT)
    found = sorted(tmp_path.rglob("*"))
    outcome = plan(pipeline, clock=clock_of(NEXT))
    assert sorted(tmp_path.rglob("*")) == found
    assert outcome.status == "planned"
    assert outcome.record["files_to_read"] == [f"t2m_{NEXT:04d}.nc"]
    assert outcome.record["frames_to_come"] == ["2016-02-10T00:00"]
    assert "would forecast 4 steps from 2016-02-10T00:00" in outcome.message
