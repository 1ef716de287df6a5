"""Times decoded from CF numbers with units, or refused by name."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import Times, show_time

_GREGORIAN = {"standard", "gregorian", "proleptic_gregorian"}
_MICROSECOND = np.timedelta64(1_000, "ns")
_SECOND = np.timedelta64(1_000_000_000, "ns")
# The round times of day that a blurred axis may mean, from days to seconds.
_ROUND_SECONDS = (86_400, 43_200, 21_600, 10_800, 3_600, 1_800, 900, 600, 300, 60, 1)


# What a number of may be a duration (CF 1.11, 4.4); xarray writes the dtype into an attribute of its own.
_DURATIONS = ("day", "hour", "minute", "second", "millisecond", "microsecond", "nanosecond")


def shows_durations(variable: xr.Variable) -> bool:
    """Whether the values of an undecoded variable are durations, and not plain numbers."""
    units = str(variable.attrs.get("units", "")).removesuffix("s")
    return variable.dtype.kind == "m" or "timedelta" in str(variable.attrs.get("dtype", "")) or units in _DURATIONS


def decode_times(variable: xr.Variable, *, name: str) -> Times:
    """Times of a CF variable, datetime64[ns], (time,).

    Calendars that are Gregorian between 1678 and 2262, which is what datetime64[ns] holds, are all the same there.
    Floating-point numbers are only nearly the times they mean (float32 days since 1900 are off by minutes): they are
    moved to the round time of day that lies within their precision.

    Args:
        variable: numbers as the file has them, with the attributes `units` and `calendar`, or datetime64.
        name: what the messages call it, with its file.

    Raises:
        StforecastError: TIME_UNITS, TIME_CALENDAR, TIME_NAT, TIME_RANGE, or TIME_FREQ if the numbers are too imprecise.
    """
    values = variable.to_numpy()
    if np.issubdtype(values.dtype, np.datetime64):
        return values.astype("datetime64[ns]")
    units, calendar = variable.attrs.get("units"), str(variable.attrs.get("calendar") or "standard").lower()
    if not np.issubdtype(values.dtype, np.number) or " since " not in str(units):
        raise _undecodable(values, units, name)
    if calendar not in _GREGORIAN:
        raise StforecastError(
            ErrorKind.TIME_CALENDAR,
            f"{name} is in the calendar '{calendar}', wanted a Gregorian one ('standard'): its days are other "
            "days; convert the file first, e.g. dataset.convert_calendar('standard', align_on='date')",
        )
    if np.isnan(values).any():
        raise StforecastError(
            ErrorKind.TIME_NAT,
            f"{name} has no value at row {int(np.isnan(values).argmax())}, only the fill value "
            f"{variable.encoding.get('_FillValue', np.nan)}; drop or mend that frame",
        )
    attrs = {"units": str(units), "calendar": calendar}
    times = _decode(values, attrs, name)
    return _sharpen(times, values, attrs, name) if values.dtype.kind == "f" else times


def _decode(values: npt.NDArray[Any], attrs: dict[str, str], name: str) -> Times:
    raw = xr.Dataset({"time": ("time", values, attrs)})
    try:
        with warnings.catch_warnings():
            # xarray warns where it falls back to cftime, which is refused below.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            times = xr.decode_cf(raw, decode_times=xr.coders.CFDatetimeCoder(time_unit="ns"))["time"].to_numpy()
    except (ValueError, OverflowError) as error:
        raise _undecodable(values, attrs["units"], name) from error
    if not np.issubdtype(times.dtype, np.datetime64):
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"{name} runs from {times.min()} to {times.max()}, wanted years 1678 to 2261; shift it to those",
        )
    return times


def _undecodable(values: npt.NDArray[Any], units: Any, name: str) -> StforecastError:
    first = repr(values.flat[0].item()) if values.size else "absent"
    return StforecastError(
        ErrorKind.TIME_UNITS,
        f"{name} cannot be read as times: its units are {units!r} and its first value is {first}, wanted units like "
        "'hours since 1900-01-01'; set them in the file",
    )


def _sharpen(times: Times, values: npt.NDArray[np.floating[Any]], attrs: dict[str, str], name: str) -> Times:
    unit = np.diff(_decode(values[0].astype(np.float64) + np.array([0.0, 1.0]), attrs, name))[0]
    # Some units in the last place, as the number may come from a sum; decoding it rounds as well.
    blur = max(4 * float(np.spacing(np.abs(values).max())) * unit, _MICROSECOND)
    tolerable = 0.01 * np.median(np.diff(times)) if len(times) > 1 else blur
    for seconds in _ROUND_SECONDS:
        rounded = _round(times, seconds * _SECOND)
        # Rounding to less than the blur would move any number somewhere, and say nothing.
        if seconds * _SECOND > 2 * blur and (np.abs(rounded - times) <= min(blur, tolerable)).all():
            return rounded
    if blur <= tolerable:
        return times
    raise StforecastError(
        ErrorKind.TIME_PRECISION,
        f"{name} is kept as {values.dtype} '{attrs['units']}', which at {show_time(times[0])} is exact to "
        f"{blur / _SECOND:.0f} s only, more than 1 % of its step; write it with whole numbers, e.g. int64 seconds",
    )


def _round(times: Times, length: np.timedelta64) -> Times:
    """Times moved to the nearest multiple of a length of time, counted from midnight."""
    days = times.astype("datetime64[D]").astype(times.dtype)
    return days + (times - days + length // 2) // length * length
