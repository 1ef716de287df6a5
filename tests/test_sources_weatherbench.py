"""The tree of WeatherBench 1: variables by short or long name, on one time axis."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_series

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import open_dataset

LONG_NAMES = {"t2m": "2m_temperature", "u10": "10m_u_component_of_wind", "z": "geopotential"}


def make_year(name: str, year: int, *, frames: int = 6, levels: tuple[float, ...] = ()) -> xr.Dataset:
    series = make_series(frames, levels=levels).rename(t2m=name, latitude="lat", longitude="lon")
    times = np.datetime64(f"{year + 1}-01-01", "ns") - np.arange(frames, 0, -1) * np.timedelta64(6, "h")
    return series.assign_coords(time=("time", times, {"standard_name": "time"}))


def write_year(root: Path, series: xr.Dataset, long_name: str | None = None) -> None:
    (name,) = series.data_vars
    long_name = long_name or LONG_NAMES[str(name)]
    (root / long_name).mkdir(exist_ok=True, parents=True)
    year = str(series["time"].to_numpy()[0])[:4]
    path = root / long_name / f"{long_name}_{year}_5.625deg.nc"
    series.to_netcdf(path, encoding={"time": {"units": "hours since 1900-01-01", "dtype": "int64"}})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two years at whose turn one step leads into the next: t2m, u10 and z at three levels."""
    for year, frames in ((1980, 1460 - 1456), (1981, 6)):
        for name in LONG_NAMES:
            levels = (50, 500, 850) if name == "z" else ()
            write_year(tmp_path, make_year(name, year, frames=frames, levels=levels))
    (tmp_path / "constants").mkdir()
    make_constants().to_netcdf(tmp_path / "constants" / "constants_5.625deg.nc")
    return tmp_path


def make_constants() -> xr.Dataset:
    year = make_year("t2m", 1980)
    fields = {
        name: (("lat", "lon"), np.random.default_rng(seed).random((4, 6)), attrs)
        for seed, (name, attrs) in enumerate(
            {"orography": {"units": "m"}, "lsm": {"units": "(0 - 1)"}, "lat2d": {}, "mystery": {}}.items()
        )
    }
    return xr.Dataset(fields, {"lat": year["lat"], "lon": year["lon"]})


def refused(kind: ErrorKind, message: str, path: Path, **options: object) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        open_dataset(path, **options)
    assert caught.value.kind == kind


def expected(name: str, levels: tuple[float, ...] = ()) -> xr.Dataset:
    years = [make_year(name, 1980, frames=4, levels=levels), make_year(name, 1981, levels=levels)]
    return xr.concat(years, "time")


@pytest.mark.parametrize("variables", [["t2m"], ["2m_temperature"], ["t2m", "2m_temperature"]])
def test_years_of_one_variable_are_one_series_under_its_short_name(tree: Path, variables: list[str]) -> None:
    result = open_dataset(tree, variables=variables)
    xr.testing.assert_identical(result.compute(), expected("t2m"))


def test_one_variables_folder_is_opened_by_itself(tree: Path) -> None:
    xr.testing.assert_identical(open_dataset(tree / "2m_temperature").compute(), expected("t2m"))


def test_the_whole_tree_is_all_variables_but_the_constants(tree: Path) -> None:
    result = open_dataset(tree)
    assert set(result) == {"t2m", "u10", "z"}
    assert result["z"].dims == ("time", "level", "lat", "lon")
    assert all(variable.chunks is not None for variable in result.data_vars.values())
    xr.testing.assert_identical(result[["u10"]].compute(), expected("u10"))


def test_levels_are_chosen_where_there_are_levels(tree: Path) -> None:
    result = open_dataset(tree, variables=["geopotential", "t2m"], levels=[500, 850])
    np.testing.assert_array_equal(result["level"], [500, 850])
    xr.testing.assert_identical(result["z"].compute(), expected("z", (50, 500, 850))["z"].sel(level=[500, 850]))
    assert result["t2m"].dims == ("time", "lat", "lon")


def test_integers_become_float32(tree: Path) -> None:
    for year, frames in ((1980, 4), (1981, 6)):
        write_year(tree, make_year("z", year, frames=frames, levels=(500,)).astype(np.int32, keep_attrs=True))
    result = open_dataset(tree / "geopotential")["z"]
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected("z", (500,))["z"].astype(np.int32))


def test_a_missing_year_is_a_gap_and_left_to_who_minds(tree: Path) -> None:
    write_year(tree, make_year("t2m", 1983))
    series = open_dataset(tree, variables=["t2m"])
    assert series.sizes["time"] == 4 + 6 + 6
    assert not (series["time"].dt.year == 1982).any()


def test_variables_that_cover_other_times_are_named_with_them(tree: Path) -> None:
    write_year(tree, make_year("t2m", 1982))
    message = "t2m covers 1980-12-31T00:00 to 1982-12-31T18:00 but u10 covers 1980-12-31T00:00 to 1981-12-31T18:00"
    refused(ErrorKind.TIME_GAP, message, tree, variables=["u10", "t2m"])


def test_a_variable_that_is_not_there_is_answered_with_those_that_are(tree: Path) -> None:
    message = r"no variable precipitation; there are 10m_u_component_of_wind \(u10\), 2m_temperature \(t2m\), geopot"
    refused(ErrorKind.VAR_MISSING, message, tree, variables=["precipitation"])


def test_a_short_name_of_two_folders_must_be_told_by_the_long_one(tree: Path) -> None:
    for year, frames in ((1980, 4), (1981, 6)):
        write_year(tree, make_year("z", year, frames=frames), "geopotential_500")
    refused(ErrorKind.ARGUMENT, "z is in geopotential and in geopotential_500; name the one", tree, variables=["z"])
    refused(ErrorKind.ARGUMENT, "z is there twice", tree)
    assert open_dataset(tree, variables=["geopotential_500"])["z"].dims == ("time", "lat", "lon")


def test_a_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    message = r"wanted files like 2m_temperature/2m_temperature_1979_5.625deg.nc in it, found none"
    refused(ErrorKind.FILE_MISSING, message, tmp_path, source="weatherbench")
    refused(ErrorKind.FILE_MISSING, message, tmp_path / "nowhere", source="weatherbench")


def test_a_file_that_is_cut_short_is_named(tree: Path) -> None:
    path = tree / "2m_temperature" / "2m_temperature_1981_5.625deg.nc"
    path.write_bytes(path.read_bytes()[:-100])
    refused(ErrorKind.FILE_TRUNCATED, r"2m_temperature_1981_5.625deg.nc is cut short", tree, variables=["t2m"])


# --- Fields without a time


@pytest.mark.parametrize("folder", ["", "2m_temperature"])
def test_static_fields_are_coordinates_with_units(tree: Path, folder: str) -> None:
    series = open_dataset(tree / folder, variables=["t2m"], static=["lsm", "orography", "lat2d"])
    constants = make_constants()
    for name, units in (("orography", "m"), ("lsm", "(0 - 1)"), ("lat2d", "degrees_north")):
        assert series[name].dims == ("lat", "lon")
        assert series[name].dtype == np.float32
        assert series[name].attrs["units"] == units
        np.testing.assert_array_equal(series[name], constants[name].astype(np.float32))
    assert list(series.data_vars) == ["t2m"]
    xr.testing.assert_identical(
        series.reset_coords(["lsm", "orography", "lat2d"], drop=True).compute(), expected("t2m")
    )


def test_i09_static_fields_stand_at_their_labels_whatever_their_order(tree: Path) -> None:
    turned = make_constants().isel(lat=slice(None, None, -1)).transpose("lon", "lat")
    turned.to_netcdf(tree / "constants" / "constants_5.625deg.nc")
    series = open_dataset(tree, variables=["t2m"], static=["lsm"])
    np.testing.assert_array_equal(series["lsm"], make_constants()["lsm"].astype(np.float32))


def test_static_fields_that_are_not_there_or_do_not_fit_are_named(tree: Path) -> None:
    message = r"constants_5.625deg.nc: no static field slt; there are lat2d, lsm, mystery, orography"
    refused(ErrorKind.VAR_MISSING, message, tree, static=["slt"])
    refused(ErrorKind.UNITS, "static field mystery has no units", tree, static=["mystery"])
    make_constants().isel(lat=slice(3)).to_netcdf(tree / "constants" / "constants_5.625deg.nc")
    refused(ErrorKind.GRID_SHAPE, r"constants_5.625deg.nc: wanted the grid 4x6", tree, static=["lsm"])
    (tree / "constants" / "constants_5.625deg.nc").unlink()
    refused(ErrorKind.FILE_MISSING, r"wanted constants/constants_\*deg.nc for lsm, found none", tree, static=["lsm"])


def test_static_is_a_list_of_names(tree: Path) -> None:
    with pytest.raises(TypeError, match=r"static is a list of names: wanted \['lsm'\], got 'lsm'"):
        open_dataset(tree, static="lsm")


def test_c16_a_period_that_all_variables_cover_joins_them(tree: Path) -> None:
    write_year(tree, make_year("t2m", 1982))
    message = r"t2m covers .* but u10 covers .*; choose .* or a time that all cover with period="
    refused(ErrorKind.TIME_GAP, message, tree, variables=["u10", "t2m"])
    series = open_dataset(tree, variables=["u10", "t2m"], period=("1980", "1981"))
    xr.testing.assert_identical(series[["t2m"]].compute(), expected("t2m"))
    refused(ErrorKind.EMPTY_SELECTION, "no frame lies in the period 1990..1991", tree, period=("1990", "1991"))
