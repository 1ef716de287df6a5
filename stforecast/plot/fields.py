"""What is drawn: one variable of a forecast at one init and lead time, and the truth of its valid time."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, axis_of, check_forecast, find_dims, forecast_variables
from stforecast.plot.words import shown

Instant = str | datetime | np.datetime64


Duration = str | timedelta | np.timedelta64


Values = npt.NDArray[np.float64]


def field_of(forecast: xr.Dataset, variable: str | None, level: float | None) -> xr.DataArray:
    """One variable (init_time, lead_time, Y, X) of a forecast."""
    check_forecast(forecast)
    field = at_level(forecast, variable_of(forecast, variable, "forecast"), level)
    dims = ("init_time", "lead_time", *find_dims(forecast, "Y", "X"))
    extra = [str(dim) for dim in field.dims if dim not in dims]
    if extra:
        raise StforecastError(
            ErrorKind.DIMS,
            f"variable {field.name} has the dimension {extra[0]} beside {dims}; a map shows one field: select from it "
            f"or take its mean, e.g. forecast.mean('{extra[0]}', keep_attrs=True)",
        )
    return field.transpose(*dims)


def variable_of(dataset: xr.Dataset, variable: str | None, what: str) -> str:
    """The variable that is asked for, by default the first that is no bound of another."""
    names = [str(name) for name in dataset.data_vars]
    if variable is None and names:
        return str(next(iter(forecast_variables(dataset)), names[0]))
    if variable is None or variable not in names:
        raise StforecastError(ErrorKind.VAR_MISSING, f"the {what} has no variable {variable or ''}, it has {names}")
    return variable


def variables_of(forecast: xr.Dataset, variables: Sequence[str] | None) -> list[str]:
    """The variables that are asked for, by default all that are forecast."""
    if variables is None:
        return [str(name) for name in forecast_variables(forecast)]
    if isinstance(variables, str) or not len(variables):
        raise StforecastError(ErrorKind.ARGUMENT, f"variables={variables!r} must name one or more, as ['t2m']")
    return [variable_of(forecast, name, "forecast") for name in variables]


def at_level(dataset: xr.Dataset, variable: str, level: float | None) -> xr.DataArray:
    """The variable without its level dimension, if it has one; the level stays as the scalar coordinate `level`."""
    field = dataset[variable]
    dims = [dim for dim in field.dims if axis_of(dataset, dim) == "Z"]
    if not dims:
        if level is not None:
            raise StforecastError(ErrorKind.ARGUMENT, f"variable {variable} has no levels; leave level={level:g} out")
        return field
    levels = dataset[dims[0]].to_numpy()
    found = np.flatnonzero(np.isclose(levels, levels[0] if level is None else level))
    if not len(found):
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION, f"variable {variable} has no level {level:g}, it has {levels.tolist()}"
        )
    field = field.isel({dims[0]: int(found[0])})
    return field.rename({dims[0]: "level"}) if dims[0] in field.coords else field


def frame_of(field: xr.DataArray, init_time: Instant | None, lead_time: Duration | None) -> xr.DataArray:
    """The field (Y, X) of one init and lead time, with both and the valid time as scalar coordinates."""
    field = init_of(field, init_time)
    return field.isel(lead_time=lead_at(field, lead_time))


def lead_at(field: xr.DataArray, lead_time: Duration | None) -> int:
    """Where a lead time stands, the last place for None."""
    return _position(field["lead_time"], lead_time, _duration, "'24h'")


def init_of(field: xr.DataArray, init_time: Instant | None) -> xr.DataArray:
    """The fields (lead_time, Y, X) of one init time."""
    zone = str(field["init_time"].attrs.get("time_zone", "UTC"))
    row = _position(field["init_time"], init_time, lambda text: _instant(text, zone), "'2016-01-31T18:00'")
    return field.isel(init_time=row)


def _instant(text: Instant, zone: str) -> np.datetime64:
    """The instant on the axis's clock; text without an offset is on that clock already."""
    instant = pd.Timestamp(text)
    return (instant if instant.tz is None else instant.tz_convert(zone).tz_localize(None)).to_numpy()


def _duration(text: Duration) -> np.timedelta64:
    return pd.Timedelta(text).to_numpy()


def _position(axis: xr.DataArray, wanted: Any, parse: Callable[[Any], Any], example: str) -> int:
    """Where a time stands on an axis, the last place for None."""
    if wanted is None:
        return axis.size - 1
    try:
        value = parse(wanted)
    except (ValueError, TypeError) as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"{axis.name} {wanted!r} is not one; write e.g. {example}") from error
    found = np.flatnonzero(axis.to_numpy() == value)
    if not len(found):
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION,
            f"the forecast has no {axis.name} {wanted}, it has {axis.size} from {shown(axis[0])} to {shown(axis[-1])}",
        )
    return int(found[0])


def evenly(values: npt.NDArray[Any], count: int) -> list[Any]:
    """At most so many of the values, from the first to the last."""
    return list(values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)])


def truth_of(frame: xr.DataArray, truth: xr.Dataset, grid: Grid) -> xr.DataArray:
    """What the series holds at the frame's valid time and level, (Y, X) in the order of the forecast's grid."""
    variable = variable_of(truth, str(frame.name), "truth")
    units = truth[variable].attrs.get("units")
    if units != frame.attrs["units"]:
        raise StforecastError(
            ErrorKind.UNITS,
            f"variable {variable} is in {frame.attrs['units']} in the forecast but {units} in the truth; convert one",
        )
    snapshot = _snapshot(truth, frame)
    level = float(frame["level"]) if "level" in frame.coords else None
    if level is None and any(axis_of(truth, dim) == "Z" for dim in snapshot[variable].dims):
        raise StforecastError(
            ErrorKind.DIMS, f"variable {variable} has levels in the truth but not in the forecast; select one of them"
        )
    found = Grid.of(truth)
    rows, columns = grid.positions_in(found)
    observed = at_level(snapshot, variable, level).transpose(found.y_name, found.x_name)
    return observed[rows][:, columns]


def _snapshot(truth: xr.Dataset, frame: xr.DataArray) -> xr.Dataset:
    """The series at the frame's valid time."""
    (time,) = find_dims(truth, "T")
    times = truth[time].to_numpy()
    found = np.flatnonzero(times == frame["valid_time"].to_numpy())
    if not len(found):
        held = f"has {shown(truth[time][0])} to {shown(truth[time][-1])}" if len(times) else "is empty"
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"the forecast is valid at {shown(frame['valid_time'])}, which the truth lacks: it {held}; choose another "
            "init_time or lead_time, or give the truth of that time",
        )
    return truth.isel({time: int(found[0])})


def values_of(frame: xr.DataArray, what: str) -> Values:
    """The values (Y, X) of a frame, of which one at least is not NaN and none infinite."""
    values = frame.to_numpy().astype(np.float64)
    if np.isnan(values).all():
        raise StforecastError(
            ErrorKind.NAN, f"variable {frame.name} of {what} is NaN everywhere; there is nothing to draw"
        )
    if np.isinf(values).any():
        raise StforecastError(ErrorKind.INF, f"variable {frame.name} of {what} has infinite values; mask or mend them")
    return values
