"""The time axis of a series: its step, its gaps, and what makes it unusable."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stforecast.errors import ErrorKind, StforecastError

Times = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class Gap:
    """Frames that a time axis leaves out.

    Attributes:
        after: the last frame before the gap.
        before: the first frame behind it.
        missing: how many steps are absent between the two.
    """

    after: np.datetime64
    before: np.datetime64
    missing: int

    def __str__(self) -> str:
        return f"{self.missing} missing between {show_time(self.after)} and {show_time(self.before)}"


def show_time(time: np.datetime64) -> str:
    """A timestamp as one reads it: to the minute, or to the second where that says more.

    >>> show_time(np.datetime64("2016-01-23T06:30:00.000000000"))
    '2016-01-23T06:30'
    """
    text = str(time.astype("datetime64[s]"))
    return text.removesuffix(":00") if text != "NaT" else text


def show_step(step: np.timedelta64) -> str:
    """A step as one says it.

    >>> show_step(np.timedelta64(30, "m")), show_step(np.timedelta64(6, "h")), show_step(np.timedelta64(48, "h"))
    ('30 min', '6 h', '2 d')
    """
    seconds = int(step / np.timedelta64(1, "s"))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def parse_times(times: npt.ArrayLike, *, name: str) -> Times:
    """Times in whatever form one writes them, as strictly increasing datetime64[ns], (time,).

    Raises:
        StforecastError: ARGUMENT if they are no times or none at all; what `check_times` refuses.

    >>> parse_times("2016-01-23T06", name="init_times")
    array(['2016-01-23T06:00:00.000000000'], dtype='datetime64[ns]')
    """
    try:
        index = pd.DatetimeIndex(pd.to_datetime(np.atleast_1d(np.asarray(times))))
    except (ValueError, TypeError) as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"{name} {times!r} are not times: {error}") from error
    if index.tz is not None:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{name} {times!r} carry a time zone; give them on the series' own clock, without one"
        )
    parsed: Times = index.to_numpy("datetime64[ns]")
    if not len(parsed):
        raise StforecastError(ErrorKind.ARGUMENT, f"{name} is empty; give at least one")
    check_times(parsed, name=name)
    return parsed


def parse_step(step: timedelta | np.timedelta64 | str, *, name: str) -> np.timedelta64:
    """A length of time above zero, e.g. from "6h" or "7D", in nanoseconds.

    Raises:
        StforecastError: ARGUMENT, saying what `name` was given, if it is none.
    """
    try:
        length = pd.Timedelta(step)
    except (ValueError, TypeError) as error:
        raise StforecastError(ErrorKind.ARGUMENT, f"{name} {step!r} is no length of time such as '6h'") from error
    if not length > pd.Timedelta(0):
        raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be above 0, not {step!r}")
    nanoseconds: np.timedelta64 = length.to_timedelta64().astype("timedelta64[ns]")
    return nanoseconds


def no_times(values: npt.NDArray[Any], *, name: str, units: object = None) -> StforecastError:
    """The fault of a time axis that holds something else than datetime64: what it is, and what to do."""
    first: Any = values[0] if len(values) else None
    if hasattr(first, "calendar"):
        told = (
            f"{name} is in the calendar '{first.calendar}', wanted a Gregorian one ('standard'): its days are other "
            "days; convert it first, e.g. dataset.convert_calendar('standard', align_on='date')"
        )
    elif getattr(first, "tzinfo", None) is not None:
        told = (
            f"{name} has the time zone {first.tzinfo}, wanted times without one; take it off, in UTC by "
            f"dataset.assign_coords({name}=dataset.indexes['{name}'].tz_convert('UTC').tz_localize(None))"
        )
    elif first is None or (units is None and values.dtype.kind == "O"):
        told = f"{name} has no times; give it datetime64 values, e.g. dataset.assign_coords({name}=…)"
    else:
        stated = f", and its units are {units!r}" if units is not None else ""
        told = (
            f"{name} holds {values.dtype} values (the first is {first}{stated}), not times; decode it with its units, "
            "e.g. 'hours since 1900-01-01'"
        )
    return StforecastError(ErrorKind.TIME_UNITS, told)


def check_times(times: Times, *, name: str = "time") -> None:
    """Refuse a time axis that is not strictly increasing, or that has missing values.

    Args:
        times: datetime64 values, (time,).
        name: what the messages call the axis, with its file where that is known.

    Raises:
        StforecastError: TIME_NAT, TIME_DUPLICATE or TIME_ORDER, naming the first offending timestamp.
    """
    if np.isnat(times).any():
        row = int(np.isnat(times).argmax())
        raise StforecastError(ErrorKind.TIME_NAT, f"{name} has no value (NaT) at row {row}; drop or mend that frame")
    steps = np.diff(times)
    if (steps == np.timedelta64(0)).any() or len(np.unique(times)) < len(times):
        values, counts = np.unique(times, return_counts=True)
        repeated = values[counts > 1]
        first = ", ".join(show_time(value) for value in repeated[:3])
        raise StforecastError(
            ErrorKind.TIME_DUPLICATE,
            f"{name} has {len(repeated)} duplicate timestamp{'s' if len(repeated) > 1 else ''} ({first}"
            f"{', …' if len(repeated) > 3 else ''}); keep one frame each, e.g. dataset.drop_duplicates('time')",
        )
    if (steps < np.timedelta64(0)).any():
        row = int((steps < np.timedelta64(0)).argmax()) + 1
        raise StforecastError(
            ErrorKind.TIME_ORDER,
            f"{name} is not increasing: {show_time(times[row])} follows {show_time(times[row - 1])} at row {row}; "
            "sort it, e.g. dataset.sortby('time')",
        )


def time_step(times: Times, *, name: str = "time") -> np.timedelta64:
    """The step of a time axis: the one that most neighbouring frames are apart.

    Args:
        times: strictly increasing datetime64 values, (time,), at least two.
        name: what the messages call the axis.

    Raises:
        StforecastError: what `check_times` refuses; TIME_SHORT with fewer than two frames; TIME_FREQ if some frames are
            closer than the step or not a whole number of steps apart.
    """
    check_times(times, name=name)
    if len(times) < 2:
        raise StforecastError(ErrorKind.TIME_SHORT, f"{name} has {len(times)} frame(s); a step needs at least two")
    apart = np.diff(times)
    values, counts = np.unique(apart, return_counts=True)
    step: np.timedelta64 = values[counts.argmax()]
    return check_step(times, step, name=name)


def check_step(times: Times, step: np.timedelta64, *, name: str = "time") -> np.timedelta64:
    """The step, if every frame is a whole number of it after the one before.

    Args:
        times: datetime64 values, (time,).
        step: the step that they should be multiples of.
        name: what the messages call the axis.

    Raises:
        StforecastError: what `check_times` refuses; TIME_FREQ, naming the first frame that is off the step.
    """
    check_times(times, name=name)
    apart = np.diff(times)
    odd = apart % step != np.timedelta64(0)
    if odd.any():
        row = int(odd.argmax())
        raise StforecastError(
            ErrorKind.TIME_FREQ,
            f"{name} steps by {show_step(step)} but {show_time(times[row + 1])} comes {show_step(apart[row])} after "
            f"{show_time(times[row])}; resample it to one step",
        )
    return step


def find_gaps(times: Times, step: np.timedelta64) -> list[Gap]:
    """The places where an axis leaves frames out, in order; an empty list where it is whole.

    Args:
        times: a time axis on multiples of `step`, (time,).
        step: the step from `time_step`.
    """
    apart = np.diff(times) // step
    return [Gap(times[row], times[row + 1], int(apart[row]) - 1) for row in np.flatnonzero(apart > 1)]


def check_gaps(
    times: Times,
    step: np.timedelta64,
    *,
    name: str = "time",
    remedy: str = "fill them, or declare them with allow_gaps=True (--allow-gaps)",
) -> None:
    """Refuse an axis with gaps; `remedy` is what the message advises.

    Raises:
        StforecastError: TIME_GAP, naming the first three gaps and how many there are.
    """
    gaps = find_gaps(times, step)
    if gaps:
        first = "; ".join(str(gap) for gap in gaps[:3])
        raise StforecastError(
            ErrorKind.TIME_GAP,
            f"{name} has {len(gaps)} gap{'s' if len(gaps) > 1 else ''} at a step of {show_step(step)}: {first}"
            f"{'; …' if len(gaps) > 3 else ''}; {remedy}",
        )
