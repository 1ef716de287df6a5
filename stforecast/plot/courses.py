"""Courses in time: a forecast at one place, and the usual day or week of a series."""

from collections.abc import Sequence
from textwrap import fill
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, num2date
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MultipleLocator

from stforecast.baselines import blocks_of
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, check_series, find_dims, level_dim, on_grid_of, times_of
from stforecast.intervals import BOUNDS, bound_name
from stforecast.plot.fields import (
    Duration,
    Instant,
    Values,
    at_level,
    field_of,
    init_of,
    values_of,
    variable_of,
    variables_of,
)
from stforecast.plot.normals import Normal, normal_at, normal_of
from stforecast.plot.pictures import LINES, lighten, new_figure
from stforecast.plot.places import Cell, Place
from stforecast.plot.words import label_of, name_of, shown, zone_of
from stforecast.time_axis import Times, parse_step, show_step, show_time
from stforecast.time_features import DAY, fraction_of_day, fraction_of_week
from stforecast.verification.groups import Groups

# Meteograms.


def meteogram(
    forecast: xr.Dataset,
    truth: xr.Dataset | None = None,
    *,
    at: Place,
    variables: Sequence[str] | None = None,
    init_time: Instant | None = None,
    level: float | None = None,
    normal: Normal | None = None,
    before: Duration | None = None,
) -> Figure:
    """The course of a forecast at one place, a panel a variable, on the clock of the series.

    The truth is drawn where it is given, from before the init time to the last valid time; bounds of an interval are a
    band, where the forecast has them. A line is broken where frames are absent or NaN.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X).
        truth: a series (time, [level,] Y, X) on the forecast's cells in any order.
        at: the place, as {"latitude": 40.7, "longitude": -74.0} or, by the grid's own dimensions, {"row": 3, "column":
            5}; the cell that covers it is drawn and told.
        variables: all by default.
        init_time: the last by default.
        level: the first by default, of variables that have levels.
        normal: a climatology or a historical average, or the training period itself, as for `anomaly`; drawn dashed.
        before: how much of the truth is shown before the init time, as "24h"; as long as the forecast by default.

    Raises:
        StforecastError: what `check_forecast` refuses; VAR_MISSING, EMPTY_SELECTION or ARGUMENT for what the forecast
            does not hold; EMPTY_SELECTION for a place outside of the grid; TIME_RANGE if the truth has no frame that
            would be shown; VAR_MISSING, UNITS, GRID_SHAPE or CHANNELS if the truth or what is normal does not match;
            NAN if a forecast is NaN at all lead times; INF; DIMS for an ensemble.
    """
    names = variables_of(forecast, variables)
    fields = {name: _field_at_init(forecast, name, init_time, level) for name in names}
    cell = Cell.at(forecast, at)
    first = fields[names[0]]
    valid: Times = first["valid_time"].to_numpy().astype("datetime64[ns]")
    start = first["init_time"].to_numpy().astype("datetime64[ns]")[()]
    begin = start - (valid[-1] - start if before is None else parse_step(before, name="before"))
    shown_times: Times = np.array([begin, valid[-1]])
    observed = None if truth is None else _observed(truth, forecast[names], cell, shown_times)
    usual = None if normal is None else normal_of(forecast[names], normal)
    figure = new_figure((9.5, 1.4 + 2.5 * len(names)))
    panel = list(figure.subplots(len(names), 1, sharex=True, squeeze=False).flat)
    for axes, (name, field) in zip(panel, fields.items(), strict=True):
        if usual is not None:
            times = valid if observed is None else _evenly_between(shown_times[0], valid)
            values = normal_at(usual, forecast[[name]], name, times, _own_level(forecast, name, level))
            at_cell = values[:, cell.row, cell.column]
            axes.plot(times, at_cell, "--", color="0.45", linewidth=1.2, label=usual.name, zorder=2)
        if observed is not None:
            times, values = _course_of(observed, name, _own_level(forecast, name, level))
            axes.plot(times, values, "-", color="0.1", linewidth=1.4, label="truth", zorder=3)
        _draw_forecast(axes, forecast, field, cell, init_time, level)
        axes.axvline(start, color="0.4", linewidth=0.9, zorder=1)
        axes.set_ylabel(fill(label_of(field), 26), fontsize=9)
        if float(field.attrs.get("valid_min", -1)) == 0 and axes.get_ylim()[0] > -0.2 * axes.get_ylim()[1]:
            axes.set_ylim(bottom=0)  # counts
        lighten(axes)
    panel[0].annotate(
        " init", (start, 1), xycoords=("data", "axes fraction"), va="bottom", fontsize=8, color="0.35", zorder=5
    )
    zone = zone_of(first["valid_time"], Grid.of(forecast))
    _label_times(panel[-1], zone)
    figure.suptitle(f"Forecast at {cell.words}\ninit {shown(first['init_time'])} {zone}".rstrip(), fontsize=12)
    handles = {label: handle for handle, label in zip(*panel[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    return figure


def _own_level(dataset: xr.Dataset, name: str, level: float | None) -> float | None:
    return level if level_dim(dataset, name) is not None else None


def _field_at_init(forecast: xr.Dataset, name: str, init_time: Instant | None, level: float | None) -> xr.DataArray:
    """A variable (lead_time, Y, X) of one init time."""
    return init_of(field_of(forecast, name, _own_level(forecast, name, level)), init_time)


def _evenly_between(begin: np.datetime64, valid: Times) -> Times:
    """Times from somewhere after the beginning to the last valid time, a step of the forecast apart."""
    step: np.timedelta64 = np.diff(valid).min() if len(valid) > 1 else valid[-1] - begin
    times: Times = (valid[-1] - step * np.arange((valid[-1] - begin) // step + 1))[::-1]
    return times


def _draw_forecast(
    axes: Axes, forecast: xr.Dataset, field: xr.DataArray, cell: Cell, init_time: Instant | None, level: float | None
) -> None:
    """The line of a forecast at a cell, with its band where it has one."""
    name, valid = str(field.name), field["valid_time"].to_numpy()
    colour, _ = LINES[0]
    bounds = [bound_name(name, bound) for bound in BOUNDS]
    if all(bound in forecast for bound in bounds):
        low, high = (_field_at_init(forecast, bound, init_time, level)[:, cell.row, cell.column] for bound in bounds)
        share = forecast[bounds[0]].attrs.get("interval")
        told = "interval" if share is None else f"{float(share):.0%} interval"
        lower, upper = (bound.to_numpy().astype(np.float64) for bound in (low, high))
        axes.fill_between(valid, lower, upper, color=colour, alpha=0.2, linewidth=0, label=told, zorder=2)
    what = f"the forecast from {shown(field['init_time'])} at {cell.words}"
    values = values_of(field[:, cell.row, cell.column], what)
    axes.plot(valid, values, "o-", color=colour, linewidth=2, markersize=4, label="forecast", zorder=4)


def _observed(truth: xr.Dataset, forecast: xr.Dataset, cell: Cell, window: Times) -> xr.Dataset:
    """The truth (time, [level]) of a forecast's variables at a cell between two times, ends included."""
    matched = on_grid_of(truth, forecast, name="the truth")
    (time,), (y, x) = find_dims(matched, "T"), find_dims(matched, "Y", "X")
    times = times_of(matched)
    rows = np.flatnonzero((times >= window[0]) & (times <= window[1]))
    if not len(rows):
        held = f"has {show_time(times[0])} to {show_time(times[-1])}" if len(times) else "is empty"
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"the meteogram shows {show_time(window[0])} to {show_time(window[1])}, of which the truth has no frame: "
            f"it {held}; give the truth of that time, or none",
        )
    return matched.isel({time: rows, y: cell.row, x: cell.column})


def _course_of(observed: xr.Dataset, name: str, level: float | None) -> tuple[Times, Values]:
    """Times and values of a variable, with NaN where frames are absent, so that the line is broken there."""
    times, values = times_of(observed), at_level(observed, name, level).to_numpy().astype(np.float64)
    if np.isinf(values).any():
        raise StforecastError(ErrorKind.INF, f"variable {name} of the truth has infinite values; mask or mend them")
    apart = np.diff(times)
    if len(apart):
        rows = np.flatnonzero(apart > apart.min()) + 1
        times, values = np.insert(times, rows, times[rows - 1] + apart.min()), np.insert(values, rows, np.nan)
    return times, values


def _label_times(axes: Axes, zone: str) -> None:
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=4, maxticks=9))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(_TimeLabels())
    axes.set_xlabel(f"valid time [{zone}]" if zone else "valid time")


class _TimeLabels(Formatter):
    """Hours with their date below, or days with their year, where it changes.

    Matplotlib's concise labels tell one date for all, which is that of the last.
    """

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        instants = [num2date(value) for value in values]  # type: ignore[no-untyped-call]
        are_days = all(instant.hour == instant.minute == 0 for instant in instants)
        above, below = ("%d %b", "%Y") if are_days else ("%H:%M", "%d %b %Y")
        said = [instant.strftime(below) for instant in instants]
        is_new = [row == 0 or said[row] != said[row - 1] for row in range(len(said))]
        tops = [instant.strftime(above) for instant in instants]
        return [f"{top}\n{told}" if new else top for top, told, new in zip(tops, said, is_new, strict=True)]


# The usual day or week.

By = Literal["workdays", "weekday", "season"]


def profile(
    series: xr.Dataset,
    *,
    variable: str | None = None,
    at: Place | None = None,
    by: By | None = None,
    level: float | None = None,
    quantiles: tuple[float, float] = (0.1, 0.9),
) -> Figure:
    """The usual course of a day, or of a week: the median at each time of day, with a band between two quantiles.

    Times are those of the series' clock, which is the city's where its time axis has the attribute time_zone. NaN is
    left out. The mean over the cells, which are weighted by their true area, is taken before the quantiles, so a band
    says how much days differ and not how much cells do.

    Args:
        series: (time, [level,] Y, X), gaps allowed.
        variable: the first by default.
        at: one place, as for `meteogram`; by default the mean of all cells.
        by: "workdays": a line for Monday to Friday and one for the weekend; "weekday": one line through the week;
            "season": a line for each season. On a geographic grid "season" by default, else "workdays".
        level: the first by default, where the variable has levels.
        quantiles: lower and upper edge of the band.

    Raises:
        StforecastError: what `check_series` raises; VAR_MISSING, EMPTY_SELECTION or ARGUMENT for what the series does
            not hold or what is no choice; TIME_FREQ for a series of whole days, but by weekday; NAN if there is no
            value.
    """
    step = check_series(series, allow_gaps=True)
    if not (len(quantiles) == 2 and 0 <= quantiles[0] < quantiles[1] <= 1):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"quantiles={quantiles} must be two shares that increase, as (0.1, 0.9)"
        )
    grid = Grid.of(series)
    by = by or ("season" if grid.is_geographic else "workdays")
    name = variable_of(series, variable, "series")
    times = times_of(series)
    groups, phase = _groups(times, by, step)
    field = at_level(series, name, level)
    cell = None if at is None else Cell.at(series, at)
    values = (
        _mean_of_cells(field, grid) if cell is None else field.isel({grid.y_name: cell.row, grid.x_name: cell.column})
    )
    course = values_of(values, "the series" if cell is None else f"the series at {cell.words}")
    figure = new_figure((9.5, 4.5))
    axes = figure.subplots()
    slots = np.unique(phase)
    length = 24.0 if by != "weekday" else 7.0
    for number, (told, is_in) in enumerate(groups.items()):
        days = len(np.unique(times[is_in].astype("datetime64[D]")))
        if not days or not np.isfinite(course[is_in]).any():
            continue
        lower, middle, upper = _quantiles(course[is_in], phase[is_in], slots, (quantiles[0], 0.5, quantiles[1]))
        colour, marker = LINES[number]
        x = slots * length
        if by == "season":  # a day of a season is followed by one like it
            x, lower, middle, upper = (np.append(some, some[0]) for some in (x, lower, middle, upper))
            x[-1] += length
        axes.fill_between(x, lower, upper, color=colour, alpha=0.16, linewidth=0, zorder=2)
        marks = marker if len(slots) <= 48 else None
        axes.plot(
            x, middle, color=colour, marker=marks, markersize=4, linewidth=2, label=f"{told} ({days} d)", zorder=3
        )
    zone = zone_of(series[find_dims(series, "T")[0]], grid)
    _label_phase(axes, by, zone)
    axes.set_ylabel(fill(label_of(field), 40))
    if float(field.attrs.get("valid_min", -1)) == 0:
        axes.set_ylim(bottom=0)
    where = "mean of all cells" if cell is None else f"at {cell.words}"
    axes.set_title(f"{name_of(field)}, {where}\nusual {'week' if by == 'weekday' else 'day'}", fontsize=12)
    lighten(axes)
    figure.legend(loc="outside right upper", frameon=False)
    period = f"{show_time(times[0])} to {show_time(times[-1])}".replace("T", " ")
    low, high = (f"{100 * share:g}" for share in quantiles)
    figure.supxlabel(f"lines: median; bands: {low} to {high} % of the days; {period}", fontsize=8, color="0.3")
    return figure


def _groups(times: Times, by: By, step: np.timedelta64) -> tuple[dict[str, npt.NDArray[np.bool_]], Values]:
    """Which frames each line is of, and how much of the day or week has gone at each, from 0 to 1."""
    known = get_args(By)
    if by not in known:
        raise StforecastError(ErrorKind.ARGUMENT, f"by={by!r} must be one of {', '.join(map(repr, known))}")
    if by == "weekday":
        if (7 * DAY) % step != np.timedelta64(0):
            raise StforecastError(ErrorKind.TIME_FREQ, f"a step of {show_step(step)} does not divide a week")
        # The same time of different weeks may differ in the last digit.
        return {"all weeks": np.ones(len(times), bool)}, fraction_of_week(times).round(10)
    if step >= DAY:
        raise StforecastError(
            ErrorKind.TIME_FREQ,
            f"a day of steps of {show_step(step)} has no course; give a series of shorter steps, or by='weekday'",
        )
    if by == "season":
        groups = Groups.of(times[:, None], ["season"])
        of_season = {told: groups.number[:, 0] == row for row, told in enumerate(groups.labels["season"])}
        return of_season, fraction_of_day(times)
    at_weekend = fraction_of_week(times) >= _SATURDAY
    return {"Mon to Fri": ~at_weekend, "Sat and Sun": at_weekend}, fraction_of_day(times)


_SATURDAY = 5 / 7 - 1e-9


def _mean_of_cells(field: xr.DataArray, grid: Grid) -> xr.DataArray:
    """The mean over the cells of a variable (time, Y, X), weighted by their area, read in blocks of time."""
    time = next(str(dim) for dim in field.dims if dim not in (grid.y_name, grid.x_name))
    area = grid.cell_area().drop_vars(grid.y_name, errors="ignore")
    blocks = [
        field.isel({time: rows}).astype(np.float64).weighted(area).mean([grid.y_name, grid.x_name]).compute()
        for rows in blocks_of(field, time)
    ]
    return xr.concat(blocks, time).rename(field.name)


def _quantiles(values: Values, phase: Values, slots: Values, shares: Sequence[float]) -> Values:
    """Quantiles of the values at each slot, (share, slot); NaN where there is no value."""
    found = np.full((len(shares), len(slots)), np.nan)
    for number, slot in enumerate(slots):
        own = values[phase == slot]
        if np.isfinite(own).any():
            found[:, number] = np.nanquantile(own, shares)
    return found


def _label_phase(axes: Axes, by: By, zone: str) -> None:
    """Hours of the day, or days of the week."""
    beside = f" [{zone}]" if zone else ""
    if by == "weekday":
        axes.set_xlim(0, 7)
        axes.set_xticks(np.arange(8), [""] * 8)
        axes.set_xticks(np.arange(7) + 0.5, _WEEKDAYS, minor=True)
        axes.tick_params(axis="x", which="minor", length=0)
        axes.set_xlabel(f"day of the week{beside}")
        return
    axes.set_xlim(0, 24)
    axes.xaxis.set_major_locator(MultipleLocator(3))
    axes.xaxis.set_major_formatter(lambda hour, _: f"{hour:02g}:00")
    axes.set_xlabel(f"time of day{beside}")


_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
