"""netCDF files are opened, read and written by many threads at once, which the library itself does not stand."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_series
from test_grid import make_forecast

import stforecast as stf
from stforecast import netcdf
from stforecast.errors import StforecastError
from stforecast.forecasts import open_forecast, write_forecast
from stforecast.netcdf import open_netcdf, write_netcdf

THREADS = 8


def test_forecasts_are_written_and_read_by_many_threads(tmp_path: Path) -> None:
    """Without the lock the process ended in this test, each time that it was tried."""
    forecast = make_forecast(make_series())

    def write_and_read(number: int) -> bool:
        with open_forecast(write_forecast(forecast, tmp_path / f"{number}.nc")) as opened:
            return bool(opened.load().equals(forecast))

    with ThreadPoolExecutor(THREADS) as threads:
        assert all(threads.map(write_and_read, range(100)))


def test_forecasts_are_computed_and_written_by_many_threads(tmp_path: Path) -> None:
    forecast = make_forecast(make_series())
    write_forecast(forecast, tmp_path / "whole.nc")

    def write(number: int) -> bool:
        path = write_forecast(forecast.chunk(init_time=1), tmp_path / f"{number}.nc")
        with open_forecast(tmp_path / "whole.nc") as opened:
            same = opened.load().equals(forecast)
        with open_forecast(path) as written:
            return bool(same and written.load().equals(forecast))

    with ThreadPoolExecutor(THREADS) as threads:
        assert all(threads.map(write, range(40)))


def test_series_are_opened_by_many_threads(tmp_path: Path) -> None:
    series = make_series()
    for number in range(THREADS):
        series.to_netcdf(tmp_path / f"{number}.nc")

    def read(number: int) -> bool:
        with stf.open_dataset(tmp_path / f"{number % THREADS}.nc") as opened:
            return bool(opened.load()["t2m"].equals(series["t2m"]))

    with ThreadPoolExecutor(THREADS) as threads:
        assert all(threads.map(read, range(50)))


def test_a_file_is_as_xarray_would_write_it(tmp_path: Path) -> None:
    series = make_series(variables=("t2m", "d2m"))
    encoding = {"t2m": {"zlib": True, "complevel": 1}, "time": {"units": "hours since 1900-01-01"}}
    write_netcdf(series, tmp_path / "ours.nc", encoding=encoding)
    series.to_netcdf(tmp_path / "theirs.nc", engine="netcdf4", encoding=encoding)
    assert (tmp_path / "ours.nc").read_bytes() == (tmp_path / "theirs.nc").read_bytes()
    chunked = series.assign(t2m=series["t2m"].chunk(time=5), d2m=series["d2m"].chunk(time=3))
    write_netcdf(chunked, tmp_path / "chunks.nc", encoding=encoding)
    with open_netcdf(tmp_path / "ours.nc") as ours, xr.open_dataset(tmp_path / "chunks.nc") as chunks:
        xr.testing.assert_identical(ours.load(), chunks.load())


def test_what_xarray_has_open_is_written(tmp_path: Path) -> None:
    """Its values are read by the lock that is held to write."""
    series = make_series()
    series.to_netcdf(tmp_path / "series.nc")
    with xr.open_dataset(tmp_path / "series.nc") as opened:
        write_netcdf(opened, tmp_path / "copy.nc", encoding={})
        assert not opened["t2m"].variable._in_memory
    with open_netcdf(tmp_path / "copy.nc") as copy:
        xr.testing.assert_equal(copy.load(), series)


def test_a_relative_path_is_of_the_folder_in_which_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, frames in (("here", 8), ("elsewhere", 9)):
        (tmp_path / name).mkdir()
        make_series(frames).to_netcdf(tmp_path / name / "series.nc")
    monkeypatch.chdir(tmp_path / "here")
    opened = open_netcdf(Path("series.nc"))
    assert opened.encoding["source"] == str(tmp_path / "here" / "series.nc")
    there = pickle.dumps(opened)
    opened.close()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for some in (opened, pickle.loads(there)):
        with some:
            xr.testing.assert_equal(some.load(), make_series(8))


def test_a_file_that_cannot_be_read_leaves_the_lock_free(tmp_path: Path) -> None:
    (tmp_path / "damaged.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(OSError, match="damaged"):
        open_netcdf(tmp_path / "damaged.nc")
    with pytest.raises(StforecastError, match="neither netCDF nor Zarr"):
        open_forecast(tmp_path / "damaged.nc")
    with pytest.raises(PermissionError, match="missing"):
        write_netcdf(make_series(), tmp_path / "missing" / "series.nc", encoding={})
    assert not netcdf._LOCK.locked()


def test_the_lock_is_one_and_its_thread_may_take_it_again(tmp_path: Path) -> None:
    lock = pickle.loads(pickle.dumps(netcdf._LOCK))
    assert lock is netcdf._LOCK
    others: list[bool] = []
    with lock, lock:
        # As xarray does where a Dataset is dropped while another thread reads.
        other = threading.Thread(target=lambda: others.append(lock.acquire(blocking=False)))
        other.start()
        other.join()
    assert others == [False]
    assert not lock.locked()


def test_values_wait_for_a_file_that_is_being_opened(tmp_path: Path) -> None:
    """What xarray reads by itself waits too, for its lock is the one that is held."""
    make_series().to_netcdf(tmp_path / "series.nc")
    begun, read = threading.Event(), threading.Event()
    with xr.open_dataset(tmp_path / "series.nc") as theirs:

        def load() -> None:
            begun.set()
            assert np.isfinite(theirs["t2m"].to_numpy()).all()
            read.set()

        with netcdf._LOCK:
            other = threading.Thread(target=load)
            other.start()
            begun.wait()
            assert not read.wait(0.2)
        other.join()
    assert read.is_set()


def test_an_open_file_keeps_one_chunk_a_variable(tmp_path: Path) -> None:
    values = np.zeros((8, 4, 6), np.float32)
    xr.Dataset({"t2m": (("time", "y", "x"), values)}).to_netcdf(
        tmp_path / "f.nc", encoding={"t2m": {"chunksizes": (2, 4, 6), "zlib": True}}
    )
    with netcdf._open_with_small_caches(str(tmp_path / "f.nc"), "r") as file:
        assert file["t2m"].get_var_chunk_cache()[0] == 2 * 4 * 6 * 4
