"""Where and when scores are told apart: regions of the grid, seasons and hours of the valid times."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import COORDINATE_TOLERANCE, Grid
from stforecast.time_axis import Times

Region = tuple[slice, slice] | xr.DataArray
Mask = npt.NDArray[np.bool_]

SEASONS = ("DJF", "MAM", "JJA", "SON")


def region_masks(forecast: xr.Dataset, regions: Mapping[str, Region]) -> dict[str, Mask]:
    """Which cells of a forecast's grid are in each region, (y, x) in its order.

    Args:
        forecast: any Dataset with a grid.
        regions: by name either slices of Y and X labels, ends included, from south to north and from west to east (a
            slice of longitudes may go across 0 or 180 degrees, and any end may be left open), or a mask (Y, X) of
            booleans with the grid's labels in any order.

    Raises:
        StforecastError: EMPTY_SELECTION for a region without cells, naming the grid; GRID_SHAPE for a mask of another
            grid; ARGUMENT for what is neither.

    Examples:
        >>> grid = xr.Dataset(coords={"lat": [50.0, 40.0], "lon": [-10.0, 0.0, 10.0]})
        >>> region_masks(grid, {"north-west": (slice(45, None), slice(340, 5))})["north-west"]
        array([[ True,  True, False],
               [False, False, False]])
    """
    grid = Grid.of(forecast)
    masks = {}
    for name, region in regions.items():
        if isinstance(region, xr.DataArray) and region.dtype == bool:
            masks[name] = _given(region, grid, name)
        elif isinstance(region, tuple) and len(region) == 2 and all(isinstance(one, slice) for one in region):
            masks[name] = _between(grid.y, region[0], None)[:, None] & _between(
                grid.x, region[1], 360.0 if grid.is_geographic else None
            )
        else:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"region {name} must be two slices, as (slice(30, 60), slice(350, 20)), or a mask of booleans (Y, X), "
                f"not {type(region).__name__}",
            )
        if not masks[name].any():
            raise StforecastError(ErrorKind.EMPTY_SELECTION, f"region {name} has no cell of the grid {grid}")
    return masks


def _given(mask: xr.DataArray, grid: Grid, name: str) -> Mask:
    found = Grid.of(mask.to_dataset(name="mask"))
    try:
        rows, columns = grid.positions_in(found)
    except StforecastError as error:
        raise StforecastError(error.kind, f"the mask of region {name}: {error}") from error
    given: Mask = mask.transpose(found.y_name, found.x_name).to_numpy()
    return given[np.ix_(rows, columns)]


def _between(labels: npt.NDArray[np.float64], bounds: slice, period: float | None) -> Mask:
    """Which labels lie in a slice; periodic ones from its start eastwards to its end."""
    room = COORDINATE_TOLERANCE * (float(np.abs(np.diff(labels)).min()) if len(labels) > 1 else 1.0)
    if period is None or bounds.start is None or bounds.stop is None:
        low, high = (None if end is None else float(end) for end in (bounds.start, bounds.stop))
        if low is not None and high is not None and low > high:
            low, high = high, low
        above = np.ones(len(labels), bool) if low is None else labels >= low - room
        return above & (np.ones(len(labels), bool) if high is None else labels <= high + room)
    width = float(bounds.stop) - float(bounds.start)
    if abs(width) < period:
        width %= period
    # What lies a rounding error west of the start is no whole circle east of it.
    apart = (labels - float(bounds.start) + room) % period - room
    inside: Mask = apart <= width + room
    return inside


@dataclass(frozen=True)
class Groups:
    """Groups of valid times.

    Attributes:
        labels: of each dimension that scores get, its labels in order.
        number: the group of each init and lead time, (init_time, lead_time): its position with the last dimension
            running fastest.
    """

    labels: dict[str, list[Any]]
    number: npt.NDArray[np.intp]

    @classmethod
    def of(cls, valid: Times, by: Sequence[str]) -> "Groups":
        """Groups of valid times (init_time, lead_time) by season or hour, on the clock of the axis.

        Raises:
            StforecastError: ARGUMENT for other words, or one that is there twice.
        """
        by = (by,) if isinstance(by, str) else tuple(by)
        if not set(by) <= set(_KEYS) or len(set(by)) < len(by):
            raise StforecastError(
                ErrorKind.ARGUMENT, f"scores are told apart by {' or '.join(_KEYS)}, each once, not by {list(by)}"
            )
        labels, number = {}, np.zeros(valid.shape, np.intp)
        for name in by:
            position, labels[name] = _KEYS[name](valid)
            number = number * len(labels[name]) + position
        return cls(labels, number)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many labels each dimension has."""
        return tuple(len(labels) for labels in self.labels.values())

    @property
    def count(self) -> int:
        """How many groups there are, at least one."""
        return int(np.prod(self.shape, dtype=np.intp))


def _season(valid: Times) -> tuple[npt.NDArray[np.intp], list[Any]]:
    month = valid.astype("datetime64[M]").astype(np.int64) % 12
    return ((month + 1) % 12 // 3).astype(np.intp), list(SEASONS)


def _hour(valid: Times) -> tuple[npt.NDArray[np.intp], list[Any]]:
    hours, position = np.unique(valid.astype("datetime64[h]").astype(np.int64) % 24, return_inverse=True)
    return position.reshape(valid.shape), hours.tolist()


_KEYS: dict[str, Callable[[Times], tuple[npt.NDArray[np.intp], list[Any]]]] = {"season": _season, "hour": _hour}
