"""Where a grid's cells lie on paper: projections, coastlines, axes and scale bars."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cartopy.crs as ccrs
import numpy as np
import shapely
import xarray as xr
from cartopy.feature import ShapelyFeature
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, Positions, cell_bounds
from stforecast.plot.coastlines import borders, outlines
from stforecast.plot.colours import Colours
from stforecast.plot.context import Box, Context, Geometries, Surroundings, context_in
from stforecast.plot.fields import Values
from stforecast.plot.pictures import Layout, new_figure
from stforecast.plot.words import label_of, show_degrees

Kind = Literal["globe", "region", "cap", "fan", "chosen", "city", "rows", "plane"]


@dataclass(frozen=True)
class Canvas:
    """A panel's plane and the cells on it, from west to east and in increasing y.

    Attributes:
        kind: a map of the globe; of a region as a rectangle; around a pole; of a region between its meridians and
            parallels; in a projection that the caller chose; a city in degrees; in rows from the north; another plane.
        x_bounds: of the cells, (x + 1,); on a map in degrees east of its central longitude.
        y_bounds: of the cells, (y + 1,).
        rows: where the cells' rows stand in the data.
        columns: where their columns do; on the globe one may be there twice, at both edges.
        x_label: what stands below the axis of a plane.
        y_label: what stands beside it.
        stretch: length on paper of a unit of y, in units of x.
        centre: the central longitude of a map.
        projection: a map's, None for a plane.
        context: what is drawn over the cells besides coastlines, in degrees.
    """

    kind: Kind
    x_bounds: Values
    y_bounds: Values
    rows: Positions
    columns: Positions
    x_label: str = ""
    y_label: str = ""
    stretch: float = 1.0
    centre: float = 0.0
    projection: Any = None
    context: Context = field(default_factory=Context)

    @property
    def is_map(self) -> bool:
        """Whether coastlines belong on it."""
        return self.projection is not None

    @property
    def is_round(self) -> bool:
        """Whether a map around a pole has all longitudes."""
        return self.kind == "cap" and bool(np.ptp(self.x_bounds) >= 359)

    @property
    def degrees(self) -> Any:
        """The plane of a map's bounds; none of its cells is cut where longitudes wrap."""
        return ccrs.PlateCarree(central_longitude=self.centre)

    def on_paper(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Where points of the plane of the bounds, (…), lie in the projection."""
        if not self.is_map:
            return x, y
        points = self.projection.transform_points(self.degrees, x, y)
        return points[..., 0], points[..., 1]

    @property
    def edge(self) -> Values:
        """The outline of all cells on paper, (point, 2)."""
        west, east, south, north = *self.x_bounds[[0, -1]], *self.y_bounds[[0, -1]]
        along, up = np.linspace(west, east, 181), np.linspace(south, north, 61)
        if self.is_round:  # the parallel that is farther from the pole
            y = np.full(181, south if abs(south) < abs(north) else north)
            return np.column_stack(self.on_paper(along, y))
        x = np.concatenate([along, np.full(61, east), along[::-1], np.full(61, west)])
        y = np.concatenate([np.full(181, south), up, np.full(181, north), up[::-1]])
        return np.column_stack(self.on_paper(x, y))

    @property
    def is_seen(self) -> bool:
        """Whether some of the domain is on this side of the Earth."""
        x, y = np.meshgrid(*(np.linspace(bounds[0], bounds[-1], 61) for bounds in (self.x_bounds, self.y_bounds)))
        return bool(np.isfinite(self.on_paper(x, y)).any())

    @property
    def limits(self) -> tuple[float, float, float, float]:
        """West, east, south and north on paper."""
        is_global = np.ptp(self.x_bounds) >= 359 and np.ptp(self.y_bounds) > 150
        edge = self.edge[np.isfinite(self.edge).all(axis=1)]
        if self.kind in ("globe", "chosen") and (is_global or not len(edge)):
            return (*self.projection.x_limits, *self.projection.y_limits)
        (west, south), (east, north) = edge.min(axis=0), edge.max(axis=0)
        return float(west), float(east), float(south), float(north)

    @property
    def shape(self) -> float:
        """Height of the domain on paper over its width."""
        west, east, south, north = self.limits
        return (north - south) / (east - west) * self.stretch

    @property
    def is_narrow(self) -> bool:
        """Whether a panel as wide as its title is wider than the domain."""
        return self.shape > _TALLEST

    def panel_size(self, count: int) -> tuple[float, float]:
        """Width and height in inches of one of so many panels, with its title and labels."""
        width = float(np.clip(4.4 / self.shape, 3.3, 4.6)) * (1.7 if count == 1 else 1.0)
        return width, width * float(np.clip(self.shape, 0.2, _TALLEST)) + _TITLE

    def height(self, count: int) -> float:
        """Height in inches of the domain itself in one of so many panels."""
        return self.panel_size(count)[1] - _TITLE

    @property
    def thinning(self) -> int:
        """How many cells along x and along y are drawn as one, their mean, because paper shows no more."""
        return int(np.ceil(np.sqrt(len(self.rows) * len(self.columns) / _MOST_CELLS)))


_TALLEST = 2.5
_TITLE = 0.95  # inches, with labels
# More than pixels on a page; a global grid by a quarter of a degree is drawn as it is.
_MOST_CELLS = 1_100_000


def canvas_of(dataset: xr.Dataset, grid: Grid, projection: Any = None, context: Surroundings = None) -> Canvas:
    """Where the cells of a forecast's grid lie on paper, in a projection of one's choice or in one that suits them.

    Raises:
        StforecastError: ARGUMENT for a projection of a grid that has no latitudes and longitudes or that lies outside
            of it, or for context where nothing tells the degrees of its cells; what `context_in` refuses.
    """
    canvas = _bare_canvas(dataset, grid, projection)
    if canvas.kind == "chosen" and not canvas.is_seen:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"the grid {grid} is not to be seen in projection={type(projection).__name__}; choose another centre",
        )
    if canvas.is_map or canvas.kind == "city":
        west, east = (float(bound) + canvas.centre for bound in canvas.x_bounds[[0, -1]])
        south, north = (float(bound) for bound in canvas.y_bounds[[0, -1]])
        return replace(canvas, context=context_in(Box(west, east, south, north), context))
    if context:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"context is drawn where cells have degrees, but the grid {grid} has none; give a city's bounds when its "
            "files are opened, or leave context out",
        )
    return canvas


def _bare_canvas(dataset: xr.Dataset, grid: Grid, projection: Any) -> Canvas:
    if grid.is_geographic:
        return _map_canvas(grid, projection)
    if projection is not None:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"projection={type(projection).__name__} is for maps, but the grid {grid} is a plane; leave it out",
        )
    latitude, longitude = degrees_of(dataset, grid.y_name, "latitude"), degrees_of(dataset, grid.x_name, "longitude")
    if latitude is not None and longitude is not None:
        x, y = _Axis.of(longitude.to_numpy()), _Axis.of(latitude.to_numpy())
        stretch = 1 / np.cos(np.deg2rad(latitude.mean().item()))
        x_label, y_label = f"longitude{_caveat(longitude)}", f"latitude{_caveat(latitude)}"
        return Canvas("city", x.bounds, y.bounds, y.positions, x.positions, x_label, y_label, float(stretch))
    x, y = _Axis.of(grid.x), _Axis.of(grid.y)
    if _has_values(dataset, grid):
        x_label, y_label = (label_of(dataset[name]) for name in (grid.x_name, grid.y_name))
        return Canvas("plane", x.bounds, y.bounds, y.positions, x.positions, x_label, y_label)
    return Canvas("rows", x.bounds, y.bounds, y.positions, x.positions, "column (west to east)", "row (north to south)")


@dataclass(frozen=True)
class _Axis:
    """Increasing bounds of cells, (n + 1,), and where the cells stand in the data, (n,)."""

    bounds: Values
    positions: Positions

    @classmethod
    def of(cls, centres: Values) -> "_Axis":
        positions = np.argsort(centres)
        return cls(cell_bounds(centres[positions]), positions)

    @classmethod
    def around_globe(cls, longitude: Values) -> "_Axis":
        """From 180 degrees west to 180 degrees east: the column that lies across that seam is there on both sides."""
        east = (longitude + 180) % 360 - 180
        positions = np.argsort(east)
        middle = (east[positions][1:] + east[positions][:-1]) / 2
        seam = (east[positions][0] + east[positions][-1]) / 2  # the bound between last and first, modulo 180
        bounds = np.concatenate([[-180.0], middle, [180.0]])
        if np.isclose(seam, 0, atol=1e-4):
            return cls(bounds, positions)
        if seam < 0:
            return cls(np.insert(bounds, -1, 180.0 + seam), np.append(positions, positions[0]))
        return cls(np.insert(bounds, 1, -180.0 + seam), np.insert(positions, 0, positions[-1]))


def _map_canvas(grid: Grid, projection: Any) -> Canvas:
    y = _Axis.of(grid.y)
    latitudes = y.bounds.clip(-90, 90)
    if grid.spans_globe:
        x, centre = _Axis.around_globe(grid.x), 0.0
        bounds = x.bounds
    else:
        x = _Axis.of(grid.x)
        centre = float(x.bounds[0] + x.bounds[-1]) / 2
        bounds = x.bounds - centre
    kind: Kind = "chosen"
    if projection is None:
        kind, projection = _suited(float(np.ptp(bounds)), centre, float(latitudes[0]), float(latitudes[-1]))
    # A region is stretched to be true to scale at its middle latitude, unlike a plain latitude-longitude plot.
    stretch = 1 / np.cos(np.deg2rad((latitudes[0] + latitudes[-1]) / 2)) if kind == "region" else 1.0
    return Canvas(
        kind,
        bounds,
        latitudes,
        y.positions,
        x.positions,
        stretch=float(stretch),
        centre=centre,
        projection=projection,
    )


def _suited(width: float, centre: float, south: float, north: float) -> tuple[Kind, Any]:
    """The projection that suits a domain of so many degrees."""
    is_round = width >= 359
    if is_round and north - south > 150:
        return "globe", ccrs.EqualEarth(central_longitude=centre)  # areas are as on Earth, as in the scores
    farthest, nearest = max(north, -south), min(abs(south), abs(north)) if south * north >= 0 else 0.0
    is_polar = farthest >= 80 and south * north >= 0 if is_round else nearest >= 55
    if is_polar:
        polar = ccrs.NorthPolarStereo if north > -south else ccrs.SouthPolarStereo
        return "cap", polar(central_longitude=centre)
    # How much wider a degree of longitude is on one side than on the other.
    unevenness = np.cos(np.deg2rad(nearest)) / max(np.cos(np.deg2rad(farthest)), 1e-6)
    if not is_round and width <= 180 and nearest > 0 and unevenness > _UNEVEN:
        sixth = (north - south) / 6
        conic = ccrs.LambertConformal(
            central_longitude=centre,
            central_latitude=(south + north) / 2,
            standard_parallels=(south + sixth, north - sixth),
            cutoff=-80 if north > -south else 80,
        )
        return "fan", conic
    return "region", ccrs.PlateCarree(central_longitude=centre)


# Beyond this a rectangle of latitude and longitude is a poor likeness of a region.
_UNEVEN = 1.6


def degrees_of(dataset: xr.Dataset, dim: str, standard_name: str) -> xr.DataArray | None:
    """The latitudes of rows or the longitudes of columns, where a coordinate beside the dimension has them."""
    for name, coordinate in dataset.coords.items():
        if coordinate.dims == (dim,) and standard_name in (name, coordinate.attrs.get("standard_name")):
            degrees: xr.DataArray = coordinate.astype(np.float64).compute()
            return degrees
    return None


def _caveat(coordinate: xr.DataArray) -> str:
    """What to say of coordinates that their source calls approximate."""
    return " (approximate)" if str(coordinate.attrs.get("comment", "")).startswith("approximate") else ""


def _has_values(dataset: xr.Dataset, grid: Grid) -> bool:
    """Whether the axes of a plane are measured (kilometres, say) and not counted."""
    return all(name in dataset.coords and "units" in dataset[name].attrs for name in (grid.y_name, grid.x_name))


def new_panels(canvas: Canvas, count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, in as many rows as bring it closest to the shape of a slide."""
    width, height = canvas.panel_size(count)
    columns = _columns(count, width, height)
    rows = -(-count // columns)
    # Compressed, narrow domains would move together until their titles overlap.
    layout: Layout = "constrained" if canvas.is_narrow else "compressed"
    figure = new_figure((columns * width, rows * height + 1.0), layout)
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": canvas.projection})
    panel = list(grid.flat)
    for axes in panel[count:]:
        axes.remove()
    for number, axes in enumerate(panel[:count]):
        is_left, is_bottom = number % columns == 0, number + columns >= count
        if canvas.is_map:
            _lay_out_map(axes, canvas, is_left=is_left, is_bottom=is_bottom)
        else:
            _lay_out_plane(axes, canvas, is_left=is_left, is_bottom=is_bottom)
    return figure, panel[:count]


def _columns(count: int, width: float, height: float) -> int:
    """How many panels stand in a row so that the sheet is like a slide and has few empty places."""

    def cost(columns: int) -> float:
        rows = -(-count // columns)
        return abs(float(np.log(columns * width / (rows * height) * 9 / 16))) + (rows * columns - count) / count

    return count if count <= 3 else min(range(2, count + 1), key=cost)


def _lay_out_map(axes: Any, canvas: Canvas, *, is_left: bool, is_bottom: bool) -> None:
    west, east, south, north = canvas.limits
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    if canvas.kind in ("cap", "fan"):
        axes.set_boundary(Path(canvas.edge))
    if canvas.kind == "region":
        axes.set_aspect(canvas.stretch)
    lines, dotted = borders()
    axes.add_feature(outlines(), edgecolor="black", linewidth=0.8, path_effects=[_HALO])
    axes.add_feature(lines, edgecolor="0.15", linewidth=0.5, path_effects=[_HALO])
    axes.add_feature(dotted, edgecolor="0.15", linewidth=0.5, linestyle=":")
    _draw_context(axes, canvas)
    style = {"color": "0.35", "linewidth": 0.4, "linestyle": ":", "alpha": 0.7}
    if canvas.kind in ("cap", "fan"):
        longitudes, latitudes = meridians(canvas), parallels(canvas)
        axes.gridlines(xlocs=longitudes, ylocs=latitudes, **style)
        _label_meridians(axes, canvas, longitudes if is_bottom or canvas.is_round else longitudes[:0])
        _label_parallels(axes, canvas, latitudes if is_left or canvas.is_round else latitudes[:0])
        return
    grid_lines = axes.gridlines(
        draw_labels=({"left": "y"} if is_left else {}) | ({"bottom": "x"} if is_bottom else {}),
        xlocs=meridians(canvas) if canvas.kind == "region" else None,
        x_inline=False,
        y_inline=False,
        **style,
    )
    grid_lines.xlabel_style = grid_lines.ylabel_style = {"size": 8}


def _label_meridians(axes: Axes, canvas: Canvas, longitudes: Values) -> None:
    """Write longitudes outside of the edge that is nearer to the equator; cartopy leaves most of a fan's out."""
    edge = min(canvas.y_bounds[[0, -1]], key=abs)
    inside = edge + np.copysign(0.5, canvas.y_bounds.mean() - edge)
    for longitude in longitudes:
        x = (longitude - canvas.centre + 180) % 360 - 180
        if canvas.x_bounds[0] <= x <= canvas.x_bounds[-1]:
            _label_outside(axes, canvas, (x, edge), (x, inside), show_degrees(longitude, "EW"))


def _label_parallels(axes: Axes, canvas: Canvas, latitudes: Values) -> None:
    """Write latitudes outside of the western edge, on a round map beside a meridian."""
    west = -112.5 if canvas.is_round else canvas.x_bounds[0]
    for latitude in latitudes:
        if canvas.y_bounds[0] < latitude < canvas.y_bounds[-1] and abs(latitude) < 90:
            apart = 0 if canvas.is_round else 9
            _label_outside(axes, canvas, (west, latitude), (west + 0.5, latitude), show_degrees(latitude, "NS"), apart)


def _label_outside(
    axes: Axes, canvas: Canvas, edge: tuple[float, float], inside: tuple[float, float], words: str, apart: float = 9
) -> None:
    x, y = canvas.on_paper(*np.array([edge, inside]).T)
    away = np.array([x[0] - x[1], y[0] - y[1]])
    right, up = away / np.linalg.norm(away)
    axes.annotate(
        words,
        (x[0], y[0]),
        xytext=(1.5 * apart * right, apart * up),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=8,
        annotation_clip=False,
        zorder=6,
        path_effects=[] if apart else [withStroke(linewidth=2, foreground="white", alpha=0.7)],
    )


def meridians(canvas: Canvas) -> Values:
    """Longitudes to label, -180..180; cartopy's own choice leaves out those beyond the dateline."""
    if canvas.is_round:
        return np.arange(-180.0, 180.0, 45.0)
    west, east = canvas.x_bounds[[0, -1]] + canvas.centre
    longitude = np.asarray(MaxNLocator(6, steps=[1, 2, 3, 6, 10]).tick_values(west, east))
    return (longitude + 180) % 360 - 180


def parallels(canvas: Canvas) -> Values:
    """Latitudes to label."""
    south, north = canvas.y_bounds[[0, -1]]
    latitude: Values = np.asarray(MaxNLocator(5, steps=[1, 2, 3, 5, 10]).tick_values(south, north))
    return np.compress(np.abs(latitude) <= 90, latitude)


_HALO = withStroke(linewidth=1.8, foreground="white", alpha=0.5)
_THICK_HALO = withStroke(linewidth=2, foreground="white", alpha=0.8)


def _lay_out_plane(axes: Axes, canvas: Canvas, *, is_left: bool, is_bottom: bool) -> None:
    axes.set_aspect(canvas.stretch)
    axes.set_xlim(canvas.x_bounds[0], canvas.x_bounds[-1])
    axes.set_ylim(canvas.y_bounds[0], canvas.y_bounds[-1])
    axes.tick_params(labelsize=8, labelleft=is_left, labelbottom=is_bottom)
    axes.set_xlabel(canvas.x_label if is_bottom else "", fontsize=9)
    axes.set_ylabel(canvas.y_label if is_left else "", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=canvas.kind == "rows", min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=canvas.kind == "rows", min_n_ticks=1))
    if canvas.kind == "rows":
        axes.invert_yaxis()
    if canvas.kind == "city":
        axes.xaxis.set_major_formatter(lambda degrees, _: show_degrees(degrees, "EW"))
        axes.yaxis.set_major_formatter(lambda degrees, _: show_degrees(degrees, "NS"))
        _draw_context(axes, canvas)
        _draw_scale_bar(axes, canvas)


def _draw_context(axes: Any, canvas: Canvas) -> None:
    """Shores, streets and names over the cells."""
    context = canvas.context
    for lines, width in ((context.outlines, 1.0), (context.lines, 0.6)):
        if not len(lines):
            continue
        if canvas.is_map:
            style = {"edgecolor": "0.1", "facecolor": "none", "linewidth": width, "path_effects": [_HALO]}
            axes.add_feature(ShapelyFeature(list(_moved(lines, -canvas.centre)), canvas.degrees), **style)
        else:
            paths = [shapely.get_coordinates(line) for line in lines]
            axes.add_collection(
                LineCollection(paths, colors="0.1", linewidths=width, path_effects=[_HALO]), autolim=False
            )
    for longitude, latitude, name in context.names:
        x, y = canvas.on_paper(np.array([longitude - canvas.centre]), np.array([latitude]))
        axes.text(
            x[0], y[0], name, ha="center", va="center", fontsize=6.5, clip_on=True, zorder=6, path_effects=[_THICK_HALO]
        )


def _moved(lines: Geometries, east: float) -> Geometries:
    moved: Geometries = shapely.transform(lines, lambda places: places + np.array([east, 0.0]))
    return moved


def _draw_scale_bar(axes: Axes, canvas: Canvas) -> None:
    """A bar of a round number of kilometres, at most a third of the panel."""
    km_per_degree = _KM_PER_DEGREE / canvas.stretch
    width = float(np.ptp(canvas.x_bounds))
    most = width * km_per_degree / 3
    decade = 10.0 ** np.floor(np.log10(most))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= most)
    right, bottom = canvas.x_bounds[-1] - 0.06 * width, canvas.y_bounds[0] + 0.06 * np.ptp(canvas.y_bounds)
    left = right - length / km_per_degree
    effects = [withStroke(linewidth=5, foreground="white")]
    axes.plot([left, right], [bottom, bottom], color="black", linewidth=2.5, path_effects=effects, label="scale bar")
    axes.annotate(
        f"{length:g} km",
        ((left + right) / 2, bottom),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


_KM_PER_DEGREE = 111.195  # of a great circle on a sphere of radius 6371 km


def cells_of(canvas: Canvas, values: Values) -> Values:
    """The values (y, x) of the cells as they are drawn, masked where there is none."""
    cells = values[np.ix_(canvas.rows, canvas.columns)]
    count = canvas.thinning
    if count > 1:
        rows, columns = (-(-size // count) * count for size in cells.shape)
        padding = [(0, rows - cells.shape[0]), (0, columns - cells.shape[1])]
        blocks = np.pad(cells, padding, constant_values=np.nan).reshape(rows // count, count, columns // count, count)
        with_value = (~np.isnan(blocks)).sum(axis=(1, 3))
        cells = np.where(with_value > 0, np.nansum(blocks, axis=(1, 3)) / np.maximum(with_value, 1), np.nan)
    return np.ma.masked_invalid(cells)


def drawn_bounds(bounds: Values, count: int) -> Values:
    """The bounds of so many cells together."""
    return np.append(bounds[:-1:count], bounds[-1])


def draw_cells(axes: Axes, canvas: Canvas, values: Values, colours: Colours) -> QuadMesh:
    """Fill the cells of a panel with values (y, x) in the order of the data; those without one show what is below."""
    return axes.pcolormesh(
        drawn_bounds(canvas.x_bounds, canvas.thinning),
        drawn_bounds(canvas.y_bounds, canvas.thinning),
        cells_of(canvas, values),
        cmap=colormaps[colours.name].with_extremes(bad=_CLEAR),
        vmin=colours.low,
        vmax=colours.high,
        rasterized=True,
        **({"transform": canvas.degrees} if canvas.is_map else {}),
    )


NO_VALUE = "0.72"
_CLEAR = (0.0, 0.0, 0.0, 0.0)


def mark_gaps(axes: Any, canvas: Canvas) -> None:
    """Hatch what is seen where cells have no value; grey alone looks like some colours to a colour-blind eye."""
    marked = {"facecolor": NO_VALUE, "hatch": "////", "edgecolor": "0.5"}
    west, east, south, north = *canvas.x_bounds[[0, -1]], *canvas.y_bounds[[0, -1]]
    if canvas.kind == "chosen" and east - west < 359:
        domain = shapely.segmentize(shapely.box(west, south, east, north), 1.0)
        axes.add_feature(ShapelyFeature([domain], canvas.degrees), linewidth=0.0, zorder=0, **marked)
        return
    axes.patch.set(**marked)
    # What lies beyond the domain, towards the poles, has no cells at all.
    beyond: dict[str, Any] = {"facecolor": "white", "linewidth": 0, "zorder": 0.5}
    if canvas.is_round:
        _, radius = np.abs(canvas.on_paper(np.zeros(1), np.array([max(south, north, key=abs)])))
        axes.add_patch(Circle((0, 0), float(radius[0]), **beyond))
    elif canvas.kind == "globe":
        for latitude in (south, north):
            _, edge = canvas.on_paper(np.zeros(1), np.array([latitude]))
            axes.axhspan(float(edge[0]), np.copysign(canvas.projection.y_limits[1], edge[0]), **beyond)


def explain_cells(figure: Figure, canvas: Canvas, *values: Values, said: Sequence[str] = ()) -> None:
    """Say at the foot what hatched cells are, and that cells are drawn together, where it is so."""
    notes = [note for note in said if note]
    if any(np.isnan(some).any() for some in values):
        notes.append("hatched cells have no value")
    if canvas.thinning > 1:
        notes.append(f"drawn as means of {canvas.thinning} by {canvas.thinning} cells")
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=8, color="0.3")
