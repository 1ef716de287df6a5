"""Series from zarr stores of WeatherBench 2: ERA5 under its long names, longitude often before latitude.

Rasp et al.: WeatherBench 2: A Benchmark for the Next Generation of Data-Driven Global Weather Models, J. Adv. Model.
Earth Syst., 2024, doi:10.1029/2023MS004019.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import axis_of
from stforecast.sources import cf, era5
from stforecast.sources.raw_files import Location, is_url, is_zarr
from stforecast.sources.selection import Selection
from stforecast.sources.zarr_stores import array_names

_AXIS_UNITS = {"Y": "degrees_north", "X": "degrees_east", "Z": "hPa"}


def is_weatherbench2(location: Location) -> bool:
    """Whether a location is a zarr store with variables under ERA5's long names."""
    if not is_url(location) and not is_zarr(Path(location)):
        return False
    return bool(array_names(location) & set(era5.SHORT_NAMES))


def read(location: Location, selection: Selection) -> xr.Dataset:
    """A lazy series of a store, under the store's own names and in the order (time, [level,] latitude, longitude).

    Variables and static fields may be asked for by long or by short names. Units that the store has lost are those of
    ERA5, and levels are in hPa.

    Args:
        location: a folder or a URL such as gs://weatherbench2/datasets/era5/….zarr.
        selection: what of it is wanted.

    Raises:
        StforecastError: FILE_FORMAT if it is no store; TIME_UNITS or DIMS for a store of forecasts; and what
            `cf.read_opened` raises.
    """
    if not is_url(location) and not is_zarr(Path(location)):
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{location} is no zarr store; WeatherBench 2 is read from one, local or by URL"
        )
    with ExitStack() as stack:
        file = cf.open_file(location, stack)
        opened = replace(file, dataset=_with_units(file.dataset))
        wanted = replace(
            selection,
            variables=None if selection.variables is None else _long_names(selection.variables, file.names),
            static=_long_names(selection.static, file.static),
        )
        return cf.read_opened([opened], wanted)


def _with_units(dataset: xr.Dataset) -> xr.Dataset:
    labelled = dataset.copy()
    for name, variable in labelled.variables.items():
        units = _AXIS_UNITS.get(str(axis_of(dataset, name))) if name in dataset.dims else era5.units_of(str(name))
        if units is not None and "units" not in variable.attrs:
            labelled[name].attrs["units"] = units
    return labelled


def _long_names(names: Iterable[str], offered: frozenset[str]) -> list[str]:
    return [name if name in offered else era5.LONG_NAMES.get(name, name) for name in names]
