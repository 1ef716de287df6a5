import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series

from stforecast.errors import StforecastError
from stforecast.grid import Grid, axis_of, cell_bounds, check_finite, check_forecast, check_series, with_forecast_times


def grid(**changes: object) -> Grid:
    parts = {
        "y_name": "lat",
        "x_name": "lon",
        "y": np.linspace(-80, 80, 9),
        "x": np.arange(0, 360, 30.0),
        "is_geographic": True,
    }
    return Grid(**(parts | changes))


@pytest.mark.parametrize(
    ("dim", "attrs", "axis"),
    [
        ("south_north", {"axis": "Y"}, "Y"),
        ("j", {"standard_name": "latitude"}, "Y"),
        ("j", {"units": "degrees_north"}, "Y"),
        ("lat", {}, "Y"),
        ("longitude", {}, "X"),
        ("plev", {}, "Z"),
        ("height_above", {"units": "millibars"}, "Z"),
        ("valid_time", {"axis": "T"}, "T"),
        ("station", {}, None),
    ],
)
def test_axes_are_found_by_attributes_then_by_name(dim: str, attrs: dict, axis: str | None) -> None:
    assert axis_of(xr.Dataset(coords={dim: (dim, [1.0, 2.0], attrs)}), dim) == axis


def test_cell_areas_are_shares_of_the_sphere() -> None:
    area = grid().cell_area()
    # Outer rows reach from 70 to 90 degrees.
    share = (np.sin(np.deg2rad(90)) - np.sin(np.deg2rad(70))) / 2 * 9
    np.testing.assert_allclose(area[[0, -1]], share)
    np.testing.assert_allclose(area.mean(), 1)


def test_regional_areas_extrapolate_half_a_cell_and_stop_at_the_pole() -> None:
    area = grid(y=np.array([85.0, 75.0, 65.0])).cell_area()
    bands = np.sin(np.deg2rad([90, 80, 70, 60]))
    np.testing.assert_allclose(area, (bands[:-1] - bands[1:]) / (bands[:-1] - bands[1:]).mean())


def test_plane_grids_weigh_all_cells_alike() -> None:
    np.testing.assert_array_equal(Grid.of(make_city()).cell_area(), 1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 180, 360])
def test_positions_find_the_same_cells_in_another_order(flip: bool, shift: int) -> None:
    mine = grid()
    x = np.sort((mine.x + shift) % 360 - shift)
    other = grid(y=mine.y[::-1] if flip else mine.y, x=x, y_name="latitude")
    rows, columns = mine.positions_in(other)
    np.testing.assert_allclose(other.y[rows], mine.y)
    np.testing.assert_allclose(other.x[columns] % 360, mine.x)


def test_float32_coordinates_are_the_same_grid() -> None:
    assert grid(x=np.arange(0, 360, 30.0).astype(np.float32).astype(float) + 1e-5) == grid()
    assert grid(y=np.linspace(-80, 80, 9)[::-1]) != grid()


@pytest.mark.parametrize(
    "other", [grid(y=np.linspace(-70, 70, 9)), grid(x=np.arange(0, 180, 15.0)), grid(is_geographic=False)]
)
def test_cells_that_do_not_coincide_are_refused_naming_both_grids(other: Grid) -> None:
    with pytest.raises(StforecastError, match=r"wanted the grid 9x12 .*latitude -80\.\.80.* but the data have 9x12"):
        grid().positions_in(other)


def test_a_globe_is_known_by_its_last_column() -> None:
    assert grid().spans_globe
    assert not grid(x=np.arange(0, 330, 30.0)).spans_globe
    assert not Grid.of(make_city()).spans_globe


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": np.arange(0, 361, 30.0)}, r"lon runs from 0 to 360, so the globe is there more than once; .*lon=slice"),
        ({"x": np.arange(180, -181, -30.0)}, "lon runs from 180 to -180, so the globe is there more than once"),
        ({"y": np.arange(20.0, 141, 40)}, "lat must lie between -90 and 90 but run from 20 to 140; colatitudes"),
        (
            {"x": np.array([0, 10, 20, 330, 340, 350.0])},
            r"lon jumps from 20 to 330 while .*lon=\(dataset.lon \+ 180\) % 360 - 180\).sortby",
        ),
        (
            {"x": np.array([-180, -170, 160, 170.0])},
            r"lon jumps from -170 to 160 while .*lon=dataset.lon % 360\).sortby",
        ),
    ],
)
def test_grids_that_are_none_on_a_sphere_are_refused(changes: dict, match: str) -> None:
    with pytest.raises(StforecastError, match=match):
        grid(**changes)


def test_what_the_message_says_mends_a_torn_axis() -> None:
    for torn in ([0, 10, 20, 330, 340, 350.0], [-180, -170, 160, 170.0]):
        dataset = xr.Dataset(coords={"lat": [0.0], "lon": torn})
        with pytest.raises(StforecastError) as caught:
            Grid.of(dataset)
        mended = eval(str(caught.value).split("e.g. ")[1], {"dataset": dataset})
        assert set(np.diff(Grid.of(mended).x)) == {10.0}


@pytest.mark.parametrize("x", [np.array([0, 10, 20, 40, 50.0]), np.array([0.0, 180]), np.geomspace(1, 300, 12)])
def test_uneven_columns_are_a_grid(x: np.ndarray) -> None:
    assert not grid(x=x).spans_globe or len(x) == 2


def test_bounds_of_one_cell_are_one_apart() -> None:
    np.testing.assert_array_equal(cell_bounds(np.array([3.0])), [2.5, 3.5])


def test_curvilinear_and_unsorted_axes_are_refused() -> None:
    with pytest.raises(StforecastError, match="lat must be finite and strictly monotonic"):
        grid(y=np.array([1.0, 3.0, 2.0]))
    with pytest.raises(StforecastError, match="one-dimensional"):
        grid(y=np.ones((2, 2)))


def test_a_series_gives_its_step(series: xr.Dataset) -> None:
    assert check_series(series) == np.timedelta64(6, "h")
    assert check_series(make_series(absent=(5,)), allow_gaps=True) == np.timedelta64(6, "h")


def without_units(series: xr.Dataset) -> xr.Dataset:
    return series.assign(t2m=series["t2m"].drop_attrs())


def in_zone(zone: str):
    return lambda s: s.assign_coords(time=("time", s["time"].to_numpy(), {"time_zone": zone}))


def packed(series: xr.Dataset) -> xr.Dataset:
    return series.assign(t2m=series["t2m"].assign_attrs(scale_factor=0.01, add_offset=250.0))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda s: s.drop_vars("t2m"), "no data variables"),
        (lambda s: s.isel(time=0), "wanted one time dimension"),
        (lambda s: s.rename(latitude="station").drop_vars("station"), r"wanted one latitude \(Y\) dimension"),
        (lambda s: s.expand_dims(member=3), r"variable t2m has dimensions \('member'"),
        (lambda s: s.assign(x=s["t2m"][0]), "variable x has dimensions"),
        (lambda s: s.assign(t2m=s["t2m"].astype(str)), "variable t2m is <U"),
        (without_units, r"variable t2m has no units; set dataset\['t2m'\]"),
        (lambda s: s.assign_coords(time=np.arange(80.0)), "time holds float64 values .the first is 0.0."),
        (lambda s: s.drop_vars("time"), "time has no times; give it datetime64 values"),
        (lambda s: s.convert_calendar("noleap", use_cftime=True), "time is in the calendar 'noleap', wanted a Greg"),
        (lambda s: s.assign_coords(time=s.indexes["time"].tz_localize("UTC")), "time has the time zone UTC, .*tz_conv"),
        (in_zone("Europe/Berln"), "unknown time zone 'Europe/Berln', wanted an IANA name"),
        (packed, "t2m has scale_factor and add_offset among its attributes, so its values are packed, not in 'K'"),
        (lambda s: s.isel(time=[0, 1, 1, 2]), "duplicate"),
        (lambda s: s.isel(time=[0, 1, 2, 5]), "gap"),
    ],
)
def test_what_is_no_series_is_refused_by_name(series: xr.Dataset, spoil, match: str) -> None:
    with pytest.raises(StforecastError, match=match):
        check_series(spoil(series))


def test_a_data_array_is_a_type_error(series: xr.Dataset) -> None:
    with pytest.raises(TypeError, match="wanted an xarray.Dataset, got DataArray"):
        check_series(series["t2m"])


@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (np.inf, "inf")])
def test_the_first_value_that_is_not_finite_is_placed(series: xr.Dataset, value: float, word: str) -> None:
    spoiled = series["t2m"].copy()
    spoiled[3, 1, 2] = spoiled[7, 0, 0] = value
    match = f"variable t2m has 2 {word} value.s. between .* first at 2016-01-01T18:00, latitude -20, longitude 120"
    with pytest.raises(StforecastError, match=match):
        check_finite(spoiled)
    check_finite(series["t2m"])


def make_forecast(series: xr.Dataset) -> xr.Dataset:
    lead_time = np.timedelta64(6, "h").astype("timedelta64[ns]") * np.arange(1, 4)
    part = series.isel(time=slice(0, 5)).rename(time="init_time").expand_dims(lead_time=lead_time)
    return with_forecast_times(part.transpose("init_time", "lead_time", ...), time_attrs={"time_zone": "UTC"})


def test_c17_a_forecast_is_labelled_with_the_sum_of_its_times(series: xr.Dataset) -> None:
    forecast = make_forecast(series)
    check_forecast(forecast)
    assert forecast["valid_time"].dims == ("init_time", "lead_time")
    assert forecast["valid_time"].attrs == {
        "standard_name": "time",
        "long_name": "time that is forecast",
        "time_zone": "UTC",
    }


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda f: f.drop_vars("t2m"), "no data variables"),
        (lambda f: f.drop_vars("valid_time"), "has the coordinates init_time, lead_time and valid_time"),
        (lambda f: f.assign(t2m=f["t2m"].isel(lead_time=0, drop=True)), "variable t2m has dimensions"),
        (lambda f: f.assign(t2m=f["t2m"].drop_attrs()), "no units"),
        (lambda f: f.assign_coords(lead_time=[1, 2, 3]), "positive, increasing timedeltas"),
        (lambda f: f.isel(init_time=[1, 0]), "init_time is not increasing"),
        (
            lambda f: f.assign_coords(valid_time=f["valid_time"] + np.timedelta64(6, "h")),
            "valid_time is 2016-01-01T12:00 where init_time . lead_time is 2016-01-01T06:00",
        ),
    ],
)
def test_c17_what_is_no_forecast_is_refused_by_name(series: xr.Dataset, spoil, match: str) -> None:
    with pytest.raises(StforecastError, match=match):
        check_forecast(spoil(make_forecast(series)))
