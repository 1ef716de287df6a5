"""How each variable and level is normalized: fitted on the training period, applied, and inverted."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import find_dims
from stforecast.units import canonical_units

Values = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

METHODS = ("z-score", "min-max", "log1p", "tendency")

# Frames are normalized some at a time: a float64 copy of a whole shard would double the memory that a task takes.
_BLOCK_VALUES = 2**18


@dataclass(frozen=True)
class Moments:
    """What is known of the values of one variable, per level; merged without loss of precision.

    Means and squared deviations are merged as Chan, Golub and LeVeque do it (1983, doi 10.1080/00031305.1983.10483115).

    Attributes:
        count: how many values went in, per level.
        mean: their mean, () or (level,), float64.
        squares: the sum of their squared deviations from the mean, like `mean`.
        minimum: the least of them, like `mean`.
        maximum: the greatest of them, like `mean`.
    """

    count: int
    mean: Floats
    squares: Floats
    minimum: Floats
    maximum: Floats

    @classmethod
    def of(cls, values: Values) -> "Moments":
        """The moments of a block (time, [level,] y, x) of at least one frame, in float64; NaN propagates."""
        first, *rest = (cls._of_frames(frames) for frames in _frames_at_a_time(values))
        for block in rest:
            first = first.merge(block)
        return first

    @classmethod
    def _of_frames(cls, values: Values) -> "Moments":
        over = (0, values.ndim - 2, values.ndim - 1)
        exact = values.astype(np.float64)
        mean = exact.mean(axis=over, keepdims=True)
        minimum, maximum = exact.min(axis=over), exact.max(axis=over)
        exact -= mean
        squares = np.asarray(np.square(exact, out=exact).sum(axis=over))
        return cls(values.size // mean.size, mean.squeeze(over), squares, np.asarray(minimum), np.asarray(maximum))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both blocks together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + np.square(apart) * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    @property
    def standard_deviation(self) -> Floats:
        """The population standard deviation, () or (level,)."""
        return np.asarray(np.sqrt(self.squares / self.count))

    def to_attrs(self) -> dict[str, Any]:
        """Plain values that `from_attrs` reads back to the last bit."""
        fields = ("mean", "squares", "minimum", "maximum")
        return {"count": self.count} | {name: getattr(self, name).tolist() for name in fields}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> "Moments":
        """The moments that `to_attrs` wrote."""
        fields = ("mean", "squares", "minimum", "maximum")
        return cls(attrs["count"], *(np.asarray(attrs[name], np.float64) for name in fields))


def observed(method: str, values: Values) -> Values:
    """What a method's moments are taken of: the logarithm of 1 + values for log1p, else the values themselves."""
    return np.log1p(values, dtype=np.float64) if method == "log1p" else values


@dataclass(frozen=True)
class Scaling:
    """How one variable is normalized: (observed(value) - location) / scale, per level.

    z-score has mean and standard deviation, min-max the minimum and the range, log1p mean and standard deviation of
    log(1 + value), for counts and precipitation; tendency the mean and the standard deviation of the change from one
    frame to the next, so that a step of the network's output is of order one.

    Attributes:
        method: one of METHODS.
        location: over the training period, () or (level,), in the variable's units (log1p: in logarithms).
        scale: likewise.
        units: the units of the physical values.
    """

    method: str
    location: Floats
    scale: Floats
    units: str

    @classmethod
    def fit(cls, name: str, method: str, units: str, values: Moments, changes: Moments | None = None) -> "Scaling":
        """The scaling of a variable whose observed values have these moments.

        Args:
            name: the variable, for messages.
            method: one of METHODS.
            units: of the variable.
            values: moments of `observed` values over the training period.
            changes: tendency: moments of the changes over one step.

        Raises:
            StforecastError: CONST, naming the variable, if it does not vary; TIME_SHORT for a tendency without changes.
        """
        location, scale = values.mean, values.standard_deviation
        if method == "min-max":
            location, scale = values.minimum, values.maximum - values.minimum
        elif method == "tendency":
            if changes is None:
                raise StforecastError(
                    ErrorKind.TIME_SHORT,
                    f"variable {name} has no two frames one step apart in the training period, so no tendency; choose "
                    "another method",
                )
            scale = np.asarray(np.sqrt(changes.squares / changes.count + np.square(changes.mean)))
        # Rounding leaves a constant field of 1e5 Pa a deviation of some 1e-11, not 0.
        if (scale <= 1e-12 * np.maximum(np.abs(values.mean), 1e-30)).any():
            raise StforecastError(
                ErrorKind.CONST,
                f"variable {name} is constant over the training period and cannot be normalized; leave it out",
            )
        return cls(method, location, scale, units)

    def apply(self, values: Values) -> npt.NDArray[np.float32]:
        """The normalized values, float32, of physical values (time, [level,] y, x); NaN stays NaN."""
        return self._mapped(
            values,
            lambda frames: (observed(self.method, frames) - self._spread(self.location)) / self._spread(self.scale),
        )

    def invert(self, values: Values) -> npt.NDArray[np.float32]:
        """The physical values, float32, of normalized values (…, [level,] y, x); NaN stays NaN."""

        def physical(frames: Values) -> Values:
            known: Values = frames * self._spread(self.scale) + self._spread(self.location)
            return np.expm1(known) if self.method == "log1p" else known

        return self._mapped(values, physical)

    @staticmethod
    def _mapped(values: Values, function: Callable[[Values], Values]) -> npt.NDArray[np.float32]:
        mapped = np.empty(values.shape, np.float32)
        first = 0
        for frames in _frames_at_a_time(values):
            mapped[first : first + len(frames)] = function(frames)
            first += len(frames)
        return mapped

    @staticmethod
    def _spread(parameter: Floats) -> Floats:
        return parameter[:, None, None] if parameter.ndim else parameter

    def to_attrs(self) -> dict[str, Any]:
        """Plain values for a store's metadata or a checkpoint, as `from_attrs` reads them."""
        parameters = {"location": self.location.tolist(), "scale": self.scale.tolist()}
        return {"method": self.method, "units": self.units} | parameters

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> "Scaling":
        """The scaling that `to_attrs` wrote.

        Raises:
            StforecastError: STORE_VERSION if another method, of a newer version, was written.
        """
        if attrs["method"] not in METHODS:
            raise StforecastError(
                ErrorKind.STORE_VERSION, f"normalization method {attrs['method']!r} is not known to this version"
            )
        location, scale = (np.asarray(attrs[name], np.float64) for name in ("location", "scale"))
        return cls(attrs["method"], location, scale, attrs["units"])


def _frames_at_a_time(values: Values) -> list[Values]:
    """Views of some frames of values (time, …), together all of them."""
    length = max(_BLOCK_VALUES // max(values[:1].size, 1), 1)
    return [values[row : row + length] for row in range(0, len(values), length)]


@dataclass(frozen=True)
class Normalization:
    """How each variable of a series was normalized.

    Attributes:
        variables: the scaling of each variable, by name.
    """

    variables: Mapping[str, Scaling]

    @classmethod
    def of(cls, training: xr.Dataset) -> "Normalization":
        """The z-scores of a training part in memory, (time, [level,] Y, X), finite; `prepare` has other methods.

        Raises:
            StforecastError: CONST, naming the variable, if one does not vary.
        """
        time, y, x = find_dims(training, "T", "Y", "X")
        moments = {
            str(name): Moments.of(variable.transpose(time, ..., y, x).to_numpy())
            for name, variable in training.data_vars.items()
        }
        units = {str(name): str(variable.attrs["units"]) for name, variable in training.data_vars.items()}
        return cls({name: Scaling.fit(name, "z-score", units[name], some) for name, some in moments.items()})

    def apply(self, series: xr.Dataset) -> xr.Dataset:
        """The normalized series with units 1, its variables (time, [level,] Y, X); dask arrays stay lazy.

        Raises:
            StforecastError: UNITS, naming the variable, if it is not in the units of its statistics.
        """
        time, y, x = find_dims(series, "T", "Y", "X")
        scaled = {}
        for name, scaling in self.variables.items():
            units = series[name].attrs.get("units")
            if canonical_units(units) != canonical_units(scaling.units):
                raise StforecastError(
                    ErrorKind.UNITS,
                    f"variable {name} is in {units!r} but its statistics are in {scaling.units!r}; convert it first",
                )
            variable = series[name].transpose(time, ..., y, x)
            scaled[name] = _map(scaling.apply, variable).assign_attrs(units="1", normalized=scaling.method)
        return series.assign(scaled)

    def invert(self, series: xr.Dataset, attrs: Mapping[str, Mapping[str, Any]]) -> xr.Dataset:
        """The normalized series in physical units; `attrs` are its variables' attributes; dask arrays stay lazy."""
        physical = {}
        for name, scaling in self.variables.items():
            physical[name] = _map(scaling.invert, series[name])
            physical[name].attrs = dict(attrs[name])
        return series.assign(physical)

    def to_json(self) -> str:
        """All variables' parameters as JSON, as `from_json` reads them."""
        return json.dumps({name: scaling.to_attrs() for name, scaling in self.variables.items()})

    @classmethod
    def from_json(cls, text: str) -> "Normalization":
        """The normalization that `to_json` wrote."""
        return cls({name: Scaling.from_attrs(attrs) for name, attrs in json.loads(text).items()})


def _map(function: Callable[[Values], Values], variable: xr.DataArray) -> xr.DataArray:
    mapped: xr.DataArray = xr.apply_ufunc(
        function, variable, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True
    )
    return mapped
