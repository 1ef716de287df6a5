"""What others compute of our forecasts: scores, cf_xarray, climpred, and the rules of WeatherBench 2's layout."""

import json
import warnings
from pathlib import Path
from xml.etree import ElementTree

import cf_xarray  # noqa: F401  # registers the accessor
import numpy as np
import pytest
import scores
import xarray as xr
from factory import make_city, make_series

import stforecast as stf
from stforecast.baselines import Persistence
from stforecast.errors import ErrorKind, StforecastError
from stforecast.forecasts import open_forecast, write_forecast
from stforecast.grid import Grid
from stforecast.interchange import to_weatherbench2
from stforecast.sources import era5

SERIES = make_series(68, shape=(6, 8), levels=(850.0, 500.0), variables=("t", "z"), descending=True)
INITS = SERIES["time"].to_numpy()[40:60]
FORECAST = Persistence().predict(SERIES, init_times=INITS, horizon=3)


def check_weatherbench2(dataset: xr.Dataset) -> None:
    """The rules of the layout, after WeatherBench 2's schema, its stores and its init-time convention."""
    for name, variable in dataset.data_vars.items():
        order = ("time", "prediction_timedelta", "number", "level", "latitude", "longitude")
        assert variable.dims == tuple(dim for dim in order if dim in variable.dims), name
        assert {"time", "prediction_timedelta", "latitude", "longitude"} <= set(variable.dims)
        assert name in era5.SHORT_NAMES
        assert np.issubdtype(variable.dtype, np.floating)
    assert np.issubdtype(dataset["time"].dtype, np.datetime64)
    assert np.issubdtype(dataset["prediction_timedelta"].dtype, np.timedelta64)
    for name in ("time", "prediction_timedelta", "latitude", "longitude"):
        assert (np.diff(dataset[name].to_numpy()) > np.zeros(1, np.diff(dataset[name].to_numpy()).dtype)).all()
    assert dataset["latitude"].min() >= -90
    assert dataset["latitude"].max() <= 90
    assert dataset["longitude"].min() >= 0
    assert dataset["longitude"].max() < 360
    if "level" in dataset.dims:
        assert np.issubdtype(dataset["level"].dtype, np.integer)
        assert dataset["level"].attrs["units"] == "hPa"
    # The evaluation renames time to init_time and makes the others out of it.
    assert not {"init_time", "lead_time", "valid_time"} & set(dataset.variables)


@pytest.mark.parametrize("west", [0.0, -180.0])
@pytest.mark.parametrize("descending", [False, True])
def test_the_layout_keeps_the_rules_and_every_value(west: float, descending: bool) -> None:
    series = make_series(40, shape=(6, 8), variables=("t2m", "msl"), descending=descending)
    series = series.assign_coords(longitude=(series["longitude"] + west).assign_attrs(units="degrees_east"))
    series = series.rename(latitude="lat", longitude="lon")
    forecast = Persistence().predict(series, init_times=series["time"].to_numpy()[10:20], horizon=3)
    result = to_weatherbench2(forecast)
    check_weatherbench2(result)
    assert list(result.data_vars) == ["2m_temperature", "mean_sea_level_pressure"]
    at = {"latitude": 36.0, "longitude": 270.0}
    expected = forecast["t2m"].sel(lat=36.0, lon=270.0 if west == 0 else -90.0)
    np.testing.assert_array_equal(result["2m_temperature"].sel(at), expected)
    assert result["2m_temperature"].attrs["units"] == "K"
    np.testing.assert_array_equal(result["time"], forecast["init_time"])
    np.testing.assert_array_equal(result["prediction_timedelta"], forecast["lead_time"])


def test_levels_and_members_stand_where_weatherbench2_has_them() -> None:
    ensemble = FORECAST.expand_dims(member=[0, 1], axis=-1)
    result = to_weatherbench2(ensemble)
    check_weatherbench2(result)
    assert result["temperature"].dims == (
        "time",
        "prediction_timedelta",
        "number",
        "level",
        "latitude",
        "longitude",
    )
    assert result["level"].to_numpy().tolist() == [850, 500]
    assert set(result.data_vars) == {"temperature", "geopotential"}


def test_a_lazy_forecast_stays_lazy() -> None:
    assert to_weatherbench2(FORECAST.chunk(init_time=5))["temperature"].chunks is not None


def test_the_layout_comes_back_from_a_zarr_store(tmp_path: Path) -> None:
    own = write_forecast(FORECAST, tmp_path / "own.zarr")  # in Zarr's format 3
    result = to_weatherbench2(open_forecast(own).load())
    result.to_zarr(tmp_path / "forecast.zarr", zarr_format=2, consolidated=True)
    with xr.open_zarr(tmp_path / "forecast.zarr", decode_timedelta=True) as opened:
        check_weatherbench2(opened)
        xr.testing.assert_identical(opened.compute(), result)


@pytest.mark.parametrize(
    ("forecast", "kind", "match"),
    [
        (
            Persistence().predict(make_city(60), horizon=2),
            ErrorKind.DIMS,
            "WeatherBench 2 has latitudes and longitudes, the forecast is on the plane 5x4",
        ),
        (
            FORECAST.assign_coords(
                level=("level", [85000.0, 50000.0], {"units": "Pa", "standard_name": "air_pressure"})
            ),
            ErrorKind.UNITS,
            r"levels are \[85000.0, 50000.0\] in 'Pa', where whole hPa are wanted",
        ),
        (FORECAST.assign(temperature=FORECAST["t"]), ErrorKind.ARGUMENT, "two variables would have the same long name"),
        (SERIES, ErrorKind.DIMS, "a forecast has the coordinates init_time"),
    ],
    ids=["plane", "pascals", "names", "series"],
)
def test_what_has_no_such_layout_is_refused(forecast: xr.Dataset, kind: ErrorKind, match: str) -> None:
    with pytest.raises(StforecastError, match=match) as error:
        to_weatherbench2(forecast)
    assert error.value.kind == kind


def test_scores_computes_the_same_errors_from_the_forecast_by_itself() -> None:
    ours = stf.evaluate(FORECAST, SERIES)
    truth = SERIES.sel(time=FORECAST["valid_time"])  # (init_time, lead_time, level, latitude, longitude)
    area = Grid.of(SERIES).cell_area()
    for name in ("t", "z"):
        for metric, function in (("rmse", scores.continuous.rmse), ("mae", scores.continuous.mae)):
            theirs = function(
                FORECAST[name].astype(float),
                truth[name].astype(float),
                preserve_dims=["lead_time", "level"],
                weights=area,
            )
            np.testing.assert_allclose(ours[name].sel(source="forecast", metric=metric), theirs, rtol=1e-6)


def test_cf_xarray_reads_the_axes_of_a_forecast(tmp_path: Path) -> None:
    path = write_forecast(FORECAST, tmp_path / "forecast.nc")
    with xr.open_dataset(path, decode_timedelta=True) as opened:
        named = opened.cf.standard_names
        assert named["forecast_reference_time"] == ["init_time"]
        assert named["forecast_period"] == ["lead_time"]
        assert named["time"] == ["valid_time"]
        assert opened.cf["latitude"].name == "latitude"
        assert opened.cf["longitude"].name == "longitude"
        assert opened.cf["forecast_reference_time"].equals(FORECAST["init_time"])
        assert opened["t"].cf["longitude"].size == 8
    other = to_weatherbench2(FORECAST)
    assert other.cf["forecast_reference_time"].name == "time"
    assert other.cf["forecast_period"].name == "prediction_timedelta"


def test_climpred_reads_the_layout_as_it_is_and_finds_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object) -> None:
        raise ElementTree.ParseError("no network")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is no longer maintained, and says what it renames
        climpred = pytest.importorskip("climpred", reason="climpred is not installed: pip install climpred")
        # It would fetch the table of standard names from the network.
        monkeypatch.setattr("cf_xarray.accessor.parse_cf_standard_name_table", refuse)
        observed = SERIES.rename(t="temperature")[["temperature"]]
        ensemble = climpred.HindcastEnsemble(to_weatherbench2(FORECAST)[["temperature"]]).add_observations(observed)
        verified = ensemble.verify(metric="mse", comparison="e2o", dim="init", alignment="maximize")["temperature"]
    theirs = np.sqrt(verified.weighted(Grid.of(SERIES).cell_area()).mean(["latitude", "longitude"]))
    ours = stf.evaluate(FORECAST, SERIES)["t"].sel(source="forecast", metric="rmse")
    np.testing.assert_allclose(theirs.transpose("lead", "level"), ours, rtol=1e-6)


def test_the_compliance_checker_finds_no_error_in_a_written_forecast(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = pytest.importorskip(
            "compliance_checker.runner", reason="compliance-checker is not installed: pip install compliance-checker"
        )
        runner.CheckSuite.load_all_available_checkers()
        named = FORECAST.copy()
        named["level"].attrs["standard_name"] = "air_pressure"
        path = write_forecast(named, tmp_path / "forecast.nc")
        _, failed = runner.ComplianceChecker.run_checker(
            str(path), ["cf:1.11"], 0, "lenient", output_filename=str(tmp_path / "report.json"), output_format="json"
        )
    assert not failed
    report = json.loads((tmp_path / "report.json").read_text())["cf:1.11"]
    faults = {one["name"]: one["msgs"] for one in report["high_priorities"] if one["msgs"]}
    assert not faults
