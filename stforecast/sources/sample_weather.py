"""Weather made up of travelling waves on the cycles of year and day."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

Floats = npt.NDArray[np.float64]
Waves = npt.NDArray[np.complex128]
Fields = npt.NDArray[np.float32]

_State = TypeVar("_State", Floats, Waves)

LATITUDE = np.arange(-87.1875, 90.0, 5.625)
LONGITUDE = np.arange(0.0, 360.0, 5.625)

_EARTH_RADIUS = 6.371e6  # m
_ROTATION = 7.292e-5  # rad/s
_JET = 18.0  # m/s, at 500 hPa in middle latitudes
_DEFORMATION_RADIUS = 1e6  # m; without it the longest waves would run westward around the Earth within days
_STORM_TRACK = 48.0  # degrees
_WAVE_MEMORY = 10 * 24.0  # hours after which a wave is another one: a forecast of some days can beat the climatology
_NOISE_MEMORY = 18.0  # hours
_ZONAL_WAVE_NUMBERS = np.arange(1, 9)
_MERIDIONAL_MODES = np.arange(1, 3)


def weather_years(first: int, years: int, step_hours: int, seed: int) -> Iterator[tuple[int, xr.Dataset]]:
    """Years and their weather, one after the other: t2m in K and z at 500 hPa in m² s⁻², float32 (time, lat, lon).

    Waves and noise go on from one year into the next.
    """
    random = np.random.default_rng(seed)
    land = _land(random)
    patterns = _wave_patterns()
    factor = _wave_factor(float(step_hours))
    persistence = np.exp(-step_hours / _NOISE_MEMORY)
    waves: Waves = _complex_normal(random, len(factor))
    noise: Floats = random.standard_normal((2, len(LATITUDE), len(LONGITUDE)))
    for year in range(first, first + years):
        step = np.timedelta64(step_hours, "h")
        times = np.arange(np.datetime64(f"{year}-01-01", "ns"), np.datetime64(f"{year + 1}-01-01", "ns"), step)
        parts = []
        # By months, as a year of hours takes gigabytes.
        for month in np.array_split(times, 12):
            wave_series, waves = _go_on(waves, factor, _complex_normal(random, (len(month), len(factor))))
            shocks = _smooth(random.standard_normal((len(month), *noise.shape)))
            noise_series, noise = _go_on(noise, persistence, shocks)
            parts.append(_weather(month, land, wave_series, patterns, noise_series))
        yield year, _label(times, *(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def _weather(
    times: npt.NDArray[np.datetime64], land: Floats, waves: Waves, patterns: Waves, noise: Floats
) -> tuple[Fields, Fields]:
    """Temperature and geopotential, (time, lat, lon); times are of one year."""
    sine, cosine = np.sin(np.deg2rad(LATITUDE))[:, None], np.cos(np.deg2rad(LATITUDE))[:, None]
    # 1 in mid July, -1 in mid January; the other way round south of the equator.
    summer = np.cos(2 * np.pi * (_days(times) - 197.0) / 365.25)[:, None, None] * sine
    noon = np.cos(2 * np.pi * (24 * _days(times)[:, None, None] + LONGITUDE / 15 - 14) / 24)
    vigour = 1 - 0.35 * summer
    height = 900 * vigour * _field(waves, patterns)
    # Warm air comes from the equator's side: east of a trough, a quarter of a wave ahead of a ridge.
    warmth = 5 * vigour * _field(waves * 1j, patterns)
    temperature = 301 - 52 * sine**2 - 4 * land + (3 + 14 * land) * summer + (1 + 6 * land) * cosine * noon + warmth
    geopotential = 57_500 - 8_000 * sine**2 + 900 * summer + height
    fields = temperature + 0.8 * noise[:, 0], geopotential + 60 * noise[:, 1]
    return fields[0].astype(np.float32), fields[1].astype(np.float32)


def _days(times: npt.NDArray[np.datetime64]) -> Floats:
    """Days since the beginning of the year, with fractions."""
    year = times[0].astype("datetime64[Y]")
    days: Floats = (times - year) / np.timedelta64(1, "D")
    return days


def _land(random: np.random.Generator) -> Floats:
    """How continental each cell is, from 0 to 1, (lat, lon)."""
    number = np.arange(1, 5)
    phase, tilt = random.uniform(0, 2 * np.pi, (2, len(number), 1, 1))
    shape = np.cos(number[:, None, None] * np.deg2rad(LONGITUDE) + phase) * np.cos(
        number[:, None, None] * np.deg2rad(LATITUDE)[:, None] + tilt
    )
    land: Floats = 1 / (1 + np.exp(-3 * shape.sum(axis=0)))
    return land


def _wave_grid() -> tuple[Floats, Floats, Floats]:
    """Hemisphere (1 north, -1 south), zonal wave number and meridional mode of each wave, (wave,)."""
    hemisphere, zonal, meridional = np.meshgrid([1.0, -1.0], _ZONAL_WAVE_NUMBERS, _MERIDIONAL_MODES, indexing="ij")
    return hemisphere.ravel(), zonal.ravel().astype(np.float64), meridional.ravel().astype(np.float64)


def _wave_factor(hours: float) -> Waves:
    """What one step of time does to each wave: it turns by its frequency and fades, (wave,).

    Frequencies are those of Rossby waves on a jet, k (U - β / (k² + l² + 1/L²)).
    """
    _, zonal, meridional = _wave_grid()
    cosine = np.cos(np.deg2rad(_STORM_TRACK))
    along, across = zonal / (_EARTH_RADIUS * cosine), 3 * meridional / _EARTH_RADIUS  # k and l, rad/m
    beta = 2 * _ROTATION * cosine / _EARTH_RADIUS
    frequency = along * (_JET - beta / (along**2 + across**2 + _DEFORMATION_RADIUS**-2))
    factor: Waves = np.exp(-1j * frequency * 3600 * hours - hours / _WAVE_MEMORY)
    return factor


def _wave_patterns() -> Waves:
    """Each wave's place: the storm track of its hemisphere, leaning westward with latitude, (wave, cell)."""
    hemisphere, zonal, meridional = (values[:, None, None] for values in _wave_grid())
    across = (hemisphere * LATITUDE[:, None] - _STORM_TRACK) / 16
    envelope = np.exp(-(across**2)) * np.where(meridional == 1, 1.0, 1.4 * across)
    weight = np.exp(-(((zonal - 5) / 2.5) ** 2))
    # The sum of all waves of one hemisphere has a standard deviation of one in the middle of its storm track.
    weight = weight * np.sqrt(2 * 2 * len(_MERIDIONAL_MODES) / (weight**2).sum())
    pattern: Waves = weight * envelope * np.exp(1j * (zonal * np.deg2rad(LONGITUDE) - 0.5 * across))
    return pattern.reshape(len(pattern), -1)


def _field(waves: Waves, patterns: Waves) -> Floats:
    """The sum of the waves, (time, lat, lon)."""
    field = waves.real @ patterns.real - waves.imag @ patterns.imag
    return field.reshape(len(waves), len(LATITUDE), len(LONGITUDE))


def _complex_normal(random: np.random.Generator, shape: int | tuple[int, ...]) -> Waves:
    normal: Waves = (random.standard_normal(shape) + 1j * random.standard_normal(shape)) / np.sqrt(2)
    return normal


def _smooth(noise: Floats) -> Floats:
    """White noise summed over neighbours, of variance one again; at the poles it comes round, where nobody looks."""
    for axis in (-1, -2):
        noise = (np.roll(noise, 1, axis) + noise + np.roll(noise, -1, axis)) / np.sqrt(3)
    return noise


def _go_on(state: _State, factor: _State | float, shocks: _State) -> tuple[_State, _State]:
    """A first-order autoregression of variance one from a state on, (time, ...), and its last state."""
    shocks = shocks * np.sqrt(1 - np.abs(factor) ** 2)
    series = np.empty_like(shocks)
    for row, shock in enumerate(shocks):
        state = series[row] = factor * state + shock
    return series, state


def _label(times: npt.NDArray[np.datetime64], temperature: Fields, geopotential: Fields) -> xr.Dataset:
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            "t2m": (dims, temperature, {"units": "K", "long_name": "2 metre temperature"}),
            "z": (dims, geopotential, {"units": "m**2 s**-2", "long_name": "Geopotential"}),
        },
        {
            "time": ("time", times, {"standard_name": "time", "long_name": "time"}),
            "lat": ("lat", LATITUDE, {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": ("lon", LONGITUDE, {"standard_name": "longitude", "units": "degrees_east"}),
        },
    )
