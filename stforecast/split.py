"""Which part of the time axis a model may learn from, is chosen by and is judged on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import Times, no_times, show_time

Period = tuple[str, str]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Three disjoint periods; both ends belong to a period, and "2016" means all of 2016.

    Attributes:
        train: what weights and statistics are fitted on.
        validation: what chooses among weights.
        test: what scores are reported on; nothing is fitted or chosen there.

    Examples:
        >>> Split(train=("1979", "2015"), validation=("2016", "2016"), test=("2017", "2018")).test
        ('2017', '2018')
    """

    train: Period
    validation: Period
    test: Period

    def __post_init__(self) -> None:
        bounds = {part: self._bounds(part) for part in PARTS}
        for one, other in combinations(PARTS, 2):
            (start, end), (other_start, other_end) = bounds[one], bounds[other]
            if start <= other_end and other_start <= end:
                raise StforecastError(
                    ErrorKind.LEAK,
                    f"the {one} period {_show(getattr(self, one))} and the {other} period "
                    f"{_show(getattr(self, other))} overlap; scores would be of frames that the model has seen",
                )

    @classmethod
    def by_fraction(cls, times: Times, *, train: float = 0.7, validation: float = 0.1) -> "Split":
        """The first frames for training, the next for validation, the rest for the test.

        Args:
            times: the time axis, (time,), increasing.
            train: the fraction of frames to train on.
            validation: the fraction of frames to validate on.

        Raises:
            StforecastError: ARGUMENT if a fraction leaves one of the three without a frame; TIME_UNITS for what is no
                time.

        Examples:
            >>> Split.by_fraction(np.arange("2020-01-01", "2020-01-11", dtype="datetime64[D]")).test
            ('2020-01-09T00:00', '2020-01-10T00:00')
        """
        times = np.asarray(times)
        if not np.issubdtype(times.dtype, np.datetime64):
            raise no_times(times, name="time")
        first, second = round(len(times) * train), round(len(times) * (train + validation))
        if not 0 < first < second < len(times):
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"fractions {train:g} to train and {validation:g} to validate leave a part of {len(times)} frames "
                "empty; choose fractions above 0 whose sum is below 1",
            )
        parts = (times[:first], times[first:second], times[second:])
        return cls(*((show_time(part[0]), show_time(part[-1])) for part in parts))

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> "Split":
        """The split that an opened store carries in its attribute `split`.

        Raises:
            StforecastError: ARGUMENT if there is none.
        """
        if "split" not in attrs:
            raise StforecastError(
                ErrorKind.ARGUMENT, "the series carries no split; open it from a store that prepare() made"
            )
        periods = json.loads(attrs["split"])
        return cls(*((str(periods[part][0]), str(periods[part][1])) for part in PARTS))

    def to_json(self) -> str:
        """The three periods as JSON, as `from_attrs` reads them."""
        return json.dumps({part: list(getattr(self, part)) for part in PARTS})

    def rows(self, times: Times) -> dict[str, slice]:
        """The rows of a time axis, (time,), that each part covers, by part.

        Raises:
            StforecastError: TIME_RANGE, naming the part and both periods, if a part has no frame in the axis.
        """
        return {part: self.part_rows(times, part) for part in PARTS}

    def part_rows(self, times: Times, part: str) -> slice:
        """The rows of an increasing time axis, (time,), that one part covers.

        Raises:
            StforecastError: ARGUMENT for an unknown part; TIME_RANGE, naming both periods, if it has no frame in the
                axis.
        """
        if part not in PARTS:
            raise StforecastError(ErrorKind.ARGUMENT, f"unknown part {part!r} of a split; there are {', '.join(PARTS)}")
        start, end = self._bounds(part)
        first = int(np.searchsorted(times, start.to_datetime64(), side="left"))
        behind = int(np.searchsorted(times, end.to_datetime64(), side="right"))
        if first >= behind:
            raise StforecastError(
                ErrorKind.TIME_RANGE,
                f"the {part} period {_show(getattr(self, part))} holds no frame; the data run from "
                f"{show_time(times[0])} to {show_time(times[-1])}",
            )
        return slice(first, behind)

    def select(self, series: xr.Dataset, part: str) -> xr.Dataset:
        """The frames of one part ("train", "validation" or "test") of a series, (time, …), lazily.

        Raises:
            StforecastError: what `part_rows` raises.
        """
        return series.isel(time=self.part_rows(series["time"].to_numpy(), part))

    def _bounds(self, part: str) -> tuple[pd.Timestamp, pd.Timestamp]:
        period = getattr(self, part)
        try:
            start, end = pd.Period(period[0]).start_time, pd.Period(period[1]).end_time
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            # An empty end is NaT, which has no times.
            raise StforecastError(
                ErrorKind.ARGUMENT, f"the {part} period {period!r} is not two dates such as ('2016', '2016-06-30')"
            ) from error
        if start > end:
            raise StforecastError(ErrorKind.TIME_ORDER, f"the {part} period {_show(period)} ends before it starts")
        return start, end


def frames_in(rows: slice) -> int:
    """How many frames a part of `Split.rows` holds.

    >>> frames_in(slice(3, 10))
    7
    """
    return int(rows.stop - rows.start)


def _show(period: Period) -> str:
    return f"{period[0]}..{period[1]}"


def parse_period(text: str) -> Period:
    """The two ends of a period as one writes it on a command line.

    >>> parse_period("1979..2015"), parse_period("2016")
    (('1979', '2015'), ('2016', '2016'))
    """
    start, dots, end = text.partition("..")
    return start, end if dots else start
