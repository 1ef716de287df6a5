"""What values can be: physical limits by variable, and numbers that stand for nothing."""

from typing import Any

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.time_axis import show_time
from stforecast.units import Conversion

# Numbers that files use for a missing value without saying so.
_SENTINELS = (-9999.0, -999.0, -99999.0, -32768.0, -32767.0, 9999.0, 99999.0)
_HUGE = 1e15
# How a file says by itself what its values can be.
LIMIT_ATTRS = ("valid_min", "valid_max", "valid_range")
_ROUNDING = 1e-6

# By standard name or name, with the units that they are in here: wide enough for the whole atmosphere of the Earth, so
# that only what cannot be is refused: degrees Celsius called kelvin or the reverse, hectopascal called pascal.
_LIMITS: dict[str, tuple[str, float, float]] = {
    "air_temperature": ("K", 130.0, 350.0),
    "t2m": ("K", 150.0, 350.0),
    "2m_temperature": ("K", 150.0, 350.0),
    "air": ("K", 130.0, 350.0),
    "t": ("K", 130.0, 350.0),
    "sea_surface_temperature": ("K", 260.0, 320.0),
    "air_pressure_at_mean_sea_level": ("Pa", 80_000.0, 115_000.0),
    "air_pressure_at_sea_level": ("Pa", 80_000.0, 115_000.0),
    "slp": ("Pa", 80_000.0, 115_000.0),
    "msl": ("Pa", 80_000.0, 115_000.0),
    # More vehicles than this do not fit through a cell of a city in half an hour.
    "inflow": ("1", 0.0, 1e5),
    "outflow": ("1", 0.0, 1e5),
    "eastward_wind": ("m s-1", -200.0, 200.0),
    "northward_wind": ("m s-1", -200.0, 200.0),
    "u10": ("m s-1", -150.0, 150.0),
    "v10": ("m s-1", -150.0, 150.0),
}


def limits_of(variable: xr.DataArray) -> tuple[float, float]:
    """The least and the greatest value that a variable can have, in its units; infinite where nothing is known.

    Its own valid_min, valid_max and valid_range go before physics.

    >>> limits_of(xr.DataArray(name="msl", attrs={"units": "hPa"}))
    (800.0, 1150.0)
    """
    attrs = unpacked_attrs(variable)
    known = tuple(attrs.get("valid_range", _physical_limits(variable)))
    return float(attrs.get("valid_min", known[0])), float(attrs.get("valid_max", known[1]))


def unpacked_attrs(variable: xr.DataArray) -> dict[str, Any]:
    """Attributes with the limits of values that were packed in their file in physical units (CF 1.11, 8.1)."""
    attrs = dict(variable.attrs)
    packed = variable.encoding.get("dtype")
    if {"scale_factor", "add_offset"} & set(variable.encoding):
        for name in LIMIT_ATTRS:
            limit = np.asarray(attrs.get(name, np.nan))
            # Limits of the packed kind are packed; those of the kind of the scale are not.
            if limit.dtype.kind in "iu" and np.dtype(packed).kind in "iu":
                unpacked = limit * variable.encoding.get("scale_factor", 1.0) + variable.encoding.get("add_offset", 0.0)
                attrs[name] = unpacked.item() if unpacked.ndim == 0 else unpacked
    return attrs


def _physical_limits(variable: xr.DataArray) -> tuple[float, float]:
    for name in (str(variable.attrs.get("standard_name", "")), str(variable.name)):
        if name in _LIMITS:
            units, low, high = _LIMITS[name]
            conversion = Conversion.between(units, variable.attrs.get("units", ""))
            if conversion is not None:
                return (low * conversion.scale + conversion.offset, high * conversion.scale + conversion.offset)
    return (-np.inf, np.inf)


def check_range(variable: xr.DataArray, *, counts: bool = False) -> None:
    """Refuse values that cannot be in a loaded variable (time, [level,] Y, X) without NaN.

    Args:
        variable: in physical units.
        counts: whether negative values are refused whatever the attributes say.

    Raises:
        StforecastError: RANGE, naming the variable, the value, how many there are, and the first time and place.
    """
    values = variable.to_numpy()
    low, high = limits_of(variable)
    low = max(low, 0.0) if counts else low
    least, greatest = float(values.min()), float(values.max())
    # What was normalized and came back is off by the rounding of float32.
    rounding = _ROUNDING * max(abs(least), abs(greatest))
    if (
        least >= low - rounding
        and greatest <= high + rounding
        and greatest < _HUGE
        and least > -_HUGE
        and not _may_be_sentinel(least, greatest)
    ):
        return
    outside = (values < low - rounding) | (values > high + rounding) | (np.abs(values) >= _HUGE)
    if not outside.any():
        outside = np.isin(values, _SENTINELS)
        # A value of its own, far from all others, stands for nothing; one among its like is data.
        others = values[~outside]
        if not outside.any() or not others.size or not _is_apart(values[outside][0], others):
            return
    index = tuple(int(axis[0]) for axis in np.nonzero(outside))
    value, first = float(values[index]), variable[index]
    hint = "; it looks like a fill value that the file does not declare" if _is_sentinel(value) else ""
    time, *others_dims = variable.dims
    place = [f"{dim} {first[dim].item():g}" for dim in others_dims if dim in first.coords]
    wanted = "0 or more, as counts and log1p want it" if counts and value < 0 else f"{low:g} to {high:g}"
    raise StforecastError(
        ErrorKind.RANGE,
        f"variable {variable.name} in {variable.attrs.get('units', '?')} should be {wanted} but has "
        f"{int(outside.sum())} value(s) outside, the first {value:g} at "
        f"{', '.join([show_time(variable[time].to_numpy()[index[0]]), *place])}{hint}; mend the data or their units",
    )


def _may_be_sentinel(least: float, greatest: float) -> bool:
    return least in _SENTINELS or greatest in _SENTINELS


def _is_sentinel(value: float) -> bool:
    return value in _SENTINELS or abs(value) >= _HUGE


def _is_apart(value: float, others: np.ndarray) -> bool:
    spread = float(others.max() - others.min())
    nearest = min(abs(value - float(others.min())), abs(value - float(others.max())))
    return nearest > 3 * max(spread, 1e-30)
