"""What is delivered, in whatever state, and what of it comes into the store."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_series
from scheduled import PREPARED, SERIES, TIMES, deliver, make_pipeline

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.operations.intake import Intake, pending, take_in
from stforecast.operations.pipeline import Input, Pipeline
from stforecast.operations.running import plan, run
from stforecast.store.versions import lock

NEXT = PREPARED


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return make_pipeline(tmp_path)


def taken(pipeline: Pipeline, **changes: object) -> Intake:
    source = pipeline.input.model_copy(update=changes)
    return take_in(source, pipeline.store, pipeline.output.parent / "notes.json")


def stored(pipeline: Pipeline) -> xr.Dataset:
    return stf.open_store(pipeline.store).load()


def assert_holds(pipeline: Pipeline, *rows: int) -> None:
    """The store has exactly the frames that it was prepared with and these, with their values."""
    found, wanted = stored(pipeline), SERIES.isel(time=[*range(PREPARED), *rows])
    np.testing.assert_array_equal(found["time"], wanted["time"])
    np.testing.assert_allclose(found["t2m"], wanted["t2m"], atol=1e-3)


def test_each_file_is_read_once(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT)
    deliver(pipeline, NEXT + 1, NEXT + 2)
    assert pending(pipeline.input, pipeline.output.parent / "notes.json") == ["t2m_0160.nc", "t2m_0161.nc"]
    first = taken(pipeline)
    assert (first.added, [one["file"] for one in first.files]) == (3, ["t2m_0160.nc", "t2m_0161.nc"])
    assert pending(pipeline.input, pipeline.output.parent / "notes.json") == []
    assert taken(pipeline) == Intake()
    assert_holds(pipeline, NEXT, NEXT + 1, NEXT + 2)


def test_files_that_come_together_make_one_version_of_the_store(pipeline: Pipeline) -> None:
    version = (pipeline.store / ".current").readlink()
    for row in range(NEXT, NEXT + 6):
        deliver(pipeline, row)
    assert taken(pipeline).added == 6
    assert [path.parent.name for path in (version, (pipeline.store / ".current").readlink())] == ["1", "2"]


def test_late_and_reordered_deliveries_come_to_the_same_store(pipeline: Pipeline, tmp_path: Path) -> None:
    for rows in ((NEXT + 3,), (NEXT + 1, NEXT + 2), (NEXT,)):
        deliver(pipeline, *rows)
        taken(pipeline)
    assert_holds(pipeline, *range(NEXT, NEXT + 4))


def test_n08_what_comes_again_with_other_values_is_told_of_and_kept(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT)
    taken(pipeline)
    revised = SERIES.copy(deep=True)
    revised["t2m"][NEXT] += 1.0
    deliver(pipeline, NEXT, NEXT + 1, series=revised, name="revised.nc")
    came = taken(pipeline)
    assert came.added == 1
    assert "variable t2m has other values at 2016-02-10T00:00" in came.changed[0]
    assert_holds(pipeline, NEXT, NEXT + 1)


def test_what_comes_again_takes_the_place_of_what_was_there_where_one_says_so(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT)
    taken(pipeline)
    revised = SERIES.copy(deep=True)
    revised["t2m"][NEXT] += 1.0
    deliver(pipeline, NEXT, series=revised)
    came = taken(pipeline, revisions="replace")
    assert (came.added, came.replaced, len(came.changed)) == (0, 1, 1)
    np.testing.assert_allclose(stored(pipeline)["t2m"][-1], revised["t2m"][NEXT], atol=1e-3)


def test_two_files_that_say_the_same_frame_otherwise_are_told_of(pipeline: Pipeline) -> None:
    revised = SERIES.copy(deep=True)
    revised["t2m"][NEXT] += 1.0
    deliver(pipeline, NEXT, name="a.nc")
    deliver(pipeline, NEXT, series=revised, name="b.nc")
    came = taken(pipeline)
    assert came.added == 1
    assert len(came.changed) == 1
    assert_holds(pipeline, NEXT)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def with_nan(series: xr.Dataset) -> xr.Dataset:
    broken = series.copy(deep=True)
    broken["t2m"][NEXT, 0, 0] = np.nan
    return broken


def in_celsius(series: xr.Dataset) -> xr.Dataset:
    return series.assign(t2m=(series["t2m"] - 273.15).assign_attrs(units="K"))


def on_another_grid(series: xr.Dataset) -> xr.Dataset:
    return series.isel(latitude=slice(1, None))


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(with_nan, "NAN"), (in_celsius, "RANGE"), (on_another_grid, "GRID_SHAPE")],
    ids=["nan", "celsius", "grid"],
)
def test_n02_d01_u01_an_unfit_file_stops_no_other(pipeline: Pipeline, spoil: object, kind: str) -> None:
    deliver(pipeline, NEXT, series=spoil(SERIES), name="a_spoilt.nc")
    deliver(pipeline, NEXT + 1)
    came = taken(pipeline)
    assert [(one["file"], one["kind"]) for one in came.refused] == [("a_spoilt.nc", kind)]
    assert_holds(pipeline, NEXT + 1)
    # It is not looked at again, until it is delivered anew.
    assert taken(pipeline) == Intake()
    deliver(pipeline, NEXT, name="a_spoilt.nc")
    assert taken(pipeline).added == 1
    assert_holds(pipeline, NEXT, NEXT + 1)


def test_n02_the_frames_of_a_file_that_are_whole_are_taken(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT - 1, NEXT, NEXT + 1, series=with_nan(SERIES))
    came = taken(pipeline)
    assert came.added == 1
    assert "1 frame(s) have values that are not finite, the first 2016-02-10T00:00" in came.refused[0]["reason"]
    assert_holds(pipeline, NEXT + 1)


def test_a06_files_that_are_not_whole_yet_are_left_for_later(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT, name="t2m.nc.part")
    cut(deliver(pipeline, NEXT + 1))
    came = taken(pipeline)
    assert came.added == 0
    assert [(one["file"], one["kind"]) for one in came.refused] == [("t2m_0161.nc", "FILE_TRUNCATED")]
    deliver(pipeline, NEXT + 1)
    file = Path(pipeline.input.path) / "t2m.nc.part"
    file.rename(file.with_suffix(""))
    assert taken(pipeline).added == 2
    assert_holds(pipeline, NEXT, NEXT + 1)


def test_a06_a_file_that_was_written_to_a_moment_ago_waits_where_one_says_so(pipeline: Pipeline) -> None:
    file = deliver(pipeline, NEXT)
    came = taken(pipeline, settles_after=timedelta(minutes=5))
    assert came.waiting == [{"file": "t2m_0160.nc", "reason": "was written to a moment ago"}]
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 600))
    assert taken(pipeline, settles_after=timedelta(minutes=5)).added == 1


def test_frames_whose_variables_come_in_several_files_wait_for_each_other(tmp_path: Path) -> None:
    both = make_series(30, variables=("t2m", "d2m"))
    split = stf.Split(("2016-01-01", "2016-01-03"), ("2016-01-04", "2016-01-05"), ("2016-01-06", "2016-01-09"))
    stf.prepare(both.isel(time=slice(0, 24)), tmp_path / "both.zarr", split)
    folder = tmp_path / "incoming"
    folder.mkdir()
    source = Input(path=str(folder))
    both[["t2m"]].isel(time=[24, 25]).to_netcdf(folder / "t2m.nc")
    both[["d2m"]].isel(time=[24]).to_netcdf(folder / "d2m_24.nc")
    came = take_in(source, tmp_path / "both.zarr", tmp_path / "notes.json")
    assert came.added == 1
    assert came.waiting == [{"file": "t2m.nc", "reason": "d2m of 2016-01-07T06:00 did not come yet"}]
    both[["d2m"]].isel(time=[25]).to_netcdf(folder / "d2m_25.nc")
    came = take_in(source, tmp_path / "both.zarr", tmp_path / "notes.json")
    assert (came.added, came.waiting) == (1, [])
    np.testing.assert_array_equal(stf.open_store(tmp_path / "both.zarr")["time"], both["time"][:26])


def test_a_store_that_others_let_grow_is_input_too(pipeline: Pipeline, tmp_path: Path) -> None:
    growing = tmp_path / "growing.zarr"
    SERIES.isel(time=slice(100, NEXT + 2)).to_zarr(growing, zarr_format=3, consolidated=False)
    came = taken(pipeline, path=str(growing))
    assert came.added == 2
    assert taken(pipeline, path=str(growing)).added == 0
    SERIES.isel(time=slice(NEXT + 2, NEXT + 3)).to_zarr(growing, append_dim="time", consolidated=False)
    assert taken(pipeline, path=str(growing)).added == 1
    assert_holds(pipeline, *range(NEXT, NEXT + 3))


def test_folders_in_folders_and_patterns_are_looked_into(pipeline: Pipeline) -> None:
    folder = Path(pipeline.input.path)
    (folder / "2016").mkdir()
    SERIES.isel(time=[NEXT]).to_netcdf(folder / "2016" / "a.nc")
    (folder / ".hidden.nc").write_text("no")
    (folder / "readme.txt").write_text("no")
    came = taken(pipeline)
    assert [one["file"] for one in came.files] == ["2016/a.nc"]
    deliver(pipeline, NEXT + 1, name="b.nc")
    assert [one["file"] for one in taken(pipeline, path=f"{folder}/b*.nc").files] == ["b.nc"]
    assert taken(pipeline, path=str(folder / "nothing*.nc")) == Intake()


def test_a_store_that_is_busy_is_no_fault_of_the_input(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT)
    with lock(pipeline.store), pytest.raises(StforecastError, match="is being written by process") as caught:
        taken(pipeline)
    assert caught.value.kind == ErrorKind.STORE_BUSY
    assert taken(pipeline).added == 1
    assert TIMES[NEXT] in stored(pipeline)["time"].to_numpy()


def test_a_store_that_fails_while_more_is_read_loses_no_frame(pipeline: Pipeline) -> None:
    # The same frame twice: the first is put into the store before the second is held.
    deliver(pipeline, NEXT, name="a.nc")
    deliver(pipeline, NEXT, name="b.nc")
    with lock(pipeline.store), pytest.raises(StforecastError, match="is being written by process"):
        taken(pipeline)
    assert taken(pipeline).added == 1
    assert_holds(pipeline, NEXT)


def test_a_file_is_looked_at_again_whatever_its_dates_say(pipeline: Pipeline) -> None:
    good = deliver(pipeline, NEXT)
    content, dates = good.read_bytes(), (1e9, 1e9)
    # As rsync -t does: the same size and time of writing for a copy that was damaged on its way and for a good one.
    good.write_bytes(content[:200] + bytes(len(content) - 200))
    os.utime(good, dates)
    assert len(taken(pipeline).refused) == 1
    good.write_bytes(content)
    os.utime(good, dates)
    assert taken(pipeline).added == 1
    assert_holds(pipeline, NEXT)


def test_a_sum_that_comes_after_its_file_lets_it_in(pipeline: Pipeline) -> None:
    file = deliver(pipeline, NEXT)
    sums = file.with_name(f"{file.name}.sha256")
    sums.write_text(f"{hashlib.sha256(b'the file before').hexdigest()}  {file.name}\n")
    assert [one["kind"] for one in taken(pipeline).refused] == ["FILE_CHECKSUM"]
    sums.write_text(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    came = taken(pipeline)
    assert came.added == 1
    assert (came.files[0]["bytes"], came.files[0]["sha256"]) == (file.stat().st_size, sums.read_text().split()[0])


def test_u02_u01_units_of_one_file_are_not_those_of_another_that_came_with_it(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT)
    in_fahrenheit = SERIES.assign(t2m=SERIES["t2m"].assign_attrs(units="degF"))
    deliver(pipeline, NEXT + 1, series=in_fahrenheit)
    came = taken(pipeline)
    assert [(one["file"], one["kind"]) for one in came.refused] == [("t2m_0161.nc", "UNITS")]
    assert [one["file"] for one in came.files] == ["t2m_0160.nc"]
    assert_holds(pipeline, NEXT)


def test_f01_files_of_one_variable_each_may_have_their_rows_in_another_order(tmp_path: Path) -> None:
    both = make_series(30, variables=("t2m", "d2m"))
    split = stf.Split(("2016-01-01", "2016-01-03"), ("2016-01-04", "2016-01-05"), ("2016-01-06", "2016-01-09"))
    stf.prepare(both.isel(time=slice(0, 24)), tmp_path / "both.zarr", split)
    folder = tmp_path / "incoming"
    folder.mkdir()
    both[["t2m"]].isel(time=[24]).to_netcdf(folder / "t2m.nc")
    both[["d2m"]].isel(time=[24], latitude=slice(None, None, -1)).to_netcdf(folder / "d2m.nc")
    both[["d2m"]].isel(time=[25], latitude=slice(1, None)).to_netcdf(folder / "other_grid.nc")
    came = take_in(Input(path=str(folder)), tmp_path / "both.zarr", tmp_path / "notes.json")
    assert [(one["file"], one["kind"]) for one in came.refused] == [("other_grid.nc", "GRID_SHAPE")]
    assert came.added == 1
    found = stf.open_store(tmp_path / "both.zarr").load()
    np.testing.assert_allclose(found["d2m"][-1], both["d2m"][24], atol=1e-3)


def test_a_clock_that_is_not_the_store_s_ends_the_run_before_anything_is_read(pipeline: Pipeline) -> None:
    deliver(pipeline, NEXT)
    wrong = pipeline.model_copy(update={"input": pipeline.input.model_copy(update={"time_zone": "Asia/Shanghai"})})
    for begin in (run, plan):
        with pytest.raises(
            StforecastError, match="is Asia/Shanghai and the store has times in UTC.*leave it out"
        ) as one:
            begin(wrong, init=SERIES["time"].to_numpy()[NEXT])
        assert one.value.kind.exit_status == 2
    assert run(pipeline, init=SERIES["time"].to_numpy()[NEXT]).status == "published"
