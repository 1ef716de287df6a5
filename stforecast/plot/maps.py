"""Maps of forecasts, beside the truth and over lead times."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid
from stforecast.plot.canvas import canvas_of, explain_gaps
from stforecast.plot.colours import Colours
from stforecast.plot.fields import Duration, Instant, evenly, field_of, frame_of, truth_of, values_of
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
) -> Figure:
    """Forecast, truth and error side by side, for one init and lead time.

    Forecast and truth share one colour scale; that of the error is symmetric about zero. Cells without a value are
    grey. The figure is known to nobody else: it is released with its last reference.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        truth: a series (time, [level,] Y, X) on the forecast's cells in any order.
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.

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
    sheet = Sheet.compared(canvas_of(forecast, grid), grid, shared, about_zero)
    sheet.compare(frame, predicted, observed)
    sheet.add_bars_of_comparison(frame)
    sheet.name_all(frame)
    explain_gaps(sheet.figure, error)
    return sheet.figure


def forecast_map(
    forecast: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_time: Duration | None = None,
    level: float | None = None,
) -> Figure:
    """A map of the forecast for one init and lead time.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        variable: the first by default.
        init_time: the last by default.
        lead_time: the last by default; text as in "24h".
        level: the first by default, where the variable has levels.

    Raises:
        StforecastError: what `check_forecast` refuses; VAR_MISSING, EMPTY_SELECTION or ARGUMENT for what the forecast
            does not hold; NAN if there is nothing to draw; INF; DIMS for an ensemble.
    """
    return _forecast_panels(forecast, [frame_of(field_of(forecast, variable, level), init_time, lead_time)])


def panels(
    forecast: xr.Dataset,
    *,
    variable: str | None = None,
    init_time: Instant | None = None,
    lead_times: Sequence[Duration] | None = None,
    level: float | None = None,
) -> Figure:
    """Maps of one forecast at several lead times, in reading order and on one colour scale.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        variable: the first by default.
        init_time: the last by default.
        lead_times: by default all, or six from the first to the last, evenly chosen.
        level: the first by default, where the variable has levels.

    Raises:
        StforecastError: as `forecast_map`; ARGUMENT for no lead time at all.
    """
    field = field_of(forecast, variable, level)
    leads: Sequence[Duration] = evenly(field["lead_time"].to_numpy(), 6) if lead_times is None else lead_times
    if len(leads) == 0:
        raise StforecastError(ErrorKind.ARGUMENT, "lead_times is empty; name at least one, e.g. ['24h']")
    return _forecast_panels(forecast, [frame_of(field, init_time, lead) for lead in leads])


def _forecast_panels(forecast: xr.Dataset, frames: Sequence[xr.DataArray]) -> Figure:
    grid = Grid.of(forecast)
    fields = [values_of(frame, f"the forecast {when(frame)}") for frame in frames]
    longest: np.timedelta64 = np.max([frame["lead_time"].to_numpy() for frame in frames])
    heading = f"Forecast: {name_of(frames[0])}" if len(frames) == 1 else "Forecast"
    count, colours = len(frames), Colours.of(frames[0], *fields)
    sheet = Sheet(canvas_of(forecast, grid), grid, [heading] * count, [colours] * count, longest=longest)
    for number, (frame, values) in enumerate(zip(frames, fields, strict=True)):
        sheet.show(number, frame, values)
    sheet.add_bar(frames[0])
    sheet.name_all(frames[0])
    explain_gaps(sheet.figure, *fields)
    return sheet.figure
