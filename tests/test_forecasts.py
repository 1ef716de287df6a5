from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_series
from test_grid import make_forecast

from stforecast.errors import StforecastError
from stforecast.forecasts import open_forecast, write_forecast


def test_a_forecast_comes_back_as_it_was_written(tmp_path: Path) -> None:
    forecast = make_forecast(make_series())
    path = write_forecast(forecast, tmp_path / "deep" / "forecast.nc")
    with open_forecast(path) as opened:
        xr.testing.assert_equal(opened.compute(), forecast)
        assert opened["valid_time"].attrs["standard_name"] == "time"
        assert opened["lead_time"].dtype == np.dtype("timedelta64[ns]")
    assert [entry.name for entry in path.parent.iterdir()] == ["forecast.nc"]


def test_writing_again_replaces_the_file_whole(tmp_path: Path) -> None:
    forecast = make_forecast(make_series())
    write_forecast(forecast, tmp_path / "forecast.nc")
    warmer = forecast.assign(t2m=(forecast["t2m"] + 1).assign_attrs(forecast["t2m"].attrs))
    write_forecast(warmer, tmp_path / "forecast.nc")
    with open_forecast(tmp_path / "forecast.nc") as opened:
        xr.testing.assert_equal(opened.compute(), warmer)


def test_what_is_no_forecast_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="coordinates init_time"):
        write_forecast(make_series(), tmp_path / "forecast.nc")
    with pytest.raises(StforecastError, match="should end in .nc"):
        write_forecast(make_forecast(make_series()), tmp_path / "forecast.txt")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_forecast_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match="there is no forecast at"):
        open_forecast(tmp_path / "forecast.nc")
    (tmp_path / "forecast.nc").write_text("<html>")
    with pytest.raises(StforecastError, match="is not a netCDF file"):
        open_forecast(tmp_path / "forecast.nc")
