"""The colour map that suits a variable, and the values at its two ends."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from stforecast.plot.fields import Values


@dataclass(frozen=True)
class Colours:
    """A colour map and the values at its two ends."""

    name: str
    low: float
    high: float

    @classmethod
    def of(cls, frame: xr.DataArray, *values: Values) -> "Colours":
        """The colours that suit a variable, over the range of all the values."""
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        palette = _palette_of(frame)
        if palette.anchor == "about zero":
            return cls.about_zero(palette.name, *values)
        if palette.anchor == "from zero" and low >= 0:
            return cls(palette.name, 0.0, high or 1.0)
        return cls(palette.name, low, high) if low < high else cls(palette.name, low - 0.5, high + 0.5)

    @classmethod
    def about_zero(cls, name: str, *values: Values) -> "Colours":
        """A diverging colour map with zero in its middle."""
        most = float(np.nanmax(np.abs(values))) or 1.0
        return cls(name, -most, most)


@dataclass(frozen=True)
class _Palette:
    """The colour map of a kind of variable, told by CF standard name, by name or by units."""

    name: str
    anchor: Literal["data", "from zero", "about zero"]
    standard_names: str
    names: frozenset[str]
    units: frozenset[str] = frozenset()


_PALETTES = (
    _Palette(
        "PuOr_r",
        "about zero",
        r"(eastward|northward|upward|x|y)_wind|vorticity|divergence|tendency|anomaly",
        frozenset(
            {"u", "v", "w", "u10", "v10", "vo", "uwnd", "vwnd", "10m_u_component_of_wind", "10m_v_component_of_wind"}
        ),
    ),
    _Palette(
        "YlGnBu",
        "from zero",
        r"precipitation|rainfall|snowfall|humidity|cloud",
        frozenset({"tp", "pr", "precip", "total_precipitation", "tcc", "q", "r", "rh"}),
        frozenset({"kg m-2 s-1", "mm/day", "mm d-1", "mm h-1", "mm"}),
    ),
    _Palette(
        "magma_r",
        "from zero",
        r"number_of|count",
        frozenset({"inflow", "outflow", "flow", "count", "counts", "demand"}),
        frozenset({"vehicles", "trips", "count", "counts"}),
    ),
    _Palette(
        "plasma",
        "data",
        r"temperature",
        frozenset({"t", "t2m", "air", "sst", "skt"}),
        frozenset({"K", "degK", "kelvin", "degC", "degree_Celsius", "celsius", "°C"}),
    ),
)


_OTHER = _Palette("viridis", "data", "", frozenset())


def _palette_of(frame: xr.DataArray) -> _Palette:
    standard_name, units = str(frame.attrs.get("standard_name", "")), str(frame.attrs.get("units", ""))
    for palette in _PALETTES:
        if re.search(palette.standard_names, standard_name) or frame.name in palette.names or units in palette.units:
            return palette
    return _OTHER
