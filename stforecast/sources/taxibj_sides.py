"""What lies beside TaxiBJ's flows: a list of holidays and the city's weather, by half hour.

Temperatures are in °C and wind speeds in miles an hour (table 1 of the paper that `taxibj` names); the types of weather
are those of the data's own README. The weather is what was observed in that half hour, so a forecast knows it no sooner
than the flows.
"""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources.raw_files import check_file, check_sum, hdf5_file, naming
from stforecast.sources.slots import slot_times
from stforecast.time_axis import Times, show_time

WEATHER_TYPES = (
    *("sunny", "cloudy", "overcast", "rainy", "sprinkle", "moderate_rain", "heavy_rain", "rainstorm", "thunderstorm"),
    *("freezing_rain", "snowy", "light_snow", "moderate_snow", "heavy_snow", "foggy", "sandstorm", "dusty"),
)
METEOROLOGY = "Meteorology"
_ABSENT_WEATHER = -1
_LARGEST_LIST = 2**20  # bytes; four years' holidays fit into 2**10


def side_files(period: Path) -> list[Path]:
    """The side files beside a period's file, BJ_Holiday.txt and BJ_Meteorology.h5 for BJ13_M32x32_T30_InOut.h5."""
    city = re.match(r"[A-Za-z]*", period.name)
    assert city is not None
    beside = (period.with_name(f"{city[0]}_{name}") for name in ("Holiday.txt", f"{METEOROLOGY}.h5"))
    return [path for path in beside if path.is_file()]


def side_coordinates(period: Path, times: Times) -> dict[str, xr.Variable]:
    """What the files beside a period's file say of local half hours, as coordinates along (time,).

    `holiday` is 1 on listed days; `air_temperature`, `wind_speed` (NaN where absent) and `weather` (a type, -1 where
    absent) are those of the same half hour.

    Raises:
        StforecastError: FILE_FORMAT, VAR_MISSING, SHAPE, TIME_SLOT, TIME_DUPLICATE or RANGE, naming file and place.
    """
    coordinates: dict[str, xr.Variable] = {}
    for path in side_files(period):
        with naming(path):
            coordinates |= _holidays(path, times) if path.suffix == ".txt" else _meteorology(path, times)
    return coordinates


def _holidays(path: Path, times: Times) -> dict[str, xr.Variable]:
    is_holiday = np.isin(times.astype("datetime64[D]"), holiday_dates(path))
    attrs = {
        "long_name": "holiday, or a day off beside one",
        "flag_values": [0, 1],
        "flag_meanings": "no_holiday holiday",
        "comment": f"days that {path.name} lists",
    }
    return {"holiday": xr.Variable("time", is_holiday.astype(np.int8), attrs)}


def holiday_dates(path: Path) -> npt.NDArray[np.datetime64]:
    """The days of a list with one YYYYMMDD a line, datetime64[D], (day,).

    Raises:
        StforecastError: FILE_FORMAT, naming the line.
    """
    check_sum(path)
    content = path.read_bytes() if path.stat().st_size <= _LARGEST_LIST else b"a larger file than lists are"
    dates = []
    for number, line in enumerate(content.decode("ascii", errors="replace").splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        try:
            if not re.fullmatch(r"\d{8}", text):
                raise ValueError(text)  # noqa: TRY301  one answer to digits that are none and to dates that are none
            dates.append(np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}", "D"))
        except ValueError as error:
            raise StforecastError(
                ErrorKind.FILE_FORMAT, f"line {number} is {text[:20]!r}, wanted a date YYYYMMDD; mend or remove it"
            ) from error
    return np.array(dates, "datetime64[D]")


def _meteorology(path: Path, times: Times) -> dict[str, xr.Variable]:
    check_file(path)
    with hdf5_file(path) as file:
        wanted = ("date", "Temperature", "WindSpeed", "Weather")
        missing = [name for name in wanted if not isinstance(file.get(name), h5py.Dataset)]
        if missing:
            raise StforecastError(
                ErrorKind.VAR_MISSING, f"there is no dataset {' and no '.join(missing)}, only {', '.join(file)}"
            )
        slots, temperature, wind, weather = (file[name][()] for name in wanted)
    _check_lengths(slots, Temperature=temperature, WindSpeed=wind, Weather=weather)
    observed = slot_times(np.asarray(slots, dtype="S"), name="date")
    types = _types(weather)
    rows = _rows(times, observed, np.column_stack([temperature, wind, types]).astype(np.float64))
    comment = f"of {path.name}, same half hour"
    return {
        "air_temperature": _values(
            temperature,
            rows,
            standard_name="air_temperature",
            units="degC",
            comment=f"{comment}, NaN where it has none",
        ),
        "wind_speed": _values(
            wind, rows, standard_name="wind_speed", units="mile hour-1", comment=f"{comment}, NaN where it has none"
        ),
        "weather": xr.Variable(
            "time",
            np.where(rows < 0, _ABSENT_WEATHER, types[rows]).astype(np.int8),
            {
                "long_name": "type of weather",
                "flag_values": [_ABSENT_WEATHER, *range(len(WEATHER_TYPES))],
                "flag_meanings": " ".join(["absent", *WEATHER_TYPES]),
                "comment": f"{comment}, -1 where it has none",
            },
        ),
    }


def _check_lengths(slots: npt.NDArray[Any], **values: npt.NDArray[Any]) -> None:
    for name, array in values.items():
        wanted = (len(slots), len(WEATHER_TYPES)) if name == "Weather" else (len(slots),)
        if array.shape != wanted or array.dtype.kind not in "iufb":
            raise StforecastError(
                ErrorKind.SHAPE, f"{name} is {array.dtype} {array.shape}, wanted numbers {wanted} as date has it"
            )


def _types(one_hot: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The type of weather of each row, -1 where none is marked."""
    marked = (one_hot != 0).sum(axis=1)
    if (marked > 1).any():
        row = int((marked > 1).argmax())
        raise StforecastError(
            ErrorKind.RANGE, f"Weather has {marked[row]} types at row {row}, wanted one of {len(WEATHER_TYPES)}"
        )
    return np.where(marked == 0, _ABSENT_WEATHER, (one_hot != 0).argmax(axis=1))


def _rows(times: Times, observed: Times, values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Where each time stands among those observed, -1 where it does not; a time observed twice must say the same."""
    order = np.argsort(observed, kind="stable")
    twice = observed[order][1:] == observed[order][:-1]
    differs = twice & (np.nan_to_num(values[order][1:]) != np.nan_to_num(values[order][:-1])).any(axis=1)
    if differs.any():
        first = show_time(observed[order][1:][differs][0])
        raise StforecastError(ErrorKind.TIME_DUPLICATE, f"{first} is there twice with other values; remove one")
    if not len(observed):
        return np.full(len(times), -1)
    found = np.searchsorted(observed[order], times).clip(max=len(observed) - 1)
    return np.where(observed[order][found] == times, order[found], -1)


def _values(values: npt.NDArray[Any], rows: npt.NDArray[np.intp], **attrs: str) -> xr.Variable:
    return xr.Variable("time", np.where(rows < 0, np.nan, values[rows]).astype(np.float32), attrs)
