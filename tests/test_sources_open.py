"""One door for all layouts: told from the content or named, arguments checked before anything is read."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import check_series
from stforecast.sources import open_dataset
from stforecast.sources.sample import write_sample
from stforecast.split import Split
from stforecast.store import prepare


def refused(message: str, path: Path, **options: object) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        open_dataset(path, **options)
    assert caught.value.kind == ErrorKind.ARGUMENT


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_sample("weather", folder / "weather", years=1, step_hours=24)
    write_sample("traffic", folder / "traffic", days=2)
    make_series(6).to_netcdf(folder / "plain.nc")
    return folder


@pytest.mark.parametrize(
    ("path", "variables"),
    [
        ("weather", {"t2m", "z"}),
        ("weather/2m_temperature", {"t2m"}),
        ("weather/2m_temperature/2m_temperature_2016_5.625deg.nc", {"t2m"}),
        ("weather/*/*_2016_*.nc", {"t2m", "z"}),
        ("traffic", {"inflow", "outflow"}),
        ("traffic/BJ13_M32x32_T30_InOut.h5", {"inflow", "outflow"}),
        ("traffic/BJ1?_*.h5", {"inflow", "outflow"}),
        ("plain.nc", {"t2m"}),
    ],
)
def test_the_layout_is_told_from_the_content(samples: Path, path: str, variables: set[str]) -> None:
    series = open_dataset(samples / path)
    assert set(series) == variables
    check_series(series, allow_gaps=True)
    assert all(variable.dtype == np.float32 for variable in series.data_vars.values())
    assert all(not variable.encoding for variable in series.variables.values())


def test_names_do_not_tell_the_layout(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "counts.nc").write_bytes((samples / "traffic" / "BJ13_M32x32_T30_InOut.h5").read_bytes())
    assert set(open_dataset(tmp_path / "counts.nc")) == {"inflow", "outflow"}
    (tmp_path / "weather.h5").write_bytes((samples / "plain.nc").read_bytes())
    assert set(open_dataset(str(tmp_path / "weather.h5"))) == {"t2m"}


def test_a_named_source_is_used(samples: Path) -> None:
    xr.testing.assert_identical(
        open_dataset(samples / "weather" / "2m_temperature", source="cf").compute(),
        open_dataset(samples / "weather", source="weatherbench", variables=["t2m"]).compute(),
    )


def test_a_city_grid_in_netcdf_stays_one(tmp_path: Path) -> None:
    city = make_city(10)
    city.to_netcdf(tmp_path / "city.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "city.nc").compute(), city)


def test_an_unknown_source_is_answered_with_the_known(samples: Path) -> None:
    refused(
        "unknown source 'era5'; there are taxibj, weatherbench, weatherbench2, grib, cf",
        samples / "plain.nc",
        source="era5",
    )


def test_arguments_without_use_are_refused(samples: Path) -> None:
    refused("'cf' has no use for bounds", samples / "plain.nc", bounds=(0, 1, 0, 1))
    refused("'weatherbench' has no use for time_zone='UTC'", samples / "weather", time_zone="UTC")
    refused(r"'taxibj' has no use for levels=\[500\]", samples / "traffic", levels=[500])


@pytest.mark.parametrize("bounds", [(41, 40, -74, -73), (40, 41, -73, -74), (40, 91, 0, 1), (float("nan"), 41, 0, 1)])
def test_bounds_must_increase_and_be_on_earth(samples: Path, bounds: tuple[float, ...]) -> None:
    refused(r"bounds are \(south, north, west, east\)", samples / "traffic", bounds=bounds)


@pytest.mark.parametrize("time_zone", ["America/Gotham", "../etc", "", "America"])
def test_a_time_zone_is_an_iana_name(samples: Path, time_zone: str) -> None:
    refused("unknown time zone '.*', wanted an IANA name", samples / "traffic", time_zone=time_zone)


def test_a_prepared_store_is_no_raw_data(tmp_path: Path) -> None:
    series = make_series(40)
    prepare(series, tmp_path / "s.zarr", Split.by_fraction(series["time"].to_numpy()))
    refused("is a store that stforecast prepared, of normalized values; open it with open_store", tmp_path / "s.zarr")


def test_variables_are_a_list_of_names(samples: Path) -> None:
    with pytest.raises(TypeError, match=r"wanted \['t2m'\], got 't2m'"):
        open_dataset(samples / "plain.nc", variables="t2m")
