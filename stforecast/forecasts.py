"""Forecasts on disk: CF netCDF, written whole or not at all."""

from pathlib import Path

import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import replacing, unwritten
from stforecast.grid import check_forecast

_TIME_ENCODING = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}


def write_forecast(forecast: xr.Dataset, path: str | Path) -> Path:
    """The path of the CF netCDF file that holds the forecast; a file that was there is replaced in one step.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X), as `predict` gives it.
        path: the file to write, ending in .nc.

    Raises:
        StforecastError: what `check_forecast` refuses; ARGUMENT for another ending; DISK_FULL, PERMISSION
            or IO_ERROR, and what was there before is intact.
    """
    path = Path(path)
    check_forecast(forecast)
    if path.suffix != ".nc":
        raise StforecastError(ErrorKind.ARGUMENT, f"forecasts are written as netCDF: {path} should end in .nc")
    encoding: dict[str, dict[str, object]] = {name: dict(_TIME_ENCODING) for name in ("init_time", "valid_time")}
    encoding["lead_time"] = {"units": "seconds", "dtype": "int64"}
    encoding |= {str(name): {"zlib": True, "complevel": 1, "dtype": "float32"} for name in forecast.data_vars}
    try:
        with replacing(path) as temporary:
            forecast.drop_encoding().to_netcdf(temporary, engine="netcdf4", encoding=encoding)
    except (OSError, RuntimeError) as error:
        raise unwritten(error, path) from error
    return path


def open_forecast(path: str | Path) -> xr.Dataset:
    """The forecast in a file that `write_forecast` wrote, lazily.

    Raises:
        StforecastError: FILE_MISSING; FILE_FORMAT if it is not netCDF; what `check_forecast` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no forecast at {path}")
    try:
        forecast = xr.open_dataset(path, engine="netcdf4", decode_timedelta=True)
    except (OSError, ValueError) as error:
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is not a netCDF file that can be read") from error
    check_forecast(forecast)
    return forecast
