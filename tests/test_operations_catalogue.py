"""Rows of the fault catalogues that a scheduled run answers, each as it comes to a run."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from crash import start, wait
from scheduled import HORIZON, PREPARED, SERIES, TIMES, SetClock, clock_of, deliver, make_pipeline

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.archive import Archive
from stforecast.operations.cycles import name_of
from stforecast.operations.journal import Outcome, read_runs
from stforecast.operations.pipeline import Pipeline
from stforecast.operations.running import run

NEXT = PREPARED


def refused(pipeline: Pipeline, row: int, kind: ErrorKind, match: str) -> None:
    """The run of a row publishes nothing, says why, and leaves what was published before."""
    before = {name: (pipeline.output / name).resolve() for name in ("latest",) if pipeline.output.is_dir()}
    with pytest.raises(StforecastError, match=match) as caught:
        run(pipeline, clock=clock_of(row))
    assert caught.value.kind == kind
    assert before == {name: (pipeline.output / name).resolve() for name in before}
    kept = read_runs(pipeline.output)[name_of(TIMES[row])]
    assert (kept["status"], kept["error"]["kind"]) == ("failed", kind)
    assert not Archive(pipeline.output).holds(TIMES[row])


def ran(pipeline: Pipeline, row: int, **delivery: object) -> Outcome:
    deliver(pipeline, row, **delivery)
    return run(pipeline, clock=clock_of(row))


def with_weights(pipeline: Pipeline, change: object) -> None:
    """Let the pipeline's model be one of other weights."""
    folder = Path(pipeline.model)
    forecaster = stf.Forecaster.load(folder)
    with torch.no_grad():
        for weights in forecaster.network.parameters():
            weights.copy_(change(weights))
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    forecaster.save(folder)


def test_a06_n01_a_file_that_is_still_written_is_waited_for_and_named(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, input={"settles_after": "5m"})
    deliver(pipeline, NEXT)
    refused(pipeline, NEXT, ErrorKind.INPUT_LATE, r"t2m_0160\.nc is there and waits, as it was written to a moment ago")


def test_b12_what_a_file_claims_of_its_axis_changes_nothing(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    claims = {"frequency": "mon", "time_coverage_end": "2099-12-31T00:00", "time_coverage_resolution": "P1M"}
    outcome = ran(pipeline, NEXT, series=SERIES.assign_attrs(claims))
    assert (outcome.status, outcome.init) == ("published", TIMES[NEXT])
    assert stf.open_store(pipeline.store)["time"].to_numpy()[-1] == TIMES[NEXT]


def test_c07_frames_that_a_killed_run_had_stored_are_there_once(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    stf.append(SERIES.isel(time=[NEXT]), pipeline.store)
    before = (pipeline.store / ".current").readlink()
    outcome = ran(pipeline, NEXT)
    assert outcome.record["input"]["added"] == 0
    assert [one["file"] for one in outcome.record["input"]["files"]] == ["t2m_0160.nc"]
    assert (pipeline.store / ".current").readlink() == before


def test_c14_local_times_that_come_twice_are_refused_with_their_file(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    twice = SERIES.isel(time=[NEXT, NEXT]).assign_coords(
        time=("time", np.array(["2016-11-06T01:00"] * 2, "datetime64[ns]"), {"time_zone": "America/New_York"})
    )
    twice.to_netcdf(Path(pipeline.input.path) / "autumn.nc")
    outcome = ran(pipeline, NEXT)
    assert outcome.status == "published"
    assert [(one["file"], one["kind"]) for one in outcome.record["input"]["refused"]] == [("autumn.nc", "TIME_DST")]


def test_c17_lead_times_count_from_the_init_time_whatever_was_seen(tmp_path: Path) -> None:
    ladder = [{"within": "6h"}, {"baseline": "persistence", "within": "1d"}]
    pipeline = make_pipeline(tmp_path, fallback=ladder)
    for row, status in ((NEXT, "published"), (NEXT + 1, "degraded"), (NEXT + 3, "degraded")):
        if status == "published":
            deliver(pipeline, row)
        assert run(pipeline, clock=clock_of(row)).status == status
        published = xr.open_dataset(pipeline.output / "latest" / "forecast.nc", decode_timedelta=True)
        assert published["init_time"].item() == TIMES[row].astype("int64")
        assert published["lead_time"].to_numpy().tolist() == [(1 + step) * 6 * 3600 * 10**9 for step in range(HORIZON)]
        np.testing.assert_array_equal(published["valid_time"], published["init_time"] + published["lead_time"])
        assert published["last_frame"].values == TIMES[NEXT]


def test_d02_n02_a_newest_frame_that_is_nan_stops_the_run_before_the_model(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    ran(pipeline, NEXT)
    broken = SERIES.copy(deep=True)
    broken["t2m"][NEXT + 1] = np.nan
    deliver(pipeline, NEXT + 1, series=broken)
    refused(pipeline, NEXT + 1, ErrorKind.INPUT_INCOMPLETE, r"t2m_0161\.nc was refused as NAN .*2016-02-10T06:00")
    assert ErrorKind.INPUT_INCOMPLETE.exit_status == 3
    # A second start says the same, although it does not look at the file again; until another comes.
    refused(pipeline, NEXT + 1, ErrorKind.INPUT_INCOMPLETE, r"t2m_0161\.nc was refused as NAN")
    assert ran(pipeline, NEXT + 1).record["input"]["refused"] == []


def test_d10_m07_an_output_that_drifts_or_cannot_be_is_not_published(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    ran(pipeline, NEXT)
    deliver(pipeline, NEXT + 1)
    with_weights(pipeline, lambda weights: 40 * weights)
    refused(pipeline, NEXT + 1, ErrorKind.OUTPUT_INVALID, "t2m")
    assert ErrorKind.OUTPUT_INVALID.exit_status == 6


def test_d10_a_forecast_far_from_the_one_before_is_not_published(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, checks={"jump": 0.001})
    ran(pipeline, NEXT)
    deliver(pipeline, NEXT + 1)
    refused(pipeline, NEXT + 1, ErrorKind.OUTPUT_INVALID, r"standard deviations away from that of 2016-02-10T00:00")


def test_m07_what_each_lead_time_was_found_to_be_is_published_with_it(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, horizon=20)
    outcome = ran(pipeline, NEXT)
    assert outcome.record["checks"]["finite"]
    published = xr.open_dataset(pipeline.output / "latest" / "forecast.nc", decode_timedelta=True)
    assert published["quality_flag"].shape == (1, 20)
    assert "flag_meanings" in published["quality_flag"].attrs


def test_j10_a_model_that_was_in_use_before_is_told_of(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    hashes, warned = [], []
    # To and fro: what is added and taken away again is the first model to the last bit.
    for row, change in ((NEXT, None), (NEXT + 1, lambda weights: 2 * weights), (NEXT + 2, lambda weights: weights / 2)):
        if change is not None:
            with_weights(pipeline, change)
        outcome = ran(pipeline.model_copy(update={"checks": pipeline.checks.model_copy(update={"jump": None})}), row)
        hashes.append(outcome.record["choice"]["model"])
        warned.append([text for text in outcome.record["warnings"] if text.startswith("CKPT_ROLLBACK")])
    assert hashes[0] == hashes[2] != hashes[1]
    assert [len(one) for one in warned] == [0, 0, 1]
    assert hashes[0][:12] in warned[2][0]
    published = xr.open_dataset(pipeline.output / "latest" / "forecast.nc")
    assert f"weights {hashes[0][:12]}" in published.attrs["source"]


class Hung(SetClock):
    """A clock whose sleep does not end, as a disk that does not come back."""

    def sleep(self, seconds: float) -> None:
        while True:
            time.sleep(0.05)


def test_cat_m05_a_run_that_hangs_ends_with_its_stacks_and_lets_go(tmp_path: Path, capfd) -> None:
    pipeline = make_pipeline(tmp_path, timeout="1s", deadline="1s")

    def hangs() -> None:
        run(pipeline, clock=Hung(clock_of(NEXT).now()))

    ended = wait(*start(hangs))
    assert (ended.how, ended.kind) == ("failed", "TIMEOUT")
    assert "the run of 2016-02-10T00:00 took longer than 0:00:02" in ended.message
    assert "in sleep" in capfd.readouterr().err
    assert read_runs(pipeline.output)["20160210T0000"]["error"]["kind"] == "TIMEOUT"
    pipeline = pipeline.model_copy(update={"timeout": make_pipeline(tmp_path / "other").timeout})
    assert ran(pipeline, NEXT).status == "published"


def test_n08_frames_that_were_forecast_from_and_come_otherwise_are_in_the_record(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    first = ran(pipeline, NEXT)
    assert len(first.record["input"]["files"][0]["sha256"]) == 64
    revised = SERIES.copy(deep=True)
    revised["t2m"][NEXT] += 1
    deliver(pipeline, NEXT, series=revised)
    outcome = ran(pipeline, NEXT + 1)
    (warning,) = outcome.record["warnings"]
    assert warning.startswith("INPUT_CHANGED: variable t2m has other values at 2016-02-10T00:00")
    assert "left as it was forecast from" in warning
    assert first.record["input"]["files"][0]["sha256"] != outcome.record["input"]["files"][0]["sha256"]


def test_n09_a_file_of_the_frame_before_under_a_new_name_is_stale(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    ran(pipeline, NEXT)
    deliver(pipeline, NEXT, name="t2m_0161.nc")
    refused(pipeline, NEXT + 1, ErrorKind.INPUT_STALE, r"t2m_0161\.nc, has only frames that were there already")
    assert ErrorKind.INPUT_STALE.exit_status == 75


def test_n11_a_start_with_the_init_time_of_the_first_makes_that(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    with pytest.raises(StforecastError, match="2016-02-10T00:00 was not made"):
        run(pipeline, clock=clock_of(NEXT))
    deliver(pipeline, NEXT, NEXT + 1)
    assert run(pipeline, init=TIMES[NEXT], clock=clock_of(NEXT + 1)).init == TIMES[NEXT]
    assert run(pipeline, clock=clock_of(NEXT + 1)).init == TIMES[NEXT + 1]


def test_n10_m10_m11_maps_are_drawn_without_a_network_and_their_figures_let_go(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, maps={"leads": ["24h"]})
    deliver(pipeline, NEXT)

    def alone() -> list[int]:
        def refuse(event: str, _: object) -> None:
            if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")):
                os.write(2, b"a run asks the network\n")
                os._exit(1)

        import sys

        sys.addaudithook(refuse)
        run(pipeline, clock=clock_of(NEXT))
        from matplotlib import _pylab_helpers

        return list(_pylab_helpers.Gcf.figs)

    ended = wait(*start(alone), limit=120)
    assert (ended.how, ended.result) == ("done", [])
    drawn = sorted(path.name for path in (pipeline.output / "latest" / "maps").iterdir())
    assert drawn == ["t2m_024h.png"]
