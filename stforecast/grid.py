"""CF axes, the horizontal grid, and the two contracts that every series and every forecast keeps."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.local_time import check_time_zone
from stforecast.time_axis import Times, check_gaps, check_step, check_times, no_times, show_time, time_step
from stforecast.units import canonical_units

Positions = npt.NDArray[np.intp]

# A grid read back from float32 is off by some 1e-6 of a degree; neighbouring cells are a whole spacing apart.
COORDINATE_TOLERANCE = 1e-3

_AXIS_OF_STANDARD_NAME = {
    "time": "T",
    "latitude": "Y",
    "projection_y_coordinate": "Y",
    "grid_latitude": "Y",
    "longitude": "X",
    "projection_x_coordinate": "X",
    "grid_longitude": "X",
    "air_pressure": "Z",
    "height": "Z",
    "altitude": "Z",
    "depth": "Z",
    "forecast_reference_time": "init_time",
    "forecast_period": "lead_time",
    "realization": "member",
}
_AXIS_OF_NAME = {
    "time": "T",
    "valid_time": "T",
    "lat": "Y",
    "latitude": "Y",
    "y": "Y",
    "row": "Y",
    "lon": "X",
    "longitude": "X",
    "x": "X",
    "column": "X",
    "level": "Z",
    "pressure_level": "Z",
    "isobaricinhpa": "Z",
    "plev": "Z",
    "lev": "Z",
    "init_time": "init_time",
    "lead_time": "lead_time",
    "prediction_timedelta": "lead_time",
    "member": "member",
    "number": "member",
}
_LATITUDE_UNITS = {"degrees_north", "degree_north", "degree_n", "degrees_n"}
_LONGITUDE_UNITS = {"degrees_east", "degree_east", "degree_e", "degrees_e"}
_PRESSURE_UNITS = {"hpa", "millibar", "millibars", "mbar"}


def axis_of(dataset: xr.Dataset, dim: Hashable) -> str | None:
    """What a dimension is, by CF: T, Z, Y, X, init_time, lead_time or member; None where nothing tells.

    The coordinate's `axis`, `standard_name` and `units` are asked in this order, then its name.
    """
    attrs = dataset[dim].attrs if dim in dataset.coords else {}
    # init_time carries axis: T in some stores, so what it is called in CF goes before the axis.
    standard_name = _AXIS_OF_STANDARD_NAME.get(str(attrs.get("standard_name", "")))
    if standard_name is not None:
        return standard_name
    if attrs.get("axis") in ("T", "Z", "Y", "X"):
        return str(attrs["axis"])
    units = str(attrs.get("units", "")).lower()
    if units in _LATITUDE_UNITS:
        return "Y"
    if units in _LONGITUDE_UNITS:
        return "X"
    if units in _PRESSURE_UNITS:
        return "Z"
    return _AXIS_OF_NAME.get(str(dim).lower())


def level_dim(dataset: xr.Dataset, name: Hashable | None = None) -> str | None:
    """The dimension of the levels of a dataset, or of one of its variables; None without levels."""
    dims = dataset.dims if name is None else dataset[name].dims
    return next((str(dim) for dim in dims if axis_of(dataset, dim) == "Z"), None)


def find_dims(dataset: xr.Dataset, *axes: str) -> tuple[str, ...]:
    """The names of the dimensions that are these axes.

    Args:
        dataset: any labelled Dataset.
        axes: names as `axis_of` gives them.

    Raises:
        StforecastError: DIMS, if an axis is there twice or not at all.
    """
    roles: dict[str, list[str]] = {}
    for dim in dataset.dims:
        role = axis_of(dataset, dim)
        if role is not None:
            roles.setdefault(role, []).append(str(dim))
    for axis in axes:
        found = roles.get(axis, [])
        if len(found) != 1:
            came = f"{' and '.join(found)} both look like it" if found else "none of them looks like it"
            raise StforecastError(
                ErrorKind.DIMS,
                f"wanted one {_AXIS_WORDS.get(axis, axis)} dimension among {sorted(map(str, dataset.dims))}, but "
                f"{came}; name it with the attribute axis='{axis}' or a CF standard_name on its coordinate",
            )
    return tuple(roles[axis][0] for axis in axes)


_AXIS_WORDS = {"T": "time", "Z": "level", "Y": "latitude (Y)", "X": "longitude (X)"}


@dataclass(frozen=True, eq=False)
class Grid:
    """The horizontal grid of a series: two one-dimensional axes, in the order in which the data hold them.

    Attributes:
        y_name: the dimension from south to north or north to south.
        x_name: the dimension from west to east.
        y: its coordinate values, (y,), degrees north on a geographic grid.
        x: its coordinate values, (x,), degrees east on a geographic grid.
        is_geographic: whether the axes are latitude and longitude; a city grid of rows and columns is a plane.
    """

    y_name: str
    x_name: str
    y: npt.NDArray[np.float64] = field(repr=False)
    x: npt.NDArray[np.float64] = field(repr=False)
    is_geographic: bool

    def __post_init__(self) -> None:
        for name, values in ((self.y_name, self.y), (self.x_name, self.x)):
            if values.ndim != 1 or len(values) == 0:
                raise StforecastError(
                    ErrorKind.SHAPE,
                    f"coordinate {name} has shape {values.shape}; a grid wants a one-dimensional axis with at "
                    "least one cell (regrid curvilinear data first)",
                )
            apart = np.diff(values)
            if not np.isfinite(values).all() or not ((apart > 0).all() or (apart < 0).all()):
                raise StforecastError(
                    ErrorKind.DIMS,
                    f"coordinate {name} must be finite and strictly monotonic but holds {values[:5]}…; sort it, e.g. "
                    f"dataset.sortby('{name}')",
                )
        if self.is_geographic:
            self._check_sphere()

    def _check_sphere(self) -> None:
        """Refuse places that are none, that come twice, or that lie side by side only on the globe."""
        if np.abs(self.y).max() > 90 + COORDINATE_TOLERANCE:
            raise StforecastError(
                ErrorKind.GRID_SHAPE,
                f"latitudes in {self.y_name} must lie between -90 and 90 but run from {self.y[0]:g} to {self.y[-1]:g}; "
                "colatitudes are 90 minus the latitude",
            )
        apart, extent = np.abs(np.diff(self.x)), abs(self.x[-1] - self.x[0])
        if extent > 360 - COORDINATE_TOLERANCE * _spacing(self.x):
            raise StforecastError(
                ErrorKind.GRID_LON,
                f"{self.x_name} runs from {self.x[0]:g} to {self.x[-1]:g}, so the globe is there more than once; drop "
                f"what is repeated, e.g. dataset.isel({self.x_name}=slice(0, -1))",
            )
        if len(self.x) > 2:
            *_, second, widest = np.sort(apart)
            if widest > 2 * second and 360 - extent <= 1.5 * second:
                gap = int(apart.argmax())
                x = f"dataset.{self.x_name}"
                turned = f"{x} % 360" if self.x.min() < 0 else f"({x} + 180) % 360 - 180"
                raise StforecastError(
                    ErrorKind.GRID_LON,
                    f"{self.x_name} jumps from {self.x[gap]:g} to {self.x[gap + 1]:g} while its ends are neighbours on "
                    "the globe; number its columns from the jump on, e.g. dataset.assign_coords("
                    f"{self.x_name}={turned}).sortby('{self.x_name}')",
                )

    @classmethod
    def of(cls, dataset: xr.Dataset) -> "Grid":
        """The grid of a series or a forecast, its axes found by CF.

        Axes without coordinate values count their cells from 0.

        Raises:
            StforecastError: DIMS if there is not one Y and one X dimension, or one is not monotonic; GRID_SHAPE for
                latitudes beyond the poles; GRID_LON for longitudes that come twice or are torn apart.
        """
        y_name, x_name = find_dims(dataset, "Y", "X")
        return cls(
            y_name,
            x_name,
            dataset[y_name].to_numpy().astype(np.float64),
            dataset[x_name].to_numpy().astype(np.float64),
            _is_latitude(dataset, y_name),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along y and x."""
        return len(self.y), len(self.x)

    @property
    def spans_globe(self) -> bool:
        """Whether the last column's eastern neighbour is the first column."""
        if not self.is_geographic or len(self.x) < 2:
            return False
        spacing = abs(self.x[1] - self.x[0])
        return bool(np.isclose(abs(self.x[-1] - self.x[0]) + spacing, 360.0, atol=0.01 * spacing))

    @property
    def is_eastward(self) -> bool:
        """Whether the columns go from west to east."""
        return len(self.x) < 2 or bool(self.x[-1] > self.x[0])

    def __eq__(self, other: object) -> bool:
        """Whether both have the same cells in the same order, whatever the dimensions are called."""
        return (
            isinstance(other, Grid)
            and self.shape == other.shape
            and self.is_geographic == other.is_geographic
            and _same_values(self.y, other.y)
            and _same_values(self.x, other.x)
        )

    __hash__ = None  # type: ignore[assignment]  # equal within a tolerance, so no hash can agree with it

    def __str__(self) -> str:
        kind = ("latitude", "longitude") if self.is_geographic else (self.y_name, self.x_name)
        axes = ", ".join(
            f"{name} {values[0]:g}..{values[-1]:g}" + (f" by {values[1] - values[0]:g}" if len(values) > 1 else "")
            for name, values in zip(kind, (self.y, self.x), strict=True)
        )
        return f"{self.shape[0]}x{self.shape[1]} ({axes})"

    def positions_in(self, found: "Grid", *, part: bool = False) -> tuple[Positions, Positions]:
        """Where this grid's rows and columns stand in another that has the same cells in another order.

        Latitudes are matched by value, longitudes modulo 360, so a flipped latitude or another longitude convention is
        no difference.

        Args:
            found: the other grid.
            part: whether the other may have more cells; rows and columns of a city are no places that tell, so its
                grid has to be the same.

        Returns:
            positions along `found`'s y, (y,), and along its x, (x,).

        Raises:
            StforecastError: GRID_SHAPE, naming both grids, if the cells do not coincide.
        """
        period = 360.0 if self.is_geographic else None
        part = part and self.is_geographic
        rows = _match(self.y, found.y, None, part) if self.is_geographic == found.is_geographic else None
        columns = _match(self.x, found.x, period, part) if rows is not None else None
        if rows is None or columns is None:
            raise StforecastError(
                ErrorKind.GRID_SHAPE,
                f"wanted the grid {self} but the data have {found}; regrid them, see harmonise(like=…)",
            )
        return rows, columns

    def cell_area(self) -> xr.DataArray:
        """Relative area of each row of cells, with mean 1, (y,).

        A row between latitudes a and b covers sin(b) - sin(a) of the sphere. The outer bounds are extrapolated by half
        a cell and cut at the poles, so regional grids are weighted correctly. Plane grids get ones.
        """
        if self.is_geographic:
            area = np.abs(np.diff(np.sin(np.deg2rad(cell_bounds(self.y).clip(-90.0, 90.0)))))
        else:
            area = np.ones(len(self.y))
        return xr.DataArray(
            area / area.mean(), dims=self.y_name, coords={self.y_name: self.y}, name="cell_area", attrs={"units": "1"}
        )


def cell_bounds(centres: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bounds halfway between neighbouring cell centres, the outer ones extrapolated by half a cell, (n + 1,).

    A single cell is taken to be one unit wide.

    >>> cell_bounds(np.array([10.0, 12.0, 16.0]))
    array([ 9., 11., 14., 18.])
    """
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _is_latitude(dataset: xr.Dataset, dim: str) -> bool:
    attrs = dataset[dim].attrs if dim in dataset.coords else {}
    return (
        attrs.get("standard_name") == "latitude"
        or str(attrs.get("units", "")).lower() in _LATITUDE_UNITS
        or (dim in dataset.coords and dim.lower() in ("lat", "latitude"))
    )


def _spacing(values: npt.NDArray[np.float64]) -> float:
    return float(np.abs(np.diff(values)).min()) if len(values) > 1 else 1.0


def _same_values(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    return bool(np.allclose(first, second, rtol=0, atol=COORDINATE_TOLERANCE * _spacing(first)))


def _match(
    wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64], period: float | None, part: bool
) -> Positions | None:
    """Positions of `wanted` values in `found`, or None unless they are the same values in some order, or a part."""
    if len(wanted) > len(found) or (len(wanted) < len(found) and not part):
        return None
    apart = wanted[:, None] - found[None, :]
    if period is not None:
        apart = (apart + period / 2) % period - period / 2
    positions = np.abs(apart).argmin(axis=1)
    nearest = np.abs(np.take_along_axis(apart, positions[:, None], axis=1))
    is_same = (nearest <= COORDINATE_TOLERANCE * _spacing(wanted)).all() and len(set(positions)) == len(positions)
    return positions if is_same else None


def times_of(series: xr.Dataset) -> Times:
    """The frames' times, (time,), datetime64[ns], whatever the dimension is called."""
    (time,) = find_dims(series, "T")
    times: Times = series[time].to_numpy().astype("datetime64[ns]")
    return times


def on_grid_of(found: xr.Dataset, wanted: xr.Dataset, *, name: str) -> xr.Dataset:
    """The variables of `wanted` out of `found`, with its dimension names, its cells in its order, and its levels.

    Cells are matched by label, so `found` may reach further, latitudes may run the other way and longitudes follow
    another convention; the labels of `wanted` are taken over, so that arithmetic of both aligns exactly. A city's grid
    has to be the same. Nothing is loaded.

    Args:
        found: variables (…, [level,] Y, X) with `units`.
        wanted: a series or forecast on the grid to be on.
        name: what the messages call `found`.

    Raises:
        StforecastError: VAR_MISSING, UNITS, GRID_SHAPE or CHANNELS (a level), naming the variable and both sides.
    """
    _check_variables(found, wanted, name)
    found = found[list(wanted.data_vars)].reset_coords(drop=True)
    dims, positions = [*find_dims(found, "Y", "X")], [*_cell_positions(found, wanted, name)]
    wanted_dims, level = [*find_dims(wanted, "Y", "X")], level_dim(found)
    if level is not None:
        wanted_level = str(level_dim(wanted))
        dims, wanted_dims = [*dims, level], [*wanted_dims, wanted_level]
        positions.append(_level_positions(found[level], wanted[wanted_level], name))
    # Indexing by an array copies, and makes reading a store slower, so what is in order already is left alone.
    moved = {dim: rows for dim, rows in zip(dims, positions, strict=True) if not _is_in_order(rows, found.sizes[dim])}
    found = found.isel(moved).drop_vars(dims, errors="ignore")
    found = found.rename({old: new for old, new in zip(dims, wanted_dims, strict=True) if old != new})
    return found.assign_coords({dim: wanted[dim].variable for dim in wanted_dims if dim in wanted.coords})


def _cell_positions(found: xr.Dataset, wanted: xr.Dataset, name: str) -> tuple[Positions, Positions]:
    try:
        return Grid.of(wanted).positions_in(Grid.of(found), part=True)
    except StforecastError as error:
        raise StforecastError(error.kind, f"{name}: {error}") from error


def _is_in_order(rows: Positions, size: int) -> bool:
    return np.array_equal(rows, np.arange(size))


def _check_variables(found: xr.Dataset, wanted: xr.Dataset, name: str) -> None:
    missing = [str(variable) for variable in wanted.data_vars if variable not in found.data_vars]
    if missing:
        raise StforecastError(
            ErrorKind.VAR_MISSING,
            f"{name} lacks {', '.join(missing)}; it has {', '.join(map(str, found.data_vars)) or 'no variables'}",
        )
    for variable in wanted.data_vars:
        there, here = found[variable].attrs.get("units"), wanted[variable].attrs.get("units")
        if canonical_units(there) != canonical_units(here):
            raise StforecastError(
                ErrorKind.UNITS, f"{name} has {variable} in {there!r} but {here!r} was wanted; convert it first"
            )
        if (level_dim(found[[variable]]) is None) != (level_dim(wanted[[variable]]) is None):
            raise StforecastError(
                ErrorKind.CHANNELS,
                f"{name} has {variable} with dimensions {tuple(map(str, found[variable].dims))}, the other side with "
                f"{tuple(map(str, wanted[variable].dims))}: only one of them has levels; select one level of it",
            )


def _level_positions(found: xr.DataArray, wanted: xr.DataArray, name: str) -> Positions:
    there, asked = found.to_numpy().tolist(), wanted.to_numpy().tolist()
    missing = [level for level in asked if level not in there]
    if missing:
        raise StforecastError(ErrorKind.CHANNELS, f"{name} lacks level(s) {missing}; it has {there}")
    return np.array([there.index(level) for level in asked])


def check_series(
    dataset: xr.Dataset, *, allow_gaps: bool = False, step: np.timedelta64 | None = None
) -> np.timedelta64:
    """The step of a Dataset that keeps the contract of a series.

    A series has variables (time, [level,] Y, X) with `units`, on a strictly increasing time axis of multiples of one
    step, and one-dimensional Y and X axes that CF attributes or their names tell. Values are not looked at.

    Args:
        dataset: labelled data in physical units.
        allow_gaps: whether frames may be absent from the time axis.
        step: the step that the series must have, where it is known; a single frame is then enough.

    Raises:
        StforecastError: VAR_MISSING without variables; DIMS, SHAPE, UNITS; METADATA for packed values; ARGUMENT for a
            time zone that is none; TIME_UNITS for what is no time; or what `time_step` and `check_gaps` raise,
            naming the variable or timestamp.
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"wanted an xarray.Dataset, got {type(dataset).__name__}; a DataArray has .to_dataset(name=…)")
    if not dataset.data_vars:
        raise StforecastError(ErrorKind.VAR_MISSING, "the dataset has no data variables")
    time, y, x = find_dims(dataset, "T", "Y", "X")
    Grid.of(dataset)
    levels = [str(dim) for dim in dataset.dims if axis_of(dataset, dim) == "Z"]
    if len(levels) > 1:
        raise StforecastError(
            ErrorKind.DIMS, f"there are several level dimensions, {' and '.join(levels)}; a series has one at most"
        )
    for name, variable in dataset.data_vars.items():
        missing = [dim for dim in (time, y, x) if dim not in variable.dims]
        extra = [str(dim) for dim in variable.dims if dim not in (time, y, x) and axis_of(dataset, dim) != "Z"]
        if missing or extra:
            raise StforecastError(
                ErrorKind.DIMS,
                f"variable {name} has dimensions {tuple(map(str, variable.dims))}; a series has ({time}, [level,] {y}, "
                f"{x}): select or drop what else there is",
            )
        if "normalized" in variable.attrs:
            raise StforecastError(
                ErrorKind.STATS,
                f"variable {name} is normalized ({variable.attrs['normalized']}), where physical values are wanted; "
                "open the store with open_store(path), not as raw data and not with normalized=True",
            )
        if not np.issubdtype(variable.dtype, np.number) or np.issubdtype(variable.dtype, np.complexfloating):
            raise StforecastError(ErrorKind.SHAPE, f"variable {name} is {variable.dtype}; a series holds real numbers")
        if variable.attrs.get("scale_factor", 1) != 1 or variable.attrs.get("add_offset", 0) != 0:
            raise StforecastError(
                ErrorKind.METADATA,
                f"variable {name} has scale_factor and add_offset among its attributes, so its values are packed, not "
                f"in {variable.attrs.get('units')!r}; let xarray decode them (mask_and_scale=True, xr.decode_cf)",
            )
        if "units" not in variable.attrs:
            raise StforecastError(
                ErrorKind.UNITS,
                f"variable {name} has no units; set dataset['{name}'].attrs['units'], '1' if it has none",
            )
    times: npt.NDArray[Any] = dataset[time].to_numpy() if time in dataset.coords else np.empty(0)
    if not np.issubdtype(times.dtype, np.datetime64):
        raise no_times(times, name=time, units=dataset[time].attrs.get("units"))
    time_zone = dataset[time].attrs.get("time_zone")
    if time_zone:
        check_time_zone(str(time_zone))
    step = time_step(times, name=time) if step is None else check_step(times, step, name=time)
    if not allow_gaps:
        check_gaps(times, step, name=time)
    return step


def check_finite(variable: xr.DataArray) -> None:
    """Refuse NaN and infinite values in a loaded variable (time, [level,] Y, X) of a series.

    Raises:
        StforecastError: NAN or INF, naming the variable, how many, and the first time and place.
    """
    finite = np.isfinite(variable.to_numpy())
    if finite.all():
        return
    index = tuple(int(axis[0]) for axis in np.nonzero(~finite))
    first = variable[index]
    kind = ErrorKind.NAN if np.isnan(first.item()) else ErrorKind.INF
    time, *others = variable.dims
    times = variable[time].to_numpy()
    place = [f"{dim} {first[dim].item():g}" for dim in others if dim in first.coords]
    raise StforecastError(
        kind,
        f"variable {variable.name} has {int((~finite).sum())} {kind.lower()} value(s) between {show_time(times[0])} "
        f"and {show_time(times[-1])}, the first at {', '.join([show_time(times[index[0]]), *place])}; fill or drop "
        "them first",
    )


def with_forecast_times(forecast: xr.Dataset, *, time_attrs: Mapping[Hashable, Any]) -> xr.Dataset:
    """The forecast with valid_time (init_time, lead_time) = init_time + lead_time and the CF attributes of all three.

    Args:
        forecast: has the coordinates init_time and lead_time.
        time_attrs: attributes of the time axis that the forecast was made from; its time zone is kept.
    """
    zone = {"time_zone": time_attrs["time_zone"]} if "time_zone" in time_attrs else {}
    valid_time = forecast["init_time"] + forecast["lead_time"]
    forecast = forecast.assign_coords(valid_time=valid_time.transpose("init_time", "lead_time"))
    for name, standard_name, long_name in (
        ("init_time", "forecast_reference_time", "last frame seen"),
        ("lead_time", "forecast_period", "time since the last frame seen"),
        ("valid_time", "time", "time that is forecast"),
    ):
        own = {} if name == "lead_time" else zone
        forecast[name].attrs = {"standard_name": standard_name, "long_name": long_name} | own
    return forecast


def forecast_variables(forecast: xr.Dataset) -> list[Hashable]:
    """The names of what is forecast: all variables but the bounds of intervals, which say what they are bounds of."""
    return [name for name, variable in forecast.data_vars.items() if "interval_of" not in variable.attrs]


def check_forecast(dataset: xr.Dataset) -> None:
    """Refuse a Dataset that does not keep the contract of a forecast.

    A forecast has variables (init_time, lead_time, [member,] [level,] Y, X) with `units` and the coordinate valid_time
    (init_time, lead_time), which is their sum; lead times are positive and increase.

    Raises:
        StforecastError: VAR_MISSING, DIMS, UNITS or TIME_ORDER, naming what is amiss.
    """
    if not dataset.data_vars:
        raise StforecastError(ErrorKind.VAR_MISSING, "the forecast has no data variables")
    if "valid_time" not in dataset.coords or not {"init_time", "lead_time"} <= set(dataset.coords):
        raise StforecastError(
            ErrorKind.DIMS,
            "a forecast has the coordinates init_time, lead_time and valid_time, this has "
            f"{sorted(map(str, dataset.coords))}",
        )
    _, y, x = find_dims(dataset, "lead_time", "Y", "X")
    for name, variable in dataset.data_vars.items():
        if not {"init_time", "lead_time", y, x} <= set(variable.dims):
            raise StforecastError(
                ErrorKind.DIMS,
                f"variable {name} has dimensions {tuple(map(str, variable.dims))}; a forecast has (init_time, "
                f"lead_time, [level,] {y}, {x})",
            )
        if "units" not in variable.attrs:
            raise StforecastError(ErrorKind.UNITS, f"variable {name} of the forecast has no units")
    check_times(dataset["init_time"].to_numpy(), name="init_time")
    lead = dataset["lead_time"].to_numpy()
    if (
        not np.issubdtype(lead.dtype, np.timedelta64)
        or (lead <= np.timedelta64(0)).any()
        or (np.diff(lead) <= np.timedelta64(0)).any()
    ):
        raise StforecastError(
            ErrorKind.TIME_ORDER, f"lead_time must be positive, increasing timedeltas, not {lead[:4]}"
        )
    expected = dataset["init_time"] + dataset["lead_time"]
    wrong = (dataset["valid_time"] != expected).to_numpy()
    if wrong.any():
        row, column = (int(index[0]) for index in np.nonzero(wrong))
        raise StforecastError(
            ErrorKind.TIME_ORDER,
            f"valid_time is {show_time(dataset['valid_time'].to_numpy()[row, column])} where init_time + lead_time is "
            f"{show_time(expected.to_numpy()[row, column])}",
        )
