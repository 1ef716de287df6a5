"""The models that come with the package, on data that look like theirs, and on theirs where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from real_data import REAL_DATA, needs_real_data

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecaster import Forecaster
from stforecast.pretrained import packaged_model

FOLDER = Path(stf.__file__).parent / "pretrained_models"
NAMES = {"new-york-taxi", "north-america-air", "north-atlantic-pressure"}


def like_the_data_of(forecaster: Forecaster, frames: int = 12) -> xr.Dataset:
    """Frames in the model's own terms, about the mean of its training period."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2015-02-02", "ns") + np.arange(frames) * forecaster.step
    zone = {"time_zone": forecaster.shape.columns.time_zone} if forecaster.shape.columns is not None else {}
    coords = {
        "time": ("time", time, zone),
        "lat": ("lat", forecaster.grid.y, {"units": "degrees_north"}),
        "lon": ("lon", forecaster.grid.x, {"units": "degrees_east"}),
    }
    if not forecaster.grid.is_geographic:
        coords |= {"lat": ("lat", forecaster.grid.y, {"axis": "Y"}), "lon": ("lon", forecaster.grid.x, {"axis": "X"})}
        coords = {{"lat": "row", "lon": "column"}.get(name, name): value for name, value in coords.items()}
        coords = {name: ((name,), *value[1:]) for name, value in coords.items()}
    y, x = list(coords)[1:]
    data = {}
    for item in forecaster.channels.variables:
        scaling = forecaster.normalization.variables[item.name]
        noise = 0.3 * rng.standard_normal((frames, *forecaster.grid.shape)).cumsum(0) / np.sqrt(frames)
        values = (scaling.location + scaling.scale * noise).clip(*item.limits)
        data[item.name] = (("time", y, x), values, {"units": item.units})
    return xr.Dataset(data, coords)


def test_there_are_three() -> None:
    assert set(stf.packaged_models()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_packaged_model_is_small_whole_and_told_of(name: str) -> None:
    assert sum(file.stat().st_size for file in (FOLDER / name).iterdir()) <= 10e6
    card = (FOLDER / name / "README.md").read_text()
    for what in ("**Wants**", "**Data**", "**Split**", "**Fitted**", "**Limits**", "persistence", "lead time"):
        assert what in card
    forecaster = packaged_model(name)
    assert forecaster.envelope is not None
    assert str(forecaster) in card


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_dataset_finds_its_model(name: str) -> None:
    forecaster = packaged_model(name)
    dataset = like_the_data_of(forecaster)
    forecast = stf.predict(dataset)
    assert f"weights {forecaster.weights_hash()[:12]}" in forecast.attrs["source"]
    assert forecast.sizes["lead_time"] == forecaster.horizon
    assert set(forecast.data_vars) == set(forecaster.channels.names)
    for variable in forecast.data_vars:
        assert forecast[variable].dtype == dataset[variable].dtype == np.float64
    xr.testing.assert_identical(forecast, stf.predict(dataset, name))


def test_names_units_and_regions_are_the_callers() -> None:
    air = like_the_data_of(packaged_model("north-america-air"))
    expected = stf.predict(air)["air"]
    wider = air.pad(lon=2, mode="edge").assign_coords(lon=("lon", 195.0 + 2.5 * np.arange(57), air["lon"].attrs))
    west = wider.assign_coords(lon=wider["lon"] - 360).isel(lat=slice(None, None, -1))
    west["lon"].attrs = dict(air["lon"].attrs)
    kelvin = west.rename(air="t2m", lat="latitude", lon="longitude", time="valid_time")
    celsius = kelvin.assign(t2m=(kelvin["t2m"] - 273.15).assign_attrs(units="degC"))
    forecast = stf.predict(celsius.chunk(valid_time=3))["t2m"]
    assert forecast.dims == ("init_time", "lead_time", "latitude", "longitude")
    assert forecast.attrs["units"] == "degC"
    np.testing.assert_allclose(forecast["longitude"], air["lon"] - 360)
    np.testing.assert_allclose(forecast[..., ::-1, :] + 273.15, expected, atol=1e-4)


def test_each_model_says_why_it_does_not_fit() -> None:
    air = like_the_data_of(packaged_model("north-america-air"))
    with pytest.raises(StforecastError) as caught:
        stf.predict(air.isel(lat=slice(3, None)))
    said = str(caught.value)
    assert caught.value.kind == ErrorKind.ARGUMENT
    assert "new-york-taxi: the model wants inflow, outflow but the series lacks inflow; it has air" in said
    assert "north-america-air: wanted the grid 25x53 (latitude 75..15 by -2.5" in said
    assert "north-atlantic-pressure: the model wants slp but the series lacks slp" in said
    with pytest.raises(StforecastError, match="north-america-air: the model steps by 6 h but the series by 12 h"):
        stf.predict(air.isel(time=slice(None, None, 2)))
    with pytest.raises(StforecastError, match="north-america-air: the model needs 6 frames up to init time"):
        stf.predict(air.isel(time=slice(4)))


@needs_real_data
def test_the_tutorial_data_set_is_forecast_better_than_by_persistence() -> None:
    # The same values and labels as xarray.tutorial.open_dataset("air_temperature"), which needs the network.
    dataset = xr.open_mfdataset(sorted((REAL_DATA / "ncep_air").glob("*.nc")), data_vars="all")
    init_times = dataset["time"].to_numpy()[2500:2900:20]
    forecast = stf.predict(dataset, init_times=init_times, interval=0.9).compute()
    assert forecast["air"].attrs["units"] == "degK"
    scores = stf.evaluate(forecast, dataset, reference=["persistence"])["air"].sel(metric="rmse")
    assert (scores.sel(source="forecast") < 0.85 * scores.sel(source="persistence")).all()
    covered = stf.verification.coverage(forecast, dataset)["air"].sel(measure="coverage")
    assert ((covered > 0.85) & (covered < 0.95)).all(), covered.to_numpy()
