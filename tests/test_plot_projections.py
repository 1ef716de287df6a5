import socket
from pathlib import Path

import cartopy.crs as ccrs
import numpy as np
import pytest
import xarray as xr
from factory import make_city
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from numpy.testing import assert_allclose
from test_plot import forecast_of, mesh_of, panels_of, value_at, value_at_degrees, with_bounds

from stforecast import plot
from stforecast.baselines import Climatology, HistoricalAverage
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.plot.canvas import Canvas, canvas_of, cells_of
from stforecast.plot.movies import _Film


def make_map(
    latitude: np.ndarray, longitude: np.ndarray, *, name: str = "air", frames: int = 6, **attrs: str
) -> xr.Dataset:
    """A smooth field that is different in each cell."""
    up, across = np.meshgrid(latitude, longitude, indexing="ij")
    field = 280 + 20 * np.cos(np.deg2rad(up)) + 5 * np.sin(np.deg2rad(2 * across)) * np.cos(np.deg2rad(up))
    values = np.stack([field + number for number in range(frames)]).astype(np.float32)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values, {"units": "K", "long_name": "air temperature"} | attrs)},
        {
            "time": ("time", np.datetime64("2014-01-01", "ns") + np.arange(frames) * np.timedelta64(6, "h")),
            "lat": ("lat", latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )


ROUND = np.arange(0, 360, 10.0)
GLOBE = make_map(np.arange(-85, 86, 10.0), ROUND)
ARCTIC = make_map(np.arange(45, 86, 10.0), ROUND)
ANTARCTIC = make_map(np.arange(-90, -39, 5.0), ROUND)
GREENLAND = make_map(np.arange(60, 83, 2.0), np.arange(-75, -10, 5.0))
ATLANTIC = make_map(np.arange(30, 71, 2.5), np.arange(-70, 11, 2.5))
SOUTH = make_map(np.arange(-60, -19, 4.0), np.arange(100, 181, 4.0))
PACIFIC = make_map(np.arange(-20, 21, 5.0), np.arange(120, 281, 5.0))


def canvas(series: xr.Dataset) -> Canvas:
    return canvas_of(series, Grid.of(series))


@pytest.mark.parametrize(
    ("series", "projection"),
    [
        (GLOBE, ccrs.EqualEarth),
        (ARCTIC, ccrs.NorthPolarStereo),
        (ANTARCTIC, ccrs.SouthPolarStereo),
        (GREENLAND, ccrs.NorthPolarStereo),
        (ATLANTIC, ccrs.LambertConformal),
        (SOUTH, ccrs.LambertConformal),
        (PACIFIC, ccrs.PlateCarree),
    ],
    ids=["globe", "arctic", "antarctic", "greenland", "atlantic", "south", "pacific"],
)
def test_the_projection_suits_the_domain_and_each_cell_is_inside(series: xr.Dataset, projection: type) -> None:
    axes = panels_of(plot.forecast_map(forecast_of(series)))[0]
    assert type(axes.projection) is projection
    west, east = axes.get_xlim()
    south, north = axes.get_ylim()
    up, across = np.meshgrid(series["lat"], series["lon"], indexing="ij")
    points = axes.projection.transform_points(ccrs.PlateCarree(), across, up)
    assert ((points[..., 0] >= west) & (points[..., 0] <= east)).all()
    assert ((points[..., 1] >= south) & (points[..., 1] <= north)).all()
    frame = forecast_of(series)["air"][-1, -1]
    for latitude in series["lat"].to_numpy()[::3]:
        for longitude in series["lon"].to_numpy()[::3]:
            place = (np.clip(latitude, -89, 89), longitude + 0.1)
            assert value_at_degrees(axes, *place) == pytest.approx(frame.sel(lat=latitude, lon=longitude).item())


def test_a_fan_points_with_its_middle_meridian_straight_up_and_is_labelled_at_its_edges() -> None:
    axes = panels_of(plot.forecast_map(forecast_of(ATLANTIC)))[0]
    x, _ = axes.projection.transform_points(ccrs.PlateCarree(), np.full(2, -30.0), np.array([35.0, 65.0]))[:, :2].T
    assert_allclose(x, 0, atol=1)
    labels = {text.get_text() for text in axes.texts}
    assert {"30°N", "40°N", "50°N", "60°N", "70°N"} <= labels
    assert {"60°W", "40°W", "20°W", "0°"} <= labels


def test_a_map_around_a_pole_closes_at_the_dateline() -> None:
    axes = panels_of(plot.forecast_map(forecast_of(ARCTIC)))[0]
    corners = mesh_of(axes).get_coordinates()
    assert_allclose(corners[0, [0, -1], 0], (-180, 180))
    assert_allclose(np.abs([*axes.get_xlim(), *axes.get_ylim()]), axes.get_xlim()[1], rtol=1e-3)
    assert {"0°", "90°E", "180°", "90°W"} <= {text.get_text() for text in axes.texts}


@pytest.mark.parametrize(
    "projection", [ccrs.Robinson(central_longitude=180), ccrs.Orthographic(-30, 40)], ids=["Robinson", "Orthographic"]
)
def test_a_chosen_projection_shows_each_place_in_its_colour(projection: ccrs.Projection) -> None:
    forecast = forecast_of(GLOBE)
    figure = plot.forecast_map(forecast, projection=projection)
    figure.canvas.draw()
    axes = panels_of(figure)[0]
    assert axes.projection == projection
    pixels, mesh = np.asarray(figure.canvas.buffer_rgba()), mesh_of(axes)
    for latitude, longitude in ((35, -40), (45, -20), (-25, -20)):  # in the open Atlantic
        place = axes.projection.transform_point(longitude + 2, latitude + 2, ccrs.PlateCarree())
        column, height = axes.transData.transform(place)
        value = forecast["air"][-1, -1].sel(lat=latitude, lon=longitude % 360).item()
        found = pixels[pixels.shape[0] - 1 - int(height), int(column)] / 255
        assert_allclose(found, mesh.get_cmap()(mesh.norm(value)), atol=2 / 255)


def test_a_projection_is_for_maps() -> None:
    with pytest.raises(StforecastError, match="projection=Robinson is for maps, but the grid .* is a plane") as refused:
        plot.forecast_map(forecast_of(make_city(6)), projection=ccrs.Robinson())
    assert refused.value.kind == ErrorKind.ARGUMENT


@pytest.mark.parametrize(
    "projection", [ccrs.Geostationary(), ccrs.Gnomonic(-30, 40)], ids=["Geostationary", "Gnomonic"]
)
def test_a_projection_of_one_side_shows_what_lies_on_it(projection: ccrs.Projection) -> None:
    axes = panels_of(plot.forecast_map(forecast_of(GLOBE), projection=projection))[0]
    assert_allclose(axes.get_xlim(), projection.x_limits)
    axes.figure.canvas.draw()


@pytest.mark.parametrize(
    ("series", "projection", "beyond"),
    [
        (ATLANTIC, ccrs.Orthographic(-30, 50), (35.0, 55.0)),
        (make_map(np.arange(45, 80, 5.0), ROUND), None, (0.0, 87.0)),
        (make_map(np.arange(-72, 73, 8.0), ROUND), None, (0.0, -83.0)),
    ],
    ids=["atlantic", "arctic", "globe"],
)
def test_cells_without_a_value_are_marked_inside_of_the_domain_alone(
    series: xr.Dataset, projection: ccrs.Projection | None, beyond: tuple[float, float]
) -> None:
    forecast = forecast_of(series)
    forecast["air"][..., 2:6, 10:14] = np.nan
    empty = (series["lon"][11:13].mean().item(), series["lat"][3:5].mean().item())
    figure = plot.forecast_map(forecast, projection=projection)
    figure.canvas.draw()
    axes, pixels = panels_of(figure)[0], np.asarray(figure.canvas.buffer_rgba())
    shown = []
    for (longitude, latitude), reach in ((empty, 8), (beyond, 2)):
        place = axes.projection.transform_point(longitude, latitude, ccrs.PlateCarree())
        column, height = (int(at) for at in axes.transData.transform(place))
        row = pixels.shape[0] - 1 - height
        shown.append(pixels[row - reach : row + reach, column - reach : column + reach, :3])
    assert np.ptp(shown[0], axis=-1).max() == 0  # grey
    assert 100 < shown[0].mean() < 200
    assert np.ptp(shown[0]) > 30  # hatched
    assert np.median(shown[1]) == 255


def test_a_domain_that_a_projection_does_not_show_is_refused() -> None:
    with pytest.raises(
        StforecastError, match="is not to be seen in projection=Orthographic; choose another"
    ) as refused:
        plot.forecast_map(forecast_of(ATLANTIC), projection=ccrs.Orthographic(100, -60))
    assert refused.value.kind == ErrorKind.ARGUMENT


def test_many_cells_are_drawn_as_their_means_which_the_foot_tells() -> None:
    fine = make_map(np.linspace(-89.9, 89.9, 900), np.arange(1801) * 360 / 1801, frames=2)
    drawn = canvas(fine)
    assert drawn.thinning == 2
    values = fine["air"][1].to_numpy().astype(float)
    values[0:2, 0:2] = np.nan
    values[4, 4] = np.nan
    cells = cells_of(drawn, values)
    assert cells.shape == (450, 901)
    shown = values[np.ix_(drawn.rows, drawn.columns)]
    for row, column in ((1, 0), (2, 2), (100, 450), (449, 900)):
        block = shown[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert cells[row, column] == pytest.approx(np.nanmean(block))
    figure = plot.forecast_map(forecast_of(fine, inits=(0,), horizon=1))
    assert figure.get_supxlabel() == "drawn as means of 2 by 2 cells"
    truth = forecast_of(fine, inits=(0,), horizon=1)["air"]
    assert_allclose(mesh_of(figure.axes[0]).get_clim(), (truth.min(), truth.max()))


def isolines_of(axes: object) -> list[str]:
    return [text.get_text() for text in axes.texts if "°" not in text.get_text() and text.get_visible()]


def test_no_label_of_an_isoline_stands_in_another() -> None:
    steep = make_map(np.arange(30, 71, 2.5), np.arange(-70, 11, 2.5), name="slp", units="Pa", long_name="pressure")
    deep = np.exp(-((steep["lat"] - 45) ** 2 + (steep["lon"] + 55) ** 2) / 60)
    steep["slp"] = (steep["slp"] * 0 + 101500 - 6500 * deep).astype(np.float32).assign_attrs(steep["slp"].attrs)
    figure = plot.comparison(forecast_of(steep), steep)
    figure.canvas.draw()
    labels = [text for text in panels_of(figure)[1].texts if "°" not in text.get_text() and text.get_visible()]
    places = np.array([text.get_window_extent().get_points().mean(axis=0) for text in labels])
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert len(labels) >= 2
    assert apart[~np.eye(len(labels), dtype=bool)].min() > 1.5 * figure.dpi * 7 / 72  # of its height


def test_pressure_has_isolines_in_steps_of_hectopascals() -> None:
    pressure = make_map(np.arange(30, 71, 2.5), np.arange(-70, 11, 2.5), name="slp", units="Pa", long_name="pressure")
    pressure["slp"].values[:] = 100000 + 100 * np.round(3 * (pressure["slp"] - 290))
    figure = plot.comparison(forecast_of(pressure), pressure)
    forecast, truth, error = panels_of(figure)
    for axes in (forecast, truth):
        levels = [float(label) for label in isolines_of(axes)]
        assert levels
        assert all(level % 4 == 0 and 960 < level < 1060 for level in levels)
    assert isolines_of(error) == []
    assert figure.get_supxlabel() == "isolines in hPa"
    assert isolines_of(panels_of(plot.forecast_map(forecast_of(ATLANTIC)))[0]) == []


@pytest.mark.parametrize("series", [GLOBE, ARCTIC, ATLANTIC, PACIFIC], ids=["globe", "arctic", "atlantic", "pacific"])
def test_isolines_lie_where_the_field_has_their_value(series: xr.Dataset) -> None:
    forecast = forecast_of(series.rename(air="z"))
    axes = panels_of(plot.forecast_map(forecast))[0]
    (lines,) = (artist for artist in axes.collections if hasattr(artist, "labelTexts"))
    frame = forecast["z"][-1, -1].rename(lat="y", lon="x")
    wrapped = xr.concat([frame, frame.isel(x=[0]).assign_coords(x=[360.0])], "x")
    field = wrapped if series["lon"][-1] - series["lon"][0] > 300 else frame
    checked = 0
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        if not len(path.vertices):
            continue
        places = ccrs.PlateCarree().transform_points(axes.projection, *path.vertices.T)[:, :2].T
        x, y = places[0] % 360 if series["lon"].min() >= 0 else places[0], places[1]
        found = field.interp(x=xr.DataArray(x, dims="p"), y=xr.DataArray(y, dims="p")).to_numpy()
        found = found[np.isfinite(found)]
        assert_allclose(found, level, atol=0.6)
        checked += len(found)
    assert checked > 20


def with_winds(series: xr.Dataset, *, u: float = 0.0, v: float = 0.0) -> xr.Dataset:
    air = series["air"]
    winds = {name: (xr.zeros_like(air) + value) for name, value in (("u10", u), ("v10", v))}
    return series.assign({name: wind.assign_attrs(units="m s**-1", long_name=name) for name, wind in winds.items()})


def arrows_of(series: xr.Dataset) -> tuple[Quiver, object]:
    axes = panels_of(plot.forecast_map(forecast_of(series, bias=0), variable="air", winds=True))[0]
    (arrows,) = (artist for artist in axes.collections if isinstance(artist, Quiver))
    return arrows, axes


@pytest.mark.parametrize(
    "series", [GLOBE, ARCTIC, ANTARCTIC, ATLANTIC, PACIFIC], ids=["globe", "arctic", "antarctic", "atlantic", "pacific"]
)
@pytest.mark.parametrize(("u", "v"), [(10.0, 0.0), (0.0, -5.0), (6.0, 8.0)])
def test_arrows_point_where_the_air_goes(series: xr.Dataset, u: float, v: float) -> None:
    arrows, axes = arrows_of(with_winds(series, u=u, v=v))
    assert_allclose(np.hypot(arrows.U, arrows.V), np.hypot(u, v), rtol=1e-5)
    here = axes.projection
    places = ccrs.PlateCarree().transform_points(here, arrows.X, arrows.Y)[:, :2]
    assert len(places) > 30
    # Where a parcel of air is after a hundred seconds: on the sphere, and then on paper.
    metres = 100 / 6371e3 * 180 / np.pi
    moved = places + np.column_stack([u * metres / np.cos(np.deg2rad(places[:, 1])), np.full(len(places), v * metres)])
    start, end = (here.transform_points(ccrs.PlateCarree(), *at.T)[:, :2] for at in (places, moved))
    right, up = (end - start).T
    up = up * canvas(series).stretch
    apart = np.angle((arrows.U + 1j * arrows.V) / (right + 1j * up))
    assert_allclose(apart, 0, atol=0.01)


def test_arrows_are_of_the_cell_below_and_have_a_key() -> None:
    series = with_winds(GLOBE, v=1.0)
    series["u10"] = series["u10"] + series["lat"].astype(np.float32)
    arrows, axes = arrows_of(series.assign(u10=series["u10"].assign_attrs(units="m s**-1")))
    latitude = ccrs.PlateCarree().transform_points(axes.projection, arrows.X, arrows.Y)[:, 1]
    strength = np.hypot(arrows.U, arrows.V)
    assert (np.abs(np.sqrt(np.maximum(strength**2 - 1, 0)) - np.abs(latitude)) <= 5.01).all()
    (key,) = (artist for artist in axes.get_children() if type(artist).__name__ == "QuiverKey")
    assert key.text.get_text() == "wind 50 m s⁻¹"


def test_winds_of_a_city_are_on_its_plane() -> None:
    city = with_bounds(make_city(6, shape=(16, 12)))
    wind = xr.zeros_like(city["inflow"]).assign_attrs(units="m s-1")
    forecast = forecast_of(city.assign(u=wind + 3, v=wind + 4), bias=0)
    for name in ("u", "v"):
        forecast[name].attrs["units"] = "m s-1"
    axes = panels_of(plot.forecast_map(forecast, winds=True))[0]
    (arrows,) = (artist for artist in axes.collections if isinstance(artist, Quiver))
    assert_allclose((arrows.U[0], arrows.V[0]), (3, 4))


def quivers_of(figure: Figure) -> list[list[Quiver]]:
    """The arrows over each panel."""
    return [[artist for artist in axes.collections if isinstance(artist, Quiver)] for axes in panels_of(figure)]


def keys_of(figure: Figure) -> list[str]:
    found = [artist for axes in figure.axes for artist in axes.get_children() if type(artist).__name__ == "QuiverKey"]
    return [key.text.get_text() for key in found]


def growing_winds(series: xr.Dataset) -> xr.Dataset:
    """Winds to the east that are stronger from frame to frame."""
    series = with_winds(series)
    hours = xr.DataArray(np.arange(series.sizes["time"], dtype=np.float32), dims="time")
    return series.assign(u10=(series["u10"] + 10 * hours).assign_attrs(series["u10"].attrs))


def test_arrows_of_a_comparison_are_of_forecast_and_truth_in_one_measure() -> None:
    series = growing_winds(ATLANTIC)
    forecast = forecast_of(series, bias=0)
    with xr.set_options(keep_attrs=True):
        forecast["u10"] = forecast["u10"] / 2
    figure = plot.comparison(forecast, series, variable="air", lead_time="12h", winds=True)
    (first,), (second,), error = quivers_of(figure)
    assert error == []
    assert_allclose(np.hypot(first.U, first.V), 15, rtol=1e-5)  # half of the third frame's
    assert_allclose(np.hypot(second.U, second.V), 30, rtol=1e-5)
    assert first.scale == second.scale
    assert keys_of(figure) == ["wind 20 m s⁻¹"]
    with pytest.raises(StforecastError, match="the truth has no variable u10") as refused:
        plot.comparison(forecast, series.drop_vars("u10"), variable="air", winds=True)
    assert refused.value.kind == ErrorKind.VAR_MISSING


@pytest.mark.parametrize("series", [ATLANTIC, ARCTIC], ids=["atlantic", "arctic"])
def test_arrows_of_panels_are_of_their_lead_times_in_one_measure(series: xr.Dataset) -> None:
    figure = plot.panels(forecast_of(growing_winds(series), bias=0), variable="air", winds=True)
    arrows = [arrow for (arrow,) in quivers_of(figure)]
    for number, arrow in enumerate(arrows):
        assert_allclose(np.hypot(arrow.U, arrow.V), 10 * (number + 2), rtol=1e-5)
    assert len({arrow.scale for arrow in arrows}) == 1
    assert keys_of(figure) == ["wind 20 m s⁻¹"]
    figure.canvas.draw()
    (key,) = (artist for artist in figure.axes[0].get_children() if type(artist).__name__ == "QuiverKey")
    box = key.text.get_window_extent()
    titles = [axes.title.get_window_extent() for axes in panels_of(figure)]
    assert not any(box.overlaps(title) for title in [*titles, figure._suptitle.get_window_extent()])
    assert figure.bbox.containsx(box.x0)
    assert figure.bbox.containsy(box.y1)


@pytest.mark.parametrize("with_truth", [False, True])
def test_arrows_of_a_film_turn_from_frame_to_frame(with_truth: bool) -> None:
    series = growing_winds(PACIFIC)
    forecast = forecast_of(series, bias=0)
    frames = [forecast["air"][-1, lead] for lead in range(forecast.sizes["lead_time"])]
    film = _Film(forecast, frames, series if with_truth else None, winds=True)
    count = 2 if with_truth else 1
    for number in (0, 2, 1):
        film.draw(number)
        arrows = [arrow for of_panel in quivers_of(film._sheet.figure) for arrow in of_panel]
        assert len(arrows) == count
        for arrow in arrows:
            assert_allclose(np.hypot(arrow.U, arrow.V), 10 * (number + 2), rtol=1e-5)
            assert arrow.scale == arrows[0].scale
    assert keys_of(film._sheet.figure) == ["wind 20 m s⁻¹"]


def test_winds_are_of_the_level_that_is_drawn() -> None:
    series = with_winds(ATLANTIC, u=10.0)
    levels = series.expand_dims(level=[500.0, 850.0], axis=1).assign_coords(level=("level", [500.0, 850.0]))
    levels["u10"] = (levels["u10"] * levels["level"] / 500).astype(np.float32).assign_attrs(series["u10"].attrs)
    forecast = forecast_of(levels, bias=0)
    for given, strength in ((forecast, 17), (forecast.assign(u10=forecast["u10"].sel(level=500, drop=True)), 10)):
        ((arrows,),) = quivers_of(plot.forecast_map(given, variable="air", level=850, winds=True))
        assert_allclose(np.hypot(arrows.U, arrows.V), strength, rtol=1e-5)


def test_arrows_leave_out_cells_without_a_wind() -> None:
    series = with_winds(PACIFIC, u=10.0)
    series["u10"] = series["u10"].where(series["lon"] < 200)
    figure = plot.forecast_map(forecast_of(series, bias=0), variable="air", winds=True)
    ((arrows,),) = quivers_of(figure)
    assert 0 < np.sum(arrows.Umask) < arrows.N
    figure.canvas.draw()


def test_anomalies_and_intervals_have_the_isolines_of_the_forecast() -> None:
    pressure = make_map(np.arange(30, 71, 2.5), np.arange(-70, 11, 2.5), name="slp", units="Pa", long_name="pressure")
    pressure["slp"].values[:] = 100000 + 100 * np.round(3 * (pressure["slp"] - 290))
    forecast = forecast_of(pressure)
    bounds = {f"slp_{bound}": forecast["slp"] + off for bound, off in (("lower", -100), ("upper", 100))}
    forecast = forecast.assign(bounds)
    plain = panels_of(plot.forecast_map(forecast[["slp"]]))[0]
    for figure, said in (
        (plot.anomaly(forecast, pressure), "departure from the climatology of the training period; "),
        (plot.interval(forecast), ""),
    ):
        assert isolines_of(figure.axes[0]) == isolines_of(plain) != []
        assert figure.get_supxlabel() == f"{said}isolines of the forecast in hPa"
    metres = forecast.rename(slp="z", slp_lower="z_lower", slp_upper="z_upper")
    for name in metres.data_vars:
        metres[name].attrs = {"units": "m**2 s**-2"}
    assert plot.interval(metres).get_supxlabel() == "isolines of the forecast in m² s⁻²"
    assert plot.forecast_map(metres).get_supxlabel() == ""


def test_winds_that_are_not_there_are_refused() -> None:
    with pytest.raises(StforecastError, match=r"u10 and v10, u and v, .* but the forecast has \['air'\]") as refused:
        plot.forecast_map(forecast_of(GLOBE), winds=True)
    assert refused.value.kind == ErrorKind.VAR_MISSING
    mixed = with_winds(GLOBE)
    mixed["v10"].attrs["units"] = "km h-1"
    with pytest.raises(StforecastError, match=r"u10 is in m s\*\*-1 but v10 in km h-1; convert one") as refused:
        plot.forecast_map(forecast_of(mixed), winds=True)
    assert refused.value.kind == ErrorKind.UNITS


def test_an_anomaly_is_the_forecast_minus_the_climatology_about_zero() -> None:
    series = make_map(np.arange(30, 71, 10.0), np.arange(-70, 11, 10.0), frames=40)
    series["air"] = series["air"] + (series["time"].dt.hour / 6).astype(np.float32)
    series["air"].attrs = {"units": "K", "long_name": "air temperature"}
    forecast = forecast_of(series, inits=(30,))
    normal = Climatology.fit(series)
    flipped = forecast.isel(lat=slice(None, None, -1))
    for given, climatology in ((forecast, normal), (flipped, normal), (forecast, series)):
        figure = plot.anomaly(given, climatology, lead_time="12h")
        axes = figure.axes[0]
        frame = forecast["air"].sel(lead_time=np.timedelta64(12, "h"))[0]
        usual = normal.at("air", frame["valid_time"].to_numpy()[None])[0]
        expected = frame.to_numpy() - usual
        assert_allclose(mesh_of(axes).get_array().reshape(expected.shape), expected, atol=1e-4)
        low, high = mesh_of(axes).get_clim()
        assert low == -high
        assert high == pytest.approx(np.abs(expected).max())
        assert mesh_of(axes).get_cmap().name == "RdBu_r"
        assert axes.get_title().startswith("air temperature anomaly [K]\nvalid 2014-01-09 00:00 UTC")
        assert figure.get_supxlabel() == "departure from the climatology of the training period"


def test_a_citys_anomaly_is_from_its_average_of_the_week() -> None:
    city = make_city(48 * 8)
    forecast = forecast_of(city, inits=(336,))
    figure = plot.anomaly(forecast, city, variable="outflow")
    frame = forecast["outflow"][0, -1]
    usual = HistoricalAverage.fit(city).at("outflow", frame["valid_time"].to_numpy()[None])[0]
    assert value_at(figure.axes[0], 1, 2) == pytest.approx(float(frame[2, 1]) - usual[2, 1], abs=1e-4)
    assert "historical average" in figure.get_supxlabel()


def test_an_anomaly_from_another_grid_or_level_is_as_it_should_be() -> None:
    with pytest.raises(StforecastError, match="the climatology: wanted the grid") as refused:
        plot.anomaly(forecast_of(ATLANTIC), Climatology.fit(GLOBE))
    assert refused.value.kind == ErrorKind.GRID_SHAPE
    levels = GLOBE.expand_dims(level=[500.0, 850.0], axis=1).assign_coords(
        level=("level", [500.0, 850.0], {"units": "hPa"})
    )
    levels["air"] = levels["air"] * xr.DataArray([1.0, 2.0], dims="level").astype(np.float32)
    levels["air"].attrs = GLOBE["air"].attrs
    figure = plot.anomaly(forecast_of(levels), levels, level=850)
    assert figure.axes[0].get_title().startswith("air temperature anomaly at 850 hPa [K]")
    assert np.abs(mesh_of(figure.axes[0]).get_array()).max() < 20  # and not the 280 K between the levels


def test_the_interval_is_as_wide_as_its_bounds_are_apart() -> None:
    forecast = forecast_of(ATLANTIC)
    air = forecast["air"]
    forecast = forecast.assign(air_lower=air - 1, air_upper=air + 2 * (air["lat"] > 50))
    for name in ("air_lower", "air_upper"):
        forecast[name].attrs = {"units": "K", "interval": 0.9, "interval_of": "air"}
    axes = plot.interval(forecast[["air_lower", "air_upper", "air"]]).axes[0]
    assert mesh_of(axes).get_clim() == pytest.approx((0, 3), abs=1e-4)
    assert value_at_degrees(axes, 60, -40) == pytest.approx(3, abs=1e-3)
    assert value_at_degrees(axes, 40, -40) == pytest.approx(1, abs=1e-3)
    assert axes.get_title().startswith("air temperature, width of the 90% prediction interval [K]")
    with pytest.raises(StforecastError, match=r"no bounds of air \(air_lower and air_upper\); make it with predict"):
        plot.interval(forecast_of(ATLANTIC))


def test_every_kind_of_picture_is_drawn_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **keywords: object) -> None:
        raise AssertionError("a picture asked for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    for number, series in enumerate((ARCTIC, ATLANTIC)):
        forecast = forecast_of(with_winds(series, u=3.0))
        for name, figure in (
            ("map", plot.forecast_map(forecast, winds=True)),
            ("isolines", plot.panels(forecast.rename(air="z"), variable="z")),
            ("anomaly", plot.anomaly(forecast, series)),
        ):
            assert plot.save(figure, tmp_path / f"{name}{number}.png").stat().st_size > 10_000
