"""Readers of raw data: one a provider's layout, each to a lazy series in physical units."""

import zoneinfo
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import axis_of, check_series
from stforecast.sources import cf, taxibj, weatherbench
from stforecast.sources.raw_files import files_below, naming

_SOURCES = ("taxibj", "weatherbench", "cf")


def open_dataset(
    path: str | Path,
    *,
    source: str | None = None,
    variables: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    time_zone: str | None = None,
) -> xr.Dataset:
    """A lazy series of raw data: float32 variables (time, [level,] Y, X) in physical units, values not yet read.

    Times are datetime64[ns] under the name `time`, strictly increasing on one step; frames may be absent. Units,
    latitude direction, longitude convention and attributes stay as they are in the files; the files' encodings do not.

    Args:
        path: a file, a zarr store, a glob pattern, or a folder of files that belong together.
        source: the layout: "taxibj" (HDF5 counts by half hour), "weatherbench" (a tree of a folder a variable) or "cf"
            (any CF netCDF or zarr). Told from the content by default.
        variables: their names; all by default.
        levels: values of the level axis, in its units; all by default.
        bounds: edges of a city grid in degrees: south, north, west, east.
        time_zone: IANA name of a city's clock, e.g. "America/New_York".

    Raises:
        StforecastError: ARGUMENT for an unknown source or time zone, or an argument that the source has no use for;
            FILE_MISSING and FILE_FORMAT; VAR_MISSING, EMPTY_SELECTION, DIMS, SHAPE, GRID_SHAPE, UNITS or a fault of the
            time axis, naming file and place.
    """
    if isinstance(variables, str):
        raise TypeError(f"variables is a list of names: wanted ['{variables}'], got '{variables}'")
    path = Path(path)
    source = _infer(path) if source is None else source
    if source not in _SOURCES:
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown source '{source}'; there are {', '.join(_SOURCES)}")
    _check_arguments(source, levels, bounds, time_zone)
    if source == "taxibj":
        series = taxibj.read(path, variables=variables, bounds=bounds, time_zone=time_zone)
    else:
        read = weatherbench.read if source == "weatherbench" else cf.read
        series = read(path, variables=variables, levels=levels)
        if levels is not None and not any(axis_of(series, dim) == "Z" for dim in series.dims):
            raise StforecastError(ErrorKind.EMPTY_SELECTION, f"{path} has no level axis to choose {list(levels)} from")
    with naming(path):
        check_series(series, allow_gaps=True)
    # By these a build of a store that was interrupted knows its data again.
    series.encoding["source_files"] = [str(file) for file in files_below(path)]
    return series


def _infer(path: Path) -> str:
    if weatherbench.is_weatherbench(path):
        return "weatherbench"
    return "taxibj" if taxibj.is_taxibj(path) else "cf"


def _check_arguments(
    source: str,
    levels: Sequence[float] | None,
    bounds: tuple[float, float, float, float] | None,
    time_zone: str | None,
) -> None:
    is_city = source == "taxibj"
    for name, value, is_used in (
        ("levels", levels, not is_city),
        ("bounds", bounds, is_city),
        ("time_zone", time_zone, is_city),
    ):
        if value is not None and not is_used:
            raise StforecastError(
                ErrorKind.ARGUMENT, f"source '{source}' has no use for {name}={value!r}; leave it out"
            )
    if bounds is not None:
        _check_bounds(bounds)
    if time_zone is not None:
        _check_time_zone(time_zone)


def _check_bounds(bounds: tuple[float, float, float, float]) -> None:
    south, north, west, east = bounds
    if not (-90 <= south < north <= 90 and -180 <= west < east <= 360 and np.isfinite(bounds).all()):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"bounds are (south, north, west, east) in degrees and increase, got {tuple(bounds)}"
        )


def _check_time_zone(time_zone: str) -> None:
    try:
        zoneinfo.ZoneInfo(time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"unknown time zone '{time_zone}', wanted an IANA name such as America/New_York"
        ) from error
