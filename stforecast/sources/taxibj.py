"""City flows in the layout of TaxiBJ: HDF5 files of counts by half hour, with slots instead of times.

Zhang, Zheng and Qi: Deep Spatio-Temporal Residual Networks for Citywide Crowd Flows Prediction, AAAI 2017,
doi:10.1609/aaai.v31i1.10735.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.local_time import check_local_times
from stforecast.sources.cf import common_attrs, in_time_order
from stforecast.sources.raw_files import HDF5_SUFFIXES, Stamp, at_rest, check_file, find_files, hdf5_file, is_hdf5
from stforecast.sources.selection import Selection
from stforecast.sources.slabs import Frames, Key, lazy_array
from stforecast.sources.slots import slot_times
from stforecast.sources.taxibj_sides import METEOROLOGY, side_coordinates
from stforecast.time_axis import Times, check_times

CHANNELS = {"inflow": "vehicles flowing into the cell", "outflow": "vehicles flowing out of the cell"}
_BEIJING_TIME_ZONE = "Asia/Shanghai"
# The files do not say; this is the extent that users of the data have found to fit, good enough for a map.
_BEIJING_BOUNDS = (39.83, 40.12, 116.25, 116.64)


@dataclass(frozen=True, eq=False)
class _Period:
    """One file: the times of its frames, and how many rows and columns they have."""

    stamp: Stamp
    times: Times
    cells: tuple[int, int]
    stored: int
    attrs: dict[str, Any]

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.stamp.path

    @property
    def is_beijing(self) -> bool:
        """Whether this is a file of TaxiBJ itself; the files do not say it but by their name and size."""
        return self.path.name.startswith("BJ") and self.cells == (32, 32)


@dataclass(frozen=True, eq=False)
class _ChannelRows:
    """Reads frames of one channel of one file."""

    stamp: Stamp
    channel: int

    def __call__(self, keys: tuple[Key, ...]) -> Frames:
        rows, *cells = keys
        with at_rest(self.stamp), hdf5_file(self.stamp.path) as file:
            if isinstance(rows, slice):
                frames = file["data"][rows, self.channel]
            else:  # HDF5 takes increasing rows only
                first, last = int(np.min(rows)), int(np.max(rows))
                frames = file["data"][first : last + 1, self.channel][rows - first]
        # One axis at a time, the last first: integers take axes away.
        for axis, key in reversed(list(enumerate(cells, start=1))):
            frames = frames[(slice(None),) * axis + (key,)]
        # What float32 cannot hold becomes infinite, and that is refused with its place where the series is prepared.
        with np.errstate(over="ignore"):
            return np.asarray(frames, np.float32)


def is_taxibj(path: Path) -> bool:
    """Whether a file, or the first *.h5 of a folder, is in this layout: `data` or `date` and no netCDF dimensions."""
    try:
        first = find_files(path, suffixes=HDF5_SUFFIXES)[0]
    except StforecastError:
        return False
    if not first.is_file() or not is_hdf5(first):
        return False
    check_file(first)
    with hdf5_file(first) as file:
        has_dimensions = any(member.attrs.get("CLASS") == b"DIMENSION_SCALE" for member in file.values())
        return not has_dimensions and bool({"data", "date"} & set(file))


def read(
    path: Path,
    selection: Selection,
    *,
    bounds: tuple[float, float, float, float] | None = None,
    time_zone: str | None = None,
) -> xr.Dataset:
    """A lazy series of inflow and outflow, of one file or of all periods in a folder, with gaps where slots are absent.

    Dimensions are (time, row, column), row 0 in the north and column 0 in the west. Time is the start of the half hour
    on the city's clock. Files of TaxiBJ itself (BJ…, 32x32) are known to be in Beijing. Where TaxiBJ's list of holidays
    and its meteorology lie beside, they are coordinates along time: see `side_coordinates`.

    Args:
        path: a file, a pattern, or a folder of *.h5.
        selection: variables "inflow", "outflow" or both, and a period.
        bounds: edges of the grid in degrees: south, north, west, east.
        time_zone: IANA name of the city's clock.

    Raises:
        StforecastError: FILE_MISSING, FILE_FORMAT, VAR_MISSING, SHAPE, TIME_SLOT, GRID_SHAPE, TIME_OVERLAP or what
            `check_times` and `check_local_times` refuse, naming the file and the place in it; EMPTY_SELECTION for a
            period without frames.
    """
    names = list(CHANNELS) if selection.variables is None else list(dict.fromkeys(selection.variables))
    unknown = [name for name in names if name not in CHANNELS]
    if unknown:
        raise StforecastError(
            ErrorKind.VAR_MISSING, f"{path}: no variable {', '.join(unknown)}; there are {', '.join(CHANNELS)}"
        )
    periods = in_time_order(_open(file, time_zone) for file in period_files(path))
    for period in periods[1:]:
        if period.cells != periods[0].cells:
            raise StforecastError(
                ErrorKind.GRID_SHAPE,
                f"{period.path} has {_show(period.cells)} cells but {periods[0].path} has {_show(periods[0].cells)}; "
                "open them apart",
            )
    series = _join(periods, names, bounds, time_zone)
    rows = selection.rows(series["time"].to_numpy())
    if rows.start == rows.stop:
        raise selection.nothing_left(periods[0].times[0], periods[-1].times[-1])
    return series.isel(time=rows)


def period_files(path: Path) -> list[Path]:
    """The files of flows that a path means, sorted by name.

    Raises:
        StforecastError: FILE_MISSING, if there is none.
    """
    files = [file for file in find_files(path, suffixes=HDF5_SUFFIXES) if METEOROLOGY not in file.name]
    if not files:
        raise StforecastError(
            ErrorKind.FILE_MISSING, f"{path}: wanted *.h5 with data and date, found {METEOROLOGY} only"
        )
    return files


def _join(
    periods: Sequence[_Period],
    names: Sequence[str],
    bounds: tuple[float, float, float, float] | None,
    time_zone: str | None,
) -> xr.Dataset:
    is_beijing = all(period.is_beijing for period in periods)
    times = np.concatenate([period.times for period in periods])
    return xr.Dataset(
        {name: _channel(periods, name) for name in names},
        {
            "time": _time(times, time_zone or (_BEIJING_TIME_ZONE if is_beijing else None)),
            **side_coordinates(periods[0].path, times),
            **_cells(periods[0].cells, bounds, is_beijing=is_beijing),
        },
        common_attrs(period.attrs for period in periods),
    )


def _open(path: Path, time_zone: str | None) -> _Period:
    if not path.is_file() or not is_hdf5(path):
        check_file(path)
        raise StforecastError(ErrorKind.FILE_FORMAT, f"{path} is not an HDF5 file, wanted one with data and date")
    stamp = check_file(path)
    with hdf5_file(path) as file:
        missing = [name for name in ("data", "date") if not isinstance(file.get(name), h5py.Dataset)]
        if missing:
            raise StforecastError(
                ErrorKind.VAR_MISSING,
                f"{path} has no dataset {' and no '.join(missing)}; it has {', '.join(file) or 'none'}; TaxiBJ's "
                "layout is data (n, 2, rows, columns) and date (n)",
            )
        data, date = file["data"], file["date"]
        if data.ndim != 4 or data.shape[1] != 2 or 0 in data.shape or data.dtype.kind not in "iuf":
            raise StforecastError(
                ErrorKind.SHAPE, f"data of {path} is {data.dtype} {data.shape}, wanted numbers (n, 2, rows, columns)"
            )
        if date.shape != data.shape[:1]:
            raise StforecastError(
                ErrorKind.SHAPE, f"{path} has data of {data.shape[0]} frames but date of {date.shape}; mend the file"
            )
        times = slot_times(np.asarray(date[()], dtype="S"), name=f"date of {path}")
        check_local_times(times, time_zone, name=f"date of {path}")
        check_times(times, name=f"date of {path}")
        attrs = {name: value for name, value in file.attrs.items() if isinstance(value, str)}
        stored = data.chunks[0] if data.chunks else 1
        return _Period(stamp, times, data.shape[2:], stored, attrs)


def _time(times: Times, time_zone: str | None) -> xr.Variable:
    attrs = {"standard_name": "time", "long_name": "local time, start of the half hour"}
    zone = {"time_zone": time_zone} if time_zone is not None else {}
    return xr.Variable("time", times, attrs | zone)


def _channel(periods: Sequence[_Period], name: str) -> xr.Variable:
    channel = list(CHANNELS).index(name)
    array = lazy_array(
        [_ChannelRows(period.stamp, channel) for period in periods],
        [len(period.times) for period in periods],
        periods[0].cells,
        stored=periods[0].stored,
    )
    attrs = {"units": "1", "long_name": CHANNELS[name], "valid_min": 0.0}
    return xr.Variable(("time", "row", "column"), array, attrs)


def _cells(
    cells: tuple[int, int], bounds: tuple[float, float, float, float] | None, *, is_beijing: bool
) -> dict[str, xr.Variable]:
    rows, columns = cells
    coordinates = {
        "row": xr.Variable("row", np.arange(rows), {"axis": "Y", "long_name": "row, counted from the north"}),
        "column": xr.Variable(
            "column", np.arange(columns), {"axis": "X", "long_name": "column, counted from the west"}
        ),
    }
    if bounds is None and not is_beijing:
        return coordinates
    south, north, west, east = bounds or _BEIJING_BOUNDS
    comment = {} if bounds else {"comment": "approximate: the files of TaxiBJ do not give their extent"}
    return coordinates | {
        "latitude": xr.Variable(
            "row",
            north - (np.arange(rows) + 0.5) * (north - south) / rows,
            {"standard_name": "latitude", "long_name": "latitude of cell centres", "units": "degrees_north", **comment},
        ),
        "longitude": xr.Variable(
            "column",
            west + (np.arange(columns) + 0.5) * (east - west) / columns,
            {
                "standard_name": "longitude",
                "long_name": "longitude of cell centres",
                "units": "degrees_east",
                **comment,
            },
        ),
    }


def _show(cells: tuple[int, int]) -> str:
    return f"{cells[0]}x{cells[1]}"
