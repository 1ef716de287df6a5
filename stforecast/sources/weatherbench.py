"""Series from the tree of WeatherBench 1: a folder a variable, a netCDF file a year.

Rasp et al.: WeatherBench: A Benchmark Data Set for Data-Driven Weather Forecasting, J. Adv. Model. Earth Syst., 2020,
doi:10.1029/2020MS002203.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import cf
from stforecast.sources.selection import Selection

_FILE_NAME = re.compile(r"(?P<variable>.+)_(?P<year>\d{4})_(?P<resolution>[\d.]+)deg\.nc")
_CONSTANTS_NAME = "constants/constants_*deg.nc"


def is_weatherbench(path: Path) -> bool:
    """Whether a folder is such a tree, or one variable's folder in it."""
    return bool(_files(path))


def read(path: Path, selection: Selection) -> xr.Dataset:
    """A lazy series of a tree or of one variable's folder, under the short names that the files have inside.

    Args:
        path: the root of one resolution, e.g. 5.625deg, or a folder such as 5.625deg/2m_temperature.
        selection: variables by short names (t2m) or long names (2m_temperature); levels in hPa; static fields
            (orography, lsm, slt, lat2d, lon2d) from the constants beside.

    Raises:
        StforecastError: FILE_MISSING, VAR_MISSING, ARGUMENT for a short name that is under two long ones, TIME_GAP
            for variables that do not cover the same times, and what `cf.read_opened` raises.
    """
    files = _files(path)
    if not files:
        raise StforecastError(
            ErrorKind.FILE_MISSING,
            f"{path}: wanted files like 2m_temperature/2m_temperature_1979_5.625deg.nc in it, found none; check "
            "the path",
        )
    with ExitStack() as stack:
        offered = {long_name: cf.open_file(years[0], stack).names for long_name, years in files.items()}
        chosen = _by_long_name(selection.variables, offered, path)
        wanted = replace(selection, static=())
        series = cf.join_variables(
            cf.read_files(files[long_name], replace(wanted, variables=sorted(names)))
            for long_name, names in chosen.items()
        )
        return _with_constants(series, path, selection.static, stack)


def static_names(path: Path) -> frozenset[str]:
    """The fields without a time that lie beside a tree or a variable's folder.

    Raises:
        StforecastError: what `cf.open_file` raises.
    """
    with ExitStack() as stack:
        return frozenset[str]().union(*(cf.open_file(file, stack).static for file in _constants(path)))


def first_files(path: Path) -> list[Path]:
    """The first year's file of each variable of a tree or a variable's folder."""
    return [years[0] for years in _files(path).values()]


def _with_constants(series: xr.Dataset, path: Path, names: Sequence[str], stack: ExitStack) -> xr.Dataset:
    if not names:
        return series
    constants = _constants(path)
    if not constants:
        raise StforecastError(
            ErrorKind.FILE_MISSING, f"{path}: wanted {_CONSTANTS_NAME} for {', '.join(names)}, found none; fetch it"
        )
    return cf.with_static(series, [cf.open_file(file, stack) for file in constants], names)


def _constants(path: Path) -> list[Path]:
    """The constants in a tree's root or beside a variable's folder."""
    return sorted(path.glob(_CONSTANTS_NAME)) or sorted(path.parent.glob(_CONSTANTS_NAME))


def _by_long_name(
    variables: Sequence[str] | None, offered: Mapping[str, frozenset[str]], path: Path
) -> dict[str, set[str]]:
    """The short names to read out of each variable's files."""
    chosen: dict[str, set[str]] = {}
    for name in offered if variables is None else variables:
        long_name = _long_name(name, offered, path)
        chosen.setdefault(long_name, set()).update({name} if name in offered[long_name] else offered[long_name])
    return chosen


def _files(path: Path) -> dict[str, list[Path]]:
    """The files in a folder and in the folders inside it, sorted by year, by the long name of their variable."""
    files: dict[str, list[Path]] = {}
    folders = [path, *sorted(path.iterdir())] if path.is_dir() else []
    for file in (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())):
        named = _FILE_NAME.fullmatch(file.name)
        if named and file.is_file():
            files.setdefault(named["variable"], []).append(file)
    return files


def _long_name(name: str, offered: Mapping[str, frozenset[str]], path: Path) -> str:
    if name in offered:
        return name
    long_names = [long_name for long_name, names in offered.items() if name in names]
    if not long_names:
        there = ", ".join(f"{long_name} ({', '.join(sorted(names))})" for long_name, names in offered.items())
        raise StforecastError(ErrorKind.VAR_MISSING, f"{path}: no variable {name}; there are {there}")
    if len(long_names) > 1:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{path}: {name} is in {' and in '.join(long_names)}; name the one that is meant"
        )
    return long_names[0]
