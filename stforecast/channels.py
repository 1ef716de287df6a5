"""The variables and levels of a series as the network's channels, in a fixed order."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.grid import find_dims, level_dim

Frames = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Variable:
    """One variable of a series, as a model knows it.

    Attributes:
        name: its name in the series.
        units: its physical units.
        levels: its levels in the series' own order; empty for a variable without levels.
        level_units: the units of the levels; empty where they are not stated.
        attrs: its other attributes that a forecast keeps, plain values only.
    """

    name: str
    units: str
    levels: tuple[float, ...]
    level_units: str
    attrs: Mapping[str, str | int | float]

    @property
    def channels(self) -> int:
        """How many channels it takes."""
        return max(len(self.levels), 1)

    @property
    def limits(self) -> tuple[float, float]:
        """CF's valid_min and valid_max, infinite where they are not stated."""
        return float(self.attrs.get("valid_min", -np.inf)), float(self.attrs.get("valid_max", np.inf))


@dataclass(frozen=True)
class Channels:
    """The variables of a model, each with its levels, in the order of its channels.

    Attributes:
        variables: in order.
    """

    variables: tuple[Variable, ...]

    @classmethod
    def of(cls, series: xr.Dataset) -> "Channels":
        """The channels of a series, in the order of its variables."""
        return cls(tuple(_variable(series, name) for name in series.data_vars))

    def __len__(self) -> int:
        return sum(variable.channels for variable in self.variables)

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names, in order."""
        return tuple(variable.name for variable in self.variables)

    def stack(self, series: xr.Dataset) -> Frames:
        """The values of a series of these channels as frames (time, channel, y, x), float32; loads them."""
        time, y, x = find_dims(series, "T", "Y", "X")
        blocks = []
        for item in self.variables:
            values = series[item.name].transpose(time, ..., y, x).to_numpy().astype(np.float32, copy=False)
            blocks.append(values if item.levels else values[:, None])
        return np.concatenate(blocks, axis=1)

    def unstack(self, frames: npt.NDArray[Any], *, axis: int) -> Iterable[tuple[Variable, npt.NDArray[Any]]]:
        """Each variable with its values out of frames, (…, [level,] …) where the channels were along `axis`."""
        first = 0
        for item in self.variables:
            values = np.take(frames, range(first, first + item.channels), axis=axis)
            first += item.channels
            yield item, values if item.levels else values.squeeze(axis)


def _variable(series: xr.Dataset, name: Hashable) -> Variable:
    variable, level = series[name], level_dim(series, name)
    kept = {
        str(key): value.item() if isinstance(value, np.generic) else value
        for key, value in variable.attrs.items()
        if key in ("long_name", "standard_name", "valid_min", "valid_max", "cell_methods")
    }
    levels = tuple(float(value) for value in series[level].to_numpy()) if level is not None else ()
    level_units = str(series[level].attrs.get("units", "")) if level is not None else ""
    return Variable(str(name), str(variable.attrs["units"]), levels, level_units, kept)
