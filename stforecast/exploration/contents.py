"""What a page is told of forecasts: times, places, values and colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import to_hex

from stforecast.errors import ErrorKind, StforecastError
from stforecast.exploration.packing import Scale
from stforecast.grid import Grid, find_dims, level_dim, on_grid_of, times_of
from stforecast.intervals import BOUNDS, bound_name
from stforecast.plot.canvas import Canvas, degrees_of
from stforecast.plot.colours import Colours
from stforecast.plot.fields import Values, at_level, field_of, values_of
from stforecast.plot.words import given_units, lead_unit, name_of, raised, show_degrees, zone_of
from stforecast.time_axis import Times, show_time

Rows = npt.NDArray[np.intp]


def levels_of(forecast: xr.Dataset, name: str) -> list[float | None]:
    """The levels of a variable, None for one without levels."""
    dim = level_dim(forecast, name)
    return [None] if dim is None else [float(level) for level in forecast[dim].to_numpy()]


def _bounds_of(forecast: xr.Dataset, name: str) -> dict[str, str]:
    """The names of the bounds of a variable, by which they are; none where one is missing."""
    found = {bound: bound_name(name, bound) for bound in BOUNDS}
    return {str(bound): own for bound, own in found.items()} if set(found.values()) <= set(forecast.data_vars) else {}


def interval_of(forecast: xr.Dataset, names: Sequence[str]) -> str:
    """What the band of the time series is called."""
    bounds = [bound for name in names for bound in _bounds_of(forecast, name).values()]
    share = next((forecast[bound].attrs["interval"] for bound in bounds if "interval" in forecast[bound].attrs), None)
    return "interval" if share is None else f"{float(share):.0%} interval"


def observed_in(truth: xr.Dataset, forecast: xr.Dataset) -> xr.Dataset:
    """The frames of the truth that the page shows, (time, [level,] Y, X) in the order of the forecast's cells."""
    matched = on_grid_of(truth, forecast, name="the truth")
    times = times_of(matched)
    leads = forecast["lead_time"].to_numpy()
    inits: Times = forecast["init_time"].to_numpy().astype("datetime64[ns]")
    is_shown = np.zeros(len(times), bool)
    for init in inits:  # as long before each as the forecast reaches behind it
        is_shown |= (times >= init - leads[-1]) & (times <= init + leads[-1])
    if not np.isin(times[is_shown], inits[:, None] + leads).any():
        held = f"has {show_time(times[0])} to {show_time(times[-1])}" if len(times) else "is empty"
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"the truth has none of the valid times, {show_time(inits[0] + leads[0])} to "
            f"{show_time(inits[-1] + leads[-1])}: it {held}; give the truth of that time, or none",
        )
    (time,) = find_dims(matched, "T")
    return matched.isel({time: np.flatnonzero(is_shown)})


def truth_rows(forecast: xr.Dataset, observed: xr.Dataset) -> Rows:
    """Which frame of the truth each valid time is, -1 where there is none, (init_time, lead_time)."""
    times = times_of(observed)
    valid = forecast["init_time"].to_numpy()[:, None] + forecast["lead_time"].to_numpy()
    rows = np.searchsorted(times, valid).clip(0, len(times) - 1)
    return np.where(times[rows] == valid, rows, -1)


def check_size(
    forecast: xr.Dataset, observed: xr.Dataset | None, names: Sequence[str], cells: int, most_megabytes: float
) -> None:
    """Refuse what would make a page that browsers cannot bear, before any value is read."""
    levels = {name: len(levels_of(forecast, name)) for name in names}
    frames = sum(count * (1 + len(_bounds_of(forecast, name))) for name, count in levels.items())
    of_init = _MEGABYTES * cells * frames * forecast.sizes["lead_time"]
    of_truth = 0.0 if observed is None else _MEGABYTES * cells * sum(levels.values()) * len(times_of(observed))
    inits = forecast.sizes["init_time"]
    wanted = of_init * inits + of_truth
    if wanted <= most_megabytes:
        return
    fitting = int(most_megabytes / (wanted / inits))
    advice = "give fewer variables or lead times, or coarser cells"
    if fitting:
        advice = f"give fewer init times, e.g. forecast.isel(init_time=slice(-{fitting}, None))"
    raise StforecastError(
        ErrorKind.ARGUMENT,
        f"the page would hold up to {wanted:,.0f} MB of values, and most_megabytes is {most_megabytes:g}: {inits} init "
        f"times of {forecast.sizes['lead_time']} lead times, {cells:,} cells and {frames} fields; {advice}, or raise "
        "most_megabytes",
    )


# Of a value: two bytes, in letters of six bits.
_MEGABYTES = 2 * 4 / 3 / 2**20


def channel_of(
    forecast: xr.Dataset, observed: xr.Dataset | None, rows: Rows, variable: xr.DataArray, level: float | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the page is told of one variable at one level, and its packed values by part."""
    name = str(variable.name)
    parts = {"forecast": values_of(variable, "the forecast")}
    for bound, own in _bounds_of(forecast, name).items():
        parts[bound] = values_of(field_of(forecast, own, level), f"the bound {own}")
    shown, error = [_extremes(parts["forecast"])], np.zeros(1)
    if observed is not None:
        seen = at_level(observed, name, level).transpose(*find_dims(observed, "T", "Y", "X"))
        parts["truth"] = values_of(seen, "the truth")
        missed = parts["forecast"] - np.where(rows[..., None, None] < 0, np.nan, parts["truth"][rows])
        shown.append(_extremes(parts["truth"]))
        # One odd day among many would leave the colours of all others pale.
        error = np.nanquantile(np.abs(missed), [_WITHIN]) if np.isfinite(missed).any() else error
    scale = Scale.of(*_extremes(np.concatenate([_extremes(values) for values in parts.values()])))
    label = name_of(variable)
    channel = {
        "title": label,
        "units": raised(given_units(variable)),
        "decimals": scale.decimals,
        "origin": scale.origin,
        "colours": _told(Colours.of(variable, *shown)),
        "error_colours": _told(Colours.about_zero("RdBu_r", error)),
        "parts": list(parts),
    }
    return channel, {part: scale.pack(values) for part, values in parts.items()}


_WITHIN = 0.995


def _extremes(values: Values) -> Values:
    return np.array([np.nanmin(values), np.nanmax(values)])


def _told(colours: Colours) -> dict[str, Any]:
    palette = [to_hex(colormaps[colours.name](share)) for share in np.linspace(0, 1, 256)]
    return {"palette": palette, "low": colours.low, "high": colours.high}


def facts_of(forecast: xr.Dataset, observed: xr.Dataset | None, rows: Rows, grid: Grid) -> dict[str, Any]:
    """What the page is told of times and places."""
    leads = forecast["lead_time"].to_numpy()
    unit, length = lead_unit(leads[-1])
    row_names, row_degrees = _names_along(forecast, grid, "latitude", "NS")
    column_names, column_degrees = _names_along(forecast, grid, "longitude", "EW")
    times = None if observed is None else times_of(observed)
    return {
        "init_times": _milliseconds(forecast["init_time"].to_numpy()),
        "lead_times": (leads / np.timedelta64(1, "ms")).tolist(),
        "lead_words": [f"{lead / length:g} {unit}" for lead in leads],
        "init": forecast.sizes["init_time"] - 1,
        "lead": 0,
        "truth_times": None if times is None else _milliseconds(times),
        "truth_step": 0.0 if times is None or len(times) < 2 else float(np.diff(times).min() / np.timedelta64(1, "ms")),
        "truth_rows": rows.tolist(),
        "zone": zone_of(forecast["valid_time"], grid),
        "row_names": row_names,
        "column_names": column_names,
        "row_degrees": row_degrees,
        "column_degrees": column_degrees,
    }


def _milliseconds(times: Times) -> list[int]:
    numbers: list[int] = times.astype("datetime64[ms]").astype(np.int64).tolist()
    return numbers


def _names_along(forecast: xr.Dataset, grid: Grid, axis: str, letters: str) -> tuple[list[str], list[str]]:
    """What rows or columns are called, and their degrees where the names do not tell them."""
    own, values = (grid.y_name, grid.y) if axis == "latitude" else (grid.x_name, grid.x)

    def degrees(several: Values, decimals: int) -> list[str]:
        turned = (several + 180) % 360 - 180 if axis == "longitude" else several
        return [show_degrees(round(float(value), decimals), letters) for value in turned]

    if grid.is_geographic:
        return degrees(values, 4), []
    found = degrees_of(forecast, own, axis)
    return [f"{own} {value:g}" for value in values], [] if found is None else degrees(found.to_numpy(), 3)


def axis_words(canvas: Canvas) -> dict[str, str]:
    """Labels of the axes, and the letters of their degrees; a turned-over axis is told by a minus."""
    letters = ("EW", "NS") if canvas.kind in ("region", "city") else ("", "-" if canvas.kind == "rows" else "")
    return {
        "x_label": canvas.x_label,
        "y_label": canvas.y_label,
        "x_letters": letters[0],
        "y_letters": letters[1],
    }
