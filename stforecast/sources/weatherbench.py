"""Series from the tree of WeatherBench 1: a folder a variable, a netCDF file a year.

Rasp et al.: WeatherBench: A Benchmark Data Set for Data-Driven Weather Forecasting, J. Adv. Model. Earth Syst., 2020,
doi:10.1029/2020MS002203.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.sources import cf

_FILE_NAME = re.compile(r"(?P<variable>.+)_(?P<year>\d{4})_(?P<resolution>[\d.]+)deg\.nc")


def is_weatherbench(path: Path) -> bool:
    """Whether a folder is such a tree, or one variable's folder in it."""
    return bool(_files(path))


def read(path: Path, *, variables: Sequence[str] | None = None, levels: Sequence[float] | None = None) -> xr.Dataset:
    """A lazy series of a tree or of one variable's folder, under the short names that the files have inside.

    Args:
        path: the root of one resolution, e.g. 5.625deg, or a folder such as 5.625deg/2m_temperature.
        variables: short names (t2m) or long names (2m_temperature); all by default. The constants, which have no
            time, are never among them.
        levels: pressure levels in hPa; all by default.

    Raises:
        StforecastError: FILE_MISSING, VAR_MISSING, ARGUMENT for a short name that is under two long ones, TIME_RANGE
            for variables that do not cover the same times, and what `cf.read_files` raises.
    """
    files = _files(path)
    if not files:
        raise StforecastError(
            ErrorKind.FILE_MISSING,
            f"{path}: wanted files like 2m_temperature/2m_temperature_1979_5.625deg.nc in it, found none; check "
            "the path",
        )
    offered = {long_name: cf.variable_names(years[0]) for long_name, years in files.items()}
    chosen: dict[str, set[str]] = {}
    for name in offered if variables is None else variables:
        long_name = _long_name(name, offered, path)
        chosen.setdefault(long_name, set()).update({name} if name in offered[long_name] else offered[long_name])
    return cf.join_variables(
        cf.read_files(files[long_name], variables=sorted(names), levels=levels) for long_name, names in chosen.items()
    )


def _files(path: Path) -> dict[str, list[Path]]:
    """The files in a folder and in the folders inside it, sorted by year, by the long name of their variable."""
    files: dict[str, list[Path]] = {}
    folders = [path, *sorted(path.iterdir())] if path.is_dir() else []
    for file in (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())):
        named = _FILE_NAME.fullmatch(file.name)
        if named and file.is_file():
            files.setdefault(named["variable"], []).append(file)
    return files


def _long_name(name: str, offered: dict[str, frozenset[str]], path: Path) -> str:
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
