"""A series on another grid, other levels or another step: by choice, lazily, labels staying with their values."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, Positions, cell_bounds, check_series, find_dims
from stforecast.sources.cf import select_levels
from stforecast.time_axis import parse_step, show_step, show_time

LatitudeOrder = Literal["ascending", "descending"]
LongitudeConvention = Literal["0..360", "-180..180"]
Resampling = Literal["instant", "mean", "sum"]
Region = tuple[float, float, float, float]
Regridding = Literal["linear", "conservative"]

_FIRST_LONGITUDE = {"0..360": 0.0, "-180..180": -180.0}
# A cell whose centre is on the edge of a region is in it, though both come from rounded numbers.
_EDGE = 1e-6
# Cells that touch share some 1e-16 of an axis by rounding.
_LEAST_SHARE = 1e-9


def harmonise(
    series: xr.Dataset,
    *,
    levels: Sequence[float] | None = None,
    step: timedelta | np.timedelta64 | str | None = None,
    resample: Resampling | None = None,
    drop_partial: bool = False,
    region: Region | None = None,
    coarsen: int | None = None,
    like: xr.Dataset | Grid | None = None,
    regrid: Regridding = "linear",
    latitude: LatitudeOrder | None = None,
    longitude: LongitudeConvention | None = None,
) -> xr.Dataset:
    """The series after the changes that are asked for, made in the order of the arguments; nothing is loaded.

    What is not asked for stays as it is, NaN among it: a mean or an interpolation of something with NaN is NaN. The
    attribute `harmonised` says what was done. Static fields follow their cells, and holidays and weather their times.

    Args:
        series: (time, [level,] Y, X) with units.
        levels: values of the level axis to keep, in this order.
        step: a longer step, a multiple of the series' own, e.g. "6h"; frames are counted from 1970-01-01T00:00.
        resample: how: "instant" keeps the frames at multiples of the step; "mean" and "sum" put all frames from a
            multiple on, up to but not including the next, into one that is labelled by the first, so that what it
            holds is known only a step later. Counts and precipitation want sums, what is measured at an instant means.
        drop_partial: declares that a mean or sum with frames absent is left out, which makes a gap; else it is refused.
        region: edges in degrees: south, north, west, east. Cells whose centres lie between them stay. West may be
            larger than east, and either may follow any convention: (30, 60, 350, 20) and (30, 60, -10, 20) are one.
        coarsen: how many rows and columns become one, as the mean weighted by the cells' true areas; counts become
            counts by old cell.
        like: a series, as an opened store, on whose grid it is to be; inside the series' own.
        regrid: how: "linear" between centres, or "conservative", means by shared area: for coarser grids.
        latitude: the direction of the rows.
        longitude: the convention of the columns.

    Raises:
        StforecastError: what `check_series` refuses; ARGUMENT for a choice that is none or contradicts another; for a
            plane grid DIMS; EMPTY_SELECTION for a region or levels that are not there, naming both ranges; SHAPE for
            rows or columns that a coarser grid would leave over; TIME_FREQ for a step that is no multiple; TIME_GAP for
            a partial mean; GRID_SHAPE for a grid that reaches out of the series'; GRID_LON where columns that are
            neighbours would be torn apart.

    Examples:
        >>> import pandas as pd
        >>> frames = np.arange(8.0)[:, None, None] + np.full((2, 3), 280.0)
        >>> series = xr.Dataset(
        ...     {"t2m": (("time", "lat", "lon"), frames, {"units": "K"})},
        ...     coords={"time": pd.date_range("2020", periods=8), "lat": [50.0, 40.0], "lon": [0.0, 10.0, 20.0]},
        ... )
        >>> changed = harmonise(series, step="2D", resample="mean", region=(35, 45, 0, 15), latitude="ascending")
        >>> dict(changed.sizes)
        {'time': 4, 'lat': 1, 'lon': 2}
        >>> changed["t2m"].isel(lat=0, lon=0).values
        array([280.5, 282.5, 284.5, 286.5])
    """
    check_series(series, allow_gaps=True)
    _check_choices(resample=resample, latitude=latitude, longitude=longitude, regrid=regrid)
    if like is not None and (coarsen or latitude or longitude):
        raise StforecastError(
            ErrorKind.ARGUMENT, "like= settles the whole grid; leave out coarsen, latitude and longitude"
        )
    if (step is None) != (resample is None):
        raise StforecastError(
            ErrorKind.ARGUMENT, "step and resample go together: say both, e.g. step='6h' and resample='instant'"
        )
    changed, done = series, []
    if levels is not None:
        changed = select_levels(changed, levels)
        done.append(f"levels {', '.join(f'{level:g}' for level in levels)}")
    if step is not None and resample is not None:
        length = parse_step(step, name="the step")
        changed = _resample(changed, length, resample, drop_partial=drop_partial)
        done.append(f"step {show_step(length)} by {resample}")
    if region is not None:
        changed = _select_region(changed, region)
        done.append(f"region {', '.join(f'{edge:g}' for edge in region)}")
    if coarsen is not None:
        changed = _coarsen(changed, coarsen)
        done.append(f"coarsened by {coarsen}")
    if like is not None:
        like = Grid.of(like) if isinstance(like, xr.Dataset) else like
        changed = _regrid(changed, like, regrid)
        done.append(f"regridded to {like}, {regrid}")
    if latitude is not None:
        changed = _order_latitude(changed, latitude)
        done.append(f"latitude {latitude}")
    if longitude is not None:
        changed = _to_convention(changed, longitude)
        done.append(f"longitude {longitude}")
    return _documented(changed, series, done)


def _check_choices(**given: str | None) -> None:
    choices = {
        "resample": Resampling,
        "latitude": LatitudeOrder,
        "longitude": LongitudeConvention,
        "regrid": Regridding,
    }
    for name, value in given.items():
        if value is not None and value not in get_args(choices[name]):
            raise StforecastError(
                ErrorKind.ARGUMENT, f"unknown {name} {value!r}; there are {', '.join(get_args(choices[name]))}"
            )


def _documented(changed: xr.Dataset, series: xr.Dataset, done: Sequence[str]) -> xr.Dataset:
    """The changed series with what was done in its attributes, and with what an interrupted build knows its data by."""
    if not done:
        return series
    before = [str(series.attrs["harmonised"])] if "harmonised" in series.attrs else []
    documented = changed.assign_attrs(series.attrs | {"harmonised": "; ".join([*before, *done])})
    documented.encoding = {key: value for key, value in series.encoding.items() if key == "source_files"}
    return documented


# --- Time


def _resample(
    series: xr.Dataset, step: np.timedelta64, resample: Resampling | None, *, drop_partial: bool
) -> xr.Dataset:
    (time,) = find_dims(series, "T")
    times = series[time].to_numpy().astype("datetime64[ns]")
    own_step = check_series(series, allow_gaps=True)
    count, rest = divmod(step, own_step)
    if rest or count < 1:
        raise StforecastError(
            ErrorKind.TIME_FREQ,
            f"the step {show_step(step)} is no multiple of the series' own, {show_step(own_step)}; choose one that is",
        )
    starts = times.astype(np.int64) // step.astype(np.int64) * step.astype(np.int64)
    if resample == "instant":
        rows = np.flatnonzero(starts == times.astype(np.int64))
        _check_any(rows, time, step)
        return series.isel({time: rows})
    rows = _whole_windows(starts, int(count), time, drop_partial=drop_partial)
    _check_any(rows, time, step)
    return _collapse(series.isel({time: _as_slice(rows)}), time, int(count), str(resample))


def _check_any(rows: Positions, time: str, step: np.timedelta64) -> None:
    if not len(rows):
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION,
            f"no frame of {time} is left at a step of {show_step(step)}; choose a shorter one",
        )


def _whole_windows(starts: npt.NDArray[np.int64], count: int, time: str, *, drop_partial: bool) -> Positions:
    """The rows of the windows that have all their frames, in order."""
    _, window, sizes = np.unique(starts, return_inverse=True, return_counts=True)
    is_partial = (sizes < count)[window]
    if is_partial.any() and not drop_partial:
        row = int(is_partial.argmax())
        first = show_time(starts[row].astype("datetime64[ns]"))
        raise StforecastError(
            ErrorKind.TIME_GAP,
            f"{int((sizes < count).sum())} window(s) of {time} lack frames, the first from {first}, which has "
            f"{sizes[window[row]]} of {count}; declare with drop_partial=True (--drop-partial) that they are left out",
        )
    return np.flatnonzero(~is_partial)


def _as_slice(rows: Positions) -> Positions | slice:
    """Rows as a slice where they follow each other, which files read at once."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows


def _collapse(series: xr.Dataset, time: str, count: int, method: str) -> xr.Dataset:
    """Each `count` frames as one, labelled by the first."""
    first = series.isel({time: slice(None, None, count)})
    collapsed: dict[Any, Any] = {}
    for name, variable in series.variables.items():
        if time in variable.dims and (name in series.data_vars or (name != time and variable.dtype.kind == "f")):
            windows = _blocks(variable.astype(np.float64), {time: count}, method)
            attrs = variable.attrs | {"cell_methods": _joined(variable.attrs.get("cell_methods"), f"{time}: {method}")}
            limits = ("valid_max", "valid_range") if method == "sum" else ()
            windows.attrs = {key: value for key, value in attrs.items() if key not in limits}
            collapsed[name] = windows.astype(_float_of(variable))
    data = {name: value for name, value in collapsed.items() if name in series.data_vars}
    others = {name: value for name, value in collapsed.items() if name not in series.data_vars}
    return first.assign(data).assign_coords(others)


def _joined(before: object, method: str) -> str:
    return method if before is None else f"{before} {method}"


# --- Cells


def _geographic(series: xr.Dataset, what: str) -> Grid:
    grid = Grid.of(series)
    if not grid.is_geographic:
        raise StforecastError(
            ErrorKind.DIMS,
            f"{what} is for latitudes and longitudes, but the grid is a plane of {grid.y_name} and {grid.x_name}; "
            "select by position, e.g. series.isel(…)",
        )
    return grid


def _select_region(series: xr.Dataset, region: Region) -> xr.Dataset:
    grid = _geographic(series, "region")
    if len(region) != 4:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"a region is (south, north, west, east) in degrees, four numbers, got {region}"
        )
    south, north, west, east = region
    if not (np.isfinite(region).all() and -90 <= south <= north <= 90 and -360 <= west <= 360 and -360 <= east <= 360):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"a region is (south, north, west, east) in degrees with south <= north, got {region}"
        )
    rows = np.flatnonzero((grid.y >= south - _EDGE) & (grid.y <= north + _EDGE))
    columns, longitudes = _columns_between(grid, west, east)
    for name, found, own, wanted in (
        (grid.y_name, rows, grid.y, (south, north)),
        (grid.x_name, columns, grid.x, (west, east)),
    ):
        if not len(found):
            raise StforecastError(
                ErrorKind.EMPTY_SELECTION,
                f"no cell has a {name} from {wanted[0]:g} to {wanted[1]:g}; the series has {own.min():g} to "
                f"{own.max():g}",
            )
    selected = _take(series, grid.x_name, columns)
    selected = _take(selected, grid.y_name, rows)
    return _relabel(selected, grid.x_name, longitudes)


def _columns_between(grid: Grid, west: float, east: float) -> tuple[Positions, npt.NDArray[np.float64]]:
    """The columns from west to east around the globe, in the data's direction, and labels that run on without a jump.

    The labels are the data's own wherever those do run on; else those of the convention in which they do, and where
    neither -180..180 nor 0..360 does, they count on past the end.
    """
    width = 360.0 if east - west >= 360 else (east - west) % 360
    offset = (grid.x - west + _EDGE) % 360 - _EDGE
    columns = np.flatnonzero(offset <= width + _EDGE)
    if not len(columns):
        return columns, grid.x[columns]
    columns = columns[np.argsort(offset[columns], kind="stable")]
    if not grid.is_eastward:
        columns = columns[::-1]
    own = grid.x[columns]
    candidates = [own, *(_in_convention(own, first) for first in _FIRST_LONGITUDE.values())]
    return columns, next((labels for labels in candidates if _runs_on(labels, grid)), west + offset[columns])


def _in_convention(longitudes: npt.NDArray[np.float64], first: float) -> npt.NDArray[np.float64]:
    """Longitudes from `first` on, up to but not including the same meridian again."""
    turned = (longitudes - first) % 360 + first
    # The remainder of a tiny negative number is 360 itself.
    return np.where(turned >= first + 360, first, turned)


def _runs_on(labels: npt.NDArray[np.float64], grid: Grid) -> bool:
    """Whether labels go one way with no step wider than the grid's widest."""
    steps = np.diff(labels) * (1 if grid.is_eastward else -1)
    widest = np.abs(np.diff(grid.x)).max() if len(grid.x) > 1 else 0.0
    return bool((steps > 0).all() and (steps <= 1.5 * widest).all())


def _order_latitude(series: xr.Dataset, order: LatitudeOrder) -> xr.Dataset:
    grid = _geographic(series, "latitude")
    is_ascending = len(grid.y) < 2 or grid.y[1] > grid.y[0]
    if len(grid.y) < 2 or is_ascending == (order == "ascending"):
        return series
    return series.isel({grid.y_name: slice(None, None, -1)})


def _to_convention(series: xr.Dataset, convention: LongitudeConvention) -> xr.Dataset:
    grid = _geographic(series, "longitude")
    labels = _in_convention(grid.x, _FIRST_LONGITUDE[convention])
    order = np.argsort(labels if grid.is_eastward else -labels, kind="stable")
    if not grid.spans_globe and not _runs_on(labels[order], grid):
        raise StforecastError(
            ErrorKind.GRID_LON,
            f"longitudes {grid.x[0]:g} to {grid.x[-1]:g} cross the seam of {convention}, which would tear neighbouring "
            "columns apart; keep their convention",
        )
    return _relabel(_take(series, grid.x_name, order), grid.x_name, labels[order])


def _take(series: xr.Dataset, dim: str, positions: Positions) -> xr.Dataset:
    """The series at some positions of an axis, as a slice where that says the same."""
    if np.array_equal(positions, np.arange(series.sizes[dim])):
        return series
    return series.isel({dim: _as_slice(positions)})


def _relabel(series: xr.Dataset, dim: str, labels: npt.NDArray[np.float64]) -> xr.Dataset:
    """The series with other labels of an axis, which keeps its attributes and its type."""
    old = series[dim].variable
    if np.array_equal(old.to_numpy(), labels):
        return series
    return series.assign_coords(
        {dim: xr.Variable(dim, labels.astype(np.result_type(old.dtype, np.float32)), old.attrs)}
    )


# --- Coarser and other grids


def _coarsen(series: xr.Dataset, count: int) -> xr.Dataset:
    if count < 1:
        raise StforecastError(ErrorKind.ARGUMENT, f"wanted coarsen of 1 or more, got {count}")
    grid = Grid.of(series)
    left_over = [
        f"{length} {name}"
        for name, length in zip((grid.y_name, grid.x_name), grid.shape, strict=True)
        if length % count
    ]
    if left_over:
        raise StforecastError(
            ErrorKind.SHAPE,
            f"coarsen={count} does not divide {' and '.join(left_over)}; choose a divisor of both, or a region first",
        )
    if count == 1:
        return series
    area = _cell_areas(grid)
    blocks = {grid.y_name: count, grid.x_name: count}
    coarse = {
        name: _block_mean(variable, area, blocks)
        for name, variable in series.variables.items()
        if set(blocks) & set(variable.dims) and name not in blocks
    }
    axes = {
        name: _block_axis(series, name, values, count)
        for name, values in ((grid.y_name, grid.y), (grid.x_name, grid.x))
    }
    rest = series.drop_vars([*coarse, *axes], errors="ignore")
    data = {name: coarse[name] for name in series.data_vars}
    others = {name: value for name, value in coarse.items() if name not in series.data_vars}
    return rest.assign_coords(axes | others).assign(data)


def _cell_areas(grid: Grid) -> xr.Variable:
    """Relative areas of cells, (y, x): of their rows by the sphere, of their columns by their widths."""
    width = np.abs(np.diff(cell_bounds(grid.x))) if grid.is_geographic else np.ones(len(grid.x))
    return xr.Variable((grid.y_name, grid.x_name), np.outer(grid.cell_area().to_numpy(), width))


def _block_mean(variable: xr.Variable, area: xr.Variable, blocks: dict[str, int]) -> xr.Variable:
    """The mean of a variable's blocks weighted by area, in float64 inside."""
    own = {dim: count for dim, count in blocks.items() if dim in variable.dims}
    weights = area.mean([dim for dim in blocks if dim not in own])
    total = _blocks(variable.astype(np.float64) * weights, own, "sum") / _blocks(weights, own, "sum")
    mean = total.transpose(*variable.dims).astype(_float_of(variable))
    mean.attrs = dict(variable.attrs)
    return mean


def _blocks(variable: xr.Variable, lengths: dict[str, int], method: str) -> xr.Variable:
    """The mean or sum of each block of a variable; NaN propagates."""
    reduced: xr.Variable = variable.coarsen(lengths, getattr(np, method))  # type: ignore[no-untyped-call]  # xarray's
    return reduced


def _float_of(variable: xr.Variable) -> np.dtype[Any]:
    return variable.dtype if variable.dtype.kind == "f" else np.dtype(np.float32)


def _block_axis(series: xr.Dataset, name: str, values: npt.NDArray[np.float64], count: int) -> xr.Variable:
    """The middles of blocks, between the outer bounds of their cells; rows and columns are counted anew."""
    if name not in series.coords or (series[name].dtype.kind in "iu" and not Grid.of(series).is_geographic):
        return xr.Variable(name, np.arange(len(values) // count), series[name].attrs if name in series.coords else {})
    bounds = cell_bounds(values)[::count]
    return xr.Variable(name, (bounds[:-1] + bounds[1:]) / 2, series[name].attrs)


def _regrid(series: xr.Dataset, like: Grid, method: Regridding) -> xr.Dataset:
    own = _geographic(series, "like")
    if not like.is_geographic:
        raise StforecastError(ErrorKind.GRID_SHAPE, f"a series on {own} cannot be put on the plane {like}")
    _check_inside(like, own)
    if method == "linear" and min(own.shape) < 2:
        raise StforecastError(
            ErrorKind.GRID_SHAPE, f"nothing is between the cells of {own}; use regrid='conservative' (--regrid)"
        )
    return _conservative(series, own, like) if method == "conservative" else _linear(series, own, like)


def _check_inside(like: Grid, own: Grid) -> None:
    """Refuse cells that lie out of the cells of the grid to interpolate from."""
    south, north = np.sort(cell_bounds(own.y)[[0, -1]]).clip(-90, 90)
    west, east = np.sort(cell_bounds(own.x)[[0, -1]])
    is_outside = ((like.y < south - _EDGE) | (like.y > north + _EDGE)).any()
    if not own.spans_globe:
        is_outside |= bool(((like.x - west + _EDGE) % 360 > east - west + 2 * _EDGE).any())
    if is_outside:
        raise StforecastError(
            ErrorKind.GRID_SHAPE, f"the grid {like} reaches out of the series' own {own}; choose a region of it"
        )


def _linear(series: xr.Dataset, own: Grid, like: Grid) -> xr.Dataset:
    """The series interpolated between cell centres; beyond the outermost centres the outermost values hold."""
    padded = _sorted(series, own)
    longitudes = padded[own.x_name].to_numpy()
    wanted_x = (like.x - longitudes[0]) % 360 + longitudes[0] if own.spans_globe else _near(like.x, longitudes)
    latitudes = padded[own.y_name].to_numpy()
    interpolated = padded.interp(
        {
            own.y_name: like.y.clip(latitudes[0], latitudes[-1]),
            own.x_name: wanted_x.clip(longitudes[0], longitudes[-1]),
        },
        method="linear",
        assume_sorted=True,
    )
    return _on(interpolated, series, own, like)


def _sorted(series: xr.Dataset, own: Grid) -> xr.Dataset:
    """The series with both axes ascending, in one chunk each, and a first column repeated past the end of the globe."""
    ascending = series.isel(
        {
            name: slice(None, None, -1 if len(values) > 1 and values[1] < values[0] else 1)
            for name, values in ((own.y_name, own.y), (own.x_name, own.x))
        }
    )
    if own.spans_globe:
        seam = ascending.isel({own.x_name: [0]})
        seam = _relabel(seam, own.x_name, seam[own.x_name].to_numpy().astype(np.float64) + 360)
        ascending = xr.concat([ascending, seam], own.x_name, data_vars="minimal", coords="minimal", compat="override")
    return ascending.chunk({own.y_name: -1, own.x_name: -1}) if series.chunks else ascending


def _near(longitudes: npt.NDArray[np.float64], own: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Longitudes by whole turns near the middle of a regional grid's own."""
    middle = (own[0] + own[-1]) / 2
    near: npt.NDArray[np.float64] = (longitudes - middle + 180) % 360 + middle - 180
    return near


def _on(regridded: xr.Dataset, series: xr.Dataset, own: Grid, like: Grid) -> xr.Dataset:
    """A regridded series with the labels of the grid that was asked for, the series' types, attributes and order."""
    axes = {
        name: xr.Variable(name, values, series[name].attrs if name in series.coords else {})
        for name, values in ((own.y_name, like.y), (own.x_name, like.x))
    }
    labelled = regridded.assign_coords(axes)
    restored = {name: _restored(labelled[name], series[name]) for name in (*series.data_vars, *series.coords)}
    data = {name: restored[name] for name in series.data_vars}
    others = {
        name: value for name, value in restored.items() if name not in series.data_vars and name not in labelled.dims
    }
    return labelled.assign_coords(others).assign(data)


def _restored(found: xr.DataArray, wanted: xr.DataArray) -> xr.Variable:
    restored = found.variable.transpose(*wanted.dims)
    if wanted.dtype.kind == "f":
        restored = restored.astype(wanted.dtype)
    restored.attrs = dict(wanted.attrs)
    return restored


def _conservative(series: xr.Dataset, own: Grid, like: Grid) -> xr.Dataset:
    """Means over the cells of the wanted grid, weighted by the areas that they share with the series' cells.

    Both grids are products of rows and columns, so an area that is shared is a share of rows times one of columns. It
    is written here because the library at hand (xarray-regrid 0.4) adds rows at the poles to a grid that has none, and
    is off by 0.7 K there on noise of 5 K.
    """
    rows = _overlaps(*(np.sin(np.deg2rad(cell_bounds(grid.y).clip(-90, 90))) for grid in (like, own)))
    columns = np.zeros((len(like.x), len(own.x)))
    for turn in (-720, -360, 0, 360, 720):  # labels of either convention, and of regions that count on past its end
        columns += _overlaps(cell_bounds(like.x) + turn, cell_bounds(own.x))
    mixed = {
        name: _mixed(_mixed(series[name], own.y_name, rows), own.x_name, columns)
        for name in (*series.data_vars, *series.coords)
        if name not in (own.y_name, own.x_name)
    }
    data = {name: mixed[name] for name in series.data_vars}
    others = {name: value for name, value in mixed.items() if name not in series.data_vars}
    return _on(xr.Dataset(data, others, series.attrs), series, own, like)


def _overlaps(wanted: npt.NDArray[np.float64], given: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much of an axis the cells between two sets of bounds share, (wanted, given)."""
    (low, high), (other_low, other_high) = (np.sort([bounds[:-1], bounds[1:]], axis=0) for bounds in (wanted, given))
    shared: npt.NDArray[np.float64] = np.minimum(high[:, None], other_high) - np.maximum(low[:, None], other_low)
    return shared.clip(0)


def _mixed(variable: xr.DataArray, dim: str, overlaps: npt.NDArray[np.float64]) -> xr.DataArray:
    """A variable with one axis replaced by weighted means of its cells; as it is if it has no such axis."""
    if dim not in variable.dims:
        return variable
    mixed: xr.DataArray = xr.apply_ufunc(
        _mix,
        variable,
        input_core_dims=[[dim]],
        output_core_dims=[[dim]],
        exclude_dims={dim},
        kwargs={"shares": overlaps / overlaps.sum(axis=1, keepdims=True)},
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {dim: len(overlaps)}},
    )
    return mixed


def _mix(values: npt.NDArray[Any], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of (…, cells) by shares (wanted, cells); NaN where a cell with a share is not finite."""
    is_absent = ~np.isfinite(values)
    mixed: npt.NDArray[np.float64] = np.where(is_absent, 0.0, values) @ shares.T
    if is_absent.any():
        mixed[is_absent.astype(np.float64) @ (shares.T > _LEAST_SHARE) > 0] = np.nan
    return mixed
