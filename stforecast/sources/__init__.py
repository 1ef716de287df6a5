"""Readers of raw data: one a provider's layout, each to a lazy series in physical units."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import axis_of, check_series
from stforecast.local_time import check_time_zone
from stforecast.sources import cf, grib, openstl, taxibj, weatherbench, weatherbench2
from stforecast.sources.raw_files import Location, files_below, is_url, locate, naming
from stforecast.sources.selection import Selection

SOURCES = ("taxibj", "weatherbench", "weatherbench2", "grib", "cf")
_REMOTE_SOURCES = ("weatherbench2", "cf")


def open_dataset(
    path: str | Path,
    *,
    source: str | None = None,
    variables: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    static: Sequence[str] = (),
    period: tuple[str, str] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    time_zone: str | None = None,
    allow_preliminary: bool = False,
    step: np.timedelta64 | None = None,
) -> xr.Dataset:
    """A lazy series of raw data: float32 variables (time, [level,] Y, X) in physical units, values not yet read.

    Times are datetime64[ns] under the name `time`, strictly increasing on one step; frames may be absent. Units,
    latitude direction, longitude convention and attributes stay as they are in the files; the files' encodings do not.
    Static fields are coordinates (Y, X), and TaxiBJ's holidays and weather coordinates (time,): nothing that reads the
    variables sees them. A file that changes while it is read is refused, not mixed.

    Args:
        path: a file, a zarr store, a glob pattern, a folder of files that belong together, or the URL of a zarr store
            (gs://, s3://, https://, …; private and anonymous access are told to fsspec, e.g. FSSPEC_S3_ANON=true).
        source: the layout: "taxibj" (HDF5 counts by half hour), "weatherbench" (a tree of a folder a variable),
            "weatherbench2" (zarr with ERA5's long names), "grib", or "cf" (any CF netCDF or zarr). Told from the
            content by default.
        variables: their names; all by default.
        levels: values of the level axis, in its units; all by default.
        static: names of fields without a time, e.g. ["orography", "lsm"]; none by default.
        period: first and last time, e.g. ("1979", "2018-06-30"); all by default.
        bounds: edges of a city grid in degrees: south, north, west, east.
        time_zone: IANA name of a city's clock, e.g. "America/New_York".
        allow_preliminary: declares that ERA5's preliminary frames (expver 5) may stand beside its final ones.
        step: the step that the series has, where it is known; a single frame is then enough.

    Raises:
        StforecastError: ARGUMENT for an unknown source or time zone, an argument that the source has no use for, or a
            package that is not installed; FILE_MISSING, FILE_FORMAT and the other faults of files; VAR_MISSING,
            EMPTY_SELECTION, DIMS, SHAPE, GRID_SHAPE, UNITS, METADATA or a fault of the time axis, naming file and
            place.
    """
    for name, value in (("variables", variables), ("static", static)):
        if isinstance(value, str):
            raise TypeError(f"{name} is a list of names: wanted ['{value}'], got '{value}'")
    location = locate(path)
    source = infer_source(location) if source is None else source
    check_options(
        source,
        location,
        levels=levels,
        static=static,
        bounds=bounds,
        time_zone=time_zone,
        allow_preliminary=allow_preliminary,
    )
    selection = Selection(variables, levels, static, period, allow_preliminary)
    if source == "taxibj":
        series = taxibj.read(Path(location), selection, bounds=bounds, time_zone=time_zone)
    else:
        series = _read_fields(location, source, selection)
    if "stforecast_store_version" in series.attrs:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"{path} is a store that stforecast prepared, of normalized values; open it with open_store",
        )
    with naming(location):
        check_series(series, allow_gaps=True, step=step)
    if not is_url(location):
        # By these a build of a store that was interrupted knows its data again.
        series.encoding["source_files"] = [str(file) for file in files_below(Path(location))]
    return series


def infer_source(location: Location) -> str:
    """The layout that a location has by its content; "cf" if it is none of the others.

    Raises:
        StforecastError: DIMS for OpenSTL's windows, which are no series; what is amiss with the first file.
    """
    if weatherbench2.is_weatherbench2(location):
        return "weatherbench2"
    if is_url(location):
        return "cf"
    path = Path(location)
    if openstl.is_openstl(path):
        openstl.refuse_as_series(path)
    layouts = {
        "weatherbench": weatherbench.is_weatherbench,
        "taxibj": taxibj.is_taxibj,
        "grib": grib.is_grib,
    }
    return next((source for source, is_of in layouts.items() if is_of(path)), "cf")


def _read_fields(location: Location, source: str, selection: Selection) -> xr.Dataset:
    if source == "weatherbench2":
        series = weatherbench2.read(location, selection)
    elif source == "cf":
        series = cf.read(location, selection)
    elif source == "weatherbench":
        series = weatherbench.read(Path(location), selection)
    else:
        series = grib.read(Path(location), selection)
    if selection.levels is not None and not any(axis_of(series, dim) == "Z" for dim in series.dims):
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION, f"{location} has no level axis to choose {list(selection.levels)} from"
        )
    return series


def check_options(
    source: str,
    location: Location,
    *,
    levels: Sequence[float] | None = None,
    static: Sequence[str] = (),
    bounds: tuple[float, float, float, float] | None = None,
    time_zone: str | None = None,
    allow_preliminary: bool = False,
) -> None:
    """Refuse options of `open_dataset` that a source has no use for, or that are none.

    Raises:
        StforecastError: ARGUMENT, naming the option.
    """
    if source not in SOURCES:
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown source '{source}'; there are {', '.join(SOURCES)}")
    if is_url(location) and source not in _REMOTE_SOURCES:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"source '{source}' is read from this machine; fetch {location} first"
        )
    is_city = source == "taxibj"
    for name, value, is_used in (
        ("levels", levels, not is_city),
        ("static", static or None, not is_city),
        ("allow_preliminary", allow_preliminary or None, not is_city),
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
        check_time_zone(time_zone)


def _check_bounds(bounds: tuple[float, float, float, float]) -> None:
    south, north, west, east = bounds
    if not (-90 <= south < north <= 90 and -180 <= west < east <= 360 and np.isfinite(bounds).all()):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"bounds are (south, north, west, east) in degrees and increase, got {tuple(bounds)}"
        )
