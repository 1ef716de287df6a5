from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stforecast.errors import StforecastError
from stforecast.local_time import nonexistent_times
from stforecast.operations.cycles import Cycle, init_of, name_of

SIX_HOURS = Cycle(timedelta(hours=6))


@pytest.mark.parametrize(
    ("now", "after", "due"),
    [
        ("2018-06-01T11:59", "0", "2018-06-01T06"),
        ("2018-06-01T12:00", "0", "2018-06-01T12"),
        ("2018-06-01T12:29", "30", "2018-06-01T06"),
        ("2018-06-01T12:30", "30", "2018-06-01T12"),
        ("2018-06-01T00:10", "30", "2018-05-31T18"),
    ],
)
def test_the_newest_init_time_is_the_one_whose_frames_should_be_there(now: str, after: str, due: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert SIX_HOURS.due(moment, timedelta(minutes=int(after))) == np.datetime64(due)


def test_a_day_on_a_city_s_clock_has_as_many_names_as_the_clock_shows_times() -> None:
    """In autumn an hour comes twice and has one name, in spring an hour never comes."""
    cycle = Cycle(timedelta(minutes=30), "America/New_York")
    for day, named in (("2016-11-06", 48), ("2016-03-13", 46), ("2016-07-01", 48)):
        start = datetime.fromisoformat(day).replace(tzinfo=UTC)
        moments = [start + timedelta(minutes=10 * count) for count in range(6 * 36)]
        inits = {cycle.due(moment) for moment in moments}
        assert len({init for init in inits if init.astype("datetime64[D]") == np.datetime64(day)}) == named


# Where clocks are set by half an hour, at midnight, or not at all, and one that left a whole day out (Samoa, 2011).
ZONES = ["America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "UTC"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("minutes", "late"), [(30, 50), (1440, 7)])
def test_n05_the_next_moments_are_all_those_at_which_another_init_time_is_due(
    zone: str, minutes: int, late: int
) -> None:
    """A year of every change of the clock, against a look at every five minutes."""
    cycle, after = Cycle(timedelta(minutes=minutes), None if zone == "UTC" else zone), timedelta(minutes=late)
    looks = pd.date_range("2011-10-01", "2012-10-01", freq="5min", tz="UTC") + after
    shown = (looks - after).tz_convert(zone).tz_localize(None)
    since = ((shown - pd.Timestamp("1970-01-01")) // pd.Timedelta(cycle.every)).to_numpy()
    inits = (np.datetime64("1970-01-01") + since * np.timedelta64(cycle.every)).astype("datetime64[ns]")
    # What the clock never shows is no init time, the one before it stays.
    since = since - np.isin(inits, nonexistent_times(np.unique(inits), zone))
    expected = looks[1:][np.diff(since) != 0]
    # The days on which the clock is set, and those around them.
    shift = np.diff((shown - (looks - after).tz_localize(None)).to_numpy())
    days = {day + pd.Timedelta(days=n) for day in looks[1:][shift != 0].floor("D") for n in (-1, 0, 1)}
    days = days or {pd.Timestamp("2012-02-29", tz="UTC")}
    for before, moment in pairwise(expected):
        if moment.floor("D") in days:
            assert cycle.next_due(before.to_pydatetime(), after) == moment
            assert cycle.next_due(moment.to_pydatetime() - timedelta(seconds=1), after) == moment
            assert cycle.due(moment, after) != cycle.due(moment - timedelta(seconds=1), after)


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)), st.sampled_from([1, 30, 60, 180, 360, 720, 1440, 2880])
)
def test_between_two_moments_lie_all_multiples_and_nothing_else(moment: datetime, minutes: int) -> None:
    cycle = Cycle(timedelta(minutes=minutes))
    first = np.datetime64(moment, "ns")
    last = first + 5 * cycle.length
    found = cycle.between(first, last)
    assert (np.diff(found) == cycle.length).all()
    assert ((found >= first) & (found <= last)).all()
    assert len(found) == (6 if cycle.floor(first) == first else 5)
    assert all(cycle.floor(init) == init for init in found)


@pytest.mark.parametrize(
    ("day", "absent"), [("2016-03-13", ["02:00", "02:30"]), ("2016-11-06", []), ("2016-07-01", [])]
)
def test_n07_what_a_clock_left_out_was_not_missed(day: str, absent: list[str]) -> None:
    midnight = np.datetime64(day, "ns")
    whole = Cycle(timedelta(minutes=30)).between(midnight, midnight + np.timedelta64(23, "h"))
    shown = Cycle(timedelta(minutes=30), "America/New_York").between(midnight, midnight + np.timedelta64(23, "h"))
    assert [str(time)[11:16] for time in np.setdiff1d(whole, shown)] == absent
    assert len(whole) - len(shown) == len(absent)


@pytest.mark.parametrize("zone", [None, "America/New_York", "Asia/Kathmandu"])
def test_the_moment_of_an_init_time_is_the_first_at_which_the_clock_shows_it(zone: str | None) -> None:
    """Of a year around every change of the clock, against a look at every half hour."""
    cycle = Cycle(timedelta(minutes=30), zone)
    looks = pd.date_range("2016-01-01", "2017-01-01", freq="30min", tz="UTC")
    first: dict[np.datetime64, datetime] = {}
    for moment in looks.to_pydatetime():
        first.setdefault(cycle.on_clock(moment), moment)
    assert len(first) == len(looks) - (2 if zone == "America/New_York" else 0)
    floored = {init: moment for init, moment in first.items() if cycle.floor(init) == init}
    assert all(cycle.in_utc(init) == moment for init, moment in floored.items())


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)))
def test_a_name_tells_its_init_time(moment: datetime) -> None:
    init = np.datetime64(moment.replace(second=0, microsecond=0), "ns")
    assert init_of(name_of(init)) == init


@pytest.mark.parametrize("name", ["latest", ".versions", "20160101", "20160101T0000.1", "20160101T00"])
def test_other_names_tell_none(name: str) -> None:
    assert init_of(name) is None


def test_a_day_that_has_no_midnight_has_no_init_time() -> None:
    """The clock of Cairo goes from 2024-04-25T23:59 to 2024-04-26T01:00, at 22:00 UTC."""
    cycle = Cycle(timedelta(days=1), "Africa/Cairo")
    day = [cycle.due(datetime(2024, 4, 25, 22, tzinfo=UTC) + timedelta(hours=hours)) for hours in range(0, 24, 6)]
    assert set(day) == {np.datetime64("2024-04-25", "ns")}
    assert cycle.due(datetime(2024, 4, 26, 21, tzinfo=UTC)) == np.datetime64("2024-04-27")
    assert cycle.next_due(datetime(2024, 4, 25, 12, tzinfo=UTC)) == datetime(2024, 4, 26, 21, tzinfo=UTC)
    with pytest.raises(StforecastError, match="leaves out; next to it are 2024-04-25T00:00 and 2024-04-27T00:00"):
        cycle.parse("2024-04-26")
    half_hours = Cycle(timedelta(minutes=30), "America/New_York")
    with pytest.raises(StforecastError, match="leaves out; next to it are 2016-03-13T01:30 and 2016-03-13T03:00"):
        half_hours.parse("2016-03-13T02:00")


def test_what_is_no_init_time_is_refused_with_the_next_ones() -> None:
    assert SIX_HOURS.parse("2018-06-01T12") == np.datetime64("2018-06-01T12")
    with pytest.raises(StforecastError, match="next to it are 2018-06-01T12:00 and 2018-06-01T18:00"):
        SIX_HOURS.parse("2018-06-01T13")
    with pytest.raises(StforecastError, match="are not times"):
        SIX_HOURS.parse("soon")
