"""Forecasts on disk, CF netCDF or Zarr, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.files import replacing, unwritten
from stforecast.grid import check_forecast
from stforecast.netcdf import open_netcdf, write_netcdf
from stforecast.store.layout import TIME_ENCODING, consolidate

_TIMES: dict[str, dict[str, Any]] = {
    "init_time": TIME_ENCODING,
    "valid_time": TIME_ENCODING,
    "lead_time": {"units": "seconds", "dtype": "int64"},
}


def write_forecast(forecast: xr.Dataset, path: str | Path) -> Path:
    """The path of the CF netCDF file or the Zarr group that holds the forecast.

    A file that was there is replaced in one step; a Zarr group that was there is refused. A forecast that is backed by
    dask is made and written block by block.

    Args:
        forecast: (init_time, lead_time, [level,] Y, X), as `predict` gives it.
        path: what to write, ending in .nc or .zarr.

    Raises:
        StforecastError: what `check_forecast` refuses; ARGUMENT for another ending; OUTPUT_EXISTS; DISK_FULL,
            PERMISSION or IO_ERROR, and what was there before is intact.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import pandas as pd
        >>> from stforecast.baselines import Persistence
        >>> frames = np.arange(8.0)[:, None, None] + np.full((2, 3), 280.0)
        >>> series = xr.Dataset(
        ...     {"t2m": (("time", "lat", "lon"), frames, {"units": "K"})},
        ...     coords={"time": pd.date_range("2020", periods=8), "lat": [50.0, 40.0], "lon": [0.0, 10.0, 20.0]},
        ... )
        >>> forecast = Persistence().predict(series, horizon=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_forecast(forecast, f"{folder}/forecast.nc")
        ...     open_forecast(path).load().equals(forecast)
        True
    """
    path = Path(path)
    check_forecast(forecast)
    if path.suffix not in (".nc", ".zarr"):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"forecasts are written as netCDF or Zarr: {path} should end in .nc or .zarr"
        )
    if path.suffix == ".zarr" and path.exists():
        raise StforecastError(ErrorKind.OUTPUT_EXISTS, f"{path} is there already; choose another name or remove it")
    plain = _as_cf(forecast)
    # CF allows no missing data in coordinates, and xarray would declare some.
    whole = {str(name): {"_FillValue": None} for name, coord in plain.coords.items() if coord.dtype.kind == "f"}
    try:
        with replacing(path) as temporary:
            if path.suffix == ".zarr":
                plain.to_zarr(temporary, zarr_format=3, consolidated=False, encoding=_TIMES | whole)
                consolidate(temporary, map(str, plain.data_vars))
            else:
                packed = {str(name): {"zlib": True, "complevel": 1} for name in forecast.data_vars}
                write_netcdf(plain, temporary, encoding=_TIMES | whole | packed)
    except (OSError, RuntimeError) as error:
        raise unwritten(error, path) from error
    return path


def _as_cf(forecast: xr.Dataset) -> xr.Dataset:
    """The forecast without encodings and without what its source said of other values, and with its Conventions."""
    plain = forecast.drop_encoding()
    for variable in plain.data_vars.values():
        variable.attrs = {name: value for name, value in variable.attrs.items() if name != "actual_range"}
    return plain.assign_attrs({"Conventions": "CF-1.11"} | plain.attrs)


def open_forecast(path: str | Path) -> xr.Dataset:
    """The forecast that `write_forecast` or `predict` wrote, lazily.

    Raises:
        StforecastError: FILE_MISSING; FILE_FORMAT if it is neither netCDF nor Zarr; what `check_forecast` refuses.
    """
    path = Path(path)
    if not path.exists():
        raise StforecastError(ErrorKind.FILE_MISSING, f"there is no forecast at {path}")
    forecast: xr.Dataset
    try:
        if path.is_dir():
            forecast = xr.open_zarr(path, decode_timedelta=True)
        else:
            forecast = open_netcdf(path, decode_timedelta=True)
    except (OSError, ValueError) as error:
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is neither netCDF nor Zarr that can be read") from error
    check_forecast(forecast)
    return forecast


def write_template(forecast: xr.Dataset, group: Path) -> None:
    """Write the axes and attributes of a forecast that is backed by dask, and no values; chunks are dask's."""
    forecast.drop_encoding().to_zarr(group, compute=False, zarr_format=3, consolidated=False, encoding=_TIMES)
    consolidate(group, map(str, forecast.data_vars))


def write_region(forecast: xr.Dataset, group: Path, region: Mapping[str, slice]) -> None:
    """Write the values of whole chunks of a forecast into its template."""
    # By xarray a region also writes attributes anew, which other threads read at the same time.
    opened = zarr.open_group(group, mode="r+", zarr_format=3)
    for name in (*map(str, forecast.data_vars), "quality_flag"):
        array = opened[name]
        assert isinstance(array, zarr.Array)
        array[region["init_time"], region["lead_time"]] = forecast[name].to_numpy()


def chunk_files(group: Path, init_chunk: int, lead_chunk: int) -> list[Path]:
    """The files of the chunks at these places of every variable; a chunk of nothing but zeros has none."""
    found = [*group.glob(f"*/c/{init_chunk}/{lead_chunk}/**/*"), group / f"quality_flag/c/{init_chunk}/{lead_chunk}"]
    return sorted(file for file in found if file.is_file())


def open_group(group: Path, *, lazily: bool = False) -> xr.Dataset:
    """A forecast of which not all is written yet; `lazily` in chunks of dask."""
    chunks: dict[str, int] | None = {} if lazily else None
    # Without consolidated metadata the order of the variables would be that of the folder.
    opened: xr.Dataset = xr.open_zarr(group, chunks=chunks, consolidated=True, decode_timedelta=True)
    return opened
