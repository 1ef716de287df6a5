"""Metrics: what each adds up over a block of init times, and what the sums come to."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.ndimage import gaussian_filter
from scores.continuous import additive_bias, mae, mse

from stforecast.errors import ErrorKind, StforecastError
from stforecast.grid import axis_of

METRICS = ("bias", "mae", "rmse")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """One variable of a block of init times: what all sources are scored on.

    Attributes:
        observed: the truth, (init_time, lead_time, [level,] Y, X), float64.
        common: where truth and all sources have a value, likewise.
        weights: the cells' areas, 0 outside of each region, (region, Y, X).
        climatology: the mean cycle at the valid times, like `observed`, where a metric wants it.
    """

    observed: xr.DataArray
    common: xr.DataArray
    weights: xr.DataArray
    climatology: xr.DataArray | None = None

    @cached_property
    def kept(self) -> list[Hashable]:
        """The dimensions that scores keep: init_time, lead_time and the level if there is one."""
        dataset = self.common.to_dataset(name="common")
        return [dim for dim in self.common.dims if dim in ("init_time", "lead_time") or axis_of(dataset, dim) == "Z"]

    @cached_property
    def cells(self) -> list[Hashable]:
        """The two dimensions of the grid."""
        return [dim for dim in self.common.dims if dim not in self.kept]

    @cached_property
    def area(self) -> Floats:
        """The area that is in common, (region, init_time, lead_time[, level])."""
        return self.total(self.common.astype(np.float64))

    @cached_property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Which cells are in each region, (region, y, x)."""
        inside: npt.NDArray[np.bool_] = self.weights.transpose("region", *self.cells).to_numpy() > 0
        return inside

    @cached_property
    def is_whole(self) -> npt.NDArray[np.bool_]:
        """Which frames have no cell that is missing, in a region or outside, (init_time, lead_time[, level])."""
        whole: npt.NDArray[np.bool_] = self.common.all(self.cells).transpose(*self.kept).to_numpy()
        return whole

    def total(self, values: xr.DataArray) -> Floats:
        """The sum of values over each region's cells, weighted by area, (region, init_time, lead_time[, level])."""
        return self.by_region(xr.dot(values, self.weights, dim=self.cells))

    def by_region(self, values: xr.DataArray) -> Floats:
        """Values as an array (region, init_time, lead_time[, level])."""
        ordered: Floats = values.transpose("region", *self.kept).to_numpy()
        return ordered

    def frames(self, values: xr.DataArray) -> npt.NDArray[Any]:
        """Values as an array (init_time, lead_time, [level,] y, x)."""
        return values.transpose(*self.kept, *self.cells).to_numpy()


Parts = tuple[Floats, Floats]


class Metric(Protocol):
    """A score that is made of sums over init times, so that blocks of them combine.

    Attributes:
        perfect: what a perfect forecast scores, None if no skill can be told from it.
        wants_climatology: whether anomalies are scored.
    """

    perfect: ClassVar[float | None]
    wants_climatology: ClassVar[bool]

    @property
    def label(self) -> str:
        """What the metric is called along the dimension `metric`."""
        ...

    @property
    def note(self) -> str:
        """What has to be known of it, for the scores' attributes; nothing for the plain ones."""
        ...

    def units(self, units: str) -> str:
        """The units of the score of a variable in some units."""
        ...

    def check(self, shape: tuple[int, int]) -> None:
        """Refuse a grid of a shape (y, x) that the metric is not defined on."""
        ...

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """Sums and weights of each frame, (region, init_time, lead_time[, level]); the score is the sums' quotient.

        Args:
            source: a forecast where it is in the common sample, NaN elsewhere, (init_time, lead_time, [level,] Y, X).
            sample: truth, sample and weights.
        """
        ...

    def score(self, mean: Floats) -> Floats:
        """The score that follows from the quotient of the sums."""
        ...


@dataclass(frozen=True)
class _Plain:
    """What metrics have in common unless they say otherwise."""

    perfect: ClassVar[float | None] = 0.0
    wants_climatology: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return type(self).__name__.lower()

    @property
    def note(self) -> str:
        return ""

    def units(self, units: str) -> str:
        return units

    def check(self, shape: tuple[int, int]) -> None:
        pass

    def score(self, mean: Floats) -> Floats:
        return mean


def _mean(function: Callable[..., xr.DataArray], source: xr.DataArray, sample: Sample) -> Parts:
    """The area-weighted mean of one of the package scores' errors, as a sum."""
    found = function(source, sample.observed, preserve_dims=sample.kept, weights=sample.weights)
    return np.nan_to_num(sample.by_region(found)) * sample.area, sample.area


def _over_regions(values: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """Sums over the cells of each region, (region, …), of values (…, y, x)."""
    sums: Floats = np.moveaxis(np.tensordot(values, inside.astype(np.float64), axes=([-2, -1], [1, 2])), -1, 0)
    return sums


@dataclass(frozen=True)
class Bias(_Plain):
    """The mean of forecast minus truth."""

    perfect: ClassVar[float | None] = None

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        return _mean(additive_bias, source, sample)


@dataclass(frozen=True)
class MAE(_Plain):
    """The mean absolute error."""

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        return _mean(mae, source, sample)


@dataclass(frozen=True)
class RMSE(_Plain):
    """The root mean square error; the root is taken last, after the mean over cells and init times."""

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        return _mean(mse, source, sample)

    def score(self, mean: Floats) -> Floats:
        """See `Metric.score`."""
        return np.sqrt(mean)


@dataclass(frozen=True)
class ACC(_Plain):
    """Anomaly correlation: that of departures from the climatology, over the cells of a frame, averaged over frames.

    Anomalies are not centred: Σ w f' o' / √(Σ w f'² · Σ w o'²) with f' = forecast - climatology and w the cells' areas,
    as in WeatherBench 2 (doi:10.1029/2023MS004019). A frame whose anomalies are all smaller than float32 resolves, such
    as one of the climatology itself, has no part. The package scores has no correlation with weights.
    """

    perfect: ClassVar[float | None] = 1.0
    wants_climatology: ClassVar[bool] = True

    @property
    def note(self) -> str:
        """See `Metric.note`."""
        return "not centred, of each frame, then the mean; anomalies from the harmonic climatology of the training part"

    def units(self, units: str) -> str:  # noqa: ARG002
        """See `Metric.units`."""
        return "1"

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        assert sample.climatology is not None
        kept = sample.common & sample.climatology.notnull()
        cycle = sample.climatology.where(kept, 0.0)
        forecast, observed = (some.where(kept, 0.0) - cycle for some in (source, sample.observed))
        squares = [sample.total(some**2) for some in (forecast, observed)]
        smallest = _ROUNDING**2 * sample.total(cycle**2)
        is_defined = (squares[0] > smallest) & (squares[1] > smallest)
        spread = np.sqrt(squares[0] * squares[1], out=np.ones_like(smallest), where=is_defined)
        return np.where(is_defined, sample.total(forecast * observed) / spread, 0.0), is_defined.astype(np.float64)


_ROUNDING = 1e-6  # relative; some ten times what a float32 is off


@dataclass(frozen=True)
class MAPE(_Plain):
    """The mean absolute percentage error of the cells in which at least so much is observed.

    Few trips in a cell make any error a large percentage, so published scores of traffic leave such cells out: LibCity
    (doi:10.1145/3474717.3483923) those with none, others those with fewer than 10.

    Attributes:
        above: the least truth that counts, above 0.
    """

    above: float = 1.0

    def __post_init__(self) -> None:
        if not self.above > 0:
            raise StforecastError(
                ErrorKind.ARGUMENT,
                f"mape is of cells with a truth above 0, not {self.above:g}; name a count, 'mape:10'",
            )

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return "mape" if self.above == 1 else f"mape:{self.above:g}"

    @property
    def note(self) -> str:
        """See `Metric.note`."""
        return f"of cells with a truth of {self.above:g} or more"

    def units(self, units: str) -> str:  # noqa: ARG002
        """See `Metric.units`."""
        return "%"

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        counts = sample.common & (sample.observed >= self.above)
        truth = sample.observed.where(counts, 1.0)
        share = abs(source - truth).where(counts, 0.0) / truth
        return 100 * sample.total(share), sample.total(counts.astype(np.float64))


@dataclass(frozen=True)
class PSNR(_Plain):
    """The peak signal-to-noise ratio of each frame in dB, 10 log₁₀(range² / mean square error), averaged over frames.

    Cells count alike; a frame without error makes it infinite.

    Attributes:
        data_range: the difference between the largest and the smallest value that can be.
    """

    data_range: float
    perfect: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        _check_range("psnr", self.data_range)

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return f"psnr:{self.data_range:g}"

    @property
    def note(self) -> str:
        """See `Metric.note`."""
        return f"of each frame, cells alike, data range {self.data_range:g}"

    def units(self, units: str) -> str:  # noqa: ARG002
        """See `Metric.units`."""
        return "dB"

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        error = np.nan_to_num(sample.frames(source - sample.observed))
        number = _over_regions(sample.frames(sample.common).astype(np.float64), sample.inside)
        sums = _over_regions(np.square(error), sample.inside)
        square = np.divide(sums, number, out=np.ones_like(number), where=number > 0)
        with np.errstate(divide="ignore"):
            ratio = 10 * np.log10(self.data_range**2 / square)
        return np.where(number > 0, ratio, 0.0), (number > 0).astype(np.float64)


@dataclass(frozen=True)
class SSIM(_Plain):
    """The structural similarity of frames (Wang et al. 2004, doi:10.1109/TIP.2003.819861), averaged over frames.

    With the paper's Gaussian window of 11 x 11 cells and a standard deviation of 1.5, population covariances, K₁ = 0.01
    and K₂ = 0.03; over the windows that lie in the grid and have their centre in the region. Cells count alike. A frame
    with a cell that is missing has no part.

    Attributes:
        data_range: the difference between the largest and the smallest value that can be.
    """

    data_range: float
    perfect: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        _check_range("ssim", self.data_range)

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return f"ssim:{self.data_range:g}"

    @property
    def note(self) -> str:
        """See `Metric.note`."""
        return f"of each frame, Gaussian window of 11x11 cells, data range {self.data_range:g}"

    def units(self, units: str) -> str:  # noqa: ARG002
        """See `Metric.units`."""
        return "1"

    def check(self, shape: tuple[int, int]) -> None:
        """See `Metric.check`."""
        _check_window("ssim", 2 * _RADIUS + 1, shape)

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        x, y = (np.nan_to_num(sample.frames(some)) for some in (source, sample.observed))
        mean_x, mean_y = _smooth(x), _smooth(y)
        variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
        covariance = _smooth(x * y) - mean_x * mean_y
        first, second = (0.01 * self.data_range) ** 2, (0.03 * self.data_range) ** 2
        likeness = (2 * mean_x * mean_y + first) * (2 * covariance + second)
        likeness /= (mean_x**2 + mean_y**2 + first) * (variance_x + variance_y + second)
        inside = sample.inside[:, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
        number = inside.sum(axis=(1, 2)).reshape(-1, *(1,) * sample.is_whole.ndim)
        counts = (sample.is_whole & (number > 0)).astype(np.float64)
        return counts * _over_regions(likeness, inside) / np.maximum(number, 1), counts


_RADIUS = 5


def _smooth(values: Floats) -> Floats:
    """Gaussian means of windows that lie in the grid, (..., y - 10, x - 10)."""
    smooth: Floats = gaussian_filter(values, sigma=1.5, radius=_RADIUS, axes=(-2, -1))
    return smooth[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


@dataclass(frozen=True)
class FSS(_Plain):
    """The fractions skill score of exceedance (Roberts and Lean 2008, doi:10.1175/2007MWR2123.1).

    1 - Σ (F - O)² / (Σ F² + Σ O²) with F and O the fractions of cells above the threshold in each window of cells, over
    all windows in the grid and all frames, so that frames without an event do not count. It is what
    `scores.spatial.fss_2d` gives for all frames at once; that gives the quotient alone, and quotients of blocks do not
    combine. Windows belong to the region that their middle lies in. A frame with a cell that is missing has no part.

    Attributes:
        threshold: values above it are events.
        window: the windows' sides in cells.
    """

    threshold: float
    window: int
    perfect: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        if self.window < 1:
            raise StforecastError(ErrorKind.ARGUMENT, f"the windows of fss have at least 1 cell, not {self.window}")

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return f"fss:{self.threshold:g}:{self.window}"

    @property
    def note(self) -> str:
        """See `Metric.note`."""
        return f"of values above {self.threshold:g} in windows of {self.window}x{self.window} cells"

    def units(self, units: str) -> str:  # noqa: ARG002
        """See `Metric.units`."""
        return "1"

    def check(self, shape: tuple[int, int]) -> None:
        """See `Metric.check`."""
        _check_window("fss", self.window, shape)

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        forecast, observed = (self._fractions(sample.frames(some)) for some in (source, sample.observed))
        before = (self.window - 1) // 2
        rows, columns = forecast.shape[-2:]
        inside = sample.inside[:, before : before + rows, before : before + columns]
        worst = sample.is_whole * _over_regions(forecast**2 + observed**2, inside)
        return worst - sample.is_whole * _over_regions((forecast - observed) ** 2, inside), worst

    def _fractions(self, values: Floats) -> Floats:
        """The share of events in each window that lies in the grid."""
        sums = (values > self.threshold).astype(np.float64)
        for axis in (-2, -1):
            sums = np.lib.stride_tricks.sliding_window_view(sums, self.window, axis=axis).sum(axis=-1)
        return sums / self.window**2


@dataclass(frozen=True)
class _FrameSum(_Plain):
    """The published sums of OpenSTL: errors of a frame added up over its cells, averaged over frames that are whole."""

    power: ClassVar[int] = 1

    @property
    def note(self) -> str:
        return "the sum over a frame's cells, averaged over frames without missing cells"

    def parts(self, source: xr.DataArray, sample: Sample) -> Parts:
        """See `Metric.parts`."""
        error = np.nan_to_num(sample.frames(source - sample.observed))
        sums = np.stack([frame_sums(error * inside, self.power) for inside in sample.inside])
        counts = np.broadcast_to(sample.is_whole, sums.shape)
        return np.where(counts, sums, 0.0), counts.astype(np.float64)


@dataclass(frozen=True)
class SummedMSE(_FrameSum):
    """The mean over frames of the sum of a frame's square errors, which OpenSTL calls mse."""

    power: ClassVar[int] = 2

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return "mse"

    def units(self, units: str) -> str:
        """See `Metric.units`."""
        return "1" if units == "1" else f"({units})2"


@dataclass(frozen=True)
class SummedMAE(_FrameSum):
    """The mean over frames of the sum of a frame's absolute errors, which OpenSTL calls mae."""

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return "mae"


def frame_sums(error: Floats, power: int) -> Floats:
    """Sums of `|error| ** power` over the last two axes, the cells of a frame.

    Added over channels and averaged over frames they are the mse (power 2) and the mae (1) that OpenSTL publishes
    (`openstl/core/metrics.py`; arXiv:2306.11249): they grow with the grid and with the number of channels.

    >>> frame_sums(np.array([[[1.0, -2.0], [0.0, 3.0]]]), 2)
    array([14.])
    """
    sums: Floats = (np.abs(error) ** power).sum(axis=(-2, -1))
    return sums


def _check_range(name: str, data_range: float) -> None:
    if not (np.isfinite(data_range) and data_range > 0):
        raise StforecastError(ErrorKind.ARGUMENT, f"the data range of {name} must be above 0, not {data_range}")


def _check_window(name: str, window: int, shape: tuple[int, int]) -> None:
    if window > min(shape):
        raise StforecastError(
            ErrorKind.ARGUMENT,
            f"{name} looks at windows of {window}x{window} cells but the grid has {shape[0]}x{shape[1]}; "
            "take smaller windows or another metric",
        )


@dataclass(frozen=True)
class _Named:
    """A metric by its name, with the numbers that follow it after colons."""

    make: Callable[..., Metric]
    numbers: tuple[str, ...] = ()
    optional: bool = False
    kinds: tuple[Callable[[str], float], ...] = field(default=())


_NAMED = {
    "bias": _Named(Bias),
    "mae": _Named(MAE),
    "rmse": _Named(RMSE),
    "acc": _Named(ACC),
    "mape": _Named(MAPE, ("10",), optional=True, kinds=(float,)),
    "psnr": _Named(PSNR, ("60",), kinds=(float,)),
    "ssim": _Named(SSIM, ("60",), kinds=(float,)),
    "fss": _Named(FSS, ("300", "3"), kinds=(float, int)),
}
_FORMS = ", ".join(
    f"{name}[:{':'.join(one.numbers)}]" if one.optional else ":".join((name, *one.numbers))
    for name, one in _NAMED.items()
)


def metric_of(name: str) -> Metric:
    """A metric by name, with its numbers after colons: the least truth of mape, a data range, a threshold and a window.

    >>> metric_of("fss:300:3")
    FSS(threshold=300.0, window=3)

    Raises:
        StforecastError: ARGUMENT for a name or numbers that mean nothing.
    """
    word, *given = name.split(":")
    known = _NAMED.get(word)
    if known is None or not (len(given) == len(known.numbers) or (known.optional and not given)):
        raise StforecastError(ErrorKind.ARGUMENT, f"unknown metric {name!r}; there are, with numbers as such, {_FORMS}")
    try:
        numbers = [kind(text) for kind, text in zip(known.kinds, given, strict=False)]
    except ValueError as error:
        raise StforecastError(
            ErrorKind.ARGUMENT, f"{name!r} has no number after a colon; {_FORMS} are known"
        ) from error
    return known.make(*numbers)


def metrics_of(names: Sequence[str | Metric] | str) -> list[Metric]:
    """Metrics by name or as they are, each once.

    Raises:
        StforecastError: ARGUMENT for an unknown name, for none at all, or for one that is there twice.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    found = [metric_of(name) if isinstance(name, str) else name for name in names]
    labels = [metric.label for metric in found]
    if not labels or len(set(labels)) < len(labels):
        raise StforecastError(ErrorKind.ARGUMENT, f"wanted one or more metrics, each once, not {labels}")
    return found


def units_of(label: str, units: str) -> str:
    """The units of a metric's scores, by its label and the variable's units.

    >>> units_of("rmse", "K"), units_of("acc", "K"), units_of("mse", "K")
    ('K', '1', '(K)2')
    """
    if label == SummedMSE().label:
        return SummedMSE().units(units)
    return metric_of(label).units(units) if label.split(":")[0] in _NAMED else units
