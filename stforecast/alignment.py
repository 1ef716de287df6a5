"""A caller's data in a model's terms, and its forecast back in the caller's: names, units, levels, cells."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from stforecast.channels import Channels, Variable
from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import COORDINATE_TOLERANCE, Grid, Positions, axis_of, check_series, find_dims, level_dim
from stforecast.limits import LIMIT_ATTRS, unpacked_attrs
from stforecast.sources.era5 import LONG_NAMES
from stforecast.units import Conversion, Values

# What else a variable is called, beside ERA5's short and long names: by CMIP, NCEP, GRIB tables and CF.
_MORE_NAMES = (
    {"t2m", "air", "tas", "t2", "tmp2m", "2t", "air_temperature", "temperature_2m", "tmp"},
    {"msl", "slp", "psl", "mslp", "prmsl", "mslet", "air_pressure_at_sea_level", "air_pressure_at_mean_sea_level"},
    {"u10", "uas", "10u", "u10m", "ugrd10m"},
    {"v10", "vas", "10v", "v10m", "vgrd10m"},
    {"d2m", "2d", "tdps"},
    {"sp", "ps", "surface_air_pressure"},
    {"t", "ta"},
    {"u", "ua", "uwnd", "eastward_wind"},
    {"v", "va", "vwnd", "northward_wind"},
    {"q", "hus", "shum"},
    {"r", "hur", "rhum"},
    {"sst", "tos", "sea_surface_temperature"},
    {"inflow", "in_flow", "flow_in"},
    {"outflow", "out_flow", "flow_out"},
)


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a caller's data become a model's, and its output theirs.

    Attributes:
        channels: the model's variables.
        names: the caller's names by the model's.
        conversions: from the caller's units into the model's, by the model's names.
        grid: the model's.
        rows: where its rows stand among the caller's, (y,).
        columns: where its columns stand, (x,).
        levels: where its levels stand among the caller's, by its names; absent for variables without levels.
        found: the caller's variables, lazily, by their own names.
        step: the step between the caller's frames.
    """

    channels: Channels
    names: Mapping[str, str]
    conversions: Mapping[str, Conversion]
    grid: Grid
    rows: Positions
    columns: Positions
    levels: Mapping[str, Positions]
    found: xr.Dataset
    step: np.timedelta64

    @classmethod
    def of(cls, series: xr.Dataset, channels: Channels, grid: Grid) -> "Alignment":
        """The alignment of a series with a model's channels and grid; no value is looked at.

        A variable is found by its name, else by its standard name or another name that is in use for it. Cells are
        found by label: the series may hold more of them than the model has, in another order, or with longitudes of
        another convention.

        Raises:
            StforecastError: CHANNELS if a variable or level is missing, or several could be meant; UNITS if one cannot
                be converted; GRID_SHAPE if a cell is missing; SHAPE if latitude or longitude has no coordinates; each
                named; what `check_series` refuses.
        """
        if not isinstance(series, xr.Dataset):
            raise TypeError(
                f"wanted an xarray.Dataset, got {type(series).__name__}; a DataArray has .to_dataset(name=…)"
            )
        names = _names(series, channels)
        found = series[list(names.values())]
        step = check_series(found, allow_gaps=True)
        conversions, levels = {}, {}
        for item in channels.variables:
            conversions[item.name] = _conversion(found[names[item.name]], item)
            level = level_dim(found, names[item.name])
            if level is not None:
                levels[item.name] = _level_positions(found, level, item, names[item.name])
            elif item.levels:
                raise StforecastError(
                    ErrorKind.CHANNELS,
                    f"variable {names[item.name]} should have levels {item.levels} but has dimensions "
                    f"{tuple(map(str, found[names[item.name]].dims))}",
                )
        unlabelled = [dim for dim in find_dims(found, "Y", "X") if dim not in found.coords]
        if grid.is_geographic and unlabelled:
            raise StforecastError(
                ErrorKind.SHAPE,
                f"{' and '.join(unlabelled)} of the series have no coordinates, only {dict(found.sizes)} cells; the "
                f"model is of the grid {grid}: assign theirs, e.g. series.assign_coords({unlabelled[0]}=…)",
            )
        rows, columns = grid.positions_in(Grid.of(found), part=True)
        return cls(channels, names, conversions, grid, rows, columns, levels, found, step)

    @property
    def dims(self) -> tuple[str, str, str]:
        """The caller's names of time, Y and X."""
        time, y, x = find_dims(self.found, "T", "Y", "X")
        return time, y, x

    def to_model(self, block: xr.Dataset) -> xr.Dataset:
        """Loaded frames of the caller's variables, in the model's names, units, levels, and order of cells."""
        _, y, x = self.dims
        variables = {}
        for item in self.channels.variables:
            variable = block[self.names[item.name]]
            level = level_dim(block, self.names[item.name])
            where = {y: self.rows, x: self.columns} | ({level: self.levels[item.name]} if level is not None else {})
            variable = variable.isel(where)
            conversion = self.conversions[item.name]
            if not conversion.changes_nothing:
                attrs = unpacked_attrs(variable)
                for name in LIMIT_ATTRS:
                    if name in attrs:
                        attrs[name] = conversion.apply(np.asarray(attrs[name], np.float64))
                converted = conversion.apply(variable.to_numpy())
                variable = variable.copy(data=converted).assign_attrs(attrs).drop_encoding()
            # Levels may be another selection for each variable, so they stay the dimension without its labels.
            kept = variable.drop_vars([level], errors="ignore") if level is not None else variable
            variables[item.name] = kept.assign_attrs(units=item.units)
        return xr.Dataset(variables, attrs=block.attrs)

    def template(self, item: Variable) -> xr.DataArray:
        """The caller's variable without time, ([level,] Y, X), lazily: the model's cells in its own order.

        A region that the caller's labels tear apart, across Greenwich or the date line, has the model's longitudes.
        """
        time, y, x = self.dims
        variable = self.found[self.names[item.name]].isel({time: 0}, drop=True)
        columns = self.columns[self._column_order]
        where = {y: np.sort(self.rows), x: columns}
        level = level_dim(self.found, self.names[item.name])
        if level is not None:
            where[level] = np.sort(self.levels[item.name])
        kept = variable.isel(where).transpose(..., y, x)
        if self._is_torn:
            labels = self.grid.x[self._column_order].astype(np.result_type(kept[x].dtype, np.float32))
            kept = kept.assign_coords({x: (x, labels, kept[x].attrs)})
        return kept

    @property
    def _is_torn(self) -> bool:
        """Whether neighbouring columns of the model would lie apart in the caller's order."""
        if self.grid.spans_globe or len(self.columns) < 2:
            return False
        return bool(np.unique(np.sign(np.diff(self.columns))).size > 1)

    @property
    def _column_order(self) -> Positions:
        """The model's columns in the order in which the caller gets them."""
        if not self._is_torn:
            return np.argsort(self.columns)
        order = np.arange(len(self.columns))
        return order if self.grid.is_eastward == Grid.of(self.found).is_eastward else order[::-1]

    def to_caller(self, item: Variable, values: Values) -> xr.DataArray:
        """Physical values (init_time, lead_time, [level,] y, x) of the model, in the caller's terms.

        The type is the caller's if it has fractions.
        """
        _, y, x = self.dims
        template = self.template(item)
        # `rows` say where the model's rows stand among the caller's; sorted by that they are in the caller's order.
        values = values[..., np.argsort(self.rows)[:, None], self._column_order]
        dims = ["init_time", "lead_time", y, x]
        level = level_dim(self.found, self.names[item.name])
        if level is not None:
            values = values[:, :, np.argsort(self.levels[item.name])]
            dims.insert(2, level)
        values = self.conversions[item.name].invert(values)
        if np.issubdtype(template.dtype, np.floating):
            values = values.astype(template.dtype, copy=False)
        return xr.DataArray(values, dims=dims, attrs=dict(template.attrs), name=self.names[item.name])


def _names(series: xr.Dataset, channels: Channels) -> dict[str, str]:
    """The caller's name of each variable."""
    taken = {name for name in channels.names if name in series.data_vars}
    names = {}
    for item in channels.variables:
        if item.name in taken:
            names[item.name] = item.name
            continue
        others = [name for name in series.data_vars if name not in taken and _may_be(series, name, item)]
        if len(others) != 1:
            may_be = f", where {' and '.join(map(str, others))} could each be {item.name}: rename one" if others else ""
            raise StforecastError(
                ErrorKind.CHANNELS,
                f"the model wants {', '.join(channels.names)} but the series lacks {item.name}; it has "
                f"{', '.join(map(str, series.data_vars)) or 'no variables'}{may_be}",
            )
        names[item.name] = str(others[0])
        taken.add(str(others[0]))
    return names


def _may_be(series: xr.Dataset, name: Hashable, item: Variable) -> bool:
    """Whether a variable is what a model knows under another name."""
    dims = {axis_of(series, dim) for dim in series[name].dims}
    if not {"T", "Y", "X"} <= dims or ("Z" in dims) != bool(item.levels):
        return False
    standard_name = series[name].attrs.get("standard_name")
    if standard_name is not None and "standard_name" in item.attrs:
        return bool(standard_name == item.attrs["standard_name"])
    return bool(_synonyms(item.name) & _synonyms(str(name)))


def _synonyms(name: str) -> set[str]:
    name = name.lower()
    groups = [{short, long_name} for short, long_name in LONG_NAMES.items()]
    known = {name}
    for group in groups:
        known |= group if name in group else set()
    for names in _MORE_NAMES:
        known |= names if known & names else set()
    return known


def _conversion(variable: xr.DataArray, item: Variable) -> Conversion:
    conversion = Conversion.between(variable.attrs["units"], item.units)
    if conversion is None:
        raise StforecastError(
            ErrorKind.UNITS,
            f"variable {variable.name} is in {variable.attrs['units']!r} but the model was fitted in {item.units!r}, "
            "and stforecast knows no conversion; convert it first",
        )
    return conversion


def _level_positions(series: xr.Dataset, level: str, item: Variable, name: str) -> Positions:
    """Where a model's levels stand among those of a series."""
    if not item.levels:
        raise StforecastError(
            ErrorKind.CHANNELS,
            f"variable {name} should have no levels but has dimensions {tuple(map(str, series[name].dims))}; select "
            f"one level of it, e.g. series.sel({level}=…, drop=True)",
        )
    there = series[level].to_numpy().astype(np.float64)
    units = str(series[level].attrs.get("units", ""))
    conversion = Conversion.between(units, item.level_units) if units and item.level_units else Conversion(1.0, 0.0)
    if conversion is None:
        raise StforecastError(
            ErrorKind.UNITS,
            f"the levels of {name} are in {units!r} but the model was fitted in {item.level_units!r}; convert them "
            "first",
        )
    apart = np.abs(np.array(item.levels)[:, None] - conversion.apply(there)[None, :])
    positions: Positions = apart.argmin(axis=1)
    is_there = apart.min(axis=1) <= COORDINATE_TOLERANCE * np.abs(item.levels)
    if not is_there.all():
        missing = [f"{value:g}" for value, found in zip(item.levels, is_there, strict=True) if not found]
        raise StforecastError(
            ErrorKind.CHANNELS,
            f"variable {name} lacks the level(s) {', '.join(missing)} {item.level_units}; it has {there.tolist()} "
            f"{units}".rstrip(),
        )
    return positions
