"""Times on a city's clock, which skips an hour in spring and repeats one in autumn."""

import zoneinfo

import numpy as np
import pandas as pd

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import Times, show_time


def check_time_zone(time_zone: str) -> None:
    """Refuse what is no IANA name of a zone.

    Raises:
        StforecastError: ARGUMENT.
    """
    try:
        zoneinfo.ZoneInfo(time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"unknown time zone '{time_zone}', wanted an IANA name such as America/New_York"
        ) from error


def ambiguous_times(times: Times, time_zone: str) -> Times:
    """Those of some local times, (time,), that the zone's clock shows twice.

    >>> times = np.array(["2016-11-06T00:30", "2016-11-06T01:30"], "datetime64[ns]")
    >>> ambiguous_times(times, "America/New_York").astype("datetime64[m]")
    array(['2016-11-06T01:30'], dtype='datetime64[m]')
    """
    moved = pd.DatetimeIndex(times).tz_localize(time_zone, ambiguous="NaT", nonexistent="shift_forward")
    return times[np.asarray(moved.isna()) & ~np.isnat(times)]


def nonexistent_times(times: Times, time_zone: str) -> Times:
    """Those of some local times, (time,), that the zone's clock never shows.

    >>> times = np.array(["2016-03-13T01:30", "2016-03-13T02:30"], "datetime64[ns]")
    >>> nonexistent_times(times, "America/New_York").astype("datetime64[m]")
    array(['2016-03-13T02:30'], dtype='datetime64[m]')
    """
    once = np.zeros(len(times), bool)
    moved = pd.DatetimeIndex(times).tz_localize(time_zone, ambiguous=once, nonexistent="NaT")
    return times[np.asarray(moved.isna()) & ~np.isnat(times)]


def check_local_times(times: Times, time_zone: str | None, *, name: str) -> None:
    """Refuse local times that come twice because the clock went back: which of the two came first cannot be told.

    Args:
        times: local times, (time,).
        time_zone: IANA name of the zone; nothing is refused without one.
        name: what the message calls the axis, with its file.

    Raises:
        StforecastError: TIME_DST, naming the first three and the zone; ARGUMENT for a zone that is none.
    """
    if time_zone is None:
        return
    check_time_zone(time_zone)
    values, counts = np.unique(times, return_counts=True)
    repeated = ambiguous_times(values[counts > 1], time_zone)
    if len(repeated):
        first = ", ".join(show_time(time) for time in repeated[:3])
        raise StforecastError(
            ErrorKind.TIME_DST,
            f"{name} has {len(repeated)} time(s) twice because the clock of {time_zone} went back ({first}"
            f"{', …' if len(repeated) > 3 else ''}); write the times in UTC, or keep one frame of each",
        )
