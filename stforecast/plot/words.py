"""What stands on a picture: names, units, times and lead times as one reads them."""

import re
from typing import Any

import numpy as np
import xarray as xr

from stforecast.grid import Grid
from stforecast.time_axis import show_time


def name_of(field: xr.DataArray) -> str:
    """What a field is, in words: its long name, else its CF name, else its own, with its level."""
    name = str(field.attrs.get("long_name") or field.attrs.get("standard_name", field.name)).replace("_", " ")
    if "level" not in field.coords:
        return name
    level = field["level"]
    units = level.attrs.get("units")
    return f"{name} at {float(level):g} {units}" if units else f"{name} at level {float(level):g}"


def shown_units(field: xr.DataArray) -> str:
    """A field's units with their powers above the line."""
    return raised(given_units(field))


def given_units(field: xr.DataArray) -> str:
    """A field's units as its attributes have them."""
    return str(field.attrs.get("units", "1"))


def raised(units: str) -> str:
    """Units with their powers above the line."""
    return re.sub(r"(?<=[A-Za-z])(?:\*\*|\^)?(-?\d+)", lambda power: power[1].translate(_SUPERSCRIPT), units)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def metric_word(metric: str) -> str:
    """What a metric is called in a title: RMSE, MAPE of 10 or more."""
    name, *numbers = metric.split(":")
    word = name if name == "bias" else name.upper()
    return f"{word} {_SAID_OF_METRIC[name].format(*numbers)}" if numbers and name in _SAID_OF_METRIC else word


_SAID_OF_METRIC = {
    "mape": "of {} or more",
    "psnr": "with a range of {}",
    "ssim": "with a range of {}",
    "fss": "above {0} in {1}x{1} cells",
}


def plain(name: str) -> str:
    """A name in words."""
    return name.replace("_", " ")


def label_of(field: xr.DataArray) -> str:
    """What stands beside a colour bar: name and units."""
    return f"{name_of(field)} [{shown_units(field)}]"


def title_of(heading: str, frame: xr.DataArray, grid: Grid, longest: np.timedelta64 | None = None) -> str:
    """What stands above a panel: heading and units, the valid time with its zone, the init and lead time.

    Lead times are told in the unit that suits the longest beside it.
    """
    valid = f"valid {shown(frame['valid_time'])} {zone_of(frame['valid_time'], grid)}".rstrip()
    lead = shown(frame["lead_time"], longest)
    return f"{heading} [{shown_units(frame)}]\n{valid}\ninit {shown(frame['init_time'])}, lead {lead}"


def zone_of(times: xr.DataArray, grid: Grid) -> str:
    """The time zone of an axis: the one that it names, else UTC on a geographic grid, else none."""
    return str(times.attrs.get("time_zone", "UTC" if grid.is_geographic else ""))


def when(frame: xr.DataArray) -> str:
    """Which init and lead time a frame is of, for messages."""
    return f"from {shown(frame['init_time'])} at lead {shown(frame['lead_time'])}"


def shown(time: xr.DataArray, longest: np.timedelta64 | None = None) -> str:
    """An instant or a duration as one reads it."""
    value: Any = time.to_numpy()[()]
    if isinstance(value, np.timedelta64):
        unit, length = lead_unit(value if longest is None else longest)
        return f"{value / length:g} {unit}"
    return show_time(value).replace("T", " ") if isinstance(value, np.datetime64) else str(value)


def lead_unit(longest: np.timedelta64) -> tuple[str, np.timedelta64]:
    """The unit that lead times up to the longest are told in, and its length."""
    if longest <= np.timedelta64(2, "h"):
        return "min", np.timedelta64(1, "m")
    if longest <= np.timedelta64(10, "D"):
        return "h", np.timedelta64(1, "h")
    return "d", np.timedelta64(1, "D")


def show_degrees(degrees: float, letters: str) -> str:
    """Degrees from -180 to 180 with the letter of their side, the first of two where they are above 0.

    >>> show_degrees(-97.5, "EW"), show_degrees(0, "NS")
    ('97.5°W', '0°')
    """
    return f"{abs(degrees):g}°{'' if degrees in (0, -180) else letters[0] if degrees > 0 else letters[1]}"
