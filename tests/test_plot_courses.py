"""Courses in time: what a meteogram and a profile draw is what the data hold at that place."""

import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.testing import assert_allclose
from test_plot import forecast_of, make_region, with_bounds

from stforecast import plot
from stforecast.baselines import Climatology, HistoricalAverage
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.plot.places import Cell

HERE = {"latitude": 35, "longitude": 230}


def lines_of(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}


def times_on(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xdata(), "datetime64[ns]")


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("series", [make_series(6, shape=(8, 16)), make_region(), make_region(descending=False)])
@pytest.mark.parametrize("turn", [0, 360, -360])
def test_a_place_is_in_the_cell_whose_centre_is_nearest(series: xr.Dataset, turn: float) -> None:
    grid = Grid.of(series)
    rng = np.random.default_rng(0)
    for _ in range(30):
        latitude = rng.uniform(grid.y.min(), grid.y.max())
        longitude = rng.uniform(grid.x.min(), grid.x.max() + 360 / 16 * grid.spans_globe)
        cell = Cell.at(series, {"latitude": latitude, "longitude": longitude + turn})
        apart = np.abs((grid.x - longitude + 180) % 360 - 180)
        assert (cell.row, cell.column) == (np.abs(grid.y - latitude).argmin(), apart.argmin())


@pytest.mark.parametrize(
    ("series", "place", "position", "words"),
    [
        (make_region(), {"lat": 45, "lon": 260}, (3, 6), "45°N, 100°W"),
        (make_region(), {"latitude": 45, "longitude": -100}, (3, 6), "45°N, 100°W"),
        (make_city(6), {"row": 4, "column": 2}, (4, 2), "row 4, column 2"),
        (with_bounds(make_city(6)), {"row": 0, "column": 3}, (0, 3), "row 0, column 3 (40.835°N, 73.892°W)"),
        (with_bounds(make_city(6)), {"latitude": 40.84, "longitude": -73.9}, (0, 3), "row 0, column 3 (40.83"),
        (with_bounds(make_city(6)).isel(row=slice(None, None, -1)), {"row": 0, "column": 3}, (4, 3), "row 0, column 3"),
    ],
)
def test_a_place_is_told_by_degrees_or_by_the_grids_own_names(
    series: xr.Dataset, place: dict[str, float], position: tuple[int, int], words: str
) -> None:
    cell = Cell.at(series, place)
    assert (cell.row, cell.column) == position
    assert cell.words.startswith(words)


@pytest.mark.parametrize(
    ("series", "place", "kind", "words"),
    [
        (make_region(), {"latitude": 85, "longitude": 260}, "EMPTY_SELECTION", "latitude 85 lies outside.* 15 to 75"),
        (make_region(), {"latitude": 45, "longitude": 10}, "EMPTY_SELECTION", "longitude 10 lies outside.* 200 to 330"),
        (make_region(), {"latitude": np.nan, "longitude": 260}, "EMPTY_SELECTION", "latitude nan lies outside"),
        (make_city(6), {"row": 5, "column": 2}, "EMPTY_SELECTION", "row 5 lies outside.* a row from 0 to 4"),
        (make_city(6), {"latitude": 40.7, "longitude": -74}, "ARGUMENT", r"at=\{'row': …, 'column': …\}, not"),
        (make_region(), {"latitude": 40.7}, "ARGUMENT", r"at=\{'latitude': …, 'longitude': …\} or .*'lat': …"),
    ],
)
def test_a_place_that_is_not_on_the_grid_is_refused(
    series: xr.Dataset, place: dict[str, float], kind: str, words: str
) -> None:
    with pytest.raises(StforecastError, match=words) as refused:
        plot.meteogram(forecast_of(series), at=place)
    assert refused.value.kind == kind


def test_a_meteogram_draws_forecast_and_truth_of_the_cell() -> None:
    series = make_region(frames=12)
    forecast = forecast_of(series, inits=(3, 6), horizon=4)
    figure = plot.meteogram(forecast, series.isel(lat=slice(None, None, -1)), at=HERE)
    (axes,) = figure.axes
    lines = lines_of(axes)
    own = forecast["air"].isel(init_time=-1).sel(lat=35, lon=230)
    assert_allclose(lines["forecast"].get_ydata(), own)
    np.testing.assert_array_equal(times_on(lines["forecast"]), own["valid_time"])
    # As long before the init time as the forecast reaches behind it.
    seen = series["air"].sel(lat=35, lon=230).isel(time=slice(2, 11))
    assert_allclose(lines["truth"].get_ydata(), seen)
    np.testing.assert_array_equal(times_on(lines["truth"]), seen["time"])
    assert legend_of(figure) == ["truth", "forecast"]
    assert axes.get_ylabel() == "air temperature [degK]"
    assert axes.get_xlabel() == "valid time [UTC]"
    assert figure.get_suptitle() == "Forecast at 35°N, 130°W\ninit 2014-01-02 12:00 UTC"
    (init,) = (line for line in axes.lines if str(line.get_label()).startswith("_"))
    assert np.asarray(init.get_xdata())[0] == series["time"].to_numpy()[6]


def test_a_meteogram_of_a_city_is_on_its_clock_with_a_panel_a_variable() -> None:
    city = with_bounds(make_city(20))
    figure = plot.meteogram(
        forecast_of(city, inits=(8,)), city, at={"row": 2, "column": 1}, init_time="2016-01-04T09:00Z", before="2h"
    )
    inflow, outflow = figure.axes
    assert (inflow.get_ylabel(), outflow.get_ylabel()) == ("inflow [1]", "outflow [1]")
    assert (inflow.get_xlabel(), outflow.get_xlabel()) == ("", "valid time [America/New_York]")
    assert figure.get_suptitle().endswith("init 2016-01-04 04:00 America/New_York")
    assert inflow.get_ylim()[0] == outflow.get_ylim()[0] == 0  # counts
    for name, axes in (("inflow", inflow), ("outflow", outflow)):
        seen = city[name].sel(row=2, column=1).isel(time=slice(4, 12))
        assert_allclose(lines_of(axes)["truth"].get_ydata(), seen)
    assert len(plot.meteogram(forecast_of(city), at={"row": 2, "column": 1}, variables=["outflow"]).axes) == 1


def test_bounds_are_a_band_about_the_forecast() -> None:
    forecast = forecast_of(make_region())
    air = forecast["air"]
    forecast = forecast.assign(air_lower=air - 1, air_upper=air + 2)
    for name in ("air_lower", "air_upper"):
        forecast[name].attrs = {"units": "degK", "interval": 0.9, "interval_of": "air"}
    figure = plot.meteogram(forecast, at=HERE)
    (axes,) = figure.axes  # the bounds have no panel of their own
    (band,) = axes.collections
    own = air[-1].sel(lat=35, lon=230).to_numpy()
    corners = band.get_paths()[0].vertices
    for valid, value in zip(forecast["valid_time"][-1].to_numpy(), own, strict=True):
        heights = corners[np.isclose(corners[:, 0], date2num(valid)), 1]
        assert_allclose((heights.min(), heights.max()), (value - 1, value + 2), rtol=1e-6)
    assert legend_of(figure) == ["90% interval", "forecast"]


@pytest.mark.parametrize("with_truth", [True, False])
def test_what_is_normal_is_drawn_at_its_own_times(with_truth: bool) -> None:
    series = make_region(frames=48)
    forecast = forecast_of(series, inits=(30,))
    normal = Climatology.fit(series)
    for given in (normal, series):
        figure = plot.meteogram(forecast, series if with_truth else None, at=HERE, normal=given)
        line = lines_of(figure.axes[0])["climatology"]
        rows = slice(27, 34) if with_truth else slice(31, 34)
        np.testing.assert_array_equal(times_on(line), series["time"][rows])
        row, column = list(series["lat"].to_numpy()).index(35), list(series["lon"].to_numpy()).index(230)
        expected = normal.at("air", series["time"].to_numpy()[rows])[:, row, column]
        assert_allclose(line.get_ydata(), expected)


def test_a_citys_normal_is_its_historical_average() -> None:
    city = make_city(48 * 8)
    figure = plot.meteogram(forecast_of(city, inits=(336,)), at={"row": 2, "column": 1}, normal=city)
    line = lines_of(figure.axes[1])["historical average"]
    assert_allclose(
        line.get_ydata(), HistoricalAverage.fit(city).at("outflow", city["time"].to_numpy()[337:340])[:, 2, 1]
    )


def test_the_truth_is_broken_at_a_gap() -> None:
    series = make_region(frames=12).isel(time=[0, 1, 2, 5, 6, 7, 8, 9, 10, 11])
    forecast = forecast_of(make_region(frames=12), inits=(6,), horizon=3)
    line = lines_of(plot.meteogram(forecast, series, at=HERE, before="36h").axes[0])["truth"]
    values = np.asarray(line.get_ydata())
    assert np.isnan(values).tolist() == [False, False, False, True, *[False] * 5]
    assert times_on(line)[3] == np.datetime64("2014-01-01T18:00")


def test_levels_are_chosen_where_a_variable_has_them() -> None:
    series = make_series(8, shape=(4, 6), levels=(500.0, 850.0))
    series["sp"] = series["t2m"].isel(level=0, drop=True).assign_attrs(units="Pa", long_name="surface pressure")
    place = {"latitude": 60, "longitude": 0}
    upper, lower = plot.meteogram(forecast_of(series), series, at=place, level=850).axes
    assert upper.get_ylabel() == "variable t2m at 850 hPa\n[K]"
    assert lower.get_ylabel() == "surface pressure [Pa]"
    seen = series["t2m"].sel(level=850, latitude=60, longitude=0)[:5]
    assert_allclose(lines_of(upper)["truth"].get_ydata(), seen)


def test_what_a_meteogram_cannot_draw_is_refused() -> None:
    series = make_region(frames=12)
    forecast = forecast_of(series, inits=(6,))
    celsius = series.assign(air=(series["air"] - 273.15).assign_attrs(units="degC"))
    infinite = series.copy(deep=True)
    infinite["air"][6] = np.inf
    for keywords, kind, words in (
        ({"variables": ["z"]}, ErrorKind.VAR_MISSING, "no variable z"),
        ({"variables": []}, ErrorKind.ARGUMENT, r"variables=\[\] must name one or more"),
        ({"variables": "air"}, ErrorKind.ARGUMENT, "variables='air' must name"),
        ({"init_time": "2015-01-01"}, ErrorKind.EMPTY_SELECTION, "no init_time 2015-01-01"),
        ({"before": "soon"}, ErrorKind.ARGUMENT, "before 'soon' is no length of time"),
        ({"truth": celsius}, ErrorKind.UNITS, "the truth has air in 'degC'"),
        ({"truth": series.isel(lat=[0, 1])}, ErrorKind.GRID_SHAPE, "the truth: wanted the grid"),
        ({"truth": series.isel(time=[0, 1])}, ErrorKind.TIME_RANGE, "no frame: it has 2014-01-01T00:00 to"),
        ({"truth": infinite}, ErrorKind.INF, "air of the truth has infinite values"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.meteogram(forecast, at=HERE, **keywords)
        assert refused.value.kind == kind
    forecast["air"][...] = np.nan
    with pytest.raises(StforecastError, match="from 2014-01-02 12:00 at 35°N, 130°W is NaN everywhere"):
        plot.meteogram(forecast, at=HERE)


@pytest.mark.parametrize(
    ("start", "step", "expected"),
    [
        ("2014-12-30T12:00", "6h", ["12:00\n30 Dec 2014", "00:00\n31 Dec 2014"]),
        ("2014-12-20", "24h", ["20 Dec\n2014", "01 Jan\n2015"]),
    ],
)
def test_times_have_their_date_or_year_where_it_changes(start: str, step: str, expected: list[str]) -> None:
    series = make_region(frames=20 if step == "24h" else 4)
    times = np.datetime64(start, "ns") + np.arange(series.sizes["time"]) * np.timedelta64(int(step[:-1]), "h")
    series = series.assign_coords(time=times)
    (axes,) = plot.meteogram(forecast_of(series, inits=(0,), horizon=len(times) - 1), at=HERE).axes
    labels = axes.xaxis.get_major_formatter().format_ticks(date2num(times))
    changed = [label for label in labels if "\n" in label]
    assert changed[: len(expected)] == expected


def daily_cycle(days: int = 21) -> xr.Dataset:
    """Counts that depend on the hour and the day of the week, and differ from day to day by its number."""
    city = make_city(48 * days)
    hour = np.arange(48 * days) % 48 / 2
    day = np.arange(48 * days) // 48
    values = 100 * (day % 7) + hour + day // 7 * 10
    city["inflow"] = city["inflow"] * 0 + xr.DataArray(values, dims="time").astype(np.float32)
    city["inflow"].attrs = {"units": "1", "valid_min": 0, "long_name": "cars in"}
    return city


def test_a_profile_has_the_median_and_the_quantiles_of_the_days() -> None:
    city = daily_cycle()
    figure = plot.profile(city, at={"row": 0, "column": 0}, quantiles=(0.25, 0.75))
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert list(lines) == ["Mon to Fri (15 d)", "Sat and Sun (6 d)"] == legend_of(figure)
    frames = city["inflow"][:, 0, 0].to_numpy().reshape(21, 48)
    is_weekend = np.arange(21) % 7 >= 5
    for line, band, days in zip(
        lines.values(), axes.collections, (frames[~is_weekend], frames[is_weekend]), strict=True
    ):
        assert_allclose(line.get_xdata(), np.arange(48) / 2)
        assert_allclose(line.get_ydata(), np.median(days, axis=0))
        corners = band.get_paths()[0].vertices
        at_noon = corners[np.isclose(corners[:, 0], 12), 1]
        assert_allclose((at_noon.min(), at_noon.max()), np.quantile(days[:, 24], (0.25, 0.75)))
    assert axes.get_xlabel() == "time of day [America/New_York]"
    assert axes.get_ylabel() == "cars in [1]"
    assert axes.get_title() == "cars in, at row 0, column 0\nusual day"
    assert axes.get_xlim() == (0, 24)
    assert axes.get_ylim()[0] == 0
    assert (
        figure.get_supxlabel() == "lines: median; bands: 25 to 75 % of the days; 2016-01-04 00:00 to 2016-01-24 23:30"
    )


@pytest.mark.parametrize("monday", ["2016-01-04", "2014-10-27"])  # weeks of the latter pass day 2**14 since 1970
def test_a_week_runs_from_monday_to_sunday(monday: str) -> None:
    city = daily_cycle()
    moved = city["time"] + (np.datetime64(monday) - np.datetime64("2016-01-04"))
    city = city.assign_coords(time=moved.assign_attrs(city["time"].attrs))
    (axes,) = plot.profile(city, by="weekday").axes
    (line,) = lines_of(axes).values()
    assert_allclose(line.get_xdata(), np.arange(336) / 48)
    assert_allclose(line.get_ydata(), city["inflow"][48 * 7 : 48 * 14, 0, 0])  # the middle week of three
    labels = [label.get_text() for label in axes.get_xticklabels(minor=True)]
    assert labels == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    assert axes.get_xlabel() == "day of the week [America/New_York]"


@pytest.mark.parametrize("chunks", [None, {"time": 7}])
def test_a_geographic_profile_is_by_season_and_weighted_by_area(chunks: dict[str, int] | None) -> None:
    series = make_series(4 * 200)
    series["t2m"][5, 0, 0] = np.nan
    figure = plot.profile(series if chunks is None else series.chunk(chunks))
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert list(lines) == ["DJF (60 d)", "MAM (92 d)", "JJA (48 d)"]
    assert axes.get_xlabel() == "time of day [UTC]"
    mean = series["t2m"].astype(float).weighted(Grid.of(series).cell_area()).mean(["latitude", "longitude"])
    spring = mean[mean["time"].dt.month.isin([3, 4, 5]).to_numpy()]
    expected = spring.groupby("time.hour").median().to_numpy()
    assert_allclose(lines["MAM (92 d)"].get_xdata(), [0, 6, 12, 18, 24])
    assert_allclose(lines["MAM (92 d)"].get_ydata(), [*expected, expected[0]])  # a day is followed by one like it
    assert "mean of all cells" in axes.get_title()


def test_a_profile_that_cannot_be_is_refused() -> None:
    city, daily = make_city(96), make_series(10, step="24h")
    for series, keywords, kind, words in (
        (city, {"variable": "speed"}, ErrorKind.VAR_MISSING, "the series has no variable speed"),
        (city, {"by": "month"}, ErrorKind.ARGUMENT, "by='month' must be one of 'workdays', 'weekday', 'season'"),
        (city, {"quantiles": (0.9, 0.1)}, ErrorKind.ARGUMENT, r"quantiles=\(0.9, 0.1\) must be two shares"),
        (city, {"at": {"row": 9, "column": 0}}, ErrorKind.EMPTY_SELECTION, "row 9 lies outside"),
        (city.where(False), {}, ErrorKind.NAN, "inflow of the series is NaN everywhere"),
        (daily, {}, ErrorKind.TIME_FREQ, "a day of steps of 1 d has no course"),
        (make_series(10, step="55h"), {"by": "weekday"}, ErrorKind.TIME_FREQ, "a step of 55 h does not divide a week"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.profile(series, **keywords)
        assert refused.value.kind == kind
    (axes,) = plot.profile(daily, by="weekday").axes
    assert len(lines_of(axes)["all weeks (10 d)"].get_xdata()) == 7
