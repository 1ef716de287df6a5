"""Harmonising: labels stay with their values, means are conserved, and what cannot be done is named."""

from datetime import timedelta
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from hypothesis import given, settings
from hypothesis import strategies as st

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, check_series
from stforecast.harmonisation import harmonise
from stforecast.sources import open_dataset
from stforecast.split import Split
from stforecast.store import prepare


def on_grid(latitude: np.ndarray, longitude: np.ndarray, *, frames: int = 2, seed: int = 0) -> xr.Dataset:
    """Noise on any latitudes and longitudes, with a static field and a time coordinate beside."""
    random = np.random.default_rng(seed)
    series = make_series(frames, shape=(len(latitude), len(longitude)))
    axes = {
        "latitude": ("latitude", latitude, series["latitude"].attrs),
        "longitude": ("longitude", longitude, series["longitude"].attrs),
    }
    values = random.normal(280, 5, (frames, len(latitude), len(longitude))).astype(np.float32)
    static = random.random((len(latitude), len(longitude))).astype(np.float32)
    return xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), values, {"units": "K"})},
        {
            "time": series["time"],
            **axes,
            "lsm": (("latitude", "longitude"), static, {"units": "1"}),
            "holiday": ("time", np.arange(frames, dtype=np.int8)),
        },
    )


def globe(rows: int = 8, columns: int = 16, *, west: float = 0.0, descending: bool = False) -> xr.Dataset:
    latitude = -90 + (np.arange(rows) + 0.5) * 180 / rows
    series = on_grid(latitude, west + np.arange(columns) * 360 / columns)
    return series.isel(latitude=slice(None, None, -1)) if descending else series


def at(series: xr.Dataset, latitude: float, longitude: float) -> np.ndarray:
    """The values of a cell, found by looking at every label."""
    rows, columns = series["latitude"].to_numpy(), series["longitude"].to_numpy()
    row = int(np.abs(rows - latitude).argmin())
    column = int(np.abs((columns - longitude + 180) % 360 - 180).argmin())
    assert abs(rows[row] - latitude) < 1e-9
    assert abs((columns[column] - longitude + 180) % 360 - 180) < 1e-9
    return series["t2m"].to_numpy()[:, row, column]


def labels_stay(changed: xr.Dataset, series: xr.Dataset) -> None:
    """Every cell of the changed series has the values, and the static field, that its labels have in the series."""
    for row, column in product(range(changed.sizes["latitude"]), range(changed.sizes["longitude"])):
        cell = changed.isel(latitude=row, longitude=column)
        latitude, longitude = float(cell["latitude"]), float(cell["longitude"])
        np.testing.assert_array_equal(cell["t2m"], at(series, latitude, longitude))
        swapped = series.assign(t2m=series["lsm"].expand_dims(time=series["time"]))
        assert float(cell["lsm"]) == at(swapped, latitude, longitude)[0]
    check_series(changed)


def global_mean(variable: xr.DataArray, grid: Grid) -> float:
    return float((variable.astype(np.float64) * grid.cell_area()).mean())


def refused(kind: ErrorKind, message: str, series: xr.Dataset, **options: object) -> None:
    with pytest.raises(StforecastError, match=message) as caught:
        harmonise(series, **options)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def without_record(series: xr.Dataset) -> xr.Dataset:
    bare = series.copy()
    bare.attrs.pop("harmonised", None)
    return bare


# --- Order of rows and columns


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("west", [0.0, -180.0, -90.0, 22.5])
@pytest.mark.parametrize("convention", ["0..360", "-180..180"])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_i09_labels_stay_with_their_values(west: float, descending: bool, convention: str, order: str) -> None:
    series = globe(4, 8, west=west, descending=descending)
    changed = harmonise(series, latitude=order, longitude=convention)
    labels_stay(changed, series)
    assert (np.diff(changed["latitude"]) > 0).all() == (order == "ascending")
    first = 0 if convention == "0..360" else -180
    assert (changed["longitude"] >= first).all()
    assert (changed["longitude"] < first + 360).all()
    assert (np.diff(changed["longitude"]) > 0).all()


@given(rows=st.integers(2, 6), columns=st.integers(2, 9), west=st.floats(-180, 359), descending=st.booleans())
@settings(deadline=None, max_examples=40)
def test_turning_and_turning_back_changes_nothing(rows: int, columns: int, west: float, descending: bool) -> None:
    series = harmonise(globe(rows, columns, west=west, descending=descending), longitude="0..360")
    there = harmonise(series, latitude="descending", longitude="-180..180")
    back = harmonise(there, latitude="descending" if descending else "ascending", longitude="0..360")
    xr.testing.assert_allclose(without_record(back), without_record(series), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(back["t2m"], series["t2m"])


def test_what_is_in_order_is_left_as_it_is() -> None:
    series = globe()
    assert harmonise(series) is series
    xr.testing.assert_identical(without_record(harmonise(series, latitude="ascending", longitude="0..360")), series)


def test_columns_that_would_be_torn_apart_stay_together() -> None:
    europe = on_grid(np.arange(30.0, 70, 10), np.arange(-20.0, 30, 5))
    refused(ErrorKind.GRID_LON, r"longitudes -20 to 25 cross the seam of 0\.\.360", europe, longitude="0..360")
    pacific = on_grid(np.arange(-20.0, 20, 10), np.arange(150.0, 211, 5))
    refused(ErrorKind.GRID_LON, r"cross the seam of -180\.\.180", pacific, longitude="-180..180")
    america = on_grid(np.arange(20.0, 60, 10), np.arange(230.0, 300, 5))
    labels_stay(harmonise(america, longitude="-180..180"), america)


# --- Regions


@pytest.mark.parametrize("west", [0.0, -180.0])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    "region",
    [
        (-30, 60, 10, 100),
        (-30, 60, -60, 60),
        (-30, 60, 300, 60),
        (0, 90, 150, 210),
        (0, 90, 150, -150),
        (-90, 90, 170, -170),
        (-90, 0, 270, 260),
        (-90, 90, -180, 180),
        (-90, 90, 0, 360),
        (10, 13, 40, 50),
    ],
)
def test_f12_a_region_is_the_cells_between_its_edges_across_any_seam(
    region: tuple[float, float, float, float], west: float, descending: bool
) -> None:
    series = globe(8, 16, west=west, descending=descending)
    changed = harmonise(series, region=region)
    south, north, west_edge, east_edge = region
    width = 360 if east_edge - west_edge >= 360 else (east_edge - west_edge) % 360
    rows = [value for value in series["latitude"].to_numpy() if south <= value <= north]
    columns = [value for value in series["longitude"].to_numpy() if (value - west_edge) % 360 <= width]
    assert changed.sizes["latitude"] == len(rows)
    assert changed.sizes["longitude"] == len(columns)
    labels_stay(changed, series)
    steps = np.diff(changed["longitude"])
    np.testing.assert_allclose(steps, 22.5)  # neighbours stay neighbours


def test_a_region_keeps_the_datas_own_longitudes_where_they_run_on() -> None:
    america = on_grid(np.arange(20.0, 60, 10), np.arange(200.0, 331, 10))
    changed = harmonise(america, region=(20, 50, -150, -50))
    np.testing.assert_array_equal(changed["longitude"], np.arange(210.0, 311, 10))


@given(
    south=st.integers(-90, 60),
    height=st.integers(25, 90),
    west=st.integers(-180, 359),
    width=st.integers(30, 300),
    start=st.sampled_from([0.0, -180.0]),
)
@settings(deadline=None, max_examples=40)
def test_rolling_and_selecting_commute(south: int, height: int, west: int, width: int, start: float) -> None:
    series = globe(8, 16, west=start)
    region = (south, min(south + height, 90), west, west + width if west + width <= 360 else west + width - 360)
    selected = harmonise(series, region=region)
    rolled = harmonise(series, longitude="-180..180" if start == 0 else "0..360", latitude="descending")
    other = harmonise(harmonise(rolled, region=region), latitude="ascending")
    np.testing.assert_array_equal(selected["t2m"], other["t2m"])
    np.testing.assert_array_equal(selected["lsm"], other["lsm"])
    np.testing.assert_allclose(np.asarray(selected["longitude"] - other["longitude"]) % 360, 0, atol=1e-9)


def test_f12_an_empty_region_is_refused_with_both_ranges() -> None:
    europe = on_grid(np.arange(30.0, 71, 10), np.arange(-20.0, 31, 5))
    message = "no cell has a latitude from -40 to -10; the series has 30 to 70"
    refused(ErrorKind.EMPTY_SELECTION, message, europe, region=(-40, -10, 0, 10))
    message = "no cell has a longitude from 100 to 140; the series has -20 to 30"
    refused(ErrorKind.EMPTY_SELECTION, message, europe, region=(30, 60, 100, 140))
    refused(ErrorKind.EMPTY_SELECTION, "no cell has a latitude from 31 to 32", europe, region=(31, 32, 0, 10))


@pytest.mark.parametrize(
    "region",
    [(60, 30, 0, 10), (-91, 30, 0, 10), (0, 30, 0, 400), (0, float("nan"), 0, 10), (0, 30, -400, 10), (30, 60, 0)],
)
def test_a_region_that_is_none_is_refused(region: tuple[float, ...]) -> None:
    refused(ErrorKind.ARGUMENT, r"a region is \(south, north, west, east\)", globe(), region=region)


def test_i14_levels_that_are_not_there_are_named() -> None:
    series = make_series(3, levels=(500, 700, 850))
    xr.testing.assert_identical(without_record(harmonise(series, levels=[850, 500])), series.sel(level=[850, 500]))
    refused(ErrorKind.EMPTY_SELECTION, "level has no 300; it has 500, 700, 850 hPa", series, levels=[300])


# --- Coarser grids


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_a_coarse_cell_is_the_mean_of_its_cells_by_area(count: int, descending: bool) -> None:
    series = globe(8, 16, descending=descending)
    coarse = harmonise(series, coarsen=count)
    grid = Grid.of(series)
    bounds = np.deg2rad(np.linspace(-90, 90, 9) * (-1 if descending else 1))
    area = np.abs(np.diff(np.sin(bounds)))[:, None] * np.ones(16)  # on the sphere, from bounds written down here
    values = series["t2m"].to_numpy().astype(np.float64)
    for row, column in product(range(8 // count), range(16 // count)):
        block = np.s_[row * count : (row + 1) * count], np.s_[column * count : (column + 1) * count]
        expected = (values[:, *block] * area[block]).sum((1, 2)) / area[block].sum()
        np.testing.assert_allclose(coarse["t2m"][:, row, column], expected, rtol=1e-6)
        lsm = series["lsm"].to_numpy().astype(np.float64)[block]
        np.testing.assert_allclose(coarse["lsm"][row, column], (lsm * area[block]).sum() / area[block].sum(), rtol=1e-6)
        np.testing.assert_allclose(coarse["latitude"][row], grid.y[block[0]].mean())
        np.testing.assert_allclose(coarse["longitude"][column], grid.x[block[1]].mean())
    assert Grid.of(coarse).spans_globe
    assert coarse["t2m"].dtype == np.float32
    assert coarse["t2m"].attrs == series["t2m"].attrs


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    count=st.integers(1, 4),
    south=st.floats(-90, 40),
    spacing=st.floats(0.5, 6),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_the_mean_over_the_grid_is_conserved(
    rows: int, columns: int, count: int, south: float, spacing: float, seed: int
) -> None:
    # From pole to pole at most; a grid may have its first row on the pole, half of whose cells are not there.
    most = int((90 - south) / spacing)
    rows = min(rows * count, most // count * count)
    if rows < 2 * count or columns < 2:
        return
    series = on_grid(south + np.arange(rows) * spacing, np.arange(columns * count) * spacing, seed=seed)
    coarse = harmonise(series, coarsen=count)
    fine_mean = global_mean(series["t2m"], Grid.of(series))
    assert abs(global_mean(coarse["t2m"], Grid.of(coarse)) - fine_mean) < 2e-5  # float32 has 3e-5 at 280


def test_blocks_that_would_be_left_over_are_refused() -> None:
    message = "coarsen=3 does not divide 8 latitude and 16 longitude; choose a divisor of both"
    refused(ErrorKind.SHAPE, message, globe(8, 16), coarsen=3)
    refused(ErrorKind.SHAPE, "coarsen=8 does not divide 12 longitude", globe(8, 12), coarsen=8)
    refused(ErrorKind.ARGUMENT, "wanted coarsen of 1 or more, got 0", globe(8, 12), coarsen=0)
    cut = harmonise(globe(8, 16), region=(-68, 68, 0, 315), coarsen=3)
    assert cut.sizes == {"time": 2, "latitude": 2, "longitude": 5}


def test_nan_makes_its_coarse_cell_nan_and_no_other() -> None:
    series = globe(8, 16)
    series["t2m"][0, 3, 5] = np.nan
    coarse = harmonise(series, coarsen=2)
    expected = np.zeros((2, 4, 8), bool)
    expected[0, 1, 2] = True
    np.testing.assert_array_equal(np.isnan(coarse["t2m"]), expected)


def test_a_plane_is_coarsened_by_plain_means_and_its_rows_counted_anew() -> None:
    city = make_city(4, shape=(4, 6)).assign_coords(
        latitude=("row", [40.8, 40.7, 40.6, 40.5], {"units": "degrees_north"})
    )
    coarse = harmonise(city, coarsen=2)
    expected = city["inflow"].to_numpy().reshape(4, 2, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(coarse["inflow"], expected, rtol=1e-6)
    np.testing.assert_array_equal(coarse["row"], [0, 1])
    assert coarse["row"].attrs == city["row"].attrs
    np.testing.assert_allclose(coarse["latitude"], [40.75, 40.55])
    check_series(coarse)


@pytest.mark.parametrize("option", [{"region": (0, 1, 0, 1)}, {"latitude": "ascending"}, {"longitude": "0..360"}])
def test_degrees_are_not_asked_of_a_plane(option: dict[str, object]) -> None:
    refused(
        ErrorKind.DIMS,
        "is for latitudes and longitudes, but the grid is a plane of row and column",
        make_city(4),
        **option,
    )


# --- Longer steps


def test_instants_are_the_frames_at_multiples_of_the_step() -> None:
    series = make_series(20, step="6h")
    daily = harmonise(series, step="1D", resample="instant")
    xr.testing.assert_identical(without_record(daily), series.isel(time=slice(0, None, 4)))
    late = harmonise(series.isel(time=slice(1, None)), step=timedelta(days=1), resample="instant")
    np.testing.assert_array_equal(late["time"], series["time"][4::4])


@pytest.mark.parametrize("method", ["mean", "sum"])
def test_means_and_sums_are_of_all_frames_of_a_window_and_labelled_by_the_first(method: str) -> None:
    series = on_grid(np.array([10.0, 20.0]), np.array([1.0, 2.0]), frames=20)
    series["t2m"].attrs["valid_max"] = 400.0
    daily = harmonise(series, step=np.timedelta64(1, "D"), resample=method)
    expected = getattr(series["t2m"].to_numpy().astype(np.float64).reshape(5, 4, 2, 2), method)(axis=1)
    np.testing.assert_allclose(daily["t2m"], expected, rtol=1e-6)
    np.testing.assert_array_equal(daily["time"], series["time"][::4])
    assert daily["t2m"].attrs["cell_methods"] == f"time: {method}"
    assert ("valid_max" in daily["t2m"].attrs) == (method == "mean")
    np.testing.assert_array_equal(daily["holiday"], [0, 4, 8, 12, 16])  # a category is that of the first frame
    np.testing.assert_array_equal(daily["lsm"], series["lsm"])


def test_windows_begin_at_multiples_of_the_step_wherever_the_series_does() -> None:
    series = make_series(18, step="6h").isel(time=slice(2, None))
    refused(
        ErrorKind.TIME_GAP,
        "1 window.s. of time lack frames, the first from 2016-01-01T00:00, which has 2 of 4",
        series.isel(time=slice(0, 14)),
        step="1D",
        resample="mean",
    )
    daily = harmonise(series, step="1D", resample="mean", drop_partial=True)
    assert str(daily["time"].to_numpy()[0])[:10] == "2016-01-02"
    assert daily.sizes["time"] == 3


def test_a_window_with_a_gap_is_refused_or_left_out_by_declaration() -> None:
    series = make_series(20, step="6h", absent=(9,))
    refused(
        ErrorKind.TIME_GAP,
        "the first from 2016-01-03T00:00, which has 3 of 4; declare",
        series,
        step="1D",
        resample="mean",
    )
    daily = harmonise(series, step="1D", resample="mean", drop_partial=True)
    whole = make_series(20, step="6h")["t2m"].to_numpy().reshape(5, 4, 4, 6).astype(np.float64).mean(1)
    np.testing.assert_allclose(daily["t2m"], whole[[0, 1, 3, 4]], rtol=1e-6)


def test_nan_in_a_window_makes_its_cell_nan() -> None:
    series = make_series(8, step="6h")
    series["t2m"][1, 2, 3] = np.nan
    daily = harmonise(series, step="1D", resample="mean")
    assert int(np.isnan(daily["t2m"]).sum()) == 1
    assert np.isnan(daily["t2m"][0, 2, 3])


def test_steps_that_are_none_are_refused() -> None:
    series = make_series(20, step="6h")
    refused(
        ErrorKind.TIME_FREQ, "the step 8 h is no multiple of the series' own, 6 h", series, step="8h", resample="mean"
    )
    refused(ErrorKind.TIME_FREQ, "the step 3 h is no multiple", series, step="3h", resample="instant")
    refused(ErrorKind.ARGUMENT, "the step 'often' is no length of time", series, step="often", resample="mean")
    refused(ErrorKind.ARGUMENT, "the step must be above 0", series, step="-6h", resample="mean")
    refused(ErrorKind.ARGUMENT, "step and resample go together", series, step="1D")
    refused(ErrorKind.ARGUMENT, "step and resample go together", series, resample="mean")
    refused(
        ErrorKind.ARGUMENT,
        "unknown resample 'median'; there are instant, mean, sum",
        series,
        step="1D",
        resample="median",
    )
    short = series.isel(time=slice(1, 3))
    refused(
        ErrorKind.EMPTY_SELECTION, "no frame of time is left at a step of 1 d", short, step="1D", resample="instant"
    )


# --- Other grids


def planes(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """A field that is linear in latitude: what linear interpolation gives back exactly, whatever the seam."""
    return np.broadcast_to(250 + 0.5 * latitude[:, None], (len(latitude), len(longitude)))


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("west", [0.0, -180.0])
def test_a_linear_field_is_interpolated_exactly_in_the_order_that_is_asked_for(west: float, descending: bool) -> None:
    series = globe(18, 36, west=west, descending=descending)
    field = planes(series["latitude"].to_numpy(), series["longitude"].to_numpy())
    series["t2m"] = (("time", "latitude", "longitude"), np.stack([field, field + 1]).astype(np.float32), {"units": "K"})
    like = Grid.of(globe(12, 24, west=-180.0, descending=True))
    changed = harmonise(series, like=like)
    assert Grid.of(changed) == like
    np.testing.assert_allclose(changed["t2m"][0], planes(like.y, like.x), rtol=1e-6)
    assert changed["t2m"].dtype == np.float32
    assert changed["t2m"].dims == series["t2m"].dims
    assert changed["t2m"].attrs == series["t2m"].attrs
    assert changed["lsm"].dims == ("latitude", "longitude")
    check_series(changed)


def test_the_own_grid_is_a_fixed_point_of_regridding() -> None:
    series = globe(8, 16)
    for like in (series, Grid.of(series)):
        xr.testing.assert_allclose(without_record(harmonise(series, like=like)), series, rtol=1e-6)


def test_interpolation_goes_across_the_seam() -> None:
    series = globe(8, 16)  # columns at 0, 22.5, … 337.5
    like = Grid.of(on_grid(series["latitude"].to_numpy(), np.array([-11.25, 11.25])))
    changed = harmonise(series, like=like)
    values = series["t2m"].to_numpy()
    np.testing.assert_allclose(changed["t2m"][..., 0], (values[..., 15] + values[..., 0]) / 2, rtol=1e-6)
    np.testing.assert_allclose(changed["t2m"][..., 1], (values[..., 0] + values[..., 1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(changed["lsm"][..., 0], (series["lsm"][..., 15] + series["lsm"][..., 0]) / 2, rtol=1e-5)


def test_a_regional_grid_in_another_convention_is_found() -> None:
    america = on_grid(np.arange(20.0, 61, 10), np.arange(230.0, 301, 10))
    like = Grid.of(on_grid(np.array([25.0, 35.0]), np.array([-125.0, -95.0])))
    changed = harmonise(america, like=like)
    np.testing.assert_array_equal(changed["longitude"], [-125, -95])
    values = america["t2m"].to_numpy()
    np.testing.assert_allclose(changed["t2m"][:, 0, 0], values[:, :2, :2].mean((1, 2)), rtol=1e-6)


def test_a_grid_that_reaches_out_of_the_series_is_refused_with_both() -> None:
    europe = on_grid(np.arange(30.0, 71, 10), np.arange(-20.0, 31, 10))
    wider = Grid.of(on_grid(np.arange(10.0, 71, 10), np.arange(-20.0, 31, 10)))
    refused(ErrorKind.GRID_SHAPE, "the grid 7x6 .* reaches out of the series' own 5x6", europe, like=wider)
    further = Grid.of(on_grid(np.arange(30.0, 71, 10), np.arange(0.0, 61, 10)))
    refused(ErrorKind.GRID_SHAPE, "reaches out", europe, like=further)
    one_row = on_grid(np.array([45.0]), np.arange(0.0, 61, 10))
    refused(ErrorKind.GRID_SHAPE, "nothing is between the cells of 1x7", one_row, like=Grid.of(one_row))
    refused(ErrorKind.GRID_SHAPE, "cannot be put on the plane", europe, like=Grid.of(make_city(4)))
    refused(ErrorKind.ARGUMENT, "unknown regrid 'cubic'", europe, like=wider, regrid="cubic")
    refused(ErrorKind.ARGUMENT, "like= settles the whole grid", europe, like=wider, coarsen=2)


@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    west=st.sampled_from([0.0, -180.0, 7.3]),
    descending=st.booleans(),
    has_poles=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_conservative_regridding_keeps_the_global_mean(
    rows: int, columns: int, west: float, descending: bool, has_poles: bool
) -> None:
    series = globe(8, 16, descending=descending)
    latitude = np.linspace(-90, 90, rows) if has_poles else globe(rows, columns)["latitude"].to_numpy()
    like = Grid.of(on_grid(latitude, west + np.arange(columns) * 360 / columns))
    changed = harmonise(series, like=like, regrid="conservative")
    assert Grid.of(changed) == like
    fine_mean = global_mean(series["t2m"], Grid.of(series))
    assert abs(global_mean(changed["t2m"], like) - fine_mean) < 3e-5  # what float32 has at 280


def test_conservative_regridding_is_coarsening_where_cells_nest() -> None:
    series = globe(8, 16)
    series["t2m"][0, 3, 5] = np.nan
    nested = harmonise(series, coarsen=2)
    regridded = harmonise(series, like=Grid.of(nested), regrid="conservative")
    xr.testing.assert_allclose(without_record(regridded), without_record(nested), rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(regridded["t2m"]), np.isnan(nested["t2m"]))


def test_a_cell_between_two_has_a_share_of_both() -> None:
    series = on_grid(np.array([-10.0, 10.0]), np.array([0.0, 30.0, 60.0]))
    like = Grid.of(on_grid(np.array([-10.0, 10.0]), np.array([20.0, 50.0])))  # 5 to 35 and 35 to 65: 10:20 and 10:20
    changed = harmonise(series, like=like, regrid="conservative")
    values = series["t2m"].to_numpy().astype(np.float64)
    np.testing.assert_allclose(changed["t2m"][..., 0], (values[..., 0] + 2 * values[..., 1]) / 3, rtol=1e-6)
    np.testing.assert_allclose(changed["t2m"][..., 1], (values[..., 1] + 2 * values[..., 2]) / 3, rtol=1e-6)


# --- Together


def test_nothing_is_loaded_and_blocks_are_those_of_the_whole(tmp_path: Path) -> None:
    globe(8, 16).isel(time=[0, 1]).to_netcdf(tmp_path / "a.nc")
    lazy, loaded = open_dataset(tmp_path / "a.nc", static=["lsm"]), globe(8, 16)
    grid = Grid.of(globe(4, 8))
    for options in (
        {"region": (-60, 60, 300, 115), "coarsen": 2},
        {"latitude": "descending", "longitude": "-180..180"},
        {"like": grid},
        {"like": grid, "regrid": "conservative"},
        {"step": "12h", "resample": "mean"},
    ):
        changed = harmonise(lazy, **options)
        assert changed["t2m"].chunks is not None
        assert changed.encoding["source_files"] == [str(tmp_path / "a.nc")]
        expected = harmonise(loaded, **options)
        np.testing.assert_allclose(changed["t2m"], expected["t2m"], rtol=1e-6)
        np.testing.assert_allclose(changed["lsm"], expected["lsm"], rtol=1e-6)


def test_what_was_done_is_written_down() -> None:
    series = make_series(20, shape=(8, 16), levels=(500, 850)).assign_attrs(title="t")
    changed = harmonise(series, levels=[500], step="12h", resample="mean", region=(-60, 60, 0, 170), coarsen=2)
    assert changed.attrs["title"] == "t"
    assert changed.attrs["harmonised"] == "levels 500; step 12 h by mean; region -60, 60, 0, 170; coarsened by 2"
    again = harmonise(changed, latitude="descending")
    assert again.attrs["harmonised"].endswith("coarsened by 2; latitude descending")
    assert "harmonised" not in series.attrs


def test_a_harmonised_series_is_prepared(tmp_path: Path) -> None:
    series = make_series(80, shape=(8, 16))
    changed = harmonise(series, coarsen=2, latitude="descending", longitude="-180..180")
    opened = prepare(changed, tmp_path / "s.zarr", Split.by_fraction(changed["time"].to_numpy()))
    np.testing.assert_allclose(opened["t2m"], changed["t2m"], atol=1e-4)
    np.testing.assert_array_equal(opened["longitude"], changed["longitude"])
    assert "coarsened by 2" in opened.attrs["harmonised"]
