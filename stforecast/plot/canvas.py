"""Where a grid's cells lie on paper: projections, coastlines, axes and scale bars."""

from dataclasses import dataclass
from typing import Any, Literal

import cartopy.crs as ccrs
import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from stforecast.grid import Grid, Positions, cell_bounds
from stforecast.plot.coastlines import borders, outlines
from stforecast.plot.colours import Colours
from stforecast.plot.fields import Values
from stforecast.plot.pictures import Layout, new_figure
from stforecast.plot.words import label_of


@dataclass(frozen=True)
class Canvas:
    """A panel's plane and the cells on it, from west to east and in increasing y.

    Attributes:
        kind: a map with coastlines; a city in degrees; a city in rows from the north; any other plane.
        x_bounds: of the cells, (x + 1,); on a map in degrees east of its central longitude.
        y_bounds: of the cells, (y + 1,).
        rows: where the cells' rows stand in the data.
        columns: where their columns do; on the globe one may be there twice, at both edges.
        x_label: what stands below the axis of a plane.
        y_label: what stands beside it.
        stretch: length on paper of a unit of y, in units of x.
        centre: the central longitude of a map.
    """

    kind: Literal["globe", "region", "city", "rows", "plane"]
    x_bounds: Values
    y_bounds: Values
    rows: Positions
    columns: Positions
    x_label: str = ""
    y_label: str = ""
    stretch: float = 1.0
    centre: float = 0.0

    @property
    def is_map(self) -> bool:
        """Whether coastlines belong on it."""
        return self.kind in ("globe", "region")

    @property
    def projection(self) -> Any:
        """The map's projection, None for a plane."""
        if self.kind == "globe":
            # Areas on paper are as those on Earth, as in the scores.
            return ccrs.EqualEarth(central_longitude=self.centre)
        return ccrs.PlateCarree(central_longitude=self.centre) if self.kind == "region" else None

    @property
    def shape(self) -> float:
        """Height of the domain on paper over its width."""
        if self.kind == "globe":
            return 0.49
        return float(np.ptp(self.y_bounds) / np.ptp(self.x_bounds) * self.stretch)

    @property
    def is_narrow(self) -> bool:
        """Whether a panel as wide as its title is wider than the domain."""
        return self.shape > _TALLEST

    def panel_size(self, count: int) -> tuple[float, float]:
        """Width and height in inches of one of so many panels, with its title and labels."""
        width = float(np.clip(4.4 / self.shape, 3.3, 4.6)) * (1.7 if count == 1 else 1.0)
        return width, width * float(np.clip(self.shape, 0.2, _TALLEST)) + 0.95


_TALLEST = 2.5


def canvas_of(dataset: xr.Dataset, grid: Grid) -> Canvas:
    """Where the cells of a forecast's grid lie on paper."""
    if grid.is_geographic:
        return _map_canvas(grid)
    latitude, longitude = _degrees(dataset, grid.y_name, "latitude"), _degrees(dataset, grid.x_name, "longitude")
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


def _map_canvas(grid: Grid) -> Canvas:
    y = _Axis.of(grid.y)
    latitudes = y.bounds.clip(-90, 90)
    # Stretched so that the map is true to scale at its middle latitude, unlike a plain latitude-longitude plot.
    stretch = float(1 / np.cos(np.deg2rad((latitudes[0] + latitudes[-1]) / 2)))
    if grid.spans_globe:
        x = _Axis.around_globe(grid.x)
        kind: Literal["globe", "region"] = "globe" if np.ptp(latitudes) > 150 else "region"
        return Canvas(kind, x.bounds, latitudes, y.positions, x.positions, stretch=stretch)
    x = _Axis.of(grid.x)
    centre = float(x.bounds[0] + x.bounds[-1]) / 2
    return Canvas("region", x.bounds - centre, latitudes, y.positions, x.positions, stretch=stretch, centre=centre)


def _degrees(dataset: xr.Dataset, dim: str, standard_name: str) -> xr.DataArray | None:
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
    if canvas.kind == "globe":
        axes.set_global()
    else:
        box = [canvas.x_bounds[0], canvas.x_bounds[-1], canvas.y_bounds[0], canvas.y_bounds[-1]]
        axes.set_extent(box, crs=canvas.projection)
        axes.set_aspect(canvas.stretch)
    lines, dotted = borders()
    axes.add_feature(outlines(), edgecolor="black", linewidth=0.8, path_effects=[_HALO])
    axes.add_feature(lines, edgecolor="0.15", linewidth=0.5, path_effects=[_HALO])
    axes.add_feature(dotted, edgecolor="0.15", linewidth=0.5, linestyle=":")
    sides = {"left": "y"} if is_left else {}
    grid_lines = axes.gridlines(
        draw_labels=sides | ({"bottom": "x"} if is_bottom else {}),
        xlocs=_meridians(canvas) if canvas.kind == "region" else None,
        x_inline=False,
        y_inline=False,
        color="0.35",
        linewidth=0.4,
        linestyle=":",
        alpha=0.7,
    )
    grid_lines.xlabel_style = grid_lines.ylabel_style = {"size": 8}


def _meridians(canvas: Canvas) -> Values:
    """Longitudes to label, -180..180; cartopy's own choice leaves out those beyond the dateline."""
    west, east = canvas.x_bounds[[0, -1]] + canvas.centre
    longitude = np.asarray(MaxNLocator(6, steps=[1, 2, 3, 6, 10]).tick_values(west, east))
    return (longitude + 180) % 360 - 180


_HALO = withStroke(linewidth=1.8, foreground="white", alpha=0.5)


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
        axes.xaxis.set_major_formatter(lambda degrees, _: _show_degrees(degrees, "EW"))
        axes.yaxis.set_major_formatter(lambda degrees, _: _show_degrees(degrees, "NS"))
        _draw_scale_bar(axes, canvas)


def _show_degrees(degrees: float, letters: str) -> str:
    return f"{abs(degrees):g}°{letters[0] if degrees >= 0 else letters[1]}"


def _draw_scale_bar(axes: Axes, canvas: Canvas) -> None:
    """A bar of a round number of kilometres, at most a third of the panel."""
    km_per_degree = _KM_PER_DEGREE / canvas.stretch
    width = float(np.ptp(canvas.x_bounds))
    most = width * km_per_degree / 3
    decade = 10.0 ** np.floor(np.log10(most))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= most)
    left, bottom = canvas.x_bounds[0] + 0.06 * width, canvas.y_bounds[0] + 0.06 * np.ptp(canvas.y_bounds)
    right = left + length / km_per_degree
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
    """The values (y, x) of the cells as they lie on paper, masked where there is none."""
    return np.ma.masked_invalid(values[np.ix_(canvas.rows, canvas.columns)])


def draw_cells(axes: Axes, canvas: Canvas, values: Values, colours: Colours) -> QuadMesh:
    """Fill the cells of a panel with values (y, x) in the order of the data; cells without one are grey."""
    # The cells are in degrees east of the map's centre, so that none is cut where longitudes wrap.
    transform = {"transform": ccrs.PlateCarree(central_longitude=canvas.centre)} if canvas.is_map else {}
    return axes.pcolormesh(
        canvas.x_bounds,
        canvas.y_bounds,
        cells_of(canvas, values),
        cmap=colormaps[colours.name].with_extremes(bad=NO_VALUE),
        vmin=colours.low,
        vmax=colours.high,
        rasterized=True,
        **transform,
    )


NO_VALUE = "0.72"


def explain_gaps(figure: Figure, *values: Values) -> None:
    """Say what grey cells are, where there are some."""
    if np.isnan(values).any():
        figure.supxlabel("grey cells have no value", fontsize=8, color="0.3")
