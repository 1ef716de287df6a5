"""CF files: what is written comes back, joined and decoded by its own file; what is amiss is named."""

import pickle
import re
import sys
from itertools import pairwise
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr
from factory import make_series
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import REAL_DATA, needs_real_data

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import open_dataset
from stforecast.sources.cf_time import decode_times
from stforecast.sources.slabs import Key, _time_chunks, lazy_array

STANDARD_TIME = {"units": "hours since 1900-01-01", "calendar": "standard"}


def write(series: xr.Dataset, path: Path, **encoding: dict[str, object]) -> Path:
    series.to_netcdf(path, engine="netcdf4", encoding={"time": {"dtype": "float64", **STANDARD_TIME}, **encoding})
    return path


def write_halves(series: xr.Dataset, folder: Path, **changes: xr.Dataset) -> Path:
    """Two files of one series; the second of them is `second`, if that is given."""
    half = series.sizes["time"] // 2
    write(series.isel(time=slice(half)), folder / "a.nc")
    write(changes.get("second", series.isel(time=slice(half, None))), folder / "b.nc")
    return folder


def write_raw_times(path: Path, values: np.ndarray, **attrs: str) -> Path:
    """A file whose time axis is these numbers with these attributes, as they are."""
    with netCDF4.Dataset(path, "w") as file:
        for name, length in (("time", len(values)), ("lat", 2), ("lon", 3)):
            file.createDimension(name, length)
        file.createVariable("time", str if values.dtype.kind == "U" else values.dtype, ("time",))[:] = values
        file["time"].setncatts(attrs)
        file.createVariable("lat", "f8", ("lat",))[:] = [10, 20]
        file.createVariable("lon", "f8", ("lon",))[:] = [1, 2, 3]
        file.createVariable("t2m", "f4", ("time", "lat", "lon"))[:] = 280
        file["t2m"].units = "K"
    return path


def refused(kind: ErrorKind, message: str, path: Path | str, **options: object) -> None:
    with pytest.raises(StforecastError, match=f"(?s){message}") as caught:
        open_dataset(path, **options)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def open_files(folder: Path) -> list[str]:
    descriptors = Path("/proc/self/fd")
    targets = [str(entry.readlink()) for entry in descriptors.iterdir() if entry.exists()]
    return [target for target in targets if target.startswith(str(folder))]


# --- What is written comes back


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT"])
@pytest.mark.parametrize("unlimited", [(), ("time",)])
def test_netcdf_comes_back_as_it_was(tmp_path: Path, form: str, unlimited: tuple[str, ...]) -> None:
    series = make_series(7, variables=("t2m", "d2m"), descending=True)
    series.to_netcdf(tmp_path / "a.nc", format=form, engine="netcdf4", unlimited_dims=unlimited)
    result = open_dataset(tmp_path / "a.nc")
    xr.testing.assert_identical(result.compute(), series[["d2m", "t2m"]])
    assert result["time"].dtype == "datetime64[ns]"


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_zarr_comes_back_as_it_was(tmp_path: Path, version: int) -> None:
    series = make_series(7, levels=(500, 850))
    series.to_zarr(tmp_path / "a.zarr", zarr_format=version, encoding={"t2m": {"chunks": (3, 2, 4, 6)}})
    xr.testing.assert_identical(open_dataset(tmp_path / "a.zarr").compute(), series)


def test_i09_dimensions_come_in_the_order_of_a_series(tmp_path: Path) -> None:
    series = make_series(5, levels=(500, 850))
    turned = series.transpose("longitude", "level", "latitude", "time")
    write(turned, tmp_path / "a.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "a.nc").compute(), series)


def test_b08_time_is_called_time_whatever_the_provider_calls_it(tmp_path: Path) -> None:
    series = make_series(5)
    renamed = series.rename(time="valid_time").assign_coords(number=0, expver=("valid_time", ["0001"] * 5))
    renamed.to_netcdf(tmp_path / "a.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "a.nc").compute(), series)


def test_a_single_member_is_no_dimension(tmp_path: Path) -> None:
    series = make_series(5)
    write(series.expand_dims(number=[0], axis=1), tmp_path / "a.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "a.nc").compute(), series)


def test_bounds_mappings_characters_and_static_fields_are_left_out(tmp_path: Path) -> None:
    series = make_series(5)
    full = series.assign(
        time_bnds=(("time", "bnds"), np.zeros((5, 2))),
        cell_bnds=(("time", "latitude", "longitude", "bnds"), np.zeros((5, 4, 6, 2))),
        mapping=((), 0, {"grid_mapping_name": "latitude_longitude"}),
        stamp=("time", np.array(["a", "b", "c", "d", "e"])),
        orography=(("latitude", "longitude"), np.zeros((4, 6))),
    )
    full["time"].attrs["bounds"] = "time_bnds"
    full["latitude"].attrs["bounds"] = "cell_bnds"
    full["t2m"].attrs["grid_mapping"] = "mapping"
    write(full, tmp_path / "a.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "a.nc").compute(), series)


def test_a_duration_stays_the_number_it_is(tmp_path: Path) -> None:
    series = make_series(5)
    series["t2m"].attrs["units"] = "hours"
    write(series, tmp_path / "a.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "a.nc").compute(), series)


def test_levels_are_chosen_by_value_in_the_order_asked_for(tmp_path: Path) -> None:
    series = make_series(5, levels=(500, 700, 850))
    write(series, tmp_path / "a.nc")
    result = open_dataset(tmp_path / "a.nc", levels=[850, 500])
    xr.testing.assert_identical(result.compute(), series.sel(level=[850, 500]))
    refused(ErrorKind.EMPTY_SELECTION, "level has no 300; it has 500, 700, 850 hPa", tmp_path / "a.nc", levels=[300])


def test_levels_of_surface_data_are_refused(tmp_path: Path) -> None:
    write(make_series(5), tmp_path / "a.nc")
    refused(ErrorKind.EMPTY_SELECTION, "no level axis", tmp_path / "a.nc", levels=[500])


# --- Several files


def test_c03_files_are_joined_in_order_of_time_whatever_their_names(tmp_path: Path) -> None:
    series = make_series(9, absent=(4,))
    write(series.isel(time=slice(5, None)), tmp_path / "a.nc")
    write(series.isel(time=slice(0, 2)), tmp_path / "c.nc")
    write(series.isel(time=slice(2, 5)), tmp_path / "b.nc")
    (tmp_path / "d.nc.part").write_bytes(b"not finished")
    for path in (tmp_path, tmp_path / "*.nc", tmp_path / "?.nc"):
        xr.testing.assert_identical(open_dataset(path).compute(), series)


def test_a_folder_of_zarr_stores_is_joined(tmp_path: Path) -> None:
    series = make_series(8)
    for name, part in (("a", slice(4)), ("b", slice(4, None))):
        series.isel(time=part).to_zarr(tmp_path / f"{name}.zarr", zarr_format=2, consolidated=False)
    xr.testing.assert_identical(open_dataset(tmp_path).compute(), series)


def test_i01_b04_packed_files_are_decoded_each_by_its_own_scale(tmp_path: Path) -> None:
    series = make_series(8)
    series["t2m"][3, 1, 2] = np.nan
    packings = ({"scale_factor": 0.01, "add_offset": 273.0}, {"scale_factor": 0.005, "add_offset": 300.0})
    for name, part, packing in zip("ab", (slice(4), slice(4, None)), packings, strict=True):
        packed = {"dtype": "int16", "_FillValue": -32768, **packing}
        write(series.isel(time=part), tmp_path / f"{name}.nc", t2m=packed)
    result = open_dataset(tmp_path)
    # Half of the coarser scale is what packing may move a value by; float32 adds 2e-5.
    xr.testing.assert_allclose(result.compute(), series, rtol=0, atol=0.00502)
    assert np.isnan(result["t2m"][3, 1, 2])
    assert all(not variable.encoding for variable in result.variables.values())
    result.to_zarr(tmp_path / "out.zarr", zarr_format=2, consolidated=False)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "out.zarr", consolidated=False).compute(), result.compute())


def test_a_second_fill_value_is_missing_too(tmp_path: Path) -> None:
    path = write(make_series(4), tmp_path / "a.nc", t2m={"dtype": "float32", "_FillValue": -999.0})
    with netCDF4.Dataset(path, "a") as file:
        file["t2m"].missing_value = np.float32(-888)
        file["t2m"][:, 0, 0] = [1, -999, -888, 1]
    np.testing.assert_array_equal(open_dataset(path)["t2m"][:, 0, 0], np.array([1, np.nan, np.nan, 1]))


def test_limits_of_packed_values_are_unpacked(tmp_path: Path) -> None:
    series = make_series(4)
    series["t2m"].attrs |= {"valid_range": np.array([-20000, 20000], np.int16), "valid_min": 100.0}
    write(
        series,
        tmp_path / "a.nc",
        t2m={"dtype": "int16", "scale_factor": 0.01, "add_offset": 300.0, "_FillValue": -32768},
    )
    attrs = open_dataset(tmp_path / "a.nc")["t2m"].attrs
    np.testing.assert_allclose(attrs["valid_range"], [100, 500])  # -20000 · 0.01 + 300, 20000 · 0.01 + 300
    assert attrs["valid_min"] == 100


def test_attributes_that_differ_between_files_are_left_out(tmp_path: Path) -> None:
    series = make_series(8)
    first, second = series.isel(time=slice(4)), series.isel(time=slice(4, None))
    write(first.assign_attrs(title="t", history="first"), tmp_path / "a.nc")
    write(second.assign_attrs(title="t", history="second"), tmp_path / "b.nc")
    assert open_dataset(tmp_path).attrs == {"title": "t"}


def test_variables_in_files_of_their_own_are_joined(tmp_path: Path) -> None:
    series = make_series(8, variables=("t2m", "d2m"))
    for name in ("t2m", "d2m"):
        write(series[[name]].isel(time=slice(5)), tmp_path / f"{name}_1.nc")
        write(series[[name]].isel(time=slice(5, None)), tmp_path / f"{name}_2.nc")
    xr.testing.assert_identical(open_dataset(tmp_path, variables=["t2m", "d2m"]).compute(), series)
    xr.testing.assert_identical(open_dataset(tmp_path, variables=["d2m"]).compute(), series[["d2m"]])


def test_a07_a_file_that_lacks_a_variable_is_named_with_its_times_and_one_that_has_it(tmp_path: Path) -> None:
    series = make_series(8, variables=("t2m", "d2m"))
    write_halves(series, tmp_path, second=series[["t2m"]].isel(time=slice(4, None)))
    message = r"b\.nc \(2016-01-02T00:00 to 2016-01-02T18:00\) has no variable d2m, but .*a\.nc has.*both: t2m"
    refused(ErrorKind.VAR_MISSING, message, tmp_path)
    xr.testing.assert_identical(open_dataset(tmp_path, variables=["t2m"]).compute(), series[["t2m"]])


def test_a_variable_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    write(make_series(4, variables=("t2m", "d2m")), tmp_path / "a.nc")
    refused(ErrorKind.VAR_MISSING, r"a\.nc: no variable t850 .*there are d2m, t2m", tmp_path, variables=["t850"])


def test_c08_overlapping_files_are_named_with_their_common_times(tmp_path: Path) -> None:
    series = make_series(8)
    write_halves(series, tmp_path, second=series.isel(time=slice(2, None)))
    message = r"a\.nc and .*b\.nc overlap: both cover 2016-01-01T12:00 to 2016-01-01T18:00"
    refused(ErrorKind.TIME_OVERLAP, message, tmp_path)


def test_a_file_on_another_grid_is_named(tmp_path: Path) -> None:
    series = make_series(8)
    second = series.isel(time=slice(4, None), latitude=slice(None, None, -1))
    write_halves(series, tmp_path, second=second)
    refused(ErrorKind.GRID_SHAPE, r"b\.nc is on the grid 4x6 \(latitude 60..-60.*a\.nc on 4x6 \(latitude -60", tmp_path)


def test_one_unit_spelled_in_two_ways_is_one_unit(tmp_path: Path) -> None:
    series = make_series(8)
    write(series.isel(time=slice(4)), tmp_path / "a.nc")
    later = series.isel(time=slice(4, 8))
    write(later.assign(t2m=later["t2m"].assign_attrs(units="degK")), tmp_path / "b.nc")
    assert open_dataset(tmp_path)["t2m"].attrs["units"] == "K"


def test_a_file_with_other_levels_is_named(tmp_path: Path) -> None:
    second = make_series(8, levels=(500, 700)).isel(time=slice(4, None))
    write_halves(make_series(8, levels=(500, 850)), tmp_path, second=second)
    refused(ErrorKind.GRID_SHAPE, r"levels \[500.0, 700.0\] in .*b\.nc but \[500.0, 850.0\] in .*a\.nc", tmp_path)
    assert open_dataset(tmp_path, levels=[500]).sizes == {"time": 8, "level": 1, "latitude": 4, "longitude": 6}


def test_i05_u02_a_file_in_other_units_is_named(tmp_path: Path) -> None:
    series = make_series(8)
    second = series.isel(time=slice(4, None)).copy()
    second["t2m"].attrs["units"] = "degC"
    write_halves(series, tmp_path, second=second)
    refused(ErrorKind.UNITS, r"t2m is in 'degC' in .*b\.nc but in 'K' in .*a\.nc", tmp_path)


@pytest.mark.parametrize(
    ("other", "kind", "message"),
    [
        (
            make_series(9),
            ErrorKind.TIME_GAP,
            "t2m covers .*T18:00 but d2m covers 2016-01-01T00:00 to 2016-01-03T00:00",
        ),
        (make_series(8, absent=(3,)), ErrorKind.TIME_GAP, "1 times are not in all.*d2m lacks 2016-01-01T18:00"),
        (make_series(8, shape=(3, 6)), ErrorKind.GRID_SHAPE, "t2m is on the grid 4x6 .* but d2m on 3x6"),
    ],
)
def test_c16_variables_are_joined_on_one_time_axis_and_grid_only(
    tmp_path: Path, other: xr.Dataset, kind: ErrorKind, message: str
) -> None:
    write(make_series(8), tmp_path / "t2m.nc")
    write(other.rename(t2m="d2m"), tmp_path / "d2m.nc")
    refused(kind, message, tmp_path)


def test_variables_with_other_levels_are_not_joined(tmp_path: Path) -> None:
    write(make_series(8, levels=(500, 850)), tmp_path / "t.nc")
    write(make_series(8, levels=(500, 700)).rename(t2m="q"), tmp_path / "q.nc")
    refused(ErrorKind.GRID_SHAPE, r"t2m has the levels \[500 850\] but q has \[500 700\]", tmp_path)


# --- Faults of what is inside


def test_a08_data_without_a_time_axis_are_refused(tmp_path: Path) -> None:
    make_series(4).isel(time=0, drop=True).to_netcdf(tmp_path / "a.nc")
    refused(ErrorKind.SHAPE, r"a\.nc: wanted .*found t2m\('latitude', 'longitude'\)", tmp_path / "a.nc")
    make_series(4).rename(time="t").drop_vars("t").to_netcdf(tmp_path / "b.nc")
    refused(ErrorKind.DIMS, r"b\.nc: wanted one time dimension", tmp_path / "b.nc")
    make_series(4).drop_vars("time").to_netcdf(tmp_path / "c.nc")
    refused(ErrorKind.TIME_UNITS, r"c\.nc: dimension time has no times", tmp_path / "c.nc")


def test_a_dimension_that_no_series_has_is_refused(tmp_path: Path) -> None:
    write(make_series(4).expand_dims(number=[0, 1], axis=1), tmp_path / "a.nc")
    refused(ErrorKind.DIMS, r"a\.nc: variable t2m has dimensions .*'number'.*variables=", tmp_path / "a.nc")


def test_a08_i14_a_file_without_frames_is_refused(tmp_path: Path) -> None:
    write(make_series(4).isel(time=slice(0)), tmp_path / "a.nc")
    refused(ErrorKind.SHAPE, r"a\.nc: time has length 0", tmp_path / "a.nc")


@pytest.mark.parametrize(
    ("values", "attrs", "message"),
    [
        (np.arange(4.0) + 7, {}, "units are None and its first value is 7.0"),
        (np.arange(4.0), {"units": "hours"}, "units are 'hours' and its first value is 0.0"),
        (np.arange(4), {"units": "months since 2000-01-01"}, "units are 'months since 2000-01-01'.* is 0,"),
        (np.arange(4.0), {"units": "hours since the flood"}, "units are 'hours since the flood'"),
        (np.full(4, 1e30), {"units": "hours since 1900-01-01"}, "units are .* first value is 1e\\+30"),
        (np.array(["2016", "2017"]), {}, "units are None and its first value is '2016'"),
    ],
)
def test_b01_i06_times_that_cannot_be_decoded_are_shown(
    tmp_path: Path, values: np.ndarray, attrs: dict[str, str], message: str
) -> None:
    path = write_raw_times(tmp_path / "a.nc", values, **attrs)
    refused(ErrorKind.TIME_UNITS, rf"time of .*a\.nc cannot be read as times: its {message}", path)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian"])
def test_i06_other_calendars_are_named_with_the_remedy(tmp_path: Path, calendar: str) -> None:
    path = write_raw_times(tmp_path / "a.nc", np.arange(4.0), units="days since 2000-01-01", calendar=calendar)
    refused(ErrorKind.TIME_CALENDAR, rf"a\.nc is in the calendar '{calendar}'.*convert_calendar", path)


def test_gregorian_times_counted_from_year_one_are_read(tmp_path: Path) -> None:
    # From year one to 2016-01-01 are 735,963 days, and two more that the Julian calendar had before 1582.
    path = write_raw_times(
        tmp_path / "a.nc", 735_963 + np.arange(4) / 4, units="days since 0001-01-01", calendar="proleptic_gregorian"
    )
    expected = np.datetime64("2016-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    np.testing.assert_array_equal(open_dataset(path)["time"], expected)
    path = write_raw_times(
        tmp_path / "b.nc", 735_965 + np.arange(4) / 4, units="days since 0001-01-01", calendar="standard"
    )
    np.testing.assert_array_equal(open_dataset(path)["time"], expected)


def test_years_that_nanoseconds_cannot_count_are_refused(tmp_path: Path) -> None:
    path = write_raw_times(tmp_path / "a.nc", np.arange(4), units="days since 0850-01-01")
    refused(ErrorKind.TIME_RANGE, r"a\.nc runs from 0850-01-01 .*wanted years 1678 to 2261", path)


def test_c04_a_time_that_is_missing_is_named(tmp_path: Path) -> None:
    values = np.array([0.0, 6, np.nan, 18])
    path = write_raw_times(tmp_path / "a.nc", values, units="hours since 2016-01-01")
    refused(ErrorKind.TIME_NAT, r"time of .*a\.nc has no value at row 2", path)


@pytest.mark.parametrize(
    ("hours", "kind", "message"),
    [
        ([0, 6, 6, 12], ErrorKind.TIME_DUPLICATE, r"time of .*a\.nc has 1 duplicate timestamp \(2016-01-01T06:00"),
        ([0, 12, 6, 18], ErrorKind.TIME_ORDER, r"time of .*a\.nc is not increasing: 2016-01-01T06:00 follows"),
        ([0, 6, 12, 13], ErrorKind.TIME_FREQ, r"a\.nc: time steps by 6 h but 2016-01-01T13:00 comes 1 h after"),
        ([0], ErrorKind.TIME_SHORT, r"a\.nc: time has 1 frame"),
    ],
)
def test_c01_c03_c05_i06_i14_faults_of_the_time_axis_name_file_and_timestamp(
    tmp_path: Path, hours: list[int], kind: ErrorKind, message: str
) -> None:
    path = write_raw_times(tmp_path / "a.nc", np.array(hours), units="hours since 2016-01-01")
    refused(kind, message, path)


def test_a_variable_without_units_is_named_with_its_file(tmp_path: Path) -> None:
    series = make_series(4)
    del series["t2m"].attrs["units"]
    write(series, tmp_path / "a.nc")
    refused(ErrorKind.UNITS, r"a\.nc: variable t2m has no units", tmp_path / "a.nc")


# --- Times that are only nearly what they mean


def hourly(frames: int, hours: int = 1) -> np.ndarray:
    return np.datetime64("2017-03-01", "ns") + np.arange(frames) * np.timedelta64(hours, "h")


def days_since(reference: str, times: np.ndarray, dtype: type) -> xr.Variable:
    days = ((times - np.datetime64(reference, "ns")) / np.timedelta64(1, "D")).astype(dtype)
    return xr.Variable("time", days, {"units": f"days since {reference}"})


@pytest.mark.parametrize("minutes", [0, 30])
@pytest.mark.parametrize("reference", ["1900-01-01", "1800-01-01", "2017-01-01"])
def test_float64_days_become_exact_times(reference: str, minutes: int) -> None:
    times = hourly(500) + np.timedelta64(minutes, "m")
    np.testing.assert_array_equal(decode_times(days_since(reference, times, np.float64), name="time"), times)


def test_c11_float32_days_become_exact_times_where_their_step_tells_which() -> None:
    times = hourly(200, 6)
    np.testing.assert_array_equal(decode_times(days_since("1900-01-01", times, np.float32), name="time"), times)
    with pytest.raises(
        StforecastError, match=r"time is kept as float32.*exact to \d+ s only, more than 1 % of its step"
    ):
        decode_times(days_since("1900-01-01", hourly(200), np.float32), name="time")


def test_times_between_round_ones_are_left_alone() -> None:
    times = hourly(50) + np.timedelta64(123_456_789, "ns")
    np.testing.assert_allclose(
        (decode_times(days_since("2017-01-01", times, np.float64), name="time") - times).astype(int), 0, atol=1000
    )


# --- ERA5's versions


def make_versions(series: xr.Dataset, final: int) -> xr.Dataset:
    """ERA5 as the old data store gives it: expver a dimension, NaN where the other version has the frame."""
    is_final = xr.DataArray(np.arange(series.sizes["time"]) < final, dims="time")
    versions = [series.where(is_final), series.where(~is_final)]
    return xr.concat(versions, xr.Variable("expver", np.array([1, 5], np.int32))).transpose("time", "expver", ...)


def test_b08_final_and_preliminary_frames_are_mixed_only_by_declaration(tmp_path: Path) -> None:
    series = make_series(6)
    write(make_versions(series, 4), tmp_path / "a.nc")
    message = r"a\.nc has frames of another expver \(1, 5\).*allow_preliminary=True"
    refused(ErrorKind.METADATA, message, tmp_path / "a.nc")
    mixed = open_dataset(tmp_path / "a.nc", allow_preliminary=True)
    xr.testing.assert_identical(mixed.compute(), series)
    np.testing.assert_array_equal(mixed["t2m"][2:6, 1, [4, 0]], series["t2m"][2:6, 1, [4, 0]])


def test_b08_versions_named_for_each_time_are_mixed_only_by_declaration(tmp_path: Path) -> None:
    series = make_series(6)
    labelled = series.assign_coords(expver=("time", ["0001"] * 4 + ["0005"] * 2))
    write(labelled, tmp_path / "a.nc")
    refused(ErrorKind.METADATA, "are mixed; declare", tmp_path / "a.nc")
    xr.testing.assert_identical(open_dataset(tmp_path / "a.nc", allow_preliminary=True).compute(), series)


def test_b08_versions_in_files_of_their_own_are_mixed_only_by_declaration(tmp_path: Path) -> None:
    series = make_series(6).assign_coords(expver=("time", ["0001"] * 4 + ["0005"] * 2))
    write(series.isel(time=slice(4)), tmp_path / "a.nc")
    write(series.isel(time=slice(4, 6)), tmp_path / "b.nc")
    refused(ErrorKind.METADATA, r"b\.nc has frames of another expver \(5\) than the rest", tmp_path)
    assert open_dataset(tmp_path, allow_preliminary=True).sizes["time"] == 6
    assert open_dataset(tmp_path / "b.nc").sizes["time"] == 2  # all of one version is no mixture
    assert open_dataset(tmp_path, period=("2016-01-01", "2016-01-01")).sizes["time"] == 4


def test_b08_other_versions_are_named(tmp_path: Path) -> None:
    versions = make_versions(make_series(6), 4).assign_coords(expver=[1, 9])
    write(versions, tmp_path / "a.nc")
    refused(ErrorKind.METADATA, "expver holds the versions 1, 9, wanted 1 or 1 and 5", tmp_path / "a.nc")


def test_b08_pressure_levels_under_their_new_name_are_levels(tmp_path: Path) -> None:
    series = make_series(5, levels=(500, 850))
    series.rename(level="pressure_level", time="valid_time").to_netcdf(tmp_path / "a.nc")
    result = open_dataset(tmp_path / "a.nc", levels=[850])
    assert result["t2m"].dims == ("time", "pressure_level", "latitude", "longitude")
    np.testing.assert_array_equal(result["t2m"], series["t2m"].sel(level=[850]))


# --- A period, and fields without a time


def test_a_period_is_cut_out_of_all_files(tmp_path: Path) -> None:
    series = make_series(20)
    write_halves(series, tmp_path)
    for period in (("2016-01-02", "2016-01-04"), ("2016-01-03T06", "2016-01-03T12"), ("2015", "2020")):
        result = open_dataset(tmp_path, period=period)
        xr.testing.assert_identical(result.compute(), series.sel(time=slice(*period)))


def test_static_fields_of_any_file_are_coordinates_on_request(tmp_path: Path) -> None:
    series = make_series(5)
    height = xr.DataArray(np.arange(24.0).reshape(6, 4), dims=("longitude", "latitude"), attrs={"units": "m"})
    write(series.assign(height=height), tmp_path / "a.nc")
    result = open_dataset(tmp_path / "a.nc", static=["height"])
    assert result["height"].dims == ("latitude", "longitude")
    np.testing.assert_array_equal(result["height"], height.T)
    xr.testing.assert_identical(result.drop_vars("height").compute(), series)
    refused(ErrorKind.VAR_MISSING, "no static field lsm; there are height", tmp_path / "a.nc", static=["lsm"])
    write(series, tmp_path / "b.nc")
    refused(ErrorKind.VAR_MISSING, "no static field lsm; there are none", tmp_path / "b.nc", static=["lsm"])


# --- Clocks


def test_i06_times_with_an_offset_from_utc_become_utc(tmp_path: Path) -> None:
    path = write_raw_times(tmp_path / "a.nc", np.arange(4), units="hours since 2016-01-01 00:00:00 -5:00")
    expected = np.datetime64("2016-01-01T05:00", "ns") + np.arange(4) * np.timedelta64(1, "h")
    np.testing.assert_array_equal(open_dataset(path)["time"], expected)


def test_c14_local_times_twice_where_the_clock_went_back_are_named(tmp_path: Path) -> None:
    path = write_raw_times(tmp_path / "a.nc", np.array([0, 1, 1, 2]), units="hours since 2016-11-06 00:00:00")
    with netCDF4.Dataset(path, "a") as file:
        file["time"].time_zone = "America/New_York"
    refused(ErrorKind.TIME_DST, r"time of .*a\.nc has 1 time\(s\) twice because the clock of America/New_York", path)


# --- Files that are none


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404</html>", "b'<!DOCTYP' and looks like HTML"),
        (b"PK\x03\x04" + bytes(100), r"PK\\x03\\x04.* a zip archive"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"BZh9" + bytes(100), "bzip2"),
        (b"7z\xbc\xaf" + bytes(100), "a 7z archive"),
        (b"GRIB" + bytes(100), "GRIB; name it with source='grib'"),
        (b"time,t2m\n0,280\n", "it begins with b'time,t2m'"),
        (b"CDF", "it begins with b'CDF'"),
    ],
)
def test_a03_k05_a_file_of_another_kind_is_named_with_its_first_bytes(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.nc").write_bytes(content)
    refused(ErrorKind.FILE_FORMAT, rf"a\.nc is not a netCDF or HDF5 file: .*{message}", tmp_path / "a.nc", source="cf")


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    refused(ErrorKind.FILE_MISSING, r"there is no file or folder .*b\.nc", tmp_path / "b.nc")
    refused(ErrorKind.FILE_MISSING, r"wanted a file with a name in .*\*\.nc.*found none", tmp_path)
    refused(ErrorKind.FILE_MISSING, r"wanted a file that matches this pattern, found none", f"{tmp_path}/*.nc")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.7, 0.99, 0.9999])
@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("unlimited", [False, True])
def test_a01_a02_i02_a_file_cut_short_is_refused_with_both_sizes(
    tmp_path: Path, form: str, unlimited: bool, share: float
) -> None:
    path = write_form(tmp_path / "a.nc", form, unlimited=unlimited)
    assert open_dataset(path).sizes["time"] == 50
    content = path.read_bytes()
    kept = min(max(int(len(content) * share), 9), len(content) - 4)  # up to three last bytes may be padding
    path.write_bytes(content[:kept])
    with pytest.raises(StforecastError, match=r"a\.nc is (cut short|damaged)") as caught:
        open_dataset(path)
    assert caught.value.kind in (ErrorKind.FILE_TRUNCATED, ErrorKind.FILE_FORMAT)
    if share > 0.3:
        assert caught.value.kind == ErrorKind.FILE_TRUNCATED
        declared, found = map(int, re.findall(r"(\d+)(?= bytes|;)", str(caught.value)))
        assert len(content) - 4 < declared <= len(content)
        assert found == kept


def write_form(path: Path, form: str, *, unlimited: bool) -> Path:
    """Two variables whose records have odd sizes: int16 and int8 values in frames of 3x5."""
    with netCDF4.Dataset(path, "w", format=form) as file:
        for name, length in (("time", None if unlimited else 50), ("lat", 3), ("lon", 5)):
            file.createDimension(name, length)
            file.createVariable(name, "f8", (name,))[:] = np.arange(length or 50)
        file["time"].units = "hours since 2016-01-01"
        for name, dtype in (("a", "i1"), ("b", "i2")):
            file.createVariable(name, dtype, ("time", "lat", "lon"))[:] = np.full((50, 3, 5), 9)
            file[name].units = "1"
        file.title = "sizes"
    return path


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_only_record_variable_is_not_padded(tmp_path: Path, frames: int) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        for name, length in (("time", None), ("lat", 1), ("lon", 3)):
            file.createDimension(name, length)
        file.createVariable("a", "i1", ("time", "lat", "lon"))[:] = np.zeros((frames, 1, 3))
    refused(ErrorKind.TIME_UNITS, "dimension time has no times", tmp_path / "a.nc")  # and not for its size


def test_a_damaged_header_inside_an_hdf5_file_is_named(tmp_path: Path) -> None:
    content = bytearray(write(make_series(4), tmp_path / "a.nc").read_bytes())
    second = content.index(b"OHDR", content.index(b"OHDR") + 1)
    content[second + 8] ^= 0xFF  # its checksum no longer fits
    (tmp_path / "a.nc").write_bytes(content)
    refused(ErrorKind.FILE_FORMAT, r"a\.nc is damaged: HDF5 says", tmp_path / "a.nc")


def test_damaged_values_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = write(make_series(90, shape=(20, 30)), tmp_path / "a.nc", t2m={"zlib": True, "chunksizes": (30, 20, 30)})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    series = open_dataset(path)
    with pytest.raises(StforecastError, match=r"t2m of .*a\.nc is damaged") as caught:
        series.compute()
    assert caught.value.kind == ErrorKind.FILE_FORMAT


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_flipped_bytes_give_a_named_error_or_a_series(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    path = write_form(folder / "a.nc", "NETCDF3_64BIT_OFFSET", unlimited=True)
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    content[random.integers(4, 600)] = random.integers(256)
    path.write_bytes(content)
    try:
        series = open_dataset(path)
    except StforecastError as error:
        assert "a.nc" in str(error)  # noqa: PT017 either outcome is right
    else:
        assert series.sizes["time"] > 0


# --- Files that reach for more than themselves


def test_k07_hdf5_that_points_to_other_files_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["data"] = h5py.ExternalLink("/etc/hostname", "x")
    refused(ErrorKind.FILE_UNSAFE_HDF5, r"link\.h5: data is a link to another file", tmp_path / "link.h5")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_group("inner").create_dataset("data", (4,), "u1", external=[("/etc/hostname", 0, 4)])
    refused(ErrorKind.FILE_UNSAFE_HDF5, r"raw\.h5: data keeps its values in other files", tmp_path / "raw.h5")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
        file.create_virtual_dataset("data", layout)
    refused(ErrorKind.FILE_UNSAFE_HDF5, r"virtual\.h5: data keeps its values", tmp_path / "virtual.h5")


def test_k06_files_that_declare_more_than_they_could_hold_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "axis.h5", "w") as file:
        file.create_dataset("date", (10**10,), "i8", chunks=(1000,))
    refused(ErrorKind.FILE_TOO_LARGE, r"axis\.h5: date declares 10000000000 values on one axis", tmp_path / "axis.h5")
    with h5py.File(tmp_path / "field.h5", "w") as file:
        file.create_dataset("data", (10**6, 2, 32, 32), "f8", chunks=(1, 2, 32, 32))
    refused(ErrorKind.FILE_TOO_LARGE, r"field\.h5: data declares 16384000000 bytes but stores 0", tmp_path / "field.h5")
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("time", shape=(10**11,), chunks=(1000,), dtype="i8")
    refused(ErrorKind.FILE_TOO_LARGE, r"a\.zarr: time declares 100000000000 values", tmp_path / "a.zarr")


def test_a_zarr_store_with_broken_metadata_is_named(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    store.mkdir()
    (store / "zarr.json").write_text('{"zarr_format": 3, "node_type": "gro')
    refused(ErrorKind.FILE_FORMAT, r"a\.zarr is not a zarr group that can be read", store)


# --- Laziness


def test_opening_leaves_values_on_the_disk_and_no_file_open(tmp_path: Path) -> None:
    write_halves(make_series(8), tmp_path)
    series = open_dataset(tmp_path)
    assert all(variable.chunks is not None for variable in series.data_vars.values())
    if sys.platform == "linux":
        assert open_files(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc/self/fd")
def test_no_file_stays_open_after_an_error(tmp_path: Path) -> None:
    series = make_series(8)
    write_halves(series, tmp_path, second=series.isel(time=slice(2, None)))
    refused(ErrorKind.TIME_OVERLAP, "overlap", tmp_path)
    refused(ErrorKind.VAR_MISSING, "no variable", tmp_path, variables=["x"])
    assert open_files(tmp_path) == []


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_slab_is_the_same_slab_of_the_whole_on_any_worker(tmp_path: Path, suffix: str) -> None:
    series = make_series(20, levels=(500, 700, 850), descending=True)
    for name, part in (("a", slice(8)), ("b", slice(8, None))):
        turned = series.isel(time=part).transpose("time", "longitude", "latitude", "level")
        if suffix == "nc":
            write(turned, tmp_path / f"{name}.nc")
        else:
            turned.to_zarr(tmp_path / f"{name}.zarr", zarr_format=2, consolidated=False)
    opened = open_dataset(tmp_path)
    for selection in (
        {"time": slice(5, 12)},
        {"time": 9, "level": [2, 0]},
        {"time": slice(None, None, -3), "latitude": slice(1, 3)},
        {"time": [7, 8, 0], "level": 1},
        {"longitude": slice(4, 1, -1)},
    ):
        slab = pickle.loads(pickle.dumps(opened.isel(selection))).compute(scheduler="synchronous")
        xr.testing.assert_identical(slab, series.isel(selection))


class RecordingReader:
    """Reads from an array in memory and remembers what was asked of it."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames
        self.keys: list[tuple[Key, ...]] = []

    def __call__(self, keys: tuple[Key, ...]) -> np.ndarray:
        self.keys.append(keys)
        frames = self.frames
        for axis, key in reversed(list(enumerate(keys))):
            frames = frames[(slice(None),) * axis + (key,)]
        return frames


def test_a_slab_reads_its_rows_only_and_in_one_piece_of_each_file() -> None:
    frames = np.arange(60, dtype=np.float32).reshape(30, 2, 1)
    readers = [RecordingReader(frames[:20]), RecordingReader(frames[20:])]
    series = xr.DataArray(lazy_array(readers, [20, 10], (2, 1)), dims=("time", "y", "x"))
    slab = series.isel(time=slice(15, 24)).compute(scheduler="synchronous")
    np.testing.assert_array_equal(slab, frames[15:24])
    whole = slice(0, 2, None), slice(0, 1, None)
    assert [reader.keys for reader in readers] == [[(slice(15, 20), *whole)], [(slice(0, 4), *whole)]]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    stored=st.integers(1, 5),
    data=st.data(),
)
def test_any_selection_is_that_of_the_frames_put_together(lengths: list[int], stored: int, data: st.DataObject) -> None:
    total = sum(lengths)
    frames = np.random.default_rng(0).random((total, 3, 2), np.float32)
    bounds = np.cumsum([0, *lengths])
    readers = [RecordingReader(frames[a:b]) for a, b in pairwise(bounds)]
    rows = data.draw(
        st.one_of(st.slices(total), st.integers(-total, total - 1), st.lists(st.integers(0, total - 1), min_size=1))
    )
    result = lazy_array(readers, lengths, (3, 2), stored=stored)[rows]
    np.testing.assert_array_equal(result.compute(scheduler="synchronous"), frames[rows])


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20), most=st.integers(1, 30))
def test_chunks_cover_every_frame_once_and_stay_small(lengths: list[int], most: int) -> None:
    chunks = _time_chunks(lengths, most)
    assert sum(chunks) == sum(lengths)
    assert all(0 < chunk <= most for chunk in chunks)


# --- Real files


@needs_real_data
def test_two_years_of_ncep_air_are_one_series() -> None:
    folder = REAL_DATA / "ncep_air"
    series = open_dataset(folder)
    assert dict(series.sizes) == {"time": 2920, "lat": 25, "lon": 53}
    assert series["air"].attrs["units"] == "degK"
    assert series["lat"][0] > series["lat"][-1]
    for year in ("2013", "2014"):
        with xr.open_dataset(folder / f"air_{year}.nc") as expected:
            np.testing.assert_array_equal(series["air"].sel(time=year), expected["air"].astype(np.float32))


@needs_real_data
def test_ten_years_of_ncep_pressure_are_a_series() -> None:
    series = open_dataset(REAL_DATA / "ncep_slp" / "slp_2001_2010.nc")
    assert dict(series.sizes) == {"time": 3652, "lat": 17, "lon": 33}
    assert 90_000 < float(series["slp"].min()) < float(series["slp"].max()) < 110_000


def test_a03_messages_have_no_list_of_backends(tmp_path: Path) -> None:
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(StforecastError) as caught:
        open_dataset(tmp_path / "a.nc")
    assert not re.search("engine|backend", str(caught.value))
