"""Traffic of a made-up city: commuters between homes and jobs, weekends, weather, and chance."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CELLS = (32, 32)
_SLOTS_PER_DAY = 48
_ABSENT = 0.07  # of the slots, as in TaxiBJ's BJ16
_BUSIEST = 330.0  # vehicles by half hour in a usual peak; TaxiBJ's largest count is 1292
_WAVE_OF_LUCK = 5.0  # hours for which a cell stays busier or quieter than usual


def counts(times: npt.NDArray[np.datetime64], city: np.random.Generator, happenings: np.random.Generator) -> Floats:
    """Vehicles in and out of each cell, (time, 2, row, column): whole numbers.

    Args:
        times: half hours of whole days on the city's clock, (time,).
        city: random numbers for what stays: how busy each cell is.
        happenings: random numbers for what changes from day to day and from hour to hour.
    """
    usual = _usual(times, city)
    mood = _mood(len(times) // _SLOTS_PER_DAY, happenings)[:, None, None]
    luck = np.exp(0.2 * _luck(len(times), happenings) - 0.02)
    return happenings.poisson(usual * (mood * luck)[:, None]).astype(np.float64)


def present(slots: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """The slots that a period has: some runs of hours are absent, the first and the last slot never."""
    is_present = np.ones(slots, bool)
    while slots > _SLOTS_PER_DAY and (~is_present).mean() < _ABSENT:
        start, length = random.integers(1, slots - 1), random.integers(2, 40)
        is_present[start : min(start + length, slots - 1)] = False
    return np.flatnonzero(is_present)


def _usual(times: npt.NDArray[np.datetime64], random: np.random.Generator) -> Floats:
    """What is expected of each cell at a time of the week, (time, 2, row, column)."""
    homes, jobs = _zones()
    streets = np.exp(0.35 * random.standard_normal(CELLS))
    hour = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "h")
    # 1970-01-01 was a Thursday.
    is_weekend = (times.astype("datetime64[D]").astype(np.int64) + 3) % 7 >= 5
    to_work = np.where(is_weekend, 0.1, 1.0) * _peak(hour, 8.0, 1.2)
    to_home = np.where(is_weekend, 0.15, 1.0) * _peak(hour, 18.2, 1.6)
    leisure = np.where(is_weekend, 0.6, 0.35) * (_peak(hour, 14.0, 3.5) + 0.4 * _peak(hour, 21.0, 1.8)) + 0.03
    # Who arrives half an hour later has left now.
    leaving, going_home = np.roll(to_work, -1), np.roll(to_home, -1)
    both = 0.6 * jobs + 0.4 * homes
    inflow = _spread(to_work, jobs) + _spread(to_home, homes) + _spread(leisure, both)
    outflow = _spread(leaving, homes) + _spread(going_home, jobs) + _spread(leisure, both)
    return _BUSIEST * np.stack([inflow, outflow], axis=1) * streets


def _zones() -> tuple[Floats, Floats]:
    """Where people live, in a ring, and where they work, in the centre and in one suburb, (row, column)."""
    row, column = np.indices(CELLS, dtype=np.float64)
    from_centre, from_suburb = np.hypot(row - 15.5, column - 15.5), np.hypot(row - 8, column - 23)
    homes = np.exp(-(((from_centre - 9) / 5) ** 2)) + 0.3 * np.exp(-((from_centre / 12) ** 2))
    jobs = np.exp(-((from_centre / 5) ** 2)) + 0.6 * np.exp(-((from_suburb / 3) ** 2))
    return homes, jobs


def _spread(profile: Floats, zone: Floats) -> Floats:
    return profile[:, None, None] * zone


def _peak(hour: Floats, centre: float, width: float) -> Floats:
    """A bump of the day's hours around one of them; midnight is no border."""
    apart = (hour - centre + 12) % 24 - 12
    peak: Floats = np.exp(-((apart / width) ** 2))
    return peak


def _mood(days: int, random: np.random.Generator) -> Floats:
    """How busy the whole city is against its usual, (time,): a little more or less each day, and one day of storm."""
    level = np.zeros(days + 1)
    for day in range(1, days + 1):
        level[day] = 0.6 * level[day - 1] + 0.08 * random.standard_normal()
    slot = np.arange(days * _SLOTS_PER_DAY)
    mood = np.exp(np.interp(slot / _SLOTS_PER_DAY, np.arange(days + 1), level))
    storm = (random.integers(days) + 0.6) * _SLOTS_PER_DAY
    calm: Floats = 1 - 0.65 * np.exp(-(((slot - storm) / 18) ** 4))
    return mood * calm


def _luck(slots: int, random: np.random.Generator) -> Floats:
    """How lively each cell is, (time, row, column), of variance one: neighbours alike, and for some hours."""
    persistence = np.exp(-0.5 / _WAVE_OF_LUCK)
    shocks = random.standard_normal((slots, *CELLS))
    for axis in (1, 2):
        shocks = (np.roll(shocks, 1, axis) + shocks + np.roll(shocks, -1, axis)) / np.sqrt(3)
    luck = np.empty_like(shocks)
    luck[0] = shocks[0]
    for slot in range(1, slots):
        luck[slot] = persistence * luck[slot - 1] + np.sqrt(1 - persistence**2) * shocks[slot]
    return luck
