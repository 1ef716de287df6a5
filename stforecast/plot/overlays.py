"""What is drawn over the cells of a map: labelled isolines and arrows of the wind."""

import re
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.contour import ContourSet
from matplotlib.patheffects import withStroke
from matplotlib.quiver import Quiver
from matplotlib.ticker import MaxNLocator

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, Positions, level_dim
from stforecast.plot.canvas import Canvas, cells_of, drawn_bounds
from stforecast.plot.colours import Colours
from stforecast.plot.fields import Values, field_of, frame_of, truth_of, values_of
from stforecast.plot.words import given_units, raised, shown, shown_units, when

# Isolines.


def has_isolines(frame: xr.DataArray) -> bool:
    """Whether a field is one that charts show with isolines: pressure and geopotential."""
    standard_name = str(frame.attrs.get("standard_name", ""))
    return bool(re.search(r"air_pressure|geopotential", standard_name)) or frame.name in _LINED


_LINED = {"slp", "msl", "mslp", "psl", "prmsl", "sp", "pres", "z", "zg", "gh", "hgt", "geopotential"}
_LINED |= {"mean_sea_level_pressure", "surface_pressure"}


def draw_isolines(axes: Any, canvas: Canvas, frame: xr.DataArray, values: Values, colours: Colours) -> ContourSet:
    """Lines of equal value, labelled, at levels that follow from the colour scale and not from the values."""
    x, y, cells = _points(canvas, values)
    # Points are put on paper here where that is smooth; in a projection of the caller's the lines may be cut.
    transform = {"transform": canvas.degrees} if canvas.kind == "chosen" else {}
    points = (x, y) if canvas.kind == "chosen" else canvas.on_paper(x, y)
    levels = _levels(frame, colours.low, colours.high)
    lines: ContourSet = axes.contour(
        *points,
        cells,
        levels=levels,
        colors="0.1",
        linewidths=1.2,  # thicker than coastlines
        **transform,
    )
    lines.set_path_effects([_HALO])
    show = _in_hectopascals if _hectopascal(frame) == 100 else "%g"
    labelled = levels[:: 2 if len(levels) > 8 else 1]
    west, east, south, north = canvas.limits
    room = max(east - west, (north - south) * canvas.stretch) / 14
    taken: list[Values] = []
    for label in axes.clabel(lines, labelled, fontsize=7, fmt=show, inline=True, inline_spacing=3):
        label.set_path_effects([_HALO])
        x, y = label.get_position()
        place = np.array([x, y * canvas.stretch])
        # Where lines are dense one number says enough.
        if all(np.hypot(*(place - other)) > room for other in taken):
            taken.append(place)
        else:
            label.set_visible(False)
    return lines


_HALO = withStroke(linewidth=2, foreground="white", alpha=0.6)


def note_on_isolines(frame: xr.DataArray, of: str = "") -> str:
    """What the foot of a picture says of its isolines: their unit, and whose they are where that is not plain."""
    if not has_isolines(frame):
        return ""
    unit = "hPa" if _hectopascal(frame) == 100 else shown_units(frame) if of else ""
    whose = f" of the {of}" if of else ""
    return f"isolines{whose} in {unit}" if unit else ""


def _hectopascal(frame: xr.DataArray) -> float | None:
    """How large a hectopascal is in the units of a field, None where it is not of pressure."""
    return {"hPa": 1.0, "mbar": 1.0, "millibar": 1.0, "millibars": 1.0, "Pa": 100.0}.get(given_units(frame))


def _in_hectopascals(pascals: float) -> str:
    return f"{pascals / 100:g}"


def _levels(frame: xr.DataArray, low: float, high: float) -> Values:
    """Round values, some fifteen; of pressure in steps of 1, 2, 4, 8 … hPa, as charts have them."""
    unit = _hectopascal(frame)
    if unit is None:
        return np.asarray(MaxNLocator(12, steps=[1, 2, 4, 5, 8, 10]).tick_values(low, high))
    step = next(step * unit for step in 2.0 ** np.arange(20) if (high - low) / (step * unit) <= 18)
    levels: Values = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return levels


def _points(canvas: Canvas, values: Values) -> tuple[Values, Values, Values]:
    """Centres of the cells, (y, x) each, and their values; around the globe up to both sides of the seam."""
    cells = cells_of(canvas, values)
    x, y = (_middles(drawn_bounds(bounds, canvas.thinning)) for bounds in (canvas.x_bounds, canvas.y_bounds))
    if canvas.is_map and np.ptp(canvas.x_bounds) >= 359:
        seam = np.ma.mean(np.ma.stack([cells[:, 0], cells[:, -1]]), axis=0)[:, None]
        x, cells = np.concatenate([[-180.0], x, [180.0]]), np.ma.hstack([seam, cells, seam])
    across, up = np.meshgrid(x, y)
    return across, up, cells


def _middles(bounds: Values) -> Values:
    return (bounds[1:] + bounds[:-1]) / 2


# Winds.

# Eastward and northward, (y, x) each in the order of the data.
Winds = tuple[Values, Values]


def winds_of(forecast: xr.Dataset) -> tuple[str, str]:
    """The names of the eastward and the northward wind.

    Raises:
        StforecastError: VAR_MISSING if there are not both; UNITS if they are in different ones.
    """
    names = {str(forecast[name].attrs.get("standard_name", name)): str(name) for name in forecast.data_vars}
    pairs = [(names[u], names[v]) for u, v in _WINDS_BY_STANDARD_NAME if u in names and v in names]
    pairs += [(u, v) for u, v in _WINDS_BY_NAME if u in forecast.data_vars and v in forecast.data_vars]
    if not pairs:
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            "winds=True wants the eastward and the northward wind (u10 and v10, u and v, or the standard names "
            f"eastward_wind and northward_wind), but the forecast has {list(map(str, forecast.data_vars))}",
        )
    u, v = pairs[0]
    if given_units(forecast[u]) != given_units(forecast[v]):
        raise StforecastError(
            ErrorKind.UNITS,
            f"{u} is in {given_units(forecast[u])} but {v} in {given_units(forecast[v])}; convert one",
        )
    return u, v


_WINDS_BY_STANDARD_NAME = (("eastward_wind", "northward_wind"), ("x_wind", "y_wind"))
_WINDS_BY_NAME = (
    ("u10", "v10"),
    ("10m_u_component_of_wind", "10m_v_component_of_wind"),
    ("u", "v"),
    ("u_component_of_wind", "v_component_of_wind"),
    ("uwnd", "vwnd"),
)


def wind_frames(forecast: xr.Dataset, frame: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The eastward and the northward wind (Y, X) of a frame's init and lead time, at its level if they have levels.

    Raises:
        StforecastError: VAR_MISSING if there are not both; UNITS if they are in different ones; EMPTY_SELECTION if they
            have other levels.
    """
    level = float(frame["level"]) if "level" in frame.coords else None
    u, v = (
        field_of(forecast, name, None if level_dim(forecast, name) is None else level) for name in winds_of(forecast)
    )
    init_time: Any = frame["init_time"].to_numpy()[()]
    lead_time: Any = frame["lead_time"].to_numpy()[()]
    return frame_of(u, init_time, lead_time), frame_of(v, init_time, lead_time)


def forecast_winds(u: xr.DataArray, v: xr.DataArray) -> Winds:
    """The winds of a forecast's frames.

    Raises:
        StforecastError: NAN or INF as of any field.
    """
    east, north = (values_of(frame, f"the forecast {when(frame)}") for frame in (u, v))
    return east, north


def true_winds(u: xr.DataArray, v: xr.DataArray, truth: xr.Dataset, grid: Grid) -> Winds:
    """The winds of the truth at the valid time of a forecast's frames.

    Raises:
        StforecastError: as of any other field of the truth.
    """
    what = f"the truth at {shown(u['valid_time'])}"
    east, north = (values_of(truth_of(frame, truth, grid), what) for frame in (u, v))
    return east, north


def strength_of(*winds: Winds) -> float:
    """A strength that few winds exceed, by which the length of arrows is chosen."""
    return max((float(np.nanquantile(np.hypot(u, v), 0.95)) for u, v in winds), default=0.0) or 1.0


def draw_winds(axes: Any, canvas: Canvas, winds: Winds, strength: float, across: int) -> Quiver:
    """Arrows that point where the air goes on paper, evenly spread, as long as the wind is strong.

    Each arrow is of one cell; those between are left out.

    Args:
        axes: a panel that is laid out.
        canvas: its plane.
        winds: the eastward and the northward wind, (y, x) in the order of the data.
        strength: a strong wind, of `strength_of`; the same for all panels that are to be compared.
        across: how many arrows stand beside each other.
    """
    x, y, _, _ = _lattice(canvas, across)
    arrows: Quiver = axes.quiver(
        *canvas.on_paper(x, y),
        *_at_lattice(canvas, winds, across),
        angles="uv",
        scale=strength * across / 1.3,
        scale_units="width",
        width=0.057 / across,
        headwidth=4,
        headlength=5,
        color="0.05",
        path_effects=[withStroke(linewidth=1.6, foreground="white", alpha=0.7)],
    )
    return arrows


def turn_winds(arrows: Quiver, canvas: Canvas, winds: Winds, across: int) -> None:
    """Let arrows that are drawn show other winds."""
    arrows.set_UVC(*_at_lattice(canvas, winds, across))


def explain_winds(axes: Any, arrows: Quiver, place: tuple[float, float], strength: float, units: str) -> None:
    """A key to the arrows of a panel, its arrow at a place in shares of the panel's width and height."""
    decade = 10.0 ** np.floor(np.log10(strength))
    shown = max(step * decade for step in (1, 2, 5) if step * decade <= strength)
    words = f"wind {shown:g} {raised(units)}"
    axes.quiverkey(arrows, *place, shown, words, labelpos="W", fontproperties={"size": 8})


def _at_lattice(canvas: Canvas, winds: Winds, across: int) -> tuple[Values, Values]:
    """Winds to the right and upwards on paper, at the points where arrows stand."""
    x, y, rows, columns = _lattice(canvas, across)
    east, north = (some[canvas.rows[rows], canvas.columns[columns]] for some in winds)
    return _on_paper(canvas, x, y, east, north)


def _lattice(canvas: Canvas, across: int) -> tuple[Values, Values, Positions, Positions]:
    """Points that stand evenly on paper, in the plane of the bounds, and the row and column of their cells."""
    west, east, south, north = canvas.limits
    apart = (east - west) / across
    x, y = np.meshgrid(
        np.arange(west + apart / 2, east, apart),
        np.arange(south + apart / canvas.stretch / 2, north, apart / canvas.stretch),
    )
    if canvas.is_map:
        points = canvas.degrees.transform_points(canvas.projection, x, y)
        back = canvas.on_paper(points[..., 0], points[..., 1])
        # Beyond the edge of a map of the globe the way there and back leads elsewhere.
        is_there = np.hypot(back[0] - x, back[1] - y) < apart / 10
        x, y = points[is_there, 0], points[is_there, 1]
    is_inside = (x > canvas.x_bounds[0]) & (x < canvas.x_bounds[-1])
    is_inside &= (y > canvas.y_bounds[0]) & (y < canvas.y_bounds[-1]) & (np.abs(y) < 89.5 if canvas.is_map else True)
    x, y = x[is_inside], y[is_inside]
    rows, columns = (np.searchsorted(bounds, at) - 1 for bounds, at in ((canvas.y_bounds, y), (canvas.x_bounds, x)))
    return x, y, np.asarray(rows), np.asarray(columns)


def _on_paper(canvas: Canvas, x: Values, y: Values, east: Values, north: Values) -> tuple[Values, Values]:
    """The winds to the right and upwards on paper, as strong as they are.

    Cartopy's own turning of vectors takes degrees of longitude for as long as those of latitude.
    """
    if not canvas.is_map:
        return east, north
    little = 1e-3
    here = canvas.on_paper(x, y)
    eastwards = canvas.on_paper(x + little / np.cos(np.deg2rad(y)), y)
    northwards = canvas.on_paper(x, y + little)
    right = east * (eastwards[0] - here[0]) + north * (northwards[0] - here[0])
    up = (east * (eastwards[1] - here[1]) + north * (northwards[1] - here[1])) * canvas.stretch
    length = np.hypot(right, up)
    strength = np.hypot(east, north) / np.where(length > 0, length, 1)
    return right * strength, up * strength
