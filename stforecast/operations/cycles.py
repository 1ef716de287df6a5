"""Which forecasts are to be made when: init times on the clock of the series, told from now in one place."""

import math
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.local_time import nonexistent_times
from stforecast.operations.pipeline import Pipeline
from stforecast.store import open_store
from stforecast.time_axis import Times, parse_times, show_step, show_time

_FORMAT = "%Y%m%dT%H%M"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# By whole numbers of these zones' clocks differ from UTC, and are set forward and back.
_QUARTER_OF_AN_HOUR = 900


class Clock:
    """What time it is, and waiting; tests have another one."""

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC)

    def ticks(self) -> float:
        """Seconds since some moment, by a clock that nobody sets: lengths of time are told by it."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Cycle:
    """The init times of a pipeline: multiples of a length since midnight.

    Attributes:
        every: the length.
        time_zone: whose clock it is; UTC without one.
    """

    every: timedelta
    time_zone: str | None = None

    @property
    def length(self) -> np.timedelta64:
        """The length between two init times."""
        length: np.timedelta64 = np.timedelta64(self.every).astype("timedelta64[ns]")
        return length

    def on_clock(self, now: datetime) -> np.datetime64:
        """A moment in UTC as the clock of the series shows it."""
        shown = pd.Timestamp(now).tz_convert(self.time_zone or "UTC").tz_localize(None)
        moment: np.datetime64 = shown.to_datetime64().astype("datetime64[ns]")
        return moment

    def in_utc(self, init: np.datetime64) -> datetime:
        """The moment at which the clock of the series shows an init time, the first one where it does so twice.

        Where the clock leaves it out, the moment of leaving out.
        """
        shown = pd.Timestamp(init).tz_localize(self.time_zone or "UTC", ambiguous=True, nonexistent="shift_forward")
        moment: datetime = shown.tz_convert("UTC").to_pydatetime(warn=False)
        return moment

    def floor(self, moment: np.datetime64) -> np.datetime64:
        """The last init time up to a moment."""
        # Of days since 1970 whole ones are told apart as any other length is: midnight belongs to every cycle.
        since = moment.astype("datetime64[ns]").astype(np.int64)
        length = self.length.astype(np.int64)
        return np.datetime64(int(since - since % length), "ns")

    def due(self, now: datetime, arrives_after: timedelta = timedelta(0)) -> np.datetime64:
        """The newest init time whose last frame is expected to be there, and that the clock does show."""
        init = self.floor(self.on_clock(now - arrives_after))
        # Of a clock that is set forward at midnight a day has none.
        while self._is_left_out(init):
            init = init - self.length
        return init

    def _is_left_out(self, init: np.datetime64) -> bool:
        """Whether a clock that was set forward never shows an init time."""
        return self.time_zone is not None and len(nonexistent_times(np.array([init]), self.time_zone)) > 0

    def next_due(self, after: datetime, arrives_after: timedelta = timedelta(0)) -> datetime:
        """The first moment after another one, in UTC, at which `due` changes.

        A clock that is set forward passes init times without showing them; what it shows then is due at that moment.
        """
        length = int(self.every.total_seconds())
        step = length if self.time_zone is None else math.gcd(length, _QUARTER_OF_AN_HOUR)
        passed = (after - arrives_after - _EPOCH) // timedelta(seconds=step)
        moment = _EPOCH + arrives_after + passed * timedelta(seconds=step)
        before = now = self.due(moment, arrives_after)
        while now == before:
            before, moment = now, moment + timedelta(seconds=step)
            now = self.due(moment, arrives_after)
        return moment

    def between(self, first: np.datetime64, last: np.datetime64) -> Times:
        """All init times from one moment to another, both included, except those that a clock set forward left out."""
        start = self.floor(first)
        start = start if start == first else start + self.length
        times: Times = np.arange(start, last + np.timedelta64(1, "ns"), self.length)
        if self.time_zone is None:
            return times
        shown: Times = times[~np.isin(times, nonexistent_times(times, self.time_zone))]
        return shown

    def parse(self, text: str, *, name: str = "--init") -> np.datetime64:
        """An init time as one writes it.

        Raises:
            StforecastError: ARGUMENT if it is no time, or, naming the nearest, for one that is not of the cycle or that
                the clock leaves out.
        """
        (moment,) = parse_times(text, name=name)
        before = self.floor(moment)
        if before != moment:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"{name} {show_time(moment)} is no init time of a cycle of {show_step(self.length)}; next to it are "
                f"{show_time(before)} and {show_time(before + self.length)}",
            )
        if self._is_left_out(moment):
            before, after = moment - self.length, moment + self.length
            while self._is_left_out(before):
                before = before - self.length
            while self._is_left_out(after):
                after = after + self.length
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"{name} {show_time(moment)} is a time that the clock of {self.time_zone} leaves out; next to it are "
                f"{show_time(before)} and {show_time(after)}",
            )
        init: np.datetime64 = moment
        return init


def cycle_of(pipeline: Pipeline) -> Cycle:
    """The init times of a pipeline, on the clock of its store.

    Raises:
        StforecastError: STORE_INCOMPLETE if there is no store; ARGUMENT for a cycle between two steps of it; otherwise
            what `open_store` raises.
    """
    stored = store_of(pipeline)
    cycle = Cycle(pipeline.cycle, stored["time"].attrs.get("time_zone"))
    step = np.timedelta64(stored.attrs["step_seconds"], "s")
    if cycle.length % step:
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"cycle {show_step(cycle.length)} of {pipeline.name} is no multiple of the step of {pipeline.store}, "
            f"{show_step(step)}, so that some init times would never have a frame; take a multiple",
        )
    return cycle


def store_of(pipeline: Pipeline) -> xr.Dataset:
    """The store of a pipeline, lazily.

    Raises:
        StforecastError: STORE_INCOMPLETE if there is none; otherwise what `open_store` raises.
    """
    try:
        return open_store(pipeline.store)
    except StforecastError as error:
        if error.kind != ErrorKind.FILE_MISSING:
            raise
        raise StforecastError(ErrorKind.STORE_INCOMPLETE, str(error)) from error


def name_of(init: np.datetime64) -> str:
    """What files of an init time are called.

    >>> name_of(np.datetime64("2016-01-23T06:30"))
    '20160123T0630'
    """
    return str(pd.Timestamp(init).strftime(_FORMAT))


def init_of(name: str) -> np.datetime64 | None:
    """The init time that a file is called by; None if it is not.

    >>> init_of("20160123T0630")
    np.datetime64('2016-01-23T06:30:00.000000000')
    """
    if not re.fullmatch(r"\d{8}T\d{4}", name):
        return None
    return np.datetime64(datetime.strptime(name, _FORMAT), "ns")
