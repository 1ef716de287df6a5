"""Series from any CF netCDF file or zarr store, or from several that follow each other in time."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, axis_of, find_dims
from stforecast.limits import unpacked_attrs
from stforecast.local_time import check_local_times
from stforecast.netcdf import open_netcdf
from stforecast.sources import era5
from stforecast.sources.cf_time import decode_times, shows_durations
from stforecast.sources.raw_files import Location, Stamp, check_file, find_files, in_one_line, is_url, is_zarr, naming
from stforecast.sources.selection import Selection
from stforecast.sources.slabs import FilledRows, Reader, VariableRows, lazy_array
from stforecast.sources.zarr_stores import open_store
from stforecast.time_axis import Times, check_times, show_time
from stforecast.units import canonical_units

# They name variables that a series does not carry along.
_REFERENCES = ("bounds", "climatology", "grid_mapping", "coordinates", "cell_measures", "ancillary_variables")
_SERIES_AXES = ("T", "Z", "Y", "X")
# ERA5's experiment versions: what is final, and what may still be corrected (ERA5T).
_EXPVER, _FINAL, _PRELIMINARY = "expver", "1", "5"


class _Timed(Protocol):
    @property
    def path(self) -> Location: ...
    @property
    def times(self) -> Times: ...


_TimedFile = TypeVar("_TimedFile", bound=_Timed)


@dataclass(frozen=True, eq=False)
class Opened:
    """A file whose values have not been read.

    Attributes:
        path: where it lies.
        dataset: all that is in it, times as the numbers they are.
        names: those of its variables that could be a series.
        static: those that could be a field without time.
        stamp: the file as it was; None for a store.
    """

    path: Location
    dataset: xr.Dataset
    names: frozenset[str]
    static: frozenset[str]
    stamp: Stamp | None = None

    @classmethod
    def of(cls, path: Location, dataset: xr.Dataset, stamp: Stamp | None = None) -> "Opened":
        """A file with what is opened of it."""
        bounds = {str(variable.attrs.get("bounds")) for variable in dataset.variables.values()}
        numbers = {
            str(name): variable
            for name, variable in dataset.variables.items()
            if name not in bounds and name not in dataset.dims and variable.dtype.kind in "iuf"
        }
        names = {name for name, variable in numbers.items() if variable.ndim >= 3 and name in dataset.data_vars}
        static = {name for name, variable in numbers.items() if _is_static(dataset, variable)}
        return cls(path, dataset, frozenset(names), frozenset(static), stamp)

    def dtype(self, name: str) -> str:
        """How the file keeps the values of a variable, e.g. int16."""
        variable = self.dataset[name]
        return str(variable.encoding.get("dtype", variable.dtype))


def _is_static(dataset: xr.Dataset, variable: xr.Variable) -> bool:
    return variable.ndim == 2 and {axis_of(dataset, dim) for dim in variable.dims} == {"Y", "X"}


@dataclass(frozen=True, eq=False)
class _Part:
    """What one file has of a series, values not read and dimensions in the file's order.

    Attributes:
        file: the file.
        dataset: the variables that are wanted.
        times: of its frames.
        grid: on which they are.
        versions: ERA5's experiment versions that the frames are of; empty where nothing tells.
        preliminary: what stands in where `dataset` has no value, if anything does.
    """

    file: Opened
    dataset: xr.Dataset
    times: Times
    grid: Grid
    versions: frozenset[str]
    preliminary: xr.Dataset | None

    @property
    def path(self) -> Location:
        """Where the file lies."""
        return self.file.path

    def dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of a variable in the order (time, [level,] Y, X)."""
        time, y, x = find_dims(self.dataset, "T", "Y", "X")
        inner = [str(dim) for dim in self.dataset[name].dims if dim not in (time, y, x)]
        return (time, *inner, y, x)

    def rows(self, name: str) -> Reader:
        """What reads frames of a variable."""
        where = f"{name} of {self.path}"
        rows = VariableRows(self.dataset[name].variable, self.dims(name), where, self.file.stamp)
        if self.preliminary is None:
            return rows
        return FilledRows(rows, replace(rows, variable=self.preliminary[name].variable))

    def cut(self, rows: slice) -> "_Part":
        """The part with some of its frames."""
        if rows == slice(0, len(self.times)):
            return self
        (time,) = find_dims(self.dataset, "T")
        return replace(
            self,
            dataset=self.dataset.isel({time: rows}),
            times=self.times[rows],
            preliminary=None if self.preliminary is None else self.preliminary.isel({time: rows}),
        )


def read(location: Location, selection: Selection) -> xr.Dataset:
    """A lazy series of all files and zarr stores that a path means.

    Args:
        location: a file, a zarr store, a glob pattern, a folder, or the URL of a zarr store.
        selection: what of it is wanted; all variables that have time and a grid by default.

    Raises:
        StforecastError: FILE_MISSING, and what `read_files` raises.
    """
    return read_files([location] if is_url(location) else find_files(Path(location)), selection)


def read_files(locations: Sequence[Location], selection: Selection) -> xr.Dataset:
    """A lazy series of files that follow each other in time or have different variables.

    Raises:
        StforecastError: what `open_file` and `read_opened` raise.
    """
    with ExitStack() as stack:
        return read_opened([open_file(location, stack) for location in locations], selection)


def read_opened(opened: Sequence[Opened], selection: Selection) -> xr.Dataset:
    """A lazy series of opened files that follow each other in time or have different variables.

    Each file is decoded by its own scale, offset and fill value. Files with the same variables are put one after the
    other in order of their times, whole. Attributes that differ between files are left out. No file stays open; reading
    opens it again. Static fields come from the first file that has them and are coordinates (Y, X), in memory.

    Raises:
        StforecastError: FILE_FORMAT, VAR_MISSING, DIMS, SHAPE, GRID_SHAPE, UNITS, METADATA, EMPTY_SELECTION for levels
            or a period that are not there, or a fault of the time axis, with the name of the file.
    """
    names = _chosen(opened, selection.variables)
    series = join_variables(
        _concatenate(group, [name for name in names if any(name in file.names for file in group)], selection)
        for group in _sharing_variables(opened)
        if any(file.names & set(names) for file in group)
    )
    return with_static(series[names], opened, selection.static)


def open_file(location: Location, stack: ExitStack) -> Opened:
    """A netCDF file or a zarr store with its values not read, closed with the stack.

    Raises:
        StforecastError: what `check_file` or `check_store` refuses; FILE_FORMAT.
    """
    if is_url(location) or is_zarr(Path(location)):
        dataset, stamp = open_store(location), None
    else:
        stamp = check_file(Path(location))
        dataset = _open_netcdf(Path(location))
    stack.callback(dataset.close)
    return Opened.of(location, dataset, stamp)


def _open_netcdf(path: Path) -> xr.Dataset:
    # Times are decoded apart: xarray leaves what it cannot decode as numbers. And a duration stays the number it is.
    options: dict[str, Any] = {"chunks": None, "cache": False, "decode_times": False, "decode_timedelta": False}
    try:
        with warnings.catch_warnings():
            # NOAA's files give _FillValue and another missing_value; both become NaN, as they should.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            return open_netcdf(path, **options)
    except Exception as error:  # damaged metadata raise whatever the line that meets them raises
        raise StforecastError(
            ErrorKind.FILE_FORMAT, f"{path} cannot be read: {in_one_line(error)}; fetch the file anew"
        ) from error


def with_static(series: xr.Dataset, opened: Sequence[Opened], names: Sequence[str]) -> xr.Dataset:
    """The series with fields without a time as coordinates (Y, X), float32, in memory and on the series' grid.

    Raises:
        StforecastError: VAR_MISSING, naming what there is; GRID_SHAPE; UNITS if a field has none and is none of ERA5's.
    """
    offered = sorted(frozenset[str]().union(*(file.static for file in opened)))
    missing = [name for name in names if name not in offered]
    if missing:
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"{opened[0].path}: no static field {', '.join(missing)}; there are {', '.join(offered) or 'none'}",
        )
    sources = {name: next(file for file in opened if name in file.static) for name in names}
    return series.assign_coords({name: _static_field(series, file, name) for name, file in sources.items()})


def _static_field(series: xr.Dataset, file: Opened, name: str) -> xr.Variable:
    found = file.dataset[name].reset_coords(drop=True).to_dataset(name=name)
    units = found[name].attrs.get("units", era5.units_of(name))
    if units is None:
        raise StforecastError(
            ErrorKind.UNITS, f"{file.path}: static field {name} has no units; add them, '1' if it has none"
        )
    with naming(file.path):
        grid, own = Grid.of(series), Grid.of(found)
        rows, columns = grid.positions_in(own)
    field = found[name].transpose(own.y_name, own.x_name).to_numpy()[np.ix_(rows, columns)]
    return xr.Variable(
        (grid.y_name, grid.x_name), field.astype(np.float32), _plain(found[name].attrs) | {"units": units}
    )


def _chosen(opened: Sequence[Opened], variables: Sequence[str] | None) -> list[str]:
    """The names asked for, or all there are."""
    offered = sorted(frozenset[str]().union(*(file.names for file in opened)))
    if not offered:
        found = [f"{name}{tuple(map(str, data.dims))}" for name, data in opened[0].dataset.data_vars.items()]
        raise StforecastError(
            ErrorKind.SHAPE,
            f"{opened[0].path}: wanted numbers by (time, [level,] Y, X), found {', '.join(found) or 'no variable'}",
        )
    missing = [name for name in variables or () if name not in offered]
    if missing:
        where = opened[0].path if len(opened) == 1 else Path(opened[0].path).parent
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"{where}: no variable {', '.join(missing)} by (time, [level,] Y, X); there are {', '.join(offered)}",
        )
    return offered if variables is None else list(dict.fromkeys(variables))


def _sharing_variables(opened: Sequence[Opened]) -> list[list[Opened]]:
    """Files grouped so that those in different groups have no variable in common."""
    groups: list[list[Opened]] = []
    for file in opened:
        shared = [group for group in groups if any(file.names & other.names for other in group)]
        groups = [group for group in groups if group not in shared]
        groups.append([*(other for group in shared for other in group), file])
    return groups


def _concatenate(files: Sequence[Opened], names: Sequence[str], selection: Selection) -> xr.Dataset:
    for file in files:
        _check_complete(file, names, files)
    whole = in_time_order([_part(file, names, selection) for file in files])
    parts = [part for part in (each.cut(selection.rows(each.times)) for each in whole) if len(part.times)]
    if not parts:
        raise selection.nothing_left(whole[0].times[0], whole[-1].times[-1])
    _check_versions(parts, selection)
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
        _plain(common_attrs(part.dataset.attrs for part in parts)),
    )


def _check_complete(file: Opened, names: Sequence[str], files: Sequence[Opened]) -> None:
    missing = [name for name in names if name not in file.names]
    if missing:
        other = next(other for other in files if missing[0] in other.names)
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"{file.path} ({_span(file)}) has no variable {', '.join(missing)}, but {other.path} has; fetch that file "
            f"anew, or choose among the variables of both: {', '.join(sorted(file.names & other.names))}",
        )


def _span(file: Opened) -> str:
    """The times that a file covers, as well as it can be told."""
    try:
        (time,) = find_dims(file.dataset[list(file.names)], "T")
        times = decode_times(file.dataset[time].variable, name=time)
    except (StforecastError, KeyError) as error:
        return f"times unknown: {in_one_line(error)}"
    return f"{show_time(times.min())} to {show_time(times.max())}" if len(times) else "no times"


def _part(file: Opened, names: Sequence[str], selection: Selection) -> _Part:
    dataset = file.dataset[list(names)]
    with naming(file.path):
        check_no_forecast(dataset)
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
        versions = _versions(file.dataset)
        dataset, preliminary = _split_versions(dataset.isel(spare, drop=True))
        _check_dims(dataset, (time, y, x))
        if selection.levels is not None:
            dataset = select_levels(dataset, selection.levels)
            preliminary = preliminary and select_levels(preliminary, selection.levels)
        grid = Grid.of(dataset)
    name = f"{time} of {file.path}"
    times = decode_times(dataset[time].variable, name=name)
    check_local_times(times, dataset[time].attrs.get("time_zone"), name=name)
    check_times(times, name=name)
    return _Part(file, dataset, times, grid, versions, preliminary)


def check_no_forecast(dataset: xr.Dataset) -> None:
    """Refuse data with several lead times: they have several values for one time.

    Raises:
        StforecastError: TIME_UNITS if the leads are plain numbers, which could be hours or nanoseconds; DIMS otherwise.
    """
    for dim in [str(dim) for dim in dataset.dims if axis_of(dataset, dim) == "lead_time" and dataset.sizes[dim] > 1]:
        lead = dataset[dim].variable
        if dim not in dataset.coords or not shows_durations(lead):
            values = ", ".join(str(value) for value in lead.to_numpy()[:3])
            raise StforecastError(
                ErrorKind.TIME_UNITS,
                f"the lead {dim} is plain numbers ({values}, …) without units: hours or nanoseconds; write "
                f"it as durations, e.g. dataset.assign_coords({dim}=dataset['{dim}'] * numpy.timedelta64(1, 'h'))",
            )
        raise StforecastError(
            ErrorKind.DIMS,
            f"this is a forecast, not a series: it has {lead.size} leads along {dim}; open what it was made from, or "
            f"take one lead of it, e.g. dataset.isel({dim}=0)",
        )


def _versions(dataset: xr.Dataset) -> frozenset[str]:
    """ERA5's experiment versions in a file: of a dimension or of each time, 1 written as 0001 or not."""
    if _EXPVER not in dataset.variables:
        return frozenset()
    values = np.unique(dataset[_EXPVER].to_numpy().astype(str))
    return frozenset(value.strip().lstrip("0") or "0" for value in values)


def _split_versions(dataset: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Data without the dimension expver: the final ones, and those that stand in where these have no value."""
    if _EXPVER not in dataset.dims:
        return dataset, None
    versions = [str(value).strip().lstrip("0") for value in dataset[_EXPVER].to_numpy()]
    if set(versions) != {_FINAL, _PRELIMINARY}:
        raise StforecastError(
            ErrorKind.METADATA, f"expver holds the versions {', '.join(versions)}, wanted 1 or 1 and 5; select one"
        )
    final, preliminary = (dataset.isel({_EXPVER: versions.index(each)}, drop=True) for each in (_FINAL, _PRELIMINARY))
    return final, preliminary


def _check_versions(parts: Sequence[_Part], selection: Selection) -> None:
    versions = sorted(frozenset[str]().union(*(part.versions for part in parts)))
    if len(versions) > 1 and not selection.allow_preliminary:
        first = next(part for part in parts if part.versions - {versions[0]})
        raise StforecastError(
            ErrorKind.METADATA,
            f"{first.path} has frames of another expver ({', '.join(sorted(first.versions))}) than the rest: ERA5's "
            "final frames (1) and preliminary ones (5), which may still be corrected, are mixed; declare that with "
            "allow_preliminary=True (--allow-preliminary), or choose a period before them",
        )


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


def select_levels(dataset: xr.Dataset, levels: Sequence[float]) -> xr.Dataset:
    """The data at some values of the level axis, in the order asked for.

    Raises:
        StforecastError: EMPTY_SELECTION, naming those that are not there and all that are.
    """
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


def check_grid(found: Grid, path: Location, wanted: Grid, wanted_path: Location) -> None:
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
    readers = [part.rows(name) for part in parts]
    stored = first.encoding.get("preferred_chunks", {}).get(dims[0], 1)
    cells = tuple(first.sizes[dim] for dim in dims[1:])
    array = lazy_array(readers, [len(part.times) for part in parts], cells, stored=stored)
    attrs = common_attrs(unpacked_attrs(part.dataset[name]) for part in parts)
    if "units" in first.attrs:
        # Known to be the same unit in every file, if not to the letter.
        attrs["units"] = first.attrs["units"]
    return xr.Variable(("time", *dims[1:]), array, _plain(attrs))


def _plain(attrs: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Attributes but those that name variables left behind, and those of cfgrib that tell how a message is packed."""
    left_out = (*_REFERENCES, *others)
    return {name: value for name, value in attrs.items() if name not in left_out and not name.startswith("GRIB_")}


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
        is_apart = times[-1] < wanted[0] or wanted[-1] < times[0]
        raise StforecastError(
            ErrorKind.TIME_RANGE if is_apart else ErrorKind.TIME_GAP,
            f"{names[0]} covers {ranges[0]} but {names[1]} covers {ranges[1]}; choose among them with "
            "variables=[…], or a time that all cover with period=(…) (--period)",
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
