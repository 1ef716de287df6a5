"""Spectra: waves stand at their true length, and their powers add up to the variance."""

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series

from stforecast import baselines
from stforecast.baselines import Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.verification import spectrum


@pytest.mark.parametrize("columns", [12, 13])
def test_powers_of_a_row_add_up_to_its_variance(columns: int) -> None:
    series = make_series(20, shape=(5, columns))
    result = spectrum(series)
    assert result["t2m"].dims == ("latitude", "wavenumber")
    expected = series["t2m"].astype(float).var("longitude").mean("time")
    np.testing.assert_allclose(result["t2m"].sum("wavenumber"), expected)
    assert result["t2m"].attrs["units"] == "(K)2"
    assert (result.attrs["frames"], result.attrs["trend"]) == (20, "none")


def test_a_wave_stands_at_its_length_on_earth() -> None:
    series = make_series(4, shape=(5, 36))
    wave = 3 * np.cos(np.deg2rad(4 * series["longitude"]) + series["latitude"])
    series["t2m"] = (280 + wave + 0 * series["t2m"]).transpose(*series["t2m"].dims).assign_attrs(units="K")
    result = spectrum(series)["t2m"]
    np.testing.assert_allclose(result.sel(wavenumber=4), 4.5)
    np.testing.assert_allclose(result.drop_sel(wavenumber=4), 0, atol=1e-9)
    length = result["wavelength"].sel(wavenumber=4)
    np.testing.assert_allclose(length, 40030.17 * np.cos(np.deg2rad(series["latitude"])) / 4, rtol=1e-6)
    assert length.attrs["units"] == "km"


def test_a_region_is_freed_of_the_line_between_its_ends() -> None:
    series = make_series(4, shape=(5, 36)).isel(longitude=slice(0, 12))
    line = 280 + 0.5 * series["longitude"] + 0 * series["t2m"]
    series["t2m"] = line.transpose(*series["t2m"].dims).assign_attrs(units="K")
    result = spectrum(series)
    np.testing.assert_allclose(result["t2m"], 0, atol=1e-9)
    np.testing.assert_allclose(
        result["wavelength"].sel(wavenumber=1), 40030.17 / 3 * np.cos(np.deg2rad(series["latitude"])), rtol=1e-6
    )
    assert result.attrs["trend"] == "the line between the ends is taken off"


def test_lead_times_and_levels_are_kept_and_blocks_combine(monkeypatch: pytest.MonkeyPatch) -> None:
    series = make_series(60, levels=(850.0, 500.0))
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[10:50], horizon=3)
    forecast["t2m"][:, 2, :, 1] = np.nan
    whole = spectrum(forecast)
    assert whole["t2m"].dims == ("lead_time", "level", "latitude", "wavenumber")
    assert whole["t2m"].isnull().sum() == 2 * 3  # two levels, three waves
    expected = spectrum(series.isel(time=slice(10, 50)))["t2m"]
    np.testing.assert_allclose(whole["t2m"].isel(lead_time=0), expected)
    monkeypatch.setattr(baselines, "BLOCK_BYTES", 5 * 3 * 2 * 24 * 8)
    xr.testing.assert_allclose(spectrum(forecast.chunk(init_time=7)), whole)


def test_a_row_with_a_missing_cell_has_no_part() -> None:
    series = make_series(10)
    holed = series.copy(deep=True)
    holed["t2m"][3, 1, 2] = np.nan
    others = series.isel(time=[row for row in range(10) if row != 3])
    np.testing.assert_allclose(spectrum(holed)["t2m"][1], spectrum(others)["t2m"][1])
    np.testing.assert_allclose(spectrum(holed)["t2m"][2], spectrum(series)["t2m"][2])


def test_a_smoothed_field_lacks_short_waves() -> None:
    series = make_series(20, shape=(6, 32))
    blurred = (series.roll(longitude=1) + series + series.roll(longitude=-1)) / 3
    ratio = spectrum(blurred)["t2m"] / spectrum(series)["t2m"]
    assert (ratio.isel(wavenumber=0) > 0.97).all()
    assert (ratio.isel(wavenumber=slice(8, 12)) < 0.2).all()


def test_waves_of_a_city_are_counted_in_cells() -> None:
    result = spectrum(make_city(20, shape=(5, 8)))
    assert result["wavelength"].attrs["units"] == "cells"
    np.testing.assert_array_equal(result["wavelength"][0], [8, 4, 8 / 3, 2])
    assert result["inflow"].attrs["units"] == "1"


@pytest.mark.parametrize("columns", [[0, 1, 3, 4], [2]])
def test_columns_that_hold_no_wave_are_refused(columns: list[int]) -> None:
    with pytest.raises(StforecastError, match="two or more evenly spaced columns") as error:
        spectrum(make_series(4).isel(longitude=columns))
    assert error.value.kind == ErrorKind.GRID_SHAPE
