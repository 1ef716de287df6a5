"""Units of measurement as the providers spell them, and those that can be converted into each other."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating]

# The spellings of one unit that the providers use.
_UNIT_ALIASES = {
    "degk": "K",
    "kelvin": "K",
    "k": "K",
    "degc": "degC",
    "celsius": "degC",
    "degree_celsius": "degC",
    "degrees_celsius": "degC",
    "deg_c": "degC",
    "°c": "degC",
    "c": "degC",
    "degree_kelvin": "K",
    "degf": "degF",
    "fahrenheit": "degF",
    "degree_fahrenheit": "degF",
    "degrees_fahrenheit": "degF",
    "°f": "degF",
    "kpa": "kPa",
    "m s^-1": "m s-1",
    "m.s-1": "m s-1",
    "km/h": "km h-1",
    "knot": "kt",
    "knots": "kt",
    "g/kg": "g kg-1",
    "kg/kg": "kg kg-1",
    "kg kg**-1": "kg kg-1",
    "g kg**-1": "g kg-1",
    "millimeter": "mm",
    "millimetre": "mm",
    "meter": "m",
    "metre": "m",
    "pascal": "Pa",
    "pascals": "Pa",
    "pa": "Pa",
    "hpa": "hPa",
    "millibar": "hPa",
    "millibars": "hPa",
    "mb": "hPa",
    "m s**-1": "m s-1",
    "m/s": "m s-1",
    "m**2 s**-2": "m2 s-2",
    "dimensionless": "1",
    "": "1",
}


def canonical_units(units: object) -> str:
    """One spelling for units that are the same.

    >>> canonical_units("degK"), canonical_units("kelvin"), canonical_units("mm")
    ('K', 'K', 'mm')
    """
    text = str(units).strip()
    return _UNIT_ALIASES.get(text.lower(), text)


# Each in units of the last: value * scale + offset.
_IN_BASE_UNITS = {
    "degC": (1.0, 273.15, "K"),
    "degF": (5 / 9, 459.67 * 5 / 9, "K"),
    "hPa": (100.0, 0.0, "Pa"),
    "kPa": (1000.0, 0.0, "Pa"),
    "km h-1": (1 / 3.6, 0.0, "m s-1"),
    "kt": (1852 / 3600, 0.0, "m s-1"),
    "g kg-1": (0.001, 0.0, "kg kg-1"),
    "mm": (0.001, 0.0, "m"),
    "%": (0.01, 0.0, "1"),
}


@dataclass(frozen=True)
class Conversion:
    """From one unit into another: value * scale + offset.

    Attributes:
        scale: what a value is multiplied with.
        offset: what is added then.
    """

    scale: float
    offset: float

    @classmethod
    def between(cls, units: object, wanted: object) -> "Conversion | None":
        """The conversion from units into wanted ones; None if these measure something else.

        >>> Conversion.between("degC", "kelvin"), Conversion.between("mb", "hPa"), Conversion.between("K", "m")
        (Conversion(scale=1.0, offset=273.15), Conversion(scale=1.0, offset=0.0), None)
        """
        one, other = canonical_units(units), canonical_units(wanted)
        if one == other:
            return cls(1.0, 0.0)
        scale, offset, base = _IN_BASE_UNITS.get(one, (1.0, 0.0, one))
        wanted_scale, wanted_offset, wanted_base = _IN_BASE_UNITS.get(other, (1.0, 0.0, other))
        if base != wanted_base:
            return None
        return cls(scale / wanted_scale, (offset - wanted_offset) / wanted_scale)

    @property
    def changes_nothing(self) -> bool:
        """Whether both units are the same."""
        return self == Conversion(1.0, 0.0)

    def apply(self, values: Values) -> Values:
        """Values in the wanted units, of the same type; computed in float64."""
        if self.changes_nothing:
            return values
        converted: Values = (values.astype(np.float64) * self.scale + self.offset).astype(_kept(values))
        return converted

    def invert(self, values: Values) -> Values:
        """Values in the units that they came in."""
        if self.changes_nothing:
            return values
        converted: Values = ((values.astype(np.float64) - self.offset) / self.scale).astype(_kept(values))
        return converted


def _kept(values: Values) -> np.dtype[np.floating]:
    """The type of values if it has fractions, else float32."""
    return values.dtype if np.issubdtype(values.dtype, np.floating) else np.dtype(np.float32)
