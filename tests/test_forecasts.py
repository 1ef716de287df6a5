import errno
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from crash import KILL, in_child
from factory import make_series
from test_grid import make_forecast
from trials import small_disk

from stforecast.baselines import Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecasts import open_forecast, open_group, write_forecast, write_template


def test_a_forecast_comes_back_as_it_was_written(tmp_path: Path) -> None:
    forecast = make_forecast(make_series())
    path = write_forecast(forecast, tmp_path / "deep" / "forecast.nc")
    with open_forecast(path) as opened:
        xr.testing.assert_equal(opened.compute(), forecast)
        assert opened["valid_time"].attrs["standard_name"] == "time"
        assert opened["lead_time"].dtype == np.dtype("timedelta64[ns]")
    assert [entry.name for entry in path.parent.iterdir()] == ["forecast.nc"]


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_the_variables_keep_their_order(tmp_path: Path, suffix: str) -> None:
    forecast = make_forecast(make_series())
    names = ["v", "b", "z", "a"]
    several = forecast.assign(dict.fromkeys(names, forecast["t2m"]))[names]
    written = open_forecast(write_forecast(several, tmp_path / f"forecast.{suffix}"))
    assert list(written.data_vars) == names
    # Begun as a template and written in parts.
    write_template(several.chunk(), tmp_path / f"template.{suffix}")
    assert list(open_group(tmp_path / f"template.{suffix}").data_vars) == names


def test_writing_again_replaces_the_file_whole(tmp_path: Path) -> None:
    forecast = make_forecast(make_series())
    write_forecast(forecast, tmp_path / "forecast.nc")
    warmer = forecast.assign(t2m=(forecast["t2m"] + 1).assign_attrs(forecast["t2m"].attrs))
    write_forecast(warmer, tmp_path / "forecast.nc")
    with open_forecast(tmp_path / "forecast.nc") as opened:
        xr.testing.assert_equal(opened.compute(), warmer)


def test_s04_g04_g06_a_writer_may_die_or_fail_anywhere(tmp_path: Path) -> None:
    forecast, path = make_forecast(make_series()), tmp_path / "forecast.nc"
    warmer = forecast.assign(t2m=(forecast["t2m"] + 1).assign_attrs(forecast["t2m"].attrs))
    write_forecast(warmer, path)
    new = path.read_bytes()
    write_forecast(forecast, path)
    old = path.read_bytes()
    points = in_child(lambda: write_forecast(warmer, path), tmp_path).points
    assert points >= 3
    for fault in (KILL, errno.ENOSPC, errno.EIO):
        for at in range(1, points + 1):
            path.write_bytes(old)
            ended = in_child(lambda: write_forecast(warmer, path), tmp_path, at=at, fault=fault)
            left = path.read_bytes()
            assert left in (old, new)
            if ended.how == "failed":
                assert ended.kind == {errno.ENOSPC: "DISK_FULL", errno.EIO: "IO_ERROR"}[fault] or left == new
                assert ("is intact" in ended.message) == (left == old)
            for litter in tmp_path.glob(".forecast.*.tmp.nc"):
                assert ended.how == "killed"
                litter.unlink()


def test_g06_a_netcdf_library_that_meets_a_full_disk_is_told_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as resize:
        if resize is None:
            pytest.skip("this user cannot mount a small file system to fill")
        path = tmp_path / "disk" / "forecast.nc"
        write_forecast(make_forecast(make_series(40, shape=(4, 8))), path)
        before = path.read_bytes()
        large = make_forecast(make_series(60, shape=(120, 160)))
        noise = np.random.default_rng(0).standard_normal(large["t2m"].shape).astype(np.float32)
        large = large.assign(t2m=(large["t2m"] + noise).assign_attrs(large["t2m"].attrs))
        resize(len(before) + 2**18)
        with pytest.raises(StforecastError, match=r"disk is full: .*forecast\.nc was not written .* free in") as caught:
            write_forecast(large, path)
        assert caught.value.kind == ErrorKind.DISK_FULL
        assert [entry.name for entry in path.parent.iterdir()] == ["forecast.nc"]
        assert path.read_bytes() == before


def test_a_written_forecast_keeps_the_rules_of_cf(tmp_path: Path) -> None:
    """The rules of CF 1.11 that a forecast can break, told from the bare file."""
    series = make_series(12, levels=(850.0, 500.0), variables=("t", "z"))
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[:8], horizon=2)
    ranged = forecast.assign(t=forecast["t"].assign_attrs(actual_range=[0.0, 1.0]))
    with xr.open_dataset(write_forecast(ranged, tmp_path / "forecast.nc"), decode_cf=False) as raw:
        assert raw.attrs["Conventions"] == "CF-1.11"  # 2.6.1
        for name, variable in raw.variables.items():
            assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", str(name))  # 2.3
            if name in raw.dims:
                assert variable.ndim == 1  # 1.3: a coordinate variable is one-dimensional and strictly monotonic
                assert "_FillValue" not in variable.attrs  # 2.5.1: and has no missing data
                apart = np.diff(variable.to_numpy())
                assert (apart > 0).all() or (apart < 0).all()
        for name in ("t", "z"):
            assert raw[name].attrs["units"] == "K"  # 3.1
            assert "actual_range" not in raw[name].attrs  # 2.5.1: it was that of the source
            assert raw[name].attrs["coordinates"].split() == ["valid_time"]  # 5: auxiliary coordinates
            assert set(raw["valid_time"].dims) <= set(raw[name].dims)
        assert raw["latitude"].attrs["units"] == "degrees_north"  # 4.1
        assert raw["longitude"].attrs["units"] == "degrees_east"  # 4.2
        assert raw["level"].attrs["units"] == "hPa"  # 4.3
        for name, standard_name in (("init_time", "forecast_reference_time"), ("valid_time", "time")):
            assert raw[name].attrs["standard_name"] == standard_name
            assert raw[name].attrs["units"] == "seconds since 1970-01-01"  # 4.4
            assert raw[name].attrs["calendar"] == "proleptic_gregorian"  # 4.4.1
        assert raw["lead_time"].attrs["units"] == "seconds"
        assert raw["lead_time"].attrs["standard_name"] == "forecast_period"
    assert "actual_range" in ranged["t"].attrs


def test_c17_what_is_no_forecast_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="coordinates init_time"):
        write_forecast(make_series(), tmp_path / "forecast.nc")
    forecast = make_forecast(make_series())
    late = forecast.assign_coords(valid_time=forecast["valid_time"] + np.timedelta64(6, "h"))
    for name in ("forecast.nc", "forecast.zarr"):
        with pytest.raises(StforecastError, match=r"valid_time is 2016-01-01T12:00 where init_time \+ lead_time is"):
            write_forecast(late, tmp_path / name)
    with pytest.raises(StforecastError, match="should end in .nc"):
        write_forecast(make_forecast(make_series()), tmp_path / "forecast.txt")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_forecast_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="there is no forecast at"):
        open_forecast(tmp_path / "forecast.nc")
    (tmp_path / "forecast.nc").write_text("<html>")
    with pytest.raises(StforecastError, match="is neither netCDF nor Zarr"):
        open_forecast(tmp_path / "forecast.nc")
