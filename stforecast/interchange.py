"""Forecasts in the layout that other packages of the field read."""

from typing import Any

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, axis_of, check_forecast, forecast_variables
from stforecast.sources import era5
from stforecast.units import canonical_units

_NAMES = {"init_time": "time", "lead_time": "prediction_timedelta", "member": "number", "Z": "level"}
_ORDER = ("time", "prediction_timedelta", "number", "level", "latitude", "longitude")
_ATTRS: dict[str, dict[str, Any]] = {
    "time": {"standard_name": "forecast_reference_time", "long_name": "initial time of the forecast"},
    "prediction_timedelta": {"standard_name": "forecast_period", "long_name": "time since the initial time"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
}


def to_weatherbench2(forecast: xr.Dataset) -> xr.Dataset:
    """The forecast in the layout of WeatherBench 2, in which its evaluation, WeatherBench-X and climpred read it.

    Dimensions are (time, prediction_timedelta, [number,] [level,] latitude, longitude) in this order, where time is the
    init time (the init-time convention of doi:10.1029/2023MS004019). Variables have ERA5's long names where their own
    is one of ERA5's short names (t2m is 2m_temperature), levels are whole numbers of hPa, latitudes go from south to
    north and longitudes from 0 to 360 degrees. There is no valid_time: readers make it themselves. Values and units
    stay as they are, and nothing is loaded. Bounds of intervals are left out, for the layout has no place for them.
    `to_zarr` writes what `gs://weatherbench2` holds the likes of.

    Args:
        forecast: (init_time, lead_time, [member,] [level,] Y, X) on latitudes and longitudes.

    Raises:
        StforecastError: what `check_forecast` refuses; DIMS for a grid that is a plane; UNITS for levels that are no
            pressure in hPa; ARGUMENT if two variables would get the same name.

    Examples:
        >>> import numpy as np
        >>> import pandas as pd
        >>> from stforecast.baselines import Persistence
        >>> frames = np.arange(8.0)[:, None, None] + np.full((2, 3), 280.0)
        >>> series = xr.Dataset(
        ...     {"t2m": (("time", "lat", "lon"), frames, {"units": "K"})},
        ...     coords={"time": pd.date_range("2020", periods=8), "lat": [50.0, 40.0], "lon": [0.0, 10.0, 20.0]},
        ... )
        >>> layout = to_weatherbench2(Persistence().predict(series, horizon=3))
        >>> list(layout.data_vars), dict(layout.sizes)
        (['2m_temperature'], {'time': 1, 'prediction_timedelta': 3, 'latitude': 2, 'longitude': 3})
    """
    check_forecast(forecast)
    forecast = forecast[forecast_variables(forecast)]
    grid = Grid.of(forecast)
    if not grid.is_geographic:
        raise StforecastError(
            ErrorKind.DIMS,
            f"WeatherBench 2 has latitudes and longitudes, the forecast is on the plane {grid}; a city has no such "
            "layout",
        )
    dims = {dim: _NAMES[role] for dim in forecast.dims if (role := axis_of(forecast, dim)) in _NAMES} | {
        grid.y_name: "latitude",
        grid.x_name: "longitude",
    }
    renamed = forecast.reset_coords(drop=True).rename({old: new for old, new in dims.items() if old != new})
    if "level" in renamed.dims:
        renamed = _with_whole_levels(renamed)
    renamed = renamed.rename(_long_names(renamed))
    renamed = renamed.assign_coords(longitude=renamed["longitude"] % 360)
    # A slice backwards keeps values lazy and whole, where an index array would copy.
    if grid.y[0] > grid.y[-1]:
        renamed = renamed.isel(latitude=slice(None, None, -1))
    renamed = renamed.sortby("longitude").transpose(*(dim for dim in _ORDER if dim in renamed.dims))
    for name, attrs in _ATTRS.items():
        renamed[name].attrs = dict(attrs)
    # How an opened forecast was written is no rule for the next file, and Zarr's formats take none of each other's.
    return renamed.drop_encoding()


def _with_whole_levels(renamed: xr.Dataset) -> xr.Dataset:
    level = renamed["level"]
    units, values = level.attrs.get("units"), level.to_numpy()
    if canonical_units(units) != "hPa" or (values != np.round(values)).any():
        raise StforecastError(
            ErrorKind.UNITS, f"levels are {values[:4].tolist()} in {units!r}, where whole hPa are wanted; convert them"
        )
    attrs = {"standard_name": "air_pressure", "units": "hPa", "positive": "down"}
    return renamed.assign_coords(level=("level", values.astype(np.int64), attrs))


def _long_names(renamed: xr.Dataset) -> dict[str, str]:
    names = {str(name): era5.LONG_NAMES.get(str(name), str(name)) for name in renamed.data_vars}
    if len(set(names.values())) < len(names):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"two variables would have the same long name: {names}; drop or rename one"
        )
    return {old: new for old, new in names.items() if old != new}
