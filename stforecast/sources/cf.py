"""Series from any CF netCDF file or zarr store, or from several that follow each other in time."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, axis_of, find_dims
from stforecast.sources.cf_time import decode_times
from stforecast.sources.raw_files import check_file, check_zarr, find_files, in_one_line, is_zarr, naming
from stforecast.sources.slabs import VariableRows, lazy_array
from stforecast.time_axis import Times, check_times, show_time
from stforecast.units import canonical_units

# They name variables that a series does not carry along.
_REFERENCES = ("bounds", "climatology", "grid_mapping", "coordinates", "cell_measures", "ancillary_variables")
_SERIES_AXES = ("T", "Z", "Y", "X")
_LIMITS = ("valid_min", "valid_max", "valid_range")


class _Timed(Protocol):
    @property
    def path(self) -> Path: ...
    @property
    def times(self) -> Times: ...


_TimedFile = TypeVar("_TimedFile", bound=_Timed)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file whose values have not been read, and the names of those of its variables that could be a series."""

    path: Path
    dataset: xr.Dataset
    names: frozenset[str]


@dataclass(frozen=True, eq=False)
class _Part:
    """What one file has of a series, values not read and dimensions in the file's order."""

    path: Path
    dataset: xr.Dataset
    times: Times
    grid: Grid

    def dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of a variable in the order (time, [level,] Y, X)."""
        time, y, x = find_dims(self.dataset, "T", "Y", "X")
        inner = [str(dim) for dim in self.dataset[name].dims if dim not in (time, y, x)]
        return (time, *inner, y, x)


def read(path: Path, *, variables: Sequence[str] | None = None, levels: Sequence[float] | None = None) -> xr.Dataset:
    """A lazy series of all files and zarr stores that a path means.

    Args:
        path: a file, a zarr store, a glob pattern or a folder.
        variables: names in the files; all that have time and a grid by default.
        levels: values of the level axis, in its units and in this order; all by default. Variables without one stay.

    Raises:
        StforecastError: FILE_MISSING, and what `read_files` raises.
    """
    return read_files(find_files(path), variables=variables, levels=levels)


def read_files(
    paths: Sequence[Path], *, variables: Sequence[str] | None = None, levels: Sequence[float] | None = None
) -> xr.Dataset:
    """A lazy series of files that follow each other in time or have different variables.

    Each file is decoded by its own scale, offset and fill value. Files with the same variables are put one after the
    other in order of their times, whole. Attributes that differ between files are left out. No file stays open; reading
    opens it again.

    Raises:
        StforecastError: FILE_FORMAT, VAR_MISSING, DIMS, SHAPE, GRID_SHAPE, UNITS, EMPTY_SELECTION for levels that are
            not there, or a fault of the time axis, with the name of the file.
    """
    with ExitStack() as stack:
        opened = [_open(path, stack) for path in paths]
        names = _chosen(opened, variables)
        series = join_variables(
            _concatenate(group, [name for name in names if any(name in file.names for file in group)], levels)
            for group in _sharing_variables(opened)
            if any(file.names & set(names) for file in group)
        )
    return series[names]


def variable_names(path: Path) -> frozenset[str]:
    """The variables of one file that could be a series.

    Raises:
        StforecastError: FILE_FORMAT.
    """
    with ExitStack() as stack:
        return _open(path, stack).names


def _open(path: Path, stack: ExitStack) -> _Opened:
    is_store = is_zarr(path)
    (check_zarr if is_store else check_file)(path)
    # Times are decoded apart: xarray leaves what it cannot decode as numbers. And a duration stays the number it is.
    options: dict[str, Any] = {"chunks": None, "cache": False, "decode_times": False, "decode_timedelta": False}
    engine: dict[str, Any] = {"engine": "zarr", "consolidated": False} if is_store else {"engine": "netcdf4"}
    try:
        with warnings.catch_warnings():
            # NOAA's files give _FillValue and another missing_value; both become NaN, as they should.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            dataset = xr.open_dataset(path, **engine, **options)
    except Exception as error:  # damaged metadata raise whatever the line that meets them raises
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{path} cannot be read: {in_one_line(error)}; fetch the file anew"
        ) from error
    stack.callback(dataset.close)
    bounds = {str(variable.attrs.get("bounds")) for variable in dataset.variables.values()}
    names = {
        str(name)
        for name, variable in dataset.data_vars.items()
        if variable.ndim >= 3 and variable.dtype.kind in "iuf" and name not in bounds
    }
    return _Opened(path, dataset, frozenset(names))


def _chosen(opened: Sequence[_Opened], variables: Sequence[str] | None) -> list[str]:
    """The names asked for, or all there are."""
    offered = sorted(frozenset[str]().union(*(file.names for file in opened)))
    if not offered:
        found = [f"{name}{tuple(map(str, data.dims))}" for name, data in opened[0].dataset.data_vars.items()]
        raise StforecastError(
            ErrorKind.DIMS,
            f"{opened[0].path}: wanted numbers by (time, [level,] Y, X), found {', '.join(found) or 'no variable'}",
        )
    missing = [name for name in variables or () if name not in offered]
    if missing:
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"{opened[0].path if len(opened) == 1 else opened[0].path.parent}: no variable {', '.join(missing)} by "
            f"(time, [level,] Y, X); there are {', '.join(offered)}",
        )
    return offered if variables is None else list(dict.fromkeys(variables))


def _sharing_variables(opened: Sequence[_Opened]) -> list[list[_Opened]]:
    """Files grouped so that those in different groups have no variable in common."""
    groups: list[list[_Opened]] = []
    for file in opened:
        shared = [group for group in groups if any(file.names & other.names for other in group)]
        groups = [group for group in groups if group not in shared]
        groups.append([*(other for group in shared for other in group), file])
    return groups


def _concatenate(files: Sequence[_Opened], names: Sequence[str], levels: Sequence[float] | None) -> xr.Dataset:
    for file in files:
        _check_complete(file, names, files)
    parts = in_time_order([_part(file, names, levels) for file in files])
    first = parts[0]
    for part in parts[1:]:
        _check_alike(part, first, names)
    time = first.dims(names[0])[0]
    coordinates = {
        dim: xr.Variable(dim, first.dataset[dim].values, _plain(first.dataset[dim].attrs))
        for dim in dict.fromkeys(dim for name in names for dim in first.dims(name)[1:])
        if dim in first.dataset.coords
    }
    attrs = _plain(common_attrs(part.dataset[time].attrs for part in parts), "units", "calendar")
    times = xr.Variable("time", np.concatenate([part.times for part in parts]), attrs)
    return xr.Dataset(
        {name: _join_in_time(parts, name) for name in names},
        {"time": times, **coordinates},
        common_attrs(part.dataset.attrs for part in parts),
    )


def _check_complete(file: _Opened, names: Sequence[str], files: Sequence[_Opened]) -> None:
    missing = [name for name in names if name not in file.names]
    if missing:
        other = next(other for other in files if missing[0] in other.names)
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"{file.path} has no variable {', '.join(missing)}, but {other.path} has; fetch that file anew, or choose "
            f"among the variables of both: {', '.join(sorted(file.names & other.names))}",
        )


def _part(file: _Opened, names: Sequence[str], levels: Sequence[float] | None) -> _Part:
    dataset = file.dataset[list(names)]
    with naming(file.path):
        time, y, x = find_dims(dataset, "T", "Y", "X")
        if time not in dataset.coords:
            raise StforecastError(ErrorKind.TIME_UNITS, f"dimension {time} has no times; add them as its coordinate")
        empty = [str(dim) for dim, length in dataset.sizes.items() if length == 0]
        if empty:
            raise StforecastError(ErrorKind.SHAPE, f"{' and '.join(empty)} has length 0; leave this file out")
        # A single member, surface or experiment version says no more than that there is one.
        spare = {
            dim: 0 for dim in dataset.dims if dataset.sizes[dim] == 1 and axis_of(dataset, dim) not in _SERIES_AXES
        }
        dataset = dataset.isel(spare, drop=True)
        _check_dims(dataset, (time, y, x))
        dataset = dataset if levels is None else _select_levels(dataset, levels)
        grid = Grid.of(dataset)
    name = f"{time} of {file.path}"
    times = decode_times(dataset[time].variable, name=name)
    check_times(times, name=name)
    return _Part(file.path, dataset, times, grid)


def _check_dims(dataset: xr.Dataset, wanted: tuple[str, str, str]) -> None:
    for name, variable in dataset.data_vars.items():
        inner = [dim for dim in variable.dims if dim not in wanted]
        if (
            not set(wanted) <= set(variable.dims)
            or len(inner) > 1
            or any(axis_of(dataset, dim) != "Z" for dim in inner)
        ):
            raise StforecastError(
                ErrorKind.DIMS,
                f"variable {name} has dimensions {tuple(map(str, variable.dims))}, wanted ({wanted[0]}, [level,] "
                f"{wanted[1]}, {wanted[2]}); choose others with variables=[…]",
            )


def _select_levels(dataset: xr.Dataset, levels: Sequence[float]) -> xr.Dataset:
    for dim in [str(dim) for dim in dataset.dims if axis_of(dataset, dim) == "Z"]:
        found = dataset[dim].to_numpy()
        is_level = np.isclose(np.asarray(levels, np.float64)[:, None], found[None, :].astype(np.float64))
        missing = [level for level, matches in zip(levels, is_level, strict=True) if not matches.any()]
        if missing:
            raise StforecastError(
                ErrorKind.EMPTY_SELECTION,
                f"{dim} has no {_show_levels(missing)}; it has {_show_levels(found)} "
                f"{dataset[dim].attrs.get('units', '(no units)')}",
            )
        dataset = dataset.isel({dim: is_level.argmax(axis=1)})
    return dataset


def _show_levels(levels: Iterable[float]) -> str:
    return ", ".join(f"{level:g}" for level in levels)


def in_time_order(files: Iterable[_TimedFile]) -> list[_TimedFile]:
    """Files sorted by their first times, none reaching into the next.

    Raises:
        StforecastError: TIME_OVERLAP, naming two files and the times that both have.
    """
    ordered = sorted(files, key=lambda file: file.times[0])
    for before, after in pairwise(ordered):
        if after.times[0] <= before.times[-1]:
            last = min(before.times[-1], after.times[-1])
            raise StforecastError(
                ErrorKind.TIME_OVERLAP,
                f"{before.path} and {after.path} overlap: both cover {show_time(after.times[0])} to {show_time(last)}; "
                "leave one out or cut it",
            )
    return ordered


def _check_alike(part: _Part, first: _Part, names: Sequence[str]) -> None:
    check_grid(part.grid, part.path, first.grid, first.path)
    for name in names:
        found, wanted = _levels(part, name), _levels(first, name)
        if not np.array_equal(found, wanted):
            raise StforecastError(
                ErrorKind.GRID_SHAPE,
                f"{name} has the levels {found} in {part.path} but {wanted} in {first.path}; choose common ones with "
                "levels=[…]",
            )
        units = [file.dataset[name].attrs.get("units") for file in (part, first)]
        if canonical_units(units[0]) != canonical_units(units[1]):
            raise StforecastError(
                ErrorKind.UNITS,
                f"{name} is in {units[0]!r} in {part.path} but in {units[1]!r} in {first.path}; convert one",
            )


def check_grid(found: Grid, path: Path, wanted: Grid, wanted_path: Path) -> None:
    """Refuse a file on another grid, or with the same cells in another order.

    Raises:
        StforecastError: GRID_SHAPE, naming both files and grids.
    """
    if found != wanted:
        raise StforecastError(
            ErrorKind.GRID_SHAPE,
            f"{path} is on the grid {found} but {wanted_path} on {wanted}; regrid one, or open them apart",
        )


def _levels(part: _Part, name: str) -> list[float]:
    return [float(level) for dim in part.dims(name)[1:-2] for level in part.dataset[dim].to_numpy()]


def _join_in_time(parts: Sequence[_Part], name: str) -> xr.Variable:
    first = parts[0].dataset[name]
    dims = parts[0].dims(name)
    readers = [VariableRows(part.dataset[name].variable, part.dims(name), f"{name} of {part.path}") for part in parts]
    stored = first.encoding.get("preferred_chunks", {}).get(dims[0], 1)
    cells = tuple(first.sizes[dim] for dim in dims[1:])
    array = lazy_array(readers, [len(part.times) for part in parts], cells, stored=stored)
    attrs = common_attrs(_unpacked(part.dataset[name]) for part in parts)
    if "units" in first.attrs:
        # Known to be the same unit in every file, if not to the letter.
        attrs["units"] = first.attrs["units"]
    return xr.Variable(("time", *dims[1:]), array, _plain(attrs))


def _unpacked(variable: xr.DataArray) -> dict[str, Any]:
    """Attributes with the limits of packed values in physical units (CF 1.11, 8.1)."""
    attrs = dict(variable.attrs)
    packed = variable.encoding.get("dtype")
    if {"scale_factor", "add_offset"} & set(variable.encoding):
        for name in _LIMITS:
            limit = np.asarray(attrs.get(name, np.nan))
            # Limits of the packed kind are packed; those of the kind of the scale are not.
            if limit.dtype.kind in "iu" and np.dtype(packed).kind in "iu":
                unpacked = limit * variable.encoding.get("scale_factor", 1.0) + variable.encoding.get("add_offset", 0.0)
                attrs[name] = unpacked.item() if unpacked.ndim == 0 else unpacked
    return attrs


def _plain(attrs: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Attributes but those that name variables left behind."""
    return {name: value for name, value in attrs.items() if name not in (*_REFERENCES, *others)}


def common_attrs(attrs: Iterable[Mapping[Any, Any]]) -> dict[str, Any]:
    """The attributes that are the same everywhere."""
    first, *others = attrs
    return {
        str(name): value
        for name, value in first.items()
        if all(name in other and np.array_equal(other[name], value) for other in others)
    }


def join_variables(series: Iterable[xr.Dataset]) -> xr.Dataset:
    """One series with the variables of several that have the same times and the same grid.

    Raises:
        StforecastError: ARGUMENT if two have a variable of the same name; TIME_RANGE, TIME_GAP or GRID_SHAPE, naming
            variables of both and where they differ.
    """
    joined, *others = series
    for other in others:
        _check_joinable(other, joined)
        # Grids are equal within rounding, so the first one's coordinates stand for all.
        joined = xr.merge([joined, other], compat="override", join="override", combine_attrs="drop_conflicts")
    return joined


def _check_joinable(other: xr.Dataset, first: xr.Dataset) -> None:
    names = ", ".join(map(str, other.data_vars)), ", ".join(map(str, first.data_vars))
    twice = sorted(str(name) for name in set(other.data_vars) & set(first.data_vars))
    if twice:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{', '.join(twice)} is there twice; choose one source of it with variables=[…]"
        )
    times, wanted = other["time"].to_numpy(), first["time"].to_numpy()
    ranges = [f"{show_time(each[0])} to {show_time(each[-1])}" for each in (times, wanted)]
    if ranges[0] != ranges[1]:
        raise StforecastError(
            ErrorKind.TIME_RANGE,
            f"{names[0]} covers {ranges[0]} but {names[1]} covers {ranges[1]}; choose among them with "
            "variables=[…], or cut the files to the same times",
        )
    apart = np.setxor1d(times, wanted)
    if len(apart):
        lacking = names[0] if apart[0] in wanted else names[1]
        raise StforecastError(
            ErrorKind.TIME_GAP,
            f"{len(apart)} times are not in all of {names[0]} and {names[1]}; {lacking} lacks {show_time(apart[0])}; "
            "choose among them with variables=[…]",
        )
    if Grid.of(other) != Grid.of(first):
        raise StforecastError(
            ErrorKind.GRID_SHAPE,
            f"{names[0]} is on the grid {Grid.of(other)} but {names[1]} on {Grid.of(first)}; regrid one, or choose "
            "among them with variables=[…]",
        )
    for dim in set(other.coords) & set(first.coords):
        if axis_of(first, dim) == "Z" and not other[dim].equals(first[dim]):
            raise StforecastError(
                ErrorKind.GRID_SHAPE,
                f"{names[0]} has the levels {other[dim].to_numpy()} but {names[1]} has {first[dim].to_numpy()}; choose "
                "common ones with levels=[…]",
            )
