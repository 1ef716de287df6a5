"""What a time says by itself: phases of the year, the week and the day, slots of the week, and where the sun is."""

import numpy as np
import numpy.typing as npt

from stforecast.time_axis import Times

Floats = npt.NDArray[np.float64]
Slots = npt.NDArray[np.intp]

DAY = np.timedelta64(1, "D")
# 1970-01-01 was a Thursday, and weekday 0 is Monday.
_WEEKDAY_OF_1970 = 3


def fraction_of_year(times: Times) -> Floats:
    """How much of the calendar year has gone, so that a date has nearly the same phase in every year, leap or not.

    >>> fraction_of_year(np.array(["2015-07-02T12", "2016-07-02"], "datetime64[ns]"))
    array([0.5, 0.5])
    """
    year = times.astype("datetime64[Y]")
    start = year.astype("datetime64[ns]")
    fraction: Floats = (times - start) / ((year + 1).astype("datetime64[ns]") - start)
    return fraction


def fraction_of_week(times: Times) -> Floats:
    """How much of the week has gone since Monday 00:00."""
    days: Floats = times.astype("datetime64[ns]").astype(np.int64) / DAY.astype("timedelta64[ns]").astype(np.int64)
    return (days + _WEEKDAY_OF_1970) % 7 / 7


def fraction_of_day(times: Times) -> Floats:
    """How much of the day has gone."""
    fraction: Floats = (times - times.astype("datetime64[D]")) / DAY
    return fraction


def waves(fraction: Floats, number: int) -> Floats:
    """Cosines and sines of the first harmonics of a phase, (time, 2 · number): all cosines, then all sines."""
    phase = 2 * np.pi * fraction[:, None] * np.arange(1, number + 1)
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def harmonics(times: Times, annual: int, diurnal: int) -> Floats:
    """One, annual waves, diurnal waves and the products of both, (time, (1 + 2 annual) · (1 + 2 diurnal))."""
    year, day = waves(fraction_of_year(times), annual), waves(fraction_of_day(times), diurnal)
    both = (year[:, :, None] * day[:, None, :]).reshape(len(times), 4 * annual * diurnal)
    return np.concatenate([np.ones((len(times), 1)), year, day, both], axis=1)


def slots_of_week(times: Times, slot_length: np.timedelta64) -> Slots:
    """Weekday · slots of a day + slot, (time,); weekday 0 is Monday.

    >>> slots_of_week(np.array(["2016-01-04T00:30", "2016-01-10T23:30"], "datetime64[ns]"), np.timedelta64(30, "m"))
    array([  1, 335])
    """
    days = times.astype("datetime64[D]")
    weekday = (days.astype(np.int64) + _WEEKDAY_OF_1970) % 7
    slots: Slots = (weekday * int(DAY / slot_length) + (times - days) // slot_length).astype(np.intp)
    return slots


def sun(times: Times) -> Floats:
    """Sine and cosine of the declination and of Greenwich's hour angle, (time, 4), of times in UTC.

    Declination and equation of time are Spencer's series (1971, Search 2(5), 172), off by at most 0.04 degrees and half
    a minute. With them the cosine of the zenith angle at latitude φ and longitude λ is sin φ sin δ + cos φ cos δ
    cos(h + λ).
    """
    day = 2 * np.pi * fraction_of_year(times)
    declination = (
        0.006918
        - 0.399912 * np.cos(day)
        + 0.070257 * np.sin(day)
        - 0.006758 * np.cos(2 * day)
        + 0.000907 * np.sin(2 * day)
        - 0.002697 * np.cos(3 * day)
        + 0.00148 * np.sin(3 * day)
    )
    ahead = 0.000075 + 0.001868 * np.cos(day) - 0.032077 * np.sin(day)
    ahead += -0.014615 * np.cos(2 * day) - 0.040849 * np.sin(2 * day)
    hour = 2 * np.pi * (fraction_of_day(times) - 0.5) + ahead
    return np.stack([np.sin(declination), np.cos(declination), np.sin(hour), np.cos(hour)], axis=1)
