"""Metadata that contradict each other or the data: nothing that stops a reader, all that may mislead a person."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr

from stforecast.errors import ErrorKind
from stforecast.grid import axis_of
from stforecast.local_time import ambiguous_times, nonexistent_times
from stforecast.time_axis import Times, show_step, show_time, time_step
from stforecast.units import canonical_units

Warnings = list[tuple[ErrorKind, str]]

# The units that CF's standard names are kept in, https://cfconventions.org/standard-names.html, for the names at hand.
_UNITS_OF_STANDARD_NAME = {
    "air_temperature": "K",
    "dew_point_temperature": "K",
    "sea_surface_temperature": "K",
    "air_pressure": "Pa",
    "air_pressure_at_mean_sea_level": "Pa",
    "air_pressure_at_sea_level": "Pa",
    "surface_air_pressure": "Pa",
    "eastward_wind": "m s-1",
    "northward_wind": "m s-1",
    "wind_speed": "m s-1",
    "geopotential": "m2 s-2",
    "geopotential_height": "m",
    "surface_altitude": "m",
    "relative_humidity": "1",
    "specific_humidity": "1",
    "land_binary_mask": "1",
}
# Units of one dimension can be converted into each other.
_DIMENSION = {
    **dict.fromkeys(("K", "degC", "degF"), "temperature"),
    **dict.fromkeys(("Pa", "hPa", "kPa", "mbar", "bar"), "pressure"),
    **dict.fromkeys(("m s-1", "km h-1", "knot", "mile hour-1"), "speed"),
    **dict.fromkeys(("1", "%", "kg kg-1", "kg kg**-1", "g kg-1", "(0 - 1)"), "ratio"),
    **dict.fromkeys(("m", "km", "mm", "cm"), "length"),
    **dict.fromkeys(("m2 s-2", "J kg-1"), "geopotential"),
}
_AXIS_UNITS = {"Y": ("latitude", "degrees_north"), "X": ("longitude", "degrees_east")}
_SECONDS = {
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "hourly"), 3600),
    **dict.fromkeys(("d", "day", "days", "daily"), 86_400),
    **dict.fromkeys(("week", "weeks", "weekly"), 7 * 86_400),
}


def metadata_warnings(series: xr.Dataset) -> Warnings:
    """What of a series' metadata contradicts itself or the axis, with its kind; the data are trusted, not attributes.

    CF_CHECK follows a few rules of the CF conventions, named by their sections. TIME_FREQ: attributes claim another
    step or other ends than the time axis has. TIME_DST: the clock of the series' zone never shows a time, or shows it
    twice.
    """
    found = [(ErrorKind.CF_CHECK, text) for text in (*_variable_faults(series), *_axis_faults(series))]
    times = series["time"].to_numpy()
    found += [(ErrorKind.TIME_FREQ, text) for text in _claims(series, times)]
    return found + [(ErrorKind.TIME_DST, text) for text in _clock_faults(times, series["time"].attrs.get("time_zone"))]


def _variable_faults(series: xr.Dataset) -> Iterator[str]:
    for name, variable in series.variables.items():
        standard_name, units = variable.attrs.get("standard_name"), canonical_units(variable.attrs.get("units", ""))
        if standard_name is not None and not re.fullmatch(r"[a-z][a-z0-9_]*( [a-z_]+)?", str(standard_name)):
            yield f"{name} has the standard_name {standard_name!r}, which is none by its form (CF 3.3)"
        wanted = _UNITS_OF_STANDARD_NAME.get(str(standard_name))
        if wanted is None or "units" not in variable.attrs:
            continue
        if units in _DIMENSION and _DIMENSION[units] != _DIMENSION[wanted]:
            yield f"{name} has the standard_name {standard_name} (in {wanted}) but the units {units!r} (CF 3.1)"


def _axis_faults(series: xr.Dataset) -> Iterator[str]:
    claimed: dict[str, list[str]] = {}
    for name in series.coords:
        axis = series[name].attrs.get("axis")
        if axis is not None:
            claimed.setdefault(str(axis), []).append(str(name))
    for axis, names in claimed.items():
        if len(names) > 1:
            yield f"{' and '.join(names)} both have the attribute axis='{axis}' (CF 4)"
    for dim in map(str, series.dims):
        units = series[dim].attrs.get("units") if dim in series.coords else None
        kind, wanted = _AXIS_UNITS.get(str(axis_of(series, dim)), ("", ""))
        is_named = series[dim].attrs.get("standard_name") == kind or dim.lower() in (kind, kind[:3])
        if kind and is_named and not str(units).lower().startswith(wanted[:7]):
            yield f"{dim} is a {kind} but has the units {units!r}, wanted {wanted} (CF 4.{1 + (kind == 'longitude')})"
        if axis_of(series, dim) == "Z" and units is None:
            yield f"the level {dim} has no units (CF 4.3)"


def _claims(series: xr.Dataset, times: Times) -> Iterator[str]:
    if len(times) < 2:
        return
    step = time_step(times)
    claims = {
        "frequency": series.attrs.get("frequency"),
        "time_coverage_resolution": series.attrs.get("time_coverage_resolution"),
        "delta_t": series["time"].attrs.get("delta_t"),
    }
    for name, claim in claims.items():
        claimed = _as_step(str(claim)) if claim is not None else None
        if claimed is not None and claimed != step:
            yield f"the attribute {name} says {claim!r} but the time axis steps by {show_step(step)}"
    for name, end in (("time_coverage_start", times[0]), ("time_coverage_end", times[-1])):
        claimed_end = _as_time(series.attrs.get(name))
        # A file's day may end with its last frame or with the frame's last second.
        if claimed_end is not None and abs(claimed_end - end) >= step:
            yield f"the attribute {name} says {series.attrs[name]!r} but the time axis has {show_time(end)}"


def _as_step(text: str) -> np.timedelta64 | None:
    """A step as attributes say it: 6hr, day, PT6H, P1D, or 0000-00-00 06:00:00; None if it is not understood."""
    clock = re.fullmatch(r"0000-00-(\d\d) (\d\d):(\d\d):(\d\d)", text)
    if clock:
        days, hours, minutes, seconds = (int(part) for part in clock.groups())
        return np.timedelta64(((days * 24 + hours) * 60 + minutes) * 60 + seconds, "s")
    words = re.fullmatch(r"(?:pt?)?(\d*)\s*([a-z]+)", text.strip().lower())
    if words is None or words[2] not in _SECONDS:
        return None
    return np.timedelta64(int(words[1] or 1) * _SECONDS[words[2]], "s")


def _as_time(text: object) -> np.datetime64 | None:
    if not isinstance(text, str):
        return None
    try:
        time = pd.Timestamp(text)
    except ValueError:
        return None
    return (time.tz_convert(None) if time.tzinfo else time).to_datetime64()


def _clock_faults(times: Times, time_zone: str | None) -> Iterator[str]:
    if time_zone is None:
        return
    for found, verb in (
        (nonexistent_times(times, time_zone), "never shows, as it goes forward"),
        (ambiguous_times(times, time_zone), "shows twice, as it goes back"),
    ):
        if len(found):
            first = ", ".join(show_time(time) for time in found[:3])
            more = ", …" if len(found) > 3 else ""
            yield f"the time axis has {len(found)} time(s) that the clock of {time_zone} {verb} ({first}{more})"
