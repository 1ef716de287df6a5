"""WeatherBench 2's zarr: long names, longitude first, local or behind a URL; forecasts are told from series."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from factory import make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.sources import infer_source, open_dataset
from stforecast.sources.raw_files import locate
from stforecast.sources.zarr_stores import absent_chunks


def make_era5(frames: int = 7) -> xr.Dataset:
    """A series under ERA5's long names, with a static field, in the order of a series."""
    surface, levels = make_series(frames), make_series(frames, levels=(500, 850))
    era5 = xr.Dataset({"2m_temperature": surface["t2m"], "temperature": levels["t2m"]})
    return era5.assign(
        land_sea_mask=(("latitude", "longitude"), np.linspace(0, 1, 24).reshape(4, 6), {"units": "(0 - 1)"})
    )


def write(era5: xr.Dataset, location: Path | str, *, turned: bool = True) -> Path | str:
    """As WeatherBench 2 writes it: longitude before latitude, zarr 2, consolidated."""
    order = ("time", "prediction_timedelta", "level", "longitude", "latitude")
    stored = era5.transpose(*order, missing_dims="ignore") if turned else era5
    stored.to_zarr(location, zarr_format=2, consolidated=True)
    return location


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of an empty place that fsspec keeps in memory."""
    yield "memory://weatherbench2"
    fsspec.filesystem("memory").rm("/weatherbench2", recursive=True)


def refused(kind: ErrorKind, message: str, path: Path | str, **options: object) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        open_dataset(path, **options)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def test_i09_longitude_first_comes_back_in_the_order_of_a_series(tmp_path: Path) -> None:
    era5 = make_era5()
    series = open_dataset(write(era5, tmp_path / "era5.zarr"))
    assert infer_source(tmp_path / "era5.zarr") == "weatherbench2"
    xr.testing.assert_identical(series.compute(), era5.drop_vars("land_sea_mask"))
    assert all(variable.chunks is not None for variable in series.data_vars.values())


@pytest.mark.parametrize("names", [["2m_temperature"], ["t2m"], ["t2m", "2m_temperature"]])
def test_variables_are_chosen_by_long_or_short_names(tmp_path: Path, names: list[str]) -> None:
    era5 = make_era5()
    series = open_dataset(write(era5, tmp_path / "era5.zarr"), variables=names)
    xr.testing.assert_identical(series.compute(), era5[["2m_temperature"]])


def test_levels_and_a_period_are_chosen(tmp_path: Path) -> None:
    era5 = make_era5(12)
    write(era5, tmp_path / "era5.zarr")
    series = open_dataset(tmp_path / "era5.zarr", variables=["t"], levels=[850], period=("2016-01-02", "2016-01-02"))
    xr.testing.assert_identical(series.compute(), era5[["temperature"]].sel(level=[850], time="2016-01-02"))


@pytest.mark.parametrize("name", ["land_sea_mask", "lsm"])
def test_static_fields_are_coordinates_with_units(tmp_path: Path, name: str) -> None:
    era5 = make_era5()
    series = open_dataset(write(era5, tmp_path / "era5.zarr"), static=[name])
    xr.testing.assert_equal(series["land_sea_mask"].variable, era5["land_sea_mask"].astype(np.float32).variable)
    assert series["land_sea_mask"].attrs["units"] == "(0 - 1)"
    assert set(series.data_vars) == {"2m_temperature", "temperature"}
    refused(
        ErrorKind.VAR_MISSING,
        "no static field slope; there are land_sea_mask",
        tmp_path / "era5.zarr",
        static=["slope"],
    )


def test_units_that_regridding_has_lost_are_those_of_era5(tmp_path: Path) -> None:
    bare = make_era5().drop_attrs()
    series = open_dataset(write(bare, tmp_path / "era5.zarr"), static=["lsm"])
    assert series["2m_temperature"].attrs["units"] == "K"
    assert series["land_sea_mask"].attrs["units"] == "1"
    assert series["level"].attrs["units"] == "hPa"
    assert Grid.of(series).is_geographic
    unknown = bare[["2m_temperature"]].rename({"2m_temperature": "rain_of_frogs"}).assign(t=bare["2m_temperature"])
    write(unknown, tmp_path / "other.zarr")
    refused(ErrorKind.UNITS, "rain_of_frogs has no units", tmp_path / "other.zarr", source="weatherbench2")


# --- Forecasts


def make_forecast() -> xr.Dataset:
    leads = np.arange(0, 18, 6).astype("timedelta64[h]").astype("timedelta64[ns]")
    return make_era5().expand_dims(prediction_timedelta=leads, axis=1).drop_vars("land_sea_mask")


def test_a_forecast_is_told_from_a_series(tmp_path: Path) -> None:
    write(make_forecast(), tmp_path / "hres.zarr")
    message = (
        r"hres\.zarr: this is a forecast, not a series: it has 3 leads along prediction_timedelta; .*take one lead"
    )
    refused(ErrorKind.DIMS, message, tmp_path / "hres.zarr")


@pytest.mark.parametrize("units", [None, "1", "K"])
def test_leads_that_are_plain_integers_are_named(tmp_path: Path, units: str | None) -> None:
    attrs = {} if units is None else {"units": units}
    numbers = make_forecast().assign_coords(prediction_timedelta=("prediction_timedelta", [0, 6, 12], attrs))
    write(numbers, tmp_path / "hres.zarr")
    message = r"the lead prediction_timedelta is plain numbers \(0, 6, 12, …\) without units.*numpy\.timedelta64"
    refused(ErrorKind.TIME_UNITS, message, tmp_path / "hres.zarr")


def test_one_lead_of_a_forecast_is_a_series(tmp_path: Path) -> None:
    forecast = make_forecast().isel(prediction_timedelta=[1])
    series = open_dataset(write(forecast, tmp_path / "hres.zarr"))
    xr.testing.assert_equal(series.compute(), forecast.isel(prediction_timedelta=0, drop=True))


def test_our_own_forecasts_are_no_series_either(tmp_path: Path) -> None:
    forecast = make_forecast()[["2m_temperature"]].rename(time="init_time", prediction_timedelta="lead_time")
    forecast.to_netcdf(tmp_path / "forecast.nc")
    refused(
        ErrorKind.DIMS, "this is a forecast, not a series: it has 3 leads along lead_time", tmp_path / "forecast.nc"
    )


# --- Elsewhere


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("is_consolidated", [True, False])
def test_a_store_behind_a_url_is_the_store(memory: str, zarr_format: int, is_consolidated: bool) -> None:
    era5 = make_era5()
    era5.transpose(..., "longitude", "latitude").to_zarr(
        f"{memory}/era5.zarr", zarr_format=zarr_format, consolidated=is_consolidated
    )
    series = open_dataset(f"{memory}/era5.zarr", variables=["t2m"])
    xr.testing.assert_identical(series.compute(), era5[["2m_temperature"]])


def test_any_cf_store_behind_a_url_is_read(memory: str) -> None:
    series = make_series(5)
    series.to_zarr(f"{memory}/plain.zarr", zarr_format=2)
    xr.testing.assert_identical(open_dataset(f"{memory}/plain.zarr").compute(), series)


def test_a_file_url_is_this_machine(tmp_path: Path) -> None:
    make_series(5).to_netcdf(tmp_path / "a.nc")
    assert open_dataset(f"file://{tmp_path}/a.nc").sizes["time"] == 5


def test_a_path_that_looks_like_a_url_is_a_path() -> None:
    assert locate(Path("gs://x")) == Path("gs:/x")
    assert locate("C:data") == Path("C:data")
    assert locate("gs://x/y.zarr") == "gs://x/y.zarr"


@pytest.mark.parametrize(("url", "package"), [("gs://bucket/era5.zarr", "gcsfs"), ("s3://bucket/era5.zarr", "s3fs")])
def test_a_package_that_is_missing_is_named(url: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed, and tests do without the network")
    refused(ErrorKind.ARGUMENT, rf"{url} is read by the package {package}; install it: pip install {package}", url)


def test_urls_that_lead_nowhere_are_named(memory: str) -> None:
    make_series(3).to_zarr(f"{memory}/there.zarr", zarr_format=2)
    refused(ErrorKind.FILE_MISSING, f"{memory}/era5.zarr: there is no zarr group", f"{memory}/era5.zarr")
    refused(ErrorKind.ARGUMENT, "nothing reads 'teapot://'; wanted gs://", "teapot://x/era5.zarr")
    refused(ErrorKind.ARGUMENT, "joins protocols", f"simplecache::{memory}/there.zarr")
    message = f"source 'taxibj' is read from this machine; fetch {memory}/there.zarr first"
    refused(ErrorKind.ARGUMENT, message, f"{memory}/there.zarr", source="taxibj")


def test_what_is_no_store_is_no_weatherbench2(tmp_path: Path) -> None:
    make_series(5).to_netcdf(tmp_path / "a.nc")
    refused(ErrorKind.FILE_FORMAT, r"a\.nc is no zarr store", tmp_path / "a.nc", source="weatherbench2")


# --- Stores that are more than numbers


def test_k08_a_codec_of_python_objects_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    write(make_era5(), store)
    for name, change in (
        ("temperature", {"filters": [{"id": "pickle", "protocol": 4}]}),
        ("temperature", {"compressor": {"id": "base64"}}),
        ("temperature", {"dtype": "|O"}),
        ("temperature", {"filters": [{"id": "base64"}]}),
    ):
        described = json.loads((store / name / ".zarray").read_text())
        (store / name / ".zarray").write_text(json.dumps(described | change))
        with pytest.raises(StforecastError, match=r"a\.zarr") as caught:
            open_dataset(store)
        assert caught.value.kind == ErrorKind.FILE_UNSAFE_ZARR
        (store / name / ".zarray").write_text(json.dumps(described))
    open_dataset(store).load()


def test_k08_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    structured = np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("pairs", data=structured)
    refused(ErrorKind.FILE_UNSAFE_ZARR, r"a\.zarr: pairs holds .* values, wanted plain numbers", tmp_path / "a.zarr")


def test_k06_a_chunk_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("t2m", shape=(10**5, 10**3, 10**3), chunks=(10**4, 10**3, 10**3), dtype="f4")
    refused(ErrorKind.FILE_TOO_LARGE, r"a\.zarr: t2m declares chunks of 40000000000 bytes", tmp_path / "a.zarr")


def test_codecs_of_plain_numbers_are_let_through(tmp_path: Path) -> None:
    series = make_series(6)
    codecs = [zarr.codecs.ZstdCodec(level=1, checksum=True)]
    encoding = {"t2m": {"chunks": (2, 4, 6), "shards": (4, 4, 6), "compressors": codecs}}
    series.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    xr.testing.assert_identical(open_dataset(tmp_path / "a.zarr").compute(), series)


def test_chunks_that_no_file_stands_for_are_counted(tmp_path: Path) -> None:
    series = make_series(6)
    series.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False, encoding={"t2m": {"chunks": (2, 4, 6)}})
    assert absent_chunks(tmp_path / "a.zarr") == {}
    (tmp_path / "a.zarr" / "t2m" / "1.0.0").unlink()
    assert absent_chunks(tmp_path / "a.zarr") == {"t2m": (1, 3)}
