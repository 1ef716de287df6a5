"""Maps of forecasts, beside the truth and over lead times."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.intervals import BOUNDS, bound_name
from stforecast.plot.canvas import Canvas, canvas_of, explain_cells
from stforecast.plot.colours import Colours
from stforecast.plot.context import Surroundings
from stforecast.plot.fields import Duration, Instant, Values, evenly, field_of, frame_of, truth_of, values_of
from stforecast.plot.normals import Normal, normal_at, normal_of
from stforecast.plot.overlays import forecast_winds, note_on_isolines, strength_of, true_winds, wind_frames
from stforecast.plot.sheets import Sheet
from stforecast.plot.words import name_of, shown, when


def comparison(
    forecast: xr.Dataset,
    truth: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_time: Duration | None = None,
    level: float | None = None,
    projection: Any = None,
    context: Surroundings = None,
    winds: bool = False,
) -> Figure:
    """Forecast, truth and error side by side, for one init and lead time.

    Forecast and truth share one colour scale; that of the error is symmetric about zero. Cells without a value are
    hatched. The figure is known to nobody else: it is released with its last reference.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        truth: a series (time, [level,] Y, X) on the forecast's cells in any order.
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.
        projection: of a map, any of `cartopy.crs`; by default one that suits the domain.
        context: streets or water to draw over the cells, a GeoJSON or a shapefile in degrees, or several; by default
            what comes with the package for that place.
        winds: whether to draw arrows of the wind over forecast and truth, as in `forecast_map`.

    Raises:
        StforecastError: what `check_forecast` refuses; VAR_MISSING, EMPTY_SELECTION or ARGUMENT for what the forecast
            does not hold; TIME_RANGE, naming both, if the truth lacks the valid time; GRID_SHAPE, UNITS or DIMS if the
            truth does not match; NAN if there is nothing to draw; INF; DIMS for an ensemble.
    """
    frame = frame_of(field_of(forecast, variable, level), init_time, lead_time)
    grid = Grid.of(forecast)
    predicted = values_of(frame, f"the forecast {when(frame)}")
    observed = values_of(truth_of(frame, truth, grid), f"the truth at {shown(frame['valid_time'])}")
    error = predicted - observed
    if np.isnan(error).all():
        raise StforecastError(
            ErrorKind.NAN, f"no cell of {frame.name} has a value both in the forecast {when(frame)} and in the truth"
        )
    shared, about_zero = Colours.of(frame, predicted, observed), Colours.about_zero("RdBu_r", error)
    canvas = canvas_of(forecast, grid, projection, context)
    blowing = wind_frames(forecast, frame) if winds else None
    arrows = None if blowing is None else [forecast_winds(*blowing), true_winds(*blowing, truth, grid)]
    sheet = Sheet.compared(canvas, grid, shared, about_zero, strength=strength_of(*arrows or ()))
    sheet.compare(frame, predicted, observed, arrows)
    if blowing is not None:
        sheet.add_key(blowing[0])
    sheet.add_bars_of_comparison(frame)
    sheet.name_all(frame)
    explain_cells(sheet.figure, canvas, error, said=[note_on_isolines(frame)])
    return sheet.figure


def forecast_map(
    forecast: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_time: Duration | None = None,
    level: float | None = None,
    projection: Any = None,
    context: Surroundings = None,
    winds: bool = False,
) -> Figure:
    """A map of the forecast for one init and lead time; pressure and geopotential have labelled isolines.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.
        projection: of a map, any of `cartopy.crs`; by default one that suits the domain.
        context: streets or water to draw over the cells, a GeoJSON or a shapefile in degrees, or several; by default
            what comes with the package for that place.
        winds: whether to draw arrows of the wind over it, from u and v among the forecast's variables (u10 and v10, u
            and v, standard names eastward_wind and northward_wind), at the same level where they have levels.

    Raises:
        StforecastError: what `check_forecast` refuses; VAR_MISSING, EMPTY_SELECTION or ARGUMENT for what the forecast
            does not hold; NAN if there is nothing to draw; INF; DIMS for an ensemble.
    """
    frame = frame_of(field_of(forecast, variable, level), init_time, lead_time)
    canvas = canvas_of(forecast, Grid.of(forecast), projection, context)
    return _forecast_panels(forecast, canvas, [frame], winds)


def anomaly(
    forecast: xr.Dataset,
    normal: Normal,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_time: Duration | None = None,
    level: float | None = None,
    projection: Any = None,
    context: Surroundings = None,
) -> Figure:
    """A map of how far the forecast departs from what is normal at its valid time, with zero in the middle.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        normal: a climatology or a historical average, fitted on the training period; or the training period itself, a
            series (time, [level,] Y, X), of which a climatology is fitted on a geographic grid, else an average.
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.
        projection: of a map, any of `cartopy.crs`; by default one that suits the domain.
        context: streets or water to draw over the cells, a GeoJSON or a shapefile in degrees, or several; by default
            what comes with the package for that place.

    Raises:
        StforecastError: as `forecast_map`; VAR_MISSING, UNITS, GRID_SHAPE or CHANNELS if what is normal does not match.
    """
    frame = frame_of(field_of(forecast, variable, level), init_time, lead_time)
    name = str(frame.name)
    normal = normal_of(forecast[[name]], normal)
    usual = normal_at(normal, forecast[[name]], name, frame["valid_time"].to_numpy()[None], level)[0]
    predicted = values_of(frame, f"the forecast {when(frame)}")
    values = predicted - usual
    if np.isnan(values).all():
        raise StforecastError(
            ErrorKind.NAN, f"no cell of {name} has a value both in the forecast {when(frame)} and in the {normal.name}"
        )
    map_name = "BrBG" if Colours.of(frame, values).name == "YlGnBu" else "RdBu_r"
    frame = frame.assign_attrs(long_name=f"{name_of(frame.drop_vars('level', errors='ignore'))} anomaly")
    said = f"departure from the {normal.name} of the training period"
    grid = Grid.of(forecast)
    canvas = canvas_of(forecast, grid, projection, context)
    return _derived(canvas, grid, frame, values, predicted, Colours.about_zero(map_name, values), said)


def interval(
    forecast: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_time: Duration | None = None,
    level: float | None = None,
    projection: Any = None,
    context: Surroundings = None,
) -> Figure:
    """A map of how wide the prediction interval is, from its lower to its upper bound.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X), with bounds as `stforecast.predict(..., interval=0.9)` gives.
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.
        projection: of a map, any of `cartopy.crs`; by default one that suits the domain.
        context: streets or water to draw over the cells, a GeoJSON or a shapefile in degrees, or several; by default
            what comes with the package for that place.

    Raises:
        StforecastError: as `forecast_map`; VAR_MISSING if the variable has no bounds.
    """
    frame = frame_of(field_of(forecast, variable, level), init_time, lead_time)
    name = str(frame.name)
    names = [bound_name(name, bound) for bound in BOUNDS]
    if not set(names) <= set(forecast.data_vars):
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"the forecast has no bounds of {name} ({' and '.join(names)}); make it with predict(..., interval=0.9)",
        )
    lower, upper = (
        values_of(frame_of(field_of(forecast, bound, level), init_time, lead_time), f"the bound {bound}")
        for bound in names
    )
    width = upper - lower
    share = forecast[names[0]].attrs.get("interval")
    told = "prediction interval" if share is None else f"{float(share):.0%} prediction interval"
    frame = frame.assign_attrs(long_name=f"{name_of(frame.drop_vars('level', errors='ignore'))}, width of the {told}")
    grid = Grid.of(forecast)
    canvas = canvas_of(forecast, grid, projection, context)
    predicted = values_of(frame, f"the forecast {when(frame)}")
    return _derived(canvas, grid, frame, width, predicted, Colours("cividis", 0.0, float(np.nanmax(width)) or 1.0))


def _derived(
    canvas: Canvas,
    grid: Grid,
    frame: xr.DataArray,
    values: Values,
    predicted: Values,
    colours: Colours,
    said: str = "",
) -> Figure:
    """A map of values (Y, X) that are made of a forecast, with its isolines; the frame says what and of when."""
    sheet = Sheet(canvas, grid, [name_of(frame)], [colours])
    sheet.show(0, frame, values, lined=predicted)
    sheet.add_bar(frame)
    explain_cells(sheet.figure, canvas, values, said=[said, note_on_isolines(frame, "forecast")])
    return sheet.figure


def panels(
    forecast: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_times: Sequence[Duration] | None = None,
    level: float | None = None,
    projection: Any = None,
    context: Surroundings = None,
    winds: bool = False,
) -> Figure:
    """Maps of one forecast at several lead times, in reading order and on one colour scale.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        variable: the first by default.
        init_time: the last by default.
        lead_times: by default all, or six from the first to the last, evenly chosen.
        level: the first by default, where the variable has levels.
        projection: of a map, any of `cartopy.crs`; by default one that suits the domain.
        context: streets or water to draw over the cells, a GeoJSON or a shapefile in degrees, or several; by default
            what comes with the package for that place.
        winds: whether to draw arrows of the wind, as in `forecast_map`, in one measure for all.

    Raises:
        StforecastError: as `forecast_map`; ARGUMENT for no lead time at all.
    """
    field = field_of(forecast, variable, level)
    leads: Sequence[Duration] = evenly(field["lead_time"].to_numpy(), 6) if lead_times is None else lead_times
    if len(leads) == 0:
        raise StforecastError(ErrorKind.ARGUMENT, "lead_times is empty; name at least one, e.g. ['24h']")
    canvas = canvas_of(forecast, Grid.of(forecast), projection, context)
    return _forecast_panels(forecast, canvas, [frame_of(field, init_time, lead) for lead in leads], winds)


def _forecast_panels(forecast: xr.Dataset, canvas: Canvas, frames: Sequence[xr.DataArray], winds: bool) -> Figure:
    blowing = [wind_frames(forecast, frame) for frame in frames] if winds else []
    arrows = [forecast_winds(*pair) for pair in blowing]
    fields = [values_of(frame, f"the forecast {when(frame)}") for frame in frames]
    longest: np.timedelta64 = np.max([frame["lead_time"].to_numpy() for frame in frames])
    heading = f"Forecast: {name_of(frames[0])}" if len(frames) == 1 else "Forecast"
    count, colours = len(frames), Colours.of(frames[0], *fields)
    sheet = Sheet(
        canvas, Grid.of(forecast), [heading] * count, [colours] * count, longest=longest, strength=strength_of(*arrows)
    )
    for number, (frame, values) in enumerate(zip(frames, fields, strict=True)):
        sheet.show(number, frame, values, lined=values, winds=arrows[number] if arrows else None)
    if blowing:
        sheet.add_key(blowing[0][0])
    sheet.add_bar(frames[0])
    sheet.name_all(frames[0])
    explain_cells(sheet.figure, canvas, *fields, said=[note_on_isolines(frames[0])])
    return sheet.figure
