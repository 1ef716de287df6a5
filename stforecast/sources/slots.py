"""TaxiBJ's slots: half hours of a day, written as YYYYMMDDSS."""

import numpy as np
import numpy.typing as npt

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import Times

SLOTS_PER_DAY = 48
_SLOT = np.timedelta64(30, "m")
_EPOCH_YEARS = (1678, 2261)  # what datetime64[ns] holds


def slot_times(slots: npt.NDArray[np.bytes_], *, name: str = "date") -> Times:
    """Starts of half hours written as YYYYMMDDSS, with SS from 01 to 48; datetime64[ns] on the same clock, (n,).

    SS is no hour: 48 of them make a day.

    >>> slot_times(np.array([b"2013070101", b"2013070148"])).astype("datetime64[m]").tolist()
    [datetime.datetime(2013, 7, 1, 0, 0), datetime.datetime(2013, 7, 1, 23, 30)]

    Args:
        slots: (n,).
        name: what the messages call them, with their file.

    Raises:
        StforecastError: TIME_SLOT, naming the first that is no such slot and its row.
    """
    digits = slots.astype("S10").view(np.uint8).reshape(-1, 10).astype(np.int64) - ord("0")
    is_malformed = (np.char.str_len(slots) != 10) | ((digits < 0) | (digits > 9)).any(axis=1)
    year, month, day, slot = (
        digits[:, part] @ 10 ** np.arange(part.stop - part.start)[::-1]
        for part in (slice(0, 4), slice(4, 6), slice(6, 8), slice(8, 10))
    )
    months = np.where(is_malformed, 0, (year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + np.where(is_malformed, 0, day - 1)
    is_date = (month >= 1) & (month <= 12) & (days.astype("datetime64[M]") == months)
    is_date &= (year >= _EPOCH_YEARS[0]) & (year <= _EPOCH_YEARS[1])
    is_slot = (slot >= 1) & (slot <= SLOTS_PER_DAY)
    for is_wrong, fault in (
        (is_malformed, "is not ten digits YYYYMMDDSS"),
        (~is_date, "is not a date"),
        (~is_slot, f"ends in a slot outside 01 to {SLOTS_PER_DAY} (half hours of the day, YYYYMMDDSS)"),
    ):
        if is_wrong.any():
            row = int(is_wrong.argmax())
            raise StforecastError(
                ErrorKind.TIME_SLOT,
                f"{name}: '{slots[row].decode(errors='replace')}' at row {row} {fault}; mend or drop it",
            )
    starts: Times = days.astype("datetime64[ns]")
    return starts + (slot - 1) * _SLOT


def slots_of(times: Times) -> npt.NDArray[np.bytes_]:
    """Half hours as YYYYMMDDSS, with SS from 01 to 48, (n,); the inverse of `slot_times`.

    >>> slots_of(np.array(["2013-07-01T23:30"], "datetime64[ns]"))
    array([b'2013070148'], dtype='|S10')
    """
    days = times.astype("datetime64[D]")
    dates = np.char.replace(days.astype(str), "-", "")
    slots = np.char.zfill(((times - days) // _SLOT + 1).astype(str), 2)
    return np.char.add(dates, slots).astype("S10")
