"""Units of measurement as the providers spell them."""

# The spellings of one unit that the providers use.
_UNIT_ALIASES = {
    "degk": "K",
    "kelvin": "K",
    "k": "K",
    "degc": "degC",
    "celsius": "degC",
    "degree_celsius": "degC",
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
