"""A place on a grid: the cell that covers it, and what it is called."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import Grid, cell_bounds
from stforecast.plot.canvas import degrees_of
from stforecast.plot.fields import Values
from stforecast.plot.words import given_units, show_degrees

Place = Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """The cell that covers a place.

    Attributes:
        row: where it stands along Y.
        column: where it stands along X.
        words: what it is called: its centre, in the words of its grid.
    """

    row: int
    column: int
    words: str

    @classmethod
    def at(cls, dataset: xr.Dataset, place: Place) -> "Cell":
        """The cell of a series' or a forecast's grid.

        Args:
            dataset: has a grid.
            place: by "latitude" and "longitude" in degrees, where the cells have them, or by the names of the grid's
                own dimensions, as "row" and "column". Longitudes are taken modulo 360.

        Raises:
            StforecastError: ARGUMENT for other names; EMPTY_SELECTION for a place outside of the grid, naming both.
        """
        grid = Grid.of(dataset)
        axes = [_centres(dataset, grid, axis) for axis in ("latitude", "longitude")]
        names = [next((name for name in place if name in known), None) for known in axes]
        if len(place) != 2 or None in names:
            wanted = " or ".join(f"{{'{y}': …, '{x}': …}}" for y, x in zip(*axes, strict=True))
            raise StforecastError(ErrorKind.ARGUMENT, f"a place on this grid is at={wanted}, not {dict(place)}")
        row, column = (
            _position(str(name), known[str(name)], float(place[str(name)]), grid)
            for name, known in zip(names, axes, strict=True)
        )
        return cls(row, column, words_of_cell(dataset, grid, row, column))


def _centres(dataset: xr.Dataset, grid: Grid, axis: str) -> dict[str, Values]:
    """Centres of the cells along an axis, by the names under which one can ask for them."""
    own, values = (grid.y_name, grid.y) if axis == "latitude" else (grid.x_name, grid.x)
    if grid.is_geographic:
        return {axis: values, own: values}
    degrees = degrees_of(dataset, own, axis)
    return {own: values} if degrees is None else {own: values, axis: degrees.to_numpy()}


def _position(name: str, centres: Values, wanted: float, grid: Grid) -> int:
    """Which cell along an axis covers a value."""
    order = np.argsort(centres)
    bounds = cell_bounds(centres[order])
    is_longitude = name == "longitude" or (grid.is_geographic and name == grid.x_name)
    value = (wanted - bounds[0]) % 360 + bounds[0] if is_longitude else wanted
    if not bounds[0] <= value <= bounds[-1]:
        raise StforecastError(
            ErrorKind.EMPTY_SELECTION,
            f"{name} {wanted:g} lies outside of the grid, whose cells have a {name} from {centres[order][0]:g} to "
            f"{centres[order][-1]:g}; choose a place inside",
        )
    return int(order[min(int(np.searchsorted(bounds, value, side="right")) - 1, len(order) - 1)])


def words_of_cell(dataset: xr.Dataset, grid: Grid, row: int, column: int) -> str:
    """What a cell is called: its latitude and longitude, or its row and column with these where they are known."""
    if grid.is_geographic:
        return _degrees(grid.y[row], grid.x[column])
    own = ", ".join(
        f"{name.replace('_', ' ')} {values[at]:g}{_units(dataset, name)}"
        for name, values, at in ((grid.y_name, grid.y, row), (grid.x_name, grid.x, column))
    )
    latitude, longitude = (
        degrees_of(dataset, name, axis) for name, axis in ((grid.y_name, "latitude"), (grid.x_name, "longitude"))
    )
    if latitude is None or longitude is None:
        return own
    return f"{own} ({_degrees(float(latitude[row]), float(longitude[column]), 3)})"


def _degrees(latitude: float, longitude: float, decimals: int = 4) -> str:
    x = round((longitude + 180) % 360 - 180, decimals)
    return f"{show_degrees(round(latitude, decimals), 'NS')}, {show_degrees(x, 'EW')}"


def _units(dataset: xr.Dataset, dim: str) -> str:
    units = given_units(dataset[dim]) if dim in dataset.coords else "1"
    return "" if units == "1" else f" {units}"
