"""What a page draws of a grid: which cell each pixel shows, coastlines, borders and the lines of degrees."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cartopy.crs as ccrs
import numpy as np
import numpy.typing as npt
import shapely

from stforecast.plot.canvas import Canvas, meridians, parallels
from stforecast.plot.coastlines import borders, outlines
from stforecast.plot.fields import Values
from stforecast.plot.words import show_degrees

Cells = npt.NDArray[np.int32]
Line = npt.NDArray[np.float64]  # (point, 2)

# As many pixels as a map of this size has on a screen.
_PIXELS = 250_000
_MOST_ALONG = 1000


@dataclass(frozen=True)
class Paper:
    """The plane that a page draws on, with everything on it that does not change.

    Rows of a city that are told by number run downwards on maps, but bokeh's images upwards: their y is turned over. A
    region's x is its longitude, so that its axis has round numbers.

    Attributes:
        cells: which cell each pixel shows, its place in the flattened (Y, X) of the data, or -1; (height, width), the
            first row in the south.
        limits: west, east, south and north of the pixels.
        shape: height over width.
        centres: where the centre of each cell lies, (2, cell): x, then y.
        coast: coastlines, shores of lakes and of cities.
        borders: international borders, and streets of a city.
        graticule: lines of degrees, where the axes do not tell them.
        names: x, y and the words of degrees at the ends of those lines, and of places.
        edge: the outline of a domain that is no rectangle.
    """

    cells: Cells = field(repr=False)
    limits: tuple[float, float, float, float]
    shape: float
    centres: Values = field(repr=False)
    coast: Sequence[Line] = field(repr=False)
    borders: Sequence[Line] = field(repr=False)
    graticule: Sequence[Line] = field(repr=False)
    names: Sequence[tuple[float, float, str]] = field(repr=False)
    edge: Line | None = field(repr=False)

    @classmethod
    def of(cls, canvas: Canvas) -> "Paper":
        """The paper of a canvas."""
        west, east, south, north = canvas.limits
        width, height = _size(canvas)
        across = west + (np.arange(width) + 0.5) * (east - west) / width
        up = south + (np.arange(height) + 0.5) * (north - south) / height
        cells = _cells_at(canvas, *np.meshgrid(across, up))
        is_bent = canvas.is_map and canvas.kind != "region"
        lines = [_moved(canvas, _on_paper(canvas, some)) for some in _geography(canvas)]
        graticule, names = _graticule(canvas) if is_bent else ([], [])
        said = [*names, *_places(canvas)]
        told = [words for _, _, words in said]
        (places,) = _moved(canvas, [np.array([(x, y) for x, y, _ in said]).reshape(-1, 2)])
        corners = np.array([[west, south], [east, north]])
        (west, south), (east, north) = _moved(canvas, [corners])[0]
        south, north = min(south, north), max(south, north)
        return cls(
            cells[::-1] if canvas.kind == "rows" else cells,
            (west, east, south, north),
            canvas.shape,
            _moved(canvas, [_centres(canvas).T])[0].T,
            lines[0],
            lines[1],
            _moved(canvas, graticule),
            [(float(x), float(y), words) for (x, y), words in zip(places, told, strict=True)],
            _moved(canvas, [canvas.edge])[0] if is_bent else None,
        )


def _moved(canvas: Canvas, lines: Sequence[Line]) -> list[Line]:
    """Lines of the canvas on the page's plane."""
    east = canvas.centre if canvas.kind == "region" else 0.0
    return [line * np.array([1, -1 if canvas.kind == "rows" else 1]) + np.array([east, 0]) for line in lines]


def _size(canvas: Canvas) -> tuple[int, int]:
    """How many pixels there are along x and y: one a cell, where cells are alike and straight."""
    is_straight = not canvas.is_map or canvas.kind == "region"
    sizes = [np.diff(bounds) for bounds in (canvas.x_bounds, canvas.y_bounds)]
    is_even = all(np.allclose(size, size[0], rtol=1e-3) for size in sizes)
    if is_straight and is_even and max(map(len, sizes)) <= _MOST_ALONG:
        return len(sizes[0]), len(sizes[1])
    width = min(np.sqrt(_PIXELS / canvas.shape), _MOST_ALONG)
    return int(width), int(min(width * canvas.shape, _MOST_ALONG))


def _cells_at(canvas: Canvas, x: Values, y: Values) -> Cells:
    """The cells at points on paper, -1 where there is none."""
    is_there = np.ones(x.shape, bool)
    if canvas.is_map:
        points = canvas.degrees.transform_points(canvas.projection, x, y)
        back = canvas.projection.transform_points(canvas.degrees, points[..., 0], points[..., 1])
        # Beyond the edge of a map of the globe the way there and back leads elsewhere.
        apart = np.hypot(back[..., 0] - x, back[..., 1] - y)
        west, east, *_ = canvas.limits
        is_there, x, y = apart < (east - west) / 1000, points[..., 0], points[..., 1]
    for values, bounds in ((x, canvas.x_bounds), (y, canvas.y_bounds)):
        is_there = is_there & (values >= bounds[0]) & (values <= bounds[-1])
    column, row = (
        np.clip(np.searchsorted(bounds, np.where(is_there, values, bounds[0]), side="right") - 1, 0, len(bounds) - 2)
        for values, bounds in ((x, canvas.x_bounds), (y, canvas.y_bounds))
    )
    count = int(canvas.columns.max()) + 1
    return np.where(is_there, canvas.rows[row] * count + canvas.columns[column], -1).astype(np.int32)


def _centres(canvas: Canvas) -> Values:
    """Where the cells' centres lie on paper, (2, cell) in the order of the data."""
    x, y = ((bounds[1:] + bounds[:-1]) / 2 for bounds in (canvas.x_bounds, canvas.y_bounds))
    # A column that lies on both sides of the seam has its centre on the last one.
    own = np.zeros(int(canvas.columns.max()) + 1, np.intp)
    own[canvas.columns] = np.arange(len(canvas.columns))
    up = y[np.argsort(canvas.rows)]
    across, along = np.meshgrid(x[own], up)
    return np.stack([some.ravel() for some in canvas.on_paper(across, along)])


def _geography(canvas: Canvas) -> tuple[Any, Any]:
    """Coastlines and borders in degrees, as geometries."""
    context = canvas.context
    if not canvas.is_map:
        return list(context.outlines), list(context.lines)
    settled, disputed = borders()
    coast = [*outlines().geometries(), *context.outlines]
    return coast, [*settled.geometries(), *disputed.geometries(), *context.lines]


def _on_paper(canvas: Canvas, geometries: Sequence[Any]) -> list[Line]:
    """The parts of lines that lie within the domain, on paper."""
    west, east, south, north = canvas.limits
    lines: list[Line] = []
    for geometry in geometries:
        if canvas.is_map and not _is_near(canvas, geometry):
            continue  # it takes long to put a line on paper
        projected = canvas.projection.project_geometry(geometry, ccrs.PlateCarree()) if canvas.is_map else geometry
        lines += list(_lines_of(shapely.clip_by_rect(projected, west, south, east, north)))
    if canvas.is_map and canvas.kind in ("cap", "fan"):
        domain = shapely.Polygon(canvas.edge)
        inside = [shapely.intersection(shapely.LineString(line), domain) for line in lines]
        lines = [part for line in inside for part in _lines_of(line)]
    return lines


def _is_near(canvas: Canvas, geometry: Any) -> bool:
    """Whether the box around a geometry reaches into that of the domain, whole turns away or not."""
    west, south, east, north = geometry.bounds
    left, right = canvas.x_bounds[[0, -1]] + canvas.centre
    is_beside = any(west + turn <= right and east + turn >= left for turn in (-360, 0, 360))
    return is_beside and south <= canvas.y_bounds[-1] and north >= canvas.y_bounds[0]


def _lines_of(geometry: Any) -> Iterator[Line]:
    """The coordinates of the lines and rings that a geometry is made of."""
    for part in shapely.get_parts(geometry):
        if part.geom_type == "Polygon":
            yield from (shapely.get_coordinates(ring) for ring in (part.exterior, *part.interiors))
        elif part.geom_type == "MultiLineString":
            yield from _lines_of(part)
        elif len(coordinates := shapely.get_coordinates(part)) > 1:
            yield coordinates


def _graticule(canvas: Canvas) -> tuple[list[Line], list[tuple[float, float, str]]]:
    """Lines of degrees on paper, and the words at their ends."""
    west, east, south, north = *canvas.x_bounds[[0, -1]], *canvas.y_bounds[[0, -1]]
    lines, names = [], []
    near = min(south, north, key=abs)
    for longitude in meridians(canvas):
        x = (longitude - canvas.centre + 180) % 360 - 180
        if west <= x <= east:
            line = np.column_stack(canvas.on_paper(np.full(61, x), np.linspace(south, north, 61)))
            lines.append(line)
            if canvas.kind in ("cap", "fan"):
                at = canvas.on_paper(np.array([x]), np.array([near]))
                names.append((float(at[0][0]), float(at[1][0]), show_degrees(longitude, "EW")))
    for latitude in parallels(canvas):
        if south < latitude < north and abs(latitude) < 90:
            lines.append(np.column_stack(canvas.on_paper(np.linspace(west, east, 181), np.full(181, latitude))))
            at = canvas.on_paper(np.array([-112.5 if canvas.is_round else west]), np.array([latitude]))
            names.append((float(at[0][0]), float(at[1][0]), show_degrees(latitude, "NS")))
    return lines, names


def _places(canvas: Canvas) -> list[tuple[float, float, str]]:
    """Names of what is in a city."""
    places = []
    for longitude, latitude, name in canvas.context.names:
        x, y = canvas.on_paper(np.array([longitude - canvas.centre]), np.array([latitude]))
        places.append((float(x[0]), float(y[0]), name))
    return places
