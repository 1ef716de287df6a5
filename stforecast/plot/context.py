"""Streets, water and names that tell where in a city or a small region one is: the package's own, or a user's files."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from cartopy.io.shapereader import BasicReader
from shapely.geometry import shape

from stforecast.errors import ErrorKind, StforecastError

Geometries = npt.NDArray[np.object_]
# A file of lines, outlines and names, or the name of a packaged one; several of them; None for the packaged that fit.
Surroundings = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class Box:
    """The sides of a domain in degrees."""

    west: float
    east: float
    south: float
    north: float

    def is_inside(self, other: "Box") -> bool:
        """Whether the other one has all of it."""
        is_between = other.west <= self.west and self.east <= other.east
        return is_between and other.south <= self.south and self.north <= other.north


# Where the outlines of a packaged file end.
PACKAGED = {"new-york": Box(-74.06, -73.80, 40.65, 40.90)}


@dataclass(frozen=True)
class Context:
    """What is drawn over the cells of a map besides coastlines, in degrees.

    Attributes:
        outlines: of areas: shores, lakes, parks.
        lines: streets, rivers.
        names: longitude, latitude and what is there.
    """

    outlines: Geometries = field(default_factory=lambda: _geometries([]))
    lines: Geometries = field(default_factory=lambda: _geometries([]))
    names: tuple[tuple[float, float, str], ...] = ()

    def within(self, box: Box) -> "Context":
        """What of it lies in a domain, whichever convention of longitudes that has."""
        middle = (box.west + box.east) / 2
        names = []
        for longitude, latitude, name in self.names:
            turned = longitude + _turns(np.array([longitude]), middle)[0]
            if box.west < turned < box.east and box.south < latitude < box.north:
                names.append((float(turned), latitude, name))
        return Context(_clipped(self.outlines, box, middle), _clipped(self.lines, box, middle), tuple(names))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not (len(self.outlines) or len(self.lines) or self.names)

    @property
    def point_count(self) -> int:
        """How many points its lines have."""
        return int(shapely.get_num_coordinates(np.concatenate([self.outlines, self.lines])).sum())


def context_in(box: Box, given: Surroundings) -> Context:
    """What is drawn over a domain: of the files that are given, else of the packaged ones that have all of it.

    Raises:
        StforecastError: FILE_MISSING, PERMISSION, FILE_TOO_LARGE or FILE_FORMAT for a file that cannot be read; UNITS
            for one that is not in degrees; EMPTY_SELECTION for one with nothing in the domain; FILE_TOO_LARGE for too
            many points in it.
    """
    if given is None:
        found = [_packaged(name).within(box) for name, has in PACKAGED.items() if _shifted(box).is_inside(has)]
        return _merged(found)
    paths = [given] if isinstance(given, str | Path) else given
    found = []
    for path in paths:
        inside = _read(path).within(box)
        if inside.is_empty:
            raise StforecastError(
                ErrorKind.EMPTY_SELECTION,
                f"nothing of {path} lies on the map, {box.south:g} to {box.north:g} degrees north and {box.west:g} to "
                f"{box.east:g} east; give a file of that place",
            )
        if inside.point_count > MOST_POINTS:
            raise StforecastError(
                ErrorKind.FILE_TOO_LARGE,
                f"{path} has {inside.point_count:,} points on the map, and {MOST_POINTS:,} can be drawn; simplify it, "
                "or leave small streets out",
            )
        found.append(inside)
    return _merged(found)


# All streets of a large city have some 300 000 points.
MOST_POINTS = 500_000
MOST_BYTES = 100 * 2**20


def _shifted(box: Box) -> Box:
    """The box with its middle within -180..180 degrees."""
    turn = float(_turns(np.array([(box.west + box.east) / 2]), 0.0)[0])
    return Box(box.west + turn, box.east + turn, box.south, box.north)


def _merged(several: Sequence[Context]) -> Context:
    return Context(
        _geometries([line for one in several for line in one.outlines]),
        _geometries([line for one in several for line in one.lines]),
        tuple(name for one in several for name in one.names),
    )


def _geometries(several: Sequence[Any]) -> Geometries:
    made = np.empty(len(several), dtype=object)
    made[:] = several
    return made


def _turns(longitude: npt.NDArray[np.float64], middle: float) -> npt.NDArray[np.float64]:
    """Whole turns that bring longitudes to within 180 degrees of the middle."""
    turns: npt.NDArray[np.float64] = 360.0 * np.round((middle - longitude) / 360)
    return turns


def _clipped(lines: Geometries, box: Box, middle: float) -> Geometries:
    """The parts of lines inside of a box."""
    parts: Geometries = shapely.get_parts(lines)
    if not len(parts):
        return parts
    bounds = shapely.bounds(parts)
    turns = _turns((bounds[:, 0] + bounds[:, 2]) / 2, middle)
    for turn in np.unique(turns[turns != 0]):
        east = np.array([turn, 0.0])
        parts[turns == turn] = shapely.transform(parts[turns == turn], lambda places, east=east: places + east)
    parts = shapely.get_parts(shapely.clip_by_rect(parts, box.west, box.south, box.east, box.north))
    is_line = (shapely.get_type_id(parts) == shapely.GeometryType.LINESTRING) & ~shapely.is_empty(parts)
    return np.compress(is_line, parts)


@cache
def _packaged(name: str) -> Context:
    with as_file(files("stforecast").joinpath("city_context")) as folder:
        return _sorted(_geojson(folder / f"{name}.geojson"))


def _read(path: str | Path) -> Context:
    if isinstance(path, str) and path in PACKAGED and not Path(path).exists():
        return _packaged(path)
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"context is read from GeoJSON and shapefiles: {path} should end in {', '.join(_READERS)}, or be "
            f"{' or '.join(PACKAGED)}, which comes with the package",
        )
    try:
        _check_size(path)
        with path.open("rb"):
            pass  # the reader of shapefiles does not say why it cannot
        with np.errstate(invalid="ignore"):  # coordinates that are not finite are told of below
            found = _sorted(reader(path))
    except FileNotFoundError as error:
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no file {path} to draw over the map") from error
    except PermissionError as error:
        raise StforecastError(ErrorKind.PERMISSION, f"{path} cannot be read by this user") from error
    except StforecastError:
        raise
    except Exception as error:  # whatever a library makes of a damaged file
        raise StforecastError(
            ErrorKind.FILE_FORMAT,
            f"{path} cannot be read as {'GeoJSON' if reader is _geojson else 'a shapefile'} "
            f"({type(error).__name__}: {error}); make it anew",
        ) from error
    _check_degrees(found, path)
    return found


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise StforecastError(
            ErrorKind.FILE_TOO_LARGE,
            f"{path} has {size:,} bytes, and context may have {MOST_BYTES:,}; cut it to the city first",
        )


def _geojson(path: Path) -> Iterator[tuple[Any, str]]:
    """The geometries of a GeoJSON (RFC 7946), with the names of their features."""
    features = [json.loads(path.read_text(encoding="utf-8"))]
    while features:
        feature = features.pop()
        if feature["type"] == "FeatureCollection":
            features.extend(feature["features"])
        elif feature["type"] != "Feature":
            yield shape(feature), ""
        elif feature["geometry"] is not None:
            yield shape(feature["geometry"]), str((feature.get("properties") or {}).get("name") or "")


def _shapefile(path: Path) -> Iterator[tuple[Any, str]]:
    """The geometries of a shapefile; names are in whatever encoding, so they are left out."""
    reader = BasicReader(path)
    try:
        yield from ((geometry, "") for geometry in reader.geometries() if geometry is not None)
    finally:
        reader.close()


_READERS: dict[str, Callable[[Path], Iterator[tuple[Any, str]]]] = {
    ".geojson": _geojson,
    ".json": _geojson,
    ".shp": _shapefile,
}


def _sorted(found: Iterator[tuple[Any, str]]) -> Context:
    """Outlines of areas, lines, and points that have names; points without are left out."""
    outlines: list[Any] = []
    lines: list[Any] = []
    names: list[tuple[float, float, str]] = []
    for geometry, name in found:
        for part in shapely.get_parts(geometry) if geometry.geom_type != "GeometryCollection" else _flat(geometry):
            if part.is_empty:
                continue
            if part.geom_type == "Polygon":
                outlines += (part.exterior, *part.interiors)
            elif part.geom_type == "Point":
                names += [(float(part.x), float(part.y), name)] if name else []
            else:
                lines.append(part)
    return Context(_as_lines(outlines), _as_lines(lines), tuple(names))


def _flat(collection: Any) -> Iterator[Any]:
    for part in collection.geoms:
        yield from _flat(part) if hasattr(part, "geoms") else iter([part])


def _as_lines(several: Sequence[Any]) -> Geometries:
    """Lines in two dimensions; rings are lines that end where they begin."""
    return _geometries([shapely.LineString(shapely.get_coordinates(one)) for one in several])


def _check_degrees(found: Context, path: Path) -> None:
    places = [shapely.get_coordinates(np.concatenate([found.outlines, found.lines]))]
    places.append(np.array([name[:2] for name in found.names]).reshape(-1, 2))
    points = np.concatenate(places)
    if not len(points):
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION, f"{path} has no lines, no outlines and no points with a name to draw"
        )
    if not np.isfinite(points).all():
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} has coordinates that are not finite; make it anew")
    most = np.abs(points).max(axis=0)
    if most[0] > 360 or most[1] > 90:
        raise StforecastError(
            ErrorKind.UNITS,
            f"{path} has coordinates up to {most[0]:g} and {most[1]:g}, which are no degrees of longitude and "
            "latitude; reproject it to EPSG:4326",
        )
