import json
import os
from pathlib import Path

import cartopy.crs as ccrs
import numpy as np
import pytest
import shapefile
import shapely
import xarray as xr
from cartopy.mpl.feature_artist import FeatureArtist
from factory import make_city, make_series
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from test_plot import EAST, NORTH, SOUTH, WEST, forecast_of, panels_of, with_bounds

from stforecast import plot
from stforecast.errors import ErrorKind, StforecastError
from stforecast.plot import context
from stforecast.plot.context import Box, context_in

NEW_YORK = Box(WEST, EAST, SOUTH, NORTH)
CITY = with_bounds(make_city(6, shape=(16, 12)))
BROADWAY = [[-73.9820, 40.7685], [-73.9855, 40.7580], [-73.9897, 40.7410], [-74.0130, 40.7046]]


def write_geojson(path: Path, *features: dict[str, object]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def feature(kind: str, coordinates: object, **properties: object) -> dict[str, object]:
    return {"type": "Feature", "properties": properties, "geometry": {"type": kind, "coordinates": coordinates}}


def lines_of(figure: Figure, panel: int = 0) -> list[np.ndarray]:
    """Every line of context over a panel of a city, in degrees."""
    found = [artist for artist in panels_of(figure)[panel].collections if isinstance(artist, LineCollection)]
    return [path.vertices for artist in found for path in artist.get_paths()]


def names_of(figure: Figure) -> set[str]:
    return {text.get_text() for text in panels_of(figure)[0].texts} - {"2 km"}


def moved(city: xr.Dataset, east: float) -> xr.Dataset:
    longitude = city["longitude"]
    return city.assign_coords(longitude=longitude.copy(data=longitude + east))


def test_new_york_has_its_shores_and_names_in_every_panel() -> None:
    figure = plot.comparison(forecast_of(CITY), CITY)
    for panel in range(3):
        lines = lines_of(figure, panel)
        points = np.concatenate(lines)
        assert len(points) > 300
        assert (points > (WEST - 1e-9, SOUTH - 1e-9)).all()
        assert (points < (EAST + 1e-9, NORTH + 1e-9)).all()
    assert {"Manhattan", "Hudson", "East River", "Central Park", "Queens", "Brooklyn", "Bronx"} <= names_of(figure)


def test_the_packaged_shores_are_where_land_and_water_meet() -> None:
    outlines = context._packaged("new-york").outlines
    land = shapely.union_all([shapely.Polygon(ring) for ring in outlines])
    for latitude, longitude in ((40.7580, -73.9855), (40.7128, -74.0060), (40.8116, -73.9465), (40.7061, -73.9969)):
        assert land.buffer(0.0005).contains(shapely.Point(longitude, latitude)) == (longitude != -73.9969)
    names = {name: shapely.Point(x, y) for x, y, name in context._packaged("new-york").names}
    on_water = {name for name, place in names.items() if not land.contains(place)}
    assert on_water == {"Hudson", "East River", "New Jersey"}
    assert 0.001 < land.distance(names["Hudson"]) < 0.01
    for degrees in shapely.total_bounds(land) - (-74.06, 40.65, -73.80, 40.90):
        assert abs(degrees) < 0.05


def test_a_city_elsewhere_or_larger_than_the_packaged_file_has_none() -> None:
    assert lines_of(plot.forecast_map(forecast_of(moved(CITY, 1.0)))) == []
    assert context_in(Box(-74.2, EAST, SOUTH, NORTH), None).is_empty
    assert not context_in(Box(WEST + 360, EAST + 360, SOUTH, NORTH), None).is_empty


def test_no_context_is_drawn_where_none_is_wanted() -> None:
    figure = plot.forecast_map(forecast_of(CITY), context=[])
    assert lines_of(figure) == []
    assert names_of(figure) == set()


def test_own_lines_areas_and_names_are_drawn_where_they_are(tmp_path: Path) -> None:
    park = [[[-73.98, 40.76], [-73.96, 40.76], [-73.96, 40.79], [-73.98, 40.79], [-73.98, 40.76]]]
    path = write_geojson(
        tmp_path / "own.geojson",
        feature("LineString", BROADWAY, name="Broadway"),
        feature("Polygon", park),
        feature("Point", [-73.97, 40.78, 12.0], name="the park"),
        feature("Point", [-73.90, 40.70], name=None),
        feature("Point", [-74.5, 40.70], name="far away"),
        {"type": "Feature", "properties": None, "geometry": None},
    )
    figure = plot.forecast_map(forecast_of(CITY), context=path)
    area, street = lines_of(figure)
    np.testing.assert_allclose(street, BROADWAY)
    assert shapely.Polygon(area).equals(shapely.Polygon(park[0]))
    assert names_of(figure) == {"the park"}
    both = plot.forecast_map(forecast_of(CITY), context=["new-york", str(path)])
    assert len(lines_of(both)) > 10
    assert {"the park", "Manhattan"} <= names_of(both)


@pytest.mark.parametrize("turns", [0.0, 360.0])
def test_the_convention_of_longitudes_moves_no_street(tmp_path: Path, turns: float) -> None:
    path = write_geojson(tmp_path / "own.geojson", feature("LineString", [[x + turns, y] for x, y in BROADWAY]))
    (street,) = lines_of(plot.forecast_map(forecast_of(moved(CITY, 360.0)), context=path))
    np.testing.assert_allclose(street, [(x + 360, y) for x, y in BROADWAY])


def test_what_leads_beyond_the_map_is_cut_at_its_edge(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "own.geojson", feature("LineString", [[-75, 40.75], [-73, 40.75]]))
    (street,) = lines_of(plot.forecast_map(forecast_of(CITY), context=path))
    np.testing.assert_allclose(np.sort(street[:, 0]), (WEST, EAST))


def test_a_map_with_latitudes_and_longitudes_has_context_too(tmp_path: Path) -> None:
    series = make_series(6, shape=(8, 16))
    names = {"latitude": np.linspace(SOUTH, NORTH, 8), "longitude": np.linspace(WEST, EAST, 16)}
    small = series.assign_coords({name: (name, some, series[name].attrs) for name, some in names.items()})
    for projection in (None, ccrs.Mercator()):
        axes = panels_of(plot.forecast_map(forecast_of(small), projection=projection))[0]
        shown = [
            len(list(artist._feature.geometries()))
            for artist in axes.get_children()
            if isinstance(artist, FeatureArtist)
        ]
        assert max(shown[-1], shown[-2]) > 5
        (place,) = (text.get_position() for text in axes.texts if text.get_text() == "Central Park")
        longitude, latitude = ccrs.PlateCarree().transform_point(*place, axes.projection)
        assert (longitude, latitude) == pytest.approx((-73.966, 40.7812), abs=1e-3)
    globe = write_geojson(tmp_path / "own.geojson", feature("LineString", [[-170, 10], [170, 10]], name="x"))
    figure = plot.forecast_map(forecast_of(series), context=globe)
    figure.canvas.draw()


def test_a_shapefile_is_read_as_well(tmp_path: Path) -> None:
    with shapefile.Writer(tmp_path / "streets") as writer:
        writer.field("name", "C")
        writer.line([BROADWAY])
        writer.record("Broadway")
        writer.null()
        writer.record("nothing")
    (street,) = lines_of(plot.forecast_map(forecast_of(CITY), context=tmp_path / "streets.shp"))
    np.testing.assert_allclose(street, BROADWAY)


def test_a_collection_of_geometries_is_taken_apart(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": BROADWAY}
    several = {"type": "MultiLineString", "coordinates": [BROADWAY[:2], BROADWAY[1:3]]}
    inner = {"type": "GeometryCollection", "geometries": [line]}
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"type": "GeometryCollection", "geometries": [several, inner]}))
    assert [len(line) for line in lines_of(plot.forecast_map(forecast_of(CITY), context=path))] == [2, 2, 4]


def test_a_file_that_is_no_context_is_named(tmp_path: Path) -> None:
    feet = feature("LineString", [[985000, 195000], [986000, 196000]])
    elsewhere = feature("LineString", [[2.3, 48.8], [2.4, 48.9]])
    nested = '{"type": "GeometryCollection", "geometries": [' * 5000
    for name, content, kind, words in (
        ("own.kml", "<kml/>", ErrorKind.ARGUMENT, r"own\.kml should end in \.geojson, \.json, \.shp, or be new-york"),
        ("cut.geojson", '{"type": "FeatureColl', ErrorKind.FILE_FORMAT, r"cut\.geojson cannot be read as GeoJSON"),
        ("list.geojson", "[1, 2]", ErrorKind.FILE_FORMAT, "cannot be read as GeoJSON"),
        ("deep.geojson", nested, ErrorKind.FILE_FORMAT, r"cannot be read as GeoJSON \(RecursionError"),
        ("other.geojson", '{"type": "Feature"}', ErrorKind.FILE_FORMAT, "cannot be read as GeoJSON"),
        ("cut.shp", "no shapes", ErrorKind.FILE_FORMAT, r"cut\.shp cannot be read as a shapefile"),
        ("feet.geojson", feet, ErrorKind.UNITS, "up to 986000 and 196000, which are no degrees .* to EPSG:4326"),
        ("paris.geojson", elsewhere, ErrorKind.EMPTY_SELECTION, r"nothing of .*paris\.geojson lies on the map, 40\.69"),
        ("nan.geojson", feature("LineString", [[np.nan, 1], [2, 3]]), ErrorKind.FILE_FORMAT, "not finite"),
        ("points.geojson", feature("Point", [-73.9, 40.7]), ErrorKind.EMPTY_SELECTION, "no lines, no outlines and no"),
    ):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(StforecastError, match=words) as refused:
            plot.forecast_map(forecast_of(CITY), context=[path])
        assert refused.value.kind == kind
    with pytest.raises(StforecastError, match=r"there is no file .*none\.geojson to draw over the map") as refused:
        plot.forecast_map(forecast_of(CITY), context=tmp_path / "none.geojson")
    assert refused.value.kind == ErrorKind.FILE_MISSING


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "own.geojson", feature("LineString", BROADWAY))
    path.chmod(0)
    with pytest.raises(StforecastError, match="cannot be read by this user") as refused:
        plot.forecast_map(forecast_of(CITY), context=path)
    assert refused.value.kind == ErrorKind.PERMISSION


def test_too_much_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_geojson(tmp_path / "own.geojson", feature("LineString", BROADWAY * 50))
    monkeypatch.setattr(context, "MOST_POINTS", 100)
    with pytest.raises(StforecastError, match=r"has \d+ points on the map, and 100 can be drawn; simplify") as refused:
        plot.forecast_map(forecast_of(CITY), context=path)
    assert refused.value.kind == ErrorKind.FILE_TOO_LARGE
    monkeypatch.setattr(context, "MOST_BYTES", 1000)
    with pytest.raises(StforecastError, match=r"bytes, and context may have 1,000; cut it to the city") as refused:
        plot.forecast_map(forecast_of(CITY), context=path)
    assert refused.value.kind == ErrorKind.FILE_TOO_LARGE


def test_context_wants_degrees() -> None:
    with pytest.raises(
        StforecastError, match="context is drawn where cells have degrees, but the grid .* has none"
    ) as e:
        plot.forecast_map(forecast_of(make_city(6)), context="new-york")
    assert e.value.kind == ErrorKind.ARGUMENT
