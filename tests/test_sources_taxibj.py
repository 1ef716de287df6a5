"""TaxiBJ's layout: slots become local times, faults name string, row and file."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from real_data import REAL_DATA, needs_real_data

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.local_time import ambiguous_times, nonexistent_times
from stforecast.sources import open_dataset
from stforecast.sources.slots import slot_times, slots_of


def half_hours(frames: int, start: str = "2013-07-01") -> np.ndarray:
    return np.datetime64(start, "ns") + np.arange(frames) * np.timedelta64(30, "m")


def write(path: Path, times: np.ndarray, *, cells: tuple[int, int] = (3, 4), **datasets: object) -> np.ndarray:
    """Counts of a file in this layout, (n, 2, rows, columns); `datasets` replace data or date, None is for none."""
    flows = np.random.default_rng(len(times)).poisson(20, (len(times), 2, *cells)).astype(np.float64)
    with h5py.File(path, "w") as file:
        for name, values in ({"data": flows, "date": slots_of(times)} | datasets).items():
            if values is not None:
                file[name] = values
    return flows


def refused(kind: ErrorKind, message: str, path: Path, **options: object) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        open_dataset(path, **options)
    assert caught.value.kind == kind


def test_f13_a_file_becomes_a_series_of_flows_on_the_citys_clock(tmp_path: Path) -> None:
    times = half_hours(60)
    flows = write(tmp_path / "NYC16.h5", times)
    series = open_dataset(tmp_path / "NYC16.h5")
    expected = xr.Dataset(
        {
            "inflow": (
                ("time", "row", "column"),
                flows[:, 0].astype(np.float32),
                {"units": "1", "long_name": "vehicles flowing into the cell", "valid_min": 0.0},
            ),
            "outflow": (
                ("time", "row", "column"),
                flows[:, 1].astype(np.float32),
                {"units": "1", "long_name": "vehicles flowing out of the cell", "valid_min": 0.0},
            ),
        },
        {
            "time": (
                "time",
                times,
                {"standard_name": "time", "long_name": "local time, start of the half hour"},
            ),
            "row": ("row", [0, 1, 2], {"axis": "Y", "long_name": "row, counted from the north"}),
            "column": ("column", [0, 1, 2, 3], {"axis": "X", "long_name": "column, counted from the west"}),
        },
    )
    assert all(variable.chunks is not None for variable in series.data_vars.values())
    xr.testing.assert_identical(series.compute(), expected)
    assert not Grid.of(series).is_geographic


def test_bounds_and_time_zone_are_written_beside_the_rows_and_times(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", half_hours(4), cells=(2, 4))
    series = open_dataset(tmp_path / "a.h5", bounds=(40.0, 42.0, -74.0, -72.0), time_zone="America/New_York")
    np.testing.assert_allclose(series["latitude"], [41.5, 40.5])  # row 0 is in the north
    np.testing.assert_allclose(series["longitude"], [-73.75, -73.25, -72.75, -72.25])
    assert series["latitude"].dims == ("row",)
    assert series["longitude"].attrs["units"] == "degrees_east"
    assert "comment" not in series["latitude"].attrs
    assert series["time"].attrs["time_zone"] == "America/New_York"
    assert not Grid.of(series).is_geographic


def test_taxibj_itself_is_known_to_be_in_beijing(tmp_path: Path) -> None:
    write(tmp_path / "BJ13_M32x32_T30_InOut.h5", half_hours(2), cells=(32, 32))
    write(tmp_path / "BJ14_M4x4_T30_InOut.h5", half_hours(2), cells=(4, 4))
    series = open_dataset(tmp_path / "BJ13_M32x32_T30_InOut.h5")
    assert series["time"].attrs["time_zone"] == "Asia/Shanghai"
    assert 39.83 < float(series["latitude"].min()) < float(series["latitude"].max()) < 40.12
    assert series["longitude"].attrs["comment"].startswith("approximate")
    elsewhere = open_dataset(tmp_path / "BJ14_M4x4_T30_InOut.h5")
    assert "latitude" not in elsewhere.coords
    assert "time_zone" not in elsewhere["time"].attrs


def test_c02_c13_the_periods_of_a_folder_are_one_series_with_gaps(tmp_path: Path) -> None:
    first, second = half_hours(50), half_hours(30, "2014-03-01")[[0, 1, 5, 6, 29]]
    flows = write(tmp_path / "BJ14.h5", second), write(tmp_path / "BJ13.h5", first)
    series = open_dataset(tmp_path)
    np.testing.assert_array_equal(series["time"], np.concatenate([first, second]))
    np.testing.assert_array_equal(series["outflow"], np.concatenate([flows[1], flows[0]])[:, 1])


@pytest.mark.parametrize(
    "selection",
    [
        {"time": slice(45, 53)},
        {"time": 51, "row": 1},
        {"time": [52, 3, 51], "column": [2, 0]},
        {"time": slice(None, None, -7), "row": slice(None, None, -1)},
    ],
)
def test_a_slab_is_the_same_slab_of_the_whole(tmp_path: Path, selection: dict[str, object]) -> None:
    write(tmp_path / "a.h5", half_hours(50))
    write(tmp_path / "b.h5", half_hours(10, "2013-08-01"))
    series = open_dataset(tmp_path)
    slab = pickle.loads(pickle.dumps(series.isel(selection))).compute(scheduler="synchronous")
    xr.testing.assert_identical(slab, series.compute().isel(selection))


def test_one_flow_may_be_chosen(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", half_hours(4))
    assert list(open_dataset(tmp_path / "a.h5", variables=["outflow"])) == ["outflow"]
    refused(
        ErrorKind.VAR_MISSING, "no variable speed; there are inflow, outflow", tmp_path / "a.h5", variables=["speed"]
    )


# --- Slots


@given(st.lists(st.integers(-4_000_000, 4_000_000), min_size=1))  # 1741 to 2198
def test_slots_and_times_are_each_others_inverse(half_hours_since_1970: list[int]) -> None:
    times = np.datetime64("1970-01-01", "ns") + np.array(half_hours_since_1970, np.int64) * np.timedelta64(30, "m")
    np.testing.assert_array_equal(slot_times(slots_of(times)), times)


@given(st.text(alphabet="0123456789", min_size=10, max_size=10))
def test_ten_digits_are_a_slot_that_is_written_the_same_or_refused(text: str) -> None:
    slots = np.array([text.encode()])
    try:
        times = slot_times(slots)
    except StforecastError as error:
        assert text in str(error)  # noqa: PT017 either outcome is right
    else:
        np.testing.assert_array_equal(slots_of(times), slots)


@pytest.mark.parametrize(
    ("slot", "fault"),
    [
        (b"2013070149", "ends in a slot outside 01 to 48"),
        (b"2013070100", "ends in a slot outside 01 to 48"),
        (b"2013070199", "ends in a slot outside 01 to 48"),
        (b"2013022901", "is not a date"),
        (b"2013130101", "is not a date"),
        (b"2013000101", "is not a date"),
        (b"2013070001", "is not a date"),
        (b"0001010101", "is not a date"),
        (b"20130701", "is not ten digits YYYYMMDDSS"),
        (b"201307010100", "is not ten digits YYYYMMDDSS"),
        (b"2013-07-01", "is not ten digits YYYYMMDDSS"),
        (b"", "is not ten digits YYYYMMDDSS"),
    ],
)
def test_c12_i07_what_is_no_slot_is_named_with_row_and_file(tmp_path: Path, slot: bytes, fault: str) -> None:
    dates = slots_of(half_hours(4)).astype("S12")
    dates[2] = slot
    write(tmp_path / "a.h5", half_hours(4), date=dates)
    refused(ErrorKind.TIME_SLOT, rf"date of .*a\.h5: '{slot.decode()}' at row 2 {fault}", tmp_path / "a.h5")


def test_c12_i07_slot_48_is_the_last_half_hour_of_its_day() -> None:
    result = slot_times(np.array([b"2016022948"]))
    np.testing.assert_array_equal(result, np.array(["2016-02-29T23:30"], "datetime64[ns]"))


def test_dates_may_be_numbers_or_texts(tmp_path: Path) -> None:
    times = half_hours(4)
    write(tmp_path / "a.h5", times, date=slots_of(times).astype(np.int64))
    np.testing.assert_array_equal(open_dataset(tmp_path / "a.h5")["time"], times)
    write(tmp_path / "b.h5", times, date=slots_of(times).astype(str).tolist())
    np.testing.assert_array_equal(open_dataset(tmp_path / "b.h5")["time"], times)


# --- Faults


def test_a09_a_dataset_that_is_missing_is_named_with_those_there(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", half_hours(4), date=None)
    refused(ErrorKind.VAR_MISSING, r"a\.h5 has no dataset date; it has data", tmp_path / "a.h5")
    write(tmp_path / "b.h5", half_hours(4), data=None)
    refused(ErrorKind.VAR_MISSING, r"b\.h5 has no dataset data; it has date", tmp_path / "b.h5")
    write(tmp_path / "c.h5", half_hours(4), data=None, date=None, flow=np.zeros(3))
    message = r"c\.h5 has no dataset data and no date; it has flow"
    refused(ErrorKind.VAR_MISSING, message, tmp_path / "c.h5", source="taxibj")


def test_a09_f13_lengths_and_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", half_hours(4), date=slots_of(half_hours(5)))
    refused(ErrorKind.SHAPE, r"a\.h5 has data of 4 frames but date of \(5,\)", tmp_path / "a.h5")
    write(tmp_path / "b.h5", half_hours(4), data=np.zeros((4, 3, 2, 2)))
    refused(
        ErrorKind.SHAPE, r"data of .*b\.h5 is float64 \(4, 3, 2, 2\), wanted numbers \(n, 2, rows", tmp_path / "b.h5"
    )
    write(tmp_path / "c.h5", half_hours(4), data=np.zeros((4, 2, 2)))
    refused(ErrorKind.SHAPE, r"data of .*c\.h5 is float64 \(4, 2, 2\)", tmp_path / "c.h5")


def test_c01_c03_rows_out_of_order_or_twice_are_named_with_their_file(tmp_path: Path) -> None:
    times = half_hours(4)
    write(tmp_path / "a.h5", times[[0, 2, 1, 3]])
    refused(ErrorKind.TIME_ORDER, r"date of .*a\.h5 is not increasing: 2013-07-01T00:30 follows", tmp_path / "a.h5")
    write(tmp_path / "b.h5", times[[0, 1, 1, 3]])
    refused(
        ErrorKind.TIME_DUPLICATE, r"date of .*b\.h5 has 1 duplicate timestamp \(2013-07-01T00:30", tmp_path / "b.h5"
    )


def test_c08_periods_that_overlap_or_differ_in_cells_are_named(tmp_path: Path) -> None:
    for folder, second in (("times", half_hours(4)), ("cells", half_hours(4, "2014-01-01"))):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.h5", half_hours(4))
        write(tmp_path / folder / "b.h5", second, cells=(3, 5) if folder == "cells" else (3, 4))
    refused(ErrorKind.TIME_OVERLAP, r"a\.h5 and .*b\.h5 overlap: both cover 2013-07-01T00:00", tmp_path / "times")
    refused(ErrorKind.GRID_SHAPE, r"b\.h5 has 3x5 cells but .*a\.h5 has 3x4", tmp_path / "cells")


def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"PK\x03\x04" + bytes(50))
    refused(ErrorKind.FILE_FORMAT, r"a\.h5 is not a netCDF or HDF5 file.*zip", tmp_path / "a.h5", source="taxibj")
    xr.Dataset({"data": ("n", [1.0])}).to_netcdf(tmp_path / "b.h5", format="NETCDF3_CLASSIC", engine="netcdf4")
    refused(ErrorKind.FILE_FORMAT, r"b\.h5 is not an HDF5 file", tmp_path / "b.h5", source="taxibj")


def test_a_folder_with_side_files_only_is_empty(tmp_path: Path) -> None:
    write(tmp_path / "BJ_Meteorology.h5", half_hours(4), data=None)
    refused(ErrorKind.FILE_MISSING, "wanted .*data and date, found Meteorology only", tmp_path, source="taxibj")


def test_damaged_counts_are_named_when_they_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        values = np.random.default_rng(0).random((96, 2, 8, 8))
        file.create_dataset("data", data=values, chunks=(32, 2, 8, 8), compression=4)
        file["date"] = slots_of(half_hours(96))
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    (tmp_path / "a.h5").write_bytes(content)
    series = open_dataset(tmp_path / "a.h5")
    with pytest.raises(StforecastError, match=r"a\.h5 is damaged: HDF5 says"):
        series.compute()


# --- Local clocks


def write_slots(path: Path, times: list[str]) -> None:
    write(path, np.array(times, "datetime64[ns]"))


def test_c14_times_twice_where_the_clock_went_back_are_named_with_the_zone(tmp_path: Path) -> None:
    times = ["2016-11-06T00:30", "2016-11-06T01:00", "2016-11-06T01:30", "2016-11-06T01:00", "2016-11-06T01:30"]
    write_slots(tmp_path / "a.h5", times)
    message = (
        r"date of .*a\.h5 has 2 time\(s\) twice because the clock of America/New_York went back \(2016-11-06T01:00"
    )
    refused(ErrorKind.TIME_DST, message, tmp_path / "a.h5", time_zone="America/New_York")
    refused(ErrorKind.TIME_DUPLICATE, "2 duplicate timestamps", tmp_path / "a.h5", time_zone="Asia/Shanghai")


def test_c14_a_clock_that_providers_have_smoothed_is_read_and_can_be_asked(tmp_path: Path) -> None:
    times = half_hours(96, "2016-03-13")
    write(tmp_path / "a.h5", times)
    series = open_dataset(tmp_path / "a.h5", time_zone="America/New_York")
    np.testing.assert_array_equal(series["time"], times)
    nonexistent = nonexistent_times(times, "America/New_York")
    np.testing.assert_array_equal(nonexistent, np.array(["2016-03-13T02:00", "2016-03-13T02:30"], "datetime64[ns]"))
    assert len(nonexistent_times(times, "Asia/Shanghai")) == len(ambiguous_times(times, "Asia/Shanghai")) == 0


def test_a_period_of_slots_is_chosen(tmp_path: Path) -> None:
    flows = write(tmp_path / "a.h5", half_hours(200))
    series = open_dataset(tmp_path / "a.h5", period=("2013-07-02", "2013-07-02"))
    np.testing.assert_array_equal(series["inflow"], flows[48:96, 0])
    message = r"no frame lies in the period 2014..2014; the data run from 2013-07-01T00:00 to 2013-07-05T03:30"
    refused(ErrorKind.EMPTY_SELECTION, message, tmp_path / "a.h5", period=("2014", "2014"))
    refused(ErrorKind.TIME_ORDER, "period 2014..2013 ends before", tmp_path / "a.h5", period=("2014", "2013"))
    refused(ErrorKind.ARGUMENT, "is not two dates", tmp_path / "a.h5", period=("soon", "later"))


# --- What lies beside


def write_meteorology(path: Path, times: np.ndarray, **datasets: object) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    types = random.integers(0, 17, len(times))
    values = {
        "Temperature": random.uniform(-20, 40, len(times)),
        "WindSpeed": random.uniform(0, 40, len(times)),
        "Weather": np.eye(17)[types],
    }
    with h5py.File(path, "w") as file:
        for name, array in ({"date": slots_of(times)} | values | datasets).items():
            if array is not None:
                file[name] = array
    return values | {"types": types}


def test_holidays_and_weather_beside_become_coordinates_of_their_slots(tmp_path: Path) -> None:
    times = half_hours(96)
    flows = write(tmp_path / "BJ13.h5", times)
    (tmp_path / "BJ_Holiday.txt").write_text("20130702\n20131001\r\n\n")
    known = half_hours(90, "2013-06-30T23:00")  # it begins two slots earlier and lacks the last eight
    shuffled = np.random.default_rng(2).permutation(90)
    sides = write_meteorology(tmp_path / "BJ_Meteorology.h5", known[shuffled])
    series = open_dataset(tmp_path)
    np.testing.assert_array_equal(series["inflow"], flows[:, 0])
    assert set(series.data_vars) == {"inflow", "outflow"}
    np.testing.assert_array_equal(series["holiday"], [0] * 48 + [1] * 48)
    by_time = np.argsort(known[shuffled])[2:]
    expected = np.full(96, np.nan, np.float32)
    expected[:88] = sides["Temperature"][by_time]
    np.testing.assert_array_equal(series["air_temperature"], expected)
    expected[:88] = sides["WindSpeed"][by_time]
    np.testing.assert_array_equal(series["wind_speed"], expected)
    np.testing.assert_array_equal(series["weather"], [*sides["types"][by_time], *[-1] * 8])
    assert series["air_temperature"].attrs["units"] == "degC"
    assert "NaN where" in series["air_temperature"].attrs["comment"]
    assert series["weather"].attrs["flag_meanings"].split()[1 + 4] == "sprinkle"
    assert all(series[name].dims == ("time",) for name in ("holiday", "air_temperature", "wind_speed", "weather"))
    alone = open_dataset(tmp_path / "BJ13.h5")
    xr.testing.assert_identical(alone.compute(), series.compute())


def test_sides_of_all_periods_stand_at_their_own_times(tmp_path: Path) -> None:
    first, second = half_hours(48), half_hours(48, "2014-03-01")
    write(tmp_path / "BJ13.h5", first)
    write(tmp_path / "BJ14.h5", second)
    (tmp_path / "BJ_Holiday.txt").write_text("20140301\n")
    write_meteorology(tmp_path / "BJ_Meteorology.h5", second)
    series = open_dataset(tmp_path)
    np.testing.assert_array_equal(series["holiday"], [0] * 48 + [1] * 48)
    assert np.isnan(series["wind_speed"][:48]).all()
    assert not np.isnan(series["wind_speed"][48:]).any()


def test_another_citys_sides_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "NYC16.h5", half_hours(4))
    (tmp_path / "BJ_Holiday.txt").write_text("no dates at all")
    assert "holiday" not in open_dataset(tmp_path / "NYC16.h5").coords


def test_a_slot_observed_twice_must_say_the_same(tmp_path: Path) -> None:
    times = half_hours(4)
    write(tmp_path / "BJ13.h5", times)
    path = tmp_path / "BJ_Meteorology.h5"
    twice = np.concatenate([times, times[:1]])
    write_meteorology(path, twice, Temperature=[1, 2, 3, 4, 1], WindSpeed=np.ones(5), Weather=np.eye(17)[[0] * 5])
    np.testing.assert_array_equal(open_dataset(tmp_path)["air_temperature"], [1, 2, 3, 4])
    write_meteorology(path, twice, Temperature=[1, 2, 3, 4, 9], WindSpeed=np.ones(5), Weather=np.eye(17)[[0] * 5])
    refused(ErrorKind.TIME_DUPLICATE, r"Meteorology\.h5: 2013-07-01T00:00 is there twice with other values", tmp_path)


@pytest.mark.parametrize(
    ("datasets", "kind", "message"),
    [
        ({"WindSpeed": None}, ErrorKind.VAR_MISSING, "there is no dataset WindSpeed, only Temperature, Weather, date"),
        ({"Weather": np.zeros((4, 16))}, ErrorKind.SHAPE, r"Weather is float64 \(4, 16\), wanted numbers \(4, 17\)"),
        ({"Temperature": np.zeros(3)}, ErrorKind.SHAPE, r"Temperature is float64 \(3,\), wanted numbers \(4,\)"),
        ({"Weather": np.ones((4, 17))}, ErrorKind.RANGE, "Weather has 17 types at row 0, wanted one of 17"),
        ({"date": np.array([b"2013070149"] * 4)}, ErrorKind.TIME_SLOT, "'2013070149' at row 0 ends in a slot outside"),
    ],
)
def test_a09_damaged_meteorology_is_named(
    tmp_path: Path, datasets: dict[str, object], kind: ErrorKind, message: str
) -> None:
    write(tmp_path / "BJ13.h5", half_hours(4))
    write_meteorology(tmp_path / "BJ_Meteorology.h5", half_hours(4), **datasets)
    refused(kind, rf"BJ_Meteorology\.h5: .*{message}", tmp_path)


@pytest.mark.parametrize("line", ["2013-09-19", "20130231", "holiday", "2013091", "٢٠١٣٠٩١٩"])
def test_a_list_of_holidays_with_something_else_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    write(tmp_path / "BJ13.h5", half_hours(4))
    (tmp_path / "BJ_Holiday.txt").write_text(f"20130919\n{line}\n")
    refused(ErrorKind.FILE_FORMAT, r"BJ_Holiday\.txt: line 2 is '.*', wanted a date YYYYMMDD", tmp_path)


def test_weather_that_is_not_marked_is_absent(tmp_path: Path) -> None:
    write(tmp_path / "BJ13.h5", half_hours(4))
    write_meteorology(tmp_path / "BJ_Meteorology.h5", half_hours(4), Weather=np.zeros((4, 17)))
    np.testing.assert_array_equal(open_dataset(tmp_path)["weather"], [-1] * 4)


# --- Real files


@needs_real_data
def test_new_york_is_read_as_it_is() -> None:
    path = REAL_DATA / "taxinyc" / "NYC16_M16x12_T30_InOut.h5"
    series = open_dataset(
        path, bounds=(40.699031, 40.849878, -74.022216, -73.873868), time_zone="America/New_York"
    ).compute()
    assert dict(series.sizes) == {"time": 4320, "row": 16, "column": 12}
    np.testing.assert_array_equal(series["time"], half_hours(4320, "2016-01-01"))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(series.to_dataarray("flow").transpose("time", ...), file["data"])
    values = series.to_dataarray()
    assert (values == values.round()).all()
    assert (float(values.min()), float(values.max())) == (0, 1518)
    blizzard = series["inflow"].sel(time="2016-01-23T20").mean()
    assert blizzard < 0.1 * series["inflow"].sel(time="2016-01-16T20").mean()
