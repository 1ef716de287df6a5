"""What of raw data is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import Times, show_time


@dataclass(frozen=True)
class Selection:
    """What a reader of gridded data takes; what is left out is taken whole.

    Attributes:
        variables: names of variables.
        levels: values of the level axis, in its units and in this order.
        static: names of fields without a time.
        period: first and last time, "2016" being all of 2016.
        allow_preliminary: whether ERA5's preliminary frames (expver 5) may stand beside its final ones (expver 1).
    """

    variables: Sequence[str] | None = None
    levels: Sequence[float] | None = None
    static: Sequence[str] = ()
    period: tuple[str, str] | None = None
    allow_preliminary: bool = False

    def rows(self, times: Times) -> slice:
        """The rows of increasing times that the period covers, (time,); an empty slice where it covers none."""
        if self.period is None:
            return slice(0, len(times))
        start, end = period_bounds(self.period)
        return slice(int(np.searchsorted(times, start)), int(np.searchsorted(times, end, side="right")))

    def nothing_left(self, first: np.datetime64, last: np.datetime64) -> StforecastError:
        """The error that no frame is in the period, of data that run from `first` to `last`."""
        assert self.period is not None
        return StforecastError(
            ErrorKind.EMPTY_SELECTION,
            f"no frame lies in the period {self.period[0]}..{self.period[1]}; the data run from {show_time(first)} to "
            f"{show_time(last)}",
        )


def period_bounds(period: tuple[str, str]) -> tuple[np.datetime64, np.datetime64]:
    """The first and the last moment of a period, datetime64[ns].

    >>> [show_time(time) for time in period_bounds(("2016", "2016-06"))]
    ['2016-01-01T00:00', '2016-06-30T23:59:59']

    Raises:
        StforecastError: ARGUMENT if it is not two dates; TIME_ORDER if it ends before it starts.
    """
    try:
        start, end = (pd.Period(each) for each in period)
    except (ValueError, TypeError) as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"the period {period!r} is not two dates such as ('2016', '2016-06-30')"
        ) from error
    first, last = start.start_time.to_datetime64(), end.end_time.to_datetime64()
    if first > last:
        raise StforecastError(ErrorKind.TIME_ORDER, f"the period {period[0]}..{period[1]} ends before it starts")
    return first.astype("datetime64[ns]"), last.astype("datetime64[ns]")
