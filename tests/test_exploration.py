"""The interactive page holds what the forecast holds and asks nobody for anything, as can be seen without a browser."""

import builtins
import functools
import html
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cartopy.crs as ccrs
import dask.array
import numpy as np
import pytest
import xarray as xr
from factory import make_city, make_series
from hypothesis import given
from hypothesis import strategies as st
from test_plot import forecast_of, little_room, make_region, with_bounds  # noqa: F401
from test_plot_projections import ANTARCTIC, ARCTIC, ATLANTIC, GLOBE, GREENLAND, PACIFIC, make_map

import stforecast as stf
from stforecast.errors import ErrorKind, StforecastError
from stforecast.exploration import View
from stforecast.exploration.contents import check_size
from stforecast.exploration.packing import Scale, packed, unpacked
from stforecast.exploration.paper import Paper
from stforecast.grid import Grid
from stforecast.plot.canvas import canvas_of

CITY = with_bounds(make_city(30, shape=(8, 6)))
UNEVEN = make_map(np.array([-40.0, -20.0, -15.0, -10.0, 0.0]), np.array([100.0, 110.0, 130.0, 135.0]))


class Page(HTMLParser):
    """A page taken apart: its scripts by their id, and everything that it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.asked_for: list[str] = []
        self.tags: list[str] = []
        self._id: str | None = None
        self.feed(text)
        self.facts = json.loads(self.scripts["facts"])
        self.bokeh = {name: text for name, text in self.scripts.items() if '"roots"' in text}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked_for += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._id = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self.scripts[self._id] = self.scripts.get(self._id, "") + data

    def values(self, part: str, number: int = 0) -> np.ndarray:
        """The values of a part of a variable, (frame, …, Y, X)."""
        channel, facts = self.facts["channels"][number], self.facts
        cells = len(facts["row_names"]), len(facts["column_names"])
        frames = (len(facts["init_times"]), len(facts["lead_times"]))
        shape = (len(facts["truth_times"]), *cells) if part == "truth" else (*frames, *cells)
        return Scale(channel["decimals"], channel["origin"]).unpack(self.scripts[f"{part}-{number}"], shape)


PARTS = ("forecast", "lower", "upper", "truth")
SEEN = [0, 1, 2, 4, 5, 6, 7, 8, 9]  # a frame is missing, and the last valid times


@functools.cache
def view_of(name: str) -> View:
    """The page of a kind of grid, made once."""
    if name == "region":
        series = make_region(frames=12)
        forecast = bounded(forecast_of(series, inits=(3, 6), horizon=4, bias=-2.0))
        return stf.explore(forecast, series.isel(lat=slice(None, None, -1), time=SEEN))
    if name == "city":
        return stf.explore(forecast_of(CITY), CITY, at={"row": 2, "column": 5})
    odd = make_city(6)
    odd["inflow"].attrs["long_name"] = "</script><b>in & out"
    return stf.explore(forecast_of(odd))


def page_of(name: str) -> Page:
    return Page(view_of(name).html)


def bounded(forecast: xr.Dataset) -> xr.Dataset:
    """A forecast with bounds."""
    for name in list(forecast.data_vars):
        for bound, sign in (("lower", -1.0), ("upper", 2.0)):
            attrs = {"units": forecast[name].attrs["units"], "interval": 0.9, "interval_of": name}
            forecast[f"{name}_{bound}"] = (forecast[name] + sign).assign_attrs(attrs)
    return forecast


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(0, 3))
def test_packed_values_come_back_to_within_half_a_step(low: float, width: float, seed: int) -> None:
    values = low + width * np.random.default_rng(seed).random((3, 7))
    values[1, 2] = np.nan
    scale = Scale.of(np.nanmin(values), np.nanmax(values))
    back = scale.unpack(scale.pack(values), values.shape)
    step = 10.0**-scale.decimals
    assert step <= np.ptp(values[np.isfinite(values)]) / 2000 * (1 + 1e-9)
    np.testing.assert_allclose(back, values, rtol=1e-12, atol=0.5 * step * (1 + 1e-6))
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-9])
def test_one_value_for_all_cells_is_packed(value: float) -> None:
    scale = Scale.of(value, value)
    np.testing.assert_allclose(scale.unpack(scale.pack(np.full((2, 2), value)), (2, 2)), value, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["<i2", "<i4", "<f4"])
def test_bytes_come_back_as_they_were(dtype: str) -> None:
    numbers = np.random.default_rng(0).integers(-30000, 30000, 100).astype(dtype)
    np.testing.assert_array_equal(unpacked(packed(numbers), np.dtype(dtype)), numbers)


def test_the_page_holds_the_forecast_its_bounds_and_the_truth() -> None:
    series = make_region(frames=12)
    forecast = bounded(forecast_of(series, inits=(3, 6), horizon=4, bias=-2.0))
    page = page_of("region")
    (channel,) = page.facts["channels"]
    assert (channel["title"], channel["units"]) == ("air temperature", "degK")
    room = 0.5 * 10.0 ** -channel["decimals"] * 1.001
    for part, name in (("forecast", "air"), ("lower", "air_lower"), ("upper", "air_upper")):
        np.testing.assert_allclose(page.values(part), forecast[name], atol=room, rtol=0)
    # Frames from as long before the first init time as the forecast reaches behind it.
    times = np.array(page.facts["truth_times"], "datetime64[ms]")
    np.testing.assert_array_equal(times, series["time"][SEEN])
    np.testing.assert_allclose(page.values("truth"), series["air"].sel(time=times), atol=room, rtol=0)
    assert page.facts["truth_rows"] == [[3, 4, 5, 6], [6, 7, 8, -1]]
    for init, rows in enumerate(page.facts["truth_rows"]):
        for lead, row in enumerate(rows):
            assert row < 0 or times[row] == forecast["valid_time"][init, lead]
    assert page.facts["interval"] == "90% interval"
    assert page.facts["zone"] == "UTC"
    assert page.facts["lead_words"] == ["6 h", "12 h", "18 h", "24 h"]
    assert page.facts["row_names"][:2] == ["75°N", "65°N"]
    assert page.facts["column_names"][0] == "160°W"
    assert page.scripts.keys() == {
        "facts",
        "cells",
        "centres",
        "forecast-0",
        "lower-0",
        "upper-0",
        "truth-0",
        *page.bokeh,
    }


def test_colours_are_of_all_times_and_those_of_the_error_about_zero() -> None:
    (channel,) = page_of("region").facts["channels"]
    series = make_region(frames=12)
    forecast = forecast_of(series, inits=(3, 6), horizon=4, bias=-2.0)["air"]
    assert channel["colours"]["low"] == pytest.approx(min(forecast.min(), series["air"][SEEN].min()))
    assert channel["colours"]["high"] == pytest.approx(max(forecast.max(), series["air"][SEEN].max()))
    assert channel["error_colours"]["high"] == -channel["error_colours"]["low"] == pytest.approx(8, rel=1e-4)
    assert len(channel["colours"]["palette"]) == 256
    assert channel["colours"]["palette"][0] == "#0d0887"  # plasma begins so


def test_variables_and_levels_are_chosen_and_told_apart() -> None:
    series = make_series(8, shape=(4, 6), variables=("t2m", "t850", "z"), levels=(500.0, 850.0))
    for name in ("t2m", "t850"):
        series[name].attrs["long_name"] = "temperature"
    page = Page(stf.explore(forecast_of(series), series, variables=["t2m", "t850"]).html)
    titles = [channel["title"] for channel in page.facts["channels"]]
    assert titles == [f"temperature at {level} hPa ({name})" for name in ("t2m", "t850") for level in (500, 850)]
    expected = forecast_of(series)["t850"].sel(level=850)
    np.testing.assert_allclose(page.values("forecast", 3), expected, atol=0.01)


def test_a_citys_cells_have_rows_columns_and_degrees() -> None:
    facts = page_of("city").facts
    assert facts["row_names"][2] == "row 2"
    assert facts["column_names"][5] == "column 5"
    assert facts["row_degrees"][0] == "40.84°N"
    assert facts["column_degrees"][0] == "74.01°W"
    assert facts["cell"] == 2 * 6 + 5
    assert facts["zone"] == "America/New_York"
    assert facts["init_times"][0] == np.datetime64("2016-01-04T00:00").astype("datetime64[ms]").astype(int)


GRIDS = {
    "globe": GLOBE,
    "turned-globe": GLOBE.assign_coords(lon=(GLOBE["lon"] - 175).assign_attrs(GLOBE["lon"].attrs)),
    "arctic": ARCTIC,
    "antarctic": ANTARCTIC,
    "greenland": GREENLAND,
    "atlantic": ATLANTIC,
    "pacific": PACIFIC,
    "uneven": UNEVEN,
    "downwards": ATLANTIC.isel(lat=slice(None, None, -1)),
    "rows": make_city(6),
    "city": CITY,
}


@pytest.mark.parametrize("series", GRIDS.values(), ids=GRIDS)
def test_each_pixel_shows_the_cell_that_lies_there(series: xr.Dataset) -> None:
    grid = Grid.of(series)
    canvas = canvas_of(series, grid)
    paper = Paper.of(canvas)
    west, east, south, north = paper.limits
    height, width = paper.cells.shape
    count = grid.shape[0] * grid.shape[1]
    assert set(np.unique(paper.cells)) - {-1} == set(range(count)), "each cell has a pixel"
    columns = ((paper.centres[0] - west) / (east - west) * width).astype(int).clip(0, width - 1)
    rows = ((paper.centres[1] - south) / (north - south) * height).astype(int).clip(0, height - 1)
    around_pole = np.abs(np.repeat(grid.y, grid.shape[1])) > 88 if grid.is_geographic else np.zeros(count, bool)
    is_there = paper.cells[rows, columns] == np.arange(count)
    assert is_there[~around_pole].mean() > 0.99  # a centre may lie a rounding error beyond its pixel
    if not canvas.is_map:
        return
    # Places of one's own, by their latitude and longitude and cartopy.
    rng = np.random.default_rng(0)
    latitude = rng.uniform(*np.sort(canvas.y_bounds[[0, -1]]), 300)
    longitude = rng.uniform(*(canvas.x_bounds[[0, -1]] + canvas.centre), 300)
    points = canvas.projection.transform_points(ccrs.PlateCarree(), longitude, latitude)
    x = points[:, 0] + (canvas.centre if canvas.kind == "region" else 0)
    columns = ((x - west) / (east - west) * width).astype(int).clip(0, width - 1)
    rows = ((points[:, 1] - south) / (north - south) * height).astype(int).clip(0, height - 1)
    shown = paper.cells[rows, columns]
    apart = np.abs((grid.x[None] - longitude[:, None] + 180) % 360 - 180)
    if series is not UNEVEN:  # where bounds lie half-way, the nearest centre is that of the cell
        expected = np.abs(grid.y[None] - latitude[:, None]).argmin(1) * grid.shape[1] + apart.argmin(1)
        assert (shown == expected).mean() > 0.95  # the others lie on the pixels of two cells


def test_rows_of_a_city_run_downwards_and_its_pixels_are_its_cells() -> None:
    city = make_city(6)
    paper = Paper.of(canvas_of(city, Grid.of(city)))
    np.testing.assert_array_equal(paper.cells, np.arange(20).reshape(5, 4)[::-1])
    assert paper.limits == (-0.5, 3.5, -4.5, 0.5)


@pytest.mark.parametrize(
    ("series", "place"),
    [
        (GLOBE, (51.4, 1.4)),
        (ATLANTIC, (51.4, 1.4)),
        (PACIFIC, (-18.1, 146.3)),
        (ARCTIC, (71.2, 25.8)),
        (CITY, (40.7, -74.017)),
    ],
    ids=["globe", "atlantic", "pacific", "arctic", "city"],
)
def test_coastlines_lie_where_the_coast_is(series: xr.Dataset, place: tuple[float, float]) -> None:
    canvas = canvas_of(series, Grid.of(series))
    paper = Paper.of(canvas)
    latitude, longitude = place
    if canvas.is_map:
        point = canvas.projection.transform_point(longitude, latitude, ccrs.PlateCarree())
        point = np.array(point) + np.array([canvas.centre if canvas.kind == "region" else 0.0, 0.0])
    else:
        point = np.array([longitude, latitude])
    west, east, south, north = paper.limits
    points = np.concatenate(paper.coast)
    assert np.hypot(*(points - point).T).min() < 0.02 * (east - west)
    assert (points >= np.array([west, south]) - 1e-6 * (east - west)).all()
    assert (points <= np.array([east, north]) + 1e-6 * (east - west)).all()


def test_the_page_draws_coastlines_and_names() -> None:
    page = page_of("region")
    (document,) = page.bokeh.values()
    assert document.count('"name":"MultiLine"') >= 3 * 4  # coast, borders, degrees and the edge, on three maps
    assert "45\\u00b0N" in document or "40\\u00b0N" in document
    assert "Manhattan" in view_of("city").html


@pytest.mark.parametrize("name", ["region", "city", "rows"])
def test_the_page_asks_for_nothing(name: str) -> None:
    text, page = view_of(name).html, page_of(name)
    assert page.asked_for == []
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text)
    own = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL) + json.dumps(page.facts)
    assert "http" not in own


def test_names_cannot_break_out_of_the_page() -> None:
    page = page_of("rows")
    assert page.facts["channels"][0]["title"] == "</script><b>in & out"
    assert "b" not in page.tags
    assert page.tags.count("script") == page_of("city").tags.count("script") - 2  # the truth of two variables


def test_a_view_is_saved_whole_and_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    view = view_of("city")
    path = view.save(tmp_path / "new" / "view.html")
    assert path.read_text(encoding="utf-8") == view.html
    assert list(path.parent.iterdir()) == [path]
    frame = view._repr_html_()
    (source,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(source) == view.html
    assert f'height="{view.height}"' in frame
    assert len(repr(view)) < 100
    with pytest.raises(StforecastError, match="a view is written as .html: .*view.pdf should end in it") as refused:
        view.save(tmp_path / "view.pdf")
    assert refused.value.kind == ErrorKind.ARGUMENT


def test_a_full_disk_leaves_the_old_page(tmp_path: Path, little_room: None) -> None:  # noqa: F811
    path = tmp_path / "view.html"
    path.write_text("old")
    with pytest.raises(
        StforecastError, match="ulimit -f.* is reached: .*view.html was not written and what was there before is intact"
    ) as refused:
        View("x" * 100_000, 100).save(path)
    assert refused.value.kind == ErrorKind.DISK_FULL
    assert path.read_text() == "old"


def test_what_is_too_much_for_a_page_is_refused_before_it_is_read() -> None:
    def unread(block: np.ndarray) -> np.ndarray:
        raise AssertionError("the forecast was read")

    forecast = forecast_of(make_series(40, shape=(8, 16)), inits=tuple(range(20)), horizon=10)
    never = dask.array.map_blocks(unread, dask.array.zeros(forecast["t2m"].shape, chunks=-1), meta=np.empty((0,) * 4))
    lazy = forecast.assign(t2m=(forecast["t2m"].dims, never, forecast["t2m"].attrs))
    # 20 · 10 · 128 values of two bytes, in letters of six bits
    with pytest.raises(
        StforecastError,
        match=r"20 init times of 10 lead times, 128 cells and 1 fields; .*slice\(-6, None\)\), or raise most_megabytes",
    ) as refused:
        stf.explore(lazy, most_megabytes=0.02)
    assert refused.value.kind == ErrorKind.ARGUMENT
    with pytest.raises(StforecastError, match="give fewer variables or lead times, or coarser cells"):
        stf.explore(lazy, most_megabytes=0.001)
    check_size(forecast.isel(init_time=slice(-6, None)), None, ["t2m"], 128, 0.02)


def test_what_cannot_be_shown_is_refused() -> None:
    series = make_region()
    forecast = forecast_of(series)
    infinite = forecast.copy(deep=True)
    infinite["air"][0, 0, 0, 0] = np.inf
    for given_forecast, keywords, kind, words in (
        (forecast, {"variables": ["z"]}, ErrorKind.VAR_MISSING, "no variable z"),
        (forecast, {"variables": []}, ErrorKind.ARGUMENT, r"variables=\[\] must name one or more"),
        (forecast, {"at": {"latitude": 85, "longitude": 260}}, ErrorKind.EMPTY_SELECTION, "latitude 85 lies outside"),
        (forecast.expand_dims(member=[0, 1]), {}, ErrorKind.DIMS, "the dimension member"),
        (forecast.where(False), {}, ErrorKind.NAN, "air of the forecast is NaN everywhere"),
        (infinite, {}, ErrorKind.INF, "infinite values"),
        (series, {}, ErrorKind.DIMS, "a forecast has the coordinates init_time"),
        (forecast, {"truth": series.isel(lat=[0, 1])}, ErrorKind.GRID_SHAPE, "the truth: wanted the grid"),
        (
            forecast,
            {"truth": series.isel(time=[0])},
            ErrorKind.TIME_RANGE,
            "none of the valid times, 2014-01-01T06:00 to",
        ),
        (forecast_of(make_city(6)), {"projection": ccrs.Robinson()}, ErrorKind.ARGUMENT, "is for maps, but the grid"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            stf.explore(given_forecast, **keywords)
        assert refused.value.kind == kind


def test_without_bokeh_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def without(name: str, *args: object, **keywords: object) -> object:
        if name.split(".")[0] == "bokeh":
            raise ModuleNotFoundError("No module named 'bokeh'", name="bokeh")
        return find(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "stforecast.exploration.page", raising=False)
    monkeypatch.delattr("stforecast.exploration.page", raising=False)
    with pytest.raises(StforecastError, match=r"bokeh, which is not there; .* pip install 'stforecast\[explore\]'"):
        stf.explore(forecast_of(CITY))
