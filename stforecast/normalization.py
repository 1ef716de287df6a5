"""Location and scale of each variable and level: fitted on the training period, applied, and inverted."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from stforecast.errors import ErrorKind, StforecastError

Values = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of one variable, per level; merged without loss (Chan et al. 1979).

    Attributes:
        count: how many values went in, per level.
        mean: their mean, () or (level,), float64.
        squares: the sum of their squared deviations from the mean, like `mean`.
    """

    count: int
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, values: Values) -> "Moments":
        """The moments of a block (time, [level,] y, x), in float64 whatever its dtype; NaN propagates."""
        over = (0, values.ndim - 2, values.ndim - 1)
        exact = values.astype(np.float64)
        mean = exact.mean(axis=over, keepdims=True)
        squares = np.square(exact - mean).sum(axis=over)
        return cls(values.size // max(mean.size, 1), mean.squeeze(over), np.asarray(squares))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both blocks together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + np.square(apart) * (self.count * other.count / count),
        )

    @property
    def standard_deviation(self) -> Floats:
        """The population standard deviation, () or (level,)."""
        return np.asarray(np.sqrt(self.squares / self.count))


@dataclass(frozen=True)
class ZScore:
    """One variable's z-score: (value - location) / scale, per level.

    Attributes:
        location: the mean over the training period, () or (level,), in the variable's units.
        scale: the standard deviation over the training period, likewise.
    """

    location: Floats
    scale: Floats

    @classmethod
    def fit(cls, name: str, moments: Moments) -> "ZScore":
        """The z-score of a variable with these moments.

        Raises:
            StforecastError: CONST, naming the variable, if it does not vary.
        """
        scale = moments.standard_deviation
        # Rounding leaves a constant field of 1e5 Pa a deviation of some 1e-11, not 0.
        if (scale <= 1e-12 * np.maximum(np.abs(moments.mean), 1e-30)).any():
            raise StforecastError(
                ErrorKind.CONST,
                f"variable {name} is constant over the training period and cannot be normalized; leave it out",
            )
        return cls(moments.mean, scale)

    def apply(self, values: Values) -> npt.NDArray[np.float32]:
        """The z-scores, float32, of physical values (time, [level,] y, x)."""
        return ((values - self._spread(self.location)) / self._spread(self.scale)).astype(np.float32)

    def invert(self, values: Values) -> npt.NDArray[np.float32]:
        """The physical values, float32, of z-scores (time, [level,] y, x)."""
        return (values * self._spread(self.scale) + self._spread(self.location)).astype(np.float32)

    @staticmethod
    def _spread(parameter: Floats) -> Floats:
        return parameter[:, None, None] if parameter.ndim else parameter

    def to_attrs(self) -> dict[str, Any]:
        """Plain values for a store's metadata or a checkpoint, as `from_attrs` reads them."""
        return {"method": "z-score", "location": self.location.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> "ZScore":
        """The z-score that `to_attrs` wrote.

        Raises:
            StforecastError: STORE_VERSION if another method, of a newer version, was written.
        """
        if attrs["method"] != "z-score":
            raise StforecastError(
                ErrorKind.STORE_VERSION, f"normalization method {attrs['method']!r} is not known to this version"
            )
        return cls(np.asarray(attrs["location"], np.float64), np.asarray(attrs["scale"], np.float64))


@dataclass(frozen=True)
class Normalization:
    """How each variable of a series was normalized.

    Attributes:
        variables: the z-score of each variable, by name.
    """

    variables: Mapping[str, ZScore]

    def apply(self, series: xr.Dataset) -> xr.Dataset:
        """The series as z-scores with units 1; dask arrays stay lazy."""
        scored = {
            name: _map(score.apply, series[name]).assign_attrs(units="1") for name, score in self.variables.items()
        }
        return series.assign(scored)

    def invert(self, series: xr.Dataset, attrs: Mapping[str, Mapping[str, Any]]) -> xr.Dataset:
        """The z-scored series in physical units; `attrs` are its variables' attributes; dask arrays stay lazy."""
        physical = {}
        for name, score in self.variables.items():
            physical[name] = _map(score.invert, series[name])
            physical[name].attrs = dict(attrs[name])
        return series.assign(physical)

    def to_json(self) -> str:
        """All variables' parameters as JSON, as `from_json` reads them."""
        return json.dumps({name: score.to_attrs() for name, score in self.variables.items()})

    @classmethod
    def from_json(cls, text: str) -> "Normalization":
        """The normalization that `to_json` wrote."""
        return cls({name: ZScore.from_attrs(attrs) for name, attrs in json.loads(text).items()})


def _map(function: Callable[[Values], Values], variable: xr.DataArray) -> xr.DataArray:
    mapped: xr.DataArray = xr.apply_ufunc(
        function, variable, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True
    )
    return mapped
