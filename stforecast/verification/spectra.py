"""Power spectra along circles of latitude, by true wavelength."""

from typing import Any

import numpy as np
import xarray as xr

from stforecast.baselines import blocks_of
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, axis_of, find_dims
from stforecast.verification.metrics import Floats

_EARTH_RADIUS_KM = 6371.0


def spectrum(dataset: xr.Dataset) -> xr.Dataset:
    """The mean power of each variable along its rows by zonal wavenumber, (…, Y, wavenumber).

    What a row of cells varies by is split among waves of which 1, 2, … fit into it; their powers add up to the row's
    variance. A network that blurs loses power at short wavelengths. On a geographic grid the wavelength is told by the
    true length of the row, 2π · 6371 km · cos(latitude) around the globe. A row that does not close on itself is freed
    of the line between its ends first (Errico 1985, doi:10.1175/1520-0493(1985)113<1554:SCOALA>2.0.CO;2), which would
    otherwise count as short waves. Frames are read in blocks of time.

    Args:
        dataset: a series or a forecast; the mean goes over time or init_time, lead times and levels are kept. A row
            with a NaN has no part in it.

    Returns:
        float64 in the square of the variables' units, with the coordinate wavelength (Y, wavenumber), in km on a
        geographic grid, else in the units of the X coordinate, or in cells where it has none.

    Raises:
        StforecastError: DIMS for a Dataset without time or grid; GRID_SHAPE if columns are not evenly spaced or too few
            for a wave.

    Examples:
        Two waves around the globe with an amplitude of 2 have a variance of 2, all of it at wavenumber 2:

        >>> wave = 2 * np.cos(2 * np.pi * 2 * np.arange(16) / 16)
        >>> series = xr.Dataset(
        ...     {"u": (("time", "lat", "lon"), wave[None, None], {"units": "m s**-1"})},
        ...     coords={"time": [np.datetime64("2020-01-01", "ns")], "lat": [0.0], "lon": np.arange(16) * 22.5},
        ... )
        >>> power = spectrum(series)["u"].isel(lat=0)
        >>> int(power.idxmax("wavenumber")), round(float(power.sum()), 6)
        (2, 2.0)
    """
    grid = Grid.of(dataset)
    _check_columns(grid)
    roles = {axis_of(dataset, dim): str(dim) for dim in dataset.dims}
    over = roles["init_time"] if "init_time" in roles else find_dims(dataset, "T")[0]
    found = {str(name): _power(variable, over, grid) for name, variable in dataset.data_vars.items()}
    labels = {
        name: coord
        for name, coord in dataset.coords.items()
        if coord.dims == (name,) and name not in (over, grid.x_name)
    }
    used = {dim for variable in found.values() for dim in variable.dims}
    number = np.arange(1, grid.shape[1] // 2 + 1)
    length, units = _row_length(dataset, grid)
    return xr.Dataset(
        found,
        {name: coord for name, coord in labels.items() if name in used}
        | {
            "wavenumber": ("wavenumber", number, {"long_name": "waves in a row", "units": "1"}),
            "wavelength": ((grid.y_name, "wavenumber"), length[:, None] / number, {"units": units}),
        },
        {
            "frames": dataset.sizes[over],
            "trend": "none" if grid.spans_globe else "the line between the ends is taken off",
        },
    )


def _check_columns(grid: Grid) -> None:
    apart = np.diff(grid.x)
    if len(grid.x) < 2 or not np.allclose(apart, apart[0], rtol=1e-3):
        raise StforecastError(
            ErrorKind.GRID_SHAPE,
            f"a spectrum wants two or more evenly spaced columns, the grid is {grid}; regrid it first",
        )


def _row_length(dataset: xr.Dataset, grid: Grid) -> tuple[Floats, str]:
    """The length of each row, (y,), and its units."""
    across = abs(grid.x[1] - grid.x[0]) * len(grid.x)
    if grid.is_geographic:
        circles: Floats = 2 * np.pi * _EARTH_RADIUS_KM * np.cos(np.deg2rad(grid.y)) * across / 360
        return circles, "km"
    units = dataset[grid.x_name].attrs.get("units") if grid.x_name in dataset.coords else None
    return np.full(len(grid.y), across), "cells" if units in (None, "1") else str(units)


def _power(variable: xr.DataArray, over: str, grid: Grid) -> xr.Variable:
    """The mean power of one variable, (…, y, wavenumber)."""
    ordered = variable.transpose(over, ..., grid.y_name, grid.x_name)
    shape = (*ordered.shape[1:-1], grid.shape[1] // 2)
    sums, counts = np.zeros(shape), np.zeros((*shape[:-1], 1))
    for rows in blocks_of(ordered, over):
        values = ordered.isel({over: rows}).to_numpy().astype(np.float64)
        if not grid.spans_globe:
            values = _without_trend(values)
        power = _periodogram(values)
        is_whole = np.isfinite(power).all(axis=-1, keepdims=True)
        sums += np.where(is_whole, power, 0.0).sum(axis=0)
        counts += is_whole.sum(axis=0)
    mean = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
    attrs: dict[Any, Any] = {"units": _squared(str(variable.attrs.get("units", "1")))}
    attrs |= {key: variable.attrs[key] for key in ("long_name", "standard_name") if key in variable.attrs}
    return xr.Variable((*ordered.dims[1:-1], "wavenumber"), mean, attrs)


def _periodogram(values: Floats) -> Floats:
    """Power of waves 1 to n // 2 along the last axis; they add up to the variance."""
    number = values.shape[-1]
    power: Floats = 2 * np.abs(np.fft.rfft(values, axis=-1)[..., 1:] / number) ** 2
    if number % 2 == 0:
        power[..., -1] /= 2  # the shortest wave has no mirror image
    return power


def _without_trend(values: Floats) -> Floats:
    """Rows without the line that would make their ends jump where they are joined."""
    number = values.shape[-1]
    slope = (values[..., -1:] - values[..., :1]) / (number - 1)
    level: Floats = values - slope * (np.arange(number) - (number - 1) / 2)
    return level


def _squared(units: str) -> str:
    return "1" if units == "1" else f"({units})2"
