import gc
import os
import resource
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path

import cartopy.crs as ccrs
import numpy as np
import pytest
import shapely
import xarray as xr
from cartopy.mpl.feature_artist import FeatureArtist
from factory import make_city, make_series
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.testing import assert_allclose
from real_data import REAL_DATA, needs_real_data

from stforecast import plot
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import with_forecast_times
from stforecast.plot import canvas, coastlines, colours
from stforecast.plot.colours import Colours
from stforecast.plot.words import shown_units

# Manhattan, as in the gridded taxi trips: row 0 in the north, column 0 in the west.
NORTH, SOUTH, WEST, EAST = 40.849878, 40.699031, -74.022216, -73.873868


def forecast_of(
    series: xr.Dataset, *, inits: tuple[int, ...] = (0, 1), horizon: int = 3, bias: float = 1.0
) -> xr.Dataset:
    """The truth plus a bias that grows with the lead time."""
    times = series["time"].to_numpy()
    step = times[1] - times[0]
    leads = np.arange(1, horizon + 1)
    frames = series.isel(time=xr.DataArray(np.add.outer(inits, leads), dims=("init_time", "lead_time"))).drop_vars(
        "time"
    )
    growing = xr.DataArray(bias * leads, dims="lead_time")
    with xr.set_options(keep_attrs=True):
        forecast = (frames + growing).transpose("init_time", "lead_time", ...)
    forecast = forecast.assign_coords(init_time=times[list(inits)], lead_time=(leads * step).astype("timedelta64[ns]"))
    return with_forecast_times(forecast, time_attrs=series["time"].attrs)


def make_region(*, descending: bool = True, frames: int = 6) -> xr.Dataset:
    """Air temperature on the grid of NCEP's North American cut-out, coarser."""
    latitude, longitude = np.arange(15, 76, 10.0), np.arange(200, 331, 10.0)
    rng = np.random.default_rng(1)
    made = xr.Dataset(
        {
            "air": (
                ("time", "lat", "lon"),
                (280 + 10 * rng.standard_normal((frames, len(latitude), len(longitude)))).astype(np.float32),
                {"units": "degK", "long_name": "air temperature"},
            )
        },
        {
            "time": ("time", np.datetime64("2014-01-01", "ns") + np.arange(frames) * np.timedelta64(6, "h")),
            "lat": ("lat", latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )
    return made.isel(lat=slice(None, None, -1)) if descending else made


def with_bounds(city: xr.Dataset) -> xr.Dataset:
    """The city with the degrees of its rows and columns."""
    rows, columns = city.sizes["row"], city.sizes["column"]
    latitude = NORTH + (np.arange(rows) + 0.5) * (SOUTH - NORTH) / rows
    longitude = WEST + (np.arange(columns) + 0.5) * (EAST - WEST) / columns
    return city.assign_coords(
        latitude=("row", latitude, {"units": "degrees_north", "standard_name": "latitude"}),
        longitude=("column", longitude, {"units": "degrees_east", "standard_name": "longitude"}),
    )


def panels_of(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if mesh_of(axes) is not None and axes.get_title()]


def mesh_of(axes: Axes) -> QuadMesh | None:
    return next((artist for artist in axes.collections if isinstance(artist, QuadMesh)), None)


def value_at(axes: Axes, x: float, y: float) -> float:
    """The value of the cell that covers a place, in the coordinates of the mesh."""
    mesh = mesh_of(axes)
    corners = mesh.get_coordinates()
    values = mesh.get_array().reshape(corners.shape[0] - 1, corners.shape[1] - 1)
    row = int(np.searchsorted(corners[:, 0, 1], y)) - 1
    column = int(np.searchsorted(corners[0, :, 0], x)) - 1
    return float(values[row, column])


def value_at_degrees(axes: Axes, latitude: float, longitude: float) -> float:
    """The value that a map shows at a place; meshes count from the map's central longitude."""
    centre, _ = ccrs.PlateCarree().transform_point(0, 0, axes.projection)
    return value_at(axes, (longitude - centre + 180) % 360 - 180, latitude)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **keywords: object) -> None:
        raise AssertionError("a map asked for the network")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    "series",
    [
        pytest.param(make_series(6, shape=(8, 16)), id="global"),
        pytest.param(make_region(), id="regional"),
        pytest.param(make_city(6), id="city"),
        pytest.param(with_bounds(make_city(6)), id="city-with-bounds"),
    ],
)
def test_maps_are_drawn_without_a_network(series: xr.Dataset, tmp_path: Path, offline: None) -> None:
    path = plot.save(plot.comparison(forecast_of(series), series), tmp_path / "map.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_every_panel_names_units_valid_time_init_and_lead() -> None:
    series = make_region()
    figure = plot.comparison(forecast_of(series), series, init_time="2014-01-01T06:00", lead_time="12h")
    assert [axes.get_title() for axes in panels_of(figure)] == [
        f"{heading} [degK]\nvalid 2014-01-01 18:00 UTC\ninit 2014-01-01 06:00, lead 12 h"
        for heading in ("Forecast", "Truth", "Error: forecast minus truth")
    ]
    labels = [axes.get_xlabel() for axes in figure.axes if "[degK]" in axes.get_xlabel()]
    assert labels == ["air temperature [degK]", "error [degK]"]
    assert figure.get_suptitle() == "air temperature"


def test_last_init_and_lead_time_are_the_default() -> None:
    series = make_region()
    title = panels_of(plot.comparison(forecast_of(series), series))[0].get_title()
    assert title.endswith("init 2014-01-01 06:00, lead 18 h")


def test_forecast_and_truth_share_limits_and_error_is_symmetric() -> None:
    series = make_region()
    forecast = forecast_of(series, bias=-3.0)
    first, second, error = (mesh_of(axes) for axes in panels_of(plot.comparison(forecast, series)))
    last = forecast["air"][-1, -1]
    truth = series["air"].sel(time=last["valid_time"])
    assert first.get_clim() == second.get_clim() == (min(last.min(), truth.min()), max(last.max(), truth.max()))
    assert_allclose(error.get_clim(), (-9.0, 9.0), rtol=1e-5)  # three leads of -3, in float32
    assert first.get_cmap().name == second.get_cmap().name == "plasma"
    assert error.get_cmap().name == "RdBu_r"


@pytest.mark.parametrize("reverse_latitude", [False, True])
@pytest.mark.parametrize("west", [0.0, -180.0, 90.0])
@pytest.mark.parametrize("rows", [8, 4])  # the whole globe, and a band of it
def test_cells_stand_where_their_coordinates_say(reverse_latitude: bool, west: float, rows: int) -> None:
    series = make_series(6, shape=(8, 16)).isel(latitude=slice(0, rows))
    plain = forecast_of(series)
    order = np.argsort((series["longitude"].to_numpy() - west) % 360)
    turned = plain.isel(longitude=order)
    turned = turned.assign_coords(
        longitude=("longitude", (turned["longitude"].to_numpy() - west) % 360 + west, turned["longitude"].attrs)
    )
    turned = turned.isel(latitude=slice(None, None, -1)) if reverse_latitude else turned
    forecast, truth, error = panels_of(plot.comparison(turned, series))
    frame = plain["t2m"][-1, -1]
    for latitude in series["latitude"].to_numpy():
        for longitude in series["longitude"].to_numpy():
            # A little off the centre, which is a bound of the map where longitudes wrap.
            place = (latitude + 0.1, longitude + 0.1)
            expected = frame.sel(latitude=latitude, longitude=longitude).item()
            assert value_at_degrees(forecast, *place) == pytest.approx(expected)
            assert value_at_degrees(truth, *place) == pytest.approx(expected - 3)
            assert value_at_degrees(error, *place) == pytest.approx(3, rel=1e-4)


def test_a_regional_map_is_the_same_whatever_the_order_of_latitude() -> None:
    up, down = make_region(descending=False), make_region()
    first, second = (panels_of(plot.comparison(forecast_of(series), up))[0] for series in (up, down))
    assert_allclose(mesh_of(first).get_array(), mesh_of(second).get_array())
    assert_allclose(mesh_of(first).get_coordinates(), mesh_of(second).get_coordinates())
    assert value_at_degrees(second, 75, 230) == pytest.approx(
        forecast_of(up)["air"][-1, -1].sel(lat=75, lon=230).item()
    )


def test_the_picture_shows_a_value_in_its_colour_at_its_place() -> None:
    series = make_series(6, shape=(36, 72))
    figure = plot.forecast_map(forecast_of(series).isel(latitude=slice(None, None, -1)))
    figure.canvas.draw()
    (axes,) = panels_of(figure)
    mesh = mesh_of(axes)
    pixels = np.asarray(figure.canvas.buffer_rgba())
    frame = forecast_of(series)["t2m"][-1, -1]
    # Cell centres in the open Pacific (both sides of the dateline), Atlantic and Indian Ocean.
    for latitude, longitude in ((-25.7, 210.0), (25.7, 175.0), (-36.0, 345.0), (-29.1, 80.0)):
        cell = frame.sel(latitude=latitude, longitude=longitude, method="nearest")
        place = axes.projection.transform_point(cell.longitude.item(), cell.latitude.item(), ccrs.PlateCarree())
        column, height = axes.transData.transform(place)
        shown = pixels[pixels.shape[0] - 1 - int(height), int(column)] / 255
        assert_allclose(shown, mesh.get_cmap()(mesh.norm(cell.item())), atol=1.5 / 255)


@settings(max_examples=50, deadline=None)
@given(columns=st.integers(4, 40), west=st.floats(-360, 360))
def test_every_longitude_shows_its_nearest_column_up_to_both_edges_of_the_globe(columns: int, west: float) -> None:
    centres = west + np.arange(columns) * 360 / columns
    axis = canvas._Axis.around_globe(centres)
    assert (axis.bounds[0], axis.bounds[-1]) == (-180, 180)
    assert (np.diff(axis.bounds) > 0).all()
    middles = (axis.bounds[1:] + axis.bounds[:-1]) / 2
    off = np.abs((centres[axis.positions] - middles + 180) % 360 - 180)
    assert (off + np.diff(axis.bounds) / 2 <= 180 / columns + 1e-3).all()


def test_the_globe_is_filled_from_edge_to_edge() -> None:
    series = make_series(6, shape=(8, 16))
    axes = panels_of(plot.forecast_map(forecast_of(series)))[0]
    corners = mesh_of(axes).get_coordinates()
    equator = axes.projection.transform_points(ccrs.PlateCarree(), corners[0, [0, -1], 0], np.zeros(2))[:, 0]
    assert_allclose(equator, axes.projection.x_limits, rtol=1e-6)


def test_a_region_fills_its_panel() -> None:
    series = make_region().isel(lat=slice(4, None))  # 15 to 35 degrees north: a rectangle is a fair likeness
    axes = panels_of(plot.forecast_map(forecast_of(series)))[0]
    corners = mesh_of(axes).get_coordinates()
    west, east, south, north = axes.get_extent()
    assert_allclose((west, east), corners[0, [0, -1], 0])
    assert_allclose((south, north), corners[[0, -1], 0, 1])


@pytest.mark.parametrize("series", [make_series(6, shape=(8, 16)), make_region()], ids=["global", "regional"])
def test_every_map_has_coastlines_and_borders(series: xr.Dataset) -> None:
    for axes in panels_of(plot.comparison(forecast_of(series), series)):
        artists = [artist for artist in axes.get_children() if isinstance(artist, FeatureArtist)]
        shown = [len(list(artist._feature.intersecting_geometries((-130, -60, 25, 60)))) for artist in artists]
        outlines, borders, _ = shown
        assert outlines > 10
        assert borders > 2


def test_coastlines_lie_where_the_coast_is() -> None:
    coast = shapely.union_all(list(coastlines.outlines().geometries()))
    for latitude, longitude in ((51.4, 1.4), (40.6, -74.0), (-33.9, 18.4), (35.6, 140.0)):
        assert coast.distance(shapely.Point(longitude, latitude)) < 1, "a place at the sea"
    for latitude, longitude in ((39.0, -99.0), (48.0, 67.0), (30.0, -150.0)):
        assert coast.distance(shapely.Point(longitude, latitude)) > 2, "a place far from any shore"


def test_a_city_has_its_north_at_the_top_whatever_the_order_of_rows() -> None:
    city = make_city(6)
    for series in (city, city.isel(row=slice(None, None, -1))):
        axes = panels_of(plot.comparison(forecast_of(series), city))[0]
        frame = forecast_of(city)["inflow"][-1, -1]
        bottom, top = axes.get_ylim()
        assert (bottom, top) == (4.5, -0.5)
        assert axes.get_xlim() == (-0.5, 3.5)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("column (west to east)", "row (north to south)")
        for row, column in ((0, 0), (4, 3), (1, 2)):
            assert value_at(axes, column, row) == frame.sel(row=row, column=column)


def test_a_city_with_bounds_is_drawn_in_degrees_true_to_scale() -> None:
    city = with_bounds(make_city(6, shape=(16, 12)))
    figure = plot.comparison(forecast_of(city), city.isel(row=slice(None, None, -1)))
    axes = panels_of(figure)[0]
    figure.canvas.draw()
    assert_allclose(axes.get_xlim(), (WEST, EAST))
    assert_allclose(axes.get_ylim(), (SOUTH, NORTH))
    box = axes.get_window_extent()
    kilometres = (NORTH - SOUTH) / ((EAST - WEST) * np.cos(np.deg2rad((NORTH + SOUTH) / 2)))
    assert box.height / box.width == pytest.approx(kilometres, rel=0.01)
    frame = forecast_of(city)["inflow"][-1, -1]
    assert value_at(axes, WEST + 0.001, NORTH - 0.001) == frame.sel(row=0, column=0)
    assert axes.xaxis.get_major_formatter()(-73.96) == "73.96°W"
    assert axes.yaxis.get_major_formatter()(40.75) == "40.75°N"


def test_bounds_that_the_source_calls_approximate_are_so_on_the_map() -> None:
    city = with_bounds(make_city(6, shape=(16, 12)))
    city["latitude"].attrs["comment"] = "approximate: the file does not give its extent"
    axes = panels_of(plot.forecast_map(forecast_of(city)))[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("longitude", "latitude (approximate)")


def test_a_city_with_lazy_bounds_is_drawn_as_well() -> None:
    city = with_bounds(make_city(6, shape=(16, 12)))
    lazy = forecast_of(city).chunk(row=4)
    assert lazy["latitude"].chunks is not None
    assert (
        panels_of(plot.forecast_map(lazy))[0].get_ylim()
        == panels_of(plot.forecast_map(forecast_of(city)))[0].get_ylim()
    )


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    city = with_bounds(make_city(6, shape=(16, 12)))
    axes = panels_of(plot.forecast_map(forecast_of(city)))[0]
    (bar,) = axes.lines
    (west, east), (latitude, _) = np.deg2rad(bar.get_data())
    # Haversine on the sphere of 6371 km.
    length = 2 * 6371 * np.arcsin(np.cos(latitude) * np.sin((east - west) / 2))
    assert axes.texts[-1].get_text() == "2 km"
    assert length == pytest.approx(2, rel=0.01)


def test_a_plane_that_is_measured_has_its_y_upwards() -> None:
    city = make_city(6).rename(row="y", column="x")
    for dim, name in (("y", "projection_y_coordinate"), ("x", "projection_x_coordinate")):
        city = city.assign_coords(
            {dim: (dim, 3.0 * np.arange(city.sizes[dim]), {"units": "km", "standard_name": name})}
        )
    axes = panels_of(plot.forecast_map(forecast_of(city)))[0]
    assert axes.get_ylim() == (-1.5, 13.5)
    assert axes.get_ylabel() == "projection y coordinate [km]"


@pytest.mark.parametrize(
    ("zone", "expected"), [("America/New_York", "2016-01-04 02:00 America/New_York"), (None, "2016-01-04 02:00")]
)
def test_the_time_zone_of_a_city_stands_beside_the_valid_time(zone: str | None, expected: str) -> None:
    city = make_city(6)
    city["time"].attrs.pop("time_zone")
    city["time"].attrs |= {"time_zone": zone} if zone else {}
    lines = panels_of(plot.forecast_map(forecast_of(city)))[0].get_title().split("\n")
    assert lines == ["Forecast: inflow [1]", f"valid {expected}", "init 2016-01-04 00:30, lead 90 min"]


def test_an_init_time_with_an_offset_is_read_on_the_citys_clock() -> None:
    forecast = forecast_of(make_city(6))
    axes = panels_of(plot.forecast_map(forecast, init_time="2016-01-04T05:00Z"))[0]
    assert "init 2016-01-04 00:00" in axes.get_title()


@pytest.mark.parametrize("series", [make_region(), make_series(6, shape=(8, 16)), make_city(6)])
def test_missing_cells_are_hatched_and_said_to_be(series: xr.Dataset) -> None:
    forecast = forecast_of(series)
    name = next(iter(forecast.data_vars))
    forecast[name][..., 2, 3] = np.nan
    figure = plot.comparison(forecast, series)
    panel = panels_of(figure)
    assert [int(mesh_of(axes).get_array().mask.sum()) for axes in panel] == [1, 0, 1]
    assert mesh_of(panel[0]).get_cmap()(np.ma.masked) == (0, 0, 0, 0)
    assert [axes.patch.get_facecolor() == to_rgba(canvas.NO_VALUE) for axes in panel] == [True, False, True]
    assert [axes.patch.get_hatch() for axes in panel] == ["////", None, "////"]
    assert figure.get_supxlabel() == "hatched cells have no value"
    assert plot.comparison(forecast_of(series), series).get_supxlabel() == ""


# What protanopes, deuteranopes and tritanopes see of red, green and blue (Machado et al. 2009,
# doi:10.1109/TVCG.2009.113), in linear light.
EYES = {
    "ordinary": np.eye(3),
    "without red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "without blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(colours: np.ndarray, eyes: str) -> np.ndarray:
    """Lightness and the two contrasts (CIE Lab) of colours (n, 3) as some eyes see them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(EYES[eyes]), 0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.column_stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
def test_every_eye_reads_the_order_of_values_from_the_colours(eyes: str) -> None:
    ways = [palette.name for palette in (*colours._PALETTES, colours._OTHER) if palette.anchor != "about zero"]
    for name in [*ways, "cividis"]:
        lightness = seen(colormaps[name](np.linspace(0, 1, 64))[:, :3], eyes)[:, 0]
        assert (np.diff(lightness) > 0).all() or (np.diff(lightness) < 0).all(), name
    two_sided = [palette.name for palette in colours._PALETTES if palette.anchor == "about zero"]
    for name in [*two_sided, "RdBu_r", "BrBG"]:
        below, above = np.split(seen(colormaps[name](np.linspace(0, 1, 64))[:, :3], eyes), 2)
        assert (np.diff(below[:, 0]) > 0).all(), name
        assert (np.diff(above[:, 0]) < 0).all(), name
        # What is as far below zero as above it is told apart: two are just told apart by some 2.3.
        assert np.linalg.norm(below[:24] - above[::-1][:24], axis=1).min() > 10, name


def test_a_map_is_in_the_units_that_the_callers_data_have() -> None:
    series = make_region()
    celsius = series.assign(air=(series["air"] - 273.15).assign_attrs(units="degC", long_name="air temperature"))
    kelvins, degrees = (plot.comparison(forecast_of(given), given) for given in (series, celsius))
    titles = [axes.get_title().split("\n")[0] for axes in panels_of(degrees)]
    assert titles == ["Forecast [degC]", "Truth [degC]", "Error: forecast minus truth [degC]"]
    assert [axes.get_xlabel() for axes in degrees.axes if axes.get_xlabel()] == [
        "air temperature [degC]",
        "error [degC]",
    ]
    for warm, cold in zip(panels_of(kelvins)[:2], panels_of(degrees)[:2], strict=True):
        assert_allclose(mesh_of(warm).get_array() - mesh_of(cold).get_array(), 273.15, atol=1e-3)
        assert_allclose(np.array(mesh_of(warm).get_clim()) - mesh_of(cold).get_clim(), 273.15, atol=1e-3)
        assert mesh_of(warm).get_cmap().name == mesh_of(cold).get_cmap().name


def test_fields_without_values_are_refused() -> None:
    series = make_region()
    empty, full = forecast_of(series), forecast_of(series)
    empty["air"][-1, -1] = np.nan
    with pytest.raises(
        StforecastError, match="air of the forecast from 2014-01-01 06:00 at lead 18 h is NaN"
    ) as refused:
        plot.comparison(empty, series)
    assert refused.value.kind == ErrorKind.NAN
    with pytest.raises(StforecastError, match="NaN everywhere"):
        plot.forecast_map(empty)
    with pytest.raises(StforecastError, match="air of the truth at 2014-01-02 00:00 is NaN everywhere"):
        plot.comparison(full, series.where(False))
    halves = forecast_of(series).where(series["lon"] < 260)
    with pytest.raises(StforecastError, match="no cell of air has a value both"):
        plot.comparison(halves, series.where(series["lon"] >= 260))
    full["air"][-1, -1, 0, 0] = np.inf
    with pytest.raises(StforecastError, match="infinite") as refused:
        plot.forecast_map(full)
    assert refused.value.kind == ErrorKind.INF


def test_a_truth_that_lacks_the_valid_time_is_named_with_what_it_has() -> None:
    series = make_region()
    with pytest.raises(
        StforecastError, match="valid at 2014-01-02 00:00.*has 2014-01-01 00:00 to 2014-01-01 12:00"
    ) as e:
        plot.comparison(forecast_of(series), series.isel(time=slice(0, 3)))
    assert e.value.kind == ErrorKind.TIME_RANGE


def test_a_truth_of_one_frame_is_enough() -> None:
    series = make_region()
    plot.comparison(forecast_of(series), series.sel(time=["2014-01-02T00:00"]))


def test_what_the_forecast_does_not_hold_is_named() -> None:
    series = make_region()
    forecast = forecast_of(series)
    for keywords, kind, words in (
        ({"variable": "z"}, ErrorKind.VAR_MISSING, r"no variable z, it has \['air'\]"),
        ({"init_time": "2014-02-01"}, ErrorKind.EMPTY_SELECTION, "2 from 2014-01-01 00:00 to 2014-01-01 06:00"),
        ({"lead_time": "5 days"}, ErrorKind.EMPTY_SELECTION, "no lead_time 5 days, it has 3 from 6 h to 18 h"),
        ({"init_time": "tomorrow noon"}, ErrorKind.ARGUMENT, "init_time 'tomorrow noon' is not one"),
        ({"lead_time": "soon"}, ErrorKind.ARGUMENT, "write e.g. '24h'"),
        ({"level": 500}, ErrorKind.ARGUMENT, "air has no levels"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.comparison(forecast, series, **keywords)
        assert refused.value.kind == kind
    with pytest.raises(StforecastError, match="lead_times is empty"):
        plot.panels(forecast, lead_times=[])


def test_a_truth_of_other_units_cells_or_levels_is_refused() -> None:
    series = make_region()
    forecast = forecast_of(series)
    celsius = series.assign(air=(series["air"] - 273.15).assign_attrs(units="degC"))
    for truth, kind, words in (
        (celsius, ErrorKind.UNITS, "degK in the forecast but degC in the truth"),
        (series.isel(lon=slice(1, None)), ErrorKind.GRID_SHAPE, "wanted the grid"),
        (series.rename(air="t"), ErrorKind.VAR_MISSING, "the truth has no variable air"),
        (series.expand_dims(level=[500.0]), ErrorKind.DIMS, "levels in the truth but not in the forecast"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.comparison(forecast, truth)
        assert refused.value.kind == kind


def test_an_ensemble_is_refused() -> None:
    ensemble = forecast_of(make_region()).expand_dims(member=[0, 1])
    with pytest.raises(StforecastError, match=r"dimension member.*forecast\.mean\('member'") as refused:
        plot.forecast_map(ensemble)
    assert refused.value.kind == ErrorKind.DIMS


def test_levels_are_chosen_by_value_in_forecast_and_truth() -> None:
    series = make_series(6, shape=(8, 16), levels=(500.0, 850.0))
    figure = plot.comparison(forecast_of(series), series.isel(level=[1, 0]), level=850)
    assert figure.get_suptitle() == "variable t2m at 850 hPa"
    error = mesh_of(panels_of(figure)[2]).get_array()
    assert_allclose(error, 3, rtol=1e-4)
    first = plot.comparison(forecast_of(series), series)
    assert first.get_suptitle() == "variable t2m at 500 hPa"
    with pytest.raises(StforecastError, match=r"no level 200, it has \[500.0, 850.0\]") as refused:
        plot.forecast_map(forecast_of(series), level=200)
    assert refused.value.kind == ErrorKind.EMPTY_SELECTION


def test_panels_show_six_even_leads_on_one_scale() -> None:
    series = make_series(20, shape=(8, 16))
    forecast = forecast_of(series, inits=(0,), horizon=16)
    shown = panels_of(plot.panels(forecast))
    assert [axes.get_title().split("lead ")[1] for axes in shown] == [f"{h} h" for h in (6, 24, 42, 60, 78, 96)]
    assert len({mesh_of(axes).get_clim() for axes in shown}) == 1


def test_panels_show_the_leads_that_are_asked_for() -> None:
    forecast = forecast_of(make_series(20, shape=(8, 16)), inits=(0,), horizon=8)
    shown = panels_of(plot.panels(forecast, lead_times=["6h", np.timedelta64(48, "h")]))
    assert [axes.get_title().split("lead ")[1] for axes in shown] == ["6 h", "48 h"]


def test_lead_times_of_panels_are_told_in_one_unit() -> None:
    series = make_series(20, shape=(4, 8), step="24h")
    shown = panels_of(plot.panels(forecast_of(series, inits=(0,), horizon=14)))
    assert [axes.get_title().split("lead ")[1] for axes in shown] == [f"{d} d" for d in (1, 4, 6, 9, 11, 14)]


@pytest.mark.parametrize(
    ("name", "attrs", "cmap", "limits"),
    [
        ("t2m", {"units": "K"}, "plasma", (2, 10)),
        ("x", {"units": "degC"}, "plasma", (2, 10)),
        ("tp", {"units": "m"}, "YlGnBu", (0, 10)),
        ("x", {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}, "YlGnBu", (0, 10)),
        ("inflow", {"units": "1"}, "magma_r", (0, 10)),
        ("u10", {"units": "m s**-1"}, "PuOr_r", (-10, 10)),
        ("x", {"units": "m s-1", "standard_name": "northward_wind"}, "PuOr_r", (-10, 10)),
        ("z", {"units": "m**2 s**-2"}, "viridis", (2, 10)),
    ],
)
def test_colours_suit_the_variable(name: str, attrs: dict[str, str], cmap: str, limits: tuple[float, float]) -> None:
    field = xr.DataArray([[2.0, 10.0]], dims=("y", "x"), name=name, attrs=attrs)
    colours = Colours.of(field, field.to_numpy())
    assert (colours.name, colours.low, colours.high) == (cmap, *limits)


def test_a_field_of_one_value_has_a_scale() -> None:
    series = xr.zeros_like(make_region())
    first, _, error = panels_of(plot.comparison(forecast_of(series, bias=0), series))
    assert mesh_of(first).get_clim() == (-0.5, 0.5)
    assert mesh_of(error).get_clim() == (-1, 1)


@pytest.mark.parametrize(
    ("units", "expected"),
    [("m s**-1", "m s⁻¹"), ("kg m-2", "kg m⁻²"), ("m**2 s^-2", "m² s⁻²"), ("1", "1"), ("hPa", "hPa")],
)
def test_powers_in_units_are_raised(units: str, expected: str) -> None:
    assert shown_units(xr.DataArray(0, attrs={"units": units})) == expected


def make_scores(*, step: str = "6h", leads: int = 8) -> xr.Dataset:
    count, unit = int(step[:-1]), step[-1]
    lead_time = (np.arange(1, leads + 1) * np.timedelta64(count, unit)).astype("timedelta64[ns]")
    sources, metrics = ["forecast", "persistence", "climatology"], ["bias", "mae", "rmse"]
    values = np.random.default_rng(0).random((len(sources), len(metrics), leads))
    return xr.Dataset(
        {"t2m": (("source", "metric", "lead_time"), values, {"units": "K", "long_name": "2 metre temperature"})},
        {"source": sources, "metric": metrics, "lead_time": lead_time},
    )


def test_a_skill_curve_has_a_line_for_each_source() -> None:
    scores = make_scores()
    figure = plot.skill_curve(scores, metric="mae")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["forecast", "persistence", "climatology"]
    for source, line in lines.items():
        assert_allclose(line.get_xdata(), np.arange(6, 49, 6))
        assert_allclose(line.get_ydata(), scores["t2m"].sel(source=source, metric="mae"))
    assert lines["forecast"].get_linewidth() > max(lines[name].get_linewidth() for name in list(lines)[1:])
    assert len({line.get_color() for line in axes.lines}) == len({line.get_marker() for line in axes.lines}) == 3
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lead time [h]", "MAE [K]")
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


def test_the_legend_of_a_skill_curve_hides_no_line() -> None:
    figure = plot.skill_curve(make_scores())
    figure.canvas.draw()
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


@pytest.mark.parametrize(
    ("step", "leads", "unit", "ticks"),
    [
        ("30m", 4, "min", [30, 60, 90, 120]),
        ("30m", 6, "h", [1, 2, 3]),
        ("6h", 12, "h", [12, 24, 36, 48, 60, 72]),
        ("24h", 10, "h", [48, 96, 144, 192, 240]),
        ("24h", 14, "d", [2, 4, 6, 8, 10, 12, 14]),
    ],
)
def test_lead_times_are_told_in_a_unit_that_suits_them(step: str, leads: int, unit: str, ticks: list[float]) -> None:
    (axes,) = plot.skill_curve(make_scores(step=step, leads=leads)).axes
    assert axes.get_xlabel() == f"lead time [{unit}]"
    west, east = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if west < tick <= east] == ticks


def test_scores_by_level_are_drawn_at_one() -> None:
    scores = (
        make_scores().expand_dims(level=[500.0, 850.0]).assign_coords(level=("level", [500.0, 850.0], {"units": "hPa"}))
    )
    (axes,) = plot.skill_curve(scores, level=850).axes
    assert axes.get_title() == "2 metre temperature at 850 hPa: RMSE by lead time"


def with_intervals(scores: xr.Dataset) -> xr.Dataset:
    """Scores with bands of a tenth, and the skill that follows."""
    scores = scores.assign_attrs(confidence=0.95, bootstrap="blocks of 5", init_time_count=40)
    values = scores["t2m"]
    skill = 1 - values / values.sel(source=["persistence", "climatology"]).rename(source="reference")
    bounds = xr.DataArray([-0.1, 0.1], dims="bound", coords={"bound": ["lower", "upper"]})
    return scores.assign_coords(
        t2m_interval=values * (1 + bounds), t2m_skill=skill, t2m_skill_interval=skill + bounds, bound=bounds["bound"]
    )


def test_bands_lie_about_the_lines_of_a_skill_curve() -> None:
    scores = with_intervals(make_scores())
    figure = plot.skill_curve(scores)
    (axes,) = figure.axes
    assert len(axes.collections) == 3
    for source, band in zip(scores["source"].to_numpy(), axes.collections, strict=True):
        low, high = band.get_datalim(axes.transData).intervaly
        expected = scores["t2m"].sel(source=source, metric="rmse")
        assert_allclose([low, high], [0.9 * expected.min(), 1.1 * expected.max()])
    assert figure.get_supxlabel() == "bands: 95% confidence, blocks of 5"
    assert not plot.skill_curve(make_scores()).axes[0].collections


def test_skill_against_a_reference_is_drawn_about_zero() -> None:
    scores = with_intervals(make_scores())
    figure = plot.skill_curve(scores, reference="climatology", metric="mae")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert {"forecast", "persistence"} < set(lines)
    assert "climatology" not in lines
    expected = scores["t2m_skill"].sel(source="forecast", reference="climatology", metric="mae")
    assert_allclose(lines["forecast"].get_ydata(), expected)
    assert axes.get_title() == "2 metre temperature\nskill in MAE against climatology by lead time"
    assert axes.get_ylabel() == "skill"
    with pytest.raises(
        StforecastError, match=r"no skill against yesterday, they have \['persistence', 'climatology'\]"
    ):
        plot.skill_curve(scores, reference="yesterday")
    with pytest.raises(StforecastError, match=r"they have \[\]; evaluate with reference= and confidence"):
        plot.skill_curve(make_scores(), reference="climatology")


def test_a_source_without_scores_has_no_line() -> None:
    scores = make_scores()
    scores["t2m"].loc[{"source": "climatology"}] = np.nan
    assert [line.get_label() for line in plot.skill_curve(scores).axes[0].lines] == ["forecast", "persistence"]


@pytest.mark.parametrize(
    ("metric", "label"),
    [("acc", "ACC [1]"), ("mape:10", "MAPE of 10 or more [%]"), ("fss:300:3", "FSS above 300 in 3x3 cells [1]")],
)
def test_a_metric_stands_in_its_own_units(metric: str, label: str) -> None:
    scores = make_scores().isel(metric=[0]).assign_coords(metric=[metric])
    assert plot.skill_curve(scores, metric=metric).axes[0].get_ylabel() == label


def make_card(values: list[list[float]], significance: list[list[int]]) -> xr.Dataset:
    shown = np.array(values)
    return xr.Dataset(
        {
            "relative_difference": (("row", "lead_time"), shown, {"units": "%"}),
            "significance": (("row", "lead_time"), np.array(significance)),
        },
        {
            "row": [f"t2m, region {number}" for number in range(len(shown))],
            "lead_time": np.arange(1, shown.shape[1] + 1) * np.timedelta64(6, "h").astype("m8[ns]"),
        },
        {"metric": "rmse", "reference": "persistence", "confidence": 0.95, "bootstrap": "blocks of 5"},
    )


def test_a_score_card_shows_each_difference_with_a_dot_where_it_is_sure() -> None:
    card = make_card([[-25.0, -3.4, 0.0], [8.0, np.nan, -0.2]], [[-1, 0, 0], [1, 0, 0]])
    figure = plot.score_card(card)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["-25", "-3", "0", "+8", "0"]
    assert len(axes.lines) == 2
    mesh = mesh_of(axes)
    assert mesh.get_clim() == (-25, 25)
    red, _, blue, _ = mesh.cmap(mesh.norm(-25.0))
    assert blue > red
    assert [label.get_text() for label in axes.get_yticklabels()] == ["t2m, region 0", "t2m, region 1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["6", "12", "18"]
    assert axes.get_title() == "RMSE of the forecast relative to persistence"
    assert axes.yaxis_inverted()
    assert "blocks of 5" in figure.get_supxlabel()


def test_small_differences_have_a_decimal() -> None:
    axes = plot.score_card(make_card([[-2.04, 0.31]], [[0, 0]])).axes[0]
    assert [text.get_text() for text in axes.texts] == ["-2.0", "+0.3"]


def test_a_card_without_values_is_refused() -> None:
    with pytest.raises(StforecastError, match="every relative difference of the card is NaN"):
        plot.score_card(make_card([[np.nan]], [[0]]))


def test_scores_by_season_are_drawn_one_at_a_time() -> None:
    scores = make_scores().expand_dims(season=["DJF", "JJA"])
    with pytest.raises(StforecastError, match=r"select one season, e.g. scores.isel\(season=0\)"):
        plot.skill_curve(scores)
    assert plot.skill_curve(scores.isel(season=0)).axes


def test_scores_that_cannot_be_drawn_are_refused() -> None:
    scores = make_scores()
    for given_scores, keywords, kind, words in (
        (scores, {"metric": "acc"}, ErrorKind.ARGUMENT, r"no metric acc, they have \['bias', 'mae', 'rmse'\]"),
        (scores, {"variable": "z"}, ErrorKind.VAR_MISSING, "no variable z"),
        (scores * np.nan, {}, ErrorKind.NAN, "every rmse of t2m is NaN"),
        (scores.isel(source=0, drop=True), {}, ErrorKind.DIMS, "scores have"),
    ):
        with pytest.raises(StforecastError, match=words) as refused:
            plot.skill_curve(given_scores, **keywords)
        assert refused.value.kind == kind


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_save_writes_by_suffix_and_makes_the_folder(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = plot.save(plot.skill_curve(make_scores()), tmp_path / "new" / f"curve{suffix}")
    assert path.read_bytes().startswith(magic)
    assert list(path.parent.iterdir()) == [path]


def test_losses_within_a_power_of_ten_have_plain_numbers() -> None:
    record = {"training_loss": [0.58, 0.56, 0.54], "validation_loss": [0.6, 0.59, 0.595], "best_epoch": 1}
    axes = plot.training_curve(record).axes[0]
    low, high = axes.get_ylim()
    labels = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert len(labels) >= 3
    assert all(0.5 < float(label) < 0.65 for label in labels)
    assert axes.get_yscale() == "log"


def test_save_refuses_other_formats(tmp_path: Path) -> None:
    with pytest.raises(StforecastError, match=r"\.pdf, \.png, \.svg") as refused:
        plot.save(plot.skill_curve(make_scores()), tmp_path / "curve.bmp")
    assert refused.value.kind == ErrorKind.ARGUMENT


@pytest.fixture
def little_room() -> Iterator[None]:
    """Files cannot grow beyond four kilobytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_picture_and_nothing_half_written(tmp_path: Path, little_room: None) -> None:
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")
    with pytest.raises(StforecastError, match="what was there before is intact") as refused:
        plot.save(plot.skill_curve(make_scores()), path)
    assert refused.value.kind == ErrorKind.DISK_FULL
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    figure = plot.skill_curve(make_scores())
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder.png" / "inside").mkdir(parents=True)
    for path in (tmp_path / "file" / "curve.png", tmp_path / "folder.png"):
        with pytest.raises(StforecastError, match=f"{path.name} was not written and what was there") as refused:
            plot.save(figure, path)
        assert refused.value.kind == ErrorKind.IO_ERROR
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StforecastError, match=r"curve.*\.png cannot be written by user") as refused:
        plot.save(plot.skill_curve(make_scores()), tmp_path / "curve.png")
    assert refused.value.kind == ErrorKind.PERMISSION


def test_figures_are_released_with_their_last_reference() -> None:
    series = make_city(6)
    figure = plot.comparison(forecast_of(series), series)
    figure.canvas.draw()
    watched = weakref.ref(figure)
    del figure
    gc.collect()
    assert watched() is None
    assert not Gcf.figs


@needs_real_data
def test_ncep_air_is_drawn_where_it_was_measured() -> None:
    with xr.open_dataset(REAL_DATA / "ncep_air" / "air_2014.nc") as raw:
        series = raw[["air"]].isel(time=slice(0, 8)).astype("float32", keep_attrs=True).load()
    forecast = forecast_of(series)
    axes = panels_of(plot.comparison(forecast, series))
    expected = series["air"].sel(time=forecast["valid_time"][-1, -1])
    for latitude, longitude in ((75, 200), (15, 330), (40, 255)):
        there = expected.sel(lat=latitude, lon=longitude).item()
        assert value_at_degrees(axes[1], latitude, longitude) == pytest.approx(there)


def test_a_notebook_shows_a_picture_as_it_is_saved(tmp_path: Path) -> None:
    scores = make_scores()
    shown, size = plot.skill_curve(scores)._repr_png_()
    assert shown == plot.save(plot.skill_curve(scores), tmp_path / "curve.png").read_bytes()
    height, width = imread(tmp_path / "curve.png").shape[:2]
    assert size == {"width": width // 2, "height": height // 2}
